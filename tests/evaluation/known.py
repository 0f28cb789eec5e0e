"""Networks made by hand, whose numbers are known; and one training that is observed."""

import torch
from torch import nn

from mmlab import Joint, evaluation
from mmlab.datasets import Batch, MultimodalData
from mmlab.datasets.synthetic import synthetic
from mmlab.models import Concat, MultimodalNet
from mmlab.training import Run, fit

DATA = synthetic(n=(60, 20, 20), dims=5)


def make_known():
    """Modality a tells the class of four, b tells nothing; a's head is wrong, its share right."""
    target = torch.arange(80) % 4
    inputs = {
        "a": torch.eye(4)[target],
        "b": torch.randn(80, 4, generator=torch.Generator().manual_seed(0)),
    }
    encoders = {m: nn.Linear(4, 4, bias=False) for m in "ab"}
    heads = {m: nn.Linear(4, 4) for m in "ab"}
    net = MultimodalNet(encoders, Concat({"a": 4, "b": 4}, 4), heads)
    with torch.no_grad():
        for m in "ab":
            encoders[m].weight.copy_(torch.eye(4))
            heads[m].weight.zero_()
            heads[m].bias.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0]))  # always says class 1
        net.fusion.linear.weight.copy_(torch.cat([torch.eye(4), torch.zeros(4, 4)], dim=1))
        net.fusion.linear.bias.zero_()
    batch = Batch(inputs, target)
    return net, MultimodalData(batch, batch, batch)


def doubled(prediction, target, reduction="mean"):
    return 2 * nn.functional.cross_entropy(prediction, target, reduction=reduction)


def observed(data=DATA, loss=None, observers=None, epochs=1):
    """The history that the observers leave of one training."""
    observers = observers or [evaluation.Curves(), evaluation.GradientWatch()]
    net = MultimodalNet.build(data)
    return fit(net, data, epochs=epochs, device="cpu", loss=loss, observers=observers).history


def untrained(net, data=DATA, balancer=None):
    """A run that has not begun: the network as it is, to ask what a balancer makes of it."""
    return Run(
        model=net,
        data=data,
        balancer=balancer or Joint(),
        optimizer=torch.optim.SGD(net.parameters()),
        seed=0,
        epochs=0,
        batch_size=20,
        device=torch.device("cpu"),
        train_on=lambda run: None,
    )
