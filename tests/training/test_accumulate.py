"""accumulate=k is the step of k batches at once, in the memory that the encoders need for one."""

import functools

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from trained import DATA, same, weights

from mmlab import compare
from mmlab.balancers import METHODS, Balancer, GradientBlending, Joint, MMPareto, Uniform
from mmlab.datasets import MultimodalData, drop
from mmlab.datasets.synthetic import synthetic
from mmlab.models import LazyLogits, MultimodalNet, Output
from mmlab.models.pieces import in_pieces
from mmlab.seeds import drawing
from mmlab.training import Step, fit, fit_seeds

MAKERS = {name: method.make for name, method in METHODS.items()} | {
    "G-Blend": functools.partial(GradientBlending, warmup=1, super_epoch=1),
    "MMPareto by tensor": functools.partial(MMPareto, rescale="tensor"),
}


def convolution():
    return nn.Sequential(
        nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Flatten(1)
    )


def data_of(dtype=torch.float64, missing=True):
    """50 training samples: the last step, and the last piece, are short ones."""
    data = synthetic(n=(50, 20, 20), dims=5)
    splits = {}
    for name, batch in data.splits.items():
        batch = drop(batch, {"a": 0.3}, 0) if missing else batch
        splits[name] = batch._each(lambda x: x.to(dtype) if x.is_floating_point() else x)
    return MultimodalData(**splits, n_classes=data.n_classes)


ENCODERS = {"a": convolution, "b": functools.partial(nn.Linear, 5, 24)}


def run_of(make, data, seed=0, dtype=torch.float64, **options):
    balancer = make()
    parts = {m: lambda make=make: make().to(dtype) for m, make in ENCODERS.items()}
    net = MultimodalNet.build(data, encoders=parts, width=24, **balancer.network, seed=seed)
    settings = {"epochs": 2, "lr": 0.1, "device": "cpu"} | options
    return fit(net.to(dtype), data, balancer, seed=seed, **settings)


def close(one, other, atol=1e-10):
    for mine, theirs in zip(weights(one), weights(other), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=atol)


@pytest.mark.parametrize("name", MAKERS)
def test_it_is_the_training_in_larger_batches(name):
    data = data_of()
    few = run_of(MAKERS[name], data, batch_size=6, accumulate=4)
    many = run_of(MAKERS[name], data, batch_size=24)
    close(few.model, many.model)
    mine, theirs = few.history, many.history
    assert mine.metric.tolist() == theirs.metric.tolist()
    assert mine.value.to_numpy() == pytest.approx(theirs.value.to_numpy(), abs=1e-5, nan_ok=True)
    start = run_of(MAKERS[name], data, epochs=0)
    assert not same(weights(few.model), weights(start.model))


@pytest.mark.parametrize("name", ["G-Blend", "BDO", "OGM-GE", "MMPareto", "MLA"])
def test_a_stack_ends_where_each_network_alone_does(name):
    data, seeds = data_of(torch.float32, missing=name != "MLA"), [3, 5]
    options = {"batch_size": 6, "accumulate": 4, "lr": 0.05, "epochs": 2, "device": "cpu"}
    runs = fit_seeds(
        data,
        MAKERS[name],
        seeds=seeds,
        build={"encoders": ENCODERS, "width": 24},
        at_once=True,
        **options,
    )
    for run, seed in zip(runs, seeds, strict=True):
        one = run_of(MAKERS[name], data, seed, torch.float32, **options)
        close(run.model, one.model, 1e-5)


class Noticing(nn.Module):
    """A linear encoder that takes notes: how many samples it sees, how many of its values live."""

    def __init__(self, alive):
        super().__init__()
        self.linear, self.alive, self.seen = nn.Linear(5, 8), alive, []

    def forward(self, x):
        self.seen.append(len(x))
        hidden = Kept.apply(self.linear(x), self.alive)
        return hidden * 2


class Kept(torch.autograd.Function):
    """tanh, which keeps its values for the gradient."""

    @staticmethod
    def forward(ctx, x, alive):
        result = x.tanh()
        ctx.save_for_backward(result)
        alive.refs.append(StorageWeakRef(result.untyped_storage()))
        ctx.alive = alive
        return result

    @staticmethod
    def backward(ctx, grad):
        (result,) = ctx.saved_tensors
        ctx.alive.most = max(ctx.alive.most, ctx.alive.now())
        return grad * (1 - result**2), None


class Alive:
    def __init__(self):
        self.refs, self.most = [], 0

    def now(self):
        return sum(not ref.expired() for ref in self.refs)

    def __deepcopy__(self, memo):
        return self


@pytest.mark.parametrize("method", [Joint, MMPareto])
def test_the_values_that_an_encoder_keeps_are_those_of_one_piece(method):
    alive = Alive()
    net = MultimodalNet.build(DATA, encoders={m: Noticing(alive) for m in "ab"}, width=8)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for piece, most in ((None, 2), (16, 1)):
        alive.refs, alive.most = [], 0
        s = Step(net, DATA.train[:64], optimizer, piece=piece)
        loss = s.losses["joint"]
        assert alive.now() == (2 if piece is None else 0)
        next(method().step(s))
        assert loss.requires_grad and alive.most == most
        del s, loss
    first = net.encoders["a"].seen
    assert first[0] == 64 and set(first[1:]) == {16}


def test_the_encoders_see_batch_size_samples_at_a_time_and_the_fusion_all():
    net = MultimodalNet.build(DATA, encoders={m: Noticing(Alive()) for m in "ab"}, width=8)
    fused = []
    net.fusion.register_forward_hook(lambda module, x, z: fused.append(len(z)))
    fit(net, DATA, epochs=1, batch_size=16, accumulate=3, device="cpu")
    assert fused == [48, 48, 4]
    # twice: in the forward pass, and for the gradient; a single piece is kept
    assert net.encoders["a"].seen == [16] * 12 + [4]


class Twice(Balancer):
    """Two gradients of the same pass, and the losses of the same batch after the update."""

    def step(self, s):
        s.backward(s.losses["joint"])
        s.backward(s.losses["a"])
        self.before = s.losses["joint"].item()
        self.same = Step.losses_again(s)["joint"].item()
        yield


def statistics(*layers):
    encoders = {m: nn.Sequential(nn.Linear(5, 8), *layers, nn.Linear(8, 8)) for m in "ab"}
    return MultimodalNet.build(DATA, encoders=encoders, width=8).double()


@pytest.mark.parametrize(
    "layers",
    [
        [nn.BatchNorm1d(8)],
        [nn.Dropout(0.5)],
        [nn.Dropout(0.5), nn.BatchNorm1d(8, momentum=None), nn.Dropout(0.3)],
        [nn.utils.spectral_norm(nn.Linear(8, 8))],  # its buffers move, and its output is of them
    ],
)
def test_what_is_computed_again_is_what_was_computed(layers):
    batch = DATA.train[:50]._each(lambda x: x.double() if x.is_floating_point() else x)
    net, twin = statistics(*layers), statistics(*layers)
    twin.load_state_dict(net.state_dict())
    balancer = Twice()
    with drawing(0, "again"):
        next(balancer.step(Step(net, batch, piece=16)))
        drawn = torch.rand(1)
    if not isinstance(layers[0], nn.Linear):  # its output moves with its buffers
        assert balancer.same == pytest.approx(balancer.before, abs=1e-12)

    with drawing(0, "again"):
        features = {}
        for m, x in batch.inputs.items():
            parts = [twin.encoders[m](part) for part in x.split(16)]
            features[m] = torch.cat(parts)
        for_one = nn.functional.cross_entropy(twin.heads["a"](features["a"]), batch.target)
        joint = nn.functional.cross_entropy(twin.fusion(features), batch.target)
        (joint + for_one).backward()
        assert torch.equal(drawn, torch.rand(1))  # nothing else was drawn
    for mine, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None)
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-12)
    state = twin.state_dict()
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=1e-12, msg=name)


def test_features_of_parameters_that_have_moved_have_no_gradient():
    class Late(Balancer):
        def step(self, s):
            features = s.out.features["a"]
            s.backward(s.losses["joint"])
            yield
            features.sum().backward()
            yield

    with pytest.raises(RuntimeError, match="an encoder was updated after it gave its features"):
        run_of(Late, data_of(missing=False), batch_size=6, accumulate=4)


def test_nested_inputs_come_in_pieces():
    def encode(inputs):
        seen.append({name: len(x) for name, x in inputs.items()})
        return linear(inputs["x"]) * inputs["mask"][:, None]

    linear, seen = nn.Linear(3, 2), []
    inputs = {"x": torch.randn(7, 3), "mask": torch.arange(7) % 2}
    out = in_pieces(encode, linear, inputs, 3)
    torch.testing.assert_close(out, linear(inputs["x"]) * inputs["mask"][:, None])
    assert seen == [{"x": n, "mask": n} for n in (3, 3, 1)]


def test_the_schedule_and_drop_last_count_steps():
    steps = []

    def schedule(optimizer, count):
        steps.append(count)
        return torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=count)

    data = data_of()
    run = run_of(
        Uniform, data, batch_size=8, accumulate=2, drop_last=True, schedule=schedule, clip=0.1
    )
    assert steps == [2 * 3]
    close(
        run.model,
        run_of(Uniform, data, batch_size=16, drop_last=True, schedule=schedule, clip=0.1).model,
    )


def test_in_bfloat16():
    options = {"dtype": torch.float32, "precision": "bfloat16", "batch_size": 6}
    data = data_of(torch.float32)
    few = run_of(METHODS["OGM-GE"].make, data, accumulate=4, **options)
    many = run_of(METHODS["OGM-GE"].make, data, **options | {"batch_size": 24})
    close(few.model, many.model, 2e-2)


def test_bfloat16_holds_where_encoders_compute_anew():
    seen = []
    data = data_of(torch.float32)
    balancer = Joint()
    net = MultimodalNet.build(data, **balancer.network)
    for encoder in net.encoders.values():
        linear = next(part for part in encoder.modules() if isinstance(part, nn.Linear))
        linear.register_forward_hook(lambda part, given, out: seen.append(out.dtype))
    options = {"epochs": 1, "batch_size": 6, "device": "cpu", "precision": "bfloat16"}
    fit(net, data, balancer, accumulate=4, drop_last=True, **options)
    pieces = len(net.encoders) * 4 * (len(data.train) // 24)
    assert seen == 2 * pieces * [torch.bfloat16]  # forward, and again for the gradient


def test_compiled_encoders_come_in_pieces_too():
    options = {"dtype": torch.float32, "epochs": 1}
    data = data_of(torch.float32)
    few = run_of(Uniform, data, batch_size=6, accumulate=4, compile="eager", **options)
    close(few.model, run_of(Uniform, data, batch_size=24, **options).model, 1e-6)


def test_compare_hands_it_on():
    fused = []

    class Counting(Joint):
        def step(self, s):
            fused.append(s.batch.target.shape)
            return super().step(s)

    compare({"joint": Counting}, DATA, seeds=[0], epochs=1, batch_size=16, accumulate=3)
    assert [shape[-1] for shape in fused] == [48, 48, 4]


class OwnForward(MultimodalNet):
    def forward(self, inputs):
        features = {m: self.encode(m, x) for m, x in inputs.items()}
        return Output(features, unimodal=LazyLogits(self, features), fusion=self.fusion)


def test_what_cannot_be_in_pieces_is_refused():
    net = OwnForward.build(DATA)
    with pytest.raises(ValueError, match=r"OwnForward has a forward pass of its own.*checkpoint"):
        fit(net, DATA, epochs=1, accumulate=2)
    fit(net, DATA, epochs=1, device="cpu")
    for wrong in (0, 1.5):
        with pytest.raises(ValueError, match="accumulate"):
            fit(MultimodalNet.build(DATA), DATA, epochs=1, accumulate=wrong)
    with pytest.raises(ValueError, match="100 samples make no batch of 128"):
        fit(MultimodalNet.build(DATA), DATA, epochs=1, accumulate=2, drop_last=True)


def test_a_piece_of_one_sample_under_batchnorm_is_named():
    data = synthetic(n=(97, 20, 20), dims=5)
    encoders = {m: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8)) for m in "ab"}
    net = MultimodalNet.build(data, encoders=encoders, width=8)
    with pytest.raises(ValueError, match=r"a batch holds 1 \(97 samples in batches of 16\)"):
        fit(net, data, epochs=1, batch_size=16, accumulate=10, device="cpu")
    fit(net, data, epochs=1, batch_size=16, accumulate=3, drop_last=True, device="cpu")
