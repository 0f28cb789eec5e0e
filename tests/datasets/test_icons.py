"""icons: whole words in one split, names hashed as described, and the file is the one described."""

import math
import zlib

import numpy as np
import pytest
import torch
from comparing import same

from mmlab.datasets import load, realised_rates
from mmlab.datasets.icons import FILE, MODALITIES, hashed, icons, read


@pytest.fixture(scope="module")
def arrays():
    return read()


@pytest.mark.parametrize("split", ["random", "word"])
def test_sizes_shapes_and_classes(split):
    data = load("icons", seed=1, split=split)
    sizes = [len(batch) for batch in data.splits.values()]
    assert sum(sizes) == 3481
    assert [size / 3481 for size in sizes] == pytest.approx([0.6, 0.1, 0.3], abs=0.02)
    assert data.modalities == MODALITIES == ("name", "picture")
    assert data.shape("name") == (256,) and data.shape("picture") == (1, 12, 12)
    assert data.task == "classification" and data.n_classes == 11
    for batch in data.splits.values():
        assert all(values.dtype == torch.float32 for values in batch.inputs.values())
        assert batch.present is None
    assert len(data.train.target.unique()) == len(data.test.target.unique()) == 11


@pytest.mark.parametrize("split", ["random", "word"])
@pytest.mark.parametrize("seed", range(4))
def test_no_icon_is_lost_and_no_word_crosses_a_split_by_word(split, seed, arrays):
    rows = icons(seed, split)
    assert torch.equal(torch.cat(list(rows.values())).sort().values, torch.arange(3481))
    words = [{name.split("-")[0] for name in arrays["name"][row]} for row in rows.values()]
    crossing = sum(map(len, words)) - len(set().union(*words))
    assert len(set().union(*words)) == 576
    assert crossing == 0 if split == "word" else crossing > 100


def test_the_seed_draws_splits_and_order():
    for split in ("random", "word"):
        first, other = (icons(seed, split)["train"] for seed in (0, 1))
        assert set(first.tolist()) != set(other.tolist())
        assert not torch.equal(first, first.sort().values)


def test_one_seed_gives_the_same_bits_and_two_seeds_differ():
    dials = {"noise": {"picture": 0.5}, "keep": {"name": 0.5}, "missing": 0.3}
    first, again = (load("icons", seed=3, **dials) for _ in range(2))
    assert same(first, again)
    assert torch.equal(first.test.present["name"], again.test.present["name"])
    assert not same(first, load("icons", seed=4, **dials))


def test_statistics_come_from_training_alone(arrays):
    data, rows = load("icons", seed=1, split="word"), icons(1, "word")
    for m, values in (("name", hashed(arrays["name"])), ("picture", arrays["picture"])):
        sd, mean = torch.std_mean(data.train.inputs[m])
        assert mean.abs() < 1e-4 and (sd - 1).abs() < 1e-3
        train = values[rows["train"]].astype(np.float64)
        expected = torch.from_numpy((values[rows["test"]] - train.mean()) / train.std()).float()
        torch.testing.assert_close(data.test.inputs[m], expected, atol=1e-4, rtol=1e-4)
    assert (data.test.target.numpy() == arrays["category"][rows["test"]]).all()


@pytest.mark.parametrize("m", MODALITIES)
def test_noise_is_in_sd_of_its_modality_and_leaves_the_other_alone(m):
    clean, noisy = load("icons"), load("icons", noise={m: 1.0})
    # Two equal parts of variance, standardised together: they correlate by 1/sqrt 2.
    correlation = (clean.train.inputs[m] * noisy.train.inputs[m]).mean().item()
    assert correlation == pytest.approx(0.5**0.5, abs=0.01)
    (other,) = set(MODALITIES) - {m}
    for part, batch in clean.splits.items():
        assert torch.equal(batch.inputs[other], noisy.splits[part].inputs[other])


def test_keep_thins_training_alone_and_missing_reaches_all():
    kept = load("icons", keep={"name": 0.2})
    assert kept.train.present["name"].sum() == round(0.2 * len(kept.train))
    assert kept.holdout.present is None and kept.test.present is None
    for batch in load("icons", missing={"name": 0.5}).splits.values():
        assert realised_rates(batch)["name"] == pytest.approx(0.5, abs=0.1)
        assert (batch.inputs["name"][~batch.present["name"]] == 0).all()


def test_a_name_is_hashed_as_described():
    """^aa$ has the pieces ^a aa a$, ^aa aa$ and ^aa$; the check value of CRC-32 is well known."""
    assert zlib.crc32(b"123456789") == 0xCBF43926
    expected = np.zeros(256)
    for piece in (b"^a", b"aa", b"a$", b"^aa", b"aa$", b"^aa$"):
        expected[zlib.crc32(piece) % 256] += 1
    counts = hashed(["aa", "aaaa"])
    np.testing.assert_array_equal(counts[0], expected)
    assert counts.sum(1).tolist() == [6, 5 + 4 + 3]
    assert counts[1, zlib.crc32(b"aa") % 256] >= 3, "as often as it is there"


def test_names_and_kinds_are_those_of_the_source(arrays):
    assert len(set(arrays["name"])) == 3481 and max(map(len, arrays["name"])) == 34
    sizes = dict(zip(arrays["categories"], np.bincount(arrays["category"]), strict=True))
    assert list(sizes.values()) == [831, 387, 359, 338, 283, 249, 222, 214, 213, 196, 189]
    assert list(sizes)[:3] == ["System", "Devices", "Design"] and "Brand" not in sizes
    kind = dict(zip(arrays["name"], arrays["categories"][arrays["category"]], strict=True))
    assert kind["a-b-2"] == "Text" and kind["square"] == "Shapes" and kind["zoom"] == "Map"


def test_the_picture_of_a_square_is_one(arrays):
    """Lines from 2 to 4 and from 20 to 22 of 24 units: pixels 1 and 10, with round corners."""
    square = arrays["picture"][list(arrays["name"]).index("square"), 0].astype(int)
    inside = np.zeros((12, 12), int)
    inside[[1, 10], 3:9] = inside[3:9, [1, 10]] = 255
    corners = np.ix_([1, 2, 9, 10], [1, 2, 9, 10])
    assert (square[corners] > 0).any()
    square[corners] = 0
    np.testing.assert_array_equal(square, inside)


def test_pictures_that_are_there_twice_are_as_many_as_the_card_says(arrays):
    pictures = arrays["picture"].reshape(3481, -1)
    _, member, count = np.unique(pictures, axis=0, return_inverse=True, return_counts=True)
    twice = [arrays["category"][member == k] for k in np.flatnonzero(count > 1)]
    assert len(twice) == 13 and all(len(pair) == 2 for pair in twice)
    assert sum(len(set(pair)) == 2 for pair in twice) == 6


def test_card_says_what_a_reader_must_know():
    card = load("icons").describe()
    for words in ("natural", "MIT", "variants", "Brand", "holdout alone", "Tabler Icons 3.52.0"):
        assert words in card
    assert "Split: word" in load("icons", split="word").card


def test_what_is_unknown_is_named():
    with pytest.raises(ValueError, match=r"unknown split 'words'; allowed: random, word.*'word'"):
        load("icons", split="words")
    for dial in ("noise", "keep", "missing"):
        with pytest.raises(ValueError, match=f"{dial}.*'audio'; allowed: name, picture"):
            load("icons", **{dial: {"audio": 0.5}})


def test_readme_gives_the_licence():
    text = (FILE.parent / "README.md").read_text(encoding="utf-8")
    assert (
        "Copyright (c) 2020-2026 Paweł Kuna" in text and 'THE SOFTWARE IS PROVIDED "AS IS"' in text
    )


@pytest.fixture
def builder(script):
    return script("build_icons")


def test_build_script_makes_the_file_bit_for_bit(rebuilt):
    assert rebuilt("build_icons") == FILE.read_bytes()


def svg(*paths):
    square = '<path stroke="none" d="M0 0h24v24H0z" fill="none" />'
    return f'<svg xmlns="http://www.w3.org/2000/svg">{square}{"".join(paths)}</svg>'


def test_a_line_is_drawn_two_units_wide_with_round_ends(builder):
    """From (5, 12) to (19, 12): half of the pixels in rows 5 and 6, and two half circles."""
    picture = builder.picture(svg('<path d="M5 12l14 0" />')).astype(float)
    assert np.abs(picture[5:7, 3:9] - 127.5).max() <= 0.5
    assert not picture[:5].any() and not picture[7:].any()
    assert picture.sum() / 255 == pytest.approx((14 * 2 + math.pi) / 4, rel=0.01)


def test_fillings_arcs_and_curves_are_drawn(builder):
    circle = '<path d="M12 4a8 8 0 1 0 0 16a8 8 0 1 0 0 -16z" {} />'
    area = {}
    for drawn in ("", 'fill="currentColor"', 'fill="currentColor" stroke="none"'):
        area[drawn] = builder.picture(svg(circle.format(drawn))).sum() / 255 * 4
    expected = [math.pi * (9**2 - 7**2), math.pi * 9**2, math.pi * 8**2]
    assert list(area.values()) == pytest.approx(expected, rel=0.01)
    for bow, top in (
        ("q8 -8 16 0", 8),
        ("c0 -8 16 -8 16 0", 6),
    ):
        picture = builder.picture(svg(f'<path d="M4 12{bow}" />'))
        (inked,) = np.nonzero(picture[:, 5:7].any(1))
        assert inked.tolist() == [(top - 1) // 2, (top + 1) // 2] and not picture[7:].any()
