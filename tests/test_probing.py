"acc, acc-hat, the scorer contract and the blind baseline."
import tracemalloc

import numpy as np
import pandas as pd
import pytest

from vidneg.audit.blind import blind_solvability
from vidneg.core.errors import VidnegError
from vidneg.core.records import Caption, Negative
from vidneg.core.seeds import stable_rng
from vidneg.data.pairs import Pair
from vidneg.evaluate.accuracy import (
    ITEM_COLUMNS,
    KINDS,
    METRICS,
    SCORE_COLUMNS,
    acc,
    acc_hat,
    accuracy_difference,
    accuracy_table,
    check_scores,
    item_matrix,
    score_blind,
    score_pairs,
    toy_scores,
)
from vidneg.evaluate.score import items_table


class MockScorer:
    "A scorer whose scores depend on the two ids only; it counts its calls."
    supports = frozenset({"similarity", "match"})
    def __init__(self): self.texts, self.pairs = [], 0
    def encode_video(self, frames): return np.asarray(frames).reshape(len(frames), -1)[:, 0].astype(int)
    def encode_text(self, texts):
        self.texts += texts
        return np.array([sum(map(ord, t)) for t in texts])
    def similarity(self, V, T): return np.sin(V[:, None] * 31. + T[None] * 17.)
    def match(self, V, T):
        self.pairs += len(V)
        return 1 / (1 + np.exp(-np.sin(V * 7. + T * 3.)))


def make_items(n=60, clips=7):
    rng = stable_rng(0, "items")
    rows = []
    for i in range(n):
        clip = int(rng.integers(clips))
        rows.append((str(i), f"c{clip}", KINDS[i % 4], "balanced", "rule",
                    f"caption {clip}", f"negative {clip} {i % 9}"))
    return pd.DataFrame(rows, columns=ITEM_COLUMNS)


@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_score_pairs_equals_scoring_one_pair_at_a_time(chunk):
    items, scorer = make_items(), MockScorer()
    V = scorer.encode_video(np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1, 1))
    got = score_pairs(scorer, V, [f"c{i}" for i in range(7)], items, "mock", chunk)
    assert list(got.columns) == SCORE_COLUMNS and (got.item == items.item).all()
    for row, item in zip(got.itertuples(), items.itertuples()):
        v = np.array([int(item.clip_id[1:])])
        for text, score, p in [(item.caption, row.score_pos, row.p_pos), (item.negative, row.score_neg, row.p_neg)]:
            t = MockScorer().encode_text([text])
            assert score == pytest.approx(scorer.similarity(v, t)[0, 0])
            assert p == pytest.approx(MockScorer().match(v, t)[0])


def test_each_text_and_pair_is_scored_once():
    items, scorer = make_items(), MockScorer()
    score_pairs(scorer, np.arange(7), [f"c{i}" for i in range(7)], items, "mock")
    unique = pd.concat([items[["clip_id", "caption"]].set_axis(["c", "t"], axis=1),
                        items[["clip_id", "negative"]].set_axis(["c", "t"], axis=1)]).drop_duplicates()
    assert len(scorer.texts) == len(set(scorer.texts)) == unique.t.nunique()
    assert scorer.pairs == len(unique)


def test_a_pairwise_scorer_scores_only_pairs():
    class Pairs(MockScorer):
        supports = MockScorer.supports | {"pairwise"}
        def similarity(self, V, T): raise AssertionError("all with all")
        def pairwise(self, V, T): return np.sin(V * 31. + T * 17.)
    ids, items = [f"c{i}" for i in range(7)], make_items()
    one, other = (score_pairs(s, np.arange(7), ids, items, "mock", 5) for s in (Pairs(), MockScorer()))
    pd.testing.assert_frame_equal(one, other)


def test_a_scorer_without_pairwise_computes_no_other_cell():
    "A matching model behind `similarity` reads each pair anew, so every cell beyond the pairs is lost work."
    cells = []
    class Rows(MockScorer):
        def similarity(self, V, T):
            cells.append(len(V)*len(T))
            return super().similarity(V, T)
    items = make_items()
    score_pairs(Rows(), np.arange(7), [f"c{i}" for i in range(7)], items, "mock")
    texts = pd.concat([items[["clip_id", c]].set_axis(["clip", "text"], axis=1) for c in ("caption", "negative")])
    assert sum(cells) == len(texts.drop_duplicates())


def test_one_long_caption_costs_no_memory():
    "A fixed-width text type would give every text of the table the width of the longest, here 4 × 20,000 bytes."
    n = 4000
    items = pd.DataFrame({"item": np.arange(n).astype(str), "clip_id": "c0", "kind": "action", "form": "balanced",
                          "generator": "", "caption": [f"caption {i}" for i in range(n)],
                          "negative": ["word " * 4000, *(f"negative {i}" for i in range(1, n))]})
    tracemalloc.start()
    score_pairs(MockScorer(), np.arange(1), ["c0"], items, "mock")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6 # 640 MB before


@pytest.mark.parametrize("spoil, words", [
    (lambda t: t.assign(caption=t.caption.where(t.index != 3)), "1 items .* caption, the first in row 3, item '3'"),
    (lambda t: t.assign(negative=t.negative.where(t.index < 4, None)), "56 items lack the negative"),
    (lambda t: t.assign(negative="  "), "lack the negative"),
    (lambda t: t.assign(caption=7), "lack the caption"),
    (lambda t: t.assign(clip_id=t.clip_id.where(t.index != 3)), "lack the clip_id"),
    (lambda t: t.assign(item="0"), "'0' .* occurs twice"),
    (lambda t: t.drop(columns="form"), "column 'form'")])
def test_bad_items_are_refused(spoil, words):
    "Without this, missing texts were scored as the words 'None' and 'nan'."
    bad = spoil(make_items())
    with pytest.raises(VidnegError, match=words):
        score_pairs(MockScorer(), np.arange(7), [f"c{i}" for i in range(7)], bad, "mock")
    with pytest.raises(VidnegError, match=words): score_blind(make_items(), bad)


def test_scores_of_a_wrong_shape_are_refused():
    class All(MockScorer):
        supports = frozenset({"pairwise"})
        def pairwise(self, V, T): return self.similarity(V, T)
    with pytest.raises(VidnegError, match="one number per pair"):
        score_pairs(All(), np.arange(7), [f"c{i}" for i in range(7)], make_items(), "mock")
    with pytest.raises(VidnegError, match="occurs twice among the videos"):
        score_pairs(MockScorer(), np.arange(7), ["c0"]*7, make_items(), "mock")


def test_several_negatives_of_a_caption_are_items_of_their_own():
    captions = [Caption("1", "c1", "a red star"), Caption("2", "c2", "a blue ring")]
    def negative(caption, text, kind="relation"): return Negative(caption, text, kind, "demo", (), 1, 0)
    negatives = [negative("1", "a"), negative("2", "b"), negative("1", "c"), negative("1", "d", "object"),
                 negative("1", "e"), negative("3", "f")]
    items = items_table(negatives, captions, "balanced")
    assert items.item.tolist() == ["1/relation", "2/relation", "1/relation/2", "1/object", "1/relation/3"]
    scores = score_pairs(MockScorer(), np.arange(3), ["c0", "c1", "c2"], items, "mock")
    table = accuracy_table(scores, ["acc"], n=10).set_index("kind")
    assert table.n.to_dict() == {"object": 1, "relation": 4}


def test_a_scorer_without_fusion_head_has_no_acc():
    class NoHead(MockScorer): supports = frozenset({"similarity"})
    got = score_pairs(NoHead(), np.arange(7), [f"c{i}" for i in range(7)], make_items(), "mock")
    assert got.p_pos.isna().all()
    assert set(accuracy_table(got).metric) == {"acc_vtc"}
    with pytest.raises(VidnegError, match="acc_vtc"): item_matrix(got)


def test_unknown_clip_is_named():
    with pytest.raises(VidnegError, match="'c3'"):
        score_pairs(MockScorer(), np.arange(3), ["c0", "c1", "c2"], make_items(clips=4), "mock")


def table_of(rows):
    "Make scores from (kind, clip, p_pos, p_neg)."
    return pd.DataFrame([(str(i), clip, "r", kind, "balanced", "g", p, q, p, q)
                         for i, (kind, clip, p, q) in enumerate(rows)], columns=SCORE_COLUMNS)


def test_metrics_by_hand():
    scores = table_of([("action", "a", .9, .2), ("action", "b", .6, .6), ("action", "c", .4, .3),
                       ("action", "d", .2, .8), ("action", "e", .5, .5)])
    assert acc(scores).tolist() == [True, False, True, False, False] # equation (5), ties are wrong
    assert acc_hat(scores).tolist() == [1, .5, .5, 0, 0] # equation (6)


def test_average_is_over_categories_not_items():
    rows = [("action", "a", 1, 0)] * 6 + [("attribute", "b", 0, 1)] * 2
    rows += [("relation", "a", 0, 1), ("object", "b", 1, 0)]
    table = accuracy_table(table_of(rows), ["acc"]).set_index("kind")
    assert table.value.to_dict() == {"action": 1, "attribute": 0, "relation": 0, "object": 1, "average": .5}
    assert table.n["average"] == 10 and table.clips["average"] == 2
    assert list(table.index) == [*KINDS, "average"]


def test_no_average_of_three_categories():
    assert "average" not in set(accuracy_table(toy_scores({"r": 1}, 5, kinds=KINDS[:3])).kind)


def test_constant_scores_are_never_right():
    scores = toy_scores({"r": 1}, 20).assign(score_pos=0., score_neg=0., p_pos=.5, p_neg=.5)
    assert (accuracy_table(scores).value == 0).all()


def test_difference_is_the_difference_of_the_table():
    scores = toy_scores({"a": .3, "b": .9}, 40)
    table = accuracy_table(scores, ["acc"])
    table = table[table.form == "rules"].pivot(index="kind", columns="run", values="value")
    gap = accuracy_difference(scores.sample(frac=1, random_state=0), "b", "a", form="rules").set_index("kind")
    assert (gap.value - (table.b - table.a)).abs().max() < 1e-12
    assert ((gap.low <= gap.value) & (gap.value <= gap.high)).all()


@pytest.mark.parametrize("spoil, words", [
    (lambda s: s.drop(columns="p_neg"), "p_neg"),
    (lambda s: s[:0], "empty"),
    (lambda s: pd.concat([s, s[:1]]), "twice"),
    (lambda s: s.assign(score_pos=s.score_pos.where(s.index != 3)), "NaN in score_pos"),
    (lambda s: s.assign(p_neg=s.p_neg.where(s.index != 3)), "NaN in p_neg")])
def test_bad_tables_are_refused(spoil, words):
    with pytest.raises(VidnegError, match=words): check_scores(spoil(toy_scores({"r": 1}, 5)))


def test_runs_on_different_items_are_not_compared():
    scores = toy_scores({"a": 1, "b": 1}, 5)
    with pytest.raises(VidnegError, match="different"): item_matrix(scores[1:])
    with pytest.raises(VidnegError, match="'c'"): item_matrix(scores, runs=["a", "c"])


def pairs(n, seed, wrong=None):
    "Make one-word edits of verbs; the negative's verb is from the same list, or from `wrong`."
    verbs, nouns = ["spins", "jumps", "slides", "grows", "waits"], ["star", "ring", "heart"]
    rng = stable_rng(seed, "pairs")
    rows = []
    for i in range(n):
        noun, true = rng.choice(nouns), rng.choice(verbs)
        false = rng.choice(wrong) if wrong else rng.choice([v for v in verbs if v != true])
        rows.append((str(i), f"c{i}", "action", "balanced", "g", f"a {noun} {true}", f"a {noun} {false}"))
    return pd.DataFrame(rows, columns=ITEM_COLUMNS)


def test_blind_ranker_is_at_chance_on_exchangeable_pairs():
    e = accuracy_table(score_blind(pairs(2000, 0), pairs(1500, 1)), ["acc"]).iloc[0]
    assert .45 < e.value < .55 and e.low < .5 < e.high + .02


def test_blind_ranker_finds_words_of_negatives_only():
    odd = ["melts", "implodes", "rusts"]
    e = accuracy_table(score_blind(pairs(200, 0, odd), pairs(300, 1, odd)), ["acc", "acc_hat"])
    assert (e.value == 1).all()


def test_blind_ranker_is_antisymmetric_without_bias():
    train, test = pairs(300, 0), pairs(100, 1)
    swapped = test.rename(columns={"caption": "negative", "negative": "caption"})
    a, b = score_blind(train, test), score_blind(train, swapped)
    assert np.allclose(a.p_pos, b.p_neg) and np.allclose(a.p_pos + a.p_neg, 1)
    flipped = train.rename(columns={"caption": "negative", "negative": "caption"})
    assert np.allclose(score_blind(flipped, test).p_pos, 1 - a.p_pos, atol=1e-3)
    never = test.assign(caption="words never seen", negative="nor these before")
    assert (score_blind(train, never).score_pos == 0).all()


def test_the_audit_prints_the_same_number():
    "The blind row of a table equals the audit's bag of words on the same items and training pairs."
    train, test = pairs(300, 0, ["melts", "jumps"]), pairs(200, 1)
    known, asked = ([Pair(r.item, r.clip_id, r.kind, r.caption, r.negative) for r in t.itertuples()]
                    for t in (train, test))
    printed = accuracy_table(score_blind(train, test), ["acc"]).iloc[0].value
    audited = blind_solvability(asked, ["bag"], ties="against", known=known).accuracy.iloc[-1]
    assert printed == pytest.approx(audited) and .5 < printed < 1


def test_blind_scores_do_not_depend_on_order():
    train, test = pairs(300, 0, ["melts", "jumps"]), pairs(50, 1)
    a, b = score_blind(train, test), score_blind(train[::-1], test[::-1])[::-1].reset_index(drop=True)
    pd.testing.assert_frame_equal(a, b, check_exact=True) # to the last written digit


def test_blind_errors():
    with pytest.raises(VidnegError, match="at least one"): score_blind(pairs(0, 0), pairs(3, 1))
    with pytest.raises(VidnegError, match="negative"): score_blind(pairs(3, 0)[["caption"]], pairs(3, 1))
    gone = pairs(3, 0).assign(negative=["a star", None, "a ring"])
    with pytest.raises(VidnegError, match="training pairs lack the negative, the first in row 1"):
        score_blind(gone, pairs(3, 1))


def test_metrics_registry_names():
    assert {"acc", "acc_hat", "acc_vtc"} <= set(METRICS)
