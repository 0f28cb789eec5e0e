"""A prediction is scored as it was made, on numbers known by hand."""

import math
import re
import warnings

import pytest
import torch
from known import make_known
from sklearn.metrics import f1_score
from torch import nn

from mmlab import evaluation
from mmlab.balancers import Joint, Unimodal
from mmlab.datasets import Batch, MultimodalData
from mmlab.models import MultimodalNet
from mmlab.training import Balancer, EarlyStopping, fit, fit_seeds


def test_the_accuracy_of_a_run_is_that_of_the_balancers_own_prediction():
    net, data = make_known()
    right, late = data.test, Batch(data.test.inputs, torch.ones(80, dtype=torch.long))
    run = fit(net, MultimodalData(right, late, right), Unimodal("a"), epochs=0, device="cpu")
    assert evaluation.joint_accuracy(net, right) == 1.0
    assert evaluation.test_accuracy(run) == 0.25  # its own head always says class 1
    assert evaluation.test_accuracy(run, "holdout") == 1.0
    assert evaluation.test_scores(run) == {"accuracy": 0.25}


class Gate(nn.Module):
    """Notes the mode that it is called in."""

    def __init__(self):
        super().__init__()
        self.weight, self.modes = nn.Parameter(torch.ones(())), []

    def forward(self, logits):
        self.modes.append(self.training)
        return self.weight * logits


class ByItsGate(Balancer):
    def modules(self, model):
        self.gate = Gate()
        return self.gate

    def step(self, s):
        s.backward(s.losses.of("gated", self.gate(s.out.joint)))
        yield

    def fuse(self, out, present=None):
        return self.gate(out.joint)


@pytest.mark.parametrize("who", ["run.predict", "test_scores", "EarlyStopping"])
def test_a_method_predicts_with_its_own_modules_in_evaluation_mode(who):
    net, data = make_known()
    observers = [EarlyStopping(5)] if who == "EarlyStopping" else []
    run = fit(net, data, ByItsGate(), epochs=1, batch_size=256, device="cpu", observers=observers)
    if who == "run.predict":
        run.predict(data.test)
    elif who == "test_scores":
        evaluation.test_scores(run)
    modes = run.balancer.gate.modes
    assert run.balancer.gate.training and sum(modes) == 1  # of the one step
    assert len(modes) > 1


def test_so_do_the_runs_of_a_stack():
    _, data = make_known()
    for run in fit_seeds(data, ByItsGate, seeds=range(2), epochs=1, device="cpu"):
        assert run.together == 2 and run.modules is run.balancer.gate
        run.balancer.gate.modes.clear()
        run.predict(data.test)
        assert run.balancer.gate.modes == [False]


def test_regression_metrics_by_hand():
    target = torch.tensor([-3.0, -1.0, 0.0, 2.0])
    prediction = torch.tensor([[-4.0], [0.6], [0.4], [1.0]])
    scores = evaluation.regression_metrics(prediction, target)
    assert scores["mae"] == pytest.approx((1 + 1.6 + 0.4 + 1) / 4)
    assert scores["accuracy 2"] == 3 / 4 and scores["accuracy 7"] == 2 / 4
    expected = torch.corrcoef(torch.stack([prediction[:, 0], target]))[0, 1].item()
    assert scores["pearson"] == pytest.approx(expected)
    assert math.isnan(evaluation.regression_metrics(torch.zeros(4), target)["pearson"])


LABELS = torch.arange(6) % 3
LOGITS = torch.eye(3)[LABELS]


@pytest.mark.parametrize(
    ("logits", "target"),
    [
        (LOGITS, LABELS[:, None]),  # would broadcast to (6, 6)
        (LOGITS, LABELS[:1]),
        (LOGITS[:, :1].expand(6, 6), LABELS[None]),
        (LOGITS.argmax(-1), LABELS),
        (LOGITS[0], LABELS[0]),
        (LOGITS[None], LABELS),
    ],
)
def test_logits_that_do_not_fit_the_target_are_refused(logits, target):
    shapes = (
        rf"{re.escape(str((*logits.shape,)))}, the target has {re.escape(str((*target.shape,)))}"
    )
    with pytest.raises(ValueError, match=rf"logits have the shape {shapes}; give logits \(B, C\)"):
        evaluation.accuracy(logits, target)


def test_a_stack_of_logits_is_scored_as_one():
    wrong = torch.eye(3)[(LABELS + 1) % 3]
    both = torch.stack([LOGITS, wrong])
    assert evaluation.accuracy(both, LABELS.expand(2, 6)) == 0.5


@pytest.mark.parametrize("mask", [LABELS, torch.ones(6, 1).bool(), torch.ones(5).bool()])
def test_a_mask_is_one_boolean_per_sample(mask):
    with pytest.raises(ValueError, match=r"mask is torch\..* must be torch\.bool of shape \(6,\)"):
        evaluation.accuracy(LOGITS, LABELS, mask)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_are_no_class(value):
    logits = LOGITS.clone()
    logits[[2, 5], 1] = value
    message = "the logits are not finite in 2 of 6 samples, first in row 2; lower lr, or"
    with pytest.raises(FloatingPointError, match=message):
        evaluation.accuracy(logits, LABELS)
    counts = torch.tensor([True, True, False, True, True, False])
    assert evaluation.accuracy(logits, LABELS, counts) == 1.0  # those that count are finite


def test_regression_metrics_need_one_finite_number_per_sample():
    target = torch.tensor([1.0, 2.0, 3.0])
    for wrong in (torch.zeros(3, 3), torch.zeros(4), torch.zeros(1), torch.zeros(1, 3)):
        with pytest.raises(ValueError, match=r"predictions have the shape .*one number per sample"):
            evaluation.regression_metrics(wrong, target)
    with pytest.raises(FloatingPointError, match="not finite in 1 of 3 samples, first in row 1"):
        evaluation.regression_metrics(torch.tensor([1.0, torch.nan, 0.0]), target)


def test_where_nothing_varies_there_is_no_correlation():
    same, rest = torch.ones(4), torch.arange(4.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a split of one value is no accident to warn of
        for pair in ((same, rest), (rest, same)):
            assert math.isnan(evaluation.regression_metrics(*pair)["pearson"])


@pytest.mark.parametrize("count", [0, 1])
def test_few_samples_have_no_correlation(count):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = evaluation.regression_metrics(torch.ones(count), torch.zeros(count))
    assert math.isnan(scores["pearson"])
    assert math.isnan(scores["mae"]) if count == 0 else scores["mae"] == 1.0


def trained(method=Joint, task="classification", present=None):
    """A run of one epoch on eight samples in each split."""
    draw = torch.Generator().manual_seed(0)

    def make():
        inputs = {m: torch.randn(8, 4, generator=draw) for m in "ab"}
        target = torch.arange(8) % 2
        return Batch(inputs, target.float() if task == "regression" else target, present)

    data = MultimodalData(make(), make(), make(), task=task)
    return fit(MultimodalNet.build(data), data, method(), epochs=1, device="cpu")


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("split", ["holdout", "test"])
def test_predictions_that_are_not_finite_name_split_row_and_modality(task, split):
    run = trained(task=task)
    run.data.splits[split].inputs["b"][5:] = torch.nan
    message = (
        f"the predictions of Joint for {split} .of its outputs: 'joint', 'b'. are not finite in "
        "3 of 8 samples, first in row 5"
    )
    with pytest.raises(FloatingPointError, match=message):
        evaluation.test_scores(run, split)
    other = {"holdout": "test", "test": "holdout"}[split]
    assert all(map(math.isfinite, evaluation.test_scores(run, other).values()))


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_run_is_scored_on_the_samples_that_it_has_an_answer_for(task):
    there = torch.arange(8) < 3
    present = {"a": there, "b": torch.ones(8, dtype=torch.bool)}
    run = trained(lambda: Unimodal("a"), task, present)
    batch = run.data.test
    batch.inputs["a"][~there] = torch.nan  # nothing of these samples counts
    prediction = run.predict(batch)[there]
    if task == "classification":
        expected = {"accuracy": evaluation.accuracy(prediction, batch.target[there])}
        assert evaluation.test_accuracy(run) == expected["accuracy"]
    else:
        expected = evaluation.regression_metrics(prediction, batch.target[there])
    assert evaluation.test_scores(run) == pytest.approx(expected)
    run.data.holdout.present = None
    assert evaluation.answered_share(run) == 3 / 8
    assert evaluation.answered_share(run, "holdout") == 1
    assert evaluation.answered_share(trained(task=task, present=present)) == 1


@pytest.mark.parametrize("answers", [[True] * 8, torch.ones(8), torch.ones(8, 1).bool()])
def test_what_a_method_answers_is_one_boolean_per_sample(answers):
    class Some(Joint):
        def answers(self, batch):
            return answers

    with pytest.raises(
        (TypeError, ValueError), match=r"Some\.answers\(batch\) is .* per sample|as"
    ):
        evaluation.test_scores(trained(Some))


@pytest.mark.parametrize(
    "score", [evaluation.test_scores, evaluation.test_accuracy, evaluation.answered_share]
)
def test_there_are_three_splits(score):
    with pytest.raises(ValueError, match="split is 'val'; allowed are 'train', 'holdout', 'test'"):
        score(trained(), "val")


def test_a_modality_alone_answers_for_the_samples_that_have_it():
    whole = make_known()[1].test
    assert Unimodal("a").answers(whole) is None and Joint().answers(whole) is None
    masks = {"a": whole.target < 3, "b": torch.ones(80, dtype=torch.bool)}
    part = Batch(whole.inputs, whole.target, masks)
    assert torch.equal(Unimodal("a").answers(part), masks["a"])


def test_macro_f1_by_hand():
    """Class 0: 2 right of 2 and 3 answers; class 1: 1 of 2 and 1; classes 2 and 3: none."""
    answers, target = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([0, 0, 1, 1, 3])
    logits = torch.nn.functional.one_hot(answers, 6).float()  # classes 4 and 5 are nowhere
    expected = (4 / 5 + 2 / 3 + 0 + 0) / 4
    assert evaluation.macro_f1(logits, target) == pytest.approx(expected)


def test_macro_f1_is_that_of_scikit_learn():
    draw = torch.Generator().manual_seed(0)
    for classes in (2, 5, 40):
        logits = torch.randn(60, classes, generator=draw)
        target = torch.randint(classes, (60,), generator=draw)
        expected = f1_score(target, logits.argmax(-1), average="macro")
        assert evaluation.macro_f1(logits, target) == pytest.approx(expected)
    stacked = logits.reshape(3, 20, classes), target.reshape(3, 20)
    assert evaluation.macro_f1(*stacked) == pytest.approx(expected)


def test_macro_f1_refuses_what_accuracy_refuses():
    with pytest.raises(ValueError, match="macro_f1 needs class labels"):
        evaluation.macro_f1(torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(ValueError, match=r"the shape \(2, 3\), the target has \(2, 1\)"):
        evaluation.macro_f1(torch.zeros(2, 3), torch.zeros(2, 1).long())
    with pytest.raises(FloatingPointError, match="the logits are not finite in 2 of 2 samples"):
        evaluation.macro_f1(torch.full((2, 3), torch.nan), torch.zeros(2).long())
