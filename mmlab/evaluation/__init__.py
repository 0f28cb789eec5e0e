"""What a trained network is measured by: accuracies, overfitting, gradient conflict, shares.

Of the three unimodal accuracies, which are not comparable, see `mmlab.evaluation.unimodal`.
"""

from mmlab.evaluation.conflict import GradientWatch, gradient_conflict, gradient_norms
from mmlab.evaluation.curves import Curves, overfitting
from mmlab.evaluation.metrics import (
    accuracy,
    answered_share,
    regression_metrics,
    test_accuracy,
    test_scores,
)
from mmlab.evaluation.passes import forward
from mmlab.evaluation.shares import modality_gap, shapley_shares
from mmlab.evaluation.unimodal import (
    joint_accuracy,
    own_head_accuracy,
    probe_accuracy,
    share_accuracy,
)

__all__ = [
    "Curves",
    "GradientWatch",
    "accuracy",
    "answered_share",
    "forward",
    "gradient_conflict",
    "gradient_norms",
    "joint_accuracy",
    "modality_gap",
    "overfitting",
    "own_head_accuracy",
    "probe_accuracy",
    "regression_metrics",
    "shapley_shares",
    "share_accuracy",
    "test_accuracy",
    "test_scores",
]
