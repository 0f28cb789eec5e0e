"""A stack of networks computes what each of them computes, and shares their training."""

import copy

import pytest
import torch
from torch import nn

from mmlab.datasets.base import Batch, stack_batches
from mmlab.datasets.synthetic import synthetic
from mmlab.models import FUSIONS, Concat, MultimodalNet, NetworkStack, UnstackableError
from mmlab.models.norm import StackedLayerNorm
from mmlab.models.stack import stack_modules

DATA = [synthetic(n=(40, 10, 10), dims=6, seed=seed) for seed in range(3)]


def build(**options) -> list[MultimodalNet]:
    return [MultimodalNet.build(d, seed=s, width=8, **options).double() for s, d in enumerate(DATA)]


def inputs() -> tuple[list[dict], dict]:
    batches = [
        Batch({m: x.double() for m, x in d.test.inputs.items()}, d.test.target) for d in DATA
    ]
    return [batch.inputs for batch in batches], stack_batches(batches).inputs


@pytest.mark.parametrize("heads", ["own", "shared"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_stack_is_its_networks_and_learns_as_they_do(fusion, heads):
    nets = build(fusion=fusion, heads=heads)
    stack, (each, together) = NetworkStack(nets), inputs()
    assert stack.replicas == 3 and stack.modalities == ("a", "b") and nets[0].replicas is None
    out = stack(together)
    (out.joint.square().sum() + out.unimodal["b"].sin().sum()).backward()
    for r, (net, x) in enumerate(zip(nets, each, strict=True)):
        own = net(x)
        torch.testing.assert_close(out.joint[r], own.joint)
        for m in "ab":
            torch.testing.assert_close(out.unimodal[m][r], own.unimodal[m])
            torch.testing.assert_close(out.contributions[m][r], own.contributions[m])
        (own.joint.square().sum() + own.unimodal["b"].sin().sum()).backward()
        for mine, theirs in zip(stack.parameters(), net.parameters(), strict=True):
            if theirs.grad is None:
                assert mine.grad is None
            else:
                torch.testing.assert_close(mine.grad[r], theirs.grad)
        for mine, theirs in zip(stack.buffers(), net.buffers(), strict=True):
            torch.testing.assert_close(mine[r], theirs)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(6, 8, bias=False),
        lambda: nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 8), nn.LayerNorm(8)),
        lambda: nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Conv1d(2, 4, 2), nn.Flatten()),
        lambda: nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.0)),
    ],
)
def test_under_any_encoders(make):
    nets = build(encoders={"a": make, "b": make})
    stack, (each, together) = NetworkStack(nets), inputs()
    for training in (True, False):
        out = stack.train(training)(together)
        for r, (net, x) in enumerate(zip(nets, each, strict=True)):
            torch.testing.assert_close(out.joint[r], net.train(training)(x).joint)


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.LayerNorm(4), (5, 4)),
        (nn.LayerNorm(4, bias=False), (4,)),
        (nn.LayerNorm((2, 3)), (2, 3)),
    ],
)
def test_a_layer_norm_has_its_own_weights_in_each_network(norm, shape):
    norms = [copy.deepcopy(norm).double() for _ in range(3)]
    for one in norms:
        for p in one.parameters():
            nn.init.normal_(p)
    x = torch.randn(3, 7, *shape, dtype=torch.float64)
    stacked = stack_modules(norms, {})
    assert isinstance(stacked, StackedLayerNorm)
    each = [norm(own) for norm, own in zip(norms, x, strict=True)]
    torch.testing.assert_close(stacked(x), torch.stack(each))


def test_layer_norms_of_other_settings_are_refused():
    with pytest.raises(UnstackableError, match=r"eps=1e-05.* of one network is .*eps=0\.1"):
        stack_modules([nn.LayerNorm(4), nn.LayerNorm(4, eps=0.1)], {})


def test_the_networks_are_copied_and_a_replica_follows_the_stack():
    nets = build(fusion="gated")
    stack, (each, _) = NetworkStack(nets), inputs()
    before = [p.detach().clone() for net in nets for p in net.parameters()]
    one = stack.eval().replica(1)
    assert type(one) is MultimodalNet and one.replicas is None and not one.training
    torch.testing.assert_close(one(each[1]).joint, nets[1].eval()(each[1]).joint)
    with torch.no_grad():
        for p in stack.parameters():
            p.mul_(2.0)
        for b in stack.buffers():
            b.add_(1.0)
    for mine, theirs in zip(one.parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(mine, 2 * theirs)
    assert one.fusion.mean_a.eq(1).all()
    assert all(map(torch.equal, before, (p for net in nets for p in net.parameters())))


def test_what_is_frozen_stays_frozen_and_types_go_along():
    nets = build()
    for net in nets:
        net.encoders["a"].requires_grad_(False)
    stack = NetworkStack(nets)
    assert not any(p.requires_grad for p in stack.encoders["a"].parameters())
    assert all(p.requires_grad for p in stack.encoders["b"].parameters())
    stack.autocast = torch.bfloat16
    assert stack.replica(0).autocast is torch.bfloat16


class Own(MultimodalNet):
    pass


class Bent(Concat):
    pass


def hooked() -> nn.Module:
    layer = nn.Linear(6, 8)
    layer.register_forward_hook(lambda *_: None)
    return layer


def tied() -> nn.Module:
    one, two = nn.Linear(6, 6), nn.Linear(6, 6)
    two.weight = one.weight
    return nn.Sequential(one, two, nn.Linear(6, 8))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (hooked, "Linear has a hook"),
        (tied, r"encoders\.a\.0\.weight and encoders\.a\.1\.weight are one parameter"),
        (lambda: nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5)), "draws random numbers"),
        (lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8)), "BatchNorm1d has buffers"),
    ],
)
def test_encoders_that_cannot_be_stacked_are_named(make, why):
    nets = build(encoders={"a": make, "b": make})
    with pytest.raises(UnstackableError, match=why):
        NetworkStack(nets)


def test_networks_and_fusions_of_ones_own_cannot_be_stacked():
    nets = build()
    with pytest.raises(UnstackableError, match="what Own does beyond a MultimodalNet"):
        NetworkStack([Own(net.encoders, net.fusion, net.heads) for net in nets])
    with pytest.raises(UnstackableError, match="Bent is a fusion of your own"):
        NetworkStack(build(fusion=Bent))
    wide = copy.deepcopy(nets[0])
    wide.heads["a"] = nn.Linear(8, 5)
    with pytest.raises(UnstackableError, match=r"parameters of the shapes .* cannot be stacked"):
        NetworkStack([nets[0], wide])
