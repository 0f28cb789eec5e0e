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


def test_claims_get_their_verdicts():
    paired = difference(TABLE, "other")
    rows = [Claim("other is better", "them", paired), ("slower", "us", -100 * paired, "epochs")]
    table = claims(rows)
    assert table.verdict.to_dict() == {"other is better": "seen", "slower": "not seen"}
    assert table["here, paired, 95 %"].iloc[0] == f"{spell(paired)} points"
    assert table["here, paired, 95 %"].iloc[1].endswith(" epochs")
    assert list(claims(rows, folds=3)) == ["who", "here, paired, 95 %", "over folds", "verdict"]


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
    assert table.loc["joint", "mae"].startswith("+0.60 [")
    assert table.loc["other", "minus joint"] == "+0.20 [+0.20, +0.20]"


def test_one_run_cannot_be_spelt():
    with pytest.raises(ValueError, match="at least 2 runs"):
        spell([0.1])
