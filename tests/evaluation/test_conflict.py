"""The gradients that meet in an encoder are autograd's, by the loss in use."""

import pytest
import torch
from known import DATA, doubled, observed
from torch import nn

from mmlab import evaluation
from mmlab.models import MultimodalNet
from mmlab.training import fit


def test_gradient_conflict_is_autograds():
    net = MultimodalNet.build(DATA)
    rows = evaluation.gradient_conflict(net, DATA.train)
    out = net(DATA.train.inputs)
    for m in "ab":
        parameters = list(net.encoders[m].parameters())
        g, u = (
            torch.cat(
                [x.flatten() for x in torch.autograd.grad(loss, parameters, retain_graph=True)]
            )
            for loss in (
                nn.functional.cross_entropy(out.joint, DATA.train.target),
                nn.functional.cross_entropy(out.unimodal[m], DATA.train.target),
            )
        )
        expected = {
            "joint norm": g.norm().item(),
            "unimodal norm": u.norm().item(),
            "cosine": (g @ u / g.norm() / u.norm()).item(),
        }
        assert rows[m] == pytest.approx(expected, rel=1e-4)
        assert evaluation.gradient_norms(net, DATA.train)[m] == rows[m]["joint norm"]


def test_the_conflict_is_that_of_the_loss_in_use():
    net = MultimodalNet.build(DATA)
    plain = evaluation.gradient_conflict(net, DATA.train)
    twice = evaluation.gradient_conflict(net, DATA.train, doubled)
    for m in "ab":
        for norm in ("joint norm", "unimodal norm"):
            assert twice[m][norm] == pytest.approx(2 * plain[m][norm], rel=1e-4)
        assert twice[m]["cosine"] == pytest.approx(plain[m]["cosine"], abs=1e-5)


def test_a_frozen_encoder_has_no_conflict():
    net = MultimodalNet.build(DATA)
    whole = evaluation.gradient_conflict(net, DATA.train)
    net.encoders["a"].requires_grad_(False)
    assert evaluation.gradient_conflict(net, DATA.train) == {"b": pytest.approx(whole["b"])}


def test_the_watch_records_the_conflict_of_each_encoder():
    net = MultimodalNet.build(DATA)
    run = fit(net, DATA, epochs=1, device="cpu", observers=[evaluation.GradientWatch()])
    rows = run.history.query("metric == 'cosine'")
    assert set(rows["output"]) == {"a", "b"} and rows["value"].abs().max() <= 1


@pytest.mark.parametrize("size", [0, -1, 2.5, "all"])
def test_the_watch_looks_at_a_number_of_samples(size):
    with pytest.raises(ValueError, match=r"size is .*; it must be a whole number of at least 1"):
        evaluation.GradientWatch(size)


def test_the_watch_takes_a_fixed_batch_of_the_training_data():
    rows = observed(epochs=0, observers=[evaluation.GradientWatch(size=16)])
    expected = evaluation.gradient_conflict(MultimodalNet.build(DATA), DATA.train[:16])
    for m in "ab":
        own = rows[rows["output"] == m]
        assert dict(zip(own["metric"], own["value"], strict=True)) == pytest.approx(expected[m])
