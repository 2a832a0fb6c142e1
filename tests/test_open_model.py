"The door for models: what a user brings becomes a scorer with `pairwise` and a protocol, or is refused in one line."
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch

from vidneg.core.errors import VidnegError
from vidneg.models import zoo
from vidneg.models.io import save
from vidneg.models.mteb import ClipFrames, MtebScorer, from_mteb
from vidneg.models.registry import MODELS
from vidneg.models.scorer import PROTOCOL
from vidneg.models.zoo import Completed, FunctionScorer, open_model
from vidneg.text.tokenize import train_tokenizer

ROOT = Path(__file__).parents[1]
TEXTS = ["a bright room", "a dark room", "a bright room", "a dark street"]

def see(frames): return np.array([[v.mean()/255, 1 - v.mean()/255] for v in frames])
def read(texts): return torch.tensor([[1., 0.] if "bright" in t else [0., 1.] for t in texts])
def clips(*sizes): return [np.full((2, h, w, 3), 250 if i % 2 == 0 else 5, np.uint8) for i, (h, w) in enumerate(sizes)]


def test_two_functions_are_a_model():
    called = []
    def seen(frames):
        called.append(frames.shape)
        return see(frames)
    scorer = open_model((seen, read), name="brightness", batch_size=2)
    V = scorer.encode_video(clips((8, 8), (8, 12), (8, 8), (8, 8)))
    T = scorer.encode_text(TEXTS)
    assert isinstance(scorer, FunctionScorer) and set(scorer.protocol) == set(PROTOCOL)
    assert called == [(2, 2, 8, 8, 3), (1, 2, 8, 8, 3), (1, 2, 8, 12, 3)] # one size in one call
    s = scorer.similarity(V, T)
    assert np.allclose(scorer.pairwise(V, T), np.diag(s)) and scorer.protocol["model"] == "brightness"
    assert (s.argmax(1) == [0, 1, 0, 1]).all() and abs(s).max() <= 1 + 1e-6
    assert open_model([see, read]).protocol["model"] == "see"


def test_functions_that_return_something_else_are_named():
    def narrow(texts): return [[1.]]*len(texts)
    def broken(texts): return [[np.nan, 1.]]*len(texts)
    scorer = open_model((see, narrow))
    V = scorer.encode_video(clips((8, 8)))
    for f in (scorer.similarity, scorer.pairwise):
        with pytest.raises(VidnegError, match="videos have 2 numbers, texts 1"): f(V, scorer.encode_text(["a"]))
    bad = {"finite embeddings": [broken],
           "one vector for each of its 2 inputs": [lambda texts: [1.], lambda texts: np.ones((1, 2)),
                                                   lambda texts: np.ones((2, 0))],
           "an array or tensor of numbers": [lambda texts: None, lambda texts: "ab", lambda texts: [[1.], [1., 2.]],
                                             lambda texts: {"a": 1}, lambda texts: np.ones((2, 2))*1j]}
    for words, functions in bad.items():
        for f in functions:
            with pytest.raises(VidnegError, match=f"must return {words}"): open_model((see, f)).encode_text(["a", "b"])
    apart = open_model((see, lambda texts: [t for t in read(texts)])) # one tensor per text
    assert torch.equal(apart.encode_text(TEXTS).embedding, open_model((see, read)).encode_text(TEXTS).embedding)
    with pytest.raises(ZeroDivisionError): open_model((see, lambda texts: 1/0)).encode_text(["a"]) # the user's own


def test_nonsense_around_a_model_is_refused(tmp_path):
    class Odd(Old):
        def similarity(self, videos, texts): return np.zeros((1, len(texts)))
    cases = [(Old, {}, "Old is a class, not a model"), ((see, read), dict(device="cpu"), "option 'device'"),
             (Old(), dict(dtype="float16"), "option 'dtype'"), ("world", dict(dtype="float16"), "run in float32"),
             ("world", dict(batch_size=0), "batch_size is 0"), ("", {}, "the model has no name"),
             ("./nowhere", {}, "no such folder"), ("worlds", {}, "did you mean 'world'"),
             ("World", {}, "did you mean 'world'"), (tmp_path, {}, "holds no config.json")]
    for model, settings, words in cases:
        with pytest.raises(VidnegError, match=words): open_model(model, **settings)
    odd = open_model(Odd())
    with pytest.raises(VidnegError, match=r"`similarity` of 2 videos and 2 texts returned an array of shape \(1, 2\)"):
        odd.pairwise(odd.encode_video(clips((8, 8), (8, 8))), odd.encode_text(["a", "b"]))
    odd = Old()
    odd.protocol = "mine"
    with pytest.raises(VidnegError, match="the protocol of a Old is a str"): open_model(odd)


class Old:
    "A scorer as it was written before `pairwise` and `protocol` were asked for."
    supports = frozenset({"similarity", "match"})
    def encode_video(self, frames): return see(frames)
    def encode_text(self, texts): return read(texts).numpy()
    def similarity(self, videos, texts): return videos @ texts.T
    def match(self, videos, texts): return (videos*texts).sum(1)


def test_what_a_strangers_scorer_leaves_out_is_filled_in():
    scorer = open_model(Old(), name="mine")
    V, T = scorer.encode_video(clips(*[(8, 8)]*40)), scorer.encode_text(TEXTS*10)
    assert isinstance(scorer, Completed) and scorer.supports == {"similarity", "match", "pairwise"}
    assert scorer.protocol["model"] == "mine" and set(scorer.protocol) == set(PROTOCOL)
    assert np.allclose(scorer.pairwise(V, T), (V*T).sum(1)) and scorer.pairwise(V[:0], T[:0]).shape == (0,)
    with pytest.raises(VidnegError, match="aligned"): scorer.pairwise(V, T[:2])
    whole = open_model(scorer)
    assert whole is scorer # nothing is missing
    assert open_model(scorer, name="other").protocol["model"] == "other" and scorer.protocol["model"] == "mine"


def test_other_things_are_refused():
    for bad, message in ((3, "a int is no model"), (np.zeros(3), "a ndarray is no model"), ((see,), "two functions"),
                         ((see, 3), "two functions"),
                         (SimpleNamespace(encode_video=see, encode_text=read), "lacks sim")):
        with pytest.raises(VidnegError, match=message): open_model(bad)
    with pytest.raises(VidnegError, match="only a checkpoint has the option 'pooling'"):
        open_model((see, read), pooling="max")
    with pytest.raises(VidnegError, match="no such folder"): open_model("./no such folder")
    with pytest.raises(VidnegError, match="no device 'gpu'"): open_model("world", device="gpu")
    with pytest.raises(VidnegError, match="no option 'pooling'"): open_model("world", pooling="max")


def test_models_of_this_project(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 100, tmp_path/"t.json")
    folder = save(MODELS["clip4clip-mean"]("tiny"), tmp_path/"my model", tokenizer)
    scorer = open_model(str(folder), device="cpu")
    assert scorer.protocol["model"] == "my model" and open_model(folder, name="x").protocol["model"] == "x"
    with pytest.raises(VidnegError, match="run in float32"): open_model(folder, dtype="bf16")
    with pytest.raises(VidnegError, match="no option 'pooling'"): open_model(folder, pooling="max")


def test_a_model_of_this_project_is_found_on_the_hub(tmp_path, monkeypatch):
    folder = save(MODELS["clip4clip-mean"]("tiny"), tmp_path/"m", train_tokenizer(TEXTS, 100, tmp_path/"t.json"))
    monkeypatch.setattr(zoo, "from_hub", lambda name: folder if name == "me/mine" else None)
    assert open_model("me/mine", device="cpu").protocol["model"] == "me/mine"
    monkeypatch.setattr(zoo, "load_hf", lambda name, *a, **o: ("transformers", name))
    assert open_model("me/other") == ("transformers", "me/other")


def test_the_worlds_model():
    scorer = open_model("world", device="cpu", name="w")
    V, T = scorer.encode_video(clips((64, 64), (48, 64))), scorer.encode_text(TEXTS[:2])
    assert scorer.pairwise(V, T).shape == (2,) and scorer.protocol["model"] == "w"


def test_the_template_works_as_written():
    cells = [c.source for c in nbformat.read(ROOT/"nbs/models/zoo.ipynb", 4).cells if "class MyScorer" in c.source]
    assert len(cells) == 1 and len(cells[0].splitlines()) <= 30
    names = {"np": np, "open_model": open_model, "frames": np.stack(clips((8, 8), (8, 8)))}
    exec(cells[0], names)
    scorer = names["scorer"]
    assert scorer.protocol["model"] == "mine" and set(scorer.protocol) == set(PROTOCOL)
    V = scorer.encode_video(clips((8, 8), (4, 9)))
    assert np.allclose(scorer.pairwise(V, scorer.encode_text(TEXTS[:2])), [250/255, 250/255])


class Encoder:
    "A stub with mteb's interface for encoders."
    def __init__(self, *modalities, collate=None):
        self.mteb_model_meta = SimpleNamespace(name="stub", revision="7", modalities=["text", *modalities])
        self.collate, self.asked = collate, []
    def encode(self, inputs, *, task_metadata, hf_split, hf_subset, prompt_type=None, **kwargs):
        assert task_metadata.name and task_metadata.type and kwargs["batch_size"]
        if self.collate: inputs.collate_fn = self.collate
        rows = []
        for batch in inputs:
            self.asked.append({k: len(v) for k, v in batch.items()})
            if "text" in batch: rows.append(read(batch["text"]))
            for x in batch.get("image", []): rows.append(torch.as_tensor(see([np.asarray(x)])))
            for x in batch.get("video", []): rows.append(torch.as_tensor(see([x.float()])))
        return torch.cat([r.float() for r in rows])


@pytest.mark.parametrize("kind", ["image", "video", "sampled video"])
def test_models_of_mteb(kind):
    def sampled(rows): # as mteb's own collation samples frames from a decoder
        return {"video": [r["video"].get_frames_at([0]).data for r in rows]} if "video" in rows[0] else \
            {"text": [r["text"] for r in rows]}
    model = Encoder(kind.split()[-1], collate=sampled if " " in kind else None)
    scorer = from_mteb(model, batch_size=2)
    V, T = scorer.encode_video(clips((8, 8), (8, 12), (8, 8))), scorer.encode_text(TEXTS)
    key = kind.split()[-1]
    assert isinstance(scorer, MtebScorer) and model.asked[0] == {key: 2}
    assert sum(a.get(key, 0) for a in model.asked) == (6 if key == "image" else 3)
    assert sum(a.get("text", 0) for a in model.asked) == 3 # each unique text once
    s = scorer.similarity(V, T)
    assert s.argmax(1).tolist() == [0, 1, 0] and np.allclose(scorer.pairwise(V, T[:3]), s[[0, 1, 2], [0, 1, 2]])
    assert scorer.protocol["model"] == "stub" and scorer.protocol["revision"] == "7"
    assert open_model(scorer) is scorer


def test_mteb_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(VidnegError, match="pip install mteb"): from_mteb("a/b")
    monkeypatch.setitem(sys.modules, "mteb", SimpleNamespace(get_model=lambda name, **o: Encoder("image")))
    assert from_mteb("a/b", name="mine").protocol["model"] == "mine"
    with pytest.raises(VidnegError, match="reads text: choose"): from_mteb(Encoder())


def test_frames_are_read_like_a_video():
    x = np.arange(3*4*5*3, dtype=np.uint8).reshape(3, 4, 5, 3)
    clip = ClipFrames(x)
    assert len(clip) == clip.metadata.num_frames == 3
    assert (clip.get_frames_at(torch.tensor([2])).data[0].permute(1, 2, 0).numpy() == x[2]).all()
