"""One seed, many independent streams: weights, data order and noise never share a generator.

A training has one generator per stream and epoch, so that an epoch can be repeated, resumed or
branched from without any state of a generator.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called `names`, the same on every platform."""
    key = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *names: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator for the stream called `names`."""
    return torch.Generator(device=device).manual_seed(derive(seed, *names))


@contextlib.contextmanager
def drawing(seed: int, *names: str | int, device: str | torch.device = "cpu") -> Iterator[None]:
    """Let the global generators draw the stream called `names`, and put them back afterwards.

    For what takes no generator of its own: the initial weights of torch's layers, and dropout.
    """
    kind = torch.device(device).type
    on_cuda = kind == "cuda"
    with _kept_on_mps(kind == "mps"), torch.random.fork_rng(devices=[device] if on_cuda else []):
        torch.default_generator.manual_seed(derive(seed, *names))  # torch's own seeds every device
        if on_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(derive(seed, *names))
        elif kind == "mps":
            torch.mps.manual_seed(derive(seed, *names))
        yield


@contextlib.contextmanager
def drawing_all(seed: int, *names: str | int, device: str | torch.device = "cpu") -> Iterator[None]:
    """`drawing`, and the global generators of NumPy and `random` draw it too."""
    own, of_numpy = random.getstate(), np.random.get_state()
    random.seed(derive(seed, *names))
    np.random.seed(derive(seed, *names) % 2**32)
    try:
        with drawing(seed, *names, device=device):
            yield
    finally:
        random.setstate(own)
        np.random.set_state(of_numpy)


def seeded(seed: int, *names: str | int, build: Callable[[], T]) -> T:
    """What `build()` makes where its initial weights are the stream called `names`."""
    with drawing(seed, "init", *names):
        return build()


def random_state(device: torch.device) -> list[tuple[torch.device, Tensor]]:
    """What the global generators of the CPU and of a device go on from."""
    return [(one, _state(one)) for one in dict.fromkeys((torch.device("cpu"), device))]


@contextlib.contextmanager
def replaying(states: Sequence[tuple[torch.device, Tensor]]) -> Iterator[None]:
    """Draw the same random numbers as from `states` on, then go on as if nothing had been drawn."""
    now = [(device, _state(device)) for device, _ in states]
    for device, state in states:
        _set_state(device, state)
    try:
        yield
    finally:
        for device, state in now:
            _set_state(device, state)


def _state(device: torch.device) -> Tensor:
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else torch.get_rng_state()


def _set_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state)
    else:
        torch.set_rng_state(state)


@contextlib.contextmanager
def _kept_on_mps(wanted: bool) -> Iterator[None]:
    """Put the generator of Apple's GPU back afterwards; torch's own fork leaves it out."""
    if not wanted:
        yield
        return
    state = torch.mps.get_rng_state()
    try:
        yield
    finally:
        torch.mps.set_rng_state(state)


AHEAD = 2**18
"""Normal numbers that are drawn at once for each network: a step then costs a slice, not a draw."""

Source = torch.Generator | Sequence[torch.Generator] | None
"""One generator, one for each network of a stack, or None for torch's global one."""


class Draws:
    """The random numbers of a training: normals, uniforms and permutations, one stream for each.

    In a stack of R networks every result has a leading axis R, and network r draws what it would
    draw on its own.

    Args:
        source: source(kind) makes the generators of the stream called `kind`; by default torch's
            global generator serves all.
        ahead: how many normal numbers to draw at once; 0 draws just what is asked for.
    """

    def __init__(self, source: Callable[[str], Source] = lambda kind: None, ahead: int = 0) -> None:
        self._source, self._ahead = source, ahead
        self._made: dict[str, Source] = {}
        self._block = torch.empty(0, 0)
        self._used = 0

    def _generators(self, kind: str) -> tuple[list[torch.Generator | None], bool]:
        """The stream's generators, one per network, and whether there is a stack of them."""
        if kind not in self._made:
            self._made[kind] = self._source(kind)
        made = self._made[kind]
        return (list(made), True) if isinstance(made, Sequence) else ([made], False)

    def normals(self, like: Sequence[Tensor]) -> list[Tensor]:
        """Standard normal numbers in the shapes of `like`, which lead with the stack's axis."""
        generators, stacked = self._generators("normals")
        sizes = [math.prod(t.shape[stacked:]) for t in like]
        drawn = self._next(sum(sizes), generators, like[0])
        parts = (drawn if stacked else drawn[0]).split(sizes, dim=-1)
        return [part.view(t.shape) for part, t in zip(parts, like, strict=True)]

    def _next(self, count: int, generators: list[torch.Generator | None], like: Tensor) -> Tensor:
        """The next `count` normal numbers of each network, (R, count)."""
        block = self._block
        fits = self._used + count <= block.shape[1] and len(block) == len(generators)
        if not fits or block.dtype != like.dtype or block.device != like.device:
            # whole requests, so that a network's numbers do not hang on how many networks there are
            width = count * max(1, self._ahead // count)
            rows = [
                torch.randn(width, generator=g, dtype=like.dtype, device=like.device)
                for g in generators
            ]
            self._block, self._used = torch.stack(rows) if len(rows) > 1 else rows[0][None], 0
        self._used += count
        return self._block[:, self._used - count : self._used]

    def uniforms(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Numbers in [0, 1), (…, *shape), on the device and in the type of `like`."""
        generators, stacked = self._generators("uniforms")
        rows = [
            torch.rand(tuple(shape), generator=g, dtype=like.dtype, device=like.device)
            for g in generators
        ]
        return torch.stack(rows) if stacked else rows[0]

    def permutation(self, n: int, device: torch.device) -> Tensor:
        """The numbers 0 to n − 1 in random order, (…, n)."""
        generators, stacked = self._generators("permutations")
        rows = [torch.randperm(n, generator=g, device=device) for g in generators]
        return torch.stack(rows) if stacked else rows[0]
