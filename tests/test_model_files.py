"Files of models: what all models share."
import json
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from vidneg.core.errors import VidnegError
from vidneg.models.io import load_files, read_config, save_files


@dataclass(frozen=True)
class Sizes:
    width: int = 3
    names: tuple[str, ...] = ("a", "é")


class Line(nn.Linear):
    def __init__(self, config):
        super().__init__(config.width, 2)
        self.config = config


def build(config): return Line(Sizes(**config))


def test_what_is_written(tmp_path):
    line = Line(Sizes())
    line.weight = nn.Parameter(line.weight.detach().T.contiguous().T) # safetensors refuses this layout
    assert save_files(line, tmp_path/"deep"/"model") == tmp_path/"deep"/"model"
    assert sorted(p.name for p in (tmp_path/"deep"/"model").iterdir()) == ["config.json", "model.safetensors"]
    text = (tmp_path/"deep"/"model"/"config.json").read_text()
    assert text == '{\n  "width": 3,\n  "names": [\n    "a",\n    "\\u00e9"\n  ]\n}\n'
    again = load_files(tmp_path/"deep"/"model", build)
    assert torch.equal(line.weight, again.weight) and torch.equal(line.bias, again.bias)
    save_files(line, tmp_path/"named", named=True)
    assert list(read_config(tmp_path/"named").items())[0] == ("model", "Line")
    assert len({(p/"model.safetensors").read_bytes() for p in (tmp_path/"deep"/"model", tmp_path/"named")}) == 1


def test_a_failed_write_leaves_the_old_files(tmp_path, monkeypatch):
    line = Line(Sizes())
    save_files(line, tmp_path)
    before = (tmp_path/"model.safetensors").read_bytes()
    def fail(weights, path):
        path.write_bytes(b"half")
        raise OSError("disk full")
    monkeypatch.setattr("vidneg.models.io.save_file", fail)
    with pytest.raises(OSError, match="disk full"): save_files(Line(Sizes()), tmp_path)
    assert (tmp_path/"model.safetensors").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("harm, message", [
    (lambda f: (f/"config.json").unlink(), "config.json does not exist"),
    (lambda f: (f/"model.safetensors").unlink(), "model.safetensors does not exist"),
    (lambda f: (f/"config.json").write_text("{"), "holds no config"),
    (lambda f: (f/"config.json").write_bytes(b"\xff"), "holds no config"),
    (lambda f: (f/"config.json").write_text("3"), "holds no config"),
    (lambda f: (f/"config.json").write_text(json.dumps({"depth": 1})), "no line of this version.*depth"),
    (lambda f: (f/"config.json").write_text(json.dumps({"width": 4})), "no line of this version.*size mismatch"),
    (lambda f: (f/"model.safetensors").write_bytes(b"x"), "no line of this version"),
    (lambda f: (f/"model.safetensors").write_bytes((f/"model.safetensors").read_bytes()[:-1]), "no line of this version"),
], ids=["no config", "no weights", "half a config", "bytes", "no fields", "other fields", "other sizes", "no file", "half"])
def test_broken_folders_get_one_clear_error(tmp_path, harm, message):
    save_files(Line(Sizes()), tmp_path)
    harm(tmp_path)
    with pytest.raises(VidnegError, match=f"(?s){tmp_path}.*{message}"): load_files(tmp_path, build, "line")
