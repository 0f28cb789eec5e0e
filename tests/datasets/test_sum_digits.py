"""sum-digits: the inputs of av-digits, and a target of which either digit alone says nothing."""

import numpy as np
import pytest
import torch
from comparing import same

from mmlab.datasets import av_digits, load, realised_rates
from mmlab.datasets.sum_digits import partners


def digits(seed, split, part):
    """What is said and what is written in each sample, from the files."""
    arrays, rows = av_digits.read(), av_digits.pairs(seed, split)[part]
    order = partners(torch.from_numpy(arrays["digit"]).long()[rows.clips], seed, part)
    return arrays["digit"][rows.clips], arrays["image_digit"][rows.images[order]]


@pytest.mark.parametrize("split", ["speaker", "seen"])
def test_sizes_shapes_and_classes(split):
    data = load("sum-digits", seed=1, split=split)
    assert [len(batch) for batch in data.splits.values()] == [1500, 500, 1000]
    assert data.shape("audio") == (13, 24) and data.shape("image") == (8, 8)
    assert data.n_classes == 10 and data.task == "classification"
    for batch in data.splits.values():
        assert all(values.dtype == torch.float32 for values in batch.inputs.values())
        assert len(batch.target.bincount().unique()) == 1, "every sum is there equally often"
        assert batch.present is None


@pytest.mark.parametrize("split", ["speaker", "seen"])
@pytest.mark.parametrize("part", ["train", "holdout", "test"])
def test_the_target_is_the_sum_and_every_pair_of_digits_is_equally_frequent(split, part):
    said, written = digits(4, split, part)
    target = load("sum-digits", seed=4, split=split).splits[part].target.numpy()
    np.testing.assert_array_equal(target, (said.astype(int) + written) % 10)
    table = np.zeros((10, 10), int)
    np.add.at(table, (said, written), 1)
    assert (table == len(said) // 100).all()


def test_the_target_is_independent_of_either_digit():
    target = load("sum-digits", seed=2).test.target.numpy()
    for digit in digits(2, "speaker", "test"):
        table = np.zeros((10, 10), int)
        np.add.at(table, (digit, target), 1)
        assert (table == 10).all()


def test_the_first_samples_tell_no_more_than_the_others():
    """Also a part of a split, from its start, has all pairs."""
    said, written = digits(0, "speaker", "train")
    assert len(set(zip(said[:500].tolist(), written[:500].tolist(), strict=True))) > 95


@pytest.mark.parametrize("seed", [0, 4])
def test_sound_and_images_are_those_of_av_digits(seed):
    options = {"seed": seed, "noise": {"image": 0.25}, "occlusion": {"image": 0.25}}
    summed, paired = load("sum-digits", **options), load("av-digits", **options)
    for part, batch in summed.splits.items():
        other = paired.splits[part]
        assert torch.equal(batch.inputs["audio"], other.inputs["audio"])
        order = partners(other.target, seed, part)
        assert torch.equal(order.sort().values, torch.arange(len(order)))
        assert torch.equal(batch.inputs["image"], other.inputs["image"][order])
        assert not torch.equal(batch.inputs["image"], other.inputs["image"])


def test_partners_by_hand():
    """Ten samples of each digit in order: sample 10 k + c gets an image of digit (k + turn) % 10,
    the one of the same number c, and each turn occurs in one column."""
    order = partners(torch.arange(10).repeat_interleave(10), 0, "train").reshape(10, 10)
    assert (order % 10 == torch.arange(10)).all()
    turn = (order // 10 - torch.arange(10)[:, None]) % 10
    assert (turn == turn[0]).all() and turn[0].sort().values.tolist() == list(range(10))


def test_one_seed_gives_the_same_bits_and_two_seeds_differ():
    dials = {"noise": {"audio": 0.1}, "keep": {"image": 0.5}, "missing": 0.3}
    first, again = (load("sum-digits", seed=3, **dials) for _ in range(2))
    assert same(first, again)
    assert torch.equal(first.test.present["audio"], again.test.present["audio"])
    assert not same(first, load("sum-digits", seed=6, **dials)), "same fold, another draw"


def test_seed_and_split_draw_the_partners():
    digit = torch.arange(10).repeat(150)
    first = partners(digit, 0, "train")
    assert (first == partners(digit, 3, "train")).double().mean() < 0.3
    assert (first == partners(digit, 0, "test")).double().mean() < 0.3


def test_keep_thins_training_alone_and_missing_reaches_all():
    kept = load("sum-digits", keep={"image": 0.2})
    assert kept.train.present["image"].sum() == 300
    assert kept.holdout.present is None and kept.test.present is None
    for batch in load("sum-digits", missing={"audio": 0.5}).splits.values():
        assert realised_rates(batch)["audio"] == pytest.approx(0.5, abs=0.12)
        assert (batch.inputs["audio"][~batch.present["audio"]] == 0).all()


def test_card_says_what_a_reader_must_know():
    card = load("sum-digits", seed=1).describe()
    for words in ("mod 10", "says nothing", "made; the inputs are real", "CC BY-SA 4.0"):
        assert words in card
    assert "Tested on george and jackson, held out theo" in card


def test_what_is_unknown_is_named():
    with pytest.raises(ValueError, match="unknown split 'random'; allowed: speaker, seen"):
        load("sum-digits", split="random")
    with pytest.raises(TypeError, match="'sum-digits' has no option 'task'"):
        load("sum-digits", task="regression")
    for dial in ("noise", "occlusion", "keep", "missing"):
        with pytest.raises(ValueError, match=f"{dial}.*'video'; allowed: audio, image"):
            load("sum-digits", **{dial: {"video": 0.5}})
