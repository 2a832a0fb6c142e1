"Blind rankers on embeddings, spelling and trees; rankers that are held out of refinement."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array

from vidneg.audit import page as dossier
from vidneg.audit.blind import RANKERS, Prepared, blind_solvability, folds, logistic_ranker
from vidneg.audit.neural import Remembered, dense_ranker, installed_models
from vidneg.audit.refine import Problem, choose, refine
from vidneg.core.errors import VidnegError
from vidneg.core.packages import find_package
from vidneg.core.seeds import stable_rng
from vidneg.data.pairs import Pair


class Senses:
    "A tiny encoder with random word vectors, except that words which begin with b are close, and those with c."
    name, kind, identity = "senses", "embed", {}

    def embed(self, texts):
        rows = []
        for t in texts:
            words = [stable_rng(0, w).normal(size=12) + 4*np.eye(12)["bc".index(w[0]) if w[0] in "bc" else 11]
                     for w in t.split()]
            rows.append(np.mean(words, axis=0))
        return np.array([r/np.linalg.norm(r) for r in rows], np.float32)


def sense_pairs(n=300, leak=1.0, seed=0):
    "Every sense word occurs once; a share `leak` of the negatives has the other sense than its caption."
    rng, out = stable_rng(seed, "senses"), []
    for k in range(n):
        a, b = ("b", "c") if rng.random() < (1 + leak)/2 else ("c", "b")
        texts = [f"x {w}{k} y{rng.integers(9)}" for w in (a, b)]
        out.append(Pair(str(k), f"clip{k//2}", "kl"[k % 2], *texts))
    return out


def accuracies(table): return table[table.kind == "all"].set_index("scorer").accuracy


def test_only_the_neural_ranker_sees_a_leak_of_synonyms():
    found = accuracies(blind_solvability(sense_pairs(), "all", embedder=Senses()))
    assert found["embeddings"] > .95
    assert found.drop(["embeddings", "spelling"]).between(.38, .62).all() # the first letter is spelling


def test_all_rankers_are_at_chance_on_an_exchangeable_set():
    pairs = sense_pairs(800, leak=0)
    table = blind_solvability(pairs, "all", embedder=Senses())
    assert set(table.scorer) == set(RANKERS) - {"causal LM"}
    assert table[table.kind == "all"].accuracy.between(.44, .56).all()


def test_new_rankers_do_not_depend_on_order_or_batches():
    pairs = sense_pairs(120, leak=.5)
    class OneByOne(Senses):
        def embed(self, texts): return np.concatenate([super(OneByOne, self).embed([t]) for t in texts])
    some = ["embeddings", "spelling", "trees"]
    one = blind_solvability(pairs, some, embedder=Senses())
    other = blind_solvability(pairs[::-1], some, embedder=OneByOne())
    pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("ranker", ["embeddings", "spelling", "trees"])
def test_new_rankers_change_sign_with_the_texts(ranker):
    pairs = sense_pairs(60)
    turned = [p if k < 40 else replace(p, caption=p.negative, negative=p.caption) for k, p in enumerate(pairs)]
    tables = [Prepared(ps, embedder=Senses()) for ps in (pairs, turned)]
    a, b = (RANKERS[ranker](t, np.arange(40), np.arange(40, 60)) for t in tables)
    np.testing.assert_allclose(a, -b, atol=1e-8)


@pytest.mark.parametrize("ranker", ["embeddings", "spelling", "trees", "bag"])
def test_a_clip_that_gives_its_own_pairs_away_is_never_learned(ranker):
    "Within a clip, captions share a topic and negatives another one, drawn anew for each clip."
    rng, pairs = stable_rng(0, "topics"), []
    for c in range(60):
        a, b = (f"b{c}q", f"c{c}q") if rng.random() < .5 else (f"c{c}q", f"b{c}q")
        pairs += [Pair(f"{c}.{k}", f"clip{c}", "k", f"x {a} z{k}", f"x {b} z{k}") for k in range(10)]
    table = Prepared(pairs, embedder=Senses())
    everything = np.arange(len(pairs))
    inside = np.mean(RANKERS[ranker](table, everything, everything) > 0) # fitted on the clips that it judges
    crossed = accuracies(blind_solvability(table, [ranker]))[ranker]
    assert abs(crossed - .5) < .2 and (inside > crossed + .2 or ranker == "trees")
    fold = folds(pairs)
    assert all(len(set(fold[k*10:(k + 1)*10])) == 1 for k in range(60))


def test_a_ranker_without_its_model_says_so_and_empty_texts_have_no_embedding():
    with pytest.raises(VidnegError, match="needs a model: give `embedder`"):
        blind_solvability(sense_pairs(10), ["embeddings"])
    with pytest.raises(VidnegError, match="no blind ranker 'bags'"): blind_solvability(sense_pairs(10), ["bags"])
    odd = [*sense_pairs(10), Pair("e", "e", "k", "", "x b"), Pair("f", "f", "k", "x c", " ")]
    assert len(blind_solvability(odd, "all", embedder=Senses()))


def test_dense_ranker_equals_the_sparse_one():
    X = stable_rng(0, "dense").normal(size=(80, 6)) + .3
    np.testing.assert_allclose(dense_ranker(X, 2.0), logistic_ranker(csr_array(X), 2.0), atol=1e-6)


def test_what_is_not_installed_is_named_once(monkeypatch):
    monkeypatch.setattr("vidneg.audit.neural.find_package", lambda name: None)
    made = dossier.audit_negatives(sense_pairs(120), weights=True)
    text = dossier.dossier_page(made)
    assert text.count("vidneg models get minilm") == text.count("vidneg models get smollm2") == 1
    assert {"spelling", "trees"} <= set(made.tables["Blind solvability"].scorer)


def test_a_refined_set_is_judged_by_rankers_that_refinement_has_not_seen():
    made = dossier.audit_set("a", sense_pairs(300), embedder=Senses(), fitted=("bag", "words"))
    table = made.tables["Blind solvability"]
    assert set(table.scorer[~table.held_out]) == {"bag", "words"}
    said = dossier.verdict(made)
    assert "the best ranker that refinement has not seen, " in said[0] and "reveal" in said[0]
    assert any("was refined with words, bag; the best of these" in s for s in said)
    text = dossier.dossier_page(made)
    rows = text[text.index("<h2>Blind solvability"):]
    assert rows.index("held out") < rows.index("fitted with it") and rows.count("fitted with it") == 2


def test_remembered_models_compute_each_text_once():
    class Counting(Senses):
        asked = 0
        def embed(self, texts):
            Counting.asked += len(texts)
            return super().embed(texts)
    model = Remembered(Counting())
    first, again = model.embed(["x b", "x c"]), model.embed(["x c", "x b", "x c"])
    assert Counting.asked == 2 and (again[[1, 0]] == first).all()


@pytest.mark.skipif(find_package("minilm") is None, reason="all-MiniLM-L6-v2 is not installed")
def test_the_real_encoder_finds_what_words_do_not():
    words = "apple pear plum grape lemon melon peach cherry mango fig banana orange lime kiwi date berry".split()
    tools = "hammer saw drill wrench pliers chisel screwdriver broom ladder file clamp shovel rake nail spanner mallet"
    pairs = [Pair(f"{k}", f"c{k}", "k", f"a person holds a {a}", f"a person holds a {b}")
             for k, (a, b) in enumerate(zip(words, tools.split()))]
    models, _ = installed_models(["embedder"])
    found = accuracies(blind_solvability(pairs, ["bag", "embeddings"], **models))
    assert found["embeddings"] > .9 and found["bag"] <= .5


def sense_pool(n=400, m=4):
    "Candidates whose sense differs from the caption's more often than captions differ from each other."
    rng, out = stable_rng(1, "pool"), []
    def word(share, name): return ("b" if rng.random() < share else "c") + name
    for k in range(n):
        caption = f"x {word(.7, str(k))} y"
        out += [Pair(str(k), f"clip{k//2}", "k", caption, f"x {word(.4, f'{k}.{j}')} y") for j in range(m)]
    return out


def test_refinement_balances_embeddings_for_a_ranker_with_other_projections():
    pool = sense_pool()
    def told(pairs): return accuracies(blind_solvability(pairs, ["embeddings"], embedder=Senses(), seed=2)).item()
    with_it = refine(pool, .7, embedder=Senses(), min_count=5)
    assert told(pool[::4]) > .62 and told(refine(pool, .7, min_count=5)) > .6 # no word occurs twice
    assert abs(told(with_it) - .5) < .09 and .6 < len(with_it)/400 < .8


def test_rankers_without_their_model_in_the_fit_are_held_out():
    pool = sense_pool(40)
    plain, with_it = Problem(pool).tilt.fitted, Problem(pool, embedder=Senses()).tilt.fitted
    assert set(with_it) - set(plain) == {"embeddings"}
    assert {"causal LM", "spelling", "trees"}.isdisjoint(with_it)


def test_a_tilt_with_embeddings_chooses_the_same_for_each_item_alone():
    pool = sense_pool(60)
    problem = Problem(pool, embedder=Senses())
    tilt = problem.fit(.6)
    together = {p.item: p for p in problem.choose()}
    items = {}
    for p in pool: items.setdefault(p.item, []).append(p)
    assert {k: choose(tilt, some) for k, some in items.items()} == {k: together.get(k) for k in items}
