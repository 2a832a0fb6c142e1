"""Run the table of faults and write its figures: `make faults`.

    python tests/faults/report.py [--out FILE] [--only ROW ...] [--scale 1.0]

The figures are counts that do not depend on the machine. A fault that breaks is described below the table, and the exit
status is 1. `--scale` multiplies the numbers of cases, such as 0.1 for a quick look.
"""
import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults import captions, chat, disk, endurance, hostile, kills, video  # noqa: E402
from faults.checks import Case, Check, table  # noqa: E402

ROOT = Path(__file__).parents[2]
HEAD = """# Faults

`make faults` runs these and writes this page. A case is good if what must happen did happen; others are listed below.
The videos are {videos}.

"""


def damaged(n):
    "Damage videos and read them, alone and as a dataset."
    import tempfile

    from test_video import ramp, write
    real = os.environ.get("VIDNEG_REAL_DATA", "")
    with tempfile.TemporaryDirectory() as tmp:
        paths = [p for p in Path(real, "clips").glob("*") if p.suffix in (".mp4", ".mkv", ".avi")] if real else [
            write(Path(tmp)/name, ramp(60, 96, 128, seed=i), codec="mpeg4" if name == "c.avi" else "libx264")
            for i, name in enumerate(("a.mp4", "b.mkv", "c.avi", "d.ts"))]
        outcomes, bad = video.run(paths, n, limit=120)
    words = {"read": "read or refused in one line", "refused": "read or refused in one line"}
    for fault in video.FAULTS:
        cases = [Case(path.name, words.get(word, f"{word}: {message}"), word in words and "\n" not in message)
                 for name, path, word, message in outcomes if name == fault.__name__]
        yield Check(f"video {fault.__name__.replace('_', ' ')}", "`read_frames`, in a child process", cases)
    listed = dict(bad)
    cases = [Case(path.name, "read, or skipped and listed with its cause", (word != "read") == (path.name in listed))
             for _, path, word, _ in outcomes]
    yield Check("all damaged videos", "`read_clips`, a whole dataset", cases)


ROWS = {"kills": (kills.checks, 20), "videos": (damaged, 200), "disk": (lambda n: disk.checks(), 1),
        "hostile": (lambda n: hostile.checks(), 1), "chat": (chat.checks, 200), "captions": (captions.checks, 1000),
        "endurance": (endurance.checks, 30)}


def run(names, scale=1.0):
    "Yield the checks of some rows."
    for name in names:
        checks, n = ROWS[name]
        for check in checks(max(1, round(n*scale))):
            said = f"{name}: {check.where}: {len(check.broken)} of {len(check.cases)} broken"
            print(said, file=sys.stderr, flush=True)
            yield check


def page(checks):
    "Write checks as a page in Markdown."
    real = os.environ.get("VIDNEG_REAL_DATA")
    videos = "real ones" if real else "made ones, since VIDNEG_REAL_DATA names no folder of real ones"
    broken = [f"- {c.fault}, {c.where}: {case.name}: {case.outcome}" for c in checks for case in c.broken]
    return HEAD.format(videos=videos) + table(checks) + ("\n## Broken\n\n" + "\n".join(broken) + "\n" if broken else "")


def main(argv=None):
    parser = argparse.ArgumentParser(description="Run the table of faults.")
    parser.add_argument("--out", type=Path, default=ROOT/"reports/faults.md")
    parser.add_argument("--only", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument("--scale", type=float, default=1.0)
    args = parser.parse_args(argv)
    found = [*run(args.only, args.scale)]
    args.out.write_text(page(found), encoding="utf-8")
    return int(any(c.broken for c in found))


if __name__ == "__main__": sys.exit(main())
