"""Units are shown as they are named, and verdicts follow the interval."""

import numpy as np
import pandas as pd
import pytest
from two_methods import TABLE

from mmlab.experiments import (
    Claim,
    caption,
    claims,
    difference,
    equivalence,
    fold_means,
    interval,
    p_value,
    report,
    share_interval,
    spell,
    verdict,
)


def test_a_value_is_spelt_in_its_unit():
    values = [0.01, 0.02, 0.03, 0.01, 0.03]
    mean, low, high = interval(values)
    assert spell(values) == f"+2.0 [{100 * low:+.1f}, {100 * high:+.1f}]"
    _, least, most = share_interval(values)
    assert spell(values, "%") == f"2.0 [{100 * least:.1f}, {100 * most:.1f}]" != spell(values)
    assert spell(values, "nats") == f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
    assert spell(values, "epochs") == f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
    ratio = np.exp([mean, low, high])
    assert spell(values, "×") == "{:.2f} [{:.2f}, {:.2f}]".format(*ratio)


def test_an_interval_of_shares_keeps_within_its_range():
    values = [0.99, 1.0, 1.0, 0.97, 1.0]
    assert interval(values)[2] > 1
    assert spell(values, "%") == "99.2 [94.2, 99.9]"
    assert spell([1.0] * 5, "%") == "100.0 [100.0, 100.0]"
    with pytest.raises(ValueError, match=r"from 0\.5 to 91, and shares lie between 0 and 1"):
        spell([0.5, 91], "%")


def test_fewer_than_five_runs_are_shown_one_by_one():
    assert spell([0.03, 0.01]) == "+2.0 (+3.0, +1.0)"
    assert spell([0.5, 0.6, 0.7, 0.8], "%") == "65.0 (50.0, 60.0, 70.0, 80.0)"
    assert spell([0.5, 0.6, 0.7, 0.8, 0.9], "%").startswith("70.0 [")


def test_three_folds_are_enough():
    means = fold_means(pd.Series([0.02, 0.04, 0.06] * 2), 3)
    assert spell(means) == "+4.0 [-1.0, +9.0]" and verdict(means) == "cannot tell here"
    assert verdict(means + 0.02) == "seen"
    assert spell(means[:2]) == "+3.0 (+2.0, +4.0)" and verdict(means[:2] + 9) == "cannot tell here"


def test_a_verdict_follows_the_interval():
    values = np.array([1.0, 1.1, 1.2, 1.1, 1.0])
    assert verdict(values) == "seen"
    assert verdict(-values) == "not seen"
    assert verdict(values - 1.1) == "cannot tell here"
    assert verdict(0 * values) == "cannot tell here"  # an end at 0 is on neither side


def test_fewer_than_five_runs_have_no_verdict():
    assert verdict([1.0, 1.1, 1.2, 1.1]) == "cannot tell here"
    assert verdict([0.01, -0.01] * 2, margin=5) == "cannot tell here"


def test_a_difference_within_the_margin_is_not_seen():
    values = np.array([0.002, -0.001, 0.001, -0.002, 0.001])
    assert verdict(values) == verdict(values, margin=0.001) == "cannot tell here"
    assert verdict(values, margin=0.01) == "not seen"
    assert verdict(values + 0.01, margin=0.01) == "seen"
    assert verdict(values + 0.005, margin=0.01) == "seen"  # small, and sure


def test_many_claims_are_corrected_together():
    """Six claims with p values between .05 / 6 and .05: five of them are seen, six are not."""
    values = np.array([3.0, 1.0, 2.0, -0.1, 1.4])
    assert 0.05 / 6 < p_value(values) < 0.05
    few, many = claims([("it", "us", values)] * 5), claims([("it", "us", values)] * 6)
    assert few.verdict.tolist() == ["seen"] * 5 and "p, Holm" not in few
    assert many.verdict.tolist() == ["cannot tell here"] * 6
    assert many["p, Holm"].tolist() == [f"{6 * p_value(values):.3f}"] * 6
    assert "with no correction" in caption(few) and "with Holm's correction" in caption(many)
    clear = [("it", "us", 10 + values)] * 6
    assert claims(clear).verdict.tolist() == ["seen"] * 6
    assert claims(clear)["p, Holm"].tolist() == ["< 0.001"] * 6


def test_only_claims_that_are_tested_are_counted():
    values = np.array([3.0, 1.0, 2.0, -0.1, 1.4])
    rows = [("it", "us", values)] * 5 + [("too few runs", "us", [1.0, 1.1])]
    assert claims(rows).verdict.tolist() == ["seen"] * 5 + ["cannot tell here"]
    more = claims([*rows, ("it", "us", values)])
    assert more["p, Holm"].tolist()[5] == "–" and more.verdict.tolist() == ["cannot tell here"] * 7


def test_equivalence_is_corrected_for_its_own_number():
    values = np.array([3.0, 1.0, 2.0, -0.1, 1.4]) - 1.46
    margin = 1.46
    assert 0.05 / 6 < equivalence(values, margin) < 0.05
    alone, many = Claim("it", "us", values, margin=margin), ("it", "us", values)
    assert claims([alone, *[many] * 5]).verdict.tolist()[0] == "not seen"
    assert claims([alone] * 6).verdict.tolist() == ["cannot tell here"] * 6


def test_verdicts_about_people_use_one_value_a_fold():
    values = pd.Series([1.0, 2.0, 3.0, -1.5, -0.7] * 4)
    values += 0.02 * np.arange(20)
    assert verdict(values) == "seen"
    table = claims([("it", "us", values)], folds=5, by="fold")
    assert list(table) == ["who", "here, paired, 95 %", "over seeds", "verdict"]
    assert table.verdict.tolist() == ["cannot tell here"]
    assert table["here, paired, 95 %"].iloc[0] == spell(fold_means(values, 5)) + " points"
    assert table["over seeds"].iloc[0] == spell(values)
    with pytest.raises(ValueError, match="by is 'fold', and folds is None"):
        claims([("it", "us", values)], by="fold")


def test_a_report_is_over_the_unit_asked_for():
    table = report(TABLE, folds=3, by="fold")
    assert list(table) == ["accuracy, %", "minus joint, points", "over seeds"]
    paired = difference(TABLE, "other")
    assert table.loc["other"].tolist()[1:] == [spell(fold_means(paired, 3)), spell(paired)]
    own = TABLE[TABLE.method == "other"].set_index("seed").accuracy
    assert table.loc["other", "accuracy, %"] == spell(fold_means(own, 3), "%")


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


def test_a_report_keeps_the_order_of_the_table():
    assert report(TABLE[::-1], folds=3).index.tolist() == ["other", "joint"]


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
    rows = [(m, s, 0.5 + 0.1 * s + d) for s in range(5) for m, d in (("joint", 0), ("other", 0.2))]
    table = report(pd.DataFrame(rows, columns=["method", "seed", "mae"]), column="mae")
    assert list(table) == ["mae", "minus joint"]
    assert table.loc["joint", "mae"].startswith("0.70 [")  # a mean has no plus sign
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
    with pytest.raises(ValueError, match=r"'accuracy' has values from -0.1 to "):
        report(TABLE.assign(accuracy=TABLE.accuracy.where(TABLE.seed > 0, -0.1)))


def test_all_and_nothing_are_shares():
    table = TABLE.assign(accuracy=(TABLE.seed % 2).astype(float))
    assert report(table).loc["joint", "accuracy, %"].startswith("50.0 [")


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


def test_the_runs_that_are_left_of_a_failed_comparison_decide_nothing():
    with pytest.warns(UserWarning, match="failed at 1 of 6 seeds"):
        left = difference(with_a_failure("other"), "other").dropna()
    assert len(left) == 5
    assert spell(left) == f"'other' {WHY}" and verdict(left) == "cannot tell here"


def test_one_run_cannot_be_spelt():
    with pytest.raises(ValueError, match="at least 2 runs"):
        spell([0.1])
