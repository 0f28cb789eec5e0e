"""Methods are compared fairly: per seed one start and one order for all of them."""

import pandas as pd
import pytest
import torch
from torch import nn

from mmlab.balancers import MLA, Joint, Uniform, Unimodal
from mmlab.datasets import Batch, MultimodalData
from mmlab.datasets.synthetic import synthetic
from mmlab.evaluation import Curves, GradientWatch
from mmlab.evaluation import test_accuracy as accuracy_of
from mmlab.experiments import compare, train_once
from mmlab.models import LazyLogits, MultimodalNet, Output
from mmlab.training import stacked

DATA = synthetic(n=(80, 20, 40), dims=5)
METHODS = {"joint": Joint, "uniform": Uniform, "a alone": lambda: Unimodal("a")}


def compared(methods=METHODS, data=DATA, **options):
    return compare(methods, data, **{"seeds": range(2), "epochs": 1, "device": "cpu"} | options)


def test_one_row_a_method_and_seed():
    table = compared(measure=lambda run: {"epochs": run.epoch})
    assert list(table) == ["method", "seed", "accuracy", "share a", "share b", "epochs"]
    assert table[["method", "seed"]].values.tolist() == [
        [name, seed] for seed in (0, 1) for name in METHODS
    ]
    once = train_once(Uniform(), DATA, seed=1, epochs=1, device="cpu")
    row = table.query("method == 'uniform' and seed == 1")
    assert row["accuracy"].item() == accuracy_of(once)
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
    assert list(table)[2:] == ["mae", "pearson", "accuracy 2", "accuracy 7"]


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


def test_the_table_says_how_many_went_at_once_at_most(monkeypatch):
    monkeypatch.setattr(stacked, "AT_ONCE", 2)
    assert compared({"joint": Joint}, seeds=range(3)).attrs["at once"] == {"joint": 2}


def test_one_seed_may_come_twice():
    table = compared({"joint": Joint}, seeds=[1, 1])
    assert table.seed.tolist() == [1, 1] and table.accuracy.nunique() == 1


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
