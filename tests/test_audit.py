"The audit against plain computations, known values, published figures, and bad input."
import os
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from vidneg.audit import page as dossier, validity
from vidneg.audit.blind import (
    RANKERS,
    NgramLM,
    Prepared,
    blind_scores,
    blind_solvability,
    defects,
    differences,
    folds,
    logistic_ranker,
    pick_shorter,
    sample_pairs,
    tokens,
    wilson,
)
from vidneg.audit.validity import agrees, coverage, fluency, guarded, review_sheet, slips, suspicion, writing
from vidneg.core.errors import VidnegError
from vidneg.core.records import Caption
from vidneg.core.seeds import stable_rng
from vidneg.data.pairs import Pair, read_pairs
from vidneg.text.edits import WORD, changed
from vidneg.text.ud import Parsed, Token

REAL = os.environ.get("VIDNEG_REAL_DATA")
real = pytest.mark.skipif(not REAL, reason="VIDNEG_REAL_DATA does not name the folder of real data")
BAD = ["", " ", "one", "🎈🎈", "кот спит на коврике", "猫が走る", "a\0b", "word " * 2000,
       "a man runs", "\ud800", "<b>&", "ß" * 9]


def plain_pairs(n=200, seed=0, odd=0.0):
    "Make pairs; a share `odd` of the negatives holds a word that no caption holds."
    rng, out = stable_rng(seed, "pairs"), []
    for k in range(n):
        w = [str(rng.choice(["red", "blue", "tan"])) + f" x{rng.integers(50)}" for _ in range(2)]
        new = "odd" if rng.random() < odd else w[1]
        out.append(Pair(str(k), f"c{k//2}", "ab"[k % 2], f"a {w[0]} {k}", f"a {new} {k}"))
    return out


def grams(ts):
    w = ["<s>", *ts, "</s>"]
    return Counter(ts) + Counter(map(" ".join, zip(w, w[1:])))


short = st.lists(st.sampled_from("abc"), max_size=6)


@given(short, short)
def test_differences_equal_those_of_all_ngrams(a, b):
    whole = grams(a)
    whole.subtract(grams(b))
    assert differences(a, b) == Counter({g: n for g, n in whole.items() if n})


@given(st.lists(short, min_size=1, max_size=5), short, short)
@settings(max_examples=40)
def test_language_model_is_a_distribution_and_its_difference_is_exact(texts, a, b):
    lm = NgramLM([" ".join(t) for t in texts])
    words = [*lm.uni, "unseen"]
    for x, y in product(["<s>", "a", "unseen"], ["a", "b", "unseen"]):
        assert sum(np.exp(lm.log_p(x, y, w)) for w in words) == pytest.approx(1)
    la, lb = lm.log_prob([" ".join(a), " ".join(b)])
    assert lm.difference(a, b) == pytest.approx(la - lb, abs=1e-9)


def test_kneser_ney_by_hand():
    lm = NgramLM(["a b", "a c"], discount=.5)
    # preceding words: a ← <s>; b, c ← a; </s> ← b, c; so 5 distinct bigrams of 4 words
    base = lambda n: (n - .5 + .5*4/5)/5
    assert np.exp(lm.log_p("x", "y", "</s>")) == pytest.approx(base(2))
    # b and c follow a, once each
    assert np.exp(lm.log_p("x", "a", "b")) == pytest.approx((1 - .5 + .5*2*base(1))/2)


@given(st.integers(2, 6), st.integers(0, 9))
def test_folds_split_no_clip_or_caption_and_ignore_the_order(k, seed):
    pairs = plain_pairs(40) + [Pair("x", "c7", "a", "the same", "other"), Pair("y", "c9", "b", "the same", "others")]
    fold = folds(pairs, k, seed)
    assert all(len({f for p, f in zip(pairs, fold) if p.clip_id == c}) == 1 for c in {p.clip_id for p in pairs})
    assert fold[-1] == fold[-2] and set(fold) <= set(range(k))
    assert list(folds(pairs[::-1], k, seed)) == list(fold[::-1])


def test_a_phrase_that_all_clips_share_does_not_make_one_fold():
    pairs = [Pair(str(k), f"c{k}", "a", "a man" if k % 2 else f"a dog {k}", "x") for k in range(100)]
    pairs += [Pair(f"{k}b", f"c{k}", "a", "a man", "x") for k in range(100)]
    assert len(set(folds(pairs))) == 5


def test_ranker_equals_scikit_learn():
    from sklearn.linear_model import LogisticRegression
    X = Prepared(plain_pairs(60, odd=.5)).X
    mirrored = np.concatenate([X.toarray(), -X.toarray()])
    other = LogisticRegression(C=1/2, fit_intercept=False, tol=1e-10, max_iter=10000).fit(mirrored, [1]*60 + [0]*60)
    # each pair enters twice, once mirrored: the loss doubles, so C is halved
    np.testing.assert_allclose(logistic_ranker(X), other.coef_[0], atol=2e-3)


def test_a_revealing_word_is_found_and_without_one_accuracy_is_at_chance():
    revealing, plain = (blind_solvability(plain_pairs(600, odd=share)) for share in (.8, 0))
    def of(table, scorer): return table[(table.scorer == scorer) & (table.kind == "all")].iloc[0]
    assert of(revealing, "bag").accuracy > .8 and of(revealing, "log-odds").accuracy > .8
    for scorer in plain.scorer.unique():
        row = of(plain, scorer)
        assert row.low - .02 <= .5 <= row.high + .02, row


def test_direction_is_learned_within_each_category():
    forms = {"long": "a big dog {}", "short": "dog {}"}
    pairs = [Pair(f"{k}{kind}", f"{k}", kind, f"a dog {k}", form.format(k)) for k in range(20)
             for kind, form in forms.items()]
    table = blind_solvability(pairs, ["words"])
    assert list(table.accuracy) == [1, 1, 1]


def test_ties():
    pairs = [Pair(str(k), str(k), "a", "aa", "bb") for k in range(8)]
    assert blind_solvability(pairs, ["characters"]).accuracy.eq(.5).all()
    assert blind_solvability(pairs, ["characters"], ties="against").accuracy.eq(0).all()
    with pytest.raises(VidnegError, match="half, against"): blind_solvability(pairs, ["characters"], ties="won")


def test_results_do_not_depend_on_order():
    pairs = plain_pairs(120, odd=.3)
    a, b = (blind_scores(Prepared(p)) for p in (pairs, pairs[::-1]))
    for name in ("characters", "words", "log-odds", "bag"):
        np.testing.assert_allclose(a[name], b[name][::-1], atol=1e-3)


class Backend:
    name = "counts the letter e"
    def log_prob(self, texts): return [-float(t.count("e")) for t in texts]
    def token_counts(self, texts): return [max(len(t), 1) for t in texts]


def test_causal_language_model_is_used_only_if_given():
    pairs = [Pair(str(k), str(k), "a", f"dog {k}", f"eel {k}") for k in range(20)]
    table = blind_solvability(pairs, backend=Backend())
    assert table[table.scorer == "causal LM"].accuracy.eq(1).all()
    assert "causal LM" not in set(blind_solvability(pairs).scorer)
    assert fluency(pairs, Backend())[1].max() < 0


def test_interval_is_wilson_and_clusters_widen_it():
    p, low, high = wilson([1]*7 + [0]*3, range(10))
    assert p == .7 and low == pytest.approx(.397, abs=.02) and high == pytest.approx(.892, abs=.02)
    assert wilson([1]*50 + [0]*50, [k//10 for k in range(100)])[1] < wilson([1]*50 + [0]*50, range(100))[1]
    assert wilson([1.]*30, range(30))[1] == pytest.approx(1/(1 + 1.96**2/30))


def test_interval_covers():
    rng, hits = stable_rng(0, "coverage"), 0
    for _ in range(300):
        clip = np.repeat(np.arange(60), 3)
        v = (rng.random(60) < .6)[clip]*1. if rng.random() < .5 else (rng.random(180) < .6)*1.
        _, low, high = wilson(v, clip)
        hits += low <= .6 <= high
    assert .91 <= hits/300 <= .99


@given(st.lists(st.tuples(st.sampled_from(BAD), st.sampled_from(BAD)), min_size=1, max_size=8))
@settings(max_examples=10)
def test_bad_input_is_counted_and_never_fails(texts):
    pairs = [Pair(str(k), str(k % 3), "k", a, b) for k, (a, b) in enumerate(texts)]
    found = defects(pairs)
    assert found["pairs"] == len(pairs)
    assert found["empty"] == sum(not a.strip() or not b.strip() for a, b in texts)
    assert blind_solvability(pairs, k=2).accuracy.between(0, 1).all()


def test_bad_input_still_gets_a_page():
    pairs = [Pair(str(k), str(k % 3), "k", a, b) for k, (a, b) in enumerate(product(BAD, BAD[::3]))]
    made = dossier.audit_set("bad", pairs + pairs[:5], [Caption(p.item, p.clip_id, p.caption) for p in pairs])
    assert made.counts["pairs"] == len(pairs) + 5 and made.counts["copies in the sample"] == 5
    text = dossier.dossier_page(made)
    assert "\0" not in text and text.encode("utf-8")


def test_sample_is_bounded_and_the_same_for_any_order():
    pairs = plain_pairs(300)
    some = sample_pairs(iter(pairs), 40)
    assert some == sample_pairs(pairs[::-1], 40) and len(set(some)) == 40
    assert set(sample_pairs(pairs, 20)) < set(some)


@given(st.text("ab <&é", max_size=20), st.text("ab <&é", max_size=20))
def test_changed_spans_hold_the_changed_texts(a, b):
    c = changed(a, b)
    assert a[slice(*c.old_span)] == c.old and b[slice(*c.new_span)] == c.new
    assert tokens(a[:c.old_span[0]])[:1] == tokens(b[:c.new_span[0]])[:1] or c.old_span[0] == 0 or c.new_span[0] == 0


def word(text, k, dep, pos="NOUN", start=0): return Token(text, text, pos, "NN", "", dep, k, start, start + len(text))


def test_agreement_compares_roles_if_parsed():
    def parse(text):
        places = [m.start() for m in WORD.finditer(text)]
        found = zip(range(3), text.split(), ("nsubj", "root", "obj"), places)
        return Parsed(text, tuple(word(w, k, dep, start=s) for k, w, dep, s in found), ())
    others = ["cat sees dog"]
    pair = Pair("1", "c", "object", "dog sees dog", "dog sees cat")
    assert agrees(pair, others) # another caption holds the word
    assert not agrees(pair, ["cat sees dog"], lambda t: parse(t)) # but as its subject
    assert agrees(pair, ["dog sees cat"], lambda t: parse(t))


def test_suspicion_counts_unknown_pairs():
    pairs = [Pair("1", "a", "k", "a man runs", "a person runs"), Pair("2", "b", "k", "a man runs", "a dog runs")]
    captions = [Caption("1", "a", "a man runs"), Caption("2", "b", "a man runs"), Caption("3", "b", "a dog runs")]
    table = suspicion(pairs, captions)
    row = table[table.kind == "all"].loc["agreement"]
    assert (row.share, row.n, row.unknown) == (1, 1, 1)
    assert table[table.kind == "all"].share.to_dict() == {"guard": .5, "agreement": 1, "either": 1}


def test_slips():
    assert slips("He has an cat and a owl.") == {"article": 2}
    assert slips("A men run run") == {"number": 1, "doubled word": 1}
    assert slips("people is here") == {"agreement": 1} == slips("The young man are here")
    for good in ("a group of people is here", "a man and a woman are here", "An hour of a unicorn's life", ""):
        assert not slips(good), good


def test_writing_sees_scrambled_negatives():
    rng = stable_rng(0, "scramble")
    words = [["red", "blue"], ["dog", "cat"], ["car", "tree"]]
    texts = ["the {} {} is near the {}".format(*map(rng.choice, words)) for _ in range(80)]
    scrambled = [" ".join(rng.permutation(t.split())) for t in texts]
    pairs = [Pair(str(k), str(k), "k", f"{t} {k}", f"{s} {k}") for k, (t, s) in enumerate(zip(texts, scrambled))]
    row = writing(pairs).iloc[-1]
    assert row.gap > .3 and row.low < row.gap < row.high


def test_coverage_counts():
    captions = [Caption(str(k), "c", "a dog") for k in range(4)]
    pairs_made = Counter({("object", "made"): 3, ("object", "no match"): 1})
    from vidneg.core.records import Negative
    made = [Negative(str(k), "a cat", "object", "g", (), 1, 0) for k in range(3)]
    table = coverage(captions, made, pairs_made).set_index("what")
    assert table.share["captions with a negative"] == .75 and table.n["object: no match"] == 1
    with pytest.raises(VidnegError, match="not given"): coverage(captions[:1], made)


def test_sheet_marks_the_edit_and_escapes():
    sheet = review_sheet([Pair(str(k), "c", "k", "a <i> dog", "a <i> cat") for k in range(80)], 50)
    assert sheet.count("<mark>cat</mark>") == 50 == sheet.count("<del>dog</del>") and "<i>" not in sheet


def test_page_is_self_contained(tmp_path):
    pairs = plain_pairs(60)
    made = dossier.audit_set("some", iter(pairs), n=30)
    assert made.counts["pairs"] == 60 and len(made.sample) == 30
    text = dossier.dossier_page(made)
    assert text == dossier.dossier_page(made) and "<svg" in text and "src=" not in text and "@import" not in text
    assert validity.write_page(tmp_path/"a.html", text).read_text(encoding="utf-8") == text


def test_guard_finds_negatives_that_may_be_true():
    assert guarded(Pair("1", "c", "k", "a man runs", "a person runs"))
    assert not guarded(Pair("1", "c", "k", "a man runs", "a man sits"))


@real
def test_known_figures_of_sugarcrepe():
    pairs = [p for p in read_pairs("sugarcrepe", Path(REAL)/"sugar_crepe") if p.kind.startswith("add")]
    table = pick_shorter(pairs).set_index("kind")
    assert round(100*table.accuracy["add_att"], 1) == 99.6 and table.n["add_att"] == 692
    assert round(100*table.accuracy["add_obj"], 1) == 98.8 and table.n["add_obj"] == 2062
    crossed = blind_solvability(pairs, ["characters"])
    assert crossed.set_index("kind").accuracy["add_att"] > .99


@real
def test_known_figures_of_vitatecs():
    table = pick_shorter(read_pairs("vitatecs", Path(REAL)/"vitatecs")).set_index("kind").accuracy.round(3)
    assert table["Direction"] == .668 and table["Intensity"] == .652 and table["Sequence"] == .272


LOW = "words", "all", .2, .1, .3, 400


def blind_table(*rows): return pd.DataFrame(rows, columns=["scorer", "kind", "accuracy", "low", "high", "n"])


@pytest.mark.parametrize("rows, ties, first", [
    ([("bag", "all", .6, .55, .65, 400)], "half", "The texts alone reveal the negatives: "),
    ([("bag", "all", .52, .48, .56, 400)], "half", "The texts alone do not visibly reveal"),
    ([("bag", "all", .9, .8, .95, 99)], "half", "Too few pairs to judge"),
    ([("bag", "all", .52, .48, .56, 400), LOW], "half", "The texts alone reveal the negatives, read the other way"),
    ([("bag", "all", .52, .48, .56, 400), LOW], "against", "The texts alone do not visibly reveal")])
def test_the_page_begins_with_its_verdict(rows, ties, first):
    tables = {"Blind solvability": blind_table(*rows)}
    made = dossier.Dossier("a <b>", Counter(pairs=400), plain_pairs(5), tables, ties=ties)
    said = dossier.verdict(made)
    assert said[0].startswith(first) and rows[0][0] in said[0]
    assert any("Turned around" in s for s in said) == (len(rows) == 2 and ties == "half")
    text = dossier.dossier_page(made)
    assert text.index(said[0]) < text.index("400 pairs; the tables")


def test_kinds_that_are_revealed_or_too_small_are_named():
    table = blind_table(("bag", "color", .7, .6, .8, 150), ("words", "color", .8, .7, .9, 150),
                        ("bag", "verb", .9, .8, 1, 18), ("words", "verb", .5, .3, .7, 18),
                        ("bag", "all", .52, .48, .56, 400), ("words", "all", .5, .45, .55, 400))
    made = dossier.Dossier("a", Counter(pairs=400), plain_pairs(5), {"Blind solvability": table})
    assert dossier.verdict(made)[1:] == ["They do in single kinds: color, 80.0 [70.0, 90.0] % by words.",
                                         "Too few pairs to judge (below 100): verb (18)."]
    text = dossier.dossier_page(made)
    assert "verb (n = 18, too few to judge)" in text and "color (n = 150)" in text
    assert "weighted by a logistic regression" in text


def test_every_ranker_is_explained_and_the_ties_are_known():
    assert set(RANKERS) == set(dossier.READS)
    pairs = plain_pairs(30)
    assert dossier.audit_set("a", pairs).ties == "half" and dossier.audit_set("a", pairs, known=pairs).ties == "against"
