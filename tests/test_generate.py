"The loop around all generators: external generators, verdicts, counts, shards, processes, and resumed runs."
import pickle
from collections import Counter
from functools import partial

import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st

from vidneg.core.errors import VidnegError
from vidneg.core.records import Caption, Negative, from_table
from vidneg.core.seeds import stable_rng
from vidneg.lm.mlm import CaptionMlm, word_tokenizer
from vidneg.negatives import generate
from vidneg.negatives.aaro import aaro, aaro_tasks, counted
from vidneg.negatives.components.make import ComponentGenerator
from vidneg.negatives.generate import (
    EXHAUSTED,
    GENERATORS,
    REFUSED,
    Job,
    Made,
    Plan,
    Source,
    Task,
    counts_table,
    fill,
    job_of,
    make_all,
    make_negatives,
    shard,
    stream_negatives,
    to_shard,
    with_parses,
)
from vidneg.negatives.mixed import MixedGenerator
from vidneg.negatives.mlm import LmEditor, NamedLm
from vidneg.negatives.rules import rules_published
from vidneg.negatives.spot.captions import GrammarDecorator, SpotGenerator, make_spot
from vidneg.negatives.spot.events import MODES, SCHEMES, count_vocabulary
from vidneg.text.edits import edits_between
from vidneg.text.lexicon import lexicon_named
from vidneg.text.parse import PIPELINE, NamedParser, load_parser
from vidneg.world.script import WorldConfig, captions, make_clip
from vidneg.world.vocabulary import WorldGrammar, world_vocabulary

CONFIG = WorldConfig()
SCRIPTS = [make_clip("train", i, CONFIG) for i in range(6)]
FINE = [c for s in SCRIPTS for c in captions(s, CONFIG) if c.grain == "fine"]
needs_pipeline = pytest.mark.skipif(not PIPELINE.exists(), reason="the pipeline is not there: run the stage `parser`")


class Digits:
    "A generator that replaces one digit by another; its third draw finds nothing more."
    name, kinds, takes, plan, parse = "digits", ("even", "odd"), Caption, Plan(), None
    again = REFUSED | {"the same"}

    def __init__(self): self.asked = []

    def offers(self, sources, kinds):
        return [{k: "" if any(d in s.item.text for d in self.of(k)) else "no digit" for k in kinds} for s in sources]

    def of(self, kind): return "02468" if kind == "even" else "13579"

    def draw(self, requests, plan):
        self.asked.append([r.source.id for r in requests])
        return [self.one(r, plan.seed) for r in requests]

    def one(self, r, seed):
        if r.attempt == 3: return EXHAUSTED
        rng, text = stable_rng(seed, self.name, r.source.id, r.key), r.source.item.text
        kind = r.kinds[rng.integers(len(r.kinds))]
        found = [i for i, d in enumerate(text) if d in self.of(kind)]
        if not found: return "no digit"
        i, new = found[rng.integers(len(found))], str(rng.integers(10))
        changed = text[:i] + new + text[i + 1:]
        if changed == text: return "the same"
        return Made(Negative(r.source.id, changed, kind, self.name, edits_between(text, changed), 1, seed))


def captions_of(texts): return [Caption(f"c{i}", f"v{i}", t) for i, t in enumerate(texts)]


texts = st.lists(st.text("0123 ab", max_size=6), max_size=8).map(captions_of)
plans = st.builds(Plan, st.integers(1, 4), st.integers(1, 2), mode=st.sampled_from(generate.WAYS),
                  seed=st.integers(0, 5), distinct=st.booleans(),
                  tries=st.integers(1, 6), kinds=st.sampled_from([(), ("odd",), ("odd", "even")]))


@settings(max_examples=150, deadline=None)
@given(texts, plans, st.data())
def test_negatives_of_a_caption_do_not_depend_on_the_others(some, plan, data):
    job = Job(Digits(), plan, lambda c, t: "7" not in t)
    made, counts = fill([Source(c) for c in some], job)
    alone = [fill([Source(c)], job) for c in some]
    assert made == [m for some, _ in alone for m in some] and counts == sum((n for _, n in alone), Counter())
    order = data.draw(st.permutations(some))
    assert sorted(fill([Source(c) for c in order], job)[0], key=str) == sorted(made, key=str)


@settings(max_examples=150, deadline=None)
@given(texts, plans)
def test_every_request_is_counted_once(some, plan):
    job = Job(Digits(), plan, lambda c, t: "7" not in t)
    made, counts = fill([Source(c) for c in some], job)
    kinds = len(job.kinds)
    assert plan.way == (plan.mode if plan.mode != "auto" else "any" if plan.rounds > 1 else "each_category")
    if plan.way == "any": assert counts.total() == plan.per_caption*len(some)
    if plan.way == "every": assert counts.total() == plan.per_caption*kinds*len(some)
    assert sum(n for (_, why), n in counts.items() if why == "made") == len(made)
    assert not any("7" in m.negative.text for m in made)
    assert EXHAUSTED not in {why for _, why in counts} and "" not in {why for _, why in counts}
    if plan.distinct: assert len({(m.negative.caption_id, m.negative.text) for m in made}) == len(made)


def test_requests_are_batched_and_tries_are_limited():
    g = Digits()
    make_negatives(captions_of(["1", "2", "none", "3"]), g, mode="any", tries=2, accept=lambda c, t: False)
    assert g.asked[0] == ["c0", "c1", "c2", "c3"] and len(g.asked) == 2 and "c2" not in g.asked[1]


def test_bad_requests_are_refused_before_any_negative_is_made():
    with pytest.raises(VidnegError, match="digits makes no kind prime; there are even, odd"):
        job_of(Digits(), kinds=("prime",))
    with pytest.raises(VidnegError, match="no mode"): job_of(Digits(), mode="all")
    with pytest.raises(VidnegError, match="at least 1"): job_of(Digits(), tries=0)


def test_an_external_generator_is_found_by_name(monkeypatch):
    monkeypatch.setitem(GENERATORS._things, "digits", f"{__name__}:Digits")
    made, counts = make_negatives(captions_of(["a 1 b 2"]), GENERATORS["digits"](), 2)
    assert {n.kind for n in made} == {"even", "odd"} and counts_table(counts).made.sum() == 2


def test_only_one_shard_is_in_memory():
    taken = 0
    def many():
        nonlocal taken
        for i in range(10**6):
            taken += 1
            yield Caption(f"c{i}", "v", "1 2 3")
    made = stream_negatives(many(), Digits(), size=10)
    for _ in range(25): next(made)
    assert taken <= 40


# Shards

def every_task(folder):
    "Make a task for each generator."
    rules, parser = rules_published(lexicon_named("world")), NamedParser()
    CaptionMlm(word_tokenizer([c.text for c in FINE]), width=16, layers=1, heads=2).save(folder)
    lm, graphs, scheme = LmEditor(NamedLm(str(folder)), parser.parse), [s.graph for s in SCRIPTS], SCHEMES["world"]
    both, texts = MixedGenerator(rules, lm), [c.text for c in FINE]
    known = dict(zip(texts, load_parser().parse(texts)))
    balanced = partial(counted, rules="rules-balanced", lexicon=lexicon_named("world"), lm=lm)
    spot = SpotGenerator(scheme, count_vocabulary(graphs, scheme, True, MODES), GrammarDecorator(WorldGrammar()), MODES)
    return {"rules": [Task(job_of(rules, per_caption=3, seed=1), FINE)],
            "mixed": [Task(job_of(both, per_caption=2), FINE[:9], known)],
            "components": [Task(job_of(ComponentGenerator(parser, world_vocabulary())), FINE[:4])],
            "aaro": aaro_tasks(FINE, balanced, parses=known),
            "spot": [Task(job_of(spot), graphs)], "nothing": [Task(job_of(both), [])]}


@pytest.mark.slow
@needs_pipeline
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_results_do_not_depend_on_the_size_of_shards(tmp_path, size):
    tasks = every_task(tmp_path/"lm")
    found = make_all(pickle.loads(pickle.dumps(tasks)), size=size)
    for name, some in tasks.items():
        whole = [fill(with_parses(t.items, t.job.generator, t.parses), t.job) for t in some]
        assert found[name].negatives == [m.negative for made, _ in whole for m in made]
        assert found[name].captions == [m.caption for made, _ in whole for m in made if m.caption]
        assert found[name].counts == sum((n for _, n in whole), Counter())
        assert bool(found[name].negatives) == (name != "nothing")
    spot = make_spot(tasks["spot"][0].items, tasks["spot"][0].job.generator)
    assert (spot.negatives, spot.captions, spot.counts) == found["spot"][:2] + found["spot"][2:]


@needs_pipeline
def test_a_shard_depends_only_on_its_table(tmp_path):
    "An Arrow table gives the same Arrow table in any batches, with or without parses."
    [task] = every_task(tmp_path/"lm")["mixed"]
    table = to_shard(with_parses(task.items, task.job.generator, task.parses), task.job.generator)
    assert table.column_names[-1] == "parse"
    whole, counts = shard(table, task.job)
    parts = [shard(pa.Table.from_batches([b], table.schema), task.job) for b in table.to_batches(4)]
    assert pa.concat_tables([t for t, _ in parts]).equals(whole) and sum((n for _, n in parts), Counter()) == counts
    bare, _ = shard(table.drop_columns("parse"), task.job)
    assert bare.equals(whole) and len(from_table(whole, Negative)) == whole.num_rows > 9


def test_finished_shards_are_not_made_again(tmp_path, monkeypatch):
    tasks = {"rules/all": [Task(job_of(rules_published(lexicon_named("world"))), FINE[:10])]}
    stopped, real = [], generate.shard
    def stops(table, job):
        if len(stopped) == 2: raise KeyboardInterrupt
        stopped.append(table)
        return real(table, job)
    monkeypatch.setattr(generate, "shard", stops)
    with pytest.raises(KeyboardInterrupt): make_all(tasks, size=3, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 and not list(tmp_path.glob(".part*"))
    stopped.clear()
    found = make_all(tasks, size=3, folder=tmp_path) # two shards are left to make
    assert len(stopped) == 2
    monkeypatch.setattr(generate, "shard", None) # no shard is left to make
    assert make_all(tasks, size=3, folder=tmp_path) == found
    monkeypatch.setattr(generate, "shard", real)
    assert make_all(tasks) == found
    other = {"rules/all": [Task(job_of(rules_published(lexicon_named("world")), seed=1), FINE[:10])]}
    assert make_all(other, size=3, folder=tmp_path) != found, "another plan has its own shards"


@pytest.mark.slow
def test_two_processes_make_the_same_negatives():
    tasks = {"rules": [Task(job_of(rules_published(lexicon_named("world")), per_caption=2), FINE)]}
    assert make_all(tasks, workers=2, size=8) == make_all(tasks)


def test_aaro_equals_its_tasks():
    how = dict(generator_for=partial(counted, rules="rules-balanced", lexicon=lexicon_named("world")), seed=2)
    items, counts = aaro(FINE, **how)
    whole = make_all({"aaro": aaro_tasks(FINE, **how)})["aaro"]
    assert (items, counts) == (whole.negatives, whole.counts) and items
