"Adapters of transformers models: random weights, saved and loaded as published ones, against their own forward."
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import (
    BertConfig,
    BertModel,
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    VideoMAEImageProcessor,
    ViltConfig,
    ViltForImageAndTextRetrieval,
    ViltImageProcessor,
    XCLIPConfig,
    XCLIPModel,
)
from transformers.utils import logging

from vidneg.core.errors import VidnegError
from vidneg.models.hf import BlipScorer, DualEncoderScorer, MicrosoftXClipScorer, SiglipScorer, ViltScorer, load_hf
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
           "vilt": ViltScorer}

def make(kind):
    "Make a small model with random weights and its image processor."
    if kind == "clip": return CLIPModel(CLIPConfig(**BOTH, projection_dim=32)), CLIPImageProcessor(**CROP)
    if kind == "siglip": return SiglipModel(SiglipConfig(**BOTH)), SiglipImageProcessor(**SQUARE)
    if kind == "xclip":
        config = XCLIPConfig(text_config=TEXT, vision_config=VISION | MIT, projection_dim=32, prompt_alpha=.5,
                             prompt_num_attention_heads=4)
        return XCLIPModel(config), VideoMAEImageProcessor(**CROP)
    if kind == "blip":
        config = BlipConfig(text_config=TEXT | {"encoder_hidden_size": 32}, vision_config=VISION,
                            image_text_hidden_size=32)
        return BlipForImageTextRetrieval(config), BlipImageProcessor(**SQUARE)
    config = ViltConfig(**VISION, vocab_size=60, max_position_embeddings=12)
    return ViltForImageAndTextRetrieval(config), ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=16)

each_kind = pytest.mark.parametrize("kind", CLASSES)

def frames(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(256, (*shape, 40, 56, 3), dtype=torch.uint8, generator=g).numpy()

@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    "Save each kind of model with `save_pretrained`; return the folders."
    out, root = {}, tmp_path_factory.mktemp("hf")
    tokenizer = train_tokenizer(CAPTIONS, 60, root/"t.json")
    for kind in CLASSES:
        torch.manual_seed(0)
        model, processor = make(kind)
        with torch.no_grad(): # fresh heads are almost zero: let the scores differ
            for p in model.parameters(): p.add_(.05*torch.randn(p.shape))
        for part in (model, processor, tokenizer): part.save_pretrained(root/kind)
        out[kind] = root/kind
    return out

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
    for load in (load_hf, load_scorer):
        scorer = load(folders[kind])
        V, T = scorer.encode_video(clips), scorer.encode_text(CAPTIONS)
        s = scorer.similarity(V, T)
        assert type(scorer) is CLASSES[kind] and len(V) == 2 and len(T) == 4
        assert s.shape == (2, 4) and np.isfinite(s).all() and (s[:, 0] == s[:, 2]).all() and s.std() > 1e-4
        assert ("match" in scorer.supports) == (kind in ("blip", "vilt"))
        if "pairwise" in scorer.supports:
            assert np.allclose(scorer.pairwise(V[[0, 1, 0]], T[[2, 1, 0]]), s[[0, 1, 0], [2, 1, 0]])
        scores.append([s] + ([scorer.match(V[[0, 1, 0, 1]], T)] if "match" in scorer.supports else []))
    for a, b in zip(*scores): assert (a == b).all()


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_dual_encoder_of_images_equals_the_model(kind, folders):
    scorer, clips = load_hf(folders[kind], batch_size=2), frames(3, 1)
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
    scorer, clips = load_hf(folders["xclip"], batch_size=2), frames(3, 4)
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
    scorer, clips = load_hf(folders[kind], batch_size=3), frames(2, 2)
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
    scorer, image = load_hf(folders[kind]), frames(3)
    T = scorer.encode_text(CAPTIONS)
    a, b = (scorer.similarity(scorer.encode_video(x), T) for x in (image, image[:, None]))
    assert (a == b).all() and a.shape == (3, 4)
    still = scorer.similarity(scorer.encode_video(np.repeat(image[:, None], 3, 1)), T)
    assert np.allclose(still, a, atol=1e-5)


@each_kind
def test_bad_input(kind, folders):
    scorer = load_hf(folders[kind])
    for bad in (frames(2, 2).astype(np.float32)*np.nan, frames(2, 2)[0, 0], frames(0, 2), frames(2, 0)):
        with pytest.raises(VidnegError, match="uint8 of shape"): scorer.encode_video(bad)
    with pytest.raises(VidnegError, match="at least one"): scorer.encode_text([])
    V, long = scorer.encode_video(frames(1, 2)), "a star spins "*50
    s = scorer.similarity(V, scorer.encode_text([long, "a star spins "*49, ""]))
    assert np.isfinite(s).all() and s[0, 0] == pytest.approx(s[0, 1], abs=1e-6) # both are cut at the context length


def test_folders_that_cannot_be_scored_are_refused(tmp_path, folders):
    with pytest.raises(VidnegError, match="cannot be loaded"): load_hf(tmp_path/"nothing")
    BertModel(BertConfig(**LAYERS, vocab_size=60)).save_pretrained(tmp_path)
    for name in ("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path/name).write_bytes((folders["clip"]/name).read_bytes())
    with pytest.raises(VidnegError, match="no image and text embeddings"): load_hf(tmp_path)
