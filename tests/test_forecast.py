"The forecast: operations against closed forms and real tasks, parameters against classes, memory, hours, the page."
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vidneg.losses.components import attention_similarity
from vidneg.models.moment import MomentConfig
from vidneg.models.navero import Navero, NaveroConfig
from vidneg.models.qa import QAConfig
from vidneg.models.registry import CLASSES, MODELS
from vidneg.pipeline import forecast
from vidneg.pipeline.forecast import (
    Batch,
    Cost,
    Training,
    count_step,
    countable,
    decoder_cost,
    main,
    moment_cost,
    training_step,
    trainings,
)
from vidneg.pipeline.stage import RunError, read_yaml
from vidneg.train.contrastive import ContrastiveTask

ROOT = Path(__file__).parents[1]
B, T, L, K = 4, 2, 8, 2


def counted(call):
    with countable() as counter: call()
    return counter.get_total_flops()


def on_meta(model):
    with torch.device("meta"): return type(model)(model.config)


def test_a_linear_layer_costs_two_operations_per_weight_and_token():
    layer, x = nn.Linear(24, 40), torch.randn(5, 7, 24, requires_grad=True)
    assert counted(lambda: layer(x)) == 2*5*7*24*40
    assert counted(lambda: layer(x).sum().backward()) == 3*2*5*7*24*40


def test_a_convolution_costs_two_operations_per_weight_and_position():
    assert counted(lambda: nn.Conv2d(3, 8, 4, 4)(torch.randn(2, 3, 16, 16))) == 2*2*(3*4*4*8)*(4*4)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_attention_costs_four_operations_per_pair_and_width(device):
    q, k, v = (torch.zeros(2, 3, n, 16, device=device, requires_grad=True) for n in (5, 9, 9))
    forward = 4*2*3*5*9*16
    assert counted(lambda: F.scaled_dot_product_attention(q, k, v)) == forward
    assert counted(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=False).sum().backward()) == 3*forward


def test_attention_is_as_before_after_counting():
    q = torch.randn(1, 2, 4, 8)
    before = F.scaled_dot_product_attention(q, q, q)
    counted(lambda: F.scaled_dot_product_attention(q, q, q))
    assert torch.equal(before, F.scaled_dot_product_attention(q, q, q))


def test_a_transformer_layer_against_its_closed_form():
    d, n, m = 32, 10, 4
    layer = nn.TransformerEncoderLayer(d, 4, m*d, dropout=0., batch_first=True)
    x = torch.randn(3, n, d)
    weights = 4*d*d + 2*m*d*d # projections and MLP
    assert counted(lambda: layer(x)) == 3*(2*n*weights + 4*n*n*d)


def test_parameters_are_those_of_the_class():
    for name in MODELS:
        model = MODELS[name]("tiny")
        cost = count_step(on_meta(model), lambda: [torch.zeros((), requires_grad=True)])
        assert cost.parameters == cost.trained == sum(p.numel() for p in model.parameters())


def test_frozen_parameters_are_not_trained():
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    model[0].requires_grad_(False)
    cost = count_step(model, lambda: [model(torch.randn(3, 4))])
    assert (cost.parameters, cost.trained) == (4*8 + 8 + 8*2 + 2, 8*2 + 2)
    assert cost.flops == 2*3*4*8 + 2*3*8*2 + 2*3*8*2 # no gradients below the first trained layer


def test_kept_activations_are_counted_once_and_parameters_not():
    layer, x = nn.Linear(64, 64, bias=False), torch.randn(10, 64, requires_grad=True)
    assert count_step(layer, lambda: [layer(x), layer(x)]).saved == 4*10*64
    assert count_step(layer, lambda: [layer(x)], train=False).saved == 0


def batch_of(model):
    side = model.config.image_size
    ids = lambda *shape: torch.randint(3, 90, shape, generator=torch.Generator().manual_seed(len(shape)))
    ones = lambda *shape: torch.ones(shape, dtype=torch.long)
    return dict(clip=torch.arange(B), features=torch.zeros(B, T, side, side, 3, dtype=torch.uint8),
                input_ids=ids(B, L), attention_mask=ones(B, L), pos_ids=ids(B, L), pos_attention_mask=ones(B, L),
                pos_mask=ones(B).bool(), neg_ids=ids(B, K, L), neg_attention_mask=ones(B, K, L),
                neg_mask=ones(B, K).bool())


@pytest.mark.parametrize(("name", "losses", "directions"), [
    ("navero", ["vtc", "vtm"], 2), ("navero", ["vtc", "vtm", "neg_vtm"], 1), ("navero", ["vtc", "vtm", "neg_vtc"], 2),
    ("navero", ["hn_nce", "vtm"], 2), ("clip4clip-mean", ["hn_nce"], 2), ("clip4clip-transformer", ["vtc"], 2),
    ("xclip", ["vtc", "component_simple", "auxiliary"], 2), ("xclip", ["vtc", "component_adaptive", "auxiliary"], 2),
    ("xclip", ["hn_nce"], 2), ("singularity-temporal", ["hn_nce", "vtm"], 2), ("alpro", ["vtc", "vtm"], 2),
    ("internvideo", ["vtc"], 2)])
def test_a_step_costs_what_the_real_task_costs(name, losses, directions):
    "All but single inner products of losses, which are no matrix product in the forecast: less than 1 in 100,000."
    model = MODELS[name]("tiny")
    task = ContrastiveTask(model, losses, vtm_directions=directions, compare="attention")
    real = counted(lambda: sum(v.mean() for v in task(batch_of(model)).values()).backward())
    meta = on_meta(model)
    cost = count_step(meta, lambda: training_step(meta, losses, Batch(B, T, L, K, directions)))
    assert cost.flops == pytest.approx(real, rel=1e-5)


def test_a_step_with_masked_tokens_costs_what_the_real_task_costs():
    model = MODELS["navero"]("tiny")
    task = ContrastiveTask(model, ["vtc", "vtm", "mlm"], mask=dict(mask_id=1, vocab_size=100, p=1.0))
    real = counted(lambda: sum(v.mean() for v in task(batch_of(model)).values()).backward())
    meta = on_meta(model)
    cost = count_step(meta, lambda: training_step(meta, ["vtc", "vtm", "mlm"], Batch(B, T, L, K, masked=1.)))
    assert cost.flops == pytest.approx(real, rel=1e-5)


def test_the_step_of_real_tensors_is_that_of_meta_tensors():
    model, losses = MODELS["navero"]("tiny"), ["vtc", "vtm", "neg_vtm", "mlm"]
    real = count_step(model, lambda: training_step(model, losses, Batch(B, T, L, K, device="cpu")))
    meta = on_meta(model)
    assert count_step(meta, lambda: training_step(meta, losses, Batch(B, T, L, K))).flops == real.flops


def test_entities_are_counted():
    with torch.device("meta"): model = MODELS["alpro"]("tiny", entities=5)
    step = lambda losses: count_step(model, lambda: training_step(model, losses, Batch(B, T, L, K))).flops
    assert step(["vtc", "pem"]) > step(["vtc"])


@pytest.mark.parametrize("name", ["MomentDETR", "QDDETR"])
def test_moment_models(name):
    config = MomentConfig.paper()
    plain, more = (moment_cost(name, config, [], n, 32) for n in (8, 16))
    assert plain.parameters == sum(p.numel() for p in CLASSES[name](config, 0).parameters())
    assert more.flops == 2*plain.flops and more.saved == 2*plain.saved
    assert moment_cost(name, config, ["component_simple"], 8, 32).flops > plain.flops


def test_the_cost_of_two_queries_stands_for_a_batch():
    "Operations of a batch of four are twice those of two: nothing compares the queries of a batch."
    one = moment_cost("MomentDETR", MomentConfig(), [], 2, 8, clips=10)
    model, config = CLASSES["MomentDETR"](MomentConfig(), 0), MomentConfig()
    full = lambda *shape: torch.ones(4, *shape)
    inputs = full(10, config.video_dim), full(10), full(8, config.text_dim), full(8)
    four = count_step(model, lambda: [model(*inputs).spans])
    assert four.flops <= 2*one.flops


def test_the_decoder_of_answers():
    small, large = (decoder_cost(QAConfig(64, 64, ("yes", "no"), width=64), n, 20, 8) for n in (4, 12))
    assert large.flops == 3*small.flops and small.trained == small.parameters


def test_memory_of_state_and_activations():
    cost = Cost(parameters=100, trained=60, flops=1, saved=1000)
    assert cost.state() == 4*100 + 12*60 and cost.state(half=True) == 6*100 + 12*60
    assert cost.memory() == cost.state() + 1000 and cost.memory(half=True) == cost.state(True) + 500


def test_hours_follow_from_operations_and_peak():
    training = Training("p", "s", "r", Cost(1, 1, 10**15, 10**9), 8, 4, 3600)
    device = {"count": 2, "peak": 1e15, "memory": 1e9}
    assert training.hours(device, {"utilization": .5, "step_seconds": 0.}) == pytest.approx(1.)
    assert training.hours(device, {"utilization": .5, "step_seconds": 3.}) == pytest.approx(3.)
    assert training.fits(device) and not training.fits(device | {"count": 1})


def test_the_published_model_has_the_size_of_its_parts():
    "BEiT-B/16 has 85.8 M parameters, BERT-base 109.5 M; temporal attention adds 12 times 4d² and cross-attention 3."
    with torch.device("meta"): model = Navero(NaveroConfig.paper())
    d = 768
    extra = (12 + 3)*4*d*d
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(85.8e6 + 109.5e6 + extra, rel=.01)


def test_trainings_of_the_scale_paper():
    assumed = read_yaml(ROOT/"scales/paper/forecast.yaml")
    assumed = assumed | {"presets": {k: assumed["presets"][k] for k in ("pretrain", "msrvtt")}}
    first, *others = trainings(assumed, ROOT)
    assert (first.batch, first.frames) == (64, 4) and first.steps == 10*(assumed["presets"]["pretrain"]["items"]//64)
    assert {"navero", "negvidl", "vanilla"} <= {t.run for t in others if t.stage == "finetune"}
    assert all(math.isfinite(t.hours(d, assumed)) for t in others for d in assumed["devices"].values())


def test_an_unknown_stage_is_named():
    with pytest.raises(RunError, match="nowhere"):
        trainings({"tokens": 8, "presets": {"p": {"scale": "paper", "items": 8, "stages": ["nowhere"]}}}, ROOT)


@pytest.mark.slow
def test_the_page_is_current(capsys): assert main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_page_fails(monkeypatch, capsys):
    monkeypatch.setattr(forecast, "forecast_page", lambda root: "another")
    assert main(["--check"]) == 1 and "make recipes" in capsys.readouterr().err


def test_comparing_words_is_one_matrix_product():
    "The forecast leaves the attention over words out, which is elementwise."
    a, b, ones = torch.randn(2, 1, 5, 8), torch.randn(2, 3, 6, 8), lambda *s: torch.ones(s, dtype=torch.bool)
    real = counted(lambda: attention_similarity(a, b, ones(2, 1, 5), ones(2, 3, 6), .1))
    assert real == counted(lambda: a @ b.mT)
