"""UMT: teachers trained alone, frozen for good, and a joint loss that stays close to them."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from by_hand import ByHand, array, assert_gradients, batch, data, layer, mlp, network, parameters
from torch import nn
from torch.nn import functional as F

from mmlab import UMT, Batch, Joint, MultimodalData, MultimodalNet, Step, Stream, fit, fit_seeds
from mmlab.balancers.umt import feature_distances
from mmlab.datasets.synthetic import synthetic
from mmlab.training import Checkpoint, Run, begin

PRESENT = {"a": [1, 0, 1, 1, 0, 1], "v": [0, 1, 1, 1, 1, 1], "t": [1, 1, 0, 0, 0, 1]}
TRAINING = {"epochs": 3, "batch_size": 8, "lr": 0.05, "device": "cpu"}


def trained(balancer, net, samples=None, **options):
    return fit(net, samples or data(net.modalities), balancer, **TRAINING | options)


def with_teachers(net, weight=10.0, seed=5):
    """A balancer whose teachers are the encoders with other weights."""
    balancer = UMT(weight)
    draw = torch.Generator().manual_seed(seed)
    for p in balancer.modules(net).parameters():
        p.add_(0.3 * torch.randn(p.shape, generator=draw, dtype=p.dtype))
    balancer.taught = True
    return balancer


# --- the pure function ----------------------------------------------------------------------------


def test_the_distance_is_the_mean_of_the_squares():
    draw = np.random.default_rng(0)
    h, t = draw.normal(size=(2, 3, 5, 4)), draw.normal(size=(2, 3, 5, 4))
    found = feature_distances(torch.from_numpy(h), torch.from_numpy(t))
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, (np.linalg.norm(h - t, axis=-1) ** 2) / 4, rtol=1e-12)
    one = feature_distances(torch.from_numpy(h), torch.from_numpy(t[0, 0]))
    np.testing.assert_allclose(one, ((h - t[0, 0]) ** 2).sum(-1) / 4, rtol=1e-12)
    with pytest.raises(ValueError, match=r"features \(5, 4\), teacher \(5, 3\)"):
        feature_distances(torch.zeros(5, 4), torch.zeros(5, 3))


# --- a step ---------------------------------------------------------------------------------------


def test_a_teacher_encodes_as_the_network_does():
    class Doubled(MultimodalNet):
        def encode(self, m, x):
            return 2 * super().encode(m, x)

    samples = synthetic(n=(20, 10, 10), dims=3)
    net = Doubled.build(samples, seed=0)
    balancer = UMT()
    balancer.modules(net)  # copies of the encoders
    s = Step(net, samples.train[:4])
    assert balancer.distances(s).tolist() == [0, 0]
    s.out.features["a"].abs().sum().backward()  # the features are no zeros, and the network's own
    assert any(p.grad.any() for p in net.encoders["a"].parameters())


@pytest.mark.parametrize("weight", [0.5, 10.0])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("modalities", ["av", "avt"])
def test_a_step_is_what_the_chain_rule_gives(modalities, missing, weight):
    net = network(modalities)
    present = {m: PRESENT[m] for m in modalities} if missing else None
    samples = batch(modalities, present=present)
    balancer, known = with_teachers(net, weight), ByHand(net, samples)
    before = parameters(balancer.teachers)
    expected, distances = known.gradient("joint"), {}
    for m in modalities:
        teacher = balancer.teachers[m]
        t = known.x[m] @ array(teacher.weight).T + array(teacher.bias)
        gap, counts = known.features[m] - t, known._counted(m)
        distances[m] = ((gap**2).mean(1) * counts[:, 0]).sum()
        pull = layer(net.encoders[m], known.x[m], weight * 2 * gap / gap.shape[1] * counts)
        expected |= {p: expected[p] + grad for p, grad in pull.items()}
    s = Step(net, samples)
    next(balancer.step(s))
    assert_gradients(net, expected)
    for m in modalities:
        assert float(s.logged["distance", m]) == pytest.approx(distances[m])
    assert all(p.grad is None for p in balancer.teachers.parameters())
    assert all(torch.equal(p, before[key]) for key, p in parameters(balancer.teachers).items())


def test_a_modality_that_nobody_has_is_no_distance():
    net, samples = network(), batch(present={"a": [0] * 6, "v": [1] * 6})
    s = Step(net, samples)
    next(with_teachers(net).step(s))
    assert s.logged["distance", "a"] == 0 and s.logged["distance", "v"] > 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    joint = network()
    next(Joint().step(Step(joint, samples)))
    assert torch.equal(net.encoders["a"].weight.grad, joint.encoders["a"].weight.grad)


def test_a_teacher_computes_in_the_precision_of_the_encoder():
    """Else the distance would be that of rounding, and a GPU would wait for the teachers."""
    net = MultimodalNet.build(synthetic(n=(8, 8, 8), dims=5), width=8)
    net.autocast = torch.bfloat16
    balancer = UMT()
    balancer.modules(net)
    balancer.taught = True
    draw = torch.Generator().manual_seed(0)
    inputs = {m: torch.randn(4, 5, generator=draw) for m in "ab"}
    s = Step(net, Batch(inputs, torch.arange(4) % 2))
    next(balancer.step(s))
    assert s.logged["distance", "a"] == s.logged["distance", "b"] == 0


# --- the teachers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", ["own", "shared"])
def test_a_teacher_is_the_encoder_of_a_network_that_was_trained_alone(heads):
    """Whole batches and plain SGD: its training can be written down. A shared head is its own."""
    samples = data("avt")
    net, plain = network("avt", heads=heads, encoder=mlp), {"batch_size": 24, "lr": None}
    start = copy.deepcopy(net)
    balancer = UMT(1.0)
    trained(balancer, net, samples, optimizer=lambda p: torch.optim.SGD(p, 0.1), **plain)
    for m in "avt":
        encoder, head = copy.deepcopy((start.encoders[m], start.head(m)))
        optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], 0.1)
        for _ in range(TRAINING["epochs"]):
            optimizer.zero_grad()
            F.cross_entropy(head(encoder(samples.train.inputs[m])), samples.train.target).backward()
            optimizer.step()
        for mine, known in zip(
            balancer.teachers[m].parameters(), encoder.parameters(), strict=True
        ):
            torch.testing.assert_close(mine.detach(), known.detach(), rtol=1e-9, atol=1e-12)


class Noisy(nn.Module):
    """Normalised and dropped out, with a buffer that no state_dict has; notes its inputs."""

    def __init__(self, size=5):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(size, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.register_buffer("scale", torch.ones(()), persistent=False)
        self.seen = []

    def forward(self, x):
        if self.training:
            self.scale.mul_(0.9)
        self.seen.append(x)
        return self.layers(x) * self.scale


def noisy_net(samples):
    return MultimodalNet.build(samples, encoders=dict.fromkeys(samples.modalities, Noisy), width=8)


def everything(module):
    return [x.detach().clone() for x in (*module.parameters(), *module.buffers())]


def test_teachers_are_frozen_evaluate_and_never_change_by_a_bit():
    samples, kept = synthetic(n=(64, 16, 16), dims=5), []

    def look(run):
        if run.epoch:
            kept.append(everything(balancer.teachers))

    def optimizer(parameters):
        return torch.optim.SGD(parameters, 0.05, momentum=0.9, weight_decay=0.1)

    balancer, net = UMT(1.0), noisy_net(samples)
    start = [everything(encoder) for encoder in net.encoders.values()]
    trained(balancer, net, samples, optimizer=optimizer, lr=None, observers=[look])
    assert len(kept) == 3
    for later in kept[1:]:
        assert all(map(torch.equal, kept[0], later))
    assert not any(p.requires_grad for p in balancer.teachers.parameters())
    assert not any(part.training for part in balancer.teachers.modules())
    for first, teacher in zip(start, balancer.teachers.values(), strict=True):
        for before, after in zip(first, everything(teacher), strict=True):
            assert not torch.equal(before, after)  # buffers of all kinds were taken over


class Shaken(torch.utils.data.Dataset):
    """Every read of a sample is another one."""

    def __init__(self, split):
        self.split = split

    def __len__(self):
        return len(self.split)

    def __getitem__(self, i):
        inputs = {m: x[i] + torch.randn(x[i].shape) for m, x in self.split.inputs.items()}
        return inputs, int(self.split.target[i])


def test_a_teacher_sees_the_crop_that_the_encoder_sees():
    samples = synthetic(n=(32, 16, 16), dims=5)
    splits = [Stream(Shaken(split)) for split in samples.splits.values()]
    balancer, shaken = UMT(1.0), MultimodalData(*splits, n_classes=2)
    net = noisy_net(shaken)
    trained(balancer, net, shaken, batch_size=16, epochs=2)
    for m, teacher in balancer.teachers.items():
        assert len(teacher.seen) == 4, "two batches in each of two epochs"
        for mine, theirs in zip(teacher.seen, net.encoders[m].seen[-4:], strict=True):
            assert torch.equal(mine, theirs)


class CutError(Exception):
    """A training breaks off."""


class Cut(Checkpoint):
    """Saves two epochs, and the training breaks off."""

    def __call__(self, run):
        super().__call__(run)
        if run.epoch == 2:
            raise CutError


def test_the_teachers_are_trained_once_and_a_resumed_training_has_them(tmp_path, monkeypatch):
    samples, made = synthetic(n=(32, 16, 16), dims=5), []
    original = Run.branch

    def noted(run, balancer, epochs):
        made.append((balancer.name, epochs))
        return original(run, balancer, epochs)

    monkeypatch.setattr(Run, "branch", noted)
    whole = trained(UMT(), MultimodalNet.build(samples), samples)
    assert made == [("Unimodal('a')", 3), ("Unimodal('b')", 3)]
    made.clear()
    path = tmp_path / "run.pt"
    with pytest.raises(CutError):
        trained(UMT(), MultimodalNet.build(samples), samples, observers=[Cut(path)])
    assert len(made) == 2
    ends = trained(UMT(), MultimodalNet.build(samples), samples, observers=[Checkpoint(path)])
    assert len(made) == 2
    pairs = (whole.model, ends.model), (whole.balancer.teachers, ends.balancer.teachers)
    for one, other in pairs:
        assert all(map(torch.equal, everything(one), everything(other)))


# --- the student ----------------------------------------------------------------------------------


def test_without_weight_it_is_joint_training_bit_for_bit():
    nets = [network(encoder=mlp) for _ in range(2)]
    runs = [trained(b, net) for b, net in zip((UMT(0.0), Joint()), nets, strict=True)]
    for key, value in parameters(nets[0]).items():
        assert torch.equal(value, parameters(nets[1])[key]), key
    assert runs[0].history.query("metric == 'distance'").value.gt(0).all()


def test_the_encoders_end_closer_to_their_teachers_than_joint_training_does():
    """Fails where the special step does nothing."""
    samples, gaps = data(size=48), {}
    for weight in (0.0, 1.0):
        balancer, net = UMT(weight), network(encoder=mlp)
        run = trained(balancer, net, samples, epochs=8)
        gaps[weight] = sum(
            feature_distances(h, balancer.teachers[m](samples.train.inputs[m])).mean()
            for m, h in run.features("train").items()
        )
    assert gaps[1.0] < 0.5 * gaps[0.0]


def test_a_grid_of_weights_is_one_program():
    samples = synthetic(n=(48, 16, 32), dims=5)
    makers = [lambda weight=weight: UMT(weight) for weight in (0.1, 2.0)]
    options = {"seeds": [0, 0], "build": {"width": 8}, **TRAINING}
    runs = fit_seeds(samples, makers, at_once=True, **options)
    alone = fit_seeds(samples, makers, at_once=False, **options)
    for run, one in zip(runs, alone, strict=True):
        torch.testing.assert_close(run.predict(samples.test), one.predict(samples.test))
        for mine, theirs in zip(
            everything(run.balancer.teachers), everything(one.balancer.teachers), strict=True
        ):
            torch.testing.assert_close(mine, theirs)
    first, second = (run.predict(samples.test) for run in runs)
    assert not torch.allclose(first, second, atol=1e-2)


# --- what may go wrong ----------------------------------------------------------------------------


def test_without_a_run_it_says_so_and_trains_jointly():
    nets, samples = [network() for _ in range(2)], batch()
    with pytest.warns(UserWarning, match=r"in your own loop it is joint training\. Call run = mm"):
        next(UMT().step(Step(nets[0], samples)))
    next(Joint().step(Step(nets[1], samples)))
    for mine, theirs in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None)
        assert mine.grad is None or torch.equal(mine.grad, theirs.grad)


def test_in_a_loop_of_ones_own_begin_trains_the_teachers():
    balancer, net = UMT(), network()
    before = parameters(net)
    run = begin(net, data(), balancer, torch.optim.SGD(net.parameters(), 0.05), epochs=2)
    run.next_epoch()
    assert all(torch.equal(p, before[key]) for key, p in parameters(net).items())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        s = Step(net, batch())
        next(balancer.step(s))
    assert s.logged["distance", "a"] > 0


def test_a_second_training_makes_teachers_anew():
    balancer = UMT()
    trained(balancer, network("av"))
    first = everything(balancer.teachers)
    trained(balancer, network("avt", seed=1))
    assert [*balancer.teachers] == ["a", "v", "t"]
    assert not torch.equal(first[0], everything(balancer.teachers)[0])


def test_a_teacher_whose_training_fails_is_named():
    with pytest.raises(FloatingPointError, match=r"in the training of 'a' alone: .*lower lr"):
        trained(UMT(), network(), lr=1e200)


@pytest.mark.parametrize(
    ("weight", "error"), [(-1, ValueError), (math.nan, ValueError), ("10", TypeError)]
)
def test_a_weight_is_a_number_of_0_or_more(weight, error):
    with pytest.raises(error, match=r"weight is .*(give|allowed is) a number"):
        UMT(weight)
