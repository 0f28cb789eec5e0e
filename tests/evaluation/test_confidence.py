"""Calibration and confidence without a modality, by hand."""

import math

import pytest
import torch
from known import make_known, untrained

from mmlab import MLA, Unimodal, evaluation
from mmlab.datasets import Batch


def logits_of(*probabilities):
    """Logits (B, 2) whose first class has these probabilities."""
    first = torch.tensor(probabilities, dtype=torch.float64)
    return torch.stack([first, 1 - first], dim=-1).log()


def test_calibration_by_hand():
    """Bins of a tenth: (.5, .6] has 2 samples, both right; (.8, .9] has 3, one right."""
    logits = logits_of(0.55, 0.59, 0.85, 0.15, 0.81)
    target = torch.tensor([0, 0, 0, 0, 1])
    expected = (abs(2 - 0.55 - 0.59) + abs(1 - 0.85 - 0.85 - 0.81)) / 5
    assert evaluation.calibration_error(logits, target, bins=10) == pytest.approx(expected)
    whole = abs(3 - 0.55 - 0.59 - 0.85 - 0.85 - 0.81) / 5
    assert evaluation.calibration_error(logits, target, bins=1) == pytest.approx(whole)


def test_a_bin_is_closed_above():
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(9)]])  # .5 exactly, and .9
    target = torch.tensor([0, 0])  # the first is right by .5, the second wrong by .9
    assert evaluation.calibration_error(logits, target, bins=2) == pytest.approx((0.5 + 0.9) / 2)
    assert evaluation.calibration_error(logits, target, bins=1) == pytest.approx((0.9 - 0.5) / 2)


def test_sure_and_right_is_calibrated_sure_and_wrong_is_not():
    logits = 1000 * torch.eye(3)
    assert evaluation.calibration_error(logits, torch.arange(3)) == 0
    assert evaluation.calibration_error(logits, torch.tensor([1, 2, 0])) == 1


def test_a_prediction_drawn_from_its_own_probabilities_is_nearly_calibrated():
    draw = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(40_000, 5, generator=draw)
    target = torch.multinomial(logits.softmax(-1), 1, generator=draw).squeeze(1)
    assert evaluation.calibration_error(logits, target) < 0.015
    assert evaluation.calibration_error(3 * logits, target) > 0.1
    stacked = logits.reshape(4, -1, 5), target.reshape(4, -1)
    assert evaluation.calibration_error(*stacked) == evaluation.calibration_error(logits, target)


def test_calibration_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="calibration_error needs class labels"):
        evaluation.calibration_error(torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(ValueError, match=r"have the shape \(2, 3\), the target has \(3,\)"):
        evaluation.calibration_error(torch.zeros(2, 3), torch.zeros(3).long())
    with pytest.raises(ValueError, match="bins is 0; it must be a whole number of at least 1"):
        evaluation.calibration_error(torch.zeros(2, 3), torch.zeros(2).long(), bins=0)
    with pytest.raises(FloatingPointError, match="the logits are not finite in 1 of 2 samples"):
        evaluation.calibration_error(torch.tensor([[0.0, 1], [math.nan, 0]]), torch.zeros(2).long())


def contradicting():
    """Modality a says the class; b says half as loudly "not this one" in the first 20 samples."""
    net, data = make_known()
    with torch.no_grad():
        net.fusion.linear.weight[:, 4:] = -0.5 * torch.eye(4)
    data.test.inputs["b"] = data.test.inputs["a"].clone()
    data.test.inputs["b"][20:] = 0
    return net, data


def test_confidence_grows_where_a_contradiction_is_taken_away():
    net, data = contradicting()
    assert evaluation.violation_share(untrained(net), data.test) == {"a": 0, "b": 0.25}


def test_samples_without_a_second_modality_do_not_count():
    net, data = contradicting()
    has = {"a": torch.arange(80) < 40, "b": torch.ones(80, dtype=torch.bool)}
    inputs = data.test.inputs | {"a": data.test.inputs["a"] * has["a"][:, None]}
    batch = Batch(inputs, data.test.target, has)
    assert evaluation.violation_share(untrained(net), batch) == {"a": 0, "b": 0.5}
    alone = Batch(inputs, data.test.target, {"a": has["a"], "b": ~has["a"]})
    assert all(math.isnan(x) for x in evaluation.violation_share(untrained(net), alone).values())


def test_confidence_is_that_of_the_balancer():
    """Uniform heads: b is sure, a is less so; without a the mean of both becomes surer."""
    net, data = make_known()
    with torch.no_grad():
        net.heads["b"].bias.mul_(3)
    gated = untrained(net, data, MLA(fusion="mean"))
    assert evaluation.violation_share(gated, data.test) == {"a": 1, "b": 0}
    alone = evaluation.violation_share(untrained(net, data, Unimodal("a")), data.test)
    assert math.isnan(alone["a"]) and alone["b"] == 0
