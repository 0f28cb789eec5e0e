"""Gradient-Blending: the blended gradient, and estimates that are right and leave no trace."""

import copy
import warnings

import numpy as np
import pytest
import torch
from by_hand import ByHand, assert_gradients, batch, data, linear, network, parameters
from torch import nn
from torch.nn import functional as F

from mmlab import Balancer, GradientBlending, Joint, Step, Uniform, fit
from mmlab.balancers import gblend


def train(balancer, tiny, *, epochs, net=None, **options):
    net = network() if net is None else net
    return fit(net, tiny, balancer, epochs=epochs, batch_size=8, device="cpu", **options)


def values(run, metric):
    """{epoch the estimate was made after: {output: value}}."""
    table = run.history.query("metric == @metric")
    return {
        epoch: dict(zip(rows.output, rows.value, strict=True))
        for epoch, rows in table.groupby("epoch")
    }


@pytest.mark.parametrize("modalities", ["av", "avt"])
def test_the_gradient_is_the_weighted_sum(modalities):
    net, samples = network(modalities), batch(modalities)
    balancer = GradientBlending()
    keys = ["joint", *modalities]
    weights = dict(zip(keys, [0.5, 0.05, 0.15, 0.3], strict=False))
    balancer.weights = {key: torch.tensor(w, dtype=torch.float64) for key, w in weights.items()}
    next(balancer.step(Step(net, samples)))
    assert_gradients(net, ByHand(net, samples).total(weights))


def test_without_an_estimate_the_weights_are_equal_and_it_says_so_once():
    net, samples = network("avt"), batch("avt")
    balancer = GradientBlending()
    with pytest.warns(UserWarning, match=r"own loop it takes equal ones\. Call .*\.begin\(net"):
        next(balancer.step(Step(net, samples)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        next(balancer.step(Step(network("avt"), samples)))
    assert_gradients(net, ByHand(net, samples).total(dict.fromkeys(["joint", *"avt"], 0.25)))


def test_a_loss_of_weight_0_trains_nothing():
    net, samples = network(), batch()
    balancer = GradientBlending()
    balancer.weights = {"joint": torch.tensor(0.0), "a": torch.tensor(1.0), "v": torch.tensor(0.0)}
    next(balancer.step(Step(net, samples)))
    assert_gradients(net, ByHand(net, samples).gradient("a"))


def trained_alone(model, optimizer, tiny, key, epochs):
    """A copy that goes on with one loss, over whole-set steps; plain torch, no balancer."""
    model, optimizer = copy.deepcopy((model, optimizer))
    for _ in range(epochs):
        optimizer.zero_grad()
        loss_of(model, tiny.train, key).backward()
        optimizer.step()
    return model


def loss_of(model, samples, key):
    features = {m: model.encoders[m](samples.inputs[m]) for m in model.modalities}
    if key == "joint":
        z = model.fusion.linear(torch.cat(list(features.values()), dim=1))
    else:
        z = model.heads[key](features[key])
    return (z.logsumexp(1) - z[torch.arange(len(z)), samples.target]).mean()


def estimated(model, optimizer, tiny, epochs, previous):
    """(gain, overfit, weight) of each loss by the paper's definitions, in numpy."""
    found = {}
    for key in ("joint", *model.modalities):
        after = trained_alone(model, optimizer, tiny, key, epochs)
        t0, h0, t1, h1 = (
            loss_of(one, split, key).item()
            for one in (model, after)
            for split in (tiny.train, tiny.holdout)
        )
        found[key] = (h0 - h1, (h1 - t1) - (h0 - t0))
    gain = np.array([max(g, 0) for g, _ in found.values()])
    size = np.abs([o for _, o in found.values()])
    w = gain / np.maximum(size, 0.1 * size.max()) ** 2
    w = w / w.sum() if w.sum() > 0 else previous
    return {key: (*pair, weight) for (key, pair), weight in zip(found.items(), w, strict=True)}


@pytest.mark.parametrize(("mode", "plan"), [("online", {0: 2, 2: 3, 5: 2}), ("offline", {0: 7})])
def test_training_follows_the_loop_by_hand(mode, plan):
    """Estimates from the current snapshot, over the super-epoch's length; then blended steps."""
    tiny, make = data(), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)
    net, by_hand = network(), network()
    run = fit(
        net,
        tiny,
        GradientBlending(mode=mode, warmup=2, super_epoch=3),
        epochs=7,
        batch_size=len(tiny.train),
        optimizer=make,
        device="cpu",
    )
    optimizer, weights = make(by_hand.parameters()), np.full(3, 1 / 3)
    for epoch in range(7):
        if epoch in plan:
            found = estimated(by_hand, optimizer, tiny, plan[epoch], weights)
            weights = np.array([w for _, _, w in found.values()])
            for place, metric in enumerate(("gain", "overfit", "weight")):
                expected = {key: entry[place] for key, entry in found.items()}
                assert values(run, metric)[epoch] == pytest.approx(expected, rel=1e-6, abs=1e-9)
        optimizer.zero_grad()
        losses = [loss_of(by_hand, tiny.train, key) for key in ("joint", "a", "v")]
        sum(w * loss for w, loss in zip(weights, losses, strict=True)).backward()
        optimizer.step()
    assert set(values(run, "weight")) == set(plan)
    torch.testing.assert_close(parameters(net), parameters(by_hand))


def test_the_weights_are_not_equal_and_steer_the_training():
    """The one test that fails where the special step does nothing."""
    tiny = data()
    run = train(GradientBlending(warmup=2, super_epoch=2), tiny, epochs=2)
    weight = values(run, "weight")[0]
    assert max(weight.values()) > 0.5 and min(weight.values()) < 0.25
    plain = train(Equal(), tiny, epochs=2)
    gap = (run.model.encoders["a"].weight - plain.model.encoders["a"].weight).norm()
    assert gap > 1e-3


class Equal(Balancer):
    """The mean of all losses: what blending with equal weights is."""

    def step(self, s):
        s.backward(sum(s.losses[key] / len(s.losses) for key in s.losses))
        yield


class Estimating(GradientBlending):
    """Estimates as ever, and then throws the weights away."""

    def estimate(self, run, epochs):
        super().estimate(run, epochs)
        third = torch.tensor(1 / 3, dtype=torch.float64)
        self.weights = dict.fromkeys(self.weights, third)


class Third(GradientBlending):
    """The same step without any estimate."""

    def epoch(self, run):
        third = torch.tensor(1 / 3, dtype=torch.float64)
        self.weights = dict.fromkeys(("joint", *run.model.modalities), third)


def noisy(size, width):
    """Dropout and batch statistics: the random state and the buffers that a trial could disturb."""
    return nn.Sequential(
        nn.Linear(size, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, width)
    )


@pytest.mark.parametrize("mode", ["online", "offline"])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, lr=0.01),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    ],
)
@pytest.mark.parametrize("encoder", [linear, noisy])
def test_an_estimate_leaves_the_run_untouched_bit_for_bit(encoder, make, mode):
    tiny, traces = data(), []
    for balancer in (Estimating(mode=mode, warmup=1, super_epoch=1), Third()):
        torch.manual_seed(7)
        net = network(encoder=encoder, fusion="gated")
        run = train(balancer, tiny, epochs=2, net=net, optimizer=make)
        traces.append((run, torch.get_rng_state()))
    (tried, tried_state), (plain, plain_state) = traces
    assert values(tried, "weight") and not values(plain, "weight")
    assert torch.equal(tried_state, plain_state)
    for name, value in tried.model.state_dict().items():
        assert torch.equal(value, plain.model.state_dict()[name]), name
    mine, theirs = tried.optimizer.state_dict(), plain.optimizer.state_dict()
    for key, state in mine["state"].items():
        for name, value in state.items():
            assert torch.equal(value, theirs["state"][key][name])
    assert tried.history.query("metric == 'loss'").value.tolist() == (
        plain.history.query("metric == 'loss'").value.tolist()
    )


def test_an_estimate_by_hand_leaves_even_the_optimisers_state_and_the_mode():
    tiny = data()
    run = train(Joint(), tiny, epochs=1, net=network(encoder=noisy))
    before = copy.deepcopy((run.model.state_dict(), run.optimizer.state_dict()))
    state = torch.get_rng_state()
    run.balancer = balancer = GradientBlending()
    balancer.start(run)
    balancer.estimate(run, 2)
    after = run.model.state_dict(), run.optimizer.state_dict()
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert run.model.training and run.epoch == 1 and run.balancer is balancer
    assert sum(w.item() for w in balancer.weights.values()) == pytest.approx(1)


class Forbidden:
    """A test split that may not be looked at."""

    def __getattr__(self, name):
        raise AssertionError(f"the test split was read: .{name}")

    def __len__(self):
        raise AssertionError("the test split was read: len()")


def test_the_balancer_weighs_by_the_functions_that_are_taught(monkeypatch):
    given = []

    def estimate(*losses):
        given.append(losses)
        return torch.tensor([3.0, 1.0, 2.0]), torch.tensor([5.0, 6.0, 7.0])

    def weights(overfit, gain, *, floor, previous):
        given.append((overfit.tolist(), gain.tolist(), floor, previous))
        return torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)

    monkeypatch.setattr(gblend, "overfit_and_gain", estimate)
    monkeypatch.setattr(gblend, "blend_weights", weights)
    run = train(GradientBlending(mode="offline", floor=0.25), data(), epochs=2)
    losses, rule = given
    assert [tuple(x.shape) for x in losses] == [(3,)] * 4
    assert rule == ([3, 1, 2], [5, 6, 7], 0.25, None)
    assert values(run, "weight")[0] == pytest.approx({"joint": 0.5, "a": 0.2, "v": 0.3})
    assert [w.item() for w in run.balancer.weights.values()] == [0.5, 0.2, 0.3]


def test_a_trial_that_diverges_is_named():
    tiny = data()
    with pytest.raises(FloatingPointError, match=r"in the trial of the 'joint' loss alone"):
        train(
            GradientBlending(mode="offline"),
            tiny,
            epochs=3,
            optimizer=lambda p: torch.optim.SGD(p, lr=1e200),
        )


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_an_estimate_reads_train_and_holdout_and_both_of_them(mode):
    """Another holdout, other weights; another test split, the same ones."""
    found = {}
    for name in ("train", "holdout", "test"):
        tiny, other = data(), data(seed=5)
        setattr(tiny, name, getattr(other, name))
        run = train(GradientBlending(mode=mode, warmup=1, super_epoch=1), tiny, epochs=2)
        found[name] = values(run, "weight")
    plain = values(
        train(GradientBlending(mode=mode, warmup=1, super_epoch=1), data(), epochs=2), "weight"
    )
    assert found["test"] == plain
    assert found["train"] != plain and found["holdout"] != plain


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_the_test_split_is_never_read(mode):
    tiny, sealed = data(), data()
    sealed.test = Forbidden()
    runs = [
        train(GradientBlending(mode=mode, warmup=1, super_epoch=1), split, epochs=2)
        for split in (tiny, sealed)
    ]
    assert runs[0].rows == runs[1].rows


class Diary(GradientBlending):
    """Notes when it is asked for estimates, and over how many epochs."""

    def start(self, run):
        super().start(run)
        self.asked = []

    def estimate(self, run, epochs):
        self.asked.append((run.epoch, epochs))


@pytest.mark.parametrize(
    ("options", "epochs", "asked"),
    [
        ({"mode": "offline"}, 6, [(0, 6)]),
        ({"mode": "offline", "warmup": 2, "super_epoch": 1}, 4, [(0, 4)]),
        ({"warmup": 2, "super_epoch": 3}, 8, [(0, 2), (2, 3), (5, 3)]),
        ({"warmup": 1, "super_epoch": 1}, 3, [(0, 1), (1, 1), (2, 1)]),
        ({"warmup": 3, "super_epoch": 2}, 4, [(0, 3), (3, 1)]),
        ({}, 12, [(0, 10), (10, 2)]),
        ({}, 0, []),
    ],
)
def test_when_and_over_how_many_epochs_it_estimates(options, epochs, asked):
    tiny, balancer = data(), Diary(**options)
    for _ in range(2):  # a second training starts afresh
        train(balancer, tiny, epochs=epochs)
        assert balancer.asked == asked


def test_a_second_training_starts_afresh():
    """Where nothing gains, the previous weights are kept: not those of another training."""
    tiny, balancer = data(), GradientBlending(warmup=1, super_epoch=1)
    first = train(balancer, tiny, epochs=2)
    assert train(balancer, tiny, epochs=2).rows == first.rows
    still = train(balancer, tiny, epochs=1, optimizer=lambda p: torch.optim.SGD(p, lr=1e-300))
    assert values(still, "weight")[0] == pytest.approx(dict.fromkeys(["joint", "a", "v"], 1 / 3))


def adverse(tiny, m):
    """Held-out inputs of modality m turned round: what it learns there misleads."""
    tiny.holdout.inputs[m] = -tiny.holdout.inputs[m]
    return tiny


@pytest.mark.parametrize("m", ["a", "v"])
def test_a_head_whose_held_out_loss_rises_gets_no_weight(m):
    """Never |ΔG|. The training loss, which does fall, has no say in it."""
    run = train(GradientBlending(mode="offline"), adverse(data(), m), epochs=6)
    assert values(run, "gain")[0][m] < -0.01
    assert values(run, "weight")[0][m] == 0
    assert values(run, "guard")[0][m] == 1
    other = "v" if m == "a" else "a"
    assert values(run, "weight")[0][other] > 0


def test_where_nothing_gains_the_previous_weights_are_kept():
    tiny = data()
    run = train(Joint(), tiny, epochs=1)
    balancer = GradientBlending()
    balancer.start(run)
    balancer.estimate(run, 2)
    first = dict(balancer.weights)
    assert max(first.values()) > 0.4
    run.data = adverse(adverse(data(), "a"), "v")
    balancer.estimate(run, 2)
    for key, weight in balancer.weights.items():
        assert weight == pytest.approx(first[key].item(), rel=1e-12)
    assert list(values(run, "guard")[1].values())[-3:] == [1, 1, 1]


def test_the_guard_is_reported_only_where_it_changed_something():
    run = train(GradientBlending(mode="offline", floor=0.0), data(), epochs=4)
    gain, guard = values(run, "gain")[0], values(run, "guard")[0]
    assert min(gain.values()) > 0
    assert set(guard.values()) == {0}
    floored = train(GradientBlending(mode="offline", floor=1.0), data(), epochs=4)
    assert sorted(values(floored, "guard")[0].values()) == [0, 1, 1]
    total = sum(gain.values())
    expected = {key: g / total for key, g in gain.items()}
    assert values(floored, "weight")[0] == pytest.approx(expected, rel=1e-5)


def test_estimates_are_made_in_evaluation_mode():
    """Two estimates of one snapshot agree, though the network holds dropout."""
    tiny = data()
    run = train(Joint(), tiny, epochs=1, net=network(encoder=noisy))
    torch.manual_seed(1)
    first = run.losses("train")
    torch.manual_seed(2)
    assert run.losses("train") == first
    assert run.model.training


def test_a_trial_and_its_losses_run_the_encoders_they_need():
    """Samples through each encoder: training, two trials, a look before and two after."""
    tiny, epochs, seen = data(), 3, {"a": 0, "v": 0}

    class Counted(nn.Linear):
        def __init__(self, m, size, width):
            super().__init__(size, width)
            self.m = m

        def forward(self, x):
            seen[self.m] += len(x)
            return super().forward(x)

    net = network()
    for m, encoder in net.encoders.items():
        linear = next(part for part in encoder.modules() if isinstance(part, nn.Linear))
        net.encoders[m] = Counted(m, linear.in_features, linear.out_features).double()
    train(GradientBlending(mode="offline"), tiny, epochs=epochs, net=net)
    looked_at = len(tiny.train) + len(tiny.holdout)
    expected = 3 * epochs * len(tiny.train) + 3 * looked_at
    assert seen == {"a": expected, "v": expected}


def test_it_learns_a_regression():
    samples = batch(size=24, regression=True)
    tiny = data()
    for name in ("train", "holdout", "test"):
        setattr(tiny, name, samples)
    tiny.task, tiny.n_classes = "regression", None
    run = train(GradientBlending(warmup=2, super_epoch=2), tiny, epochs=4, net=network(outputs=1))
    joint = run.history.query("metric == 'loss' and output == 'joint'").value.tolist()
    assert joint[-1] < joint[0]
    expected = F.l1_loss(run.model(samples.inputs).joint[:, 0], samples.target).item()
    assert run.losses("holdout")["joint"].item() == pytest.approx(expected)


def test_it_differs_from_the_uniform_sum_in_scale_too():
    """Weights sum to 1, so equal ones are a third of the uniform sum."""
    net, samples = network(), batch()
    next(Uniform().step(Step(net, samples)))
    whole = net.fusion.linear.weight.grad.clone()
    net.zero_grad()
    next(GradientBlending().step(Step(net, samples)))
    torch.testing.assert_close(3 * net.fusion.linear.weight.grad, whole)


@pytest.mark.parametrize(
    "options", [{"mode": "hybrid"}, {"warmup": 0}, {"super_epoch": -2}, {"floor": 1.5}]
)
def test_arguments_out_of_range_are_refused(options):
    value = next(iter(options.values()))
    with pytest.raises(ValueError, match=str(value)):
        GradientBlending(**options)


# What predicts


def starved(joint, fuse="joint"):
    """A balancer whose next estimate leaves the joint loss this weight."""
    balancer = GradientBlending(warmup=1, super_epoch=1, fuse=fuse)

    def weights(overfit, gain, **_):
        rest = (1 - joint) / (overfit.shape[-1] - 1)
        return torch.cat([torch.full_like(gain[..., :1], joint), gain[..., 1:] * 0 + rest], dim=-1)

    return balancer, weights


@pytest.mark.parametrize(
    ("joint", "fuse", "told"), [(0.03, "joint", 1), (0.04, "joint", 0), (0, "heads", 0)]
)
def test_a_joint_loss_without_weight_is_said_where_it_predicts(monkeypatch, joint, fuse, told):
    balancer, weights = starved(joint, fuse)
    monkeypatch.setattr(gblend, "blend_weights", weights)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        train(balancer, data(), epochs=1)
    messages = [str(w.message) for w in seen if "joint loss a weight of" in str(w.message)]
    assert len(messages) == told
    if told:
        assert "weight of 0.03 from epoch 0 on (equal ones: 0.33)" in messages[0]
        assert "GradientBlending(fuse='heads')" in messages[0]


def test_of_several_networks_the_least_weight_is_said():
    balancer = GradientBlending()
    for joint, told in (([0.5, 0.01], True), ([0.5, 0.4], False)):
        w = torch.tensor(joint)
        balancer.weights = {"joint": w, "a": (1 - w) / 2, "v": (1 - w) / 2}
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            balancer._warn_if_starved(0)
        assert ["a weight of 0.01 from" in str(w.message) for w in seen] == [True] * told


@pytest.mark.parametrize("outputs", [3, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_the_heads_predict_by_their_weights(outputs, masked):
    net, samples = network("avt", outputs=outputs), batch("avt")
    balancer = GradientBlending(fuse="heads")
    out = net(samples.inputs)
    assert balancer.fuse(out) is out.joint  # before there are weights
    w = {"joint": 0.5, "a": 0.3, "v": 0.0, "t": 0.2}
    balancer.weights = {key: torch.tensor(x, dtype=torch.float64) for key, x in w.items()}
    count = len(samples)
    present = {  # in an order of its own
        "t": torch.arange(count) % 3 > 0,
        "a": torch.arange(count) % 2 == 0,
        "v": torch.ones(count, dtype=torch.bool),
    }
    found = balancer.fuse(out, present if masked else None).detach().numpy()
    heads = {"joint": out.joint, **out.unimodal}
    for i in range(count):
        own = {k: x for k, x in w.items() if not masked or k == "joint" or present[k][i]}
        expected = 0
        for key, x in own.items():
            z = heads[key][i].detach().numpy()
            if outputs > 1:
                z = z - np.log(np.exp(z).sum())
            expected = expected + x / sum(own.values()) * z
        np.testing.assert_allclose(found[i], expected, rtol=1e-10, atol=1e-12)


def test_where_no_head_with_weight_has_its_modality_the_joint_one_predicts():
    net, samples = network(), batch()
    balancer = GradientBlending(fuse="heads")
    balancer.weights = {"joint": torch.tensor(0.0), "a": torch.tensor(1.0), "v": torch.tensor(0.0)}
    out, count = net(samples.inputs), len(samples)
    present = {"a": torch.arange(count) > 0, "v": torch.ones(count, dtype=torch.bool)}
    found = balancer.fuse(out, present)
    torch.testing.assert_close(found[0], out.joint[0].log_softmax(-1))
    torch.testing.assert_close(found[1:], out.unimodal["a"][1:].log_softmax(-1))


def test_what_predicts_is_joint_or_heads():
    with pytest.raises(ValueError, match="fuse is 'mean'; allowed are 'joint', 'heads'"):
        GradientBlending(fuse="mean")


def test_weights_are_found_by_name_and_must_be_all_there():
    net, samples = network(), batch()
    balancer = GradientBlending()
    balancer.weights = {"v": 0.0, "a": 0.25, "joint": 0.75}  # in any order, as plain numbers
    next(balancer.step(Step(net, samples)))
    assert_gradients(net, ByHand(net, samples).total({"joint": 0.75, "a": 0.25, "v": 0.0}))
    for wrong in ({"joint": 1.0}, {"joint": 1.0, "a": 0.0, "v": 0.0, "x": 0.0}):
        balancer.weights = wrong
        with pytest.raises(ValueError, match=r"weights has .*; give one for each of \['joint"):
            next(balancer.step(Step(network(), samples)))


def test_a_subclass_may_have_another_rule():
    class Third(GradientBlending):
        def rule(self, overfit, gain, previous):
            return torch.stack([gain[..., 0] * 0, gain[..., 1] * 0, gain[..., 2] * 0 + 1], dim=-1)

    run = train(Third("offline"), data(), epochs=2)
    assert [weight.item() for weight in run.balancer.weights.values()] == [0, 0, 1]
