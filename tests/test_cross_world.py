"The cross of trainings and tests: estimates against brute force, planted readers and seers, and the page."
import numpy as np
import pandas as pd
import pytest

from vidneg.core.errors import VidnegError
from vidneg.core.seeds import stable_rng
from vidneg.evaluate.accuracy import ITEM_COLUMNS, KINDS, accuracy_table, item_matrix, score_blind, toy_scores
from vidneg.evaluate.cross import CROSS_COLUMNS, cross_estimate, cross_table, score_by_captions
from vidneg.evaluate.stats import clip_weights, contrast
from vidneg.report.claims.claim import Evidence, verdict
from vidneg.report.claims.ours import claims
from vidneg.report.cross_world import gains_table, write_cross

FORMS = ("rules", "mixed", "balanced")
RUNS = {"vanilla/model": .3, "published/model": .5, "balanced/model": 1., "published/blind": .2, "balanced/blind": 0.,
        "vanilla/blind": 0.}


def toy(seeds=3, clips=40, runs=RUNS, forms=FORMS):
    return pd.concat([toy_scores(runs, clips, forms, seed=s).assign(seed=s) for s in range(seeds)], ignore_index=True)


def minus(cells): return cells[..., 0] - cells[..., 1]


def test_one_seed_is_the_plain_bootstrap_over_clips():
    scores = toy(1)
    for run in ("vanilla/model", "balanced/model"):
        m = item_matrix(scores, "acc", "rules", [run])
        wanted = contrast(m[run], m.index.get_level_values("clip_id"), m.index.get_level_values("kind"),
                          dict.fromkeys(KINDS, .25), n=200)
        found = cross_estimate(scores, [(run, "rules")], n=200)
        assert found.value == pytest.approx(wanted.value) and (found.n, found.clips) == (wanted.n, wanted.clips)
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))


def test_clips_and_seeds_are_resampled_together():
    "A loop over resamples, with every accuracy written out, gives the same interval."
    scores, n = toy(3, 12), 60
    cells = [("published/model", "mixed"), ("vanilla/model", "balanced")]
    found = cross_estimate(scores, cells, minus, n=n, seed=5)
    clips = sorted(set(scores.clip_id))
    w, rng = clip_weights(len(clips), n, 5, 0), stable_rng(5, "bootstrap of seeds", 3, 0)
    v = rng.multinomial(3, np.full(3, 1/3), size=n)
    part = {cell: scores[(scores.run == cell[0]) & (scores.form == cell[1])] for cell in cells}

    def accuracy(table, clip_weight, seed_weight):
        means = []
        for kind in KINDS:
            own = table[table.kind == kind]
            weight = own.clip_id.map(dict(zip(clips, clip_weight)))
            right = (own.p_pos > own.p_neg)*weight*own.seed.map(dict(enumerate(seed_weight)))
            means.append(right.sum()/weight[own.seed == 0].sum()/sum(seed_weight))
        return np.mean(means)

    samples = [accuracy(part[cells[0]], w[i], v[i]) - accuracy(part[cells[1]], w[i], v[i]) for i in range(n)]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(samples, [.025, .975])))
    ones = np.ones(len(clips)), np.ones(3)
    assert found.value == pytest.approx(accuracy(part[cells[0]], *ones) - accuracy(part[cells[1]], *ones))


def test_pairing_and_order():
    scores = toy()
    same = cross_estimate(scores, [("published/model", "rules")]*2, minus)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    cells = [("balanced/model", "balanced"), ("vanilla/model", "rules")]
    again = cross_estimate(scores.sample(frac=1, random_state=3), cells, minus, n=300)
    assert cross_estimate(scores, cells, minus, n=300) == again


def test_a_lucky_training_widens_the_interval():
    "Three trainings that agree, and three with the same mean of which one is right on everything."
    rows = [(f"{k}-{i}", f"c{i}", run, k, "rules", "", x, 0., x, .5, s) for k in KINDS for i in range(60)
            for s in range(3) for run, x in (("steady/model", float(i % 3 == s)), ("lucky/model", float(s == 1)))]
    scores = pd.DataFrame(rows, columns=["item", "clip_id", "run", "kind", "form", "generator", "score_pos",
                                         "score_neg", "p_pos", "p_neg", "seed"])
    steady, lucky = (cross_estimate(scores, [(f"{run}/model", "rules")], n=500) for run in ("steady", "lucky"))
    assert steady.value == pytest.approx(lucky.value) == pytest.approx(1/3)
    assert lucky.high - lucky.low > .6 > .2 > steady.high - steady.low


@pytest.mark.parametrize("change, says", [
    (lambda s: s[(s.run != "published/model") | (s.seed < 2)], "same rules items"),
    (lambda s: s[(s.run != "published/model") | (s.item != s["item"].iloc[0])], "same rules items"),
    (lambda s: s[s.run != "published/model"], "no rules scores of run 'published/model'"),
    (lambda s: s[s.kind != "object"], "no rules items of category 'object'")])
def test_incomplete_scores_are_an_error(change, says):
    with pytest.raises(VidnegError, match=says):
        cross_estimate(change(toy(forms=("rules",))), [("published/model", "rules"), ("vanilla/model", "rules")], minus)


def test_the_table_agrees_with_the_mean_over_seeds():
    scores = toy()
    table = cross_table(scores, n=50)
    assert list(table.columns) == CROSS_COLUMNS and len(table) == 6*3*5
    each = pd.concat([accuracy_table(own, ["acc"], n=2) for _, own in scores.groupby("seed")])
    mean = each.groupby(["run", "form", "kind"])["value"].mean()
    for r in table.itertuples(): assert r.value == pytest.approx(mean[f"{r.trained}/{r.by}", r.tested, r.kind])
    assert (table.low <= table.value + 1e-12).all() and (table.value <= table.high + 1e-12).all()
    with pytest.raises(VidnegError, match="name it after training and reader"):
        cross_table(scores.assign(run="vanilla"))


def items(pairs, form="rules"):
    return pd.DataFrame([(str(i), f"c{i}", KINDS[i % 4], form, "", *p) for i, p in enumerate(pairs)],
                        columns=ITEM_COLUMNS)


def test_without_negatives_the_likelier_text_is_picked():
    captions = ["a red circle spins"]*9 + ["a blue heart spins"]
    scored = score_by_captions(captions, items([("a red circle spins", "a blue circle spins"),
                                                ("a blue heart spins", "a red circle spins"),
                                                ("a red circle spins", "a red circle spins")]))
    assert (scored.p_pos > scored.p_neg).tolist() == [True, False, False] and scored.p_pos[2] == .5
    alone = score_by_captions(captions, items([("a blue heart spins", "a red circle spins")]))
    assert alone.p_pos[0] == scored.p_pos[1] # an item's score does not depend on the others


def test_claims_tell_a_reader_from_a_seer():
    "A published run that only reads its own forms, and a balanced one that sees: the six claims hold, or else reverse."
    reads = {"rules": 1.5, "mixed": 1.5, "balanced": .3}
    def world(published, balanced, blind):
        return pd.concat([toy_scores({"vanilla/model": .3, "published/model": published(form), "balanced/model":
                                      balanced(form), "published/blind": blind(form)}, 300, (form,), seed=s)
                          .assign(seed=s) for form in ("mixed", "balanced") for s in range(3)])
    def verdicts(scores):
        evidence = Evidence(cross=scores, settings={"n": 300})
        return {k: verdict(c.estimate(evidence), c.above, c.below) for k, c in claims.items() if c.stage == "cross"}
    reader = verdicts(world(reads.get, lambda form: 1., lambda form: 1.2 if form == "mixed" else 0.))
    assert len(reader) == 6
    assert {k: v for k, v in reader.items() if k != "cross-published-balanced"} == {
        k: "holds" for k in reader if k != "cross-published-balanced"}
    assert reader["cross-published-balanced"] != "reversed"
    seer = verdicts(world(lambda form: 1., lambda form: .3, lambda form: 0.))
    assert seer["cross-published-balanced"] == seer["cross-better"] == seer["cross-blind"] == "reversed"
    assert seer["cross-balanced"] != "holds" and seer["cross-published-own"] != "holds"


def test_planted_word_and_symmetric_draws():
    "The blind ranker of a cell learns a word that gives negatives away, and is at chance where there is none."
    rng = np.random.default_rng(0)
    words = ["circle", "square", "heart", "ring"]
    pairs = [tuple(f"a {w} spins" for w in rng.permutation(words)[:2]) for _ in range(600)]
    planted = [(a, b.replace("spins", "teleports")) for a, b in pairs]
    def accuracy(train, test):
        scored = score_blind(pd.DataFrame(train, columns=["caption", "negative"]), items(test))
        return (scored.p_pos > scored.p_neg).mean()
    assert accuracy(planted[:300], planted[300:]) == 1
    assert abs(accuracy(pairs[:300], pairs[300:]) - .5) < .1
    assert abs(accuracy(planted[:300], pairs[300:]) - .5) < .1 # learned on one form, useless on the other


def test_page_and_gains(tmp_path):
    scores = toy()
    page = write_cross(scores, tmp_path/"cross", n=50).read_text()
    assert sorted(p.name for p in (tmp_path/"cross").iterdir()) == ["cross.csv", "cross.md", "cross.png", "cross.svg"]
    before = (tmp_path/"cross/cross.svg").read_bytes()
    write_cross(scores, tmp_path/"cross", n=50)
    assert (tmp_path/"cross/cross.svg").read_bytes() == before
    gains = gains_table(scores, n=50).set_index(["trained", "tested", "quantity"])
    wanted = cross_estimate(scores, [("balanced/model", "mixed"), ("vanilla/model", "mixed")], minus, n=50)
    assert gains.loc[("balanced", "mixed", "gain"), "value"] == wanted.value
    assert f"{100*wanted.value:+.1f} [" in page.replace("−", "-")
    few = write_cross(scores[scores.kind != "relation"], tmp_path/"few", n=20).read_text()
    assert "| Action |" in few
    assert "was not run" in write_cross(None, tmp_path/"none").read_text()
