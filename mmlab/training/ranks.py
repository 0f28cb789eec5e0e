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

import atexit
import contextlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from itertools import chain
from typing import Any, NoReturn

import torch
from torch import Tensor, distributed, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmlab.datasets.base import Batch
from mmlab.datasets.parts import Part
from mmlab.gradients import flatten
from mmlab.models.modes import differs_in_training
from mmlab.models.network import MultimodalNet

# --- which process this is ------------------------------------------------------------------------


def count() -> int:
    """How many processes train together: those of torch.distributed, or that `torchrun` started."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE"} <= os.environ.keys() else 1


def is_first() -> bool:
    """Whether this is the process that writes files, logs and progress; alone it is."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank() == 0
    return os.environ.get("RANK", "0") == "0" or count() == 1


def local_rank() -> int:
    """The number of this process on its machine, and so of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def join() -> None:
    """Meet the other processes, unless there is none or they have met."""
    if count() > 1 and not distributed.is_initialized():
        with _told_of_others("while they were to meet"):
            distributed.init_process_group()
        atexit.register(_leave)


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


_alike: ContextVar[bool] = ContextVar("alike", default=False)


@contextlib.contextmanager
def alike() -> Iterator[None]:
    """In this block all processes do the same, so a whole batch is one that all of them have."""
    before = _alike.set(True)
    try:
        yield
    finally:
        _alike.reset(before)


def check_whole_batch() -> None:
    """Refuse to train a part of a batch as if it were the whole.

    A method decides by its losses and gradients, and those of one process alone are others.
    """
    if not _alike.get() and count() > 1:
        raise RuntimeError(
            f"this is one of {count()} processes, each with a batch of its own: a method would "
            "decide in each for itself, and the networks would drift apart; train with fit, which "
            "shares the samples of a batch out, or train in one process"
        )


def check_one_process(what: str, instead: str) -> None:
    """Refuse what cannot be shared out; what: who cannot, instead: what can.

    Raises RuntimeError.
    """
    if count() > 1:
        raise RuntimeError(
            f"this is one of {count()} processes, and {what} works in one: each would do all of "
            f"it; {instead}"
        )


# --- what can be shared out -----------------------------------------------------------------------

WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def check_unwrapped(model: nn.Module) -> None:
    """Refuse parts that share samples or gradients out by themselves. Raises ValueError."""
    for name, part in model.named_modules():
        if isinstance(part, WRAPPERS):
            raise ValueError(
                f"{name} is a {type(part).__name__}, which would combine gradients by itself, "
                "before the method has read them; give the module in it "
                "(.module), and start the script by torchrun: fit shares the samples out"
            )


def share_out(model: MultimodalNet, device: torch.device, accumulate: int = 1) -> None:
    """Make a network ready for processes whose encoders see a part of each batch.

    BatchNorm becomes torch's SyncBatchNorm, which takes the statistics of all parts.

    Raises ValueError for what would make of a part something else than of the whole.
    """
    if type(model).forward is not MultimodalNet.forward:
        raise ValueError(
            f"{type(model).__name__} has a forward pass of its own, and each of several processes "
            "would make it with its own samples alone; give encoders and a fusion of your own to "
            "MultimodalNet.build, or train in one process"
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    drawing = [m for m, encoder in model.encoders.items() if differs_in_training(encoder)]
    if accumulate > 1 and drawing:
        raise ValueError(
            f"accumulate={accumulate} and a part that differs in training, such as dropout, in "
            f"encoder {drawing[0]!r} do not go together in several processes; take accumulate=1, "
            "without such a part, or one process"
        )
    for m, encoder in model.encoders.items():
        for p in encoder.parameters():
            if p._backward_hooks or p._post_accumulate_grad_hooks:
                raise ValueError(
                    f"a parameter of encoder {m!r} has a hook, which would see the gradient of one "
                    "process's part of the batch; use optimizer.register_step_pre_hook, which sees "
                    "that of the whole batch"
                )
        _check_axes(m, encoder)
        if any(isinstance(part, BATCH_NORM) and part.training for part in encoder.modules()):
            if device.type != "cuda":
                raise ValueError(
                    f"encoder {m!r} has a BatchNorm, and several processes need torch's "
                    f"SyncBatchNorm for it, which does not run on {device.type}, only on GPUs of "
                    "CUDA; take nn.GroupNorm (such as ResNet18(norm='group')), freeze it in "
                    "evaluation mode, or train in one process"
                )
            model.encoders[m] = nn.SyncBatchNorm.convert_sync_batchnorm(encoder)


BATCH_NORM = nn.modules.batchnorm._BatchNorm


def _check_axes(m: str, encoder: nn.Module) -> None:
    """Refuse dropout that does not have the samples in its first axis."""
    for part in encoder.modules():
        if not isinstance(part, nn.RNNBase | nn.MultiheadAttention) or not part.dropout:
            continue
        if part.training and (isinstance(part, nn.RNNBase) or not part.batch_first):
            raise ValueError(
                f"encoder {m!r} has a {type(part).__name__} whose dropout draws for steps before "
                "samples, so that a process cannot take the numbers of its own samples; set its "
                "dropout to 0 (a Transformer: or batch_first=True), or train in one process"
            )


# --- one step -------------------------------------------------------------------------------------

aten: Any = torch.ops.aten

OTHERS = ""
"""Stands beside the names of encoders for all that is no encoder."""


def own_part(whole: Batch) -> Part:
    """This process's part of a batch that all processes have."""
    return Part(whole, distributed.get_rank(), count())


class Exchange:
    """What the processes tell each other in one step.

    watched: whether to look for random numbers that an encoder draws unexpectedly.
    stale: the modalities whose encoders hold the gradient of this process's part, and `OTHERS`.
    """

    def __init__(self, part: Part, watched: bool = False) -> None:
        self.part, self.watched, self.stale = part, watched, set[str]()

    @property
    def size(self) -> int:
        """Samples of the whole batch."""
        return len(self.part)

    def gather(self, m: str, encoder: nn.Module, encode: Callable[[], Tensor]) -> Tensor:
        """The features (B, …) of all samples, from those that `encode` gives of this part."""
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
    with _told_of_others():
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
        with _told_of_others():
            distributed.all_reduce(flat)
        flat /= count()
        parts = flat.split([x.numel() for x in some])
        torch._foreach_copy_(
            some, [part.view(x.shape) for part, x in zip(parts, some, strict=True)]
        )


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
        with _told_of_others():
            distributed.reduce_scatter(mean, slices)
        mean /= count()
        start, ends = distributed.get_rank() * self.length, torch.tensor([0, *sizes]).cumsum(0)
        places = (ends - start).clamp(0, self.length).diff().tolist()
        self.own = [[*one[: sum(places)].split(places)] for one in mean]

    def sum(self, values: Tensor) -> Tensor:
        """What all slices have together, such as of inner products."""
        with _told_of_others():
            distributed.all_reduce(values)
        return values

    def whole(self, own: Sequence[Tensor]) -> list[Tensor]:
        """A gradient whose slices the processes hold, one tensor per parameter."""
        flat = torch.cat(list(own))
        padded = nn.functional.pad(flat, (0, self.length - len(flat)))
        found = padded.new_empty(count() * self.length)
        with _told_of_others():
            distributed.all_gather(list(found.split(self.length)), padded)
        sizes = [x.numel() for x in self.like]
        parts = found[: sum(sizes)].split(sizes)
        return [part.view(x.shape).to(x) for part, x in zip(parts, self.like, strict=True)]


# --- agreement ------------------------------------------------------------------------------------


def first_says(value: Any) -> Any:
    """What the first process was given."""
    if count() == 1:
        return value
    said = [value]
    with _told_of_others():
        distributed.broadcast_object_list(said)
    return said[0]


def check_same(when: str, values: Mapping[str, object]) -> None:
    """Refuse to go on where the processes are not in one state.

    when: for the message; values: what must be the same in all, by name.

    Raises RuntimeError.
    """
    found: list[Any] = [None] * count()
    with _told_of_others(when):
        distributed.all_gather_object(found, dict(values))
    for rank, theirs in enumerate(found):
        names = [name for name in values if theirs.get(name) != found[0].get(name)]
        if names:
            raise RuntimeError(
                f"process {rank} of {count()} disagrees with process 0 {when}, on "
                f"{', '.join(names)}: each must run the same script on the same data, with the "
                "same seeds; look for what differs, such as modules made without a seed (put "
                "torch.manual_seed(0) before them) or an observer that changes the network"
            )


@contextlib.contextmanager
def _told_of_others(when: str = "in a step") -> Iterator[None]:
    """Say what it means where torch finds another process gone, or doing something else."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        atexit.unregister(_leave)  # it would wait for the one that is gone
        raise RuntimeError(
            f"process {os.environ.get('RANK', '?')} of {count()} cannot go on {when}: another one "
            "has ended, or does something else; its own error, or that it was killed, is in the "
            f"log. torch says: {error}"
        ) from error
