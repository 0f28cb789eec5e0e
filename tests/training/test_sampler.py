"""The sampler of the data draws the samples of each training epoch."""

import pytest
import torch
from torch.optim.lr_scheduler import LinearLR
from torch.utils.data import RandomSampler, WeightedRandomSampler

from mmlab import (
    Balancer,
    Batch,
    Joint,
    MultimodalData,
    MultimodalNet,
    Stream,
    Uniform,
    fit,
    fit_seeds,
)
from mmlab.balancers import METHODS
from mmlab.identity import digest
from mmlab.models import UnstackableError
from mmlab.seeds import generator
from mmlab.training import Checkpoint

SIZE = 30


def data(sampler=None, seed=0, size=SIZE):
    draw = torch.Generator().manual_seed(seed)

    def split(n):
        target = (torch.arange(n) % 10 == 0).long()  # one in ten is of class 1
        inputs = {m: target[:, None] + torch.randn(n, 3, generator=draw) for m in "ab"}
        return Batch(inputs, target)

    return MultimodalData(split(size), split(12), split(12), n_classes=2, sampler=sampler)


def balanced(count=SIZE, **options):
    target = data().train.target
    return WeightedRandomSampler(1 / target.bincount()[target], count, **options)


class Watching(Joint):
    def start(self, run):
        self.seen = []

    def step(self, s):
        self.seen.append(s.batch.index)
        yield from super().step(s)


def trained(given, make=Watching, *, seed=0, **options):
    balancer = make()
    net = MultimodalNet.build(given, **{**balancer.network, "width": 8}, seed=seed)
    options = {"epochs": 2, "lr": 0.1, "batch_size": 8, "device": "cpu"} | options
    return fit(net, given, balancer, seed=seed, **options)


@pytest.mark.parametrize("replacement", [True, False])
def test_it_draws_as_torchs_own_does(replacement):
    given = balanced(20, replacement=replacement)
    run = trained(data(given), seed=3)
    for epoch in range(2):
        own = balanced(20, replacement=replacement)
        own.generator = generator(3, "order", epoch)
        assert torch.cat(run.balancer.seen[3 * epoch : 3 * epoch + 3]).tolist() == [*own]
    assert (len({*torch.cat(run.balancer.seen[:3]).tolist()}) == 20) is not replacement


def test_rare_classes_come_as_often_as_others():
    run = trained(data(balanced(3000)), epochs=1)
    share = data().train.target[torch.cat(run.balancer.seen)].float().mean()
    assert 0.45 < share < 0.55  # one in ten of the data; ± 5 standard errors


@pytest.mark.filterwarnings("ignore:Gradient-Blending gives")
@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_it(name):
    if type(METHODS[name].make()).order is not Balancer.order:
        with pytest.raises(ValueError, match="so does the sampler of the data; leave one"):
            trained(data(balanced()), METHODS[name].make)
        return
    given, plain = (trained(data(one), METHODS[name].make) for one in (balanced(), None))
    pairs = [*zip(given.model.parameters(), plain.model.parameters(), strict=True)]
    assert not all(torch.equal(*pair) for pair in pairs)
    assert all(p.isfinite().all() for p, _ in pairs)


def test_steps_are_those_of_its_epoch():
    run = trained(
        data(balanced(70)),
        epochs=1,
        schedule=lambda optimizer, steps: LinearLR(optimizer, 1, 0, steps),
    )
    assert run.steps == len(run.balancer.seen) == 9 and len(run.balancer.seen[-1]) == 6
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
    assert len(trained(data(balanced(70)), epochs=1, drop_last=True).balancer.seen) == 8
    with pytest.raises(ValueError, match="nothing to train on: 5 samples make no batch of 8"):
        trained(data(balanced(5)), drop_last=True)


@pytest.mark.parametrize("shared", [True, False])
def test_a_stack_ends_where_each_network_alone_does(shared):
    sets = [data(balanced(40))] * 2 if shared else [data(balanced(30)), data(seed=1)]
    options = {"epochs": 2, "lr": 0.1, "batch_size": 8, "device": "cpu"}
    runs = fit_seeds(sets, Uniform, seeds=[0, 1], build={"width": 8}, **options, at_once=True)
    for r, run in enumerate(runs):
        one = trained(sets[r], Uniform, seed=r, **options)
        assert run.together == 2
        torch.testing.assert_close([*run.model.parameters()], [*one.model.parameters()])


def test_epochs_of_unlike_length_make_no_stack():
    sets = [data(balanced(40)), data(balanced(20))]
    with pytest.raises(UnstackableError, match="epochs and splits of"):
        fit_seeds(sets, Joint, seeds=[0, 1], epochs=1, at_once=True)


def test_a_stream_is_drawn_from_as_data_in_memory():
    given, streams = data(balanced()), []
    for part in given.splits.values():
        rows = zip(part.inputs["a"], part.inputs["b"], part.target, strict=True)
        streams.append(Stream([({"a": a, "b": b}, y) for a, b, y in rows]))
    read = MultimodalData(*streams, n_classes=2, sampler=balanced())
    one, other = trained(given), trained(read)
    assert all(map(torch.equal, one.model.parameters(), other.model.parameters()))


def test_a_checkpoint_knows_it(tmp_path):
    path = tmp_path / "run.pt"
    first = trained(data(balanced()), Joint, observers=[Checkpoint(path)])
    again = trained(data(balanced()), Joint, observers=[Checkpoint(path)])
    assert all(map(torch.equal, first.model.parameters(), again.model.parameters()))
    with pytest.raises(ValueError, match=r"of another training: data\.sampler"):
        trained(data(balanced(31)), Joint, observers=[Checkpoint(path)])
    assert digest(data(balanced()), "") == digest(data(balanced()), "") != digest(data(), "")


def test_a_method_that_chooses_its_samples_is_refused():
    class Choosing(Joint):
        def order(self, run):
            return [0, 1]

    with pytest.raises(ValueError, match=r"Choosing chooses the samples .* so does the sampler"):
        trained(data(balanced()), Choosing)
    assert trained(data(), Choosing).epoch == 2


@pytest.mark.parametrize(
    ("sampler", "error", "message"),
    [
        (RandomSampler(range(SIZE)), TypeError, "sampler is a RandomSampler; .*Balancer.order"),
        ([1.0] * SIZE, TypeError, "sampler is a list; give a torch.utils.data.Weighted"),
        (balanced(generator=torch.Generator()), ValueError, "has a generator.*leave generator out"),
        (WeightedRandomSampler([1.0, 2.0], 9), ValueError, r"shape \(2,\); give one .* the 30"),
        (WeightedRandomSampler([0.0] * SIZE, 9), ValueError, "one of them above 0"),
        (WeightedRandomSampler([-1.0] + [1.0] * 29, 9), ValueError, "finite and ≥ 0"),
        (WeightedRandomSampler([float("nan")] * SIZE, 9), ValueError, "finite and ≥ 0"),
        (balanced(31, replacement=False), ValueError, "draws 31 samples without .* 30 have"),
    ],
)
def test_what_cannot_draw_is_refused(sampler, error, message):
    with pytest.raises(error, match=message):
        data(sampler)
