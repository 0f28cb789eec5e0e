"""Kinetics-Sounds: videos of actions that one can see and hear."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mmlab.datasets.disk.clips import audio_visual, youtube
from mmlab.datasets.disk.disk_set import DiskSet
from mmlab.datasets.disk.files import DamagedError
from mmlab.datasets.disk.found import Found, Sample
from mmlab.datasets.disk.lists import first_of, lists_of, read_lines

LISTS = {"my_train.txt": "train", "my_test.txt": "test"}
IGM = {
    "annotations/train.csv": "train",
    "annotations/valid.csv": "holdout",
    "annotations/test.csv": "test",
}
NAMES = ("stat.txt", "stat_ks.txt", "data/stat.txt")
CARD = """\
Kinetics-Sounds: Arandjelović and Zisserman, ICCV 2017, doi:10.1109/ICCV.2017.73: classes of
Kinetics (Kay and others 2017, arXiv:1705.06950) that one can see and hear. 10 s videos from
YouTube, part of which are gone; research use. The papers' lists have 31 to 34 classes: the number
is the list's."""


def find_kinetics_sounds(
    root: Path, *, sound: str = "ogm-ge", frames: int = 3, size: int = 224
) -> Found:
    """Audio (the recipe's shape), visual (frames, 3, size, size). Target: the action.

    sound:  a key of `RECIPES`, as of CREMA-D.
    frames: frames of each video, as of CREMA-D.
    """
    rows = [row for path, part in lists_of(root, LISTS, IGM) for row in _rows(path, part)]
    classes = sorted({label for *_, label in rows}, key=lambda name: (len(name), name))
    if not all(name.isdigit() for name in classes):
        classes.sort()
    samples = [
        Sample(
            name,
            classes.index(label),
            part,
            youtube(name),
            {"audio": _audio(root, part, name), "visual": _visual(root, part, name)},
        )
        for part, name, label in rows
    ]
    return audio_visual(samples, _named(root, classes), CARD, sound, frames, size)


def _rows(path: Path, part: str) -> Iterator[tuple[str, str, str]]:
    """Part, name, label: `id,10,label`, or with spaces between; the name first, the label last."""
    for number, line in read_lines(path):
        name, *rest = re.split(r"\s*,\s*" if "," in line else r"\s+", line)
        if not rest or not rest[-1]:
            raise DamagedError(f"{path}, line {number}: {line!r} is no `NAME,…,LABEL`")
        yield part, name, rest[-1]


def _named(root: Path, classes: list[str]) -> list[str]:
    """The names of numbered classes, where a list of them is there: `class > n > m`."""
    path = first_of(root / name for name in NAMES)
    if not path.is_file() or not all(name.isdigit() for name in classes):
        return classes
    names = [line.split(">")[0].strip() for _, line in read_lines(path)]
    return [names[int(i)] if int(i) < len(names) else i for i in classes]


def _audio(root: Path, part: str, name: str) -> Path:
    return first_of(
        [
            root / "audio_spec" / f"{name}.pkl",
            root / f"{part}_fbank" / f"{name}.npy",
            root / "audio" / f"{part}_fbank" / f"{name}.npy",
            root / f"{_igm(part)}_wav" / f"{name}.wav",
            root / "audio" / f"{name}.wav",
            root / "video" / f"{name}.mp4",
        ]
    )


def _visual(root: Path, part: str, name: str) -> Path:
    return first_of(
        [
            root / "visual" / name,
            root / "visual" / f"{part}_imgs" / "Image-01-FPS" / name,
            root / f"{_igm(part)}_img" / "Image-01-FPS" / name,
            root / "video" / f"{name}.mp4",
        ]
    )


def _igm(part: str) -> str:
    return "valid" if part == "holdout" else part


load_kinetics_sounds = DiskSet("kinetics-sounds", find_kinetics_sounds, ("video", "published"))
