"""The networks that are timed, from tiny to ResNet-18, and their data."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from mmlab.balancers import Balancer
from mmlab.datasets import Batch, MultimodalData
from mmlab.models import MultimodalNet
from mmlab.seeds import drawing

BATCH_SIZE = 64

Norm = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Network:
    """A pair of encoders, their inputs, and how many steps are timed in one go."""

    encoder: Callable[[int], nn.Module]
    shapes: Mapping[str, tuple[int, ...]]
    width: int
    steps: int
    size: int = BATCH_SIZE
    linear: bool = False  # encoders of linear layers alone, where MMPareto's floor is lower

    def data(self) -> MultimodalData:
        """One batch of random inputs: what they say does not change what a step costs."""
        draw, size = torch.Generator().manual_seed(0), self.size
        inputs = {m: torch.randn(size, *s, generator=draw) for m, s in self.shapes.items()}
        batch = Batch(inputs, torch.randint(10, (size,), generator=draw))
        return MultimodalData(batch, batch[:2], batch[:2], n_classes=10)

    def build(self, balancer: Balancer, data: MultimodalData) -> MultimodalNet:
        """The network that the balancer asks for, with encoders of this kind."""
        with drawing(0, "bench"):
            encoders = {m: self.encoder(s[0]) for m, s in self.shapes.items()}
        return MultimodalNet.build(data, encoders=encoders, width=self.width, **balancer.network)


def mlp(*widths: int) -> Callable[[int], nn.Module]:
    """What makes linear layers of these widths for a number of inputs."""

    def build(size: int) -> nn.Module:
        layers: list[nn.Module] = []
        for before, after in zip((size, *widths), widths, strict=False):
            layers += [nn.Linear(before, after), nn.ReLU()]
        return nn.Sequential(*layers)

    return build


def small_conv(channels: int) -> nn.Module:
    """Two convolutions, the second with stride 2, and the mean over the picture."""
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1),
        nn.GroupNorm(4, 32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1, stride=2),
        nn.GroupNorm(4, 64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


class Block(nn.Module):
    """A basic residual block (He et al. 2016)."""

    def __init__(self, before: int, after: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            norm(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            norm(after),
        )
        fits = stride == 1 and before == after
        self.skip = nn.Identity() if fits else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + self.skip(x)).relu()


def resnet18(channels: int, norm: Norm = nn.BatchNorm2d) -> nn.Module:
    """ResNet-18 with a stem for small pictures.

    channels: channels of a picture, such as 3 for colours.
    norm: makes the layer that normalises so many channels.
    """
    widths = (64, 64, 128, 256, 512)
    stem = nn.Sequential(nn.Conv2d(channels, 64, 3, 1, 1, bias=False), norm(64))
    stages = [
        nn.Sequential(Block(before, after, 1 + (i > 0), norm), Block(after, after, 1, norm))
        for i, (before, after) in enumerate(itertools.pairwise(widths))
    ]
    return nn.Sequential(stem, nn.ReLU(), *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())


NETWORKS = {
    "tiny MLPs": Network(mlp(128, 64), {"a": (312,), "v": (64,)}, 64, 20, linear=True),
    "GEMM-bound MLPs": Network(mlp(1024, 1024), {"a": (1024,), "v": (1024,)}, 1024, 2, linear=True),
    "small convolutions": Network(small_conv, {"a": (1, 32, 32), "v": (3, 32, 32)}, 64, 1),
    "ResNet-18": Network(resnet18, {"a": (1, 16, 16), "v": (3, 16, 16)}, 512, 1),
}

GROUPED = replace(NETWORKS["ResNet-18"], encoder=partial(resnet18, norm=partial(nn.GroupNorm, 32)))
"""The ResNet-18 with GroupNorm in place of BatchNorm, which several processes refuse on a CPU."""
