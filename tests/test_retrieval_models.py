"The published retrieval models: memorization, files, parameter counts, invariances, and bad input."
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from PIL import Image
from transformers import BeitConfig, BeitModel, BertConfig, BertForMaskedLM, TimesformerModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.utils import logging

from vidneg.core.errors import VidnegError
from vidneg.core.seeds import stable_rng
from vidneg.data.regions import crop_regions, random_regions, region_mask
from vidneg.data.video import sample_indices
from vidneg.evaluate.retrieval import ranks
from vidneg.losses.contrastive import vtc
from vidneg.losses.entities import pem
from vidneg.models.alpro import (
    AlproConfig,
    EntityPrompter,
    TimeSformer,
    alpro_from_parts,
    load_timesformer,
    timesformer_config,
)
from vidneg.models.clip_video import ClipVideo, ClipVideoConfig, from_clip
from vidneg.models.encoders import normalized_pixels
from vidneg.models.io import load, save
from vidneg.models.navero import Navero
from vidneg.models.registry import MODELS
from vidneg.models.scorer import CAPABILITIES, PROTOCOL
from vidneg.models.scoring import DualScorer, scorer_of
from vidneg.models.singularity import SingularityConfig, singularity_from_parts
from vidneg.models.speed import step_time_ratio
from vidneg.models.xclip import XClip, XClipConfig, attention_over_matrix, attention_over_vector
from vidneg.models.zoo import PUBLISHED, count, load_scorer, memorize, random_pairs, recall
from vidneg.text.tokenize import train_tokenizer

logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(1)

NAMES = list(MODELS)
FUSED = [n for n in NAMES if hasattr(MODELS[n].model, "fuse")]
CAPTIONS = ["a star spins", "a red ring", "a star spins", "a green star on a beach touches it"]
each_model = pytest.mark.parametrize("name", NAMES)

def frames(b, t, size=32, seed=0):
    return torch.randint(256, (b, t, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))

def words(*shape, length=8, seed=0):
    ids = torch.randint(5, 98, (*shape, length), generator=torch.Generator().manual_seed(seed))
    return ids, torch.ones_like(ids)

def shaken(module, scale=.1, seed=0):
    "Add noise to all parameters: fresh weights are partly zero, and zeros would hide errors."
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters(): p.add_(scale*torch.randn(p.shape, generator=g))
    return module.eval()

def video_of(model, x): return model.encode_video(model.frame_features(x))

def close(a, b, atol=1e-5): return torch.allclose(a, b, atol=atol, rtol=1e-5)

@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(CAPTIONS, 60, tmp_path_factory.mktemp("tokenizer")/"tokenizer.json")


@pytest.mark.slow
@each_model
def test_memorizes_32_pairs_and_scores_the_same_after_a_reload(name, tmp_path, tokenizer):
    model = MODELS[name]("tiny")
    found = memorize(model, n=32)
    assert all(r == (1, 1) for k, r in found.items() if k != "steps") and ("match" in found) == (name in FUSED)
    clips, ids, mask = random_pairs(model, 32, 2, 0)
    again = load(save(model, tmp_path/"model", tokenizer))
    with torch.no_grad():
        s, t = (m.similarity(video_of(m, clips), m.encode_text(ids, mask), mask).numpy()
                for m in (model.eval(), again.eval()))
    assert (s == t).all()
    for way in (s, s.T): assert (ranks(way, range(32), range(32)) == 1).all()
    a, b = scorer_of(model, tokenizer), load_scorer(tmp_path/"model")
    (V, T), (W, U) = ((x.encode_video(clips[:4]), x.encode_text(CAPTIONS)) for x in (a, b))
    assert (a.similarity(V, T) == b.similarity(W, U)).all() and type(a) is type(b)
    if name in FUSED: assert (a.match(V, T) == b.match(W, U)).all()
    assert hasattr(b, "match") == (name in FUSED)


@each_model
def test_files_are_the_same_each_time_and_broken_ones_are_refused(name, tmp_path):
    model = MODELS[name]("tiny")
    first, second = (save(m, tmp_path/str(i)) for i, m in enumerate([model, load(save(model, tmp_path/"0"))]))
    for file in ("config.json", "model.safetensors"):
        assert (first/file).read_bytes() == (second/file).read_bytes()
    weights, config = (first/"model.safetensors"), json.loads((first/"config.json").read_text())
    (first/"config.json").write_text(json.dumps(config | {"max_tokens": config["max_tokens"] + 1}))
    with pytest.raises(VidnegError, match=str(first)): load(first)
    weights.unlink()
    with pytest.raises(VidnegError, match="does not exist"): load(first)
    with pytest.raises(VidnegError, match="no tokenizer"): load_scorer(second)


def test_a_saved_folder_with_a_tokenizer_is_found(tmp_path, tokenizer):
    model = MODELS["navero"]("tiny")
    save(model, tmp_path)
    tokenizer.backend_tokenizer.save(str(tmp_path/"tokenizer.json"))
    scorer = load_scorer(tmp_path)
    assert isinstance(scorer.model, Navero) and scorer.encode_text(["a star spins"]).mask.sum() == 5
    (tmp_path/"config.json").write_text('{"model": "Unknown"}')
    with pytest.raises(VidnegError, match="no model of this version"): load(tmp_path)


@each_model
def test_models_have_what_they_support(name):
    model = MODELS[name]("tiny", **({"entities": 3} if name == "alpro" else {})).eval()
    assert {"similarity"} <= model.supports <= CAPABILITIES and model.supports is type(model).supports
    grid = (model.config.image_size//model.config.patch_size)**2
    patches = torch.randn(2, 2, grid, model.widths.patch, generator=torch.Generator().manual_seed(0))
    ids, mask = words(3)
    with torch.no_grad():
        video, text = model.encode_video(model.read_patches(patches)), model.encode_text(ids, mask)
        assert video[1].shape == (2, model.widths.embedding) and text[1].shape == (3, model.widths.embedding)
        s, states = model.similarity(video, text, mask), model.text_states(text[0])
        assert s.shape == (2, 3) and close(states.norm(dim=-1), torch.ones(3, ids.shape[1]))
        if "match" in model.supports:
            assert model.pair_logits(video, text, mask, torch.tensor([0, 1, 1])).shape == (3, 2)
        if "mlm" in model.supports:
            fused = model.fuse(video[0][:1], text[0][None], mask[None])
            assert model.mlm_logits(fused).shape == (1, *ids.shape, model.config.vocab_size)
        if "entities" in model.supports:
            read = model.read(video[0], text[0][:2], mask[:2])[:, ids.shape[1]:]
            assert model.entity_logits(read, torch.ones(2, read.shape[1] - 1, dtype=torch.bool)).shape == (2, 3)
    with pytest.raises(VidnegError, match="change its sizes"): model.read_patches(patches[..., 1:])


@pytest.mark.slow
def test_naming_a_model_imports_that_model_alone():
    code = "from vidneg.models.registry import MODELS; import sys; MODELS['navero']; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    others = {f"vidneg.models.{m}"
              for m in ("alpro", "clip_video", "xclip", "singularity", "hf", "qa", "moment", "zoo")}
    assert "vidneg.models.navero" in found and not others & set(found)


@each_model
def test_same_seed_same_weights_and_global_generator_untouched(name):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    a, b, c = (MODELS[name]("tiny", seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert any(not torch.equal(p, q) for p, q in zip(a.parameters(), c.parameters()))


@each_model
def test_gradient_reaches_every_parameter(name):
    model = MODELS[name]("tiny", **({"bilinear": True} if name == "xclip" else {}))
    if name in ("singularity-temporal", "alpro", "internvideo"): shaken(model, .02)
    video, (ids, mask) = video_of(model.train(), frames(3, 2)), words(3)
    text = model.encode_text(ids, mask)
    s = model.similarity(video, text, mask)
    loss = vtc(s, model.temperature)["vtc"].sum()
    if name in FUSED:
        fused = model.fuse(video[0], text[0][:, None], mask[:, None])
        loss = loss + F.cross_entropy(model.match_logits(fused)[:, 0], torch.tensor([1, 0, 1])) \
            + model.mlm_logits(fused).logsumexp(-1).mean()
    loss.backward()
    silent = ("key.bias", "k_proj.bias") # a bias on all keys cancels in the softmax
    for p_name, p in model.named_parameters():
        if p_name.endswith(silent): continue
        assert p.grad is not None and p.grad.isfinite().all(), p_name
        assert p.grad.abs().max() > 0, p_name


@each_model
def test_an_absent_text_a_batch_of_one_and_one_frame_are_finite(name):
    model, (ids, mask) = MODELS[name]("tiny"), words(2)
    mask[1] = 0 # no token is visible
    for b, t in ((1, 1), (2, 2), (2, 5)): # 5: more frames than temporal embeddings
        video, text = video_of(model, frames(b, t)), model.encode_text(ids*mask, mask)
        s = model.similarity(video, text, mask)
        assert s.shape == (b, 2) and s.isfinite().all()
        if name in FUSED: s = model.match_logits(model.fuse(video[0][[0]], text[0][None], mask[None]))
        s.sum().backward()
        assert s.isfinite().all() and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    both = model.similarity(video_of(model, frames(2, 2)), model.encode_text(ids*0, mask*0), mask*0)
    assert both.isfinite().all()
    one = video_of(model, frames(1, 2)), model.encode_text(*words(1))
    assert vtc(model.similarity(*one, words(1)[1]), model.temperature)["vtc"].abs().item() < 1e-6


@each_model
def test_results_do_not_depend_on_padding_or_other_rows(name):
    model, (ids, mask) = shaken(MODELS[name]("tiny"), .02), words(2)
    x = frames(3, 2)
    with torch.no_grad():
        video = video_of(model, x)
        text, longer = model.encode_text(ids, mask), model.encode_text(F.pad(ids, (0, 3), value=7), F.pad(mask, (0, 3)))
        s = model.similarity(video, text, mask)
        assert close(s, model.similarity(video, longer, F.pad(mask, (0, 3))))
        alone = model.similarity(video_of(model, x[1:2]), [y[:1] for y in text], mask[:1])
        assert close(alone, s[1:2, :1])
        if name in FUSED:
            a = model.fuse(video[0][:2], text[0][:, None], mask[:, None])
            b = model.fuse(video[0][:2], longer[0][:, None], F.pad(mask, (0, 3))[:, None])
            assert close(a, b[:, :, :8], 1e-4)
            rows = torch.tensor([2, 0])
            c = model.fuse(video[0], text[0][:, None], mask[:, None], rows)
            assert close(c, model.fuse(video[0][rows], text[0][:, None], mask[:, None]), 1e-4)
            first = model.fuse(video[0], text[0][:, None], mask[:, None], rows, first_only=True)
            assert close(c[:, :, :1], first, 1e-4)


@each_model
def test_bad_input_is_one_clear_error(name, tokenizer):
    model = MODELS[name]("tiny")
    nan = torch.full((1, 2, 32, 32, 3), torch.nan)
    for bad in (nan, frames(1, 2)[0], frames(1, 2).permute(0, 1, 4, 2, 3)):
        with pytest.raises(VidnegError, match="uint8 of shape"): model.frame_features(bad)
    with pytest.raises(VidnegError, match="truncate"): model.encode_text(*words(1, length=25))
    scorer = scorer_of(model, tokenizer)
    T = scorer.encode_text(["a star spins " * 50]) # the scorer cuts
    assert T.mask.sum() == 24 and np.isfinite(scorer.similarity(scorer.encode_video(frames(1, 2)), T)).all()
    features = model.frame_features(frames(2, 2)).detach()
    features[1] = torch.nan
    if name in FUSED: # its similarity is NaN, and ranking refuses that
        s = scorer.similarity(scorer.encode_video(features), T)
        with pytest.raises(VidnegError, match="NaN similarity"): ranks(s, [0, 0], [0])
    else:
        with pytest.raises(VidnegError, match="video 1 is not finite"): scorer.encode_video(features)


def test_a_video_shorter_than_the_frames_asked_for_repeats_its_frames():
    at = sample_indices(3, 8)
    assert len(at) == 8 and set(at) == {0, 1, 2}
    assert video_of(MODELS["clip4clip-mean"]("tiny"), frames(1, 3)[:, at])[1].isfinite().all()


@each_model
def test_scorer_against_the_model(name, tokenizer):
    model, x = shaken(MODELS[name]("tiny"), .05), frames(5, 2)
    scorer = scorer_of(model, tokenizer, batch_size=2)
    V, T = scorer.encode_video(x.numpy()), scorer.encode_text(CAPTIONS)
    s = scorer.similarity(V, T)
    ids = [tokenizer(c, return_tensors="pt") for c in CAPTIONS]
    with torch.no_grad():
        for i in (0, 4):
            for j, t in enumerate(ids):
                text = model.encode_text(t["input_ids"], t["attention_mask"])
                alone = model.similarity(video_of(model, x[i:i + 1]), text, t["attention_mask"]).item()
                assert s[i, j] == pytest.approx(alone, abs=1e-4)
    assert (s[:, 0] == s[:, 2]).all()
    assert np.allclose(scorer.similarity(V[[3, 1]], T[[2, 0]]), s[np.ix_([3, 1], [2, 0])], atol=1e-6)
    v, t = np.repeat(np.arange(5), len(CAPTIONS)), np.tile(np.arange(len(CAPTIONS)), 5)
    pairs = scorer.pairwise(V[v], T[t])
    assert pairs.shape == v.shape and np.allclose(pairs, s[v, t], atol=1e-6)
    assert np.array_equal(pairs[t == 0], pairs[t == 2]) # the same text, the same score to the last bit
    assert scorer.pairwise(V[:0], T[:0]).shape == (0,)
    with pytest.raises(VidnegError, match="aligned pairs"): scorer.pairwise(V, T[[0]])


@each_model
def test_scorer_takes_clips_of_any_size_and_says_what_it_is(name, tokenizer):
    model = MODELS[name]("tiny")
    scorer, x = scorer_of(model, tokenizer), frames(3, 2, 32).numpy()
    same = scorer.encode_video(list(x)).embedding
    assert torch.allclose(same, scorer.encode_video(x).embedding, atol=1e-6)
    wide, tall = np.repeat(x[0], 2, axis=2), np.repeat(x[1], 3, axis=1)
    mixed = [wide, tall, x[2]]
    square = [np.stack([np.asarray(Image.fromarray(f).resize((32, 32), Image.Resampling.BILINEAR)) for f in v])
              for v in mixed]
    a, b = (scorer.encode_video(v).embedding for v in (mixed, np.stack(square)))
    assert torch.equal(a, b)
    assert set(scorer.protocol) == set(PROTOCOL) and scorer.protocol["model"] == type(model).__name__
    assert scorer.protocol["size"] == 32 and "tokens" in scorer.supports
    again = scorer_of(MODELS[name]("tiny"), tokenizer)
    again.model.load_state_dict(model.state_dict())
    assert again.protocol == scorer.protocol
    next(model.parameters()).data.add_(1) # other weights under the same name
    assert scorer_of(model, tokenizer).protocol["revision"] != scorer.protocol["revision"]


def test_tokens_are_what_the_model_reads(tokenizer):
    scorer = scorer_of(MODELS["xclip"]("tiny", masked=False), tokenizer)
    long = "a star spins " * 50
    a, b, c = scorer.tokens([long + "slowly", long + "fast", "a star"])
    assert a == b and len(a) == 24
    ids = tokenizer("a star")["input_ids"]
    assert list(c) == list(ids) and tokenizer.pad_token_id not in c # also where the model reads padding
    with pytest.raises(VidnegError, match="text 1 is None"): scorer.encode_text(["a star", None])


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_equal_the_published_ones(name):
    layers = {"temporal_layers": 1} if name == "singularity-temporal" else {} # the published count has one; see zoo
    assert count(name, **layers)/1e6 == pytest.approx(PUBLISHED[name][0], rel=.02)


def test_exact_counts_of_clip():
    assert count("clip4clip-mean") == 151_277_313
    assert count("internvideo") - 8*1024 == 427_616_513 # eight temporal embeddings
    assert count("clip4clip-transformer") == count("xclip") == 151_277_313 + 77*512 + 4*(12*512**2 + 13*512)
    assert count("singularity-temporal") - count("singularity-temporal", temporal_layers=0) == 2*(12*768**2 + 13*768)


def test_registry_and_config_errors_list_the_choices():
    with pytest.raises(VidnegError, match="alpro, clip4clip-mean"): MODELS["nothing"]
    with pytest.raises(VidnegError, match="tiny, laptop, paper"): MODELS["alpro"]("huge")
    with pytest.raises(VidnegError, match="Alpro.*shade"): MODELS["alpro"]("tiny", shade=3)
    with pytest.raises(VidnegError, match="temporal must be one of"): ClipVideoConfig(temporal="none")
    with pytest.raises(VidnegError, match="at most 4"): ClipVideoConfig(temporal="transformer", temporal_layers=9)
    with pytest.raises(VidnegError, match="B/32"): ClipVideoConfig.paper("H/14")
    with pytest.raises(VidnegError, match="spacetime_layers"): SingularityConfig(spacetime_layers=1)
    with pytest.raises(VidnegError, match="vtc_from"): SingularityConfig(vtc_from="both")


@settings(max_examples=30)
@given(a=st.integers(1, 5), b=st.integers(1, 6), t=st.sampled_from([.01, .1, 1.]), seed=st.integers(0, 10**6))
def test_attention_over_similarity_equals_a_plain_loop(a, b, t, seed):
    rng = stable_rng(seed, "aosm")
    matrix, there = torch.tensor(rng.uniform(-1, 1, (a, b))), torch.tensor(rng.random(b) < .7)
    there[0] = True
    def one(values):
        w = np.exp((np.array(values) - max(values))/t)
        return float((w/w.sum()*np.array(values)).sum())
    kept = [j for j in range(b) if there[j]]
    rows = [one([matrix[i, j].item() for j in kept]) for i in range(a)]
    columns = [one([matrix[i, j].item() for i in range(a)]) for j in kept]
    ours = attention_over_matrix(matrix, t, there[None]).item()
    assert ours == pytest.approx((one(rows) + one(columns))/2, abs=1e-5)
    assert attention_over_vector(matrix[0], t, there).item() == pytest.approx(rows[0], abs=1e-5)


def test_xclip_equals_the_mean_of_four_loops():
    model = shaken(XClip(MODELS["xclip"].config("tiny")), .05)
    ids, mask = words(3)
    mask[1, 5:] = 0
    with torch.no_grad():
        frames_, video = video_of(model, frames(2, 4))
        w, sentence = model.encode_text(ids, mask)
        s = model.similarity((frames_, video), (w, sentence), mask)
        for i in range(2):
            for j in range(3):
                v, f, u, y = video[i], frames_[i], w[j][mask[j].bool()], sentence[j]
                parts = [v @ y, attention_over_vector(u @ v), attention_over_vector(f @ y)]
                parts.append(attention_over_matrix(f @ u.T))
                assert s[i, j].item() == pytest.approx(sum(p.item() for p in parts)/4, abs=1e-5)
    with torch.no_grad(): fresh, bilinear = (XClip(XClipConfig(bilinear=b)) for b in (False, True))
    text = fresh.encode_text(ids, mask)
    grains = [m.similarity(video_of(m, frames(2, 2, 64)), text, mask) for m in (fresh, bilinear)]
    assert close(*grains) # the matrices start as the identity


def test_published_xclip_attends_to_padding(tokenizer):
    ids, mask = words(2)
    x, pad = frames(2, 2), (0, 6)
    with torch.no_grad():
        for masked in (True, False):
            model = MODELS["xclip"]("tiny", masked=masked).eval()
            a = model.similarity(video_of(model, x), model.encode_text(ids, mask), mask)
            longer, longer_mask = F.pad(ids, pad), F.pad(mask, pad)
            b = model.similarity(video_of(model, x), model.encode_text(longer, longer_mask), longer_mask)
            assert close(a, b) == masked
    scorer = DualScorer(model, tokenizer, batch_size=1) # all texts have the same padding, so other texts do not matter
    alone, together = scorer.encode_text(CAPTIONS[:1]), scorer.encode_text(CAPTIONS)
    assert together.states.shape[1] == alone.states.shape[1] == 24
    V = scorer.encode_video(x)
    assert np.allclose(scorer.similarity(V, alone), scorer.similarity(V, together)[:, :1], atol=1e-6)


def test_mean_pooling_is_the_mean_of_single_frames():
    model, x = shaken(MODELS["clip4clip-mean"]("tiny"), .02), frames(2, 3)
    single = torch.stack([video_of(model, x[:, [t]])[1] for t in range(3)])
    assert close(video_of(model, x)[1], F.normalize(single.mean(0), dim=-1))


@pytest.mark.parametrize("name", ["clip4clip-transformer", "xclip", "internvideo", "alpro"])
def test_order_of_frames_matters(name):
    model, x = shaken(MODELS[name]("tiny"), .1), frames(2, 2)
    assert not close(video_of(model, x)[1], video_of(model, x.flip(1))[1], 1e-4)


@pytest.mark.parametrize("temporal", ["mean", "joint"])
def test_one_frame_equals_clip(tmp_path, temporal):
    original = shaken(MODELS["clip4clip-mean"]("tiny").clip, .02)
    original.save_pretrained(tmp_path)
    model = from_clip(ClipVideo, str(tmp_path), temporal=temporal, max_frames=4).eval()
    x, (ids, mask) = frames(3, 1), words(3)
    ids[:, -1] = original.config.text_config.eos_token_id
    with torch.no_grad():
        out = original(input_ids=ids, pixel_values=normalized_pixels(x[:, 0], 32, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
        assert close(video_of(model, x)[1], out.image_embeds)
        assert close(model.encode_text(ids, mask)[1], out.text_embeds)
        logits = model.similarity(video_of(model, x), model.encode_text(ids, mask), mask)/model.temperature
        assert close(logits, out.logits_per_image, 1e-3)


def test_sequential_transformer_starts_as_the_text_layers():
    model = MODELS["clip4clip-transformer"]("tiny", text_layers=3, temporal_layers=2)
    for mine, text in zip(model.temporal.layers, model.clip.text_model.encoder.layers):
        assert all(torch.equal(p, q) for p, q in zip(mine.parameters(), text.parameters(), strict=True))
    assert torch.equal(model.temporal_embeddings, model.clip.text_model.embeddings.position_embedding.weight[:2])


@pytest.mark.parametrize("start, value", [(.07, .07), (.001, .01)])
def test_temperature_of_clip_stays_in_bounds_and_learns(start, value):
    model = MODELS["clip4clip-mean"]("tiny", temperature=start)
    model.temperature.backward()
    assert model.temperature.item() == pytest.approx(value, rel=1e-4) and model.clip.logit_scale.grad.item() != 0


@pytest.mark.parametrize("n", [1, 3, 4])
def test_timesformer_equals_that_of_transformers(tmp_path, n):
    config = timesformer_config(AlproConfig(image_size=32, width=32, heads=4, video_layers=2, max_frames=n))
    original = shaken(TimesformerModel(config))
    original.save_pretrained(tmp_path)
    encoder, x = load_timesformer(TimeSformer(config), str(tmp_path)).eval(), frames(2, n)
    pixels = normalized_pixels(x.flatten(0, 1), 32, [.45]*3, [.225]*3).unflatten(0, (2, n))
    with torch.no_grad():
        patches, cls = encoder(encoder.frame_features(x))
        ours = torch.cat([cls, patches.transpose(1, 2).flatten(1, 2)], 1)
        assert close(ours, original(pixels).last_hidden_state, 1e-4)
    deeper = timesformer_config(AlproConfig(image_size=32, width=32, heads=4, video_layers=3, max_frames=n))
    with pytest.raises(VidnegError, match="config"): load_timesformer(TimeSformer(deeper), str(tmp_path))


def test_published_parts_load_by_name(tmp_path):
    sizes = dict(hidden_size=64, num_attention_heads=4, intermediate_size=256)
    sizes["num_hidden_layers"] = 2
    beit = BeitModel(BeitConfig(image_size=32, use_relative_position_bias=True, **sizes))
    beit.save_pretrained(tmp_path/"b")
    BertForMaskedLM(BertConfig(vocab_size=100, max_position_embeddings=40, **sizes)).save_pretrained(tmp_path/"t")
    config = timesformer_config(MODELS["alpro"].config("tiny"))
    TimesformerModel(config).save_pretrained(tmp_path/"v")
    bert = BertForMaskedLM.from_pretrained(tmp_path/"t").bert
    published = dict(stem=(), cls_token=True, absolute_positions=False, layer_scale=.1)
    config = MODELS["singularity-temporal"].config("tiny", **published)
    s = singularity_from_parts(config, str(tmp_path/"b"), str(tmp_path/"t"))
    assert torch.equal(s.video.layers[1].mlp.fc1.weight, beit.layers[1].mlp.fc1.weight)
    a = alpro_from_parts(MODELS["alpro"].config("tiny"), str(tmp_path/"v"), str(tmp_path/"t"))
    assert torch.equal(s.text.embeddings.word_embeddings.weight, bert.embeddings.word_embeddings.weight)
    assert torch.equal(a.fusion[0].attention.self.query.weight, bert.encoder.layer[1].attention.self.query.weight)
    assert torch.equal(a.text.embeddings.word_embeddings.weight, bert.embeddings.word_embeddings.weight)
    # text only, through both halves, equals BERT
    (ids, mask), empty = words(2), torch.zeros(2, 0, 64)
    with torch.no_grad():
        ours = a.eval().read(empty, a.encode_text(ids, mask)[0], mask)
        assert close(ours, bert.eval()(ids, mask).last_hidden_state, 1e-4)


def test_singularity_of_one_frame_or_without_temporal_layers_ignores_time():
    model = shaken(MODELS["singularity-temporal"]("tiny"))
    x = model.video.layernorm(model.frame_features(frames(2, 1)))
    assert torch.equal(model.over_time(x), x)
    none = MODELS["singularity-temporal"]("tiny", temporal_layers=0)
    y = none.frame_features(frames(2, 2))
    assert torch.equal(none.over_time(y), y)


def test_singularity_over_time_equals_a_loop_over_patches():
    model, x = shaken(MODELS["singularity-temporal"]("tiny"), .05), torch.randn(2, 2, 4, 64)
    with torch.no_grad():
        out = model.over_time(x)
        for n in range(4): assert close(out[:, :, [n]], model.over_time(x[:, :, [n]]))


@settings(max_examples=40)
@given(n=st.integers(1, 5), grid=st.integers(1, 14), seed=st.integers(0, 10**6))
def test_regions_lie_inside_the_grid(n, grid, seed):
    regions = random_regions(n, grid, stable_rng(seed, "regions"))
    top, left, bottom, right = regions.T
    assert (0 <= top).all() and (top < bottom).all() and (bottom <= grid).all()
    assert (0 <= left).all() and (left < right).all() and (right <= grid).all()
    mask = region_mask(regions, grid).view(n, grid, grid)
    for i in range(n):
        assert mask[i].sum() == (bottom[i] - top[i])*(right[i] - left[i]) and mask[i, top[i], left[i]]
    if grid == 14: assert (mask.flatten(1).float().mean(1) - .4).abs().max() < .15


def test_a_crop_of_the_whole_frame_is_the_frame():
    x = frames(2, 2)
    assert torch.equal(crop_regions(x, np.array([[0, 0, 2, 2]]*2), 2), x)
    x[:, :, 16:, 16:] = 77
    assert (crop_regions(x, np.array([[1, 1, 2, 2]]*2), 2) == 77).all()


def test_entities_are_learned_from_prompts(tokenizer):
    model = MODELS["alpro"]("tiny", entities=3)
    other = MODELS["alpro"]("tiny", seed=1)
    prompter = EntityPrompter(other, tokenizer, ["star", "ring", "beach"], ["a {}", "a red {}"])
    x, (ids, mask) = frames(2, 2), words(2)
    targets, use = prompter(crop_regions(x, np.array([[0, 0, 1, 1], [0, 0, 2, 1]]), 2))
    assert close(targets.sum(1), torch.ones(2)) and not targets.requires_grad
    tokens, _ = video_of(model, x)
    video = model.read(tokens, model.encode_text(ids, mask)[0], mask)[:, 8:]
    region = region_mask(np.array([[0, 0, 1, 1], [0, 0, 2, 1]]), 2)
    logits = model.entity_logits(video, region)
    by_hand = [model.entity_head(video[0, 1:][[0]].mean(0)), model.entity_head(video[1, 1:][[0, 2]].mean(0))]
    assert close(logits, torch.stack(by_hand)) and model.entity_logits(video, region & False).isfinite().all()
    loss = pem(logits, targets, torch.tensor([True, False]))["pem"]
    loop = -sum(targets[0, e]*(logits[0, e] - logits[0].exp().sum().log()) for e in range(3))
    assert loss[0].item() == pytest.approx(loop.item(), rel=1e-4) and loss[1] == 0
    with pytest.raises(VidnegError, match="entity head"): MODELS["alpro"]("tiny").entity_logits(video, region)


def test_recall_at_one_counts_ties_as_wrong():
    assert recall(torch.eye(3)) == (1, 1) and recall(torch.ones(3, 3)) == (0, 0)
    assert recall(torch.tensor([[1., 2], [0, 3]])) == (.5, 1)


def test_step_time_ratio_measures_both():
    config = MODELS["navero"].config("tiny")
    out = step_time_ratio(config, batch=2, frames=2, tokens=6, steps=1)
    assert out["ratio"] == pytest.approx(out["seconds of navero"]/out["seconds of beit + bert"]) and out["ratio"] > 0
    assert out["parameters of navero"] == count("navero", "tiny")
    frozen = step_time_ratio(config, batch=2, frames=2, tokens=6, steps=1, frozen=True, update=False)
    assert 0 < frozen["FLOPs of navero"] < out["FLOPs of navero"]
    assert frozen["FLOPs of beit + bert"] == out["FLOPs of beit + bert"]
