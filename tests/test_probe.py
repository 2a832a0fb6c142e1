"A probe from data to report: its steps in order, its files, what it refuses, and its numbers against a plain loop."
import json
import zlib

import numpy as np
import pandas as pd
import pytest
from test_video import write

import vidneg
from vidneg.core.seeds import stable_rng
from vidneg.models.world_model import load_world

WORDS = [["man", "woman", "boy", "girl"], ["red", "blue", "green", "black"], ["throws", "holds", "kicks", "carries"],
         ["ball", "cup", "bag", "book"]]


def sentence(i):
    who, color, does, what = (some[stable_rng(0, "probe", i, k).integers(4)] for k, some in enumerate(WORDS))
    return f"a {who} {does} a {color} {what}"


# their words are few: word lists make a negative of each
def probe(*args, **settings): return vidneg.probe(*args, **{"generator": "rules-balanced"} | settings)


def encode_video(frames): return np.stack([f.mean((0, 1, 2)) for f in frames])
def encode_text(texts): return np.stack([np.random.default_rng(zlib.crc32(t.encode())).random(3) for t in texts])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Make twelve videos of different sizes with a caption each, in a folder with a space and an accent."
    where = tmp_path_factory.mktemp("my vidéos")
    for i in range(12):
        noise = np.random.default_rng(i).integers(256, size=(6, 48 + 16*(i % 3), 64, 3))
        write(where/f"v{i}.mp4", (noise//(1 + i % 4)).astype(np.uint8))
    rows = [{"video": f"v{i}.mp4", "caption": sentence(i)} for i in range(12)]
    (where/"captions.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return where


def test_scores_equal_a_plain_loop(folder, tmp_path):
    report = vidneg.probe((encode_video, encode_text), folder, out=tmp_path/"p", name="mean color", n_frames=4, size=48)
    assert set(report.items.generator) == {"natural"}
    unit = {c: encode_video([vidneg.read_frames(clip.path, n_frames=4)])[0] for c, clip in report.clips.items()}
    unit = {c: v/np.linalg.norm(v) for c, v in unit.items()}
    for row, item in zip(report.scores.itertuples(), report.items.itertuples()):
        assert row.item == item.item
        for score, text in ((row.score_pos, item.caption), (row.score_neg, item.negative)):
            t = encode_text([text])[0]
            assert score == pytest.approx(unit[item.clip_id] @ t/np.linalg.norm(t), abs=.01) # frames are resized


def test_a_second_call_reads_its_scores(folder, tmp_path):
    seen = []
    def counted(frames):
        seen.append(len(frames))
        return encode_video(frames)
    first = probe((counted, encode_text), folder, out=tmp_path/"p", controls=["blank"])
    files = {p.name: p.read_bytes() for p in (tmp_path/"p").glob("*.*")}
    assert {"report.html", "report.md", "audit.html", "scores.parquet", "items.parquet"} <= files.keys()
    seen.clear()
    again = probe((counted, encode_text), folder, out=tmp_path/"p", controls=["blank"])
    assert sum(seen) == 1 # a clip of noise shows that the functions are the same
    pd.testing.assert_frame_equal(first.scores, again.scores)
    assert {p.name: p.read_bytes() for p in (tmp_path/"p").glob("*.*")} == files
    with pytest.raises(vidneg.VidnegError, match="controls|other"):
        probe((counted, encode_text), folder, out=tmp_path/"p", controls=["shuffled"])
    def other(texts): return encode_text(texts)[:, ::-1].copy()
    with pytest.raises(vidneg.VidnegError, match="differs in the scores of a test clip"):
        probe((counted, other), folder, out=tmp_path/"p", controls=["blank"])


def test_names_may_be_one_text_and_numbers_are_checked(folder, tmp_path):
    def with_functions(out, **settings): return probe((encode_video, encode_text), folder, out=tmp_path/out, **settings)
    report = with_functions("p", kinds="action, object", controls="blank,blank")
    assert set(report.items.kind) == {"action", "object"} and set(report.scores.run) == {"model", "blank"}
    for name, values in dict(rounds=[0, 1.5], per_caption=[0, "3"], n_frames=[0, 2.5], size=[0], limit=[0, -1],
                             batch_size=[0]).items():
        for value in values:
            said = f"{name}\\b.* is {value!r}"
            with pytest.raises(vidneg.VidnegError, match=said): with_functions("q", **{name: value})
    assert not (tmp_path/"q").exists()


def test_files_of_others_are_not_replaced(folder, tmp_path):
    (tmp_path/"report.md").write_text("mine")
    (tmp_path/"notes.txt").write_text("mine")
    with pytest.raises(vidneg.VidnegError, match="holds report.md, which no probe wrote"):
        probe("world", folder, out=tmp_path)
    assert (tmp_path/"report.md").read_text() == "mine"
    (tmp_path/"report.md").unlink()
    probe("world", folder, out=tmp_path, limit=4)
    assert (tmp_path/"notes.txt").read_text() == "mine"


def test_a_control_that_decides_nothing_is_named(folder, tmp_path):
    report = probe("world", folder, n_frames=1, controls=["reversed", "blank"], out=tmp_path/"p")
    n = len(report.items)
    assert f"The control reversed decides 0 of {n} items; the others: the control leaves the frames" in report.page()
    assert "The control blank" not in report.page()


def test_columns_of_any_name_and_negatives_beside_a_table(folder, tmp_path):
    rows = [{"Datei": f"v{i}.mp4", "Text": sentence(i)} for i in range(12)] + [{"Datei": "lost.mp4", "Text": "a dog"}]
    settings = dict(videos=folder, columns={"video": "Datei", "caption": "Text"}, out=tmp_path/"p")
    with pytest.raises(vidneg.VidnegError, match="lost.mp4"): probe("world", rows, **settings)
    report = probe("world", rows, skip_missing=True, **settings)
    assert report.notes[-1] == "1 videos are not found; left out."
    given = pd.DataFrame({"video": ["v0.mp4", "v1.mp4"], "caption": [sentence(0), sentence(1)], "negative": "a dog"})
    report = probe("world", folder/"captions.jsonl", negatives=given, out=tmp_path/"q")
    assert len(report.items) == 2


def test_given_negatives_are_taken(folder, tmp_path):
    table = pd.DataFrame({"video": [f"v{i}.mp4" for i in range(12)], "caption": [sentence(i) for i in range(12)],
                          "negative": [sentence(i).replace("a ", "no ", 1) for i in range(12)], "kind": ["x", "y"]*6})
    report = probe("world", folder, negatives=table, kinds=["x"], out=tmp_path/"p")
    assert set(report.items.kind) == {"x"} and set(report.items.form) == {"given"} and report.counts is None
    with pytest.raises(vidneg.VidnegError, match="no given negative is of kind z; there are: x, y"):
        probe("world", folder, negatives=table, kinds=["z"], out=tmp_path/"q")
    assert not (tmp_path/"q").exists()


def test_given_negatives_may_be_records(folder, tmp_path):
    found = vidneg.open_data(folder)
    negatives = [vidneg.Negative(c.caption_id, c.text.replace("a ", "no ", 1), "x", "me", (), 1, 0)
                 for c in found.captions]
    report = probe(load_world(), folder, negatives=negatives, out=tmp_path/"p")
    assert len(report.items) == 12 and set(report.items.generator) == {"me"}
    with pytest.raises(vidneg.VidnegError, match="negatives hold 7: pass a table"):
        probe("world", folder, negatives=[7], out=tmp_path/"q")
    stray = [vidneg.Pair("1", "elsewhere", "x", "a dog runs", "a dog sits")]
    with pytest.raises(vidneg.VidnegError, match="1 clips of the negatives are not among the data"):
        probe("world", folder, negatives=stray, out=tmp_path/"q")


@pytest.mark.parametrize("settings, words", [
    (dict(kinds=["actions"]), "no kind 'actions'; there are: action"),
    (dict(kinds=["relation"]), "no negative of kind"),
    (dict(controls=["backwards"]), "backwards"), (dict(device="gpu"), "no device 'gpu'")])
def test_what_is_wrong_is_said_before_a_video_is_read(folder, tmp_path, monkeypatch, settings, words):
    def read(*args, **kwargs): raise AssertionError("a video was read")
    monkeypatch.setattr("vidneg.evaluate.shards.read_clip", read)
    with pytest.raises(vidneg.VidnegError, match=words):
        probe("world", folder, out=tmp_path/"p", **settings)
    assert not (tmp_path/"p"/"report.html").exists()


def test_broken_videos_are_counted_and_all_broken_is_an_error(folder, tmp_path):
    table = pd.DataFrame({"video": [f"v{i}.mp4" for i in range(12)], "caption": [sentence(i) for i in range(12)],
                          "negative": [sentence(i).replace("a ", "no ", 1) for i in range(12)]})
    for i in range(12):
        (tmp_path/f"v{i}.mp4").write_bytes((folder/f"v{i}.mp4").read_bytes() if i else b"no video")
    report = probe("world", tmp_path, negatives=table, out=tmp_path/"p")
    assert "video not readable: 1" in report.page() and set(report.accuracy.n) == {11}
    for i in range(12): (tmp_path/f"v{i}.mp4").write_bytes(b"no video")
    with pytest.raises(vidneg.VidnegError, match=r"scored: video not readable: is not a video.* \(12 items\)"):
        probe("world", tmp_path, negatives=table, out=tmp_path/"q")


def test_few_clips_have_no_blind_baseline(folder, tmp_path):
    report = probe("world", folder, limit=4, out=tmp_path/"p")
    assert report.rankers is None and not (tmp_path/"p"/"audit.html").exists()
    assert "blind" not in set(report.accuracy.run)


def test_the_folder_is_named_after_model_and_data(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = probe("world", folder, limit=4, name="my/model")
    assert report.folder.parent.resolve() == tmp_path and report.folder.name.startswith("probe-my-model-")


def test_ties_are_not_called_a_preference(folder, tmp_path):
    report = probe((encode_video, lambda texts: np.ones((len(texts), 3))), folder, out=tmp_path/"p")
    n, said = len(report.items), " ".join(report.verdict)
    assert f"In {n} of {n} items caption and negative have the same score" in said
    assert "prefers the negatives" not in said
