"""What a balancer is: a generator of updates. It fills the gradients, then yields.

The training loop steps the optimiser at each `yield`. Code after a `yield` sees the updated
parameters. `Step` is what a balancer works on: one batch, its losses and its gradients.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn, optim
from torch.func import functional_call

from mmlab.balancers.losses import Loss, Losses, default_loss
from mmlab.balancers.shapes import beside
from mmlab.balancers.updates import forget_scaling, scale_next_update
from mmlab.datasets.base import Batch
from mmlab.models.network import MultimodalNet, Output
from mmlab.normals import Normals

if TYPE_CHECKING:
    from mmlab.training import Run


class Balancer:
    """Plain joint training, and the base of every method: override what differs.

    heads, fusion: the network the paper assumes; `MultimodalNet.build(data, **balancer.network)`.
    stackable:     whether this very class also trains a stack of R networks (`fit(seeds=[...])`),
                   where losses are (R,). A subclass says it again, for what it overrides may not.
    by_replica:    names of the attributes that in a stack have a leading axis R where they are
                   tensors, or dicts of such: hyper-parameters (R,), and what is kept between steps.
    """

    heads = "own"
    fusion = "concat"
    stackable = True
    by_replica: tuple[str, ...] = ()

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

    def replica(self, index: int, count: int) -> Balancer:
        """This balancer as network `index` of a stack of `count` has it, by `by_replica`."""
        own = copy.copy(self)
        for name in self.by_replica:
            setattr(own, name, _of_replica(getattr(self, name), index, count))
        return own

    def fuse(self, out: Output, present: Mapping[str, Tensor] | None = None) -> Tensor:
        """The prediction at test time, (B, C); present: masks (B,) of the samples' modalities."""
        return out.joint


def _of_replica(value: object, index: int, count: int) -> object:
    if isinstance(value, dict):
        return {key: _of_replica(part, index, count) for key, part in value.items()}
    own = isinstance(value, Tensor) and value.ndim and len(value) == count  # else the step refuses
    return value[index] if own else value


def is_stackable(balancer: Balancer) -> bool:
    """Whether the balancer's own class, not only one it derives from, says `stackable`."""
    return bool(vars(type(balancer)).get("stackable", False))


class Parameters:
    """The trainable parameters of a network by part, looked up once for many steps."""

    def __init__(self, model: MultimodalNet) -> None:
        self.encoders = {
            m: [p for p in encoder.parameters() if p.requires_grad]
            for m, encoder in model.encoders.items()
        }
        every = set(model.encoders.parameters())
        self.others = [p for p in model.parameters() if p.requires_grad and p not in every]


class Step:
    """One batch in front of a balancer.

    model, batch, optimizer: what is trained, on what, by what.
    epoch:      counts from 0.
    progress:   part of the training that is over, 0 to 1.
    loss:       loss(prediction, target, reduction=...); by default cross-entropy for integer
                targets and the mean absolute error for real ones.
    noise:      generator of the noise that a method adds; by default torch's global one.
    parameters: `Parameters(model)`, where many steps share it.

    In a stack of R networks every loss is (R,), and a factor or a hyper-parameter may be. A
    balancer that keeps the modalities in the last axis (`s.losses.stack`) need not know.

    A step can be driven by hand: `next(balancer.step(Step(net, batch, optimizer)))` leaves the
    gradients in `.grad`.
    """

    def __init__(
        self,
        model: MultimodalNet,
        batch: Batch,
        optimizer: optim.Optimizer | None = None,
        epoch: int = 0,
        progress: float = 0.0,
        loss: Loss | None = None,
        noise: torch.Generator | Normals | None = None,
        parameters: Parameters | None = None,
    ) -> None:
        self.model, self.batch, self.optimizer = model, batch, optimizer
        self.epoch, self.progress = epoch, progress
        self.normals = noise if isinstance(noise, Normals) else Normals(noise)
        self.loss = loss or default_loss(batch.target)
        self._known_parameters = parameters
        forget_scaling(optimizer)
        self.logged: dict[str, object] = {}
        self._only: tuple[str, ...] | None = None
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    @cached_property
    def modalities(self) -> tuple[str, ...]:
        return self.model.modalities

    @property
    def lead(self) -> int:
        """How many axes lead every parameter: 1 in a stack of networks, else 0."""
        return int(self.model.replicas is not None)

    @property
    def noise(self) -> torch.Generator | None:
        """The generator of the noise; in a stack, of the first replica's."""
        return self.normals.generators[0]

    @cached_property
    def _parameters(self) -> Parameters:
        return self._known_parameters or Parameters(self.model)

    def only(self, *modalities: str) -> None:
        """Let the forward pass run the encoders of these modalities alone: no joint loss then.

        Raises KeyError for an unknown modality, RuntimeError after the forward pass.
        """
        for m in modalities:
            self.parameters(m)
        if "out" in vars(self):
            raise RuntimeError("the forward pass has run; call only() before out or losses is read")
        self._only = modalities

    @cached_property
    def out(self) -> Output:
        """The forward pass, made on first use."""
        self._random_state = _random_state(self.batch.target.device)
        if self._only is None and torch.is_grad_enabled():
            return self.model.lazily(self.batch.inputs)
        with torch.enable_grad(), self.model.restricted(self._only):  # whoever reads it first
            return self.model.lazily(self.batch.inputs)

    @cached_property
    def losses(self) -> Losses:
        """losses["joint"] or losses[m]: the mean over the samples that have the modality."""
        return Losses(self.out, self.batch, self.loss)

    @torch.no_grad()
    def again(self) -> Losses:
        """The losses of the current parameters on the same batch.

        No graph. Dropout in the encoders and the fusion draws the same masks as in `out`, and
        normalisation statistics and other buffers are left as they were: a difference to `losses`
        is due to the parameters alone. (Heads are read later, so dropout in a head differs.)
        """
        _ = self.out
        # The pass writes its statistics into copies: to restore the buffers in place would spoil
        # the graph of `out` for a later backward.
        copies = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        replayed = _replayed(self._random_state, self.batch.target.device)
        with replayed, self.model.restricted(self._only):
            if copies:
                out = functional_call(self.model, copies, (self.batch.inputs,))
            else:
                out = self.model(self.batch.inputs)
        return Losses(out, self.batch, self.loss, graph=False)

    def backward(self, loss: Tensor, *, encoders: bool = True) -> None:
        """Add the gradient of `loss` to `.grad` of every parameter it depends on.

        A loss with several entries, such as `losses.stack()`, counts as their sum.
        encoders=False stops at the features: the fusion and the heads learn, the encoders do not.
        """
        if not encoders:
            self.grads(loss, [])
            return
        loss.backward(torch.ones_like(loss) if loss.ndim else None, retain_graph=True)
        self._release()

    def _release(self) -> None:
        """What `scale_backward` asked for holds for one backward pass."""
        while self._hooks:
            self._hooks.pop().remove()

    def grads(self, loss: Tensor, wanted: list[Tensor]) -> list[Tensor]:
        """Gradients of `loss` for the tensors `wanted`, zeros where it does not depend on them.

        Those of all parameters outside the encoders go into `.grad`, as from `backward`.
        """
        others = self._parameters.others
        if not wanted + others or not loss.requires_grad:
            return [torch.zeros_like(p) for p in wanted]
        grads = torch.autograd.grad(
            loss, wanted + others, torch.ones_like(loss), retain_graph=True, allow_unused=True
        )
        self._release()
        for parameter, grad in zip(others, grads[len(wanted) :], strict=True):
            if grad is not None:
                parameter.grad = grad if parameter.grad is None else parameter.grad + grad
        found = zip(wanted, grads[: len(wanted)], strict=True)
        return [torch.zeros_like(p) if grad is None else grad for p, grad in found]

    def parameters(self, m: str) -> list[nn.Parameter]:
        """The trainable parameters of encoder `m`. Raises KeyError for an unknown modality."""
        if m not in self._parameters.encoders:
            raise KeyError(f"unknown modality {m!r}; this model has {list(self.model.encoders)}")
        return self._parameters.encoders[m]

    def grad(self, loss: Tensor, m: str) -> list[Tensor]:
        """The gradient of `loss` for encoder `m`, one tensor a parameter; leaves `.grad` alone.

        Parameters that `loss` does not depend on get zeros; a frozen encoder gives an empty list.
        """
        parameters = self.parameters(m)
        if not parameters or not loss.requires_grad:
            return [torch.zeros_like(p) for p in parameters]
        ones = torch.ones_like(loss)
        return list(
            torch.autograd.grad(loss, parameters, ones, retain_graph=True, materialize_grads=True)
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

    def set_grad_from(self, m: str, loss: Tensor) -> None:
        """Replace the gradient of encoder `m` by that of `loss`, zeros where it does not reach.

        One backward pass through this encoder alone; all other `.grad` stay as they are.
        """
        parameters = self.parameters(m)
        for parameter in parameters:
            parameter.grad = None  # else the engine would add to it
        if parameters and loss.requires_grad:
            ones = torch.ones_like(loss)
            torch.autograd.backward(loss, ones, retain_graph=True, inputs=parameters)
        self._release()
        self.set_grad(m, self.gradient(m))

    def scale_backward(self, m: str, k: float | Tensor) -> None:
        """Multiply by k what the coming backward pass sends into encoder `m`, and so its gradient.

        It costs one product of the features' size, where `scale_grad` costs one of the parameters'.
        Call it just before `backward`; it holds for one.
        """
        # A forward pass of one's own may give other features than it fuses.
        plain = self.model.plain_forward
        for tensor in [self.out.features[m]] if plain else self.parameters(m):
            if tensor.requires_grad:
                self._hooks.append(tensor.register_hook(lambda grad: grad * beside(k, grad)))

    def scale_grad(self, m: str, k: float | Tensor | Sequence[Tensor]) -> None:
        """Multiply the gradient of encoder `m` by k; or by one k for each of its parameters.

        Call it after `backward`: a parameter without a gradient stays without one.
        An adaptive optimiser such as Adam divides a constant factor out again: `scale_update`.
        """
        grads, chosen = self._with_grad(m, k)
        if grads:
            torch._foreach_mul_(grads, chosen)

    def add_noise(self, m: str, std: Sequence[Tensor | float]) -> None:
        """Add normal noise to the gradient of encoder `m`; std: one for each of its parameters.

        A parameter without a gradient gets none.
        """
        grads, chosen = self._with_grad(m, std)
        if grads:
            for grad, noise, own in zip(grads, self.normals.like(grads), chosen, strict=True):
                grad.addcmul_(noise, own)

    def _with_grad(self, m: str, k: float | Tensor | Sequence) -> tuple[list[Tensor], object]:
        """The gradients of encoder `m` that are there, and the factor of each (or one for all).

        To be changed in place: each gets memory of its own, where autograd gave one to several.
        """
        parameters, taken = self.parameters(m), set()
        for p in parameters:
            if p.grad is not None:
                memory = p.grad.untyped_storage().data_ptr()
                if memory in taken:
                    p.grad = p.grad.clone()
                taken.add(memory)
        single = isinstance(k, float | int | Tensor)
        if single and not (isinstance(k, Tensor) and k.ndim):
            return [p.grad for p in parameters if p.grad is not None], k
        factors = [k] * len(parameters) if single else k
        pairs = [
            (p.grad, torch.as_tensor(f, dtype=p.dtype, device=p.device))
            for p, f in zip(parameters, factors, strict=True)
            if p.grad is not None
        ]
        return [grad for grad, _ in pairs], [beside(f, grad) for grad, f in pairs]

    def scale_update(self, m: str, k: float | Tensor) -> None:
        """Multiply encoder m's next *update* by k: before + k (after - before).

        Exact under any optimiser (`mmlab.balancers.updates`). Call it before the `yield`. Raises
        ValueError where the step has no optimiser.
        """
        if self.optimizer is None:
            raise ValueError("scale_update needs the optimiser: Step(model, batch, optimizer)")
        scale_next_update(self.optimizer, self.parameters(m), k)

    def scale_all_updates(self, k: Tensor) -> None:
        """Multiply the next update of all parameters by k: a learning rate a replica, if (R,)."""
        parts = self._parameters
        every = [p for own in parts.encoders.values() for p in own] + parts.others
        scale_next_update(self.optimizer, every, k)

    def log(self, **values: float | Tensor | Mapping[str, float | Tensor]) -> None:
        """Record values of this step: a scalar, or one scalar a modality; (R,) in a stack.

        Tensors stay on the device until the epoch ends, so logging does not wait for it.
        """
        for name, value in values.items():
            parts = value if isinstance(value, Mapping) else {"": value}
            for output, part in parts.items():
                self.logged[name, output] = part.detach() if isinstance(part, Tensor) else part


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
