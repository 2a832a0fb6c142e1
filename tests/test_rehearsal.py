"The rehearsal differs from the scale paper in sizes alone; its readers take files as users have them."
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from vidneg.core.errors import VidnegError
from vidneg.core.records import MomentQuery, read_records
from vidneg.data.dataset import read_source
from vidneg.data.moments import read_features, take_queries
from vidneg.data.readers.anetqa import anetqa_questions
from vidneg.data.readers.files import json_values
from vidneg.pipeline.scales import merge, overlay_of
from vidneg.pipeline.stage import read_yaml

ROOT = Path(__file__).parents[1]
SIZES = {"epochs", "post_epochs", "start_epochs", "batch_size", "learning_rate", "post_learning_rate", "n_frames",
         "final_learning_rate", "size", "width", "heads", "bootstrap_samples", "sample", "shares", "captions_per_clip",
         "mixed_precision", "processes", "worlds", "clips",
         "start_batch_size"}
NAMES = {"source", "moments", "vision", "text", "tokenizer", "model", "towers", "text_encoder", "questions_from"}


def resolved(scale): return merge(read_yaml(ROOT/"params.yaml"), overlay_of(scale, ROOT))


@pytest.mark.parametrize("scale, more", [("rehearsal", set()), ("rehearsal-anetqa", set()),
                                         ("rehearsal-moviegraphs", {"scheme"})])
def test_a_rehearsal_differs_from_paper_in_names_and_sizes_alone(scale, more):
    paper, ours = resolved("paper"), resolved(scale)
    assert paper.keys() == ours.keys()
    differ = {k for s in paper for k in {*paper[s], *ours[s]} if paper[s].get(k) != ours[s].get(k)}
    assert differ <= SIZES | NAMES | more, differ - SIZES - NAMES - more


@given(st.lists(st.dictionaries(st.text(max_size=3), st.one_of(st.text(), st.integers(), st.lists(st.text())))),
       st.integers(1, 40), st.sampled_from([None, 1]))
def test_values_of_a_list_do_not_depend_on_the_chunks_of_reading(tmp_path_factory, values, chunk, indent):
    path = tmp_path_factory.mktemp("json")/"list.json"
    path.write_text(json.dumps(values, indent=indent, ensure_ascii=False), encoding="utf-8")
    assert list(json_values(path, chunk)) == values


@pytest.mark.parametrize("content, message", [("{}", "hold a list"), ("[1, 2", "is not JSON"), ('[{"a": 1', "not JSON"),
                                              ('[{"a": 1, "a": 2}]', "twice")])
def test_a_list_that_is_none_or_is_cut_is_named(tmp_path, content, message):
    (tmp_path/"list.json").write_text(content)
    with pytest.raises(VidnegError, match=message): list(json_values(tmp_path/"list.json"))


def test_val_is_the_test_where_test_captions_are_withheld(tmp_path):
    box = {"v/0/0/1": {"object_id": 1, "object_class": "person"}}
    for split, video in (("train", "v"), ("val", "w")):
        entry = {"objects": {k.replace("v/", f"{video}/"): b for k, b in box.items()},
                 "actions": [{"duration": [0, 2], "activity_caption": "a man waves"}]}
        (tmp_path/f"sg_{split}.json").write_text(json.dumps({video: entry}))
    assert read_source(f"anetqa:{tmp_path}").splits() == {"train": 1, "test": 1}
    assert read_source(f"anetqa:{tmp_path.name}", tmp_path.parent).splits() == {"train": 1, "test": 1}


def test_questions_of_a_video_are_few_and_always_the_same(tmp_path):
    taxonomy = {"question_type": "attrWhat", "question semantics": "attribute"}
    rows = [{"qa_id": f"{v}#{k}", "video_id": v, "question": "what color?", "answer": f"c{k % 3}", "taxonomy": taxonomy}
            for v in ("a", "b") for k in range(30)]
    for split in ("train", "val"): (tmp_path/f"qa_{split}.json").write_text(json.dumps(rows))
    one, both = (anetqa_questions(tmp_path, {"train": ids, "test": {"b"}}, per_video=5)
                 for ids in ({"a"}, {"a", "b"}))
    assert len(one["train"]) == 5 and both["train"][:5] == one["train"]
    assert {q.clip_id for q in both["test"]} == {"b"} and all(q.answer in q.options for q in both["test"])


def test_features_are_unit_vectors_of_the_wanted_number_of_clips(tmp_path):
    rng = np.random.default_rng(0)
    for name, shape in (("clip", (6, 4)), ("slow", (5, 3))):
        (tmp_path/name).mkdir()
        np.savez(tmp_path/name/"v.npz", features=rng.normal(size=shape))
    np.savez(tmp_path/"clip/w.npz", other=np.zeros(3))
    found = read_features([tmp_path/"clip", tmp_path/"slow"], "v", 7)
    raw = np.load(tmp_path/"slow/v.npz")["features"]
    assert found.shape == (7, 7) and np.allclose(found[4:], found[4]) # the shortest file ends after clip 4
    assert np.allclose(found[:5, 4:], raw/np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-4)
    with pytest.raises(VidnegError, match="features"): read_features([tmp_path/"clip"], "w")


def test_queries_without_windows_are_no_test(tmp_path):
    (tmp_path/"raw/clip_features").mkdir(parents=True)
    full = {"duration": 12, "relevant_windows": [[2, 4]], "relevant_clip_ids": [1], "saliency_scores": [[1, 2, 3]]}
    for k, (split, more) in enumerate((("train", full), ("val", full), ("test", {"duration": 12}))):
        row = {"qid": k, "query": "A girl cooks.", "vid": f"v{k}_0.0_12.0", **more}
        (tmp_path/f"raw/highlight_{split}_release.jsonl").write_text(json.dumps(row) + "\n")
    assert take_queries(tmp_path/"q", f"qvhighlights:{tmp_path}/raw", ["clip_features"]) == {"train": 1, "test": 1}
    kept = read_records(tmp_path/"q/moments.parquet", MomentQuery)
    assert [q.clip_id for q in kept] == ["v0_0.0_12.0", "v1_0.0_12.0"]
    with pytest.raises(VidnegError, match="slowfast"):
        take_queries(tmp_path/"q", f"qvhighlights:{tmp_path}/raw", ["slowfast_features"])
