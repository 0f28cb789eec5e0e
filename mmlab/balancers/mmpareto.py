"""MMPareto: where the joint and the unimodal gradient of an encoder conflict, serve both.

Wei, Hu, "MMPareto: Boosting Multimodal Learning with Innocent Unimodal Assistance", ICML 2024,
arXiv 2405.17730.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from mmlab import gradients
from mmlab.balancers.base import Balancer, Step
from mmlab.balancers.shapes import check_shapes


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
    scale = _largest(g, u)
    pull_g, pull_u = _pulls(g / scale, u / scale)
    pull_g, pull_u = pull_g.clamp(min=0), pull_u.clamp(min=0)
    total = pull_g + pull_u
    return torch.where(total == 0, 0.5, pull_g / total)[..., 0]


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
    scale = _largest(g, u)
    g, u = g / scale, u / scale
    total = g + u
    conflict = (g * u).sum(-1, keepdim=True) < 0

    # In a conflict both pulls are positive sums, so neither cancels, as 1 − w would. Their blend
    # is parallel to the min-norm point, and the magnitude is set anew anyway.
    pull_g, pull_u = _pulls(g, u)
    common = pull_g * g + pull_u * u
    length = _norm(common)
    noise = 16 * torch.finfo(g.dtype).eps * (pull_g * _norm(g) + pull_u * _norm(u))
    direction = torch.where(length <= noise, 0, common / length)

    aligned = gamma * total if gamma_on_aligned else total
    return scale * torch.where(conflict, gamma * _norm(total) * direction, aligned)


def _pulls(g: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """⟨u, u − g⟩ and ⟨g, g − u⟩, (…, 1): the min-norm weights of g and u times ‖g − u‖²."""
    apart = g - u
    return -(u * apart).sum(-1, keepdim=True), (g * apart).sum(-1, keepdim=True)


def _largest(*vectors: Tensor) -> Tensor:
    """The largest magnitude of an entry in any of the vectors, (…, 1); 1 where all are 0."""
    largest = torch.stack(torch.broadcast_tensors(*(v.abs().amax(-1) for v in vectors))).amax(0)
    return torch.where(largest == 0, 1, largest)[..., None]


def _norm(v: Tensor) -> Tensor:
    """Euclidean norm, (…, 1), of vectors whose squares may underflow."""
    largest = _largest(v)
    return largest * torch.linalg.vector_norm(v / largest, dim=-1, keepdim=True)


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
    for parameter, before, d in zip(shared, kept, _whole(g, u, gamma, True), strict=True):
        parameter.grad = d if before is None else before + d


def _whole(
    g: Sequence[Tensor], u: Sequence[Tensor], gamma: float, gamma_on_aligned: bool
) -> list[Tensor]:
    """`pareto_gradient` of an encoder's tensors taken as one vector."""
    d = pareto_gradient(
        gradients.flatten(g), gradients.flatten(u), gamma=gamma, gamma_on_aligned=gamma_on_aligned
    )
    parts = d.split([tensor.numel() for tensor in g])
    return [part.view_as(tensor) for part, tensor in zip(parts, g, strict=True)]


def _by_tensor(
    g: Sequence[Tensor], u: Sequence[Tensor], gamma: float, gamma_on_aligned: bool
) -> list[Tensor]:
    """The released code's rescale: the encoder's direction, each tensor's magnitude on its own.

    (The code also clamps w to [.001, .999] and counts a cosine of 0 as a conflict; this does not.)

    A factor a tensor turns the whole vector, so the result can oppose g or u.
    """
    flat_g, flat_u = gradients.flatten(g), gradients.flatten(u)
    conflict = torch.dot(flat_g, flat_u) < 0
    w = torch.where(conflict, min_norm_weights(flat_g, flat_u), 0.5)
    factor = torch.where(conflict, gamma, gamma if gamma_on_aligned else 1.0).to(w)
    result = []
    for x, y in zip(g, u, strict=True):
        d = 2 * w * x + 2 * (1 - w) * y
        length = d.norm()
        noise = 16 * torch.finfo(d.dtype).eps * (x.norm() + y.norm())
        result.append(torch.where(length <= noise, 0, factor * (x + y).norm() / length * d))
    return result


class MMPareto(Balancer):
    """Joint and unimodal losses, whose gradients are integrated in each encoder without conflict.

    Two engine runs and two backward passes through each encoder, for any number of modalities:
    each encoder meets the joint gradient g and its own unimodal gradient u, and gets
    `pareto_gradient(g, u)`. The fusion and the heads get the plain gradient of the summed loss.

    Args:
        gamma: magnitude of the integrated gradient relative to the uniform sum's.
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

    def __init__(
        self, gamma: float = 1.5, rescale: str = "encoder", gamma_on_aligned: bool = True
    ) -> None:
        if not gamma > 0:
            raise ValueError(f"gamma is {gamma!r}; allowed is a number above 0")
        if rescale not in ("encoder", "tensor"):
            raise ValueError(f"rescale is {rescale!r}; allowed are 'encoder' and 'tensor'")
        self.gamma, self.rescale, self.gamma_on_aligned = gamma, rescale, gamma_on_aligned

    def step(self, s: Step) -> Iterator[None]:
        joint = s.encoder_grads(s.losses["joint"])
        unimodal = s.encoder_grads(sum(s.losses[m] for m in s.modalities))
        integrate = _whole if self.rescale == "encoder" else _by_tensor
        learning = [m for m in s.modalities if joint[m]]  # a frozen encoder has no gradient
        for m in learning:
            g, u = joint[m], unimodal[m]
            s.set_grad(m, integrate(g, u, self.gamma, self.gamma_on_aligned))
        s.log(cosine={m: gradients.cosine(joint[m], unimodal[m]) for m in learning})
        yield
