"""Gradients are clipped as torch does it, under every method and in each network of a stack."""

import pytest
import torch
from torch.nn.utils import clip_grad_norm_, get_total_norm
from trained import DATA, same, trained, weights

from mmlab.balancers import METHODS, GradientBlending, Joint
from mmlab.models import MultimodalNet
from mmlab.training import fit, fit_seeds
from mmlab.training.clip import clip_gradients

OPTIONS = {"batch_size": 32, "lr": 0.1, "device": "cpu"}
SHORT = 0.05


def run_of(make, seed=0, **options):
    balancer = make()
    net = MultimodalNet.build(DATA, **balancer.network, seed=seed)
    return fit(net, DATA, balancer, seed=seed, epochs=2, **OPTIONS | options)


def clipped_by_hand(parameters):
    def clip(optimizer, *_):
        clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], SHORT)

    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    optimizer.register_step_pre_hook(clip)
    return optimizer


@pytest.mark.parametrize("name", [name for name, m in METHODS.items() if "trials" not in m.needs])
def test_it_is_torchs_own_before_each_update(name):
    def plain(parameters):
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)

    make, own = METHODS[name].make, {"lr": None, "optimizer": plain}
    run = run_of(make, clip=SHORT, **own)
    by_hand = run_of(make, **own | {"optimizer": clipped_by_hand})
    assert same(weights(run.model), weights(by_hand.model))
    assert not same(weights(run.model), weights(run_of(make, **own).model))


class Measured(torch.optim.SGD):
    """Takes note of the gradient's norm at each update, those of a branch too."""

    def step(self, closure=None):
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        Measured.norms.append(float(get_total_norm([g for g in grads if g is not None])))
        return super().step(closure)


def test_the_trials_of_gradient_blending_are_clipped_too():
    Measured.norms = []

    def make(parameters):
        return Measured(parameters, lr=0.1)

    trained(GradientBlending(warmup=1, super_epoch=1), optimizer=make, clip=SHORT, batch_size=50)
    assert len(Measured.norms) == 2 * (3 * 2 + 2)  # three trials and the run itself, two epochs
    assert Measured.norms == pytest.approx([SHORT] * len(Measured.norms), rel=1e-3)


def test_a_shorter_gradient_stays_as_it_is():
    assert same(weights(trained(clip=1e6).model), weights(trained().model))


def test_each_network_of_a_stack_has_its_own_norm():
    grads = [torch.tensor([[3.0, 0.0], [0.3, 0.0]]), torch.tensor([4.0, 0.4])]
    parameters = [torch.zeros_like(grad) for grad in grads] + [torch.zeros(2, 5)]
    for p, grad in zip(parameters, grads, strict=False):
        p.grad = grad.clone()
    clip_gradients(parameters, 1.0, stacked=True)
    torch.testing.assert_close(parameters[0].grad, torch.tensor([[0.6, 0.0], [0.3, 0.0]]))
    torch.testing.assert_close(parameters[1].grad, torch.tensor([0.8, 0.4]))
    assert parameters[2].grad is None
    clip_gradients(parameters[2:], 1.0, stacked=True)


@pytest.mark.parametrize("name", ["joint", "G-Blend", "BDO", "OGM-GE", "MMPareto", "MLA"])
def test_a_stack_ends_where_each_network_alone_does(name):
    seeds, rates, options = [3, 5], [0.1, 0.3], OPTIONS | {"clip": SHORT}
    runs = fit_seeds(
        DATA, METHODS[name].make, seeds=seeds, epochs=2, at_once=True, **options | {"lr": rates}
    )
    for run, seed, rate in zip(runs, seeds, rates, strict=True):
        one = run_of(METHODS[name].make, seed, **options | {"lr": rate})
        for mine, theirs in zip(weights(run.model), weights(one.model), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("clip", "kind"), [(0, ValueError), (-1.0, ValueError), ("1", TypeError)])
@pytest.mark.parametrize("at_once", [False, True])
def test_what_is_no_length_is_refused(clip, kind, at_once):
    with pytest.raises(kind, match="clip"):
        fit_seeds(DATA, Joint, seeds=[0, 1], epochs=1, clip=clip, at_once=at_once)
