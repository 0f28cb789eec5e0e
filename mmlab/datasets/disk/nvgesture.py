"""NVGesture: hand gestures of a driver, seen by a colour and a depth camera."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmlab.checks import check_whole
from mmlab.datasets.disk.disk_set import DiskSet
from mmlab.datasets.disk.files import DamagedError
from mmlab.datasets.disk.found import Found, Sample
from mmlab.datasets.disk.lists import first_of, lists_of, read_lines
from mmlab.datasets.disk.pictures import UNITS, Cut, Frames, RandomCrop

PARTS = {"train": "train", "valid": "holdout", "test": "test"}
LISTS = {f"nvgesture_{name}_correct_v2.lst": part for name, part in PARTS.items()}
CLASSES = tuple(f"class_{number:02d}" for number in range(1, 26))
MOST = 80  # frames of a gesture
SUBJECT = re.compile(r"(subject\d+)_r\d+")
CARD = """\
NVGesture: Molchanov and others, CVPR 2016, doi:10.1109/CVPR.2016.456 (CC BY-NC-SA 4.0, on request).
1532 gestures of 25 kinds by 20 people in a car; the published lists are of 1050 and 482, IGM's
with a part of the first as holdout. A line cuts a gesture out of a longer video."""


@dataclass(frozen=True)
class Depth(Frames):
    """Frames (count, 1, size, size): the first channel, as depth is kept in a grey video."""

    def __call__(self, source: Path | Cut) -> np.ndarray:
        return super().__call__(source)[:, :1]


def find_nvgesture(root: Path, *, frames: int = 16, size: int = 224) -> Found:
    """Color (frames, 3, size, size) and depth (frames, 1, size, size). Target: one of 25 gestures.

    frames: evenly spread over the gesture; the papers take 64.
    """
    check_whole("frames", frames, least=1)
    check_whole("size", size, least=1)
    samples = [
        _sample(root, path, part, number, line)
        for path, part in lists_of(root, LISTS)
        for number, line in read_lines(path)
    ]
    return Found(
        samples,
        CLASSES,
        {"color": Frames(frames, size), "depth": Depth(frames, size)},
        {"color": UNITS, "depth": "grey, in s.d. of ImageNet's pixels"},
        CARD,
        "subjects",
        augment={"color": RandomCrop(mirror=False), "depth": RandomCrop(mirror=False)},
    )


def _sample(root: Path, path: Path, part: str, number: int, line: str) -> Sample:
    """`path:./Video_data/class_01/subject1_r0 depth:NAME:START:END color:… label:1`."""
    try:
        fields = dict(field.split(":", 1) for field in line.split())
        folder, label = Path(fields["path"]), int(fields["label"])
        sources = {m: _cut(root / folder, *fields[m].split(":")) for m in ("color", "depth")}
        subject = SUBJECT.fullmatch(folder.name)
        if not 1 <= label <= len(CLASSES) or subject is None:
            raise ValueError(f"the label is {label}, the folder {folder.name}")
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(
            f"{path}, line {number}: {line!r} cannot be read ({error}); it has path:, color: and "
            f"depth: with name, start and end, and label: from 1 to {len(CLASSES)}"
        ) from error
    name = f"{folder.parent.name}/{folder.name}"
    return Sample(name, label - 1, part, subject[1], sources)


def _cut(folder: Path, name: str, start: str, end: str) -> Cut:
    first = int(start)
    video = first_of([folder / f"{name}.avi", folder / name])
    return Cut(video, first, min(int(end), first + MOST))


load_nvgesture = DiskSet("nvgesture", find_nvgesture, ("subject", "published"))
