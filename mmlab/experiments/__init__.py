"""Methods side by side: the same seeds for all, paired intervals, and what was seen in words."""

from mmlab.experiments.comparison import Measure, compare
from mmlab.experiments.reports import UNITS, Claim, claims, report, spell, verdict
from mmlab.experiments.statistics import difference, fold_means, interval, summary
from mmlab.experiments.tables import check_column
from mmlab.training import train_once

__all__ = [
    "UNITS",
    "Claim",
    "Measure",
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
