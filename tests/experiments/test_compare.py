"""Methods are compared fairly: per seed one start and one order for all of them."""

import pandas as pd
import pytest
import torch
from torch import nn

from mmlab.balancers import MLA, Joint, Uniform, Unimodal
from mmlab.datasets import Batch, MultimodalData
from mmlab.datasets.synthetic import synthetic
from mmlab.evaluation import Curves, GradientWatch, share_accuracy
from mmlab.evaluation import test_accuracy as accuracy_of
from mmlab.experiments import compare, comparison, train_once
from mmlab.models import LazyLogits, MultimodalNet, Output
from mmlab.training import stacked

DATA = synthetic(n=(80, 20, 40), dims=5)
METHODS = {"joint": Joint, "uniform": Uniform, "a alone": lambda: Unimodal("a")}


def compared(methods=METHODS, data=DATA, **options):
    return compare(methods, data, **{"seeds": range(2), "epochs": 1, "device": "cpu"} | options)


def test_one_row_a_method_and_seed():
    table = compared(measure=lambda run: {"epochs": run.epoch})
    scores = ["accuracy", "holdout accuracy", "share a", "share b"]
    assert list(table) == ["method", "seed", *scores, "epochs"]
    assert table[["method", "seed"]].values.tolist() == [
        [name, seed] for seed in (0, 1) for name in METHODS
    ]
    once = train_once(Uniform(), DATA, seed=1, epochs=1, device="cpu")
    row = table.query("method == 'uniform' and seed == 1")
    assert row["accuracy"].item() == accuracy_of(once)
    assert row["holdout accuracy"].item() == accuracy_of(once, "holdout")
    shares = share_accuracy(once.model, DATA.test)
    assert {m: row[f"share {m}"].item() for m in "ab"} == shares
    assert shares != share_accuracy(once.model, DATA.holdout)  # the test would see it
    assert table["epochs"].eq(1).all()


def test_a_network_of_ones_own_is_compared_seed_by_seed():
    class Halved(MultimodalNet):
        def forward(self, inputs):
            h = {m: self.encode(m, x) / 2 for m, x in inputs.items()}
            return Output(h, self.fusion(h), LazyLogits(self, h), self.fusion)

    methods = {"joint": Joint, "MLA": MLA}
    table = compared(methods, network=Halved)
    assert table.attrs["at once"] == {"joint": 1, "MLA": 1}
    once = train_once(MLA(), DATA, seed=1, epochs=1, device="cpu", network=Halved)
    assert type(once.model) is Halved
    row = table.query("method == 'MLA' and seed == 1")
    assert row["accuracy"].item() == accuracy_of(once)
    assert compared(methods).attrs["at once"] == {"joint": 2, "MLA": 2}


def test_all_methods_of_a_seed_start_alike_and_see_one_order():
    starts, orders = {}, {}

    def noting(name, base):
        class Noting(base):
            def start(self, run):
                flat = [p.detach().flatten() for p in run.model.encoders.parameters()]
                starts.setdefault(run.seed, []).append(torch.cat(flat))
                orders.setdefault(run.seed, []).append([])
                self.seen = orders[run.seed][-1]

            def step(self, s):
                self.seen.append(s.batch.inputs["a"])
                yield from super().step(s)

        return Noting

    methods = {"one": noting("one", Joint), "two": noting("two", Uniform)}
    compared(methods, epochs=2, at_once=False)
    for seed in (0, 1):
        assert torch.equal(*starts[seed])
        assert all(map(torch.equal, *orders[seed]))
    assert not torch.equal(starts[0][0], starts[1][0])
    assert not torch.equal(orders[0][0][0], orders[1][0][0])


def test_encoders_of_the_callers_own_are_the_same_start_for_every_method():
    starts = []

    class Noting(Joint):
        def start(self, run):
            starts.append(flat(run.model.encoders))

    def flat(encoders):
        return torch.cat([p.detach().flatten() for e in encoders.values() for p in e.parameters()])

    encoders = {m: nn.Linear(5, 8) for m in "ab"}
    before = flat(encoders)
    ends = []
    compared(
        {"one": Noting, "two": Noting},
        build={"encoders": encoders, "width": 8},
        at_once=False,
        measure=lambda run: ends.append(flat(run.model.encoders)) or {},
    )
    assert len(starts) == 4 and all(torch.equal(start, before) for start in starts)
    assert not any(torch.equal(end, before) for end in ends)  # they have learnt
    assert torch.equal(flat(encoders), before)  # and the caller's stand as they were


def test_data_may_depend_on_the_seed_and_the_network_on_the_caller():
    seen = []

    def data(seed):
        seen.append(seed)
        return synthetic(n=(80, 20, 40), dims=5, seed=seed)

    widths = []
    compared(
        {"joint": Joint},
        data,
        seeds=(3, 5),
        build={"fusion": "gated", "width": 8},
        measure=lambda run: widths.append(run.model.fusion.widths) or {},
    )
    assert seen == [3, 5] and widths == [{"a": 8, "b": 8}] * 2


def test_regression_gets_its_own_columns():
    batch = Batch({m: torch.randn(30, 4) for m in "ab"}, torch.randn(30))
    data = MultimodalData(batch, batch, batch, task="regression")
    table = compared({"joint": Joint}, data)
    own = ["mae", "pearson", "accuracy 2", "accuracy 7"]
    assert list(table)[2:] == [*own, *(f"holdout {name}" for name in own)]
    assert set(table.attrs["units"].items()) == {
        *((name, "%") for name in list(table) if "accuracy" in name),
        *((name, "") for name in ("mae", "pearson", "holdout mae", "holdout pearson")),
    }


def test_at_once_or_one_by_one_the_table_is_the_same():
    data = {seed: synthetic(n=(80, 20, 40), dims=5, seed=seed) for seed in (5, 3)}
    methods = {"uniform": Uniform, "MLA": MLA}
    options = {"seeds": (5, 3), "epochs": 2, "measure": lambda run: {"of": run.seed}}
    at_once, alone = (compared(methods, data.get, **options, at_once=x) for x in (True, False))
    assert at_once.attrs["at once"] == {"uniform": 2, "MLA": 2}
    assert alone.attrs["at once"] == {"uniform": 1, "MLA": 1}
    pd.testing.assert_frame_equal(at_once, alone)
    assert alone.of.equals(alone.seed)
    for row in alone.itertuples():
        once = train_once(methods[row.method](), data[row.seed], seed=row.seed, epochs=2)
        assert row.accuracy == accuracy_of(once)


@pytest.mark.parametrize(("count", "sizes"), [(1, [2, 2]), (2, [4, 4]), (3, [4, 4, 4])])
def test_workers_share_the_methods_and_only_then_the_seeds(monkeypatch, count, sizes):
    found = []

    def noted(jobs, *_):
        found.extend(len(job.seeds) for job in jobs)
        raise RuntimeError("that is all")

    monkeypatch.setattr(comparison, "run_jobs", noted)
    with pytest.raises(RuntimeError, match="that is all"):
        compared(dict([*METHODS.items()][:count]), seeds=range(4), parallel=2)
    assert found == sizes


def test_the_table_says_how_many_went_at_once_at_most(monkeypatch):
    monkeypatch.setattr(stacked, "AT_ONCE", 2)
    assert compared({"joint": Joint}, seeds=range(3)).attrs["at once"] == {"joint": 2}


@pytest.mark.parametrize("at_once", [None, False])
def test_more_seeds_than_go_at_once_keep_their_own_data(monkeypatch, at_once):
    monkeypatch.setattr(stacked, "AT_ONCE", 2)
    data = {seed: synthetic(n=(80, 20, 40), dims=5, seed=seed) for seed in (9, 4, 7, 2)}
    table = compared({"joint": Joint}, data.get, seeds=[*data], at_once=at_once)
    expected = [
        accuracy_of(train_once(Joint(), one, seed=seed, epochs=1, device="cpu"))
        for seed, one in data.items()
    ]
    assert table.accuracy.tolist() == expected and len({*expected}) > 2


@pytest.mark.parametrize("at_once", [True, False])
def test_each_run_has_a_balancer_of_its_own(at_once):
    made = []

    class Own(Joint):
        def __init__(self):
            made.append(self)

        def start(self, run):
            assert not hasattr(self, "started"), "used before"
            self.started = True

    balancers = []
    compared(
        {"own": Own},
        seeds=range(3),
        at_once=at_once,
        measure=lambda run: balancers.append(run.balancer) or {},
    )
    assert len({id(balancer) for balancer in balancers}) == 3
    assert len(made) == 2 + 3  # two before anything trains: are they two?


def test_what_an_observer_keeps_stays_with_its_run():
    class Best:
        only_looks = True

        def __init__(self):
            self.seen = []

        def __call__(self, run):
            self.seen.append((run.balancer.name, run.seed, run.epoch))

    given = Best()
    for observers in ([Best], [given]):
        for at_once in (True, False):
            seen = []
            compared(
                {"joint": Joint, "uniform": Uniform},
                observers=observers,
                at_once=at_once,
                measure=lambda run, seen=seen: seen.append(run.observers[0].seen) or {},
            )
            assert seen == [
                [(name, seed, epoch) for epoch in (0, 1)]
                for name in ("Joint", "Uniform")
                for seed in (0, 1)
            ]
    assert given.seen == []


class Failing(Joint):
    """Fails at its first step, as a method that cannot do a task."""

    def step(self, s):
        raise ValueError("not for these data")
        yield


def diverging_at(*seeds):
    """A data set per seed, of which some make the training diverge."""

    def data(seed):
        found = synthetic(n=(80, 20, 40), dims=5, seed=seed)
        if seed in seeds:
            found.train.inputs["a"].mul_(1e30)
        return found

    return data


def test_a_method_that_fails_costs_its_own_rows_alone():
    methods = {"fails": Failing, "joint": Joint}
    with pytest.warns(UserWarning, match=r"method 'fails' failed at 2 of 2 seeds \(0, 1\): Value"):
        table = compared(methods, measure=lambda run: {"epochs": run.epoch})
    failed, rest = table[table.method == "fails"], table[table.method == "joint"]
    assert list(table)[-2:] == ["epochs", "error"]
    assert failed.error.tolist() == ["ValueError: not for these data"] * 2
    assert failed.drop(columns=["method", "seed", "error"]).isna().all(axis=None)
    assert rest.error.tolist() == [None, None]
    alone = compared({"joint": Joint}, measure=lambda run: {"epochs": run.epoch})
    assert list(alone) == list(table)[:-1]  # no such column where nothing failed
    assert rest.accuracy.tolist() == alone.accuracy.tolist()
    assert table.attrs["at once"] == {"fails": 0, "joint": 2}


@pytest.mark.parametrize("at_once", [None, True, False])
def test_a_seed_that_diverges_costs_its_own_row_alone(at_once):
    with pytest.warns(
        UserWarning, match=r"'joint' failed at 1 of 3 seeds \(1\): FloatingPointErr"
    ) as caught:
        table = compared({"joint": Joint}, diverging_at(1), seeds=range(3), at_once=at_once)
    assert any("train_once(MyMethod(), data, seed=1, epochs=1)" in str(w.message) for w in caught)
    assert table.error.notna().tolist() == [False, True, False]
    for seed in (0, 2):
        once = train_once(Joint(), diverging_at()(seed), seed=seed, epochs=1, device="cpu")
        assert table.accuracy[seed] == accuracy_of(once)
    assert table.attrs["at once"] == {"joint": 1}


def test_each_seed_keeps_its_rate_where_the_seeds_go_on_one_by_one():
    rates = [0.1, 0.2, 0.3]
    table = compared(
        {"joint": Joint},
        diverging_at(1),
        seeds=range(3),
        lr=rates,
        measure=lambda run: {"rate": run.optimizer.param_groups[0]["lr"]},
    )
    assert table.rate.dropna().tolist() == [0.1, 0.3]


def test_a_measure_of_one_method_leaves_the_others_empty():
    methods = {"joint": Joint, "uniform": Uniform}
    table = compared(methods, measure={"uniform": lambda run: {"epochs": run.epoch}})
    assert table.set_index("method").epochs.isna().to_dict() == {"joint": True, "uniform": False}
    with pytest.raises(ValueError, match="measure names 'OMG', which is no method; they are"):
        compared(methods, measure={"OMG": len})
    with pytest.raises(TypeError, match=r"measure\['uniform'\] is 3; give a callable"):
        compared(methods, measure={"uniform": 3})


def test_a_measure_that_fails_leaves_the_scores():
    def measure(run):
        if run.seed == 1:
            raise KeyError("no such thing")
        return {"found": 1}

    with pytest.warns(UserWarning, match=r"method 'joint' failed at 1 of 2 seeds \(1\): KeyError"):
        table = compared({"joint": Joint}, measure=measure)
    assert table.error.tolist() == [None, "KeyError: 'no such thing'"]
    assert table.found.tolist()[0] == 1 and pd.isna(table.found[1])
    assert table.accuracy.tolist() == compared({"joint": Joint}).accuracy.tolist()


def test_where_no_run_has_a_score_the_first_error_is_raised():
    with (
        pytest.warns(UserWarning, match="failed at 2 of 2 seeds"),
        pytest.raises(ValueError, match="not for these data"),
    ):
        compared({"fails": Failing, "too": Failing})


def test_the_first_error_is_that_of_the_first_method():
    class Later(Joint):
        def start(self, run):
            raise ArithmeticError("of the second method")

    with pytest.warns(UserWarning, match="failed"), pytest.raises(ValueError, match="not for thes"):
        compared({"fails": Failing, "later": Later})


def test_what_is_tried_before_is_not_trained():
    batches = []

    def loss(prediction, target):
        batches.append(len(target))
        return nn.functional.cross_entropy(prediction, target)

    train_once(Joint(), DATA, seed=0, epochs=2, device="cpu", loss=loss)
    once = batches.copy()
    batches.clear()
    compared({"joint": Joint}, seeds=[0], epochs=2, loss=loss)
    assert batches == once


@pytest.mark.parametrize("where", ["training", "measure"])
def test_the_keyboard_ends_a_comparison(where):
    class Interrupted(Joint):
        def step(self, s):
            raise KeyboardInterrupt
            yield

    def measure(run):
        raise KeyboardInterrupt

    methods = {"joint": Joint} | ({"stop": Interrupted} if where == "training" else {})
    with pytest.raises(KeyboardInterrupt):
        compared(methods, measure=measure if where == "measure" else None)


def test_one_program_that_was_asked_for_and_cannot_be_is_an_error_of_its_method():
    class Halved(Joint):
        def order(self, run):
            return range(40)

    with pytest.warns(UserWarning, match="'halved' failed at 2 of 2 seeds .*UnstackableError"):
        table = compared({"joint": Joint, "halved": Halved}, at_once=True)
    assert table.error.str.startswith("UnstackableError").tolist() == [None, True] * 2


def test_a_method_has_settings_of_its_own():
    table = compared(
        METHODS,
        lr=0.05,
        settings={"uniform": {"lr": 0.2, "epochs": 3, "build": {"width": 8}}},
        measure=lambda run: {
            "epochs": run.epochs,
            "width": run.model.fusion.widths["a"],
            "score": accuracy_of(run),
        },
    )
    own = table[table.method == "uniform"]
    assert own.epochs.eq(3).all() and own.width.eq(8).all()
    rest = table[table.method != "uniform"]
    assert rest.epochs.eq(1).all() and rest.width.eq(64).all()
    once = train_once(Uniform(), DATA, seed=1, epochs=3, lr=0.2, device="cpu", build={"width": 8})
    assert own.accuracy.tolist()[1] == accuracy_of(once)
    pd.testing.assert_frame_equal(
        rest.reset_index(drop=True),
        compared(
            {name: METHODS[name] for name in ("joint", "a alone")},
            lr=0.05,
            measure=lambda run: {"epochs": run.epochs, "width": 64, "score": accuracy_of(run)},
        ),
    )


def test_a_modality_alone_is_scored_on_the_samples_that_have_it():
    there = torch.arange(40) < 10
    masks = {"a": there, "b": torch.ones(40, dtype=torch.bool)}
    inputs = {**DATA.test.inputs, "a": DATA.test.inputs["a"] * there[:, None]}
    data = MultimodalData(DATA.train, DATA.holdout, Batch(inputs, DATA.test.target, masks))
    table = compared(METHODS, data)
    assert list(table)[-1] == "answered" and table.attrs["units"]["answered"] == "%"
    shares = table.groupby("method").answered.unique()
    assert shares["a alone"].tolist() == [0.25]
    assert shares["joint"].tolist() == shares["uniform"].tolist() == [1.0]
    once = train_once(Unimodal("a"), DATA, seed=0, epochs=1, device="cpu")
    right = once.predict(data.test[:10]).argmax(-1) == data.test.target[:10]
    row = table[(table.method == "a alone") & (table.seed == 0)]
    assert row.accuracy.item() == pytest.approx(right.double().mean().item())


def test_columns_know_their_units():
    table = compared(
        {"joint": Joint},
        measure=lambda run: {"rmse": 1.5, "seconds": torch.tensor(2.0), "other": 3},
        units={"rmse": "cm", "seconds": "s"},
    )
    shares = ["accuracy", "holdout accuracy", "share a", "share b"]
    assert table.attrs["units"] == dict.fromkeys(shares, "%") | {"rmse": "cm", "seconds": "s"}
    assert table.seconds.tolist() == [2.0, 2.0]  # a tensor of one number is a number
    with pytest.warns(UserWarning, match="units names 'rsme', which is no column; the table has"):
        compared({"joint": Joint}, units={"rsme": "cm"})


def test_bad_comparisons_are_refused():
    with pytest.raises(ValueError, match="no method to compare"):
        compared({})
    with pytest.raises(TypeError, match=r"method 'joint' is <.*Joint.*lambda: OGM"):
        compared({"joint": Joint()})


def test_seeds_train_at_once_where_nothing_forbids_it():
    class Own(Joint):
        pass

    def shrink(run):
        for p in run.model.parameters():
            p.data.mul_(0.5)

    class Mixes(Joint):
        def step(self, s):
            s.backward(s.losses["joint"].prod())
            yield

    plain = compared({"joint": Joint, "own": Own, "mixes": Mixes})
    assert plain.attrs["at once"] == {"joint": 2, "own": 2, "mixes": 1}
    rows = plain.groupby("method").accuracy
    assert list(rows.get_group("joint")) == list(rows.get_group("own"))
    for observer in (Curves(), GradientWatch()):
        assert compared({"joint": Joint}, observers=[observer]).attrs["at once"] == {"joint": 2}
    for observer in (shrink, lambda run: run.model.encoders["a"].append(nn.Dropout(0.5))):
        assert compared({"joint": Joint}, observers=[observer]).attrs["at once"] == {"joint": 1}
    build = {"encoders": {m: nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.2)) for m in "ab"}}
    assert compared({"joint": Joint}, build={**build, "width": 8}).attrs["at once"] == {"joint": 1}
    convolution = nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 2, 2), nn.Flatten())
    build = {"encoders": dict.fromkeys("ab", convolution), "width": 8}
    assert compared({"joint": Joint}, build=build).attrs["at once"] == {"joint": 1}
