"""Execute the library's notebooks as tests: `python tests/notebooks.py [--changed] [notebook ...]`.

Each runs in its own process, because a notebook and the module made from it would register the same names twice. The
processes are forked from a server that has imported the large packages once.
"""
import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from changed import changed

ROOT = Path(__file__).resolve().parents[1]
LARGE = ["torch", "transformers", "spacy", "pandas", "scipy.stats", "matplotlib.pyplot", "nbdev.test"]


def lessons():
    "List the notebooks that are lessons; stages run in the pipeline, and index.ipynb becomes the README."
    found = sorted(p.relative_to(ROOT) for p in (ROOT/"nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    return [p for p in found if p.parts[1] != "stages" and p != Path("nbs/index.ipynb")]


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
    # the processes of multiprocessing's own pool may not start processes, as some notebooks do
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), context, max_tasks_per_child=1) as pool:
        results = list(pool.map(run, paths))
    for path, _, seconds in sorted(results, key=lambda r: -r[2])[:5]: print(f"{seconds:6.1f} s  {path}")
    failed = sorted(str(path) for path, ok, _ in results if not ok)
    print(f"{len(results)} notebooks, {len(failed)} failed" + "".join(f"\n  {path}" for path in failed))
    return bool(failed)


if __name__ == "__main__": sys.exit(main())
