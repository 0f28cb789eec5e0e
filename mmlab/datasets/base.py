"""What a multimodal data set is: batches of named inputs, three splits, one target."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Integral
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, WeightedRandomSampler

from mmlab.checks import check_choice, check_flag, kind_of
from mmlab.datasets.dataloaders import instead_of
from mmlab.datasets.sampling import check_sampler
from mmlab.models.network import TASKS
from mmlab.nested import Nested, changed, joined, shapes, tensors


@runtime_checkable
class Split(Protocol):
    """A split of a data set: a `Batch` that is there as a whole, or a `Stream` that is read."""

    def __len__(self) -> int: ...

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities, in their fixed order."""

    def head(self, count: int) -> Batch:
        """The first `count` samples, or all where there are fewer."""

    def batches(self, size: int, order: Tensor | None = None, seed: int = 0) -> Iterator[Batch]:
        """Batches of `size` samples, the last one perhaps smaller: in order, or those of `order`.

        order: (N,) whole numbers, with repeats or without. A batch of it has them as its `index`.
        seed:  of what is drawn for samples that are made anew each time.
        """

    def checked(self, check: Callable[[Batch], Batch]) -> Self:
        """The split as `check` gives it, which sees every sample: now, or when it is read."""

    def unchecked(self) -> Self:
        """The split without the checks that a data set has left on it."""

    def to(self, device: torch.device | str) -> Self:
        """The split, whose batches are on `device`."""


@dataclass(repr=False)
class Batch:
    """Samples of every modality with their targets.

    inputs:  the values of each modality, in a fixed order: a tensor (B, ...), or a dict or a tuple
             of such tensors, as token ids and their attention mask. An encoder gets them as they
             are.
    target:  its type says the task (`Batch.task`): (B,) integers are class labels, (B, C) booleans
             are several labels per sample, (B,) or (B, K) floats are real numbers.
    present: None where every sample has every modality; else one bool tensor (B,) for every
             modality, False where the sample lacks it. Its input should be 0 there: nothing looks
             at it but the joint network.
    index:   None, or (B,) integers: which samples of their split these are. A training sets it.

    Where each frame of a sample has a class, the target is (B, T) integers, with −100 (torch's
    ignore_index) for frames that do not count, such as those of a padding.

    For a stack of R networks every tensor has a leading axis R (`stack_batches`), and len is R.

    Raises TypeError for what is no dict or no tensor, ValueError for no modality, no sample,
    unequal lengths, or masks that do not fit. Values are not looked at here: a training makes many
    batches.
    """

    inputs: dict[str, Any]
    target: Tensor
    present: dict[str, Tensor] | None = None
    index: Tensor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.inputs, Mapping):
            raise TypeError(
                f"inputs is {kind_of(self.inputs)}; give a dict with one tensor for each "
                "modality, such as {'audio': ..., 'image': ...}"
            )
        if not self.inputs:
            raise ValueError("a Batch needs at least one modality; got inputs={}")
        flat = {
            f"{m!r}{place}": x
            for m, value in self.inputs.items()
            for place, x in _parts(m, value).items()
        }
        for name, values in {**flat, "'target'": self.target}.items():
            _check_samples(name, values)
        size = len(self.target)
        if size == 0:
            raise ValueError("empty batch: target holds 0 samples; give at least one")
        for name, values in flat.items():
            if len(values) != size:
                lengths = ", ".join(f"{key}: {len(value)}" for key, value in flat.items())
                raise ValueError(
                    f"inputs of unequal length: {name} has {len(values)} samples, the target has "
                    f"{size} (inputs: {lengths}); every modality needs one row per sample. "
                    "For a sample that lacks a modality, fill in zeros and say so in `present`."
                )
        if self.present is not None:
            self._check_present(self.present)
        if self.index is not None and not self._is_one_per_sample(self.index):
            raise ValueError(
                f"index has shape {tuple(self.index.shape)}, and the target has "
                f"{tuple(self.target.shape)}; give one whole number per sample"
            )

    def _check_present(self, present: Mapping[str, Tensor]) -> None:
        if not isinstance(present, Mapping):
            raise TypeError(
                f"present is {kind_of(present)}; give a dict with one mask for each "
                "modality, or None where nothing is missing"
            )
        if set(present) != set(self.inputs):
            raise ValueError(
                f"present names {list(present)}, inputs name {list(self.inputs)}; "
                "give one mask for each modality, or present=None where nothing is missing"
            )
        for name, mask in present.items():
            if not isinstance(mask, Tensor):
                raise TypeError(
                    f"present[{name!r}] is {kind_of(mask)}; give a tensor of truth values: "
                    "use torch.as_tensor(..., dtype=torch.bool)"
                )
            if mask.dtype != torch.bool or not self._is_one_per_sample(mask):
                raise ValueError(
                    f"present[{name!r}] is {mask.dtype} of shape {tuple(mask.shape)}; "
                    f"it must be torch.bool of shape ({len(self)},)"
                    + ("" if mask.dtype == torch.bool else ": use .bool()")
                )

    def _is_one_per_sample(self, values: Tensor) -> bool:
        """Whether the shape is the target's; its last axis may be the labels of a sample."""
        shape, whole = values.shape, self.target.shape
        return shape == whole or (bool(shape) and shape == whole[:-1])

    def __repr__(self) -> str:
        """One line: shapes, not values."""
        inputs = ", ".join(f"{m} {shapes(value)}" for m, value in self.inputs.items())
        gaps = "" if self.present is None else ", some modalities missing"
        return f"Batch({inputs}, target {tuple(self.target.shape)}{gaps})"

    def __len__(self) -> int:
        return len(self.target)

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.inputs)

    @property
    def task(self) -> str:
        """What the type of its target asks for, one of `mmlab.models.TASKS`."""
        return task_of(self.target)

    def has(self, modality: str) -> Tensor | None:
        """The mask of samples that have `modality`; None where all have it."""
        return None if self.present is None else self.present[modality]

    def __getitem__(self, index: Tensor | slice | tuple) -> Batch:
        """The samples at `index` (a slice or a tensor of indices), as a Batch."""
        return self._each(lambda tensor: tensor[index])

    def head(self, count: int) -> Batch:
        """The first `count` samples, or all where there are fewer."""
        return self[:count]

    def batches(self, size: int, order: Tensor | None = None, seed: int = 0) -> Iterator[Batch]:
        """Batches of `size` samples, the last one perhaps smaller: in order, or those of `order`.

        order: (N,) whole numbers, with repeats or without. A batch of it has them as its `index`.
        seed:  nothing here: these samples are always the same.
        """
        for start in range(0, len(self if order is None else order), size):
            if order is None:
                yield self[start : start + size]
                continue
            chosen = order[start : start + size]
            batch = self[chosen]
            batch.index = chosen
            yield batch

    def checked(self, check: Callable[[Batch], Batch]) -> Batch:
        """The batch as `check` gives it."""
        return check(self)

    def unchecked(self) -> Batch:
        return self

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """A Batch of what `change` makes of every tensor."""
        return Batch(
            {m: changed(change, value) for m, value in self.inputs.items()},
            change(self.target),
            None if self.present is None else {m: change(x) for m, x in self.present.items()},
            None if self.index is None else change(self.index),
        )


Augment = Callable[[Batch], Batch] | Mapping[str, Callable[[Any], Any]]
"""Batch -> Batch; or for some modalities a function of their values (B, …)."""


def task_of(target: Tensor) -> str:
    """What the type of a target asks for: booleans for labels, whole numbers for a class, else."""
    if target.dtype == torch.bool:
        return "multilabel"
    return "regression" if target.is_floating_point() else "classification"


def in_memory(split: Split, who: str) -> Batch:
    """The split, for what needs all of it at once.

    Raises TypeError for one that is not in memory.
    """
    if not isinstance(split, Batch):
        raise TypeError(
            f"{who} needs a whole split in memory, a Batch, and got {kind_of(split)}; "
            "where it fits, split.head(len(split)) is one"
        )
    return split


def stack_batches(batches: Sequence[Batch]) -> Batch:
    """R batches of one size as one, with a leading axis R in every tensor; no copy of equal ones.

    Raises ValueError where sizes differ.
    """
    first, count = batches[0], len(batches)
    if all(batch is first for batch in batches):
        return first._each(lambda tensor: tensor.expand(count, *tensor.shape))
    return _joined(torch.stack, batches)


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Batches of one size one after the other; a single one is not copied.

    Raises ValueError where sizes differ.
    """
    return batches[0] if len(batches) == 1 else _joined(torch.cat, batches)


def _joined(join: Callable[[list[Tensor]], Tensor], batches: Sequence[Batch]) -> Batch:
    sizes = {len(batch) for batch in batches}
    if len(sizes) > 1:
        raise ValueError(
            f"splits of {sorted(sizes)} samples cannot be stacked; give every seed a data set of "
            "one size, or train the seeds one by one"
        )
    modalities = batches[0].modalities
    inputs = {m: joined(join, [batch.inputs[m] for batch in batches]) for m in modalities}
    present = None
    if any(batch.present is not None for batch in batches):
        filled = [
            _all_there(batch) if batch.present is None else batch.present for batch in batches
        ]
        present = {m: join([masks[m] for masks in filled]) for m in modalities}
    return Batch(inputs, join([batch.target for batch in batches]), present)


def _all_there(batch: Batch) -> dict[str, Tensor]:
    everywhere = torch.ones(len(batch), dtype=torch.bool, device=batch.target.device)
    return dict.fromkeys(batch.modalities, everywhere)


def _parts(m: str, value: Any) -> dict[str, Tensor]:
    """The tensors of a modality by their places, at least one."""
    if not isinstance(value, dict) and type(value) is not tuple:  # a PackedSequence is one, too
        return {"": value}
    found = tensors(value)
    if not found:
        raise ValueError(
            f"{m!r} is {value!r}; give a tensor, or a dict or a tuple of at least one tensor"
        )
    return found


def _check_samples(name: str, values: object) -> None:
    """A tensor with an axis for the samples."""
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} is {kind_of(values)}; a Batch holds torch tensors: {_fix(values)}")
    if not values.ndim:
        raise ValueError(
            f"{name} is a single number, tensor({values.item()}); its first axis must be "
            "the samples, also where there is only one: use .reshape(1)"
        )


def _fix(values: object) -> str:
    if isinstance(values, Mapping) or hasattr(values, "_fields"):
        return "where a modality has several, give a plain dict or tuple of them"
    if isinstance(values, list | tuple):
        lengths = {len(row) for row in values if isinstance(row, Sequence | Tensor)}
        if len(lengths) > 1:
            return "pad sequences of unlike length with mmlab.datasets.pad"
        if any(isinstance(row, Tensor) for row in values):
            return "use torch.stack(...)"
    return "use torch.as_tensor(...)"


IGNORED = -100
"""The label of a frame that does not count: the `ignore_index` of torch's losses."""

REAL = (torch.float32, torch.float64)
"""The types of real numbers that a data set holds."""

COUNTED = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
"""The other types of inputs: token ids, masks, lengths, pixels."""

IN_ZEROS = (
    "clean the data; where a sample lacks the modality, fill in zeros and say so in `present`"
)


def _check_name(name: object) -> None:
    """The name of a modality: torch's ModuleDict, which holds the encoders, says what it takes."""
    if name == "joint":
        raise ValueError(
            "a modality is called 'joint', which is the name of the joint output in losses and "
            "histories; rename it"
        )
    if not isinstance(name, str):
        raise TypeError(
            f"a modality is called {name!r}; names are text, such as 'audio': rename it"
        )
    try:
        nn.ModuleDict({name: nn.Identity()})
    except KeyError as error:
        raise ValueError(
            f"a modality is called {name!r}, and torch's ModuleDict, which holds the encoders, "
            f"does not take this name ({error.args[0]}); allowed is text without a dot that is no "
            "attribute of a ModuleDict, such as 'audio': rename it"
        ) from None


def _check_kind(where: str, values: Tensor) -> None:
    """Inputs are dense numbers of a type that layers take, and at least one per sample."""
    _check_plain(where, values)
    if values.is_floating_point() and values.dtype not in REAL:
        raise ValueError(
            f"{where} is {values.dtype}, and the networks' weights are not; use .float() (to "
            "compute in half precision all the same: fit(..., precision='bfloat16'))"
        )
    if values.dtype not in (*REAL, *COUNTED):
        raise ValueError(
            f"{where} is {values.dtype}, which torch's layers do not take; use .long()"
        )
    if not values[0].numel():
        raise ValueError(
            f"{where} has shape {tuple(values.shape)}, which holds no number for a sample; give at "
            "least one, or leave the modality out"
        )


def _check_augment(augment: object, modalities: Sequence[str]) -> None:
    """Refuse what cannot be called. Raises TypeError, or ValueError for an unknown modality."""
    if isinstance(augment, Mapping):
        for m, one in augment.items():
            check_choice("a name in augment", m, modalities)
            if not callable(one):
                raise TypeError(f"augment[{m!r}] is {one!r}; give a function of values (B, ...)")
    elif not callable(augment) or isinstance(augment, type):
        raise TypeError(
            f"augment is {augment!r}; give a function Batch -> Batch, or a dict with a function of "
            "the values (B, ...) for each modality that is changed"
        )


def _check_plain(where: str, values: Tensor) -> None:
    """No tensor of a special kind, which torch's layers and losses would refuse or misread."""
    if values.is_nested:
        raise ValueError(
            f"{where} is a nested tensor; use mmlab.datasets.pad(values.unbind()), which gives "
            "padded values and a mask"
        )
    if values.layout != torch.strided:
        raise ValueError(f"{where} is sparse ({values.layout}); use .to_dense()")
    if values.is_complex():
        raise ValueError(
            f"{where} is {values.dtype}; allowed are real numbers: use .abs(), or "
            "torch.view_as_real(...) for the real and the imaginary part"
        )
    if values.requires_grad:
        raise ValueError(f"{where} requires a gradient, and data are constants here; use .detach()")


def _check_finite(where: str, values: Tensor, fix: str) -> None:
    low, high = values.aminmax()  # one pass, no copy; a NaN anywhere is both
    if math.isfinite(low) and math.isfinite(high):
        return
    bad = ~values.isfinite().reshape(len(values), -1).all(1)
    row = int(bad.nonzero()[0])
    kind = "NaN" if values[row].isnan().any() else "infinite"
    raise ValueError(
        f"{where} is not finite in {int(bad.sum())} of {len(values)} rows, first in row {row}, "
        f"which is {kind}; {fix}"
    )


def _columns(value: Nested) -> list[Tensor]:
    """The tensors of a value, each with an axis beside that of the samples."""
    return [x[:, None] for x in tensors(value).values()]


def _is_counted(values: Tensor) -> bool:
    return not values.is_floating_point() and values.dtype != torch.bool


def _spelt(value: Nested) -> str:
    places = "" if isinstance(value, Tensor) else " of " + ", ".join(tensors(value))
    return type(value).__name__ + places


def _check_alike(where: str, values: Tensor, first: Tensor, *, widths: bool) -> None:
    """One network takes all splits.

    widths: of samples, too; batches that are padded one by one differ there.
    """
    if values.ndim != first.ndim or (widths and values.shape[1:] != first.shape[1:]):
        raise ValueError(
            f"{where} has samples of the shape {tuple(values.shape[1:])}, those of train have "
            f"{tuple(first.shape[1:])}; one network takes all splits: prepare them alike (pad "
            "sequences to one length: mmlab.datasets.pad(..., length=...))"
        )
    if values.dtype != first.dtype:
        real = values.dtype in REAL and first.dtype in REAL
        raise ValueError(
            f"{where} is {values.dtype}, train is {first.dtype}; one network takes all splits: "
            f"use {'.float()' if real else f'.to({first.dtype})'} for all of them"
        )


def _check_mask(where: str, mask: Tensor) -> None:
    if mask.ndim != 1:
        raise ValueError(
            f"{where} has shape {tuple(mask.shape)}; give one truth value per sample, "
            f"({len(mask)},)"
        )


def _to_one_class(target: Tensor) -> str:
    """How a target of another shape becomes one class per sample."""
    if target.ndim != 2 or target.shape[1] == 1:
        return "for one column use target.squeeze(1)"
    if ((target == 0) | (target == 1)).all():
        return (
            "labels from one-hot rows are target.argmax(1); where a sample has several labels, set "
            "task='multilabel'"
        )
    return "for a class per frame set frames=True (−100: does not count)"


def _counted(target: Tensor) -> Tensor:
    """The labels of frames that count."""
    return target[target != IGNORED]


def _check_zeros_and_ones(where: str, target: Tensor) -> None:
    other = (target != 0) & (target != 1)
    if other.any():
        row, column = (int(i) for i in other.nonzero()[0])
        raise ValueError(
            f"{where} has {target[row, column].item():g} in row {row}, column {column}; allowed "
            "are 1, where the sample has the label, and 0: leave out samples of which a label is "
            "not known"
        )


@dataclass(eq=False, repr=False)
class MultimodalData:
    """Three splits of one data set. Only `train` trains, `holdout` chooses, `test` is read last.

    A split is a `Batch`, which is in memory, or a `Stream`, which is read while it is used.

    task:      "classification": targets (B,), integers below n_classes; "multilabel": targets
               (B, C), 1 where a sample has the label and else 0, of any type of numbers (the data
               set holds them as booleans); "regression": targets (B,) or (B, K), real numbers.
    n_classes: number of classes, by default the largest label + 1 (of a Stream it must be given);
               for "multilabel" the number of labels, C. None for regression.
    units:     what one unit of each modality means, for axes and cards.
    card:      provenance, licence and limits, in plain text.
    frames:    whether each frame of a sample has a class: targets (B, T), −100 where a frame does
               not count. Losses, scores and methods take each frame that counts as a sample; a
               batch's loss is the mean over these. Encoders give (B, T, width).
    augment:   changes each training batch at random, and nothing that is measured: a function
               Batch -> Batch, or a dict with a function of the values (B, …) for each modality that
               is changed. It is called on the device, for all samples of a step at once, keeps
               nothing, and draws from the global generators of torch, NumPy or `random`, which are
               seeded for each epoch and batch.
    sampler:   torch's WeightedRandomSampler draws the samples of each epoch, by the seed of the
               training. For balanced classes: its weights are 1 / target.bincount()[target].

    Every value is looked at once: a score of NaN would count as one class, or spoil a mean. Of a
    Batch that happens here, of a Stream when it is read.

    Raises ValueError for values that are not finite (also where a sample lacks the modality),
    inputs or targets of the wrong type, a label out of range, splits of unlike modalities, forms,
    widths or types, an unknown task, or a modality whose name is taken ("joint", and what torch's
    ModuleDict refuses). TypeError for what is no split, or a name that is no text. Warns of
    a modality that no training sample has.
    """

    train: Split
    holdout: Split
    test: Split
    task: str = "classification"
    n_classes: int | None = None
    name: str = "unnamed"
    units: Mapping[str, str] = field(default_factory=dict)
    card: str = ""
    frames: bool = False
    augment: Augment | None = None
    sampler: WeightedRandomSampler | None = None

    def __post_init__(self) -> None:
        check_choice("task", self.task, TASKS)
        check_flag("frames", self.frames)
        if self.frames and self.task != "classification":
            raise ValueError(
                f"frames=True is for task='classification', and the task is {self.task!r}; leave "
                "frames out: numbers (B, K) are K outputs per sample"
            )
        for name, split in self.splits.items():
            if isinstance(split, DataLoader):
                raise TypeError(
                    f"{name} is a DataLoader, and mmlab makes the loader itself, in an order of "
                    f"its own for each epoch; {instead_of(split)}"
                )
            if not isinstance(split, Split):
                raise TypeError(
                    f"{name} is {kind_of(split)}; give a Batch(inputs, target), or for "
                    "data that do not fit into the memory a Stream(dataset)"
                )
        self.train, self.holdout, self.test = (x.unchecked() for x in self.splits.values())
        self._check_modalities()
        if self.augment is not None:
            _check_augment(self.augment, self.modalities)
        if self.sampler is not None:
            check_sampler(self.sampler, len(self.train))
        self._check_splits(self._check_values)
        if self.task == "classification":
            self._check_labels()
        elif self.task == "multilabel":
            self._hold_labels_as_booleans()
        elif self.n_classes is not None:
            raise ValueError(
                f"n_classes is {self.n_classes!r} in a regression, which has no classes; leave it "
                "out, or set task='classification'"
            )
        self._warn_of_absent_modalities()
        self._warn_of_unlike_masks()

    @property
    def _like(self) -> Batch:
        """Training samples, which all others are like."""
        return self.train if isinstance(self.train, Batch) else self.train.head(2)

    def _check_splits(self, check: Callable[[str, Batch], Batch]) -> None:
        self.train = self.train.checked(partial(check, "train"))
        self.holdout = self.holdout.checked(partial(check, "holdout"))
        self.test = self.test.checked(partial(check, "test"))

    def _check_values(self, name: str, batch: Batch) -> Batch:
        first = self._like
        held = first is self.train and isinstance(self.splits[name], Batch)
        for m, value in batch.inputs.items():
            self._check_parts(name, m, value, first.inputs[m])
            for place, values in tensors(value).items():
                where = f"modality {m!r}{place} of {name}"
                _check_kind(where, values)
                _check_alike(where, values, tensors(first.inputs[m])[place], widths=held)
                if values.is_floating_point():
                    _check_finite(where, values, IN_ZEROS)
        for m, mask in (batch.present or {}).items():
            _check_mask(f"present[{m!r}] of {name}", mask)
        self._check_target(name, batch.target)
        return batch

    def __repr__(self) -> str:
        """One line; `describe` gives the card."""
        sizes = ", ".join(f"{name} {len(split)}" for name, split in self.splits.items())
        return f"MultimodalData({self.name}: {self.task}, {', '.join(self.modalities)}; {sizes})"

    def _check_modalities(self) -> None:
        for m in self.modalities:
            _check_name(m)
        for name, split in self.splits.items():
            if split.modalities != self.modalities:
                raise ValueError(
                    f"{name} has the modalities {split.modalities}, train has {self.modalities}; "
                    "all splits need the same ones in the same order"
                )
        unknown = [m for m in self.units if m not in self.modalities]
        if unknown:
            raise ValueError(
                f"units names {unknown[0]!r}, which is no modality; allowed are "
                f"{', '.join(map(repr, self.modalities))}"
            )

    def _check_parts(self, name: str, m: str, value: Nested, first: Nested) -> None:
        """One network takes all splits: the same kind, and the same parts in the same order."""
        if type(value) is not type(first) or list(tensors(value)) != list(tensors(first)):
            raise ValueError(
                f"modality {m!r} of {name} is a {_spelt(value)}, that of train a {_spelt(first)}; "
                "one network takes all splits: give each the same parts in the same order"
            )

    def _check_target(self, name: str, target: Tensor) -> None:
        where = f"the target of {name}"
        self._check_target_shape(where, target)
        _check_plain(where, target)
        if self.task == "multilabel":
            _check_zeros_and_ones(where, target)
        elif self.task == "regression":
            if target.dtype not in REAL:
                raise ValueError(
                    f"{name} has {target.dtype} targets; regression needs real numbers (use "
                    "target.float()), or set task='classification'"
                )
            _check_finite(where, target, "leave these samples out")
        elif target.is_floating_point():
            raise ValueError(
                f"{name} has {target.dtype} targets; classification needs integer labels "
                "(use target.long()), or set task='regression'"
            )
        elif target.dtype not in (torch.int64, torch.uint8):
            raise ValueError(
                f"{name} has {target.dtype} targets, which torch's cross-entropy does "
                "not take; use target.long()"
            )

    def _check_target_shape(self, where: str, target: Tensor) -> None:
        shape, rows = tuple(target.shape), len(target)
        if self.frames:
            return self._check_frames(where, target)
        if self.task == "classification" and target.ndim != 1:
            raise ValueError(
                f"{where} has shape {shape}; it must be ({rows},): {_to_one_class(target)}"
            )
        if self.task == "multilabel" and (target.ndim != 2 or shape[1] < 2):
            raise ValueError(
                f"{where} has shape {shape}; several labels per sample are ({rows}, C) with C > 1, "
                "1 where the sample has the label and else 0; one label is a class of two: "
                "set task='classification'"
            )
        if self.task == "regression" and target.ndim != 1 and (target.ndim != 2 or shape[1] < 2):
            raise ValueError(
                f"{where} has shape {shape}; it must be ({rows},), or ({rows}, K) for K > 1 "
                "numbers per sample: for one column use target.squeeze(1)"
            )
        if shape[1:] != self._like.target.shape[1:]:
            raise ValueError(
                f"{where} has {shape[1:]} numbers per sample, that of train has "
                f"{tuple(self._like.target.shape[1:])}; give all splits as many"
            )

    def _check_frames(self, where: str, target: Tensor) -> None:
        if target.ndim != 2:
            raise ValueError(
                f"{where} has shape {tuple(target.shape)}; with frames=True it must be "
                f"({len(target)}, T): a class for each frame of a sample, −100 where it does not "
                "count"
            )
        none = (target == IGNORED).all(1)
        if none.any():
            raise ValueError(
                f"{where} has no frame that counts in {int(none.sum())} of {len(target)} samples, "
                f"first in sample {int(none.nonzero()[0])}; leave these samples out"
            )

    def _hold_labels_as_booleans(self) -> None:
        """So that their type says the task, in a batch too."""
        labels = self._like.target.shape[1]
        if self.n_classes not in (None, labels):
            raise ValueError(
                f"n_classes is {self.n_classes!r}, and the targets have {labels} columns, one per "
                "label; leave n_classes out"
            )
        self.n_classes = labels
        self._check_splits(self._booleans)

    def _booleans(self, name: str, batch: Batch) -> Batch:
        held = batch.task == "multilabel"
        return batch if held else replace(batch, target=batch.target.bool())

    def _check_labels(self) -> None:
        if self.n_classes is None:
            if not isinstance(self.train, Batch):
                raise ValueError(
                    "n_classes is None, and the labels of a Stream are not known before they are "
                    "read; give n_classes=..."
                )
            self.n_classes = int(self.train.target.max()) + 1
            if self.n_classes == 1:
                warnings.warn(
                    "all labels of train are 0, so there is one class, every loss is 0 and nothing "
                    "is learnt; give n_classes=... if there are more classes",
                    stacklevel=4,
                )
        whole = isinstance(self.n_classes, Integral) and not isinstance(self.n_classes, bool)
        if not whole or self.n_classes < 1:
            raise ValueError(
                f"n_classes is {self.n_classes!r}; it must be a whole number of at least 1, or "
                "None for the largest label + 1"
            )
        self._check_splits(self._check_range)
        held = [split for split in self.splits.values() if isinstance(split, Batch)]
        least = min((int(_counted(split.target).min()) for split in held), default=0)
        if least > 0 and len(held) == len(self.splits):
            warnings.warn(
                f"the smallest label is {least}, so there are {least} classes without a sample; "
                f"labels count from 0: use target - {least}",
                stacklevel=4,
            )

    def _check_range(self, name: str, batch: Batch) -> Batch:
        target = _counted(batch.target) if self.frames else batch.target
        low, high = (int(end) for end in target.aminmax())
        if low < 0 or high >= self.n_outputs:
            wrong = low if low < 0 else high
            without = f"give frames without a label {IGNORED}"
            fix = without if self.frames else "leave out samples without a label"
            fix = f"{fix}, or " if low < 0 else ""
            more = "" if low < 0 else ", or raise n_classes"
            raise ValueError(
                f"label {wrong} in {name} is out of range: with n_classes={self.n_classes} "
                f"labels run from 0 to {self.n_outputs - 1}; {fix}renumber them{more}"
            )
        return batch

    def _warn_of_unlike_masks(self) -> None:
        """Absent inputs that are not 0 reach the joint network; or the mask is inverted."""
        for name, split in self.splits.items():
            batch = split if isinstance(split, Batch) else split.head(2)
            for m, mask in (batch.present or {}).items():
                absent = [x[~mask].ne(0).flatten(1) for x in _columns(batch.inputs[m])]
                lacking = int(torch.cat(absent, dim=1).any(1).sum())
                if lacking:
                    warnings.warn(
                        f"present[{m!r}] of {name} is False where inputs are not 0, at {lacking} "
                        "samples; set these inputs to 0, or use ~mask: True means that a sample "
                        "has the modality",
                        stacklevel=4,
                    )

    def _warn_of_absent_modalities(self) -> None:
        present = self.train.present if isinstance(self.train, Batch) else None
        for m, mask in (present or {}).items():
            if not mask.any():
                warnings.warn(
                    f"no sample of train has modality {m!r}, so its encoder and head learn "
                    "nothing; if you do not want this, remove it from the inputs",
                    stacklevel=4,  # the caller of MultimodalData(...)
                )

    @property
    def splits(self) -> dict[str, Split]:
        return {"train": self.train, "holdout": self.holdout, "test": self.test}

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.train.modalities

    @property
    def epoch_size(self) -> int:
        """Samples of a training epoch."""
        return len(self.train) if self.sampler is None else self.sampler.num_samples

    @property
    def n_outputs(self) -> int:
        """Width of a head: the number of classes, of labels, or of real numbers."""
        if self.task == "regression":
            return self.train.head(1).target.numel()
        assert self.n_classes is not None  # the check of the labels counts the classes
        return self.n_classes

    def shape(self, modality: str) -> Any:
        """Shape of one sample of `modality`; for a dict or a tuple the shapes in it."""
        return shapes(self.train.head(1).inputs[modality], skip=1)

    def extremes(self, modality: str) -> list[Batch]:
        """Of each split in memory, the samples with the smallest and the largest whole numbers.

        What looks the numbers of `modality` up, as an embedding does, fails at these if at any.
        """
        found = []
        for split in self.splits.values():
            if not isinstance(split, Batch):
                continue
            counted = [x.flatten(1) for x in _columns(split.inputs[modality]) if _is_counted(x)]
            ends = [(x.amin(1).argmin(), x.amax(1).argmax()) for x in counted]
            if ends:
                found.append(split[torch.stack([row for pair in ends for row in pair])])
        return found

    def to(self, device: torch.device | str) -> MultimodalData:
        """The same data with every split on `device`."""
        moved = copy.copy(self)  # not made anew: its values have been looked at
        moved.train, moved.holdout, moved.test = (x.to(device) for x in self.splits.values())
        return moved

    def describe(self) -> str:
        """A card: task, modalities, split sizes, provenance."""
        count = self.n_outputs
        kind = {
            "classification": f"{count} classes" + (" of each frame" if self.frames else ""),
            "multilabel": f"{count} labels, of which a sample may have several",
            "regression": "one real number" if count == 1 else f"{count} real numbers",
        }[self.task]
        sizes = ", ".join(f"{name} {len(split)}" for name, split in self.splits.items())
        lines = [f"{self.name}: {self.task}, {kind}", f"samples: {sizes}"]
        for name in self.modalities:
            parts = tensors(self.train.head(1).inputs[name]).items()
            shape = ", ".join(f"{place} {_sized(x)}".strip() for place, x in parts)
            unit = self.units.get(name)
            lines.append(f"modality {name}: {shape}" + (f", in {unit}" if unit else ""))
        return "\n".join([*lines, *([self.card] if self.card else [])])


def _sized(values: Tensor) -> str:
    return " x ".join(map(str, values.shape[1:])) or "scalar"
