"""Methods side by side: the same seeds, data and initial weights for all."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmlab.datasets.base import MultimodalData
from mmlab.evaluation import answered_share, share_accuracy, test_scores
from mmlab.experiments.arguments import (
    MakeBalancer,
    check_measure,
    check_methods,
    datasets_of,
    options_of,
    rate_of,
    try_before,
    whole_numbers,
)
from mmlab.experiments.tables import ANSWERED, ERROR, HOLDOUT, SHARE, failure, known_unit
from mmlab.models.network import MultimodalNet
from mmlab.models.stack import UnstackableError
from mmlab.training import Run, fit_seeds

if TYPE_CHECKING:
    import pandas as pd

Measure = Callable[[Run], Mapping[str, Any]]
Row = dict[str, Any]


def compare(
    methods: Mapping[str, MakeBalancer],
    data: MultimodalData | Callable[[int], MultimodalData],
    *,
    seeds: Iterable[int] = range(5),
    epochs: int = 15,
    network: type[MultimodalNet] = MultimodalNet,
    build: Mapping[str, object] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    measure: Measure | None = None,
    units: Mapping[str, str] | None = None,
    **training: Any,
) -> pd.DataFrame:
    """Train every method on every seed; one row per method and seed.

    Args:
        methods: name -> a callable that makes a fresh balancer, such as {"joint": Joint}.
        data: one data set, or a callable seed -> data set (for instance one fold per seed).
        seeds: whole numbers, each once.
        network: a subclass of MultimodalNet, for a forward pass of your own.
        build: further arguments for its `build`, beside what each balancer asks for. Give encoders
            as what makes them (`encoders={"audio": MyEncoder, ...}`): modules would start alike
            at every seed, and the intervals be too narrow.
        settings: name of a method -> arguments for it alone, in place of those for all:
            {"OGM": {"lr": 0.1, "epochs": 30}}. Choose them by the columns of the holdout split.
        measure: what else to measure: a callable Run -> {column: value}.
        units: column -> unit, for the columns of `measure`: "%" for shares from 0 to 1, "" for
            plain numbers, or a text such as "s". `report` shows them so.
        training: further arguments for `fit_seeds` and `fit` (lr, optimizer, batch_size, device,
            observers, loss ...). Each run has its own observers.

    Returns:
        A table with the columns method, seed, accuracy (test, of the balancer's own prediction),
        "holdout accuracy", "share m" (test accuracy of modality m's part of the joint logits, where
        the fusion tells it), and what `measure` returns. For regression the columns of
        `regression_metrics`, of test and holdout, stand in place of accuracies and shares. Where a
        method has no answer for some samples, "answered" is the part of the test samples that it is
        scored on. Where a run failed it has no scores, and "error" says why (None elsewhere); a
        warning says it too.
        `attrs["units"]` has the units of the columns; `attrs["at once"]` says how many of a
        method's runs were trained in one program at most.

    Raises:
        TypeError, ValueError: what cannot be right for any run, before anything trains. For this
            each method is made, and put into a network, once more.
        Exception: the first error, where no run at all has a score.

    At one seed all methods start from the same encoders and see the batches in the same order. The
    seeds of a method train at once, as one program, where that is exact and saves time, else one by
    one (`mmlab.fit_seeds`); also where a run of the program fails, for the others' sake.
    """
    check_methods(methods)
    check_measure(measure, units or {})
    common = {"epochs": epochs, "network": network, "build": build, **training}
    options = options_of(common, settings or {}, methods)
    numbers = whole_numbers(seeds)
    datasets = datasets_of(data, numbers)
    for name, make in methods.items():
        try_before(name, make, datasets[0], numbers, options[name])
    rows, at_once = [], {}
    first: Exception | None = None
    for name, make in methods.items():
        runs = _train(make, datasets, numbers, options[name])
        at_once[name] = max((run.together for run in runs if isinstance(run, Run)), default=0)
        found = [_row(run, measure) for run in runs]
        first = first or next((error for _, error in found if error), None)
        rows.append(
            [{"method": name, "seed": s} | row for s, (row, _) in zip(numbers, found, strict=True)]
        )
        _warn_of_failures(name, rows[-1])
    by_seed = [row for of_seed in zip(*rows, strict=True) for row in of_seed]
    if first and all(set(row) == {"method", "seed", ERROR} for row in by_seed):
        raise first
    table = _table(by_seed)
    table.attrs |= {"at once": at_once, "units": _units(table, units or {})}
    return table


# --- what a run leaves ----------------------------------------------------------------------------


def _train(
    make: MakeBalancer,
    datasets: Sequence[MultimodalData],
    seeds: Sequence[int],
    options: Mapping[str, Any],
) -> list[Run | Exception]:
    """A run per seed, or what it failed with."""
    try:
        return [*fit_seeds(datasets, make, seeds=seeds, **options)]
    except UnstackableError as error:  # at_once=True was asked for
        return [error] * len(seeds)
    except Exception as error:
        if len(seeds) == 1:
            return [error]
    runs: list[Run | Exception] = []
    for place, (one, seed) in enumerate(zip(datasets, seeds, strict=True)):
        alone = {**options, "at_once": False, "lr": rate_of(options, place)}
        runs += _train(make, [one], [seed], alone)
    return runs


def _row(run: Run | Exception, measure: Measure | None) -> tuple[Row, Exception | None]:
    """The columns of a run; what fails after some of them leaves these."""
    row: Row = {}
    error: Exception | None = None
    if isinstance(run, Exception):
        error = run
    else:
        try:
            row |= _scores(run)
            row |= _measured(run, measure, row) if measure else {}
        except Exception as found:
            error = found
    if error:
        row[ERROR] = f"{type(error).__name__}: {error}"
    return row, error


def _scores(run: Run) -> Row:
    """The columns that every run has, in the order of the table."""
    scores: Row = test_scores(run)
    scores |= {HOLDOUT + name: value for name, value in test_scores(run, "holdout").items()}
    if run.data.task == "classification" and hasattr(run.model.fusion, "contributions"):
        shares = share_accuracy(run.model, run.data.test)
        scores |= {SHARE + m: value for m, value in shares.items()}
    return scores | {ANSWERED: answered_share(run)}


def _measured(run: Run, measure: Measure, scores: Row) -> Row:
    """The columns of `measure`; a tensor of one number is a number."""
    found = measure(run)
    if not isinstance(found, Mapping):
        raise TypeError(f"measure gives a {type(found).__name__}; give {{column: value}}")
    taken = [name for name in found if name in ("method", "seed", ERROR, *scores)]
    if taken:
        raise ValueError(f"measure gives {taken[0]!r}, a column of compare's own; rename it")
    return {
        name: value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        for name, value in found.items()
    }


def _table(rows: Sequence[Row]) -> pd.DataFrame:
    """The rows, with "answered" and "error" where they say something; errors come last."""
    import pandas as pd

    columns = dict.fromkeys(column for row in rows for column in row)
    if all(row.get(ANSWERED, 1.0) == 1.0 for row in rows):
        columns.pop(ANSWERED, None)
    errors = columns.pop(ERROR, "") is None
    table = pd.DataFrame(rows, columns=[*columns])
    if errors:
        table[ERROR] = pd.Series([row.get(ERROR) for row in rows], dtype=object)
    return table


def _warn_of_failures(name: str, rows: Sequence[Row]) -> None:
    failed = {row["seed"]: row[ERROR] for row in rows if ERROR in row}
    if failed:
        warnings.warn(
            f"method {name!r} {failure(failed, len(rows))} (to see where it comes from, run this "
            "method and seed alone: from mmlab.training import train_once; "
            "train_once(OGM(), data, seed=1, epochs=2); and then your measure, if you have one)",
            stacklevel=3,
        )


def _units(table: pd.DataFrame, given: Mapping[str, str]) -> dict[str, str]:
    unknown = [column for column in given if column not in table]
    if unknown:
        warnings.warn(
            f"units names {unknown[0]!r}, which is no column; the table has {list(table)}",
            stacklevel=3,
        )
    known = {column: known_unit(column) for column in table} | dict(given)
    return {column: unit for column, unit in known.items() if unit is not None}
