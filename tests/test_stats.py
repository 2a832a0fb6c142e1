"Bootstrap intervals against plain loops, hand-made cases and a coverage simulation."
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from vidneg.core.errors import VidnegError
from vidneg.core.seeds import stable_rng
from vidneg.evaluate.stats import (
    Estimate,
    bootstrap,
    clip_weights,
    contrast,
    estimate_of,
    fmt,
    intraclass_correlation,
    paired_difference,
    visible_difference,
)


def loop_bootstrap(values, groups, statistic, strata=None, coefficients=None, n=50, seed=0):
    "Compute the interval by writing out every resample: items of a clip repeat as often as the clip is drawn."
    out, names = [], sorted(set(groups))
    items = [np.flatnonzero(np.array(groups) == name) for name in names]
    for counts in clip_weights(len(names), n, seed, 0):
        rows = [i for of_clip, k in zip(items, counts) for _ in range(int(k)) for i in of_clip]
        if strata is None: out.append(statistic([values[i] for i in rows]))
        else:
            means = {k: [values[i] for i in rows if strata[i] == k] for k in coefficients}
            if all(means.values()): out.append(sum(c * np.mean(means[k]) for k, c in coefficients.items()))
    return np.quantile(out, [.025, .975])


def data(seed, items=40, clips=9):
    rng = stable_rng(seed, "test")
    return rng.normal(size=items), [f"c{i}" for i in rng.integers(clips, size=items)], rng.choice(list("xyz"), items)


@pytest.mark.parametrize("statistic", ["mean", "median"])
@pytest.mark.parametrize("seed", range(4))
def test_bootstrap_equals_the_plain_loop(statistic, seed):
    values, groups, _ = data(seed)
    if seed % 2: values = np.round(values) # ties among the values
    e = bootstrap(values, groups, statistic, n=50)
    assert e.value == pytest.approx(getattr(np, statistic)(values))
    assert (e.low, e.high) == pytest.approx(tuple(loop_bootstrap(values, groups, getattr(np, statistic))))
    assert (e.n, e.clips) == (40, len(set(groups)))


@pytest.mark.parametrize("coefficients", [{"x": 1 / 3, "y": 1 / 3, "z": 1 / 3}, {"x": 1, "y": -1}, {"z": 1}])
def test_contrast_equals_the_plain_loop(coefficients):
    values, groups, strata = data(7, items=90)
    e = contrast(values, groups, strata, coefficients, n=50)
    assert e.value == pytest.approx(sum(c * values[strata == k].mean() for k, c in coefficients.items()))
    assert (e.low, e.high) == pytest.approx(tuple(loop_bootstrap(values, groups, None, strata, coefficients)))
    assert e.n == np.isin(strata, list(coefficients)).sum()


def test_contrast_of_one_stratum_is_bootstrap():
    values, groups, _ = data(3)
    assert contrast(values, groups, ["all"] * 40) == bootstrap(values, groups)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=30), st.integers(0, 3))
def test_intervals_of_proportions_contain_them_and_stay_in_0_1(pairs, seed):
    right, groups = zip(*pairs)
    e = bootstrap(np.array(right), groups, n=200, seed=seed)
    assert e.value == np.mean(right)
    if len(set(groups)) < 2: assert np.isnan(e.low) and np.isnan(e.high)
    else: assert 0 <= e.low <= e.high <= 1


def test_row_order_and_block_size_do_not_matter():
    values, groups, _ = data(1)
    values, order = np.round(values), stable_rng(0, "order").permutation(40)
    assert bootstrap(values, groups) == bootstrap(values[order], np.array(groups)[order])
    assert bootstrap(values, groups, seed=1) != bootstrap(values, groups, seed=2)


def test_many_clips_go_through_in_blocks():
    values = stable_rng(0, "many").normal(size=3000)
    e = bootstrap(values, np.arange(3000), n=1500)
    assert e.high - e.low == pytest.approx(2 * 1.96 / 3000**.5, rel=.15)


def test_coverage():
    def inside(trial):
        rng = stable_rng(0, "coverage", trial)
        share = np.repeat(rng.beta(3, 1, size=50), 3)
        e = bootstrap(rng.random(150) < share, np.repeat(np.arange(50), 3), n=300)
        return e.low <= .75 <= e.high
    assert .90 <= np.mean([inside(t) for t in range(300)]) <= .985


def test_intervals_of_constant_values_have_width():
    e = bootstrap([True] * 30, range(30))
    assert (e.value, e.high) == (1, 1) and e.low == pytest.approx(.025 ** (1 / 30))
    e = bootstrap([False] * 30, range(30))
    assert (e.value, e.low) == (0, 0) and e.high == pytest.approx(1 - .025 ** (1 / 30))
    assert bootstrap([1., 1., 1.], range(3)).low == 1 # a mean rank has no upper bound
    assert bootstrap([1., 1., 1.], range(3), bounds=(0, 1)).low < 1
    assert contrast([True] * 4, range(4), list("xyxy")).low < 1
    assert contrast([True] * 4, range(4), list("xyxy"), {"x": 1, "y": -1}).low == 0


def test_pairing_removes_variance_shared_by_runs():
    rng = stable_rng(0, "pairs")
    common = rng.normal(size=300)
    a, b, clips = common + .3, common + rng.normal(0, .1, 300), np.arange(300)
    e = paired_difference(a, b, clips)
    assert e == bootstrap(a - b, clips)
    assert e.low > .25 and bootstrap(a, clips).low - bootstrap(b, clips).high < .15


@pytest.mark.parametrize("call, words", [
    (lambda: bootstrap([], []), "no items"),
    (lambda: bootstrap([1, 2], ["a"]), "one length"),
    (lambda: bootstrap([1, np.nan], ["a", "b"]), "NaN"),
    (lambda: bootstrap([1, 2], ["a", "b"], "mode"), "mean, median"),
    (lambda: bootstrap([1, 2], ["a", "b"], level=95), "level"),
    (lambda: contrast([1, 2], ["a", "b"], ["x", "y"], {"z": 1}), "'z'"),
    (lambda: paired_difference([1, 2], [1], ["a", "b"]), "same items")])
def test_bad_input_has_one_clear_error(call, words):
    with pytest.raises(VidnegError, match=words): call()


def test_fmt():
    e = Estimate(.10449, -.0004, np.nan, 7, 3)
    assert fmt(e, digits=2) == "10.45 [−0.04, –]"
    assert fmt(e, scale=1, digits=2, interval=False, sign=True) == "+0.10"
    assert estimate_of(type("Row", (), vars(e))) .value == e.value
    assert e.scale(100).value == pytest.approx(10.449)


def test_visible_difference_of_a_textbook_case():
    "A two-sided test at 5% with 80% power needs z = 1.959964 + 0.841621 standard errors."
    assert np.isclose(visible_difference(784, 784, .5), 2.801585*np.sqrt(.5/784), rtol=1e-6)
    assert np.isclose(visible_difference(800, 200, .25, .5), 2.801585*np.sqrt(.25*2.5/800), rtol=1e-6)


def test_intraclass_correlation_of_a_hand_calculation():
    "The mean size of groups of 3 and 4 items is 7 − (9 + 16)/7 = 24/7."
    values, groups = [1, 1, 0, 0, 0, 0, 1], list("aaabbbb")
    between = 3*(2/3 - 3/7)**2 + 4*(1/4 - 3/7)**2
    within = (2/3*1/3*3 + 1/4*3/4*4)/5
    expected = (between - within)/(between + (24/7 - 1)*within)
    assert np.isclose(intraclass_correlation(values, groups), max(expected, 0))
    assert intraclass_correlation([1, 2, 3], list("abc")) == intraclass_correlation([1, 1, 1], list("aab")) == 0


@given(st.integers(2, 30), st.integers(2, 6), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_intraclass_correlation_finds_the_shared_variance(clips, per_clip, seed):
    rng = np.random.default_rng(seed)
    shared = np.repeat(rng.normal(size=clips), per_clip)
    groups = np.repeat(np.arange(clips), per_clip)
    assert intraclass_correlation(shared, groups) == pytest.approx(1)
    assert 0 <= intraclass_correlation(shared + rng.normal(size=len(shared)), groups) < 1


@pytest.mark.parametrize("bad", [dict(n=0, clips=0), dict(n=5, clips=6), dict(n=5, clips=5, icc=2),
                                 dict(n=5, clips=5, power=1), dict(n=5, clips=5, variance=-1)])
def test_power_of_nonsense_is_refused(bad):
    with pytest.raises(VidnegError, match="pass 1 ≤ clips ≤ n"): visible_difference(**bad)
