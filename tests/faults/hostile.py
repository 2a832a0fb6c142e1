"Input that was made to harm: it is refused in one line, or shown as text."
import html.parser
import os
import pickle
import re
import tempfile
from pathlib import Path

from faults.checks import Case, Check, one_line

SCRIPTS = ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\"><svg onload=alert(1)>",
           "<a href=\"javascript:x\">a", "</td></table><iframe src=http://x>", "{{ 7*7 }} {% raw %}",
           "<!-- --><style>*{display:none}</style>",
           "&lt;script&gt; &#x3C;script", "<SCRIPT SRC=//x>", "'; alert(1); //", "\u202e<b>", "]]><script>",
           "a\0<script>"]
FORMULAS = ["=1+2", "=HYPERLINK(\"http://x\",\"y\")", "+1+cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0", "@SUM(1,2)",
            "\t=1+2", "\r=1+2", "＝1+2", "=cmd|'/c calc'!A1", "'=1+2", "-(1)",
            "a normal caption, with a comma", "-4wsuPCjDBc_5_15"]


def refused(name, call):
    "Return a case that is good if a call is refused in one line."
    try: found = call()
    except Exception as e:
        fault = one_line(e)
        return Case(name, fault or "refused", not fault)
    return Case(name, f"accepted: {found!r:.100}", False)


# pickles

def pickles(folder):
    "Yield pickles that run code, or that grow."
    from test_scenegraph import BYTES, CALLS

    from vidneg.data.pickles import load_inert
    mark = folder/"ran"
    for name, make in CALLS.items():
        for protocol in (2, 4):
            data = pickle.dumps(make(mark), protocol)
            yield refused(f"{name}, protocol {protocol}", lambda data=data: load_inert(data))
    for name, data in BYTES.items(): yield refused(name, lambda data=data: load_inert(data))
    yield Case("no code ran", "refused" if not mark.exists() else "code ran", not mark.exists())


# paths and links

def paths(folder):
    "Yield tables whose videos lie elsewhere."
    from vidneg.data.inputs import Finder, open_data
    root, outside = folder/"data", folder/"outside"
    for f in (root, outside): f.mkdir()
    (outside/"secret.mp4").write_bytes(b"secret")
    (root/"link.mp4").symlink_to(outside/"secret.mp4")
    (root/"folder").symlink_to(outside)
    (root/"passwords.mp4").symlink_to("/etc/passwd")
    (root/"nothing.mp4").symlink_to(root/"nothing.mp4")
    names = ["../outside/secret.mp4", str(outside/"secret.mp4"), "a/../../outside/secret.mp4", "link.mp4", "link",
             "folder/secret.mp4", "secret", "passwords.mp4", "nothing.mp4", "/etc/passwd", "file:///etc/passwd",
             "..", ".", "a\0b.mp4", "x"*5000, "~/secret.mp4", "$HOME/secret.mp4"]
    for name in names:
        rows = [{"video": name, "caption": "a dog runs", "negative": "a dog sits"}]
        yield refused(f"{name[:40]!r}", lambda rows=rows: open_data(rows, videos=root))
    for i in range(9): (root/f"loop{i}").symlink_to(root) # without care 9⁴⁰ folders
    (root/"a.mp4").write_bytes(b"film")
    found = Finder(root).find("elsewhere/a")[0]
    yield Case("links in a circle", "entered once" if found else "not found", found == str(root/"a.mp4"))


# tables that are too large

def large(folder, size=2**31):
    "Yield tables with a line of `size` bytes, and a Parquet file that claims a thousand million rows."
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vidneg.data.tables import read_table
    for suffix in ("csv", "tsv", "jsonl", "txt", "json"):
        path = folder/f"long.{suffix}"
        path.write_text("video,caption\na.mp4,")
        os.truncate(path, size) # takes no room on the disk
        yield refused(f"a line of 2 GB in .{suffix}", lambda path=path: read_table(path))
    some = pa.table({"caption": pa.nulls(5*10**6, pa.string())})
    with pq.ParquetWriter(folder/"rows.parquet", some.schema, compression="zstd") as writer:
        for _ in range(200): writer.write_table(some, row_group_size=5*10**6)
    yield refused("a Parquet file of 10⁹ rows", lambda: read_table(folder/"rows.parquet"))
    for name, at in (("start", 4), ("end", -12)):
        data = bytearray((folder/"rows.parquet").read_bytes()[:4000] + b"PAR1")
        data[at] ^= 255
        (folder/f"{name}.parquet").write_bytes(data)
        yield refused(f"a damaged Parquet file, {name}", lambda name=name: read_table(folder/f"{name}.parquet"))


# pages and cells

class Tags(html.parser.HTMLParser):
    "What a browser would make of a page: tags, attributes, and the text."
    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.text = [], []
        self.feed(page)
        self.close()
    def handle_starttag(self, tag, attrs): self.tags.append((tag, dict(attrs)))
    def handle_data(self, data): self.text.append(data)


def shown(name, page, text):
    "Return a case that is good if a page shows a text and does nothing else with it."
    seen = Tags(page)
    active = [t for t, a in seen.tags if t in ("script", "iframe", "object", "embed", "base", "form") or
              any(k.startswith("on") or str(v).strip().lower().startswith("javascript:") for k, v in a.items())]
    def plain(x): return re.sub(r"\s+", "", re.sub("[\x00-\x1f\ufffd]", "", x))
    there = plain(text) in plain("".join(seen.text))
    good = there and not active
    return Case(f"{name}: {text!r}", "shown as text" if good else f"active: {active[:2]}, shown: {there}", good)


def pages():
    "Yield pages of the audit and of a probe with captions that hold HTML or JavaScript."
    import test_probe_report as r
    from test_audit import plain_pairs

    from vidneg.audit.page import audit_negatives, dossier_page
    from vidneg.data.pairs import Pair
    from vidneg.report.probing import ProbeReport
    scores = r.scores.__wrapped__() if hasattr(r.scores, "__wrapped__") else r.scores.__pytest_wrapped__.obj()
    own = scores[scores.run == "model"]
    for text in SCRIPTS:
        pairs = [Pair(f"{i}{text}", p.clip_id, text, f"{text} a dog", f"{text} a cat")
                 for i, p in enumerate(plain_pairs(40))]
        yield shown("audit", dossier_page(audit_negatives(pairs, [], text)), text)
        items = own[["item", "clip_id", "kind", "form", "generator"]]
        items = items.assign(caption=f"{text} a dog", negative=f"{text} a cat")
        report = ProbeReport(text, text, items, scores, notes=(text,))
        yield shown("probe", report.page(), text)
        yield shown("probe in a notebook", report._repr_html_(), text)


def cells(folder):
    "Yield CSV files with formulas."
    import csv

    import pandas as pd

    from vidneg.data.tables import read_table, write_frame
    frame = pd.DataFrame({"caption": FORMULAS})
    path = write_frame(frame, folder/"t.csv")
    back = read_table(path).columns["caption"]
    with open(path, newline="", encoding="utf-8") as f: raw = [row[0] for row in csv.reader(f)][1:]
    for text, cell, again in zip(FORMULAS, raw, back):
        safe = cell[:1] == "'" or not re.match(r"[=@\t\r＝]|[-+].*[(|!]", cell)
        yield Case(repr(text), "a text, read back unchanged" if safe and again == text else f"{cell!r}, {again!r}",
                   safe and again == text)


def checks(size=2**31):
    "Run all hostile inputs."
    for fault, where, cases in (
            ("hostile pickle", "`load_inert`", pickles), ("path or link that leaves the folder", "`open_data`", paths),
            ("line of 2 GB; Parquet of 10⁹ rows", "`read_table`", lambda f: large(f, size)),
            ("HTML or JavaScript in a caption", "pages of audit and probe", lambda f: pages()),
            ("formula in a CSV cell", "`write_frame`", cells)):
        with tempfile.TemporaryDirectory() as tmp: yield Check(fault, where, [*cases(Path(tmp))])
