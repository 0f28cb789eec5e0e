"""A split that is read batch by batch, for data that do not fit into the memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, default_collate

from mmlab.checks import check_whole, kind_of
from mmlab.datasets.base import Batch
from mmlab.datasets.dataloaders import instead_of
from mmlab.identity import UnknownIdentityError
from mmlab.seeds import derive

Collate = Callable[[list[Any]], Sequence[Any]]
"""Samples -> (inputs, target) or (inputs, target, present), the samples in the first axes."""

WANTED = (
    "a sample is (inputs, target) or (inputs, target, present): inputs a dict with one value per "
    "modality, present a dict with one truth value per modality"
)


@dataclass(frozen=True, eq=False, repr=False)
class Stream:
    """A split whose samples a torch Dataset reads: from files, a database, a memory-mapped array.

    dataset:  a map-style torch Dataset (with `__len__` and `__getitem__`). A sample is
              (inputs, target) or (inputs, target, present): inputs a dict with one value per
              modality, as in a `Batch` but without the axis of the samples; present a dict with
              one truth value per modality.
    workers:  processes that read ahead; 0: this one reads. For a GPU, batches are pinned.
    collate:  samples -> the same tuple, with the samples in the first axes; by default torch's
              `default_collate`. `mmlab.datasets.Padded("text")` also pads sequences.
    checksum: a text that stands for everything the dataset gives, such as the checksum of its files
              with the version of its transforms: "posts, version 1". A cache and a checkpoint need
              it, and change with it; a training without either does not.

    What the dataset draws from the global generators of torch, NumPy and `random`, such as a random
    crop, is seeded for each sample and epoch: it depends neither on the workers nor on the size of
    a batch. Measures see one fixed draw; give holdout and test a dataset that draws nothing. Where
    but few samples draw from NumPy's or Python's generators, one batch per worker and epoch may be
    read twice.

    Every batch is checked as a `Batch` in memory is, when it is read. The first sample tells how
    many go through a network at once where nothing is trained: where lengths differ, begin with a
    long one.

    Raises TypeError for what is no map-style Dataset, ValueError for an empty one or a wrong number
    of workers; where it reads, TypeError and ValueError for samples of another form.

    >>> from mmlab import MultimodalData, MultimodalNet, Stream, fit
    >>> class Clips(torch.utils.data.Dataset):
    ...     def __len__(self):
    ...         return 100
    ...
    ...     def __getitem__(self, i):  # here a file would be read
    ...         sound, picture = torch.full((8,), i / 100), torch.randn(4)
    ...         return {"audio": sound, "image": picture}, i // 50
    >>> train, holdout, test = (Stream(Clips(), workers=2) for _ in range(3))
    >>> data = MultimodalData(train, holdout, test, n_classes=2)
    >>> run = fit(MultimodalNet.build(data), data, epochs=2)
    >>> tuple(run.predict(test).shape)
    (100, 2)
    """

    dataset: Dataset
    workers: int = 0
    collate: Collate = default_collate
    checksum: str | None = None
    device: torch.device | str = "cpu"
    checks: tuple[Callable[[Batch], Batch], ...] = ()

    def __post_init__(self) -> None:
        _check_dataset(self.dataset)
        check_whole("workers", self.workers, least=0)
        if self.checksum is not None and not isinstance(self.checksum, str):
            raise TypeError(f"checksum is {self.checksum!r}; give a text, or None")

    def __repr__(self) -> str:
        return f"Stream({type(self.dataset).__name__}, {len(self)} samples)"

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # torch's base class has none

    def __getattr__(self, name: str) -> Any:
        if name in ("inputs", "target", "present"):
            raise AttributeError(
                f"a Stream does not hold its {name}; read them batch by batch, such as "
                "for batch in split.batches(64), or take some: split.head(64)"
            )
        raise AttributeError(f"a Stream has no {name!r}")

    def __identity__(self) -> tuple[object, ...]:
        """What a result depends on, for a cache or a checkpoint (`mmlab.identity`)."""
        if self.checksum is None:
            raise UnknownIdentityError(
                f"{self!r} has no checksum, so it cannot be told whether it gives the same samples "
                "the next time; give Stream(..., checksum=...) a text that changes with its files "
                "and with how they are read"
            )
        return self.checksum, len(self), self.collate

    @property
    def modalities(self) -> tuple[str, ...]:
        return self._first.modalities

    @cached_property
    def _first(self) -> Batch:
        """The first two samples, which tell the form of all."""
        try:
            return next(replace(self, workers=0).batches(2))
        except AttributeError as error:  # `hasattr` and `__getattr__` would hide it
            raise RuntimeError(
                f"{type(self.dataset).__name__} raised an AttributeError: {error}"
            ) from error

    def head(self, count: int) -> Batch:
        """The first `count` samples, or all where there are fewer."""
        if count == len(self._first):
            return self._first
        few = count < len(self._first)
        return self._first[:count] if few else next(replace(self, workers=0).batches(count))

    def batches(self, size: int, order: Tensor | None = None, seed: int = 0) -> Iterator[Batch]:
        """Batches of `size` samples, as of a `Batch`.

        seed: of what the dataset draws.
        """
        chosen = torch.arange(len(self)) if order is None else order.cpu()
        loader: DataLoader = DataLoader(
            _Samples(self.dataset, seed, apart=self.workers > 0),  # type: ignore[arg-type]
            batch_sampler=_Chunks(chosen, size),
            num_workers=self.workers,
            collate_fn=_Collated(self.collate),
            pin_memory=torch.device(self.device).type == "cuda",
            generator=torch.Generator(),  # of its own: the training's is left alone
        )
        for (inputs, target, present), index in zip(loader, _chunks(chosen, size), strict=True):
            batch = Batch(inputs, target, present, None if order is None else index)
            for check in self.checks:
                batch = check(batch)
            yield batch.to(self.device, non_blocking=True)

    def checked(self, check: Callable[[Batch], Batch]) -> Stream:
        """The same split, each batch of which `check` sees when it is read; its first ones now."""
        same = replace(self, checks=(*self.checks, check))
        vars(same)["_first"] = check(self._first)  # kept: a check may ask for them itself
        return same

    def unchecked(self) -> Stream:
        """The same split without the checks of a data set."""
        return replace(self, checks=())

    def to(self, device: torch.device | str) -> Stream:
        """The same split, whose batches come on `device`."""
        same = replace(self, device=device)
        if "_first" in vars(self):  # read already
            vars(same)["_first"] = self._first.to(device)
        return same


def _check_dataset(dataset: object) -> None:
    if isinstance(dataset, DataLoader):
        raise TypeError(
            "Stream takes a Dataset and makes the loader itself, in an order of its own for each "
            f"epoch; {instead_of(dataset)}"
        )
    readable = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if not readable or isinstance(dataset, IterableDataset | dict):
        raise TypeError(
            f"Stream got {kind_of(dataset)}; it takes a map-style torch Dataset, with "
            "__len__ and __getitem__(i), so that an epoch may have any order"
        )
    if not len(dataset):  # type: ignore[arg-type]
        raise ValueError("the dataset of a Stream holds 0 samples; give at least one")


def _chunks(order: Tensor, size: int) -> Iterator[Tensor]:
    """One after the other: `Tensor.split` would make all of them at once."""
    return (order[i : i + size] for i in range(0, len(order), size))


class _Chunks(Sampler[list[int]]):
    """The positions of each batch."""

    def __init__(self, order: Tensor, size: int) -> None:
        self.order, self.size = order, size

    def __iter__(self) -> Iterator[list[int]]:
        return (chunk.tolist() for chunk in _chunks(self.order, self.size))

    def __len__(self) -> int:
        return -(-len(self.order) // self.size)


STEP = 0x9E3779B1
"""Odd, so that all samples have seeds of their own; and neighbours are far apart."""


@dataclass
class _Samples:
    """A dataset, each sample of which draws from a seed of its own.

    To seed NumPy's and Python's generators takes longer than to read a small sample. So they get a
    seed per batch from the first batch on in which no sample drew from them; after each it is
    looked whether this is still so, and if not the batch is read again, each sample under its seed.

    apart: it is read in a process of its own, whose generators nobody else uses.
    draws: whether samples draw from these two; None: not known yet.
    """

    dataset: Any
    seed: int
    apart: bool
    draws: bool | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, places: list[int]) -> list[Any]:
        kept = None if self.apart else _states()
        first = derive(self.seed, "samples")
        seeds = [(first + i * STEP) % 2**32 for i in places]
        try:
            if self.draws is False:
                found = self._seeded_together(places, seeds)
                if not _have_drawn(seeds[0]):
                    return found
            return self._each_seeded(places, seeds)
        finally:
            if kept is not None:
                _put_back(*kept)

    def _seeded_together(self, places: list[int], seeds: list[int]) -> list[Any]:
        _seed(seeds[0])
        read, seed_torch = self.dataset.__getitem__, torch.default_generator.manual_seed
        found = []
        for i, seed in zip(places, seeds, strict=True):
            seed_torch(seed)
            found.append(read(i))
        return found

    def _each_seeded(self, places: list[int], seeds: list[int]) -> list[Any]:
        found, drawn = [], bool(self.draws)
        for i, seed in zip(places, seeds, strict=True):
            _seed(seed)
            torch.default_generator.manual_seed(seed)  # torch's own seeds every device
            found.append(self.dataset[i])
            drawn = drawn or _have_drawn(seed)
        self.draws = drawn
        return found


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)


def _have_drawn(seed: int) -> bool:
    """Whether a generator was drawn from since it got this seed, by the number that comes next."""
    then = random.random(), np.random.random()
    _seed(seed)
    return then != (random.random(), np.random.random())


def _states() -> tuple[Any, Any, Tensor]:
    """The global generators' own."""
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _put_back(own: Any, of_numpy: Any, of_torch: Tensor) -> None:
    random.setstate(own)
    np.random.set_state(of_numpy)
    torch.set_rng_state(of_torch)


@dataclass
class _Collated:
    """Samples as (inputs, target, present)."""

    collate: Collate

    def __call__(self, samples: list[Any]) -> tuple[dict[str, Any], Tensor, Any]:
        for sample in samples:
            if not isinstance(sample, tuple | list) or not 2 <= len(sample) <= 3:
                raise TypeError(f"the dataset gives {kind_of(sample)}; {WANTED}")
            if not isinstance(sample[0], dict):
                raise TypeError(f"the dataset gives inputs that are {kind_of(sample[0])}; {WANTED}")
        try:
            inputs, target, *present = self.collate(samples)
        except RuntimeError as error:
            if "equal size" in str(error):
                error.add_note(
                    "These samples could not be put into one batch: where their lengths differ, "
                    "pad them, such as by Stream(..., collate=mmlab.datasets.Padded('text'))"
                )
            raise
        # torch's default_collate makes lists of tuples
        inputs = {m: tuple(x) if isinstance(x, list) else x for m, x in inputs.items()}
        return inputs, target, present[0] if present else None
