"""The dials that unbalance a data set: noise, occlusion, fewer samples, missing modalities.

The draws of one seed are nested: a stronger setting adds to what a weaker one did (the same noise
scaled up, the same samples missing and more), so that a sweep moves one thing alone.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import NamedTuple

import torch
from torch import Tensor

from mmlab.checks import check_mask, kind_of
from mmlab.datasets.base import Batch
from mmlab.gradients import align_to
from mmlab.nested import Nested, changed
from mmlab.seeds import derive, generator


def among(wrong: object, allowed: Iterable[str]) -> str:
    """The end of a message: all allowed names, and the closest of them."""
    names = list(allowed)
    close = difflib.get_close_matches(str(wrong), names, n=1)
    guess = f" (did you mean {close[0]!r}?)" if close else ""
    return f"; allowed: {', '.join(names)}{guess}"


def check_seed(seed: int) -> None:
    """Check a seed. Raises TypeError unless it is a whole number, ValueError below 0."""
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise TypeError(f"seed is {seed!r}; give a whole number, such as 0")
    if seed < 0:
        raise ValueError(f"seed is {seed!r}; give a whole number of at least 0")


def check_dial(
    dial: str,
    setting: Mapping[str, float] | None,
    modalities: Sequence[str],
    *,
    high: float = 1.0,
) -> dict[str, float]:
    """The setting of `dial` as a dict from modality to a number from 0 to `high`.

    Raises TypeError unless it is None or a mapping, ValueError for an unknown modality or a value
    out of range.
    """
    allowed = f"a number from 0 to {high:g}" if math.isfinite(high) else "a finite number >= 0"
    if setting is None:
        return {}
    if not isinstance(setting, Mapping):
        raise TypeError(
            f"{dial}={setting!r} does not say which modality; "
            f"write for example {dial}={{{modalities[0]!r}: 0.5}}"
        )
    for name, value in setting.items():
        if name not in modalities:
            raise ValueError(f"{dial} names the unknown modality {name!r}{among(name, modalities)}")
        number = isinstance(value, Real) and not isinstance(value, bool)
        if not (number and math.isfinite(value) and 0 <= value <= high):
            raise ValueError(f"{dial}[{name!r}] is {value!r}; give {allowed}")
    return {name: float(value) for name, value in setting.items()}


def check_missing(
    rate: float | Mapping[str, float] | None, modalities: Sequence[str]
) -> dict[str, float]:
    """Like `check_dial`, but one number stands for every modality."""
    if isinstance(rate, Real):
        rate = dict.fromkeys(modalities, float(rate) if not isinstance(rate, bool) else rate)
    if rate is not None and not isinstance(rate, Mapping):
        raise TypeError(
            f"missing is {rate!r}; give a number from 0 to 1 for every modality, or one for each, "
            f"such as {{{modalities[0]!r}: 0.5}}"
        )
    return check_dial("missing", rate, modalities)


def add_noise(values: Tensor, sd: Tensor | float, source: torch.Generator) -> Tensor:
    """`values` plus Gaussian noise; `sd` is in their unit and broadcasts against them.

    Raises ValueError for whole numbers, for an `sd` that is negative or not finite, or a tensor of
    another shape. (The values of a tensor are not looked at.)
    """
    if not values.is_floating_point():
        raise ValueError(f"values are {values.dtype}; noise needs real numbers: use .float()")
    if isinstance(sd, Tensor):
        if not _fits(sd, values):
            raise ValueError(
                f"sd has shape {tuple(sd.shape)}, which does not broadcast to that of the values, "
                f"{tuple(values.shape)}; give a number, or 1 for every axis along which it is equal"
            )
    elif not (math.isfinite(sd) and sd >= 0):
        raise ValueError(f"sd is {sd!r}; give a finite number >= 0")
    return values + sd * torch.randn(values.shape, generator=source, dtype=values.dtype)


def _fits(sd: Tensor, values: Tensor) -> bool:
    try:
        return torch.broadcast_shapes(sd.shape, values.shape) == values.shape
    except RuntimeError:
        return False


def occlude(values: Tensor, fraction: float, source: torch.Generator, *, axes: int) -> Tensor:
    """Set a contiguous block of each sample to zero, at a place drawn for each sample.

    values:   (B, ...); the block covers `fraction` of the last `axes` axes (1: a stretch of time,
              2: a rectangle of an image) and all of the axes before them.
    fraction: share of the time or area; each side is rounded to whole frames or pixels, so that a
              quarter of an 8 x 8 image is 4 x 4 exactly and a tenth is 3 x 3 (14 %).

    Raises ValueError for a fraction outside 0 to 1, or more axes than one sample has.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction is {fraction!r}; give a number from 0 to 1")
    if not 1 <= axes < values.ndim:
        raise ValueError(
            f"axes is {axes!r}, and values have shape {tuple(values.shape)}; give a number from 1 "
            f"to {values.ndim - 1}: the first axis holds the samples"
        )
    hidden = torch.ones(len(values), *[1] * (values.ndim - 1), dtype=torch.bool)
    for axis in range(values.ndim - axes, values.ndim):
        size = values.shape[axis]
        side = round(size * fraction ** (1 / axes))
        place = torch.rand(len(values), generator=source)
        start = (place * (size - side + 1)).long().clamp(max=size - side)
        position = torch.arange(size)
        inside = (position >= start[:, None]) & (position < start[:, None] + side)
        hidden = hidden & inside.reshape(
            len(values), *[size if a == axis else 1 for a in range(1, values.ndim)]
        )
    return values.masked_fill(hidden, 0.0)


def keep(batch: Batch, fractions: Mapping[str, float], seed: int = 0) -> Batch:
    """Leave each named modality to a fraction of the samples: fewer samples of that modality.

    fractions: modality -> share of samples that keep it, rounded to whole samples. Drawn
               independently for each modality; a sample that would be left with nothing keeps one
               modality at random, so that two modalities at 0.5 are there more often than that.

    Raises TypeError for what is no Batch, ValueError for an unknown modality or a share out of
    range.
    """
    _check_batch(batch, "keep")
    check_seed(seed)
    stays = {}
    for name, fraction in check_dial("keep", fractions, batch.modalities).items():
        order = torch.randperm(len(batch), generator=generator(seed, "keep", name))
        stays[name] = torch.zeros(len(batch), dtype=torch.bool)
        stays[name][order[: round(fraction * len(batch))]] = True
    return _hide(batch, stays, seed)


def drop(batch: Batch, rate: float | Mapping[str, float], seed: int = 0) -> Batch:
    """Take modalities away at random: `batch` as it would be with missing modalities.

    rate: probability from 0 to 1 that a sample lacks a modality, one for all or one per modality;
          drawn independently for each. A sample that would be left with nothing keeps one of its
          modalities at random, so of M complete modalities at rate r each one is missing in
          r - r^M / M of the samples: r - r^2 / 2 for two, one half at r = 1.
          `realised_rates` counts them.

    What is absent is set to zero (the training mean of standardised data; a mask that is False, a
    length of 0) and marked in `present`.
    Raises TypeError for what is no Batch, ValueError for an unknown modality or a rate out of
    range.
    """
    _check_batch(batch, "drop")
    check_seed(seed)
    stays = {}
    for name, probability in check_missing(rate, batch.modalities).items():
        draw = torch.rand(len(batch), generator=generator(seed, "missing", name))
        stays[name] = draw >= probability
    return _hide(batch, stays, derive(seed, "missing"))


def hide(batch: Batch, missing: Mapping[str, Tensor], seed: int = 0) -> Batch:
    """Take modalities away from the samples that masks name: a pattern of gaps that is not random.

    missing: modality -> booleans (B,), True where the sample is to lack it. A sample that would be
             left with nothing keeps one of its modalities, drawn by the seed.

    What is absent is set to zero and marked, as by `drop`.
    Raises TypeError for what is no Batch, ValueError for an unknown modality or a mask that does
    not fit.
    """
    _check_batch(batch, "hide")
    check_seed(seed)
    for name, mask in missing.items():
        if name not in batch.modalities:
            raise ValueError(
                f"missing names the unknown modality {name!r}{among(name, batch.modalities)}"
            )
        check_mask(f"missing[{name!r}]", mask, (len(batch),))
    return _hide(batch, {name: ~mask.cpu() for name, mask in missing.items()}, seed)


def realised_rates(batch: Batch) -> dict[str, float]:
    """Share of the samples that lack each modality. Raises TypeError for what is no Batch."""
    _check_batch(batch, "realised_rates")
    if batch.present is None:
        return dict.fromkeys(batch.modalities, 0.0)
    return {name: (~mask).double().mean().item() for name, mask in batch.present.items()}


class Dials(NamedTuple):
    """The settings of the dials that every real data set has, modality -> number."""

    noise: dict[str, float]
    keep: dict[str, float]
    missing: dict[str, float]


def check_dials(
    modalities: Sequence[str],
    noise: Mapping[str, float] | None,
    keep: Mapping[str, float] | None,
    missing: float | Mapping[str, float] | None,
) -> Dials:
    """The three settings, checked by `check_dial` and `check_missing`, and raising as they do."""
    return Dials(
        check_dial("noise", noise, modalities, high=math.inf),
        check_dial("keep", keep, modalities),
        check_missing(missing, modalities),
    )


def check_split(split: object, allowed: Sequence[str]) -> None:
    """Raises ValueError for a split that the data set does not have."""
    if split not in allowed:
        raise ValueError(f"unknown split {split!r}{among(split, allowed)}")


def _check_batch(batch: Batch, who: str) -> None:
    if not isinstance(batch, Batch):
        raise TypeError(
            f"{who} takes a Batch, such as data.train, and got {kind_of(batch)}; call it "
            "for each split (of a Stream, that fits into the memory: split.head(len(split)))"
        )


def _hide(batch: Batch, stays: Mapping[str, Tensor], seed: int) -> Batch:
    """Keep a modality where `stays` says so, but leave no sample bare that had something before."""
    if all(mask.all() for mask in stays.values()):
        return batch
    everywhere = torch.ones(len(batch), dtype=torch.bool)
    had = batch.present or {}
    before = torch.stack([had.get(m, everywhere).cpu() for m in batch.modalities])
    after = before & torch.stack([stays.get(m, everywhere) for m in batch.modalities])
    lottery = torch.rand(before.shape, generator=generator(seed, "rescue")) * before
    winner = torch.zeros_like(before).scatter_(0, lottery.argmax(0, keepdim=True), True)
    after |= winner & before & ~after.any(0)
    present = {
        name: mask.to(batch.target.device)
        for name, mask in zip(batch.modalities, after, strict=True)
    }
    inputs = {m: _zero_elsewhere(value, present[m]) for m, value in batch.inputs.items()}
    return Batch(inputs, batch.target, present)


def _zero_elsewhere(value: Nested, present: Tensor) -> Nested:
    return changed(lambda x: x * align_to(x, present), value)
