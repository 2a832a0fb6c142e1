"Several runs from one start: validation accuracy is logged and changes no weight."
from functools import partial

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from vidneg.core.records import Caption, Negative
from vidneg.evaluate.accuracy import accuracy_table, score_pairs
from vidneg.evaluate.score import items_table, validation_accuracy
from vidneg.models.io import load, save
from vidneg.models.navero import Navero, NaveroConfig
from vidneg.models.scoring import NaveroScorer
from vidneg.text.tokenize import train_tokenizer
from vidneg.train.finetune import finetune, text_batches
from vidneg.train.loop import TrainConfig

TINY = NaveroConfig(width=16, heads=2, spatial_layers=1, spacetime_layers=1,
                    text_layers=1, fusion_layers=1, vocab_size=100)
SHAPES, COLORS = ("star", "ring", "heart", "cross"), ("red", "blue", "green", "pink")
ACTIONS = "spins", "grows", "blinks", "shakes"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    corpus = [Caption(f"c{i}.0", f"c{i}", f"a {COLORS[i % 4]} {SHAPES[i//4 % 4]} {ACTIONS[i//2 % 4]}")
              for i in range(16)]
    swap = lambda c, words: next(c.text.replace(w, words[(i + 1) % 4]) for i, w in enumerate(words) if w in c.text)
    false = [Negative(c.caption_id, swap(c, words), kind, "demo", (), 1, 0)
             for c in corpus for kind, words in (("attribute", COLORS), ("action", ACTIONS), ("object", SHAPES))]
    tokenizer = train_tokenizer([c.text for c in corpus], 100, folder/"tokenizer.json")
    save(Navero(TINY), folder/"start")
    features = np.random.default_rng(0).normal(size=(16, 8, 16, 16)).astype(np.float32)
    return folder, corpus, false, tokenizer, features


def test_validation_is_logged_and_changes_no_weight(world):
    folder, corpus, false, tokenizer, features = world
    ids = [c.clip_id for c in corpus]
    runs = {"navero": dict(losses=("vtc", "vtm", "neg_vtm")), "vanilla": dict(losses=("vtc", "vtm"))}
    batches = text_batches(features, ids, corpus, false, tokenizer, 48, batch_size=4)
    val = partial(validation_accuracy, scorer=partial(NaveroScorer, tokenizer=tokenizer), videos=features, clip_ids=ids,
                  items=items_table(false, corpus, "balanced"))
    train = partial(finetune, runs, folder/"start", batches, TrainConfig(epochs=2))
    train(folder/"with", workers=2, val=val)
    train(folder/"without", workers=1)
    for run in runs:
        logged = pd.read_csv(folder/"with"/run/"metrics.csv")
        assert len(logged) == 2 and logged.val_acc.between(0, 1).all()
        one, other = (load_file(folder/kind/run/"model.safetensors") for kind in ("with", "without"))
        assert all(np.array_equal(one[k], other[k]) for k in one | other)
        assert logged.val_acc.iloc[-1] == pytest.approx(val(load(folder/"with"/run))["val_acc"], abs=1e-5)


def test_validation_accuracy_is_the_average_of_the_table(world):
    folder, corpus, false, tokenizer, features = world
    items, ids = items_table(false[3:20], corpus, "balanced"), [c.clip_id for c in corpus]
    scorer = partial(NaveroScorer, tokenizer=tokenizer)
    found = validation_accuracy(load(folder/"start"), scorer, features, ids, items)["val_acc"]
    made = scorer(load(folder/"start"))
    table = accuracy_table(score_pairs(made, made.encode_video(features), ids, items, "x"), ("acc",), n=10)
    assert found == pytest.approx(table[table.kind.isin(["action", "attribute", "object"])]["value"].mean())
