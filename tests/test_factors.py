"""Gradients of linear layers from their factors: the same products, the same blend."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from mmlab.factors import Tape, linear_layers


def encoder(bias: bool = True) -> nn.Module:
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(12, 30, bias=bias), nn.Tanh()),
        *(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 25)),
    ).double()


def losses(h: torch.Tensor) -> list[torch.Tensor]:
    return [h.sin().sum(), h.square().mean(), (h[:, 0] * h[:, 1]).sum()]


@pytest.mark.parametrize("bias", [True, False])
def test_products_and_blends_are_those_of_the_weight_gradients(bias):
    torch.manual_seed(0)
    net, x = encoder(bias), torch.randn(6, 3, 4, dtype=torch.float64)
    with Tape({"a": net}, size=6) as tape:
        h = net(x)
    parameters = list(net.parameters())
    each = [torch.autograd.grad(f, parameters, retain_graph=True) for f in losses(h)]
    flat = torch.stack([torch.cat([g.flatten() for g in grads]) for grads in each])
    outputs = tape.wanted("a")
    deltas = [torch.autograd.grad(f, outputs, retain_graph=True) for f in losses(h)]
    stacked = [torch.stack(layer, dim=-3) for layer in zip(*deltas, strict=True)]
    torch.testing.assert_close(tape.gram("a", stacked), flat @ flat.T)
    weights = torch.tensor([0.3, -2.0, 1.5], dtype=torch.float64)
    for mine, parts in zip(tape.blend("a", stacked, weights), zip(*each, strict=True), strict=True):
        expected = sum(w * g for w, g in zip(weights, parts, strict=True))
        torch.testing.assert_close(mine, expected)


def test_a_tape_takes_linear_encoders_alone_and_leaves_no_hook():
    nets = {
        "linear": encoder(),
        "normalised": nn.Sequential(nn.Linear(12, 8), nn.LayerNorm(8)),
        "frozen": encoder().requires_grad_(False),
        "twice": nn.Sequential(*[nn.Linear(12, 12)] * 2),
        "one layer": nn.Linear(30, 30),
    }
    with Tape(nets, size=4) as tape:
        for net in nets.values():
            first = next(net.parameters())
            net(torch.randn(4, first.shape[1], dtype=first.dtype))
    assert set(tape.layers) == {"linear", "one layer"}
    assert not any(part._forward_hooks for net in nets.values() for part in net.modules())


def test_layers_over_sequences_are_left_out():
    with Tape({"a": nn.Linear(12, 30)}, size=2) as tape:
        tape.encoders["a"](torch.randn(2, 5, 12))
    assert not tape.layers


def test_large_batches_are_cheaper_by_their_weight_gradients():
    layer = nn.Linear(64, 64)
    for size, taken in ((8, True), (512, False)):
        with Tape({"a": layer}, size=size) as tape:
            layer(torch.randn(size, 64))
        assert bool(tape.layers) is taken


def test_which_encoders_are_linear_layers():
    assert len(linear_layers(encoder())) == 3
    assert not linear_layers(nn.Conv1d(1, 2, 3))

    class Twice(nn.Sequential):
        def forward(self, x):
            return 2 * super().forward(x)

    assert not linear_layers(Twice(nn.Linear(3, 3)))


def pruned() -> nn.Module:
    return prune.random_unstructured(nn.Linear(30, 30, bias=False), "weight", 0.5)


def tied() -> nn.Module:
    one, two = nn.Linear(30, 30), nn.Linear(30, 30)
    two.weight = one.weight
    return nn.Sequential(one, two)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Linear(30, 30), nn.ReLU(inplace=True)),
        lambda: nn.Sequential(nn.Linear(30, 30), nn.ELU(inplace=True), nn.Linear(30, 30)),
        pruned,
        tied,
    ],
)
def test_layers_that_do_more_than_their_type_says_are_left_out(make):
    assert not linear_layers(make())


def test_layers_that_are_called_twice_or_never_or_in_another_type_are_left_out():
    nets = {name: nn.Linear(30, 30) for name in ("once", "twice", "never", "autocast")}
    x = torch.randn(4, 30)
    with Tape({**nets, "again": nets["twice"]}, size=4) as tape:
        for name in ("once", "twice", "twice"):
            nets[name](x)
        with torch.autocast("cpu", torch.bfloat16):
            nets["autocast"](x)
    assert set(tape.layers) == {"once"}


def test_an_error_in_the_pass_is_the_one_that_is_seen():
    with pytest.raises(ZeroDivisionError), Tape({"a": nn.Linear(30, 30)}, size=4):
        _ = 1 / 0


def test_a_compiled_encoder_is_left_out():
    net = encoder()
    net.compile(backend="eager")
    assert not linear_layers(net)


def test_encoders_that_share_a_weight_are_left_out():
    nets = {m: nn.Sequential(nn.Linear(30, 30), nn.Tanh(), nn.Linear(30, 30)) for m in "abc"}
    nets["b"][0].weight = nets["a"][2].weight
    with Tape(nets, size=4) as tape:
        for net in nets.values():
            net(torch.randn(4, 30))
    assert set(tape.layers) == {"c"}


def test_a_hook_on_a_weight_sees_its_gradient():
    layer = nn.Linear(30, 30)
    assert linear_layers(layer)
    layer.weight.register_hook(lambda grad: 0 * grad)
    assert not linear_layers(layer)
