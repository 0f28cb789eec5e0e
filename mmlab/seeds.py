"""One seed, many independent streams: weights, data order and noise never share a generator."""

import hashlib

import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called `names`, the same on every platform."""
    key = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *names: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator for the stream called `names`."""
    return torch.Generator(device=device).manual_seed(derive(seed, *names))
