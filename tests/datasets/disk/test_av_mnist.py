"""AV-MNIST as MultiBench's arrays."""

import numpy as np
import pytest
import torch
from making import make_array
from training import trains

from mmlab.datasets import load
from mmlab.datasets.disk.files import DamagedError


@pytest.fixture
def root(tmp_path):
    draw = np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 10)):
        labels = np.arange(count) % 10
        make_array(tmp_path / f"{part}_labels.npy", labels)
        image = draw.random((count, 784)) * 255
        make_array(tmp_path / f"image/{part}_data.npy", image)
        make_array(tmp_path / f"audio/{part}_data.npy", draw.integers(0, 256, (count, 112, 112)))
    return tmp_path


def test_the_last_of_the_training_are_the_holdout(root):
    data = load("av-mnist", root=root)
    assert [len(split) for split in data.splits.values()] == [22, 2, 10]
    assert data.shape("image") == (1, 28, 28) and data.shape("audio") == (1, 112, 112)
    assert data.holdout.target.tolist() == [2, 3] and data.n_classes == 10
    raw = np.load(root / "image/test_data.npy")
    assert torch.allclose(data.test.inputs["image"].flatten(1).double(), torch.tensor(raw / 255))
    for m in data.modalities:
        assert data.train.inputs[m].min() >= 0 and 0.9 < data.train.inputs[m].max() <= 1


def test_values_from_0_to_1_stay(root):
    for part in ("train", "test"):
        path = root / f"image/{part}_data.npy"
        np.save(path, np.load(path) / 255)
    assert load("av-mnist", root=root).train.inputs["image"].max() > 0.9


def test_another_shape_is_named(root):
    make_array(root / "audio/test_data.npy", np.zeros((10, 20, 20)))
    with pytest.raises(DamagedError, match=r"data\.npy is \(10, 20, 20\), wanted is \(10, 112"):
        load("av-mnist", root=root)


def test_it_trains(root):
    trains(load("av-mnist", root=root), {"image": "mlp", "audio": "mlp"})
