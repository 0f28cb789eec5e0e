"""Tiny float64 networks, and their losses and gradients by the chain rule in numpy.

The reference knows linear encoders, concatenation, linear heads and cross-entropy; it shares no
line with the library and does not use autograd.
"""

import numpy as np
import torch
from torch import Tensor, nn

from mmlab import Balancer, Batch, MultimodalData, MultimodalNet, Step
from mmlab.models.network import make_fusion

SIZES = {"a": 3, "v": 4, "t": 2}
WIDTH, CLASSES = 4, 3


def linear(size: int, width: int) -> nn.Module:
    return nn.Linear(size, width)


def mlp(size: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(size, 5), nn.Tanh(), nn.Linear(5, width))


class Counted(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, log):
        ctx.log = log
        log.append("forward")
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        ctx.log.append("backward")
        return grad, None


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.log: list[str] = []

    def forward(self, x):
        return Counted.apply(x, self.log)


def counted(size: int, width: int) -> nn.Module:
    """A linear encoder whose last layer logs every "forward" and "backward" pass in `.log`."""
    return nn.Sequential(nn.Linear(size, width), Counter())


class Watched(nn.Module):
    """A linear encoder with dropout that notes in `.modes` who calls it: (training, graph)."""

    def __init__(self, size, width):
        super().__init__()
        self.linear, self.modes = nn.Linear(size, width), []

    def forward(self, x):
        self.modes.append((self.training, torch.is_grad_enabled()))
        return nn.functional.dropout(self.linear(x), 0.5, self.training)


def network(modalities="av", *, fusion="concat", heads="own", encoder=linear, seed=0, outputs=None):
    """A network over the modalities named by single letters, in float64."""
    outputs = outputs or CLASSES
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoders = {m: encoder(SIZES[m], WIDTH) for m in modalities}
        own = nn.ModuleDict({m: nn.Linear(WIDTH, outputs) for m in modalities})
        chosen = own if heads == "own" else nn.Linear(WIDTH, outputs)
        fused = make_fusion(fusion, dict.fromkeys(modalities, WIDTH), outputs, chosen)
    return MultimodalNet(encoders, fused, chosen).double()


def batch(modalities="av", *, size=6, seed=1, present=None, regression=False) -> Batch:
    """Random samples. present: {m: list of 0 and 1}; inputs of absent samples are zeros."""
    draw = torch.Generator().manual_seed(seed)
    inputs = {
        m: torch.randn(size, SIZES[m], generator=draw, dtype=torch.float64) for m in modalities
    }
    target = torch.randint(CLASSES, (size,), generator=draw)
    if regression:
        target = torch.randn(size, generator=draw, dtype=torch.float64)
    if present is not None:
        present = {m: torch.tensor(mask, dtype=torch.bool) for m, mask in present.items()}
        inputs = {m: x * present[m][:, None] for m, x in inputs.items()}
    return Batch(inputs, target, present)


def data(modalities="av", *, size=24, seed=2, missing=False) -> MultimodalData:
    """Three splits of samples around one centre per class, so that there is something to learn."""
    draw = torch.Generator().manual_seed(seed)
    centres = {
        m: torch.randn(CLASSES, SIZES[m], generator=draw, dtype=torch.float64) for m in modalities
    }

    def split(n: int) -> Batch:
        target = torch.arange(n) % CLASSES
        inputs = {
            m: c[target] + torch.randn(n, SIZES[m], generator=draw, dtype=torch.float64)
            for m, c in centres.items()
        }
        if not missing:
            return Batch(inputs, target)
        present = {m: torch.rand(n, generator=draw) < 0.7 for m in modalities}
        present[modalities[0]] |= ~torch.stack(list(present.values())).any(0)
        inputs = {m: x * present[m][:, None] for m, x in inputs.items()}
        return Batch(inputs, target, present)

    return MultimodalData(split(size), split(size // 2), split(size // 2), n_classes=CLASSES)


def convolution(size: int, width: int) -> nn.Module:
    """An encoder with a tensor of four dimensions among its parameters."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 1, size)),
        nn.Conv2d(1, 2, (1, 2)),
        nn.Flatten(),
        nn.Linear(2 * (size - 1), width),
    )


class ByHand:
    """What the chain rule gives for linear encoders, "concat" and linear heads.

    loss[key]:            cross-entropy, key "joint" or a modality.
    gradient(key):        {parameter: gradient} of that loss.
    features[m], share[m]: h_m, and W_m h_m + b/M.
    """

    def __init__(self, net: MultimodalNet, samples: Batch) -> None:
        self.net, self.samples = net, samples
        self.x = {m: samples.inputs[m].numpy() for m in net.modalities}
        self.features = {
            m: x @ array(net.encoders[m].weight).T + array(net.encoders[m].bias)
            for m, x in self.x.items()
        }
        self.target = np.eye(CLASSES)[samples.target.numpy()]
        self.logits = {m: h @ array(net.head(m).weight).T for m, h in self.features.items()}
        for m in net.modalities:
            self.logits[m] = self.logits[m] + array(net.head(m).bias)
        fused = getattr(net.fusion, "linear", None)
        if fused is not None:
            weight, bias = array(fused.weight), array(fused.bias)
            self.blocks = dict(
                zip(net.modalities, np.split(weight, len(net.modalities), axis=1), strict=True)
            )
            self.share = {
                m: h @ self.blocks[m].T + bias / len(self.blocks) for m, h in self.features.items()
            }
            self.logits["joint"] = sum(self.share.values())
        self.loss = {key: self._cross_entropy(key) for key in self.logits}

    def _counted(self, key: str) -> np.ndarray:
        """(B, 1) weights of the samples in the loss's mean."""
        mask = np.ones(len(self.target))
        if key != "joint" and self.samples.present is not None:
            mask = self.samples.present[key].numpy().astype(float)
        return (mask / max(mask.sum(), 1))[:, None]

    def _cross_entropy(self, key: str) -> float:
        right = (softmax(self.logits[key]) * self.target).sum(1)
        return float(-(np.log(right) * self._counted(key)[:, 0]).sum())

    def gradient(self, key: str) -> dict[nn.Parameter, Tensor]:
        error = (softmax(self.logits[key]) - self.target) * self._counted(key)
        if key == "joint":
            joined = np.concatenate(list(self.features.values()), axis=1)
            result = layer(self.net.fusion.linear, joined, error)
            back = {m: error @ block for m, block in self.blocks.items()}
        else:
            result = layer(self.net.head(key), self.features[key], error)
            back = {key: error @ array(self.net.head(key).weight)}
        for m, signal in back.items():
            result |= layer(self.net.encoders[m], self.x[m], signal)
        return result

    def total(self, weights: dict[str, float]) -> dict[nn.Parameter, Tensor]:
        """The gradient of Σ weight · loss."""
        result: dict[nn.Parameter, Tensor] = {}
        for key, weight in weights.items():
            for parameter, grad in self.gradient(key).items():
                result[parameter] = result.get(parameter, 0) + weight * grad
        return result


def layer(module: nn.Linear, x: np.ndarray, error: np.ndarray) -> dict[nn.Parameter, Tensor]:
    return {
        module.weight: torch.from_numpy(error.T @ x),
        module.bias: torch.from_numpy(error.sum(0)),
    }


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def array(x: Tensor) -> np.ndarray:
    return x.detach().numpy().copy()


def assert_gradients(net: MultimodalNet, expected: dict[nn.Parameter, Tensor]) -> None:
    """Every parameter's `.grad` is what `expected` says; what it does not name has none, or 0."""
    for name, parameter in net.named_parameters():
        zero = torch.zeros_like(parameter)
        got = zero if parameter.grad is None else parameter.grad
        torch.testing.assert_close(
            got, expected.get(parameter, zero), rtol=1e-9, atol=1e-13, msg=lambda s, n=name: n + s
        )


def flat(net: MultimodalNet, m: str, grads: dict[nn.Parameter, Tensor]) -> np.ndarray:
    """The part of a gradient that belongs to encoder `m`, as one vector."""
    return np.concatenate([grads[p].numpy().ravel() for p in net.encoders[m].parameters()])


def parameters(net: MultimodalNet) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in float64."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draw, dtype=torch.float64)


def take_step(balancer: Balancer, net: MultimodalNet, samples: Batch, **options) -> Step:
    """A step up to its first `yield`: the gradients are there, no parameter has moved."""
    step = Step(net, samples, **options)
    next(balancer.step(step))
    return step


def logged(step: Step, metric: str) -> dict[str, float]:
    """What a step has logged of each modality."""
    return {m: step.logged[metric, m].item() for m in step.modalities}
