"""Methods side by side: the same seeds, data and initial weights for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mmlab.datasets.base import MultimodalData
from mmlab.evaluation import share_accuracy, test_scores
from mmlab.models.network import MultimodalNet
from mmlab.training import Balancer, Run, fit_seeds

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
    **training: Any,
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
    seeds of a method train at once, as one program, where that is exact and saves time, else one by
    one (`mmlab.fit_seeds`); `attrs["at once"]` of the table says how many at once for each method.
    Columns: method, seed, accuracy (test, of the balancer's own prediction), "share m" (test
    accuracy of modality m's part of the joint logits), and what `measure` returns. For regression
    the columns of `regression_metrics` stand in place of accuracy and shares.
    """
    import pandas as pd

    _check(methods, data, seeds)
    seeds = list(seeds)
    datasets = [data(seed) if callable(data) else data for seed in seeds]
    rows: dict[tuple[int, str], dict] = {}
    at_once = {}
    for name, make in methods.items():
        runs = fit_seeds(
            datasets, make, seeds=seeds, epochs=epochs, network=network, build=build, **training
        )
        at_once[name] = max(run.together for run in runs)
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
                f"method {name!r} is {make!r}; give something that makes a fresh balancer for each "
                "run, such as OGM or lambda: OGM(alpha=0.1)"
            )


def _scores(run: Run) -> dict[str, float]:
    """The columns that every run has, in the order of the table."""
    scores = test_scores(run)
    if run.data.task == "classification":
        shares = share_accuracy(run.model, run.data.test)
        scores |= {f"share {m}": value for m, value in shares.items()}
    return scores
