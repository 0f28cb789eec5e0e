"""Training batches are changed at random, each by its seed; what is measured is not."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from mmlab import (
    Balancer,
    Batch,
    GradientBlending,
    Joint,
    MultimodalData,
    MultimodalNet,
    Stream,
    Uniform,
    compare,
    evaluation,
    fit,
    fit_seeds,
)
from mmlab.balancers import METHODS
from mmlab.identity import UnknownIdentityError, digest
from mmlab.seeds import derive
from mmlab.training import Checkpoint

CLASSES = 3


def split(size, seed, missing=False):
    draw = torch.Generator().manual_seed(seed)
    target = torch.randint(CLASSES, (size,), generator=draw)
    inputs = {
        m: torch.eye(CLASSES)[target] + torch.randn(size, CLASSES, generator=draw) for m in "ab"
    }
    present = None
    if missing:
        present = {m: torch.arange(size) % 4 != i for i, m in enumerate("ab")}
        inputs = {m: x * present[m][:, None] for m, x in inputs.items()}
    return Batch(inputs, target, present)


def data(seed=0, *, missing=False, **options):
    parts = [split(n, 10 * seed + i, missing) for i, n in enumerate((24, 12, 12))]
    return MultimodalData(*parts, n_classes=CLASSES, **options)


def trained(given, make=Joint, *, seed=0, **options):
    balancer = make()
    net = MultimodalNet.build(given, **{**balancer.network, "width": 8}, seed=seed)
    options = {"epochs": 2, "lr": 0.1, "batch_size": 8, "device": "cpu"} | options
    return fit(net, given, balancer, seed=seed, **options)


def noisy(batch):
    return Batch(
        {m: x + torch.randn_like(x) for m, x in batch.inputs.items()}, batch.target, batch.present
    )


def doubled(x):
    return 2 * x


class Watching(Joint):
    def start(self, run):
        self.seen = []

    def step(self, s):
        self.seen.append(s.batch)
        yield from super().step(s)


def same(one, other):
    return all(map(torch.equal, one.model.parameters(), other.model.parameters()))


def test_each_batch_is_changed_by_a_stream_of_its_own():
    given = data(augment=noisy)
    run = trained(given, Watching)
    assert len(run.balancer.seen) == 6
    for i, batch in enumerate(run.balancer.seen):
        plain = given.train[batch.index]
        torch.manual_seed(derive(0, "augment", *divmod(i, 3)))
        for m, x in batch.inputs.items():
            assert torch.equal(x, plain.inputs[m] + torch.randn_like(x))
        assert torch.equal(batch.target, plain.target)
    assert same(run, trained(given, Watching)) and not same(run, trained(data(), Watching))


def test_a_dict_changes_the_values_of_the_modalities_it_names():
    whole = data(augment=lambda b: Batch({**b.inputs, "b": 2 * b.inputs["b"]}, b.target, b.present))
    assert same(trained(data(augment={"b": doubled})), trained(whole))
    assert not same(trained(whole), trained(data()))


@pytest.mark.filterwarnings("ignore:Gradient-Blending gives")
@pytest.mark.parametrize("name", [*METHODS, "G-Blend, often"])
def test_every_method_trains_on_the_changed_samples_alone(name):
    """A constant change is one of the training data; holdout and test stay as they are."""
    often = {"G-Blend, often": lambda: GradientBlending(warmup=1, super_epoch=1)}
    make = often[name] if name in often else METHODS[name].make
    plain = data(missing=True)
    changed = trained(data(missing=True, augment={"a": doubled}), make, observers=[sees])
    train = Batch(
        {**plain.train.inputs, "a": 2 * plain.train.inputs["a"]},
        plain.train.target,
        plain.train.present,
    )
    known = trained(MultimodalData(train, plain.holdout, plain.test, n_classes=CLASSES), make)
    kind = type(changed.balancer)
    if (kind.epoch, kind.start) != (Balancer.epoch, Balancer.start):
        # it may measure whole splits, whose samples are as they are
        assert not same(changed, trained(plain, make))
    else:
        assert same(changed, known)


def sees(run):
    assert run.split("train").inputs["a"].equal(data(missing=True).train.inputs["a"])


def test_what_is_measured_is_not_changed():
    def never(batch):
        raise AssertionError

    given = data(augment=never)
    run = trained(given, epochs=0, observers=[evaluation.Curves(), evaluation.GradientWatch()])
    plain = trained(data(), epochs=0, observers=[evaluation.Curves(), evaluation.GradientWatch()])
    assert run.rows == plain.rows
    for one in (run, plain):
        one.found = [*one.losses("train").values(), *one.features("train").values()]
        one.found += [one.predict(one.data.train), one.predict(one.data.test)]
    assert all(map(torch.equal, run.found, plain.found))


def test_a_change_in_place_leaves_the_data_as_they_are():
    def spoil(batch):
        for x in batch.inputs.values():
            x.zero_()
        return batch

    given = data(augment=spoil)
    trained(given)
    fit_seeds(given, Joint, seeds=[0, 1], epochs=1, batch_size=8, device="cpu", at_once=True)
    for m, x in data().train.inputs.items():
        assert given.train.inputs[m].equal(x)


def test_numpy_and_random_are_seeded_and_put_back():
    drawn = []

    def draws(batch):
        drawn.append((float(np.random.rand()), random.random(), float(torch.rand(()))))
        return batch

    def state():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = state()
    for _ in range(2):
        trained(data(augment=draws))
    assert state() == before
    assert drawn[:6] == drawn[6:] and len({*drawn}) == 6 and len({x for x, *_ in drawn}) == 6


@pytest.mark.parametrize("shared", [True, False])
def test_a_stack_ends_where_each_network_alone_does(shared):
    sets = [data(0, augment=noisy)] * 3 if shared else [data(r, augment=noisy) for r in range(3)]
    if not shared:
        sets[2] = data(2)  # without
    options = {"epochs": 2, "lr": 0.1, "batch_size": 10, "device": "cpu"}
    runs = fit_seeds(sets, Watching, seeds=range(3), build={"width": 8}, **options, at_once=True)
    for r, run in enumerate(runs):
        one = trained(sets[r], Watching, seed=r, **options)
        assert run.together == 3
        torch.testing.assert_close([*run.model.parameters()], [*one.model.parameters()])


def test_accumulated_batches_are_one_batch():
    one, other = (trained(data(augment=noisy), batch_size=n, accumulate=8 // n) for n in (8, 2))
    torch.testing.assert_close([*one.model.parameters()], [*other.model.parameters()])


def test_a_stream_is_changed_as_data_in_memory():
    given = data(augment=noisy)
    streams = []
    for part in given.splits.values():
        rows = zip(part.inputs["a"], part.inputs["b"], part.target, strict=True)
        streams.append(Stream([({"a": a, "b": b}, y) for a, b, y in rows]))
    read = MultimodalData(*streams, n_classes=CLASSES, augment=noisy)
    assert same(trained(given), trained(read))


def test_a_checkpoint_goes_on_bit_for_bit_and_knows_the_change(tmp_path):
    class Cut:
        def __call__(self, run):
            if run.epoch == 3 and not (tmp_path / "cut").exists():
                (tmp_path / "cut").touch()
                raise KeyboardInterrupt

    def train(given, *observers):
        return trained(given, Uniform, epochs=4, observers=observers)

    given, path = data(augment=noisy), tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        train(given, Cut(), Checkpoint(path))
    assert same(train(given, Cut(), Checkpoint(path)), train(given))
    with pytest.raises(ValueError, match=r"of another training: data\.augment"):
        train(data(augment={"a": doubled}), Cut(), Checkpoint(path))


def test_the_code_of_the_change_is_part_of_the_identity(tmp_path):
    two, three = (lambda x: 2 * x), (lambda x: 3 * x)
    again = lambda x: 2 * x  # noqa: E731
    names = [digest(data(augment={"a": f}), "data") for f in (two, three, again)]
    assert names[0] == names[2] != names[1] != digest(data(), "data")
    with open(tmp_path / "file", "w") as file:
        closed = data(augment=lambda batch: file and batch)
        with pytest.raises(UnknownIdentityError):
            digest(closed, "data")
    options = {"seeds": [0], "epochs": 1, "build": {"width": 8}, "cache": tmp_path / "cache"}
    kept = []
    for f in (two, three, again):
        compare({"joint": Joint}, data(augment={"a": f}), **options)
        kept.append(len([one for one in (tmp_path / "cache").rglob("*") if one.is_file()]))
    assert kept == [1, 2, 2]


@pytest.mark.parametrize(
    ("augment", "error", "message"),
    [
        (3, TypeError, "augment is 3; give a function Batch -> Batch, or a dict"),
        (nn.Identity, TypeError, "augment is <class .*Identity'>; give a function"),
        ({"c": doubled}, ValueError, "a name in augment .*'c'"),
        ({"a": 2}, TypeError, r"augment\['a'\] is 2; give a function of values"),
    ],
)
def test_what_cannot_change_a_batch_is_refused(augment, error, message):
    with pytest.raises(error, match=message):
        data(augment=augment)


@pytest.mark.parametrize(
    ("augment", "error", "message"),
    [
        (lambda batch: batch.inputs, TypeError, "augment gives a dict; it must give a Batch"),
        ({"a": torch.Tensor.double}, ValueError, r"the form of 'a': .*float32.*becomes.*float64"),
        (lambda batch: batch[:2], ValueError, "changes the form of 'a', 'b', the target"),
        ({"a": lambda x: x[:, None]}, ValueError, "number of axes"),
        (lambda b: Batch({"a": b.inputs["a"]}, b.target), ValueError, "'b': .* becomes None"),
    ],
)
def test_a_change_of_the_form_is_refused(augment, error, message):
    with pytest.raises(error, match=message):
        trained(data(augment=augment))


def test_a_method_may_see_modalities_dropped_at_random():
    def drop(batch):
        there = torch.rand(len(batch)) < 0.5
        inputs = {**batch.inputs, "a": batch.inputs["a"] * there[:, None]}
        return Batch(inputs, batch.target, {"a": there, "b": torch.ones_like(there)})

    run = trained(data(augment=drop), Watching)
    masks = [batch.present["a"] for batch in run.balancer.seen]
    assert 0 < torch.cat(masks).float().mean() < 1


def test_a_branch_draws_its_own():
    drawn = []

    def draws(batch):
        drawn.append(torch.rand(()).item())
        return batch

    class Branching(Joint):
        def epoch(self, run):
            run.branch(Joint(), 1)

    trained(data(augment=draws))
    alone = [*drawn]
    drawn.clear()
    trained(data(augment=draws), Branching)
    assert len(drawn) == len({*drawn}) == 12 and {*alone} < {*drawn}
