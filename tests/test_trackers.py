"Logs of trackers: every step once, also after kills; the same weights with and without them."
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from test_train import ALL, CONFIG, Stops, files, make_batches, make_data, make_task
from typer.testing import CliRunner

from vidneg.cli import app
from vidneg.data.batches import Batches
from vidneg.train.jobs import TrainingError
from vidneg.train.loop import TrainConfig, fit
from vidneg.train.trackers import LogFolder, check_trackers, track

HERE = str(Path(__file__).parent)


class Lines(GeneralTracker):
    "A tracker that appends JSON lines, and draws from all global generators."
    name, requires_logging_directory, tracker = "lines", False, None
    def __init__(self, path):
        super().__init__()
        self.path = str(path)

    def _write(self, row):
        random.random(), np.random.random(), torch.rand(1)
        with open(self.path, "a") as f: f.write(json.dumps(row) + "\n")

    def store_init_configuration(self, values): self._write(values)
    def log(self, values, step=None, **kwargs): self._write({"step": step} | values)


def rows(path): return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "Files of a training without trackers, and the rows of one with a tracker."
    plain, tracked = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("tracked")
    fit(make_task(), make_batches(), CONFIG, plain, progress=False)
    fit(make_task(), make_batches(), CONFIG, tracked, progress=False, trackers=[Lines(tracked/"lines")])
    return files(plain), rows(tracked/"lines")


def test_trackers_change_no_result_and_receive_every_step(whole, tmp_path):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    fit(make_task(), make_batches(), CONFIG, tmp_path/"m", progress=False, trackers=[Lines(tmp_path/"x")],
        logs=tmp_path/"logs")
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    plain, first = whole
    assert files(tmp_path/"m") == plain and rows(tmp_path/"x") == first
    settings, *steps = first
    assert settings["learning_rate"] == 0.01 and settings["betas"] == "(0.9, 0.98)" and "vtc" in settings["losses"]
    assert [r["step"] for r in steps] == [*range(1, 13)]
    assert all({"loss", "gradient", "learning_rate", *ALL} <= set(r) for r in steps)
    assert [r["step"] for r in steps if "epoch/loss" in r] == [4, 8, 12]
    assert steps[3]["epoch/loss"] == pytest.approx(np.mean([r["loss"] for r in steps[:4]]), rel=1e-4)


@pytest.mark.parametrize("stop", [1, 2, 5, 11])
def test_a_stopped_run_goes_on_in_its_log(stop, whole, tmp_path):
    for at in (stop, None):
        batches = Stops(*make_data(), batch_size=5, negatives_per_clip=2, seed=3)
        batches.stop = at
        def run(): fit(make_task(), batches, CONFIG, tmp_path/"m", progress=False, trackers=[Lines(tmp_path/"x")])
        if at is None: run()
        else:
            with pytest.raises(KeyboardInterrupt): run()
    assert rows(tmp_path/"x") == whole[1] and [p.name for p in (tmp_path/"m"/"logs").iterdir()] == ["1"]


def slow_run(folder):
    class Slow(Batches):
        def batch(self, epoch, index):
            time.sleep(0.05)
            return super().batch(epoch, index)
    fit(make_task(), Slow(*make_data(), batch_size=5, negatives_per_clip=2, seed=3), CONFIG, Path(folder)/"m",
        progress=False, trackers=[Lines(Path(folder)/"x")])


@pytest.mark.slow
def test_killed_runs_log_no_step_twice(whole, tmp_path):
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_trackers; test_trackers.slow_run(sys.argv[2])"
    for kill in range(3):
        process = subprocess.Popen([sys.executable, "-c", code, HERE, str(tmp_path)])
        wanted, limit = 2 + 3*kill, time.time() + 120
        while process.poll() is None and time.time() < limit and not (
                (tmp_path/"x").exists() and len((tmp_path/"x").read_bytes().splitlines()) > wanted): time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    fit(make_task(), make_batches(), CONFIG, tmp_path/"m", progress=False, trackers=[Lines(tmp_path/"x")])
    settings, *want = whole[1]
    first, *found = rows(tmp_path/"x")
    steps = [r["step"] for r in found]
    assert first == settings and steps == sorted(set(steps)) and len(steps) >= 9 # a kill may cost the step it hits
    assert all(r == want[r["step"] - 1] for r in found) and (tmp_path/"m"/"model.safetensors").exists()


def test_a_new_run_gets_a_new_log(tmp_path):
    for config in (CONFIG, CONFIG, TrainConfig(epochs=1)): # the second repeats a run that ended
        fit(make_task(), make_batches(), config, tmp_path/"m", progress=False, trackers=[Lines(tmp_path/"x")])
    assert sorted(p.name for p in (tmp_path/"m"/"logs").iterdir()) == ["1", "2", "3"]
    assert [r.get("step") for r in rows(tmp_path/"x")] == [None, *range(1, 13)]*2 + [None, *range(1, 5)]
    (tmp_path/"m"/"logs"/"4").mkdir()
    (tmp_path/"m"/"logs"/"4"/"run.json").write_text("{half")
    folder = LogFolder(tmp_path/"m"/"logs", "a"*16)
    assert folder.path.name == "5" and not folder.resumed


def test_two_processes_log_each_step_once(tmp_path):
    config = TrainConfig(epochs=1, processes=2)
    out = fit(make_task(), make_batches(batch_size=6), config, tmp_path/"m", progress=False,
              trackers=[Lines(tmp_path/"x")])
    assert [r["step"] for r in rows(tmp_path/"x")[1:]] == [*range(1, out["steps"] + 1)]


class Broken(Lines):
    def log(self, values, step=None, **kwargs):
        if step == 3: raise OSError(28, "No space left on device")
        super().log(values, step)

    def finish(self): raise AssertionError("a dropped tracker is left alone")


def test_a_tracker_that_fails_costs_its_log_only(whole, tmp_path):
    with pytest.warns(UserWarning, match="tracker lines failed to log step 3 .*No space left.*goes on without it"):
        fit(make_task(), make_batches(), CONFIG, tmp_path/"m", progress=False,
            trackers=[Broken(tmp_path/"x"), Lines(tmp_path/"y")], logs=tmp_path/"logs")
    assert files(tmp_path/"m") == whole[0] and rows(tmp_path/"y") == whole[1] and len(rows(tmp_path/"x")) == 3


def test_a_tracker_that_does_not_start_is_named(tmp_path):
    class Refuses(Lines):
        def start(self): raise ConnectionError("no route to host")
    with pytest.raises(TrainingError, match="tracker lines does not start .ConnectionError: no route to host"):
        fit(make_task(), make_batches(), CONFIG, tmp_path/"m", progress=False, trackers=[Refuses(tmp_path/"x")])
    assert not (tmp_path/"m"/"model.safetensors").exists()


def test_unknown_and_missing_trackers_are_refused_at_once(tmp_path, monkeypatch):
    with pytest.raises(TrainingError, match="no tracker 'clearml'; there are: tensorboard, wandb, mlflow, trackio"):
        fit(make_task(), make_batches(), CONFIG, tmp_path/"m", trackers=["clearml"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, install in {"tensorboard": "'vidneg.trackers.'", "wandb": "'wandb'"}.items():
        with pytest.raises(TrainingError, match=f"{name} is not installed: `pip install {install}` installs it"):
            fit(make_task(), make_batches(), CONFIG, tmp_path/"m", trackers=name)
    assert not (tmp_path/"m").exists() and check_trackers(()) == ()


def test_the_command_line_names_a_missing_tracker(tmp_path):
    found = CliRunner().invoke(app, ["train", "--data", HERE, "--out", str(tmp_path/"m"), "--tracker", "no"])
    assert found.exit_code and not (tmp_path/"m"/"model.safetensors").exists()
    assert "--tracker" in CliRunner().invoke(app, ["train", "--help"]).output


# The real ones, where they are installed

def tracked(name, folder, steps=(3, 6)):
    "Log with a tracker that is stopped and resumed; return the folder of its logs."
    for resumed, upto in enumerate(steps):
        with track(Accelerator(cpu=True), [name], folder, "f"*16, {"epochs": 2, "name": None}) as log:
            for i in range(1 + resumed, upto + 1): log({"loss": 1/i, "epoch/loss": float(i)}, i)
            if not resumed: log.folder.close = lambda ended: None # as a kill would leave it
    return Path(folder)/"1"


WANT = [(i, 1/i) for i in range(1, 7)]


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    found = EventAccumulator(str(tracked("tensorboard", tmp_path)/"tensorboard"))
    found.Reload()
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(i, np.float32(x)) for i, x in WANT]


def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tracked("mlflow", tmp_path)
    assert "MLFLOW_TRACKING_URI" not in os.environ
    client = mlflow.MlflowClient(f"sqlite:///{folder/'mlflow.db'}")
    run, = client.search_runs([client.get_experiment_by_name("vidneg").experiment_id])
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")] == WANT
    assert run.data.params == {"epochs": "2", "name": "None"} and run.info.status == "FINISHED"


def test_trackio(tmp_path):
    pytest.importorskip("trackio")
    code = ("import sys; sys.path.insert(0, sys.argv[1]); import test_trackers; "
            "test_trackers.tracked('trackio', sys.argv[2])")
    environment = {k: v for k, v in os.environ.items() if k != "TRACKIO_DIR"}
    subprocess.run([sys.executable, "-c", code, HERE, str(tmp_path)], check=True, timeout=120, env=environment)
    database, = (tmp_path/"1"/"trackio").glob("*.db")
    with sqlite3.connect(database) as db:
        found = [(step, json.loads(metrics)["loss"]) for step, metrics in db.execute(
            "select step, metrics from metrics order by id")]
    assert found == WANT


def test_wandb(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for k in ("WANDB_MODE", "WANDB_DIR"): monkeypatch.delenv(k, raising=False)
    folder = tracked("wandb", tmp_path)
    runs = sorted((folder/"wandb").glob("offline-run-*"))
    assert len(runs) >= 1 and all(r.name.endswith("-1-ffffffff") for r in runs) # one run, to be sent with --append
