"Pair and caption sources: a few lines of each real format, and the real files where they are at hand."
import json
import os
from pathlib import Path

import pytest

from vidneg.core.errors import VidnegError
from vidneg.core.records import Caption, Negative
from vidneg.data.pairs import CAPTION_SETS, PAIR_SETS, Pair, pairs_of, read_captions, read_pairs

REAL = os.environ.get("VIDNEG_REAL_DATA")
real = pytest.mark.skipif(not REAL, reason="VIDNEG_REAL_DATA does not name the folder of real data")

FILES = {
    "sugarcrepe": ("add_att.json", json.dumps({"0": {"filename": "1.jpg", "caption": "A cat.",
                                                      "negative_caption": "A wet cat."}})),
    "vitatecs": ("Type.jsonl", json.dumps({"src_dataset": "MSRVTT", "video_name": "v1.mp4", "caption": "a man runs",
                                            "counterfactual": "a man walks", "aspect": "Type"}) + "\n"),
    "vl-checklist": ("Relation_vg_action.json", json.dumps([["a.jpg", {"POS": ["steam coming from train"],
                                                                        "NEG": ["steam opening train"]}]])),
    "activitynet": ("val.json", json.dumps({"v_1": {"duration": 5.0, "timestamps": [[0, 1], [1, 5]],
                                                    "sentences": ["A man runs.", "  He stops."]}})),
    "qvhighlights": ("highlight_val_release.jsonl", json.dumps({"qid": 7, "query": "A girl cooked.", "duration": 150,
                                                                "vid": "x_0_150"}) + "\n"),
    "msrvtt": ("MSRVTT_JSFUSION_test.csv",
               'key,vid_key,video_id,sentence\nret0,msr9770,video9770,"a person, two dogs"\n'),
    "charades": ("charades_sta_test.txt", "3MSZA 24.3 30.4##person turn a light on.\n"),
    "didemo": ("val_data.json", json.dumps([{"annotation_id": 3, "video": "v.mov", "description": "the man bends",
                                             "times": [[1, 1]]}]))}
FIRST = {
    "sugarcrepe": Pair("add_att/0", "1.jpg", "add_att", "A cat.", "A wet cat.", "sugarcrepe"),
    "vitatecs": Pair("Type/0", "v1.mp4", "Type", "a man runs", "a man walks", "vitatecs"),
    "vl-checklist": Pair("Relation_vg_action/0/0", "a.jpg", "Relation_vg_action", "steam coming from train",
                         "steam opening train", "vl-checklist"),
    "activitynet": Caption("val/v_1/0", "v_1", "A man runs."),
    "qvhighlights": Caption("7", "x_0_150", "A girl cooked."),
    "msrvtt": Caption("ret0", "video9770", "a person, two dogs"),
    "charades": Caption("charades_sta_test/0", "3MSZA_24.3_30.4", "person turn a light on."),
    "didemo": Caption("3", "v.mov", "the man bends")}


def read(name, folder): return (read_pairs if name in PAIR_SETS else read_captions)(name, folder)


@pytest.mark.parametrize("name", [*PAIR_SETS, *CAPTION_SETS])
def test_each_source_reads_a_line_of_its_format(name, tmp_path):
    file, text = FILES[name]
    (tmp_path/file).write_text(text, encoding="utf-8")
    assert read(name, tmp_path)[0] == FIRST[name]


@pytest.mark.parametrize("name", [n for n in FILES if n != "msrvtt"])
def test_another_format_is_refused_by_name(name, tmp_path):
    (tmp_path/FILES[name][0]).write_text("12\n")
    with pytest.raises(VidnegError, match=f"does not have the form of {name}"): read(name, tmp_path)


def test_missing_files_and_unknown_sources(tmp_path):
    with pytest.raises(VidnegError, match="name the folder"): read_pairs("vitatecs", tmp_path)
    with pytest.raises(VidnegError, match="there are: sugarcrepe"): read_pairs("nothing", tmp_path)


def test_pairs_join_negatives_with_their_captions():
    c = [Caption("1", "x", "a dog"), Caption("2", "y", "a cat")]
    n = [Negative(i, t, "object", "g", (), 1, 0) for i, t in (("2", "a cow"), ("2", "a hen"), ("1", "a hen"))]
    assert [(p.item, p.clip_id, p.caption, p.negative) for p in pairs_of(c, n)] == [
        ("2/object/0", "y", "a cat", "a cow"), ("2/object/1", "y", "a cat", "a hen"),
        ("1/object/0", "x", "a dog", "a hen")]


FOLDERS = {"sugarcrepe": ("sugar_crepe", 7511), "vitatecs": ("vitatecs", 13838),
           "vl-checklist": ("vl_checklist", 98897), "activitynet": ("activitynet_captions", 71957),
           "qvhighlights": ("qvhighlights", 8768), "msrvtt": ("msrvtt", 1000),
           "charades": ("charades_sta", 16128), "didemo": ("didemo", 8201)}


@real
@pytest.mark.parametrize("name", FOLDERS)
def test_real_files(name):
    folder, n = FOLDERS[name]
    found = read(name, Path(REAL)/folder)
    assert len(found) == n
    ids = [getattr(r, "item", None) or r.caption_id for r in found]
    assert len(set(ids)) == n and all(isinstance(r.caption if name in PAIR_SETS else r.text, str) for r in found)
