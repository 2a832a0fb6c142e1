"Questions: answers against a reader that knows only the text and the graph; balance; blind models; AnetQA's files."
import json
import os
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from vidneg.core.errors import VidnegError
from vidneg.core.records import Attribute, Entity, Event, Question, SceneGraph, read_records, write_records
from vidneg.data.questions import KINDS, UNKNOWN, answer_vocabulary, balance, chance
from vidneg.data.readers.anetqa import (
    read_anetqa_answers,
    read_anetqa_questions,
    read_answer_vocabulary,
    write_anetqa_answers,
)
from vidneg.evaluate.answers import above_chance, blind_answers
from vidneg.world.language import ACTIONS, ATTRIBUTES, CONTACTS, RELATIONS
from vidneg.world.questions import TEMPLATES, ask_clip, ask_questions, askable
from vidneg.world.script import WorldConfig, make_clip
from vidneg.world.words import SHAPES

N = 300
WORLD = WorldConfig()
GRAPHS = [make_clip("train", i, WORLD).graph for i in range(N)]
RAW = [q for g in GRAPHS for q in ask_clip(g)]
BALANCED = balance(RAW)
BY_ID = {g.clip_id: g for g in GRAPHS}
KIND_OF = {v: k for k in ("color", "material") for v in ATTRIBUTES[k]}
NAMED = {"color": "color", "pattern": "material"}
ENDS = {"at the beginning of the video": 0, "at the end of the video": 1}


class Reader:
    "A reader of questions, word by word, that returns every answer that the graph allows."
    def __init__(self, text, graph):
        self.words, self.graph, self.at = text.rstrip("?").split(), graph, 0
        self.end = max(a.end for e in graph.entities for a in e.attributes)
        bounds = {a.start for e in graph.entities for a in e.attributes} | {0, self.end}
        self.times = [(a + b)/2 for a, b in zip(sorted(bounds), sorted(bounds)[1:])]
        self.events = [e for e in graph.events if e.kind != "relation"]

    def left(self): return " ".join(self.words[self.at:])

    def take(self, *phrases):
        "Take the longest phrase that comes next; return it, or None."
        for p in sorted(phrases, key=len, reverse=True):
            if (self.left() + " ").startswith(p + " "):
                self.at += len(p.split())
                return p

    def has(self, e, kind, time): return {a.value for a in e.attributes if a.kind == kind and a.start <= time < a.end}

    def name(self):
        "Return the entity of a noun phrase that fits at all times, if no other fits at any time."
        assert self.take("the")
        said = []
        while v := self.take(*KIND_OF): said.append(v)
        noun = self.take(*SHAPES, "thing")
        def fits(e, t): return noun in ("thing", e.name) and all(v in self.has(e, KIND_OF[v], t) for v in said)
        found = [e for e in self.graph.entities if any(fits(e, t) for t in self.times)]
        if self.take("that"):
            does = self.verb(third=True)
            found = [e for e in found if does(e)]
        (entity,) = found
        assert all(fits(entity, t) for t in self.times)
        return entity

    def verb(self, third):
        "Return a function from an entity to its events that the verb phrase describes."
        changes = {"turns": "turn", "becomes": "become"} if third else {"turn": "turn", "become": "become"}
        actions = {v: k for k, v in ACTIONS.items()} if third else {k: k for k in ACTIONS}
        contacts = {v[0]: k for k, v in CONTACTS.items()} if third else {k: k for k in CONTACTS}
        word = self.take(*changes, *actions, *contacts)
        value = self.take(*KIND_OF) if word in changes else None
        obj = self.name().entity_id if word in contacts else None
        predicate = (changes | actions | contacts)[word]
        return lambda e: [d for d in self.events if d.subject == e.entity_id and d.predicate == predicate
                          and obj in (None, d.object) and value in (None, d.object_attribute)]

    def done(self, answers):
        assert not self.left(), self.left()
        return set(answers)

    def relations(self, a, b, end=None):
        pair = ("relation", a.entity_id, b.entity_id)
        found = [e for e in self.graph.events if (e.kind, e.subject, e.object) == pair]
        if end is None: return {e.predicate for e in found}
        return {e.predicate for e in found if (e.start <= 0 if end == 0 else e.end >= self.end - 1e-9)}

    def answers(self):
        if self.take("what does"): return self._what_does()
        if self.take("does"): return self._does()
        if self.take("do"): return self._same()
        if self.take("where is"):
            a = self.name()
            self.take("relative to")
            b, end = self.name(), self.take(*ENDS)
            return self.done(self.relations(a, b, ENDS.get(end)))
        if self.take("is there"):
            self.take("a", "an")
            color, shape = self.take(*ATTRIBUTES["color"]), self.take(*SHAPES)
            return self.done({"yes" if self._ever(color, shape) else "no"})
        if self.take("is"): return self._is()
        self.take("what")
        if named := self.take(*NAMED):
            self.take("is")
            e, end = self.name(), self.take(*ENDS)
            times = self.times if end is None else [self.times[-ENDS[end]]]
            return self.done({v for t in times for v in self.has(e, NAMED[named], t)})
        if self.take("is"): return self.done({self.name().name})
        contact = self.take(*(third for third, _ in CONTACTS.values()))
        e = self.name()
        return self.done({s.name for s in self.graph.entities for d in self.events if d.subject == s.entity_id
                          and CONTACTS.get(d.predicate, ("",))[0] == contact and d.object == e.entity_id})

    def _ever(self, color, shape):
        return any(color in self.has(e, "color", t) for t in self.times for e in self.graph.entities if e.name == shape)

    def _what_does(self):
        e = self.name()
        mine = [d for d in self.events if d.subject == e.entity_id]
        if self.take("do to"):
            o = self.name()
            return self.done(d.predicate for d in mine if d.object == o.entity_id)
        if not self.take("do"):
            contact, names = self.take(*CONTACTS), {x.entity_id: x.name for x in self.graph.entities}
            return self.done(names[d.object] for d in mine if d.predicate == contact)
        if order := self.take("before it", "after it"):
            known = self.verb(third=True)(e)
            assert len(known) == 1
            return self.done(d.predicate for d in mine for k in known
                             if (d.end <= k.start if order == "before it" else d.start >= k.end))
        return self.done(d.predicate for d in mine)

    def _does(self):
        e = self.name()
        first = self.verb(third=False)(e)
        order = self.take("before or after", "before", "after")
        if not order: return self.done({"yes" if first else "no"})
        other = e if self.take("it") else self.name()
        second = self.verb(third=True)(other)
        (a,), (b,) = first, second
        assert a != b and (a.end <= b.start or b.end <= a.start)
        earlier = "before" if a.end <= b.start else "after"
        return self.done({earlier} if order == "before or after" else {"yes" if earlier == order else "no"})

    def _same(self):
        a = self.name()
        self.take("and")
        b = self.name()
        self.take("have the same")
        kind = NAMED[self.take(*NAMED)]
        return self.done("yes" if self.has(a, kind, t) == self.has(b, kind, t) else "no" for t in self.times)

    def _is(self):
        e = self.name()
        if value := self.take(*KIND_OF):
            return self.done("yes" if value in self.has(e, KIND_OF[value], t) else "no" for t in self.times)
        relation = self.take(*RELATIONS)
        return self.done("yes" if r == relation else "no" for r in self.relations(e, self.name()))


def test_exactly_one_answer_is_right():
    assert {q.template for q in RAW} == set(TEMPLATES) and {q.kind for q in RAW} == set(KINDS)
    wrong = [(q, found) for q in RAW if (found := Reader(q.text, BY_ID[q.clip_id]).answers()) != {q.answer}]
    assert not wrong, wrong[:3]


def test_the_reader_disagrees_on_other_clips():
    "The reader does not agree with everything: for most other clips it finds another answer or none."
    def agrees(q, graph):
        try: return Reader(q.text, graph).answers() == {q.answer}
        except (ValueError, AssertionError): return False
    sample = RAW[::97]
    assert sum(agrees(q, GRAPHS[(GRAPHS.index(BY_ID[q.clip_id]) + 1) % N]) for q in sample) < .5*len(sample)


def graph_of(*events, change=()):
    entities = (Entity("a", "star", (Attribute("color", "red", 0., 1. if change else 2.), *change,
                                     Attribute("material", "plain", 0., 2.))),
                Entity("b", "circle", (Attribute("color", "blue", 0., 2.), Attribute("material", "dotted", 0., 2.))))
    return SceneGraph("c", "", entities, events)


def said(graph, name): return {(q.text, q.answer) for q in ask_clip(graph) if q.template == name}


def test_questions_about_a_change_of_color():
    graph = graph_of(Event("a", "", "grow", "", "", 0., 1., "action"),
                     Event("a", "", "turn", "", "blue", 1., 2., "attribute"),
                     change=(Attribute("color", "blue", 1., 2.),))
    ((text, answer),) = said(graph, "do before or after")
    assert text in [f"what does the {n} do before it turns blue?" for n in ("star", "plain star", "plain thing")]
    assert answer == "grow"
    assert {a for _, a in said(graph, "attribute at")} == {"red", "blue"}
    assert Counter(a for _, a in said(graph, "order")) == {"yes": 1, "no": 1}


def test_ambiguous_questions_are_not_asked():
    twice = graph_of(Event("a", "", "grow", "", "", 0., 1., "action"), Event("a", "", "grow", "", "", 1., 2., "action"))
    assert not any(said(twice, t) for t in ("do before or after", "order", "before or after", "do"))
    graph = graph_of(Event("a", "", "push", "b", "", 0., 2., "contact"))
    alike = replace(graph, entities=tuple(replace(e, name="star", attributes=()) for e in graph.entities))
    assert said(graph, "do to") and not said(alike, "do to") and not said(alike, "participant")


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("gh"), st.sampled_from("abcd")), max_size=40), st.randoms())
def test_balance(rows, random):
    questions = [Question(str(i), f"c{i//3}", "?", a, "object", g, g) for i, (g, a) in enumerate(rows)]
    kept = balance(questions, per_clip=100)
    counts = defaultdict(Counter)
    for q in kept: counts[q.group][q.answer] += 1
    for group, c in counts.items():
        assert len(set(c.values())) == 1 and len(c) > 1
        assert all(q.options == tuple(sorted(c)) for q in kept if q.group == group)
        asked = sorted(Counter(a for g, a in rows if g == group).values(), reverse=True)
        best = max(k*asked[k - 1] for k in range(2, len(asked) + 1))
        assert c.total() >= 2/3*best
    assert {q.question_id for q in kept} <= {q.question_id for q in questions}
    shuffled = random.sample(questions, len(questions))
    assert {q.question_id for q in balance(shuffled, per_clip=100)} == {q.question_id for q in kept}


def test_questions_of_a_clip_do_not_depend_on_other_clips():
    alone = {q.question_id: (q.text, q.answer) for q in ask_clip(GRAPHS[7])}
    kept = [q for q in BALANCED if q.clip_id == GRAPHS[7].clip_id]
    assert kept and all(alone[q.question_id] == (q.text, q.answer) for q in kept)
    assert ask_clip(GRAPHS[7], 1) != ask_clip(GRAPHS[7], 0)


def test_frequent_templates_are_subsampled():
    counts, groups = Counter(q.template for q in BALANCED), defaultdict(set)
    for q in BALANCED: groups[q.template] |= {(q.group, q.answer)}
    assert all(n <= max(N, len(groups[t])) for t, n in counts.items())
    assert len(balance(RAW, per_clip=100)) > 1.5*counts.total()


def test_a_blind_model_is_at_chance():
    "The model is cross-fitted over two sets of clips, each balanced separately."
    other = ask_questions(make_clip("test", i, WORLD).graph for i in range(N))
    questions, answers = [*other, *BALANCED], [*blind_answers(BALANCED, other), *blind_answers(other, BALANCED)]
    for kind in KINDS:
        at = [i for i, q in enumerate(questions) if q.kind == kind]
        e = above_chance([questions[i] for i in at], [answers[i] for i in at])
        assert e.low - .01 < 0 < e.high + .01, (kind, e)
    e = above_chance(questions, answers)
    assert e.low < 0 < e.high and abs(e.value) < .02, e


def test_without_balance_a_blind_model_is_above_chance():
    options = {q.group: q.options for q in BALANCED}
    half = {g.clip_id for g in GRAPHS[:N//2]}
    raw = [replace(q, options=options[q.group]) for q in RAW if q.group in options and q.template != "exist"]
    train, test = [q for q in raw if q.clip_id in half], [q for q in raw if q.clip_id not in half]
    assert above_chance(test, blind_answers(train, test)).low > .1


def test_records_survive_a_round_trip(tmp_path):
    questions = ask_questions(GRAPHS[:20])
    assert read_records(write_records(tmp_path/"q.parquet", questions), Question) == questions
    assert 0 < chance(questions) < .5 and set(answer_vocabulary(questions)) == {q.answer for q in questions}


# AnetQA's files

ROW = dict(question="At the beginning of the video, what color is the cat?", answer="white", qa_id="v_m#attrWhat#2",
           video_id="v_m", taxonomy={"question_type": "attrWhat", "question structures": "query",
                                     "question semantics": "attribute", "reasoning skills": ["object-attribute"],
                                     "answer types": "open"})


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_anetqa_questions(tmp_path):
    skills = ROW["taxonomy"] | {"reasoning skills": ["object-attribute", "superlative"],
                                "question semantics": ["attribute"]}
    hidden = {k: v for k, v in ROW.items() if k != "answer"} | {"qa_id": "2", "taxonomy": skills}
    a, b = read_anetqa_questions(write(tmp_path/"qa.json", [ROW, hidden]))
    assert a == Question("v_m#attrWhat#2", "v_m", ROW["question"], "white", "attribute", "attrWhat")
    assert (b.answer, b.kind) == ("", "temporal")


@pytest.mark.parametrize("content, message", [
    ("{", "is not JSON"), ({}, "hold a list"), ([7], "no taxonomy"), ([ROW | {"taxonomy": {}}], "question semantics"),
    ([ROW | {"video_id": 7}], r"\[0\]: video_id"), ([ROW | {"question": " "}], "question"),
    ([ROW, ROW], "twice"), ([ROW | {"answer": ["white"]}], "answer")])
def test_bad_anetqa_questions(tmp_path, content, message):
    with pytest.raises(VidnegError, match=message): read_anetqa_questions(write(tmp_path/"qa.json", content))


@pytest.mark.parametrize("content, message", [
    ([], "dictionary"), ({}, "dictionary"), ({"a": 0, "b": 0}, "each once"), ({"a": 1}, "from 0 to 0"),
    ({"a": "0"}, "numbers"), ({"a": False}, "numbers")])
def test_bad_vocabulary(tmp_path, content, message):
    with pytest.raises(VidnegError, match=message): read_answer_vocabulary(write(tmp_path/"a.json", content))


def test_anetqa_answers(tmp_path):
    answers = {"1": "yes", "2": "café"}
    assert read_anetqa_answers(write_anetqa_answers(tmp_path/"res.json", answers)) == answers
    for bad, message in (([{"question_id": "1"}], "entries"), ([dict(question_id="1", answer="a")]*2, "twice")):
        with pytest.raises(VidnegError, match=message): read_anetqa_answers(write(tmp_path/"bad.json", bad))
    with pytest.raises(VidnegError, match="does not exist"): read_anetqa_answers(tmp_path/"none.json")


def test_real_anetqa_files():
    if not os.environ.get("VIDNEG_REAL_DATA"): pytest.skip("VIDNEG_REAL_DATA is not set")
    folder = Path(os.environ["VIDNEG_REAL_DATA"])/"anetqa"
    answers = read_answer_vocabulary(folder/"anetqa_trainval_ans2label.json")
    assert len(answers) == 12911 and answers[:3] == (UNKNOWN, "yes", "no")
    assert set(read_anetqa_answers(folder/"fake_res.json").values()) == {"red", "yes"}


def test_graphs_with_words_outside_the_world_are_refused():
    assert all(map(askable, GRAPHS))
    graph = GRAPHS[0]
    for other in (replace(graph, events=(replace(graph.events[0], predicate="chew"), *graph.events[1:])),
                  replace(graph, events=(replace(graph.events[0], kind="spatial"),)),
                  replace(graph, entities=(replace(graph.entities[0], name="woman"), *graph.entities[1:]))):
        assert not askable(other)
        with pytest.raises(VidnegError, match="not in the world's words"): ask_clip(other)
