"Sets of negatives: verdicts of the oracle, round trips to disk, pairs for the audit, and rates by hand."
import pickle
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from vidneg.audit.sets import read_set, set_rates
from vidneg.core.records import Caption, Edit, Negative
from vidneg.data.pairs import Pair
from vidneg.negatives.generate import make_negatives
from vidneg.negatives.oracle import Nobody, allows, allows_pair, is_true, is_wrong
from vidneg.negatives.rules import rules_published
from vidneg.negatives.sets import set_file, write_set
from vidneg.text.lexicon import lexicon_named
from vidneg.world.oracle import WorldOracle, states_held_out, verdict
from vidneg.world.script import WorldConfig, captions as world_captions, make_clip

CONFIG = WorldConfig()
SCRIPTS = [make_clip("test", i, CONFIG) for i in range(30)]
CORPUS = [c for s in SCRIPTS for c in world_captions(s, CONFIG) if c.grain == "fine"]
MADE, _ = make_negatives(CORPUS, rules_published(lexicon_named("world")), per_caption=3)
ORACLE = WorldOracle({s.clip_id: s.graph for s in SCRIPTS}, CONFIG)
TEXTS = {c.caption_id: c for c in CORPUS}


@pytest.mark.parametrize("verdicts", [("false",), ("true",), ("false", "outside")])
def test_oracle_decides_which_negatives_are_allowed(verdicts):
    allowed = 0
    for n in MADE:
        c = TEXTS[n.caption_id]
        said = verdict(n.text, ORACLE.graphs[c.clip_id])
        fine = said in verdicts and not states_held_out(n.text, CONFIG)
        allowed += fine
        assert ORACLE.judge(c.clip_id, n.text) == said and allows(ORACLE, c, n.text, verdicts) == fine
        assert allows_pair(ORACLE, c, n.text) == (said == "false" and not states_held_out(n.text, CONFIG))
        pair = Pair("i", c.clip_id, n.kind, c.text, n.text)
        assert is_true(ORACLE, pair) is {"true": True, "false": False}[said] is is_wrong(ORACLE, pair)
        positive = Pair("i", c.clip_id, "positive", c.text, n.text)
        assert is_wrong(ORACLE, positive) is (said == "false")
    assert (allowed > 0) == (verdicts != ("true",)) or allowed < 10


def test_without_an_oracle_everything_is_allowed_and_unknown():
    c, nothing = CORPUS[0], Nobody()
    assert allows(nothing, c, "whatever", ("true",)) and nothing.judge(c.clip_id, c.text) == "outside"
    pair = Pair("i", c.clip_id, "object", c.text, "whatever")
    assert is_true(nothing, pair) is None is is_wrong(nothing, pair)
    few = ORACLE.only({SCRIPTS[0].clip_id, "none"})
    assert list(few.graphs) == [SCRIPTS[0].clip_id] and few.config == CONFIG
    assert not allows(few, Caption("x", SCRIPTS[1].clip_id, ""), SCRIPTS[1].clip_id)


def test_an_oracle_can_be_pickled():
    accept = pickle.loads(pickle.dumps(partial(allows, ORACLE, verdicts=("true",))))
    assert all(accept(c, c.text) for c in CORPUS)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("n", [1, 40, 10_000])
def test_a_set_is_read_back(tmp_path, own, n):
    path = set_file(tmp_path, "test", "rules")
    positives = [Negative(c.caption_id, c.text + " indeed", "positive", "g", (Edit(0, 0, "", ""),), 1, 0)
                 for c in CORPUS]
    write_set(path, MADE + positives, CORPUS if own else None)
    found = read_set("test/rules", path, [] if own else CORPUS, n)
    assert found.captions == CORPUS and found.negatives == MADE
    first = {}
    for m in MADE: first.setdefault((m.caption_id, m.kind), m.text)
    assert {p.item: p.negative for p in found.items} == {"/".join(k): text for k, text in first.items()}
    assert found.measured == min(n, len(first)) and len(found.items) == len(first)
    measured = {p.item for p in found.candidates}
    wanted = [m.text for m in MADE if f"{m.caption_id}/{m.kind}" in measured]
    assert [p.negative for p in found.candidates] == wanted # all candidates, the chosen one first
    assert all(p.caption == TEXTS[p.item.split("/")[0]].text for p in found.candidates)


def test_files_of_train_and_test_differ(tmp_path):
    assert set_file("a", "train", "lm").name == "lm.parquet" and set_file("a", "test", "lm").name == "test-lm.parquet"


some = st.lists(st.tuples(st.integers(0, 7), st.sampled_from(["action", "object", "positive"]),
                          st.sampled_from([True, False, None])), min_size=1, max_size=40)


@settings(max_examples=60)
@given(rows=some, per_clip=st.booleans())
def test_rates_are_counts(rows, per_clip):
    corpus = [Caption(f"c{i}", f"v{i//2}", "a") for i in range(8)]
    made = [Negative(f"c{i}", str(said), kind, "g", (), 1, 0) for i, kind, said in rows]
    table = set_rates(corpus, made, lambda p: {"True": True, "False": False, "None": None}[p.negative],
                      clips=4 if per_clip else 0)
    for r in table.itertuples():
        here = [(i, said) for i, kind, said in rows if r.kind in (kind, "all")]
        known = [said for _, said in here if said is not None]
        owners = {i//2 if per_clip else i for i, _ in here}
        assert r.covered == len(owners)/r.among and r.among == (4 if per_clip else 8)
        assert (r.n, r.unknown) == (len(known), len(here) - len(known))
        assert np.isnan(r.wrong) if not known else r.wrong == pytest.approx(sum(known)/len(known))
    assert table.kind.tolist() == [*sorted({k for _, k, _ in rows}), "all"]
