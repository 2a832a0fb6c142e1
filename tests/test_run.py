"The runner: parameters, the kernel's environment, live output, the executed notebook, and interruption."
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from vidneg.core.errors import VidnegError
from vidneg.core.files import project_root
from vidneg.pipeline.runner import LiveStream, check_parameters, declared, main, read_value, run_stage
from vidneg.pipeline.stage import begin, clean_on_save, read_section, read_yaml, scale_folder

ROOT = Path(__file__).parents[1]
PARAMS = "draw: {count: 10, rate: 1e-3}\n"
TAG = {"tags": ["parameters"]}


def write_stage(root, stage, *sources, parameters="count = 1\nrate = 1.0"):
    nb = new_notebook(cells=[new_code_cell(parameters, metadata=TAG), *map(new_code_cell, sources)])
    nbformat.write(nb, root/f"nbs/stages/{stage}.ipynb")


@pytest.fixture
def root(tmp_path):
    (tmp_path/"nbs/stages").mkdir(parents=True)
    (tmp_path/"settings.ini").touch()
    (tmp_path/"params.yaml").write_text(PARAMS)
    return tmp_path


def test_root_is_found_from_below(root):
    assert project_root(root/"nbs/stages") == root.resolve()


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
os.makedirs("data/deep")
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
    out = run_stage("draw", root=root)
    assert out == root/"reports/executed/draw.ipynb"
    assert nbformat.read(out, 4).metadata.vidneg == {"stage": "draw", "commit": head}
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
    write_stage(root, "draw", "from vidneg.core.errors import Skipped",
                "raise Skipped('no graphs')", "raise ValueError('after')")
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
    (["drow"], "drow.ipynb does not exist; stages/ has: draw"),
    (["draw", "cout=1"], "does not declare cout"),
    (["draw", "count=2020-01-01"], "count=2020-01-01 is a date, which no notebook takes"),
    (["draw", "count=@home"], "count=@home is not valid YAML; for a text, write count='\"@home\"'"),
    (["draw", "count=[open"], "count=[open is not valid YAML"), (["draw", "count={a: [}"], "is not valid YAML"),
    (["draw", "count=*x"], "is not valid YAML"), (["draw", "count=007"], "is read as the number 7; for a text"),
    (["draw", "count=!!set {a, b}"], "which no notebook takes"), (["draw", "count=a: b: c"], "is not valid YAML"),
])
def test_command_line_errors_are_one_line(root, monkeypatch, capsys, argv, message):
    write_stage(root, "draw", "count")
    monkeypatch.chdir(root)
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("text, value", [
    ("3", 3), ("0.5", 0.5), ("1.0e-3", 0.001), ("0", 0), ("true", True), ("[1, 2]", [1, 2]), ("{a: b}", {"a": "b"}),
    ("'2020-01-01'", "2020-01-01"), ('"@home"', "@home"), ("clips/a=b", "clips/a=b"), ('"007"', "007"), ("-5", -5)])
def test_values_of_the_command_line(text, value): assert read_value(f"count={text}") == ("count", value)


def test_a_date_in_the_parameter_file_is_named(root, monkeypatch, capsys):
    write_stage(root, "draw", "count")
    (root/"params.yaml").write_text("draw:\n  count: 2020-01-01\n")
    monkeypatch.chdir(root)
    assert main(["draw"]) == 1
    assert "count=2020-01-01 is a date" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["reports", "reports/executed"])
def test_a_file_in_place_of_the_reports(root, monkeypatch, capsys, place):
    write_stage(root, "draw", "count")
    (root/place).parent.mkdir(exist_ok=True)
    (root/place).write_text("mine")
    monkeypatch.chdir(root)
    assert main(["draw"]) == 1
    error = capsys.readouterr().err
    assert "cannot make the folder" in error and error.count("\n") == 1 and (root/place).read_text() == "mine"


def test_a_folder_in_place_of_the_executed_notebook(root, monkeypatch, capsys):
    write_stage(root, "draw", "count")
    (root/"reports/executed/draw.ipynb").mkdir(parents=True)
    monkeypatch.chdir(root)
    assert main(["draw"]) == 1 and "draw.ipynb is a folder: move it away" in capsys.readouterr().err


def test_log_shows_progress_bars_rarely():
    log = LiveStream(io.StringIO(), every=1000)
    for i in range(100): log.write(f"\rclips: {i:3d}% ")
    log.write("\rclips: 100%\nsaved")
    log.write(" all\n")
    assert log.stream.getvalue() == "clips: 100%\nsaved all\n"


def test_terminal_gets_the_output_of_the_kernel_unchanged():
    class Terminal(io.StringIO):
        def isatty(self): return True
    live = LiveStream(Terminal())
    for text in ("\r 1%", "\r 2%", "\n"): live.write(text)
    assert live.stream.getvalue() == "\r 1%\r 2%\n"


def test_stage_runs_in_the_folder_of_the_call(root, monkeypatch):
    folder = root/"scales/small"
    folder.mkdir(parents=True)
    (folder/"params.yaml").write_text("draw: {count: 2}\n")
    write_stage(root, "draw", "open('count.txt', 'w').write(str(count))")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("VIDNEG_SCALE", "laptop")
    assert run_stage("draw") == folder/"reports/executed/draw.ipynb"
    assert (folder/"count.txt").read_text() == "2" and not (root/"count.txt").exists()


def test_a_stage_run_by_hand_uses_the_scale_of_the_environment(root, monkeypatch):
    (root/"scales/small/data/films").mkdir(parents=True)
    (root/"scales/small/params.yaml").write_text("draw: {count: 2, kind: films}\n")
    monkeypatch.setenv("VIDNEG_SCALE", "small")
    monkeypatch.chdir(root/"nbs/stages")
    names = {"count": 1, "kind": "", "reads": ["data/{kind}"], "writes": ["data/out/counts"]}
    begin("draw", names)
    assert (names["count"], Path.cwd()) == (2, root/"scales/small") and (root/"scales/small/data/out").is_dir()
    monkeypatch.chdir(root/"nbs/stages")
    monkeypatch.setenv("VIDNEG_STAGE", "draw")
    begin("draw", names | {"count": 7, "kind": "films"})
    monkeypatch.setenv("VIDNEG_SCALE", "huge")
    with pytest.raises(VidnegError, match="make reproduce SCALE=huge"): scale_folder(root)


def test_missing_input_names_the_stage_that_writes_it(root, monkeypatch):
    (root/"params.yaml").write_text("draw: {kind: films}\n")
    write_stage(root, "cut", parameters="kind = 'films'")
    nb = nbformat.read(root/"nbs/stages/cut.ipynb", 4)
    nb.cells.append(new_code_cell("reads = []\nwrites = ['data/{kind}']", metadata={"tags": ["io"]}))
    nbformat.write(nb, root/"nbs/stages/cut.ipynb")
    monkeypatch.chdir(root/"nbs/stages")
    with pytest.raises(VidnegError, match="draw reads data/films, which does not exist; run .* dvc repro cut"):
        begin("draw", {"reads": ["data/{kind}"], "writes": []})


def test_saving_a_stage_run_by_hand_keeps_it_clean(monkeypatch):
    path = "nbs/stages/frames.ipynb"
    before = json.loads((ROOT/path).read_text())
    content = json.loads((ROOT/path).read_text())
    for i, cell in enumerate(c for c in content["cells"] if c["cell_type"] == "code"):
        cell |= {"execution_count": i, "outputs": [{"output_type": "stream", "name": "stdout", "text": "3 clips"}]}
        cell["metadata"]["execution"] = {"iopub.status.busy": "2000-01-01"}
    content["metadata"]["language_info"] = {"name": "python", "version": "3.99"}
    monkeypatch.chdir(ROOT)
    clean_on_save({"type": "notebook", "content": content}, path=path)
    assert content == before


WRITING = """
import time
from pathlib import Path
import subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3); open('worker', 'w')"])
Path("started").touch()
time.sleep(3)
Path("data").mkdir()
Path("data/late").write_text("1")
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("dvc"), reason="no dvc on the PATH")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_killing_dvc_ends_its_stage(root, how):
    write_stage(root, "draw", WRITING)
    (root/".ci").mkdir()
    shutil.copy(ROOT/".ci/python", root/".ci/python")
    (root/"dvc.yaml").write_text("stages: {draw: {cmd: .ci/python -m vidneg.pipeline.runner draw, outs: [data/late]}}")
    env = os.environ | {"VENV": sys.prefix, "PYTHONPATH": str(ROOT)}
    subprocess.run(["dvc", "init", "--no-scm", "-q"], cwd=root, env=env, check=True)
    dvc = subprocess.Popen(["dvc", "repro", "-q"], cwd=root, env=env)
    while not (root/"started").exists(): time.sleep(0.05)
    dvc.send_signal(how)
    assert dvc.wait() != 0
    time.sleep(5)
    assert not (root/"data/late").exists() and not (root/"worker").exists()
