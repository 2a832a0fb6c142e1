"""Execute the library's notebooks as tests: `python tests/notebooks.py [--changed] [notebook ...]`.

Each runs in its own process, because a notebook and the module made from it would register the same names twice. The
processes are forked from a server that has imported the large packages once.
"""
import argparse
import os
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LARGE = ["torch", "transformers", "spacy", "pandas", "scipy.stats", "matplotlib.pyplot", "nbdev.test"]


def lessons():
    "List the notebooks that are lessons; stages run in the pipeline, and index.ipynb becomes the README."
    found = sorted(p.relative_to(ROOT) for p in (ROOT/"nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    return [p for p in found if p.parts[1] != "stages" and p != Path("nbs/index.ipynb")]


def changed(base):
    "List the notebooks that differ from a commit, new files included."
    def git(*words): return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = git("diff", "--name-only", "-z", base, "--", "nbs") + git("ls-files", "-oz", "--exclude-standard", "nbs")
    return {Path(name) for name in names.split("\0") if name}


def run(path):
    "Execute one notebook; return its path, True for success, and the seconds."
    from nbdev.test import test_nb
    start = time.perf_counter()
    ok, _ = test_nb(ROOT/path, skip_flags=["slow", "gpu"], basepath=ROOT)
    return path, ok, time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description="Execute the library's notebooks as tests.")
    parser.add_argument("notebooks", nargs="*", type=Path, help="paths from the root; default: all")
    parser.add_argument("--changed", metavar="COMMIT", nargs="?", const="HEAD",
                        help="only those that differ from COMMIT")
    args = parser.parse_args()
    paths = args.notebooks or lessons()
    if args.changed: paths = [p for p in paths if p in changed(args.changed)]
    context = get_context("forkserver")
    context.set_forkserver_preload(LARGE)
    with context.Pool(len(os.sched_getaffinity(0)), maxtasksperchild=1) as pool:
        results = list(pool.imap_unordered(run, paths, chunksize=1))
    for path, _, seconds in sorted(results, key=lambda r: -r[2])[:5]: print(f"{seconds:6.1f} s  {path}")
    failed = sorted(str(path) for path, ok, _ in results if not ok)
    print(f"{len(results)} notebooks, {len(failed)} failed" + "".join(f"\n  {path}" for path in failed))
    return bool(failed)


if __name__ == "__main__": sys.exit(main())
