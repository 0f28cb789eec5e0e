"""What predicts, and nothing else: a network and its method as one plain module."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self

from torch import Tensor, nn

from mmlab.models.rows import of_every_frame
from mmlab.nested import tensors


class Predictor(Protocol):
    """What predicts from a forward pass, as every `mmlab.Balancer` does."""

    def fuse(self, out: Any, present: Mapping[str, Tensor] | None = None) -> Tensor:
        """The prediction, (B, C)."""


class JointLogits:
    """Predicts by the joint logits, as most methods do."""

    def fuse(self, out: Any, present: Mapping[str, Tensor] | None = None) -> Tensor:
        return out.joint


class Inference(nn.Module):
    """A network and the method that it was trained with: inputs in, predictions out.

    `MultimodalNet.inference` makes it. Both are deep copies in evaluation mode: a later training
    does not change them. The numbers, the tensors and the modules that the method keeps beside the
    network, and may predict by, belong to the `state_dict`, and `.to(device)` moves them.

    network:   gives an Output from inputs.
    predictor: gives the prediction from an Output.

    The attribute `own` holds the predictor's own modules.
    """

    def __init__(self, network: nn.Module, predictor: Predictor) -> None:
        super().__init__()
        self.network, self.predictor = copy.deepcopy((network, predictor))
        kept = vars(self.predictor).items()
        self.own = nn.ModuleDict({name: x for name, x in kept if isinstance(x, nn.Module)})
        self.eval()

    def forward(
        self, inputs: Mapping[str, Any], present: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Predictions (B, C), or (B, T, C) of each frame, the same as `Run.predict` gives.

        Args:
            inputs: what the network takes, one entry per modality.
            present: where samples lack modalities: booleans (B,) for every modality.

        Raises ValueError for other modalities than the network's.
        """
        out = self.network(inputs)
        if not self.network.frames:
            return self.predictor.fuse(out, present)
        samples = len(next(iter(tensors(next(iter(inputs.values()))).values())))
        return of_every_frame(self.predictor.fuse, out, samples, present)

    def get_extra_state(self) -> dict[str, Any]:
        """The numbers that the method keeps, such as the weights of Gradient-Blending."""
        return {name: x for name, x in vars(self.predictor).items() if _is_kept(x)}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Give the method copies of what `get_extra_state` gave, where and as the network is."""
        p = next(self.network.parameters())

        def alike(x: Tensor) -> Tensor:
            return x.to(p.device, p.dtype if x.is_floating_point() else x.dtype, copy=True)

        vars(self.predictor).update({name: _mapped(alike, x) for name, x in state.items()})

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `.to`, `.double` and the like do to each tensor."""
        kept = self.get_extra_state().items()
        vars(self.predictor).update({name: _mapped(fn, x) for name, x in kept})
        return super()._apply(fn, recurse)


def _is_kept(x: object) -> bool:
    """Whether it is a number or a tensor, or holds nothing but these."""
    if isinstance(x, dict | list | tuple):
        return all(map(_is_kept, x.values() if isinstance(x, dict) else x))
    return isinstance(x, Tensor | bool | int | float)


def _mapped(fn: Callable[[Tensor], Tensor], x: Any) -> Any:
    """A copy in which each tensor is what fn makes of it."""
    if isinstance(x, Tensor):
        return fn(x)
    if isinstance(x, bool | int | float):
        return x
    if isinstance(x, dict):
        return {key: _mapped(fn, value) for key, value in x.items()}
    return type(x)(_mapped(fn, value) for value in x)
