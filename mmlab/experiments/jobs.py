"""A job of a comparison: one method on seeds that may train as one program; a row per seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil
from typing import Any

from torch import Tensor

from mmlab.checks import kind_of
from mmlab.datasets.base import MultimodalData
from mmlab.evaluation import answered_share, share_accuracy, test_scores
from mmlab.experiments.arguments import dataset_of, rate_of
from mmlab.experiments.tables import ANSWERED, ERROR, HOLDOUT, SHARE
from mmlab.models.stack import UnstackableError
from mmlab.training import Run, fit_seeds, stacked
from mmlab.training.alone import MakeBalancer
from mmlab.training.progress import no_progress

Measure = Callable[[Run], Mapping[str, Any]]
Row = dict[str, Any]
Data = MultimodalData | Callable[[int], MultimodalData]


@dataclass(frozen=True)
class Outcome:
    """What one run leaves.

    row:      its columns; of a run that failed the error's text, and the scores it had before.
    together: how many runs were trained in its program; 0 where it failed in training.
    error:    what it failed with.
    """

    row: Row
    together: int = 0
    error: Exception | None = None


@dataclass(frozen=True)
class Job:
    """One method on some seeds: what is trained in one go, sent to a worker, and lost at most.

    name:    the method's name, as the tables show it.
    make:    makes a fresh balancer.
    data:    a data set, or a callable seed -> data set.
    seeds:   whole numbers, each once; at most as many as train in one program.
    options: further arguments of `fit_seeds`.
    measure: a callable Run -> {column: value}, for further columns; None: no further column.
    """

    name: str
    make: MakeBalancer
    data: Data
    seeds: tuple[int, ...]
    options: Mapping[str, Any]
    measure: Measure | None = None

    def __call__(self) -> list[Outcome]:
        """Train; an Outcome per seed. No error of a run ends it, and the keyboard does."""
        with no_progress():  # the comparison has a line of its own
            return [_outcome(run, self.measure) for run in self._runs()]

    def only(self, seeds: Sequence[int]) -> Job:
        """The same for some of the seeds, each with its own learning rate."""
        options = dict(self.options)
        if isinstance(options.get("lr"), list | tuple):
            options["lr"] = [rate_of(options, self.seeds.index(seed)) for seed in seeds]
        return replace(self, seeds=tuple(seeds), options=options)

    def _runs(self) -> list[Run | Exception]:
        try:
            datasets = [dataset_of(self.data, seed) for seed in self.seeds]
        except Exception as error:
            return [error] * len(self.seeds)
        return _train(self.make, datasets, self.seeds, self.options)


def jobs_of(
    name: str,
    make: MakeBalancer,
    data: Data,
    seeds: Sequence[int],
    options: Mapping[str, Any],
    measure: Measure | None,
    workers: int,
) -> list[Job]:
    """The jobs of one method: its seeds in even parts, one for each of some workers."""
    whole = Job(name, make, data, tuple(seeds), options, measure)
    return [whole.only(part) for part in parts(seeds, workers, options.get("at_once"))]


def parts(seeds: Sequence[int], workers: int, at_once: bool | None) -> list[Sequence[int]]:
    """Seeds in order, in parts whose lengths differ by 1 at most."""
    programs = ceil(len(seeds) / stacked.AT_ONCE)
    count = len(seeds) if at_once is False else min(len(seeds), max(workers, programs))
    ends = [i * len(seeds) // count for i in range(count + 1)]
    return [seeds[a:b] for a, b in pairwise(ends)]


def failed_outcome(error: Exception, row: Row | None = None, together: int = 0) -> Outcome:
    """What a run leaves that failed after it had these columns."""
    said = {ERROR: f"{type(error).__name__}: {error}"}
    return Outcome({**(row or {}), **said}, together, error)


# --- training -------------------------------------------------------------------------------------


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


# --- rows -----------------------------------------------------------------------------------------


def _outcome(run: Run | Exception, measure: Measure | None) -> Outcome:
    """The columns of a run; what fails after some of them leaves these."""
    if isinstance(run, Exception):
        return failed_outcome(run)
    row: Row = {}
    try:
        row |= _scores(run)
        row |= _measured(run, measure, row) if measure else {}
    except Exception as error:
        return failed_outcome(error, row, run.together)
    return Outcome(row, run.together)


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
        raise TypeError(f"measure gives {kind_of(found)}; give {{column: value}}")
    for name in found:
        if not isinstance(name, str):
            raise TypeError(f"measure names a column {name!r}; give names that are texts")
    taken = [name for name in found if name in ("method", "seed", ERROR, *scores)]
    if taken:
        raise ValueError(f"measure gives {taken[0]!r}, a column of compare's own; rename it")
    return {
        name: value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        for name, value in found.items()
    }
