"""Methods side by side: the same seeds, data and initial weights for all."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmlab.datasets.base import MultimodalData
from mmlab.experiments.arguments import (
    check_measure,
    check_methods,
    check_paths_apart,
    check_source,
    dataset_of,
    distinct_seeds,
    options_of,
    try_before,
)
from mmlab.experiments.cache import Cache, make_folder, method_digest
from mmlab.experiments.jobs import Data, Job, Measure, Outcome, Row, jobs_of
from mmlab.experiments.sweeps import run_jobs
from mmlab.experiments.tables import ANSWERED, ERROR, failure, known_unit
from mmlab.experiments.workers import Pool, pool_of
from mmlab.identity import digest
from mmlab.models.network import MultimodalNet
from mmlab.training.alone import MakeBalancer

if TYPE_CHECKING:
    import pandas as pd


def compare(
    methods: Mapping[str, MakeBalancer],
    data: MultimodalData | Callable[[int], MultimodalData],
    *,
    seeds: Iterable[int] = range(5),
    epochs: int = 15,
    network: type[MultimodalNet] = MultimodalNet,
    build: Mapping[str, object] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    measure: Measure | Mapping[str, Measure] | None = None,
    units: Mapping[str, str] | None = None,
    cache: str | Path | None = None,
    parallel: int | str | None = None,
    tuned: str | None = None,
    **training: Any,
) -> pd.DataFrame:
    """Train every method on every seed; one row per method and seed.

    Args:
        methods: name -> a callable that makes a fresh balancer, such as {"joint": Joint}.
        data: one data set, or a callable seed -> data set (for instance one fold per seed).
        seeds: whole numbers, each once.
        epochs: of each training.
        network: a subclass of MultimodalNet, for a forward pass of your own.
        build: further arguments for its `build`, beside what each balancer asks for. Give encoders
            as what makes them (`encoders={"audio": MyEncoder, ...}`): modules would start alike
            at every seed, and the intervals be too narrow.
        settings: name of a method -> arguments for it alone, in place of those for all:
            {"OGM": {"lr": 0.1, "epochs": 30}}. Choose them by the columns of the holdout split.
        measure: what else to measure: a callable Run -> {column: value}, or name of a method ->
            such a callable, where only some methods have it; the others' columns are then empty.
        units: column -> unit, for the columns of `measure`: "%" for shares from 0 to 1, "" for
            plain numbers, or a text such as "s". `report` shows them so.
        cache: a folder that keeps each run's row, in a file of its own, under all that the row
            depends on: code, method, arguments, data and seed. A sweep that was stopped and is
            called again trains what is missing, and its table is the same to the last bit, with the
            same `parallel` (with another one, up to rounding). Equal runs of other sweeps are taken
            from it too. What is lost at most is one program: the seeds of a method, or with
            at_once=False one run. For a row that is read, no observer and no `measure` is called,
            so a list that these fill stays empty. Rows of older code stay in the folder.
        parallel: None: all runs in this process, one after the other. A number: so many processes
            of this machine. "config": what `joblib.parallel_config` says around the call, "loky"
            or "dask". A worker trains the seeds of a method, as one program where it can, with its
            share of the cores; a part of them, where there are fewer methods than workers. A worker
            that is killed costs what it was at; what has cost three workers becomes an error of its
            rows. Makers, data, observers and `measure` are sent to the workers, and what these
            change in objects of yours does not come back.
        tuned: a note on how arguments were chosen, such as `tune` gives, for `attrs["tuned"]`.
        training: further arguments for `fit_seeds` and `fit` (lr, optimizer, batch_size, device,
            observers, loss ...). Each run has its own observers.

    Returns:
        A table with the columns method, seed, accuracy (test, of the balancer's own prediction),
        "holdout accuracy", "share m" (test accuracy of modality m's part of the joint logits, where
        the fusion tells it), and what `measure` returns. For several labels per sample the columns
        of `multilabel_metrics`, for regression those of `regression_metrics`, of test and holdout,
        stand in place of accuracies and shares. Where a
        method has no answer for some samples, "answered" is the part of the test samples that it is
        scored on. Where a run failed it has no scores, and "error" says why (None elsewhere); a
        warning says it too.
        `attrs["units"]` has the units of the columns; `attrs["at once"]` says how many of a
        method's runs were trained in one program at most.

    Raises:
        TypeError, ValueError: what cannot be right for any run, before anything trains. For this
            each method is made, and put into a network, once more.
        NotADirectoryError, PermissionError, UnwritableError: `cache` is no folder to write into.
        UnknownIdentityError (a TypeError): with `cache`, something is given of which cannot be told
            whether it is the same the next time, such as an open file.
        Exception: the first error, where no run at all has a score.

    At one seed all methods start from the same encoders and see the batches in the same order. The
    seeds of a method train at once, as one program, where that is exact and saves time, else one by
    one (`mmlab.fit_seeds`); also where a run of the program fails, for the others' sake.
    """
    check_methods(methods)
    check_measure(measure, units or {}, methods)
    common = {"epochs": epochs, "network": network, "build": build, **training}
    options = options_of(common, settings or {}, methods)
    numbers, pool = distinct_seeds(seeds), pool_of(parallel)
    check_source(data)
    source = _source(data, numbers, pool)
    first = dataset_of(source, numbers[0])
    for name, make in methods.items():
        try_before(name, make, first, numbers, options[name])
    check_paths_apart(methods, options)
    each = ceil(pool.size / len(methods))  # a program of few seeds costs about what one of all does
    measures = measure if isinstance(measure, Mapping) else dict.fromkeys(methods, measure)
    jobs = [
        job
        for name, make in methods.items()
        for job in jobs_of(name, make, source, numbers, options[name], measures.get(name), each)
    ]
    outcomes = run_jobs(jobs, pool, _cache(cache, jobs, source))
    rows = _rows(jobs, outcomes)
    errors = [one.error for found in outcomes for one in found if one.error]
    if errors and all(set(row) == {"method", "seed", ERROR} for row in rows):
        raise errors[0]
    table = _table(rows)
    table.attrs |= {"at once": _at_once(jobs, outcomes), "units": _units(table, units or {})}
    table.attrs |= {} if tuned is None else {"tuned": tuned}
    return table


# --- before ---------------------------------------------------------------------------------------


def _source(data: Data, seeds: Sequence[int], pool: Pool) -> Data:
    """The data as the jobs take them: made once here, or by each worker anew."""
    if isinstance(data, MultimodalData) or not pool.here:
        return data
    return {seed: dataset_of(data, seed) for seed in seeds}.__getitem__


def _cache(cache: str | Path | None, jobs: Sequence[Job], data: Data) -> Cache | None:
    """What is known of the runs; nothing is looked at where no cache is asked for."""
    if cache is None:
        return None
    folder = make_folder(cache)
    methods = {job.name: job for job in jobs}
    digests = {name: method_digest(job) for name, job in methods.items()}
    seeds = dict.fromkeys(seed for job in jobs for seed in job.seeds)
    if isinstance(data, MultimodalData):
        return Cache(folder, digests, dict.fromkeys(seeds, digest(data, "data")))
    each = {seed: digest(dataset_of(data, seed), f"data({seed})") for seed in seeds}
    return Cache(folder, digests, each)


# --- after ----------------------------------------------------------------------------------------


def _rows(jobs: Sequence[Job], outcomes: Sequence[Sequence[Outcome]]) -> list[Row]:
    """The rows of the table, seed by seed."""
    by_method: dict[str, list[Row]] = {}
    job_of = {job.name: job for job in jobs}
    for job, found in zip(jobs, outcomes, strict=True):
        by_method.setdefault(job.name, []).extend(
            {"method": job.name, "seed": seed} | one.row
            for seed, one in zip(job.seeds, found, strict=True)
        )
    for name, rows in by_method.items():
        _warn_of_failures(job_of[name], rows)
    return [row for of_seed in zip(*by_method.values(), strict=True) for row in of_seed]


def _at_once(jobs: Sequence[Job], outcomes: Sequence[Sequence[Outcome]]) -> dict[str, int]:
    """Method -> how many of its runs were trained in one program at most."""
    most: dict[str, int] = {}
    for job, found in zip(jobs, outcomes, strict=True):
        most[job.name] = max(most.get(job.name, 0), *(one.together for one in found))
    return most


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


def _warn_of_failures(job: Job, rows: Sequence[Row]) -> None:
    failed = {row["seed"]: row[ERROR] for row in rows if ERROR in row}
    if failed:
        seed, epochs = next(iter(failed)), job.options["epochs"]
        warnings.warn(
            f"method {job.name!r} {failure(failed, len(rows))}\n"
            "To see the whole error, train this method on this seed alone:\n"
            "    from mmlab.training import train_once\n"
            f"    run = train_once(MyMethod(), data, seed={seed}, epochs={epochs})\n"
            "Write your method for MyMethod(), give the data of this seed, and add what else you "
            "gave `compare`, such as lr. If this trains, the error is in your `measure`: call "
            "measure(run).",
            stacklevel=4,
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
