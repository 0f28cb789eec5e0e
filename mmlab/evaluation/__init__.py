"""What a trained network is measured by: accuracies, overfitting, gradient conflict, balance."""

from mmlab.evaluation.unimodal import (
    Curves,
    GradientWatch,
    accuracy,
    forward,
    gradient_conflict,
    gradient_norms,
    joint_accuracy,
    modality_gap,
    overfitting,
    own_head_accuracy,
    probe_accuracy,
    regression_metrics,
    shapley_shares,
    share_accuracy,
    test_accuracy,
    test_scores,
)

__all__ = [
    "Curves",
    "GradientWatch",
    "accuracy",
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
