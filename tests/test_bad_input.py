"""What a user gets wrong is caught where it enters: the value, what is allowed, and the fix."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mmlab import (
    OGM,
    Balancer,
    Batch,
    GradientBlending,
    Joint,
    MultimodalData,
    MultimodalNet,
    Output,
    Step,
    Uniform,
    fit,
    fit_seeds,
)
from mmlab.balancers import METHODS
from mmlab.balancers.atf import ace_update
from mmlab.balancers.gblend import blend_weights
from mmlab.balancers.ogm import discrepancy_ratios
from mmlab.checks import kind_of
from mmlab.evaluation import accuracy
from mmlab.experiments import claims, compare, difference, fold_means, interval, report, summary
from mmlab.models import NetworkStack
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
    with pytest.raises(TypeError, match=r"'a' is an ndarray.*torch\.as_tensor"):
        Batch({"a": np.zeros((2, 3))}, torch.zeros(2))
    with pytest.raises(TypeError, match="'target' is a list"):
        Batch({"a": torch.zeros(2, 3)}, [0, 1])


def test_a_split_is_a_batch():
    with pytest.raises(TypeError, match=r"train is an int; give a Batch"):
        MultimodalData(1, 2, 3)


def test_a_column_is_no_target():
    column = Batch({"a": torch.zeros(3, 2)}, torch.arange(3)[:, None])
    with pytest.raises(ValueError, match=r"\(3, 1\); it must be \(3,\).*squeeze"):
        MultimodalData(column, column, column)


def test_a_negative_label_is_not_mended_by_more_classes():
    low = Batch({"a": torch.zeros(3, 2)}, torch.arange(3) - 1)
    with pytest.raises(
        ValueError,
        match=r"label -1 in train .*from 0 to 1; leave out samples .*, or renumber them$",
    ):
        MultimodalData(low, low, low)


@pytest.mark.parametrize("split", ["holdout", "test"])
def test_a_label_that_training_never_shows_is_no_class_unless_said(split):
    """A head for it would never be trained."""
    two = Batch({"a": torch.zeros(3, 2)}, torch.tensor([0, 1, 0]))
    splits = {"train": two, "holdout": two, "test": two}
    splits[split] = Batch({"a": torch.zeros(3, 2)}, torch.arange(3))
    with pytest.raises(ValueError, match=rf"label 2 in {split} .*n_classes=2 .*or raise n_classes"):
        MultimodalData(**splits)
    assert MultimodalData(**splits, n_classes=3).n_outputs == 3


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
    with pytest.raises(TypeError, match=r"the encoder of 'b' is 64; .*or a name: 'mlp', 'norm"):
        MultimodalNet.build(DATA, encoders={"a": nn.Linear(5, 64), "b": 64})


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


def test_a_hyper_parameter_is_one_number():
    for wrong in ([0.1, 0.2], np.linspace(0.1, 0.2, 2), torch.tensor(0.1)):
        with pytest.raises(TypeError, match=r"alpha is .*; give a number.*`fit_seeds` one maker"):
            OGM(alpha=wrong)
    for wrong in ("0.1", True):
        with pytest.raises(TypeError, match=r"alpha is .*; give a number$"):
            OGM(alpha=wrong)
    with pytest.raises(TypeError, match=r"lr is \[0\.1, 0\.2\]; give a number.*fit_seeds"):
        train(Joint(), lr=[0.1, 0.2])
    with pytest.raises(TypeError, match=r"lr is tensor\(0\.5"):
        train(Joint(), lr=torch.tensor(0.5))
    assert OGM(alpha=np.float32(0.5)).alpha == 0.5


def test_a_rate_that_would_not_reach_the_optimiser():
    with pytest.warns(UserWarning, match=r"lr=0\.5 does not reach.*set the rate there") as caught:
        train(Joint(), lr=0.5, optimizer=torch.optim.Adam)
    assert len(caught) == 1
    assert train(Joint(), lr=0.5).optimizer.param_groups[0]["lr"] == 0.5
    assert train(Joint()).optimizer.param_groups[0]["lr"] == 0.01


def test_an_optimiser_where_its_maker_is_wanted():
    made = torch.optim.Adam(MultimodalNet.build(DATA).parameters())
    for wrong in (made, "Adam"):
        with pytest.raises(TypeError, match=r"give a function that makes one from the parameters"):
            train(Joint(), optimizer=wrong)


@pytest.mark.parametrize("seed", [[0, 1], True, 1.0, torch.tensor(1)])
def test_a_seed_is_one_whole_number(seed):
    with pytest.raises(TypeError, match=r"seed is .*; give one whole number.*fit_seeds"):
        train(Joint(), seed=seed)


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        (2, r"seeds is 2; .*range\(2\)"),
        ([0, 1.5], r"seeds is \[0, 1\.5\]; give whole numbers"),
        ([0, True], r"seeds is \[0, True\]; give whole numbers"),
        (torch.arange(2), r"seeds is tensor\(\[0, 1\]\); give whole numbers"),
        (["0"], r"seeds is \['0'\]; give whole numbers"),
        (None, "seeds is None; give whole numbers"),
    ],
)
def test_seeds_are_whole_numbers(seeds, message):
    with pytest.raises(TypeError, match=message):
        fit_seeds(DATA, Joint, seeds=seeds, epochs=0)


def test_no_seed_trains_nothing():
    with pytest.raises(ValueError, match="seeds is empty; give at least one whole number"):
        fit_seeds(DATA, Joint, seeds=[], epochs=1)


def test_many_seeds_need_one_of_each_or_one_for_all():
    with pytest.raises(ValueError, match=r"data has 2 entries for 3 seeds; give one data, or"):
        fit_seeds([DATA, DATA], Joint, seeds=range(3), epochs=0)
    with pytest.raises(TypeError, match=r"data is \[.*None\]; give one data, or a list"):
        fit_seeds([DATA, None], Joint, seeds=range(2), epochs=0)
    with pytest.raises(ValueError, match="balancer has 1 entries for 3 seeds"):
        fit_seeds(DATA, [Joint], seeds=range(3), epochs=0)
    with pytest.raises(ValueError, match="lr has 2 entries for 3 seeds; give one lr, or a list"):
        fit_seeds(DATA, Joint, seeds=range(3), epochs=0, lr=[0.1, 0.2])
    with pytest.raises(TypeError, match=r"lr is 'fast'; give one lr, or a list"):
        fit_seeds(DATA, Joint, seeds=range(3), epochs=0, lr="fast")


@pytest.mark.parametrize("wrong", [Joint(), [Joint(), Joint()], "joint"])
def test_many_seeds_need_what_makes_a_balancer(wrong):
    with pytest.raises(TypeError, match=r"balancer is .*\(a class or function, without the brack"):
        fit_seeds(DATA, wrong, seeds=range(2), epochs=0)


@pytest.mark.parametrize("at_once", [None, True, False])
@pytest.mark.parametrize("rate", [-0.1, 0.0, float("nan")])
def test_a_rate_of_each_seed_is_in_range(rate, at_once):
    options = {"epochs": 1, "device": "cpu", "at_once": at_once}
    for rates in ([0.1, rate], [rate, 0.1], rate):
        with pytest.raises(ValueError, match=rf"lr is {rate}; allowed is a number above 0"):
            fit_seeds(DATA, Joint, seeds=range(2), lr=rates, **options)


def test_a_comparison_names_its_methods_and_its_data():
    with pytest.raises(TypeError, match=r"methods is a list; give names and makers"):
        compare([Joint], DATA, epochs=1)
    with pytest.raises(TypeError, match=r"data is a list; .*lambda seed"):
        compare({"joint": Joint}, [DATA, DATA], epochs=1)
    table = compare({"joint": Joint}, DATA, seeds=np.arange(2), epochs=0, device="cpu")
    assert table.seed.tolist() == [0, 1]


def test_a_column_that_the_table_lacks():
    table = pd.DataFrame({"method": ["joint"] * 2, "seed": [0, 1], "mae": [0.1, 0.2]})
    with pytest.raises(ValueError, match=r"no column 'accuracy'; its results are \['mae'\]"):
        summary(table)


def test_targets_of_the_wrong_type():
    def data(target, task):
        split = Batch({"a": torch.zeros(3, 2)}, target)
        return MultimodalData(split, split, split, task=task)

    with pytest.raises(ValueError, match=r"torch\.int64 targets; regression.*\.float\(\)"):
        data(torch.arange(3), "regression")
    with pytest.raises(ValueError, match=r"torch\.int32 targets.*target\.long\(\)"):
        data(torch.arange(3).int(), "classification")


def test_a_modality_of_a_taken_name():
    split = Batch({"joint": torch.zeros(3, 2)}, torch.arange(3))
    with pytest.raises(ValueError, match=r"called 'joint'.*rename it"):
        MultimodalData(split, split, split)


def test_inputs_of_double_precision():
    split = Batch({"a": torch.zeros(3, 2).double()}, torch.arange(3))
    data = MultimodalData(split, split, split)
    net = MultimodalNet.build(data)
    with pytest.raises(ValueError, match=r"modality 'a' is torch\.float64.*\.float\(\)"):
        fit(net, data, epochs=1, device="cpu")
    assert fit(net.double(), data, epochs=1, device="cpu").epoch == 1


@pytest.mark.parametrize("name", ["half", "double"])
def test_a_network_of_another_type_than_its_inputs(name):
    net = getattr(MultimodalNet.build(DATA), name)()
    with pytest.raises(ValueError, match=r"is torch\.float\d\d, .*'a' is torch\.float32; use"):
        fit(net, DATA, epochs=1, device="cpu")


def test_a_class_that_needs_arguments_is_no_encoder():
    with pytest.raises(TypeError, match=r"encoder of 'a' is <class .*Linear'>, which is called"):
        MultimodalNet.build(DATA, encoders={"a": nn.Linear, "b": nn.Linear})


def test_an_encoder_that_fails_is_named():
    with pytest.raises(TypeError, match=r"encoders is a list; give a dict"):
        MultimodalNet.build(DATA, encoders=[nn.Linear(5, 64)])
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        MultimodalNet.build(DATA, encoders={"a": nn.Linear(5, 64), "b": nn.Linear(4, 64)})
    assert "The encoder of 'b' was tried on inputs of the shape (2, 5)" in caught.value.__notes__[0]


def test_a_forward_pass_of_ones_own_gives_an_output():
    class Bare(MultimodalNet):
        def forward(self, inputs):
            return self.fusion({m: self.encode(m, inputs[m]) for m in self.modalities})

    class Headless(MultimodalNet):
        def forward(self, inputs):
            features = {m: self.encode(m, inputs[m]) for m in self.modalities}
            return Output(features, joint=self.fusion(features))

    with pytest.raises(TypeError, match=r"Bare\.forward gives a Tensor.*Output\(features"):
        fit(Bare.build(DATA), DATA, epochs=1, device="cpu")
    assert fit(Headless.build(DATA), DATA, epochs=1, device="cpu").epoch == 1
    with pytest.raises(KeyError, match=r"no loss 'a'.*no logits for it.*self\.head"):
        fit(Headless.build(DATA), DATA, Uniform(), epochs=1, device="cpu")


def test_what_is_logged_is_one_number():
    class Wide(Balancer):
        def step(self, s):
            s.backward(s.losses["joint"])
            s.log(share=torch.ones(2))
            yield

    with pytest.raises(ValueError, match=r"'share' was logged in the shape \(2,\)"):
        train(Wide())


def test_a_stack_is_for_fit_seeds():
    stack = NetworkStack([MultimodalNet.build(DATA)] * 2)
    with pytest.raises(TypeError, match="stack of networks; fit_seeds makes and trains stacks"):
        fit(stack, DATA, epochs=1)


def test_a_precision_there_is_not():
    with pytest.raises(ValueError, match=r"precision is 'float16'; allowed are 'float32', 'bfloa"):
        train(Joint(), precision="float16")


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([0, 12], r"Chosen\.order names the samples 0 to 12; there are 12, numbered from 0"),
        ([-1, 3], "names the samples -1 to 3"),
        ([], "return a 1-D sequence of sample indices"),
        ([0.0, 1.0], r"gives torch\.float32 of shape \(2,\); return a 1-D sequence"),
        ([[0, 1]], r"of shape \(1, 2\); return a 1-D"),
        (torch.ones(12, dtype=torch.bool), r"gives torch\.bool of shape \(12,\); return a 1-D"),
    ],
)
def test_an_order_names_samples(order, message):
    class Chosen(Joint):
        def order(self, run):
            return order

    with pytest.raises(ValueError, match=message):
        train(Chosen())


# --- data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "target", "error", "message"),
    [
        (
            [torch.zeros(3, 2)],
            torch.arange(3),
            TypeError,
            r"inputs is a list; give a dict with one",
        ),
        (
            torch.zeros(3, 2),
            torch.arange(3),
            TypeError,
            r"inputs is a Tensor; give a dict with one",
        ),
        ({"a": [[1.0], [1.0, 2.0]]}, torch.arange(2), TypeError, r"'a' is a list; .*datasets\.pad"),
        (
            {"a": torch.tensor(1.0)},
            torch.arange(1),
            ValueError,
            r"'a' is a single number, tensor\(1",
        ),
        ({"a": torch.zeros(1, 2)}, torch.tensor(3), ValueError, r"'target' is a single .*reshape"),
    ],
)
def test_a_batch_holds_one_tensor_per_modality(inputs, target, error, message):
    with pytest.raises(error, match=message):
        Batch(inputs, target)


@pytest.mark.parametrize(
    ("present", "error", "message"),
    [
        ([True] * 12, TypeError, r"present is a list; give a dict with one mask for each modality"),
        (
            {m: [True] * 12 for m in "ab"},
            TypeError,
            r"present\['a'\] is a list; .*dtype=torch\.bool",
        ),
        (
            {m: torch.ones(12).long() for m in "ab"},
            ValueError,
            r"\['a'\] is torch\.int64 .*\.bool\(\)",
        ),
        ({m: torch.ones(12, 1).bool() for m in "ab"}, ValueError, r"shape \(12, 1\); .* \(12,\)$"),
        ({3: torch.ones(12).bool()}, ValueError, r"present names \[3\], inputs name \['a', 'b'\]"),
    ],
)
def test_masks_are_booleans(present, error, message):
    with pytest.raises(error, match=message):
        batch(present=present)


NUMBERS = torch.ones(3, 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (NUMBERS.half(), r"'a' of train is torch\.float16, .*\.float\(\).*precision='bfloat16'"),
        (NUMBERS.bfloat16(), r"'a' of train is torch\.bfloat16, .*\.float\(\)"),
        (NUMBERS.cfloat(), r"is torch\.complex64; allowed are real numbers: use \.abs\(\), or"),
        (NUMBERS.to_sparse(), r"is sparse \(torch\.sparse_coo\); use \.to_dense\(\)"),
        (NUMBERS.clone().requires_grad_(), r"requires a gradient, .*constants.*use \.detach\(\)"),
        (torch.ones(3, 0), r"has shape \(3, 0\), which holds no number for a sample; .*or leave"),
        (torch.full((3, 2), torch.nan), r"is not finite in 3 of 3 rows, first in row 0, .*NaN"),
    ],
)
def test_inputs_are_dense_real_numbers(values, message):
    split = Batch({"a": values}, torch.arange(3))
    with pytest.raises(ValueError, match=message):
        MultimodalData(split, split, split)


@pytest.mark.parametrize(
    ("target", "task", "message"),
    [
        (
            torch.ones(3).half(),
            "regression",
            r"train has torch\.float16 targets; .*target\.float\(\)",
        ),
        (torch.ones(3).cfloat(), "regression", r"target of train is torch\.complex64; allowed are"),
        (torch.ones(3).to_sparse(), "regression", r"the target of train is sparse .*\.to_dense"),
        (torch.ones(3).requires_grad_(), "regression", r"target of train requires a gradient"),
        (
            torch.tensor([0.0, 1.0, torch.inf]),
            "regression",
            r"1 of 3 rows, first in row 2, .*infin",
        ),
        (torch.ones(3).bool(), "classification", r"torch\.bool targets, .*use target\.long\(\)"),
        (torch.ones(3, 1).float(), "regression", r"target of train has shape \(3, 1\); .*squeeze"),
    ],
)
def test_targets_are_labels_or_real_numbers(target, task, message):
    split = Batch({"a": NUMBERS}, target)
    with pytest.raises(ValueError, match=message):
        MultimodalData(split, split, split, task=task)


@pytest.mark.parametrize("count", [0, -1, 2.5, "3", True])
def test_classes_are_counted_in_whole_numbers(count):
    with pytest.raises(ValueError, match=rf"n_classes is {count!r}; .*whole number .* or None"):
        MultimodalData(batch(), batch(), batch(), n_classes=count)


def test_a_regression_has_no_classes():
    split = Batch({"a": NUMBERS}, torch.rand(3))
    with pytest.raises(ValueError, match=r"n_classes is 7 in a regression.*leave it out, or set"):
        MultimodalData(split, split, split, task="regression", n_classes=7)


def test_units_are_of_modalities():
    with pytest.raises(ValueError, match=r"units names 'c', which is no modality; .* 'a', 'b'"):
        MultimodalData(batch(), batch(), batch(), units={"a": "volts", "c": "metres"})


# --- comparisons ----------------------------------------------------------------------------------


class Untrained(Joint):
    """A method that must not come to be trained."""

    def start(self, run):
        raise AssertionError("something was trained")


def comparing(**options):
    methods = options.pop("methods", {"joint": Untrained, "OGM": Untrained})
    data = options.pop("data", DATA)
    return compare(methods, data, **{"seeds": range(2), "epochs": 1, "device": "cpu"} | options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"learning_rate": 1}, TypeError, r"'learning_rate' is no argument of a training; .*lr,"),
        ({"seed": 3}, TypeError, r"'seed' is no argument .*allowed are accumulate, at_once"),
        ({"seeds": [0, 1, 0]}, ValueError, r"seeds names 0 more than once; .*give each once"),
        ({"seeds": []}, ValueError, r"seeds is empty; give at least one"),
        ({"seeds": [0.5]}, TypeError, r"seeds is \[0\.5\]; give whole numbers"),
        ({"seeds": None}, TypeError, r"seeds is None; give whole numbers, such as range\(5\)"),
        ({"epochs": 2.5}, ValueError, r"epochs is 2\.5; it must be a whole number"),
        ({"epochs": "3"}, ValueError, r"epochs is '3'; it must be a whole number"),
        (
            {"batch_size": 0},
            ValueError,
            r"batch_size is 0; it must be a whole number of at least 1",
        ),
        ({"lr": -1.0}, ValueError, r"lr is -1\.0; allowed is a number above 0"),
        ({"lr": [0.1, 0.2, 0.3]}, ValueError, r"lr has 3 entries for 2 seeds; give one lr, or"),
        ({"lr": torch.tensor([0.1])}, ValueError, r"lr has 1 entries for 2 seeds"),
        ({"optimizer": "Adam"}, TypeError, r"optimizer is 'Adam'; give a function that makes"),
        ({"device": "cuda:99"}, ValueError, r"'cuda:99' is not available; this machine has"),
        (
            {"observers": print},
            TypeError,
            r"observers is <.*>; give a list of callables Run -> Non",
        ),
        (
            {"observers": ["curves"]},
            TypeError,
            r"observers is \['curves'\]; give a list of callables",
        ),
        ({"build": "cnn"}, TypeError, r"build is 'cnn'; give arguments, such as \{'encoders'"),
        ({"build": {"encoders": "mlpp"}}, ValueError, r"'mlpp'.*; allowed are|known .*mlp"),
        ({"measure": 3}, TypeError, r"measure is 3; give a callable Run -> \{col"),
        ({"measure": {"a": 1}}, ValueError, r"measure names 'a', which is no method; they are"),
        ({"lr": {"joint": 0.1}}, TypeError, r"lr is \{.*; one per method goes into settings, such"),
        ({"units": "cm"}, TypeError, r"units is 'cm'; give column -> text, such as"),
        ({"units": {"rmse": 2}}, TypeError, r"units is \{'rmse': 2\}; give column -> text"),
        ({"settings": {"ogm": {}}}, ValueError, r"settings names 'ogm', .*\['joint', 'OGM'\]"),
        ({"settings": ["OGM"]}, TypeError, r"settings is a list; give method -> arguments"),
        ({"settings": {"OGM": 0.1}}, TypeError, r"settings\['OGM'\] is 0\.1; give arguments, such"),
        ({"settings": {"OGM": {"rate": 1}}}, TypeError, r"'rate' is no argument of a training"),
        ({"settings": {"OGM": {"lr": "1"}}}, TypeError, r"lr is '1'; give a number"),
        ({"settings": {"OGM": {"epochs": -1}}}, ValueError, r"epochs is -1; it must be a whole"),
        (
            {"data": lambda seed: None},
            TypeError,
            r"data\(0\) is None; it must be a Multimodal",
        ),
        ({"methods": {"a": Joint, "b": dict}}, TypeError, r"method 'b' makes a dict; .*a Balancer"),
        (
            {"methods": {"a": Untrained, "b": lambda: OGM(alpha=-1)}},
            ValueError,
            r"alpha is -1; allo",
        ),
    ],
)
def test_what_is_right_for_no_run_ends_before_anything_trains(options, error, message):
    with pytest.raises(error, match=message):
        comparing(**options)


def test_what_ends_a_comparison_names_the_method():
    with pytest.raises(TypeError, match=r"lr is '1'") as caught:
        comparing(settings={"OGM": {"lr": "1"}})
    assert caught.value.__notes__ == ["in compare, before anything was trained, of method 'OGM'"]


def test_a_network_is_tried_as_it_will_be_built():
    """What the caller asks for stands above what the method asks for."""

    class Sums(Untrained):
        network = {"fusion": "sum"}  # noqa: RUF012

    with pytest.raises(ValueError, match="'sums'") as caught:
        comparing(methods={"joint": Joint, "sums": Sums}, build={"fusion": "sums"})
    assert "of method 'joint'" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match="'sums'") as caught:
        comparing(methods={"sums": Sums}, build={"fusion": "sums"})
    assert "before anything was trained, of method 'sums'" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (0.5, r"TypeError: measure gives a float; give {column: value}"),
        (
            {"accuracy": 1},
            r"ValueError: measure gives 'accuracy', a column of compare's own; rename",
        ),
        ({"share a": 1}, r"ValueError: measure gives 'share a', a column of compare's own"),
        ({"seed": 1}, r"ValueError: measure gives 'seed', a column of compare's own"),
        ({"error": 1}, r"ValueError: measure gives 'error', a column of compare's own"),
    ],
)
def test_what_a_measure_gives_are_columns_of_its_own(found, message):
    with pytest.warns(UserWarning, match="method 'joint' failed at 2 of 2 seeds"):
        table = comparing(methods={"joint": Joint}, measure=lambda run: found)
    assert table.error.str.startswith(message).all() and table.accuracy.notna().all()


# --- tables ---------------------------------------------------------------------------------------

TABLE = pd.DataFrame(
    {
        "method": ["joint", "joint", "OGM", "OGM"],
        "seed": [0, 1, 0, 1],
        "accuracy": [0.1, 0.2, 0.3, 0.5],
    }
)


@pytest.mark.parametrize("show", [summary, report, lambda table: difference(table, "OGM")])
@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        ([0.1, 0.2], TypeError, r"table is a list; give the table that compare returns"),
        (TABLE.drop(columns="seed"), ValueError, r"no column 'seed'; .*\['method', 'accuracy'\]"),
        (TABLE.drop(columns="method"), ValueError, r"no column 'method'; it needs one row per"),
        (
            TABLE.assign(accuracy="0.1"),
            ValueError,
            r"column 'accuracy' is .* holds no numbers; the",
        ),
        (
            pd.concat([TABLE, TABLE]),
            ValueError,
            r"method '(joint|OGM)' has 2 rows at seed 0; .*leave out",
        ),
        (
            TABLE[TABLE.method == "OGM"],
            ValueError,
            r"no method 'joint' to compare with; .*\['OGM'\]",
        ),
        (TABLE[:3], ValueError, r"method 'OGM' has no accuracy at seed 1; pairs need every seed"),
    ],
)
def test_a_table_has_a_row_per_method_and_seed(show, table, error, message):
    with pytest.raises(error, match=message):
        show(table)


@pytest.mark.parametrize("column", ["method", "seed", "error", "rmse"])
def test_a_column_holds_results(column):
    with pytest.raises(ValueError, match=rf"no column '{column}'; its results are \['accuracy'\]"):
        report(TABLE.assign(error=None), column=column)


@pytest.mark.parametrize("confidence", [95, 1, 0, -0.5, float("nan")])
def test_a_confidence_lies_between_0_and_1(confidence):
    with pytest.raises(
        ValueError, match=rf"confidence is {confidence}; allowed is a number above 0"
    ):
        interval([0.1, 0.2], confidence)
    with pytest.raises(ValueError, match=r"confidence is "):
        summary(TABLE, confidence=confidence)


def test_an_interval_is_of_one_number_per_run():
    with pytest.raises(
        ValueError, match=r"values have the shape \(2, 2\); give one number per run"
    ):
        interval([[0.1, 0.2], [0.3, 0.4]])


@pytest.mark.parametrize("folds", [0, 1, 2.5, "3"])
def test_there_are_two_folds_or_more(folds):
    message = rf"folds is {folds!r}; it must be a whole number of at least 2"
    paired = difference(TABLE, "OGM")
    for show in (
        lambda: fold_means(paired, folds),
        lambda: report(TABLE, folds=folds),
        lambda: claims([("better", "us", paired)], folds=folds),
    ):
        with pytest.raises(ValueError, match=message):
            show()


@pytest.mark.parametrize(
    "row",
    [
        "better",
        "abc",
        ["a", "b", [1, 2]],
        ("better", "us"),
        {"text": "better"},
        ("a", "b", 1, 2, 3),
    ],
)
def test_a_claim_has_a_text_its_author_and_values(row):
    with pytest.raises(TypeError, match=r"a claim is .*; give \(text, who, values\) or"):
        claims([row])


# A method of one's own


def of_joint(s):
    return s.losses["joint"]


def nothing_before_backward(s):
    s.scale_grad("a", 0.5)
    s.backward(of_joint(s))
    yield


def no_noise_before_backward(s):
    s.add_noise("a", [1.0] * 4)
    s.backward(of_joint(s))
    yield


def one_spread_for_all(s):
    s.backward(of_joint(s))
    s.add_noise("a", [1.0])
    yield


def a_detached_loss(s):
    s.backward(of_joint(s).detach())
    yield


def scaled_after_the_last_update(s):
    s.backward(of_joint(s))
    yield
    s.scale_update("a", 0.5)


def filled_after_the_last_update(s):
    s.backward(of_joint(s))
    yield
    again = Step(s.model, s.batch)
    again.backward(again.losses["joint"])


def weights_in_a_list(s):
    s.blend({m: (of_joint(s), s.losses[m]) for m in s.modalities}, lambda gram: [1.0, 1.0])
    yield


def stepped_by_hand(s):
    s.backward(s.losses["joint"])
    s.optimizer.step()
    yield


def none_as_gradient(s):
    s.backward(s.losses["joint"])
    s.set_grad("a", None)
    yield


def a_factor_that_is_none(s):
    s.backward(s.losses["joint"])
    s.scale_update("a", None)
    yield


def a_factor_per_modality(s):
    s.backward(s.losses["joint"])
    s.scale_grad("a", torch.ones(2))
    yield


def one_weight_for_all_losses(s):
    losses = {m: (of_joint(s), s.losses[m]) for m in s.modalities}
    s.blend(losses, lambda gram: gram[..., 0, :1])
    yield


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (nothing_before_backward, r"encoder 'a' has no gradient yet.*backward\(loss\) first"),
        (no_noise_before_backward, r"encoder 'a' has no gradient yet.*backward\(loss\) first"),
        (one_spread_for_all, r"1 numbers for the 4 parameters of encoder 'a'.*spread"),
        (a_detached_loss, r"depends on no trained parameter: it was detached"),
        (scaled_after_the_last_update, r"Mine\.step calls scale_update after its last `yield`"),
        (filled_after_the_last_update, r"Mine\.step fills gradients after its last `yield`"),
        (weights_in_a_list, r"the rule gives a list; it must give a tensor of weights"),
        (stepped_by_hand, r"Mine\.step calls the optimiser's step itself.*taken twice; leave"),
        (none_as_gradient, r"set_grad was given None for encoder 'a'; .*scale_grad\(m, 0\.0\)"),
        (a_factor_that_is_none, r"scale_update\('a', k\) got k=None; give a number or"),
        (a_factor_per_modality, r"scale_grad\('a', k\) got k of shape \(2,\); .*s\.each\(k\)"),
        (one_weight_for_all_losses, r"weights of the shape \(.*, or \(2,\) for all"),
    ],
)
def test_what_a_step_does_in_vain_is_refused(step, message):
    mine = type("Mine", (Balancer,), {"step": lambda self, s: step(s)})()
    with pytest.raises((ValueError, TypeError, RuntimeError), match=message):
        train(mine)


def test_constant_weights_count_for_all():
    def blended(s):
        losses = {m: (of_joint(s), s.losses[m]) for m in s.modalities}
        s.blend(losses, lambda gram: torch.ones(2))
        yield

    mine = type("Mine", (Balancer,), {"step": lambda self, s: blended(s)})()
    constant, uniform = train(mine), train(Uniform())
    for p, q in zip(constant.model.parameters(), uniform.model.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def test_a_loss_from_before_the_update_says_where_to_take_a_new_one():
    class Twice(Balancer):
        def step(self, s):
            s.backward(s.losses["joint"])
            yield
            s.backward(s.losses["joint"])
            yield

    with pytest.raises(RuntimeError) as caught:
        train(Twice())
    assert "read before a `yield`" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, r"Mine\.fuse gives None; it must give a tensor"),
        (torch.zeros(12), r"Mine\.fuse gives the shape \(12,\); it must give \(B, 3\)"),
        (torch.zeros(12, 2), r"Mine\.fuse gives the shape \(12, 2\); it must give \(B, 3\)"),
    ],
)
def test_a_prediction_has_a_column_per_output(answer, message):
    mine = type("Mine", (Balancer,), {"fuse": lambda self, out, present=None: answer})()
    run = train(mine)
    with pytest.raises((TypeError, ValueError), match=message):
        run.predict(DATA.test)


def test_an_order_is_of_numbers():
    mine = type("Mine", (Balancer,), {"order": lambda self, run: ["first", "second"]})()
    with pytest.raises(TypeError, match=r"Mine\.order gives a list.*whole numbers"):
        train(mine)


# One of what there should be several of


@pytest.mark.parametrize("name", ["OGM", "AGM", "PMR", "OPM", "InfoReg", "ReconBoost"])
def test_a_method_that_compares_modalities_says_so_to_one_alone(name):
    def alone():
        return Batch({"a": torch.randn(12, 5, generator=DRAW)}, torch.arange(12) % 3)

    data, method = MultimodalData(alone(), alone(), alone()), METHODS[name].make()
    with pytest.raises(ValueError, match=r"under Joint"):
        fit(MultimodalNet.build(data, **method.network), data, method, epochs=2, device="cpu")


def test_one_class_teaches_nothing():
    def same():
        return Batch({"a": torch.randn(4, 5, generator=DRAW)}, torch.zeros(4).long())

    with pytest.warns(UserWarning, match=r"all labels of train are 0.*n_classes"):
        MultimodalData(same(), same(), same())


@pytest.mark.parametrize("encoders", ["mlp", "normalised", "cnn"])
def test_one_number_per_sample_is_a_column(encoders):
    def numbers():
        return Batch({"a": torch.randn(6, generator=DRAW)}, torch.arange(6) % 3)

    data = MultimodalData(numbers(), numbers(), numbers())
    with pytest.raises(ValueError, match=r"'a' has one number per sample.*unsqueeze"):
        MultimodalNet.build(data, encoders=encoders)


def test_a_message_names_a_kind_with_its_article():
    class MLPEncoder: ...

    class Uniform: ...

    class OneCycleLR: ...

    given = [1, 0.5, [], object(), np.ones(1), MLPEncoder(), Uniform(), OneCycleLR(), None, Uniform]
    assert [kind_of(x) for x in given] == [
        *("an int", "a float", "a list", "an object", "an ndarray", "an MLPEncoder", "a Uniform"),
        *("a OneCycleLR", "None", "the class Uniform"),
    ]


def test_a_number_per_encoder_is_written_for_each_loss():
    """As the docstring of `Step.blend` says: (K,) alone would be weights of the losses."""

    def blended(s, rule):
        losses = {m: (of_joint(s), s.losses[m]) for m in s.modalities}
        s.blend(losses, rule)
        return [p.grad for m in s.modalities for p in s.model.encoders[m].parameters()]

    net = MultimodalNet.build(DATA, heads="own", seed=0)
    plain = blended(Step(net, DATA.train), lambda gram: torch.ones(gram.shape[:-1]))
    net.zero_grad()

    def by_encoder(gram):
        return torch.tensor([2.0, 3.0])[: len(gram), None].expand(gram.shape[:-1])

    scaled = blended(Step(net, DATA.train), by_encoder)
    half = len(plain) // 2
    for i, (one, other) in enumerate(zip(plain, scaled, strict=True)):
        torch.testing.assert_close(other, one * (2 if i < half else 3))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: ace_update([0.5, 0.5], [0.1, 0.2], 0.1), "factors"),
        (lambda: blend_weights([0.1, 0.2], [0.1, 0.1]), "overfit"),
        (lambda: discrepancy_ratios([0.5, 0.2]), "scores"),
    ],
)
def test_a_formula_takes_tensors(call, name):
    with pytest.raises(TypeError, match=rf"{name}.* is a list; give a tensor: torch\.as_tensor"):
        call()


def test_a_network_takes_a_value_per_modality():
    with pytest.raises(TypeError, match=r"called with a Tensor; give a dict .*\['a', 'b'\]"):
        MultimodalNet.build(DATA)(torch.zeros(2, 5))
