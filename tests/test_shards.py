"Controls of the video, and scoring by shards: against a plain loop, in any order, stopped and resumed, by processes."
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st

from vidneg.core.errors import VidnegError
from vidneg.core.records import Clip
from vidneg.core.seeds import stable_rng
from vidneg.data.video import read_clip
from vidneg.evaluate import shards
from vidneg.evaluate.accuracy import ITEM_COLUMNS, SCORE_COLUMNS, accuracy_table, score_pairs
from vidneg.evaluate.controls import CONTROLS, Control, changed, shuffled
from vidneg.evaluate.shards import EQUAL, REFERENCES, fitted, next_other, score_clips, seeded_order
from vidneg.models.registry import MODELS
from vidneg.models.scorer import PROTOCOL, Encoding
from vidneg.models.scoring import scorer_of
from vidneg.text.tokenize import train_tokenizer

ALL = list(CONTROLS)
WORDS = "a red star jumps over two blue rings and waits".split()


class Pixels:
    "A scorer in whole numbers, so that no sum depends on its order; frames and words count by their place."
    supports = frozenset({"pairwise", "match", "tokens"})
    protocol = dict.fromkeys(PROTOCOL, "") | {"model": "pixels", "n_frames": 4, "size": 32}
    def encode_video(self, videos):
        return np.array([sum((t + 1)*v[t].astype(int).sum((0, 1)) for t in range(len(v))) for v in videos])
    def encode_text(self, texts): return np.array([self._number(t) for t in texts])
    def _number(self, text): return [sum((i + c)*ord(x) for i, x in enumerate(text)) % 251 - 125 for c in range(3)]
    def pairwise(self, V, T): return (V*T).sum(1)
    def match(self, V, T): return 1/(1 + np.exp(-self.pairwise(V, T)/1e6))
    def tokens(self, texts): return [tuple(t.split()[:6]) for t in texts]


def write(path, color, size=(64, 48), frames=8, moving=True):
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", 8, width=size[0], height=size[1], pix_fmt="yuv420p",
                                 options={"threads": "1"})
        for t in range(frames):
            picture = np.zeros((size[1], size[0], 3), np.uint8) + np.array(color, np.uint8)
            if moving: picture[:, 4*t:4*t + 8] = 255
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    "Twelve clips of eleven files: of other sizes, one file with two clips, one still, one broken, one not there."
    root = tmp_path_factory.mktemp("films and más")
    for i in range(10):
        write(root/f"{i}.mp4", (20*i, 200 - 15*i, 90), (48, 64) if i % 3 == 1 else (64, 48), moving=i != 4)
    (root/"7.mp4").write_bytes(b"not a video")
    clips = [Clip(f"c{i}", f"{i}.mp4") for i in range(10)]
    return root, [*clips, Clip("c10", "2.mp4", .25, .75), Clip("c11", "gone.mp4")]


def items_of(clips, n=60, seed=0):
    rng = stable_rng(seed, "items")
    def sentence(): return " ".join(rng.choice(WORDS, 6))
    rows = [(str(i), clips[int(rng.integers(len(clips)))].clip_id, "action", "balanced", "g", sentence(), sentence())
            for i in range(n)]
    rows += [("cut", clips[0].clip_id, "object", "balanced", "g", "one two three four five six seven",
              "one two three four five six eight")]
    return pd.DataFrame(rows, columns=ITEM_COLUMNS)


def plain_loop(scorer, items, clips, root, controls=ALL, seed=0):
    "Score item by item in plain Python; return (run, item) → (score_pos, score_neg, p_pos, p_neg) or None."
    order = seeded_order([c for c in clips if c.clip_id in set(items.clip_id)], seed)
    def frames(clip):
        try:
            h, w = read_clip(clip, root, 1)[0].shape[1:3]
            return read_clip(clip, root, 4, (round(h*32/min(h, w)), round(w*32/min(h, w))))[0]
        except VidnegError: return None
    read, found = {c.clip_id: frames(c) for c in order}, {}
    readable = {}
    for c in order:
        if read[c.clip_id] is not None: readable.setdefault(c.path, read[c.clip_id])
    first = list(readable.items())[:9]
    for item in items.itertuples():
        at = next(i for i, c in enumerate(order) if c.clip_id == item.clip_id)
        clip, own = order[at], read[item.clip_id]
        following = next(c for c in order[at + 1:] + order[:at] if c.path != clip.path)
        for run in ["model", *controls]:
            rng = stable_rng(seed, "control", run, clip.clip_id)
            views = {"model": [own], "other_video": [read[following.clip_id]],
                     "text_only": [f for p, f in first if p != clip.path][:8]}.get(run)
            if views is None: views = [own if own is None else CONTROLS[run].change(own, rng)]
            same = run not in ("model", "other_video", "text_only") and own is not None and (views[0] == own).all()
            if views[0] is None or same or item.item == "cut":
                found[run, item.item] = None
                continue
            T = scorer.encode_text([item.caption, item.negative])
            each = []
            for view in views:
                V = scorer.encode_video(np.stack([view, view]))
                each.append([*scorer.pairwise(V, T), *scorer.match(V, T)])
            found[run, item.item] = np.mean(each, 0)
    return found


def test_scores_equal_a_plain_loop(films, tmp_path):
    root, clips = films
    items = items_of(clips)
    got = score_clips(Pixels(), items, clips, tmp_path, root=root, controls=ALL, clips_per_shard=5)
    want = plain_loop(Pixels(), items, clips, root)
    assert list(got.columns) == [*SCORE_COLUMNS, "status", *PROTOCOL, "sampling"]
    assert got.run.tolist() == [r for r in ["model", *ALL] for _ in range(len(items))]
    assert got.item.tolist() == items.item.tolist()*7 and len(want) == len(got)
    for row in got.itertuples():
        values, expected = [row.score_pos, row.score_neg, row.p_pos, row.p_neg], want[row.run, row.item]
        assert (row.status == "") == (expected is not None), row
        if expected is None: assert np.isnan(values).all()
        else: assert values == pytest.approx(list(expected), rel=1e-12)
    plain = got[(got.run == "model") & (got.item != "cut")].set_index("clip_id").status
    assert plain["c7"].iloc[0].startswith("video not readable: ") and "no such file" in plain["c11"].iloc[0]
    assert got[got.item == "cut"].status.eq(EQUAL).all() # seven words, of which the model reads six
    still = got[(got.clip_id == "c4") & got.run.isin(["shuffled", "reversed", "single_frame"]) & (got.item != "cut")]
    assert len(still) and still.status.str.startswith("the control leaves the frames").all()
    assert (got["size"] == 32).all() and (got.n_frames == 4).all() and (got.model == "pixels").all()
    scored = got[got.status == ""]
    assert set(accuracy_table(scored, ["acc", "acc_vtc"], n=10).run) == {"model", *ALL}


@pytest.fixture
def decoded(films, monkeypatch):
    "Decode each clip once for many runs."
    memo, real = {}, shards.frames_of
    def frames_of(clip, plan, limit=60.):
        key = clip.clip_id, plan.n_frames, plan.size
        if key not in memo: memo[key] = real(clip, plan, limit)
        return memo[key]
    monkeypatch.setattr(shards, "frames_of", frames_of)


def test_order_shards_and_workers_do_not_matter(films, decoded, tmp_path):
    root, clips = films
    items, tried = items_of(clips, 30), []
    first = score_clips(Pixels(), items, clips, tmp_path/"first", root=root, controls=ALL)
    first = first.set_index(["run", "item"]).sort_index()

    @given(st.permutations(range(len(items))), st.permutations(range(len(clips))), st.integers(1, 13),
           st.integers(1, 3), st.integers(1, 40))
    @settings(max_examples=15, deadline=None)
    def check(rows, order, per_shard, workers, block):
        tried.append(0)
        with pytest.MonkeyPatch.context() as m:
            m.setattr(shards, "BLOCK", block)
            again = score_clips(Pixels(), items.iloc[rows], [clips[i] for i in order], tmp_path/str(len(tried)),
                                root=root, controls=ALL, clips_per_shard=per_shard, workers=workers, progress=False)
        pd.testing.assert_frame_equal(again.set_index(["run", "item"]).sort_index(), first, check_exact=True)
    check()


def test_other_runs_change_nothing(films, decoded, tmp_path):
    root, clips = films
    items = items_of(clips, 30)
    every = score_clips(Pixels(), items, clips, tmp_path/"a", root=root, controls=ALL)
    for name in ALL:
        two = score_clips(Pixels(), items, clips, tmp_path/name, root=root, controls=[name])
        want = every[every.run.isin(["model", name])].reset_index(drop=True)
        pd.testing.assert_frame_equal(two, want, check_exact=True)


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=12))
def test_the_other_video_is_the_next_one_from_another_file(paths):
    n = len(paths)
    want = [next(((i + k) % n for k in range(1, n) if paths[(i + k) % n] != paths[i]), -1) for i in range(n)]
    assert next_other(paths).tolist() == want


def test_without_another_video_there_is_no_control(films, decoded, tmp_path):
    root, clips = films
    two = [Clip("x", "1.mp4", 0, .5), Clip("y", "1.mp4", .5, 1.)]
    got = score_clips(Pixels(), items_of(two, 4)[:4], two, tmp_path, root=root, controls=["other_video", "text_only"])
    assert got.groupby("run").status.unique().map(list).to_dict() == {
        "model": [""], "other_video": ["there is no other video"], "text_only": ["there is no other video"]}


def test_a_prior_replaces_the_reference_videos(films, decoded, tmp_path, monkeypatch):
    class Generative(Pixels):
        supports = frozenset({"pairwise", "prior"})
        def prior(self, texts): return np.array([-float(len(t)) for t in texts])
    monkeypatch.setattr(shards, "references", None)
    root, clips = films
    items = items_of(clips, 20)
    got = score_clips(Generative(), items, clips, tmp_path/"a", root=root, controls=["text_only"])
    got = got[got.run == "text_only"]
    assert (got.score_pos == -items.caption.str.len().to_numpy()).all() and got.p_pos.isna().all()
    assert (got.status == "").all() # broken videos do not matter to a text
    class Wrong(Generative):
        def prior(self, texts): return np.zeros((len(texts), 2))
    with pytest.raises(VidnegError, match="`prior` returned"):
        score_clips(Wrong(), items, clips, tmp_path/"b", root=root, controls=["text_only"])


def test_a_score_that_is_not_finite_gets_a_status(films, decoded, tmp_path):
    class Overflows(Pixels):
        supports = frozenset({"pairwise"})
        def pairwise(self, V, T): return np.where(T[:, 0] > 0, np.inf, 1.)
    root, clips = films
    got = score_clips(Overflows(), items_of(clips[:7], 20), clips[:7], tmp_path, root=root)
    assert set(got.status) == {"", "the score is not a finite number"}
    assert got[got.status != ""][["score_pos", "score_neg"]].isna().all(axis=None)


def test_another_run_in_the_folder_is_refused(films, decoded, tmp_path):
    root, clips = films
    items = items_of(clips, 10)
    def run(scorer=Pixels, items=items, clips=clips, **options):
        return score_clips(scorer(), items, clips, tmp_path, **{"root": root, "seed": 1, **options})
    class Retrained(Pixels): protocol = Pixels.protocol | {"revision": "2"}
    table, content = run(), (tmp_path/"scores.parquet").read_bytes()
    pd.testing.assert_frame_equal(table, run(clips=clips[::-1]))
    for options, word in (({"seed": 2}, "seed"), ({"n_frames": 2}, "n_frames"), ({"size": 16}, "size"),
                          ({"controls": ["blank"]}, "runs"), ({"scorer": Retrained}, "protocol"),
                          ({"items": items[::-1]}, "items"), ({"clips_per_shard": 3}, "clips_per_shard"),
                          ({"clips": [Clip(c.clip_id, c.path, 0, .5) for c in clips]}, "clips")):
        with pytest.raises(VidnegError, match=f"differs in .*{word}.*: choose another folder"): run(**options)
    assert (tmp_path/"scores.parquet").read_bytes() == content
    (tmp_path/"run.json").unlink()
    with pytest.raises(VidnegError, match="of unknown origin"): run()


@pytest.mark.parametrize("spoil, words", [
    (lambda a: a | {"items": a["items"][:0]}, "no items"),
    (lambda a: a | {"items": a["items"].assign(caption=None)}, "lack the caption"),
    (lambda a: a | {"clips": a["clips"][:1]}, "not among the clips"),
    (lambda a: a | {"clips": [*a["clips"], a["clips"][0]]}, "occurs twice"),
    (lambda a: a | {"controls": ["sepia"]}, "no control 'sepia'; there are: blank"),
    (lambda a: a | {"controls": ["blank"], "run": "blank"}, "two runs have one name"),
    (lambda a: a | {"clips_per_shard": 0}, "at least 1")])
def test_bad_requests_are_refused_before_the_first_video(films, tmp_path, monkeypatch, spoil, words):
    monkeypatch.setattr(shards, "frames_of", None)
    root, clips = films
    asked = spoil({"items": items_of(clips), "clips": clips, "root": root})
    with pytest.raises(VidnegError, match=words): score_clips(Pixels(), folder=tmp_path, **asked)
    assert not list(tmp_path.iterdir())


def test_a_scorer_must_say_what_it_is(films, tmp_path):
    class Mute(Pixels): protocol = {"model": "x"}
    class Unable(Pixels): supports = frozenset({"match"})
    root, clips = films
    with pytest.raises(VidnegError, match="lacks 'dtype'"): score_clips(Mute(), items_of(clips), clips, tmp_path)
    with pytest.raises(VidnegError, match="needs pairwise"): score_clips(Unable(), items_of(clips), clips, tmp_path)


@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 400))
def test_small_videos_are_not_enlarged(h, w, size):
    got = fitted(h, w, size)
    if min(h, w) <= size: assert got is None
    else: assert min(got) == size and abs(got[0]*w - got[1]*h) <= max(h, w)/2 + 1e-9


@pytest.mark.parametrize("name", ["navero", "xclip"])
def test_own_models_score_as_in_one_go(name, films, decoded, tmp_path):
    "Clips of two sizes, a matching head, a cache: the same numbers as `score_pairs` on everything at once."
    root, clips = films
    good = [c for c in clips if c.clip_id not in ("c7", "c11")]
    items = items_of(good, 40)
    tokenizer = train_tokenizer([*items.caption, *items.negative], 80, tmp_path/"tokenizer.json")
    torch.manual_seed(0)
    scorer = scorer_of(MODELS[name]("tiny"), tokenizer, batch_size=4)
    frames = [read_clip(c, root, 2, (43, 32) if c.path in ("1.mp4", "4.mp4", "7.mp4") else (32, 43))[0] for c in good]
    want = score_pairs(scorer, scorer.encode_video(frames), [c.clip_id for c in good], items, "model")
    for folder in ("first", "from the cache"):
        got = score_clips(scorer, items, clips, tmp_path/folder, root=root, clips_per_shard=3, cache=tmp_path/"cache")
        assert (got.status == "").all() and got.revision.eq(scorer.protocol["revision"]).all()
        for column in SCORE_COLUMNS[-4:]: assert np.allclose(got[column], want[column], atol=1e-5, equal_nan=True)
    assert (tmp_path/"first/scores.parquet").read_bytes() == (tmp_path/"from the cache/scores.parquet").read_bytes()
    assert want.p_pos.notna().all() == (name == "navero")


# the cache

class Tensors(Pixels):
    "The same scorer with encodings that can be kept."
    def encode_video(self, videos):
        x = torch.as_tensor(super().encode_video(videos)).double()
        return Encoding(x[:, None], x, None, np.arange(len(x)))
    def encode_text(self, texts):
        x = torch.as_tensor(super().encode_text(texts)).double()
        return Encoding(x[:, None], x, None, np.arange(len(x)))
    def pairwise(self, V, T): return (V.embedding[V.index]*T.embedding[T.index]).sum(1).numpy()


def test_kept_encodings_change_no_score_and_save_the_decoding(films, tmp_path, monkeypatch):
    root, clips = films
    good, cache = [c for c in clips if c.clip_id not in ("c7", "c11")], tmp_path/"cache"
    def run(name, items, **options):
        return score_clips(options.pop("scorer", Tensors)(), items, good, tmp_path/name, **{"root": root, **options})
    items, others = items_of(good), items_of(good, seed=1)
    want = [run("a", items), run("b", others), run("c", others, controls=ALL)]
    pd.testing.assert_frame_equal(run("d", items, cache=cache), want[0], check_exact=True)
    assert len(list(cache.rglob("*.safetensors"))) == len(good)
    pd.testing.assert_frame_equal(run("e", others, cache=cache, controls=ALL), want[2], check_exact=True)
    some = run("f", others, cache=cache, controls=["other_video", "text_only"])
    pd.testing.assert_frame_equal(some, want[2][want[2].run.isin(["model", "other_video", "text_only"])]
                                  .reset_index(drop=True), check_exact=True)
    moved = tmp_path/"moved"
    moved.mkdir()
    for path in root.iterdir(): (moved/path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(shards, "frames_of", None) # nothing is decoded any more
    pd.testing.assert_frame_equal(run("g", others, cache=cache, root=moved), want[1], check_exact=True)
    class Retrained(Tensors): protocol = Tensors.protocol | {"revision": "2"}
    for options in ({"scorer": Retrained}, {"n_frames": 2}, {"size": 16}):
        with pytest.raises(TypeError): run(str(options), others, cache=cache, **options)


# several processes, and the end of one

SCRIPT = """
import sys, time
sys.path[:0] = [{here!r}]
import test_shards as t
from vidneg.evaluate.shards import score_clips
class Slow(t.Pixels):
    def encode_video(self, videos):
        time.sleep({pause})
        return super().encode_video(videos)
root = t.Path({root!r})
clips = [t.Clip(f"c{{i}}", f"{{i}}.mp4") for i in range(10)]
got = score_clips(Slow(), t.items_of(clips), clips, {out!r}, root=root, clips_per_shard=2, workers=1,
                  controls=["shuffled", "other_video", "text_only"])
print(len(got))
"""


def script(tmp_path, root, out, pause=0.):
    path = tmp_path/f"{Path(out).name}.py"
    path.write_text(SCRIPT.format(here=str(Path(__file__).parent), root=str(root), out=str(out), pause=pause))
    return path


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(films, tmp_path):
    root, _ = films
    subprocess.run([sys.executable, script(tmp_path, root, tmp_path/"whole")], check=True, capture_output=True)
    killed = tmp_path/"killed"
    run = subprocess.Popen([sys.executable, script(tmp_path, root, killed, pause=.3)], start_new_session=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while len(list(killed.glob("parts/*.parquet"))) < 2 and time.monotonic() < until: time.sleep(.02)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    before = {p.name: p.stat().st_mtime_ns for p in killed.glob("parts/*.parquet")}
    assert 2 <= len(before) < 5 and not (killed/"scores.parquet").exists()
    again = subprocess.run([sys.executable, script(tmp_path, root, killed)], check=True, capture_output=True, text=True)
    assert (killed/"scores.parquet").read_bytes() == (tmp_path/"whole/scores.parquet").read_bytes()
    assert all((killed/"parts"/name).stat().st_mtime_ns == at for name, at in before.items()) # not repeated
    assert again.stdout.strip() == str(4*61)


@pytest.mark.slow
def test_processes_share_the_shards(films, tmp_path):
    root, _ = films
    subprocess.run([sys.executable, script(tmp_path, root, tmp_path/"one")], check=True, capture_output=True)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] # as accelerate
    two = subprocess.run([*launch, script(tmp_path, root, tmp_path/"two")], check=True, capture_output=True, text=True,
                         env={**os.environ, "ACCELERATE_USE_CPU": "true"})
    assert two.stdout.split() == [str(4*61)]*2
    assert (tmp_path/"two/scores.parquet").read_bytes() == (tmp_path/"one/scores.parquet").read_bytes()


# controls

@given(st.integers(1, 9), st.integers(0, 99))
def test_controls_keep_the_form_of_the_frames(t, seed):
    frames, rng = stable_rng(seed, "frames").integers(0, 256, (t, 2, 3, 3)).astype(np.uint8), stable_rng(seed)
    for name, control in CONTROLS.items():
        new = changed(control, frames, rng)
        if name in ("other_video", "text_only"): assert new is frames
        elif t == 1 and name != "blank": assert new is None
        else: assert new.shape == frames.shape and new.dtype == frames.dtype and (new != frames).any()
    order = shuffled(np.arange(t), rng)
    assert sorted(order) == list(range(t)) and (t == 1 or (order != np.arange(t)).any())
    assert (CONTROLS["reversed"].change(frames, rng)[::-1] == frames).all()
    assert (CONTROLS["single_frame"].change(frames, rng) == frames[t//2]).all()


def test_a_control_that_breaks_the_frames_is_refused():
    frames = np.ones((4, 2, 2, 3), np.uint8)
    with pytest.raises(VidnegError, match="keep number, size and type"):
        changed(Control("?", change=lambda f, rng: f[:2]), frames, None)
    with pytest.raises(VidnegError, match="controls nothing"): Control("?")
    with pytest.raises(VidnegError, match="own, other or none"): Control("?", "mine")
    assert REFERENCES == 8
