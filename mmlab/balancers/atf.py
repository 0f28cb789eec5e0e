"""ATF: an adaptive tracking factor λ_m scales the learning rate of each modality's encoder.

Sun, Mai, Hu, "Learning to Balance the Learning Rates Between Various Modalities via Adaptive
Tracking Factor", IEEE Signal Processing Letters 28, 2021.

The paper has no public code, and we could not read it: ACE follows a second-hand description of it,
and the second hop of BDO is a reconstruction from its stated principle.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mmlab.checks import check_choice, check_flag, check_number, check_shapes, check_values
from mmlab.training.balancer import Balancer, Training
from mmlab.training.step import Step


def ace_update(factors: Tensor, losses: Tensor, rate: float | Tensor) -> Tensor:
    """ACE: λ' ∝ λ + a ℓ, the modality with the higher loss is given the higher rate.

    With Σλ = 1 and S = Σℓ it is a moving average: λ' = (1 − β)λ + β ℓ/S, β = aS/(1 + aS). So λ ≥ 0
    holds by itself, constant losses drive λ to ℓ/S, and losses of 0 leave λ.

    Args:
        factors: λ, (…, M), ≥ 0, sum 1.
        losses: ℓ, the unimodal losses, (…, M), ≥ 0.
        rate: a ≥ 0, in 1/loss; a number, or a tensor that broadcasts against (…, M).

    Returns:
        λ', (…, M), ≥ 0, sum 1, no unit.

    Raises:
        ValueError: the shapes do not fit, or ``rate`` is a negative number.

    Source: a description of the paper's ACE; the moving average is derived.
    """
    check_shapes(factors=(factors, "M"), losses=(losses, "M"))
    check_values("rate", rate, least=0)
    return _simplex(_plus(factors, rate, losses))


def bdo_update(
    preliminary: Tensor, losses_before: Tensor, losses_after: Tensor, rate: float | Tensor
) -> Tensor:
    """BDO's second hop: λ' ∝ max(λ + a (ℓ⁺ − ℓ), 0), a modality that just improved gives rate away.

    ℓ⁺ is the loss on the *same* batch after the parameter update made with the preliminary λ.
    Where every entry is 0, λ' is uniform.

    Args:
        preliminary: λ as ACE left it, (…, M), ≥ 0, sum 1.
        losses_before: ℓ, the unimodal losses before the parameter update, (…, M), ≥ 0.
        losses_after: ℓ⁺, the losses on the same batch after the update, (…, M), ≥ 0.
        rate: a ≥ 0, in 1/loss; a number, or a tensor that broadcasts against (…, M).

    Returns:
        λ', (…, M), ≥ 0, sum 1, no unit.

    Raises:
        ValueError: the shapes do not fit, or ``rate`` is a negative number.

    Source: a **reconstruction**; the sign is the one that fits the stated principle.
    """
    check_shapes(
        preliminary=(preliminary, "M"),
        losses_before=(losses_before, "M"),
        losses_after=(losses_after, "M"),
    )
    check_values("rate", rate, least=0)
    return _simplex(_plus(preliminary, rate, losses_after - losses_before).clamp(min=0))


def _simplex(x: Tensor) -> Tensor:
    """x ≥ 0 over its sum; uniform where every entry is 0."""
    total = x.sum(-1, keepdim=True)
    return (x / total).masked_fill(total == 0, 1 / x.shape[-1])


def _plus(factors: Tensor, rate: float | Tensor, change: Tensor) -> Tensor:
    """factors + rate · change, in one call where the rate is a number."""
    if isinstance(rate, Tensor):
        return factors + rate * change
    return torch.add(factors, change, alpha=rate)


class ATF(Balancer):
    """Adaptive tracking factors: encoder m learns at the rate η λ_m.

    One head is shared by all modalities and gives the unimodal losses. λ multiplies the encoder's
    *update*, not its loss, so it acts under adaptive optimisers too.

    Args:
        update: "ace" moves λ towards the higher losses; "bdo" takes a second hop, in which it looks
            at the same batch after the parameter update (a reconstruction).
        rate: a ≥ 0, in 1/loss: how fast λ moves. The paper's value is unknown.
        total: what the factors sum to: "modalities" (M, so that equal factors change nothing) or
            "one" (the paper's, which divides every encoder's rate by M).
        decoupled: whether an encoder learns from its unimodal loss alone, and not from the joint
            loss too. Which of the two the paper does is not known.

    Raises:
        ValueError: an argument out of range.

    Source: a description of the paper at second hand; see the module's docstring.

    >>> from mmlab import ATF, MultimodalNet, fit, load
    >>> data = load("av-digits", seed=0)
    >>> balancer = ATF(update="bdo", rate=0.1)
    >>> net = MultimodalNet.build(data, **balancer.network, seed=0)
    >>> run = fit(net, data, balancer, epochs=1)
    >>> factor = run.history.query("metric == 'factor'").value
    >>> round(float(factor.sum()), 3)
    2.0
    """

    heads = "shared"

    def __init__(
        self,
        update: str = "ace",
        rate: float = 0.1,
        total: str = "modalities",
        decoupled: bool = False,
    ) -> None:
        check_choice("update", update, ("ace", "bdo"))
        check_choice("total", total, ("modalities", "one"))
        check_number("rate", rate, least=0)
        check_flag("decoupled", decoupled)
        self.update, self.rate, self.total, self.decoupled = update, rate, total, decoupled
        self.factors: Tensor | None = None

    def start(self, run: Training) -> None:
        self.factors = None

    def step(self, s: Step) -> Iterator[None]:
        losses = s.losses.stack("joint", *s.modalities)
        before = losses[..., 1:].detach()
        if self.decoupled:
            s.backward(losses[..., 1:])
            s.backward(losses[..., 0], encoders=False)
        else:
            s.backward(losses)
        if self.factors is None:
            self.factors = torch.full_like(before, 1 / len(s.modalities))
        self.factors = ace_update(self.factors, self.known(before, self.factors, s), self.rate)
        total = len(s.modalities) if self.total == "modalities" else 1
        factor = dict(s.each(self.factors * total))
        for m, k in factor.items():
            s.scale_update(m, k)
        s.log(factor=factor)
        yield
        if self.update == "bdo":
            after = s.losses_again().stack(*s.modalities)
            self.factors = bdo_update(self.factors, before, after, self.rate)

    @staticmethod
    def known(losses: Tensor, factors: Tensor, s: Step) -> Tensor:
        """The losses, that of a modality which the whole batch lacks set so that λ_m stays.

        ACE leaves λ_m where ℓ_m = λ_m Σℓ. Its own loss, 0 for want of samples, would read as
        perfectly learnt.
        """
        if s.batch.present is None:
            return losses
        trusted = (factors * s.seen).sum(-1, keepdim=True)
        trusted = trusted.clamp(min=torch.finfo(losses.dtype).eps)
        total = (losses * s.seen).sum(-1, keepdim=True)
        return torch.where(s.seen, losses, factors * total / trusted)
