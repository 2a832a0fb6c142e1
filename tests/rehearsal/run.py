"""Rehearse the scale `paper`: python tests/rehearsal/run.py

Makes the inputs, runs the stages on them, and fails if a stage that should run was skipped or a loss did not fall.
"""
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from make import make

ROOT = Path(__file__).resolve().parents[2]
PARTS = { # scale → its last stage (None: all), and the stages that its data say nothing about
    "rehearsal": (None, {"dial", "cross", "spot", "qa"}), # MSR-VTT has no scene graphs, and there is no other world
    "rehearsal-anetqa": ("qa", set()),
    "rehearsal-moviegraphs": ("spot", set())}


def run(scale: str) -> float:
    "Run a scale, up to its last stage; return the seconds that it took."
    begun, stage, where = time.monotonic(), PARTS[scale][0], ROOT/"scales"/scale
    command = [sys.executable, "-m", "vidneg.pipeline.scales"]
    with open(where/"run.log", "w") as log:
        out = dict(check=True, stdout=log, stderr=subprocess.STDOUT)
        try:
            if stage is None: subprocess.run([*command, "reproduce", "--scale", scale], cwd=ROOT, **out)
            else:
                subprocess.run([*command, "make", "--scale", scale], cwd=ROOT, **out)
                subprocess.run([sys.executable, "-m", "dvc", "repro", stage], cwd=where, **out)
        except subprocess.CalledProcessError:
            sys.exit(f"{scale} failed:\n{(where/'run.log').read_text()[-3000:]}")
    return time.monotonic() - begun


def skipped(folder: Path) -> dict[str, str]:
    "Return the stages of a scale that had nothing to do, and why."
    found = {}
    for path in sorted(folder.glob("reports/executed/*.ipynb")):
        outputs = [o for c in json.loads(path.read_text())["cells"] for o in c.get("outputs", [])]
        reasons = [o["evalue"] for o in outputs if o.get("ename") == "Skipped"]
        if reasons: found[path.stem] = reasons[0]
    return found


def losses(folder: Path) -> pd.DataFrame:
    """Return the first and the last loss of every training of several epochs.

    Each epoch draws a caption per clip, and not every caption has a negative, so means of few clips vary: of three
    and more epochs, the higher one of the first two counts as the first.
    """
    rows = []
    for path in sorted(folder.glob("data/**/metrics.csv")):
        table = pd.read_csv(path)
        loss = table["loss" if "loss" in table else "answer"].groupby(table["epoch"]).mean()
        early = loss.iloc[:2 if len(loss) > 2 else 1].max()
        if len(loss) > 1: rows.append((str(path.parent.relative_to(folder)), early, loss.iloc[-1]))
    return pd.DataFrame(rows, columns=["training", "first", "last"]).set_index("training").round(3)


def faults(scale: str, allowed: set[str]) -> list[str]:
    "Print what a scale left behind; return what is wrong with it."
    folder = ROOT/"scales"/scale
    away, table = skipped(folder), losses(folder)
    print(f"\n{scale}: {len(table)} trainings\n{table.to_string()}")
    print("\n".join(f"  {stage} skipped: {why}" for stage, why in away.items()))
    rising = table[~(table["last"] < table["first"])]
    return [f"{scale}: {stage} was skipped: {away[stage]}" for stage in sorted(away.keys() - allowed)] + [
        f"{scale}: the loss of {name} did not fall: {row['first']} to {row['last']}"
        for name, row in rising.iterrows()] + [f"{scale}: nothing was trained"]*table.empty


def main() -> int:
    make(ROOT/"scales/rehearsal/inputs")
    with ThreadPoolExecutor(2) as pool: seconds = dict(zip(PARTS, pool.map(run, PARTS))) # stages leave a core idle
    found = [fault for scale, (_, allowed) in PARTS.items() for fault in faults(scale, allowed)]
    print("\nseconds: " + ", ".join(f"{scale} {s:.0f}" for scale, s in seconds.items()))
    print("\n".join(found) or "every stage ran, and every loss fell")
    return bool(found)


if __name__ == "__main__": sys.exit(main())
