"""Make vidneg/text/slot_counts.txt, the counts of words in slots that the package ships, from freely licensed captions.

`python bench/slot_counts.py FOLDER` reads FOLDER/sugar_crepe/*.json (COCO captions, CC BY 4.0), FOLDER/vitatecs/*.jsonl
(captions of MSR-VTT and VATEX, CC BY 4.0) and FOLDER/didemo/{val,test}_data.json (BSD-2): the true captions alone. The
parser is "english" (`vidneg models get english`). The same input gives the same file.
"""
import argparse
import json
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


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("folder", type=Path, help="folder of the three sources")
    arguments.add_argument("--parser", default="english")
    arguments = arguments.parse_args()
    texts = dict.fromkeys(captions(arguments.folder))
    index = SlotIndex().add(load_parser(arguments.parser).pipe(texts))
    path = save_index(LISTS.parent/"slot_counts.txt", index)
    print(f"{path}: {len(texts)} captions, {path.stat().st_size:,} bytes")
