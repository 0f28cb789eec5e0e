"""Measures on networks made by hand, whose numbers are known."""

import math

import pandas as pd
import pytest
import torch
from torch import nn

from mmlab import evaluation
from mmlab.balancers import Unimodal
from mmlab.datasets import Batch, MultimodalData
from mmlab.datasets.synthetic import synthetic
from mmlab.models import Concat, Gated, MultimodalNet
from mmlab.training import fit

DATA = synthetic(n=(60, 20, 20), dims=5)


def make_known():
    """Modality a tells the class of four, b tells nothing; a's head is wrong, its share right."""
    target = torch.arange(80) % 4
    inputs = {
        "a": torch.eye(4)[target],
        "b": torch.randn(80, 4, generator=torch.Generator().manual_seed(0)),
    }
    encoders = {m: nn.Linear(4, 4, bias=False) for m in "ab"}
    heads = {m: nn.Linear(4, 4) for m in "ab"}
    net = MultimodalNet(encoders, Concat({"a": 4, "b": 4}, 4), heads)
    with torch.no_grad():
        for m in "ab":
            encoders[m].weight.copy_(torch.eye(4))
            heads[m].weight.zero_()
            heads[m].bias.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0]))  # always says class 1
        net.fusion.linear.weight.copy_(torch.cat([torch.eye(4), torch.zeros(4, 4)], dim=1))
        net.fusion.linear.bias.zero_()
    batch = Batch(inputs, target)
    return net, MultimodalData(batch, batch, batch)


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


def test_probes_learn_nothing_from_the_split_they_are_measured_on():
    net, data = make_known()
    wrong = Batch(data.train.inputs, (data.train.target + 1) % 4)
    scores = evaluation.probe_accuracy(net, MultimodalData(wrong, data.holdout, data.test))
    assert scores["a"] == 0.0
    scores = evaluation.probe_accuracy(net, MultimodalData(wrong, wrong, data.test), "holdout")
    assert scores["a"] == 1.0


def test_the_accuracy_of_a_run_is_that_of_the_balancers_own_prediction():
    net, data = make_known()
    right, late = data.test, Batch(data.test.inputs, torch.ones(80, dtype=torch.long))
    run = fit(net, MultimodalData(right, late, right), Unimodal("a"), epochs=0, device="cpu")
    assert evaluation.joint_accuracy(net, right) == 1.0
    assert evaluation.test_accuracy(run) == 0.25  # its own head always says class 1
    assert evaluation.test_accuracy(run, "holdout") == 1.0
    assert evaluation.test_scores(run) == {"accuracy": 0.25}


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


def doubled(prediction, target, reduction="mean"):
    return 2 * nn.functional.cross_entropy(prediction, target, reduction=reduction)


def test_the_conflict_is_that_of_the_loss_in_use():
    net = MultimodalNet.build(DATA)
    plain = evaluation.gradient_conflict(net, DATA.train)
    twice = evaluation.gradient_conflict(net, DATA.train, doubled)
    for m in "ab":
        for norm in ("joint norm", "unimodal norm"):
            assert twice[m][norm] == pytest.approx(2 * plain[m][norm], rel=1e-4)
        assert twice[m]["cosine"] == pytest.approx(plain[m]["cosine"], abs=1e-5)


def table(rows):
    columns = ["epoch", "split", "output", "metric", "value"]
    return pd.DataFrame([(*row[:3], "mean loss", row[3]) for row in rows], columns=columns)


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


def test_the_watch_records_the_conflict_of_each_encoder():
    net = MultimodalNet.build(DATA)
    run = fit(net, DATA, epochs=1, device="cpu", observers=[evaluation.GradientWatch()])
    rows = run.history.query("metric == 'cosine'")
    assert set(rows["output"]) == {"a", "b"} and rows["value"].abs().max() <= 1


def observed(data=DATA, loss=None, observers=None, epochs=1):
    """The history that the observers leave of one training."""
    observers = observers or [evaluation.Curves(), evaluation.GradientWatch()]
    net = MultimodalNet.build(data)
    return fit(net, data, epochs=epochs, device="cpu", loss=loss, observers=observers).history


def test_observers_measure_by_the_loss_of_the_run():
    plain, twice = observed(epochs=0), observed(epochs=0, loss=doubled)
    factors = {"mean loss": 2, "accuracy": 1, "joint norm": 2, "unimodal norm": 2, "cosine": 1}
    assert set(plain["metric"]) == set(factors)
    expected = plain["value"] * plain["metric"].map(factors)
    assert twice["value"].tolist() == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-5)


def test_the_watch_takes_a_fixed_batch_of_the_training_data():
    rows = observed(epochs=0, observers=[evaluation.GradientWatch(size=16)])
    expected = evaluation.gradient_conflict(MultimodalNet.build(DATA), DATA.train[:16])
    for m in "ab":
        own = rows[rows["output"] == m]
        assert dict(zip(own["metric"], own["value"], strict=True)) == pytest.approx(expected[m])


def test_training_and_its_observers_never_read_the_test_split():
    nothing = {m: torch.full_like(x, torch.nan) for m, x in DATA.test.inputs.items()}
    poisoned = MultimodalData(DATA.train, DATA.holdout, Batch(nothing, DATA.test.target))
    history = observed(poisoned)
    assert history["value"].notna().all()
    assert history.equals(observed())


def test_curves_count_only_the_samples_that_have_the_modality():
    present = {"a": torch.arange(20) < 7, "b": torch.ones(20, dtype=torch.bool)}
    holdout = Batch(DATA.holdout.inputs, DATA.holdout.target, present)
    data = MultimodalData(DATA.train, holdout, DATA.test)
    rows = observed(data, epochs=0, observers=[evaluation.Curves(("holdout",))])
    own = evaluation.own_head_accuracy(MultimodalNet.build(data), holdout)
    assert own["a"] != evaluation.own_head_accuracy(MultimodalNet.build(data), DATA.holdout)["a"]
    values = rows.query("metric == 'accuracy' and output != 'joint'")
    assert dict(zip(values["output"], values["value"], strict=True)) == own


MEASURES = {
    "own head": lambda net: evaluation.own_head_accuracy(net, DATA.test),
    "share": lambda net: evaluation.share_accuracy(net, DATA.test),
    "joint": lambda net: evaluation.joint_accuracy(net, DATA.test),
    "probe": lambda net: evaluation.probe_accuracy(net, DATA),
    "conflict": lambda net: evaluation.gradient_conflict(net, DATA.train),
    "gap": lambda net: evaluation.modality_gap(net, DATA.test),
    "shapley": lambda net: evaluation.shapley_shares(net, DATA.test),
}


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


def test_regression_metrics_by_hand():
    target = torch.tensor([-3.0, -1.0, 0.0, 2.0])
    prediction = torch.tensor([[-4.0], [0.6], [0.4], [1.0]])
    scores = evaluation.regression_metrics(prediction, target)
    assert scores["mae"] == pytest.approx((1 + 1.6 + 0.4 + 1) / 4)
    assert scores["accuracy 2"] == 3 / 4 and scores["accuracy 7"] == 2 / 4
    expected = torch.corrcoef(torch.stack([prediction[:, 0], target]))[0, 1].item()
    assert scores["pearson"] == pytest.approx(expected)
    assert math.isnan(evaluation.regression_metrics(torch.zeros(4), target)["pearson"])
