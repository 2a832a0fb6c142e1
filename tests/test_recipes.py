"The table of recipes: values are read and never typed, differences from a paper are explained, the page is current."
import dataclasses
from pathlib import Path

import pytest

from vidneg.models.moment import MomentConfig
from vidneg.pipeline import recipes
from vidneg.pipeline.recipes import (
    Fact,
    agrees,
    main,
    model_config,
    read_facts,
    recipe_rows,
    recipes_page,
    resolved,
    shown,
    superfluous,
    unexplained,
    value_of,
)
from vidneg.pipeline.scales import scales
from vidneg.pipeline.stage import RunError

ROOT = Path(__file__).parents[1]
FACTS = read_facts(ROOT/"scales/paper/published.yaml")


@pytest.fixture(scope="module")
def rows(): return recipe_rows(FACTS, ROOT)


def test_every_difference_from_a_paper_is_explained(rows): assert unexplained(rows) == []


def test_no_explanation_has_outlived_its_difference(rows): assert superfluous(rows) == []


def test_published_values_have_their_place():
    for title, some in FACTS.values():
        assert not [f.what for f in some if f.paper is not None and not f.place], title
        assert not [f.what for f in some if f.paper is None and (f.why or f.same)], title
        assert len({f.what for f in some}) == len(some), title


def test_no_fact_types_a_value_that_a_scale_has():
    for _, some in FACTS.values():
        for f in some:
            places = [f.ours] if isinstance(f.ours, str) else f.ours
            assert f.says is None or all(p.startswith("code ") for p in places), f.what


@pytest.mark.parametrize(("what", "paper", "recipe"), [
    ("weight decay", .2, "navero-pretraining"), ("initial learning rate", 1e-4, "navero-pretraining"),
    ("AARO-DiDeMo: batch size", 24, "navero-datasets"), ("AARO-COCO: batch size", 512, "navero-datasets"),
    ("AARO-MSRVTT: epochs", 5, "navero-datasets"), ("rounds", 5, "navero-negatives"),
    ("cosine decay to", 1e-6, "spot-post"), ("frames", 4, "spot-post")])
def test_published_numbers_are_those_of_the_papers(what, paper, recipe):
    fact, = (f for f in FACTS[recipe][1] if f.what == what)
    assert fact.paper == paper


def test_table_7_is_there_to_the_number():
    table = {"MSRVTT": (1e-5, 32, 5, 12, 12), "DiDeMo": (1e-5, 24, 10, 12, 12), "ActivityNet": (1e-5, 32, 10, 12, 12),
             "COCO": (1e-5, 512, 10, 1, 1)}
    whats = "initial learning rate", "batch size", "epochs", "training frames", "inference frames"
    found = {f.what: f for f in FACTS["navero-datasets"][1]}
    for data, values in table.items():
        assert tuple(found[f"AARO-{data}: {what}"].paper for what in whats) == values


def test_scales_of_facts_exist():
    assert {f.preset for _, some in FACTS.values() for f in some} <= set(scales(ROOT))


def test_resolved_parameters_follow_defaults_file_and_overlays():
    laptop, paper = resolved("laptop", ROOT), resolved("paper", ROOT)
    assert laptop["pretrain"]["warmup"] == .1                # the notebook's default
    assert laptop["pretrain"]["batch_size"] == 32            # params.yaml
    assert paper["pretrain"]["batch_size"] == 64             # the overlay
    assert "width" not in paper["backbone"]["model"]         # null removes
    assert model_config("navero", paper).spacetime_layers == 12
    assert model_config("moments", paper) == MomentConfig.paper()


def test_values_are_read_from_parameters_configs_and_code():
    params = resolved("laptop", ROOT)
    read = lambda ours, **more: value_of(Fact("x", ours, **more), params)
    assert read("finetune.runs.vanilla.losses") == ["vtc", "vtm"]
    assert read("finetune.runs.vanilla.no_such_key.deeper") is None
    assert read("config navero.text_layers + navero.fusion_layers") == 4
    assert read("code vidneg.train.loop:TrainConfig.clip_norm") == 1.0
    assert read("code vidneg.models.xclip:XClip", says="X-CLIP") == "X-CLIP"
    assert read(["pretrain.n_frames", "finetune.n_frames"]) == "8, 8"


@pytest.mark.parametrize("ours", ["finetune.no_such", "no_such.epochs", "config navero.no_such",
                                  "code vidneg.models.xclip:NoSuch", "code vidneg.no_such:X"])
def test_a_place_that_does_not_exist_is_named(ours):
    with pytest.raises(RunError, match="no_such|NoSuch"): value_of(Fact("x", ours), resolved("laptop", ROOT))


def test_agreement():
    assert agrees(Fact("x", "y", 64, "T"), 64) and not agrees(Fact("x", "y", 64, "T"), 63)
    assert agrees(Fact("x", "y"), 3) is None
    assert agrees(Fact("x", "y", ["vtc"], "T"), ("vtc",)) and not agrees(Fact("x", "y", ["vtc"], "T"), None)
    assert agrees(Fact("x", "y", "unweighted", "T", same=(None,)), None)
    assert agrees(Fact("x", "y", 0, "T"), 0) and not agrees(Fact("x", "y", 0, "T"), 1)


def test_unexplained_and_superfluous_name_the_choice():
    def row(paper, ours, why=""):
        fact = Fact("batch size", "pretrain.batch_size", paper, "Table 7", why=why)
        return dict(recipe="r", fact=fact, ours=ours, agrees=agrees(fact, ours))
    assert "batch size" in unexplained([row(63, 64)])[0] and "Table 7" in unexplained([row(63, 64)])[0]
    assert unexplained([row(63, 64, "memory"), row(64, 64)]) == []
    assert superfluous([row(64, 64, "memory")]) and not superfluous([row(63, 64, "memory")])


def test_a_fact_with_an_unknown_field_is_refused(tmp_path):
    (tmp_path/"f.yaml").write_text("a:\n  title: A\n  facts:\n    - {what: x, ours: a.b, wrong: 1}\n")
    with pytest.raises(RunError, match="'x'.*wrong"): read_facts(tmp_path/"f.yaml")


def test_shown_values():
    values = None, "", True, [], {}, 1e-5, {"a": [1, 2]}
    assert [shown(v) for v in values] == [*"––", "yes", *"––", "1e-05", "a: 1 + 2"]


def test_the_page_is_current(capsys): assert main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_page_fails(monkeypatch, capsys):
    monkeypatch.setattr(recipes, "recipes_page", lambda root: "another")
    assert main(["--check"]) == 1 and "make recipes" in capsys.readouterr().err


def test_the_page_has_a_line_per_fact(rows):
    page = recipes_page(ROOT)
    assert page.count("\n| ") == len(rows) + 2*len(FACTS) # and two lines of each table's head
    assert "no reason is given" not in page


def test_facts_are_values(): assert dataclasses.is_dataclass(Fact) and hash(Fact("a", "b")) == hash(Fact("a", "b"))
