"Refinement: the dual against a general solver, balance, and the accuracy of newly fitted rankers on the kept items."
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.optimize import minimize
from scipy.sparse import csr_array

from vidneg.audit.blind import blind_solvability
from vidneg.audit.refine import Problem, _cells, _choose, balance, best_share, choose, curve, redraw, refine
from vidneg.core.errors import VidnegError
from vidneg.core.records import Caption
from vidneg.core.seeds import stable_rng
from vidneg.data.pairs import Pair
from vidneg.negatives.generate import GENERATORS, make_negatives
from vidneg.text.lexicon import Lexicon

REAL = os.environ.get("VIDNEG_REAL_DATA")
LISTS = {"shape": ("object", "noun", ["man", "woman", "dog", "horse", "tractor", "lizard", "lawyer", "oyster"]),
         "act": ("action", "verb", ["walk", "run", "jump", "sleep", "dance", "sneeze", "hover", "rotate"])}


@pytest.fixture(scope="module")
def pool():
    lexicon, rng = Lexicon.from_lists(LISTS, formal=True), stable_rng(0, "captions")
    share = np.geomspace(1, .05, 8)/np.geomspace(1, .05, 8).sum()
    def say(): return "{} {}s".format(*(rng.choice(w, p=share) for *_, w in LISTS.values()))
    corpus = [Caption(f"c{i}", f"clip{i}", f"a {say()} and {say()} and {say()} and {say()}") for i in range(700)]
    generator = GENERATORS["rules-published"](lexicon)
    first, _ = make_negatives(corpus, generator, seed=1)
    return list(redraw(corpus, first, generator.attempt, 8))


def problem_of(seed, n=30, m=3, d=4):
    rng = stable_rng(seed, "problem")
    return csr_array(rng.integers(-1, 2, (n*m, d)).astype(float)), np.repeat(np.arange(n), m)


@given(st.integers(0, 20), st.sampled_from([.3, .6, .9]))
@settings(max_examples=8)
def test_choice_is_balanced_and_of_the_wanted_size(seed, keep):
    Phi, item = problem_of(seed)
    x = balance(Phi, item, keep, ridge=1e-3)
    q, _ = _choose(x, Phi, np.arange(0, 90, 3), item)
    np.testing.assert_allclose(Phi.T @ q, 1e-3*x[:-1], atol=.02) # the ridge leaves a residual of ρλ
    assert q.sum() == pytest.approx(keep*30, abs=.02)
    assert (np.add.reduceat(q, np.arange(0, 90, 3)) < 1 + 1e-9).all()


@pytest.mark.parametrize("seed", range(4))
def test_balance_is_the_choice_of_greatest_entropy(seed):
    Phi, item = problem_of(seed, n=6, m=3, d=2)
    x = balance(Phi, item, .5, ridge=1e-6)
    q, _ = _choose(x, Phi, np.arange(0, 18, 3), item)
    A = Phi.toarray().T
    def cost(p):
        rest = 1 - p.reshape(6, 3).sum(1)
        return (p*np.log(p)).sum() + (rest*np.log(rest)).sum()
    limits = [{"type": "eq", "fun": lambda p: A @ p}, {"type": "eq", "fun": lambda p: p.sum() - 3},
              {"type": "ineq", "fun": lambda p: 1 - 1e-9 - p.reshape(6, 3).sum(1)}]
    best = minimize(cost, np.full(18, 1/6), bounds=[(1e-9, 1)]*18, constraints=limits, method="SLSQP",
                    options={"ftol": 1e-13, "maxiter": 500})
    np.testing.assert_allclose(q, best.x, atol=2e-3)


def test_cells_change_sign_with_the_texts():
    v, edges = np.array([-2., 0, .5, 3]), np.array([1.])
    np.testing.assert_array_equal(_cells(v, edges).toarray(), -_cells(-v, edges).toarray())
    assert list(abs(_cells(v, edges).toarray()).sum(1)) == [1, 0, 1, 1]


def test_refinement_lowers_blind_accuracy_to_chance(pool):
    before = blind_solvability([p for k, p in enumerate(pool) if k == 0 or p.item != pool[k - 1].item])
    kept = refine(pool, .6)
    after = blind_solvability(kept, seed=3) # refinement used other folds
    assert before[before.scorer == "bag"].accuracy.min() > .75
    assert after.accuracy.max() < .6 and after[after.kind == "all"].accuracy.max() < .56
    assert after[after.kind == "all"].accuracy.min() > .4 # nor learnable with the sign reversed
    items = {(p.item, p.kind) for p in pool}
    assert len({p.item for p in kept}) == len(kept) and set(kept) <= set(pool)
    for kind in ("action", "object"):
        share = sum(p.kind == kind for p in kept)/sum(k == kind for _, k in items)
        assert abs(share - .6) < .06


def test_with_one_candidate_per_item_refinement_only_drops():
    rng = stable_rng(0, "lengths")
    pairs = []
    for k in range(400):
        longer = rng.random() < .8
        pairs.append(Pair(str(k), str(k), "k", f"dog {k} x", f"dog {k} x y" if longer else f"dog {k}"))
    kept = refine(pairs, .35, min_count=1e9)
    sign = [np.sign(len(p.negative) - len(p.caption)) for p in kept]
    assert np.mean(np.array(sign) > 0) == pytest.approx(.5, abs=.12) and abs(len(kept) - 140) < 30


def test_a_fitted_tilt_chooses_the_same_alone_and_in_any_order(pool):
    some = [p for p in pool if int(p.clip_id[4:]) < 150]
    problem = Problem(some)
    tilt = problem.fit(.6)
    together = {p.item: p for p in problem.choose()}
    for item in list(dict.fromkeys(p.item for p in some))[::-1]:
        assert choose(tilt, [p for p in some if p.item == item]) == together.get(item)


def test_a_tilt_applies_to_unseen_captions(pool):
    half = [[p for p in pool if int(p.clip_id[4:]) % 2 == h] for h in (0, 1)]
    tilt, by_item = Problem(half[0]).fit(.5), {}
    for p in half[1]: by_item.setdefault(p.item, []).append(p)
    kept = [p for p in (choose(tilt, ps) for ps in by_item.values()) if p]
    assert .3 < len(kept)/len(by_item) < .7
    table = blind_solvability(kept, ["characters", "bag", "n-gram LM"])
    assert table[table.kind == "all"].accuracy.max() < .62
    assert choose(tilt, [Pair("1", "c", "no such kind", "a", "b")]) is None


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_curve_of_few_items_skips_empty_shares(n):
    some = [Pair(f"{i}", f"c{i}", "object", f"a {w} dog runs", f"a {w} cat runs") for i, w in enumerate("abcde"[:n])]
    table = curve(some, (.9, .1))
    assert table.kept.gt(0).all() and {1.} <= set(table.keep) <= {1., .9} and (table[table.keep == 1].n == n).all()


def test_curve_begins_with_the_given_items(pool):
    some = [p for p in pool if int(p.clip_id[4:]) < 300]
    table = curve(some, (.8, .5), audit=lambda pairs: blind_solvability(pairs, ["bag"]))
    assert table[table.keep == 1].kept.eq(1).all() and sorted(set(table.keep)) == [.5, .8, 1]
    worst = table.groupby("keep").accuracy.max()
    assert worst[1.0] > worst[.5] and worst[1.0] > .7
    assert best_share(table, margin=worst[.8] - .5 + 1e-9) == .8
    assert np.isnan(best_share(table, margin=-1))


def test_redraw_keeps_the_kind_and_rejects(pool):
    assert all(p.kind in p.item and p.caption != p.negative for p in pool)
    lexicon = Lexicon.from_lists(LISTS, formal=True)
    corpus = [Caption("1", "c", "a man walks")]
    generator = GENERATORS["rules-published"](lexicon)
    first, _ = make_negatives(corpus, generator, seed=1)
    kept = list(redraw(corpus, first, generator.attempt, 50, accept=lambda p: "woman" not in p.negative))
    assert len({p.negative for p in kept}) == len(kept) > 3 and not any("woman" in p.negative for p in kept)
    assert kept[0].negative == first[0].text or "woman" in first[0].text


@pytest.mark.parametrize("keep", [0, 1, 1.5])
def test_impossible_shares(keep, pool):
    with pytest.raises(VidnegError, match="between 0 and 1"): refine(pool[:50], keep)


def test_nothing_to_refine():
    with pytest.raises(VidnegError, match="no candidates"): refine([], .5)


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="VIDNEG_REAL_DATA does not name the folder of real data")
def test_real_captions_after_refinement():
    videos = json.loads((Path(REAL)/"activitynet_captions/val.json").read_text(encoding="utf-8"))
    corpus = [Caption(f"{v}/{k}", v, s.strip()) for v in sorted(videos)[:400]
            for k, s in enumerate(videos[v]["sentences"])]
    generator = GENERATORS["rules-published"](Lexicon.navero(), english=None)
    first, _ = make_negatives(corpus, generator)
    pool = list(redraw(corpus, first, generator.attempt, 12))
    given = {n.text for n in first}
    sets = [p for p in pool if p.negative in given], refine(pool, .6)
    before, after = (blind_solvability(pairs, ["bag", "n-gram LM"]) for pairs in sets)
    def of(table): return table[table.kind == "all"].accuracy
    assert of(before).min() > .8 and of(after).max() < .57 and of(after).min() > .42
