"Sampling, decoding, broken files, and the cache of a dataset's frames."
import hashlib
import inspect
import math
import os
import pickle
import socket
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from vidneg.core.child import in_child
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

# What a container says beside its frames: orientation, start, rate, time stamps, names.

CORNERS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


def corners(frame):
    "Name the colors of a frame's corners: top left, top right, bottom left, bottom right."
    pixels = frame[[3, 3, -4, -4], [3, -4, 3, -4]].astype(int)
    return [min(CORNERS, key=lambda c: np.abs(p - CORNERS[c]).sum()) for p in pixels]


def colored(n, height, width):
    frames = np.zeros((n, height, width, 3), np.uint8)
    for i, color in enumerate(CORNERS.values()):
        frames[:, height//2*(i//2):height//2*(i//2 + 1), width//2*(i % 2):width//2*(i % 2 + 1)] = color
    return frames


def turn(path, out, a, b, c, d):
    "Copy an MP4 file and write a display matrix into its track header, as a phone does."
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at:at + 36] = b"".join(int(n).to_bytes(4, "big", signed=True) for n in (
        a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30))
    out.write_bytes(data)
    return out


TURNS = { # display matrix: corners as displayed
    (1, 0, 0, 1): "red green blue white", (0, 1, -1, 0): "blue red white green",
    (-1, 0, 0, -1): "white blue green red", (0, -1, 1, 0): "green white red blue",
    (-1, 0, 0, 1): "green red white blue", (1, 0, 0, -1): "blue white red green",
    (0, 1, 1, 0): "red blue green white", (0, -1, -1, 0): "white green blue red"}


@pytest.mark.parametrize("height, width", [(48, 64), (120, 160)])
@pytest.mark.parametrize("matrix", TURNS)
def test_frames_are_as_displayed(tmp_path, matrix, height, width):
    path = turn(write(tmp_path/"a.mp4", colored(8, height, width)), tmp_path/"turned.mp4", *matrix)
    shape = (width, height) if matrix[1] else (height, width)
    info = v.probe(path)
    assert (info.height, info.width) == shape
    frames = v.read_frames(path)
    assert frames.shape == (8, *shape, 3)
    assert corners(frames[5]) == TURNS[matrix].split() == corners(v.read_frames(path, size=32)[5])
    cache = v.read_clips([Clip("a", path.name)], tmp_path, tmp_path/"cache", 4, desc="")
    assert cache.frames.shape == (1, 4, *shape, 3) and not cache.bad
    by_pyav = v._read(v._source(path), lambda times, end: range(8), None, v._PyAV)[0]
    assert np.array_equal(by_pyav, frames)


def timed(path, frames, milliseconds, codec="libx264"):
    "Write frames with their own time stamps."
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for f, at in zip(frames, milliseconds):
            f = av.VideoFrame.from_ndarray(f, format="rgb24")
            f.pts, f.time_base = int(at), Fraction(1, 1000)
            file.mux(stream.encode(f))
        file.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_times_count_from_the_start_of_the_file(tmp_path, suffix):
    path = timed(tmp_path/f"late.{suffix}", ramp(30), 5000 + 100*np.arange(30))
    assert step(v.read_frames(path)) == list(range(30))
    info = v.probe(path)
    assert (info.n_frames, info.fps) == (30, 10) and info.duration == pytest.approx(3)
    frames, times = v.read_clip(Clip("a", path.name, 1, 2), tmp_path, 5)
    assert step(frames) == [11, 13, 15, 17, 19] and times == pytest.approx([1.1, 1.3, 1.5, 1.7, 1.9], abs=2e-3)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_video_that_begins_after_the_sound(tmp_path, suffix):
    "An annotator saw nothing for two seconds, then the video."
    path = tmp_path/f"a.{suffix}"
    with av.open(str(path), "w") as file:
        sound, stream = file.add_stream("aac", rate=8000), file.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        packets = []
        for i in range(40):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, 1024*i
            packets += sound.encode(frame)
        for i, image in enumerate(ramp(20)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = 20 + i, Fraction(1, 10)
            packets += stream.encode(frame)
        for p in sorted([*packets, *sound.encode(), *stream.encode()], key=lambda p: p.dts*p.time_base): file.mux(p)
    assert step(v.read_frames(path)) == list(range(20))
    frames, times = v.read_clip(Clip("a", path.name, 2.5, 3.5), tmp_path, 5)
    assert step(frames) == [6, 8, 10, 12, 14] and np.allclose(times, 2 + np.array([6, 8, 10, 12, 14])/10, atol=0.2)
    with pytest.raises(v.VideoError, match="runs from 2"): v.read_clip(Clip("a", path.name, 0, 1), tmp_path, 5)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frames_of_a_variable_rate_are_chosen_by_time(tmp_path, suffix):
    at = np.concatenate([np.arange(10)*1000, 10000 + np.arange(90)*11])
    images = ramp(11)[np.minimum(np.arange(100), 10)]
    path = timed(tmp_path/f"slow.{suffix}", images, at)
    clips = [Clip("a", path.name), Clip("b", path.name, 8.5, 10.5)]
    cache = v.read_clips(clips, tmp_path, tmp_path/"cache", 4, desc="")
    assert cache.times[0] == pytest.approx([1, 4, 6, 9]) and step(cache[0]) == [1, 4, 6, 9]
    assert cache.times[1] == pytest.approx([8, 9, 9, 10.242], abs=1e-3) # on display at 8.75, 9.25, 9.75, 10.25 s
    assert step(v.read_frames(path, 4)) == [1, 4, 6, 9]
    many = [v.read_clip(Clip(f"c{i}", path.name), tmp_path, 4, mode="segment")[1] for i in range(20)]
    assert (np.diff(many) >= 0).all() and (np.floor(many) <= 2.75*np.arange(1, 5)).all() and len(np.unique(many)) > 10
    assert all((m[k] >= 2.75*k - 1).all() for m in many for k in range(4))


@given(counts, st.integers(1, 40), st.sampled_from([8, 24, 25, 30000/1001, 59.94]), st.booleans(),
       st.sampled_from(["uniform", "segment"]))
def test_constant_rates_are_sampled_by_number(n, k, fps, in_milliseconds, mode):
    "Time stamps rounded to milliseconds, as in Matroska, do not change the chosen frames."
    times = np.arange(n)/fps
    if in_milliseconds: times = np.round(times, 3)
    got = v._sample(times, (0, n/fps), np.arange(n), k, mode, stable_rng(1))
    assert got.tolist() == v.sample_indices(n, k, mode, stable_rng(1)).tolist()


@given(st.lists(st.floats(0.01, 50), min_size=3, max_size=40), st.integers(1, 12))
def test_sampling_by_time_shows_what_is_on_display(steps, k):
    times = np.cumsum([0, *steps])
    end = times[-1] + 1
    got = v._sample(times, (0, end), np.arange(len(times)), k, "uniform", None)
    if v._is_constant(times): return
    for i, g in enumerate(got):
        at = (2*i + 1)/(2*k)*end
        assert times[g] <= at + 2e-6 and (g == len(times) - 1 or at < times[g + 1])


def test_raw_streams_have_the_times_of_their_rate(tmp_path):
    write(tmp_path/"raw.h264", ramp(20), 10)
    frames, times = v.read_clip(Clip("a", "raw.h264", 0, 0.5), tmp_path, 5)
    assert step(frames) == [0, 1, 2, 3, 4] and times == pytest.approx([0, .1, .2, .3, .4])
    assert v.probe(tmp_path/"raw.h264").fps == 10


@pytest.mark.parametrize("times, want", [
    ([0, .5, 1], [0, .5, 1]), ([math.nan]*3, [0, .1, .2]), ([0, 0, 0], [0, .1, .2]), ([0, math.nan, 1], [0, .1, .2]),
    ([0, 2, 1], [0, .1, .2]), ([3.], [3.]), ([], [])])
def test_missing_times_come_from_the_rate(times, want): assert v._mended(times, 10.).tolist() == pytest.approx(want)


def test_sizes_that_change_need_a_size(tmp_path):
    sizes = [(48, 64), (32, 32)]
    parts = [write(tmp_path/f"{i}.h264", colored(20, *s), 10).read_bytes() for i, s in enumerate(sizes)]
    (tmp_path/"change.h264").write_bytes(b"".join(parts))
    clips = [Clip("a", "change.h264"), Clip("b", "0.h264"), Clip("c", "change.h264", 0, 1)]
    cache = v.read_clips(clips, tmp_path, tmp_path/"cache", 4, on_error="skip", desc="")
    assert cache.clip_ids == ["b", "c"] and "changes its size (32×32, 64×48)" in cache.bad[0].cause
    whole = v.read_frames(tmp_path/"change.h264", 4, 16)
    assert [corners(f) for f in whole] == [list(CORNERS)]*4


def test_cover_pictures_are_no_video(tmp_path):
    def add_cover(file):
        cover = file.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        image = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 255, np.uint8), format="rgb24")
        return cover.encode(image.reformat(format="yuvj420p")) + cover.encode()
    with av.open(str(tmp_path/"film.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for p in add_cover(file): file.mux(p)
        for f in ramp(): file.mux(stream.encode(av.VideoFrame.from_ndarray(f, format="rgb24")))
        file.mux(stream.encode())
    assert v.probe(tmp_path/"film.mp4") == v.VideoInfo(24, 8., 64, 48, 3.)
    assert step(v.read_frames(tmp_path/"film.mp4", 4)) == [3, 9, 15, 21]
    with av.open(str(tmp_path/"song.mp4"), "w") as file:
        sound, cover = file.add_stream("aac", rate=44100), add_cover(file)
        for i in range(3):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, 1024*i
            file.mux(sound.encode(frame))
        for p in [*sound.encode(), *cover]: file.mux(p)
    with pytest.raises(v.VideoError, match="only a cover picture"): v.probe(tmp_path/"song.mp4")


@pytest.mark.parametrize("name", ["10:30 walk.mp4", "file:a.mp4", "a%03d.mp4", "ça – été.mp4", "-i.mp4", "?#.mp4"])
def test_any_name_is_a_name(tmp_path, monkeypatch, name):
    write(tmp_path/"a.mp4", ramp()).rename(tmp_path/name)
    monkeypatch.chdir(tmp_path)
    for path in (name, f"./{name}", tmp_path/name): assert step(v.read_frames(path, 4)) == [3, 9, 15, 21]


def test_what_is_no_file_is_skipped_and_listed(tmp_path):
    write(tmp_path/"a.mp4", ramp())
    os.mkfifo(tmp_path/"pipe.mp4")
    with socket.socket(socket.AF_UNIX) as s: s.bind(os.path.relpath(tmp_path/"socket.mp4"))
    (tmp_path/"loop.mp4").symlink_to("loop.mp4")
    (tmp_path/"gone.mp4").symlink_to("nowhere.mp4")
    (tmp_path/os.fsdecode(b"a\xff.mp4")).write_bytes(b"x")
    (tmp_path/"list.mp4").write_text("ffconcat version 1.0\nfile a.mp4\n")
    (tmp_path/"page.mp4").write_text("<!DOCTYPE html><html><body>Video unavailable</body></html>")
    bad = {"pipe.mp4": "a pipe", "socket.mp4": "a socket", "loop.mp4": "cannot be opened", "gone.mp4": "no such file",
           os.fsdecode(b"a\xff.mp4"): "not UTF-8", "x"*300: "name too long", "a.mp4/b.mp4": "no such file",
           "a\0b.mp4": "not the path", "list.mp4": "holds no video", "page.mp4": "not a video", ".": "folder",
           "\ud800.mp4": "not UTF-8", None: "not the path", 7: "not the path"}
    clips = [Clip(f"c{i}", name) for i, name in enumerate(bad)]
    cache = v.read_clips([Clip("a", "a.mp4"), *clips], tmp_path, tmp_path/"cache", 4, on_error="skip", desc="")
    assert cache.clip_ids == ["a"] and len(cache.bad) == len(bad)
    for found, says in zip(cache.bad, bad.values()): assert says in found.cause, found
    for name in bad:
        with pytest.raises(v.VideoError): v.probe(name if not isinstance(name, str) else tmp_path/name)
    print(cache.bad, v.VideoError("a\udcff.mp4", "b")) # both can be encoded


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "named_wrong.mp4"])
def test_stills_are_videos_of_one_frame(tmp_path, name):
    Image.fromarray(colored(1, 48, 64)[0]).save(tmp_path/name, "PNG" if name.endswith("mp4") else None)
    frames, times = v.read_clip(Clip("a", name), tmp_path, 4)
    assert frames.shape == (4, 48, 64, 3) and times.tolist() == [0]*4 and corners(frames[3]) == list(CORNERS)


def test_other_formats(tmp_path):
    images = [Image.fromarray(f | np.uint8(i)) for i, f in enumerate(colored(12, 48, 64))]
    images[0].save(tmp_path/"a.gif", save_all=True, append_images=images[1:], duration=100)
    codecs = {"a.gif": None, "a.webm": "libvpx-vp9", "a.avi": "mpeg4", "a.mov": "mpeg4", "a.ts": "libx264"}
    for name, codec in codecs.items():
        if codec: write(tmp_path/name, colored(12, 48, 64), 10, codec=codec)
        frames, times = v.read_clip(Clip("a", name, 0.2, 0.8), tmp_path, 3)
        assert times == pytest.approx([.3, .5, .7], abs=2e-3) and corners(frames[1]) == list(CORNERS), name


@pytest.mark.parametrize("name, codec, bframes", [
    ("a.mp4", "libx264", 2), ("a.mkv", "libx264", 2), ("a.flv", "libx264", 2), ("a.avi", "mpeg4", 0),
    ("a.avi", "mpeg4", 2), ("a.avi", "libx264", 2), ("a.ts", "libx264", 2), ("a.ts", "mpeg2video", 2),
    ("a.mpg", "mpeg2video", 2), ("a.wmv", "wmv2", 0), ("a.webm", "libvpx", 0)])
def test_frames_are_the_ones_with_these_numbers(tmp_path, name, codec, bframes):
    "Long files with many keyframes; in some formats decord seeks to others."
    with av.open(str(tmp_path/name), "w") as file:
        stream = file.add_stream(codec, rate=10, options={"bf": str(bframes), "g": "7"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for i in range(60):
            image = np.full((48, 64, 3), 16 + 4*(i*37 % 60), np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode())
    numbers = [41, 3, 59, 20, 0, 28, 27]
    frames, want = v.read_frames(tmp_path/name, indices=numbers), 16 + 4*(np.array(numbers)*37 % 60)
    assert len(v.read_frames(tmp_path/name)) == 60 and np.abs(frames.mean((1, 2, 3)) - want).max() < 10
    frames, times = v.read_clip(Clip("a", name, 2, 4), tmp_path, 4)
    late = v.read_clip(Clip("a", name), tmp_path, 60)[1][0] # AVI delays B-frames
    assert times == pytest.approx([2.2, 2.7, 3.2, 3.7], abs=2e-3) and late in (0, 0.1)
    assert np.abs(frames.mean((1, 2, 3)) - (16 + 4*(np.round((times - late)*10)*37 % 60))).max() < 10


def test_any_exception_of_a_decoder_is_a_video_error(folder, monkeypatch):
    path = folder/"good.mp4"
    for e in (AttributeError("'VideoStream' object has no attribute 'width'"), MemoryError(),
              UnicodeDecodeError("utf-8", b"x", 0, 1, "?"), ValueError("all input arrays must have the same shape")):
        def fail(*args, **named): raise e
        with monkeypatch.context() as m:
            m.setattr(v._Decord, "__init__", fail)
            m.setattr(v._PyAV, "__init__", fail)
            with pytest.raises(v.VideoError, match=f"cannot be decoded .{type(e).__name__}"): v.read_frames(path)
        with monkeypatch.context() as m:
            m.setattr(v.av, "open", fail)
            with pytest.raises(v.VideoError, match=type(e).__name__): v.probe(path)


def test_headers_that_declare_more_frames_than_bytes_are_refused(tmp_path):
    "decord reserves memory for each and ends the process."
    data = bytearray(write(tmp_path/"a.mp4", ramp()).read_bytes())
    at = data.index(b"stts") + 12
    data[at:at + 4] = (1 << 30).to_bytes(4, "big")
    (tmp_path/"many.mp4").write_bytes(data)
    with pytest.raises(v.VideoError, match="more than the file has bytes"): v.read_frames(tmp_path/"many.mp4", 4)


@pytest.mark.parametrize("call, says", [
    (dict(n_frames=True), "n_frames is True"), (dict(n_frames=2.0), "n_frames is 2.0"),
    (dict(n_frames=-1), "at least one"), (dict(size=0), "size is 0"), (dict(size=(4, -4)), "size is -4"),
    (dict(size="224"), "size is '224'"),
    (dict(size=(1, 2, 3)), "size is"), (dict(size=2.5), "size is 2.5"), (dict(indices=[0.5]), "whole numbers"),
    (dict(indices=3), "whole numbers"), (dict(indices=["a"]), "whole numbers"), (dict(indices=[-1]), "frames -1 to")])
def test_numbers_that_are_none_are_refused(folder, call, says):
    with pytest.raises(VidnegError, match=says): v.read_frames(folder/"good.mp4", **call)


def test_numbers_of_numpy_are_numbers(folder):
    want = v.read_frames(folder/"good.mp4", 4, 32)
    for size in (np.int64(32), (np.int32(32), 32), [32, 32]):
        assert np.array_equal(v.read_frames(folder/"good.mp4", np.uint8(4), size), want)
    cache = v.read_clips([Clip("a", "good.mp4")], folder, folder/"cache", np.int64(4), size=np.int64(32), desc="")
    assert np.array_equal(cache["a"], want)


def test_first_clip_that_can_be_read_gives_the_size(folder):
    "Not the first that opens."
    bad = write(folder/"bad.mp4", stable_rng(1).integers(0, 255, (24, 32, 32, 3)).astype(np.uint8), faststart=True)
    bad.write_bytes(bad.read_bytes()[:3000])
    assert v.probe(bad).width == 32
    clips = [Clip("x", "bad.mp4"), Clip("y", "good.mp4")]
    cache = v.read_clips(clips, folder, folder/"cache", 4, on_error="skip", desc="")
    assert cache.clip_ids == ["y"] and "cut off" in cache.bad[0].cause


def test_dying_and_hanging_decoders_cost_one_clip(folder, monkeypatch):
    def fail(location, clip, *args, limit):
        if clip.clip_id in ends: return in_child(*ends[clip.clip_id])
        return in_child(location, clip, *args, limit=limit)
    ends = {"dies": ("os:abort",), "segfaults": ("ctypes:string_at", 0)}
    monkeypatch.setattr(v, "in_child", fail)
    clips = [Clip(i, "good.mp4") for i in ("a", "dies", "b", "segfaults", "c")]
    for workers in (1, 3):
        cache = v.read_clips(clips, folder, folder/"cache", 4, on_error="skip", workers=workers, desc="")
        assert cache.clip_ids == ["a", "b", "c"] and [b.clip_id for b in cache.bad] == ["dies", "segfaults"]
        assert "SIGABRT" in cache.bad[0].cause and "SIGSEGV" in cache.bad[1].cause
    with pytest.raises(v.VideoError, match="SIGABRT.*on_error"):
        v.read_clips(clips, folder, folder/"cache", 4, desc="")
    monkeypatch.undo()
    with pytest.raises(v.VideoError, match="more than 1e-06 s"): v.read_clip(clips[0], folder, time_limit=1e-6)


def test_full_disk_is_one_error(folder, monkeypatch):
    def full(*args): raise OSError(28, "No space left on device")
    monkeypatch.setattr(v.os, "posix_fallocate", full)
    with pytest.raises(VidnegError, match=r"1 clips need .* GB \(No space left"):
        v.read_clips([Clip("a", "good.mp4")], folder, folder/"cache", 4, desc="")
    assert not (folder/"cache").exists()


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
