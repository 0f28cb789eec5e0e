"""The standing controls: what a balancing method must beat before its idea is credited.

Each is the cheapest answer to one question. Do the modalities help each other at all (`Ensemble`)?
Is one input merely louder (`ScaledInputs`, `EncoderRates`)? Does the loss sit in the joint head
(`RefittedHead`)? Is it enough to keep the encoders apart (`DGL`)?
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from mmlab.checks import check_number, check_whole
from mmlab.models.network import Output
from mmlab.training.balancer import Balancer, Joint, NetworkOptions, Training
from mmlab.training.step import Step


class Ensemble(Balancer):
    """UME: every modality is trained alone, and the mean of their log-probabilities predicts.

    Encoder and head of a modality see its own loss and nothing else, so they are those of a network
    that has no other modality: as many trainings as modalities, in one program. Real-valued
    predictions are averaged as they are. Samples average over the modalities that they have.

    Source: the control of Du et al., "On Uni-Modal Feature Learning in Supervised Multi-Modal
    Learning", ICML 2023.
    """

    def step(self, s: Step) -> Iterator[None]:
        s.backward(s.losses.stack(*s.modalities))
        yield

    def fuse(self, out: Output, present: Mapping[str, Tensor] | None = None) -> Tensor:
        answers = torch.stack([_said(z) for z in out.unimodal.values()], dim=-3)
        if present is None:
            return answers.mean(-3)
        masks = torch.stack([present[m] for m in out.unimodal], dim=-2)[..., None]
        return torch.where(masks, answers, 0).sum(-3) / masks.sum(-3)


def _said(logits: Tensor) -> Tensor:
    """Log-probabilities (…, B, C) of the classes; a real number (…, B, 1) stays."""
    return logits if logits.shape[-1] == 1 else logits.log_softmax(-1)


class DGL(Balancer):
    """Encoders learn from their own losses alone, the fusion from the joint loss alone.

    Source: "Disentangled Gradient Learning", ICCV 2025, with a weight of 1 on every loss. The
    fusion sees the features that the encoders have at the moment, so this is `Ensemble`'s encoders
    under a learnt fusion.
    """

    def step(self, s: Step) -> Iterator[None]:
        s.backward(s.losses["joint"], encoders=False)
        s.backward(s.losses.stack(*s.modalities))
        yield


class ScaledInputs(Joint):
    """Joint training with inputs multiplied by a constant: is one of them merely louder?

    Args:
        scales: modality -> factor above 0; 1 where it is not named. Choose them on the holdout
            (`mmlab.experiments.tune`).

    Encoders that normalise undo it; see `EncoderRates`. Source: ours.

    Raises:
        TypeError, ValueError: a factor that is no number above 0.
    """

    def __init__(self, /, **scales: float) -> None:
        for m, scale in scales.items():
            check_number(m, scale, above=0)
        self.scales = scales

    @property
    def network(self) -> NetworkOptions:
        return {**super().network, "scale": self.scales}


class EncoderRates(Joint):
    """Joint training with a learning rate of its own for each encoder.

    Args:
        rates: modality -> factor above 0 on the gradient of its encoder; 1 where it is not named.
            Choose them on the holdout (`mmlab.experiments.tune`).

    Under plain SGD and momentum the factor is one on the learning rate; weight decay is not
    multiplied. Source: ours.

    Raises:
        TypeError, ValueError: a factor that is no number above 0, or, at the first step, an unknown
            modality.
    """

    def __init__(self, /, **rates: float) -> None:
        for m, rate in rates.items():
            check_number(m, rate, above=0)
        self.rates = rates

    @property
    def lost_if_adaptive(self) -> str:
        plain = all(rate == 1 for rate in self.rates.values())
        return "" if plain else "is joint training; use SGD"

    def step(self, s: Step) -> Iterator[None]:
        unknown = [m for m in self.rates if m not in s.modalities]
        if unknown:
            raise ValueError(
                f"rates names {unknown[0]!r}, which is no modality; allowed are "
                f"{', '.join(map(repr, s.modalities))}"
            )
        loss = s.losses["joint"]
        rates = [self.rates.get(m, 1.0) for m in s.modalities]
        s.backward(loss, scale=torch.tensor(rates, dtype=loss.dtype, device=loss.device))
        yield


class RefittedHead(Joint):
    """Joint training; at its end the fusion starts anew and is trained on the frozen encoders.

    What this wins over `Joint` sat in the joint head alone.

    Args:
        epochs: how many the fusion gets; None: as many as the training had. They come on top.

    Source: ours.
    """

    def __init__(self, epochs: int | None = None) -> None:
        if epochs is not None:
            check_whole("epochs", epochs, least=1)
        self.epochs = epochs

    def start(self, run: Training) -> None:
        self.first = [p.detach().clone() for p in run.model.fusion.parameters()]

    def finish(self, run: Training) -> None:
        _put(self.first, run.model.fusion)
        refitted = run.branch(_FusionAlone(), self.epochs or run.epochs)
        _put(refitted.fusion.parameters(), run.model.fusion)


class _FusionAlone(Balancer):
    """The second training of `RefittedHead`."""

    def start(self, run: Training) -> None:
        run.reset_momentum()

    def step(self, s: Step) -> Iterator[None]:
        s.backward(s.losses["joint"], encoders=False)
        yield


@torch.no_grad()
def _put(values: Iterable[Tensor], module: torch.nn.Module) -> None:
    for parameter, value in zip(module.parameters(), values, strict=True):
        parameter.copy_(value)
