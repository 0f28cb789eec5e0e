"""Methods side by side: the same seeds for all, paired intervals, and what was seen in words."""

from mmlab.experiments.compare import compare, train_once
from mmlab.experiments.reports import Claim, claims, report, spell, verdict
from mmlab.experiments.statistics import check_column, difference, fold_means, interval, summary

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
