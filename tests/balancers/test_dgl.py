"""DGL: encoders and heads hear their own loss alone, times α; the fusion hears the joint one."""

import math

import pytest
import torch
from by_hand import ByHand, assert_gradients, batch, data, layer, network, softmax
from torch.nn import functional as F

from mmlab import DGL, Ensemble, Step, fit, fit_seeds

MASKS = {"a": [1, 0, 1, 1, 0, 1], "v": [0, 1, 1, 1, 1, 1], "t": [1, 1, 0, 0, 0, 1]}


def masks(modalities):
    return {m: MASKS[m] for m in modalities}


def trained(balancer, samples, net, **options):
    settings = {"epochs": 3, "batch_size": 8, "lr": 0.1, "device": "cpu"} | options
    return fit(net, samples, balancer, **settings)


@pytest.mark.parametrize("alpha", [1.0, 0.25, 4.0])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("modalities", ["av", "avt"])
def test_a_step_is_what_the_chain_rule_gives(modalities, missing, alpha):
    net = network(modalities)
    samples = batch(modalities, present=masks(modalities) if missing else None)
    known = ByHand(net, samples)
    fusion = [*net.fusion.parameters()]
    expected = known.total(dict.fromkeys(modalities, alpha))
    expected |= {
        p: grad for p, grad in known.gradient("joint").items() if any(p is q for q in fusion)
    }
    next(DGL(alpha).step(Step(net, samples)))
    assert_gradients(net, expected)


def test_an_encoder_hears_nothing_of_the_joint_loss():
    """Without the special step, cut at the features, this would be the uniform sum."""
    net, samples = network(), batch()
    next(DGL().step(Step(net, samples)))
    alone = {m: net.encoders[m].weight.grad.clone() for m in "av"}
    net.zero_grad()
    with torch.no_grad():
        net.fusion.linear.weight.mul_(-3)
    next(DGL().step(Step(net, samples)))
    for m in "av":
        assert torch.equal(net.encoders[m].weight.grad, alone[m])


def test_the_fusion_hears_nothing_of_the_unimodal_losses():
    net, samples = network(), batch()
    next(DGL(0.5).step(Step(net, samples)))
    found = net.fusion.linear.weight.grad.clone()
    net.zero_grad()
    with torch.no_grad():
        net.heads["a"].weight.mul_(5)
    next(DGL(2.0).step(Step(net, samples)))
    assert torch.equal(net.fusion.linear.weight.grad, found)


def test_under_an_alpha_of_1_the_encoders_are_the_ensembles():
    nets = [network("avt") for _ in range(2)]
    for net, balancer in zip(nets, (DGL(), Ensemble()), strict=True):
        trained(balancer, data("avt"), net)
    for part in ("encoders", "heads"):
        mine, theirs = (getattr(net, part).state_dict() for net in nets)
        for key, value in mine.items():
            torch.testing.assert_close(value, theirs[key], rtol=1e-9, atol=1e-12)


def test_the_fusion_learns_as_if_the_encoders_were_frozen():
    """One step: the gradient of the joint loss on features that are given."""
    net, samples = network(), batch()
    h = torch.cat([net.encoders[m](samples.inputs[m]) for m in "av"], 1).detach().numpy()
    error = (softmax(net(samples.inputs).joint.detach().numpy()) - ByHand(net, samples).target) / 6
    known = layer(net.fusion.linear, h, error)
    next(DGL(3.0).step(Step(net, samples)))
    for p, grad in known.items():
        torch.testing.assert_close(p.grad, grad, rtol=1e-9, atol=1e-13)


def test_fused_by_the_heads_these_hear_the_joint_loss_too():
    net, samples = network(fusion="late"), batch()
    next(DGL().step(Step(net, samples)))
    found = net.heads["a"].weight.grad.clone()
    net.zero_grad()
    out = net(samples.inputs)
    losses = (
        F.cross_entropy(out.joint, samples.target),
        F.cross_entropy(out.unimodal["a"], samples.target),
    )
    expected = torch.autograd.grad(sum(losses), net.heads["a"].weight)[0]
    torch.testing.assert_close(found, expected)


def test_a_modality_that_nobody_has_does_not_move_its_encoder():
    net, samples = network(), batch(present={"a": [0] * 6, "v": [1] * 6})
    next(DGL().step(Step(net, samples)))
    assert not net.encoders["a"].weight.grad.any() and net.encoders["v"].weight.grad.any()


def test_a_grid_of_alpha_is_one_program():
    tiny, alphas = data(), (0.5, 2.0)
    options = {"seeds": [0, 0], "epochs": 2, "batch_size": 8, "lr": 0.1, "device": "cpu"}
    makers = [lambda alpha=alpha: DGL(alpha) for alpha in alphas]
    build = {"encoders": "mlp", "width": 4}
    tiny = as_float32(tiny)
    runs = fit_seeds(tiny, makers, build=build, at_once=True, **options)
    alone = fit_seeds(tiny, makers, build=build, at_once=False, **options)
    for run, one in zip(runs, alone, strict=True):
        assert run.together == 2
        torch.testing.assert_close(run.predict(tiny.test), one.predict(tiny.test))
    first, second = (run.predict(tiny.test) for run in runs)
    assert not torch.allclose(first, second, atol=1e-2)


def as_float32(samples):
    for split in samples.splits.values():
        split.inputs = {m: x.float() for m, x in split.inputs.items()}
    return samples


@pytest.mark.parametrize(
    ("alpha", "error"),
    [(0, ValueError), (-1.0, ValueError), (math.nan, ValueError), ("1", TypeError)],
)
def test_alpha_is_a_number_above_0(alpha, error):
    with pytest.raises(error, match=r"alpha is .*(give|allowed is) a number"):
        DGL(alpha)


def test_it_says_what_adam_takes():
    net = network()
    with pytest.warns(UserWarning, match=r"under it DGL is DGL\(\) without alpha; use SGD"):
        trained(DGL(4.0), data(), net, epochs=1, optimizer=torch.optim.Adam, lr=None)
    assert not DGL().lost_if_adaptive
