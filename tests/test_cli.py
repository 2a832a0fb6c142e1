"The command line: each command on real files, its exit codes, its messages, and what strangers' tables lead to."
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_language import sentences
from test_video import write
from typer.testing import CliRunner

import vidneg
from vidneg.cli import app
from vidneg.core.seeds import stable_rng
from vidneg.data.pairs import read_pairs

ROOT = Path(__file__).parents[1]
WORDS = [["man", "woman", "boy", "girl"], ["red", "blue", "green", "black"], ["throws", "holds", "kicks", "carries"],
         ["ball", "cup", "bag", "book"]]
COMMANDS = [["probe"], ["negatives"], ["audit"], ["review"], ["score"], ["data", "check"], ["train"], ["export"],
            ["rebuild"], ["models", "get"], ["models", "list"]]


def sentence(i):
    who, color, does, what = (some[stable_rng(0, "cli", i, k).integers(4)] for k, some in enumerate(WORDS))
    return f"a {who} {does} a {color} {what}"


def run(*args, code=0):
    "Run a command in this process; return its standard output and its error stream."
    done = CliRunner().invoke(app, [*map(str, args)])
    assert done.exit_code == code or code == 1 and isinstance(done.exception, vidneg.VidnegError), done.output
    return done.stdout, done.stderr if code != 1 else str(done.exception)


def shell(*args, cwd, **settings):
    "Run a command as a user does."
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    call = [sys.executable, "-c", "import sys; sys.argv[0] = 'vidneg'; from vidneg.cli import main; main()", *args]
    return subprocess.run(call, cwd=cwd, env=env, capture_output=True, text=True, **settings)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    "Make six short videos of different sizes in a folder with a space and an accent."
    folder = tmp_path_factory.mktemp("my vidéos")
    for i in range(6):
        frames = np.random.default_rng(i).integers(256, size=(8, 48 + 16*(i % 3), 64, 3), dtype=np.uint8)
        write(folder/f"v{i}.mp4", frames)
    return folder


@pytest.fixture
def mine(films, tmp_path, monkeypatch):
    "Write a stranger's table of video, caption, negative and type into another folder, and go there."
    here = tmp_path/"a folder é"
    here.mkdir()
    monkeypatch.chdir(here)
    rows = [(f"v{i % 6}.mp4", sentence(i), sentence(i).replace("a ", "no ", 1), "xy"[i % 2]) for i in range(24)]
    pd.DataFrame(rows, columns=["video", "caption", "negative", "type"]).to_csv("mine.csv", index=False)
    return Path("mine.csv")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_teaches_by_an_example(command):
    shown = run(*command, "--help")[0]
    assert f"Usage: root {' '.join(command)}" in shown and re.search(rf"Example:\n +vidneg {' '.join(command)}", shown)
    assert not re.search(r"\\b|\x08", shown)


def test_all_commands_are_listed_and_help_is_fast():
    shown = run("--help")[0]
    assert all(f"  {name[0]} " in shown for name in COMMANDS) and "--install-completion" in shown
    code = "import vidneg.cli, sys; print(*{'torch', 'spacy', 'pandas', 'numpy', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split() == []


def test_a_strangers_table_is_audited_and_scored_by_two_commands(mine, films):
    page, said = run("audit", mine)
    assert "24 pairs, 24 audited" in page and re.search(r"pairs +12 +12 +24", page)
    assert "<h2>Blind solvability</h2>" in Path("mine-audit.html").read_text() and "6 clips" in said
    table, said = run("score", "--model", "world", "--items", mine, "--videos", films, "-o", "scores é.parquet")
    scores = pd.read_parquet("scores é.parquet")
    assert len(scores) == 24 and set(scores.status) == {""} and scores[["score_pos", "p_neg"]].notna().all(axis=None)
    assert {"model", "n_frames", "size"} <= set(scores)
    value = (scores.p_pos > scores.p_neg).groupby(scores.kind).mean()
    for kind in "xy": assert re.search(rf"acc +{kind} +{100*value[kind]:.1f} \[[\d.]+, [\d.]+\] +[\d.]+ +12 +3", table)


@pytest.mark.parametrize("change, wanted", [
    (dict(negative=lambda t: t.negative.where(t.index != 3)), "column negative is empty: row 4"),
    (dict(negative="nan"), "which stands for a missing text: row 1, row 2"),
    (dict(video=lambda t: t.video.where(t.index != 5, "gone.mp4")), "not found in .*: row 6 .gone.mp4."),
    (dict(caption=7), "column caption is a number, not a text: row 1")])
def test_what_is_wrong_is_said_before_a_video_is_read(mine, films, monkeypatch, change, wanted):
    pd.read_csv(mine).assign(**change).to_csv(mine, index=False)
    monkeypatch.setattr("vidneg.data.video.read_clip", lambda *_, **__: pytest.fail("a video was read"))
    assert re.search(wanted, run("score", "-m", "world", "-i", mine, "--videos", films, code=1)[1])
    assert not list(Path().glob("*.shards")) and not Path("scores.parquet").exists()


@pytest.mark.parametrize("change, note", [
    (lambda t: t.rename(columns={"caption": "negative", "negative": "caption"}).assign(negative="a man sits"),
     "columns look exchanged"), (lambda t: t.assign(video="v0.mp4"), "all pairs belong to one clip"),
    (lambda t: t[:1], "only one pair"), (lambda t: t.assign(type="x"), "no kind, or all the same")])
def test_suspicious_tables_are_remarked(mine, change, note):
    change(pd.read_csv(mine)).to_csv(mine, index=False)
    table, said = run("audit", mine)
    assert note in said and "blind accuracy" in table


def test_missing_columns_name_the_way_out(mine):
    pd.read_csv(mine).rename(columns={"negative": "falsch"}).to_csv(mine, index=False)
    assert "map it by --column negative=NAME" in run("audit", mine, code=1)[1]
    assert "24 pairs" in run("audit", mine, "--column", "negative=falsch")[0]
    assert "of the form ROLE=NAME" in run("audit", mine, "--column", "falsch", code=2)[1]


def test_broken_videos_are_left_out_and_counted(mine, films, tmp_path):
    other = tmp_path/"some"
    other.mkdir()
    for film in films.iterdir(): (other/film.name).write_bytes(film.read_bytes())
    (other/"v1.mp4").write_bytes(b"<html>gone</html>"*50)
    table, said = run("score", "-m", "world", "-i", mine, "--videos", other)
    assert "not scored: 4 items" in said and set(pd.read_parquet("scores.parquet").status == "") == {True, False}
    out, why = run("data", "check", mine, "--videos", other, code=1)
    assert "v1.mp4" in out and "1 of 6 videos cannot be read" in why
    assert "all videos can be opened" in run("data", "check", mine, "--videos", films)[0]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "txt", "parquet"])
def test_negatives_stand_alone(suffix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = [sentence(i) for i in range(40)]
    frame = pd.DataFrame({"clip": [f"{i}.mp4" for i in range(40)], "caption": texts})
    if suffix == "txt": Path("c.txt").write_text("\n".join(texts))
    elif suffix == "csv": frame.to_csv("c.csv", index=False)
    elif suffix == "jsonl": frame.to_json("c.jsonl", orient="records", lines=True)
    else: frame.to_parquet("c.parquet")
    how = ["--kinds", "action,object", "--rounds", 3, "-g", "rules-balanced"]
    out, _ = run("negatives", f"c.{suffix}", "-o", "n.parquet", *how)
    made = pd.read_parquet("n.parquet")
    assert set(made.kind) == {"action", "object"} and set(made.caption) <= set(texts) and (made.rounds == 3).all()
    assert set(made.generator) == {"rules-balanced"} and f"{len(made)} negatives of" in out and "made" in out
    for r in made.itertuples(): # the edits lead from the caption to the negative
        text = r.caption
        for e in r.edits: text = text[:e["start"]] + e["new"] + text[e["end"]:]
        assert text == r.negative and len(r.edits) <= 3
    assert f"{len(made)} pairs" in run("audit", "n.parquet")[0]
    if suffix == "txt": # without kinds, every round may take another one
        run("negatives", "c.txt", "-o", "any.parquet", *how[2:4], "-g", "rules-published")
        assert "mixed" in set(pd.read_parquet("any.parquet").kind)
    again = run("negatives", f"c.{suffix}", "-o", "n.csv", *how)
    assert list(pd.read_csv("n.csv").negative) == list(made.negative) and again


def test_negatives_say_why_there_are_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("c.txt").write_text("hello world\nwhat else\n")
    why = run("negatives", "c.txt", "--kinds", "action", code=1)[1]
    assert "none of the 2 captions has a word of kind action" in why
    assert "ends in .parquet, .jsonl or .csv" in run("negatives", "c.txt", "-o", "n.xlsx", code=1)[1]
    Path("c.txt").write_text("\n".join(sentences()["German"]))
    assert "are not English" in run("negatives", "c.txt", code=1)[1] and not Path("negatives.parquet").exists()


def test_probe_passes_its_options(monkeypatch, tmp_path):
    seen = {}
    class Report:
        folder = tmp_path/"r"
        def __str__(self): return "the summary"
    def probe(model, data, **settings):
        seen.update(settings, model=model, data=data)
        return Report()
    monkeypatch.setattr(vidneg, "probe", probe, raising=False)
    out, _ = run("probe", "--model", "M", "--data", "D", "--kinds", "action,object", "--controls", "shuffled,blank",
                 "--rounds", 2, "-g", "rules-published", "--frames", 4, "--dtype", "float16", "-o", tmp_path/"r")
    assert out == f"the summary\npage: {tmp_path/'r'/'report.html'}\n"
    assert (seen["model"], seen["data"], seen["kinds"], seen["controls"], seen["rounds"], seen["generator"]) == (
        "M", "D", ("action", "object"), ("shuffled", "blank"), 2, "rules-published")
    assert (seen["n_frames"], seen["dtype"], seen["out"], seen["per_caption"]) == (4, "float16", tmp_path/"r", 1)


def test_published_sets_need_their_folder():
    assert "vidneg audit sugarcrepe --root FOLDER" in run("audit", "sugarcrepe", code=1)[1]
    assert "vidneg data check msrvtt --root FOLDER" in run("data", "check", "msrvtt", code=1)[1]


@pytest.mark.slow
@pytest.mark.skipif("VIDNEG_REAL_DATA" not in os.environ, reason="VIDNEG_REAL_DATA names no folder of real data")
def test_published_sets_are_audited_as_published(tmp_path):
    folder = Path(os.environ["VIDNEG_REAL_DATA"])/"sugar_crepe"
    out, _ = run("audit", "sugarcrepe", "--root", folder, "--sample", 500, "-o", tmp_path/"a.html")
    assert f"{len(read_pairs('sugarcrepe', folder))} pairs, 500 audited" in out and (tmp_path/"a.html").exists()


def test_exit_codes_and_messages(tmp_path):
    here = tmp_path/"some where é"
    here.mkdir()
    done = shell("audit", "nothing.csv", cwd=here)
    assert (done.returncode, done.stderr) == (1, "vidneg: nothing.csv does not exist: check the path\n")
    debug = shell("audit", "nothing.csv", "--debug", cwd=here)
    assert debug.returncode == 1 and "Traceback" in debug.stderr and debug.stderr.endswith(done.stderr)
    assert shell("audit", cwd=here).returncode == shell("negatives", "c.txt", "--rounds", "0", cwd=here).returncode == 2
    assert shell("--version", cwd=here).stdout.strip() == vidneg.__version__
    (here/"c.txt").write_text("\n".join(map(sentence, range(20))))
    assert shell("negatives", "c.txt", cwd=here).returncode == 0 and (here/"negatives.parquet").exists()


def test_a_fault_of_the_program_is_one_line(tmp_path):
    code = """
import sys, vidneg.cli as cli
@cli.app.command()
def fail(): [][0]
sys.argv = ["vidneg", "fail"]
cli.main()"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 1 and done.stderr.startswith("vidneg: IndexError: ") and done.stderr.count("\n") == 1


def test_an_interruption_ends_with_130_and_leaves_no_part(tmp_path):
    code = """
import sys, time, vidneg.cli as cli
from vidneg.core.files import atomic_path
@cli.app.command()
def wait():
    with atomic_path("out.txt") as part:
        part.write_text("half")
        print("waiting", flush=True)
        time.sleep(60)
sys.argv = ["vidneg", "wait"]
cli.main()"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}) as work:
        assert work.stdout.readline() == "waiting\n"
        work.send_signal(signal.SIGINT)
        assert work.wait() == 130 and "vidneg: interrupted" in work.stderr.read()
    assert not list(tmp_path.iterdir())


def test_an_audit_shows_its_progress_on_a_terminal(mine):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    code = "import sys; sys.argv = ['vidneg', 'audit', 'mine.csv']; from vidneg.cli import main; main()"
    with subprocess.Popen([sys.executable, "-c", code], stderr=theirs, stdout=subprocess.DEVNULL,
                          env=os.environ | {"PYTHONPATH": str(ROOT)}) as work:
        os.close(theirs)
        seen = b""
        while True:
            try: part = os.read(ours, 4096)
            except OSError: break # the other side is closed
            if not part: break
            seen += part
        assert work.wait() == 0
    for step in (b"characters", b"bag of the kind", b"n-gram LM", b"signs", b"writing"): assert step in seen


@pytest.mark.slow
def test_a_trained_model_is_scored(mine, films):
    pd.read_csv(mine)[["video", "caption"]].to_csv("captions.csv", index=False)
    out, said = run("train", "--data", "captions.csv", "--videos", films, "--out", "a model é", "--epochs", 2)
    assert "loss" in out and "batches have 6 clips" in said and "'a model é'" in out
    table, _ = run("score", "-m", "a model é", "-i", mine, "--videos", films)
    assert "acc " in table and len(pd.read_parquet("scores.parquet")) == 24
    again = ["train", "--data", "captions.csv", "--videos", films, "--out", "m", "--recipe", "best"]
    assert "no recipe 'best'" in run(*again, code=1)[1]


def test_edits_leave_and_negatives_come_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("captions.txt").write_text("\n".join(map(sentence, range(30))), encoding="utf-8")
    run("negatives", "captions.txt", "-o", "negatives.parquet")
    run("export", "negatives.parquet", "-o", "my edits", "--edits-only", "--license", "cc-by-4.0")
    written = "".join(p.read_text(encoding="utf-8") for p in Path("my edits").iterdir())
    assert not any(sentence(i) in written for i in range(30))
    run("rebuild", "my edits", "captions.txt", "-o", "back.csv")
    ours, back = pd.read_parquet("negatives.parquet"), pd.read_csv("back.csv")
    assert ours.negative.tolist() == back.negative.tolist() and ours.caption.tolist() == back.caption.tolist()
    Path("captions.txt").write_text("\n".join(map(sentence, range(10))), encoding="utf-8")
    assert "missing" in run("rebuild", "my edits", "captions.txt", "-o", "some.csv", code=1)[1]


def test_an_exported_set_has_a_card(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("captions.txt").write_text("\n".join(map(sentence, range(30))), encoding="utf-8")
    run("negatives", "captions.txt", "-o", "negatives.parquet")
    run("export", "negatives.parquet", "-o", "my set", "--license", "cc-by-4.0", "--weakness", "it is small")
    card = Path("my set/README.md").read_text(encoding="utf-8")
    assert "license: cc-by-4.0" in card and "it is small" in card and Path("my set/croissant.json").exists()
