"""A module's state for a moment: afterwards everything is as it was, whatever happens."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


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


@contextmanager
def sparing_buffers(module: nn.Module) -> Iterator[None]:
    """Statistics that a pass moves are moved in copies; afterwards the old ones are back.

    The old tensors themselves: to restore values in place would spoil a graph that needs them.
    """
    old = [
        (part, name, buffer)
        for part in module.modules()
        for name, buffer in part._buffers.items()
        if buffer is not None
    ]
    for part, name, buffer in old:
        part._buffers[name] = buffer.clone()
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
