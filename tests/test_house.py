"The rules of the repository: modules equal their notebooks, notebooks are clean and light, rooms import in order."
import ast
import json
import re
import subprocess
import tomllib
from copy import deepcopy
from pathlib import Path

import nbformat
import pytest
from execnb.nbio import nb2str, read_nb
from nbdev.clean import clean_nb
from nbdev.config import get_config
from nbdev.doclinks import _get_modidx

import vidneg
from vidneg.pipeline.export import export
from vidneg.pipeline.runner import declared
from vidneg.pipeline.stage import read_section, tagged

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(p.relative_to(ROOT) for p in (ROOT/"nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
# a room imports only from rooms before it; only tests, stages and docs import `world`
ROOMS = ["core", "text", "data", "lm", "negatives", "audit", "losses", "models", "train", "evaluate", "report", "probe",
         "cli", "world", "pipeline"]

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=str)


def exports(path):
    "Return the module that a notebook exports to, or None."
    found = re.search(r'"#\|\s*default_exp ([\w.]+)', (ROOT/path).read_text())
    return found and found[1]


EXPORTING = [p for p in NOTEBOOKS if exports(p)]


def project_files():
    "Return all files that git tracks or would add."
    command = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [ROOT/n for n in names if (ROOT/n).is_file()]


@pytest.mark.parametrize("path", EXPORTING, ids=str)
def test_module_equals_the_export_of_its_notebook(path, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    module = Path("vidneg", *exports(path).split(".")).with_suffix(".py")
    made = tmp_path/module
    made.parent.mkdir(parents=True)
    export(ROOT/path, tmp_path/"vidneg")
    # nbdev writes the path of the notebook relative to the module
    def text(p): return re.sub(r"\S*(?=nbs/\S+\.ipynb)", "", p.read_text())
    same = text(made) == text(ROOT/module)
    assert same, "run `make export`"


def test_every_module_has_a_notebook():
    modules = {".".join(p.relative_to(ROOT/"vidneg").with_suffix("").parts) for p in (ROOT/"vidneg").rglob("*.py")}
    made = {m for m in map(exports, NOTEBOOKS) if m and not m.endswith("__init__")}
    assert {m for m in modules if not m.split(".")[-1].startswith("_")} == made


@pytest.mark.parametrize("path", [p for p in EXPORTING if not exports(p).endswith("__init__")], ids=str)
def test_module_index_is_current(path):
    index = {}
    exec((ROOT/"vidneg/_modidx.py").read_text(), index)
    module = ROOT/Path("vidneg", *exports(path).split(".")).with_suffix(".py")
    wanted = _get_modidx(module, ROOT, nbs_path=ROOT/"nbs")
    assert wanted.items() <= index["d"]["syms"].items(), "run `make export`"


@each_notebook
def test_notebook_is_clean(path):
    config = get_config(path=ROOT)
    nb = read_nb(ROOT/path)
    before = nb2str(deepcopy(nb))
    clean_nb(nb, allowed_metadata_keys=config.allowed_metadata_keys.split(),
             allowed_cell_metadata_keys=config.allowed_cell_metadata_keys.split(), clean_ids=True)
    clean = nb2str(nb) == before
    assert clean, "run `make clean-notebooks`"


@each_notebook
def test_notebook_is_light(path):
    assert (ROOT/path).stat().st_size <= 100*1024
    assert len(json.loads((ROOT/path).read_text())["cells"]) <= 80


def test_the_map_leads_through_all_notebooks():
    cells = nbformat.read(ROOT/"nbs/map.ipynb", 4).cells
    found = {}
    exec(next(c.source for c in cells if "ORDER = {" in c.source), found)
    order = [f"{room}/{name}.ipynb".lstrip("/") for room, names in found["ORDER"].items() for name in names.split()]
    assert sorted([*order, "index.ipynb", "map.ipynb"]) == sorted(p.relative_to("nbs").as_posix() for p in NOTEBOOKS)
    for here, following in zip(order, [*order[1:], "map.ipynb"]):
        last = nbformat.read(ROOT/"nbs"/here, 4).cells[-1].source
        target = re.match(r"\*\*Next:\*\* \[[\w.]+\]\(([^)]+)\)", last)
        assert target and (ROOT/"nbs"/here).parent.joinpath(target[1]).resolve() == ROOT/"nbs"/following, here


@each_notebook
def test_cell_ids_are_unique(path):
    ids = [c["id"] for c in json.loads((ROOT/path).read_text())["cells"]]
    assert len(set(ids)) == len(ids)


def modules():
    "Yield the dotted name below vidneg and the syntax tree of every exported module."
    for path in sorted((ROOT/"vidneg").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT/"vidneg").with_suffix("").parts)
        if not name.split(".")[-1].startswith("_"): yield name, ast.parse(path.read_text())


def imports(name, tree):
    "Yield the modules below vidneg that a module imports, each with the imported names; registry strings do not count."
    package = ["vidneg", *name.split(".")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((a.name.split(".")[1:], []) for a in node.names if a.name.split(".")[0] == "vidneg")
        if not isinstance(node, ast.ImportFrom): continue
        up = package[:len(package) + 1 - node.level] if node.level else []
        at = [*up, *(node.module or "").split(".")] if node.module else up
        if at[:1] == ["vidneg"]: yield at[1:], [a.name for a in node.names]


def guesses(tree):
    "Return (function, kind) where code inspects an object for abilities that it should declare in `supports`."
    def found(node, function):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)): function = node.name
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Name) and called.id == "hasattr": yield function, "hasattr"
        if isinstance(called, ast.Name) and called.id == "getattr" and len(node.args) == 3:
            yield function, "getattr"
        caught = ast.unparse(node.type) if isinstance(node, ast.ExceptHandler) and node.type else ""
        if "AttributeError" in caught: yield function, "except"
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "inspect.signature":
            yield function, "signature"
        own = [s for s in node.body if isinstance(s, ast.Assign)] if isinstance(node, ast.ClassDef) else []
        yield from ((node.name, "borrowed") for s in own for t, v in pairs(s) if borrowed(t, v))
        for child in ast.iter_child_nodes(node): yield from found(child, function)
    def pairs(s):
        target, value = s.targets[0], s.value
        both = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
        return zip(target.elts, value.elts) if both else [(target, value)]
    def borrowed(target, value): # `similarity = OtherClass.similarity`
        return isinstance(target, ast.Name) and isinstance(value, ast.Attribute) and value.attr == target.id
    return list(found(tree, ""))


ALLOWED = {("models.hf", "has_features"), ("models.zoo", "completed")} # they may inspect what strangers made


def test_no_code_guesses_the_abilities_of_an_object():
    found = {name: [f"{f}: {what}" for f, what in guesses(tree) if (name, f) not in ALLOWED]
             for name, tree in modules()}
    assert not {name: places for name, places in found.items() if places}


def test_guesses_are_found():
    source = """
class A(B):
    similarity, match = C.similarity, C.match
    size = C.width
    def f(self):
        try: return getattr(self, "x")
        except (KeyError, AttributeError): return hasattr(self, "y") or getattr(self, "z", 0)
        return inspect.signature(self.f)
"""
    found = sorted(what for _, what in guesses(ast.parse(source)))
    assert found == ["borrowed", "borrowed", "except", "getattr", "hasattr", "signature"]


def test_private_names_stay_in_their_module():
    found = {name: [f"{'.'.join(at)}.{n}" for at, names in imports(name, tree) for n in names if n.startswith("_")]
             for name, tree in modules()}
    found = {name: taken for name, taken in found.items() if taken}
    assert not found


def test_rooms_import_only_from_rooms_above():
    against = set()
    for name, tree in modules():
        room = name.split(".")[0]
        assert room in ROOMS or room == name, f"{name} is in no room: see ROOMS"
        for at, names in imports(name, tree):
            other = (at or [n for n in names if n in ROOMS] or [room])[0]
            late = ROOMS.index(other) > ROOMS.index(room) or (other == "world" and room != "world")
            if late: against.add(f"{name} → {'.'.join(at)}")
    assert not against


def test_no_paths_of_one_machine():
    places = "|".join(["/" + p for p in (r"work/\w", r"root/\w", r"home/\w", r"Users/\w", "opt/", "tmp/ipykernel")])
    found = {}
    for path in project_files():
        if path.suffix in (".png", ".parquet", ".npy", ".mp4", ".safetensors"): continue
        hit = re.search(rf"(?<![\w.~}}$])({places})", path.read_text(encoding="utf-8", errors="ignore"))
        if hit: found[str(path.relative_to(ROOT))] = hit[0]
    assert not found


STAGES = {p.stem: nbformat.read(p, 4) for p in sorted((ROOT/"nbs/stages").glob("*.ipynb"))}
each_stage = pytest.mark.parametrize("stage", STAGES, ids=str)


@each_stage
def test_stage_reads_calls_writes_and_shows(stage):
    code = [c for c in STAGES[stage].cells if c.cell_type == "code"]
    tags = [c.metadata.get("tags", []) for c in code]
    assert [t[0] for t in tags if t] == ["parameters", "io"] and tags.index(["io"]) == tags.index(["parameters"]) + 1
    assert tagged(STAGES[stage], "io").count(f'begin("{stage}", globals())') == 1
    names = {n.id for n in ast.walk(ast.parse(tagged(STAGES[stage], "io"))) if isinstance(n, ast.Name)}
    assert {"reads", "writes"} <= names
    defined = [n.name for c in code for n in ast.walk(ast.parse(c.source)) if isinstance(n, ast.FunctionDef)]
    lengths = [len(c.source.splitlines()) for c in code[1:] if c.metadata.get("tags") != ["parameters"]]
    assert not defined and max(lengths) <= 20 and 5 <= len(code) <= 12, f"{defined} {lengths}"


@each_stage
def test_stage_has_its_parameters(stage):
    assert set(read_section(ROOT/"params.yaml", stage)) <= set(declared(STAGES[stage]))


def test_lock_file_pins_every_dependency_by_its_hash():
    project = tomllib.loads((ROOT/"pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    inside = re.search(r"vidneg\[(.+)\]", " ".join(extras["dev"]))[1].split(",") # the lock is that of `dev`
    direct = {re.match(r"[\w.-]+", line)[0] for line in
              [*project["project"]["dependencies"], *sum((extras[name] for name in ["dev", *inside]), [])]}
    lock = (ROOT/"requirements.lock").read_text()
    entries = re.split(r"\n(?! )", lock.strip())
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+( \\\n    --hash=sha256:[0-9a-f]{64})+", e) for e in entries)
    locked = {re.sub(r"[-_.]+", "-", e.split("==")[0]) for e in entries}
    assert {re.sub(r"[-_.]+", "-", n) for n in direct} - locked == {"torch", "vidneg"}
    assert project["tool"]["uv"]["constraint-dependencies"] == ["torch==2.13.0"]


def test_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT/"pyproject.toml").read_text())["project"]
    assert get_config(path=ROOT).version == project["version"] == vidneg.__version__
