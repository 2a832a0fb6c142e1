"Batches made ahead of the training step, in another thread."
import dataclasses
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from vidneg.data.batches import Batches
from vidneg.train.loop import TrainConfig, ahead, fit
from vidneg.train.tasks import Task


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(), max_size=20))
def test_ahead_equals_map(items):
    assert list(ahead(lambda x: [x], items)) == [[x] for x in items]


def test_one_ahead_and_no_further():
    made = []
    coming = ahead(lambda k: made.append(k) or k, range(100))
    assert made == [] # nothing is made before the first request
    for k in range(5):
        assert next(coming) == k and len(made) in (k + 1, k + 2)
    coming.close()
    assert made == list(range(6))


def test_the_next_is_made_while_the_last_is_in_use():
    begun = [threading.Event() for _ in range(4)]
    def make(k):
        begun[k].set()
        return k
    for k in ahead(make, range(4)):
        assert k == 3 or begun[k + 1].wait(20) # although it was not requested


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_is_raised_where_its_item_is_due(error):
    def make(k):
        if k == 2: raise error("item 2")
        return k
    coming = ahead(make, range(9))
    assert [next(coming), next(coming)] == [0, 1]
    with pytest.raises(error, match="item 2"): next(coming)
    with pytest.raises(StopIteration): next(coming)


class Square(Task):
    def __init__(self):
        super().__init__(nn.Linear(3, 1))
        with torch.no_grad():
            for p in self.model.parameters(): p.fill_(.1)
        self.model.save, self.threads, self.fail_at, self.seen = lambda folder: None, [], None, []

    def forward(self, batch):
        self.threads.append(threading.current_thread())
        self.seen.append(batch["clip"].tolist())
        if len(self.seen) - 1 == self.fail_at: raise RuntimeError("the model fails")
        return {"square": (self.model(batch["features"])[:, 0] - 1)**2}


class Watched(Batches):
    def __init__(self, n=12, **settings):
        super().__init__(np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32), [[[1, 2]]]*n, **settings)
        self.asked, self.threads = [], []

    def batch(self, epoch, index):
        self.asked.append((epoch, index))
        self.threads.append(threading.current_thread())
        return super().batch(epoch, index)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_batches_are_made_once_in_order_in_another_thread(accumulate, tmp_path):
    task, batches, plain = Square(), Watched(batch_size=2), Watched(batch_size=2)
    config = TrainConfig(epochs=3, accumulate=accumulate, device="cpu", prefetch=True)
    fit(task, batches, config, tmp_path, progress=False)
    want = [(e, i) for e in range(3) for i in range(6)]
    assert batches.asked == want # each once, none beyond the last
    assert task.seen == [plain.batch(*w)["clip"].tolist() for w in want]
    assert set(task.threads) == {threading.main_thread()} and threading.main_thread() not in batches.threads
    assert len(set(batches.threads)) == 1 and not batches.threads[0].is_alive() # the thread has ended


def test_leftover_batches_of_an_epoch_are_not_used(tmp_path):
    batches = Watched(n=14, batch_size=2) # 7 batches make 3 steps of 2
    fit(Square(), batches, TrainConfig(epochs=2, accumulate=2, device="cpu", prefetch=True), tmp_path, progress=False)
    assert batches.asked == [(e, i) for e in range(2) for i in range(6)]


def test_a_failing_step_leaves_no_thread_behind(tmp_path):
    task, batches = Square(), Watched(batch_size=2)
    task.fail_at = 2
    with pytest.raises(RuntimeError, match="the model fails"):
        fit(task, batches, TrainConfig(epochs=3, device="cpu", prefetch=True), tmp_path, progress=False)
    assert not batches.threads[0].is_alive() and batches.asked == [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_resuming_begins_with_the_batch_of_its_step(tmp_path):
    class Stopped(Watched):
        def batch(self, epoch, index):
            if (epoch, index) == (1, 1): raise KeyboardInterrupt
            return super().batch(epoch, index)
    config = TrainConfig(epochs=2, checkpoint_every=4, device="cpu", learning_rate=.01, prefetch=True)
    with pytest.raises(KeyboardInterrupt): fit(Square(), Stopped(batch_size=2), config, tmp_path, progress=False)
    (task, batches), (whole, every) = ((Square(), Watched(batch_size=2)) for _ in range(2))
    fit(task, batches, config, tmp_path, progress=False)
    assert batches.asked == [(0, 4), (0, 5), *((1, i) for i in range(6))]
    fit(whole, every, dataclasses.replace(config, prefetch=False), tmp_path/"whole", progress=False)
    assert all(torch.equal(a, b) for a, b in zip(task.parameters(), whole.parameters()))


def test_without_a_gpu_prefetching_is_off_by_default(tmp_path):
    batches = Watched(batch_size=2)
    fit(Square(), batches, TrainConfig(epochs=1, device="cpu"), tmp_path, progress=False)
    assert set(batches.threads) == {threading.main_thread()} and batches.asked == [(0, i) for i in range(6)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory wants a GPU")
def test_on_a_gpu_the_batches_are_pinned(tmp_path):
    from vidneg.train.loop import Run
    run = Run(Square(), Watched(batch_size=2), TrainConfig(epochs=1), tmp_path, tmp_path/"checkpoint.safetensors")
    batch, size = run.prepare(0)
    assert size == 2 and all(v.is_pinned() for v in batch.values())
