"""ATF's whole step: λ by the recurrence, the update it scales, and BDO's second hop."""

import copy

import numpy as np
import pytest
import torch
from by_hand import ByHand, assert_gradients, batch, data, mlp, network, parameters
from torch import nn

from mmlab import ATF, Step, fit
from mmlab.balancers import atf
from mmlab.balancers.atf import ace_update

OPTIMISERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
}


def shared_network(modalities="av", **options):
    return network(modalities, heads="shared", **options)


def whole_step(balancer, net, samples, optimizer, **options):
    """What `fit` does with one batch, written out."""
    optimizer.zero_grad()
    step = Step(net, samples, optimizer, **options)
    yields = 0
    for _ in balancer.step(step):
        yields += 1
        optimizer.step()
        optimizer.zero_grad()
    assert yields == 1
    return step


def unimodal_losses(net, samples):
    hand = ByHand(net, samples)
    return np.array([hand.loss[m] for m in net.modalities])


def ace(factors, losses, rate):
    """The recurrence as a moving average, another form of the same rule."""
    beta = rate * losses.sum() / (1 + rate * losses.sum())
    return (1 - beta) * factors + beta * losses / losses.sum()


def bdo(factors, before, after, rate):
    raised = [max(f + rate * (b - a), 0) for f, a, b in zip(factors, before, after, strict=True)]
    return np.array(raised) / sum(raised)


@pytest.mark.parametrize("update", ["ace", "bdo"])
@pytest.mark.parametrize("modalities", ["av", "avt"])
def test_the_factors_follow_the_recurrence_step_by_step(modalities, update):
    """BDO's ℓ⁺ is the loss of the *updated* parameters on the *same* batch."""
    net = shared_network(modalities)
    balancer = ATF(update=update, rate=0.7)
    optimizer = OPTIMISERS["momentum"](net.parameters())
    factors = np.full(len(modalities), 1 / len(modalities))
    for i in range(5):
        samples = batch(modalities, seed=i)
        before = unimodal_losses(net, samples)
        preliminary = ace(factors, before, 0.7)
        step = whole_step(balancer, net, samples, optimizer)
        used = [step.logged["factor", m].item() for m in modalities]
        np.testing.assert_allclose(used, preliminary * len(modalities), rtol=1e-12)
        factors = preliminary
        if update == "bdo":
            factors = bdo(preliminary, before, unimodal_losses(net, samples), 0.7)
        np.testing.assert_allclose(balancer.factors.numpy(), factors, rtol=1e-11)


def test_the_first_step_starts_from_equal_factors():
    net, samples = shared_network(), batch()
    a, v = unimodal_losses(net, samples)
    balancer = ATF(rate=0.5)
    whole_step(balancer, net, samples, OPTIMISERS["sgd"](net.parameters()))
    total = 1 + 0.5 * (a + v)
    expected = [(0.5 + 0.5 * a) / total, (0.5 + 0.5 * v) / total]
    np.testing.assert_allclose(balancer.factors.numpy(), expected, rtol=1e-12)


def test_the_modality_with_the_higher_loss_gets_the_higher_rate():
    net, samples = shared_network(), batch()
    a, v = unimodal_losses(net, samples)
    assert a != v
    step = whole_step(ATF(rate=0.5), net, samples, OPTIMISERS["sgd"](net.parameters()))
    factor = {m: step.logged["factor", m].item() for m in "av"}
    assert (factor["a"] > 1 > factor["v"]) if a > v else (factor["v"] > 1 > factor["a"])


def test_bdo_takes_rate_from_the_modality_that_improved():
    """Only v's encoder may move, and the head is frozen: so only v's loss falls."""
    net, samples = shared_network(), batch()
    for parameter in (*net.encoders["a"].parameters(), *net.heads.parameters()):
        parameter.requires_grad_(False)
    shares = {}
    for update in ("ace", "bdo"):
        mine = copy.deepcopy(net)
        before = unimodal_losses(mine, samples)
        balancer = ATF(update=update, rate=1.0, decoupled=True)
        whole_step(balancer, mine, samples, OPTIMISERS["sgd"](mine.parameters()))
        after = unimodal_losses(mine, samples)
        assert after[0] == before[0] and after[1] < before[1]
        shares[update] = balancer.factors
    assert shares["bdo"][1] < shares["ace"][1] - 1e-3
    assert shares["bdo"][0] > shares["ace"][0] + 1e-3


@pytest.mark.parametrize("total", ["modalities", "one"])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("modalities", ["av", "avt"])
def test_an_encoders_displacement_is_its_factor_times_the_plain_one(modalities, optimiser, total):
    """Under any optimiser; the fusion and the head move as they would without λ."""
    net = shared_network(modalities)
    optimizer = OPTIMISERS[optimiser](net.parameters())
    balancer = ATF(rate=2.0, total=total)
    factors = np.full(len(modalities), 1 / len(modalities))
    for i in range(4):
        samples = batch(modalities, seed=i)
        factors = ace(factors, unimodal_losses(net, samples), 2.0)
        scale = factors * (len(modalities) if total == "modalities" else 1)
        plain, plain_optimizer = copy.deepcopy((net, optimizer))
        weights = dict.fromkeys(["joint", *modalities], 1.0)
        for parameter, grad in ByHand(plain, samples).total(weights).items():
            parameter.grad = grad
        plain_optimizer.step()
        start, target = parameters(net), parameters(plain)
        whole_step(balancer, net, samples, optimizer)
        for name, value in parameters(net).items():
            k = 1.0
            if name.startswith("encoders"):
                k = scale[modalities.index(name.split(".")[1])]
                assert abs(k - 1) > 1e-3
            expected = k * (target[name] - start[name])
            torch.testing.assert_close(value - start[name], expected, rtol=1e-9, atol=2e-15)


def test_scaling_acts_once_and_not_on_the_next_step_too():
    net, samples = shared_network(), batch()
    optimizer = OPTIMISERS["sgd"](net.parameters())
    whole_step(ATF(rate=5.0), net, samples, optimizer)
    start, grads = parameters(net), ByHand(net, samples).gradient("joint")
    for parameter, grad in grads.items():
        parameter.grad = grad
    optimizer.step()
    for name, parameter in net.encoders.named_parameters():
        moved = parameter.detach() - start[f"encoders.{name}"]
        torch.testing.assert_close(moved, -0.1 * grads[parameter], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("decoupled", [False, True])
def test_decoupled_encoders_learn_from_their_own_loss_and_the_fusion_from_the_joint(decoupled):
    net, samples = shared_network(), batch()
    next(ATF(decoupled=decoupled).step(Step(net, samples, OPTIMISERS["sgd"](net.parameters()))))
    hand = ByHand(net, samples)
    expected = hand.total({"joint": 1, "a": 1, "v": 1})
    if decoupled:
        alone = hand.total({"a": 1, "v": 1})
        expected |= {p: alone[p] for p in net.encoders.parameters()}
    assert_gradients(net, expected)


class Noisy(nn.Module):
    """Dropout and batch statistics: all that a second look at a batch could disturb."""

    def __init__(self, size, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(size, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.last = nn.Linear(8, width)

    def forward(self, x):
        return self.last(self.layers(x))


def test_the_second_hop_draws_the_same_masks_and_leaves_no_trace():
    """With a rate of learning of 0 nothing moves, so ℓ⁺ must be ℓ to the last bit."""
    results = []
    for update in ("ace", "bdo"):
        net, samples = shared_network(encoder=Noisy), batch()
        torch.manual_seed(5)
        balancer = ATF(update=update, rate=0.7)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
        for _ in range(3):
            whole_step(balancer, net, samples, optimizer)
        results.append((balancer.factors, dict(net.named_buffers()), torch.get_rng_state()))
    (ace_factors, ace_buffers, ace_state), (factors, buffers, state) = results
    assert torch.equal(state, ace_state)
    for name, value in buffers.items():
        assert torch.equal(value, ace_buffers[name])
    assert buffers["encoders.a.layers.1.num_batches_tracked"] == 3
    torch.testing.assert_close(factors, ace_factors, rtol=1e-14, atol=0)


@pytest.mark.parametrize("update", ["ace", "bdo"])
def test_a_second_training_starts_afresh(update):
    tiny, balancer = data(), ATF(update=update, rate=1.0)
    runs = [
        fit(shared_network(), tiny, balancer, epochs=2, batch_size=8, device="cpu")
        for _ in range(2)
    ]
    assert runs[0].rows == runs[1].rows
    torch.testing.assert_close(parameters(runs[0].model), parameters(runs[1].model), rtol=0, atol=0)


@pytest.mark.parametrize("update", ["ace", "bdo"])
def test_training_follows_the_loop_by_hand(update):
    tiny = data()
    net, by_hand = shared_network(), shared_network()
    fit(
        net,
        tiny,
        ATF(update=update, rate=0.7),
        epochs=4,
        batch_size=len(tiny.train),
        optimizer=OPTIMISERS["sgd"],
        device="cpu",
    )
    factors = np.array([0.5, 0.5])
    for _ in range(4):
        before = unimodal_losses(by_hand, tiny.train)
        factors = ace(factors, before, 0.7)
        grads = ByHand(by_hand, tiny.train).total({"joint": 1, "a": 1, "v": 1})
        with torch.no_grad():
            for parameter, grad in grads.items():
                k = 1.0
                for m, factor in zip("av", factors, strict=True):
                    if any(parameter is p for p in by_hand.encoders[m].parameters()):
                        k = 2 * factor
                parameter -= 0.1 * k * grad
        if update == "bdo":
            factors = bdo(factors, before, unimodal_losses(by_hand, tiny.train), 0.7)
    torch.testing.assert_close(parameters(net), parameters(by_hand))


def test_it_learns_a_regression():
    net, samples = shared_network(encoder=mlp, outputs=1), batch(regression=True)
    balancer, optimizer = ATF(update="bdo"), OPTIMISERS["adam"](net.parameters())
    joint = [
        whole_step(balancer, net, samples, optimizer).losses["joint"].item() for _ in range(60)
    ]
    assert joint[-1] < 0.5 * joint[0]
    first = Step(shared_network(encoder=mlp, outputs=1), samples)
    error = (first.out.joint[:, 0] - samples.target).abs().mean().item()
    assert joint[0] == pytest.approx(error)


def test_an_absent_modality_keeps_its_encoder_and_its_factor():
    net, samples = shared_network(), batch(present={"a": [1] * 6, "v": [0] * 6})
    balancer, optimizer = ATF(decoupled=True), OPTIMISERS["sgd"](net.parameters())
    start = parameters(net)
    losses = unimodal_losses(net, samples)
    assert losses[1] == 0
    whole_step(balancer, net, samples, optimizer)
    np.testing.assert_allclose(balancer.factors, [0.5, 0.5], rtol=1e-12)
    assert torch.equal(parameters(net)["encoders.v.weight"], start["encoders.v.weight"])


def test_the_present_modalities_share_what_the_absent_one_leaves():
    balancer = ATF(rate=0.3)
    balancer.factors = torch.tensor([0.2, 0.5, 0.3]).double()
    samples = batch("avt", present={"a": [1] * 6, "v": [0] * 6, "t": [1] * 6})
    losses = torch.tensor([2.0, 7.0, 1.0]).double()  # the absent one has no say
    step = Step(shared_network("avt"), samples)
    after = ace_update(
        balancer.factors, balancer.known(losses, balancer.factors, step), balancer.rate
    )
    assert after[1].item() == pytest.approx(0.5)
    assert after[0] > 0.2 and after[2] < 0.3
    assert after.sum().item() == pytest.approx(1)


def test_where_the_present_modalities_have_no_rate_at_all_nothing_is_divided_by_zero():
    samples = batch(present={"a": [1] * 6, "v": [0] * 6})
    balancer = ATF(rate=0.3)
    balancer.factors = torch.tensor([0.0, 1.0]).double()
    step = Step(shared_network(), samples)
    known = balancer.known(torch.tensor([2.0, 0.0]).double(), balancer.factors, step)
    after = ace_update(balancer.factors, known, balancer.rate)
    assert after.isfinite().all()
    assert after.sum().item() == pytest.approx(1)
    silent = balancer.known(torch.zeros(2).double(), balancer.factors, step)
    torch.testing.assert_close(ace_update(balancer.factors, silent, 0.3), balancer.factors)


@pytest.mark.parametrize("update", ["ace", "bdo"])
def test_the_balancer_trains_by_the_functions_that_are_taught(update, monkeypatch):
    given = []
    fixed = torch.tensor([0.9, 0.1]).double()

    def another(factors, *losses_and_rate):
        given.append((factors, *losses_and_rate))
        return fixed

    monkeypatch.setattr(atf, f"{update}_update", another)
    net, samples = shared_network(), batch()
    before = torch.from_numpy(unimodal_losses(net, samples))
    balancer = ATF(update=update, rate=0.4)
    whole_step(balancer, net, samples, OPTIMISERS["sgd"](net.parameters()))
    (call,) = given
    after = torch.from_numpy(unimodal_losses(net, samples))
    expected = (before,) if update == "ace" else (before, after)
    for found, wanted in zip(call[1:-1], expected, strict=True):
        torch.testing.assert_close(found, wanted)
        assert not found.requires_grad
    assert call[-1] == 0.4 and balancer.factors is fixed


def test_a_loss_that_is_no_number_shows_in_the_factors():
    net, samples = shared_network(), batch()
    samples.inputs["a"][0, 0] = torch.nan
    step = whole_step(ATF(), net, samples, OPTIMISERS["sgd"](net.parameters()))
    assert all(step.logged["factor", m].isnan() for m in "av")


def test_without_an_optimiser_the_reason_is_named():
    with pytest.raises(ValueError, match="optimiser"):
        next(ATF().step(Step(shared_network(), batch())))


@pytest.mark.parametrize("options", [{"update": "sgd"}, {"total": "two"}, {"rate": -0.5}])
def test_arguments_out_of_range_are_refused(options):
    value = next(iter(options.values()))
    with pytest.raises(ValueError, match=str(value)):
        ATF(**options)
