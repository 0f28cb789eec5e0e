"""How long a call takes, as a ratio to another that runs in turns with it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

Timed = Callable[[], object]
Table = dict[str, dict[str, float]]


def seconds(call: Timed, device: torch.device) -> float:
    """CPU time of this process; on a GPU the wall clock until it has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        begin = time.perf_counter()
        call()
        torch.cuda.synchronize(device)
        return time.perf_counter() - begin
    begin = time.process_time()
    call()
    return time.process_time() - begin


def seconds_of_children() -> float:
    """CPU time of all processes that this one has started and that have ended."""
    import resource  # not on Windows

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def ratios(
    contenders: Mapping[str, Callable[[], Timed]],
    baseline: str,
    rounds: int,
    device: torch.device | None = None,
) -> Table:
    """Time of each contender over the baseline's, round by round: median and quartiles.

    contenders: name -> a callable that gets one timed call ready. The first round warms up and
                does not count; the order turns about from round to round.
    """
    device = device or torch.device("cpu")
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds + 1):
        for name in names if number % 2 else reversed(names):
            taken[name].append(seconds(contenders[name](), device))
    base = taken[baseline][1:]
    return {
        name: quartiles([own / other for own, other in zip(taken[name][1:], base, strict=True)])
        for name in names
        if name != baseline
    }


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """A row of a table: the median, and the quartiles around it."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "lower quartile": low, "upper quartile": high}
