"""How the tests of the data sets compare two of them."""

import torch

from mmlab.datasets import MultimodalData


def same(one: MultimodalData, other: MultimodalData) -> bool:
    """Equal bit for bit in every split."""
    return all(
        torch.equal(a.target, b.target)
        and all(torch.equal(a.inputs[m], b.inputs[m]) for m in a.modalities)
        for a, b in zip(one.splits.values(), other.splits.values(), strict=True)
    )
