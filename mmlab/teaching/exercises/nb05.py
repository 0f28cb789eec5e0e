"""What the exercises of notebook 05 are checked with: reference, cases, and likely slips.

Each is what `exercise(**...)` takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mmlab.balancers.mmpareto import pareto_gradient
from mmlab.teaching.pictures.mmpareto import steps

Rule = Callable[[Tensor, Tensor], Tensor]


def _weighted(g: Tensor, u: Tensor, w: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """w g + (1 - w) u, as long as MMPareto's step."""
    share = w((u * (u - g)).sum(-1), (g - u).square().sum(-1))[..., None]
    d = share * g + (1 - share) * u
    return 1.5 * (g + u).norm(dim=-1, keepdim=True) / d.norm(dim=-1, keepdim=True) * d


_SLIPS: dict[str, Rule] = {
    "γ is missing": lambda g, u: pareto_gradient(g, u, gamma=1.0),
    "in a conflict too it is the sum": lambda g, u: 1.5 * (g + u),
    "the length of the sum is not restored": lambda g, u: steps(g, u, 1)["Pareto"],
    "γ d is not yet as long as γ (g + u)": lambda g, u: 1.5 * steps(g, u, 1)["Pareto"],
    "w is the other gradient's weight": lambda g, u: _weighted(g, u, lambda x, y: 1 - x / y),
    "w: ‖g − u‖ must be squared": lambda g, u: _weighted(g, u, lambda x, y: x / y**0.5),
}


# --- how much the joint loss falls by one step in a conflict --------------------------------------


def _by_vectors(
    norm_g: float, norm_u: float, cosine: float, rule: Rule = pareto_gradient
) -> Tensor:
    g, u = torch.tensor([[norm_g, 0], [norm_u * cosine, norm_u * (1 - cosine**2) ** 0.5]])
    return rule(g, u) @ g


def _far(a: float, b: float, cosine: float) -> float:
    """‖g − u‖ by the law of cosines."""
    return (a**2 + b**2 - 2 * a * b * cosine) ** 0.5


def _ratio(a: float, b: float, cosine: float) -> float:
    """‖g + u‖ / ‖g − u‖."""
    return _far(a, b, -cosine) / _far(a, b, cosine)


def _with(rule: Rule) -> Callable[[float, float, float], Tensor]:
    return lambda norm_g, norm_u, cosine: _by_vectors(norm_g, norm_u, cosine, rule)


common_fall: dict[str, Any] = {
    "reference": _by_vectors,
    "cases": {"short u": (1.0, 0.5, -0.4), "long u": (0.1, 2.0, -0.3)},
    "mistakes": {
        **{slip: _with(rule) for slip, rule in _SLIPS.items()},
        "⟨d, g⟩ is ‖d‖²/2, not ‖d‖²": lambda *x: 2 * _by_vectors(*x),
        "‖d‖ is twice the height of the triangle": lambda *x: _by_vectors(*x) / 2,
        "step 5 divides by ‖g − u‖": lambda *x: _by_vectors(*x) * _far(*x),
        "step 5 divides by ‖g − u‖, not by its square": lambda *x: _by_vectors(*x) / _far(*x),
        "step 5 has the root of 1 − cos²": lambda *x: _by_vectors(*x) * (1 - x[2] ** 2) ** 0.5,
        "‖g + u‖² has + 2⟨g, u⟩": lambda *x: _by_vectors(*x) / _ratio(*x),
        "cos stands where ⟨g, u⟩ should": lambda a, b, c: _by_vectors(a, b, c / a / b),
        "⟨g, u⟩ is not cos": lambda a, b, c: (
            _by_vectors(a, b, c) / _ratio(a, b, c) * _ratio(a, b, c / a / b)
        ),
    },
}


# --- PCGrad as a rule from Gramians to weights ----------------------------------------------------


def _pcgrad(gram: Tensor) -> Tensor:
    """Each gradient loses its part along the other one, in a conflict; then the sum."""
    return torch.where(gram[..., :1, 1] < 0, 1 - _parts(gram), 1.0)


def _parts(gram: Tensor) -> Tensor:
    """⟨g, u⟩ / ‖g‖² and ⟨g, u⟩ / ‖u‖², (…, 2)."""
    return gram[..., :1, 1] / gram.diagonal(dim1=-2, dim2=-1)


def _cosines(gram: Tensor) -> Tensor:
    lengths = gram.diagonal(dim1=-2, dim2=-1).sqrt().prod(-1, keepdim=True)
    return torch.where(gram[..., :1, 1] < 0, 1 - gram[..., :1, 1] / lengths, 1.0)


def _gramians() -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(0)
    pairs = torch.randn(40, 2, 5, generator=source, dtype=torch.float64)
    gram = pairs @ pairs.mT
    return {"conflicts": gram[gram[:, 0, 1] < 0], "both kinds": gram}


pcgrad: dict[str, Any] = {
    "reference": _pcgrad,
    "cases": _gramians(),
    "mistakes": {
        "in a conflict too it is the sum": lambda gram: torch.ones_like(gram[..., 0]),
        "without a conflict both weights are 1": lambda gram: 1 - _parts(gram),
        "g and u have changed places: collect both parts of g": lambda gram: _pcgrad(gram).flip(-1),
        "the part is taken away, not added": lambda gram: 2 - _pcgrad(gram),
        "divide by the squared length, not by the length": lambda gram: torch.where(
            gram[..., :1, 1] < 0,
            1 - gram[..., :1, 1] / gram.diagonal(dim1=-2, dim2=-1).sqrt(),
            1.0,
        ),
        "the divisor is one squared length, not the product of both lengths": _cosines,
    },
}
