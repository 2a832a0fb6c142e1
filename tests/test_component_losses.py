"Losses of sentence components against plain loops, their properties, gradients, masks and errors."
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from vidneg.core.errors import VidnegError
from vidneg.losses.components import (
    Importance,
    attention_similarity,
    auxiliary,
    component_adaptive,
    component_discernible,
    component_simple,
    cosine,
    importance_entropy,
    importance_weights,
    pool,
)
from vidneg.losses.contrastive import neg_vtc, vtc
from vidneg.losses.registry import LOSSES


def normal(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def exists(seed, *shape, share=0.6):
    return torch.from_numpy(np.random.default_rng(seed + 1000).random(shape) < share)


def log_ratio(pos, others, t):
    return -math.log(math.exp(pos / t) / (math.exp(pos / t) + sum(math.exp(o / t) for o in others)))


def softmax(values):
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


batch, kinds, seeds, temperatures = st.integers(1, 5), st.integers(0, 5), st.integers(0, 10_000), st.floats(0.05, 1)


def inputs(b, j, seed):
    return normal(seed, b) / 2, normal(seed + 1, b, j) / 2, exists(seed, b, j), normal(seed + 2, b, j)


@settings(max_examples=30)
@given(batch, kinds, seeds, temperatures, st.floats(0, 2))
def test_the_three_losses_equal_plain_loops(b, j, seed, t, bonus):
    pos, neg, mask, logits = inputs(b, j, seed)
    want = {"simple": [], "discernible": [], "adaptive": [], "entropy": []}
    for i in range(b):
        kept = [k for k in range(j) if mask[i, k]]
        some = [neg[i, k].item() for k in kept]
        each = [log_ratio(pos[i].item(), [n], t) for n in some]
        w = softmax([logits[i, k].item() for k in kept])
        entropy = -sum(x * math.log(x) for x in w)
        want["simple"].append(log_ratio(pos[i].item(), some, t))
        want["discernible"].append(min(each, default=0))
        want["adaptive"].append(sum(x * e for x, e in zip(w, each)) - bonus * entropy)
        want["entropy"].append(entropy)
    got = {"simple": component_simple(pos, neg, mask, t)["component_simple"],
           "discernible": component_discernible(pos, neg, mask, t)["component_discernible"],
           "adaptive": component_adaptive(pos, neg, mask, logits, t, bonus)["component_adaptive"],
           "entropy": importance_entropy(logits, mask)["importance_entropy"]}
    for name in want: np.testing.assert_allclose(got[name], want[name], rtol=1e-7, atol=1e-11, err_msg=name)


@settings(max_examples=30)
@given(batch, st.integers(1, 5), seeds, temperatures)
def test_order_of_the_three(b, j, seed, t):
    pos, neg, mask, logits = inputs(b, j, seed)
    smallest = component_discernible(pos, neg, mask, t)["component_discernible"]
    adaptive = component_adaptive(pos, neg, mask, logits, t)["component_adaptive"]
    simple = component_simple(pos, neg, mask, t)["component_simple"]
    assert (smallest <= adaptive + 1e-12).all() and (adaptive <= simple + 1e-12).all() and (smallest >= 0).all()
    p = torch.from_numpy(np.random.default_rng(seed).permutation(j))
    moved = component_adaptive(pos, neg[:, p], mask[:, p], logits[:, p], t)["component_adaptive"]
    torch.testing.assert_close(moved, adaptive)


@settings(max_examples=30)
@given(batch, st.integers(1, 5), seeds, temperatures)
def test_reductions(b, j, seed, t):
    pos, neg, mask, logits = inputs(b, j, seed)
    one = [component_simple(pos, neg[:, :1], mask[:, :1], t)["component_simple"],
           component_discernible(pos, neg[:, :1], mask[:, :1], t)["component_discernible"],
           component_adaptive(pos, neg[:, :1], mask[:, :1], logits[:, :1], t)["component_adaptive"]]
    for value in one: torch.testing.assert_close(value, neg_vtc(pos, neg[:, :1], mask[:, :1], t)["neg_vtc"])
    uniform = component_adaptive(pos, neg, mask, torch.zeros(b, j), t)["component_adaptive"]
    torch.testing.assert_close(uniform, neg_vtc(pos, neg, mask, t, "mean")["neg_vtc"])
    sharp = 1e6 * -neg.masked_fill(~mask, 0) # the smallest similarity has the smallest loss
    adaptive = component_adaptive(pos, neg, mask, sharp, t)["component_adaptive"]
    torch.testing.assert_close(adaptive, component_discernible(pos, neg, mask, t)["component_discernible"])


def test_entropy_is_between_zero_and_log_j_and_has_no_gradient():
    mask = torch.tensor([[True] * 4, [True, True, False, False], [False] * 4])
    logits = torch.zeros(3, 4, requires_grad=True)
    entropy = importance_entropy(logits, mask)["importance_entropy"]
    torch.testing.assert_close(entropy, torch.tensor([math.log(4), math.log(2), 0]))
    assert not entropy.requires_grad
    one = importance_entropy(1e4 * torch.eye(3, 4), mask)["importance_entropy"]
    torch.testing.assert_close(one[0], torch.tensor(0.0))


def test_entropy_bonus_equalizes_weights_and_without_it_the_smallest_loss_wins():
    pos, neg, mask = torch.tensor([0.5]), torch.tensor([[0.1, 0.4, 0.6]]), torch.ones(1, 3, dtype=torch.bool)
    def step(logits, bonus):
        logits = torch.tensor([logits], requires_grad=True)
        component_adaptive(pos, neg, mask, logits, 0.1, bonus)["component_adaptive"].sum().backward()
        return -logits.grad[0]
    assert step([0.0, 0.0, 0.0], 0)[0] > 0 > step([0.0, 0.0, 0.0], 0)[2]
    assert step([3.0, 0.0, 0.0], 10)[0] < 0 < step([3.0, 0.0, 0.0], 10)[2]


mask33 = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
text_masks = torch.tensor([[True, True, False], [True, True, True]]), torch.tensor([[True, False], [True, True]])
grads = {
    "simple": (lambda p, n, t: component_simple(p, n, mask33, t)["component_simple"], [(3,), (3, 3), None]),
    "discernible": (lambda p, n, t: component_discernible(p, n, mask33, t)["component_discernible"],
                    [(3,), (3, 3), None]),
    "adaptive": (lambda p, n, w, t: component_adaptive(p, n, mask33, w, t, 0.3)["component_adaptive"],
                 [(3,), (3, 3), (3, 3), None]),
    "auxiliary": (lambda s, t: auxiliary(s, t, torch.tensor([True, False, True]), mask33)["auxiliary"],
                  [(3, 3), None]),
    "attention": (lambda a, b, t: attention_similarity(a, b, *text_masks, t), [(2, 3, 2), (2, 2, 2), None]),
    "attention raw": (lambda a, b, t: attention_similarity(a, b, *text_masks, t, False), [(2, 3, 2), (2, 2, 2), None]),
    "cosine": (lambda a, b: cosine(a, b), [(2, 4), (2, 4)]),
    "pool": (lambda x: pool(x, text_masks[0]) + pool(x, text_masks[0], "max"), [(2, 3, 4)]),
}


@pytest.mark.parametrize("name", grads)
def test_gradients(name):
    loss, shapes = grads[name]
    xs = [torch.tensor(0.3).double() if s is None else normal(i, *s) for i, s in enumerate(shapes)]
    assert torch.autograd.gradcheck(loss, [x.requires_grad_() for x in xs])


def look(c, t):
    "Compute equations (9) and (10) of the paper on sentence components for a list of rows."
    each = [sum(w * x for w, x in zip(softmax([x / t for x in row]), row)) for row in c]
    return sum(w * x for w, x in zip(softmax([x / t for x in each]), each))


@settings(max_examples=25)
@given(st.integers(1, 4), st.integers(1, 4), seeds, st.floats(0.05, 10), st.booleans())
def test_attention_similarity_equals_a_plain_loop(n, m, seed, t, normalize):
    a, b = normal(seed, 2, n, 3), normal(seed + 1, 2, m, 3)
    if not normalize: a, b = a / 3, b / 3
    mask_a, mask_b = exists(seed, 2, n), exists(seed + 1, 2, m)
    got = attention_similarity(a, b, mask_a, mask_b, t, normalize)
    for i in range(2):
        x, y = a[i][mask_a[i]].tolist(), b[i][mask_b[i]].tolist()
        norm = lambda v: math.sqrt(sum(z * z for z in v)) if normalize else 1
        c = [[sum(p * q for p, q in zip(u, v)) / norm(u) / norm(v) for v in y] for u in x]
        want = (look(c, t) + look([list(r) for r in zip(*c)], t)) / 2 if x and y else 0
        assert got[i].item() == pytest.approx(want, rel=1e-7, abs=1e-10)


@settings(max_examples=30)
@given(st.integers(1, 4), st.integers(1, 4), seeds, st.floats(0.01, 10))
def test_attention_similarity_properties(n, m, seed, t):
    a, b, mask_a, mask_b = normal(seed, n, 3), normal(seed + 1, m, 3), exists(seed, n), exists(seed + 1, m)
    mask_a[0] = mask_b[0] = True
    value = attention_similarity(a, b, mask_a, mask_b, t)
    torch.testing.assert_close(value, attention_similarity(b, a, mask_b, mask_a, t))
    c = torch.nn.functional.normalize(a[mask_a], dim=-1) @ torch.nn.functional.normalize(b[mask_b], dim=-1).T
    assert c.min() - 1e-9 <= value <= c.max() + 1e-9 and value >= c.mean() - 1e-9
    dirty_a, dirty_b = a.clone(), b.clone()
    dirty_a[~mask_a], dirty_b[~mask_b] = math.nan, math.inf
    assert torch.equal(attention_similarity(dirty_a, dirty_b, mask_a, mask_b, t), value)


def test_negatives_are_compared_in_one_call():
    anchor, negatives = normal(0, 4, 5, 3), normal(1, 4, 2, 6, 3)
    mask, neg_mask = exists(0, 4, 5), exists(1, 4, 2, 6)
    got = attention_similarity(anchor[:, None], negatives, mask[:, None], neg_mask, 0.1)
    want = [[attention_similarity(anchor[i], negatives[i, j], mask[i], neg_mask[i, j], 0.1) for j in range(2)]
            for i in range(4)]
    torch.testing.assert_close(got, torch.tensor(want).double())
    assert cosine(anchor[:, 0][:, None], negatives[:, :, 0]).shape == (4, 2)


def test_importance_equals_a_plain_loop():
    torch.manual_seed(0)
    module = Importance(width=3, hidden=2).double()
    anchor, words, mask = normal(0, 2, 3), normal(1, 2, 3, 3, 3), exists(0, 2, 3, 3)
    mask[1, 2] = False # a negative without tokens
    got = module(anchor, words.masked_fill(~mask[..., None], math.nan), mask)
    W_q, W_k, W_v, W_o = (w.weight.detach().numpy() for w in (module.W_q, module.W_k, module.W_v, module.W_o))
    for i in range(2):
        q = W_q @ anchor[i].numpy()
        for j in range(3):
            seen = words[i, j][mask[i, j]].numpy()
            w = softmax([q @ (W_k @ x) / math.sqrt(2) for x in seen])
            c = sum((s * (W_v @ x) for s, x in zip(w, seen)), np.zeros(2))
            assert got[i, j].item() == pytest.approx((W_o @ c).item(), rel=1e-9, abs=1e-12)
    assert got[1, 2] == 0 and {n for n, _ in module.named_parameters()} == {f"W_{x}.weight" for x in "qkvo"}
    assert torch.autograd.gradcheck(lambda a, x: module(a, x, mask), (anchor.requires_grad_(), words.requires_grad_()))


@settings(max_examples=30)
@given(batch, kinds, seeds)
def test_importance_weights_sum_to_one(b, j, seed):
    _, _, mask, logits = inputs(b, j, seed)
    w = importance_weights(10 * logits, mask)
    torch.testing.assert_close(w.sum(1), mask.any(1).double())
    assert (w[~mask] == 0).all() and (w >= 0).all()


@settings(max_examples=25)
@given(batch, seeds, temperatures)
def test_auxiliary_equals_a_plain_loop(b, seed, t):
    s, mask, same = normal(seed, b, b) / 2, exists(seed, b), exists(seed + 1, b, b, share=0.3)
    want = []
    for i in range(b):
        texts = [s[i, j].item() for j in range(b) if j != i and mask[j] and not same[i, j]]
        videos = [s[j, i].item() for j in range(b) if j != i and not same[j, i]]
        want.append((log_ratio(s[i, i].item(), texts, t) + log_ratio(s[i, i].item(), videos, t)) / 2 if mask[i] else 0)
    dirty = s.masked_fill(~mask, math.nan).requires_grad_()
    value = auxiliary(dirty, t, mask, same)["auxiliary"]
    np.testing.assert_allclose(value.detach(), want, rtol=1e-8, atol=1e-11)
    value.sum().backward()
    assert dirty.grad.isfinite().all() and (dirty.grad[:, ~mask] == 0).all()
    assert torch.equal(auxiliary(s, t, same=same)["auxiliary"], vtc(s, t, same)["vtc"])
    assert torch.equal(auxiliary(s, t, torch.ones(b, dtype=torch.bool))["auxiliary"], vtc(s, t)["vtc"])


def test_pooling():
    x, mask = normal(0, 3, 4, 2), torch.tensor([[True] * 4, [True, True, False, False], [False] * 4])
    x[1, 2:] = math.nan
    torch.testing.assert_close(pool(x, mask)[1], x[1, :2].mean(0))
    torch.testing.assert_close(pool(x, mask, "max"), torch.stack([x[0].amax(0), x[1, :2].amax(0), torch.zeros(2)]))
    torch.testing.assert_close(pool(x, mask, "first"), torch.stack([x[0, 0], x[1, 0], torch.zeros(2).double()]))
    assert (pool(x, mask)[2] == 0).all() and cosine(torch.zeros(2), torch.ones(2)) == 0


def three(pos, neg, mask, logits, t):
    return {**component_simple(pos, neg, mask, t), **component_discernible(pos, neg, mask, t),
            **component_adaptive(pos, neg, mask, logits, t, 0.1), **importance_entropy(logits, mask)}


def test_masked_negatives_contribute_nothing_not_even_nan():
    pos = torch.tensor([0.5, math.nan], requires_grad=True) # the second caption has no positive
    neg = torch.tensor([[0.1, math.nan], [math.inf, math.nan]], requires_grad=True)
    logits = torch.tensor([[0.3, math.nan], [math.nan, math.inf]], requires_grad=True)
    t = torch.tensor(0.1, requires_grad=True)
    mask = torch.tensor([[True, False], [False, False]])
    terms = three(pos, neg, mask, logits, t)
    for name in ("component_simple", "component_discernible", "component_adaptive"):
        assert terms[name][0].item() == pytest.approx(math.log1p(math.exp(-4)), rel=1e-5) and terms[name][1] == 0
    sum(v.sum() for v in terms.values()).backward()
    assert pos.grad.isfinite().all() and pos.grad[1] == 0 and t.grad.isfinite()
    assert (neg.grad[~mask] == 0).all() and logits.grad.isfinite().all()


@pytest.mark.parametrize("b", [1, 3])
@pytest.mark.parametrize("j", [0, 2])
def test_nothing_to_contrast_is_zero_with_zero_gradient(b, j):
    pos, logits = normal(0, b).requires_grad_(), normal(1, b, j).requires_grad_()
    terms = three(pos, normal(2, b, j), torch.zeros(b, j, dtype=torch.bool), logits, 0.05)
    for value in terms.values(): assert value.tolist() == [0] * b
    sum(v.sum() for v in terms.values()).backward()
    assert (pos.grad == 0).all() and (logits.grad == 0).all()
    none = torch.zeros(b, dtype=torch.bool)
    assert auxiliary(normal(0, b, b), 0.05, none)["auxiliary"].tolist() == [0] * b


def test_unmasked_nan_shows_in_its_row_only():
    pos, mask = torch.zeros(2), torch.ones(2, 2, dtype=torch.bool)
    neg = torch.tensor([[0.1, math.nan], [0.1, 0.2]])
    for name, value in three(pos, neg, mask, torch.zeros(2, 2), 0.1).items():
        assert value.isnan().tolist() == [name != "importance_entropy", False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("temperature", [1e-4, 0.01, 100.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_finite_at_extreme_similarities(dtype, temperature, sign):
    pos, neg = (sign * torch.ones(4)).to(dtype), (-sign * torch.ones(4, 5)).to(dtype)
    logits = torch.tensor([0, 1e4, -1e4, 3, 4]).expand(4, 5).to(dtype)
    t, mask = torch.tensor(temperature), exists(0, 4, 5)
    xs = [x.clone().requires_grad_() for x in (pos, neg, logits, t)]
    terms = three(xs[0], xs[1], mask, xs[2], xs[3])
    terms["similarity"] = attention_similarity(neg[:, :2, None], neg[:, 2:, None], mask[:, :2], mask[:, 2:], xs[3])
    for value in terms.values(): assert value.dtype == torch.float32 and value.isfinite().all()
    sum(v.sum() for v in terms.values()).backward()
    for x in xs: assert x.grad.isfinite().all()


def test_mixed_precision_keeps_similarities_and_losses_in_float32():
    a, b, mask = normal(0, 3, 4, 8).float(), normal(1, 3, 4, 8).float(), exists(0, 3, 4)
    mask[:, 0] = True
    compute = lambda: attention_similarity(a, b, mask, mask, 0.01)
    want = compute()
    torch.manual_seed(0)
    module = Importance(8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(compute(), want)
        logits = module(a[:, 0], b[:, None], mask[:, None])
        value = component_adaptive(want, want[:, None] - 0.1, mask[:, :1], logits, 0.01)["component_adaptive"]
    assert logits.dtype == torch.bfloat16 and value.dtype == torch.float32
    torch.testing.assert_close(logits.float(), module(a[:, 0], b[:, None], mask[:, None]), rtol=0.05, atol=0.02)


def test_results_stay_on_the_device_of_the_input():
    pos, neg, mask, logits = (x.to("meta") for x in inputs(3, 2, 0))
    for value in three(pos, neg, mask, logits, 0.1).values(): assert value.is_meta and value.shape == (3,)
    words = torch.zeros(3, 2, 4, 5, device="meta")
    word_mask = torch.ones(3, 2, 4, dtype=torch.bool, device="meta")
    assert Importance(5).to("meta")(words[:, 0, 0], words, word_mask).shape == (3, 2)
    assert auxiliary(torch.zeros(3, 3, device="meta"), 0.1, mask[:, 0])["auxiliary"].is_meta


def test_errors_name_the_way_out():
    pos, neg, mask, logits = inputs(3, 2, 0)
    for call in (lambda: component_adaptive(pos, neg, mask[:, :1], logits, 0.1),
                 lambda: component_discernible(pos[:2], neg, mask, 0.1)):
        with pytest.raises(VidnegError, match=r"want shapes \(B,\), \(B, J\) and \(B, J\)"): call()
    with pytest.raises(VidnegError, match="'mean', 'max' or 'first'"): pool(neg, mask, "last")


def test_losses_are_registered():
    names = {"component_simple", "component_discernible", "component_adaptive", "importance_entropy", "auxiliary"}
    assert names <= LOSSES.keys()
