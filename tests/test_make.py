"Make targets in a path with a space, an accent and a quote: each runs there and spares the neighboring folders."
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# `wheel` installs into an environment of its own; `.ci/run` calls it in such a path
TARGETS = sorted({*re.findall(r"^([a-z.-]+):[^#\n]*## ", (ROOT/"Makefile").read_text(), re.M)} - {"wheel"})
TOOLS = "python", "dvc", "jupyter", "nbdev_clean", "ruff", "typos", "basedpyright", "uv"
RECORD = '#!/bin/sh\nprintf "%s\\n" "$PWD" >> "$RECORD"\n'


@pytest.fixture
def checkout(tmp_path):
    "Copy the files that make needs, beside folders named like the first words of the path."
    root = tmp_path/"it's a café"/"vid neg"
    for name in ("Makefile", ".ci", "pyproject.toml", "requirements.lock", "nbs/core/files.ipynb"):
        (root/name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT/name).is_dir() else shutil.copy)(ROOT/name, root/name)
    for beside in (tmp_path/"it's", tmp_path/"it's a café"/"vid"):
        beside.mkdir()
        (beside/"thesis.tex").write_text("chapter 1")
    yield root
    for beside in (tmp_path/"it's", tmp_path/"it's a café"/"vid"):
        assert (beside/"thesis.tex").read_text() == "chapter 1"
        assert [p.name for p in beside.iterdir()] == ["thesis.tex"]


def make(root, *words, **env):
    env = {k: v for k, v in os.environ.items() if k not in ("VENV", "MAKEFLAGS", "PYTHON")} | env
    return subprocess.run(["make", "-C", root, *words], capture_output=True, text=True, env=env)


@pytest.mark.parametrize("target", TARGETS)
def test_target_runs_in_its_own_checkout(checkout, target, tmp_path):
    venv, record = checkout/".venv", tmp_path/"record"
    (venv/"bin").mkdir(parents=True)
    shutil.copy(checkout/"requirements.lock", venv/"requirements.lock")
    for tool in TOOLS:
        (venv/"bin"/tool).write_text(RECORD)
        (venv/"bin"/tool).chmod(0o755)
    (checkout/"reports/tables").mkdir(parents=True)
    (checkout/"reports/tables/main.md").touch()
    record.touch()
    done = make(checkout, target, RECORD=str(record))
    assert done.returncode == 0, done.stderr
    assert set(record.read_text().splitlines()) <= {str(checkout)}
    if target not in (".venv", "help"): assert record.read_text(), "no tool was called"


PIP = """import os, sys
open(os.environ["RECORD"], "a").write(sys.prefix + " " + " ".join(sys.argv[1:]) + chr(10))
"""


@pytest.mark.slow
@pytest.mark.parametrize("venv", [None, "my env", "absolute"])
def test_environment_is_made_at_the_given_path(checkout, venv, tmp_path):
    where = {None: checkout/".venv", "my env": checkout/"my env", "absolute": tmp_path/"an env"}[venv]
    (checkout/"pip.py").write_text(PIP) # found before the real one, which would install for minutes
    words = [] if venv is None else [f"VENV={where if venv == 'absolute' else venv}"]
    done = make(checkout, ".venv", *words, RECORD=str(tmp_path/"record"), PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    assert (where/"bin/python").exists() and (where/".made-by-vidneg").exists()
    calls = (tmp_path/"record").read_text().splitlines()
    assert len(calls) == 3 and all(c.startswith(f"{where} ") for c in calls)
    assert calls[0].endswith("install -qq torch==2.13.0"), "first, and on its own"
    assert "installing" not in make(checkout, ".venv", *words).stdout, "it is up to date"


@pytest.mark.parametrize("content", ["thesis.tex", "requirements.lock", "pyvenv.cfg"])
def test_foreign_folder_is_not_taken_for_an_environment(checkout, content):
    foreign = checkout/".venv"
    foreign.mkdir()
    (foreign/content).write_text("mine")
    done = make(checkout, ".venv", PYTHON=sys.executable)
    assert done.returncode != 0 and "was not made here and is left alone" in done.stderr
    assert [p.name for p in foreign.iterdir()] == [content] and (foreign/content).read_text() == "mine"


@pytest.mark.slow
def test_interrupted_environment_is_completed(checkout, tmp_path):
    (checkout/".venv").mkdir()
    (checkout/".venv/.made-by-vidneg").touch()
    (checkout/"pip.py").write_text(PIP)
    done = make(checkout, ".venv", RECORD=str(tmp_path/"record"), PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
