"Records, seeds, registries and files."
import errno
import json
import os
import subprocess
import sys

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidneg.core.errors import Skipped, VidnegError
from vidneg.core.files import atomic_path, skip
from vidneg.core.records import Caption, Clip, Edit, Negative, SceneGraph, read_records, write_records
from vidneg.core.registry import Registry
from vidneg.core.seeds import stable_rng, stable_seed
from vidneg.text.edits import undo


def test_seeds_are_the_same_in_every_process():
    code = "from vidneg.core.seeds import stable_seed; print(stable_seed(7, 'stage', 'item', 3))"
    for seed in ("0", "1"):
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                             env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."})
        assert int(out.stdout) == stable_seed(7, "stage", "item", 3)


def test_keys_with_the_same_concatenation_differ():
    assert stable_seed(0, "ab", "c") != stable_seed(0, "a", "bc")
    assert stable_rng(0, "x").integers(2**60) == stable_rng(0, "x").integers(2**60)


def test_registry_errors_list_the_known_names():
    things = Registry("thing")
    things.register("one")(1)
    with pytest.raises(VidnegError, match="registered already"): things.register("one")(2)
    with pytest.raises(VidnegError, match="no thing 'two'; there are: one"): things["two"]
    for again in (1, 2):
        @things.register("f")
        def f(): return again
    assert things["f"]() == 2
    with pytest.raises(VidnegError, match="registered already"): things.register("f")(len)


def test_failed_writes_leave_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path/"a"/"x.txt"
    with atomic_path(path) as part: part.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as part:
        part.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("row, cls, says", [
    ({"clip_id": "a", "path": "p", "strat": 5, "End": 9}, Clip, "'strat' is unknown, did you mean 'start'.*'End'.*'en"),
    ({"clip_id": "a", "path": "p", "start_time": 5}, Clip, "'start_time' is unknown, did you mean 'start'"),
    ({"clip_id": "a", "path": "p", "end_s": 5}, Clip, "did you mean 'end'"),
    ({"clip_id": "a", "path": "p", "splits": "test"}, Clip, "did you mean 'split'"),
    ({"caption_id": "1", "clip_id": "a", "text": "t", "Grain": "broad"}, Caption, "did you mean 'grain'"),
    ({"clipid": "a", "path": "p"}, Clip, "did you mean 'clip_id'"),
    ({"clip_id": "a", "scene": "", "events": [], "entities": [{"entity_id": "1", "name": "x", "atributes": []}]},
     SceneGraph, "'atributes' is unknown, did you mean 'attributes'")])
def test_misspelled_fields_are_refused_with_a_hint(row, cls, says, tmp_path):
    (path := tmp_path/"rows.jsonl").write_text(json.dumps(row))
    with pytest.raises(VidnegError, match=f"rows.jsonl has a row that is no {cls.__name__} .*{says}.*its fields are"):
        read_records(path, cls)
    if cls is not SceneGraph:
        pq.write_table(pa.Table.from_pylist([row]), tmp_path/"rows.parquet")
        with pytest.raises(VidnegError, match=says): read_records(tmp_path/"rows.parquet", cls)


def test_other_fields_are_ignored_with_a_warning(tmp_path):
    rows = [{"clip_id": "a", "path": "p", "url": "x", "end": 2.0}, {"clip_id": "b", "path": "q", "license": "CC0"}]
    (path := tmp_path/"rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.warns(UserWarning, match="rows.jsonl has fields that a Clip does not have.*: url, license"):
        assert read_records(path, Clip) == [Clip("a", "p", end=2.0), Clip("b", "q")]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_records_survive_a_round_trip(tmp_path, suffix):
    made = [Negative("c", "a 星 spins", "object", "rules", (Edit(2, 3, "x", "星"),), 1, 5),
            Negative("d", "", "x", "y", (), 0, 0)]
    assert read_records(write_records(tmp_path/f"n{suffix}", made), Negative) == made
    assert read_records(write_records(tmp_path/f"e{suffix}", [], Negative), Negative) == []


def test_records_of_another_class_are_refused(tmp_path):
    write_records(tmp_path/"c.parquet", [Caption("a", "b", "c")])
    with pytest.raises(VidnegError, match="holds Caption records"): read_records(tmp_path/"c.parquet", Negative)
    with pytest.raises(VidnegError, match="does not exist"): read_records(tmp_path/"d.parquet", Negative)


def test_undo_refuses_edits_that_do_not_fit():
    with pytest.raises(VidnegError, match="does not fit"): undo("a red star", (Edit(2, 5, "x", "blue"),))


def test_a_skipped_stage_leaves_empty_tables_and_its_reason(tmp_path):
    with pytest.raises(Skipped, match="no scene graphs"):
        skip(tmp_path/"spot", {"ranks": ("run", "rank"), "scores": ["item"]}, "no scene graphs")
    left = {p.stem: pd.read_parquet(p) for p in (tmp_path/"spot").iterdir()}
    assert {name: [*table] for name, table in left.items()} == {"ranks": ["run", "rank"], "scores": ["item"]}
    assert not any(map(len, left.values()))


@pytest.mark.parametrize("number, says", [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "quota"),
                                          (errno.EROFS, "read-only")])
def test_a_disk_that_takes_nothing_leaves_the_old_file_whole(tmp_path, number, says):
    (path := tmp_path/"a.txt").write_text("old")
    with pytest.raises(VidnegError, match=f"cannot write .*a.txt: .*{says}"), atomic_path(path) as part:
        part.write_text("ne")
        raise OSError(number, os.strerror(number))
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError), atomic_path(path): (tmp_path/"none").read_text() # other faults stay


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path/"reports").write_text("mine")
    (tmp_path/"folder").mkdir()
    for path in ("reports/a.txt", "reports/deep/a.txt"):
        with pytest.raises(VidnegError, match="not a folder, or lies beneath a file"), atomic_path(tmp_path/path): pass
    with pytest.raises(VidnegError, match="is a folder already"), atomic_path(tmp_path/"folder") as part: part.touch()
    with pytest.raises(VidnegError, match="is a file already"), atomic_path(tmp_path/"reports") as part: part.mkdir()
    assert (tmp_path/"reports").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "reports"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(tmp_path):
    (tmp_path/"closed").mkdir(mode=0o500)
    with pytest.raises(VidnegError, match="permissions"), atomic_path(tmp_path/"closed/a.txt"): pass


def test_folder_with_foreign_files_is_not_replaced(tmp_path):
    (tmp_path/"cache").mkdir()
    for name in ("frames.npy", "notes.txt"): (tmp_path/"cache"/name).write_text("old")
    with pytest.raises(VidnegError, match="notes.txt"):
        with atomic_path(tmp_path/"cache", replaces=["frames.npy"]) as part: part.mkdir()
    assert {p.name: p.read_text() for p in (tmp_path/"cache").iterdir()} == {"frames.npy": "old", "notes.txt": "old"}


def test_foreign_file_that_appears_meanwhile_survives(tmp_path):
    with pytest.raises(VidnegError, match="notes.txt"):
        with atomic_path(tmp_path/"cache", replaces=["frames.npy"]) as part:
            part.mkdir()
            (tmp_path/"cache").mkdir()
            (tmp_path/"cache/notes.txt").write_text("mine")
    assert (tmp_path/"cache/notes.txt").read_text() == "mine"
