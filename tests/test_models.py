"NAVERO's parts against transformers, its invariances, its files and its scorer."
import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import BeitConfig, BeitForImageClassification, BeitModel, BertConfig, BertForMaskedLM, BertModel
from transformers.utils import logging

from vidneg.core.errors import VidnegError
from vidneg.models.base import count_parameters
from vidneg.models.encoders import VideoEncoder, attend, load_beit
from vidneg.models.io import load, save
from vidneg.models.navero import Navero, NaveroConfig, navero_from_parts
from vidneg.models.scoring import NaveroScorer
from vidneg.text.tokenize import load_tokenizer, tokenize, train_tokenizer
from vidneg.train.backbone import StillModel, still_accuracy

logging.set_verbosity_error()
logging.disable_progress_bar()

TINY = NaveroConfig(image_size=32, patch_size=16, width=32, heads=4, spatial_layers=1, spacetime_layers=2,
                    text_layers=1, fusion_layers=2, mlp_ratio=2., embed_dim=16, max_frames=4,
                    max_tokens=12, vocab_size=60)

@pytest.fixture(autouse=True)
def seeded(): torch.manual_seed(0)

def frames(b, t, size=32, seed=0):
    return torch.randint(256, (b, t, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))

def texts(*shape, length=8, seed=0):
    ids = torch.randint(5, 60, (*shape, length), generator=torch.Generator().manual_seed(seed))
    return ids, torch.ones_like(ids)

def video_of(model, x): return model.encode_video(model.frame_features(x))

def randomize(module, seed=0):
    "Randomize all parameters: fresh BEiTs have zero biases and positions, and zeros would hide errors."
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters(): p.add_(torch.randn(p.shape, generator=g)*.1)
    return module.eval()

def close(a, b, atol=1e-5): return torch.allclose(a, b, atol=atol, rtol=1e-5)


@pytest.mark.parametrize("mask", [None, "words", "bias"])
def test_attend_equals_a_plain_loop(mask):
    q, k, v = torch.randn(2, 3, 8), torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    words = torch.tensor([1, 1, 0, 1, 0]).bool().expand(2, 1, 1, 5)
    m = {None: None, "words": words, "bias": torch.randn(2, 3, 5)}[mask]
    out = torch.zeros(2, 3, 8)
    for b in range(2):
        for h in range(2):
            part = slice(4*h, 4*h + 4)
            logits = q[b, :, part] @ k[b, :, part].T / 2
            if mask == "words": logits = logits.masked_fill(~m[b, 0], -torch.inf)
            if mask == "bias": logits = logits + m[h]
            out[b, :, part] = logits.softmax(-1) @ v[b, :, part]
    assert close(attend(q, k, v, 2, m), out)


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("mean_pooling", [False, True])
def test_one_frame_equals_beit(tmp_path, absolute, shared, mean_pooling):
    original = randomize(BeitModel(BeitConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
        use_relative_position_bias=not shared, use_shared_relative_position_bias=shared, use_mean_pooling=mean_pooling,
        use_absolute_position_embeddings=absolute, use_mask_token=True, layer_scale_init_value=.1)))
    original.save_pretrained(tmp_path)
    config = NaveroConfig(image_size=32, patch_size=8, stem=(), width=32, heads=4, spatial_layers=0, spacetime_layers=3,
                          mlp_ratio=1.5, cls_token=True, absolute_positions=absolute, layer_scale=.1,
                          init_temporal="zero", text_layers=1, fusion_layers=1, max_frames=4)
    model = navero_from_parts(config, vision=str(tmp_path)).eval()
    x = frames(3, 1)
    with torch.no_grad():
        expected = original(model.video.pixels(x[:, 0])).last_hidden_state
        if mean_pooling: expected = original.pooler.layernorm(expected)
        assert close(video_of(model, x)[0], expected)


def test_beit_classifier_checkpoint_and_no_cls_token(tmp_path):
    config = BeitConfig(image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                        intermediate_size=64, use_relative_position_bias=True)
    BeitForImageClassification(config).save_pretrained(tmp_path)
    encoder = load_beit(VideoEncoder(config, cls_token=False), str(tmp_path))
    assert encoder(encoder.frame_features(frames(1, 2))).shape == (1, 2, 16, 32)


@pytest.mark.parametrize("changes", [{"num_hidden_layers": 3}, {"num_hidden_layers": 1}, {"hidden_size": 16}])
def test_beit_of_another_size_is_refused(tmp_path, changes):
    sizes = dict(image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                 intermediate_size=64, use_relative_position_bias=True)
    BeitModel(BeitConfig(**{**sizes, **changes})).save_pretrained(tmp_path)
    with pytest.raises(VidnegError, match="config"):
        load_beit(VideoEncoder(BeitConfig(**sizes)), str(tmp_path))


@pytest.mark.parametrize("cls", [BertModel, BertForMaskedLM])
def test_text_mode_equals_bert(tmp_path, cls):
    original = randomize(cls(BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
                                        intermediate_size=64, max_position_embeddings=40)))
    original.save_pretrained(tmp_path)
    model = navero_from_parts(TINY, text=str(tmp_path)).eval()
    ids, mask = texts(4)
    mask[1, 5:] = 0
    with torch.no_grad():
        ours = model.fuse(None, model.encode_text(ids, mask)[0][:, None], mask[:, None])[:, 0]
        if cls is BertForMaskedLM: ours, expected = model.mlm_logits(ours), original(ids, mask).logits
        else: expected = original(ids, mask).last_hidden_state
    assert close(ours[mask.bool()], expected[mask.bool()])


@pytest.mark.parametrize("config", [TINY, dataclasses.replace(TINY, cls_token=True, spatial_layers=0, layer_scale=.1)])
def test_shapes(config):
    model = Navero(config)
    n = 4 + config.cls_token
    features = model.frame_features(frames(2, 3))
    tokens, v = model.encode_video(features)
    ids, mask = texts(2, 5)
    hidden, t = model.encode_text(ids.flatten(0, 1), mask.flatten(0, 1))
    fused = model.fuse(tokens, hidden.unflatten(0, (2, 5)), mask)
    assert features.shape == (2, 3, n, 32) and tokens.shape == (2, 3*n, 32) and v.shape == (2, 16)
    assert hidden.shape == (10, 8, 32) and t.shape == (10, 16) and fused.shape == (2, 5, 8, 32)
    assert model.match_logits(fused).shape == (2, 5, 2) and model.mlm_logits(fused).shape == (2, 5, 8, 60)
    assert close(v.norm(dim=-1), torch.ones(2)) and close(t.norm(dim=-1), torch.ones(10))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("init_temporal", ["random", "zero"])
def test_gradient_reaches_every_parameter(frozen, init_temporal):
    model = Navero(dataclasses.replace(TINY, cls_token=True, layer_scale=.1, init_temporal=init_temporal))
    if frozen: model.video.freeze_spatial()
    tokens, v = video_of(model, frames(3, 4))
    ids, mask = texts(3)
    hidden, t = model.encode_text(ids, mask)
    fused = model.fuse(tokens, hidden[:, None], mask[:, None])
    loss = F.cross_entropy(v @ t.T / model.temperature, torch.arange(3)) + model.mlm_logits(fused).logsumexp(-1).mean()
    (loss + F.cross_entropy(model.match_logits(fused)[:, 0], torch.tensor([1, 0, 1]))).backward()
    lower = ("video.embeddings", "video.layers.0.")
    for name, p in model.named_parameters():
        assert p.requires_grad != (frozen and name.startswith(lower)), name
        assert p.requires_grad == (p.grad is not None), name
        # a branch at zero passes no gradient; a bias on all keys cancels in the softmax
        silent = init_temporal == "zero" and "temporal_attention" in name and "o_proj" not in name
        silent |= init_temporal == "zero" and "temporal_layernorm" in name
        if p.requires_grad and not silent and not name.endswith("key.bias"):
            assert p.grad.abs().max() > 0, name


def test_many_texts_equal_single_texts():
    model = Navero(TINY)
    tokens, _ = video_of(model, frames(3, 4))
    ids, mask = texts(3, 5)
    mask[0, 1, 6:], mask[2, 4, 3:] = 0, 0
    hidden = model.encode_text(ids.flatten(0, 1), mask.flatten(0, 1))[0].unflatten(0, (3, 5))
    together = model.fuse(tokens, hidden, mask)
    for b in range(3):
        for k in range(5):
            length = int(mask[b, k].sum())
            alone = model.fuse(tokens[b:b+1], hidden[b:b+1, k:k+1, :length], mask[b:b+1, k:k+1, :length])
            assert close(together[b, k, :length], alone[0, 0])
    assert close(together[:, :, :1], model.fuse(tokens, hidden, mask, first_only=True))
    rows = torch.tensor([2, 2, 0])
    assert close(model.fuse(tokens, hidden, mask, rows=rows), model.fuse(tokens[rows], hidden, mask))


def test_padding_changes_nothing():
    model = Navero(TINY)
    tokens, _ = video_of(model, frames(2, 4))
    ids, mask = texts(2)
    longer, longer_mask = F.pad(ids, (0, 3), value=7), F.pad(mask, (0, 3))
    (h, e), (h2, e2) = model.encode_text(ids, mask), model.encode_text(longer, longer_mask)
    assert close(h, h2[:, :8]) and close(e, e2)
    fused, fused2 = model.fuse(tokens, h[:, None], mask[:, None]), model.fuse(tokens, h2[:, None], longer_mask[:, None])
    assert close(fused, fused2[:, :, :8])


def test_absent_text_is_finite():
    model = Navero(TINY)
    tokens, _ = video_of(model, frames(2, 4))
    ids, mask = texts(2)
    mask[1] = 0
    hidden, e = model.encode_text(ids*mask, mask)
    out = model.match_logits(model.fuse(tokens, hidden[:, None], mask[:, None]))
    (out.sum() + e.sum()).backward()
    assert out.isfinite().all() and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_frames_alone_and_together():
    model, x = Navero(TINY), frames(3, 4)
    features = model.frame_features(x)
    for b in range(3):
        for t in range(4): assert close(features[b, t], model.frame_features(x[b:b+1, t:t+1])[0, 0])
    assert close(model.encode_video(features)[1][1:2], model.encode_video(features[1:2])[1])


def test_order_of_frames_matters():
    model, x = Navero(TINY), frames(2, 4)
    forward, backward = video_of(model, x), video_of(model, x.flip(1))
    assert not close(forward[1], backward[1], 1e-4)
    still = dataclasses.replace(TINY, init_temporal="zero") # no temporal embeddings, no temporal attention yet
    assert close(video_of(Navero(still), x)[1], video_of(Navero(still), x.flip(1))[1])


@pytest.mark.parametrize("n", range(1, 10))
def test_temporal_positions_are_interpolated(n):
    encoder = Navero(TINY).video
    e = encoder.temporal_embeddings
    assert close(encoder.temporal_positions(n), F.interpolate(e.T[None], n, mode="linear")[0].T)


@pytest.mark.parametrize("n", [1, 2, 4, 7])
@pytest.mark.parametrize("size", [32, 48])
def test_any_number_and_size_of_frames(n, size):
    tokens, v = video_of(Navero(TINY), frames(1, n, size))
    assert tokens.shape == (1, 4*n, 32) and v.isfinite().all()


def test_half_precision_features():
    model = Navero(TINY)
    features = model.frame_features(frames(1, 4))
    assert close(model.encode_video(features.half())[1], model.encode_video(features)[1], 1e-2)


@pytest.mark.parametrize("bad", [torch.zeros(1, 2, 32, 32, 3), torch.zeros(2, 32, 32, 3, dtype=torch.uint8),
                                 torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8)])
def test_frames_of_the_wrong_kind(bad):
    with pytest.raises(VidnegError, match="uint8 of shape"): Navero(TINY).frame_features(bad)


def test_text_too_long():
    with pytest.raises(VidnegError, match="truncate"): Navero(TINY).encode_text(*texts(1, length=13))


def test_wrong_init_temporal():
    with pytest.raises(VidnegError, match="'random' or 'zero'"): Navero(dataclasses.replace(TINY, init_temporal="one"))


def test_same_seed_same_weights_and_global_generator_untouched():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    a, b, c = Navero(TINY, 1), Navero(TINY, 1), Navero(TINY, 2)
    StillModel(a, {"shape": 3}, 2)
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    assert not torch.equal(a.video_proj.weight, c.video_proj.weight)


@pytest.mark.parametrize("start, value", [(.07, .07), (2., .5), (1e-6, .001)])
def test_temperature_stays_in_bounds_and_learns(start, value):
    model = Navero(dataclasses.replace(TINY, temperature=start))
    t = model.temperature
    (t*2).backward()
    assert t.item() == pytest.approx(value, rel=1e-4) and model._temperature.grad.item() == 2


def test_save_and_load_exactly(tmp_path):
    model = randomize(Navero(TINY))
    again = load(save(model, tmp_path/"model"))
    assert again.config == TINY
    assert sorted(p.name for p in (tmp_path/"model").iterdir()) == ["config.json", "model.safetensors"]
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    first = (tmp_path/"model"/"model.safetensors").read_bytes()
    save(again, tmp_path/"model")
    assert (tmp_path/"model"/"model.safetensors").read_bytes() == first


@pytest.mark.parametrize("harm", ["missing", "truncated", "other", "json"])
def test_broken_model_folder(tmp_path, harm):
    save(Navero(TINY), tmp_path)
    weights, config = tmp_path/"model.safetensors", tmp_path/"config.json"
    if harm == "missing": weights.unlink()
    if harm == "truncated": weights.write_bytes(weights.read_bytes()[:-100])
    if harm == "other": config.write_text(config.read_text().replace('"width": 32', '"width": 16'))
    if harm == "json": config.write_text("{")
    with pytest.raises(VidnegError, match=str(tmp_path)): load(tmp_path)


def test_paper_size():
    with torch.device("meta"): counts = count_parameters(Navero(NaveroConfig.paper()))
    assert 85e6 + 12*2.3e6 < counts["video"] < 116e6 # BEiT-B and twelve temporal attentions
    assert 109e6 < counts["text"] + counts["fusion"] < 120e6 # BERT-base and three cross-attentions
    assert counts["total"] == sum(n for k, n in counts.items() if k != "total") + 1 # and the temperature


CORPUS = ["A red ring slides left, before a star spins.", "A green star touches the red ring on a beach.",
          "a star spins"]

def test_every_word_is_a_token(tmp_path):
    tokenizer = train_tokenizer(CORPUS, 100, tmp_path/"t.json")
    for word in " ".join(CORPUS).replace(".", "").replace(",", "").lower().split():
        assert tokenizer.tokenize(word) == [word]
    assert tokenizer.decode(tokenizer("a red star")["input_ids"], skip_special_tokens=True) == "a red star"


def test_small_vocabulary_spells_rare_words(tmp_path):
    tokenizer = train_tokenizer(CORPUS, 48, tmp_path/"t.json")
    assert len(tokenizer) == 48 and tokenizer.tokenize("star") == ["star"]
    assert tokenizer.tokenize("touches")[0] == "t" and tokenizer.unk_token not in tokenizer.tokenize(" ".join(CORPUS))
    with pytest.raises(VidnegError, match="vocab_size"): train_tokenizer(CORPUS, 20, tmp_path/"t.json")


def test_tokenizer_is_the_same_in_every_process(tmp_path):
    train_tokenizer(CORPUS, 60, tmp_path/"a.json")
    code = (f"from vidneg.text.tokenize import train_tokenizer; "
            f"train_tokenizer({CORPUS[::-1]!r}, 60, {str(tmp_path/'b.json')!r})")
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path/"a.json").read_bytes() == (tmp_path/"b.json").read_bytes()
    with pytest.raises(VidnegError, match="does not exist"): load_tokenizer(tmp_path/"c.json")


def test_long_captions_are_cut(tmp_path):
    tokenizer = train_tokenizer(CORPUS, 100, tmp_path/"t.json")
    ids, mask = tokenize(tokenizer, ["a star", CORPUS[1]*5], 12)
    assert ids.shape == (2, 12) and mask.sum(1).tolist() == [4, 12] and ids[1, -1] == tokenizer.sep_token_id
    assert tokenize(tokenizer, ["a star"], 12)[0].shape == (1, 4)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    tokenizer = train_tokenizer(CORPUS, 60, tmp_path_factory.mktemp("tokenizer")/"t.json")
    model = randomize(Navero(TINY))
    captions = ["a star spins", "a red ring", "a star spins", "a green star on a beach touches it"]
    return model, tokenizer, frames(5, 4), captions


def test_scorer_against_the_model(scored):
    model, tokenizer, x, captions = scored
    scorer = NaveroScorer(model, tokenizer, batch_size=2)
    V, T = scorer.encode_video(x.numpy()), scorer.encode_text(captions)
    assert len(V) == 5 and len(T) == 4 and len(T.states) == 3
    s = scorer.similarity(V, T)
    vs, ts = np.repeat(np.arange(5), 4), np.tile(np.arange(4), 5)
    p = scorer.match(V[vs], T[ts]).reshape(5, 4)
    for i in range(5):
        for j in range(4):
            with torch.no_grad():
                tokens, v = video_of(model, x[i:i+1])
                ids, mask = tokenize(tokenizer, captions[j:j+1], TINY.max_tokens)
                hidden, t = model.encode_text(ids, mask)
                logits = model.match_logits(model.fuse(tokens, hidden[None], mask[None]))
            assert s[i, j] == pytest.approx((v @ t.T).item(), abs=1e-5)
            assert p[i, j] == pytest.approx(logits.softmax(-1)[0, 0, 1].item(), abs=1e-5)
    assert (p[:, 0] == p[:, 2]).all() and (s[:, 0] == s[:, 2]).all()


def test_scorer_from_features_and_in_any_order(scored):
    model, tokenizer, x, captions = scored
    scorer = NaveroScorer(model, tokenizer, batch_size=3)
    with torch.no_grad(): features = model.frame_features(x).numpy()
    V, W, T = scorer.encode_video(x), scorer.encode_video(features), scorer.encode_text(captions)
    assert np.allclose(scorer.similarity(V, T), scorer.similarity(W, T), atol=1e-6)
    assert np.allclose(scorer.similarity(V[::-1], T[[2]]), scorer.similarity(V, T)[::-1, [2]])
    order = np.array([3, 0, 2, 1])
    assert np.allclose(scorer.match(V[order], T[order]), scorer.match(V[:4], T)[order], atol=1e-6)
    with pytest.raises(VidnegError, match="aligned pairs"): scorer.match(V, T)


def test_scorer_of_no_pairs(scored):
    scorer = NaveroScorer(*scored[:2])
    V, T = scorer.encode_video(scored[2]), scorer.encode_text(scored[3])
    assert scorer.match(V[:0], T[:0]).shape == (0,)


def still_targets(b, seed=0):
    g = torch.Generator().manual_seed(seed)
    shape = torch.randint(-1, 3, (b, 4), generator=g)
    return {"shape": shape, "color": shape, "offset": torch.rand(b, 4, 3, generator=g), "scene": torch.arange(b)}


@pytest.mark.parametrize("cls_token", [False, True])
def test_stills_against_a_loop(cls_token):
    still = StillModel(Navero(dataclasses.replace(TINY, cls_token=cls_token)), {"shape": 3, "color": 3}, 5)
    x, y = frames(4, 1), still_targets(4)
    y["shape"][3], y["color"][3] = -1, -1
    terms, out = still(x, **y), still.predict(x)
    assert set(terms) == {"shape", "color", "covered", "offset", "scene"}
    assert terms["offset"][3] == 0 and terms["shape"][3] == 0
    for b in range(4):
        on = [n for n in range(4) if y["shape"][b, n] >= 0]
        ce = [-out["shape"][b, n].log_softmax(-1)[y["shape"][b, n]] for n in on]
        gaps = [(out["offset"][b, n] - y["offset"][b, n]).abs() for n in on]
        smooth = [torch.where(g < 1, g**2/2, g - 0.5).sum() for g in gaps]
        if on: assert close(terms["shape"][b], torch.stack(ce).mean())
        if on: assert close(terms["offset"][b], torch.stack(smooth).mean())
        there = [torch.log1p(torch.exp(-out["covered"][b, n]*(1 if n in on else -1))) for n in range(4)]
        assert close(terms["covered"][b], torch.stack(there).mean())
        assert close(terms["scene"][b], -out["scene"][b].log_softmax(-1)[b])


def test_stills_train_the_shared_layers_and_nothing_else():
    model = Navero(TINY)
    still = StillModel(model, {"shape": 3, "color": 3}, 5)
    before = {k: p.clone() for k, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(still.parameters(), 1e-2)
    sum(t.mean() for t in still(frames(4, 1), **still_targets(4)).values()).backward()
    assert all(p.grad is not None for p in still.parameters())
    optimizer.step()
    for k, p in model.named_parameters():
        lower = k.startswith(("video.embeddings", "video.layers.0."))
        assert torch.equal(p, before[k]) != lower, k
    assert 0 <= still_accuracy(still, frames(4, 1), still_targets(4))["shape"] <= 1
    with pytest.raises(VidnegError, match="spatial layers"):
        StillModel(Navero(dataclasses.replace(TINY, spatial_layers=0)), {"shape": 3}, 5)
