"""The audit of a method: what every method of ours answers, and faults that it finds."""

import copy
from functools import partial
from importlib import import_module
from math import isnan

import pytest
import torch
from torch.nn import functional as F

from mmlab import MLA, OGM, PMR, Balancer, Joint, ScaledInputs, Uniform
from mmlab.balancers import METHODS
from mmlab.balancers.pmr import class_means, truths
from mmlab.datasets import Batch, MultimodalData
from mmlab.datasets.synthetic import synthetic
from mmlab.evaluation import audit

ACTS, ORDER, TEST, HOLDOUT, BATCH, SCALE = range(6)
"""Rows of the table."""

SMALL = synthetic(n=(40, 24, 16), dims=4)

NOTHING = {"joint": "joint training", "uniform": "uniform", "MMCosine": "joint training"}
"""Those that are a baseline; of MMCosine the fusion alone is special."""

IN_ORDER = {"OPM", "OGM-GE", "CML", "SMV", "MLA", "ReconBoost"}
"""Random draws, or turns, in the order of the modalities."""

HELD_OUT = {"G-Blend", "D&R"}


MODULE = import_module("mmlab.evaluation.audit")


@pytest.fixture(autouse=True)
def one_seed(monkeypatch):
    """Enough where the scale is not what is tested, as it is where a test sets more."""
    monkeypatch.setattr(MODULE, "SEEDS", 1)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


LATE = {"SMV": 6}
"""Epochs, of those whose special step comes late."""


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_ours_answers_as_it_says_of_itself(name):
    table = audit(METHODS[name].make, SMALL, epochs=LATE.get(name, 4))
    answers, verdicts = table["answer"], table["verdict"]
    assert list(table) == ["question", "answer", "figure", "verdict"] and len(table) == 6
    if name in NOTHING:
        assert answers[ACTS] == f"no: it is {NOTHING[name]}"
    else:
        assert verdicts[ACTS] == "fine" and table["figure"][ACTS] > 1e-4
    assert (verdicts[ORDER] == "fine") == (name not in IN_ORDER)
    assert verdicts[TEST] == "fine" and table["figure"][TEST] == 0
    assert (verdicts[HOLDOUT] == "fine") == (name not in HELD_OUT)
    assert verdicts[BATCH] == "fine"


def found(method, data=SMALL, **options):
    """The verdicts on a method, with few epochs."""
    return list(audit(method, data, **{"epochs": 2, **options})["verdict"])


class Looks(Uniform):
    """Computes something every step, and uses it for nothing."""

    def step(self, s):
        s.log(share=s.losses["joint"] / 2)
        yield from super().step(s)


def test_a_step_that_does_nothing_is_found():
    assert found(Looks)[ACTS] == "look here"
    assert found(partial(OGM, enhance=False, scope="conv"))[ACTS] == "look here"


class NoProjector(MLA):
    """It prepares its projector, and never applies it."""

    def project(self, head, m):
        pass


def test_a_step_that_does_nothing_beside_others_that_do_is_found_where_it_is_left_out():
    plain = partial(MLA, "none")
    assert found(NoProjector)[ACTS] == "fine"  # taking turns is no joint training
    assert found(NoProjector, without=plain)[ACTS] == "look here"
    assert found(MLA, without=plain)[ACTS] == "fine"


class FirstAlone(Balancer):
    """The first modality learns faster."""

    def step(self, s):
        s.backward(s.losses["joint"], scale=torch.tensor([4.0, 1.0]))
        yield


def test_a_modality_that_is_special_by_its_place_is_found():
    assert found(FirstAlone, epochs=6)[ORDER] == "look here"


class PrototypesOfTest(PMR):
    """The class means are those of the test split."""

    def epoch(self, run):
        seen = run.reading("test")
        truth = truths(seen.target, 2)
        self.prototypes = {m: class_means(h, truth) for m, h in seen.values.items()}


class BestEpoch(Joint):
    """Keeps the weights of the epoch with the least loss on one split."""

    split = "test"

    def start(self, run):
        self.least = None

    def epoch(self, run):
        loss = run.losses(self.split, "joint")["joint"].item()
        if self.least is None or loss < self.least[0]:
            self.least = loss, copy.deepcopy(run.model.state_dict())

    def finish(self, run):
        run.model.load_state_dict(self.least[1])


class BestByHoldout(BestEpoch):
    split = "holdout"


class Unlabelled(Joint):
    """Features of the test split, without its labels, set the length of the steps."""

    def epoch(self, run):
        self.factor = 1 / (1 + run.features("test")["a"].square().mean().item())

    def step(self, s):
        s.backward(self.factor * s.losses["joint"])
        yield


@pytest.mark.parametrize("peeking", [PrototypesOfTest, BestEpoch, Unlabelled])
def test_a_look_at_the_test_split_is_found(peeking):
    verdicts = found(peeking, epochs=4)
    assert (verdicts[TEST], verdicts[HOLDOUT]) == ("look here", "fine")


def test_the_holdout_is_told_from_the_test_split():
    verdicts = found(BestByHoldout, epochs=4)
    assert (verdicts[TEST], verdicts[HOLDOUT]) == ("fine", "look here")


class Unseeded(Joint):
    """Its random numbers do not follow the seed of the run."""

    draw = torch.Generator().manual_seed(0)

    def step(self, s):
        s.backward((1 + torch.rand((), generator=self.draw)) * s.losses["joint"])
        yield


def test_random_numbers_without_the_seed_are_not_taken_for_a_look_at_a_split():
    verdicts = found(Unseeded)
    assert (verdicts[TEST], verdicts[HOLDOUT]) == ("cannot tell", "cannot tell")


class BatchEntropy(MLA):
    """The softmax of the gate runs over the samples of the batch."""

    def fuse(self, out, present=None):
        z = torch.stack([*out.unimodal.values()])
        log_p = z.log_softmax(1)
        weights = (log_p.exp() * log_p).sum((1, 2)).softmax(0)
        return (weights[:, None, None] * z).sum(0)


def test_a_prediction_that_depends_on_its_batch_is_found():
    assert found(BatchEntropy)[BATCH] == "look here"


def loud():
    """The modality that tells less has inputs eight times as large."""
    data = synthetic(n=(96, 256, 16), signal={"a": 1.0, "b": 3.0}, dims=8)
    for split in data.splits.values():
        split.inputs["a"] = 8 * split.inputs["a"]
    return data


class Slow(Joint):
    def step(self, s):
        s.backward(1e-4 * s.losses["joint"])
        yield


def test_a_lead_that_the_scale_of_an_input_explains_is_found(monkeypatch):
    monkeypatch.setattr(MODULE, "SEEDS", 3)
    table = audit(partial(ScaledInputs, a=0.125), loud(), epochs=3)
    assert table["verdict"][SCALE] == "look here" and table["figure"][SCALE] > 5
    assert "a × 0.25" in table["answer"][SCALE]


def test_what_is_below_at_every_scale_keeps_its_rank(monkeypatch):
    monkeypatch.setattr(MODULE, "SEEDS", 3)
    assert found(Slow, loud(), epochs=3)[SCALE] == "fine"
    assert found(Joint, loud(), epochs=1)[SCALE] == "cannot tell"  # neither above nor below


def test_a_class_a_maker_and_a_balancer_are_the_same():
    instance = OGM(alpha=0.8)
    tables = [audit(one, SMALL, epochs=1) for one in (OGM, lambda: OGM(alpha=0.8), instance)]
    assert all(table.equals(tables[0]) for table in tables)
    assert vars(instance) == vars(OGM(alpha=0.8))


def test_a_fusion_that_reads_the_modalities_in_order_cannot_be_asked():
    class Film(Joint):
        fusion = "film"

    table = audit(Film, SMALL, epochs=1)
    assert table["verdict"][ORDER] == "cannot tell" and isnan(table["figure"][ORDER])


def test_its_data_are_as_they_were():
    before = {name: copy.deepcopy(split) for name, split in SMALL.splits.items()}
    audit(Joint, SMALL, epochs=1)
    for name, split in SMALL.splits.items():
        for m, x in split.inputs.items():
            assert torch.equal(x, before[name].inputs[m]) and x.dtype == torch.float32


def test_what_is_no_method_and_what_has_no_labels_is_refused():
    with pytest.raises(TypeError, match="balancer"):
        audit(5)
    with pytest.raises(TypeError, match="balancer"):
        audit(lambda: F)
    batch = Batch({"a": torch.randn(4, 2), "b": torch.randn(4, 2)}, torch.randn(4))
    with pytest.raises(ValueError, match="needs class labels"):
        audit(Joint, MultimodalData(batch, batch, batch, task="regression"))
