"""What each modality can do alone, and what all can together.

Three unimodal accuracies exist, and they are not comparable: `own_head_accuracy` (the modality's
own head), `share_accuracy` (the modality's part of the joint logits) and `probe_accuracy` (a linear
probe on the frozen encoder). Name the one you quote. Each is NaN where no sample has the modality.

All raise ValueError for real-valued targets, FloatingPointError for what is not finite.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

from mmlab.checks import check_choice
from mmlab.datasets.base import MultimodalData, Split
from mmlab.evaluation.metrics import accuracy, check_finite, check_labels
from mmlab.evaluation.passes import read_output
from mmlab.models.network import MultimodalNet
from mmlab.training.passes import Reading

if TYPE_CHECKING:
    import numpy as np


def joint_accuracy(model: MultimodalNet, batch: Split) -> float:
    """Accuracy of the joint logits."""
    found = read_output(model, batch, lambda out: {"joint": out.joint})
    return accuracy(found.values["joint"], found.target, what="the 'joint' logits")


def own_head_accuracy(model: MultimodalNet, batch: Split) -> dict[str, float]:
    """Accuracy of each modality's head. At chance where the method has never trained the heads."""
    found = read_output(model, batch, lambda out: dict(out.unimodal))
    return _accuracies(model, found, "the logits of the head of {!r}")


def share_accuracy(model: MultimodalNet, batch: Split) -> dict[str, float]:
    """Accuracy of each modality's part of the joint logits (`Output.contributions`)."""
    found = read_output(model, batch, lambda out: out.contributions)
    return _accuracies(model, found, "the parts of {!r} in the joint logits")


def _accuracies(model: MultimodalNet, found: Reading, what: str) -> dict[str, float]:
    return {
        m: accuracy(found.values[m], found.target, found.has(m), what=what.format(m))
        for m in model.modalities
    }


def probe_accuracy(
    model: MultimodalNet, data: MultimodalData, split: str = "test"
) -> dict[str, float]:
    """Accuracy on `split` of a linear probe (multinomial logistic regression, scikit-learn).

    The probe learns on the training features of the frozen encoder, standardised; so it tells what
    the encoder has learnt, whatever the joint head makes of it. NaN where no sample of `split` has
    the modality.

    Raises ValueError for the name of no split, or where the training samples that have the modality
    are of one class.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    check_choice("split", split, data.splits)
    check_labels("probe_accuracy", data.train.head(1).target)
    train, test = (
        read_output(model, part, lambda out: dict(out.features))
        for part in (data.train, data.splits[split])
    )
    scores = {}
    for m in model.modalities:
        x, y = _known(f"the features of {m!r} in train", train, m)
        x_new, y_new = _known(f"the features of {m!r} in {split}", test, m)
        if len({*y.tolist()}) < 2:
            raise ValueError(
                f"a probe of {m!r} needs training samples of two classes that have it; there are "
                f"{len(y)} samples, of the classes {sorted({*y.tolist()})}"
            )
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
        # one thread: for features this small, several only wait for each other
        with warnings.catch_warnings(), threadpool_limits(limits=1):
            warnings.simplefilter("ignore", ConvergenceWarning)
            probe.fit(x, y)
        scores[m] = float(probe.score(x_new, y_new)) if len(y_new) else math.nan
    return scores


def _known(what: str, found: Reading, m: str) -> tuple[np.ndarray, np.ndarray]:
    """Features and targets, as arrays, of the samples that have modality m."""
    check_finite(what, found.values[m], mask := found.has(m))
    kept = slice(None) if mask is None else mask
    return found.values[m][kept].cpu().numpy(), found.target[kept].cpu().numpy()
