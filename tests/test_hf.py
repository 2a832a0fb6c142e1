"Adapters of transformers models: random weights, saved and loaded as published ones, against their own forward."
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers as tf
from transformers.utils import logging

from vidneg.core.errors import VidnegError
from vidneg.models import hf_dual, hf_matching
from vidneg.models.hf import adapter_of, context_of, device_of, dtype_of, has_features, load_hf, revision_of
from vidneg.models.hf_dual import POOLING, DualEncoderScorer, MicrosoftXClipScorer, SiglipScorer, pool_frames
from vidneg.models.hf_matching import Blip2Scorer, BlipScorer, ViltScorer
from vidneg.models.scorer import PROTOCOL
from vidneg.models.zoo import load_scorer
from vidneg.text.tokenize import train_tokenizer

logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(1)

CAPTIONS = ["a star spins", "a red ring", "a star spins", "a green star on a beach touches it"]
LAYERS = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
TEXT = LAYERS | dict(vocab_size=60, max_position_embeddings=12, bos_token_id=2, eos_token_id=3, pad_token_id=0)
VISION = LAYERS | dict(image_size=32, patch_size=16)
MIT = dict(mit_hidden_size=32, mit_intermediate_size=64, mit_num_hidden_layers=1, mit_num_attention_heads=4,
           num_frames=4)
SIDE = {"height": 32, "width": 32}
SQUARE, CROP = dict(size=SIDE), dict(size={"shortest_edge": 32}, crop_size=SIDE)
BOTH = dict(text_config=TEXT, vision_config=VISION)
CLASSES = {"clip": DualEncoderScorer, "siglip": SiglipScorer, "xclip": MicrosoftXClipScorer, "blip": BlipScorer,
           "blip-2": Blip2Scorer, "vilt": ViltScorer}
MATCHING = ("blip", "blip-2", "vilt")
FRESH = int(tf.__version__.split(".")[0]) >= 5
needs_5 = pytest.mark.skipif(not FRESH, reason="came with transformers 5, or was mended there")
TYPES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2} # allowed distance from single precision

def make(kind):
    "Make a small model with random weights and its image processor."
    if kind == "clip": return tf.CLIPModel(tf.CLIPConfig(**BOTH, projection_dim=32)), tf.CLIPImageProcessor(**CROP)
    if kind == "siglip": return tf.SiglipModel(tf.SiglipConfig(**BOTH)), tf.SiglipImageProcessor(**SQUARE)
    if kind == "xclip":
        config = tf.XCLIPConfig(text_config=TEXT, vision_config=VISION | MIT, projection_dim=32, prompt_alpha=.5,
                                prompt_num_attention_heads=4)
        return tf.XCLIPModel(config), tf.VideoMAEImageProcessor(**CROP)
    if kind == "blip":
        config = tf.BlipConfig(text_config=TEXT | {"encoder_hidden_size": 32}, vision_config=VISION,
                               image_text_hidden_size=32)
        return tf.BlipForImageTextRetrieval(config), tf.BlipImageProcessor(**SQUARE)
    if kind == "blip-2":
        former = TEXT | dict(encoder_hidden_size=32, cross_attention_frequency=1, use_qformer_text_input=True)
        config = tf.Blip2Config(vision_config=VISION, qformer_config=former, num_query_tokens=4,
                                text_config=tf.OPTConfig(vocab_size=60).to_dict(), image_text_hidden_size=32)
        return tf.Blip2ForImageTextRetrieval(config), tf.BlipImageProcessor(**SQUARE)
    config = tf.ViltConfig(**VISION, vocab_size=60, max_position_embeddings=12)
    return tf.ViltForImageAndTextRetrieval(config), tf.ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=16)

def make_dual(kind):
    "Make a small dual encoder of another kind."
    clip, square, crop = tf.CLIPImageProcessor(**CROP), tf.ViTImageProcessor(**SQUARE), dict(size=SIDE, crop_size=SIDE)
    wide = BOTH | {"projection_dim": 32}
    if kind == "siglip2":
        config = tf.Siglip2Config(text_config=TEXT, vision_config=LAYERS | dict(num_patches=4, patch_size=16))
        return tf.Siglip2Model(config), tf.Siglip2ImageProcessor(patch_size=16, max_num_patches=4)
    if kind == "altclip":
        config = tf.AltCLIPConfig(vision_config=VISION, text_config=TEXT | dict(pad_token_id=1, project_dim=32),
                                  projection_dim=32)
        return tf.AltCLIPModel(config), clip
    if kind == "chinese_clip":
        return (tf.ChineseCLIPModel(tf.ChineseCLIPConfig(**wide)),
                tf.ChineseCLIPImageProcessor(**SQUARE, do_center_crop=False))
    if kind == "clipseg": return tf.CLIPSegModel(tf.CLIPSegConfig(**wide)), square
    if kind == "flava":
        config = tf.FlavaConfig(text_config=TEXT, image_config=VISION, multimodal_config=LAYERS, projection_dim=32,
                                hidden_size=32)
        return tf.FlavaModel(config), tf.FlavaImageProcessor(**crop)
    if kind == "groupvit":
        vision = VISION | dict(depths=[1, 1, 1], num_group_tokens=[4, 2, 0], num_output_groups=[4, 2, 2])
        config = tf.GroupViTConfig(text_config=TEXT, vision_config=vision, projection_dim=32,
                                   projection_intermediate_dim=32)
        return tf.GroupViTModel(config), clip
    if kind == "metaclip_2": return tf.MetaClip2Model(tf.MetaClip2Config(**wide)), clip
    if kind == "aimv2": return tf.Aimv2Model(tf.Aimv2Config(**wide)), clip
    if kind == "owlvit": return tf.OwlViTModel(tf.OwlViTConfig(**wide)), tf.OwlViTImageProcessor(**crop)
    if kind == "tipsv2": return tf.Tipsv2Model(tf.Tipsv2Config(**BOTH)), square
    text = tf.BertConfig(**TEXT) if kind == "vit+bert" else tf.XLMRobertaConfig(**TEXT | {"pad_token_id": 1})
    config = tf.VisionTextDualEncoderConfig.from_vision_text_configs(tf.ViTConfig(**VISION), text, projection_dim=32)
    return tf.VisionTextDualEncoderModel(config), square

DUAL = ["siglip2", "altclip", pytest.param("chinese_clip", marks=needs_5),
        "clipseg", "flava", "groupvit", "metaclip_2", "aimv2",
        "owlvit", pytest.param("tipsv2", marks=needs_5), "vit+bert", "vit+xlm-roberta"]
each_kind = pytest.mark.parametrize("kind", CLASSES)
each_type = pytest.mark.parametrize("dtype", TYPES, ids=lambda t: str(t).removeprefix("torch."))

def frames(*shape, seed=0, size=(40, 56)):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(256, (*shape, *size, 3), dtype=torch.uint8, generator=g).numpy()

def shaken(model):
    "Let the scores differ: fresh heads are almost zero."
    with torch.no_grad():
        for p in model.parameters(): p.add_(.05*torch.randn(p.shape))
    return model.eval()

def save(folder, model, *parts):
    "Save a model, a tokenizer and what else it needs."
    folder.mkdir(exist_ok=True)
    for part in (model, train_tokenizer(CAPTIONS, 60, folder/"t.json"), *parts): part.save_pretrained(folder)
    return folder

@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    "Save each kind of model with `save_pretrained`; return the folders."
    out, root = {}, tmp_path_factory.mktemp("hf")
    for kind in CLASSES:
        torch.manual_seed(0)
        model, processor = make(kind)
        out[kind] = save(root/kind, shaken(model), processor)
    return out

def load(folder, batch_size=32, **options): return load_hf(folder, batch_size, "cpu", **options)

def inputs(scorer, clips, captions):
    "Return the input of the model's own forward: pixels (N·T, 3, S, S) and token ids."
    flat = list(clips.reshape(-1, *clips.shape[2:]))
    pixels = scorer.image_processor(flat, return_tensors="pt", input_data_format="channels_last")
    padding = {"padding": "max_length", "max_length": 12} if isinstance(scorer, SiglipScorer) else {"padding": True}
    words = scorer.tokenizer(captions, return_tensors="pt", truncation=True, **padding | {"max_length": 12})
    return pixels, {k: words[k] for k in ("input_ids", "attention_mask")}


@each_kind
def test_the_right_adapter_is_found_and_a_reload_scores_the_same(kind, folders):
    clips, scores = frames(2, 3), []
    for opened in (load, load_scorer):
        scorer = opened(folders[kind])
        V, T = scorer.encode_video(clips), scorer.encode_text(CAPTIONS)
        s = scorer.similarity(V, T)
        assert type(scorer) is CLASSES[kind] and len(V) == 2 and len(T) == 4
        assert s.shape == (2, 4) and np.isfinite(s).all() and (s[:, 0] == s[:, 2]).all() and s.std() > 1e-4
        assert ("match" in scorer.supports) == (kind in MATCHING)
        pairs = scorer.pairwise(V[[0, 1, 0]], T[[2, 1, 0]])
        assert np.allclose(pairs, s[[0, 1, 0], [2, 1, 0]], atol=1e-6) and pairs[0] == pairs[2]
        assert set(scorer.protocol) == set(PROTOCOL) and scorer.protocol["dtype"] == "float32"
        assert scorer.protocol["revision"] == revision_of(folders[kind])
        scores.append([s] + ([scorer.match(V[[0, 1, 0, 1]], T)] if "match" in scorer.supports else []))
    for a, b in zip(*scores): assert (a == b).all()


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_dual_encoder_of_images_equals_the_model(kind, folders):
    scorer, clips = load(folders[kind], batch_size=2), frames(3, 1)
    pixels, words = inputs(scorer, clips, CAPTIONS)
    if kind == "siglip": words.pop("attention_mask")
    with torch.no_grad(): out = scorer.model(**pixels, **words)
    ours = scorer.similarity(scorer.encode_video(clips), scorer.encode_text(CAPTIONS))
    assert np.allclose(ours, (out.image_embeds @ out.text_embeds.T).numpy(), atol=1e-5)
    video = frames(1, 3, seed=1)
    single = torch.cat([scorer.encode_video(video[:, [t]]).embedding for t in range(3)])
    mean = F.normalize(single.mean(0, keepdim=True), dim=-1)
    assert torch.allclose(scorer.encode_video(video).embedding, mean, atol=1e-5)


def test_microsofts_xclip_equals_the_model_and_takes_any_number_of_frames(folders):
    scorer, clips = load(folders["xclip"], batch_size=2), frames(3, 4)
    pixels, words = inputs(scorer, clips, CAPTIONS)
    pixels = pixels["pixel_values"].reshape(3, 4, 3, 32, 32)
    with torch.no_grad(): out = scorer.model(pixel_values=pixels, **words)
    T = scorer.encode_text(CAPTIONS)
    cosine = out.logits_per_video/scorer.model.logit_scale.exp()
    assert np.allclose(scorer.similarity(scorer.encode_video(clips), T), cosine.detach().numpy(), atol=1e-5)
    few = scorer.similarity(scorer.encode_video(clips[:, :2]), T) # a video shorter than the model's frames
    assert np.allclose(few, scorer.similarity(scorer.encode_video(clips[:, [0, 0, 1, 1]]), T), atol=1e-6)
    assert np.isfinite(scorer.similarity(scorer.encode_video(clips[:, :1]), T)).all()


@pytest.mark.parametrize("kind", ["blip", "vilt"])
def test_matching_equals_the_models_mean_over_frames(kind, folders):
    scorer, clips = load(folders[kind], batch_size=3), frames(2, 2)
    V, T = scorer.encode_video(clips), scorer.encode_text(CAPTIONS)
    vs, ts = np.repeat(np.arange(2), 4), np.tile(np.arange(4), 2)
    p, s = scorer.match(V[vs], T[ts]).reshape(2, 4), scorer.similarity(V, T)
    for i in range(2):
        for j in range(4):
            pixels, words = inputs(scorer, clips[i:i + 1], [CAPTIONS[j]]*2)
            with torch.no_grad(): out = scorer.model(**pixels, **words)
            if kind == "vilt": expected, score = out.logits.sigmoid().mean(), out.logits.mean()
            else:
                with torch.no_grad(): cosine = scorer.model(**pixels, **words, use_itm_head=False).itm_score[:, 0]
                expected = out.itm_score.softmax(-1)[:, 1].mean()
                image = F.normalize(scorer.model.vision_proj(out.last_hidden_state[:, 0]), dim=-1)
                score = cosine.mean()/image.mean(0).norm() # the mean embedding is made of length 1 again
            assert p[i, j] == pytest.approx(expected.item(), abs=1e-5)
            assert s[i, j] == pytest.approx(score.item(), abs=1e-5)
    assert p[0, 0] == p[0, 2] and scorer.match(V[:0], T[:0]).shape == (0,)
    with pytest.raises(VidnegError, match="aligned pairs"): scorer.match(V, T)


@each_kind
def test_images_are_videos_of_one_frame(kind, folders):
    scorer, image = load(folders[kind]), frames(3)
    T = scorer.encode_text(CAPTIONS)
    a, b = (scorer.similarity(scorer.encode_video(x), T) for x in (image, image[:, None]))
    assert (a == b).all() and a.shape == (3, 4)
    still = scorer.similarity(scorer.encode_video(np.repeat(image[:, None], 3, 1)), T)
    assert np.allclose(still, a, atol=1e-5)


@each_kind
def test_bad_input(kind, folders):
    scorer = load(folders[kind])
    for bad in (frames(2, 2).astype(np.float32)*np.nan, frames(2, 2)[0, 0], frames(0, 2), frames(2, 0)):
        with pytest.raises(VidnegError, match="uint8 of shape"): scorer.encode_video(bad)
    with pytest.raises(VidnegError, match="at least one"): scorer.encode_text([])
    V, long = scorer.encode_video(frames(1, 2)), "a star spins "*50
    s = scorer.similarity(V, scorer.encode_text([long, "a star spins "*49, ""]))
    assert np.isfinite(s).all() and s[0, 0] == pytest.approx(s[0, 1], abs=1e-6) # both are cut at the context length


def test_blip2_equals_the_model(folders):
    scorer, clips = load(folders["blip-2"], batch_size=3), frames(2, 2)
    V, T = scorer.encode_video(clips), scorer.encode_text(CAPTIONS)
    p, s = (f(V[[0, 1, 0, 1]], T) for f in (scorer.match, scorer.pairwise))
    for i, v in enumerate([0, 1, 0, 1]):
        pixels, words = inputs(scorer, clips[v:v + 1], [CAPTIONS[i]]*2)
        with torch.no_grad():
            head = scorer.model(**pixels, **words, use_image_text_matching_head=True).logits_per_image
            cosine = scorer.model(**pixels, **words).logits_per_image[:, 0]
        assert p[i] == pytest.approx(head.softmax(-1)[:, 1].mean().item(), abs=1e-5)
        assert s[i] == pytest.approx(cosine.mean().item(), abs=1e-5)


@pytest.mark.parametrize("kind", DUAL)
def test_any_dual_encoder_of_images_is_found_by_what_it_can_do(kind, tmp_path):
    torch.manual_seed(0)
    model, processor = make_dual(kind)
    scorer, clips = load(save(tmp_path, shaken(model), processor), batch_size=2), frames(2, 3)
    assert isinstance(scorer, DualEncoderScorer)
    V, T = scorer.encode_video(clips), scorer.encode_text([*CAPTIONS, "a star spins "*50]) # positions may start late
    flat = scorer.prepared([f for v in clips for f in v])
    with torch.no_grad():
        e = hf_dual.pooled(scorer.model.get_image_features(**flat))
        t = hf_dual.pooled(scorer.model.get_text_features(**scorer.tokenized(CAPTIONS[:2])))
    video = F.normalize(F.normalize(e, dim=-1).view(2, 3, -1).mean(1), dim=-1)
    expected = (video*F.normalize(t, dim=-1)).sum(-1)
    assert np.allclose(scorer.pairwise(V, T[[0, 1]]), expected.numpy(), atol=1e-5)
    assert len(scorer.tokens(["a star spins "*50])[0]) == scorer.context <= 12


def test_positions_that_start_late_shorten_the_context():
    config = tf.XLMRobertaConfig(**TEXT | {"pad_token_id": 1, "max_position_embeddings": 12})
    model, tokenizer = tf.XLMRobertaModel(config), type("T", (), {"model_max_length": 99})
    assert context_of(model, tokenizer) == 10 # 12 rows, of which the padding index 1 takes two
    longest = torch.full((1, 10), 5)
    assert model(longest).last_hidden_state.shape[1] == 10
    with pytest.raises((IndexError, RuntimeError)): model(torch.full((1, 11), 5))


@needs_5
@pytest.mark.parametrize("number", [4, 3, 7])
def test_videoprism_equals_the_model(number, tmp_path):
    vision = dict(image_size=32, num_frames=4, tubelet_size=[1, 16, 16], hidden_size=32, num_attention_heads=4,
                  intermediate_size=64, num_spatial_layers=1, num_temporal_layers=1, num_auxiliary_layers=1)
    torch.manual_seed(0)
    model = shaken(tf.VideoPrismClipModel(tf.VideoPrismConfig(text_config=TEXT, vision_config=vision)))
    save(tmp_path, model)
    with pytest.raises(VidnegError, match="no video processor"): load(tmp_path)
    settings = dict(size=SIDE, resample=3, do_normalize=True, image_mean=[.5]*3, image_std=[.5]*3)
    (tmp_path/"video_preprocessor_config.json").write_text(json.dumps(settings))
    scorer, clips = load(tmp_path, batch_size=2), frames(3, number, size=(32, 32))
    at = {4: [0, 1, 2, 3], 3: [0, 1, 1, 2], 7: None}[number]
    s = scorer.similarity(scorer.encode_video(clips), scorer.encode_text(CAPTIONS))
    assert scorer.protocol["n_frames"] == 4 and np.isfinite(s).all()
    if at is None: return
    pixels = torch.as_tensor(clips[:, at]).permute(0, 1, 4, 2, 3)/255 # scaled, never normalized
    words = scorer.tokenizer(CAPTIONS, padding="max_length", max_length=12, return_tensors="pt")
    with torch.no_grad():
        out = scorer.model(pixel_values_videos=pixels, input_ids=words["input_ids"],
                           attention_mask=words["attention_mask"])
    assert np.allclose(s, (out.video_embeds @ out.text_embeds.T).numpy(), atol=1e-5)


@needs_5
@each_type
def test_pe_video_equals_the_model(dtype):
    "Its vision model is timm's in published checkpoints, which is not needed for the rest."
    text = tf.ModernBertConfig(**{k: v for k, v in TEXT.items() if "token" not in k}, pad_token_id=0, bos_token_id=2,
                               eos_token_id=3, cls_token_id=2, sep_token_id=3)
    video = tf.PeVideoEncoderConfig(vision_config=tf.ViTConfig(**VISION, num_labels=16), hidden_size=32, head_dim=8,
                                    intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
    torch.manual_seed(0)
    model = shaken(tf.PeVideoModel(tf.PeVideoConfig(text_config=text, video_config=video)))
    assert adapter_of(model.config) is hf_dual.PeVideoScorer
    clips, scores = frames(3, 5, size=(32, 32)), []
    for t in (torch.float32, dtype):
        words = tokenizer_of(CAPTIONS)
        scorer = hf_dual.PeVideoScorer(model.to(t), tf.CLIPImageProcessor(**CROP), words, 2)
        V, T = scorer.encode_video(clips), scorer.encode_text(CAPTIONS)
        scores.append(scorer.similarity(V, T))
        assert np.allclose(scorer.pairwise(V[[0, 2]], T[[1, 3]]), scores[-1][[0, 2], [1, 3]], atol=1e-4)
    out = {k: v for k, v in words(CAPTIONS, padding=True, return_tensors="pt").items() if k != "token_type_ids"}
    pixels = torch.stack([scorer.prepared(v)["pixel_values"] for v in clips])
    with torch.no_grad(): out = model(**out, pixel_values_videos=pixels)
    expected = (out.video_embeds @ out.text_video_embeds.T).float().numpy() # a dot product, not a cosine
    assert np.allclose(scores[1], expected, rtol=TYPES[dtype], atol=10*TYPES[dtype])
    assert np.allclose(scores[0], scores[1], rtol=10*TYPES[dtype], atol=20*TYPES[dtype])

def tokenizer_of(texts):
    import tempfile
    with tempfile.TemporaryDirectory() as folder: return train_tokenizer(texts, 60, f"{folder}/t.json")


@each_type
@each_kind
def test_half_precision(kind, dtype, folders, tmp_path):
    "A checkpoint saved in half precision loads in it; any checkpoint loads in the type asked for."
    single, clips, seen = load(folders[kind]), frames(2, 3), []
    asked = load(folders[kind], dtype=dtype)
    saved = load(save(tmp_path/"half", single.model.to(dtype), single.image_processor))
    for scorer in (load(folders[kind]), asked, saved):
        V, T = scorer.encode_video(clips), scorer.encode_text(CAPTIONS)
        more = [scorer.match(V[[0, 1, 0, 1]], T)] if "match" in scorer.supports else []
        seen.append(np.concatenate([scorer.similarity(V, T).ravel(), scorer.pairwise(V[[0, 1, 0, 1]], T), *more]))
    name = str(dtype).removeprefix("torch.")
    assert asked.protocol["dtype"] == saved.protocol["dtype"] == name
    exact = kind != "blip-2" # its Q-Former stays in single precision, with the weights of the checkpoint
    assert (seen[1] == seen[2]).all() if exact else abs(seen[1] - seen[2]).max() <= 3*TYPES[dtype]
    assert abs(seen[0] - seen[1]).max() <= 3*TYPES[dtype]


@each_kind
def test_clips_of_different_sizes(kind, folders):
    scorer = load(folders[kind], batch_size=4)
    clips = [frames(3), frames(3, seed=1, size=(64, 48)), frames(3, seed=2, size=(33, 90))]
    T = scorer.encode_text(CAPTIONS)
    s = scorer.similarity(scorer.encode_video(clips), T)
    for i, clip in enumerate(clips): # ViLT pads to the largest of a batch
        assert np.allclose(s[i], scorer.similarity(scorer.encode_video([clip]), T)[0], atol=1e-4)
    with pytest.raises(VidnegError, match="equal numbers of frames"): scorer.encode_video([frames(3), frames(2)])
    with pytest.raises(VidnegError, match="list of N arrays"): scorer.encode_video([frames(3).astype(float)])
    with pytest.raises(VidnegError, match="list of N arrays"): scorer.encode_video([])


@each_kind
def test_texts_equal_up_to_the_context_tie_exactly_and_can_be_counted(kind, folders):
    scorer = load(folders[kind], batch_size=1)
    texts = ["a star spins "*20, "a star spins "*19, "a red ring"]
    a, b, c = scorer.tokens(texts)
    assert a == b != c and len(a) == scorer.context == 12
    V, T = scorer.encode_video(frames(1, 2)), scorer.encode_text(texts)
    s = scorer.pairwise(V[[0, 0, 0]], T)
    assert s[0] == s[1] != s[2] and len(set(T.index)) == 2
    with pytest.raises(VidnegError, match="not a text"): scorer.encode_text(["a star", None])


@pytest.mark.parametrize("kind", ["clip", "blip", "blip-2", "vilt"])
def test_pooling_over_frames(kind, folders):
    clips, one = frames(2, 3), []
    for t in range(3):
        scorer = load(folders[kind])
        V, T = scorer.encode_video(clips[:, [t]]), scorer.encode_text(CAPTIONS)
        one.append([scorer.similarity(V, T), *([scorer.match(V, T[:2])] if kind in MATCHING else [])])
    for pooling in POOLING:
        scorer = load(folders[kind], pooling=pooling)
        V, T = scorer.encode_video(clips), scorer.encode_text(CAPTIONS)
        alone = torch.as_tensor(np.stack([x[0] for x in one], -1))
        s = scorer.similarity(V, T)
        assert scorer.protocol["pooling"] == pooling
        if pooling == "max": expected = alone.amax(-1)
        elif pooling == "late": expected = ((alone/.1).exp()*alone).sum(-1)/(alone/.1).exp().sum(-1)
        else: expected = alone.mean(-1)
        exact = pooling != "mean" or kind in ("vilt", "blip-2") # other means are of embeddings, normalized again
        assert not exact or np.allclose(s, expected.numpy(), atol=1e-5)
        assert np.allclose(scorer.pairwise(V[[0, 1, 1]], T[[0, 1, 3]]), s[[0, 1, 1], [0, 1, 3]], atol=1e-5)
        if kind not in MATCHING: continue
        p = torch.as_tensor(np.stack([x[1] for x in one], -1))
        assert np.allclose(scorer.match(V, T[:2]), pool_frames(p, pooling).numpy(), atol=1e-5)


def test_pooling_is_bounded():
    s = torch.rand(5, 7, dtype=torch.float64)
    mean, top, late = (pool_frames(s, p) for p in POOLING)
    assert (mean <= late).all() and (late <= top).all()
    assert torch.allclose(pool_frames(s[:, :1], "late"), s[:, 0])


def test_what_does_not_fit_is_refused_at_loading(tmp_path, folders):
    parts = {p.name: p.read_bytes() for p in folders["clip"].iterdir()}
    def folder(name, without=(), **other):
        (tmp_path/name).mkdir()
        for file, content in {**parts, **other}.items():
            if file not in without: (tmp_path/name/file).write_bytes(content)
        return tmp_path/name
    bare = folder("bare", ("tokenizer.json", "tokenizer_config.json", "t.json", "special_tokens_map.json"))
    with pytest.raises(VidnegError, match="no tokenizer|cannot be loaded"): load(bare)
    with pytest.raises(VidnegError, match="processor|cannot be loaded"):
        load(folder("unprepared", ("preprocessor_config.json", "processor_config.json")))
    large = tf.CLIPImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    large.save_pretrained(tmp_path/"large")
    with pytest.raises(VidnegError, match="does not fit the model"):
        load(folder("wrong", **{p.name: p.read_bytes() for p in (tmp_path/"large").iterdir()}))
    with pytest.raises(VidnegError, match="no option 'poolings'; it has: pooling"):
        load(folders["clip"], poolings="max")
    with pytest.raises(VidnegError, match="no pooling 'median': choose one of mean, max, late"):
        load(folders["clip"], pooling="median")
    with pytest.raises(VidnegError, match="no such folder"): load("/no/such/folder")


def test_a_tokenizer_of_another_model_is_refused(tmp_path, folders):
    words = train_tokenizer([f"word{i}" for i in range(90)], 200, tmp_path/"t.json")
    for p in folders["clip"].iterdir(): (tmp_path/p.name).write_bytes(p.read_bytes())
    words.save_pretrained(tmp_path)
    scorer = load(tmp_path)
    with pytest.raises(VidnegError, match="knows 60 tokens, its tokenizer"): scorer.encode_text(["word89 word88"])


def test_weights_that_are_missing_are_not_made_up(tmp_path):
    config = tf.BlipConfig(text_config=TEXT | {"encoder_hidden_size": 32}, vision_config=VISION)
    save(tmp_path, tf.BlipForConditionalGeneration(config), tf.BlipImageProcessor(**SQUARE))
    with pytest.raises(VidnegError, match="lacks .* weights .* saved from BlipForConditionalGeneration"): load(tmp_path)


def test_devices_and_types():
    assert device_of("cpu") == torch.device("cpu") and device_of(torch.device("cpu")).type == "cpu"
    assert device_of().type == ("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available()
                                else "cpu")
    with pytest.raises(VidnegError, match="no device 'gpu': choose cuda, mps or cpu"): device_of("gpu")
    with pytest.raises(VidnegError, match="no device"): device_of("cpu:x")
    if not torch.cuda.is_available():
        with pytest.raises(VidnegError, match="this machine has no cuda: choose"): device_of("cuda:1")
    assert dtype_of("bf16") is dtype_of(torch.bfloat16) is torch.bfloat16 and dtype_of() == "auto"
    with pytest.raises(VidnegError, match="no dtype 'int8'"): dtype_of("int8")


def test_a_revision_is_the_content_of_a_folder(tmp_path, folders):
    first = revision_of(folders["clip"])
    assert first == revision_of(folders["clip"]) and first.startswith("sha256:") and len(first) == 23
    for p in folders["clip"].iterdir(): (tmp_path/p.name).write_bytes(p.read_bytes())
    assert revision_of(tmp_path) == first
    (tmp_path/"README.md").write_text("a card")
    assert revision_of(tmp_path) == first
    weights = bytearray((tmp_path/"model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path/"model.safetensors").write_bytes(weights)
    assert revision_of(tmp_path) != first


def test_features_tell_dual_encoders():
    assert has_features(tf.CLIPModel) and not has_features(tf.BertModel) and not has_features(tf.CLIPVisionModel)
    assert has_features(tf.XCLIPModel, "video")
    assert adapter_of(tf.Blip2Config(architectures=["Blip2ForImageTextRetrieval"])) is hf_matching.Blip2Scorer
    assert adapter_of(tf.BertConfig()) is None


def test_folders_that_cannot_be_scored_are_refused(tmp_path, folders):
    with pytest.raises(VidnegError, match="cannot be loaded"): load_hf(tmp_path/"nothing")
    tf.BertModel(tf.BertConfig(**LAYERS, vocab_size=60)).save_pretrained(tmp_path)
    for name in ("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path/name).write_bytes((folders["clip"]/name).read_bytes())
    with pytest.raises(VidnegError, match="no image and text embeddings"): load_hf(tmp_path)
