"""One pass of a network over a batch, to measure and not to train."""

from __future__ import annotations

import torch

from mmlab.datasets.base import Batch
from mmlab.models.modes import evaluating
from mmlab.models.network import MultimodalNet, Output


@torch.no_grad()
def forward(model: MultimodalNet, batch: Batch) -> Output:
    """One pass in evaluation mode, without a graph; the model's mode is put back."""
    with evaluating(model):
        out = model(to_model(model, batch).inputs)
        dict(out.unimodal)  # computed when read, and the mode is about to change
    return out


def to_model(model: MultimodalNet, batch: Batch) -> Batch:
    """The batch on the model's device."""
    return batch.to(next(model.parameters()).device)
