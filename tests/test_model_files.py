"Model folders: files that all models share."
import json
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from vidneg.core.errors import VidnegError
from vidneg.models.io import load, read_config, save
from vidneg.models.registry import CLASSES


@dataclass(frozen=True)
class Sizes:
    width: int = 3
    names: tuple[str, ...] = ("a", "é")


class Line(nn.Linear):
    config_class = Sizes

    def __init__(self, config, seed=0):
        super().__init__(config.width, 2)
        self.config = config


@pytest.fixture(autouse=True)
def registered():
    CLASSES["Line"] = Line
    yield
    del CLASSES["Line"]


def test_files_of_a_model(tmp_path):
    line = Line(Sizes())
    line.weight = nn.Parameter(line.weight.detach().T.contiguous().T) # safetensors refuses this layout
    assert save(line, tmp_path/"deep"/"model") == tmp_path/"deep"/"model"
    assert sorted(p.name for p in (tmp_path/"deep"/"model").iterdir()) == ["config.json", "model.safetensors"]
    text = (tmp_path/"deep"/"model"/"config.json").read_text()
    assert text == '{\n  "model": "Line",\n  "width": 3,\n  "names": [\n    "a",\n    "\\u00e9"\n  ]\n}\n'
    again = load(tmp_path/"deep"/"model")
    assert torch.equal(line.weight, again.weight) and torch.equal(line.bias, again.bias)
    save(again, tmp_path/"again")
    assert list(read_config(tmp_path/"again").items())[0] == ("model", "Line")
    assert len({(p/"model.safetensors").read_bytes() for p in (tmp_path/"deep"/"model", tmp_path/"again")}) == 1


def test_a_failed_write_leaves_the_old_files(tmp_path, monkeypatch):
    line = Line(Sizes())
    save(line, tmp_path)
    before = (tmp_path/"model.safetensors").read_bytes()
    def fail(weights, path):
        path.write_bytes(b"half")
        raise OSError("disk full")
    monkeypatch.setattr("vidneg.models.io.save_file", fail)
    with pytest.raises(OSError, match="disk full"): save(Line(Sizes()), tmp_path)
    assert (tmp_path/"model.safetensors").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("harm, message", [
    (lambda f: (f/"config.json").unlink(), "config.json does not exist"),
    (lambda f: (f/"model.safetensors").unlink(), "model.safetensors does not exist"),
    (lambda f: (f/"config.json").write_text("{"), "holds no config"),
    (lambda f: (f/"config.json").write_bytes(b"\xff"), "holds no config"),
    (lambda f: (f/"config.json").write_text("3"), "holds no config"),
    (lambda f: (f/"config.json").write_text(json.dumps({"model": "Line", "depth": 1})),
     "no Line of this version.*depth"),
    (lambda f: (f/"config.json").write_text(json.dumps({"model": "Line", "width": 4})),
     "no Line of this version.*size mismatch"),
    (lambda f: (f/"config.json").write_text(json.dumps({"width": 3})), "no Line of this version.*model"),
    (lambda f: (f/"config.json").write_text(json.dumps({"model": "Lime"})),
     "no Line of this version.*no model class 'Lime'"),
    (lambda f: (f/"config.json").write_text(json.dumps({"model": "QDDETR"})),
     "no Line of this version.*it holds 'QDDETR'"),
    (lambda f: (f/"model.safetensors").write_bytes(b"x"), "no Line of this version"),
    (lambda f: (f/"model.safetensors").write_bytes((f/"model.safetensors").read_bytes()[:-1]),
     "no Line of this version"),
], ids=["no config", "no weights", "half a config", "bytes", "no fields", "other fields", "other sizes",
        "no class", "unknown class", "another class", "no file", "half"])
def test_broken_folders_get_one_clear_error(tmp_path, harm, message):
    save(Line(Sizes()), tmp_path)
    harm(tmp_path)
    with pytest.raises(VidnegError, match=f"(?s){tmp_path}.*{message}"): load(tmp_path, Line)
