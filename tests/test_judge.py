"The judge: signs on hand-made sentences, codes that can be learned and codes that cannot, and when rates are given."
import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from vidneg.audit.judge import (
    CODES,
    References,
    Signs,
    fit_judge,
    judge_says,
    judge_tables,
    judged_rates,
    read_rated,
)
from vidneg.audit.review import FAIR, cohen_kappa, draw, write_sheet
from vidneg.cli import app
from vidneg.core.errors import VidnegError
from vidneg.core.seeds import stable_rng
from vidneg.data.pairs import Pair
from vidneg.text.parse import NamedParser

WHO, DOES, WHAT = "man woman boy girl".split(), "throws holds kicks carries".split(), "ball box cup bag".split()
TEXTS = [f"a {w} {d} a {n}" for w in WHO for d in DOES for n in WHAT] + [f"a {w} sleeps in a bed" for w in WHO]*5


@pytest.fixture(scope="module")
def tools():
    return Signs(References(NamedParser().pipe(TEXTS)), NamedParser())


def example(i, generator=""):
    "Return a negative and its code."
    rng, code = stable_rng(0, "judge", i), "GNTK"[i % 4]
    w, d, n = (str(rng.choice(some)) for some in (WHO, DOES, WHAT))
    new = {"G": [f"a {w} {d} a with", f"a {w} sleeps a {n}"], "N": [f"a {w} {d} a bed"], "T": [f"a {w} {d} one {n}"],
           "K": [f"a {w} {d} a {x}" for x in WHAT if x != n]}[code]
    return Pair(str(i), f"v{i}", "k", f"a {w} {d} a {n}", str(rng.choice(new)), generator or "xy"[i//4 % 2]), code


def examples(n, **settings): return map(list, zip(*(example(i, **settings) for i in range(n))))


def test_counts_are_those_of_the_captions():
    r = References(NamedParser().pipe(["a man throws a ball"]*3 + ["a man sleeps"]))
    assert r.size == 4 and r.words["a"] == 7 and r.pairs["<s>", "a"] == 4 and r.triples["a", "man", "throws"] == 3
    assert r.around["ball", ("<", "obj", "", "throw")] == 3 and r.frames["throw", "obj"] == 3
    assert r.frames["sleep", ""] == 1 and r.tags["man", "NN"] == r.tags["man"] == 4
    # backoff by hand: P(throws | a man) = 3/4, P(ball | man throws) is unseen twice over: .16 (3 + .5)/24 words
    assert np.isclose(r.ngram(["a", "man", "throws"]), np.log(3/4))
    assert np.isclose(r.ngram(["man", "throws", "ball"]), np.log(.16*(3 + .5)/sum(r.words.values())))
    assert np.isclose(r.ngram(["x", "a", "ball"]), np.log(.4*3/7))


def test_a_full_decomposition_gives_back_the_mutual_information():
    r = References(NamedParser().pipe(["a man throws a ball", "a boy kicks a box"]*5), dimensions=1000)
    rows, columns, u, v = r.vectors
    total = sum(n**.75 for n in pd.Series({c: sum(m for (_, d), m in r.around.items() if d == c)
                                           for _, c in r.around}))
    word, context = "ball", ("<", "obj", "", "throw")
    pmi = np.log(5*total/5/5**.75)
    assert abs((u @ v.T)[rows[word], columns[context]] - pmi) < .3 # all dimensions but one
    assert r.fit("ball", [context])[0] > 1 > abs(r.fit("box", [context])[0])
    assert r.fit("unknown", [context])[0] == 0 == r.fit("ball", [("<", "obj", "", "unknown")])[0]
    again = References(NamedParser().pipe(["a man throws a ball", "a boy kicks a box"]*5), dimensions=1000)
    assert np.array_equal(again.fit("ball", [context]), r.fit("ball", [context]))


def test_signs_of_sentences_judged_by_hand(tools):
    tried = {"good": "a man throws a box", "absurd": "a man throws a bed", "function": "a man throws a with",
             "frame": "a man sleeps a ball", "longer": "a man throws a very big ball", "shorter": "a man throws ball",
             "first": "the man throws a ball"}
    table = tools.table([Pair(k, "v", "k", "a man throws a ball", t) for k, t in tried.items()])
    table.index = [*tried]
    assert not table.isna().any(axis=None) and np.isfinite(table.to_numpy()).all()
    assert table.loc["good", "seen"] == 1 > table.loc["absurd", "seen"]
    assert table["function word"].to_dict() == {k: float(k == "function") for k in tried}
    assert table.loc["frame", "frame"] < -3 < table.loc["good", "frame"] + 1
    assert table.loc["good", "fit"] > table.loc["absurd", "fit"]


def test_a_second_parser_and_language_models_add_signs(tools):
    class Model:
        def log_prob(self, texts): return [-float(len(t)) for t in texts]
    class Embedder:
        def embed(self, texts): return np.array([[1., 0.] if "ball" in t else [.6, .8] for t in texts])
    pair = [Pair("0", "v", "k", "a man throws a ball", "a man throws a box or so")]
    table = Signs(tools.references, NamedParser(), NamedParser(), Model(), Embedder()).table(pair).iloc[0]
    assert table["log-probability"] == -5 and table["log-probability of the rest"] == 0
    assert np.isclose(table.similarity, .6) and table["parsers agree"] == 1


def test_signs_do_not_depend_on_the_other_pairs(tools):
    pairs, _ = examples(12)
    alone = pd.concat([tools.table([p]) for p in pairs], ignore_index=True)
    pd.testing.assert_frame_equal(tools.table(pairs), alone[[*tools.table(pairs)]].fillna(0.))


def test_codes_that_follow_a_rule_are_learned_and_rates_are_given(tools):
    pairs, codes = examples(160)
    judge = fit_judge(tools, pairs, codes)
    assert judge.kappas.kappa[0] > .9 and judge.trusted() == [*CODES]
    assert np.isclose(judge.kappas.kappa[0], cohen_kappa(codes, judge.judged))
    fresh = [example(i) for i in range(1000, 1100)]
    found = judged_rates(judge, [p for p, _ in fresh])
    truth = pd.Series([c for _, c in fresh]).value_counts(normalize=True)
    whole = found[found.kind == "all"].groupby("code").apply(lambda t: (t.share*t.n).sum()/t.n.sum())
    assert (whole - truth).abs().max() < .06
    assert {"Judge: rates", "Judge: agreement with coded examples"} <= {*judge_tables(judge, pairs)}
    assert judge.code([]) == []


def test_codes_by_lot_give_no_rates(tools):
    pairs, codes = examples(120)
    judge = fit_judge(tools, pairs, stable_rng(0, "lot").permutation(codes))
    assert abs(judge.kappas.kappa[0]) < .25 and judge.trusted() == [] == judge.trusted("z")
    assert not len(judged_rates(judge, pairs)) and "Judge: rates" not in judge_tables(judge, pairs)
    assert judge_says(judge)[-1].startswith("No rates:")


def test_a_code_below_the_limit_gives_no_rate(tools):
    pairs, codes = examples(160)
    rng = stable_rng(0, "some")
    codes = [str(rng.choice(["N", "K"])) if c in "NK" else c for c in codes] # N and K are drawn by lot, G and T are not
    judge = fit_judge(tools, pairs, codes)
    each = dict(zip(CODES, judge.kappas.kappa[1:]))
    assert each["G"] > FAIR > each["N"] and judge.trusted() in ([], ["G", "T"])
    assert {*judged_rates(judge, pairs).code} == {*judge.trusted()}


def test_generators_without_examples_need_agreement_across_generators(tools):
    pairs, codes = examples(160)
    turned = {"G": "K", "K": "G", "N": "T", "T": "N"} # what is good by one generator is ill-formed by the other
    codes = [turned[c] if p.generator == "y" else c for p, c in zip(pairs, codes)]
    judge = fit_judge(tools, pairs, codes)
    assert judge.kappas_moved.kappa[0] < 0 and judge.trusted("z") == []
    assert not len(judged_rates(judge, [example(5, generator="z")[0]]))
    one = fit_judge(tools, *examples(80, generator="x"))
    assert one.moved == () and one.trusted("x") == [*CODES] and one.trusted("z") == []
    assert any("No rates of generators other than x" in s for s in judge_says(one))


@pytest.mark.parametrize("n, codes, wanted", [(3, "KKK", "two different"), (3, "GK", "3 pairs, 2 codes"),
                                              (0, "", "0 pairs"), (2, "GK", "code more of them")])
def test_too_few_examples_are_refused(tools, n, codes, wanted):
    with pytest.raises(VidnegError, match=wanted): fit_judge(tools, [example(4*i)[0] for i in range(n)], list(codes))


def test_examples_are_read_from_tables_and_sheets(tmp_path):
    pairs, codes = examples(8)
    rows = [dict(caption=p.caption, negative=p.negative, code=c.lower(), generator=p.generator)
            for p, c in zip(pairs, codes)]
    (tmp_path/"rated.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found, read = read_rated(tmp_path/"rated.jsonl")
    assert read == codes and [p.generator for p in found] == [p.generator for p in pairs]
    sheet = draw({"s": pairs}, 8)
    write_sheet(sheet, tmp_path/"review.csv")
    known = {(p.caption, p.negative): (c, p.generator) for p, c in zip(pairs, codes)}
    texts = [*zip(sheet.rows.caption, sheet.rows.negative)]
    sheet.rows.assign(code=[known[t][0] for t in texts]).to_csv(tmp_path/"anna.csv", index=False)
    found, read = read_rated(tmp_path/"anna.csv")
    assert [(c, p.generator) for c, p in zip(read, found)] == [known[t] for t in texts]
    rows[1]["code"], rows[2]["negative"] = "bad", rows[2]["caption"]
    (tmp_path/"rated.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(VidnegError, match="(?s)not one of G, N, T, K: line 2.*must differ: line 3"):
        read_rated(tmp_path/"rated.jsonl")
    (tmp_path/"no.csv").write_text("caption,negative\na,b\n")
    with pytest.raises(VidnegError, match="no column 'code'"): read_rated(tmp_path/"no.csv")


def test_an_audit_shows_the_judge_and_the_review(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs, codes = examples(120)
    pd.DataFrame([vars(p) for p in pairs]).to_csv("mine.csv", index=False)
    pd.DataFrame([vars(p) | dict(code=c) for p, c in zip(pairs, codes)]).to_csv("rated.csv", index=False)
    sheet = draw({"mine": pairs}, 12)
    write_sheet(sheet, "review.csv")
    for who in "ab": sheet.rows.assign(code="K", read_by="person").to_csv(f"{who}.csv", index=False)
    (tmp_path/"texts.txt").write_text("\n".join(TEXTS))
    done = CliRunner().invoke(app, ["audit", "mine.csv", "--no-weights", "--rated", "rated.csv", "--references",
                                    "texts.txt", "--review", "a.csv", "--review", "b.csv"])
    assert done.exit_code == 0, done.output
    assert "reference captions are few" in done.stderr and "the judge agrees with 120 coded examples" in done.stdout
    shown = (tmp_path/"mine-audit.html").read_text()
    for heading in ("Review: rates", "Review: agreement", "Judge: agreement with coded examples"):
        assert f"<h2>{heading}</h2>" in shown
