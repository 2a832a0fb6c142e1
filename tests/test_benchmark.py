"AARO-natural: edits of the package and the owner's captions give the items; the build resumes and repeats itself."
import json
import os
from collections import Counter
from pathlib import Path

import pytest
from test_official import TINY, real, write

from vidneg.core.errors import VidnegError
from vidneg.core.records import Caption, Clip, Negative
from vidneg.data.inputs import open_data
from vidneg.data.pairs import Pair
from vidneg.data.readers import aaro_natural
from vidneg.data.readers.aaro_natural import FOLDER, PARTS, VERSIONS, declared, part_records
from vidneg.data.readers.official import DATASETS, Files, check_official, read_official
from vidneg.data.withheld import export_edits, read_edits
from vidneg.negatives.natural import natural
from vidneg.report.benchmark import build_natural, draw_candidates, fingerprint, one_per_video
from vidneg.text.edits import edits_between

WORDS = ("a man in a red shirt plays a guitar on a stage", "a woman in a blue shirt rides a horse",
         "a boy in a black hat washes a car", "a girl in a white dress cuts an onion",
         "a man walks into a room and picks up a bottle", "a dog runs up the stairs")


def captions_of(n): return [Caption(f"c{k}", f"clip{k//2}", WORDS[k % len(WORDS)]) for k in range(n)]


def give_away(part, root, folder, change=lambda t: f"{t} again"):
    "Write edits for all captions of a part."
    captions = part_records(PARTS[part], Files(root))[1]
    made = [Negative(c.caption_id, change(c.text), "action", "natural", edits_between(c.text, change(c.text)), 1, 0)
            for c in captions]
    export_edits(made, folder/"natural"/part, captions, name=part)
    return captions, made


@pytest.mark.parametrize("part", PARTS)
def test_a_part_joins_edits_to_the_captions_of_its_split(part, tmp_path):
    files = dict(TINY[PARTS[part].dataset])
    if part == "activitynet": files = {"train.json": files["train.json"], "val.json": files["val_1.json"],
                                       "test.json": files["val_2.json"]}
    root = write(tmp_path/"root", files)
    captions, made = give_away(part, root, tmp_path/"edits")
    assert captions and len({c.clip_id for c in captions}) <= len(captions)
    official = declared(part, tmp_path/"edits")
    found = list(official.read(Files(root), "natural"))
    assert [r.negative for r in found if isinstance(r, Pair)] == [n.text for n in made]
    clips = [r for r in found if isinstance(r, Clip)]
    assert {c.split for c in clips} == {PARTS[part].split}
    assert {c.clip_id for c in clips} == {c.clip_id for c in captions}
    assert official.published["natural"][PARTS[part].split]["pairs"] == len(made)
    assert official.published["published"] == {}
    with pytest.raises(VidnegError, match=f"edits of {part}, published, are not in this installation"):
        list(official.read(Files(root), "published"))


def test_another_caption_is_refused_with_its_reason(tmp_path):
    root = write(tmp_path/"root", TINY["charades"])
    give_away("charades", root, tmp_path/"edits")
    file = root/"charades_sta_test.txt"
    file.write_text(file.read_text().replace("light", "lamp"))
    with pytest.raises(VidnegError, match="the caption differs: 1 negatives"):
        list(declared("charades", tmp_path/"edits").read(Files(root), "natural"))


def test_commands_read_a_part_as_any_official_dataset(tmp_path, monkeypatch):
    root = write(tmp_path/"root", TINY["qvhighlights"])
    captions, made = give_away("qvhighlights", root, tmp_path/"edits")
    monkeypatch.setattr(aaro_natural, "QVHIGHLIGHTS", declared("qvhighlights", tmp_path/"edits"))
    found = open_data(f"aaro-natural-qvhighlights:{root}", texts_only=True)
    assert [p.negative for p in found.pairs] == [n.text for n in made]
    assert {p.kind for p in found.pairs} == {"action"}


def test_a_run_resumes_and_repeats_itself(tmp_path):
    captions = captions_of(450)
    generator = natural(captions)
    whole, counts = draw_candidates(captions, generator, tmp_path/"a")
    shards = sorted((tmp_path/"a").rglob("*.parquet"))
    assert len(shards) == 3 and all(fingerprint(generator) in str(p) for p in shards)
    before = {p.name: p.stat().st_mtime_ns for p in shards}
    shards[1].unlink() # as if killed
    again, same = draw_candidates(captions, natural(captions), tmp_path/"a")
    assert again == whole and same == counts
    after = {p.name: p.stat().st_mtime_ns for p in shards}
    assert [after[p.name] == before[p.name] for p in shards] == [True, False, True]
    other = natural(captions_of(60))
    assert fingerprint(other) != fingerprint(generator)


def test_a_video_has_one_caption_per_kind():
    video = {f"c{k}": f"v{k//3}" for k in range(9)}
    some = [Negative(c, f"{c} {kind} {k}", kind, "natural", (), 1, 0) for c in video for kind in ("action", "object")
            for k in range(2)]
    kept = one_per_video(some, video)
    assert Counter((video[n.caption_id], n.kind) for n in kept) == {
        (v, k): 2 for v in {*video.values()} for k in ("action", "object")}
    assert len({n.caption_id for n in kept}) > 3 # the choice differs by kind
    assert one_per_video(some, video) == kept != one_per_video(some, video, seed=1)


def test_a_built_set_has_at_most_one_item_per_video_and_kind(tmp_path):
    captions = captions_of(240)
    clips = [Clip(f"clip{k}", f"video{k//2}.mp4") for k in range(120)]
    built = build_natural(clips, captions, natural(captions), tmp_path, keep=0.8)
    path = {c.clip_id: c.path for c in clips}
    clip = {c.caption_id: c.clip_id for c in captions}
    assert max(Counter((path[clip[n.caption_id]], n.kind) for n in built.negatives).values()) == 1
    table = built.table
    assert (table["captions"] >= table["with a negative"]).all() and (table["one per video"] >= table["kept"]).all()
    assert built.table.kept.sum() == len(built.negatives) > 30


PACKAGED = [(v, p) for v in VERSIONS for p in PARTS]


@pytest.mark.parametrize("version, part", PACKAGED)
def test_the_package_has_all_sets_without_any_caption(version, part):
    manifest, rows = read_edits(FOLDER/version/part)
    assert manifest["items"] == len(rows) == sum(manifest["kinds"].values()) > 100
    assert set(rows[0]) == {"item", "caption_id", "clip_id", "caption", "kind", "generator", "rounds", "seed",
                            "negative", "edits"}
    card = (FOLDER/version/part/"README.md").read_text()
    assert all(heading in card for heading in ("## Coverage", "## Audit", "## Known weaknesses", "## Licenses"))


FOLDERS = {"activitynet": "activitynet_captions", "charades": "charades_sta"}


@real
@pytest.mark.parametrize("part", PARTS)
def test_the_parts_are_rebuilt_from_the_real_captions(part):
    root = Path(os.environ["VIDNEG_REAL_DATA"])/FOLDERS.get(part, part)
    for version in VERSIONS:
        manifest = json.loads((FOLDER/version/part/"manifest.json").read_text())
        data = read_official(f"aaro-natural-{part}", root, protocol=version)
        assert len(data.pairs) == manifest["items"]
        assert Counter(p.kind for p in data.pairs) == manifest["kinds"]
    table = check_official(f"aaro-natural-{part}", root, probe=0).table
    assert set(table.equal) <= {"yes", ""} and (table.equal == "yes").any()
    assert f"aaro-natural-{part}" in DATASETS
