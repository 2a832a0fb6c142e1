"Batches, tasks, the training loop, resuming, and several processes."
import dataclasses
import io
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file
from shares import share_of
from torch import nn
from tqdm import tqdm

from vidneg.core import parallel
from vidneg.core.errors import VidnegError
from vidneg.core.records import Caption, Negative
from vidneg.core.seeds import stable_rng, stable_seed
from vidneg.data.batches import Batches, OrderedBatches, Texts, batches_of
from vidneg.losses.contrastive import neg_vtc, vtc
from vidneg.losses.matching import hard_negatives, mask_tokens, neg_vtm, vtm
from vidneg.losses.registry import LOSSES
from vidneg.losses.tensors import wants
from vidneg.models.base import DualEncoder
from vidneg.models.scorer import Widths
from vidneg.train.contrastive import ContrastiveTask
from vidneg.train.jobs import TrainingError, train_many, train_together
from vidneg.train.loop import TrainConfig, fit, learning_rate, parameter_groups
from vidneg.train.tasks import Task, gather, own_rows

D, VOCAB = 8, 30


class Stub(DualEncoder):
    "A small model with the interface of NAVERO, with dropout and a tied embedding table."
    supports = frozenset({"similarity", "match", "mlm"})
    widths = Widths(D, D)
    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.video, self.words, self.head = nn.Linear(D, D), nn.Embedding(VOCAB, D), nn.Linear(D, 2)
            self.decoder = nn.Linear(D, VOCAB, bias=False)
        self.decoder.weight, self.drop = self.words.weight, nn.Dropout(0.1)
        self._t = nn.Parameter(torch.tensor(0.1))
        self.calls = []

    temperature = property(lambda self: self._t.clamp(0.01, 1))

    def encode_video(self, features):
        self.calls.append(("video", len(features)))
        tokens = self.drop(self.video(features.flatten(1, 2)))
        return tokens, nn.functional.normalize(tokens.mean(1), dim=-1)

    def encode_text(self, ids, mask):
        self.calls.append(("text", len(ids)))
        hidden = self.words(ids) * mask[..., None]
        return hidden, nn.functional.normalize(hidden.sum(1) + 1e-3, dim=-1)

    def fuse(self, tokens, hidden, mask, rows=None, first_only=False):
        self.calls.append(("fuse", hidden.shape[1]))
        seen = (tokens if rows is None else tokens[rows]).mean(1)[:, None, None]
        fused = (hidden * mask[..., None]).cumsum(2).flip(2) * seen
        return fused[:, :, :1] if first_only else fused

    def match_logits(self, fused): return self.head(fused[..., 0, :])
    def mlm_logits(self, fused): return self.decoder(fused)

    def save(self, folder): save_file({k: v for k, v in self.state_dict().items() if k != "decoder.weight"},
                                      Path(folder)/"model.safetensors")


class StubTask(ContrastiveTask):
    def save(self, folder): self.model.save(folder)


ALL = ("vtc", "vtm", "neg_vtc", "neg_vtm", "mlm")


def make_task(losses=ALL, **kwargs):
    return StubTask(Stub(), losses, mask=dict(mask_id=3, vocab_size=VOCAB, first_word=4, p=0.3), **kwargs)


def make_data(n=22, seed=0):
    rng = np.random.default_rng(seed)
    text = lambda: [1, *rng.integers(4, VOCAB, rng.integers(1, 6)).tolist(), 2]
    captions = [[text() for _ in range(rng.integers(1, 4))] for _ in range(n)]
    negatives = [[[text() for _ in range(rng.integers(0, 5))] for _ in clip] for clip in captions]
    return rng.normal(size=(n, 2, 3, D)).astype(np.float16), captions, negatives


def make_batches(**kwargs):
    return Batches(*make_data(), **{"batch_size": 5, "negatives_per_clip": 2, "seed": 3} | kwargs)


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


# Batches

@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(0, 4), st.integers(0, 5), st.booleans(), st.booleans(), st.integers(1, 5))
def test_batches_hold_the_given_data(size, k, epoch, shuffle, drop_last, round_to):
    features, captions, negatives = make_data()
    b = Batches(features, captions, negatives, batch_size=size, negatives_per_clip=k, shuffle=shuffle,
                drop_last=drop_last, round_to=round_to)
    seen = []
    for batch in b.epoch(epoch):
        length = batch["input_ids"].shape[1]
        assert length % round_to == 0
        longest = 0
        for i, clip in enumerate(batch["clip"].tolist()):
            seen.append(clip)
            words = batch["input_ids"][i][batch["attention_mask"][i].bool()].tolist()
            longest = max(longest, len(words))
            assert words in captions[clip] and not batch["input_ids"][i][len(words):].any()
            assert np.array_equal(batch["features"][i], features[clip])
            if not k: continue
            some = [r[m.bool()].tolist() for r, m in zip(batch["neg_ids"][i], batch["neg_attention_mask"][i])]
            longest = max(longest, *map(len, some))
            exist = batch["neg_mask"][i].tolist()
            available = [n for c, n in zip(captions[clip], negatives[clip]) if c == words][0]
            assert sum(exist) == min(k, len(available))
            assert all(t in available if e else t == words for t, e in zip(some, exist))
        assert length - longest < round_to
    assert len(seen) == len(set(seen)) == (len(features) // size * size if drop_last else len(features))
    assert shuffle or seen == sorted(seen)


def test_batches_are_pure_functions_of_seed_epoch_and_number():
    a, b = make_batches(), make_batches()
    in_order = [x for e in range(3) for x in a.epoch(e)]
    backwards = [b.batch(e, i) for e in (2, 1, 0) for i in reversed(range(len(b)))][::-1]
    assert all(same(x, y) for x, y in zip(in_order, backwards)) and len(in_order) == len(backwards) == 12
    assert all(same(x, y) for x, y in zip(a.epoch(1, start=2), in_order[6:8]))
    assert not same(a.batch(0, 0), a.batch(1, 0)) and not same(a.batch(0, 0), make_batches(seed=4).batch(0, 0))


def test_order_does_not_depend_on_negatives():
    a, b = make_batches(), make_batches(negatives_per_clip=4)
    plain = Batches(*make_data()[:2], batch_size=5, seed=3)
    for i in range(len(a)):
        x, y, z = (t.batch(1, i) for t in (a, b, plain))
        assert torch.equal(x["clip"], y["clip"]) and torch.equal(x["clip"], z["clip"])
        width = min(t["input_ids"].shape[1] for t in (x, y, z))
        assert torch.equal(x["input_ids"][:, :width], y["input_ids"][:, :width])
        assert torch.equal(x["input_ids"][:, :width], z["input_ids"][:, :width]) and "neg_ids" not in z


def test_captions_and_negatives_change_with_the_epoch():
    features, _, _ = make_data(1)
    negatives = [[[[1, i, 2] for i in range(10, 20)]] * 2]
    b = Batches(features, [[[1, 5, 2], [1, 6, 2]]], negatives, batch_size=1, negatives_per_clip=3)
    shown = [b.batch(e, 0) for e in range(20)]
    assert {s["input_ids"][0, 1].item() for s in shown} == {5, 6}
    drawn = [tuple(s["neg_ids"][0, :, 1].tolist()) for s in shown]
    assert len(set(drawn)) > 15 and all(len(set(d)) == 3 for d in drawn)


def test_memory_maps_are_pickled_by_path(tmp_path):
    features, captions, negatives = make_data()
    np.save(tmp_path/"features.npy", features)
    b = Batches(np.load(tmp_path/"features.npy", mmap_mode="r"), captions, negatives, batch_size=5)
    data = pickle.dumps(b)
    c = pickle.loads(data)
    assert isinstance(c.features, np.memmap) and features.tobytes() not in data
    assert same(b.batch(0, 1), c.batch(0, 1)) and b.fingerprint() == c.fingerprint()


def test_fingerprint_depends_on_data_and_settings():
    features, captions, negatives = make_data()
    data = features, captions, negatives
    prints = [Batches(*x, batch_size=5, **k).fingerprint() for x, k in [
        (data, {}), ((features + 1, captions, negatives), {}), ((features, captions, None), {}), (data, {"seed": 1}),
        (data, {"negatives_per_clip": 2})]]
    assert len(set(prints)) == 5 and prints[0] == Batches(*make_data(), batch_size=5).fingerprint()


def test_records_become_batches():
    features, calls = make_data(3)[0], []
    def tokenize(texts):
        calls.append(texts)
        return [[1, *(ord(c) for c in t), 2] for t in texts]
    captions = [Caption("c", "v2", "cab"), Caption("a", "v0", "ab"), Caption("a2", "v0", "cab")]
    negatives = [Negative("c", "abc", "k", "g", (), 1, 0), Negative("elsewhere", "zzz", "k", "g", (), 1, 0)]
    b = batches_of(features, ["v0", "v1", "v2"], captions, negatives, tokenize, batch_size=2, shuffle=False)
    batch = b.batch(0, 0)
    assert calls == [["cab", "ab", "abc"]] and batch["clip"].tolist() == [0, 2]
    assert batch["neg_mask"].tolist() == [[False], [True]] and batch["neg_ids"][1, 0, :5].tolist() == [1, 97, 98, 99, 2]
    stray = [Caption("x", "v9", "a")]
    with pytest.raises(VidnegError, match="v9"): batches_of(features, ["v0", "v1", "v2"], stray, None, tokenize)


def test_invalid_data_is_refused():
    features, captions, negatives = make_data()
    with pytest.raises(VidnegError, match="one to one"): Batches(features[:-1], captions, negatives)
    with pytest.raises(VidnegError, match="one to one"): Batches(features, captions, negatives[:-1])
    with pytest.raises(VidnegError, match="smaller batch_size"): Batches(features, captions, negatives, batch_size=100)
    with pytest.raises(VidnegError, match="no tokens"): Texts([[1], []])


# Tasks

def test_terms_equal_the_losses_of_the_models_outputs():
    task, batch = make_task().eval(), make_batches().batch(0, 0) | {"seed": 7}
    terms, m = task(batch), task.model
    tokens, v = m.encode_video(batch["features"].float())
    hidden, t = m.encode_text(batch["input_ids"], batch["attention_mask"])
    flat = batch["neg_ids"].flatten(0, 1), batch["neg_attention_mask"].flatten(0, 1)
    neg_hidden, neg = (x.unflatten(0, batch["neg_ids"].shape[:2]) for x in m.encode_text(*flat))
    s, mask = v @ t.T, batch["attention_mask"][:, None]
    assert torch.allclose(terms["vtc"], vtc(s, m.temperature)["vtc"])
    want = neg_vtc(s.diagonal(), (v[:, None] * neg).sum(-1), batch["neg_mask"], m.temperature)
    assert torch.allclose(terms["neg_vtc"], want["neg_vtc"], atol=1e-6)
    logits = m.match_logits(m.fuse(tokens, neg_hidden, batch["neg_attention_mask"]))
    assert torch.allclose(terms["neg_vtm"], neg_vtm(logits, batch["neg_mask"])["neg_vtm"], atol=1e-6)
    g = torch.Generator().manual_seed(7)
    mask_tokens(batch["input_ids"], batch["input_ids"] < 4, g, 3, VOCAB, first_word=4) # MLM draws first
    texts, videos = hard_negatives(s, m.temperature, g)
    pairs = [(tokens, hidden, mask), (tokens, hidden[texts], mask[texts]), (tokens[videos], hidden, mask)]
    logits = torch.stack([m.match_logits(m.fuse(x, h.view(5, 1, *h.shape[1:]), a))[:, 0] for x, h, a in pairs], 1)
    assert torch.allclose(terms["vtm"], vtm(logits, torch.tensor([[1, 0, 0]] * 5))["vtm"], atol=1e-6)
    assert all(x.shape == (5,) for x in terms.values()) and terms["mlm"].max() > 0


@pytest.mark.parametrize("losses, want", [
    (("vtc",), [("video", 5), ("text", 5)]),
    (("vtc", "vtm"), [("video", 5), ("text", 5), ("fuse", 2), ("fuse", 1)]),
    (("vtc", "neg_vtc"), [("video", 5), ("text", 15)]),
    (("vtc", "vtm", "neg_vtm"), [("video", 5), ("text", 15), ("fuse", 4), ("fuse", 1)]),
    (("neg_vtm",), [("video", 5), ("text", 15), ("fuse", 2)]),
    (("vtc", "vtm", "mlm"), [("video", 5), ("text", 10), ("fuse", 3), ("fuse", 1)]),
])
def test_only_tensors_of_the_losses_are_computed_and_only_once(losses, want):
    task = make_task(losses)
    terms = task(make_batches().batch(0, 0))
    assert task.model.calls == want and tuple(terms) == losses
    one = make_task(losses, vtm_directions=1)
    one(make_batches().batch(0, 0))
    assert one.model.calls == [c for c in want if c != ("fuse", 1)]


def test_true_pairs_off_the_diagonal_are_no_negatives():
    features = make_data(3)[0]
    b = Batches(features, [[[1, 5, 2]], [[1, 5, 2]], [[1, 6, 2]]], batch_size=3, shuffle=False)
    task = make_task(("vtc", "vtm")).eval()
    batch = b.batch(0, 0)
    batch["clip"] = torch.tensor([0, 1, 1])
    _, v = task.model.encode_video(batch["features"].float())
    _, t = task.model.encode_text(batch["input_ids"], batch["attention_mask"])
    true = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1]]).bool()
    assert torch.allclose(task(batch)["vtc"], vtc(v @ t.T, 0.1, true)["vtc"])


def test_a_batch_of_one_has_no_in_batch_negatives():
    b = Batches(*make_data(1), batch_size=1)
    terms = make_task()(b.batch(0, 0))
    assert terms["vtc"] == 0 and all(x.isfinite().all() for x in terms.values())


def test_a_new_loss_is_one_function():
    @wants("pos", "neg", "neg_mask")
    def margin(pos, neg, neg_mask, margin=0.2):
        return {"margin": (neg - pos[:, None] + margin).clamp(min=0).masked_fill(~neg_mask, 0).sum(1)}
    LOSSES["margin for a test"] = margin
    try:
        task = make_task(("vtc", "margin for a test"), options={"margin for a test": {"margin": 9}})
        assert task(make_batches().batch(0, 0))["margin"].shape == (5,)
    finally: del LOSSES["margin for a test"]


def test_invalid_tasks_are_refused():
    with pytest.raises(VidnegError, match="neg_vtm"): make_task(("vtc",), weights={"neg_vtm": 1.0})
    with pytest.raises(VidnegError, match="nothing"): make_task(("nothing",))
    with pytest.raises(VidnegError, match="mask_id"): ContrastiveTask(Stub(), ("mlm",))
    plain = Batches(*make_data()[:2], batch_size=5)
    with pytest.raises(VidnegError, match="need negatives"): make_task()(plain.batch(0, 0))


# Optimization

@settings(max_examples=50, deadline=None)
@given(st.integers(1, 500), st.floats(0, 1))
def test_learning_rate(total, warmup):
    config = TrainConfig(learning_rate=2.0, warmup=warmup)
    rates = [learning_rate(s, total, config) for s in range(total)]
    rise = max(1, round(warmup * total))
    assert 0 < min(rates) and max(rates) == rates[min(rise, total) - 1] == pytest.approx(2.0)
    assert rates[:rise] == sorted(rates[:rise]) and rates[rise:] == sorted(rates[rise:], reverse=True)


def test_decay_spares_norms_biases_tables_and_temperature():
    model = Stub()
    model.norm, model.position, model.frozen = nn.LayerNorm(D), nn.Parameter(torch.zeros(3, D)), nn.Linear(D, D)
    model.frozen.requires_grad_(False)
    decays, others = ({id(p) for p in g["params"]} for g in parameter_groups(model, 0.2))
    assert decays == {id(model.video.weight), id(model.head.weight)}
    spared = model.video.bias, model.words.weight, model.head.bias, model._t, *model.norm.parameters(), model.position
    assert others == {id(p) for p in spared}


def bare_loop(task, batches, config, steps):
    "Train by a bare loop, as an oracle for `fit`."
    optimizer = torch.optim.AdamW(parameter_groups(task, config.weight_decay), betas=config.betas, fused=True)
    for step in range(steps):
        torch.manual_seed(stable_seed(config.seed, "step", step, 0))
        epoch, i = divmod(step, len(batches))
        terms = task(batches.batch(epoch, i) | {"seed": stable_seed(config.seed, "task", step)})
        sum(task.weights.get(k, 1.0) * v.mean() for k, v in terms.items()).backward()
        nn.utils.clip_grad_norm_(task.parameters(), config.clip_norm)
        for group in optimizer.param_groups: group["lr"] = learning_rate(step, steps, config)
        optimizer.step()
        optimizer.zero_grad()


def test_fit_equals_the_bare_loop_bit_for_bit(tmp_path):
    config, weights = TrainConfig(epochs=2, learning_rate=1e-2), {"neg_vtm": 0.5}
    task, bare = make_task(weights=weights), make_task(weights=weights)
    out = fit(task, make_batches(), config, tmp_path, progress=False)
    bare_loop(bare, make_batches(), config, out["steps"])
    assert same(task.state_dict(), bare.state_dict()) and out["steps"] == 8
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.csv", "model.safetensors"]


def test_accumulation_sums_gradients_of_consecutive_batches(tmp_path):
    class Square(Task):
        def forward(self, batch): return {"square": (batch["x"] * self.model.weight.squeeze() - 1) ** 2}
    class Numbers:
        def __init__(self, size): self.size = size
        def __len__(self): return 12 // self.size
        def fingerprint(self): return str(self.size)
        def batch(self, epoch, index): return {"x": torch.linspace(0, 1, 12)[index * self.size:(index + 1) * self.size]}
    models = []
    for size, accumulate in ((6, 1), (2, 3)):
        model = nn.Linear(1, 1)
        nn.init.constant_(model.weight, 0.1)
        model.save = lambda folder: None
        config = TrainConfig(epochs=3, learning_rate=0.1, accumulate=accumulate)
        out = fit(Square(model), Numbers(size), config, tmp_path, progress=False)
        models.append(model.weight.item())
        assert out["steps"] == 6
    assert models[0] == pytest.approx(models[1], abs=1e-6) and models[0] != pytest.approx(0.1)


def test_accumulating_more_batches_than_exist_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="accumulate fewer"):
        fit(make_task(), make_batches(), TrainConfig(accumulate=9), tmp_path, progress=False)


def test_metrics_per_epoch(tmp_path):
    task, batches = make_task(), make_batches()
    val = lambda: {"r1": float(task.training), "steps_seen": 1.0}
    out = fit(task, batches, TrainConfig(epochs=3), tmp_path, val=val, progress=False)
    table = pd.read_csv(tmp_path/"metrics.csv")
    columns = ["epoch", "step", "learning_rate", "loss", *ALL, "gradient", "temperature", "r1", "steps_seen"]
    assert table.columns.tolist() == columns
    assert table.epoch.tolist() == [1, 2, 3] and table.step.tolist() == [4, 8, 12] and (table.r1 == 0).all()
    assert np.allclose(table.loss, table[list(ALL)].sum(axis=1), rtol=1e-4)
    assert table.to_dict("records") == out["history"]
    assert not task.training and 0 <= out["data_share"] <= 1


def test_steps_instead_of_epochs(tmp_path):
    out = fit(make_task(), make_batches(), TrainConfig(steps=6), tmp_path, progress=False)
    assert out["steps"] == 6 and [r["step"] for r in out["history"]] == [4, 6]


def test_global_state_is_restored(tmp_path):
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    fit(make_task(), make_batches(), TrainConfig(steps=2), tmp_path, progress=False)
    assert torch.equal(torch.get_rng_state(), state) and not torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("bad", ["neg_vtm", "gradient"])
def test_non_finite_values_stop_training_before_an_update(bad, tmp_path):
    class Bad(StubTask):
        count = 0
        def forward(self, batch):
            terms, self.count = super().forward(batch), self.count + 1
            if self.count == 3 and bad == "neg_vtm": terms["neg_vtm"] = terms["neg_vtm"] / 0
            if self.count == 3 and bad == "gradient": terms["vtc"] = terms["vtc"] + (self.model._t * 0).sqrt()
            return terms
    task = Bad(Stub(), ("vtc", "vtm", "neg_vtm"))
    with pytest.raises(TrainingError, match=f"step 2: {bad}"):
        fit(task, make_batches(), TrainConfig(), tmp_path, progress=False)
    assert all(p.isfinite().all() for p in task.parameters()) and not (tmp_path/"model.safetensors").exists()


# Resuming

class Stops(Batches):
    "Batches that raise an interrupt at one step."
    stop = None
    def batch(self, epoch, index):
        if epoch * len(self) + index == self.stop: raise KeyboardInterrupt
        return super().batch(epoch, index)


CONFIG = TrainConfig(epochs=3, learning_rate=1e-2, checkpoint_every=2)


def files(folder):
    return {p.name: p.read_bytes() for p in Path(folder).iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    fit(make_task(), make_batches(), CONFIG, folder, progress=False)
    return files(folder)


@pytest.mark.parametrize("stop", [1, 2, 5, 8, 11])
def test_stopped_and_resumed_runs_equal_whole_runs_bit_for_bit(stop, whole, tmp_path):
    for at in (stop, None):
        batches = Stops(*make_data(), batch_size=5, negatives_per_clip=2, seed=3)
        batches.stop = at
        run = lambda: fit(make_task(), batches, CONFIG, tmp_path, progress=False)
        if at is None: out = run()
        else:
            with pytest.raises(KeyboardInterrupt): run()
            assert (tmp_path/"checkpoint.safetensors").exists() == (stop > 1)
    assert files(tmp_path) == whole and out["steps"] == 12 - stop // 2 * 2


@pytest.mark.slow
def test_runs_killed_again_and_again_equal_whole_runs_bit_for_bit(whole, tmp_path):
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_train; test_train.slow_run(sys.argv[2])"
    rng, kills = stable_rng(0, "kills"), 0
    for _ in range(4): # at random moments after the start, also while a checkpoint is written
        process = subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)])
        limit, before = time.time() + 120, (tmp_path/"checkpoint.safetensors")
        seen = before.stat().st_mtime_ns if before.exists() else 0
        while time.time() < limit and process.poll() is None and not (
                before.exists() and before.stat().st_mtime_ns != seen): time.sleep(0.01)
        time.sleep(float(rng.uniform(0, 0.3)))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        (tmp_path/f".part-left{kills}").mkdir()
    out = fit(make_task(), make_batches(), CONFIG, tmp_path, progress=False)
    assert kills >= 2 and files(tmp_path) == whole and out["steps"] < 12


def slow_run(folder):
    class Slow(Batches):
        def batch(self, epoch, index):
            time.sleep(0.2)
            return super().batch(epoch, index)
    fit(make_task(), Slow(*make_data(), batch_size=5, negatives_per_clip=2, seed=3), CONFIG, folder, progress=False)


@pytest.mark.parametrize("change", ["settings", "data", "start"])
def test_a_checkpoint_of_another_run_is_not_continued(change, whole, tmp_path):
    batches = Stops(*make_data(), batch_size=5, negatives_per_clip=2, seed=4 if change == "data" else 3)
    batches.stop, config, task = 5, CONFIG, make_task()
    if change == "settings": config = TrainConfig(epochs=3, learning_rate=2e-2, checkpoint_every=2)
    if change == "start": task.model = Stub(seed=1)
    with pytest.raises(KeyboardInterrupt): fit(task, batches, config, tmp_path, progress=False)
    with pytest.warns(UserWarning, match="starting afresh"):
        fit(make_task(), make_batches(), CONFIG, tmp_path, progress=False)
    assert files(tmp_path) == whole


def test_checkpoint_elsewhere_and_no_resume(whole, tmp_path):
    batches = Stops(*make_data(), batch_size=5, negatives_per_clip=2, seed=3)
    batches.stop, kept = 5, tmp_path/"kept"/"run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(make_task(), batches, CONFIG, tmp_path/"out", checkpoint=kept, progress=False)
    assert kept.exists() and [*files(tmp_path/"out")] == ["metrics.csv"]
    out = fit(make_task(), make_batches(), CONFIG, tmp_path/"out", checkpoint=kept, resume=False, progress=False)
    assert out["steps"] == 12 and files(tmp_path/"out") == whole and not kept.exists()


def test_checkpoints_and_progress_change_nothing(whole, tmp_path):
    config = TrainConfig(epochs=3, learning_rate=1e-2, checkpoint_every=0)
    fit(make_task(), make_batches(), config, tmp_path, progress=True)
    assert files(tmp_path) == whole


# Nonsense is refused before anything runs

@pytest.mark.parametrize("settings, says", [
    ({"epochs": 0}, "above 0"), ({"epochs": -1}, "above 0"), ({"epochs": math.nan}, "above 0"),
    ({"epochs": "5"}, "text"),
    ({"epochs": float("inf")}, "above 0"), ({"epochs": True}, "above 0"), ({"epochs": None}, "above 0"),
    ({"steps": 0}, "at least 1"), ({"steps": -3}, "at least 1"), ({"steps": 2.5}, "whole number"),
    ({"learning_rate": "1e-4"}, "1.0e-4"), ({"learning_rate": 0}, "above 0"), ({"learning_rate": -1e-3}, "above 0"),
    ({"final_learning_rate": 1e-3}, "is above learning_rate"), ({"final_learning_rate": -1.0}, "from 0"),
    ({"weight_decay": -0.1}, "from 0"), ({"weight_decay": "0.1"}, "text"), ({"warmup": 1.5}, "from 0 to 1"),
    ({"warmup": -0.1}, "from 0 to 1"), ({"clip_norm": 0}, "above 0"), ({"clip_norm": -1}, "above 0"),
    ({"accumulate": 0}, "at least 1"), ({"accumulate": 1.0}, "whole number"), ({"processes": 0}, "at least 1"),
    ({"num_threads": 0}, "at least 1"), ({"checkpoint_every": -1}, "at least 0"), ({"seed": "0"}, "whole number"),
    ({"mixed_precision": "fp61"}, "no, bf16, fp16"), ({"mixed_precision": None}, "no, bf16"),
    ({"device": "x"}, "auto, cpu"),
    ({"betas": (0.9,)}, "two numbers"), ({"betas": (0.9, 1.0)}, "below 1")])
def test_settings_without_sense_are_refused(settings, says):
    with pytest.raises(TrainingError, match=f"{next(iter(settings))}=.*{says}"): TrainConfig(**settings)
    with pytest.raises(TrainingError, match=says): dataclasses.replace(TrainConfig(), **settings)


def test_settings_with_sense_are_accepted():
    TrainConfig(epochs=0.5, steps=np.int64(3), learning_rate=np.float32(1e-3), clip_norm=math.inf, warmup=1, seed=-1,
                mixed_precision="fp16", betas=[0.9, 0.95])


def test_less_than_a_step_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="epochs=0.1 of 4 steps"):
        fit(make_task(), make_batches(), TrainConfig(epochs=0.1), tmp_path, progress=False)
    assert fit(make_task(), make_batches(), TrainConfig(epochs=0.25), tmp_path, progress=False)["steps"] == 1


def test_half_precision_on_the_cpu_is_reported(tmp_path):
    with pytest.warns(UserWarning, match="'bf16' is for GPUs"):
        config = TrainConfig(steps=1, device="cpu", mixed_precision="bf16")
        fit(make_task(), make_batches(), config, tmp_path, progress=False)


@pytest.mark.parametrize("losses, refused", [
    (("vtc",), "vtc"), (("neg_vtc",), ""), (("neg_vtc", "hn_nce"), ""), (("neg_vtm", "vtm"), "vtm")])
def test_a_batch_of_one_teaches_no_comparison(losses, refused, tmp_path):
    batches = Batches(*make_data(3), batch_size=1, negatives_per_clip=2)
    def train(): fit(StubTask(Stub(), losses), batches, TrainConfig(steps=1), tmp_path, progress=False)
    if not refused: return train()
    with pytest.raises(TrainingError, match=f"a single clip, but {refused} compares.*batch_size"): train()


@pytest.mark.parametrize("size", [0, -1, 2.5, True, None, "8"])
def test_a_batch_size_without_sense_is_refused(size):
    with pytest.raises(VidnegError, match="batch_size="): OrderedBatches(np.arange(4), size)


@pytest.mark.parametrize("damage", ["half", "empty", "other", "text", "folder"])
def test_a_damaged_checkpoint_is_named(damage, whole, tmp_path):
    batches = Stops(*make_data(), batch_size=5, negatives_per_clip=2, seed=3)
    batches.stop, path = 5, tmp_path/"checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt): fit(make_task(), batches, CONFIG, tmp_path, progress=False)
    data = path.read_bytes()
    path.unlink()
    if damage == "folder": path.mkdir()
    elif damage == "other": save_file({"x": torch.zeros(2)}, path)
    else: path.write_bytes({"half": data[:len(data)//2], "empty": b"", "text": b"hello, this is no checkpoint"}[damage])
    with pytest.raises(TrainingError, match="checkpoint.safetensors is damaged or no checkpoint.*delete it"):
        fit(make_task(), make_batches(), CONFIG, tmp_path, progress=False)
    if damage == "folder": path.rmdir()
    fit(make_task(), make_batches(), CONFIG, tmp_path, resume=False, progress=False)
    assert files(tmp_path) == whole


# Several at once

def double(x, path=None):
    if path: Path(path).write_text(str(os.getpid()))
    if x == "fail": raise ValueError("a bad number")
    if x == "die": os.kill(os.getpid(), signal.SIGKILL)
    if x == "sleep": time.sleep(600)
    return 2 * x, torch.get_num_threads()


def test_parallel_runs_equal_single_runs(whole, tmp_path):
    one = dict(task=make_task(), batches=make_batches(), config=CONFIG, folder=tmp_path/"a", progress=False)
    first, second = train_many([(fit, one), (double, {"x": 4})], workers=2)
    assert second == (8, 1) and first["steps"] == 12 and files(tmp_path/"a") == whole


def test_the_first_failure_stops_all(tmp_path):
    jobs = [(double, {"x": "sleep", "path": str(tmp_path/"sleeps")}), (double, {"x": "fail"}),
            (double, {"x": 1, "path": str(tmp_path/"never")})]
    with pytest.raises(TrainingError, match="(?s)job 1 .double. failed.*a bad number"): train_many(jobs, workers=2)
    assert not (tmp_path/"never").exists()
    if (tmp_path/"sleeps").exists():
        with pytest.raises(ProcessLookupError): os.kill(int((tmp_path/"sleeps").read_text()), 0)


def test_a_killed_job_is_noticed():
    with pytest.raises(TrainingError, match="exit code -9"): train_many([(double, {"x": "die"})], workers=1)


# Several processes on one batch

JOINT = ("vtc", "neg_vtc", "negclip", "hn_nce")
SCOPES = {"hn_nce": {"scope": "all", "alpha": 0.5, "beta": 0.5}}


def exact_task():
    "Make a task without dropout in double precision, so that only the order of sums may differ."
    task = StubTask(Stub(), JOINT, options=SCOPES).double()
    task.model.drop = nn.Identity()
    return task


def joint_batch():
    features, captions, negatives = make_data(8)
    captions[1] = captions[0] # a true pair off the diagonal, on another process
    negatives[1] = negatives[0]
    b = Batches(features, captions, negatives, batch_size=8, negatives_per_clip=2, shuffle=False).batch(0, 0)
    return b | {"features": b["features"].double()}


def share_of_the_joint_batch(): return share_of(exact_task(), joint_batch())


@pytest.mark.parametrize("line, terminal, wanted", [
    (None, False, {"mininterval": 0.5}), (1, True, {"position": 1}), (1, False, {"mininterval": 15.0})])
def test_progress_bars_of_parallel_runs_become_lines_in_a_log(monkeypatch, line, terminal, wanted):
    log = io.StringIO()
    log.isatty = lambda: terminal
    monkeypatch.setattr(parallel, "_LINE", line)
    monkeypatch.setattr("sys.stderr", log)
    options = parallel.bar_options()
    assert wanted.items() <= options.items()
    with tqdm(total=3, desc="run", file=log, **options) as bar: bar.update(3)
    if line and not terminal: assert log.getvalue().count("\n") >= 1 and "\x1b" not in log.getvalue()


def test_two_processes_have_the_loss_and_gradients_of_one_on_the_joint_batch():
    task, batch = exact_task(), joint_batch()
    terms = task(batch)
    sum(v.mean() for v in terms.values()).backward()
    shares = train_together(share_of_the_joint_batch, {}, 2)
    for name, want in terms.items():
        for rank, (own, _) in enumerate(shares):
            assert np.allclose(own[name], want.detach()[rank::2], rtol=1e-9), name
    want = {k: p.grad for k, p in task.named_parameters() if p.grad is not None}
    assert want.keys() == shares[0][1].keys() and len(want) >= 3
    for k, g in want.items():
        for _, grads in shares: assert np.allclose(grads[k], g, rtol=1e-9, atol=1e-12), k


def test_gathering_alone_changes_nothing():
    x = torch.rand(3, 2)
    assert gather(x) is x and own_rows(3) == slice(0, 3)


@pytest.mark.parametrize("losses", [("vtc", "neg_vtc"), ALL])
def test_two_processes_train_the_same_twice_and_about_as_one(losses, tmp_path):
    batches = lambda: make_batches(batch_size=6)
    config = TrainConfig(epochs=2, learning_rate=1e-2, processes=2)
    outs = []
    for name in "ab":
        task = make_task(losses)
        outs.append(fit(task, batches(), config, tmp_path/name, progress=False))
        assert not task.training
    assert files(tmp_path/"a") == files(tmp_path/"b") and outs[0]["history"] == outs[1]["history"]
    saved = {k: v for k, v in task.model.state_dict().items() if k != "decoder.weight"}
    assert same(saved, load_file(tmp_path/"b"/"model.safetensors"))
    one = fit(make_task(losses), batches(), TrainConfig(epochs=2, learning_rate=1e-2), tmp_path/"one", progress=False)
    close = np.allclose(one["history"][-1]["loss"], outs[0]["history"][-1]["loss"], rtol=0.1)
    assert close and one["steps"] == outs[0]["steps"]


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="does not divide among 2"):
        fit(make_task(), make_batches(), TrainConfig(epochs=1, processes=2), tmp_path, progress=False)


def test_recomputing_changes_memory_only(tmp_path):
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layers, self.calls = nn.ModuleList(nn.Linear(4, 4) for _ in range(3)), 0
            for layer in self.layers: layer.register_forward_hook(lambda *_: setattr(self, "calls", self.calls + 1))
        def forward(self, x):
            for layer in self.layers: x = layer(x).tanh()
            return {"loss_": x.square().mean(1)}
        def save(self, folder): save_file(self.state_dict(), Path(folder)/"model.safetensors")
    class Rows:
        def __len__(self): return 2
        def fingerprint(self): return "rows"
        def batch(self, epoch, index): return {"x": torch.ones(3, 4)*(index + 1)}
    models = {}
    for again in (False, True):
        models[again] = Deep()
        fit(Task(models[again]), Rows(), TrainConfig(epochs=2, recompute=again), tmp_path/str(again), progress=False)
    assert files(tmp_path/"True") == files(tmp_path/"False")
    assert models[False].calls == 12


def test_losses_of_other_tasks_are_refused():
    with pytest.raises(VidnegError, match="saliency_margin needs saliency, saliency_pairs"):
        make_task(("vtc", "saliency_margin"))
