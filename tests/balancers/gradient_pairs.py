"""Pairs of gradients that the tests of rules share."""

import pytest
import torch

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def pairs(rows=300, length=5, seed=0):
    """Gradients of unlike lengths, (rows, 2, length), half of them in conflict."""
    draw = torch.Generator().manual_seed(seed)
    pair = torch.randn(rows, 2, length, generator=draw, dtype=torch.float64)
    return pair * torch.randn(rows, 2, 1, generator=draw, dtype=torch.float64).exp()


def gram(pair):
    return pair @ pair.mT


def blended(weights, pair):
    return (weights[..., None, :] @ pair)[..., 0, :]
