"SPOT: captions are true, negatives are false, and they differ only by the manipulation."
import json
import os
import re
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from vidneg.core.errors import VidnegError
from vidneg.core.records import Attribute, Entity, Event, SceneGraph
from vidneg.core.seeds import stable_rng
from vidneg.data.graphs import graph_from_json
from vidneg.data.readers.anetqa import anetqa_graph
from vidneg.negatives.spot.captions import (
    ChatDecorator,
    GrammarDecorator,
    SpotGenerator,
    graph_table,
    make_spot,
    outcome_table,
    type_table,
)
from vidneg.negatives.spot.events import (
    MANIPULATIONS,
    MODES,
    SCHEMES,
    Scheme,
    StatementPair,
    Vocabulary,
    count_vocabulary,
    kinds,
    manipulate,
    manipulations,
    offers,
    state,
)
from vidneg.negatives.spot.faithful import faithful
from vidneg.negatives.spot.grammar import TemplateGrammar
from vidneg.negatives.spot.statements import SpotTuple, Statement, holds, linear
from vidneg.text.edits import undo
from vidneg.world import language
from vidneg.world.oracle import verdict
from vidneg.world.script import WorldConfig, make_clip
from vidneg.world.vocabulary import WorldGrammar, world_meaning

WORLD, GRAMMAR = SCHEMES["world"], GrammarDecorator(WorldGrammar())


@pytest.fixture(scope="module")
def graphs(): return [make_clip("train", i, WorldConfig(seed=3)).graph for i in range(300)]


@pytest.fixture(scope="module", params=[False, True], ids=["published", "balanced"])
def made(graphs, request):
    return make_spot(graphs, SpotGenerator(WORLD, count_vocabulary(graphs, WORLD, request.param, MODES),
                                           GRAMMAR, MODES))


# --- the world: true and false by the oracle --------------------------------------------------------------------------

def test_every_caption_is_true_and_every_negative_false(graphs, made):
    by_id = {g.clip_id: g for g in graphs}
    for pair, caption, negative in zip(made.pairs, made.captions, made.negatives):
        graph = by_id[caption.clip_id]
        assert verdict(caption.text, graph) == "true" and verdict(negative.text, graph) == "false", (caption, negative)
        assert holds(pair.original, graph) and not holds(pair.manipulated, graph, wide=True)
        assert undo(negative.text, negative.edits) == caption.text and negative.caption_id == caption.caption_id
        assert negative.kind == pair.kind


def test_every_kind_and_mode_occurs(made):
    assert {n.kind for n in made.negatives} == set(kinds(WORLD))
    assert {f.mode for f in made.pairs if f.kind == "temporal action"} == set(MODES)
    assert len({c.caption_id for c in made.captions}) == len(made.captions) > 1100
    assert sum(made.counts.values()) == 300*len(kinds(WORLD))
    counted = sum(n for (_, why), n in made.counts.items() if why == "made")
    assert counted == len(made.captions) == sum(made.origins.values())


def without(statement, *fields):
    "Return the tuples with these fields blanked."
    return [replace(t, **{f: None for f in fields}) for t in statement.tuples]


def test_only_what_the_kind_names_is_changed(graphs, made):
    times = "start", "end"
    words = {e.predicate: e.kind for g in graphs for e in g.events}
    for f in made.pairs:
        a, b = f.original, f.manipulated
        if f.mode == "swap_time":
            assert sorted(map(repr, without(a, *times))) == sorted(map(repr, without(b, *times))) and a != b
            assert [(t.start, t.end) for t in a.tuples] == [(t.start, t.end) for t in b.tuples]
        elif f.mode == "swap_predicate":
            assert without(a, "predicate") == without(b, "predicate")
            assert [t.predicate for t in a.tuples] == [t.predicate for t in b.tuples][::-1]
        elif f.mode == "relabel_connective":
            assert a.tuples == b.tuples and {a.order, b.order} == {"before", "while"}
        elif f.mode == "replace_predicate":
            assert without(a, "predicate") == without(b, "predicate")
            assert words[f.old] == words[f.new] == f.type and f.old != f.new
        else:
            both = ("subject_attributes", "object_attributes")
            assert without(a, *both) == without(b, *both)
            said = [[v for t in s.tuples for v in (*t.subject_attributes, *t.object_attributes)] for s in (a, b)]
            changed = [(x, y) for x, y in zip(*said) if x != y]
            assert {k for pair in changed for k, _ in pair} == {f.type} and len(changed) == (1 if f.old else 2)
            if not f.old: assert sorted(said[0]) == sorted(said[1])
        assert all(f.kind.startswith("temporal") or not t.kind == "relation" or "size" not in dict(t.subject_attributes)
                   for t in a.tuples)
        if len(a.tuples) == 2: assert a.tuples[0].kind == a.tuples[1].kind  # the same fine-grained type


def test_events_of_a_statement_are_in_the_graph(graphs, made):
    by_id = {g.clip_id: g for g in graphs}
    for f in made.pairs:
        events = {(e.subject, e.predicate, e.object, e.start, e.end) for e in by_id[f.clip_id].events}
        for t in f.original.tuples:
            if t.predicate != "is": assert (t.subject_id, t.predicate, t.object_id, t.start, t.end) in events


def test_results_do_not_depend_on_other_graphs(graphs):
    vocabulary = count_vocabulary(graphs, WORLD)
    whole = make_spot(graphs[:12], SpotGenerator(WORLD, vocabulary, GRAMMAR))
    parts = [make_spot([g], SpotGenerator(WORLD, vocabulary, GRAMMAR)) for g in graphs[11::-1]]
    assert sorted(whole.negatives, key=repr) == sorted((n for p in parts for n in p.negatives), key=repr)
    assert whole.counts == sum((p.counts for p in parts), Counter())


def test_accept_and_only(graphs):
    vocabulary = count_vocabulary(graphs, WORLD)
    some = make_spot(graphs[:30], SpotGenerator(WORLD, vocabulary, GRAMMAR), kinds=("counterfactual action",),
                     accept=lambda caption, negative: "spin" in caption.text)
    assert some.captions and all("spin" in c.text for c in some.captions)
    assert some.counts["counterfactual action", "rejected"] > 0
    assert {k for k, _ in some.counts} == {"counterfactual action"}
    with pytest.raises(VidnegError, match="no kind neighborhood"):
        make_spot(graphs[:1], SpotGenerator(WORLD, vocabulary, GRAMMAR), kinds=("neighborhood",))
    with pytest.raises(VidnegError, match="no mode 'shuffle'; there are swap_time"):
        make_spot(graphs[:1], SpotGenerator(WORLD, vocabulary, GRAMMAR, ("shuffle",)))


def test_sentences_of_the_world_grammar_parse_to_their_statement(made):
    for f in made.pairs:
        for s in (f.original, f.manipulated):
            meaning = world_meaning(s, f.scene)
            read = language.parse(WorldGrammar().say(s, f.scene, stable_rng(0, "any")))
            plain = lambda m: (m.scene, m.order, [(c.predicate, c.object, c.value) for c in m.clauses],
                               {c.subject for c in m.clauses})
            assert plain(read) == plain(meaning)


# --- style ------------------------------------------------------------------------------------------------------------

def mirrored(f): return replace(f, original=f.manipulated, manipulated=f.original)


@pytest.mark.parametrize("grammar", [WorldGrammar(), TemplateGrammar()], ids=["world", "template"])
def test_the_decorator_treats_caption_and_negative_alike(made, grammar):
    decorate, keys = GrammarDecorator(grammar), [n.caption_id for n in made.negatives]
    pairs, swapped = decorate(made.pairs, keys), decorate([mirrored(f) for f in made.pairs], keys)
    assert [(p.caption, p.negative) for p in pairs] == [(p.negative, p.caption) for p in swapped]


def test_phrasings_are_as_frequent_among_negatives(made):
    "Function words and the position of the scene occur equally often in captions and negatives."
    pairs = [(c.text, n.text) for f, c, n in zip(made.pairs, made.captions, made.negatives)
             if f.mode != "relabel_connective"]
    for marker in (r"^in the", r"in the \w+( \w+)?$", r"\bthere is\b", r"\bis \w+( over)? by\b", r"\bafter\b",
                   r"\bthen\b", r"\bit\b"):
        found = [(bool(re.search(marker, a)), bool(re.search(marker, b))) for a, b in pairs]
        assert any(a for a, _ in found) and all(a == b for a, b in found), marker


# --- manipulations by hand --------------------------------------------------------------------------------------------

def at(start, end): return {"start": start, "end": end}


STREET = graph_from_json({"clip_id": "street", "duration": 12.0, "entities": [
    {"entity_id": "b", "name": "bike", "attributes": [{"kind": "color", "value": "yellow", **at(0, 6)},
                                                      {"kind": "color", "value": "black", **at(6, 12)}]},
    {"entity_id": "p", "name": "person", "attributes": [{"kind": "color", "value": "red"}]},
    {"entity_id": "w", "name": "wall", "attributes": [{"kind": "color", "value": "white"}]}],
    "events": [{"subject": "p", "predicate": "touching", "object": "w", "kind": "contact", **at(0, 3)},
               {"subject": "p", "predicate": "painting", "object": "b", "kind": "contact", **at(7, 9)},
               {"subject": "p", "predicate": "walking", "kind": "action", **at(8, 12)},
               {"subject": "b", "predicate": "parked", "kind": "action", **at(1, 12)},
               {"subject": "b", "predicate": "beside", "object": "w", "kind": "spatial"}]})
QUIET = replace(SCHEMES["activitynet"], mention=0.0)
ALL = {"temporal contact": {"⟨person, painting, bike⟩ before ⟨person, touching, wall⟩",
                            "⟨person, painting, wall⟩ before ⟨person, touching, bike⟩",
                            "⟨person, touching, wall⟩ while ⟨person, painting, bike⟩"},
       "temporal action": set(),  # both at once: "parked before walking" is nearly true, the bike is parked first
       "temporal attribute": {"⟨bike, is, black⟩ before ⟨bike, is, yellow⟩"},
       "neighborhood attribute": {"⟨white person, touching, red wall⟩", "⟨black person, painting, red bike⟩"},
       "counterfactual contact": {"⟨person, painting, wall⟩", "⟨person, holding, wall⟩", "⟨person, touching, bike⟩",
                                  "⟨person, holding, bike⟩"},
       "counterfactual action": {"⟨person, parked⟩", "⟨bike, walking⟩"},
       "counterfactual spatial relationship": {"⟨bike, on, wall⟩"}}


@pytest.mark.parametrize("kind", ALL)
def test_manipulations_by_hand(kind):
    "All possible outcomes are listed by hand."
    vocabulary = count_vocabulary([STREET], QUIET, modes=MODES)
    vocabulary.weights["counterfactual contact", "contact", "with object"]["holding"] = 1
    vocabulary.weights["counterfactual spatial relationship", "spatial", "with object"]["on"] = 1
    change = manipulations(QUIET, modes=MODES)[kind]
    made = [change(STREET, np.random.default_rng(i), vocabulary)[0] for i in range(60)]
    found = {linear(f.manipulated) for f in made if f}
    assert found == ALL[kind]


def test_reasons_of_failures():
    vocabulary, rng = count_vocabulary([STREET], QUIET), np.random.default_rng(0)
    empty = SceneGraph("e", "", (), ())
    assert manipulate(empty, rng, vocabulary, QUIET, "temporal contact") == (None, "nothing of this type")
    assert manipulate(STREET, rng, vocabulary, QUIET, "counterfactual spatial relationship") == (None, "no replacement")
    everything = replace(STREET, events=(*STREET.events, *(replace(e, predicate=p) for e in STREET.events[:2]
                                                            for p in ("painting", "touching"))))
    assert manipulate(everything, rng, vocabulary, QUIET, "counterfactual contact") == (None, "true of the graph")
    alike = count_vocabulary([STREET], QUIET, alike=lambda a, b: True)
    assert manipulate(STREET, rng, alike, QUIET, "counterfactual contact") == (None, "may mean the same")
    slot = ("counterfactual contact", "contact", "with object")
    lone = Vocabulary({slot: {"touching": 99.0, "painting": 0.01}}, balanced=True)
    why = Counter(manipulate(replace(STREET, events=STREET.events[:1]), np.random.default_rng(i), lone, QUIET,
                             "counterfactual contact")[1] for i in range(200))
    assert set(why) <= {"made", "unbalanced"} and why["unbalanced"] > 180


def test_manipulations_depend_only_on_their_arguments(graphs):
    vocabulary = count_vocabulary(graphs, WORLD)
    for change in manipulations(WORLD).values():
        once, again = ([change(g, np.random.default_rng(5), vocabulary) for g in graphs[:20]] for _ in range(2))
        assert once == again


@pytest.mark.parametrize("name", ["activitynet", "moviegraphs"])
def test_kinds_are_named_as_in_the_papers_tables(name):
    first = {"activitynet": "contact", "moviegraphs": "interaction"}[name]
    last = {"activitynet": "spatial relationship", "moviegraphs": "relationship"}[name]
    assert set(kinds(SCHEMES[name])) == {
        f"temporal {first}", "temporal action", "temporal attribute", "neighborhood attribute",
        f"counterfactual {first}", "counterfactual action", "counterfactual attribute", f"counterfactual {last}"}


# --- truth ------------------------------------------------------------------------------------------------------------

def small_graph(rng):
    "Draw a few facts at whole seconds, so that many coincide."
    def pick(*words): return str(rng.choice(words))
    def when():
        start, length = rng.integers(0, 5), rng.integers(1, 4)
        return float(start), float(start + length)
    def colors(): return tuple(Attribute("color", pick("red", "blue"), *when()) for _ in range(rng.integers(0, 4)))
    entities = tuple(Entity(f"e{i}", pick("ball", "box"), colors()) for i in range(rng.integers(1, 4)))
    ids = [e.entity_id for e in entities]
    events = tuple(Event(pick(*ids), "", pick("hit", "roll"), pick("", *ids), "", *when(), "action")
                   for _ in range(rng.integers(0, 5)))
    return SceneGraph("c", "", entities, events)


def claim(rng):
    "Draw a statement in the same few words."
    def pick(*words): return str(rng.choice(words))
    def one():
        if rng.random() < 0.4:
            return SpotTuple(pick("ball", "box"), (), "is", "", (("color", pick("red", "blue")),), 0, 0, "attribute")
        about = (("color", pick("red", "blue")),) if rng.random() < 0.5 else ()
        obj = pick("", "ball", "box")
        what = (("color", pick("red", "blue")),) if obj and rng.random() < 0.3 else ()
        return SpotTuple(pick("ball", "box"), about, pick("hit", "roll"), obj, what, 0, 0, "action")
    a, b, same = one(), one(), rng.random() < 0.5
    if rng.random() < 0.4: return Statement((a,))
    if same: b = replace(b, subject=a.subject, subject_attributes=())
    return Statement((a, b), pick("before", "while"), same)


def true_by_hand(statement, graph):
    "Return strict truth by plain loops over all facts."
    def covers(e, wanted, start, end):
        return all(any((a.kind, a.value) == w and a.start <= start and a.end >= end for a in e.attributes)
                   for w in wanted)
    entities = {e.entity_id: e for e in graph.entities}
    facts = [(e.subject, e.predicate, e.object, e.start, e.end, None) for e in graph.events]
    facts += [(e.entity_id, "is", "", a.start, a.end, a.value) for e in graph.entities for a in e.attributes]
    def fits(t, f, about):
        name = entities[f[2]].name if f[2] else ""
        value = t.object_attributes[0][1] if t.predicate == "is" else None
        return (entities[f[0]].name, f[1], name, f[5]) == (t.subject, t.predicate, t.object, value) and (
            not about or covers(entities[f[0]], t.subject_attributes, f[3], f[4])) and (
            not f[2] or covers(entities[f[2]], t.object_attributes, f[3], f[4]))
    if len(statement.tuples) == 1: return any(fits(statement.tuples[0], f, True) for f in facts)
    a, b = statement.tuples
    for f, g in product(facts, facts):
        if not (fits(a, f, not statement.same) and fits(b, g, not statement.same)): continue
        if statement.order == "before" and f[4] > g[3]: continue
        if statement.order == "while" and (f[3] >= g[4] or g[3] >= f[4] or f == g): continue
        about = {*a.subject_attributes, *b.subject_attributes}
        if not statement.same or f[0] == g[0] and covers(entities[f[0]], about, min(f[3], g[3]), max(f[4], g[4])):
            return True
    return False


def test_strict_truth_equals_plain_loops_and_implies_wide_truth():
    seen = Counter()
    for seed in range(4000):
        rng = np.random.default_rng(seed)
        graph, statement = small_graph(rng), claim(rng)
        strict, wide = holds(statement, graph), holds(statement, graph, wide=True)
        assert strict == true_by_hand(statement, graph) and (wide or not strict), seed
        seen[strict, wide] += 1
    assert len(seen) == 3 and min(seen.values()) > 20


@pytest.mark.parametrize("balanced", [False, True])
def test_on_random_graphs_originals_hold_and_manipulated_do_not(balanced):
    scheme = Scheme("test", {"action": "action"}, {"action": "action"}, ("color",), states=True)
    reasons = Counter()
    for seed in range(150):
        graph = small_graph(np.random.default_rng(seed))
        vocabulary = count_vocabulary([graph], scheme, balanced, MODES)
        for kind in kinds(scheme):
            for o in offers(graph, scheme, kind, MODES):
                assert true_by_hand(state(o, graph, scheme, np.random.default_rng(seed)), graph), seed
            pair, why = manipulate(graph, np.random.default_rng(seed), vocabulary, scheme, kind, MODES)
            assert not pair or true_by_hand(pair.original, graph) and not true_by_hand(pair.manipulated, graph), seed
            reasons[why] += 1
    assert reasons["made"] > 80 and set(reasons) <= {"made", "nothing of this type", "no replacement", "unbalanced",
                                                      "says the same", "true of the graph"}


# --- replacements -----------------------------------------------------------------------------------------------------

def flows(vocabulary, slot, n=4000):
    "Count how often word a is replaced by word b, with originals drawn by their weights."
    weights = vocabulary.weights[slot]
    p, rng, counts = np.array(list(weights.values())), np.random.default_rng(0), Counter()
    for old in rng.choice(list(weights), n, p=p/p.sum()): counts[str(old), vocabulary.draw(slot, str(old), rng)[0]] += 1
    return counts


def test_balanced_replacements_are_exchangeable():
    slot, words = ("k", "color"), {"red": 5.0, "blue": 3.0, "green": 2.0, "pink": 0.5}
    balanced, uniform = (flows(Vocabulary({slot: words}, b), slot) for b in (True, False))
    off = lambda c: sum(abs(c[a, b] - c[b, a]) for a, b in product(words, words) if a < b)/sum(c.values())
    assert off(balanced) < 0.04 < 0.2 < off(uniform)
    assert not any(old == new for old, new in [*balanced, *uniform])
    assert {new for _, new in uniform} == set(words)
    grouped = Vocabulary({slot: words}, True, group=lambda w: "warm" if w in ("red", "pink") else w)
    assert not {("red", "pink"), ("pink", "red")} & set(flows(grouped, slot))


def test_vocabulary_weighs_by_expected_picks(graphs):
    vocabulary = count_vocabulary(graphs[:50], WORLD)
    kind = "counterfactual attribute"
    for word in ("red", "striped"):
        expected = 0.0
        for g in graphs[:50]:
            found = offers(g, WORLD, kind)
            expected += sum(o.old == word for o in found)/len(found) if found else 0
        counted = sum(w.get(word, 0) for slot, w in vocabulary.weights.items() if slot[0] == kind)
        assert counted == pytest.approx(expected)


# --- words ------------------------------------------------------------------------------------------------------------

def spot(subject, predicate, obj="", about=(), what=(), kind="action"):
    return SpotTuple(subject, about, predicate, obj, what, 0.0, 1.0, kind)


def clause(text, t): return text, Statement((t,))


RED, OLD = (("color", "red"),), (("age", "old"),)
PHRASED = [  # the only or the first phrasing
    clause("an orange cat pushes a box", spot("cat", "push", "box", (("color", "orange"),), kind="contact")),
    clause("scissors are on a table", spot("scissors", "on", "table", kind="spatial")),
    clause("red trousers are worn by a man", spot("trousers", "worn by", "man", RED)),
    clause("workers cut branches off a tree", spot("workers", "cut branches off", "tree")),
    clause("two men are walking", spot("two men", "walking")),
    clause("water is in a glass", spot("water", "in", "glass", kind="spatial")),
    clause("Joey, who is old, is the friend of Bianca", spot("Joey", "friend", "Bianca", OLD, kind="relationship")),
    clause("Joey knows by reputation Bianca", spot("Joey", "knows by reputation", "Bianca", kind="relationship")),
    clause("Cecilia is honest", spot("Cecilia", "is", what=(("emotion", "honest"),), kind="attribute")),
    clause("a boy contestant is on a white hill",
           spot("person", "on", "hill", (("age&sex", "boy"), ("occupation", "contestant")), (("color", "white"),),
                "spatial")),
]


@pytest.mark.parametrize("text, statement", PHRASED, ids=[t for t, _ in PHRASED])
def test_templates_by_hand(text, statement):
    assert TemplateGrammar().say(statement, "", np.random.default_rng(0)) == text
    assert faithful(text, statement) == ""


def test_every_phrasing_is_faithful_to_its_statement_only(made):
    "The check accepts all phrasings of a statement and rejects those of its counterpart."
    for f, c, n in zip(made.pairs, made.captions, made.negatives):
        if f.kind == "temporal attribute": continue  # the world's "turns" does not repeat the word "is"
        names = [t.subject for t in f.original.tuples]
        if len(set(names)) < len(names) and not f.original.same: continue  # only attributes distinguish them
        def say(s, i): return TemplateGrammar().say(s, "", np.random.default_rng(i))
        for caption, negative in [(c.text, n.text), *((say(f.original, i), say(f.manipulated, i)) for i in range(2))]:
            assert not faithful(caption, f.original) and not faithful(negative, f.manipulated), (caption, negative)
            assert faithful(caption, f.manipulated) and faithful(negative, f.original), (caption, negative)


MOP = Statement((spot("person", "holding", "mop", RED, (("color", "grey"),), "contact"),))
THEN = Statement((spot("dog", "run"), spot("cat", "sleep")), "before")
TURN = Statement(tuple(spot("bike", "is", what=(("color", c),)) for c in ("yellow", "black")), "before", True)
READ = [
    (MOP, "A red person holds a grey mop.", ""), (MOP, "the grey mop is being held by a red person", ""),
    (MOP, "a person who is red is holding a mop that is grey", ""), (MOP, "a grey mop holds a red person", "parts"),
    (MOP, "a grey person is holding a red mop", "parts"), (MOP, "a red person is washing a grey mop", "parts"),
    (MOP, "a red person is holding a grey broom", "parts"), (MOP, "a red person isn't holding a grey mop", "negation"),
    (MOP, "a red person without a grey mop is holding", "negation"),
    (MOP, "a red person is holding a grey wooden mop", "adds"),
    (MOP, "", "parts"), (MOP, "🧹", "parts"),
    (THEN, "the dog runs before the cat sleeps", ""), (THEN, "the cat sleeps after the dog runs", ""),
    (THEN, "After the dog runs, the cat is sleeping", ""), (THEN, "before the cat sleeps, the dog ran", ""),
    (THEN, "the dog runs and then the cat sleeps", ""), (THEN, "the dog runs after the cat sleeps", "parts"),
    (THEN, "before the dog runs, the cat sleeps", "parts"), (THEN, "the dog runs while the cat sleeps", "parts"),
    (THEN, "the dog runs and the cat sleeps", "parts"), (THEN, "the cat runs before the dog sleeps", "parts"),
    (TURN, "a yellow bike after a while turns black", ""), (TURN, "a bike which is yellow becomes black", ""),
    (TURN, "a black bike after a while turns yellow", "parts"), (TURN, "a yellow bike, after being black", "parts"),
    (TURN, "a yellow car turns black", "parts"),
]


@pytest.mark.parametrize("statement, text, why", READ, ids=[t or "empty" for _, t, _ in READ])
def test_reading_by_hand(statement, text, why):
    assert faithful(text, statement, others=["wooden", "red", "spotted"]).split(" ")[0] == why


class Scripted:
    "A chat model with scripted replies per attempt."
    name = "scripted"
    def __init__(self, *answers): self.answers, self.calls = answers, []
    def chat(self, conversations, temperature=0.0, max_tokens=256, seed=0):
        self.calls.append((temperature, seed, conversations))
        return [self.answers[min(seed, len(self.answers) - 1)](c[-1]["content"]) for c in conversations]


BLUE = replace(MOP, tuples=(replace(MOP.tuples[0], object_attributes=(("color", "blue"),)),))
SWAP = StatementPair("c", "counterfactual attribute", "replace_attribute", MOP, BLUE, "color", "grey", "blue")


def good(said):
    first, second = re.findall("red|grey|blue", said)
    return f"1. A {first} person is holding a {second} mop.\n2) The {first} person holds the {second} mop"


def test_chat_replies_are_used_if_faithful():
    chat = Scripted(good)
    decorate = ChatDecorator(chat, GrammarDecorator(TemplateGrammar()), temperature=0.3)
    made = decorate([SWAP, mirrored(SWAP)]*6, [str(i//2) for i in range(12)])
    assert {m.origin for m in made} == {"chat, attempt 1"} and len(chat.calls) == 1 and chat.calls[0][0] == 0.3
    assert {m.caption for m in made if "grey" in m.caption} == {
        "A red person is holding a grey mop", "The red person holds the grey mop"}
    for m, back in zip(made[::2], made[1::2]):
        assert (m.caption, m.negative) == (back.negative, back.caption)  # both replies give the same sentence
        assert m.negative == m.caption.replace("grey", "blue")
    system, user = chat.calls[0][2][0]
    assert system["role"] == "system" and "please generate 10 sentences" in system["content"]
    assert user == {"role": "user", "content": "red person holding grey mop"}


def test_a_bad_reply_for_one_text_replaces_both():
    bad = Scripted(lambda said: good(said) if "grey" in said else "a person holds something")
    made = ChatDecorator(bad, GrammarDecorator(TemplateGrammar()), attempts=2)([SWAP, mirrored(SWAP)], ["a", "b"])
    assert [m.origin for m in made] == ["grammar after 2"]*2 and [seed for _, seed, _ in bad.calls] == [0, 1]
    assert made[0][:2] == ("a red person is holding a grey mop", "a red person is holding a blue mop")


def test_only_failures_are_retried():
    chat = Scripted(lambda said: "" if "red" in said else said, good)
    cat = Statement((spot("cat", "sleeping"),))
    other = StatementPair("c", "k", "m", cat, Statement((spot("cat", "eating"),)))
    made = ChatDecorator(chat, GrammarDecorator(TemplateGrammar()))([SWAP, other], ["a", "b"])
    assert [m.origin for m in made] == ["chat, attempt 2", "chat, attempt 1"]
    assert [len(c) for _, _, c in chat.calls] == [4, 2]


def test_a_reply_that_states_both_is_refused():
    both = Scripted(lambda said: "a red person is holding a grey mop and a red person is holding a blue mop")
    made = ChatDecorator(both, GrammarDecorator(TemplateGrammar()), attempts=1)([SWAP], ["a"])
    assert made[0].origin == "grammar after 1"




# --- other datasets ---------------------------------------------------------------------------------------------------

def test_sample_of_anetqa():
    if not os.environ.get("VIDNEG_REAL_DATA"): pytest.skip("VIDNEG_REAL_DATA is not set")
    text = (Path(os.environ["VIDNEG_REAL_DATA"])/"anetqa/dataset_README.md").read_text()
    block = next(b for b in re.findall(r"```json\n(.*?)```", text, re.S) if '"objects"' in b)
    block = re.sub(r'("relationships":)\s*\{(.*?)\},(\s*"actions")', r"\1[\2],\3", block, flags=re.S)
    raw = json.loads(re.sub(r",(\s*[}\]])", r"\1", block))["v_onFddYAkyyc"]
    raw["relationships"].pop()  # it names a box that the sample lacks
    graph = anetqa_graph("v_onFddYAkyyc", raw)
    extra = Vocabulary({("counterfactual contact", "contact", "with object"): {"sweeping": 1, "painting": 1},
                        ("counterfactual action", "action", "alone"): {"working": 1, "dancing": 1, "lying": 1},
                        ("counterfactual attribute", "color"): {"grey": 1, "white": 1}})
    scheme = replace(SCHEMES["activitynet"], mention=1.0)
    made = make_spot([graph], SpotGenerator(scheme, extra, GrammarDecorator(TemplateGrammar())))
    assert {n.kind: (c.text, n.text) for c, n in zip(made.captions, made.negatives)} == {
        "counterfactual contact": ("a boy is sweeping a grey bathroom", "a boy is painting a grey bathroom"),
        "counterfactual action": ("a boy is working", "a boy is lying"),
        "counterfactual attribute": ("a boy is sweeping a grey bathroom", "a boy is sweeping a white bathroom")}


def test_a_movie():
    feelings = {"Tommy": [("excited", (0, 5)), ("skeptical", (5, 9))], "Bianca": [("calm", (0, 9))]}
    people = [{"entity_id": n, "name": n, "attributes": [{"kind": "emotion", "value": v, **at(*t)} for v, t in some]}
              for n, some in feelings.items()]
    events = [{"subject": "Tommy", "predicate": p, "object": "Bianca", "kind": k, **at(*t)} for p, k, t in (
        ("talks to", "interaction", (0, 3)), ("hugs", "interaction", (4, 6)), ("friend", "relationship", (0, 9)))]
    other = graph_from_json({
        "clip_id": "o", "entities": [{"entity_id": "x", "name": "Joe"}, {"entity_id": "y", "name": "Ann"}],
        "events": [{"subject": "x", "predicate": "boss", "object": "y", "kind": "relationship"}]})
    movie = graph_from_json({"clip_id": "m", "duration": 9.0, "entities": people, "events": events})
    scheme = replace(SCHEMES["moviegraphs"], mention=0.0)
    vocabulary = count_vocabulary([movie, other], scheme)
    made = make_spot([movie], SpotGenerator(scheme, vocabulary, GrammarDecorator(TemplateGrammar())), per_caption=4)
    texts = {}
    for c, n in zip(made.captions, made.negatives): texts.setdefault(n.kind, set()).add((c.text, n.text))
    assert texts["counterfactual relationship"] == {("Tommy is the friend of Bianca", "Tommy is the boss of Bianca")}
    assert ("Tommy is skeptical", "Tommy is calm") in texts["counterfactual attribute"]
    for text in (t.replace(",", "") for pair in texts["temporal interaction"] for t in pair):
        assert set(text.split()) - {"after", "before", "then"} == {*"Tommy talks to Bianca hugs".split()}
    assert set(texts) == {"temporal interaction", "temporal attribute", "neighborhood attribute",
                          "counterfactual attribute", "counterfactual relationship"}
    assert made.counts["counterfactual interaction", "true of the graph"] == 4  # Tommy does both existing interactions
    assert made.counts["temporal action", "nothing of this type"] == 4


# --- tables -----------------------------------------------------------------------------------------------------------

def test_tables(graphs, made):
    table = graph_table({"world": graphs, "street": [STREET], "none": []})
    assert table.loc["street"].tolist() == [1, 12.0, 3.0, 4.0, 5.0] and table.loc["none", "graphs"] == 0
    assert table.loc["world", "events/graph"] == pytest.approx(np.mean([len(g.events) for g in graphs]))
    types = type_table({"street": [STREET]}).set_index(["of", "type"])
    assert types.loc[("predicate", "contact"), ["words", "uses"]].tolist() == [2, 2]
    assert types.loc[("attribute", "color"), ["words", "uses"]].tolist() == [4, 4]
    outcomes = outcome_table({"s": made})
    assert outcomes["made"].sum() == len(made.negatives) and list(outcomes.columns[:2]) == ["made", "share"]
    for kind, n in Counter(n.kind for n in made.negatives).items():
        assert outcomes.loc[("s", kind), "made"] == n and outcomes.loc[("s", kind), "share"] == pytest.approx(n/300)


def test_registries():
    assert set(MANIPULATIONS) == {"temporal predicate", "temporal attribute", "neighborhood attribute",
                                  "counterfactual predicate", "counterfactual attribute"}
    with pytest.raises(VidnegError, match="no scheme 'vatex'; there are: activitynet, moviegraphs"): SCHEMES["vatex"]
