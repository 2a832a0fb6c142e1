"The presets resolve to the numbers that the papers print, and declare nothing that no stage takes."

import shutil
from pathlib import Path

import nbformat
import pytest
import yaml

from vidneg.data.augment import Augment
from vidneg.models.registry import MODELS
from vidneg.models.towers import check_towers
from vidneg.negatives.spot.captions import SCHEMES
from vidneg.pipeline.scales import make_scale, new_scale, overlay_of
from vidneg.pipeline.stage import literals, read_yaml, tagged

ROOT = Path(__file__).parent.parent
PRESETS = "pretrain", "msrvtt", "didemo", "activitynet", "coco", "anetqa", "moviegraphs", "msvd", "qvhighlights"
# NAVERO's supplement, Table 7: preset → learning rate, batch size, GPUs, epochs, frames in training and in inference
TABLE_7 = {"msrvtt": (1e-5, 32, 4, 5, 12, 12), "didemo": (1e-5, 24, 1, 10, 12, 12),
           "activitynet": (1e-5, 32, 1, 10, 12, 12), "coco": (1e-5, 512, 4, 10, 1, 1)}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    "Copy the files that scales are made of, without the code."
    root = tmp_path_factory.mktemp("presets")
    for name in ("params.yaml", "settings.ini"): shutil.copy(ROOT/name, root)
    shutil.copytree(ROOT/"nbs/stages", root/"nbs/stages")
    for name in ("paper", *PRESETS):
        (root/"scales"/name).mkdir(parents=True)
        shutil.copy(ROOT/f"scales/{name}/overlay.yaml", root/"scales"/name)
    return root


@pytest.fixture(scope="module")
def params(root):
    "Return preset → its resolved parameters, as the stages get them."
    return {name: read_yaml(make_scale(name, root)/"params.yaml") for name in PRESETS}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_declares_what_the_stages_take(params, name):
    for stage, values in params[name].items():
        declared = literals(tagged(nbformat.read(ROOT/f"nbs/stages/{stage}.ipynb", 4), "parameters"))
        assert set(values) <= set(declared), stage
    assert params[name]["data"]["source"] != "world"
    first = (ROOT/f"scales/{name}/overlay.yaml").read_text().splitlines()
    assert first[0].startswith("# ") and "like: paper" in first


def test_pretraining_is_that_of_table_7(params):
    p = params["pretrain"]
    own = p["pretrain"]
    assert (own["learning_rate"], own["batch_size"], own["processes"], own["epochs"]) == (1e-4, 64, 8, 10)
    assert own["n_frames"] == p["frames"]["n_frames"] == 4 and own["weight_decay"] == .2
    assert p["frames"]["size"] == 224 == MODELS["navero"].config("paper").image_size
    assert set(p) == {"data", "frames", "backbone", "features", "pretrain"} and not own.get("trained")
    assert "cc3m" in p["data"]["source"] and "webvid" in p["data"]["source"]


@pytest.mark.parametrize("name", TABLE_7)
def test_fine_tuning_is_that_of_table_7(params, name):
    p, (rate, batch, gpus, epochs, training, inference) = params[name], TABLE_7[name]
    for stage in ("finetune", "ablation"):
        own = p[stage]
        assert (own["learning_rate"], own["batch_size"], own["processes"], own["epochs"]) == (rate, batch, gpus, epochs)
        assert own["n_frames"] == training and own["weight_decay"] == .2
    assert p["score"]["n_frames"] == inference and p["frames"]["size"] == 224
    assert p["frames"]["n_frames"] >= training
    assert p["pretrain"]["trained"] == "../pretrain/data/pretrain"
    assert p["data"]["source"].split(":")[0] == name
    names = {p[s]["test_name"] for s in ("report", "scoreboard", "events", "audit", "gallery")}
    assert len(names) == 1 and names.pop().lower() == f"aaro-{name}"


@pytest.mark.parametrize("name", ["pretrain", "msrvtt", "anetqa"])
def test_published_presets_train_all_layers_from_frames(params, name):
    p = params[name]
    assert p["features"]["train_from"] == "frames"
    for stage in ("pretrain", "finetune", "ablation", "spot", "components"):
        if stage in p: assert Augment(**p[stage]["augment"]) == Augment()
    assert p["backbone"]["vision"].startswith("microsoft/beit-base-patch16-224") and not p["backbone"]["model"]
    assert p["backbone"]["text"] == "bert-base-uncased"


def test_the_models_of_spot_start_from_what_the_paper_names(params):
    own = params["anetqa"]["spot"]
    assert set(own["towers"]) == set(own["models"])
    for name, towers in own["towers"].items(): check_towers(name, towers)
    clips = {name: towers["clip"] for name, towers in own["towers"].items() if "clip" in towers}
    assert {name for name, clip in clips.items() if clip.endswith("vit-base-patch32")} == {
        "clip4clip-mean", "clip4clip-transformer", "xclip"} # Table 7 of the paper on SPOT
    assert clips["internvideo"].endswith("vit-large-patch14")
    assert (own["n_frames"], own["batch_size"], own["post_epochs"], own["post_learning_rate"]) == (4, 64, 10, 1e-4)


def test_the_other_presets_name_their_data(params):
    assert params["moviegraphs"]["spot"]["scheme"] == params["moviegraphs"]["generators"]["scheme"] == "moviegraphs"
    assert params["anetqa"]["spot"]["scheme"] == "activitynet" and {"moviegraphs", "activitynet"} <= set(SCHEMES)
    assert params["msvd"]["components"]["kinds"] == ["verb", "subject"]
    q = params["qvhighlights"]
    assert q["data"]["moments"]["features"] == ["slowfast_features", "clip_features"] and "moments" in q
    assert {p["data"]["source"].split(":")[0] for name, p in params.items() if name != "pretrain"} == {
        *PRESETS} - {"pretrain"}


def test_own_data_can_take_a_preset(root, tmp_path):
    from vidneg.core.records import Caption, Clip, write_records
    clips = [Clip(f"c{i}", f"c{i}.mp4", 0., 0., split) for i, split in enumerate(["train"]*3 + ["val", "test"])]
    write_records(tmp_path/"clips.parquet", clips)
    write_records(tmp_path/"captions.parquet", [Caption(f"{c.clip_id}.0", c.clip_id, "a dog runs") for c in clips])
    name = new_scale(tmp_path, "mine", like="msrvtt", root=root)
    made = read_yaml(make_scale(name, root)/"params.yaml")
    assert made["finetune"]["epochs"] == 5 and made["finetune"]["batch_size"] == 3
    assert made["features"]["train_from"] == "frames" and made["data"]["source"] == str(tmp_path.resolve())


def test_presets_are_not_ignored_by_git():
    said = (ROOT/".gitignore").read_text().splitlines()
    assert all(f"!/scales/{name}/overlay.yaml" in said for name in PRESETS)
    assert all(isinstance(yaml.safe_load((ROOT/f"scales/{n}/overlay.yaml").read_text()), dict) for n in PRESETS)
    assert overlay_of("coco", ROOT)["finetune"]["batch_size"] == 512
