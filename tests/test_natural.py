"Natural negatives: classes of words, counts of slots, exchange in both directions, agreement, reasons."
import pickle
from collections import Counter

import numpy as np
import pytest

from vidneg.core.errors import VidnegError
from vidneg.core.records import Caption
from vidneg.negatives.generate import Source, job_of, make_negatives
from vidneg.negatives.natural import (
    NaturalGenerator,
    Option,
    Place,
    balance,
    distinct,
    edits_for,
    exchange,
    natural,
    put,
    unsound,
)
from vidneg.negatives.order import find_orders
from vidneg.text.edits import apply_edit, undo
from vidneg.text.inflection import inflected
from vidneg.text.parse import NamedParser, agreed, load_parser
from vidneg.text.slots import SlotIndex, find_slots, load_contrasts, load_index, save_index

TEXTS = ["A man in a red shirt is playing the guitar on a stage.", "A woman opens the door and walks into the kitchen.",
         "Two boys are kicking a ball on the beach.", "She is sitting on a chair and brushing her hair.",
         "A small dog is running across the field.", "He washes his hands before he cuts the tomatoes.",
         "A lady pours milk into a bowl.", "The girl throws a ball to the dog.", "An old man is riding a bicycle.",
         "A man is standing in front of a car.", "People are dancing on a stage.", "A boy jumps into the pool."]


@pytest.fixture(scope="module")
def parser(): return load_parser("embedded")


@pytest.fixture(scope="module")
def captions(): return [Caption(str(k), f"v{k}", t) for k, t in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def generator(captions): return natural(captions, parser=NamedParser("embedded"))


def places(generator, parser, text):
    return {p.slot.word: p for p in generator.places(parser(text)) if isinstance(p, Place)}


def words(generator, place):
    "Return the replacements of a place."
    q = generator.exchange([place])[0]
    return {w for w, x in zip(generator.index.words[place.slot.contrast], q) if x > 0}


def test_words_of_a_group_never_replace_each_other():
    for c in load_contrasts():
        apart, group = distinct(c), np.array(list(c.group.values()))
        assert (apart == apart.T).all() and not (apart & (group[:, None] == group[None, :])).any()


def test_exchange_is_as_frequent_in_both_directions():
    rng = np.random.default_rng(0)
    for _ in range(20):
        p = rng.dirichlet(np.full(6, 0.5))
        fine, apart = rng.random(6) < 0.8, np.triu(rng.random((6, 6)) < 0.7, 1)
        apart = apart | apart.T
        Q = exchange(np.tile(p, (6, 1)), np.tile(fine, (6, 1)), apart, np.arange(6), 3.0)
        flow = p[:, None]*Q
        assert np.allclose(flow, flow.T) and (Q.sum(1) <= 1 + 1e-9).all()
        assert not Q[~(apart & fine & fine[:, None])].any()


def test_two_words_are_exchanged_by_metropolis():
    Q = exchange(np.array([[0.8, 0.2]]*2), np.ones((2, 2), bool), ~np.eye(2, dtype=bool), np.arange(2))
    assert np.allclose(Q, [[0, 0.25], [1, 0]])


def test_what_replaces_a_word_is_replaced_by_it(generator, parser):
    n = 0
    for text in ("A dog is running on the grass.", "A woman in a black jacket is riding a horse.",
                 "Three people sit at a large table.",
                 "The boy throws the ball into the pool.", "A man plays the piano."):
        for word, place in places(generator, parser, text).items():
            if place.also or place.slot.form not in ("NN", "before", ""): continue
            for new in words(generator, place):
                changed = text.replace(f" {word}", f" {new}")
                back = places(generator, parser, changed)
                if changed == text or new not in back: continue # with a capital; read otherwise
                assert word in words(generator, back[new]), (text, word, new)
                n += 1
    assert n >= 10


def test_edits_can_be_undone_and_do_not_depend_on_the_order(captions, generator):
    made, _ = make_negatives(captions, generator, mode="every")
    again, _ = make_negatives(captions[::-1], generator, mode="every")
    key = lambda n: (n.caption_id, n.kind)
    assert sorted(made, key=key) == sorted(again, key=key)
    assert len(made) >= 4
    for n in made: assert undo(n.text, n.edits) == TEXTS[int(n.caption_id)] != n.text


def test_a_caption_is_no_evidence_for_itself(parser):
    others, own = TEXTS[:-1], TEXTS[-1]
    with_own, without = SlotIndex().add(parser.parse([*others, own])), SlotIndex().add(parser.parse(others))
    for slot in find_slots(parser(own), with_own.contrasts):
        a, b = with_own.chances(slot, own), without.chances(slot, own)
        assert np.allclose(a.p, b.p) and (a.seen == b.seen).all()


def test_counts_survive_a_file_and_add_up(parser, tmp_path):
    index = SlotIndex().add(parser.parse(TEXTS))
    index.add(parser.parse(TEXTS)) # counted before
    again = load_index(save_index(tmp_path/"counts.txt", index, 1, 1))
    assert {k: dict(v) for k, v in again.counts.items()} == {k: dict(v) for k, v in index.counts.items()}


def test_the_shipped_counts_hold_no_sentences():
    shipped = load_index()
    features = Counter(f for c in shipped.counts.values() for f in c)
    assert len(features) > 10_000 and max(len(f.split()) for f in features) == 1


def test_balance_lets_each_word_in_as_often_as_out(parser):
    few = [Caption(str(k), str(k), f"A {who} is {does} a horse.") for k, (who, does) in enumerate(
        [("man", "riding"), ("man", "washing"), ("woman", "riding"), ("man", "pulling"), ("girl", "riding")]*6)]
    sources = [Source(c, p) for c, p in zip(few, parser.parse([c.text for c in few]))]
    generator = balance(NaturalGenerator(load_index(), NamedParser("embedded")), sources)
    found = [p for s in sources for p in generator.places(s.parsed) if isinstance(p, Place) and p.slot.form == "NN"]
    found = [p for p in found if "man" in generator.index.words[p.slot.contrast]]
    q = generator.exchange(found)
    out = np.bincount([p.k for p in found], q.sum(1), q.shape[1])
    assert out.sum() > 3 and np.abs(out - q.sum(0)).max() < 0.5


def test_pronouns_follow_and_two_genders_are_left_alone(generator, parser):
    man = places(generator, parser, "A man is brushing his hair while he sings.")["man"]
    assert [w for _, w in man.also] == ["her", "she"]
    both = places(generator, parser, "A man helps a woman to brush her hair.")
    assert "woman" not in both or not {"man", "boy"} & words(generator, both["woman"])
    assert "man" not in both or not {"woman", "girl", "child"} & words(generator, both["man"])


def test_a_word_that_comes_again_changes_with_the_first(generator, parser):
    found = places(generator, parser, "A man throws the ball to another man.")["man"]
    assert found.also == ((7, ""),) and found.slot.start == 1
    assert not places(generator, parser, "A man throws the ball to the guy.").keys() & {"man", "guy"}


def test_a_boy_for_a_man_keeps_the_pronouns(generator, parser):
    parsed = parser("A man is brushing his hair while he sings.")
    slot = next(x for x in find_slots(parsed, generator.index.contrasts) if x.word == "man")
    option = Option(slot, ("boy", "woman"), np.array([.5, .5]), generator.place(slot, parsed).also)
    def changed(word):
        text = parsed.text
        for e in edits_for(option, word, "NOUN", parsed): text = apply_edit(text, e)
        return text
    assert changed("boy") == "A boy is brushing his hair while he sings."
    assert changed("woman") == "A woman is brushing her hair while she sings."


def test_words_that_can_be_true_at_once_do_not_replace_each_other():
    for c in load_contrasts():
        at = {w: k for k, w in enumerate(c.group)}
        assert not any(distinct(c)[at[a], at[b]] for a, b in c.together)
    people = next(c for c in load_contrasts() if "woman" in c.group)
    assert ("woman", "girl") in people.together and ("man", "boy") not in people.together


def test_two_events_change_places(generator):
    caption = Caption("a", "v", "A man runs and then jumps.")
    made, _ = make_negatives([caption], generator, kinds=("temporal",), mode="every")
    assert [n.text for n in made] in ([], ["A man jumps and then runs."])
    parsed = generator.parse([caption.text])[0]
    assert len(find_orders(parsed)) == 1 and generator.orders.keep(find_orders(parsed)[0]) > 0


def test_a_stream_of_captions_is_enough(captions, generator):
    streamed = natural(iter(captions), parser=NamedParser("embedded"))
    assert dict(streamed.others) == dict(generator.others)
    assert make_negatives(captions, streamed, mode="every") == make_negatives(captions, generator, mode="every")


def test_a_man_and_a_woman_change_places(generator, parser):
    parsed = parser("A man opens the door while a woman sits on the couch.")
    trades = list(generator.swaps(find_slots(parsed, generator.index.contrasts), parsed))
    assert [(o.slot.word, o.words, [w for _, w in o.also]) for _, o in trades] == [("man", ("woman",), ["man"])]
    parsed = parser("A man is dancing with a woman.") # the same if they change places
    assert not list(generator.swaps(find_slots(parsed, generator.index.contrasts), parsed))


@pytest.mark.parametrize("text, reason", [
    ("A man does not open the door.", "negation"), ("A women are dancing on a stage.", "ill-formed caption"),
    ("A man opns the door.", "unknown word"), ("A man opens the the door.", "ill-formed caption"), ("A dog.", "length"),
    ("A man opens the door.", "")])
def test_captions_that_are_not_changed(text, reason, parser): assert unsound(parser(text)) == reason


@pytest.mark.parametrize("old, new, wanted", [
    ("orange", "banana", "He eats a banana."), ("orange", "apple", "He eats an apple."),
    ("He", "she", "She eats an orange.")])
def test_words_are_put_with_article_and_capital(old, new, wanted):
    text = "He eats an orange."
    edit = put(text, text.index(old), text.index(old) + len(old), new)
    assert text[:edit.start] + edit.new + text[edit.end:] == wanted


def test_parsers_that_differ_leave_a_word_alone(parser):
    a = parser("A man walks into the kitchen.")
    k = next(i for i, t in enumerate(a.tokens) if t.text == "walks")
    b = type(a)(a.text, tuple(t._replace(tag="NNS") if i == k else t for i, t in enumerate(a.tokens)), a.noun_chunks)
    assert [t.pos for t in agreed(a, b).tokens] == ["X" if i == k else t.pos for i, t in enumerate(a.tokens)]
    assert agreed(a, a) == a


def test_what_the_other_captions_of_a_clip_say_is_not_used(generator, parser):
    one, other = Caption("a", "v", "A woman in a black jacket is talking."), Caption("b", "v", "Red and blue balls.")
    said = natural([one, other], parser=NamedParser("embedded")).others["v"]
    assert {"red", "blue", "ball"} <= said
    parsed = parser(one.text)
    slot = next(x for x in find_slots(parsed, generator.index.contrasts) if x.word == "black")
    before, after = (words(generator, generator.place(slot, parsed, x)) for x in (frozenset(), said))
    assert {"red", "blue"} <= before and after == before - {"red", "blue"}


def test_a_job_can_be_sent_to_another_process(captions, generator):
    job = pickle.loads(pickle.dumps(job_of(generator, mode="every")))
    here, there = (make_negatives(captions, g, mode="every") for g in (generator, job.generator))
    assert here == there


def test_plurals_of_all_nouns_exist():
    lacking = [w for c in load_contrasts() if c.pos == "NOUN" for w in c.group if not inflected(w, "NNS")]
    assert not lacking


def test_several_rounds_are_refused(captions, generator):
    made, _ = make_negatives(captions, generator)
    assert made and {n.rounds for n in made} == {1}
    with pytest.raises(VidnegError, match="natural makes one change per negative, not 3 rounds"):
        make_negatives(captions, generator, rounds=3)
