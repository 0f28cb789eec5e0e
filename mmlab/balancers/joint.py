"""What the methods are measured against: the uniform sum, and one modality alone."""

from collections.abc import Iterator, Mapping
from itertools import chain

import torch
from torch import Tensor, nn

from mmlab.checks import check_number
from mmlab.models.network import Output
from mmlab.training.balancer import Balancer, Batch, Training
from mmlab.training.step import Step


class Uniform(Balancer):
    """Joint loss plus all unimodal losses, each with weight 1: the baseline with the same losses.

    Args:
        encoder_scale: multiplies the encoders' gradients, above 0; 1.5 gives the baseline for
            MMPareto: the uniform sum at MMPareto's encoder rate. The heads are not touched.

    Raises:
        TypeError, ValueError: an argument out of range.
    """

    def __init__(self, encoder_scale: float = 1.0) -> None:
        check_number("encoder_scale", encoder_scale, above=0)
        self.encoder_scale = encoder_scale

    @property
    def lost_if_adaptive(self) -> str:
        plain = isinstance(self.encoder_scale, float | int) and self.encoder_scale == 1
        return "" if plain else "is Uniform() without encoder_scale; use SGD"

    def step(self, s: Step) -> Iterator[None]:
        s.backward(s.losses.stack(), scale=self.encoder_scale)
        yield


class Unimodal(Balancer):
    """Modality `m` alone: its encoder and its own head; it also predicts with them alone.

    The other encoders do not even run. It answers for the samples that have `m`, and is scored on
    these.

    Raises:
        KeyError: at the first step, if the model has no modality `m`.
    """

    def __init__(self, m: str) -> None:
        self.m = m

    @property
    def name(self) -> str:
        return f"Unimodal({self.m!r})"

    def step(self, s: Step) -> Iterator[None]:
        s.backward(s.losses[self.m])
        yield

    def fuse(self, out: Output, present: Mapping[str, Tensor] | None = None) -> Tensor:
        return out.unimodal[self.m]

    def answers(self, batch: Batch) -> Tensor | None:
        return batch.has(self.m)


def trained_alone(run: Training, epochs: int) -> dict[str, nn.Module]:
    """The encoder of each modality, trained alone from where the run is, with a head of its own.

    Raises:
        FloatingPointError: a training fails; the message names the modality.
    """
    found = {}
    for m in run.model.modalities:
        try:
            found[m] = run.branch(Unimodal(m), epochs).encoders[m]
        except FloatingPointError as error:
            raise FloatingPointError(f"in the training of {m!r} alone: {error}") from error
    return found


@torch.no_grad()
def take_values(module: nn.Module, of: nn.Module) -> None:
    """Give a module the parameters and buffers of one that is built alike."""
    mine, theirs = (chain(one.parameters(), one.buffers()) for one in (module, of))
    for own, value in zip(mine, theirs, strict=True):
        own.copy_(value)
