"Ranks against sorting by hand, ties, several captions per clip."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays

from vidneg.core.errors import VidnegError
from vidneg.core.seeds import stable_rng
from vidneg.evaluate.retrieval import (
    RETRIEVAL_METRICS,
    rank_matrix,
    ranks,
    retrieval_difference,
    retrieval_estimate,
    retrieval_ranks,
    retrieval_table,
    toy_ranks,
)


def loop_ranks(similarity, query, candidate):
    "Compute ranks by a loop: the best true candidate comes after all wrong ones with the same score."
    out = []
    for row, q in zip(similarity, query):
        best = max(s for s, c in zip(row, candidate) if c == q)
        out.append(1 + sum(1 for s, c in zip(row, candidate) if c != q and s >= best))
    return out


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(6, 9)), elements=st.sampled_from([-1., 0., .5, 1.])),
       st.integers(1, 4), st.integers(0, 99))
def test_ranks_equal_the_plain_loop(similarity, chunk, seed):
    q, c = similarity.shape
    candidate = np.concatenate([np.arange(q), stable_rng(seed, "ids").integers(q, size=c - q)])
    assert ranks(similarity, range(q), candidate, chunk).tolist() == loop_ranks(similarity, range(q), candidate)


def test_ranks_without_ties_are_positions_in_the_sorted_list():
    s = stable_rng(0, "s").normal(size=(30, 30))
    expected = [int(np.flatnonzero(np.argsort(-row) == i)[0]) + 1 for i, row in enumerate(s)]
    assert ranks(s, range(30), range(30), chunk=7).tolist() == expected


def test_constant_scores_get_the_worst_rank():
    assert (ranks(np.ones((5, 5)), range(5), range(5)) == 5).all()
    assert (ranks(np.ones((2, 6)), [0, 1], [0, 0, 0, 1, 1, 1]) == 4).all() # three wrong candidates, all ranked before
    assert (ranks(np.full((3, 3), -np.inf), range(3), range(3)) == 3).all()


@pytest.mark.parametrize("call, words", [
    (lambda: ranks(np.full((2, 2), np.nan), list("ab"), list("ab")), "NaN similarity for query a"),
    (lambda: ranks(np.zeros((2, 3)), list("ab"), list("ab")), "2 queries and 2 candidates"),
    (lambda: ranks(np.zeros((2, 1)), list("ab"), list("a")), "'b'"),
    (lambda: retrieval_ranks(np.zeros((1, 2)), ["a"], ["x", "y"], ["a"], "r"), "one clip for each"),
    (lambda: retrieval_table(pd.DataFrame({"run": []})), "clip_id"),
    (lambda: retrieval_estimate([1], ["a"], "R@2"), "R@10")])
def test_bad_input_has_one_clear_error(call, words):
    with pytest.raises(VidnegError, match=words): call()


def test_two_captions_of_a_clip_by_hand():
    s = np.array([[.9, .2, .5], [.3, .4, .8]]) # clips a, b; captions a1, a2 of a, b1 of b
    table = retrieval_ranks(s, list("ab"), ["a1", "a2", "b1"], list("aab"), "r")
    assert table[table.direction == "t2v"].set_index("caption_id")["rank"].to_dict() == {"a1": 1, "a2": 2, "b1": 1}
    assert table[table.direction == "v2t"].set_index("clip_id")["rank"].to_dict() == {"a": 1, "b": 1}


def test_ranks_among_clips_by_hand():
    s = np.array([[.5, .9, .8, .1], [.2, .6, .3, .4]]) # videos a, b; captions a1, b1, b2, c1
    table = lambda among: retrieval_ranks(s, list("ab"), ["a1", "b1", "b2", "c1"][:3], list("abb"), "r", among=among)
    s = s[:, :3]
    v2t = {k: t[t.direction == "v2t"]["rank"].tolist() for k in ("texts", "videos") for t in [table(k)]}
    assert v2t == {"texts": [3, 1], "videos": [2, 1]} # CLIP4Clip's MSVD protocol: a wrong video counts once
    assert table("texts").query("direction == 't2v'").equals(table("videos").query("direction == 't2v'"))
    with pytest.raises(VidnegError, match="'texts' or among 'videos'"): table("captions")


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(5, 9)), elements=st.sampled_from([-1., 0., .5, 1.])),
       st.integers(1, 4), st.integers(0, 99))
def test_ranks_among_clips_equal_ranks_of_the_best_captions(similarity, chunk, seed):
    q, c = similarity.shape
    candidate = np.concatenate([np.arange(q), stable_rng(seed, "ids").integers(q, size=c - q)])
    clips = sorted(set(candidate.tolist()))
    best = [[max(s for s, k in zip(row, candidate) if k == clip) for clip in clips] for row in similarity]
    assert ranks(similarity, range(q), candidate, chunk, by_clip=True).tolist() == loop_ranks(best, range(q), clips)


def test_metrics_by_hand():
    rank, clips = [1, 1, 3, 7, 20], list("abcde")
    value = {m: retrieval_estimate(rank, clips, m).value for m in RETRIEVAL_METRICS}
    assert value == pytest.approx({"R@1": .4, "R@5": .6, "R@10": .8, "Avg": .6, "MedR": 3, "MnR": 6.4})


def test_difference_is_the_difference_of_the_table():
    toy = toy_ranks({"a": 2, "b": 3}, clips=60)
    table = retrieval_table(toy).pivot(index=["direction", "metric"], columns="run", values="value")
    gap = retrieval_difference(toy.sample(frac=1, random_state=0), "b", "a").set_index(["direction", "metric"])
    assert (gap.value - (table.b - table.a)[gap.index]).abs().max() < 1e-12
    assert set(gap.index.get_level_values("metric")) == set(RETRIEVAL_METRICS) - {"MedR"}


def test_unequal_queries_are_not_compared():
    toy = toy_ranks({"a": 2, "b": 3}, clips=10)
    with pytest.raises(VidnegError, match="different"): rank_matrix(toy[1:])
    with pytest.raises(VidnegError, match="twice"): retrieval_table(pd.concat([toy, toy[:1]]))
    with pytest.raises(VidnegError, match="'c'"): rank_matrix(toy, runs=["a", "c"])
