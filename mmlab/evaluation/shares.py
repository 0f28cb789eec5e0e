"""Who decides: each modality's part of the joint logits, and how far apart the features lie."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmlab.balancers.smv import sample_values
from mmlab.datasets.base import Batch, Split
from mmlab.datasets.splits import pieces
from mmlab.evaluation.arguments import check_network
from mmlab.evaluation.metrics import check_finite, check_labels
from mmlab.evaluation.passes import read_output
from mmlab.models.network import MultimodalNet, Output
from mmlab.training.passes import read


def modality_gap(model: MultimodalNet, batch: Split) -> float:
    """Mean distance between the modalities' feature centroids, features scaled to unit length.

    The measure of Liang et al. 2022 ("Mind the gap"), averaged over the pairs of modalities.

    Raises ValueError for one modality, FloatingPointError for features that are not finite.
    """
    features = read_output(model, batch, lambda out: dict(out.features)).values
    names = list(features)
    if len(names) < 2:
        raise ValueError(f"a gap needs two modalities; the model has {names}")
    for m, values in features.items():
        check_finite(f"the features of {m!r}", values)
    centroids = torch.stack(
        [torch.nn.functional.normalize(features[m], dim=-1).mean(0) for m in names]
    )
    return torch.nn.functional.pdist(centroids).mean().item()


def shapley_shares(model: MultimodalNet, batch: Split) -> dict[str, float]:
    """Each modality's share of what moves the right class's logit, for or against; they sum to 1.

    The mean absolute contribution to the target's logit, each sample's contributions first centred
    over the classes (a constant added to all logits changes no prediction).

    Raises ValueError for real-valued targets, FloatingPointError for parts that are not finite.
    """
    check_labels("shapley_shares", batch.head(1).target)
    found = read_output(model, batch, lambda out: out.contributions)
    for m, part in found.values.items():
        check_finite(f"the parts of {m!r} in the joint logits", part)
    index = found.target.long()[:, None]
    sizes = {
        m: (z - z.mean(-1, keepdim=True)).gather(-1, index).abs().mean()
        for m, z in found.values.items()
    }
    total = sum(sizes.values())
    return {m: (size / total).item() for m, size in sizes.items()}


def modality_valuation(model: MultimodalNet, batch: Split) -> dict[str, Tensor]:
    """What each modality does for being right, sample by sample: (B,) per modality.

    The Shapley value of v(S): the number of modalities in S where the joint logits of them alone,
    the others' features set to 0, are right; else 0. The values of a sample sum to M where it is
    answered rightly, else to 0. For two modalities they lie in [−0.5, 1.5]; below 0 the modality
    spoils answers. One that a sample lacks has 0, and the others share what is left. (Wei et al.,
    Enhancing Multimodal Cooperation via Sample-level Modality Valuation, CVPR 2024.) The fusion
    sees each of the 2^M − 1 sets once.

    Raises ValueError for real-valued targets, FloatingPointError for logits that are not finite.
    """
    check_network(model)
    check_labels("modality_valuation", batch.head(1).target)
    on_device = batch.to(next(model.parameters()).device)
    return read(model, pieces(on_device), lambda some, out: _valued(model, some, out)).values


def _valued(model: MultimodalNet, batch: Batch, out: Output) -> dict[str, Tensor]:
    def fusion(features: Mapping[str, Tensor]) -> Tensor:
        logits = model.fusion(features)
        check_finite("the joint logits", logits)
        return logits

    return sample_values(fusion, batch, out)
