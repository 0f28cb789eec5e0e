"""SMV: what each modality does for each sample; the one that does little gets the sample alone.

Wei, Feng, Wang, Hu, "Enhancing Multimodal Cooperation via Sample-level Modality Valuation", CVPR
2024, arXiv 2309.06255.

The value of a modality is its Shapley value in a game: a set of modalities wins as many points as
it has members if the prediction from their features is right, and none if it is wrong.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from mmlab.checks import check_choice, check_number, check_whole
from mmlab.models.fusion import shapley_weights
from mmlab.models.network import Output, joined_masks
from mmlab.training.balancer import Balancer, Batch, Draws, Training
from mmlab.training.step import Step

LEVELS = ("sample", "modality")
MOST = 8
"""Modalities: the fusion goes through every set of them, 255 of 8."""

BOUNDS = (1.0, 0.4, -0.1)
"""A further copy for each of these that a value is below."""

PART = 0.2
"""The share of the training samples whose values decide at the modality level."""


def members(count: int) -> Tensor:
    """Which of M modalities are in each set but the empty one: booleans (2^M − 1, M).

    Set k has modality i where bit i of k + 1 is 1; so the last one has all.
    """
    return (torch.arange(1, 2**count)[:, None] >> torch.arange(count) & 1).bool()


def coalitions(
    features: Mapping[str, Tensor], present: Tensor | None = None
) -> Iterator[dict[str, Tensor]]:
    """The features of every set of modalities, in the order of `members`; those of others are 0.

    Args:
        features: (…, B, D) of each modality, after the encoders.
        present: which modalities the samples have, booleans (…, M, B); None: all. One that a sample
            lacks is in no set.

    Yields:
        For each of the 2^M − 1 sets what a fusion takes, (…, B, D) of each modality.

    Source: the paper, and its released code, which sets features to 0, not inputs.
    """
    if present is not None:
        pairs = zip(features.items(), present.unbind(-2), strict=True)
        features = {m: h * has.unsqueeze(-1) for (m, h), has in pairs}
    for joined in members(len(features)).tolist():
        pairs = zip(features.items(), joined, strict=True)
        yield {m: h if inside else torch.zeros_like(h) for (m, h), inside in pairs}


def rightness(logits: Tensor, target: Tensor) -> Tensor:
    """How right each answer is: 1 where it is the class, else 0.

    Of several labels per sample it is the share of them that is answered rightly [ours].

    Args:
        logits: (…, B, C).
        target: classes (…, B), or booleans (…, B, C) for several labels per sample.

    Returns:
        (…, B), from 0 to 1, in the type of the logits.
    """
    if target.dtype == torch.bool:
        return ((logits > 0) == target).to(logits.dtype).mean(-1)
    return (logits.argmax(-1) == target).to(logits.dtype)


def modality_values(right: Tensor, present: Tensor | None = None) -> Tensor:
    """φ: the Shapley values of v(S) = |S| · right(S), where v of the empty set is 0.

    The values of a sample sum to v of all its modalities: their number where the answer is right,
    else 0. For two modalities φ_a = (v_a + v_av − v_v) / 2, one of −.5, 0, .5, 1, 1.5. One that the
    sample lacks has 0.

    Args:
        right: (…, 2^M − 1, B), in the order of `members`: see `rightness`.
        present: which modalities the samples have, booleans (…, M, B); None: all. |S| counts these.

    Returns:
        (…, M, B), in the type of `right`, but float32 at least.

    Raises:
        ValueError: the number of sets is not 2^M − 1.

    Source: the paper.
    """
    count = (right.shape[-2] + 1).bit_length() - 1 if right.ndim > 1 else 0
    if not count or right.shape[-2] != 2**count - 1:
        raise ValueError(
            f"right has shape {tuple(right.shape)}; allowed is (…, 2^M − 1, B): every set of M "
            "modalities but the empty one"
        )
    kind = torch.promote_types(right.dtype, torch.float32)  # Apple's GPUs have no float64
    joined = members(count).to(right.device, kind)
    sizes = joined.sum(-1, keepdim=True) if present is None else joined @ present.to(kind)
    return shapley_weights(count)[:, 1:].to(right.device, kind) @ (right * sizes)


def sample_values(
    fusion: Callable[[Mapping[str, Tensor]], Tensor], batch: Batch, out: Output
) -> dict[str, Tensor]:
    """φ of each modality, (…, B), on the samples of a batch, from the features of one pass."""
    has = joined_masks(batch.present, out.features)
    answers = map(fusion, coalitions(out.features, has))
    right = torch.stack([rightness(z, batch.target) for z in answers], dim=-2)
    return dict(zip(out.features, modality_values(right, has).unbind(-2), strict=True))


def further_copies(values: Tensor) -> Tensor:
    """How often a sample comes again with a modality alone: the lower its value, the more often.

    φ ≥ 1: not at all; from .4: once; from −.1: twice; below: three times.

    Args:
        values: φ, of any shape.

    Returns:
        Whole numbers 0 to 3, in the same shape.

    Source: the released code, for two modalities, whose values are halves. For more the same
    bounds are ours.
    """
    rounding = 1e-5  # of thirds, which sum to what is just below 1; of 8, values are 1/840 apart
    below = torch.stack([values < bound - rounding for bound in BOUNDS])
    return below.sum(0)


def redrawn_shares(values: Tensor, alpha: float) -> Tensor:
    """The share of the samples that come again with modality m alone: ⅔ α (max_j φ_j − φ_m).

    Args:
        values: mean φ over samples, (…, M).
        alpha: α ≥ 0.

    Returns:
        (…, M), ≥ 0, and 0 for the modality with the largest value.

    Source: the released code, for two modalities: ⅔ α |φ_a − φ_v|. For more it is ours.
    """
    return 2 / 3 * alpha * (values.amax(-1, keepdim=True) - values)


def resampled(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Every sample once, and then its further copies, each with one modality alone.

    Args:
        counts: copies of N samples with each modality alone, whole numbers (M, N).

    Returns:
        Which samples, (L,), and which modalities they keep, booleans (M, L).
    """
    everything = torch.arange(counts.shape[-1], device=counts.device)
    copies = [everything.repeat_interleave(own) for own in counts]
    alone = torch.eye(len(counts), dtype=torch.bool, device=counts.device)
    whole = torch.ones_like(counts, dtype=torch.bool)
    kept = torch.cat([whole, alone.repeat_interleave(counts.sum(-1), dim=-1)], dim=-1)
    return torch.cat([everything, *copies]), kept


class SMV(Balancer):
    """Sample-level modality valuation: what a modality is weak at, it practises alone.

    After the warm-up each epoch begins with a look at all training samples, in evaluation mode and
    without a graph. It then sees every sample once, and further copies of which all modalities but
    one are dropped, after the encoders: their features are 0.

    So an epoch is longer. For two modalities it has 1 + 4e + u times the steps, with e the share of
    wrong answers, and u that of right answers which just one of the modalities gives alone
    [derived]. *Compare at equal steps*, not at equal epochs.

    Args:
        level: "sample": as many copies as `further_copies` says, of each sample by its own values.
            "modality": samples drawn at random with replacement, `redrawn_shares` of them, by the
            mean values of a fifth of the training samples.
        warmup: epochs of joint training at first; 5 in the released code.
        alpha: strength of the modality level, ≥ 0; 1 in the released code. The sample level has
            none.

    With more than two modalities a copy keeps one alone [ours]. A modality that a sample lacks has
    neither value nor copies there [ours]. Of several labels see `rightness`.

    The history gets each modality's mean "value", and "copies", as a share of the samples; the loss
    "resampled" is the one that trains, "joint" is that of the same samples with all modalities. For
    the values of every sample: `mmlab.evaluation.modality_valuation`. Seeds train one by one.

    Raises:
        TypeError, ValueError: an argument out of range; at the start: real-valued targets, which
            are never right, one label per frame, or more than 8 modalities.

    Source: the paper, and its released code for the numbers.

    >>> from mmlab import SMV, MultimodalNet, fit, load
    >>> data = load("av-digits", seed=0)
    >>> balancer = SMV(warmup=1)
    >>> net = MultimodalNet.build(data, **balancer.network, seed=0)
    >>> run = fit(net, data, balancer, epochs=2)
    >>> value = run.history.query("metric == 'value'").set_index("output").value
    >>> bool(value.between(-0.5, 1.5).all()), sorted(value.index)
    (True, ['audio', 'image'])
    """

    def __init__(self, level: str = "sample", warmup: int = 5, alpha: float = 1.0) -> None:
        check_choice("level", level, LEVELS)
        check_whole("warmup", warmup)
        check_number("alpha", alpha, least=0)
        self.level, self.warmup, self.alpha = level, warmup, alpha
        self.kept: Tensor | None = None
        """What each sample of the epoch keeps, (M, L), in their order."""
        self.place = 0
        """How many of them were seen."""

    def start(self, run: Training) -> None:
        if run.model.task == "regression":
            raise ValueError(
                "SMV needs class labels: an answer is right or wrong. For regression use ATF, "
                "MMPareto or GradientBlending"
            )
        if run.model.frames:
            raise ValueError(
                "SMV repeats samples by what each of them needs, and here every frame has a label; "
                "make each frame a sample: targets (B,)"
            )
        if len(run.model.modalities) > MOST:
            raise ValueError(
                f"SMV values every set of modalities, and {len(run.model.modalities)} modalities "
                f"have too many; allowed are up to {MOST}"
            )
        self.kept = None

    def finish(self, run: Training) -> None:
        self.kept = None

    def order(self, run: Training) -> Tensor | None:
        self.kept = None
        if run.epoch < self.warmup:
            return None
        found = run.reading("train", partial(sample_values, run.model.fusion))
        draws = run.draws("copies")
        values = torch.stack([*found.values.values()]).cpu().double()  # (M, N)
        has = joined_masks(found.present, found.values)
        has = torch.ones_like(values, dtype=torch.bool) if has is None else has.cpu()
        if self.level == "sample":
            counts = further_copies(values) * has
        else:
            counts = self.redrawn(values, has, draws)
        for m, own, copies, there in zip(found.values, values, counts, has, strict=True):
            run.record("train", m, "value", own.sum() / there.sum())
            run.record("train", m, "copies", copies.sum() / len(copies))
        samples, kept = resampled(counts)
        shuffled = draws.permutation(len(samples), samples.device)
        self.kept, self.place = kept[:, shuffled].to(found.target.device), 0
        return samples[shuffled]

    def redrawn(self, values: Tensor, has: Tensor, draws: Draws) -> Tensor:
        """How often each sample is drawn to come again with each modality alone, (M, N)."""
        size = values.shape[-1]
        part = draws.permutation(size, values.device)[: max(1, int(PART * size))]
        known = has[:, part].sum(-1)
        means = values[:, part].sum(-1) / known
        best = means[known > 0].amax() if known.any() else 0.0
        means = torch.where(known > 0, means, best)  # of nobody nothing is known: no copies
        counts = torch.zeros_like(values, dtype=torch.int64)
        shares = redrawn_shares(means, self.alpha).tolist()
        for own, share, mask in zip(counts, shares, has, strict=True):
            there = mask.nonzero().flatten()
            drawn = draws.uniforms((int(share * len(there)),), values)
            own += there[(drawn * len(there)).long()].bincount(minlength=size)
        return counts

    def step(self, s: Step) -> Iterator[None]:
        loss = s.losses["joint"]
        if self.kept is None or s.batch.index is None:
            self.warn_of_other_samples(s)
        else:
            end = self.place + len(s.batch.index)
            kept = self.kept[:, self.place : end]
            self.place = end
            loss = s.losses.of("resampled", s.fuse(s.out.features, mask=kept))
        s.backward(loss)
        yield

    def warn_of_other_samples(self, s: Step) -> None:
        """Say so where samples are not those that `order` chose; in the warm-up it chooses none."""
        if s.epoch >= self.warmup:
            warnings.warn(
                "SMV chooses the samples of an epoch, in the run of `fit`; in your own loop, with "
                "samples of your own, it is joint training. Call run = mmlab.training.begin(net, "
                "data, balancer, optimizer, epochs=...) and take the batches of run.batches()",
                stacklevel=3,
            )
