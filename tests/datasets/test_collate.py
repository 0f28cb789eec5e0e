"""Ragged sequences become one tensor and a mask, or it is said what does not fit."""

import numpy as np
import pytest
import torch

from mmlab.datasets import pad


def test_sequences_are_padded_at_the_end_and_the_mask_says_where():
    found = pad([[5, 6, 7], [8], []])
    assert found["values"].tolist() == [[5, 6, 7], [8, 0, 0], [0, 0, 0]]
    assert found["values"].dtype == torch.int64
    assert found["mask"].tolist() == [[True] * 3, [True, False, False], [False] * 3]


def test_steps_of_any_shape_and_arrays():
    found = pad([np.ones((2, 3), dtype=np.float32), torch.ones(4, 3)], length=5)
    assert found["values"].shape == (2, 5, 3) and found["values"].dtype == torch.float32
    assert found["values"].sum((1, 2)).tolist() == [6, 12]
    assert found["mask"].sum(1).tolist() == [2, 4]


@pytest.mark.parametrize(
    ("sequences", "length", "message"),
    [
        ([], None, r"none of 0 sequences has a step"),
        ([[], []], None, r"none of 2 sequences has a step"),
        ([torch.ones(2, 3), torch.ones(2, 4)], None, r"sequence 1 is .* \(2, 4\), .* \(2, 3\); on"),
        ([[1, 2], [0.5]], None, r"sequence 1 is torch\.float32 .* torch\.int64"),
        ([[1, 2], 3], None, r"sequence 1 is torch\.int64 of shape \(\)"),
        ([[1], [1, 2, 3]], 2, r"sequence 1 has 3 steps, and length is 2; .*\[x\[:2\] .*length=3"),
    ],
)
def test_what_does_not_fit_is_named(sequences, length, message):
    with pytest.raises(ValueError, match=message):
        pad(sequences, length)
