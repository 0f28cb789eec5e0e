"""MMCosine: lengths do not count, the gradient is the one by hand, and one layer does all."""

import numpy as np
import pytest
import torch
from by_hand import batch, data, network, parameters
from torch import nn

from mmlab import Joint, MMCosine, MultimodalNet, Step, evaluation, fit
from mmlab.models import Concat, Cosine
from mmlab.models.fusion import directions
from mmlab.training import fit_seeds


def cosines(h, w):
    """(B, C) of features (B, D) and weights (C, D)."""
    return h @ w.T / np.outer(np.linalg.norm(h, axis=1), np.linalg.norm(w, axis=1))


def numbers(net, samples):
    """Inputs, features and class weights per modality, in numpy."""
    x = {m: samples.inputs[m].numpy() for m in net.modalities}
    layers = {m: net.encoders[m] for m in net.modalities}
    h = {m: x[m] @ e.weight.detach().numpy().T + e.bias.detach().numpy() for m, e in layers.items()}
    w = {m: net.fusion.linears[m].weight.detach().numpy() for m in net.modalities}
    return x, h, w


@pytest.mark.parametrize("modalities", ["av", "avt"])
def test_a_step_by_hand(modalities):
    s, balancer = 7.0, MMCosine(scale=7)
    net, samples = network(modalities, **balancer.network), batch(modalities)
    x, h, w = numbers(net, samples)
    logits = s * sum(cosines(h[m], w[m]) for m in modalities)
    np.testing.assert_allclose(net(samples.inputs).joint.detach().numpy(), logits, rtol=1e-12)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    delta = (p - np.eye(3)[samples.target]) / len(p)  # of the logits
    next(balancer.step(Step(net, samples)))
    for m in modalities:
        cos = cosines(h[m], w[m])
        length, size = (np.linalg.norm(v, axis=1)[:, None] for v in (h[m], w[m]))
        radial = (delta * cos).sum(1)[:, None] * h[m] / length
        features = s * (delta @ (w[m] / size) - radial) / length
        weights = s * (delta.T @ (h[m] / length) - (delta * cos).sum(0)[:, None] * w[m] / size)
        expected = {"weight": features.T @ x[m], "bias": features.sum(0)}
        for part, value in expected.items():
            found = getattr(net.encoders[m], part).grad.numpy()
            np.testing.assert_allclose(found, value, rtol=1e-10, atol=1e-14)
        found = net.fusion.linears[m].weight.grad.numpy()
        np.testing.assert_allclose(found, weights / size, rtol=1e-10, atol=1e-14)
        # a length is never learnt: the gradient is at a right angle to what it is of
        np.testing.assert_allclose((features * h[m]).sum(1), 0, atol=1e-14)


def test_no_modality_is_louder_by_its_lengths():
    """Where joint training follows the modality with the longer features, this sees both alike."""
    net, samples = network(**MMCosine().network), batch()
    before = net(samples.inputs).joint
    with torch.no_grad():
        for p in net.encoders["a"].parameters():
            p *= 1000
        net.fusion.linears["v"].weight *= 1e-3
    torch.testing.assert_close(net(samples.inputs).joint, before)
    parts = net(samples.inputs).contributions
    torch.testing.assert_close(sum(parts.values()), before)
    assert all(part.abs().max() <= 10 for part in parts.values())
    loud = network()
    share = [loud(samples.inputs).contributions["a"].abs().mean().item()]
    with torch.no_grad():
        for p in loud.encoders["a"].parameters():
            p *= 1000
    share.append(loud(samples.inputs).contributions["a"].abs().mean().item())
    assert share[1] > 100 * share[0]


def test_features_of_length_0_say_nothing_and_give_no_gradient_that_is_not_finite():
    fusion = Cosine({"a": 4, "b": 4}, 3)
    for small in (0.0, 1e-30, 1e-7, 9e-7):
        features = {"a": torch.full((5, 4), small / 2), "b": torch.randn(5, 4)}
        features = {m: h.requires_grad_() for m, h in features.items()}
        parts = fusion.contributions(features)
        assert not parts["a"].any() and parts["b"].abs().min() > 0
        fusion(features).exp().sum().backward()
        assert not features["a"].grad.any()
        assert features["b"].grad.isfinite().all()
    assert fusion.linears["a"].weight.grad.isfinite().all()
    longer = directions(torch.full((4,), 1e-6))
    torch.testing.assert_close(longer, torch.full((4,), 0.5))


def test_directions_are_of_length_1_in_the_type_and_the_axes_of_what_is_given():
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    found, known = directions(x), x.numpy()
    assert found.dtype == torch.float64 and found.shape == x.shape
    known = known / np.linalg.norm(known, axis=-1, keepdims=True)
    np.testing.assert_allclose(found.numpy(), known, rtol=1e-14)
    assert directions(x.float()).dtype == torch.float32


@pytest.mark.parametrize("classes", [3, 50])
@pytest.mark.parametrize("count", [1, 2])
def test_the_least_loss_of_a_scale(classes, count):
    """The docstring's: class weights at the corners of a simplex, and features that meet them."""
    corners = torch.eye(classes, dtype=torch.float64) - 1 / classes
    losses = {}
    for s in (1.0, 2.0):
        fusion = Cosine(dict.fromkeys("ab"[:count], classes), classes, scale=s).double()
        with torch.no_grad():
            for layer in fusion.linears.values():
                layer.weight.copy_(corners)
        logits = fusion(dict.fromkeys("ab"[:count], corners))
        losses[s] = nn.functional.cross_entropy(logits, torch.arange(classes)).item()
        known = np.log1p((classes - 1) * np.exp(-s * count * classes / (classes - 1)))
        assert losses[s] == pytest.approx(known)
    assert losses[2.0] < losses[1.0]  # and so a larger scale can do better


def test_no_training_goes_below_the_least_loss():
    """Here it is nearly reached: with these weights free, s alone stops the loss."""
    torch.manual_seed(0)
    fusion = Cosine({"a": 8}, 5, scale=2).double()
    h = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([h, *fusion.parameters()], lr=0.1)
    for _ in range(250):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(fusion({"a": h}), torch.arange(5))
        loss.backward()
        optimizer.step()
    least = np.log1p(4 * np.exp(-2 * 5 / 4))
    assert least - 1e-12 <= loss.item() < least + 1e-3


def test_the_layer_that_trains_predicts():
    balancer, samples = MMCosine(scale=4), data()
    net = MultimodalNet.build(samples, **balancer.network, width=4, seed=0).double()
    layer = net.fusion
    run = fit(net, samples, balancer, epochs=2, batch_size=8, device="cpu")
    assert run.model.fusion is layer and float(layer.scale) == 4
    test = samples.test
    features = evaluation.forward(net, test).features
    expected = 4 * sum(
        cosines(h.numpy(), layer.linears[m].weight.detach().numpy()) for m, h in features.items()
    )
    np.testing.assert_allclose(run.predict(test).numpy(), expected, rtol=1e-10)
    inference = net.inference(balancer)(test.inputs)
    torch.testing.assert_close(inference, run.predict(test))
    assert evaluation.joint_accuracy(net, test) == evaluation.test_accuracy(run)


def test_the_scale_goes_with_the_network():
    """Into its state, and so into checkpoints and what is taken out of a training."""
    first, second = (network(**MMCosine(scale=s).network) for s in (3, 30))
    assert not torch.equal(first(batch().inputs).joint, second(batch().inputs).joint)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(batch().inputs).joint, second(batch().inputs).joint)


def test_a_grid_of_scales_is_one_program():
    samples = data()
    single = {m: x.float() for m, x in samples.train.inputs.items()}
    samples.train.inputs = single
    for split in (samples.holdout, samples.test):
        split.inputs = {m: x.float() for m, x in split.inputs.items()}
    scales = [2.0, 10.0, 30.0]
    options = {"epochs": 2, "batch_size": 8, "lr": 0.05, "device": "cpu"}
    makers = [lambda s=s: MMCosine(scale=s) for s in scales]
    runs = fit_seeds(samples, makers, seeds=[1] * 3, build={"width": 8}, at_once=True, **options)
    for run, s in zip(runs, scales, strict=True):
        assert run.together == 3 and run.model.fusion.scale.item() == s
        balancer = MMCosine(scale=s)
        net = MultimodalNet.build(samples, **balancer.network, width=8, seed=1)
        alone = fit(net, samples, balancer, seed=1, **options)
        for mine, theirs in zip(run.model.parameters(), net.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
        torch.testing.assert_close(run.predict(samples.test), alone.predict(samples.test))


def test_a_modality_that_samples_lack_adds_the_same_to_all_of_them():
    net = network(**MMCosine().network)
    parts = net(batch(present={"a": [0, 0, 0, 1, 1, 1], "v": [1] * 6}).inputs).contributions["a"]
    assert torch.equal(parts[0], parts[1]) and torch.equal(parts[1], parts[2])
    assert not torch.allclose(parts[0], parts[3])


def test_it_is_joint_training_but_for_the_layer():
    """Neither more nor less: under Joint the same network ends alike, and another one elsewhere."""
    ends = []
    for balancer in (MMCosine(), Joint()):
        net = network(**MMCosine().network)
        fit(net, data(), balancer, epochs=2, batch_size=8, device="cpu")
        ends.append(parameters(net))
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())
    net = network()
    fit(net, data(), Joint(), epochs=2, batch_size=8, device="cpu")
    assert not torch.allclose(net.encoders["a"].weight, ends[0]["encoders.a.weight"])
    assert isinstance(net.fusion, Concat)


@pytest.mark.parametrize(
    ("scale", "kind", "message"),
    [
        (0, ValueError, "scale is 0; allowed is a number above 0"),
        (-1.0, ValueError, "scale is -1.0"),
        (float("nan"), ValueError, "scale is nan"),
        ("10", TypeError, "scale is '10'; give a number"),
    ],
)
def test_what_is_no_scale_is_refused(scale, kind, message):
    for make in (MMCosine, lambda scale: Cosine({"a": 2}, 3, scale)):
        with pytest.raises(kind, match=message):
            make(scale)


def test_a_network_of_another_scale_is_refused():
    net = network(fusion="cosine")
    fit(net, data(), MMCosine(), epochs=1, device="cpu")
    with pytest.raises(ValueError, match=r"has the scale \[10\.0\], and MMCosine \[20\.0\]; build"):
        fit(net, data(), MMCosine(scale=20), epochs=1, device="cpu")
    fine = network(**MMCosine(scale=0.1).network)  # a number that binary digits do not hold
    fit(fine, data(), MMCosine(scale=0.1), epochs=1, device="cpu")
