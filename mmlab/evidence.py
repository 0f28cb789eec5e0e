"""All methods and controls on one data set, tuned alike: ``python -m mmlab.evidence NAME``.

The holdout chooses the learning rate of joint training. Then it chooses among five values of one
number for every other row: of the method's own number, at this rate, or, where the row has none, of
the rate. Last, all rows train on the same seeds. Nothing is chosen on the test.
The file of ``--csv`` has the same rows untuned, too: with the defaults of the library.
Finished runs are kept in ``--cache``: the same command goes on after a stop.
``python -m mmlab.evidence --all`` makes every file of data/results so, one after the other.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mmlab.balancers.registry import METHODS
from mmlab.checks import check_choice
from mmlab.datasets import DATASETS, MultimodalData
from mmlab.datasets.settings import setting
from mmlab.experiments import caption, compare, report
from mmlab.experiments.leaderboard import EPOCHS, FILES, MLP, encoders_text
from mmlab.experiments.results import FOLDER, EpochScores, measured
from mmlab.experiments.standing import (
    CONTROL_ROWS,
    RATES,
    EncoderNames,
    Rows,
    drawn,
    keep,
    standing_rows,
)
from mmlab.experiments.tuning import Tuned, tune
from mmlab.files import write_atomically
from mmlab.models.encoders import BUILDERS
from mmlab.training import Joint

CHECKOUT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str] | None = None) -> None:
    """Tune and compare; print the table with its caption, and what was chosen."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.all:
        return _all(options, parser)
    if options.name is None:
        parser.error("give the NAME of a data set, or --all for every file of data/results")
    if options.keep and not (CHECKOUT / "pyproject.toml").is_file():
        parser.error("--keep changes a file of the library: use it in a checkout of the project")
    try:
        settings = dict(map(setting, options.settings))
        data = drawn(options.name, settings)
        sweep = {"cache": options.cache, "parallel": options.parallel}
        tuned = _tuned(data, options, sweep)
        if options.keep:
            _keep(options, settings, data(0).modalities, tuned)
        measures = {"measure": measured, "observers": [EpochScores()]} if options.csv else {}
        common = {"data": data, "seeds": range(options.seeds), **measures, **sweep}
        table = compare(**tuned.chosen, **common)
        if options.csv:
            plain = compare(**_untuned(data, options), **common)
            _save(options.csv, _command(options, parser), table, plain, tuned)
    except (ValueError, TypeError, RuntimeError, ArithmeticError, OSError) as error:
        parser.error(str(error))
    shown = report(table, folds=options.folds)
    print(shown.to_string(), caption(shown), tuned.optima.to_string(), sep="\n\n")


def _all(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Every file of data/results, with the cache and the processes that are asked for."""
    if options.name or options.csv or options.keep:
        parser.error("--all makes its own files: give it --cache and --parallel alone")
    sweep = ["--cache", str(options.cache)]
    sweep += ["--parallel", str(options.parallel)] if options.parallel else []
    for name, file in FILES.items():
        main([*file.arguments, "--csv", os.path.relpath(FOLDER / f"{name}.csv"), *sweep])


def _command(options: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """What makes the table again, without what does not change it."""
    words = [options.name, *options.settings]
    spelt: dict[str, Callable[[Any], str]] = {"encoders": encoders_text, "methods": ",".join}
    for key in ("encoders", "epochs", "trials", "seeds", "methods"):
        value = getattr(options, key)
        if value != parser.get_default(key):
            words += [f"--{key}", spelt.get(key, str)(value)]
    return shlex.join([*words, "--csv", options.csv.as_posix()])


def _rows(data: Callable[[int], MultimodalData], options: argparse.Namespace) -> Rows:
    """The controls, and the methods that are asked for."""
    rows = standing_rows(data(0).modalities, options.encoders)
    if options.methods is None:
        return rows
    for method in options.methods:
        check_choice("a method", method, rows)
    left_out = METHODS.keys() - {*CONTROL_ROWS, *options.methods}
    return {name: row for name, row in rows.items() if name not in left_out}


def _tuned(
    data: Callable[[int], MultimodalData], options: argparse.Namespace, sweep: Mapping[str, Any]
) -> Tuned:
    """What the holdout chose for each row."""
    rows = _rows(data, options)
    common = {
        "seeds": range(options.trials),
        "epochs": options.epochs,
        "build": {"encoders": options.encoders},
        **sweep,
    }
    joint = tune({"joint": Joint}, data, grid={"joint": RATES}, **common)
    return tune(
        {name: make for name, (make, _) in rows.items()},
        data,
        grid={name: values for name, (_, values) in rows.items()},
        lr=joint.chosen["settings"]["joint"]["lr"],
        **common,
    )


def _untuned(data: Callable[[int], MultimodalData], options: argparse.Namespace) -> dict[str, Any]:
    """The rows that have defaults, with these; a constant on an input has none."""
    rows = _rows(data, options)
    methods = {name: make for name, (make, values) in rows.items() if "factor" not in values}
    return {
        "methods": methods,
        "epochs": options.epochs,
        "build": {"encoders": options.encoders},
    }


def _save(path: Path, command: str, table: pd.DataFrame, plain: pd.DataFrame, tuned: Tuned) -> None:
    """One row per run, tuned and not, under the command that makes them."""
    chosen = tuned.optima.set_index("method")["chosen"]
    runs = pd.concat(
        [table.assign(tuned=True, chosen=table["method"].map(chosen)), plain.assign(tuned=False)],
        ignore_index=True,
    )
    text = runs.to_csv(index=False, float_format="%.6g")
    write_atomically(path, f"# python -m mmlab.evidence {command}\n{text}")


def _keep(
    options: argparse.Namespace,
    settings: Mapping[str, object],
    modalities: Sequence[str],
    tuned: Tuned,
) -> None:
    best = tuned.trials[tuned.trials["chosen"]].drop(columns=["s.d.", "failed", "chosen"])
    rows = {}
    for row in best.to_dict("records"):
        name, score = row.pop("method"), row.pop("mean")
        rows[name] = {"score": round(score, 4), "chosen": {k: v for k, v in row.items() if v == v}}
    keep(
        options.name,
        options.encoders,
        settings,
        modalities=modalities,
        epochs=options.epochs,
        lr=tuned.chosen["lr"],
        seeds=f"seeds 0–{options.trials - 1}",
        rows=rows,
    )


def _encoders(text: str) -> EncoderNames:
    """'cnn', or 'name=normalised,picture=cnn' as a dict."""
    pairs = [part.partition("=") for part in text.split(",")]
    for name, equals, encoder in pairs:
        if (encoder if equals else name) not in BUILDERS or (len(pairs) > 1 and not equals):
            raise argparse.ArgumentTypeError(
                f"{text!r} is no choice of encoders; give one of {', '.join(BUILDERS)}, or one per "
                "modality, such as name=normalised,picture=cnn"
            )
    return {name: encoder for name, _, encoder in pairs} if "=" in text else text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mmlab.evidence", description=__doc__)
    parser.add_argument("name", metavar="NAME", nargs="?", help=f"of {', '.join(DATASETS)}")
    parser.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="of the data set, such as split=arm"
    )
    parser.add_argument(
        "--encoders",
        type=_encoders,
        default=MLP,
        metavar="NAME",
        help=f"of {', '.join(BUILDERS)}; or one per modality: name=normalised,picture=cnn (mlp)",
    )
    parser.add_argument(
        "--methods",
        type=lambda text: text.split(","),
        metavar="NAME,...",
        help="those to try beside the controls, such as OGM,MLA (all)",
    )
    parser.add_argument("--all", action="store_true", help="make every file of data/results")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of each training (%(default)s)")
    parser.add_argument("--trials", type=int, default=5, help="seeds of each trial (5)")
    parser.add_argument("--seeds", type=int, default=8, help="seeds of the comparison (8)")
    parser.add_argument("--folds", type=int, help="show intervals over so many folds, too")
    parser.add_argument("--parallel", type=int, help="processes (one, this one)")
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="save one row per run, under the command"
    )
    parser.add_argument("--cache", type=Path, default=Path("build/evidence"), help="(%(default)s)")
    parser.add_argument(
        "--keep", action="store_true", help="keep what was chosen, for mmlab.experiments.standing"
    )
    return parser


if __name__ == "__main__":
    main()
