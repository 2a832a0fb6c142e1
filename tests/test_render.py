"Rendering: area, order, visibility and cropping; files: equal bytes, and colors that survive the codec."
import hashlib
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from vidneg.core.errors import VidnegError
from vidneg.core.parallel import in_background, parallel_map
from vidneg.data.video import read_frames
from vidneg.world import render as r
from vidneg.world.words import SIZES

BACK = "room"


def tracks(shape=(0,), x=.5, y=.5, size=.2, color=0, material=0, angle=0., alpha=1., depth=None, n=1, scene=BACK):
    rows = lambda v: np.broadcast_to(np.asarray(v).reshape(-1, 1) if np.ndim(v) == 1 else v, (len(shape), n)).copy()
    depth = np.arange(len(shape)) if depth is None else np.array(depth)
    x, y, size, angle, alpha = (rows(v)*1. for v in (x, y, size, angle, alpha))
    return r.Tracks(np.array(shape), rows(color), rows(material), x, y, size, angle, alpha, depth,
                    r.SCENES.index(scene), 8.)


def opacity(t, side=64):
    "Return the opacity of t, measured on two canvases."
    black, white = np.zeros((1, 3, side, side), np.float32), np.full((1, 3, side, side), 255, np.float32)
    for canvas in (black, white):
        for e in np.argsort(t.depth, kind="stable"): r._draw(canvas, t, e)
    return 1 - (white - black)[0, 0]/255


def busy(i):
    "Make a clip with many events."
    n, t = 2 + i % 3, np.linspace(0, 1, 24)
    k = np.arange(n)
    walk = lambda f, s: .5 + .4*f(s + i + k[:, None] + 3*t)
    return r.Tracks((k + i) % 8, np.full((n, 24), i % 8), np.full((n, 24), i % 4), walk(np.sin, 0), walk(np.cos, 1),
                    np.full((n, 24), .17), np.outer(k + 1, t), np.ones((n, 24)), k, i % len(r.SCENES), 8.)


def test_vocabularies():
    assert len(r.SHAPES) == len(r.COLORS) == 8 and len(r.MATERIALS) == 4 and len(r.PLACES) == 14 and len(r.SCENES) == 98
    words = [*r.SHAPES, *r.COLORS, *r.MATERIALS, *SIZES, *r.PLACES, *filter(None, r.LIGHTS)]
    assert len(set(words)) == len(words) and all(w.isalpha() and w.islower() for w in words)


@settings(max_examples=40, deadline=None)
@given(st.floats(.25, .75), st.floats(.25, .75), st.floats(.05, .24), st.sampled_from([32, 64, 96]))
def test_circle_area(x, y, size, side):
    radius = max(size*side, 3)
    size = radius/side
    assert opacity(tracks(x=x, y=y, size=size), side).sum() == pytest.approx(np.pi*radius**2, abs=.25*radius)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(range(8)), st.floats(.3, .7), st.floats(.3, .7), st.floats(0, 6.3))
def test_area_does_not_depend_on_place_or_angle(shape, x, y, angle):
    still = opacity(tracks((shape,))).sum()
    assert opacity(tracks((shape,), x=x, y=y, angle=angle)).sum() == pytest.approx(still, rel=.02)


@pytest.mark.parametrize("shape", range(8))
def test_edge_matches_supersampling(shape):
    "Antialiased coverage is close to the mean of 8×8 samples per pixel."
    t = tracks((shape,), x=.51, y=.48, angle=.4)
    fine = opacity(t, 512) > .5
    assert abs(opacity(t) - fine.reshape(64, 8, 64, 8).mean((1, 3))).max() < .3
    assert abs(opacity(t) - fine.reshape(64, 8, 64, 8).mean((1, 3))).mean() < .005


@pytest.mark.parametrize("shape", range(8))
def test_reach_holds_every_shape(shape):
    a = np.linspace(0, 2*np.pi, 200)
    assert (r.SDF[r.SHAPES[shape]](r._REACH*np.cos(a), r._REACH*np.sin(a)) > 0).all()


@given(st.floats(-.5, 1.5), st.floats(-.5, 1.5), st.floats(0, .9))
@settings(max_examples=40, deadline=None)
def test_entities_may_leave_the_frame(x, y, size):
    "An entity partly outside the frame equals a crop of a larger image."
    got = opacity(tracks((3,), x=x, y=y, size=size), 32)
    large = opacity(tracks((3,), x=(x + 2)/5, y=(y + 2)/5, size=size/5), 160)
    if 1.3*size*32 > 1: assert np.allclose(got, large[64:96, 64:96], atol=.15)


def test_depth_decides_and_ties_go_to_the_later():
    near = lambda depth: render_center(tracks((1, 1), color=[0, 5], depth=depth))
    assert near([0, 1])[2] > 200 and near([1, 0])[0] > 200 and near([3, 3])[2] > 200


def render_center(t): return r.render(t)[0, 36, 32].astype(int)


def test_invisible_draws_nothing():
    assert np.array_equal(r.render(tracks(alpha=0.))[0], r.scene_image(BACK))
    half, full, none = (r.render(tracks(alpha=a))[0].astype(int) for a in (.5, 1., 0.))
    assert abs(half - (full + none)/2).max() <= 1


def test_attributes_change_in_time():
    t = tracks(n=2, color=np.array([[0, 5]]), material=np.array([[0, 3]]))
    first, second = r.render(t)
    assert np.array_equal(first, r.render(tracks(color=0))[0])
    assert np.array_equal(second, r.render(tracks(color=5, material=3))[0])


@pytest.mark.parametrize("shape", range(8))
@pytest.mark.parametrize("material", range(4))
def test_turning_shows(shape, material):
    "An eighth of a turn changes every shape in every material, even at the small size."
    before, after = (tracks((shape,), material=material, size=SIZES["small"], angle=a) for a in (0, .785))
    assert abs(r.render(before)[0].astype(int) - r.render(after)[0]).sum() > 1500


@pytest.mark.parametrize("shape", range(8))
@pytest.mark.parametrize("size", SIZES.values())
def test_materials_differ(shape, size):
    look = [r.render(tracks((shape,), material=m, size=size))[0].astype(int) for m in range(4)]
    assert min(abs(look[a] - look[b]).sum() for a in range(4) for b in range(a)) > 1500


def test_scenes_differ_and_are_muted():
    images = np.stack([r.scene_image(s) for s in r.SCENES]).astype(float)
    gaps = [abs(images[a] - images[b]).mean() for a in range(len(images)) for b in range(a)]
    assert min(gaps) > 8 and min(abs(images[a] - images[b]).mean() for a in range(14) for b in range(a)) > 15
    saturation = (images.max(-1) - images.min(-1)).max()
    assert saturation < min(np.ptp(c) for c in r.RGB.values())
    assert r.scene_image("zoo", 96).shape == (96, 96, 3)


def test_tracks_are_checked():
    with pytest.raises(VidnegError, match="Tracks.depth"): tracks(depth=[0, 1])
    with pytest.raises(VidnegError, match="no place 'moon'"): r.SCENE["moon"]


@pytest.mark.parametrize("color", range(8))
def test_color_survives_the_codec(tmp_path, color):
    for size in SIZES.values():
        frames = r.render(tracks(color=color, n=24, size=size))
        back = read_frames(r.encode_mp4(frames, tmp_path/"c.mp4", 8))
        assert back.shape == frames.shape
        seen = back[:, 33:36, 30:34].reshape(-1, 3).mean(0)
        palette = np.array([*r.RGB.values()], float)
        assert np.linalg.norm(palette - seen, axis=1).argmin() == color
        assert abs(seen - palette[color]).max() < 45
        assert abs(back.astype(int) - frames).mean() < 3


@pytest.mark.parametrize("frames", [np.zeros((0, 64, 64, 3), np.uint8), np.zeros((2, 63, 64, 3), np.uint8),
                                    np.zeros((2, 64, 64, 3)), np.zeros((2, 64, 64), np.uint8)])
def test_encode_refuses(tmp_path, frames):
    with pytest.raises(VidnegError, match="wanted uint8"): r.encode_mp4(frames, tmp_path/"x.mp4", 8)
    assert not list(tmp_path.iterdir())


def digests(paths): return [hashlib.sha256(p.read_bytes()).hexdigest() for p in paths]


def test_same_bytes_on_any_number_of_processes(tmp_path):
    jobs = lambda name, make: [(tmp_path/f"{name}{i}.mp4", make(i)) for i in range(12)]
    made = [digests(r.render_clips(jobs(w, lambda i: partial(busy, i)), workers=w, desc="")) for w in (1, 2)]
    again = digests(r.render_clips(jobs("again", busy), desc=""))
    assert made[0] == made[1] == again and len(set(again)) == 12
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def root(x):
    if x < 0: raise VidnegError(f"{x} is negative")
    return x**.5


def test_in_the_background():
    later = in_background(root, 9)
    assert in_background(root, 16).result() == 4 and later.result() == 3
    with pytest.raises(VidnegError, match="-1 is negative"): in_background(root, -1).result()


@pytest.mark.parametrize("threads", [False, True])
def test_parallel_map(threads):
    assert parallel_map(root, range(40), 2, threads=threads, chunk=3) == [root(i) for i in range(40)]
    assert parallel_map(root, [], 2) == []
    if threads:
        with pytest.raises(VidnegError, match="-1 is negative"): parallel_map(root, [1, -1, 4, 9], 2, threads=True)
