"Moment retrieval: windows of films against brute force; the evaluator against its definition and official scores."
import json
import os
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.metrics import precision_recall_curve

from vidneg.core.errors import VidnegError
from vidneg.core.records import Caption, MomentQuery, read_records
from vidneg.core.seeds import stable_rng
from vidneg.data.moments import CLIP_SECONDS, cut, moment_batch, overlap, saliency_pairs, saliency_scores
from vidneg.data.readers.charades import read_charades_sta
from vidneg.data.readers.qvhighlights import read_qvhighlights
from vidneg.data.video import probe
from vidneg.evaluate.moments import (
    LENGTHS,
    LEVELS,
    THRESHOLDS,
    evaluate_moments,
    highlight_values,
    moment_values,
    moments_table,
    query_values,
    read_predictions,
    write_predictions,
)
from vidneg.world.films import FilmConfig, film_queries, make_film, oracle_features, word_features
from vidneg.world.language import holds, parse
from vidneg.world.oracle import MomentOracle, true_windows
from vidneg.world.script import WorldConfig
from vidneg.world.write import film_frames, write_films

REAL = os.environ.get("VIDNEG_REAL_DATA")
needs_real = pytest.mark.skipif(not REAL, reason="VIDNEG_REAL_DATA is not set: no real annotations to read")
WORLD = WorldConfig()
FILMS = [make_film(f"test-{i}", WORLD) for i in range(12)]


# the evaluator by its definition: plain Python over windows and thresholds

def plain_iou(a, b):
    both = max(0., min(a[1], b[1]) - max(a[0], b[0]))
    union = a[1] - a[0] + b[1] - b[0] - both
    return both/union if union else 0.


def plain_ap(predicted, true, threshold):
    free, hits = list(true), []
    for window in sorted(predicted, key=lambda w: -w[2]):
        best = max(free, key=lambda t: plain_iou(window, t), default=None)
        hits.append(best is not None and plain_iou(window, best) >= threshold)
        if hits[-1]: free.remove(best)
    precision = [sum(hits[:i + 1])/(i + 1) for i in range(len(hits))]
    return sum(max(precision[i:]) for i, hit in enumerate(hits) if hit)/len(true)


def plain_highlight_ap(relevant, scores):
    if not any(relevant): return 0.
    precision, recall, _ = precision_recall_curve(relevant, scores) # recall falls from 1 to 0
    best = np.maximum.accumulate(precision)
    return best[:-1][recall[:-1] != recall[1:]].mean()


@st.composite
def cases(draw):
    "Draw queries with predictions on a coarse grid, so that ties and touching windows are frequent."
    queries, predictions = [], []
    for i in range(draw(st.integers(1, 4))):
        clips = draw(st.integers(2, 20))
        edges = sorted(draw(st.sets(st.integers(0, clips), min_size=2, max_size=6)))
        windows = tuple((2.*a, 2.*b) for a, b in zip(edges[::2], edges[1::2]))
        scores = draw(st.lists(st.tuples(*[st.integers(0, 4)]*3), min_size=clips, max_size=clips))
        one = st.tuples(st.integers(0, clips - 1), st.integers(1, clips), st.integers(0, 5))
        pairs = draw(st.lists(one, max_size=12))
        saliency = tuple(tuple(map(float, s)) for s in scores)
        queries.append(MomentQuery(str(i), f"v{i//2}", "", 2.*clips, windows, saliency))
        predictions.append(dict(qid=i, pred_relevant_windows=[[2.*a, 2.*max(a + 1, b), s/5] for a, b, s in pairs],
                                pred_saliency_scores=[float(s) for s in draw(st.lists(
                                    st.integers(-2, 2), min_size=clips, max_size=clips))]))
    return queries, predictions


@given(cases())
@settings(max_examples=25)
def test_moment_values_equal_their_definition(case):
    queries, predictions = case
    rows = {(r["length"], r["query_id"]): r for r in moment_values(predictions[::-1], queries).to_dict("records")}
    wanted = 0
    for (length, bounds), (q, p) in product(LENGTHS.items(), zip(queries, predictions)):
        true = [w for w in q.windows if bounds is None or bounds[0] < w[1] - w[0] <= bounds[1]]
        if not true: continue
        wanted, row, top = wanted + 1, rows[length, q.query_id], p["pred_relevant_windows"][:10]
        assert row["iou"] == max([plain_iou(w, t) for w in top[:1] for t in true], default=0)
        for t in THRESHOLDS: # the last of equal windows wins, hence the reversal
            assert np.isclose(row[f"AP@{t:g}"], plain_ap(top, true[::-1], t))
    assert wanted == len(rows)


@given(cases())
@settings(max_examples=25)
def test_highlight_values_equal_their_definition(case):
    queries, predictions = case
    rows = {(r["level"], r["query_id"]): r for r in highlight_values(predictions, queries).to_dict("records")}
    for (level, least), (q, p) in product(LEVELS.items(), zip(queries, predictions)):
        scores, true = np.array(p["pred_saliency_scores"]), np.array(q.saliency) >= least # (C,), (C, A)
        row = rows[level, q.query_id]
        assert np.isclose(row["AP"], np.mean([plain_highlight_ap(true[:, a], scores) for a in range(3)]))
        assert row["HIT@1"] == true[scores.argmax()].any()


@needs_real
def test_the_official_numbers_to_the_last_digit():
    folder = Path(REAL)/"qvhighlights"
    queries = read_qvhighlights(folder/"highlight_val_release.jsonl")
    report = evaluate_moments(read_predictions(folder/"sample_val_preds.jsonl"), queries)
    assert report == json.loads((folder/"sample_val_preds_metrics.json").read_text())
    assert len(queries) == 1550


@needs_real
def test_real_annotations_are_read_whole():
    train = read_qvhighlights(Path(REAL)/"qvhighlights/highlight_train_release.jsonl")
    assert len(train) == 7218 and all(len(q.saliency) == q.duration/CLIP_SECONDS for q in train)
    inside = [overlap(q.windows, q.duration) > 0 for q in train[:200]]
    assert all((np.sum(q.saliency, 1)[~i] == 0).all() for q, i in zip(train, inside))
    folder = Path(REAL)/"charades_sta"
    assert len(read_charades_sta(folder/"charades_sta_test.txt")) == 3720
    with pytest.raises(VidnegError, match="line .* is empty; correct it"):
        read_charades_sta(folder/"charades_sta_train.txt")
    assert len(read_charades_sta(folder/"charades_sta_train.txt", on_empty="drop")) == 12404


QUERY = MomentQuery("q", "v", "", 20., ((4., 10.),), ((0.,),)*2 + ((4.,),)*3 + ((0.,),)*5)

def predicted(windows=((4., 10., .9),), saliency=(0.,)*10, qid="q"):
    return dict(qid=qid, pred_relevant_windows=[list(w) for w in windows], pred_saliency_scores=list(saliency))


def test_ground_truth_scores_100_and_constant_scores_do_not():
    best = evaluate_moments([predicted(saliency=[s for s, in QUERY.saliency])], [QUERY])
    assert best["full"]["MR-mAP"]["average"] == best["full"]["MR-R1"]["0.95"] == best["HL-min-Good"]["HL-mAP"] == 100
    flat = evaluate_moments([predicted(((0., 20., .5),)*10)], [QUERY])
    assert flat["full"]["MR-mAP"]["0.5"] == 0 and flat["HL-min-Good"] == {"HL-mAP": 30., "HL-Hit1": 0.}


def test_a_part_without_predictions_or_windows_is_left_out():
    only = {k: v for k, v in predicted().items() if k != "pred_saliency_scores"}
    report = evaluate_moments([only], [QUERY])
    assert set(report) == {"brief", "short", "full"} and "MR-long-mAP" not in report["brief"]
    assert evaluate_moments([predicted(())], [QUERY])["full"]["MR-R1"]["0.5"] == 0 # no window predicted


@pytest.mark.parametrize("made, message", [
    ([predicted(((4., np.nan, .9),))], "NaN"), ([predicted(((9., 4., .9),))], "ends before"),
    ([predicted(saliency=[np.nan]*10)], "saliency is missing, NaN"), ([predicted(saliency=[])], "saliency is missing"),
    ([predicted(), predicted()], "twice"), ([predicted(qid="x")], "queries or the predictions but not both"),
    ([], "neither"), ([dict(qid="q")], "neither"),
    ([predicted(((4., 10.),))], r"query 'q' has pred_relevant_windows \[\[4.0, 10.0\]\]: write a list of \[start, end"),
    ([predicted(((4., 10., .9), (4., 10.)))], "write a list of"), ([predicted((("4s", 10., .9),))], "write a list of"),
    ([predicted() | {"pred_relevant_windows": None}], "write a list of"),
    ([predicted() | {"pred_relevant_windows": [4., 10., .9]}], "write a list of"),
    ([predicted(saliency=["high"]*10)], "one score per clip"), ([predicted(saliency=[[.1]]*10)], "one score per clip"),
    ([{k: v for k, v in predicted().items() if k != "qid"}], "prediction 0 has no qid, but pred_relevant_windows"),
    ([[1, 2]], "prediction 0 is"), (["q"], "prediction 0 is")])
def test_bad_predictions_are_named(made, message):
    with pytest.raises(VidnegError, match=message): evaluate_moments(made, [QUERY])


@pytest.mark.parametrize("key", ["pred_saliency_scores", "pred_relevant_windows"])
@pytest.mark.parametrize("lacking", [0, 1])
def test_a_part_that_only_some_predictions_have_is_an_error(key, lacking):
    queries = [replace(QUERY, query_id=i) for i in "ab"]
    made = [predicted(qid=i) for i in "ab"]
    del made[lacking][key]
    with pytest.raises(VidnegError, match=f"query '{'ab'[lacking]}' has no {key}: give it for all"):
        evaluate_moments(made, queries)


def test_windows_with_more_than_three_numbers_keep_their_score():
    assert evaluate_moments([predicted(((4., 10., .9, 7.),))], [QUERY]) == \
        evaluate_moments([predicted(((4., 10., .9),))], [QUERY])


def test_prediction_files_in_every_form(tmp_path):
    made = [predicted(qid="a\u2028b\x85c"), predicted(qid="d")]
    lines = write_predictions(tmp_path/"lines.jsonl", made)
    text = lines.read_text(encoding="utf-8")
    (array := tmp_path/"array.json").write_text(json.dumps(made, indent=1), encoding="utf-8")
    (bom := tmp_path/"bom.jsonl").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n\r\n").encode())
    assert read_predictions(lines) == read_predictions(array) == read_predictions(bom) == made
    for name, data, says in (("half", text[:-9].encode(), "neither JSON lines"), ("latin", b'{"qid": "\xe9"}', "UTF-8"),
                             ("list", b'["q"]', "prediction 0 is"), ("row", b'[1]\n[2]', "neither"),
                             ("id", b'{"id": 3}', "no qid, but id")):
        (tmp_path/name).write_bytes(data)
        with pytest.raises(VidnegError, match=says): read_predictions(tmp_path/name)


def test_intervals_contain_their_value_and_predictions_survive_a_round_trip(tmp_path):
    queries = [replace(QUERY, query_id=str(i), clip_id=str(i//2)) for i in range(8)]
    made = [predicted(((4., 10. + i, .9),), range(10), qid=str(i)) for i in range(8)]
    table = moments_table(moment_values(made, queries), highlight_values(made, queries), n=100)
    assert (table.low <= table.value).all() and (table.value <= table.high).all() and (table.clips == 4).all()
    each = query_values(moment_values(made, queries)).set_index("query_id")
    share = [6/(6 + i) for i in range(8)] # IoU of prediction i with the true window
    assert each.length.isin(LENGTHS).all()
    for length, part in each.groupby("length"):
        said = table[table["part"] == length].set_index("metric").value
        assert np.allclose(part[list(said.index)].mean(), said)
    full = each[each.length == "full"]
    assert full["R1@0.7"].tolist() == [float(s >= .7) for s in share]
    assert full.mAP.tolist() == pytest.approx([np.mean([s >= t for t in THRESHOLDS]) for s in share])
    assert read_predictions(write_predictions(tmp_path/"p.jsonl", made)) == json.loads(json.dumps(
        made, default=list))


# films

def test_films_follow_their_configuration():
    for film in FILMS:
        used = {e for g in film.groups for e in g}
        assert 6 <= len(used) <= 10 and 30 <= film.duration <= 60 and film.duration % CLIP_SECONDS == 0
        assert used <= set(film.graph.events)
        frames = [s.tracks.x.shape[1] for s in film.shots]
        assert sum(frames)/WORLD.fps == film.duration and len({s.tracks.scene for s in film.shots}) == 1
        assert film.starts == tuple(np.cumsum([0, *frames[:-1]])/WORLD.fps)
    assert make_film("test-0", WORLD).graph == FILMS[0].graph
    with pytest.raises(VidnegError, match="FilmConfig.events"): FilmConfig(events=(4, 3))


def brute_windows(meaning, graph):
    "Return all windows whose events make the sentence true, if no shorter window inside does."
    times = sorted({t for e in graph.events for t in (e.start, e.end)})
    def inside(a, b): return replace(graph, events=tuple(e for e in graph.events if a <= e.start and e.end <= b))
    def true(a, b): return holds(meaning, inside(a, b))
    ok = [(a, b) for a in times for b in times if a < b and true(a, b)]
    return {w for w in ok if not any(w != k and w[0] <= k[0] and k[1] <= w[1] for k in ok)}


def test_true_windows_are_the_shortest_that_make_a_sentence_true():
    small = FilmConfig(events=(3, 5), seconds=(10., 20.))
    several = 0
    for i in range(30):
        film = make_film(f"small-{i}", WORLD, small)
        for q in film_queries(film, WORLD, small):
            shortest = brute_windows(parse(q.text), film.graph)
            covered = [any(a <= s and e <= b for a, b in q.windows) for s, e in shortest]
            assert all(covered) and q.windows # every shortest span lies in a window ...
            for a, b in q.windows: # ... and the sentence is true of every window
                assert holds(parse(q.text), replace(film.graph, events=tuple(
                    e for e in film.graph.events if a <= e.start and e.end <= b)))
            several += len(q.windows) > 1
    assert several


def test_the_moment_oracle_agrees_with_the_queries():
    oracle = MomentOracle({f.clip_id: f.graph for f in FILMS})
    asked = [Caption(q.query_id, q.clip_id, q.text) for f in FILMS for q in film_queries(f, WORLD)]
    truth = {q.query_id: q.windows for f in FILMS for q in film_queries(f, WORLD)}
    assert all(oracle.windows(q.clip_id, q.text) == truth[q.caption_id] for q in asked)
    assert all(oracle.same(q, q.text) and not oracle.nowhere(q, q.text) for q in asked)
    others = [(q, other.text) for q, other in zip(asked, asked[1:] + asked[:1]) if other.clip_id != q.clip_id]
    graphs = {f.clip_id: f.graph for f in FILMS}
    for q, text in others: # queries of other films may be true here too
        assert oracle.nowhere(q, text) == (not brute_windows(parse(text), graphs[q.clip_id]))
    assert 0 < sum(oracle.nowhere(q, text) for q, text in others)
    assert oracle.nowhere(asked[0], "nothing of the kind") and not oracle.same(asked[0], "nothing of the kind")


def test_queries_agree_with_the_oracle_and_their_saliency_with_the_windows():
    queries = [q for f in FILMS for q in film_queries(f, WORLD)]
    assert len({q.query_id for q in queries}) == len(queries) and sum(len(q.windows) > 1 for q in queries) > 3
    graphs = {f.clip_id: f.graph for f in FILMS}
    for q in queries:
        assert holds(parse(q.text), graphs[q.clip_id])
        assert all(a < b <= q.duration for a, b in q.windows)
        assert all(b < c for (_, b), (c, _) in zip(q.windows, q.windows[1:]))
        assert len(q.saliency) == q.duration/2 and max(q.saliency) > (0.,)


@given(st.lists(st.integers(0, 40), min_size=2, max_size=8, unique=True))
def test_overlap_equals_counting_quarters_of_seconds(edges):
    edges = [e/4 for e in sorted(edges)]
    windows = list(zip(edges[::2], edges[1::2]))
    quarters = [any(a <= t/4 < b for a, b in windows) for t in range(40)]
    assert np.allclose(overlap(windows, 10.), np.reshape(quarters, (5, 8)).mean(1))
    assert all(s == int(4*o + .5) for (s,), o in zip(saliency_scores(windows, 10.), overlap(windows, 10.)))


def test_films_on_disk(tmp_path):
    short = FilmConfig(events=(2, 3), seconds=(6., 8.), shot=2.)
    clips = write_films(tmp_path, {"train": 2}, WORLD, short)
    again = write_films(tmp_path/"again", {"train": 2}, WORLD, short)
    for c in clips:
        assert probe(tmp_path/c.path).n_frames == film_frames(make_film(c.clip_id, WORLD, short)).shape[0]
        assert (tmp_path/c.path).read_bytes() == (tmp_path/"again"/c.path).read_bytes()
        pieces = cut(c)
        assert [p.start for p in pieces[1:]] == [p.end for p in pieces[:-1]] and pieces[-1].end == c.end
    assert clips == again
    assert {q.clip_id for q in read_records(tmp_path/"moments.parquet", MomentQuery)} <= {c.clip_id for c in clips}


# batches

def test_rows_do_not_depend_on_the_other_rows_of_a_batch():
    queries = [q for f in FILMS[:3] for q in film_queries(f, WORLD)]
    videos, texts = {f.clip_id: oracle_features(f) for f in FILMS}, {q.query_id: word_features(q.text) for q in queries}
    whole = moment_batch(queries, videos, texts)
    for i, q in enumerate(queries):
        one = moment_batch([q], videos, texts)
        assert one["negative"].tolist() == [-1]
        for k in set(one) - {"negative"}:
            part = whole[k][i][tuple(slice(0, n) for n in one[k].shape[1:])]
            assert (part == one[k][0]).all(), k
        assert queries[whole["negative"][i]].clip_id != q.clip_id
        assert not whole["video_mask"][i, one["video"].shape[1]:].any()
    assert (moment_batch(queries, videos, texts, epoch=1)["saliency_pairs"] != whole["saliency_pairs"]).any()


def test_saliency_pairs_are_in_order():
    for q in [q for f in FILMS for q in film_queries(f, WORLD)]:
        scores, inside = np.sum(q.saliency, 1), overlap(q.windows, q.duration) > 0
        (best, worst), (into, out) = saliency_pairs(q, len(scores), stable_rng(0, q.query_id))
        assert best < 0 or scores[best] > scores[worst] and inside[[best, worst]].all()
        assert into < 0 or inside[into] and not inside[out]
    everywhere = replace(QUERY, windows=((0., 20.),), saliency=((4.,),)*10)
    assert (saliency_pairs(everywhere, 10, stable_rng(0)) == -1).all()


def test_bad_input_is_named(tmp_path):
    features = {"v": np.zeros((10, 4), np.float32)}, {"q": np.zeros((3, 4), np.float32)}
    with pytest.raises(VidnegError, match="no queries"): moment_batch([], *features)
    with pytest.raises(VidnegError, match="features of 10 clips, scores of 4"):
        moment_batch([replace(QUERY, saliency=((0.,),)*4)], *features)
    with pytest.raises(VidnegError, match="no word of the world"): word_features("a dog runs")
    with pytest.raises(VidnegError, match="ask for an event"):
        true_windows(parse("a star and a ring move around"), FILMS[0].graph)
    with pytest.raises(VidnegError, match="does not exist"): read_qvhighlights(tmp_path/"none.jsonl")
    bad = tmp_path/"bad.jsonl"
    row = {"qid": 7, "query": "", "duration": 12, "vid": "v", "relevant_clip_ids": [6], "saliency_scores": [[1, 2, 3]]}
    backwards = row | {"relevant_clip_ids": [1], "relevant_windows": [[4, 2]]}
    for text in ("{}", "not json", json.dumps(row), json.dumps(backwards)):
        bad.write_text(text)
        with pytest.raises(VidnegError, match="line 1"): read_qvhighlights(bad)
    bad.write_text("3MSZA 24.3 person turns##on")
    with pytest.raises(VidnegError, match="line 1, is not 'video start end"): read_charades_sta(bad)
    bad.write_text("3MSZA 2 9##a person\n")
    with pytest.raises(VidnegError, match="durations has no '3MSZA'"): read_charades_sta(bad, {})
    assert read_charades_sta(bad, {"3MSZA": 5.})[0].windows == ((2., 5.),)
