"""How fast each encoder learns, by how far its parameters move."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from mmlab.training import Run


class LearningSpeed:
    """Observer: after each epoch, how far each encoder has moved so far, relative to its size.

    Records "learning speed" of each encoder, split "train": the sum over the epochs t of
    ‖θ_t − θ_{t−1}‖² / ‖θ_{t−1}‖², θ_t its parameters after epoch t; 0 before the first. It needs no
    pass. Compare encoders of one run: far apart, one learns much faster than the other. Encoders
    without parameters are left out.

    After Wu et al., "Characterizing and overcoming the greedy nature of learning in multi-modal
    deep neural networks", ICML 2022, who sum the gradient's ‖g‖² / ‖θ‖² over the steps. Ours takes
    what an epoch moved in place of gradients: this holds the rate, and what method and optimiser
    make of the gradient; steps to and fro within an epoch cancel.

    Theirs is also the conditional speed, the logarithm of one speed over another: of the parameters
    that bring the other modality into a branch, over the branch's own. It needs networks that mix
    modalities between the stages of their encoders, each place belonging to one branch; here they
    meet in one fusion, which belongs to none, so it is not offered.
    """

    only_looks = True

    def __init__(self) -> None:
        self._before: dict[str, Tensor] = {}
        self._moved: dict[str, float] = {}

    @torch.no_grad()
    def __call__(self, run: Run) -> None:
        now = {
            m: parameters_to_vector(encoder.parameters()).double()
            for m, encoder in run.model.encoders.items()
            if any(p.numel() for p in encoder.parameters())
        }
        if run.epoch == 0 or not self._before:
            self._before, self._moved = now, dict.fromkeys(now, 0.0)
        for m, theta in now.items():
            before = self._before[m]
            size = before.square().sum().item()
            if size:  # an encoder of zeros has no relative move
                self._moved[m] += (theta - before).square().sum().item() / size
            run.record("train", m, "learning speed", self._moved[m])
        self._before = now
