"A new model, loss, dataset, generator, metric or claim takes one function or class and one line in a registry."
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import torch

from vidneg.core.records import Caption
from vidneg.data.pairs import PAIR_SETS, read_pairs
from vidneg.evaluate.accuracy import ITEM_COLUMNS, METRICS, accuracy_table, toy_scores
from vidneg.evaluate.score import score_model
from vidneg.lm.backends import EMBEDDERS, embedder
from vidneg.losses.registry import LOSSES
from vidneg.models.io import load, save
from vidneg.models.registry import MODELS
from vidneg.models.scoring import scorer_of
from vidneg.models.zoo import load_scorer, memorize, random_pairs
from vidneg.negatives.generate import GENERATORS, make_negatives
from vidneg.report.claims.claim import Evidence
from vidneg.report.claims.page import PAPERS, claims_markdown, decide
from vidneg.text.lexicon import lexicon_named
from vidneg.text.tokenize import train_tokenizer
from vidneg.train.contrastive import ContrastiveTask

MODULE = '''
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from vidneg.data.pairs import Pair, Source
from vidneg.losses.tensors import wants
from vidneg.models.base import DualEncoder
from vidneg.models.builder import Builder
from vidneg.negatives.rules import RuleGenerator, Uniform
from vidneg.report.claims.claim import Claims


@dataclass(frozen=True)
class BagConfig:
    image_size: int = 32
    patch_size: int = 16
    width: int = 48
    embed_dim: int = 48
    max_tokens: int = 24
    vocab_size: int = 100

    @classmethod
    def paper(cls, **changes): return cls(**{"width": 96, "embed_dim": 96, **changes})


class Bag(DualEncoder):
    "Mean pixels against mean words."
    config_class = BagConfig
    temperature = torch.tensor(.07)

    def __init__(self, config, seed=0):
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.patch = nn.Conv2d(3, config.width, config.patch_size, config.patch_size)
            self.video_proj = nn.Linear(4*config.width, config.embed_dim)
            self.words = nn.Embedding(config.vocab_size, config.embed_dim)

    def frame_features(self, frames):
        size = self.config.image_size
        x = F.interpolate(frames.flatten(0, 1).permute(0, 3, 1, 2)/255, (size, size)) # (B·T, 3, S, S)
        return self.patch(x).flatten(2).mT.unflatten(0, frames.shape[:2]) # (B, T, N, d)

    def encode_video(self, features):
        x = features.mean(1) # (B, N, d)
        return x, F.normalize(self.video_proj(x.flatten(1)), dim=-1)

    def encode_text(self, input_ids, attention_mask):
        x = self.words(input_ids) # (M, L, p)
        mean = (x*attention_mask[..., None]).sum(1)
        return F.normalize(x, dim=-1), F.normalize(mean, dim=-1)


bag = Builder(Bag)


@wants("similarity")
def squared(similarity):
    return {"squared": (similarity.diagonal() - 1)**2}


def file_pairs(path):
    for k, line in enumerate(path.read_text().splitlines()):
        caption, negative = line.split(";")
        yield Pair(str(k), f"clip{k}", "toy", caption, negative)

PAIRS = Source("two captions a line", "*.txt", "none", file_pairs)


def first_word(lexicon, frequencies=None):
    return RuleGenerator("first-word", lexicon, Uniform(lexicon))


def margin(scores):
    return np.clip(scores.score_pos - scores.score_neg, 0, 1).to_numpy()


claims = Claims("A toy paper")

@claims.claim("toy-better", "NAVERO has the larger margin.", "page 1", "margin, NAVERO minus Vanilla", above=0)
def better(e): return e.accuracy({"navero": 1, "vanilla": -1}, metric="toy-margin")


class Letters:
    name, kind, identity = "letters", "embed", {"model": "letters"}
    def embed(self, texts): return np.array([[t.count("a"), t.count("e")] for t in texts], np.float32)
'''

LINES = [(MODELS, "bag", "bag"), (LOSSES, "squared", "squared"), (PAIR_SETS, "two-a-line", "PAIRS"),
         (GENERATORS, "first-word", "first_word"), (METRICS, "toy-margin", "margin"), (PAPERS, "toy", "claims"),
         (EMBEDDERS, "letters", "Letters")]


@pytest.fixture
def added(tmp_path, monkeypatch):
    "Put a module on the path and its names into the registries."
    (tmp_path/"vidneg_toy.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.syspath_prepend(tmp_path)
    for registry, name, attribute in LINES: registry[name] = f"vidneg_toy:{attribute}"
    assert "vidneg_toy" not in sys.modules # a name in a registry imports nothing
    yield tmp_path
    for registry, name, _ in LINES: del registry[name]
    sys.modules.pop("vidneg_toy", None)


def test_a_model_learns_is_saved_and_scores(added):
    model = MODELS["bag"]("tiny")
    assert min(memorize(model, n=8, steps=200)["similarity"]) == 1
    texts = ["a red star spins", "a blue ring slides", "a red star grows"]
    tokenizer = train_tokenizer(texts, 100, added/"t.json")
    again = load(save(model, added/"model", tokenizer))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    frames = random_pairs(model, 2, 3, 0)[0].numpy()
    items = pd.DataFrame([("i0", "a", "action", "balanced", "toy", texts[0], texts[2]),
                          ("i1", "b", "action", "balanced", "toy", texts[1], texts[2])], columns=ITEM_COLUMNS)
    corpus = [Caption("a.0", "a", texts[0]), Caption("b.0", "b", texts[1])]
    tables = [score_model(s, frames, ["a", "b"], items, corpus, "bag")
              for s in (scorer_of(model, tokenizer), load_scorer(added/"model"))]
    for one, other in zip(*tables): pd.testing.assert_frame_equal(one, other)
    assert tables[0][0].p_pos.isna().all() # the model supports no match


def test_a_loss_trains_any_model(added):
    for name in ("bag", "navero"):
        model = MODELS[name]("tiny")
        frames, ids, mask = random_pairs(model, 4, 2, 0)
        task = ContrastiveTask(model, ["vtc", "squared"])
        batch = {"features": model.frame_features(frames).detach(), "input_ids": ids, "attention_mask": mask,
                 "clip": torch.arange(4)}
        terms = task(batch)
        assert terms["squared"].shape == terms["vtc"].shape == (4,) and (terms["squared"] >= 0).all()
        terms["squared"].sum().backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_a_dataset_is_read(added):
    (added/"files").mkdir()
    (added/"files"/"one.txt").write_text("a star spins;a star grows\na ring;a cube\n")
    pairs = read_pairs("two-a-line", added/"files")
    assert [(p.caption, p.negative, p.generator) for p in pairs] == [
        ("a star spins", "a star grows", "two-a-line"), ("a ring", "a cube", "two-a-line")]


def test_a_generator_makes_negatives(added):
    generator = GENERATORS["first-word"](lexicon_named("navero"))
    made, counts = make_negatives([Caption("c", "clip", "a man is walking on the street")], generator)
    assert made and {n.generator for n in made} == {"first-word"} and sum(counts.values()) >= len(made)


def test_a_metric_appears_in_tables_and_decides_a_claim(added):
    scores = toy_scores({"vanilla": 0, "navero": 1.5}, clips=100, forms=("balanced",))
    table = accuracy_table(scores, n=50)
    assert {"acc", "acc_hat", "acc_vtc", "toy-margin"} <= set(table.metric)
    decided = decide(Evidence(scores, settings={"n": 50}), ["toy"]).set_index("key")
    assert decided.loc["toy-better"].verdict == "holds" and list(decided.index) == ["toy-better"]
    everything = decide(Evidence(scores, settings={"n": 50}))
    assert everything.key.iloc[-1] == "toy-better" and "## A toy paper" in claims_markdown(everything)


def test_a_language_model_is_named_by_a_parameter(added):
    e = embedder("letters", added/"cache")
    assert np.array_equal(e.embed(["a star", "a tree"]), [[2, 0], [1, 2]])
    assert np.array_equal(embedder({"backend": "letters"}).embed(["e"]), [[0, 1]])
