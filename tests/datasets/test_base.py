"""Batches and data sets refuse what does not fit together, and say what would."""

import pytest
import torch

from mmlab.datasets import Batch, MultimodalData


def make_batch(size=4, modalities=("a", "b"), **options):
    inputs = {m: torch.arange(size * 3.0).reshape(size, 3) for m in modalities}
    return Batch(inputs, torch.arange(size) % 2, **options)


def masks(size=4, **changes):
    return {"a": torch.ones(size, dtype=torch.bool), "b": torch.arange(size) > 1} | changes


def test_a_batch_is_indexed_with_its_masks():
    batch = make_batch(present=masks())
    part = batch[torch.tensor([3, 1])]
    assert len(part) == 2 and part.modalities == ("a", "b")
    assert part.inputs["a"][:, 0].tolist() == [9.0, 3.0]
    assert part.target.tolist() == [1, 1]
    assert part.present["b"].tolist() == [True, False]
    assert batch[1:3].has("b").tolist() == [False, True]
    assert make_batch().has("a") is None and make_batch()[:2].present is None


@pytest.mark.parametrize("present", [None, masks()])
def test_a_batch_moves_as_a_whole(present):
    moved = make_batch(present=present).to("meta")
    tensors = [*moved.inputs.values(), moved.target, *(moved.present or {}).values()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_empty_batches_are_refused():
    with pytest.raises(ValueError, match="empty batch"):
        make_batch(0)
    with pytest.raises(ValueError, match="empty batch"):
        make_batch()[:0]
    with pytest.raises(ValueError, match="at least one modality"):
        Batch({}, torch.zeros(3))


def test_unequal_lengths_are_refused_with_all_of_them():
    inputs = {"audio": torch.zeros(3, 2), "image": torch.zeros(4, 2)}
    with pytest.raises(ValueError, match=r"'audio' has 3 samples, the target has 4.*'image': 4"):
        Batch(inputs, torch.zeros(4).long())


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ({"a": torch.ones(4, dtype=torch.bool)}, r"present names \['a'\], inputs name"),
        (masks(c=torch.ones(4, dtype=torch.bool)), "present names"),
        (masks(b=torch.ones(4)), r"present\['b'\] is torch.float32"),
        (masks(b=torch.ones(3, dtype=torch.bool)), r"shape \(3,\); it must be .* shape \(4,\)"),
    ],
)
def test_masks_that_do_not_fit_are_refused(present, message):
    with pytest.raises(ValueError, match=message):
        make_batch(present=present)


def make_data(**options):
    splits = {name: make_batch(size) for name, size in (("train", 4), ("holdout", 2), ("test", 3))}
    return MultimodalData(**(splits | options))


def test_classes_are_counted_and_described():
    data = make_data(name="toy", units={"a": "volts"}, card="Made up.")
    assert data.n_classes == 2 and data.n_outputs == 2 and data.shape("a") == (3,)
    text = data.describe()
    for words in ("toy", "2 classes", "train 4, holdout 2, test 3", "in volts", "Made up."):
        assert words in text


def test_data_move_with_what_is_known_about_them():
    data = make_data(name="toy", n_classes=5, units={"a": "volts"}, card="Made up.")
    assert data.to("cpu").describe() == data.describe()


@pytest.mark.parametrize("split", ["train", "holdout", "test"])
@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_out_of_range_is_refused(split, label):
    wrong = make_batch()
    wrong.target[1] = label
    with pytest.raises(ValueError, match=f"label {label} in {split} is out of range.*0 to 1"):
        make_data(n_classes=2, **{split: wrong})


def test_labels_must_be_integers_unless_it_is_regression():
    floats = dict.fromkeys(
        ("train", "holdout", "test"), Batch({"a": torch.zeros(2, 1)}, torch.rand(2))
    )
    with pytest.raises(ValueError, match="integer labels"):
        MultimodalData(**floats)
    data = MultimodalData(**floats, task="regression")
    assert data.n_outputs == 1 and "one real number" in data.describe()


def test_unknown_tasks_are_refused():
    with pytest.raises(ValueError, match="'ranking'; it must be 'classification' or 'regression'"):
        make_data(task="ranking")


@pytest.mark.parametrize("modalities", [("a",), ("b", "a"), ("a", "c")])
def test_splits_of_unlike_modalities_are_refused(modalities):
    with pytest.raises(ValueError, match="test has the modalities"):
        make_data(test=make_batch(modalities=modalities))


def test_data_print_as_one_line():
    whole, part = make_batch(), make_batch(present=masks())
    assert repr(whole) == "Batch(a (4, 3), b (4, 3), target (4,))"
    assert repr(part).endswith("target (4,), some modalities missing)")
    data = MultimodalData(whole, part, whole, name="tiny")
    assert repr(data) == "MultimodalData(tiny: classification, a, b; train 4, holdout 4, test 4)"
