"""One batch in front of a balancer: its losses, its gradients, and how to change them.

A method works on small tensors: losses, scores, Gramians, coefficients; their last axis holds the
modalities. A step carries the result to the parameters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from itertools import chain
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn, optim

from mmlab.checks import check_choice, kind_of
from mmlab.datasets.base import Batch
from mmlab.datasets.frames import Frames, inputs_of, part_of, rows_of
from mmlab.gradients import align_to, entry_std, laid_out
from mmlab.models.modes import sparing_buffers
from mmlab.models.network import LazyFeatures, MultimodalNet, Output
from mmlab.models.rows import as_rows
from mmlab.models.stack import UnstackableError
from mmlab.seeds import Draws, random_state, replaying
from mmlab.training.blend import Rule, blend, filled, gradients_of, owned
from mmlab.training.exchange import OTHERS, Exchange, average
from mmlab.training.factors import Layer, linear_layers
from mmlab.training.losses import Loss, Losses, default_loss
from mmlab.training.optimizers import unwrapped
from mmlab.training.processes import check_whole_batch
from mmlab.training.updates import forget_scaling, scale_next_update

Only = Callable[[tuple[int, ...]], bool]
"""Whether a parameter is meant, by its shape."""

Recorded = dict[tuple[str, str], tuple[Any, Tensor | None]]
"""(metric, output) -> the value of a step for the history, and whether any sample had the modality.

None: all had.
"""


class Parameters:
    """The trained parameters of a network by part, looked up once for many steps.

    own: what a method trains beside the network (`Balancer.modules`).

    `shared` names the encoders that share a parameter with another part: their gradient is not
    theirs alone. `hooked`: whether a parameter has a hook that autograd's own accumulation calls.
    """

    def __init__(self, model: MultimodalNet, own: nn.Module | None = None) -> None:
        inside = set(model.encoders.parameters())
        beside = [] if own is None else list(own.parameters())
        self.encoders = {
            m: [p for p in encoder.parameters() if p.requires_grad]
            for m, encoder in model.encoders.items()
        }
        self.others = [
            p for p in (*model.parameters(), *beside) if p.requires_grad and p not in inside
        ]
        self.shared = self._sharing(model, beside)
        self.hooked = any(bool(p._post_accumulate_grad_hooks) for p in (*inside, *self.others))

    def _sharing(self, model: MultimodalNet, beside: Sequence[nn.Parameter]) -> set[str]:
        named = model.named_parameters(remove_duplicate=False)
        elsewhere = {p for name, p in named if not name.startswith("encoders.")}
        users = Counter(p for trained in self.encoders.values() for p in trained)
        users.update(p for p in (*elsewhere, *beside) if p in users)
        return {m for m, trained in self.encoders.items() if any(users[p] > 1 for p in trained)}


class Step:
    """One batch in front of a balancer.

    Shapes: B samples, M modalities, C classes. Small tensors have the modalities in the last
    axis, and may have leading axes: work on the last one alone, and never mix the others.

    Where each frame has a label, targets (B, T), the frames that count are the samples: `batch` is
    their `Frames`.

    Args:
        model: the network that is trained.
        batch: the samples of the step.
        optimizer: the one that makes the update; None: a method cannot scale the update.
        epoch: the number of the epoch, from 0.
        progress: part of the training that is over, 0 to 1.
        loss: loss(prediction, target) -> one number; by default cross-entropy for integer targets
            (a class), binary cross-entropy for booleans (several labels), and the mean absolute
            error for real numbers.
        draws: the random numbers of the run; by default from torch's global generator.
        parameters: `Parameters(model)`, where many steps share it.
        piece: how many samples an encoder sees at a time; what it keeps for the gradient is
            computed anew, so that it takes the memory of so few. None: all.

    A step can be driven by hand: `next(balancer.step(Step(net, batch, optimizer)))` leaves the
    gradients in `.grad`.
    """

    def __init__(
        self,
        model: MultimodalNet,
        batch: Batch,
        optimizer: optim.Optimizer | None = None,
        epoch: int = 0,
        *,
        progress: float = 0.0,
        loss: Loss | None = None,
        draws: Draws | None = None,
        parameters: Parameters | None = None,
        piece: int | None = None,
    ) -> None:
        _check_arguments(model, batch, optimizer)
        self.model = model
        self.batch = batch if self._lead else rows_of(batch)
        part = part_of(self.batch)
        self._exchange = None if part is None else Exchange(part, watched=progress == 0)
        if part is None:
            check_whole_batch()
        self.optimizer = None if optimizer is None else unwrapped(optimizer)
        self.epoch, self.progress = epoch, progress
        self.logged: dict[tuple[str, str], object] = {}
        self._objectives: list[Tensor] = []
        """What `backward` was given and `losses` does not have, such as weighted sums of these."""
        self._loss = loss or default_loss(batch.target)
        self._draws = draws or Draws()
        self._known_parameters, self._piece = parameters, piece
        forget_scaling(self.optimizer)
        self._stale = self._holds_gradients()
        """Whether encoders hold gradients of batches before this one."""
        self._filled = False

    # --- what a method reads ----------------------------------------------------------------------

    @cached_property
    def modalities(self) -> tuple[str, ...]:
        """All modalities, in the order of the last axis of small tensors."""
        return self.model.modalities

    @cached_property
    def out(self) -> Output:
        """The forward pass. Each encoder, the fusion and each head run when they are first read."""
        self._random_state = random_state(self.batch.target.device)
        with torch.enable_grad():  # whoever reads it first
            return self._lazily()

    def _lazily(self) -> Output:
        rows = self.batch.rows if isinstance(self.batch, Frames) else None
        return self.model.lazily(inputs_of(self.batch), self._piece, rows, self._exchange)

    @cached_property
    def losses(self) -> Losses:
        """losses["joint"] or losses[m]: the mean over the samples that have the modality.

        `losses.stack(*keys)` gives several in the last axis, in one pass.
        """
        return Losses(self.out, self.batch, self._loss, lead=self._lead)

    @torch.no_grad()
    def losses_again(self) -> Losses:
        """After a `yield`: the losses of the new parameters on the same batch, without a graph.

        Those alone that this step has read before. All parts run once more in the order in which
        they ran, dropout draws the same masks, and normalisation statistics and other buffers are
        left as they were: a difference to `losses` is due to the parameters alone.
        """
        features = self.out.features
        with replaying(self._random_state), sparing_buffers(self.model):
            if isinstance(features, LazyFeatures):
                again = self._lazily()
                out = again.read_again(features)
            else:
                out = self.model(inputs_of(self.batch))
                dict(out.unimodal)  # all heads, while the buffers are spared
        return Losses(out, self.batch, self._loss, lead=self._lead, graph=False)

    @cached_property
    def seen(self) -> Tensor:
        """Which modalities occur in the batch: booleans (…, M).

        This does not make the CPU wait for the GPU.
        """
        if self.batch.present is None:
            shape = (*self.batch.target.shape[: self._lead], len(self.modalities))
            return torch.ones(shape, dtype=torch.bool, device=self.batch.target.device)
        return self._present.any(-1)

    @cached_property
    def present(self) -> tuple[str, ...]:
        """The modalities that occur in the batch, by name.

        Where modalities are missing, this makes the CPU wait for the GPU; `seen` does not.
        """
        if self.batch.present is None:
            return self.modalities
        seen = self.seen.reshape(-1, len(self.modalities)).tolist()
        if any(row != seen[0] for row in seen):
            raise UnstackableError(
                "in one batch some networks of the stack have a modality and others have not, and "
                "the method asks which are there; train the seeds one by one"
            )
        return tuple(m for m, there in zip(self.modalities, seen[0], strict=True) if there)

    @cached_property
    def _present(self) -> Tensor:
        """Masks (…, M, B)."""
        masks = self.batch.present or {}
        return torch.stack([masks[m] for m in self.modalities], dim=-2)

    def mean(self, values: Tensor, of: str | None = None) -> Tensor:
        """Mean over the samples that have the modality; NaN where none has it.

        Args:
            values: (…, M, B), one row per modality, gives (…, M); or (…, B) of all samples.
            of: the one modality that values (…, B) belong to, whatever axes lead.
        """
        lead, shape = self._lead, tuple(values.shape)
        *networks, size = self.batch.target.shape[: lead + 1]
        by_modality = of is None and values.ndim == lead + 2
        if of is not None:
            self._encoder(of)  # is known
            if values.ndim > lead:
                shape = (*shape[:lead], shape[-1])
        allowed = (*networks, len(self.modalities), size) if by_modality else (*networks, size)
        if shape != allowed:
            raise ValueError(
                f"values has shape {tuple(values.shape)}; allowed are (…, {len(self.modalities)}, "
                "B), one row per modality, and (…, B); or say whose they are: mean(values, of=m)"
            )
        mask = None
        if of is not None:
            mask = self.batch.has(of)
        elif by_modality and self.batch.present:
            mask = self._present
        if mask is None:
            return values.mean(-1)
        while mask.ndim < values.ndim:
            mask = mask.unsqueeze(-2)
        return torch.where(mask, values, 0).sum(-1) / mask.sum(-1)

    def each(self, k: Tensor) -> Iterable[tuple[str, Tensor]]:
        """Pairs of a modality and its entry of the last axis of k, (…, M)."""
        return zip(self.modalities, k.unbind(-1), strict=True)

    # --- gradients --------------------------------------------------------------------------------

    def backward(
        self, loss: Tensor, *, encoders: bool = True, scale: float | Tensor | None = None
    ) -> None:
        """Add the gradient of `loss` to `.grad` of every parameter that it depends on.

        The history records what is none of `losses` as the metric "objective", summed over a step.

        Args:
            loss: a scalar; several, as `losses.stack()` gives, count as their sum.
            encoders: False stops at the features: the fusion and the heads learn, the encoders do
                not.
            scale: a factor per modality, (…, M), or one for all, on the gradient that flows into
                the encoder, and so on the encoder's own gradient. It multiplies a tensor of the
                size of the features; `scale_grad` multiplies tensors of the size of the parameters.
        """
        if not isinstance(loss, Tensor):
            raise TypeError(
                f"backward was given {loss!r}; give a tensor computed from the parameters, such as "
                's.losses["joint"]'
            )
        losses = vars(self).get("losses")  # unread, they would cost a forward pass
        if losses is None or not losses.knows(loss):
            self._objectives.append(loss.detach())
        self._look_for_gradients()
        if not encoders:
            self._check_hooks("backward(encoders=False)")
            gradients_of(loss, [], self._parameters.others)
            return
        hooks = []
        if scale is not None and (isinstance(scale, Tensor) or scale != 1):
            hooks = self._scaling_hooks(scale)
        try:
            loss.backward(torch.ones_like(loss) if loss.ndim else None, retain_graph=True)
        except RuntimeError as error:
            if not loss.requires_grad:
                raise RuntimeError(
                    "the loss given to backward depends on no trained parameter: it was detached, "
                    "or computed under torch.no_grad(), or all that it depends on is frozen"
                ) from error
            if "modified by an inplace operation" in str(error):
                error.add_note(
                    "In a balancer: a loss that was read before a `yield` belongs to the "
                    "parameters before the update. Call backward before the `yield`, or read what "
                    "comes after it from a new Step(s.model, s.batch, s.optimizer, s.epoch)."
                )
            raise
        finally:
            for hook in hooks:
                hook.remove()

    def _scaling_hooks(self, scale: float | Tensor) -> list[torch.utils.hooks.RemovableHandle]:
        """They multiply the gradient that flows into each encoder by its factor."""
        hooks = []
        for m, k in zip(self.modalities, self._factors(scale), strict=True):
            # A forward pass of one's own may give other features than it fuses.
            plain = self.model.plain_forward
            for tensor in [self.out.features[m]] if plain else self._encoder(m):
                if tensor.requires_grad:
                    hooks.append(tensor.register_hook(lambda grad, k=k: grad * align_to(grad, k)))
        return hooks

    def _factors(self, scale: float | Tensor) -> Sequence[float | Tensor]:
        """One per modality, from that or from one for all."""
        count = len(self.modalities)
        if not isinstance(scale, Tensor) or not scale.ndim:
            return [scale] * count
        if scale.shape[-1] not in (1, count) or scale.ndim > self._lead + 1:
            raise ValueError(
                f"scale has shape {tuple(scale.shape)}; allowed are a number and (…, {count}), one "
                "factor per modality"
            )
        return scale.expand(*scale.shape[:-1], count).unbind(-1)

    def blend(
        self, losses: Mapping[str, Sequence[Tensor]], rule: Rule, by: str = "encoder"
    ) -> dict[str, Tensor]:
        """Add Σ_k w_k ∇L_k to `.grad` of each encoder, its weights by a rule from the Gramian.

        The fusion and the heads get the gradient of the plain sum of all losses, each counted once
        however often it is named.

        Args:
            losses: K losses per modality, such as {m: (joint, unimodal)}.
            rule: Gramians (…, K, K) of the gradients -> weights (…, K). What it gives with one axis
                alone, (K,), are constant weights of the K losses, the same for all encoders. One
                number per encoder cannot be told from that where there are K encoders: repeat it
                for the losses, `w[..., None].expand(gram.shape[:-1])`.
            by: "encoder": a Gramian of each encoder's whole gradient; "tensor": the Gramians of all
                parameters of an encoder, (T, K, K), in one call of the rule.

        Returns:
            The Gramian (…, K, K) of each encoder, a frozen one left out.

        Raises:
            ValueError: no or unequal numbers of losses; `by` is not "encoder" or "tensor".
            KeyError: an unknown modality.
        """
        check_choice("by", by, ("encoder", "tensor"))
        self._look_for_gradients()
        self._check_hooks("blend")
        given = {m: len(row) for m, row in losses.items()}
        if len({*given.values()}) != 1 or 0 in given.values():
            raise ValueError(
                f"the numbers of losses are {given}; give each encoder as many, and at least one"
            )
        encoders = {m: self._own(m) for m in losses}
        named = {id(loss): loss for row in losses.values() for loss in row}
        self._objectives += [x.detach() for x in named.values() if not self.losses.knows(x)]
        known = self._go_by_features(named)
        with self._not_stored():
            return blend(
                losses,
                rule,
                by,
                encoders=encoders,
                others=self._parameters.others,
                layers=self._layers(encoders) if known and by == "encoder" else {},
                apart=known and self._are_apart(losses),
                lead=self._lead,
                several=self._exchange is not None,
            )

    def _own_losses(self) -> dict[str, Tensor]:
        """Those of this step's own pass that were read: the joint and the unimodal ones."""
        return {key: loss for key, loss in self.losses.computed.items() if key in self.losses}

    def _go_by_features(self, ids: Iterable[int]) -> bool:
        """Whether these losses depend on encoders by their features alone.

        A loss of another pass may not.
        """
        return self.model.plain_forward and {*ids} <= {id(x) for x in self._own_losses().values()}

    def _are_apart(self, losses: Mapping[str, Sequence[Tensor]]) -> bool:
        """Whether each loss is the same one for all encoders, or each encoder's unimodal loss."""
        own = self._own_losses()
        for kind in zip(*losses.values(), strict=True):
            shared = all(loss is kind[0] for loss in kind)
            if not shared and any(x is not own.get(m) for m, x in zip(losses, kind, strict=True)):
                return False
        return True

    def _layers(self, encoders: Mapping[str, Sequence[nn.Parameter]]) -> dict[str, list[Layer]]:
        if self._piece is not None:  # what the factors are read from is not kept
            return {}
        if self._exchange is not None:  # each process has those of its own samples
            return {}
        return linear_layers(self.out.features, encoders, self._lead)

    def grad(self, loss: Tensor, m: str) -> list[Tensor]:
        """The gradient of `loss` for encoder m, one tensor per parameter; leaves `.grad` alone.

        Parameters that `loss` does not depend on get zeros; a frozen encoder gives an empty list.
        """
        parameters = self._encoder(m)
        with self._not_stored():
            found = filled(gradients_of(loss, parameters, []), parameters)
        if self._exchange is not None:
            average(found)
        return found

    def stored_grad(self, m: str) -> list[Tensor]:
        """What stands in `.grad` for encoder m; zeros where nothing does."""
        self._merge()
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self._encoder(m)]

    def set_grad(self, m: str, grads: Sequence[Tensor]) -> None:
        """Replace the gradient of encoder m.

        Raises TypeError for what is no tensors, ValueError where the shapes do not fit.
        """
        parameters = self._encoder(m)
        self._check_alone()
        if not isinstance(grads, Sequence) or not all(isinstance(g, Tensor) for g in grads):
            raise TypeError(
                f"set_grad was given {grads!r:.60} for encoder {m!r}; give one tensor per "
                "parameter, as s.grad(loss, m) does; for no gradient s.scale_grad(m, 0.0)"
            )
        expected = [tuple(p.shape) for p in parameters]
        given = [tuple(g.shape) for g in grads]
        if given != expected:
            raise ValueError(
                f"gradient for encoder {m!r} has shapes {given}; its parameters have {expected}"
            )
        for parameter, value in zip(parameters, grads, strict=True):
            parameter.grad = laid_out(value.detach().clone(), parameter)  # the giver keeps its own

    def scale_grad(
        self, m: str, k: float | Tensor | Sequence[Tensor], only: Only | None = None
    ) -> None:
        """Multiply the gradient of encoder m by k, or by one k per parameter.

        Call it after `backward`, else it raises RuntimeError; a parameter to which no gradient came
        stays without one. An adaptive optimiser such as Adam divides a constant factor out again:
        see `scale_update`.

        Args:
            only: only(shape) says which parameters are meant, by their shape.
        """
        if not isinstance(k, Sequence) or isinstance(k, str):
            self._check_factor("scale_grad", m, k)
        grads, factors = self._with_grad(m, k, only)
        if grads:
            torch._foreach_mul_(grads, factors)

    def spread(self, m: str) -> list[Tensor]:
        """Standard deviation over the entries of each stored gradient of encoder m, plus 1e-8."""
        return entry_std(self.stored_grad(m), self._lead) if self._encoder(m) else []

    def add_noise(self, m: str, std: Sequence[Tensor | float], only: Only | None = None) -> None:
        """Add normal noise to the gradient of encoder m.

        m: the modality.
        std: the s.d. of the noise, one per parameter, as from `spread`.
        only: only(shape) says whether a parameter of this shape gets noise; None: all do.

        A parameter without a gradient gets none.
        """
        grads, stds = self._with_grad(m, std, only)
        if grads:
            for grad, noise, own in zip(grads, self._draws.normals(grads), stds, strict=True):
                grad.addcmul_(noise, own)

    def scale_update(self, m: str, k: float | Tensor) -> None:
        """Multiply encoder m's next *update* by k: before + k (after − before).

        Exact under any optimiser (`mmlab.training.updates`). Call it before the `yield`. Raises
        ValueError where the step has no optimiser, or k is several numbers.
        """
        if self.optimizer is None:
            raise ValueError("scale_update needs the optimiser: Step(model, batch, optimizer)")
        self._check_factor("scale_update", m, k)
        self._check_alone()
        scale_next_update(self.optimizer, self._own(m), k)

    # --- further passes and random numbers --------------------------------------------------------

    def fuse(
        self, features: Mapping[str, Tensor], mask: Mapping[str, Tensor] | Tensor | None = None
    ) -> Tensor:
        """The joint logits (…, B, C) of other features, or of masked ones: a second fusion.

        `losses.of(name, logits)` makes a recorded loss of them, `losses.samples(logits)` one per
        sample. Running means inside the fusion stay as they are.

        Args:
            features: (…, B, D) of every modality, such as `out.features`.
            mask: which feature vectors stay, the others being 0: booleans (…, M, B), or (…, B) of
                each modality.
        """
        if mask is not None:
            if isinstance(mask, Tensor):
                mask = dict(zip(self.modalities, mask.unbind(-2), strict=True))
            features = {m: h * mask[m].unsqueeze(-1) for m, h in features.items()}
        with sparing_buffers(self.model.fusion):
            return self.model.fusion(dict(features))

    def bernoulli(self, p: float | Tensor, shape: Sequence[int]) -> Tensor:
        """True with probability p, (…, *shape), from the run's seed; p broadcasts against it."""
        like = next(iter(self.model.parameters()))
        return self._draws.uniforms(shape, like) < p

    def permutation(self, n: int) -> Tensor:
        """The numbers 0 to n − 1 in random order, (…, n), from the run's seed."""
        return self._draws.permutation(n, self.batch.target.device)

    def log(self, **values: float | Tensor | Mapping[str, float | Tensor]) -> None:
        """Record values of this step: a number, or {modality: number}, as `dict(s.each(k))` gives.

        Tensors stay on the device until the epoch ends, so the CPU does not wait for the GPU here.
        """
        for name, value in values.items():
            if name in ("loss", "objective"):
                raise ValueError(f"the history has {name!r} of its own; log under another name")
            parts = dict(value) if isinstance(value, Mapping) else {"": value}
            for part in parts.values():
                if not isinstance(part, Tensor | Real):
                    raise TypeError(
                        f"log({name}=...) got {part!r}; give a number or a tensor of one"
                    )
            tensors = {key: x.detach() for key, x in parts.items() if isinstance(x, Tensor)}
            # copies: what becomes of the tensors later does not show
            copies = _copied([*tensors.values()])
            parts |= dict(zip(tensors, copies, strict=True))
            self.logged |= {(name, output): part for output, part in parts.items()}

    def _recorded(self) -> Recorded:
        """What the history gets of this step."""
        losses = vars(self).get("losses")
        found = {} if losses is None else losses.recorded()
        found |= {key: (value, None) for key, value in self.logged.items()}
        if self._objectives:
            self._check_objectives()
            # (…,), whatever axes a sum over the last one still has
            given = [
                x.flatten(self._lead).sum(-1) if x.ndim > self._lead else x
                for x in self._objectives
            ]
            found["objective", ""] = torch.stack(given).sum(0), None
        return found

    # --- internal ---------------------------------------------------------------------------------

    def _check_objectives(self) -> None:
        """Refuse a sum over the networks of a stack: the history wants each one's own."""
        networks = self.batch.target.shape[: self._lead]
        if any(loss.shape[: self._lead] != networks for loss in self._objectives):
            raise UnstackableError(
                "`backward` was given one number for all networks of a stack; add up over the last "
                "axis alone, as in (w * losses).sum(-1)"
            )

    def _check_hooks(self, who: str) -> None:
        """Refuse to fill gradients past hooks that wait for autograd to do it."""
        if self._parameters.hooked:
            raise ValueError(
                "a parameter has a hook (register_post_accumulate_grad_hook), and "
                f"{who} fills gradients without calling it; use optimizer.register_step_pre_hook, "
                "which sees the gradients of the update"
            )

    def _check_alone(self) -> None:
        """Refuse to change gradients, or their update, that earlier batches have a part in."""
        if self._stale and not self._filled:
            self._stale = self._holds_gradients()
        if self._stale:
            raise RuntimeError(
                "`.grad` held gradients before this step, and this method would change them too. "
                "Call optimizer.zero_grad() before each step; to accumulate batches, give one "
                "step all of them (Step(..., piece=64): the encoders see 64 samples at a time), "
                "or take a method that only adds: backward, backward(scale=), blend"
            )

    def _merge(self) -> None:
        """Give `.grad` what it holds in one process: the gradient of the whole batch."""
        if self._exchange is not None and self._exchange.stale:
            self._exchange.merge(self._parameters.encoders, self._parameters.others)

    def _not_stored(self) -> AbstractContextManager[None]:
        """For gradients of encoders that are computed and do not go to `.grad`."""
        return nullcontext() if self._exchange is None else self._exchange.aside()

    def _look_for_gradients(self) -> None:
        """Before this step fills any: were those of earlier batches cleared since it was made?"""
        if self._exchange is not None:
            self._exchange.stale.add(OTHERS)
        self._stale = self._stale and (self._filled or self._holds_gradients())
        self._filled = True

    def _holds_gradients(self) -> bool:
        """Whether an encoder has a gradient."""
        known = self._known_parameters
        inside = (
            chain.from_iterable(known.encoders.values())
            if known
            else self.model.encoders.parameters()  # which of them are trained may still change
        )
        return any(p.grad is not None and bool(p.grad.any()) for p in inside)

    @property
    def _lead(self) -> int:
        """How many axes lead every parameter: 1 in a stack of networks, else 0."""
        return int(self.model.replicas is not None)

    @cached_property
    def _parameters(self) -> Parameters:
        return self._known_parameters or Parameters(self.model)

    def _encoder(self, m: str) -> list[nn.Parameter]:
        """The trained parameters of encoder m. Raises KeyError for an unknown modality."""
        if m not in self._parameters.encoders:
            raise KeyError(f"unknown modality {m!r}; this model has {list(self.model.encoders)}")
        return self._parameters.encoders[m]

    def _check_factor(self, who: str, m: str, k: object) -> None:
        """Raises TypeError for what is no number, ValueError for several: one network takes one."""
        if not isinstance(k, Real | Tensor):
            raise TypeError(f"{who}({m!r}, k) got k={k!r}; give a number or a tensor of one")
        if isinstance(k, Tensor) and k.ndim > self._lead:
            raise ValueError(
                f"{who}({m!r}, k) got k of shape {tuple(k.shape)}; give one number. Of one factor "
                f"per modality take each: for m, one in s.each(k): s.{who}(m, one)"
            )

    def _own(self, m: str) -> list[nn.Parameter]:
        """The same, of an encoder whose gradient is to be changed: it must be its own."""
        if m in self._parameters.shared:
            raise ValueError(
                f"encoder {m!r} shares parameters with another part of the network, so that its "
                "gradient cannot be changed alone; give each modality an encoder of its own"
            )
        return self._encoder(m)

    def _with_grad(
        self, m: str, k: float | Tensor | Sequence, only: Only | None
    ) -> tuple[list[Tensor], Any]:
        """The gradients of encoder m that are there, and the factor of each (or one for all).

        Raises RuntimeError where they hold more than this step's. To be changed in place: each gets
        memory of its own, where autograd gave one to several.
        """
        parameters = self._own(m)
        self._check_alone()
        if parameters and not self._filled and all(p.grad is None for p in parameters):
            raise RuntimeError(
                f"encoder {m!r} has no gradient yet, so there is nothing to change; call "
                "s.backward(loss) first"
            )
        each = [k] * len(parameters) if isinstance(k, float | int | Tensor) else list(k)
        if len(each) != len(parameters):
            raise ValueError(
                f"{len(each)} numbers for the {len(parameters)} parameters of encoder {m!r}; give "
                "one per parameter, as s.spread(m) has them"
            )
        chosen, factors = [], []
        taken: set[int] = set()
        for p, factor in zip(parameters, each, strict=True):
            if p.grad is None:
                continue
            p.grad = owned(p.grad, taken)
            if not (only is None or only(tuple(p.shape[self._lead :]))):
                continue
            chosen.append(p.grad)
            factors.append(factor)
        if isinstance(k, float | int) or (isinstance(k, Tensor) and not k.ndim):
            return chosen, k
        pairs = zip(chosen, factors, strict=True)
        return chosen, [
            align_to(g, torch.as_tensor(f, dtype=g.dtype, device=g.device)) for g, f in pairs
        ]


@torch.no_grad()
def features_by(encoders: nn.ModuleDict, s: Step) -> dict[str, Tensor]:
    """What other encoders make of a step's batch, such as a teacher: (…, B, D), without a graph.

    They run as the network's own do (`encode`, its precision), in the mode that they are in.
    """
    inputs, network = inputs_of(s.batch), s.model.with_encoders(encoders)
    found = {}
    for m, encoder in encoders.items():
        encode = partial(network.encoded, m, inputs[m])
        found[m] = encode() if s._exchange is None else s._exchange.gather(m, encoder, encode)
    if not isinstance(s.batch, Frames):
        return found
    return {m: as_rows(m, h, s.batch.rows) for m, h in found.items()}


def _copied(tensors: list[Tensor]) -> Sequence[Tensor]:
    """Copies, in one kernel where the tensors are alike."""
    if len({(x.shape, x.dtype, x.device) for x in tensors}) == 1:
        return torch.stack(tensors).unbind()
    return [x.clone() for x in tensors]


def _check_arguments(model: object, batch: object, optimizer: object) -> None:
    """Raises TypeError for what a step cannot be made of."""
    if not isinstance(batch, Batch):
        raise TypeError(f"batch is {kind_of(batch)}; give Batch({{modality: x, ...}}, target)")
    if optimizer is not None and not isinstance(optimizer, optim.Optimizer):
        raise TypeError(
            f"optimizer is {kind_of(optimizer)}; give an optimiser made from "
            "model.parameters(): Step(model, batch, optimizer, epoch)"
        )
    if not isinstance(model, MultimodalNet):
        raise TypeError(
            f"model is {kind_of(model)}; give the MultimodalNet itself, without a "
            "wrapper: a step runs its parts one by one"
        )
