"""Fusions: all features in, joint logits out, and each modality's part in them."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

Features = Mapping[str, Tensor]


class Fusion(nn.Module):
    """Base of all fusions: `fusion(features) -> (B, C)` and `fusion.contributions(features)`.

    widths:    feature width of each modality, in modality order.
    n_outputs: C, the number of classes, or 1 for regression.

    A subclass writes `forward`. `contributions` here is the general one, Shapley values of the
    joint logits (Shapley 1953): a modality's mean marginal contribution over all orders in which
    modalities can join. An absent modality is replaced by its running mean feature, which starts
    at 0 and moves a tenth of the way at every training batch. What the
    fusion says of the mean features alone is shared equally, so the parts sum to the joint logits.
    All 2^M coalitions go through the fusion in one batched call.
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
            mean.lerp_(features[m].detach().mean(0).to(mean.dtype), self.momentum)

    def contributions(self, features: Features) -> dict[str, Tensor]:
        """Shapley values of the joint logits, (B, C) a modality; they sum to the joint logits."""
        self._check(features)
        names = list(self.widths)
        if len(names) > MOST_EXACT:
            raise ValueError(
                f"exact contributions need 2^M fused evaluations; M={len(names)} is over "
                f"{MOST_EXACT}. Use an additive fusion (Concat, Sum, Late) for more modalities"
            )
        values = self._coalition_values(features, names)
        weights = _weights(len(names), values.dtype, values.device)
        parts = torch.einsum("ms,sbc->mbc", weights, values) + values[0] / len(names)
        return dict(zip(names, parts, strict=True))

    def _coalition_values(self, features: Features, names: list[str]) -> Tensor:
        """The fusion's logits for every coalition, (2^M, B, C); coalition s holds bit m of s."""
        size = len(features[names[0]])
        coalitions = torch.arange(2 ** len(names), device=features[names[0]].device)
        mixed = {}
        for place, m in enumerate(names):
            joined = (coalitions >> place & 1).bool()[:, None, None]
            mean = getattr(self, f"mean_{m}").to(features[m])
            mixed[m] = torch.where(joined, features[m], mean).flatten(0, 1)
        return self.forward(mixed).unflatten(0, (len(coalitions), size))


MOST_EXACT = 10


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
def _weights(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Made once: to send it to a GPU at every step would make the host wait."""
    return shapley_weights(n).to(dtype).to(device)


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
        self._check(features)
        blocks = self.linear.weight.split(list(self.widths.values()), dim=-1)
        bias = self.linear.bias / len(self.widths)
        return {
            m: nn.functional.linear(features[m], block, bias)
            for m, block in zip(self.widths, blocks, strict=True)
        }


class Sum(Fusion):
    """The sum of one linear layer a modality, each with its own bias."""

    additive = True

    def __init__(self, widths: Mapping[str, int], n_outputs: int) -> None:
        super().__init__(widths, n_outputs)
        self.linears = nn.ModuleDict({m: nn.Linear(d, n_outputs) for m, d in self.widths.items()})

    def forward(self, features: Features) -> Tensor:
        return sum(self.contributions(features).values())

    def contributions(self, features: Features) -> dict[str, Tensor]:
        self._check(features)
        return {m: self.linears[m](features[m]) for m in self.widths}


class Late(Fusion):
    """The mean of the unimodal logits.

    heads: the network's heads (one a modality, or one module shared by all), so that the joint
           logits are the mean of the very logits that the unimodal losses train. By default the
           fusion makes one linear head a modality.
    """

    additive = True

    def __init__(
        self,
        widths: Mapping[str, int],
        n_outputs: int,
        heads: Mapping[str, nn.Module] | nn.Module | None = None,
    ) -> None:
        super().__init__(widths, n_outputs)
        self.heads = heads or nn.ModuleDict({m: nn.Linear(d, n_outputs) for m, d in widths.items()})

    def forward(self, features: Features) -> Tensor:
        return sum(self.contributions(features).values())

    def contributions(self, features: Features) -> dict[str, Tensor]:
        self._check(features)
        own = isinstance(self.heads, nn.ModuleDict)
        return {
            m: (self.heads[m] if own else self.heads)(features[m]) / len(self.widths)
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
    """A small cross-modal Transformer: a token a modality, one pre-norm layer, the mean."""

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
        return self.linear(self.layer(tokens + self.places).mean(dim=-2))


FUSIONS: dict[str, type[Fusion]] = {
    "concat": Concat,
    "sum": Sum,
    "late": Late,
    "film": FiLM,
    "gated": Gated,
    "attention": Attention,
}
