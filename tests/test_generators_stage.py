"The stages `negatives`, `generators` and `audit` on a few clips."
import pickle
from collections import Counter

import pandas as pd
import pytest
import torch
from stages import run

from vidneg.audit.blind import wilson
from vidneg.core.records import Caption, Clip, Negative, SceneGraph, read_records, write_records
from vidneg.data.batches import digest
from vidneg.lm.backends import fill_mask
from vidneg.lm.mlm import CaptionMlm, word_tokenizer
from vidneg.negatives.components.make import KINDS
from vidneg.negatives.mlm import NamedLm
from vidneg.text.edits import undo
from vidneg.text.lexicon import CATEGORIES
from vidneg.text.parse import PIPELINE
from vidneg.world.oracle import verdict
from vidneg.world.script import WorldConfig, captions, make_clip

pytestmark = pytest.mark.skipif(not PIPELINE.exists(), reason="the pipeline is not there: run the stage `parser`")
CONFIG, SIZES = WorldConfig(), {"train": 8, "test": 6}
SCRIPTS = {split: [make_clip(split, i, CONFIG) for i in range(n)] for split, n in SIZES.items()}
CORPUS = {split: [c for s in some for c in captions(s, CONFIG)] for split, some in SCRIPTS.items()}
FINE = [c for c in CORPUS["train"] if c.grain == "fine"]


def dataset(root):
    scripts = [(split, s) for split, some in SCRIPTS.items() for s in some]
    write_records(root/"data/dataset/clips.parquet",
                  [Clip(s.clip_id, "none.mp4", 0., 1., split) for split, s in scripts])
    write_records(root/"data/dataset/captions.parquet", [c for some in CORPUS.values() for c in some])
    write_records(root/"data/dataset/graphs.parquet", [s.graph for _, s in scripts], SceneGraph)
    texts = [c.text for c in CORPUS["train"]]
    CaptionMlm(word_tokenizer(texts), width=16, layers=1, heads=2).save(root/"data/lm")


def written(*folders):
    "Return the hash of every file by its name."
    return {p.name: digest(p.read_bytes()) for f in folders for p in sorted(f.iterdir())}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    "Run the stages in two folders; return the folders."
    torch.set_num_threads(1)
    roots = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    with pytest.MonkeyPatch.context() as monkeypatch:
        for root in roots:
            (root/"settings.ini").touch()
            dataset(root)
            run("negatives", root, monkeypatch)
            run("generators", root, monkeypatch, clips=5, rounds=2)
            run("audit", root, monkeypatch, shares=[0.5])
    return roots


@pytest.mark.slow
def test_stages_write_the_same_bytes_again(done):
    one, two = (written(root/"data/generated", root/"reports/audit") for root in done)
    assert one == two and len(one) > 30


@pytest.mark.slow
def test_every_generator_and_kind_is_there(done):
    rates = pd.read_parquet(done[0]/"data/generated/rates.parquet")
    kinds = rates.groupby(["part", "set"]).kind.agg(set)
    assert kinds["train", "components"] == kinds["test", "components"] == {*KINDS, "all"}
    assert kinds["train", "navero-mixed"] == kinds["train", "lm"] == {*CATEGORIES, "all"}
    spot = {"neighborhood attribute", "counterfactual action", "counterfactual attribute"}
    assert spot < kinds["train", "spot-balanced"]
    assert rates.covered.between(0, 1).all() and (rates.among > 0).all()
    whole = rates[(rates.part == "train") & (rates["set"] == "navero-mixed")]
    assert set(whole.among) == {len(FINE)}


@pytest.mark.slow
def test_negatives_for_testing_are_false_of_their_clips(done):
    folder, graphs = done[0]/"data/generated", {s.clip_id: s.graph for s in SCRIPTS["test"]}
    for name in ("aaro-lm", "aaro-mixed", "components", "spot-balanced"):
        own = folder/f"test-{name}-captions.parquet"
        known = {c.caption_id: c for c in (read_records(own, Caption) if own.exists() else CORPUS["test"])}
        negatives = read_records(folder/f"test-{name}.parquet", Negative)
        said = Counter((n.kind, verdict(n.text, graphs[known[n.caption_id].clip_id])) for n in negatives)
        others = {"positive": "true", "negated passive": "outside"}
        assert negatives and all(v == others.get(k, "false") for k, v in said)
        assert all(undo(n.text, n.edits) == known[n.caption_id].text for n in negatives)


@pytest.mark.slow
def test_training_negatives_undo_to_their_captions(done):
    made = read_records(done[0]/"data/generated/navero-mixed.parquet", Negative)
    texts = {c.caption_id: c.text for c in FINE}
    assert max(Counter(n.caption_id for n in made).values()) <= 4
    assert {n.caption_id for n in made} == set(texts)
    assert all(undo(n.text, n.edits) == texts[n.caption_id] for n in made)


@pytest.mark.slow
def test_tables_and_pages_agree(done):
    out = done[0]/"reports/audit"
    table, rates = pd.read_csv(out/"audit.csv"), pd.read_csv(out/"generators.csv")
    assert {f"{s.replace('/', '-')}.html" for s in table.set} == {p.name for p in out.glob("*.html")}
    assert "train/balanced" in set(table.set) and "train/balanced" in set(rates.part + "/" + rates["set"])
    assert "train/rules-balanced" not in set(table.set), "audited as train/balanced"
    assert table.before.between(0, 1).all() and (table.kept_items <= table.measured).all()
    assert (table.before_low <= table.before).all() and (table.before <= table.before_high).all()
    tested = rates[rates.part == "test"]
    assert (tested.wrong.dropna() == 0).all()
    for page in out.glob("*.html"):
        assert "Items kept" not in page.read_text() and "<h2>Refinement</h2>" in page.read_text()
    assert len((out/"audit.md").read_text().splitlines()) == len(table) + 6


@pytest.mark.slow
@pytest.mark.parametrize("given", [str, lambda folder: {"name_or_folder": str(folder), "batch_size": 3}])
def test_a_named_model_equals_the_model_itself(done, given):
    spec = given(done[0]/"data/lm")
    known = pickle.loads(pickle.dumps(NamedLm(spec)))
    texts = [c.text.replace(" a ", " [MASK] ", 1) for c in FINE if " a " in c.text][:7]
    assert known.fill(texts, 4) == fill_mask(spec).fill(texts, 4) and known.name == fill_mask(spec).name
    assert known._backend() is NamedLm(spec)._backend() # loaded once


@pytest.mark.slow
@pytest.mark.parametrize("n", range(1, 60))
def test_interval_contains_its_value(n):
    "Rounding must not put an end of the interval inside a share of 0 or 1."
    for p, low, high in (wilson([1.]*n, range(n)), wilson([0.]*n, range(n))): assert low <= p <= high


@pytest.mark.slow
def test_training_sets_of_navero_are_as_published(done):
    read = {run: read_records(done[0]/f"data/generated/{run}.parquet", Negative)
            for run in ("navero", "rule_5r", "lm_5r", "mixed_1r", "mixed_5r_old")}
    for made in read.values(): assert max(Counter(n.caption_id for n in made).values()) == 1
    assert all(len(n.edits) == 1 for n in read["mixed_1r"])
    for name in ("navero", "rule_5r", "mixed_5r_old"): # five rounds, each in a category drawn anew
        assert sum(n.kind == "mixed" for n in read[name]) > len(read[name])/2
        assert max(len(n.edits) for n in read[name]) > 2
    assert {n.generator for n in read["navero"]} == {"mixed"} and {n.generator for n in read["lm_5r"]} == {"lm"}
    assert {n.generator for n in read["rule_5r"]} == {"rules-published"}


@pytest.mark.slow
def test_items_are_in_words_that_the_oracle_knows(done):
    graphs = {s.clip_id: s.graph for s in SCRIPTS["test"]}
    clip_of = {c.caption_id: c.clip_id for c in CORPUS["test"]}
    for form in ("rules", "balanced"):
        items = read_records(done[0]/f"data/negatives/aaro-test-{form}.parquet", Negative)
        assert items and {n.generator for n in items} == {"rules-" + form.replace("rules", "published")}
        assert {verdict(n.text, graphs[clip_of[n.caption_id]]) for n in items} == {"false"}
        assert all(len(n.edits) == 1 for n in items)
