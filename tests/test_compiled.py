"`compile=True` and `mixed_precision=\"bf16\"`, tested on the CPU: graphs are captured but not turned into GPU kernels."
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

import vidneg.train.loop
from vidneg.data.batches import Batches
from vidneg.models.registry import MODELS
from vidneg.train.contrastive import ContrastiveTask
from vidneg.train.loop import TrainConfig, compile_parts, fit

MLM = dict(mask_id=4, vocab_size=100, first_word=5, p=.5)
LOSSES = {"navero": ["vtc", "vtm", "neg_vtm", "mlm"], "xclip": ["hn_nce"], "alpro": ["vtc", "vtm", "mlm"]}


def batches():
    "Make six clips with two negatives each; texts have two lengths, so shapes differ between batches."
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (6, 2, 32, 32, 3), np.uint8)
    said = [[[1, *rng.integers(5, 60, 5 + 4*(i % 2)).tolist(), 2]] for i in range(6)]
    false = [[[[*t[:3], 60 + j, *t[4:]] for j in range(2)]] for t, in said]
    return Batches(frames, said, false, batch_size=3, negatives_per_clip=2)


def trained(name, folder, compiled):
    "Train three steps; return the losses of each step and the final weights."
    torch._dynamo.reset()
    task = ContrastiveTask(MODELS[name]("tiny"), LOSSES[name], mask=MLM)
    if compiled: compile_parts(task, backend="aot_eager")
    done = fit(task, batches(), TrainConfig(steps=3, device="cpu"), folder, progress=False)
    return done["history"], [p.detach().clone() for p in task.model.parameters()]


@pytest.fixture
def bf16(monkeypatch):
    "Let `fit` compute in bf16 on the CPU."
    def accelerator(config):
        AcceleratorState._reset_state(reset_partial_state=True)
        return Accelerator(cpu=True, mixed_precision="bf16")
    monkeypatch.setattr(vidneg.train.loop, "_accelerator", accelerator)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_compiled_parts_in_bf16_learn_the_same(name, bf16, tmp_path):
    plain, compiled, again = (trained(name, tmp_path/str(i), i > 0) for i in range(3))
    assert all(torch.equal(a, b) for a, b in zip(compiled[1], again[1])) # bit for bit
    assert len(plain[0]) == 2 and all(np.isfinite([*row.values()]).all() for row in compiled[0])
    for a, b in zip(plain[0], compiled[0]): assert b["loss"] == pytest.approx(a["loss"], rel=.02)
    assert all(p.dtype == torch.float32 for p in compiled[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_both_towers_of_every_model_are_compiled(name):
    torch._dynamo.reset()
    model, calls = MODELS[name]("tiny").eval(), []
    def backend(graph, inputs):
        def run(*args):
            calls.append(graph)
            return graph(*args)
        return run
    batch = batches().batch(0, 0)
    texts = batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        features = model.frame_features(batch["features"])
        want = model.encode_video(features)[1], model.encode_text(*texts)[1]
        compile_parts(ContrastiveTask(model), backend=backend)
        video = model.encode_video(model.frame_features(batch["features"]))[1]
        of_video = len(calls)
        text = model.encode_text(*texts)[1]
    assert 0 < of_video < len(calls)
    assert torch.allclose(video, want[0], atol=1e-5) and torch.allclose(text, want[1], atol=1e-5)


@pytest.mark.slow
def test_layers_compute_in_bf16(bf16, tmp_path):
    task, seen = ContrastiveTask(MODELS["navero"]("tiny"), ["vtc"]), []
    task.model.video_proj.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    similarity = task.model.similarity
    def watched(*args):
        out = similarity(*args)
        seen.append(out.dtype)
        return out
    task.model.similarity = watched
    fit(task, batches(), TrainConfig(steps=1, device="cpu"), tmp_path, progress=False)
    assert seen == [torch.bfloat16, torch.float32] # embeddings are compared in full precision
