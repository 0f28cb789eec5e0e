"""What holds for every measure and observer: it looks, and changes nothing."""

import pytest
import torch
from known import DATA, doubled, observed, untrained
from torch import nn

from mmlab import evaluation
from mmlab.datasets import Batch, MultimodalData
from mmlab.models import Gated, MultimodalNet


def test_observers_measure_by_the_loss_of_the_run():
    plain, twice = observed(epochs=0), observed(epochs=0, loss=doubled)
    factors = {"mean loss": 2, "accuracy": 1, "joint norm": 2, "unimodal norm": 2, "cosine": 1}
    assert set(plain["metric"]) == set(factors)
    expected = plain["value"] * plain["metric"].map(factors)
    assert twice["value"].tolist() == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-5)


def test_training_and_its_observers_never_read_the_test_split():
    nothing = {m: x.clone() for m, x in DATA.test.inputs.items()}
    poisoned = MultimodalData(DATA.train, DATA.holdout, Batch(nothing, DATA.test.target))
    for values in nothing.values():
        values.fill_(torch.nan)  # after the data set has looked at them
    history = observed(poisoned)
    assert history["value"].notna().all()
    assert history.equals(observed())


MEASURES = {
    "own head": lambda net: evaluation.own_head_accuracy(net, DATA.test),
    "share": lambda net: evaluation.share_accuracy(net, DATA.test),
    "joint": lambda net: evaluation.joint_accuracy(net, DATA.test),
    "probe": lambda net: evaluation.probe_accuracy(net, DATA),
    "conflict": lambda net: evaluation.gradient_conflict(net, DATA.train),
    "gap": lambda net: evaluation.modality_gap(net, DATA.test),
    "shapley": lambda net: evaluation.shapley_shares(net, DATA.test),
    "valuation": lambda net: _lists(evaluation.modality_valuation(net, DATA.test)),
    "violation": lambda net: evaluation.violation_share(untrained(net), DATA.test),
    "patterns": lambda net: evaluation.accuracy_by_pattern(untrained(net), DATA.test).to_dict(),
}


def _lists(values):
    return {m: value.tolist() for m, value in values.items()}


@pytest.mark.parametrize("measure", sorted({*MEASURES} - {"violation", "patterns"}))
def test_a_network_is_measured_and_not_its_run(measure):
    run = untrained(MultimodalNet.build(DATA))
    with pytest.raises(TypeError, match=r"a Run in place of a network; .*`run\.model`"):
        MEASURES[measure](run)


@pytest.mark.parametrize(
    "measure",
    [
        evaluation.test_accuracy,
        evaluation.test_scores,
        evaluation.answered_share,
        lambda run: evaluation.violation_share(run, DATA.test),
        lambda run: evaluation.accuracy_by_pattern(run, DATA.test),
        lambda run: evaluation.filled_in(run, DATA.test, "a"),
    ],
)
def test_a_run_is_measured_and_not_its_data(measure):
    with pytest.raises(TypeError, match="got a MultimodalData in place of a run"):
        measure(DATA)


WHERE = {
    "own head": r"the logits of the head of 'b'",
    "share": r"the parts of 'b' in the joint logits",
    "joint": r"the 'joint' logits",
    "probe": r"the features of 'b' in test",
    "conflict": r"the joint norm of the gradients in encoder 'a' is nan",
    "gap": r"the features of 'b'",
    "shapley": r"the parts of 'b' in the joint logits",
    "valuation": r"the joint logits",
    "violation": r"the predictions of Joint",
    "patterns": r"the predictions of Joint for this batch \(of its outputs: 'joint', 'b'\)",
}


@pytest.mark.parametrize("measure", MEASURES)
def test_what_is_not_finite_has_no_measure(measure, monkeypatch):
    net = MultimodalNet.build(DATA)
    split = DATA.train if measure == "conflict" else DATA.test
    values = split.inputs["b"].clone()
    values[7] = torch.nan
    monkeypatch.setitem(split.inputs, "b", values)
    rows = "" if measure == "conflict" else " are not finite in 1 of 20 samples, first in row 7"
    with pytest.raises(FloatingPointError, match=WHERE[measure] + rows + ".*; lower lr, or look"):
        MEASURES[measure](net)


@pytest.mark.parametrize("measure", [m for m in MEASURES if m not in ("conflict", "gap")])
def test_measures_of_labels_refuse_real_targets(measure, monkeypatch):
    net = MultimodalNet.build(DATA)
    for split in (DATA.train, DATA.test):
        monkeypatch.setattr(split, "target", split.target.float())
    with pytest.raises(ValueError, match=r"needs class labels, and the targets are torch\.float32"):
        MEASURES[measure](net)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("measure", MEASURES)
def test_measuring_changes_nothing(measure, training):
    encoders = {m: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)) for m in "ab"}
    net = MultimodalNet(encoders, Gated({"a": 4, "b": 4}, 2), nn.Linear(4, 2)).train(training)
    net.encoders["b"][1].train(not training)  # as one would a frozen encoder's
    modes = [module.training for module in net.modules()]
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first = MEASURES[measure](net)
    assert first == MEASURES[measure](net)  # dropout is off, too
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad.eq(1).all() for p in net.parameters())
