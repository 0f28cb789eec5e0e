"""UCF-101: short videos of 101 actions; their pictures, and their optical flow."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmlab.checks import check_whole
from mmlab.datasets.disk.disk_set import DiskSet
from mmlab.datasets.disk.files import DamagedError
from mmlab.datasets.disk.found import Found, Sample
from mmlab.datasets.disk.lists import find, first_of, read_fields, read_lines
from mmlab.datasets.disk.pictures import UNITS, Frames

VIDEO = re.compile(r"v_(\w+)_(g\d\d)_c\d\d")
RGB = ("visual", "rgb", "jpegs_256")
FLOW = (("flow_u", "flow_v"), ("u", "v"), ("tvl1_flow/u", "tvl1_flow/v"))
CARD = """\
UCF-101: Soomro, Zamir and Shah, 2012, arXiv:1212.0402. 13 320 videos of 101 actions from YouTube;
the videos are their makers'. Videos of one class come in groups (g01 to g25) of one place and
person: no group is in two splits, in the published folds and in ours."""


@dataclass(frozen=True)
class Flow(Frames):
    """Flow (count, 2, size, size): the grey pictures of two folders, sideways and up."""

    def __call__(self, source: tuple[Path, Path]) -> np.ndarray:  # type: ignore[override]
        return np.concatenate([Frames.__call__(self, folder)[:, :1] for folder in source], axis=1)

    def files(self, source: tuple[Path, Path]) -> list[Path]:  # type: ignore[override]
        return list(source)

    def part(self, source: object) -> str:
        return ""


def find_ucf_101(root: Path, *, fold: int = 1, frames: int = 3, size: int = 224) -> Found:
    """Rgb (frames, 3, size, size) and flow (frames, 2, size, size). Target: one of 101 actions.

    fold: of the published lists, 1 to 3.
    """
    if fold not in (1, 2, 3):
        raise ValueError(f"fold is {fold!r}; the published lists are of the folds 1, 2 and 3")
    check_whole("frames", frames, least=1)
    check_whole("size", size, least=1)
    lists = first_of([root / "ucfTrainTestlist", root / "splits", root])
    classes = sorted(name for _, name, *_ in read_fields(find(lists, "classInd.txt"), " ", 2))
    samples = [
        _sample(root, path, line.split()[0], part, classes)
        for part in ("train", "test")
        for path in [find(lists, f"{part}list{fold:02d}.txt")]
        for _, line in read_lines(path)
    ]
    flow = "brightness of the flow's pictures"
    return Found(
        samples,
        classes,
        {"rgb": Frames(frames, size), "flow": Flow(frames, size)},
        {"rgb": UNITS, "flow": f"{flow}, in s.d. of ImageNet's pixels"},
        CARD,
        "groups",
    )


def _sample(root: Path, path: Path, line: str, part: str, classes: list[str]) -> Sample:
    action, _, file = line.partition("/")
    video = file.removesuffix(".avi")
    found = VIDEO.fullmatch(video)
    if not found or action not in classes:
        raise DamagedError(f"{path} names {line!r}; a video is called `Class/v_Class_g01_c01.avi`")
    # the class HandstandPushups has the files v_HandStandPushups…
    names = list(dict.fromkeys([video, f"v_{action}_{video.split('_', 2)[2]}"]))
    rgb = [root / folder / name for folder in RGB for name in names]
    rgb += [root / place / action / f"{video}.avi" for place in ("UCF-101", ".")]
    flow = [tuple(root / folder / name for folder in pair) for pair in FLOW for name in names]
    there = next((pair for pair in flow if pair[0].exists()), flow[0])
    sources = {"rgb": first_of(rgb), "flow": there}
    return Sample(video, classes.index(action), part, f"{action} {found[2]}", sources)


load_ucf_101 = DiskSet("ucf-101", find_ucf_101, ("group", "published"))
