"""One gradient per encoder, blended from the gradients of several losses by a rule.

The rule sees inner products alone: the Gramian of an encoder's K gradients. Two ways lead to it.
In encoders of linear layers the gradients stay in their factors (`mmlab.training.factors`), and one
weight gradient is made, that of the blend. In any other encoder the gradients are made; those of a
loss that all encoders share one encoder after the other, so that few are held at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from mmlab.checks import kind_of
from mmlab.gradients import align_to, grams, laid_out
from mmlab.training.exchange import Slices
from mmlab.training.factors import Layer, blended, gram

Rule = Callable[[Tensor], Tensor]
"""Gramians (…, K, K) -> weights (…, K), or (K,) for all encoders."""

Losses = Mapping[str, Sequence[Tensor]]
"""K losses for each encoder."""


def gradients_of(
    loss: Tensor, wanted: Sequence[Tensor | GradientEdge], others: Sequence[nn.Parameter]
) -> list[Tensor | None]:
    """Gradients of a loss for what is wanted, None where it does not depend on it.

    Those for the parameters `others` are added to their `.grad`: one run of the engine for both.
    """
    asked: Any = [*wanted, *others]
    if not asked or not loss.requires_grad:
        return [None] * len(wanted)
    ones = torch.ones_like(loss)
    grads = torch.autograd.grad(loss, asked, ones, retain_graph=True, allow_unused=True)
    taken = {grad.untyped_storage().data_ptr() for grad in grads[: len(wanted)] if grad is not None}
    for parameter, grad in zip(others, grads[len(wanted) :], strict=True):
        if grad is not None:
            before, grad = parameter.grad, laid_out(grad, parameter)
            parameter.grad = owned(grad, taken) if before is None else before + grad
    return list(grads[: len(wanted)])


def filled(grads: list[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    """The gradients, with zeros in the shape of `like` where there is none.

    Those of parameters come in their layout, one after the other, so that few are there twice. The
    list that is given is emptied.
    """
    found = []
    for x in like:
        grad = grads.pop(0)
        if grad is None:
            grad = torch.zeros_like(x)
        found.append(laid_out(grad, x) if isinstance(x, nn.Parameter) else grad)
    return found


@torch.no_grad()
def blend(
    losses: Losses,
    rule: Rule,
    by: str,
    *,
    encoders: Mapping[str, Sequence[nn.Parameter]],
    others: Sequence[nn.Parameter],
    layers: Mapping[str, Sequence[Layer]],
    apart: bool,
    lead: int,
    several: bool = False,
) -> dict[str, Tensor]:
    """Add Σ_k w_k ∇L_k to `.grad` of each encoder, and the plain sum of all losses elsewhere.

    Args:
        losses: K losses per encoder.
        rule: its weights w from Gramians.
        by: "encoder": one Gramian of each encoder's whole gradients; "tensor": one of each of its
            parameters, T in one call of the rule.
        encoders: the trained parameters of each encoder; a frozen one has none.
        others: all other trained parameters.
        layers: the linear layers of encoders whose gradients stay in factors.
        apart: whether a loss that is one encoder's own depends on no other encoder.
        lead: axes that lead every parameter: 1 in a stack of networks, else 0.
        several: whether the gradients are those of this process's part of the batch.

    Returns:
        The Gramian (…, K, K) of each encoder that is trained.
    """
    trained = [m for m in losses if encoders[m]]
    factored = [m for m in trained if m in layers]
    whole = [m for m in trained if m not in layers]
    found = _Gradients(losses, encoders, others, layers, apart)
    found.of_own_losses(trained)
    found.of_shared_losses([*factored, *whole[:1]])

    grams_of = _blend_factors({m: layers[m] for m in factored}, found, rule)
    for m in whole:
        if m != whole[0]:
            found.of_shared_losses([m])
        grams_of[m] = _blend_gradients(encoders[m], found.pop(m), rule, by, lead, several)
    return {m: grams_of[m] for m in trained}


def _blend_factors(
    layers: Mapping[str, Sequence[Layer]], found: _Gradients, rule: Rule
) -> dict[str, Tensor]:
    """Blend in encoders whose gradients stay in factors, by one call of the rule for all."""
    if not layers:
        return {}
    deltas = {m: [torch.stack(d, -3) for d in zip(*found.pop(m), strict=True)] for m in layers}
    grams_of = {m: gram(own, deltas[m]) for m, own in layers.items()}
    weights = _weights(rule, torch.stack(list(grams_of.values()), dim=-3))
    for m, w in zip(layers, weights.unbind(-2), strict=True):
        _add(blended(layers[m], deltas.pop(m), w))
    return grams_of


def _blend_gradients(
    parameters: Sequence[nn.Parameter],
    gradients: list[list[Tensor]],
    rule: Rule,
    by: str,
    lead: int,
    several: bool,
) -> Tensor:
    """Blend in one encoder whose K gradients are made; `blend` says what the arguments are."""
    slices = Slices(gradients) if several else None
    if slices is not None:
        gradients = slices.own
    by_tensor = grams(gradients, lead)
    if slices is not None:
        by_tensor = slices.sum(by_tensor)
    whole = by_tensor.sum(-3)
    mixed = _combined(
        gradients, _weights(rule, by_tensor if by == "tensor" else whole.unsqueeze(-3))
    )
    if slices is not None:
        mixed = slices.whole(mixed)
    _add(dict(zip(parameters, mixed, strict=True)))
    return whole


class _Gradients:
    """The K gradients of each encoder, in as few runs of the engine as will do."""

    def __init__(
        self,
        losses: Losses,
        encoders: Mapping[str, Sequence[nn.Parameter]],
        others: Sequence[nn.Parameter],
        layers: Mapping[str, Sequence[Layer]],
        apart: bool,
    ) -> None:
        self.losses, self.others, self.apart = losses, others, apart
        self.wanted = {
            m: [layer.edge for layer in layers[m]] if m in layers else list(own)
            for m, own in encoders.items()
        }
        self.like = {
            m: [layer.out for layer in layers[m]] if m in layers else list(own)
            for m, own in encoders.items()
        }
        first, *rest = losses.values()
        self.shared = [k for k, loss in enumerate(first) if all(own[k] is loss for own in rest)]
        self.own = [k for k in range(len(first)) if k not in self.shared]
        self.found: dict[str, dict[int, list[Tensor]]] = {m: {} for m in losses}
        self.counted: set[int] = set()
        """The losses that the other parameters have had their gradient of, by id."""

    def of_own_losses(self, trained: Sequence[str]) -> None:
        """The losses that belong to one encoder each: all in one run where they do not mix."""
        for k in self.own:
            for group in [list(self.losses)] if self.apart else [[m] for m in self.losses]:
                losses = [self.losses[m][k] for m in group]
                self._run(k, losses, [m for m in group if m in trained])

    def of_shared_losses(self, encoders: Sequence[str]) -> None:
        """The losses that are the same for all encoders, for some of them."""
        for k in self.shared:
            self._run(k, [next(iter(self.losses.values()))[k]], encoders)

    def _run(self, k: int, losses: Sequence[Tensor], encoders: Sequence[str]) -> None:
        """One run of the engine; where encoders do not mix, for the own losses of several."""
        ids = {id(loss) for loss in losses}
        others = [] if ids <= self.counted else self.others
        self.counted |= ids
        wanted = [x for m in encoders for x in self.wanted[m]]
        grads = gradients_of(_sum(losses), wanted, others)
        for m in encoders:
            self.found[m][k] = filled(grads, self.like[m])

    def pop(self, m: str) -> list[list[Tensor]]:
        """The K gradients of an encoder, in the order of its losses; they are held no longer."""
        own = self.found.pop(m)
        return [own[k] for k in sorted(own)]


def _weights(rule: Rule, gramians: Tensor) -> Tensor:
    """The rule's weights (…, K); what it says once, (K,), counts for all encoders and tensors.

    Raises TypeError for what is no tensor, ValueError for weights of another shape.
    """
    found: object = rule(gramians)
    if not isinstance(found, Tensor):
        raise TypeError(
            f"the rule gives {kind_of(found)}; it must give a tensor of weights (…, K) "
            "from Gramians (…, K, K)"
        )
    _check_weights(found, gramians)
    return found.to(gramians).expand(gramians.shape[:-1])


def _check_weights(found: Tensor, gramians: Tensor) -> None:
    """Raises ValueError for weights that are neither (…, K) nor (K,)."""
    shape, wanted = tuple(found.shape), tuple(gramians.shape[:-1])
    pairs = zip(shape[::-1], wanted[::-1], strict=False)
    fits = len(shape) in (1, len(wanted)) and all(n in (1, k) for n, k in pairs)
    if not fits or shape[-1] != wanted[-1]:
        raise ValueError(
            f"the rule gives weights of the shape {shape} from Gramians of the shape "
            f"{tuple(gramians.shape)}; it must give {wanted}, or ({wanted[-1]},) for all"
        )


def _sum(losses: Sequence[Tensor]) -> Tensor:
    with torch.enable_grad():
        return losses[0] if len(losses) == 1 else torch.stack(list(losses)).sum(0)


def _combined(gradients: Sequence[list[Tensor]], weights: Tensor) -> list[Tensor]:
    """Σ_k w_k g_k, tensor by tensor, in the memory of the first; weights (…, 1 or T, K)."""
    taken: set[int] = set()
    total = [owned(g, taken) for g in gradients[0]]
    each = weights.expand(*weights.shape[:-2], len(total), -1).unbind(-2)
    for k, grads in enumerate(gradients):
        factors: Any = [align_to(g, w[..., k]) for g, w in zip(total, each, strict=True)]
        if k == 0:
            torch._foreach_mul_(total, factors)
        else:
            torch._foreach_addcmul_(total, grads, factors)
    return total


def owned(grad: Tensor, taken: set[int]) -> Tensor:
    """A gradient in memory that nothing else uses: the engine may give one to several tensors."""
    memory = grad.untyped_storage().data_ptr()
    if memory in taken or 0 in grad.stride():
        grad = grad.clone(memory_format=torch.contiguous_format)
    taken.add(memory)
    return grad


def _add(grads: Mapping[nn.Parameter, Tensor]) -> None:
    """Add to what stands in `.grad`, as a backward pass does."""
    for p, grad in grads.items():
        p.grad = laid_out(grad, p) if p.grad is None else p.grad + grad
