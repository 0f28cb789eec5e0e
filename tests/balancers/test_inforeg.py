"""InfoReg against numpy: its Fisher traces, whom it holds how long, and a whole training."""

import math

import numpy as np
import pytest
import torch
from by_hand import (
    ByHand,
    assert_gradients,
    batch,
    data,
    flat,
    logged,
    mlp,
    network,
    parameters,
    softmax,
    take_step,
)

from mmlab import InfoReg, Uniform, fit
from mmlab.balancers.inforeg import pull_strengths, trace_growth


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


class Beginning:
    """What `epoch` asks of a run."""

    def __init__(self, model):
        self.model = model


def begun(net, **options):
    """A method in its first epoch, whose encoders have moved since it began."""
    balancer = InfoReg(**options)
    balancer.epoch(Beginning(net))
    moved = {}
    draw = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for p in net.encoders.parameters():
            moved[p] = 0.1 * torch.randn(p.shape, generator=draw, dtype=p.dtype)
            p += moved[p]
    return balancer, moved


# --- the pure functions ---------------------------------------------------------------------------


def test_growth_is_that_of_the_mean_of_the_last_epochs():
    draw = np.random.default_rng(0)
    traces = draw.random((14, 2)) + 0.5
    for count in range(1, 15):
        padded = np.concatenate([np.zeros((4, 2)), traces[:count]])
        now, before = padded[-3:].mean(0), padded[-4:-1].mean(0)
        found = trace_growth(torch.from_numpy(traces[:count]), 3)
        np.testing.assert_allclose(found.numpy(), (now - before) / now)


def test_a_constant_trace_grows_until_the_window_is_full():
    growth = [trace_growth(double(*[[2.0]] * epochs)).item() for epochs in (1, 2, 10, 11, 20)]
    assert growth == pytest.approx([1, 0.5, 0.1, 0, 0])
    assert trace_growth(torch.zeros(3, 2)).tolist() == [0, 0]
    assert trace_growth(double(*[[8.0]] * 10, [4.0])).item() < 0
    stack = torch.rand(5, 12, 2, dtype=torch.float64)
    torch.testing.assert_close(trace_growth(stack)[3], trace_growth(stack[3]))
    with pytest.raises(ValueError, match="traces"):
        trace_growth(torch.zeros(0, 2))


def test_who_is_ahead_and_grows_is_held():
    """The other sign, that of the modality behind, fails here."""
    k = pull_strengths(double(0.6, 0.4), double(1.0, 1.0), 0.95)
    assert k.tolist() == pytest.approx([0.95 * math.exp(math.tanh(0.2)), 0])
    assert pull_strengths(double(0.4, 0.6), double(1.0, 1.0))[0] == 0
    assert pull_strengths(double(0.5, 0.5), double(1.0, 1.0)).tolist() == [0, 0]
    assert pull_strengths(double(0.6, 0.4), double(0.05, 1.0)).tolist() == [0, 0]
    assert pull_strengths(double(0.6, 0.4), double(0.051, 0.0))[0] > 0


def test_with_three_modalities_the_gap_is_to_the_mean_of_the_others():
    k = pull_strengths(double(0.6, 0.5, 0.1), double(1.0, 1.0, 1.0), 2.0)
    known = [2 * math.exp(math.tanh(x)) if x > 0 else 0 for x in (0.3, 0.15, -0.45)]
    assert k.tolist() == pytest.approx(known)
    each = pull_strengths(
        double([0.6, 0.4], [0.6, 0.4]), torch.ones(2, 2), double([1.0], [3.0]), 0.5
    )
    assert each[1, 0].item() == pytest.approx(3 * each[0, 0].item())
    with pytest.raises(ValueError, match="M ≥ 2"):
        pull_strengths(double(0.6), double(1.0))
    with pytest.raises(ValueError, match="beta is -1"):
        pull_strengths(double(0.6, 0.4), double(1.0, 1.0), -1)


# --- a step by hand -------------------------------------------------------------------------------


def scores_by_hand(net, samples):
    hand, found = ByHand(net, samples), {}
    for m in net.modalities:
        right = (softmax(hand.logits[m]) * hand.target).sum(1)
        mask = np.ones(len(right)) if samples.present is None else samples.present[m].numpy()
        found[m] = (right * mask).sum() / mask.sum()
    return found


def strengths_by_hand(scores, beta=0.95):
    found = {}
    for m, score in scores.items():
        gap = score - np.mean([x for n, x in scores.items() if n != m])
        found[m] = beta * math.exp(math.tanh(gap)) if gap > 0 else 0.0
    return found


PRESENT = {"a": [1, 1, 1, 0, 1, 0], "v": [1, 0, 1, 1, 1, 1], "t": [0, 0, 1, 1, 1, 1]}


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("modalities", ["av", "avt"])
def test_a_step_is_uniform_and_a_pull_on_who_is_ahead(modalities, missing):
    net = network(modalities)
    samples = batch(modalities, present={m: PRESENT[m] for m in modalities} if missing else None)
    balancer, moved = begun(net)
    known = ByHand(net, samples).total(dict.fromkeys(["joint", *modalities], 1.0))
    trace = {m: (flat(net, m, known) ** 2).sum() for m in modalities}
    k = strengths_by_hand(scores_by_hand(net, samples))
    assert 0 < sum(x > 0 for x in k.values()) < len(k)
    for m in modalities:
        for p in net.encoders[m].parameters():
            known[p] = known[p] + k[m] * moved[p]  # added, not in place of it
    step = take_step(balancer, net, samples)
    assert_gradients(net, known)
    assert logged(step, "coefficient") == pytest.approx(k)
    assert logged(step, "fisher trace") == pytest.approx(trace)


def test_the_pull_is_to_where_the_epoch_began():
    """Far stronger than the loss, it takes the encoder back."""
    net, samples = network(), batch()
    balancer, _ = begun(net, beta=100.0)
    ahead = max("av", key=scores_by_hand(net, samples).get)
    step = take_step(balancer, net, samples)
    k = logged(step, "coefficient")[ahead]
    before = [p.detach().clone() for p in net.encoders[ahead].parameters()]
    with torch.no_grad():
        for p in net.encoders[ahead].parameters():
            p -= p.grad / k
    for p, first, old in zip(
        net.encoders[ahead].parameters(), balancer.starts[ahead], before, strict=True
    ):
        assert (p - first).norm() < 0.1 * (old - first).norm()


def test_without_a_run_there_is_no_start_to_be_pulled_to_and_that_is_said():
    net, samples = network(), batch()
    with pytest.warns(UserWarning, match=r"loop it is the uniform sum\. Call run = mmlab"):
        take_step(InfoReg(), net, samples)
    assert_gradients(net, ByHand(net, samples).total({"joint": 1.0, "a": 1.0, "v": 1.0}))


def test_it_ends_when_the_trace_no_longer_grows():
    net, samples = network(), batch()
    balancer, _ = begun(net, window=2)
    known = ByHand(net, samples).total({"joint": 1.0, "a": 1.0, "v": 1.0})
    flat_traces = [double(1.0, 1.0)] * 3
    balancer.traces = flat_traces
    take_step(balancer, net, samples)
    assert_gradients(net, known)
    ahead = max("av", key=scores_by_hand(net, samples).get)
    rises = double(*(2.0 if m == ahead else 1.0 for m in "av"))
    balancer.traces = [*flat_traces[1:], rises]
    net.zero_grad()
    step = take_step(balancer, net, samples)
    assert logged(step, "coefficient")[ahead] > 0.9
    other = double(*(1.0 if m == ahead else 2.0 for m in "av"))
    balancer.traces = [*flat_traces[1:], other]  # whose trace counts: that of who is ahead
    step = take_step(balancer, net, samples)
    assert set(logged(step, "coefficient").values()) == {0}


# --- whole trainings ------------------------------------------------------------------------------


def test_a_training_follows_the_loop_by_hand():
    """Four epochs of three batches; a window of 1, so that epochs are held and others are not."""
    tiny, window, rate = data(), 1, 0.3
    net, hand = network(), network()
    orders = []

    class Watched(InfoReg):
        def step(self, s):
            orders.append(s.batch)
            yield from super().step(s)

    balancer = Watched(beta=2.0, threshold=0.02, window=window)
    run = fit(
        net,
        tiny,
        balancer,
        epochs=4,
        batch_size=8,
        optimizer=lambda p: torch.optim.SGD(p, lr=rate),
        device="cpu",
    )
    traces, held = [], []
    for epoch in range(4):
        start, sums = parameters(hand), dict.fromkeys("av", 0.0)
        for samples in orders[3 * epoch : 3 * epoch + 3]:
            grads = ByHand(hand, samples).total({"joint": 1.0, "a": 1.0, "v": 1.0})
            k = strengths_by_hand(scores_by_hand(hand, samples), 2.0)
            for m in "av":
                sums[m] += (flat(hand, m, grads) ** 2).sum()
                before = traces[-2][m] if len(traces) > 1 else 0
                growth = (traces[-1][m] - before) / traces[-1][m] if traces else 1
                k[m] *= growth > 0.02
                held.append(k[m] > 0)
                for part in ("weight", "bias"):
                    p = getattr(hand.encoders[m], part)
                    grads[p] = grads[p] + k[m] * (p.detach() - start[f"encoders.{m}.{part}"])
            with torch.no_grad():
                for p, grad in grads.items():
                    p -= rate * grad
        traces.append({m: x / 3 for m, x in sums.items()})
    for name, value in parameters(net).items():
        torch.testing.assert_close(value, parameters(hand)[name], msg=lambda s, n=name: n + s)
    assert any(held[6:]) and not all(held)
    for kept, known in zip(balancer.traces, traces[1:3], strict=True):
        torch.testing.assert_close(kept, double(*known.values()))
    found = run.history.query("metric == 'fisher trace'").pivot(
        columns="output", index="epoch", values="value"
    )
    for m in "av":
        assert found[m].tolist() == pytest.approx([x[m] for x in traces], rel=1e-5)


def ended(balancer, **options):
    net = network(encoder=mlp)
    fit(net, data(), balancer, epochs=2, batch_size=8, device="cpu", lr=0.1, **options)
    return net


def test_beta_0_is_uniform_training_and_more_holds_the_encoders_near_their_start():
    ends = {beta: parameters(ended(InfoReg(beta=beta))) for beta in (0.0, 0.95, 5.0)}
    uniform, start = parameters(ended(Uniform())), parameters(network(encoder=mlp))
    moved = []
    for end in ends.values():
        gaps = [(end[key] - start[key]).norm() for key in start if key.startswith("encoders")]
        moved.append(torch.stack(gaps).norm().item())
    assert all(torch.allclose(ends[0.0][key], uniform[key]) for key in uniform)
    assert moved[0] > 1.02 * moved[1] > 1.02 * moved[2]


def test_a_new_run_forgets_the_last_one():
    balancer = InfoReg()
    runs = [
        fit(network(), data(), balancer, epochs=3, batch_size=8, device="cpu") for _ in range(2)
    ]
    assert runs[0].rows == runs[1].rows
    assert len(balancer.traces) == 2 and balancer.steps == 3


def test_it_remembers_no_more_epochs_than_it_needs():
    balancer = InfoReg(window=2)
    fit(network(), data(), balancer, epochs=6, batch_size=8, device="cpu")
    assert len(balancer.traces) == 3


def test_a_modality_that_a_whole_batch_lacks_is_not_held():
    net = network("avt")
    balancer, _ = begun(net)
    present = {"a": [1] * 6, "v": [0] * 6, "t": [1] * 6}
    step = take_step(balancer, net, batch("avt", present=present))
    k = logged(step, "coefficient")
    assert k["v"] == 0 and sorted([k["a"], k["t"]])[0] == 0 and max(k.values()) > 0.9


def test_a_frozen_encoder_is_neither_measured_nor_pulled():
    net = network()
    net.encoders["a"].requires_grad_(False)
    balancer, _ = begun(net)
    step = take_step(balancer, net, batch())
    assert step.logged["fisher trace", "a"] == 0 < step.logged["fisher trace", "v"]
    assert all(p.grad is None for p in net.encoders["a"].parameters())


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -1}, r"beta is -1; allowed is a number ≥ 0"),
        ({"threshold": math.nan}, r"threshold is nan"),
        ({"window": 0}, r"window is 0; it must be a whole number of at least 1"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        InfoReg(**options)


def test_regression_is_refused():
    with pytest.raises(ValueError, match=r"InfoReg needs class labels.*For regression use"):
        take_step(InfoReg(), network(outputs=1), batch(regression=True))
