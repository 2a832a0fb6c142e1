"Exported sets: loaded without vidneg, described truly, never written over others' work, immune to hostile texts."
import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml

from vidneg.audit.page import audit_negatives
from vidneg.core.cards import license_fields, plain, size_category, table
from vidneg.core.errors import VidnegError
from vidneg.core.records import Caption, Clip, Edit, Negative
from vidneg.data.pairs import Pair, pairs_of
from vidneg.data.withheld import rebuild
from vidneg.negatives.generate import make_negatives
from vidneg.negatives.rules import rules_published
from vidneg.report.release import About, export_file, export_set, export_withheld, set_tables
from vidneg.text.lexicon import Lexicon

SAID = ["A man slowly opens the small red door.", "Two dogs chase a black cat across the garden.",
        "A woman in a blue dress sings on a stage.", "The boy throws the ball to a girl and then runs away."]
CAPTIONS = [Caption(f"c{i}", f"v{i}", t) for i, t in enumerate(SAID)]
ABOUT = About("Four captions", version="1.2", license="cc-by-4.0", captions_license="their own terms",
              source="A test.", citation="@misc{four}", creator="the testers", date="2026-01-02", url="https://a.example/b")


@pytest.fixture(scope="module")
def negatives():
    return make_negatives(CAPTIONS, rules_published(Lexicon.navero()), per_caption=3)[0]


@pytest.fixture(scope="module")
def dossier(negatives): return audit_negatives(negatives, CAPTIONS)


def files(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def front(folder):
    "Return the metadata of a card."
    text = (folder/"README.md").read_text()
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("\n---\n")[0][4:])


def test_both_layouts_hold_every_item(tmp_path, negatives, dossier):
    folder = export_set(negatives, tmp_path/"set", ABOUT, CAPTIONS, audit=dossier)
    main = pd.read_parquet(folder/"data/negatives-test.parquet")
    assert [Pair(**row) for row in main.to_dict("records")] == pairs_of(CAPTIONS, negatives)
    long = pd.read_parquet(folder/"data/video-text-label-test.parquet")
    assert list(long)[:3] == ["video", "text", "label"] and len(long) == 2*len(main)
    texts = {item: dict(zip(part.label, part.text)) for item, part in long.groupby("item")}
    assert texts == {r.item: {1: r.caption, 0: r.negative} for r in main.itertuples()}


def test_clips_give_files_and_times(negatives):
    clips = [Clip(c.clip_id, f"{c.clip_id}.mp4", 1, 3) for c in CAPTIONS]
    tables = set_tables(pairs_of(CAPTIONS, negatives), clips)
    assert tables["video-text-label"].loc[0, ["video", "start", "end"]].tolist() == ["v0.mp4", 1.0, 3.0]
    with pytest.raises(VidnegError, match="'v3' is not among the clips"):
        set_tables(pairs_of(CAPTIONS, negatives), clips[:-1])


def test_metadata_of_the_card(tmp_path, negatives, dossier):
    folder = export_set(negatives, tmp_path/"set", ABOUT, CAPTIONS, audit=dossier)
    head = front(folder)
    assert head["license"] == "cc-by-4.0" and head["language"] == ["en"] and head["size_categories"] == ["n<1K"]
    paths = [f["path"] for c in head["configs"] for f in c["data_files"]]
    assert all((folder/p).is_file() for p in paths) and head["configs"][0]["default"]
    text = (folder/"README.md").read_text()
    assert "Version 1.2" in text and "Captions: their own terms." in text and "@misc{four}" in text
    for kind, n in pd.Series([n.kind for n in negatives]).value_counts().items(): assert f"{kind} ({n})" in text


def test_card_has_the_figures_of_the_audit(tmp_path, negatives, dossier):
    folder = export_set(negatives, tmp_path/"set", ABOUT, CAPTIONS, audit=dossier)
    lines = (folder/"README.md").read_text().splitlines()
    blind = dossier.tables["Blind solvability"]
    for r in blind[blind.kind == "all"].itertuples():
        line = next(x for x in lines if x.startswith(f"| {r.scorer} |"))
        assert line.endswith(f"| {100*r.accuracy:.1f} \\[{100*r.low:.1f}, {100*r.high:.1f}\\] |")
    weak = [x for x in lines if x.startswith("- The texts alone reveal")]
    assert len(weak) == blind[blind.low > .5].kind.nunique() > 0


def test_counts_by_generator(tmp_path):
    pairs = [Pair(f"i{k}", f"v{k}", kind, "a dog runs", "a dog sits", g)
             for k, (kind, g) in enumerate([("action", "one"), ("action", "two"), ("object", "two")])]
    text = (export_set(pairs, tmp_path/"set", ABOUT)/"README.md").read_text()
    for row in ("| one | 1 | 0 | 1 |", "| two | 1 | 1 | 2 |", "| all | 2 | 1 | 3 |"): assert row in text


@pytest.mark.parametrize("form", [export_set, export_withheld])
def test_croissant_names_every_file_with_its_hash(tmp_path, negatives, dossier, form):
    folder = form(negatives, tmp_path/"set", ABOUT, CAPTIONS, audit=dossier)
    described = json.loads((folder/"croissant.json").read_text())
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files(folder).items()}
    hashes.pop("croissant.json")
    assert {o["@id"]: o["sha256"] for o in described["distribution"]} == hashes
    assert described["license"] == "https://creativecommons.org/licenses/by/4.0/"
    for records in described["recordSet"]:
        source = {f["source"]["fileObject"]["@id"] for f in records["field"]}.pop()
        path = folder/source
        held = pd.read_json(path, lines=True) if path.suffix == ".jsonl" else pd.read_parquet(path)
        assert {f["name"] for f in records["field"]} == {*held} - {"edits"}


def test_withheld_form_gives_the_negatives_back(tmp_path, negatives, dossier):
    folder = export_withheld(negatives, tmp_path/"edits", ABOUT, CAPTIONS, audit=dossier)
    assert rebuild(folder, CAPTIONS) == negatives
    words = {w for t in SAID for w in re.findall(r"\w{5,}", t)} # the card's own words are among the short ones
    everything = b"".join(files(folder).values()).decode()
    assert not [w for w in words if re.search(rf"\b{w}\b", everything)]
    assert front(folder)["configs"][0]["data_files"][0]["path"] == "edits.jsonl"


@pytest.mark.parametrize("form", [export_set, export_withheld])
def test_same_input_gives_the_same_bytes(tmp_path, negatives, dossier, form):
    one, two = (form(negatives, tmp_path/n, ABOUT, CAPTIONS, audit=dossier) for n in ("one", "two"))
    assert files(one) == files(two)


@pytest.mark.parametrize("form", [export_set, export_withheld])
@pytest.mark.parametrize("change", ["foreign file", "card by hand", "file in data", "no export"])
def test_work_of_others_stays(tmp_path, negatives, dossier, form, change):
    folder = tmp_path/"set"
    if change != "no export": form(negatives, folder, ABOUT, CAPTIONS, audit=dossier)
    path = folder/{"foreign file": "thesis.tex", "card by hand": "README.md", "file in data": "data/mine.parquet",
                   "no export": "README.md"}[change]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    before = files(folder)
    with pytest.raises(VidnegError, match="choose another folder"):
        form(negatives[1:], folder, ABOUT, CAPTIONS, audit=dossier)
    assert files(folder) == before and [p.name for p in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("form", [export_set, export_withheld])
def test_unchanged_export_is_replaced(tmp_path, negatives, dossier, form):
    form(negatives, tmp_path/"set", ABOUT, CAPTIONS, audit=dossier)
    form(negatives[1:], tmp_path/"set", ABOUT, CAPTIONS, audit=dossier)
    assert files(tmp_path/"set") == files(form(negatives[1:], tmp_path/"new", ABOUT, CAPTIONS, audit=dossier))


@pytest.mark.parametrize("form", [export_set, export_withheld])
def test_failed_export_leaves_nothing(tmp_path, form, monkeypatch, negatives, dossier):
    def full(*_): raise OSError(28, "No space left on device")
    monkeypatch.setattr("vidneg.report.release._write_text", full)
    with pytest.raises(VidnegError, match="disk is full"):
        form(negatives, tmp_path/"set", ABOUT, CAPTIONS, audit=dossier)
    assert not list(tmp_path.iterdir())


SCRIPT = "<script>alert(1)</script>"
HOSTILE = f"=cmd|'/c calc'!A1 {SCRIPT} ![x](javascript:alert(1))\n---\n| a | `b` {{0:1}} "


def test_hostile_texts_are_shown_as_text(tmp_path):
    texts = [f"a dog {HOSTILE}", f"a cat {HOSTILE}"]
    pair = Pair(f"i {SCRIPT}", f"v{SCRIPT}", f"k|{SCRIPT}\nx", *texts, f"[g](javascript:1){SCRIPT}")
    about = About(f"My {SCRIPT}", license=f"l: {SCRIPT}", captions_license=SCRIPT, source=HOSTILE, url=HOSTILE,
                  citation=f"```\n{SCRIPT}\n```", weaknesses=(HOSTILE,), creator=SCRIPT)
    folder = export_set([pair], tmp_path/"set", about)
    head, _, body = (folder/"README.md").read_text()[4:].partition("\n---\n")
    assert yaml.safe_load(head)["pretty_name"] == f"My {SCRIPT}" and yaml.safe_load(head)["license"] == "other"
    outside = "".join(body.split("```")[::2]) # not the blocks of code, which show their text
    assert "<" not in outside and "](javascript" not in re.sub(r"\\.", "", outside)
    assert "\n---\n" not in outside and len(body.split("```")) == 5
    json.loads((folder/"croissant.json").read_text())
    back = pd.read_parquet(folder/"data/negatives-test.parquet").iloc[0]
    assert (back.caption, back.negative, back.kind) == (pair.caption, pair.negative, pair.kind)


@pytest.mark.parametrize("text", ["a\ud800b"])
def test_texts_that_no_file_holds_are_refused(tmp_path, text, dossier):
    with pytest.raises(VidnegError, match="not valid Unicode"):
        export_set([Pair("i", "v", "action", "a dog", text)], tmp_path/"set", ABOUT, audit=dossier)
    assert not list(tmp_path.iterdir())


def test_plain_text_in_markdown():
    assert plain("a <b> & *c* _d_ `e` [f](g) | #h") == \
        r"a &lt;b&gt; &amp; \*c\* \_d\_ \`e\` \[f\](g) \| \#h"
    assert [plain(t) for t in ("- a", "1. a", "1.5", "# a", "a\n\nb", "> a")] == [
        r"\- a", r"1\. a", "1.5", r"\# a", "a b", "&gt; a"]
    assert "https://" not in plain("see https://a.example")
    assert table(["a", "b"], [["x|y", "1\n2"]]).splitlines()[2] == r"| x\|y | 1 2 |"


def test_names_of_the_hub():
    assert license_fields("") == license_fields("unknown") == {"license": "unknown"}
    assert license_fields("Research only!") == {"license": "other", "license_name": "research-only"}
    assert [size_category(n) for n in (0, 10**3, 10**6)] == ["n<1K", "1K<n<10K", "1M<n<10M"]


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x"*300])
def test_unusable_names_are_refused(name):
    with pytest.raises(VidnegError, match="choose another name"): About(name)


def test_nothing_to_export(tmp_path, dossier):
    for form in (export_set, export_withheld):
        with pytest.raises(VidnegError, match="at least one"): form([], tmp_path/"set", ABOUT)
        with pytest.raises(VidnegError, match="at least one"): form([], tmp_path/"set", ABOUT, audit=dossier)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_file_is_exported(tmp_path, negatives, suffix):
    frame = set_tables(pairs_of(CAPTIONS, negatives))["negatives"]
    path = tmp_path/f"mine{suffix}"
    if suffix == ".csv": frame.to_csv(path, index=False)
    elif suffix == ".jsonl": frame.to_json(path, orient="records", lines=True)
    else: frame.to_parquet(path)
    assert export_file(path, tmp_path/"set", ABOUT) == f"{tmp_path/'set'}: {len(frame)} items"
    assert pd.read_parquet(tmp_path/"set/data/negatives-test.parquet").negative.tolist() == frame.negative.tolist()
    assert export_file(path, tmp_path/"edits", ABOUT, edits_only=True).endswith("items without their captions")
    assert [n.text for n in rebuild(tmp_path/"edits", CAPTIONS)] == [n.text for n in negatives]


def test_a_file_without_negatives_is_refused(tmp_path):
    pd.DataFrame({"caption": SAID}).to_csv(tmp_path/"c.csv", index=False)
    with pytest.raises(VidnegError, match="has no negatives"): export_file(tmp_path/"c.csv", tmp_path/"set", ABOUT)


def consumer():
    "Return a Python that has datasets and mlcroissant and not vidneg, from `.ci/consumer`; None if there is none."
    python = os.environ.get("VIDNEG_CONSUMER", "")
    return python if python and Path(python).exists() else None


@pytest.mark.skipif(not consumer(), reason="VIDNEG_CONSUMER names no environment: see .ci/consumer")
@pytest.mark.parametrize("form", [export_set, export_withheld])
def test_folder_is_loaded_and_valid_without_vidneg(tmp_path, negatives, dossier, form):
    folder = form(negatives, tmp_path/"set", ABOUT, CAPTIONS, audit=dossier)
    before = files(folder)
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env |= {"HF_HOME": str(tmp_path/"hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run([consumer(), Path(__file__).with_name("consumer.py"), folder], capture_output=True, text=True,
                          env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert not found["errors"] and not found["warnings"] and files(folder) == before
    n = len(negatives)
    if form is export_set:
        assert {c: d["test"][0] for c, d in found["configs"].items()} == {"negatives": n, "video-text-label": 2*n}
        assert found["default"] == "negatives" and found["records"] == {"negatives": n, "video-text-label": 2*n}
        assert found["configs"]["negatives"]["test"][2]["negative"] == negatives[0].text
    else:
        assert found["configs"]["edits"]["test"][0] == n and found["records"] == {"edits": n}


def test_importing_the_module_imports_no_large_package():
    code = "import sys, vidneg.report.release\nassert not {'torch', 'spacy', 'transformers'} & {*sys.modules}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_edits_of_negatives_are_kept(tmp_path, dossier):
    made = Negative("c0", "A man slowly shuts the small blue door.", "action", "g",
                    (Edit(29, 32, "red", "blue"), Edit(13, 18, "opens", "shuts")), 2, 5)
    folder = export_withheld([made], tmp_path/"set", ABOUT, CAPTIONS, audit=dossier)
    assert rebuild(folder, CAPTIONS) == [made]
    other = replace(made, edits=())
    again = rebuild(export_withheld([other], tmp_path/"b", ABOUT, CAPTIONS, audit=dossier), CAPTIONS)
    assert again[0].text == made.text
