"""R seeds as one program end where R runs on their own would."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

from mmlab import (
    ATF,
    CML,
    LFM,
    MLA,
    OGM,
    PMR,
    Balancer,
    Blend,
    GradientBlending,
    Joint,
    MMPareto,
    MultimodalNet,
    Relearning,
    Step,
    Uniform,
    Unimodal,
    compare,
    fit,
)
from mmlab.balancers import METHODS as REGISTERED
from mmlab.datasets import Batch, MultimodalData, drop
from mmlab.datasets.synthetic import synthetic
from mmlab.evaluation import Curves, test_accuracy
from mmlab.models import FUSIONS, Concat, NetworkStack, UnstackableError
from mmlab.models.stack import stack_modules
from mmlab.seeds import generator
from mmlab.training import Run, fit_seeds, stacked, stacked_run, train_once

SEEDS = [3, 5, 8]
METHODS = {name: method.make for name, method in REGISTERED.items()} | {
    "scaled uniform": lambda: Uniform(encoder_scale=1.5),
    "unimodal": lambda: Unimodal("a"),
    "G-Blend again": lambda: GradientBlending(warmup=1, super_epoch=1),
    "G-Blend offline": lambda: GradientBlending(mode="offline"),
    "ACE of one": lambda: ATF("ace", total="one"),
    "BDO of one": lambda: ATF("bdo", total="one"),
    "decoupled": lambda: ATF("ace", decoupled=True),
    "continuous": lambda: OGM(continuous=True, enhance=False),
    "late OGM": lambda: OGM(window=(1, 1)),
    "by tensor": lambda: MMPareto(rescale="tensor"),
    "conflicts alone": lambda: MMPareto(gamma_on_aligned=False),
    "rls": lambda: MLA("rls"),
    "none": lambda: MLA("none"),
    "LFM by predictions": lambda: LFM("js"),
}


def datasets(**options) -> list[MultimodalData]:
    """A data set of its own for each seed, all of one size, the last batch a short one."""
    return [synthetic(n=(90, 20, 30), dims=5, seed=seed, **options) for seed in SEEDS]


SETTINGS = {"epochs": 2, "batch_size": 16, "device": "cpu", "lr": 0.05}


def train(make, data, build=None, **options) -> list[Run]:
    """The seeds in one program."""
    options = {"seeds": SEEDS, "at_once": True} | SETTINGS | options
    runs = fit_seeds(data, make, build={"width": 8} | (build or {}), **options)
    if options["at_once"]:
        assert [run.together for run in runs] == [len(runs)] * len(runs)
    return runs


def alone(make, data, r, build=None, **options) -> Run:
    """One of them by `fit`, on a network of its own."""
    balancer = make()
    net = MultimodalNet.build(
        data[r], seed=SEEDS[r], **{**balancer.network, "width": 8, **(build or {})}
    )
    return fit(net, data[r], balancer, seed=SEEDS[r], **SETTINGS | options)


def assert_same(runs, one, r):
    run, state = runs[r], one.model.state_dict()
    for name, value in run.model.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=1e-5, msg=name)
    mine, theirs = run.history, one.history
    keys = ["epoch", "split", "output", "metric"]
    assert mine[keys].equals(theirs[keys])
    # gains and overfits are differences of losses: their last digits are rounding
    assert mine.value.to_numpy() == pytest.approx(theirs.value.to_numpy(), abs=1e-4)
    assert (run.seed, run.epoch, run.epochs) == (one.seed, one.epoch, one.epochs)


STACKED = [
    name for name in METHODS if name not in REGISTERED or "own order" not in REGISTERED[name].needs
]
"""Without those that choose the samples of an epoch."""


@pytest.mark.parametrize("method", STACKED)
def test_one_program_equals_separate_runs(method):
    data = datasets()
    runs = train(METHODS[method], data)
    assert [run.seed for run in runs] == SEEDS and [run.data for run in runs] == data
    for r, seed in enumerate(SEEDS):
        assert_same(runs, alone(METHODS[method], data, r), r)
        start = MultimodalNet.build(data[r], width=8, seed=seed)
        before = next(start.encoders["a"].parameters())
        after = next(runs[r].model.encoders["a"].parameters())
        assert not torch.equal(before, after)
    first, second = (next(run.model.encoders["a"].parameters()) for run in runs[:2])
    assert (first - second).abs().max() > 0.01  # they are different seeds


def began(self):
    raise AssertionError("a stack has begun")


@pytest.mark.parametrize("method", [name for name in METHODS if name not in STACKED])
def test_who_chooses_its_samples_trains_one_by_one(method, recwarn, monkeypatch):
    """It is known before anything starts, and of a method of the library it is no news."""
    monkeypatch.setattr(stacked.StackedRun, "start", began)
    data = datasets()
    with pytest.raises(UnstackableError, match="chooses the samples of an epoch"):
        train(METHODS[method], data)
    runs = train(METHODS[method], data, at_once=None)
    assert not [w for w in recwarn if "one by one" in str(w.message)]
    for r in range(len(SEEDS)):
        assert runs[r].together == 1
        assert_same(runs, alone(METHODS[method], data, r), r)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("method", ["OGM-GE", "MMPareto"])
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_under_every_fusion(fusion, method):
    data = datasets()
    runs = train(METHODS[method], data, build={"fusion": fusion})
    assert_same(runs, alone(METHODS[method], data, 1, build={"fusion": fusion}), 1)


def convolution() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Flatten(1)
    )


@pytest.mark.parametrize("method", ["joint", "OGM-GE", "MMPareto", "BDO", "G-Blend again"])
def test_under_encoders_that_are_not_linear_layers(method):
    data, build = datasets(), {"encoders": {m: convolution() for m in "ab"}, "width": 24}
    runs = train(METHODS[method], data, build=build)
    assert_same(runs, alone(METHODS[method], data, 2, build=build), 2)


@pytest.mark.parametrize(
    "method",
    [
        "joint",
        "uniform",
        "G-Blend again",
        "ACE",
        "BDO",
        "OGM",
        "OGM-GE",
        "MMPareto",
        "MLA",
        "PMR",
        "D&R",
        "LFM",
        "LFM by predictions",
        "CML",
    ],
)
def test_with_modalities_missing(method):
    data = []
    for d, s in zip(datasets(), SEEDS, strict=True):
        splits = {k: drop(b, {"a": 0.3, "b": 0.2}, s) for k, b in d.splits.items()}
        data.append(MultimodalData(**splits, n_classes=d.n_classes))
    runs = train(METHODS[method], data)
    for r in range(len(SEEDS)):
        assert_same(runs, alone(METHODS[method], data, r), r)


@pytest.mark.parametrize(
    "method", [name for name, m in REGISTERED.items() if "labels" not in m.needs]
)
def test_in_regression(method):
    def numbers(batch: Batch) -> Batch:
        return Batch(batch.inputs, batch.target.float() + batch.inputs["a"][:, 0])

    data = [
        MultimodalData(**{k: numbers(b) for k, b in d.splits.items()}, task="regression")
        for d in datasets()
    ]
    runs = train(METHODS[method], data)
    for r in range(len(SEEDS)):
        assert_same(runs, alone(METHODS[method], data, r), r)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.RMSprop])
def test_under_other_optimisers(optimizer):
    data, make = datasets(), lambda parameters: optimizer(parameters, lr=1e-3, weight_decay=0.1)
    runs = train(METHODS["ACE"], data, optimizer=make, lr=None)
    assert_same(runs, alone(METHODS["ACE"], data, 1, optimizer=make, lr=None), 1)


GRIDS = {
    "alpha of OGM": (lambda v: OGM(alpha=v), [0.1, 0.5, 2.0]),
    "rate of ACE": (lambda v: ATF("ace", rate=v), [0.0, 0.1, 1.0]),
    "rate of BDO": (lambda v: ATF("bdo", rate=v), [0.0, 0.1, 1.0]),
    "gamma of MMPareto": (lambda v: MMPareto(gamma=v), [0.5, 1.0, 2.0]),
    "gamma of MMPareto by tensor": (lambda v: MMPareto(gamma=v, rescale="tensor"), [0.5, 1.0, 2.0]),
    "alpha of MLA": (lambda v: MLA(alpha=v), [0.01, 0.1, 10.0]),
    "alpha of MLA, rls": (lambda v: MLA("rls", alpha=v), [0.01, 0.1, 10.0]),
    "scale of the uniform sum": (lambda v: Uniform(encoder_scale=v), [0.5, 1.0, 1.5]),
    "alpha of PMR": (lambda v: PMR(alpha=v), [0.1, 1.0, 4.0]),
    "strength of D&R": (lambda v: Relearning(strength=v), [0.5, 3.0, 10.0]),
    "mu of PMR": (lambda v: PMR(mu=v), [0.0, 0.01, 1.0]),
    "lam of CML": (lambda v: CML(lam=v), [0.1, 1.0, 10.0]),
    "decay of LFM": (lambda v: LFM(decay=v), [0.1, 0.3, 1.0]),
    "temperature of LFM": (lambda v: LFM(temperature=v), [0.1, 0.5, 1.0]),
    "alpha of OGM, continuous": (lambda v: OGM(alpha=v, continuous=True), [0.1, 0.5, 2.0]),
    "c of CAGrad": (lambda v: Blend("cagrad", c=v), [0.0, 0.4, 0.9]),
}


@pytest.mark.parametrize("grid", GRIDS)
def test_a_grid_of_a_hyper_parameter_is_one_program(grid):
    make, values = GRIDS[grid]
    data = datasets()
    makers = [lambda v=v: make(v) for v in values]
    runs = train(makers, data)
    name = next(name for name, v in vars(make(0.123)).items() if v == 0.123)
    for r, value in enumerate(values):
        assert_same(runs, alone(makers[r], data, r), r)
        assert vars(runs[r].balancer)[name] == value and type(vars(runs[r].balancer)[name]) is float


def test_a_grid_starts_alike_where_the_seed_is_one():
    runs = train(
        [lambda a=a: OGM(alpha=a, enhance=False) for a in (0.1, 0.1, 2)],
        datasets()[0],
        seeds=[4, 4, 4],
    )
    first, again, other = (list(run.model.parameters()) for run in runs)
    assert all(map(torch.equal, first, again)) and not all(map(torch.equal, first, other))


def test_a_grid_may_be_of_any_real_type():
    values = [np.float32(0.5), 1, np.float64(1.5)]
    runs = train([lambda v=v: MMPareto(gamma=v) for v in values], datasets())
    for r, value in enumerate(values):
        assert_same(runs, alone(lambda v=value: MMPareto(gamma=float(v)), datasets(), r), r)


def test_a_grid_that_no_stack_takes_is_trained_one_by_one():
    data, values = datasets(), [0.0, 0.1, 1.0]
    makers = [lambda v=v: GradientBlending(warmup=1, super_epoch=1, floor=v) for v in values]
    runs = train(makers, data, at_once=None)
    for r, make in enumerate(makers):
        assert_same(runs, alone(make, data, r), r)


def test_what_differs_and_is_no_number_is_trained_one_by_one():
    data, makers = datasets(), [lambda: MLA("rls"), lambda: MLA("none"), MLA]
    with pytest.raises(UnstackableError, match=r"projector of MLA is 'rls' for one.*only numbers"):
        train(makers, data)
    runs = train(makers, data, at_once=None)
    for r, make in enumerate(makers):
        assert runs[r].together == 1
        assert_same(runs, alone(make, data, r), r)
    with pytest.raises(UnstackableError, match=r"enhance of OGM is True for one .* False for"):
        train([OGM, lambda: OGM(enhance=False), OGM], data)


@pytest.mark.parametrize("method", ["joint", "G-Blend again", "ACE", "BDO", "MLA"])
def test_a_grid_of_learning_rates_is_one_program(method):
    data, rates = datasets(), [0.01, 0.2, 0.05]
    runs = train(METHODS[method], data, lr=rates)
    for r, rate in enumerate(rates):
        assert_same(runs, alone(METHODS[method], data, r, lr=rate), r)


def test_one_data_set_serves_all_seeds_and_observers_see_each_of_them():
    data, seen = datasets()[0], []

    def looks(run):
        seen.append((run.epoch, run.seed, run.model.replicas, run.data is data))

    looks.only_looks = True
    observers = [Curves(), looks]
    runs = train(Joint, data, epochs=1, at_once=None, observers=observers)
    assert [run.together for run in runs] == [3, 3, 3]
    assert seen == [(epoch, seed, None, True) for epoch in (0, 1) for seed in SEEDS]
    for r in range(3):
        assert_same(runs, alone(Joint, [data] * 3, r, epochs=1, observers=observers), r)
        assert set(runs[r].history.metric) == {"loss", "mean loss", "accuracy"}


def test_observers_find_the_balancer_of_their_network():
    seen = []

    def looks(run):
        factors = run.balancer.factors
        assert factors is None or factors.shape == (2,)
        seen.append((run.epoch, run.balancer.rate, run.balancer.factors))

    looks.only_looks = True
    makers = [lambda v=v: ATF(rate=v) for v in (0.1, 0.2, 0.3)]
    runs = train(makers, datasets(), observers=[looks])
    assert [x[:2] for x in seen] == [(e, r) for e in (0, 1, 2) for r in (0.1, 0.2, 0.3)]
    for run, (_, _, factors) in zip(runs, seen[-3:], strict=True):
        assert torch.equal(run.balancer.factors, factors)


def test_more_seeds_than_go_at_once_get_their_own_data_rates_and_makers(monkeypatch):
    monkeypatch.setattr(stacked, "AT_ONCE", 2)
    seeds, rates = [3, 5, 8, 1, 2], [0.01, 0.05, 0.2, 0.1, 0.03]
    data = [synthetic(n=(90, 20, 30), dims=5, seed=seed) for seed in seeds]
    makers = [lambda v=v: ATF(rate=v) for v in (0.1, 0.5, 0.2, 0.3, 0.4)]
    options = {"build": {"width": 8}} | SETTINGS
    runs = fit_seeds(data, makers, seeds=seeds, **options | {"lr": rates})
    assert [run.together for run in runs] == [2, 2, 2, 2, 1]
    for r, seed in enumerate(seeds):
        own = options | {"seed": seed, "lr": rates[r]}
        assert runs[r].data is data[r] and runs[r].seed == seed
        assert_same(runs, train_once(makers[r](), data[r], **own), r)


def test_at_once_says_whether():
    data = datasets()
    assert [run.together for run in train(Joint, data, at_once=None)] == [3, 3, 3]
    separate = train(Joint, data, at_once=False)
    assert [run.together for run in separate] == [1, 1, 1]
    for r in range(3):
        one = alone(Joint, data, r)
        assert all(map(torch.equal, separate[r].model.parameters(), one.model.parameters()))
        assert separate[r].history.equals(one.history)
    assert train(Joint, data[:1], seeds=[3])[0].together == 1
    assert_same(train(ATF, data[:1], seeds=[3]), alone(ATF, data, 0), 0)
    slow = {"encoders": dict.fromkeys("ab", convolution), "width": 24}
    assert train(Joint, data, at_once=None, build=slow)[0].together == 1  # it would not pay


def test_numpys_whole_numbers_are_seeds():
    data = datasets()
    runs = train(Joint, data, seeds=np.array(SEEDS))
    assert [type(run.seed) for run in runs] == [int] * 3
    assert_same(runs, alone(Joint, data, 2), 2)


def state(balancer) -> dict:
    """The tensors a balancer holds, dicts of them flattened."""
    flat = {}
    for name, value in vars(balancer).items():
        for key, part in value.items() if isinstance(value, dict) else [("", value)]:
            if isinstance(part, torch.Tensor):
                flat[name, key] = part
    return flat


@pytest.mark.parametrize("method", ["G-Blend again", "ACE", "BDO", "MLA", "rls"])
def test_each_seed_is_left_with_a_balancer_of_its_own(method):
    data = datasets()
    runs = train(METHODS[method], data)
    for r in range(len(SEEDS)):
        mine, theirs = (state(x.balancer) for x in (runs[r], alone(METHODS[method], data, r)))
        assert mine.keys() == theirs.keys() and mine
        for key, value in mine.items():
            torch.testing.assert_close(value, theirs[key], rtol=1e-3, atol=1e-5)


class Remembers(Balancer):
    """Keeps what it met, in containers of any kind, beside what it was given."""

    def __init__(self):
        self.shift, self.given = torch.linspace(-6, 6, 3), {"w": torch.ones(3), "n": [1, 2, 3]}
        self.kept, self.rows, self.steps = {}, [], 0

    def step(self, s):
        losses = s.losses.stack()
        s.backward((losses * self.shift.softmax(0)).sum(-1))
        self.kept["last"] = (losses.detach(), {"a": losses[..., 1].detach()})
        self.rows.append(losses.detach())
        self.steps += 1
        yield


def test_what_was_given_is_shared_and_what_came_since_is_each_networks_own():
    data = datasets()
    runs = train(Remembers, data)
    for r in range(3):
        mine, theirs = runs[r].balancer, alone(Remembers, data, r).balancer
        assert torch.equal(mine.shift, torch.linspace(-6, 6, 3))
        assert torch.equal(mine.given["w"], torch.ones(3)) and mine.given["n"] == [1, 2, 3]
        assert mine.steps == theirs.steps and len(mine.rows) == len(theirs.rows)
        for one, other in zip(mine.rows, theirs.rows, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
        assert type(mine.kept["last"]) is tuple
        assert mine.kept["last"][0].shape == (3,) and mine.kept["last"][1]["a"].shape == ()


class Tempered(Balancer):
    """A learnable layer of the method's own, which no network has."""

    def modules(self, model):
        with torch.random.fork_rng():
            torch.manual_seed(int(1000 * next(model.parameters()).flatten()[0].abs()))
            self.own = nn.Linear(len(model.modalities) + 1, 3)
        return self.own

    def step(self, s):
        losses = s.losses.stack()
        s.backward((self.own(losses.unsqueeze(-2))[..., 0, :].softmax(-1) * losses).sum(-1))
        yield


@pytest.mark.parametrize("optimizer", [None, lambda p: torch.optim.AdamW(p, lr=1e-2)])
def test_modules_of_a_method_train_in_a_stack_as_alone(optimizer):
    data, options = datasets(), {"optimizer": optimizer, "lr": None if optimizer else 0.05}
    runs = train(Tempered, data, **options)
    for r in range(3):
        one = alone(Tempered, data, r, **options)
        assert_same(runs, one, r)
        start = Tempered()
        start.modules(MultimodalNet.build(data[r], width=8, seed=SEEDS[r]))
        mine, theirs = runs[r].balancer.own.weight, one.balancer.own.weight
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
        assert (mine - start.own.weight).abs().max() > 1e-3  # it has learnt
    assert not torch.allclose(runs[0].balancer.own.weight, runs[1].balancer.own.weight)


class Mean(Tempered):
    """One gradient for the layers of all networks, which begin alike: no network would tell."""

    def modules(self, model):
        self.own = nn.Linear(1, 1)
        nn.init.ones_(self.own.weight), nn.init.zeros_(self.own.bias)
        return self.own

    def step(self, s):
        one = s.losses.stack().sum(-1)
        scale = self.own(one.detach()[..., None, None]).flatten()
        s.backward(one + scale.sum())
        yield


def test_a_module_whose_gradients_mix_is_found_out():
    data = datasets()
    with pytest.raises(UnstackableError, match=r"under Mean network \d moves by"):
        train(Mean, data)
    runs = train(Mean, data, at_once=None)
    assert_same(runs, alone(Mean, data, 1), 1)
    assert torch.equal(runs[1].balancer.own.weight, alone(Mean, data, 1).balancer.own.weight)


def test_a_module_that_is_no_attribute_cannot_be_stacked():
    class Lost(Tempered):
        def modules(self, model):
            self.kept = [nn.Linear(3, 3)]
            self.own = self.kept[0].forward
            return self.kept[0]

    data = datasets()
    with pytest.raises(UnstackableError, match=r"Lost.modules gives a module.*keep it: self\.own"):
        train(Lost, data)
    assert [run.together for run in train(Lost, data, at_once=None)] == [1, 1, 1]


def test_a_stack_is_what_its_networks_are():
    data = datasets()[0]
    build = {"fusion": "gated", "heads": "shared"}
    nets = [MultimodalNet.build(data, seed=seed, **build) for seed in (4, 5)]
    stack = NetworkStack(nets)
    inputs = {m: x[None].expand(2, -1, -1) for m, x in data.test.inputs.items()}
    for r, one in enumerate(nets):
        torch.testing.assert_close(stack(inputs).joint[r], one(data.test.inputs).joint)
        replica = stack.replica(r)
        assert replica.state_dict().keys() == one.state_dict().keys()
        torch.testing.assert_close(replica(data.test.inputs).joint, one(data.test.inputs).joint)


class Unknown(torch.optim.Optimizer):
    def __init__(self, parameters):
        super().__init__(parameters, {})


def test_what_cannot_be_stacked_is_refused():
    data = datasets()
    with pytest.raises(UnstackableError, match="Unknown is not known to treat every entry"):
        train(Joint, data, optimizer=Unknown, lr=None)
    short = synthetic(n=(80, 20, 30), dims=5)
    told = r"epochs and splits of \[\(80, 80, 20, 30\), \(90, 90, 20, 30\)\] samples"
    with pytest.raises(UnstackableError, match=told):
        train(Joint, [*data[:2], short])
    runs = train(Joint, [*data[:2], short], at_once=None)
    assert [len(run.data.train) for run in runs] == [90, 90, 80]
    assert_same(runs, alone(Joint, [*data[:2], short], 2), 2)


@pytest.mark.parametrize("part", [nn.Dropout(0.1), nn.BatchNorm1d(8)])
def test_random_layers_and_foreign_buffers_are_refused(part):
    encoders = {m: nn.Sequential(nn.Linear(5, 8), part) for m in "ab"}
    data, build = datasets(), {"encoders": encoders, "width": 8}
    with pytest.raises(UnstackableError, match=r"(random numbers|buffers).*one by one"):
        train(Joint, data, build=build)
    runs = train(Joint, data, build=build, at_once=None)
    assert [run.together for run in runs] == [1, 1, 1]


class Doubled(MultimodalNet):
    def forward(self, inputs):
        return super().forward({m: 2 * x for m, x in inputs.items()})


class Wrapped(MultimodalNet):
    """A constructor that a stack would run once more, on encoders that are wrapped already."""

    def __init__(self, encoders, fusion, heads):
        super().__init__(
            {m: nn.Sequential(x, nn.Tanh()) for m, x in encoders.items()}, fusion, heads
        )


@pytest.mark.parametrize("kind", [Doubled, Wrapped])
def test_a_network_of_ones_own_is_refused_and_compared_one_by_one(kind):
    data = datasets()[0]
    with pytest.raises(UnstackableError, match=f"{kind.__name__} does beyond.*one by one"):
        train(Joint, data, network=kind)
    table = compare({"it": Joint}, data, seeds=range(2), epochs=1, network=kind, device="cpu")
    assert table.attrs["at once"] == {"it": 1}


def test_a_fusion_of_ones_own_is_refused():
    class Bent(Concat):
        def forward(self, features):
            return self.linear(torch.cat([features[m] for m in self.widths], 1)).relu()

    data = datasets()
    with pytest.raises(UnstackableError, match="Bent is a fusion of your own"):
        train(Joint, data, build={"fusion": Bent})
    runs = train(Joint, data, build={"fusion": Bent}, at_once=None)
    assert runs[0].together == 1 and type(runs[0].model.fusion) is Bent


class Clipping(torch.optim.SGD):
    def step(self):
        clip(self)
        super().step()


def clip(optimizer, *_):
    nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 0.1)


def clipped(parameters):
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    optimizer.register_step_pre_hook(clip)
    return optimizer


@pytest.mark.parametrize("optimizer", [lambda p: Clipping(p, lr=0.1), clipped])
def test_an_optimiser_that_might_mix_replicas_is_refused_and_compared_one_by_one(optimizer):
    data = datasets()[0]
    with pytest.raises(UnstackableError, match="networks of a stack might mix"):
        train(Joint, data, epochs=1, optimizer=optimizer, lr=None)
    options = {"epochs": 1, "optimizer": optimizer, "device": "cpu"}
    table = compare({"it": Joint}, data, seeds=range(2), **options)
    assert table.attrs["at once"] == {"it": 1}


def tied() -> nn.Module:
    layers = nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Linear(5, 8)
    layers[2].weight = layers[0].weight
    return nn.Sequential(*layers)


def hooked(outside: bool) -> nn.Module:
    encoder = nn.Sequential(nn.Linear(5, 8), nn.Tanh())
    (encoder if outside else encoder[0]).register_forward_hook(lambda module, x, h: h / len(h))
    return encoder


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (tied, r"encoders.a.0.weight and encoders.a.2.weight are one parameter"),
        (lambda: hooked(True), "Sequential has a hook"),
        (lambda: hooked(False), "has a hook"),
    ],
)
def test_shared_weights_and_hooks_are_refused_and_compared_one_by_one(make, why):
    build = {"encoders": {m: make() for m in "ab"}, "width": 8}
    data = datasets()[0]
    with pytest.raises(UnstackableError, match=rf"{why}.*one by one"):
        train(Joint, data, build=build)
    table = compare({"it": Joint}, data, seeds=range(2), epochs=1, build=build, device="cpu")
    assert table.attrs["at once"] == {"it": 1}


def test_in_mla_networks_must_agree_on_what_a_batch_lacks():
    absent = torch.zeros(2, 4, dtype=torch.bool)
    absent[0] = True
    data = datasets()[0]
    batch = Batch(
        {m: x[None, :4].expand(2, -1, -1) for m, x in data.train.inputs.items()},
        data.train.target[None, :4].expand(2, -1),
        {"a": torch.ones(2, 4, dtype=torch.bool), "b": absent},
    )
    balancer = MLA()
    net = NetworkStack([MultimodalNet.build(data, **balancer.network)] * 2)
    with pytest.raises(UnstackableError, match="some networks of the stack have a moda"):
        list(balancer.step(Step(net, batch)))


def test_rates_reach_no_optimiser_of_ones_own_in_a_stack_nor_alone():
    data, rates = datasets(), [0.1, 0.2, 0.3]
    make = lambda parameters: torch.optim.SGD(parameters, lr=0.05)  # noqa: E731
    with pytest.warns(UserWarning, match=r"does not reach an optimiser of your own"):
        runs = train(Joint, data, lr=rates, optimizer=make)
    for r in range(3):
        assert_same(runs, alone(Joint, data, r, lr=None, optimizer=make), r)


@pytest.mark.parametrize("method", ["joint", "uniform"])
def test_under_a_loss_that_is_no_plain_mean(method):
    def loss(prediction, target, reduction="mean"):
        weight = torch.linspace(0.1, 3, prediction.shape[-1])
        return nn.functional.cross_entropy(prediction, target, weight, reduction=reduction)

    data = datasets()
    runs = train(METHODS[method], data, loss=loss)
    assert_same(runs, alone(METHODS[method], data, 1, loss=loss), 1)


def slow_down(run) -> None:
    for group in run.optimizer.param_groups:
        group["lr"] *= 0.5


def claims_to_look(run) -> None:
    slow_down(run)


claims_to_look.only_looks = True


def test_no_observer_sets_the_rate_of_an_optimiser_that_networks_share():
    data = datasets()
    with pytest.raises(UnstackableError, match=r"optimizer\.param_groups.*observer.*one by one"):
        train(Joint, data, observers=[slow_down])
    for observer in (slow_down, claims_to_look):
        runs = train(Joint, data, observers=[observer], at_once=None)
        assert [run.together for run in runs] == [1, 1, 1]
        assert_same(runs, alone(Joint, data, 1, observers=[slow_down]), 1)
    with pytest.raises(UnstackableError, match="a branch of one network"):
        train(Joint, data)[0].branch(Joint(), 1)


def test_seeds_that_cannot_train_at_once_are_compared_one_by_one():
    rarely = datasets()[0]
    rarely = MultimodalData(
        **{k: drop(b, {"a": 0.4, "b": 0.4}, 0) for k, b in rarely.splits.items()}, n_classes=2
    )
    first, *others = datasets()
    more = MultimodalData(*first.splits.values(), n_classes=first.n_classes + 1)
    options = {"seeds": range(2), "epochs": 2, "device": "cpu", "batch_size": 89}
    for method, data, extra in (
        (MLA, rarely, {}),  # in a last batch of one sample, replicas lack what others have
        (Joint, lambda seed: [more, *others][seed], {}),
        (Joint, first, {"observers": [slow_down]}),
    ):
        table = compare({"it": method}, data, **options, **extra)
        assert table.attrs["at once"] == {"it": 1}


def test_flattening_leaves_the_replicas_axis_alone():
    for layer in (nn.Flatten(0, 1), nn.Flatten(1, 2), nn.Flatten(), nn.Unflatten(0, (2, 3))):
        x = torch.randn(4, 6, 5, 3)
        stacked = stack_modules([layer] * 4, {})
        torch.testing.assert_close(stacked(x), torch.stack([layer(one) for one in x]))


def test_attention_that_drops_out_is_refused():
    with pytest.raises(UnstackableError, match="random numbers"):
        stack_modules([nn.MultiheadAttention(8, 2, dropout=0.1)] * 2, {})


@pytest.mark.parametrize("method", ["joint", "OGM-GE", "BDO", "G-Blend again"])
def test_in_bfloat16(method):
    data = datasets()
    runs = train(METHODS[method], data, precision="bfloat16")
    assert runs[0].model.autocast == torch.bfloat16
    one, plain = (alone(METHODS[method], data, 1, precision=p) for p in ("bfloat16", "float32"))
    gaps = [
        max((x - y).abs().max() for x, y in zip(runs[1].model.parameters(), other, strict=True))
        for other in (one.model.parameters(), plain.model.parameters())
    ]
    assert gaps[0] < 0.02 and gaps[1] > 1e-5


def test_compiled_encoders_of_a_stack_train_to_the_same_weights():
    dynamo = pytest.importorskip("torch._dynamo")
    dynamo.reset()
    dynamo.utils.counters.clear()
    data = datasets()
    runs = train(Joint, data, compile="eager", epochs=1)
    assert dynamo.utils.counters["frames"]["ok"] >= 2
    assert_same(runs, alone(Joint, data, 1, epochs=1), 1)
    dynamo.reset()


# What a method of one's own may do


class FollowTheLoss(Balancer):
    """A method of one's own, with the modalities in the last axis, or first as one would begin."""

    def __init__(self, last=True):
        self.last = last

    def step(self, s):
        s.backward(s.losses.stack())
        losses = s.losses.stack(*s.modalities).detach()
        shares = len(s.modalities) * losses / losses.sum(-1 if self.last else None, keepdim=True)
        for m, k in s.each(shares):
            s.scale_update(m, k)
        yield


class MixedGradients(Balancer):
    def step(self, s):
        s.backward(s.losses["joint"].prod())
        yield


class FollowTheFirst(Balancer):
    """Network 0 is right, and all others have its weights."""

    def step(self, s):
        losses = s.losses.stack()
        s.backward(losses * losses.detach().reshape(-1, losses.shape[-1])[0])
        yield


class Logs(Balancer):
    """Right in what it does, and one mean for all in what it says."""

    def step(self, s):
        s.backward(s.losses["joint"])
        s.log(share=s.losses["joint"].mean())
        yield


class LaterOn(Balancer):
    """As it should be for two epochs."""

    def step(self, s):
        loss = s.losses["joint"]
        s.backward(loss if s.epoch < 2 else loss * loss.detach().mean())
        yield


class ByHand(Balancer):
    """It moves the optimiser itself, where the loop cannot see it."""

    def step(self, s):
        s.backward(s.losses["joint"])
        s.optimizer.step()
        s.optimizer.zero_grad()
        s.backward(
            s.losses_again()["joint"].detach() * sum(s.model.parameters().__next__().shape)
            + 0 * next(s.model.parameters()).sum()
        )
        yield


class FollowsAnother(FollowTheFirst):
    """A number of R entries that it makes out of all networks at the start of an epoch."""

    def epoch(self, run):
        self.level = float(run.losses("train")["joint"])  # one number, of a stack of three


class ReadsData(Balancer):
    def start(self, run):
        self.share = run.data.train.target.float().mean()

    def step(self, s):
        s.backward(s.losses["joint"] * self.share)
        yield


class ReadsSeed(Balancer):
    def start(self, run):
        self.draw = torch.rand((), generator=torch.Generator().manual_seed(run.seed))

    def step(self, s):
        s.backward(s.losses["joint"] * (0.5 + self.draw))
        yield


class NamesSeed(ReadsSeed):
    def start(self, run):
        self.draw = len(f"{run.seed}") / 2


class DrawsGlobally(Balancer):
    """Numbers that torch's own generator gives, of which a stack has one for all."""

    def step(self, s):
        s.backward(s.losses["joint"] * torch.rand(()))
        yield


class Ordered(Joint):
    def order(self, run):
        return torch.arange(20) + run.epoch


OWN = {
    "sum over all axes": (lambda: FollowTheLoss(last=False), r"under FollowTheLoss.*last axis"),
    "product of networks": (MixedGradients, "under MixedGradients network 0 moves by"),
    "first network right": (FollowTheFirst, "network 2 moves by"),
    "one mean in the log": (Logs, r"Logs network \d logs 'share' as .* on its own"),
    "from epoch 2 on": (LaterOn, r"LaterOn network \d moves by"),
    "steps by hand": (ByHand, "moves the optimiser by hand"),
    "one number of three": (FollowsAnother, "under FollowsAnother a stack of networks fails"),
    "reads the data": (
        ReadsData,
        r"data\.train: several seeds train at once, and a method that re",
    ),
    "reads the seed": (ReadsSeed, "under ReadsSeed a stack of networks fails"),
    "names the seed": (NamesSeed, "seed: several seeds train at once"),
    "draws from the global generator": (DrawsGlobally, "DrawsGlobally network 2 moves by"),
    "an order of its own": (Ordered, "Ordered chooses the samples of an epoch"),
}


@pytest.mark.parametrize(
    "use",
    [
        lambda seed: seed == 1,
        lambda seed: seed in (1, 2),
        lambda seed: 1000 * seed,
        lambda seed: seed - 1,
        lambda seed: seed // 2,
    ],
)
def test_the_seed_of_a_stack_is_refused_in_words_whatever_is_done_to_it(use):
    with pytest.raises(UnstackableError, match=r"^seed: several seeds train at once, and a method"):
        use(stacked_run.Shared("seed", "a method"))


@pytest.mark.parametrize("name", OWN)
def test_a_method_that_a_stack_would_bend_is_found_out_and_trained_one_by_one(name):
    make, why = OWN[name]
    data = datasets()
    with pytest.raises(UnstackableError, match=why):
        train(make, data, epochs=4)
    runs = train(make, data, epochs=4, at_once=None)
    for r in range(3):
        one = alone(make, data, r, epochs=4)
        assert runs[r].together == 1
        assert all(map(torch.equal, runs[r].model.parameters(), one.model.parameters()))
        assert runs[r].history.equals(one.history)


@pytest.mark.parametrize("rate", [1e-6, 10.0])
def test_it_is_found_out_at_any_learning_rate(rate):
    own = {"lr": None, "optimizer": lambda parameters: torch.optim.Adam(parameters, lr=rate)}
    for options in ({"lr": rate}, own):
        with pytest.raises(UnstackableError, match="under FollowTheFirst network 2"):
            train(FollowTheFirst, datasets(), **options)


def test_where_rounding_alone_decides_a_method_is_not_refused():
    class Jumps(Balancer):
        def step(self, s):
            loss = s.losses["joint"]
            s.backward(loss * (1 + (1e7 * loss.detach()) % 1))
            yield

    assert train(Jumps, datasets(), epochs=5)[0].together == 3


def test_a_divergence_in_the_last_update_is_seen():
    with pytest.raises(FloatingPointError, match="not finite after epoch 1 under Joint; lower lr"):
        train(Joint, datasets(), epochs=1, batch_size=90, lr=1e39)


def test_a_mistake_of_ones_own_is_told_as_it_would_be_alone():
    class Silent(Balancer):
        def step(self, s):
            s.backward(s.losses["joint"])

    for at_once in (None, False):
        with pytest.raises(RuntimeError, match=r"Silent\.step never yielded"):
            train(Silent, datasets(), at_once=at_once)
    with pytest.raises(ValueError, match="epochs is -1"):
        train(Joint, datasets(), epochs=-1, at_once=None)


def test_a_loss_that_is_no_number_is_told_with_its_seed():
    data = datasets()
    order = torch.randperm(90, generator=generator(5, "order", 0))
    data[1].train.inputs["a"][order[40]] = torch.nan  # in the third batch; all later ones follow
    why = "the 'joint' loss of seed 5 is nan in batch 2 of epoch 1 under Joint"
    with pytest.raises(FloatingPointError, match=why):
        train(Joint, data)


def test_a_method_of_ones_own_trains_at_once():
    data = datasets()
    runs = train(FollowTheLoss, data)
    assert_same(runs, alone(FollowTheLoss, data, 1), 1)
    table = compare({"own": FollowTheLoss}, data[0], seeds=range(2), epochs=1, device="cpu")
    assert table.attrs["at once"] == {"own": 2}
    table = compare({"own": MixedGradients}, data[0], seeds=range(2), epochs=1, device="cpu")
    assert table.attrs["at once"] == {"own": 1}


def test_each_run_predicts_for_itself():
    data = datasets()
    runs = train(Joint, data)
    for r, run in enumerate(runs):
        one = alone(Joint, data, r)
        torch.testing.assert_close(run.predict(data[r].test), one.predict(data[r].test))
        assert test_accuracy(run) == test_accuracy(one)
        for m, h in run.features("holdout").items():
            torch.testing.assert_close(h, one.features("holdout")[m])
        torch.testing.assert_close(run.losses("train"), one.losses("train"))


def test_a_method_may_ask_a_stack_for_features_and_losses():
    class Asks(Joint):
        def epoch(self, run):
            self.means = {m: h.mean(-2) for m, h in run.features("train").items()}
            self.losses = run.losses("holdout", "joint", "b")
            run.reset_momentum(list(run.model.encoders["a"].parameters()))

    data = datasets()
    runs = train(Asks, data)
    for r in range(3):
        one = alone(Asks, data, r)
        assert_same(runs, one, r)
        torch.testing.assert_close(runs[r].balancer.means, one.balancer.means)
        torch.testing.assert_close(runs[r].balancer.losses, one.balancer.losses)


@pytest.mark.parametrize("base", [OGM, MLA, GradientBlending, Tempered])
def test_the_trial_leaves_no_trace(base, monkeypatch):
    class Own(base):
        def start(self, run):
            super().start(run)
            self.generator = torch.Generator()

        def step(self, s):
            torch.rand(s.losses["joint"].shape)
            yield from super().step(s)

    def ends(tried):
        if not tried:
            monkeypatch.setattr(stacked_run, "check_exact", lambda *_, **__: None)
        torch.manual_seed(0)
        before = torch.get_rng_state()
        runs = train(Own, datasets(), epochs=3)
        assert torch.equal(torch.get_rng_state(), before)
        return runs

    for one, other in zip(ends(True), ends(False), strict=True):
        assert all(map(torch.equal, one.model.parameters(), other.model.parameters()))
        assert one.history.equals(other.history)


def test_the_trial_is_at_epochs_0_1_2_4_8_and_the_last(monkeypatch):
    seen = []
    monkeypatch.setattr(stacked_run, "check_exact", lambda *_, **given: seen.append(given["epoch"]))
    train(lambda: GradientBlending("offline"), datasets(), epochs=11)
    assert seen == [0, 1, 2, 4, 8, 10, 10]  # and at the very last batch


class Clipped(Balancer):
    """Clips the norm of all gradients at once: those of a stack would be clipped together."""

    def step(self, s):
        s.backward(s.losses["joint"])
        nn.utils.clip_grad_norm_(s.model.parameters(), 0.1)
        yield


class Whitened(Balancer):
    """Takes one mean over all samples before an epoch, and so over all networks."""

    def epoch(self, run):
        self.means = {
            m: h.reshape(-1, h.shape[-1]).mean(0) for m, h in run.features("train").items()
        }

    def step(self, s):
        pull = sum(
            (s.out.features[m] - mean).square().mean((-1, -2)) for m, mean in self.means.items()
        )
        s.backward(s.losses["joint"] + 0.1 * pull)
        yield


class Largest(Balancer):
    """Weighs the losses by the largest one on the holdout, of whatever network it is."""

    def epoch(self, run):
        self.top = torch.stack([*run.losses("holdout", *run.model.modalities).values()]).max()

    def step(self, s):
        s.backward((s.losses.stack() / self.top).sum(-1))
        yield


class Begun(Balancer):
    """Remembers one norm of all weights from the start."""

    def start(self, run):
        self.norm = sum(p.detach().square().sum() for p in run.model.parameters()).sqrt()

    def step(self, s):
        s.backward(s.losses["joint"] * self.norm)
        yield


class Late(Balancer):
    """Mixes the networks in the last part of the training alone."""

    def step(self, s):
        losses = s.losses.stack()
        if s.progress > 0.9:
            losses = losses / losses.detach().max()
        s.backward(losses)
        yield


class Tried(Balancer):
    """Keeps a weight from trials of a balancer that mixes networks."""

    def epoch(self, run):
        copy = run.branch(Clipped(), 1)
        self.weight = run.losses("holdout", "joint", model=copy)["joint"]

    def step(self, s):
        s.backward(s.losses["joint"] * self.weight)
        yield


class Predicts(Balancer):
    """Keeps the largest loss of all networks; it counts where it predicts, and not in a step."""

    def step(self, s):
        losses = s.losses.stack()
        self.top = losses.detach().max()
        s.backward(losses)
        yield

    def fuse(self, out, present=None):
        return out.joint / self.top


@pytest.mark.parametrize("method", [Clipped, Whitened, Largest, Begun, Late, Tried, Predicts])
def test_whatever_way_a_method_mixes_networks_they_train_one_by_one(method):
    data = datasets()
    with pytest.raises(UnstackableError, match=f"under {method.__name__}"):
        train(method, data, epochs=3)
    runs = train(method, data, epochs=3, at_once=None)
    assert [run.together for run in runs] == [1, 1, 1]


def test_what_a_method_prepares_for_each_network_stays_at_once():
    class Per(Whitened):
        def epoch(self, run):
            self.means = {m: h.mean(-2, keepdim=True) for m, h in run.features("train").items()}

    assert_same(train(Per, datasets(), epochs=3), alone(Per, datasets(), 1, epochs=3), 1)


# What a stack holds


class Holds(Joint):
    """Takes notes of the memory of its batches' source, and of what they are."""

    def start(self, run):
        self.run = run

    def step(self, s):
        self.index = s.batch.index
        yield from super().step(s)


def held(data):
    kept = []

    class Notes(Holds):
        def epoch(self, run):
            kept.append(run)

    train(Notes, data)
    return kept[0]._once[0]


def test_the_data_of_a_stack_are_there_once():
    data = datasets()
    shared = held(data[0])
    for m, x in data[0].train.inputs.items():
        assert shared.inputs[m].data_ptr() == x.data_ptr() and shared.inputs[m].shape == x.shape
    assert shared.target.data_ptr() == data[0].train.target.data_ptr()
    assert len(held(data)) == 3 * 90
    assert len(held([data[0], data[1], data[0]])) == 2 * 90


def test_each_network_sees_its_own_samples_in_its_own_order():
    seen = []

    class Sees(Joint):
        def step(self, s):
            seen.append(s.batch)
            yield from super().step(s)

    first, second = datasets()[:2]
    data = [first, second, first]
    train(Sees, data, epochs=1, batch_size=90)
    batch = next(batch for batch in seen if batch.index is not None)
    for r, seed in enumerate(SEEDS):
        own = torch.randperm(90, generator=generator(seed, "order", 0))
        assert torch.equal(batch.index[r], own)
        assert torch.equal(batch.target[r], data[r].train.target[own])
        for m, x in data[r].train.inputs.items():
            assert torch.equal(batch.inputs[m][r], x[own])


# How near one program comes


class InFloat64:
    """A maker of networks in double precision."""

    @staticmethod
    def build(data, **options):
        return MultimodalNet.build(data, **options).double()


def widened(data: MultimodalData) -> MultimodalData:
    splits = {
        name: Batch({m: x.double() for m, x in batch.inputs.items()}, batch.target)
        for name, batch in data.splits.items()
    }
    return MultimodalData(**splits, n_classes=data.n_classes)


def assert_same_in_float64(make, **options):
    """What float32 shows of a gap, a method or a kink can enlarge; here there is next to none."""
    data = [widened(d) for d in datasets()]
    runs = train(make, data, network=InFloat64, **options)
    for r in range(3):
        own = {"seed": SEEDS[r], "network": InFloat64, "build": {"width": 8}}
        one = train_once(make(), data[r], **SETTINGS | own | options)
        for mine, theirs in zip(runs[r].model.parameters(), one.model.parameters(), strict=True):
            assert mine.dtype == torch.float64
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-11)
        mine, theirs = (x.history.value.to_numpy() for x in (runs[r], one))
        assert mine == pytest.approx(theirs, abs=1e-6)  # the history is kept in float32


@pytest.mark.parametrize("method", STACKED)
def test_in_float64_the_gap_is_rounding_too(method):
    assert_same_in_float64(METHODS[method])


OPTIMISERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, weight_decay=0.1),
    "Adagrad": torch.optim.Adagrad,
    "Adadelta": torch.optim.Adadelta,
    "Rprop": torch.optim.Rprop,
    "two groups": lambda p: torch.optim.SGD(
        [{"params": p[:2], "lr": 0.1}, {"params": p[2:]}], 0.01
    ),
}


@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_in_float64_under_every_optimiser(optimizer):
    options = {"epochs": 1, "lr": None, "optimizer": OPTIMISERS[optimizer]}
    for method in ("BDO", "G-Blend again"):
        assert_same_in_float64(METHODS[method], **options)


# What each run has of its own


class Best:
    """Keeps the best accuracy of what it sees, and whose runs it saw."""

    only_looks = True

    def __init__(self):
        self.best, self.seen = -1.0, set()

    def __call__(self, run):
        self.seen.add(run.seed)
        self.best = max(self.best, test_accuracy(run, "holdout"))


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("given", [Best, Best()])
def test_each_run_has_observers_of_its_own(given, at_once):
    runs = train(Joint, datasets(), observers=[given], at_once=at_once)
    for r, run in enumerate(runs):
        (own,) = run.observers
        assert own is not given and own.seen == {SEEDS[r]}
        one = alone(Joint, datasets(), r, observers=[Best()])
        assert own.best == one.observers[0].best
    if given is not Best:
        assert given.seen == set()


def test_an_observer_that_cannot_be_made_anew_is_refused():
    class Needs:
        def __init__(self, path):
            self.path = path

        def __call__(self, run):
            pass

    with pytest.raises(TypeError, match=r"Needs.*cannot be copied for each seed.*Give a class"):
        train(Joint, datasets(), observers=[Needs], at_once=False)
    with pytest.raises(TypeError, match=r"observers\[0\] is 'loss'; give what can be called"):
        train(Joint, datasets(), observers=["loss"], at_once=False)


def matrices_decay(parameters):
    """The usual way to spare biases: groups by the number of axes."""
    parameters = list(parameters)
    few, many = ([p for p in parameters if (p.ndim > 1) == big] for big in (False, True))
    assert few and many
    groups = [{"params": many, "weight_decay": 0.5}, {"params": few, "lr": 0.2}]
    return torch.optim.SGD(groups, lr=0.05, momentum=0.9)


class Shifted(Balancer):
    """With a bias of its own, which the optimiser must put with the biases."""

    def modules(self, model):
        self.own = nn.Linear(model.heads["a"].out_features, 2)
        return self.own

    def step(self, s):
        s.backward(s.losses.of("shifted", self.own(s.out.joint)))
        yield


@pytest.mark.parametrize("method", [Joint, Shifted])
def test_groups_by_the_number_of_axes_are_those_of_one_network(method):
    data = datasets()
    runs = train(method, data, optimizer=matrices_decay)
    for r in range(3):
        assert_same(runs, alone(method, data, r, optimizer=matrices_decay), r)


def test_an_optimiser_of_further_parameters_is_for_one_network():
    extra = nn.Parameter(torch.zeros(2))

    def more(parameters):
        return torch.optim.Adam([*parameters, extra], lr=1e-3)

    with pytest.raises(UnstackableError, match="holds other parameters than it was given"):
        train(Joint, datasets(), optimizer=more)


def test_one_program_that_is_given_up_says_why():
    with pytest.warns(
        UserWarning,
        match=r"is given up; they now train one by one.*under DrawsGlobally network 2 moves",
    ):
        runs = train(DrawsGlobally, datasets(), at_once=None)
    assert [run.together for run in runs] == [1, 1, 1]


def test_an_order_of_ones_own_is_said_before_anything_starts(monkeypatch):
    monkeypatch.setattr(stacked.StackedRun, "start", began)
    with pytest.warns(UserWarning, match=r"is given up.*Ordered chooses the samples of an epoch"):
        runs = train(Ordered, datasets(), at_once=None)
    assert [run.together for run in runs] == [1, 1, 1]


def test_a_branch_of_a_stack_does_not_choose_its_samples_either():
    class Branches(Joint):
        def epoch(self, run):
            run.branch(Ordered(), 1)

    with pytest.raises(UnstackableError, match="Ordered chooses the samples of an epoch"):
        train(Branches, datasets())


def test_what_never_was_one_program_is_no_news(recwarn):
    runs = train(Joint, datasets(), build={"encoders": dict.fromkeys("ab", dropping)}, at_once=None)
    assert [run.together for run in runs] == [1, 1, 1]
    assert not recwarn.list


def dropping():
    return nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.1))


class Noisy(nn.Module):
    """An encoder that augments its input: it draws random numbers in its forward pass."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 8)

    def forward(self, x):
        return self.linear(x + 0.5 * torch.randn_like(x) if self.training else x)


def test_an_encoder_that_draws_in_its_forward_pass_trains_one_seed_after_the_other():
    data, build = datasets(), {"encoders": {"a": Noisy, "b": Noisy}}
    with pytest.raises(UnstackableError):
        train(Joint, data, build=build)
    runs = train(Joint, data, build=build, at_once=None)
    assert [run.together for run in runs] == [1, 1, 1]
    for r in range(3):
        assert_same(runs, alone(Joint, data, r, build=build), r)


def test_parameters_that_break_are_named_with_their_seed():
    def breaks(run):
        if run.epoch == 1 and run.seed == SEEDS[1]:
            next(run.model.parameters()).data.fill_(torch.inf)

    breaks.only_looks = True  # it lies, and what it writes reaches the stack's memory
    with pytest.raises(FloatingPointError, match=f"of seed {SEEDS[1]}"):
        train(Joint, datasets(), observers=[breaks])


def test_what_an_adaptive_optimiser_undoes_is_said_of_a_stack():
    with pytest.warns(
        UserWarning, match=r"Adam divides each gradient.*under it OGM has almost no eff"
    ):
        train(OGM, datasets(), optimizer=lambda p: torch.optim.Adam(p, lr=1e-3))


def test_a_schedule_made_with_the_optimiser_is_for_one_network():
    class Scheduled(Joint):
        def epoch(self, run):
            if run.epoch:
                schedules[-1].step()

    schedules = []

    def make(parameters):
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        schedules.append(torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1))
        return optimizer

    data = datasets()
    with pytest.raises(UnstackableError, match="a schedule sets the optimiser's rate"):
        train(Scheduled, data, optimizer=make, epochs=3)
    runs = train(Scheduled, data, optimizer=make, epochs=3, at_once=None)
    for r in range(3):
        assert_same(runs, alone(Scheduled, data, r, optimizer=make, epochs=3), r)


def test_what_fit_seeds_does_not_take_is_refused_in_words():
    data = datasets()
    with pytest.raises(TypeError, match=r"'weight_decay' is no argument of `fit`; .*batch_size"):
        train(Joint, data, weight_decay=0.1)
    for network in (MultimodalNet.build(data[0]), nn.Linear, "net"):
        with pytest.raises(TypeError, match=r"network is .*; give a class of networks"):
            train(Joint, data, network=network)
    one = Joint()
    with pytest.raises(TypeError, match=r"maker of Joint gives the same object twice.*lambda: OGM"):
        train(lambda: one, data)
    with pytest.raises(TypeError, match=r"balancer is <class.*Joint'>; it must be a Balancer inst"):
        train_once(Joint, data[0], seed=0, epochs=1)


# What a stack must not decide for all its networks


class SummedOver(Balancer):
    """Adds up over all networks: the gradients are right, and the number is not one of theirs."""

    def step(self, s):
        s.backward((0.5 * s.losses.stack()).sum())
        yield


class AsksItsSeed(Balancer):
    """Each seed has a factor of its own, found by comparing."""

    def start(self, run):
        self.k = 2.0 if run.seed == SEEDS[1] else {SEEDS[0]: 0.5}.get(run.seed, 1.0)

    def step(self, s):
        s.backward(self.k * s.losses["joint"])
        yield


class SetsTheRate(Balancer):
    def epoch(self, run):
        for group in run.optimizer.param_groups:
            group["lr"] = 0.05 / (1 + run.epoch)


@pytest.mark.parametrize(
    ("method", "options", "why"),
    [
        (SummedOver, {}, "one number for all networks of a stack"),
        (AsksItsSeed, {}, "a method that reads its seed"),
        (SetsTheRate, {"lr": [0.01, 0.1, 0.2]}, "the seeds have rates of their own"),
    ],
)
def test_what_needs_a_run_of_its_own_gets_it(method, options, why):
    data = datasets()
    with pytest.raises(UnstackableError, match=why):
        train(method, data, **options)
    with pytest.warns(UserWarning, match="is given up"):
        runs = train(method, data, at_once=None, **options)
    rates = options.get("lr", [SETTINGS["lr"]] * 3)
    for r in range(3):
        assert runs[r].together == 1
        assert_same(runs, alone(method, data, r, lr=rates[r]), r)


def patched(parameters):
    """An optimiser whose step clips first, over all that it holds."""
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    plain = optimizer.step

    def step(closure=None):
        every = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(every, 0.3)
        return plain(closure)

    optimizer.step = step
    return optimizer


def test_a_step_put_in_the_place_of_the_optimisers_own_is_for_one_network():
    data = datasets()
    with pytest.raises(UnstackableError, match="networks of a stack might mix"):
        train(Joint, data, optimizer=patched)
    run = alone(Joint, data, 0, optimizer=patched, lr=None)
    with pytest.raises(ValueError, match="step hooks, which a copy would not take along"):
        run.branch(Joint(), 1)


def test_methods_of_an_observer_serve_all_runs():
    class Tracker:
        def __init__(self):
            self.rows = []

        def note(self, run):
            self.rows.append(run.seed)

    tracker, more = Tracker(), []
    observers = [tracker.note, functools.partial(lambda rows, run: rows.append(run.seed), more)]
    train(Joint, datasets(), epochs=1, at_once=False, observers=observers)
    assert tracker.rows == more == [seed for seed in SEEDS for _ in range(2)]


def test_a_loss_that_is_a_module_is_that_of_one_run():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, z, y):
            self.calls += 1
            return nn.functional.cross_entropy(z, y) / self.calls

    data, loss = datasets(), Counting()
    runs = train(Joint, data, at_once=False, loss=loss)
    assert loss.calls == 0
    for r in range(3):
        assert_same(runs, alone(Joint, data, r, loss=Counting()), r)
