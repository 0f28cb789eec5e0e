"""The learning speed is how far an encoder moved, by hand."""

import pytest
from known import DATA
from torch import nn

from mmlab import Joint, Unimodal, fit, fit_seeds
from mmlab.evaluation import LearningSpeed
from mmlab.models import Concat, MultimodalNet


class Keep:
    """Observer: the weights of every encoder after each epoch."""

    def __init__(self):
        self.weights = []

    def __call__(self, run):
        copies = {m: e.weight.detach().clone() for m, e in run.model.encoders.items()}
        self.weights.append(copies)


def net_of(encoders):
    return MultimodalNet(encoders, Concat({"a": 5, "b": 5}, 2), nn.Linear(5, 2))


def speeds(history, m):
    rows = history[(history.metric == "learning speed") & (history.output == m)]
    assert (rows.split == "train").all()
    return rows.set_index("epoch")["value"]


def test_the_speed_adds_up_what_epochs_moved():
    keep, watch = Keep(), LearningSpeed()
    net = net_of({m: nn.Linear(5, 5, bias=False) for m in "ab"})
    history = fit(net, DATA, epochs=2, device="cpu", observers=[keep, watch], lr=0.1).history
    for m in "ab":
        first, second, third = (weights[m] for weights in keep.weights)
        one = (second - first).square().sum() / first.square().sum()
        two = (third - second).square().sum() / second.square().sum()
        found = speeds(history, m)
        assert found.index.tolist() == [0, 1, 2] and one > 0 and two > 0
        assert found.tolist() == pytest.approx([0, one.item(), (one + two).item()], rel=1e-5)


def test_an_encoder_that_does_not_learn_has_no_speed():
    net = net_of({m: nn.Linear(5, 5) for m in "ab"})
    run = fit(net, DATA, Unimodal("a"), epochs=1, device="cpu", observers=[LearningSpeed()])
    assert speeds(run.history, "a")[1] > 0 == speeds(run.history, "b")[1]


def test_an_encoder_without_parameters_is_left_out():
    net = net_of({"a": nn.Linear(5, 5), "b": nn.Identity()})
    history = fit(net, DATA, epochs=1, device="cpu", observers=[LearningSpeed()]).history
    assert len(speeds(history, "a")) == 2 and len(speeds(history, "b")) == 0


def test_an_observer_that_is_used_again_begins_anew():
    watch = LearningSpeed()
    runs = [
        fit(
            net_of({m: nn.Linear(5, 5) for m in "ab"}),
            DATA,
            epochs=1,
            device="cpu",
            observers=[watch],
        )
        for _ in range(2)
    ]
    assert all(speeds(run.history, "a")[0] == 0 for run in runs)


def test_runs_of_one_program_have_their_own_speeds():
    options = {"epochs": 1, "device": "cpu", "observers": [LearningSpeed]}
    together = fit_seeds(DATA, Joint, seeds=range(2), at_once=True, **options)
    apart = fit_seeds(DATA, Joint, seeds=range(2), at_once=False, **options)
    for one, other in zip(together, apart, strict=True):
        assert speeds(one.history, "a")[1] == pytest.approx(speeds(other.history, "a")[1], rel=1e-3)
    assert speeds(apart[0].history, "a")[1] != speeds(apart[1].history, "a")[1]
