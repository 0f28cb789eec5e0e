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
