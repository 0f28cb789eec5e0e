"""OGM-GE's whole step against gradients by hand: what it scales, what it leaves, what it adds."""

import re

import numpy as np
import pytest
import torch
from by_hand import (
    SIZES,
    WIDTH,
    ByHand,
    array,
    assert_gradients,
    batch,
    convolution,
    data,
    mlp,
    network,
    parameters,
    softmax,
    take_step,
)
from torch import nn

from mmlab import OGM, Batch, Joint, Step, fit
from mmlab.balancers import ogm
from mmlab.seeds import Draws


def coefficients(shares, samples, alpha, continuous=False):
    """k by numpy from the shares (B, C) of the logits: the rule of methods' equation, spelt out."""
    score = {}
    for m, share in shares.items():
        right = softmax(share)[np.arange(len(share)), samples.target.numpy()]
        mask = np.ones(len(right)) if samples.present is None else samples.present[m].numpy()
        score[m] = (right * mask).sum() / mask.sum()
    k = {}
    for m in shares:
        ratio = score[m] / np.mean([s for name, s in score.items() if name != m])
        damped = 1 - np.tanh(alpha * (ratio - 1 if continuous else ratio))
        k[m] = damped if ratio > 1 else 1.0
    return k


def expected_gradients(net, samples, **options):
    hand = ByHand(net, samples)
    k = coefficients(hand.share, samples, **options)
    expected = hand.gradient("joint")
    for m in net.modalities:
        for parameter in net.encoders[m].parameters():
            expected[parameter] = k[m] * expected[parameter]
    return expected, k


def draws_of(generator):
    return Draws(lambda kind: generator)


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("modalities", ["av", "avt"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_encoders_get_k_times_their_gradient_and_nothing_else_changes(modalities, continuous, seed):
    net, samples = network(modalities, seed=seed), batch(modalities)
    expected, k = expected_gradients(net, samples, alpha=0.8, continuous=continuous)
    assert min(k.values()) < 0.99 and max(k.values()) == 1  # else the step would prove nothing
    step = take_step(OGM(alpha=0.8, enhance=False, continuous=continuous), net, samples)
    assert_gradients(net, expected)
    for m in modalities:
        assert step.logged["coefficient", m].item() == pytest.approx(k[m], rel=1e-12)


def test_a_modality_that_is_ahead_is_damped_far_from_plain_joint_training():
    net, samples = network(), batch()
    _, k = expected_gradients(net, samples, alpha=0.8)
    ahead = min(k, key=k.get)
    grads = {}
    for balancer in (Joint(), OGM(alpha=0.8, enhance=False)):
        net.zero_grad()
        take_step(balancer, net, samples)
        grads[balancer.name] = net.encoders[ahead].weight.grad.clone()
    assert grads["OGM"].norm() < 0.5 * grads["Joint"].norm()
    assert grads["OGM"].norm() > 0


def test_training_follows_the_loop_by_hand():
    """The window counts epochs from 0: here only the second and third are modulated."""
    tiny = data()
    net, by_hand = network(), network()
    fit(
        net,
        tiny,
        OGM(alpha=0.8, enhance=False, window=(1, 2)),
        epochs=4,
        batch_size=len(tiny.train),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        device="cpu",
    )
    for epoch in range(4):
        if 1 <= epoch <= 2:
            grads, _ = expected_gradients(by_hand, tiny.train, alpha=0.8)
        else:
            grads = ByHand(by_hand, tiny.train).gradient("joint")
        with torch.no_grad():
            for parameter, grad in grads.items():
                parameter -= 0.1 * grad
    for name, value in parameters(net).items():
        torch.testing.assert_close(value, parameters(by_hand)[name], msg=lambda s, n=name: n + s)


@pytest.mark.parametrize("epoch", range(6))
def test_the_window_includes_both_ends(epoch):
    net, samples = network(), batch()
    inside, _ = expected_gradients(net, samples, alpha=0.8)
    outside = ByHand(net, samples).gradient("joint")
    step = take_step(OGM(enhance=False, window=(2, 4)), net, samples, epoch=epoch)
    assert_gradients(net, inside if epoch in (2, 3, 4) else outside)
    assert bool(step.logged) == (epoch in (2, 3, 4))


def test_labels_may_be_bytes():
    net, samples = network(), batch()
    expected, _ = expected_gradients(net, samples, alpha=0.8)
    samples.target = samples.target.to(torch.uint8)
    take_step(OGM(enhance=False), net, samples)
    assert_gradients(net, expected)


def test_outside_the_window_there_is_no_noise_either():
    net, samples = network(), batch()
    take_step(OGM(window=(2, 4)), net, samples, epoch=5)
    assert_gradients(net, ByHand(net, samples).gradient("joint"))


def test_noise_has_mean_0_and_the_spread_of_the_unmodulated_gradient_in_both_encoders():
    net, samples = network(), batch()
    damped, k = expected_gradients(net, samples, alpha=0.8)
    plain = ByHand(net, samples).gradient("joint")
    assert min(k.values()) < 0.5  # so the spread before and after the modulation differ
    noise = torch.Generator().manual_seed(0)
    draws = 1500
    found = {parameter: [] for parameter in plain}
    balancer = OGM(alpha=0.8)
    for _ in range(draws):
        net.zero_grad()
        take_step(balancer, net, samples, draws=draws_of(noise))
        for parameter in plain:
            found[parameter].append(parameter.grad - damped[parameter])
    for m in net.modalities:
        for parameter in net.encoders[m].parameters():
            added = torch.stack(found[parameter]).numpy()
            std = np.std(plain[parameter].numpy(), ddof=1) + 1e-8
            assert abs(added.mean()) < 4 * std / np.sqrt(added.size)
            assert np.abs(added.mean(0)).max() < 5 * std / np.sqrt(draws)
            np.testing.assert_allclose(added.std(), std, rtol=5 / np.sqrt(2 * added.size))
            np.testing.assert_allclose(added.std(0), std, rtol=5 / np.sqrt(2 * draws))
            entries = added.reshape(draws, -1)
            correlation = np.corrcoef(entries.T) - np.eye(entries.shape[1])
            assert np.abs(correlation).max() < 5 / np.sqrt(draws)
    for parameter in net.fusion.parameters():
        assert torch.stack(found[parameter]).abs().max() < 1e-12


def test_the_noise_is_a_normal_number_times_the_spread_of_the_undamped_gradient():
    net, samples = network(), batch()
    expected, k = expected_gradients(net, samples, alpha=0.8)
    plain = ByHand(net, samples).gradient("joint")
    assert min(k.values()) < 0.5
    take_step(OGM(alpha=0.8), net, samples, draws=draws_of(torch.Generator().manual_seed(3)))
    draws = draws_of(torch.Generator().manual_seed(3))
    for m in net.modalities:
        own = list(net.encoders[m].parameters())
        for parameter, normal in zip(own, draws.normals(own), strict=True):
            std = np.std(plain[parameter].numpy(), ddof=1) + 1e-8
            expected[parameter] = expected[parameter] + std * normal
    assert_gradients(net, expected)


def test_noise_comes_from_the_steps_own_generator():
    net, samples = network(), batch()
    grads = []
    for seed in (3, 3, 4):
        net.zero_grad()
        torch.manual_seed(len(grads))
        take_step(OGM(), net, samples, draws=draws_of(torch.Generator().manual_seed(seed)))
        grads.append(net.encoders["a"].weight.grad.clone())
    assert torch.equal(grads[0], grads[1])
    assert not torch.equal(grads[0], grads[2])


def test_a_tensor_of_equal_entries_still_gets_1e_8():
    """The released code adds 1e-8 to the spread; a single entry has no other."""
    net = network(encoder=lambda size, width: nn.Sequential(nn.Linear(size, 1), nn.Linear(1, 4)))
    samples = batch()
    take_step(OGM(alpha=0, enhance=False), net, samples)
    plain = net.encoders["a"][0].bias.grad.clone()
    net.zero_grad()
    take_step(OGM(alpha=0), net, samples, draws=draws_of(torch.Generator().manual_seed(0)))
    added = (net.encoders["a"][0].bias.grad - plain).abs().item()
    assert 0 < added < 1e-7


def sequence(size, width):
    """A convolution over time: its weight has three dimensions."""
    return nn.Sequential(
        nn.Unflatten(1, (1, size)),
        nn.Conv1d(1, 2, 2),
        nn.Flatten(),
        nn.Linear(2 * (size - 1), width),
    )


@pytest.mark.parametrize("enhance", [False, True])
@pytest.mark.parametrize("encoder", [mlp, sequence])
def test_the_released_codes_scope_does_not_touch_an_mlp(encoder, enhance):
    net, samples = network(encoder=encoder), batch()
    take_step(Joint(), net, samples)
    plain = {name: p.grad.clone() for name, p in net.encoders.named_parameters()}
    net.zero_grad()
    take_step(OGM(scope="conv", enhance=enhance), net, samples)
    for name, parameter in net.encoders.named_parameters():
        assert torch.equal(parameter.grad, plain[name])


def test_the_released_codes_scope_modulates_four_dimensional_tensors_only():
    net, samples = network(encoder=convolution), batch()
    take_step(Joint(), net, samples)
    plain = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    step = take_step(OGM(scope="conv", enhance=False), net, samples)
    k = {m: step.logged["coefficient", m] for m in net.modalities}
    assert min(k.values()) < 0.9
    for m in net.modalities:
        for name, parameter in net.encoders[m].named_parameters():
            before = plain[f"encoders.{m}.{name}"]
            factor = k[m] if parameter.ndim == 4 else 1
            torch.testing.assert_close(parameter.grad, factor * before)
    net.zero_grad()
    take_step(OGM(scope="conv"), net, samples)
    for m in net.modalities:
        for name, parameter in net.encoders[m].named_parameters():
            same = torch.equal(parameter.grad, plain[f"encoders.{m}.{name}"])
            assert same == (parameter.ndim != 4)


def shares_by_hand(net, samples):
    """Shares of two modalities: the two linear layers, or Shapley's mean over both orders."""
    fusion = net.fusion
    h = {m: net.encoders[m](samples.inputs[m]) for m in "av"}
    if hasattr(fusion, "linears"):
        return {m: array(fusion.linears[m](h[m])) for m in "av"}
    if hasattr(fusion, "heads"):
        return {m: array(net.heads[m](h[m])) / 2 for m in "av"}
    away = {m: getattr(fusion, f"mean_{m}").expand_as(h[m]) for m in "av"}
    value = lambda *joined: array(  # noqa: E731
        fusion.forward({m: h[m] if m in joined else away[m] for m in "av"})
    )
    return {
        m: 0.5 * (value(m) - value()) + 0.5 * (value("a", "v") - value(other)) + 0.5 * value()
        for m, other in (("a", "v"), ("v", "a"))
    }


@pytest.mark.parametrize("fusion", ["sum", "late", "film", "gated", "attention"])
def test_any_fusion_is_modulated_by_the_shares_of_its_logits(fusion):
    net, samples = network(fusion=fusion, seed=3), batch(seed=4)
    take_step(Joint(), net, samples)
    net.zero_grad()
    step = take_step(OGM(alpha=0.8, enhance=False), net, samples)
    k = coefficients(shares_by_hand(net, samples), samples, 0.8)
    assert min(k.values()) < 0.99
    modulated = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    step.backward(step.losses["joint"])
    for name, parameter in net.named_parameters():
        if parameter.grad is not None:
            factor = k[name.split(".")[1]] if name.startswith("encoders") else 1
            torch.testing.assert_close(modulated[name], factor * parameter.grad)


@pytest.mark.parametrize("modalities", ["av", "avt"])
def test_a_score_is_the_mean_over_the_samples_that_have_the_modality(modalities):
    present = {"a": [1, 1, 1, 0, 1, 0], "v": [1, 0, 1, 1, 1, 1], "t": [0, 0, 1, 1, 1, 1]}
    present = {m: present[m] for m in modalities}
    net, samples = network(modalities), batch(modalities, present=present)
    expected, k = expected_gradients(net, samples, alpha=0.8)
    everywhere = Batch(samples.inputs, samples.target)
    assert k != expected_gradients(net, everywhere, alpha=0.8)[1]
    take_step(OGM(enhance=False), net, samples)
    assert_gradients(net, expected)


def test_a_modality_that_a_whole_batch_lacks_slows_nobody():
    net, samples = network(), batch(present={"a": [1] * 6, "v": [0] * 6})
    take_step(OGM(enhance=False), net, samples)
    assert_gradients(net, ByHand(net, samples).gradient("joint"))


def test_a_modality_that_a_whole_batch_lacks_scores_the_mean_of_the_others():
    present = {"a": [1] * 6, "v": [0] * 6, "t": [1] * 6}
    samples = batch("avt", present=present)
    a, v, t = OGM().scores(Step(network("avt"), samples)).tolist()
    assert abs(a - t) > 1e-3
    assert v == pytest.approx((a + t) / 2)


def test_a_modality_that_a_whole_batch_lacks_is_neither_ahead_nor_behind():
    """Its own k is 1, and of the others the one that leads is damped."""
    present = {"a": [1] * 6, "v": [0] * 6, "t": [1] * 6}
    step = take_step(OGM(enhance=False), network("avt"), batch("avt", present=present))
    k = {m: step.logged["coefficient", m].item() for m in "avt"}
    assert k["v"] == 1
    assert sorted([k["a"], k["t"]])[0] < 0.9 and sorted([k["a"], k["t"]])[1] == 1
    assert step.logged["ratio", "v"].item() == pytest.approx(1)


def test_the_balancer_damps_by_the_functions_that_are_taught(monkeypatch):
    net, samples = network(), batch()
    monkeypatch.setattr(ogm, "discrepancy_ratios", lambda scores: scores.new_tensor([5.0, 7.0]))
    monkeypatch.setattr(
        ogm,
        "modulation_coefficients",
        lambda ratios, alpha, *, continuous: ratios / 10 * (alpha + continuous),
    )
    plain = ByHand(net, samples).gradient("joint")
    take_step(OGM(alpha=3.0, enhance=False, continuous=True), net, samples)
    for m, k in zip("av", (2.0, 2.8), strict=True):
        for parameter in net.encoders[m].parameters():
            plain[parameter] = k * plain[parameter]
    assert_gradients(net, plain)


@pytest.mark.parametrize("enhance", [False, True])
def test_a_score_that_is_no_number_shows(enhance):
    net, samples = network(), batch()
    samples.inputs["a"][0, 0] = torch.nan
    step = take_step(OGM(enhance=enhance), net, samples)
    for m in "av":
        assert step.logged["coefficient", m].isnan()
        assert all(p.grad.isnan().all() for p in net.encoders[m].parameters())


def test_the_score_leaves_no_graph():
    net, samples = network(), batch()
    step = Step(net, samples)
    assert not OGM().scores(step).requires_grad


def test_regression_is_refused_with_a_reason():
    net = network(outputs=1)
    with pytest.raises(ValueError, match="probability of the true class"):
        take_step(OGM(), net, batch(regression=True))


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": -0.1},
        {"alpha": float("nan")},
        {"scope": "convolution"},
        {"window": (5, 1)},
        {"window": (-1, 3)},
        {"window": 5},
        {"window": (0, None)},
        {"window": (0, 2.5)},
        {"on": "step"},
    ],
)
def test_arguments_out_of_range_are_refused(options):
    value = next(iter(options.values()))
    with pytest.raises(ValueError, match=re.escape(f"{value!r}; allowed")):
        OGM(**options)


def test_a_tensor_for_a_hyper_parameter_is_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"give a number.*`fit_seeds`"):
        OGM(alpha=torch.linspace(0, 1, 3))


def moved(net, samples, balancer, make, steps=30):
    """How far each encoder went."""
    optimizer = make(net.parameters())
    start = parameters(net)
    for _ in range(steps):
        optimizer.zero_grad()
        next(balancer.step(Step(net, samples, optimizer)))
        optimizer.step()
    return {
        m: torch.stack(
            [
                (p - start[f"encoders.{m}.{name}"]).norm()
                for name, p in net.encoders[m].named_parameters()
            ]
        ).norm()
        for m in net.modalities
    }


class Quarter(OGM):
    """OGM with the constant k = ¼ for both encoders."""

    def step(self, s):
        s.backward(s.losses["joint"])
        for m in s.modalities:
            s.scale_grad(m, 0.25)
        yield


def test_adam_hides_what_sgd_shows():
    """A trap to know: an adaptive optimiser divides a constant factor of the gradient out again."""
    samples = batch()
    for make, low, high in (
        (lambda p: torch.optim.SGD(p, lr=1e-3), 0.24, 0.26),
        (lambda p: torch.optim.Adam(p, lr=1e-3), 0.98, 1.02),
    ):
        full = moved(network(), samples, Joint(), make)
        quarter = moved(network(), samples, Quarter(), make)
        for m in "av":
            assert low < quarter[m] / full[m] < high


def test_helper_sizes_are_what_the_reference_assumes():
    assert all(x.shape[1] == SIZES[m] for m, x in batch("avt").inputs.items())
    assert ByHand(network(), batch()).features["a"].shape == (6, WIDTH)


@pytest.mark.parametrize("flag", ["enhance", "continuous"])
def test_a_flag_is_true_or_false(flag):
    with pytest.raises(TypeError, match=f"{flag} is 'no'; give True or False"):
        OGM(**{flag: "no"})


def test_a_whole_update_is_damped_and_a_conv_scope_is_not():
    with pytest.raises(ValueError, match="scope must be 'encoder'; it is 'conv'"):
        OGM(on="update", scope="conv")


# On the update


def driven(balancer, make, steps=3):
    """Where a network ends after some steps, and the coefficients of each step."""
    net, k = network(), []
    optimizer = make(net.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        s = Step(net, batch(), optimizer, draws=Draws())
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for _ in balancer.step(s):
                optimizer.step()
        k.append({m: s.logged["coefficient", m].item() for m in net.modalities})
    return net, k


@pytest.mark.parametrize("enhance", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_on_the_update_what_the_optimiser_makes_of_the_gradient_is_damped(kind, enhance):
    """By hand: the plain update of each step, noise and all, times k for the encoders."""
    make = lambda p: kind(p, lr=0.05)  # noqa: E731
    balancer = OGM(on="update", enhance=enhance)
    net, k = driven(balancer, make)
    assert any(own < 1 for step in k for own in step.values())
    other = network()
    optimizer = make(other.parameters())
    for coefficient in k:
        optimizer.zero_grad()
        s = Step(other, batch(), optimizer, draws=Draws())
        s.backward(s.losses["joint"])
        if enhance:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                for m in other.modalities:
                    s.add_noise(m, s.spread(m))
        before = {
            m: [p.detach().clone() for p in e.parameters()] for m, e in other.encoders.items()
        }
        optimizer.step()
        for m, encoder in other.encoders.items():
            for p, old in zip(encoder.parameters(), before[m], strict=True):
                p.data.lerp_(old, 1 - coefficient[m])
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("epoch", [0, 2])
def test_outside_the_window_no_update_is_damped_and_none_is_noisy(epoch):
    nets = [network(), network()]
    for net, balancer in zip(nets, (OGM(on="update", window=(1, 1)), Joint()), strict=True):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        next(balancer.step(Step(net, batch(), optimizer, epoch=epoch)))
        optimizer.step()
    for one, other in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(one, other)


def test_under_adam_a_factor_on_the_gradient_hardly_damps_and_one_on_the_update_does():
    distance = {}
    for on in ("gradient", "update"):
        net, _ = driven(
            OGM(alpha=3.0, enhance=False, on=on), lambda p: torch.optim.Adam(p, lr=1e-3), steps=1
        )
        start = dict(network().named_parameters())
        k = driven(OGM(alpha=3.0), lambda p: torch.optim.SGD(p, lr=0.0), steps=1)[1][0]
        slow = min(k, key=k.get)
        assert k[slow] < 0.1
        distance[on] = sum(
            (p - start[name]).square().sum().item()
            for name, p in net.named_parameters()
            if name.startswith(f"encoders.{slow}.")
        )
    assert distance["update"] < 0.02 * distance["gradient"]
