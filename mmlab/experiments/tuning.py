"""Hyper-parameters chosen on the holdout split alone, with as many trials for each method.

No trial sees the test split: its data have the holdout split in that place, for `measure` and
observers too. The seeds of the trials may be those of the comparison that follows. Others are the
stricter choice where a seed also decides who is in the holdout split.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mmlab.checks import kind_of
from mmlab.datasets.base import MultimodalData
from mmlab.experiments.arguments import (
    check_methods,
    check_source,
    dataset_of,
    distinct_seeds,
    training_arguments,
)
from mmlab.experiments.comparison import compare
from mmlab.experiments.tables import ANSWERED, ERROR, HOLDOUT, SCORES, SHARE, check_column
from mmlab.training.alone import MakeBalancer

if TYPE_CHECKING:
    import pandas as pd

LOW_IS_GOOD = ("mae",)
"""Scores of which the lowest is the best."""

Grid = Mapping[str, Mapping[str, Sequence[Any]]]


@dataclass(frozen=True)
class Trial:
    """One method with one value per parameter of its grid."""

    method: str
    values: dict[str, Any]

    @property
    def name(self) -> str:
        """Such as 'OGM-GE (alpha=0.3)'."""
        said = ", ".join(f"{name}={_short(value)}" for name, value in self.values.items())
        return f"{self.method} ({said})" if said else self.method


@dataclass(frozen=True, repr=False)
class Tuned:
    """What was tried, and what was chosen.

    trials: one row per method and trial: the parameters, mean and s.d. of the column over the
            seeds, how many runs failed, whether it was chosen.
    optima: one row per method: how many trials, the lead of the chosen one over the next best (mean
            difference of the same seeds) with its standard error, whether that is more than two of
            these ("clear"), and whether a chosen number is the first or last of its grid ("edge").
    runs:   the table of all runs, one row per trial and seed. It has no column of the test split.
    note:   what was tuned and how, for a caption.
    chosen: arguments for `compare`, beside data and seeds: methods, settings, and what all trials
            had in common. `compare(data=data, seeds=range(5), **tuned.chosen)`.
    """

    trials: pd.DataFrame
    optima: pd.DataFrame
    runs: pd.DataFrame
    column: str
    note: str
    chosen: dict[str, Any]

    def __repr__(self) -> str:
        return f"Tuned({self.note})\n{self.optima}"


def tune(
    methods: Mapping[str, MakeBalancer],
    data: MultimodalData | Callable[[int], MultimodalData],
    *,
    grid: Grid,
    seeds: Iterable[int] = range(5),
    column: str | None = None,
    lowest: bool | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> Tuned:
    """Try every method with every value of its grid, and choose by the mean over the seeds.

    Args:
        methods: name -> a callable that makes a fresh balancer, such as {"joint": Joint}.
        data: one data set, or a callable seed -> data set.
        grid: name of a method -> {parameter: values}. A parameter is an argument of the method's
            maker, such as alpha of OGM, or of a training, such as lr. Of several parameters every
            combination is a trial. A method that is not named here is tried once, as it is.
        seeds: whole numbers, each once: every trial is trained with all of them.
        column: what to choose by: a column of the holdout split, or one of `measure` (it sees the
            holdout split in place of the test). Default: "holdout accuracy", for several
            labels per sample "holdout mAP", for regression "holdout mae".
        lowest: whether the lowest mean is the best; by default for "holdout mae" alone.
        settings: name of a method -> arguments for its training alone, as for `compare`.
        options: further arguments for `compare`, such as epochs, cache and parallel.

    Returns:
        A `Tuned`. Of equal means the first in the grid is chosen. A trial with a run that failed is
        not.

    Raises:
        ValueError: an unknown method, parameter or column; a method
            of which every trial failed.
        TypeError, Exception: as `compare`.

    Warns where the methods have unequal numbers of trials: the one with more could find more.
    """
    check_methods(methods)
    check_source(data)
    numbers = distinct_seeds(seeds)
    trials = [trial for name in methods for trial in _trials(name, methods[name], grid)]
    _check_grid(grid, methods, trials)
    _warn_of_unequal(methods, trials)
    given = settings or {}
    made = {trial.name: _settled(trial, methods, given) for trial in trials}
    runs = compare(
        {name: make for name, (make, _) in made.items()},
        partial(_blind, data) if not isinstance(data, MultimodalData) else _blinded(data),
        seeds=numbers,
        settings={name: own for name, (_, own) in made.items()},
        **options,
    )
    runs = _without_test(runs)
    column = _column(runs, column)
    low = column.removeprefix(HOLDOUT) in LOW_IS_GOOD if lowest is None else lowest
    scores = {trial.name: _scores(runs, trial, column) for trial in trials}
    best = {name: _best([t for t in trials if t.method == name], scores, low) for name in methods}
    note = _note(methods, trials, column, numbers)
    common = {name: one for name, one in options.items() if name not in ("cache", "parallel")}
    chosen = {
        "methods": {name: made[trial.name][0] for name, trial in best.items()},
        "settings": {name: made[trial.name][1] for name, trial in best.items()},
        **common,
        "tuned": note,
    }
    return Tuned(
        _table_of_trials(trials, scores, best),
        _table_of_optima(trials, scores, best, low),
        runs,
        column,
        note,
        chosen,
    )


# --- trials ---------------------------------------------------------------------------------------


def _trials(name: str, make: MakeBalancer, grid: Grid) -> list[Trial]:
    own = grid.get(name, {}) if isinstance(grid, Mapping) else {}
    if not isinstance(own, Mapping):
        raise TypeError(f"grid[{name!r}] is {own!r}; give {{parameter: values}}")
    allowed = [*_parameters(make), *training_arguments()]
    for parameter, values in own.items():
        if parameter not in allowed and not _takes_any(make):
            raise ValueError(
                f"grid names {parameter!r} for {name!r}, which takes no such argument; allowed are "
                f"{', '.join(allowed)} (for those of a method give its class, such as OGM, or a "
                "lambda that takes them)"
            )
        if isinstance(values, str) or not isinstance(values, Iterable) or not [*values]:
            raise ValueError(
                f"grid[{name!r}][{parameter!r}] is {values!r}; give a list of values, at least one"
            )
    combined = itertools.product(*([*values] for values in own.values()))
    found = [Trial(name, dict(zip(own, values, strict=True))) for values in combined]
    twice = [one.name for i, one in enumerate(found) if one.name in [t.name for t in found[:i]]]
    if twice:
        raise ValueError(f"grid gives {twice[0]} more than once; give each value once")
    return found


def _check_grid(grid: Grid, methods: Mapping[str, MakeBalancer], trials: Sequence[Trial]) -> None:
    if not isinstance(grid, Mapping):
        raise TypeError(
            f"grid is {kind_of(grid)}; give method -> {{parameter: values}}, such as "
            "{'OGM-GE': {'alpha': [0.1, 0.3]}}"
        )
    for name in grid:
        if name not in methods:
            raise ValueError(f"grid names {name!r}, which is no method; they are {[*methods]}")
    if len({trial.name for trial in trials}) < len(trials):
        raise ValueError("two methods have trials of one name; rename one of the methods")


def _signature(make: MakeBalancer) -> list[inspect.Parameter]:
    try:
        return [*inspect.signature(make).parameters.values()]
    except (TypeError, ValueError):  # a class written in C, say
        return []


def _parameters(make: MakeBalancer) -> list[str]:
    """The names of what a maker can be given."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in _signature(make) if p.kind in named]


def _takes_any(make: MakeBalancer) -> bool:
    """Whether a maker takes keywords of any name, as `ScaledInputs` does."""
    return any(p.kind is p.VAR_KEYWORD for p in _signature(make))


def _settled(
    trial: Trial, methods: Mapping[str, MakeBalancer], settings: Mapping[str, Mapping[str, Any]]
) -> tuple[MakeBalancer, dict[str, Any]]:
    """The maker of a trial, and the arguments of its training."""
    make = methods[trial.method]
    mine = {*_parameters(make)}
    if _takes_any(make):
        mine |= {*trial.values} - {*training_arguments()}
    own = {name: one for name, one in trial.values.items() if name in mine}
    rest = {name: one for name, one in trial.values.items() if name not in own}
    return partial(make, **own) if own else make, {**settings.get(trial.method, {}), **rest}


def _warn_of_unequal(methods: Mapping[str, MakeBalancer], trials: Sequence[Trial]) -> None:
    counts = {name: sum(trial.method == name for trial in trials) for name in methods}
    if len({*counts.values()}) > 1:
        said = ", ".join(f"{name!r} {count}" for name, count in counts.items())
        warnings.warn(
            f"the methods have unequal numbers of trials ({said}), and more trials find more by "
            "chance; give each method a grid of the same size, the controls too (of lr, say)",
            stacklevel=3,
        )


# --- the holdout split alone ----------------------------------------------------------------------


def _blinded(data: MultimodalData) -> MultimodalData:
    """The same with the holdout split in place of the test."""
    blind = copy.copy(data)  # not made anew: its values have been looked at
    blind.test = data.holdout
    return blind


def _blind(data: Callable[[int], MultimodalData], seed: int) -> MultimodalData:
    return _blinded(dataset_of(data, seed))


def _without_test(runs: pd.DataFrame) -> pd.DataFrame:
    """The table of the trials, whose columns of the "test" are of the holdout split."""
    doubled = [name for name in runs if name in SCORES]
    own = {name: HOLDOUT + name for name in runs if name == ANSWERED or name.startswith(SHARE)}
    found = runs.drop(columns=doubled).rename(columns=own)
    found.attrs["units"] = {
        own.get(name, name): unit
        for name, unit in runs.attrs["units"].items()
        if name not in doubled
    }
    return found


def _column(runs: pd.DataFrame, column: str | None) -> str:
    if column is None:
        return next(name for name in runs if name.startswith(HOLDOUT))
    if column in SCORES or column == ANSWERED or str(column).startswith(SHARE):
        raise ValueError(
            f"column is {column!r}, which is of the test split; choose by the holdout split, such "
            f"as {HOLDOUT + column!r}"
        )
    check_column(runs, column)
    return column


# --- the choice -----------------------------------------------------------------------------------


def _scores(runs: pd.DataFrame, trial: Trial, column: str) -> np.ndarray:
    """The column of a trial, one number per seed; NaN where the run failed."""
    own = runs[runs["method"] == trial.name]
    values = own[column].to_numpy(dtype=float)
    return np.where(own[ERROR].notna(), np.nan, values) if ERROR in own else values


def _best(trials: Sequence[Trial], scores: Mapping[str, np.ndarray], low: bool) -> Trial:
    """The trial with the best mean; of equal ones the first."""
    whole = [trial for trial in trials if not np.isnan(scores[trial.name]).any()]
    if not whole:
        raise ValueError(
            f"every trial of {trials[0].method!r} has a run that failed or has no score, so there "
            "is nothing to choose from; the warnings say why: change its grid"
        )
    return max(whole, key=lambda trial: _mean(scores[trial.name], low))


def _mean(values: np.ndarray, low: bool) -> float:
    return float(-values.mean() if low else values.mean())


def _table_of_trials(
    trials: Sequence[Trial], scores: Mapping[str, np.ndarray], best: Mapping[str, Trial]
) -> pd.DataFrame:
    import pandas as pd

    parameters = dict.fromkeys(name for trial in trials for name in trial.values)
    rows = []
    for trial in trials:
        values = scores[trial.name]
        there = values[~np.isnan(values)]
        row = {"method": trial.method, **{name: trial.values.get(name) for name in parameters}}
        row["mean"] = values.mean()
        row["s.d."] = there.std(ddof=1) if len(there) > 1 else float("nan")
        row["failed"] = len(values) - len(there)
        row["chosen"] = trial is best[trial.method]
        rows.append(row)
    return pd.DataFrame(rows)


def _table_of_optima(
    trials: Sequence[Trial],
    scores: Mapping[str, np.ndarray],
    best: Mapping[str, Trial],
    low: bool,
) -> pd.DataFrame:
    """How flat each optimum is, and whether it lies at the edge of its grid."""
    import pandas as pd

    rows = []
    for name, trial in best.items():
        all_own = [one for one in trials if one.method == name]
        others = [t for t in all_own if t is not trial and not np.isnan(scores[t.name]).any()]
        lead = error = float("nan")
        if others:
            gaps = scores[trial.name] - scores[_best(others, scores, low).name]
            lead = float(-gaps.mean() if low else gaps.mean())
            error = float(gaps.std(ddof=1) / len(gaps) ** 0.5) if len(gaps) > 1 else float("nan")
        rows.append(
            {
                "method": name,
                "trials": len(all_own),
                "chosen": ", ".join(f"{k}={_short(v)}" for k, v in trial.values.items()),
                "lead": lead,
                "s.e.": error,
                "clear": lead > 2 * error,
                "edge": _at_edge(trial, all_own),
            }
        )
    return pd.DataFrame(rows)


def _at_edge(trial: Trial, trials: Sequence[Trial]) -> bool:
    """Whether a chosen number is the smallest or largest of three or more."""
    for name, value in trial.values.items():
        tried = {one.values[name] for one in trials if _is_number(one.values[name])}
        if _is_number(value) and len(tried) > 2 and value in (min(tried), max(tried)):
            return True
    return False


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


# --- words ----------------------------------------------------------------------------------------


def _note(
    methods: Mapping[str, MakeBalancer],
    trials: Sequence[Trial],
    column: str,
    seeds: Sequence[int],
) -> str:
    """Such as "each method's alpha from 5 values on the holdout split (accuracy), seeds 0–4"."""
    said = {name: _said([t for t in trials if t.method == name]) for name in methods}
    if len({*said.values()}) == 1:
        text = f"each method's {next(iter(said.values()))}" if any(said.values()) else "nothing"
    else:
        text = ", ".join(
            f"{name}'s {one}" if one else f"{name} as is" for name, one in said.items()
        )
    return f"{text} on the holdout split ({column.removeprefix(HOLDOUT)}), {_span(seeds)}"


def _said(trials: Sequence[Trial]) -> str:
    """'alpha from 5 values and lr from 3'; '' of a method that was tried once."""
    counts = {name: len({_short(t.values[name]) for t in trials}) for name in trials[0].values}
    return " and ".join(f"{name} from {n} value{'s' * (n > 1)}" for name, n in counts.items())


def _span(seeds: Sequence[int]) -> str:
    whole = len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds)))
    numbers = f"{seeds[0]}–{seeds[-1]}" if whole else ", ".join(map(str, seeds))
    return f"seed{'s' * (len(seeds) > 1)} {numbers}"


def _short(value: object) -> str:
    """A value in the name of a trial: a function or class by its name."""
    return getattr(value, "__name__", None) or repr(value)
