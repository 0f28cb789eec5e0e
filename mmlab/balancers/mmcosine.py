"""MMCosine: joint training on sums of cosines, so that no modality is louder by its lengths.

Xu, Feng, Zhang, Hu, "MMCosine: Multi-Modal Cosine Loss Towards Balanced Audio-Visual Fine-Grained
Learning", ICASSP 2023, arXiv 2303.05338.
"""

from functools import partial

import torch

from mmlab.checks import check_number
from mmlab.models.fusion import Cosine
from mmlab.training.balancer import Joint, NetworkOptions, Training


class MMCosine(Joint):
    """Joint training with the fusion "cosine": z_c = s Σ_m cos(h_m, W_{m,c}), without a bias.

    The method is this layer (`mmlab.models.Cosine`), and the same one trains and predicts; the
    released code evaluates by the products without lengths removed. Each modality's part of the
    logits lies between −s and s.

    Args:
        scale: s, above 0; the released code takes 10 on CREMA-D. Tune it: the more classes, the
            larger it must be, see `Cosine`.

    A modality that a sample lacks has the features that its encoder makes of zeros, as in joint
    training. Only their direction counts, so that they add the same logits to all such samples:
    learnt constants between −s and s, however short the features are [ours].

    Raises:
        TypeError, ValueError: a scale out of range; at the start: another fusion or scale than this
            one's, or real-valued targets, which cosines do not reach.

    Source: the paper, and its released code for s.

    >>> from mmlab import MMCosine, MultimodalNet, fit, load
    >>> data = load("av-digits", seed=0)
    >>> balancer = MMCosine(scale=10)
    >>> net = MultimodalNet.build(data, **balancer.network, seed=0)
    >>> run = fit(net, data, balancer, epochs=1)
    >>> parts = net(data.test.inputs).contributions
    >>> bool(parts["audio"].abs().max() <= 10)
    True
    """

    def __init__(self, scale: float = 10.0) -> None:
        check_number("scale", scale, above=0)
        self.scale = scale

    @property
    def network(self) -> NetworkOptions:
        return {"heads": self.heads, "fusion": partial(Cosine, scale=self.scale)}

    def start(self, run: Training) -> None:
        if run.model.task == "regression":
            raise ValueError(
                "MMCosine needs class labels: its outputs are cosines, which do not reach any real "
                "number. For regression use Joint, ATF, MMPareto or GradientBlending"
            )
        fusion = run.model.fusion
        if not isinstance(fusion, Cosine):
            raise ValueError(
                f"MMCosine is a fusion, and this network has {type(fusion).__name__}; build it "
                "with MultimodalNet.build(data, **balancer.network)"
            )
        own, asked = (
            torch.as_tensor(s).cpu().double().flatten() for s in (fusion.scale, self.scale)
        )
        if not torch.allclose(own, asked):
            raise ValueError(
                f"this network has the scale {own.tolist()}, and MMCosine {asked.tolist()}; build "
                "it with MultimodalNet.build(data, **balancer.network)"
            )
