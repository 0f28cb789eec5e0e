"""A blend puts into `.grad` what autograd gives, whatever the encoders and the losses are."""

import copy

import pytest
import torch
from steps import (
    EVERYONE,
    MASK,
    NOBODY,
    assert_equal,
    encoder_grads,
    flat,
    gradients,
    make_batch,
    make_net,
    make_stack,
    make_step,
)
from torch import nn
from torch.nn import functional as F

from mmlab import Batch, Step
from mmlab.datasets.base import stack_batches
from mmlab.models import Concat, LazyLogits, MultimodalNet, NetworkStack, Output, Sum, fusion
from mmlab.training import factors
from mmlab.training.blend import gradients_of
from mmlab.training.step import Parameters

MODES = ["encoder", "tensor"]


def rule(gram):
    """Weights that tell every entry of the Gramian from every other, and may be negative."""
    size = gram.shape[-1]
    turn = torch.arange(1.0, size * size + 1, dtype=gram.dtype).reshape(size, size)
    return (gram * turn / (1 + gram.diagonal(dim1=-2, dim2=-1).sum(-1))[..., None, None]).sum(
        -1
    ) + torch.linspace(0.5, -1.0, size, dtype=gram.dtype)


def expected(own, parameters, by):
    """Blended gradients of K losses, and their Gramian, from K passes of autograd."""
    each = [gradients(loss, parameters) for loss in own]
    rows = torch.stack([flat(g) for g in each])
    if by == "encoder":
        weights = [rule(rows @ rows.T)] * len(parameters)
    else:
        parts = [torch.stack([g[t].flatten() for g in each]) for t in range(len(parameters))]
        weights = [rule(x @ x.T) for x in parts]
    blended = [sum(w[k] * each[k][t] for k in range(len(own))) for t, w in enumerate(weights)]
    return blended, rows @ rows.T


def distinct(losses):
    return list({id(loss): loss for row in losses.values() for loss in row}.values())


def assert_blends(step, losses, by, factored=None, monkeypatch=None):
    """The blend of a step against autograd, parameter by parameter; factored: those encoders."""
    net = step.model
    encoders = {m: [p for p in net.encoders[m].parameters() if p.requires_grad] for m in losses}
    inside = {*net.encoders.parameters()}
    others = [p for p in net.parameters() if p.requires_grad and p not in inside]
    goal, grams = {}, {}
    for m, own in losses.items():
        if encoders[m]:
            blended, grams[m] = expected(own, encoders[m], by)
            for p, grad in zip(encoders[m], blended, strict=True):
                goal[p] = goal.get(p, 0) + grad
    total = torch.stack(distinct(losses)).sum()
    goal |= dict(zip(others, gradients(total, others), strict=True))
    taken = []
    if monkeypatch is not None:
        found = factors.linear_layers
        monkeypatch.setattr(
            "mmlab.training.step.linear_layers", lambda *a: taken.append(found(*a)) or taken[-1]
        )
    for p in net.parameters():
        p.grad = None
    for count in (1, 2):  # it adds to what is there
        found_grams = step.blend(losses, rule, by)
        for name, p in net.named_parameters():
            zero = torch.zeros_like(p)
            mine = zero if p.grad is None else p.grad
            torch.testing.assert_close(
                mine, count * goal.get(p, zero), rtol=1e-9, atol=1e-12, msg=lambda s, n=name: n + s
            )
            assert p.grad is None or not p.grad.requires_grad
    assert list(found_grams) == list(grams)
    for m, gram in grams.items():
        torch.testing.assert_close(found_grams[m], gram, rtol=1e-9, atol=1e-12)
        assert not found_grams[m].requires_grad
    if taken:
        assert [*taken[0]] == list(factored)


def both(s):
    return {m: (s.losses["joint"], s.losses[m]) for m in s.modalities}


def triple(s):
    masked = s.losses.of("masked", s.fuse(s.out.features, dict.fromkeys(s.modalities, MASK)))
    return {m: (s.losses[m], masked, s.losses["joint"]) for m in s.modalities}


class Doubled(nn.Module):
    """One layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(self.layer(x).tanh())


class Scaled(nn.Module):
    """A product that torch calls as it calls a linear layer's, with factors of its own."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight.T, alpha=2.0, beta=0.5)


class Turned(nn.Module):
    """A product with the weight itself, not its transpose."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        return x @ self.weight


class Penalised(nn.Module):
    """Its output holds its own weight in one more way."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x) + self.layer.weight.square().mean()


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.bias = nn.LayerNorm(4), nn.Parameter(torch.randn(1, 4))

    def forward(self, x):
        return self.norm(x) + self.bias


class Sequenced(nn.Module):
    """A linear layer over three steps of time, (B, 3, 4) -> (B, 3, 4), and their mean."""

    def __init__(self, bias=True):
        super().__init__()
        self.layer = nn.Linear(4, 4, bias=bias)

    def forward(self, x):
        return self.layer(torch.stack([x, x.sin(), x.cos()], dim=1)).tanh().mean(1)


LINEAR = {
    "one layer": (),
    "layers": (nn.Tanh(), nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 4)),
    "no bias": (nn.Tanh(), nn.Linear(4, 4, bias=False)),
    "in place": (nn.ReLU(inplace=True), nn.Linear(4, 4), nn.ELU(inplace=True)),
    "sequences": (Sequenced(),),
    "sequences, no bias": (Sequenced(bias=False),),
    "dropout": (nn.Dropout(0.5), nn.Linear(4, 4)),
}
OTHER = {
    "convolution": (
        nn.Unflatten(1, (1, 4)),
        nn.Conv1d(1, 2, 3, padding=1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ),
    "normalised": (Normed(), nn.Linear(4, 4)),
    "batch statistics": (nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4)),
    "twice": (Doubled(),),
    "scaled": (Scaled(),),
    "turned": (Turned(),),
    "penalised": (Penalised(),),
}


@pytest.mark.parametrize("by", MODES)
@pytest.mark.parametrize("name", [*LINEAR, *OTHER])
@pytest.mark.parametrize("modalities", ["ab", "abc"])
def test_two_losses(modalities, name, by, monkeypatch):
    net = make_net(*(LINEAR | OTHER)[name], modalities=modalities)
    s = Step(net, make_batch(modalities=modalities))
    factored = modalities if name in LINEAR and by == "encoder" else ""
    assert_blends(s, both(s), by, factored, monkeypatch if by == "encoder" else None)


@pytest.mark.parametrize("by", MODES)
@pytest.mark.parametrize("name", ["layers", "convolution", "normalised"])
def test_three_losses_one_of_them_of_a_second_fusion(name, by):
    net = make_net(*(LINEAR | OTHER)[name], fusion=fusion.Gated)
    s = Step(net, make_batch())
    assert_blends(s, triple(s), by)


@pytest.mark.parametrize("by", MODES)
def test_one_loss_alone_is_a_backward_pass(by):
    for key in ("joint", "a"):
        s = make_step(nn.Tanh())
        grad = gradients(s.losses[key], s.model.encoders["a"].parameters())
        s.blend({"a": [s.losses[key]]}, lambda gram: torch.ones_like(gram[..., 0]), by)
        assert_equal(encoder_grads(s, "a"), grad)
        assert all(p.grad is None for p in s.model.encoders["b"].parameters())


@pytest.mark.parametrize("by", MODES)
@pytest.mark.parametrize("layers", [(), (Normed(),)])
@pytest.mark.parametrize("heads", ["own", "shared"])
def test_masks_and_shared_heads(heads, layers, by):
    net = make_net(*layers)
    if heads == "shared":
        net = MultimodalNet(net.encoders, net.fusion, nn.Linear(4, 3)).double()
    for present in ({"a": MASK, "b": EVERYONE}, {"a": NOBODY, "b": MASK}):
        s = Step(net, make_batch(present))
        assert_blends(s, both(s), by)


@pytest.mark.parametrize("by", MODES)
def test_linear_encoders_beside_others(by, monkeypatch):
    net = make_net(modalities="abc")
    net.encoders["b"].append(nn.LayerNorm(4).double())
    s = Step(net, make_batch(modalities="abc"))
    assert_blends(s, both(s), by, "ac", monkeypatch if by == "encoder" else None)


@pytest.mark.parametrize("by", MODES)
@pytest.mark.parametrize("frozen", ["weight", "bias", "a", "b", "ab"])
def test_frozen_parts_are_left_out(frozen, by):
    for layers in ((), (Normed(),)):
        net = make_net(*layers)
        if frozen in ("weight", "bias"):
            getattr(net.encoders["a"][0], frozen).requires_grad_(False)
        else:
            for m in frozen:
                net.encoders[m].requires_grad_(False)
        s = Step(net, make_batch())
        assert_blends(s, both(s), by)


def test_a_frozen_bias_still_leaves_a_linear_layer(monkeypatch):
    net = make_net()
    net.encoders["a"][0].bias.requires_grad_(False)
    s = Step(net, make_batch())
    assert_blends(s, both(s), "encoder", "ab", monkeypatch)


@pytest.mark.parametrize("by", MODES)
def test_a_frozen_fusion_or_head_gets_nothing(by):
    s = make_step()
    s.model.fusion.requires_grad_(False)
    s.model.heads["a"].requires_grad_(False)
    assert_blends(s, both(s), by)
    assert all(p.grad is None for p in s.model.fusion.parameters())


@pytest.mark.parametrize("by", MODES)
def test_a_hook_on_a_parameter_changes_each_gradient(by, monkeypatch):
    s = make_step()
    weight = s.model.encoders["a"][0].weight
    calls = []
    weight.register_hook(lambda grad: calls.append(1) or 3 * grad)
    assert_blends(s, both(s), by, "b", monkeypatch if by == "encoder" else None)
    assert calls


def tied_module(net):
    net.encoders["b"] = net.encoders["a"]


def tied_weight(net):
    net.encoders["b"][0].weight = net.encoders["a"][0].weight


def tied_head(net):
    net.heads["b"] = nn.Linear(4, 4).double()
    net.heads["b"].weight = net.encoders["a"][1].weight


def tied_within(net):
    net.encoders["a"].append(nn.Linear(4, 4).double())
    net.encoders["a"][2].weight = net.encoders["a"][1].weight


def tied_fusion(net):
    net.fusion.extra = net.encoders["a"][0]
    net.fusion.forward = lambda h: Concat.forward(net.fusion, h) + net.fusion.extra.weight.mean()


@pytest.mark.parametrize("by", MODES)
@pytest.mark.parametrize("layers", [(nn.Linear(4, 4),), (nn.Linear(4, 4), Normed())])
def test_a_parameter_that_an_encoder_uses_twice(layers, by):
    net = make_net(*layers)
    tied_within(net)
    s = Step(net, make_batch())
    assert_blends(s, both(s), by)


@pytest.mark.parametrize("tie", [tied_module, tied_weight, tied_head, tied_fusion])
def test_encoders_whose_gradient_is_not_theirs_alone_are_refused(tie):
    net = make_net(nn.Linear(4, 4))
    tie(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    s = Step(net, make_batch(), optimizer)
    s.backward(s.losses["joint"])
    for change in (
        lambda: s.blend(both(s), lambda gram: torch.ones_like(gram[..., 0])),
        lambda: s.scale_grad("a", 0.5),
        lambda: s.add_noise("a", s.spread("a")),
        lambda: s.scale_update("a", 0.5),
    ):
        with pytest.raises(ValueError, match=r"encoder 'a' shares parameters .* of its own"):
            change()


class Experts(nn.Module):
    """Two experts in one tensor, whose outputs are added."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 4, 4))

    def forward(self, x):
        return torch.bmm(x.expand(2, *x.shape), self.weight.mT).sum(0)


class Untransposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        return x @ self.weight.transpose(0, 1).transpose(0, 1)


@pytest.mark.parametrize("by", MODES)
@pytest.mark.parametrize("part", [Experts, Untransposed])
def test_products_that_are_no_linear_layer(part, by):
    torch.manual_seed(1)
    s = make_step(part())
    assert_blends(s, both(s), by)


class Shifts(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.by = nn.Parameter(torch.randn(1, width))

    def forward(self, x):
        return x + self.by


def test_what_is_blended_is_not_the_memory_of_the_rest():
    """Of one sample autograd may give an encoder and the fusion one gradient in one memory."""
    net = make_net(Shifts(4))
    net.fusion = Sum({"a": 4, "b": 4}, 3).double()
    net.fusion.shift = Shifts(4).double()
    net.fusion.forward = lambda h: Sum.forward(
        net.fusion, {m: net.fusion.shift(x) for m, x in h.items()}
    )
    s = Step(net, make_batch()[:1])
    expected = torch.autograd.grad(
        s.losses["joint"] + s.losses["a"] + s.losses["b"], net.fusion.shift.by, retain_graph=True
    )[0]
    s.blend(both(s), lambda gram: torch.full_like(gram[..., 0], 3.0))
    torch.testing.assert_close(net.fusion.shift.by.grad, expected)


# Losses of all kinds


@pytest.mark.parametrize("by", MODES)
@pytest.mark.parametrize("layers", [(), (Normed(),)])
def test_losses_that_the_step_does_not_know(layers, by):
    s = make_step(*layers)
    decay = sum(p.square().sum() for p in s.model.encoders.parameters())
    noisy = {m: x + 0.1 for m, x in s.batch.inputs.items()}
    other = F.cross_entropy(s.model(noisy).joint, s.batch.target)
    mixed = s.losses["a"] * s.losses["b"]
    recorded = s.losses.of("noisy", s.model(noisy).joint)
    joint = s.losses["joint"]
    for extra in (decay, other, mixed, recorded, joint + decay, s.losses["a"] + decay):
        assert_blends(s, dict.fromkeys("ab", (joint, extra)), by)
        assert_blends(s, {m: (s.losses[m], extra) for m in "ab"}, by)
        assert_blends(s, {"a": (joint, extra), "b": (joint, s.losses["b"])}, by)
        assert_blends(s, {"b": (extra, joint), "a": (s.losses["a"], joint)}, by)


@pytest.mark.parametrize("by", MODES)
@pytest.mark.parametrize("layers", [(), (Normed(),)])
def test_losses_in_any_order_and_of_other_modalities(layers, by):
    s = make_step(*layers)
    joint, a, b = s.losses["joint"], s.losses["a"], s.losses["b"]
    for losses in (
        {"a": (joint, a), "b": (b, joint)},
        {"b": (b, joint), "a": (a, joint)},
        {"a": (a, b), "b": (a, b)},
        {"a": (joint, b), "b": (joint, a)},
        {"a": (joint, joint), "b": (joint, joint)},
        {"a": (a, a, joint), "b": (b, joint, b)},
        {"a": (a, b), "b": (b, b)},
        {"b": (joint, b)},
        {"a": [a], "b": [joint]},
    ):
        assert_blends(s, losses, by)


class Mixed(MultimodalNet):
    """Its unimodal logits of one modality depend on the encoder of the other."""

    def forward(self, inputs):
        h = {m: self.encoders[m](x) for m, x in inputs.items()}
        mixed = {"a": h["a"] + h["b"].detach(), "b": h["b"] + h["a"]}
        return Output(h, self.fusion(mixed), LazyLogits(self, mixed), self.fusion)


class Crossed(MultimodalNet):
    """One modality goes through both encoders."""

    def encode(self, m, x):
        return super().encode("a", x) + (super().encode("b", x) if m == "b" else 0)


class Both(MultimodalNet):
    def encoded(self, m, x):
        return super().encoded(m, x) + (super().encoded("b", x) if m == "a" else 0)


@pytest.mark.parametrize("by", MODES)
@pytest.mark.parametrize("kind", [Mixed, Crossed, Both])
def test_networks_whose_losses_cross(kind, by):
    net = make_net()
    s = Step(kind(net.encoders, net.fusion, net.heads), make_batch())
    assert_blends(s, both(s), by)


@pytest.mark.parametrize("by", MODES)
def test_under_autocast(by):
    net = make_net(nn.Tanh(), nn.Linear(4, 4)).float()
    net.autocast = torch.bfloat16
    batch = make_batch()
    batch = Batch({m: x.float() for m, x in batch.inputs.items()}, batch.target)
    s = Step(net, batch)
    goal = {m: [gradients(x, net.encoders[m].parameters()) for x in both(s)[m]] for m in "ab"}
    grams = s.blend(both(s), lambda gram: torch.ones_like(gram[..., 0]), by)
    for m, (one, two) in goal.items():
        mine = [p.grad for p in net.encoders[m].parameters()]
        assert_equal(mine, [x + y for x, y in zip(one, two, strict=True)])
        torch.testing.assert_close(grams[m][0, 1], flat(one) @ flat(two))


class Shift(nn.Module):
    """Of one sample, autograd gives both parameters one gradient in one memory."""

    def __init__(self):
        super().__init__()
        self.one, self.two = (nn.Parameter(torch.randn(4)) for _ in range(2))

    def forward(self, x):
        return x + self.one[None] + self.two[None]


@pytest.mark.parametrize("by", MODES)
def test_gradients_in_one_memory_are_weighted_once(by):
    s = make_step(Shift())
    s.batch = s.batch[:1]
    assert_blends(s, both(s), by)


class Constant(nn.Module):
    """Its gradient is one number that stands for all entries."""

    def __init__(self):
        super().__init__()
        self.offsets = nn.Parameter(torch.randn(5))

    def forward(self, x):
        return x + self.offsets.sum()


@pytest.mark.parametrize("by", MODES)
def test_gradients_that_are_one_number_are_blended_in_memory_of_their_own(by):
    s = make_step(Constant())
    assert_blends(s, both(s), by)
    for p in s.model.encoders.parameters():
        p.grad.mul_(2.0)


# The rule


@pytest.mark.parametrize("by", MODES)
@pytest.mark.parametrize("layers", [(), (Normed(),)])
def test_what_the_rule_sees_and_what_becomes_of_its_weights(layers, by):
    s = make_step(*layers)
    seen = []

    def look(gram):
        seen.append(gram)
        assert not torch.is_grad_enabled()
        return torch.tensor([0.25, -2.0])  # of another type, the same for all

    s.blend(both(s), look, by)
    count = len(list(s.model.encoders["a"].parameters()))
    assert all(x.dtype == torch.float64 and x.shape[-2:] == (2, 2) for x in seen)
    if by == "tensor":
        assert [x.shape for x in seen] == [(count, 2, 2)] * 2
    assert all(torch.allclose(x, x.mT) for x in seen)
    for m in "ab":
        one, two = (s.grad(x, m) for x in both(s)[m])
        expected = [0.25 * x - 2.0 * y for x, y in zip(one, two, strict=True)]
        assert_equal(encoder_grads(s, m), expected)


@pytest.mark.parametrize("by", MODES)
def test_no_weight_reaches_the_fusion_and_the_heads(by):
    s = make_step()
    s.blend(both(s), lambda gram: torch.zeros_like(gram[..., 0]), by)
    assert all(g.eq(0).all() for m in "ab" for g in encoder_grads(s, m))
    others = [*s.model.fusion.parameters(), *s.model.heads.parameters()]
    total = s.losses["joint"] + s.losses["a"] + s.losses["b"]
    assert_equal([p.grad for p in others], gradients(total, others))


def test_the_parameters_of_a_method_get_the_plain_sum():
    net, own = make_net(), nn.Linear(4, 3).double()
    s = Step(net, make_batch(), parameters=Parameters(net, own))
    extra = F.cross_entropy(own(s.out.features["a"]), s.batch.target)
    goal = gradients(extra, own.parameters())
    s.blend(dict.fromkeys("ab", (s.losses["joint"], extra)), rule)
    assert_equal([p.grad for p in own.parameters()], goal)


# Refused


def test_what_cannot_be_blended_is_refused():
    s = make_step()
    joint = s.losses["joint"]
    with pytest.raises(ValueError, match=r"by is 'layer'; allowed are 'encoder', 'tensor'"):
        s.blend(both(s), rule, by="layer")
    for losses, given in (
        ({}, r"\{\}"),
        ({"a": (), "b": ()}, r"\{'a': 0, 'b': 0\}"),
        ({"a": (joint,), "b": (joint, joint)}, r"\{'a': 1, 'b': 2\}"),
    ):
        with pytest.raises(ValueError, match=rf"numbers of losses are {given}; give each .* one$"):
            s.blend(losses, rule)
    with pytest.raises(KeyError, match=r"unknown modality 'video'; this model has \['a', 'b'\]"):
        s.blend({"a": [joint], "video": [joint]}, rule)
    assert all(p.grad is None for p in s.model.parameters())


# In a stack


@pytest.mark.parametrize("by", MODES)
@pytest.mark.parametrize("make", [both, triple])
@pytest.mark.parametrize(
    "name", ["one layer", "layers", "no bias", "sequences", "normalised", "convolution"]
)
@pytest.mark.parametrize("missing", [False, True])
def test_a_stack_is_its_networks(missing, name, make, by):
    masks = [{"a": MASK, "b": EVERYONE}, {"a": NOBODY, "b": MASK}, {"a": EVERYONE, "b": ~MASK}]
    kind = (LINEAR | OTHER)[name]
    nets = [make_net(*copy.deepcopy(kind), seed=r) for r in range(3)]
    batches = [make_batch(masks[r] if missing else None, seed=r) for r in range(3)]
    s = Step(NetworkStack(nets), stack_batches(batches))
    losses = make(s) if make is both else stacked_triple(s)
    grams = s.blend(losses, rule, by)
    for r, (net, batch) in enumerate(zip(nets, batches, strict=True)):
        one = Step(net, batch)
        alone = one.blend(make(one), rule, by)
        for m in "ab":
            torch.testing.assert_close(grams[m][r], alone[m], rtol=1e-9, atol=1e-13)
        stacked = s.model.parameters()
        for mine, theirs in zip(stacked, net.parameters(), strict=True):
            torch.testing.assert_close(mine.grad[r], theirs.grad, rtol=1e-9, atol=1e-13)


def stacked_triple(s):
    mask = dict.fromkeys("ab", MASK.expand(3, 6))
    masked = s.losses.of("masked", s.fuse(s.out.features, mask))
    return {m: (s.losses[m], masked, s.losses["joint"]) for m in "ab"}


def test_the_linear_layers_of_a_stack_stay_in_factors(monkeypatch):
    _, _, s = make_stack()
    taken, found = [], factors.linear_layers
    monkeypatch.setattr(
        "mmlab.training.step.linear_layers", lambda *a: taken.append(found(*a)) or taken[-1]
    )
    s.blend(both(s), rule)
    assert list(taken[0]) == ["a", "b"]


# What it costs


class Counted(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, log):
        ctx.log = log
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        ctx.log.append(1)
        return grad, None


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.log = []

    def forward(self, x):
        return Counted.apply(x, self.log)


@pytest.mark.parametrize("layers", [(), (Normed(),)])
def test_own_losses_that_do_not_mix_share_one_run(layers):
    net = make_net(*layers, modalities="abc")
    net = MultimodalNet(net.encoders, net.fusion, nn.Sequential(nn.Linear(4, 3)).double())
    s = Step(net, make_batch(modalities="abc"))
    runs = []
    plain = torch.autograd.grad

    def grad(*args, **options):
        runs.append(1)
        return plain(*args, **options)

    losses = both(s)
    torch.autograd.grad = grad
    try:
        s.blend(losses, rule)
    finally:
        torch.autograd.grad = plain
    assert len(runs) == (4 if layers else 2)  # whole gradients of a shared loss go one by one


# Gradients of one loss


def test_gradients_of_give_none_where_there_is_none_and_add_to_the_others():
    a, b, c = (nn.Parameter(torch.randn(3, dtype=torch.float64)) for _ in range(3))
    loss = (a * b).sum()
    for count in (1, 2):
        one, none = gradients_of(loss, [a, c], [b, c])
        assert torch.equal(one, b) and none is None
        torch.testing.assert_close(b.grad, count * a.detach())
        assert a.grad is None and c.grad is None
    assert gradients_of(loss, [], []) == []
    assert gradients_of(torch.tensor(1.0), [a, b], [c]) == [None, None]
    assert c.grad is None
    edge = torch.autograd.graph.get_gradient_edge(h := a * 2)
    (mine,) = gradients_of(h.square().sum(), [edge], [])
    torch.testing.assert_close(mine, 2 * h.detach())


def test_several_losses_count_as_their_sum():
    a = nn.Parameter(torch.randn(3, dtype=torch.float64))
    (grad,) = gradients_of(a.square(), [a], [])
    torch.testing.assert_close(grad, 2 * a.detach())


def test_gradients_for_the_others_have_memory_of_their_own():
    a, b, c = (nn.Parameter(torch.randn(3)) for _ in range(3))
    gradients_of((a + b).square().sum() + c.sum(), [], [a, b, c])
    kept = b.grad.clone(), c.grad.clone()
    a.grad.mul_(2.0)
    assert torch.equal(b.grad, kept[0])
    c.grad.mul_(2.0)
    assert torch.equal(c.grad, 2 * kept[1])
