"""When a training ends early, and what it leaves; and when observers hear of it."""

import math

import pytest
import torch
from trained import DATA, Cut, CutError, same, trained, weights

from mmlab.balancers import ATF, MLA, GradientBlending, Joint, RefittedHead
from mmlab.datasets import Batch, MultimodalData, Stream
from mmlab.evaluation import Curves, accuracy
from mmlab.experiments import compare
from mmlab.models import MultimodalNet
from mmlab.models.stack import UnstackableError
from mmlab.training import Checkpoint, EarlyStopping, fit, fit_seeds


class Says:
    """A metric that has one value for each epoch, and keeps what it was asked for."""

    def __init__(self, *values):
        self.values, self.asked = values, []

    def __call__(self, prediction, target):
        self.asked.append((prediction, target))
        return self.values[len(self.asked) - 1]


def stopped(*values, patience=2, balancer=None, **options):
    stopping = EarlyStopping(patience, metric=Says(*values))
    settings = {"epochs": len(values), "observers": [stopping], **options}
    return trained(balancer, **settings), stopping


def test_it_ends_when_nothing_gets_better_and_the_best_network_is_back():
    run, stopping = stopped(0.1, 0.5, 0.4, 0.5, 0.9)
    assert run.epoch == 4  # two epochs in a row were no better than the second
    assert (stopping.best, stopping.best_epoch) == (0.5, 2)
    assert same(weights(run.model), weights(trained(epochs=2).model))
    assert not same(weights(run.model), weights(trained(epochs=4).model))


def test_better_in_time_goes_on():
    run, stopping = stopped(0.1, 0.0, 0.2, 0.1, 0.3)
    assert run.epoch == 5 and stopping.best_epoch == 5


def test_the_best_is_back_where_the_epochs_end_first():
    run, stopping = stopped(0.1, 0.5, 0.4)
    assert run.epoch == 3 and stopping.best_epoch == 2
    assert same(weights(run.model), weights(trained(epochs=2).model))


def test_what_the_method_keeps_is_back_too():
    run, _ = stopped(0.1, 0.5, 0.4, 0.4, balancer=ATF())
    best = trained(ATF(), epochs=2)
    assert torch.equal(run.balancer.factors, best.balancer.factors)


def test_by_default_it_goes_by_the_loss_of_the_prediction():
    losses = []

    def look(run):
        z, y = run.predict(DATA.holdout), DATA.holdout.target
        losses.append(torch.nn.functional.cross_entropy(z, y).item())

    stopping = EarlyStopping(3)
    run = trained(epochs=40, lr=0.5, observers=[look, stopping])
    best = min(range(1, len(losses)), key=losses.__getitem__)
    assert stopping.best_epoch == best and run.epoch == best + 3 < 40
    assert stopping.best == pytest.approx(losses[best])
    rows = run.history.query("split == 'holdout' and output == 'prediction' and metric == 'loss'")
    assert rows.value.tolist() == pytest.approx(losses[1:])


def test_it_asks_for_the_prediction_of_the_method():
    stopping = EarlyStopping(1, metric=Says(0.0))
    net = MultimodalNet.build(DATA, **MLA().network)
    run = fit(net, DATA, MLA(), epochs=1, device="cpu", observers=[stopping])
    ((prediction, target),) = stopping.metric.asked
    assert torch.allclose(prediction, run.predict(DATA.holdout))
    assert not torch.allclose(prediction, run.model(DATA.holdout.inputs).joint)
    assert torch.equal(target, DATA.holdout.target)


class Half(Joint):
    def answers(self, batch):
        return torch.arange(len(batch)) < 5


def test_what_has_no_answer_does_not_count():
    _, stopping = stopped(0.0, balancer=Half())
    assert len(stopping.metric.asked[0][0]) == 5


def test_the_metrics_of_the_library_do():
    run = trained(observers=[EarlyStopping(1, split="train", metric=accuracy)])
    rows = run.history.query("split == 'train' and metric == 'accuracy'")
    assert len(rows) == run.epoch and rows.value.between(0.4, 1).all()


def test_what_a_method_does_at_the_end_begins_at_the_best_network():
    run, _ = stopped(0.5, 0.1, 0.1, balancer=RefittedHead())
    encoders = trained(epochs=1).model.encoders
    assert same(weights(run.model.encoders), weights(encoders))
    first = MultimodalNet.build(DATA, seed=0)
    assert not same(weights(run.model.fusion), weights(first.fusion))  # it was trained again


def test_a_stream_and_several_labels_are_measured_too():
    class Samples(torch.utils.data.Dataset):
        def __len__(self):
            return 20

        def __getitem__(self, i):
            return {m: x[i] for m, x in DATA.holdout.inputs.items()}, targets[i]

    targets = torch.rand(100, 3) > 0.5
    train = Batch(DATA.train.inputs, targets)
    streamed = MultimodalData(train, Stream(Samples()), train, task="multilabel")
    stopping = EarlyStopping(1, metric=Says(0.0))
    run = trained(data=streamed, epochs=1, observers=[stopping])
    ((prediction, target),) = stopping.metric.asked
    assert prediction.shape == target.shape == (20, 3)
    (loss,) = (trained(data=streamed, epochs=1, observers=[EarlyStopping(1)]).observers[-1].best,)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        run.predict(streamed.holdout.head(20)), targets[:20].float()
    )
    assert loss == pytest.approx(expected.item())


def test_a_value_that_is_not_a_number_is_an_error():
    with pytest.raises(FloatingPointError, match="Says of the prediction for holdout is NaN a"):
        stopped(math.nan)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"patience": 0}, ValueError, "patience is 0; it must be a whole number of at least 1"),
        ({"split": "test"}, ValueError, r"split is 'test'; allowed are 'holdout', 'train'; to cho"),
        ({"split": "dev"}, ValueError, r"split is 'dev'; allowed are 'holdout', 'train'$"),
        ({"metric": "accuracy"}, TypeError, r"metric is 'accuracy'; give a function metric\("),
    ],
)
def test_bad_arguments(options, error, said):
    with pytest.raises(error, match=said):
        EarlyStopping(**{"patience": 1, **options})


# --- together with a checkpoint -------------------------------------------------------------------


@pytest.mark.parametrize("make", [ATF, lambda: GradientBlending(warmup=1, super_epoch=1)])
@pytest.mark.filterwarnings("ignore:Gradient-Blending gives the joint loss")
def test_it_goes_on_from_a_checkpoint(tmp_path, make):
    def ended(*last):
        epochs.clear()
        stopping = EarlyStopping(2, metric=by_epoch)
        return trained(make(), epochs=9, observers=[looks, stopping, *last]), stopping

    def looks(run):
        epochs.append(run.epoch)

    def by_epoch(prediction, target):
        return {1: 0.1, 2: 0.5, 3: 0.4, 4: 0.3}[epochs[-1]]

    epochs: list[int] = []
    whole, _ = ended()
    with pytest.raises(CutError):
        ended(Cut(tmp_path / "f", after=3))
    run, stopping = ended(Checkpoint(tmp_path / "f"))
    assert epochs == [4] and run.epoch == whole.epoch == 4 and stopping.best_epoch == 2
    assert same(weights(run.model), weights(whole.model)) and run.history.equals(whole.history)
    again, _ = ended(Checkpoint(tmp_path / "f"))  # which has ended
    assert epochs == [] and again.epoch == 4
    assert same(weights(again.model), weights(whole.model))


# --- several trainings ----------------------------------------------------------------------------


def test_each_seed_stops_by_itself():
    options = {"seeds": range(3), "epochs": 20, "lr": 0.5, "device": "cpu"}
    runs = fit_seeds(DATA, Joint, observers=[EarlyStopping(2)], **options)
    assert len({run.epoch for run in runs}) > 1 and all(run.together == 1 for run in runs)
    assert all(run.observers[0].best_epoch == run.epoch - 2 for run in runs)
    with pytest.raises(UnstackableError, match=r"EarlyStopping acts on one training.*at_once=Fal"):
        fit_seeds(DATA, Joint, observers=[EarlyStopping(2)], at_once=True, **options)


def test_in_a_comparison_too():
    options = {"seeds": [1], "epochs": 20, "lr": 0.5, "device": "cpu"}
    table = compare(
        {"joint": Joint},
        DATA,
        observers=[EarlyStopping(2)],
        measure=lambda run: {"epochs": run.epoch},
        units={"epochs": ""},
        **options,
    )
    assert table.epochs[0] < 20


def test_a_stack_cannot_stop_one_of_its_networks():
    def stop(run):
        if run.epoch == 1 and run.seed == 1:
            run.stop()

    with pytest.raises(UnstackableError, match=r"observer stops some of the seeds \[0, 1\] after"):
        fit_seeds(DATA, Joint, seeds=[0, 1], epochs=3, at_once=True, observers=[stop])
    runs = fit_seeds(DATA, Joint, seeds=[0, 1], epochs=3, observers=[stop, Curves()])
    assert [run.epoch for run in runs] == [3, 1]


def test_observers_hear_of_start_and_end():
    class Hears:
        only_looks = True

        def __init__(self):
            self.heard = []

        def on_start(self, run):
            self.heard.append(("start", run.epoch))

        def __call__(self, run):
            self.heard.append(run.epoch)

        def on_end(self, run):
            self.heard.append(("end", run.epoch))

    runs = [
        trained(ATF(), observers=[Hears()]),
        *fit_seeds(DATA, Joint, seeds=[0, 1], epochs=2, at_once=True, observers=[Hears()]),
    ]
    for run in runs:
        assert run.observers[0].heard == [("start", 0), 0, 1, 2, ("end", 2)]
