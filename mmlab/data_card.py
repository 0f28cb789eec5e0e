"""What a data set holds: ``python -m mmlab.data_card NAME [--root FOLDER] [KEY=VALUE ...]``.

It checks that the files of the lists are there and prints a card: samples, classes, what is left
out, what is on both sides of the split, one example, and how fast samples are read.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from mmlab.datasets import DATASETS, MultimodalData, Stream, load
from mmlab.datasets.disk.found import Samples
from mmlab.datasets.settings import setting
from mmlab.nested import tensors

TRIED = 64
"""Samples that are read for the rate."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the card of the data set that is named; what is wrong ends the program, and is said."""
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)
    try:
        settings: dict[str, Any] = dict(map(setting, options.settings))
        if options.root is not None:
            settings["root"] = options.root
        data = load(options.name, **settings)
        print("\n".join(card(data, everything=options.all)))
    except (ValueError, TypeError, ImportError, RuntimeError, OSError) as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mmlab data", description=__doc__)
    parser.add_argument("name", metavar="NAME", help=f"of {', '.join(DATASETS)}")
    parser.add_argument(
        "settings",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="of the data set, such as split=published; cache=FOLDER decodes everything",
    )
    parser.add_argument("--root", metavar="FOLDER", help="with the files of the data set")
    parser.add_argument("--all", action="store_true", help="name everything that is left out")
    return parser


def card(data: MultimodalData, *, everything: bool = False) -> Iterator[str]:
    """The lines of a card.

    data: the data set.
    everything: also name all samples that are left out, and why.
    """
    yield data.describe()
    files = data.train.dataset if isinstance(data.train, Stream) else None
    if not isinstance(files, Samples):
        yield from _example(data, "")
        return
    yield from _example(data, f"{files.samples[0].name}, ", files.classes)
    yield _rate(files)
    if everything:
        yield from ("left out:", *(f"  {name}: {why}" for name, why in files.left_out.why.items()))


def _example(data: MultimodalData, name: str, classes: Sequence[str] = ()) -> Iterator[str]:
    first = data.train.head(1)
    target: Any = first.target[0].tolist()
    meaning = f" ({classes[target]})" if classes else ""
    yield f"example: {name}the first of train, target {target}{meaning}"
    for m, value in first.inputs.items():
        parts = (f"{place} {_extent(x[0])}".strip() for place, x in tensors(value).items())
        yield f"  {m}: {'; '.join(parts)}"


def _extent(values: Tensor) -> str:
    size = " x ".join(map(str, values.shape)) or "a number"
    return f"{size}, {values.min():.4g} to {values.max():.4g}"


def _rate(samples: Samples) -> str:
    count, started = min(TRIED, len(samples)), time.process_time()
    for i in range(count):
        samples[i]
    seconds = max(time.process_time() - started, 1e-3)
    return f"reading: {count} samples in {seconds:.2g} s of one core, {count / seconds:.3g} per s"


if __name__ == "__main__":
    main()
