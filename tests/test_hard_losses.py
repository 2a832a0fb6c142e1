"Losses with hard negatives against plain loops, their reductions, gradients, masks, precision and errors."
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from vidneg.core.errors import VidnegError
from vidneg.losses.contrastive import neg_vtc, vtc
from vidneg.losses.hard import calibration, duplicate_negatives, hn_nce, log_hardness, negclip, svlc_neg, vfc
from vidneg.losses.registry import LOSS_SETS, LOSSES


def normal(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def exists(seed, *shape, share=0.6):
    return torch.from_numpy(np.random.default_rng(seed + 1000).random(shape) < share)


def data(b, k, seed):
    "Make cosines and masks of a batch; `neg` is the diagonal of `neg_similarity`."
    every = normal(seed + 1, b, b, k) / 3
    return dict(similarity=normal(seed, b, b) / 3, neg_similarity=every, neg=every[range(b), range(b)],
                neg_mask=exists(seed, b, k), same=exists(seed + 1, b, b, share=0.3),
                neg_same=exists(seed + 2, b, b, k, share=0.3))


def loop(pos, others, t, alpha, beta):
    "Compute equations (8) and (9) of SPOT for one row in plain Python."
    if not others: return 0.0
    z = sum(math.exp(beta * s / t) for s in others)
    w = [len(others) * math.exp(beta * s / t) / z for s in others]
    e = math.exp(pos / t)
    return -math.log(e / (alpha * e + sum(a * math.exp(s / t) for a, s in zip(w, others))))


def rows_and_columns(d, scope):
    "Return, per sample, the cosines of its video with negative texts and of its caption with negative videos."
    s, b, k = d["similarity"], len(d["similarity"]), d["neg_mask"].shape[1]
    texts, videos = [], []
    for i in range(b):
        row = [s[i, j].item() for j in range(b) if j != i and not d["same"][i, j]]
        for j in range(b) if scope == "all" else [i]:
            row += [d["neg_similarity"][i, j, m].item() for m in range(k)
                    if d["neg_mask"][j, m] and not d["neg_same"][i, j, m]]
        texts.append(row)
        videos.append([s[j, i].item() for j in range(b) if j != i and not d["same"][j, i]])
    return texts, videos


def only(d, *names):
    return {n: d[n] for n in ("similarity", "neg_mask", "same", "neg_same", *names)}


batch, kinds, seeds, temperatures = st.integers(1, 6), st.integers(0, 4), st.integers(0, 10_000), st.floats(0.05, 1)
scopes = st.sampled_from(["own", "all"])


@settings(max_examples=30)
@given(batch, kinds, seeds, temperatures, scopes, st.floats(0, 2), st.floats(0, 2), st.booleans())
def test_hn_nce_equals_a_plain_loop(b, k, seed, t, scope, alpha, beta, detach):
    d = data(b, k, seed)
    texts, videos = rows_and_columns(d, scope)
    pos = d["similarity"].diagonal().tolist()
    want = [(loop(p, r, t, alpha, beta) + loop(p, c, t, alpha, beta)) / 2 for p, r, c in zip(pos, texts, videos)]
    got = hn_nce(temperature=t, alpha=alpha, beta=beta, scope=scope, detach_weights=detach, **d)["hn_nce"]
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-10)


@settings(max_examples=30)
@given(batch, kinds, seeds, temperatures, scopes)
def test_negclip_equals_a_plain_loop(b, k, seed, t, scope):
    d = data(b, k, seed)
    texts, videos = rows_and_columns(d, scope)
    pos = d["similarity"].diagonal().tolist()
    want = [(loop(p, r, t, 1, 0) + loop(p, c, t, 1, 0)) / 2 for p, r, c in zip(pos, texts, videos)]
    np.testing.assert_allclose(negclip(temperature=t, scope=scope, **d)["negclip"], want, rtol=1e-8, atol=1e-10)
    by_hn_nce = hn_nce(temperature=t, scope=scope, alpha=1, beta=0, **d)["hn_nce"]
    assert torch.equal(negclip(temperature=t, scope=scope, **d)["negclip"], by_hn_nce)


@settings(max_examples=30)
@given(batch, kinds, seeds, temperatures, st.floats(0, 1))
def test_vfc_equals_a_plain_loop(b, k, seed, t, beta):
    d = data(b, k, seed)
    texts, videos = rows_and_columns(d, "own")
    plain, normed = [], []
    for p, r, c in zip(d["similarity"].diagonal().tolist(), texts, videos):
        v2t, t2v = loop(p, r, t, 1, beta), loop(p, c, t, 1, beta)
        plain.append(0.3 * v2t + 2 * t2v)
        normed.append(0.3 * (v2t / math.log(1 + len(r)) if r else 0) + 2 * (t2v / math.log(1 + len(c)) if c else 0))
    d = only(d, "neg") | dict(temperature=t, beta=beta, v2t_weight=0.3, t2v_weight=2)
    np.testing.assert_allclose(vfc(**d)["vfc"], normed, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(vfc(**d, normalize=False)["vfc"], plain, rtol=1e-8, atol=1e-10)


@settings(max_examples=30)
@given(batch, kinds, seeds, temperatures)
def test_svlc_equals_a_plain_loop(b, k, seed, t):
    pos, neg, mask = normal(seed, b), normal(seed + 1, b, k), exists(seed, b, k)
    want = np.array([loop(pos[i].item(), [neg[i, j].item() for j in range(k) if mask[i, j]], t, 1, 0)
                     for i in range(b)])
    np.testing.assert_allclose(svlc_neg(pos, neg, mask, t)["svlc_neg"], want, rtol=1e-7, atol=1e-12)
    assert torch.equal(svlc_neg(pos, neg, mask, t)["svlc_neg"], neg_vtc(pos, neg, mask, t)["neg_vtc"])
    having = [i for i in range(b) if mask[i].any()]
    scaled = svlc_neg(pos, neg, mask, t, "having")["svlc_neg"].mean().item()
    assert scaled == pytest.approx(want[having].mean() if having else 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("b", [1, 2, 3, 7, 16, 33, 64])
def test_hn_nce_reduces_to_info_nce_bit_for_bit(b, dtype):
    s, same = normal(b, b, b).to(dtype), exists(b, b, b, share=0.2)
    for t in (0.01, 0.07, torch.tensor(0.5)):
        for mask in (None, same):
            assert torch.equal(hn_nce(s, t, same=mask, alpha=1, beta=0)["hn_nce"], vtc(s, t, mask)["vtc"])
            assert torch.equal(negclip(s, t, same=mask)["negclip"], vtc(s, t, mask)["vtc"])
    nothing = dict(neg=torch.zeros(b, 2, dtype=dtype), neg_mask=torch.zeros(b, 2, dtype=torch.bool))
    torch.testing.assert_close(hn_nce(s, 0.07, **nothing, beta=0)["hn_nce"], vtc(s, 0.07)["vtc"])


@settings(max_examples=30)
@given(st.integers(1, 7), st.integers(1, 9), seeds, st.floats(0, 50))
def test_weights_of_every_row_and_column_sum_to_the_number_of_negatives(r, c, seed, beta):
    scores, negative = 10 * normal(seed, r, c), exists(seed, r, c)
    w = log_hardness(scores, negative, beta).exp()
    torch.testing.assert_close(w.sum(1), negative.sum(1).double())
    assert (w >= 0).all() and (w[~negative] == 0).all()
    columns = log_hardness(scores, negative, beta, 0).exp()
    torch.testing.assert_close(columns.sum(0), negative.sum(0).double())
    torch.testing.assert_close(columns, log_hardness(scores.T, negative.T, beta).exp().T)


@settings(max_examples=30)
@given(st.integers(2, 6), seeds, st.floats(0.1, 2))
def test_captions_are_normalized_over_their_column(b, seed, beta):
    s = normal(seed, b, b) / 3
    s.fill_diagonal_(5.0)
    s[1:, 0] += 3 # one column exceeds all others, so normalizing over rows would give other weights
    def one(values): # alpha = 0
        total = sum(math.exp((1 + beta) * x) for x in values) * (b - 1) / sum(math.exp(beta * x) for x in values)
        return math.log(total) - 5
    want = (one(s[0, 1:].tolist()) + one(s[1:, 0].tolist())) / 2
    assert hn_nce(s, 1.0, alpha=0, beta=beta)["hn_nce"][0].item() == pytest.approx(want)


d3 = data(3, 2, 5)
fixed = {k: d3[k] for k in ("neg_mask", "same", "neg_same")}
grads = {
    "hn_nce own": (lambda s, n, t: hn_nce(s, t, n, **fixed, beta=0.7, alpha=0.5)["hn_nce"], [(3, 3), (3, 2), None]),
    "hn_nce all": (lambda s, n, t: hn_nce(s, t, neg_similarity=n, scope="all", beta=0.7, **fixed)["hn_nce"],
                   [(3, 3), (3, 3, 2), None]),
    "hn_nce decoupled": (lambda s, n, t: hn_nce(s, t, n, neg_mask=fixed["neg_mask"], alpha=0)["hn_nce"],
                         [(3, 3), (3, 2), None]),
    "negclip": (lambda s, n, t: negclip(s, t, neg_similarity=n, **fixed)["negclip"], [(3, 3), (3, 3, 2), None]),
    "svlc": (lambda p, n, t: svlc_neg(p, n, fixed["neg_mask"], t, "having")["svlc_neg"], [(3,), (3, 2), None]),
    "vfc": (lambda s, n, t: vfc(s, t, n, **fixed, beta=0.3)["vfc"], [(3, 3), (3, 2), None]),
}


@pytest.mark.parametrize("name", grads)
def test_gradients(name):
    loss, shapes = grads[name]
    inputs = [torch.tensor(0.3).double() if s is None else normal(i, *s) for i, s in enumerate(shapes)]
    assert torch.autograd.gradcheck(loss, [x.requires_grad_() for x in inputs])


def test_detached_weights_are_constants():
    s, t, beta = normal(0, 4, 4).requires_grad_(), 0.5, 0.8
    other = ~torch.eye(4, dtype=torch.bool)
    def by_hand(w, w_t):
        e = (s / t).exp()
        rows = e.diagonal() / (e.diagonal() + (w * e * other).sum(1))
        columns = e.diagonal() / (e.diagonal() + (w_t * e * other).sum(0))
        return -(rows.log() + columns.log()).sum() / 2
    def weights(x): return 3 * (beta * x / t).exp() / ((beta * x / t).exp() * other).sum(1, keepdim=True)
    for detach in (True, False):
        w, w_t = weights(s), weights(s.T).T
        want, = torch.autograd.grad(by_hand(w.detach(), w_t.detach()) if detach else by_hand(w, w_t), s)
        got, = torch.autograd.grad(hn_nce(s, t, beta=beta, detach_weights=detach)["hn_nce"].sum(), s)
        torch.testing.assert_close(got, want)


@settings(max_examples=30)
@given(st.integers(2, 5), st.integers(1, 4), seeds, scopes, st.floats(0, 1))
def test_loss_does_not_depend_on_order(b, k, seed, scope, beta):
    d = data(b, k, seed)
    p = torch.from_numpy(np.random.default_rng(seed).permutation(b))
    m = torch.from_numpy(np.random.default_rng(seed).permutation(k))
    moved = dict(similarity=d["similarity"][p][:, p], same=d["same"][p][:, p], neg=d["neg"][p][:, m],
                 neg_mask=d["neg_mask"][p][:, m], neg_similarity=d["neg_similarity"][p][:, p][..., m],
                 neg_same=d["neg_same"][p][:, p][..., m])
    want = hn_nce(temperature=0.2, beta=beta, scope=scope, **d)["hn_nce"][p]
    torch.testing.assert_close(hn_nce(temperature=0.2, beta=beta, scope=scope, **moved)["hn_nce"], want)


@settings(max_examples=30)
@given(batch, st.integers(1, 4), seeds, scopes)
def test_more_negatives_never_help_and_hardness_never_lowers_the_loss(b, k, seed, scope):
    d = data(b, k, seed) | dict(temperature=0.2, scope=scope)
    fewer = d | {"neg_mask": d["neg_mask"] & exists(seed + 7, b, k)}
    assert (hn_nce(**d, beta=0)["hn_nce"] >= hn_nce(**fewer, beta=0)["hn_nce"] - 1e-12).all()
    values = torch.stack([hn_nce(**d, beta=beta)["hn_nce"] for beta in (0, 0.2, 1, 5)])
    assert (values.diff(dim=0) >= -1e-12).all()
    assert (hn_nce(**d, alpha=0.5)["hn_nce"] <= hn_nce(**d, alpha=1)["hn_nce"]).all()


@settings(max_examples=30)
@given(batch, st.integers(1, 3), seeds, st.sampled_from(["own", "all"]), st.floats(0, 1))
def test_masked_entries_contribute_nothing_not_even_nan(b, k, seed, scope, beta):
    d = data(b, k, seed)
    dirty = {n: d[n].clone() for n in ("neg", "neg_similarity")}
    dirty["neg"][~d["neg_mask"]] = math.nan
    dirty["neg_similarity"][(~d["neg_mask"]).expand(b, b, k) | d["neg_same"]] = math.inf
    for loss, settings_ in ((hn_nce, dict(scope=scope, beta=beta)), (negclip, dict(scope=scope))):
        want = loss(temperature=0.2, **settings_, **d)
        name = "neg" if scope == "own" else "neg_similarity"
        x = dirty[name].requires_grad_()
        t = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
        got = loss(**d | {name: x}, temperature=t, **settings_)
        for n in want: torch.testing.assert_close(got[n], want[n])
        sum(v.sum() for v in got.values()).backward()
        assert t.grad.isfinite() and x.grad.isfinite().all() and (x.grad[~x.isfinite()] == 0).all()


@pytest.mark.parametrize("alpha", [0, 0.5, 1])
def test_nothing_to_contrast_is_zero_with_zero_gradient(alpha):
    for b, same in ((1, None), (3, torch.ones(3, 3, dtype=torch.bool))): # a batch of one; one clip three times
        s, neg = normal(0, b, b).requires_grad_(), torch.full((b, 2), math.nan).double().requires_grad_()
        none = torch.zeros(b, 2, dtype=torch.bool)
        for k in (0, 2):
            terms = hn_nce(s, 0.07, neg[:, :k], none[:, :k], same=same, alpha=alpha, beta=0.5)
            terms |= vfc(s, 0.07, neg[:, :k], none[:, :k], same=same)
            terms |= svlc_neg(s.diagonal(), neg[:, :k], none[:, :k], 0.07, "having")
            terms |= negclip(s, 0.07, neg[:, :k], none[:, :k], same=same, scope="own")
            for value in terms.values(): assert value.tolist() == [0] * b
            s.grad = neg.grad = None
            sum(v.sum() for v in terms.values()).backward()
            assert (s.grad == 0).all() and (neg.grad is None or (neg.grad == 0).all())
        assert negclip(s, 0.07, same=same)["negclip"].tolist() == [0] * b


def test_unmasked_nan_shows_only_in_its_row():
    d = data(3, 2, 0) | dict(neg_mask=torch.ones(3, 2, dtype=torch.bool), same=None, neg_same=None)
    d["neg"][1, 0] = math.nan
    assert hn_nce(temperature=0.1, **d)["hn_nce"].isnan().tolist() == [False, True, False]
    d["similarity"][0] = math.nan # a clip with NaN frames: no caption can be compared with it
    assert hn_nce(temperature=0.1, **d)["hn_nce"].isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("temperature", [1e-4, 0.01, 100.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_finite_at_extreme_similarities(dtype, temperature, sign):
    b, k = 8, 3
    s = (sign * (2 * torch.eye(b) - 1)).to(dtype).requires_grad_()
    every = (sign * torch.ones(b, b, k)).to(dtype).requires_grad_()
    t = torch.tensor(temperature, requires_grad=True)
    mask = exists(0, b, k)
    own = every[range(b), range(b)]
    terms = negclip(s, t, neg_mask=mask, neg_similarity=every) | vfc(s, t, own, mask, beta=2.0)
    terms |= svlc_neg(s.diagonal(), own, mask, t)
    for i, beta in enumerate((0.0, 0.25, 4.0)):
        terms[f"hn_nce {i}"] = hn_nce(s, t, own, mask, every, beta=beta, scope="all")["hn_nce"]
    for value in terms.values():
        assert value.dtype == torch.float32 and value.isfinite().all() and (value >= 0).all()
    sum(v.sum() for v in terms.values()).backward()
    assert s.grad.isfinite().all() and every.grad.isfinite().all() and t.grad.isfinite()


def test_low_precision_is_computed_in_float32():
    d = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in data(6, 3, 3).items()}
    exact = {k: v.double() if v.is_floating_point() else v for k, v in d.items()}
    for scope in ("own", "all"):
        got, want = (hn_nce(temperature=0.01, scope=scope, beta=0.5, **x)["hn_nce"] for x in (d, exact))
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


def test_small_losses_keep_their_digits():
    got = hn_nce(torch.eye(2), 0.1, alpha=1, beta=0.5)["hn_nce"][0].item()
    assert got == pytest.approx(math.log1p(math.exp(-10)), rel=1e-2)


def test_results_stay_on_the_device_of_the_input():
    d = {k: v.to("meta") for k, v in data(4, 2, 0).items()} # a tensor on another device would be refused
    for loss, more in ((hn_nce, ("neg", "neg_similarity")), (negclip, ("neg", "neg_similarity")), (vfc, ("neg",))):
        for value in loss(temperature=0.1, **only(d, *more)).values():
            assert value.shape == (4,) and value.is_meta
    assert duplicate_negatives(torch.zeros(4, 3, device="meta"), torch.zeros(4, 2, 3, device="meta")).is_meta


def test_duplicates_equal_plain_loops():
    rng = np.random.default_rng(0)
    ids, neg = torch.from_numpy(rng.integers(0, 2, (5, 3))), torch.from_numpy(rng.integers(0, 2, (5, 4, 3)))
    for same in (None, exists(0, 5, 5, share=0.3)):
        got = duplicate_negatives(ids, neg, same)
        for i, j, k in np.ndindex(5, 5, 4):
            true = [m for m in range(5) if m == i or (same is not None and same[i, m])]
            assert got[i, j, k] == any(ids[m].tolist() == neg[j, k].tolist() for m in true)
        assert 0 < got.sum() < got.numel()


def test_a_copy_of_the_caption_is_no_negative():
    s, own = torch.eye(2), torch.tensor([[1.0], [0.0]]) # the negative of caption 0 equals caption 0
    neg_same = duplicate_negatives(torch.tensor([[4, 5], [6, 7]]), torch.tensor([[[4, 5]], [[8, 9]]]))
    mask = torch.ones(2, 1, dtype=torch.bool)
    assert hn_nce(s, 0.05, own, mask)["hn_nce"][0] > 0.3
    assert hn_nce(s, 0.05, own, mask, neg_same=neg_same)["hn_nce"][0] < 1e-6


@settings(max_examples=30)
@given(st.integers(1, 30), st.integers(1, 4), seeds)
def test_calibration_balances_in_expectation(n, k, seed):
    rng = np.random.default_rng(seed)
    concept, neg = torch.from_numpy(rng.integers(-1, 5, n)), torch.from_numpy(rng.integers(-1, 7, (n, k)))
    mask = exists(seed, n, k)
    keep = calibration(concept, neg, mask)
    assert ((keep >= 0) & (keep <= 1)).all() and (keep[~mask] == 0).all() and (keep[mask & (neg == -1)] == 1).all()
    for c in range(7):
        expected, n_neg = keep[mask & (neg == c)].sum().item(), int((mask & (neg == c)).sum())
        assert expected == pytest.approx(min(int((concept == c).sum()), n_neg), rel=1e-5)


def test_errors_name_the_way_out():
    s, neg, mask = torch.eye(3), torch.zeros(3, 2), torch.ones(3, 2, dtype=torch.bool)
    for call, message in [
        (lambda: hn_nce(torch.zeros(2, 3), 0.1), "square"),
        (lambda: vfc(torch.zeros(4), 0.1), "square"),
        (lambda: hn_nce(s, 0.1, neg), "neg_mask"),
        (lambda: hn_nce(s, 0.1, neg, mask, scope="others"), "'own' or 'all'"),
        (lambda: hn_nce(s, 0.1, neg, mask, scope="all"), "neg_similarity"),
        (lambda: negclip(s, 0.1, neg, mask), "neg_similarity"),
        (lambda: hn_nce(s, 0.1, neg, mask[:, :1]), "should be"),
        (lambda: hn_nce(s, 0.1, neg_similarity=neg, neg_mask=mask, scope="all"), "should be"),
        (lambda: hn_nce(s, 0.1, alpha=-1), "alpha"),
        (lambda: svlc_neg(s.diagonal(), neg, mask, 0.1, "all"), "'batch' or"),
        (lambda: duplicate_negatives(torch.zeros(2, 3), torch.zeros(2, 1, 4)), "pad them alike"),
        (lambda: LOSS_SETS["navro"], "spot"),
    ]:
        with pytest.raises(VidnegError, match=message): call()


@pytest.mark.parametrize("name", ["spot", "svlc", "vfc"])
def test_sets_train_with_the_task(name):
    from test_train import make_batches, make_task
    batch = make_batches().batch(0, 0)
    terms = make_task(**LOSS_SETS[name])(batch | {"seed": 1})
    assert sorted(terms) == sorted(LOSS_SETS[name]["losses"])
    for value in terms.values(): assert value.shape == (5,) and value.isfinite().all()
    sum(v.mean() for v in terms.values()).backward()


def test_spot_puts_generated_negatives_into_the_contrastive_term_only():
    assert LOSS_SETS["spot"]["losses"] == ["hn_nce", "vtm", "mlm"]
    assert all(loss in LOSSES for settings_ in LOSS_SETS.values() for loss in settings_["losses"])
