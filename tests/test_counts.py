"""What a step costs, counted: kernels, waits for the host, engine runs, bytes. No clock is read.

Kernels are calls that reach torch's dispatcher in a warm step with its optimiser, without those
that only look at memory differently. Ratios are taken under torch's SGD, which makes some for each
parameter; ours is one kernel. Memory is what torch's allocator holds, as its profiler sees.
"""

import copy
from collections import Counter
from itertools import accumulate

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from mmlab import (
    ATF,
    MLA,
    OGM,
    Batch,
    GradientBlending,
    Joint,
    MMPareto,
    MultimodalNet,
    Step,
    Uniform,
    load,
)
from mmlab.balancers import METHODS
from mmlab.datasets.base import MultimodalData, stack_batches
from mmlab.models import NetworkStack
from mmlab.training.optimizers import SGD

DATA = load("av-digits", seed=0)
WAITS = {"_local_scalar_dense", "is_nonzero", "nonzero", "equal"}


class Kernels(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        region = function.overloadpacket.__name__.startswith("_record_function")  # the profiler's
        if not function.is_view and not region:
            self.names[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


def kernels(make, size=64, replicas=None, network=None, kind=SGD) -> Counter[str]:
    """Of one step, after two that warm up."""
    balancer = make()
    net = MultimodalNet.build(DATA, **balancer.network, **(network or {}))
    batch: Batch = DATA.train[:size]
    if replicas:
        net, batch = NetworkStack([net] * replicas), stack_batches([batch] * replicas)
    optimizer = kind(net.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        for _ in balancer.step(Step(net, batch, optimizer)):
            optimizer.step()
            optimizer.zero_grad()

    for _ in range(2):
        step()
    with Kernels() as counted:
        step()
    return counted.names


def more_than_joint(make) -> int:
    return kernels(make).total() - kernels(Joint).total()


@pytest.mark.parametrize(
    ("make", "most"),
    [
        (lambda: OGM(enhance=False), 20),
        (lambda: ATF("ace"), 30),
        (GradientBlending, 30),
        (Uniform, 30),
        (lambda: ATF("bdo"), 50),
        (MLA, 50),
    ],
)
def test_a_step_makes_few_kernels_more_than_joint_training(make, most):
    assert 0 < more_than_joint(make) <= most


RULES = [name for name, method in METHODS.items() if method.kind == "Blend"]


@pytest.mark.parametrize("network", [{}, {"encoders": "cnn"}])
@pytest.mark.parametrize("method", ["MMPareto", *RULES])
def test_a_rule_for_two_gradients_makes_at_most_three_times_the_kernels(method, network):
    options = {"network": network, "kind": torch.optim.SGD}
    joint, ruled = kernels(Joint, **options), kernels(METHODS[method].make, **options)
    assert joint.total() < ruled.total() <= (3.1 if method == "CAGrad" else 3) * joint.total()


@pytest.mark.parametrize("method", METHODS)
def test_no_step_waits_for_the_host(method):
    for network in ({}, {"encoders": "cnn"}):
        assert not WAITS & kernels(METHODS[method].make, network=network).keys()


@pytest.mark.parametrize("method", METHODS)
def test_the_count_does_not_hang_on_the_batch(method):
    make = METHODS[method].make
    assert kernels(make, size=32) == kernels(make, size=48)


@pytest.mark.parametrize("method", METHODS)
def test_the_count_does_not_hang_on_the_number_of_replicas(method):
    make = METHODS[method].make
    assert kernels(make, replicas=2) == kernels(make, replicas=5)


@pytest.mark.parametrize("method", METHODS)
def test_a_stack_makes_about_the_kernels_of_one(method):
    make = METHODS[method].make
    stack, one = (kernels(make, replicas=r, kind=torch.optim.SGD).total() for r in (5, None))
    assert stack <= 1.3 * one


@pytest.mark.parametrize(
    ("method", "encoders", "runs"),
    [("MMPareto", "mlp", 2), ("MMPareto", "cnn", 3), ("MLA", "mlp", 2), ("OGM", "mlp", 1)],
)
def test_the_engine_runs_no_more_than_needed(method, encoders, runs, monkeypatch):
    engine = torch.autograd.Variable._execution_engine
    seen = []

    class Counting:
        def run_backward(self, *args, **kwargs):
            seen.append(1)
            return engine.run_backward(*args, **kwargs)

    monkeypatch.setattr(torch.autograd.Variable, "_execution_engine", Counting())
    balancer = METHODS[method].make()
    net = MultimodalNet.build(DATA, encoders=encoders, **balancer.network)
    list(balancer.step(Step(net, DATA.train[:8], SGD(net.parameters(), lr=0.1))))
    assert len(seen) == runs


def most_held(make, between: nn.Module) -> tuple[float, int]:
    """The most bytes that one step holds at once, and those of one encoder's gradient.

    Two samples, and encoders of many parameters: what is held are their gradients.
    """
    batch = Batch({m: torch.randn(2, 256) for m in "ab"}, torch.tensor([0, 1]))
    data = MultimodalData(batch, batch, batch, n_classes=2)
    encoder = nn.Sequential(nn.Linear(256, 512), between, nn.Linear(512, 512))
    balancer = make()
    encoders = {m: copy.deepcopy(encoder) for m in "ab"}  # one for both would be shared
    network = {"encoders": encoders, "width": 512, **balancer.network}
    net = MultimodalNet.build(data, **network)

    def step() -> None:
        next(balancer.step(Step(net, batch)))
        net.zero_grad()

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = profiler.profiler.kineto_results.events()
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return max(accumulate(changes)), sum(p.nbytes for p in net.encoders["a"].parameters())


@pytest.mark.parametrize("between", [nn.ReLU(), nn.GroupNorm(1, 512)])
def test_mmpareto_holds_the_gradients_of_one_encoder_more_than_joint_training(between):
    joint, own = most_held(Joint, between)
    held, _ = most_held(MMPareto, between)
    assert 2 * own < joint < held < joint + 1.1 * own
