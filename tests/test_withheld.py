"Negatives without their captions: whoever has the captions gets the same bytes back, and nobody else gets a word."
import hashlib
import json
import random
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

from vidneg.core.errors import VidnegError
from vidneg.core.records import Caption, Edit, Negative
from vidneg.data.pairs import Pair
from vidneg.data.withheld import (
    edit_rows,
    export_edits,
    from_template,
    join_edits,
    normal_text,
    read_edits,
    rebuild,
    text_hash,
    to_template,
    write_edits,
)
from vidneg.negatives.generate import make_negatives
from vidneg.negatives.rules import rules_published
from vidneg.text.edits import apply_edit, undo
from vidneg.text.lexicon import Lexicon

TEXT = st.text(max_size=60) | st.lists(st.sampled_from(
    ["a", "A", "dog", "Dog", "cat", "café", "cafe\u0301", "👩‍👩‍👧", "{", "}}", "{0:1}",
     "👍🏽", "न", "नहीं", "İ", "ß", "  ", "\u2028", "\ufeff", "'s",
     "runs", "running", "1st", "\0", "\ud800"]), max_size=12).map(" ".join)


@st.composite
def negative(draw, caption):
    "Edit a caption several times, each time anywhere in what the edit before has left."
    text, edits = caption.text, []
    for _ in range(draw(st.integers(1, 4))):
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(text))]*2)))
        new = draw(TEXT | st.sampled_from(caption.text.split() or [""]))
        edits.append(Edit(start, end, text[start:end], new))
        text = apply_edit(text, edits[-1])
    return Negative(caption.caption_id, text, draw(st.sampled_from(["action", "object"])), "g", tuple(edits), 4, 7)


@st.composite
def sets(draw):
    texts = draw(st.lists(TEXT, min_size=1, max_size=4))
    captions = [Caption(f"c{i}", f"v{i}", t) for i, t in enumerate(texts)]
    made = [draw(negative(c)) for c in captions]
    kept = [n for n, c in zip(made, captions) if n.text != c.text and normal_text(n.text) != normal_text(c.text)]
    return captions, kept


def through_json(rows, folder):
    write_edits(rows, folder, name="x")
    return folder


@settings(max_examples=150, deadline=None)
@given(sets())
def test_negatives_come_back_byte_for_byte(tmp_path_factory, made):
    captions, negatives = made
    folder = through_json(edit_rows(negatives, captions), tmp_path_factory.mktemp("set"))
    back = join_edits(folder, captions)
    assert not back.lost and len(back.negatives) == len(negatives)
    text = {c.caption_id: c.text for c in captions}
    for old, new in zip(negatives, back.negatives):
        said = normal_text(text[old.caption_id])
        assert undo(new.text, new.edits) == said
        if said == text[old.caption_id]: assert new == old
        else: assert new.text == normal_text(old.text) and replace(new, text="", edits=()) == replace(
            old, text="", edits=())


@settings(max_examples=150, deadline=None)
@given(TEXT, TEXT)
def test_new_text_is_put_together_again(new, caption):
    assert from_template(to_template(new, caption), caption) == new


@settings(max_examples=150, deadline=None)
@given(TEXT)
def test_normalization_is_done_once(text):
    assert normal_text(normal_text(text)) == normal_text(text)
    assert text_hash(normal_text(text)) == text_hash(text) == text_hash(f"\n {text}\t")


def spelled(template):
    "Return the words of a template that are written out."
    return re.findall(r"\w+", re.sub(r"\{\d+:\d+\}", " ", template))


WORDS = st.lists(st.sampled_from("a the dog cat pushes red small sofa on under".split()), min_size=1, max_size=10)


@settings(max_examples=100, deadline=None)
@given(WORDS, WORDS, st.randoms())
def test_no_word_of_the_caption_is_spelled_out(said, new, rng):
    new = new + rng.sample(said, min(3, len(said)))
    assert not {*spelled(to_template(" ".join(new), " ".join(said)))} & {*said}


SAID = ["A man slowly opens the small red door.", "Two dogs chase a black cat across the garden.",
        "A woman in a blue dress sings on a stage.", "The boy throws the ball to a girl and then runs away."]


def test_generated_negatives_reveal_no_replaced_word(tmp_path):
    captions = [Caption(f"c{i}", f"v{i}", t) for i, t in enumerate(SAID)]
    negatives, _ = make_negatives(captions, rules_published(Lexicon.navero()), per_caption=3, rounds=3)
    assert len(negatives) > 8 and max(len(n.edits) for n in negatives) > 1
    folder = export_edits(negatives, tmp_path/"set", captions, name="four")
    assert rebuild(folder, captions) == negatives
    text = {c.caption_id: c.text for c in captions}
    found = [(w, text[r["caption_id"]]) for r in read_edits(folder)[1] for e in r["edits"] for w in spelled(e["new"])]
    assert found and not [w for w, own in found if w in re.findall(r"\w{3,}", own)]
    assert sorted(p.name for p in folder.iterdir()) == ["edits.jsonl", "manifest.json"]


def test_same_input_gives_the_same_bytes(tmp_path):
    captions = [Caption("c", "v", SAID[0])]
    made = [Negative("c", "A man slowly shuts the small red door.", "action", "g", (), 1, 0)]
    one, two = (export_edits(made, tmp_path/name, captions, name="x") for name in ("one", "two"))
    for name in ("edits.jsonl", "manifest.json"): assert (one/name).read_bytes() == (two/name).read_bytes()


def test_pairs_are_exported_without_records_of_edits(tmp_path):
    pair = Pair("i1", "v1", "action", SAID[0], "A man slowly paints the small red door.", "by hand")
    folder = export_edits([pair], tmp_path/"set", name="x")
    found = join_edits(folder, [Caption("mine", "my clip", SAID[0])])
    assert found.items == [replace(pair, clip_id="my clip")]
    assert found.negatives[0].caption_id == "mine" and found.negatives[0].edits[0].old == "opens"


def two():
    captions = [Caption("1", "v1", "a dog runs"), Caption("2", "v2", "a cat sits")]
    return captions, [Negative("1", "a dog sits", "action", "g", (Edit(6, 10, "runs", "sits"),), 1, 0),
                      Negative("2", "a cat runs", "action", "g", (Edit(6, 10, "sits", "runs"),), 1, 0)]


@pytest.mark.parametrize("captions, lost", [
    ([Caption("1", "v1", "a dog runs")], {"the caption is missing": ["2"]}),
    ([Caption("1", "v1", "a dog runs"), Caption("2", "v2", "A cat sits")], {"the caption differs": ["2"]}),
    ([Caption("1", "v2", "a cat sits"), Caption("2", "v1", "a dog runs")], {}), # the ids were renumbered
    ([Caption("x", "w1", "a dog runs"), Caption("y", "w1", "a dog runs"), Caption("z", "w2", "a cat sits")], {}),
    ([Caption("x", "w1", "a dog runs"), Caption("y", "w2", "a dog runs"), Caption("z", "w3", "a cat sits")],
     {"the text belongs to several clips": ["1"]}),
    ([Caption("x", "w1", "a dog runs"), Caption("y", "v1", "a dog runs"), Caption("z", "w3", "a cat sits")], {}),
], ids=["missing", "other text", "renumbered", "twice in a clip", "in two clips", "in the own clip"])
def test_captions_are_found_by_id_then_by_hash(tmp_path, captions, lost):
    said, negatives = two()
    folder = export_edits(negatives, tmp_path/"set", said, name="x")
    found = join_edits(folder, random.Random(0).sample(captions, len(captions)))
    assert found.lost == lost
    texts = {c.caption_id: c for c in captions}
    for n, p in zip(found.negatives, found.items):
        c = texts[n.caption_id]
        assert undo(n.text, n.edits) == c.text and (p.clip_id, p.caption, p.negative) == (c.clip_id, c.text, n.text)
        if p.clip_id.startswith("v") and found.items[0].item == "1/action/0" and n.text == "a dog sits":
            assert p.clip_id == "v1"
    if lost:
        with pytest.raises(VidnegError, match=f"{next(iter(lost))}: 1 negatives"): rebuild(folder, captions)
        with pytest.warns(UserWarning, match="1 of 2 negatives rebuilt"):
            assert len(rebuild(folder, captions, partial=True)) == 1
    else: assert len(rebuild(folder, captions)) == 2


def test_nothing_is_rebuilt_from_other_captions(tmp_path):
    said, negatives = two()
    folder = export_edits(negatives, tmp_path/"set", said, name="x")
    with pytest.raises(VidnegError, match="0 of 2 negatives"): rebuild(folder, [Caption("1", "v", "x")], partial=True)


def test_foreign_files_stay(tmp_path):
    said, negatives = two()
    folder = tmp_path/"mine"
    folder.mkdir()
    (folder/"thesis.tex").write_text("chapter 1")
    with pytest.raises(VidnegError, match="thesis.tex"): export_edits(negatives, folder, said, name="x")
    assert [p.name for p in folder.iterdir()] == ["thesis.tex"] and len(list(tmp_path.iterdir())) == 1


ROW = {"item": "1/action/0", "caption_id": "1", "clip_id": "v1", "caption": text_hash("a dog runs"), "kind": "action",
       "generator": "g", "rounds": 1, "seed": 0, "edits": [{"start": 6, "end": 10, "new": "sits"}],
       "negative": text_hash("a dog sits")[:16]}


def test_a_row_made_by_hand_is_read(tmp_path):
    assert rebuild(through_json([ROW], tmp_path), two()[0]) == two()[1][:1]


def edit(**change): return {"edits": [{"start": 6, "end": 10, "new": "sits"} | change]}


@pytest.mark.parametrize("change, message", [
    (edit(end=999), "do not give its negative"), (edit(new="{0:999}"), "are damaged: {0:999} is not in the caption"),
    (edit(new="{5:2}"), "is not in the caption"), (edit(new="{sits"), "'{sits' is no template"),
    (edit(new="}"), "is no template"), (edit(new="stands"), "do not give its negative"), (edit(start=-4), "is no edit"),
    (edit(start=6.0), "is no edit"), (edit(start=True), "is no edit"), (edit(new=["sits"]), "is no edit"),
    ({"edits": [[6, 10, "sits"]]}, "is no edit"), ({"edits": [{"new": "sits"}]}, "is no edit"),
    ({"edits": "sits"}, "edits is no list"), ({"rounds": True}, "rounds is no int"),
    ({"kind": None}, "kind is no str")])
def test_faulty_rows_are_named(tmp_path, change, message):
    with pytest.raises(VidnegError, match=message): rebuild(through_json([ROW | change], tmp_path), two()[0])


@pytest.mark.parametrize("data, message", [
    (b"[]\n", "it is no record"), (b"{\n", "line 1 is not JSON"), (b"[" * 100_000, "line 1 is not JSON")])
def test_hostile_lines_are_named(tmp_path, data, message):
    (tmp_path/"edits.jsonl").write_bytes(data)
    manifest = {"schema": "vidneg-edits/1", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (tmp_path/"manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(VidnegError, match=message): read_edits(tmp_path)


@pytest.mark.parametrize("manifest, message", [
    ('{"schema": "vidneg-edits/2"}', "update vidneg"), ("[]", "has the schema None"), ("<html>", "is not JSON"),
    ('{"schema": "vidneg-edits/1"}', "edits.jsonl does not exist"), (None, "manifest.json does not exist")])
def test_manifests_are_checked(tmp_path, manifest, message):
    if manifest is not None: (tmp_path/"manifest.json").write_text(manifest)
    with pytest.raises(VidnegError, match=message): read_edits(tmp_path)


def test_changed_files_are_refused(tmp_path):
    through_json([ROW], tmp_path)
    path = tmp_path/"edits.jsonl"
    path.write_bytes(path.read_bytes().replace(b"sits", b"eats"))
    with pytest.raises(VidnegError, match="not the file that its manifest names"): read_edits(tmp_path)


def test_a_negative_that_is_its_caption_is_refused():
    said, _ = two()
    with pytest.raises(VidnegError, match="equals its caption"):
        edit_rows([Negative("1", "a dog runs", "action", "g", (), 1, 0)], said)


@pytest.mark.parametrize("items", [[Pair("i", "v", "k", "a", "b"), Negative("1", "b", "k", "g", (), 1, 0)], ["text"]])
def test_mixtures_are_refused(items):
    with pytest.raises(VidnegError, match="not a mixture"): edit_rows(items, [Caption("1", "v", "a")])
