"""Gradients of linear layers as the two factors they are made of: W's is δᵀx.

x is what went into the layer, δ the gradient of the loss with respect to what came out, both with
one row per sample. Inner products of such gradients need no weight gradient: ⟨δᵀx, εᵀx⟩ is the sum
of δεᵀ times xxᵀ, entry by entry. That is cheaper while a batch has fewer samples than a layer has
features.

Where a layer stands is read from autograd's graph: the node that multiplies by the weight has kept
x, and a loss can be differentiated with respect to what the node gives.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node

Parameters = Sequence[nn.Parameter]

# node -> where its graph holds bias, input and weight, and the name under which it has kept x
PRODUCTS: dict[str, tuple[int | None, int, str]] = {
    "AddmmBackward0": (0, 2, "_saved_mat1"),
    "MmBackward0": (None, 1, "_saved_self"),
    "BaddbmmBackward0": (0, 2, "_saved_batch1"),
    "BmmBackward0": (None, 1, "_saved_self"),
}
TURNED = ("TBackward0", "TransposeBackward0")
"""How a weight (out, in) comes to a product: transposed."""


@dataclass
class Layer:
    """One linear layer in a forward pass.

    weight: its weight, (…, out, in).
    bias:   its bias, (…, out); None where the bias is not trained, or there is none.
    x:      what went in, (…, rows, in).
    edge:   what came out, as a place in the graph.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    x: Tensor
    edge: GradientEdge

    @property
    def out(self) -> Tensor:
        """A stand-in for what came out, (…, rows, out), without values."""
        shape = (*self.x.shape[:-1], self.weight.shape[-2])
        return self.x.new_empty(()).expand(shape)


def linear_layers(
    features: Mapping[str, Tensor], encoders: Mapping[str, Parameters], lead: int = 0
) -> dict[str, list[Layer]]:
    """The linear layers of those encoders for which the factors serve, and are the cheaper way.

    An encoder is left out if one of its trained parameters is not the weight or the bias of just
    one linear layer called once, is cast on the way (autocast), is shared with another encoder, or
    has a hook that waits for its gradient.

    Args:
        features: the output of each encoder, with its graph.
        encoders: the trained parameters of each.
        lead: axes that lead every parameter: 1 in a stack of networks, else 0. A weight with more
            axes is no linear layer: its gradient is not that of one.
    """
    users = Counter(p for own in encoders.values() for p in own)
    found = {}
    for m, parameters in encoders.items():
        root = features[m].grad_fn if parameters else None
        if root is None or any(users[p] > 1 or _is_waited_for(p) for p in parameters):
            continue
        layers = _layers_with_all(root, parameters, lead)
        if layers and _pays(layers):
            found[m] = _in_order(layers, parameters)
    return found


def _layers_with_all(root: Node, parameters: Parameters, lead: int) -> list[Layer]:
    """The linear layers under a node, if they have just these parameters, each once; else none."""
    layers, others = _read(root)
    held = [p for layer in layers for p in (layer.weight, layer.bias) if p is not None]
    each_once = len(held) == len(parameters) and set(held) == set(parameters)
    matrices = all(layer.weight.ndim == 2 + lead for layer in layers)
    return layers if each_once and matrices and not others else []


def _in_order(layers: list[Layer], parameters: Parameters) -> list[Layer]:
    place = {p: i for i, p in enumerate(parameters)}
    return sorted(layers, key=lambda layer: place[layer.weight])


def _is_waited_for(p: nn.Parameter) -> bool:
    return bool(p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None))


def _read(root: Node) -> tuple[list[Layer], bool]:
    """The linear layers under a node, and whether a parameter is used in any other way."""
    layers, others = [], False
    waiting, seen = [root], {root}
    while waiting:
        node = waiting.pop()
        layer = _layer(node)
        if layer is not None:
            layers.append(layer)
        elif hasattr(node, "variable"):
            others = True
        for following in _below(node, layer):
            if following not in seen:
                seen.add(following)
                waiting.append(following)
    return layers, others


def _below(node: Node, layer: Layer | None) -> Iterator[Node]:
    """The nodes under one: of a linear layer only the one that its input comes from."""
    edges = node.next_functions
    if layer is not None:
        bias, _, _ = PRODUCTS[node.name()]
        edges = edges[0 if bias is None else 1 :][:1]
    return (following for following, _ in edges if following is not None)


def _swaps_last(node: Node) -> bool:
    """Whether a transposition is one of the last two axes."""
    if node.name() == "TBackward0":
        return True
    weight = getattr(node.next_functions[0][0], "variable", None)
    axes = 0 if weight is None else weight.ndim
    swapped = {getattr(node, name, 0) for name in ("_saved_dim0", "_saved_dim1")}
    return {axis - 2**64 if axis >= 2**63 else axis - axes for axis in swapped} == {-1, -2}


def _layer(node: Node) -> Layer | None:
    """The linear layer whose product this node is; None for any other node."""
    if node.name() not in PRODUCTS:
        return None
    bias_at, weight_at, kept = PRODUCTS[node.name()]
    weight = _transposed(node.next_functions[weight_at][0])
    if weight is None:
        return None
    bias = None
    if bias_at is not None:
        added = node.next_functions[bias_at][0]
        bias = None if added is None else _added(added)
        plain = all(getattr(node, name, 1) == 1 for name in ("_saved_alpha", "_saved_beta"))
        fits = added is None or (bias is not None and bias.shape == weight.shape[:-1])
        if not plain or not fits:
            return None
    return Layer(weight, bias, getattr(node, kept), GradientEdge(node, 0))


def _transposed(node: Node | None) -> nn.Parameter | None:
    """The parameter whose last two axes a node swaps; None for any other node."""
    if node is None or node.name() not in TURNED or not _swaps_last(node):
        return None
    return getattr(node.next_functions[0][0], "variable", None)


def _added(node: Node) -> nn.Parameter | None:
    """The parameter that a product adds by this node; None for what is computed."""
    if node.name() == "UnsqueezeBackward0":  # (R, out) meets (R, rows, out)
        return getattr(node.next_functions[0][0], "variable", None)
    return getattr(node, "variable", None)


SPARED = 2**22
"""Multiplications that take about as long as the calls which the factors save."""


def _pays(layers: Sequence[Layer]) -> bool:
    """Whether products of samples are fewer than those of features, up to a factor 2, or few."""
    more = 0
    for layer in layers:
        *networks, out, into = layer.weight.shape
        rows = layer.x.shape[-2]
        more += math.prod(networks) * rows * (rows * (2 * out + into) - 2 * out * into)
    return more <= SPARED


def gram(layers: Sequence[Layer], deltas: Sequence[Tensor]) -> Tensor:
    """Inner products (…, K, K) of an encoder's K gradients; deltas (…, K, rows, out) per layer."""
    total: Tensor | int = 0
    for layer, delta in zip(layers, deltas, strict=True):
        rows = layer.x @ layer.x.mT
        if layer.bias is not None:
            rows = rows + 1  # the bias is the weight of a constant 1
        seen = rows.unsqueeze(-3) @ delta
        total = total + delta.flatten(-2) @ seen.flatten(-2).mT
    return torch.as_tensor(total)


def blended(
    layers: Sequence[Layer], deltas: Sequence[Tensor], weights: Tensor
) -> dict[nn.Parameter, Tensor]:
    """The K gradients of an encoder blended with weights (…, K), for each of its parameters."""
    grads: dict[nn.Parameter, Tensor] = {}
    for layer, delta in zip(layers, deltas, strict=True):
        mixed = (weights.unsqueeze(-2) @ delta.flatten(-2)).view(delta.select(-3, 0).shape)
        grads[layer.weight] = mixed.mT @ layer.x
        if layer.bias is not None:
            grads[layer.bias] = mixed.sum(-2)
    return grads
