"""A network over a whole split, in parts that fit the memory, to measure and not to train."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from mmlab.checks import kind_of
from mmlab.datasets.base import Split
from mmlab.datasets.splits import pieces
from mmlab.models.network import MultimodalNet, Output
from mmlab.training import Run
from mmlab.training.passes import Reading, read


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


def forward(model: MultimodalNet, batch: Split) -> Output:
    """Features and logits in evaluation mode, without a graph; the model's mode is put back."""
    found = read_output(model, batch, _everything)
    named: dict[str, dict[str, Tensor]] = {"features": {}, "unimodal": {}}
    for name, values in found.values.items():
        part, _, m = name.partition(" ")
        named.setdefault(part, {})[m] = values
    joint = named["joint"][""]
    out = Output(named["features"], joint, named["unimodal"], fusion=model.fusion)
    out.task = model.task
    return out


def _everything(out: Output) -> dict[str, Tensor]:
    return (
        {"joint": out.joint}
        | {f"features {m}": h for m, h in out.features.items()}
        | {f"unimodal {m}": z for m, z in out.unimodal.items()}
    )


def read_output(
    model: MultimodalNet, split: Split, what: Callable[[Output], dict[str, Tensor]]
) -> Reading:
    """What `what` takes of the network's output, of every sample of a split.

    Memory is needed for one part of the split, and for what is taken.
    """
    check_network(model)
    on_device = split.to(next(model.parameters()).device)
    return read(model, pieces(on_device), lambda _, out: what(out))
