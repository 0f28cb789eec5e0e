"""LFM: its alignments, its weights and a whole step, against numpy and finite differences."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from by_hand import (
    ByHand,
    array,
    assert_gradients,
    batch,
    data,
    mlp,
    network,
    normal,
    softmax,
    take_step,
)
from torch import nn
from torch.nn import functional as F

from mmlab import LFM, Batch, Joint, MultimodalNet, Step, fit, fit_seeds, load
from mmlab.balancers import lfm
from mmlab.balancers.lfm import (
    alignment_weight,
    info_nce,
    js_divergence,
    mean_logits,
    weight_gradient,
)
from mmlab.models import UnstackableError

GAPS = {"a": [1, 1, 1, 0, 1, 0], "v": [1, 0, 1, 1, 1, 1], "t": [0, 0, 1, 1, 1, 1]}


def gaps(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.6


def late(modalities="av", **options):
    return network(modalities, fusion="late", **options)


# --- alignments -----------------------------------------------------------------------------------


def contrast(features, temperature, present):
    """Pair by pair and sample by sample, both ways."""
    count, size, _ = features.shape
    found = []
    for a, v in itertools.combinations(range(count), 2):
        there = [i for i in range(size) if present[a, i] and present[v, i]]
        losses = []
        for i in there:
            for one, other in ((a, v), (v, a)):
                own = features[one, i]
                s = [
                    own
                    @ features[other, j]
                    / (np.linalg.norm(own) * np.linalg.norm(features[other, j]))
                    / temperature
                    for j in there
                ]
                losses.append(np.log(np.exp(s).sum()) - s[there.index(i)])
        found.append(np.mean(losses) if losses else 0.0)
    return np.mean(found)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("missing", [False, True])
def test_the_contrastive_loss_is_that_of_every_pair_of_modalities(count, missing):
    features = normal(count, 7, 5, seed=count)
    present = gaps(count, 7, seed=count) if missing else None
    have = np.ones((count, 7), bool) if present is None else present.numpy()
    found = info_nce(features, 0.3, present)
    assert found.dtype == torch.float64 and found.shape == ()
    assert found.item() == pytest.approx(contrast(features.numpy(), 0.3, have), rel=1e-12)


def test_features_that_agree_cost_less_than_those_of_other_samples():
    features = normal(6, 5)
    agree = info_nce(torch.stack([features, 3 * features]), 0.1)
    other = info_nce(torch.stack([features, features.roll(1, 0)]), 0.1)
    assert agree < 0.2 < 3 < other  # lengths do not count


def test_a_sample_that_lacks_a_modality_is_no_candidate():
    features = normal(2, 6, 5)
    present = torch.ones(2, 6, dtype=torch.bool)
    present[0, 4] = present[1, 5] = False
    altered = features.clone().requires_grad_()
    found = info_nce(altered, 0.2, present)
    torch.testing.assert_close(found, info_nce(features[:, :4], 0.2))
    found.backward()
    assert not altered.grad[:, 4:].any() and altered.grad[:, :4].any()


def divergence(p, q):
    m = (p + q) / 2
    return ((p * np.log(p / m)).sum(-1) + (q * np.log(q / m)).sum(-1)) / 2


@pytest.mark.parametrize("task", ["classification", "multilabel"])
@pytest.mark.parametrize("missing", [False, True])
def test_the_divergence_is_that_of_every_pair_of_predictions(task, missing):
    logits = 2 * normal(3, 8, 4)
    present = gaps(3, 8, seed=1) if missing else None
    z = logits.numpy()
    if task == "multilabel":
        yes = 1 / (1 + np.exp(-z))
        p = np.stack([yes, 1 - yes], axis=-1)
    else:
        p = softmax(z)[:, :, None]
    expected = []
    for a, v in itertools.combinations(range(3), 2):
        each = divergence(p[a], p[v]).mean(-1)
        expected.append(each.mean() if present is None else each[present[a] & present[v]].mean())
    found = js_divergence(logits, present, task)
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-12)


def test_the_divergence_is_symmetric_bounded_and_0_between_equals():
    a, v = normal(5, 4), normal(5, 4, seed=1)
    one, other = js_divergence(torch.stack([a, v])), js_divergence(torch.stack([v, a]))
    torch.testing.assert_close(one, other, rtol=1e-13, atol=0)
    assert 0 < one < math.log(2)
    assert js_divergence(torch.stack([a, a + 3])).item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("task", ["classification", "multilabel"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_divergence_and_its_gradient_are_finite_for_gaps_of_400(task, dtype):
    logits = torch.tensor([[[400.0, 0.0]], [[0.0, 400.0]]], dtype=dtype, requires_grad=True)
    found = js_divergence(logits, task=task)
    half = np.array([0.5, 0.5]), np.array([1 - 1e-15, 1e-15])  # a label's yes and no
    assert found.item() == pytest.approx(math.log(2) if task != "multilabel" else divergence(*half))
    found.backward()
    assert logits.grad.isfinite().all()


def test_the_arguments_are_not_reversed():
    """½ KL(m‖p) + ½ KL(m‖q), as in the released code, would be another number."""
    logits = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]], dtype=torch.float64)
    p, q = softmax(logits.numpy())[:, 0]
    m = (p + q) / 2
    reverse = ((m * np.log(m / p)).sum() + (m * np.log(m / q)).sum()) / 2
    found = js_divergence(logits).item()
    assert found == pytest.approx(divergence(p, q)) and abs(found - reverse) > 0.01


@pytest.mark.parametrize("align", [lambda x, p: info_nce(x, 0.3, p), js_divergence])
def test_alignments_broadcast_over_leading_axes(align):
    values, present = normal(2, 2, 3, 6, 4), gaps(2, 2, 3, 6)
    found = align(values, present)
    assert found.shape == (2, 2)
    for i, j in itertools.product(range(2), range(2)):
        torch.testing.assert_close(found[i, j], align(values[i, j], present[i, j]))


@pytest.mark.parametrize("align", [lambda x, p: info_nce(x, 0.3, p), js_divergence])
def test_a_pair_that_no_sample_has_counts_as_0(align):
    values = normal(2, 4, 3).requires_grad_()
    present = torch.tensor([[True] * 4, [False] * 4])
    found = align(values, present)
    assert found.item() == 0
    found.backward()
    assert not values.grad.any()


def test_features_of_0_have_a_finite_gradient():
    features = torch.zeros(2, 3, 4, dtype=torch.float64)
    features[0, 0] = features[1, 1] = 1
    features.requires_grad_()
    info_nce(features, 0.1).backward()
    assert features.grad.isfinite().all()
    assert info_nce(torch.zeros(2, 3, 4), 0.1).item() == pytest.approx(math.log(3))
    nearly = (1e-20 * normal(2, 3, 4)).requires_grad_()
    assert info_nce(nearly, 0.1).item() == pytest.approx(math.log(3))
    assert torch.autograd.grad(info_nce(nearly, 0.1), nearly)[0].abs().max() < 1  # 1e20 by itself


def test_each_network_may_have_its_own_temperature():
    features = normal(2, 2, 6, 4)
    found = info_nce(features, torch.tensor([[0.1], [0.7]], dtype=torch.float64))
    for row, features_of, temperature in zip(found, features, (0.1, 0.7), strict=True):
        torch.testing.assert_close(row, info_nce(features_of, temperature))


def test_one_modality_alone_is_refused():
    for align in (lambda x: info_nce(x, 0.1), js_divergence):
        with pytest.raises(ValueError, match=r"there is one alone; allowed are M ≥ 2"):
            align(torch.ones(1, 3, 2))
    with pytest.raises(ValueError, match=r"allowed are M ≥ 2"):
        take_step(LFM(), late("a"), batch("a"))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"features \(3, 2\).*\(…, M, B, D\)"):
        info_nce(torch.ones(3, 2), 0.1)
    with pytest.raises(ValueError, match=r"logits \(3, 2\).*\(…, M, B, C\)"):
        js_divergence(torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"gram \(3, 2\).*\(…, K, K\)"):
        weight_gradient(torch.ones(3, 2), 0.1)


# --- weights --------------------------------------------------------------------------------------


def test_the_schedule_falls_from_95_to_5_hundredths():
    found = [alignment_weight(epoch, 0.3).item() for epoch in range(12)]
    expected = [min(max(math.exp(-0.3 * epoch), 0.05), 0.95) for epoch in range(12)]
    assert found == pytest.approx(expected, rel=1e-12)
    assert found[0] == 0.95 and found[-1] == pytest.approx(0.05) and found[1] < 0.95
    assert alignment_weight(7, 0.0).item() == 0.95
    rates = torch.tensor([[0.1], [1.0]])
    torch.testing.assert_close(alignment_weight(1, rates), (-rates).exp().clamp(0.05, 0.95))


def test_the_derivative_of_a_step_is_what_the_gramian_says():
    """Two quadratic losses, in closed form."""
    ahead, classify, align = normal(3, 5)
    gram = torch.stack([ahead, classify, align])
    gram = gram @ gram.mT
    expected = -0.3 * ahead @ (align - classify)
    torch.testing.assert_close(weight_gradient(gram, 0.3), expected)
    both = weight_gradient(torch.stack([gram, 2 * gram]), 0.3)
    torch.testing.assert_close(both, torch.stack([expected, 2 * expected]))


class Looked:
    """What a method asks of its run, with a loss of one's own."""

    def __init__(self, net, found, lr, loss=None):
        self.model, self.data, self.loss, self.epoch = net, found, loss, 3
        self.optimizer = torch.optim.SGD(net.parameters(), lr=lr)
        self.recorded = {}

    def split(self, name):
        return self.data.splits[name]

    def record(self, split, output, metric, value):
        self.recorded[split, metric] = value


def smooth(prediction, target, reduction="mean"):
    return F.cross_entropy(prediction, target, label_smoothing=0.2, reduction=reduction)


@pytest.mark.parametrize("loss", [None, smooth])
@pytest.mark.parametrize("align", ["contrastive", "js"])
def test_the_slope_is_that_of_finite_differences(align, loss):
    """Of the holdout's loss after one step of SGD, at the loss of the method."""
    found = data("avt", missing=True)
    net = late("avt", encoder=mlp)
    before = copy.deepcopy(net.state_dict())
    balancer, run = LFM(align, "learned", weight_rate=2.0), Looked(net, found, lr=0.4, loss=loss)

    def after(k):
        """The holdout's loss after a step of 2 ((1 − k) L_cls + k L_align) at the rate 0.4."""
        own = late("avt", encoder=mlp)
        own.load_state_dict(before)
        optimizer = torch.optim.SGD(own.parameters(), lr=0.4)
        fixed = LFM(align, "learned")
        fixed.k = torch.tensor(k, dtype=torch.float64)
        take_step(fixed, own, found.train, loss=loss)
        optimizer.step()
        logits = fixed.fuse(own(found.holdout.inputs), found.holdout.present)
        return (loss or F.cross_entropy)(logits, found.holdout.target).item()

    balancer.epoch(run)
    start = float(torch.tensor(0.8))
    expected = (after(start + 1e-5) - after(start - 1e-5)) / 2e-5
    slope = run.recorded["holdout", "slope"].item()
    assert abs(expected) > 1e-3 and slope == pytest.approx(expected, rel=1e-6)
    assert balancer.k.item() == pytest.approx(start - 2.0 * slope, rel=1e-12)
    for name, value in net.state_dict().items():  # all this was on a copy
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in net.parameters()) and net.training


def test_it_looks_in_evaluation_mode_at_other_samples_in_every_epoch(monkeypatch):
    looks = []

    class Noting(LFM):
        def some(self, run, model, split):
            step = super().some(run, model, split)
            modes = {part.training for part in step.model.modules()}
            looks.append((split, modes, step.batch.inputs["a"][:, 0].tolist()))
            return step

    monkeypatch.setattr(lfm, "SAMPLES", 10)
    balancer = Noting(weight="learned")
    fit(late(encoder=mlp), data(), balancer, epochs=2, batch_size=8, device="cpu")
    assert [split for split, *_ in looks] == ["train", "holdout"] * 2
    assert all(modes == {False} for _, modes, _ in looks)
    first, second = looks[0][2], looks[2][2]
    assert len(first) == len(second) == 10 and {*first} != {*second}


def test_the_learnt_weight_stays_in_its_limits_and_begins_anew_with_each_training():
    tiny, ends = data(), []
    for rate in (1e6, 0.0):
        balancer = LFM(weight="learned", weight_rate=rate)
        fit(late(encoder=mlp), tiny, balancer, epochs=3, batch_size=8, device="cpu")
        ends.append(balancer.k.item())
    assert ends[0] in (pytest.approx(0.05), pytest.approx(0.95)) and ends[1] == pytest.approx(0.8)
    balancer.k = torch.tensor(0.3)
    fit(late(encoder=mlp), tiny, balancer, epochs=1, batch_size=8, device="cpu")
    assert balancer.k.item() == pytest.approx(0.8)


def test_the_learnt_weight_is_the_one_that_trains():
    net, samples = late(), batch()
    balancer = LFM(weight="learned")
    balancer.k = torch.tensor(0.25)
    step = take_step(balancer, net, samples, epoch=9)
    assert step.logged["weight", "alignment"].item() == 0.25
    assert step.logged["weight", "classification"].item() == 0.75
    other = late()
    fixed = LFM(decay=-math.log(0.25) / 9)
    take_step(fixed, other, samples, epoch=9)
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_the_test_split_is_never_read():
    tiny, results = data(), []
    for scale in (1.0, 100.0):
        tiny.test.inputs = {m: scale * x for m, x in tiny.test.inputs.items()}
        net = late(encoder=mlp)
        run = fit(net, tiny, LFM(weight="learned"), epochs=2, batch_size=8, device="cpu")
        results.append((run.balancer.k, [p.clone() for p in net.parameters()]))
    assert torch.equal(results[0][0], results[1][0])
    assert all(map(torch.equal, results[0][1], results[1][1]))
    tiny.holdout.inputs = {m: -x for m, x in tiny.holdout.inputs.items()}
    run = fit(late(encoder=mlp), tiny, LFM(weight="learned"), epochs=2, batch_size=8, device="cpu")
    assert not torch.equal(run.balancer.k, results[0][0])  # the holdout is


def test_a_learnt_weight_trains_seeds_one_by_one_and_a_schedule_together():
    found = load("av-digits", seed=0)
    options = {"seeds": [1, 2], "epochs": 1, "device": "cpu"}
    with pytest.raises(UnstackableError, match="a method that reads its data"):
        fit_seeds(found, lambda: LFM(weight="learned"), at_once=True, **options)
    with pytest.warns(UserWarning, match="they now train one by one"):
        runs = fit_seeds(found, lambda: LFM(weight="learned"), **options)
    assert [run.together for run in runs] == [1, 1]
    assert runs[0].balancer.k != runs[1].balancer.k
    assert [run.together for run in fit_seeds(found, LFM, **options)] == [2, 2]


# --- a whole step ---------------------------------------------------------------------------------


@pytest.mark.parametrize("modalities", ["av", "avt"])
@pytest.mark.parametrize("missing", [False, True])
def test_the_gradient_is_twice_the_weighted_sum(modalities, missing):
    """The classification by the chain rule in numpy; the alignment, checked above, by autograd."""
    present = {m: GAPS[m] for m in modalities} if missing else None
    net, samples = late(modalities), batch(modalities, present=present)
    hand, size = ByHand(net, samples), len(samples)
    have = np.ones((len(modalities), size))
    if present is not None:
        have = np.array([present[m] for m in modalities], float)
    mean = (
        sum(have[i][:, None] * hand.logits[m] for i, m in enumerate(modalities))
        / have.sum(0)[:, None]
    )
    error = (softmax(mean) - hand.target) / size
    expected = {}
    k = math.exp(-0.6)
    for i, m in enumerate(modalities):
        own = 2 * (1 - k) * error * (have[i] / have.sum(0))[:, None]
        head, encoder = net.heads[m], net.encoders[m]
        expected[head.weight] = torch.from_numpy(own.T @ hand.features[m])
        expected[head.bias] = torch.from_numpy(own.sum(0))
        back = own @ array(head.weight)
        expected[encoder.weight] = torch.from_numpy(back.T @ hand.x[m])
        expected[encoder.bias] = torch.from_numpy(back.sum(0))
    features = torch.stack([net.encoders[m](samples.inputs[m]) for m in modalities])
    masks = None if present is None else torch.from_numpy(have.astype(bool))
    align = info_nce(features, 0.5, masks)
    own = [p for m in modalities for p in net.encoders[m].parameters()]
    for p, grad in zip(own, torch.autograd.grad(2 * k * align, own), strict=True):
        assert grad.norm() > 1e-3
        expected[p] = expected[p] + grad
    step = take_step(LFM(), net, samples, epoch=2)
    assert_gradients(net, expected)
    assert step.logged["alignment", ""].item() == pytest.approx(align.item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_logged_has_the_type_of_the_network(dtype):
    net, samples = late().to(dtype), batch()
    samples.inputs = {m: x.to(dtype) for m, x in samples.inputs.items()}
    step = take_step(LFM(), net, samples)
    assert {value.dtype for value in step.logged.values()} == {dtype}


def test_predictions_are_aligned_where_asked_and_features_where_not():
    samples, grads = batch(), {}
    for align in ("contrastive", "js"):
        net = late()
        take_step(LFM(align), net, samples)
        step = Step(late(), samples)
        step.backward(0.1 * step.losses["joint"])
        for part in ("encoders", "heads"):
            p, q = (getattr(one, part)["a"].weight for one in (net, step.model))
            grads[align, part] = (p.grad - q.grad).norm()
    assert grads["contrastive", "heads"] < 1e-12 < 1e-3 < grads["js", "heads"]
    assert grads["contrastive", "encoders"] > 1e-3 and grads["js", "encoders"] > 1e-3


def test_the_step_uses_the_functions_that_are_taught(monkeypatch):
    net, samples = late(), batch()
    monkeypatch.setattr(lfm, "info_nce", lambda features, temperature, present: features.sum())
    monkeypatch.setattr(lfm, "alignment_weight", lambda epoch, decay: torch.tensor(1.0))
    take_step(LFM(), net, samples)
    assert net.encoders["a"].bias.grad.tolist() == [12.0] * 4  # 2 · 1 · six samples


def test_aligned_training_finds_the_partner_of_a_sample_and_joint_training_does_not():
    """Fails if the alignment does nothing."""
    found, gap = load("av-digits", seed=0), {}
    for balancer in (Joint(), LFM(decay=0.1)):
        net = MultimodalNet.build(found, fusion="late", seed=0)
        fit(net, found, balancer, epochs=3, device="cpu")
        features = net.eval()(found.train[:200].inputs).features
        gap[balancer.name] = info_nce(torch.stack([*features.values()]), 0.5).item()
    assert gap["LFM"] < gap["Joint"] - 0.2


# --- prediction -----------------------------------------------------------------------------------


def test_the_mean_is_over_the_modalities_that_a_sample_has():
    logits, present = normal(3, 6, 4), gaps(3, 6)
    present[0] |= ~present.any(0)
    expected = (logits * present[..., None]).sum(0) / present.sum(0)[:, None]
    torch.testing.assert_close(mean_logits(logits, present), expected)
    torch.testing.assert_close(mean_logits(logits), logits.mean(0))
    nobody = mean_logits(logits, torch.zeros(3, 6, dtype=torch.bool))
    assert torch.equal(nobody, torch.zeros(6, 4, dtype=torch.float64))


@pytest.mark.parametrize("fusion", ["late", "concat"])
def test_it_predicts_by_the_mean_of_the_unimodal_logits_under_any_fusion(fusion):
    net, samples = network("avt", fusion=fusion), batch("avt", present=GAPS)
    out = net(samples.inputs)
    logits = torch.stack([*out.unimodal.values()])
    torch.testing.assert_close(LFM().fuse(out), logits.mean(0))
    masks = torch.stack([samples.present[m] for m in "avt"])
    expected = mean_logits(logits, masks)
    torch.testing.assert_close(LFM().fuse(out, samples.present), expected)
    if fusion == "late":
        torch.testing.assert_close(LFM().fuse(out), out.joint)
    step = take_step(LFM(), net, samples)
    loss = step.losses.computed["mean of the modalities"]
    torch.testing.assert_close(loss, F.cross_entropy(expected, samples.target))


# --- arguments ------------------------------------------------------------------------------------


def test_features_of_different_widths_can_only_be_compared_by_predictions():
    net = late()
    net.encoders["v"] = nn.Linear(4, 5).double()
    net.heads["v"] = nn.Linear(5, 3).double()
    message = r"widths \{'a': 4, 'v': 5\}.*give all encoders one width, or take align='js'"
    with pytest.raises(ValueError, match=message):
        take_step(LFM(), net, batch())
    take_step(LFM("js"), net, batch())


def test_of_several_labels_each_has_a_probability_of_its_own():
    net, samples = late(), batch()
    samples = Batch(samples.inputs, torch.eye(3)[samples.target] > 0)
    net.task = "multilabel"
    step = take_step(LFM("js"), net, samples)
    logits = torch.stack([*net(samples.inputs).unimodal.values()])
    expected = js_divergence(logits, task="multilabel").item()
    assert step.logged["alignment", ""].item() == pytest.approx(expected)
    assert expected != pytest.approx(js_divergence(logits).item(), rel=1e-2)


def test_numbers_have_no_probabilities_to_compare():
    net, samples = late(outputs=1), batch(regression=True)
    message = r"LFM\(align='js'\) needs class labels, .*For regression use LFM\(align='contrastive'"
    with pytest.raises(ValueError, match=message):
        take_step(LFM("js"), net, samples)
    step = take_step(LFM(), net, samples)
    mean = LFM().fuse(net(samples.inputs)).squeeze(-1)
    found = step.losses.computed["mean of the modalities"]
    torch.testing.assert_close(found, (mean - samples.target).abs().mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"align": "kl"}, r"align is 'kl'; allowed are 'contrastive', 'js'"),
        ({"weight": 0.5}, r"weight is 0.5; allowed are 'schedule', 'learned'"),
        ({"temperature": 0}, r"temperature is 0; allowed is a number above 0"),
        ({"decay": -1}, r"decay is -1; allowed is a number ≥ 0"),
        ({"weight_rate": float("nan")}, r"weight_rate is nan; allowed is a number ≥ 0"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LFM(**options)
