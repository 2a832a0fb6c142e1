"Tables checked by hand, the papers' numbers, verdicts of claims, and files with the same bytes each time."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from vidneg.core.errors import VidnegError
from vidneg.core.records import Question, write_records
from vidneg.evaluate.accuracy import ITEM_COLUMNS, KINDS, SCORE_COLUMNS, accuracy_difference, accuracy_table, toy_scores
from vidneg.evaluate.gap import toy_gaps
from vidneg.evaluate.retrieval import RANK_COLUMNS, RETRIEVAL_METRICS, toy_ranks
from vidneg.evaluate.stats import Estimate
from vidneg.report.claims.claim import Evidence, marked, read_evidence, verdict
from vidneg.report.claims.page import PAPERS, claims_markdown, claims_of, count_verdicts, decide, write_claims
from vidneg.report.claims.spot import BEFORE, PROBED
from vidneg.report.figures import (
    RUN_COLORS,
    accuracy_figure,
    case_study,
    choose_cases,
    giveaway_figure,
    marked_words,
    negatives_figure,
    run_colors,
    save_figure,
    shortcut_figure,
    training_figure,
    wrapped,
)
from vidneg.report.labels import run_order
from vidneg.report.tables import (
    ABLATIONS,
    DIFFERENCE,
    ablation_table,
    paper_table,
    table2,
    table2_compact,
    table2_intervals,
    table6,
    table6_markdown,
    write_ablation,
    write_table2,
    write_table6,
)

CLAIMS = claims_of()


# the paper's numbers

@pytest.mark.parametrize("number, wrong", [(2, {("NegVidL", "acc")}), (3, set()), (4, set())])
def test_paper_averages(number, wrong):
    table = paper_table(number)
    for metric in ("acc", "acc_hat"):
        means = table[[f"{k} {metric}" for k in KINDS]].mean(axis=1)
        off = table[(means - table[f"average {metric}"]).abs() > .0051]
        assert {(m, metric) for m in off.get("model", [])} == {w for w in wrong if w[1] == metric}
        assert len(off) <= 1


def test_paper_tables_agree_with_each_other():
    two, three, four = (paper_table(n).iloc[:, -10:] for n in (2, 3, 4))
    assert (two.iloc[2] == three.iloc[0]).all() and (two.iloc[2] == four.iloc[0]).all() # NAVERO on MSRVTT
    assert (two.iloc[0] == four.iloc[3]).all() # Vanilla


def test_paper_retrieval():
    table = paper_table(6).dropna()
    off = table[(table[["R@1", "R@5", "R@10"]].mean(axis=1) - table.Avg).abs() > .051]
    assert off.model.tolist() == ["All-in-one"]
    assert table.groupby("dataset").size().to_dict() == {"MSRVTT": 9, "DiDeMo": 9, "ActivityNet": 5}


def test_paper_tables_by_name():
    with pytest.raises(VidnegError, match="2, 3, 4, 6"): paper_table(5)
    with pytest.raises(VidnegError, match="choose one of: 2, 3, 4, 5"): paper_table(6, "components")
    with pytest.raises(VidnegError, match="'compo'; choose one of: components, navero, spot"): paper_table(3, "compo")
    assert paper_table(2).equals(paper_table(2, "navero"))
    for number in (2, 3, 4, 5):
        table = paper_table(number, "components")
        assert not table.duplicated(["model", "run"]).any() and not table.isna().any(axis=None)
        assert set(table[table.run == "Baseline"].model) == set(table.model)


def test_gains_stated_by_the_paper_on_components():
    "Its abstract states gains of 8.3 % and 1.4 % in R@1 and of 2.0 to 13.7 % in average mAP; its text, of Table 4."
    def gain(number, column):
        table = paper_table(number, "components").pivot(index="model", columns="run", values=column)
        return (100*(table.Adaptive/table.Baseline - 1)).round(1).to_dict()
    assert gain(3, "V2T R@1") == {"X-CLIP": 8.3} and gain(3, "T2V R@1") == {"X-CLIP": 1.4}
    assert gain(2, "mAP") == {"Moment-DETR": 13.7, "QD-DETR": 2.0}
    four = paper_table(4, "components")
    assert four[four.model == "Moment-DETR"].set_index("run").mAP.idxmax() == "Object Changed Query"
    assert four[four.model == "QD-DETR"].set_index("run").mAP.idxmax() == "Negated Verb Query"
    same = [paper_table(n, "components").iloc[0].drop("run") for n in (3, 5)]
    assert same[0].equals(same[1])


def test_paper_tables_of_gaps():
    "Cells of Tables 8 to 10 of the paper: two gaps for each of eight kinds, six models, two directions."
    eight, nine, ten = (paper_table(n, "spot") for n in (8, 9, 10))
    for table, data in ((eight, "ActivityNet"), (nine, "MovieGraphs")):
        assert table.shape == (12, 3 + 16) and set(table.dataset) == {data} and not table.isna().any(axis=None)
        assert list(table.model) == [m for m in PROBED.values() for _ in range(2)]
        assert list(table.direction) == ["t2v", "v2t"] * 6
        kinds = [c.rsplit(" ", 1)[0] for c in table.columns[3::2]]
        assert [k.split()[0] for k in kinds] == ["temporal"] * 3 + ["neighborhood"] + ["counterfactual"] * 4
    def cell(table, model, direction, column):
        return table.set_index(["model", "direction"]).loc[(model, direction), column]
    assert cell(eight, "Clip4clip(transf)", "t2v", "temporal attribute 2nd") == .64
    assert cell(eight, "ALPRO", "v2t", "counterfactual attribute 1st") == .34
    assert cell(eight, "InternVideo", "t2v", "counterfactual spatial relationship 2nd") == .60
    assert cell(eight, "Singularity-temporal", "v2t", "temporal contact 2nd") == -.07
    assert cell(nine, "X-CLIP", "t2v", "temporal attribute 1st") == -.23
    assert cell(nine, "InternVideo", "v2t", "counterfactual interaction 1st") == .50
    assert cell(nine, "Clip4clip(mean)", "t2v", "temporal interaction 1st") == .05
    assert ten.iloc[:, 2:].values.tolist() == [[29.18, 3.80, 21.47], [33.63, 5.55, 22.34]]
    assert eight.iloc[:, 3:].sum(axis=None) == pytest.approx(15.31)
    assert nine.iloc[:, 3:].sum(axis=None) == pytest.approx(7.36)


# tables

def by_hand():
    "Make scores of two clips with one item per category; vanilla has 1 of 8 right, NAVERO 7 of 8."
    rows, every = [], {(kind, clip) for kind in KINDS for clip in "ab"}
    for run, right in {"vanilla": {("action", "a")}, "navero": every - {("object", "b")}}.items():
        for kind in KINDS:
            for clip in "ab":
                p = (.75, .25) if (kind, clip) in right else (.75, .75)
                rows.append((f"{kind}{clip}", clip, run, kind, "balanced", "g", *p, *p))
    return pd.DataFrame(rows, columns=SCORE_COLUMNS)


def test_table2_by_hand():
    numbers = table2(by_hand())
    ours = numbers[numbers.source == "ours"].set_index(["model", "metric", "category"]).value
    assert ours["vanilla", "acc", "action"] == 50 and ours["vanilla", "acc", "average"] == 12.5
    assert ours["navero", "acc", "average"] == 87.5 and ours[DIFFERENCE, "acc", "average"] == 75
    assert ours["vanilla", "acc_hat", "action"] == 75 and ours["navero", "acc_hat", "object"] == 75
    lines = table2_compact(numbers).splitlines()
    assert lines[0] == "| Test data | Model | Action | Attribute | Relation | Object | Avg | n (clips) |"
    assert lines[2] == "| AARO-World | Vanilla | 50.0/75.0 | 0.0/50.0 | 0.0/50.0 | 0.0/50.0 | 12.5/56.2 | 8 (2) |"
    assert lines[4].startswith("| AARO-MSRVTT *(paper)* | Vanilla | 67.63/57.31 |")
    assert len(lines) == 2 + 2 + 9 and len(table2_compact(numbers, paper=False).splitlines()) == 4
    assert "| acc | NAVERO − Vanilla | +50.0 [" in table2_intervals(numbers)


def test_table6_by_hand():
    rows = [(run, clip, clip, "t2v", rank)
            for run, ranked in {"vanilla": (1, 6, 11, 2), "navero": (1, 1, 11, 3)}.items()
            for clip, rank in zip("abcd", ranked)]
    numbers = table6(pd.DataFrame(rows, columns=RANK_COLUMNS))
    ours = numbers[numbers.source == "ours"].set_index(["model", "metric"]).value
    assert [ours["vanilla", m] for m in RETRIEVAL_METRICS] == pytest.approx([25, 50, 75, 50, 4, 5])
    assert ours[DIFFERENCE, "R@1"] == 25 and ours[DIFFERENCE, "MnR"] == -1
    plain = table6_markdown(numbers, intervals=False).splitlines()
    assert plain[2] == "| World | Vanilla | 25.0 | 50.0 | 75.0 | 50.0 | 4.0 | 5.0 | 4 (4) |"
    assert plain[4] == "| World | NAVERO − Vanilla | +25.0 | +25.0 | +0.0 | +16.7 | – | −1.0 | 4 (4) |"


def test_ablations_by_hand():
    scores = by_hand().replace({"run": {"vanilla": "lm_5r"}})
    numbers = ablation_table(3, scores)
    ours = numbers[numbers.source == "ours"].set_index(["model", "metric", "category"]).value
    assert ours["Mixed, 5 rounds", "acc", "average"] == 87.5 and ours["LM-based, 5 rounds", "acc", "action"] == 50
    assert ours["LM-based, 5 rounds − Mixed, 5 rounds", "acc", "average"] == -75
    assert len(set(numbers[numbers.source == "ours"].model)) == 3 and set(numbers.form.dropna()) == {"balanced"}
    lines = table2_compact(numbers).splitlines()
    assert len(lines) == 2 + 2 + 5 and lines[2].startswith("| AARO-World | Mixed, 5 rounds | 100.0/")
    assert lines[6].startswith("| AARO-MSRVTT *(paper)* | LM-based, 5 rounds | 78.91/60.60 |")
    assert "| acc | LM-based, 5 rounds − Mixed, 5 rounds | −50.0 [" in table2_intervals(numbers)


def test_ablation_rows_are_those_of_the_paper():
    three = zip(ABLATIONS[3], paper_table(3).itertuples())
    rows = {run: (row[1], row.rounds, row[3]) for run, row in three}
    assert rows == {"navero": ("Mixed", 5, True), "rule_5r": ("Rule-based", 5, True), "lm_5r": ("LLM-based", 5, True),
                    "mixed_1r": ("Mixed", 1, True), "mixed_5r_old": ("Mixed", 5, False)}
    four = {run: (row.neg_vtc, row.neg_vtm) for run, row in zip(ABLATIONS[4], paper_table(4).itertuples())}
    assert four == {"navero": (False, True), "navero_negvtc": (True, True), "negvidl": (True, False),
                    "vanilla": (False, False)}


def test_an_ablation_without_runs_shows_the_paper(tmp_path):
    page = write_ablation(3, by_hand().replace({"run": {"navero": "other"}}), tmp_path).read_text()
    assert "None of these runs" in page and page.count("| AARO-MSRVTT *(paper)* |") == 5
    numbers = pd.read_csv(tmp_path/"table3.csv")
    assert set(numbers.source) == {"paper"} and len(numbers) == 5*10
    assert "NAVERO: neg-VTM" in write_ablation(4, by_hand(), tmp_path).read_text()


def test_missing_runs_leave_the_table_whole():
    numbers = table2(toy_scores({"blind": 0, "vanilla": 1}, 10, forms=["balanced"]))
    assert DIFFERENCE not in set(numbers.model) and "Blind (text only)" in table2_compact(numbers)
    assert run_order(["x", "navero", "blind", "navero"]) == ["blind", "navero", "x"]


def test_tables_have_the_same_bytes(tmp_path):
    scores, ranks = toy_scores({"blind": 0, "navero": 1, "vanilla": .5}, 30), toy_ranks({"vanilla": 2, "navero": 3}, 30)
    for folder, step in {"one": 1, "two": -1}.items():
        write_table2(scores[::step], tmp_path/folder)
        write_table6(ranks[::step], tmp_path/folder)
        write_ablation(4, scores[::step], tmp_path/folder)
    names = sorted(p.name for p in (tmp_path/"one").iterdir())
    assert names == ["table2.csv", "table2.md", "table4.csv", "table4.md", "table6.csv", "table6.md"]
    for name in names: assert (tmp_path/"one"/name).read_bytes() == (tmp_path/"two"/name).read_bytes(), name
    back = pd.read_csv(tmp_path/"one"/"table2.csv")
    assert set(back.source) == {"ours", "paper"} and set(back.form.dropna()) == {"balanced", "rules"}


# figures

def every_figure(scores):
    table, gaps = accuracy_table(scores, ["acc"]), accuracy_difference(scores, "navero", "vanilla")
    logs = pd.DataFrame(dict(run=["vanilla"] * 3 + ["navero"] * 3, epoch=[1, 2, 3] * 2, vtc=[3, 2, 1.] * 2,
                             neg_vtm=[np.nan] * 3 + [1, .5, .2]))
    chosen = choose_cases(scores)
    items = pd.DataFrame([(c.item, c.clip_id, c.kind, "balanced", "g", "a star spins", "a star jumps")
                          for c in chosen.itertuples()], columns=ITEM_COLUMNS)
    frames = {c: np.full((4, 8, 8, 3), 90, np.uint8) for c in chosen.clip_id}
    return {"accuracy": accuracy_figure(table),
            "shortcut": shortcut_figure(pd.concat([gaps.assign(shortcut=s) for s in (0, 1)])),
            "one setting": shortcut_figure(gaps.assign(shortcut=0)),
            "negatives": negatives_figure(pd.concat(
                [table[table.form == "balanced"].assign(negatives=k) for k in (1, 5)])),
            "training": training_figure(logs),
            "cases": case_study(chosen, scores, items, frames)}


@pytest.mark.slow
def test_figures_have_the_same_bytes(tmp_path):
    scores = toy_scores({"blind": 0, "vanilla": .3, "navero": 1}, 40)
    for folder in ("one", "two"):
        for name, fig in every_figure(scores).items(): save_figure(fig, tmp_path/folder/name, dpi=60)
    files = sorted(p.name for p in (tmp_path/"one").iterdir())
    assert len(files) == 12
    for name in files: assert (tmp_path/"one"/name).read_bytes() == (tmp_path/"two"/name).read_bytes(), name
    assert b"<dc:date>" not in (tmp_path/"one"/"accuracy.svg").read_bytes()


def test_texts_stay_inside_figures_and_do_not_overlap():
    for name, fig in every_figure(toy_scores({"blind": 0, "vanilla": .3, "negvidl": .5, "navero": 1}, 40)).items():
        fig.draw_without_rendering()
        box, (width, height) = fig.get_tightbbox(), fig.get_size_inches()
        assert box.x0 >= -.01 and box.y0 >= -.01 and box.x1 <= width + .01 and box.y1 <= height + .01, name
        texts = [t for ax in fig.axes for t in [*ax.texts, ax.title, ax.xaxis.label, ax.yaxis.label] if t.get_text()]
        boxes = [t.get_window_extent().shrunk(.9, .9) for t in texts + fig.texts]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i]), name


def test_cases_are_chosen_by_the_rule():
    scores = by_hand()
    assert choose_cases(scores)[["kind", "clip_id"]].values.tolist() == [
        ["action", "b"], ["attribute", "a"], ["relation", "a"], ["object", "a"]] # equal changes go by item id
    chosen = choose_cases(scores).set_index("kind")
    assert chosen.candidates.to_dict() == {"action": 1, "attribute": 2, "relation": 2, "object": 1}
    assert len(choose_cases(scores, wrong="navero", right="vanilla")) == 0
    with pytest.raises(VidnegError, match="no case"): case_study(chosen[:0], scores, None, {})
    with pytest.raises(VidnegError, match="negvidl"): choose_cases(scores, right="negvidl")


def test_marked_words_join_to_the_texts():
    a, b = marked_words("the red star pushes a ring", "the star follows a small ring")
    assert " ".join(w for w, _ in a) == "the red star pushes a ring" and [w for w, m in a if m] == ["red", "pushes"]
    assert [w for w, m in b if m] == ["follows", "small"]


def test_lines_are_wrapped():
    words = [(w, i % 2 == 0) for i, w in enumerate("a rather long sentence that has to be broken somewhere".split())]
    lines = wrapped(words, 80, 8)
    assert [(w, m) for line in lines for _, w, m in line] == words and len(lines) > 2
    assert all(x < 80 for line in lines for x, _, _ in line) and all(line[0][0] == 0 for line in lines)


def test_a_run_has_one_color():
    for runs in (["navero", "new"], ["vanilla", "navero"]):
        assert run_colors(runs)["navero"] == RUN_COLORS["navero"]
    assert len(set(run_colors(["x", "y", "vanilla"]).values())) == 3


def test_data_without_some_categories_has_a_note_and_a_table_without_average(tmp_path):
    scores = toy_scores({"vanilla": 1., "navero": 1.2}, clips=20)
    scores = scores[~((scores.form == "balanced") & scores.kind.isin(["attribute", "relation"]))]
    averages = accuracy_table(scores[scores.form == "balanced"], ("acc",), n=20).query("kind == 'average'")
    fig = giveaway_figure(averages.assign(blind=.5, blind_low=.4, blind_high=.6))
    assert not len(averages) and "lacks items of some categories" in fig.texts[0].get_text()
    text = write_ablation(3, scores, tmp_path, n=20, data="own").read_text()
    row = next(line for line in text.splitlines() if "| own" in line)
    assert row.count("–/–") == 3 and "Mixed, 5 rounds" in row # attribute, relation, average


def test_figure_errors():
    with pytest.raises(VidnegError, match="'run'"): accuracy_figure(pd.DataFrame({"kind": ["a"]}))
    with pytest.raises(VidnegError, match="empty"):
        accuracy_figure(accuracy_table(toy_scores({"a": 1}, 5)), form="none")


# claims

@pytest.mark.parametrize("low, high, above, below, word", [
    (.01, .05, 0, np.inf, "holds"), (-.01, .05, 0, np.inf, "open"), (-.05, -.01, 0, np.inf, "reversed"),
    (0, 0, 0, np.inf, "open"), (np.nan, np.nan, 0, np.inf, "open"), (-.03, .02, -.05, np.inf, "holds"),
    (.47, .52, .45, .55, "holds"), (.44, .52, .45, .55, "open"), (.56, .7, .45, .55, "reversed"),
    (.2, .3, .45, .55, "reversed")])
def test_verdict(low, high, above, below, word):
    assert verdict(Estimate((low + high) / 2, low, high, 10, 10), above, below) == word


ends = st.floats(-1, 1, allow_nan=False)

@given(ends, ends, ends, ends)
def test_a_verdict_is_decided_by_the_interval_alone(low, high, above, below):
    (low, high), (above, below) = sorted((low, high)), sorted((above, below))
    word = verdict(Estimate(low, low, high, 10, 10), above, below)
    inside = [above < x < below for x in np.linspace(low, high, 50)]
    if word == "holds": assert all(inside)
    if word == "reversed": assert not any(inside)
    assert word == verdict(Estimate(high, low, high, 10, 10), above, below) # whatever the value
    wider = verdict(Estimate(low, low - .5, high + .5, 10, 10), above, below)
    assert wider in (word, "open") # less evidence never reverses a verdict
    mirror = verdict(Estimate(low, -high, -low, 10, 10), -below, -above)
    assert mirror == word


def some_answers(hn, plain, n=150):
    "Make questions of two kinds, three per clip; each run has so many of ten right."
    rows = [(f"c{i // 3}", kind, i * 7 % 10 < hn, i * 3 % 10 < plain)
            for kind in ("temporal", "counterfactual") for i in range(n)]
    return pd.DataFrame(rows, columns=["clip_id", "kind", "hn", "plain"])


def some_moments(skills, queries=120):
    parts = [pd.DataFrame({"run": f"{model}/{run}", "query_id": [f"q{i}" for i in range(queries)],
                           "clip_id": [f"f{i // 3}" for i in range(queries)], "length": length,
                           "mAP": [(i * 37 % 100) / 200 + skill for i in range(queries)]})
             for model in ("MomentDETR", "QDDETR") for run, skill in skills.items() for length in ("full", "short")]
    return pd.concat(parts, ignore_index=True)


def a_copy(scores, run, name): return scores[scores.run == run].assign(run=name)


def some_pairs(baseline, adaptive):
    return toy_scores({"baseline": baseline, "adaptive": adaptive}, forms=["balanced"], kinds=("verb", "subject"))


def some_events(within, counterfactual):
    kinds = "temporal action", "neighborhood attribute", "counterfactual action"
    skill = dict(zip(kinds, (within, within, counterfactual)))
    return toy_scores(dict.fromkeys(BEFORE.values(), skill), 1500, ["balanced"], kinds)


def some_cross(skills, seeds=2):
    "Make scores of the cross; `skills` maps a form to the skill of each run in it."
    return pd.concat([toy_scores(runs, 300, [form], seed=s).assign(seed=s)
                      for form, runs in skills.items() for s in range(seeds)], ignore_index=True)


CROSSED = "vanilla/model", "published/model", "balanced/model", "published/blind"


def all_true():
    "Make evidence by which every claim holds."
    vanilla = dict(zip(KINDS, (0, 1, 0, 1)))
    scores = toy_scores({"blind": 0, "vanilla": vanilla, "negvidl": .8, "navero": 1.9, "rule_5r": .7, "lm_5r": .7,
                         "mixed_5r_old": .5, "best_neg_vtm": 1.9, "best_neg_vtc": 1, "vanilla-weighted": .5,
                         "navero-balanced": 2, "balanced_1": 2.3, "balanced_4": 9}, 400, forms=["balanced"])
    parts = [a_copy(scores, "navero", "mixed_1r"), a_copy(scores, "navero", "navero_negvtc"),
             toy_scores({"blind": 1}, 100, forms=["rules"])]
    weak = {"temporal action": 0, "neighborhood attribute": 0, "counterfactual action": .3,
            "counterfactual spatial relationship": .01}
    gaps = dict.fromkeys(BEFORE.values(), weak) | {"alpro/weak": weak | {"counterfactual action": .6}}
    post = {f"{m}/{stage}": gap for m in ("alpro", "xclip") for stage, gap in (("hn", .4), ("plain", .1))}
    t2v = toy_ranks({"baseline": 2, "simple": 2.8, "adaptive": 2.6})
    v2t = toy_ranks({"baseline": 2, "simple": 2.8, "adaptive": 3.8})
    return Evidence(pd.concat([scores, *parts]), toy_ranks({"vanilla": 3, "navero": 4}), {"n": 300},
                    toy_gaps(gaps | post), some_answers(8, 3),
                    some_moments({"plain": 0, "simple": .1, "discernible": .1, "adaptive": .2}),
                    pd.concat([t2v[t2v.direction == "t2v"], v2t[v2t.direction == "v2t"]]), some_pairs(0, 1),
                    some_events(0, 1), some_cross({"mixed": dict(zip(CROSSED, (.3, 2, 1, 1.7))),
                                                   "balanced": dict(zip(CROSSED, (.5, .2, 1.3, 0)))}))


def all_false():
    "Make evidence by which every claim is reversed."
    vanilla = dict(zip(KINDS, (3, 1.5, 3, 1.5)))
    scores = toy_scores({"blind": .5, "vanilla": vanilla, "negvidl": 1, "navero": -.6, "navero_negvtc": .6,
                         "mixed_1r": .2, "rule_5r": 1.5, "lm_5r": 1.5, "mixed_5r_old": 1.5, "best_neg_vtm": 0,
                         "best_neg_vtc": 1, "vanilla-weighted": 1, "navero-balanced": 0, "balanced_1": -.6,
                         "balanced_4": -1.5}, 400, forms=["balanced"])
    weak = {"temporal action": .5, "neighborhood attribute": .5, "counterfactual action": .1,
            "counterfactual spatial relationship": .3}
    gaps = dict.fromkeys(BEFORE.values(), weak) | {"alpro/weak": dict.fromkeys(weak, .2)}
    gaps["alpro/weak"] |= {"counterfactual action": .05}
    post = {f"{m}/{stage}": gap for m in ("alpro", "xclip") for stage, gap in (("hn", .1), ("plain", .4))}
    t2v = toy_ranks({"baseline": 4, "simple": 2, "adaptive": 2.8})
    v2t = toy_ranks({"baseline": 4, "simple": 2, "adaptive": 1})
    return Evidence(pd.concat([scores, toy_scores({"blind": -1}, 100, forms=["rules"])]),
                    toy_ranks({"vanilla": 4, "navero": 1}), {"n": 300}, toy_gaps(gaps | post), some_answers(3, 8),
                    some_moments({"plain": .3, "simple": .2, "discernible": .2, "adaptive": .1}),
                    pd.concat([t2v[t2v.direction == "t2v"], v2t[v2t.direction == "v2t"]]),
                    some_pairs(1, 0), some_events(1, 0),
                    some_cross({"mixed": dict(zip(CROSSED, (1, 1, 2, 0))),
                                "balanced": dict(zip(CROSSED, (1, 2, .3, 0)))}))


@pytest.mark.parametrize("evidence, word", [(all_true, "holds"), (all_false, "reversed")])
def test_every_claim_follows_its_evidence(evidence, word, tmp_path):
    decided = write_claims(evidence(), tmp_path/"claims.md").set_index("key")
    assert list(decided.index) == list(CLAIMS)
    assert decided.verdict[decided.verdict != word].to_dict() == {}
    page = (tmp_path/"claims.md").read_text()
    assert page.count(f"| *{word}* |") == len(CLAIMS)
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == [PAPERS[name].title for name in PAPERS]
    counts = [len(CLAIMS) * (w == word) for w in ("holds", "reversed", "open")]
    assert f"| All | {len(CLAIMS)} | {' | '.join(map(str, counts))} | 0 |" in page
    kept, numbers = pd.read_csv(tmp_path/"claims.csv").set_index("key"), ["value", "low", "high"]
    assert (kept.verdict == word).all() and np.allclose(kept[numbers], decided[numbers], atol=1e-4)


def test_without_evidence_all_claims_are_open(tmp_path):
    decided = decide(Evidence())
    assert set(decided.verdict) == {"open"} and (decided.n == 0).all()
    assert set(decided.reason.str.extract(r"\(stage (\w+)\)$")[0]) == {"score", "ablation", "spot", "qa", "moments",
                                                                       "components", "cross"}
    counts = count_verdicts(decided)
    assert counts.loc["all"].tolist() == [len(CLAIMS), 0, 0, len(CLAIMS), len(CLAIMS)]
    assert counts.loc["navero", "claims"] == len(PAPERS["navero"])
    assert claims_markdown(decided).count("*open*: ") == len(CLAIMS)
    assert read_evidence(tmp_path, n=5) == Evidence(settings={"n": 5}) # missing files are no evidence
    (tmp_path/"spot").mkdir()
    pd.DataFrame(columns=["run", "rank"]).to_parquet(tmp_path/"spot/ranks.parquet")
    assert read_evidence(tmp_path, n=5) == Evidence(settings={"n": 5}) # nor are empty tables of skipped stages


def test_missing_runs_leave_their_claims_open():
    evidence = Evidence(toy_scores({"vanilla": .3, "navero": 1}, 40), settings={"n": 50},
                        gaps=toy_gaps({"xclip/weak": .1}), events=some_events(0, 1).replace("temporal action", "other"))
    reason = decide(evidence).set_index("key").reason
    assert reason["rounds"] == "no balanced scores of run 'mixed_1r' (stage ablation)"
    assert reason["spot-hard"] == "no model was post-trained with and without hard negatives (stage spot)"
    assert reason["pairs-temporal"] == "no kind of manipulation begins with 'temporal' (stage spot)"
    assert reason["spot-internvideo"].startswith("no t2v ranks of run 'internvideo/zero-shot'")


def test_a_gap_that_is_not_defined_leaves_its_claims_open():
    ranks = toy_gaps(dict.fromkeys(BEFORE.values(), .1), clips=40)
    lost = (ranks.run == "alpro/weak") & ranks.kind.str.startswith("temporal")
    decided = decide(Evidence(gaps=ranks.assign(**{"rank": ranks["rank"].mask(lost, 9)}), settings={"n": 50}))
    decided = decided.set_index("key")
    for key in ("spot-temporal", "spot-counterfactual", "spot-alpro"):
        assert decided.verdict[key] == "open" and decided.reason[key].startswith("the gap is not defined"), key
    assert decided.n["spot-spatial"] == 40 and decided.reason["spot-spatial"] == ""


def test_evidence_is_read_from_the_outputs_of_stages(tmp_path):
    scores = toy_scores({"vanilla": .3, "rule_5r": 1}, 5, forms=["balanced"])
    for name, part in (("scores/scores-test", scores[scores.run == "vanilla"]),
                       ("ablation/scores", scores[scores.run == "rule_5r"]),
                       ("spot/ranks", toy_gaps({"x/hn": .1}, clips=3))):
        (tmp_path/name).parent.mkdir()
        part.to_parquet(tmp_path/f"{name}.parquet", index=False)
    kinds = "temporal", "object", "object"
    asked = [Question(f"q{i}", f"c{i // 2}", "what?", "red", kind, "t") for i, kind in enumerate(kinds)]
    write_records(tmp_path/"qa/questions-test.parquet", asked, Question)
    said = pd.DataFrame({"question_id": ["q2", "q0", "q1"], "hn": ["red", "red", "blue"], "plain": ["red", "", "blue"]})
    said.to_parquet(tmp_path/"qa/answers.parquet", index=False)
    evidence = read_evidence(tmp_path)
    assert set(evidence.scores.run) == {"vanilla", "rule_5r"} and len(evidence.scores) == len(scores)
    assert evidence.ranks is None and evidence.moments is None and set(evidence.gaps.run) == {"x/hn"}
    assert evidence.answers.values.tolist() == [["c0", "temporal", True, False], ["c0", "object", False, False],
                                                ["c1", "object", True, True]]
    assert evidence.answered("hn", "plain", "temporal").value == 1 and evidence.answered("hn", "plain").value == 1/3
    assert marked(asked, said).equals(evidence.answers)


def test_gains_of_directions_combine_linearly():
    ranks = toy_ranks({"a": 3, "b": 2}, 60)
    e = Evidence(components=ranks)
    both = e.retrieval("a", "b", "R@5", {"v2t": 1, "t2v": -1}, "components").value
    one = [e.retrieval("a", "b", "R@5", {d: 1}, "components").value for d in ("v2t", "t2v")]
    assert both == pytest.approx(one[0] - one[1]) and one[0] > 0


def test_claims_equal_the_tables():
    scores = toy_scores({"vanilla": .3, "navero": 1}, 50)
    decided = decide(Evidence(scores)).set_index("key")
    table = accuracy_difference(scores, "navero", "vanilla").set_index("kind").loc["average"]
    columns = ["value", "low", "high"]
    assert decided.loc["navero-vanilla", columns].tolist() == pytest.approx(table[columns].tolist())
    assert decided.reason["forgetting-R@1"] == "there are no ranks (stage score)"


def test_paper_figures_in_the_claims():
    assert CLAIMS["navero-vanilla"].paper() == "+14.6 (MSRVTT), +19.4 (DiDeMo), +11.7 (ActivityNet)"
    assert CLAIMS["vanilla-static"].paper() == "+12.2 (MSRVTT), −0.4 (DiDeMo), +0.6 (ActivityNet)"
    assert CLAIMS["rounds"].paper() == "−0.04 (MSRVTT)" and CLAIMS["mixed-lm"].paper() == "+3.62 (MSRVTT)"
    assert CLAIMS["qa-temporal"].paper() == "+4.45 (AnetQA)"
    assert CLAIMS["QDDETR-adaptive-plain"].paper() == "+0.80 (QVHighlights)"
    assert CLAIMS["xclip-adaptive-v2t-t2v"].paper() == "+4.7 (MSVD)"
    table = paper_table(9, "spot")
    cells = table.iloc[:, 3:]
    counterfactual = cells.columns.str.startswith("counterfactual")
    value = 100*(cells.loc[:, counterfactual].mean(axis=None) - cells.loc[:, ~counterfactual].mean(axis=None))
    assert CLAIMS["spot-counterfactual"].paper().endswith(f"+{value:.1f} (MovieGraphs)")


def test_broken_files_are_an_error_not_an_open_claim():
    scores = toy_scores({"vanilla": .3, "navero": 1}, 5)
    gaps, moments = toy_gaps({"x/hn": .1}, clips=3), some_moments({"plain": 0}, 3)
    for twice in (Evidence(pd.concat([scores, scores])), Evidence(gaps=pd.concat([gaps, gaps])),
                  Evidence(moments=pd.concat([moments, moments])), Evidence(pairs=pd.concat([scores, scores])),
                  Evidence(events=pd.concat([scores, scores])),
                  Evidence(cross=pd.concat([scores.assign(seed=0)]*2)),
                  Evidence(components=pd.concat([toy_ranks({"a": 1}, 3)]*2))):
        with pytest.raises(VidnegError, match="twice"): decide(twice)
