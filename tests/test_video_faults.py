"Damaged videos give frames or one clear error each, alone and in a dataset; more of them in `faults/video.py`."
import os
from pathlib import Path

import pytest
from faults.video import FAULTS, damage, run, table
from test_video import ramp, real, write

REAL = os.environ.get("VIDNEG_REAL_DATA", "")


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path/"videos"
    folder.mkdir()
    for i, name in enumerate(("a.mp4", "b.mkv", "c.avi", "d.ts")):
        write(folder/name, ramp(60, 96, 128, seed=i), codec="mpeg4" if name == "c.avi" else "libx264")
    return sorted(folder.iterdir())


def check(outcomes, bad):
    assert not [o for o in outcomes if o[2] not in ("read", "refused")]
    for _, path, word, message in outcomes: assert word == "read" or str(path) in message and "\n" not in message
    assert sorted(i for i, _ in bad) == sorted(path.name for _, path, word, _ in outcomes if word == "refused")
    assert all(cause and "\n" not in cause for _, cause in bad)


def test_damaged_videos_are_read_or_refused(videos):
    outcomes, bad = run(videos, 30, limit=60)
    check(outcomes, bad)
    assert 0 < len(bad) < 30 and table(outcomes).count("\n") == len(FAULTS) + 1


def test_damage_depends_on_the_seed_alone(videos, tmp_path):
    made = []
    for name, seed in (("x", 1), ("y", 1), ("z", 2)):
        (tmp_path/name).mkdir()
        made.append([(fault, path.name, path.read_bytes()) for fault, path in damage(videos, tmp_path/name, 10, seed)])
    assert made[0] == made[1] != made[2]


@pytest.mark.slow
@real
def test_damaged_real_videos_are_read_or_refused():
    check(*run([p for p in Path(REAL, "clips").iterdir() if p.suffix in (".mp4", ".mkv", ".avi")], 60, limit=120))
