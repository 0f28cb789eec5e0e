"""The standing controls: what a method must beat before we say that its idea works.

Each is the cheapest answer to one question. What do networks reach that were trained separately
(`Ensemble`)? Has one input larger numbers than the others, or one encoder a rate that does not fit
(`ScaledInputs`, `EncoderRates`)? How much is lost in the joint head alone (`RefittedHead`)? The
method `DGL` is a control too: is it enough to train encoders and fusion apart?
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from mmlab.checks import check_number, check_whole
from mmlab.models.network import Output, for_averaging, masks_of
from mmlab.training.balancer import Balancer, Joint, NetworkOptions, Training
from mmlab.training.step import Step


class Ensemble(Balancer):
    """UME: every modality is trained alone, and the mean of their log-probabilities predicts.

    Encoder and head of a modality see its own loss and nothing else, so they are those of a network
    that has no other modality: as many trainings as modalities, in one program. Real-valued
    predictions, and the log-odds of labels, are averaged as they are. Samples average over the
    modalities that they have.

    Source: the control of Du et al., "On Uni-Modal Feature Learning in Supervised Multi-Modal
    Learning", ICML 2023.
    """

    def start(self, run: Training) -> None:
        if run.model.shared_head:
            raise ValueError(
                "an ensemble of networks trained alone needs one head per modality, and this "
                "network has one for all; build it with heads='own'"
            )

    def step(self, s: Step) -> Iterator[None]:
        s.backward(s.losses.stack(*s.modalities))
        yield

    def fuse(self, out: Output, present: Mapping[str, Tensor] | None = None) -> Tensor:
        answers = torch.stack([for_averaging(z, out.task) for z in out.unimodal.values()], dim=-3)
        masks = masks_of(out, present)
        if masks is None:
            return answers.mean(-3)
        masks = masks[..., None]
        return torch.where(masks, answers, 0).sum(-3) / masks.sum(-3)


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

    def start(self, run: Training) -> None:
        for m, scale in self.scales.items():
            if run.model.scales[m] != scale:
                raise ValueError(
                    f"this network does not scale {m!r} by {scale}; build it with "
                    "MultimodalNet.build(data, **balancer.network)"
                )


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

    Where this is better than `Joint`, the difference came from the joint head.

    Args:
        refit_epochs: epochs of the second training, in addition to the first; None: as many. It
            begins with the learning rates and the weights that the fusion began with.

    Source: ours.

    Raises:
        TypeError, ValueError: an argument out of range, or a fusion without trained parameters.
    """

    def __init__(self, refit_epochs: int | None = None) -> None:
        if refit_epochs is not None:
            check_whole("refit_epochs", refit_epochs, least=1)
        self.refit_epochs = refit_epochs

    def start(self, run: Training) -> None:
        fusion = run.model.fusion
        if not any(p.requires_grad for p in fusion.parameters()):
            raise ValueError(
                f"this {type(fusion).__name__} has no trained parameter, so it cannot be refitted; "
                "let it be trained, or use Joint"
            )
        self.first = {name: value.clone() for name, value in fusion.state_dict().items()}
        self.rates = [group["lr"] for group in run.optimizer.param_groups]

    def finish(self, run: Training) -> None:
        run.model.fusion.load_state_dict(self.first)
        refitted = run.branch(_FusionAlone(self.rates), self.refit_epochs or run.epochs)
        run.model.fusion.load_state_dict(refitted.fusion.state_dict())


class _FusionAlone(Balancer):
    """The second training of `RefittedHead`."""

    def __init__(self, rates: list[float]) -> None:
        self.rates = rates

    def start(self, run: Training) -> None:
        run.reset_momentum()
        for group, rate in zip(run.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate

    def step(self, s: Step) -> Iterator[None]:
        s.backward(s.losses["joint"], encoders=False)
        yield
