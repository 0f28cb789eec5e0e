"""The default optimiser of `fit`: torch's SGD, without waiting for torch's compiler.

torch marks `add_param_group`, `zero_grad` and `step` for its compiler, and the first call of each
loads that compiler: 800 modules, more than a second, in a program that compiles nothing. The marks
are ordinary decorators, so `inspect.unwrap` gives the function under them. Nothing of torch is
changed: this class holds those functions as its own, and what they compute is the same bit for bit.
"""

from __future__ import annotations

from inspect import unwrap

import torch


class SGD(torch.optim.SGD):
    """`torch.optim.SGD` that starts at once; its arguments, state and hooks are unchanged.

    The gradient through the step itself (`differentiable=True`) is the one thing it does not have.
    """

    add_param_group = unwrap(torch.optim.SGD.add_param_group)
    zero_grad = unwrap(torch.optim.SGD.zero_grad)
    step = torch.no_grad()(unwrap(torch.optim.SGD.step))
