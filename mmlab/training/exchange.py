"""Several processes that train one network, and end where one process would.

Each process encodes its part of a batch. From the features on, every process sees the whole batch:
the features of all parts are gathered, so that the fusion, the heads, the losses, the masks and
every number that a method decides by are those of one process, and the same in each.

What differs is the gradient of an encoder, which in each process is that of its part. It is
replaced by the mean over the processes before a method reads it, at the latest before an update.
For this mean to be the gradient of the whole batch, what flows back into a process's own features
is multiplied by the number of processes. A gradient that reaches a parameter in another way, such
as a pull towards where it was, is the same in all, and so is its mean.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NoReturn

import torch
from torch import Tensor, distributed, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmlab.datasets.base import Batch
from mmlab.datasets.parts import Part
from mmlab.gradients import flatten, unflatten
from mmlab.models.modes import differs_in_training
from mmlab.training.processes import count, told_of_others

aten: Any = torch.ops.aten

OTHERS = ""
"""Stands beside the names of encoders for all that is no encoder."""


def own_part(whole: Batch) -> Part:
    """This process's part of a batch that all processes have."""
    return Part(whole, distributed.get_rank(), count())


class Exchange:
    """What the processes tell each other in one step.

    watched: whether to look for random numbers that an encoder draws unexpectedly.

    The attribute `stale` holds the modalities whose encoders have the gradient of this process's
    part, and `OTHERS`.
    """

    def __init__(self, part: Part, watched: bool = False) -> None:
        self.part, self.watched, self.stale = part, watched, set[str]()

    @property
    def size(self) -> int:
        """Samples of the whole batch."""
        return len(self.part)

    def gather(self, m: str, encoder: nn.Module, encode: Callable[[], Tensor]) -> Tensor:
        """The features (B, …) of all samples, from those that `encode` gives of this part.

        Raises ValueError where a SyncBatchNorm would count the sample that stands in an empty part.
        """
        if 0 in self.part.sizes and any(_takes_statistics(part) for part in encoder.modules()):
            raise ValueError(
                f"the BatchNorm of encoder {m!r} would take its statistics of more than the batch, "
                f"whose {self.size} samples are fewer than the {len(self.part.sizes)} processes; "
                "use drop_last=True, or a batch_size that leaves no such rest"
            )
        drawing = self.watched or differs_in_training(encoder)
        with _Drawing(m, self.part) if drawing else contextlib.nullcontext():
            own = encode()
        return _Gather.apply(own, m, self)

    def merge(self, encoders: Mapping[str, Sequence[Tensor]], others: Sequence[Tensor]) -> None:
        """Replace gradients of a part by those of the whole batch.

        The others are the same in all processes, up to the rounding of a GPU, which ends here.
        """
        stale = [encoders[m] for m in encoders if m in self.stale]
        stale += [others] if OTHERS in self.stale else []
        average([p.grad for p in dict.fromkeys(chain(*stale)) if p.grad is not None])
        self.stale.clear()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """In this block gradients are computed that do not go to `.grad`."""
        before = set(self.stale)
        yield
        self.stale = before


def _takes_statistics(part: nn.Module) -> bool:
    return isinstance(part, nn.SyncBatchNorm) and part.training


class _Drawing(TorchDispatchMode):
    """Dropout draws for the samples of all, and takes its own: the numbers that one process has.

    Raises ValueError where an encoder draws something else.
    """

    def __init__(self, m: str, part: Part) -> None:
        super().__init__()
        self.m, self.part = m, part
        self.rows = max(1, part.sizes[distributed.get_rank()])

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is aten.bernoulli_.float:
            own, *rest = args
            return own.copy_(self._own(self._whole(own).bernoulli_(*rest, **kwargs), own))
        if function is aten.native_dropout.default:
            own, *rest = args
            drawn = function(self._whole(own).fill_(1), *rest, **kwargs)
            kept, mask = (self._own(x, own) for x in drawn)
            return own * kept, mask
        if torch.Tag.nondeterministic_seeded in function.tags:
            self._refuse(f"draws random numbers by {function}")
        return function(*args, **kwargs)

    def _whole(self, own: Tensor) -> Tensor:
        several, rest = divmod(len(own), self.rows)  # such as heads of a sample
        if rest:
            self._refuse(f"draws random numbers for {tuple(own.shape)}, no row per sample,")
        shape = [len(self.part) * several, *own.shape[1:]]
        # in the same order of memory, in which numbers are drawn; a single sample is a tie
        strides = own.stride()
        order = sorted(range(own.ndim), key=lambda i: (-strides[i], own.shape[i] == 1))
        whole = own.new_empty([shape[i] for i in order])
        return whole.permute([order.index(i) for i in range(own.ndim)])

    def _own(self, whole: Tensor, own: Tensor) -> Tensor:
        return whole.narrow(0, self.part.start * len(own) // self.rows, len(own))

    def _refuse(self, what: str) -> NoReturn:
        raise ValueError(
            f"encoder {self.m!r} {what} and each of several processes would draw others for its "
            "samples than one process does; take torch's dropout with the samples in the first "
            "axis, or train in one process"
        )


class _Gather(torch.autograd.Function):
    """Features of a part -> those of all parts."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, m: str, exchange: Exchange) -> Tensor:
        ctx.m, ctx.exchange, ctx.rows = m, exchange, len(own)
        return _gathered(own, exchange.part.sizes)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        part, (grad,) = ctx.exchange.part, grads
        ctx.exchange.stale |= {ctx.m, OTHERS}
        own = grad.narrow(0, part.start, ctx.rows) * count()
        return (own if part.sizes[distributed.get_rank()] else own * 0), None, None


def _gathered(own: Tensor, sizes: Sequence[int]) -> Tensor:
    """Rows of all processes one after the other; of each the first `sizes`."""
    rows = max(sizes)
    padded = own.new_zeros(rows, *own.shape[1:])
    padded[: len(own)] = own
    found = list(own.new_empty(len(sizes), *padded.shape).unbind())
    with told_of_others():
        distributed.all_gather(found, padded)
    return torch.cat([one[:size] for one, size in zip(found, sizes, strict=True)])


# --- sums -----------------------------------------------------------------------------------------


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their means over the processes: one call for all of a type."""
    alike: dict[torch.dtype, list[Tensor]] = defaultdict(list)
    for x in tensors:
        alike[x.dtype].append(x)
    for some in alike.values():
        flat = flatten(some)
        with told_of_others():
            distributed.all_reduce(flat)
        flat /= count()
        torch._foreach_copy_(some, unflatten(flat, some))


class Slices:
    """K gradients of one encoder, averaged; of each this process holds a slice.

    own: K lists with a part of every parameter's gradient, flat; many of them are empty.
    """

    def __init__(self, gradients: Sequence[Sequence[Tensor]]) -> None:
        self.like = gradients[0]
        sizes = [x.numel() for x in self.like]
        self.length = -(-sum(sizes) // count())
        flat = torch.stack([flatten(grads) for grads in gradients])
        padded = nn.functional.pad(flat, (0, self.length * count() - flat.shape[-1]))
        slices = [one.contiguous() for one in padded.split(self.length, dim=-1)]
        mean = torch.empty_like(slices[0])
        with told_of_others():
            distributed.reduce_scatter(mean, slices)
        mean /= count()
        start, ends = distributed.get_rank() * self.length, torch.tensor([0, *sizes]).cumsum(0)
        places = (ends - start).clamp(0, self.length).diff().tolist()
        self.own = [[*one[: sum(places)].split(places)] for one in mean]

    def sum(self, values: Tensor) -> Tensor:
        """What all slices have together, such as of inner products."""
        with told_of_others():
            distributed.all_reduce(values)
        return values

    def whole(self, own: Sequence[Tensor]) -> list[Tensor]:
        """A gradient whose slices the processes hold, one tensor per parameter."""
        flat = torch.cat(list(own))
        padded = nn.functional.pad(flat, (0, self.length - len(flat)))
        found = padded.new_empty(count() * self.length)
        with told_of_others():
            distributed.all_gather(list(found.split(self.length)), padded)
        entries = sum(x.numel() for x in self.like)  # what follows is padding
        parts = unflatten(found[:entries], self.like)
        return [part.to(x) for part, x in zip(parts, self.like, strict=True)]
