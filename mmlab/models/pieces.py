"""An encoder that sees a few samples at a time, and again where the gradient is wanted.

What it keeps for the gradient is then that of a few samples, however large the batch; the features
are those of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmlab.models.modes import buffers_of, sparing_buffers
from mmlab.nested import Nested, changed, tensors
from mmlab.seeds import random_state, replaying

Encode = Callable[[Nested], Tensor]


def in_pieces(
    encode: Encode, encoder: nn.Module, inputs: Nested, size: int, axis: int = 0
) -> Tensor:
    """The features that `encode` gives, `size` samples at a time.

    Args:
        encode: inputs -> features, by the module `encoder`.
        encoder: the module whose buffers and parameters `encode` uses.
        inputs: a tensor, or a dict or a tuple of tensors, of B samples.
        size: the largest number of samples that are encoded at a time.
        axis: the axis of the samples, in every tensor of the inputs and in the features.

    Raises, in the backward pass, RuntimeError where the encoder's parameters are others by then.
    """
    count = next(iter(tensors(inputs).values())).shape[axis]
    pieces = [_part(inputs, i, min(size, count - i), axis) for i in range(0, count, size)]
    if len(pieces) == 1:
        return encode(inputs)
    if torch.is_grad_enabled():
        again = [_Repeatable(encode, encoder, piece) for piece in pieces]
        # the random state is kept by each, also that of a GPU which torch does not know here
        found = [checkpoint(one, use_reentrant=False, preserve_rng_state=False) for one in again]
    else:
        found = [encode(piece) for piece in pieces]
    return torch.cat(found, dim=axis)


def _part(inputs: Nested, start: int, size: int, axis: int) -> Nested:
    return changed(lambda x: x.narrow(axis, start, size), inputs)


class _Repeatable:
    """A pass of an encoder: each call after the first gives what the first one gave.

    It draws the same random numbers, and finds buffers such as running means as they were. The
    first call alone moves these.
    """

    def __init__(self, encode: Encode, encoder: nn.Module, inputs: Nested) -> None:
        self.encode, self.encoder, self.inputs = encode, encoder, inputs
        self.called = False

    def __call__(self) -> Tensor:
        if self.called:
            return self._again()
        self.called = True
        self.random = random_state(next(iter(tensors(self.inputs).values())).device)
        self.buffers = [buffer.clone() for *_, buffer in buffers_of(self.encoder)]
        self.versions = self._versions()
        return self.encode(self.inputs)

    def _again(self) -> Tensor:
        if self._versions() != self.versions:
            raise RuntimeError(
                "an encoder was updated after it gave its features, so that their gradient cannot "
                "be computed any more; call `backward` before the `yield`"
            )
        with replaying(self.random), sparing_buffers(self.encoder, self.buffers):
            return self.encode(self.inputs)

    def _versions(self) -> list[int]:
        return [p._version for p in self.encoder.parameters()]
