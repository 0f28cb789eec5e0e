"""av-digits: who is in which split, what meets what, and that the file is the one described."""

import hashlib

import numpy as np
import pytest
import torch
from comparing import same

from mmlab.datasets import embedded, load, realised_rates, spoken, tri_digits
from mmlab.datasets.av_digits import FILE, FOLDS, SHA256, pairs, read


@pytest.fixture(scope="module")
def arrays():
    return read()


@pytest.mark.parametrize("split", ["speaker", "seen"])
def test_sizes_shapes_and_classes(split):
    data = load("av-digits", seed=1, split=split)
    assert [len(batch) for batch in data.splits.values()] == [1500, 500, 1000]
    assert data.modalities == ("audio", "image")
    assert data.shape("audio") == (13, 24) and data.shape("image") == (8, 8)
    for batch in data.splits.values():
        assert all(values.dtype == torch.float32 for values in batch.inputs.values())
        assert len(batch.target.bincount().unique()) == 1, "every digit is there equally often"
        assert batch.present is None


def test_one_seed_gives_the_same_bits_and_two_seeds_differ():
    dials = {
        "noise": {"image": 0.25, "audio": 0.1},
        "occlusion": {"image": 0.2},
        "keep": {"image": 0.5},
        "missing": 0.3,
    }
    first = load("av-digits", seed=3, **dials)
    again = load("av-digits", seed=3, **dials)
    assert same(first, again)
    assert torch.equal(first.test.present["audio"], again.test.present["audio"])
    assert not same(first, load("av-digits", seed=6, **dials)), "same fold, another draw"


@pytest.mark.parametrize("seed", range(4))
def test_speakers_keep_to_their_split_as_the_fold_says(seed, arrays):
    rows = pairs(seed)
    who = {
        name: set(arrays["speakers"][arrays["speaker"][pair.clips]]) for name, pair in rows.items()
    }
    test, holdout = FOLDS[seed % 3]
    assert who["test"] == set(test) and who["holdout"] == {holdout}
    assert who["train"] == set(arrays["speakers"]) - who["test"] - who["holdout"]


@pytest.mark.parametrize("split", ["speaker", "seen"])
def test_no_recording_and_no_image_crosses_a_split(split):
    rows = pairs(0, split)
    clips = torch.cat([pair.clips for pair in rows.values()])
    assert len(clips.unique()) == len(clips) == 3000
    images = [pair.images.unique() for pair in rows.values()]
    assert len(torch.cat(images).unique()) == sum(map(len, images))
    assert [len(i) / 1797 for i in images] == pytest.approx([0.6, 0.1, 0.3], abs=0.005)


def test_seen_speakers_are_in_every_split(arrays):
    for pair in pairs(0, "seen").values():
        assert len(set(arrays["speaker"][pair.clips])) == 6


def test_both_modalities_show_the_target(arrays):
    data, rows = load("av-digits", seed=2), pairs(2)
    for name, batch in data.splits.items():
        assert (arrays["digit"][rows[name].clips] == batch.target.numpy()).all()
        assert (arrays["image_digit"][rows[name].images] == batch.target.numpy()).all()


def test_samples_come_shuffled_and_pairs_are_not_fixed():
    data = load("av-digits")
    assert len(data.test.target[:50].unique()) == 10
    first, other = pairs(0)["train"], pairs(3)["train"]
    partner = dict(zip(other.clips.tolist(), other.images.tolist(), strict=True))
    rows = zip(first.clips.tolist(), first.images.tolist(), strict=True)
    agreed = sum(partner[clip] == image for clip, image in rows)
    assert agreed < 100


@pytest.mark.parametrize("split", ["speaker", "seen"])
def test_the_seed_draws_what_is_in_each_split(split):
    """One fold, two seeds: other images, and where speakers are mixed, other recordings."""
    first, other = pairs(0, split)["train"], pairs(3, split)["train"]
    assert set(first.images.tolist()) != set(other.images.tolist())
    same_clips = set(first.clips.tolist()) == set(other.clips.tolist())
    assert same_clips == (split == "speaker")


def test_the_seed_draws_the_order_and_the_partners(monkeypatch):
    """Also where the seed leaves the splits as they are."""
    draw = spoken._split_by_class
    monkeypatch.setattr(spoken, "_split_by_class", lambda *given: draw(*given[:2], 0, given[3]))
    first, other = pairs(0)["train"], pairs(3)["train"]
    assert set(first.images.tolist()) == set(other.images.tolist())
    assert (first.clips == other.clips).double().mean() < 0.1
    partner = dict(zip(other.clips.tolist(), other.images.tolist(), strict=True))
    rows = zip(first.clips.tolist(), first.images.tolist(), strict=True)
    assert sum(partner[clip] == image for clip, image in rows) < 100


def test_statistics_come_from_training_alone(arrays):
    data, rows = load("av-digits", seed=1), pairs(1)
    audio, image = data.train.inputs["audio"], data.train.inputs["image"]
    torch.testing.assert_close(audio.mean((0, 2)), torch.zeros(13), atol=1e-4, rtol=0)
    torch.testing.assert_close(audio.std((0, 2)), torch.ones(13), atol=1e-3, rtol=0)
    assert image.mean().item() == pytest.approx(0, abs=1e-4)
    assert image.std().item() == pytest.approx(1, abs=1e-3)
    raw = arrays["mfcc"].astype(np.float64)
    train = raw[rows["train"].clips]
    mean, sd = (f(train, axis=(0, 2), keepdims=True) for f in (np.mean, np.std))
    expected = torch.from_numpy((raw[rows["test"].clips] - mean) / sd).float()
    torch.testing.assert_close(data.test.inputs["audio"], expected, atol=1e-3, rtol=1e-3)
    assert data.test.inputs["audio"].mean((0, 2)).abs().max() > 0.1, "new speakers are elsewhere"


def test_image_noise_is_in_units_of_full_scale(arrays):
    clean, rows = arrays["image"] / 16, pairs(0)
    image = load("av-digits", noise={"image": 0.25}).test.inputs["image"].double()
    pixels = torch.from_numpy(clean[rows["test"].images])
    # Undo the standardisation by regression: noise is what the pixels do not explain.
    slope, offset = np.polyfit(pixels.flatten(), image.flatten(), 1)
    residual = (image - offset) / slope - pixels
    assert residual.std().item() == pytest.approx(0.25, rel=0.03)


def test_audio_noise_is_in_sd_of_each_coefficient():
    clean = load("av-digits").train.inputs["audio"]
    noisy = load("av-digits", noise={"audio": 1.0}).train.inputs["audio"]
    # Two equal parts of variance, standardised together: every coefficient correlates by 1/sqrt 2.
    correlation = (clean * noisy).mean((0, 2))
    torch.testing.assert_close(correlation, torch.full((13,), 0.5**0.5), atol=0.02, rtol=0)


def test_a_dial_on_one_modality_leaves_the_other_alone():
    clean, noisy = load("av-digits"), load("av-digits", noise={"image": 0.5})
    for name, batch in clean.splits.items():
        assert torch.equal(batch.inputs["audio"], noisy.splits[name].inputs["audio"])
        assert not torch.equal(batch.inputs["image"], noisy.splits[name].inputs["image"])


def test_noise_is_drawn_anew_for_each_split_and_sample():
    data = load("av-digits", noise={"image": 1e4})
    train, test = data.train.inputs["image"], data.test.inputs["image"]
    assert abs(torch.corrcoef(torch.stack([train[:1000].flatten(), test.flatten()]))[0, 1]) < 0.05
    assert abs(torch.corrcoef(torch.stack([train[0].flatten(), train[1].flatten()]))[0, 1]) < 0.6


@pytest.mark.parametrize("change", [{"seed": 1}, {"modality": "image"}])
def test_noise_has_a_stream_of_each_seed_and_modality(change):
    clean, given = {"train": torch.zeros(1000, 8)}, {"seed": 0, "modality": "audio"}
    one, again = (embedded.noisy(clean, 1.0, **given)["train"] for _ in range(2))
    other = embedded.noisy(clean, 1.0, **given | change)["train"]
    assert torch.equal(one, again)
    assert abs((one * other).mean()) < 0.05


def test_occlusion_hides_a_quarter_with_the_training_mean():
    image = load("av-digits", occlusion={"image": 0.25}).holdout.inputs["image"]
    assert ((image == 0).sum((1, 2)) >= 16).all()
    audio = load("av-digits", occlusion={"audio": 0.5}).test.inputs["audio"]
    assert ((audio == 0).all(1).sum(1) == 12).all()


def test_what_is_hidden_is_drawn_with_the_seed():
    hidden = [
        load("av-digits", seed=seed, occlusion={"image": 0.25}).test.inputs["image"] == 0
        for seed in (0, 3)
    ]
    assert (hidden[0] == hidden[1]).all((1, 2)).double().mean() < 0.1, "one place of 25"


def test_keep_thins_training_alone():
    data = load("av-digits", keep={"image": 0.2})
    assert data.train.present["image"].sum() == 300
    assert data.train.present["audio"].all()
    assert data.holdout.present is None and data.test.present is None


def test_missing_reaches_all_splits_with_masks_of_their_own():
    data = load("av-digits", missing={"audio": 0.5})
    for batch in data.splits.values():
        rate = realised_rates(batch)
        assert rate["audio"] == pytest.approx(0.5, abs=0.12) and rate["image"] == 0
        assert (batch.inputs["audio"][~batch.present["audio"]] == 0).all()
    masks = [batch.present["audio"][:500] for batch in data.splits.values()]
    assert not torch.equal(masks[0], masks[1]) and not torch.equal(masks[1], masks[2])


def test_card_says_what_a_reader_must_know():
    card = load("av-digits").describe()
    for words in ("made by class", "6 speakers", "CC BY-SA 4.0", "CC BY 4.0", "holdout alone"):
        assert words in card
    assert "Tested on george and jackson, held out theo" in load("av-digits", seed=1).card
    assert "Every speaker is in every split" in load("av-digits", split="seen").card


def test_unknown_split_names_the_allowed_ones():
    with pytest.raises(ValueError, match="unknown split 'random'; allowed: speaker, seen"):
        load("av-digits", split="random")


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_corrupt_file_is_refused(damage, tmp_path):
    content = bytearray(FILE.read_bytes())
    if damage == "flip":
        content[1_000_000] ^= 1
    file = tmp_path / "av-digits.npz"
    file.write_bytes({"flip": content, "cut": content[:-100], "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"damaged: SHA-256 .*build_av_digits\.py"):
        read(file)


def test_a_folder_in_place_of_the_file_is_said(tmp_path):
    with pytest.raises(OSError, match=r"cannot be read \(.*git checkout -- data/"):
        read(tmp_path)


def test_another_embedded_file_is_checked_too(tmp_path):
    """The message says what was found and expected, and how to get the file back."""
    damaged = tmp_path / tri_digits.FILE.name
    damaged.write_bytes(tri_digits.FILE.read_bytes()[:-1] + b"!")
    digests = [hashlib.sha256(f.read_bytes()).hexdigest() for f in (damaged, tri_digits.FILE)]
    with pytest.raises(ValueError, match=f"{damaged.name} is damaged: SHA-256 ") as caught:
        tri_digits.read(damaged)
    assert all(digest in str(caught.value) for digest in digests)
    assert f"git checkout -- data/{damaged.name}" in str(caught.value)
    damaged.unlink()
    with pytest.raises(FileNotFoundError, match=f"{damaged.name} is missing; restore it with"):
        tri_digits.read(damaged)


def test_readme_gives_the_checksums_of_the_files():
    text = (FILE.parent / "README.md").read_text(encoding="utf-8")
    for name in ("av-digits.npz", "sources/fsdd-order.npz"):
        digest = hashlib.sha256((FILE.parent / name).read_bytes()).hexdigest()
        assert f"| `{name}` |" in text and digest in text
    assert SHA256 in text


@pytest.fixture
def builder(script):
    return script("build_av_digits")


def test_build_script_makes_the_file_bit_for_bit(rebuilt):
    assert rebuilt("build_av_digits") == FILE.read_bytes()


def test_build_script_refuses_another_order_of_the_recordings(builder, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "read_sequences", lambda package: {})
    monkeypatch.setattr(builder, "ORDER", tmp_path / "fsdd-order.npz")
    with pytest.raises(SystemExit, match=r"cannot read .*fsdd-order\.npz.*git checkout"):
        builder.build(tmp_path)
    (tmp_path / "fsdd-order.npz").write_bytes(b"something else")
    with pytest.raises(
        SystemExit, match=r"fsdd-order\.npz has SHA-256 .*instead of a5c8.*checkout"
    ):
        builder.build(tmp_path)
