"""Methods side by side: the same seeds, data and initial weights; paired intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING

from mmlab.balancers.base import Balancer, is_stackable
from mmlab.datasets.base import MultimodalData
from mmlab.evaluation import share_accuracy, test_scores
from mmlab.models.network import MultimodalNet
from mmlab.models.stack import UnstackableError, Vmapped
from mmlab.training import Run, find_device, fit

if TYPE_CHECKING:
    import pandas as pd

Measure = Callable[[Run], Mapping[str, float]]


def compare(
    methods: Mapping[str, Callable[[], Balancer]],
    data: MultimodalData | Callable[[int], MultimodalData],
    *,
    seeds: Iterable[int] = range(5),
    epochs: int = 15,
    network: type[MultimodalNet] = MultimodalNet,
    build: Mapping[str, object] | None = None,
    measure: Measure | None = None,
    **training,
) -> pd.DataFrame:
    """Train every method on every seed; one row a method x seed.

    methods:  name -> a callable that makes a fresh balancer, such as {"joint": Joint}.
    data:     one data set, or a callable seed -> data set (for instance a fold a seed).
    network:  a subclass of MultimodalNet, for a forward pass of your own.
    build:    further arguments for its `build`, beside what each balancer asks for. Give encoders
              as what makes them (`encoders={"audio": MyEncoder, ...}`): modules would start alike
              at every seed, and the intervals be too narrow.
    measure:  what else to measure: a callable Run -> {column: value}.
    training: further arguments for fit (lr, optimizer, batch_size, device, loss ...).

    Raises ValueError for no method, TypeError for a balancer where its maker is wanted.

    At one seed all methods start from the same encoders and see the batches in the same order. The
    seeds of a method train at once, as one program, where that can be done (`Balancer.stackable`,
    and observers with `only_looks`) and pays (linear layers on a CPU, anything on a GPU), else one
    by one; `attrs["at once"]` of the table says how many at once for each method.
    Columns: method, seed, accuracy (test, of the balancer's own prediction), "share m" (test
    accuracy of modality m's part of the joint logits), and what `measure` returns. For regression
    the columns of `regression_metrics` stand in place of accuracy and shares.
    """
    import pandas as pd

    if not isinstance(methods, Mapping):
        raise TypeError(
            f"methods is a {type(methods).__name__}; give names and makers, such as "
            "{'joint': Joint, 'OGM-GE': OGM}"
        )
    if not callable(data) and not isinstance(data, MultimodalData):
        raise TypeError(
            f"data is a {type(data).__name__}; give one MultimodalData, or a callable seed -> data "
            "set, such as lambda seed: load('av-digits', seed=seed)"
        )
    if not methods:
        raise ValueError("no method to compare; give e.g. methods={'joint': Joint}")
    if isinstance(seeds, int):
        raise TypeError(f"seeds is {seeds}; give the seeds themselves, such as range({seeds})")
    for name, make in methods.items():
        if not callable(make):
            raise TypeError(
                f"method {name!r} is {make!r}; give something that makes a fresh balancer a run, "
                "such as OGM or lambda: OGM(alpha=0.1)"
            )
    seeds = [index(seed) for seed in seeds]  # NumPy's whole numbers are no int
    datasets = [data(seed) if callable(data) else data for seed in seeds]
    rows: dict[tuple[int, str], dict] = {}
    at_once = {}
    settings = {"epochs": epochs, "network": network, "build": build or {}, **training}
    for name, make in methods.items():
        runs, at_once[name] = _train_seeds(make, datasets, seeds, settings)
        for place, run in enumerate(runs):
            row = {"method": name, "seed": run.seed} | test_scores(run)
            if run.data.task == "classification":
                shares = share_accuracy(run.model, run.data.test)
                row |= {f"share {m}": value for m, value in shares.items()}
            rows[place, name] = row | dict(measure(run) if measure else {})
    table = pd.DataFrame([rows[place, name] for place in range(len(seeds)) for name in methods])
    table.attrs["at once"] = at_once
    return table


AT_ONCE = 32
"""Replicas in one program; the gain of more is small, their memory is not."""


def _train_seeds(
    make: Callable[[], Balancer],
    datasets: Sequence[MultimodalData],
    seeds: Sequence[int],
    settings: Mapping[str, object],
) -> tuple[list[Run], int]:
    """A Run a seed, and how many were trained at once; settings: those of `train_once`."""
    runs, most = [], 1
    for start in range(0, len(seeds), AT_ONCE):
        some, theirs = seeds[start : start + AT_ONCE], datasets[start : start + AT_ONCE]
        together = _together(make(), theirs, some, **settings)
        if together is None:
            pairs = zip(some, theirs, strict=True)
            runs += [train_once(make(), data, seed=seed, **settings) for seed, data in pairs]
        else:
            runs, most = runs + together, max(most, len(together))
    return runs, most


def _together(
    balancer: Balancer,
    datasets: Sequence[MultimodalData],
    seeds: Sequence[int],
    *,
    epochs: int,
    network: type[MultimodalNet],
    build: Mapping[str, object],
    **training,
) -> list[Run] | None:
    """The Runs of one program for all seeds; None where it cannot be, or would not pay."""
    sizes = {tuple(len(batch) for batch in data.splits.values()) for data in datasets}
    # an observer that does more than look would not reach the stack
    looking = all(getattr(o, "only_looks", False) for o in training.get("observers", ()))
    fits = is_stackable(balancer) and network is MultimodalNet
    if len(seeds) < 2 or len(sizes) > 1 or not fits or not looking:
        return None
    shape = {**balancer.network, **build}
    try:
        pairs = zip(seeds, datasets, strict=True)
        model = network.stack([network.build(data, **shape, seed=seed) for seed, data in pairs])
        on_cpu = find_device(training.get("device", "auto")).type == "cpu"
        if on_cpu and any(isinstance(part, Vmapped) for part in model.modules()):
            return None
        run = fit(model, datasets, balancer, epochs=epochs, seeds=seeds, **training)
    except UnstackableError:
        return None
    return run.replicas


def train_once(
    balancer: Balancer,
    data: MultimodalData,
    *,
    seed: int,
    epochs: int,
    network: type[MultimodalNet] = MultimodalNet,
    build: Mapping[str, object] | None = None,
    **training,
) -> Run:
    """Build the network the balancer asks for and train it, both from `seed`."""
    model = network.build(data, **{**balancer.network, **(build or {})}, seed=seed)
    return fit(model, data, balancer, epochs=epochs, seed=seed, **training)


def interval(values, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean and ends of Student's t interval over independent runs: (mean, low, high).

    Runs that share their test people are independent repeats for those people only. To speak of
    new people, average over the runs of each fold first and give the folds' means.

    Raises ValueError for fewer than two values: one run has no interval.
    """
    import numpy as np
    from scipy import stats

    values = np.atleast_1d(np.asarray(values, dtype=float))
    if len(values) < 2:
        raise ValueError(f"an interval needs at least 2 runs; got {len(values)}. Use more seeds")
    mean = values.mean()
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values)
    return float(mean), float(mean - half), float(mean + half)


def summary(
    table: pd.DataFrame, baseline: str = "joint", column: str = "accuracy", confidence: float = 0.95
) -> pd.DataFrame:
    """One row a method: mean and interval, and the paired difference to `baseline` seed by seed.

    Columns: mean, low, high, difference, difference low, difference high, seeds. A paired interval
    that leaves out 0 is a difference that repeating the experiment does not explain; see `interval`
    for what seeds that share a fold can tell. Raises ValueError for an unknown baseline, or a
    method that lacks a seed.
    """
    import pandas as pd

    rows = {}
    for method in table["method"].unique():
        paired = difference(table, method, baseline, column)
        values = table.loc[table["method"] == method, column]
        row = dict(zip(("mean", "low", "high"), interval(values, confidence), strict=True))
        if method != baseline:
            keys = ("difference", "difference low", "difference high")
            row |= dict(zip(keys, interval(paired, confidence), strict=True))
        rows[method] = row | {"seeds": len(paired)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def check_column(table: pd.DataFrame, column: str) -> None:
    """Raises ValueError where the table has no such column of results."""
    if column not in table:
        results = [name for name in table if name not in ("method", "seed")]
        raise ValueError(f"the table has no column {column!r}; its results are {results}")


def difference(
    table: pd.DataFrame, method: str, baseline: str = "joint", column: str = "accuracy"
) -> pd.Series:
    """`method` minus `baseline` in the column's own unit: one value a seed, which is the index.

    Raises ValueError for a column or a method that the table lacks, or a seed that one of the two
    lacks.
    """
    check_column(table, column)
    wide = table.pivot(index="seed", columns="method", values=column)
    for name in (method, baseline):
        if name not in wide:
            raise ValueError(f"no method {name!r} to compare with; the table has {list(wide)}")
        gaps = wide[name].isna()
        if gaps.any():
            raise ValueError(
                f"method {name!r} has no {column} at seed {gaps.idxmax()}; pairs need every seed"
            )
    return wide[method] - wide[baseline]
