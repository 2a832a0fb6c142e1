"""Scoring by shards beside a plain loop over `transformers`: speed, peak memory, a kill: `make bench-shards`.

A CLIP of random weights, small but of the real architecture, scores captions and negatives of small videos. Each
measurement runs in a process of its own: a few items and many for the memory, a loop as one writes it by hand, and a
run that is killed with its whole process group and started again. "before" is the peak with the model and the table of
items, before the first video is read. `--clips 50 --items 5000` measures less.
"""
import argparse
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# The other process imports this file as well, so each part imports what it needs.
FRAMES, SIDE, CONTEXT = 8, 64, 77
NOUNS, COLORS = ["star", "ring", "heart", "arrow", "cloud"], ["red", "green", "blue", "white", "black", "yellow"]
VERBS = ["spins", "jumps", "slides", "grows", "waits", "falls", "turns", "stops"]
PLACES = ["on a beach", "in a wood", "on a road", "by a lake", "in a hall", "on a roof"]


def write_clip(path, rng):
    "Write a video of one second in which a square moves."
    import av
    import numpy as np
    (x, y), (dx, dy) = rng.integers(0, 40, 2), rng.integers(-2, 3, 2)
    ground, color = rng.integers(0, 256, (2, 3))
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", 25, width=SIDE, height=SIDE, pix_fmt="yuv420p",
                                 options={"threads": "1", "preset": "ultrafast"})
        for t in range(25):
            picture = np.full((SIDE, SIDE, 3), ground, np.uint8)
            a, b = (x + dx*t) % 44, (y + dy*t) % 44
            picture[b:b + 20, a:a + 20] = color
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())


def sentence(rng):
    one, two = (f"a {rng.choice(COLORS)} {rng.choice(NOUNS)} {rng.choice(VERBS)}" for _ in range(2))
    return f"{one} {rng.choice(PLACES)} and {two} {rng.choice(PLACES)} for {rng.integers(1000)} seconds"


def make(folder, clips):
    "Write the videos, and the model with its image processor and tokenizer."
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    from vidneg.core.seeds import stable_rng
    from vidneg.text.tokenize import train_tokenizer
    (folder/"videos").mkdir()
    for i in range(clips): write_clip(folder/f"videos/{i}.mp4", stable_rng(0, "clip", i))
    rng = stable_rng(0, "words")
    tokenizer = train_tokenizer([sentence(rng) for _ in range(3000)], 1000, folder/"tokenizer.json")
    torch.manual_seed(0)
    layers = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
    special = dict(zip(("pad_token_id", "bos_token_id", "eos_token_id"),
                       (tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id)))
    text = layers | special | dict(vocab_size=len(tokenizer), max_position_embeddings=CONTEXT)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=layers | dict(image_size=SIDE, patch_size=16),
                                 projection_dim=64))
    side = {"height": SIDE, "width": SIDE}
    processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=side)
    for part in (model, processor, tokenizer): part.save_pretrained(folder/"model")


def items_of(clips, n):
    "Make items; every text is another one."
    import pandas as pd

    from vidneg.core.seeds import stable_rng
    from vidneg.evaluate.accuracy import ITEM_COLUMNS
    rng = stable_rng(0, "items")
    rows = [(str(i), str(i % clips), "action", "bench", "", f"{sentence(rng)} {i}", f"{sentence(rng)} {i}")
            for i in range(n)]
    return pd.DataFrame(rows, columns=ITEM_COLUMNS)


def shards(folder, clips, n, out):
    "Score with `score_clips`."
    from vidneg.core.child import _end_all as end_children
    from vidneg.core.records import Clip
    from vidneg.evaluate.shards import score_clips
    from vidneg.models.zoo import open_model
    scorer, items = open_model(str(folder/"model"), device="cpu"), items_of(clips, n)
    start, used, before = time.perf_counter(), cpu(), peak()
    table = score_clips(scorer, items, [Clip(str(i), f"{i}.mp4") for i in range(clips)], out, root=folder/"videos",
                        n_frames=FRAMES, progress=False)
    assert (table.status == "").all()
    seconds = time.perf_counter() - start
    end_children() # their time counts once they have ended
    return {"seconds": seconds, "cpu": cpu() - used, "before": before, "scores": table.score_pos.tolist()}


def plain(folder, clips, n, out):
    "Score with a loop over clips, as one writes it by hand: one clip at a time, its texts in batches of 32."
    import torch
    import torch.nn.functional as F
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    from vidneg.data.video import read_frames
    place = folder/"model"
    model = AutoModel.from_pretrained(place).eval()
    processor, tokenizer = AutoImageProcessor.from_pretrained(place), AutoTokenizer.from_pretrained(place)
    items, found = items_of(clips, n), {}
    start, used, before = time.perf_counter(), cpu(), peak()
    with torch.no_grad():
        for clip, own in items.groupby("clip_id", sort=False):
            frames = read_frames(folder/f"videos/{clip}.mp4", FRAMES)
            pixels = processor(list(frames), return_tensors="pt")["pixel_values"]
            each = F.normalize(features(model.get_image_features(pixel_values=pixels)), dim=-1) # (T, p)
            video = F.normalize(each.mean(0), dim=0)
            for column in ("caption", "negative"):
                for i in range(0, len(own), 32):
                    part = own[i:i + 32]
                    words = tokenizer(part[column].tolist(), padding=True, truncation=True, max_length=CONTEXT,
                                      return_tensors="pt")
                    words = {k: words[k] for k in ("input_ids", "attention_mask")}
                    text = F.normalize(features(model.get_text_features(**words)), dim=-1)
                    found.update(zip(((column, k) for k in part["item"]), (text @ video).tolist()))
    return {"seconds": time.perf_counter() - start, "cpu": cpu() - used, "before": before,
            "scores": [found["caption", k] for k in items["item"]]}


def features(out):
    return out if hasattr(out, "shape") else out.pooler_output


def cpu():
    "Return the CPU seconds of this process and its ended children; a busy machine does not change them."
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(r.ru_utime + r.ru_stime for r in both)


def peak():
    "Return the peak memory of this process (MiB); VmHWM, unlike ru_maxrss, leaves out the parent before exec."
    status = Path("/proc/self/status")
    if status.exists(): return int(status.read_text().split("VmHWM:")[1].split()[0])/1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(2**20 if sys.platform == "darwin" else 2**10)


def command(part, folder, clips, n, out):
    return [sys.executable, __file__, "--part", part, "--folder", str(folder), "--clips", str(clips), "--items", str(n),
            "--out", str(out)]


def measure(*asked):
    "Run a part in its own process; return its result."
    done = subprocess.run(command(*asked), capture_output=True, text=True)
    if done.returncode: raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def interrupted(folder, clips, n, out):
    "Start a run, kill its process group when half of the shards are written, and run it again."
    process = subprocess.Popen(command("shards", folder, clips, n, out), start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    half = max(1, -(-clips//32)//2)
    while process.poll() is None and len(list(out.glob("parts/*.parquet"))) < half: time.sleep(.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = len(list(out.glob("parts/*.parquet")))
    return left, measure("shards", folder, clips, n, out)


def digest(out): return hashlib.sha256((out/"scores.parquet").read_bytes()).hexdigest()[:16]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--clips", type=int, default=1000)
    p.add_argument("--items", type=int, default=100_000)
    for hidden in ("--part", "--folder", "--out"): p.add_argument(hidden, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.part:
        part = {"shards": shards, "plain": plain}[args.part]
        result = part(Path(args.folder), args.clips, args.items, Path(args.out))
        some = result["scores"][::max(1, args.items//1000)]
        print(json.dumps(result | {"peak": peak(), "scores": some}))
        return
    few = args.items//10
    print(f"{'run':<34}{'items':>10}{'seconds':>10}{'items/s':>10}{'CPU s':>8}{'before (MiB)':>14}{'peak (MiB)':>12}",
          flush=True)
    def show(name, n, r):
        print(f"{name:<34}{n:>10,}{r['seconds']:>10.1f}{n/r['seconds']:>10.0f}{r['cpu']:>8.1f}{r['before']:>14.0f}"
              f"{r['peak']:>12.0f}", flush=True)
        return r
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make(folder, args.clips)
        at = folder, args.clips
        small = show("by shards, a tenth of the items", few, measure("shards", *at, few, folder/"few"))
        loop = show("plain loop", args.items, measure("plain", *at, args.items, folder/"plain"))
        whole = show("by shards", args.items, measure("shards", *at, args.items, folder/"whole"))
        left, again = interrupted(*at, args.items, folder/"killed")
        show(f"by shards, after a kill with {left} done", args.items, again)
        far = max(abs(a - b) for a, b in zip(whole["scores"], loop["scores"]))
        same = digest(folder/"whole") == digest(folder/"killed")
        print(f"memory that scoring adds to the table of items: {small['peak'] - small['before']:.0f} and "
              f"{whole['peak'] - whole['before']:.0f} MiB; speed beside the loop: × "
              f"{loop['seconds']/whole['seconds']:.2f}, by CPU time × {loop['cpu']/whole['cpu']:.2f}; largest "
              f"difference of scores: {far:.1e}; after the kill {'the same' if same else 'OTHER'} bytes")


if __name__ == "__main__": main()
