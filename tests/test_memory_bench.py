"The rooms of bench/memory.py on a few captions."
import importlib.util
import json
import sys
from pathlib import Path

import pytest

from vidneg.lm.protocols import MASK
from vidneg.text.parse import PIPELINE

PATH = Path(__file__).parents[1]/"bench/memory.py"
memory = importlib.util.module_from_spec(spec := importlib.util.spec_from_file_location("bench_memory", PATH))
spec.loader.exec_module(memory)
TEXTS = ["a man in a red shirt runs in the park", "Two dogs run across a small field.", "a woman throws a ball"]


@pytest.mark.skipif(not PIPELINE.exists(), reason="the pipeline is not there: run the stage `parser`")
@pytest.mark.parametrize("name", memory.ROOMS)
def test_every_room_processes_every_caption(name):
    made = memory.ROOMS[name](TEXTS, 7)
    assert made == 7 or name == "components" and 7 < made <= 42


def test_captions_repeat_under_new_ids():
    corpus = list(memory.stream(TEXTS, 8))
    assert len({c.caption_id for c in corpus}) == 8
    assert [c.text for c in corpus[:3]] == [c.text for c in corpus[3:6]] == TEXTS


def test_bigram_model_fills_gaps_with_words_that_followed():
    lm = memory.Pairs(["a dog runs", "a dog sleeps", "a cat runs"])
    assert [dict(r) for r in lm.fill([f"the dog {MASK}", f"a {MASK} runs", f"zebra {MASK}"])] == [
        {"runs": .5, "sleeps": .5}, {"dog": 2/3, "cat": 1/3}, {}]
    assert lm.fill([f"a {MASK} runs"], 1) == [[("dog", 2/3)]]


def test_peak_grows_with_memory_in_use():
    before = memory.peak()
    held = bytearray(b"x")*(before_bytes := int((before + 64)*2**20))
    assert memory.peak() >= before + 50 and len(held) == before_bytes


def test_child_prints_its_peak(monkeypatch, capsys, tmp_path):
    (tmp_path/"captions.txt").write_text("\n".join([*TEXTS, ""]))
    words = ["memory.py", "--room", "rules", "--n", "5", "--captions", str(tmp_path/"captions.txt")]
    monkeypatch.setattr(sys, "argv", words)
    memory.main()
    printed = json.loads(capsys.readouterr().out)
    assert printed["made"] == 5 and printed["peak"] > 10 and printed["seconds"] > 0
