"A chat model on a local server writes what the grammars write: its answers are checked, kept, and asked for once."
import json
import shutil
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from stages import run
from test_generators_stage import CORPUS, SCRIPTS, dataset, written

from vidneg.core.records import Caption, Negative, read_records
from vidneg.core.seeds import stable_seed
from vidneg.lm.backends import chat_backend
from vidneg.negatives.components.make import ComponentGenerator
from vidneg.negatives.generate import make_negatives
from vidneg.negatives.spot.captions import PAPER_PROMPT, make_spot, spot_generator
from vidneg.negatives.spot.faithful import faithful
from vidneg.text.edits import undo
from vidneg.text.parse import PIPELINE, NamedParser
from vidneg.world.language import ACTIONS, ATTRIBUTES
from vidneg.world.vocabulary import WorldReader, world_vocabulary

pytestmark = pytest.mark.skipif(not PIPELINE.exists(), reason="the pipeline is not there: run the stage `parser`")
WRONG, KEY = "A purple cat sleeps on the moon.", "secret-of-the-test"
GRAPHS = [s.graph for s in SCRIPTS["train"]]


def exchanged(text, words):
    "Return a text with its first known word replaced by the next known one."
    at = min((f" {text} ".find(f" {w} "), i) for i, w in enumerate(words) if f" {w} " in f" {text} ")
    return f" {text} ".replace(f" {words[at[1]]} ", f" {words[at[1] - 1]} ", 1).strip()


def answer(system, text):
    "Answer as a good model does where this is simple, otherwise with the text itself."
    if system == PAPER_PROMPT: return "\n".join(f"{i}. {lead} {text}." for i, lead in enumerate(("A", "The"), 1))
    text = text.removeprefix("<caption>").removesuffix("</caption>")
    words = {"Replace the verb": [*ACTIONS.values()], "Replace one adjective": [*ATTRIBUTES["color"]]}
    known = next((w for start, w in words.items() if system.startswith(start)), [])
    return f"Sure! {exchanged(text, known)}" if any(f" {w} " in f" {text} " for w in known) else text


class Model(BaseHTTPRequestHandler):
    "An OpenAI-compatible endpoint; `server.wrong` is the share of the questions that it answers wrongly."
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((asked["model"], self.headers["Authorization"]))
        system, text = asked["messages"][0]["content"], asked["messages"][-1]["content"]
        wrong = stable_seed(0, "wrong", system, text) % 100 < 100*self.server.wrong
        said = {"role": "assistant", "content": WRONG if wrong else answer(system, text)}
        body = json.dumps({"id": "x", "object": "chat.completion", "created": 0, "model": asked["model"], "choices": [
            {"index": 0, "message": said, "finish_reason": "stop"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args): "Keep the test's output clean."


@pytest.fixture(params=[0.0, 0.5], ids=["good", "half wrong"])
def server(request, monkeypatch):
    monkeypatch.setenv("THE_KEY", KEY)
    s = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    s.asked, s.wrong = [], request.param
    s.spec = {"model": "writer", "base_url": f"http://127.0.0.1:{s.server_port}/v1", "api_key_env": "THE_KEY"}
    threading.Thread(target=s.serve_forever, daemon=True).start()
    yield s
    s.shutdown()
    s.server_close()


def test_spot_captions_by_a_chat_model(server, tmp_path):
    def made(spec=None):
        chat = chat_backend(spec, tmp_path)
        return make_spot(GRAPHS, spot_generator(GRAPHS, "world", "world", chat=chat))
    some = made(server.spec)
    by_chat = sum(n for origin, n in some.origins.items() if origin.startswith("chat"))
    assert 0 < by_chat <= len(some.negatives) == len(made().negatives)
    if not server.wrong: assert by_chat > .5*len(some.negatives)
    else: assert any(origin.startswith("grammar") for origin in some.origins)
    for c, n, pair in zip(some.captions, some.negatives, some.pairs):
        assert undo(n.text, n.edits) == c.text and "purple cat" not in c.text + n.text
        if server.wrong: continue # the grammar wrote some
        assert not faithful(c.text, pair.original) and not faithful(n.text, pair.manipulated)
        assert faithful(n.text, pair.original), "the negative says something else"
    first = len(server.asked)
    again = made(server.spec)
    assert len(server.asked) == first and (again.captions, again.negatives) == (some.captions, some.negatives)
    assert {who for who, _ in server.asked} == {"writer"} and {key for _, key in server.asked} == {f"Bearer {KEY}"}


def test_components_by_a_chat_model(server, tmp_path):
    captions = [c for c in CORPUS["train"] if c.grain == "fine"][:16]
    def made(order=1):
        chat = chat_backend(server.spec, tmp_path)
        maker = ComponentGenerator(NamedParser(), world_vocabulary(), WorldReader(), chat)
        return make_negatives(captions[::order], maker, seed=0)[0]
    some = made()
    origins = Counter(n.generator for n in some)
    assert origins["components-llm"] > 1 and origins["components-grammar"] > 5
    text = {c.caption_id: c.text for c in captions}
    assert all(undo(n.text, n.edits) == text[n.caption_id] and "purple cat" not in n.text for n in some)
    assert {n.kind for n in some if n.generator == "components-llm"} >= {"modifier"}
    first = len(server.asked)
    key = lambda n: (n.caption_id, n.kind)
    assert sorted(made(-1), key=key) == sorted(some, key=key) and len(server.asked) == first


@pytest.mark.slow
def test_the_stage_generators_asks_once(server, tmp_path, monkeypatch):
    torch.set_num_threads(1)
    (tmp_path/"settings.ini").touch()
    dataset(tmp_path)
    run("generators", tmp_path, monkeypatch, clips=3, rounds=2, chat=server.spec)
    first, bytes_ = len(server.asked), written(tmp_path/"data/generated")
    files = [p for p in (tmp_path/"data/generated").rglob("*components*") if p.is_file()]
    assert first and any("components-llm" in {n.generator for n in read_records(p, Negative)} for p in files)
    spot = [c for p in (tmp_path/"data/generated").rglob("*spot-balanced*captions*") for c in read_records(p, Caption)]
    assert all("purple cat" not in c.text for c in spot)
    shutil.rmtree(tmp_path/"data/generated") # as DVC does, which leaves data/chat/generators
    run("generators", tmp_path, monkeypatch, clips=3, rounds=2, chat=server.spec)
    assert len(server.asked) == first and written(tmp_path/"data/generated") == bytes_
    assert not any(KEY.encode() in p.read_bytes() for p in (tmp_path/"data").rglob("*") if p.is_file())
