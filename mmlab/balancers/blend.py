"""Rules from multi-task learning: any map from a Gramian of gradients to weights, as a balancer.

PCGrad, CAGrad, IMTL-G, Nash-MTL and others look at the inner products of the tasks' gradients and
give each a weight. Here the tasks of an encoder are the joint loss and its own unimodal loss.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from mmlab.balancers.mmpareto import cosine
from mmlab.checks import check_choice, check_number, check_shapes
from mmlab.training.balancer import Balancer
from mmlab.training.step import Step


def pcgrad_weights(gram: Tensor) -> Tensor:
    """PCGrad's weights: each gradient loses its part along those it conflicts with, and all add up.

    Gradient i starts as d = g_i. For each other j with ⟨d, g_j⟩ < 0, d loses its part along g_j:
    d ← d − ⟨d, g_j⟩ / ‖g_j‖² g_j. The step is the sum of the results. For two gradients that is
    w_i = 1 + max(0, −⟨g, u⟩) / ‖g_i‖², and the step conflicts with neither.

    With two gradients no order matters. With more, j goes in the order of the gradients (the paper
    draws an order), and a later projection may bring an earlier conflict back. A gradient of 0
    conflicts with none. Of exactly opposite gradients nothing is left: the step is 0.

    Args:
        gram: inner products of K gradients, (…, K, K).

    Returns:
        (…, K), ≥ 1, no unit.

    Raises:
        ValueError: the shape does not fit.

    Source: Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, Algorithm 1; the
    form for two is derived.
    """
    check_shapes(gram=(gram, "KK"))
    one = _identity(gram)
    made_of = one.expand(gram.shape)  # row i: of which gradients d is the sum
    for j, square in enumerate(gram.diagonal(dim1=-2, dim2=-1).unbind(-1)):
        inner = (made_of @ gram[..., j, :, None])[..., 0]
        part = (-inner).clamp(min=0) / torch.where(square == 0, torch.inf, square)[..., None]
        made_of = made_of + (part * (1 - one[j]))[..., None] * one[j]
    return made_of.sum(-2)


def imtl_weights(gram: Tensor) -> Tensor:
    """IMTL-G's weights: the step reaches equally far along each gradient's direction.

    With unit vectors û_k along the gradients the step d = Σ_k α_k g_k has one ⟨d, û_k⟩ for all k,
    and Σ_k α_k = 1. Let R hold the cosines between the gradients; then α_k = β_k / ‖g_k‖ up to a
    common factor, where Rβ = 1 in all entries. For two gradients both β are equal, whatever the
    angle, so each weight is the other gradient's share of the summed lengths: the step is
    ‖g‖ ‖u‖ / (‖g‖ + ‖u‖) times the sum of the unit vectors. This is also the direction of Nash-MTL;
    but here the length follows the *shorter* gradient. An optimiser that divides lengths away, such
    as Adam, leaves little between the two.

    A gradient of 0 gets weight 0, as if it were not there. Exactly opposite gradients give a step
    of 0. Of more than two, weights may be negative, and dependent gradients have no single
    solution: rounding, added to the diagonal of R, picks one.

    Args:
        gram: inner products of K gradients, (…, K, K).

    Returns:
        (…, K), no unit, with the sum 1 (all 0 where all gradients are); of two ≥ 0.

    Raises:
        ValueError: the shape does not fit.

    Source: Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021, section 3.1. The form
    with cosines and that for two are derived; what zeros and dependent ones get is ours.
    """
    check_shapes(gram=(gram, "KK"))
    lengths = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    inverse = 1 / torch.where(lengths == 0, torch.inf, lengths)
    weights = inverse
    if gram.shape[-1] > 2:
        cosines = gram * inverse[..., None] * inverse[..., None, :]
        rounding = 64 * torch.finfo(gram.dtype).eps
        cosines = cosines + torch.diag_embed(torch.where(lengths == 0, 1, rounding))
        shares, _ = torch.linalg.solve_ex(cosines, torch.ones_like(lengths))  # waits for no check
        weights = shares * inverse
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total == 0, 1, total)


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


def cagrad_weights(gram: Tensor, c: float | Tensor = 0.5) -> Tensor:
    """CAGrad's weights of two gradients: of the steps near their mean, the best for the worse loss.

    Of all steps within c ‖g_0‖ of the mean gradient g_0, that with the largest least ⟨g_k, d⟩. It
    is d = g_0 + √φ g_w/‖g_w‖, with φ = c²‖g_0‖² and g_w = w g + (1 − w) u, where w in [0, 1]
    minimises ⟨g_w, g_0⟩ + √φ ‖g_w‖. In one dimension that is solved exactly: with b = g − u and the
    point g_w nearest to 0 at w*, at the distance h, ‖g_w‖² = h² + ‖b‖² (w − w*)². The derivative is
    0 at w − w* = −⟨b, g_0⟩ h / √(‖b‖² (φ‖b‖² − ⟨b, g_0⟩²)), with ‖b‖² h² the determinant of the
    Gramian; where the number under the root is not positive, the minimum is at w = 0 or w = 1.

    Where g_w is 0, as when one gradient is 0, the result is the mean. The scale of the gradients
    does not matter.

    Args:
        gram: inner products of g and u, (…, 2, 2).
        c: how far from the mean, relative to its length, in [0, 1); 0 gives the mean. A number, or
            a tensor that broadcasts against the leading axes (…), whose entries are not checked.

    Returns:
        (…, 2), ≥ 0, no unit; (½, ½) is the mean.

    Raises:
        ValueError: the shape does not fit, or ``c`` is out of range.

    Source: Liu et al., "Conflict-Averse Gradient Descent for Multi-task Learning", NeurIPS 2021;
    the closed form for two is derived.
    """
    _check_two(gram)
    _check_room(c)
    gram = _over_largest(gram)
    gg, uu, gu = gram[..., 0, 0], gram[..., 1, 1], gram[..., 0, 1]
    total, twice = gg + uu, 2 * gu
    phi = c**2 / 4 * (total + twice).clamp(min=0)
    bb, slope = (total - twice).clamp(min=0), (gg - uu) / 2
    curved = phi * bb - slope**2
    shift = slope * ((gg * uu - gu**2).clamp(min=0) / curved).sqrt()  # ‖b‖² (w* − w)
    inner = ((uu - gu - shift) / bb).clamp(0, 1)
    w = torch.where(curved > 0, inner, (slope < 0).to(gram))
    w = torch.stack([w, 1 - w], dim=-1)
    length = (w[..., None, :] @ gram @ w[..., None])[..., 0, 0].clamp(min=0).sqrt()
    stretch = phi.sqrt() / torch.where(length == 0, torch.inf, length)
    return 0.5 + stretch[..., None] * w


def alignment(gram: Tensor) -> Tensor:
    """Aligned-MTL's matrix B, whose columns weigh two gradients into aligned ones.

    Let the rows of J be the gradients, with the singular values σ_1 ≥ σ_2. The aligned gradients
    are the rows of BJ: orthogonal, both of length σ_2, and the nearest to J of that kind. Their
    condition number is 1. With the Gramian M = JJᵀ it is B = σ_2 M^{−1/2}. For two gradients that
    needs no eigenvectors: M^{1/2} = (M + σ_1 σ_2 I) / (σ_1 + σ_2), so::

        B = (adj M + σ_1 σ_2 I) / (σ_1 (σ_1 + σ_2)),

    where adj M has ‖g‖² and ‖u‖² in each other's place, and −⟨g, u⟩.

    Gradients on one line (up to rounding: in float32 within about 0.003) have but one singular
    value that is not 0. Then B = M / σ_1², which leaves them as they are. So the step jumps there:
    close to the line it is short. B is 0 where both gradients are.

    Args:
        gram: inner products of the two gradients, (…, 2, 2).

    Returns:
        (…, 2, 2), symmetric, no unit.

    Raises:
        ValueError: the shape does not fit; the form for more gradients needs eigenvectors, for
            which the CPU would wait for a GPU.

    Source: Senushkin et al., "Independent Component Alignment for Multi-Task Learning", CVPR 2023,
    Algorithm 1, scaled by the smallest singular value that is not 0; the form for two is derived.
    """
    _check_two(gram)
    gram = _over_largest(gram)
    gg, uu, gu = gram[..., 0, 0], gram[..., 1, 1], gram[..., 0, 1]
    total, product = gg + uu, (gg * uu - gu**2).clamp(min=0).sqrt()
    first = (total + ((gg - uu) ** 2 + 4 * gu**2).sqrt()) / 2  # σ_1²
    line = product**2 <= 64 * torch.finfo(gram.dtype).eps * gg * uu
    one = _identity(gram)
    spread = gram.flip(-2, -1) * (2 * one - 1) + product[..., None, None] * one
    scale = torch.where(line, torch.where(total == 0, 1, total), first + product)
    return torch.where(line[..., None, None], gram, spread) / scale[..., None, None]


def aligned_weights(gram: Tensor) -> Tensor:
    """Aligned-MTL's weights: the step is the mean of the two aligned gradients (`alignment`).

    Its length is σ_2/√2, so that it is shorter than either gradient. A weight may be negative. Of
    gradients on one line, as exactly opposite ones, the step is the mean. A gradient of 0 gets
    weight 0, and the other ½.

    Args:
        gram: inner products of the two gradients, (…, 2, 2).

    Returns:
        (…, 2), no unit.

    Raises:
        ValueError: the shape does not fit, as in `alignment`.

    Source: as of `alignment`, with equal preferences.
    """
    return alignment(gram).mean(-1)


def _identity(gram: Tensor) -> Tensor:
    return torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)


def _over_largest(gram: Tensor) -> Tensor:
    """The Gramian over its largest entry, for squares that neither underflow nor overflow."""
    largest = gram.diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None]
    return gram / largest.clamp(min=torch.finfo(gram.dtype).tiny)


def _check_two(gram: Tensor) -> None:
    check_shapes(gram=(gram, "KK"))
    if gram.shape[-1] != 2:
        raise ValueError(
            f"gram has shape {tuple(gram.shape)}; allowed is (…, 2, 2): two gradients per encoder, "
            "the joint and the unimodal one"
        )


def _check_room(c: float | Tensor) -> None:
    if not isinstance(c, Tensor) and not 0 <= c < 1:
        raise ValueError(f"c is {c!r}; allowed is a number ≥ 0 and below 1")


RULES: Mapping[str, Callable[..., Tensor]] = {
    "pcgrad": pcgrad_weights,
    "cagrad": cagrad_weights,
    "imtl-g": imtl_weights,
    "nash-mtl": nash_weights,
    "aligned-mtl": aligned_weights,
}
"""The rules that `Blend` knows by name: Gramians (…, 2, 2) -> weights (…, 2)."""


class Blend(Balancer):
    """Each encoder gets its joint and its unimodal gradient with the weights that a rule gives.

    The fusion and the heads get the plain gradient of the summed loss. A unimodal loss is the mean
    over the samples that have the modality. Where no sample of a batch has it, the unimodal
    gradient is 0, and each rule says what it does then.

    Args:
        weighting: a name in RULES, or a function of your own: Gramian (2, 2), the joint gradient
            first -> weights (2,). It sees one encoder's at a time, so that a weighting of TorchJD
            will do as it is; a rule of RULES sees those of all encoders of linear layers at once.
        c: of the rule "cagrad" alone, see `cagrad_weights`.

    Raises:
        ValueError: an unknown rule; `c` out of range, or for a rule that has none.
        TypeError: the weighting is no name and cannot be called.

    Source: the rules bring their own. The papers' tasks share a network; to take the joint and the
    unimodal loss as two tasks of each encoder is ours, after MMPareto.

    >>> from mmlab import Blend, MultimodalNet, fit, load
    >>> data = load("av-digits", seed=0)
    >>> net = MultimodalNet.build(data, seed=0)
    >>> run = fit(net, data, Blend("cagrad", c=0.4), epochs=1)
    >>> sorted(run.history.query("metric == 'cosine'").output)
    ['audio', 'image']
    >>> from torchjd.aggregation import IMTLGWeighting
    >>> Blend(IMTLGWeighting()).name
    'Blend(IMTLGWeighting)'
    """

    def __init__(
        self, weighting: str | Callable[[Tensor], Tensor], *, c: float | None = None
    ) -> None:
        if isinstance(weighting, str):
            check_choice("weighting", weighting, RULES)
        elif not callable(weighting):
            raise TypeError(
                f"weighting is {weighting!r}; give one of {', '.join(map(repr, RULES))}, or what "
                "makes weights (2,) from a Gramian (2, 2)"
            )
        if c is not None and weighting != "cagrad":
            raise ValueError(f"c is {c!r}, and only the rule 'cagrad' has one; leave it out")
        if c is not None:
            check_number("c", c)
            _check_room(c)
        self.weighting, self.c = weighting, c

    @property
    def name(self) -> str:
        rule = self.weighting
        known = rule if isinstance(rule, str) else getattr(rule, "__name__", type(rule).__name__)
        return f"Blend({known.strip('<>')})"

    @property
    def lost_if_adaptive(self) -> str:
        lengths = ("imtl-g", "nash-mtl", "aligned-mtl")  # what tells these from one another
        lost = "keeps only the direction of its encoders' gradients, not their length; use SGD"
        return lost if self.weighting in lengths else ""

    def step(self, s: Step) -> Iterator[None]:
        losses = {m: (s.losses["joint"], s.losses[m]) for m in s.modalities}
        found = s.blend(losses, self.weights)
        s.log(cosine={m: cosine(gram) for m, gram in found.items()})
        yield

    def weights(self, gram: Tensor) -> Tensor:
        """The weights (…, 2) of the joint and the unimodal gradient, from Gramians (…, 2, 2)."""
        if isinstance(self.weighting, str):
            rule = RULES[self.weighting]
            return rule(gram) if self.c is None else rule(gram, c=self.c)
        each = [self.weighting(one) for one in gram.flatten(0, -3)]
        return torch.stack(each).to(gram).view(gram.shape[:-1])
