"""The files of data/results: which there are, what a repetition in each is, and a row run again.

``python -m mmlab.evidence --all`` makes every file of `FILES`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from mmlab.checks import check_choice
from mmlab.experiments.comparison import compare
from mmlab.experiments.reports import word_of
from mmlab.experiments.results import FOLDER, read_results
from mmlab.experiments.significance import holm, p_value
from mmlab.experiments.standing import EncoderNames, drawn, standing_rows
from mmlab.experiments.statistics import fold_means

if TYPE_CHECKING:
    import pandas as pd

EPOCHS = 15
"""Epochs of each training, unless another number is asked for."""

MLP = "mlp"
"""The encoders of each file, unless others are asked for: a name for `MultimodalNet.build`."""


class File(NamedTuple):
    """One file: a data set with its settings and encoders.

    source:  whose recordings they are: files of one source are no independent data sets.
    folds:   how many folds of people the seeds take in turn; None where they do not.
    overlap: test samples over training samples where each seed draws its split from one pool, so
             that the splits of two seeds overlap; 0 where it does not (`p_value`).
    """

    name: str
    settings: Mapping[str, object]
    source: str
    folds: int | None = None
    overlap: float = 0.0
    encoders: EncoderNames = MLP

    @property
    def arguments(self) -> list[str]:
        """What ``python -m mmlab.evidence`` takes to make it, beside the name of the file."""
        dials = [f"{key}={value}" for key, value in self.settings.items()]
        own = [] if self.encoders == MLP else ["--encoders", encoders_text(self.encoders)]
        return [self.name, *dials, *own]


FILES = {
    "watch-arm": File("watch", {"split": "arm"}, "watch"),
    "items": File("items", {}, "items", overlap=0.42),
    "icons-word": File("icons", {"split": "word"}, "icons", overlap=0.5),
    "stamps": File("stamps", {}, "stamps", overlap=0.42),
    "av-digits": File("av-digits", {}, "digits", folds=3),
    "av-digits-normalised": File("av-digits", {}, "digits", folds=3, encoders="normalised"),
    "sum-digits": File("sum-digits", {}, "digits", folds=3),
    "tri-digits": File("tri-digits", {}, "digits", folds=3),
}


def command(file: str) -> str:
    """What makes a file, at the top of a checkout; it is the file's first line."""
    path = f"data/results/{file}.csv"
    return shlex.join(["python", "-m", "mmlab.evidence", *FILES[file].arguments, "--csv", path])


def values_of(file: str, differences: pd.Series) -> tuple[pd.Series, float]:
    """One value per unit of repetition of a file, and its overlap, for `p_value` and `interval`.

    differences: one per seed, as `difference` gives. Where the seeds take folds of people in turn
    the unit is the fold.
    """
    own = FILES[file]
    return (fold_means(differences, own.folds) if own.folds else differences), own.overlap


def judged(found: pd.DataFrame) -> pd.DataFrame:
    """Differences as one family of tests: with columns "p", "p, Holm" and "verdict".

    The verdict is that of `mmlab.experiments.claims` by the corrected p value: "seen" above 0, "not
    seen" below 0, else "cannot tell here".

    Args:
        found: one row per difference; columns "units", its values, and "overlap" (`values_of`).
    """
    p = [p_value(*pair) for pair in zip(found["units"], found["overlap"], strict=True)]
    own = found.assign(p=p, **{"p, Holm": holm(p)})
    words = [word_of(*pair) for pair in zip(own["units"], own["p, Holm"], strict=True)]
    return own.assign(verdict=words)


def per_source(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean over the files of one source, which has one vote: a row per file to a row per source."""
    return scores.groupby([FILES[file].source for file in scores.index]).mean()


def available() -> list[str]:
    """The files of the list that are there."""
    return [file for file in FILES if (FOLDER / f"{file}.csv").is_file()]


BEST_ALONE, CONSTANT = "best alone", "joint, constant"


def common_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The tuned rows under names that all data sets have, for tables over several of them.

    Of the modalities alone the one that is best on the holdout is "best alone"; of the constants on
    an input or an encoder's rate the one that is best there is "joint, constant".
    """
    tuned = table[table["tuned"]]
    held = tuned.groupby("method")["holdout accuracy"].mean()
    alone = [m for m in held.index if m.endswith(" alone")]
    constants = [m for m in held.index if m.startswith(("joint, input of", "joint, rate of"))]
    kept = {held[alone].idxmax(): BEST_ALONE, held[constants].idxmax(): CONSTANT}
    left = tuned[~tuned["method"].isin({*alone, *constants} - {*kept})]
    return left.assign(method=left["method"].replace(kept))


def shortfall(table: pd.DataFrame) -> pd.Series:
    """How far each tuned run's worst encoder is behind the one trained alone: a share per row.

    The probe of an encoder minus that of the row "m alone" at the same seed, the smallest over the
    modalities: below 0 where one has learnt less than alone, above 0 where all have learnt more.
    """
    import pandas as pd

    tuned = table[table["tuned"]]
    gaps = {}
    for column in [name for name in table if name.startswith("probe ")]:
        own = tuned[tuned["method"] == f"{column.removeprefix('probe ')} alone"]
        gaps[column] = tuned[column] - tuned["seed"].map(own.set_index("seed")[column])
    return pd.DataFrame(gaps).min(axis=1)


def encoders_text(encoders: EncoderNames) -> str:
    """'cnn', or 'name=normalised,picture=cnn'."""
    if isinstance(encoders, str):
        return encoders
    return ",".join(f"{m}={encoder}" for m, encoder in encoders.items())


def rerun(file: str, method: str, seed: int, *, tuned: bool = True) -> pd.Series:
    """Train one row of a file again: what `compare` says of it, on this machine.

    Raises ValueError for a file or a method that there is not.
    """
    check_choice("file", file, FILES)
    name, settings, *_, encoders = FILES[file]
    table = read_results(file)
    chosen = table[table["tuned"]].groupby("method")["chosen"].first()
    data = drawn(name, settings)
    rows = standing_rows(data(seed).modalities, encoders)
    check_choice("method", method, rows)
    make = rows[method][0]
    training: dict[str, Any] = {}
    if tuned:
        own, value = _number(chosen[method])
        training["lr"] = value if own == "lr" else _number(chosen["joint"])[1]
        make = make if own == "lr" else partial(make, **{own: value})
    build = {"encoders": encoders}
    found = compare({method: make}, data, seeds=[seed], epochs=EPOCHS, build=build, **training)
    return found.iloc[0]


def _number(chosen: str) -> tuple[str, float]:
    """('lr', 0.02) of 'lr=0.02'."""
    name, _, value = chosen.partition("=")
    return name, float(value)
