"""Make vidneg/text/slot_counts.txt, the counts of words in slots that the package ships, from freely licensed captions.
`python bench/slot_counts.py FOLDER` reads FOLDER/sugar_crepe/*.json (COCO captions, CC BY 4.0), FOLDER/vitatecs/*.jsonl
(captions of MSR-VTT and VATEX, CC BY 4.0) and FOLDER/didemo/{val,test}_data.json (BSD-2): the true captions alone. The
parser is "english" (`vidneg models get english`). The same input gives the same file. With `--check` nothing is
written, and the script says if the package's file is current: it has to be made again after each change of classes of
words (contrasts.txt), of slots, or of how captions are parsed.
"""
import argparse
import json
import sys
import tempfile
from pathlib import Path

from vidneg.text.lexicon import LISTS
from vidneg.text.parse import load_parser
from vidneg.text.slots import SlotIndex, save_index


def captions(folder):
    "Yield the captions of the three sources, each file in the order of its name."
    for path in sorted((folder/"sugar_crepe").glob("*.json")):
        yield from (r["caption"] for r in json.loads(path.read_text(encoding="utf-8")).values())
    for path in sorted((folder/"vitatecs").glob("*.jsonl")):
        yield from (json.loads(line)["caption"] for line in path.read_text(encoding="utf-8").split("\n") if line)
    for part in ("test", "val"):
        rows = json.loads((folder/f"didemo/{part}_data.json").read_text(encoding="utf-8"))
        yield from (r["description"] for r in rows)


def options(about):
    "Read the command line."
    parser = argparse.ArgumentParser(description=about.split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of the three sources")
    parser.add_argument("--parser", default="english")
    parser.add_argument("--check", action="store_true", help="compare with the file in the package, and write nothing")
    return parser.parse_args()


def keep(path, save, check):
    "Write a file, or compare it with the present one; the exit status is 1 if they differ."
    if not check: return print(f"{save(path)}: {path.stat().st_size:,} bytes")
    with tempfile.TemporaryDirectory() as folder:
        new = save(Path(folder)/path.name).read_text(encoding="utf-8").split("\n")
    old = path.read_text(encoding="utf-8").split("\n")
    lines = len({*new} ^ {*old})
    if new != old: sys.exit(f"{path} is not current, {lines} lines differ: run the script without --check")
    print(f"{path} is current")


if __name__ == "__main__":
    arguments = options(__doc__)
    index = SlotIndex().add(load_parser(arguments.parser).pipe(dict.fromkeys(captions(arguments.folder))))
    keep(LISTS.parent/"slot_counts.txt", lambda path: save_index(path, index), arguments.check)
