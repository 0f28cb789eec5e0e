"""What takes the place of a DataLoader of one's own."""

from __future__ import annotations

from torch.utils.data import (
    DataLoader,
    IterableDataset,
    WeightedRandomSampler,
    default_collate,
    default_convert,
)

from mmlab.checks import kind_of


def instead_of(loader: DataLoader) -> str:
    """The end of a message: how to write what the loader does.

    A training reads its samples in an order of its own for each epoch, and a measure in theirs; so
    the loader is made anew each time.
    """
    if isinstance(loader.dataset, IterableDataset):
        return (
            "give a map-style torch Dataset, with __len__ and __getitem__(i), in a Stream: the one "
            f"of the loader, {kind_of(loader.dataset)}, has one order only"
        )
    given = ["loader.dataset"]
    if loader.num_workers:
        given.append(f"workers={loader.num_workers}")
    if loader.collate_fn not in (default_collate, default_convert):
        given.append("collate=loader.collate_fn")
    calls = [f"Stream({', '.join(given)})"]
    if isinstance(loader.sampler, WeightedRandomSampler):
        calls.append("MultimodalData(..., sampler=loader.sampler)")
    size = [] if loader.batch_size is None else [f"batch_size={loader.batch_size}"]
    if options := size + ["drop_last=True"] * loader.drop_last:
        calls.append(f"fit(..., {', '.join(options)})")
    return f"use {', '.join(calls)}"
