"Synonyms: verdicts of the table and of WordNet, and the readers of their files."
import os
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from vidneg.core.errors import VidnegError
from vidneg.text.lexicon import LISTS, read_list
from vidneg.text.synonyms import Thesaurus, WordNet, lemmas, load_thesaurus, related

# Judged by hand: may one word replace the other in a caption of the same clip?
SAME = """man/person | men/people | guy/man | woman/lady | kid/child | boy/child | boy/kid | girl/child
baby/child | toddler/kid | car/vehicle | bus/vehicle | bicycle/bike | motorcycle/bike | truck/car
boat/canoe | dog/animal | puppy/dog | horse/animal | bird/parrot | run/jog | runs/sprinting
walk/stroll | jump/leap | talks/speaking | looking/watch | holding/grips | eat/chew | laugh/giggle
spin/rotates | couch/sofa | cup/glass | rug/carpet | bag/backpack | shirt/top | jacket/coat
hat/cap | phone/cellphone | tv/television | road/street | doctor/person | doctor/woman | teacher/man
soldier/person | player/athlete | crowd/audience | group/team | picture/photo | big/large | huge/big
small/tiny | young/little | old/elderly | gray/grey | maroon/red | navy/blue | teal/green
wooden/wood | steel/metal | above/over | beneath/under | beside/next to | in/inside
in front of/before | quickly/fast"""
OTHER = """man/woman | boy/girl | king/queen | dog/cat | horse/cow | car/train | chair/table | cup/knife
shirt/shoe | door/window | run/sit | open/close | push/pull | eat/drink | laugh/cry | throw/catch
enter/exit | jump/sleep | red/blue | green/black | white/black | big/small | long/short | old/young
wet/dry | clean/dirty | hot/cold | above/below | in front of/behind | inside/outside
quickly/slowly | beach/kitchen | piano/guitar | apple/banana | spoon/fork | lion/tiger | coffee/tea
man/dog | snow/sand"""


def pairs(table):
    return [tuple(pair.strip().split("/")) for pair in table.replace("\n", "|").split("|")]


@pytest.mark.parametrize("pair", pairs(SAME), ids="=".join)
def test_may_describe_the_same(pair):
    assert related(*pair) and related(*pair[::-1])


@pytest.mark.parametrize("pair", pairs(OTHER), ids="≠".join)
def test_cannot_describe_the_same(pair):
    assert not related(*pair) and not related(*pair[::-1])


def test_kinds_on_one_line_exclude_each_other():
    t = Thesaurus(["[NOUN]", "fruit", "fruit > apple, banana"])
    assert t.is_a("apple", "fruit") and not t.related("apple", "banana")


def test_hypernyms_are_transitive_and_not_symmetric():
    t = load_thesaurus()
    assert t.is_a("puppy", "dog") and t.is_a("dog", "animal") and t.is_a("puppy", "animal")
    assert not t.is_a("animal", "puppy") and not t.is_a("person", "man")


def test_senses_do_not_leak_between_parts_of_speech():
    assert related("run", "race", "VERB") and not related("fly", "soar", "NOUN") and related("fly", "soar")


def test_closure_against_a_plain_search():
    lines = ["[NOUN]", "a", "b < a", "c, x < b", "d < a, c", "e ~ b", "f < e"]
    parents = {"a": "", "b": "a", "c": "b", "x": "b", "d": "ac", "e": "", "f": "e"}
    same = {"c": "x", "x": "c"}
    def up(w): return {w, *same.get(w, "")}.union(*(up(p) for p in parents[w]))
    t = Thesaurus(lines)
    for v, w in product(parents, parents):
        assert t.is_a(v, w) == (w in up(v)), (v, w)
        near = any({"e"} & up(i) and {"b"} & up(j) for i, j in ((v, w), (w, v)))
        assert t.related(v, w) == (w in up(v) or v in up(w) or near), (v, w)


@pytest.mark.parametrize("lines, what", [
    (["man"], "before the first section"), (["[NOUN]", "a < b"], "'b' stands behind"), (["[NOUN]", "< b"], "no word")])
def test_bad_tables_are_refused(lines, what):
    with pytest.raises(VidnegError, match=what): Thesaurus(lines)


@given(st.text(), st.text())
def test_any_text_gets_a_symmetric_verdict(a, b):
    assert related(a, b) == related(b, a)
    assert related(a, a) == bool(a.split())


def test_every_caption_word_of_the_package_lists_is_known():
    for name in ("color", "size", "relation"):
        unknown = [w for w in read_list(LISTS/f"{name}.txt") if not load_thesaurus().knows(w)]
        assert len(unknown) <= 1, unknown


@pytest.mark.parametrize("phrase, base", [
    ("hot dogs", "hot dog"), ("picked up", "pick up"), ("SLIDES left", "slide left"), ("hoverboards", "hoverboard")])
def test_phrases_are_reduced_to_their_base_form(phrase, base):
    assert base in lemmas(phrase)


WORDNET = Path(os.environ.get("VIDNEG_WORDNET", "/usr/share/wordnet"))


@pytest.mark.skipif(not WORDNET.is_dir(), reason="WordNet is not installed: VIDNEG_WORDNET may name its folder")
def test_wordnet_itself():
    w = WordNet(WORDNET)
    for a, b in [("men", "person"), ("puppies", "dog"), ("cars", "vehicle"), ("couch", "sofa"), ("maroon", "red"),
                 ("big", "huge"), ("ice cream", "dessert")]: assert w.related(a, b) and w.related(b, a), (a, b)
    for a, b in [("man", "woman"), ("dog", "cat"), ("red", "blue"), ("hot dog", "dog")]:
        assert not w.related(a, b)
    assert related("spatula", "implement", wordnet=WORDNET) and not w.knows("zyzzyx")
