"""Shares of the decision, and the gap between the features, by hand."""

import math

import pytest
import torch
from known import DATA, make_known
from torch import nn

from mmlab import evaluation
from mmlab.datasets import Batch, MultimodalData
from mmlab.models import Concat, MultimodalNet


def test_the_balance_of_shares():
    net, data = make_known()
    assert evaluation.shapley_shares(net, data.test) == {"a": 1.0, "b": 0.0}
    with torch.no_grad():
        net.fusion.linear.weight[:, 4:] = 0.5 * torch.eye(4)
    data.test.inputs["b"] = data.test.inputs["a"]
    shares = evaluation.shapley_shares(net, data.test)
    assert shares == pytest.approx({"a": 2 / 3, "b": 1 / 3})
    with torch.no_grad():
        net.fusion.linear.bias.fill_(9.0)  # a constant for all classes is no evidence
    assert evaluation.shapley_shares(net, data.test) == pytest.approx(shares)


def test_evidence_against_the_class_has_its_share_too():
    net, data = make_known()
    with torch.no_grad():
        net.fusion.linear.weight[:, 4:] = 0.5 * torch.eye(4)
    signs = torch.tensor([1.0, 1, 1, 1, -1, -1, -1, -1]).repeat(10)[:, None]
    data.test.inputs["b"] = data.test.inputs["a"] * signs  # for half of each class it is against
    shares = evaluation.shapley_shares(net, data.test)
    assert shares == pytest.approx({"a": 2 / 3, "b": 1 / 3})


@pytest.mark.parametrize("fusion", ["late", "film", "attention"])
def test_shares_sum_to_one_on_every_fusion(fusion):
    net = MultimodalNet.build(DATA, fusion=fusion)
    assert sum(evaluation.shapley_shares(net, DATA.test).values()) == pytest.approx(1)


def test_the_modality_gap_by_hand():
    net, data = make_known()
    data.test.inputs["a"] = torch.tensor([[3.0, 0, 0, 0]]).expand(80, 4)  # to (1, 0, 0, 0)
    data.test.inputs["b"] = torch.tensor([[0, 0.1, 0, 0]]).expand(80, 4)
    assert evaluation.modality_gap(net, data.test) == pytest.approx(math.sqrt(2))
    data.test.inputs["b"] = data.test.inputs["a"] * 7
    assert evaluation.modality_gap(net, data.test) == pytest.approx(0, abs=1e-5)
    # Each sample is scaled before the mean: half go to (1, 0, 0, 0), half to (0, 1, 0, 0).
    data.test.inputs["b"] = torch.tensor([[9.0, 0, 0, 0], [0, 2.0, 0, 0]]).repeat(40, 1)
    assert evaluation.modality_gap(net, data.test) == pytest.approx(math.sqrt(0.5))


def test_the_gap_of_three_is_the_mean_over_the_pairs():
    points = torch.eye(4)[[0, 1, 0]]  # distances: root 2, 0, root 2
    inputs = {m: x.expand(8, 4) for m, x in zip("abc", points, strict=True)}
    encoders = {m: nn.Identity() for m in "abc"}
    net = MultimodalNet(encoders, Concat(dict.fromkeys("abc", 4), 2), nn.Linear(4, 2))
    gap = evaluation.modality_gap(net, Batch(inputs, torch.zeros(8).long()))
    assert gap == pytest.approx(2 * math.sqrt(2) / 3)


def test_a_gap_needs_two_modalities():
    batch = Batch({"a": torch.randn(4, 3)}, torch.tensor([0, 1, 0, 1]))
    net = MultimodalNet.build(MultimodalData(batch, batch, batch))
    with pytest.raises(ValueError, match=r"a gap needs two modalities; the model has \['a'\]"):
        evaluation.modality_gap(net, batch)


def test_valuation_by_hand():
    """a is always right, b never: v(a) = 1, v(b) = 0, v(ab) = 2, as a is the louder."""
    net, data = make_known()
    with torch.no_grad():
        net.fusion.linear.weight[:, 4:] = 0.5 * torch.eye(4)
    data.test.inputs["b"] = data.test.inputs["a"].roll(1, dims=1)  # the next class
    values = evaluation.modality_valuation(net, data.test)
    assert values["a"].tolist() == [1.5] * 80 and values["b"].tolist() == [0.5] * 80
    with torch.no_grad():
        net.fusion.linear.weight[:, 4:] = 2 * torch.eye(4)  # b is the louder: v(ab) = 0
    values = evaluation.modality_valuation(net, data.test)
    assert values["a"].tolist() == [0.5] * 80 and values["b"].tolist() == [-0.5] * 80


@pytest.mark.parametrize("fusion", ["concat", "film", "attention"])
def test_values_sum_to_the_modalities_of_a_right_answer(fusion):
    batch = DATA.test
    net = MultimodalNet.build(DATA, fusion=fusion)
    right = evaluation.forward(net, batch).joint.argmax(-1) == batch.target
    total = sum(evaluation.modality_valuation(net, batch).values())
    assert total.tolist() == pytest.approx((2.0 * right).tolist()) and 0 < right.sum() < len(right)


def test_a_modality_that_a_sample_lacks_has_no_value():
    net, data = make_known()
    everywhere = torch.ones(80, dtype=torch.bool)
    batch = Batch(data.test.inputs, data.test.target, {"a": everywhere, "b": ~everywhere})
    values = evaluation.modality_valuation(net, batch)
    assert values["a"].tolist() == [1] * 80 and values["b"].tolist() == [0] * 80


def test_the_values_of_three_by_hand():
    """One sample; a and b are right alone and together, c is wrong, and only against one of them.

    v: a 1, b 1, c 0, ab 2, ac 0, bc 0, abc 3; so a = b = 1/3 + 1/6 + 0 + 1, c = 2 (-1/6) + 1/3.
    """
    encoders = {m: nn.Identity() for m in "abc"}
    net = MultimodalNet(encoders, Concat(dict.fromkeys("abc", 2), 2), nn.Linear(2, 2))
    with torch.no_grad():
        net.fusion.linear.weight.copy_(torch.eye(2).repeat(1, 3))
        net.fusion.linear.bias.zero_()
    inputs = {"a": [[1.0, 0]], "b": [[1.0, 0]], "c": [[0, 1.5]]}
    batch = Batch({m: torch.tensor(x) for m, x in inputs.items()}, torch.tensor([0]))
    values = evaluation.modality_valuation(net, batch)
    assert values["a"].item() == values["b"].item() == pytest.approx(1.5)
    assert values["c"].item() == pytest.approx(0)
