"""A network over a whole split, in parts that fit the memory, to measure and not to train."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from mmlab.datasets.base import Split
from mmlab.datasets.splits import pieces
from mmlab.evaluation.arguments import check_network
from mmlab.models.network import MultimodalNet, Output
from mmlab.training.passes import Reading, read


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
