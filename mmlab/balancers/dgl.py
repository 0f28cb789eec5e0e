"""DGL: encoders learn from their own losses alone, the fusion from the joint loss alone.

Wei and others, "Boosting Multimodal Learning via Disentangled Gradient Learning", ICCV 2025.
"""

from collections.abc import Iterator

from mmlab.checks import check_number
from mmlab.training.balancer import Balancer
from mmlab.training.step import Step


class DGL(Balancer):
    """Disentangled gradient learning: each unimodal loss trains its encoder, nothing else does.

    The joint loss stops at the features: it trains the fusion. So under α = 1 these are
    `Ensemble`'s encoders under a learnt fusion, and DGL is a control too: the encoders learn as if
    each were alone, the fusion as if they were frozen. Under fusion="late", which fuses by the
    heads, the heads hear the joint loss as well.

    Args:
        alpha: α > 0, the weight of each unimodal loss, no unit. Under plain SGD it is a factor on
            the learning rate of encoders and heads. The released script's own default is 4.

    A modality that samples lack counts in its own loss where it is there, and its encoder does not
    learn from a batch that lacks it.

    Raises:
        TypeError, ValueError: an argument out of range.

    Source: the paper and its released code. The unimodal losses are of heads of their own [ours];
    the code takes them from the fusion, and deletes what they leave there.

    >>> from mmlab import DGL, MultimodalNet, fit, load
    >>> data = load("av-digits", seed=0)
    >>> balancer = DGL(alpha=1.0)
    >>> net = MultimodalNet.build(data, **balancer.network, seed=0)
    >>> run = fit(net, data, balancer, epochs=1)
    >>> sorted(run.history.query("metric == 'loss'").output)
    ['audio', 'image', 'joint']
    """

    def __init__(self, alpha: float = 1.0) -> None:
        check_number("alpha", alpha, above=0)
        self.alpha = alpha

    @property
    def lost_if_adaptive(self) -> str:
        plain = isinstance(self.alpha, float | int) and self.alpha == 1
        return "" if plain else "is DGL() without alpha; use SGD"

    def step(self, s: Step) -> Iterator[None]:
        s.backward(s.losses["joint"], encoders=False)
        s.backward(self.alpha * s.losses.stack(*s.modalities))
        yield
