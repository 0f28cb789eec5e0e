"""A step's losses and gradients are those written out by hand, and it moves nothing else."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmlab.balancers import OGM, Joint, Step, Uniform
from mmlab.datasets import Batch
from mmlab.evaluation import gradient_conflict
from mmlab.models import Concat, Gated, LazyLogits, MultimodalNet, Output

MASK = torch.tensor([True, False, True, True, False, True])


def make_net(*layers, outputs=3, fusion=Concat, seed=0):
    """Two linear encoders, 3 -> 4, with `layers` after them, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoders = {m: nn.Sequential(nn.Linear(3, 4), *copy.deepcopy(layers)) for m in "ab"}
        heads = {m: nn.Linear(4, outputs) for m in "ab"}
        return MultimodalNet(encoders, fusion({"a": 4, "b": 4}, outputs), heads).double()


def make_batch(present=None, regression=False):
    draw = torch.Generator().manual_seed(5)
    inputs = {m: torch.randn(6, 3, generator=draw, dtype=torch.float64) for m in "ab"}
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    target = torch.randn(6, generator=draw, dtype=torch.float64) if regression else labels
    return Batch(inputs, target, present)


def make_step(*layers, optimizer=None, **batch):
    net = make_net(*layers)
    return Step(net, make_batch(**batch), optimizer and optimizer(net.parameters()))


def encoder_grads(step, m):
    return [p.grad.clone() for p in step.model.encoders[m].parameters()]


def assert_equal(one, other, **tolerance):
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


# Losses


def test_losses_are_the_means_over_all_samples():
    s = make_step()
    out, target = s.model(s.batch.inputs), s.batch.target
    assert list(s.losses) == ["joint", "a", "b"] and len(s.losses) == 3
    torch.testing.assert_close(s.losses["joint"], F.cross_entropy(out.joint, target))
    for m in "ab":
        torch.testing.assert_close(s.losses[m], F.cross_entropy(out.unimodal[m], target))


def test_a_unimodal_loss_is_the_mean_over_the_samples_that_have_the_modality():
    present = {"a": MASK, "b": torch.ones(6, dtype=torch.bool)}
    s = make_step(present=present)
    known = F.cross_entropy(s.out.unimodal["a"][MASK], s.batch.target[MASK])
    torch.testing.assert_close(s.losses["a"], known)
    assert not torch.isclose(s.losses["a"], F.cross_entropy(s.out.unimodal["a"], s.batch.target))
    torch.testing.assert_close(
        s.losses["joint"], F.cross_entropy(s.out.joint, s.batch.target)
    )  # over all samples


def test_a_modality_that_no_sample_has_costs_nothing_and_teaches_nothing():
    present = {"a": torch.zeros(6, dtype=torch.bool), "b": torch.ones(6, dtype=torch.bool)}
    s = make_step(present=present)
    assert s.losses["a"] == 0
    assert all(g.eq(0).all() for g in s.grad(s.losses["a"], "a"))


def test_regression_compares_number_with_number():
    net = make_net(outputs=1)
    s = Step(net, make_batch(regression=True))
    expected = sum(
        abs(p - t) for p, t in zip(s.out.joint[:, 0].tolist(), s.batch.target.tolist(), strict=True)
    )
    assert s.losses["joint"].item() == pytest.approx(expected / 6)


def test_a_loss_of_ones_own_takes_the_masks_too():
    def double(prediction, target, reduction="mean"):
        return 2 * F.cross_entropy(prediction, target, reduction=reduction)

    present = dict.fromkeys("ab", MASK)
    plain, doubled = (Step(make_net(), make_batch(present), loss=x) for x in (None, double))
    for key in plain.losses:
        torch.testing.assert_close(doubled.losses[key], 2 * plain.losses[key])


def test_an_unknown_loss_or_modality_is_named():
    s = make_step()
    with pytest.raises(KeyError, match=r"no loss 'video'; allowed are 'joint', 'a', 'b'"):
        s.losses["video"]
    with pytest.raises(KeyError, match=r"unknown modality 'video'; this model has \['a', 'b'\]"):
        s.grad(s.losses["joint"], "video")


# Gradients


def test_grad_is_autograds_and_leaves_grad_alone():
    s = make_step()
    s.model.encoders["a"][0].weight.grad = torch.ones(4, 3, dtype=torch.float64)
    twin = make_net()
    twin_loss = F.cross_entropy(twin(s.batch.inputs).joint, s.batch.target)
    expected = torch.autograd.grad(twin_loss, list(twin.encoders["a"].parameters()))
    assert_equal(s.grad(s.losses["joint"], "a"), expected)
    assert s.model.encoders["a"][0].weight.grad.eq(1).all()
    assert all(p.grad is None for p in s.model.encoders["b"].parameters())
    assert all(g.eq(0).all() for g in s.grad(s.losses["b"], "a"))  # b's loss knows nothing of a


def test_grads_of_several_losses_come_from_one_forward_pass():
    s = make_step()
    calls = []
    s.model.encoders["a"].register_forward_hook(lambda *_: calls.append(1))
    s.grad(s.losses["joint"], "a")
    s.grad(s.losses["a"], "a")
    s.backward(s.losses["joint"])
    assert len(calls) == 1


def test_backward_adds_up():
    s = make_step()
    total = [
        g + h
        for g, h in zip(s.grad(s.losses["joint"], "a"), s.grad(s.losses["a"], "a"), strict=True)
    ]
    s.backward(s.losses["joint"])
    s.backward(s.losses["a"])
    assert_equal(encoder_grads(s, "a"), total)


def test_backward_may_stop_at_the_features():
    s, full = make_step(), make_step()
    full.backward(full.losses["joint"])
    s.backward(s.losses["joint"], encoders=False)
    assert all(p.grad is None for p in s.model.encoders.parameters())
    assert_equal(
        [p.grad for p in s.model.fusion.parameters()],
        [p.grad for p in full.model.fusion.parameters()],
    )


def test_the_gradient_of_one_encoder_is_replaced_by_that_of_a_loss():
    s, full = make_step(), make_step()
    full.backward(full.losses["joint"])
    for _ in range(2):  # replaced, not added to
        s.set_grad_from("a", s.losses["joint"])
    assert_equal(encoder_grads(s, "a"), encoder_grads(full, "a"))
    rest = [p for name, p in s.model.named_parameters() if not name.startswith("encoders.a")]
    assert all(p.grad is None for p in rest)


def test_set_and_scale_touch_one_encoder_alone():
    s = make_step()
    s.backward(s.losses["joint"])
    other, joint = encoder_grads(s, "b"), encoder_grads(s, "a")
    s.scale_grad("a", 0.25)
    assert_equal(encoder_grads(s, "a"), [0.25 * g for g in joint])
    s.scale_grad("a", [torch.tensor(2.0).double(), torch.tensor(0.0).double()])
    assert_equal(encoder_grads(s, "a"), [0.5 * joint[0], 0 * joint[1]])
    s.set_grad("a", [torch.full_like(g, 3.0) for g in joint])
    assert all(g.eq(3).all() for g in encoder_grads(s, "a"))
    assert_equal(encoder_grads(s, "b"), other, rtol=0, atol=0)


def test_scaling_what_has_no_gradient_does_nothing():
    s = make_step()
    s.scale_grad("a", 2.0)
    assert all(g.eq(0).all() for g in s.gradient("a"))


class Shift(nn.Module):
    """Of one sample, autograd gives both parameters one gradient in one memory."""

    def __init__(self):
        super().__init__()
        self.one, self.two = (nn.Parameter(torch.randn(4)) for _ in range(2))

    def forward(self, x):
        return x + self.one[None] + self.two[None]


def test_gradients_in_one_memory_are_scaled_once():
    s = make_step(Shift())
    s.batch = s.batch[:1]
    s.backward(s.losses["joint"])
    before = encoder_grads(s, "a")
    s.scale_grad("a", 0.5)
    assert_equal(encoder_grads(s, "a"), [0.5 * g for g in before])


@pytest.mark.parametrize("wrong", [lambda g: g[:1], lambda g: [g[0].T, g[1]]])
def test_a_gradient_of_other_shapes_is_refused(wrong):
    s = make_step()
    grads = s.grad(s.losses["joint"], "a")
    with pytest.raises(ValueError, match=r"for encoder 'a' has shapes .* parameters have \[\(4, 3"):
        s.set_grad("a", wrong(grads))


def test_what_is_scaled_on_its_way_back_is_the_encoders_gradient_for_one_pass():
    s = make_step(nn.ReLU(), nn.Linear(4, 4))
    s.backward(s.losses["joint"])
    plain, heads = encoder_grads(s, "a"), s.model.fusion.linear.weight.grad.clone()
    s.model.zero_grad()
    s.scale_backward("a", torch.tensor(0.25, dtype=torch.float64))
    s.backward(s.losses["joint"])
    assert_equal(encoder_grads(s, "a"), [0.25 * g for g in plain])
    assert torch.equal(s.model.fusion.linear.weight.grad, heads)
    s.model.zero_grad()
    s.backward(s.losses["joint"])
    assert_equal(encoder_grads(s, "a"), plain)


class Normalised(MultimodalNet):
    """It fuses what the encoders give, and tells of something else."""

    def forward(self, inputs):
        given = {m: self.encoders[m](x) for m, x in inputs.items()}
        features = {m: F.normalize(h, dim=-1) for m, h in given.items()}
        return Output(features, self.fusion(given), LazyLogits(self, features), self.fusion)


@pytest.mark.parametrize("balancer", [Uniform(1e-3), OGM(1e3, enhance=False)])
def test_encoders_are_scaled_whatever_way_a_forward_pass_of_ones_own_takes(balancer):
    net, batch = make_net(nn.Tanh()), make_batch()
    own = Normalised(net.encoders, net.fusion, net.heads)
    plain = Step(own, batch)
    plain.backward(
        plain.losses.stack().sum() if isinstance(balancer, Uniform) else plain.losses["joint"]
    )
    before = {m: encoder_grads(plain, m) for m in "ab"}
    own.zero_grad()
    s = Step(own, batch)
    next(balancer.step(s))
    k = s.logged.get
    for m in "ab":
        expected = 1e-3 if isinstance(balancer, Uniform) else k(("coefficient", m))
        assert_equal(encoder_grads(s, m), [expected * g for g in before[m]])


def test_an_encode_of_ones_own_is_what_the_network_does():
    class Halved(MultimodalNet):
        def encode(self, m, x):
            return super().encode(m, x) / 2

    net, batch = make_net(), make_batch()
    own = Halved(net.encoders, net.fusion, net.heads)
    torch.testing.assert_close(
        own(batch.inputs).features["a"], net.encoders["a"](batch.inputs["a"]) / 2
    )


def test_a_head_of_ones_own_is_read_by_every_loss():
    class Louder(MultimodalNet):
        def head(self, m):
            return nn.Sequential(super().head(m), nn.Tanh())

    net, batch = make_net(), make_batch()
    own = Louder(net.encoders, net.fusion, nn.Linear(4, 3).double())
    together, apart = Step(own, batch).losses.stack("a", "b"), Step(own, batch).losses
    torch.testing.assert_close(together, torch.stack([apart["a"], apart["b"]]))


def test_a_forward_pass_of_ones_own_runs_whole_where_one_encoder_is_asked_for():
    class Doubled(MultimodalNet):
        def forward(self, inputs):
            return super().forward({m: 2 * x for m, x in inputs.items()})

    net = make_net()
    s = Step(Doubled(net.encoders, net.fusion, net.heads), make_batch())
    s.only("a")
    s.backward(s.losses["a"])
    assert set(s.out.features) == {"a", "b"}
    assert all(p.grad is None for p in net.encoders["b"].parameters())


def test_noise_has_the_spread_asked_for():
    net = MultimodalNet({"a": nn.Linear(100, 400)}, Concat({"a": 400}, 2), nn.Linear(400, 2))
    draw = torch.Generator().manual_seed(0)
    s = Step(net, Batch({"a": torch.randn(4, 100)}, torch.tensor([0, 1, 0, 1])), noise=draw)
    s.backward(s.losses["joint"])
    before = encoder_grads(s, "a")
    global_state = torch.get_rng_state()
    s.add_noise("a", [torch.tensor(0.5), 0.0])
    weight, bias = (now - was for now, was in zip(encoder_grads(s, "a"), before, strict=True))
    assert weight.std().item() == pytest.approx(0.5, rel=0.02) and weight.mean().abs() < 0.01
    assert bias.eq(0).all()
    assert torch.equal(torch.get_rng_state(), global_state)


# Updates

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


def displacements(make_optimizer, k):
    """How far every parameter moves in each of three steps; k scales encoder a in the second."""
    net = make_net()
    optimizer = make_optimizer(net.parameters())
    moves = []
    for i in range(3):
        optimizer.zero_grad()
        s = Step(net, make_batch(), optimizer)
        s.backward(s.losses["joint"])
        if i == 1 and k is not None:
            s.scale_update("a", k)
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        optimizer.step()
        moves.append({name: p.detach() - before[name] for name, p in net.named_parameters()})
    return moves


FACTORS = [0.25, 3.0, 0.0, torch.tensor(0.3).double(), torch.tensor(0.5, dtype=torch.bfloat16)]


@pytest.mark.parametrize("k", FACTORS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_scale_update_is_exact_under_any_optimiser(name, k):
    plain, scaled = displacements(OPTIMIZERS[name], None), displacements(OPTIMIZERS[name], k)
    for key in plain[1]:
        factor = k if key.startswith("encoders.a") else 1
        torch.testing.assert_close(scaled[1][key], factor * plain[1][key], rtol=0, atol=1e-15)
    # The third step is an ordinary one again: the scaling is over, though gradients differ now.
    again = displacements(OPTIMIZERS[name], 1.0)
    for key in plain[2]:
        torch.testing.assert_close(again[2][key], plain[2][key], rtol=1e-9, atol=1e-12)
    key = "encoders.a.0.weight"
    assert scaled[2][key].norm() > 0.3 * plain[2][key].norm()


def test_two_encoders_are_scaled_each_by_its_own():
    net = make_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    s = Step(net, make_batch(), optimizer)
    s.backward(s.losses["joint"])
    before = {m: net.encoders[m][0].weight.detach().clone() for m in "ab"}
    s.scale_update("a", 2.0)
    s.scale_update("b", 0.5)
    optimizer.step()
    for m, k in (("a", 2.0), ("b", 0.5)):
        weight = net.encoders[m][0].weight
        torch.testing.assert_close(weight - before[m], -k * weight.grad, rtol=0, atol=1e-15)


def test_scale_update_needs_the_optimiser():
    with pytest.raises(ValueError, match=r"needs the optimiser: Step\(model, batch, optimizer\)"):
        make_step().scale_update("a", 0.5)


# Looking again


def test_again_sees_the_updated_parameters_without_a_graph():
    s = make_step(optimizer=OPTIMIZERS["sgd"])
    first = {key: s.losses[key].item() for key in s.losses}
    s.backward(s.losses["joint"])
    s.optimizer.step()
    again = s.again()
    fresh = Step(s.model, s.batch).losses
    for key in again:
        assert torch.equal(again[key], fresh[key].detach()) and again[key].item() != first[key]
        assert not again[key].requires_grad


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(4)])
def test_again_without_an_update_is_exactly_the_same(layer):
    torch.manual_seed(2)
    s = make_step(layer)
    before = {key: s.losses[key].item() for key in s.losses}
    torch.rand(7)  # what a method draws meanwhile
    assert {key: loss.item() for key, loss in s.again().items()} == before


def test_again_touches_no_statistic_and_no_random_stream():
    encoders = {m: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout()) for m in "ab"}
    net = MultimodalNet(encoders, Gated({"a": 4, "b": 4}, 3), nn.Linear(4, 3)).double()
    s = Step(net, make_batch())
    _ = s.losses["joint"]
    buffers = [b.clone() for b in net.buffers()]
    state = torch.get_rng_state()
    _ = s.again()["joint"]
    assert torch.equal(torch.get_rng_state(), state)
    assert buffers and all(map(torch.equal, buffers, net.buffers()))
    s.backward(s.losses["joint"])  # the first graph is still good


# Driving a step by hand


def test_a_step_may_run_one_encoder_alone():
    whole, s = make_step(nn.Dropout(0.5)), make_step(nn.Dropout(0.5))
    s.only("b")
    assert list(s.out.features) == ["b"] and "a" not in s.losses
    torch.manual_seed(3)
    alone = make_step(nn.Dropout(0.5))
    alone.only("b")
    before = alone.losses["b"]
    assert alone.again()["b"] == before  # the same masks
    before.backward()
    assert all(p.grad is None for p in alone.parameters("a"))
    with pytest.raises(KeyError, match="unknown modality 'c'"):
        whole.only("c")
    _ = whole.losses["b"]
    with pytest.raises(RuntimeError, match="the forward pass has run; call only"):
        whole.only("b")
    assert list(whole.model(whole.batch.inputs).features) == ["a", "b"]


def test_a_step_driven_by_hand_leaves_the_gradients():
    s = make_step()
    next(Joint().step(s))
    expected = s.grad(s.losses["joint"], "a")
    assert_equal(encoder_grads(s, "a"), expected)


def test_logged_tensors_are_detached_and_named():
    s = make_step()
    s.log(rate=0.5, ratio={"a": s.losses["a"], "b": 2})
    assert list(s.logged) == [("rate", ""), ("ratio", "a"), ("ratio", "b")]
    assert not s.logged["ratio", "a"].requires_grad


def test_a_frozen_encoder_has_an_empty_gradient_and_no_conflict():
    s = make_step()
    frozen, *others = s.modalities
    s.model.encoders[frozen].requires_grad_(False)
    assert s.grad(s.losses["joint"], frozen) == []
    assert list(gradient_conflict(s.model, s.batch)) == others


def test_what_is_frozen_from_encoder_to_head_has_a_gradient_of_zero():
    s = make_step()
    s.model.encoders["a"].requires_grad_(False)
    s.model.heads["a"].requires_grad_(False)
    wanted = s.parameters("b")
    for grads in (s.grad(s.losses["a"], "b"), s.grads(s.losses["a"], wanted)):
        assert_equal(grads, [torch.zeros_like(p) for p in wanted], rtol=0, atol=0)
    assert s.grad(s.losses["a"], "a") == []
    s.set_grad_from("a", s.losses["joint"])
    assert all(p.grad is None for p in s.model.encoders["a"].parameters())
    s.set_grad_from("b", s.losses["joint"])
    assert all(p.grad.any() for p in wanted)
    s.set_grad_from("b", s.losses["a"])
    assert not any(p.grad.any() for p in wanted)


def test_noise_goes_only_where_a_gradient_is():
    s = make_step()
    m = s.modalities[0]
    s.backward(s.losses["joint"])
    without, *rest = s.parameters(m)
    without.grad = None
    before = [p.grad.clone() for p in rest]
    s.add_noise(m, [1.0] * (1 + len(rest)))
    assert without.grad is None
    assert all(not torch.equal(p.grad, old) for p, old in zip(rest, before, strict=True))


def test_a_shared_head_that_mixes_samples_reads_one_modality_at_a_time():
    net = make_net()
    net.heads = nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3))
    net, whole = net.double(), make_batch()
    batch = whole[:4]  # as many samples as features: the axes could be mistaken for each other
    together, apart = Step(net, batch).losses.stack("a", "b"), Step(net, batch).losses
    torch.testing.assert_close(together, torch.stack([apart["a"], apart["b"]]))


def test_again_draws_the_dropout_of_the_fusion():
    class Dropping(Concat):
        def forward(self, features):
            return F.dropout(super().forward(features), 0.5, self.training)

    s = Step(make_net(fusion=Dropping), make_batch())
    torch.testing.assert_close(s.losses["joint"].detach(), s.again()["joint"])


def test_a_scale_that_is_not_a_number_shows():
    s = make_step(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    s.backward(s.losses["joint"])
    s.scale_update("a", float("nan"))
    s.optimizer.step()
    assert all(p.isnan().all() for p in s.parameters("a"))
    assert not any(p.isnan().any() for p in s.parameters("b"))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adadelta])
def test_a_step_that_is_cut_short_leaves_no_scale_behind(optimizer):
    def interrupt(*_):
        raise KeyboardInterrupt

    s = make_step(optimizer=lambda parameters: optimizer(parameters, lr=0.5))
    s.backward(s.losses["joint"])
    s.scale_update("a", 0.1)
    hook = s.optimizer.register_step_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        s.optimizer.step()
    hook.remove()
    other = copy.deepcopy((s.model, s.optimizer))
    other[1].param_groups = [{**other[1].param_groups[0], "lr": 0.5}]
    other[1].param_groups[0]["params"] = list(other[0].parameters())
    for net, opt in ((s.model, s.optimizer), other):
        opt.zero_grad()
        again = Step(net, s.batch, opt)
        again.backward(again.losses["joint"])
        opt.step()
    assert_equal(s.model.parameters(), other[0].parameters(), rtol=0, atol=0)


def test_a_factor_keeps_the_precision_of_what_it_scales():
    moved = []
    for factor in (1.0, 0.1):
        s = make_step(optimizer=lambda parameters: torch.optim.Adadelta(parameters, lr=0.5))
        before = s.parameters("a")[0].detach().clone()
        s.backward(s.losses["joint"])
        s.scale_update("a", factor)
        s.optimizer.step()
        moved.append(s.parameters("a")[0] - before)
    torch.testing.assert_close(moved[1], 0.1 * moved[0], rtol=1e-10, atol=1e-14)


def test_a_scale_asked_for_by_a_step_that_was_never_taken_is_forgotten():
    s = make_step(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    before = [p.detach().clone() for p in s.parameters("a")]
    s.scale_update("a", 0.0)
    taken = Step(s.model, s.batch, s.optimizer)
    taken.backward(taken.losses["joint"])
    s.optimizer.step()
    assert not any(torch.equal(*pair) for pair in zip(before, s.parameters("a"), strict=True))


def test_an_update_that_is_no_multiple_of_the_rate_is_scaled_all_the_same():
    moved = []
    for factor in (1.0, 0.1):
        s = make_step(optimizer=lambda parameters: torch.optim.Rprop(parameters, lr=0.01))
        for k in (1.0, factor):
            before = s.parameters("a")[0].detach().clone()
            s = Step(s.model, s.batch, s.optimizer)
            s.backward(s.losses["joint"])
            s.scale_update("a", k)
            s.optimizer.step()
            s.optimizer.zero_grad()
        moved.append(s.parameters("a")[0] - before)
    torch.testing.assert_close(moved[1], 0.1 * moved[0])
