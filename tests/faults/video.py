"""Damage videos and read them: every file must give frames or one `VideoError`; nothing may crash or hang.

    python tests/faults/video.py FOLDER_OF_VIDEOS [NUMBER_OF_FILES] [SEED]
"""
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from vidneg.core.child import ChildError, in_child
from vidneg.core.records import Clip
from vidneg.core.seeds import stable_rng
from vidneg.data.video import VideoError, read_clips, read_frames

SUFFIXES = (".mp4", ".mkv", ".avi", ".webm", ".ts", ".h264", ".gif", ".jpg", ".m3u8", ".txt")


def truncated(data, other, rng): return data[:int(rng.integers(1, len(data)))]


def zeroed(data, other, rng):
    for at in rng.integers(len(data), size=4): data[at:at + 4096] = bytes(len(data[at:at + 4096]))
    return data


def flipped(data, other, rng):
    for at in rng.integers(len(data), size=200): data[at] ^= 1 << rng.integers(8)
    return data


def flipped_header(data, other, rng):
    "Flip bits where the numbers that a decoder trusts are: at the start and at the end of a file."
    for at in rng.integers(2048, size=8): data[at if rng.random() < .5 else -at - 1] ^= 1 << rng.integers(8)
    return data


def spliced(data, other, rng):
    "Continue with the bytes of another file."
    return data[:int(rng.integers(64, len(data)))] + other[int(rng.integers(len(other))):]


FAULTS = (truncated, zeroed, flipped, flipped_header, spliced)


def damage(
    paths, # intact videos, each larger than 4 kB
    folder, # folder of the damaged copies
    n, # number of copies
    seed=0, # seed of the damage
):
    "Write damaged copies of videos, a third of them with the suffix of another format; return (fault, path) for each."
    paths, done = sorted(paths), []
    for i in range(n):
        rng, fault = stable_rng(seed, "damage", i), FAULTS[i % len(FAULTS)]
        one, other = (paths[int(rng.integers(len(paths)))] for _ in range(2))
        suffix = SUFFIXES[int(rng.integers(len(SUFFIXES)))] if i % 3 == 0 else one.suffix
        path = Path(folder)/f"{i:03}_{fault.__name__}_{one.stem}{suffix}"
        path.write_bytes(fault(bytearray(one.read_bytes()), other.read_bytes(), rng))
        done.append((fault.__name__, path))
    return done


def attempt(path):
    "Return what a direct call of `read_frames` does: a word, and the message of an error."
    try: frames = read_frames(path, 4, size=32)
    except VideoError as e: return "refused", str(e)
    except Exception as e: return "other error", repr(e)
    return ("read", "") if frames.shape == (4, 32, 32, 3) and frames.dtype == np.uint8 else ("wrong", str(frames.shape))


def guarded(path, limit):
    "Return what `attempt` returns in a child process, or that the process died or was stopped."
    try: return in_child("faults.video:attempt", path, limit=limit)
    except ChildError as e: return "died", str(e)


def run(
    paths, # intact videos
    n=200, # number of damaged copies
    seed=0, # seed of the damage
    limit=60.0, # seconds after which a decoder counts as hanging
):
    "Read damaged videos one by one and as a dataset; return (fault, path, outcome, message) each, and bad clips."
    with tempfile.TemporaryDirectory() as folder:
        files = damage(paths, folder, n, seed)
        outcomes = [(fault, path, *guarded(path, limit)) for fault, path in files]
        clips = [Clip(path.name, path.name) for _, path in files]
        cache = read_clips(clips, folder, Path(folder)/"cache", 4, size=32, on_error="skip", workers=2, desc="",
                           time_limit=limit)
        return outcomes, [(b.clip_id, b.cause) for b in cache.bad]


def table(outcomes):
    "Write the counts of outcomes per fault as a table in Markdown."
    words = ("read", "refused", "died", "other error", "wrong")
    count = Counter((fault, word) for fault, _, word, _ in outcomes)
    rows = [[f.__name__.replace("_", " "), *(count[f.__name__, w] for w in words)] for f in FAULTS]
    head = ["fault", *words]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [head, ["---"]*len(head), *rows])


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1])) # where the child finds this module
    videos = [p for p in Path(sys.argv[1]).iterdir() if p.suffix in SUFFIXES]
    outcomes, bad = run(videos, *map(int, sys.argv[2:4]))
    print(table(outcomes), f"\n{len(bad)} of {len(outcomes)} left out of a dataset, each with its cause")
    for _, path, word, message in outcomes:
        if word not in ("read", "refused"): print(path.name, word, message)
