"""Jobs done: those that a cache knows are read, the others trained, here or by workers."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass

import cloudpickle
from tqdm.auto import tqdm

from mmlab.experiments.cache import Cache
from mmlab.experiments.jobs import Job, Outcome, failed_outcome
from mmlab.experiments.workers import Pool
from mmlab.training.processes import check_one_process
from mmlab.training.progress import someone_looks


def run_jobs(jobs: Sequence[Job], pool: Pool, cache: Cache | None = None) -> list[list[Outcome]]:
    """The outcomes of each job, one per seed, in order.

    Raises RuntimeError in one of several processes that train together.
    """
    check_one_process(
        "a comparison of methods", "start it without torchrun; parallel= gives it workers"
    )
    known = [cache.find(job) if cache else {} for job in jobs]
    places = [i for i, job in enumerate(jobs) if len(known[i]) < len(job.seeds)]
    left = [jobs[i].only([s for s in jobs[i].seeds if s not in known[i]]) for i in places]
    shown = not pool.here or cache is not None
    with tqdm(
        desc="runs",
        total=sum(len(job.seeds) for job in jobs),
        initial=sum(map(len, known)),
        disable=not (shown and someone_looks()),
    ) as line:
        for number, result in pool.run(left if pool.here else [*map(_Sendable, left)]):
            job, failed = left[number], isinstance(result, Exception)
            found = [failed_outcome(result)] * len(job.seeds) if failed else result
            if cache:
                found = cache.keep(job, found)
            known[places[number]] |= zip(job.seeds, found, strict=True)
            line.update(len(found))
    return [[found[seed] for seed in job.seeds] for job, found in zip(jobs, known, strict=True)]


@dataclass(frozen=True)
class _Sendable:
    """A job whose outcomes can be sent back."""

    job: Job

    def __call__(self) -> list[Outcome]:
        return [_sendable(outcome) for outcome in self.job()]


def _sendable(outcome: Outcome) -> Outcome:
    """The same, or an error where it holds something that cannot be sent."""
    try:
        pickle.loads(cloudpickle.dumps(outcome))
        return outcome
    except Exception:
        row = {name: value for name, value in outcome.row.items() if _is_plain(value)}
    if outcome.error is not None:  # its text is in the row
        return Outcome(row, outcome.together, RuntimeError(str(outcome.error)))
    lost = ", ".join(map(repr, outcome.row.keys() - row.keys()))
    error = TypeError(f"measure gives in {lost} what no worker can send; give numbers or texts")
    return failed_outcome(error, row, outcome.together)


def _is_plain(value: object) -> bool:
    return isinstance(value, bool | int | float | str | None)
