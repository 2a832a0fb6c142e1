"Relative gaps of retrieval: ranks, intervals and tables against plain loops, and bad input."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from vidneg.core.errors import VidnegError
from vidneg.core.records import Caption, Negative
from vidneg.core.seeds import stable_rng
from vidneg.evaluate.gap import GAP_COLUMNS, check_gaps, gap_ranks, gap_table, joint_gaps, relative_gap, toy_gaps
from vidneg.evaluate.stats import clip_weights


class Numbers:
    "A scorer whose texts name rows of a table and whose videos are vectors."
    supports = frozenset({"similarity"})
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


def test_ranks_are_among_the_clips_of_a_kind():
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
def test_the_gap_equals_a_plain_loop(pairs, k):
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
    assert same.value == same.low == same.high == 0 # paired differences are all zero
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


def test_clips_are_the_units_of_resampling():
    true, false = np.tile([1, 1, 2, 1], 10), np.tile([2, 1, 1, 1], 10)
    few = relative_gap(true, false, np.tile(np.arange(4), 10), 1)
    many = relative_gap(true, false, np.arange(40), 1)
    assert few.value == many.value and few.clips == 4 and few.high - few.low > many.high - many.low


def test_the_table_agrees_with_its_ranks():
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
    with pytest.raises(VidnegError, match=f"not encoded, the first to '{captions[0].clip_id}'"):
        gap_ranks(scorer, videos, ["x", *ids[1:]], captions, negatives, "r")


# many gaps at once

def mean(gaps): return gaps.mean((-2, -1))
def difference(gaps): return gaps[..., 0, :].mean(-1) - gaps[..., 1, :].mean(-1)


def loop(table, runs, kinds, combine, ks, weight):
    "Compute the gaps of equation (7) in plain Python with weighted clips; None if one gap is not defined."
    gaps = np.zeros((len(runs), len(kinds)))
    for i, run in enumerate(runs):
        for j, kind in enumerate(kinds):
            for d in ("t2v", "v2t"):
                for k in ks:
                    found, asked = {"true": 0., "manipulated": 0.}, 0.
                    for row in table.itertuples():
                        if (row.run, row.kind, row.direction) != (run, kind, d): continue
                        found[row.group] += weight[row.clip_id] * (row.rank <= k)
                        asked += weight[row.clip_id] * (row.group == "true")
                    if not found["true"]: return None
                    p, q = found["true"] / asked, found["manipulated"] / asked
                    gaps[i, j] += (p - q) / p / 2 / len(ks)
    return combine(gaps)


@pytest.mark.parametrize("combine", [mean, difference])
def test_joint_gaps_equal_a_plain_loop(combine):
    table = toy_gaps({"x": .5, "y": {"a": .1, "b": .9, "c": 0}, "not asked": 1}, ("a", "b", "c"), clips=12)
    table = table[(table.kind != "b") | (table.clip_id < "clip0009")] # each kind has its own clips
    runs, kinds, n = ["x", "y"], ["b", "a"], 40
    clips = sorted(set(table.clip_id))
    e = joint_gaps(table, runs, kinds, combine, (1, 9), n=n, seed=3)
    assert e.value == pytest.approx(loop(table, runs, kinds, combine, (1, 9), dict.fromkeys(clips, 1)))
    drawn = [loop(table, runs, kinds, combine, (1, 9), dict(zip(clips, w))) for w in clip_weights(12, n, 3, 0)]
    assert [e.low, e.high] == pytest.approx(list(np.quantile([d for d in drawn if d is not None], [.025, .975])))
    assert e.n == 12 + 9 and e.clips == 12


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=4, max_size=20))
def test_a_joint_gap_of_one_run_and_kind_equals_the_single_gap(pairs):
    ids = [f"c{i}" for i in range(len(pairs))]
    rows = [("a", group, "r", c, c if d == "t2v" else "", d, pair[at]) for d in ("t2v", "v2t")
            for at, group in enumerate(("true", "manipulated")) for c, pair in zip(ids, pairs)]
    table, (true, false) = pd.DataFrame(rows, columns=GAP_COLUMNS), np.array(pairs).T
    single = relative_gap(true, false, np.arange(len(pairs)), 1, n=50)
    try: e = joint_gaps(table, ["r"], ["a"], ks=(1,), n=50)
    except VidnegError as error:
        assert "the gap is not defined" in str(error) and (true == 1).mean() < .9
        return
    assert e.value == pytest.approx(single.value) and len(pairs) == e.n == e.clips


def test_paired_runs_make_a_narrower_interval():
    table = toy_gaps({"x": .5, "z": .5}, ("a",), clips=60)
    twin = pd.concat([table[table.run == "x"], table[table.run == "x"].assign(run="y"), table[table.run == "z"]])
    same, other = (joint_gaps(twin, ["x", run], ["a"], difference, n=300) for run in "yz")
    assert same.value == same.low == same.high == 0
    assert other.low < other.high


def test_gaps_that_are_not_defined_are_errors():
    table = toy_gaps({"x": .5, "y": .2}, ("a", "b"), clips=20)
    never = table.assign(**{"rank": table["rank"].where((table.run != "y") | (table.kind != "b"), 9)})
    with pytest.raises(VidnegError, match="y has t2v R@1 = 0 for true captions of kind 'b'"):
        joint_gaps(never, ["x", "y"], ["a", "b"])
    assert joint_gaps(never, ["x"], ["a", "b"], n=20).n == 40 # other runs and kinds still work
    once = never.copy()
    once.loc[(once.run == "y") & (once.kind == "b") & (once.clip_id == "clip0003"), "rank"] = 1
    with pytest.raises(VidnegError, match="not defined in .* of the resamples"): joint_gaps(once, ["y"], ["b"], ks=(1,))
    with pytest.raises(VidnegError, match="no t2v ranks of run 'z' of kind 'a'"): joint_gaps(table, ["x", "z"], ["a"])
    less = table[(table.run != "y") | (table.clip_id != "clip0001")]
    with pytest.raises(VidnegError, match="different clips"): joint_gaps(less, ["x", "y"], ["a"])


def test_wrong_tables_of_ranks_are_refused():
    table = toy_gaps({"x": .5}, ("a",), clips=5)
    assert check_gaps(table) is table
    for bad, word in ((table.drop(columns="group"), "'group'"), (table[:0], "empty"),
                      (pd.concat([table, table]), "twice"), (table.replace({"group": {"true": "other"}}), "'other'")):
        with pytest.raises(VidnegError, match=word): check_gaps(bad)
