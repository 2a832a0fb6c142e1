"Training of moment retrieval with component losses."
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vidneg.core.errors import VidnegError
from vidneg.core.records import Clip, MomentQuery
from vidneg.data.moments import moment_batch
from vidneg.losses.components import component_adaptive, component_simple, cosine, pool
from vidneg.losses.moment import moment_losses
from vidneg.models.moment import MomentConfig, pool_joint
from vidneg.models.moment_detr import MomentDETR
from vidneg.models.navero import Navero, NaveroConfig
from vidneg.models.qd_detr import QDDETR
from vidneg.models.scoring import NaveroScorer
from vidneg.text.tokenize import train_tokenizer
from vidneg.train.loop import TrainConfig, fit
from vidneg.train.moments import MomentBatches, MomentTask, find_moments, text_features, video_features
from vidneg.world.render import encode_mp4

SIZES = MomentConfig(6, 5, 16, 2, cross_layers=1, encoder_layers=1, decoder_layers=2, queries=4)
MODELS = [MomentDETR, QDDETR]
LOSSES = ("component_simple", "component_adaptive", "importance_entropy")


def data(n=6, with_texts=True, **settings):
    "Make queries on three films; the second query has no positive, the third no negatives."
    rng = np.random.default_rng(0)
    at = [2.*i % 12 for i in range(n)]
    queries = [MomentQuery(f"q{i}", f"film{i % 3}", f"query {i}", 20., ((a, a + 4.),)) for i, a in enumerate(at)]
    videos = {f"film{i}": rng.normal(size=(10, 6)).astype(np.float32) for i in range(3)}
    negatives = {q.query_id: [f"{q.text} not {j}" for j in range(1 + i % 2)] for i, q in enumerate(queries) if i != 2}
    positives = {q.query_id: f"{q.text} again" for i, q in enumerate(queries) if i != 1}
    texts = [q.text for q in queries] + [t for some in negatives.values() for t in some] + [*positives.values()]
    words = {t: rng.normal(size=(2 + len(t) % 3, 5)).astype(np.float32) for t in texts}
    more = (negatives, positives) if with_texts else (None, None)
    return queries, videos, words, MomentBatches(queries, videos, words, *more, **{"batch_size": n, **settings})


def test_batches_equal_moment_batch_plus_positives_and_negatives():
    queries, videos, words, batches = data(batch_size=4)
    assert len(batches) == 2
    seen = []
    for index in range(2):
        batch = batches.batch(3, index)
        texts = [t[:n] for t, n in zip(batch["text"].numpy(), batch["text_mask"].sum(1).tolist())]
        row = [next(i for i, q in enumerate(queries) if np.array_equal(words[q.text], t)) for t in texts]
        seen += row
        some = [queries[i] for i in row]
        want = moment_batch(some, videos, {q.query_id: words[q.text] for q in some}, 0, 3)
        for k, v in want.items(): assert torch.equal(batch[k], v), k
        for b, q in enumerate(some):
            n = int(batch["pos_text_mask"][b].sum())
            assert n == (0 if q.query_id == "q1" else len(words[f"{q.text} again"]))
            for j, t in enumerate(batches.negatives.get(q.query_id, ())):
                m = batch["neg_text_mask"][b, j]
                assert np.array_equal(batch["neg_text"][b, j][m].numpy(), words[t])
            there = 0 if q.query_id in ("q1", "q2") else len(batches.negatives[q.query_id])
            assert batch["component_mask"][b].sum() == there
    assert sorted(seen) == list(range(6))
    assert not torch.equal(batches.batch(0, 0)["windows"], batches.batch(1, 0)["windows"])


def test_fingerprint_depends_on_data_and_settings():
    base = data()[3].fingerprint()
    assert base == data()[3].fingerprint()
    others = [data(with_texts=False)[3], data(seed=1)[3], data(batch_size=3)[3], data(n=5)[3], data(compared=2)[3]]
    changed = data()[3]
    changed.videos["film0"][0, 0] += 1
    assert len({base, changed.fingerprint(), *(b.fingerprint() for b in others)}) == 7


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("cls", MODELS)
def test_components_are_compared_on_joint_embeddings(cls, pooling):
    queries, videos, words, batches = data()
    model, batch = cls(SIZES).eval(), batches.batch(0, 0)
    task = MomentTask(model, LOSSES, temperature=.2, pooling=pooling)
    with torch.no_grad():
        terms = task(batch)
        film = batch["video"], batch["video_mask"]
        out = model(*film, batch["text"], batch["text_mask"], batch["negative"])
        def joint(words, mask): return pool_joint(model(*film, words, mask).joint, out.video_mask, pooling)
        def alone(text, mask): # one text at a time; a missing text may have any value
            text, mask = text.clone(), mask.clone()
            mask[~mask.any(1), 0] = True
            return joint(text, mask)
        anchor = joint(batch["text"], batch["text_mask"])
        pos = cosine(anchor, alone(batch["pos_text"], batch["pos_text_mask"]))
        false = [alone(batch["neg_text"][:, j], batch["neg_text_mask"][:, j]) for j in range(2)]
        neg = torch.stack([cosine(anchor, f) for f in false], 1)
        exists = batch["component_mask"]
        weight = task.importance(pool(batch["text"], batch["text_mask"]), batch["neg_text"], batch["neg_text_mask"])
        want = component_simple(pos, neg, exists, .2) | component_adaptive(pos, neg, exists, weight, .2)
        own = moment_losses(vars(out), batch, levels=4)
    for k, v in want.items(): assert torch.allclose(terms[k], v, atol=1e-5), k
    for k, v in own.items(): assert torch.allclose(terms[k], v), k
    assert set(terms) == set(own) | set(LOSSES) and exists.any() and not exists.all()


@pytest.mark.parametrize("cls", MODELS)
def test_comparing_some_rows_equals_those_rows_of_comparing_all(cls):
    task, every, some = MomentTask(cls(SIZES), LOSSES).eval(), data()[3].batch(0, 0), data(compared=4)[3].batch(0, 0)
    with torch.no_grad(): want, got = task(every), task(some)
    for k, v in want.items(): assert torch.allclose(got[k], v[:4] if k in LOSSES else v, atol=1e-5), k
    assert all(len(got[k]) == 4 for k in LOSSES) and want["component_simple"][4:].any()
    rows = [data(compared=4, batch_size=3)[3].batch(0, i)["component_mask"] for i in range(2)]
    assert [len(r) for r in rows] == [3, 3]


@pytest.mark.parametrize("cls", MODELS)
def test_without_component_losses_nothing_else_changes(cls):
    batch, model = data()[3].batch(0, 0), cls(SIZES).eval()
    with torch.no_grad():
        plain = MomentTask(model)(batch)
        bare = MomentTask(model)({k: v for k, v in batch.items() if "pos_" not in k and "neg_" not in k})
    assert plain.keys() == bare.keys() and all(torch.equal(plain[k], bare[k]) for k in plain)


@pytest.mark.parametrize("cls", MODELS)
def test_component_losses_fall_and_the_importance_module_learns(cls, tmp_path):
    queries, videos, words, batches = data()
    task = MomentTask(cls(SIZES), LOSSES)
    before = [p.clone() for p in task.importance.parameters()]
    config = TrainConfig(steps=40, learning_rate=3e-3, device="cpu")
    rows = fit(task, batches, config, tmp_path, progress=False)["history"]
    assert rows[-1]["component_simple"] < rows[0]["component_simple"] and rows[-1]["loss"] < rows[0]["loss"]
    assert all(not torch.equal(a, b) for a, b in zip(before, task.importance.parameters()))
    kept = load_file(tmp_path/"importance.safetensors")
    assert kept and all(torch.equal(kept[n], p) for n, p in task.importance.named_parameters())
    found = find_moments(task.model, queries, videos, words, batch_size=4)
    assert [p["qid"] for p in found] == [q.query_id for q in queries]
    assert all(len(p["pred_saliency_scores"]) == 10 and len(p["pred_relevant_windows"]) == 4 for p in found)
    one = find_moments(task.model, queries[:1], videos, words)[0]
    assert np.allclose(one["pred_relevant_windows"], found[0]["pred_relevant_windows"], atol=1e-3)


def test_a_batch_in_which_no_query_has_negatives():
    queries, videos, words, batches = data()
    batches.negatives = {"q9": ["query 0", "query 1"]}
    terms = MomentTask(MomentDETR(SIZES), LOSSES)(batches.batch(0, 0))
    assert all((terms[k] == 0).all() for k in LOSSES) and terms["span"].isfinite().all()


def test_films_are_read_in_clips_of_two_seconds(tmp_path):
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.integers(0, 256, (3, 1, 1, 3), np.uint8), 16, 0) * np.ones((1, 32, 32, 1), np.uint8)
    encode_mp4(frames, tmp_path/"film.mp4", 8, 10) # six seconds, each two of one color
    tokenizer = train_tokenizer(["a red star spins", "it grows"], 60, tmp_path/"words.json")
    sizes = NaveroConfig(image_size=32, width=32, heads=2, stem=(8, 16, 32), embed_dim=8, vocab_size=len(tokenizer))
    scorer = NaveroScorer(Navero(sizes), tokenizer)
    found = video_features(scorer, Clip("film", "film.mp4", 0., 6., "test"), 4, root=tmp_path)
    assert found.shape == (3, 8 + 32) and found.dtype == np.float32
    alone = scorer.encode_video(np.repeat(frames[::16][:, None], 4, 1))
    want = torch.cat([alone.embedding, alone.states.mean(1)], 1).numpy()
    gap = np.abs(found[:, None] - want[None]).sum(-1)
    assert (gap.argmin(1) == np.arange(3)).all()
    words = text_features(scorer, ["a red star spins", "it grows", "it grows"])
    assert {k: len(v) for k, v in words.items()} == {"a red star spins": 6, "it grows": 4}
    again = scorer.encode_text(["it grows"])
    assert np.allclose(words["it grows"], again.states[0][:4].numpy(), atol=1e-5)


def test_bad_input_is_one_clear_error():
    queries, videos, words, batches = data(with_texts=False)
    with pytest.raises(VidnegError, match="need negatives"): MomentTask(MomentDETR(SIZES), LOSSES)(batches.batch(0, 0))
    with pytest.raises(VidnegError, match="no loss of sentence components"): MomentTask(MomentDETR(SIZES), ["vtc"])
    with pytest.raises(VidnegError, match="no queries"): MomentBatches([], videos, words)
    with pytest.raises(VidnegError, match="no features of 1 videos"):
        MomentBatches(queries, {k: v for k, v in videos.items() if k != "film1"}, words)
