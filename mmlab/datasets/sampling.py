"""Which training samples an epoch sees: all of them in a random order, or drawn by weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import WeightedRandomSampler

from mmlab.checks import kind_of


def check_sampler(sampler: object, size: int) -> None:
    """Refuse what cannot draw an epoch from `size` samples.

    Raises TypeError for another kind of sampler, ValueError for weights that do not fit.
    """
    if type(sampler) is not WeightedRandomSampler:
        raise TypeError(
            f"sampler is {kind_of(sampler)}; give a torch.utils.data."
            "WeightedRandomSampler(weights, num_samples), or for an order of your own a method "
            "with `Balancer.order`"
        )
    if sampler.generator is not None:
        raise ValueError(
            "the sampler has a generator, and here the seed of the training draws; leave "
            "generator out"
        )
    weights = sampler.weights
    if tuple(weights.shape) != (size,):
        raise ValueError(
            f"the weights of the sampler have shape {tuple(weights.shape)}; give one for each of "
            f"the {size} training samples, ({size},)"
        )
    if not weights.isfinite().all() or (weights < 0).any() or not weights.any():
        raise ValueError(
            "the weights of the sampler must be finite and ≥ 0, and one of them above 0; for "
            "balanced classes: 1 / target.bincount()[target]"
        )
    drawn = int((weights > 0).sum())
    if not sampler.replacement and sampler.num_samples > drawn:
        raise ValueError(
            f"the sampler draws {sampler.num_samples} samples without replacement, and {drawn} "
            "have a weight above 0; draw fewer, or with replacement=True"
        )


def epoch_order(
    sampler: WeightedRandomSampler | None, size: int, source: torch.Generator
) -> Tensor:
    """The samples of an epoch, whole numbers: a permutation, or what the sampler draws."""
    if sampler is None:
        return torch.randperm(size, generator=source)
    return torch.multinomial(
        sampler.weights, sampler.num_samples, sampler.replacement, generator=source
    )
