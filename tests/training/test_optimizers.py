"""The default optimiser does what torch's SGD does, whatever the gradients look like in memory."""

import copy
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from mmlab.training.optimizers import SGD


def parameters() -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(size, generator=draw)) for size in ((3, 4), (4,), (2, 3, 3))]


def gradients(number: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(number)
    rows = torch.randn(4, 3, generator=draw)
    return [rows.T, torch.randn(1, generator=draw).expand(4), torch.randn(2, 3, 3, generator=draw)]


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_updates_are_torchs_for_gradients_in_any_layout(options, decay):
    ours, theirs = parameters(), parameters()
    mine = SGD(ours, lr=0.1, weight_decay=decay, **options)
    plain = torch.optim.SGD(theirs, lr=0.1, weight_decay=decay, foreach=False, **options)
    for step in range(3):
        for own, reference, grad in zip(ours, theirs, gradients(step), strict=True):
            own.grad, reference.grad = grad, grad.contiguous()
        mine.step()
        plain.step()
    for own, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, reference)


def test_it_is_fused_on_a_cpu_and_a_copy_is_too():
    optimizer = SGD(parameters(), lr=0.1, momentum=0.9)
    assert optimizer.param_groups[0]["fused"]
    assert copy.deepcopy(optimizer).param_groups[0]["fused"]
    assert not SGD(parameters(), lr=0.1, fused=False).param_groups[0]["fused"]


@pytest.mark.parametrize(
    "options", [{}, {"dampening": 0.5}, {"maximize": True}, {"nesterov": True}]
)
def test_a_parameter_may_meet_its_first_gradient_later_than_others(options):
    ours, theirs = parameters(), parameters()
    optimizers = (
        SGD(ours, 0.1, 0.9, **options),
        torch.optim.SGD(theirs, lr=0.1, momentum=0.9, foreach=False, **options),
    )
    for step, chosen in enumerate(([0], [0, 1], [2], [0, 1, 2])):
        for params, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            for i in chosen:
                params[i].grad = gradients(step)[i].contiguous()
            optimizer.step()
    for own, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, reference)


@pytest.mark.parametrize("others", [0, 1])
def test_parameters_of_an_odd_layout_are_updated_where_they_are(others):
    base = torch.arange(12.0).view(3, 4)
    p, beside = nn.Parameter(base[:, ::2]), parameters()[:others]
    for own in (p, *beside):
        own.grad = torch.ones_like(own)
    SGD([*beside, p], lr=1.0).step()
    assert base.tolist() == [[-1, 1, 1, 3], [3, 5, 5, 7], [7, 9, 9, 11]]


def test_a_graph_from_before_an_update_is_known_to_be_stale():
    layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    optimizer = SGD(layers.parameters(), lr=0.1)
    loss = layers(torch.ones(2, 3)).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_hooks_are_called_in_torchs_order():
    seen = []
    optimizer = SGD(parameters(), lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    everywhere = register_optimizer_step_post_hook(lambda *_: seen.append("global"))
    optimizer.param_groups[0]["params"][0].grad = torch.ones(3, 4)
    optimizer.step(lambda: seen.append("closure"))
    assert seen == ["before", "closure", "after", "global"]
    SGD(parameters(), lr=0.1).step()  # without any hook of its own
    everywhere.remove()
    assert seen[4:] == ["global"]


def test_a_schedule_of_torch_drives_it():
    optimizer = SGD(parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it warns where it does not see the optimiser step
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.05


def test_gradients_are_dropped_or_zeroed():
    params = parameters()
    for p in params[:2]:
        p.grad = torch.ones_like(p)
    optimizer = SGD(params, lr=0.1)
    optimizer.zero_grad(set_to_none=False)
    assert [None if p.grad is None else float(p.grad.sum()) for p in params] == [0, 0, None]
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)


def test_a_step_does_not_load_torchs_compiler():
    code = (
        "import sys, torch; from torch import nn; from mmlab.training.optimizers import SGD;"
        "p = nn.Parameter(torch.ones(2)); o = SGD([p], lr=.1); p.grad = torch.ones(2); o.step();"
        "o.zero_grad(); print('torch._dynamo' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
