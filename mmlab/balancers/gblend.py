"""Gradient-Blending: weight of each loss = its gain on the holdout / its overfitting squared.

Wang, Tran, Feiszli, "What Makes Training Multi-modal Classification Networks Hard?", CVPR 2020,
arXiv 1905.12681.

The network has one head per modality and a joint head: K = M + 1 losses. Between two checkpoints a
head *gains* ΔG, the fall of its held-out loss, and *overfits* by ΔO, the growth of the distance
between its held-out and its training loss.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from mmlab.balancers.joint import Unimodal
from mmlab.checks import check_choice, check_number, check_shapes, check_whole
from mmlab.models.network import Output, for_averaging
from mmlab.training.balancer import Balancer, Joint, Training, warn_without_run
from mmlab.training.step import Step


def overfit_and_gain(
    train_before: Tensor, holdout_before: Tensor, train_after: Tensor, holdout_after: Tensor
) -> tuple[Tensor, Tensor]:
    """What each head overfitted and gained between two checkpoints.

    With O = holdout − train: ``overfit`` ΔO = O_after − O_before, and ``gain``
    ΔG = holdout_before − holdout_after. *A positive gain is good*: the held-out loss fell.

    Args:
        train_before: mean training loss of each head at the first checkpoint, (…, K).
        holdout_before: mean held-out loss at the first checkpoint, (…, K), in the same unit.
        train_after: mean training loss at the second checkpoint, (…, K), in the same unit.
        holdout_after: mean held-out loss at the second checkpoint, (…, K), in the same unit.

    Returns:
        The overfits ΔO and the gains ΔG, (…, K) each, in the unit of the loss.

    Raises:
        ValueError: the shapes do not broadcast.

    Source: the paper's definition of the overfitting-to-generalisation ratio |ΔO/ΔG|.
    """
    check_shapes(
        train_before=(train_before, ""),
        holdout_before=(holdout_before, ""),
        train_after=(train_after, ""),
        holdout_after=(holdout_after, ""),
    )
    overfit = (holdout_after - train_after) - (holdout_before - train_before)
    return overfit, holdout_before - holdout_after


def blend_weights(
    overfit: Tensor, gain: Tensor, *, floor: float = 0.1, previous: Tensor | None = None
) -> Tensor:
    """Weights w_k ∝ ΔG_k / ΔO_k² of the K losses, made safe against what estimates can do.

    g = max(ΔG, 0): a head whose held-out loss *rose* gets nothing (|ΔG| would reward it).
    o = max(|ΔO|, floor · max_j |ΔO_j|): a head that happened not to overfit does not take all.
    w = g / o², normalised. If no gain is positive: ``previous``, or uniform. If every ΔO is 0:
    w ∝ g. Neither the scale of the gains nor that of the overfits changes the weights, and a NaN
    stays a NaN.

    Args:
        overfit: ΔO of each head, (…, K), in the unit of the loss.
        gain: ΔG of each head, (…, K), in the unit of the loss.
        floor: the least overfit that is believed, as a share of the largest, in [0, 1]. With 0 the
            heads that did not overfit at all share the whole weight in proportion to their gains.
        previous: weights (…, K) to keep where nothing gains.

    Returns:
        (…, K), each ≥ 0, sum 1, no unit.

    Raises:
        ValueError: the shapes do not fit, or ``floor`` is outside [0, 1].

    Source: the paper's closed form for uncorrelated heads, ΔO² in place of σ²; the guards are ours.
    """
    vectors = {"overfit": (overfit, "K"), "gain": (gain, "K")}
    if previous is not None:
        vectors["previous"] = (previous, "K")
    check_shapes(**vectors)
    check_number("floor", floor, least=0, most=1)

    g = _over_largest(gain.clamp(min=0))
    o = _over_largest(overfit.abs()).clamp(min=floor)
    # Relative to the least overfit among the gaining heads, o²'s reciprocal is at most 1: nothing
    # overflows, and a least overfit of 0 needs no division.
    least = torch.where(g > 0, o, 1).amin(-1, keepdim=True)
    w = g * torch.where(o <= least, 1, least / o).square()
    total = w.sum(-1, keepdim=True)
    fallback = torch.full_like(w, 1 / w.shape[-1]) if previous is None else previous
    return torch.where(total == 0, fallback, w / total)


def optimal_weights(gain: Tensor, second_moment: Tensor) -> Tensor:
    """The blend w ∝ M⁻¹G with the least expected squared overfit for its squared gain.

    It minimises wᵀMw / (Gᵀw)² (Cauchy–Schwarz), with M = E[o oᵀ] the second moment of the heads'
    overfits, not their covariance. Weights can be negative: correlated heads are hedged against
    each other. Where the entries of M⁻¹G sum to less than 0, normalising to +1 turns the blend
    round; where they sum to 0, no normalised blend exists and the result is infinite or NaN.

    A ridge of one rounding unit on the correlation matrix moves the result no more than rounding
    does, and stands for the limit where M is singular: a head that never overfits takes all the
    weight, and M = 0 gives w ∝ G.

    Args:
        gain: G, (…, K), in the unit of the loss.
        second_moment: M, (…, K, K), symmetric positive semidefinite, in the loss's unit squared.

    Returns:
        (…, K), sum 1, no unit.

    Raises:
        ValueError: the shapes do not fit.

    Source: derived; for a diagonal M it is the paper's closed form G_k / σ_k².
    """
    check_shapes(gain=(gain, "K"), second_moment=(second_moment, "KK"))
    largest = second_moment.diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None]
    moment = second_moment / torch.where(largest > 0, largest, 1)
    spread = moment.diagonal(dim1=-2, dim2=-1).sqrt()
    spread = torch.where(spread > 0, spread, 1)
    correlation = moment / spread[..., :, None] / spread[..., None, :]
    ridge = torch.finfo(moment.dtype).eps * torch.eye(
        moment.shape[-1], dtype=moment.dtype, device=moment.device
    )
    # solve_ex, unlike solve, does not make the CPU wait to see whether the matrix was singular.
    scaled = torch.linalg.solve_ex(correlation + ridge, (gain / spread)[..., None]).result
    w = scaled[..., 0] / spread
    return w / w.sum(-1, keepdim=True)


def _over_largest(x: Tensor) -> Tensor:
    """x ≥ 0 over its largest entry; all zero stays zero."""
    largest = x.amax(-1, keepdim=True)
    return x / torch.where(largest == 0, 1, largest)


STARVED = 0.1
"""Part of an equal share below which the joint loss counts as starved."""


class GradientBlending(Balancer):
    """A weighted sum of the joint loss and the unimodal ones, the weights estimated by trial.

    For an estimate, K = M + 1 copies of the run train on from the same checkpoint, each with one of
    the losses alone; what each gains on the held-out split and what it overfits gives its weight.
    The run itself is untouched by it, bit for bit. The test split is never looked at. The trials
    follow the `schedule` of `fit`; a learning rate that an observer sets is not part of them.

    Args:
        mode: "offline" estimates once, over the whole training; "online" before each super-epoch,
            over its length.
        warmup: epochs of the first super-epoch (online); where it is the whole training, online
            estimates once, and is offline.
        super_epoch: epochs of each later one (online).
        floor: see `blend_weights`.
        fuse: what predicts at test time: "joint", the fused logits; or "heads", the mean of all
            heads' log-probabilities (of labels the log-odds, for regression the numbers) with
            the weights of the blend [ours]. The blend may leave the joint loss almost no weight:
            then the fusion is hardly trained, a warning says so, and the heads are the better
            answer.

    Raises:
        ValueError: an argument out of range.

    The history gets gain, overfit and weight of every loss, and "guard": 1 where a guard of
    `blend_weights` changed what the plain formula would give that loss.

    Source: the paper's algorithms for offline and online Gradient-Blending.

    >>> from mmlab import GradientBlending, MultimodalNet, fit, load
    >>> data = load("av-digits", seed=0)
    >>> balancer = GradientBlending(mode="online", warmup=1, super_epoch=1)
    >>> net = MultimodalNet.build(data, **balancer.network, seed=0)
    >>> run = fit(net, data, balancer, epochs=2)
    >>> weights = run.history.query("metric == 'weight'").groupby("epoch").value.sum()
    >>> weights.round(3).tolist()
    [1.0, 1.0]
    """

    def __init__(
        self,
        mode: str = "online",
        warmup: int = 10,
        super_epoch: int = 5,
        floor: float = 0.1,
        fuse: str = "joint",
    ) -> None:
        check_choice("mode", mode, ("online", "offline"))
        check_choice("fuse", fuse, ("joint", "heads"))
        check_whole("warmup", warmup, least=1)
        check_whole("super_epoch", super_epoch, least=1)
        check_number("floor", floor, least=0, most=1)
        self.mode, self.warmup, self.super_epoch, self.floor = mode, warmup, super_epoch, floor
        self.predictor = fuse
        self.weights: dict[str, Tensor] = {}
        self._next = 0  # the epoch of the next estimate

    def start(self, run: Training) -> None:
        self.weights, self._next = {}, 0

    def epoch(self, run: Training) -> None:
        if run.epoch < self._next:
            return
        if self.mode == "offline":
            length = run.epochs
        else:
            length = self.warmup if run.epoch == 0 else self.super_epoch
        self.estimate(run, min(length, run.epochs - run.epoch))
        self._next = run.epoch + length

    def estimate(self, run: Training, epochs: int) -> None:
        """Set the weights by training one copy of the run per loss for `epochs` epochs."""
        trials: dict[str, Balancer] = {"joint": Joint()}
        trials |= {m: Unimodal(m) for m in run.model.modalities}
        before = [run.losses(split) for split in ("train", "holdout")]
        rows = []
        for key, alone in trials.items():
            try:
                copy = run.branch(alone, epochs)
            except FloatingPointError as error:
                raise FloatingPointError(
                    f"in the trial of the {key!r} loss alone: {error}"
                ) from error
            after = [run.losses(split, key, model=copy) for split in ("train", "holdout")]
            rows.append(torch.stack([losses[key] for losses in (*before, *after)]))
        overfit, gain = overfit_and_gain(*torch.stack(rows, dim=-1))
        previous = self.stacked_weights(trials) if self.weights else None
        w = self.rule(overfit, gain, previous)
        self.weights = dict(zip(trials, w.unbind(-1), strict=True))
        if self.predictor == "joint":
            self._warn_if_starved(run.epoch)
        largest = overfit.abs().amax(-1, keepdim=True)
        guarded = (gain <= 0) | (overfit.abs() < self.floor * largest)
        for metric, values in (
            ("gain", gain),
            ("overfit", overfit),
            ("weight", w),
            ("guard", guarded.float()),
        ):
            for key, value in zip(trials, values.unbind(-1), strict=True):
                run.record("holdout", key, metric, value)

    def rule(self, overfit: Tensor, gain: Tensor, previous: Tensor | None) -> Tensor:
        """The weights (…, K) from what the trials found; a subclass may have another rule."""
        return blend_weights(overfit, gain, floor=self.floor, previous=previous)

    def _warn_if_starved(self, epoch: int) -> None:
        """Say so where the loss of what predicts has next to no weight."""
        least = float(self.weights["joint"].min())
        equal = 1 / len(self.weights)
        if least < STARVED * equal:
            warnings.warn(
                f"Gradient-Blending gives the joint loss a weight of {least:.2g} from epoch "
                f"{epoch} on (equal ones: {equal:.2g}); the fusion predicts, and the "
                "encoders hardly learn for it. GradientBlending(fuse='heads') predicts by the "
                "heads and their weights",
                stacklevel=2,
            )

    def step(self, s: Step) -> Iterator[None]:
        losses = s.losses.stack("joint", *s.modalities)
        if not self.weights:
            warn_without_run(
                "Gradient-Blending estimates its weights before an epoch",
                "it takes equal ones",
                "; or set .weights = {'joint': ..., m: ...}",
            )
            equal = torch.full_like(losses[..., 0].detach(), 1 / losses.shape[-1])
            self.weights = dict.fromkeys(("joint", *s.modalities), equal)
        w = self.stacked_weights(("joint", *s.modalities)).to(losses)
        s.backward((w * losses).sum(-1))
        yield

    def fuse(self, out: Output, present: Mapping[str, Tensor] | None = None) -> Tensor:
        if self.predictor == "joint" or not self.weights:
            return out.joint
        names = list(self.weights)
        w = self.stacked_weights(names).to(out.joint)
        heads = [out.joint if key == "joint" else out.unimodal[key] for key in names]
        logits = for_averaging(torch.stack(heads, dim=-2), out.task)  # (…, B, K, C)
        w = w.unsqueeze(-2).expand(logits.shape[:-1])
        if present is not None:  # the joint head reads whatever is there
            everywhere = torch.ones_like(next(iter(present.values())))
            masks = [everywhere if key == "joint" else present[key] for key in names]
            w = w * torch.stack(masks, dim=-1)
        total = w.sum(-1, keepdim=True)
        joint = torch.zeros_like(w)
        joint[..., names.index("joint")] = 1
        w = torch.where(total > 0, w / total, joint)  # of heads without any weight: the joint one
        return (w[..., None] * logits).sum(-2)

    def stacked_weights(self, keys: Iterable[str]) -> Tensor:
        """The weights of these losses, (…, K). Raises ValueError where others are set."""
        names = list(keys)
        if set(names) != set(self.weights):
            raise ValueError(f"weights has {list(self.weights)}; give one for each of {names}")
        return torch.stack([torch.as_tensor(self.weights[key]) for key in names], dim=-1)
