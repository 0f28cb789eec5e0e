"""Gradients of linear layers as the two factors they are made of: W's is δᵀx.

x is what went into the layer, δ the gradient of the loss with respect to what came out, both with
one row a sample. Inner products of such gradients need no weight gradient: ⟨δᵀx, εᵀx⟩ is the sum of
δεᵀ times xxᵀ, entry by entry. Cheaper while a batch has fewer samples than a layer has features.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from mmlab.models.linear import StackedLinear
from mmlab.models.stack import ELEMENTWISE

LAYERS = (nn.Linear, StackedLinear)
BETWEEN = (*ELEMENTWISE, nn.Flatten, nn.Unflatten)


@dataclass
class Tape:
    """The inputs and outputs of the linear layers of some encoders, during one forward pass.

    Takes the encoders that are linear layers with entrywise functions between them, all trainable,
    where the factors are the cheaper way for batches of `size` samples. Others are left out, and
    encoders that share a weight; and so, after the pass, are encoders whose layers it called more
    than once, not on rows (B, D), in another type than their weights' (autocast), or whose outputs
    have no graph or were overwritten in place.
    """

    encoders: Mapping[str, nn.Module]
    size: int
    layers: dict[str, list[nn.Module]] = field(default_factory=dict)
    inputs: dict[nn.Module, Tensor] = field(default_factory=dict)
    outputs: dict[nn.Module, Tensor] = field(default_factory=dict)
    nodes: dict[nn.Module, object] = field(default_factory=dict)
    calls: Counter[nn.Module] = field(default_factory=Counter)

    def __enter__(self) -> Tape:
        users = Counter(p for encoder in self.encoders.values() for p in encoder.parameters())
        for m, encoder in self.encoders.items():
            layers = linear_layers(encoder)
            alone = all(users[p] == 1 for p in encoder.parameters())
            if layers and alone and _pays(layers, self.size):
                self.layers[m] = layers
        every = {layer for layers in self.layers.values() for layer in layers}
        self._hooks = [layer.register_forward_hook(self._note) for layer in every]
        return self

    def _note(self, layer: nn.Module, given: tuple[Tensor], result: Tensor) -> None:
        self.inputs[layer], self.outputs[layer] = given[0].detach(), result
        self.nodes[layer] = result.grad_fn
        self.calls[layer] += 1

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self.layers = {m: own for m, own in self.layers.items() if all(map(self._whole, own))}

    def _whole(self, layer: nn.Module) -> bool:
        """Whether one input of rows made all of the layer's gradient, by the output noted."""
        if self.calls[layer] != 1 or self.inputs[layer].ndim != layer.weight.ndim:
            return False
        if self.nodes[layer] is None or self.outputs[layer].grad_fn is not self.nodes[layer]:
            return False
        types = {x.dtype for x in (self.inputs[layer], self.outputs[layer], layer.weight)}
        return len(types) == 1

    def wanted(self, m: str) -> list[Tensor]:
        """What to differentiate with respect to, for encoder m: its layers' outputs."""
        return [self.outputs[layer] for layer in self.layers[m]]

    def gram(self, m: str, deltas: list[Tensor]) -> Tensor:
        """Inner products (…, K, K) of K gradients of encoder m; deltas: a layer (…, K, B, D)."""
        total = 0
        for layer, delta in zip(self.layers[m], deltas, strict=True):
            x = self.inputs[layer]
            samples = x @ x.mT
            if layer.bias is not None:
                samples = samples + 1  # the bias is the weight of a constant 1
            seen = samples.unsqueeze(-3) @ delta
            total = total + delta.flatten(-2) @ seen.flatten(-2).mT
        return total

    def blend(self, m: str, deltas: list[Tensor], weights: Tensor) -> list[Tensor]:
        """The gradient of encoder m: the K gradients blended with weights (…, K)."""
        grads = []
        for layer, delta in zip(self.layers[m], deltas, strict=True):
            mixed = (weights.unsqueeze(-2) @ delta.flatten(-2)).view(delta.select(-3, 0).shape)
            grads.append(mixed.mT @ self.inputs[layer])
            if layer.bias is not None:
                grads.append(mixed.sum(-2))
        return grads


def linear_layers(encoder: nn.Module) -> list[nn.Module]:
    """The linear layers of an encoder that has no other parameters; empty for any other encoder.

    And for a compiled one, whose layers nobody sees.
    """
    if encoder._compiled_call_impl is not None:
        return []
    parts = list(encoder) if type(encoder) is nn.Sequential else [encoder]
    if not all(map(_is_known, parts)):
        return []
    layers = [part for part in parts if type(part) in LAYERS]
    parameters = [p for layer in layers for p in layer.parameters()]
    once = len(set(layers)) == len(layers) and len(set(parameters)) == len(parameters)
    return layers if once and all(map(_is_plain, parameters)) else []


def _is_plain(parameter: nn.Parameter) -> bool:
    """Whether it is trained, and no hook waits for its gradient."""
    return parameter.requires_grad and not parameter._backward_hooks


def _is_known(part: nn.Module) -> bool:
    """Whether a part does what its type says and no more.

    A hook may change what comes out, as pruning and weight normalisation do; a function in place
    overwrites a layer's output, with respect to which the tape differentiates.
    """
    hooked = part._forward_hooks or part._forward_pre_hooks
    inplace = getattr(part, "inplace", False)
    return type(part) in (*LAYERS, *BETWEEN) and not hooked and not inplace


SPARED = 2**22
"""Multiplications that take about as long as the calls which an encoder on the tape saves."""


def _pays(layers: list[nn.Module], size: int) -> bool:
    """Whether products of samples are fewer than those of features, up to a factor 2, or few."""
    more = 0
    for layer in layers:
        *replicas, out, into = layer.weight.shape
        more += math.prod(replicas) * (size * (2 * out + into) - 2 * out * into)
    return size * more <= SPARED
