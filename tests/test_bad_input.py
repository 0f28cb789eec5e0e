"""What a user gets wrong is caught where it enters: the value, what is allowed, and the fix."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mmlab import Balancer, Batch, GradientBlending, Joint, MultimodalData, MultimodalNet, fit
from mmlab.evaluation import accuracy
from mmlab.experiments import compare, summary
from mmlab.training import find_device

DRAW = torch.Generator().manual_seed(0)


def batch(size: int = 12, **options) -> Batch:
    inputs = {m: torch.randn(size, 5, generator=DRAW) for m in ("a", "b")}
    return Batch(inputs, torch.arange(size) % 3, **options)


DATA = MultimodalData(batch(), batch(), batch(), n_classes=3)


def train(balancer: Balancer, **options):
    settings = {"epochs": 1, "device": "cpu"} | options
    return fit(MultimodalNet.build(DATA), DATA, balancer, **settings)


def test_arrays_are_not_tensors():
    with pytest.raises(TypeError, match=r"'a' is a ndarray.*torch\.as_tensor"):
        Batch({"a": np.zeros((2, 3))}, torch.zeros(2))
    with pytest.raises(TypeError, match="'target' is a list"):
        Batch({"a": torch.zeros(2, 3)}, [0, 1])


def test_a_split_is_a_batch():
    with pytest.raises(TypeError, match=r"train is a int; give a Batch"):
        MultimodalData(1, 2, 3)


def test_whole_numbers_are_no_input():
    whole = Batch({"a": torch.zeros(3, 2).long()}, torch.arange(3))
    with pytest.raises(ValueError, match=r"modality 'a' of train is torch\.int64.*\.float\(\)"):
        MultimodalData(whole, whole, whole)


def test_a_column_is_no_target():
    column = Batch({"a": torch.zeros(3, 2)}, torch.arange(3)[:, None])
    with pytest.raises(ValueError, match=r"\(3, 1\); it must be \(3,\).*squeeze"):
        MultimodalData(column, column, column)


def test_a_negative_label_is_not_mended_by_more_classes():
    low = Batch({"a": torch.zeros(3, 2)}, torch.arange(3) - 1)
    with pytest.raises(ValueError, match=r"label -1 in train .*from 0 to 1; renumber them$"):
        MultimodalData(low, low, low)


def test_a_yield_without_gradients_is_refused():
    class Forgetful(Balancer):
        def step(self, s):
            yield

    with pytest.raises(RuntimeError, match=r"Forgetful.step yielded, and no parameter.*backward"):
        train(Forgetful())


def test_model_and_data_in_the_wrong_order():
    with pytest.raises(TypeError, match=r"got a MultimodalData and a MultimodalNet.*in this order"):
        fit(DATA, MultimodalNet.build(DATA), epochs=1)


def test_a_divergence_in_the_last_update_is_seen():
    loud = Batch({m: 1e6 * x for m, x in DATA.train.inputs.items()}, DATA.train.target)
    data = MultimodalData(loud, loud, loud)
    with pytest.raises(FloatingPointError, match="not finite after epoch 1 under Joint; lower lr"):
        fit(MultimodalNet.build(data), data, epochs=1, lr=1e38, device="cpu")


def test_a_diverging_trial_names_itself():
    with pytest.raises(FloatingPointError, match=r"in the trial of the '\w+' loss alone"):
        train(GradientBlending("offline"), epochs=6, lr=1e30, batch_size=4)


def test_an_encoder_of_another_width():
    narrow = {m: nn.Linear(5, 8) for m in "ab"}
    with pytest.raises(
        ValueError, match=r"'a' turns a batch of 2 into the shape \(2, 8\).*width=64"
    ):
        MultimodalNet.build(DATA, encoders=narrow)
    assert MultimodalNet.build(DATA, encoders=narrow, width=8).encoders["a"] is not narrow["a"]


def test_an_encoder_that_is_no_module():
    with pytest.raises(TypeError, match=r"the encoder of 'b' is 'mlp'; .*one name for all"):
        MultimodalNet.build(DATA, encoders={"a": nn.Linear(5, 64), "b": "mlp"})


def test_a_number_of_seeds_is_no_list_of_seeds():
    with pytest.raises(TypeError, match=r"seeds is 3; .*range\(3\)"):
        compare({"joint": Joint}, DATA, seeds=3)


def test_a_missing_pair_is_named():
    rows = [("joint", 0, 0.5), ("joint", 1, 0.6), ("other", 0, 0.7)]
    table = pd.DataFrame(rows, columns=["method", "seed", "accuracy"])
    with pytest.raises(ValueError, match="'other' has no accuracy at seed 1"):
        summary(table)


def test_accuracy_is_for_labels():
    with pytest.raises(ValueError, match=r"accuracy needs class labels.*regression_metrics"):
        accuracy(torch.zeros(2, 1), torch.zeros(2))
    nobody = torch.zeros(2, dtype=torch.bool)
    assert np.isnan(accuracy(torch.zeros(2, 3), torch.zeros(2).long(), nobody))


def test_a_gpu_beyond_the_last():
    with pytest.raises(ValueError, match="'cuda:99' is not available"):
        find_device("cuda:99")
