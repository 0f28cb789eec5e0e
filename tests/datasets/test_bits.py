"""The bits: every label is what its kind says, and the nuisance tells nothing of it."""

import pytest
import torch

from mmlab import Joint, MultimodalNet, fit
from mmlab.datasets.bits import bits, states


def test_each_kind_is_where_it_should_be():
    a, b, y = states(1, (1, 1), 1)  # a: both, own, left; b: both, own, right
    assert torch.equal(y[:, 0], a[:, 0]) and torch.equal(y[:, 0], b[:, 0])
    assert torch.equal(y[:, 1], a[:, 1])
    assert torch.equal(y[:, 2], b[:, 1])
    assert torch.equal(y[:, 3], a[:, 2] ^ b[:, 2])
    assert len(y) == 2**5 and torch.unique(torch.cat([a, b], 1), dim=0).shape[0] == len(y)


def test_the_data_hold_the_bits_as_signs():
    data = bits(seed=3, n=(50, 20, 30), unique=(1, 1), nuisance=2)
    assert [len(split) for split in data.splits.values()] == [50, 20, 30]
    assert data.train.inputs["a"].shape == (50, 5) and data.task == "multilabel"
    a, b, y = data.test.inputs["a"] > 0, data.test.inputs["b"] > 0, data.test.target
    assert torch.equal(y[:, 0], a[:, 0]) and torch.equal(y[:, 3], a[:, 2] ^ b[:, 2])
    again = bits(seed=3, n=(50, 20, 30), unique=(1, 1), nuisance=2)
    assert torch.equal(again.train.inputs["b"], data.train.inputs["b"])


def test_they_can_be_trained_on():
    data = bits(n=(64, 16, 16))
    fit(MultimodalNet.build(data, fusion="film"), data, Joint(), epochs=1, device="cpu")


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ({"redundant": -1}, ValueError),
        ({"unique": (0.5, 0)}, ValueError),
        ({"redundant": 0, "unique": (0, 0), "synergistic": 0}, ValueError),
        ({"synergistic": 7}, ValueError),
    ],
)
def test_what_is_no_count_is_refused(setting, error):
    with pytest.raises(error):
        bits(**setting)
