"""Make the inputs of the scale `rehearsal`: python tests/rehearsal/make.py scales/rehearsal/inputs

They have the forms of the files that users of the scale `paper` have: checkpoints of the real classes, MSR-VTT,
AnetQA, MovieGraphs and QVHighlights in their official layouts, with few clips and small random weights.
"""
import csv
import json
import pickle
import sys
from pathlib import Path

import networkx
import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    BeitConfig,
    BeitForMaskedImageModeling,
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    ViTConfig,
    ViTModel,
)

from vidneg.core.seeds import stable_rng
from vidneg.data.dataset import Dataset, read_dataset
from vidneg.text.tokenize import train_tokenizer
from vidneg.world.script import WorldConfig
from vidneg.world.write import write_world

CLIPS, TESTED = 30, 8 # clips of MSR-VTT, and how many of them are of the test split 1k-A
WIDTH, LAYERS, SIDE = 32, 2, 64
PEOPLE, PLACES = ("man", "woman", "boy", "girl"), ("kitchen", "street", "garden", "gym")
DEEDS = {"holding": ("ball", "guitar", "knife"), "pushing": ("cart", "chair"), "washing": ("dog", "car"),
         "eating": ("apple", "cake")}
COLORS, STATUS = ("red", "blue", "green", "white"), ("standing", "sitting", "running", "dancing")


def dump(path: Path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def scene(name: str) -> dict:
    "Draw what a person does to a thing: real words, for captions and graphs."
    rng = stable_rng(0, "scene", name)
    deed = str(rng.choice(list(DEEDS)))
    return {"person": str(rng.choice(PEOPLE)), "deed": deed, "thing": str(rng.choice(DEEDS[deed])),
            "color": str(rng.choice(COLORS)), "status": [str(s) for s in rng.permutation(STATUS)[:2]],
            "place": str(rng.choice(PLACES))}


def sentences(name: str) -> list[str]:
    "Word a scene in several ways, as annotators do: without a stop, with a comma, with an accent, twice."
    s = scene(name)
    person, deed, thing, color, place = s["person"], s["deed"], s["thing"], s["color"], s["place"]
    return [f"a {person} is {deed} a {color} {thing}", f"A {person} {deed} a {thing} in a {place}.",
            f"in the {place}, a {person} is {s['status'][0]} and {deed} a {color} {thing}",
            f"a {person} is {deed} a {thing} in a café", f"a {person} is {deed} a {color} {thing}"]


def msrvtt(folder: Path, world: Dataset) -> list[str]:
    "Write MSR-VTT's annotations and videos, two of which are cut short and one is missing; return the captions."
    rows, texts = [], {f"video{k}": [c.text for c in world.captions if c.clip_id == clip.clip_id]
                       for k, clip in enumerate(world.clips)}
    for k, clip in enumerate(world.clips):
        video = f"video{k}"
        texts[video] += sentences(video)
        rows += [{"video_id": video, "caption": t, "sen_id": len(rows) + i} for i, t in enumerate(texts[video])]
        data = Path(clip.path).read_bytes()
        (folder/"all").mkdir(parents=True, exist_ok=True)
        if k != 3: (folder/f"all/{video}.mp4").write_bytes(data[:200] if k in (5, CLIPS - 2) else data)
    videos = [{"video_id": v, "id": k, "split": "train", "category": 0, "start time": 0., "end time": 3.}
              for k, v in enumerate(texts)]
    dump(folder/"MSRVTT_data.json", {"info": {}, "videos": videos, "sentences": rows})
    names = list(texts)
    with open(folder/"MSRVTT_train.9k.csv", "w", encoding="utf-8", newline="") as f:
        csv.writer(f).writerows([["video_id"], *([v] for v in names[:-TESTED])])
    with open(folder/"MSRVTT_JSFUSION_test.csv", "w", encoding="utf-8", newline="") as f:
        csv.writer(f).writerows([["key", "vid_key", "video_id", "sentence"],
                                 *([f"ret{k}", f"msr{v[5:]}", v, texts[v][0]]
                                   for k, v in enumerate(names[-TESTED:]))])
    return [t for some in texts.values() for t in some]


def anetqa(folder: Path, world: Dataset):
    "Write AnetQA's scene graphs, frames' times and questions, with videos: clips of the world under other names."
    parts, times = {"train": {}, "val": {}}, {}
    for k, clip in enumerate(world.clips[:24]):
        split, video = "val" if k % 3 == 2 else "train", f"v_{k:011d}"
        (folder/"video").mkdir(parents=True, exist_ok=True)
        (folder/f"video/{video}.mp4").write_bytes(Path(clip.path).read_bytes())
        parts[split][video] = _anetqa_entry(video, times)
    for split, entries in parts.items():
        dump(folder/f"sg/sg_{split}.json", entries)
        dump(folder/f"qa/qa_{split}.json", [q for video in entries for q in _anetqa_questions(video)])
        dump(folder/f"meta/video_{split}.json", list(entries))
    dump(folder/"meta/frames_trainval.json", times)


def _anetqa_entry(video, times):
    s, entry = scene(video), {"objects": {}, "attributes": {}, "relationships": [], "actions": []}
    for frame in range(4):
        at = f"{video}/0/{frame}"
        times[at] = .75*frame
        for k, name in enumerate(("person", s["thing"])):
            entry["objects"][f"{at}/{k}"] = {"object_id": k, "object_class": name, "bbox": [0, 0, 9, 9], "crowds": 0,
                                             "video_id": video, "segment_id": "0", "frame_id": str(frame)}
        entry["attributes"][f"{at}/0"] = {"attribute_class": "person", "age&sex": s["person"],
                                          "status": [s["status"][frame//2]], "location": "none"}
        entry["attributes"][f"{at}/1"] = {"attribute_class": "object", "color": [s["color"]], "status": "none"}
        entry["relationships"].append({"subject": f"{at}/0", "object": f"{at}/1", "relationship_type": "contact",
                                       "relationship": "touching" if frame < 2 else s["deed"]})
    entry["actions"] = [{"duration": [.01, 2.9], "anet_label": f"{s['deed']} the {s['thing']}"},
                        {"duration": [0, 2.9], "activity_caption": f"a {s['person']} is {s['deed']} a {s['thing']}"}]
    return entry


def _anetqa_questions(video):
    s = scene(video)
    asked = [("attrWhat", "attribute", f"what color is the {s['thing']}?", s["color"], []),
             ("objWhat", "object", f"what is the {s['person']} {s['deed']}?", s["thing"], []),
             ("actTime", "action", "what does the person do at the end?", s["status"][1], ["superlative"])]
    return [{"question": text, "answer": answer, "qa_id": f"{video}#{what}#0", "video_id": video, "taxonomy": {
        "question_type": what, "question structures": "query", "question semantics": kind, "reasoning skills": skills,
        "answer types": "open"}} for what, kind, text, answer, skills in asked]


class MovieGraph:
    def __init__(self, key, clips): self.imdb_key, self.clip_graphs = key, clips


class ClipGraph:
    def __init__(self, graph, **more):
        self.G = graph
        self.__dict__.update(more)


def moviegraphs(folder: Path, world: Dataset):
    "Write the clip graphs of three movies as a pickle, their splits, and the clips' videos."
    movies = {f"tt{k:07d}": {} for k in range(3)}
    for k, clip in enumerate(world.clips[:24]):
        movie, number = list(movies)[k % 3], k//3
        movies[movie][number] = _clip_graph(f"{movie}/{number}", f"scene-{number:03d}")
        path = folder/f"clips/{movie}/scene-{number:03d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(Path(clip.path).read_bytes())
    (folder/"all_movies.pkl").write_bytes(pickle.dumps({m: MovieGraph(m, c) for m, c in movies.items()}, protocol=2))
    first, second, last = movies
    dump(folder/"split.json", {"train": [first, second], "val": [], "test": [last]})


def _clip_graph(clip_id, file):
    s, graph = scene(clip_id), networkx.DiGraph()
    things = {1: ("entity", "Jenny" if s["person"] in ("woman", "girl") else "Forrest"), 2: ("entity", s["thing"]),
              3: ("action", s["status"][0]), 4: ("interaction", s["deed"]), 5: ("attribute", "angry"),
              6: ("time", ""), 7: ("time", ""), 8: ("attribute", s["color"])}
    for n, (kind, name) in things.items(): graph.add_node(n, type=kind, name=name)
    graph.nodes[5]["subtype"], graph.nodes[8]["subtype"] = "emo", "app"
    for n, span in ((6, ("00:00:00", "00:00:02")), (7, ("00:00:02", "00:00:03"))):
        graph.nodes[n].update(start=span[0], end=span[1])
    graph.add_edges_from([(1, 3), (1, 4), (4, 2), (1, 5), (2, 8), (3, 6), (4, 7), (5, 6)])
    text = f"{things[1][1]} is {s['deed']} a {s['color']} {s['thing']} in the {s['place']}."
    return ClipGraph(graph, scene_label=s["place"], description=text, situation="", video={"fname": [file]})


def qvhighlights(folder: Path):
    "Write QVHighlights' queries, and the features of CLIP and of SlowFast, in which each query's window stands out."
    rng, words = np.random.default_rng(0), list(DEEDS)
    for split, n in (("train", 24), ("val", 8)):
        rows = []
        for k in range(n):
            vid, length, which = f"{split}{k:08d}_60.0_90.0", 15, k % len(words)
            start = int(rng.integers(0, length - 4))
            inside = [*range(start, start + 4)]
            for name, width in (("clip_features", 512), ("slowfast_features", 2304)):
                features = rng.normal(size=(length, width)).astype(np.float32)
                features[inside, which*8:which*8 + 8] += 6
                (folder/"features"/name).mkdir(parents=True, exist_ok=True)
                np.savez(folder/"features"/name/f"{vid}.npz", features=features.astype(np.float16))
            rows.append({"qid": 100*(split == "val") + k, "query": f"A woman is {words[which]} something.",
                         "duration": 30, "vid": vid, "relevant_windows": [[2*start, 2*start + 8]],
                         "relevant_clip_ids": inside, "saliency_scores": [[4, 3, 2]]*2 + [[3, 3, 3]]*2})
        (folder/f"highlight_{split}_release.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def checkpoints(folder: Path, texts: list[str]):
    "Save a BEiT, a BERT and CLIPs of the published classes."
    torch.manual_seed(0)
    small = dict(hidden_size=WIDTH, intermediate_size=4*WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2)
    # as in microsoft/beit-base-patch16-224-pt22k: one table of positions for all layers, a masked image model
    BeitForMaskedImageModeling(BeitConfig(
        **small, image_size=SIDE, patch_size=16, vocab_size=64, use_shared_relative_position_bias=True,
        use_mask_token=True, use_absolute_position_embeddings=False)).save_pretrained(folder/"beit")
    ViTModel(ViTConfig(**small, image_size=SIDE, patch_size=16)).save_pretrained(folder/"vit")
    vocab = train_tokenizer(texts, 600, folder/"words.json").get_vocab()
    (folder/"bert").mkdir(parents=True, exist_ok=True)
    (folder/"bert/vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.get)) + "\n", encoding="utf-8")
    tok = BertTokenizer(str(folder/"bert/vocab.txt"), model_max_length=512)
    bert = BertForMaskedLM(BertConfig(**small, vocab_size=len(tok), max_position_embeddings=512))
    bert.save_pretrained(folder/"bert")
    tok.save_pretrained(folder/"bert")
    bpe = clip_tokenizer(folder, texts)
    for name, patch, layers in (("clip-b-32", 32, LAYERS), ("clip-b-16", 16, LAYERS), ("clip-l-14", 14, LAYERS + 1)):
        tower = small | {"num_hidden_layers": layers}
        special = dict(bos_token_id=bpe.bos_token_id, eos_token_id=bpe.eos_token_id, pad_token_id=bpe.pad_token_id)
        config = CLIPConfig(text_config=dict(**tower, vocab_size=len(bpe), max_position_embeddings=77,
                                             projection_dim=WIDTH, **special),
                            vision_config=dict(**tower, image_size=56 if patch == 14 else SIDE, patch_size=patch,
                                               projection_dim=WIDTH), projection_dim=WIDTH)
        CLIPModel(config).save_pretrained(folder/name)
        bpe.save_pretrained(folder/name)


def clip_tokenizer(folder: Path, texts: list[str]) -> CLIPTokenizer:
    "Train a BPE tokenizer of CLIP's form."
    raw = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    raw.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=700, end_of_word_suffix="</w>", special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    raw.model.save(str(folder))
    vocab = json.loads((folder/"vocab.json").read_text())
    merges = [tuple(line.split()) for line in (folder/"merges.txt").read_text().splitlines()
              if not line.startswith("#version")]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)


def make(folder: Path):
    "Write all inputs."
    world = folder/"world"
    write_world(world, {"train": CLIPS}, WorldConfig(side=SIDE, captions=8))
    data = read_dataset(world)
    texts = msrvtt(folder/"msrvtt", data)
    anetqa(folder/"anetqa", data)
    moviegraphs(folder/"moviegraphs", data)
    qvhighlights(folder/"qvhighlights")
    checkpoints(folder/"models", texts + [t for k in range(99) for t in sentences(str(k))])


if __name__ == "__main__": make(Path(sys.argv[1]))
