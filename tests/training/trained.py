"""A small data set, trainings on it, and what they leave."""

import torch
from torch import nn

from mmlab.datasets.synthetic import synthetic
from mmlab.models import MultimodalNet
from mmlab.training import Checkpoint, fit

DATA = synthetic(n=(100, 20, 20), dims=5)


def weights(model):
    return [p.detach().cpu().clone() for p in model.parameters()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def trained(balancer=None, data=DATA, seed=0, epochs=2, **options):
    model = MultimodalNet.build(data, seed=seed)
    return fit(model, data, balancer, epochs=epochs, seed=seed, device="cpu", **options)


class CutError(Exception):
    """A training breaks off."""


class Cut(Checkpoint):
    """Saves epochs, and after this one the training breaks off."""

    def __init__(self, path, after=2):
        super().__init__(path)
        self.after = after

    def __call__(self, run):
        super().__call__(run)
        if run.epoch == self.after:
            raise CutError


def dropping(*layers):
    """A network in which dropout shows, with `layers` before it."""
    encoders = {m: nn.Sequential(nn.Linear(5, 8), *layers, nn.Dropout(0.5)) for m in "ab"}
    for encoder in encoders.values():
        nn.init.constant_(encoder[0].weight, 0.1)
        nn.init.zeros_(encoder[0].bias)
    return MultimodalNet.build(DATA, encoders=encoders, width=8)
