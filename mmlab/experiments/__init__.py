"""Methods side by side: the same seeds for all, paired intervals, and what was seen in words."""

from mmlab.experiments.cache import TRAINED
from mmlab.experiments.captions import UNITS, caption
from mmlab.experiments.comparison import Measure, compare
from mmlab.experiments.diagnosis import Diagnosis, diagnose
from mmlab.experiments.intervals import detectable, interval, share_interval
from mmlab.experiments.reports import Claim, claims, report, spell, verdict
from mmlab.experiments.significance import equivalence, holm, p_value
from mmlab.experiments.statistics import difference, fold_means, per_unit, summary
from mmlab.experiments.tables import check_column
from mmlab.experiments.tuning import Tuned, tune
from mmlab.training import train_once

__all__ = [
    "TRAINED",
    "UNITS",
    "Claim",
    "Diagnosis",
    "Measure",
    "Tuned",
    "caption",
    "check_column",
    "claims",
    "compare",
    "detectable",
    "diagnose",
    "difference",
    "equivalence",
    "fold_means",
    "holm",
    "interval",
    "p_value",
    "per_unit",
    "report",
    "share_interval",
    "spell",
    "summary",
    "train_once",
    "tune",
    "verdict",
]
