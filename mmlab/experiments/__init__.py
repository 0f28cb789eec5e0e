"""Methods side by side: the same seeds for all, paired intervals, and what was seen in words."""

from mmlab.experiments.compare import (
    check_column,
    compare,
    difference,
    interval,
    summary,
    train_once,
)
from mmlab.experiments.reports import Claim, claims, fold_means, report, spell, verdict

__all__ = [
    "Claim",
    "check_column",
    "claims",
    "compare",
    "difference",
    "fold_means",
    "interval",
    "report",
    "spell",
    "summary",
    "train_once",
    "verdict",
]
