"""CML: its subsets, its penalty and a whole step, against references in numpy and by hand."""

import math
import re

import numpy as np
import pytest
import torch
from by_hand import CLASSES, ByHand, array, assert_gradients, batch, network, softmax

from mmlab import CML, Joint, MultimodalNet, Step, fit, fit_seeds, load
from mmlab.balancers import cml
from mmlab.balancers.cml import confidence, confidence_penalty, nested_subsets
from mmlab.datasets import MultimodalData, drop
from mmlab.datasets.synthetic import synthetic
from mmlab.evaluation import violation_share
from mmlab.models import Output
from mmlab.seeds import Draws

GAPS = {"a": [1, 1, 1, 0, 1, 0], "v": [1, 0, 1, 1, 1, 1], "t": [0, 0, 1, 1, 1, 1]}


def draws_of(seed):
    return Draws(lambda kind: torch.Generator().manual_seed(seed))


def take_step(balancer, net, samples, seed=0):
    step = Step(net, samples, draws=draws_of(seed))
    next(balancer.step(step))
    return step


# --- subsets --------------------------------------------------------------------------------------


def chains(order, present):
    """Sample by sample: who has what, and who goes next. Booleans (M, M, B)."""
    count, size = order.shape
    found = np.zeros((count, count, size), bool)
    for i in range(size):
        there = [m for m in range(count) if present[m, i]]
        for k in range(count):
            found[k, there, i] = True
            if len(there) > 1:
                there.remove(max(there, key=lambda m: order[m, i]))
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("missing", [False, True])
def test_subsets_lose_one_modality_after_the_other(count, missing):
    draw = torch.Generator().manual_seed(count)
    order = torch.randperm(count * 40, generator=draw).view(count, 40)
    present = torch.rand(count, 40, generator=draw) < 0.6 if missing else None
    have = np.ones((count, 40), bool) if present is None else present.numpy()
    masks = nested_subsets(order, present)
    assert masks.dtype == torch.bool and masks.shape == (count, count, 40)
    np.testing.assert_array_equal(masks.numpy(), chains(order.numpy(), have))


def test_subsets_broadcast_over_leading_axes():
    order = torch.stack([torch.randperm(12).view(3, 4) for _ in range(6)]).view(2, 3, 3, 4)
    present = torch.rand(2, 3, 3, 4) < 0.6
    masks = nested_subsets(order, present)
    for i in range(2):
        for j in range(3):
            assert torch.equal(masks[i, j], nested_subsets(order[i, j], present[i, j]))


def test_masks_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"order \(2, 4\), present \(3, 4\)"):
        nested_subsets(torch.arange(8).view(2, 4), torch.ones(3, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"confidence \(4,\).*\(…, K, B\)"):
        confidence_penalty(torch.rand(4))


def test_every_modality_is_as_likely_to_go_first_in_every_sample():
    step = Step(network("avt"), batch("avt", size=3000), draws=draws_of(0))
    removed = []
    step.fuse = lambda features, mask: removed.append(~mask) or torch.zeros(3000, CLASSES)
    CML().subset_logits(step)
    first, second = removed = [mask.numpy() for mask in removed]
    assert (first.sum(0) == 1).all() and (second.sum(0) == 2).all() and (first <= second).all()
    for mask in removed:
        share = mask.mean(1) / mask.sum(0)[0]
        assert np.abs(share - 1 / 3).max() < 4 * math.sqrt(2 / 9 / 3000)
    halves = first[:, :1500].argmax(0), first[:, 1500:].argmax(0)
    assert 0.25 < (halves[0] == halves[1]).mean() < 0.42  # each sample has its own


# --- confidence -----------------------------------------------------------------------------------


def test_confidence_is_the_largest_probability():
    z = torch.randn(2, 5, 4, dtype=torch.float64)
    found = confidence(z)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, softmax(z.numpy()).max(-1), rtol=1e-13)
    assert confidence(torch.tensor([[400.0, 0.0]])).tolist() == [1]


def test_each_label_has_a_confidence_of_its_own():
    z = torch.randn(2, 5, 4, dtype=torch.float64)
    p = 1 / (1 + np.exp(-z.numpy()))
    expected = np.maximum(p, 1 - p).reshape(2, 20)
    np.testing.assert_allclose(confidence(z, "multilabel"), expected, rtol=1e-13)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_sample_pays_for_every_pair_in_which_less_is_surer(count):
    sure = torch.rand(3, count, 7, dtype=torch.float64)
    expected = np.zeros((3, 7))
    for more in range(count):
        for less in range(more + 1, count):
            expected += np.maximum(sure[:, less].numpy() - sure[:, more].numpy(), 0)
    found = confidence_penalty(sure)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def test_samples_that_are_consistent_pay_nothing():
    sure = torch.tensor([[0.9, 0.5, 0.7], [0.8, 0.5, 0.7], [0.4, 0.5, 0.1]], requires_grad=True)
    penalty = confidence_penalty(sure)
    assert penalty.tolist() == [0, 0, 0]
    penalty.sum().backward()
    assert not sure.grad.any()


def test_samples_do_not_cancel():
    """Of two, one is surer with less by as much as the other is less sure: a sum would be 0."""
    penalty = confidence_penalty(torch.tensor([[0.5, 0.9], [0.9, 0.5]]))
    torch.testing.assert_close(penalty, torch.tensor([0.4, 0.0]))


# --- a whole step ---------------------------------------------------------------------------------


def expected_gradients(net, samples, lam, seed=0):
    """By the chain rule: linear encoders, concatenation, subsets by masks on the features."""
    hand = ByHand(net, samples)
    names, size = net.modalities, len(samples)
    order = draws_of(seed).permutation(len(names) * size, torch.device("cpu"))
    order = order.view(len(names), size).numpy()
    have = np.ones(order.shape, bool)
    if samples.present is not None:
        have = np.stack([samples.present[m].numpy() for m in names])
    masks = chains(order, have)
    weight, bias = array(net.fusion.linear.weight), array(net.fusion.linear.bias)
    rows = np.arange(size)
    probabilities, errors = [], []
    for mask in masks:
        joined = np.concatenate(
            [hand.features[m] * mask[i][:, None] for i, m in enumerate(names)], axis=1
        )
        p = softmax(joined @ weight.T + bias)
        probabilities.append(p)
        errors.append((p - hand.target) / size / len(masks))
    surest = [p.argmax(1) for p in probabilities]
    penalty = np.zeros(size)
    for more in range(len(masks)):
        for less in range(more + 1, len(masks)):
            gap = probabilities[less][rows, surest[less]] - probabilities[more][rows, surest[more]]
            penalty += np.maximum(gap, 0)
            for k, sign in ((less, 1), (more, -1)):  # of p_j = softmax(z)_j: p_j (1_j - p)
                p = probabilities[k]
                slope = -p * p[rows, surest[k]][:, None]
                slope[rows, surest[k]] += p[rows, surest[k]]
                errors[k] = errors[k] + lam * sign * (gap > 0)[:, None] * slope / size
    expected = {}

    def add(parameter, value):
        expected[parameter] = expected.get(parameter, 0) + torch.from_numpy(value)

    for mask, error in zip(masks, errors, strict=True):
        seen = [hand.features[m] * mask[i][:, None] for i, m in enumerate(names)]
        add(net.fusion.linear.weight, error.T @ np.concatenate(seen, axis=1))
        add(net.fusion.linear.bias, error.sum(0))
        for i, m in enumerate(names):
            signal = error @ hand.blocks[m] * mask[i][:, None]
            add(net.encoders[m].weight, signal.T @ hand.x[m])
            add(net.encoders[m].bias, signal.sum(0))
    return expected, penalty


@pytest.mark.parametrize("modalities", ["av", "avt"])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_gradient_is_that_of_all_subsets_and_the_penalty(modalities, missing, seed):
    present = {m: GAPS[m] for m in modalities} if missing else None
    net, samples = network(modalities, seed=seed), batch(modalities, present=present)
    expected, penalty = expected_gradients(net, samples, lam=3.0, seed=seed)
    assert (penalty > 0.01).any() and (penalty == 0).any()  # else the step would prove nothing
    step = take_step(CML(lam=3.0), net, samples, seed=seed)
    assert_gradients(net, expected)
    assert step.logged["penalty", ""].item() == pytest.approx(penalty.mean(), rel=1e-12)
    assert step.logged["violation", ""].item() == pytest.approx((penalty > 0).mean())


def test_the_penalty_changes_what_is_learnt_and_lam_0_leaves_it_out():
    """Fails if the penalty does nothing."""
    net, samples = network(seed=3), batch(size=40)
    grads = {}
    for lam in (0.0, 1.0, 2.0):
        net.zero_grad()
        take_step(CML(lam), net, samples)
        grads[lam] = net.encoders["a"].weight.grad.clone()
    assert (grads[1.0] - grads[0.0]).norm() > 0.02 * grads[0.0].norm()
    torch.testing.assert_close(grads[2.0] - grads[1.0], grads[1.0] - grads[0.0])


def test_the_orders_come_from_the_steps_own_generator():
    net, samples = network(), batch()
    grads = []
    for seed in (3, 3, 4):
        net.zero_grad()
        torch.manual_seed(len(grads))
        take_step(CML(), net, samples, seed=seed)
        grads.append(net.encoders["a"].weight.grad.clone())
    assert torch.equal(grads[0], grads[1])
    assert not torch.equal(grads[0], grads[2])


def test_one_modality_alone_is_joint_training():
    net, samples = network("a"), batch("a")
    take_step(CML(lam=5.0), net, samples)
    assert_gradients(net, ByHand(net, samples).gradient("joint"))


def test_the_step_pays_by_the_functions_that_are_taught(monkeypatch):
    net, samples = network(), batch()
    monkeypatch.setattr(cml, "confidence_penalty", lambda sure: (2 * sure).sum(-2))
    monkeypatch.setattr(cml, "confidence", lambda logits, task: 0.5 * logits.sum(-1))
    step = take_step(CML(lam=0.5), net, samples)
    found = net.fusion.linear.bias.grad.clone()
    net.zero_grad()
    losses = [step.losses["joint"], step.losses.computed["without 1"]]
    step.backward(sum(losses) / 2)
    # two subsets, and every logit has the slope 2 · 0.5 in the penalty: together 0.5 · 2
    torch.testing.assert_close(found, net.fusion.linear.bias.grad + 1.0)


# --- prediction -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["concat", "late", "attention"])
def test_what_a_sample_lacks_is_left_out_as_in_training(fusion):
    net = network(fusion=fusion).eval()
    samples = batch(present={m: GAPS[m] for m in "av"})
    out = net(samples.inputs)
    features = {m: h * samples.present[m][:, None] for m, h in out.features.items()}
    torch.testing.assert_close(CML().fuse(out, samples.present), net.fusion(features))
    assert not torch.allclose(CML().fuse(out, samples.present), out.joint)
    assert CML().fuse(out) is out.joint


def test_an_output_without_a_fusion_is_refused():
    out = Output({"a": torch.ones(2, 3)}, torch.ones(2, 2))
    with pytest.raises(ValueError, match="made without its fusion"):
        CML().fuse(out, {"a": torch.ones(2, dtype=torch.bool)})


def test_fewer_training_samples_are_surer_with_less_and_by_less():
    found, shares, paid = load("av-digits", seed=0), [], []
    for balancer in (Joint(), CML(lam=0.0), CML(lam=20.0)):
        net = MultimodalNet.build(found, **balancer.network, seed=0)
        run = fit(net, found, balancer, epochs=3, device="cpu")
        shares.append(violation_share(run, found.train)["image"])
        paid.append(run.history.query("metric == 'penalty'").value.sum())
    joint, subsets, penalised = shares
    assert penalised < 0.7 * subsets < 0.7 * joint
    assert paid[2] < 0.5 * paid[1]


# --- many networks, arguments ---------------------------------------------------------------------


def test_a_grid_of_lam_is_one_program_also_where_modalities_are_missing():
    whole = synthetic(n=(60, 20, 20), dims=5)
    gaps = {name: drop(split, {"a": 0.3, "b": 0.2}) for name, split in whole.splits.items()}
    for found in (whole, MultimodalData(**gaps, n_classes=whole.n_classes)):
        options = {"seeds": [1, 1, 2], "epochs": 2, "batch_size": 16, "device": "cpu", "lr": 0.05}
        makers = [lambda v=v: CML(v) for v in (0.0, 1.0, 5.0)]
        together = fit_seeds(found, makers, at_once=True, **options)
        alone = fit_seeds(found, makers, at_once=False, **options)
        assert [run.together for run in together] == [3, 3, 3]
        for mine, theirs in zip(together, alone, strict=True):
            for p, q in zip(mine.model.parameters(), theirs.model.parameters(), strict=True):
                torch.testing.assert_close(p, q, rtol=0, atol=1e-5)
            values = [run.history.value.to_numpy() for run in (mine, theirs)]
            assert values[0] == pytest.approx(values[1], abs=1e-4)


def test_real_numbers_are_refused():
    with pytest.raises(ValueError, match=r"CML needs class labels, .*float64.*For regression use"):
        take_step(CML(), network(outputs=1), batch(regression=True))


@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_a_weight_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match=re.escape(f"lam is {value!r}; allowed is a number ≥ 0")):
        CML(lam=value)


def test_a_weight_that_is_no_number_is_refused():
    with pytest.raises(TypeError, match=r"lam is \[1\]; give a number"):
        CML(lam=[1])
