"""`fit` is the loop one would write by hand, bit for bit, and it says what is wrong."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from trained import DATA, dropping, same, trained, weights

from mmlab import load
from mmlab.balancers import (
    AGM,
    ATF,
    METHODS,
    MLA,
    OGM,
    Balancer,
    Blend,
    Joint,
    MMPareto,
    Uniform,
    Unimodal,
)
from mmlab.datasets import Batch, MultimodalData
from mmlab.datasets.synthetic import synthetic
from mmlab.evaluation import Curves, accuracy
from mmlab.models import Concat, MultimodalNet
from mmlab.seeds import drawing, generator
from mmlab.training import Step, find_device, fit, fit_seeds


def by_hand(data, loss_of, *, epochs, seed, lr=0.01, batch_size=64, fused=True):
    model = MultimodalNet.build(data, seed=seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, fused=fused)
    means = []
    for epoch in range(epochs):
        losses, order = [], generator(seed, "order", epoch)
        for index in torch.randperm(len(data.train), generator=order).split(batch_size):
            target = data.train.target[index]
            features = {m: model.encoders[m](x[index]) for m, x in data.train.inputs.items()}
            joint = model.fusion.linear(torch.cat(list(features.values()), dim=-1))
            heads = {m: model.heads[m](h) for m, h in features.items()}
            optimizer.zero_grad()
            loss = loss_of(F.cross_entropy(joint, target), heads, target)
            loss.backward()
            optimizer.step()
            losses.append(F.cross_entropy(joint, target).item())
        means.append(sum(losses) / len(losses))
    return model, means


LOSSES = {
    "joint": (Joint, lambda joint, heads, target: joint),
    "uniform": (
        Uniform,
        lambda joint, heads, target: (
            joint + sum(F.cross_entropy(logits, target) for logits in heads.values())
        ),
    ),
}


def one_by_one(parameters):
    """torch's SGD as it is by default: a parameter after the other."""
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)


@pytest.mark.parametrize("optimizer", [None, one_by_one])
@pytest.mark.parametrize("method", LOSSES)
def test_fit_is_the_hand_written_loop_bit_for_bit(method, optimizer):
    data = load("av-digits", seed=0)
    balancer, loss_of = LOSSES[method]
    expected, means = by_hand(data, loss_of, epochs=2, seed=3, fused=optimizer is None)
    run = trained(balancer(), data, seed=3, optimizer=optimizer)
    assert same(weights(run.model), weights(expected))
    assert not same(weights(run.model), weights(MultimodalNet.build(data, seed=3)))
    table = run.history.query("output == 'joint' and metric == 'loss'")
    assert table["epoch"].tolist() == [1, 2]
    assert table["value"].tolist() == pytest.approx(means, rel=1e-5)


def test_two_runs_are_equal_and_two_seeds_are_not():
    def run(seed):
        return weights(fit(dropping(), DATA, Uniform(), epochs=2, seed=seed, device="cpu").model)

    first = run(0)
    torch.rand(3)  # the global stream has moved on, and does not matter
    assert same(first, run(0))
    assert not same(first, run(1))


def test_dropout_is_drawn_by_the_seed_where_the_order_is_the_same():
    class InOrder(Joint):
        def order(self, run):
            return range(100)

    def run(seed, net):
        return weights(fit(net, DATA, InOrder(), epochs=1, seed=seed, device="cpu").model)

    assert not same(run(0, dropping()), run(1, dropping()))
    assert same(*(run(seed, MultimodalNet.build(DATA)) for seed in (0, 1)))


def test_training_leaves_the_global_generator_alone():
    net, before = dropping(), torch.get_rng_state()
    fit(net, DATA, METHODS["OGM-GE"].make(), epochs=1, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_is_drawn_anew_in_every_epoch():
    net, masks = dropping(), []
    net.encoders["a"].register_forward_hook(lambda module, x, h: masks.append(h == 0))
    fit(net, DATA, epochs=3, lr=1e-12, batch_size=100, device="cpu")
    assert len(masks) == 3 and len(torch.stack(masks).flatten(1).unique(dim=0)) == 3


class Noisy(Joint):
    """Takes notes of what it draws."""

    def __init__(self):
        self.draws = []

    def step(self, s):
        s.backward(s.losses["joint"])
        grads = [torch.zeros_like(g) for g in s.stored_grad("a")]
        s.set_grad("b", grads)
        s.add_noise("b", [1.0] * len(grads))
        self.draws += [s.stored_grad("b")[0].clone(), s.bernoulli(0.5, (30,)), s.permutation(20)]
        yield


def test_the_noise_of_a_method_is_set_by_the_seed():
    def drawn(seed):
        noisy = Noisy()
        trained(noisy, seed=seed)
        return noisy.draws

    first, other = drawn(0), drawn(1)
    assert same(first, drawn(0))
    assert len(first) == 3 * 4  # two epochs of two batches
    for kind in range(3):
        assert not any(map(torch.equal, first[kind::3], other[kind::3]))
        every = torch.stack(first[kind::3]).flatten(1).float()
        assert len(every.unique(dim=0)) == 4  # new ones at every step, in the next epoch too


def test_noise_dropout_and_order_are_streams_of_their_own():
    noisy = Noisy()
    trained(noisy, epochs=1)
    permutation = noisy.draws[2]
    assert not torch.equal(permutation, torch.randperm(20, generator=generator(0, "order", 0)))
    with_noise, without = dropping(), dropping()
    seen = [[], []]
    for net, notes in zip((with_noise, without), seen, strict=True):
        net.encoders["a"].register_forward_hook(lambda m, x, h, notes=notes: notes.append(h == 0))
    fit(with_noise, DATA, Noisy(), epochs=1, lr=1e-12, device="cpu")
    fit(without, DATA, Joint(), epochs=1, lr=1e-12, device="cpu")
    assert same(*seen) and len(seen[0]) == 2
    masks = {}
    for stream in ("dropout", "order", "normals"):
        with drawing(0, stream, 0):
            masks[stream] = F.dropout(torch.ones(64, 8), 0.5) == 0
    assert torch.equal(seen[0][0], masks["dropout"])
    assert not torch.equal(masks["dropout"], masks["order"])


class Spy(Balancer):
    """Joint training that takes notes."""

    def __init__(self, extra_draws=0):
        self.extra_draws, self.calls, self.batches, self.progress = extra_draws, [], [], []

    def start(self, run):
        self.calls.append("start")
        self.first = weights(run.model)

    def epoch(self, run):
        self.calls.append(f"epoch {run.epoch}")

    def step(self, s):
        torch.rand(self.extra_draws)
        if self.extra_draws:
            s.permutation(self.extra_draws)
            s.bernoulli(0.5, (self.extra_draws,))
        self.batches.append(s.batch.target)
        self.progress.append((s.epoch, s.progress))
        s.log(twice=2.0, part={"a": s.progress})
        yield from super().step(s)


def test_two_methods_share_the_initial_weights_and_the_order_of_the_data():
    spies = [Spy(), Spy(extra_draws=5)]
    for spy in spies:
        trained(spy)
    assert same(spies[0].first, spies[1].first)
    assert same(spies[0].batches, spies[1].batches)
    assert [len(batch) for batch in spies[0].batches] == [64, 36, 64, 36]
    assert not torch.equal(spies[0].batches[0], spies[0].batches[2])  # shuffled anew


def test_a_balancer_is_told_where_it_stands():
    spy = Spy()
    run = trained(spy)
    assert spy.calls == ["start", "epoch 0", "epoch 1"]
    assert spy.progress == [(0, 0.0), (0, 0.25), (1, 0.5), (1, 0.75)]
    logged = run.history.query("metric == 'part'")
    assert logged[["epoch", "split", "output"]].values.tolist() == [
        [1, "train", "a"],
        [2, "train", "a"],
    ]
    assert logged["value"].tolist() == pytest.approx([0.125, 0.625])
    assert run.history.query("metric == 'twice'")["value"].tolist() == [2.0, 2.0]


class Turns(Balancer):
    """One update per modality, as in alternating training."""

    def step(self, s):
        self.left = []
        for m in s.modalities:
            s.backward(s.losses[m])
            yield
            self.left += [p.grad for p in s.model.parameters()]


class Tempered(Balancer):
    """A layer of the method's own, which meets a loss that stops at the features."""

    def modules(self, model):
        self.own = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.own.weight)
        return self.own

    def step(self, s):
        s.backward(s.losses.stack(*s.modalities))
        s.backward(self.own(s.losses["joint"].reshape(1, 1)), encoders=False)
        yield


def test_modules_of_a_method_are_trained_beside_the_network():
    tempered = Tempered()
    run = trained(tempered)
    assert run.modules is tempered.own and tempered.own.weight < 1
    assert tempered.own.weight in run.optimizer.state
    assert set(run.model.parameters()) <= run.optimizer.state.keys()


def test_the_optimiser_steps_at_each_yield_and_then_the_gradients_are_gone():
    steps = []

    def optimizer(parameters):
        made = torch.optim.SGD(parameters, lr=0.1)
        made.register_step_post_hook(lambda *_: steps.append(1))
        return made

    turns = Turns()
    trained(turns, epochs=1, optimizer=optimizer)
    assert len(steps) == 2 * 2  # two batches, two modalities
    assert all(grad is None for grad in turns.left)


def test_gradients_left_by_an_observer_do_not_leak_into_training():
    def careless(run):
        run.model(run.data.train.inputs).joint.sum().backward()

    assert same(weights(trained(observers=[careless]).model), weights(trained().model))


def test_observers_see_the_run_before_and_after_each_epoch():
    seen = []
    run = trained(observers=[lambda run: seen.append((run.epoch, run.model.training))])
    assert seen == [(0, True), (1, True), (2, True)] and run.epoch == 2


def test_no_epoch_trains_nothing():
    assert same(weights(trained(epochs=0).model), weights(MultimodalNet.build(DATA)))


def doubled(prediction, target, reduction="mean"):
    return 2 * F.cross_entropy(prediction, target, reduction=reduction)


def test_the_loss_and_the_optimiser_can_be_chosen():
    seen = []

    def optimizer(parameters):
        seen.append(torch.optim.AdamW(parameters, lr=1e-3))
        return seen[-1]

    plain = trained(epochs=1, lr=1e-12)
    run = trained(epochs=1, optimizer=lambda p: torch.optim.SGD(p, lr=1e-12), loss=doubled)
    assert run.history["value"][0] == pytest.approx(2 * plain.history["value"][0], rel=1e-5)
    assert trained(optimizer=optimizer).optimizer is seen[0]


def test_regression_trains_on_the_absolute_error():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(200, 5, generator=draw)
    batch = Batch({"a": x, "b": x.flip(1)}, x @ torch.ones(5))
    data = MultimodalData(batch, batch, batch, task="regression")
    losses = trained(Uniform(), data, epochs=20).history.query("output == 'joint'")["value"]
    assert losses.iloc[0] > 1.0 and losses.iloc[-1] < 0.4


def test_a_model_in_evaluation_mode_is_trained_in_training_mode():
    runs = [fit(dropping().train(mode), DATA, epochs=1, device="cpu") for mode in (True, False)]
    assert same(*(weights(run.model) for run in runs))
    assert all(module.training for module in runs[1].model.modules())


def test_an_abandoned_step_leaves_nothing_to_the_next_one():
    class Stops(Joint):
        def step(self, s):
            s.scale_update("a", 0.0)
            yield from super().step(s)

    def after_a_joint_step(abandon):
        model = MultimodalNet.build(DATA)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if abandon:
            next(
                Stops().step(Step(model, DATA.train, optimizer))
            )  # and the optimiser does not step
            optimizer.zero_grad()
        next(Joint().step(Step(model, DATA.train, optimizer)))
        optimizer.step()
        return weights(model)

    assert same(after_a_joint_step(abandon=True), after_a_joint_step(abandon=False))


# What is refused


class Silent(Balancer):
    def step(self, s):
        s.backward(s.losses["joint"])


class Empty(Balancer):
    def step(self, s):
        if s.progress > 1:
            yield


@pytest.mark.parametrize("balancer", [Silent(), Empty()])
def test_a_step_that_never_yields_is_named(balancer):
    with pytest.raises(RuntimeError, match=rf"{balancer.name}\.step never yielded.*then `yield`"):
        trained(balancer)


def test_a_loss_that_is_nan_is_named_with_its_batch_and_its_balancer():
    order = torch.randperm(100, generator=generator(0, "order", 0))
    data = synthetic(n=(100, 20, 20), dims=5)
    data.train.inputs["b"][order[70]] = torch.nan  # it lies in the second batch of 64
    with pytest.raises(
        FloatingPointError, match=r"'joint' loss is nan in batch 1 of epoch 1 under Joint; lower lr"
    ):
        trained(data=data)


def test_the_first_of_many_bad_batches_is_named():
    order = torch.randperm(100, generator=generator(0, "order", 0))
    data = synthetic(n=(100, 20, 20), dims=5)
    data.train.inputs["b"][order[30]] = torch.nan  # in the second of four; all later ones follow
    with pytest.raises(FloatingPointError, match="nan in batch 1 of epoch 1"):
        trained(data=data, batch_size=25)


def test_labels_out_of_range_are_refused_before_training():
    with pytest.raises(
        ValueError, match=r"label 1 in train is out of range.*labels run from 0 to 0"
    ):
        MultimodalData(DATA.train, DATA.holdout, DATA.test, n_classes=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, "epochs is -1; it must be a whole number of at least 0"),
        ({"epochs": 1.5}, r"epochs is 1\.5"),
        ({"batch_size": 0}, "batch_size is 0; it must be a whole number of at least 1"),
        ({"lr": 0}, "lr is 0; allowed is a number above 0"),
        ({"lr": float("nan")}, "lr is nan"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        trained(**options)


def test_a_class_in_place_of_a_balancer_is_refused():
    with pytest.raises(TypeError, match=r"Joint.* must be a Balancer instance, such as Joint\(\)"):
        trained(Joint)


def test_a_model_for_other_data_is_refused():
    other = MultimodalNet.build(load("av-digits", seed=0))
    with pytest.raises(ValueError, match=r"modalities \('audio', 'image'\), the data \('a', 'b'\)"):
        fit(other, DATA, epochs=1)
    encoders = {m: nn.Linear(5, 4) for m in "ab"}
    wide = MultimodalNet(encoders, Concat({"a": 4, "b": 4}, 7), nn.Linear(4, 7))
    with pytest.raises(ValueError, match="the model has 7 outputs, the data need 2"):
        fit(wide, DATA, epochs=1)


@pytest.mark.parametrize("device", ["tpu", "nonsense", "meta"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(ValueError, match=rf"device '{device}' is not available.*cpu.*'auto'"):
        find_device(device)


def test_auto_takes_the_best_device_there_is(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device().type == "mps" and find_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device().type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert find_device().type == "cpu"
    with pytest.raises(ValueError, match="this machine has cpu"):
        find_device("cuda")


# On a GPU

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


every_method = pytest.mark.parametrize("method", [*METHODS, "unimodal"])


def make(method):
    return Unimodal("a") if method == "unimodal" else METHODS[method].make()


def trained_on(device, method, epochs):
    """A training of the method on its own network, its first weights, and the targets it saw."""
    balancer, seen = make(method), []
    step, start = balancer.step, balancer.start

    def watched_start(run):
        seen.append(weights(run.model))
        start(run)

    def watched_step(s):
        seen.append(s.batch.target.cpu())
        for _ in step(s):
            tensors = [s.batch.target, *s.batch.inputs.values(), *s.model.parameters()]
            tensors += [p.grad for p in s.model.parameters() if p.grad is not None]
            assert all(x.device.type == device for x in tensors)
            again, read = s.losses_again(), s.losses.computed.keys() & {*s.losses}
            assert not any(again[key].requires_grad for key in read)
            yield

    balancer.start, balancer.step = watched_start, watched_step
    model = MultimodalNet.build(DATA, **balancer.network)
    run = fit(model, DATA, balancer, epochs=epochs, device=device)
    return run, seen[0], seen[1:]


@on_cuda
@every_method
def test_fit_on_cuda_keeps_everything_there_and_learns(method):
    state = torch.cuda.get_rng_state()
    run, first, _ = trained_on("cuda", method, epochs=10)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert run.history["value"].notna().all()
    assert not same(weights(run.model), first)
    prediction = run.predict(DATA.train)
    assert prediction.is_cuda and prediction.isfinite().all()
    assert accuracy(prediction.cpu(), DATA.train.target) > 0.7  # chance is .5


@on_cuda
@every_method
def test_cuda_starts_from_the_weights_of_the_cpu_and_sees_the_same_batches(method):
    run, first, batches = trained_on("cuda", method, epochs=2)
    on_cpu, first_on_cpu, batches_on_cpu = trained_on("cpu", method, epochs=2)
    assert same(first, first_on_cpu)
    assert same(batches, batches_on_cpu)
    if method not in ("OGM-GE", "OPM", "CML"):  # which draw on the device
        for one, other in zip(weights(run.model), weights(on_cpu.model), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


@on_cuda
@every_method
def test_two_runs_on_cuda_are_equal(method):
    runs = [trained_on("cuda", method, epochs=2)[0] for _ in range(2)]
    assert same(*(weights(run.model) for run in runs))


@pytest.mark.parametrize("method", ["joint", "OGM-GE", "MMPareto", "BDO"])
def test_in_bfloat16_encoders_compute_in_bfloat16_and_gradients_stay_float32(method):
    balancer, seen = make(method), []
    net = MultimodalNet.build(DATA, **balancer.network)
    layer = net.encoders["a"][1]
    layer.register_forward_hook(lambda _, given, result: seen.append(result.dtype))
    plain = fit(copy.deepcopy(net), DATA, make(method), epochs=1, device="cpu")
    run = fit(net, DATA, balancer, epochs=1, device="cpu", precision="bfloat16")
    assert torch.bfloat16 in seen
    assert net(DATA.test.inputs).features["a"].dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in net.parameters())
    gap = (layer.weight - plain.model.encoders["a"][1].weight).abs().max()
    assert 0 < gap < 0.05
    assert run.history.value.to_numpy() == pytest.approx(plain.history.value.to_numpy(), abs=0.3)


@pytest.fixture
def compiler():
    """torch's compiler as if nothing had been compiled, before and after; what it counts."""
    dynamo = pytest.importorskip("torch._dynamo")
    dynamo.reset()
    dynamo.utils.counters.clear()
    yield dynamo.utils.counters["frames"]
    dynamo.reset()
    dynamo.utils.counters.clear()


class Own(nn.Module):
    """An encoder as one writes it oneself."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 64)

    def forward(self, x):
        return self.layer(x).tanh()


@pytest.mark.parametrize("encoders", ["mlp", dict.fromkeys("ab", Own)], ids=["mlp", "own"])
@pytest.mark.parametrize("method", ["joint", "MMPareto", "G-Blend"])
def test_compiled_encoders_train_to_the_same_weights(method, encoders, compiler):
    ends = []
    for compile in (False, "eager"):
        balancer = make(method)
        net = MultimodalNet.build(DATA, encoders=encoders, **balancer.network)
        names = [name for name, _ in net.named_parameters()]
        run = fit(net, DATA, balancer, epochs=1, device="cpu", compile=compile)
        assert [name for name, _ in net.named_parameters()] == names
        assert compiler["ok"] >= 2 * bool(compile)  # an encoder is a frame at least
        assert compiler["ok"] == compiler["total"] and bool(compiler["ok"]) is bool(compile)
        ends.append([*weights(net), torch.tensor(run.history.value.tolist())])
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


# What goes wrong outside the losses


class Breaking(Balancer):
    """Its loss, which is none of the step's, is NaN from the third epoch on."""

    def step(self, s):
        bad = torch.nan if s.epoch == 2 else 1e-3
        self.backward(s, s.out.joint.sum() * bad)
        yield

    def backward(self, s, loss):
        s.backward(loss)


class BreakingPastTheStep(Breaking):
    def backward(self, s, loss):
        loss.backward()


@pytest.mark.parametrize(
    ("balancer", "message"),
    [
        (Breaking(), r"the loss given to `backward` is nan in batch 0 of epoch 3 under Breaking"),
        (BreakingPastTheStep(), "parameters are not finite after epoch 3 under BreakingPast"),
    ],
)
def test_a_loss_of_ones_own_that_is_nan_is_found_in_its_epoch(balancer, message):
    seen = []
    with pytest.raises(FloatingPointError, match=message):
        trained(balancer, epochs=5, observers=[lambda run: seen.append(run.epoch)])
    assert seen == [0, 1, 2]


def test_one_entry_that_is_not_finite_is_enough():
    def breaks(run):
        run.model.heads["b"].bias.data[1] = torch.inf

    with pytest.raises(
        FloatingPointError, match="parameters are not finite after epoch 1 under Jo"
    ):
        trained(observers=[breaks])


def test_a_loss_of_ones_own_is_in_the_history():
    class Halved(Balancer):
        def step(self, s):
            s.backward(0.5 * s.losses["joint"])
            yield

    history = trained(Halved(), epochs=2).history.pivot(
        index="epoch", columns="metric", values="value"
    )
    torch.testing.assert_close(
        torch.tensor(history.objective.values), torch.tensor(0.5 * history.loss.values)
    )
    assert "objective" not in set(trained(Uniform()).history.metric)


def normalised():
    encoders = {m: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)) for m in "ab"}
    return MultimodalNet.build(DATA, encoders=encoders, width=8)


def test_a_frozen_encoder_in_evaluation_mode_stays_in_it():
    net = normalised()
    net.eval()
    net.encoders["a"].requires_grad_(False)
    before = net.encoders["a"][1].running_mean.clone()
    fit(net, DATA, epochs=1, device="cpu")
    assert not any(part.training for part in net.encoders["a"].modules())
    assert torch.equal(net.encoders["a"][1].running_mean, before)
    # what is trained is in training mode, whatever it was before
    assert all(part.training for part in (net, *net.encoders["b"].modules(), *net.heads.modules()))
    assert net.encoders["b"][1].running_mean.any()


def test_a_frozen_encoder_in_training_mode_is_left_there():
    net = normalised()
    net.encoders["a"].requires_grad_(False)
    fit(net, DATA, epochs=1, device="cpu")
    assert net.encoders["a"][1].running_mean.any() and net.encoders["a"][2].training


def test_a_last_batch_of_one_sample_under_batchnorm_is_named():
    data = synthetic(n=(97, 20, 20), dims=5)
    fixes = {32: "leave the last batch out with drop_last=True", 1: "choose a larger batch_size"}
    for size, fix in fixes.items():
        message = rf"a batch holds 1 \(97 samples in batches of {size}\); {fix}"
        with pytest.raises(ValueError, match=message):
            fit(normalised(), data, epochs=1, batch_size=size, device="cpu")
    fit(normalised(), data, epochs=1, batch_size=33, device="cpu")
    fit(normalised(), data, epochs=1, batch_size=32, drop_last=True, device="cpu")


def test_a_single_sample_that_a_method_takes_itself_is_told_as_by_torch():
    class TakesOne(Balancer):
        def step(self, s):
            s.model.encoders["a"](s.batch.inputs["a"][:1])
            yield

    with pytest.raises(ValueError, match=r"^Expected more than 1 value per channel"):
        fit(normalised(), DATA, TakesOne(), epochs=1, device="cpu")


def test_what_fails_within_a_step_is_told_as_it_is():
    class Fails(Balancer):
        def step(self, s):
            s.set_grad("a", [])
            yield

    with pytest.raises(ValueError, match=r"^gradient for encoder 'a' has shapes \[\]"):
        trained(Fails())


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"loss": "mse"}, TypeError, "loss is 'mse'; give a function loss.prediction, target"),
        (
            {"loss": nn.CrossEntropyLoss},
            TypeError,
            r"loss is the class CrossEntropyLoss; give CrossEntropyLoss\(\)",
        ),
        ({"optimizer": "adam"}, TypeError, "optimizer is 'adam'; give a function that makes one"),
        (
            {"optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters())},
            TypeError,
            "optimizer is of the type SGD; give a function that makes one from the parameters",
        ),
        ({"drop_last": 1}, TypeError, "drop_last"),
        (
            {"drop_last": True, "batch_size": 101},
            ValueError,
            "drop_last=True leaves nothing to train on: 100 samples make no batch of 101; choose a",
        ),
        ({"observers": [Curves]}, TypeError, r"observers\[0\] is the class Curves;.*Curves\(\)"),
        (
            {"observers": [len, "loss"]},
            TypeError,
            r"observers\[1\] is 'loss'; give what can be call",
        ),
        (
            {"optimizer": lambda p: torch.optim.LBFGS(p)},
            ValueError,
            r"LBFGS\.step needs a function that computes the loss.*such as SGD or Adam",
        ),
        (
            {"optimizer": lambda p: torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)},
            ValueError,
            r"holds none of the network's parameters.*optimizer=lambda parameters",
        ),
        ({"optimizer": lambda p: 0.1}, TypeError, "gives a float; it must give a torch.optim"),
    ],
)
def test_what_cannot_train_is_refused_before_anything_trains(options, kind, message):
    seen = []
    with pytest.raises(kind, match=message):
        trained(observers=[*options.pop("observers", []), seen.append], **options)
    assert not seen


def test_an_optimiser_that_leaves_parameters_out_says_so():
    def most(parameters):
        return torch.optim.SGD(list(parameters)[:-2], lr=0.1)

    with pytest.warns(UserWarning, match=r"leaves out 2 of \d+ trained parameters") as seen:
        trained(optimizer=most, epochs=1)
    assert len(seen) == 1


def test_a_step_that_is_cut_short_leaves_the_optimiser_its_groups():
    made = []

    def make(parameters):
        made.append(torch.optim.SGD(parameters, lr=0.1))
        return made[0]

    def interrupt(*_):
        raise KeyboardInterrupt

    class CutShort(Balancer):
        def step(self, s):
            s.backward(s.losses["joint"])
            s.scale_update("a", 0.5)
            s.optimizer.register_step_pre_hook(interrupt)
            yield

    with pytest.raises(KeyboardInterrupt):
        trained(CutShort(), optimizer=make)
    assert [group["lr"] for group in made[0].param_groups] == [0.1]


def test_an_optimiser_of_frozen_parameters_alone_is_refused():
    net = MultimodalNet.build(DATA)
    net.encoders["a"].requires_grad_(False)

    def frozen(parameters):
        return torch.optim.SGD([p for p in parameters if not p.requires_grad], lr=0.1)

    with pytest.raises(ValueError, match="holds none of the network's parameters"):
        fit(net, DATA, epochs=1, optimizer=frozen, device="cpu")


def test_groups_and_frozen_parts_leave_nothing_out(recwarn):
    net = MultimodalNet.build(DATA)
    net.encoders["a"].requires_grad_(False)

    def in_groups(parameters):
        parameters = [p for p in parameters if p.requires_grad]
        groups = [{"params": parameters[:2]}, {"params": parameters[2:], "lr": 0.01}]
        return torch.optim.SGD(groups, lr=0.1)

    fit(net, DATA, epochs=1, optimizer=in_groups, device="cpu")
    assert not [w for w in recwarn if "leaves out" in str(w.message)]


class Renamed(torch.optim.Adam):
    """Some Adam of one's own."""


ADAPTIVE = {
    "AGM": (AGM(), "AGM keeps of its factors only how they change from step to step; use SGD"),
    "OGM": (OGM(), "OGM has almost no effect; use OGM.on='update'., or SGD"),
    "MMPareto": (MMPareto(), "MMPareto keeps only the direction of its gradients"),
    "Nash-MTL": (Blend("nash-mtl"), r"Blend\(nash-mtl\) keeps only the direction"),
    "Uniform": (Uniform(encoder_scale=1.5), r"Uniform is Uniform\(\) without encoder_scale"),
    "MLA": (MLA(), "MLA cannot protect what the head has learnt"),
}


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop, Renamed])
def test_what_an_adaptive_optimiser_undoes_is_said(name, kind):
    balancer, message = ADAPTIVE[name]
    net = MultimodalNet.build(DATA, **balancer.network)
    with pytest.warns(UserWarning, match=rf"{kind.__name__} divides each.*under it {message}"):
        fit(net, DATA, balancer, epochs=1, optimizer=lambda p: kind(p, lr=1e-3), device="cpu")


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_what_no_optimiser_undoes_is_not_warned_of(kind, recwarn):
    effective = [OGM(), Uniform(encoder_scale=1.5)] if kind is torch.optim.SGD else []
    for balancer in (Joint(), Uniform(), ATF(), OGM(on="update"), Blend("cagrad"), *effective):
        net = MultimodalNet.build(DATA, **balancer.network)
        fit(net, DATA, balancer, epochs=1, optimizer=lambda p: kind(p, lr=1e-3), device="cpu")
    assert not [w for w in recwarn if "divides each gradient" in str(w.message)]


def test_observers_come_in_a_list():
    for given in (Curves(), "loss", None):
        with pytest.raises(
            TypeError, match=r"observers is .*; give a list, such as \[Curves\(\)\]"
        ):
            trained(observers=given)


def test_a_network_without_anything_to_train_is_refused():
    net = MultimodalNet.build(DATA).requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter requires a gradient"):
        fit(net, DATA, epochs=1)


def test_what_a_loss_was_called_with_is_said():
    with pytest.raises(RuntimeError) as caught:
        trained(
            loss=lambda z, y: F.binary_cross_entropy_with_logits(z, y[:, None].double() * 0.5 @ z)
        )
    (note,) = caught.value.__notes__
    assert "a prediction (64, 2) of torch.float32 and a target (64,) of torch.int64" in note


def test_a_loss_that_is_nan_before_anything_was_trained_is_no_matter_of_the_rate():
    with pytest.raises(FloatingPointError, match="nothing was trained before it: look at the loss"):
        trained(loss=lambda z, y: F.cross_entropy(z, y) / 0 * 0)


def test_what_predicts_wants_a_batch():
    told = r"split is a dict; give a Batch or a Stream\(dataset\), such as run"
    with pytest.raises(TypeError, match=told):
        trained(epochs=0).predict(DATA.test.inputs)


class Unfreezes(Balancer):
    """Encoder a is frozen until the second epoch."""

    def epoch(self, run):
        run.model.encoders["a"].requires_grad_(run.epoch > 0)


def trained_only(parameters):
    return torch.optim.SGD([p for p in parameters if p.requires_grad], lr=0.1)


def test_what_is_unfrozen_later_and_not_held_by_the_optimiser_is_said():
    net = MultimodalNet.build(DATA)
    net.encoders["a"].requires_grad_(False)
    with pytest.warns(UserWarning, match=r"SGD leaves out 4 of \d+ trained parameters"):
        fit(net, DATA, Unfreezes(), epochs=2, optimizer=trained_only, device="cpu")


@pytest.mark.parametrize("balancer", [OGM(), ATF()])
def test_what_the_optimiser_leaves_out_keeps_no_gradient_of_earlier_batches(balancer):
    net = MultimodalNet.build(DATA, **balancer.network)
    with pytest.warns(UserWarning, match="leaves out 1 of"):
        fit(
            net,
            DATA,
            balancer,
            epochs=1,
            batch_size=20,
            device="cpu",
            optimizer=lambda p: torch.optim.SGD(list(p)[1:], lr=0.1),
        )


class OwnHead(Balancer):
    """Trains a module of its own on features that nothing flows back into."""

    def modules(self, model):
        self.own = nn.Linear(64, 2)
        return self.own

    def step(self, s):
        s.backward(F.cross_entropy(self.own(s.out.features["a"].detach()), s.batch.target))
        yield


@pytest.mark.parametrize("frozen", [False, True])
def test_a_method_may_train_modules_of_its_own_alone(frozen):
    net, balancer = MultimodalNet.build(DATA), OwnHead()
    net.requires_grad_(not frozen)
    run = fit(net, DATA, balancer, epochs=3, lr=0.1, device="cpu")
    losses = run.history.query("metric == 'objective'").value
    assert losses.iloc[-1] < losses.iloc[0]


def test_modules_of_the_method_are_looked_at_for_what_is_not_finite():
    class Breaks(OwnHead):
        def step(self, s):
            yield from super().step(s)
            self.own.weight.data.fill_(torch.inf)

    with pytest.raises(FloatingPointError, match="not finite after epoch 1 under Breaks"):
        trained(Breaks(), batch_size=100)


def test_a_frozen_parameter_may_hold_infinity():
    net = MultimodalNet.build(DATA)
    net.mask = nn.Parameter(torch.full((2,), -torch.inf), requires_grad=False)
    fit(net, DATA, epochs=1, device="cpu")


def test_a_step_that_forgets_its_gradients_later_is_found():
    class Forgets(Balancer):
        def step(self, s):
            if s.epoch == 0:
                s.backward(s.losses["joint"])
            yield

    with pytest.raises(RuntimeError, match="no parameter has a gradient"):
        trained(Forgets(), epochs=2)


def test_whole_numbers_of_numpy_are_whole_numbers():
    one = trained(seed=1, epochs=1, batch_size=50)
    other = fit(
        MultimodalNet.build(DATA, seed=np.int64(1)),
        DATA,
        OGM(window=(np.int64(0), np.int64(3))) and Joint(),
        epochs=np.int64(1),
        seed=np.int64(1),
        batch_size=np.int64(50),
        device="cpu",
    )
    assert same(weights(one.model), weights(other.model))


def test_an_update_cut_short_leaves_the_optimiser_whole():
    class Stops(torch.optim.SGD):
        def step(self, closure=None):
            raise KeyboardInterrupt

    made = []

    def make(parameters):
        made.append(Stops(parameters, lr=0.1))
        return made[0]

    with pytest.raises(KeyboardInterrupt):
        trained(ATF(), optimizer=make)
    assert len(made[0].param_groups) == 1


def test_parameters_of_a_loss_that_nothing_trains_are_said():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, z, y):
            return self.scale * F.cross_entropy(z, y)

    with pytest.warns(UserWarning, match="Scaled has parameters that the optimiser does not hold"):
        trained(loss=Scaled(), epochs=1)


class Notes(Joint):
    """Which samples each batch has, and how far the training is."""

    def __init__(self, chosen=None):
        self.batches, self.progress, self.chosen = [], [], chosen

    def order(self, run):
        return self.chosen

    def step(self, s):
        self.batches.append(s.batch.index.tolist())
        self.progress.append(s.progress)
        return super().step(s)


def test_drop_last_leaves_out_what_fills_no_batch():
    whole, cut, even = Notes(), Notes(), Notes()
    trained(whole, batch_size=32)
    run = trained(cut, batch_size=32, drop_last=True)
    assert [len(batch) for batch in cut.batches] == [32] * 6  # 100 samples, two epochs
    assert cut.batches == [batch for batch in whole.batches if len(batch) == 32]
    assert cut.progress == pytest.approx([i / 6 for i in range(6)])
    assert run.history.query("metric == 'loss'").epoch.tolist() == [1, 2]
    trained(even, batch_size=25, drop_last=True)
    assert [len(batch) for batch in even.batches] == [25] * 8


def test_drop_last_counts_the_samples_that_a_method_chooses():
    chosen = Notes(range(50))
    trained(chosen, batch_size=20, drop_last=True, epochs=1)
    assert chosen.batches == [[*range(20)], [*range(20, 40)]]
    with pytest.raises(ValueError, match=r"Notes\.order names 19 samples, and a step has 20"):
        trained(Notes(range(19)), batch_size=20, drop_last=True)


def by_part(named_parameters):
    """No weight decay on biases; one encoder at a rate of its own."""
    groups = {}
    for name, p in named_parameters:
        own = name.startswith("encoders.a."), name.endswith("bias")
        groups.setdefault(own, []).append((name, p))
    return torch.optim.AdamW(
        [
            {"params": own, "lr": 0.1 if a else 1e-3, "weight_decay": 0.0 if bias else 0.5}
            for (a, bias), own in groups.items()
        ],
    )


def test_the_maker_of_the_optimiser_may_ask_for_names():
    run = trained(optimizer=by_part)
    names = {p: name for name, p in run.model.named_parameters()}
    groups = run.optimizer.param_groups
    assert sum(len(group["params"]) for group in groups) == len(names)
    for group in groups:
        assert [names[p] for p in group["params"]] == group["param_names"]
        for name in group["param_names"]:
            assert group["lr"] == (0.1 if name.startswith("encoders.a.") else 1e-3)
            assert group["weight_decay"] == (0.0 if name.endswith("bias") else 0.5)


def test_modules_of_a_method_are_named_too():
    class Shifted(Joint):
        def modules(self, model):
            self.own = nn.ParameterDict({"shift": torch.zeros(1)})
            return self.own

        def step(self, s):
            s.backward(s.losses["joint"] + self.own["shift"].sum())
            yield

    seen = []

    def keep(named_parameters):
        seen.extend(named_parameters)
        return torch.optim.SGD(seen, lr=0.1)

    run = trained(Shifted(), optimizer=keep)
    assert [name for name, _ in seen] == [n for n, _ in run.model.named_parameters()] + [
        "balancer.shift"
    ]
    assert run.balancer.own["shift"].item() == pytest.approx(-0.1 * 4)


def test_a_stack_drops_and_names_as_each_network_alone():
    options = {"epochs": 2, "device": "cpu", "batch_size": 32, "drop_last": True}
    options["optimizer"] = by_part
    runs = fit_seeds(DATA, METHODS["uniform"].make, seeds=[3, 4], at_once=True, **options)
    for run, seed in zip(runs, [3, 4], strict=True):
        net = MultimodalNet.build(DATA, seed=seed)
        one = fit(net, DATA, METHODS["uniform"].make(), seed=seed, **options)
        for mine, theirs in zip(weights(run.model), weights(one.model), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
