"""Ragged sequences become one tensor and a mask, also in a stream; or it is said what is wrong."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from mmlab import MultimodalData, MultimodalNet, fit
from mmlab.datasets import Padded, Stream, pad
from mmlab.models import SequenceGRU


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


class Ragged(Dataset):
    """Texts of 1 to 4 tokens that are all the label + 1, beside a picture."""

    def __init__(self, size, missing=()):
        self.size, self.missing = size, missing

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        label = i % 2
        text = [] if i in self.missing else [label + 1] * (1 + i % 4)
        sample = {"text": text, "image": torch.full((3,), float(i))}, label
        return (*sample, {"text": bool(text), "image": True}) if self.missing else sample


@pytest.mark.parametrize("missing", [(), (2,)])
def test_a_stream_of_ragged_samples_is_padded(missing):
    split = Stream(Ragged(6, missing), collate=Padded("text"))
    batch = split.head(4)
    assert batch.modalities == ("text", "image")
    wanted = [0 if i in missing else 1 + i % 4 for i in range(4)]
    assert batch.inputs["text"]["mask"].sum(1).tolist() == wanted
    assert batch.inputs["text"]["values"].shape == (4, max(wanted))
    assert batch.inputs["image"][:, 0].tolist() == [0, 1, 2, 3]
    assert batch.target.tolist() == [0, 1, 0, 1]
    assert (batch.present is None) == (not missing)


def test_a_padded_stream_trains_as_the_same_samples_in_memory():
    streams = [Stream(Ragged(n), collate=Padded("text")) for n in (16, 6, 6)]
    runs = []
    for splits in (streams, [split.head(16) for split in streams]):
        data = MultimodalData(*splits, n_classes=2)
        encoders = {"text": lambda: SequenceGRU(nn.Embedding(3, 8), 8), "image": "mlp"}
        net = MultimodalNet.build(data, encoders=encoders, width=8)
        runs.append(fit(net, data, epochs=2, batch_size=2, device="cpu"))
    assert runs[0].history.value.tolist() == pytest.approx(runs[1].history.value.tolist())


def test_a_name_that_the_samples_do_not_have_is_refused():
    with pytest.raises(
        ValueError, match="a name in Padded is 'sound'; allowed are 'text', 'image'"
    ):
        Stream(Ragged(6), collate=Padded("sound")).head(2)
