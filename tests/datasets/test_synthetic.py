"""The closed forms against Monte Carlo: the optimal rule must reach them, within sampling error."""

import itertools

import pytest
import torch

from mmlab.datasets import bayes_accuracy, load, synthetic
from mmlab.datasets.synthetic import directions

N = 200_000
TWO = {"a": 1.5, "b": 0.8}
THREE = {"a": 1.5, "b": 0.8, "c": 2.0}
SETTINGS = [
    {"signal": TWO},
    {"signal": THREE},
    {"signal": TWO, "redundancy": 0.3},
    {"signal": TWO, "redundancy": 0.8},
    {"signal": THREE, "redundancy": 0.5},
    {"signal": TWO, "xor": True},
    {"signal": THREE, "xor": True},
    {"signal": TWO, "shift": {"a": 0.9}},
    {"signal": TWO, "redundancy": 0.4, "shift": {"a": 0.9}},
    {"signal": TWO, "xor": True, "shift": {"b": 0.7}},
]


def projections(data, signal, dims, seed):
    """Every sample along the class direction of each modality, (B, M), in double precision."""
    axes = directions(signal, dims, seed)
    along = [data.test.inputs[m].double() @ axes[m].double() for m in signal]
    return torch.stack(along, 1)


def posterior_rule(z, signal, redundancy=0.0, xor=False):
    """The likelier class from the full joint density over the hidden signs: no closed form used."""
    half = torch.tensor(list(signal.values())).double() / 2
    size = len(half)
    covariance = torch.full((size, size), redundancy).double().fill_diagonal_(1)
    likelihood = torch.zeros(2, len(z), dtype=torch.float64)
    for signs in itertools.product((-1.0, 1.0), repeat=size):
        sign = torch.tensor(signs).double()
        if xor:
            label = int(sign.prod() > 0)
        elif abs(sign.sum()) == size:
            label = int(sign[0] > 0)
        else:
            continue
        density = torch.distributions.MultivariateNormal(sign * half, covariance)
        likelihood[label] += density.log_prob(z).exp()
    return likelihood.argmax(0)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_the_optimal_rule_reaches_the_closed_form(setting):
    setting = dict(setting)
    data = synthetic(seed=4, n=(1, 1, N), dims=3, **setting)
    expected = bayes_accuracy(**setting)
    signal, xor = setting["signal"], setting.get("xor", False)
    z = projections(data, signal, 3, 4)
    together = posterior_rule(z, signal, setting.get("redundancy", 0.0), xor)
    reached = {"joint": (together == data.test.target).double().mean().item()}
    for i, m in enumerate(signal):
        reached[m] = ((z[:, i] > 0) == data.test.target).double().mean().item()
    for name, accuracy in reached.items():
        bound = 4 * (expected[name] * (1 - expected[name]) / N) ** 0.5
        assert accuracy == pytest.approx(expected[name], abs=bound), name


def test_nothing_but_the_class_direction_tells_the_class():
    data = synthetic(n=(1, 1, N), signal=TWO, dims=4, redundancy=0.5)
    axes = directions(TWO, 4)
    sign = 2.0 * data.test.target - 1
    for m, axis in axes.items():
        x = data.test.inputs[m]
        torch.testing.assert_close(
            (x * sign[:, None]).mean(0), TWO[m] / 2 * axis, atol=0.01, rtol=0
        )
        noise = x - sign[:, None] * TWO[m] / 2 * axis
        torch.testing.assert_close(noise.T.cov(), torch.eye(4), atol=0.02, rtol=0)


def test_redundancy_takes_away_what_the_second_modality_adds():
    equal = {"a": 2.0, "b": 2.0}
    joint = [bayes_accuracy(equal, redundancy=r)["joint"] for r in (0.0, 0.5, 0.9, 0.999)]
    assert joint == sorted(joint, reverse=True)
    assert joint[-1] == pytest.approx(bayes_accuracy(equal)["a"], abs=1e-3)
    # At r = weak / strong the weak one is a noisy copy, and adds nothing at all.
    copy = bayes_accuracy({"a": 2.0, "b": 1.0}, redundancy=0.5)
    assert copy["joint"] == pytest.approx(copy["a"])


def test_parity_of_two_is_the_textbook_formula():
    p, q = (bayes_accuracy(TWO)[m] for m in "ab")
    xor = bayes_accuracy(TWO, xor=True)
    assert xor == pytest.approx({"a": 0.5, "b": 0.5, "joint": p * q + (1 - p) * (1 - q)})


def test_no_signal_is_chance():
    assert bayes_accuracy({"a": 0.0, "b": 0.0}) == {"a": 0.5, "b": 0.5, "joint": 0.5}


def test_shift_reaches_holdout_and_test_but_not_train():
    plain = synthetic(signal=TWO)
    moved = synthetic(signal=TWO, shift={"a": 1.0})
    assert torch.equal(plain.train.inputs["a"], moved.train.inputs["a"])
    step = directions(TWO)["a"].expand(1000, -1)
    torch.testing.assert_close(moved.test.inputs["a"] - plain.test.inputs["a"], step)
    assert torch.equal(plain.test.inputs["b"], moved.test.inputs["b"])
    assert not torch.equal(plain.holdout.inputs["a"], moved.holdout.inputs["a"])


def test_seeds_and_sizes():
    one, again, other = (load("synthetic", seed=s, n=(30, 20, 10)) for s in (0, 0, 1))
    assert [len(batch) for batch in one.splits.values()] == [30, 20, 10]
    assert torch.equal(one.train.inputs["a"], again.train.inputs["a"])
    assert not torch.equal(one.train.inputs["a"], other.train.inputs["a"])
    assert not torch.equal(one.train.inputs["a"][:10], one.test.inputs["a"])
    axes = [directions({"a": 1.0, "b": 1.0}, seed=s) for s in (0, 1)]
    assert not torch.equal(axes[0]["a"], axes[1]["a"])
    assert not torch.equal(axes[0]["a"], axes[0]["b"])


def test_dims_may_differ_between_modalities():
    data = synthetic(signal=TWO, dims={"a": 2, "b": 40})
    assert data.shape("a") == (2,) and data.shape("b") == (40,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"signal": {}}, "names no modality"),
        ({"signal": {"a": -1.0}}, r"signal\['a'\] is -1.0"),
        ({"redundancy": 1.0}, "redundancy is 1.0"),
        ({"redundancy": 0.5, "xor": True}, "no closed form"),
        ({"shift": {"c": 1.0}}, "unknown modality 'c'; allowed: a, b"),
        ({"n": (10, 0, 10)}, "three sizes"),
        ({"dims": 0}, "at least 1 dimension"),
        ({"dims": {"a": 3}}, "for each of a, b"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        synthetic(**options)
