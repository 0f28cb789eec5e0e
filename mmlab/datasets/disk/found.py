"""What the lists of a data set say: its samples, and where the files of each are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mmlab.datasets.base import Augment
from mmlab.datasets.disk.decoded import Decoded, decoded
from mmlab.datasets.disk.files import DamagedError, fault
from mmlab.datasets.disk.reader import Reader, decode
from mmlab.nested import Nested

NAMED = 5
"""Samples that are named of those which are left out."""


@dataclass(frozen=True)
class Sample:
    """One sample.

    label:   its class, a number in `Found.classes`; in a regression the number itself.
    part:    where the published list has it: "train", "holdout", "test".
    group:   who or what it is of (a speaker, a video), which should not be on both sides.
    sources: modality -> what its reader reads.
    """

    name: str
    label: int | float
    part: str
    group: str
    sources: Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """A data set in a user's folder, before anything is decoded.

    classes: their names, sorted, as the lists have them; none in a regression.
    readers: modality -> what reads it; their order is that of the modalities.
    units:   modality -> what one unit of it means.
    card:    provenance, licence, access and limits.
    grouped: what a group is, in the plural, such as "speakers".
    notes:   what the lists had besides, such as rows that could not be read.
    arrays:  whether the readers hold arrays of everything: splits are then each a `Batch`.
    """

    samples: Sequence[Sample]
    classes: Sequence[str]
    readers: Mapping[str, Reader]
    units: Mapping[str, str]
    card: str
    grouped: str
    augment: Augment | None = None
    notes: Sequence[str] = ()
    arrays: bool = False


@dataclass(frozen=True)
class LeftOut:
    """The samples that cannot be read: name -> which modality, and why."""

    listed: int
    why: Mapping[str, str] = field(default_factory=dict)

    @property
    def share(self) -> float:
        return len(self.why) / max(self.listed, 1)

    def __str__(self) -> str:
        """One sentence: how many, and the first of them."""
        if not self.why:
            return f"all of {self.listed} listed samples are there"
        first = "; ".join(f"{name} ({why})" for name, why in list(self.why.items())[:NAMED])
        more = f"; and {len(self.why) - NAMED} more" if len(self.why) > NAMED else ""
        return (
            f"{len(self.why)} of {self.listed} listed samples ({self.share:.1%}) are left out: "
            f"{first}{more}"
        )


def missing(samples: Sequence[Sample], readers: Mapping[str, Reader]) -> dict[str, str]:
    """The samples that lack a file, or have one that cannot be what it should be: name -> why."""
    found = {}
    for sample in samples:
        for m, reader in readers.items():
            faults = ((file, fault(file)) for file in reader.files(sample.sources[m]))
            why = next((f"{m}: {file} is {bad}" for file, bad in faults if bad), None)
            if why:
                found[sample.name] = why
                break
    return found


@dataclass(frozen=True, eq=False)
class Samples(Dataset):
    """Samples of files as a torch Dataset: ({modality: values}, target).

    classes:  the names of the targets' numbers; none in a regression.
    left_out: what of the whole data set could not be read.
    decoded:  modality -> everything decoded, of which `rows` are these samples; None: files are
              read each time.
    """

    samples: Sequence[Sample]
    readers: Mapping[str, Reader]
    classes: Sequence[str]
    left_out: LeftOut
    decoded: Mapping[str, Decoded] | None = None
    rows: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> tuple[dict[str, Nested], Tensor]:
        label = self.samples[i].label
        inputs = {m: reader.tensor(self._stored(i, m)) for m, reader in self.readers.items()}
        kind = torch.float32 if isinstance(label, float) else torch.int64
        return inputs, torch.tensor(label, dtype=kind)

    def _stored(self, i: int, m: str) -> Any:
        if self.decoded is not None:
            return self.decoded[m][self.rows[i]]
        try:
            return decode(self.readers[m], self.samples[i].sources[m])
        except DamagedError as error:
            raise DamagedError(
                f"{error}. Fetch the file again; or load the data with cache=FOLDER, which reads "
                "everything once and leaves out what is damaged"
            ) from error

    def at(self, rows: Sequence[int]) -> Samples:
        """Some of the samples."""
        kept = [self.rows[i] for i in rows] if self.rows else ()
        return replace(self, samples=[self.samples[i] for i in rows], rows=kept)

    @property
    def checksum(self) -> str | None:
        """Of what it gives, where everything was read already."""
        if self.decoded is None:
            return None
        keys = [one.key for one in self.decoded.values()]
        labels = [(sample.name, sample.label) for sample in self.samples]
        return hashlib.sha256(repr((keys, self.rows, labels)).encode()).hexdigest()


def readable(found: Found, name: str, cache: Path | None) -> Samples:
    """The samples of which every file is there, and with a cache, can be decoded.

    name: of the data set.
    """
    lacking = missing(found.samples, found.readers)
    there = [sample for sample in found.samples if sample.name not in lacking]
    left_out = LeftOut(len(found.samples), lacking)
    whole = Samples(there, found.readers, found.classes, left_out)
    if cache is None or found.arrays or not there:
        return whole
    kept = {
        m: decoded(cache / name, f"{name}, {m}", reader, [x.sources[m] for x in there])
        for m, reader in found.readers.items()
    }
    damaged = {
        there[row].name: f"{m}: {why}"
        for m, one in kept.items()
        for row, why in one.damaged.items()
    }
    rows = [i for i, sample in enumerate(there) if sample.name not in damaged]
    return replace(
        whole,
        samples=[there[i] for i in rows],
        left_out=replace(left_out, why={**lacking, **damaged}),
        decoded=kept,
        rows=rows,
    )
