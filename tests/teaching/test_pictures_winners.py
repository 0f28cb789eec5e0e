"""The pictures of who wins: what they say is what is in the files."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest

from mmlab import plotting
from mmlab.experiments.leaderboard import FILES, common_rows, shortfall
from mmlab.teaching.pictures import winners

ROWS = {"joint": 0.5, "a alone": 0.6, "b alone": 0.4, "joint, input of a": 0.7, "ensemble": 0.8}
ROWS |= {"joint, input of b": 0.5, "MLA": 0.65}


@pytest.fixture
def raw():
    """Two files of made-up rows: eight seeds, the probe of b low in joint training."""
    draw = np.random.default_rng(0)
    tables = {}
    for file in ("items", "av-digits"):
        rows = [
            (name, seed, mean + draw.normal(0, 0.01), mean, 0.6, 0.2 if name == "joint" else 0.5)
            for name, mean in ROWS.items()
            for seed in range(8)
        ]
        columns = ["method", "seed", "accuracy", "holdout accuracy", "probe a", "probe b"]
        tables[file] = pd.DataFrame(rows, columns=columns).assign(tuned=True)
    return tables


@pytest.fixture
def tables(raw):
    plotting.style()
    return {file: common_rows(table) for file, table in raw.items()}


def test_the_rows_have_names_that_all_sets_have(tables):
    for table in tables.values():
        assert {*table["method"]} == {"joint", "best alone", "joint, constant", "ensemble", "MLA"}
        assert table.query("method == 'best alone'")["accuracy"].mean() == pytest.approx(
            0.6, abs=0.02
        )


def test_the_shortfall_is_that_of_the_worst_encoder(raw):
    gap = raw["items"].assign(gap=shortfall(raw["items"])).groupby("method")["gap"].mean()
    assert gap["joint"] == pytest.approx(-0.3) and gap["MLA"] == 0


def test_differences_are_by_the_unit_of_the_file(tables):
    found = winners.against(tables).set_index(["file", "method"])
    assert len(found.loc["items", "MLA"].units) == 8
    assert len(found.loc["av-digits", "MLA"].units) == 3
    assert found.loc["items", "MLA"].overlap == FILES["items"].overlap
    assert found.loc["items", "ensemble"]["mean"] == pytest.approx(0.3, abs=0.02)


def test_a_bold_number_is_one_whose_interval_leaves_out_zero(tables):
    found = winners.against(tables)
    found.loc[(found.file == "items") & (found.method == "MLA"), "low"] = -1.0
    figure = winners.per_set(found)
    texts = [text for ax in figure.axes for text in ax.texts]
    assert len(texts) == 8 and sum(text.get_fontweight() == "bold" for text in texts) == 7
    (thin,) = [text for text in texts if text.get_fontweight() != "bold"]
    assert thin.get_text() == "+15" and thin.get_position()[0] == 0


def test_the_ranking_is_from_the_best_on(tables):
    left, right = winners.ranking(tables).axes
    names = [label.get_text() for ax in (left, right) for label in ax.get_yticklabels()]
    assert names == ["ensemble", "joint, constant", "MLA", "best alone", "joint"]


def test_files_of_one_source_share_a_vote_in_the_ranking(tables):
    """Two more files of the digits, where joint is best, do not outvote the items: three rows in a
    mean of two votes."""
    turned = tables["av-digits"].assign(accuracy=1 - tables["av-digits"]["accuracy"])
    three = dict.fromkeys(("av-digits", "sum-digits", "tri-digits"), turned)
    left, right = winners.ranking({"items": tables["items"], **three}).axes
    dots = [line.get_xdata()[0] for ax in (left, right) for line in ax.lines[2::3]]
    assert dots == [3.0] * 5


def test_the_other_pictures_draw_what_they_are_given(raw, tables):
    gaps = {file: shortfall(table) for file, table in raw.items()}
    assert len(winners.balance(tables, gaps).axes) == 2
    (ax,) = winners.mistakes({"honest": pd.Series([0.0, 0.02]), "best": pd.Series([0.1])}).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["honest", "best"]
    answers = dict.fromkeys(("keep", "scale", "ensemble", "method"), "+1.0 [0.5, 1.5]")
    (ax,) = winners.decision(answers).axes
    assert sum("+1.0 [0.5, 1.5]" in text.get_text() for text in ax.texts) == 4
