"""Make vidneg/text/order_counts.txt, the counts of earlier and later events that the package ships.

`python bench/order_counts.py FOLDER` reads the captions that `bench/slot_counts.py` reads, whose licenses allow it,
with the parser "english" (`vidneg models get english`). The same input gives the same file.
`--check` compares, as there.
"""
import re

from slot_counts import captions, keep, options

from vidneg.negatives.order import COUNTS, OrderCounts, save_counts
from vidneg.text.parse import load_parser

TWO_EVENTS = re.compile(r"\b(?:then|before|after|followed by|and \w+(?:s|ing|ed))\b") # other captions count for nothing

if __name__ == "__main__":
    arguments = options(__doc__)
    texts = [t for t in dict.fromkeys(captions(arguments.folder)) if TWO_EVENTS.search(t)]
    counts = OrderCounts().add(load_parser(arguments.parser).pipe(texts))
    keep(COUNTS, lambda path: save_counts(path, counts), arguments.check)
