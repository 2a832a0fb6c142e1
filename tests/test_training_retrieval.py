import numpy as np
import pytest
import torch

from shares import share_of
from vidneg.core import VidnegError
from vidneg.data.batches import Batches
from vidneg.jobs import train_together
from vidneg.losses.components import attention_similarity, component_adaptive, component_simple, cosine
from vidneg.losses.contrastive import LOSSES, vtc
from vidneg.losses.hard import hn_nce
from vidneg.models.alpro import EntityPrompter
from vidneg.models.tokenize import train_tokenizer
from vidneg.models.zoo import MODELS, load
from vidneg.tasks import NaveroTask
from vidneg.train import TrainConfig, fit
from vidneg.training.retrieval import RetrievalTask, WithPositives, own_similarity, read_patches

NAMES = list(MODELS)
FUSED = [n for n in NAMES if n not in ("clip4clip-mean", "clip4clip-transformer", "xclip", "internvideo")]
MLM = dict(mask_id=4, vocab_size=100, first_word=5, p=.5)
COMPONENTS = ["component_simple", "component_discernible", "component_adaptive", "importance_entropy"]


def tokens(rng, n=5): return [1, *rng.integers(5, 60, n).tolist(), 2]


def data(clips=6, k=2, positives=True, captions=1, batch_size=None, **settings):
    "Clips with captions, negatives that change one word, and positives that are longer; the third has no positive."
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (clips, 2, 32, 32, 3), np.uint8)
    said = [[tokens(rng) for _ in range(captions)] for _ in range(clips)]
    false = [[[[*t[:3], 60 + j, *t[4:]] for j in range(k)] for t in some] for some in said]
    batches = Batches(frames, said, false if k else None, batch_size=batch_size or clips, negatives_per_clip=k,
                      **{"shuffle": False, **settings})
    if not positives: return batches
    more = [[1, 90, 91, 92, *t[1:]] for some in said for t in some]
    more[2] = []
    return WithPositives(batches, more)


def tiny(name, **changes): return MODELS[name]("tiny", **changes)


def scores_of(model, batch, ids, mask):
    "All pairs, each by itself, in a plain loop."
    video = model.encode_video(model.frame_features(batch["features"]))
    text = model.encode_text(ids, mask)
    out = torch.zeros(len(video[1]), len(ids))
    for i in range(len(out)):
        for j in range(len(ids)):
            if hasattr(model, "grains"): # X-CLIP
                parts = model.grains(video[0][i], video[1][i], text[0][j], text[1][j], mask[j])
                out[i, j] = sum(parts.values())/4
            else: out[i, j] = video[1][i] @ text[1][j]
    return out


@pytest.mark.parametrize("name", NAMES)
def test_hn_nce_is_that_of_the_models_own_similarity(name):
    model, batch = tiny(name).eval(), data().batch(0, 0)
    with torch.no_grad():
        s = scores_of(model, batch, batch["input_ids"], batch["attention_mask"])
        neg = scores_of(model, batch, batch["neg_ids"].flatten(0, 1), batch["neg_attention_mask"].flatten(0, 1))
        neg = neg.unflatten(1, (6, 2))
        settings = dict(alpha=.5, beta=1.)
        own = neg[torch.arange(6), torch.arange(6)]
        want = {"own": hn_nce(s, model.temperature, own, batch["neg_mask"], **settings)["hn_nce"],
                "all": hn_nce(s, model.temperature, None, batch["neg_mask"], neg, scope="all", **settings)["hn_nce"]}
        for scope in want:
            task = RetrievalTask(model, ["hn_nce"], options={"hn_nce": settings | {"scope": scope}})
            assert torch.allclose(task(batch)["hn_nce"], want[scope], atol=1e-4), scope


@pytest.mark.parametrize("name", NAMES)
def test_hn_nce_without_negatives_is_vtc(name):
    model, batch = tiny(name).eval(), data(k=0, positives=False).batch(0, 0)
    with torch.no_grad():
        a = RetrievalTask(model, ["hn_nce"], options={"hn_nce": {"alpha": 1., "beta": 0.}})(batch)["hn_nce"]
        assert torch.allclose(a, RetrievalTask(model, ["vtc"])(batch)["vtc"], atol=1e-5)


def test_of_navero_it_says_what_navero_task_says():
    model, batch = tiny("navero").eval(), data(positives=False).batch(0, 0) | {"seed": 3}
    losses, kwargs = ["vtc", "vtm", "neg_vtm", "neg_vtc", "mlm", "hn_nce"], dict(mask=MLM)
    with torch.no_grad():
        features = model.frame_features(batch["features"])
        want = NaveroTask(model, losses, **kwargs)(batch | {"features": features})
        for given in (batch, batch | {"features": features}):
            got = RetrievalTask(model, losses, **kwargs)(given)
            assert got.keys() == want.keys()
            for k in want: assert torch.allclose(got[k], want[k], atol=1e-6), k


@pytest.mark.parametrize("name", FUSED)
def test_positives_do_not_disturb_the_fusion_losses(name):
    model, batch = tiny(name).eval(), data().batch(0, 0) | {"seed": 1}
    losses = ["vtm", "neg_vtm", "mlm"]
    with torch.no_grad():
        want = RetrievalTask(model, losses, mask=MLM)(batch)
        got = RetrievalTask(model, [*losses, "auxiliary"], mask=MLM)(batch)
    assert batch["pos_ids"].shape[1] > batch["input_ids"].shape[1]
    for k in losses: assert torch.allclose(got[k], want[k], atol=1e-5), k


@pytest.mark.parametrize("compare", ["cosine", "attention"])
@pytest.mark.parametrize("name", ["xclip", "navero"])
def test_components_compare_caption_positive_and_negatives(name, compare):
    model, batch = tiny(name).eval(), data().batch(0, 0)
    task = RetrievalTask(model, COMPONENTS, compare=compare)
    with torch.no_grad():
        terms = task(batch)
        def encoded(ids, mask):
            hidden, sentence = model.encode_text(ids, mask)
            if hasattr(model, "text_proj"): hidden = torch.nn.functional.normalize(model.text_proj(hidden), dim=-1)
            return hidden, sentence, mask.bool()
        def alike(a, b):
            return cosine(a[1], b[1]) if compare == "cosine" else attention_similarity(a[0], b[0], a[2], b[2], .1)
        caption = encoded(batch["input_ids"], batch["attention_mask"])
        positive = alike(caption, encoded(batch["pos_ids"], batch["pos_attention_mask"]))
        false = [encoded(batch["neg_ids"][:, j], batch["neg_attention_mask"][:, j]) for j in range(2)]
        negative = torch.stack([alike(caption, f) for f in false], 1)
        exists = batch["neg_mask"] & batch["pos_mask"][:, None]
        words, seen = (torch.stack([f[i] for f in false], 1) for i in (0, 2))
        weight = task.importance(caption[1], words, seen)
        t = model.temperature
        want = component_simple(positive, negative, exists, t)
        want |= component_adaptive(positive, negative, exists, weight, t)
    for k, v in want.items(): assert torch.allclose(terms[k], v, atol=1e-4), k
    assert (terms["component_discernible"] <= terms["component_adaptive"] + 1e-6).all()
    assert terms["component_simple"][2] == 0 # it has no positive


def test_auxiliary_is_vtc_with_positives():
    model, batch = tiny("xclip").eval(), data().batch(0, 0)
    with torch.no_grad():
        s = scores_of(model, batch, batch["pos_ids"], batch["pos_attention_mask"])
        keep = batch["pos_mask"]
        got = RetrievalTask(model, ["auxiliary"])(batch)["auxiliary"]
        off = (~keep).expand(6, -1)
        want = vtc(s.masked_fill(off, 0), model.temperature, off)["vtc"]
    assert torch.allclose(got[keep], want[keep], atol=1e-4) and got[~keep] == 0


def test_the_importance_module_learns_and_its_entropy_is_only_watched(tmp_path):
    task = RetrievalTask(tiny("clip4clip-mean"), ["vtc", "component_adaptive", "importance_entropy"])
    assert task.weights["importance_entropy"] == 0
    before = [p.clone() for p in task.importance.parameters()]
    done = fit(task, data(), TrainConfig(steps=2, learning_rate=1e-3, device="cpu"), tmp_path, progress=False)
    assert all(not torch.equal(a, b) for a, b in zip(before, task.importance.parameters()))
    row = done["history"][-1]
    assert row["loss"] == pytest.approx(row["vtc"] + row["component_adaptive"], rel=1e-4)
    assert 0 < row["importance_entropy"] <= np.log(2) + 1e-6


@pytest.mark.parametrize("losses", [["negclip"], ["vtc", "svlc_neg"], ["vfc"], ["vtc", "neg_vtc"]])
def test_neighbours_train_on_a_dual_encoder(losses, tmp_path):
    model = tiny("clip4clip-transformer")
    fit(RetrievalTask(model, losses), data(), TrainConfig(steps=25, learning_rate=3e-3, device="cpu"), tmp_path,
        progress=False)
    batch, again = data().batch(0, 0), load(tmp_path).eval()
    with torch.no_grad(): s = scores_of(again, batch, batch["input_ids"], batch["attention_mask"])
    assert (s.argmax(1) == torch.arange(6)).all()


def test_positives_belong_to_the_caption_that_is_shown():
    batches = data(clips=4, captions=3, positives=True, batch_size=2, shuffle=True)
    first = {tuple(p[4:8]): i for i, p in enumerate(t for t in tokens_of(batches.texts))}
    for epoch in range(3):
        for index in range(len(batches)):
            b = batches.batch(epoch, index)
            for ids, pos, there in zip(b["input_ids"], b["pos_ids"], b["pos_mask"]):
                if there: assert pos[4:8].tolist() == ids[1:5].tolist() and tuple(pos[4:8].tolist()) in first


def tokens_of(texts): return [texts.ids[a:a + n].tolist() for a, n in zip(texts.starts, texts.lengths)]


def test_a_changed_positive_changes_the_fingerprint():
    a, b = data(), data()
    assert a.fingerprint() == b.fingerprint() != a.batches.fingerprint()
    b.texts.ids[1] += 1
    assert a.fingerprint() != b.fingerprint()


def prompter(tmp_path):
    words = train_tokenizer(["a video of a red star", "clip this is there in the"], 90, tmp_path/"words.json")
    return EntityPrompter(tiny("clip4clip-mean", seed=1), words, ["star", "red"], ["a video of a {}"])


def test_alpro_learns_what_the_prompter_sees(tmp_path):
    model, asked = tiny("alpro", entities=2), prompter(tmp_path)
    task, batch = RetrievalTask(model, ["vtc", "pem"], prompter=asked, threshold=0.), data(positives=False).batch(0, 0)
    frozen = [p.clone() for p in asked.model.parameters()]
    terms = task(batch | {"seed": 1})
    terms["pem"].sum().backward()
    assert (terms["pem"] > 0).all() and all(p.grad.abs().sum() > 0 for p in model.entity_head.parameters())
    assert not any(torch.equal(terms["pem"], task(batch | {"seed": s})["pem"]) for s in (2, 3)) # other regions
    assert torch.equal(terms["pem"], task(batch | {"seed": 1})["pem"])
    fit(task, data(positives=False), TrainConfig(steps=2, device="cpu"), tmp_path/"run", progress=False)
    assert all(torch.equal(a, b) for a, b in zip(frozen, asked.model.parameters()))


def test_bad_input_is_one_clear_error(tmp_path):
    clip = tiny("clip4clip-mean")
    for losses in (["vtm"], ["mlm"], ["neg_vtm"]):
        with pytest.raises(VidnegError, match="no fusion head"): RetrievalTask(clip, losses, mask=MLM)
    with pytest.raises(VidnegError, match="'cosine' or 'attention'"): RetrievalTask(clip, compare="euclid")
    with pytest.raises(VidnegError, match="prompter"): RetrievalTask(tiny("alpro", entities=3), ["pem"])
    with pytest.raises(VidnegError, match="prompter"):
        RetrievalTask(tiny("alpro", entities=3), ["pem"], prompter=prompter(tmp_path))
    task = RetrievalTask(tiny("alpro", entities=2), ["pem"], prompter=prompter(tmp_path))
    batch = data().batch(0, 0)
    with pytest.raises(VidnegError, match="crops frames"):
        task(batch | {"features": task.model.frame_features(batch["features"])})
    bare, both = data(k=0, positives=False).batch(0, 0), data(positives=False).batch(0, 0)
    for losses in (["neg_vtc"], ["svlc_neg"]):
        with pytest.raises(VidnegError, match="need negatives"): RetrievalTask(clip, losses)(bare)
    for losses in (["component_simple"], ["auxiliary"]):
        with pytest.raises(VidnegError, match="need positives"): RetrievalTask(clip, losses)(both)
    with pytest.raises(VidnegError, match="positives for"): WithPositives(data(positives=False), [[1]])
    with pytest.raises(VidnegError, match="patches"): read_patches(clip, torch.zeros(1, 2, 9, 64))


@pytest.mark.parametrize("name", NAMES)
def test_every_model_trains_on_patches_of_another_encoder(name, tmp_path):
    patches = np.random.default_rng(1).normal(size=(6, 3, 4, 64)).astype(np.float16)
    batches = data(k=0, positives=False)
    batches.features = patches
    model = tiny(name)
    fit(RetrievalTask(model, ["vtc"], patches=True), batches, TrainConfig(steps=30, learning_rate=3e-3, device="cpu"),
        tmp_path, progress=False)
    batch, again = batches.batch(0, 0), load(tmp_path).eval()
    with torch.no_grad():
        video = again.encode_video(read_patches(again, torch.from_numpy(patches).float()))
        task = RetrievalTask(again, ["vtc"], patches=True)
        text = again.encode_text(batch["input_ids"], batch["attention_mask"])
        pairs = own_similarity(again, video, [x[None].expand(6, *x.shape) for x in text],
                               batch["attention_mask"].expand(6, 6, -1))
        assert task(batch)["vtc"].max() < .7 and (pairs.argmax(1) == torch.arange(6)).all()


# Several processes on one batch

JOINT = ["hn_nce", "negclip", "auxiliary"]

def joint_task(name): return RetrievalTask(tiny(name).double(), JOINT, options={"hn_nce": {"scope": "all"}})


def share_of_the_joint_batch(name): return share_of(joint_task(name), data().batch(0, 0))


def test_two_processes_say_of_x_clip_what_one_says():
    task = joint_task("xclip")
    terms = task(data().batch(0, 0))
    sum(v.mean() for v in terms.values()).backward()
    shares = train_together(share_of_the_joint_batch, {"name": "xclip"}, 2)
    for k, want in terms.items():
        for rank, (own, _) in enumerate(shares): assert np.allclose(own[k], want.detach()[rank::2], rtol=1e-6), k
    for k, p in task.named_parameters():
        if p.grad is not None: assert np.allclose(shares[0][1][k], p.grad, rtol=1e-4, atol=1e-7), k
