"""Speed, memory and repeatability of NAVERO's fine-tuning on this machine's GPU, for `reports/gpu/`.

After `make reproduce SCALE=gpu`, `make gpu-record` trains some steps twice from the same start, with the parameters of
that scale, and writes its measurements. `--device cpu` does the same without a GPU, `--scale` at another scale.
"""
import argparse
import hashlib
import json
import os
import platform
import resource
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from vidneg.core.errors import VidnegError
from vidneg.core.files import atomic_path, project_root
from vidneg.core.records import Negative, read_records
from vidneg.data.dataset import read_dataset
from vidneg.data.video import FrameCache
from vidneg.pipeline.forecast import countable
from vidneg.pipeline.runner import commit
from vidneg.pipeline.stage import read_section, scale_folder
from vidneg.text.tokenize import load_tokenizer
from vidneg.train.contrastive import ContrastiveTask
from vidneg.train.finetune import start_model, text_batches
from vidneg.train.loop import TrainConfig, fit

# Dense bf16 with fp32 accumulation, TFLOP/s, from NVIDIA's data sheets.
PEAK = {"A100": 312.0, "H100": 989.4, "H200": 989.4}
PACKAGES = "torch", "transformers", "accelerate", "numpy"
STAGES = "data", "frames", "backbone", "finetune" # their parameters describe data and training


def batches_and_task(params):
    "Return the batches of the stage `finetune` and a function that makes its task."
    data, words = read_dataset("data/dataset"), load_tokenizer(params.get("tokenizer", "data/backbone/tokenizer.json"))
    batches = text_batches(
        np.load("data/features.npy", mmap_mode="r"), FrameCache("data/frames").clip_ids, data.of("train", "fine"),
        read_records("data/negatives/train.parquet", Negative), words, start_model("data/pretrain").config.max_tokens,
        batch_size=params["batch_size"], negatives_per_clip=params["negatives_per_clip"], n_frames=params["n_frames"])
    return batches, lambda: ContrastiveTask(
        start_model("data/pretrain"), **params["common"], **params["runs"]["navero"])


def flops_of_a_step(task, batch):
    "Count the floating-point operations of forward and backward, on the CPU."
    with countable() as counter: sum(v.mean() for v in task(batch).values()).backward()
    return counter.get_total_flops()


def train(task, batches, config, folder):
    "Train once; return the output of `fit`, peak memory of GPU or process (bytes) and a hash of the weights."
    cuda = torch.cuda.is_available() and config.device != "cpu"
    if cuda: torch.cuda.reset_peak_memory_stats()
    out = fit(task, batches, config, folder)
    memory = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024
    return out, memory, hashlib.sha256((Path(folder)/"model.safetensors").read_bytes()).hexdigest()


def record(args):
    "Measure two runs; return the record that is written."
    params = read_section("params.yaml", "finetune")
    batches, task = batches_and_task(params)
    config = TrainConfig(steps=args.steps, learning_rate=params["learning_rate"], weight_decay=params["weight_decay"],
                         mixed_precision=params.get("mixed_precision", "no"), compile=args.compile, device=args.device)
    cuda = torch.cuda.is_available() and args.device != "cpu"
    flops = flops_of_a_step(task(), batches.batch(0, 0))
    with tempfile.TemporaryDirectory() as folder:
        runs = [train(task(), batches, config, f"{folder}/{i}") for i in range(2)]
    (first, memory, weights), (second, further, again) = runs
    device = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
    peak = args.peak or next((v for k, v in PEAK.items() if k in device), None)
    fastest = max(first["steps_per_second"], second["steps_per_second"])
    versions = {"python": platform.python_version(), "cuda": torch.version.cuda, **{p: version(p) for p in PACKAGES}}
    return {"device": device, "versions": versions, "commit": commit("."),
            "steps": args.steps, "compiled": args.compile,
            "clips": len(batches.items), "features per clip": list(batches.features.shape[1:]),
            "parameters": sum(p.numel() for p in task().parameters()),
            "steps/s": [first["steps_per_second"], second["steps_per_second"]],
            "clips/s": [first["clips_per_second"], second["clips_per_second"]],
            "share of time waiting for data": [first["data_share"], second["data_share"]],
            "FLOPs a step": flops, "peak TFLOP/s": peak,
            "model FLOPs utilization": flops*fastest/peak/1e12 if peak else None,
            "peak memory, MB": max(memory, further)/1e6,
            "weights": [weights, again], "same weights twice": weights == again,
            "params": {s: read_section("params.yaml", s) for s in STAGES}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--device", default="auto", help="auto: a GPU, or an error; cpu")
    parser.add_argument("--peak", type=float, help="the device's dense bf16 TFLOP/s, where the table has it not")
    parser.add_argument("--compile", action="store_true", help="let torch.compile make kernels")
    parser.add_argument("--scale", default="gpu", help="a scale that was reproduced")
    parser.add_argument("--out", default="reports/gpu/record.json", help="relative to the project's root")
    args = parser.parse_args()
    if args.device == "auto" and not torch.cuda.is_available():
        raise VidnegError("no CUDA device here: run this where one is, or pass --device cpu to try the command")
    os.chdir(scale_folder(scale=args.scale))
    if not Path("data/pretrain/model.safetensors").exists():
        raise VidnegError(f"data/pretrain is missing: run `make reproduce SCALE={args.scale}` first")
    found = record(args)
    with atomic_path(project_root()/args.out) as part:
        part.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in found.items() if k != "params"}, indent=2))


if __name__ == "__main__":
    try: main()
    except VidnegError as e: sys.exit(str(e))
