"Anyone's data are opened as the same records, and all that is wrong with them is named at once, with the row."
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st
from test_language import sentences

from vidneg.core.errors import VidnegError
from vidneg.core.records import Caption, Clip, write_records
from vidneg.data.inputs import Finder, open_data
from vidneg.data.pairs import Pair
from vidneg.data.tables import as_table, cell_texts, read_table, roles_of, write_frame

ROWS = [("a.mp4", "a dog runs", "a dog sits", "action"), ("b.mp4", "a red car", "a blue car", "attribute"),
        ("c é.mp4", "a cat on a mat", "a cat under a mat", "relation")]
FRAME = pd.DataFrame(ROWS, columns=["video", "caption", "negative", "type"])
PAIRS = tuple(Pair(f"{v[:-4]}.0/{k}/0", v[:-4], k, c, n, "given") for v, c, n, k in ROWS)


@pytest.fixture
def folder(tmp_path):
    "Make a folder with videos, which are never opened, in a path with a space and an accent."
    root = tmp_path/"my vidéos"
    root.mkdir()
    for name, *_ in ROWS: (root/name).write_bytes(b"film")
    return root


def message(*args, **settings):
    with pytest.raises(VidnegError) as e: open_data(*args, **settings)
    return str(e.value)


def test_every_form_of_a_table_gives_the_same_records(folder):
    (folder/"t.csv").write_text(FRAME.to_csv(index=False), encoding="utf-8-sig")
    (folder/"semicolon.csv").write_text(FRAME.to_csv(index=False, sep=";").replace("\n", "\r\n"), encoding="utf-8")
    (folder/"t.tsv").write_text(FRAME.to_csv(index=False, sep="\t"), encoding="utf-8")
    (folder/"t.jsonl").write_text(FRAME.to_json(orient="records", lines=True, force_ascii=False), encoding="utf-8")
    (folder/"t.json").write_text(FRAME.to_json(orient="records"), encoding="utf-8")
    FRAME.to_parquet(folder/"t.parquet")
    found = [open_data(p, name="t") for p in sorted(folder.glob("*.*[nvt]")) if p.suffix != ".mp4"]
    found += [open_data(t, videos=folder, name="t") for t in (FRAME, FRAME.to_dict("records"), pa.table(FRAME))]
    assert len(found) == 8 or len(found) == 9
    for one in found:
        assert one == found[0] and one.pairs == PAIRS
        assert [c.path for c in one.clips] == [str(folder/v) for v, *_ in ROWS]
        assert one.counts == {"rows": 3, "clips": 3, "captions": 3, "pairs": 3}
    assert list(found[0].items().columns) == ["item", "clip_id", "kind", "form", "generator", "caption", "negative"]


def test_columns_are_known_by_many_names():
    for names in (["clip", "text", "foil", "category"], ["Video Path", "True-Caption", "Hard_Negative", "KIND"],
                  ["filepath", "title", "neg_caption", "misalignment"]):
        roles = roles_of(as_table(FRAME.set_axis(names, axis=1)))
        assert [roles[r] for r in ("video", "caption", "negative", "kind")] == names
    odd = FRAME.set_axis(["Datei", "Satz", "Gegenteil", "Art"], axis=1)
    assert "no column has captions" in (why := message(odd, texts_only=True)) and "Datei, Satz, Gegenteil, Art" in why
    mapped = open_data(odd, texts_only=True, columns={"caption": "Satz", "negative": "Gegenteil", "kind": "Art"})
    assert [p.negative for p in mapped.pairs] == list(FRAME.negative)
    assert "no role 'text'" in message(odd, columns={"text": "Satz"})
    assert "has no column 'Text'" in message(odd, columns={"caption": "Text"})


def test_missing_columns_are_named_at_once(folder):
    found = message(pd.DataFrame({"a": [1], "b": [2]}), videos=folder, split="test")
    assert "3 problems" in found and "no column has captions" in found and "no column names the videos" in found
    assert "there is no split 'test'" in found and found.count("a, b") == 2


def test_all_faults_of_all_rows_are_named_at_once(folder):
    frame = pd.DataFrame({
        "video": ["a.mp4", "b.mp4", "gone.mp4", "../a.mp4", None, "https://x.org/a.mp4", "a.mp4"],
        "caption": ["a dog runs", None, 0.5, "a dog", "  ", "a cat", "?!"],
        "negative": [float("nan"), "a cat", "nan", "a car", "0.5", "a bus", b"bytes"]})
    found = message(frame, videos=folder, name="mine")
    for line in ("column caption is empty: row 1, row 4", "column caption is a number, not a text: row 2",
                 "column negative is empty: row 0", "column negative is 'nan', which stands for a missing text: row 2",
                 "column caption has no word: row 6", "column negative is of type bytes: row 6",
                 "leaves the folder", "row 3 (../a.mp4)", "is an address, not a file", "row 5 (https://x.org/a.mp4)"):
        assert line in found, line
    assert found.startswith("mine has ")


def test_ten_missing_videos_are_listed_and_the_others_counted(folder):
    frame = pd.concat([FRAME]*5, ignore_index=True).assign(video=[f"x{i}.mp4" for i in range(15)])
    found = message(frame, videos=folder)
    assert "is not found in" in found and "row 9 (x9.mp4) and 5 more" in found and "x10" not in found
    frame.loc[0, "video"] = "a.mp4"
    kept = open_data(frame, videos=folder, skip_missing=True)
    assert len(kept.pairs) == 1 and kept.counts["videos not found"] == 14
    assert "14 videos are not found; left out" in kept.notes


def test_equal_and_repeated_rows_are_left_out_and_counted(folder):
    frame = pd.concat([FRAME, FRAME[:1], FRAME[:1].assign(negative="A dog  runs.")], ignore_index=True)
    found = open_data(frame, videos=folder, name="t")
    assert found.pairs == PAIRS
    assert found.counts["repeated rows"] == 1 and found.counts["negative equals caption"] == 1
    assert any("repeated in row 3;" in n for n in found.notes)
    assert any("equals the caption in row 4;" in n for n in found.notes)
    assert "2 negative equals caption" in message(frame[4:5].loc[[4, 4]], videos=folder)


@pytest.mark.parametrize("frame, note", [
    (FRAME[:1], "there is only one pair"), (FRAME.assign(video="a.mp4"), "all pairs belong to one clip"),
    (FRAME.assign(type="x"), "the pairs have no kind, or all the same"), (FRAME, None),
    (pd.DataFrame({"video": ["a.mp4"]*4 + ["b.mp4"]*2, "kind": list("xyxyxy"),
                   "caption": [f"a dog {w}" for w in ("runs", "sits", "eats", "rolls", "hops", "naps")],
                   "negative": ["a dog flies"]*4 + ["a dog swims"]*2}), "the columns look exchanged")])
def test_suspicious_tables_are_remarked(folder, frame, note):
    notes = open_data(frame, videos=folder).notes
    assert any(note in n for n in notes) if note else notes == ()


def test_other_languages_are_counted_or_refused(folder):
    german, chinese = sentences()["German"][:2], sentences()["Chinese"][0]
    texts = ["a dog runs", "a cat sits", german[0]]
    found = open_data(FRAME[["video"]].assign(caption=texts), videos=folder)
    assert [c.text for c in found.captions] == texts[:2] and found.counts["not English"] == 1
    assert any("1 of 3 texts are not English (row 2: German" in n for n in found.notes)
    most = FRAME[["video"]].assign(caption=[german[0], chinese, "a dog runs"])
    assert "2 of 3 texts are not English" in (why := message(most, videos=folder)) and "English captions only" in why
    given_ones = FRAME.assign(caption=german[0], negative=german[1])
    kept = open_data(given_ones, videos=folder)
    assert len(kept.pairs) == 3 and any("they are kept" in n for n in kept.notes)


def test_encodings_are_refused_by_name(tmp_path):
    path = tmp_path/"t.csv"
    for encoding, why in (("utf-16", "UTF-16"), ("latin-1", "not in UTF-8 (line 2)")):
        path.write_text("video,caption\na.mp4,un café noir\n", encoding=encoding)
        assert why in message(path)
    path.write_bytes(b"video,caption\na.mp4,a dog\0runs\x85fast\n".replace(b"\x85", "\u2028".encode()))
    assert "UTF-16, or no text" in message(path)
    path.write_text("video,caption\na.mp4,a dog\truns\u2028fast\n")
    assert open_data(path, texts_only=True).captions[0].text == "a dog runs fast"


@pytest.mark.parametrize("name, text, why", [
    ("t.csv", "", "is empty"), ("t.csv", "video,caption\n", "has no rows"),
    ("t.csv", "video,caption\na.mp4,a man, a dog\n", "other numbers of cells are in row 1"),
    ("t.jsonl", '{"video": "a.mp4"}\n{"vid', "line 2 is not JSON"), ("t.jsonl", "[1]\n", "no JSON object"),
    ("t.json", '"x"', "not a list of objects"), ("t.parquet", "x", "no Parquet file"), ("t.xlsx", "x", "must end in")])
def test_broken_files_are_refused(tmp_path, name, text, why):
    (tmp_path/name).write_text(text)
    assert why in message(tmp_path/name)


def test_cells_may_hold_several_texts(folder):
    several = "['a dog sits', 'a dog eats']" # as NegCLIP's TSV has them
    negclip = pd.DataFrame({"filepath": ["a.mp4"], "title": ["a dog runs"], "neg_caption": [several]})
    found = open_data(negclip, videos=folder)
    assert [p.negative for p in found.pairs] == ["a dog sits", "a dog eats"] and len(found.captions) == 1
    assert [p.item for p in found.pairs] == ["a.0/unnamed/0", "a.0/unnamed/1"]
    msvd = open_data([{"video": "a.mp4", "caption": ["a dog runs", "a dog is running"]}], videos=folder)
    assert [c.caption_id for c in msvd.captions] == ["a.0", "a.1"]


def test_folders(folder, tmp_path):
    assert "holds no captions" in message(folder)
    FRAME[["video", "caption"]].to_csv(folder/"captions.csv", index=False)
    assert [c.text for c in open_data(folder).captions] == list(FRAME.caption)
    FRAME.to_csv(folder/"other.csv", index=False)
    assert not open_data(folder).pairs # captions.csv is meant
    (folder/"captions.csv").rename(folder/"one.csv")
    assert "several tables (one.csv, other.csv)" in message(folder)
    side = tmp_path/"side"
    (side/"deep").mkdir(parents=True)
    (side/"deep"/"x.mp4").write_bytes(b"film")
    (side/"deep"/"x.txt").write_text("a dog runs\n\na dog is running\n")
    found = open_data(side)
    assert [(c.clip_id, c.text) for c in found.captions] == [("deep/x", "a dog runs"), ("deep/x", "a dog is running")]
    ours = tmp_path/"ours"
    write_records(ours/"clips.jsonl", [Clip("k1", "../side/deep/x.mp4", 1., 2., "test")])
    write_records(ours/"captions.jsonl", [Caption("c1", "k1", "a dog runs")])
    found = open_data(ours, split="test")
    assert found.captions == (Caption("c1", "k1", "a dog runs"),)
    assert (found.clips[0].clip_id, found.clips[0].start, found.clips[0].end) == ("k1", 1., 2.)


def test_stretches_of_one_video_are_clips(folder):
    table = [{"video": "a.mp4", "start": s, "end": e, "caption": t} for s, e, t in
             [(0, 2.5, "a dog runs"), (2.5, 4, "a dog sits"), (0, 2.5, "a dog is running")]]
    found = open_data(table, videos=folder)
    assert [(c.clip_id, c.start, c.end) for c in found.clips] == [("a_0_2.5", 0., 2.5), ("a_2.5_4", 2.5, 4.)]
    assert "ends before it starts: row 1" in message([table[0] | {"start": 3}], videos=folder)
    assert "column start is not a number of seconds: row 1" in message([table[0] | {"start": "soon"}], videos=folder)


def test_splits_and_limits(folder):
    frame = FRAME.assign(split=["train", "test", "test"])
    assert [c.clip_id for c in open_data(frame, videos=folder, split="test").clips] == ["b", "c é"]
    assert [c.clip_id for c in open_data(frame, videos=folder, limit=2).clips] == ["a", "b"]
    assert "no split 'val'; there are: train, test" in message(frame, videos=folder, split="val")


def test_a_datasets_dataset_is_read_as_arrow(folder):
    class Whole:
        "What is used of `datasets.Dataset`: the Arrow table of all rows."
        def __init__(self, table): self.table = table
        def with_format(self, form): return {"arrow": self}[form]
        def __getitem__(self, some): return self.table
    def named(name, base): return type(name, (base,), {"__module__": "datasets.some"})
    Dataset, DatasetDict, IterableDataset = (named("Dataset", Whole), named("DatasetDict", dict),
                                             named("IterableDataset", Whole))
    table = pa.table(FRAME).set_column(0, "video", pa.array([{"path": v, "bytes": None} for v in FRAME.video]))
    parts = DatasetDict(test=Dataset(table), train=Dataset(table[:1]))
    assert open_data(Dataset(table), videos=folder, name="t").pairs == PAIRS
    assert open_data(parts, videos=folder, split="test", name="t").pairs == PAIRS
    assert "splits test, train: choose one" in message(parts, videos=folder)
    assert "streamed" in message(IterableDataset(table), videos=folder)


def test_videos_are_found_by_path_name_and_id(folder, tmp_path):
    (folder/"all").mkdir()
    for name in ("v1.webm", "v1.mp4", "V2.MKV", "empty.mp4"):
        (folder/"all"/name).write_bytes(b"" if "empty" in name else b"film")
    find = Finder(folder).find
    assert find("v1")[0].endswith("v1.mp4") and find("v1.webm")[0].endswith("v1.webm")
    assert find("v2")[0].endswith("V2.MKV") and find("elsewhere/v1.avi")[0].endswith("v1.mp4")
    assert find("c e\u0301.mp4")[0].endswith("c é.mp4")
    assert "empty file" in find("all/empty.mp4")[1] and "not found" in find("v3")[1]
    assert "leaves the folder" in find("/etc/passwd")[1] and "leaves the folder" in find("all/../../x.mp4")[1]
    assert find(str(folder/"a.mp4")) == (str(folder/"a.mp4"), "")
    assert Finder(tmp_path/"my vidéos"/"all", absolute=True).find(str(folder/"a.mp4"))[0]


def test_ids_do_not_depend_on_other_clips(folder):
    whole, part = (open_data(f, videos=folder, name="t") for f in (FRAME, FRAME[1:2]))
    assert part.pairs[0] in whole.pairs and part.captions[0] in whole.captions


@given(st.lists(st.one_of(st.none(), st.text(), st.floats(), st.integers(), st.booleans()), min_size=1, max_size=6))
@settings(deadline=None, max_examples=60)
def test_any_cells_give_records_or_one_error(cells):
    try: found = open_data([{"caption": c} for c in cells], texts_only=True)
    except VidnegError: return
    assert all(c.text.strip() == c.text and any(map(str.isalnum, c.text)) for c in found.captions)


@given(st.text())
def test_a_text_cell_is_kept_apart_from_controls(text):
    texts, fault = cell_texts(text)
    assert bool(fault) == (not texts) or text.strip().startswith("[")
    assert all(t.isprintable() or not set(t) & set(map(chr, range(32))) for t in texts)


def test_frames_are_written_by_the_ending(tmp_path):
    frame = pd.DataFrame({"caption": ["é, \"x\""], "edits": [[{"old": "a", "new": "b"}]]})
    for name in ("t.csv", "t.jsonl", "t.parquet"):
        assert read_table(write_frame(frame, tmp_path/name)).columns["caption"] == ["é, \"x\""]
    assert json.loads(read_table(tmp_path/"t.csv").columns["edits"][0]) == [{"old": "a", "new": "b"}]
    with pytest.raises(VidnegError, match="ends in .parquet, .jsonl or .csv"): write_frame(frame, tmp_path/"t.xls")
    (tmp_path/"dir.csv").mkdir()
    with pytest.raises(VidnegError, match="is a folder"): write_frame(frame, tmp_path/"dir.csv")


def test_opening_data_is_light():
    code = "import vidneg.data.inputs, sys; print(*{'torch', 'spacy', 'pandas', 'av', 'decord'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.skipif("VIDNEG_REAL_DATA" not in os.environ, reason="VIDNEG_REAL_DATA names no folder of real data")
def test_real_files():
    root = Path(os.environ["VIDNEG_REAL_DATA"])
    assert len(open_data(root/"clips").clips) == 30
    found = open_data(f"sugarcrepe:{root/'sugar_crepe'}", texts_only=True)
    assert found.counts["rows"] == 7511 and len(found.pairs) + found.counts["repeated rows"] == 7511
    assert open_data(root/"msrvtt"/"MSRVTT_JSFUSION_test.csv", texts_only=True).captions[0].caption_id == "ret0"


def test_a_name_in_two_folders_is_ambiguous(tmp_path):
    for name in ("cats/tom.mp4", "zoo/tom.mp4", "zoo/tom.webm", "zoo/ann.webm", "zoo/ann.mp4"):
        (tmp_path/name).parent.mkdir(exist_ok=True)
        (tmp_path/name).write_bytes(b"film")
    finder = Finder(tmp_path)
    assert "is there 2 times" in finder.find("tom.mp4")[1] and "is there 3 times" in finder.find("tom")[1]
    assert finder.find("all/zoo/tom.mp4") == (str(tmp_path/"zoo"/"tom.mp4"), "")
    assert finder.find("CATS/tom.avi") == (str(tmp_path/"cats"/"tom.mp4"), "")
    assert finder.find("ann") == (str(tmp_path/"zoo"/"ann.mp4"), "") # two formats of one video
    rows = [{"video": "tom.mp4", "caption": "a cat sits"}, {"video": "ann", "caption": "a dog runs"}]
    assert "tom.mp4" in message(rows, videos=tmp_path) and "(ann)" not in message(rows, videos=tmp_path)


def test_columns_of_one_name_are_refused(folder):
    text = "video,caption,caption\n" + "".join(f"{v},{c},{n}\n" for v, c, n, _ in ROWS)
    (folder/"twice.csv").write_text(text, encoding="utf-8")
    frame = FRAME.set_axis(["video", "caption", "caption", "type"], axis=1)
    arrow = pa.table([["a.mp4"], ["a"], ["b"]], names=["video", "caption", "caption"])
    for data in (folder/"twice.csv", frame, arrow):
        assert "2 columns are called 'caption'" in message(data, videos=folder)
    unnamed = FRAME.assign(x=1, y=2).set_axis([*FRAME.columns, "", ""], axis=1) # an index that was saved twice
    assert len(open_data(unnamed, videos=folder).pairs) == 3


def test_misspelled_columns_are_named_and_marks_are_removed(folder):
    found = open_data(FRAME.assign(starts=5, note="x", caption="\ufeff" + FRAME.caption + "\u200b"), videos=folder)
    assert [n for n in found.notes if "not used" in n] == [
        "the column 'starts' is not used: its name is not known; the nearest one is 'start'"]
    assert [c.text for c in found.captions] == list(FRAME.caption)
    (folder/"bars.csv").write_text("video|caption\na.mp4|a dog, a cat; two\n")
    assert open_data(folder/"bars.csv").captions[0].text == "a dog, a cat; two"


def test_a_set_without_its_folder_is_explained():
    assert "name the folder of msrvtt: msrvtt:FOLDER" in message("msrvtt")
    assert "--column ROLE=NAME" in message([{"Datei": "a.mp4", "Text": "a dog"}])
