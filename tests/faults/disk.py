"""A full disk, a read-only one, a closed folder, and a file in a folder's place, while all sorts of files are written.

The disks are small ones in memory, in a mount namespace of their own; where that is not allowed, their rows say so.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from faults.checks import Case, Check, one_line

TESTS = Path(__file__).parents[1]
NOBODY = 65534


# what is written: folder, size → None

def tables(folder, size):
    import pandas as pd

    from vidneg.core.seeds import stable_rng
    from vidneg.data.tables import write_frame
    rng = stable_rng(0, "disk", size)
    frame = pd.DataFrame({"caption": [rng.bytes(40).hex() for _ in range(1000*size)]})
    for suffix in ("csv", "jsonl", "parquet"):
        yield f"table.{suffix}", lambda suffix=suffix: write_frame(frame, folder/f"t.{suffix}")


def records(folder, size):
    from vidneg.core.records import Caption, write_records
    from vidneg.core.seeds import stable_rng
    rng = stable_rng(0, "disk", size)
    captions = [Caption(str(i), str(i), rng.bytes(40).hex()) for i in range(1000*size)]
    for suffix in ("jsonl", "parquet"):
        yield f"records.{suffix}", lambda suffix=suffix: write_records(folder/f"captions.{suffix}", captions)


def answers(folder, size):
    from vidneg.lm.cache import Store
    def write():
        store = Store(folder)
        store.put({f"{i:032x}": f"{i} and {size}" for i in range(1000*size)})
        store.flush()
    yield "answers of a language model", write


def frames(folder, size):
    from test_video import ramp, write

    from vidneg.core.records import Clip
    from vidneg.data.video import read_clips
    with tempfile.TemporaryDirectory() as tmp:
        write(Path(tmp)/"a.mp4", ramp())
        clips = [Clip(str(i), "a.mp4") for i in range(4*size)]
        yield "cache of frames", lambda: read_clips(clips, tmp, folder/"cache", 8, size=48, desc="")


def audit(folder, size):
    from test_audit import plain_pairs

    from vidneg.audit.page import audit_negatives
    from vidneg.report.release import About, export_set
    pairs = plain_pairs(60*size)
    dossier = audit_negatives(pairs, [], "a set")
    yield "page of an audit", lambda: dossier.save(folder/"audit.html")
    yield "exported set", lambda: export_set(pairs, folder/"set", About("a set"), audit=dossier)


def training(folder, size):
    import dataclasses

    import test_train as t
    config = dataclasses.replace(t.CONFIG, epochs=size)
    yield "checkpoints of a training", lambda: t.fit(t.make_task(), t.make_batches(), config, folder, progress=False)


WRITERS = {f.__name__: f for f in (tables, records, answers, frames, audit, training)}


# faults

def content(folder):
    "Return the content of all files below a folder."
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "filler"]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


def mount(folder, *options):
    "Mount a small disk, or mount it anew with other options."
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(("size=4m", *options)), "tmpfs", str(folder)], check=True)


@contextmanager
def full(folder):
    with open(folder/"filler", "wb", buffering=0) as f:
        for size in (2**16, 2**12):
            try:
                while True: f.write(bytes(size))
            except OSError: pass
    yield
    os.unlink(folder/"filler")


@contextmanager
def read_only(folder):
    mount(folder, "remount", "ro")
    yield
    mount(folder, "remount", "rw")


@contextmanager
def closed(folder):
    "Take the permission to write; root, who may write everywhere, becomes nobody."
    folders = [folder, *(p for p in folder.rglob("*") if p.is_dir())]
    if os.getuid() == 0:
        for path in (folder, *folder.rglob("*")): os.chown(path, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    for path in folders: path.chmod(0o555)
    try: yield
    finally:
        if os.getuid() == 0: os.seteuid(0)
        for path in folders: path.chmod(0o755)


def attempt(write, folder, before):
    "Write; return an outcome in words, and True if it is one clear error and what was there is whole."
    try: write()
    except Exception as e: fault = one_line(e)
    else: fault = "no error"
    if (after := content(folder)) != before:
        changed = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
        fault += f"; files changed: {changed[:3]}"
    left = [p.name for p in folder.rglob(".part-*")]
    if left: fault += f"; left behind: {left[0]}"
    return (fault.strip("; "), False) if fault else ("one clear error, old files whole", True)


def cases(names, root, fault):
    "Yield the cases of a fault in a folder that holds older files."
    for name in names:
        folder = root/name
        folder.mkdir()
        for _, write in WRITERS[name](folder, 1): write()
        before = content(folder)
        for what, write in WRITERS[name](folder, 9):
            with fault(root if fault is not closed else folder): outcome, good = attempt(write, folder, before)
            yield Case(f"{fault.__name__.replace('_', ' ')}, {what}", outcome, good)


def inner(name, *names):
    "Run the cases of a fault in this process, which has a mount namespace of its own or is nobody; print them as JSON."
    fault = globals()[name]
    with tempfile.TemporaryDirectory() as tmp:
        if fault is not closed: mount(tmp)
        else: os.chmod(tmp, 0o755)
        try: done = [*cases(names, Path(tmp), fault)]
        finally:
            if fault is not closed: subprocess.run(["umount", tmp], check=True)
    print("\n" + json.dumps(done))


def outer(fault, names):
    "Run `inner` in a process of its own; return its cases, or None if namespaces are not allowed here."
    alone = [] if fault is closed else ["unshare", "-rm"]
    if alone and (not shutil.which("unshare") or subprocess.run([*alone, "mount", "-t", "tmpfs", "t", "/mnt"],
                                                                capture_output=True).returncode): return None
    code = f"import sys; sys.path.insert(0, {str(TESTS)!r}); from faults.disk import inner; inner(*sys.argv[1:])"
    env = os.environ | {"PYTHONPATH": str(TESTS.parent), "PYTHONWARNINGS": "ignore", "MPLCONFIGDIR": "/tmp",
                        "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/.hypothesis", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([*alone, sys.executable, "-c", code, fault.__name__, *names], env=env, capture_output=True,
                          text=True)
    if done.returncode: raise RuntimeError(done.stderr[-3000:])
    return [Case(*c) for c in json.loads(done.stdout.splitlines()[-1])]


def in_the_way(names):
    "Yield the cases of a file where the folder should be."
    with tempfile.TemporaryDirectory() as tmp:
        for name in names:
            (Path(tmp)/name).write_text("mine")
            for what, write in WRITERS[name](Path(tmp)/name, 1):
                outcome, good = attempt(write, Path(tmp), content(Path(tmp)))
                yield Case(f"file in the way, {what}", outcome, good)


def checks(names=tuple(WRITERS)):
    "Run all faults of disks."
    for fault, words in ((full, "full disk"), (read_only, "read-only disk"), (closed, "folder without permission")):
        done = outer(fault, names)
        yield Check(words, "everything that is written" if done is not None else
                    "not run: this machine allows no small disks", done or [])
    yield Check("file where a folder should be", "everything that is written", [*in_the_way(names)])
