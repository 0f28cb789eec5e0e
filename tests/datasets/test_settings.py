"""Bad settings of data sets and dials are refused: the value, what is allowed, and the fix."""

import numpy as np
import pytest
import torch

from mmlab.datasets import Batch, bayes_accuracy, drop, load, realised_rates, synthetic
from mmlab.datasets.dials import add_noise, keep, occlude
from mmlab.datasets.synthetic import directions
from mmlab.seeds import generator

NAN, INF = float("nan"), float("inf")
REAL_SETS = ("av-digits", "tri-digits")


def make_batch(size=6):
    return Batch({m: torch.ones(size, 2) for m in "ab"}, torch.zeros(size).long())


@pytest.mark.parametrize("name", [*REAL_SETS, "synthetic"])
@pytest.mark.parametrize(
    ("seed", "error", "found"),
    [
        (1.5, TypeError, r"seed is 1\.5; give a whole number"),
        ("3", TypeError, "seed is '3'; give a whole number"),
        (None, TypeError, "seed is None; give a whole number"),
        (True, TypeError, "seed is True; give a whole number"),
        (-1, ValueError, "seed is -1; give a whole number of at least 0"),
    ],
)
def test_what_is_no_seed(name, seed, error, found):
    with pytest.raises(error, match=found):
        load(name, seed=seed)


def test_a_whole_number_of_numpy_is_a_seed():
    one, other = (load("synthetic", seed=seed, n=(9, 9, 9)) for seed in (3, np.int64(3)))
    assert torch.equal(one.train.inputs["a"], other.train.inputs["a"])


@pytest.mark.parametrize("name", REAL_SETS)
@pytest.mark.parametrize(
    ("options", "error", "found"),
    [
        ({"split": "speakers"}, ValueError, r"'speakers'; allowed: speaker, seen .*'speaker'\?"),
        ({"split": None}, ValueError, "unknown split None; allowed: speaker, seen"),
        ({"split": ["seen"]}, ValueError, r"unknown split \['seen'\]; allowed"),
        ({"task": "regresion"}, ValueError, "task is 'regresion'"),
        ({"noise": {"audoi": 0.5}}, ValueError, r"noise.*'audoi'; allowed: .*mean 'audio'\?"),
        ({"noise": 0.5}, TypeError, r"noise=0\.5 does not say which.*noise=\{'audio': 0\.5\}"),
        ({"noise": {"audio": NAN}}, ValueError, r"noise\['audio'\] is nan; give a finite number"),
        ({"noise": {"audio": INF}}, ValueError, r"noise\['audio'\] is inf; give a finite number"),
        (
            {"noise": {"audio": -1}},
            ValueError,
            r"noise\['audio'\] is -1; give a finite number >= 0",
        ),
        ({"noise": {"audio": None}}, ValueError, r"noise\['audio'\] is None; give"),
        ({"noise": {"audio": [0.1]}}, ValueError, r"noise\['audio'\] is \[0\.1\]; give"),
        ({"noise": [("audio", 1.0)]}, TypeError, "does not say which modality"),
        ({"keep": {"audio": 50}}, ValueError, r"keep\['audio'\] is 50; give a number from 0 to 1"),
        ({"keep": {0: 0.5}}, ValueError, "keep names the unknown modality 0; allowed: audio"),
        ({"missing": "half"}, TypeError, r"missing is 'half'; give a number.*\{'audio': 0\.5\}"),
        ({"missing": [0.1, 0.2]}, TypeError, r"missing is \[0\.1, 0\.2\]; give a number"),
        ({"missing": 30}, ValueError, r"missing\['audio'\] is 30\.0; give a number from 0 to 1"),
        ({"missing": True}, ValueError, r"missing\['audio'\] is True; give a number"),
        ({"missing": NAN}, ValueError, r"missing\['audio'\] is nan; give a number"),
    ],
)
def test_settings_of_the_real_sets(name, options, error, found):
    with pytest.raises(error, match=found):
        load(name, **options)


def test_numbers_of_numpy_are_settings():
    plain, numpy = (
        load("av-digits", missing=kind(0.5), noise={"image": kind(0.25)})
        for kind in (float, np.float32)
    )
    assert torch.equal(plain.test.inputs["image"], numpy.test.inputs["image"])
    assert torch.equal(plain.test.present["image"], numpy.test.present["image"])


@pytest.mark.parametrize(
    ("options", "error", "found"),
    [
        ({"n": 1000}, ValueError, "n is 1000; give three sizes.*such as"),
        ({"n": (10, 5)}, ValueError, r"n is \(10, 5\); give three sizes"),
        ({"n": (10.5, 5, 5)}, ValueError, r"n is \(10\.5, 5, 5\).*whole numbers"),
        ({"n": (True, 5, 5)}, ValueError, r"n is \(True, 5, 5\).*whole numbers"),
        ({"n": {"train": 9}}, ValueError, "n is .*three sizes"),
        ({"dims": 2.5}, ValueError, r"dims is 2\.5; give a whole number"),
        ({"dims": NAN}, ValueError, "dims is nan; give a whole number"),
        ({"dims": "16"}, ValueError, "dims is '16'; give a whole number"),
        ({"dims": {"a": 2, "b": -3}}, ValueError, "dims is .*-3.*at least 1 dimension"),
        ({"signal": 2.0}, TypeError, r"signal is 2\.0; say how far.*\{'a': 2\.0"),
        ({"signal": None}, TypeError, "signal is None; say how far"),
        ({"signal": ["a", "b"]}, TypeError, r"signal is \['a', 'b'\]; say how far"),
        ({"signal": {"a": INF}}, ValueError, r"signal\['a'\] is inf; give a finite"),
        ({"redundancy": "0.5"}, TypeError, r"redundancy is '0\.5'; give a number"),
        ({"redundancy": NAN}, ValueError, "redundancy is nan; give a number from 0"),
        ({"redundancy": -0.1}, ValueError, r"redundancy is -0\.1; give a number from 0"),
        ({"xor": "no"}, TypeError, "xor is 'no'; give True or False"),
        ({"xor": 1}, TypeError, "xor is 1; give True or False"),
        ({"shift": 0.5}, TypeError, r"shift=0\.5 does not say which"),
        ({"shift": {"a": NAN}}, ValueError, r"shift\['a'\] is nan; give a finite"),
        ({"signal": {"left": 1.0}, "shift": {"lefft": 1.0}}, ValueError, r"mean 'left'\?"),
    ],
)
def test_settings_of_the_synthetic_set(options, error, found):
    with pytest.raises(error, match=found):
        synthetic(**options)
    given = {
        name: options[name] for name in ("signal", "redundancy", "xor", "shift") & options.keys()
    }
    if given:
        with pytest.raises(error, match=found):
            bayes_accuracy(**given)


def test_directions_need_whole_dimensions():
    with pytest.raises(ValueError, match=r"dims is 1\.5; give a whole number"):
        directions({"a": 1.0}, 1.5)


# --- the dials by themselves -------------------------------------------------------------------


@pytest.mark.parametrize("dial", [keep, drop])
def test_keep_and_drop_take_one_batch(dial):
    with pytest.raises(
        TypeError, match=r"takes a Batch, such as data\.train, and got a Multimodal"
    ):
        dial(synthetic(n=(9, 9, 9)), {"a": 0.5})
    with pytest.raises(TypeError, match="seed is 'x'; give a whole number"):
        dial(make_batch(), {"a": 0.5}, seed="x")


@pytest.mark.parametrize("rate", ["half", [0.5], (0.5, 0.5)])
def test_drop_takes_a_number_or_one_for_each(rate):
    with pytest.raises(TypeError, match=r"missing is .*; give a number from 0 to 1.*\{'a': 0\.5\}"):
        drop(make_batch(), rate)


@pytest.mark.parametrize("sd", [-0.1, NAN, INF])
def test_noise_has_a_finite_sd(sd):
    with pytest.raises(ValueError, match=rf"sd is {sd}; give a finite number >= 0"):
        add_noise(torch.ones(4, 2), sd, generator(0))


def test_noise_never_changes_a_shape():
    with pytest.raises(ValueError, match=r"sd has shape \(3, 1, 1\).*values, \(4, 2\)"):
        add_noise(torch.ones(4, 2), torch.ones(3, 1, 1), generator(0))
    with pytest.raises(ValueError, match=r"sd has shape \(3,\).*values, \(4, 2\)"):
        add_noise(torch.ones(4, 2), torch.ones(3), generator(0))


def test_noise_needs_real_numbers():
    with pytest.raises(ValueError, match=r"values are torch\.int64; noise needs.*\.float\(\)"):
        add_noise(torch.ones(4, 2).long(), 1.0, generator(0))


@pytest.mark.parametrize("fraction", [-0.1, 1.5, NAN])
def test_occlusion_is_a_share(fraction):
    with pytest.raises(ValueError, match=rf"fraction is {fraction}; give a number from 0 to 1"):
        occlude(torch.ones(4, 8, 8), fraction, generator(0), axes=2)


@pytest.mark.parametrize("axes", [0, 3, -1])
def test_occlusion_leaves_the_axis_of_the_samples(axes):
    with pytest.raises(ValueError, match=rf"axes is {axes}, .*\(4, 8, 8\); give .* 1 to 2"):
        occlude(torch.ones(4, 8, 8), 0.5, generator(0), axes=axes)


def test_counting_what_is_missing_takes_one_batch():
    with pytest.raises(TypeError, match=r"realised_rates takes a Batch.*got a MultimodalData"):
        realised_rates(synthetic(n=(9, 9, 9)))
