"Training on one's own clips: new words change nothing for old ones, and the same data give the same model."
import hashlib

import numpy as np
import pytest

from vidneg.core.errors import VidnegError
from vidneg.core.records import Clip
from vidneg.data.inputs import Inputs, open_data
from vidneg.data.pairs import Pair
from vidneg.models.io import load
from vidneg.models.navero import Navero
from vidneg.models.scoring import scorer_of
from vidneg.models.world_model import WORLD
from vidneg.models.zoo import load_scorer
from vidneg.negatives.own import negatives_frame, own_generator
from vidneg.text.tokenize import load_tokenizer
from vidneg.train.own import train_own, unknown_words, with_words
from vidneg.world.script import WorldConfig
from vidneg.world.write import write_world

OLD = WORLD/"tokenizer.json"
TEXTS = ["a juggler tosses clubs", "a juggler tosses a red ball and then another red ball "*4, "a dog runs to a dog"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own clips é")
    write_world(folder, {"train": 6}, WorldConfig(frames=8))
    return open_data(folder)


def test_unknown_words_are_counted_once_per_text():
    tokenizer = load_tokenizer(OLD)
    assert unknown_words(tokenizer, TEXTS) == unknown_words(tokenizer, TEXTS[::-1]) == ["juggler", "tosses"]
    assert "dog" not in unknown_words(tokenizer, TEXTS, least=2) and "clubs" in unknown_words(tokenizer, TEXTS, least=1)


def test_new_words_change_nothing_for_old_ones(tmp_path):
    old = load(WORLD, Navero).eval()
    new = with_words(load(WORLD, Navero), OLD, TEXTS, tmp_path/"tokenizer.json").eval()
    assert new.config.vocab_size == old.config.vocab_size + 2 and new.config.max_tokens >= old.config.max_tokens
    before, after = scorer_of(old, load_tokenizer(OLD)), scorer_of(new, load_tokenizer(tmp_path/"tokenizer.json"))
    texts = ["a red ball moves to the left", "the blue box is on the left of a ball"]
    frames = np.random.default_rng(0).integers(256, size=(2, 8, 64, 64, 3), dtype=np.uint8)
    pairs = [(s.encode_video(frames), s.encode_text(texts)) for s in (before, after)]
    for compare in ("similarity", "match"):
        a, b = (getattr(s, compare)(*p) for s, p in zip((before, after), pairs))
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.slow
def test_the_same_data_give_the_same_model(inputs, tmp_path):
    for name in "ab":
        history = train_own(inputs, tmp_path/name, "negvidl", epochs=2, say=lambda text: None)
        assert {"vtc", "vtm", "neg_vtc"} <= set(history[-1])
    bytes_ = [hashlib.sha256((tmp_path/n/"model.safetensors").read_bytes()).hexdigest() for n in "ab"]
    assert bytes_[0] == bytes_[1] and not [p for p in (tmp_path/"a").iterdir() if p.name.startswith(".")]
    scorer = load_scorer(tmp_path/"a")
    assert scorer.encode_text([c.text for c in inputs.captions]) is not None


@pytest.mark.slow
def test_given_negatives_and_no_negatives(inputs, tmp_path):
    said = []
    pairs = tuple(Pair(c.caption_id, c.clip_id, "action", c.text, "a zebra yawns") for c in inputs.captions)
    train_own(Inputs("given", inputs.clips, inputs.captions, pairs), tmp_path/"given", epochs=1, say=said.append)
    assert "zebra" in load_tokenizer(tmp_path/"given"/"tokenizer"/"tokenizer.json").get_vocab()
    bad = Clip(inputs.clips[0].clip_id, str(tmp_path/"gone.mp4"))
    some = Inputs("some", (bad, *inputs.clips[1:]), inputs.captions)
    history = train_own(some, tmp_path/"none", "vanilla", epochs=1, say=said.append)
    assert "neg_vtm" not in history[-1]
    assert "batches have 6 clips" in said[0] and "left out" in said[1] and "batches have 5 clips" in said[2]


def test_refusals(inputs, tmp_path):
    with pytest.raises(VidnegError, match="no recipe 'best'; there are: vanilla, negvidl, navero"):
        train_own(inputs, tmp_path/"m", "best")
    with pytest.raises(VidnegError, match="is no model of vidneg with its tokenizer"):
        train_own(inputs, tmp_path/"m", start=tmp_path)
    one = Inputs("one", inputs.clips[:1], tuple(c for c in inputs.captions if c.clip_id == inputs.clips[0].clip_id))
    with pytest.raises(VidnegError, match="1 clip can be decoded, but training needs at least two"):
        train_own(one, tmp_path/"m", "vanilla", say=lambda text: None)
    assert not (tmp_path/"m"/"model.safetensors").exists()


def test_generators_of_own_captions(inputs):
    maker = own_generator(inputs.captions, "rules-balanced", ("object",))
    frame, counts = negatives_frame(inputs, maker, kinds=("object",))
    assert set(frame.kind) <= {"object"} and sum(counts.values()) >= len(frame)
    with pytest.raises(VidnegError, match="no kind 'verb'; there are: action"): own_generator([], kinds=("verb",))
    with pytest.raises(VidnegError, match="no kinds are given"): own_generator([], kinds=())
    for name in ("rules-published", "rules-checked"): assert own_generator([], name).name == name
