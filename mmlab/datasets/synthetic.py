"""A generator whose best possible accuracy is known in closed form, for derivations and tests.

Two equally likely classes. Modality m carries a hidden sign s_m = ±1 along a random unit direction
u_m, in white noise of s.d. 1::

    x_m = s_m (signal_m / 2) u_m + noise,    so that d'_m = signal_m.

By default every s_m is the class, and the modalities complement each other. `redundancy` gives
their noise a shared part, so that a second modality tells less that is new. With `xor` the class
is the parity of the signs: no modality alone tells anything, together they do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from statistics import NormalDist

import torch
from torch import Tensor

from mmlab.datasets.base import Batch, MultimodalData
from mmlab.datasets.dials import check_dial, check_seed
from mmlab.seeds import generator

BALANCED = {"a": 2.0, "b": 2.0}
SPLITS = ("train", "holdout", "test")


def synthetic(
    *,
    seed: int = 0,
    n: tuple[int, int, int] = (1000, 500, 1000),
    signal: Mapping[str, float] = BALANCED,
    dims: int | Mapping[str, int] = 16,
    redundancy: float = 0.0,
    xor: bool = False,
    shift: Mapping[str, float] | None = None,
) -> MultimodalData:
    """Gaussian modalities named by `signal`, each (B, dims), of two classes.

    n:          samples in train, holdout and test.
    signal:     modality -> distance d' between its two means, in s.d. of the noise.
    dims:       dimensions, one number for all or one per modality.
    redundancy: correlation of the noise along the u_m between any two modalities, 0 <= r < 1.
    xor:        the class is the parity of the signs; needs redundancy 0.
    shift:      modality -> offset along u_m, in s.d., of holdout and test but not of train:
                a nuisance that training never sees, as a new speaker is.

    Means are 0 and the noise has s.d. 1 by construction, so nothing is standardised again.
    Raises ValueError for a value out of range or an unknown modality, TypeError for a setting of
    another type.
    """
    check_seed(seed)
    shift = _check(signal, redundancy, xor, shift)
    if not (isinstance(n, Sequence) and len(n) == len(SPLITS) and all(map(_is_count, n))):
        raise ValueError(
            f"n is {n!r}; give three sizes, whole numbers of at least 1, for train, holdout and "
            "test, such as (1000, 500, 1000)"
        )
    axes = directions(signal, dims, seed)
    splits = {}
    for name, size in zip(SPLITS, n, strict=True):
        draw = generator(seed, "synthetic", name)
        target = torch.randint(2, (size,), generator=draw)
        signs = _signs(target, len(signal), xor, draw)
        shared = torch.randn(size, generator=draw)
        inputs = {}
        for sign, (m, axis) in zip(signs, axes.items(), strict=True):
            noise = torch.randn(size, len(axis), generator=draw)
            # The shared part enters along the class direction alone, where it matters.
            private = noise @ axis
            along = math.sqrt(redundancy) * shared + math.sqrt(1 - redundancy) * private
            offset = 0.0 if name == "train" else shift.get(m, 0.0)
            along = along - private + sign * signal[m] / 2 + offset
            inputs[m] = noise + along[:, None] * axis
        splits[name] = Batch(inputs, target)
    return MultimodalData(
        splits["train"],
        splits["holdout"],
        splits["test"],
        n_classes=2,
        name="synthetic",
        units=dict.fromkeys(signal, "s.d. of the noise"),
        card=_card(signal, redundancy, xor, shift),
    )


def directions(
    signal: Mapping[str, float], dims: int | Mapping[str, int] = 16, seed: int = 0
) -> dict[str, Tensor]:
    """The unit vector u_m (dims,) of each modality: with it the best rule can be written down."""
    sizes = dims if isinstance(dims, Mapping) else dict.fromkeys(signal, dims)
    if set(sizes) != set(signal) or not all(map(_is_count, sizes.values())):
        raise ValueError(
            f"dims is {dims!r}; give a whole number, at least 1 dimension for each of "
            f"{', '.join(signal)}"
        )
    axes = {}
    for m in signal:
        axis = torch.randn(sizes[m], generator=generator(seed, "synthetic", "direction", m))
        axes[m] = axis / axis.norm()
    return axes


def bayes_accuracy(
    signal: Mapping[str, float] = BALANCED,
    *,
    redundancy: float = 0.0,
    xor: bool = False,
    shift: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Accuracy of the best rule for each modality alone and for all together ("joint").

    With d the signals and R the correlation matrix of the noise, a modality alone reaches
    Phi(d_m / 2) and all together Phi(D / 2), where D^2 = d' R^-1 d. With `xor` the modalities
    alone reach 1/2, and together (1 + prod_m (2 Phi(d_m / 2) - 1)) / 2, which for two is
    p q + (1 - p)(1 - q).

    With `shift` it is the accuracy under the shift of the rule that is best without it.
    """
    shift = _check(signal, redundancy, xor, shift)
    alone = {m: _linear_accuracy(d, shift.get(m, 0.0)) for m, d in signal.items()}
    if xor:
        together = (1 + math.prod(2 * p - 1 for p in alone.values())) / 2
        alone = dict.fromkeys(signal, 0.5) if len(signal) > 1 else alone
        return alone | {"joint": together}
    d = torch.tensor(list(signal.values()), dtype=torch.float64)
    t = torch.tensor([shift.get(m, 0.0) for m in signal], dtype=torch.float64)
    correlation = torch.full((len(d), len(d)), redundancy, dtype=torch.float64)
    weights = torch.linalg.solve(correlation.fill_diagonal_(1), d)
    distance = math.sqrt(weights @ d)
    moved = float(weights @ t) / distance if distance else 0.0
    return alone | {"joint": _linear_accuracy(distance, moved)}


def _is_count(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def _linear_accuracy(distance: float, moved: float) -> float:
    """Two unit Gaussians `distance` apart, cut half-way, after both have `moved`."""
    cdf = NormalDist().cdf
    return (cdf(distance / 2 + moved) + cdf(distance / 2 - moved)) / 2


def _signs(target: Tensor, count: int, xor: bool, draw: torch.Generator) -> list[Tensor]:
    """The hidden sign (B,) of each of `count` modalities."""
    label = 2.0 * target - 1
    if not xor:
        return [label] * count
    free = [2.0 * torch.randint(2, target.shape, generator=draw) - 1 for _ in range(count - 1)]
    last = label
    for sign in free:
        last = last * sign
    return [*free, last]


def _check(
    signal: Mapping[str, float], redundancy: float, xor: bool, shift: Mapping[str, float] | None
) -> dict[str, float]:
    """The shift as a dict; raises TypeError or ValueError for a setting that means nothing."""
    if not isinstance(signal, Mapping):
        raise TypeError(
            f"signal is {signal!r}; say how far the classes are apart in each modality, for "
            "example {'a': 2.0, 'b': 1.0}"
        )
    if not isinstance(xor, bool):
        raise TypeError(f"xor is {xor!r}; give True or False")
    if not isinstance(redundancy, Real) or isinstance(redundancy, bool):
        raise TypeError(f"redundancy is {redundancy!r}; give a number from 0 to below 1")
    if not signal:
        raise ValueError("signal names no modality; give for example {'a': 2.0, 'b': 1.0}")
    names = tuple(signal)
    check_dial("signal", signal, names, high=math.inf)
    if not 0 <= redundancy < 1:
        raise ValueError(f"redundancy is {redundancy!r}; give a number from 0 to below 1")
    if xor and redundancy:
        raise ValueError(
            f"redundancy={redundancy!r} with xor=True has no closed form; leave one of them out"
        )
    return check_dial("shift", shift, names, high=math.inf)


def _card(
    signal: Mapping[str, float], redundancy: float, xor: bool, shift: Mapping[str, float]
) -> str:
    best = bayes_accuracy(signal, redundancy=redundancy, xor=xor)
    lines = ["Made up: class-conditional Gaussians. Best possible accuracy: " + _percent(best)]
    if shift:
        after = bayes_accuracy(signal, redundancy=redundancy, xor=xor, shift=shift)
        lines.append("The same rules on the shifted holdout and test: " + _percent(after))
    return "\n".join(lines)


def _percent(accuracy: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {100 * value:.1f} %" for name, value in accuracy.items())
