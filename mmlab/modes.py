"""Evaluation mode for a moment: every part gets its own mode back, whatever happens."""

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
