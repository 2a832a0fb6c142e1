"A custom dataset without scene graphs and with broken files passes through the stages up to the scores."
import os
import re
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
from stages import run

from vidneg.core.errors import Skipped, VidnegError
from vidneg.core.records import Caption, Clip, Negative, read_records, write_records
from vidneg.core.seeds import stable_rng
from vidneg.data.dataset import read_dataset
from vidneg.data.video import FrameCache
from vidneg.negatives.sets import set_file
from vidneg.pipeline.runner import declared
from vidneg.pipeline.scales import OWN, make_scale, merge, new_scale, remarks, scales
from vidneg.pipeline.stage import read_yaml
from vidneg.world.script import WorldConfig
from vidneg.world.write import write_world

ROOT = Path(__file__).parents[1]
WORDS = [["man", "woman", "boy", "girl"], ["red", "blue", "green", "black"], ["rides", "carries", "pushes", "holds"],
         ["bike", "chair", "dog", "ball"], ["behind", "near", "above", "below"]]
TINY = {"width": 16, "embed_dim": 16, "heads": 2, "stem": [8, 8, 16], "spatial_layers": 1, "spacetime_layers": 1,
        "text_layers": 1, "fusion_layers": 1, "mlp_ratio": 1.0}


def sentence(key):
    "Make a caption in the style of human annotators."
    who, color, does, what, where = (some[stable_rng(0, key, i).integers(4)] for i, some in enumerate(WORDS))
    return f"a {who} in a {color} t-shirt {does} a {what} {where} a table"
NOTHING = {"worlds": {"shortcuts": [], "train": 0, "val": 0},
           "skewed": {"train": 0, "test": 0}} # the world draws nothing beside the custom clips
BROKEN = {"train-1": "cut off", "test-0": "cut off",
          "train-2": "no such file", "val-1": "is not a video|holds no video"}

def folder(root, sizes):
    "Write clips, some broken and the last without a caption, and the tables that a user would write."
    write_world(root, {"train": 2}, WorldConfig(frames=8))
    film = next((root/"videos").rglob("*.mp4")).read_bytes()
    for old in [*root.glob("*.parquet"), *root.glob("*.jsonl")]: old.unlink()
    clips = [Clip(f"{split}-{i}", f"{split}-{i}.mp4", split=split) for split, n in sizes.items() for i in range(n)]
    for c in clips: (root/c.path).write_bytes(film[:len(film)//3] if BROKEN.get(c.clip_id) == "cut off" else film)
    (root/"train-2.mp4").unlink()
    (root/"val-1.mp4").write_text("<html>not found</html>"*50)
    write_records(root/"clips.jsonl", clips)
    corpus = [Caption(f"{c.clip_id}.{k}", c.clip_id, sentence((c.clip_id, k))) for c in clips for k in range(2)]
    silent = f"{clips[-1].clip_id}."
    write_records(root/"captions.jsonl", [c for c in corpus if not c.caption_id.startswith(silent)]
                  + [Caption("odd", clips[0].clip_id, "\U0001F600")])
    return root


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    "Run the stages; return their root and, by stage, its variables or the reason why it was skipped."
    torch.set_num_threads(1)
    root, left = tmp_path_factory.mktemp("root"), {}
    (root/"settings.ini").touch()
    own = folder(tmp_path_factory.mktemp("own"), {"train": 12, "val": 2, "test": 10})
    short = dict(epochs=1, batch_size=4, n_frames=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDNEG_WORKERS", "1")
        def stage(name, **parameters):
            try: left[name] = run(name, root, patch, **parameters)
            except Skipped as e: left[name] = str(e)
        stage("data", source=str(own), **OWN["data"] | NOTHING)
        stage("frames", n_frames=4, on_error="skip")
        stage("negatives", lexicon="navero")
        stage("lm", width=16, layers=1, heads=2, batch_size=8)
        stage("generators", lexicon="navero", vocabulary="", scheme="activitynet", rounds=2)
        stage("audit", shares=[0.5])
        stage("backbone", model=TINY, vocab_size=200)
        stage("features")
        stage("pretrain", **short)
        stage("finetune", **short)
        stage("score", n_frames=2)
        stage("spot", scheme="activitynet")
        stage("qa")
        stage("dial")
        stage("cross")
    return root, left


@pytest.mark.slow
def test_broken_files_are_listed_and_never_scored(done):
    cache = FrameCache(done[0]/"data/frames")
    assert len(cache) == 24 - len(BROKEN) == 24 - len(cache.bad)
    assert all(re.search(BROKEN[b.clip_id], b.cause) for b in cache.bad)
    scores, ranks = (pd.read_parquet(done[0]/f"data/scores/{name}-test.parquet") for name in ("scores", "ranks"))
    asked = {f"test-{i}" for i in range(1, 9)}
    assert set(scores.clip_id) <= asked == set(ranks.clip_id)
    assert set(scores.run) == {"blind", "pretrain", "vanilla", "negvidl", "navero", "vanilla-weighted",
                                "navero-balanced"} and scores.score_pos.notna().all()


@pytest.mark.slow
def test_captions_without_a_word_are_listed_apart(done):
    left = done[1]["data"]["data"]
    assert [c.caption_id for c in left.wordless] == ["odd"] and len(read_dataset(done[0]/"data/dataset").captions) == 46


@pytest.mark.slow
def test_negatives_of_all_generators(done):
    made = done[0]/"data/generated"
    rates = pd.read_parquet(made/"rates.parquet")
    assert (rates.unknown > 0).all() and (rates.n == 0).all() and rates.wrong.isna().all() # no oracle
    for part, name in (("train", "navero-mixed"), ("train", "components"),
                       ("test", "aaro-mixed"), ("test", "components")):
        negatives = read_records(set_file(made, part, name), Negative)
        assert len(negatives) > 5
        words = {w for n in negatives for e in n.edits for w in (e.old, e.new)}
        assert not words & {"t", "-"}, "t-shirt is one word"
    assert not list(made.glob("*spot*"))
    audit = pd.read_csv(done[0]/"reports/audit/audit.csv")
    assert (audit.judged == 0).all() and (audit.unknown > 0).all()
    assert all((done[0]/f"reports/audit/{name.replace('/', '-')}.html").exists() for name in audit.set)


@pytest.mark.slow
def test_stages_without_scene_graphs_are_skipped_with_empty_tables(done):
    for name, table in (("spot", "gaps"), ("spot", "accuracy"), ("spot", "ranks"), ("spot", "scores"), ("qa", "table"),
                        ("qa", "differences"), ("qa", "answers"), ("dial", "scores"), ("dial", "ranks"),
                        ("cross", "scores")):
        found = pd.read_parquet(done[0]/f"data/{name}/{table}.parquet")
        assert not len(found) and len(found.columns)
    assert "graphs" in done[1]["spot"] and "graphs" in done[1]["qa"] and "shortcuts" in done[1]["dial"]
    assert isinstance(done[1]["score"], dict)


@pytest.mark.slow
@pytest.mark.parametrize("on_error, says", [
    ("raise", "train-1.mp4: .*cut off.*skip"), ("skip", "none of the 1 clips could be read")])
def test_broken_files_stop_the_run_if_wanted(done, tmp_path, monkeypatch, on_error, says):
    (tmp_path/"settings.ini").touch()
    shutil.copytree(done[0]/"data/dataset", tmp_path/"data/dataset")
    if on_error == "skip":
        clips = [c for c in read_records(tmp_path/"data/dataset/clips.parquet", Clip) if c.clip_id == "train-1"]
        write_records(tmp_path/"data/dataset/clips.parquet", clips)
        said = [c for c in read_records(tmp_path/"data/dataset/captions.parquet", Caption) if c.clip_id == "train-1"]
        write_records(tmp_path/"data/dataset/captions.parquet", said)
    with pytest.raises(VidnegError, match=says): run("frames", tmp_path, monkeypatch, on_error=on_error)


def checkout(root):
    "Copy the files that scales are made of, without the code."
    for name in ("params.yaml", "settings.ini"): shutil.copy(ROOT/name, root)
    shutil.copytree(ROOT/"nbs/stages", root/"nbs/stages")
    for overlay in (ROOT/"scales").glob("*/overlay.yaml"):
        if overlay.parent.name not in ("smoke", "gpu", "paper"): continue
        (root/"scales"/overlay.parent.name).mkdir(parents=True)
        shutil.copy(overlay, root/"scales"/overlay.parent.name)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["laptop", "smoke", "gpu", "paper", "own", "own like paper"])
def test_every_scale_declares_what_the_notebooks_take(tmp_path, scale):
    root = checkout(tmp_path)
    if scale.startswith("own"):
        own = folder(tmp_path/"my clips", {"train": 4, "val": 2, "test": 2})
        like = "paper" if "paper" in scale else "laptop"
        scale = new_scale(own, like=like, root=root)
        assert scale == "my-clips" and scale in scales(root)
    params = read_yaml(make_scale(scale, root)/"params.yaml")
    for stage, values in params.items():
        assert set(values) <= set(declared(nbformat.read(ROOT/f"nbs/stages/{stage}.ipynb", 4))), stage
    assert max(map(len, (root/"params.yaml").read_text().splitlines())) <= 100
    assert max(map(len, (make_scale(scale, root)/"params.yaml").read_text().splitlines())) <= 100
    assert not any(k in ("workers", "num_workers", "threads") for values in params.values() for k in values)
    if scale == "my-clips":
        assert not re.search(r"\bworld\b", str({s: v for s, v in params.items() if s in OWN}))
        assert params["data"]["drawings"]["stills"] == params["data"]["moments"]["train"] == 0
        assert not params["data"]["worlds"]["shortcuts"] and not params["data"]["skewed"]["train"]
        assert {params[s]["test_name"] for s in ("report", "scoreboard", "events", "audit", "gallery")} == {"my-clips"}
        sizes = [v for s, values in params.items() if s not in ("features", "score")
                 for k, v in values.items() if k.endswith("batch_size")]
        assert max(n for v in sizes for n in (v.values() if isinstance(v, dict) else [v])) <= 4


@pytest.mark.slow
def test_scales_of_custom_data_are_kept_and_never_mixed(tmp_path):
    root = checkout(tmp_path)
    own = folder(tmp_path/"my clips", {"train": 4, "val": 2, "test": 2})
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    assert new_scale(own, root=root) == new_scale(own, root=root) == "my-clips"
    (root/"scales/my-clips/overlay.yaml").open("a").write("# mine\n")
    assert new_scale(own, root=root) and "# mine" in (root/"scales/my-clips/overlay.yaml").read_text()
    (tmp_path/"other").mkdir()
    with pytest.raises(VidnegError, match="exists for other data"): new_scale(tmp_path/"other", "my-clips", root=root)
    with pytest.raises(VidnegError, match="small letters"): new_scale(own, "Mine!", root=root)
    with pytest.raises(VidnegError, match="is not a folder"): new_scale(tmp_path/"nowhere", root=root)
    said = "\n".join(remarks(make_scale("my-clips", root)))
    assert str(own) in said and "train has 4 clips" in said and "pretrain.batch_size" in said and "overlay.yaml" in said
    assert {p: p.read_bytes() for p in before} == before, "nothing outside the scale's folder has changed"
    assert "laptop, on the embedded world" in remarks(root)[0]


@pytest.mark.slow
def test_overlays_merge_like_json_merge_patches():
    assert merge({"a": {"b": 1, "c": [1, 2]}, "d": 1}, {"a": {"b": None, "c": [3], "e": {"f": None, "g": 1}}}) == {
        "a": {"c": [3], "e": {"g": 1}}, "d": 1}


@pytest.mark.slow
@pytest.mark.skipif("VIDNEG_REAL_DATA" not in os.environ, reason="VIDNEG_REAL_DATA names no folder with real clips")
def test_real_clips_as_a_folder(tmp_path, monkeypatch):
    source = Path(os.environ["VIDNEG_REAL_DATA"])/"clips"
    said = pd.read_json(source/"captions.jsonl", lines=True)
    (tmp_path/"settings.ini").touch()
    splits = ["train"]*18 + ["val"]*4 + ["test"]*8
    write_records(tmp_path/"own/clips.jsonl", [Clip(n, str(source/n), split=s) for n, s in zip(said["clip"], splits)])
    write_records(tmp_path/"own/captions.jsonl",
                  [Caption(f"{n}.0", n, t) for n, t in zip(said["clip"], said["caption"])])
    left = run("data", tmp_path, monkeypatch, source=str(tmp_path/"own"), **OWN["data"] | NOTHING)
    assert left["data"].splits() == {"train": 18, "val": 4, "test": 8} and left["shown"] == {"train", "val", "test"}
    run("negatives", tmp_path, monkeypatch, lexicon="navero")
    for form in ("rules", "balanced"):
        items = read_records(tmp_path/f"data/negatives/aaro-test-{form}.parquet", Negative)
        clips = {n.caption_id.removesuffix(".0") for n in items}
        assert clips and clips <= {c.clip_id for c in left["data"].of("test")}
