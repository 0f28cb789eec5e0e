"""What a multimodal data set is: batches of named inputs, three splits, one target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(repr=False)
class Batch:
    """Samples of every modality with their targets.

    inputs:  one tensor per modality, shape (B, ...), modalities in a fixed order.
    target:  (B,) integer labels, or (B,) floats for regression.
    present: None where every sample has every modality; else one bool tensor (B,) for every
             modality, False where the sample lacks it. Its input should be 0 there: nothing looks
             at it but the joint network.
    index:   None, or (B,) integers: which samples of their split these are. A training sets it.

    For a stack of R networks every tensor has a leading axis R (`stack_batches`), and len is R.

    Raises TypeError for what is no tensor, ValueError for no modality, no sample, unequal lengths,
    or masks that do not fit.
    """

    inputs: dict[str, Tensor]
    target: Tensor
    present: dict[str, Tensor] | None = None
    index: Tensor | None = None

    def __post_init__(self) -> None:
        for name, values in {**self.inputs, "target": self.target}.items():
            if not isinstance(values, Tensor):
                raise TypeError(
                    f"{name!r} is a {type(values).__name__}; a Batch holds torch tensors: "
                    "use torch.as_tensor(...)"
                )
        if not self.inputs:
            raise ValueError("a Batch needs at least one modality; got inputs={}")
        size = len(self.target)
        if size == 0:
            raise ValueError("empty batch: target holds 0 samples; give at least one")
        for name, values in self.inputs.items():
            if len(values) != size:
                lengths = {key: len(value) for key, value in self.inputs.items()}
                raise ValueError(
                    f"inputs of unequal length: {name!r} has {len(values)} samples, the target has "
                    f"{size} (inputs: {lengths}); every modality needs one row per sample. "
                    "For a sample that lacks a modality, fill in zeros and say so in `present`."
                )
        if self.present is not None:
            self._check_present(self.present)
        if self.index is not None and self.index.shape != self.target.shape:
            raise ValueError(
                f"index has shape {tuple(self.index.shape)}; it must be that of the target, "
                f"{tuple(self.target.shape)}: one whole number per sample"
            )

    def _check_present(self, present: Mapping[str, Tensor]) -> None:
        if set(present) != set(self.inputs):
            raise ValueError(
                f"present names {sorted(present)}, inputs name {sorted(self.inputs)}; "
                "give one mask for each modality, or present=None where nothing is missing"
            )
        for name, mask in present.items():
            if mask.dtype != torch.bool or mask.shape != self.target.shape:
                raise ValueError(
                    f"present[{name!r}] is {mask.dtype} of shape {tuple(mask.shape)}; "
                    f"it must be torch.bool of shape {tuple(self.target.shape)}"
                )

    def __repr__(self) -> str:
        """One line: shapes, not values."""
        inputs = ", ".join(f"{m} {tuple(values.shape)}" for m, values in self.inputs.items())
        gaps = "" if self.present is None else ", some modalities missing"
        return f"Batch({inputs}, target {tuple(self.target.shape)}{gaps})"

    def __len__(self) -> int:
        return len(self.target)

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.inputs)

    def has(self, modality: str) -> Tensor | None:
        """The mask of samples that have `modality`; None where all have it."""
        return None if self.present is None else self.present[modality]

    def __getitem__(self, index: Tensor | slice | tuple) -> Batch:
        """The samples at `index` (a slice or a tensor of indices), as a Batch."""
        return self._each(lambda tensor: tensor[index])

    def to(self, device: torch.device | str) -> Batch:
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """A Batch of what `change` makes of every tensor."""
        return Batch(
            {m: change(x) for m, x in self.inputs.items()},
            change(self.target),
            None if self.present is None else {m: change(x) for m, x in self.present.items()},
            None if self.index is None else change(self.index),
        )


def stack_batches(batches: Sequence[Batch]) -> Batch:
    """R batches of one size as one, with a leading axis R in every tensor; no copy of equal ones.

    Raises ValueError where sizes differ.
    """
    first, count = batches[0], len(batches)
    if all(batch is first for batch in batches):
        return first._each(lambda tensor: tensor.expand(count, *tensor.shape))
    return _joined(batches, torch.stack)


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Batches of one size one after the other; a single one is not copied.

    Raises ValueError where sizes differ.
    """
    return batches[0] if len(batches) == 1 else _joined(batches, torch.cat)


def _joined(batches: Sequence[Batch], join: Callable[[list[Tensor]], Tensor]) -> Batch:
    sizes = {len(batch) for batch in batches}
    if len(sizes) > 1:
        raise ValueError(
            f"splits of {sorted(sizes)} samples cannot be stacked; give every seed a data set of "
            "one size, or train the seeds one by one"
        )
    modalities = batches[0].modalities
    inputs = {m: join([batch.inputs[m] for batch in batches]) for m in modalities}
    present = None
    if any(batch.present is not None for batch in batches):
        filled = [
            _all_there(batch) if batch.present is None else batch.present for batch in batches
        ]
        present = {m: join([masks[m] for masks in filled]) for m in modalities}
    return Batch(inputs, join([batch.target for batch in batches]), present)


def _all_there(batch: Batch) -> dict[str, Tensor]:
    return dict.fromkeys(batch.modalities, torch.ones_like(batch.target, dtype=torch.bool))


@dataclass(eq=False, repr=False)
class MultimodalData:
    """Three splits of one data set. Only `train` trains, `holdout` chooses, `test` is read last.

    task:      "classification" (integer targets below n_classes) or "regression" (float targets).
    n_classes: number of classes; by default the largest label + 1. None for regression.
    units:     what one unit of each modality means, for axes and cards.
    card:      provenance, licence and limits, in plain text.

    Raises ValueError for an unknown task, a label out of range, targets of the wrong type, splits
    of unlike modalities, or a modality called "joint".
    """

    train: Batch
    holdout: Batch
    test: Batch
    task: str = "classification"
    n_classes: int | None = None
    name: str = "unnamed"
    units: Mapping[str, str] = field(default_factory=dict)
    card: str = ""

    def __post_init__(self) -> None:
        if self.task not in ("classification", "regression"):
            raise ValueError(f"task is {self.task!r}; it must be 'classification' or 'regression'")
        for name, split in self.splits.items():
            if not isinstance(split, Batch):
                raise TypeError(f"{name} is a {type(split).__name__}; give a Batch(inputs, target)")
        self._check_modalities()
        self._check_tensors()
        if self.task == "classification":
            self._check_labels()
        else:
            self._check_numbers()

    def __repr__(self) -> str:
        """One line; `describe` gives the card."""
        sizes = ", ".join(f"{name} {len(split)}" for name, split in self.splits.items())
        return f"MultimodalData({self.name}: {self.task}, {', '.join(self.modalities)}; {sizes})"

    def _check_modalities(self) -> None:
        if "joint" in self.modalities:
            raise ValueError(
                "a modality is called 'joint', which is the name of the joint output in losses and "
                "histories; rename it"
            )
        for name, split in self.splits.items():
            if split.modalities != self.modalities:
                raise ValueError(
                    f"{name} has the modalities {split.modalities}, train has {self.modalities}; "
                    "all splits need the same ones in the same order"
                )

    def _check_tensors(self) -> None:
        for name, split in self.splits.items():
            for m, values in split.inputs.items():
                if not values.is_floating_point():
                    raise ValueError(
                        f"modality {m!r} of {name} is {values.dtype}; networks take real numbers: "
                        "use .float()"
                    )
            if split.target.ndim != 1:
                raise ValueError(
                    f"the target of {name} has shape {tuple(split.target.shape)}; it must be "
                    f"({len(split)},): for one column use target.squeeze(1)"
                )

    def _check_numbers(self) -> None:
        for name, split in self.splits.items():
            if not split.target.is_floating_point():
                raise ValueError(
                    f"{name} has {split.target.dtype} targets; regression needs real numbers (use "
                    "target.float()), or set task='classification'"
                )

    def _check_labels(self) -> None:
        for name, split in self.splits.items():
            if split.target.is_floating_point():
                raise ValueError(
                    f"{name} has {split.target.dtype} targets; classification needs integer labels "
                    "(use target.long()), or set task='regression'"
                )
            if split.target.dtype not in (torch.int64, torch.uint8):
                raise ValueError(
                    f"{name} has {split.target.dtype} targets, which torch's cross-entropy does "
                    "not take; use target.long()"
                )
        if self.n_classes is None:
            self.n_classes = int(self.train.target.max()) + 1
        for name, split in self.splits.items():
            low, high = int(split.target.min()), int(split.target.max())
            if low < 0 or high >= self.n_classes:
                wrong, fix = (low, "") if low < 0 else (high, ", or raise n_classes")
                raise ValueError(
                    f"label {wrong} in {name} is out of range: with n_classes={self.n_classes} "
                    f"labels run from 0 to {self.n_classes - 1}; renumber them{fix}"
                )

    @property
    def splits(self) -> dict[str, Batch]:
        return {"train": self.train, "holdout": self.holdout, "test": self.test}

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.train.modalities

    @property
    def n_outputs(self) -> int:
        """Width of a head: the number of classes, or 1 for regression."""
        if self.task == "regression":
            return 1
        assert self.n_classes is not None  # the check of the labels counts the classes
        return self.n_classes

    def shape(self, modality: str) -> tuple[int, ...]:
        """Shape of one sample of `modality`."""
        return tuple(self.train[:1].inputs[modality].shape[1:])

    def to(self, device: torch.device | str) -> MultimodalData:
        """The same data with every split on `device`."""
        train, holdout, test = (split.to(device) for split in self.splits.values())
        return replace(self, train=train, holdout=holdout, test=test)

    def describe(self) -> str:
        """A card: task, modalities, split sizes, provenance."""
        kind = f"{self.n_classes} classes" if self.n_classes else "one real number"
        sizes = ", ".join(f"{name} {len(split)}" for name, split in self.splits.items())
        lines = [f"{self.name}: {self.task}, {kind}", f"samples: {sizes}"]
        for name in self.modalities:
            shape = " x ".join(map(str, self.shape(name))) or "scalar"
            unit = self.units.get(name)
            lines.append(f"modality {name}: {shape}" + (f", in {unit}" if unit else ""))
        return "\n".join([*lines, *([self.card] if self.card else [])])
