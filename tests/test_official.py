"Official datasets: tiny files of the real form, faults that are named, and the published counts of the real files."
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest

from vidneg.core.errors import VidnegError
from vidneg.core.records import Clip, read_records
from vidneg.data.dataset import read_dataset, take_dataset
from vidneg.data.graphs import read_graphs
from vidneg.data.pairs import CAPTION_SETS, PAIR_SETS, read_captions, read_pairs
from vidneg.data.readers.aaro_natural import PARTS
from vidneg.data.readers.anetqa import anetqa_graph
from vidneg.data.readers.charades import read_charades_sta
from vidneg.data.readers.files import Row, line_rows, readable, table_rows
from vidneg.data.readers.official import DATASETS, Files, check_official, official_table, read_official
from vidneg.data.readers.qvhighlights import read_qvhighlights

REAL = os.environ.get("VIDNEG_REAL_DATA")
real = pytest.mark.skipif(not REAL, reason="VIDNEG_REAL_DATA does not name the folder of real data")


def dump(value): return json.dumps(value, ensure_ascii=False)


ANET = {"duration": 9, "timestamps": [[0, 4], [8, 5]], "sentences": [" A dog runs.", "It barks."]}
PAIR = {"filename": "1.jpg", "caption": "A cat.", "negative_caption": "A dog."}
BOX = {"v/0/0/1": {"object_id": 1, "object_class": "person"}}
TINY = { # dataset → file → content
    "msrvtt": {"MSRVTT_data.json": dump({
        "videos": [{"video_id": f"video{i}", "split": s} for i, s in enumerate(("train", "validate", "test"))],
        "sentences": [{"video_id": f"video{i//2}", "sen_id": i, "caption": f"caption {i}"} for i in range(6)]}),
        "MSRVTT_JSFUSION_test.csv": "key,vid_key,video_id,sentence\nret0,msr2,video2,\"a man, singing\"\n"},
    "msvd": {"train_list.txt": "a_0_5\n", "test_list.txt": "b_1_9",
             "AllVideoDescriptions.txt": "# clips\na_0_5 a man runs\nb_1_9 a cat\nb_1_9 a small cat\n"},
    "didemo": {f"{s}_data.json": dump([{"annotation_id": f"{s}{k}", "video": f"{s}_9.{e}", "description": f"text {k}",
                                        "times": [[1, 1], [0, 0], [1, 1]], "num_segments": 6}
                                       for k, e in enumerate(("mov", "mp4"))]) for s in ("train", "val", "test")},
    "activitynet": {f"{s}.json": dump({f"v_{s[:3]}": ANET}) for s in ("train", "val_1", "val_2")},
    "charades": {"charades_sta_train.txt": "LEOL6 8.0 7.0##a man sits.\n",
                 "charades_sta_test.txt": "3MSZA 24.3 30.4##person turn a light on.\n"},
    "qvhighlights": {f"highlight_{s}_release.jsonl": dump(
        {"qid": k, "query": "A girl cooks.", "duration": 12, "vid": f"x{k}_0.0_12.0", "relevant_windows": [[2, 4]],
         "relevant_clip_ids": [1], "saliency_scores": [[1, 2, 3]]}) + "\n" for k, s in enumerate(("train", "val"))},
    "vatex": {"vatex_training_v1.0.json": dump([{"videoID": "Ptf_0_10", "enCap": ["A dog.", "A pet."],
                                                 "chCap": ["狗"]}]),
              "vatex_public_test_english_v1.1.json": dump([{"videoID": "Qtf_0_10", "enCap": ["A cat."]}])},
    "coco": {"dataset_coco.json": dump({"images": [
        {"filepath": "val2014", "filename": f"{s}.jpg", "split": s, "sentences": [{"sentid": s, "raw": "A bus."}]}
        for s in ("train", "restval", "val", "test")]}),
        "captions_train2017.json": dump({"images": [{"id": 7, "file_name": "7.jpg"}],
                                         "annotations": [{"id": 1, "image_id": 7, "caption": "A bus."}]})},
    "cc3m": {"Train_GCC-training.tsv": 'a "bus\thttps://a\na car\thttps://b\n'},
    "webvid": {"results_2M_train.csv": "videoid,contentUrl,page_dir,name\n10,https://…,0_1,\"A boy, a bus\"\n"},
    "sugarcrepe": {"add_att.json": dump({"0": PAIR, "1": PAIR | {"negative_caption": "A wet cat."}})},
    "vitatecs": {"Type.jsonl": dump({"src_dataset": "MSRVTT", "video_name": "v1.mp4", "caption": "a man runs",
                                     "counterfactual": "a man walks", "aspect": "Type"})},
    "vl-checklist": {"Attribute/vg/color.json": dump([["VG_100K/1.jpg", {"POS": ["red bus"], "NEG": ["blue bus"]}]])},
    "anetqa": {"sg/sg_val.json": dump({"v": {"objects": BOX, "actions": [
        {"duration": [0, 2], "activity_caption": "a man waves"}]}})}}
COUNTS = { # (dataset, protocol) → split → clips, captions, queries, pairs
    ("msrvtt", "1k-A"): {"train": (2, 4), "test": (1, 1)},
    ("msrvtt", "full"): {"train": (1, 2), "val": (1, 2), "test": (1, 2)},
    ("msvd", None): {"train": (1, 1), "test": (1, 2)},
    ("didemo", "paragraph"): {s: (1, 1) for s in ("train", "val", "test")},
    ("didemo", "moments"): {s: (1, 2, 2) for s in ("train", "val", "test")},
    ("activitynet", "val_1"): {"train": (1, 1), "test": (1, 1)},
    ("activitynet", "moments"): {s: (2, 2, 2) for s in ("train", "val", "test")},
    ("charades", None): {"train": (1, 1), "test": (1, 1, 1)},
    ("qvhighlights", None): {"train": (1, 1, 1), "val": (1, 1, 1)},
    ("vatex", None): {"train": (1, 2), "test": (1, 1)},
    ("coco", "karpathy"): {"train": (2, 2), "val": (1, 1), "test": (1, 1)}, ("coco", "2017"): {"train": (1, 1)},
    ("cc3m", None): {"train": (2, 2)}, ("webvid", "2M"): {"train": (1, 1)},
    ("sugarcrepe", None): {"test": (1, 1, 0, 2)}, ("vitatecs", None): {"test": (1, 1, 0, 1)},
    ("vl-checklist", None): {"test": (1, 1, 0, 1)}, ("anetqa", None): {"val": (1, 1)}}


def write(folder, files, change=lambda text: text):
    for name, text in files.items():
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        text = change(text)
        (folder/name).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return folder


def counted(data):
    of = {c.clip_id: c.split for c in data.clips}
    def per(split): # trailing zeros are left out
        n = [sum(of[r.clip_id] == split for r in records) for records in (data.clips, data.captions)]
        n += [len(data.queries.get(split, ())), sum(of[p.clip_id] == split for p in data.pairs)]
        while n[-1] == 0: n.pop()
        return tuple(n)
    return {s: per(s) for s in data.splits()}


@pytest.mark.parametrize("name, protocol", COUNTS)
def test_tiny_files_of_the_real_form(name, protocol, tmp_path):
    data = read_official(name, write(tmp_path, TINY[name]), protocol=protocol)
    assert counted(data) == COUNTS[name, protocol]
    assert all(str(tmp_path) in c.path for c in data.clips) # where a missing video should be
    split = next(iter(data.splits()))
    assert set(read_official(name, tmp_path, split, protocol).splits()) == {split}


def test_every_dataset_is_declared_whole_and_tested():
    parts = {f"aaro-natural-{p}" for p in PARTS} # in test_benchmark.py
    assert set(TINY) | {"moviegraphs"} | parts == set(DATASETS) == set(official_table()["name"])
    for declared in DATASETS.values():
        assert declared.published and all((declared.what, declared.citation, declared.license, declared.source,
                                           declared.layout))


@pytest.mark.parametrize("name", TINY)
def test_byte_order_marks_and_windows_line_ends_change_nothing(name, tmp_path):
    plain = read_official(name, write(tmp_path/"plain", TINY[name]))
    marked = read_official(name, write(tmp_path/"marked", TINY[name], lambda t: "\ufeff" + t.replace("\n", "\r\n")))
    assert [(c.caption_id, c.text) for c in marked.captions] == [(c.caption_id, c.text) for c in plain.captions]
    assert marked.queries == plain.queries and marked.pairs == plain.pairs and marked.splits() == plain.splits()


@pytest.mark.parametrize("name, word", [("msrvtt", "singing"), ("msvd", "small"), ("didemo", "text"),
                                        ("activitynet", "dog"),
                                        ("charades", "light"), ("qvhighlights", "girl"), ("vatex", "dog"),
                                        ("coco", "bus"), ("cc3m", "car"), ("webvid", "boy"), ("sugarcrepe", "wet"),
                                        ("vitatecs", "walks"), ("vl-checklist", "blue"), ("anetqa", "waves")])
def test_characters_that_nobody_sees_reach_no_caption(name, word, tmp_path):
    odd = {"\u2028": " ", "\x00": " ", "\x85": " ", "\u200b": "", "\ufeff": ""}
    def spoil(text): # in JSON, control characters are escaped
        as_json = text.lstrip()[:1] in ("{", "[")
        return text.replace(word, "x" + "".join(json.dumps(c)[1:-1] if as_json and c < " " else c for c in odd) + word)
    data = read_official(name, write(tmp_path, TINY[name], spoil))
    texts = [*(c.text for c in data.captions), *(q.text for some in data.queries.values() for q in some),
             *(p.negative for p in data.pairs)]
    assert any(word in t for t in texts) and not any(c in t for c in odd for t in texts)
    assert any("x   " + word in t for t in texts)


@pytest.mark.parametrize("name", TINY)
def test_other_encodings_other_forms_and_empty_folders_are_named(name, tmp_path):
    with pytest.raises(VidnegError, match=f"^{name}: "): read_official(name, tmp_path)
    write(tmp_path, TINY[name], lambda text: text.encode("utf-16"))
    with pytest.raises(VidnegError, match=f"^{name}: .*is not UTF-8"): read_official(name, tmp_path)
    for text in ("12\n", "[12]", '{"a": 12}', "null", ""):
        write(tmp_path, TINY[name], lambda _: text)
        with pytest.raises(VidnegError): read_official(name, tmp_path)
        assert not check_official(name, tmp_path).ok


MUTANTS = (None, 7, -1, float("nan"), "", [], {}, [None], True, "x")

def mutated(value):
    "Yield copies of a JSON value with one value in it replaced or left out."
    places = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    for key, inner in [*places]:
        others = [*MUTANTS, *mutated(inner)]
        for other in others:
            copy = value.copy()
            copy[key] = other
            yield copy
        copy = value.copy()
        del copy[key]
        yield copy


@pytest.mark.parametrize("name, file", [(n, f) for n, files in TINY.items() for f in files if f.endswith("json")])
def test_no_mutation_of_the_annotations_escapes(name, file, tmp_path):
    "Each single fault is either harmless or a `VidnegError`; nothing else escapes."
    write(tmp_path, TINY[name])
    failed = 0
    for k, copy in enumerate(mutated(json.loads(TINY[name][file]))):
        (tmp_path/file).write_text(json.dumps(copy))
        for protocol in DATASETS[name].published if k % 7 == 0 else [None]:
            try: read_official(name, tmp_path, protocol=protocol)
            except VidnegError as e:
                failed += 1
                assert str(e).startswith(f"{name}") and "\n" not in str(e)
    assert failed > 10


def test_faults_name_the_file_the_row_and_the_entry(tmp_path):
    def fault(name, file, text):
        write(tmp_path/name, TINY[name] | {file: text})
        with pytest.raises(VidnegError) as e: read_official(name, tmp_path/name)
        return str(e.value)
    assert "vatex_training_v1.0.json[0]: 'videoID' is missing; did you mean 'videoId'?" in fault(
        "vatex", "vatex_training_v1.0.json", '[{"videoId": "a", "enCap": []}]')
    assert "add_att.json['0']: caption should be text, not 5" in fault("sugarcrepe", "add_att.json",
                                                                       dump({"0": PAIR | {"caption": 5}}))
    assert "Type.jsonl, line 2: 'aspect' is missing" in fault("vitatecs", "Type.jsonl",
                                                              TINY["vitatecs"]["Type.jsonl"] + "\n{}")
    assert "results_2M_train.csv, line 2: 2 cells, but the table has 3" in fault(
        "webvid", "results_2M_train.csv", "videoid,page_dir,name\n1,2\n")
    assert "1 texts in POS, but 2 in NEG" in fault("vl-checklist", "Attribute/vg/color.json",
                                                   '[["1.jpg", {"POS": ["a"], "NEG": ["b", "c"]}]]')
    assert "the key '0' occurs twice" in fault("sugarcrepe", "add_att.json",
                                               f'{{"0": {dump(PAIR)}, "0": {dump(PAIR)}}}')
    assert "the id 'a_0_5' occurs twice" in fault("msvd", "train_list.txt", "a_0_5\na_0_5\n")
    assert "line 1, is not 'video start end##sentence'" in fault("charades", "charades_sta_test.txt",
                                                                 "3MSZA 1.0.3 4##a\n")


def test_duplicate_ids_are_refused(tmp_path):
    twice = [json.loads(TINY["vatex"]["vatex_training_v1.0.json"])[0] | {"enCap": [t]} for t in ("A cat.", "A dog.")]
    write(tmp_path, {"vatex_training_v1.0.json": dump(twice)})
    with pytest.raises(VidnegError, match="caption_id 'Ptf_0_10/0' occurs more than once"):
        read_official("vatex", tmp_path)
    row = json.loads(TINY["didemo"]["val_data.json"])
    write(tmp_path, {"val_data.json": dump(row), "test_data.json": dump(row)})
    with pytest.raises(VidnegError, match="caption id 'val0' occurs twice"): read_captions("didemo", tmp_path)


# videos

def test_videos_are_found_under_the_usual_layouts(tmp_path):
    write(tmp_path, dict.fromkeys(("videos/MSRVTT/video1.mp4", "all/v2.WEBM", "a.b_0.0_12.0.mp4", "x_c2.mov.mp4",
                                   "train/00000/7.jpg", "val/00000/7.jpg", ".cache/hidden.mp4", "deep/er/v9.mp4",
                                   "v9.avi",
                                   "features/f.npz"), "-"))
    os.symlink(tmp_path, tmp_path/"deep/loop")
    files = Files(tmp_path)
    def at(name): return (found := files.video(name)) and found.relative_to(tmp_path).as_posix()
    assert [at(n) for n in ("video1.mp4", "video1", "v2", "v2.mp4", "a.b_0.0_12.0", "x_c2.mov", "val/7",
                            "train/7.jpg")] == [
        "videos/MSRVTT/video1.mp4", "videos/MSRVTT/video1.mp4", "all/v2.WEBM", "all/v2.WEBM", "a.b_0.0_12.0.mp4",
        "x_c2.mov.mp4", "val/00000/7.jpg", "train/00000/7.jpg"]
    assert at("v9") == "v9.avi" # the file nearest to the root
    assert at("hidden") is at("f") is at("test/7") is at("nothing") is None and files.features == {"f"}
    with pytest.raises(VidnegError, match="is not a folder"): Files(tmp_path/"none")


@real
def test_check_names_missing_and_broken_videos(tmp_path):
    write(tmp_path, TINY["msrvtt"])
    (tmp_path/"all").mkdir()
    shutil.copy(Path(REAL)/"clips/cotracker_cat.mp4", tmp_path/"all/video0.mp4")
    (tmp_path/"all/video2.avi").write_bytes(b"no video")
    check = check_official("msrvtt", tmp_path, probe=None)
    assert check.missing == ("video1",) and list(check.broken) == ["video2"] and check.probed == 2 and not check.ok
    text = str(check)
    assert all(t in text for t in ("2 of 3 found; missing: video1", "BROKEN: video2", "1000",
                                   "NOT FOUND: MSRVTT_train"))
    assert check_official("msrvtt", tmp_path, probe=0).probed == 0
    table = check.table.set_index(["split", "what"])
    assert table.loc[("train", "captions"), "found"] == 4 and table.loc[("train", "captions"), "equal"] == "no"
    with pytest.raises(VidnegError, match="no protocol '1k-B'; there are: 1k-A, full, miech"):
        check_official("msrvtt", tmp_path, "1k-B")
    with pytest.raises(VidnegError, match="no official dataset 'msrvt'"): check_official("msrvt", tmp_path)
    with pytest.raises(VidnegError, match="has no split 'val'; there are: "): read_official("msrvtt", tmp_path, "val")


def test_the_pipeline_takes_an_official_dataset(tmp_path):
    root = write(tmp_path/"data/raw/charades", TINY["charades"])
    (tmp_path/"data/raw/charades.dvc").write_text("outs:\n- path: charades\n") # as `dvc add` leaves it
    taken = take_dataset(f"charades:{root}", tmp_path/"taken", {})
    assert taken.splits() == {"train": 1, "test": 1} and taken.captions[0].text == "a man sits."
    clips = read_records(tmp_path/"taken/clips.parquet", Clip)
    assert {(c.start, c.end) for c in clips} == {(0, 0), (24.3, 30.4)}
    assert all(Path(c.path).is_absolute() for c in clips)
    with pytest.raises(VidnegError, match="no official dataset 'charade'"):
        take_dataset(f"charade:{root}", tmp_path, {})


def test_a_folder_added_by_dvc_reads(tmp_path):
    folder = tmp_path/"data/raw/own"
    store = write(tmp_path/".dvc/cache/files", {"clips": dump({"clip_id": "a", "path": "a.mp4"}),
                                                "captions": dump({"caption_id": "1", "clip_id": "a",
                                                                  "text": "A cat."})})
    folder.mkdir(parents=True)
    for name in ("clips", "captions"): os.symlink(store/name, folder/f"{name}.jsonl") # cache.type: symlink
    (folder.parent/"own.dvc").write_text("outs:\n- path: own\n")
    assert read_dataset(folder).captions[0].text == "A cat."


# single readers

QV = {"qid": 7, "query": "A dog.", "duration": 126, "vid": "v", "relevant_clip_ids": [0, 1],
      "saliency_scores": [[1, 2, 3]]*2,
      "relevant_windows": [[0, 4]]}

@pytest.mark.parametrize("change, says", [
    ({"relevant_windows": [[10, 10]]}, r"line 1: the window \[10, 10\] is empty.*on_empty='drop'"),
    ({"relevant_windows": [[100, 128]]}, "outside the video of 126 s"),
    ({"relevant_windows": [[1, None]]}, r"should be \[start"),
    ({"relevant_clip_ids": [0, -1]}, "different numbers from 0 to 62"),
    ({"relevant_clip_ids": [0, 63]}, "from 0 to 62"),
    ({"relevant_clip_ids": [1, 1]}, "different numbers"), ({"saliency_scores": [[1, 2, 3]]}, "for each of the 2"),
    ({"saliency_scores": [[1, 2]]*2}, "3 scores from 0 to 4"), ({"saliency_scores": [[1, 2, 9]]*2}, "from 0 to 4"),
    ({"duration": None}, "duration should be a number"), ({"duration": -5}, "at least 0"),
    ({"vid": " "}, "vid is blank")])
def test_queries_of_qvhighlights_are_checked(change, says, tmp_path):
    (tmp_path/"q.jsonl").write_text(dump(QV | change))
    with pytest.raises(VidnegError, match=says): read_qvhighlights(tmp_path/"q.jsonl")


def test_windows_that_do_not_fit_may_be_dropped(tmp_path):
    lines = [QV | {"relevant_windows": w} for w in ([[100, 128], [10, 10]], [[10, 10]], [[0, 4]])]
    (tmp_path/"q.jsonl").write_text("\n".join(map(dump, lines)))
    kept = read_qvhighlights(tmp_path/"q.jsonl", on_empty="drop")
    assert [q.windows for q in kept] == [((100., 126.),), ((0., 4.),)]
    withheld = {k: QV[k] for k in ("qid", "query", "duration", "vid")} # as in the test file
    (tmp_path/"q.jsonl").write_text(dump(withheld | {"query": "A\u2028dog."}))
    assert read_qvhighlights(tmp_path/"q.jsonl", on_empty="drop")[0].text == "A dog."


@pytest.mark.parametrize("line", ["3MSZA 1.0.3 4##a", "3MSZA -1 4##a", "3MSZA 1 nan##a", "3MSZA 1##a", "3MSZA 1 4 a",
                                  "3MSZA 1 4##"])
def test_lines_of_charades_are_checked(line, tmp_path):
    (tmp_path/"sta.txt").write_text(f"3MSZA 1 4##a man\n{line}\n")
    with pytest.raises(VidnegError, match="line 2, is not 'video start end##sentence'"):
        read_charades_sta(tmp_path/"sta.txt")


def anet(**changes): return {"objects": {"v/0/0/1": {"object_id": 1, "object_class": "person"}}} | changes

@pytest.mark.parametrize("raw, says", [
    (anet(attributes=None), "v.attributes"), (anet(relationships=None), "relationships"),
    (anet(actions=None), "actions"),
    (anet(objects=None), "v.objects"), (anet(objects={"v/0/0/1": {"object_class": "cat"}}), "'object_id' is missing"),
    (anet(objects={"v/0/0/1": {"object_id": 1}}), "'object_class' is missing"),
    (anet(objects={"v/0/0/1": {"object_id": None, "object_class": "cat"}}), "object_id should be a name"),
    (anet(objects={"v/0/0/1": ["cat"]}), "wants an object"),
    (anet(objects={"v1": BOX["v/0/0/1"]}), "VIDEO/SEGMENT/FRAME"),
    (anet(objects={"v/a/b/1": BOX["v/0/0/1"]}), "VIDEO/SEGMENT/FRAME"),
    (anet(attributes={"v/0/0/1": None}), "wants an object"), (anet(attributes={"v/0/0/2": {}}), "'v/0/0/2' is missing"),
    (anet(relationships=[{"subject": "v/0/0/1", "object": ["v/0/0/1"]}]), "object should be a name"),
    (anet(relationships=[{"subject": "v/0/0/1", "object": "v/0/0/1"}]),
     r"relationships\[0\]: 'relationship' is missing"),
    (anet(relationships=[None]), r"relationships\[0\]: wants an object"),
    (anet(attributes={"v/0/0/1": {"attribute_class": "person"}}, actions=[{"anet_label": "run"}]),
     "'duration' is missing"),
    (anet(attributes={"v/0/0/1": {"attribute_class": "person"}}, actions=[
        {"anet_label": "run", "duration": [float("nan"), 2]}]), "duration should be a start and an end")])
def test_damaged_graphs_of_anetqa_are_refused(raw, says, tmp_path):
    with pytest.raises(VidnegError, match=says): anetqa_graph("v", raw)
    (tmp_path/"sg.json").write_text(dump({"v": raw}))
    with pytest.raises(VidnegError, match=f"sg.json: .*{says}"): read_graphs(tmp_path/"sg.json", "anetqa")


def test_unknown_attributes_say_nothing():
    graph = anetqa_graph("v", anet(attributes={"v/0/0/1": {"attribute_class": "person", "color": ["unknown", "red"]}}))
    assert [a.value for a in graph.entities[0].attributes] == ["red"]


def test_msvd_reads_its_other_forms(tmp_path):
    lists = {k: v for k, v in TINY["msvd"].items() if k.endswith("list.txt")}
    want = {"a_0_5": ["a man runs"], "b_1_9": ["a cat", "a small cat"]}
    words = {v: [t.split() for t in texts] for v, texts in want.items()}
    table = "VideoID,Start,End,WorkerID,Language,Description\n" + "".join(
        f"{v.replace('_', ',')},1,{lang},{t}\n" for v, texts in want.items() for t in texts for lang in ("English",
                                                                                                         "French"))
    for name, content in (("raw-captions.pkl", pickle.dumps(words)), ("video_corpus.csv", table),
                          ("msvd_test.json", dump([{"video": f"{v}.avi", "caption": t} for v, t in want.items()]))):
        data = read_official("msvd", write(tmp_path/name, lists | {name: content}))
        assert {v: [c.text for c in data.captions if c.clip_id == v] for v in want} == want, name
    write(tmp_path/"bad", lists | {"raw-captions.pkl": pickle.dumps({"a_0_5": ["a man"]})})
    with pytest.raises(VidnegError, match="'a_0_5' should be lists of words"): read_official("msvd", tmp_path/"bad")


@pytest.mark.parametrize("name", [*PAIR_SETS, *CAPTION_SETS])
def test_sets_refuse_rows_of_another_form_with_their_place(name, tmp_path):
    file = {"vitatecs": "Type.jsonl", "vl-checklist": "Attribute_a.json", "sugarcrepe": "add_att.json",
            "didemo": "val_data.json",
            "activitynet": "val.json", "qvhighlights": "highlight_val_release.jsonl",
            "msrvtt": "MSRVTT_JSFUSION_test.csv",
            "charades": "charades_sta_test.txt"}[name]
    (tmp_path/file).write_text('{"a": 7}\n' if name != "msrvtt" else "key,vid,sentence\n1,2,3\n")
    with pytest.raises(VidnegError, match=f"{file} does not have the form of {name}: {file}"):
        (read_pairs if name in PAIR_SETS else read_captions)(name, tmp_path)


def test_rows_and_readable_texts(tmp_path):
    assert readable("\ufeffA man\tis riding\u00a0a\u00ad horse\u2029\ud83d") == "A man is riding\u00a0a horse  "
    joined = "👩\u200d🚒 نمی\u200cخواهم" # joiners are part of the text
    assert readable(joined) == joined
    assert Row({"n": "3.5"}, "x").number("n") == 3.5 and Row({"id": 7}, "x").name("id") == "7"
    for value in ("", "x", None, -1, float("inf"), True, [1]):
        with pytest.raises(VidnegError, match="x: n should be a number"): Row({"n": value}, "x").number("n")
    (tmp_path/"t.csv").write_bytes(b"\xef\xbb\xbfa,b\r\n\"1\n2\",\"x\x00y\"\r\n\r\n")
    (row,) = table_rows(tmp_path/"t.csv", ["a"])
    assert row.text("a") == "1 2" and row.text("b") == "x y"
    with pytest.raises(VidnegError, match="t.csv: 'c' is missing"): next(table_rows(tmp_path/"t.csv", ["c"]))
    (tmp_path/"l.jsonl").write_text('{"a": 1}\n[2]\n')
    with pytest.raises(VidnegError, match="l.jsonl, line 2: wants an object"): line_rows(tmp_path/"l.jsonl")


# the real files

FOLDERS = {("msrvtt", "1k-A"): {"train videos": 9000, "test videos": 1000, "test captions": 1000},
           ("msrvtt", "full"): {"train videos": 6513, "val videos": 497, "test videos": 2990},
           ("msrvtt", "miech"): {"train videos": 6656, "test videos": 1000},
           ("msvd", "official"): {"train videos": 1200, "val videos": 100, "test videos": 670},
           ("didemo", "paragraph"): {"val videos": 1065, "test videos": 1004},
           ("didemo", "moments"): {"val captions": 4180, "test captions": 4021, "val queries": 4180,
                                   "test queries": 4021},
           ("activitynet", "val_1"): {"train videos": 10009, "test videos": 4917},
           ("activitynet", "val_2"): {"train videos": 10009, "test videos": 4885},
           ("activitynet", "moments"): {"train captions": 37421, "val captions": 17505, "test captions": 17031},
           ("charades", "official"): {"train captions": 12408, "test captions": 3720, "train videos": 5338,
                                      "test videos": 1334},
           ("qvhighlights", "official"): {"train queries": 7218, "val queries": 1550},
           ("sugarcrepe", "official"): {"test pairs swap_obj": 245, "test pairs add_obj": 2062},
           ("vitatecs", "official"): {"test pairs Sequence": 151, "test pairs Type": 6605}}
PLACES = {"activitynet": "activitynet_captions", "charades": "charades_sta", "sugarcrepe": "sugar_crepe"}

@real
@pytest.mark.filterwarnings("ignore:vl-checklist")
@pytest.mark.parametrize("name, protocol", FOLDERS)
def test_real_files_have_the_published_counts(name, protocol, tmp_path):
    for place in {PLACES.get(name, name), "splits"}:
        if (Path(REAL)/place).exists(): os.symlink(Path(REAL)/place, tmp_path/place)
    check = check_official(name, tmp_path, protocol)
    table = {f"{r.split} {r.what}": r for r in check.table.itertuples()}
    for what, n in FOLDERS[name, protocol].items():
        assert table[what].found == table[what].published == n and table[what].equal == "yes"
    absent = [w for w, r in table.items() if r.equal == "no"]
    assert all(table[w].found == 0 for w in absent) # only what has no file here
    if absent: assert any(not found for found in check.files.values())


@real
def test_the_list_of_training_videos_of_didemo_is_short_of_three():
    files = Files(Path(REAL)/"splits")
    published = DATASETS["didemo"].published["paragraph"]["train"]["videos"]
    assert len(files.ids("didemo_train_list.txt")) == 8392 == published - 3


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "a/../../b.mp4", "..", "./x"])
def test_no_name_of_a_video_leads_out_of_the_folder(name, tmp_path):
    write(tmp_path/"root", {"Type.jsonl": dump(json.loads(TINY["vitatecs"]["Type.jsonl"]) | {"video_name": name})})
    write(tmp_path, {"secret.mp4": "-", "b.mp4": "-"})
    (clip,) = read_official("vitatecs", tmp_path/"root").clips
    assert Path(os.path.normpath(clip.path)).is_relative_to(tmp_path/"root") and not Path(clip.path).exists()


class MovieGraph:
    def __init__(self, clips): self.imdb_key, self.clip_graphs = "tt1", clips


class ClipGraph:
    def __init__(self, graph, **more):
        self.G = graph
        self.__dict__.update(more)


def test_moviegraphs_have_captions_splits_and_videos(tmp_path):
    import networkx
    graph = networkx.DiGraph()
    graph.add_node(1, type="entity", name="Jenny")
    clips = {7: ClipGraph(graph, scene_label="road", description="Jenny\twalks.", video={"fname": ["scene-007"]}),
             8: ClipGraph(graph, scene_label="road", description=None)}
    write(tmp_path, {"all_movies.pkl": pickle.dumps({"tt1": MovieGraph(clips)}, protocol=2),
                     "split.json": dump({"test": ["tt1"]}), "clips/tt1/scene-007.mp4": "-"})
    data = read_official("moviegraphs", tmp_path)
    assert data.splits() == {"test": 2} and [c.text for c in data.captions] == ["Jenny walks."]
    assert data.clips[0].path == str(tmp_path/"clips/tt1/scene-007.mp4") and set(data.graphs) == {"tt1/7", "tt1/8"}
