"""What drop a data set has: ``python -m mmlab.diagnosis NAME [--encoders cnn] [KEY=VALUE ...]``.

It prints what `mmlab.experiments.diagnose` finds, and draws it where ``--figure`` names a file.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

from mmlab.datasets import DATASETS, load
from mmlab.datasets.settings import setting
from mmlab.experiments import Diagnosis, diagnose
from mmlab.files import write_atomically
from mmlab.models.encoders import BUILDERS

FIGURES = ("png", "svg", "pdf")


def main(arguments: Sequence[str] | None = None) -> None:
    """Diagnose the data set that is named; what cannot be done ends the program with a message."""
    parser = _parser()
    options = parser.parse_args(arguments)
    kind = options.figure.suffix[1:] if options.figure else "png"
    if kind not in FIGURES:
        parser.error(f"--figure is {options.figure}; allowed are files of {', '.join(FIGURES)}")
    try:
        settings = dict(map(setting, options.settings))
        found = diagnose(
            lambda seed: load(options.name, seed=seed, **settings),
            seeds=range(options.seeds),
            epochs=options.epochs,
            build={"encoders": options.encoders},
        )
        print(found)
        if options.figure:
            write_atomically(options.figure, _drawn(found, kind))
    except (ValueError, TypeError, RuntimeError, ArithmeticError, OSError) as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mmlab.diagnosis", description=__doc__)
    parser.add_argument("name", metavar="NAME", help=f"of {', '.join(DATASETS)}")
    parser.add_argument(
        "settings",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="of the data set, such as split=arm",
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many trainings of each (5)")
    parser.add_argument("--epochs", type=int, default=15, help="of each training (15)")
    parser.add_argument("--encoders", choices=[*BUILDERS], default="mlp", help="(mlp)")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw it: FILE.png, .svg, .pdf")
    return parser


def _drawn(found: Diagnosis, kind: str) -> bytes:
    from mmlab import plotting  # takes a second, and few draw

    plotting.style()
    buffer = io.BytesIO()
    plotting.diagnosis(found).savefig(buffer, format=kind)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
