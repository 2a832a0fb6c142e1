"AARO items of the world: every negative is false, and no single word distinguishes captions from negatives."
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from vidneg.core.errors import VidnegError
from vidneg.evaluate.accuracy import accuracy_table, score_blind
from vidneg.evaluate.score import items_table
from vidneg.negatives.aaro import aaro, by_rules, one_caption_per_clip
from vidneg.negatives.generate import GENERATORS, make_negatives
from vidneg.negatives.oracle import verdicts
from vidneg.negatives.rules import SlotFrequencies
from vidneg.text.edits import undo
from vidneg.text.lexicon import CATEGORIES, lexicon_named
from vidneg.world.oracle import WorldOracle, states_held_out, verdict
from vidneg.world.script import WorldConfig, captions, make_clip

CONFIG = WorldConfig()
WORLD = lexicon_named("world")


@pytest.fixture(scope="module")
def world():
    "Return captions, scene graphs and AARO items of 600 training and 500 test clips; no clip is rendered."
    scripts = {split: [make_clip(split, i, CONFIG) for i in range(n)] for split, n in (("train", 600), ("test", 500))}
    corpus = {split: [c for s in some for c in captions(s, CONFIG) if c.grain == "fine"]
            for split, some in scripts.items()}
    graphs = {s.clip_id: s.graph for some in scripts.values() for s in some}
    accept = lambda c, text: verdict(text, graphs[c.clip_id]) == "false" and not states_held_out(text, CONFIG)
    items, _ = aaro(corpus["test"], **by_rules("rules-balanced", WORLD), accept=accept)
    return corpus, graphs, items


@pytest.mark.slow
def test_items_are_false_single_edits_of_their_captions(world):
    corpus, graphs, items = world
    caption = {c.caption_id: c for c in corpus["test"]}
    clip_of = {k: c.clip_id for k, c in caption.items()}
    assert set(verdicts(items, clip_of, WorldOracle(graphs, CONFIG)).verdict) == {"false"}
    for n in items:
        assert len(n.edits) == 1 and undo(n.text, n.edits) == caption[n.caption_id].text
    once = Counter((n.kind, caption[n.caption_id].clip_id) for n in items)
    assert max(once.values()) == 1
    share = {k: sum(kind == k for kind, _ in once)/500 for k in CATEGORIES}
    assert min(share["object"], share["attribute"]) > 0.9 and min(share.values()) > 0.3


@pytest.mark.slow
def test_every_word_is_as_frequent_in_captions_as_in_negatives(world):
    "All differences are within chance for that many words."
    corpus, _, items = world
    caption = {c.caption_id: c.text for c in corpus["test"]}
    true = Counter(w for n in items for w in caption[n.caption_id].replace(",", "").split())
    false = Counter(w for n in items for w in n.text.replace(",", "").split())
    z = {w: (true[w] - false[w])/np.sqrt(true[w] + false[w]) for w in true | false}
    assert max(map(abs, z.values())) < 4, sorted(z.items(), key=lambda x: -abs(x[1]))[:5]


@pytest.mark.slow
def test_blind_ranker_is_at_chance_on_balanced_and_not_on_published(world):
    corpus, graphs, items = world
    generator = GENERATORS["rules-balanced"](WORLD, SlotFrequencies.count(corpus["train"], WORLD))
    made, _ = make_negatives(corpus["train"], generator, 4)
    navero = lexicon_named("navero")
    easy, _ = make_negatives(corpus["train"], GENERATORS["rules-published"](navero, english=None), 4)
    published, _ = aaro(corpus["test"], **by_rules("rules-published", navero, None))
    text = {c.caption_id: c.text for c in corpus["train"]}
    def average(train, test, form):
        pairs = pd.DataFrame([(text[n.caption_id], n.text) for n in train], columns=["caption", "negative"])
        table = accuracy_table(score_blind(pairs, items_table(test, corpus["test"], form)), ("acc",), n=500)
        return table[table.kind == "average"].iloc[0]
    balanced, open_ = average(made, items, "balanced"), average(easy, published, "published")
    assert balanced.low < 0.5 < balanced.high
    assert open_.low > 0.8


@pytest.mark.slow
def test_training_negatives_are_rarely_true(world):
    corpus, graphs, _ = world
    generator = GENERATORS["rules-balanced"](WORLD, SlotFrequencies.count(corpus["train"], WORLD))
    made, _ = make_negatives(corpus["train"], generator, 4)
    judged = verdicts(made, {c.caption_id: c.clip_id for c in corpus["train"]}, WorldOracle(graphs, CONFIG))
    assert (judged.verdict == "true").mean() < 0.02 and (judged.verdict != "outside").all()


@pytest.mark.slow
def test_one_caption_per_clip_does_not_depend_on_other_clips(world):
    corpus, _, _ = world
    some = corpus["test"][:40]
    all_of_them = one_caption_per_clip(some, lambda c: True, 0)
    alone = [one_caption_per_clip([c for c in some if c.clip_id == k.clip_id], lambda c: True, 0)[0]
             for k in all_of_them]
    assert all_of_them == alone


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "soil", "a star runs", "\0", "a star spins"])
def test_verdict_takes_any_text(text, world):
    assert verdict(text, next(iter(world[1].values()))) in ("true", "false", "outside")


@pytest.mark.slow
def test_lexicons_by_name():
    assert len(lexicon_named("world+navero")) == len(WORLD) + len(lexicon_named("navero"))
    with pytest.raises(VidnegError, match="no lexicon 'word'"): lexicon_named("word")
