"""JPEG pictures that are read one by one, and joint training on them, by hand and by `fit`."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from mmlab.bench.loops import LR, MOMENTUM
from mmlab.bench.networks import BATCH_SIZE
from mmlab.bench.timing import Timed
from mmlab.datasets import MultimodalData, Stream
from mmlab.models import MultimodalNet
from mmlab.training import Joint, fit
from mmlab.training.optimizers import SGD

CLASSES, SIDE, SOUND, WIDTH = 10, 128, 64, 64


class Pictures(Dataset):
    """Each sample: a random crop of a picture that is decoded, and a row of sound."""

    def __init__(self, count: int) -> None:
        draw = np.random.default_rng(0)
        self.files = [_jpeg(draw) for _ in range(count)]
        self.sound = torch.from_numpy(draw.normal(size=(count, SOUND))).float()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[dict[str, Tensor], int]:
        pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(self.files[i])))).permute(2, 0, 1)
        top, left = torch.randint(0, 16, (2,)).tolist()
        crop = pixels[:, top : top + SIDE, left : left + SIDE]
        return {"image": crop.float().div(255).sub(0.5), "audio": self.sound[i]}, i % CLASSES


def _jpeg(draw: np.random.Generator) -> bytes:
    coarse = Image.fromarray(draw.integers(0, 256, size=(12, 12, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize((SIDE + 16, SIDE + 16)).save(file, "JPEG")
    return file.getvalue()


def _ready(pictures: Pictures) -> tuple[MultimodalData, MultimodalNet]:
    split = Stream(pictures)
    data = MultimodalData(split, split, split, n_classes=CLASSES)
    encoders = {
        "image": lambda: nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        ),
        "audio": lambda: nn.Linear(SOUND, WIDTH),
    }
    return data, MultimodalNet.build(data, encoders=encoders, width=WIDTH)


def from_a_stream(pictures: Pictures) -> Timed:
    """An epoch of `fit` on a Stream, the network already built."""
    data, model = _ready(pictures)
    return lambda: fit(model, data, Joint(), epochs=1, lr=LR, batch_size=BATCH_SIZE, device="cpu")


def from_a_loader(pictures: Pictures) -> Timed:
    """The same by hand, with torch's DataLoader."""
    _, model = _ready(pictures)

    def epoch() -> None:
        optimizer = SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
        model.train()
        for inputs, target in DataLoader(pictures, BATCH_SIZE, shuffle=True):
            loss = F.cross_entropy(model(inputs).joint, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch
