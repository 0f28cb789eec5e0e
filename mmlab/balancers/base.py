"""What a balancer is: a generator of updates. It fills the gradients, then yields.

The training loop steps the optimiser at each `yield`. Code after a `yield` sees the updated
parameters. `Step` is what a balancer works on: one batch, its losses and its gradients.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from mmlab import gradients
from mmlab.datasets.base import Batch
from mmlab.models.network import MultimodalNet, Output

if TYPE_CHECKING:
    from mmlab.training import Run

Loss = Callable[..., Tensor]
"""loss(prediction, target, reduction="mean" | "none"), as in torch.nn.functional.

Where modalities are missing the mean is taken over the samples that have the modality, so the loss
must be a plain mean over samples: weights a class would change their meaning there.
"""


class Balancer:
    """Plain joint training, and the base of every method: override what differs.

    heads, fusion: the network the paper assumes; `MultimodalNet.build(data, **balancer.network)`.
    """

    heads = "own"
    fusion = "concat"

    @property
    def network(self) -> dict[str, str]:
        """Keyword arguments for `MultimodalNet.build`."""
        return {"heads": self.heads, "fusion": self.fusion}

    @property
    def name(self) -> str:
        return type(self).__name__

    def start(self, run: Run) -> None:
        """Called once, before the first epoch."""

    def epoch(self, run: Run) -> None:
        """Called before each epoch."""

    def step(self, s: Step) -> Iterator[None]:
        """Fill the gradients of one batch, then yield; at each yield the optimiser steps."""
        s.backward(s.losses["joint"])
        yield

    def fuse(self, out: Output, present: Mapping[str, Tensor] | None = None) -> Tensor:
        """The prediction at test time, (B, C); present: masks (B,) of the samples' modalities."""
        return out.joint


class Step:
    """One batch in front of a balancer.

    model, batch, optimizer: what is trained, on what, by what.
    epoch:    counts from 0.
    progress: part of the training that is over, 0 to 1.
    loss:     loss(prediction, target, reduction=...); by default cross-entropy for integer targets
              and the mean absolute error for real ones.
    noise:    generator of the noise that a method adds; by default torch's global one.

    A step can be driven by hand: `next(balancer.step(Step(net, batch, optimizer)))` leaves the
    gradients in `.grad`.
    """

    def __init__(
        self,
        model: MultimodalNet,
        batch: Batch,
        optimizer: torch.optim.Optimizer | None = None,
        epoch: int = 0,
        progress: float = 0.0,
        loss: Loss | None = None,
        noise: torch.Generator | None = None,
    ) -> None:
        self.model, self.batch, self.optimizer = model, batch, optimizer
        self.epoch, self.progress = epoch, progress
        self.noise = noise
        self.loss = loss or default_loss(batch.target)
        if optimizer in _waiting:
            _waiting[optimizer].clear()  # what a step that was never taken had asked for
        self.logged: dict[str, object] = {}

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.model.modalities

    @cached_property
    def out(self) -> Output:
        """The forward pass, made on first use."""
        self._random_state = _random_state(self.batch.target.device)
        return self.model(self.batch.inputs)

    @cached_property
    def losses(self) -> Losses:
        """losses["joint"] or losses[m]: the mean over the samples that have the modality."""
        return Losses(self.out, self.batch, self.loss)

    @torch.no_grad()
    def again(self) -> Losses:
        """The losses of the current parameters on the same batch.

        No graph. Dropout draws the same masks as in `out`, and normalisation statistics and other
        buffers are left as they were: a difference to `losses` is due to the parameters alone.
        """
        _ = self.out
        # The pass writes its statistics into copies: to restore the buffers in place would spoil
        # the graph of `out` for a later backward.
        copies = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        with _replayed(self._random_state, self.batch.target.device):
            out = functional_call(self.model, copies, (self.batch.inputs,))
        return Losses(out, self.batch, self.loss, graph=False)

    def backward(self, loss: Tensor, *, encoders: bool = True) -> None:
        """Add the gradient of `loss` to `.grad` of every parameter it depends on.

        encoders=False stops at the features: the fusion and the heads learn, the encoders do not.
        """
        if encoders:
            loss.backward(retain_graph=True)
        else:
            self._accumulate(loss, [])

    def encoder_grads(self, loss: Tensor) -> dict[str, list[Tensor]]:
        """`backward`, with the encoders' gradients handed over, not added to `.grad`.

        One run of the engine, one backward pass through every encoder: {m: one tensor a parameter}.
        The fusion and the heads get their gradients in `.grad` as from `backward`.
        """
        parameters = {m: self.parameters(m) for m in self.modalities}
        grads = iter(self._accumulate(loss, [p for own in parameters.values() for p in own]))
        return {m: [next(grads) for _ in own] for m, own in parameters.items()}

    def _accumulate(self, loss: Tensor, wanted: list[nn.Parameter]) -> list[Tensor]:
        """Gradients of `wanted`; those of all parameters outside the encoders go into `.grad`."""
        encoders = set(self.model.encoders.parameters())
        others = [p for p in self.model.parameters() if p.requires_grad and p not in encoders]
        if not wanted + others:
            return []
        grads = torch.autograd.grad(loss, wanted + others, retain_graph=True, allow_unused=True)
        for parameter, grad in zip(others, grads[len(wanted) :], strict=True):
            if grad is not None:
                parameter.grad = grad if parameter.grad is None else parameter.grad + grad
        found = zip(wanted, grads[: len(wanted)], strict=True)
        return [torch.zeros_like(p) if grad is None else grad for p, grad in found]

    def parameters(self, m: str) -> list[nn.Parameter]:
        """The trainable parameters of encoder `m`. Raises KeyError for an unknown modality."""
        if m not in self.model.encoders:
            raise KeyError(f"unknown modality {m!r}; this model has {list(self.model.encoders)}")
        return [p for p in self.model.encoders[m].parameters() if p.requires_grad]

    def grad(self, loss: Tensor, m: str) -> list[Tensor]:
        """The gradient of `loss` for encoder `m`, one tensor a parameter; leaves `.grad` alone.

        Parameters that `loss` does not depend on get zeros; a frozen encoder gives an empty list.
        """
        parameters = self.parameters(m)
        if not parameters:
            return []
        return list(
            torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
        )

    def gradient(self, m: str) -> list[Tensor]:
        """What stands in `.grad` for encoder `m`; zeros where nothing does."""
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters(m)]

    def set_grad(self, m: str, grads: Sequence[Tensor]) -> None:
        """Replace the gradient of encoder `m`. Raises ValueError where the shapes do not fit."""
        parameters = self.parameters(m)
        expected = [tuple(p.shape) for p in parameters]
        given = [tuple(g.shape) for g in grads]
        if given != expected:
            raise ValueError(
                f"gradient for encoder {m!r} has shapes {given}; its parameters have {expected}"
            )
        for parameter, value in zip(parameters, grads, strict=True):
            parameter.grad = value.detach()

    def scale_grad(self, m: str, k: float | Tensor | Sequence[Tensor]) -> None:
        """Multiply the gradient of encoder `m` by k; or by one k for each of its parameters.

        An adaptive optimiser such as Adam divides a constant factor out again: `scale_update`.
        """
        grads = [p.grad for p in self.parameters(m)]
        known = [i for i, grad in enumerate(grads) if grad is not None]
        if known:
            factors = k if isinstance(k, float | int | Tensor) else [k[i] for i in known]
            torch._foreach_mul_([grads[i] for i in known], factors)

    def add_noise(self, m: str, std: Sequence[Tensor | float]) -> None:
        """Add normal noise to the gradient of encoder `m`; std: one for each of its parameters.

        A parameter without a gradient gets none.
        """
        grads = [p.grad for p in self.parameters(m)]
        known = [i for i, grad in enumerate(grads) if grad is not None]
        if known:
            kept = [grads[i] for i in known]
            noise = gradients.noise_like(kept, [std[i] for i in known], self.noise)
            torch._foreach_add_(kept, noise)

    def scale_update(self, m: str, k: float | Tensor) -> None:
        """Multiply encoder m's next *update* by k: exact under any optimiser.

        The parameters are kept, and after the optimiser's next step moved to
        before + k (after - before). Call it before the `yield`. Raises ValueError where the step
        has no optimiser.
        """
        if self.optimizer is None:
            raise ValueError("scale_update needs the optimiser: Step(model, batch, optimizer)")
        parameters = self.parameters(m)
        if not parameters:
            return  # a frozen encoder
        before = [p.detach().clone() for p in parameters]

        @torch.no_grad()
        def rescale() -> None:
            after = [p.detach() for p in parameters]
            moved = torch._foreach_mul(torch._foreach_sub(after, before), k)
            torch._foreach_copy_(after, torch._foreach_add(before, moved))

        _after_next_step(self.optimizer, rescale)

    def log(self, **values: float | Tensor | Mapping[str, float | Tensor]) -> None:
        """Record values of this step: a scalar, or one scalar a modality.

        Tensors stay on the device until the epoch ends, so logging does not wait for it.
        """
        for name, value in values.items():
            parts = value if isinstance(value, Mapping) else {"": value}
            for output, part in parts.items():
                self.logged[name, output] = part.detach() if isinstance(part, Tensor) else part


class Losses(Mapping[str, Tensor]):
    """The joint loss and the unimodal ones, each computed when it is first read."""

    def __init__(self, out: Output, batch: Batch, loss: Loss, *, graph: bool = True) -> None:
        self.out, self.batch, self.loss = out, batch, loss
        self.graph = graph
        self.computed: dict[str, Tensor] = {}

    def __getitem__(self, key: str) -> Tensor:
        if key not in self.computed:
            if key not in self:
                raise KeyError(f"no loss {key!r}; allowed are {', '.join(map(repr, self))}")
            with contextlib.nullcontext() if self.graph else torch.no_grad():
                self.computed[key] = self._compute(key)
        return self.computed[key]

    def __contains__(self, key: object) -> bool:
        return key == "joint" or key in self.out.features

    def __iter__(self) -> Iterator[str]:
        return iter(("joint", *self.out.features))

    def __len__(self) -> int:
        return 1 + len(self.out.features)

    def _compute(self, key: str) -> Tensor:
        target = self.batch.target
        logits = self.out.joint if key == "joint" else self.out.unimodal[key]
        prediction = as_prediction(logits, target)
        mask = None if key == "joint" else self.batch.has(key)
        if mask is None:
            return self.loss(prediction, target)
        per_sample = self.loss(prediction, target, reduction="none")
        per_sample = per_sample.flatten(1).mean(1) if per_sample.ndim > 1 else per_sample
        return (per_sample * mask).sum() / mask.sum().clamp(min=1)


_waiting: WeakKeyDictionary[torch.optim.Optimizer, list[Callable[[], None]]] = WeakKeyDictionary()


def _after_next_step(optimizer: torch.optim.Optimizer, action: Callable[[], None]) -> None:
    """Do `action` once, right after the optimiser's next step. (A hook cannot remove itself.)"""
    if optimizer not in _waiting:
        _waiting[optimizer] = []
        optimizer.register_step_post_hook(_do_waiting)
    _waiting[optimizer].append(action)


def _do_waiting(optimizer: torch.optim.Optimizer, *_: object) -> None:
    actions, _waiting[optimizer] = _waiting[optimizer], []
    for action in actions:
        action()


def default_loss(target: Tensor) -> Loss:
    """Mean absolute error for real targets, cross-entropy for labels."""
    return F.l1_loss if target.is_floating_point() else F.cross_entropy


def as_prediction(logits: Tensor, target: Tensor) -> Tensor:
    """Logits in the shape that the loss wants: (B,) for real targets (B,), else unchanged."""
    if target.is_floating_point() and logits.ndim == target.ndim + 1:
        return logits.squeeze(-1)
    return logits


def _random_state(device: torch.device) -> Tensor:
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else torch.get_rng_state()


def _set_random_state(state: Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state)
    else:
        torch.set_rng_state(state)


@contextlib.contextmanager
def _replayed(state: Tensor, device: torch.device) -> Iterator[None]:
    """Draw the same random numbers as from `state` on, then go on as if nothing had been drawn."""
    now = _random_state(device)
    _set_random_state(state, device)
    try:
        yield
    finally:
        _set_random_state(now, device)
