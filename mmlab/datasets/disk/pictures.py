"""Pictures and frames of videos as tensors, and how training changes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mmlab.datasets.disk.extra import media
from mmlab.datasets.disk.files import files_of
from mmlab.datasets.disk.reader import Reader, Stored

MEAN, SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, per channel, which all of the papers' codes use."""

UNITS = "s.d. of ImageNet's pixels, per channel"

ENDINGS = (".jpg", ".jpeg", ".png")


def _sized(picture: Image.Image, size: int) -> np.ndarray:
    """(3, size, size) uint8; the sides are stretched apart, as the papers' codes do."""
    return np.array(picture.convert("RGB").resize((size, size))).transpose(2, 0, 1)


def spread(there: int, wanted: int) -> list[int]:
    """`wanted` of `there` places, evenly spread; where there are fewer, some come again."""
    return [(2 * i + 1) * there // (2 * wanted) for i in range(wanted)]


def normalised(stored: np.ndarray) -> Tensor:
    """Pixels (…, C, H, W) from 0 to 255 in ImageNet's units; grey ones in the mean ones."""
    values = torch.from_numpy(stored).float() / 255
    channels = values.shape[-3]
    mean, sd = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, SD))
    if channels != 3:
        mean, sd = mean.mean(), sd.mean()
    return (values - mean) / sd


@dataclass(frozen=True)
class Picture(Reader):
    """A file as a picture (3, size, size)."""

    size: int

    def __call__(self, path: Path) -> np.ndarray:
        with Image.open(path) as picture:
            return _sized(picture, self.size)

    def tensor(self, stored: Stored) -> Tensor:
        assert isinstance(stored, np.ndarray)
        return normalised(stored)


@dataclass(frozen=True)
class Cut:
    """Frames `start` to before `end` of a video."""

    path: Path
    start: int
    end: int


@dataclass(frozen=True)
class Frames(Reader):
    """Frames (count, 3, size, size), evenly spread over a folder of pictures, or over a video.

    Those of a folder are in the order of the numbers in their names.
    """

    count: int
    size: int

    def __call__(self, source: Path | Cut) -> np.ndarray:
        path = source.path if isinstance(source, Cut) else source
        if path.is_dir():
            return self._of_folder(path)
        frames = read_frames(path)
        if isinstance(source, Cut):
            frames = frames[source.start : source.end]
        if not frames:
            raise ValueError("it has no frames there")
        chosen = [frames[i].to_image() for i in spread(len(frames), self.count)]
        return np.stack([_sized(picture, self.size) for picture in chosen])

    def _of_folder(self, folder: Path) -> np.ndarray:
        files = [file for file in files_of(folder) if file.suffix.lower() in ENDINGS]
        if not files:
            raise ValueError(f"it has no pictures ({', '.join(ENDINGS)})")
        one = Picture(self.size)
        return np.stack([one(files[i]) for i in spread(len(files), self.count)])

    def files(self, source: Path | Cut) -> list[Path]:
        return [source.path if isinstance(source, Cut) else source]

    def part(self, source: Path | Cut) -> str:
        return f"{source.start} {source.end}" if isinstance(source, Cut) else ""

    def tensor(self, stored: Stored) -> Tensor:
        assert isinstance(stored, np.ndarray)
        return normalised(stored)


def read_frames(path: Path) -> Sequence[Any]:
    """The frames of a video in order, as PyAV decodes them; a damaged end is an error."""
    av = media("av", "video")
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError("it has no pictures")
        return list(container.decode(container.streams.video[0]))


@dataclass(frozen=True)
class RandomCrop:
    """A random part of each picture, as large as the whole.

    Values (B, …, H, W); all frames of a sample are cut alike. The part has 8 to 100 % of the area
    and sides of 3:4 to 4:3, as in the papers' codes (torchvision's RandomResizedCrop), but it is
    smaller where it would not fit, and bilinear.

    mirror: whether half of the samples are mirrored. Not where left and right are two classes.
    """

    mirror: bool = True

    def __call__(self, values: Tensor) -> Tensor:
        count = len(values)
        area, ratio = values.new_empty(2, count).uniform_()
        area, ratio = 0.08 + 0.92 * area, torch.exp((2 * ratio - 1) * math.log(4 / 3))
        width, height = ((area * r).sqrt().clamp(max=1) for r in (ratio, 1 / ratio))
        x, y, flip = values.new_empty(3, count).uniform_(-1, 1)
        placed = values.new_zeros(count, 2, 3)
        placed[:, 0, 0] = width * flip.sign() if self.mirror else width
        placed[:, 1, 1] = height
        placed[:, 0, 2], placed[:, 1, 2] = x * (1 - width), y * (1 - height)
        flat = values.flatten(1, -3)  # frames and channels side by side
        grid = F.affine_grid(placed, list(flat.shape), align_corners=False)
        cut = F.grid_sample(flat, grid, padding_mode="border", align_corners=False)
        return cut.view_as(values)
