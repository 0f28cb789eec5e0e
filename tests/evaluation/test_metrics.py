"""A prediction is scored as it was made, on numbers known by hand."""

import math

import pytest
import torch
from known import make_known

from mmlab import evaluation
from mmlab.balancers import Unimodal
from mmlab.datasets import Batch, MultimodalData
from mmlab.training import fit


def test_the_accuracy_of_a_run_is_that_of_the_balancers_own_prediction():
    net, data = make_known()
    right, late = data.test, Batch(data.test.inputs, torch.ones(80, dtype=torch.long))
    run = fit(net, MultimodalData(right, late, right), Unimodal("a"), epochs=0, device="cpu")
    assert evaluation.joint_accuracy(net, right) == 1.0
    assert evaluation.test_accuracy(run) == 0.25  # its own head always says class 1
    assert evaluation.test_accuracy(run, "holdout") == 1.0
    assert evaluation.test_scores(run) == {"accuracy": 0.25}


def test_regression_metrics_by_hand():
    target = torch.tensor([-3.0, -1.0, 0.0, 2.0])
    prediction = torch.tensor([[-4.0], [0.6], [0.4], [1.0]])
    scores = evaluation.regression_metrics(prediction, target)
    assert scores["mae"] == pytest.approx((1 + 1.6 + 0.4 + 1) / 4)
    assert scores["accuracy 2"] == 3 / 4 and scores["accuracy 7"] == 2 / 4
    expected = torch.corrcoef(torch.stack([prediction[:, 0], target]))[0, 1].item()
    assert scores["pearson"] == pytest.approx(expected)
    assert math.isnan(evaluation.regression_metrics(torch.zeros(4), target)["pearson"])
