"""Gradients of linear layers from their factors: the same products, the same blend."""

import pytest
import torch
from steps import flat, gradients
from torch import nn
from torch.nn.utils import prune

from mmlab.models import MultimodalNet, NetworkStack
from mmlab.models.fusion import Concat
from mmlab.training.factors import SPARED, Layer, blended, gram, linear_layers


def encoder(bias: bool = True) -> nn.Module:
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(12, 30, bias=bias), nn.Tanh()),
        *(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 25)),
    ).double()


def losses(h: torch.Tensor) -> list[torch.Tensor]:
    return [h.sin().sum(), h.square().mean(), (h[:, 0] * h[:, 1]).sum()]


def found(nets: dict[str, nn.Module], *shape: int) -> dict[str, list[Layer]]:
    """The linear layers of encoders in a pass of normal numbers (4, width), or of another shape."""
    trained = {m: [p for p in net.parameters() if p.requires_grad] for m, net in nets.items()}
    features = {}
    for m, net in nets.items():
        weight = next(p for p in net.parameters() if p.ndim > 1)
        features[m] = net(torch.randn(*(shape or (4,)), weight.shape[1], dtype=weight.dtype))
    return linear_layers(features, trained)


def taken(net: nn.Module, *shape: int) -> bool:
    return bool(found({"a": net}, *shape))


@pytest.mark.parametrize("bias", [True, False])
def test_products_and_blends_are_those_of_the_weight_gradients(bias):
    torch.manual_seed(0)
    net, x = encoder(bias), torch.randn(6, 3, 4, dtype=torch.float64)
    h, parameters = net(x), list(net.parameters())
    layers = linear_layers({"a": h}, {"a": parameters})["a"]
    each = [gradients(f, parameters) for f in losses(h)]
    rows = torch.stack([flat(grads) for grads in each])
    edges = [layer.edge for layer in layers]
    deltas = [torch.autograd.grad(f, edges, retain_graph=True) for f in losses(h)]
    assert [d.shape for d in deltas[0]] == [layer.out.shape for layer in layers]
    stacked = [torch.stack(layer, dim=-3) for layer in zip(*deltas, strict=True)]
    torch.testing.assert_close(gram(layers, stacked), rows @ rows.T)
    weights = torch.tensor([0.3, -2.0, 1.5], dtype=torch.float64)
    mine = blended(layers, stacked, weights)
    assert set(mine) == set(parameters)
    for p, parts in zip(parameters, zip(*each, strict=True), strict=True):
        expected = sum(w * g for w, g in zip(weights, parts, strict=True))
        torch.testing.assert_close(mine[p], expected)


def test_a_layer_is_its_parameters_its_input_and_a_place_in_the_graph():
    net, x = encoder(), torch.randn(6, 3, 4, dtype=torch.float64)
    net[5].bias.requires_grad_(False)
    h = net(x)
    parameters = [p for p in net.parameters() if p.requires_grad]
    layers = linear_layers({"a": h}, {"a": parameters})["a"]
    assert [layer.weight for layer in layers] == [net[1].weight, net[3].weight, net[5].weight]
    assert [layer.bias for layer in layers] == [net[1].bias, net[3].bias, None]
    inputs = [x.flatten(1), net[:3](x), net[:5](x)]
    for layer, into in zip(layers, inputs, strict=True):
        torch.testing.assert_close(layer.x, into)


def test_linear_encoders_alone_are_taken():
    nets = {
        "linear": encoder(),
        "normalised": nn.Sequential(nn.Linear(12, 8), nn.LayerNorm(8)),
        "frozen": encoder().requires_grad_(False),
        "twice": nn.Sequential(*[nn.Linear(12, 12)] * 2),
        "one layer": nn.Linear(30, 30),
    }
    assert set(found(nets)) == {"linear", "one layer"}
    assert not any(part._forward_hooks for net in nets.values() for part in net.modules())
    assert not taken(nn.Conv1d(3, 2, 3), 1, 3)


def test_layers_over_sequences_count_each_step_as_a_row():
    (layer,) = found({"a": nn.Linear(12, 30)}, 2, 5)["a"]
    assert layer.x.shape == (10, 12) and layer.out.shape == (10, 30)


def test_large_batches_are_cheaper_by_their_weight_gradients():
    layer = nn.Linear(64, 64)
    for size, cheaper in ((8, True), (512, False)):
        assert taken(layer, size) is cheaper


def test_what_the_factors_cost_more_is_counted_over_all_layers():
    # rows · (rows · (2 out + in) − 2 out · in) multiplications more
    rows = next(n for n in range(64, 1024) if n * (n * 192 - 2 * 64 * 64) > SPARED)
    layer = nn.Linear(64, 64)
    assert taken(layer, rows - 1) and not taken(layer, rows)
    assert not taken(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), rows - 1)
    stack = stacked(2, 64)
    x = torch.randn(2, rows - 1, 64)
    assert not linear_layers({"a": stack(x)}, {"a": list(stack.parameters())}, lead=1)
    assert linear_layers({"a": stack(x[:, :50])}, {"a": list(stack.parameters())}, lead=1)


def stacked(count: int, width: int, bias: bool = True) -> nn.Module:
    nets = []
    for _ in range(count):
        encoders = {"a": nn.Linear(width, width, bias=bias)}
        nets.append(MultimodalNet(encoders, Concat({"a": width}, 2), nn.Linear(width, 2)))
    return NetworkStack(nets).encoders["a"]


@pytest.mark.parametrize("bias", [True, False])
def test_in_a_stack_every_network_has_its_own_products(bias):
    layer, x = stacked(3, 5, bias).double(), torch.randn(3, 4, 5, dtype=torch.float64)
    h, parameters = layer(x), list(layer.parameters())
    fs = [h.sin().sum(), h.square().sum()]
    layers = linear_layers({"a": h}, {"a": parameters}, lead=1)["a"]
    each = [gradients(f, parameters) for f in fs]
    rows = torch.stack([torch.cat([g.flatten(1) for g in grads], -1) for grads in each], dim=1)
    edge = layers[0].edge
    deltas = [torch.autograd.grad(f, [edge], retain_graph=True)[0] for f in fs]
    both = [torch.stack(deltas, dim=-3)]
    torch.testing.assert_close(gram(layers, both), rows @ rows.mT)
    weights = torch.randn(3, 2, dtype=torch.float64)
    for p, mine in blended(layers, both, weights).items():
        i = next(i for i, own in enumerate(parameters) if own is p)
        shape = (3, *[1] * (p.ndim - 1))
        expected = sum(weights[:, k].view(shape) * each[k][i] for k in range(2))
        torch.testing.assert_close(mine, expected)


class Twice(nn.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


class Lower(nn.Module):
    """A product of two parameters: neither is a linear layer of the samples."""

    def __init__(self):
        super().__init__()
        self.down, self.up = (nn.Parameter(torch.randn(30, 30)) for _ in range(2))

    def forward(self, x):
        return x @ (self.down @ self.up.mT)


class Wide(nn.Module):
    """A bias of one row is not a layer's bias."""

    def __init__(self, *shape: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(30, 30)), nn.Parameter(torch.randn(shape))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight.mT)


class Penalised(nn.Linear):
    """A layer whose weight stands in its output in one more way."""

    def __init__(self):
        super().__init__(30, 30)

    def forward(self, x):
        return super().forward(x) + self.weight.square().mean()


class Unused(nn.Linear):
    def __init__(self):
        super().__init__(30, 30)
        self.more = nn.Parameter(torch.randn(3))


def pruned() -> nn.Module:
    return prune.random_unstructured(nn.Linear(30, 30, bias=False), "weight", 0.5)


def tied() -> nn.Module:
    one, two = nn.Linear(30, 30), nn.Linear(30, 30)
    two.weight = one.weight
    return nn.Sequential(one, two)


def tied_bias() -> nn.Module:
    one, two = nn.Linear(30, 30), nn.Linear(30, 30)
    two.bias = one.bias
    return nn.Sequential(one, two)


def half_frozen() -> nn.Module:
    layer = nn.Linear(30, 30)
    layer.weight.requires_grad_(False)
    return layer


LEFT_OUT = [pruned, tied, tied_bias, half_frozen, Lower, Unused, Penalised, lambda: Wide(1, 30)]


@pytest.mark.parametrize("make", LEFT_OUT)
def test_layers_that_do_more_than_their_type_says_are_left_out(make):
    assert not taken(make())


def scaled(**options: float):
    net = nn.Linear(30, 30)
    h = torch.addmm(net.bias, torch.randn(4, 30), net.weight.mT, **options)
    return linear_layers({"a": h}, {"a": list(net.parameters())})


def test_products_with_factors_are_left_out():
    assert scaled() and not scaled(alpha=2.0) and not scaled(beta=0.5)
    net = nn.Linear(30, 30)
    h = torch.addmm(net.bias, torch.randn(4, 30), net.weight)  # not transposed
    assert not linear_layers({"a": h}, {"a": list(net.parameters())})


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Linear(30, 30), nn.ReLU(inplace=True)),
        lambda: nn.Sequential(nn.Linear(30, 30), nn.ELU(inplace=True), nn.Linear(30, 30)),
        lambda: Twice(nn.Linear(30, 30)),
        lambda: Wide(30),
        lambda: nn.Sequential(nn.Linear(30, 30), nn.Dropout(0.5), nn.Linear(30, 30)),
    ],
)
def test_what_stands_around_a_layer_does_not_matter(make):
    assert taken(make())


def test_layers_that_are_called_twice_or_never_or_in_another_type_are_left_out():
    nets = {name: nn.Linear(30, 30) for name in ("once", "twice", "never", "autocast")}
    x = torch.randn(4, 30)
    features = {"once": nets["once"](x), "twice": nets["twice"](nets["twice"](x)), "never": x}
    with torch.autocast("cpu", torch.bfloat16):
        features["autocast"] = nets["autocast"](x)
    trained = {m: list(net.parameters()) for m, net in nets.items()}
    assert set(linear_layers(features, trained)) == {"once"}


def test_the_parameters_decide_the_order():
    late, early = nn.Linear(30, 30), nn.Linear(30, 30)
    h = late(early(torch.randn(4, 30)))
    own = [*late.parameters(), *early.parameters()]
    assert [x.weight for x in linear_layers({"a": h}, {"a": own})["a"]] == [own[0], own[2]]


def test_a_compiled_encoder_gives_what_its_graph_says():
    net = encoder()
    net.compile(backend="eager")
    layers = found({"a": net})
    assert not layers or [x.weight for x in layers["a"]] == list(net.parameters())[::2]


def test_encoders_that_share_a_weight_are_left_out():
    nets = {m: nn.Sequential(nn.Linear(30, 30), nn.Tanh(), nn.Linear(30, 30)) for m in "abc"}
    nets["b"][0].weight = nets["a"][2].weight
    assert set(found(nets)) == {"c"}


def test_a_hook_on_a_weight_sees_its_gradient():
    layer = nn.Linear(30, 30)
    assert taken(layer)
    hook = layer.weight.register_hook(lambda grad: 0 * grad)
    assert not taken(layer)
    hook.remove()
    assert taken(layer)
    layer.bias.register_post_accumulate_grad_hook(lambda p: None)
    assert not taken(layer)
