"""UPMC Food-101: a photo of a dish from the web, and the title of the page it stood on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mmlab.checks import check_whole
from mmlab.datasets.disk.disk_set import DiskSet
from mmlab.datasets.disk.files import DamagedError
from mmlab.datasets.disk.found import Found, Sample
from mmlab.datasets.disk.lists import first_of, lists_of, read_lines
from mmlab.datasets.disk.pictures import UNITS, Picture, RandomCrop
from mmlab.datasets.disk.reader import Reader
from mmlab.datasets.disk.text import TokenFiles, Words

TITLES = {"texts/train_titles.csv": "train", "texts/test_titles.csv": "test"}
JSON = {"train.jsonl": "train", "dev.jsonl": "holdout", "test.jsonl": "test"}
TOKENS = {"my_train_food.txt": "train", "my_test_food.txt": "test"}
ROW = re.compile(r'"?([^,"]+\.\w+)"?,(.*),"?(\w+)"?')
CARD = """\
UPMC Food-101: Wang, Kumar, Thome, Cord and Precioso, ICME Workshops 2015,
doi:10.1109/ICMEW.2015.7169757. 90 840 photos of 101 dishes from web pages, with the pages' titles;
research use, the photos are their makers'. Its site is gone; copies differ by some hundred samples.
Groups are samples of one title: the web has many pages more than once."""


class Row(NamedTuple):
    """One row of a list: the name of its photo without an ending, its dish, and its title."""

    part: str
    name: str
    dish: str
    title: str
    image: str = ""


def find_food_101(root: Path, *, size: int = 224, words: int = 40) -> Found:
    """Image (3, size, size); text {"values", "mask"} (words,). Target: one of 101 dishes.

    words: of a title, the first so many; where BERT's tokens are given, those.
    """
    check_whole("size", size, least=1)
    check_whole("words", words, least=1)
    rows, notes, tokens = _rows(root)
    dishes = sorted({row.dish for row in rows})
    samples = [
        Sample(
            f"{row.part} {row.name}",
            dishes.index(row.dish),
            row.part,
            " ".join(row.title.lower().split()) or row.name,
            {"image": _image(root, row), "text": _tokens(root, row) if tokens else row.title},
        )
        for row in rows
    ]
    text: Reader = TokenFiles() if tokens else Words(words)
    return Found(
        samples,
        dishes,
        {"image": Picture(size), "text": text},
        {"image": UNITS, "text": "token ids" if tokens else "hashes of words"},
        CARD,
        "titles",
        augment={"image": RandomCrop()},
        notes=notes,
    )


def _rows(root: Path) -> tuple[list[Row], list[str], bool]:
    """The rows of the first kind of list that is there, what to note, and: are tokens in files?"""
    lists = lists_of(root, TITLES, JSON, TOKENS)
    notes: list[str] = []
    rows: list[Row] = []
    for path, part in lists:
        kind = {".csv": _of_titles, ".jsonl": _of_json, ".txt": _of_names}[path.suffix]
        rows += kind(path, part, notes)
    return rows, notes, lists[0][0].suffix == ".txt"


def _of_titles(path: Path, part: str, notes: list[str]) -> Iterator[Row]:
    """`name.jpg,title,dish`, with a header or without; titles have commas and unclosed quotes.

    So a row is a line, from its first to its last comma: a quote that never ends would swallow the
    lines after it. Some of those name a .txt file: the photo has the same name.
    """
    lines = list(read_lines(path))
    for number, line in lines:
        found = ROW.fullmatch(line)
        if found:
            name, title, dish = found.groups()
            yield Row(part, Path(name).stem, dish, title.strip().strip('"'))
        elif number > 1 or not line.lower().startswith("image_path"):
            notes.append(
                f"{path.name}, line {number} cannot be read and is left out: {line[:60]!r}"
            )


def _of_json(path: Path, part: str, notes: list[str]) -> Iterator[Row]:
    """MMBT's lines: {"id", "img", "text", "label"}."""
    for number, line in read_lines(path):
        try:
            row: Any = json.loads(line)
            name, dish, image = Path(row["img"]).stem, str(row["label"]), str(row["img"])
            yield Row(part, name, dish, str(row["text"]), image)
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(
                f"{path}, line {number}: {error}; a line has id, img, text and label, as JSON"
            ) from error


def _of_names(path: Path, part: str, notes: list[str]) -> Iterator[Row]:
    """MLA's `name.jpg dish`: its texts are files of BERT's tokens."""
    for number, line in read_lines(path):
        fields = line.split()
        if len(fields) < 2:
            raise DamagedError(f"{path}, line {number}: {line!r} is no `NAME DISH`")
        yield Row(part, Path(fields[0]).stem, fields[-1], "")


def _image(root: Path, row: Row) -> Path:
    places = [
        root / "images" / row.part / row.dish / f"{row.name}.jpg",
        root / "visual" / f"{row.part}_imgs" / f"{row.name}.jpg",
    ]
    return first_of([root / row.image, root / "images" / row.image] if row.image else places)


def _tokens(root: Path, row: Row) -> Path:
    return root / "text_token" / f"{row.part}_token" / f"{row.name}_token.npy"


load_food_101 = DiskSet("food-101", find_food_101, ("title", "published"))
