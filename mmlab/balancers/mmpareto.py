"""MMPareto: where the joint and the unimodal gradient of an encoder conflict, serve both.

Wei, Hu, "MMPareto: Boosting Multimodal Learning with Innocent Unimodal Assistance", ICML 2024,
arXiv 2405.17730.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from mmlab.checks import check_choice, check_flag, check_number, check_shapes, check_values
from mmlab.gradients import grams
from mmlab.training.balancer import Balancer
from mmlab.training.step import Step


def min_norm_weights(g: Tensor, u: Tensor) -> Tensor:
    """The weight w of g in the shortest vector w g + (1 − w) u between g and u.

    w = clip(⟨u, u − g⟩ / ‖g − u‖², 0, 1); ½ where g = u, and so every w is as good.

    Args:
        g: the first gradient, (…, P).
        u: the second gradient, (…, P), in the unit of g.

    Returns:
        (…), in [0, 1], no unit. u gets 1 − w.

    Raises:
        ValueError: the shapes do not fit.

    Source: the paper; the closed form of the min-norm problem for two objectives.
    """
    check_shapes(g=(g, "P"), u=(u, "P"))
    pulls = min_norm_pulls(_gram(_pair(g, u)[0]))
    total = pulls.sum(-1)
    return torch.where(total == 0, 0.5, pulls[..., 0] / total).to(g.dtype)


def min_norm_pulls(gram: Tensor) -> Tensor:
    """The weights of g and u in the shortest vector between them, times ‖g − u‖².

    ⟨u, u − g⟩ and ⟨g, g − u⟩, clipped at 0. Both are sums of what a Gramian holds, so that a weight
    far smaller than the other does not drown in it, as in 1 − w.

    Args:
        gram: inner products of g and u, (…, 2, 2).

    Returns:
        (…, 2), ≥ 0, in the unit of the Gramian.

    Source: the closed form of the min-norm problem for two objectives.
    """
    squares = gram.diagonal(dim1=-2, dim2=-1)
    return (squares.flip(-1) - gram[..., :1, 1]).clamp(min=0)


def pareto_weights(
    gram: Tensor,
    gamma: float | Tensor = 1.5,
    *,
    gamma_on_aligned: bool = True,
    rounding: float | None = None,
) -> Tensor:
    """The weights of g and u in MMPareto's gradient, from their inner products.

    No conflict, ⟨g, u⟩ ≥ 0: the uniform sum g + u, times γ if ``gamma_on_aligned``. Conflict: the
    direction of the min-norm point, which opposes neither g nor u, with the magnitude γ ‖g + u‖.
    One factor scales the whole vector: a factor for each of its parts could oppose g or u again.
    Exactly opposite gradients have nothing in common: where the min-norm point is 0 up to rounding,
    so are the weights. The scale of g and u is free.

    Args:
        gram: inner products of g and u, (…, 2, 2).
        gamma: γ, the magnitude relative to the uniform sum's, no unit; a number, or a tensor that
            broadcasts against the leading axes (…).
        gamma_on_aligned: whether γ also applies without conflict, as in the released code.
        rounding: relative error of the Gramian; by default 64 units of its type, so that in float32
            gradients within about 0.003 of opposite count as exactly opposite.

    Returns:
        (…, 2), ≥ 0, no unit.

    Raises:
        ValueError: the shape does not fit; gamma is not above 0 (of a tensor on a GPU unread).

    Source: the paper, whole-vector rescale; the zero for opposite gradients is ours.
    """
    check_shapes(gram=(gram, "GG"))
    check_values("gamma", gamma, above=0)
    gram = gram / _largest(gram, (-2, -1))  # third powers of small ones would underflow
    aligned, pulls = gram[..., 0, 1] >= 0, min_norm_pulls(gram)  # a NaN is not aligned: it shows
    square = (pulls[..., None, :] @ gram @ pulls[..., None])[..., 0, 0]  # of the min-norm point
    rounding = 64 * torch.finfo(gram.dtype).eps if rounding is None else rounding
    noise = rounding * (pulls.square() * gram.diagonal(dim1=-2, dim2=-1)).sum(-1)
    stretch = gamma * (gram.sum((-2, -1)).clamp(min=0) / square).sqrt()
    stretch = torch.where(square <= noise, 0, stretch)
    stretch = torch.where(aligned, gamma if gamma_on_aligned else 1.0, stretch)
    return torch.where(aligned[..., None], 1, pulls) * stretch[..., None]


def released_weights(
    gram: Tensor, gamma: float | Tensor = 1.5, *, gamma_on_aligned: bool = True
) -> Tensor:
    """The weights of g and u as the released code sets them: for each parameter tensor its own.

    The direction is the encoder's: the uniform sum, or in a conflict 2w g + 2(1 − w) u with the
    min-norm w. A cosine of 0 counts as a conflict. There each tensor's magnitude is *raised* to
    that of its uniform sum where it is shorter, never lowered. All is multiplied by γ. Factors that
    differ turn the whole vector, so the result can oppose g or u.

    Args:
        gram: inner products of g and u in each of T parameters, (…, T, 2, 2).
        gamma: γ, no unit; a number, or a tensor that broadcasts against (…, T).
        gamma_on_aligned: whether γ also applies without conflict. The code does so.

    Returns:
        (…, T, 2), ≥ 0, no unit.

    Raises:
        ValueError: the shape does not fit.

    Source: the released code; 0, where it divides by 0, is ours.
    """
    check_shapes(gram=(gram, "TGG"))
    gram = gram / _largest(gram, (-3, -2, -1))
    whole = gram.sum(-3, keepdim=True)
    aligned, pulls = whole[..., 0, 1] > 0, min_norm_pulls(whole)
    w = pulls / pulls.sum(-1, keepdim=True)
    # the code's solver stops short of the ends
    ends = torch.where(pulls == 0, 0.001, 0.999)
    w = torch.where((pulls == 0).any(-1, keepdim=True), ends, w)
    w = torch.where(aligned[..., None], 1, 2 * w)
    squares = gram.diagonal(dim1=-2, dim2=-1)
    own, uniform = (w[..., None, :] @ gram @ w[..., None])[..., 0, 0], gram.sum((-2, -1))
    noise = 64 * torch.finfo(gram.dtype).eps * (w.square() * squares).sum(-1)
    raised = torch.where(own <= noise, 0, (uniform.clamp(min=0) / own).sqrt().clamp(min=1))
    raised = torch.where(aligned, gamma if gamma_on_aligned else 1.0, raised * gamma)
    return w * raised[..., None]


def cosine(gram: Tensor) -> Tensor:
    """Cosine of the angle between g and u, (…), from their inner products (…, 2, 2).

    0 where one of them is zero.
    """
    lengths = gram.diagonal(dim1=-2, dim2=-1).sqrt().prod(-1)
    return gram[..., 0, 1] / lengths.clamp(min=torch.finfo(gram.dtype).tiny)


def pareto_gradient(
    g: Tensor, u: Tensor, *, gamma: float = 1.5, gamma_on_aligned: bool = True
) -> Tensor:
    """One gradient for an encoder out of its joint gradient g and its unimodal gradient u.

    `pareto_weights`, applied: in a training only the weights are computed, and the gradients meet
    them inside `Step` (`Step.blend`).

    Args:
        g: gradient of the joint loss for all parameters of an encoder, flattened, (…, P).
        u: gradient of the unimodal loss for the same parameters, (…, P), in the unit of g.
        gamma: γ, the magnitude of the result relative to the uniform sum's, no unit.
        gamma_on_aligned: whether γ also applies where g and u do not conflict.

    Returns:
        (…, P), in the unit of g and u.

    Raises:
        ValueError: the shapes do not fit.

    Source: the paper, whole-vector rescale; the zero for opposite gradients is ours.
    """
    check_shapes(g=(g, "P"), u=(u, "P"))
    pair, scale = _pair(g, u)
    rounding = max(64 * torch.finfo(pair.dtype).eps, (16 * torch.finfo(g.dtype).eps) ** 2)
    weights = pareto_weights(
        _gram(pair), gamma, gamma_on_aligned=gamma_on_aligned, rounding=rounding
    )
    return ((weights[..., None, :] @ pair)[..., 0, :] * scale).to(g.dtype)


def _gram(pair: Tensor) -> Tensor:
    return pair @ pair.mT


def _pair(g: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """g and u as the rows of one matrix (…, 2, P), over their largest entry (…, 1).

    In float64, where there is one: the squares of the angle between them are to count.
    """
    pair = torch.stack(torch.broadcast_tensors(g, u), dim=-2)
    pair = pair if pair.is_mps else pair.double()
    scale = _largest(pair, (-2, -1))
    return pair / scale, scale[..., 0]


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
    (losses[0] + losses[1]).backward()
    weights = pareto_weights(grams([g, u]).sum(0), gamma)
    combined = [weights[0] * x + weights[1] * y for x, y in zip(g, u, strict=True)]
    for parameter, before, d in zip(shared, kept, combined, strict=True):
        parameter.grad = d if before is None else before + d


class MMPareto(Balancer):
    """Joint and unimodal losses, whose gradients are integrated in each encoder without conflict.

    Each encoder meets the joint gradient g and its own unimodal gradient u, and gets
    `pareto_gradient(g, u)`. The fusion and the heads get the plain gradient of the summed loss.

    Args:
        gamma: magnitude of the integrated gradient relative to the uniform sum's, above 0.
        rescale: "encoder" sets the magnitude of the whole vector, as the paper says
            (`pareto_weights`); "tensor" does what the released code does (`released_weights`), and
            can oppose one objective.
        gamma_on_aligned: whether gamma also applies without conflict, as in the released code.

    Raises:
        ValueError: an argument out of range.

    Source: the paper's algorithm 1. The baseline with the same losses is
    `Uniform(encoder_scale=gamma)`.

    >>> from mmlab import MMPareto, MultimodalNet, fit, load
    >>> data = load("av-digits", seed=0)
    >>> balancer = MMPareto(gamma=1.5)
    >>> net = MultimodalNet.build(data, **balancer.network, seed=0)
    >>> run = fit(net, data, balancer, epochs=1)
    >>> cosine = run.history.query("metric == 'cosine'").set_index("output").value
    >>> bool(cosine.between(-1, 1).all()), sorted(cosine.index)
    (True, ['audio', 'image'])
    """

    def __init__(
        self, gamma: float = 1.5, rescale: str = "encoder", gamma_on_aligned: bool = True
    ) -> None:
        check_number("gamma", gamma, above=0)
        check_choice("rescale", rescale, ("encoder", "tensor"))
        check_flag("gamma_on_aligned", gamma_on_aligned)
        self.gamma, self.rescale, self.gamma_on_aligned = gamma, rescale, gamma_on_aligned

    @property
    def lost_if_adaptive(self) -> str:
        return (
            "keeps only the direction of its gradients, not their length (gamma, rescale); compare "
            "it with Uniform() under the same optimiser, or use SGD"
        )

    def step(self, s: Step) -> Iterator[None]:
        losses = {m: (s.losses["joint"], s.losses[m]) for m in s.modalities}
        found = s.blend(losses, self.weights, by=self.rescale)
        s.log(cosine={m: cosine(gram) for m, gram in found.items()})
        yield

    def weights(self, gram: Tensor) -> Tensor:
        """The weights (…, 2) of the joint and the unimodal gradient, from Gramians (…, 2, 2)."""
        rule = pareto_weights if self.rescale == "encoder" else released_weights
        return rule(gram, self.gamma, gamma_on_aligned=self.gamma_on_aligned)
