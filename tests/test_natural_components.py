"""Component negatives by natural's draws: the right component changes, denials are compared with denials."""
import numpy as np
import pytest

from vidneg.core.records import Caption
from vidneg.negatives.components.natural import (
    NEGATED,
    NaturalComponents,
    component_of,
    deniable,
    denied,
    natural_components,
    replaced,
)
from vidneg.negatives.components.substitutes import CHANGED
from vidneg.negatives.generate import GENERATORS, Source, fill, job_of, make_negatives, stream_made
from vidneg.negatives.natural import Option
from vidneg.text.edits import apply_edit, undo
from vidneg.text.parse import NamedParser, load_parser
from vidneg.text.slots import find_slots
from vidneg.text.syntax import Tree

TEXTS = ["A man plays the guitar on a stage.", "A woman in a red shirt rides a horse.", "A boy kicks a ball in a park.",
         "A girl is sitting on a bench.", "A man cuts the grass.", "The woman puts a white cup on the table.",
         "A man is washing a black car.", "A boy jumps into the pool.", "A dog runs on the beach.",
         "A man in a blue shirt is running on a track.", "A woman opens the door of a red car.",
         "A man picks up a box and puts it on a shelf.", "Two men are standing in a kitchen.", "She is singing loudly."]
CAPTIONS = [Caption(f"c{i}", f"v{i}", t) for i, t in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def generator(): return natural_components(CAPTIONS, parser=NamedParser("embedded"))


def tree(text): return Tree(load_parser().parse([text])[0])


def slot_at(generator, parsed, word):
    slots = find_slots(parsed, generator.natural.index.contrasts)
    return next(s for s in slots if parsed.tokens[s.start].text.lower() == word)


PLAYS, RIDES, STAND = TEXTS[0], TEXTS[1], "Two men are standing in a kitchen."


@pytest.mark.parametrize(("text", "word", "component"), [
    (PLAYS, "man", "subject"), (PLAYS, "guitar", "object"), (PLAYS, "plays", "verb"), (RIDES, "red", "modifier"),
    (RIDES, "shirt", ""), (STAND, "two", "modifier"), (STAND, "kitchen", "object"),
    ("She is singing loudly.", "she", "subject"), ("She is singing loudly.", "loudly", "modifier"),
    ("A boy jumps into the pool.", "pool", "object")])
def test_a_slot_belongs_to_a_component(generator, text, word, component):
    parsed = load_parser().parse([text])[0]
    slot = slot_at(generator, parsed, word)
    option = Option(slot, (slot.word,), np.ones(1))
    assert component_of(option, generator.natural.index.by_name[slot.contrast].pos, Tree(parsed)) == component


def test_words_that_change_places_are_no_component(generator):
    parsed = load_parser().parse(["A man hugs a woman."])[0]
    slot = slot_at(generator, parsed, "man")
    option = Option(slot, ("woman",), np.ones(1), ((4, "man"),))
    assert component_of(option, "NOUN", Tree(parsed)) == ""


def test_what_agrees_with_the_word_changes_with_it(generator):
    parsed = load_parser().parse(["A man washes his car."])[0]
    option = Option(slot_at(generator, parsed, "man"), ("woman",), np.ones(1), ((3, "her"),))
    text = parsed.text
    for e in replaced(generator.natural, parsed, option, "woman"): text = apply_edit(text, e)
    assert text == "A woman washes her car."


def test_negatives_of_the_four_components(generator):
    made, _ = make_negatives(CAPTIONS, generator, mode="every")
    texts = {c.caption_id: c.text for c in CAPTIONS}
    assert len(made) >= 6 and {n.kind for n in made} <= set(CHANGED)
    for n in made:
        assert undo(n.text, n.edits) == texts[n.caption_id] != n.text
        assert not any(w in n.text.split() for w in ("not", "never"))
        assert len(n.text.split()) in range(len(texts[n.caption_id].split()) - 1, len(n.text.split()) + 2)


def test_a_denial_is_made_on_request_only(generator):
    assert generator.plan.kinds == CHANGED and NEGATED in generator.kinds
    assert {m.negative.kind for m in stream_made(CAPTIONS, job_of(generator))} <= set(CHANGED)


def test_a_denial_is_compared_with_a_denial(generator):
    made = list(stream_made(CAPTIONS, job_of(generator, kinds=(NEGATED,))))
    assert made
    for m in made:
        assert m.caption.caption_id == m.negative.caption_id
        assert m.caption.clip_id in {c.clip_id for c in CAPTIONS}
        assert undo(m.negative.text, m.negative.edits) == m.caption.text
        assert [m.caption.text.split().count("not"), m.negative.text.split().count("not")] == [1, 1]


def test_both_denials_have_the_same_voice():
    true, false = tree("A woman rides a horse."), tree("A man rides a horse.")
    assert denied(true, false, 1) == ("A horse is not ridden by a man.", "A horse is not ridden by a woman.")
    assert denied(tree("A boy jumps into the pool."), tree("A girl jumps into the pool."), 1) == (
        "A girl does not jump into the pool.", "A boy does not jump into the pool.")


def test_denials_that_differ_in_more_than_the_word_are_refused():
    assert denied(tree("A woman rides a horse."), tree("A man washes a car."), 1) is None
    assert denied(tree("A woman rides a horse."), tree("A red car."), 5) is None


@pytest.mark.parametrize(("text", "can"), [
    ("A woman rides a horse.", True), ("A boy jumps into the pool.", True),
    ("A woman climbs the ladder and begins to paint.", False), # "and" would not be denied
    ("A man does not wave.", False), ("A red car.", False), ("We see a man on a horse.", False),
    ("A man then waves to the crowd.", False), ("A man who wears a hat waves.", False)])
def test_a_caption_with_one_clause_can_be_denied(text, can): assert deniable(tree(text)) == can


def test_results_do_not_depend_on_the_other_captions(generator):
    def made(some):
        sources = [Source(c, p) for c, p in zip(some, NamedParser().parse([c.text for c in some]))]
        return {m.negative.caption_id: m.negative for m in fill(sources, job_of(generator))[0]}
    whole = made(CAPTIONS)
    for c in CAPTIONS[:5]: assert made([c]).get(c.caption_id) == whole.get(c.caption_id)
    assert made(CAPTIONS[::-1]) == whole


def test_the_registry_knows_the_generator():
    assert GENERATORS["natural-components"] is natural_components
    assert isinstance(natural_components([], parser=NamedParser()), NaturalComponents)
