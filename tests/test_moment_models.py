"Moment-DETR and QD-DETR: matching and losses against loops, memorization, masks, files, bad input, sizes."
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn
from transformers import DabDetrConfig
from transformers.models.dab_detr.modeling_dab_detr import DabDetrDecoderLayer

from vidneg.core.errors import VidnegError
from vidneg.core.seeds import stable_rng
from vidneg.data.moments import cut, moment_batch
from vidneg.data.video import read_clips
from vidneg.evaluate.moments import evaluate_moments
from vidneg.losses.moment import (
    MOMENT_WEIGHTS,
    moment,
    moment_losses,
    saliency_contrast,
    saliency_margin,
    saliency_negative,
)
from vidneg.losses.registry import LOSSES
from vidneg.losses.windows import generalized_iou, match_windows, to_spans, to_windows
from vidneg.models.base import count_parameters
from vidneg.models.io import load, save
from vidneg.models.moment import (
    MomentConfig,
    MomentOutput,
    clip_places,
    pool_joint,
    predicted_windows,
    predictions,
    sine_embedding,
)
from vidneg.models.moment_detr import DecoderLayer, MomentDETR
from vidneg.models.navero import Navero, NaveroConfig
from vidneg.models.qd_detr import QDDETR, AnchorDecoder, AnchorLayer
from vidneg.world.films import FilmConfig, film_queries, make_film, oracle_features, word_features
from vidneg.world.script import WorldConfig
from vidneg.world.write import write_films

WORLD = WorldConfig()
SMALL = MomentConfig(video_dim=12, text_dim=8, width=16, heads=2, queries=5, cross_layers=1, encoder_layers=1,
                     mlp_ratio=2.)
each_model = pytest.mark.parametrize("cls", [MomentDETR, QDDETR], ids=["moment_detr", "qd_detr"])
torch.set_num_threads(1)


def normal(*shape, key=0, dtype=torch.float32):
    return torch.from_numpy(stable_rng(0, "test", key, *shape).normal(size=shape)).to(dtype)


def inputs(b=3, clips=(9, 6, 4), words=(4, 2, 5)):
    mask = [torch.arange(max(n)) < torch.tensor(n)[:, None] for n in (clips, words)]
    return dict(video=normal(b, max(clips), 12), video_mask=mask[0], text=normal(b, max(words), 8), text_mask=mask[1])


# windows

@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted), min_size=2, max_size=2))
def test_generalized_iou_is_the_iou_less_the_gap(windows):
    (a, b), (c, d) = windows
    both, hull = max(0., min(b, d) - max(a, c)), max(b, d) - min(a, c)
    union = b - a + d - c - both
    value = generalized_iou(*torch.tensor(windows, dtype=torch.float64)).item()
    if union > 1e-9: assert np.isclose(value, both/union - (hull - union)/hull)
    assert -1 <= value <= 1 + 1e-9
    assert torch.allclose(to_windows(to_spans(torch.tensor(windows))), torch.tensor(windows), atol=1e-6)


def plain_cost(span, logit, window):
    p = logit.softmax(-1)[0]
    giou = generalized_iou(to_windows(span), window)
    return float(10*(span - to_spans(window)).abs().sum() - giou - 4*p)


def test_matching_is_the_best_of_all_assignments():
    rng = stable_rng(0, "matching")
    for n, w in ((4, 3), (3, 3), (2, 4), (4, 1)):
        spans, logits = torch.from_numpy(rng.random((2, n, 2))), torch.from_numpy(rng.normal(size=(2, n, 2)))
        windows = torch.from_numpy(np.sort(rng.random((2, w, 2))))
        exist = torch.tensor([[True]*w, [True] + [False]*(w - 1)])
        found = match_windows(spans, logits, windows, exist)
        assert (found[~exist] == -1).all()
        for b in range(2):
            true = exist[b].nonzero()[:, 0].tolist()
            cost = {(i, j): plain_cost(spans[b, i], logits[b, i], windows[b, j]) for i in range(n) for j in true}
            k = min(n, len(true))
            best = min(sum(cost[i, j] for i, j in zip(p, q))
                       for p in permutations(range(n), k) for q in permutations(true, k))
            pairs = [(found[b, j].item(), j) for j in true if found[b, j] >= 0]
            assert len({i for i, _ in pairs}) == len(pairs) == k
            assert np.isclose(sum(cost[p] for p in pairs), best)


def test_positions_depend_on_the_video_not_on_padding():
    mask = torch.tensor([[True]*4 + [False]*4, [True]*8])
    places = clip_places(mask)
    assert places[0, :4].tolist() == places[1, 1::2].tolist() == [.25, .5, .75, 1.]
    e = sine_embedding(places, 8)
    assert torch.allclose(e[..., 0], (2*torch.pi*places).sin())
    assert torch.allclose(e[..., ::2]**2 + e[..., 1::2]**2, torch.ones(2, 8, 4))
    with pytest.raises(VidnegError, match="even width"): sine_embedding(places, 7)


# losses against loops

def plain_moment(spans, logits, windows, exist, per):
    found, terms = match_windows(spans, logits, windows, exist), []
    total = (found >= 0).sum().item()
    for b in range(len(spans)):
        pairs = [(found[b, j].item(), j) for j in range(len(found[b])) if found[b, j] >= 0]
        count = len(pairs) if per == "query" else total/len(spans)
        span = sum((spans[b, i] - to_spans(windows[b, j])).abs().mean() for i, j in pairs)
        giou = sum(1 - generalized_iou(to_windows(spans[b, i]), windows[b, j]) for i, j in pairs)
        p, hit = logits[b].softmax(-1), {i for i, _ in pairs}
        label = sum(-p[i, 0].log() if i in hit else -.1*p[i, 1].log() for i in range(len(p)))/len(p)
        terms.append((span/count, giou/count, label))
    return terms


@pytest.mark.parametrize("per", ["window", "query"])
def test_window_losses_and_their_gradients_equal_plain_loops(per):
    spans = (normal(3, 5, 2, dtype=torch.float64).sigmoid()*.9 + .05).requires_grad_()
    logits = normal(3, 5, 2, key=1, dtype=torch.float64).requires_grad_()
    windows = normal(3, 2, 2, key=2, dtype=torch.float64).sigmoid().sort(-1).values
    exist = torch.tensor([[True, True], [True, False], [True, True]])
    terms = moment(spans, logits, windows, exist, per=per)
    wanted = plain_moment(spans, logits, windows, exist, per)
    for k, column in zip(("span", "giou", "label"), zip(*wanted)):
        assert torch.allclose(terms[k], torch.stack(column))
    assert torch.autograd.gradcheck(lambda s, l: tuple(moment(s, l, windows, exist, per=per).values()), (spans, logits))
    with pytest.raises(VidnegError, match="per 'window' or per 'query'"):
        moment(spans, logits, windows, exist, per="batch")


def test_a_query_without_windows_has_no_window_loss():
    terms = moment(torch.rand(2, 3, 2), torch.zeros(2, 3, 2), torch.rand(2, 1, 2), torch.zeros(2, 1, dtype=torch.bool))
    assert terms["span"].tolist() == terms["giou"].tolist() == [0, 0]
    assert torch.allclose(terms["label"], torch.full((2,), .1*np.log(2), dtype=torch.float32))


def plain_contrast(s, scores, negative, inside, levels, temperature):
    loss = 0.
    everything = [*s, *negative]
    below = sum(np.exp(v/temperature) for v in everything)
    for level in range(1, levels + 1):
        reach = [v for v, y in zip(s, scores) if y >= level]
        if not reach or len(reach) == len(everything): continue
        if inside: loss -= np.log(sum(np.exp(v/temperature) for v in reach)/below)
        else: loss -= np.mean([np.log(np.exp(v/temperature)/below) for v in reach])
    return loss/levels


@pytest.mark.parametrize("inside", [True, False])
def test_contrast_and_its_gradient_equal_a_plain_loop(inside):
    s, false = (normal(3, 6, key=k, dtype=torch.float64).requires_grad_() for k in (1, 2))
    scores = torch.tensor([[0., 1, 3, 12, 5, 5], [0]*6, [4, 0, 2, 9, 0, 0]])
    mask = torch.tensor([[True]*6]*2 + [[True]*3 + [False]*3])
    there = mask & torch.tensor([[True], [True], [False]])
    def loss(s, false):
        return saliency_contrast(s.masked_fill(~mask, -torch.inf), scores, mask, false.masked_fill(~there, -torch.inf),
                                 inside=inside)["saliency_contrast"]
    wanted = [plain_contrast(s[b][mask[b]].tolist(), scores[b][mask[b]].tolist(), false[b][there[b]].tolist(), inside,
                             12, .5) for b in range(3)]
    assert np.allclose(loss(s, false).detach(), wanted) and wanted[1] == 0
    assert torch.autograd.gradcheck(loss, (s, false))


def test_margin_and_negative_losses_equal_plain_loops():
    s, pairs = normal(2, 5, dtype=torch.float64), torch.tensor([[[0, 1], [3, 4]], [[2, 0], [-1, -1]]])
    wanted = [sum(max(0., .2 + s[b, j].item() - s[b, i].item()) for i, j in pairs[b].tolist() if i >= 0)
              for b in range(2)]
    assert np.allclose(saliency_margin(s, pairs)["saliency_margin"], wanted)
    masked = torch.cat([s, torch.full((2, 1), -torch.inf)], 1)
    wanted = [-sum(np.log(1 - 1/(1 + np.exp(-v))) for v in row) for row in s.tolist()]
    assert np.allclose(saliency_negative(masked)["saliency_negative"], wanted)


def toy_batch():
    return dict(windows=torch.tensor([[[.1, .4], [.6, .9]]]*3),
                windows_mask=torch.tensor([[True, True], [True, False], [True, True]]),
                saliency_pairs=torch.tensor([[[1, 0], [2, 3]]]*3),
                saliency_scores=torch.tensor([[0., 4, 4, 0]*3]*3)[:, :9])


@each_model
def test_losses_cover_every_part_and_hold_in_bf16(cls):
    model, data = cls(SMALL), inputs()
    negative = torch.tensor([1, 2, -1])
    terms = moment_losses(vars(model(**data, negative=negative)), toy_batch())
    assert all(v.shape == (3,) and v.isfinite().all() and v.dtype == torch.float32 for v in terms.values())
    sum(terms.values()).mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert set(MOMENT_WEIGHTS) >= {k.removeprefix("aux_") for k in terms}
    assert {"moment", "saliency_margin", "saliency_contrast", "saliency_negative"} <= set(LOSSES)
    with torch.autocast("cpu", torch.bfloat16):
        half = moment_losses(vars(model(**data, negative=negative)), toy_batch())
    for k in terms: assert torch.allclose(half[k], terms[k], atol=.5, rtol=.2), k


# models

@each_model
def test_results_do_not_depend_on_padding_or_other_queries(cls):
    model, data = cls(SMALL).eval(), inputs()
    data["video"][1, 6:], data["text"][1, 2:] = torch.nan, torch.inf # never read
    whole = model(**data)
    assert (whole.saliency[1, 6:] == -torch.inf).all() and whole.saliency[1, :6].isfinite().all()
    for i in range(3):
        t, l = data["video_mask"][i].sum(), data["text_mask"][i].sum()
        alone = model(data["video"][i:i+1, :t], torch.ones(1, t), data["text"][i:i+1, :l], torch.ones(1, l))
        for one, many in ((alone.spans, whole.spans[:, i:i+1]), (alone.logits, whole.logits[:, i:i+1]),
                          (alone.saliency, whole.saliency[i:i+1, :t]), (alone.joint, whole.joint[i:i+1, :t])):
            assert torch.allclose(one, many, atol=1e-5)


@each_model
def test_predictions_depend_on_the_text(cls):
    model, data = cls(SMALL).eval(), inputs()
    other = model(**data | {"text": data["text"].flip(0), "text_mask": data["text_mask"].flip(0)})
    same = model(**data)
    assert not torch.allclose(other.spans[-1], same.spans[-1], atol=1e-6) or cls is QDDETR # starts at anchors
    assert not torch.allclose(other.saliency[0], same.saliency[0], atol=1e-4)


@each_model
def test_weights_come_from_the_seed_alone(cls):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    a, b, c = cls(SMALL), cls(SMALL), cls(SMALL, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    pairs = list(zip(a.state_dict().values(), b.state_dict().values(), c.state_dict().values()))
    assert all(torch.equal(x, y) for x, y, _ in pairs) and any(not torch.equal(x, z) for x, _, z in pairs)


@each_model
def test_joint_embeddings_of_many_texts_are_those_of_single_ones(cls):
    model, data = cls(SMALL).eval(), inputs()
    text, mask = normal(3, 4, 5, 8), torch.arange(5) < torch.tensor([5, 3, 1, 0])[:, None].expand(3, 4, 1)
    for pooling in ("mean", "max"):
        many = model.joint(data["video"], data["video_mask"], text, mask, pooling)
        assert many.shape == (3, 4, 16) and (many[:, 3] == 0).all()
        for k in range(3):
            one = model.joint(data["video"], data["video_mask"], text[:, k], mask[:, k], pooling)
            whole = model(data["video"], data["video_mask"], text[:, k], mask[:, k])
            assert torch.allclose(one, many[:, k], atol=1e-5)
            assert torch.allclose(one, pool_joint(whole.joint, whole.video_mask, pooling), atol=1e-5)
    with pytest.raises(VidnegError, match="'mean' or 'max'"): model.joint(**data, pooling="sum")


def test_negative_pairs_are_videos_with_other_texts():
    model, data = QDDETR(SMALL).eval(), inputs()
    output = model(**data, negative=torch.tensor([2, -1, 0]))
    swapped = model(data["video"], data["video_mask"], data["text"][[2, 1, 0]], data["text_mask"][[2, 1, 0]])
    assert torch.allclose(output.negative_saliency[[0, 2]], swapped.saliency[[0, 2]], atol=1e-5)
    assert (output.negative_saliency[1] == -torch.inf).all()
    alone = model(**{k: v[:1] for k, v in data.items()}, negative=torch.tensor([-1])) # a batch of one has none
    assert saliency_negative(alone.negative_saliency)["saliency_negative"].item() == 0


def test_windows_start_at_the_anchors_and_each_layer_refines_them():
    config = replace(SMALL, decoder_layers=3)
    decoder, memory, mask = AnchorDecoder(config), normal(2, 7, 16), torch.ones(2, 7, dtype=torch.bool)
    spans, _ = decoder(memory, memory, mask)
    assert torch.allclose(spans, decoder.anchors.weight.sigmoid().expand_as(spans), atol=1e-6)
    nn.init.constant_(decoder.span_heads[0][-1].bias, 1.) # the first layer moves all windows, the others keep them
    spans, _ = decoder(memory, memory, mask)
    moved = (decoder.anchors.weight.sigmoid().logit(eps=1e-3) + 1).sigmoid().expand_as(spans[0])
    assert all(torch.allclose(s, moved, atol=1e-5) for s in spans)
    spans[1].sum().backward() # the gradient of a layer's windows stays in the layer
    assert decoder.span_heads[0][-1].bias.grad.abs().sum() == 0 < decoder.span_heads[1][-1].bias.grad.abs().sum()


# memorization

# (steps, learning rate); the steps leave a margin for rounding on other processors
TRAINING = {MomentDETR: (400, 5e-3), QDDETR: (300, 3e-3)}

@pytest.mark.slow
@each_model
def test_memorizes_32_queries_and_survives_a_round_trip(cls, tmp_path):
    films = [make_film(f"train-{i}", WORLD) for i in range(8)]
    queries = [q for f in films for q in film_queries(f, WORLD)][:32]
    batch = moment_batch(queries, {f.clip_id: oracle_features(f) for f in films},
                         {q.query_id: word_features(q.text) for q in queries})
    data = {k: batch[k] for k in ("video", "video_mask", "text", "text_mask", "negative")}
    model = cls(MomentConfig(video_dim=data["video"].shape[-1], text_dim=data["text"].shape[-1], width=32, queries=5,
                             cross_layers=1, encoder_layers=1, mlp_ratio=2., turns=8.))
    steps, learning_rate = TRAINING[cls]
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1., 0., total_iters=steps)
    for _ in range(steps):
        loss = sum(moment_losses(vars(model(**data)), batch, levels=4).values()).mean()
        optimizer.zero_grad(); loss.backward(); optimizer.step(); decay.step()
    def answer(model):
        with torch.no_grad():
            return predictions(model.eval()(**data), [q.query_id for q in queries], batch["duration"])
    made = answer(model)
    assert len(queries) == 32 and evaluate_moments(made, queries)["full"]["MR-R1"]["0.7"] == 100
    save(model, tmp_path)
    assert answer(load(tmp_path, cls)) == made
    with pytest.raises(VidnegError, match="holds no"):
        load(tmp_path, MomentDETR if cls is QDDETR else QDDETR)
    (tmp_path/"model.safetensors").write_bytes(b"x")
    with pytest.raises(VidnegError, match="holds no"): load(tmp_path, cls)
    with pytest.raises(VidnegError, match="does not exist"): load(tmp_path/"none", cls)


@each_model
def test_features_of_any_encoder_are_accepted(cls, tmp_path):
    "Films are read in clips of 2 seconds, encoded by another model, and localized."
    clips = write_films(tmp_path, {"val": 1}, WORLD, FilmConfig(events=(2, 3), seconds=(6., 8.), shot=2.))
    pieces = cut(clips[0])
    frames = read_clips(pieces, tmp_path, tmp_path/"frames", 2, desc="").frames
    one = dict(spatial_layers=1, spacetime_layers=1, text_layers=1, fusion_layers=1)
    navero = Navero(NaveroConfig(width=32, embed_dim=24, heads=2, stem=(8, 16, 32), mlp_ratio=2., **one)).eval()
    with torch.no_grad():
        video = navero.encode_video(navero.frame_features(torch.from_numpy(np.array(frames))))[1][None] # (1, T, 24)
        text = navero.encode_text(torch.randint(5, 1000, (1, 6)), torch.ones(1, 6))[0] # (1, L, 32)
        model = cls(replace(SMALL, video_dim=24, text_dim=32)).eval()
        output = model(video, torch.ones(video.shape[:2]), text, torch.ones(1, 6))
    assert output.saliency.shape == (1, len(pieces)) and output.saliency.isfinite().all()


# the error names the input

@each_model
def test_bad_input_is_named(cls):
    model, data = cls(SMALL), inputs()
    def error(message, **changes):
        with pytest.raises(VidnegError, match=message): model(**data | changes)
    error(r"rows \[1\] have no video", video_mask=data["video_mask"] & torch.tensor([[True], [False], [True]]))
    error(r"rows \[0, 1, 2\] have no text", text_mask=torch.zeros(3, 5))
    error("have no video", video=torch.zeros(3, 0, 12), video_mask=torch.zeros(3, 0))
    error("have no video", video=torch.zeros(0, 4, 12), video_mask=torch.zeros(0, 4))
    error("video features have NaN", video=data["video"].clone().fill_(torch.nan))
    error(r"must be \(B, S, 12\)", video=data["video"][..., :5])
    error(r"mask \(3, 2\)", video_mask=data["video_mask"][:, :2])
    error("3 videos, 1 texts", text=data["text"][:1], text_mask=data["text_mask"][:1])
    one = model(**{k: v[:1] for k, v in data.items()}) # a batch of one works
    assert one.spans.shape == (2, 1, 5, 2)
    with pytest.raises(VidnegError, match="NaN or infinite"):
        exist = torch.ones(1, 1, dtype=torch.bool)
        moment(torch.full((1, 3, 2), torch.nan), torch.zeros(1, 3, 2), torch.rand(1, 1, 2), exist)
    with pytest.raises(VidnegError, match="divisible"): MomentConfig(width=30, heads=4)


def test_windows_are_clipped_rounded_and_sorted():
    spans = torch.tensor([[[[.5, .3], [.05, .3], [.99, .01]]]])
    logits, mask = torch.tensor([[[[0., 0.], [2., 0.], [-2., 0.]]]]), torch.ones(1, 5, dtype=torch.bool)
    output = MomentOutput(spans, logits, torch.zeros(1, 5), torch.zeros(1, 5, 4), mask)
    exact = predicted_windows(output, torch.tensor([10.]))[0]
    assert np.allclose([w[:2] for w in exact], [[0, 2], [3.5, 6.5], [9.85, 9.95]], atol=1e-5)
    assert np.allclose([w[2] for w in exact], torch.tensor([2., 0., -2.]).sigmoid())
    assert [w[:2] for w in predicted_windows(output, torch.tensor([10.]), 2.)[0]] == [[0, 2], [4, 6], [8, 10]]
    assert [w[:2] for w in predicted_windows(output, torch.tensor([9.]), 2.)[0]][2] == [7, 9] # not past the end


# sizes

def test_moment_detr_has_the_papers_parts_in_torchs_own_sizes():
    "Encoder, decoder and heads have as many parameters as torch's own layers at the paper's sizes."
    c = MomentConfig.paper()
    def size(*modules): return sum(p.numel() for m in modules for p in m.parameters())
    def project(n): return [nn.LayerNorm(n), nn.Linear(n, 256), nn.LayerNorm(256), nn.Linear(256, 256)]
    encoder, decoder = nn.TransformerEncoderLayer(256, 8, 1024), nn.TransformerDecoderLayer(256, 8, 1024)
    heads = [nn.Linear(256, 2), nn.Linear(256, 256), nn.Linear(256, 256), nn.Linear(256, 2), nn.Linear(256, 1)]
    layers = [*[encoder]*2, *[decoder]*2, nn.LayerNorm(256), nn.Embedding(10, 256)]
    wanted = size(*project(2818), *project(512), *layers, *heads)
    assert count_parameters(MomentDETR(c))["total"] == wanted
    assert size(DecoderLayer(c)) == size(decoder)


def test_qd_detrs_decoder_layers_are_dab_detrs():
    config = DabDetrConfig(hidden_size=256, decoder_attention_heads=8, decoder_ffn_dim=1024, activation_function="relu",
                           use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
                           backbone_config={"model_type": "resnet"})
    for first in (True, False):
        theirs = sum(p.numel() for p in DabDetrDecoderLayer(config, is_first=first).parameters())
        assert sum(p.numel() for p in AnchorLayer(MomentConfig.paper(), first).parameters()) == theirs
