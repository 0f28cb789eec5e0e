"""R networks of one shape as one network: every parameter carries a leading axis R.

Ordinary modules with batched matrix products and ordinary autograd. What the modules here cannot
stack themselves goes through `torch.func.vmap`, which is slower but right.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from mmlab.checks import kind_of
from mmlab.models.encoders import Scale
from mmlab.models.fusion import FUSIONS, Fusion
from mmlab.models.linear import StackedLinear
from mmlab.models.network import MultimodalNet
from mmlab.models.norm import StackedLayerNorm
from mmlab.nested import Nested

ELEMENTWISE = (
    *(nn.Identity, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus),
    *(nn.Sigmoid, nn.Tanh),
    Scale,
)
RANDOM = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


class UnstackableError(ValueError):
    """These modules cannot be stacked; the message names the module and what to do."""


class Vmapped(nn.Module):
    """R modules of any kind without buffers, called through `torch.func.vmap`."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.names = [name for name, _ in modules[0].named_parameters()]
        self.stacked = nn.ParameterList(_parameters([list(m.parameters()) for m in modules]))
        self.template = [copy.deepcopy(modules[0]).to("meta")]  # in a list: not a submodule

    def forward(self, x: Nested) -> Tensor:
        def one(parameters: dict[str, Tensor], x: Nested) -> Tensor:
            return functional_call(self.template[0], parameters, (x,))

        # a dropout of rate 0 calls for random numbers that it does not use
        together = vmap(one, randomness="different")
        if self.template[0].training != self.training:
            self.template[0].train(self.training)
        return together(dict(zip(self.names, self.stacked, strict=True)), x)


class NetworkStack(MultimodalNet):
    """R networks of one shape as one, which trains all of them at once; they are copied.

    Every parameter has a leading axis R, and so have inputs, features and logits.

    Raises UnstackableError (a ValueError) for what cannot be stacked: dropout, hooks, weights that
    two modules share, foreign modules with buffers, a fusion or a network class of one's own.
    """

    def __init__(self, networks: Sequence[MultimodalNet]) -> None:
        first = networks[0]
        known: dict[int, nn.Module] = {}
        if type(first) is not MultimodalNet:
            raise UnstackableError(
                f"a stack would not do what {type(first).__name__} does beyond a MultimodalNet; "
                f"{FIX}"
            )
        check_weights_are_single(first)
        super().__init__(
            {m: stack_modules([n.encoders[m] for n in networks], known) for m in first.encoders},
            stack_modules([n.fusion for n in networks], known),
            stack_modules([n.heads for n in networks], known),
        )
        self.replicas, self.task = len(networks), first.task
        self._one = [copy.deepcopy(first)]  # in a list: not a part of the network

    def replica(self, index: int) -> MultimodalNet:
        """Network `index` as an ordinary one; its parameters are views of the stack's.

        So it follows the training of the stack. Make it anew after moving the stack to a device.
        """
        one = copy.deepcopy(self._one[0])
        point_at(one, self, index)
        one.autocast = self.autocast
        return one.train(self.training)


def stack_modules(modules: Sequence[nn.Module], known: dict[int, nn.Module]) -> nn.Module:
    """One module that does to (R, B, ...) what `modules`, R of one shape, do to (B, ...) each.

    known: what has been stacked, by the first module's id, so that what was shared stays shared.
    Raises UnstackableError for buffers in foreign modules, for hooks, and for random layers: R
    networks in one program cannot draw what each would have drawn alone.
    """
    first = modules[0]
    if any(part._forward_hooks or part._forward_pre_hooks for part in first.modules()):
        raise UnstackableError(
            f"{type(first).__name__} has a hook, which was made for one network and would see a "
            f"stack, so it cannot be stacked; {FIX}"
        )
    if id(first) not in known:
        known[id(first)] = _stacked(modules, known)
    return known[id(first)]


def check_weights_are_single(network: nn.Module) -> None:
    """Raises UnstackableError where two modules share a parameter: a stack would part them."""
    owners: dict[nn.Parameter, str] = {}
    for place, module in network.named_modules():
        for name, parameter in module._parameters.items():
            here = f"{place}.{name}"
            if parameter is not None and owners.setdefault(parameter, here) != here:
                raise UnstackableError(
                    f"{owners[parameter]} and {here} are one parameter, so the network cannot be "
                    f"stacked; {FIX}"
                )


def _stacked(modules: Sequence[nn.Module], known: dict[int, nn.Module]) -> nn.Module:
    first = modules[0]
    kind = type(first)
    if kind in ELEMENTWISE:
        _check_alike(modules)
        return first
    if kind is nn.Linear:
        return StackedLinear(*_weight_and_bias(modules))
    if isinstance(first, nn.LayerNorm) and kind is nn.LayerNorm and first.elementwise_affine:
        _check_alike(modules)
        return StackedLayerNorm(first, *_weight_and_bias(modules))
    if isinstance(first, nn.Flatten) and kind is nn.Flatten:
        return nn.Flatten(_shifted(first.start_dim), _shifted(first.end_dim))
    if isinstance(first, nn.Unflatten) and kind is nn.Unflatten:
        return nn.Unflatten(_shifted(int(first.dim)), first.unflattened_size)
    if kind in (nn.Sequential, nn.ModuleDict, *FUSIONS.values()):
        return _composite(modules, known)
    if isinstance(first, Fusion):
        raise UnstackableError(
            f"{kind.__name__} is a fusion of your own, and its axes may not count from the end, so "
            f"it cannot be stacked; {FIX}"
        )
    for part in first.modules():
        if (part.p if isinstance(part, RANDOM) else _dropout(part)) > 0:
            raise UnstackableError(f"{part} draws random numbers, so it cannot be stacked; {FIX}")
        if isinstance(part, nn.RNNBase):
            raise UnstackableError(f"torch cannot stack {kind_of(part)}; {FIX}")
    if next(first.buffers(), None) is not None:
        raise UnstackableError(f"{kind.__name__} has buffers, so it cannot be stacked; {FIX}")
    return Vmapped(modules)


def _check_alike(modules: Sequence[nn.Module]) -> None:
    """Raises UnstackableError for modules of other settings, such as the eps of a LayerNorm."""
    first = modules[0]
    if len({repr(m) for m in modules}) > 1:
        raise UnstackableError(
            f"{first} of one network is {next(m for m in modules if repr(m) != repr(first))} "
            f"in another, so they cannot be stacked; {FIX}"
        )


def _weight_and_bias(modules: Sequence[nn.Module]) -> tuple[nn.Parameter, nn.Parameter | None]:
    weight, bias = ([m._parameters[name] for m in modules] for name in ("weight", "bias"))
    return _parameter(weight), None if bias[0] is None else _parameter(bias)


def _dropout(part: nn.Module) -> float:
    """The rate of attention and recurrent layers, which drop out without a module for it."""
    rate = getattr(part, "dropout", 0.0)
    return rate if isinstance(rate, float | int) else 0.0


FIX = "train the seeds one by one: fit(..., seed=s), or fit_seeds, which does it by itself"


def _composite(modules: Sequence[nn.Module], known: dict[int, nn.Module]) -> nn.Module:
    """A module that is only its parts, and whose own axes all count from the end."""
    result = copy.copy(modules[0])
    result._parameters = {
        name: _parameter([m._parameters[name] for m in modules]) for name in result._parameters
    }
    result._buffers = {
        name: torch.stack([m.get_buffer(name) for m in modules]) for name in result._buffers
    }
    result._modules = {
        name: stack_modules([m.get_submodule(name) for m in modules], known)
        for name in result._modules
    }
    return result


def _parameters(lists: Sequence[Sequence[nn.Parameter]]) -> list[nn.Parameter]:
    return [_parameter(group) for group in zip(*lists, strict=True)]


def _parameter(parameters: Sequence[nn.Parameter | None]) -> nn.Parameter:
    found = [p for p in parameters if p is not None]
    shapes = {tuple(p.shape) for p in found}
    if len(shapes) > 1 or len(found) < len(parameters):
        raise UnstackableError(f"parameters of the shapes {shapes} cannot be stacked; {FIX}")
    stacked = torch.stack([p.detach() for p in found])
    return nn.Parameter(stacked, requires_grad=found[0].requires_grad)


def _shifted(dim: int) -> int:
    return dim + 1 if dim >= 0 else dim


def point_at(module: nn.Module, stacked: nn.Module, index: int) -> None:
    """Let the parameters and buffers of `module` be views of those of `stacked` at `index`."""
    for own, theirs in zip(module.parameters(), stacked.parameters(), strict=True):
        own.data = theirs.data[index]
    slots = [(part, name) for part in module.modules() for name in part._buffers]
    for (part, name), buffer in zip(slots, stacked.buffers(), strict=True):
        part._buffers[name] = buffer[index]
