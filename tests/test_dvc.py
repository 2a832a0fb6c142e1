"dvc.yaml is made from notebooks, imports and registry names; a change makes only dependent stages stale."
import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from vidneg.pipeline.dvc import main, pipeline, render, stage_deps, stale, write_dvc
from vidneg.pipeline.stage import literals, paths, read_yaml, tagged

ROOT = Path(__file__).parents[1]
MODULES = {
    "__init__": "from . import unused\n_PLACES = {'match': 'text.lexicon'}", "unused": "", "core": "import os",
    "data/__init__": "from .films import *", "data/films": "from ..core import x\nGRAMMAR = open('films.lark')",
    "text/__init__": "", "text/lm": "import vidneg.data.films",
    "text/lexicon": "from vidneg.core import x\nLISTS, TABLE = 'lists', 'more/words.json'",
    "losses/registry": "LOSSES = Registry('loss', {'vtc': 'vidneg.losses.plain:vtc', 'hn': 'vidneg.losses.hard:hn',\n"
                       "                           'new': 'vidneg.losses.new:new'})\n"
                       "LOSS_SETS = Registry('loss set', {'all': {'losses': ['hn']}})",
    "losses/plain": "from vidneg.core import x", "losses/hard": "from .helper import y",
    "losses/helper": "", "losses/new": "",
    "train": "from .losses.registry import LOSSES\ndef fit(losses=('vtc',)): return [LOSSES[x] for x in losses]",
    "tune": "from .losses.registry import LOSSES\nhn = LOSSES['hn']",
}


@pytest.fixture
def root(tmp_path):
    (tmp_path/"nbs/stages").mkdir(parents=True)
    for name in ("settings.ini", "params.yaml"): (tmp_path/name).touch()
    for name, source in MODULES.items():
        path = tmp_path/f"vidneg/{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    (tmp_path/"vidneg/data/films.lark").touch()
    (tmp_path/"vidneg/text/lists").mkdir()
    (tmp_path/"vidneg/text/more").mkdir()
    (tmp_path/"vidneg/text/more/words.json").touch()
    return tmp_path.resolve()


def notebook(root, stage, *cells, parameters="count = 1", io="reads = []\nwrites = ['data/out']"):
    tagged = [new_code_cell(source, metadata={"tags": [tag]})
              for tag, source in (("parameters", parameters), ("io", io))]
    nbformat.write(new_notebook(cells=[*tagged, *map(new_code_cell, cells)]), root/f"nbs/stages/{stage}.ipynb")
    return f"nbs/stages/{stage}.ipynb"


def test_deps_follow_imports_and_data_files(root):
    path = notebook(root, "draw", "%matplotlib inline\nfrom vidneg.text import lexicon",
                    "def f():\n    from vidneg.data.films import *\n    return numpy")
    assert stage_deps(path, root) == [path, "vidneg/core.py", "vidneg/data/films.lark", "vidneg/data/films.py",
                                      "vidneg/text/lexicon.py", "vidneg/text/lists", "vidneg/text/more/words.json"]


@pytest.mark.parametrize("cell", ["import vidneg\nvidneg.match('a')", "from vidneg import match"])
def test_names_of_the_package_itself_lead_to_their_modules(root, cell):
    assert "vidneg/text/lexicon.py" in stage_deps(notebook(root, "draw", cell), root)


@pytest.mark.parametrize("cell, parameters, named", [
    ("from vidneg.losses.registry import LOSSES", {}, set()),
    ("from vidneg.losses.registry import LOSSES", {"runs": {"a": {"losses": ["hn"]}}}, {"hard", "helper"}),
    ("from vidneg.losses.registry import LOSSES", {"weights": {"hn": 2.0}}, {"hard", "helper"}),
    ("from vidneg.losses.registry import LOSSES\nLOSSES['vtc']", {}, {"plain"}),
    ("from vidneg.train import fit", {}, {"plain"}), # a default of the signature
    ("from vidneg.tune import hn", {}, {"hard", "helper"}), # looked up by the module itself
    ("import vidneg.core", {"losses": ["hn"]}, set()), # no module here looks up names
])
def test_deps_follow_registry_names(root, cell, parameters, named):
    found = {Path(d).stem for d in stage_deps(notebook(root, "draw", cell), root, parameters) if "losses/" in d}
    assert found == named, "the registry holds names only and is no dependency"


def test_a_registry_of_values_is_a_dependency_of_stages_that_name_them(root):
    path = notebook(root, "draw", "from vidneg.losses.registry import LOSS_SETS")
    assert "vidneg/losses/registry.py" not in stage_deps(path, root)
    assert "vidneg/losses/registry.py" in stage_deps(path, root, {"losses": "all"})


def test_lists_become_outputs_and_dependencies(root):
    (root/"params.yaml").write_text("draw: {kind: films, runs: {a: {}, b: {}}}\ncut: {folder: elsewhere}\n")
    notebook(root, "draw", parameters="kind = ''\nruns = {}",
             io="reads = ['data/{kind}']\nwrites = ['data/x/{runs}', 'reports/x.md']\n"
             "plots = {'loss': ['data/x/{runs}', 'epoch', 'loss']}")
    notebook(root, "cut", parameters="folder = ''", io="reads = []\nwrites = ['reports/cut']\nneeds = ['{folder}']")
    notebook(root, "no-section")
    found = pipeline(root)
    draw = {"cmd": ".ci/python -m vidneg.pipeline.runner draw", "deps": ["nbs/stages/draw.ipynb", "data/films"],
            "params": ["draw"], "outs": ["data/x/a", "data/x/b", {"reports/x.md": {"cache": False}}]}
    assert found["stages"]["draw"] == draw and list(found["stages"]) == ["cut", "draw"]
    assert found["stages"]["cut"]["frozen"]
    assert found["plots"] == [{"loss": {"x": "epoch", "y": {"data/x/a": "loss", "data/x/b": "loss"}}}]
    (root/"scales/small").mkdir(parents=True)
    (root/"scales/small/params.yaml").write_text("draw: {kind: stills, runs: {a: {}}}\ncut: {folder: elsewhere}\n")
    small = pipeline(root, root/"scales/small")["stages"]
    assert list(small) == ["draw"], "stages that need files from elsewhere belong to the root"
    assert small["draw"]["cmd"].startswith("../../.ci/python ")
    assert small["draw"]["deps"] == ["../../nbs/stages/draw.ipynb", "data/stills"]


def test_a_stage_without_lists_is_an_error(root, monkeypatch, capsys):
    (root/"params.yaml").write_text("draw: {}\n")
    nbformat.write(new_notebook(cells=[new_code_cell("1")]), root/"nbs/stages/draw.ipynb")
    monkeypatch.chdir(root)
    assert main([]) == 1 and "draw.ipynb has no cell tagged `io`" in capsys.readouterr().err


def test_dvc_yaml_is_rewritten_only_after_a_change(root, monkeypatch):
    (root/"params.yaml").write_text("draw: {}\n")
    notebook(root, "draw")
    monkeypatch.chdir(root)
    assert write_dvc(root) and not write_dvc(root) and main(["--check"]) == 0
    notebook(root, "draw", "import vidneg.core")
    assert main(["--check"]) == 1


def test_dvc_yaml_is_current():
    same = (ROOT/"dvc.yaml").read_text(encoding="utf-8") == render(pipeline(ROOT))
    assert same, "run `make dvc`"


STAGES = {p.stem: nbformat.read(p, 4) for p in sorted((ROOT/"nbs/stages").glob("*.ipynb"))}


def test_no_two_stages_write_the_same_path():
    written = [p for nb in STAGES.values()
               for p in paths(literals(tagged(nb, "io"))["writes"], literals(tagged(nb, "parameters")))]
    assert len(set(written)) == len(written)
    assert not [(a, b) for a in written for b in written if b.startswith(a + "/")]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    "Return the root of a copy of the checkout that tests may change."
    root = tmp_path_factory.mktemp("copy")
    for name in ("nbs", "vidneg"): shutil.copytree(ROOT/name, root/name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("settings.ini", "params.yaml"): shutil.copy(ROOT/name, root/name)
    return root.resolve()


def changed(before, root):
    "Return the stages that are stale against `before`: a dependency differs, or the lists of the stage do."
    after = pipeline(root)
    files = {d for s in before["stages"].values() for d in s["deps"] if (root/d).is_file()}
    moved = [d for d in files if (root/d).read_bytes() != (ROOT/d).read_bytes()]
    lists = [n for n, s in before["stages"].items() if after["stages"][n] != s]
    return sorted({*stale(before, moved), *lists})


@pytest.mark.slow
@pytest.mark.parametrize("path, stages", [
    ("vidneg/report/figures.py", {"audit", "cross_text", "figures", "scoreboard", "published", "events",
                                  "world_model"}), # the last is frozen
    ("nbs/stages/events.ipynb", {"events"}), ("nbs/stages/report.ipynb", {"report"}), ("nbs/index.ipynb", {"readme"})])
def test_a_changed_file_makes_only_dependent_stages_stale(copy, path, stages):
    before, text = pipeline(ROOT), (copy/path).read_text(encoding="utf-8")
    is_notebook = path.endswith("ipynb")
    other = text.replace('"cells": [', '"cells": [ ') if is_notebook else text + "\n# a word\n"
    (copy/path).write_text(other, encoding="utf-8")
    found = set(changed(before, copy))
    (copy/path).write_text(text, encoding="utf-8")
    assert found and found <= stages


def test_a_comment_in_render_makes_few_stages_stale(copy):
    before, path = pipeline(ROOT), copy/"vidneg/world/render.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(text + "\n# a comment\n", encoding="utf-8")
    found = changed(before, copy)
    path.write_text(text, encoding="utf-8")
    assert found == RENDERING


def test_a_new_loss_makes_no_stage_stale(copy):
    before, path = pipeline(ROOT), copy/"vidneg/losses/registry.py"
    if not path.exists(): pytest.skip("losses register themselves")
    text = path.read_text(encoding="utf-8")
    (copy/"vidneg/losses/toy.py").write_text("def toy(): pass\n")
    shutil.copy(copy/"nbs/losses/hard.ipynb", copy/"nbs/losses/toy.ipynb")
    path.write_text(text.replace('    "vtc":', '    "toy": "vidneg.losses.toy:toy",\n    "vtc":', 1), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != text
    assert changed(before, copy) == []
    path.write_text(text, encoding="utf-8")


RENDERING = ["data"] # the only stage that renders


def test_a_loss_belongs_to_the_stages_that_train_with_it():
    stages = read_yaml(ROOT/"dvc.yaml")["stages"]
    def stale(path): return {name for name, spec in stages.items() if path in spec["deps"]}
    assert stale("vidneg/losses/moment.py") == stale("vidneg/losses/windows.py") == {"moments"}
    assert not {"lm", "backbone", "data", "report"} & stale("vidneg/losses/hard.py")
    assert stale("vidneg/losses/registry.py") == set()
