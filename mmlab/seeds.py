"""One seed, many independent streams: weights, data order and noise never share a generator."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

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


def seeded(seed: int, *names: str | int, build: Callable[[], T]) -> T:
    """What `build()` makes where its initial weights are the stream called `names`."""
    with drawing(seed, "init", *names):
        return build()


@contextlib.contextmanager
def _kept_on_mps(wanted: bool) -> Iterator[None]:
    """Put the generator of Apple's GPU back afterwards; torch's own fork leaves it out."""
    state = torch.mps.get_rng_state() if wanted else None
    try:
        yield
    finally:
        if wanted:
            torch.mps.set_rng_state(state)
