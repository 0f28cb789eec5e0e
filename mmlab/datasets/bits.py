"""Two modalities of bits: what they tell in common, each alone, and only together, is known.

The target is a row of bits, and each bit is of one kind:

- redundant: both modalities hold it.
- unique: one of them holds it, and the other knows nothing of it.
- synergistic: it is the XOR of a bit of a and a bit of b, so either alone tells nothing of it.

All bits that are drawn are fair and independent. So the target's information, in bits, splits into
these three kinds by counting (Bertschinger et al., "Quantifying unique information", Entropy 2014,
for the definition; the notebook on complex fusion derives it for these bits).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmlab.checks import check_number, check_whole
from mmlab.datasets.base import Batch, MultimodalData
from mmlab.datasets.dials import check_seed
from mmlab.seeds import generator

SPLITS = ("train", "holdout", "test")
MOST = 12
"""Bits drawn per sample at most: `states` lists all their values."""


def states(
    redundant: int = 1, unique: tuple[int, int] = (1, 0), synergistic: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """All equally likely states of (a, b, target): three boolean tensors (N, bits).

    unique: how many bits a alone holds, and how many b alone holds.

    Raises ValueError for what is no count, for no bit, and for more than 12 drawn.
    """
    check_whole("redundant", redundant, least=0)
    check_whole("synergistic", synergistic, least=0)
    for count in unique:
        check_whole("unique", count, least=0)
    drawn = redundant + sum(unique) + 2 * synergistic
    if not 1 <= drawn <= MOST:
        raise ValueError(f"{drawn} bits are drawn per sample; allowed are 1 to {MOST}")
    every = (torch.arange(2**drawn)[:, None] >> torch.arange(drawn) & 1).bool()
    sizes = [redundant, *unique, synergistic, synergistic]
    both, own_a, own_b, left, right = every.split(sizes, dim=-1)
    a, b = torch.cat([both, own_a, left], -1), torch.cat([both, own_b, right], -1)
    return a, b, torch.cat([both, own_a, own_b, left ^ right], -1)


def distribution(
    redundant: int = 1, unique: tuple[int, int] = (1, 0), synergistic: int = 1
) -> Tensor:
    """Probabilities (Y, A, B) of all triples of `states`; each row of bits is read as a number."""
    a, b, y = states(redundant, unique, synergistic)
    index = [row.long() @ 2 ** torch.arange(row.shape[1]) for row in (y, a, b)]
    p = torch.zeros([2 ** row.shape[1] for row in (y, a, b)], dtype=torch.float64)
    return p.index_put(tuple(index), torch.tensor(1 / len(y)).double(), accumulate=True)


def bits(
    *,
    seed: int = 0,
    n: tuple[int, int, int] = (1000, 500, 1000),
    redundant: int = 1,
    unique: tuple[int, int] = (1, 0),
    synergistic: int = 1,
    nuisance: int = 4,
) -> MultimodalData:
    """Modalities a and b, each (B, bits + nuisance): its bits as ±1, then numbers from N(0, 1).

    The nuisance tells nothing, so the target's information is that of the bits. The target has a
    label per bit, in the order redundant, unique of a, unique of b, synergistic.

    n: samples in train, holdout and test.

    Raises ValueError for what is no count, or no bit.
    """
    check_seed(seed)
    check_whole("nuisance", nuisance, least=0)
    for size in n:
        check_number("n", size, least=1)
    *inputs, labels = states(redundant, unique, synergistic)
    splits = {}
    for name, size in zip(SPLITS, n, strict=True):
        draw = generator(seed, "bits", name)
        rows = torch.randint(len(labels), (size,), generator=draw)
        made = {}
        for m, held in zip("ab", inputs, strict=True):
            signs = 2.0 * held[rows] - 1
            noise = torch.randn(size, nuisance, generator=draw)
            made[m] = torch.cat([signs, noise], dim=-1)
        splits[name] = Batch(made, labels[rows])
    kinds = f"{redundant} redundant, {unique[0]} + {unique[1]} unique, {synergistic} synergistic"
    return MultimodalData(
        splits["train"],
        splits["holdout"],
        splits["test"],
        task="multilabel",
        n_classes=labels.shape[1],
        name="bits",
        units=dict.fromkeys("ab", "±1, and noise of s.d. 1"),
        card=f"Made up: fair, independent bits. Of the target's bits are {kinds}.",
    )
