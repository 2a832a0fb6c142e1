"Reviews: κ against hand-computed values and brute force, sheets that come back, faults of coded sheets, rates."
import csv
import html
import json
import random
import re
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st
from typer.testing import CliRunner

from vidneg.audit.review import (
    CODES,
    COLUMNS,
    Coded,
    Review,
    cohen_kappa,
    confusion,
    disagreements,
    draw,
    find_key,
    join_sheets,
    kappa_table,
    key_file,
    rates,
    rates_table,
    read_coded,
    review_page,
    sheet_page,
    summary,
    write_sheet,
)
from vidneg.audit.validity import rates as plain_rates
from vidneg.cli import app
from vidneg.core.errors import VidnegError
from vidneg.data.pairs import Pair

codes = st.lists(st.sampled_from([*CODES]), min_size=1, max_size=30)


@pytest.mark.parametrize("table, kappa", [
    ([[20, 5], [10, 15]], .4), # the usual textbook example: p = .7, e = .5
    ([[45, 15], [25, 15]], 6/46), ([[25, 35], [5, 35]], 14/54), # same p = .6, other margins: e = .54 and .46
    ([[10, 0], [0, 10]], 1), ([[5, 5], [5, 5]], 0), ([[0, 5], [5, 0]], -1),
    ([[88, 14, 18], [10, 40, 10], [2, 6, 12]], .4915254)]) # Fleiss, Cohen and Everitt (1969): p = .70, e = .41
def test_kappa_equals_values_computed_by_hand(table, kappa):
    pairs = [(a, b) for a, row in enumerate(table) for b, n in enumerate(row) for _ in range(n)]
    assert np.isclose(cohen_kappa(*zip(*pairs)), kappa, atol=1e-6)


@given(codes, st.randoms(use_true_random=False))
def test_kappa_is_symmetric_and_equals_the_expectation_over_shuffled_pairs(first, rng):
    second = [rng.choice([*CODES]) for _ in first]
    agree = np.mean([a == b for a, b in zip(first, second)])
    chance = np.mean([a == b for a, b in product(first, second)]) # every answer of one with every answer of the other
    kappa = cohen_kappa(first, second)
    if chance == 1: assert np.isnan(kappa)
    else: assert np.isclose(kappa, (agree - chance)/(1 - chance))
    assert np.isclose(kappa, cohen_kappa(second, first), equal_nan=True)
    assert confusion(first, second).to_numpy().sum() == len(first)


@given(codes)
def test_perfect_agreement_is_one_and_renamed_codes_change_nothing(first):
    kappa = cohen_kappa(first, first)
    assert np.isnan(kappa) if len({*first}) == 1 else kappa == 1
    second = first[1:] + first[:1]
    renamed = [[f"x{c}" for c in side] for side in (first, second)]
    assert np.isclose(cohen_kappa(first, second), cohen_kappa(*renamed), equal_nan=True)


def test_interval_of_kappa_covers_the_true_value():
    rng, inside = np.random.default_rng(0), 0
    for seed in range(60):
        first = rng.choice([*CODES], 150)
        second = np.where(rng.random(150) < .4, rng.choice([*CODES], 150), first) # κ is .6 in expectation
        row = kappa_table(first, second, np.arange(150), codes=(), n=300, seed=seed).iloc[0]
        inside += row.low <= .6 <= row.high
    assert inside >= 51


def test_interval_of_kappa_is_wider_if_clips_repeat_their_answers():
    rng = np.random.default_rng(1)
    first = rng.choice([*CODES], 60)
    second = np.where(rng.random(60) < .3, rng.choice([*CODES], 60), first)
    alone = kappa_table(first, second, np.arange(60), codes=()).iloc[0]
    again = [np.repeat(side, 4) for side in (first, second)]
    together = kappa_table(*again, np.repeat(np.arange(60), 4), codes=()).iloc[0]
    apart = kappa_table(*again, np.arange(240), codes=()).iloc[0]
    assert np.isclose(alone.kappa, together.kappa) and np.isclose(alone.high - alone.low, together.high - together.low)
    assert apart.high - apart.low < .7*(together.high - together.low)


WORDS = "dog cat horse ball cup box bag tree".split()


def negatives(generator, n, kind="object"):
    return [Pair(f"c{i}/{kind}", f"clip{i//2}", kind, f"a man holds a ball in room {i}",
                 f"a man holds a {WORDS[(i + len(generator)) % 8]} in room {i}", generator) for i in range(n)]


def test_a_sheet_is_blind_random_and_even():
    one = [*negatives("rules", 50), *negatives("lm", 30), *negatives("x", 4)]
    sources = {"one": one, "two": negatives("rules", 40)}
    sheet = draw(sources, 60, seed=3)
    sizes = sheet.key.groupby(["source", "generator"]).size()
    assert sizes["one", "x"] == 4 and sizes.sum() == 60 and sizes.drop(("one", "x")).max() <= 19
    shown = sheet_page(sheet) + sheet.rows.to_csv()
    assert not re.search(r"rules|clip\d|object", shown)
    assert sheet.rows.id.is_unique and {*sheet.key.id} == {*sheet.rows.id}
    assert not sheet.rows.duplicated(["caption", "negative"]).any() and len(sheet.rows) < 60
    both = sheet.key.merge(sheet.rows, on="id", suffixes=("", "_shown"))
    assert (both.negative == both.negative_shown).all() and (both.caption == both.caption_shown).all()


def test_a_draw_depends_on_the_seed_but_not_on_the_order():
    sources = {"one": negatives("rules", 50), "two": negatives("lm", 50)}
    turned = {k: random.Random(0).sample(v, 50) for k, v in reversed(sources.items())}
    a, b, c = draw(sources, 20, 1), draw(turned, 20, 1), draw(sources, 20, 2)
    pd.testing.assert_frame_equal(a.rows, b.rows)
    pd.testing.assert_frame_equal(a.key, b.key)
    assert {*a.key.item} != {*c.key.item}
    of = a.key.groupby("generator").caption.agg(set)
    assert of["rules"] == of["lm"] # generators are compared on the same captions


def test_a_random_sample_favors_no_item():
    counts = np.zeros(30)
    for seed in range(90):
        key = draw({"one": negatives("rules", 30)}, 10, seed).key
        for item in key["item"]: counts[int(item[1:].split("/")[0])] += 1
    assert counts.sum() == 900 and ((counts - 30)**2/30).sum() < 60 # χ² with 29 degrees of freedom


NASTY = ["=1+1", "+a", "-2 dogs, \"big\"", "@SUM(A1)", "'quoted'", "a;b,c\td", "zwei\nZeilen", "naïve café 🎈",
         "<script>alert(1)</script>", "half \ud800 pair", "nul\0 byte", " spaces  inside ", "'=1", "1e5 runs", "–dash"]


def coded(folder, name, values, who="person", **changes):
    "Write a coded copy of a sheet."
    copy = pd.read_csv(folder/"review.csv", encoding="utf-8-sig", dtype=str, keep_default_na=False)
    copy = copy.assign(code=[*values], read_by=who).assign(**changes)
    copy.to_csv(folder/f"{name}.csv", index=False)
    return folder/f"{name}.csv"


def test_nasty_texts_come_back(tmp_path):
    pairs = [Pair(f"c{i}", f"v{i}", "k", f"{a} x", f"{a} y", "g") for i, a in enumerate(NASTY)]
    write_sheet(draw({"s": pairs}), tmp_path/"review.csv")
    raw = (tmp_path/"review.csv").read_bytes().decode("utf-8-sig")
    cells = [cell for row in csv.reader(raw.splitlines(keepends=True)) for cell in row]
    assert not [c for c in cells if c[:1] and c[0] in "=+-@"]
    found, key = read_coded(coded(tmp_path, "a", ["K"]*len(NASTY)))
    assert len(found.codes) == len(NASTY) == len(key)
    shown = (tmp_path/"review.html").read_text()
    assert "<script>alert" not in shown
    data = json.loads(re.search(r'id="sheet">(.*?)</script>', shown, re.S)[1])
    rows = pd.read_csv(tmp_path/"review.csv", encoding="utf-8-sig", dtype=str, keep_default_na=False)
    assert data["columns"] == COLUMNS == [*rows] and len(data["rows"]) == len(rows)
    assert "naïve café 🎈" in html.unescape(shown)


@pytest.mark.parametrize("how", [dict(sep=";"), dict(sep="\t"), dict(encoding="utf-8-sig"),
                                 dict(quoting=csv.QUOTE_ALL)])
def test_spreadsheets_may_write_the_sheet_in_their_way(tmp_path, how):
    write_sheet(draw({"s": negatives("rules", 12)}), tmp_path/"review.csv")
    copy = pd.read_csv(coded(tmp_path, "a", "gntkGNTK kkk".replace(" ", "K")))
    copy = copy.sample(frac=1, random_state=0)[[*COLUMNS[::-1]]].assign(extra="")
    copy.negative = "'" + copy.negative + "  "
    copy.to_csv(tmp_path/"b.csv", index=False, **how)
    assert read_coded(tmp_path/"b.csv")[0].codes == read_coded(tmp_path/"a.csv")[0].codes


def test_every_fault_of_a_coded_sheet_is_named_in_one_error(tmp_path):
    write_sheet(draw({"s": negatives("rules", 12)}), tmp_path/"review.csv")
    table = pd.read_csv(coded(tmp_path, "a", ["K"]*12), dtype=str, keep_default_na=False)
    table.loc[0, "code"], table.loc[1, "code"], table.loc[2, "negative"] = "", "maybe", "a man holds nothing"
    table.loc[3, "id"], table.loc[4, "id"], table.loc[5, "read_by"] = "zzzz0001", table.id[6], "model"
    table.to_csv(tmp_path/"b.csv", index=False)
    with pytest.raises(VidnegError) as e: read_coded(tmp_path/"b.csv")
    said, ids = str(e.value), pd.read_csv(tmp_path/"a.csv").id
    for part in (f"no code: {ids[0]}", f"not one of G, N, T, K: {ids[1]} (maybe)", f"edited: {ids[2]}", "zzzz0001",
                 f"more than once: {ids[6]}", f"row is missing: {ids[3]}, {ids[4]}", "'model' and 'person'"):
        assert part in said, part


@pytest.mark.parametrize("change, wanted", [
    (dict(read_by=""), "read_by is empty"), (dict(read_by="robot"), "read_by is 'robot'"),
    (dict(code=""), "there is no code"), (dict(id=""), r"is not in .*\(empty\)")])
def test_a_single_fault_is_one_line(tmp_path, change, wanted):
    write_sheet(draw({"s": negatives("rules", 3)}), tmp_path/"review.csv")
    copy, key = coded(tmp_path, "a", "KKK", **change), key_file(tmp_path/"review.csv")
    with pytest.raises(VidnegError, match=wanted): read_coded(copy, key)


def test_sheets_and_keys_that_do_not_belong_together_are_refused(tmp_path):
    for name in ("one", "three"):
        (tmp_path/name).mkdir()
        write_sheet(draw({"s": negatives(name, 4)}), tmp_path/name/"review.csv")
    one, two = (coded(tmp_path/name, "a", "KKKK") for name in ("one", "three"))
    with pytest.raises(VidnegError, match="the id is not in .review.key.jsonl"):
        read_coded(one, key_file(tmp_path/"three/review.csv"))
    with pytest.raises(VidnegError, match="given twice"): join_sheets([one, tmp_path/"one/../one/a.csv"])
    with pytest.raises(VidnegError, match="3 sheets"): join_sheets([one]*3)
    (tmp_path/"away").mkdir()
    moved = one.rename(tmp_path/"away/a.csv")
    with pytest.raises(VidnegError, match="name it by --key"): read_coded(moved)
    assert read_coded(moved, key_file(tmp_path/"one/review.csv"))[0].codes
    (tmp_path/"no.csv").write_text("caption,negative\na,b\n")
    with pytest.raises(VidnegError, match="no column 'id'"): read_coded(tmp_path/"no.csv")
    with pytest.raises(VidnegError, match="no column 'source'"): read_coded(two, two)


def test_the_key_is_found_among_others(tmp_path):
    sheets = [draw({"s": negatives("rules", 12)}, n) for n in (4, 8)]
    for k, sheet in enumerate(sheets): write_sheet(sheet, tmp_path/f"r{k}.csv")
    for k, sheet in enumerate(sheets):
        assert find_key(tmp_path/"copy.csv", sheet.name) == key_file(tmp_path/f"r{k}.csv")


def test_nothing_that_exists_is_replaced(tmp_path):
    sheet = draw({"s": negatives("rules", 4)})
    for name in ("review.csv", "review.html", ".review.key.jsonl"):
        (tmp_path/name).write_text("mine")
        with pytest.raises(VidnegError, match="exists"): write_sheet(sheet, tmp_path/"review.csv")
        assert [p.name for p in tmp_path.iterdir()] == [name] and (tmp_path/name).read_text() == "mine"
        (tmp_path/name).unlink()
    with pytest.raises(VidnegError, match="must end in .csv"): write_sheet(sheet, tmp_path/"review.xlsx")


def reviewed(n=80, second=True, seed=0):
    "Return a review of three generators, coded at random."
    rng = np.random.default_rng(seed)
    sheet = draw({"s": [p for g in ("rules", "lm") for k in ("object", "action") for p in negatives(g, n, k)]}, 4*n)
    ids = sheet.rows.id
    sheets = [Coded("a", "model", dict(zip(ids, rng.choice([*CODES], len(ids))))),
              Coded("b", "model", dict(zip(ids, rng.choice([*CODES], len(ids)))))]
    return Review(sheet.key, tuple(sheets[:1 + second]))


def test_rates_of_one_coder_equal_those_of_the_audit():
    review = reviewed(second=False)
    found, own = rates(review), review.codes()
    for (generator, code), part in found.groupby(["generator", "code"]):
        rows = own[own.generator == generator]
        pairs = [Pair(r.item, r.clip_id, r.kind, r.caption, r.negative) for r in rows.itertuples()]
        wanted = plain_rates(rows["first"] == code, pairs).set_index("kind")
        for r in part.itertuples():
            same = wanted.loc[r.kind, ["share", "low", "high", "n"]].astype(float)
            assert np.allclose([r.share, r.low, r.high, r.n], same)


def test_rates_of_two_coders_are_means_and_sum_to_one():
    found = rates(reviewed())
    assert np.allclose(found.share, (found["first"] + found["second"])/2)
    assert np.allclose(found.groupby(["generator", "kind"]).share.sum(), 1)
    assert ((found.low <= found.share) & (found.share <= found.high)).all()
    assert found.groupby("generator").kind.agg(lambda k: [*dict.fromkeys(k)]).map(lambda k: k[-1] == "all").all()
    wide = rates_table(found)
    assert len(wide) == 6 and wide["K good, %"].str.fullmatch(r"[\d.]+ \[[\d.]+, [\d.]+\]").all()
    assert {*rates(reviewed(), ["source", "generator", "kind"]).columns[:3]} == {"source", "generator", "kind"}
    with pytest.raises(VidnegError, match="no column 'color'"): rates(reviewed(), ["color"])


def test_a_text_of_two_generators_counts_once_for_kappa_and_twice_for_rates():
    same = [Pair(f"c{i}", f"v{i}", "k", f"text {i} a", f"text {i} b", g) for g in ("x", "y") for i in range(10)]
    sheet = draw({"s": same}, 20)
    ids = sheet.rows.id
    review = Review(sheet.key, (Coded("a", "person", dict.fromkeys(ids, "K")),
                                Coded("b", "person", dict.fromkeys(ids, "K") | {ids[0]: "N"})))
    assert len(ids) == 10 and review.kappas().n[0] == 10 and rates(review).n.sum() == 2*4*10
    assert len(disagreements(review)) == 1
    assert summary(review)[0].startswith("10 texts of 20 negatives were read by two people")


@pytest.mark.parametrize("seed", range(3))
def test_pages_are_escaped_and_complete(seed):
    review = reviewed(6, seed=seed)
    shown = review_page(review)
    assert shown.count("<h2>") == 4 and "two language models" in shown
    assert len(disagreements(review)) == (review.once()["first"] != review.once()["second"]).sum()


def test_low_and_undefined_agreement_is_said():
    review = reviewed()
    assert summary(review)[-1].startswith("κ is low")
    key = review.key
    constant = Review(key, tuple(Coded(n, "person", dict.fromkeys(key.id, "K")) for n in "ab"))
    assert "undefined" in summary(constant)[-1]
    assert "unknown" in summary(Review(key, constant.sheets[:1]))[-1]


def test_the_command_draws_and_joins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "theirs"):
        frame = pd.DataFrame([vars(p) for p in negatives(name, 20)])
        frame.drop(columns="generator" if name == "mine" else "item").to_csv(f"{name}.csv", index=False)
    def run(*args): return CliRunner().invoke(app, ["review", *args])
    done = run("mine.csv", "theirs.csv", "--n", "20")
    assert done.exit_code == 0 and "20 negatives: review.csv and review.html" in done.stdout, done.output
    key = pd.read_json(".review.key.jsonl", lines=True)
    assert key.generator.value_counts().to_dict() == {"mine": 10, "theirs": 10}
    ids = pd.read_csv("review.csv").id
    for who in "ab": coded(tmp_path, who, ["K"]*(len(ids) - 1) + ["N"])
    done = run("--join", "a.csv", "b.csv", "--by", "source")
    assert done.exit_code == 0 and "Cohen's κ 1.00" in done.stdout and "page: review-rates.html" in done.stdout
    assert re.search(r"mine +0.0 \[", done.stdout) and (tmp_path/"review-rates.html").exists()
    assert isinstance(run("mine.csv").exception, VidnegError)
    assert "must end in .html" in str(run("--join", "a.csv", "b.csv", "-o", "x.csv").exception)
