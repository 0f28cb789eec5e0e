"""PMR: prototypes, the probabilities by them, and a whole step, against numpy."""

import re

import numpy as np
import pytest
import torch
from by_hand import (
    CLASSES,
    ByHand,
    Watched,
    array,
    assert_gradients,
    batch,
    data,
    layer,
    network,
    normal,
    parameters,
    softmax,
)

from mmlab import PMR, Batch, Joint, MultimodalData, Step, fit
from mmlab.balancers import pmr
from mmlab.balancers.pmr import (
    class_means,
    cross_entropies,
    entropies,
    lag_and_lead,
    log_probabilities,
    truths,
)
from mmlab.datasets import Stream

GAPS = {
    "a": [1, 0, 1, 1, 0, 1],
    "v": [0, 1, 1, 1, 1, 1],
    "t": [1, 1, 0, 1, 1, 1],
}


# --- by hand --------------------------------------------------------------------------------------


class Prototypical:
    """What one modality's features (B, D) and prototypes (C, D) give; `mask`: who has it."""

    def __init__(self, h, c, target, mask):
        self.difference = h[:, None] - c[None]
        self.distance = np.sqrt((self.difference**2).sum(-1))
        self.p = softmax(-self.distance)
        self.truth = np.eye(len(c))[target]
        self.mask = mask / max(mask.sum(), 1)
        self.score = ((self.p * self.truth).sum(1) * self.mask).sum() if mask.any() else np.nan
        self.loss = -(np.log((self.p * self.truth).sum(1)) * self.mask).sum()
        self.each = -(self.p * np.log(self.p)).sum(1)  # entropies
        self.entropy = (self.each * self.mask).sum()

    def back(self, error):
        """From a gradient for the logits −d, (B, C), to one for the features."""
        direction = -self.difference / self.distance[..., None]
        return ((error * self.mask[:, None])[..., None] * direction).sum(1)

    def loss_signal(self):
        return self.back(self.p - self.truth)

    def entropy_signal(self):
        return self.back(-self.p * (np.log(self.p) + self.each[:, None]))


def by_paper(found):
    """Which coefficient the loss and the entropy of each of two modalities get, as printed."""
    first, second = found
    rho = found[first].score / found[second].score
    beta = gamma = 0.0
    if rho < 1:
        beta = np.clip(1 / rho - 1, 0, 1)
    else:
        gamma = np.clip(rho - 1, 0, 1)
    return {first: beta, second: gamma}, {first: gamma, second: beta}


def of_more(found):
    scores = {m: one.score for m, one in found.items() if not np.isnan(one.score)}
    low, high = min(scores.values()), max(scores.values())
    lag = {m: min(high / scores[m] - 1, 1) if m in scores else 0.0 for m in found}
    lead = {m: min(scores[m] / low - 1, 1) if m in scores else 0.0 for m in found}
    return lag, lead


def step_by_hand(net, samples, prototypes, *, alpha, mu):
    """The gradient of the whole loss; mu = 0 after the first epochs."""
    hand = ByHand(net, samples)
    found = {}
    for m in net.modalities:
        mask = np.ones(len(samples)) if samples.present is None else array(samples.present[m])
        c, y = array(prototypes[m])[0], samples.target.numpy()
        found[m] = Prototypical(hand.features[m], c, y, mask.astype(float))
    coefficients = (
        by_paper(found) if len(found) == 2 and samples.present is None else of_more(found)
    )
    expected = hand.gradient("joint")
    for m, own in found.items():
        lag, lead = (one[m] for one in coefficients)
        signal = alpha * lag * own.loss_signal() - mu * lead * own.entropy_signal()
        for p, grad in layer(net.encoders[m], hand.x[m], signal).items():
            expected[p] = expected[p] + grad
    return expected, found, coefficients


def with_prototypes(net, seed=5, **options):
    """A balancer in the middle of an epoch."""
    balancer = PMR(**options)
    balancer.prototypes = {
        m: normal(1, CLASSES, 4, seed=seed + i) for i, m in enumerate(net.modalities)
    }
    return balancer


# --- functions ------------------------------------------------------------------------------------


def test_a_class_is_one_question_and_labels_are_several():
    found = truths(torch.tensor([2, 0]), 3)
    assert found.tolist() == [[[False, False, True]], [[True, False, False]]]
    found = truths(torch.tensor([[True, False, False]]), 7)
    assert found.tolist() == [[[False, True], [True, False], [True, False]]]
    assert truths(torch.zeros(5, 6, dtype=torch.uint8), 3).shape == (5, 6, 1, 3)
    with pytest.raises(ValueError, match=r"a prototype needs class labels.*float64.*use ATF"):
        truths(normal(3), 3)


@pytest.mark.parametrize("masked", [False, True])
def test_prototypes_are_the_means_of_the_samples_that_have_the_modality(masked):
    h, target = normal(2, 9, 4), torch.tensor([0, 1, 1, 0, 2, 2, 1, 0, 1]).repeat(2, 1)
    has = torch.tensor([1, 1, 0, 1, 0, 0, 1, 0, 1]).bool().repeat(2, 1) if masked else None
    found = class_means(h, truths(target, 4), has)
    assert found.shape == (2, 1, 4, 4) and found.dtype == torch.float64
    for r in range(2):
        for k in range(4):
            chosen = (target[r] == k).numpy() & (has[r].numpy() if masked else True)
            if chosen.any():
                expected = h[r].numpy()[chosen].mean(0)
                np.testing.assert_allclose(found[r, 0, k], expected, rtol=1e-12)
            else:
                assert found[r, 0, k].isnan().all()
    assert bool(found[:, 0, 2].isnan().all()) == masked and found[:, 0, 3].isnan().all()
    with pytest.raises(ValueError, match=r"features \(…, N, D\), truth \(…, N, Q, A\)"):
        class_means(h[0, :5], truths(target[0], 4))


def test_probabilities_are_the_softmax_of_the_negative_distances():
    h, c = normal(2, 6, 4), normal(2, 3, 5, 4, seed=1)
    found = log_probabilities(h, c)
    assert found.shape == (2, 6, 3, 5) and found.dtype == torch.float64
    for r, b, q in np.ndindex(2, 6, 3):
        distances = np.linalg.norm(h[r, b].numpy() - c[r, q].numpy(), axis=-1)
        expected = np.log(softmax(-distances))
        np.testing.assert_allclose(found[r, b, q], expected, rtol=1e-10)


def test_small_distances_between_long_vectors_are_not_lost():
    h = torch.full((30, 8), 100.0)
    c = torch.full((1, 30, 8), 100.0)
    c[0, 1] += 0.01
    found = log_probabilities(h, c)
    assert (found[0, 0, 0] - found[0, 0, 1]).item() == pytest.approx(0.01 * 8**0.5, rel=1e-3)


def test_at_a_distance_of_0_the_gradient_is_finite():
    c = normal(1, 3, 4)
    h = torch.cat([c[0], normal(2, 4, seed=1)]).requires_grad_()
    log_p = log_probabilities(h, c)
    truth = truths(torch.tensor([0, 1, 2, 0, 1]), 3)
    (cross_entropies(log_p, truth).sum() + entropies(log_p).sum()).backward()
    assert h.grad.isfinite().all() and h.grad[:3].any()
    (grad,) = torch.autograd.grad(log_probabilities(h, c[:, :1]).sum(), h)
    assert not grad.any()  # one answer: sure of it


def test_an_answer_without_a_prototype_has_no_probability_and_spoils_nothing():
    c = normal(2, 3, 4)
    whole = log_probabilities(normal(5, 4), c[:, [0, 2]])
    c[:, 1] = torch.nan
    h = normal(5, 4).requires_grad_()
    log_p = log_probabilities(h, c)
    torch.testing.assert_close(log_p[..., [0, 2]], whole)
    assert log_p[..., 1].isneginf().all()
    truth = truths(torch.tensor([0, 1, 2, 0, 1]), 3)
    losses = cross_entropies(log_p, truth)
    assert losses[[1, 4]].tolist() == [0, 0] and (losses[[0, 2, 3]] > 0).all()
    torch.testing.assert_close(entropies(log_p), entropies(whole))
    (losses.sum() + entropies(log_p).sum()).backward()
    assert h.grad.isfinite().all()


def test_without_any_prototype_all_answers_are_alike():
    h = normal(5, 4).requires_grad_()
    log_p = log_probabilities(h, torch.full((1, 3, 4), torch.nan, dtype=torch.float64))
    np.testing.assert_allclose(log_p.detach(), np.log(1 / 3))
    log_p.sum().backward()
    assert h.grad.isfinite().all()


def test_losses_and_entropies_are_means_over_the_questions():
    log_p = normal(2, 5, 3, 4).log_softmax(-1)
    truth = torch.eye(4).bool()[torch.arange(30).view(2, 5, 3) % 4]
    p = log_p.exp().numpy()
    expected = -np.log((p * truth.numpy()).sum(-1)).mean(-1)
    np.testing.assert_allclose(cross_entropies(log_p, truth), expected, rtol=1e-12)
    np.testing.assert_allclose(entropies(log_p), -(p * np.log(p)).sum(-1).mean(-1), rtol=1e-12)


@pytest.mark.parametrize("scores", [(0.2, 0.5), (0.5, 0.2), (0.3, 0.4), (0.4, 0.39), (0.3, 0.3)])
def test_of_two_modalities_lag_and_lead_are_the_papers_beta_and_gamma_and_crossed(scores):
    rho = scores[0] / scores[1]
    beta = min(1 / rho - 1, 1) if rho < 1 else 0
    gamma = min(rho - 1, 1) if rho >= 1 else 0
    lag, lead = lag_and_lead(torch.tensor(scores, dtype=torch.float64))
    assert lag.tolist() == pytest.approx([beta, gamma], abs=1e-12)
    assert lead.tolist() == pytest.approx([gamma, beta], abs=1e-12)


def test_of_more_modalities_each_is_held_against_both_ends():
    scores = torch.tensor([[0.4, 0.5, 0.8], [0.9, 0.1, 0.6]], dtype=torch.float64)
    lag, lead = lag_and_lead(scores)
    np.testing.assert_allclose(lag, [[1, 0.6, 0], [0, 1, 0.5]], rtol=1e-12)
    np.testing.assert_allclose(lead, [[0, 0.25, 1], [1, 0, 1]], rtol=1e-12)


def test_scores_of_0_are_equal_or_all_behind():
    lag, lead = lag_and_lead(torch.tensor([[0.0, 0.0], [0.0, 0.3]]))
    assert lag.tolist() == [[0, 0], [1, 0]] and lead.tolist() == [[0, 0], [0, 1]]
    assert lag_and_lead(torch.tensor([0.3, torch.nan]))[0].isnan().any()  # it shows
    for wrong in (torch.tensor(0.3), torch.ones(4, 1)):
        with pytest.raises(
            ValueError, match=r"scores has shape .*; allowed is \(…, M\) with M ≥ 2"
        ):
            lag_and_lead(wrong)


# --- a step ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("modalities", ["av", "va", "avt"])
@pytest.mark.parametrize("epoch", [0, 2, 3, 9])
def test_a_step_has_the_gradient_by_hand(modalities, missing, epoch):
    """The first three epochs have the entropies."""
    present = {m: GAPS[m] for m in modalities} if missing else None
    net, samples = network(modalities), batch(modalities, present=present)
    balancer = with_prototypes(net, alpha=1.5, mu=0.7, entropy_epochs=3)
    mu = 0.7 if epoch < 3 else 0.0
    expected, found, (lag, lead) = step_by_hand(net, samples, balancer.prototypes, alpha=1.5, mu=mu)
    assert max(lag.values()) > 0.05 and max(lead.values()) > 0.05  # else it would prove nothing
    s = Step(net, samples, epoch=epoch)
    next(balancer.step(s))
    assert_gradients(net, expected)
    for m in modalities:
        assert s.logged["score", m].item() == pytest.approx(found[m].score, rel=1e-10)
        assert s.logged["coefficient", m].item() == pytest.approx(lag[m], rel=1e-9, abs=1e-14)
        assert s.logged["prototype loss", m].item() == pytest.approx(found[m].loss, rel=1e-10)


def test_the_entropy_is_crossed_the_modality_ahead_is_calmed_and_no_other():
    """H(p⁰) stands with γ, H(p¹) with β: seen in what an encoder gets beyond joint training."""
    first = []
    for seed in (5, 8):
        net, samples = network(), batch()
        balancer = with_prototypes(net, seed=seed, alpha=0.0, mu=1.0)
        _, found, (lag, _) = step_by_hand(net, samples, balancer.prototypes, alpha=0, mu=1)
        ahead, behind = sorted(found, key=lambda m: -found[m].score)
        coefficient = lag[behind]  # γ where the first is ahead, β where the second is
        assert coefficient > 0 and lag[ahead] == 0
        next(balancer.step(Step(net, samples)))
        joint = ByHand(net, samples).gradient("joint")
        signal = found[ahead].entropy_signal()
        own = layer(net.encoders[ahead], array(samples.inputs[ahead]), signal)
        for p in net.encoders[ahead].parameters():
            torch.testing.assert_close(p.grad, joint[p] - coefficient * own[p])
        for p in net.encoders[behind].parameters():
            torch.testing.assert_close(p.grad, joint[p])
        first.append(ahead)
    assert set(first) == {"a", "v"}  # both β and γ were tried


def test_the_one_behind_is_pulled_to_its_prototypes_far_from_joint_training():
    net, samples = network(), batch()
    plain = ByHand(net, samples).gradient("joint")
    balancer = with_prototypes(net, mu=0)
    _, found, (lag, _) = step_by_hand(net, samples, balancer.prototypes, alpha=1, mu=0)
    behind = max(lag, key=lag.get)
    next(balancer.step(Step(net, samples)))
    weight = net.encoders[behind].weight
    assert (weight.grad - plain[weight]).norm() > 0.1 * plain[weight].norm()
    with torch.no_grad():
        for p in net.encoders[behind].parameters():
            p -= 0.01 * (p.grad - plain[p])
    after = step_by_hand(net, samples, balancer.prototypes, alpha=1, mu=0)[1]
    assert after[behind].loss < found[behind].loss


def test_a_modality_that_the_whole_batch_lacks_gets_nothing_and_judges_nobody():
    net, samples = network("avt"), batch("avt", present={"a": [0] * 6, "v": [1] * 6, "t": [1] * 6})
    balancer = with_prototypes(net, mu=0.5)
    s = Step(net, samples)
    next(balancer.step(s))
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
    expected = step_by_hand(net, samples, balancer.prototypes, alpha=1, mu=0.5)[0]
    assert_gradients(net, expected)
    assert all(torch.as_tensor(x).isfinite() for x in s.logged.values())
    pair = network("av")
    alone = with_prototypes(pair)
    s = Step(pair, batch(present={"a": [0] * 6, "v": [1] * 6}))
    next(alone.step(s))
    assert s.logged["coefficient", "v"] == 0


def test_prototypes_get_no_gradient_and_do_not_change_in_a_step():
    net = network()
    balancer = with_prototypes(net)
    before = {m: c.clone() for m, c in balancer.prototypes.items()}
    next(balancer.step(Step(net, batch())))
    for m, c in balancer.prototypes.items():
        assert c.grad is None and not c.requires_grad and torch.equal(c, before[m])


def test_driven_by_hand_each_batch_gives_its_prototypes_and_that_is_said():
    net, samples = network(), batch()
    samples.target = torch.tensor([0, 1, 2, 2, 1, 0])  # no class has one sample alone
    balancer = PMR(alpha=1.5, mu=0.7)
    hand = ByHand(net, samples)
    own = {
        m: class_means(torch.from_numpy(h), truths(samples.target, CLASSES))
        for m, h in hand.features.items()
    }
    expected = step_by_hand(net, samples, own, alpha=1.5, mu=0.7)[0]
    with pytest.warns(UserWarning, match=r"takes those of each batch\. Call run = mmlab") as seen:
        next(balancer.step(Step(net, samples)))
    assert seen[0].filename == __file__
    assert_gradients(net, expected)
    assert not balancer.prototypes


def test_several_labels_have_two_prototypes_each():
    net, samples = network(outputs=2), batch()
    samples.target = torch.tensor([[1, 0], [0, 0], [1, 1], [0, 1], [1, 0], [1, 1]]).bool()
    balancer = PMR(alpha=2.0, mu=0.3)
    balancer.prototypes = {m: normal(2, 2, 4, seed=i) for i, m in enumerate("av")}
    s = Step(net, samples)
    next(balancer.step(s))
    y = samples.target.numpy()
    for m in "av":
        h = array(s.out.features[m])
        no, yes = (
            np.linalg.norm(h[:, None] - balancer.prototypes[m][:, k].numpy(), axis=-1)
            for k in (0, 1)
        )
        p = 1 / (1 + np.exp(yes - no))
        right = np.where(y, p, 1 - p)
        assert s.logged["score", m].item() == pytest.approx(right.mean(), rel=1e-10)
        loss = -np.log(right).mean()
        assert s.logged["prototype loss", m].item() == pytest.approx(loss, rel=1e-10)


# --- before an epoch ------------------------------------------------------------------------------


def trained(balancer, tiny, net=None, epochs=1, **options):
    net = network(**balancer.network) if net is None else net
    options = {"batch_size": 8, "device": "cpu"} | options
    return fit(net, tiny, balancer, epochs=epochs, **options)


def means_by_hand(net, samples):
    """Class means of linear encoders' features, (C, D) per modality."""
    found = {}
    for m, h in ByHand(net, samples).features.items():
        mask = np.ones(len(h), bool) if samples.present is None else array(samples.present[m])
        y = samples.target.numpy()
        found[m] = np.stack([h[mask & (y == k)].mean(0) for k in range(CLASSES)])
    return found


@pytest.mark.parametrize("missing", [False, True])
def test_training_follows_the_loop_by_hand(missing):
    """Prototypes before each epoch, moved with momentum; entropies in the first two."""
    tiny = data("avt", missing=missing)
    net, by_hand = network("avt"), network("avt")
    balancer = PMR(alpha=2.0, mu=0.5, entropy_epochs=2, momentum=0.3)
    sgd = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1), "batch_size": len(tiny.train)}
    trained(balancer, tiny, net, epochs=4, **sgd)
    kept = {}
    for epoch in range(4):
        new = means_by_hand(by_hand, tiny.train)
        kept = {m: 0.3 * kept[m] + 0.7 * new[m] if kept else new[m] for m in "avt"}
        prototypes = {m: torch.from_numpy(c)[None] for m, c in kept.items()}
        mu = 0.5 if epoch < 2 else 0
        grads = step_by_hand(by_hand, tiny.train, prototypes, alpha=2, mu=mu)[0]
        with torch.no_grad():
            for p, grad in grads.items():
                p -= 0.1 * grad
    for name, value in parameters(net).items():
        torch.testing.assert_close(value, parameters(by_hand)[name], msg=lambda s, n=name: n + s)
    for m, c in prototypes.items():
        torch.testing.assert_close(balancer.prototypes[m], c)


def test_prototypes_are_made_in_evaluation_mode_once_per_epoch():
    tiny, balancer = data(), PMR()
    net = network(encoder=Watched)
    trained(balancer, tiny, net, epochs=2)
    passes = [(False, False), *[(True, True)] * 3] * 2
    assert all(encoder.modes == passes for encoder in net.encoders.values())


def test_a_second_training_starts_afresh():
    balancer, tiny = PMR(momentum=0.9), data()
    first = trained(balancer, tiny, epochs=2)
    assert trained(balancer, tiny, epochs=2).rows == first.rows


@pytest.mark.parametrize("missing", [False, True])
def test_prototypes_come_from_train_alone(missing):
    runs = []
    for name in (None, "holdout", "test", "train"):
        tiny, other = data(missing=missing), data(seed=5, missing=missing)
        if name:
            setattr(tiny, name, getattr(other, name))
        balancer = PMR()
        trained(balancer, tiny)
        runs.append(balancer.prototypes)
    for m in "av":
        assert torch.equal(runs[0][m], runs[1][m]) and torch.equal(runs[0][m], runs[2][m])
        assert not torch.equal(runs[0][m], runs[3][m])


def test_a_class_that_nobody_has_in_a_modality_leaves_numbers():
    """Class 1 has no sample with a; class 2 is in no training sample at all."""
    tiny = data(missing=True)
    tiny.train.target = tiny.train.target.clamp(max=1)
    tiny.train.present["a"] &= tiny.train.target != 1
    tiny.train.present["v"] |= ~tiny.train.present["a"]
    balancer = PMR(mu=0.5)
    run = trained(balancer, tiny, epochs=3)
    assert all(p.isfinite().all() for p in run.model.parameters())
    assert run.history.value.map(np.isfinite).all()
    assert balancer.prototypes["a"].shape == (1, 2, 4)
    assert balancer.prototypes["a"][0, 1].isnan().all()
    assert balancer.prototypes["v"].isfinite().all()


def test_a_stream_gives_the_prototypes_of_the_same_samples_in_memory():
    tiny, found = data(missing=True), []
    rows = {}
    for name, part in tiny.splits.items():
        rows[name] = Stream(
            [
                (
                    {m: x[i] for m, x in part.inputs.items()},
                    int(part.target[i]),
                    {m: bool(x[i]) for m, x in part.present.items()},
                )
                for i in range(len(part))
            ]
        )
    for each in (tiny, MultimodalData(**rows, n_classes=CLASSES)):
        balancer = PMR()
        trained(balancer, each)
        found.append(balancer.prototypes)
    for m in "av":
        torch.testing.assert_close(*(one[m] for one in found))


def test_the_balancer_trains_by_the_functions_that_are_taught(monkeypatch):
    seen = []
    for name in (
        *("truths", "class_means", "log_probabilities", "cross_entropies", "entropies"),
        "lag_and_lead",
    ):
        plain = getattr(pmr, name)

        def noted(*args, plain=plain, name=name, **options):
            seen.append(name)
            return plain(*args, **options)

        monkeypatch.setattr(pmr, name, noted)
    trained(PMR(), data())
    assert len(set(seen)) == 6


def test_real_targets_are_refused_before_anything_is_trained():
    samples = batch(size=24, regression=True)
    tiny = MultimodalData(samples, samples, samples, task="regression")
    net = network(outputs=1)
    before = parameters(net)
    message = r"PMR needs class labels, .* torch\.float64.*use ATF, MMPareto or GradientBlending"
    with pytest.raises(ValueError, match=message):
        trained(PMR(), tiny, net)
    assert all(torch.equal(value, before[key]) for key, value in parameters(net).items())
    with pytest.warns(UserWarning, match="PMR"), pytest.raises(ValueError, match=message):
        next(PMR().step(Step(net, samples)))


def test_without_both_weights_it_is_joint_training():
    runs = [trained(make, data(), epochs=2) for make in (PMR(alpha=0, mu=0), Joint())]
    for mine, theirs in zip(*(run.model.parameters() for run in runs), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1}, "alpha is -1; allowed is a number ≥ 0"),
        ({"mu": float("nan")}, "mu is nan; allowed is a number ≥ 0"),
        ({"entropy_epochs": 1.5}, "entropy_epochs is 1.5; it must be a whole number of at least 0"),
        ({"momentum": 1.1}, "momentum is 1.1; allowed is a number ≥ 0 and ≤ 1"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        PMR(**options)


def test_no_list_for_a_number():
    with pytest.raises(TypeError, match=r"alpha is \[1\]; give a number\. For several values"):
        PMR(alpha=[1])


def test_labels_may_be_bytes():
    net, samples = network(), batch()
    balancer = with_prototypes(net)
    expected = step_by_hand(net, samples, balancer.prototypes, alpha=1, mu=0.01)[0]
    next(balancer.step(Step(net, Batch(samples.inputs, samples.target.to(torch.uint8)))))
    assert_gradients(net, expected)
