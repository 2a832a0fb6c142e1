"Models leave the house with tokenizer and card, and come back from a folder, from the Hub's functions, and by name."
import hashlib
import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from vidneg.core.cards import is_sealed, seal
from vidneg.core.errors import VidnegError
from vidneg.models.hub import ModelFacts, accuracy_table, from_hub, hub_class, save_for_hub
from vidneg.models.io import load, read_config, save
from vidneg.models.navero import Navero, NaveroConfig
from vidneg.models.zoo import load_scorer
from vidneg.text.tokenize import train_tokenizer

FACTS = ModelFacts("Tiny", license="apache-2.0", data="None.", recipe={"losses": "vtc, vtm", "epochs": 2},
                   evaluated_on="a test", citation="@misc{tiny}")
ACCURACY = pd.DataFrame({"run": ["model", "model", "blank"], "kind": ["action", "all", "all"], "value": [.71, .73, .5],
                         "low": [.66, .7, .45], "high": [.76, .77, .55], "n": [310, 900, 900]})


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(["a dog runs", "a cat sits"], 60, tmp_path_factory.mktemp("t")/"tokenizer.json")


@pytest.fixture(scope="module")
def model(tokenizer):
    config = NaveroConfig(vocab_size=len(tokenizer), width=16, heads=2, embed_dim=8, stem=(8, 8, 16), image_size=32)
    return Navero(config, seed=3)


def same(a, b): return all(torch.equal(w, b.state_dict()[k]) for k, w in a.state_dict().items())


def scores(scorer):
    frames = np.arange(2*2*32*32*3, dtype=np.uint8).reshape(2, 2, 32, 32, 3)
    return scorer.similarity(scorer.encode_video(frames), scorer.encode_text(["a dog runs", "a cat sits"]))


def test_folder_is_loaded_as_a_scorer(tmp_path, model, tokenizer):
    folder = save_for_hub(model, tmp_path/"m", FACTS, tokenizer)
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors", "tokenizer"]
    save(model, tmp_path/"plain", tokenizer)
    np.testing.assert_array_equal(scores(load_scorer(folder)), scores(load_scorer(tmp_path/"plain")))


def test_run_folder_is_saved_with_its_last_metrics(tmp_path, model, tokenizer):
    run = save(model, tmp_path/"run")
    (run/"metrics.csv").write_text("epoch,val_acc\n1,0.5\n2,0.75\n")
    with pytest.raises(VidnegError, match="no tokenizer"): save_for_hub(run, tmp_path/"m", FACTS)
    tokenizer.save_pretrained(run/"tokenizer")
    folder = save_for_hub(run, tmp_path/"m", FACTS)
    assert same(model, load(folder)) and "| val\\_acc | 0.75 |" in (folder/"README.md").read_text()
    shutil.rmtree(run/"tokenizer")
    tokenizer.backend_tokenizer.save(str(run/"tokenizer.json"))
    assert scores(load_scorer(save_for_hub(run, tmp_path/"n", FACTS))).shape == (2, 2)


def test_other_tokenizer_is_refused(tmp_path, model):
    other = train_tokenizer(["x y"], 9, tmp_path/"tokenizer.json")
    with pytest.raises(VidnegError, match="the tokenizer has 9 tokens, the model"):
        save_for_hub(model, tmp_path/"m", FACTS, other)
    assert not (tmp_path/"m").exists()


def test_card_names_what_others_need(tmp_path, model, tokenizer):
    text = (save_for_hub(model, tmp_path/"m", FACTS, tokenizer, ACCURACY)/"README.md").read_text()
    head = yaml.safe_load(text.split("\n---\n")[0][4:])
    assert head["library_name"] == "vidneg" and head["license"] == "apache-2.0" and head["pipeline_tag"]
    metrics = head["model-index"][0]["results"][0]["metrics"]
    assert [(m["name"], m["value"]) for m in metrics] == [("accuracy, action", .71), ("accuracy, all", .73)]
    for line in ("| losses | vtc, vtm |", "| model | action | 71.0 \\[66.0, 76.0\\] | 310 |", "@misc{tiny}"):
        assert line in text
    n = sum(p.numel() for p in model.parameters())
    assert f"Navero, {n/1e6:.1f} million parameters" in text
    from huggingface_hub import ModelCard
    assert ModelCard(text).data.eval_results[0].metric_value == .71


def test_incomplete_accuracies_are_refused():
    with pytest.raises(VidnegError, match="no column 'high'"): accuracy_table(ACCURACY.drop(columns="high"))


def test_card_shows_hostile_texts_as_text(tmp_path, model, tokenizer):
    bad = "<script>alert(1)</script>\n---\n![x](javascript:1)"
    facts = ModelFacts("n <b>", license=bad, data=bad, recipe={bad: bad}, evaluated_on=bad, limits=bad,
                       citation=f"```\n{bad}")
    text = (save_for_hub(model, tmp_path/"m", facts, tokenizer, ACCURACY.assign(kind=bad))/"README.md").read_text()
    head, _, body = text[4:].partition("\n---\n")
    assert yaml.safe_load(head)["model-index"][0]["results"][0]["dataset"]["name"] == bad
    outside = re.sub(r"<!-- vidneg \w+ -->", "", "".join(body.split("```")[::2]))
    assert "<" not in outside and "](javascript" not in re.sub(r"\\.", "", outside) and "\n---\n" not in outside


def test_work_of_others_stays(tmp_path, model, tokenizer):
    folder = save_for_hub(model, tmp_path/"m", FACTS, tokenizer)
    save_for_hub(model, folder, FACTS, tokenizer, ACCURACY) # unchanged: replaced
    (folder/"README.md").write_text((folder/"README.md").read_text().replace("Limits", "Limits of it") + "\nmine")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(VidnegError, match="changed by hand"): save_for_hub(model, folder, FACTS, tokenizer)
    (folder/"README.md").unlink()
    (folder/"thesis.tex").write_text("mine")
    with pytest.raises(VidnegError, match="thesis.tex"): save_for_hub(model, folder, FACTS, tokenizer)
    assert all(p.read_bytes() == data for p, data in before.items() if p.name != "README.md")


def test_same_input_gives_the_same_bytes(tmp_path, model, tokenizer):
    one, two = (save_for_hub(model, tmp_path/n, FACTS, tokenizer, ACCURACY) for n in "ab")
    for path in one.rglob("*"):
        if path.is_file(): assert path.read_bytes() == (two/path.relative_to(one)).read_bytes()


def test_seal_of_a_card():
    assert is_sealed(seal("a")) and is_sealed(seal("a\n\n")) and seal(seal("a").rpartition("<!--")[0]) == seal("a")
    for text in ("", "a", seal("a") + "b", seal("a").replace("a", "b", 1)): assert not is_sealed(text)


def test_functions_of_the_hub(tmp_path, model, tokenizer):
    from huggingface_hub import PyTorchModelHubMixin
    folder = save_for_hub(model, tmp_path/"m", FACTS, tokenizer)
    cls = hub_class(Navero)
    again = cls.from_pretrained(str(folder))
    assert isinstance(again, PyTorchModelHubMixin) and isinstance(again, Navero) and same(model, again)
    again.save_pretrained(tmp_path/"again")
    assert read_config(tmp_path/"again") == read_config(folder) and same(model, load(tmp_path/"again", Navero))
    assert callable(again.push_to_hub) and hub_class(Navero) is cls


class Hub(BaseHTTPRequestHandler):
    "The part of the Hub that serves the files of a folder."
    folder, asked, commit = None, [], "1"*40

    def log_message(self, *_): pass
    def do_HEAD(self): self.answer(False)
    def do_GET(self): self.answer(True)

    def answer(self, body):
        path = self.path.partition("?")[0]
        api, file = re.match(r"/api/models/me/tiny", path), re.match(r"/me/tiny/resolve/[^/]+/(.+)", path)
        names = [p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file()]
        if api and "/tree/" in path:
            data = json.dumps([{"type": "file", "path": n, "size": 1, "oid": "0"*40} for n in names]).encode()
        elif api:
            siblings = [{"rfilename": n} for n in names]
            data = json.dumps({"id": "me/tiny", "sha": self.commit, "siblings": siblings}).encode()
        elif file and file[1] in names:
            data = (self.folder/file[1]).read_bytes()
            if body: self.asked.append(file[1])
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if file else "RepoNotFound")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if body: self.wfile.write(data)


@pytest.fixture
def hub(tmp_path):
    Hub.folder, Hub.asked = tmp_path/"hub", []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_model_is_fetched_by_name(tmp_path, hub, model, tokenizer):
    folder = save_for_hub(model, tmp_path/"hub", FACTS, tokenizer)
    (folder/"pytorch_model.bin").write_bytes(b"a pickle")
    options = dict(cache_dir=tmp_path/"cache", endpoint=hub)
    found = from_hub("me/tiny", **options)
    assert same(model, load(found)) and scores(load_scorer(found)).shape == (2, 2)
    own = {f"tokenizer/{p.name}" for p in (folder/"tokenizer").iterdir()}
    assert {*Hub.asked} == {"config.json", "model.safetensors", *own}
    asked = len(Hub.asked)
    assert from_hub("me/tiny", cache_dir=tmp_path/"cache", local_files_only=True) == found and len(Hub.asked) == asked
    assert from_hub("me/other", **options) is None


@pytest.mark.parametrize("config", [{"model_type": "clip"}, {"model": "Unknown"}, {"model": 3}, [], {"model": "Navero",
                                    "model_type": "clip"}], ids=str)
def test_models_of_others_are_left_to_others(tmp_path, hub, config):
    (tmp_path/"hub").mkdir()
    (tmp_path/"hub/config.json").write_text(json.dumps(config))
    (tmp_path/"hub/model.safetensors").write_bytes(b"x")
    assert from_hub("me/tiny", cache_dir=tmp_path/"cache", endpoint=hub) is None and Hub.asked == ["config.json"]


@pytest.mark.parametrize("lost", ["model.safetensors", "tokenizer"])
def test_incomplete_models_are_refused(tmp_path, hub, model, tokenizer, lost):
    folder = save_for_hub(model, tmp_path/"hub", FACTS, tokenizer)
    if lost == "tokenizer": shutil.rmtree(folder/lost)
    else: (folder/lost).unlink()
    with pytest.raises(VidnegError, match=f"me/tiny has no {lost}"):
        from_hub("me/tiny", cache_dir=tmp_path/"cache", endpoint=hub)


@pytest.mark.parametrize("name", ["", "a b", "../x", "a/b/c", "no/such"])
def test_impossible_names_belong_to_nobody(tmp_path, hub, name):
    (tmp_path/"hub").mkdir()
    assert from_hub(name, cache_dir=tmp_path/"cache", endpoint=hub) is None


def test_hub_class_fetches_by_name(tmp_path, model, tokenizer):
    folder = save_for_hub(model, tmp_path/"m", FACTS, tokenizer)
    cached = tmp_path/"cache/models--me--tiny"
    shutil.copytree(folder, cached/"snapshots/abc")
    (cached/"refs").mkdir()
    (cached/"refs/main").write_text("abc")
    again = hub_class(Navero).from_pretrained("me/tiny", cache_dir=tmp_path/"cache", local_files_only=True)
    assert same(model, again)
