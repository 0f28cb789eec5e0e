"""MVSA-Single: the rule for two ratings, and texts that are not UTF-8."""

import pytest
from making import make_picture, write
from training import apart, pictures, texts, trains

from mmlab.datasets import load
from mmlab.datasets.disk.files import DamagedError

RATINGS = [
    ("positive", "positive", 2),
    ("neutral", "positive", 2),
    ("negative", "neutral", 0),
    ("neutral", "neutral", 1),
    ("positive", "negative", None),
]
SMALL = {"size": 4, "words": 6}


@pytest.fixture
def root(tmp_path):
    lines = ["ID\ttext,image"]
    for i in range(20):
        text, image, _ = RATINGS[i % 5]
        lines.append(f"{i}\t{text},{image}")
        make_picture(tmp_path / f"data/{i}.jpg", 10 * i)
        write(tmp_path / f"data/{i}.txt", f"Café number {i} #mood", "latin1")
    write(tmp_path / "labelResultAll.txt", "\n".join(lines))
    return tmp_path


def test_two_ratings_are_one_label(root):
    data = load("mvsa-single", root=root, **SMALL)
    found = {x.name: x for split in data.splits.values() for x in split.dataset.samples}
    expected = {str(i): RATINGS[i % 5][2] for i in range(20) if RATINGS[i % 5][2] is not None}
    assert {name: sample.label for name, sample in found.items()} == expected
    assert "4 tweets, whose picture and text are rated against each other" in data.card
    assert data.train.head(1).inputs["text"]["mask"].sum() == 5
    assert found["3"].group == "café number 3 #mood"


def test_tweets_of_one_text_stay_together(root):
    for i in (0, 1, 2, 3):
        write(root / f"data/{i}.txt", " same  TEXT" if i % 2 else "same text")
    for seed in range(3):
        assert apart(load("mvsa-single", root=root, seed=seed, **SMALL))


def test_a_text_that_is_missing_is_named(root):
    (root / "data/7.txt").unlink()
    card = load("mvsa-single", root=root, **SMALL).card
    assert "1 of 16 listed samples (6.2%) are left out: 7 (text: " in card


def test_published_lists_are_mlas(root):
    with pytest.raises(ValueError, match="split='published' leaves no sample"):
        load("mvsa-single", root=root, split="published")
    write(root / "my_train_mvsa.txt", "\n".join(f"{i} x" for i in range(15)))
    write(root / "my_test_mvsa.txt", "\n".join(f"{i}.jpg x" for i in range(15, 20)))
    data = load("mvsa-single", root=root, split="published", **SMALL)
    assert [sample.name for sample in data.test.dataset.samples] == ["15", "16", "17", "18"]


def test_wrong_lines_are_named(root):
    write(root / "labelResultAll.txt", "ID\ttext,image\n1\thappy,positive")
    with pytest.raises(DamagedError, match="line 2 has the rating 'happy'; allowed are negative"):
        load("mvsa-single", root=root)
    write(root / "labelResultAll.txt", "ID\ttext,image\n1\tpositive")
    with pytest.raises(DamagedError, match=r"line 2: '1\\tpositive' is no `ID<TAB>TEXT,IMAGE`"):
        load("mvsa-single", root=root)


def test_it_trains(root):
    trains(load("mvsa-single", root=root, **SMALL), {"image": pictures, "text": texts})
