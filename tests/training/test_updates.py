"""The next update of an encoder is scaled exactly, whatever optimiser makes it."""

import copy

import pytest
import torch
from steps import assert_equal, make_batch, make_net, make_stack, make_step, trained
from torch.nn import functional as F

from mmlab import Step

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


def test_a_scale_that_is_not_a_number_shows():
    s = make_step(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    s.backward(s.losses["joint"])
    s.scale_update("a", float("nan"))
    s.optimizer.step()
    assert all(p.isnan().all() for p in trained(s, "a"))
    assert not any(p.isnan().any() for p in trained(s, "b"))


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


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adadelta])
def test_after_a_step_that_was_cut_short_the_next_factor_counts(optimizer):
    def interrupt(*_):
        raise KeyboardInterrupt

    s, twin = (make_step(optimizer=lambda parameters: optimizer(parameters, 0.5)) for _ in "ab")
    for x in (s, twin):
        x.backward(x.losses["joint"])
        x.scale_update("a", 0.1)
        if x is s:
            hook = s.optimizer.register_step_pre_hook(interrupt)
            with pytest.raises(KeyboardInterrupt):
                s.optimizer.step()
            hook.remove()
            s.scale_update("a", 0.1)
        x.optimizer.step()
    assert_equal(s.model.parameters(), twin.model.parameters(), rtol=0, atol=0)


def test_a_factor_keeps_the_precision_of_what_it_scales():
    moved = []
    for factor in (1.0, 0.1):
        s = make_step(optimizer=lambda parameters: torch.optim.Adadelta(parameters, lr=0.5))
        before = trained(s, "a")[0].detach().clone()
        s.backward(s.losses["joint"])
        s.scale_update("a", factor)
        s.optimizer.step()
        moved.append(trained(s, "a")[0] - before)
    torch.testing.assert_close(moved[1], 0.1 * moved[0], rtol=1e-10, atol=1e-14)


def test_a_scale_asked_for_by_a_step_that_was_never_taken_is_forgotten():
    s = make_step(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    before = [p.detach().clone() for p in trained(s, "a")]
    s.scale_update("a", 0.0)
    taken = Step(s.model, s.batch, s.optimizer)
    taken.backward(taken.losses["joint"])
    s.optimizer.step()
    assert not any(torch.equal(*pair) for pair in zip(before, trained(s, "a"), strict=True))


def test_an_update_that_is_no_multiple_of_the_rate_is_scaled_all_the_same():
    moved = []
    for factor in (1.0, 0.1):
        s = make_step(optimizer=lambda parameters: torch.optim.Rprop(parameters, lr=0.01))
        for k in (1.0, factor):
            before = trained(s, "a")[0].detach().clone()
            s = Step(s.model, s.batch, s.optimizer)
            s.backward(s.losses["joint"])
            s.scale_update("a", k)
            s.optimizer.step()
            s.optimizer.zero_grad()
        moved.append(trained(s, "a")[0] - before)
    torch.testing.assert_close(moved[1], 0.1 * moved[0])


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.Rprop])
def test_in_a_stack_each_network_has_its_own_factor(optimizer):
    moved, k = [], torch.tensor([0.0, 0.5, 3.0], dtype=torch.float64)
    for factor in (None, k):
        _, _, s = make_stack()
        s.optimizer = optimizer(s.model.parameters(), lr=0.01)
        before = [p.detach().clone() for p in s.model.parameters()]
        s.backward(s.losses["joint"])
        if factor is not None:
            s.scale_update("a", factor)
        s.optimizer.step()
        own = {*trained(s, "a")}
        moved.append([p - old for p, old in zip(s.model.parameters(), before, strict=True)])
    for p, plain, scaled in zip(s.model.parameters(), *moved, strict=True):
        factors = k.view(-1, *[1] * (plain.ndim - 1)) if p in own else 1
        torch.testing.assert_close(scaled, factors * plain, rtol=1e-9, atol=1e-15)


def test_factors_for_one_encoder_multiply_and_a_frozen_one_has_nothing_to_scale():
    s = make_step(optimizer=OPTIMIZERS["sgd"])
    for p in s.model.encoders["b"].parameters():
        p.requires_grad_(False)
    before = trained(s, "a")[0].detach().clone()
    s.backward(s.losses["joint"])
    for k in (0.5, 3.0):
        s.scale_update("a", k)
    s.scale_update("b", 0.0)
    s.optimizer.step()
    weight = trained(s, "a")[0]
    torch.testing.assert_close(weight - before, -0.1 * 1.5 * weight.grad, rtol=0, atol=1e-15)


def test_each_group_keeps_its_own_rate():
    moves = []
    for k in (None, 0.25):
        net = make_net()
        groups = [{"params": part.parameters()} for part in (net.encoders["b"], net.fusion)]
        groups.append({"params": net.encoders["a"].parameters(), "lr": 0.3})
        optimizer = torch.optim.SGD(groups, lr=0.1)
        optimizer.param_groups[1]["lr"] = 0.7  # as a schedule does
        moves.append(step_scaled(optimizer, net, k))
    for key, plain in moves[0].items():
        factor = 0.25 if key.startswith("encoders.a") else 1
        torch.testing.assert_close(moves[1][key], factor * plain, rtol=0, atol=1e-15)


class Bounded(torch.optim.SGD):
    """No entry moves by more than 0.01, whatever the rate. torch calls hooks for both steps."""

    def step(self, closure=None):
        parameters = [p for group in self.param_groups for p in group["params"]]
        before = [p.detach().clone() for p in parameters]
        super().step(closure)
        for p, old in zip(parameters, before, strict=True):
            p.data.copy_(old + (p.data - old).clamp(-0.01, 0.01))


def test_a_subclass_may_use_the_rate_otherwise_than_its_base():
    torch.optim.SGD(make_net().parameters(), lr=0.1)  # from here on the base's step calls hooks
    nets = [make_net(), make_net()]
    optimizers = [Bounded(net.parameters(), lr=10.0) for net in nets]
    for _ in range(2):
        plain, scaled = map(step_scaled, optimizers, nets, (None, 0.25))
        assert plain["encoders.a.0.weight"].abs().max() == pytest.approx(0.01)
        for key, move in scaled.items():
            k = 0.25 if key.startswith("encoders.a") else 1
            torch.testing.assert_close(move, k * plain[key], rtol=1e-9, atol=1e-15)
        nets[1].load_state_dict(nets[0].state_dict())


def test_a_step_that_is_cut_short_within_another_leaves_no_scale_behind():
    torch.optim.SGD(make_net().parameters(), lr=0.1)
    nets, calls = [make_net(), make_net()], []
    cut, plain = (Bounded(net.parameters(), lr=10.0) for net in nets)

    def interrupt(*_):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    s = Step(nets[0], make_batch(), cut)
    s.backward(s.losses["joint"])
    s.scale_update("a", 0.5)
    hook = cut.register_step_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        cut.step()
    hook.remove()
    moves, expected = step_scaled(cut, nets[0], 0.25), step_scaled(plain, nets[1], 0.25)
    for key, move in moves.items():
        assert torch.equal(move, expected[key])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_of_two_updates_in_one_step_the_next_one_alone_is_scaled(name):
    net, twin = make_net(), make_net()
    start = copy.deepcopy(net.encoders["a"].state_dict())
    scaled, plain = (OPTIMIZERS[name](x.parameters()) for x in (net, twin))
    s = Step(net, make_batch(), scaled)
    for first in (True, False):
        for x, optimizer in ((net, scaled), (twin, plain)):
            optimizer.zero_grad()
            F.cross_entropy(x(s.batch.inputs).joint, s.batch.target).backward()
            if first and x is net:
                s.scale_update("a", 0.0)
            optimizer.step()
        if first:
            twin.encoders["a"].load_state_dict(start)
    assert_equal(net.parameters(), twin.parameters(), rtol=0, atol=1e-15)


# Hooks of others see the real groups


def step_scaled(optimizer, net, k=0.5):
    """One update in which encoder a moves k times as far; gives how far each parameter moved."""
    optimizer.zero_grad()
    s = Step(net, make_batch(), optimizer)
    s.backward(s.losses["joint"])
    if k is not None:
        s.scale_update("a", k)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer.step()
    return {name: p.detach() - before[name] for name, p in net.named_parameters()}


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_schedule_in_a_hook_sets_the_real_rate(name, early):
    net = make_net()
    optimizer = OPTIMIZERS[name](net.parameters())
    rate = optimizer.param_groups[0]["lr"]
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    if not early:  # than our own hooks
        step_scaled(optimizer, net)
    optimizer.register_step_post_hook(lambda *_: schedule.step())
    for i in range(3):
        step_scaled(optimizer, net)
        assert optimizer.param_groups[0]["lr"] == rate * 0.5 ** (i + 1)
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("early", [True, False])
def test_hooks_before_and_after_a_step_see_the_real_groups(early):
    net, seen = make_net(), []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    real = optimizer.param_groups
    if not early:
        step_scaled(optimizer, net)
    optimizer.register_step_pre_hook(lambda o, *_: seen.append(o.param_groups is real))
    optimizer.register_step_post_hook(lambda o, *_: seen.append(o.param_groups is real))
    step_scaled(optimizer, net)
    assert seen == [True, True]


def test_what_a_hook_does_to_gradients_and_rates_is_scaled_exactly():
    """The reference: the same hooks, no scaling, and the update of encoder a times k by hand."""

    def hooked(optimizer):
        def clip(o, *_):
            for group in o.param_groups:
                group["lr"] *= 0.7
                torch.nn.utils.clip_grad_norm_(group["params"], 0.01)

        optimizer.register_step_pre_hook(clip)
        return optimizer

    nets = [make_net(), make_net()]
    scaled, plain = (hooked(torch.optim.SGD(net.parameters(), lr=0.1)) for net in nets)
    for _ in range(2):
        moves = step_scaled(scaled, nets[0], 0.25)
        expected = step_scaled(plain, nets[1], None)
        for key, move in moves.items():
            k = 0.25 if key.startswith("encoders.a") else 1
            torch.testing.assert_close(move, k * expected[key], rtol=1e-12, atol=1e-15)
        nets[1].load_state_dict(nets[0].state_dict())
