"""Made data whose drop has a cause that is known by construction, and how often it is found.

    python tests/experiments/worlds.py [DRAWS]

Four classes. A world is a few modalities, each with one property:

    good, fair   a class mean in noise, at two distances
    loud         little signal, and all of it multiplied by 6
    quick        some signal, learnt at once; its encoder normalises, so no scale slows it
    slow         much signal, as parities, learnt late; its encoder normalises, too
    moved        good, and in the test its class means are others; moved_fair: fair, and so moved
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from mmlab.datasets import Batch, MultimodalData
from mmlab.experiments import Diagnosis, diagnose
from mmlab.seeds import generator

WORLDS = {
    (): ("fair", "fair_too"),
    ("scale",): ("loud", "good"),
    ("competition",): ("quick", "slow"),
    ("shift",): ("moved", "good"),
    ("scale", "competition"): ("loud", "quick", "slow"),
    ("scale", "shift"): ("loud", "good", "moved"),
    ("competition", "shift"): ("quick", "slow", "moved_fair"),
}
"""Causes -> modalities."""

SIZES = {"train": 600, "holdout": 400, "test": 600}
SIGNAL = {
    "good": 3.0,
    "fair": 2.0,
    "fair_too": 2.0,
    "loud": 1.0,
    "quick": 2.0,
    "moved": 3.0,
    "moved_fair": 2.0,
}
WIDTH = {"loud": 128, "quick": 128, "slow": 48}
CLASSES = 4


def world(names: Sequence[str], draw: int, seed: int) -> MultimodalData:
    """The modalities `names`, (B, 32 or what WIDTH says).

    The draw sets where the classes lie, the seed which samples there are.
    """
    splits = {}
    for part, size in SIZES.items():
        source = generator(draw, "world", seed, part)
        target = torch.randint(CLASSES, (size,), generator=source)
        inputs = {m: _input(m, target, source, draw, part) for m in names}
        splits[part] = Batch(inputs, target)
    return MultimodalData(**splits, n_classes=CLASSES, name=" + ".join(names))


def _input(m: str, target: Tensor, source: torch.Generator, draw: int, part: str) -> Tensor:
    width = WIDTH.get(m, 32)
    noise = torch.randn(len(target), width, generator=source)
    if m == "slow":
        return noise + 3.0 * _parities(target, width, source, draw)
    elsewhere = m.startswith("moved") and part == "test"
    means = torch.randn(CLASSES, width, generator=generator(draw, m, elsewhere))
    means = nn.functional.normalize(means - means.mean(0))
    x = noise + SIGNAL[m] * means[target]
    return 6.0 * x if m == "loud" else x


def _parities(target: Tensor, width: int, source: torch.Generator, draw: int) -> Tensor:
    """Each of the target's two bits is the product of two signs, along directions of their own."""
    axes = torch.linalg.qr(torch.randn(width, 4, generator=generator(draw, "axes")))[0].T
    x = torch.zeros(len(target), width)
    for bit in range(2):
        sign = 2.0 * (target >> bit & 1) - 1
        free = 2.0 * torch.randint(2, target.shape, generator=source) - 1
        x += free[:, None] * axes[2 * bit] + (sign * free)[:, None] * axes[2 * bit + 1]
    return x


def encoder(width: int, normalises: bool) -> nn.Module:
    first = [nn.LayerNorm(width, elementwise_affine=False)] if normalises else []
    return nn.Sequential(*first, nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())


def diagnosed(names: Sequence[str], draw: int) -> Diagnosis:
    """The diagnosis of five data sets of one world."""
    quick = {"quick", "slow"} & {*names}  # what is moved beside these is heard no louder
    encoders = {
        m: partial(
            encoder,
            WIDTH.get(m, 32),
            m in ("quick", "slow") or (m.startswith("moved") and bool(quick)),
        )
        for m in names
    }
    return diagnose(
        lambda seed: world(names, draw, seed),
        scales=(0.25, 0.0625),
        build={"encoders": encoders},
        batch_size=64,
    )


def main(draws: int) -> None:
    for causes, names in WORLDS.items():
        found = Counter(diagnosed(names, draw).causes for draw in range(draws))
        print(f"{causes}: right in {found[causes]} of {draws}; {dict(found)}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
