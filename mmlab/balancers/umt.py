"""UMT: the features of each modality stay close to those of a teacher that was trained alone.

Du and others, "On Uni-Modal Feature Learning in Supervised Multi-Modal Learning", ICML 2023, arXiv
2305.01233, and a first paper of the same authors on such teachers, arXiv 2106.11059. The authors
released no code; λ is known at second hand alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mmlab.balancers.joint import take_values, trained_alone
from mmlab.checks import check_number, check_shapes
from mmlab.models.network import MultimodalNet
from mmlab.training.balancer import Balancer, Training, warn_without_run
from mmlab.training.step import Step, features_by


def feature_distances(features: Tensor, teacher: Tensor) -> Tensor:
    """The squared distance of each feature vector to its teacher's, per feature.

    ‖h − t‖² / D: the mean over the D features, so that λ does not hang on the width.

    Args:
        features: h, (…, B, D).
        teacher: t, (…, B, D), in the same unit.

    Returns:
        (…, B), ≥ 0, in the feature's unit squared.

    Raises:
        ValueError: the shapes do not fit.

    Source: the paper's squared distance; the mean over features at second hand.
    """
    check_shapes(features=(features, "BD"), teacher=(teacher, "BD"))
    return (features - teacher).square().mean(-1)


class UMT(Balancer):
    """Uni-modal teacher: the joint loss, and each encoder is drawn to one that was trained alone.

    Before the first epoch each modality is trained alone, from the run's own start, for as many
    epochs as the run has. These encoders are the teachers: frozen, in evaluation mode, never
    changed. The loss is CE + λ Σ_m (mean over the samples of ‖h_m − h_m^teacher‖² / D).

    It costs M + 1 trainings: one per modality, which together are one more joint training, and the
    joint one, in which each batch goes forward through the teachers as well. They see the very
    batch, so a random crop is the same for both. The control is `Ensemble`, the mean of the
    teachers (UME in the paper): if it is as good, the fusion has added nothing.

    Args:
        weight: λ ≥ 0, in the unit of the loss over the feature's unit squared. The 10 is of another
            group's code, with a mean over the features; the paper's own number is not known here.
            Where the distance does not fall in the history, lower λ or the learning rate: steps
            that are too long switch encoders of ReLUs off for good.

    The distance counts the samples that have the modality. The teachers follow the `schedule` of
    `fit`; a learning rate that an observer sets is not part of them. With a shared head each
    teacher has had a copy of it for itself.

    Raises:
        TypeError, ValueError: an argument out of range.
        FloatingPointError: the training of a teacher fails.

    The history gets each modality's distance; a batch in which nobody has it counts as 0.

    Source: the paper's abstract and loss; λ and its mean at second hand.

    >>> from mmlab import UMT, MultimodalNet, fit, load
    >>> data = load("av-digits", seed=0)
    >>> balancer = UMT(weight=10)
    >>> net = MultimodalNet.build(data, **balancer.network, seed=0)
    >>> run = fit(net, data, balancer, epochs=2)
    >>> sorted(run.history.query("metric == 'distance'").output.unique())
    ['audio', 'image']
    """

    def __init__(self, weight: float = 10.0) -> None:
        check_number("weight", weight, least=0)
        self.weight = weight
        self.teachers = nn.ModuleDict()
        self.taught = False

    def modules(self, model: MultimodalNet) -> nn.Module:
        """The teachers, still as the encoders are: frozen, so the optimiser does not move them."""
        parts = {m: copy.deepcopy(encoder) for m, encoder in model.encoders.items()}
        self.teachers = nn.ModuleDict(parts).requires_grad_(False)
        return self.teachers

    def start(self, run: Training) -> None:
        if not self.teachers:  # a loop of one's own that has not asked for them
            self.modules(run.model)
        self.teachers.eval()
        self.taught = False

    def epoch(self, run: Training) -> None:
        if run.epoch > 0:
            return
        for m, encoder in trained_alone(run, run.epochs).items():
            take_values(self.teachers[m], encoder)
        self.taught = True

    def step(self, s: Step) -> Iterator[None]:
        loss = s.losses["joint"]
        if self.taught:
            distances = self.distances(s)
            s.log(distance=dict(s.each(distances)))
            loss = loss + (self.weight * distances).sum(-1)
        else:
            warn_without_run(
                "UMT trains its teachers before the first epoch", "it is joint training"
            )
        s.backward(loss)
        yield

    def distances(self, s: Step) -> Tensor:
        """Mean distance of each modality over the samples that have it, (…, M); 0 of none."""
        taught = features_by(self.teachers, s)
        rows = [feature_distances(s.out.features[m], taught[m]) for m in s.modalities]
        return torch.where(s.seen, s.mean(torch.stack(rows, dim=-2)), 0)
