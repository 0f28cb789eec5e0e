"""Where the joint and the unimodal gradients pull in each encoder, and how hard."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mmlab import gradients
from mmlab.checks import check_whole
from mmlab.datasets.base import Batch
from mmlab.evaluation.arguments import check_network
from mmlab.models.modes import evaluating
from mmlab.models.network import MultimodalNet
from mmlab.training import Run, Step
from mmlab.training.losses import Loss
from mmlab.training.processes import alike


class GradientWatch:
    """Observer: after each epoch, norms and cosines of the gradients that meet in each encoder.

    For every encoder, on one fixed batch of training data: the norm of the joint loss's gradient
    ("joint norm"), of its own unimodal loss's ("unimodal norm"), and the cosine between the two.

    Raises ValueError for a size that is no whole number of at least 1.
    """

    only_looks = True

    def __init__(self, size: int = 256) -> None:
        check_whole("size", size, least=1)
        self.size = size

    def __call__(self, run: Run) -> None:
        batch = run.data.train.head(self.size).to(run.device)
        for m, row in gradient_conflict(run.model, batch, run.loss).items():
            for metric, value in row.items():
                run.record("train", m, metric, value)


def gradient_conflict(
    model: MultimodalNet, batch: Batch, loss: Loss | None = None
) -> dict[str, Mapping[str, float]]:
    """Norms and cosine of the joint and the unimodal gradient in each encoder; `.grad` is kept.

    Frozen encoders, which have no gradient, are left out.

    Raises FloatingPointError for gradients that are not finite.
    """
    check_network(model)
    with alike():  # of several processes each measures the same batch
        s = Step(model, batch.to(next(model.parameters()).device), loss=loss)
    rows: dict[str, Mapping[str, float]] = {}
    with evaluating(model):
        for m in model.modalities:
            g, u = s.grad(s.losses["joint"], m), s.grad(s.losses[m], m)
            if not g:
                continue
            rows[m] = {
                "joint norm": gradients.norm(g).item(),
                "unimodal norm": gradients.norm(u).item(),
                "cosine": gradients.cosine(g, u).item(),
            }
            for norm in ("joint norm", "unimodal norm"):
                if not math.isfinite(rows[m][norm]):
                    raise FloatingPointError(
                        f"the {norm} of the gradients in encoder {m!r} is {rows[m][norm]}; lower "
                        "lr, or look for NaN in the inputs"
                    )
    return rows


def gradient_norms(model: MultimodalNet, batch: Batch) -> dict[str, float]:
    """Norm of the joint loss's gradient in each encoder."""
    return {m: row["joint norm"] for m, row in gradient_conflict(model, batch).items()}
