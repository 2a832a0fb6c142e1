"Blind rankers of one generator on the negatives of another: the cross, its page, and the model of neighboring words."
import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from vidneg.audit import cross as module
from vidneg.audit.blind import RANKERS, Prepared
from vidneg.audit.cross import cross, parts
from vidneg.core.errors import VidnegError
from vidneg.core.records import Caption, Clip
from vidneg.core.seeds import stable_rng
from vidneg.data.pairs import Pair
from vidneg.lm.bigrams import BigramFill
from vidneg.lm.protocols import MASK
from vidneg.negatives.mixed import mixed_generator
from vidneg.negatives.rules import rules_published
from vidneg.report.cross_text import (
    captions_of,
    coverage,
    cross_figure,
    cross_page,
    crossed_generators,
    crossed_pairs,
    gains,
)
from vidneg.text.lexicon import CATEGORIES, Lexicon
from vidneg.text.parse import NamedParser

WORDS = ["dog", "cat", "cow", "pig", "hen"]


def sets(n=200, kinds=("action", "object"), seed=0):
    "Return generators of the same captions: one plants a word, one exchanges words symmetrically, one errs on purpose."
    rng, out = stable_rng(seed, "cross"), {"planted": [], "symmetric": [], "backwards": []}
    for i in range(n):
        a, b = rng.choice(WORDS, 2, replace=False)
        texts = {"planted": (a, "yak"), "symmetric": (a, b), "backwards": ("yak", a)}
        for name, (true, false) in texts.items():
            out[name].append(Pair(f"{i}/{kinds[i % 2]}/0", f"clip{i//2}", kinds[i % 2], f"the {true} of {i}",
                                  f"the {false} of {i}", name))
    return out


def value(table, trained, tested, kind="all"):
    [row] = table[(table.trained == trained) & (table.tested == tested) & (table.kind == kind)].itertuples()
    return row


def test_a_planted_word_is_found_and_a_symmetric_draw_is_at_chance():
    tables = [cross(sets(400, seed=s), rankers=["log-odds", "bag", "bag of the kind"]) for s in range(4)]
    for table in tables:
        found = value(table, "planted", "planted")
        assert found.value == 1 and found.n == 400 and found.low > 0.98
        assert value(table, "planted", "backwards").value == 0 # what it learned holds the other way round
    for trained in ("planted", "symmetric"):
        fair = [value(table, trained, "symmetric") for table in tables]
        assert abs(np.mean([x.value for x in fair]) - 0.5) < 0.05
        assert all(0.08 < x.high - x.low < 0.15 for x in fair) # 2 · 1.96 · √(¼/400) is 0.098


def test_all_cells_and_kinds():
    table = cross(sets(), rankers=["bag"])
    assert [*table.columns] == ["trained", "tested", "kind", "ranker", "value", "low", "high", "n"]
    assert len(table) == 3*3*3 and set(table.kind) == {"action", "object", "all"} and set(table.ranker) == {"bag"}
    wide = table.pivot(index=["trained", "tested"], columns="kind", values="n")
    assert (wide["action"] + wide["object"] == wide["all"]).all() and (wide["all"] == 200).all()
    assert ((table.low <= table.value) & (table.value <= table.high)).all()


def test_each_clip_has_one_use_and_is_tested_once():
    table = Prepared([p for some in sets().values() for p in some])
    clips = np.array([p.clip_id for p in table.pairs])
    tested = Counter()
    for some in parts(table):
        names = [set(clips[part]) for part in some]
        assert sum(map(len, names)) == len(set.union(*names)) == 100
        tested.update(names[2])
    assert set(tested.values()) == {1} and len(tested) == 100


def test_held_clips_are_tested_only(monkeypatch):
    some, held = sets(), {f"clip{k}" for k in range(60, 100)}
    used = []
    @RANKERS.register("spy")
    def spy(table, train, test):
        used.append(({table.pairs[i].clip_id for i in train}, {table.pairs[i].generator for i in train}))
        return np.ones(len(test))
    try: table = cross(some, held, ["spy"])
    finally: del RANKERS["spy"]
    assert all(not clips & held for clips, _ in used) and [g for _, g in used] == [{n} for n in some]
    assert set(table[table.kind == "all"].n) == {80} and (table.value == 1).all()


def test_what_is_held_out_does_not_choose_the_ranker():
    "A ranker that is right on held clips alone is not chosen over one that is right on the others."
    some, held = {"planted": sets()["planted"]}, {f"clip{k}" for k in range(60, 100)}
    def knows(where):
        return lambda table, train, test: np.array(
            [1.0 if (table.pairs[i].clip_id in held) == where else (-1.0)**i for i in test])
    RANKERS["held"], RANKERS["rest"] = knows(True), knows(False)
    try: table = cross(some, held, ["held", "rest"])
    finally:
        for name in ("held", "rest"): del RANKERS[name]
    found = value(table, "planted", "planted")
    assert found.ranker == "rest" and abs(found.value - 0.5) < 0.05


def test_order_does_not_matter():
    some = sets()
    turned = {name: some[name][::-1] for name in some}
    pd.testing.assert_frame_equal(cross(some, rankers=["log-odds", "bag"]), cross(turned, rankers=["log-odds", "bag"]))


@pytest.mark.parametrize("few, held, message", [
    ({"a": [Pair("0", "v", "object", "a dog", "a cat")]}, (), "use more clips"),
    ({"a": sets()["planted"], "b": sets()["symmetric"][:1]}, (), "b has no pairs to fit with"),
    ({}, (), "no pairs to audit")])
def test_too_few(few, held, message):
    with pytest.raises(VidnegError, match=message): cross(few, held, ["bag"])


def test_the_farthest_is_the_farthest_on_either_side():
    won = {"at chance": np.array([1, 0, 1, 0]), "wrong": np.zeros(4), "better": np.array([1, 1, 1, 0])}
    assert module._farthest(won, np.ones(4, bool)) == "wrong"


# The model of neighboring words

def test_bigrams_against_a_count_by_hand():
    lm = BigramFill(["a dog runs", "a dog sits", "a cat runs"], smoothing=0)
    [found] = lm.fill([f"A {MASK} runs."[:-1]])
    # P(dog | a) P(runs | dog) = 2/3 · 1/2 and P(cat | a) P(runs | cat) = 1/3 · 1/1
    assert [w for w, _ in found] == ["cat", "dog"] and all(math.isclose(p, 0.5) for _, p in found)


def test_bigrams_are_probabilities_of_words():
    lm = BigramFill(["a dog runs, and a cat sits.", "the dog's ball rolls"])
    for text in (f"{MASK} dog", f"a {MASK}", f"{MASK}", f"unknown {MASK} words", f"runs{MASK}, and"):
        [found] = lm.fill([text], top_k=50)
        p = [x for _, x in found]
        assert found and p == sorted(p, reverse=True) and 0 < sum(p) <= 1 + 1e-9
        assert all(w.isalpha() for w, _ in found)
    assert len(lm.fill([f"a {MASK}"]*2, top_k=1)[1]) == 1


@pytest.mark.parametrize("call, message", [(lambda: BigramFill(["", "12"]), "no words to count"),
                                           (lambda: BigramFill(["a dog"]).fill(["a dog"]), "0 times, wanted 1")])
def test_bigrams_refuse(call, message):
    with pytest.raises(VidnegError, match=message.replace("[", r"\[")): call()


# The page

TEXTS = ["a man in a red shirt plays a guitar", "a woman opens a big door", "two dogs run on the beach",
         "a boy throws a blue ball to a girl", "a small dog jumps over a fence"]
CAPTIONS = [Caption(f"c{k}", f"v{k}", t) for k, t in enumerate(TEXTS)]


def test_captions_name_their_video():
    clips = [Clip("v_0_5", "v", 0, 5, "test"), Clip("v_5_9", "v", 5, 9, "test"), Clip("w", "w", split="train")]
    captions = [Caption("a", "v_0_5", "a dog"), Caption("b", "v_5_9", "a cat"), Caption("c", "w", "a cow"),
                Caption("d", "v_0_5", " ")]
    found = captions_of(clips, captions, "test", 9)
    assert {c.caption_id for c in found} == {"a", "b"} and {c.clip_id for c in found} == {"v"}
    assert captions_of(clips, captions[::-1], "test", 1) == found[:1]


def test_generators_are_those_of_the_paper_and_ours():
    parser, lm = NamedParser("embedded"), BigramFill(TEXTS)
    made = crossed_generators(CAPTIONS, Lexicon.navero(), lm, parser)
    assert [*made] == ["rules-published", "mixed", "rules-balanced", "natural"]
    assert {name: g.name for name, g in made.items()} == {name: name for name in made}
    assert made["rules-published"].english is None and not made["mixed"].lm.checked
    pairs = crossed_pairs(CAPTIONS, made)
    assert {p.kind for some in pairs.values() for p in some} <= set(CATEGORIES)
    assert "5 captions; with a negative: 100 % published" in coverage(pairs, CAPTIONS)
    again = crossed_pairs(CAPTIONS[::-1], {"mixed": mixed_generator(
        rules_published(Lexicon.navero()), lm, parser, checked=False, unlike=None)})
    assert {p.item: p.negative for p in again["mixed"]} == {p.item: p.negative for p in pairs["mixed"]}


def test_page_and_figure():
    rows = [(d, a, b, kind, "bag", v, v - .02, v + .02, 100) for d in ("msrvtt", "mine") for kind in ("object", "all")
            for a in ("rules-published", "natural") for b, v in (("rules-published", .875), ("natural", .53))]
    table = pd.DataFrame(rows, columns=["dataset", "trained", "tested", "kind", "ranker", "value", "low", "high", "n"])
    said = gains(table)
    assert said[0].startswith("msrvtt: fitted on published negatives, the text alone is 37.5 points above chance")
    assert "gain 14.6 points" in said[0] and "paper" not in said[1]
    page = cross_page(table, ["A note."])
    assert "| mine | natural | 87.5 [85.5, 89.5] | 53.0 [51.0, 55.0] |" in page and "- A note." in page
    assert "| msrvtt | published | natural | object | bag | 53.0 [51.0, 55.0] | 100 |" in page
    figure = cross_figure(table)
    assert [ax.get_title() for ax in figure.axes[:2]] == ["msrvtt", "mine"]
    assert [t.get_text() for t in figure.axes[0].texts[:2]] == ["88", "86–90"]
