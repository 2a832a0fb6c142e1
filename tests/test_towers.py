"Models start from published towers: the same outputs, sizes from the checkpoint, and errors that name what is wrong."

import numpy as np
import pytest
import torch
import transformers
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    BeitForMaskedImageModeling,
    BeitModel,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    CLIPConfig,
    CLIPModel,
    TimesformerConfig,
    TimesformerModel,
    ViTConfig,
    ViTModel,
)

from vidneg.core.errors import VidnegError
from vidneg.models.base import count_parameters
from vidneg.models.io import load, save
from vidneg.models.registry import MODELS
from vidneg.models.towers import from_towers, largest_difference, tower_tokenizers

SIZES = dict(hidden_size=32, num_attention_heads=4, intermediate_size=48, num_hidden_layers=2)
CLIP_MODELS = "clip4clip-mean", "clip4clip-transformer", "xclip", "internvideo"


def shaken(model):
    "Move all parameters, so that no two parts compute the same by chance."
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters(): p.add_(.05*torch.randn(p.shape, generator=rng))
    return model.eval()


@pytest.fixture(scope="module", autouse=True)
def quiet():
    transformers.logging.set_verbosity_error()


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    "Write one tiny random checkpoint of each class; return name → folder."
    folder = tmp_path_factory.mktemp("towers")
    beit = dict(image_size=32, patch_size=8, use_mask_token=True, **SIZES)
    clip = CLIPConfig(projection_dim=32, text_config=dict(**SIZES, vocab_size=80, max_position_embeddings=24,
                                                          eos_token_id=79, projection_dim=32),
                      vision_config=dict(**SIZES, image_size=32, patch_size=16, projection_dim=32))
    old = CLIPConfig(**clip.to_dict())
    old.text_config.eos_token_id = 2
    models = {
        "beit": BeitModel(BeitConfig(**beit, use_relative_position_bias=True, use_mean_pooling=False)),
        "beit-pooled": BeitModel(BeitConfig(**beit, use_relative_position_bias=True)),
        "beit-labels": BeitForImageClassification(BeitConfig(**beit, use_relative_position_bias=True, num_labels=3)),
        "beit-masked": BeitForMaskedImageModeling(BeitConfig(**beit, use_shared_relative_position_bias=True)),
        "bert": BertForMaskedLM(BertConfig(vocab_size=60, max_position_embeddings=40, **SIZES)),
        "bert-bare": BertModel(BertConfig(vocab_size=60, max_position_embeddings=40, **SIZES)),
        "bert-wide": BertModel(BertConfig(vocab_size=60, **SIZES | {"hidden_size": 64})),
        "vit": ViTModel(ViTConfig(image_size=32, patch_size=8, **SIZES)),
        "timesformer": TimesformerModel(TimesformerConfig(image_size=32, patch_size=8, num_frames=3, **SIZES)),
        "clip": CLIPModel(clip), "clip-old": CLIPModel(old)}
    for name, model in models.items(): shaken(model).save_pretrained(folder/name)
    return {name: str(folder/name) for name in models}


@pytest.mark.parametrize("name", ["navero", "singularity-temporal"])
@pytest.mark.parametrize("vision, text", [("beit", "bert-bare"), ("beit-pooled", "bert"), ("beit-labels", "bert"),
                                          ("beit-masked", "bert")])
def test_beit_and_bert_give_their_sizes_and_outputs(towers, name, vision, text):
    model, differences = from_towers(name, {"vision": towers[vision], "text": towers[text]})
    c = model.config
    assert max(differences.values()) < 1e-4 and set(differences) == {"vision", "text"}
    assert (c.width, c.heads, c.mlp_ratio, c.image_size, c.patch_size) == (32, 4, 1.5, 32, 8)
    assert (c.text_layers, c.fusion_layers, c.vocab_size, c.max_tokens, c.cls_token) == (1, 1, 60, 32, True)
    assert c.spatial_layers + c.spacetime_layers == 2 and not c.stem
    assert (c.spatial_layers, c.max_frames) == ((0, 12) if name == "navero" else (2, 4))


@pytest.mark.parametrize("vision, frames", [("vit", 8), ("timesformer", 3)])
def test_alpro_starts_from_a_vit_or_a_timesformer(towers, vision, frames):
    model, differences = from_towers("alpro", {"vision": towers[vision], "text": towers["bert"]}, entities=5)
    assert max(differences.values()) < 1e-3, "a ViT has a smaller epsilon in its LayerNorms"
    assert (model.config.max_frames, model.config.video_layers, model.config.entities) == (frames, 2, 5)
    if vision == "timesformer": return
    layer = model.video.layers[0]
    assert torch.equal(layer.temporal_attention.attention.qkv.weight, layer.attention.attention.qkv.weight)
    assert not layer.temporal_dense.weight.any() and not model.video.temporal_embeddings.any()


@pytest.mark.parametrize("name", CLIP_MODELS)
@pytest.mark.parametrize("clip", ["clip", "clip-old"])
def test_clip_models_compute_what_clip_computes(towers, name, clip):
    model, differences = from_towers(name, {"clip": towers[clip]})
    assert max(differences.values()) < 1e-5 and set(differences) == {"vision", "text"}
    assert model.config.temporal == {"clip4clip-mean": "mean", "internvideo": "joint"}.get(name, "transformer")
    assert model.config.max_tokens == 24, "the checkpoint says it"


def test_a_started_model_is_saved_and_read_back(towers, tmp_path):
    model, _ = from_towers("internvideo", {"clip": towers["clip"]})
    again = load(save(model, tmp_path))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))


def test_what_no_tower_has_depends_on_the_seed_alone(towers):
    parts = {"vision": towers["beit"], "text": towers["bert"]}
    a, b, other = (from_towers("navero", parts, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(a.video_proj.weight, b.video_proj.weight)
    assert not torch.equal(a.video_proj.weight, other.video_proj.weight)
    assert torch.equal(a.video.layers[0].mlp.fc1.weight, other.video.layers[0].mlp.fc1.weight)


def test_published_sizes_of_the_papers():
    "BERT-base is cut into 9 + 3 layers, for ALPRO into 6 + 6; CLIP's names are those of its sizes."
    bert, beit = BertConfig(), BeitConfig(use_relative_position_bias=True)
    navero = MODELS["navero"].model.config_class
    assert navero.from_parts(beit, bert) == navero.paper()
    alpro = MODELS["alpro"].model.config_class
    assert alpro.from_parts(ViTConfig(), bert) == alpro.paper()
    singularity = MODELS["singularity-temporal"].model.config_class
    assert singularity.from_parts(beit, bert) == singularity.paper()
    with torch.device("meta"): counts = count_parameters(MODELS["internvideo"]("paper"))
    assert 4.2e8 < counts["total"] < 4.4e8, "CLIP ViT-L/14 has 428 million parameters"


def test_missing_weights_are_an_error(towers, tmp_path):
    half = BertModel.from_pretrained(towers["bert-bare"])
    weights = {k: w for k, w in half.state_dict().items() if "layer.1" not in k}
    half.save_pretrained(tmp_path/"half", state_dict=weights)
    with pytest.raises(VidnegError, match=r"half' lacks .*encoder\.layer\.1"):
        from_towers("navero", {"vision": towers["beit"], "text": str(tmp_path/"half")})
    clip = CLIPModel.from_pretrained(towers["clip"])
    weights = {k: w for k, w in clip.state_dict().items() if "projection" not in k}
    clip.save_pretrained(tmp_path/"clip", state_dict=weights)
    with pytest.raises(VidnegError, match="projection"): from_towers("xclip", {"clip": str(tmp_path/"clip")})


@pytest.mark.parametrize("name, parts, said", [
    ("navero", {"vision": "beit"}, "starts from text and vision, but its towers name vision"),
    ("xclip", {"vision": "beit", "text": "bert"}, "starts from clip"),
    ("navero", {"vision": "vit", "text": "bert"}, "is a vit: name a beit"),
    ("navero", {"vision": "beit", "text": "clip"}, "is a clip: name a bert"),
    ("navero", {"vision": "beit", "text": "bert-wide"}, "hidden_size 32 and 64"),
    ("navero", {"vision": "nowhere", "text": "bert"}, "no checkpoint '/no/where'")])
def test_towers_that_do_not_fit_are_refused(towers, name, parts, said):
    named = {k: {**towers, "nowhere": "/no/where"}[v] for k, v in parts.items()}
    with pytest.raises(VidnegError, match=said): from_towers(name, named)


def test_a_wrong_tower_is_found():
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    assert largest_difference(x, x + 1e-6, "vision") < 1e-5
    with pytest.raises(VidnegError, match="vision differs"): largest_difference(x, x.flip(0), "vision")


def test_models_of_one_checkpoint_share_a_tokenizer(tmp_path):
    from vidneg.text.tokenize import train_tokenizer
    made = train_tokenizer(["a dog runs"], 60, tmp_path/"t.json")
    made.save_pretrained(tmp_path/"clip")
    towers = {"xclip": {"clip": str(tmp_path/"clip")}, "clip4clip-mean": {"clip": str(tmp_path/"clip")}}
    found = tower_tokenizers(towers, ["xclip", "clip4clip-mean", "navero"], "the default")
    assert found["xclip"] is found["clip4clip-mean"] and found["navero"] == "the default"


@pytest.mark.parametrize("name, parts", [("xclip", {"clip": "clip"}), ("alpro", {"vision": "vit", "text": "bert"})])
def test_training_starts_from_towers_and_trains_them(towers, tmp_path, name, parts, capsys):
    from vidneg.data.batches import Batches
    from vidneg.text.tokenize import train_tokenizer
    from vidneg.train.course import Course, fresh_start
    from vidneg.train.loop import TrainConfig
    frames = np.random.default_rng(0).integers(256, size=(4, 3, 32, 32, 3), dtype=np.uint8)
    tok = train_tokenizer(["a dog runs"], 60, tmp_path/"t.json")
    losses = ["vtc", "pem"] if name == "alpro" else ["vtc"]
    batches = Batches(frames, [[[2, 5 + i, 3]] for i in range(4)], batch_size=4, augment={"flip": 0.5})
    prompting = {"entities": ["dog", "cat"], "templates": ["a {}"]}
    course = Course(tmp_path, {name: losses}, {name: tok}, frames, prompting, 0)
    start = fresh_start(name, losses, {}, {}, 2, towers={k: towers[v] for k, v in parts.items()}, size="tiny")
    done = course.train(course.jobs("weak", {name: start}, {name: batches}, TrainConfig(steps=2, device="cpu")))
    assert set(losses) <= set(done[f"{name}/weak"]) and "differs from" in capsys.readouterr().out
    trained, published = load(tmp_path/name/"weak"), from_towers(name, start["towers"], **(
        {"entities": 2} if name == "alpro" else {})).model
    patches = next(k for k in trained.state_dict() if "patch_embedding" in k and k.endswith("weight"))
    assert not torch.equal(trained.state_dict()[patches], published.state_dict()[patches])
