"""Run the table of faults and write its figures: `make faults`.

    python tests/faults/report.py [--out FILE] [--only ROW ...] [--scale 1.0] [--minutes 60]

The figures are counts that do not depend on the machine. A fault that breaks is described below the table, and the exit
status is 1. `--scale` multiplies the numbers of cases, such as 0.1 for a quick look. `--minutes` makes the row
endurance go on for so long. `--only` keeps the other rows of the page; the row smoke runs only if it is named, since it
reproduces a whole scale many times.
"""
import argparse
import os
import re
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
        "endurance": (endurance.checks, 30), "smoke": (kills.smoke_checks, 20)}


def run(names, scale=1.0, minutes=0.0):
    "Yield the checks of some rows."
    for name in names:
        checks, n = ROWS[name]
        more = {"minutes": minutes} if name == "endurance" else {}
        for check in checks(max(1, round(n*scale)), **more):
            said = f"{name}: {check.where}: {len(check.broken)} of {len(check.cases)} broken"
            print(said, file=sys.stderr, flush=True)
            yield check


def rows_of(text):
    "Return fault and place → row of a page."
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    cells = [re.split(r" (?<!\\)\| ", line.removeprefix("| ")) for line in lines]
    return {(c[0].replace("\\|", "|"), c[1].replace("\\|", "|")): line for c, line in zip(cells, lines)}


def with_others(page, old, kept=lambda fault, where: True):
    "Add rows of an older page that a page lacks, in the order of the older page, and the cases that broke there."
    new = rows_of(page)
    others = {k: line for k, line in rows_of(old).items() if k not in new and kept(*k)}
    broken = [line for line in old.splitlines() if any(line.startswith(f"- {f}, {w}: ") for f, w in others)]
    broken += [line for line in page.splitlines() if line.startswith("- ")]
    rows = {k: others.get(k) or new[k] for k in [*rows_of(old), *new] if k in others or k in new}
    text = page[:page.index("| ")] + table([]) + "\n".join(rows.values()) + "\n"
    return text + ("\n## Broken\n\n" + "\n".join(broken) + "\n" if broken else "")


def page(checks):
    "Write checks as a page in Markdown."
    real = os.environ.get("VIDNEG_REAL_DATA")
    videos = "real ones" if real else "made ones, since VIDNEG_REAL_DATA names no folder of real ones"
    broken = [f"- {c.fault}, {c.where}: {case.name}: {case.outcome}" for c in checks for case in c.broken]
    return HEAD.format(videos=videos) + table(checks) + ("\n## Broken\n\n" + "\n".join(broken) + "\n" if broken else "")


def main(argv=None):
    parser = argparse.ArgumentParser(description="Run the table of faults.")
    parser.add_argument("--out", type=Path, default=ROOT/"reports/faults.md")
    parser.add_argument("--only", nargs="*", choices=ROWS)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--minutes", type=float, default=0.0)
    args = parser.parse_args(argv)
    names = args.only if args.only is not None else [name for name in ROWS if name != "smoke"]
    found = [*run(names, args.scale, args.minutes)]
    old = args.out.read_text(encoding="utf-8") if args.out.is_file() else ""
    def kept(fault, where): return args.only is not None or where == kills.SMOKE
    args.out.write_text(with_others(page(found), old, kept), encoding="utf-8")
    return int(any(c.broken for c in found))


if __name__ == "__main__": sys.exit(main())
