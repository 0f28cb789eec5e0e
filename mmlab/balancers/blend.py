"""Rules from multi-task learning: any map from a Gramian of gradients to weights, as a balancer.

PCGrad, CAGrad, IMTL-G, Nash-MTL and others look at the inner products of the tasks' gradients and
give each a weight. Here the tasks of an encoder are the joint loss and its own unimodal loss.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from mmlab.balancers.mmpareto import cosine
from mmlab.training.balancer import Balancer
from mmlab.training.step import Step


class Blend(Balancer):
    """Each encoder gets its joint and its unimodal gradient with the weights that a rule gives.

    The fusion and the heads get the plain gradient of the summed loss.

    Args:
        weighting: Gramian (2, 2), the joint gradient first -> weights (2,). One encoder's at a
            time, so that a weighting of TorchJD will do as it is.

    Raises:
        TypeError: the weighting cannot be called.

    Source: ours; the rule brings its own.

    >>> from torchjd.aggregation import PCGradWeighting
    >>> from mmlab import Blend, MultimodalNet, fit, load
    >>> data = load("av-digits", seed=0)
    >>> run = fit(MultimodalNet.build(data, seed=0), data, Blend(PCGradWeighting()), epochs=1)
    >>> sorted(run.history.query("metric == 'cosine'").output)
    ['audio', 'image']
    """

    def __init__(self, weighting: Callable[[Tensor], Tensor]) -> None:
        if not callable(weighting):
            raise TypeError(
                f"weighting is {weighting!r}; give what makes weights (2,) from a Gramian (2, 2)"
            )
        self.weighting = weighting

    def step(self, s: Step) -> Iterator[None]:
        losses = {m: (s.losses["joint"], s.losses[m]) for m in s.modalities}
        found = s.blend(losses, self.weights)
        s.log(cosine={m: cosine(gram) for m, gram in found.items()})
        yield

    def weights(self, gram: Tensor) -> Tensor:
        """The rule for each of the Gramians (…, 2, 2): weights (…, 2)."""
        each = [self.weighting(one) for one in gram.flatten(0, -3)]
        return torch.stack(each).to(gram).view(gram.shape[:-1])
