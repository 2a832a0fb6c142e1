"Word lists, inflection, matching and substitution."
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from vidneg.core.errors import VidnegError
from vidneg.text.lexicon import (
    CATEGORIES,
    LISTS,
    NAVERO_SLOTS,
    Lexicon,
    _read,
    _tokens,
    inflect,
    needs_an,
    read_list,
    substitute,
)

NAVERO = Lexicon.navero()
SIZES = {"action": 273, "action-old": 48, "color": 34, "size": 104,
         "state": 48, "material": 71, "noun": 185, "relation": 50}


def real(path):
    root = os.environ.get("VIDNEG_REAL_DATA")
    if not root: pytest.skip("VIDNEG_REAL_DATA is not set")
    return json.loads((Path(root)/path).read_text())


# The lists

@pytest.mark.parametrize("slot", SIZES)
def test_list_has_all_its_entries(slot):
    entries = read_list(LISTS/f"{slot}.txt")
    assert len(entries) == len(set(entries)) == SIZES[slot]
    assert all(e == e.strip() and "," not in e for e in entries)

def test_lists_and_slots_agree():
    assert {p.stem for p in LISTS.glob("*.txt")} == set(NAVERO_SLOTS) == set(SIZES)
    assert {c for c, _ in NAVERO_SLOTS.values()} == set(CATEGORIES)

def test_first_and_last_entries_of_lists():
    assert (read_list(LISTS/"action.txt")[0], read_list(LISTS/"action.txt")[-1]) == ("spark", "open")
    assert (read_list(LISTS/"noun.txt")[0], read_list(LISTS/"noun.txt")[-1]) == ("actor", "ghost")
    assert "hover over" in read_list(LISTS/"relation.txt") and "Greece" in read_list(LISTS/"noun.txt")
    assert "man-made fibers" in read_list(LISTS/"material.txt")

def test_missing_list():
    with pytest.raises(VidnegError, match="no word list"): read_list(LISTS/"shade.txt")

def test_action_lists():
    slots = lambda which: set(Lexicon.navero(which).slots)
    assert slots("both") == set(SIZES)
    assert slots("both") - slots("old") == {"action"} and slots("both") - slots("enlarged") == {"action-old"}
    assert {r.category for r in Lexicon.navero("old").match("a cat on a mat")[0].readings} == {"action", "relation"}
    with pytest.raises(VidnegError, match="enlarged, old, both"): Lexicon.navero("larger")

@pytest.mark.parametrize("lists, message", [
    ({"color": ("shade", "", ["red"])}, "no category 'shade'"),
    ({"color": ("attribute", "adjective", ["red"])}, "inflect is 'adjective'"),
    ({"color": ("attribute", "", ["red", " "])}, "empty entry")])
def test_wrong_lists(lists, message):
    with pytest.raises(VidnegError, match=message): Lexicon.from_lists(lists)


# Forms

@pytest.mark.parametrize("text, forms", [
    ("run", "run runs running ran run"), ("slide left", "slide left,slides left,sliding left,slid left,slid left"),
    ("fast forward", "fast forward,fast forwards,fast forwarding,fast forwarded,fast forwarded"),
    ("tie", "tie ties tying tied tied"), ("jump over", "jump over,jumps over,jumping over,jumped over,jumped over"),
    ("light up", "light up,lights up,lighting up,lit up,lit up"), ("cut", "cut cuts cutting cut cut")])
def test_verbs(text, forms):
    assert [f[0] for f in inflect(text, "verb").values()] == forms.split("," if "," in forms else " ")

def test_nouns():
    assert inflect("fire truck", "noun") == {"NN": ("fire truck",), "NNS": ("fire trucks",)}
    assert inflect("fish", "noun")["NNS"] == ("fish",)
    assert "NNS" not in inflect("Greece", "noun") and "NNS" not in inflect("traffic", "noun")

def test_variants_are_found_and_the_first_is_written():
    assert [r.form for r in NAVERO.readings["lighted up"]] == ["VBD", "VBN"]
    assert {r.surface for r in NAVERO.forms["action", "VBD"].values()} & {"lit up", "lighted up"} == {"lit up"}


# Matching

def outermost_by_hand(lexicon, text):
    "Compare all spans with all spellings; keep the longest, then the leftmost, until none is left."
    tokens = _tokens(text)
    words = [w for w, *_ in tokens]
    spellings = {tuple(w for w, *_ in _tokens(s)): r for s, r in lexicon.readings.items()}
    spans = []
    for i in range(len(tokens)):
        for j in range(i + 1, len(tokens) + 1):
            start, end = tokens[i][1], tokens[j - 1][2]
            around = (text[start - 1] if start else " ") + (text[end] if end < len(text) else " ")
            if tuple(words[i:j]) not in spellings or any(c.isalnum() or c in "-_" for c in around): continue
            if _read(spellings[tuple(words[i:j])], words[max(i - 3, 0):i], (words + [""])[j]): spans.append((i, j))
    kept = []
    while spans:
        i, j = min(spans, key=lambda s: (s[0] - s[1], s[0]))
        kept.append((tokens[i][1], tokens[j - 1][2]))
        spans = [s for s in spans if s[1] <= i or s[0] >= j]
    return sorted(kept)

TOY = Lexicon.from_lists({
    "relation": ("relation", "", ["in", "in front of", "front of the", "on", "on back of", "to the left of"]),
    "verb": ("action", "verb", ["turn", "turn on", "slide left", "light up", "light"]),
    "noun": ("object", "noun", ["light", "back", "fire truck", "truck"])})
SOUP = ("a the in front of on back turn turns turned sliding slid left light lit lights up to fire truck trucks - , "
        "by is").split()

@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(st.sampled_from(SOUP), st.sampled_from(["", " ", " ", " ", "  ", "\n"])), max_size=14))
def test_longest_first(pieces):
    text = "".join(w + space for w, space in pieces)
    assert [(m.start, m.end) for m in TOY.match(text)] == outermost_by_hand(TOY, text)

@pytest.mark.parametrize("text, found", [
    ("ice-cream, nice, icy; Ice!", ["Ice"]), ("in  front\nof", ["in  front\nof"]), ("the dog's tail", ["dog"]),
    ("red/blue", ["red", "blue"]), ("a pint-size dog", ["pint-size", "dog"]), ("REDDER", []), ("dog_1 dog2 1dog", []),
    ("gold", ["gold"]), ("", []), ("?", [])])
def test_never_inside_a_word(text, found):
    assert [m.text for m in NAVERO.match(text)] == found

@pytest.mark.parametrize("text, form", [
    ("it is pushed", "VBN"), ("it was then quickly pushed", "VBN"), ("he pushed", "VBD"),
    ("a ball pushed by her", "VBN"), ("they want to cut", "VB"), ("it has been cut", "VBN"),
    ("he cut", "VBD"), ("he cuts", "VBZ"),
    ("they can write", "VB")])
def test_form_from_context(text, form):
    assert [r.form for m in NAVERO.match(text) for r in m.readings if r.slot == "action"] == [form]

@pytest.mark.parametrize("text", ["a walk", "the waves", "the door is open", "in slides", "a very narrow"])
def test_words_that_are_no_verb_here_are_no_action(text):
    assert "action" not in {r.slot for m in NAVERO.match(text) for r in m.readings}

def test_all_readings():
    assert [r.slot for r in NAVERO.match("gold")[0].readings] == ["color", "material", "noun"]

def test_union_prefers_the_left():
    left = Lexicon.from_lists({"shape": ("object", "noun", ["cross", "ring"]), "color": ("attribute", "", ["orange"])})
    both = left | NAVERO
    slots = lambda w: [r.slot for r in both.readings[w]]
    assert slots("cross") == slots("crosses") == ["shape"] and slots("orange") == ["color"]
    assert slots("crossing") == ["action"] and "oranges" in both.readings
    [cross] = both.forms["action", "VBG"].keys() - both.forms["action", "VB"].keys()
    assert cross.text == "cross"
    assert {r.slot for r in (NAVERO | left).readings["cross"]} == {"action"}
    assert len(both) == len(left) + len(NAVERO)

@pytest.mark.parametrize("text", ["", " ", "a", "🎈", "🎈 dog 👨‍👩‍👧 red", "красная собака", "一只狗在跑",
                                  "dog\x00red", "\x00", "\ud800 dog", "İİ dog", "dog " * 2000,
                                  "d" * 20000, "\r\n\t dog"])
def test_odd_text(text):
    for m in NAVERO.match(text): assert text[m.start:m.end] == m.text


# Substitution

AN = "hour honest honour heir umbrella x-ray apple island unlimited uninvited unimportant 8 18 11".split()
A = "university one unicorn European yacht used Uganda uranium xylophone 1 house union once".split()

@pytest.mark.parametrize("word", AN)
def test_words_that_need_an(word): assert needs_an(word)

@pytest.mark.parametrize("word", A)
def test_words_that_need_a(word): assert not needs_an(word)

def changed(text, old, new, slot):
    match = [m for m in NAVERO.match(text) if m.text == old][-1]
    form = next(r.form for r in match.readings if r.slot == slot)
    reading = next(r for e, r in NAVERO.forms[slot, form].items() if e.text == new)
    e = substitute(text, match, reading)
    assert text[e.start:e.end] == e.old
    return text[:e.start] + e.new + text[e.end:]

@pytest.mark.parametrize("text, old, new, slot, want", [
    ("a man runs an hour", "runs", "jump", "action", "a man jumps an hour"),
    ("an apple", "apple", "pizza", "noun", "a pizza"), ("An apple", "apple", "pizza", "noun", "A pizza"),
    ("A pizza", "pizza", "apple", "noun", "An apple"), ("A PIZZA", "PIZZA", "apple", "noun", "AN APPLE"),
    ("AN APPLE", "APPLE", "pizza", "noun", "A PIZZA"), ("banana pizza", "pizza", "apple", "noun", "banana apple"),
    ("a  pizza", "pizza", "apple", "noun", "an  apple"), ("Knives fall", "Knives", "horse", "noun", "Horses fall"),
    ("In front of it", "In front of", "behind", "relation", "Behind it"),
    ("in Egypt", "Egypt", "room", "noun", "in room"),
    ("He is in Egypt.", "Egypt", "Russia", "noun", "He is in Russia."),
    ("he is in egypt", "egypt", "Russia", "noun", "he is in russia"),
    ("Egypt burns", "Egypt", "room", "noun", "Room burns"), ("An old dog", "old", "big", "size", "A big dog"),
    ("It is pushed by him", "pushed", "write", "action", "It is written by him")])
def test_substitute(text, old, new, slot, want):
    assert changed(text, old, new, slot) == want


# Real captions

def test_real_captions():
    captions = [r["caption"] for r in real("msrvtt/msrvtt_ret_test1k.json")]
    found = [NAVERO.match(c) for c in captions]
    assert all(c[m.start:m.end] == m.text for c, ms in zip(captions, found) for m in ms)
    assert sum(map(bool, found)) > 0.8*len(captions)
    for c, ms in list(zip(captions, found))[:40]:
        assert [(m.start, m.end) for m in ms] == outermost_by_hand(NAVERO, c)
