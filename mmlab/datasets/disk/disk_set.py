"""A loader of a data set in a user's folder: what all of them share, around what one set is."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mmlab.checks import check_number
from mmlab.datasets import dials
from mmlab.datasets.base import MultimodalData
from mmlab.datasets.disk.found import Found, Samples, readable
from mmlab.datasets.disk.splits import choose, overlap
from mmlab.datasets.stream import Stream

PAGE = "docs/papers-data.md"
MOST_SHOWN = 12


@dataclass(frozen=True)
class DiskSet:
    """A loader for `mmlab.load`: `load(name, root=FOLDER, …)`.

    find:   (root, **options of the set) -> Found.
    splits: their names, the clean one first; "published" is that of the papers' lists.
    shares: of the samples in train, holdout and test of the clean split.
    """

    name: str
    find: Callable[..., Found]
    splits: tuple[str, ...]
    shares: tuple[float, float, float] = (0.7, 0.1, 0.2)

    def __call__(
        self,
        *,
        seed: int = 0,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        most_missing: float = 0.1,
        cache: str | os.PathLike[str] | None = None,
        workers: int = 0,
        **options: Any,
    ) -> MultimodalData:
        """The data set as three Streams.

        seed:         draws the clean split, and the holdout of the published one.
        root:         the folder with the files, in a layout of docs/papers-data.md.
        split:        one of `splits`; by default the first.
        most_missing: the share of listed samples that may be left out because a file is missing or
                      damaged. They are named in the card.
        cache:        a folder for decoded samples. Everything is then read once, now, and what is
                      damaged is left out; without it, files are read whenever a sample is, and a
                      damaged one is an error.
        workers:      processes that read ahead.
        options:      those of the set (`find`).

        Raises FileNotFoundError where the folder or its lists are not there, DamagedError (a
        ValueError) for a list that cannot be read, ValueError for an unknown split or option and
        where more than `most_missing` is left out, ImportError for a package of the extra `media`.
        """
        dials.check_seed(seed)
        split = self.splits[0] if split is None else split
        dials.check_split(split, self.splits)
        check_number("most_missing", most_missing, least=0, most=1)
        self._check_options(options)
        found = self.find(_folder(self.name, root), **options)
        whole = readable(found, self.name, None if cache is None else Path(cache))
        if whole.left_out.share > most_missing:
            raise ValueError(
                f"{self.name} in {root}: {whole.left_out}. Fetch them; or let so many be left out: "
                f"most_missing={whole.left_out.share + 0.005:.2f} (it is {most_missing:g})"
            )
        rows = choose(whole.samples, split, self.shares, seed, self.name)
        parts = [whole.at(row.tolist()) for row in rows.values()]
        streams = [Stream(part, workers=workers, checksum=part.checksum) for part in parts]
        train, holdout, test = (x.head(len(x)) if found.arrays else x for x in streams)
        return MultimodalData(
            train,
            holdout,
            test,
            task="classification" if found.classes else "regression",
            n_classes=len(found.classes) or None,
            name=self.name,
            units=found.units,
            card=card(found, whole, split, rows),
            augment=found.augment,
        )

    @property
    def __signature__(self) -> inspect.Signature:
        """The shared options and those of the set, for `load` and for help."""
        shared = inspect.signature(type(self).__call__).parameters
        own = [p for p in inspect.signature(self.find).parameters.values() if p.name != "root"]
        return inspect.Signature([*list(shared.values())[1:-1], *own])

    def _check_options(self, options: Mapping[str, Any]) -> None:
        for name in options:
            if name not in self.__signature__.parameters:
                among = dials.among(name, self.__signature__.parameters)
                raise TypeError(f"{self.name!r} has no option {name!r}{among}")


def _folder(name: str, root: str | os.PathLike[str] | None) -> Path:
    if root is None:
        raise ValueError(
            f"{name} does not come with the library; give the folder with its files, "
            f"load({name!r}, root=FOLDER): {PAGE} says which files, and where they come from"
        )
    folder = Path(root)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"root={str(root)!r} is no folder; give the one with {name}'s files"
        )
    return folder


def card(found: Found, whole: Samples, split: str, rows: Mapping[str, Tensor]) -> str:
    """Provenance, what is left out, classes, and what is on both sides of the split."""
    both, tested = overlap(whole.samples, rows)
    lines = [
        found.card,
        f"files: {whole.left_out}",
        *found.notes,
        f"split={split!r}: {both} of {tested} {found.grouped} of the test are also in train or "
        "holdout",
    ]
    if found.classes:
        shown = ", ".join(found.classes[:MOST_SHOWN])
        more = ", …" if len(found.classes) > MOST_SHOWN else ""
        lines.append(f"classes (of the list, {len(found.classes)}): {shown}{more}")
    return "\n".join(lines)
