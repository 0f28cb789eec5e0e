"""All methods and controls on one data set, tuned alike: ``python -m mmlab.evidence NAME``.

Every row gets five values of its own number on the holdout, and then the same seeds; nothing is
chosen on the test. Finished runs are kept in --cache: the same command goes on after a stop.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from mmlab.balancers import (
    ATF,
    DGL,
    MLA,
    OGM,
    Balancer,
    EncoderRates,
    Ensemble,
    GradientBlending,
    MMPareto,
    RefittedHead,
    ScaledInputs,
    Uniform,
    Unimodal,
)
from mmlab.datasets import DATASETS, MultimodalData, load
from mmlab.diagnosis import setting
from mmlab.experiments import caption, compare, report
from mmlab.experiments.tuning import tune
from mmlab.models.encoders import BUILDERS
from mmlab.training import Joint

Rows = dict[str, tuple[Callable[..., Balancer], Mapping[str, Sequence[float]]]]

RATES = {"lr": (0.003, 0.006, 0.01, 0.02, 0.03)}
FACTORS = (1.0, 0.5, 0.25, 0.125, 0.0625)


def rows_of(modalities: Sequence[str], normalised: bool) -> Rows:
    """Name -> maker, and the one number that is tuned with its five values.

    normalised: whether the encoders undo the scale of their inputs; their rates take its place.
    """
    kind = EncoderRates if normalised else ScaledInputs
    what = "rate" if normalised else "input"
    return {
        "joint": (Joint, RATES),
        **{f"{m} alone": (partial(Unimodal, m), RATES) for m in modalities},
        "ensemble": (Ensemble, RATES),
        **{
            f"joint, {what} of {m}": (partial(_factor, kind, m), {"factor": FACTORS})
            for m in modalities
        },
        "joint, head refitted": (RefittedHead, RATES),
        "DGL": (DGL, RATES),
        "uniform": (Uniform, {"encoder_scale": (0.25, 0.5, 1.0, 1.5, 2.0)}),
        "G-Blend": (GradientBlending, {"floor": (0.0, 0.05, 0.1, 0.2, 0.5)}),
        "ACE": (partial(ATF, "ace"), {"rate": (0.025, 0.05, 0.1, 0.2, 0.4)}),
        "BDO": (partial(ATF, "bdo"), {"rate": (0.025, 0.05, 0.1, 0.2, 0.4)}),
        "OGM": (partial(OGM, enhance=False), {"alpha": (0.1, 0.3, 0.5, 0.8, 1.0)}),
        "OGM-GE": (OGM, {"alpha": (0.1, 0.3, 0.5, 0.8, 1.0)}),
        "MMPareto": (MMPareto, {"gamma": (0.5, 1.0, 1.5, 2.0, 3.0)}),
        "MLA": (MLA, RATES),
    }


def _factor(kind: Callable[..., Balancer], m: str, factor: float) -> Balancer:
    return kind(**{m: factor})


def main(arguments: Sequence[str] | None = None) -> None:
    """Tune and compare; print the table with its caption, and what was chosen."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        settings = dict(map(setting, options.settings))
        data = partial(_drawn, options.name, settings)
        rows = rows_of(data(0).modalities, options.encoders != "mlp")
        methods = {name: make for name, (make, _) in rows.items()}
        training = {"epochs": options.epochs, "build": {"encoders": options.encoders}}
        sweep = {"cache": options.cache, "parallel": options.parallel}
        grid = {name: values for name, (_, values) in rows.items()}
        tuned = tune(methods, data, grid=grid, seeds=range(options.trials), **training, **sweep)
        table = compare(data=data, seeds=range(options.seeds), **tuned.chosen, **sweep)
    except (ValueError, TypeError, RuntimeError, ArithmeticError, OSError) as error:
        parser.error(str(error))
    shown = report(table, folds=options.folds)
    print(shown.to_string(), caption(shown), tuned.optima.to_string(), sep="\n\n")


def _drawn(name: str, settings: Mapping[str, object], seed: int) -> MultimodalData:
    return load(name, seed=seed, **settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mmlab.evidence", description=__doc__)
    parser.add_argument("name", metavar="NAME", help=f"of {', '.join(DATASETS)}")
    parser.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="of the data set, such as split=arm"
    )
    parser.add_argument("--encoders", choices=[*BUILDERS], default="mlp", help="(mlp)")
    parser.add_argument("--epochs", type=int, default=15, help="of each training (15)")
    parser.add_argument("--trials", type=int, default=5, help="seeds of each trial (5)")
    parser.add_argument("--seeds", type=int, default=8, help="seeds of the comparison (8)")
    parser.add_argument("--folds", type=int, help="show intervals over so many folds, too")
    parser.add_argument("--parallel", type=int, help="processes (one, this one)")
    parser.add_argument("--cache", type=Path, default=Path("build/evidence"), help="(%(default)s)")
    return parser


if __name__ == "__main__":
    main()
