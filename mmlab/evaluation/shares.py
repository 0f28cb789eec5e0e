"""Who decides: each modality's part of the joint logits, and how far apart the features lie."""

from __future__ import annotations

import torch

from mmlab.datasets.base import Batch
from mmlab.evaluation.metrics import check_finite, check_labels
from mmlab.evaluation.passes import forward, to_model
from mmlab.models.network import MultimodalNet


def modality_gap(model: MultimodalNet, batch: Batch) -> float:
    """Mean distance between the modalities' feature centroids, features scaled to unit length.

    The measure of Liang et al. 2022 ("Mind the gap"), averaged over the pairs of modalities.

    Raises ValueError for one modality, FloatingPointError for features that are not finite.
    """
    features = forward(model, batch).features
    names = list(features)
    if len(names) < 2:
        raise ValueError(f"a gap needs two modalities; the model has {names}")
    for m, values in features.items():
        check_finite(f"the features of {m!r}", values)
    centroids = torch.stack(
        [torch.nn.functional.normalize(features[m], dim=-1).mean(0) for m in names]
    )
    return torch.nn.functional.pdist(centroids).mean().item()


@torch.no_grad()
def shapley_shares(model: MultimodalNet, batch: Batch) -> dict[str, float]:
    """Each modality's share of what moves the right class's logit, for or against; they sum to 1.

    The mean absolute contribution to the target's logit, each sample's contributions first centred
    over the classes (a constant added to all logits changes no prediction).

    Raises ValueError for real-valued targets, FloatingPointError for parts that are not finite.
    """
    check_labels("shapley_shares", batch.target)
    batch = to_model(model, batch)
    parts = forward(model, batch).contributions
    for m, part in parts.items():
        check_finite(f"the parts of {m!r} in the joint logits", part)
    index = batch.target.long()[:, None]
    sizes = {
        m: (z - z.mean(-1, keepdim=True)).gather(-1, index).abs().mean() for m, z in parts.items()
    }
    total = sum(sizes.values())
    return {m: (size / total).item() for m, size in sizes.items()}
