"""InfoReg: while the modality ahead still gathers information, hold its encoder back.

Huang, Wei, Yang, Hu, "Adaptive Unimodal Regulation for Balanced Multimodal Information
Acquisition", CVPR 2025.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mmlab.balancers.scores import check_labels, mean_scores
from mmlab.checks import check_number, check_several, check_shapes, check_values, check_whole
from mmlab.gradients import grams
from mmlab.training.balancer import Balancer, Training, warn_without_run
from mmlab.training.step import Step


def trace_growth(traces: Tensor, window: int = 10) -> Tensor:
    """How much the mean Fisher trace of the last epochs grew in one epoch, relative to itself.

    (T_e − T_{e−w}) / Σ of the last w: the mean of the epochs e − w + 1 to e, minus that of the w
    epochs before e, over the first of the two. T is 0 before the first epoch, so a constant trace
    still "grows" by 1/e while e ≤ w.

    Args:
        traces: T of each finished epoch, (…, E, M) with E ≥ 1, ≥ 0.
        window: w ≥ 1, epochs.

    Returns:
        (…, M), at most 1, no unit; 0 where all traces are 0.

    Raises:
        ValueError: there is no axis of at least one epoch.

    Source: the released code (w = 10).
    """
    check_shapes(traces=(traces, "EM"))
    last = traces[..., -window:, :]
    total = last.sum(-2)
    gone = traces[..., -window - 1, :] if traces.shape[-2] > window else torch.zeros_like(total)
    return torch.where(total > 0, (last[..., -1, :] - gone) / total, 0)


def pull_strengths(
    scores: Tensor, growth: Tensor, beta: float | Tensor = 0.95, threshold: float | Tensor = 0.05
) -> Tensor:
    """How strongly each encoder is held: β exp(tanh(gap)) where it is ahead and grows, else 0.

    The gap is its score minus the mean score of the others; ahead: above 0, where the strength
    jumps from 0 to β; it is at most β exp(tanh 1) = 2.1 β. It grows: `growth` is above the
    threshold.

    Args:
        scores: mean probability of the true class from each modality alone, (…, M) with M ≥ 2.
        growth: of the Fisher traces, (…, M).
        beta: β ≥ 0, in 1 over the parameters' unit squared; a number, or a tensor that broadcasts.
        threshold: what counts as growth.

    Returns:
        (…, M), ≥ 0.

    Raises:
        ValueError: the shapes do not fit, M < 2, or ``beta`` is negative or NaN (of a GPU unread).

    Source: the form is the released code's, which takes sums of scores over the batch, so that the
    tanh is 1 in nearly every batch: means are ours, and so are more than two modalities.
    """
    check_several("scores", scores)
    check_shapes(scores=(scores, "M"), growth=(growth, "M"))
    check_values("beta", beta, least=0)
    count = scores.shape[-1]
    gap = count / (count - 1) * (scores - scores.mean(-1, keepdim=True))
    return torch.where((gap > 0) & (growth > threshold), beta * gap.tanh().exp(), 0)


class InfoReg(Balancer):
    """The uniform sum; the encoder of the modality ahead is pulled to where its epoch began.

    The paper's idea: a network takes in most information early, and what the modality ahead takes
    in there the others lose. So while the trace of its Fisher information still grows
    (`trace_growth`), β(θ − θ_0) is added to the gradient of its encoder, θ_0 its parameters at the
    start of the epoch (`pull_strengths`). It is the gradient of β/2 ‖θ − θ_0‖², which the history
    records as a part of "objective". The first epoch counts as growing.

    The Fisher trace of an epoch is the mean over its steps of ‖g‖², g the gradient that the uniform
    sum leaves in the encoder: that of batches, not of single samples. The history has it of each
    epoch as "fisher trace".

    Under plain SGD the pull alone is stable while lr · 2.1 β < 2; momentum allows more.

    Args:
        beta: β ≥ 0, the strength; 0 is the uniform sum. The released code has 0.95 for the audio
            and 0.1 for the video; the paper's numbers are not known to us.
        threshold: which relative growth per epoch is still growth.
        window: w of `trace_growth`, in epochs.

    The released code looks at the trace of the audio encoder alone, whoever is ahead. Its trace is
    that of the weights of convolutions and linear layers, each with its mean in place of its sum,
    and with the pull in it. Ours takes each modality's own trace, of all parameters, without the
    pull [ours]. We know two versions of the code. In that of commit ea7b9d5 the threshold is 0.05,
    and the unimodal losses are those of each modality's part of the joint logits. In that of
    41d887f it is 0.04, the unimodal losses have heads of their own, as here, and the video is
    never pulled: the condition of that branch can never be true.

    A loop of your own without `begin` knows no epochs: there it is the uniform sum, and a warning
    says so.

    Missing modalities: a score is the mean over the samples that have the modality; one that the
    whole batch lacks is neither ahead nor behind [ours]. Where a sample has several labels, a score
    is OGM's [ours].

    Raises:
        ValueError: an argument out of range; in `step`: real-valued targets, because the score is
            the probability of a class.

    Source: the released code, for the rule, and its version 41d887f for the losses; the idea is the
    paper's. What is ours is marked.

    >>> from mmlab import InfoReg, MultimodalNet, fit, load
    >>> data = load("av-digits", seed=0)
    >>> balancer = InfoReg(beta=0.95)
    >>> net = MultimodalNet.build(data, **balancer.network, seed=0)
    >>> run = fit(net, data, balancer, epochs=1)
    >>> trace = run.history.query("metric == 'fisher trace'").set_index("output").value
    >>> bool((trace > 0).all()), sorted(trace.index)
    (True, ['audio', 'image'])
    """

    def __init__(self, beta: float = 0.95, threshold: float = 0.05, window: int = 10) -> None:
        check_number("beta", beta, least=0)
        check_number("threshold", threshold)
        check_whole("window", window, least=1)
        self.beta, self.threshold, self.window = beta, threshold, window
        self._begin()

    def _begin(self) -> None:
        self.starts: dict[str, list[Tensor]] = {}
        self.traces: list[Tensor] = []
        self.sum: Tensor | None = None
        self.steps = 0

    def start(self, run: Training) -> None:
        self._begin()

    def epoch(self, run: Training) -> None:
        if self.sum is not None:
            self.traces = [*self.traces, self.sum / self.steps][-self.window - 1 :]
        self.sum, self.steps = None, 0
        encoders = run.model.encoders.items()
        self.starts = {m: [p.detach().clone() for p in part.parameters()] for m, part in encoders}

    def step(self, s: Step) -> Iterator[None]:
        check_labels(s.batch.target, "InfoReg")
        if not self.starts:
            warn_without_run(
                "InfoReg holds encoders near where an epoch began", "it is the uniform sum"
            )
        s.backward(s.losses.stack())
        traces, k = self.fisher_traces(s), self.strengths(s)
        self.sum = traces if self.sum is None else self.sum + traces
        self.steps += 1
        s.log(**{"fisher trace": dict(s.each(traces)), "coefficient": dict(s.each(k))})
        if self.starts:
            s.backward((k * self.distances(s)).sum(-1) / 2)
        yield

    @torch.no_grad()
    def strengths(self, s: Step) -> Tensor:
        """How strongly each encoder is held, (…, M)."""
        scores = mean_scores(s, s.out.unimodal)
        growth = torch.ones_like(scores)  # in the first epoch
        if self.traces:
            growth = trace_growth(torch.stack(self.traces, dim=-2), self.window)
        return pull_strengths(scores, growth, self.beta, self.threshold) * s.seen

    @torch.no_grad()
    def fisher_traces(self, s: Step) -> Tensor:
        """‖g‖² of each encoder's gradient, (…, M)."""
        return squared_lengths(s, {m: s.stored_grad(m) for m in s.modalities})

    def distances(self, s: Step) -> Tensor:
        """‖θ − θ_0‖² of each encoder, (…, M), with a graph."""
        moved = {}
        for m in s.modalities:
            pairs = zip(s.model.encoders[m].parameters(), self.starts[m], strict=True)
            moved[m] = [p - first for p, first in pairs]
        return squared_lengths(s, moved)


def squared_lengths(s: Step, vectors: Mapping[str, Sequence[Tensor]]) -> Tensor:
    """The squared length of the vector of each modality, a list of tensors: (…, M); of none 0."""
    loss = s.losses["joint"]  # its axes are those that lead every parameter
    squares = [
        grams([vectors[m]], loss.ndim).sum((-3, -2, -1)) if vectors[m] else 0 * loss
        for m in s.modalities
    ]
    return torch.stack(squares, dim=-1)
