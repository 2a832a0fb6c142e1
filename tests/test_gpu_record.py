"The record of bench/gpu.py, made on the CPU."
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vidneg.core.errors import VidnegError
from vidneg.data.batches import Batches
from vidneg.models.navero import Navero, NaveroConfig
from vidneg.train.contrastive import ContrastiveTask

SPEC = importlib.util.spec_from_file_location("gpu", Path(__file__).parents[1]/"bench"/"gpu.py")
gpu = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(gpu)

SIZES = NaveroConfig(image_size=32, width=32, embed_dim=32, heads=2, stem=(), spatial_layers=1, spacetime_layers=1,
                     text_layers=1, fusion_layers=1, mlp_ratio=2.0, vocab_size=40)


def toy(params=None):
    "Return batches and a task: features of eight clips with one negative each, and NAVERO's losses."
    rng = np.random.default_rng(0)
    features = rng.normal(size=(8, 3, 4, 32)).astype(np.float32)
    said = [[[1, *rng.integers(5, 40, 4).tolist(), 2]] for _ in range(8)]
    false = [[[[*t[:3], 5, *t[4:]]] for t in some] for some in said]
    batches = Batches(features, said, false, batch_size=4)
    return batches, lambda: ContrastiveTask(Navero(SIZES), ["vtc", "vtm", "neg_vtm"])


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(gpu, "batches_and_task", toy)
    params = {"learning_rate": 1e-3, "weight_decay": .1}
    monkeypatch.setattr(gpu, "read_section", lambda file, stage: params | {"stage": stage})


def test_the_record_describes_the_run_and_repeats(small, capsys):
    found = gpu.record(SimpleNamespace(steps=3, device="cpu", compile=False, peak=.05))
    assert found["same weights twice"] and len(set(found["weights"])) == 1 and len(found["weights"][0]) == 64
    assert found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert set(found["params"]) == {"data", "frames", "backbone", "finetune"} and found["clips"] == 8
    for rate, clips in zip(found["steps/s"], found["clips/s"]): assert clips == pytest.approx(4*rate)
    best = max(found["steps/s"])
    assert found["model FLOPs utilization"] == pytest.approx(found["FLOPs a step"]*best/.05e12)
    assert all(0 <= share <= 1 for share in found["share of time waiting for data"])
    assert 10 < found["peak memory, MB"] < 1e5 and json.loads(json.dumps(found)) == found


def test_flops_of_a_linear_map_equal_the_formula():
    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(5, 7)
        def forward(self, x): return {"loss": self.layer(x)}
    x = torch.randn(3, 5)
    assert gpu.flops_of_a_step(Linear(), x) == 2*2*3*5*7 # forward and the gradient of the weights; x needs no gradient
    assert gpu.flops_of_a_step(Linear(), x.requires_grad_()) == 3*2*3*5*7


def test_without_a_gpu_or_a_start_it_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path/"settings.ini").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu"])
    with pytest.raises(VidnegError, match="reproduce SCALE=gpu"): gpu.main()
    if torch.cuda.is_available(): return
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(VidnegError, match="--device cpu"): gpu.main()
