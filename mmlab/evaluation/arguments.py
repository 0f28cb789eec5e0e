"""What a measure looks at: a run, or a network. What is neither is refused by its name."""

from __future__ import annotations

from mmlab.checks import kind_of
from mmlab.models.network import MultimodalNet
from mmlab.training import Run


def check_run(run: object) -> None:
    """Refuse what is no Run, where the prediction of a balancer is measured. Raises TypeError."""
    if not isinstance(run, Run):
        raise TypeError(f"got {kind_of(run)} in place of a run; give the Run that `fit` returns")


def check_network(model: object) -> None:
    """Refuse what is no network, where a network alone is measured. Raises TypeError."""
    if not isinstance(model, MultimodalNet):
        raise TypeError(
            f"got {kind_of(model)} in place of a network; give a MultimodalNet, as `run.model`"
        )
