"""Batches and data sets refuse what does not fit together, and say what would."""

import re
import warnings

import pytest
import torch
from torch import Tensor

from mmlab.datasets import Batch, MultimodalData
from mmlab.datasets.base import concatenate, stack_batches
from mmlab.models import MultimodalNet
from mmlab.training import fit


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


def test_joined_batches_keep_their_masks_and_one_without_lacks_nothing():
    whole, part = make_batch(), make_batch(present=masks())
    rows = [[True] * 4, [False, False, True, True]]
    stack = stack_batches([whole, part])
    assert len(stack) == 2 and stack.present["b"].tolist() == rows
    assert concatenate([whole, part]).present["b"].tolist() == [*rows[0], *rows[1]]
    assert stack_batches([whole, make_batch()]).present is None


def test_batches_of_one_size_are_not_taken_for_one():
    first = make_batch()
    second = Batch({m: -x for m, x in first.inputs.items()}, 1 - first.target)
    stack = stack_batches([first, second])
    for place, batch in enumerate((first, second)):
        assert torch.equal(stack.inputs["a"][place], batch.inputs["a"])
        assert torch.equal(stack.target[place], batch.target)
    with pytest.raises(ValueError, match=r"splits of \[3, 4\] samples cannot be stacked"):
        stack_batches([first, make_batch(3)])


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
    with pytest.raises(ValueError, match="'ranking'; allowed are 'classification', 'multilabel'"):
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


def spoilt(split, change):
    """A data set of three splits, one of which has gone through `change` before."""
    splits = {name: make_batch(6) for name in ("train", "holdout", "test")}
    change(splits[split])
    return MultimodalData(**splits, task="classification")


@pytest.mark.parametrize("split", ["train", "holdout", "test"])
@pytest.mark.parametrize(
    ("value", "kind"), [(float("nan"), "NaN"), (float("inf"), "inf"), (float("-inf"), "inf")]
)
def test_inputs_that_are_not_finite_are_named(split, value, kind):
    def change(batch):
        batch.inputs["b"][torch.tensor([2, 4]), 1] = value

    message = rf"modality 'b' of {split} is not finite in 2 of 6 rows, first in row 2, which is"
    with pytest.raises(ValueError, match=rf"{message} {kind}.*; clean the data.*`present`"):
        spoilt(split, change)


def test_inputs_are_finite_also_where_a_sample_lacks_the_modality():
    def change(batch):
        batch.inputs["b"][0] = torch.nan
        batch.present = masks(6)

    assert not masks(6)["b"][0]
    with pytest.raises(ValueError, match=r"'b' of test is not finite in 1 of 6 rows.*in zeros"):
        spoilt("test", change)


@pytest.mark.parametrize("split", ["train", "holdout", "test"])
def test_real_targets_are_finite(split):
    target = {name: torch.rand(4) for name in ("train", "holdout", "test")}
    target[split][3] = -torch.inf
    splits = {name: Batch({"a": torch.ones(4, 2)}, t) for name, t in target.items()}
    message = f"the target of {split} is not finite in 1 of 4 rows, first in row 3, .*leave"
    with pytest.raises(ValueError, match=message):
        MultimodalData(**splits, task="regression")


def test_a_move_does_not_look_at_the_values_again(monkeypatch):
    data = make_data()
    monkeypatch.setattr(Tensor, "aminmax", lambda *_: pytest.fail("looked again"))
    moved = data.to("cpu")
    assert moved is not data and moved.train is not data.train
    with pytest.raises(pytest.fail.Exception, match="looked again"):
        make_data()


@pytest.mark.parametrize("name", ["", "audio.mfcc", "keys", "items", "type", "float", "training"])
def test_a_name_that_the_encoders_could_not_have_is_refused(name):
    splits = [make_batch(modalities=("a", name)) for _ in range(3)]
    message = rf"called '{re.escape(name)}', .*ModuleDict.*allowed is text without a dot.*rename"
    with pytest.raises(ValueError, match=message):
        MultimodalData(*splits)


@pytest.mark.parametrize("name", [3, None, ("a", "b")])
def test_a_name_is_text(name):
    splits = [make_batch(modalities=("a", name)) for _ in range(3)]
    with pytest.raises(TypeError, match=rf"called {re.escape(repr(name))}; names .*rename it"):
        MultimodalData(*splits)


@pytest.mark.parametrize("name", ["sound of it", "mel-spectrogram", "weight", "holdout", "声音"])
def test_any_other_name_trains(name):
    data = MultimodalData(*(make_batch(modalities=(name, "b")) for _ in range(3)))
    assert fit(MultimodalNet.build(data), data, epochs=1, device="cpu").epoch == 1


@pytest.mark.parametrize("split", ["holdout", "test"])
def test_splits_are_of_one_shape_and_one_type(split):
    wide = Batch({"a": torch.zeros(4, 4), "b": torch.zeros(4, 3)}, torch.arange(4) % 2)
    message = (
        rf"'a' of {split} has samples of the shape \(4,\), those of train have \(3,\); .*alike"
    )
    with pytest.raises(ValueError, match=message):
        make_data(**{split: wide})
    double = Batch({"a": torch.zeros(4, 3), "b": torch.zeros(4, 3).double()}, torch.arange(4) % 2)
    message = rf"'b' of {split} is torch\.float64, train is torch\.float32; .*\.float\(\)"
    with pytest.raises(ValueError, match=message):
        make_data(**{split: double})


def test_a_modality_that_nobody_has_in_training_is_told():
    def lacking(**changes):
        batch = make_batch(present=masks(**changes))
        return Batch(
            {m: x * batch.present[m][:, None] for m, x in batch.inputs.items()},
            batch.target,
            batch.present,
        )

    nobody = torch.zeros(4, dtype=torch.bool)
    with pytest.warns(UserWarning, match="no sample of train has modality 'a', so its") as caught:
        make_data(train=lacking(a=nobody))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_data(train=lacking(), test=lacking(a=nobody))


# Masks and labels that are probably not what was meant


@pytest.mark.parametrize("shape", [(5,), (2, 3), ()])
def test_inputs_where_the_mask_says_there_are_none_are_warned_of(shape):
    x, there = torch.ones(6, *shape), torch.tensor([True, False, True, False, True, True])
    x[1] = 0

    def split(inputs):
        return Batch({"a": inputs}, torch.tensor([0, 1, 0, 1, 0, 1]), {"a": there})

    good = split(x * there.view(6, *[1] * len(shape)))
    with pytest.warns(
        UserWarning, match=r"present\['a'\] of holdout is False .* at 1 samples; .*~m"
    ):
        MultimodalData(good, split(x), good)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MultimodalData(good, good, good)


def test_labels_that_count_from_1_are_warned_of():
    x = {"a": torch.randn(4, 2)}
    from_1, from_0 = Batch(x, torch.tensor([1, 2, 3, 1])), Batch(x, torch.tensor([0, 1, 2, 0]))
    with pytest.warns(UserWarning, match="smallest label is 1, so there are 1 classes.*target - 1"):
        MultimodalData(from_1, from_1, from_1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MultimodalData(from_1, from_1, from_0)


def test_the_fix_fits_one_hot_rows_and_missing_labels():
    x = {"a": torch.randn(4, 2)}
    good = Batch(x, torch.tensor([0, 1, 2, 0]))
    with pytest.raises(
        ValueError, match=r"has shape \(4, 3\).*one-hot rows are target\.argmax\(1\)"
    ):
        MultimodalData(good, Batch(x, torch.eye(3)[good.target]), good)
    with pytest.raises(ValueError, match=r"label -100 in test.*leave out samples without a label"):
        MultimodalData(good, good, Batch(x, torch.tensor([0, -100, 2, 0])))
