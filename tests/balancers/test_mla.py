"""MLA's turns: who moves, where the head's gradient may not go, and the fusion at test time."""

import copy

import numpy as np
import pytest
import torch
from by_hand import (
    CLASSES,
    WIDTH,
    ByHand,
    array,
    assert_gradients,
    batch,
    data,
    network,
    parameters,
    softmax,
)
from torch import nn
from torch.nn import functional as F

from mmlab import MLA, MultimodalNet, Output, Step, fit
from mmlab.balancers import mla
from mmlab.balancers.mla import restarted_projector
from mmlab.models import LazyLogits

KINDS = ["restarted", "rls", "none"]


def shared_network(modalities="av", **options):
    return network(modalities, heads="shared", fusion="late", **options)


def sgd(net, lr=0.1, momentum=0.0):
    return torch.optim.SGD(net.parameters(), lr=lr, momentum=momentum)


def turns(balancer, net, samples, optimizer):
    """One batch as `fit` drives it; before each optimiser step, the caller may look."""
    optimizer.zero_grad()
    for _ in balancer.step(Step(net, samples, optimizer)):
        yield
        optimizer.step()
        optimizer.zero_grad()


def run_turns(balancer, net, samples, optimizer):
    return sum(1 for _ in turns(balancer, net, samples, optimizer))


def with_one(features, mask=None):
    """Mean feature (D + 1,) of the samples that count, the constant 1 appended."""
    mask = np.ones(len(features), bool) if mask is None else mask.numpy()
    return np.append(features[mask].mean(0), 1.0)


class Projector:
    """(I + Σ h hᵀ/α)⁻¹ by numpy's inverse: over the others' latest means, or over all ever seen."""

    def __init__(self, kind, alpha):
        self.kind, self.alpha = kind, alpha
        self.latest, self.all = {}, []

    def matrix(self, m):
        seen = {
            "restarted": [h for name, h in self.latest.items() if name != m],
            "rls": self.all,
            "none": [],
        }[self.kind]
        return np.linalg.inv(
            np.eye(WIDTH + 1) + sum((np.outer(h, h) / self.alpha for h in seen), np.zeros(()))
        )

    def remember(self, m, h):
        self.latest[m] = h
        self.all.append(h)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("modalities", ["av", "avt"])
def test_every_turn_follows_the_algorithm_by_hand(modalities, kind):
    """Features of the batch's one forward pass; each loss with the head as the turn finds it."""
    net = shared_network(modalities)
    balancer, optimizer = MLA(projector=kind, alpha=0.3), sgd(net)
    reference = Projector(kind, 0.3)
    projected = 0
    for i in range(3):
        samples = batch(modalities, seed=i)
        names = iter(modalities)
        for _ in turns(balancer, net, samples, optimizer):
            m = next(names)
            hand = ByHand(net, samples)  # the encoder of m has not moved yet, the head has
            expected = hand.gradient(m)
            P = reference.matrix(m)
            G = torch.cat([expected[net.heads.weight], expected[net.heads.bias][:, None]], dim=1)
            GP = G @ torch.from_numpy(P)
            expected[net.heads.weight], expected[net.heads.bias] = GP[:, :-1], GP[:, -1]
            assert_gradients(net, expected)
            projected += bool((GP - G).norm() > 0.05 * G.norm())
            reference.remember(m, with_one(hand.features[m]))
        assert next(names, None) is None
    assert projected == (0 if kind == "none" else 3 * len(modalities) - 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("modalities", ["av", "avt"])
def test_a_turn_moves_one_encoder_and_the_head(modalities, kind):
    net = shared_network(modalities)
    balancer, optimizer = MLA(projector=kind), sgd(net, momentum=0.9)
    for i in range(2):
        before = parameters(net)
        updates = turns(balancer, net, batch(modalities, seed=i), optimizer)
        next(updates)
        for m in modalities:
            next(updates, None)
            after = parameters(net)
            changed = {n.rsplit(".", 1)[0] for n in after if not torch.equal(after[n], before[n])}
            assert changed == {f"encoders.{m}", "fusion.heads"}
            before = after


@pytest.mark.parametrize("kind", ["restarted", "rls"])
@pytest.mark.parametrize("modalities", ["av", "avt"])
def test_the_balancer_projects_by_the_functions_that_are_taught(modalities, kind, monkeypatch):
    """Another projector in its place, and the head's gradient is another: here 0."""
    calls = []

    def restarted(means, alpha, rows=None):
        calls.append((len(means), alpha))
        return torch.zeros_like(rows)

    def rls(P, h, alpha):
        calls.append((tuple(h.shape), alpha))
        return torch.zeros_like(P)

    monkeypatch.setattr(mla, "restarted_projector", restarted)
    monkeypatch.setattr(mla, "rls_projector", rls)
    net, balancer = shared_network(modalities), MLA(projector=kind, alpha=0.3)
    turn = 0
    for i in range(2):
        for _ in turns(balancer, net, batch(modalities, seed=i), sgd(net)):
            assert bool(net.heads.weight.grad.any()) == (turn == 0)
            assert bool(net.heads.bias.grad.any()) == (turn == 0)
            turn += 1
    count = len(modalities)
    if kind == "restarted":
        others = [min(t, count - 1) for t in range(1, 2 * count)]
        assert calls == [(k, 0.3) for k in others]
    else:
        assert calls == [((WIDTH + 1,), 0.3)] * (2 * count)


def test_the_fusion_asks_the_weights_that_are_taught(monkeypatch):
    monkeypatch.setattr(
        mla,
        "entropy_weights",
        lambda z, present, task: torch.tensor([1.0, 0.0])[:, None].expand(2, 5),
    )
    z = logits()
    assert torch.equal(MLA().fuse(output(z)), z[0])


def test_the_second_modality_meets_the_head_as_the_first_left_it():
    net, samples = shared_network(), batch()
    old = ByHand(net, samples).gradient("v")[net.heads.weight]
    updates = turns(MLA(projector="none"), net, samples, sgd(net, lr=1.0))
    next(updates)
    next(updates)
    new = ByHand(net, samples).gradient("v")[net.heads.weight]
    assert (new - old).norm() > 0.05 * old.norm()
    torch.testing.assert_close(net.heads.weight.grad, new, rtol=1e-9, atol=1e-13)


def leak(kind, make):
    """Mean change of one modality's logits, at its mean feature, in the turns of the other."""
    net = shared_network()
    balancer = MLA(projector=kind, alpha=1e-3)
    optimizer = make(net.parameters())
    changes = []
    remembered = {}
    for i in range(6):
        samples = batch(seed=i)
        names = iter("av")
        updates = turns(balancer, net, samples, optimizer)
        next(updates)
        for m in names:
            h = ByHand(net, samples).features[m].mean(0)
            head = copy.deepcopy(net.heads)
            next(updates, None)
            other = remembered.get("v" if m == "a" else "a")
            if other is not None:
                x = torch.from_numpy(other)
                changes.append((net.heads(x) - head(x)).norm().item())
            remembered[m] = h
    return np.mean(changes)


@pytest.mark.parametrize("lazily", [True, False])
def test_a_forward_pass_of_ones_own_gives_its_logits_lazily(lazily):
    class Own(MultimodalNet):
        def forward(self, inputs):
            h = {m: self.encode(m, x) for m, x in inputs.items()}
            at_once = {m: self.head(m)(x) for m, x in h.items()}
            unimodal = LazyLogits(self, h) if lazily else at_once
            return Output(h, self.fusion(h), unimodal, self.fusion)

    plain, samples = shared_network(), batch()
    own = Own(plain.encoders, plain.fusion, plain.heads)
    if not lazily:
        with pytest.raises(ValueError, match=r"in turns.*Own\.forward.*LazyLogits\(self, features"):
            run_turns(MLA(), own, samples, sgd(own))
        return
    own = copy.deepcopy(own)
    run_turns(MLA(), own, samples, sgd(own))
    run_turns(MLA(), plain, samples, sgd(plain))
    for mine, theirs in zip(own.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}]
)
def test_a_turn_spares_what_the_head_says_of_the_other_modality(options):
    """The one test that fails where the special step does nothing, or where momentum leaks."""
    make = lambda p: torch.optim.SGD(p, lr=0.05, **options)  # noqa: E731
    unprojected = leak("none", make)
    assert unprojected > 1e-3
    assert leak("restarted", make) < 0.05 * unprojected
    assert leak("rls", make) < 0.05 * unprojected


def test_under_adam_the_projection_is_mostly_lost():
    """A trap to know: Adam rescales the projected gradient entry by entry."""
    make = lambda p: torch.optim.Adam(p, lr=0.01)  # noqa: E731
    assert leak("restarted", make) > 0.2 * leak("none", make)


def test_only_the_heads_momentum_is_emptied():
    net = shared_network()
    optimizer = sgd(net, momentum=0.9)
    run_turns(MLA(), net, batch(), optimizer)
    assert not optimizer.state[net.heads.weight]["momentum_buffer"].any()
    for parameter in net.encoders.parameters():
        assert optimizer.state[parameter]["momentum_buffer"].norm() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_without_bias_trains(kind):
    net = shared_network("avt")
    net.fusion.heads = net.heads = nn.Linear(WIDTH, CLASSES, bias=False).double()
    before = parameters(net)
    optimizer, balancer = sgd(net, momentum=0.9), MLA(projector=kind)
    for i in range(2):
        assert run_turns(balancer, net, batch("avt", seed=i), optimizer) == 3
    for name, value in parameters(net).items():
        assert value.isfinite().all() and not torch.equal(value, before[name])


def test_a_head_without_bias_is_projected_without_the_constant():
    base = shared_network()
    head = nn.Linear(WIDTH, CLASSES, bias=False).double()
    base.fusion.heads = base.heads = head
    samples, optimizer = batch(), sgd(base)
    updates = turns(MLA(alpha=0.3), base, samples, optimizer)
    next(updates)
    h = base.encoders["a"](samples.inputs["a"]).mean(0).detach().numpy()
    next(updates)
    features = base.encoders["v"](samples.inputs["v"])
    loss = F.cross_entropy(head(features), samples.target)
    G = array(torch.autograd.grad(loss, head.weight)[0])
    # the constant belongs to the remembered mean; its row and column are dropped after
    P = np.linalg.inv(np.eye(WIDTH + 1) + np.outer(np.append(h, 1), np.append(h, 1)) / 0.3)
    np.testing.assert_allclose(array(head.weight.grad), G @ P[:-1, :-1], rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_an_absent_modality_is_skipped_altogether(kind):
    net = shared_network()
    balancer, optimizer = MLA(projector=kind), sgd(net, momentum=0.9)
    run_turns(balancer, net, batch(seed=1), optimizer)
    run_turns(balancer, net, batch(seed=2), optimizer)
    kept = copy.deepcopy((balancer.means, balancer.P))
    before = parameters(net)
    lacking = batch(seed=3, present={"a": [0] * 6, "v": [0] * 6})
    assert run_turns(balancer, net, lacking, optimizer) == 0
    one = batch(seed=4, present={"a": [1] * 6, "v": [0] * 6})
    torch.testing.assert_close((balancer.means, balancer.P), kept, rtol=0, atol=0)
    assert all(torch.equal(value, before[name]) for name, value in parameters(net).items())
    assert run_turns(balancer, net, one, optimizer) == 1
    after = parameters(net)
    assert torch.equal(after["encoders.v.weight"], before["encoders.v.weight"])
    assert not torch.equal(after["encoders.a.weight"], before["encoders.a.weight"])
    if kind == "restarted":
        assert torch.equal(balancer.means["v"], kept[0]["v"])
        assert not torch.equal(balancer.means["a"], kept[0]["a"])
    if kind == "rls":
        assert not torch.equal(balancer.P, kept[1])


def test_a_mean_feature_is_of_the_samples_that_have_the_modality():
    net = shared_network()
    samples = batch(present={"a": [1, 1, 0, 0, 1, 0], "v": [1] * 6})
    hand = ByHand(net, samples)
    expected = {m: with_one(hand.features[m], samples.present[m]) for m in "av"}
    balancer = MLA()
    run_turns(balancer, net, samples, sgd(net))
    for m in "av":
        np.testing.assert_allclose(balancer.means[m].numpy(), expected[m], rtol=1e-12)


def test_the_head_keeps_learning_under_the_restarted_projector_and_not_under_the_recursion():
    tiny = data()
    traces = {}
    for kind in ("restarted", "rls"):
        balancer = MLA(projector=kind)
        fit(shared_network(), tiny, balancer, epochs=8, batch_size=4, device="cpu")
        P = balancer.P if kind == "rls" else restarted_projector(balancer.means["v"][None], 0.1)
        traces[kind] = P.trace().item() / (WIDTH + 1)
    assert traces["rls"] < 0.3
    assert traces["restarted"] > 0.75


@pytest.mark.parametrize("kind", KINDS)
def test_training_follows_the_loop_by_hand_and_starts_afresh(kind):
    tiny, balancer = data(), MLA(projector=kind, alpha=0.3)
    by_hand, reference = shared_network(), Projector(kind, 0.3)
    for _ in range(2):
        net = shared_network()
        fit(
            net,
            tiny,
            balancer,
            epochs=3,
            batch_size=len(tiny.train),
            optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
            device="cpu",
        )
    for _ in range(3):
        for m in "av":
            hand = ByHand(by_hand, tiny.train)
            grads, P = hand.gradient(m), torch.from_numpy(reference.matrix(m))
            weight, bias = by_hand.heads.weight, by_hand.heads.bias
            GP = torch.cat([grads[weight], grads[bias][:, None]], dim=1) @ P
            grads[weight], grads[bias] = GP[:, :-1], GP[:, -1]
            reference.remember(m, with_one(hand.features[m]))
            with torch.no_grad():
                for parameter, grad in grads.items():
                    parameter -= 0.1 * grad
    torch.testing.assert_close(parameters(net), parameters(by_hand))


def logits(size=5, count=2, seed=0, scale=3.0):
    draw = torch.Generator().manual_seed(seed)
    return scale * torch.randn(count, size, CLASSES, generator=draw, dtype=torch.float64)


def output(z):
    names = "avt"[: len(z)]
    return Output({}, z.mean(0), dict(zip(names, z, strict=True)))


def fused_by_hand(z, masks):
    """Sample by sample: e = −Σ p ln p, weights e^−e over the modalities that are there."""
    result = np.zeros(z.shape[1:])
    for i in range(z.shape[1]):
        there = [k for k in range(len(z)) if masks[k][i]]
        trust = {}
        for k in there:
            p = softmax(z[k, i])
            trust[k] = np.exp((p * np.log(p)).sum())
        result[i] = sum(trust[k] / sum(trust.values()) * z[k, i] for k in there)
    return result


MASKS = [[True, True, False, True, True], [True, False, True, True, True], [True] * 5]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("count", [2, 3])
def test_the_fusion_weighs_each_sample_by_its_own_entropies(count, masked):
    z = logits(count=count)
    masks = MASKS[:count] if masked else [[True] * 5] * count
    present = {m: torch.tensor(x) for m, x in zip("avt", masks, strict=False)} if masked else None
    fused = MLA().fuse(output(z), present)
    np.testing.assert_allclose(fused.numpy(), fused_by_hand(z.numpy(), masks), rtol=1e-12)
    assert (fused - MLA(fusion="mean").fuse(output(z), present)).abs().max() > 0.1


def test_a_samples_weights_do_not_depend_on_the_rest_of_the_batch():
    z = logits()
    whole = MLA().fuse(output(z))
    for i in range(5):
        torch.testing.assert_close(MLA().fuse(output(z[:, i : i + 1]))[0], whole[i])


def test_the_mean_is_over_the_modalities_present():
    z = logits()
    masks = np.array(MASKS[:2])[..., None]
    present = {m: torch.tensor(x) for m, x in zip("av", MASKS, strict=False)}
    expected = (z.numpy() * masks).sum(0) / masks.sum(0)
    np.testing.assert_allclose(MLA(fusion="mean").fuse(output(z), present).numpy(), expected)
    torch.testing.assert_close(MLA(fusion="mean").fuse(output(z)), z.mean(0))


@pytest.mark.parametrize("fusion", ["entropy", "mean"])
def test_an_absent_modality_has_no_say_whatever_its_logits_are(fusion):
    z = logits()
    z[1, 0] = torch.nan
    present = {"a": torch.ones(5, dtype=torch.bool), "v": torch.tensor([0, 1, 1, 1, 1]).bool()}
    assert torch.equal(MLA(fusion=fusion).fuse(output(z), present)[0], z[0, 0])


@pytest.mark.parametrize("fusion", ["entropy", "mean"])
def test_the_first_sample_with_no_modality_is_named(fusion):
    present = {"a": torch.tensor([1, 1, 0, 1, 0]).bool(), "v": torch.tensor([1, 0, 0, 1, 0]).bool()}
    with pytest.raises(ValueError, match="sample 2 has no modality"):
        MLA(fusion=fusion).fuse(output(logits()), present)


def test_logit_gaps_beyond_float32s_exponent_stay_finite():
    z = torch.tensor([[[0.0, 300.0, -300.0]], [[0.5, 0.2, 0.1]]])
    fused = MLA().fuse(output(z))
    assert fused.isfinite().all()
    assert fused[0, 1] > 200  # the sure one is trusted more than the unsure one


def test_predictions_of_a_run_use_the_entropies_and_the_masks():
    tiny = data(missing=True)
    run = fit(shared_network(), tiny, MLA(), epochs=2, batch_size=8, device="cpu")
    hand = ByHand(run.model, tiny.test)
    z = np.stack([hand.logits[m] for m in "av"])
    masks = [tiny.test.present[m].tolist() for m in "av"]
    np.testing.assert_allclose(run.predict(tiny.test).numpy(), fused_by_hand(z, masks), rtol=1e-9)


@pytest.mark.parametrize("heads", ["own", "shared"])
def test_a_network_without_one_shared_linear_head_is_refused_with_the_remedy(heads):
    tiny = data()
    net = MultimodalNet.build(tiny, heads=heads).double()
    if heads == "shared":
        net.heads = nn.Sequential(nn.Linear(64, CLASSES)).double()
    with pytest.raises(ValueError, match=r"MultimodalNet\.build\(data, \*\*MLA\(\)\.network\)"):
        fit(net, tiny, MLA(), epochs=1, device="cpu")


def test_its_network_and_its_fusion_option_do_not_get_in_each_others_way():
    for fusion in ("entropy", "mean"):
        assert MLA(fusion=fusion).network == {"heads": "shared", "fusion": "late"}


@pytest.mark.parametrize("options", [{"projector": "svd"}, {"fusion": "max"}, {"alpha": 0.0}])
def test_arguments_out_of_range_are_refused(options):
    value = next(iter(options.values()))
    with pytest.raises(ValueError, match=str(value)):
        MLA(**options)


def test_a_frozen_head_is_left_alone():
    samples = batch()
    net = network("av", heads="shared", fusion="late")
    net.heads.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    for _ in MLA().step(Step(net, samples, optimizer)):
        optimizer.step()
    assert all(p.grad is None for p in net.heads.parameters())
    assert not any(p in optimizer.state for p in net.heads.parameters())
    optimizer.state_dict()  # can be saved: it knows no parameter but its own


def test_under_rmsprop_with_momentum_the_heads_is_emptied_too():
    net = shared_network()
    optimizer = torch.optim.RMSprop(net.parameters(), lr=0.01, momentum=0.9)
    for _ in range(2):
        run_turns(MLA(), net, batch(), optimizer)
    assert not optimizer.state[net.heads.weight]["momentum_buffer"].any()


def test_a_frozen_bias_of_the_head_stays_and_its_weight_learns():
    net, samples = shared_network(), batch()
    net.heads.bias.requires_grad_(False)
    before = [p.clone() for p in net.heads.parameters()]
    run_turns(MLA(), net, samples, sgd(net))
    assert not torch.equal(net.heads.weight, before[0]) and torch.equal(net.heads.bias, before[1])


def test_encoders_that_share_parameters_cannot_take_turns():
    tiny = data()
    net = shared_network()
    net.encoders["v"] = net.encoders["a"]
    with pytest.raises(ValueError, match="encoders may not share parameters"):
        fit(net, tiny, MLA(), epochs=1, device="cpu")


def test_encoders_may_share_what_no_turn_moves():
    net = shared_network()
    first, second = (
        next(part for part in net.encoders[m].modules() if isinstance(part, nn.Linear))
        for m in net.encoders
    )
    first.bias.requires_grad_(False)
    second.bias = first.bias
    fit(net, data(), MLA(), epochs=1, device="cpu")


def test_a_head_with_the_gradient_of_an_earlier_turn_is_warned_of():
    net, samples = shared_network(), batch()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    turns = MLA().step(Step(net, samples, optimizer))
    next(turns)
    optimizer.step()  # and no zero_grad()
    with pytest.warns(UserWarning, match=r"earlier turn.*call optimizer\.zero_grad\(\)"):
        next(turns)
