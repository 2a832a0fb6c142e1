"""Kill training, stages and probes at random moments: what is continued must end with the same bytes.

The scale smoke takes an hour and more: `python tests/faults/report.py --only smoke`, in a clean checkout.
"""
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import psutil
from faults.checks import Case, Check

from vidneg.core.seeds import stable_rng

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
SMOKE = "the scale `smoke`, all stages"
PATIENCE = 30.0 # seconds in which what is left of a killed run must be gone


# what is killed

def training(folder):
    "Train a small model with all losses; a checkpoint every second step."
    import test_train as t
    class Slow(t.Batches):
        def batch(self, epoch, index):
            time.sleep(0.03)
            return super().batch(epoch, index)
    t.fit(t.make_task(), Slow(*t.make_data(), batch_size=5, negatives_per_clip=2, seed=3), t.CONFIG, folder,
          progress=False)


def probe(folder):
    "Probe the packaged model on the videos that lie beside the folder, with a control."
    import vidneg
    vidneg.probe("world", Path(folder).parents[1]/"videos", out=folder, controls=["shuffled"], n_frames=4, size=48,
                 generator="rules-balanced")


def videos(folder, n=70):
    "Make videos with a caption each."
    import json

    import numpy as np
    import test_probe as t
    folder.mkdir(parents=True)
    for i in range(n):
        noise = np.random.default_rng(i).integers(256, size=(6, 48, 64, 3)).astype(np.uint8)
        t.write(folder/f"v{i}.mp4", noise)
    rows = [{"video": f"v{i}.mp4", "caption": t.sentence(i)} for i in range(n)]
    (folder/"captions.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def files(folder):
    "Return the content of all files, without what a killed run left behind."
    paths = [p for p in sorted(Path(folder).rglob("*")) if p.is_file()]
    inside = {p.relative_to(folder).as_posix(): p for p in paths}
    return {name: p.read_bytes() for name, p in inside.items() if ".part-" not in name}


def alive(session):
    "Return the processes of a session, without those that have ended."
    found = []
    for p in psutil.process_iter():
        try:
            if os.getsid(p.pid) == session and p.status() != psutil.STATUS_ZOMBIE: found.append(p)
        except (psutil.Error, OSError): pass
    return found


def survivors(session):
    "Wait for the end of a session; return the number of processes that did not end, which are then killed."
    until = time.monotonic() + PATIENCE
    while (left := alive(session)) and time.monotonic() < until: time.sleep(0.05)
    for p in left: p.kill()
    return len(left)


# runs that are forked from one process, which has imported everything

def zygote():
    "Fork a process for each folder that comes in: the function's name, a tab, the folder."
    import test_probe
    import test_train

    import vidneg
    assert test_probe and test_train and vidneg.probe
    print("ready", flush=True)
    for line in sys.stdin:
        name, folder = line.rstrip("\n").split("\t")
        if (pid := os.fork()) == 0:
            os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2): os.dup2(null, fd)
            code = 1
            try:
                globals()[name](Path(folder))
                code = 0
            finally: os._exit(code)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


@contextmanager
def forks():
    "Yield a function (name, folder) → (process id, function that waits for its status)."
    code = f"import sys; sys.path.insert(0, {str(TESTS)!r}); from faults.kills import zygote; zygote()"
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          env=env) as process:
        assert process.stdout.readline() == "ready\n"
        def start(name, folder):
            process.stdin.write(f"{name}\t{folder}\n")
            process.stdin.flush()
            return int(process.stdout.readline()), lambda: int(process.stdout.readline())
        yield start
        process.stdin.close()


def killed(
    start: Callable, # folder → (process id, function that waits for its status)
    place: Callable, # number → a fresh folder for a run
    content: Callable, # folder → what must be equal at the end
    n: int, # number of kills
    seed: str, # key of the random moments
    victim: Callable = lambda pid, rng: pid, # process to kill
) -> list[Case]:
    "Start, kill at a random moment and go on, until `n` runs were killed; compare each end with that of a whole run."
    began = time.monotonic()
    pid, wait = start(whole := place(0))
    assert wait() == 0, f"a whole run of {seed} fails"
    length, want, rng = time.monotonic() - began, content(whole), stable_rng(0, "kills", seed)
    cases, number, fresh = [], 1, place(1)
    while True:
        done = len(cases) >= n
        pid, wait = start(fresh)
        if not done:
            time.sleep(float(rng.uniform(0, length*.7)))
            try: os.kill(victim(pid, rng), signal.SIGKILL)
            except ProcessLookupError: pass # it has ended
        if wait() != 0:
            assert not done, f"a run of {seed} that was killed cannot be continued"
            left, name = survivors(pid), f"kill {len(cases) + 1}"
            cases.append(Case(name, "processes left" if left else "continued, same bytes", not left))
            continue
        same = content(fresh) == want
        if not same: cases[-1:] = [Case(f"run {number}", "another end", False)]
        if done: return cases
        number, fresh = number + 1, place(number + 1)


def forked(name, n):
    "Kill a function of this module."
    with tempfile.TemporaryDirectory() as tmp, forks() as start:
        if name == "probe": videos(Path(tmp)/"videos")
        def place(i): return Path(tmp)/f"run{i}/out"
        return killed(lambda folder: start(name, folder), place, files, n, name)


# stages

MAKES = """
import time
from pathlib import Path
from vidneg.core.files import atomic_path
from vidneg.core.parallel import parallel_map
from vidneg.core.records import Caption, write_records
from vidneg.negatives.generate import make_all, single_task
from vidneg.negatives.rules import rules_published
from vidneg.text.lexicon import Lexicon
some = [Caption(str(i), str(i), f"a {a} holds a {c} cup") for i, (a, c) in
        enumerate((a, c) for a in "man woman boy girl".split() for c in "red blue green black".split())]
made = make_all({"rules": single_task(some, rules_published(Lexicon.navero()))}, 2, 4, Path("shards"))["rules"]
time.sleep(.5)
write_records("data/negatives.parquet", made.negatives)
"""
COUNTS = """
import collections, json
from vidneg.core.files import atomic_path
from vidneg.core.records import Negative, read_records
found = collections.Counter(n.kind for n in read_records("data/negatives.parquet", Negative))
with atomic_path("data/counts.json") as part: part.write_text(json.dumps(sorted(found.items())))
"""
DVC = """stages:
  make:
    cmd: .ci/python -m vidneg.pipeline.runner make
    deps: [nbs/stages/make.ipynb]
    outs: [data/negatives.parquet]
  count:
    cmd: .ci/python -m vidneg.pipeline.runner count
    deps: [data/negatives.parquet]
    outs: [data/counts.json]
"""


def small_pipeline(root):
    "Make a project with two stages, which start processes and write files as those of the real one."
    import test_run as t
    (root/"nbs/stages").mkdir(parents=True)
    (root/"settings.ini").touch()
    (root/"params.yaml").write_text("make: {}\ncount: {}\n")
    (root/"dvc.yaml").write_text(DVC)
    for name, source in (("make", MAKES), ("count", COUNTS)): t.write_stage(root, name, source, parameters="")
    (root/".ci").mkdir()
    shutil.copy(ROOT/".ci/python", root/".ci/python")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=root, check=True)
    return root


def reproduce(root):
    "Start `dvc repro` in a session of its own."
    env = os.environ | {"VENV": sys.prefix, "PYTHONPATH": str(root if (root/"vidneg").exists() else ROOT)}
    process = subprocess.Popen([sys.executable, "-m", "dvc", "repro", "-q"], cwd=root, env=env, start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return process.pid, process.wait


def any_of(session, rng):
    "Return DVC's process, or one that it has started."
    below = sorted(p.pid for p in alive(session) if p.pid != session)
    return session if rng.random() < .5 or not below else below[int(rng.integers(len(below)))]


def stages(n):
    "Kill `dvc repro`, or a process below it, in a small pipeline."
    with tempfile.TemporaryDirectory() as tmp:
        small_pipeline(Path(tmp)/"project") # cells have random ids, so that each run gets a copy
        def place(i): return Path(shutil.copytree(Path(tmp)/"project", Path(tmp)/str(i)))
        return killed(reproduce, place, lambda root: (root/"dvc.lock").read_bytes(), n, "stages", any_of)


def smoke(n):
    "Kill a reproduction of the scale smoke in a clone of this checkout."
    with tempfile.TemporaryDirectory() as tmp:
        def place(i):
            clone = Path(tmp)/str(i)
            subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
            subprocess.run([sys.executable, "-m", "vidneg.pipeline.scales", "make", "--scale", "smoke"], cwd=clone,
                           env=os.environ | {"PYTHONPATH": str(clone)}, check=True, stdout=subprocess.DEVNULL)
            return clone/"scales/smoke"
        return killed(reproduce, place, lambda root: (root/"dvc.lock").read_bytes(), n, "smoke", any_of)


def smoke_checks(n=20):
    "Kill `dvc repro` of the scale smoke, or a process below it."
    yield Check("SIGKILL of DVC or a process below it", SMOKE, smoke(n))


def checks(n=20):
    "Kill training, stages and probes `n` times each."
    yield Check("SIGKILL at random moments", "training", forked("training", n))
    yield Check("SIGKILL at random moments", "`vidneg.probe`", forked("probe", n))
    yield Check("SIGKILL of DVC or a process below it", "stages", stages(n))
