"""MMPareto's whole step against scipy's min-norm point, and its cost in backward passes."""

import numpy as np
import pytest
import torch
from by_hand import (
    ByHand,
    Counter,
    assert_gradients,
    batch,
    convolution,
    counted,
    data,
    flat,
    linear,
    mlp,
    network,
    parameters,
    take_step,
)
from scipy.optimize import minimize_scalar
from torch import nn
from torch.nn import functional as F

from mmlab import Batch, Joint, MMPareto, MultimodalNet, Step, Uniform, fit, load
from mmlab.balancers import mmpareto
from mmlab.balancers.mmpareto import integrate_tasks, pareto_gradient
from mmlab.models import Concat, Output


def two_way(turn, modalities="av", encoder=linear, seed=0):
    """A network in which encoder m meets a conflict (turn −1) or none (turn +1).

    Own head and fusion read the features along the same or along opposite directions.
    """
    net = network(modalities, encoder=encoder, seed=seed)
    blocks = net.fusion.linear.weight.chunk(len(modalities), dim=1)
    with torch.no_grad():
        for m, block in zip(modalities, blocks, strict=True):
            net.heads[m].weight.copy_(turn.get(m, 1) * block)
    return net


def shortest(g, u):
    """The min-norm point between g and u by numerical search."""
    length = lambda w: np.linalg.norm(w * g + (1 - w) * u)  # noqa: E731
    w = minimize_scalar(length, bounds=(0, 1), method="bounded", options={"xatol": 1e-12}).x
    return w * g + (1 - w) * u


def integrated(g, u, gamma, gamma_on_aligned=True):
    if g @ u >= 0:
        return (gamma if gamma_on_aligned else 1) * (g + u)
    d = shortest(g, u)
    return gamma * np.linalg.norm(g + u) / np.linalg.norm(d) * d


def two_gradients(net, samples):
    """{m: (g, u)} of each encoder as vectors."""
    hand = ByHand(net, samples)
    joint = hand.gradient("joint")
    return {m: (flat(net, m, joint), flat(net, m, hand.gradient(m))) for m in net.modalities}


def encoder_gradient(net, m):
    return torch.cat([p.grad.reshape(-1) for p in net.encoders[m].parameters()]).numpy()


@pytest.mark.parametrize("gamma_on_aligned", [True, False])
@pytest.mark.parametrize("gamma", [1.0, 1.5])
@pytest.mark.parametrize("modalities", ["av", "avt"])
def test_encoders_get_the_min_norm_direction_and_the_rest_the_plain_gradient(
    modalities, gamma, gamma_on_aligned
):
    net, samples = two_way({"a": -1}, modalities), batch(modalities)
    pairs = two_gradients(net, samples)
    assert pairs["a"][0] @ pairs["a"][1] < 0 < pairs["v"][0] @ pairs["v"][1]
    step = take_step(MMPareto(gamma=gamma, gamma_on_aligned=gamma_on_aligned), net, samples)
    for m, (g, u) in pairs.items():
        expected = integrated(g, u, gamma, gamma_on_aligned)
        np.testing.assert_allclose(encoder_gradient(net, m), expected, rtol=1e-6, atol=1e-9)
        cosine = g @ u / np.linalg.norm(g) / np.linalg.norm(u)
        assert step.logged["cosine", m].item() == pytest.approx(cosine, rel=1e-9)
    for encoder in net.encoders.parameters():
        encoder.grad = None
    plain = ByHand(net, samples).total(dict.fromkeys(["joint", *modalities], 1.0))
    outside = [*net.fusion.parameters(), *net.heads.parameters()]
    assert_gradients(net, {p: grad for p, grad in plain.items() if any(p is q for q in outside)})


def test_in_a_conflict_the_uniform_sum_opposes_an_objective_and_the_step_does_not():
    """The one test that fails where the special step does nothing."""
    found = 0
    for seed in range(40):
        net, samples = two_way({"a": -1}, seed=seed), batch()
        g, u = two_gradients(net, samples)["a"]
        if min((g + u) @ g, (g + u) @ u) >= 0:
            continue
        found += 1
        take_step(MMPareto(), net, samples)
        d = encoder_gradient(net, "a")
        assert d @ g > 0 and d @ u > 0
        assert abs(d @ (g + u)) < 0.999 * np.linalg.norm(d) * np.linalg.norm(g + u)
    assert found >= 3


@pytest.mark.parametrize("turn", [-1, 1])
def test_the_magnitude_is_gamma_times_the_uniform_sums(turn):
    net, samples = two_way({"a": turn}), batch()
    g, u = two_gradients(net, samples)["a"]
    take_step(MMPareto(gamma=2.5), net, samples)
    length = np.linalg.norm(encoder_gradient(net, "a"))
    assert length == pytest.approx(2.5 * np.linalg.norm(g + u), rel=1e-9)


def test_without_conflict_it_is_the_uniform_sum_at_gamma_times_the_encoder_rate():
    samples = batch()
    for balancer, control in (
        (MMPareto(gamma=1.5), Uniform(encoder_scale=1.5)),
        (MMPareto(gamma=1.5, gamma_on_aligned=False), Uniform()),
    ):
        net, other = two_way({}), two_way({})
        take_step(balancer, net, samples)
        take_step(control, other, samples)
        expected = {
            mine: theirs.grad
            for mine, theirs in zip(net.parameters(), other.parameters(), strict=True)
        }
        assert_gradients(net, expected)


def released(g, u, gamma, sizes, gamma_on_aligned=True):
    """The released code's rule, spelt out: the encoder's direction, each tensor's length raised."""
    if g @ u > 0:
        return (gamma if gamma_on_aligned else 1) * (g + u)
    if not g.any():
        w = 0.999  # the ends of the code's search
    elif not u.any():
        w = 0.001
    else:
        length = lambda w: np.sum((w * g + (1 - w) * u) ** 2)  # noqa: E731
        w = minimize_scalar(length, bounds=(0, 1), method="bounded", options={"xatol": 1e-12}).x
    edges = np.cumsum(sizes)[:-1]
    parts = []
    for x, y in zip(np.split(g, edges), np.split(u, edges), strict=True):
        d = 2 * w * x + 2 * (1 - w) * y
        size = np.linalg.norm(d)
        # the code divides by it; 1e-7 is the error of the search
        if size <= 1e-7 * (np.linalg.norm(x) + np.linalg.norm(y)):
            parts.append(0 * d)
        else:
            parts.append(gamma * max(1, np.linalg.norm(x + y) / size) * d)
    return np.concatenate(parts)


def sizes(net, m):
    return [p.numel() for p in net.encoders[m].parameters()]


@pytest.mark.parametrize("turn", [-1, 1])
@pytest.mark.parametrize("seed", range(3))
def test_the_rule_for_each_tensor_is_the_released_codes(turn, seed):
    net, samples = two_way({"a": turn}, seed=seed), batch()
    pairs = two_gradients(net, samples)
    take_step(MMPareto(gamma=1.5, rescale="tensor"), net, samples)
    for m, (g, u) in pairs.items():
        expected = released(g, u, 1.5, sizes(net, m))
        np.testing.assert_allclose(encoder_gradient(net, m), expected, rtol=1e-6, atol=1e-9)


def test_the_rule_for_each_tensor_leaves_aligned_sums_alone_without_gamma():
    net, samples = two_way({}), batch()
    take_step(MMPareto(rescale="tensor", gamma_on_aligned=False), net, samples)
    assert_gradients(net, ByHand(net, samples).total({"joint": 1, "a": 1, "v": 1}))


def test_a_magnitude_for_each_tensor_can_oppose_an_objective_one_for_the_encoder_cannot():
    opposed = {"tensor": 0, "encoder": 0}
    for seed in range(150):
        net, samples = two_way({"a": -1, "v": -1}, seed=seed), batch(seed=seed)
        pairs = two_gradients(net, samples)
        for rescale in opposed:
            net.zero_grad()
            take_step(MMPareto(rescale=rescale), net, samples)
            for m, (g, u) in pairs.items():
                d = encoder_gradient(net, m)
                least = min(d @ g / np.linalg.norm(g), d @ u / np.linalg.norm(u)) / np.linalg.norm(
                    d
                )
                opposed[rescale] += bool(least < -1e-9)
    assert opposed["encoder"] == 0
    assert opposed["tensor"] > 0


@pytest.mark.parametrize("rescale", ["encoder", "tensor"])
def test_exactly_opposite_gradients_leave_the_encoder_where_it_is(rescale):
    net = two_way({"a": -1})
    with torch.no_grad():
        for parameter in (*net.encoders.parameters(), net.fusion.linear.bias):
            parameter.zero_()
        for head in net.heads.values():
            head.bias.zero_()
    samples = batch()
    g, u = two_gradients(net, samples)["a"]
    assert np.linalg.norm(g) > 0.01
    np.testing.assert_allclose(g, -u, atol=1e-15)
    take_step(MMPareto(rescale=rescale), net, samples)
    np.testing.assert_allclose(encoder_gradient(net, "a"), 0, atol=1e-14)
    assert np.linalg.norm(encoder_gradient(net, "v")) > 0.01


@pytest.mark.parametrize("rescale", ["encoder", "tensor"])
def test_a_modality_that_a_whole_batch_lacks_has_no_say(rescale):
    net, samples = two_way({}), batch(present={"a": [1] * 6, "v": [0] * 6})
    take_step(MMPareto(rescale=rescale), net, samples)
    pairs = two_gradients(net, samples)
    np.testing.assert_allclose(encoder_gradient(net, "v"), 1.5 * pairs["v"][0], atol=1e-12)
    assert np.isfinite(encoder_gradient(net, "a")).all()


def counted_mlp(size, width):
    """Not of linear layers alone, so that its gradients are made."""
    return nn.Sequential(nn.Linear(size, width), Counter(), nn.LayerNorm(width), Counter())


@pytest.mark.parametrize("encoder", [counted, counted_mlp])
@pytest.mark.parametrize("modalities", ["av", "avt"])
def test_it_costs_one_forward_and_two_passes_through_each_encoder(modalities, encoder, monkeypatch):
    net = network(modalities, encoder=encoder)
    runs = []
    for name in ("grad", "backward"):
        engine = getattr(torch.autograd, name)

        def noted(*args, engine=engine, **options):
            runs.append(engine)
            return engine(*args, **options)

        monkeypatch.setattr(torch.autograd, name, noted)
    take_step(MMPareto(), net, batch(modalities))
    # the joint gradient of linear layers in one run, of others one encoder at a time
    assert len(runs) == (2 if encoder is counted else 1 + len(modalities))
    for encoder in net.encoders.values():
        assert encoder[1].log == ["forward", "backward", "backward"]


@pytest.mark.parametrize("rescale", ["encoder", "tensor"])
def test_training_follows_the_loop_by_hand(rescale):
    tiny = data()
    net, by_hand = two_way({"a": -1, "v": -1}), two_way({"a": -1, "v": -1})
    fit(
        net,
        tiny,
        MMPareto(rescale=rescale),
        epochs=3,
        batch_size=len(tiny.train),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        device="cpu",
    )
    for _ in range(3):
        grads = ByHand(by_hand, tiny.train).total({"joint": 1, "a": 1, "v": 1})
        for m, (g, u) in two_gradients(by_hand, tiny.train).items():
            shapes = sizes(by_hand, m)
            d = integrated(g, u, 1.5) if rescale == "encoder" else released(g, u, 1.5, shapes)
            parts = torch.from_numpy(d).split(shapes)
            for p, part in zip(by_hand.encoders[m].parameters(), parts, strict=True):
                grads[p] = part.view_as(p)
        with torch.no_grad():
            for parameter, grad in grads.items():
                parameter -= 0.1 * grad
    for name, value in parameters(net).items():
        torch.testing.assert_close(value, parameters(by_hand)[name], rtol=1e-5, atol=1e-7)


def test_a_frozen_encoder_parameter_is_left_out():
    net, samples = network(encoder=mlp), batch()
    net.encoders["a"][0].bias.requires_grad_(False)
    take_step(MMPareto(), net, samples)
    assert net.encoders["a"][0].bias.grad is None
    assert net.encoders["a"][0].weight.grad.abs().sum() > 0


def test_with_encoders_and_heads_frozen_the_fusion_learns_as_in_joint_training():
    net, samples, grads = network(encoder=mlp), batch(), []
    net.encoders.requires_grad_(False)
    net.heads.requires_grad_(False)
    for balancer in (MMPareto(), Joint()):
        net.zero_grad()
        take_step(balancer, net, samples)
        grads.append([p.grad for p in net.fusion.parameters()])
        assert all(p.grad is None for p in (*net.encoders.parameters(), *net.heads.parameters()))
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_two_tasks_that_share_an_encoder_are_integrated_in_it_alone():
    """A hard task (10 × noise) and an easy one on one encoder; heads get their plain gradients."""
    torch.manual_seed(0)
    body, easy, hard = (
        nn.Linear(*shape, dtype=torch.float64) for shape in ((3, 4), (4, 2), (4, 1))
    )
    x = torch.randn(8, 3, dtype=torch.float64)
    label, number = torch.arange(8) % 2, 10 * torch.randn(8, 1, dtype=torch.float64)
    found = set()
    for flip in (1, -1):
        with torch.no_grad():
            hard.weight.copy_(flip * hard.weight)
        features = body(x)
        losses = (F.cross_entropy(easy(features), label), F.l1_loss(hard(features), number))
        shared = list(body.parameters())
        g, u = (
            torch.cat([t.reshape(-1) for t in torch.autograd.grad(loss, shared, retain_graph=True)])
            for loss in losses
        )
        found.add(bool(g @ u < 0))
        heads = [*easy.parameters(), *hard.parameters()]
        plain = torch.autograd.grad(sum(losses), heads, retain_graph=True)
        for parameter in (*shared, *heads):
            parameter.grad = torch.ones_like(parameter)
        integrate_tasks(losses, shared, gamma=1.5)
        d = torch.cat([p.grad.reshape(-1) - 1 for p in shared]).numpy()
        np.testing.assert_allclose(d, integrated(g.numpy(), u.numpy(), 1.5), rtol=1e-6, atol=1e-8)
        for parameter, grad in zip(heads, plain, strict=True):
            torch.testing.assert_close(parameter.grad, grad + 1)
    assert found == {True, False}


def test_two_tasks_fill_empty_gradients_too_and_three_are_refused():
    body = nn.Linear(2, 1)
    out = body(torch.ones(1, 2)).sum()
    integrate_tasks((out, 2 * out), list(body.parameters()), gamma=1.0)
    torch.testing.assert_close(body.weight.grad, torch.full((1, 2), 3.0))
    with pytest.raises(ValueError, match="3 losses"):
        integrate_tasks((out, out, out), list(body.parameters()))
    with pytest.raises(ValueError, match="0 shared parameters"):
        integrate_tasks((out, out), [])


@pytest.mark.parametrize("options", [{"gamma": 0}, {"gamma": -1.5}, {"rescale": "layer"}])
def test_arguments_out_of_range_are_refused(options):
    value = next(iter(options.values()))
    with pytest.raises(ValueError, match=str(value)):
        MMPareto(**options)


def test_it_differs_from_joint_training_and_from_the_uniform_sum():
    net, samples = two_way({"a": -1, "v": -1}), batch()
    grads = []
    for balancer in (MMPareto(), Joint(), Uniform(), Uniform(encoder_scale=1.5)):
        net.zero_grad()
        take_step(balancer, net, samples)
        grads.append(encoder_gradient(net, "a"))
    for other in grads[1:]:
        assert np.linalg.norm(grads[0] - other) > 0.1 * np.linalg.norm(grads[0])


@pytest.mark.parametrize("turn", [-1, 1])
def test_a_forward_pass_that_was_made_before_gives_the_same_gradients(turn):
    digits, grads = load("av-digits", seed=0), []
    for early in (False, True):
        net = MultimodalNet.build(digits, seed=3)
        with torch.no_grad():
            for head in net.heads.values():
                head.weight.mul_(turn)
        step = Step(net, digits.train[:32])
        if early:
            _ = step.out  # as a balancer does that looks at the features first
        next(MMPareto().step(step))
        grads.append([p.grad for p in net.parameters()])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def views(**encoders: nn.Module) -> MultimodalNet:
    """A network that reads each input twice, with its own Output."""

    class Views(MultimodalNet):
        def forward(self, inputs):
            h = {m: self.encode(m, x) + self.encode(m, -x) for m, x in inputs.items()}
            unimodal = {m: self.heads[m](x) for m, x in h.items()}
            return Output(h, self.fusion(h), unimodal, self.fusion)

    heads = {m: nn.Linear(30, 2) for m in "ab"}
    return Views(encoders, Concat({"a": 30, "b": 30}, 2), heads)


UNUSUAL = {
    "overwritten outputs": {
        m: nn.Sequential(nn.Linear(30, 30), nn.ReLU(inplace=True), nn.Linear(30, 30)) for m in "ab"
    },
    "two calls": {m: nn.Sequential(nn.Linear(30, 30), nn.Tanh()) for m in "ab"},
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_linear_encoders_get_the_gradient_of_their_parameters(kind):
    draw = torch.Generator().manual_seed(0)
    batch = Batch(
        {m: torch.randn(8, 30, generator=draw) for m in "ab"},
        torch.randint(2, (8,), generator=draw),
    )
    net = views(**UNUSUAL[kind])
    if kind != "two calls":
        net = MultimodalNet(net.encoders, net.fusion, net.heads)
    s = Step(net, batch)
    g, u = (s.grad(s.losses[key], "a") for key in ("joint", "a"))
    expected = pareto_gradient(*(torch.cat([x.flatten() for x in grads]) for grads in (g, u)))
    next(MMPareto().step(Step(net, batch)))
    found = torch.cat([p.grad.flatten() for p in net.encoders["a"].parameters()])
    torch.testing.assert_close(found, expected)


class Guided(MultimodalNet):
    """The features of b are weighed by those of a."""

    def forward(self, inputs):
        a = self.encode("a", inputs["a"])
        h = {"a": a, "b": self.encode("b", inputs["b"]) * a.sigmoid()}
        unimodal = {m: self.heads[m](x) for m, x in h.items()}
        return Output(h, self.fusion(h), unimodal, self.fusion)


class Early(MultimodalNet):
    """The fusion reads what goes into the last layer of each encoder; the heads its output."""

    def forward(self, inputs):
        early = {m: self.encoders[m][:-1](x) for m, x in inputs.items()}
        h = {m: self.encoders[m][-1](x) for m, x in early.items()}
        unimodal = {m: self.heads[m](x) for m, x in h.items()}
        return Output(h, self.fusion(early), unimodal, self.fusion)


def normalised() -> nn.Module:
    layers = (nn.Linear(30, 30), nn.GroupNorm(2, 30), nn.Tanh(), nn.Linear(30, 30))
    return nn.Sequential(*layers).double()


def assert_integrated(net, batch, *modalities):
    """Every encoder has the `pareto_gradient` of its two losses' gradients, the joint and its own.

    A parameter of several encoders has the sum of theirs.
    """
    s, expected = Step(net, batch), {}
    for m in modalities or net.modalities:
        own = [p for p in net.encoders[m].parameters() if p.requires_grad]
        both = s.losses["joint"], s.losses[m]
        flat = [torch.cat([x.flatten() for x in s.grad(loss, m)]) for loss in both]
        parts = pareto_gradient(*flat).split([p.numel() for p in own])
        for p, part in zip(own, parts, strict=True):
            expected[p] = expected.get(p, 0) + part.view_as(p)
    next(MMPareto().step(Step(net, batch)))
    for p, d in expected.items():
        torch.testing.assert_close(p.grad, d)


def random_batch(size=8):
    draw = torch.Generator().manual_seed(0)
    inputs = {m: torch.randn(size, 30, generator=draw, dtype=torch.float64) for m in "ab"}
    return Batch(inputs, torch.randint(2, (size,), generator=draw))


@pytest.mark.parametrize("encoder", [normalised, lambda: normalised()[::3]])
@pytest.mark.parametrize("kind", [Guided, Early])
def test_a_forward_pass_of_ones_own_may_leave_encoders_by_another_way(kind, encoder):
    torch.manual_seed(0)
    heads = {m: nn.Linear(30, 2) for m in "ab"}
    fusion = Concat({"a": 30, "b": 30}, 2)
    net = kind({m: encoder() for m in "ab"}, fusion, heads).double()
    assert_integrated(net, random_batch())


class InPlace(MultimodalNet):
    """What the last layer gave is overwritten, and with it what its output's gradient would be."""

    def forward(self, inputs):
        h = {m: F.relu(self.encoders[m](x), inplace=True) for m, x in inputs.items()}
        unimodal = {m: self.heads[m](x) for m, x in h.items()}
        return Output(h, self.fusion(h), unimodal, self.fusion)


class Frozen(MultimodalNet):
    """Encoder b runs without a graph, though its parameters could be trained."""

    def forward(self, inputs):
        with torch.no_grad():
            b = self.encoders["b"](inputs["b"])
        h = {"a": self.encoders["a"](inputs["a"]), "b": b}
        unimodal = {m: self.heads[m](x) for m, x in h.items()}
        return Output(h, self.fusion(h), unimodal, self.fusion)


@pytest.mark.parametrize("kind", [InPlace, Frozen])
def test_a_forward_pass_of_ones_own_may_cut_or_overwrite_what_an_encoder_gave(kind):
    torch.manual_seed(0)
    encoders = {m: nn.Sequential(nn.Linear(30, 30), nn.Tanh(), nn.Linear(30, 30)) for m in "ab"}
    heads = {m: nn.Linear(30, 2) for m in "ab"}
    net = kind(encoders, Concat({"a": 30, "b": 30}, 2), heads).double()
    assert_integrated(net, random_batch(), "a")
    if kind is Frozen:
        assert all(not p.grad.any() for p in net.encoders["b"].parameters())


class Shift(nn.Module):
    """Of one sample, autograd gives both parameters one gradient in one memory."""

    def __init__(self):
        super().__init__()
        self.one, self.two = (nn.Parameter(torch.randn(30)) for _ in range(2))

    def forward(self, x):
        return x + self.one[None] + self.two[None]


@pytest.mark.parametrize("kind", [MultimodalNet, Guided])
def test_gradients_in_one_memory_are_combined_once(kind):
    torch.manual_seed(0)
    heads = {m: nn.Linear(30, 2) for m in "ab"}
    encoders = {m: nn.Sequential(normalised(), Shift()) for m in "ab"}
    net = kind(encoders, Concat({"a": 30, "b": 30}, 2), heads).double()
    assert_integrated(net, random_batch(1))


def test_encoders_that_share_a_weight_have_no_gradients_to_integrate():
    encoders = {"a": nn.Linear(30, 30), "b": nn.Sequential(nn.Linear(30, 30), nn.Identity())}
    encoders["b"][0].weight = encoders["a"].weight
    heads = {m: nn.Linear(30, 2) for m in "ab"}
    net = MultimodalNet(encoders, Concat({"a": 30, "b": 30}, 2), heads).double()
    with pytest.raises(ValueError, match="encoder 'a' shares parameters"):
        next(MMPareto().step(Step(net, random_batch())))


def joined(step, m, key):
    return torch.cat([x.flatten() for x in step.grad(step.losses[key], m)])


@pytest.mark.parametrize("encoder", [mlp, convolution])
@pytest.mark.parametrize("gamma_on_aligned", [True, False])
def test_the_step_is_the_pareto_gradient(encoder, gamma_on_aligned):
    """What is taught is what trains."""
    net, samples = network("avt", encoder=encoder, seed=1), batch("avt")
    step = Step(net, samples)
    pairs = {m: (joined(step, m, "joint"), joined(step, m, m)) for m in "avt"}
    assert len({bool(g @ u < 0) for g, u in pairs.values()}) == 2
    take_step(MMPareto(gamma=2.0, gamma_on_aligned=gamma_on_aligned), net, samples)
    for m, (g, u) in pairs.items():
        expected = pareto_gradient(g, u, gamma=2.0, gamma_on_aligned=gamma_on_aligned)
        np.testing.assert_allclose(encoder_gradient(net, m), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("encoder", [mlp, convolution])
@pytest.mark.parametrize(
    ("rescale", "rule"), [("encoder", "pareto_weights"), ("tensor", "released_weights")]
)
def test_the_balancer_trains_by_the_rule_that_is_taught(encoder, rescale, rule, monkeypatch):
    """Another rule in its place, and the step is another: here the uniform sum."""
    asked = []

    def ones(gram, gamma, *, gamma_on_aligned):
        asked.append((gamma, gamma_on_aligned))
        return torch.ones_like(gram[..., 0])

    monkeypatch.setattr(mmpareto, rule, ones)
    net, other, samples = network(encoder=encoder), network(encoder=encoder), batch()
    take_step(MMPareto(gamma=2.0, gamma_on_aligned=False, rescale=rescale), net, samples)
    take_step(Uniform(), other, samples)
    for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    assert set(asked) == {(2.0, False)}


def test_gradients_that_stood_there_are_added_to():
    net, other, samples = network(), network(), batch()
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    take_step(MMPareto(), net, samples)
    take_step(MMPareto(), other, samples)
    for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad + 1)


def test_a_loss_that_is_no_number_shows_in_every_encoder():
    net, samples = network(), batch()
    samples.inputs["a"][0, 0] = torch.nan
    step = take_step(MMPareto(), net, samples)
    assert np.isnan(encoder_gradient(net, "a")).all()
    assert np.isnan(encoder_gradient(net, "v")).all()  # the joint loss is NaN
    assert step.logged["cosine", "a"].isnan()
