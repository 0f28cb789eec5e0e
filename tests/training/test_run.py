"""What a Run tells, what it lends to a method, and that looking and branching change nothing."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from trained import DATA, dropping, same, trained, weights

from mmlab.balancers import ATF, METHODS, Balancer, GradientBlending, Joint, Uniform
from mmlab.datasets import Batch, MultimodalData, drop
from mmlab.evaluation import Curves, GradientWatch
from mmlab.models import MultimodalNet
from mmlab.seeds import generator
from mmlab.training import fit
from mmlab.training.run import copied


def doubled(prediction, target, reduction="mean"):
    return 2 * F.cross_entropy(prediction, target, reduction=reduction)


def test_a_run_shows_itself_in_one_line():
    assert repr(trained(Uniform(), seed=3)) == "Run(Uniform, seed 3, 2 of 2 epochs, on cpu)"


def test_a_branch_leaves_the_run_untouched():
    class Looks(Joint):
        def epoch(self, run):
            before = weights(run.model)
            copies.append(run.branch(Uniform(), 1))
            assert not same(weights(copies[-1]), before)  # the copy has learnt
            assert same(weights(run.model), before)

    copies = []
    runs = [
        fit(dropping(nn.BatchNorm1d(8)), DATA, balancer, epochs=2, device="cpu")
        for balancer in (Joint(), Looks())
    ]
    assert same(runs[0].model.state_dict().values(), runs[1].model.state_dict().values())
    assert runs[0].history.equals(runs[1].history)
    assert len(copies) == 2 and not same(weights(copies[0]), weights(copies[1]))


class Frozen(Joint):
    """One encoder keeps its weights and, as its own mode says, its statistics."""

    def start(self, run):
        run.model.encoders["a"].requires_grad_(False).eval()


def test_looking_and_branching_keep_the_mode_of_a_frozen_encoder():
    def looks(run):
        run.predict(run.data.test)
        run.losses("train")
        copies.append(run.branch(Joint(), 1))

    ends, copies = [], []
    for observers in ([], [Curves(), GradientWatch(), looks]):
        encoders = {m: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8)) for m in "ab"}
        model = MultimodalNet.build(DATA, encoders=encoders, width=8)
        fit(model, DATA, Frozen(), epochs=2, device="cpu", observers=observers)
        assert not model.encoders["a"].training and model.encoders["b"].training
        ends.append(model)
    for model in (*ends, *copies):
        assert model.encoders["a"][1].running_var.eq(1).all()
        assert not model.encoders["b"][1].running_var.eq(1).all()


class Clipping(torch.optim.SGD):
    def __init__(self, parameters, lr, most):
        super().__init__(parameters, lr=lr)
        self.most = most

    def step(self):
        for p in (p for p in self.param_groups[0]["params"] if p.grad is not None):
            p.grad = p.grad.clamp(-self.most, self.most)
        super().step()


def test_a_branch_takes_along_what_an_optimiser_of_ones_own_holds():
    gaps = []

    def looks(run):
        copy = run.branch(Joint(), 1)
        pairs = zip(weights(copy), weights(run.model), strict=True)
        gaps.append(max((a - b).abs().max().item() for a, b in pairs))

    trained(optimizer=lambda p: Clipping(p, lr=1.0, most=1e-4), epochs=1, observers=[looks])
    assert 0 < max(gaps) <= 2.01e-4  # two batches


def test_what_an_optimiser_holds_is_copied_with_the_network():
    model = MultimodalNet.build(DATA)
    optimizer = Clipping(model.parameters(), lr=1.0, most=1e-4)
    optimizer.seen, optimizer.last = [1], next(model.parameters())
    other, own = copied(model, optimizer)
    own.seen.append(2)
    assert optimizer.seen == [1]
    assert own.last is next(other.parameters()) and own.last is not optimizer.last


@pytest.mark.parametrize("when", ["pre", "post"])
def test_a_branch_under_an_optimiser_with_hooks_is_refused(when):
    def hooked(parameters):
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        getattr(optimizer, f"register_step_{when}_hook")(lambda *_: None)
        return optimizer

    with pytest.raises(ValueError, match=r"SGD has step hooks.*subclass of the optimiser"):
        trained(GradientBlending(), optimizer=hooked, epochs=1)
    trained(ATF(), optimizer=lambda p: torch.optim.SGD(p, lr=0.1), epochs=1, observers=[branches])


def test_a_branch_goes_on_beside_a_schedule():
    schedules = []

    def scheduled(parameters):
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        schedules.append(torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5))
        return optimizer

    trained(GradientBlending(), optimizer=scheduled, epochs=1)


def branches(run):
    """A branch of a run whose optimiser has the library's own hooks."""
    run.branch(Joint(), 1)


def test_losses_of_a_split_by_hand():
    run = trained(Uniform())
    run.model.train()
    losses = run.losses("holdout")
    out, target = run.model.eval()(DATA.holdout.inputs), DATA.holdout.target
    assert list(losses) == ["joint", "a", "b"]
    torch.testing.assert_close(losses["joint"], F.cross_entropy(out.joint, target))
    torch.testing.assert_close(losses["b"], F.cross_entropy(out.unimodal["b"], target))


def test_losses_of_a_split_are_by_the_loss_of_the_run():
    plain, twice = (trained(epochs=0, loss=loss).losses("train") for loss in (None, doubled))
    for output in ("joint", "a", "b"):
        torch.testing.assert_close(twice[output], 2 * plain[output])


def test_predictions_are_made_without_dropout_and_put_the_mode_back():
    run = fit(dropping(), DATA, epochs=1, device="cpu")
    prediction = run.predict(DATA.test)
    assert all(module.training for module in run.model.modules())
    assert torch.equal(prediction, run.model.eval()(DATA.test.inputs).joint)
    assert not torch.equal(prediction, run.model.train()(DATA.test.inputs).joint)


def test_losses_asked_for_run_no_other_encoder():
    run, seen = trained(Uniform()), []
    for m, encoder in run.model.encoders.items():
        encoder.register_forward_hook(lambda *_, m=m: seen.append(m))
    losses = run.losses("test", "b")
    assert seen == ["b"] and list(losses) == ["b"] and not losses["b"].requires_grad
    assert torch.equal(losses["b"], run.losses("test")["b"])
    other = MultimodalNet.build(DATA, seed=9)
    expected = F.cross_entropy(other(DATA.test.inputs).joint, DATA.test.target)
    torch.testing.assert_close(run.losses("test", "joint", model=other), {"joint": expected})


def test_features_are_those_of_evaluation_in_the_order_of_the_samples(monkeypatch):
    run = fit(dropping(nn.BatchNorm1d(8)), DATA, epochs=1, device="cpu")
    run.model.encoders["b"].eval()
    modes = [module.training for module in run.model.modules()]
    state = {name: value.clone() for name, value in run.model.state_dict().items()}
    whole = run.features("train")
    monkeypatch.setattr("mmlab.datasets.splits.MOST", 7)
    features = run.features("train")
    assert [module.training for module in run.model.modules()] == modes
    assert all(torch.equal(x, state[name]) for name, x in run.model.state_dict().items())
    expected = run.model.eval()(DATA.train.inputs).features
    assert list(features) == ["a", "b"]
    for m, h in features.items():
        assert h.shape == (100, 8) and not h.requires_grad and h.grad_fn is None
        torch.testing.assert_close(h, expected[m])
        torch.testing.assert_close(whole[m], expected[m])
    assert {m: len(h) for m, h in run.features("holdout").items()} == {"a": 20, "b": 20}


def test_features_need_no_fusion_and_no_head():
    run, seen = trained(epochs=0), []
    for part in (run.model.fusion, run.model.heads["a"]):
        part.register_forward_hook(lambda *_: seen.append(1))
    run.features("train")
    assert seen == []


@pytest.mark.parametrize("missing", [False, True])
def test_a_reading_has_the_targets_and_masks_of_the_features(missing, monkeypatch):
    parts = DATA.splits
    if missing:
        parts = {name: drop(part, 0.4) for name, part in parts.items()}
    data = MultimodalData(**parts, n_classes=2)
    run = trained(data=data, epochs=1)
    monkeypatch.setattr("mmlab.datasets.splits.MOST", 7)
    for name, part in data.splits.items():
        found = run.reading(name)
        assert torch.equal(found.target, part.target)
        for m in "ab":
            assert torch.equal(found.values[m], run.features(name)[m])
            has = found.has(m)
            assert (has is None) == (not missing) and (has is None or has.equal(part.present[m]))


def test_a_reading_is_of_anything_in_evaluation_mode_and_without_a_graph(monkeypatch):
    run = trained(data=DATA, epochs=1)
    monkeypatch.setattr("mmlab.datasets.splits.MOST", 7)
    sizes = []

    def what(batch, out):
        sizes.append(len(batch))
        assert not run.model.training and not torch.is_grad_enabled()
        return {"right": out.joint.argmax(-1) == batch.target}

    found = run.reading("train", what)
    assert sum(sizes) == len(DATA.train) and max(sizes) == 7 and [*found.values] == ["right"]
    with torch.no_grad():
        expected = run.model(DATA.train.inputs).joint.argmax(-1) == DATA.train.target
    assert torch.equal(found.values["right"], expected) and run.model.training


def test_draws_between_steps_are_of_the_seed_the_epoch_and_their_name():
    def drawn(seed, epoch, name):
        run = trained(data=DATA, epochs=0, seed=seed)
        run.epoch = epoch
        draws = run.draws(name)
        permutation = draws.permutation(50, torch.device("cpu"))
        assert sorted(permutation.tolist()) == list(range(50))
        return permutation.tolist(), draws.uniforms((3,), torch.empty(0)).tolist()

    first = drawn(1, 2, "a")
    assert drawn(1, 2, "a") == first
    for other in (drawn(2, 2, "a"), drawn(1, 3, "a"), drawn(1, 2, "b")):
        assert other[0] != first[0] and other[1] != first[1]


class Chosen(Joint):
    """An order of one's own, and notes of what came of it."""

    def __init__(self, *orders):
        self.orders, self.asked, self.batches, self.progress = orders, [], [], []

    def order(self, run):
        self.asked.append(run.epoch)
        return self.orders[run.epoch]

    def step(self, s):
        self.batches.append(s.batch)
        self.progress.append(s.progress)
        yield from super().step(s)


@pytest.mark.parametrize(
    "kind", [list, np.array, torch.tensor, lambda x: torch.tensor(x, dtype=torch.uint8)]
)
def test_a_method_chooses_the_samples_of_an_epoch(kind):
    first, second = [5, 5, 0, 99, 7], [3, 2, 1]
    chosen = Chosen(kind(first), kind(second))
    run = trained(chosen, batch_size=3)
    assert chosen.asked == [0, 1] and run.epoch == 2
    assert [batch.index.tolist() for batch in chosen.batches] == [[5, 5, 0], [99, 7], [3, 2, 1]]
    for batch in chosen.batches:
        assert torch.equal(batch.target, DATA.train.target[batch.index])
        for m, x in batch.inputs.items():
            assert torch.equal(x, DATA.train.inputs[m][batch.index])


@pytest.mark.parametrize("order", [[0, 100], [3, -1]])
def test_samples_that_are_not_there_are_refused(order):
    with pytest.raises(ValueError, match=rf"samples {min(order)} to {max(order)}; there are 100"):
        trained(Chosen(order), epochs=1)


def test_progress_never_falls_whatever_the_order():
    chosen = Chosen(range(100), [*range(100)] * 2, range(10))
    trained(chosen, epochs=3, batch_size=50)
    assert chosen.progress == pytest.approx([0, 1 / 6, 1 / 3, 1 / 2, 2 / 3, 2 / 3, 2 / 3])


def test_without_an_order_of_its_own_an_epoch_is_a_permutation_and_batches_know_their_samples():
    chosen = Chosen(None, None)
    trained(chosen, seed=4)
    index = torch.cat([batch.index for batch in chosen.batches])
    for epoch, own in enumerate(index.split(100)):
        assert torch.equal(own, torch.randperm(100, generator=generator(4, "order", epoch)))


def test_the_momentum_of_some_parameters_or_of_all_is_emptied():
    run = trained()
    one, *_ = run.model.parameters()
    had = set(run.optimizer.state)
    run.reset_momentum([one])
    assert one in had and set(run.optimizer.state) == had - {one} and len(had) > 2
    run.reset_momentum([one])  # nothing is there, and nothing happens
    run.reset_momentum([])  # of a frozen encoder
    assert set(run.optimizer.state) == had - {one}
    run.reset_momentum()
    assert not run.optimizer.state


def test_a_reset_at_every_epoch_is_a_fresh_optimiser():
    class Fresh(Joint):
        def epoch(self, run):
            run.reset_momentum()

    def hand(net):
        for epoch in range(2):
            optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
            order = torch.randperm(100, generator=generator(0, "order", epoch))
            for index in order.split(64):
                out = net({m: x[index] for m, x in DATA.train.inputs.items()})
                optimizer.zero_grad()
                F.cross_entropy(out.joint, DATA.train.target[index]).backward()
                optimizer.step()
        return weights(net)

    run = trained(Fresh(), optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    expected = hand(MultimodalNet.build(DATA))
    for one, other in zip(weights(run.model), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_branches_draw_from_streams_of_their_own():
    """At each epoch another, and none the run's: orders, dropout and noise."""
    orders = []

    class Notes(Joint):
        def step(self, s):
            orders.append((s.batch.index, s.permutation(50)))
            yield from super().step(s)

    class Branches(Joint):
        def epoch(self, run):
            for _ in range(2):
                run.branch(Notes(), 1)

        def step(self, s):
            orders.append((s.batch.index, s.permutation(50)))
            yield from super().step(s)

    trained(Branches(), batch_size=100)
    first, again, own, second, _, later = orders
    assert same(first, again)  # as often as one likes
    for kind in range(2):
        drawn = torch.stack([x[kind] for x in (first, own, second, later)])
        assert len(drawn.unique(dim=0)) == 4


def test_dropout_in_a_branch_is_another():
    class InOrder(Joint):
        def order(self, run):
            return range(100)

    masks, net = [], dropping()
    net.encoders["a"].register_forward_hook(lambda module, x, h: masks.append(h == 0))

    class Branches(InOrder):
        def epoch(self, run):
            run.branch(InOrder(), 1)

    fit(net, DATA, Branches(), epochs=2, lr=1e-12, batch_size=100, device="cpu")
    assert len(masks) == 4 and len(torch.stack(masks).flatten(1).unique(dim=0)) == 4


def test_a_branch_of_a_branch_has_streams_of_its_own():
    seen = []

    class Inner(Joint):
        def step(self, s):
            seen.append(s.batch.index)
            yield from super().step(s)

    class Outer(Inner):
        def epoch(self, run):
            run.branch(Inner(), 1)

    trained(epochs=1, observers=[lambda run: run.epoch or run.branch(Outer(), 1)], batch_size=100)
    assert len(seen) == 2 and not torch.equal(*seen)


def test_a_branch_goes_on_with_the_momentum_of_the_run():
    class Still(Joint):
        def step(self, s):
            s.backward(0 * s.losses["joint"])
            yield

    run = trained(epochs=1)
    moved = [
        a - b for a, b in zip(weights(run.branch(Still(), 1)), weights(run.model), strict=True)
    ]
    assert max(change.abs().max() for change in moved) > 1e-4
    run.reset_momentum()
    assert same(weights(run.branch(Still(), 1)), weights(run.model))


@pytest.mark.parametrize("method", ["joint", "OGM-GE", "BDO"])
def test_a_training_goes_on_where_a_copy_of_its_state_left_off(method):
    """Nothing of a generator is kept: a stream begins anew at every epoch."""

    class Pausing(Exception):
        pass

    def start(balancer):
        net = dropping() if balancer.heads == "own" else MultimodalNet.build(DATA, heads="shared")
        for p in net.parameters():
            p.data.fill_(0.1)
        return net

    def pauses(run):
        kept.append(run)
        if run.epoch == 2:
            raise Pausing

    whole, part, kept, seen = METHODS[method].make(), METHODS[method].make(), [], []
    expected = fit(start(whole), DATA, whole, epochs=4, seed=5, device="cpu")
    with pytest.raises(Pausing):
        fit(start(part), DATA, part, epochs=4, seed=5, device="cpu", observers=[pauses])
    half = kept[-1]
    model, optimizer = copy.deepcopy((half.model, half.optimizer))
    rest = type(half)(
        model=model,
        data=DATA,
        balancer=copy.deepcopy(part),
        optimizer=optimizer,
        epochs=4,
        batch_size=64,
        device=half.device,
        seed=5,
        train_on=half.train_on,
        epoch=2,
        rows=list(half.rows),
        observers=[lambda run: seen.append(run.epoch)],
    )
    torch.rand(5)
    rest.train_on(rest)
    assert seen == [3, 4]
    assert same(weights(rest.model), weights(expected.model))
    assert rest.history.equals(expected.history) and rest.epoch == 4


def test_what_is_left_of_a_fit_does_not_hang_on_the_global_generator():
    ends = []
    for seed in (1, 2):
        net = dropping()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            run = fit(net, DATA, GradientBlending(warmup=1, super_epoch=1), epochs=2, device="cpu")
            assert torch.equal(torch.get_rng_state(), before)
        ends.append((weights(run.model), run.history))
    assert same(ends[0][0], ends[1][0]) and ends[0][1].equals(ends[1][1])


# What a method brings along


class Owns(Balancer):
    def modules(self, model):
        self.scale = nn.Linear(1, 1)
        return self.scale

    def step(self, s):
        s.backward(self.scale(s.losses["joint"].reshape(1)).sum())
        yield


def test_modules_of_a_methods_own_start_from_the_seed():
    torch.manual_seed(0)
    one = trained(Owns(), seed=3, epochs=0)
    torch.manual_seed(1)
    other, third = (trained(Owns(), seed=seed, epochs=0) for seed in (3, 4))
    assert torch.equal(one.modules.weight, other.modules.weight)
    assert not torch.equal(one.modules.weight, third.modules.weight)


def test_a_parameter_is_no_module():
    class Bare(Balancer):
        def modules(self, model):
            return nn.Parameter(torch.ones(2))

    with pytest.raises(TypeError, match=r"Bare\.modules gives a Parameter; .* nn\.ParameterList"):
        trained(Bare())


class Begins(Balancer):
    def start(self, run):
        self.begun = getattr(self, "begun", 0) + 1

    def step(self, s):
        s.backward(s.losses["joint"] * self.begun)
        yield


def test_a_branch_starts_a_copy_of_its_balancer():
    run, given = trained(Uniform()), Begins()
    run.branch(given, 1)
    assert not hasattr(given, "begun")
    with pytest.raises(ValueError, match="Owns has modules of its own, and a branch"):
        run.branch(Owns(), 1)


# What the history says of modalities that are missing


def test_batches_without_a_modality_are_left_out_of_its_mean():
    draw = torch.Generator().manual_seed(0)
    inputs = {m: torch.randn(40, 5, generator=draw) for m in "ab"}
    there = torch.zeros(40, dtype=torch.bool)
    there[7] = True
    inputs["b"][~there] = 100.0  # whatever stands in for what is missing
    present = {"a": torch.ones(40, dtype=torch.bool), "b": there}
    batch = Batch(inputs, torch.arange(40) % 2, present)
    data = MultimodalData(batch, batch, batch)
    net = MultimodalNet.build(data, width=8)

    class Own(Balancer):
        def step(self, s):
            s.backward(s.losses["a"] + s.losses["b"])
            yield

    expected = F.cross_entropy(
        net.heads["b"](net.encoders["b"](inputs["b"][there])), batch.target[there]
    )
    run = fit(net, data, Own(), epochs=1, batch_size=5, lr=1e-12, device="cpu")
    loss = run.history.query("metric == 'loss' and output == 'b'").value.item()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
