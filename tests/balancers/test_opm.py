"""OPM against numpy: which features it drops how often, how it scales them, and a whole step."""

import math

import numpy as np
import pytest
import torch
from by_hand import (
    WIDTH,
    ByHand,
    assert_gradients,
    batch,
    data,
    layer,
    network,
    parameters,
    softmax,
    take_step,
)
from torch.nn import functional as F

from mmlab import OPM, Joint, MultimodalNet, Step, fit
from mmlab.balancers.ogm import discrepancy_ratios
from mmlab.balancers.opm import drop_probabilities, dropped_share, mean_of_kept
from mmlab.seeds import Draws


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def seeded_draws(seed):
    return Draws(lambda kind: torch.Generator().manual_seed(seed))


# --- the pure functions ---------------------------------------------------------------------------


def test_who_is_ahead_is_dropped_and_the_other_never():
    q = drop_probabilities(double([2.0, 0.5], [1.0, 1.0], [0.25, 4.0], [math.inf, 0.0]))
    known = [
        [0.5 * (1 + 0.5 * math.tanh(1.0)), 0],
        [0, 0],
        [0, 0.5 * (1 + 0.5 * math.tanh(3.0))],
        [0.75, 0],
    ]
    np.testing.assert_allclose(q.numpy(), known)
    assert q.dtype == torch.float64


def test_a_probability_is_clipped_and_takes_tensors():
    assert drop_probabilities(double(3.0, 1 / 3), 0.9, 2.0).tolist() == [1, 0]
    q = drop_probabilities(double([2.0, 0.5], [2.0, 0.5]), double([0.1], [0.2]), 0.0)
    assert q.tolist() == [[0.1, 0], [0.2, 0]]
    assert drop_probabilities(double(2.0, 0.5), 0.0).tolist() == [0, 0]
    for bad in ({"q_base": -0.1}, {"lam": math.nan}):
        with pytest.raises(ValueError, match=rf"{next(iter(bad))} is .* ≥ 0"):
            drop_probabilities(double(2.0, 0.5), **bad)


def test_with_three_modalities_each_is_compared_with_the_mean_of_the_others():
    ratios = discrepancy_ratios(double(3.0, 2.0, 1.0))
    q = drop_probabilities(ratios)
    assert ratios.tolist() == pytest.approx([2, 1, 0.4])
    assert q.tolist() == pytest.approx([0.5 * (1 + 0.5 * math.tanh(1)), 0, 0])


def test_the_share_that_is_dropped_weighs_by_width():
    q = double([0.6, 0.0], [0.0, 0.3])
    assert dropped_share(q, [10, 30]).tolist() == pytest.approx([0.15, 0.225])
    with pytest.raises(ValueError, match="got 3 widths for 2 modalities"):
        dropped_share(q, [1, 2, 3])


def test_a_mean_of_nobody_is_0_with_a_gradient_of_0():
    losses = double([1.0, 2.0, 6.0], [1.0, 2.0, 3.0]).requires_grad_()
    kept = torch.tensor([[True, False, True], [False, False, False]])
    mean = mean_of_kept(losses, kept)
    assert mean.tolist() == [3.5, 0]
    mean.sum().backward()
    assert losses.grad.tolist() == [[0.5, 0, 0.5], [0, 0, 0]]


# --- a step by hand -------------------------------------------------------------------------------


def ahead(net, samples):
    """The ratios of the shares, and q, by numpy."""
    hand, right = ByHand(net, samples), {}
    for m, share in hand.share.items():
        p = (softmax(share) * hand.target).sum(1)
        mask = np.ones(len(p)) if samples.present is None else samples.present[m].numpy()
        right[m] = (p * mask).sum() / mask.sum()
    q = {}
    for m in right:
        ratio = right[m] / np.mean([x for n, x in right.items() if n != m])
        q[m] = 0.5 * (1 + 0.5 * math.tanh(ratio - 1)) if ratio > 1 else 0.0
    return q


def drawn(seed, q, size, p_exe=0.7):
    """What a step draws: whether it drops at all, and what is kept."""
    draws, like = seeded_draws(seed), torch.zeros((), dtype=torch.float64)
    executed = bool(draws.uniforms((1,), like) < p_exe)
    uniforms = draws.uniforms((len(q), size), like).numpy()
    q = np.array([*q.values()]) * executed
    return executed, q, uniforms < 1 - q[:, None]


def expected(net, samples, q, kept):
    hand, present = ByHand(net, samples), samples.present
    scale = 1 / (1 - q.mean())  # equal widths
    features = {
        m: hand.features[m] * row[:, None] * scale
        for m, row in zip(net.modalities, kept, strict=True)
    }
    joined = np.concatenate([*features.values()], 1)
    linear = net.fusion.linear
    logits = joined @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
    there = kept if present is None else kept & np.stack([present[m] for m in net.modalities])
    counted = there.any(0)
    error = (softmax(logits) - hand.target) * (counted / max(counted.sum(), 1))[:, None]
    losses = -np.log((softmax(logits) * hand.target).sum(1))
    found = layer(linear, joined, error)
    for m, row in zip(net.modalities, kept, strict=True):
        back = (error @ hand.blocks[m]) * row[:, None] * scale
        found |= layer(net.encoders[m], hand.x[m], back)
    return found, (losses * counted).sum() / max(counted.sum(), 1)


PRESENT = {"a": [1, 1, 1, 0, 1, 0], "v": [1, 0, 1, 1, 1, 1], "t": [0, 0, 1, 1, 1, 1]}


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("modalities", ["av", "avt"])
def test_steps_drop_scale_and_average_as_by_hand(modalities, missing):
    present = {m: PRESENT[m] for m in modalities} if missing else None
    samples, seen, lost = batch(modalities, present=present), set(), 0
    for seed in range(12):
        net = network(modalities, seed=seed % 3)
        q = ahead(net, samples)
        executed, effective, kept = drawn(seed, q, 6)
        known, loss = expected(net, samples, effective, kept)
        step = take_step(OPM(), net, samples, draws=seeded_draws(seed))
        assert_gradients(net, known)
        assert {m: step.logged["drop probability", m].item() for m in q} == pytest.approx(q)
        assert step._recorded()["objective", ""][0].item() == pytest.approx(loss)
        assert step.losses["joint"].item() == pytest.approx(ByHand(net, samples).loss["joint"])
        seen.add((executed, bool(kept.all())))
        if missing:
            there = kept & np.stack([samples.present[m] for m in modalities])
            lost += (~there.any(0)).sum()
    assert {(True, False), (False, True)} <= seen  # both kinds of batches came
    assert bool(lost) == missing  # nobody loses everything unless something is missing


def test_a_batch_that_does_not_drop_is_joint_training():
    net, samples = network(), batch()
    take_step(OPM(p_exe=0.0), net, samples)
    assert_gradients(net, ByHand(net, samples).gradient("joint"))
    net.zero_grad()
    take_step(OPM(q_base=0.0), net, samples)
    assert_gradients(net, ByHand(net, samples).gradient("joint"))


@pytest.mark.parametrize("epoch", range(4))
def test_warm_up_epochs_drop_nothing(epoch):
    net, samples = network(), batch()
    step = take_step(OPM(q_base=1.0, p_exe=1.0, warmup=2), net, samples, epoch=epoch)
    assert bool(step.logged) == (epoch >= 2)
    grads = [p.grad.clone() for p in net.encoders.parameters()]
    net.zero_grad()
    take_step(Joint(), net, samples)
    same = all(
        torch.allclose(g, p.grad) for g, p in zip(grads, net.encoders.parameters(), strict=True)
    )
    assert same == (epoch < 2)


def test_rates_and_sizes_in_expectation():
    """Over many draws: who is ahead loses q of its vectors; the joined features keep their mean."""
    net, samples = network(), batch()
    q = ahead(net, samples)
    leader = max(q, key=q.get)
    seen, given = [], net.fusion.forward

    def looks(features):
        seen.append({m: h.detach() for m, h in features.items()})
        return given(features)

    net.fusion.forward = looks
    draws, count = seeded_draws(0), 500
    for _ in range(count):
        take_step(OPM(p_exe=1.0), net, samples, draws=draws)
    features, fused = seen[0], seen[1::2]
    dropped = torch.stack([f[leader].eq(0).all(-1) for f in fused]).double()
    spread = 4 * math.sqrt(0.25 / (count * 6))
    assert dropped.mean().item() == pytest.approx(q[leader], abs=spread)
    assert (dropped.mean(0) - q[leader]).abs().max() < 5 * math.sqrt(0.25 / count)
    theta = q[leader] / 2
    for m in "av":
        mean = torch.stack([f[m] for f in fused]).mean(0)
        known = features[m] * (1 - q[m]) / (1 - theta)
        torch.testing.assert_close(mean, known, rtol=0.15, atol=0.15)
        rows = [f[m] for f in fused]
        kept = rows[0][~rows[0].eq(0).all(-1)] if m == leader else rows[0]
        assert len(kept)
    other = "av".replace(leader, "")
    for f in fused[:20]:  # the other is never dropped, and scaled alike
        torch.testing.assert_close(f[other], features[other] / (1 - theta))
    entries = {m: (1 - q[m]) / (1 - theta) for m in "av"}
    assert sum(entries.values()) == pytest.approx(2)  # equal widths: the sum keeps its size


def test_a_batch_that_loses_everything_gives_0_and_no_nan():
    """All samples have the leading modality alone, and it is always dropped."""
    net = network(seed=1)
    samples = batch(present={"a": [1, 1, 1, 1, 1, 0], "v": [0, 0, 0, 0, 0, 1]})
    q = ahead(net, samples)
    leader = max(q, key=q.get)
    has = {"a": [0, 0, 0, 0, 0, 0], "v": [0, 0, 0, 0, 0, 0]} | {leader: [1] * 6}
    alone = batch(present=has)
    step = Step(net, alone)
    loss = OPM().dropped(step, torch.tensor([float(m == leader) for m in "av"]).double())
    assert loss.item() == 0
    step.backward(loss)
    assert all(p.grad is None or not p.grad.any() for p in net.parameters())


def test_the_same_seed_drops_the_same_and_another_one_does_not():
    ends = []
    for seed in (3, 3, 4):
        net = network()
        fit(net, data(), OPM(), epochs=2, batch_size=8, device="cpu", seed=seed)
        ends.append(parameters(net)["fusion.linear.weight"])
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


def test_no_mask_at_test():
    net = network()
    run = fit(net, data(), OPM(q_base=1.0, p_exe=1.0), epochs=1, batch_size=8, device="cpu")
    net.eval()
    torch.testing.assert_close(run.predict(run.data.test), net(run.data.test.inputs).joint)


@pytest.mark.parametrize("fusion", ["film", "gated", "attention", "sum"])
def test_any_fusion_drops_by_its_own_shares(fusion):
    net, samples = network(fusion=fusion), batch()
    step = take_step(OPM(p_exe=1.0), net, samples, draws=seeded_draws(1))
    q = torch.stack([step.logged["drop probability", m] for m in "av"])
    assert (q > 0).sum() == 1
    kept = drawn(1, {m: x.item() for m, x in zip("av", q, strict=True)}, 6, 1.0)[2]
    features = {
        m: h.detach() * torch.from_numpy(row)[:, None] / (1 - q.mean())
        for m, h, row in zip("av", step.out.features.values(), kept, strict=True)
    }
    loss = F.cross_entropy(net.fusion.forward(features), samples.target)
    assert step._recorded()["objective", ""][0].item() == pytest.approx(loss.item())


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"q_base": 1.5}, r"q_base is 1\.5; allowed is a number ≥ 0 and ≤ 1"),
        ({"lam": -1}, r"lam is -1; allowed is a number ≥ 0"),
        ({"p_exe": 2}, r"p_exe is 2; allowed is a number ≥ 0 and ≤ 1"),
        ({"warmup": 1.5}, r"warmup is 1\.5; it must be a whole number of at least 0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        OPM(**options)


@pytest.mark.parametrize("warmup", [0, 5])
def test_regression_is_refused(warmup):
    with pytest.raises(ValueError, match=r"OPM needs class labels.*For regression use"):
        take_step(OPM(warmup=warmup), network(outputs=1), batch(regression=True))


def test_a_loss_without_parts_is_refused():
    def own(prediction, target):
        return F.cross_entropy(prediction, target)

    with pytest.raises(ValueError, match="own has no argument `reduction`"):
        take_step(OPM(), network(), batch(), loss=own)


def test_widths_may_differ():
    assert WIDTH == 4
    net = network()
    fusion = type(net.fusion)({"a": 4, "v": 2}, 3)
    uneven = MultimodalNet(
        {"a": net.encoders["a"], "v": torch.nn.Linear(4, 2)},
        fusion,
        {"a": net.heads["a"], "v": torch.nn.Linear(2, 3)},
    ).double()
    seen, given = [], fusion.forward
    fusion.forward = lambda features: seen.append(features) or given(features)
    step = take_step(OPM(p_exe=1.0), uneven, batch(), draws=seeded_draws(0))
    q = [step.logged["drop probability", m].item() for m in "av"]
    theta = (4 * q[0] + 2 * q[1]) / 6
    m = "av"[q.index(0)]
    torch.testing.assert_close(seen[1][m], seen[0][m] / (1 - theta))
