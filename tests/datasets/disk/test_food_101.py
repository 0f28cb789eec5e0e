"""Food-101 in the layouts in use; titles with commas, and a quote that never ends."""

import json

import numpy as np
import pytest
import torch
from making import make_array, make_picture, write
from training import apart, pictures, texts, trains

from mmlab.datasets import load
from mmlab.datasets.disk.files import DamagedError

DISHES = ("apple_pie", "breakfast_burrito", "zuccotto")
SMALL = {"size": 4}


def titles(part, count, header=False):
    """Lines of a list, every second title the same."""
    lines = ["Image_path,text,label"] * header
    for dish in DISHES:
        lines += [f"{dish}_{i}.jpg,{part} {i // 2}, and more,{dish}" for i in range(count)]
    return lines


@pytest.fixture
def root(tmp_path):
    for part, count in (("train", 8), ("test", 4)):
        write(tmp_path / f"texts/{part}_titles.csv", "\n".join(titles(part, count)))
        for dish in DISHES:
            for i in range(count):
                make_picture(tmp_path / f"images/{part}/{dish}/{dish}_{i}.jpg", 20 * i)
    return tmp_path


def test_pictures_and_titles(root):
    data = load("food-101", root=root, split="published", **SMALL)
    assert data.n_classes == 3 and data.shape("image") == (3, 4, 4)
    assert [len(split) for split in data.splits.values()][2] == 12
    sample = data.test.dataset.samples[0]
    assert sample.sources["text"] == "test 0, and more" and sample.name == "test apple_pie_0"
    text = data.test.head(1).inputs["text"]
    assert text["values"].dtype == torch.int64 and text["mask"].sum() == 5  # the comma is one


def test_titles_on_both_sides_are_counted_and_kept_apart_in_the_clean_split(root):
    path = root / "texts/test_titles.csv"
    path.write_text(path.read_text().replace("test 0", "Train  0"))
    published = load("food-101", root=root, split="published", **SMALL)
    assert "1 of 2 titles of the test are also in train or holdout" in published.card
    assert apart(load("food-101", root=root, **SMALL))


def test_a_quote_that_never_ends_swallows_no_row(root):
    """In the real list it stands at breakfast_burrito_730, and the next rows name .txt files."""
    lines = titles("train", 8, header=True)
    broken = lines.index("breakfast_burrito_3.jpg,train 1, and more,breakfast_burrito")
    lines[broken] = 'breakfast_burrito_3.jpg,"An unclosed title, with more,breakfast_burrito'
    lines[broken + 1] = lines[broken + 1].replace(".jpg", ".txt")
    write(root / "texts/train_titles.csv", "\n".join(lines), "utf-8-sig")
    data = load("food-101", root=root, **SMALL)
    assert sum(map(len, data.splits.values())) == 36 and "cannot be read" not in data.card
    found = {x.name: x for split in data.splits.values() for x in split.dataset.samples}
    title = found["train breakfast_burrito_3"].sources["text"]
    assert title == "An unclosed title, with more"
    assert found["train breakfast_burrito_4"].sources["image"].suffix == ".jpg"


def test_a_line_that_is_none_is_named(root):
    with (root / "texts/train_titles.csv").open("a") as file:
        file.write("\nthe end of a title on two lines\n")
    card = load("food-101", root=root, **SMALL).card
    assert "train_titles.csv, line 25 cannot be read and is left out: 'the end of a" in card


def test_classes_are_of_the_list_whatever_pictures_are_there(root):
    for picture in root.glob("images/*/apple_pie/*"):
        picture.unlink()
    data = load("food-101", root=root, most_missing=0.4, **SMALL)
    assert data.n_classes == 3 and "12 of 36 listed samples (33.3%) are left out" in data.card
    assert {sample.label for sample in data.train.dataset.samples} == {1, 2}


def test_lines_of_json(tmp_path):
    for part, count in (("train", 6), ("dev", 2), ("test", 3)):
        rows = [
            {"id": i, "img": f"{part}/{dish}_{i}.png", "text": f"{part} {i}", "label": dish}
            for dish in DISHES
            for i in range(count)
        ]
        write(tmp_path / f"{part}.jsonl", "\n".join(map(json.dumps, rows)))
        for row in rows:
            make_picture(tmp_path / row["img"])
    data = load("food-101", root=tmp_path, split="published", **SMALL)
    assert [len(split) for split in data.splits.values()] == [18, 6, 9]
    write(tmp_path / "dev.jsonl", '{"id": 1}')
    with pytest.raises(DamagedError, match=r"dev\.jsonl, line 1: 'img'; a line has id, img"):
        load("food-101", root=tmp_path)


def test_bert_tokens_of_mla(tmp_path):
    for part, count in (("train", 8), ("test", 2)):
        names = [(f"{dish}_{i}", dish) for dish in DISHES for i in range(count)]
        lines = [f"{name}.jpg {dish}" for name, dish in names]
        write(tmp_path / f"my_{part}_food.txt", "\n".join(lines))
        for name, _ in names:
            make_picture(tmp_path / f"visual/{part}_imgs/{name}.jpg")
            tokens = tmp_path / f"text_token/{part}_token/{name}"
            make_array(tokens.with_name(f"{name}_token.npy"), np.array([[101, 5, 102, 0]]))
            make_array(tokens.with_name(f"{name}_pm.npy"), np.array([[0, 0, 0, 1]]))
    data = load("food-101", root=tmp_path, split="published", **SMALL)
    text = data.test.head(2).inputs["text"]
    assert text["values"].tolist() == [[101, 5, 102, 0]] * 2 and text["mask"].sum() == 6
    next(tmp_path.glob("text_token/test_token/*_pm.npy")).unlink()
    assert "_pm.npy is missing" in load("food-101", root=tmp_path, **SMALL).card


def test_it_trains(root, tmp_path):
    data = load("food-101", root=root, cache=tmp_path / "cache", **SMALL)
    trains(data, {"image": pictures, "text": texts})
