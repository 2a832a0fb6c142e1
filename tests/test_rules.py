"Rule-based negatives: edits, independence, balance."
import itertools
import json
import os
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

from vidneg.core.errors import VidnegError
from vidneg.core.records import Caption, Negative
from vidneg.core.seeds import stable_rng
from vidneg.negatives.generate import GENERATORS, counts_table, make_negatives
from vidneg.negatives.rules import (
    SlotFrequencies,
    choices,
    rules_balanced,
    rules_published,
    symmetric_joint,
    word_log_odds,
)
from vidneg.text.edits import apply_edit, mark_edits, show_edits, undo
from vidneg.text.lexicon import CATEGORIES, Lexicon

NAVERO = Lexicon.navero()
as_published = partial(rules_published, english=None) # tests/test_usage.py tests the checks
PUBLISHED = as_published(NAVERO)
FIGURE3 = "a cartoon animal runs through an ice cave in a video game"
CAVE = Caption("fig3", "v", FIGURE3)

def captions_of(texts, prefix="c"): return [Caption(f"{prefix}{i}", f"v{i}", t) for i, t in enumerate(texts)]


# A skewed language, with words of several readings and captions that offer different numbers of edits

WORDS = {"color": "red blue green gold amber teal".split(), "material": "wooden gold iron".split(),
         "shape": "star ring apple cross".split(), "action": ["spin", "slide left", "cross", "explode", "cut"],
         "spatial": ["above", "to the left of", "in front of", "in"]}
HOW = {"color": ("attribute", ""), "material": ("attribute", ""), "shape": ("object", "noun"),
       "action": ("action", "verb"), "spatial": ("relation", "")}
TOY = Lexicon.from_lists({slot: (*HOW[slot], words) for slot, words in WORDS.items()}, formal=True)

def toy_corpus(n, skew=.5, seed=0):
    rng = stable_rng(seed, "toy")
    verbs = {e.text: r.surface for e, r in TOY.forms["action", "VBZ"].items()}
    pick = lambda slot: WORDS[slot][min(rng.geometric(skew), len(WORDS[slot])) - 1]
    def phrase():
        words = [pick(slot) for slot, share in [("color", .7), ("material", .3), ("shape", 1)] if rng.random() < share]
        return ("an " if words[0][0] in "aei" else "a ") + " ".join(words)
    sentence = lambda: (f"{phrase()} {verbs[pick('action')]}" if rng.random() < .5 else
                        f"{phrase()} is {pick('spatial')} {phrase()}")
    return captions_of((sentence() for _ in range(n)), f"{seed}-")

TOYS = toy_corpus(60)


# Single negatives

texts = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(
    "A a an An the dog Apple elephants runs was pushed by in front of RED gold Greece light up umbrella . , \n 🎈 狗"
    .split(" ")), max_size=25).map(" ".join))

allowed = st.sampled_from([CATEGORIES, ("action",), ("attribute",), ("object", "relation")])

@settings(deadline=None, max_examples=60)
@given(texts, st.integers(1, 5), st.integers(0, 50), allowed)
def test_undo_gives_the_caption(text, rounds, seed, categories):
    negative = PUBLISHED(text, "c", seed, rounds=rounds, categories=categories)
    assume(negative)
    assert undo(negative.text, negative.edits) == text != negative.text
    assert 1 <= len(negative.edits) <= rounds
    forward = text
    for e in negative.edits:
        assert forward[e.start:e.end] == e.old != e.new
        forward = apply_edit(forward, e)
    assert forward == negative.text
    assert mark_edits(negative, "", "", str) == negative.text

@pytest.mark.parametrize("category", CATEGORIES)
def test_one_category(category):
    negative = PUBLISHED(FIGURE3, "fig3", 0, categories=(category,))
    assert negative.kind == category and len(negative.edits) == 1 == negative.rounds

def test_new_words_are_from_the_slot_and_differ():
    for seed in range(60):
        [edit] = PUBLISHED("the man walks", "c", seed, categories=("action",)).edits
        [r] = [r for r in NAVERO.readings[edit.new] if r.form == "VBZ"]
        assert r.slot == "action" and r.entry.text != "walk"

def test_uniform_over_the_list():
    lexicon = Lexicon.from_lists({"color": ("attribute", "", ["red", "blue", "green", "teal"])})
    drawn = Counter(as_published(lexicon)("red", "c", seed).text for seed in range(3000))
    assert set(drawn) == {"blue", "green", "teal"}
    assert all(abs(n - 1000) < 4*np.sqrt(1000*2/3) for n in drawn.values())

def test_category_is_drawn_uniformly():
    text = "a red blue green dog" # three attributes, one object
    kinds = Counter(PUBLISHED(text, "c", seed).kind for seed in range(1000))
    assert abs(kinds["object"] - 500) < 4*np.sqrt(250)

def test_rounds_prefer_untouched_words():
    for seed in range(30):
        negative = PUBLISHED("a red dog on a sofa", "c", seed, rounds=3)
        assert {e.old.split()[-1] for e in negative.edits} == {"red", "dog", "on"}

def test_rounds_never_return_to_the_caption():
    lexicon = Lexicon.from_lists({"color": ("attribute", "", ["red", "blue"])})
    for seed in range(20): assert as_published(lexicon)("red", "c", seed, rounds=5).text == "blue"

def test_passive_and_article():
    lexicon = Lexicon.from_lists({"contact": ("action", "verb", ["push", "jump over"]),
                                  "shape": ("object", "noun", ["ring", "apple"])})
    g = as_published(lexicon)
    assert g("the ring is pushed by it", "c", 0, categories=("action",)).text == "the ring is jumped over by it"
    [edit] = g("It is a ring.", "c", 0, categories=("object",)).edits
    assert (edit.old, edit.new) == ("a ring", "an apple")

@pytest.mark.parametrize("text", ["", " ", "dog", "🎈", "dog 🎈", "красная собака", "一只狗", "\x00", "dog\x00 red",
                                  "\ud800 dog", "a red dog runs " * 500, "x" * 20000])
@pytest.mark.parametrize("rounds", [1, 5])
def test_odd_captions(text, rounds):
    negative, why = PUBLISHED.attempt(text, "c", 0, rounds)
    assert isinstance(negative, Negative) or why == "no match"
    if negative: assert undo(negative.text, negative.edits) == text


# Many captions

def test_negatives_do_not_depend_on_order_or_other_captions():
    g = as_published(TOY)
    together = make_negatives(TOYS, g, per_caption=3, rounds=2)[0]
    backwards = make_negatives(TOYS[::-1], g, per_caption=3, rounds=2)[0]
    alone = [n for c in TOYS for n in make_negatives([c], g, per_caption=3, rounds=2)[0]]
    assert together == alone and sorted(together, key=str) == sorted(backwards, key=str)

def test_fewer_negatives_are_a_prefix():
    one, four = (make_negatives([CAVE], PUBLISHED, per_caption=k)[0] for k in (1, 4))
    assert four[:1] == one

def test_each_category_once():
    negatives, counts = make_negatives([CAVE], PUBLISHED, per_caption=4)
    assert sorted(n.kind for n in negatives) == sorted(CATEGORIES)
    assert counts == Counter({(c, "made"): 1 for c in CATEGORIES})

def test_several_rounds_draw_their_category_anew():
    text = "a man in a red shirt is giving a quick review on a vehicle in front of a large house"
    one, five = (make_negatives(captions_of([text]*200), PUBLISHED, rounds=r)[0] for r in (1, 5))
    assert {n.kind for n in one} <= {*CATEGORIES} and all(len(n.edits) == 1 for n in one)
    assert sum(n.kind == "mixed" for n in five) > 190 and sum(len(n.edits) == 5 for n in five) > 150
    for mode in ("each_category", "every"): # typed test sets stay in their kind on purpose
        typed, _ = make_negatives(captions_of([text]*20), PUBLISHED, rounds=5, mode=mode)
        assert typed and {n.kind for n in typed} <= {*CATEGORIES} and max(len(n.edits) for n in typed) > 1
    aaro, _ = make_negatives(captions_of([text]*20), PUBLISHED, rounds=5, kinds=("relation",))
    assert {n.kind for n in aaro} == {"relation"}

def test_texts_are_distinct():
    negatives, counts = make_negatives([CAVE], PUBLISHED, per_caption=40)
    assert len({n.text for n in negatives} | {FIGURE3}) == 41
    few = Lexicon.from_lists({"color": ("attribute", "", ["red", "blue", "teal"])})
    negatives, counts = make_negatives(captions_of(["red"]), as_published(few), per_caption=5)
    assert {n.text for n in negatives} == {"blue", "teal"} and counts["attribute", "duplicate"] == 3

def test_every_request_is_counted():
    texts = ["a red dog", "hello", "Egypts", FIGURE3]
    negatives, counts = make_negatives(captions_of(texts), PUBLISHED, per_caption=2, mode="any")
    assert sum(counts.values()) == 8 and counts["any", "no match"] == 4
    made = sum(n for (_, outcome), n in counts.items() if outcome == "made")
    assert made == len(negatives) == counts_table(counts).made.sum()

def test_accept():
    accept = lambda caption, text: caption is CAVE and "runs" not in text
    negatives, counts = make_negatives([CAVE], PUBLISHED, per_caption=4, accept=accept)
    assert [n.kind for n in negatives] == ["action"]
    assert sum(n for (_, why), n in counts.items() if why == "rejected") == 3

@pytest.mark.parametrize("wrong, message", [
    (dict(kinds=("shade",)), "no kind shade"), (dict(mode="all"), "no mode 'all'"),
    (dict(per_caption=0), "at least 1")])
def test_wrong_arguments(wrong, message):
    with pytest.raises(VidnegError, match=message): make_negatives([CAVE], PUBLISHED, **wrong)

def test_registry():
    assert {"rules-published", "rules-checked", "rules-balanced", "lm", "mixed", "components",
            "spot"} <= set(GENERATORS)
    assert all(callable(GENERATORS[name]) for name in GENERATORS)
    with pytest.raises(VidnegError, match="needs frequencies"): GENERATORS["rules-balanced"](NAVERO, None)

def test_show_edits_escapes():
    caption = Caption("c", "v", "a <b>red</b> dog")
    [negative], _ = make_negatives([caption], PUBLISHED, kinds=("object",))
    html = show_edits([negative], [caption]).data
    assert "<mark>" in html and "<b>" not in html


# The symmetric joint

weights = st.lists(st.floats(1e-4, 1), min_size=1, max_size=12)

@settings(deadline=None)
@given(weights, st.data())
def test_joint_is_symmetric(p, data):
    group = data.draw(st.lists(st.integers(0, 4), min_size=len(p), max_size=len(p)))
    S, p, group = symmetric_joint(p, group), np.array(p)/np.sum(p), np.array(group)
    assert (S == S.T).all() and (S >= 0).all() and not S[group[:, None] == group].any()
    assert (S.sum(1) <= p*(1 + 1e-9)).all()
    heaviest = max(p[group == g].sum() for g in group)
    if heaviest < .49: np.testing.assert_allclose(S.sum(1), p, rtol=1e-4)
    if heaviest >= .5: np.testing.assert_allclose(S.sum(), 2*(1 - heaviest), rtol=1e-6, atol=1e-12)

@pytest.mark.parametrize("top", [.49, .4999, .5, .9])
def test_joint_near_the_limit(top):
    p = np.array([top, *np.full(9, (1 - top)/9)])
    assert np.abs(symmetric_joint(p).sum(1) - np.minimum(p, 1 - top)).max() < 1e-3

def test_joint_of_equals_is_uniform():
    np.testing.assert_allclose(symmetric_joint(np.ones(5)), (1 - np.eye(5))/20)


# Balance

def expected_flows(generator, captions, categories):
    "Compute how often each spelling is expected to be replaced and put in, by enumeration."
    out, into = Counter(), Counter()
    for c in captions:
        offered = [o for k in categories if (o := choices(TOY.match(c.text), generator.choice.usable, k))]
        for picks in offered:
            for (_, rs) in picks:
                for r in rs:
                    words, cumulative = generator.choice._rows[r.slot, r.form, r.surface.lower()]
                    for w, q in zip(words, np.diff(cumulative, prepend=0)):
                        out[r.surface] += q/len(offered)/len(picks)/len(rs)
                        into[w.surface] += q/len(offered)/len(picks)/len(rs)
    return out, into

@pytest.mark.parametrize("categories", [CATEGORIES, ("attribute",), ("action", "object")])
@pytest.mark.parametrize("skew", [.3, .5, .8]) # at .8 the first word of each list has to be thinned
def test_words_are_replaced_as_often_as_they_are_put_in(categories, skew):
    captions = toy_corpus(300, skew)
    generator = rules_balanced(TOY, SlotFrequencies.count(captions, TOY, categories))
    out, into = expected_flows(generator, captions, categories)
    assert set(out) == set(into) and len(out) > 5
    for w in out: assert out[w] == pytest.approx(into[w], rel=1e-4), w

def test_thinning_is_counted():
    captions = toy_corpus(400, .8)
    negatives, counts = make_negatives(captions, rules_balanced(TOY, SlotFrequencies.count(captions, TOY)))
    assert counts_table(counts).unbalanced.sum() > 50 and len(negatives) > 50

def test_words_unseen_in_captions_are_never_put_in():
    captions = captions_of(["a red star", "a blue star", "a red ring"]*5)
    generator = rules_balanced(TOY, SlotFrequencies.count(captions, TOY))
    for seed in range(40):
        for c in captions:
            negative = generator(c.text, c.caption_id, seed) # None where red or star is thinned
            assert negative is None or set(negative.text.split()) <= {"a", "red", "blue", "star", "ring"}
    assert generator.attempt("a teal cross", "c", 0) == (None, "no replacement")

def blind_accuracy(train, test):
    "Return the accuracy on `test` of a bag-of-words ranker trained on the (caption, negative) of `train`."
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    words = CountVectorizer(token_pattern=r"\w+").fit([t for pair in train for t in pair])
    def difference(pairs):
        return (words.transform([t for t, _ in pairs]) - words.transform([f for _, f in pairs])).toarray()
    X = difference(train) # (P, W)
    model = LogisticRegression(fit_intercept=False).fit(np.r_[X, -X], np.repeat([1, 0], len(X)))
    return (model.decision_function(difference(test)) > 0).mean()

def pairs_of(name, captions, categories, **kwargs):
    generator = GENERATORS[name](TOY, SlotFrequencies.count(captions, TOY, categories))
    texts = {c.caption_id: c.text for c in captions}
    negatives, _ = make_negatives(captions, generator, kinds=categories, **kwargs)
    return [(texts[n.caption_id], n.text) for n in negatives]

@pytest.mark.parametrize("categories, kwargs", [
    *(((c,), {}) for c in CATEGORIES),
    (CATEGORIES, dict(per_caption=4, distinct=False)), (CATEGORIES, dict(mode="any"))])
def test_balanced_negatives_leave_a_blind_ranker_at_chance(categories, kwargs):
    sets = toy_corpus(1000, seed=1), toy_corpus(1000, seed=2)
    train, test = (pairs_of("rules-balanced", s, categories, **kwargs) for s in sets)
    assert len(test) > 400
    assert abs(blind_accuracy(train, test) - .5) < 1.96*.5/np.sqrt(len(test))
    train, test = (pairs_of("rules-published", s, categories, **kwargs) for s in sets)
    assert blind_accuracy(train, test) > .65

def test_log_odds():
    negative = PUBLISHED("a red dog", "c0", 0, categories=("object",))
    table = word_log_odds(captions_of(["a red dog"]), [negative]).set_index("word")
    assert table.log_odds["red"] == table.log_odds["a"] == 0 < -table.log_odds["dog"]


# Real captions

def real(path):
    root = os.environ.get("VIDNEG_REAL_DATA")
    if not root: pytest.skip("VIDNEG_REAL_DATA is not set")
    return json.loads((Path(root)/path).read_text())

def msrvtt(): return captions_of(r["caption"] for r in real("msrvtt/msrvtt_ret_test1k.json"))

def activitynet():
    videos = real("activitynet_captions/val.json").values()
    return captions_of(itertools.islice((s for v in videos for s in v["sentences"]), 800))

@pytest.mark.parametrize("source, coverage", [(msrvtt, .6), (activitynet, .75)])
@pytest.mark.parametrize("name", ["rules-published", "rules-balanced"])
def test_real_captions(source, coverage, name):
    captions = source()
    generator = GENERATORS[name](NAVERO, SlotFrequencies.count(captions, NAVERO))
    texts = {c.caption_id: c.text for c in captions}
    for settings_ in (dict(per_caption=4), dict(rounds=5, mode="any")):
        negatives, _ = make_negatives(captions, generator, **settings_)
        assert all(undo(n.text, n.edits) == texts[n.caption_id] != n.text for n in negatives)
        assert len({n.caption_id for n in negatives}) > coverage*len(captions)
