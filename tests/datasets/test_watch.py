"""watch: whole recordings and people in one split, and that the file is the one described."""

import io
import os
import pickle

import numpy as np
import pytest
import torch
from comparing import same

from mmlab.datasets import load, realised_rates
from mmlab.datasets.watch import FILE, MODALITIES, read, windows

SPLITS = [
    {"split": "arm"},
    {"split": "arm", "train_arm": "left"},
    {"split": "person"},
]


@pytest.fixture(scope="module")
def arrays():
    return read()


@pytest.mark.parametrize("options", SPLITS)
def test_sizes_shapes_and_classes(options):
    data = load("watch", seed=1, **options)
    assert sum(len(batch) for batch in data.splits.values()) == 2369
    assert data.modalities == MODALITIES == ("accelerometer", "gyroscope")
    assert all(data.shape(m) == (3, 50) for m in MODALITIES)
    assert data.task == "classification" and data.n_classes == 7
    for batch in data.splits.values():
        assert all(values.dtype == torch.float32 for values in batch.inputs.values())
        assert batch.target.bincount().min() > 0, "every exercise is there"
        assert batch.present is None


@pytest.mark.parametrize("options", SPLITS)
@pytest.mark.parametrize("seed", range(4))
def test_no_recording_crosses_a_split_and_no_window_is_lost(options, seed, arrays):
    rows = windows(seed, **options)
    assert torch.equal(torch.cat(list(rows.values())).sort().values, torch.arange(2369))
    recordings = [set(arrays["recording"][row]) for row in rows.values()]
    assert sum(map(len, recordings)) == 140 == len(set().union(*recordings))


@pytest.mark.parametrize(("train_arm", "trained"), [(None, 1), ("right", 1), ("left", 0)])
def test_one_arm_trains_and_the_other_tests(train_arm, trained, arrays):
    rows = windows(3, "arm", train_arm)
    arm = {part: set(arrays["arm"][row]) for part, row in rows.items()}
    assert arm == {"train": {trained}, "holdout": {trained}, "test": {1 - trained}}
    people = {part: set(arrays["person"][row]) for part, row in rows.items()}
    assert len(people["train"]) == 8 and len(people["holdout"]) == 2 and len(people["test"]) == 10
    assert not people["train"] & people["holdout"]
    other = "right" if train_arm == "left" else "left"
    assert f"tested on the {other} arm" in load("watch", train_arm=train_arm).card


@pytest.mark.parametrize("seed", range(4))
def test_no_person_crosses_a_split_by_person(seed, arrays):
    rows = windows(seed, "person")
    people = [set(arrays["person"][row]) for row in rows.values()]
    assert [len(p) for p in people] == [5, 2, 3] and len(set().union(*people)) == 10
    assert all(set(arrays["arm"][row]) == {0, 1} for row in rows.values())


def test_the_seed_draws_people_and_order(arrays):
    first, other = (windows(seed, "person") for seed in (0, 1))
    assert set(arrays["person"][first["test"]]) != set(arrays["person"][other["test"]])
    first, other = (windows(seed, "arm")["test"] for seed in (0, 1))
    assert set(first.tolist()) == set(other.tolist()), "the other arm of all"
    assert (first == other).double().mean() < 0.1
    assert len(load("watch").test.target[:50].unique()) == 7


def test_one_seed_gives_the_same_bits_and_two_seeds_differ():
    dials = {"noise": {"gyroscope": 0.5}, "keep": {"gyroscope": 0.5}, "missing": 0.3}
    first, again = (load("watch", seed=3, **dials) for _ in range(2))
    assert same(first, again)
    assert torch.equal(first.test.present["gyroscope"], again.test.present["gyroscope"])
    assert not same(first, load("watch", seed=4, **dials))


def test_statistics_come_from_training_alone(arrays):
    data, rows = load("watch", seed=1), windows(1)
    for m in MODALITIES:
        sd, mean = torch.std_mean(data.train.inputs[m], (0, 2))
        assert mean.abs().max() < 1e-4 and (sd - 1).abs().max() < 1e-3
        raw = arrays[m].astype(np.float64)
        train = raw[rows["train"]]
        mean, sd = (f(train, axis=(0, 2), keepdims=True) for f in (np.mean, np.std))
        expected = torch.from_numpy((raw[rows["test"]] - mean) / sd).float()
        torch.testing.assert_close(data.test.inputs[m], expected, atol=1e-3, rtol=1e-3)
    shift = data.test.inputs["accelerometer"].mean((0, 2)).abs().max()
    assert shift > 0.1, "the other arm is elsewhere"
    assert (data.test.target.numpy() == arrays["exercise"][rows["test"]]).all()


@pytest.mark.parametrize("m", MODALITIES)
def test_noise_is_in_sd_of_each_axis_of_its_modality(m):
    clean, noisy = load("watch"), load("watch", noise={m: 1.0})
    # Two equal parts of variance, standardised together: every axis correlates by 1/sqrt 2.
    correlation = (clean.train.inputs[m] * noisy.train.inputs[m]).mean((0, 2))
    torch.testing.assert_close(correlation, torch.full((3,), 0.5**0.5), atol=0.02, rtol=0)
    (other,) = set(MODALITIES) - {m}
    for part, batch in clean.splits.items():
        assert torch.equal(batch.inputs[other], noisy.splits[part].inputs[other])


def test_keep_thins_training_alone_and_missing_reaches_all():
    kept = load("watch", keep={"gyroscope": 0.2})
    assert kept.train.present["gyroscope"].sum() == round(0.2 * len(kept.train))
    assert kept.holdout.present is None and kept.test.present is None
    for batch in load("watch", missing={"gyroscope": 0.5}).splits.values():
        assert realised_rates(batch)["gyroscope"] == pytest.approx(0.5, abs=0.1)
        assert (batch.inputs["gyroscope"][~batch.present["gyroscope"]] == 0).all()


def test_numbers_fit_the_description(arrays):
    assert arrays["exercises"].tolist() == ["PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"]
    recordings = np.stack([arrays[key] for key in ("person", "arm", "exercise")], 1)
    assert len(np.unique(recordings, axis=0)) == 140, "everybody, every exercise, either arm"
    size = np.linalg.norm(arrays["accelerometer"].astype(float).mean(2), axis=1)
    assert 0.5 < np.median(size) < 1.1, "gravity, 1 g"
    assert np.bincount(arrays["exercise"]).min() / 2369 > 0.10
    assert np.bincount(arrays["exercise"]).max() / 2369 < 0.17


def test_card_says_what_a_reader_must_know():
    card = load("watch").describe()
    for words in ("natural", "10 people", "BSD", "cannot see", "holdout alone", "seglearn 1.2.5"):
        assert words in card
    assert "Tested on 3 people" in load("watch", split="person").card


def test_what_is_unknown_is_named():
    with pytest.raises(ValueError, match=r"unknown split 'arms'; allowed: arm, person.*'arm'"):
        load("watch", split="arms")
    with pytest.raises(ValueError, match=r"unknown train_arm 'Left'; allowed: left, right.*'left'"):
        load("watch", train_arm="Left")
    with pytest.raises(ValueError, match=r"train_arm is 'left', and split 'person' .*split='arm'"):
        load("watch", split="person", train_arm="left")
    for dial in ("noise", "keep", "missing"):
        with pytest.raises(ValueError, match=f"{dial}.*'audio'; allowed: accelerometer, gyroscope"):
            load("watch", **{dial: {"audio": 0.5}})


def test_readme_gives_the_licence():
    text = (FILE.parent / "README.md").read_text(encoding="utf-8")
    for words in (
        "Copyright (c) 2018, David M. Burns",
        'THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS',
    ):
        assert words in text


@pytest.fixture
def builder(script):
    return script("build_watch")


def test_build_script_makes_the_file_bit_for_bit(rebuilt):
    assert rebuilt("build_watch") == FILE.read_bytes()


def test_the_first_window_is_what_the_source_says(arrays):
    """The first values of the wheel's first series, copied by hand; person 7, PEN, right arm."""
    first = [-1.083608, -0.018609, -0.02726, 0.41141, -1.603097, -2.488642]
    second = [-1.077527, -0.021503, -0.018727, 0.456227, -1.778859, -2.354247]
    found = np.concatenate([arrays[m][0, :, 0] for m in MODALITIES])
    np.testing.assert_allclose(found, np.add(first, second) / 2, rtol=1e-3)
    assert [arrays[key][0] for key in ("person", "exercise", "arm")] == [7, 0, 1]
    assert (arrays["recording"] == 0).sum() == 13, "1333 values, 100 to a window"


def test_windows_are_means_of_two_values_without_overlap(builder):
    series = np.arange(250 * 6.0).reshape(250, 6)
    cut = builder.cut(series)
    assert cut.shape == (2, 6, 50), "the last half of a window is dropped"
    assert cut[1, 2, 0] == (series[100, 2] + series[101, 2]) / 2
    assert cut[0, 5, 49] == (series[98, 5] + series[99, 5]) / 2


class Evil:
    """A pickle of this calls a function of the system."""

    def __reduce__(self):
        return os.getcwd, ()


@pytest.mark.parametrize("content", [Evil(), {"X": [Evil()]}, io.BytesIO, np.int64(3)])
def test_the_reader_of_the_pickle_refuses_what_is_no_array(builder, content):
    with pytest.raises(pickle.UnpicklingError, match=r"the pickle asks for .*which is no array"):
        builder.ArrayReader(io.BytesIO(pickle.dumps(content))).load()


def test_the_reader_of_the_pickle_takes_text_in_latin1_alone(builder):
    assert builder.as_bytes("\xe9", "latin1") == b"\xe9"
    with pytest.raises(pickle.UnpicklingError, match="utf-8, not in latin1"):
        builder.as_bytes("e", "utf-8")
