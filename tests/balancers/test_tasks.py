"""Several labels per sample, and several real numbers: from the data's checks to a table."""

import functools
import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from torch import nn
from torch.nn import functional as F

from mmlab import (
    MLA,
    OGM,
    UMT,
    Batch,
    Ensemble,
    GradientBlending,
    Joint,
    MultimodalData,
    MultimodalNet,
    RefittedHead,
    Step,
    Unimodal,
    compare,
    evaluation,
    fit,
)
from mmlab.balancers import METHODS
from mmlab.balancers.mla import entropy_weights
from mmlab.datasets import Stream
from mmlab.datasets.base import stack_batches
from mmlab.experiments import diagnose, report
from mmlab.experiments.tuning import tune
from mmlab.models import NetworkStack
from mmlab.training import EarlyStopping, fit_seeds

MAKERS = {name: method.make for name, method in METHODS.items()} | {
    **{kind.__name__: kind for kind in (Ensemble, RefittedHead)},
    "UMT": lambda: UMT(weight=1),  # at a rate of 0.1 a weight of 10 switches narrow encoders off
    "G-Blend, heads": lambda: GradientBlending(warmup=1, super_epoch=1, fuse="heads"),
}
TASKS = ("multilabel", "regression")
OUTPUTS = 4


def splits(task="multilabel", *, missing=False, seed=0, sizes=(120, 40, 60)):
    """Four labels, or numbers, of which modality a knows the first two and b the others."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for size in sizes:
        hidden = torch.randn(size, OUTPUTS, generator=draw)
        inputs = {"a": hidden[:, :2], "b": hidden[:, 2:]}
        inputs = {m: x + 0.2 * torch.randn(size, 2, generator=draw) for m, x in inputs.items()}
        present = None
        if missing:
            present = {m: torch.rand(size, generator=draw) < 0.7 for m in "ab"}
            present["a"] |= ~present["b"]
            inputs = {m: x * present[m][:, None] for m, x in inputs.items()}
        found.append(Batch(inputs, hidden > 0.3 if task == "multilabel" else hidden, present))
    return found


def made(task="multilabel", **options):
    return MultimodalData(*splits(task, **options), task=task)


def trained(make, data, *, seed=0, build=None, **options):
    balancer = make()
    net = MultimodalNet.build(data, seed=seed, **{**balancer.network, "width": 8, **(build or {})})
    options = {"epochs": 2, "lr": 0.1, "batch_size": 16, "device": "cpu"} | options
    return quietly(fit, net, data, balancer, seed=seed, **options)


def quietly(train, *arguments, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Gradient-Blending gives")
        return train(*arguments, **options)


def skip_if_refused(name, task):
    if task == "regression" and "labels" in getattr(METHODS.get(name), "needs", ()):
        pytest.skip("needs labels")


# --- data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_labels_of_any_type_of_numbers_are_held_as_booleans(dtype):
    given = splits()
    plain = [part.target for part in given]
    for part in given:
        part.target = part.target.to(dtype)
    data = MultimodalData(*given, task="multilabel", name="toy")
    for part, target in zip(data.splits.values(), plain, strict=True):
        assert part.target.dtype == torch.bool and part.target.equal(target)
        assert part.task == "multilabel"
    assert given[0].target.dtype == dtype  # what was given stays
    assert data.n_classes == data.n_outputs == OUTPUTS
    assert "toy: multilabel, 4 labels, of which a sample may have several" in data.describe()


def test_several_numbers_make_as_many_outputs():
    data = made("regression")
    assert data.n_outputs == OUTPUTS and data.n_classes is None
    assert data.train.task == "regression" and "4 real numbers" in data.describe()


@pytest.mark.parametrize("split", ["train", "holdout", "test"])
@pytest.mark.parametrize("value", [2.0, -1.0, 0.5, math.nan])
def test_a_label_is_there_or_not(split, value):
    parts = dict(zip(("train", "holdout", "test"), splits(), strict=True))
    wrong = parts[split].target.float()
    wrong[3, 1] = value
    parts[split].target = wrong
    message = f"the target of {split} has {value:g} in row 3, column 1; allowed are 1.*not known"
    with pytest.raises(ValueError, match=message):
        MultimodalData(**parts, task="multilabel")


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("multilabel", lambda t: t[:, 0], r"\(120,\); several labels per sample are \(120, C\)"),
        ("multilabel", lambda t: t[:, :1], r"\(120, 1\).*C > 1.*task='classification'"),
        ("multilabel", lambda t: t[..., None], r"\(120, 4, 1\); several labels"),
        ("regression", lambda t: t[:, :1], r"\(120, 1\).*one column use target.squeeze\(1\)"),
        ("regression", lambda t: t[..., None], r"\(120, 4, 1\); it must be \(120,\), or"),
        ("classification", lambda t: 2 * t.long(), r"for a class per frame set frames=True"),
        ("classification", lambda t: t.long(), r"argmax\(1\).*set task='multilabel'"),
    ],
)
def test_targets_of_another_shape_are_refused_with_the_fix(task, change, message):
    given = splits("regression" if task == "regression" else "multilabel")
    for part in given:
        part.target = change(part.target)
    with pytest.raises(ValueError, match=message):
        MultimodalData(*given, task=task)


@pytest.mark.parametrize("task", TASKS)
def test_all_splits_have_as_many_labels_or_numbers(task):
    given = splits(task)
    given[2].target = given[2].target[:, :3]
    with pytest.raises(ValueError, match=r"target of test has \(3,\) numbers .* train has \(4,\)"):
        MultimodalData(*given, task=task)


def test_the_number_of_labels_is_that_of_the_columns():
    with pytest.raises(ValueError, match="n_classes is 5, and the targets have 4 columns"):
        MultimodalData(*splits(), task="multilabel", n_classes=5)


@pytest.mark.parametrize("task", TASKS)
def test_a_mask_has_one_truth_value_per_sample(task):
    given = splits(task)
    given[1].present = {m: torch.ones(40, OUTPUTS, dtype=torch.bool) for m in "ab"}
    with pytest.raises(ValueError, match=r"present\['a'\] of holdout has shape \(40, 4\); .*\(40,"):
        MultimodalData(*given, task=task)
    with pytest.raises(ValueError, match=r"of shape \(39,\); it must be torch\.bool of .*\(40,\)"):
        Batch(given[1].inputs, given[1].target, {m: torch.ones(39).bool() for m in "ab"})


# --- losses ---------------------------------------------------------------------------------------


def by_hand(task, logits, target):
    """The loss of every sample, (B,), in float64."""
    z, y = logits.double(), target.double()
    if task == "regression":
        return (z - y).abs().mean(-1)
    p = 1 / (1 + (-z).exp())
    return -(y * p.log() + (1 - y) * (1 - p).log()).mean(-1)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_losses_are_the_means_by_hand(task, missing):
    data = made(task, missing=missing)
    step = Step(MultimodalNet.build(data, width=8), data.train[:20])
    known = {}
    for key, logits in {"joint": step.out.joint, **step.out.unimodal}.items():
        losses = by_hand(task, logits, step.batch.target)
        has = None if key == "joint" else step.batch.has(key)
        known[key] = losses.mean() if has is None else losses[has].mean()
    expected = torch.stack([*known.values()]).float()
    torch.testing.assert_close(step.losses.stack(), expected)
    alone = Step(step.model, step.batch).losses
    torch.testing.assert_close(torch.stack([alone[key] for key in alone]), expected)
    each = step.losses.samples(torch.stack([step.out.joint, step.out.unimodal["a"]]))
    for row, logits in zip(each, (step.out.joint, step.out.unimodal["a"]), strict=True):
        torch.testing.assert_close(row.double(), by_hand(task, logits, step.batch.target))


@pytest.mark.parametrize("task", TASKS)
def test_losses_of_a_stack_are_those_of_each_network(task):
    """As many networks as samples and labels: no axis can be told by its size."""
    sets = [made(task, seed=r, missing=True) for r in range(OUTPUTS)]
    nets = [MultimodalNet.build(data, width=8, seed=r) for r, data in enumerate(sets)]
    batches = [data.train[:OUTPUTS] for data in sets]
    step = Step(NetworkStack(nets), stack_batches(batches))
    alone = [Step(*pair) for pair in zip(nets, batches, strict=True)]
    expected = torch.stack([one.losses.stack() for one in alone])
    torch.testing.assert_close(step.losses.stack(), expected)
    torch.testing.assert_close(
        step.losses.samples(step.out.joint),
        torch.stack([one.losses.samples(one.out.joint) for one in alone]),
    )


def test_a_loss_of_ones_own_gets_labels_as_numbers():
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    seen = []

    def weighted(prediction, target):
        seen.append(target.dtype)
        return F.binary_cross_entropy_with_logits(prediction, target, pos_weight=weights)

    data = made(missing=True)
    net = MultimodalNet.build(data, width=8)
    own = Step(net, data.train[:20], loss=weighted)
    module = Step(net, data.train[:20], loss=nn.BCEWithLogitsLoss(pos_weight=weights))
    torch.testing.assert_close(own.losses.stack(), module.losses.stack())
    assert {*seen} == {torch.float32}
    assert own.losses["joint"] > Step(net, data.train[:20]).losses["joint"]


# --- methods --------------------------------------------------------------------------------------


EPOCHS = {"LFM": 8}
"""Where four are too few: its first epochs have next to no weight on the targets."""


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", MAKERS)
def test_every_method_learns(name, task):
    skip_if_refused(name, task)
    data = made(task, missing=True)
    run = trained(MAKERS[name], data, epochs=EPOCHS.get(name, 4))
    assert all(p.isfinite().all() for p in run.model.parameters())
    assert run.history.value.map(math.isfinite).all()
    assert run.predict(data.test).shape == data.test.target.shape
    scores = evaluation.test_scores(run)
    if task == "multilabel":
        chance = data.test.target.float().mean().item()
        assert scores["mAP"] > chance + 0.25 and scores["F1 macro"] > 0.4
    else:
        assert scores["mae"] < data.test.target.abs().mean()  # that of the answer 0


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", [m for m in METHODS if "own order" not in METHODS[m].needs])
def test_a_stack_ends_where_each_network_alone_does(name, task):
    skip_if_refused(name, task)
    sets = [made(task, seed=r, missing=r == 1) for r in range(2)]
    options = {"epochs": 2, "lr": 0.05, "batch_size": 16, "device": "cpu"}
    runs = quietly(
        fit_seeds, sets, MAKERS[name], seeds=range(2), build={"width": 8}, at_once=True, **options
    )
    assert runs[0].together == 2
    for r, run in enumerate(runs):
        one = trained(MAKERS[name], sets[r], seed=r, **options)
        mine, theirs = (x.predict(sets[r].test) for x in (run, one))
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_a_stream_trains_as_the_same_samples_in_memory(task):
    data, streams = made(task), []
    for part in data.splits.values():
        rows = zip(part.inputs["a"], part.inputs["b"], part.target.float(), strict=True)
        streams.append(Stream([({"a": a, "b": b}, target) for a, b, target in rows]))
    streamed = MultimodalData(*streams, task=task)
    assert streamed.n_outputs == OUTPUTS and streamed.train.head(3).task == task
    mine, theirs = (trained(Ensemble, each) for each in (data, streamed))
    assert evaluation.test_scores(mine) == evaluation.test_scores(theirs)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_taken_out_of_a_training_averages_alike(task):
    run = trained(Ensemble, made(task))
    answer = run.model.inference(run.balancer)(run.data.test.inputs)
    torch.testing.assert_close(answer, run.predict(run.data.test))


@pytest.mark.parametrize("name", [name for name in METHODS if "labels" in METHODS[name].needs])
def test_numbers_have_no_score_of_a_class(name):
    kind = METHODS[name].kind
    with pytest.raises(ValueError, match=rf"{kind} needs class labels.*For regression use"):
        trained(MAKERS[name], made("regression"))


@pytest.mark.parametrize("missing", [False, True])
def test_the_score_of_ogm_is_the_probability_of_what_is_true_of_each_label(missing):
    data = made(missing=missing)
    step = Step(MultimodalNet.build(data, width=8), data.train[:20])
    truth, score = step.batch.target.numpy(), []
    for m, share in step.out.contributions.items():
        p = 1 / (1 + np.exp(-share.detach().numpy().astype(float)))
        has = np.ones(20, bool) if step.batch.present is None else step.batch.present[m].numpy()
        score.append(np.where(truth, p, 1 - p)[has].mean())
    found = OGM().scores(step)
    assert found.tolist() == pytest.approx(score)
    run = trained(lambda: OGM(enhance=False), data)
    ratios = run.history.query("metric == 'ratio'").value
    assert (ratios != 1).all()


def test_mla_trusts_who_is_sure_of_the_labels():
    logits = torch.tensor([[[0.0, 0.0]], [[4.0, -4.0]], [[4.0, 0.0]]], dtype=torch.float64)
    p = logits.sigmoid()
    entropy = -(p * p.log() + (1 - p) * (1 - p).log()).sum(-1)
    known = (-entropy).softmax(0)
    torch.testing.assert_close(entropy_weights(logits, task="multilabel"), known)
    present = torch.tensor([[True], [False], [True]])
    weights = entropy_weights(logits, present, task="multilabel")
    torch.testing.assert_close(weights, known * present / (known * present).sum(0))
    sure = entropy_weights(torch.tensor([[[200.0, -200.0]], [[0.0, 0.0]]]), task="multilabel")
    assert sure.isfinite().all() and sure[0] > sure[1]
    alike = entropy_weights(logits, present, task="regression")[:, 0]
    assert alike.tolist() == [0.5, 0, 0.5]
    with pytest.raises(ValueError, match="task is 'labels'; allowed are 'classification', 'mult"):
        entropy_weights(logits, task="labels")


@pytest.mark.parametrize("task", TASKS)
def test_predictions_are_averaged_as_log_odds_or_numbers(task):
    data = made(task)
    out = trained(Ensemble, data).model(data.test.inputs)
    assert out.task == task
    mean = (out.unimodal["a"] + out.unimodal["b"]) / 2
    torch.testing.assert_close(Ensemble().fuse(out), mean)
    blend = GradientBlending(fuse="heads")
    blend.weights = {"joint": 0.5, "a": 0.25, "b": 0.25}
    torch.testing.assert_close(blend.fuse(out), out.joint / 2 + mean / 2)
    if task == "multilabel":  # of the two outcomes of a label, as of classes
        both = torch.stack([F.logsigmoid(z) for z in out.unimodal.values()]).mean(0)
        none = torch.stack([F.logsigmoid(-z) for z in out.unimodal.values()]).mean(0)
        torch.testing.assert_close(mean.sigmoid(), both.exp() / (both.exp() + none.exp()))


def test_a_network_of_ones_own_says_what_its_logits_mean():
    class Own(MultimodalNet):
        def forward(self, inputs):
            features = {m: self.encode(m, x) for m, x in inputs.items()}
            logits = {m: self.head(m)(h) for m, h in features.items()}
            return (
                super()
                .forward(inputs)
                .__class__(features, self.fusion(features), logits, self.fusion)
            )

    data = made()
    built = MultimodalNet.build(data, width=8)
    net = Own(built.encoders, built.fusion, built.heads)
    assert net(data.test.inputs).task == "classification"
    run = fit(net, data, Ensemble(), epochs=1, device="cpu")
    out = net(data.test.inputs)
    assert out.task == "multilabel"
    torch.testing.assert_close(run.predict(data.test), sum(out.unimodal.values()) / 2)


# --- scores ---------------------------------------------------------------------------------------


def test_scores_of_labels_by_hand():
    """Label 0 is ranked right, 1 is not, 2 occurs nowhere and is said once, 3 is nowhere."""
    target = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]).bool()
    logits = torch.tensor([[3.0, 1, 1, -1], [-1, 2, -1, -2], [1, -1, -2, -1], [-2, -3, -1, -2]])
    scores = evaluation.multilabel_metrics(logits, target)
    assert scores["mAP"] == pytest.approx((1 + (1 / 2 + 2 / 4) / 2) / 2)
    assert scores["F1 macro"] == pytest.approx((1 + 2 * 1 / (2 + 2) + 0) / 3)
    assert scores["F1 micro"] == pytest.approx(2 * 3 / (4 + 5))
    nobody = evaluation.multilabel_metrics(torch.ones(0, 3), torch.zeros(0, 3).bool())
    assert all(map(math.isnan, nobody.values())) and len(nobody) == 3
    nothing = evaluation.multilabel_metrics(-torch.ones(4, 3), torch.zeros(4, 3).bool())
    assert all(map(math.isnan, nothing.values()))


def test_scores_of_labels_are_those_of_scikit_learn():
    draw = torch.Generator().manual_seed(0)
    logits, target = torch.randn(50, 7, generator=draw), torch.rand(50, 7, generator=draw) < 0.3
    scores, said = evaluation.multilabel_metrics(logits, target), logits > 0
    assert scores["mAP"] == pytest.approx(average_precision_score(target, logits))
    for average in ("macro", "micro"):
        assert scores[f"F1 {average}"] == pytest.approx(f1_score(target, said, average=average))


@pytest.mark.parametrize("score", [evaluation.multilabel_metrics, evaluation.average_precision])
def test_scores_of_labels_refuse_what_they_cannot_read(score):
    target = torch.ones(4, 3).bool()
    with pytest.raises(ValueError, match=rf"{score.__name__} got logits \(4, 3\).*target\.bool"):
        score(torch.zeros(4, 3), target.float())
    with pytest.raises(ValueError, match=r"got logits \(4, 2\) and torch\.bool targets \(4, 3\)"):
        score(torch.zeros(4, 2), target)
    with pytest.raises(FloatingPointError, match="not finite in 4 of 4 samples"):
        score(torch.full((4, 3), math.nan), target)


def test_scores_of_several_numbers_are_means_over_them():
    draw = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 30, 3, generator=draw)
    scores = evaluation.regression_metrics(prediction, target)
    single = [evaluation.regression_metrics(prediction[:, k], target[:, k]) for k in range(3)]
    assert [*scores] == ["mae", "pearson"]
    for name, value in scores.items():
        assert value == pytest.approx(sum(one[name] for one in single) / 3)
    with pytest.raises(ValueError, match=r"shape \(30, 3\), the target has \(30, 2\); give one n"):
        evaluation.regression_metrics(prediction, target[:, :2])


REFUSING = {
    "test_accuracy": lambda run: evaluation.test_accuracy(run),
    "probe_accuracy": lambda run: evaluation.probe_accuracy(run.model, run.data),
    "own_head_accuracy": lambda run: evaluation.own_head_accuracy(run.model, run.data.test),
    "share_accuracy": lambda run: evaluation.share_accuracy(run.model, run.data.test),
    "shapley_shares": lambda run: evaluation.shapley_shares(run.model, run.data.test),
    "modality_valuation": lambda run: evaluation.modality_valuation(run.model, run.data.test),
    "violation_share": lambda run: evaluation.violation_share(run, run.data.test),
    "accuracy_by_pattern": lambda run: evaluation.accuracy_by_pattern(run, run.data.test),
    "diagnose": lambda run: diagnose(run.data),
}


@functools.cache
def joint_run(task):
    return trained(Joint, made(task))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("measure", REFUSING)
def test_what_is_about_one_class_refuses_by_the_name_of_the_task(measure, task):
    with pytest.raises(ValueError, match=f"task.{{1,5}}'{task}'"):
        REFUSING[measure](joint_run(task))


def test_curves_have_the_score_of_the_task():
    data = made(missing=True)
    run = trained(Joint, data, observers=[evaluation.Curves(["holdout"])])
    rows = run.history.query("split == 'holdout' and epoch == 2").set_index(["output", "metric"])
    assert {metric for _, metric in rows.index} == {"mean loss", "mAP"}
    has, target = data.holdout.present["b"], data.holdout.target
    own = run.model(data.holdout.inputs).unimodal["b"]
    known = evaluation.average_precision(own[has], target[has])
    assert rows.value["b", "mAP"] == pytest.approx(known)


@pytest.mark.parametrize("metric", [None, evaluation.average_precision])
def test_a_training_can_stop_early(metric):
    data = made()
    run = trained(Joint, data, observers=[EarlyStopping(1, metric=metric)])
    best = run.observers[0].best
    logits, target = run.predict(data.holdout), data.holdout.target
    known = F.binary_cross_entropy_with_logits(logits, target.float())
    expected = known.item() if metric is None else metric(logits, target)
    assert best == pytest.approx(expected, rel=1e-5)


def test_a_modality_alone_is_scored_on_the_samples_that_have_it():
    data = made(missing=True)
    run = trained(lambda: Unimodal("b"), data)
    has = data.test.present["b"]
    known = evaluation.multilabel_metrics(run.predict(data.test)[has], data.test.target[has])
    assert evaluation.test_scores(run) == known
    assert evaluation.answered_share(run) == pytest.approx(has.float().mean().item())


# --- tables ---------------------------------------------------------------------------------------

SETTINGS = {"seeds": range(2), "epochs": 2, "device": "cpu", "build": {"width": 8}}
COLUMNS = {"multilabel": ["mAP", "F1 macro", "F1 micro"], "regression": ["mae", "pearson"]}


@pytest.mark.parametrize("task", TASKS)
def test_a_comparison_has_the_scores_of_the_task(task, tmp_path):
    methods, data = {"joint": Joint, "MLA": MLA}, made(task)
    table = compare(methods, data, **SETTINGS, lr=0.1, cache=tmp_path)
    columns = COLUMNS[task]
    assert [*table] == ["method", "seed", *columns, *(f"holdout {name}" for name in columns)]
    again = compare(methods, data, **SETTINGS, lr=0.1, cache=tmp_path)
    assert again.equals(table)
    run = trained(Joint, data, lr=0.1, batch_size=64)
    row = table.query("method == 'joint' and seed == 0")[columns].iloc[0]
    assert row.to_dict() == pytest.approx(evaluation.test_scores(run), abs=1e-5)
    heading = {"multilabel": "mAP, %", "regression": "mae"}[task]
    assert heading in report(table, column=columns[0])


@pytest.mark.parametrize(("task", "best"), [("multilabel", max), ("regression", min)])
def test_tuning_chooses_by_the_first_score_of_the_holdout(task, best):
    found = tune({"joint": Joint}, made(task), grid={"joint": {"lr": [1e-5, 0.1]}}, **SETTINGS)
    assert found.column == f"holdout {COLUMNS[task][0]}"
    means = found.runs.groupby("method")[found.column].mean()
    assert means["joint (lr=0.1)"] == best(means)
    assert found.chosen["settings"]["joint"] == {"lr": 0.1}
    assert not {*found.runs} & {*COLUMNS[task]}
