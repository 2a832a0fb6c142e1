"Training from frames: crops that depend on seed, epoch and clip alone, no mirrored sides, and features with [CLS]."

import numpy as np
import pytest
import torch

from vidneg.core.errors import VidnegError
from vidneg.core.records import Caption, Negative
from vidneg.core.seeds import stable_rng
from vidneg.data.augment import Augment, augment_of, names_side
from vidneg.data.batches import batches_of
from vidneg.models.features import cache_features, clip_inputs, no_features, shown_inputs, write_layout
from vidneg.models.navero import Navero, NaveroConfig
from vidneg.models.registry import MODELS
from vidneg.train.contrastive import ContrastiveTask
from vidneg.train.finetune import finetune
from vidneg.train.loop import TrainConfig

FRAMES = np.random.default_rng(0).integers(256, size=(6, 5, 32, 32, 3), dtype=np.uint8)
IDS = [f"c{i}" for i in range(6)]
CROPS = {"scale": [0.5, 1.0], "flip": 0.5}


def batches(batch_size=6, texts=None, augment=CROPS, negatives=None, **settings):
    "Make batches of six clips of five frames."
    captions = [Caption(f"{c}.0", c, t) for c, t in zip(IDS, texts or ["a dog runs"]*6)]
    def tokenize(texts): return [[2, 5, 6, 3] for _ in texts]
    return batches_of(FRAMES, IDS, captions, negatives, tokenize, batch_size=batch_size, augment=augment, seed=3,
                      **settings)


def by_clip(source, epoch):
    "Return clip → its frames in an epoch."
    return {int(c): x.numpy() for b in source.epoch(epoch) for c, x in zip(b["clip"], b["features"])}


def test_a_crop_depends_on_seed_epoch_and_clip_alone():
    whole, pairs = by_clip(batches(6), 1), by_clip(batches(2), 1)
    assert all(np.array_equal(whole[c], pairs[c]) for c in range(6))
    assert all(np.array_equal(by_clip(batches(3), e)[2], by_clip(batches(6), e)[2]) for e in (0, 1))
    assert not np.array_equal(by_clip(batches(6), 0)[0], whole[0])
    assert batches(6).fingerprint() != batches(6, augment=None).fingerprint() == batches(6, augment={}).fingerprint()


def test_all_frames_of_a_clip_get_the_same_crop():
    clip = np.repeat(FRAMES[:1, :1], 5, 1)[0]
    for i in range(20):
        x = Augment()(clip, stable_rng(i))
        assert x.shape == clip.shape and x.dtype == np.uint8 and (x == x[:1]).all()


def test_crops_stay_within_bounds_and_cover_the_declared_share():
    a, shares = Augment(scale=(.25, .5), flip=.5), []
    for i in range(300):
        top, left, h, w, mirrored = a.draw(stable_rng(i), 60, 80)
        assert 0 <= top <= 60 - h and 0 <= left <= 80 - w and isinstance(mirrored, bool)
        shares.append(h*w/(60*80))
    assert .23 < min(shares) and max(shares) < .52
    assert 100 < sum(a.draw(stable_rng(i), 60, 80)[-1] for i in range(300)) < 200


@pytest.mark.parametrize("text, side", [("a man in the left", True), ("turns Right", True), ("a bright room", False),
                                        ("upright cleft", False), ("a right-handed batter", True),
                                        ("spins anticlockwise", True), ("leftover food", False)])
def test_sides_are_found(text, side): assert names_side([text]) == side


def test_a_clip_is_not_mirrored_if_its_caption_or_a_negative_names_a_side():
    flip = {"scale": [1.0, 1.0], "ratio": [1.0, 1.0], "flip": 1.0}
    texts = ["a dog runs", "a dog runs left", *["a cat sits"]*4]
    false = [Negative("c2.0", "a cat sits right of a dog", "relation", "rules", (), 1, 0)]
    seen = by_clip(batches(6, texts, flip, false), 0)
    assert [np.array_equal(seen[i], FRAMES[i]) for i in range(6)] == [False, True, True, False, False, False]
    assert np.array_equal(seen[0], FRAMES[0][:, :, ::-1])


def test_features_are_not_cropped_and_settings_are_checked():
    captions = [Caption(f"{c}.0", c, "a dog") for c in IDS]
    def tokenize(texts): return [[2, 3] for _ in texts]
    with pytest.raises(VidnegError, match="train from frames"):
        batches_of(np.zeros((6, 2, 4, 8)), IDS, captions, None, tokenize, augment=CROPS)
    with pytest.raises(VidnegError, match="augment takes"): augment_of({"crop": 1})
    with pytest.raises(VidnegError, match="smaller number first"): Augment(scale=(1., .5))


def test_training_from_frames_trains_the_patches_and_features_do_not(tmp_path):
    from vidneg.models.io import load, save
    start = Navero(NaveroConfig(image_size=32, stem=(), width=16, heads=2, spatial_layers=1, spacetime_layers=1,
                                text_layers=1, fusion_layers=1, vocab_size=20))
    save(start, tmp_path/"start")
    path = tmp_path/"f.npy"
    features = batches(6, augment=None)
    features.features = cache_features(start, FRAMES, path, desc="")
    for name, source in (("frames", batches(6)), ("features", features)):
        finetune({name: {"losses": ["vtc"]}}, tmp_path/"start", source, TrainConfig(steps=2, device="cpu"),
                 tmp_path/"runs", workers=0)
        now = load(tmp_path/"runs"/name).video.embeddings.patch_embeddings.projection.weight
        same = torch.equal(now, start.video.embeddings.patch_embeddings.projection.weight)
        assert same == (name == "features")


def test_frames_and_features_are_shown_alike(tmp_path):
    none = no_features(tmp_path/"none.npy")
    assert clip_inputs(tmp_path/"none.npy", FRAMES) is FRAMES and not len(none)
    shown = shown_inputs(FRAMES, [4, 1], 2)
    assert shown.dtype == np.uint8 and np.array_equal(shown, FRAMES[[4, 1]][:, [1, 3]])
    np.save(tmp_path/"f.npy", np.ones((6, 5, 4, 8), np.float16))
    found = clip_inputs(tmp_path/"f.npy", FRAMES)
    assert shown_inputs(found, [0], 2).dtype == np.float32 and shown_inputs(found, [0], 2).shape == (1, 2, 4, 8)
    with pytest.raises(VidnegError, match="compute them anew"): clip_inputs(tmp_path/"f.npy", FRAMES[:5])


@pytest.mark.parametrize("name", list(MODELS))
def test_a_cls_token_before_the_grid_is_left_out(name, tmp_path):
    model = MODELS[name]("tiny").eval()
    n = (model.config.image_size//model.config.patch_size)**2
    x = torch.randn(2, 2, 1 + n, model.widths.patch, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model.encode_video(model.read_patches(x))[1],
                           model.encode_video(model.read_patches(x[:, :, 1:]))[1])
    with pytest.raises(VidnegError, match="change its sizes"): model.read_patches(torch.cat([x[:, :, :1], x], 2))


def test_a_model_with_cls_takes_that_of_the_features_or_its_own(tmp_path):
    c = NaveroConfig(image_size=32, width=16, heads=2, cls_token=True)
    model = Navero(c).eval()
    frames = torch.from_numpy(FRAMES[:2])
    with torch.no_grad():
        x = model.frame_features(frames)
        assert x.shape[2] == 5 and torch.equal(model.read_patches(x), x)
        own = model.read_patches(x[:, :, 1:])
    assert own.shape == x.shape and torch.equal(own[:, :, 1:], x[:, :, 1:])
    features = cache_features(model, FRAMES, tmp_path/"f.npy", desc="")
    assert write_layout(tmp_path/"f.npy", model, features)["tokens_before_the_grid"] == 1
    assert (tmp_path/"f.json").is_file()


def test_a_task_on_frames_needs_no_patches():
    model = MODELS["xclip"]("tiny")
    terms = ContrastiveTask(model, ["vtc"], patches=True)(batches(6).batch(0, 0))
    terms["vtc"].mean().backward()
    assert model.clip.vision_model.embeddings.patch_embedding.weight.grad is not None
