"""A module's state for a moment: afterwards everything is as it was, whatever happens."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType

from torch import Tensor, nn

RATED = (nn.modules.dropout._DropoutNd, nn.RNNBase, nn.MultiheadAttention)
"""Parts of torch that draw random numbers in training, at a rate that may be 0."""
UNRATED = (nn.modules.batchnorm._NormBase, nn.RReLU)
"""Parts of torch that may normalise by the batch in training, or draw slopes there."""


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """All parts in evaluation mode; afterwards each as it was, a frozen part's own mode too."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def differs_in_training(module: nn.Module) -> bool:
    """Whether a module may give something else in training than in evaluation mode.

    Torch's own parts are known. Of another class the code is asked whether it reads `training`.
    """
    return any(part.training and _differs(part) for part in module.modules())


def _differs(part: nn.Module) -> bool:
    if isinstance(part, RATED):
        return bool(part.p if hasattr(part, "p") else part.dropout)
    if isinstance(part, UNRATED) or type(part).__module__.startswith("torch."):
        return isinstance(part, UNRATED)
    own = [kind for kind in type(part).__mro__ if not kind.__module__.startswith("torch.")]
    code = [f.__code__ for kind in own for f in vars(kind).values() if isinstance(f, FunctionType)]
    return any("training" in one.co_names for one in code)


def buffers_of(module: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    """Every buffer with its part and its name there; a shared one as often as it is held."""
    return [
        (part, name, buffer)
        for part in module.modules()
        for name, buffer in part._buffers.items()
        if buffer is not None
    ]


@contextmanager
def sparing_buffers(module: nn.Module, values: Sequence[Tensor] | None = None) -> Iterator[None]:
    """Statistics that a pass moves are moved in copies; afterwards the old ones are back.

    The old tensors themselves: to restore values in place would spoil a graph that needs them.

    values: what the pass finds, in the order of `buffers_of`; by default what is there.
    """
    old = buffers_of(module)
    found = [buffer for *_, buffer in old] if values is None else values
    for (part, name, _), value in zip(old, found, strict=True):
        part._buffers[name] = value.clone()
    try:
        yield
    finally:
        for part, name, buffer in old:
            part._buffers[name] = buffer


def training_mode(module: nn.Module) -> None:
    """All parts in training mode, but for frozen ones that are in evaluation mode: they stay in it.

    Frozen: it has parameters, and none of them is trained. So BatchNorm's statistics in an encoder
    that somebody has put aside stay as they are.
    """
    kept = [part for part in module.modules() if not part.training and _is_frozen(part)]
    module.train()
    for part in kept:
        part.eval()


def _is_frozen(part: nn.Module) -> bool:
    trained = [p.requires_grad for p in part.parameters()]
    return bool(trained) and not any(trained)
