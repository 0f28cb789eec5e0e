"""Encoders of sequences: of token ids, of frames of numbers, of pictures.

They read a tensor (B, T, …) whose steps are all there, or {"values": (B, T, …), "mask": (B, T)}
with True where a step is, as `mmlab.datasets.pad` gives. What stands where no step is changes
nothing; a sample without any step, as one that lacks the modality, has finite features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmlab.checks import kind_of
from mmlab.nested import Nested


def read_steps(x: Nested) -> tuple[Tensor, Tensor]:
    """Values (B, T, …), and which steps are there, booleans (B, T).

    Raises ValueError for what is neither a tensor nor a dict of these two.
    """
    if isinstance(x, Tensor):
        return x, x.new_ones(x.shape[:2], dtype=torch.bool)
    if not isinstance(x, dict) or x.keys() != {"values", "mask"}:
        given = f"a dict of {list(x)}" if isinstance(x, dict) else f"{kind_of(x)}"
        raise ValueError(
            f"an encoder of sequences got {given}; give a tensor (B, T, ...), or a dict of "
            "'values' and 'mask', as mmlab.datasets.pad makes it"
        )
    return x["values"], x["mask"].bool()


class SequenceGRU(nn.Module):
    """The last state of a gated recurrent unit (Cho et al. 2014): steps -> (B, width).

    It reads what `mmlab.datasets.pad` gives, {"values": …, "mask": …}, and skips the padded steps.

    Args:
        embed: values (B, T, …) -> (B, T, width), such as nn.Embedding(30_000, 64) for token ids, or
            nn.Linear(40, 64) for frames of 40 numbers.
        width: features; the embedding must give as many.
        each: give the state of each step, (B, T, width), 0 where none is: for a label per frame.
    """

    def __init__(self, embed: nn.Module, width: int = 64, *, each: bool = False) -> None:
        super().__init__()
        self.embed, self.each = embed, each
        self.gru = nn.GRU(width, width, batch_first=True)

    def forward(self, x: Nested) -> Tensor:
        values, mask = read_steps(x)
        steps = self.embed(values)
        # what is no step comes last, and changes nothing
        first = (~mask).argsort(dim=1, stable=True)
        states, _ = self.gru(steps.gather(1, first.unsqueeze(-1).expand_as(steps)))
        if self.each:
            place = first.argsort(1).unsqueeze(-1).expand_as(states)
            return states.gather(1, place) * mask.unsqueeze(-1)
        last = (mask.sum(1) - 1).clamp(min=0).view(-1, 1, 1)
        state = states.gather(1, last.expand(-1, 1, states.shape[-1])).squeeze(1)
        return state * mask.any(1, keepdim=True)


class SequenceTransformer(nn.Module):
    """A pre-norm Transformer (Vaswani et al. 2017), read at a start token: steps -> (B, width).

    Args:
        embed: values (B, T, …) -> (B, T, width), such as nn.Embedding(30_000, 64) for token ids, or
            nn.Linear(40, 64) for frames of 40 numbers. Places are added to it, as sines.
        width: features, a multiple of `heads`.
        layers: number of layers of attention; the hidden layer of each has 4 width units.
        heads: number of heads of attention in each layer.
        dropout: part of the units that dropout sets to 0 in training, in [0, 1).
        each: give what stands at each step, (B, T, width): for a label per frame.
    """

    def __init__(
        self,
        embed: nn.Module,
        width: int = 64,
        *,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
        each: bool = False,
    ) -> None:
        super().__init__()
        self.embed, self.each = embed, each
        self.start = nn.Parameter(0.02 * torch.randn(width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout, batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Nested) -> Tensor:
        values, mask = read_steps(x)
        steps = self.embed(values)
        steps = steps + places(steps)
        steps = torch.cat([self.start.expand_as(steps[:, :1]), steps], dim=1)
        absent = F.pad(~mask, (1, 0))  # the start is always there
        for layer in self.layers:
            steps = layer(steps, src_key_padding_mask=absent)
        return self.norm(steps[:, 1:] if self.each else steps[:, 0])


def places(steps: Tensor) -> Tensor:
    """Sines and cosines (T, D) of the places in steps (B, T, D): Vaswani et al. 2017, 3.5."""
    length, width = steps.shape[1:]
    dtype = torch.promote_types(steps.dtype, torch.float32)  # bfloat16 has no 257
    place = torch.arange(length, device=steps.device, dtype=dtype)
    half = torch.arange(0, width, 2, device=steps.device, dtype=dtype)
    angles = place[:, None] * torch.exp(half * (-math.log(10_000) / width))
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[:, :width].to(steps.dtype)


class FrameMean(nn.Module):
    """The mean features of the frames that are there, as of a video: (B, T, …) -> (B, width).

    Args:
        encoder: frames (B·T, …) -> (B·T, width).
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Nested) -> Tensor:
        values, mask = read_steps(x)
        features = self.encoder(values.flatten(0, 1)).unflatten(0, mask.shape)
        total = torch.where(mask.unsqueeze(-1), features, 0).sum(1)
        return total / mask.sum(1, keepdim=True).clamp(min=1)
