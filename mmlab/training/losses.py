"""The losses of one forward pass, joint and unimodal, each computed when it is first read."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmlab.checks import kind_of
from mmlab.datasets.base import Batch, task_of
from mmlab.models.network import LazyLogits, Output
from mmlab.training.passes import Reading

Loss = Callable[..., Tensor]
"""loss(prediction, target) -> one number for these samples, such as a mean, weighted or not.

For a modality that samples lack it is given those alone that have it: loss(z[mask], y[mask]).
"""

PLAIN_MEANS = (
    *(F.cross_entropy, F.l1_loss, F.mse_loss, F.smooth_l1_loss),
    F.binary_cross_entropy_with_logits,
)
"""Losses known to be plain means over samples, which may be averaged in any grouping.

A mask is then a product. For other losses the samples must be picked, and a GPU waited for.
"""

FEW = 4
"""Losses of one network that are cheaper one by one than stacked."""


class Losses(Mapping[str, Tensor]):
    """The joint loss and the unimodal ones, each computed when it is first read.

    A scalar each, the mean over the samples that have the modality; (R,) in a stack of R networks.

    out: what the network gave for the samples: joint logits, unimodal logits and features.
    batch: the samples, of which targets and masks are read.
    loss: loss(prediction, target) -> one number.
    lead: how many axes lead that of the samples: 1 in a stack, else 0.
    graph: whether they may be differentiated.
    """

    def __init__(
        self,
        out: Output,
        batch: Batch | Reading,
        loss: Loss,
        *,
        lead: int = 0,
        graph: bool = True,
    ) -> None:
        self.out, self.batch, self.loss, self.lead = out, batch, loss, lead
        self.graph = graph
        self.computed: dict[str, Tensor] = {}
        self._stacks: list[Tensor] = []

    def __getitem__(self, key: str) -> Tensor:
        if key not in self.computed:
            with contextlib.nullcontext() if self.graph else torch.no_grad():
                self.computed[key] = self._mean(self.logits(key), self._mask(key))
        return self.computed[key]

    def logits(self, key: str) -> Tensor:
        """What the loss `key` is of, (…, B, C). Raises KeyError where there is no such loss."""
        if key not in self:
            raise KeyError(f"no loss {key!r}; allowed are {', '.join(map(repr, self))}")
        self._check_logits(key)
        return self.out.joint if key == "joint" else self.out.unimodal[key]

    def stack(self, *keys: str) -> Tensor:
        """The losses named, by default all, in the last axis: (K,), or (R, K) in a stack.

        Worth it where several are wanted: one call of the loss for all of them, and one of a shared
        head for all modalities.
        """
        keys = keys or tuple(self)
        unimodal = self.out.unimodal
        if isinstance(unimodal, LazyLogits) and set(self.out.features) <= set(keys):
            unimodal.together()  # one call of a shared head
        known = any(key in self.computed or key not in self for key in keys)
        few = len(keys) <= FEW and self.batch.present is None and not self.lead
        if known or few or not self._is_plain_mean():
            losses = torch.stack([self[key] for key in keys], dim=-1)
            self._stacks.append(losses)
            return losses
        with contextlib.nullcontext() if self.graph else torch.no_grad():
            logits = [self.logits(key) for key in keys]
            losses = self._mean(torch.stack(logits, dim=-3), self._masks(keys))
        self.computed |= dict(zip(keys, losses.unbind(-1), strict=True))
        self._stacks.append(losses)
        return losses

    def knows(self, loss: Tensor) -> bool:
        """Whether it is one of these losses, a stack, or a part of it: the history has it then."""
        whole = loss._base if loss._is_view() else loss
        return any(x is loss or x is whole for x in (*self.computed.values(), *self._stacks))

    def of(self, name: str, logits: Tensor) -> Tensor:
        """The mean loss of other logits (…, B, C), such as those of a second pass of the fusion.

        The history records it as the training loss of the output `name`.

        Raises ValueError for a name that is taken.
        """
        if name in self or name in self.computed:
            raise ValueError(
                f"{name!r} is the name of another loss of this step; taken are "
                f"{', '.join(map(repr, dict.fromkeys((*self, *self.computed))))}"
            )
        self.computed[name] = self._mean(logits, None)
        return self.computed[name]

    def samples(self, logits: Tensor) -> Tensor:
        """The loss of every sample on its own, (…, B), of logits (…, B, C); it is not recorded.

        Raises ValueError for a loss that does not say what each sample's part is, as those of torch
        do by reduction="none".
        """
        return self._each(logits)

    def recorded(self) -> dict[tuple[str, str], tuple[Tensor, Tensor | None]]:
        """("loss", output) -> the loss, and whether any sample had the modality (None: all had)."""
        found = {}
        for key, value in self.computed.items():
            mask = self._mask(key) if key in self else None
            found["loss", key] = value.detach(), None if mask is None else mask.any(-1)
        return found

    def __contains__(self, key: object) -> bool:
        return self.out.fuses if key == "joint" else key in self.out.features

    def __iter__(self) -> Iterator[str]:
        return iter((*(("joint",) if self.out.fuses else ()), *self.out.features))

    def __len__(self) -> int:
        return self.out.fuses + len(self.out.features)

    def _check_logits(self, key: str) -> None:
        if key != "joint" and key not in list(self.out.unimodal):  # `in` itself would compute them
            raise KeyError(
                f"no loss {key!r}: the network's Output has no logits for it; give them in its "
                "forward, such as unimodal={m: self.head(m)(x) for m, x in features.items()}"
            )

    def _is_plain_mean(self) -> bool:
        return self.loss in PLAIN_MEANS

    def _mask(self, key: str) -> Tensor | None:
        return None if key == "joint" else self.batch.has(key)

    def _masks(self, keys: Sequence[str]) -> Tensor | None:
        """(…, K, B), or None where all samples have everything."""
        if self.batch.present is None:
            return None
        everywhere = torch.ones_like(next(iter(self.batch.present.values())))
        found = [self._mask(key) for key in keys]
        return torch.stack([everywhere if mask is None else mask for mask in found], dim=-2)

    def _mean(self, logits: Tensor, mask: Tensor | None) -> Tensor:
        """Mean loss over the samples, (...), of logits (..., B, C); mask (..., B): who counts."""
        if not self._is_plain_mean():
            return self._picked(logits, self.batch.target, mask)
        if mask is None and logits.ndim == 2:
            return self._called(logits, self.batch.target)
        losses = self._each(logits)
        if mask is None:
            return losses.mean(-1)
        return torch.where(mask, losses, 0).sum(-1) / mask.sum(-1).clamp(min=1)

    def _picked(self, logits: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of the samples that count; for the networks of a stack one after the other."""
        if logits.ndim > 2:
            masks = [None] * len(logits) if mask is None else mask
            triples = zip(logits, target, masks, strict=True)
            return torch.stack([self._picked(*triple) for triple in triples])
        if mask is not None:
            logits, target = logits[mask], target[mask]
        return self._called(logits, target) if len(logits) else logits.sum()  # none: 0

    def _called(self, logits: Tensor, target: Tensor) -> Tensor:
        prediction, target = as_arguments(logits, target)
        try:
            loss = self.loss(prediction, target)
        except Exception as error:
            error.add_note(
                f"in the loss, which was called with a prediction {tuple(prediction.shape)} of "
                f"{prediction.dtype} and a target {tuple(target.shape)} of {target.dtype}"
            )
            raise
        if not isinstance(loss, Tensor) or loss.ndim:
            shape = f" of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else ""
            raise ValueError(
                f"the loss of {len(logits)} samples is {kind_of(loss)}{shape}; "
                "loss(prediction, target) must give one number as a tensor of shape (), such as "
                "their mean (reduction='mean')"
            )
        return loss

    def _each(self, logits: Tensor) -> Tensor:
        """The loss of every sample, (..., B)."""
        target, samples = self.batch.target, logits.shape[:-1]
        own = target.shape[self.lead + 1 :]  # (), or the labels or numbers of a sample
        several = len(samples) - self.lead - 1  # axes of outputs, which stand before the samples
        target = target[(slice(None),) * self.lead + (None,) * several]
        rows = target.expand(*samples, *own).reshape(-1, *own)
        plain = self._is_plain_mean()
        single = functools.partial(self.loss, reduction="none") if plain else by_sample(self.loss)
        losses = single(*as_arguments(logits.flatten(0, -2), rows))
        losses = losses.flatten(1).mean(1) if losses.ndim > 1 else losses
        if losses.shape != rows.shape[:1]:
            raise ValueError(
                f"reduction='none' gives a loss of shape {tuple(losses.shape)} for {len(rows)} "
                "samples; it must give one number per sample"
            )
        return losses.view(samples)


def read_losses(found: Reading, loss: Loss, lead: int = 0) -> Losses:
    """The losses of a whole split, of logits that were read under the names of their outputs.

    lead: as for `Losses`.
    """
    unimodal = {key: logits for key, logits in found.values.items() if key != "joint"}
    # in place of features: nothing but their names is asked for
    out = Output(unimodal, found.values.get("joint"), unimodal)
    return Losses(out, found, loss, lead=lead, graph=False)


def by_sample(loss: Loss) -> Loss:
    """The same loss, of every sample on its own.

    Raises ValueError for one that cannot be told so by `reduction`.
    """
    if isinstance(loss, nn.Module) and hasattr(loss, "reduction"):
        single: Any = copy.copy(loss)
        single.reduction = "none"
        return single
    if "reduction" not in inspect.signature(loss).parameters:
        raise ValueError(
            f"{getattr(loss, '__name__', type(loss).__name__)} has no argument `reduction`, so the "
            "loss of one sample is not known; give loss(prediction, target, reduction='mean') that "
            "also takes 'none'"
        )
    return functools.partial(loss, reduction="none")


DEFAULTS: dict[str, Loss] = {
    "classification": F.cross_entropy,
    "multilabel": F.binary_cross_entropy_with_logits,
    "regression": F.l1_loss,
}
"""Cross-entropy for a class, the mean of one per label, and the mean absolute error."""


def default_loss(target: Tensor) -> Loss:
    """The loss that fits the type of a target."""
    return DEFAULTS[task_of(target)]


def as_arguments(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Prediction and target in the form that torch's losses take.

    Logits become (B,) for real targets (B,), else they are unchanged; booleans become the logits'
    type.
    """
    if target.dtype == torch.bool:
        return logits, target.to(logits.dtype)
    if target.is_floating_point() and logits.ndim == target.ndim + 1:
        return logits.squeeze(-1), target
    return logits, target
