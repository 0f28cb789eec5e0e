"""Data sets by name: `load("av-digits", seed=0)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from mmlab.datasets.av_digits import load_av_digits
from mmlab.datasets.base import Batch, MultimodalData
from mmlab.datasets.collate import Padded, pad
from mmlab.datasets.dials import among, drop, realised_rates
from mmlab.datasets.disk import DISK_SETS
from mmlab.datasets.icons import load_icons
from mmlab.datasets.items import load_items
from mmlab.datasets.phone_watch import load_phone_watch
from mmlab.datasets.stamps import load_stamps
from mmlab.datasets.stream import Stream
from mmlab.datasets.sum_digits import load_sum_digits
from mmlab.datasets.synthetic import bayes_accuracy, synthetic
from mmlab.datasets.tri_digits import load_tri_digits
from mmlab.datasets.watch import load_watch

DATASETS: dict[str, Callable[..., MultimodalData]] = {
    "av-digits": load_av_digits,
    "tri-digits": load_tri_digits,
    "sum-digits": load_sum_digits,
    "watch": load_watch,
    "icons": load_icons,
    "stamps": load_stamps,
    "items": load_items,
    "phone-watch": load_phone_watch,
    "synthetic": synthetic,
    **DISK_SETS,
}

__all__ = [
    "DATASETS",
    "Batch",
    "MultimodalData",
    "Padded",
    "Stream",
    "bayes_accuracy",
    "drop",
    "load",
    "pad",
    "realised_rates",
    "synthetic",
]


def load(name: str, *, seed: int = 0, **options: Any) -> MultimodalData:
    """The data set `name`, drawn with `seed`; the options are those of its loader in `DATASETS`.

    Raises ValueError for an unknown name, TypeError for what is no name, or for an option that the
    data set does not have.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of the data set is {name!r}; give one of {', '.join(DATASETS)}")
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}{among(name, DATASETS)}")
    loader = DATASETS[name]
    allowed = inspect.signature(loader).parameters
    for option in options:
        if option not in allowed:
            raise TypeError(f"{name!r} has no option {option!r}{among(option, allowed)}")
    return loader(seed=seed, **options)
