"""ReconBoost: who learns in which phase, from which loss, and what the sum predicts."""

import copy
import math

import numpy as np
import pytest
import torch
from by_hand import (
    CLASSES,
    ByHand,
    array,
    assert_gradients,
    batch,
    data,
    layer,
    mlp,
    network,
    parameters,
    softmax,
)
from torch.nn import functional as F

from mmlab import Batch, MultimodalData, ReconBoost, Step, fit, fit_seeds
from mmlab.balancers.reconboost import added, alignment_gaps, boosting_weights
from mmlab.datasets.synthetic import synthetic
from mmlab.training import begin

PRESENT = {"a": [1, 0, 1, 1, 0, 1], "v": [0, 1, 1, 1, 1, 1], "t": [1, 1, 0, 0, 0, 1]}
TRAINING = {"batch_size": 8, "lr": 0.1, "device": "cpu"}


def net_of(modalities="av", **options):
    return network(modalities, fusion="late", heads="shared", **options)


def trained(balancer, net, samples=None, **options):
    return fit(net, samples or data(net.modalities), balancer, **{"epochs": 4} | TRAINING | options)


def boosted(rate, **options):
    balancer = ReconBoost(**options)
    balancer.boost.rate.data.fill_(rate)
    return balancer


# --- the pure functions ---------------------------------------------------------------------------


def test_the_weight_falls_with_what_the_others_know():
    p = torch.rand(3, 5, dtype=torch.float64)
    found = boosting_weights(p, 7, 5.0, 2.0)
    np.testing.assert_allclose(found, (5 - 2 * p.numpy()) / 7, rtol=1e-12)
    with pytest.raises(ValueError, match="classes is 0"):
        boosting_weights(p, 0, 5.0, 1.0)
    with pytest.raises(ValueError, match=r"truth \(\)"):
        boosting_weights(p[0, 0], 3, 5.0, 1.0)


def test_the_gap_is_that_of_the_predictions():
    draw = np.random.default_rng(0)
    z, e = draw.normal(size=(2, 4, 5, 3))
    pair = torch.from_numpy(z), torch.from_numpy(e)
    known = ((softmax(z) - softmax(e)) ** 2).mean(-1)
    np.testing.assert_allclose(alignment_gaps(*pair), known, rtol=1e-12)
    odds = (1 / (1 + np.exp(-z)) - 1 / (1 + np.exp(-e))) ** 2
    np.testing.assert_allclose(alignment_gaps(*pair, "multilabel"), odds.mean(-1), rtol=1e-12)
    with pytest.raises(ValueError, match=r"logits \(5, 3\), earlier \(5, 2\)"):
        alignment_gaps(torch.zeros(5, 3), torch.zeros(5, 2))


def test_the_sum_is_over_those_that_a_sample_has():
    z = torch.arange(12.0).view(2, 2, 3)
    assert torch.equal(added(z), z[0] + z[1])
    found = added(z, torch.tensor([[True, False], [True, True]]))
    assert torch.equal(found, torch.stack([z[0, 0] + z[1, 0], z[1, 1]]))


# --- the first phase ------------------------------------------------------------------------------


def first_phase(net, samples, k, earlier, *, alpha, rate, w1, w2):
    """{parameter: gradient}, the weight and the gap of the stage of k, in numpy."""
    known, order = ByHand(net, samples), net.modalities
    present = samples.present or {m: torch.ones(len(samples.target)) for m in order}
    has = {m: present[m].numpy().astype(float)[:, None] for m in order}
    rest = rate * sum(has[m] * known.logits[m] for m in order if m != k)
    truth = (softmax(rest) * known.target).sum(1, keepdims=True)
    weight = (w1 - w2 * truth) / CLASSES
    p, q = softmax(known.logits[k]), softmax(known.logits[earlier])
    counted = known._counted(k)
    gap = has[earlier] * ((p - q) ** 2).mean(1, keepdims=True)
    slope = has[earlier] * 2 * (p - q) / CLASSES
    through = p * (slope - (slope * p).sum(1, keepdims=True))  # of a softmax
    error = counted * (weight * (p - known.target) + alpha * through)
    expected = layer(net.heads, known.features[k], error)
    expected |= layer(net.encoders[k], known.x[k], error @ array(net.heads.weight))
    return expected, (weight * counted).sum(), (gap * counted).sum()


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(
    ("modalities", "stage", "k", "earlier"),
    [
        ("av", 0, "a", "v"),
        ("av", 1, "v", "a"),
        ("av", 2, "a", "v"),
        ("avt", 2, "t", "v"),
        ("avt", 3, "a", "t"),
    ],
)
def test_one_modality_and_the_head_learn(modalities, stage, k, earlier, missing):
    net = net_of(modalities)
    samples = batch(modalities, present={m: PRESENT[m] for m in modalities} if missing else None)
    numbers = {"alpha": 2.0, "rate": 1.5, "w1": 4.0, "w2": 3.0}
    balancer = boosted(1.5, alpha=2.0, own=4.0, others=3.0, epochs_per_stage=2)
    s = Step(net, samples, epoch=4 * stage + 1)  # the last epoch of the first phase
    next(balancer.step(s))
    live = {**numbers, "alpha": 2.0 if stage else 0.0}
    expected, weight, gap = first_phase(net, samples, k, earlier, **live)
    assert_gradients(net, expected)
    assert float(s.logged["weight", k]) == pytest.approx(weight)
    assert float(s.logged["gap", k]) == pytest.approx(gap)
    assert {m for _, m in s.logged} == {k}
    assert balancer.boost.rate.grad is None
    for m in set(modalities) - {k}:  # none, not 0: an optimiser would move it by its momentum
        assert all(p.grad is None for p in net.encoders[m].parameters())


def test_the_alignment_has_a_gradient_and_pulls_towards_the_modality_before():
    """In the released code both are detached, and α changes nothing."""
    samples, gaps = data("av", size=48), {}
    for alpha in (0.0, 20.0):
        balancer, net = ReconBoost(alpha, epochs_per_stage=4), net_of(encoder=mlp)
        run = trained(balancer, net, samples, epochs=16)
        gap = run.history.query("metric == 'gap' and output == 'v'").set_index("epoch").value
        gaps[alpha] = gap[12]
    assert gaps[20.0] < 0.8 * gaps[0.0]


def test_others_do_not_move_by_a_bit_not_even_by_momentum_or_decay():
    def optimizer(parameters):
        return torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=0.1)

    kept, net = [], net_of("avt", encoder=mlp)
    balancer = ReconBoost(epochs_per_stage=1)

    def look(run):
        kept.append(parameters(net) | {"rate": balancer.boost.rate.detach().clone()})

    trained(balancer, net, epochs=6, optimizer=optimizer, lr=None, observers=[look])
    for stage, m in enumerate("avt"):
        start, first, second = kept[2 * stage : 2 * stage + 3]
        for key in parameters(net):
            mine = key.startswith((f"encoders.{m}.", "heads.", "fusion.heads."))
            assert torch.equal(first[key], start[key]) != mine, key
            assert not torch.equal(second[key], first[key]), key
        assert first["rate"] == start["rate"] and second["rate"] != first["rate"]


# --- the second phase and the prediction ----------------------------------------------------------


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("modalities", ["av", "avt"])
def test_in_the_second_phase_all_learn_from_the_sum(modalities, missing):
    net, rate = net_of(modalities), 1.5
    samples = batch(modalities, present={m: PRESENT[m] for m in modalities} if missing else None)
    balancer, known = boosted(rate, epochs_per_stage=2), ByHand(net, samples)
    s = Step(net, samples, epoch=2)  # the first epoch of the phase
    next(balancer.step(s))
    masks = samples.present or {m: torch.ones(6) for m in modalities}
    has = {m: masks[m].numpy().astype(float)[:, None] for m in modalities}
    total = sum(has[m] * known.logits[m] for m in modalities)
    error = (softmax(rate * total) - known.target) / 6
    expected = {}
    for m in modalities:
        own = rate * has[m] * error
        for p, grad in layer(net.heads, known.features[m], own).items():
            expected[p] = expected.get(p, 0) + grad
        expected |= layer(net.encoders[m], known.x[m], own @ array(net.heads.weight))
    assert_gradients(net, expected)
    assert float(balancer.boost.rate.grad) == pytest.approx((error * total).sum(), rel=1e-6)
    loss = -np.log((softmax(rate * total) * known.target).sum(1)).mean()
    assert s.losses.computed["boosted"].item() == pytest.approx(loss)


def test_the_prediction_is_b_times_the_sum_over_what_is_there():
    net, samples = net_of("avt"), batch("avt", present=PRESENT)
    logits = ByHand(net, samples).logits
    known = 1.5 * sum(np.array(PRESENT[m], float)[:, None] * logits[m] for m in "avt")
    found = boosted(1.5).fuse(net(samples.inputs), samples.present)
    np.testing.assert_allclose(found.detach(), known, rtol=1e-6)
    whole = boosted(1.5).fuse(net(samples.inputs))
    np.testing.assert_allclose(whole.detach(), 1.5 * sum(logits.values()), rtol=1e-6)
    nobody = {m: torch.zeros(6, dtype=torch.bool) for m in "avt"}
    with pytest.raises(ValueError, match="sample 0 has no modality at all"):
        boosted(1.0).fuse(net(samples.inputs), nobody)


def test_a_run_predicts_by_the_rate_that_it_has_learnt():
    run = trained(ReconBoost(), net_of())
    rate = run.balancer.boost.rate
    assert rate is run.modules.rate and rate.detach() != 1
    out = run.model(run.data.test.inputs)
    torch.testing.assert_close(
        run.predict(run.data.test), (rate * sum(out.unimodal.values())).detach()
    )


# --- stages ---------------------------------------------------------------------------------------


def test_each_phase_begins_with_a_fresh_optimiser():
    held, net = [], net_of()
    balancer = ReconBoost(epochs_per_stage=2)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    run = begin(net, data(), balancer, optimizer, epochs=8)
    while run.epoch < run.epochs:
        run.next_epoch()
        held.append(len(optimizer.state))
        for some in run.batches():
            for _ in balancer.step(Step(net, some, optimizer, run.epoch)):
                optimizer.step()
                optimizer.zero_grad()
        run.epoch += 1
    assert [count == 0 for count in held] == [True, False] * 4


@pytest.mark.parametrize(
    ("epochs", "given", "phase"), [(40, None, 4), (16, None, 4), (15, None, 3), (4, None, 1)]
)
def test_a_run_that_is_too_short_for_4_epochs_takes_fewer(epochs, given, phase, recwarn):
    balancer, net = ReconBoost(epochs_per_stage=given), net_of()
    begin(net, data(), balancer, torch.optim.SGD(net.parameters(), 0.1), epochs=epochs)
    assert balancer.phase == phase and not recwarn.list


def test_of_three_modalities_each_has_a_stage_too(recwarn):
    balancer, net = ReconBoost(), net_of("avt")
    begin(net, data("avt"), balancer, torch.optim.SGD(net.parameters(), 0.1), epochs=12)
    assert balancer.phase == 2 and not recwarn.list


def test_a_second_training_learns_its_rate_from_1_again():
    balancer = boosted(3.0)
    assert balancer.modules(net_of()).rate == 1 and balancer.boost.rate == 1


@pytest.mark.parametrize(
    ("epochs", "given", "fix"),
    [(8, 4, r"give epochs_per_stage=2$"), (3, None, r"give epochs_per_stage=1 and epochs=4 or m")],
)
def test_a_run_without_a_stage_for_each_says_what_to_set(epochs, given, fix):
    balancer, net = ReconBoost(epochs_per_stage=given), net_of()
    with pytest.warns(UserWarning, match=rf"{epochs} epochs have no stage for each of 2 .*{fix}"):
        begin(net, data(), balancer, torch.optim.SGD(net.parameters(), 0.1), epochs=epochs)


def test_pretrained_encoders_were_trained_alone():
    """Whole batches and plain SGD: the training can be written down."""
    samples, net = data("avt"), net_of("avt", encoder=mlp)
    start = copy.deepcopy(net)
    balancer = ReconBoost(pretrain=3)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    run = begin(net, samples, balancer, optimizer, epochs=6, batch_size=24)
    run.next_epoch()
    for m in "avt":
        encoder, head = copy.deepcopy((start.encoders[m], start.heads))
        own = torch.optim.SGD([*encoder.parameters(), *head.parameters()], 0.1)
        for _ in range(3):
            own.zero_grad()
            F.cross_entropy(head(encoder(samples.train.inputs[m])), samples.train.target).backward()
            own.step()
        for mine, known in zip(net.encoders[m].parameters(), encoder.parameters(), strict=True):
            torch.testing.assert_close(mine, known, rtol=1e-9, atol=1e-12)
    for mine, first in zip(net.heads.parameters(), start.heads.parameters(), strict=True):
        assert torch.equal(mine, first)
    after = parameters(net)
    run.epoch = 1
    run.next_epoch()
    assert all(torch.equal(p, after[key]) for key, p in parameters(net).items())


# --- other data -----------------------------------------------------------------------------------


def test_a_batch_without_the_modality_of_the_stage_teaches_nothing():
    net, samples = net_of(), batch(present={"a": [0] * 6, "v": [1] * 6})
    s = Step(net, samples)
    next(ReconBoost().step(s))
    assert all(p.grad is None or not p.grad.any() for p in net.parameters())
    assert s.logged["weight", "a"] == 0


def test_of_several_labels_the_mean_probability_counts():
    samples = batch()
    target = torch.rand(6, CLASSES, generator=torch.Generator().manual_seed(3)) < 0.5
    net = net_of()
    net.task = "multilabel"
    s = Step(net, Batch(samples.inputs, target))
    next(ReconBoost().step(s))
    z, y = ByHand(net, samples).logits["v"], target.numpy()
    p = 1 / (1 + np.exp(-z))
    truth = np.where(y, p, 1 - p).mean(1)
    assert float(s.logged["weight", "a"]) == pytest.approx(((5 - truth) / CLASSES).mean())


@pytest.mark.parametrize("heads", ["own", "shared"])
@pytest.mark.parametrize("pretrain", [0, 1])
def test_many_seeds_are_one_program(heads, pretrain):
    samples = synthetic(n=(48, 16, 32), dims=5)
    makers = [lambda a=a: ReconBoost(alpha=a, pretrain=pretrain) for a in (0.0, 4.0)]
    build = {"width": 8, "heads": heads}
    options = {"seeds": [0, 1], "build": build, "epochs": 4, **TRAINING}
    runs = fit_seeds(samples, makers, at_once=True, **options)
    alone = fit_seeds(samples, makers, at_once=False, **options)
    for run, one in zip(runs, alone, strict=True):
        assert run.together == 2
        torch.testing.assert_close(
            run.predict(samples.test), one.predict(samples.test), rtol=1e-4, atol=1e-5
        )
        mine, theirs = (x.balancer.boost.rate.detach() for x in (run, one))
        torch.testing.assert_close(mine, theirs)


# --- what is refused ------------------------------------------------------------------------------


def test_real_targets_are_refused():
    splits = [batch(size=16, seed=seed, regression=True) for seed in range(3)]
    numbers = MultimodalData(*splits, task="regression")
    with pytest.raises(ValueError, match=r"ReconBoost needs class labels.*For regression use"):
        trained(ReconBoost(), net_of(outputs=1), numbers)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"alpha": -1}, ValueError, "alpha is -1; allowed is a number ≥ 0"),
        ({"alpha": math.nan}, ValueError, "alpha is nan"),
        ({"own": 0.5}, ValueError, "own is 0.5; allowed is a number above 0 and ≥ 1"),
        ({"others": "1"}, TypeError, "others is '1'; give a number"),
        ({"epochs_per_stage": 0}, ValueError, "epochs_per_stage is 0"),
        ({"pretrain": -1}, ValueError, "pretrain is -1"),
    ],
)
def test_numbers_out_of_range_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        ReconBoost(**given)
