"""Speeds of the parts of vidneg on this machine, as one table: `make bench`.

Each function below measures one part and returns rows (what, value, unit). The parts run in order on one small world,
made at the start; a new part is one more function with `@part`.
"""
import os
import platform
import shutil
import sys
import tempfile
import time
from collections import namedtuple
from pathlib import Path

# Processes that render import this file as well, so each part imports what it needs.
CLIPS, FRAMES, STEPS, THREADS = 256, 6, 40, 1
WORKERS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
PARTS = []
Row = namedtuple("Row", "what value unit")


def part(function):
    PARTS.append(function)
    return function


def timed(function, *args, **kwargs):
    "Return the result of a function and its seconds."
    start = time.perf_counter()
    result = function(*args, **kwargs)
    return result, time.perf_counter() - start


@part
def render(at):
    "Time scripts, frames, H.264 and captions."
    from vidneg.core.records import Caption, read_records
    from vidneg.world.script import WorldConfig
    from vidneg.world.write import write_world
    at.clips, one = timed(write_world, at.folder, {"train": CLIPS}, WorldConfig())
    at.captions = [c for c in read_records(at.folder/"captions.parquet", Caption) if c.grain == "fine"]
    _, all_ = timed(write_world, at.folder/"again", {"train": CLIPS}, WorldConfig(), workers=WORKERS)
    return [Row("clips rendered, 1 process", CLIPS/one, "clips/s"),
            Row(f"clips rendered, {WORKERS} processes, with their start", CLIPS/all_, "clips/s")]


@part
def decode(at):
    "Time reading the frames that a model samples: vidneg on decord against a plain PyAV loop."
    import av
    import numpy as np

    from vidneg.data.video import read_clips, read_frames, sample_indices
    def with_pyav(path):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            wanted, found = set(sample_indices(stream.frames, FRAMES).tolist()), []
            for i, frame in enumerate(container.decode(stream)):
                if i in wanted: found.append(frame.to_ndarray(format="rgb24"))
                if len(found) == FRAMES: return np.stack(found)
    paths = [at.folder/c.path for c in at.clips]
    for path in paths[:8]: assert read_frames(path, FRAMES).shape == with_pyav(path).shape
    _, ours = timed(lambda: [read_frames(p, FRAMES) for p in paths])
    _, plain = timed(lambda: [with_pyav(p) for p in paths])
    at.cache, cached = timed(read_clips, at.clips, at.folder, at.folder/"frames", FRAMES, workers=WORKERS, desc="")
    n = CLIPS*FRAMES
    return [Row("frames decoded, read_frames", n/ours, "frames/s"),
            Row("frames decoded, plain PyAV", n/plain, "frames/s"),
            Row(f"frames decoded into the cache, {WORKERS} threads", n/cached, "frames/s")]


@part
def negatives(at):
    "Time rule-based negatives, one per category and caption."
    from vidneg.negatives.generate import make_negatives
    from vidneg.negatives.rules import SlotFrequencies, rules_balanced, rules_published
    from vidneg.text.lexicon import Lexicon
    lexicon = Lexicon.navero()
    (_, counts), published = timed(make_negatives, at.captions, rules_published(lexicon))
    made = sum(n for (_, outcome), n in counts.items() if outcome == "made")
    balanced = rules_balanced(lexicon, SlotFrequencies.count(at.captions, lexicon))
    (at.negatives, _), seconds = timed(make_negatives, at.captions, balanced)
    return [Row("negatives, as published", made/published, "1/s"),
            Row("negatives, balanced", len(at.negatives)/seconds, "1/s")]


@part
def train(at):
    "Time the fine-tuning step of NAVERO on cached features."
    import torch

    from vidneg.data.batches import batches_of
    from vidneg.models.navero import Navero, NaveroConfig
    from vidneg.text.tokenize import train_tokenizer
    from vidneg.train.contrastive import ContrastiveTask
    from vidneg.train.loop import TrainConfig, fit
    torch.set_num_threads(THREADS)
    texts = [t.text for t in at.captions + at.negatives]
    at.tokenizer = train_tokenizer(texts, 1000, at.folder/"tokenizer.json")
    at.model = Navero(NaveroConfig(vocab_size=len(at.tokenizer)))
    @torch.no_grad()
    def features():
        chunks = (torch.tensor(at.cache.frames[i:i + 32]) for i in range(0, CLIPS, 32))
        return torch.cat([at.model.frame_features(c) for c in chunks])
    at.features, seconds = timed(features)
    tokenize = lambda texts: at.tokenizer(list(texts))["input_ids"]
    batches = batches_of(at.features.numpy(), at.cache.clip_ids, at.captions, at.negatives, tokenize)
    task = ContrastiveTask(at.model, ["vtc", "vtm", "neg_vtm"])
    config = TrainConfig(steps=STEPS, num_threads=THREADS)
    result = fit(task, batches, config, at.folder/"run", resume=False, progress=False)
    size = sum(p.numel() for p in at.model.parameters())
    what = f"training, {size/1e6:.1f} M parameters, batch {batches.batch_size}, {THREADS} thread"
    return [Row("frame features", CLIPS*FRAMES/seconds, "frames/s"), Row(what, result["steps_per_second"], "steps/s"),
            Row("share of the step spent waiting for data", 100*result["data_share"], "%")]


@part
def evaluate(at):
    "Time scores of every negative, retrieval, and their tables with intervals."
    import pandas as pd

    from vidneg.evaluate.accuracy import ITEM_COLUMNS, accuracy_table, score_pairs
    from vidneg.evaluate.retrieval import retrieval_ranks, retrieval_table
    from vidneg.models.scoring import NaveroScorer
    caption = {c.caption_id: c for c in at.captions}
    rows = [(f"{i}", caption[n.caption_id].clip_id, n.kind, "balanced", n.generator, caption[n.caption_id].text, n.text)
            for i, n in enumerate(at.negatives)]
    items = pd.DataFrame(rows, columns=ITEM_COLUMNS)
    scorer, clip_ids = NaveroScorer(at.model.cpu(), at.tokenizer), at.cache.clip_ids
    def probe():
        videos = scorer.encode_video(at.features)
        accuracy_table(score_pairs(scorer, videos, clip_ids, items, "navero"))
    def retrieve():
        videos, texts = scorer.encode_video(at.features), scorer.encode_text([c.text for c in at.captions])
        retrieval_table(retrieval_ranks(scorer.similarity(videos, texts), clip_ids, [c.caption_id for c in at.captions],
                                        [c.clip_id for c in at.captions], "navero"))
    return [Row(f"probing, {len(items)} items", timed(probe)[1], "s"),
            Row(f"retrieval, {len(clip_ids)} clips, {len(at.captions)} captions", timed(retrieve)[1], "s")]


def plain_moment_ap(predictions, queries, thresholds):
    "Compute the AP of each query and threshold by definition, in plain Python."
    def iou(a, b):
        both = max(0., min(a[1], b[1]) - max(a[0], b[0]))
        union = a[1] - a[0] + b[1] - b[0] - both
        return both/union if union else 0.
    values = []
    for p, q in zip(predictions, queries):
        ranked, row = sorted(p["pred_relevant_windows"], key=lambda w: -w[2]), []
        for t in thresholds:
            free, hits, precision = list(q.windows), [], []
            for w in ranked:
                best = max(free, key=lambda g: iou(w, g), default=None)
                hits.append(best is not None and iou(w, best) >= t)
                if hits[-1]: free.remove(best)
                precision.append(sum(hits)/len(hits))
            row.append(sum(max(precision[i:]) for i, hit in enumerate(hits) if hit)/len(q.windows))
        values.append(row)
    return values


@part
def moments(at):
    "Time mAP of moment retrieval: vectorized against plain Python over windows and thresholds."
    import numpy as np

    from vidneg.core.records import MomentQuery
    from vidneg.core.seeds import stable_rng
    from vidneg.evaluate.moments import LENGTHS, THRESHOLDS, moment_values
    rng, queries, predictions = stable_rng(0, "bench moments"), [], []
    for i in range(1500):
        edges = np.sort(rng.choice(75, 2*rng.integers(1, 5), replace=False))*2.
        queries.append(MomentQuery(str(i), str(i), "", 150., tuple(map(tuple, edges.reshape(-1, 2).tolist()))))
        windows = np.sort(rng.integers(0, 76, (10, 2))*2., axis=1)
        predictions.append(dict(qid=str(i), pred_relevant_windows=np.c_[windows, rng.random(10)].tolist()))
    def plain():
        for bounds in LENGTHS.values():
            kept = [[w for w in q.windows if bounds is None or bounds[0] < w[1] - w[0] <= bounds[1]] for q in queries]
            pairs = [(p, MomentQuery("", "", "", 0., tuple(k))) for p, k in zip(predictions, kept) if k]
            yield plain_moment_ap(*zip(*pairs), THRESHOLDS)
    moment_values(predictions[:9], queries[:9])
    slow, seconds = timed(lambda: [row for part in plain() for row in part])
    values, ours = timed(moment_values, predictions, queries)
    assert np.allclose(values.filter(like="AP@").to_numpy(), slow)
    return [Row("moment queries evaluated, moment_values", len(queries)/ours, "queries/s"),
            Row("moment queries evaluated, plain Python", len(queries)/seconds, "queries/s"),
            Row("moment_values against plain Python", seconds/ours, "times")]


@part
def steps(at):
    "Time a training step of NAVERO against bare BEiT and BERT of the same sizes."
    from vidneg.models.navero import NaveroConfig
    from vidneg.models.speed import step_time_ratio
    small = NaveroConfig(width=64, embed_dim=64, spatial_layers=1, mlp_ratio=2.)
    linear = NaveroConfig(width=64, embed_dim=64, spatial_layers=1, mlp_ratio=2., stem=())
    cases = {"laptop": (small, {}), "laptop, linear patches": (linear, {}),
             "laptop, on cached features": (small, {"frozen": True}),
             "paper": (NaveroConfig.paper(), {"batch": 1, "steps": 2, "update": False})}
    rows = []
    for name, (config, settings) in cases.items():
        found = step_time_ratio(config, **settings)
        rows.append(Row(f"NAVERO's step against BEiT + BERT, {name}", found["ratio"], "times"))
        rows.append(Row("the same, floating-point operations", found["ratio of FLOPs"], "times"))
    return rows


def main():
    at = type("World", (), {"folder": Path(tempfile.mkdtemp(prefix="vidneg-bench-"))})()
    print(f"{platform.machine()}, {WORKERS} cores, Python {platform.python_version()}", flush=True)
    try:
        for function in PARTS:
            for row in function(at): print(f"{row.what:<64} {row.value:>10.2f} {row.unit}", flush=True)
    finally: shutil.rmtree(at.folder)


if __name__ == "__main__": sys.exit(main())
