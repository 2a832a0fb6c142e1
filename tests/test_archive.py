"Archives of results: same bytes every time, and a fresh clone is up to date after unpacking."
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from vidneg.core.errors import VidnegError
from vidneg.pipeline.archive import MANIFEST, cached_files, make_archive, outputs

DVC_YAML = """stages:
  train:
    cmd: python train.py
    deps: [train.py]
    outs: [data/runs, data/log.txt]
  report:
    cmd: python report.py
    deps: [report.py, data/runs]
    outs:
      - reports/tables: {cache: false}
      - reports/claims.md: {cache: false}
      - README.md: {cache: false}
"""
TRAIN = """from pathlib import Path
Path("data/runs/one/deep").mkdir(parents=True)
for name in ("a", "b", "z.bin", "deep/a", "deep.txt"): Path("data/runs/one", name).write_text(f"weights of {name}")
Path("data/runs/copy").write_text("weights of a")
Path("data/log.txt").write_text("done")
"""
REPORT = """from pathlib import Path
Path("reports/tables").mkdir(parents=True, exist_ok=True)
for name in ("b.md", "a.csv", "é.md"): Path("reports/tables", name).write_text(f"table {name}")
Path("reports/claims.md").write_text("holds")
Path("README.md").write_text("# Read me")
"""
IN_GIT = "dvc.yaml", "dvc.lock", "train.py", "report.py", "settings.ini", ".dvc/config", "reports", "README.md"


def dvc(root, *words):
    env = os.environ | {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(root.parent/"site"),
                        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run([sys.executable, "-m", "dvc", *words], cwd=root, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")/"it's a café"
    root.mkdir()
    for name, text in {"dvc.yaml": DVC_YAML, "train.py": TRAIN, "report.py": REPORT, "settings.ini": ""}.items():
        (root/name).write_text(text)
    dvc(root, "init", "--no-scm", "-q")
    with open(root/".dvc/config", "a") as file: file.write("    analytics = false\n    check_update = false\n")
    dvc(root, "repro", "-q")
    return root


@pytest.fixture
def project(made, tmp_path):
    shutil.copytree(made, tmp_path/"project")
    return tmp_path/"project"


def clone(project, folder):
    "Copy what git has."
    for name in IN_GIT:
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (project/name).is_dir() else shutil.copy)(project/name, folder/name)
    return folder


@pytest.mark.slow
def test_unpacked_clone_is_up_to_date(project, tmp_path):
    archive = make_archive(project, tmp_path/"a.tar.gz")
    fresh = clone(project, tmp_path/"fresh")
    assert json.loads(dvc(fresh, "status", "--json"))
    subprocess.run(["tar", "-xzf", archive], cwd=fresh, check=True)
    dvc(fresh, "checkout")
    assert json.loads(dvc(fresh, "status", "--json")) == {}
    for path in (project/"data").rglob("*"):
        if path.is_file(): assert (fresh/path.relative_to(project)).read_bytes() == path.read_bytes()


def test_same_results_give_the_same_bytes(project, tmp_path):
    one = make_archive(project, tmp_path/"one.tar.gz")
    for path in [*project.rglob("*")]: os.utime(path, (1, 1))
    again = tmp_path/"elsewhere"
    project.rename(again)
    assert one.read_bytes() == make_archive(again, tmp_path/"two.tar.gz").read_bytes()
    with tarfile.open(one) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar} == {(0, 0, 0, "", "")}
        assert all(m.isreg() and not Path(m.name).is_absolute() and ".." not in Path(m.name).parts for m in tar)


def test_manifest_lists_every_file(project, tmp_path):
    with tarfile.open(make_archive(project, tmp_path/"a.tar.gz")) as tar:
        held = {m.name: tar.extractfile(m).read() for m in tar}
    manifest = json.loads(held.pop(MANIFEST))
    assert {n: (len(d), hashlib.sha256(d).hexdigest()) for n, d in held.items()} == {
        n: (f["bytes"], f["sha256"]) for n, f in manifest["files"].items()}
    assert {"dvc.lock", "reports/claims.md", "reports/tables/é.md"} <= {*held} and "README.md" not in held
    assert manifest["commit"] == "" # no git here
    assert sum(d == b"weights of a" for d in held.values()) == 1 # two files, one object


def test_outputs_are_left_out_by_name(project, tmp_path):
    whole, part = (make_archive(project, tmp_path/f"{n}.tar.gz", w) for n, w in (("a", ()), ("b", ["data/runs"])))
    names = [set(tarfile.open(p).getnames()) for p in (whole, part)]
    md5, cached = outputs(project)["data/runs"]
    gone = {f".dvc/cache/{p.relative_to(project/'.dvc/cache').as_posix()}"
            for p, _ in cached_files(project/".dvc/cache", md5)}
    assert cached and names[0] - names[1] == gone
    with pytest.raises(VidnegError, match="no stage writes 'data/run'"):
        make_archive(project, tmp_path/"c.tar.gz", ["data/run"])


@pytest.mark.parametrize("harm, message", [
    ("object", "is damaged"), ("no object", "is missing"), ("report", "not the report of dvc.lock"),
    ("more reports", "not the report of dvc.lock"), ("no report", "not the report of dvc.lock"),
    ("no lock", "run `make reproduce`")])
def test_incomplete_results_are_refused(project, tmp_path, harm, message):
    objects = sorted(p for p in (project/".dvc/cache/files/md5").rglob("*") if p.is_file())
    if harm == "object":
        objects[0].chmod(0o644)
        objects[0].write_bytes(b"x")
    elif harm == "no object": objects[-1].unlink()
    elif harm == "report": (project/"reports/claims.md").write_text("fails")
    elif harm == "more reports": (project/"reports/tables/c.md").write_text("")
    elif harm == "no report": (project/"reports/claims.md").unlink()
    else: (project/"dvc.lock").unlink()
    with pytest.raises(VidnegError, match=message): make_archive(project, tmp_path/"out/a.tar.gz")
    assert not (tmp_path/"out").exists() or not list((tmp_path/"out").iterdir())


def test_cache_of_a_scale_is_that_of_the_project(project, tmp_path):
    scale = project/"scales/small"
    (scale/".dvc").mkdir(parents=True)
    (scale/".dvc/config").write_text("[core]\n    no_scm = True\n[cache]\n    dir = ../../../.dvc/cache\n")
    for name in ("dvc.yaml", "dvc.lock"): shutil.copy(project/name, scale/name)
    shutil.copytree(project/"reports", scale/"reports")
    names = tarfile.open(make_archive(scale, tmp_path/"a.tar.gz")).getnames()
    assert {"scales/small/dvc.lock", "scales/small/reports/claims.md"} <= {*names} and "dvc.lock" not in names
    assert [n for n in names if n.startswith(".dvc/cache/files/md5/")]
