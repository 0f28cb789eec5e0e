"""What the methods are measured against: joint training, one modality alone, the uniform sum."""

from collections.abc import Iterator, Mapping

from torch import Tensor

from mmlab.balancers.base import Balancer, Step
from mmlab.balancers.shapes import check_number, per_replica
from mmlab.models.network import Output


class Joint(Balancer):
    """One loss on the fused logits: the baseline that the five papers set out from."""

    stackable = True


class Uniform(Balancer):
    """Joint loss plus all unimodal losses, each with weight 1: the fair control.

    encoder_scale: multiplies the encoders' gradients; 1.5 gives MMPareto's control, the uniform
                   sum at MMPareto's encoder rate. The heads are not touched. A tensor (R,) gives
                   each network of a stack its own.
    """

    stackable = True
    by_replica = ("encoder_scale",)

    def __init__(self, encoder_scale: float | Tensor = 1.0) -> None:
        check_number("encoder_scale", encoder_scale, above=0)
        self.encoder_scale = encoder_scale

    def step(self, s: Step) -> Iterator[None]:
        losses = s.losses.stack()
        if isinstance(self.encoder_scale, Tensor) or self.encoder_scale != 1:
            for m, features in s.out.features.items():
                k = per_replica(self.encoder_scale, features, s.model.replicas)
                s.scale_backward(m, k)
        s.backward(losses)
        yield


class Unimodal(Balancer):
    """Modality `m` alone: its encoder and its own head; it also predicts with them alone.

    The other encoders do not even run.

    Raises KeyError at the first step if the model has no modality `m`.
    """

    stackable = True

    def __init__(self, m: str) -> None:
        self.m = m

    @property
    def name(self) -> str:
        return f"Unimodal({self.m!r})"

    def step(self, s: Step) -> Iterator[None]:
        s.only(self.m)
        s.backward(s.losses[self.m])
        yield

    def fuse(self, out: Output, present: Mapping[str, Tensor] | None = None) -> Tensor:
        return out.unimodal[self.m]
