"""tri-digits: the sound of av-digits, two views of one scan, and that the file is as described."""

import numpy as np
import pytest
import torch
from comparing import same

from mmlab.datasets import load, realised_rates
from mmlab.datasets.tri_digits import FILE, MODALITIES, pairs, read


@pytest.fixture(scope="module")
def arrays():
    return read()


@pytest.mark.parametrize("split", ["speaker", "seen"])
def test_sizes_shapes_and_classes(split):
    data = load("tri-digits", seed=1, split=split)
    assert [len(batch) for batch in data.splits.values()] == [1500, 500, 1000]
    assert data.modalities == ("audio", "pixels", "zernike")
    assert [data.shape(m) for m in MODALITIES] == [(13, 24), (1, 16, 15), (47,)]
    for batch in data.splits.values():
        assert all(values.dtype == torch.float32 for values in batch.inputs.values())
        assert all(values.isfinite().all() for values in batch.inputs.values())
        assert len(batch.target.bincount().unique()) == 1, "every digit is there equally often"
        assert batch.present is None


@pytest.mark.parametrize("options", [{}, {"split": "seen"}, {"task": "regression"}])
@pytest.mark.parametrize("seed", [0, 4])
def test_sound_and_targets_are_those_of_av_digits(seed, options):
    tri, av = (load(name, seed=seed, **options) for name in ("tri-digits", "av-digits"))
    for name, batch in tri.splits.items():
        assert torch.equal(batch.target, av.splits[name].target)
        assert torch.equal(batch.inputs["audio"], av.splits[name].inputs["audio"])
    assert tri.card.splitlines()[0] == av.card.splitlines()[0]


def test_one_seed_gives_the_same_bits_and_two_seeds_differ():
    dials = {"noise": {"zernike": 0.5, "audio": 0.1}, "keep": {"pixels": 0.5}, "missing": 0.3}
    first, again = (load("tri-digits", seed=3, **dials) for _ in range(2))
    assert same(first, again)
    assert torch.equal(first.test.present["audio"], again.test.present["audio"])
    assert not same(first, load("tri-digits", seed=6, **dials)), "same fold, another draw"


@pytest.mark.parametrize("split", ["speaker", "seen"])
def test_no_recording_and_no_scan_crosses_a_split(split):
    rows = pairs(0, split)
    clips = torch.cat([pair.clips for pair in rows.values()])
    assert len(clips.unique()) == len(clips) == 3000
    scans = [pair.images.unique() for pair in rows.values()]
    assert len(torch.cat(scans).unique()) == sum(map(len, scans))
    assert [len(s) / 1994 for s in scans] == pytest.approx([0.6, 0.1, 0.3], abs=0.005)


def test_no_scan_is_there_twice(arrays):
    pixels = arrays["pixels"].reshape(len(arrays["pixels"]), -1)
    assert len(np.unique(pixels, axis=0)) == len(pixels) == 1994


def test_some_nines_are_sixes_upside_down_and_have_the_same_moments(arrays):
    """So the card can say that no training tells them apart."""
    pixels, moments, digit = (arrays[key] for key in ("pixels", "zernike", "scan_digit"))
    sixes, nines = np.flatnonzero(digit == 6), np.flatnonzero(digit == 9)
    alike = (moments[sixes, None] == moments[nines]).all(-1)
    assert alike.sum() == 27
    for i, j in np.argwhere(alike):
        turned = pixels[nines[j], 0, ::-1, ::-1].astype(int)
        assert np.abs(pixels[sixes[i], 0] - turned).mean() < 0.2, "of 6 grey levels"


def test_the_two_views_of_a_sample_come_from_one_scan(arrays):
    data, rows = load("tri-digits", seed=2, noise={}), pairs(2)
    pixels, moments = (torch.from_numpy(arrays[m]).double() for m in ("pixels", "zernike"))
    scans = rows["train"].images
    for name, batch in data.splits.items():
        row = rows[name].images
        assert (arrays["scan_digit"][row] == batch.target.numpy()).all()
        expected = (pixels[row] - pixels[scans].mean()) / pixels[scans].std(correction=0)
        torch.testing.assert_close(batch.inputs["pixels"].double(), expected, atol=1e-4, rtol=0)
        sd, mean = torch.std_mean(moments[scans], 0, correction=0)
        expected = (moments[row] - mean) / sd
        torch.testing.assert_close(batch.inputs["zernike"].double(), expected, atol=1e-3, rtol=0)


def test_samples_come_shuffled():
    assert len(load("tri-digits").test.target[:50].unique()) == 10


@pytest.mark.parametrize("options", [{}, {"noise": {"zernike": 2.0, "audio": 1.0}}])
def test_training_inputs_are_standardised_with_their_noise(options):
    train = load("tri-digits", seed=1, **options).train.inputs
    for m, axes in (("audio", (0, 2)), ("pixels", (0, 1, 2, 3)), ("zernike", 0)):
        sd, mean = torch.std_mean(train[m], axes)
        assert mean.abs().max() < 1e-4 and (sd - 1).abs().max() < 1e-3
    test = load("tri-digits", seed=1, **options).test.inputs
    assert test["zernike"].mean(0).abs().max() > 0.01, "statistics of its own would give 0"


@pytest.mark.parametrize("m", MODALITIES)
def test_noise_is_in_sd_of_the_modality(m):
    clean, noisy = (load("tri-digits", noise=noise).train.inputs[m] for noise in ({}, {m: 1.0}))
    # Two equal parts of variance, standardised together: they correlate by 1/sqrt 2.
    feature = {"audio": (0, 2), "pixels": (0, 1, 2, 3), "zernike": (0,)}[m]
    correlation = (clean * noisy).mean(feature)
    expected = torch.full_like(correlation, 0.5**0.5)
    torch.testing.assert_close(correlation, expected, atol=0.06, rtol=0)


def test_pixels_are_noisy_unless_said_otherwise():
    assert same(load("tri-digits"), load("tri-digits", noise={"pixels": 1.0}))
    assert same(load("tri-digits", noise=None), load("tri-digits", noise={}))
    assert not same(load("tri-digits"), load("tri-digits", noise={}))


@pytest.mark.parametrize("m", MODALITIES)
def test_a_dial_on_one_modality_leaves_the_others_alone(m):
    clean, noisy = load("tri-digits", noise={}), load("tri-digits", noise={m: 0.5})
    for name, batch in clean.splits.items():
        for other in MODALITIES:
            equal = torch.equal(batch.inputs[other], noisy.splits[name].inputs[other])
            assert equal == (other != m)


def test_keep_thins_training_alone():
    data = load("tri-digits", keep={"zernike": 0.2})
    assert data.train.present["zernike"].sum() == 300
    assert data.train.present["audio"].all() and data.train.present["pixels"].all()
    assert data.holdout.present is None and data.test.present is None


def test_missing_reaches_all_splits_and_leaves_no_sample_bare():
    data = load("tri-digits", missing=0.6)
    for batch in data.splits.values():
        rates = realised_rates(batch)
        assert list(rates.values()) == pytest.approx([0.6 - 0.6**3 / 3] * 3, abs=0.08)
        assert torch.stack(list(batch.present.values())).any(0).all()
        for m, mask in batch.present.items():
            assert (batch.inputs[m][~mask] == 0).all()


def test_regression_asks_for_the_value_of_the_digit():
    labels, values = load("tri-digits"), load("tri-digits", task="regression")
    assert values.task == "regression" and values.n_classes is None and values.n_outputs == 1
    for name, batch in values.splits.items():
        expected = (labels.splits[name].target - 4.5) / 1.5
        torch.testing.assert_close(batch.target, expected)
        assert batch.target.min() == -3 and batch.target.max() == 3


def test_card_says_what_a_reader_must_know():
    card = load("tri-digits").describe()
    words = ("one scan", "by class", "6 speakers", "CC BY-SA 4.0", "CC BY 4.0", "holdout alone")
    for phrase in (*words, "rotation"):
        assert phrase in card


@pytest.mark.parametrize("dial", ["noise", "keep", "missing"])
def test_an_unknown_modality_names_the_allowed(dial):
    with pytest.raises(ValueError, match=f"{dial}.*'image'; allowed: audio, pixels, zernike"):
        load("tri-digits", **{dial: {"image": 0.5}})


def test_an_unknown_split_task_or_option_is_named():
    with pytest.raises(ValueError, match="unknown split 'random'; allowed: speaker, seen"):
        load("tri-digits", split="random")
    with pytest.raises(ValueError, match="task is 'ranking'"):
        load("tri-digits", task="ranking")
    with pytest.raises(TypeError, match="'tri-digits' has no option 'occlusion'"):
        load("tri-digits", occlusion={"pixels": 0.5})


def test_build_script_makes_the_file_bit_for_bit(rebuilt):
    assert rebuilt("build_tri_digits") == FILE.read_bytes()
