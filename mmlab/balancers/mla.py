"""MLA: modalities take turns with one shared head, whose update is projected.

So the update changes little for the other modalities' features.

Zhang, Yoon, Bansal, Yao, "Multimodal Representation Learning by Alternating Unimodal Adaptation",
CVPR 2024, arXiv 2311.10707.

The head's gradient G (C, D) becomes G P, with P (D, D) nearly 0 on what the features of the other
modalities span. A bias is the weight of a constant 1 appended to the features.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from mmlab.checks import check_choice, check_number, check_shapes, check_values
from mmlab.models.linear import Linear
from mmlab.models.network import TASKS, LazyLogits, Output, masks_of
from mmlab.training.balancer import Balancer, NetworkOptions, Training
from mmlab.training.step import Step


def rls_projector(P: Tensor, h: Tensor, alpha: float | Tensor) -> Tensor:
    """Recursive least squares: take the direction h out of P, and never give it back.

    P − (Ph)(Ph)ᵀ / (α + hᵀPh). From P = I, after features h_1 … h_n, P⁻¹ = I + Σ_i h_i h_iᵀ/α: P
    stays symmetric with eigenvalues in (0, 1], and shrinks with every step.

    Args:
        P: the projector so far, (…, D, D), symmetric, no unit.
        h: a mean feature, (…, D).
        alpha: α > 0, in the feature's unit squared: how soft the projection is; a number, or a
            tensor (…, 1).

    Returns:
        (…, D, D), symmetric, no unit.

    Raises:
        ValueError: the shapes do not fit, or ``alpha`` is not above 0.

    Source: the paper, at second hand; P⁻¹ by the Sherman–Morrison formula.
    """
    check_shapes(P=(P, "DD"), h=(h, "D"))
    alpha = _checked(alpha)
    Ph = P @ h[..., None]
    return P - Ph * Ph.mT / (alpha + h[..., None, :] @ Ph)


def restarted_projector(means: Tensor, alpha: float | Tensor, rows: Tensor | None = None) -> Tensor:
    """The projector that spares K features and no more: P = I − H(HᵀH + αI)⁻¹Hᵀ, H = meansᵀ.

    It equals K steps of `rls_projector` from I, but begins anew each time, so the head keeps
    learning. Symmetric, eigenvalues in (0, 1], K of them near 0.

    Args:
        means: the latest mean feature of each of the K other modalities, (…, K, D).
        alpha: α > 0, in the feature's unit squared: how soft the projection is; a number, or a
            tensor (…, 1).
        rows: what to project, such as a head's gradient G (…, C, D): the result is G P, and P is
            never made. By default the identity, which gives P itself.

    Returns:
        P (…, D, D), symmetric, no unit; or rows P (…, C, D), in the unit of the rows.

    Raises:
        ValueError: the shapes do not fit, or ``alpha`` is not above 0.

    Source: ours; the literal recursion shrinks until the head stops learning.
    """
    matrices = {"means": (means, "KD")}
    if rows is not None:
        matrices["rows"] = (rows, "CD")
    check_shapes(**matrices)
    upper = _spared(means, _checked(alpha))
    if rows is not None:
        return rows - (rows @ upper) @ upper.mT
    P = torch.eye(means.shape[-1], dtype=means.dtype, device=means.device) - upper @ upper.mT
    return (P + P.mT) / 2  # not every matrix product is symmetric to the last bit


def _spared(means: Tensor, alpha: float | Tensor) -> Tensor:
    """U (…, D, K) with `restarted_projector` = I − UUᵀ, from means (…, K, D)."""
    count, width = means.shape[-2:]
    if count == 1:
        return means.mT / (alpha + means.square().sum(-1, keepdim=True)).sqrt()
    soft = alpha**0.5 * torch.eye(count, dtype=means.dtype, device=means.device)
    leading = torch.broadcast_shapes(means.shape[:-2], soft.shape[:-2])
    stacked = torch.cat([x.expand(*leading, -1, -1) for x in (means.mT, soft)], dim=-2)
    # [H; √α I] = QR has RᵀR = HᵀH + αI, so H R⁻¹ is the upper block of Q: no square is inverted.
    # Apple's GPU has no QR: there the small matrix goes to the CPU and back.
    Q = torch.linalg.qr(stacked.cpu() if stacked.is_mps else stacked).Q
    return Q[..., :width, :].to(means.device)


def entropy_weights(
    logits: Tensor, present: Tensor | None = None, *, task: str = "classification"
) -> Tensor:
    """How far each modality is trusted for each sample: softmax over modalities of −entropy.

    The entropy is that of the predicted distribution, *per sample*: of softmax(logits) over the
    classes; where a sample has several labels, the sum of those of each sigmoid(logit) [ours]; real
    numbers have none, and all modalities are trusted alike. A modality that is alone
    gets weight 1, an absent one gets 0 whatever its logits. A sample without any modality gets 0
    throughout: raising here would make the CPU wait for the GPU, so the caller checks.

    Args:
        logits: (…, M, B, C), no unit.
        present: True where the sample has the modality, (…, M, B); None means everywhere.
        task: what the logits mean, one of `mmlab.models.network.TASKS`.

    Returns:
        (…, M, B), each ≥ 0, sum 1 over the modalities present, no unit.

    Raises:
        ValueError: the shapes do not fit, ``present`` is not boolean, or an unknown task.

    Source: the paper, at second hand; for two modalities and C classes no weight exceeds C/(C + 1).
    """
    if present is None:
        present = torch.ones(logits.shape[:-1], dtype=torch.bool, device=logits.device)
    check_shapes(logits=(logits, "MBC"), present=(present, "MB"))
    if present.dtype != torch.bool:
        raise ValueError(f"present has dtype {present.dtype}; allowed is torch.bool.")
    check_choice("task", task, TASKS)
    if task == "classification":
        negative_entropy = _information(logits.log_softmax(-1))
    elif task == "multilabel":
        negative_entropy = _information(F.logsigmoid(torch.cat([logits, -logits], dim=-1)))
    else:
        negative_entropy = torch.zeros_like(logits[..., 0])
    weights = torch.where(present, negative_entropy, -torch.inf).softmax(-2)
    return torch.where(present, weights, 0)


def _information(log_p: Tensor) -> Tensor:
    """Σ p ln p over the last axis."""
    return (log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1)  # 0 · −∞ is NaN


def _checked(alpha: float | Tensor) -> float | Tensor:
    """α ready to meet matrices: a number, or (…, 1, 1)."""
    check_values("alpha", alpha, above=0)
    if isinstance(alpha, Tensor) and alpha.ndim:
        if alpha.shape[-1] != 1:
            raise ValueError(
                f"alpha has shape {tuple(alpha.shape)}; allowed is a number or (…, 1), such as "
                "alpha[..., None]"
            )
        return alpha[..., None]
    return alpha


class MLA(Balancer):
    """Alternating unimodal adaptation: one update per modality, a shared linear head, no fusion.

    The step of modality m moves its encoder and the head from its loss alone. The head's gradient
    is projected away from what the features of the others span; its bias counts as the weight of a
    constant 1 among the features. Plain momentum would carry the others' gradients past the
    projector, so the head's momentum buffer is emptied after each of its steps. Train with SGD:
    adaptive optimisers rescale the projected gradient entry by entry, and so turn it back towards
    what it should spare. A modality that a batch lacks is skipped: no update, and no change of the
    projector.

    Args:
        projector: "restarted" spares the latest mean features of the other modalities; "rls" is the
            paper's recursion, which collapses; "none" is the ablation.
        alpha: α > 0, softness of the projector, in the feature's unit squared.
        fusion: at test time, "entropy" weighs the modalities of each sample by how sure they are;
            "mean" weighs them alike. In regression, where numbers have no entropy, the two are
            the same.

    Raises:
        ValueError: an argument out of range; a network whose head is not one shared nn.Linear, or
            whose encoders share parameters; a test sample without any modality.

    Source: the paper, at second hand; "restarted" is ours.

    >>> from mmlab import MLA, MultimodalNet, fit, load
    >>> data = load("av-digits", seed=0)
    >>> balancer = MLA(projector="restarted", alpha=0.1)
    >>> net = MultimodalNet.build(data, **balancer.network, seed=0)
    >>> run = fit(net, data, balancer, epochs=1)
    >>> sorted(run.history.output.unique())
    ['audio', 'image']
    >>> tuple(run.predict(data.test).shape)
    (1000, 10)
    """

    heads = "shared"
    fusion = "late"
    lost_if_adaptive = "cannot protect what the head has learnt of the other modalities; use SGD"

    def __init__(
        self, projector: str = "restarted", alpha: float = 0.1, fusion: str = "entropy"
    ) -> None:
        check_choice("projector", projector, ("restarted", "rls", "none"))
        check_choice("fusion", fusion, ("entropy", "mean"))
        check_number("alpha", alpha, above=0)
        self.projector, self.alpha, self.gate = projector, alpha, fusion
        self.means: dict[str, Tensor] = {}
        self.P: Tensor | None = None

    @property
    def network(self) -> NetworkOptions:
        return {"heads": self.heads, "fusion": MLA.fusion}

    def start(self, run: Training) -> None:
        self.means, self.P = {}, None
        parts = run.model.encoders.values()
        users = Counter(p for part in parts for p in part.parameters() if p.requires_grad)
        if any(count > 1 for count in users.values()):
            raise ValueError(
                "MLA updates one encoder before it trains the next, so encoders may not share "
                "parameters; give each modality its own"
            )

    def step(self, s: Step) -> Iterator[None]:
        head = shared_head(s)
        for m in s.present:
            warn_if_filled(head)
            earlier = take_gradient(head)
            s.backward(s.losses[m])
            self.project(head, m)
            add_gradient(head, earlier)
            yield
            forget_momentum(s, head)
            self.remember(m, mean_feature(s, m))

    def project(self, head: Linear, m: str) -> None:
        """The head's gradient G (…, C, D + 1), its bias as the last column, becomes G P."""
        others = [mean for name, mean in self.means.items() if name != m]
        if head.weight.grad is None:  # a frozen head
            return
        if self.projector == "restarted" and others:
            means = torch.stack(others, dim=-2)
            set_gradient(head, restarted_projector(means, self.alpha, rows=gradient(head)))
        elif self.P is not None:
            set_gradient(head, gradient(head) @ self.P)

    def remember(self, m: str, mean: Tensor) -> None:
        """What the coming turns of the other modalities spare."""
        if self.projector == "restarted":
            self.means[m] = mean
        elif self.projector == "rls":
            if self.P is None:
                eye = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
                self.P = eye.expand(*mean.shape[:-1], -1, -1)
            self.P = rls_projector(self.P, mean, self.alpha)

    def fuse(self, out: Output, present: Mapping[str, Tensor] | None = None) -> Tensor:
        logits = torch.stack([*out.unimodal.values()], dim=-3)
        masks = masks_of(out, present)
        if self.gate == "mean":
            weights = torch.ones_like(logits[..., 0]) if masks is None else masks.to(logits.dtype)
            weights = weights / weights.sum(-2, keepdim=True)
        else:
            weights = entropy_weights(logits, masks, task=out.task)
        return torch.where(weights[..., None] > 0, weights[..., None] * logits, 0).sum(-3)


def shared_head(s: Step) -> Linear:
    """The head of all modalities. Raises ValueError for a network that has no such head."""
    if not isinstance(s.model.heads, Linear):
        raise ValueError(
            "MLA needs one nn.Linear head that all modalities share, and this network has "
            f"{type(s.model.heads).__name__}; build it with "
            "MultimodalNet.build(data, **MLA().network)"
        )
    if not isinstance(s.out.unimodal, LazyLogits):
        raise ValueError(
            f"MLA's modalities meet the head in turns, and {type(s.model).__name__}.forward "
            "gives the logits of all at once; give unimodal=LazyLogits(self, features), from "
            "mmlab.models"
        )
    return s.model.heads


def warn_if_filled(head: Linear) -> None:
    """Say so where the head holds the gradient of an earlier turn: it would count again."""
    if any(p.grad is not None and bool(p.grad.any()) for p in head.parameters()):
        warnings.warn(
            "MLA's shared head still holds the gradient of an earlier turn, and it counts again; "
            "call optimizer.zero_grad() after each optimizer.step(), inside the loop over "
            "balancer.step(s)",
            stacklevel=3,
        )


def gradient(head: Linear) -> Tensor:
    """The head's gradient with that of the bias as its last column, (…, C, D + 1)."""
    weight, bias = head.weight.grad, None if head.bias is None else head.bias.grad
    assert weight is not None, "the head is trained"
    if bias is None:  # there is none, or it is frozen
        return F.pad(weight, (0, 1))
    return torch.cat([weight, bias[..., None]], dim=-1)


def set_gradient(head: Linear, G: Tensor) -> None:
    """The columns of G back in their places."""
    head.weight.grad = G[..., :-1].contiguous()
    if head.bias is not None and head.bias.grad is not None:
        head.bias.grad = G[..., -1].contiguous()


def take_gradient(head: Linear) -> list[Tensor | None]:
    """The head's gradients of earlier turns, taken off it: they were projected in their time."""
    earlier = [p.grad for p in head.parameters()]
    for p in head.parameters():
        p.grad = None
    return earlier


def add_gradient(head: Linear, earlier: list[Tensor | None]) -> None:
    """What `take_gradient` took, back on the head."""
    for p, grad in zip(head.parameters(), earlier, strict=True):
        if grad is not None:
            p.grad = grad if p.grad is None else p.grad + grad


def forget_momentum(s: Step, head: Linear) -> None:
    """Empty the head's momentum buffers, where its optimiser has any."""
    if s.optimizer is None:
        return
    states = [s.optimizer.state.get(p, {}) for p in head.parameters()]  # none of a frozen one
    buffers = [state.get("momentum_buffer") for state in states]
    if found := [buffer for buffer in buffers if buffer is not None]:
        torch._foreach_zero_(found)


def mean_feature(s: Step, m: str) -> Tensor:
    """Mean feature of the samples that have modality m, the constant 1 appended: (…, D + 1)."""
    return F.pad(s.mean(s.out.features[m].detach().mT, of=m), (0, 1), value=1.0)
