"""What a network is measured by: accuracies, calibration, overfitting, conflict, shares, speed.

Of the three unimodal accuracies, which are not comparable, see `mmlab.evaluation.unimodal`.
"""

from mmlab.evaluation.audit import audit
from mmlab.evaluation.confidence import calibration_error, violation_share
from mmlab.evaluation.conflict import GradientWatch, gradient_conflict, gradient_norms
from mmlab.evaluation.curves import Curves, overfitting
from mmlab.evaluation.metrics import (
    accuracy,
    answered_share,
    average_precision,
    macro_f1,
    multilabel_metrics,
    regression_metrics,
    test_accuracy,
    test_scores,
)
from mmlab.evaluation.missing import accuracy_by_pattern, filled_in, without
from mmlab.evaluation.passes import forward
from mmlab.evaluation.shares import modality_gap, modality_valuation, shapley_shares
from mmlab.evaluation.speed import LearningSpeed
from mmlab.evaluation.unimodal import (
    joint_accuracy,
    own_head_accuracy,
    probe_accuracy,
    share_accuracy,
)

__all__ = [
    "Curves",
    "GradientWatch",
    "LearningSpeed",
    "accuracy",
    "accuracy_by_pattern",
    "answered_share",
    "audit",
    "average_precision",
    "calibration_error",
    "filled_in",
    "forward",
    "gradient_conflict",
    "gradient_norms",
    "joint_accuracy",
    "macro_f1",
    "modality_gap",
    "modality_valuation",
    "multilabel_metrics",
    "overfitting",
    "own_head_accuracy",
    "probe_accuracy",
    "regression_metrics",
    "shapley_shares",
    "share_accuracy",
    "test_accuracy",
    "test_scores",
    "violation_share",
    "without",
]
