"""What each modality can do alone, on a network made by hand."""

import math

import pytest
import torch
from known import make_known

from mmlab import evaluation
from mmlab.datasets import Batch, MultimodalData


def test_the_three_unimodal_accuracies_are_three_things():
    net, data = make_known()
    assert evaluation.own_head_accuracy(net, data.test) == {"a": 0.25, "b": 0.25}
    assert evaluation.share_accuracy(net, data.test) == {"a": 1.0, "b": 0.25}
    probe = evaluation.probe_accuracy(net, data)
    assert probe["a"] == 1.0 and probe["b"] < 0.6
    assert evaluation.joint_accuracy(net, data.test) == 1.0


def test_only_samples_that_have_the_modality_count():
    net, data = make_known()
    data.test.present = {"a": data.test.target == 1, "b": torch.ones(80, dtype=torch.bool)}
    assert evaluation.own_head_accuracy(net, data.test) == {"a": 1.0, "b": 0.25}
    data.test.present["a"] = torch.zeros(80, dtype=torch.bool)
    assert math.isnan(evaluation.own_head_accuracy(net, data.test)["a"])


def test_probes_learn_from_the_samples_that_have_the_modality():
    net, data = make_known()
    mask = torch.arange(80) < 40
    inputs = dict(data.train.inputs, a=data.train.inputs["a"].clone())
    inputs["a"][~mask] = inputs["a"][~mask].roll(1, dims=1)  # would teach the wrong class
    split = Batch(inputs, data.train.target, dict.fromkeys("ab", mask))
    assert evaluation.probe_accuracy(net, MultimodalData(split, split, split))["a"] == 1.0


def test_a_share_counts_only_the_samples_that_have_the_modality():
    net, data = make_known()
    mask = data.test.target == 1
    data.test.inputs["a"] = data.test.inputs["a"] * mask[:, None]  # the absent ones say class 0
    assert evaluation.share_accuracy(net, data.test)["a"] == 0.5
    data.test.present = {"a": mask, "b": torch.ones(80, dtype=torch.bool)}
    assert evaluation.share_accuracy(net, data.test) == {"a": 1.0, "b": 0.25}


def test_a_probe_needs_samples_that_have_the_modality():
    net, data = make_known()
    nobody, everybody = torch.zeros(80, dtype=torch.bool), torch.ones(80, dtype=torch.bool)
    data.test = Batch(data.test.inputs, data.test.target, {"a": nobody, "b": everybody})
    scores = evaluation.probe_accuracy(net, data)
    assert math.isnan(scores["a"]) and not math.isnan(scores["b"])
    one_class = data.train.target == 2
    data.train = Batch(data.train.inputs, data.train.target, {"a": one_class, "b": everybody})
    with pytest.raises(
        ValueError, match=r"a probe of 'a' needs .*20 samples, of the classes \[2\]"
    ):
        evaluation.probe_accuracy(net, data)
    with pytest.raises(ValueError, match="split is 'val'; allowed are 'train', 'holdout', 'test'"):
        evaluation.probe_accuracy(net, data, "val")


def test_probes_learn_nothing_from_the_split_they_are_measured_on():
    net, data = make_known()
    wrong = Batch(data.train.inputs, (data.train.target + 1) % 4)
    scores = evaluation.probe_accuracy(net, MultimodalData(wrong, data.holdout, data.test))
    assert scores["a"] == 0.0
    scores = evaluation.probe_accuracy(net, MultimodalData(wrong, wrong, data.test), "holdout")
    assert scores["a"] == 1.0


def test_a_probe_does_not_mind_the_scale_of_a_feature():
    net, data = make_known()
    plain = evaluation.probe_accuracy(net, data)
    with torch.no_grad():
        net.encoders["b"].weight.mul_(torch.tensor([[2.0**-14], [1.0], [1.0], [2.0**10]]))
    assert evaluation.probe_accuracy(net, data) == plain
