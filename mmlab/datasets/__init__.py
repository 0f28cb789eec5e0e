"""Data sets by name: `load("av-digits", seed=0)`."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from mmlab.datasets.av_digits import load_av_digits
from mmlab.datasets.base import Batch, MultimodalData
from mmlab.datasets.dials import drop, realised_rates
from mmlab.datasets.synthetic import bayes_accuracy, synthetic
from mmlab.datasets.tri_digits import load_tri_digits

DATASETS: dict[str, Callable[..., MultimodalData]] = {
    "av-digits": load_av_digits,
    "tri-digits": load_tri_digits,
    "synthetic": synthetic,
}

__all__ = [
    "DATASETS",
    "Batch",
    "MultimodalData",
    "bayes_accuracy",
    "drop",
    "load",
    "realised_rates",
    "synthetic",
]


def load(name: str, *, seed: int = 0, **options: Any) -> MultimodalData:
    """The data set `name`, drawn with `seed`; the options are those of its loader in `DATASETS`.

    Raises ValueError for an unknown name, TypeError for an option that the data set does not have.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}{_among(name, DATASETS)}")
    loader = DATASETS[name]
    allowed = inspect.signature(loader).parameters
    for option in options:
        if option not in allowed:
            raise TypeError(f"{name!r} has no option {option!r}{_among(option, allowed)}")
    return loader(seed=seed, **options)


def _among(wrong: str, allowed: Iterable[str]) -> str:
    """The end of a message: all allowed names, and the closest of them."""
    close = difflib.get_close_matches(str(wrong), allowed, n=1)
    guess = f" (did you mean {close[0]!r}?)" if close else ""
    return f"; allowed: {', '.join(allowed)}{guess}"
