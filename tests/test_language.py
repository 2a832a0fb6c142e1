"Texts that are not English are recognized, and English captions are not refused."
import csv
import json
import os
from pathlib import Path

import pytest

from vidneg.text.language import foreign, in_latin_script

HERE = Path(__file__).parent


def sentences():
    "Return language → captions written for this test."
    found, language = {}, ""
    for line in (HERE/"data/foreign.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "): language = line[3:]
        elif not line.startswith("#"): found.setdefault(language, []).append(line)
    return found


def test_other_languages_are_recognized():
    found = sentences()
    assert sum(map(len, found.values())) > 170
    missed = {name: [t for t in texts if not foreign(t)] for name, texts in found.items()}
    assert not any(missed.values())
    for name in ("German", "French", "Spanish", "Italian", "Dutch", "Turkish"):
        assert sum(foreign(t) == name for t in found[name]) >= .7*len(found[name]), name


def test_scripts_are_read_by_letters():
    for name in ("Chinese", "Hindi", "Russian", "Japanese", "Arabic", "Korean"):
        assert not any(map(in_latin_script, sentences()[name]))
    assert in_latin_script("") and in_latin_script("42 🙂") and in_latin_script("a sign that says 停 in the café")


@pytest.mark.parametrize("text", [
    "a man does a tour de france", "cirque du soleil", "Los Angeles", "a die is cast on the table", "an El Camino",
    "the boy eats au gratin potatoes", "toddler closes door", "kid shakes head no", "a man is in the sun", "no one",
    "man die", "on a boat", "jour", "über"])
def test_english_and_names_pass(text): assert not foreign(text)


def test_the_answer_does_not_depend_on_case_or_composition():
    text = sentences()["German"][0]
    assert "ä" in text
    assert foreign(text.upper()) == foreign(text.replace("ä", "a\u0308")) == "German"


@pytest.mark.slow
@pytest.mark.skipif("VIDNEG_REAL_DATA" not in os.environ, reason="VIDNEG_REAL_DATA names no folder of real data")
def test_real_captions_pass():
    root = Path(os.environ["VIDNEG_REAL_DATA"])
    texts = [t for v in json.loads((root/"activitynet_captions/val.json").read_text()).values() for t in v["sentences"]]
    with open(root/"msrvtt/MSRVTT_JSFUSION_test.csv", newline="") as f:
        texts += [row["sentence"] for row in csv.DictReader(f)]
    assert len(texts) > 15_000 and sum(bool(foreign(t)) for t in texts) <= len(texts)/1000
