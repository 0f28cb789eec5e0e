"""A step's gradients are those of autograd, it changes what it says, and it moves nothing else."""

from functools import partial

import pytest
import torch
from steps import (
    EVERYONE,
    MASK,
    NOBODY,
    assert_equal,
    encoder_grads,
    gradients,
    make_batch,
    make_net,
    make_stack,
    make_step,
    trained,
)
from torch import nn
from torch.nn import functional as F

from mmlab import Step
from mmlab.balancers import OGM, Joint, Uniform
from mmlab.datasets import Batch
from mmlab.evaluation import gradient_conflict
from mmlab.models import FUSIONS, Concat, Gated, LazyLogits, MultimodalNet, Output, UnstackableError
from mmlab.seeds import Draws
from mmlab.training.step import Parameters

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
        s.set_grad("a", s.grad(s.losses["joint"], "a"))
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
    s.backward(s.losses["b"])
    s.scale_grad("a", 2.0)
    assert all(g.eq(0).all() for g in s.stored_grad("a"))


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
    s.backward(s.losses["joint"], scale=torch.tensor([0.25, 1.0], dtype=torch.float64))
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


def test_a_forward_pass_of_ones_own_runs_whole_where_one_encoder_is_asked_for():
    class Doubled(MultimodalNet):
        def forward(self, inputs):
            return super().forward({m: 2 * x for m, x in inputs.items()})

    net = make_net()
    s = Step(Doubled(net.encoders, net.fusion, net.heads), make_batch())
    s.backward(s.losses["a"])
    assert set(s.out.features) == {"a", "b"}
    assert all(p.grad is None for p in net.encoders["b"].parameters())


def test_noise_has_the_spread_asked_for():
    net = MultimodalNet({"a": nn.Linear(100, 400)}, Concat({"a": 400}, 2), nn.Linear(400, 2))
    draw = torch.Generator().manual_seed(0)
    s = Step(
        net,
        Batch({"a": torch.randn(4, 100)}, torch.tensor([0, 1, 0, 1])),
        draws=Draws(lambda kind: draw),
    )
    s.backward(s.losses["joint"])
    before = encoder_grads(s, "a")
    global_state = torch.get_rng_state()
    s.add_noise("a", [torch.tensor(0.5), 0.0])
    weight, bias = (now - was for now, was in zip(encoder_grads(s, "a"), before, strict=True))
    assert weight.std().item() == pytest.approx(0.5, rel=0.02) and weight.mean().abs() < 0.01
    assert bias.eq(0).all()
    assert torch.equal(torch.get_rng_state(), global_state)


# Looking again


def test_losses_again_sees_the_updated_parameters_without_a_graph():
    s = make_step(optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9))
    first = {key: s.losses[key].item() for key in s.losses}
    s.backward(s.losses["joint"])
    s.optimizer.step()
    again = s.losses_again()
    fresh = Step(s.model, s.batch).losses
    for key in again:
        assert torch.equal(again[key], fresh[key].detach()) and again[key].item() != first[key]
        assert not again[key].requires_grad


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(4)])
def test_losses_again_without_an_update_is_exactly_the_same(layer):
    torch.manual_seed(2)
    s = make_step(layer)
    before = {key: s.losses[key].item() for key in s.losses}
    torch.rand(7)  # what a method draws meanwhile
    assert {key: loss.item() for key, loss in s.losses_again().items()} == before


def test_losses_again_touches_no_statistic_and_no_random_stream():
    encoders = {m: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout()) for m in "ab"}
    net = MultimodalNet(encoders, Gated({"a": 4, "b": 4}, 3), nn.Linear(4, 3)).double()
    s = Step(net, make_batch())
    _ = s.losses["joint"]
    buffers = [b.clone() for b in net.buffers()]
    state = torch.get_rng_state()
    _ = s.losses_again()["joint"]
    assert torch.equal(torch.get_rng_state(), state)
    assert buffers and all(map(torch.equal, buffers, net.buffers()))
    s.backward(s.losses["joint"])  # the first graph is still good


def test_a_pass_has_its_graph_whoever_reads_it_first_and_losses_again_keep_none():
    net = make_net()
    s = Step(Normalised(net.encoders, net.fusion, net.heads), make_batch())
    with torch.no_grad():
        assert all(h.requires_grad for h in s.out.features.values())
    plain = make_step()
    _ = plain.losses["joint"]
    for again in (s.losses_again(), plain.losses_again()):
        _ = again["joint"]
        assert not any(h.requires_grad for h in again.out.features.values())
        assert not again.out.joint.requires_grad


def test_losses_again_of_a_forward_pass_of_ones_own():
    net = make_net(nn.Dropout(0.5))
    s = Step(Normalised(net.encoders, net.fusion, net.heads), make_batch())
    before = {key: s.losses[key].item() for key in s.losses}
    assert {key: loss.item() for key, loss in s.losses_again().items()} == before


def test_losses_again_comes_back_from_the_random_numbers_of_a_pass_that_failed():
    s = make_step(nn.Dropout(0.5))
    _ = s.losses["a"]
    state = torch.get_rng_state()
    s.batch.inputs["a"] = torch.zeros(6, 5, dtype=torch.float64)
    torch.rand(3)
    after = torch.get_rng_state()
    with pytest.raises(RuntimeError):
        s.losses_again()
    assert torch.equal(torch.get_rng_state(), after) and not torch.equal(state, after)


def test_losses_again_puts_the_statistics_back_where_a_pass_fails():
    s = make_step(nn.BatchNorm1d(4))
    _ = s.losses["a"], s.losses["b"]
    held = [b.clone() for b in s.model.buffers()]
    s.batch.inputs["b"] = torch.zeros(6, 5, dtype=torch.float64)
    with pytest.raises(RuntimeError):
        s.losses_again()
    assert all(map(torch.equal, held, s.model.buffers()))


# Driving a step by hand


def test_a_step_may_run_one_encoder_alone():
    torch.manual_seed(3)
    alone = make_step(nn.Dropout(0.5))
    before = alone.losses["b"]
    assert list(alone.out.features.computed) == ["b"]
    again = alone.losses_again()
    assert again["b"] == before  # the same masks
    assert list(again.out.features) == ["b"] and not again.out.fused
    assert list(again) == ["b"] and len(again) == 1
    with pytest.raises(KeyError, match="no loss 'joint'; allowed are 'b'"):
        again["joint"]
    with pytest.raises(KeyError, match="no loss 'a'"):
        again["a"]
    alone.backward(before)
    assert all(p.grad is None for p in alone.model.encoders["a"].parameters())
    with pytest.raises(KeyError, match="no loss 'c'"):
        alone.losses["c"]
    assert list(alone.model(alone.batch.inputs).features) == ["a", "b"]


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
    wanted = trained(s, "b")
    zeros = [torch.zeros_like(p) for p in wanted]
    assert_equal(s.grad(s.losses["a"], "b"), zeros, rtol=0, atol=0)
    assert s.grad(s.losses["a"], "a") == []
    s.set_grad("a", s.grad(s.losses["joint"], "a"))
    assert all(p.grad is None for p in s.model.encoders["a"].parameters())
    s.set_grad("b", s.grad(s.losses["joint"], "b"))
    assert all(p.grad.any() for p in wanted)
    s.set_grad("b", s.grad(s.losses["a"], "b"))
    assert not any(p.grad.any() for p in wanted)


def test_noise_goes_only_where_a_gradient_is():
    s = make_step()
    m = s.modalities[0]
    s.backward(s.losses["joint"])
    without, *rest = trained(s, m)
    without.grad = None
    before = [p.grad.clone() for p in rest]
    s.add_noise(m, [1.0] * (1 + len(rest)))
    assert without.grad is None
    assert all(not torch.equal(p.grad, old) for p, old in zip(rest, before, strict=True))


def test_losses_again_draws_the_dropout_of_the_fusion():
    class Dropping(Concat):
        def forward(self, features):
            return F.dropout(super().forward(features), 0.5, self.training)

    s = Step(make_net(fusion=Dropping), make_batch())
    torch.testing.assert_close(s.losses["joint"].detach(), s.losses_again()["joint"])


# Who is there


def test_without_masks_everybody_has_everything():
    s = make_step()
    assert s.seen.tolist() == [True, True] and s.present == ("a", "b") == s.modalities
    values = torch.randn(2, 6, dtype=torch.float64)
    torch.testing.assert_close(s.mean(values), values.mean(-1))
    torch.testing.assert_close(s.mean(values[0]), values[0].mean())
    torch.testing.assert_close(s.mean(values, of="a"), values.mean(-1))


def test_with_masks_those_count_that_have_the_modality():
    s = make_step(present={"a": MASK, "b": NOBODY})
    assert s.seen.tolist() == [True, False] and s.seen.dtype == torch.bool
    assert s.present == ("a",)
    values = torch.randn(2, 6, dtype=torch.float64)
    values[:, ~MASK] = float("nan")  # is looked at nowhere
    means = s.mean(values)
    torch.testing.assert_close(means[0], values[0][MASK].mean())
    assert means[1].isnan()
    wide = torch.randn(4, 3, 6, dtype=torch.float64)
    torch.testing.assert_close(s.mean(wide, of="a"), wide[..., MASK].mean(-1))
    torch.testing.assert_close(s.mean(wide[0, 0], of="a"), wide[0, 0][MASK].mean())
    assert s.mean(wide, of="b").isnan().all()
    torch.testing.assert_close(s.mean(wide[0, 0]), wide[0, 0].mean())  # of all samples


@pytest.mark.parametrize("shape", [(3, 6), (2, 5), (5,), (4, 2, 6), ()])
@pytest.mark.parametrize("present", [None, {"a": MASK, "b": EVERYONE}])
def test_values_of_other_shapes_are_refused(present, shape):
    s = make_step(present=present)
    allowed = r"allowed are \(…, 2, B\), one row per modality, and \(…, B\); or .* of=m\)"
    with pytest.raises(ValueError, match=allowed):
        s.mean(torch.zeros(shape))


@pytest.mark.parametrize("present", [None, {"a": MASK, "b": EVERYONE}])
def test_means_of_one_modality_need_its_name_and_its_samples(present):
    s = make_step(present=present)
    with pytest.raises(KeyError, match="unknown modality 'video'"):
        s.mean(torch.zeros(6), of="video")
    for wrong in (torch.zeros(2, 5), torch.zeros(())):
        with pytest.raises(ValueError, match="values has shape"):
            s.mean(wrong, of="a")


MASKS = [{"a": MASK, "b": EVERYONE}, {"a": NOBODY, "b": MASK}, {"a": EVERYONE, "b": ~MASK}]


def test_in_a_stack_each_network_has_its_own_means():
    nets, batches, s = make_stack(present=MASKS)
    alone = [Step(net, batch) for net, batch in zip(nets, batches, strict=True)]
    assert torch.equal(s.seen, torch.stack([x.seen for x in alone]))
    rows, wide = (torch.randn(3, *shape, dtype=torch.float64) for shape in ((2, 6), (4, 2, 6)))
    for values, of in ((rows, None), (rows[:, 0], None), (wide, "a"), (rows[:, 0], "a")):
        expected = torch.stack([x.mean(v, of=of) for x, v in zip(alone, values, strict=True)])
        torch.testing.assert_close(s.mean(values, of=of), expected, equal_nan=True)
    for wrong, of in ((rows[0], None), (rows[:2], None), (wide, None), (wide[:2], "a")):
        with pytest.raises(ValueError, match="values has shape"):
            s.mean(wrong, of=of)


def test_a_stack_that_disagrees_on_who_is_there_has_no_names():
    _, _, s = make_stack(present=MASKS)
    with pytest.raises(UnstackableError, match="train the seeds one by one"):
        _ = s.present
    _, _, same = make_stack(present=[MASKS[0]] * 3)
    assert same.present == ("a", "b")
    _, _, without = make_stack(present=[MASKS[1]] * 3)
    assert without.present == ("b",)
    _, _, whole = make_stack()
    assert whole.seen.tolist() == [[True, True]] * 3 and whole.present == ("a", "b")


def test_each_pairs_the_modalities_with_the_last_axis():
    s = make_step()
    assert {m: k.item() for m, k in s.each(torch.tensor([3.0, 4.0]))} == {"a": 3, "b": 4}
    k = torch.arange(6).view(3, 2)
    assert {m: own.tolist() for m, own in s.each(k)} == {"a": [0, 2, 4], "b": [1, 3, 5]}
    with pytest.raises(ValueError, match="zip"):
        dict(s.each(torch.zeros(3)))


# Scaled on the way back


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(
    ("scale", "factors"),
    [
        (0.25, (0.25, 0.25)),
        (2, (2, 2)),
        (torch.tensor(0.5).double(), (0.5, 0.5)),
        (torch.tensor([0.5]).double(), (0.5, 0.5)),
        (torch.tensor([0.5, 3.0]).double(), (0.5, 3.0)),
        (torch.tensor([0.0, 1.0]), (0.0, 1.0)),
    ],
)
def test_a_backward_pass_is_scaled_per_modality_and_leaves_no_hook(scale, factors, own):
    net = make_net(nn.Tanh(), nn.Linear(4, 4))
    if own:
        net = Normalised(net.encoders, net.fusion, net.heads)
    s = Step(net, make_batch())
    loss = s.losses.stack()
    expected = [gradients(loss.sum(), p.parameters()) for p in net.encoders.values()]
    rest = gradients(loss.sum(), net.fusion.parameters())
    for count in (1, 2):  # it adds
        s.backward(loss, scale=scale)
        for m, grads, k in zip("ab", expected, factors, strict=True):
            assert_equal(encoder_grads(s, m), [count * k * g for g in grads])
        assert_equal([p.grad for p in net.fusion.parameters()], [count * g for g in rest])
    net.zero_grad()
    s.backward(loss)
    for m, grads in zip("ab", expected, strict=True):
        assert_equal(encoder_grads(s, m), grads)


def test_a_frozen_encoder_has_nothing_to_scale():
    s = make_step()
    s.model.encoders["a"].requires_grad_(False)
    s.backward(s.losses["joint"], scale=torch.tensor([0.5, 0.5]))
    expected = s.grad(s.losses["joint"], "b")
    assert_equal(encoder_grads(s, "b"), [0.5 * g for g in expected])


@pytest.mark.parametrize("shape", [(3,), (6, 2), (1, 1, 2)])
def test_a_scale_of_another_shape_is_refused(shape):
    s = make_step()
    with pytest.raises(ValueError, match=r"scale has shape .* allowed are a number and \(…, 2\)"):
        s.backward(s.losses["joint"], scale=torch.ones(shape))
    assert all(p.grad is None for p in s.model.parameters())


def test_a_backward_pass_that_fails_leaves_no_hook():
    net = make_net()
    s = Step(Normalised(net.encoders, net.fusion, net.heads), make_batch())
    with pytest.raises(RuntimeError):
        s.backward(torch.tensor(1.0), scale=0.5)  # it has no graph
    assert not any(p._backward_hooks for p in net.parameters())


@pytest.mark.parametrize("shape", [(), (2,), (3, 2), (3, 1)])
def test_in_a_stack_each_network_is_scaled_by_its_own(shape):
    scale = torch.rand(shape, dtype=torch.float64)
    nets, batches, s = make_stack()
    s.backward(s.losses["joint"], scale=scale)
    each = scale.expand(3, 2)
    for r, (net, batch) in enumerate(zip(nets, batches, strict=True)):
        loss = Step(net, batch).losses["joint"]
        for i, m in enumerate("ab"):
            expected = gradients(loss, net.encoders[m].parameters())
            mine = [g[r] for g in encoder_grads(s, m)]
            assert_equal(mine, [each[r, i] * g for g in expected])


# Stored gradients


def test_only_some_parameters_are_scaled_by_their_shape():
    s = make_step(nn.Linear(4, 4))
    s.backward(s.losses["joint"])
    before = encoder_grads(s, "a")
    s.scale_grad("a", 3.0, only=lambda shape: len(shape) == 2)
    expected = [3 * g if g.ndim == 2 else g for g in before]
    assert_equal(encoder_grads(s, "a"), expected)
    s.scale_grad("a", [1.0, 2.0, torch.tensor(3.0), 4.0], only=lambda shape: shape == (4,))
    k = [1, 2, 1, 4]
    assert_equal(encoder_grads(s, "a"), [f * g for f, g in zip(k, expected, strict=True)])
    s.scale_grad("a", 7.0, only=lambda shape: False)
    assert_equal(encoder_grads(s, "a"), [f * g for f, g in zip(k, expected, strict=True)])


def test_as_many_factors_as_parameters():
    s = make_step()
    s.backward(s.losses["joint"])
    for call in (s.scale_grad, s.add_noise):
        with pytest.raises(ValueError, match=r"1 numbers for the 2 parameters of encoder"):
            call("a", [1.0])


class Twice(nn.Module):
    """Of one sample, two parameters of unlike shapes have one gradient in one memory."""

    def __init__(self):
        super().__init__()
        self.flat, self.row = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(1, 4))

    def forward(self, x):
        return x + self.flat[None] + self.row


@pytest.mark.parametrize("axes", [1, 2])
def test_a_parameter_that_is_left_out_keeps_a_gradient_that_it_shares(axes):
    s = make_step(Twice())
    s.batch = s.batch[:1]
    s.backward(s.losses["joint"])
    before = encoder_grads(s, "a")
    s.scale_grad("a", 0.5, only=lambda shape: len(shape) == axes)
    expected = [0.5 * g if g.ndim == axes else g for g in before]
    assert_equal(encoder_grads(s, "a"), expected)


def test_noise_goes_to_those_that_only_names_and_is_as_large_as_asked_for():
    s = make_step(nn.Linear(4, 4))
    s.backward(s.losses["joint"])
    before = encoder_grads(s, "a")
    torch.manual_seed(3)
    s.add_noise("a", [2.0, 0.0, torch.tensor(3.0), 0.0], only=lambda shape: len(shape) == 2)
    torch.manual_seed(3)
    drawn = torch.randn(12 + 16, dtype=torch.float64)  # for what is meant and no more
    noise = [2 * drawn[:12].view(4, 3), torch.zeros(4), 3 * drawn[12:].view(4, 4), torch.zeros(4)]
    expected = [g + n for g, n in zip(before, noise, strict=True)]
    assert_equal(encoder_grads(s, "a"), expected)
    s.add_noise("a", [1.0] * 4, only=lambda shape: False)
    assert_equal(encoder_grads(s, "a"), expected)


def test_the_spread_is_that_of_each_stored_gradient():
    s = make_step()
    s.backward(s.losses["joint"])
    expected = [g.std() + 1e-8 for g in encoder_grads(s, "a")]
    assert_equal(s.spread("a"), expected)
    s.model.encoders["b"].requires_grad_(False)
    fresh = Step(s.model, s.batch)
    assert fresh.spread("b") == []
    fresh.model.zero_grad()
    assert_equal(fresh.spread("a"), [torch.full_like(k, 1e-8) for k in expected])


def test_in_a_stack_each_network_has_its_own_spread_factor_and_noise():
    nets, batches, s = make_stack()
    alone = [Step(net, batch) for net, batch in zip(nets, batches, strict=True)]
    draws = Draws(lambda kind: [torch.Generator().manual_seed(r) for r in range(3)])
    s = Step(s.model, s.batch, draws=draws)
    k = torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64)
    s.backward(s.losses["joint"])
    spread = s.spread("a")
    s.scale_grad("a", k, only=lambda shape: shape == (4, 3))
    s.add_noise("a", spread)
    for r, one in enumerate(alone):
        one = Step(one.model, one.batch, draws=Draws(lambda kind, r=r: draw(r)))
        one.backward(one.losses["joint"])
        own = one.spread("a")
        assert_equal([x[r] for x in spread], own)
        one.scale_grad("a", k[r].item(), only=lambda shape: shape == (4, 3))
        one.add_noise("a", own)
        assert_equal([g[r] for g in encoder_grads(s, "a")], encoder_grads(one, "a"))


def draw(seed):
    return torch.Generator().manual_seed(seed)


def test_unknown_modalities_are_named_by_every_call():
    s = make_step(optimizer=partial(torch.optim.SGD, lr=0.1))
    calls = (
        s.stored_grad,
        s.spread,
        partial(s.grad, s.losses["joint"]),
        partial(s.set_grad, grads=[]),
        partial(s.scale_grad, k=1.0),
        partial(s.add_noise, std=[]),
        partial(s.scale_update, k=1.0),
    )
    for call in calls:
        with pytest.raises(KeyError, match=r"unknown modality 'video'; this model has \['a', 'b'"):
            call("video")


def test_a_gradient_that_is_set_has_no_graph_and_is_left_as_it_was_given():
    s = make_step()
    given = [torch.ones_like(p, requires_grad=True) for p in trained(s, "a")]
    s.set_grad("a", given)
    assert not any(p.grad.requires_grad for p in trained(s, "a"))
    assert_equal(s.stored_grad("a"), given)


# A second fusion


def features_of(s, mask):
    return {m: h * mask[m].unsqueeze(-1) for m, h in s.out.features.items()}


@pytest.mark.parametrize("name", FUSIONS)
def test_a_second_fusion_is_that_of_masked_features_and_moves_no_mean(name):
    net = make_net(fusion=FUSIONS[name])
    s = Step(net, make_batch())
    _ = s.out.joint
    before = [b.clone() for b in net.buffers()]
    mask = {"a": MASK, "b": ~MASK}
    stacked = torch.stack([mask["a"], mask["b"]])
    logits = [s.fuse(s.out.features), s.fuse(s.out.features, mask), s.fuse(s.out.features, stacked)]
    assert bool(before) == (name in ("film", "gated", "attention", "cosine"))  # means, or a scale
    assert_equal(list(net.buffers()), before, rtol=0, atol=0)
    torch.testing.assert_close(logits[0], s.out.joint)
    torch.testing.assert_close(logits[1], net.fusion.forward(features_of(s, mask)))
    assert torch.equal(logits[1], logits[2]) and not torch.equal(logits[0], logits[1])
    expected = gradients(F.cross_entropy(logits[1], s.batch.target), net.encoders.parameters())
    s.backward(s.losses.of("masked", logits[2]))
    assert_equal([p.grad for p in net.encoders.parameters()], expected)
    assert net.training


def test_a_second_fusion_moves_no_running_statistic():
    class Normed(Concat):
        def __init__(self, widths, n_outputs):
            super().__init__(widths, n_outputs)
            self.norm = nn.BatchNorm1d(n_outputs)

        def forward(self, features):
            return self.norm(super().forward(features))

    s = Step(make_net(fusion=Normed), make_batch())
    first = s.losses["joint"]
    before = [b.clone() for b in s.model.buffers()]
    s.backward(first + s.losses.of("masked", s.fuse(s.out.features, {"a": MASK, "b": EVERYONE})))
    assert before and all(map(torch.equal, s.model.buffers(), before))


def test_a_second_fusion_wants_every_modality():
    s = make_step()
    with pytest.raises(ValueError, match=r"built for the modalities \['a', 'b'\]"):
        s.fuse({"a": s.out.features["a"]})
    with pytest.raises(ValueError, match="zip"):
        s.fuse(s.out.features, torch.ones(3, 6, dtype=torch.bool))


def test_in_a_stack_a_mask_is_each_networks_own():
    nets, batches, s = make_stack(fusion=FUSIONS["gated"])
    mask = torch.rand(3, 2, 6) < 0.5
    logits = s.fuse(s.out.features, mask)
    for r, (net, batch) in enumerate(zip(nets, batches, strict=True)):
        one = Step(net, batch)
        torch.testing.assert_close(logits[r], one.fuse(one.out.features, mask[r]))


# Random numbers


def test_random_numbers_come_from_the_streams_of_the_run():
    def source(kind):
        return torch.Generator().manual_seed({"uniforms": 1, "permutations": 2}[kind])

    batch = make_batch()
    one, again = (Step(make_net(), batch, draws=Draws(source)) for _ in range(2))
    state = torch.get_rng_state()
    coins = [one.bernoulli(0.3, (2, 6)) for _ in range(2)]
    uniform = torch.rand(2, 6, generator=draw(1), dtype=torch.float64)
    assert coins[0].dtype == torch.bool and torch.equal(coins[0], uniform < 0.3)
    assert torch.equal(again.bernoulli(0.3, (2, 6)), coins[0])
    assert not torch.equal(coins[0], coins[1])
    orders = [one.permutation(40) for _ in range(2)]
    assert torch.equal(orders[0], torch.randperm(40, generator=draw(2)))
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_probability_broadcasts():
    p = torch.tensor([[0.0], [1.0]])
    assert make_step().bernoulli(p, (2, 5)).tolist() == [[False] * 5, [True] * 5]
    share = make_step().bernoulli(0.3, (10_000,)).double().mean().item()
    assert share == pytest.approx(0.3, abs=0.03)


def test_in_a_stack_each_network_draws_its_own_numbers():
    nets, batches, s = make_stack()

    def stacked():
        return Draws(lambda kind: [draw(r) for r in range(3)])

    s = Step(s.model, s.batch, draws=stacked())
    coins, orders = s.bernoulli(0.5, (2, 6)), s.permutation(10)
    assert coins.shape == (3, 2, 6) and orders.shape == (3, 10)
    for r, (net, batch) in enumerate(zip(nets, batches, strict=True)):
        one = Step(net, batch, draws=Draws(lambda kind, r=r: draw(r)))
        assert torch.equal(coins[r], one.bernoulli(0.5, (2, 6)))
        assert torch.equal(orders[r], one.permutation(10))


# Parameters by part


def test_parameters_by_part_are_the_trained_ones_and_those_of_the_method():
    net, own = make_net(), nn.Linear(2, 2)
    net.encoders["a"][0].bias.requires_grad_(False)
    net.fusion.linear.bias.requires_grad_(False)
    own.bias.requires_grad_(False)
    parts = Parameters(net, own)
    assert parts.encoders == {
        "a": [net.encoders["a"][0].weight],
        "b": list(net.encoders["b"].parameters()),
    }
    others = {net.fusion.linear.weight, own.weight, *net.heads.parameters()}
    assert len(parts.others) == len(others) and {*parts.others} == others


def test_the_parameters_of_a_method_learn_where_the_encoders_do_not():
    net, own = make_net(), nn.Linear(4, 3).double()
    s = Step(net, make_batch(), parameters=Parameters(net, own))
    loss = F.cross_entropy(own(s.out.features["a"]), s.batch.target) + s.losses["joint"]
    expected = gradients(loss, own.parameters())
    s.backward(loss, encoders=False)
    assert_equal([p.grad for p in own.parameters()], expected)
    assert all(p.grad is None for p in net.encoders.parameters())


def test_which_encoders_have_their_parameters_not_for_themselves():
    assert not Parameters(make_net()).shared
    assert not Parameters(make_net(fusion=FUSIONS["late"]), nn.Linear(2, 2)).shared
    tied, reread, owned = make_net(), make_net(), make_net()
    tied.encoders["a"][0].weight = tied.encoders["b"][0].weight
    reread.heads["a"].bias = reread.encoders["b"][0].bias
    assert Parameters(tied).shared == {"a", "b"} and Parameters(reread).shared == {"b"}
    assert Parameters(owned, owned.encoders["a"]).shared == {"a"}


def test_a_gradient_that_is_set_stays_the_givers():
    s = make_step()
    s.backward(s.losses["joint"])
    given = [torch.ones_like(g) for g in s.stored_grad("a")]
    s.set_grad("a", given)
    s.set_grad("b", given)
    s.scale_grad("a", 0.0)
    assert all(g.eq(1).all() for g in (*given, *s.stored_grad("b")))


def test_losses_again_spare_what_the_heads_hold():
    net = make_net(nn.Dropout(0.5))
    net.heads = nn.ModuleDict(
        {m: nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)) for m in "ab"}
    ).double()
    s = Step(net, make_batch())
    before = {m: s.losses[m].item() for m in "ab"}
    held, state = [b.clone() for b in net.buffers()], torch.get_rng_state()
    again = s.losses_again()
    assert {m: again[m].item() for m in "ab"} == before
    assert all(map(torch.equal, held, net.buffers()))
    assert torch.equal(state, torch.get_rng_state())


def test_a_log_takes_numbers_and_pairs():
    s = make_step()
    k = torch.tensor([1.0, 2.0], requires_grad=True)
    s.log(k=dict(s.each(k)), n=3)
    assert s.logged == {("k", "a"): 1.0, ("k", "b"): 2.0, ("n", ""): 3}
    assert not s.logged["k", "a"].requires_grad


# Gradients of several batches


def accumulated(act, zero=False, clear=False):
    """Act on a second batch while the first one's gradients stand; both by hand in float64."""
    net = make_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for seed in (1, 2):
        s = Step(net, make_batch(seed=seed), optimizer)
        if clear:
            optimizer.zero_grad()
        s.backward(s.losses["joint"], scale=torch.tensor([0.5, 1.0], dtype=torch.float64))
        if zero:
            optimizer.zero_grad(set_to_none=False)
    return act(s)


CHANGES = {
    "scale_grad": lambda s: s.scale_grad("a", 0.5),
    "add_noise": lambda s: s.add_noise("a", s.spread("a")),
    "set_grad": lambda s: s.set_grad("a", s.stored_grad("a")),
    "scale_update": lambda s: s.scale_update("a", 0.5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_gradients_of_earlier_batches_are_not_changed_with_this_ones(change):
    with pytest.raises(RuntimeError, match=r"`\.grad` held gradients before.*zero_grad\(\) before"):
        accumulated(CHANGES[change])


@pytest.mark.parametrize("change", CHANGES)
def test_gradients_that_were_cleared_after_the_step_was_made_do_not_count(change):
    accumulated(CHANGES[change], clear=True)


def test_gradients_that_were_cleared_do_not_count_after_a_blend_either():
    net = make_net()
    first = Step(net, make_batch(seed=1))
    first.backward(first.losses["joint"])
    s = Step(net, make_batch(seed=2))
    net.zero_grad()
    losses = {m: (s.losses["joint"], s.losses[m]) for m in "ab"}
    s.blend(losses, lambda gram: torch.ones_like(gram[..., 0]))
    before = s.stored_grad("a")[0].clone()
    s.scale_grad("a", 0.5)
    torch.testing.assert_close(s.stored_grad("a")[0], 0.5 * before)


@pytest.mark.parametrize("m", ["a", "b"])
@pytest.mark.parametrize("known", [True, False])
def test_gradients_of_earlier_batches_count_in_every_encoder(m, known):
    net = make_net()
    first = Step(net, make_batch(seed=1))
    first.backward(first.losses[m])
    s = Step(net, make_batch(seed=2), parameters=Parameters(net) if known else None)
    s.backward(s.losses["joint"])
    with pytest.raises(RuntimeError, match=r"`\.grad` held gradients before"):
        s.scale_grad(m, 0.5)


def test_zeros_are_no_gradients_of_earlier_batches():
    net = make_net()
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    s = Step(net, make_batch())
    s.backward(s.losses["joint"])
    s.scale_grad("a", 0.5)


@pytest.mark.parametrize("way", ["backward", "blend"])
def test_what_only_adds_accumulates(way):
    net, seen = make_net(), []
    for batches in ([1], [2], [1, 2]):
        net.zero_grad()
        for seed in batches:
            s = Step(net, make_batch(seed=seed))
            if way == "backward":
                s.backward(s.losses.stack(), scale=0.3)
            else:
                losses = {m: (s.losses["joint"], s.losses[m]) for m in "ab"}
                s.blend(losses, lambda gram: gram.diagonal(dim1=-2, dim2=-1))
        seen.append([p.grad.clone() for p in net.parameters()])
    for one, other, both in zip(*seen, strict=True):
        torch.testing.assert_close(both, one + other)


# Hooks on parameters


@pytest.mark.parametrize("whose", ["encoders", "fusion"])
def test_hooks_after_accumulation_are_not_passed_by(whose):
    calls, net = [], make_net()
    parameter = next(getattr(net, whose).parameters())
    parameter.register_post_accumulate_grad_hook(lambda _: calls.append(1))
    s = Step(net, make_batch())
    losses = {m: (s.losses["joint"], s.losses[m]) for m in "ab"}
    for fill in (
        lambda: s.blend(losses, lambda gram: torch.ones_like(gram[..., 0])),
        lambda: s.backward(s.losses["joint"], encoders=False),
    ):
        with pytest.raises(ValueError, match=r"has a hook.*register_step_pre_hook"):
            fill()
    assert not calls and all(p.grad is None for p in net.parameters())
    s.backward(s.losses["joint"])  # autograd's own way calls it
    assert calls


# What is logged and recorded


def test_what_was_logged_does_not_change_with_the_tensor():
    s = make_step()
    k = torch.tensor([1.0, 2.0])
    s.log(k=dict(s.each(k)), first=k[0])
    k.mul_(10)
    assert s.logged == {("k", "a"): 1, ("k", "b"): 2, ("first", ""): 1}


def test_a_loss_of_ones_own_is_recorded_as_the_objective():
    s = make_step()
    s.backward(s.losses["joint"])
    s.backward(s.losses.stack())
    assert ("objective", "") not in s._recorded()  # the history has all of these
    s.backward(0.5 * s.losses.stack())
    s.backward(s.losses["a"] ** 2)
    value, there = s._recorded()["objective", ""]
    expected = 0.5 * s.losses.stack().sum() + s.losses["a"] ** 2
    torch.testing.assert_close(value, expected.detach())
    assert there is None and not value.requires_grad


def test_an_objective_of_the_heads_alone_is_recorded_too():
    s = make_step()
    s.backward(2 * s.losses["joint"], encoders=False)
    value, _ = s._recorded()["objective", ""]
    torch.testing.assert_close(value, 2 * s.losses["joint"].detach())


def test_in_a_stack_each_network_has_its_objective():
    nets, batches, s = make_stack()
    s.backward(2 * s.losses.stack())
    s.backward(s.losses["a"] ** 2)
    value, _ = s._recorded()["objective", ""]
    expected = []
    for net, batch in zip(nets, batches, strict=True):
        losses = Step(net, batch).losses
        expected.append(2 * losses.stack().sum() + losses["a"] ** 2)
    torch.testing.assert_close(value, torch.stack(expected).detach())


def test_a_loss_of_ones_own_needs_no_forward_pass_of_the_step():
    s = make_step()
    s.backward(sum(p.square().sum() for p in s.model.parameters()))
    assert "out" not in vars(s) and list(s._recorded()) == [("objective", "")]


def test_backward_of_a_number_is_refused():
    s = make_step()
    with pytest.raises(TypeError, match=r"backward was given 0\.5; give a tensor"):
        s.backward(0.5)


def test_a_step_wants_a_batch_and_an_optimiser():
    net, batch = make_net(), make_batch()
    with pytest.raises(
        TypeError, match=r"batch is a tuple; give Batch\(\{modality: x, \.\.\.\}, target"
    ):
        Step(net, (batch.inputs, batch.target))
    for optimizer in (torch.optim.SGD, 3):
        with pytest.raises(TypeError, match="give an optimiser made from model"):
            Step(net, batch, optimizer)
    with pytest.raises(TypeError, match="positional"):
        Step(net, batch, None, 0, F.cross_entropy)  # a loss is no progress


def test_a_step_made_before_the_gradients_were_cleared_may_begin_with_any_change():
    net = make_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    first = Step(net, make_batch(), optimizer)
    first.backward(first.losses["joint"])
    s = Step(net, make_batch(), optimizer)
    optimizer.zero_grad()
    s.scale_update("a", 0.5)
    s.set_grad("a", [torch.ones_like(p) for p in trained(s, "a")])


@pytest.mark.parametrize("name", ["loss", "objective"])
def test_names_of_the_history_are_not_logged(name):
    with pytest.raises(ValueError, match=f"the history has '{name}' of its own; log under another"):
        make_step().log(**{name: 1.0})


@pytest.mark.parametrize("value", [None, "text", [1.0]])
def test_what_is_no_number_is_not_logged(value):
    with pytest.raises(TypeError, match=r"log\(k=\.\.\.\) got .*; give a number"):
        make_step().log(k=value)


def test_a_part_of_a_stack_of_losses_is_no_objective_and_a_blended_loss_of_ones_own_is_one():
    s = make_step()
    losses = s.losses.stack("joint", "a", "b")
    s.backward(losses[..., 1:])
    s.backward(losses[..., 0])
    assert ("objective", "") not in s._recorded()
    own = 0.5 * s.losses["joint"]
    s.blend({m: (own, s.losses[m]) for m in "ab"}, lambda gram: torch.ones_like(gram[..., 0]))
    torch.testing.assert_close(s._recorded()["objective", ""][0], own.detach())
