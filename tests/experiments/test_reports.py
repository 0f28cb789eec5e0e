"""Units are shown as they are named, and verdicts follow the interval."""

import numpy as np
import pandas as pd
import pytest
from two_methods import TABLE

from mmlab.experiments import (
    Claim,
    claims,
    difference,
    fold_means,
    interval,
    report,
    spell,
    verdict,
)


def test_a_value_is_spelt_in_its_unit():
    values = [0.01, 0.02, 0.03]
    mean, low, high = interval(values)
    assert spell(values) == f"+2.0 [{100 * low:+.1f}, {100 * high:+.1f}]"
    assert spell(values, "%") == f"2.0 [{100 * low:.1f}, {100 * high:.1f}]"
    assert spell(values, "nats") == f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
    assert spell(values, "epochs") == f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
    ratio = np.exp([mean, low, high])
    assert spell(values, "×") == "{:.2f} [{:.2f}, {:.2f}]".format(*ratio)


def test_a_verdict_follows_the_interval():
    assert verdict([1.0, 1.1, 1.2]) == "seen"
    assert verdict([-1.0, -1.1, -1.2]) == "not seen"
    assert verdict([-1.0, 0.1, 1.2]) == "cannot tell here"


def test_a_report_has_a_row_a_method():
    paired = difference(TABLE, "other")
    table = report(TABLE, folds=3)
    assert list(table) == ["accuracy, %", "minus joint, points", "over folds"]
    assert table.loc["joint"].tolist()[1:] == ["–", "–"]
    assert table.loc["other"].tolist()[1:] == [spell(paired), spell(fold_means(paired))]
    accuracy = TABLE.query("method == 'other'").accuracy
    assert table.loc["other", "accuracy, %"] == spell(accuracy, "%")
    assert list(report(TABLE, "other", "share a")) == ["share a, %", "minus other, points"]
    turned = report(TABLE, "other").loc["joint", "minus other, points"]
    assert turned == spell(difference(TABLE, "joint", "other")) == spell(-paired)


def test_claims_get_their_verdicts():
    paired = difference(TABLE, "other")
    rows = [Claim("other is better", "them", paired), ("slower", "us", -100 * paired, "epochs")]
    table = claims(rows)
    assert table.verdict.to_dict() == {"other is better": "seen", "slower": "not seen"}
    assert table["here, paired, 95 %"].iloc[0] == f"{spell(paired)} points"
    assert table["here, paired, 95 %"].iloc[1].endswith(" epochs")
    assert list(claims(rows, folds=3)) == ["who", "here, paired, 95 %", "over folds", "verdict"]


def test_the_verdict_is_over_the_seeds_also_where_folds_are_shown():
    values = pd.Series([0.1, 1.0, 2.0] * 2)
    assert verdict(values) == "seen" and verdict(fold_means(values)) == "cannot tell here"
    assert claims([Claim("it is better", "them", values)], folds=3).verdict.tolist() == ["seen"]


def test_a_claim_that_two_make_has_a_row_for_each():
    paired = difference(TABLE, "other")
    table = claims([("it is better", "them", paired), ("it is better", "us", -paired)])
    assert table.who.tolist() == ["them", "us"]
    assert table.verdict.tolist() == ["seen", "not seen"]


def test_folds_need_the_seeds():
    with pytest.raises(TypeError, match=r"values is \[0.1, 0.2\]; folds need a pandas Series"):
        claims([Claim("it is better", "them", [0.1, 0.2])], folds=3)


def test_an_error_is_no_share():
    rows = [(m, s, 0.5 + 0.1 * s + d) for s in range(3) for m, d in (("joint", 0), ("other", 0.2))]
    table = report(pd.DataFrame(rows, columns=["method", "seed", "mae"]), column="mae")
    assert list(table) == ["mae", "minus joint"]
    assert table.loc["joint", "mae"].startswith("0.60 [")  # a mean has no plus sign
    assert table.loc["other", "minus joint"] == "+0.20 [+0.20, +0.20]"


def with_units(**units):
    """`TABLE` with a column "cost" from 1 to 3.5, and units of columns."""
    table = TABLE.assign(cost=[*np.arange(1, 4, 0.5), *np.arange(1, 4, 0.5)])
    table.attrs["units"] = units
    return table


def test_a_column_is_shown_in_its_unit():
    table = with_units(cost="s", accuracy="%", part="")
    table["part"] = 0.5
    shown = report(table, column="cost")
    assert list(shown) == ["cost, s", "minus joint, s"]
    assert shown.loc["joint", "cost, s"] == spell(np.arange(1, 4, 0.5), "s", signed=False)
    assert shown.loc["joint", "cost, s"].startswith("2.25 [1.2")
    assert list(report(table)) == ["accuracy, %", "minus joint, points"]
    assert list(report(table, column="part")) == ["part", "minus joint"]


def test_a_unit_that_nobody_said_is_not_guessed():
    for table in (with_units(accuracy="%"), TABLE.assign(cost=with_units().cost)):
        shown = report(table, column="cost")
        assert list(shown) == ["cost, unit not known", "minus joint"]
        assert shown.loc["joint", "cost, unit not known"].startswith("2.25 [")
        assert list(report(table, column="cost", unit="s")) == ["cost, s", "minus joint, s"]
    assert list(report(with_units(accuracy=""), unit="%")) == ["accuracy, %", "minus joint, points"]
    assert "share a, unit not known" in report(with_units(accuracy="%"), column="share a")


def test_units_survive_what_pandas_lets_them_survive():
    table = with_units(cost="s")
    parts = [table[table.method == name] for name in ("joint", "other")]
    for same in (
        table.copy(),
        table.query("seed < 4"),
        table.sort_values("cost"),
        pd.concat(parts),
    ):
        assert list(report(same, column="cost")) == ["cost, s", "minus joint, s"]
    parts[0].attrs["more"] = 1
    mixed = pd.concat(parts)
    assert mixed.attrs == {}
    assert "cost, unit not known" in report(mixed, column="cost")
    assert "accuracy, %" in report(mixed)  # a column that compare writes itself


def test_a_share_lies_between_0_and_1():
    table = TABLE.assign(accuracy=100 * TABLE.accuracy)
    with pytest.raises(ValueError, match=r"'accuracy' has values from 80 to 89, .*unit=''"):
        report(table)
    assert report(table, unit="").loc["joint", "accuracy"].startswith("82.50 [")


@pytest.mark.parametrize("folds", [2, 3])
def test_reports_are_over_the_folds_asked_for(folds):
    paired = difference(TABLE, "other")
    expected = spell(fold_means(paired, folds))
    assert report(TABLE, folds=folds).loc["other", "over folds"] == expected
    shown = claims([Claim("other is better", "them", paired)], folds=folds)
    assert shown["over folds"].tolist() == [expected]
    assert spell(fold_means(paired, 2)) != spell(fold_means(paired, 3))


WHY = "failed at 1 of 6 seeds (4): FloatingPointError: loss is nan"


def with_a_failure(method, column="error"):
    """`TABLE`, where one run failed: before its scores, or after them."""
    table = TABLE.assign(extra=TABLE.accuracy, error=None)
    here = (table.method == method) & (table.seed == 4)
    table.loc[here, ["accuracy", "share a", "extra"] if column == "error" else [column]] = np.nan
    table.loc[here, "error"] = "FloatingPointError: loss is nan\nsecond line"
    return table


def test_a_report_says_what_failed():
    shown = report(with_a_failure("other"), folds=3)
    assert shown.loc["other"].tolist() == [WHY, "–", "–"]
    assert shown.loc["joint", "accuracy, %"] == report(TABLE).loc["joint", "accuracy, %"]
    shown = report(with_a_failure("joint"), folds=3)
    assert shown.loc["joint", "accuracy, %"] == WHY
    assert shown.loc["other", "accuracy, %"] == report(TABLE).loc["other", "accuracy, %"]
    assert shown.loc["other"].tolist()[1:] == [f"'joint' {WHY}", "–"]


def test_a_run_whose_measure_failed_is_reported_by_its_scores():
    table = with_a_failure("other", "extra")
    pd.testing.assert_frame_equal(report(table, folds=3), report(TABLE, folds=3))
    assert report(table, column="extra", unit="%").loc["other", "extra, %"] == WHY


def test_a_claim_about_a_failed_run_says_so():
    with pytest.warns(UserWarning, match=r"NaN where a run failed: 'other' failed at 1 of 6 seeds"):
        paired = difference(with_a_failure("other"), "other")
    rows = [Claim("better", "them", paired), Claim("less", "us", -1000 * paired, "ms")]
    shown = claims(rows, folds=3)
    assert shown["here, paired, 95 %"].tolist() == [f"'other' {WHY}"] * 2
    assert shown["over folds"].tolist() == ["–"] * 2
    assert shown.verdict.tolist() == ["cannot tell here"] * 2
    assert spell(paired) == f"'other' {WHY}" and verdict(paired) == "cannot tell here"


def test_one_run_cannot_be_spelt():
    with pytest.raises(ValueError, match="at least 2 runs"):
        spell([0.1])
