"A long run in small: the same work again and again; memory, open files, processes and logs must stay flat."
import contextlib
import gc
import io
import shutil
import tempfile
import time
import warnings
from itertools import count
from pathlib import Path

import numpy as np
import psutil
from faults.checks import Case, Check


def work(folder, i):
    "Probe the packaged model, make negatives, audit them and ask a chat model through a cache."
    import vidneg
    from vidneg.audit.page import audit_negatives
    from vidneg.lm.cache import Cached
    from vidneg.negatives.generate import make_negatives
    from vidneg.negatives.own import own_generator
    class Echo:
        kind, name, identity = "chat", "echo", {}
        def stream(self, conversations, **settings): return ((i, c[-1]["content"]) for i, c in enumerate(conversations))
    vidneg.probe("world", folder/"videos", out=folder/f"probe{i}", n_frames=2, size=32, limit=6, seed=i,
                 generator="rules-balanced")
    captions = vidneg.open_data(folder/"videos", texts_only=True).captions
    made, _ = make_negatives(captions, own_generator(captions, "rules-balanced"), seed=i)
    audit_negatives(made, captions, "a set", seed=i).save(folder/"audit.html")
    Cached(Echo(), folder/"lm").chat([[{"role": "user", "content": f"{i} {c.text}"}] for c in captions])


def measured(rounds, minutes=0):
    "Return memory in MB, open files, threads, child processes and lines logged after each round, in both at least."
    from faults.kills import videos
    process, rows, until = psutil.Process(), [], time.monotonic() + 60*minutes
    with tempfile.TemporaryDirectory() as tmp, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        videos(Path(tmp)/"videos", 24)
        for i in count():
            if i >= rounds and time.monotonic() >= until: break
            log = io.StringIO()
            with contextlib.redirect_stderr(log), contextlib.redirect_stdout(log): work(Path(tmp), i)
            shutil.rmtree(Path(tmp)/f"probe{i}")
            gc.collect()
            told = len([line for line in log.getvalue().splitlines() if "\r" not in line])
            rows.append((process.memory_info().rss/2**20, process.num_fds(), process.num_threads(),
                         len(process.children(recursive=True)), told))
    return np.array(rows)


def grows(values, allowed):
    "Return True if the last third lies above the middle third by more than is allowed."
    third = len(values)//3
    return float(np.median(values[-third:]) - np.median(values[third:2*third])) > allowed


def checks(rounds=30, minutes=0):
    "Work `rounds` times, at least 6, and at least for some minutes; the first third warms up."
    rows = measured(max(rounds, 6), minutes)
    memory = rows[:, 0]
    cases = [Case("memory", "flat" if not grows(memory, .02*memory[-1]) else f"grows: {memory.round().tolist()}",
                  not grows(memory, .02*memory[-1]))]
    for k, name in enumerate(("open files", "threads", "processes", "lines logged"), 1):
        bad = grows(rows[:, k], 0)
        cases.append(Case(name, f"grows: {rows[:, k].tolist()}" if bad else "flat", not bad))
    length = f"{minutes:g} minutes: " if minutes else ""
    yield Check(f"{length}{len(rows)} rounds of probe, generator, audit and cache", "one process", cases)
