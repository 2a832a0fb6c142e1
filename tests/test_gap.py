import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from vidneg.core import Caption, Negative, VidnegError, stable_rng
from vidneg.evaluate.gap import GAP_COLUMNS, gap_ranks, gap_table, relative_gap


class Numbers:
    "Texts are names of rows of a table; videos are vectors."
    def __init__(self, table): self.table = table
    def encode_text(self, texts): return np.array([self.table[t] for t in texts])
    def similarity(self, videos, texts): return videos @ texts.T


def made(clips=12, kinds=("a", "b"), seed=0):
    rng = np.random.default_rng(seed)
    videos, table, captions, negatives = rng.normal(size=(clips, 4)), {}, [], []
    for kind in kinds:
        for i in range(0, clips, 1 + (kind == "b")):
            key = f"c{i}.{kind}"
            table[key], table[f"no {key}"] = videos[i] + rng.normal(size=4), rng.normal(size=4)
            captions.append(Caption(key, f"c{i}", key))
            negatives.append(Negative(key, f"no {key}", kind, "toy", (), 1, 0))
    return Numbers(table), videos, [f"c{i}" for i in range(clips)], captions, negatives


def test_ranks_are_counted_among_the_clips_of_a_kind():
    scorer, videos, ids, captions, negatives = made()
    ranks = gap_ranks(scorer, videos, ids, captions, negatives, "r")
    assert list(ranks) == GAP_COLUMNS and (ranks.run == "r").all()
    assert len(ranks) == 2*2*(12 + 6) # groups, directions
    for row in ranks.itertuples():
        some = [(c, n) for c, n in zip(captions, negatives) if n.kind == row.kind]
        text = {c.clip_id: scorer.table[c.text if row.group == "true" else n.text] for c, n in some}
        video = {c: videos[ids.index(c)] for c in text}
        own, t2v = row.clip_id, row.direction == "t2v"
        score = {o: video[o] @ text[own] if t2v else video[own] @ text[o] for o in text}
        assert row.rank == sum(s >= score[own] for s in score.values())


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=2, max_size=30), st.integers(1, 5))
def test_the_gap_is_that_of_a_loop(pairs, k):
    true, false = np.array(pairs).T
    e = relative_gap(true, false, np.arange(len(true)), k, n=50)
    p = sum(r <= k for r in true.tolist())/len(true)
    q = sum(r <= k for r in false.tolist())/len(true)
    if not p: assert np.isnan([e.value, e.low, e.high]).all()
    else:
        assert e.value == pytest.approx((p - q)/p) and e.n == e.clips == len(true)
        assert e.low <= e.high <= 1 or np.isnan(e.low)


def test_the_interval_resamples_both_groups_together():
    rng = np.random.default_rng(1)
    true, clip = rng.integers(1, 4, 80), np.arange(80)
    same = relative_gap(true, true, clip, 1)
    assert same.value == same.low == same.high == 0 # a paired difference of nothing
    other = relative_gap(true, rng.permutation(true), clip, 1)
    assert other.value == 0 and other.low < -.1 and other.high > .1
    n, weights = 4000, stable_rng(5, "mine")
    false = rng.integers(1, 5, 80)
    samples = []
    for _ in range(n):
        at = weights.integers(0, 80, 80)
        samples.append(1 - (false[at] <= 1).mean()/(true[at] <= 1).mean())
    e = relative_gap(true, false, clip, 1, n=n)
    assert np.allclose([e.low, e.high], np.quantile(samples, [.025, .975]), atol=.06)


def test_clips_are_the_units():
    true, false = np.tile([1, 1, 2, 1], 10), np.tile([2, 1, 1, 1], 10)
    few = relative_gap(true, false, np.tile(np.arange(4), 10), 1)
    many = relative_gap(true, false, np.arange(40), 1)
    assert few.value == many.value and few.clips == 4 and few.high - few.low > many.high - many.low


def test_the_table_has_what_it_is_made_of():
    scorer, videos, ids, captions, negatives = made()
    ranks = pd.concat([gap_ranks(scorer, videos, ids, captions, negatives, run) for run in ("x", "y")])
    table = gap_table(ranks, (1, 5), n=50).set_index(["run", "kind", "direction", "metric"])
    assert len(table) == 2*2*2*6
    for run in ("x", "y"):
        for kind in ("a", "b"):
            for d in ("t2v", "v2t"):
                for k in (1, 5):
                    value = table.loc[(run, kind, d)].value
                    p, q = value[f"R@{k}"], value[f"R@{k} false"]
                    part = ranks[(ranks.run == run) & (ranks.kind == kind) & (ranks.direction == d)]
                    assert p == (part[part.group == "true"]["rank"] <= k).mean()
                    gap = value[f"Δ R@{k}"]
                    assert np.isnan(gap) if not p else gap == pytest.approx((p - q)/p)


def test_bad_input_is_one_clear_error():
    scorer, videos, ids, captions, negatives = made()
    with pytest.raises(VidnegError, match="one to one"): gap_ranks(scorer, videos, ids, captions, negatives[::-1], "r")
    with pytest.raises(VidnegError, match="two captions of kind 'a'"):
        gap_ranks(scorer, videos, ids, [*captions, captions[0]], [*negatives, negatives[0]], "r")
