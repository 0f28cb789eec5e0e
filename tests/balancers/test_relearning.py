"""D&R: purity, strength, what goes back and when, and that the test split has no say."""

import re
import warnings

import numpy as np
import pytest
import torch
from by_hand import CLASSES, Watched, batch, data, network, normal, parameters
from torch import nn

from mmlab import Joint, MultimodalData, MultimodalNet, Relearning, Step, fit
from mmlab.balancers import relearning
from mmlab.balancers.pmr import truths
from mmlab.balancers.relearning import (
    clusters,
    feature_purity,
    number_of_classes,
    purity,
    relearning_strength,
)
from mmlab.datasets import Stream
from mmlab.training import fit_seeds


def rate(p):
    return torch.optim.SGD(p, lr=0.1)


def trained(balancer, tiny, net=None, epochs=2, **options):
    net = network(**balancer.network) if net is None else net
    options = {"batch_size": 8, "device": "cpu", "optimizer": rate} | options
    return fit(net, tiny, balancer, epochs=epochs, **options)


def values(run, metric, split="holdout"):
    rows = run.history[(run.history.metric == metric) & (run.history.split == split)]
    return {(row.epoch, row.output): row.value for row in rows.itertuples()}


# --- functions ------------------------------------------------------------------------------------


def purity_by_hand(found, target):
    right = sum(np.bincount(target[found == k]).max() for k in np.unique(found))
    return right / len(target)


@pytest.mark.parametrize("seed", range(3))
def test_purity_is_the_share_of_the_most_frequent_class_of_each_cluster(seed):
    draw = np.random.default_rng(seed)
    found, target = draw.integers(0, 4, (2, 30)), draw.integers(0, 3, (2, 30))
    result = purity(torch.from_numpy(found), truths(torch.from_numpy(target), 3))
    assert result.shape == (2,) and result.dtype == torch.float64
    for r in range(2):
        assert result[r].item() == pytest.approx(purity_by_hand(found[r], target[r]))


def test_purity_of_labels_is_the_mean_over_them():
    found = torch.tensor([0, 0, 0, 1, 1])
    labels = torch.tensor([[1, 0], [1, 1], [0, 1], [0, 1], [0, 0]]).bool()
    result = purity(found, truths(labels, 2))
    assert result.item() == pytest.approx(((2 + 2) / 5 + (2 + 1) / 5) / 2)
    with pytest.raises(ValueError, match=r"found \(…, N\), truth \(…, N, Q, A\)"):
        purity(found[:4], truths(labels, 2))


def test_purity_of_few_samples_per_class_is_too_high():
    """As the docstring warns: of features that know nothing, and 1 where each has a cluster."""
    found = []
    for size in (10, 30, 400):
        target = torch.arange(size) % 10
        found.append(feature_purity(normal(size, 4), target, torch.tensor(10)).item())
    assert found[0] == 1 and found[1] > 0.35 and 0.1 < found[2] < 0.25


def test_clusters_are_found_and_do_not_hang_on_a_features_unit():
    centres = torch.tensor([[0.0, 0.0], [0.0, 4.0], [4.0, 0.0]], dtype=torch.float64)
    target = torch.arange(30) % 3
    features = centres[target] + 0.3 * normal(30, 2)
    for scale in (1.0, torch.tensor([1.0, 1e4]), torch.tensor([1e-3, 1.0])):
        found = clusters(scale * features + 7, 3)
        assert found.dtype == torch.int64
        assert purity(found, truths(target, 3)) == 1
    assert torch.equal(clusters(features, 3), clusters(features, 3))
    several = torch.stack([features, features.flip(0)])
    assert torch.equal(clusters(several, 3)[1], clusters(features.flip(0), 3))


def test_a_loud_feature_would_hide_the_others_if_it_were_not_scaled():
    target = torch.arange(60) % 2
    features = torch.stack([4.0 * target + 0.1 * normal(60), 1000 * normal(60, seed=1)], dim=-1)
    features[:, 1] = features[:, 1].clamp(-1000, 1000)
    assert feature_purity(features, target, torch.tensor(2)) > 0.9


def test_a_feature_that_never_changes_does_no_harm():
    features = torch.cat([torch.zeros(12, 1), normal(12, 2)], dim=1)
    assert torch.equal(clusters(features, 3), clusters(features[:, 1:], 3))


def test_the_strength_is_tanh_of_the_gap():
    train = torch.tensor([[0.9, 0.5], [0.4, 0.7]], dtype=torch.float64)
    holdout = torch.tensor([[0.6, 0.5], [0.6, 0.6]], dtype=torch.float64)
    expected = np.tanh(3 * np.abs(train.numpy() - holdout.numpy()))
    np.testing.assert_allclose(relearning_strength(train, holdout), expected, rtol=1e-12)
    expected = np.tanh(0.5 * np.abs(train.numpy() - holdout.numpy()))
    np.testing.assert_allclose(relearning_strength(train, holdout, 0.5), expected, rtol=1e-12)
    with pytest.raises(ValueError, match=r"train \(…, M\), holdout \(…, M\)"):
        relearning_strength(train, holdout[:, :1])


def test_classes_are_counted_to_the_largest_and_labels_by_their_columns():
    assert number_of_classes(torch.tensor([[0, 2, 1], [0, 1, 1]])).tolist() == [3, 2]
    assert number_of_classes(torch.tensor([0, 255], dtype=torch.uint8)).item() == 256
    assert number_of_classes(torch.zeros(2, 5, 4, dtype=torch.bool)).tolist() == [4, 4]
    with pytest.raises(ValueError, match=r"Relearning needs class labels.*For regression use ATF"):
        number_of_classes(normal(4))


def test_who_lacks_the_modality_is_in_no_cluster():
    target, has = torch.arange(30) % 3, torch.arange(30) % 4 > 0
    features = 5 * torch.eye(3, dtype=torch.float64)[target] + normal(30, 3)
    spoilt = torch.where(has[:, None], features, 0)
    found = feature_purity(spoilt, target, torch.tensor(3), has)
    assert found == feature_purity(features[has], target[has], torch.tensor(3))
    both = feature_purity(
        torch.stack([spoilt, features]),
        torch.stack([target, target]),
        torch.tensor([3, 3]),
        torch.stack([has, torch.ones_like(has)]),
    )
    assert both.tolist() == [found, feature_purity(features, target, torch.tensor(3))]


# --- what goes back -------------------------------------------------------------------------------


def purities_by_hand(net, samples):
    """Of linear encoders' features, through scikit-learn from end to end."""
    from sklearn.cluster import KMeans
    from sklearn.preprocessing import MinMaxScaler

    found = {}
    for m, encoder in net.encoders.items():
        mask = np.ones(len(samples), bool)
        if samples.present is not None:
            mask = samples.present[m].numpy()
        x = samples.inputs[m].numpy()[mask]
        h = x @ encoder.weight.detach().numpy().T + encoder.bias.detach().numpy()
        h = MinMaxScaler((-1, 1)).fit_transform(h)
        groups = KMeans(CLASSES, n_init=10, random_state=0).fit_predict(h)
        found[m] = purity_by_hand(groups, samples.target.numpy()[mask])
    return found


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("modalities", ["av", "avt"])
def test_training_follows_the_loop_by_hand(modalities, missing):
    """Joint training; before the epochs 2 and 4 of 7 the encoders go back, and never again."""
    tiny = data(modalities, size=48, missing=missing)
    net, by_hand = network(modalities), network(modalities)
    run = trained(
        Relearning(every=2, times=2, strength=2.0), tiny, net, epochs=7, batch_size=len(tiny.train)
    )
    first, shares = parameters(by_hand), {}
    for epoch in range(7):
        if epoch in (2, 4):
            train, holdout = (purities_by_hand(by_hand, x) for x in (tiny.train, tiny.holdout))
            for m in modalities:
                a = shares[epoch, m] = np.tanh(2 * abs(train[m] - holdout[m]))
                assert values(run, "purity", "train")[epoch, m] == pytest.approx(train[m])
                assert values(run, "purity")[epoch, m] == pytest.approx(holdout[m])
                with torch.no_grad():
                    for name, p in by_hand.encoders[m].named_parameters():
                        p.copy_(a * first[f"encoders.{m}.{name}"] + (1 - a) * p)
        by_hand.zero_grad()
        nn.functional.cross_entropy(by_hand(tiny.train.inputs).joint, tiny.train.target).backward()
        with torch.no_grad():
            for p in by_hand.parameters():
                if p.grad is not None:
                    p -= 0.1 * p.grad
    assert values(run, "relearning") == pytest.approx(shares)
    assert max(shares.values()) > 0.1
    for name, value in parameters(net).items():
        torch.testing.assert_close(value, parameters(by_hand)[name], msg=lambda s, n=name: n + s)


class Diary(Relearning):
    """Notes the network before and after the hour, and lets every encoder go back a part."""

    def __init__(self, shares=(0.25, 0.75), **options):
        super().__init__(**options)
        self.shares, self.seen = shares, []

    def purities(self, run):
        shares = torch.tensor(self.shares, dtype=torch.float64)
        return [shares.atanh() / self.strength, torch.zeros_like(shares)]

    def epoch(self, run):
        if run.epoch == 1:  # what it has learnt by then is to stay
            run.model.encoders["v"][1].bias.requires_grad_(False)
        before = {k: v.clone() for k, v in run.model.state_dict().items()}
        momentum = [s["momentum_buffer"].clone() for s in run.optimizer.state.values()]
        super().epoch(run)
        after = {k: v.clone() for k, v in run.model.state_dict().items()}
        kept = [s["momentum_buffer"].clone() for s in run.optimizer.state.values()]
        assert len(kept) == len(momentum) and all(map(torch.equal, kept, momentum))
        self.seen.append((before, after))


def normed(size, width):
    return nn.Sequential(nn.BatchNorm1d(size), nn.Linear(size, width))


def test_encoders_alone_go_back_and_buffers_momentum_heads_and_frozen_parts_stay():
    net = network(encoder=normed)
    first = {k: v.clone() for k, v in net.state_dict().items()}
    balancer = Diary(every=2)
    momentum = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)}
    trained(balancer, data(), net, epochs=3, **momentum)
    for before, after in balancer.seen[:2]:
        assert all(torch.equal(value, after[key]) for key, value in before.items())
    before, after = balancer.seen[2]
    assert not torch.equal(before["encoders.v.1.bias"], first["encoders.v.1.bias"])
    names = {name for name, _ in net.named_parameters()} - {"encoders.v.1.bias"}
    for key, value in after.items():
        share = {"encoders.a": 0.25, "encoders.v": 0.75}.get(key[:10], 0)
        if key not in names:
            share = 0
        expected = share * first[key] + (1 - share) * before[key]
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
        assert (not torch.equal(value, before[key])) == (share > 0), key


@pytest.mark.parametrize("every", [None, 1])
def test_the_encoders_end_elsewhere_than_in_joint_training(every):
    tiny, ends = data(), []
    for balancer in (Relearning(every=every), Joint()):
        ends.append(parameters(trained(balancer, tiny).model))
    for m in "av":
        gap = ends[0][f"encoders.{m}.weight"] - ends[1][f"encoders.{m}.weight"]
        assert gap.norm() > 1e-3


class Dates(Relearning):
    def purities(self, run):
        self.when.append(run.epoch)
        return super().purities(run)

    def start(self, run):
        self.when = []
        super().start(run)


@pytest.mark.parametrize(
    ("options", "epochs", "when"),
    [
        ({"every": 20}, 90, [20, 40, 60]),
        ({}, 90, [20, 40, 60]),
        ({}, 45, [10, 20, 30]),
        ({}, 10, [2, 4, 6]),
        ({}, 8, [2, 4, 6]),
        ({}, 2, [1]),
        ({}, 1, []),
        ({"every": 2}, 4, [2]),
        ({"every": 3, "times": 1}, 12, [3]),
        ({"every": 1, "times": 5}, 4, [1, 2, 3]),
    ],
)
def test_when_it_diagnoses(options, epochs, when):
    tiny, balancer = data(), Dates(**options)
    for _ in range(2):  # a second training starts afresh
        trained(balancer, tiny, epochs=epochs, batch_size=24, optimizer=rate)
        assert balancer.when == when


@pytest.mark.parametrize(("every", "told"), [(3, 1), (2, 1), (1, 0), (None, 0)])
def test_a_run_without_a_diagnosis_is_said_to_be_joint_training(every, told):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run = trained(Relearning(every=every), data())
    said = [str(w.message) for w in seen if "it is joint training" in str(w.message)]
    assert len(said) == told and bool(values(run, "relearning")) == (not told)
    if told:
        assert f"every {every} epochs, and this run has 2" in said[0]


def test_driven_by_hand_it_is_joint_training_and_that_is_said():
    net, same, samples = network(), network(), batch()
    with pytest.warns(UserWarning, match=r"loop it is joint training\. Call run = mmlab") as seen:
        next(Relearning().step(Step(net, samples)))
    assert seen[0].filename == __file__
    next(Joint().step(Step(same, samples)))
    for p, q in zip(net.parameters(), same.parameters(), strict=True):
        assert p.grad is q.grad is None or torch.equal(p.grad, q.grad)


def test_a_second_training_goes_back_to_its_own_start():
    balancer, tiny = Relearning(every=1), data()
    first = trained(balancer, tiny)
    trained(balancer, tiny, network(seed=4))
    assert trained(balancer, tiny).rows == first.rows


def test_the_initial_weights_are_a_copy():
    balancer = Relearning(every=1)
    run = trained(balancer, data())
    start = parameters(network())
    for m in "av":
        for name, kept in zip(("weight", "bias"), balancer.initial[m], strict=True):
            assert torch.equal(kept, start[f"encoders.{m}.{name}"])
            assert not torch.equal(kept, parameters(run.model)[f"encoders.{m}.{name}"])


# --- what it looks at -----------------------------------------------------------------------------


class Forbidden:
    """A test split that may not be looked at."""

    def __getattr__(self, name):
        raise AssertionError(f"the test split was read: .{name}")

    def __len__(self):
        raise AssertionError("the test split was read: len()")


def test_train_and_holdout_have_a_say_and_the_test_split_has_none():
    runs = {}
    for name in (None, "train", "holdout", "test"):
        tiny, other = data(), data(seed=5)
        if name:
            setattr(tiny, name, getattr(other, name))
        runs[name] = trained(Relearning(every=1), tiny)
    sealed = data()
    sealed.test = Forbidden()
    runs["sealed"] = trained(Relearning(every=1), sealed)
    for name in ("test", "sealed"):
        assert runs[name].rows == runs[None].rows
        mine, theirs = parameters(runs[name].model), parameters(runs[None].model)
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    shares = {name: values(run, "relearning") for name, run in runs.items()}
    assert shares["holdout"] != shares[None] and shares["train"] != shares[None]
    assert not torch.equal(
        runs["holdout"].model.encoders["a"].weight, runs[None].model.encoders["a"].weight
    )


def test_each_of_many_seeds_goes_back_as_it_would_alone():
    """With data of its own, in which other samples lack other modalities."""
    sets = [data(seed=seed, size=48, missing=seed == 3) for seed in (2, 3)]
    for each in sets:
        for name, part in each.splits.items():
            setattr(each, name, part._each(lambda x: x.float() if x.is_floating_point() else x))
    options = {"epochs": 3, "batch_size": 8, "device": "cpu", "lr": 0.1}
    make, build = (lambda: Relearning(every=1)), {"width": 6}
    runs = fit_seeds(sets, make, seeds=[0, 1], at_once=True, build=build, **options)
    for r, run in enumerate(runs):
        (one,) = fit_seeds(sets[r], make, seeds=[r], at_once=False, build=build, **options)
        assert run.together == 2 and len(values(run, "relearning")) == 4
        assert values(run, "relearning") == pytest.approx(values(one, "relearning"), abs=1e-6)
        for mine, theirs in zip(run.model.parameters(), one.model.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    first, second = (values(run, "relearning") for run in runs)
    assert first != second


def test_a_stream_is_diagnosed_as_the_same_samples_in_memory():
    tiny, found = data(), []
    rows = {
        name: Stream(
            [
                ({m: x[i] for m, x in part.inputs.items()}, int(part.target[i]))
                for i in range(len(part))
            ]
        )
        for name, part in tiny.splits.items()
    }
    for each in (tiny, MultimodalData(**rows, n_classes=CLASSES)):
        found.append(values(trained(Relearning(every=1), each), "relearning"))
    assert found[0] == found[1] and len(found[0]) == 2


def test_it_looks_in_evaluation_mode_at_the_start_and_at_each_diagnosis():
    net = network(encoder=Watched)
    trained(Relearning(every=1), data(), net, epochs=2)
    looks, steps = [(False, False)] * 2, [(True, True)] * 3
    assert net.encoders["a"].modes == [*looks, *steps, *looks, *steps]


def test_it_trains_by_the_functions_that_are_taught(monkeypatch):
    seen = []
    names = ("clusters", "purity", "feature_purity", "relearning_strength", "number_of_classes")
    for name in names:
        plain = getattr(relearning, name)

        def noted(*args, plain=plain, name=name):
            seen.append(name)
            return plain(*args)

        monkeypatch.setattr(relearning, name, noted)
    trained(Relearning(every=1), data())
    assert set(seen) == set(names)


# --- what it refuses ------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "holdout"])
def test_a_split_with_fewer_samples_than_classes_is_refused_at_the_start(split):
    tiny = data()
    setattr(tiny, split, getattr(tiny, split).head(2))
    message = f"{split} has 2 samples with 'a', which Relearning puts into 3 clusters"
    with pytest.raises(ValueError, match=message):
        trained(Relearning(), tiny)


def test_a_modality_that_holdout_lacks_is_refused_at_the_start():
    tiny = data(missing=True)
    tiny.holdout.present["v"][:] = False
    net = network()
    before = parameters(net)
    with pytest.raises(ValueError, match=r"holdout has 0 samples with 'v'.*give it at least as"):
        trained(Relearning(), tiny, net)
    assert all(torch.equal(value, before[key]) for key, value in parameters(net).items())


def test_encoders_that_share_weights_are_refused():
    both = nn.Linear(3, 4).double()
    fused = network("av").fusion
    net = MultimodalNet({"a": both, "v": both}, fused, nn.Linear(4, 3)).double()
    part = batch(size=24)
    part.inputs = dict.fromkeys("av", part.inputs["a"])
    with pytest.raises(ValueError, match=r"encoders share parameters.*an encoder of its own"):
        trained(Relearning(), MultimodalData(part, part, part, n_classes=CLASSES), net)


def test_real_targets_are_refused_before_anything_is_trained():
    samples = batch(size=24, regression=True)
    tiny = MultimodalData(samples, samples, samples, task="regression")
    with pytest.raises(ValueError, match=r"Relearning needs class labels.*For regression use ATF"):
        trained(Relearning(), tiny, network(outputs=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every is 0; it must be a whole number of at least 1"),
        ({"times": 1.5}, "times is 1.5; it must be a whole number of at least 1"),
        ({"strength": -1}, "strength is -1; allowed is a number ≥ 0"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Relearning(**options)
