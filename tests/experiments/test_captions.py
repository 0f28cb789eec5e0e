"""What stands under a table says what its intervals are about."""

import pandas as pd
import pytest
from two_methods import TABLE

from mmlab.experiments import Claim, caption, claims, detectable, difference, fold_means, report


def test_a_report_says_over_what_it_is_and_what_it_could_see():
    size = 100 * detectable(difference(TABLE, "other"))
    assert caption(report(TABLE)) == (
        "Accuracy, %: mean [95 % interval] over 6 seeds. A true difference of "
        f"{size:.1f} points would show in 4 of 5 such experiments."
    )


def test_few_folds_are_said_to_be_few():
    size = 100 * detectable(fold_means(difference(TABLE, "other"), 3))
    assert caption(report(TABLE, by="fold", folds=3)) == (
        "Accuracy, %: mean [95 % interval] over 3 folds. A true difference of "
        f"{size:.1f} points would show in 4 of 5 such experiments."
    )
    assert caption(report(TABLE, by="fold", folds=2)) == (
        "Accuracy, %: mean [95 % interval] over 2 folds; of fewer than 3 mean (each value)."
    )


def test_what_was_tuned_is_said_where_it_is_known():
    table = TABLE.copy()
    table.attrs["tuned"] = "lr on the holdout of fold 0"
    assert caption(report(table)).endswith(". Tuned: lr on the holdout of fold 0.")
    paired = difference(table, "other")
    assert caption(claims([("it", "us", -paired)])).endswith("Tuned: lr on the holdout of fold 0.")
    table.attrs["tuned"] = {"joint": "lr, holdout", "other": "α, holdout"}
    assert caption(report(table)).endswith("Tuned: joint: lr, holdout, other: α, holdout.")
    assert "uned" not in caption(report(TABLE))


def test_claims_say_what_counts_as_none_and_what_each_unit_could_show():
    paired = difference(TABLE, "other")
    rows = [Claim("it", "us", paired, margin=0.01), Claim("it", "us", 2 * paired, "nats")]
    rows += [Claim("it", "us", 3 * paired), Claim("few", "us", paired[:3])]
    size = detectable(paired)
    assert caption(claims(rows)) == (
        "Mean [95 % interval] over 3 to 6 seeds; of fewer than 5 mean (each value). "
        "Verdicts at 5 %, with no correction for the number of claims. "
        "Not seen: below 0, or shown to lie within ±1.0 points. Row by row, a true difference of "
        f"{100 * size:.1f} points (most exact row) to {300 * size:.1f} points (least exact row), "
        f"{2 * size:.3f} nats would show in 4 of 5 such experiments."
    )


def test_a_table_without_a_caption_says_where_captions_are():
    table = pd.concat({"a": report(TABLE), "b": report(TABLE, column="share a")})
    with pytest.raises(ValueError, match=r"no caption; report and claims give one, and pandas"):
        caption(table)
