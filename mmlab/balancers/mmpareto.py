"""MMPareto: where the joint and the unimodal gradient of an encoder conflict, serve both.

Wei, Hu, "MMPareto: Boosting Multimodal Learning with Innocent Unimodal Assistance", ICML 2024,
arXiv 2405.17730.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from mmlab import gradients
from mmlab.balancers.base import Balancer, Step
from mmlab.balancers.shapes import beside, check_number, check_shapes, per_replica
from mmlab.factors import Tape


def min_norm_weights(g: Tensor, u: Tensor) -> Tensor:
    """The weight w of g in the shortest vector w g + (1 − w) u between g and u.

    w = clip(⟨u, u − g⟩ / ‖g − u‖², 0, 1); ½ where g = u, and so every w is as good.

    Args:
        g, u: gradients, (…, P), in one unit.

    Returns:
        (…), in [0, 1], no unit. u gets 1 − w.

    Raises:
        ValueError: the shapes do not fit.

    Source: the paper; the closed form of the min-norm problem for two objectives.
    """
    check_shapes(g=(g, "P"), u=(u, "P"))
    pair = _pair(g, u)
    g, u = (pair / _largest(pair, (-2, -1))).unbind(-2)
    apart = g - u
    pull_g, pull_u = (-(u * apart).sum(-1)).clamp(min=0), (g * apart).sum(-1).clamp(min=0)
    total = pull_g + pull_u
    return torch.where(total == 0, 0.5, pull_g / total)


def pareto_gradient(
    g: Tensor, u: Tensor, *, gamma: float = 1.5, gamma_on_aligned: bool = True
) -> Tensor:
    """One gradient for an encoder out of its joint gradient g and its unimodal gradient u.

    No conflict, ⟨g, u⟩ ≥ 0: the uniform sum g + u, times γ if ``gamma_on_aligned``. Conflict: the
    direction of the min-norm point, which opposes neither g nor u, with the magnitude γ ‖g + u‖.
    One factor scales the whole vector: a factor for each of its parts could oppose g or u again.
    Exactly opposite gradients have nothing in common: where the min-norm point is 0 up to rounding,
    the result is 0. The scale of g and u is free: nothing overflows or underflows on the way.

    Args:
        g, u: gradients of all parameters of an encoder, flattened, (…, P), in one unit.
        gamma: γ, the magnitude relative to the uniform sum's, no unit.
        gamma_on_aligned: whether γ also applies without conflict, as in the released code.

    Returns:
        (…, P), in the unit of g and u.

    Raises:
        ValueError: the shapes do not fit.

    Source: the paper, whole-vector rescale; the zero for opposite gradients is ours.
    """
    check_shapes(g=(g, "P"), u=(u, "P"))
    pair = _pair(g, u)
    scale = _largest(pair, (-2, -1))
    pair = pair / scale
    gram = pair @ pair.mT
    squares, conflict = gram.diagonal(dim1=-2, dim2=-1), gram[..., :1, 1] < 0

    # The min-norm weights of g and u times ‖g − u‖²: ⟨u, u − g⟩ and ⟨g, g − u⟩. In a conflict both
    # are positive sums, so neither cancels, as 1 − w would. Their blend is parallel to the min-norm
    # point, and the magnitude is set anew anyway.
    pulls = squares.flip(-1) - gram[..., :1, 1]
    common = (pulls[..., None, :] @ pair)[..., 0, :]
    largest = _largest(common, -1)  # the squares of a short one may underflow
    common = common / largest
    length = torch.linalg.vector_norm(common, dim=-1, keepdim=True)
    noise = 16 * torch.finfo(pair.dtype).eps * (pulls * squares.sqrt()).sum(-1, keepdim=True)

    total = pair.sum(-2)
    magnitude = gamma * torch.linalg.vector_norm(total, dim=-1, keepdim=True)
    stretch = torch.where(largest * length <= noise, 0, magnitude / length)
    stretch = torch.where(conflict, stretch, gamma if gamma_on_aligned else 1.0)
    return torch.where(conflict, common, total) * (stretch * scale[..., 0])


def _pair(g: Tensor, u: Tensor) -> Tensor:
    """g and u as the rows of one matrix, (…, 2, P)."""
    return torch.stack(torch.broadcast_tensors(g, u), dim=-2)


def _pareto_weights(
    gram: Tensor, gamma: float | Tensor, gamma_on_aligned: bool
) -> tuple[Tensor, Tensor]:
    """`pareto_gradient` as weights (…, 2) of g and u, from their inner products (…, 2, 2).

    Lengths come from squares here: gradients within about 0.003 of opposite (float32) count as
    exactly opposite.
    """
    gram = gram / _largest(gram, (-2, -1))  # third powers of small ones would underflow
    squares, inner = gram.diagonal(dim1=-2, dim2=-1), gram[..., :1, 1]
    conflict, pulls = inner < 0, squares.flip(-1) - inner
    length = (pulls[..., None, :] @ gram @ pulls[..., None])[..., 0]
    noise = 64 * torch.finfo(gram.dtype).eps * (pulls.square() * squares).sum(-1, keepdim=True)
    stretch = gamma * (gram.sum((-2, -1)).clamp(min=0)[..., None] / length).sqrt()
    blend = torch.where(length <= noise, 0, pulls * stretch)
    weights = torch.where(conflict, blend, gamma if gamma_on_aligned else 1.0)
    lengths = squares.prod(-1).sqrt().clamp(min=torch.finfo(gram.dtype).tiny)
    return weights, inner[..., 0] / lengths


def _largest(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """The largest magnitude of an entry, kept as axes of length 1; tiny where all are 0."""
    largest = torch.linalg.vector_norm(x, torch.inf, dim=dim, keepdim=True)
    return largest.clamp(min=torch.finfo(x.dtype).tiny)


def integrate_tasks(
    losses: tuple[Tensor, Tensor], shared: Sequence[nn.Parameter], *, gamma: float = 1.5
) -> None:
    """MMPareto's integration for two tasks of unequal difficulty that share an encoder.

    Adds the gradient of the summed losses to `.grad` of every parameter outside `shared`, and the
    `pareto_gradient` of the two tasks' gradients to that of the shared ones.

    Args:
        losses: the scalar losses of the two tasks.
        shared: the parameters of the encoder that both tasks use.
        gamma: see `pareto_gradient`.

    Raises:
        ValueError: not two losses, or no shared parameter.

    Source: the paper's extension to multi-task learning.
    """
    shared = list(shared)
    if len(losses) != 2 or not shared:
        raise ValueError(
            f"got {len(losses)} losses and {len(shared)} shared parameters; allowed are two losses "
            "and at least one parameter"
        )
    g, u = (
        torch.autograd.grad(loss, shared, retain_graph=True, materialize_grads=True)
        for loss in losses
    )
    kept = [p.grad for p in shared]
    for parameter in shared:
        parameter.grad = None  # else the engine adds the plain gradient to what was kept, in place
    sum(losses).backward()
    weights, _ = _pareto_weights(gradients.gram(g, u), gamma, True)
    combined = gradients.combine(g, u, *weights)
    for parameter, before, d in zip(shared, kept, combined, strict=True):
        parameter.grad = d if before is None else before + d


def _by_tensor(
    g: Sequence[Tensor],
    u: Sequence[Tensor],
    gamma: float | Tensor,
    gamma_on_aligned: bool,
    lead: int = 0,
) -> tuple[list[Tensor], Tensor]:
    """The released code's rescale: the encoder's direction, each tensor's magnitude on its own.

    (The code also counts a cosine of 0 as a conflict, and only raises a tensor's magnitude, never
    lowers it; this does neither.)

    A factor a tensor turns the whole vector, so the result can oppose g or u.
    """
    flat_g, flat_u = gradients.flatten(g, lead), gradients.flatten(u, lead)
    inner = torch.linalg.vecdot(flat_g, flat_u)[..., None]
    w = torch.where(inner < 0, min_norm_weights(flat_g, flat_u)[..., None], 0.5)
    factor = torch.where(inner < 0, gamma, gamma if gamma_on_aligned else 1.0).to(w)
    norm = functools.partial(torch.linalg.vector_norm, dim=-1, keepdim=True)
    parts = []
    for x, y in zip(_vectors(g, lead), _vectors(u, lead), strict=True):
        d = 2 * w * x + 2 * (1 - w) * y
        length, noise = norm(d), 16 * torch.finfo(d.dtype).eps * (norm(x) + norm(y))
        parts.append(torch.where(length <= noise, 0, factor * norm(x + y) / length * d))
    lengths = (norm(flat_g) * norm(flat_u)).clamp(min=torch.finfo(w.dtype).tiny)
    return gradients.unflatten(torch.cat(parts, dim=-1), g), (inner / lengths)[..., 0]


def _vectors(grads: Sequence[Tensor], lead: int) -> list[Tensor]:
    return [gradients.flatten([g], lead) for g in grads]


class MMPareto(Balancer):
    """Joint and unimodal losses, whose gradients are integrated in each encoder without conflict.

    Two backward passes through each encoder: it meets the joint gradient g and its own unimodal
    gradient u, and gets `pareto_gradient(g, u)`. One encoder after the other, so that beside the
    gradients of joint training those of one encoder are held. In encoders of linear layers both
    passes stop short of the weight gradients: norms and inner products come from their factors
    (`mmlab.factors`). The fusion and the heads get the plain gradient of the summed loss.

    A parameter is one encoder's own, or all of the encoder is shared between modalities; weights
    are of 32 bits or more (half of that is for `fit(autocast=True)`).

    Args:
        gamma: magnitude of the integrated gradient relative to the uniform sum's. A tensor (R,)
            gives each network of a stack its own.
        rescale: "encoder" sets the magnitude of the whole vector, as the paper says; "tensor" that
            of each parameter tensor, as the released code does, which can oppose one objective.
        gamma_on_aligned: whether gamma also applies without conflict, as in the released code.

    Raises:
        ValueError: an argument out of range.

    Source: the paper's algorithm 1. The fair control is `Uniform(encoder_scale=gamma)`.

    >>> from mmlab import MMPareto, MultimodalNet, fit, load
    >>> data = load("av-digits", seed=0)
    >>> balancer = MMPareto(gamma=1.5)
    >>> net = MultimodalNet.build(data, **balancer.network, seed=0)
    >>> run = fit(net, data, balancer, epochs=1)
    >>> cosine = run.history.query("metric == 'cosine'").set_index("output").value
    >>> bool(cosine.between(-1, 1).all()), sorted(cosine.index)
    (True, ['audio', 'image'])
    """

    stackable = True

    def __init__(
        self, gamma: float | Tensor = 1.5, rescale: str = "encoder", gamma_on_aligned: bool = True
    ) -> None:
        check_number("gamma", gamma, above=0)
        if rescale not in ("encoder", "tensor"):
            raise ValueError(f"rescale is {rescale!r}; allowed are 'encoder' and 'tensor'")
        self.gamma, self.rescale, self.gamma_on_aligned = gamma, rescale, gamma_on_aligned

    def step(self, s: Step) -> Iterator[None]:
        encoders = s.model.encoders if self.rescale == "encoder" else {}
        with Tape(encoders, s.batch.target.shape[-1]) as tape:
            _ = s.out
        trained = [m for m in s.modalities if s.parameters(m)]  # the others are frozen
        taped = {m: tape.wanted(m) for m in trained if m in tape.layers}
        wanted = {m: taped.get(m, s.parameters(m)) for m in trained}
        joint = _grads(s, s.losses["joint"], taped)
        unimodal = _grads(s, s.losses.stack(*s.modalities), wanted)
        cosines = self._blend(s, tape, joint, unimodal) if taped else {}
        for m in trained:
            if m not in taped:  # in its turn, so that one encoder at a time holds two gradients
                s.set_grad_from(m, s.losses["joint"])
                cosines[m] = self._combine(s, m, unimodal.pop(m))
        s.log(cosine={m: cosines[m] for m in trained})
        yield

    def _combine(self, s: Step, m: str, u: list[Tensor]) -> Tensor:
        """The joint gradient, which stands in `.grad`, combined with u in its place; the cosine."""
        g = s.gradient(m)
        if self.rescale == "tensor":
            gamma = self._gamma(s, g[0].flatten(s.lead))
            d, cosine = _by_tensor(g, u, gamma, self.gamma_on_aligned, s.lead)
            s.set_grad(m, d)
            return cosine
        weights, cosine = self._weights(s, gradients.gram(g, u, s.lead))
        s.scale_grad(m, weights[..., 0])
        torch._foreach_addcmul_(s.gradient(m), u, [beside(weights[..., 1], x) for x in u])
        return cosine

    def _blend(
        self,
        s: Step,
        tape: Tape,
        joint: Mapping[str, Sequence[Tensor]],
        unimodal: Mapping[str, Sequence[Tensor]],
    ) -> dict[str, Tensor]:
        """The same for all linear encoders, out of the factors of one gradient of each weight."""
        deltas = {
            m: [torch.stack(pair, dim=-3) for pair in zip(g, unimodal[m], strict=True)]
            for m, g in joint.items()
        }
        grams = torch.stack([tape.gram(m, own) for m, own in deltas.items()], dim=-3)
        weights, cosines = self._weights(s, grams)
        for (m, own), w in zip(deltas.items(), weights.unbind(-2), strict=True):
            s.set_grad(m, tape.blend(m, own, w))
        return dict(zip(deltas, cosines.unbind(-1), strict=True))

    def _weights(self, s: Step, gram: Tensor) -> tuple[Tensor, Tensor]:
        return _pareto_weights(gram, self._gamma(s, gram[..., 0]), self.gamma_on_aligned)

    def _gamma(self, s: Step, like: Tensor) -> float | Tensor:
        return per_replica(self.gamma, like, s.model.replicas)


def _grads(
    s: Step, loss: Tensor, wanted: Mapping[str, Sequence[Tensor]]
) -> dict[str, list[Tensor]]:
    """The gradients of a loss for the tensors wanted of each modality: one run of the engine."""
    flat = iter(s.grads(loss, [x for own in wanted.values() for x in own]))
    return {m: [next(flat) for _ in own] for m, own in wanted.items()}
