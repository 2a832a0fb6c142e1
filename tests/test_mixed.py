"Negatives by rules, by a language model, and by both in turn: of a kind, undoable, independent of other captions."
import os
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from vidneg.core.errors import VidnegError
from vidneg.core.records import Caption, Edit
from vidneg.core.seeds import stable_rng
from vidneg.lm.protocols import MASK
from vidneg.negatives.aaro import aaro
from vidneg.negatives.generate import Plan, make_negatives, stream_negatives
from vidneg.negatives.mixed import MixedGenerator, attempts
from vidneg.negatives.mlm import (
    REMEMBERED,
    Draft,
    LmEditor,
    category_of,
    edit_of,
    fitting,
    in_turn,
    same_class,
    words_of,
)
from vidneg.negatives.rules import rules_published
from vidneg.text.edits import apply_edit, overlaps, shift, undo
from vidneg.text.lexicon import CATEGORIES, Lexicon, lexicon_named
from vidneg.text.parse import PIPELINE, load_parser
from vidneg.text.synonyms import lemmas
from vidneg.text.ud import Parsed, Token

# word: (lemma, part of speech, tag); enough English for hand-made parses
WORDS = {w: (lemma, pos, tag) for pos, tag, some in (
    ("NOUN", "NN", "man woman dog apple egg house person cave owl"), ("NOUN", "NNS", "dogs:dog men:man owls:owl"),
    ("VERB", "VBZ", "runs:run sleeps:sleep begins:begin eats:eat"), ("VERB", "VBG", "running:run sleeping:sleep"),
    ("ADJ", "JJ", "red old icy big other"), ("ADP", "IN", "in under near of"),
    ("ADV", "RB", "outside quickly upstairs"),
    ("DET", "DT", "a an the"), ("CCONJ", "CC", "and")) for w, _, lemma in (x.partition(":") for x in some.split())
    for lemma in [lemma or w]}


def parse_one(text):
    tokens, at = [], 0
    for i, word in enumerate(text.split()):
        start = text.index(word, at)
        at = start + len(word)
        lemma, pos, tag = WORDS.get(word.lower(), (word.lower(), "X", "FW"))
        tokens.append(Token(word, lemma, pos, tag, "", "dep", i, start, at))
    return Parsed(text, tuple(tokens), ())


def parse(texts): return [parse_one(t) for t in texts]


class Scripted:
    "A language model that fills a gap by the word before it, as scripted, and records its texts."
    name = "scripted"
    def __init__(self, default, **by_word): self.default, self.by_word, self.calls = default, by_word, []
    def fill(self, texts, top_k=20):
        self.calls.append(list(texts))
        assert all(t.count(MASK) == 1 for t in texts)
        words = [self.by_word.get((t.split(MASK)[0].split() or [""])[-1].lower(), self.default) for t in texts]
        return [[(w, 1/(k + 2)) for k, w in enumerate(some[:top_k])] for some in words]


ALL = "woman owl dogs egg sleeps eats running big icy under near outside upstairs house 🙂 ##ing".split()
unchecked = partial(LmEditor, checked=False) # tests/test_usage.py tests the checks
RULES = rules_published(Lexicon.from_lists({
    "noun": ("object", "noun", ["man", "dog", "cat", "fish", "ape"]),
    "action": ("action", "verb", ["run", "eat", "sit"]),
    "color": ("attribute", "", ["red", "blue", "orange"]),
    "relation": ("relation", "", ["in", "in front of", "under"])}), english=None)
LM = unchecked(Scripted(ALL), parse)
BY_NAME = {"rules": MixedGenerator(RULES), "lm": MixedGenerator(lm=LM), "mixed": MixedGenerator(RULES, LM)}
each_generator = pytest.mark.parametrize("generator", BY_NAME.values(), ids=BY_NAME)
sentences = st.lists(st.sampled_from([*WORDS, "zebra", "Man", "A"]), max_size=12).map(" ".join)


def draft(text, key="0", categories=CATEGORIES, name="c"): return Draft(name, text, key, tuple(categories))


def test_categories_follow_parts_of_speech_except_for_light_words():
    found = words_of(parse_one("the old man begins running in a cave of the other dog outside quickly"))
    assert {c: [t.text for t in ts] for c, ts in found.items()} == {
        "action": ["running"], "attribute": ["old"], "relation": ["in", "outside"], "object": ["man", "cave", "dog"]}
    particle = parse_one("man sleeps in").tokens[2]._replace(dep="compound:prt", tag="RP")
    assert category_of(particle) == "" and category_of(particle._replace(dep="case", tag="IN")) == "relation"


@pytest.mark.parametrize("pos,tag", [("NOUN", "NN"), ("VERB", "VB"), ("ADJ", "JJ"), ("ADP", "IN")])
def test_a_single_letter_is_not_a_word(pos, tag):
    "It is neither replaced (the t of 't shirt', which parsers call a noun) nor a replacement."
    letter = Token("t", "t", pos, tag, "", "compound", 1, 2, 3)
    assert category_of(letter) == "" and words_of(Parsed("a t shirt", (letter,), ())) == {}
    word = letter._replace(text="tea", lemma="tea", end=5)
    assert category_of(word) != "" and not same_class(word, Edit(2, 5, "tea", "t"), Parsed("a t shirt", (letter,), ()))


def test_fills_and_parses_are_computed_once():
    asked, scripted = [], Scripted(ALL)
    def noted(texts):
        asked.extend(texts)
        return parse(texts)
    lm, texts = unchecked(scripted, noted), ["the man runs", "a red owl", "the man runs"]
    first = [attempts(MixedGenerator(lm=lm), [draft(t) for t in texts], 3) for _ in range(2)]
    fresh = MixedGenerator(lm=unchecked(Scripted(ALL), parse))
    assert first[0] == first[1] == attempts(fresh, [draft(t) for t in texts], 3)
    filled = [t for call in scripted.calls for t in call]
    assert len(set(asked)) == len(asked) and len(set(filled)) == len(filled) and asked and filled


def test_memory_of_fills_and_parses_is_bounded(monkeypatch):
    monkeypatch.setattr("vidneg.negatives.mlm.REMEMBERED", 5)
    lm = unchecked(Scripted(ALL), parse)
    some = [Caption(f"c{i}", "v", f"the {w} sleeps") for i, w in enumerate(w for w in WORDS if WORDS[w][1] == "NOUN")]
    made = list(stream_negatives(some, MixedGenerator(lm=lm), size=2))
    assert max(len(lm._parses), len(lm._fills)) < 20 and len(some) > 8
    assert made == list(stream_negatives(some, BY_NAME["lm"])) and REMEMBERED > 1000


def test_words_of_skips_parts_of_words_edited_words_and_texts_with_a_gap():
    man = Token("man", "man", "NOUN", "NN", "", "dep", 0, 2, 5)
    shirt = Parsed("t-man runs", (man, *parse_one("t-man runs").tokens[1:]), ())
    assert set(words_of(shirt)) == {"action"}
    assert set(words_of(parse_one("man runs"), spans=[(0, 3)])) == {"action"}
    assert words_of(parse_one("man runs"), ("object",), [(0, 3)]) == {}
    assert words_of(parse_one(f"{MASK} man runs")) == {} == words_of(parse_one("<mask> man runs"))


@pytest.mark.parametrize("word,why", [("man", "itself"), ("Man", "itself, capitalized"), ("men", "its lemma"),
                                      ("##er", "a sub-word"),
                                      ("wo-man", "not only letters"), ("m4n", "not only letters"), ("x", "a letter"),
                                      ("walked", "never a noun"), ("owls", "a plural"),
                                      ("person", "a broader word"), ("front", "light")])
def test_fitting_refuses(word, why):
    man = parse_one("a man").tokens[1]
    assert [w for w, _ in fitting(man, [(word, .5), ("dog", .5)])] == ["dog"], why


def test_fitting_may_keep_synonyms():
    man = parse_one("a man").tokens[1]
    assert fitting(man, [("person", .5)]) == [] and fitting(man, [("person", .5)], unlike=None) == [("person", .5)]


def test_first_or_sampled_by_probability():
    said = [("woman", .6), ("dog", .3), ("owl", .1)]
    assert in_turn(said, stable_rng(0), sample=False) == ["woman", "dog", "owl"]
    orders = [tuple(in_turn(said, stable_rng(0, i))) for i in range(4000)]
    first, pairs = Counter(o[0] for o in orders), Counter(o[:2] for o in orders)
    for word, p in said: assert abs(first[word]/4000 - p) < 4*np.sqrt(p*(1 - p)/4000)
    p = .6*.3/.4 # without replacement: dog after woman
    assert abs(pairs["woman", "dog"]/4000 - p) < 4*np.sqrt(p*(1 - p)/4000)
    assert in_turn([], stable_rng(0)) == [] and sorted(in_turn([("a", 0.0), ("b", 0.0)], stable_rng(0))) == ["a", "b"]


def test_articles_capitals_and_class():
    text = "A man eats an apple"
    man, apple = parse_one(text).tokens[1], parse_one(text).tokens[4]
    owl, dog = edit_of(text, man, "owl"), edit_of(text, apple, "dog")
    assert apply_edit(text, owl) == "An owl eats an apple" and apply_edit(text, dog) == "A man eats a dog"
    assert same_class(man, owl, parse_one("An owl eats an apple"))
    dogs, runs = edit_of(text, man, "dogs"), edit_of(text, man, "runs")
    assert not same_class(man, dogs, parse_one(apply_edit(text, dogs)))
    assert not same_class(man, runs, parse_one(apply_edit(text, runs)))


def test_rejected_by_the_parse_then_the_next_candidate():
    "'running' and 'red' may be nouns but are parsed otherwise; after two failures no check is left."
    lm = unchecked(Scripted(["running", "red", "woman"]), parse, sample=False)
    d = draft("the man", categories=("object",))
    d.rng = stable_rng(0)
    assert lm.edit([d]) == {} and d.text == "the woman" and d.parsed.text == d.text
    d = draft("the man", categories=("object",))
    d.rng = stable_rng(0)
    assert unchecked(lm.fill_mask, parse, checks=2, sample=False).edit([d]) == {0: "other class"}
    assert d.text == "the man"


def test_one_call_per_round_and_equal_texts_once():
    fill = Scripted(ALL)
    drafts = [draft("the man", name=n) for n in "abc"] + [draft("dog runs")]
    attempts(MixedGenerator(lm=unchecked(fill, parse)), drafts, rounds=2)
    assert [len(c) for c in fill.calls][0] == 2 and len(fill.calls) == 2


@pytest.mark.parametrize("text,filled,why", [
    ("zebra", ALL, "no match"), ("the man", ["man", "person"], "no replacement"),
    ("the man", ["dogs", "owls"], "no replacement"), ("the man", ["running", "red"], "other class")])
def test_reasons(text, filled, why):
    assert attempts(MixedGenerator(lm=unchecked(Scripted(filled), parse)), [draft(text)]) == [(None, why)]


def test_coin_is_fair_and_one_generator_replaces_the_other_on_failure():
    rng, generator = range(600), BY_NAME["mixed"]
    rule_words = {"dog", "cat", "fish", "ape"}
    made = [attempts(generator, [draft("the man", name=f"c{i}")])[0][0] for i in rng]
    share = np.mean([n.text.split()[-1] in rule_words for n in made])
    assert abs(share - 0.5) < 4*np.sqrt(.25/600)
    assert all(n.generator == "mixed" for n in made)
    silent = MixedGenerator(RULES, unchecked(Scripted([]), parse))
    # rules stand in for the model, and the model for rules
    assert all(attempts(silent, [draft("the man", name=f"c{i}")])[0][0] for i in range(40))
    assert all(attempts(generator, [draft("the owl", name=f"c{i}")])[0][0] for i in range(40))
    assert attempts(silent, [draft("the owl")]) == [(None, "no replacement")]
    assert attempts(silent, [draft("zebra")]) == [(None, "no match")]
    with pytest.raises(VidnegError, match="rules, a language model, or both"): MixedGenerator()


@each_generator
@settings(max_examples=60)
@given(text=sentences, rounds=st.integers(1, 5), seed=st.integers(0, 99))
def test_undo_gives_the_caption_and_no_word_is_edited_twice(generator, text, rounds, seed):
    (negative, why), = attempts(generator, [draft(text)], rounds, seed)
    if negative is None:
        assert why in ("no match", "no replacement", "other class")
        return
    assert undo(negative.text, negative.edits) == text != negative.text
    assert 1 <= len(negative.edits) <= rounds == negative.rounds and negative.generator == generator.name
    spans, now = [], text
    for e in negative.edits:
        assert not overlaps(e.start, e.end, spans) and now[e.start:e.end] == e.old != e.new
        spans, now = shift(spans, e), apply_edit(now, e)
        assert now != text and now[spans[-1][0]:spans[-1][1]] == e.new
    assert now == negative.text and len(spans) == len(negative.edits)


@settings(max_examples=60)
@given(text=sentences, seed=st.integers(0, 99))
def test_the_model_changes_one_word_into_another_of_its_kind(text, seed):
    (negative, kind), = attempts(BY_NAME["lm"], [draft(text)], 1, seed)
    if negative is None: return
    before, after = parse_one(text).tokens, parse_one(negative.text).tokens
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a.text != b.text and a.pos != "DET"]
    (a, b), = changed
    assert (a.pos, a.tag) == (b.pos, b.tag) and category_of(a) == kind == negative.kind
    assert lemmas(a.text).isdisjoint(lemmas(b.text)) and b.text.isalpha()


@each_generator
@settings(max_examples=25)
@given(texts=st.lists(sentences, max_size=8), shard=st.integers(1, 5), data=st.data())
def test_results_do_not_depend_on_other_captions(generator, texts, shard, data):
    captions = [Caption(f"c{i}", f"v{i}", t) for i, t in enumerate(texts)]
    how = dict(per_caption=2, rounds=2, mode="any")
    whole, _ = make_negatives(captions, generator, **how)
    assert whole == list(stream_negatives(iter(captions), generator, size=shard, **how))
    order = data.draw(st.permutations(captions))
    assert sorted(make_negatives(order, generator, **how)[0], key=str) == sorted(whole, key=str)
    alone = [n for c in captions for n in make_negatives([c], generator, **how)[0]]
    assert alone == whole


@each_generator
@settings(max_examples=40)
@given(texts=st.lists(st.one_of(st.text(max_size=30), sentences), max_size=6),
       mode=st.sampled_from(["each_category", "any"]))
def test_every_outcome_is_counted(generator, texts, mode):
    captions = [Caption(f"c{i}", f"v{i}", t) for i, t in enumerate(texts)]
    made, counts = make_negatives(captions, generator, mode=mode)
    if mode == "any": assert sum(counts.values()) == len(texts)
    assert sum(n for (_, what), n in counts.items() if what == "made") == len(made)
    assert {what for _, what in counts} <= {"made", "no match", "no replacement", "other class", "duplicate"}


def test_categories_take_turns_and_missing_ones_are_counted():
    made, counts = make_negatives([Caption("c", "v", "the red man runs")], BY_NAME["lm"], per_caption=6)
    assert Counter(n.kind for n in made) == {"action": 2, "attribute": 2, "object": 2}
    assert len({n.text for n in made}) == 6 and counts["relation", "no match"] == 1


def test_rules_in_rounds_are_counted_as_rules_are():
    texts = ("a man runs", "the red owl", "zebra", "", "a dog in a cave")
    captions = [Caption(f"c{i}", "v", t) for i, t in enumerate(texts)]
    _, old = make_negatives(captions, RULES)
    _, new = make_negatives(captions, BY_NAME["rules"])
    assert {k: n for k, n in new.items() if k[1] != "made"} == {k: n for k, n in old.items() if k[1] != "made"}
    assert sum(n for k, n in new.items() if k[1] == "made") == sum(n for k, n in old.items() if k[1] == "made") == 3


def test_rejected_negatives_are_redrawn_or_counted():
    ask = partial(make_negatives, [Caption("c", "v", "the man")], BY_NAME["lm"], kinds=("object",), tries=40)
    [made], counts = ask(accept=lambda c, t: t == "the egg")
    assert made.text == "the egg" and counts == {("object", "made"): 1}
    assert ask(accept=lambda c, t: False) == ([], {("object", "rejected"): 1})


@pytest.mark.parametrize("wrong", [dict(mode="all"), dict(rounds=0),
                                   dict(per_caption=0), dict(tries=0)])
def test_plans_are_checked(wrong):
    with pytest.raises(VidnegError): Plan(**wrong)


def test_only_a_shard_is_in_memory():
    taken = 0
    def captions():
        nonlocal taken
        for i in range(10**6):
            taken += 1
            yield Caption(f"c{i}", "v", "the man runs")
    made = stream_negatives(captions(), BY_NAME["lm"], size=10)
    for _ in range(25): next(made)
    assert taken == 30


def test_aaro_has_one_item_per_clip_and_category():
    texts = ("the red man", "zebra", "the dog runs in a cave", "the owl", "a woman sleeps")
    captions = [Caption(f"c{i}", f"v{i//2}", t) for i, t in enumerate(texts)]
    seen = []
    def generator_for(some, category):
        seen.append((category, len(some)))
        return BY_NAME["mixed"]
    items, counts = aaro(captions, generator_for, accept=lambda c, t: "egg" not in t)
    by_id = {c.caption_id: c for c in captions}
    assert all(len(n.edits) == 1 and undo(n.text, n.edits) == by_id[n.caption_id].text for n in items)
    assert all("egg" not in n.text for n in items)
    once = Counter((n.kind, by_id[n.caption_id].clip_id) for n in items)
    assert set(once.values()) == {1} and {k: sum(c == k for c, _ in once) for k in CATEGORIES} == {
        "action": 2, "attribute": 1, "relation": 1, "object": 3}
    assert ("object", 5) in seen and ("object", 3) in seen # once for all offers, once for the chosen captions


STRANGE = ("", " ", "dog", "🙂", "🙂 man", "\x00", "man\x00 runs", "\ud800 man", "собака бежит",
           f"a {MASK} runs", "man "*2000, "\n")


@each_generator
def test_strange_captions_are_counted(generator):
    captions = [Caption(str(i), "v", t) for i, t in enumerate(STRANGE)]
    made, counts = make_negatives(captions, generator, rounds=5, mode="any")
    assert sum(counts.values()) == len(STRANGE) and {"2", "10"} <= {n.caption_id for n in made}
    assert all(undo(n.text, n.edits) == STRANGE[int(n.caption_id)] for n in made)


@pytest.mark.skipif(not PIPELINE.exists(),
                    reason="the pipeline is not there: train it with nbs/text/train_parser.ipynb")
@pytest.mark.parametrize("actions", ["enlarged", "old"])
def test_with_the_pipeline_and_naveros_lists(actions):
    words = "dances dancing woman dogs green purple under near castle quickly".split()
    lm = unchecked(Scripted(words), load_parser().parse)
    generator = MixedGenerator(rules_published(Lexicon.navero(actions), english=None), lm)
    texts = ("a cartoon animal runs through an ice cave in a video game", "A man in a red t-shirt walks.", *STRANGE)
    captions = [Caption(str(i), "v", t) for i, t in enumerate(texts)]
    made, counts = make_negatives(captions, generator, mode="any")
    assert sum(counts.values()) == len(texts) and {"0", "1"} <= {n.caption_id for n in made}
    assert all(undo(n.text, n.edits) == texts[int(n.caption_id)] for n in made)
    assert all("-shirt" in n.text for n in made if n.caption_id == "1")


@pytest.mark.skipif("VIDNEG_REAL_DATA" not in os.environ, reason="VIDNEG_REAL_DATA names no folder with real captions")
def test_on_real_captions():
    import json
    rows = json.loads((Path(os.environ["VIDNEG_REAL_DATA"])/"activitynet_captions/val.json").read_text())
    texts = [s for r in (rows.values() if isinstance(rows, dict) else rows) for s in (r.get("sentences") or [])][:200]
    if not texts: pytest.skip("no sentences found in activitynet_captions/val.json")
    captions = [Caption(str(i), "v", t) for i, t in enumerate(texts)]
    lm = unchecked(Scripted("dances dancing danced woman dogs green under castle".split()), load_parser().parse)
    generator = MixedGenerator(rules_published(lexicon_named("navero"), english=None), lm)
    made, counts = make_negatives(captions, generator, rounds=3, mode="any")
    assert all(undo(n.text, n.edits) == texts[int(n.caption_id)] for n in made)
    assert len(made) > 0.95*len(texts) and sum(counts.values()) == len(texts)
