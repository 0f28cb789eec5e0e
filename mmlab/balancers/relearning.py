"""Diagnosing & Re-learning: an encoder that knows train better than holdout learns part of it anew.

Wei, Li, Feng, Hu, "Diagnosing and Re-learning for Balanced Multimodal Learning", ECCV 2024, arXiv
2407.09705.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from mmlab.balancers.pmr import truths
from mmlab.balancers.scores import check_labels
from mmlab.checks import check_number, check_shapes, check_whole
from mmlab.gradients import align_to
from mmlab.training.balancer import Joint, Reading, Training, warn_without_run
from mmlab.training.step import Step


def clusters(features: Tensor, k: int) -> Tensor:
    """The cluster of each sample by k-means, after every feature was scaled to [−1, 1].

    The best of ten starts, always the same ones.

    Args:
        features: h, (…, N, D), in any unit, with N ≥ k.
        k: number of clusters.

    Returns:
        Whole numbers below k, (…, N).

    Raises:
        ValueError: there are fewer samples than clusters.

    Source: the paper, and its released code for the scale; the starts are ours. The k-means are
    scikit-learn's.
    """
    from sklearn.cluster import KMeans
    from sklearn.preprocessing import minmax_scale
    from threadpoolctl import threadpool_limits

    if features.ndim > 2:
        return torch.stack([clusters(one, k) for one in features])
    rows = minmax_scale(features.detach().cpu().double().numpy(), (-1, 1))
    with threadpool_limits(limits=1):  # the sum of several threads may differ in its last digit
        found = KMeans(k, n_init=10, random_state=0).fit_predict(rows)
    return torch.from_numpy(found).long().to(features.device)


def purity(found: Tensor, truth: Tensor) -> Tensor:
    """The share of samples whose truth is that of most samples of their cluster.

    *Biased upwards where a class has few samples.* With one sample per cluster it is 1, whatever
    the features are; of N samples in k clusters, random features reach 1/C only for large N. So the
    smaller split of two has the larger bias, and a gap between them hangs on their sizes, too.

    Args:
        found: the samples' clusters, whole numbers (…, N).
        truth: booleans (…, N, Q, A), see `mmlab.balancers.pmr.truths`.

    Returns:
        (…), in (0, 1], no unit, in float64; the mean over the questions.

    Raises:
        ValueError: the shapes do not fit.

    Source: the paper, for classes; the mean over labels is ours.
    """
    check_shapes(found=(found, "N"), truth=(truth, "NQA"))
    inside = found[..., None] == torch.arange(int(found.max()) + 1, device=found.device)
    counts = torch.einsum("...nk,...nqa->...kqa", inside.double(), truth.double())
    return counts.amax(-1).sum(-2).mean(-1) / found.shape[-1]


def feature_purity(
    features: Tensor, target: Tensor, classes: Tensor, has: Tensor | None = None
) -> Tensor:
    """`purity` of the `clusters` of a modality's features, as many as classes.

    Args:
        features: h, (…, N, D).
        target: whole numbers (…, N), one class per sample; or booleans (…, N, C), several labels.
        classes: number of classes, (…).
        has: which samples have the modality, booleans (…, N); None: all.

    Returns:
        (…), in (0, 1], on the CPU.

    Source: the paper, for classes and where nothing is missing.
    """
    if features.ndim > 2:
        masks = [None] * len(features) if has is None else has
        rows = zip(features, target, classes, masks, strict=True)
        return torch.stack([feature_purity(*row) for row in rows])
    if has is not None:
        features, target = features[has], target[has]
    k = int(classes)
    return purity(clusters(features.cpu(), k), truths(target.cpu(), k))


def number_of_classes(target: Tensor) -> Tensor:
    """C, (…), of classes (…, N), counted from 0 to the largest, or of labels (…, N, C)."""
    check_labels(target, "Relearning", "a number is of no class")
    if target.dtype == torch.bool:
        return torch.full(target.shape[:-2], target.shape[-1])
    return target.amax(-1).long().cpu() + 1


def relearning_strength(train: Tensor, holdout: Tensor, strength: float = 3.0) -> Tensor:
    """The share of its initial weights that an encoder gets back: tanh(λ |P_train − P_holdout|).

    Args:
        train: purity P_train of each modality's features, (…, M), in [0, 1], no unit.
        holdout: purity P_holdout of the same, (…, M), in [0, 1], no unit.
        strength: λ ≥ 0, no unit.

    Returns:
        a, (…, M), in [0, 1), no unit.

    Raises:
        ValueError: the shapes do not fit.

    Source: the paper.
    """
    check_shapes(train=(train, "M"), holdout=(holdout, "M"))
    return (strength * (train - holdout).abs()).tanh()


class Relearning(Joint):
    """Diagnosing & Re-learning (D&R): joint training, in which encoders go part of the way back.

    Every so many epochs a modality's features of train and of holdout are clustered, each on their
    own, into as many clusters as there are classes. Where the purities differ, the encoder has
    memorised, and θ ← a θ_init + (1 − a) θ with a = `relearning_strength`. Encoders alone: fusion,
    heads, buffers (such as running means) and the optimiser's momentum stay, and so do parameters
    that are frozen. The test split is never looked at.

    Args:
        every: epochs between two diagnoses; the paper takes 20, of 90. None: as large a part of the
            run, rounded, at least 1 [ours]. In a short run give a number that leaves epochs to
            learn again after the last one; an `every` as long as the run is joint training, and a
            warning says so.
        times: at most so many diagnoses; the paper takes 3.
        strength: λ ≥ 0, see `relearning_strength`; the released code takes 3.

    A purity of few samples per class is too high (see `purity`): where holdout is much smaller than
    train, the gap of a modality says less. Look at both purities in the history, and prefer splits
    with tens of samples per class.

    Several labels per sample are as many questions, whose purities are averaged; the clusters are
    as many as the labels [ours]. Samples without a modality are left out of its clusters.

    A purity counts samples: where rounding decides the cluster of one, as it may between a GPU and
    a CPU or between `fit` and `fit_seeds`, the encoder goes back by a little more or less.

    A loop of your own without `begin` is joint training, and a warning says so.

    The released code counts epochs from 0 and diagnoses after the one that it calls 20: one epoch
    later.

    Raises:
        TypeError, ValueError: an argument out of range; before the first epoch: real-valued
            targets, encoders that share parameters, or fewer samples of a modality, in train or in
            holdout, than there are classes.

    The history gets the "purity" of each modality in train and holdout, and as "relearning" the
    share a, under holdout.

    Source: the paper and its released code.

    >>> from mmlab import MultimodalNet, Relearning, fit, load
    >>> data = load("av-digits", seed=0)
    >>> balancer = Relearning(every=1)
    >>> net = MultimodalNet.build(data, **balancer.network, seed=0)
    >>> run = fit(net, data, balancer, epochs=2)
    >>> share = run.history.query("metric == 'relearning'").set_index("output").value
    >>> bool(share.between(0, 1).all()), sorted(share.index)
    (True, ['audio', 'image'])
    """

    def __init__(self, every: int | None = None, times: int = 3, strength: float = 3.0) -> None:
        if every is not None:
            check_whole("every", every, least=1)
        check_whole("times", times, least=1)
        check_number("strength", strength, least=0)
        self.every, self.times, self.strength = every, times, strength
        self.initial: dict[str, list[Tensor]] = {}

    def step(self, s: Step) -> Iterator[None]:
        if not self.initial:
            warn_without_run(
                "Relearning takes encoders back before some epochs", "it is joint training"
            )
        return super().step(s)

    def start(self, run: Training) -> None:
        parts = run.model.encoders
        self.initial = {m: [p.detach().clone() for p in parts[m].parameters()] for m in parts}
        if len({*parts.parameters()}) < sum(map(len, self.initial.values())):
            raise ValueError(
                "encoders share parameters, so that going back with one would change another; give "
                "each modality an encoder of its own"
            )
        self.looked_at(run)  # to say now what would be wrong later
        if 0 < run.epochs <= (self.every or 0):
            warnings.warn(
                f"Relearning diagnoses every {self.every} epochs, and this run has {run.epochs}: "
                "it is joint training. Give a smaller `every`, or None",
                stacklevel=2,
            )

    def epoch(self, run: Training) -> None:
        every = self.every or max(1, round(run.epochs * 20 / 90))
        diagnosed, rest = divmod(run.epoch, every)
        if rest or not 1 <= diagnosed <= self.times:
            return
        train, holdout = self.purities(run)
        shares = relearning_strength(train, holdout, self.strength)
        for i, m in enumerate(run.model.modalities):
            run.record("train", m, "purity", train[..., i])
            run.record("holdout", m, "purity", holdout[..., i])
            run.record("holdout", m, "relearning", shares[..., i])
            self.go_back(run, m, shares[..., i])

    @torch.no_grad()
    def go_back(self, run: Training, m: str, share: Tensor) -> None:
        """Give the trained parameters of encoder m this share (…) of their initial values."""
        parameters = run.model.encoders[m].parameters()
        for p, first in zip(parameters, self.initial[m], strict=True):
            if p.requires_grad:
                p.lerp_(first, align_to(p, share.to(p)))

    def purities(self, run: Training) -> list[Tensor]:
        """Of train and of holdout, (…, M) each."""
        splits, classes = self.looked_at(run)
        return [
            torch.stack(
                [feature_purity(h, one.target, classes, one.has(m)) for m, h in one.values.items()],
                dim=-1,
            )
            for one in splits.values()
        ]

    def looked_at(self, run: Training) -> tuple[dict[str, Reading], Tensor]:
        """Both splits, and the number of classes (…)."""
        splits = {name: run.reading(name) for name in ("train", "holdout")}
        classes = torch.maximum(*(number_of_classes(one.target) for one in splits.values()))
        for name, one in splits.items():
            _check_samples(name, one, classes)
        return splits, classes


def _check_samples(name: str, split: Reading, classes: Tensor) -> None:
    """Raise ValueError where a modality has too few samples for a cluster per class."""
    for m, h in split.values.items():
        has = split.has(m)
        samples = torch.tensor(h.shape[-2]) if has is None else has.sum(-1).cpu()
        if (samples < classes).any():
            raise ValueError(
                f"{name} has {int(samples.min())} samples with {m!r}, which Relearning puts into "
                f"{int(classes.max())} clusters, one per class; give it at least as many"
            )
