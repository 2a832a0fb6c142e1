"Generative models of transformers as scorers, each against a hand-written loop over the same class."
import importlib.util
import tempfile

import numpy as np
import pytest
import torch
import transformers as tf
from PIL import Image
from tokenizers.processors import TemplateProcessing
from transformers.utils import logging

from vidneg.core.errors import VidnegError
from vidneg.models.hf import load_hf
from vidneg.models.hf_generative import PROMPTS, GenerativeScorer, answer_ids, answered
from vidneg.text.tokenize import train_tokenizer

logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(1)

CAPTIONS = ["a star spins", "a red ring", "a star spins", "a green star on a beach touches it"]
WORDS = ['yes no user assistant does this video show answer or describe in one sentence : question 0123456789 . s ? "',
         *CAPTIONS]
LAYERS = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
TEXT = LAYERS | dict(num_key_value_heads=2, max_position_embeddings=512)
VISION = LAYERS | dict(image_size=32, patch_size=16)
SIDE = {"height": 32, "width": 32}
CHAT = ("{% for m in messages %}user: {% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE"
        "{% elif c['type'] == 'video' %}VIDEO{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %} assistant:")
VIDEO = ("llava_next_video", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "smolvlm")
SINGLE = ("blip-2", "blip-2 t5", "instructblip", "instructblip t5")
TYPES = {torch.float32: 1e-4, torch.float16: .03, torch.bfloat16: .3} # how far scores may be from single precision

def words(*special):
    "Train a tokenizer with these special tokens; return it with its chat template's filling."
    with tempfile.TemporaryDirectory() as folder: tokenizer = train_tokenizer(WORDS, 300, f"{folder}/t.json")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    tokenizer.add_special_tokens({"additional_special_tokens": [*special], "eos_token": "[SEP]", "bos_token": "[CLS]"})
    return tokenizer

def chat(image, video=""): return CHAT.replace("IMAGE", image).replace("VIDEO", video)

def make_llava():
    t = words("<image>")
    config = tf.LlavaConfig(vision_config=tf.CLIPVisionConfig(**VISION), vision_feature_layer=-1,
                            text_config=tf.LlamaConfig(**TEXT, vocab_size=len(t)), image_token_id=len(t) - 1)
    processor = tf.LlavaProcessor(tf.CLIPImageProcessor(size=SIDE, do_center_crop=False), t, patch_size=16,
                                  vision_feature_select_strategy="default", num_additional_image_tokens=1,
                                  chat_template=chat("<image>"))
    return tf.LlavaForConditionalGeneration(config), processor

def make_llava_video(kind):
    t, side = words("<image>", "<video>"), {"height": 64, "width": 64}
    tokens = dict(image_token_index=len(t) - 2, video_token_index=len(t) - 1, vision_feature_layer=-1)
    if kind == "llava_next_video":
        config = tf.LlavaNextVideoConfig(vision_config=tf.CLIPVisionConfig(**LAYERS, image_size=64, patch_size=16),
                                         text_config=tf.LlamaConfig(**TEXT, vocab_size=len(t)), **tokens,
                                         image_grid_pinpoints=[[64, 64]])
        parts = (tf.LlavaNextVideoVideoProcessor(size=side, do_center_crop=False),
                 tf.LlavaNextImageProcessor(size=side, do_center_crop=False, image_grid_pinpoints=[[64, 64]]), t)
        return tf.LlavaNextVideoForConditionalGeneration(config), tf.LlavaNextVideoProcessor(
            *parts, patch_size=16, vision_feature_select_strategy="default", num_additional_image_tokens=1,
            chat_template=chat("<image>", "<video>"))
    config = tf.LlavaOnevisionConfig(vision_config=tf.SiglipVisionConfig(**VISION), **tokens,
                                     text_config=tf.Qwen2Config(**TEXT, vocab_size=len(t)),
                                     image_grid_pinpoints=[[32, 32]])
    parts = (tf.LlavaOnevisionImageProcessor(size=SIDE, image_grid_pinpoints=[[32, 32]]), t,
             tf.LlavaOnevisionVideoProcessor(size=SIDE))
    return tf.LlavaOnevisionForConditionalGeneration(config), tf.LlavaOnevisionProcessor(
        *parts, num_image_tokens=4, vision_feature_select_strategy="full", chat_template=chat("<image>", "<video>"))

def make_qwen(kind):
    t = words("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    n, side = len(t), dict(min_pixels=56*56, max_pixels=56*56)
    text = TEXT | dict(vocab_size=n, bos_token_id=2, eos_token_id=3, pad_token_id=0, rope_parameters={
        "rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4})
    ids = dict(image_token_id=n - 4, video_token_id=n - 3, vision_start_token_id=n - 2, vision_end_token_id=n - 1)
    if kind == "qwen2_vl":
        vision = dict(depth=1, embed_dim=32, hidden_size=32, num_heads=4, patch_size=14, mlp_ratio=2)
        config, model, processor = tf.Qwen2VLConfig, tf.Qwen2VLForConditionalGeneration, tf.Qwen2VLProcessor
    else:
        vision = dict(depth=1, hidden_size=32, out_hidden_size=32, intermediate_size=64, num_heads=4, patch_size=14,
                      fullatt_block_indexes=[0], window_size=56)
        config, model, processor = tf.Qwen2_5_VLConfig, tf.Qwen2_5_VLForConditionalGeneration, tf.Qwen2_5_VLProcessor
    pads = [f"<|vision_start|><|{kind}_pad|><|vision_end|>" for kind in ("image", "video")]
    return model(config(text_config=text, vision_config=vision, **ids)), processor(
        tf.Qwen2VLImageProcessor(**side), t, tf.Qwen2VLVideoProcessor(**side), chat_template=chat(*pads))

def make_smolvlm():
    special = ("<image>", "<fake_token_around_image>", "<global-img>", "<video>", "<end_of_utterance>")
    t, edge = words(*special), {"longest_edge": 32}
    t.image_token, t.fake_image_token, t.global_image_token, t.video_token, t.end_of_utterance_token = special
    text = tf.LlamaConfig(**TEXT, vocab_size=len(t), pad_token_id=0)
    config = tf.SmolVLMConfig(vision_config=VISION, text_config=text, scale_factor=2, pad_token_id=0,
                              image_token_id=t.convert_tokens_to_ids("<image>"))
    parts = (tf.SmolVLMImageProcessor(size=edge, max_image_size=edge, do_image_splitting=False), t,
             tf.SmolVLMVideoProcessor(size=edge, max_image_size=edge,
                                      video_sampling={"fps": 1, "max_frames": 8, "video_size": edge}))
    return tf.SmolVLMForConditionalGeneration(config), tf.SmolVLMProcessor(
        *parts, image_seq_len=1, chat_template=chat("<image>", "<video>"))

def make_blip(kind):
    t = words("<image>")
    text = (tf.T5Config(vocab_size=len(t), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
                        decoder_start_token_id=0) if "t5" in kind else
            tf.OPTConfig(vocab_size=len(t), hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4,
                         max_position_embeddings=256, word_embed_proj_dim=32))
    former = LAYERS | dict(encoder_hidden_size=32, vocab_size=len(t), cross_attention_frequency=1)
    given = dict(vision_config=VISION, qformer_config=former, text_config=text.to_dict(), num_query_tokens=4,
                 image_token_index=len(t) - 1)
    image = tf.BlipImageProcessor(size=SIDE)
    if kind.startswith("blip"):
        return (tf.Blip2ForConditionalGeneration(tf.Blip2Config(**given)),
                tf.Blip2Processor(image, t, num_query_tokens=4))
    return (tf.InstructBlipForConditionalGeneration(tf.InstructBlipConfig(**given)),
            tf.InstructBlipProcessor(image, t, words(), num_query_tokens=4))

def make(kind):
    "Make a small model with random weights and its processor."
    if kind in VIDEO and not importlib.util.find_spec("torchvision"):
        pytest.skip(f"the video processor of {kind} needs torchvision")
    if kind == "smolvlm" and not importlib.util.find_spec("num2words"): pytest.skip("SmolVLM needs num2words")
    if kind == "llava": return make_llava()
    if kind == "smolvlm": return make_smolvlm()
    if kind in SINGLE: return make_blip(kind)
    return make_qwen(kind) if "qwen" in kind else make_llava_video(kind)

@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    "Return a function that saves a kind of model once, and returns its folder."
    folders, root = {}, tmp_path_factory.mktemp("generative")
    def save(kind):
        if kind not in folders:
            torch.manual_seed(0)
            model, processor = make(kind)
            with torch.no_grad():
                for p in model.parameters(): p.add_(.1*torch.randn(p.shape))
            for part in (model, processor): part.save_pretrained(root/kind)
            folders[kind] = root/kind
        return folders[kind]
    return save

def clips(n=2, t=4, size=(40, 56), seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, t, *size, 3), dtype=torch.uint8, generator=g).numpy()

each_kind = pytest.mark.parametrize("kind", ["llava", *VIDEO, *SINGLE])

def by_hand(scorer, frames, caption, score):
    """Score one pair as a user would: the prompt and its answer in one text, one forward, the tokens' probabilities.
    `frames` (T, H, W, 3), or None: without frames."""
    processor, asked, how = scorer.image_processor, PROMPTS[score].replace("{}", caption), scorer.prompts.frames_as
    end = f"{caption} [SEP]" if score == "caption" else ""
    shown, content = {}, [{"type": "text", "text": asked}]
    if frames is not None and how == "single": # one forward for each frame
        return np.mean([_blip(scorer.model, processor, Image.fromarray(f), asked, end, score) for f in frames])
    if frames is not None and how == "images":
        shown, content = {"images": [[Image.fromarray(f) for f in frames]]}, [{"type": "image"}]*len(frames) + content
    elif frames is not None:
        about = dict(total_num_frames=len(frames), fps=2., duration=len(frames)/2, height=frames.shape[1],
                     width=frames.shape[2], frames_indices=[*range(len(frames))])
        shown = dict(videos=[frames], do_sample_frames=False, video_metadata=[about])
        content = [{"type": "video"}, *content]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[f"{prompt} {end}".strip()], return_tensors="pt", **shown)
    with torch.no_grad(): p = scorer.model(**inputs).logits[0].double().log_softmax(-1)
    if score == "yes":
        yes, no = processor.tokenizer.convert_tokens_to_ids(["yes", "no"])
        return (p[-1, yes] - p[-1, no]).item()
    answer = processor.tokenizer(end)["input_ids"]
    assert inputs["input_ids"][0, -len(answer):].tolist() == answer
    return sum(p[i - len(answer) - 1, token].item() for i, token in enumerate(answer))

def _blip(model, processor, image, asked, end, score):
    "Score one image by hand."
    tokenizer = processor.tokenizer
    text = f"Question: {asked} Answer:" if score == "yes" else asked
    inputs = processor(images=image, text=text, return_tensors="pt")
    answer = tokenizer(end, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        if model.config.get_text_config().is_encoder_decoder:
            decoder = torch.tensor([[0, *answer]])
            p = model(**inputs, decoder_input_ids=decoder).logits[0].double().log_softmax(-1)
        else:
            n = inputs["input_ids"].shape[1]
            inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([answer], dtype=torch.long)], 1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            p = model(**inputs).logits[0, n - 1:].double().log_softmax(-1)
    if score == "yes":
        yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
        return (p[0, yes] - p[0, no]).item()
    return sum(p[i, token].item() for i, token in enumerate(answer))


@pytest.mark.parametrize("score", PROMPTS)
@each_kind
def test_scores_equal_a_loop_by_hand(kind, score, saved):
    scorer, videos = load_hf(saved(kind), 3, "cpu", score=score), clips()
    assert type(scorer) is GenerativeScorer and scorer.protocol["prompt"] == PROMPTS[score]
    assert scorer.prompts.frames_as == ("single" if kind in SINGLE else "video" if kind in VIDEO else "images")
    V, T, at = scorer.encode_video(videos), scorer.encode_text(CAPTIONS), np.array([0, 1, 0, 1])
    s = scorer.pairwise(V[at], T)
    expected = [by_hand(scorer, videos[v], c, score) for v, c in zip(at, CAPTIONS)]
    assert np.allclose(s, expected, atol=1e-4) and s.dtype == np.float64 and s[0] == s[2]
    assert np.allclose(scorer.similarity(V, T)[at, range(4)], s, atol=1e-4)
    assert scorer.pairwise(V[:0], T[:0]).shape == (0,)
    if score == "yes": assert np.allclose(scorer.match(V[at], T), 1/(1 + np.exp(-s)), atol=1e-6)
    else:
        with pytest.raises(VidnegError, match="needs score='yes'"): scorer.match(V[at], T)


@pytest.mark.parametrize("score", PROMPTS)
@pytest.mark.parametrize("kind", ["llava", *VIDEO])
def test_the_prior_is_the_score_without_frames_and_can_be_taken_off(kind, score, saved):
    scorer = load_hf(saved(kind), 3, "cpu", score=score)
    prior = scorer.prior(CAPTIONS)
    assert np.allclose(prior, [by_hand(scorer, None, c, score) for c in CAPTIONS], atol=1e-4) and prior[0] == prior[2]
    V, T = scorer.encode_video(clips()), scorer.encode_text(CAPTIONS)
    seen = scorer.pairwise(V[[0, 1, 0, 1]], T)
    for weight in (.5, 1.):
        off = load_hf(saved(kind), 3, "cpu", score=score, prior_weight=weight)
        assert np.allclose(off.pairwise(V[[0, 1, 0, 1]], T), seen - weight*prior, atol=1e-5)


@pytest.mark.parametrize("kind", ["blip-2", "instructblip"])
def test_models_of_single_images_have_no_prior_and_pool_over_frames(kind, saved):
    scorer, videos = load_hf(saved(kind), 4, "cpu", pooling="max"), clips()
    assert "prior" not in scorer.supports and scorer.protocol["pooling"] == "max"
    T = scorer.encode_text(CAPTIONS[:2])
    alone = np.stack([scorer.pairwise(scorer.encode_video(videos[:, [t]]), T) for t in range(4)])
    assert np.allclose(scorer.pairwise(scorer.encode_video(videos), T), alone.max(0), atol=1e-4)
    with pytest.raises(VidnegError, match="without an image"): load_hf(saved(kind), 4, "cpu", prior_weight=1.)


@pytest.mark.parametrize("dtype", TYPES, ids=lambda t: str(t).removeprefix("torch."))
@each_kind
def test_half_precision(kind, dtype, saved):
    videos, seen = clips(), []
    for t in (torch.float32, dtype):
        scorer = load_hf(saved(kind), 2, "cpu", dtype=t, score="caption")
        seen.append(scorer.pairwise(scorer.encode_video(videos)[[0, 1, 0, 1]], scorer.encode_text(CAPTIONS)))
    assert scorer.protocol["dtype"] == str(dtype).removeprefix("torch.")
    assert abs(seen[0] - seen[1]).max() <= TYPES[dtype] and seen[1][0] == seen[1][2]


def test_the_mean_is_per_token(saved):
    total, mean = (load_hf(saved("llava"), 8, "cpu", score="caption", length=x) for x in ("sum", "mean"))
    V, T = total.encode_video(clips()), total.encode_text(CAPTIONS)
    tokens = np.array([len(x) + 1 for x in total.tokens(CAPTIONS)]) # and the end
    assert np.allclose(total.pairwise(V[[0]*4], T), tokens*mean.pairwise(V[[0]*4], T), atol=1e-6)


def test_scores_do_not_depend_on_the_batch_and_clips_may_differ_in_size(saved):
    texts, scores = CAPTIONS, []
    videos = [clips(1)[0], clips(1, size=(64, 48), seed=1)[0]]
    for batch_size in (1, 3, 8):
        scorer = load_hf(saved("llava"), batch_size, "cpu")
        scores.append(scorer.pairwise(scorer.encode_video(videos)[[0, 1, 0, 1]], scorer.encode_text(texts)))
    assert np.allclose(scores[0], scores[1], atol=1e-5) and np.allclose(scores[0], scores[2], atol=1e-5)


def test_long_captions_are_cut_and_counted(saved):
    scorer = load_hf(saved("llava"), 4, "cpu", score="caption")
    long = ["a star spins "*200, "a star spins "*150]
    a, b = scorer.tokens(long)
    assert a == b and len(a) == 256
    s = scorer.pairwise(scorer.encode_video(clips())[[0, 0]], scorer.encode_text(long))
    assert s[0] == s[1]
    with pytest.raises(VidnegError, match="take .* tokens, the model's context has 512: use fewer frames"):
        scorer.pairwise(scorer.encode_video(clips(1, 80)), scorer.encode_text(long[:1]))


def test_options_are_checked(saved):
    for options, message in ((dict(score="maybe"), "choose yes or caption"), (dict(length="max"), "choose sum or mean"),
                             (dict(prompt="Is it so?"), "lacks {}"),
                             (dict(frames_as="video"), "choose images or single"),
                             (dict(temperature=1), "no option 'temperature'")):
        with pytest.raises(VidnegError, match=message): load_hf(saved("llava"), 4, "cpu", **options)
    scorer = load_hf(saved("llava"), 4, "cpu", prompt="Is it true: {}?", frames_as="single")
    assert scorer.protocol["prompt"] == "Is it true: {}?" and scorer.protocol["pooling"] == "mean"
    assert "Is it true: a star?" in scorer.prompts.rendered("a star", 1)
    one = clips(1, 1)
    images = load_hf(saved("llava"), 4, "cpu", prompt="Is it true: {}?")
    s = [x.pairwise(x.encode_video(one), x.encode_text(["a star spins"])) for x in (scorer, images)]
    assert np.allclose(*s, atol=1e-5) # one image is one image


def test_yes_and_no_are_all_spellings_of_one_token():
    tokenizer = words()
    assert answer_ids(tokenizer, "yes") == tokenizer.convert_tokens_to_ids(["yes"])
    assert answer_ids(tokenizer, "perhaps") == [] # several tokens


def test_answers_follow_their_prompts():
    ids = torch.tensor([[7, 8, 9], [7, 0, 0]])
    inputs = {"input_ids": ids, "attention_mask": (ids > 0).long(), "token_type_ids": torch.ones_like(ids),
              "pixel_values": torch.zeros(2, 3, 4, 4)}
    out = answered(inputs, [[1, 2], [3]])
    assert out["input_ids"].tolist() == [[7, 8, 9, 1, 2], [7, 3, 0, 0, 0]]
    assert out["attention_mask"].tolist() == [[1]*5, [1, 1, 0, 0, 0]]
    assert out["token_type_ids"].tolist() == [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]
    assert out["pixel_values"] is inputs["pixel_values"]
