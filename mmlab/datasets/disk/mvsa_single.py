"""MVSA-Single: a tweet's picture and its text, each rated as positive, neutral or negative."""

from __future__ import annotations

import re
from pathlib import Path

from mmlab.checks import check_whole
from mmlab.datasets.disk.disk_set import DiskSet
from mmlab.datasets.disk.files import DamagedError, fault
from mmlab.datasets.disk.found import Found, Sample
from mmlab.datasets.disk.lists import find, notes_of, read_lines
from mmlab.datasets.disk.pictures import UNITS, Picture, RandomCrop
from mmlab.datasets.disk.text import TextFile

CLASSES = ("negative", "neutral", "positive")
LINE = re.compile(r"(\d+)\s+(\w+)\s*,\s*(\w+)")
PARTS = {"my_train_mvsa.txt": "train", "my_test_mvsa.txt": "test"}
CARD = """\
MVSA-Single: Niu, Zhu, Pang and El Saddik, MMM 2016, doi:10.1007/978-3-319-27674-8_2. 5129 tweets;
research use. Picture and text are rated apart. Where both agree, that is the label; where one is
neutral, the other one; positive with negative is left out, as the papers do. There are no published
lists but those of MLA: every paper draws its own split. Groups are tweets of one text."""


def find_mvsa_single(root: Path, *, size: int = 224, words: int = 40) -> Found:
    """Image (3, size, size); text {"values", "mask"} (words,). Target: one of three sentiments."""
    check_whole("size", size, least=1)
    check_whole("words", words, least=1)
    path = find(root, "labelResultAll.txt")
    parts = _parts(root)
    reader = TextFile(words)
    samples, against = [], 0
    for number, line in read_lines(path):
        row = LINE.fullmatch(line)
        if not row:
            if number > 1:  # the first is a header
                raise DamagedError(f"{path}, line {number}: {line!r} is no `ID<TAB>TEXT,IMAGE`")
            continue
        label = _label(path, number, row[2], row[3])
        if label is None:
            against += 1
        else:
            text = root / f"data/{row[1]}.txt"
            sources = {"image": root / f"data/{row[1]}.jpg", "text": text}
            group = row[1] if fault(text) else " ".join(reader.text(text).lower().split())
            part = parts.get(row[1], "")
            samples.append(Sample(row[1], CLASSES.index(label), part, group or row[1], sources))
    return Found(
        samples,
        CLASSES,
        {"image": Picture(size), "text": reader},
        {"image": UNITS, "text": "hashes of words"},
        CARD,
        "texts",
        augment={"image": RandomCrop()},
        notes=[
            f"{against} tweets, whose picture and text are rated against each other, are left out",
            *notes_of(parts, [sample.name for sample in samples]),
        ],
    )


def _parts(root: Path) -> dict[str, str]:
    """The part of each tweet, where MLA's lists are there (their form is a guess: `ID …`)."""
    return {
        Path(line.split()[0]).stem: part
        for name, part in PARTS.items()
        if (root / name).is_file()
        for _, line in read_lines(root / name)
    }


def _label(path: Path, number: int, text: str, image: str) -> str | None:
    for rating in (text, image):
        if rating not in CLASSES:
            raise DamagedError(
                f"{path}, line {number} has the rating {rating!r}; allowed are {', '.join(CLASSES)}"
            )
    ratings = {text, image} - {"neutral"}
    return None if len(ratings) == 2 else next(iter(ratings), "neutral")


load_mvsa_single = DiskSet("mvsa-single", find_mvsa_single, ("text", "published"))
