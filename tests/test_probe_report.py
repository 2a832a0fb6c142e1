"The report of a probe against plain loops; its sentences, its page and its files."
import re

import numpy as np
import pandas as pd
import pytest

from vidneg.core.errors import VidnegError
from vidneg.core.records import Clip
from vidneg.evaluate.accuracy import toy_scores
from vidneg.evaluate.stats import Estimate
from vidneg.report.probing import Effect, ProbeReport, effects, mistakes, probe_table, unscored, verdict


@pytest.fixture(scope="module")
def scores():
    table = toy_scores({"model": 1., "shuffled": .9, "blank": 0.}, clips=40, forms=["balanced"])
    table = table.assign(status="", model="m", n_frames=8, prompt="")
    late = table.item.str.endswith("0007")
    table.loc[late, "status"] = "video not readable: cut off"
    only = (table.run == "shuffled") & table.item.str.endswith("0003")
    table.loc[only, "status"] = "one frame"
    return table


@pytest.fixture(scope="module")
def report(scores):
    own = scores[scores.run == "model"]
    items = own[["item", "clip_id", "kind", "form", "generator"]].assign(
        caption="=<script>alert(1)</script> a dog runs", negative="=<script>alert(1)</script> a dog sits")
    rankers = pd.DataFrame([(s, k, a, a - .1, a + .1, 39) for s, a in (("bag", .6), ("length", .5))
                            for k in (*dict.fromkeys(own.kind), "all")],
                           columns=["scorer", "kind", "accuracy", "low", "high", "n"])
    return ProbeReport("model <b>", "data", items, scores, rankers=rankers, notes=("One clip was left out.",))


def test_accuracies_equal_the_plain_loop(scores):
    table = probe_table(scores, n=50).set_index(["run", "kind"])
    for run in ("model", "shuffled", "blank"):
        for kind in ("action", "all"):
            right = [r.p_pos > r.p_neg for r in scores.itertuples()
                     if r.run == run and r.status == "" and kind in ("all", r.kind)]
            assert table.value[run, kind] == pytest.approx(np.mean(right))
            assert table.n[run, kind] == len(right)


def test_a_control_is_compared_on_the_items_that_both_could_score(scores):
    [shuffled, blank] = effects(scores, n=50)
    by = {r.run: {} for r in scores.itertuples()}
    for r in scores.itertuples():
        if r.status == "": by[r.run][r.item] = float(r.p_pos > r.p_neg)
    gaps = [by["model"][i] - by["shuffled"][i] for i in by["model"] if i in by["shuffled"]]
    assert shuffled.difference.value == pytest.approx(np.mean(gaps)) and shuffled.difference.n == len(gaps)
    assert blank.difference.n == len(by["model"]) == 156 and shuffled.difference.n == 152
    assert shuffled.visible > 2.8*np.sqrt(np.mean(np.square(gaps))/len(gaps))*.99


def test_unscored_items_are_counted_by_their_reason(scores):
    assert unscored(scores) == "video not readable: 4"
    with pytest.raises(VidnegError, match="no item could be scored; x: 2"):
        probe_table(pd.DataFrame({"run": ["m"]*2, "status": ["x: a", "x: b"]}))


def test_mistakes_are_wrong_of_different_clips_and_worst_first(scores):
    worst = mistakes(scores, 5)
    assert len(worst) == 5 and worst.clip_id.is_unique and (worst.run == "model").all()
    assert (worst.margin <= 0).all() and worst.margin.is_monotonic_increasing
    own = scores[(scores.run == "model") & (scores.status == "")]
    assert worst.margin.iloc[0] == (own.p_pos - own.p_neg).min()


@pytest.mark.parametrize("value, low, high, n, words", [
    (.5, .4, .6, 500, "not visibly different from chance"), (.3, .2, .4, 500, "prefers the negatives"),
    (.9, .8, .95, 50, "50 items decide little"), (.9, np.nan, np.nan, 500, "nothing follows")])
def test_the_verdict_follows_the_intervals(value, low, high, n, words):
    assert words in " ".join(verdict("m", Estimate(value, low, high, n, 50)))


@pytest.mark.parametrize("low, high, words", [
    (.45, .55, "do not visibly reveal"), (.55, .7, "not visibly more accurate"), (.51, .55, "is more accurate"),
    (.2, .4, "clearly below 50")])
def test_the_verdict_compares_with_the_blind_baseline(low, high, words):
    said = verdict("m", Estimate(.65, .6, .7, 500, 100), Estimate((low + high)/2, low, high, 500, 100))
    assert words in said[-1]


@pytest.mark.parametrize("low, high, words", [(.02, .2, "falls by 10.0 points"), (-.2, -.02, "rises by"),
                                              (-.1, .1, "no change is visible"), (np.nan, np.nan, "decides nothing")])
def test_the_verdict_says_what_a_control_shows(low, high, words):
    value = np.nanmean([low, high]) if not np.isnan(low) else 0
    value = .1 if low == .02 else value
    effect = Effect("shuffled", Estimate(value, low, high, 9, 3), .1)
    said = verdict("m", Estimate(.65, .6, .7, 500, 100), None, [effect])
    assert words in said[-1] and "frames shuffled" in said[-1]


def test_a_model_at_chance_has_no_verdict_on_controls():
    effect = Effect("blank", Estimate(.1, .02, .2, 9, 3), .1)
    said = verdict("m", Estimate(.5, .45, .55, 500, 100), None, [effect])
    assert said[-1] == "A model at chance has nothing to lose: the controls decide nothing." and len(said) == 3


def test_the_page_shows_texts_as_texts(report):
    page = report.page()
    assert "<script>" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "model &lt;b&gt;" in page and "<mark>sits</mark>" in page and "<del>runs</del>" in page
    assert "no frames" in page and "One clip was left out." in page and "video not readable: 4" in page
    assert not re.search(r"(?:src|href)=.(?!data:|#)", page)


def test_the_best_ranker_is_the_blind_baseline(report):
    blind = report.accuracy[report.accuracy.run == "blind"]
    assert (blind.value == .6).all() and list(blind.kind)[-1] == "all"
    assert list(report.table().index)[-1] == "blind (best ranker of the texts)"


def test_rankers_below_chance_are_named(report):
    assert not any("below 50" in said for said in report.verdict)
    low = report.rankers.assign(low=.2, high=.4, accuracy=.3).where(report.rankers.scorer == "length", report.rankers)
    turned = ProbeReport(report.name, report.data, report.items, report.scores, rankers=low)
    assert "Clearly below 50 % without the video: length (30 %)." in turned.verdict[-1]


def test_saving_twice_gives_the_same_bytes_and_keeps_other_files(report, tmp_path):
    (tmp_path/"mine.txt").write_text("mine")
    report.save(tmp_path)
    first = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    report.save(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == first
    assert {"report.html", "report.md", "accuracy.svg", "scores.parquet", "items.parquet", "mine.txt"} <= first.keys()
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path/"scores.parquet"), report.scores.reset_index(drop=True))


def test_a_clip_that_cannot_be_read_costs_its_picture_only(report, tmp_path):
    (tmp_path/"broken.mp4").write_bytes(b"no video")
    worst = mistakes(report.scores, 1).clip_id.iloc[0]
    report.clips = {worst: Clip(worst, str(tmp_path/"broken.mp4"), "test")}
    assert "no frames: " in report.page(1) and "broken.mp4" in report.page(1)
