"Inputs like those that failed once: each kind of fault, in other places than where it was found first."
import json
import os
from fractions import Fraction

import av
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps
from test_video import ramp, write

from vidneg.audit.page import audit_negatives
from vidneg.core.errors import VidnegError, whole
from vidneg.core.files import LINE, WHOLE, check_size
from vidneg.core.records import Caption, Clip, MomentQuery, read_records
from vidneg.data.inputs import open_data
from vidneg.data.pairs import Pair
from vidneg.data.readers.files import json_rows, line_rows, table_rows
from vidneg.data.tables import read_table
from vidneg.data.video import FrameCache, probe, read_clip, read_clips, read_frames
from vidneg.evaluate.accuracy import accuracy_table, toy_scores
from vidneg.evaluate.moments import evaluate_moments, read_predictions
from vidneg.lm.answers import in_style, one_sentence
from vidneg.negatives.generate import make_negatives
from vidneg.negatives.own import own_generator

# exceptions that escape, and files that damage or size makes unreadable

def test_a_cache_that_was_cut_off_is_refused(tmp_path):
    write(tmp_path/"a.mp4", ramp(8))
    read_clips([Clip("a", "a.mp4")], tmp_path, tmp_path/"cache", 4, size=32, desc="")
    data = (tmp_path/"cache"/"frames.npy").read_bytes()
    for cut in (data[:300], data[:20], b""):
        (tmp_path/"cache"/"frames.npy").write_bytes(cut)
        with pytest.raises(VidnegError, match="frames.npy is damaged .*: decode the clips again"):
            FrameCache(tmp_path/"cache")


def test_what_is_no_video_file_is_skipped(tmp_path):
    write(tmp_path/"a.mp4", ramp(8))
    (tmp_path/"folder.mp4").mkdir()
    os.mkfifo(tmp_path/"pipe.mp4")
    (tmp_path/"loop.mp4").symlink_to("loop.mp4")
    (tmp_path/"lfs.mp4").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    names = ["folder.mp4", "pipe.mp4", "loop.mp4", "lfs.mp4", "a\0.mp4", None, b"a.mp4", 3.0, ""]
    clips = [Clip("good", "a.mp4"), *(Clip(str(i), n) for i, n in enumerate(names)), Clip("late", "a.mp4", 50., 60.)]
    cache = read_clips(clips, tmp_path, tmp_path/"cache", 4, size=32, on_error="skip", desc="")
    assert cache.clip_ids == ["good"] and len(cache.bad) == len(names) + 1
    assert cache.bad[-1].cause == "the clip is 50 to 60 s, but the video lasts 1 s"


@pytest.mark.parametrize("name, read", [
    ("long.json", json_rows), ("long.jsonl", line_rows), ("long.csv", lambda p: [*table_rows(p)]),
    ("long.jsonl", lambda p: read_records(p, Caption)), ("long.jsonl", read_predictions),
    ("long.json", read_predictions), ("long.jsonl", read_table), ("long.json", read_table)])
def test_a_line_of_gigabytes_is_refused_before_it_is_read(name, read, tmp_path):
    import resource
    path = tmp_path/name
    path.write_text("[" if name.endswith(".json") else '{"a": "')
    os.truncate(path, 2**31) # takes no room on the disk
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(VidnegError, match="is longer than 16,777,216 bytes|too large to be read as a whole"): read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000 # kB


def test_sizes_that_fit(tmp_path):
    path = tmp_path/"a.txt"
    path.write_bytes((b"x"*(LINE - 1) + b"\n")*2)
    check_size(path)
    path.write_bytes(b"x"*(LINE - 1) + b"\n" + b"x"*(LINE + 1))
    with pytest.raises(VidnegError, match="a.txt, line 2 is longer"): check_size(path)
    check_size(path, whole=True)
    os.truncate(path, WHOLE + 1)
    with pytest.raises(VidnegError, match="too large to be read as a whole"): check_size(path, whole=True)


@pytest.mark.parametrize("text", ["["*100_000, '{"a":'*100_000])
def test_nested_json_is_refused(text, tmp_path):
    (tmp_path/"deep.jsonl").write_text(text)
    for read in (read_predictions, line_rows, read_table, lambda p: read_records(p, Caption)):
        with pytest.raises(VidnegError, match="JSON"): read(tmp_path/"deep.jsonl")


# what a container says of its frames

@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_lie_as_their_camera_says(orientation, tmp_path):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :16], pixels[:8, 16:], pixels[8:, :16] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    photo = Image.fromarray(pixels)
    exif = photo.getexif()
    exif[0x0112] = orientation
    photo.save(tmp_path/"a.jpg", exif=exif, quality=100, subsampling=0)
    with Image.open(tmp_path/"a.jpg") as saved: want = np.asarray(ImageOps.exif_transpose(saved), int)
    found = read_frames(tmp_path/"a.jpg", 1)[0]
    assert found.shape == want.shape and np.abs(found - want).mean() < 8
    info = probe(tmp_path/"a.jpg")
    assert (info.height, info.width) == want.shape[:2]


def uneven(path, milliseconds):
    "Write a video whose frames begin at the given times, though its header declares 25 per second."
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.options = 64, 48, "yuv420p", {"bf": "0"}
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, at in enumerate(milliseconds):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 + 40*i, np.uint8), format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_frames_of_a_recording_with_a_gap_are_chosen_by_time(name, tmp_path):
    uneven(tmp_path/name, [0, 100, 200, 9000, 9100])
    frames, times = read_clip(Clip("a", name), tmp_path, 10)
    np.testing.assert_allclose(times, [.2]*10, atol=.02) # the third frame stands for 8.8 of 9.2 s
    assert [round((f.mean() - 20)/40) for f in frames] == [2]*10
    np.testing.assert_allclose(read_clip(Clip("a", name, 8.9, 9.15), tmp_path, 3)[1], [.2, 9.0, 9.1], atol=.02)


# the same file by every reader

@pytest.mark.parametrize("name, text", [
    ("a.csv", "sep=;\nvideo;caption\na.mp4;a dog runs\nb.mp4;a cat sits\n"),
    ("a.csv", "video,caption\ra.mp4,a dog runs\rb.mp4,a cat sits\r"),
    ("a.txt", "a dog runs\ra cat sits\r"), ("a.txt", "\ufeffa dog runs\r\na cat sits"),
    ("a.txt", "a dog runs\n\na cat\u2028sits\n"),
    ("a.jsonl", '{"caption": "a dog\x85runs"}\r\n{"caption": "a cat\u2028sits"}')])
def test_line_ends_and_separators(name, text, tmp_path):
    (tmp_path/name).write_bytes(text.encode())
    assert [c.text for c in open_data(tmp_path/name, texts_only=True).captions] == ["a dog runs", "a cat sits"]


def test_a_repeated_key_is_refused_by_every_reader(tmp_path):
    (tmp_path/"a.jsonl").write_text('{"caption": "a dog runs", "caption": "a cat sits"}\n')
    for read in (read_table, line_rows):
        with pytest.raises(VidnegError, match="a.jsonl, line 1 is not JSON: the key 'caption' occurs twice"):
            read(tmp_path/"a.jsonl")


# nonsense that was accepted

@pytest.mark.parametrize("value", ["nan", "NaN", "inf", "-inf", "1e400", "-1", True, float("inf"), "00:10", [1]])
@pytest.mark.parametrize("column", ["start", "end"])
def test_times_that_are_no_numbers_of_seconds(column, value):
    rows = [{"video": "a.mp4", "caption": "a dog runs", column: value}]
    with pytest.raises(VidnegError, match=f"column {column} is not a number of seconds: row 1"):
        open_data(rows, texts_only=True)


@pytest.mark.parametrize("value", [0, -1, 2.0, 1.5, "3", True, np.True_, None, float("nan"), [1]])
def test_numbers_of_things(value):
    captions, pairs = [Caption("1", "c", "a man rides a horse")], [Pair("i", "c", "k", "a man runs", "a man sits")]*9
    queries = [MomentQuery("1", "v", "a dog", 10., ((0., 4.),), ((1., 2., 3.),)*5)]
    predictions = [{"qid": 1, "pred_relevant_windows": [[0, 4, 1]], "pred_saliency_scores": [1]*5}]
    calls = [lambda: whole(value, "x"), lambda: audit_negatives(pairs, n=value),
             lambda: evaluate_moments(predictions, queries, top=value),
             *(lambda k=k: make_negatives(captions, own_generator(captions, "rules-balanced"), **{k: value})
               for k in ("per_caption", "rounds", "tries"))]
    if value is not None: calls.append(lambda: open_data([{"caption": "a dog runs"}], texts_only=True, limit=value))
    for call in calls:
        with pytest.raises(VidnegError, match="pass a whole number of at least 1"): call()
    assert whole(np.int64(3), "x") == 3 and whole(0, "x", 0) == 0


@pytest.mark.parametrize("items", ["a man runs", ["a man runs"], [Caption("1", "c", None)]])
def test_what_is_no_caption(items):
    with pytest.raises(VidnegError, match="is no caption: pass records `Caption`"):
        make_negatives(items, own_generator([], "rules-balanced"))


def test_pairs_and_scores_that_are_none():
    with pytest.raises(VidnegError, match="wanted a list"):
        audit_negatives([Pair("i", "c", "k", None, "a man sits")])
    scores = toy_scores({"m": 1.})
    with pytest.raises(VidnegError, match="column score_pos of the scores does not hold numbers"):
        accuracy_table(scores.assign(score_pos=scores.score_pos.astype(str)))
    table = accuracy_table(scores, ["acc"], kinds=[], n=20)
    assert "average" not in set(table.kind) and len(table) == 2*scores.kind.nunique() # of two forms


def test_odd_tables_in_memory():
    with pytest.raises(VidnegError, match="columns is"): open_data([{"caption": "a dog runs"}], columns=["caption"])
    found = open_data([{1: "x", "caption": "a dog runs"}], texts_only=True)
    assert [c.text for c in found.captions] == ["a dog runs"]
    with pytest.raises(VidnegError, match="2 columns are called '1'"):
        open_data([{1: "x", "1": "y", "caption": "a dog runs"}], texts_only=True)
    assert open_data(pd.DataFrame({1: ["a"], "caption": ["a dog runs"]}), texts_only=True).captions


# answers in their wrapping

SENTENCE = "A man pulls a brown horse."
WRAPPED = [
    "{}[/INST]", "<|im_start|>assistant\n{}<|im_end|>", "<start_of_turn>model\n{}<end_of_turn>", "{}<eos>",
    "<|start_header_id|>assistant<|end_header_id|>\n\n{}<|eot_id|>", "Assistant\n\n{}", "<seed:think>hm</seed:think>{}",
    "<|begin_of_thought|>hm<|end_of_thought|><|begin_of_solution|>{}<|end_of_solution|>",
    "<unused94>thought\nhm<unused95>{}",
    "<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>{}<|END_RESPONSE|>", "<caption>{}</caption> <!-- done -->",
    "\\boxed{{{}}}", "$\\boxed{{\\text{{{}}}}}$", 'The rewritten sentence is: "{}"', "Rewritten sentence - {}", "a) {}",
    "Option 1: {}", "{} (12 words)", "“{}” is the modified sentence.", "A: {}", "Q: A man rides a horse.\nA: {}",
    "Thinking Process:\n1. find the verb\n2. replace it\n\nFinal: {}", "| sentence |\n|---|\n| {} |", "{} {}", "{}\n{}",
    "Modified caption (verb changed): {}", 'sentence = "{}"', '{{"sentence": "{}"',
    '{{"verb": "pulls", "sentence": "{}"}}']


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_more_wrappings_are_removed(wrapping): assert one_sentence(wrapping.format(SENTENCE, SENTENCE)) == SENTENCE


@pytest.mark.parametrize("answer", ["A man **pulls** a brown horse.", "A man ~~rides~~ pulls a brown horse.",
                                    "A man [pulls] a brown horse.", "A man __pulls__ a brown horse."])
def test_marked_words_are_words(answer): assert one_sentence(answer) == SENTENCE


@pytest.mark.parametrize("answer", [
    "I'm sorry, but I can't help with that.", "I cannot rewrite this sentence.", "As an AI, I do not judge.", "N/A",
    "None", "null", "...", "—", '{"error": "content policy"}', '{"message": "a man"}',
    "A man rides -> pulls a brown horse."])
def test_answers_that_are_no_sentence(answer): assert one_sentence(answer) == ""


def test_a_picture_at_the_end_is_no_part_of_the_sentence():
    assert in_style("A man pulls a horse. 😊", "A man rides a horse.") == "A man pulls a horse."
    assert in_style("A man pulls a horse 🐎", "A man rides a horse 🐎") == "A man pulls a horse 🐎"


@pytest.mark.parametrize("sentence", [
    "A sign says [exit] here.", "A man with 2 * 2 boxes.", "A: B and C are on a board.", "The object is on the table.",
    "Nothing moves.", "No man runs.", "A man types snake_case words.", "An answer is written on a board."])
def test_sentences_that_look_like_wrapping_lose_no_word(sentence):
    plain = sentence.replace("[", "").replace("]", "")
    assert one_sentence(sentence) in (sentence, plain) or sentence.startswith("A: ")


def test_predictions_in_both_forms(tmp_path):
    rows = [{"qid": i, "pred_relevant_windows": [[0, 1, .5]]} for i in range(3)]
    (tmp_path/"a.json").write_text("\ufeff \n" + json.dumps(rows))
    (tmp_path/"a.jsonl").write_text("\ufeff" + "\r\n".join(map(json.dumps, rows)))
    assert read_predictions(tmp_path/"a.json") == rows == read_predictions(tmp_path/"a.jsonl")
    with pytest.raises(VidnegError, match="does not exist"): read_predictions(tmp_path)
