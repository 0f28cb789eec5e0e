"""Methods side by side: the same seeds, data and initial weights for all."""

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
    """Train every method on every seed; one row per method and seed.

    methods:  name -> a callable that makes a fresh balancer, such as {"joint": Joint}.
    data:     one data set, or a callable seed -> data set (for instance one fold per seed).
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

    _check(methods, data, seeds)
    seeds = [index(seed) for seed in seeds]  # NumPy's whole numbers are no int
    datasets = [data(seed) if callable(data) else data for seed in seeds]
    rows: dict[tuple[int, str], dict] = {}
    at_once = {}
    settings = {"epochs": epochs, "network": network, "build": build or {}, **training}
    for name, make in methods.items():
        runs, at_once[name] = _train_seeds(make, datasets, seeds, settings)
        for place, run in enumerate(runs):
            row = {"method": name, "seed": run.seed} | _scores(run)
            rows[place, name] = row | dict(measure(run) if measure else {})
    table = pd.DataFrame([rows[place, name] for place in range(len(seeds)) for name in methods])
    table.attrs["at once"] = at_once
    return table


def _check(methods: object, data: object, seeds: object) -> None:
    """Refuses what is no methods, no data or no seeds, and says what would be."""
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


def _scores(run: Run) -> dict[str, float]:
    """The columns that every run has, in the order of the table."""
    scores = test_scores(run)
    if run.data.task == "classification":
        shares = share_accuracy(run.model, run.data.test)
        scores |= {f"share {m}": value for m, value in shares.items()}
    return scores


AT_ONCE = 32
"""Replicas in one program; the gain of more is small, their memory is not."""


def _train_seeds(
    make: Callable[[], Balancer],
    datasets: Sequence[MultimodalData],
    seeds: Sequence[int],
    settings: Mapping[str, object],
) -> tuple[list[Run], int]:
    """One Run per seed, and how many were trained at once; settings: those of `train_once`."""
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
