"""A schedule of torch sets the learning rate of every method, its copies and its stacks."""

import functools
import warnings

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler
from trained import DATA, same, trained, weights

from mmlab import compare
from mmlab.balancers import ATF, METHODS, MLA, Balancer, GradientBlending, Joint, RefittedHead
from mmlab.datasets.synthetic import synthetic
from mmlab.models import MultimodalNet, UnstackableError
from mmlab.training import fit, fit_seeds

SETTINGS = {"batch_size": 32, "lr": 0.1}  # 100 samples: 4 batches per epoch
OPTIONS = SETTINGS | {"device": "cpu"}


def halved(optimizer):
    return lr_scheduler.StepLR(optimizer, 1, 0.5)


def cosine(optimizer, steps):
    """To a rate that is the same wherever it starts."""
    return lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=0.01)


def one_cycle(optimizer, steps):
    return lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)


def run_of(make, seed=0, data=DATA, **options):
    balancer = make()
    net = MultimodalNet.build(data, **balancer.network, seed=seed)
    return fit(net, data, balancer, seed=seed, **{"epochs": 2} | OPTIONS | options)


def rates(run, output=""):
    return run.history.query("metric == 'lr' and output == @output").value.tolist()


@pytest.mark.parametrize("name", [name for name, m in METHODS.items() if "trials" not in m.needs])
def test_after_each_epoch_it_is_the_rate_set_by_hand(name):
    def by_hand(run):
        run.optimizer.param_groups[0]["lr"] = 0.1 * 0.5**run.epoch

    run = run_of(METHODS[name].make, schedule=halved)
    assert same(weights(run.model), weights(run_of(METHODS[name].make, observers=[by_hand]).model))
    assert not same(weights(run.model), weights(run_of(METHODS[name].make).model))
    assert rates(run) == [0.1, 0.05]
    assert run.optimizer.param_groups[0]["lr"] == 0.025


class Watching(Balancer):
    """Takes note of the learning rate of each update."""

    def __init__(self, updates=1):
        self.updates, self.seen = updates, []

    def step(self, s):
        for _ in range(self.updates):
            s.backward(s.losses["joint"])
            self.seen.append(s.optimizer.param_groups[0]["lr"])
            yield
            s = type(s)(s.model, s.batch, s.optimizer)


def by_torch(schedule, batches):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9)
    scheduler, found = schedule(optimizer, batches), []
    for _ in range(batches):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("schedule", [cosine, one_cycle])
@pytest.mark.parametrize("updates", [1, 3])
def test_with_two_arguments_it_steps_once_per_batch_and_not_per_update(updates, schedule):
    balancer = Watching(updates)
    run = trained(balancer, schedule=schedule, **SETTINGS)
    expected = by_torch(schedule, 8)
    assert balancer.seen == [rate for rate in expected for _ in range(updates)]
    assert rates(run) == pytest.approx([np.mean(expected[:4]), np.mean(expected[4:])])


def test_drop_last_counts():
    seen = []

    def keep(optimizer, steps):
        seen.append(steps)
        return halved(optimizer)

    trained(schedule=keep, epochs=3, drop_last=True, batch_size=32)
    assert seen == [3 * 3]


@pytest.mark.parametrize("schedule", [cosine, lr_scheduler.ExponentialLR])
def test_factors_on_one_update_leave_the_schedule_alone(schedule):
    def make(optimizer, steps):
        return cosine(optimizer, steps) if schedule is cosine else schedule(optimizer, 0.8)

    expected = [np.mean(part) for part in np.split(np.array(by_torch(make, 8)), 2)]
    for balancer in (ATF(), MLA(), METHODS["BDO"].make()):
        assert rates(run_of(lambda b=balancer: b, schedule=make)) == pytest.approx(expected)


def test_groups_keep_their_own_rates():
    def groups(named_parameters):
        parts = {"bias": [], "weight": []}
        for name, p in named_parameters:
            parts[name.rsplit(".")[-1]].append(p)
        return torch.optim.SGD(
            [{"params": parts["bias"], "lr": 0.4}, {"params": parts["weight"]}], lr=0.1
        )

    run = trained(optimizer=groups, schedule=halved)
    assert rates(run, "group 0") == [0.4, 0.2] and rates(run, "group 1") == [0.1, 0.05]


def test_a_rate_that_is_a_tensor_is_recorded_as_it_was():
    def adam(parameters):
        return torch.optim.Adam(parameters, lr=torch.tensor(0.5))

    assert rates(trained(optimizer=adam, schedule=halved)) == [0.5, 0.25]


class Branching(Watching):
    """Lets a copy train on for the rest of the run before each epoch."""

    def __init__(self):
        super().__init__()
        self.copies = []

    def epoch(self, run):
        watching = type(self).watching = []

        class Copy(Watching):
            def __init__(self):
                super().__init__()
                self.seen = watching

            def __deepcopy__(self, memo):
                return self

        run.branch(Copy(), run.epochs - run.epoch)
        self.copies.append(watching)


@pytest.mark.parametrize("schedule", [halved, cosine, one_cycle])
def test_a_branch_follows_the_schedule_and_leaves_the_run_as_it_is(schedule):
    balancer = Branching()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = trained(balancer, schedule=schedule, epochs=3, **SETTINGS)
    assert len(set(balancer.seen)) > 2
    assert balancer.copies == [balancer.seen[4 * epoch :] for epoch in range(3)]
    alone = trained(Watching(), schedule=schedule, epochs=3, **SETTINGS)
    assert same(weights(run.model), weights(alone.model))


@pytest.mark.parametrize("refit_epochs", [None, 3])
@pytest.mark.parametrize("schedule", [halved, cosine, one_cycle])
def test_a_refitted_head_goes_through_the_schedule_once_more(schedule, refit_epochs):
    used = []

    class Recording(torch.optim.SGD):
        def step(self, closure=None):
            used.append(self.param_groups[0]["lr"])
            return super().step(closure)

    def run(balancer, epochs):
        used.clear()
        optimizer = functools.partial(Recording, lr=0.1)
        trained(balancer, schedule=schedule, epochs=epochs, batch_size=32, optimizer=optimizer)
        return used.copy()

    again = run(Joint(), refit_epochs or 2)
    both = run(RefittedHead(refit_epochs), 2)
    assert len(set(again)) > 1
    assert both == [*run(Joint(), 2), *again]


def test_without_a_schedule_the_history_is_silent():
    assert "lr" not in set(trained().history.metric)


# --- stacks ---------------------------------------------------------------------------------------

SEEDS = [3, 5]
STACKED = {name: method.make for name, method in METHODS.items()} | {
    "G-Blend": functools.partial(GradientBlending, warmup=1, super_epoch=1),
    "refit": RefittedHead,
}


def assert_same(run, one):
    for mine, theirs in zip(weights(run.model), weights(one.model), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    assert run.history.metric.tolist() == one.history.metric.tolist()
    assert run.history.value.to_numpy() == pytest.approx(one.history.value.to_numpy(), abs=1e-4)


@pytest.mark.parametrize(
    ("name", "schedule", "rate"),
    [
        ("G-Blend", cosine, [0.1, 0.02]),
        ("G-Blend", one_cycle, 0.1),
        ("BDO", cosine, [0.02, 0.1]),
        ("BDO", halved, [0.1, 0.02]),
        ("refit", halved, [0.1, 0.02]),
        ("refit", one_cycle, 0.1),
    ],
)
def test_a_stack_follows_it_as_each_network_alone(name, schedule, rate):
    data = synthetic(n=(60, 20, 20), dims=4)
    options = {"epochs": 2, "schedule": schedule, "batch_size": 32, "device": "cpu"}
    runs = fit_seeds(data, STACKED[name], seeds=SEEDS, lr=rate, at_once=True, **options)
    for r, (run, seed) in enumerate(zip(runs, SEEDS, strict=True)):
        own = rate[r] if isinstance(rate, list) else rate
        one = run_of(STACKED[name], seed, data, **options | {"lr": own})
        assert_same(run, one)
        assert rates(run) == rates(one)
    assert len(set(rates(runs[0]))) == 2


@pytest.mark.parametrize("name", ["joint", "OGM-GE", "MMPareto", "MLA"])
def test_a_stack_under_every_method(name):
    options = {"schedule": cosine} | OPTIONS
    runs = fit_seeds(DATA, STACKED[name], seeds=SEEDS, at_once=True, epochs=2, **options)
    for run, seed in zip(runs, SEEDS, strict=True):
        assert_same(run, run_of(STACKED[name], seed, **options))


def test_a_schedule_may_end_at_a_rate_of_0():
    def off(optimizer):
        return lr_scheduler.LambdaLR(optimizer, lambda epoch: float(epoch == 0))

    runs = fit_seeds(
        DATA, Joint, seeds=SEEDS, lr=[0.1, 0.2], at_once=True, epochs=3, schedule=off, device="cpu"
    )
    for run, seed, rate in zip(runs, SEEDS, [0.1, 0.2], strict=True):
        assert rates(run) == [rate, 0.0, 0.0]
        one = run_of(Joint, seed, lr=rate, epochs=1, batch_size=64)
        for mine, theirs in zip(weights(run.model), weights(one.model), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


def test_an_observer_that_looks_at_the_schedule_is_for_one_network():
    def looks(run):
        run.schedule.state_dict()

    with pytest.raises(UnstackableError, match=r"schedule\.state_dict"):
        fit_seeds(
            DATA, Joint, seeds=SEEDS, epochs=1, schedule=halved, observers=[looks], at_once=True
        )
    assert trained(schedule=halved, observers=[looks]).schedule.state_dict()["last_epoch"] == 2


def test_compare_hands_it_on():
    seen = {}
    compare(
        {"joint": Joint, "MLA": MLA},
        DATA,
        seeds=SEEDS,
        epochs=2,
        schedule=one_cycle,
        measure=lambda run: seen.setdefault(run.balancer.name, rates(run)) and {},
    )
    expected = by_torch(one_cycle, 4)
    means = pytest.approx([np.mean(expected[:2]), np.mean(expected[2:])])
    assert seen == {"Joint": means, "MLA": means}


# --- what is refused ------------------------------------------------------------------------------


class InOrder(Joint):
    def order(self, run):
        return range(len(run.data.train))


@pytest.mark.parametrize(
    ("schedule", "kind", "message"),
    [
        (lr_scheduler.StepLR, TypeError, "schedule is the class StepLR; give a function"),
        ("cosine", TypeError, "schedule is a str; give a function"),
        (lambda: None, TypeError, "schedule takes 0 arguments; give a function"),
        (lambda optimizer: 0.1, TypeError, "schedule gives a float; give a function"),
        (
            lr_scheduler.ReduceLROnPlateau,
            TypeError,
            "schedule is the class ReduceLROnPlateau",
        ),
        (
            lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer),
            ValueError,
            "ReduceLROnPlateau needs a value at each step.*such as StepLR.*observer",
        ),
        (
            lambda optimizer: halved(torch.optim.SGD([torch.zeros(1)], lr=1.0)),
            ValueError,
            "StepLR of another optimiser",
        ),
    ],
)
@pytest.mark.parametrize("at_once", [False, True])
def test_what_cannot_be_stepped_is_refused(schedule, kind, message, at_once):
    with pytest.raises(kind, match=message):
        fit_seeds(DATA, Joint, seeds=SEEDS, epochs=1, schedule=schedule, at_once=at_once)


def test_batches_that_a_method_chooses_cannot_be_counted():
    with pytest.raises(ValueError, match=r"InOrder\.order may give each epoch another one.*lambda"):
        trained(InOrder(), schedule=cosine)
    assert rates(trained(InOrder(), schedule=halved, lr=0.1)) == [0.1, 0.05]


def test_what_trains_nothing_needs_no_schedule():
    assert trained(epochs=0, schedule=one_cycle).schedule is None
