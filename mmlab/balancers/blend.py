"""Rules from multi-task learning: any map from a Gramian of gradients to weights, as a balancer.

PCGrad, CAGrad, IMTL-G, Nash-MTL and others look at the inner products of the tasks' gradients and
give each a weight. Here the tasks of an encoder are the joint loss and its own unimodal loss.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from mmlab.balancers.mmpareto import cosine
from mmlab.checks import check_shapes
from mmlab.training.balancer import Balancer
from mmlab.training.step import Step


def nash_weights(gram: Tensor) -> Tensor:
    """Nash-MTL's weights of two gradients: each loss falls in proportion to its gradient's length.

    They solve Gα = 1/α, entry by entry, with α > 0. For two gradients g and u, first times α_1 and
    second times α_2, the difference of the two equations is α_1²‖g‖² = α_2²‖u‖²: so α_1 = t/‖g‖ and
    α_2 = t/‖u‖, and either equation then says t² (1 + cos) = 1. The blend has the length √2,
    whatever the gradients' are: the learning rate alone sets the size of a step.

    A gradient of 0 gets weight 0, and the other's weight is 1 over its length. Exactly opposite
    gradients (up to rounding) have no solution: both get weight 0.

    Args:
        gram: inner products of the two gradients, (…, 2, 2).

    Returns:
        (…, 2), ≥ 0, in 1 over the gradients' unit.

    Raises:
        ValueError: the shape does not fit; more than two gradients have no such closed form.

    Source: Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022; the closed form for
    two is derived, the zeros are ours.
    """
    _check_two(gram)
    lengths = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    shared = 1 + cosine(gram)[..., None]
    opposite = shared <= 64 * torch.finfo(gram.dtype).eps
    return torch.where(opposite | (lengths == 0), 0, 1 / (lengths * shared.sqrt()))


def cagrad_weights(gram: Tensor, c: float = 0.5) -> Tensor:
    """CAGrad's weights of two gradients: of the steps near their mean, the best for the worse loss.

    Of all steps within c ‖g_0‖ of the mean gradient g_0, that with the largest least ⟨g_k, d⟩. It
    is d = g_0 + √φ g_w/‖g_w‖, with φ = c²‖g_0‖² and g_w = w g + (1 − w) u, where w in [0, 1]
    minimises ⟨g_w, g_0⟩ + √φ ‖g_w‖. In one dimension that is solved exactly: with b = g − u and the
    point g_w nearest to 0 at w*, at the distance h, ‖g_w‖² = h² + ‖b‖² (w − w*)². The derivative is
    0 at w − w* = −⟨b, g_0⟩ h / √(‖b‖² (φ‖b‖² − ⟨b, g_0⟩²)); where the number under the root is not
    positive, the minimum is at w = 0 or w = 1.

    Where g_w is 0, as when one gradient is 0, the result is the mean. The scale of the gradients
    does not matter.

    Args:
        gram: inner products of g and u, (…, 2, 2).
        c: how far from the mean, relative to its length, in [0, 1); 0 gives the mean.

    Returns:
        (…, 2), ≥ 0, no unit; (½, ½) is the mean.

    Raises:
        ValueError: the shape does not fit, or ``c`` is out of range.

    Source: Liu et al., "Conflict-Averse Gradient Descent for Multi-task Learning", NeurIPS 2021;
    the closed form for two is derived.
    """
    _check_two(gram)
    if not 0 <= c < 1:
        raise ValueError(f"c is {c!r}; allowed is a number ≥ 0 and below 1")
    largest = gram.diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None]
    gram = gram / torch.where(largest == 0, 1, largest)
    gg, uu, gu = gram[..., 0, 0], gram[..., 1, 1], gram[..., 0, 1]
    phi = c**2 * (gg + uu + 2 * gu).clamp(min=0) / 4
    bb, slope = (gg + uu - 2 * gu).clamp(min=0), (gg - uu) / 2
    nearest, height = (uu - gu) / bb, ((gg * uu - gu**2).clamp(min=0) / bb).sqrt()
    curved = phi * bb - slope**2
    inner = (nearest - slope * height / (bb.sqrt() * curved.sqrt())).clamp(0, 1)
    w = torch.where(curved > 0, inner, (slope < 0).to(gram))
    w = torch.stack([w, 1 - w], dim=-1)
    length = (w[..., None, :] @ gram @ w[..., None])[..., 0, 0].clamp(min=0).sqrt()
    stretch = phi.sqrt() / torch.where(length == 0, torch.inf, length)
    return 0.5 + stretch[..., None] * w


def _check_two(gram: Tensor) -> None:
    check_shapes(gram=(gram, "KK"))
    if gram.shape[-1] != 2:
        raise ValueError(
            f"gram has shape {tuple(gram.shape)}; allowed is (…, 2, 2): two gradients per encoder, "
            "the joint and the unimodal one"
        )


class Blend(Balancer):
    """Each encoder gets its joint and its unimodal gradient with the weights that a rule gives.

    The fusion and the heads get the plain gradient of the summed loss.

    Args:
        weighting: Gramian (2, 2), the joint gradient first -> weights (2,). One encoder's at a
            time, so that a weighting of TorchJD will do as it is.

    Raises:
        TypeError: the weighting cannot be called.

    Source: ours; the rule brings its own.

    >>> from torchjd.aggregation import PCGradWeighting
    >>> from mmlab import Blend, MultimodalNet, fit, load
    >>> data = load("av-digits", seed=0)
    >>> run = fit(MultimodalNet.build(data, seed=0), data, Blend(PCGradWeighting()), epochs=1)
    >>> sorted(run.history.query("metric == 'cosine'").output)
    ['audio', 'image']
    """

    def __init__(self, weighting: Callable[[Tensor], Tensor]) -> None:
        if not callable(weighting):
            raise TypeError(
                f"weighting is {weighting!r}; give what makes weights (2,) from a Gramian (2, 2)"
            )
        self.weighting = weighting

    def step(self, s: Step) -> Iterator[None]:
        losses = {m: (s.losses["joint"], s.losses[m]) for m in s.modalities}
        found = s.blend(losses, self.weights)
        s.log(cosine={m: cosine(gram) for m, gram in found.items()})
        yield

    def weights(self, gram: Tensor) -> Tensor:
        """The rule for each of the Gramians (…, 2, 2): weights (…, 2)."""
        each = [self.weighting(one) for one in gram.flatten(0, -3)]
        return torch.stack(each).to(gram).view(gram.shape[:-1])
