"""R seeds as one program end where R runs on their own would."""

import pytest
import torch
from torch import nn

from mmlab import (
    ATF,
    MLA,
    OGM,
    Balancer,
    GradientBlending,
    Joint,
    MMPareto,
    MultimodalNet,
    Step,
    Uniform,
    Unimodal,
    compare,
    fit,
)
from mmlab.datasets import Batch, MultimodalData, drop
from mmlab.datasets.synthetic import synthetic
from mmlab.evaluation import Curves, test_accuracy
from mmlab.models import FUSIONS, Concat, UnstackableError
from mmlab.models.stack import stack_modules

SEEDS = [3, 5, 8]
METHODS = {
    "joint": Joint,
    "uniform": lambda: Uniform(encoder_scale=1.5),
    "unimodal": lambda: Unimodal("a"),
    "gblend": lambda: GradientBlending(warmup=1, super_epoch=1),
    "gblend offline": lambda: GradientBlending(mode="offline"),
    "ace": lambda: ATF("ace"),
    "bdo": lambda: ATF("bdo", total="one"),
    "decoupled": lambda: ATF("ace", decoupled=True),
    "ogm": lambda: OGM(enhance=False),
    "ogm-ge": OGM,
    "continuous": lambda: OGM(continuous=True, enhance=False),
    "mmpareto": MMPareto,
    "by tensor": lambda: MMPareto(rescale="tensor"),
    "mla": MLA,
    "rls": lambda: MLA("rls"),
    "none": lambda: MLA("none"),
}


def datasets(**options) -> list[MultimodalData]:
    """A data set of its own for each seed, all of one size, the last batch a short one."""
    return [synthetic(n=(90, 20, 30), dims=5, seed=seed, **options) for seed in SEEDS]


def train(make, data, **options):
    balancer, settings = make(), {"epochs": 2, "batch_size": 16, "device": "cpu", "lr": 0.05}
    build = {**balancer.network, "width": 8, **options.pop("build", {})}
    net = MultimodalNet.build(data[0], seed=SEEDS, **build)
    return fit(net, data, balancer, seeds=SEEDS, **settings | options)


def alone(make, data, r, **options):
    balancer, settings = make(), {"epochs": 2, "batch_size": 16, "device": "cpu", "lr": 0.05}
    build = {**balancer.network, "width": 8, **options.pop("build", {})}
    net = MultimodalNet.build(data[r], seed=SEEDS[r], **build)
    return fit(net, data[r], balancer, seed=SEEDS[r], **settings | options)


def assert_same(run, one, r):
    replica = run.replicas[r]
    state = one.model.state_dict()
    for name, value in replica.model.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=1e-5, msg=name)
    mine, theirs = replica.history, one.history
    keys = ["epoch", "split", "output", "metric"]
    assert mine[keys].equals(theirs[keys])
    # gains and overfits are differences of losses: their last digits are rounding
    assert mine.value.to_numpy() == pytest.approx(theirs.value.to_numpy(), abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_replicas_equal_separate_runs(method):
    data = datasets()
    run = train(METHODS[method], data)
    starts = [MultimodalNet.build(d, width=8, seed=s) for d, s in zip(data, SEEDS, strict=True)]
    for r in range(len(SEEDS)):
        assert_same(run, alone(METHODS[method], data, r), r)
        before = next(starts[r].encoders["a"].parameters())
        after = next(run.replicas[r].model.encoders["a"].parameters())
        assert not torch.equal(before, after)
    first, second = (next(run.replicas[r].model.encoders["a"].parameters()) for r in (0, 1))
    assert (first - second).abs().max() > 0.01  # they are different seeds


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("method", ["ogm-ge", "mmpareto"])
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_under_every_fusion(fusion, method):
    data = datasets()
    run = train(METHODS[method], data, build={"fusion": fusion})
    assert_same(run, alone(METHODS[method], data, 1, build={"fusion": fusion}), 1)


def convolution() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Flatten(1)
    )


@pytest.mark.parametrize("method", ["joint", "ogm-ge", "mmpareto", "bdo"])
def test_under_encoders_that_are_not_linear_layers(method):
    data, build = datasets(), {"encoders": {m: convolution() for m in "ab"}, "width": 24}
    run = train(METHODS[method], data, build=build)
    assert_same(run, alone(METHODS[method], data, 2, build=build), 2)


@pytest.mark.parametrize("method", ["joint", "uniform", "ace", "bdo", "ogm-ge", "mmpareto"])
def test_with_modalities_missing(method):
    data = []
    for d, s in zip(datasets(), SEEDS, strict=True):
        splits = {k: drop(b, {"a": 0.3, "b": 0.2}, s) for k, b in d.splits.items()}
        data.append(MultimodalData(**splits, n_classes=d.n_classes))
    run = train(METHODS[method], data)
    assert_same(run, alone(METHODS[method], data, 1), 1)


@pytest.mark.parametrize("method", ["joint", "gblend", "bdo", "mmpareto", "mla"])
def test_in_regression(method):
    def numbers(batch: Batch) -> Batch:
        return Batch(batch.inputs, batch.target.float() + batch.inputs["a"][:, 0])

    data = [
        MultimodalData(**{k: numbers(b) for k, b in d.splits.items()}, task="regression")
        for d in datasets()
    ]
    run = train(METHODS[method], data)
    assert_same(run, alone(METHODS[method], data, 0), 0)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.RMSprop])
def test_under_other_optimisers(optimizer):
    data, make = datasets(), lambda parameters: optimizer(parameters, lr=1e-3, weight_decay=0.1)
    run = train(METHODS["ace"], data, optimizer=make, lr=None)
    assert_same(run, alone(METHODS["ace"], data, 1, optimizer=make, lr=None), 1)


GRIDS = {
    "alpha of OGM": (lambda v: OGM(alpha=v), [0.1, 0.5, 2.0]),
    "rate of ACE": (lambda v: ATF("ace", rate=v), [0.0, 0.1, 1.0]),
    "rate of BDO": (lambda v: ATF("bdo", rate=v), [0.0, 0.1, 1.0]),
    "gamma of MMPareto": (lambda v: MMPareto(gamma=v), [0.5, 1.0, 2.0]),
    "gamma of MMPareto by tensor": (lambda v: MMPareto(gamma=v, rescale="tensor"), [0.5, 1.0, 2.0]),
    "alpha of MLA": (lambda v: MLA(alpha=v), [0.01, 0.1, 10.0]),
    "alpha of MLA, rls": (lambda v: MLA("rls", alpha=v), [0.01, 0.1, 10.0]),
    "scale of the uniform sum": (lambda v: Uniform(encoder_scale=v), [0.5, 1.0, 1.5]),
}


@pytest.mark.parametrize("grid", GRIDS)
def test_a_grid_of_a_hyper_parameter_is_one_run(grid):
    make, values = GRIDS[grid]
    data = datasets()
    run = train(lambda: make(torch.tensor(values)), data)
    for r, value in enumerate(values):
        assert_same(run, alone(lambda value=value: make(value), data, r), r)


@pytest.mark.parametrize("method", ["joint", "gblend", "ace", "mla"])
def test_a_grid_of_learning_rates_is_one_run(method):
    data, rates = datasets(), [0.01, 0.05, 0.2]
    run = train(METHODS[method], data, lr=torch.tensor(rates))
    for r, rate in enumerate(rates):
        assert_same(run, alone(METHODS[method], data, r, lr=rate), r)


def test_one_data_set_serves_all_seeds_and_observers_see_each_of_them():
    data, seen = datasets()[0], []
    net = MultimodalNet.build(data, width=8, seed=SEEDS)
    observers = [Curves(), lambda run: seen.append((run.epoch, run.seed))]
    options = {"epochs": 1, "device": "cpu", "observers": observers}
    run = fit(net, data, seeds=SEEDS, **options)
    assert seen == [(epoch, seed) for epoch in (0, 1) for seed in SEEDS]
    for r, seed in enumerate(SEEDS):
        one = fit(MultimodalNet.build(data, width=8, seed=seed), data, seed=seed, **options)
        assert_same(run, one, r)
    assert set(run.history.seed) == set(SEEDS)
    assert len(run.history) == 3 * len(run.replicas[0].history)


def state(balancer) -> dict:
    """The tensors a balancer holds, dicts of them flattened."""
    flat = {}
    for name, value in vars(balancer).items():
        for key, part in value.items() if isinstance(value, dict) else [("", value)]:
            if isinstance(part, torch.Tensor):
                flat[name, key] = part
    return flat


@pytest.mark.parametrize("method", ["gblend", "ace", "bdo", "mla", "rls"])
def test_each_seed_is_left_with_a_balancer_of_its_own(method):
    data = datasets()
    run = train(METHODS[method], data)
    for r in range(len(SEEDS)):
        mine = state(run.replicas[r].balancer)
        theirs = state(alone(METHODS[method], data, r).balancer)
        assert mine.keys() == theirs.keys() and mine
        for key, value in mine.items():
            torch.testing.assert_close(value, theirs[key], rtol=1e-3, atol=1e-5)


def test_a_stack_is_built_from_the_first_seed_on():
    data = datasets()[0]
    net = MultimodalNet.build(data, replicas=2, seed=4, fusion="gated", heads="shared")
    inputs = {m: x[None].expand(2, -1, -1) for m, x in data.test.inputs.items()}
    for r in (0, 1):
        one = MultimodalNet.build(data, seed=4 + r, fusion="gated", heads="shared")
        torch.testing.assert_close(net(inputs).joint[r], one(data.test.inputs).joint)
        replica = net.replica(r)
        assert replica.state_dict().keys() == one.state_dict().keys()
        torch.testing.assert_close(replica(data.test.inputs).joint, one(data.test.inputs).joint)


class Own(Balancer):
    """A step that sums over whatever axes there are."""

    def step(self, s):
        s.backward(sum(s.losses.values()))
        yield


class Unknown(torch.optim.Optimizer):
    def __init__(self, parameters):
        super().__init__(parameters, {})


def test_what_cannot_be_stacked_is_refused():
    data = datasets()
    net = MultimodalNet.build(data[0], seed=SEEDS)
    with pytest.raises(UnstackableError, match=r"Own does not say .* set `stackable = True`"):
        fit(net, data, Own(), epochs=1, seeds=SEEDS)
    with pytest.raises(UnstackableError, match="Unknown is not known to treat every entry"):
        fit(net, data, epochs=1, seeds=SEEDS, optimizer=Unknown)
    with pytest.raises(ValueError, match=r"is a stack of 3 networks, and seeds is \[1, 2\]"):
        fit(net, data, epochs=1, seeds=[1, 2])
    with pytest.raises(ValueError, match="is a stack of 3 networks, and seeds is None"):
        fit(net, data[0], epochs=1)
    with pytest.raises(ValueError, match="2 data sets for 3 seeds"):
        fit(net, data[:2], epochs=1, seeds=SEEDS)
    with pytest.raises(ValueError, match=r"is one network, and seeds is \[0\]"):
        fit(MultimodalNet.build(data[0]), data[0], epochs=1, seeds=[0])
    with pytest.raises(ValueError, match="replicas is 2 and there are 3 seeds"):
        MultimodalNet.build(data[0], seed=SEEDS, replicas=2)
    short = synthetic(n=(80, 20, 30), dims=5)
    with pytest.raises(ValueError, match=r"splits of \[80, 90\] samples cannot be stacked"):
        fit(net, [*data[:2], short], epochs=1, seeds=SEEDS, device="cpu")


@pytest.mark.parametrize("part", [nn.Dropout(0.1), nn.BatchNorm1d(8)])
def test_random_layers_and_foreign_buffers_are_refused(part):
    encoders = {m: nn.Sequential(nn.Linear(5, 8), part) for m in "ab"}
    with pytest.raises(UnstackableError, match=r"(random numbers|buffers).*one by one"):
        MultimodalNet.build(datasets()[0], encoders=encoders, width=8, replicas=2)


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
        kind.build(data, replicas=2)
    table = compare({"it": Joint}, data, seeds=range(2), epochs=1, network=kind, device="cpu")
    assert table.attrs["at once"] == {"it": 1}


def test_a_fusion_of_ones_own_is_refused():
    class Bent(Concat):
        def forward(self, features):
            return self.linear(torch.cat([features[m] for m in self.widths], 1)).relu()

    parts = lambda: ({m: nn.Linear(5, 8) for m in "ab"}, Bent({"a": 8, "b": 8}, 2))  # noqa: E731
    nets = [MultimodalNet(*parts(), nn.Linear(8, 2)) for _ in range(2)]
    with pytest.raises(UnstackableError, match="Bent is a fusion of your own"):
        MultimodalNet.stack(nets)


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
    net = MultimodalNet.build(data, replicas=3)
    with pytest.raises(UnstackableError, match="replicas might mix"):
        fit(net, data, seeds=SEEDS, epochs=1, optimizer=optimizer, device="cpu")
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
        MultimodalNet.build(data, replicas=2, **build)
    table = compare({"it": Joint}, data, seeds=range(2), epochs=1, build=build, device="cpu")
    assert table.attrs["at once"] == {"it": 1}


def test_in_mla_replicas_must_agree_on_what_a_batch_lacks():
    absent = torch.zeros(2, 4, dtype=torch.bool)
    absent[0] = True
    data = datasets()[0]
    batch = Batch(
        {m: x[None, :4].expand(2, -1, -1) for m, x in data.train.inputs.items()},
        data.train.target[None, :4].expand(2, -1),
        {"a": torch.ones(2, 4, dtype=torch.bool), "b": absent},
    )
    balancer = MLA()
    net = MultimodalNet.build(data, replicas=2, **balancer.network)
    with pytest.raises(ValueError, match="some replicas have no sample with 'b'"):
        list(balancer.step(Step(net, batch)))


@pytest.mark.parametrize("method", ["mmpareto", "uniform"])
def test_a_grid_may_be_of_any_real_type(method):
    make = {"mmpareto": lambda v: MMPareto(gamma=v), "uniform": lambda v: Uniform(v)}[method]
    values = torch.linspace(0.5, 1.5, 3, dtype=torch.float64)
    run = train(lambda: make(values), datasets())
    assert_same(run, alone(lambda: make(0.5), datasets(), 0), 0)


@pytest.mark.parametrize(
    "make",
    [
        lambda v: OGM(alpha=v),
        lambda v: ATF(rate=v),
        lambda v: MMPareto(gamma=v),
        lambda v: MLA(alpha=v),
        lambda v: Uniform(encoder_scale=v),
    ],
)
def test_a_grid_needs_a_stack_of_its_size(make):
    balancer, data = make(torch.tensor([0.5, 1.0])), datasets()[0]
    for replicas, seeds in ((None, None), (3, SEEDS)):
        net = MultimodalNet.build(data, replicas=replicas, **balancer.network)
        with pytest.raises(ValueError, match=r"has 2 values, and the model is (one network|a sta)"):
            fit(net, data, balancer, epochs=1, seeds=seeds, device="cpu")


def test_rates_need_a_stack_and_the_default_optimiser():
    data, rates = datasets()[0], torch.tensor([0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match=r"lr has shape \(3,\); a rate for each network"):
        fit(MultimodalNet.build(data), data, epochs=1, lr=rates, device="cpu")
    with pytest.raises(ValueError, match="the default optimiser"):
        train(Joint, datasets(), lr=rates, optimizer=torch.optim.Adam)


@pytest.mark.parametrize("method", ["joint", "uniform"])
def test_under_a_loss_that_is_no_plain_mean(method):
    def loss(prediction, target, reduction="mean"):
        weight = torch.linspace(0.1, 3, prediction.shape[-1])
        return nn.functional.cross_entropy(prediction, target, weight, reduction=reduction)

    data = datasets()
    run = train(METHODS[method], data, loss=loss)
    assert_same(run, alone(METHODS[method], data, 1, loss=loss), 1)


def slow_down(run) -> None:
    for group in run.optimizer.param_groups:
        group["lr"] *= 0.5


def test_no_observer_sets_the_rate_of_an_optimiser_that_replicas_share():
    with pytest.raises(UnstackableError, match=r"observer cannot set it.*one by one"):
        train(Joint, datasets(), observers=[slow_down])
    run = train(Joint, datasets())
    with pytest.raises(UnstackableError, match="nor can one replica branch off"):
        run.replicas[0].branch(Joint(), 1)


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


def test_a_replica_computes_in_the_type_of_its_stack():
    assert train(Joint, datasets(), autocast=True).replicas[0].model.autocast == torch.bfloat16


class FollowTheLoss(Balancer):
    """A method of one's own, with the modalities in the last axis, or first as one would begin."""

    stackable = True

    def __init__(self, last=True):
        self.last = last

    def step(self, s):
        s.backward(s.losses.stack())
        losses = s.losses.stack(*s.modalities).detach()
        shares = len(s.modalities) * losses / losses.sum(-1 if self.last else None, keepdim=True)
        for m, k in zip(s.modalities, shares.unbind(-1), strict=True):
            s.scale_update(m, k)
        yield


class MixedGradients(Balancer):
    stackable = True

    def step(self, s):
        s.backward(s.losses["joint"].prod())
        yield


def test_a_method_of_ones_own_that_mixes_replicas_is_found_out():
    train(FollowTheLoss, datasets())
    with pytest.raises(ValueError, match=r"FollowTheLoss says `stackable = True`.*last axis"):
        train(lambda: FollowTheLoss(last=False), datasets())
    with pytest.raises(ValueError, match="MixedGradients says"):
        compare({"own": MixedGradients}, datasets()[0], seeds=range(2), epochs=1, device="cpu")


class FollowTheFirst(Balancer):
    """Replica 0 is right, and all others have its weights."""

    stackable = True

    def step(self, s):
        losses = s.losses.stack()
        s.backward(losses * losses.detach().reshape(-1, losses.shape[-1])[0])
        yield


def test_it_is_found_out_where_the_first_replica_is_right():
    with pytest.raises(ValueError, match="network 2 of the stack"):
        train(FollowTheFirst, datasets())


class Adjusted(Balancer):
    """A tensor with as many entries as there are seeds, which has nothing to do with them."""

    stackable = True

    def __init__(self):
        self.shift = torch.linspace(-6, 6, 3)

    def step(self, s):
        s.backward((s.losses.stack() * self.shift.softmax(0)).sum(-1))
        yield


def test_only_what_a_method_names_has_an_entry_a_replica():
    run = train(Adjusted, datasets())
    assert torch.equal(run.replicas[1].balancer.shift, torch.linspace(-6, 6, 3))

    class Named(Adjusted):
        stackable = True
        by_replica = ("shift",)

    run = fit(
        MultimodalNet.build(datasets()[0], replicas=3), datasets(), Named(), seeds=SEEDS, epochs=0
    )
    assert run.replicas[1].balancer.shift == 0


def test_several_seeds_have_no_prediction_in_common():
    run = train(Joint, datasets())
    for ask in (lambda: run.predict(datasets()[0].test), lambda: test_accuracy(run)):
        with pytest.raises(ValueError, match=r"3 seeds at once; ask one of run\.replicas"):
            ask()
    assert 0 <= test_accuracy(run.replicas[0]) <= 1


@pytest.mark.parametrize("base", [OGM, MLA, GradientBlending])
def test_looking_for_mixed_replicas_leaves_no_trace(base):
    """A class of one's own is looked at, the library's is not; both train alike."""

    class Own(base):
        stackable = True

        def start(self, run):
            super().start(run)
            self.run, self.generator = run, torch.Generator()

        def step(self, s):
            s.log(drawn=torch.rand(len(SEEDS) if s.model.replicas else ()))
            yield from super().step(s)

    class Unseen(Own):
        stackable = True
        __module__ = "mmlab.of_the_library"

    torch.manual_seed(0)
    before = torch.get_rng_state()
    theirs, own = train(Unseen, datasets()), train(Own, datasets())
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(own.model.parameters(), theirs.model.parameters(), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(own.replicas, theirs.replicas, strict=True):
        assert one.history.equals(other.history)
