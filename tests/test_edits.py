"Edits between any two texts are found, applied, undone, followed and shown."
import pytest
from hypothesis import given, settings, strategies as st

from vidneg.core.errors import VidnegError
from vidneg.core.records import Edit, Negative
from vidneg.text.edits import (
    apply_edit,
    changed,
    diff,
    edited,
    edits_between,
    mark_edits,
    overlaps,
    shift,
    undo,
    window,
)

words = st.lists(st.sampled_from("a an box ball falls , x".split()), max_size=9).map(" ".join)
texts = st.text("ab .,é狗'\n-", max_size=25) | words


@st.composite
def edit_chains(draw):
    "Draw a chain of edits and the texts before the first and after each."
    text = draw(texts)
    edits, stages = [], [text]
    for _ in range(draw(st.integers(0, 5))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, len(text)))
        edits.append(Edit(start, end, text[start:end], draw(st.text("xyz ", max_size=4))))
        text = apply_edit(text, edits[-1])
        stages.append(text)
    return edits, stages


@settings(max_examples=200, deadline=None)
@given(texts, texts)
def test_edits_are_applied_and_undone(old, new):
    edits, text = edits_between(old, new), old
    for e in edits:
        assert text[e.start:e.end] == e.old != e.new
        text = apply_edit(text, e)
    assert text == new and undo(new, edits) == old and bool(edits) == (old != new)


@settings(max_examples=200, deadline=None)
@given(edit_chains())
def test_any_chain_can_be_undone_and_followed(chain):
    edits, stages = chain
    assert undo(stages[-1], edits) == stages[0]
    spans = edited(edits)
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:])), "spans never overlap"
    # The characters outside all spans are from the first text, in its order.
    kept, at = [], 0
    for start, end in spans: kept, at = [*kept, stages[-1][at:start]], end
    rest, where = [*kept, stages[-1][at:]], 0
    for part in rest:
        assert (where := stages[0].find(part, where)) >= 0
        where += len(part)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")))
def test_diff_and_window_cover_all_differences(a, b):
    i = k = 0
    for i2, j, k2, l in diff(a, b):
        assert a[i:i2] == b[k:k2] and a[i2:j] != b[k2:l]
        i, k = j, l
    assert a[i:] == b[k:]
    i, j, k = window(a, b)
    assert a[:i] == b[:i] and a[j:] == b[k:] and i <= min(j, k)


def test_a_wider_edit_absorbs_a_narrower_one():
    assert shift([(2, 5), (8, 9)], Edit(0, 6, "a red ", "the ")) == [(6, 7), (0, 4)]
    assert shift([(2, 5)], Edit(4, 7, "d s", "")) == [(2, 4)]
    assert overlaps(2, 3, [(0, 3)]) and not overlaps(3, 4, [(0, 3)])


def test_marks_and_changes_by_hand():
    old, new = "a dog <b> runs", "an owl <b> walks away"
    n = Negative("c", new, "mixed", "g", edits_between(old, new), 1, 0)
    assert mark_edits(n) == "<mark>an</mark> <mark>owl</mark> &lt;b&gt; <mark>walks away</mark>"
    assert changed("a dog runs", "an owl runs") == ("dog", "owl", (2, 5), (3, 6))
    with pytest.raises(VidnegError, match="does not fit"): undo("a red star", [Edit(2, 5, "x", "blue")])
