"""items: text, sprite and numbers of one thing, split by the last word, and the file is as said."""

import io
import json
import math
from zlib import crc32

import numpy as np
import pytest
import torch
from comparing import same
from PIL import Image

from mmlab.datasets import load, realised_rates
from mmlab.datasets.items import FILE, MODALITIES, read, rows

SIZES = {"word": 0.06, "random": 0.002}  # how far a split may be from its share


@pytest.fixture(scope="module")
def arrays():
    return read()


@pytest.mark.parametrize("split", SIZES)
def test_sizes_shapes_and_classes(split):
    data = load("items", seed=1, split=split)
    shares = [len(batch) / 2899 for batch in data.splits.values()]
    assert shares == pytest.approx([0.6, 0.15, 0.25], abs=SIZES[split])
    assert data.modalities == MODALITIES == ("text", "sprite", "table")
    assert [data.shape(m) for m in MODALITIES] == [(512,), (3, 16, 16), (27,)]
    assert data.n_classes == 9
    for batch in data.splits.values():
        assert all(values.dtype == torch.float32 for values in batch.inputs.values())
        assert (batch.target.bincount(minlength=9) > 5).all() and batch.present is None


@pytest.mark.parametrize("split", SIZES)
def test_one_seed_gives_the_same_bits_and_two_seeds_differ(split):
    dials = {"split": split, "noise": {"text": 0.5}, "keep": {"sprite": 0.5}, "missing": 0.3}
    first, again = (load("items", seed=3, **dials) for _ in range(2))
    assert same(first, again)
    assert torch.equal(first.test.present["text"], again.test.present["text"])
    assert not same(first, load("items", seed=4, **dials))


@pytest.mark.parametrize("seed", range(4))
def test_no_last_word_crosses_a_split(seed, arrays):
    found = [set(arrays["group"][row]) for row in rows(seed).values()]
    assert len(set.union(*found)) == sum(map(len, found)) == len(np.unique(arrays["group"]))
    words = [
        {
            name.lower().split()[-1]
            for name in arrays["name"][row]
            if name.replace(" ", "").isalpha()
        }
        for row in rows(seed).values()
    ]
    assert len(set.union(*words)) == sum(map(len, words)), "read from the names themselves"


@pytest.mark.parametrize("split", SIZES)
def test_every_item_is_in_one_split(split):
    together = torch.cat(list(rows(0, split).values()))
    assert len(together.unique()) == len(together) == 2899


def test_random_splits_share_words(arrays):
    train, _, test = (set(arrays["group"][row]) for row in rows(0, "random").values())
    assert len(train & test) > 100


def test_the_three_views_of_a_sample_show_one_item(arrays):
    data, members = load("items", seed=2), rows(2)
    train = members["train"]
    for name, batch in data.splits.items():
        row = members[name]
        assert (arrays["kind"][row] == batch.target.numpy()).all()
        for m, values, axes in (
            ("text", arrays["text"], 0),
            ("sprite", arrays["sprite"][arrays["sprite_of"]], (0, 1, 2, 3)),
            ("table", arrays["table"], 0),
        ):
            raw = torch.from_numpy(values.astype(np.float64))
            sd, mean = torch.std_mean(raw[train], axes, correction=0, keepdim=True)
            expected = (raw[row] - mean) / sd
            torch.testing.assert_close(batch.inputs[m].double(), expected, atol=1e-3, rtol=1e-4)


def test_values_are_what_the_game_says(arrays):
    """A claw hammer: 566 g, 320 ml, 7 dollars, of steel and wood; "hammer" is there thrice."""
    item = arrays["name"].tolist().index("hammer")
    table = dict(zip(arrays["columns"].tolist(), arrays["table"][item].tolist(), strict=True))
    expected = {"weight": 566, "volume": 320, "price": 700, "price_postapoc": 100, "bashing": 9}
    for column, amount in expected.items():
        assert table[column] == pytest.approx(math.log10(1 + amount), abs=2e-3)
    assert table["to_hit"] == pytest.approx(-math.log10(2), abs=1e-3) and table["cutting"] == 0
    assert table["steel"] == table["wood"] == 0.5 and table["plastic"] == 0
    assert arrays["kinds"][arrays["kind"][item]] == "tool"
    assert arrays["text"][item].sum() == 38, "words of name and description"
    assert arrays["text"][item][crc32(b"hammer") % 512] >= 3, "others may share it"


def test_every_sprite_is_used_and_none_is_there_twice(arrays):
    sprites = arrays["sprite"].reshape(len(arrays["sprite"]), -1)
    assert len(np.unique(sprites, axis=0)) == len(sprites) == 1839
    assert (np.unique(arrays["sprite_of"]) == np.arange(1839)).all()


def test_dials_reach_their_modality_alone():
    clean, noisy = load("items"), load("items", noise={"sprite": 0.5})
    for m in MODALITIES:
        assert torch.equal(clean.test.inputs[m], noisy.test.inputs[m]) == (m != "sprite")
    thin = load("items", keep={"table": 0.2}).train.present
    assert thin["table"].double().mean().item() == pytest.approx(0.2, abs=0.001)
    assert thin["text"].all()
    rates = realised_rates(load("items", missing={"text": 0.5}).test)
    assert rates["text"] == pytest.approx(0.5, abs=0.08) and rates["table"] == 0


def test_card_says_what_a_reader_must_know():
    card = load("items").describe()
    for phrase in ("CC BY-SA 3.0", "cataclysm-dda-data", "natural", "last", "unequal", "holdout"):
        assert phrase in card.replace("end with the same word", "last")
    assert "Tested on any items" in load("items", split="random").card


def test_what_is_unknown_names_the_allowed():
    with pytest.raises(ValueError, match="unknown split 'last'; allowed: word, random"):
        load("items", split="last")
    with pytest.raises(ValueError, match=r"noise.*'image'; allowed: text, sprite, table"):
        load("items", noise={"image": 0.5})


def test_build_script_makes_the_file_bit_for_bit(rebuilt):
    assert rebuilt("build_items") == FILE.read_bytes()


@pytest.fixture
def builder(script):
    return script("build_items")


def test_items_take_over_what_they_do_not_say(builder):
    path = f"{builder.DEFINITIONS}a.json"
    definitions = [
        {"type": "TOOL", "abstract": "base", "weight": "2 kg", "name": "base"},
        {"type": "TOOL", "id": "axe", "copy-from": "base", "name": {"str": "axe"}},
        {"type": "TOOL", "id": "hatchet", "copy-from": "axe", "weight": "500 g"},
        {"type": "MIGRATION", "id": "axe", "replace": "adze"},
    ]
    found = builder.read_items({path: json.dumps(definitions).encode()})
    assert [(key, item["weight"], builder.name_of(item)) for key, item in found.items()] == [
        ("axe", "2 kg", "axe"),
        ("hatchet", "500 g", "axe"),
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1.5 kg", 1500), ("250 ml", 250), ("2 L", 2000), ("5 mg", 0.005), (-3, -3), (None, 0)],
)
def test_amounts_are_in_grams_millilitres_and_cents(builder, value, expected):
    assert builder.amount(value) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "word"), [("chainsaw (on)", "chainsaw"), ("Novel: Love", "love"), ("(on)", "on")]
)
def test_a_group_is_the_last_word_without_remarks(builder, name, word):
    assert builder.last_word(name) == word


def test_a_sheet_is_cut_row_by_row_onto_white(builder):
    sheet = Image.new("RGBA", (32, 32))
    sheet.paste((255, 0, 0, 255), (16, 0, 32, 16))
    sheet.paste((0, 0, 255, 255), (0, 16, 16, 32))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    means = builder.cut(buffer.getvalue()).mean((2, 3)).tolist()
    assert means == [[255, 255, 255], [255, 0, 0], [0, 0, 255], [255, 255, 255]]
