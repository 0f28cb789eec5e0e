"""What a first lesson waits for: which modules are loaded, and when. (Never how long it takes.)"""

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from mmlab.training.optimizers import SGD

HEAVY = ("matplotlib", "pandas", "papermill", "scipy", "seaborn", "sklearn", "torch._dynamo")
"""What costs more than 0.1 s to load, and a first training does not need."""

FIRST_STEPS = """
import sys
import torch  # whatever torch itself loads is not ours to judge

def loaded(moment):
    print(moment, *[name for name in {heavy} if name in sys.modules], sep=",")

loaded("torch")
import mmlab
loaded("mmlab")
from mmlab import MultimodalNet, compare, fit, load
loaded("names")
data = load("synthetic")
balancers = [mmlab.Joint, mmlab.Uniform, mmlab.ATF, mmlab.OGM, mmlab.MMPareto, mmlab.MLA,
             mmlab.GradientBlending]
for balancer in balancers:
    method = balancer()
    net = MultimodalNet.build(data, **method.network)
    fit(net, data, method, epochs=1, batch_size=1024, device="cpu")
loaded("fits")
"""


def output_of(code: str) -> list[str]:
    """The words that a fresh Python prints when it runs this code."""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return said.stdout.split()


def test_the_first_trainings_load_nothing_that_they_do_not_use():
    assert output_of(FIRST_STEPS.format(heavy=HEAVY)) == ["torch", "mmlab", "names", "fits"]


def test_torchs_own_optimiser_still_loads_the_compiler():
    """If this fails, torch has mended it: then `mmlab/training/optimizers.py` can go."""
    make = "torch.optim.SGD([torch.ones(1)])"
    assert output_of(f"import sys, torch; {make}; print('torch._dynamo' in sys.modules)") == [
        "True"
    ]


def train(make: type[torch.optim.Optimizer], **options: float | bool) -> list[Tensor]:
    """The parameters of a small network after twenty steps, with a copy of it half way."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = make(net.parameters(), **options)
    inputs, target = torch.randn(20, 16, 4), torch.randint(3, (20, 16))
    for i in range(20):
        if i == 10:
            net, optimizer = copy.deepcopy((net, optimizer))
        nn.functional.cross_entropy(net(inputs[i]), target[i]).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    return list(net.parameters())


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.1},
        {"lr": 0.1, "momentum": 0.9},
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
        {"lr": 0.1, "momentum": 0.9, "foreach": True},
    ],
)
def test_our_sgd_is_torchs_fused_one_bit_for_bit_and_its_plain_one_up_to_rounding(options):
    fused = {} if "foreach" in options else {"fused": True}
    ours, plain = train(SGD, **options), train(torch.optim.SGD, **options)
    theirs = train(torch.optim.SGD, **fused, **options)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    torch.testing.assert_close(ours, plain)


def test_our_sgd_is_a_torch_optimiser_in_every_other_way():
    weight = nn.Parameter(torch.ones(2))
    ours, theirs = SGD([weight], lr=0.1, momentum=0.9), torch.optim.SGD([weight], lr=0.2)
    assert isinstance(ours, torch.optim.SGD)
    calls = []
    ours.register_step_pre_hook(lambda *_: calls.append("before"))
    ours.register_step_post_hook(lambda *_: calls.append("after"))
    weight.sum().backward()
    assert ours.step(lambda: torch.tensor(3.0)) == 3.0  # a closure, as any optimiser takes
    assert calls == ["before", "after"]
    ours.zero_grad(set_to_none=False)
    assert torch.equal(weight.grad, torch.zeros(2))
    theirs.load_state_dict(ours.state_dict())
    assert theirs.param_groups[0]["lr"] == 0.1
    assert torch.equal(theirs.state[weight]["momentum_buffer"], torch.ones(2))
    ours.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 1.0})
    assert [group["lr"] for group in ours.param_groups] == [0.1, 1.0]


@pytest.mark.filterwarnings("error")  # such as: no step was seen before that of the schedule
def test_a_schedule_drives_our_sgd():
    weight = nn.Parameter(torch.ones(1))
    optimizer = SGD([weight], lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        weight.sum().backward()
        optimizer.step()
        schedule.step()
    assert weight.item() == 1 - 1.0 - 0.5
