"""The default optimiser of `fit`: torch's SGD, without waiting for torch's compiler, in one kernel.

torch marks `add_param_group`, `zero_grad`, `step`, `state_dict` and `load_state_dict` for its
compiler, and the first call of each loads that compiler: 800 modules, more than a second, in a
program that compiles nothing. The marks are ordinary decorators, so `inspect.unwrap` gives the
function under them. Nothing of torch is changed: this class holds those functions as its own.

On a CPU torch updates one parameter after the other; its fused kernel takes all in one call. And it
opens a region for its profiler at each call, used or not. On small networks the two are a fifth of
a training step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer, optimizer

from mmlab.gradients import laid_out


def _is_plain(p: object) -> bool:
    """Whether the fused kernel takes it for what it is."""
    if not isinstance(p, Tensor) or not p.is_cpu or not p.is_floating_point():
        return False
    return p.layout is torch.strided and p.is_contiguous()


_bare_step = torch.no_grad()(unwrap(torch.optim.SGD.step))
_hooked_step = Optimizer.profile_hook_step(_bare_step)


class SGD(torch.optim.SGD):
    """`torch.optim.SGD` that starts at once, and is fused where all parameters are on a CPU.

    Its arguments, state and hooks are torch's. The gradient through the step itself
    (`differentiable=True`) and a region of its own in torch's profiler are what it does not have.
    """

    add_param_group = unwrap(torch.optim.SGD.add_param_group)
    state_dict = unwrap(torch.optim.SGD.state_dict)
    load_state_dict = unwrap(torch.optim.SGD.load_state_dict)

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        hooks = (
            self._optimizer_step_pre_hooks,
            self._optimizer_step_post_hooks,
            optimizer._global_optimizer_pre_hooks,
            optimizer._global_optimizer_post_hooks,
        )
        return (_hooked_step if any(hooks) else _bare_step)(self, closure)

    vars()["step"].hooked = True  # else torch wraps it

    def zero_grad(self, set_to_none: bool = True) -> None:
        if not set_to_none:
            unwrap(torch.optim.SGD.zero_grad)(self, set_to_none)
            return
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        **options: Any,
    ) -> None:
        given = list(params)
        chosen = options.keys() & {"foreach", "fused", "differentiable"}
        if not chosen and not options.get("dampening") and all(map(_is_plain, given)):
            options["fused"] = True
        super().__init__(given, lr, momentum, **options)

    def _init_group(
        self, group: dict[str, Any], params: list, grads: list, momentum_buffer_list: list
    ) -> bool:
        """What the fused kernel asks for and does not check: one layout, and all momentum or none.

        Starting momentum at 0 gives the same result for parameters whose first gradient comes
        later.
        """
        sparse = super()._init_group(group, params, grads, momentum_buffer_list)
        if group["fused"]:
            # as every other way of writing does, so that a graph of before is known to be stale
            torch.autograd.graph.increment_version(params)
            for i, (p, grad) in enumerate(zip(params, grads, strict=True)):
                grads[i] = laid_out(grad, p)
                if group["momentum"] and momentum_buffer_list[i] is None:
                    momentum_buffer_list[i] = torch.zeros_like(p)
        return sparse


def unwrapped(optimizer: Optimizer) -> Optimizer:
    """The optimiser inside of what Accelerate or Lightning make of it; any other as it is.

    Such a wrapper has the inner optimiser's hooks, or none, where an optimiser has its own.
    """
    inner = getattr(optimizer, "optimizer", None)
    if not isinstance(inner, Optimizer):
        return optimizer
    own = vars(optimizer).get("_optimizer_step_pre_hooks")
    return inner if own is None or own is inner._optimizer_step_pre_hooks else optimizer
