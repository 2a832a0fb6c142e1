"Training of the retrieval models with all losses, on frames and on patches."
import pickle

import numpy as np
import pytest
import torch
from shares import share_of

from vidneg.core.errors import VidnegError
from vidneg.core.records import Caption, Negative
from vidneg.core.seeds import stable_rng
from vidneg.data.batches import Batches
from vidneg.data.regions import crop_regions, random_regions
from vidneg.evaluate.score import items_table, score_model
from vidneg.losses.components import attention_similarity, component_adaptive, component_simple, cosine
from vidneg.losses.contrastive import vtc
from vidneg.losses.hard import hn_nce
from vidneg.models.alpro import EntityPrompter
from vidneg.models.io import load, save
from vidneg.models.registry import MODELS
from vidneg.text.tokenize import train_tokenizer
from vidneg.train.contrastive import ContrastiveTask, own_similarity
from vidneg.train.jobs import train_together
from vidneg.train.loop import TrainConfig, fit
from vidneg.train.retrieval import (
    OnBackbone,
    PatchScorer,
    WithFrames,
    WithPositives,
    component_weights,
    load_prompter,
    train_retrieval,
)

NAMES = list(MODELS)
FUSED = [n for n in NAMES if n not in ("clip4clip-mean", "clip4clip-transformer", "xclip", "internvideo")]
MLM = dict(mask_id=4, vocab_size=100, first_word=5, p=.5)
COMPONENTS = ["component_simple", "component_discernible", "component_adaptive", "importance_entropy"]


def tokens(rng, n=5): return [1, *rng.integers(5, 60, n).tolist(), 2]


def data(clips=6, k=2, positives=True, captions=1, batch_size=None, **settings):
    "Make clips with captions, one-word negatives and longer positives; the third clip has no positive."
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
    "Score all pairs in a plain loop, one at a time."
    video = model.encode_video(model.frame_features(batch["features"]))
    text = model.encode_text(ids, mask)
    out = torch.zeros(len(video[1]), len(ids))
    for i in range(len(out)):
        for j in range(len(ids)):
            if not model.similarity_is_cosine: # X-CLIP
                parts = model.grains(video[0][i], video[1][i], text[0][j], text[1][j], mask[j])
                out[i, j] = sum(parts.values())/4
            else: out[i, j] = video[1][i] @ text[1][j]
    return out


@pytest.mark.parametrize("name", NAMES)
def test_hn_nce_uses_the_models_own_similarity(name):
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
            task = ContrastiveTask(model, ["hn_nce"], options={"hn_nce": settings | {"scope": scope}})
            assert torch.allclose(task(batch)["hn_nce"], want[scope], atol=1e-4), scope


@pytest.mark.parametrize("name", NAMES)
def test_hn_nce_without_negatives_is_vtc(name):
    model, batch = tiny(name).eval(), data(k=0, positives=False).batch(0, 0)
    with torch.no_grad():
        a = ContrastiveTask(model, ["hn_nce"], options={"hn_nce": {"alpha": 1., "beta": 0.}})(batch)["hn_nce"]
        assert torch.allclose(a, ContrastiveTask(model, ["vtc"])(batch)["vtc"], atol=1e-5)


def test_features_and_frames_give_the_same_losses():
    model, batch = tiny("navero").eval(), data(positives=False).batch(0, 0) | {"seed": 3}
    task = ContrastiveTask(model, ["vtc", "vtm", "neg_vtm", "neg_vtc", "mlm", "hn_nce"], mask=MLM)
    with torch.no_grad(): want, got = task(batch), task(batch | {"features": model.frame_features(batch["features"])})
    assert got.keys() == want.keys()
    for k in want: assert torch.allclose(got[k], want[k], atol=1e-6), k


@pytest.mark.parametrize("name", FUSED)
def test_positives_do_not_disturb_the_fusion_losses(name):
    model, batch = tiny(name).eval(), data().batch(0, 0) | {"seed": 1}
    losses = ["vtm", "neg_vtm", "mlm"]
    with torch.no_grad():
        want = ContrastiveTask(model, losses, mask=MLM)(batch)
        got = ContrastiveTask(model, [*losses, "auxiliary"], mask=MLM)(batch)
    assert batch["pos_ids"].shape[1] > batch["input_ids"].shape[1]
    for k in losses: assert torch.allclose(got[k], want[k], atol=1e-5), k


@pytest.mark.parametrize("compare", ["cosine", "attention"])
@pytest.mark.parametrize("name", ["xclip", "navero"])
def test_components_compare_caption_positive_and_negatives(name, compare):
    model, batch = tiny(name).eval(), data().batch(0, 0)
    task = ContrastiveTask(model, COMPONENTS, compare=compare)
    with torch.no_grad():
        terms = task(batch)
        def encoded(ids, mask):
            hidden, sentence = model.encode_text(ids, mask)
            hidden = model.text_states(hidden)
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
        got = ContrastiveTask(model, ["auxiliary"])(batch)["auxiliary"]
        off = (~keep).expand(6, -1)
        want = vtc(s.masked_fill(off, 0), model.temperature, off)["vtc"]
    assert torch.allclose(got[keep], want[keep], atol=1e-4) and got[~keep] == 0


def test_the_importance_module_learns_and_its_entropy_is_only_logged(tmp_path):
    task = ContrastiveTask(tiny("clip4clip-mean"), ["vtc", "component_adaptive", "importance_entropy"])
    assert task.weights["importance_entropy"] == 0
    before = [p.clone() for p in task.importance.parameters()]
    done = fit(task, data(), TrainConfig(steps=2, learning_rate=1e-3, device="cpu"), tmp_path, progress=False)
    assert all(not torch.equal(a, b) for a, b in zip(before, task.importance.parameters()))
    row = done["history"][-1]
    assert row["loss"] == pytest.approx(row["vtc"] + row["component_adaptive"], rel=1e-4)
    assert 0 < row["importance_entropy"] <= np.log(2) + 1e-6


@pytest.mark.parametrize("name", ["xclip", "navero"])
def test_component_weights_equal_those_of_the_task(name, tmp_path):
    said = [Caption(c, c, f"a {c} star spins") for c in ("red", "green", "blue")]
    new = {"verb": "a {} star grows", "object": "a {} ring spins", "modifier": "a gray star spins"}
    false = [Negative(c.caption_id, text.format(c.text.split()[1]), kind, "", (), 1, 0)
             for i, c in enumerate(said) for kind, text in list(new.items())[i:]]
    tokenizer = train_tokenizer([t.text for t in (*said, *false)], 60, tmp_path/"words.json")
    task = ContrastiveTask(tiny(name), ["component_adaptive"], tokenizer=tokenizer).eval()
    task.save(tmp_path)
    got = component_weights(tmp_path, said, [*false, Negative("other", "a star", "verb", "", (), 1, 0)], batch_size=2)
    assert got[["caption_id", "kind"]].to_numpy().tolist() == [[n.caption_id, n.kind] for n in false]
    def encoded(text):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        hidden, sentence = task.model.encode_text(ids, torch.ones_like(ids))
        hidden = task.model.text_states(hidden)
        return hidden, sentence
    with torch.no_grad():
        for c in said: # each caption by itself, each text by itself
            own = [encoded(n.text)[0] for n in false if n.caption_id == c.caption_id]
            logits = [task.importance(encoded(c.text)[1], w[:, None], torch.ones(1, 1, w.shape[1]).bool()) for w in own]
            want = torch.cat(logits, 1).softmax(1)[0]
            assert np.allclose(got[got.caption_id == c.caption_id].weight, want, atol=1e-5)
    assert got.weight.nunique() > 4
    ContrastiveTask(tiny(name), ["vtc"], tokenizer=tokenizer).save(tmp_path/"plain")
    with pytest.raises(VidnegError, match="train with component_adaptive"):
        component_weights(tmp_path/"plain", said, false)


@pytest.mark.parametrize("name", ["xclip", "navero"])
def test_a_saved_model_scores_like_the_model_in_memory(name, tmp_path):
    said = [Caption(c, c, f"a {c} star spins") for c in ("red", "green", "blue")]
    false = [Negative(c.caption_id, c.text.replace("star", "ring"), "object", "", (), 1, 0) for c in said]
    tokenizer = train_tokenizer([t.text for t in (*said, *false)], 60, tmp_path/"words.json")
    model = tiny(name).eval()
    save(model, tmp_path, tokenizer)
    shape = model.frame_features(data(clips=3).batch(0, 0)["features"]).shape if name == "navero" else (3, 2, 4, 64)
    patches = torch.from_numpy(np.random.default_rng(0).normal(size=(3, *shape[1:])).astype(np.float32))
    asked = dict(clip_ids=[c.clip_id for c in said], queries=said, items=items_table(false, said, "balanced"), run="it")
    scorer = pickle.loads(pickle.dumps(PatchScorer(load(tmp_path), tokenizer, 2)))  # pickled, as for other processes
    assert ("match" in scorer.supports) == ("match" in model.supports)
    scores, ranks = score_model(scorer, patches.numpy(), **asked)
    with torch.no_grad():
        video = model.encode_video(model.read_patches(patches))
        def similarity(texts):
            read = tokenizer(texts, padding=True, return_tensors="pt")
            return model.similarity(video, model.encode_text(read["input_ids"], read["attention_mask"]),
                                 read["attention_mask"])
        want = similarity([c.text for c in said])
        assert np.allclose(scores.score_pos, want.diagonal(), atol=1e-5)
        assert np.allclose(scores.score_neg, similarity([n.text for n in false]).diagonal(), atol=1e-5)
    assert ranks["rank"].tolist() == [*(1 + (want > want.diagonal()).sum(0)), *(1 + (want.T > want.diagonal()).sum(0))]


@pytest.mark.parametrize("losses", [["negclip"], ["vtc", "svlc_neg"], ["vfc"], ["vtc", "neg_vtc"]])
def test_losses_of_related_papers_train_a_dual_encoder(losses, tmp_path):
    model = tiny("clip4clip-transformer")
    fit(ContrastiveTask(model, losses), data(), TrainConfig(steps=25, learning_rate=3e-3, device="cpu"), tmp_path,
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


def test_alpro_learns_from_the_prompter(tmp_path):
    model, asked = tiny("alpro", entities=2), prompter(tmp_path)
    task = ContrastiveTask(model, ["vtc", "pem"], prompter=asked, threshold=0.)
    batch = data(positives=False).batch(0, 0)
    frozen = [p.clone() for p in asked.model.parameters()]
    terms = task(batch | {"seed": 1})
    terms["pem"].sum().backward()
    assert (terms["pem"] > 0).all() and all(p.grad.abs().sum() > 0 for p in model.entity_head.parameters())
    assert not any(torch.equal(terms["pem"], task(batch | {"seed": s})["pem"]) for s in (2, 3)) # other regions
    assert torch.equal(terms["pem"], task(batch | {"seed": 1})["pem"])
    fit(task, data(positives=False), TrainConfig(steps=2, device="cpu"), tmp_path/"run", progress=False)
    assert all(torch.equal(a, b) for a, b in zip(frozen, asked.model.parameters()))


NAMED = {"entities": ["star", "red"], "templates": ["a {}"]}


def patch_data(tmp_path):
    "Return batches of patches with their frames, both memory-mapped; the tokenizer; the folder of the backbone."
    words = train_tokenizer(["a red star"], 60, tmp_path/"words.json")
    backbone, rng = tiny("navero", seed=5), np.random.default_rng(3)
    frames = (rng.integers(0, 236, (8, 1, 1, 1, 3)) + rng.integers(0, 20, (8, 4, 32, 32, 3))).astype(np.uint8)
    with torch.no_grad(): patches = backbone.frame_features(torch.from_numpy(frames)).numpy()
    for name, x in {"frames": frames, "patches": patches}.items(): np.save(tmp_path/f"{name}.npy", x)
    frames, patches = (np.load(tmp_path/f"{name}.npy", mmap_mode="r") for name in ("frames", "patches"))
    texts = "a red star", "a star", "red", "a red", "star", "red star", "a", "star red"
    said = [[words(t)["input_ids"]] for t in texts]
    batches = Batches(patches, said, batch_size=4, n_frames=2, pad_id=words.pad_token_id)
    return WithFrames(batches, frames), words, save(backbone, tmp_path/"backbone")


def test_frames_belong_to_the_features(tmp_path):
    batches, _, folder = patch_data(tmp_path)
    backbone, pickled = load(folder), pickle.dumps(batches)
    for epoch, index in ((0, 0), (0, 1), (3, 1)):
        b, c = batches.batch(epoch, index), pickle.loads(pickled).batch(epoch, index)
        with torch.no_grad():
            assert torch.allclose(backbone.frame_features(b["frames"]), b["features"], atol=1e-5)
        assert b.keys() == c.keys() and all(torch.equal(b[k], c[k]) for k in b)
    assert len(pickled) < batches.pixels.features.nbytes and len(batches) == 2
    assert batches.batches.features.shape[2:] == (4, 64) # the wrapped batches keep theirs
    other = WithFrames(batches.batches, 255 - batches.pixels.features)
    assert batches.fingerprint() != other.fingerprint() and batches.fingerprint() != batches.batches.fingerprint()


def test_with_patches_the_prompter_encodes_crops_by_the_backbone(tmp_path):
    batches, words, folder = patch_data(tmp_path)
    backbone, dual = load(folder), tiny("alpro", vocab_size=len(words), seed=2)
    asked = load_prompter(save(dual, tmp_path/"dual"), words, backbone=folder, **NAMED)
    model = tiny("alpro", vocab_size=len(words), entities=2).eval()
    task = ContrastiveTask(model, ["pem"], prompter=asked, threshold=.5, patches=True)
    batch, grid = batches.batch(0, 0) | {"seed": 7}, 2
    with torch.no_grad():
        got = task(batch)["pem"]
        regions = random_regions(4, grid, stable_rng(7, "regions"))
        prompts = [words(f"a {e}", return_tensors="pt") for e in NAMED["entities"]]
        names = [dual.encode_text(p["input_ids"], p["attention_mask"])[1][0] for p in prompts]
        for i, (top, left, bottom, right) in enumerate(regions):
            crop = crop_regions(batch["frames"][i:i + 1], regions[i:i + 1], grid)
            video = dual.eval().encode_video(backbone.frame_features(crop))[1][0]
            p = torch.stack([video @ n for n in names]).div(dual.temperature).softmax(0)
            tokens = model.encode_video(batch["features"][i:i + 1])[0]
            hidden, mask = model.encode_text(batch["input_ids"][i:i + 1], batch["attention_mask"][i:i + 1])[0], \
                batch["attention_mask"][i:i + 1]
            seen = model.read(tokens, hidden, mask)[0, mask.shape[1] + 1:] # (4, d) without [CLS]
            inside = [seen[r*grid + c] for r in range(top, bottom) for c in range(left, right)]
            said = model.entity_head(torch.stack(inside).mean(0)).log_softmax(0)
            assert got[i].item() == pytest.approx(-(p*said).sum().item() if p.max() >= .5 else 0., abs=1e-4)


def test_pem_is_a_loss_by_name_and_its_prompter_comes_first(tmp_path):
    batches, words, folder = patch_data(tmp_path)
    start, config = {"name": "alpro", "size": "tiny", "vocab_size": len(words)}, TrainConfig(steps=3, device="cpu")
    common = dict(tokenizer=words, patches=True, threshold=0.)
    asked = NAMED | {"backbone": folder}
    done = train_retrieval(start, batches, config, tmp_path/"a", ["vtc", "pem"], asked, **common)
    assert done["history"][-1]["pem"] > 0 and load(tmp_path/"a").config.entities == 2
    assert load(tmp_path/"a"/"prompter").config.entities == 0
    prompter = (tmp_path/"a"/"prompter"/"model.safetensors").read_bytes()
    train_retrieval(start, batches, config, tmp_path/"b", ["vtc"], **common)
    assert (tmp_path/"b"/"model.safetensors").read_bytes() == prompter # it has learned with VTC only
    train_retrieval(start, batches, config, tmp_path/"c", ["vtc", "pem"], asked | {"folder": tmp_path/"b"}, **common)
    assert (tmp_path/"c"/"model.safetensors").read_bytes() == (tmp_path/"a"/"model.safetensors").read_bytes()
    assert not (tmp_path/"c"/"prompter").exists()
    for backbone, seed in (("backbone", 5), ("other", 6)): save(tiny("navero", seed=seed), tmp_path/backbone)
    train_retrieval(start, batches, config, tmp_path/"d", ["vtc", "pem"],
                    asked | {"folder": tmp_path/"b", "backbone": tmp_path/"other"}, **common)
    assert (tmp_path/"d"/"model.safetensors").read_bytes() != (tmp_path/"a"/"model.safetensors").read_bytes()


def test_the_head_learns_the_prompters_labels(tmp_path):
    "Cross-entropy falls towards the entropy of the labels, its lower bound."
    batches, words, folder = patch_data(tmp_path)
    asked = load_prompter(save(tiny("alpro", vocab_size=len(words)), tmp_path/"dual"), words, backbone=folder, **NAMED)
    model = tiny("alpro", vocab_size=len(words), entities=2)
    task = ContrastiveTask(model, ["pem"], prompter=asked, threshold=0., patches=True)
    asked.prompts = asked.prompts*20 # sharper labels leave more to learn
    batch, seeds = batches.batch(0, 0), range(8)
    def loss():
        with torch.no_grad(): return np.mean([task(batch | {"seed": s})["pem"].mean().item() for s in seeds])
    regions = [random_regions(4, 2, stable_rng(s, "regions")) for s in seeds]
    p = torch.cat([asked(crop_regions(batch["frames"], r, 2))[0] for r in regions])
    least, before = -(p*p.clamp(min=1e-9).log()).sum(-1).mean().item(), loss()
    fit(task, batches, TrainConfig(steps=60, learning_rate=3e-3, device="cpu"), tmp_path/"run", progress=False)
    assert 0 <= loss() - least < (before - least)/3


def test_bad_input_is_one_clear_error(tmp_path):
    clip = tiny("clip4clip-mean")
    for losses in (["vtm"], ["mlm"], ["neg_vtm"]):
        with pytest.raises(VidnegError, match="no fusion head"): ContrastiveTask(clip, losses, mask=MLM)
    with pytest.raises(VidnegError, match="'cosine' or 'attention'"): ContrastiveTask(clip, compare="euclid")
    with pytest.raises(VidnegError, match="prompter"): ContrastiveTask(tiny("alpro", entities=3), ["pem"])
    with pytest.raises(VidnegError, match="prompter"):
        ContrastiveTask(tiny("alpro", entities=3), ["pem"], prompter=prompter(tmp_path))
    task = ContrastiveTask(tiny("alpro", entities=2), ["pem"], prompter=prompter(tmp_path))
    batch = data().batch(0, 0)
    with pytest.raises(VidnegError, match="crops frames"):
        task(batch | {"features": task.model.frame_features(batch["features"])})
    bare, both = data(k=0, positives=False).batch(0, 0), data(positives=False).batch(0, 0)
    for losses in (["neg_vtc"], ["svlc_neg"]):
        with pytest.raises(VidnegError, match="need negatives"): ContrastiveTask(clip, losses)(bare)
    for losses in (["component_simple"], ["auxiliary"]):
        with pytest.raises(VidnegError, match="need positives"): ContrastiveTask(clip, losses)(both)
    with pytest.raises(VidnegError, match="positives for"): WithPositives(data(positives=False), [[1]])
    with pytest.raises(VidnegError, match="patches"): clip.read_patches(torch.zeros(1, 2, 9, 64))
    narrow = OnBackbone(clip, tiny("navero", width=32))
    with pytest.raises(VidnegError, match="patches"): narrow.frame_features(batch["features"])
    plain = data(positives=False)
    with pytest.raises(VidnegError, match="same clips"): WithFrames(plain, plain.features[1:])


@pytest.mark.parametrize("name", NAMES)
def test_every_model_trains_on_patches_of_another_encoder(name, tmp_path):
    patches = np.random.default_rng(1).normal(size=(6, 3, 4, 64)).astype(np.float16)
    batches = data(k=0, positives=False)
    batches.features = patches
    model = tiny(name)
    fit(ContrastiveTask(model, ["vtc"], patches=True), batches, TrainConfig(steps=30, learning_rate=3e-3, device="cpu"),
        tmp_path, progress=False)
    batch, again = batches.batch(0, 0), load(tmp_path).eval()
    with torch.no_grad():
        video = again.encode_video(again.read_patches(torch.from_numpy(patches).float()))
        task = ContrastiveTask(again, ["vtc"], patches=True)
        text = again.encode_text(batch["input_ids"], batch["attention_mask"])
        pairs = own_similarity(again, video, [x[None].expand(6, *x.shape) for x in text],
                               batch["attention_mask"].expand(6, 6, -1))
        assert task(batch)["vtc"].max() < .7 and (pairs.argmax(1) == torch.arange(6)).all()


# Several processes on one batch

JOINT = ["hn_nce", "negclip", "auxiliary"]

def joint_task(name): return ContrastiveTask(tiny(name).double(), JOINT, options={"hn_nce": {"scope": "all"}})


def share_of_the_joint_batch(name): return share_of(joint_task(name), data().batch(0, 0))


def test_two_processes_train_x_clip_like_one():
    task = joint_task("xclip")
    terms = task(data().batch(0, 0))
    sum(v.mean() for v in terms.values()).backward()
    shares = train_together(share_of_the_joint_batch, {"name": "xclip"}, 2)
    for k, want in terms.items():
        for rank, (own, _) in enumerate(shares):
            assert np.allclose(own[k], want.detach()[rank::2], rtol=1e-6), k
    for k, p in task.named_parameters():
        if p.grad is not None: assert np.allclose(shares[0][1][k], p.grad, rtol=1e-4, atol=1e-7), k
