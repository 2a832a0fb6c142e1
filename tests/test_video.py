"Sampling, decoding, broken files, and the cache of a dataset's frames."
import hashlib
import inspect
import os
import pickle
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, strategies as st

from vidneg.core.errors import VidnegError
from vidneg.core.records import Clip
from vidneg.core.seeds import stable_rng
from vidneg.data import video as v

counts = st.integers(1, 200)


@given(counts, counts)
def test_uniform_is_the_middle_of_equal_segments(n, k):
    want = [int((Fraction(2*i + 1, 2*k))*n) for i in range(k)]
    assert v.sample_indices(n, k).tolist() == want


@given(counts, counts, st.integers(0, 99))
def test_segment_stays_in_its_segments(n, k, seed):
    got = v.sample_indices(n, k, "segment", stable_rng(seed))
    assert (np.diff(got) >= (n >= k)).all() if k > 1 else True
    for i, g in enumerate(got): assert i*n//k <= g < max((i + 1)*n//k, i*n//k + 1)


@given(counts)
def test_sampling_all_frames_returns_every_frame(n):
    every = list(range(n))
    assert v.sample_indices(n, n).tolist() == v.sample_indices(n, mode="all").tolist() == every
    assert v.sample_indices(n, n, "segment", stable_rng(0)).tolist() == every


def test_segment_reaches_every_frame():
    draws = np.concatenate([v.sample_indices(24, 5, "segment", stable_rng(s)) for s in range(200)])
    assert set(draws) == set(range(24))


@pytest.mark.parametrize("args, says", [((0, 4), "0 frames"), ((5, 0), "at least one"), ((5,), "at least one"),
                                        ((5, 2, "middle"), "no sampling mode"), ((5, 2, "segment"), "pass rng")])
def test_sampling_refuses(args, says):
    with pytest.raises(VidnegError, match=says): v.sample_indices(*args)


def write(path, frames, fps=8, faststart=False, codec="libx264"):
    with av.open(str(path), "w", options={"movflags": "faststart"} if faststart else {}) as file:
        stream = file.add_stream(codec, rate=fps)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for f in frames: file.mux(stream.encode(av.VideoFrame.from_ndarray(f, format="rgb24")))
        file.mux(stream.encode())
    return path


def ramp(n=24, height=48, width=64, seed=0):
    "Make frames: frame i is i steps brighter than black, with little noise in one corner."
    frames = np.repeat(np.arange(n, dtype=np.uint8)[:, None, None, None]*8, height, 1).repeat(width, 2).repeat(3, 3)
    frames[:, :16, :16] += stable_rng(seed).integers(0, 40, frames[:, :16, :16].shape).astype(np.uint8)
    return np.ascontiguousarray(frames)


def step(frames): return np.round(frames[:, 24:, 24:].mean((1, 2, 3))/8).astype(int).tolist()


@pytest.fixture
def folder(tmp_path):
    frames = ramp()
    write(tmp_path/"good.mp4", frames)
    write(tmp_path/"good.mkv", frames)
    (tmp_path/"text.mp4").write_text("this is no video\n"*50)
    (tmp_path/"empty.mp4").touch()
    (tmp_path/"folder.mp4").mkdir()
    noise = stable_rng(1).integers(0, 255, (24, 64, 64, 3)).astype(np.uint8)
    for name, suffix, early in (("late_index", "mp4", False), ("early_index", "mp4", True), ("stream", "mkv", False)):
        data = write(tmp_path/f"whole.{suffix}", noise, faststart=early).read_bytes()
        (tmp_path/f"{name}.{suffix}").write_bytes(data[:len(data)//2])
    with av.open(str(tmp_path/"sound.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=44100)
        for i in range(20):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            sound.sample_rate, sound.pts = 44100, 1024*i
            file.mux(stream.encode(sound))
        file.mux(stream.encode())
    return tmp_path


def test_read_frames_by_number(folder):
    path = folder/"good.mp4"
    assert step(v.read_frames(path)) == list(range(24))
    assert step(v.read_frames(path, indices=[5, 5, 2, 23])) == [5, 5, 2, 23]
    assert step(v.read_frames(path, indices=lambda n: [0, n - 1])) == [0, 23]
    with pytest.raises(v.VideoError, match="24 were asked for, but the video has frames 0 to 23"):
        v.read_frames(path, indices=[24])
    with pytest.raises(v.VideoError, match="no frames were asked for"): v.read_frames(path, indices=[])


def test_a_number_of_frames_is_spread_evenly(folder):
    path = folder/"good.mp4"
    assert list(inspect.signature(v.read_frames).parameters)[:2] == ["path", "n_frames"]
    assert step(v.read_frames(path, 4)) == step(v.read_frames(path, n_frames=np.int64(4))) == [3, 9, 15, 21]
    assert np.array_equal(v.read_frames(path, 8), v.read_frames(path, indices=v.sample_indices(24, 8)))
    assert v.read_frames(path, 3, size=32).shape == v.read_frames(path, 3, 32).shape == (3, 32, 32, 3)
    assert v.read_frames(path, 3, size=(20, 30)).shape == (3, 20, 30, 3)
    with pytest.raises(VidnegError, match="pass frame numbers as indices="): v.read_frames(path, [0, 8])
    with pytest.raises(VidnegError, match="both given"): v.read_frames(path, 8, indices=[0])
    with pytest.raises(VidnegError, match="at least one frame"): v.read_frames(path, 0)


def test_resizing_in_parts_is_resizing_at_once(folder):
    every = v.read_frames(folder/"good.mp4", size=24)
    singly = [v.read_frames(folder/"good.mp4", indices=[i], size=24) for i in range(24)]
    assert np.array_equal(every, np.concatenate(singly))


@pytest.mark.parametrize("name", ["good.mp4", "good.mkv"])
def test_backends_agree(folder, name):
    read = [v._read(v._source(folder/name), lambda t, end: [0, 7, 7, 23], None, b) for b in (v._Decord, v._PyAV)]
    assert np.array_equal(read[0][0], read[1][0]) and np.allclose(read[0][1], read[1][1], atol=1e-3)


def test_pyav_replaces_a_failing_decord(folder, monkeypatch):
    want = v.read_frames(folder/"good.mp4", 5)
    def fail(self, path): raise RuntimeError("decord cannot")
    monkeypatch.setattr(v._Decord, "__init__", fail)
    assert np.array_equal(v.read_frames(folder/"good.mp4", 5), want)


def test_probe(folder):
    want = v.VideoInfo(24, 8., 64, 48, 3.)
    assert v.probe(folder/"good.mp4") == v.probe(folder/"good.mkv") == want


BROKEN = {"missing.mp4": "no such file", "empty.mp4": "empty", "folder.mp4": "folder", "text.mp4": "not a video",
          "sound.mp4": "no video", "late_index.mp4": "cut off", "early_index.mp4": "cut off", "stream.mkv": "cut off"}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named(folder, name):
    with pytest.raises(v.VideoError) as e: v.read_frames(folder/name, indices=[0])
    assert BROKEN[name] in e.value.cause and name in str(e.value) and name not in e.value.cause
    copy = pickle.loads(pickle.dumps(e.value))
    assert str(copy) == str(e.value) and copy.cause == e.value.cause


def test_no_frames(folder, monkeypatch):
    with pytest.raises(v.VideoError, match="no frames"): v._check(v._source(folder/"good.mp4"), np.zeros(0))


def test_damaged_files_give_frames_or_a_video_error(folder):
    "The damage may be at any position."
    data = bytearray((folder/"whole.mp4").read_bytes())
    for i in range(25):
        rng, broken = stable_rng(0, "damage", i), bytearray(data)
        at = int(rng.integers(len(data) - 200))
        broken[at:at + 200] = rng.integers(0, 256, 200, dtype=np.uint8).tobytes()
        (folder/"damaged.mp4").write_bytes(broken)
        try: assert v.read_frames(folder/"damaged.mp4", 4).dtype == np.uint8
        except v.VideoError: pass


def digest(cache): return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(cache.iterdir())}


def dataset(folder, n=12):
    for i in range(n): write(folder/f"c{i}.mp4", ramp(seed=i))
    return [Clip(f"c{i}", f"c{i}.mp4", 0, 0, "train") for i in range(n)]


@pytest.mark.parametrize("mode", ["uniform", "segment"])
def test_cache_is_the_same_for_any_number_of_workers(tmp_path, mode):
    clips = dataset(tmp_path)
    made = [digest(tmp_path/f"w{w}") for w in (1, 2, 5)
            if v.read_clips(clips, tmp_path, tmp_path/f"w{w}", 4, mode, workers=w, desc="")]
    assert made[0] == made[1] == made[2]
    cache = v.FrameCache(tmp_path/"w1")
    assert cache.frames.shape == (12, 4, 48, 64, 3) and cache.clip_ids == [c.clip_id for c in clips] and not cache.bad
    for i, c in enumerate(clips):
        want = v.sample_indices(24, 4, mode, stable_rng(0, "frames", c.clip_id))
        assert np.array_equal(cache[c.clip_id], v.read_frames(tmp_path/c.path, indices=want))
        assert np.array_equal(cache[i], cache[c.clip_id])
        assert np.allclose(cache.times[i], want/8)
    few = v.read_clips(clips[5:7], tmp_path, tmp_path/"few", 4, mode, desc="")
    assert np.array_equal(few["c6"], cache["c6"])


def test_bad_clips_are_skipped_and_listed(folder):
    clips = [Clip(n, n, 0, 0, "val") for n in ("text.mp4", "good.mp4", "missing.mp4", "good.mkv", "whole.mp4")]
    with pytest.raises(v.VideoError, match="text.mp4"): v.read_clips(clips, folder, folder/"cache", 4, desc="")
    assert not (folder/"cache").exists() and not [p for p in folder.iterdir() if p.name.startswith(".part")]
    cache = v.read_clips(clips, folder, folder/"cache", 4, on_error="skip", workers=2, desc="")
    assert cache.clip_ids == ["good.mp4", "good.mkv"] and len(cache) == 2 and step(cache[1]) == [3, 9, 15, 21]
    assert [b.clip_id for b in cache.bad] == ["text.mp4", "missing.mp4", "whole.mp4"]
    assert cache.bad[1].cause == "no such file" and "64×64, but the first clip is 64×48" in cache.bad[2].cause
    assert not any(str(folder) in b.cause for b in cache.bad)
    with pytest.raises(VidnegError, match="no such file"): cache["missing.mp4"]
    with pytest.raises(VidnegError, match="never decoded"): cache.rows(["good.mp4", "other"])
    resized = v.read_clips(clips, folder, folder/"cache", 4, size=32, on_error="skip", desc="")
    assert resized.frames.shape == (3, 4, 32, 32, 3)


@pytest.mark.parametrize("start, end, want", [
    (0, 0, [3, 9, 15, 21]), (1, 2, [9, 11, 13, 15]), (1, 99, [10, 14, 18, 22]), (1.3, 1.31, [10]*4),
    (np.float32(1), np.int64(2), [9, 11, 13, 15])])
def test_clips_with_start_and_end(folder, start, end, want):
    cache = v.read_clips([Clip("a", "good.mp4", start, end, "val")], folder, folder/"cache", 4, desc="")
    assert step(cache[0]) == want


def test_clips_outside_the_video_are_refused(folder):
    for start, end in ((5, 6), (3, 0), (3, 4)):
        with pytest.raises(v.VideoError, match="the video lasts 3 s"):
            v.read_clips([Clip("a", "good.mp4", start, end, "val")], folder, folder/"cache", 4, desc="")


@pytest.mark.parametrize("start, end, says", [
    (1, -1, "seconds from 0 on"), (-1, 1, "seconds from 0 on"), (0, float("nan"), "seconds from 0 on"),
    (float("nan"), 0, "seconds from 0 on"), (0, float("inf"), "seconds from 0 on"), (None, 1, "seconds from 0 on"),
    ("0", "1", "seconds from 0 on"), (2, 1, "end must be after its start"), (1, 1, "end must be after its start")])
def test_times_that_are_none_are_refused(folder, start, end, says):
    clips = [Clip("a", "good.mp4", start, end, "val"), Clip("b", "good.mp4", 0, 0, "val")]
    with pytest.raises(v.VideoError, match=says): v.read_clip(clips[0], folder)
    cache = v.read_clips(clips, folder, folder/"cache", 2, on_error="skip", desc="")
    assert cache.clip_ids == ["b"] and says in cache.bad[0].cause


def test_requests_are_checked(folder):
    clip = Clip("a", "good.mp4", 0, 0, "val")
    for clips, kw, says in (
            ([], {}, "no clips"), ([clip, clip], {}, "'a' occurs twice"), ([clip], dict(mode="all"), "mode 'all'"),
            ([clip], dict(on_error="ignore"), "raise or skip"), ([clip], dict(n_frames=0), "n_frames")):
        with pytest.raises(VidnegError, match=says): v.read_clips(clips, folder, folder/"cache", desc="", **kw)
    with pytest.raises(VidnegError, match="did not write"): v.read_clips([clip], folder, folder, desc="")
    with pytest.raises(VidnegError, match="none of the 1 clips"):
        v.read_clips([Clip("t", "text.mp4", 0, 0, "val")], folder, folder/"cache", size=8, on_error="skip", desc="")
    with pytest.raises(VidnegError, match="no frame cache"): v.FrameCache(folder/"cache")


def test_strip():
    frames = ramp(7, 8, 10)
    assert v.strip(frames).size == (70, 8) and v.strip(frames, every=2, scale=3).size == (120, 24)
    grid = v.strip(frames, columns=4)
    assert grid.size == (40, 16) and np.asarray(grid.convert("RGB"))[8:, 30:].min() == 255


REAL = os.environ.get("VIDNEG_REAL_DATA")
real = pytest.mark.skipif(not REAL, reason="VIDNEG_REAL_DATA is not set")
# These files declare more frames than they hold: decord counts packets and repeats the last frame.
SHORT = {"cotracker_pillow.mp4": 2, "cotracker_teddy.mp4": 1}


def real_clips(): return sorted(p for p in Path(REAL, "clips").iterdir() if p.suffix != ".jsonl") if REAL else []


@pytest.mark.slow
@real
def test_all_real_clips_can_be_cached(tmp_path):
    clips = [Clip(p.stem, p.name, 0, 0, "test") for p in real_clips()]
    assert len(clips) == 30
    cache = v.read_clips(clips, Path(REAL, "clips"), tmp_path/"cache", 4, size=64, workers=2, desc="")
    assert cache.frames.shape == (30, 4, 64, 64, 3) and not cache.bad
    assert (np.diff(cache.times, axis=1) > 0).all() and min(np.ptp(f) for f in cache.frames) > 60


@real
@pytest.mark.parametrize("path", [p for i, p in enumerate(real_clips()) if i % 5 == 2 or p.name in SHORT],
                         ids=lambda p: p.name)
def test_backends_agree_on_real_clips(path):
    some = lambda t, end: np.linspace(0, min(len(t), 60) - 1, 4).astype(int)
    (a, when_a), (b, when_b) = (v._read(v._source(path), some, None, k) for k in (v._Decord, v._PyAV))
    assert np.array_equal(a, b) and np.allclose(when_a, when_b, atol=2e-3)
    count = [len(k(v._source(path)).times) for k in (v._Decord, v._PyAV)]
    assert count[0] - count[1] == SHORT.get(path.name, 0)
