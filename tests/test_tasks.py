"Tasks are composed of providers, losses declare their tensors, and batches keep their order."
import inspect

import numpy as np
import pytest
import torch
from test_training_moments import data as moment_data
from test_training_retrieval import COMPONENTS, MLM, data, tiny

from vidneg.core.errors import VidnegError
from vidneg.core.seeds import stable_rng
from vidneg.data.batches import ArrayBatches, OrderedBatches
from vidneg.losses.registry import LOSS_SETS, LOSSES
from vidneg.losses.tensors import wanted_by, wants
from vidneg.train.contrastive import ContrastiveTask
from vidneg.train.tasks import LossTask, Provider, with_parts


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"moment_retrieval"}))
def test_declarations_agree_with_signatures(name):
    parameters = inspect.signature(LOSSES[name]).parameters
    needed, optional, option, by = LOSSES[name].wants
    assert set(needed) == {k for k, p in parameters.items() if p.default is p.empty}
    others = {*optional, *(k for some in by.values() for k in some)}
    assert all(parameters[k].default is None for k in others)
    if option: assert parameters[option].default == next(iter(by))
    left = {k for k, p in parameters.items() if p.default is None and "Tensor" in str(p.annotation)}
    assert left == others # no tensor is undeclared


def test_an_option_decides_which_tensors_a_loss_takes():
    own, all_ = (wanted_by(LOSSES["hn_nce"], {"scope": s}).optional for s in ("own", "all"))
    assert own ^ all_ == {"neg", "neg_similarity"} and own == wanted_by(LOSSES["hn_nce"]).optional
    assert "neg_similarity" in wanted_by(LOSSES["negclip"]).optional
    with pytest.raises(VidnegError, match="plain.*@wants"):
        def plain(similarity): return {}
        wanted_by(plain)


def test_importing_the_names_imports_no_loss():
    import subprocess
    import sys
    code = ("import sys, vidneg.losses.registry, vidneg.train.tasks\n"
            "print([m for m in sys.modules if m.startswith('vidneg.losses.')])")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert eval(said) == ["vidneg.losses.registry", "vidneg.losses.tensors"]
    assert all(LOSSES[loss] for some in LOSS_SETS.values() for loss in some["losses"])


def test_only_wanted_tensors_are_made():
    made_of = {"a": (), "b": ("a",), "c": ("b", "outside"), "d": ("c",), "e": ()}
    assert with_parts(["c", "nobody's"], made_of) == {"a", "b", "c"}
    ran = []
    def provider(name, table):
        def run(self, step):
            ran.append(name)
            step.own |= {k: torch.full((2,), float(len(ran))) for k in self.gives if k in step.every}
        return type(name, (Provider,), {"gives": table, "__call__": run})()
    @wants("last", optional=["never"])
    def loss(last, never=None): return {"loss": last}
    LOSSES["for a test"] = loss
    try:
        chain = [provider("First", {"first": ()}), provider("Aside", {"aside": ()}),
                 provider("Last", {"last": ("first",)})]
        assert LossTask(torch.nn.Linear(1, 1), chain, ["for a test"])({"x": torch.ones(2)})["loss"].tolist() == [2, 2]
    finally: del LOSSES["for a test"]
    assert ran == ["First", "Last"]


@pytest.mark.parametrize("losses, encoded, ran", [
    (["vtc"], 1, "Video Texts Similarities"),
    (["vtc", "neg_vtc"], 3, "Video Texts Similarities"),
    (["vtc", "vtm", "mlm"], 2, "Video Texts Similarities Fusion"),
    (["vtc", "auxiliary"], 2, "Video Texts Similarities Positives"),
    (["component_simple"], 4, "Texts Similarities Components"),
    (["vtc", "vtm", "neg_vtm", "mlm", *COMPONENTS], 5, "Video Texts Similarities Components Fusion"),
])
def test_each_text_is_encoded_once_and_only_if_wanted(losses, encoded, ran):
    model, batch = tiny("navero").eval(), data().batch(0, 0)
    task, rows = ContrastiveTask(model, losses, mask=MLM), []
    encode = model.encode_text
    def watched(ids, mask):
        rows.append(len(ids))
        return encode(ids, mask)
    model.encode_text = watched
    task(batch)
    assert [type(p).__name__ for p in task.providers] == ran.split() and rows == [encoded*len(batch["clip"])]


# Terms of an earlier implementation, with one class for NAVERO and one for all others, on the same models and batches.
EARLIER = {
    ("navero", ("hn_nce", "component_adaptive", "importance_entropy", "auxiliary"), "all"):
        (2.5149, 1.4626, .5776, 1.5802),
    ("navero", ("vtc", "vtm", "neg_vtm", "mlm", "component_adaptive", "auxiliary"), ""):
        (1.918, .9521, 1.2843, 4.9519, .5823, 1.5802),
    ("xclip", ("hn_nce", "component_adaptive", "importance_entropy", "auxiliary"), "all"):
        (2.7371, .6639, .5776, 1.4805),
    ("clip4clip-transformer", ("hn_nce", "component_adaptive", "importance_entropy", "auxiliary"), "all"):
        (2.897, .6639, .5776, 1.5255),
    ("internvideo", ("hn_nce", "component_adaptive", "importance_entropy", "auxiliary"), "all"):
        (2.7726, .6639, .5776, 1.4901),
    ("singularity-temporal", ("vtc", "vtm", "neg_vtm", "mlm", "component_adaptive", "auxiliary"), ""):
        (1.807, 1.1104, 1.5519, 4.4283, .5907, 1.4364),
    ("alpro", ("vtc", "vtm", "neg_vtm", "mlm", "component_adaptive", "auxiliary"), ""):
        (1.9746, .7214, .7732, 5.073, .5854, 1.4656),
}


@pytest.mark.parametrize("name, losses, scope", EARLIER)
def test_terms_equal_those_of_an_earlier_implementation(name, losses, scope):
    more = {"compare": "attention", "options": {"hn_nce": {"scope": scope}}} if scope else {"mask": MLM}
    task = ContrastiveTask(tiny(name).train(), losses, **more)
    torch.manual_seed(0)
    terms = task(data().batch(0, 0) | {"seed": 5})
    assert list(terms) == list(losses)
    assert [v.mean().item() for v in terms.values()] == pytest.approx(EARLIER[name, losses, scope], abs=2e-3)


def test_order_of_batches_is_fixed_by_the_seed():
    arrays = ArrayBatches({"x": np.arange(10)}, batch_size=3, seed=7)
    for epoch in (0, 5):
        order = stable_rng(7, "still order", epoch).permutation(10)
        assert np.array_equal(arrays.order(epoch), order) and len(arrays) == 3
        assert arrays.batch(epoch, 2)["x"].tolist() == order[6:9].tolist()
        batches = moment_data(batch_size=4)[3]
        assert np.array_equal(batches.order(epoch), stable_rng(0, "queries", epoch).permutation(6))
    assert len(batches) == 2 and len(batches.batch(0, 1)["text"]) == 2


def test_fingerprint_depends_on_data_and_settings():
    arrays = {"x": np.arange(10), "y": np.zeros(10)}
    prints = {ArrayBatches(arrays, 3).fingerprint(), ArrayBatches(arrays, 4).fingerprint(),
              ArrayBatches(arrays, 3, seed=1).fingerprint(), ArrayBatches(arrays | {"y": np.ones(10)}, 3).fingerprint()}
    assert len(prints) == 4 and ArrayBatches(dict(arrays), 3).fingerprint() in prints
    with pytest.raises(VidnegError, match="smaller batch_size"): ArrayBatches(arrays, 11)
    with pytest.raises(NotImplementedError): OrderedBatches(np.arange(3), 1).batch(0, 0)
