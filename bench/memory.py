"""Peak memory of the rooms that stream captions, at few captions and at many: `make bench-memory`.

Each room runs in a process of its own, once with SMALL captions and once with many more, and the table shows both
peaks. Captions are those of the world, or the lines of a file (`--captions`), repeated under new ids until there are
enough. `--only rules --rules 100000` measures less.
"""
import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from itertools import count
from pathlib import Path

# The other process imports this file as well, so each room imports what it needs.
SMALL, SHARD, ROOMS = 10_000, 500, {}


def room(function):
    ROOMS[function.__name__] = function
    return function


def texts_of(path):
    "Return the captions to repeat."
    if path: return [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    from vidneg.world.script import WorldConfig, captions, make_clip
    return [c.text for i in range(SMALL//8) for c in captions(make_clip("train", i, WorldConfig()), WorldConfig())]


def stream(texts, n):
    "Yield captions with new ids, one at a time."
    from vidneg.core.records import Caption
    for i in range(n): yield Caption(f"c{i}", f"v{i//4}", texts[i % len(texts)])


class Pairs:
    "A language model that fills a gap with words that followed its left neighbor."
    name = "pairs"
    def __init__(self, texts):
        after = defaultdict(Counter)
        for words in (t.lower().split() for t in texts[:SMALL]):
            for a, b in zip(["", *words], words): after[a][b.strip(".,")] += 1
        self.after = {a: [(w, n/found.total()) for w, n in found.most_common(20)] for a, found in after.items()}

    def fill(self, texts, top_k=20):
        from vidneg.lm.protocols import MASK
        return [self.after.get((t.lower().split(MASK.lower())[0].split() or [""])[-1], [])[:top_k] for t in texts]


@room
def rules(texts, n):
    "Make negatives with the word lists of NAVERO."
    from vidneg.negatives.generate import stream_negatives
    from vidneg.negatives.rules import rules_published
    from vidneg.text.lexicon import lexicon_named
    return sum(1 for _ in stream_negatives(stream(texts, n), rules_published(lexicon_named("navero"))))


@room
def parse(texts, n):
    "Parse captions into a file."
    from vidneg.text.parse import load_parser, write_parses
    with tempfile.TemporaryDirectory() as folder:
        return write_parses(f"{folder}/parses.parquet", load_parser().pipe(c.text for c in stream(texts, n)))


@room
def mixed(texts, n):
    "Make negatives by rules and a language model in turn."
    from vidneg.negatives.generate import stream_negatives
    from vidneg.negatives.mixed import MixedGenerator
    from vidneg.negatives.mlm import LmEditor
    from vidneg.negatives.rules import rules_published
    from vidneg.text.lexicon import lexicon_named
    from vidneg.text.parse import load_parser
    generator = MixedGenerator(rules_published(lexicon_named("navero")), LmEditor(Pairs(texts), load_parser().parse))
    return sum(1 for _ in stream_negatives(stream(texts, n), generator, size=SHARD))


@room
def components(texts, n):
    "Make negatives and positives of all sentence components."
    from vidneg.negatives.components.make import ComponentGenerator
    from vidneg.negatives.generate import stream_negatives
    from vidneg.text.parse import load_parser
    return sum(1 for _ in stream_negatives(stream(texts, n), ComponentGenerator(load_parser()), size=SHARD))


@room
def audit(texts, n):
    "Count defects of all pairs and audit a sample of 2,000."
    from vidneg.audit.page import audit_set
    from vidneg.data.pairs import Pair
    pairs = (Pair(c.caption_id, c.clip_id, "any", c.text, texts[(i + 1) % len(texts)])
             for i, c in zip(count(), stream(texts, n)))
    return audit_set("pairs", pairs, n=2000).counts["pairs"]


def peak():
    "Return the peak memory of this process (MiB); VmHWM, unlike ru_maxrss, leaves out the parent before exec."
    status = Path("/proc/self/status")
    if status.exists(): return int(status.read_text().split("VmHWM:")[1].split()[0])/1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(2**20 if sys.platform == "darwin" else 2**10)


def measure(name, n, captions):
    "Run a room in its own process; return its peak (MiB), number of results and seconds."
    command = [sys.executable, __file__, "--room", name, "--n", str(n), *(["--captions", captions] if captions else [])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--captions", help="a text file, one caption a line; the world's by default")
    for name in ROOMS:
        p.add_argument(f"--{name}", type=int, default=1_000_000 if name in ("rules", "audit") else 30_000)
    p.add_argument("--only", choices=ROOMS, nargs="+", default=list(ROOMS))
    p.add_argument("--room", choices=ROOMS, help=argparse.SUPPRESS)
    p.add_argument("--n", type=int, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.room:
        texts, start = texts_of(args.captions), time.perf_counter()
        made = ROOMS[args.room](texts, args.n)
        print(json.dumps({"peak": peak(), "made": made, "seconds": time.perf_counter() - start}))
        return
    print(f"{'room':<12}{'captions':>12}{'made':>12}{'seconds':>10}{'peak (MiB)':>12}{'ratio':>8}")
    for name in args.only:
        first = None
        for n in (SMALL, getattr(args, name)):
            r = measure(name, n, args.captions)
            first = first or r["peak"]
            print(f"{name:<12}{n:>12,}{r['made']:>12,}{r['seconds']:>10.1f}{r['peak']:>12.0f}{r['peak']/first:>8.2f}",
                  flush=True)


if __name__ == "__main__": main()
