"""stamps: a picture and what is said of it; groups and languages, and the file is as described."""

import io
import platform

import numpy as np
import pytest
import torch
from comparing import same
from PIL import Image

from mmlab.datasets import load, realised_rates
from mmlab.datasets.recordings import RATE, mfcc
from mmlab.datasets.stamps import FILE, MODALITIES, coverage, listen, load_gaps, read, rows

SIZES = {"stamp": 0.02, "language": 0.08}  # how far a split may be from its share
RECORDINGS, PICTURES = 5716, 759


@pytest.fixture(scope="module")
def arrays():
    return read()


@pytest.mark.parametrize("split", SIZES)
def test_sizes_shapes_and_classes(split):
    data = load("stamps", seed=1, split=split)
    sizes = [len(batch) for batch in data.splits.values()]
    assert sum(sizes) == RECORDINGS
    assert [n / RECORDINGS for n in sizes] == pytest.approx([0.6, 0.15, 0.25], abs=SIZES[split])
    assert data.modalities == MODALITIES == ("picture", "speech")
    assert data.shape("picture") == (3, 12, 12) and data.shape("speech") == (13, 24)
    assert data.n_classes == 10
    for batch in data.splits.values():
        assert all(values.dtype == torch.float32 for values in batch.inputs.values())
        assert (batch.target.bincount(minlength=10) > 5).all() and batch.present is None


@pytest.mark.parametrize("split", SIZES)
def test_one_seed_gives_the_same_bits_and_two_seeds_differ(split):
    dials = {"split": split, "noise": {"speech": 0.5}, "keep": {"picture": 0.5}, "missing": 0.3}
    first, again = (load("stamps", seed=3, **dials) for _ in range(2))
    assert same(first, again)
    assert torch.equal(first.test.present["speech"], again.test.present["speech"])
    assert not same(first, load("stamps", seed=4, **dials))


@pytest.mark.parametrize("seed", range(4))
def test_no_group_and_no_picture_crosses_a_split_of_stamps(seed, arrays):
    pictures = [arrays["picture_of"][row] for row in rows(seed).values()]
    first = [  # read from the names themselves
        {(arrays["kind"][p], arrays["name"][p].replace("-", "_").split("_")[0]) for p in part}
        for part in pictures
    ]
    for members in ([set(part) for part in pictures], first):
        assert len(set.union(*members)) == sum(map(len, members))


@pytest.mark.parametrize("seed", range(4))
def test_no_language_crosses_a_split_of_languages(seed, arrays):
    spoken = [set(arrays["language"][row]) for row in rows(seed, "language").values()]
    assert len(set.union(*spoken)) == sum(map(len, spoken)) == 13
    card = load("stamps", seed=seed, split="language").card
    assert all(arrays["languages"][number] in card.splitlines()[0] for number in spoken[2])


@pytest.mark.parametrize("split", SIZES)
def test_every_recording_is_in_one_split(split):
    together = torch.cat(list(rows(0, split).values()))
    assert len(together.unique()) == len(together) == RECORDINGS


def test_no_recording_and_no_picture_is_there_twice(arrays):
    for key, number in (("speech", RECORDINGS), ("picture", PICTURES)):
        flat = arrays[key].reshape(len(arrays[key]), -1)
        assert len(flat) == number and len(np.unique(flat, axis=0)) == number
    assert (np.unique(arrays["picture_of"]) == np.arange(PICTURES)).all()


def test_both_modalities_are_of_one_stamp(arrays):
    data, members = load("stamps", seed=2), rows(2)
    train = members["train"]
    for name, batch in data.splits.items():
        row = members[name]
        assert (arrays["kind"][arrays["picture_of"][row]] == batch.target.numpy()).all()
        for m, values, axes in (
            ("picture", arrays["picture"][arrays["picture_of"]], (0, 1, 2, 3)),
            ("speech", arrays["speech"], (0, 2)),
        ):
            raw = torch.from_numpy(values.astype(np.float64))
            sd, mean = torch.std_mean(raw[train], axes, correction=0, keepdim=True)
            expected = (raw[row] - mean) / sd
            torch.testing.assert_close(batch.inputs[m].double(), expected, atol=1e-3, rtol=1e-4)


def test_what_is_heard_has_the_speech_of_the_file(arrays, script):
    """The sound is rounded to 16 bits, the speech to 255 steps: they agree up to that."""
    resample = script("building").resample
    steps = np.ptp(arrays["speech"], axis=(0, 2))[:, None] / 254
    for stamp, row in zip(listen(), arrays["heard"], strict=True):
        found = resample(mfcc(stamp.samples.double()).T.numpy(), 24)
        difference = np.abs(found - arrays["speech"][row]) / steps
        assert np.median(difference) < 0.5 and np.mean(difference < 2) > 0.95


def test_one_stamp_of_each_kind_can_be_heard_and_seen(arrays):
    heard = listen()
    assert [stamp.kind for stamp in heard] == arrays["kinds"].tolist()
    assert len({stamp.language for stamp in heard}) == 9
    for stamp, row in zip(heard, arrays["heard"], strict=True):
        assert stamp.rate == RATE and 0.4 < len(stamp.samples) / RATE < 1.2
        assert stamp.samples.dtype == torch.float32 and 0.05 < stamp.samples.abs().max() <= 1
        assert stamp.picture.shape == (48, 48, 3)
        small = stamp.picture.reshape(12, 4, 12, 4, 3).mean((1, 3)).transpose(2, 0, 1)
        picture = arrays["picture"][arrays["picture_of"][row]]
        assert np.abs(small - picture).mean() < 8, "one stamp, of 255 levels"
    assert (heard[2].name, heard[2].language, heard[2].kind) == ("tiger", "en", "animal")


def test_values_are_what_the_source_says(arrays):
    """A green apple is green, a B is black on white, and a banana is food in many languages."""
    names = arrays["name"].tolist()
    red, green, blue = arrays["picture"][names.index("apple_green"), :, 4:8, 4:8].mean((1, 2))
    assert green > red + 20 and green > blue + 20
    corners = arrays["picture"][names.index("b_filled")][:, ::11, ::11]
    assert (corners > 250).all()
    banana = names.index("banana")
    spoken = arrays["languages"][arrays["language"][arrays["picture_of"] == banana]]
    assert arrays["kinds"][arrays["kind"][banana]] == "food" and {"fr", "es", "ru"} <= set(spoken)
    assert len(set(spoken)) == len(spoken), "one description in each language"


def test_languages_cover_different_pictures(arrays):
    spoken = np.zeros((13, PICTURES), bool)
    spoken[arrays["language"], arrays["picture_of"]] = True
    assert not spoken.all(0).any() and spoken.any(0).all()


def test_dials_reach_their_modality_alone():
    clean, noisy = load("stamps"), load("stamps", noise={"speech": 0.5})
    for m in MODALITIES:
        assert torch.equal(clean.test.inputs[m], noisy.test.inputs[m]) == (m != "speech")
    thin = load("stamps", keep={"picture": 0.2}).train.present
    assert thin["picture"].double().mean().item() == pytest.approx(0.2, abs=0.001)
    assert thin["speech"].all()
    rates = realised_rates(load("stamps", missing={"speech": 0.5}).test)
    assert rates["speech"] == pytest.approx(0.5, abs=0.05) and rates["picture"] == 0


def test_card_says_what_a_reader_must_know():
    card = load("stamps").describe()
    for phrase in ("GPL-2", "tuxpaint-stamps-default", "13 languages", "natural", "holdout alone"):
        assert phrase in card
    assert "Tested on new stamps" in card


def test_what_is_unknown_names_the_allowed():
    with pytest.raises(ValueError, match="unknown split 'word'; allowed: stamp, language"):
        load("stamps", split="word")
    with pytest.raises(ValueError, match=r"noise.*'audio'; allowed: picture, speech"):
        load("stamps", noise={"audio": 0.5})


def test_the_licence_is_beside_the_file():
    licence = (FILE.parent / "LICENSE-stamps").read_text(encoding="utf-8")
    assert "GNU GENERAL PUBLIC LICENSE" in licence and "Version 2, June 1991" in licence


@pytest.fixture
def builder(script):
    for package in ("soundfile", "resvg_py"):
        pytest.importorskip(package, reason="decoding needs: pip install -e .[data]")
    return script("build_stamps")


def test_build_script_makes_a_part_of_the_file_bit_for_bit(builder, fetched):
    """All that is described, and each hundredth recording; the whole takes minutes."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("decoders round otherwise on another processor")
    files = builder.read_files(fetched(builder))
    raw = dict(np.load(FILE))
    found = builder.spoken(files)
    described = builder.described(found) | builder.heard(files, found)
    for key, values in described.items():
        assert values.dtype == raw[key].dtype and np.array_equal(values, raw[key]), key
    for row in range(0, RECORDINGS, 100):
        exact = (builder.speech(files[found[row][0]]) - raw["centre"]) / raw["scale"]
        assert np.array_equal(np.rint(exact), raw["speech"][row])
    stems = sorted({stem for _, stem, _ in found})
    for row in range(0, PICTURES, 40):
        assert np.array_equal(builder.picture(files, stems[row]), raw["picture"][row])


def test_whole_numbers_keep_values_to_half_a_step(builder):
    values = np.random.default_rng(0).normal(size=(50, 3, 4)) * [[[1.0], [20.0], [300.0]]]
    packed = builder.whole_numbers(values)
    again = packed["speech"] * packed["scale"] + packed["centre"]
    assert (np.abs(again - values) <= 0.501 * packed["scale"]).all()
    assert packed["speech"].min((0, 2)).tolist() == [-127] * 3
    assert packed["speech"].max((0, 2)).tolist() == [127] * 3


def page(content, number):
    """An Ogg page with one segment and a serial number of its own."""
    return b"OggS" + bytes(10) + bytes([number]) + bytes(11) + bytes([1, len(content)]) + content


def test_a_sound_counts_once_and_only_with_its_picture(builder):
    files = {
        "a/x.png": b"",
        "a/x_desc.ogg": page(b"one", 1) + page(b"more", 1),
        "a/x_desc_fr.ogg": page(b"two", 2),
        "a/x_fr.ogg": page(b"three", 3),  # no description
        "a/y.svg": b"",
        "a/y_desc_fr.ogg": page(b"two", 4),  # said before, in a file of another number
        "a/z_desc_fr.ogg": page(b"four", 5),  # of no picture
    }
    expected = [("a/x_desc.ogg", "a/x", "en"), ("a/x_desc_fr.ogg", "a/x", "fr")]
    assert builder.spoken(files) == expected
    assert builder.packets(files["a/x_desc.ogg"]) == b"onemore"


def test_a_picture_lies_on_white_in_the_middle_of_a_square(builder):
    image = Image.new("RGBA", (48, 24), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 24, 24))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    found = builder.picture({"a/x.png": buffer.getvalue()}, "a/x")
    red = np.full((3, 12, 12), 255)
    red[1:, 3:9, 6:] = 0
    assert np.array_equal(found, red)


def test_gaps_are_those_of_the_other_language(arrays):
    data = load_gaps(seed=3, language="ca", like="da")
    languages = arrays["languages"].tolist()
    catalan, danish = (arrays["language"] == languages.index(name) for name in ("ca", "da"))
    described = set(arrays["picture_of"][danish].tolist())
    for part, recordings in rows(3).items():
        batch, own = data.splits[part], recordings[torch.from_numpy(catalan)[recordings]]
        pictures = arrays["picture_of"][own].tolist()
        assert len(set(pictures)) == len(pictures) == len(batch), "one row per picture"
        assert batch.has("speech").tolist() == [p in described for p in pictures]
        assert batch.has("picture").all() and not batch.inputs["speech"][~batch.has("speech")].any()
        assert batch.target.tolist() == arrays["kind"][pictures].tolist()


def test_random_gaps_are_as_many_and_complete_ones_none():
    real, chance = load_gaps(seed=0), load_gaps(seed=0, at_random=True)
    for part, batch in real.splits.items():
        other = chance.splits[part]
        assert realised_rates(batch) == realised_rates(other)
        assert not torch.equal(batch.has("speech"), other.has("speech"))
        assert torch.equal(batch.target, other.target)
    assert load_gaps(seed=0, like=None).test.present is None


def test_the_card_tells_the_gaps():
    ways: dict[str, dict] = {"real": {}, "random": {"at_random": True}, "none": {"like": None}}
    cards = {name: load_gaps(**how).card for name, how in ways.items()}
    assert len({*cards.values()}) == len(cards)
    assert "missing where 'da' has none: real gaps, not random ones" in cards["real"]
    assert "as many recordings are missing as 'da' lacks, at random" in cards["random"]
    assert "No recording is missing" in cards["none"]
    for card in cards.values():
        assert "described in 'ca'" in card and "up to 11 rows" not in card


def test_a_gap_tells_the_kind():
    """Some kinds have no Danish recording at all; this is what makes these gaps of use."""
    danish = coverage("da")
    assert danish["letter"] == danish["season"] == 0 and danish["town"] == 1
    assert min(coverage("ca").values()) > 0.85
    with pytest.raises(ValueError, match="unknown language 'dk'"):
        coverage("dk")
