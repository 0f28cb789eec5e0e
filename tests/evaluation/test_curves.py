"""Curves are those of whole splits, and overfitting is reckoned from them."""

import pandas as pd
import pytest
import torch
from known import DATA, observed
from torch import nn

from mmlab import evaluation
from mmlab.datasets import Batch, MultimodalData
from mmlab.models import MultimodalNet
from mmlab.training import fit


def table(rows):
    columns = ["epoch", "split", "output", "metric", "value"]
    return pd.DataFrame([(*row[:3], "mean loss", row[3]) for row in rows], columns=columns)


@pytest.mark.parametrize("real", [False, True])
def test_curves_stop_at_logits_that_are_not_finite(real):
    split = Batch({m: torch.randn(8, 3) for m in "ab"}, torch.arange(8) % 2)
    split.target = split.target.float() if real else split.target
    task = "regression" if real else "classification"
    data = MultimodalData(split, split[:], split[:], task=task)
    data.holdout.inputs = {**split.inputs, "b": torch.full((8, 3), torch.nan)}
    with pytest.raises(
        FloatingPointError, match=r"the '(joint|b)' logits of holdout are not finite"
    ):
        observed(data, observers=[evaluation.Curves()])
    assert len(observed(data, observers=[evaluation.Curves(["train"])]))


def test_curves_are_of_splits():
    with pytest.raises(TypeError, match=r"splits is 'train'; give a tuple of names, such as \('tr"):
        evaluation.Curves("train")
    with pytest.raises(ValueError, match="split is 'val'; allowed are 'train', 'holdout', 'test'"):
        evaluation.Curves(("train", "val"))


def test_overfitting_starts_from_an_epoch_that_is_there():
    rows = [(epoch, split, "joint", 1.0) for epoch in (1, 2) for split in ("train", "holdout")]
    with pytest.raises(ValueError, match="no epoch 0 to start from; it has 1 to 2"):
        evaluation.overfitting(table(rows))


def test_overfitting_by_hand():
    history = table(
        [
            (0, "train", "joint", 2.0),
            (0, "holdout", "joint", 2.2),
            (1, "train", "joint", 1.0),
            (1, "holdout", "joint", 1.7),
            (2, "train", "joint", 0.5),
            (2, "holdout", "joint", 2.4),
        ]
    )
    rows = evaluation.overfitting(history)
    assert rows["epoch"].tolist() == [1, 2]
    assert rows["gain"].tolist() == pytest.approx([0.5, -0.2])
    assert rows["overfit"].tolist() == pytest.approx([0.5, 1.7])
    assert rows["ogr"].tolist() == pytest.approx([1.0, 8.5])
    later = evaluation.overfitting(history, start=1)
    assert later[["epoch", "gain", "overfit"]].values.tolist() == [pytest.approx([2, -0.7, 1.2])]


def test_overfitting_needs_both_curves():
    with pytest.raises(ValueError, match=r"no curves for \['holdout'\]; train with .*Curves"):
        evaluation.overfitting(table([(0, "train", "joint", 1.0)]))


def test_curves_record_the_whole_splits_from_epoch_0_on():
    net = MultimodalNet.build(DATA)
    untrained = net(DATA.holdout.inputs)
    run = fit(net, DATA, epochs=2, device="cpu", observers=[evaluation.Curves()])
    curve = run.history.query("metric == 'mean loss' and output == 'joint' and split == 'holdout'")
    assert curve["epoch"].tolist() == [0, 1, 2]
    expected = nn.functional.cross_entropy(untrained.joint, DATA.holdout.target).item()
    assert curve["value"].iloc[0] == pytest.approx(expected)
    last = run.history.query("epoch == 2 and metric == 'accuracy' and split == 'holdout'")
    values = dict(zip(last["output"], last["value"], strict=True))
    own = evaluation.own_head_accuracy(net, DATA.holdout)
    assert values == {"joint": evaluation.joint_accuracy(net, DATA.holdout), **own}
    assert len(evaluation.overfitting(run.history)) == 3 * 2


def test_curves_count_only_the_samples_that_have_the_modality():
    present = {"a": torch.arange(20) < 7, "b": torch.ones(20, dtype=torch.bool)}
    holdout = Batch(DATA.holdout.inputs, DATA.holdout.target, present)
    data = MultimodalData(DATA.train, holdout, DATA.test)
    rows = observed(data, epochs=0, observers=[evaluation.Curves(("holdout",))])
    own = evaluation.own_head_accuracy(MultimodalNet.build(data), holdout)
    assert own["a"] != evaluation.own_head_accuracy(MultimodalNet.build(data), DATA.holdout)["a"]
    values = rows.query("metric == 'accuracy' and output != 'joint'")
    assert dict(zip(values["output"], values["value"], strict=True)) == own
