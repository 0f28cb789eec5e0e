"""Fusions: all features in, joint logits out, and each modality's part in them."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmlab.checks import check_number
from mmlab.models.linear import linear
from mmlab.models.modes import evaluating
from mmlab.seeds import generator

Features = Mapping[str, Tensor]


class Fusion(nn.Module):
    """Base of all fusions: `fusion(features) -> (B, C)` and `fusion.contributions(features)`.

    widths:    feature width of each modality, in modality order.
    n_outputs: C, the number of classes, of labels, or of real numbers.

    A subclass writes `forward`. `contributions` here is the general one, Shapley values of the
    joint logits (Shapley 1953): a modality's mean marginal contribution over all orders in which
    modalities can join. An absent modality is replaced by its running mean feature, which starts
    at 0 and moves a tenth of the way at every training batch. What the
    fusion says of the mean features alone is shared equally, so the parts sum to the joint logits.
    All 2^M coalitions go through the fusion in one batched call, in evaluation mode: dropout and
    batch statistics would make them differ by more than who joined. A fusion that has such layers
    is split as it is at test time, and there the parts sum to the joint logits.
    """

    additive = False
    momentum = 0.1
    """Weight of the newest batch in the running mean feature."""

    def __init__(self, widths: Mapping[str, int], n_outputs: int) -> None:
        super().__init__()
        if not widths or n_outputs < 1:
            raise ValueError(
                f"a fusion needs at least one modality and one output; got widths={dict(widths)}, "
                f"n_outputs={n_outputs}"
            )
        self.widths = dict(widths)
        self.n_outputs = n_outputs
        if not self.additive:
            for m, width in self.widths.items():
                self.register_buffer(f"mean_{m}", torch.zeros(width))

    def __call__(self, features: Features) -> Tensor:
        self._check(features)
        if not self.additive and self.training and torch.is_grad_enabled():
            self._track(features)
        return super().__call__(features)

    def _check(self, features: Features) -> None:
        if features.keys() != self.widths.keys():
            raise ValueError(
                f"the fusion was built for the modalities {list(self.widths)}; "
                f"got features for {list(features)}"
            )

    @torch.no_grad()
    def _track(self, features: Features) -> None:
        for m in self.widths:
            mean = getattr(self, f"mean_{m}")
            mean.lerp_(features[m].detach().mean(-2).to(mean.dtype), self.momentum)

    def contributions(self, features: Features) -> dict[str, Tensor]:
        """Shapley values of the joint logits, (B, C) per modality; they sum to the joint logits.

        Exact for up to 4 modalities. Above, the mean over `PAIRS` pairs of orders in which they can
        join, the same ones every time; `contribution_error` says how far off that is.
        """
        values, weights = self._coalition_values(features)
        parts = torch.einsum("pms,...sbc->m...bc", weights, values) / len(weights)
        empty = values[..., 0, :, :] / len(self.widths)
        return dict(zip(self.widths, parts + empty, strict=True))

    def contribution_error(self, features: Features) -> dict[str, Tensor]:
        """Standard error of `contributions` over the sampled pairs of orders, (B, C) per modality.

        0 where they are exact: for an additive fusion, and for up to 4 modalities.
        """
        if self.additive:
            return {m: torch.zeros_like(z) for m, z in self.contributions(features).items()}
        values, weights = self._coalition_values(features)
        each = torch.einsum("pms,...sbc->pm...bc", weights, values)
        spread = each.std(0) if len(each) > 1 else torch.zeros_like(each[0])
        return dict(zip(self.widths, spread / len(each) ** 0.5, strict=True))

    def _coalition_values(self, features: Features) -> tuple[Tensor, Tensor]:
        """The fusion's logits (S, B, C) for S coalitions, and the weights (P, M, S) they get."""
        self._check(features)
        first = features[next(iter(self.widths))]
        joined, weights = _coalitions_on(len(self.widths), first.device, first.dtype)
        mixed = {}
        for m, members in zip(self.widths, joined.unbind(-1), strict=True):
            own = features[m].unsqueeze(-3)
            mean = getattr(self, f"mean_{m}")[..., None, None, :].to(own)
            mixed[m] = torch.where(members[:, None, None], own, mean).flatten(-3, -2)
        with evaluating(self):  # the batch of coalitions is no batch of samples
            values = self.forward(mixed).unflatten(-2, (len(joined), -1))
        return values, weights.to(values)


MOST_EXACT = 4
PAIRS = 16
"""Pairs of orders, each with its reverse, that stand for all M! orders of M > 4 modalities."""


@functools.cache
@torch.inference_mode(False)
def _coalitions(n: int) -> tuple[Tensor, Tensor]:
    """Coalitions (S, n), the empty one first, and weights (P, n, S) for P estimates of the values.

    The mean over P of weights times coalition values are the Shapley values: P = 1 for all orders.
    """
    if n <= MOST_EXACT:
        joined = torch.arange(2**n)[:, None] >> torch.arange(n) & 1
        return joined.bool(), shapley_weights(n)[None]
    draw = generator(0, "orders", n)
    orders = torch.stack([torch.randperm(n, generator=draw) for _ in range(PAIRS)])
    places = torch.stack([orders, orders.flip(-1)], dim=1).argsort(-1)  # (PAIRS, 2, n)
    before = places[..., None, :] < torch.arange(n + 1)[:, None]  # the first k to join, k = 0..n
    joined, where = before.flatten(0, 2).unique(dim=0, return_inverse=True)
    where = where.unflatten(0, (PAIRS, 2, n + 1))
    weights = torch.zeros(PAIRS, n, len(joined), dtype=torch.float64)
    half = torch.full((PAIRS, n, 2), 0.5, dtype=torch.float64)
    weights.scatter_add_(-1, where.gather(-1, places + 1).mT, half)
    weights.scatter_add_(-1, where.gather(-1, places).mT, -half)
    return joined, weights


def shapley_weights(n: int) -> Tensor:
    """Matrix (n, 2^n) that turns coalition values into Shapley values; float64."""
    weights = torch.zeros(n, 2**n, dtype=torch.float64)
    for m, s in itertools.product(range(n), range(2**n)):
        if not s >> m & 1:
            others = s.bit_count()
            weight = 1 / (n * math.comb(n - 1, others))
            weights[m, s] -= weight
            weights[m, s | 1 << m] += weight
    return weights


@functools.cache
@torch.inference_mode(False)  # what is kept must serve a training, too
def _coalitions_on(n: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Sent once: to send them to a GPU at every step would make the host wait."""
    joined, weights = _coalitions(n)
    return joined.to(device), weights.to(device, dtype)


def total(parts: Mapping[str, Tensor]) -> Tensor:
    """The sum of all modalities' parts."""
    first, *others = parts.values()
    for other in others:
        first = first + other
    return first


class Concat(Fusion):
    """One linear layer over the features joined in modality order: z = [W_1|...|W_M] h + b.

    Contribution of m: W_m h_m + b / M, as in OGM-GE (Peng et al. 2022, section 3).
    """

    additive = True

    def __init__(self, widths: Mapping[str, int], n_outputs: int) -> None:
        super().__init__(widths, n_outputs)
        self.linear = nn.Linear(sum(self.widths.values()), n_outputs)

    def forward(self, features: Features) -> Tensor:
        return self.linear(torch.cat([features[m] for m in self.widths], dim=-1))

    def contributions(self, features: Features) -> dict[str, Tensor]:
        """Exact: its block of the layer for each modality, with a part of the bias; (B, C) each."""
        self._check(features)
        blocks = self.linear.weight.split(list(self.widths.values()), dim=-1)
        bias = self.linear.bias
        return {
            m: linear(features[m], block, bias, bias_scale=1 / len(self.widths))
            for m, block in zip(self.widths, blocks, strict=True)
        }


class Sum(Fusion):
    """The sum of one linear layer per modality, each with its own bias."""

    additive = True

    def __init__(self, widths: Mapping[str, int], n_outputs: int) -> None:
        super().__init__(widths, n_outputs)
        self.linears = nn.ModuleDict({m: nn.Linear(d, n_outputs) for m, d in self.widths.items()})

    def forward(self, features: Features) -> Tensor:
        return total(self.contributions(features))

    def contributions(self, features: Features) -> dict[str, Tensor]:
        """Exact: the layer of each modality; (B, C) each."""
        self._check(features)
        return {m: self.linears[m](features[m]) for m in self.widths}


class Late(Fusion):
    """The mean of the unimodal logits.

    heads: the network's heads (one per modality, or one module shared by all), so that the joint
           logits are the mean of the very logits that the unimodal losses train. By default the
           fusion makes one linear head per modality.
    """

    additive = True

    def __init__(
        self,
        widths: Mapping[str, int],
        n_outputs: int,
        heads: Mapping[str, nn.Module] | nn.Module | None = None,
    ) -> None:
        super().__init__(widths, n_outputs)
        if heads is None:
            heads = {m: nn.Linear(d, n_outputs) for m, d in widths.items()}
        self.heads = heads if isinstance(heads, nn.Module) else nn.ModuleDict(heads)

    def forward(self, features: Features) -> Tensor:
        return total(self.contributions(features))

    def contributions(self, features: Features) -> dict[str, Tensor]:
        """Exact: the logits of each modality over their number; (B, C) each."""
        self._check(features)
        heads = self.heads
        own = {m: heads[m] if isinstance(heads, nn.ModuleDict) else heads for m in self.widths}
        return {m: head(features[m]) / len(own) for m, head in own.items()}


def directions(x: Tensor, least: float = 1e-6) -> Tensor:
    """Vectors (…, D) at length 1. One that is shorter than `least` becomes 0, without a gradient.

    The gradient of a direction grows as 1 / length: next to 0 it would be no number.
    """
    length = x.norm(dim=-1, keepdim=True)
    return torch.where(length > least, x / length.clamp(min=least), 0)


class Cosine(Fusion):
    """The sum of cosines: z_c = s Σ_m cos(h_m, W_{m,c}), without a bias (MMCosine).

    So neither long features nor long weights make a modality louder: the contribution of m is
    s cos(h_m, W_{m,c}), between −s and s. Features of length 0 contribute 0.

    scale: s, above 0. It must grow with the number of classes: where M modalities separate C
           classes as well as cosines can, the cross-entropy is still
           log(1 + (C − 1) exp(−s M C / (C − 1))) [derived].

    Raises TypeError, ValueError for a scale out of range. Source: Xu et al., ICASSP 2023, whose
    released code takes s = 10; the guard at length 0 is ours.
    """

    additive = True

    def __init__(self, widths: Mapping[str, int], n_outputs: int, scale: float = 10.0) -> None:
        super().__init__(widths, n_outputs)
        check_number("scale", scale, above=0)
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(float(scale)))
        self.linears = nn.ModuleDict(
            {m: nn.Linear(d, n_outputs, bias=False) for m, d in self.widths.items()}
        )

    def forward(self, features: Features) -> Tensor:
        return total(self.contributions(features))

    def contributions(self, features: Features) -> dict[str, Tensor]:
        """Exact: s times the cosines of each modality; (B, C) each."""
        self._check(features)
        layers: Any = self.linears
        scale = self.scale[..., None, None]
        return {
            m: scale * linear(directions(features[m]), directions(layers[m].weight), None)
            for m in self.widths
        }


class FiLM(Fusion):
    """Feature-wise linear modulation (Perez et al. 2018): the later modalities modulate the first.

    h <- gamma_m(h_m) * h + beta_m(h_m) for each further modality m, then one linear layer.
    """

    def __init__(self, widths: Mapping[str, int], n_outputs: int) -> None:
        super().__init__(widths, n_outputs)
        first, *others = self.widths
        width = self.widths[first]
        self.modulators = nn.ModuleDict({m: nn.Linear(self.widths[m], 2 * width) for m in others})
        self.linear = nn.Linear(width, n_outputs)

    def forward(self, features: Features) -> Tensor:
        hidden = features[next(iter(self.widths))]
        for m, modulator in self.modulators.items():
            gamma, beta = modulator(features[m]).chunk(2, dim=-1)
            hidden = gamma * hidden + beta
        return self.linear(hidden)


class Gated(Fusion):
    """Gated multimodal unit (Arevalo et al. 2017): gates read all features, and mix all of them.

    h = sum_m softmax_m(gate(h_1..h_M)) * tanh(V_m h_m), then one linear layer.
    """

    def __init__(self, widths: Mapping[str, int], n_outputs: int, width: int = 64) -> None:
        super().__init__(widths, n_outputs)
        self.projections = nn.ModuleDict({m: nn.Linear(d, width) for m, d in self.widths.items()})
        self.gate = nn.Linear(sum(self.widths.values()), width * len(self.widths))
        self.linear = nn.Linear(width, n_outputs)

    def forward(self, features: Features) -> Tensor:
        values = torch.stack([p(features[m]).tanh() for m, p in self.projections.items()], dim=-2)
        gates = self.gate(torch.cat([features[m] for m in self.widths], dim=-1))
        gates = gates.unflatten(-1, values.shape[-2:]).softmax(dim=-2)
        return self.linear((gates * values).sum(dim=-2))


class Attention(Fusion):
    """A small cross-modal Transformer: one token per modality, one pre-norm layer, the mean."""

    def __init__(
        self, widths: Mapping[str, int], n_outputs: int, width: int = 64, n_heads: int = 4
    ) -> None:
        super().__init__(widths, n_outputs)
        self.tokens = nn.ModuleDict({m: nn.Linear(d, width) for m, d in self.widths.items()})
        self.places = nn.Parameter(0.02 * torch.randn(len(self.widths), width))
        self.layer = nn.TransformerEncoderLayer(
            width, n_heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.linear = nn.Linear(width, n_outputs)

    def forward(self, features: Features) -> Tensor:
        tokens = torch.stack([token(features[m]) for m, token in self.tokens.items()], dim=-2)
        return self.linear(self.layer(tokens + self.places.unsqueeze(-3)).mean(dim=-2))


FUSIONS: dict[str, type[Fusion]] = {
    "concat": Concat,
    "sum": Sum,
    "late": Late,
    "cosine": Cosine,
    "film": FiLM,
    "gated": Gated,
    "attention": Attention,
}
