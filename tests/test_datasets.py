"Datasets on disk, stills, cached features, scores."
import json

import numpy as np
import pytest
import torch

from vidneg.core.errors import VidnegError
from vidneg.core.records import Caption, Clip, read_records, write_records
from vidneg.core.seeds import stable_rng
from vidneg.data.batches import Batches
from vidneg.data.dataset import read_dataset, take_dataset
from vidneg.data.video import sample_indices
from vidneg.models.features import cache_features
from vidneg.models.navero import Navero, NaveroConfig
from vidneg.world.labels import CLASSES, PREDICATES, patch_targets, still_batches
from vidneg.world.language import holds, parse
from vidneg.world.script import WorldConfig, is_held_out, make_clip
from vidneg.world.stills import draw_films, draw_pictures, draw_stills
from vidneg.world.words import SIZES
from vidneg.world.write import write_world


def folder(tmp_path, clips, captions):
    write_records(tmp_path/"clips.jsonl", clips, Clip)
    write_records(tmp_path/"captions.jsonl", captions, Caption)
    return tmp_path


CLIPS = [Clip("a", "x/a.mp4", 0, 0, "train"), Clip("b", "x/b.mp4", 1, 2, "test")]


def test_a_custom_folder(tmp_path):
    data = read_dataset(folder(tmp_path, CLIPS, [Caption("b.0", "b", "a cat"), Caption("a.0", "a", "a dog")]))
    assert data.splits() == {"train": 1, "test": 1} and not data.graphs
    assert data.clips[0].path == str(tmp_path/"x/a.mp4")
    assert [c.caption_id for c in data.of("test")] == ["b.0"] and not data.of("val")


@pytest.mark.parametrize("clips, captions, says", [
    (CLIPS*2, [], "clip_id 'a' occurs more than once"),
    (CLIPS, [Caption("c", "a", "x")]*2, "caption_id 'c' occurs more than once"),
    (CLIPS, [Caption("c", "z", "x")], "'c' belongs to clip 'z', which is not in the table of clips"),
    (CLIPS, [Caption("c", "a", "x", "short")], "grain of caption 'c' is 'short': use fine or broad"),
    ([], [], "table of clips is empty"),
    (CLIPS, [], "table of captions is empty")])
def test_bad_tables(tmp_path, clips, captions, says):
    with pytest.raises(VidnegError, match=says): read_dataset(folder(tmp_path, clips, captions))


def test_missing_tables(tmp_path):
    with pytest.raises(VidnegError, match="data.source is 'nowhere': neither"):
        take_dataset("nowhere", tmp_path/"taken", {})
    with pytest.raises(VidnegError, match="no clips.parquet or clips.jsonl"): read_dataset(tmp_path)


GOOD = {
    "clips.jsonl": '{"clip_id": "a", "path": "a.mp4", "split": "train"}\n'
                   '{"clip_id": "b", "path": "b.mp4", "split": "test"}',
    "captions.jsonl": '{"caption_id": "1", "clip_id": "a", "text": "a dog"}\n'
                      '{"caption_id": "2", "clip_id": "b", "text": "a cat"}'}

def written(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, text in (GOOD | {k.replace("_jsonl", ".jsonl"): v for k, v in files.items()}).items():
        (folder/name).write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    return folder

def taken(folder, **counts): return take_dataset(str(folder), folder.parent/"taken", counts)

def test_seconds_and_grain_may_be_left_out(tmp_path):
    data = taken(written(tmp_path/"own"))
    assert data.splits() == {"train": 1, "test": 1} and (data.clips[0].start, data.clips[0].end) == (0, 0)
    assert [c.text for c in data.of("test", "fine")] == ["a cat"]

def test_tables_of_other_programs_are_read(tmp_path):
    import pandas as pd
    written(tmp_path/"own")
    for name in ("clips", "captions"):
        path = tmp_path/f"own/{name}.jsonl"
        pd.read_json(path, lines=True, dtype=str).assign(note="more").to_parquet(path.with_suffix(".parquet"))
        path.unlink()
    assert taken(tmp_path/"own").captions == taken(written(tmp_path/"lines")).captions
    windows = "\ufeff" + GOOD["clips.jsonl"].replace("\n", "\r\n")
    assert taken(written(tmp_path/"bom", clips_jsonl=windows)).splits() == {"train": 1, "test": 1}

LINE = '{"caption_id": "3", "clip_id": "a", "text": %s}\n' + GOOD["captions.jsonl"]

@pytest.mark.parametrize("files, says", [
    ({"captions_jsonl": ""}, "table of captions is empty"),
    ({"clips_jsonl": ""}, "table of clips is empty"),
    ({"captions_jsonl": "a dog runs"}, "captions.jsonl, line 1 is not JSON"),
    ({"captions_jsonl": GOOD["captions.jsonl"] + "\n{"}, "line 3 is not JSON"),
    ({"captions_jsonl": '["a", "b"]'}, "a row that is no Caption"),
    ({"captions_jsonl": '{"clip_id": "a", "text": "a dog"}'},
     r"no Caption \(missing .* 'caption_id'\); its fields are: caption_id, clip_id, text"),
    ({"captions_jsonl": LINE % 17}, "text is 17, which is not a text"),
    ({"captions_jsonl": LINE % "null"}, "text is None, which is not a text"),
    ({"clips_jsonl": GOOD["clips.jsonl"].replace('"b.mp4"', '"b.mp4", "start": "0:10"')},
     "start is '0:10', which is not a number"),
    ({"captions_jsonl": GOOD["captions.jsonl"].encode("utf-16")}, "is not UTF-8"),
    ({"clips.parquet": "no table"}, "clips.parquet is no Parquet file"),
    ({"clips_jsonl": GOOD["clips.jsonl"].replace("test", "validation")},
     "no split is called 'validation'; clips by split: 'train' 1, 'v"),
    ({"clips_jsonl": GOOD["clips.jsonl"].replace("test", "val")}, "no clip of split 'test' has a fine caption"),
    ({"clips_jsonl": GOOD["clips.jsonl"].replace(', "split": "test"', "")}, "no split is called ''"),
    ({"captions_jsonl": LINE[:LINE.index("\n")] % '"\U0001F600"'}, "no clip of split 'train' has a fine caption")],
    ids=lambda x: x[:40] if isinstance(x, str) else "")
def test_bad_folders_are_one_clear_error(tmp_path, files, says):
    with pytest.raises(VidnegError, match=says): taken(written(tmp_path/"own", **files))

def test_odd_captions_are_cleaned_or_set_aside(tmp_path):
    odd = ["\U0001F600\U0001F600", " ", "", "...", "a dog\x00 runs\ud83d fast\u2028and\nfar", "狗在跑"]
    lines = [json.dumps({"caption_id": f"o{i}", "clip_id": "a", "text": t}) for i, t in enumerate(odd)]
    data = taken(written(tmp_path/"own", captions_jsonl="\n".join([*lines, GOOD["captions.jsonl"]])))
    assert [c.caption_id for c in data.wordless] == ["o0", "o1", "o2", "o3"]
    assert [c.text for c in data.of("train")] == ["a dog  runs  fast and far", "狗在跑", "a dog"]
    assert not read_dataset(tmp_path/"taken").wordless

def test_lines_of_records_end_at_line_feeds_only(tmp_path):
    some = [Caption("1", "a", "a\u2028b\x85c\x1cd"), Caption("2", "a", "e\r\nf")]
    assert read_records(write_records(tmp_path/"c.jsonl", some), Caption) == some

def test_only_keeps_the_given_clips(tmp_path):
    write_world(tmp_path/"world", {"train": 3, "test": 2}, WorldConfig(frames=8))
    world = read_dataset(tmp_path/"world")
    kept = [c.clip_id for c in world.clips if c.split == "test"]
    part = world.only(iter(kept))
    assert [c.clip_id for c in part.clips] == kept
    assert set(part.graphs) == {c.clip_id for c in part.captions} == set(kept)
    assert part.of("test") == world.of("test") and not part.of("train")

def test_a_source_folder_keeps_its_videos_where_they_are(tmp_path):
    write_world(tmp_path/"world", {"train": 3, "test": 2}, WorldConfig(frames=8))
    world = read_dataset(tmp_path/"world")
    taken = take_dataset(str(tmp_path/"world"), tmp_path/"here", {"train": 2})
    assert taken.splits() == {"train": 2, "test": 2}
    assert set(taken.graphs) == {c.clip_id for c in taken.clips} <= set(world.graphs)
    assert not (tmp_path/"here/videos").exists()
    assert all(c.path.startswith(str(tmp_path/"world")) for c in taken.clips)


def test_stills_do_not_depend_on_their_number():
    few, many = draw_stills(3), draw_stills(5)
    assert (few.frames == many.frames[:3]).all() and (few.place == many.place[:3]).all()
    assert few.place[..., 2].min() > min(SIZES.values())*np.exp(-0.5) - 1e-6


def test_patch_targets_by_hand():
    stills = draw_stills(20)
    targets = patch_targets(stills, 4)
    for i, places in enumerate(stills.place):
        for p in range(16):
            cx, cy = (p % 4 + 0.5)/4, (p//4 + 0.5)/4
            gaps = [max(abs(x - cx), abs(y - cy)) - 0.4*r for x, y, r in places]
            e = int(np.argmin(gaps))
            covered = gaps[e] < 0.125
            assert all(targets[k][i, p] == (stills.labels[k][i, e] if covered else -1) for k in CLASSES)
            x, y, r = places[e]
            if covered: assert np.allclose(targets["offset"][i, p], ((x - cx)*4, (y - cy)*4, r*4), atol=1e-5)


def test_still_batches_show_every_still_once_an_epoch():
    batches = still_batches(draw_stills(12), 4, batch_size=4)
    seen = torch.cat([batches.batch(1, i)["offset"] for i in range(3)])
    assert len(torch.unique(seen, dim=0)) == 12
    assert not torch.equal(batches.batch(0, 0)["offset"], batches.batch(1, 0)["offset"])
    with pytest.raises(VidnegError, match="no batch"): still_batches(draw_stills(3), 4, batch_size=4)


@pytest.mark.slow
def test_film_labels_name_the_events_of_the_script():
    config = WorldConfig()
    films = draw_films(30, 8, 4, config)
    assert (draw_films(3, 8, 4, config, workers=2).frames == films.frames[:3]).all()
    for i in range(30):
        script = make_clip("film", i, config)
        names = {e.entity_id: e.name for e in script.graph.entities}
        seen = {PREDICATES[p] for p in np.unique(films.labels["predicate"][i]) if p > 0}
        actions = {e.predicate for e in script.graph.events if e.kind != "relation"}
        assert seen - {p for p in seen if p.startswith("is ")} <= actions
        assert not any(is_held_out(names[e.subject], e.subject_attribute, e.predicate, config)
                       for e in script.graph.events
                       if e.kind in ("action", "contact"))
    assert (films.labels["predicate"] > 0).any((1, 2)).mean() > 0.5


def test_picture_captions_are_true_of_their_frame():
    config = WorldConfig()
    pictures = draw_pictures(40, config)
    few = draw_pictures(3, config, workers=2)
    assert (few.frames == pictures.frames[:3]).all() and few.captions == pictures.captions[:9]
    steady = 0
    for i in range(40):
        graph = make_clip("picture", i, config).graph
        texts = [c.text for c in pictures.captions if c.clip_id == str(i)]
        changing = any(len([a for a in e.attributes if a.kind == k]) > 1 for e in graph.entities
                       for k in {a.kind for a in e.attributes})
        assert len(texts) == 3 and 0 <= pictures.times[i] < config.frames/config.fps
        if not changing: assert all(holds(parse(t), graph) for t in texts)
        steady += not changing
    assert steady > 10


def test_cached_features_equal_those_of_the_model(tmp_path):
    model = Navero(NaveroConfig(width=32, heads=2, spatial_layers=1, spacetime_layers=1,
                               text_layers=1, fusion_layers=1))
    frames = np.random.default_rng(0).integers(256, size=(5, 3, 64, 64, 3), dtype=np.uint8)
    cached = cache_features(model, frames, tmp_path/"f.npy", batch_size=2, workers=2, desc="")
    with torch.no_grad(): direct = model.eval().frame_features(torch.from_numpy(frames))
    assert cached.dtype == np.float16 and np.allclose(cached, direct.numpy(), atol=2e-2)


def test_segments_of_frames():
    "Training takes one frame per segment; the frames differ between epochs and do not depend on the batch."
    features = np.arange(6*24, dtype=np.float32).reshape(6, 24, 1, 1)
    def shown(batch_size, epoch):
        b = Batches(features, [[[1, 2]]]*6, batch_size=batch_size, n_frames=8, shuffle=False)
        return torch.cat([b.batch(epoch, i)["features"] for i in range(len(b))])[..., 0, 0]
    one = shown(1, 0)
    assert torch.equal(one, shown(3, 0)) and not torch.equal(one, shown(1, 1))
    for row, frames in enumerate(one.long()):
        expected = sample_indices(24, 8, "segment", stable_rng(0, "frames", 0, row))
        assert (frames - 24*row).tolist() == expected.tolist()
        assert ((frames - 24*row)//3 == torch.arange(8)).all()


@pytest.mark.parametrize("files, says", [
    ({"clips_jsonl": '{"clip_id": "a", "path": "a.mp4", "start_s": 5}'},
     "'start_s' is unknown, did you mean 'start'"),
    ({"clips_jsonl": '{"clip_id": "a", "path": "a.mp4", "End": 9}'}, "'End' is unknown, did you mean 'end'"),
    ({"clips_jsonl": '{"clip_id": "a", "path": "a.mp4"}\n\n{"clip_id": "b", "path": "b.mp4", "Split": "test"}'},
     "'Split' is unknown, did you mean 'split'"),
    ({"captions_jsonl": '{"caption_id": "1", "clip_id": "a", "text": "a dog", "grian": "broad"}'},
     "did you mean 'grain'"),
    ({"captions_jsonl": '{"caption": "1", "clip_id": "a", "text": "a dog"}'}, "did you mean 'caption_id'"),
    ({"clips_jsonl": '{"clip_id": "a", "path": "a.mp4", "start": 1, "end": -1}'},
     "clip 'a' is 1 to -1 s: the end must be later"),
    ({"clips_jsonl": '{"clip_id": "a", "path": "a.mp4", "start": -1}'}, "clip 'a' is -1 to 0 s"),
    ({"clips_jsonl": '{"clip_id": "a", "path": "a.mp4", "start": 5, "end": 5}'}, "clip 'a' is 5 to 5 s"),
    ({"clips_jsonl": '{"clip_id": "a", "path": "a.mp4", "end": NaN}'}, "row 1: end is nan: write the seconds, or 0"),
    ({"clips_jsonl": '{"clip_id": "a", "path": "a.mp4", "start": NaN}'}, "row 1: start is nan"),
    ({"clips_jsonl": '{"clip_id": "a", "path": "a.mp4", "end": Infinity}'}, "row 1: end is inf"),
    ({"clips_jsonl": '{"clip_id": "a", "path": "a.mp4", "start": true}'},
     "row 1: start is True, which is not a number"),
    ({"clips_jsonl": '{"clip_id": " ", "path": "a.mp4"}'}, "a clip_id is blank"),
    ({"graphs.jsonl": '{"clip_id": "a", "scene": "", "entities": [], "events": []}\n'*2},
     "'a' has several scene graphs")])
def test_nonsense_is_not_taken_silently(tmp_path, files, says):
    with pytest.raises(VidnegError, match=says): read_dataset(written(tmp_path/"own", **files))


@pytest.mark.filterwarnings("ignore:.*has fields that a Clip does not have")
def test_further_columns_and_parquet_tables_are_read(tmp_path):
    import pandas as pd
    more = '{"clip_id": "a", "path": "a.mp4", "start": 1, "end": 3.5, "camera": "left", "duration": 9, "starts": 0}'
    assert read_dataset(written(tmp_path/"own", clips_jsonl=more, captions_jsonl=GOOD["captions.jsonl"].split("\n")[0])
                        ).clips[0].end == 3.5
    pd.DataFrame([{"clip_id": "a", "path": "a.mp4", "begin": 1.0,
                   "endd": 2.0}]).to_parquet(tmp_path/"own/clips.parquet")
    with pytest.raises(VidnegError, match="clips.parquet has a row .*'endd' is unknown, did you mean 'end'"):
        read_dataset(tmp_path/"own")


def test_marks_that_nobody_sees_are_removed_from_captions(tmp_path):
    line = json.dumps({"caption_id": "1", "clip_id": "a", "text": "\ufeffA man\tis riding\u2028a horse."})
    assert read_dataset(written(tmp_path/"own", captions_jsonl=line)).captions[0].text == "A man is riding a horse."
