"The answer decoder and its evaluation: memorization, files, padding, generation against a loop, ties, bad input."
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vidneg.core.errors import VidnegError
from vidneg.core.records import Question
from vidneg.core.seeds import stable_rng
from vidneg.data.questions import UNKNOWN
from vidneg.evaluate.answers import above_chance, best_answers, blind_answers, qa_table, right
from vidneg.models.io import load
from vidneg.models.qa import AnswerDecoder, QAConfig, spell
from vidneg.models.scorer import Encoding
from vidneg.train.loop import TrainConfig, fit
from vidneg.train.questions import QABatches, QAFeatures, answer_questions, choose_answers, qa_features
from vidneg.train.tasks import Task

ANSWERS = ("no", "to the left of", "to the right of", "yes")
SMALL = QAConfig(video_dim=12, text_dim=8, answers=ANSWERS, width=16, heads=2, mlp_ratio=2.)
torch.set_num_threads(1)


def normal(*shape, key=0): return torch.from_numpy(stable_rng(0, "test", key, *shape).normal(size=shape)).float()


def inputs(b=3): return dict(words=normal(b, 5, 8), video=normal(b, 7, 12))


def model_of(): return AnswerDecoder(SMALL).eval()


def questions_of(n=32):
    "Make two questions per clip; each text is asked of four clips, with a different answer each time."
    return [Question(f"{i}", f"c{i % 16}", f"where is {i//4}?", ANSWERS[(i + i//4) % 4],
                     "relation" if i % 3 else "temporal", "where", "where", ANSWERS) for i in range(n)]


def features_of(questions):
    clips, texts = sorted({q.clip_id for q in questions}), sorted({q.text for q in questions})
    lengths = torch.tensor([2 + i % 4 for i in range(len(texts))])
    clip, text = (np.array(i) for i in zip(*((clips.index(q.clip_id), texts.index(q.text)) for q in questions)))
    return QAFeatures(
        Encoding(normal(len(clips), 7, 12), normal(len(clips), 4), None, clip),
        Encoding(normal(len(texts), 6, 8, key=1), normal(len(texts), 4), (torch.arange(6) < lengths[:, None]).long(),
                 text))


def test_memorizes_32_questions_and_survives_a_round_trip(tmp_path):
    questions = questions_of()
    features = features_of(questions)
    model = AnswerDecoder(replace(SMALL, width=32))
    batches = QABatches(questions, features, ANSWERS, 16)
    before = [e.states.clone() for e in (features.video, features.text)]
    fit(Task(model), batches, TrainConfig(steps=160, learning_rate=3e-3, device="cpu"), tmp_path, progress=False)
    said = answer_questions(model, features)
    assert said == [q.answer for q in questions] == choose_answers(model, questions, features, batch_size=7)
    order = stable_rng(0, "order").permutation(32) # neither order nor batches matter
    other = QAFeatures(*(replace(e, index=e.index[order]) for e in (features.video, features.text)))
    assert answer_questions(model, other, batch_size=9) == [said[i] for i in order]
    again = load(tmp_path, AnswerDecoder)
    assert again.config == model.config and answer_questions(again, features, batch_size=5) == said
    batch = batches.batch(0, 0)
    assert torch.equal(model.eval()(**batch)["answer"], again.eval()(**batch)["answer"])
    assert all(torch.equal(a, e.states) for a, e in zip(before, (features.video, features.text)))


def test_blind_model_cannot_learn_answers_that_only_the_clip_shows(tmp_path):
    questions = questions_of()
    features, model = features_of(questions), AnswerDecoder(replace(SMALL, width=32))
    batches = QABatches(questions, features, ANSWERS, 16, blind=True)
    assert set(batches.batch(0, 0)) == {"words", "words_mask", "answer"}
    fit(Task(model), batches, TrainConfig(steps=60, learning_rate=3e-3, device="cpu"), tmp_path, progress=False)
    assert right(questions, answer_questions(model, features, blind=True)).mean() <= .25


def test_padding_changes_nothing():
    model, x, answer = model_of(), inputs(), torch.tensor([0, 1, 3])
    padded = {**{k: torch.cat([v, torch.full((3, 4, v.shape[2]), torch.nan)], 1) for k, v in x.items()},
              "words_mask": torch.arange(9).expand(3, 9) < 5, "video_mask": torch.arange(11).expand(3, 11) < 7}
    assert torch.allclose(model(answer=answer, **x)["answer"], model(answer=answer, **padded)["answer"], atol=1e-5)
    assert model.generate(**x) == model.generate(**padded)
    options = torch.tensor([[0, 3], [1, 2], [2, -1]])
    assert torch.allclose(model.score(options=options, **x), model.score(options=options, **padded), atol=1e-5)


def test_a_question_does_not_depend_on_its_batch():
    model, x, answer = model_of(), inputs(), torch.tensor([0, 1, 3])
    whole = model(answer=answer, **x)["answer"]
    for i in range(3):
        alone = model(answer=answer[i:i + 1], **{k: v[i:i + 1] for k, v in x.items()})["answer"]
        assert torch.allclose(alone, whole[i:i + 1], atol=1e-5)


def test_the_loss_is_the_negative_log_probability():
    model, x = model_of(), inputs(1)
    memory, mask = model.memory(**x)
    for a in range(len(ANSWERS)):
        loss, said, p = model(answer=torch.tensor([a]), **x)["answer"].item(), [], 1.
        for n in [*(model.vocabulary.index(w) for w in ANSWERS[a].split()), 0]: # word by word, then the end
            p *= model.decode(memory, mask, torch.tensor([said], dtype=torch.long))[0, -1].softmax(-1)[n].item()
            said.append(n)
        assert np.isclose(loss, -np.log(p), atol=1e-4)
        assert np.isclose(model.score(options=torch.tensor([[a]]), **x).item(), np.log(p), atol=1e-4)
    assert model.score(options=torch.tensor([[0, 1, 2, 3]]), **x).exp().sum() < 1 # other word sequences have the rest


def test_decoding_does_not_see_later_words():
    model = model_of()
    memory, mask = model.memory(**inputs(1))
    a, b = (model.decode(memory, mask, torch.tensor([[1, w, 2]])) for w in (2, 3))
    assert torch.allclose(a[:, :2], b[:, :2], atol=1e-6) and not torch.allclose(a[:, 2:], b[:, 2:], atol=1e-3)


def test_spelling():
    words, rows = spell(ANSWERS)
    assert [" ".join(words[n] for n in row if n > 0) for row in rows.tolist()] == list(ANSWERS)
    assert all(row[row >= 0][-1] == 0 and (row == 0).sum() == 1 for row in rows)


def test_generation_is_greedy_until_the_end_token():
    model, x = model_of(), inputs()
    memory, mask = model.memory(**x)
    for i, text in enumerate(model.generate(**x)):
        said = []
        while len(said) < model.spelling.shape[1]:
            before = torch.tensor([said], dtype=torch.long)
            n = int(model.decode(memory[i:i + 1], mask[i:i + 1], before)[0, -1].argmax())
            if n == 0: break
            said.append(n)
        assert text == " ".join(model.vocabulary[n] for n in said)


def test_ties_and_unknown_options_are_no_answer():
    questions = [replace(q, options=o) for q, o in zip(questions_of(4), (("yes", "no"), ("perhaps",), (), ANSWERS))]
    features, model = features_of(questions), model_of()
    with torch.no_grad(): model.head.weight.zero_(), model.head.bias.zero_()
    assert choose_answers(model, questions, features) == [""]*4
    with torch.no_grad(): model.head.bias[model.vocabulary.index("yes")] = 1
    assert choose_answers(model, questions, features) == ["yes", "", "", "yes"]


def test_fresh_weights_depend_on_the_seed_only():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    a, b, c = AnswerDecoder(SMALL), AnswerDecoder(SMALL), AnswerDecoder(SMALL, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    assert not torch.equal(a.head.weight, c.head.weight)


def test_batches_hold_each_question_once_an_epoch():
    questions = questions_of(20)
    batches = QABatches(questions, features_of(questions), ANSWERS, 6)
    assert len(batches) == 4
    seen = [torch.cat([batches.batch(e, i)["video"][:, 0, 0] for i in range(4)]) for e in (0, 1)]
    assert torch.equal(seen[0].sort()[0], seen[1].sort()[0]) and not torch.equal(*seen)
    assert all(torch.equal(v, batches.batch(1, 2)[k]) for k, v in batches.batch(1, 2).items())
    other = QABatches([replace(questions[0], answer="no"), *questions[1:]], features_of(questions), ANSWERS, 6)
    assert batches.fingerprint() == QABatches(questions, features_of(questions), ANSWERS, 6).fingerprint()
    assert (batches.fingerprint() == other.fingerprint()) == (questions[0].answer == "no")


def test_unknown_answers():
    questions = [replace(q, answer="perhaps") for q in questions_of(4)]
    with pytest.raises(VidnegError, match="unknown answer.*perhaps"):
        QABatches(questions, features_of(questions), ANSWERS)
    batches = QABatches(questions, features_of(questions), (UNKNOWN, *ANSWERS))
    assert batches.batch(0, 0)["answer"].tolist() == [0]*4


class Toy:
    "An encoder that returns tokens."
    def __init__(self, states): self.states = states
    def encode_video(self, frames):
        return Encoding(self.states(len(frames)), normal(len(frames), 4), None, np.arange(len(frames)))
    def encode_text(self, texts):
        unique, index = np.unique(texts, return_inverse=True)
        return Encoding(normal(len(unique), 3, 8), normal(len(unique), 4), None, index)


def test_features_of_an_encoder():
    questions, clips = questions_of(8), [f"c{i}" for i in range(16)][::-1]
    features = qa_features(Toy(lambda n: normal(n, 2, 3, 12)), questions, np.zeros(16), clips)
    rows = features.rows([0, 5])
    assert rows["video"].shape == (2, 6, 12) and torch.equal(rows["video"][1].view(2, 3, 12), normal(16, 2, 3, 12)[10])
    assert rows["words_mask"].all() and torch.equal(features.rows([0])["words"], features.rows([1])["words"])
    with pytest.raises(VidnegError, match="without frames"): qa_features(Toy(normal), questions, np.zeros(2), clips[:2])
    with pytest.raises(VidnegError, match="not tokens"):
        qa_features(Toy(lambda n: normal(n, 12)), questions, np.zeros(16), clips)
    with pytest.raises(VidnegError, match="no questions"): qa_features(Toy(normal), [], np.zeros(0), [])


@pytest.mark.parametrize("changes, message", [
    (dict(words=normal(3, 5, 7)), "words must be"), (dict(video=normal(2, 7, 12)), "2 videos for 3"),
    (dict(video=normal(3, 12)), "video tokens must be"), (dict(words=normal(3, 5, 8)*torch.nan), "not finite"),
    (dict(words_mask=torch.ones(3, 4)), "mask"), (dict(answer=torch.tensor([0, 1])), "2 answers for 3"),
    (dict(answer=torch.tensor([0, 1, 4])), "indices of the 4"), (dict(answer=torch.tensor([0, 1, -1])), "indices"),
    (dict(words_mask=torch.zeros(3, 5), video_mask=torch.zeros(3, 7)), "neither a token nor a video"),
    (dict(words_mask=torch.zeros(3, 5), video=None), "neither a token nor a video")])
def test_bad_input(changes, message):
    given = {**inputs(), "answer": torch.tensor([0, 1, 2])} | changes
    with pytest.raises(VidnegError, match=message): model_of()(**given)


@pytest.mark.parametrize("changes, message", [
    (dict(answers=()), "answers"), (dict(answers=("a", "a")), "answers"),
    (dict(answers=(" ",)), "answers"), (dict(heads=3), "divide")])
def test_bad_config(changes, message):
    with pytest.raises(VidnegError, match=message): replace(SMALL, **changes)


def test_bad_files(tmp_path):
    with pytest.raises(VidnegError, match="does not exist"): load(tmp_path, AnswerDecoder)
    AnswerDecoder(SMALL).save(tmp_path)
    assert set(load_file(tmp_path/"model.safetensors")) == set(AnswerDecoder(SMALL).state_dict())
    (tmp_path/"config.json").write_text('{"video_dim": 3, "text_dim": 8, "answers": ["a"]}')
    with pytest.raises(VidnegError, match="no AnswerDecoder"): load(tmp_path, AnswerDecoder)


# evaluation

def test_right_compares_predictions_with_the_ground_truth():
    questions = questions_of(4)
    true = [q.answer for q in questions]
    assert right(questions, true).all() and right(questions, {"0": true[0]}).tolist() == [True, False, False, False]
    assert not right(questions, [""]*4).any()
    assert not right([replace(q, answer=UNKNOWN) for q in questions], [UNKNOWN]*4).any()
    for answers, message in ((true[:3], "3 answers to 4"), ({"x": "no"}, "no question"),
                             ([*true[:3], float("nan")], "question '3' is nan, not a text")):
        with pytest.raises(VidnegError, match=message): right(questions, answers)
    with pytest.raises(VidnegError, match="no answer to compare"): right([replace(questions[0], answer="")], ["no"])


def test_best_answers():
    assert best_answers([[0, 1, 1, 0], [0, 2, 1, 0]], ANSWERS) == ["", ANSWERS[1]]
    with pytest.raises(VidnegError, match="one column"): best_answers(np.zeros((2, 3)), ANSWERS)
    with pytest.raises(VidnegError, match="NaN score in row 1"): best_answers([[0]*4, [0, np.nan, 0, 0]], ANSWERS)


def test_table():
    questions = questions_of()
    answers = [q.answer if i % 4 else "" for i, q in enumerate(questions)]
    table = qa_table(questions, {"a": answers, "b": [q.answer for q in questions]}, n=200).set_index(["run", "kind"])
    assert list(table.loc["a"].index) == ["temporal", "relation", "overall"]
    for kind in ("temporal", "relation"):
        ok = [bool(a) for a, q in zip(answers, questions) if q.kind == kind]
        assert np.isclose(table.value["a", kind], np.mean(ok)) and table.n["a", kind] == len(ok)
    row = table.loc["a", "overall"]
    assert row.value == .75 and row.low < .75 < row.high and (row.n, row.clips, row.chance) == (32, 16, .25)
    assert table.value["b", "overall"] == 1 and table.high["b", "overall"] == 1
    free = qa_table([replace(q, options=()) for q in questions], {"a": answers}, n=50)
    assert free.chance.isna().all()
    assert above_chance(questions, answers).value == .5
    with pytest.raises(VidnegError, match="no chance level"): above_chance([replace(questions[0], options=())], ["no"])
    with pytest.raises(VidnegError, match="no questions"): qa_table([], {})


def test_the_blind_baseline_reads_the_text():
    def asked(clips): return [Question(f"{c}{t}", f"{c}", f"is it {t}?", a, "object", "is")
                              for c in clips for t, a in (("red", "yes"), ("blue", "no"))]
    train, test = asked(range(20)), asked(range(20, 24))
    assert right(test, blind_answers(train, test)).all()
    assert blind_answers(train, [replace(test[0], template="new")]) == [""]
    assert blind_answers(train[::2], test[1:2]) == ["yes"]
    with pytest.raises(VidnegError, match="in both sets"): blind_answers(train, train)
