"The runner: parameters, the kernel's environment, live output, the executed notebook, dependencies."
import io, json, os, subprocess, sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from vidneg.core.errors import VidnegError
from vidneg.pipeline.runner import (LiveStream, check_parameters, declared, main, output_folders, project_root,
                                    read_section, read_yaml, run_stage, set_scale, stage_deps)

PARAMS = """
defaults:
  draw: &draw {count: 10, rate: 1e-3}
scales:
  smoke: &smoke
    draw: {<<: *draw, count: 2}
  laptop: &laptop
    draw: *draw

<<: *laptop   # the scale
"""
TAG = {"tags": ["parameters"]}


def write_stage(root, stage, *sources, parameters="count = 1\nrate = 1.0"):
    nb = new_notebook(cells=[new_code_cell(parameters, metadata=TAG), *map(new_code_cell, sources)])
    nbformat.write(nb, root/f"nbs/stages/{stage}.ipynb")


@pytest.fixture
def root(tmp_path):
    (tmp_path/"nbs/pipeline").mkdir(parents=True)
    (tmp_path/"settings.ini").touch()
    (tmp_path/"params.yaml").write_text(PARAMS)
    return tmp_path


def test_root_is_found_from_below(root):
    assert project_root(root/"nbs/pipeline") == root.resolve()


def test_no_root_is_an_error(tmp_path):
    with pytest.raises(VidnegError, match="settings.ini"): project_root(tmp_path)


def test_section_is_resolved_as_dvc_resolves_it(root):
    assert read_section(root/"params.yaml", "draw") == {"count": 10, "rate": 0.001}


def test_missing_section_lists_the_others(root):
    with pytest.raises(VidnegError, match="no section 'drow'; it has: draw$"): read_section(root/"params.yaml", "drow")


@pytest.mark.parametrize("text, cause", [("a: [1", "not valid YAML"), (None, "does not exist")])
def test_unreadable_parameters(tmp_path, text, cause):
    if text: (tmp_path/"params.yaml").write_text(text)
    with pytest.raises(VidnegError, match=cause): read_yaml(tmp_path/"params.yaml")


def test_scale_changes_one_line_and_back(root):
    path = root/"params.yaml"
    set_scale(path, "smoke")
    assert read_section(path, "draw")["count"] == 2
    changed = [(a, b) for a, b in zip(PARAMS.splitlines(), path.read_text().splitlines()) if a != b]
    assert changed == [("<<: *laptop   # the scale", "<<: *smoke   # the scale")]
    set_scale(path, "laptop")
    assert path.read_text() == PARAMS


def test_unknown_scale_lists_the_scales(root):
    with pytest.raises(VidnegError, match="no scale 'huge'; it has: smoke, laptop"):
        set_scale(root/"params.yaml", "huge")


def test_parameters_are_those_of_the_tagged_cell():
    nb = new_notebook(cells=[new_code_cell("a, b = 1, 2\nc: int = 3\nimport os", metadata=TAG), new_code_cell("d = 4")])
    assert declared(nb) == ["a", "b", "c"]
    assert declared(new_notebook(cells=[new_markdown_cell("d = 4"), new_code_cell("d = 4")])) == []


def test_undeclared_parameter_is_named():
    with pytest.raises(VidnegError, match="does not declare cout; its parameters are: count, rate"):
        check_parameters({"cout": 1, "rate": 2}, ["count", "rate"], "draw.ipynb")


PROBE = """
import json, os, sys
names = ["PYTHONHASHSEED", "CUBLAS_WORKSPACE_CONFIG", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM"]
found = {n: os.environ[n] for n in names}
found |= dict(count=count, rate=rate, cwd=os.getcwd(), python=sys.executable, path=sys.path)
with open("data/deep/probe.json", "w") as f: json.dump(found, f)
"""


def test_stage_runs_in_a_fixed_environment(root, monkeypatch, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("home")
    spec = elsewhere/"kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["/bin/false"], "display_name": "broken", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(elsewhere))
    monkeypatch.setenv("PYTHONHASHSEED", "17")
    write_stage(root, "draw", PROBE)
    (root/"dvc.yaml").write_text("stages: {draw: {outs: [data/deep/probe.json]}}")
    monkeypatch.chdir(root/"nbs")
    run_stage("draw", extra={"count": 3})
    found = json.loads((root/"data/deep/probe.json").read_text())
    assert (found["count"], found["rate"]) == (3, 0.001)
    assert (found["PYTHONHASHSEED"], found["CUBLAS_WORKSPACE_CONFIG"]) == ("0", ":4096:8")
    assert found["OMP_NUM_THREADS"] == found["MKL_NUM_THREADS"] == "1"
    assert found["cwd"] == str(root.resolve()) and found["cwd"] in found["path"]
    assert found["python"] == sys.executable
    assert os.environ["PYTHONHASHSEED"] == "17", "the caller's environment is left alone"


NOISY = """
import sys, warnings
from tqdm import tqdm
for i in tqdm(range(3), desc="clips"): pass
print("three clips")
warnings.warn("one was empty")
object()
"""


def test_executed_notebook_is_the_same_twice(root, capfd):
    write_stage(root, "draw", NOISY)
    first = run_stage("draw", root=root).read_bytes()
    capfd.readouterr()
    assert run_stage("draw", root=root).read_bytes() == first
    shown = capfd.readouterr()
    assert "clips: 100%" in shown.err and "it/s" in shown.err and "\r" not in shown.err
    assert shown.out == "three clips\n"
    text = first.decode()
    assert "three clips" in text and "one was empty" in text
    for word in ("papermill", "start_time", "duration", "100%", " at 0x"): assert word not in text


def test_executed_notebook_carries_stage_and_commit(root):
    git = ["git", "-C", str(root), "-c", "user.name=n", "-c", "user.email=e"]
    write_stage(root, "draw", "count")
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "first"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    out = run_stage("draw@one", root=root)
    assert out == root/"reports/executed/draw@one.ipynb"
    assert nbformat.read(out, 4).metadata.vidneg == {"stage": "draw@one", "commit": head}
    (root/"params.yaml").write_text(PARAMS + "\n")
    assert nbformat.read(run_stage("draw", root=root), 4).metadata.vidneg.commit == head + "+changes"


def test_failure_names_the_cell_and_keeps_the_traceback(root, monkeypatch, capsys):
    write_stage(root, "draw", "before = 1", "raise ValueError('no clips')", "after = 1")
    monkeypatch.chdir(root)
    assert main(["draw"]) == 1
    message = capsys.readouterr().err
    assert "cell [4]" in message and "ValueError: no clips" in message and len(message.splitlines()) == 2
    assert "Traceback" in (root/"reports/executed/draw.ipynb").read_text()


def test_skipped_stage_says_why_and_is_no_failure(root, monkeypatch, capsys):
    write_stage(root, "draw", "from vidneg.core.errors import Skipped", "raise Skipped('no graphs')", "raise ValueError('after')")
    monkeypatch.chdir(root)
    assert main(["draw"]) == 0
    said = capsys.readouterr()
    assert said.out == "draw skipped: no graphs\n" and "ValueError" not in said.err


def test_dead_kernel_is_reported(root, monkeypatch, capsys):
    write_stage(root, "draw", "import os; os._exit(1)")
    monkeypatch.chdir(root)
    assert main(["draw"]) == 1
    assert "kernel died" in capsys.readouterr().err


@pytest.mark.parametrize("argv, message", [
    (["drow"], "drow.ipynb does not exist; pipeline/ has: draw"),
    (["draw", "cout=1"], "does not declare cout"),
    (["--scale", "huge"], "no scale 'huge'"),
])
def test_command_line_errors_are_one_line(root, monkeypatch, capsys, argv, message):
    write_stage(root, "draw", "count")
    monkeypatch.chdir(root)
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_output_folders_stop_at_a_template(tmp_path):
    (tmp_path/"dvc.yaml").write_text("""
stages:
  train:
    foreach: [a, b]
    do:
      outs: ["data/runs/${item}/model.safetensors", data/x.npy: {persist: true}]
      metrics: [reports/metrics/train.json: {cache: false}]
""")
    assert [str(p) for p in output_folders(tmp_path/"dvc.yaml", "train")] == ["data", "data/runs", "reports/metrics"]
    assert output_folders(tmp_path/"dvc.yaml", "other") == []


def test_log_shows_a_bar_once_in_a_while():
    log = LiveStream(io.StringIO(), every=1000)
    for i in range(100): log.write(f"\rclips: {i:3d}% ")
    log.write("\rclips: 100%\nsaved")
    log.write(" all\n")
    assert log.stream.getvalue() == "clips: 100%\nsaved all\n"


def test_terminal_gets_what_the_kernel_wrote():
    class Terminal(io.StringIO):
        def isatty(self): return True
    live = LiveStream(Terminal())
    for text in ("\r 1%", "\r 2%", "\n"): live.write(text)
    assert live.stream.getvalue() == "\r 1%\r 2%\n"


def test_deps_follow_imports_and_data_files(root):
    modules = {
        "__init__": "from . import unused", "unused": "", "core": "import os",
        "data/__init__": "from .world import *", "data/world": "from ..core import x\nGRAMMAR = open('world.lark')",
        "text/__init__": "", "text/lm": "import vidneg.world.script",
        "text/lexicon": "from vidneg.core import x\nLISTS, TABLE = 'lists', 'more/words.json'",
    }
    for name, source in modules.items():
        path = root/f"vidneg/{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    (root/"vidneg/world/script.lark").touch()
    (root/"vidneg/text/lists").mkdir()
    (root/"vidneg/text/more").mkdir()
    (root/"vidneg/text/more/words.json").touch()
    write_stage(root, "draw", "%matplotlib inline\nfrom vidneg.text import lexicon",
                "def f():\n    from vidneg.world.script import *\n    return numpy")
    assert stage_deps("nbs/stages/draw.ipynb", root) == [
        "nbs/stages/draw.ipynb", "vidneg/core.py", "vidneg/world/script.lark", "vidneg/world/script.py",
        "vidneg/text/lexicon.py", "vidneg/text/lists", "vidneg/text/more/words.json"]
