"Contrastive, matching and masked language losses against plain loops, gradients, masks and errors."
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from vidneg.core.errors import VidnegError
from vidneg.losses.contrastive import neg_vtc, vtc
from vidneg.losses.matching import hard_negatives, mask_tokens, mlm, neg_vtm, vtm
from vidneg.losses.registry import LOSSES


def normal(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def exists(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed + 1000).random(shape) < 0.6)


def log_ratio(pos, others):
    return -math.log(math.exp(pos) / (math.exp(pos) + sum(math.exp(o) for o in others)))


def cross_entropy(logits, label):
    return -math.log(math.exp(logits[label]) / sum(math.exp(x) for x in logits))


batch = st.integers(1, 6)
seeds = st.integers(0, 10_000)


@settings(max_examples=30, deadline=None)
@given(batch, seeds, st.floats(0.05, 1))
def test_vtc_equals_a_plain_loop(b, seed, t):
    s, same = normal(seed, b, b), exists(seed, b, b) & exists(seed + 1, b, b)
    for mask in (None, same):
        skip = lambda i, j: i == j or (mask is not None and bool(mask[i, j]))
        want = [(log_ratio(s[i, i] / t, [s[i, j] / t for j in range(b) if not skip(i, j)])
                 + log_ratio(s[i, i] / t, [s[j, i] / t for j in range(b) if not skip(j, i)])) / 2 for i in range(b)]
        np.testing.assert_allclose(vtc(s, t, mask)["vtc"], want, rtol=1e-9, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(batch, st.integers(0, 4), seeds, st.floats(0.05, 1))
def test_neg_vtc_equals_a_plain_loop(b, k, seed, t):
    pos, neg, mask = normal(seed, b), normal(seed + 1, b, k), exists(seed, b, k)
    joint, mean = [], []
    for i in range(b):
        some = [neg[i, j] / t for j in range(k) if mask[i, j]]
        joint.append(log_ratio(pos[i] / t, some))
        mean.append(sum(log_ratio(pos[i] / t, [x]) for x in some) / max(1, len(some)))
    np.testing.assert_allclose(neg_vtc(pos, neg, mask, t)["neg_vtc"], joint, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(neg_vtc(pos, neg, mask, t, "mean")["neg_vtc"], mean, rtol=1e-7, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(batch, st.integers(1, 4), seeds)
def test_vtm_and_neg_vtm_equal_plain_loops(b, p, seed):
    logits, mask = normal(seed, b, p, 2), exists(seed, b, p)
    labels = exists(seed + 1, b, p).long()
    for i in range(b):
        kept = [j for j in range(p) if mask[i, j]]
        want = sum(cross_entropy(logits[i, j].tolist(), labels[i, j]) for j in kept) / max(1, len(kept))
        assert vtm(logits, labels, mask)["vtm"][i].item() == pytest.approx(want)
        want = sum(cross_entropy(logits[i, j].tolist(), 0) for j in kept)
        assert neg_vtm(logits, mask, "sum")["neg_vtm"][i].item() == pytest.approx(want)
        assert neg_vtm(logits, mask)["neg_vtm"][i].item() == pytest.approx(want / max(1, len(kept)))


@settings(max_examples=20, deadline=None)
@given(batch, st.integers(1, 5), seeds)
def test_mlm_equals_a_plain_loop(b, length, seed):
    logits, asked = normal(seed, b, length, 7), exists(seed, b, length)
    labels = torch.where(asked, torch.arange(length) % 7, -100)
    for i in range(b):
        some = [cross_entropy(logits[i, j].tolist(), labels[i, j]) for j in range(length) if asked[i, j]]
        assert mlm(logits, labels)["mlm"][i].item() == pytest.approx(sum(some) / max(1, len(some)))
    assert torch.equal(mlm(logits[asked], labels)["mlm"], mlm(logits, labels)["mlm"])


mask = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
grads = {
    "vtc": (lambda s, t: vtc(s, t)["vtc"], [(3, 3), None]),
    "vtc same": (lambda s, t: vtc(s, t, mask)["vtc"], [(3, 3), None]),
    "neg_vtc joint": (lambda p, n, t: neg_vtc(p, n, mask, t)["neg_vtc"], [(3,), (3, 3), None]),
    "neg_vtc mean": (lambda p, n, t: neg_vtc(p, n, mask, t, "mean")["neg_vtc"], [(3,), (3, 3), None]),
    "vtm": (lambda x: vtm(x, torch.tensor([[1, 0, 0]] * 3), mask)["vtm"], [(3, 3, 2)]),
    "neg_vtm": (lambda x: neg_vtm(x, mask)["neg_vtm"], [(3, 3, 2)]),
    "mlm": (lambda x: mlm(x, torch.tensor([[-100, 4], [0, 1], [-100, -100]]))["mlm"], [(3, 2, 5)]),
}


@pytest.mark.parametrize("name", grads)
def test_gradients(name):
    loss, shapes = grads[name]
    inputs = [torch.tensor(0.3).double() if s is None else normal(i, *s) for i, s in enumerate(shapes)]
    assert torch.autograd.gradcheck(loss, [x.requires_grad_() for x in inputs])


@pytest.mark.parametrize("combine", ["joint", "mean"])
def test_masked_negatives_contribute_nothing_not_even_nan(combine):
    pos = torch.tensor([0.5, 0.5], requires_grad=True)
    neg = torch.tensor([[0.1, math.nan], [math.inf, math.nan]], requires_grad=True)
    exist = torch.tensor([[True, False], [False, False]])
    loss = neg_vtc(pos, neg, exist, 0.1, combine)["neg_vtc"]
    loss.sum().backward()
    assert loss[1] == 0 and loss[0].item() == pytest.approx(math.log1p(math.exp(-4)), rel=1e-5)
    assert pos.grad.isfinite().all() and neg.grad.nan_to_num(9)[~exist].eq(0).all() and pos.grad[1] == 0


def test_masked_pairs_contribute_nothing_not_even_nan():
    logits = torch.full((2, 2, 2), math.nan)
    logits[0, 0] = torch.tensor([1.0, 3.0])
    logits.requires_grad_()
    exist = torch.tensor([[True, False], [False, False]])
    loss = neg_vtm(logits, exist)["neg_vtm"]
    loss.sum().backward()
    assert loss[1] == 0 and loss[0].item() == pytest.approx(cross_entropy([1, 3], 0))
    assert logits.grad[~exist].eq(0).all()
    none = torch.zeros(3, 0, dtype=torch.bool)
    assert neg_vtm(torch.zeros(3, 0, 2), none)["neg_vtm"].tolist() == [0, 0, 0]
    assert neg_vtc(torch.zeros(3), torch.zeros(3, 0), none, 0.1)["neg_vtc"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("temperature", [1e-4, 0.07, 100.0])
def test_finite_in_low_precision(dtype, temperature):
    s, exist = normal(0, 8, 8).to(dtype), exists(0, 8, 8)
    terms = vtc(s, temperature) | neg_vtc(s.diagonal(), s, exist, temperature)
    terms |= vtm(normal(1, 8, 3, 2).mul(1e4).to(dtype), torch.tensor([[1, 0, 0]] * 8))
    for t in terms.values(): assert t.dtype == torch.float32 and t.isfinite().all() and (t >= 0).all()


def test_small_losses_keep_their_digits():
    s = torch.eye(2, dtype=torch.float32)
    assert vtc(s, 0.1)["vtc"][0].item() == pytest.approx(math.log1p(math.exp(-10)), rel=1e-2)
    one = neg_vtc(torch.tensor([1.0]), torch.tensor([[0.0]]), torch.tensor([[True]]), 0.1)["neg_vtc"].item()
    assert one == pytest.approx(math.log1p(math.exp(-10)), rel=1e-2)


def test_errors_name_the_way_out():
    with pytest.raises(VidnegError, match="square"): vtc(torch.zeros(2, 3), 0.1)
    with pytest.raises(VidnegError, match="'joint' or 'mean'"):
        neg_vtc(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), 0.1, "sum")
    with pytest.raises(VidnegError, match="'mean' or 'sum'"):
        neg_vtm(torch.zeros(1, 1, 2), torch.ones(1, 1, dtype=torch.bool), "max")
    with pytest.raises(VidnegError, match="vtc"): LOSSES["unknown"]
    assert {"vtc", "neg_vtc", "vtm", "neg_vtm", "mlm"} <= set(LOSSES)


@settings(max_examples=50, deadline=None)
@given(batch, seeds, st.floats(1e-4, 10))
def test_hard_negatives_are_never_true(b, seed, t):
    s, same = normal(seed, b, b).float(), exists(seed, b, b)
    draw = lambda mask: hard_negatives(s, t, torch.Generator().manual_seed(seed), mask)
    for mask in (None, same):
        true = torch.eye(b, dtype=torch.bool) | (False if mask is None else mask)
        texts, videos = draw(mask)
        for i in range(b):
            assert texts[i] == -1 if true[i].all() else not true[i, texts[i]]
            assert videos[i] == -1 if true[:, i].all() else not true[videos[i], i]
        assert all(torch.equal(a, b) for a, b in zip(draw(mask), (texts, videos)))


def test_hard_negatives_follow_the_softmax_both_ways():
    s, g = normal(0, 4, 4).float(), torch.Generator().manual_seed(0)
    draws = [hard_negatives(s, 0.7, g) for _ in range(4000)]
    for side, logits in enumerate((s, s.T)):
        want = (logits / 0.7).masked_fill(torch.eye(4, dtype=torch.bool), -math.inf).softmax(1)
        got = torch.stack([torch.nn.functional.one_hot(d[side], 4) for d in draws]).float().mean(0)
        assert (got - want).abs().max() < 0.04


def test_mask_tokens_is_berts_recipe():
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 100, (2000, 10), generator=g)
    special = torch.zeros_like(ids, dtype=torch.bool)
    special[:, 0] = True
    hidden, labels = mask_tokens(ids, special, g, mask_id=4, vocab_size=100, p=0.3, first_word=5)
    chosen = labels != -100
    assert not chosen[:, 0].any()
    assert torch.equal(labels[chosen], ids[chosen]) and torch.equal(hidden[~chosen], ids[~chosen])
    share = lambda x: x.float().mean().item()
    assert share(chosen[:, 1:]) == pytest.approx(0.3, abs=0.02)
    assert share(hidden[chosen] == 4) == pytest.approx(0.8, abs=0.03)
    assert share(hidden[chosen] == ids[chosen]) == pytest.approx(0.1 + 0.1 / 95, abs=0.02)
    assert hidden[chosen].min() == 4 and hidden.max() < 100
