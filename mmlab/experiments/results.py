"""What a file of data/results says of each run, beside what `compare` says of any.

``python -m mmlab.evidence NAME --csv FILE`` writes such a file: the command that made it in its
first line, and then a table of one row per run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

from mmlab.datasets.embedded import DATA
from mmlab.evaluation import calibration_error, macro_f1, probe_accuracy, test_accuracy
from mmlab.evaluation.metrics import predicted
from mmlab.training import Run

if TYPE_CHECKING:
    import pandas as pd

FOLDER = DATA / "results"

PREDICTION = "prediction"
"""Name in the history of what the method answers, whatever it makes its answer of."""


class EpochScores:
    """Observer: accuracy of the method's own prediction on holdout and test after each epoch.

    The test is looked at here, and nothing is chosen by it: `measured` tells what a choice by it
    would add.
    """

    only_looks = True

    def __call__(self, run: Run) -> None:
        if run.epoch:
            for split in ("holdout", "test"):
                run.record(split, PREDICTION, "accuracy", test_accuracy(run, split))


def measured(run: Run) -> dict[str, float]:
    """Further columns of a run, all of the test split, for the `measure` of `compare`.

    "macro-F1", "log loss" (nats) and "calibration error" (0 to 1) of the method's own prediction;
    "probe m": `probe_accuracy` of the encoder of modality m; and accuracy after another epoch than
    the last, "best on holdout" (a choice that is allowed) or "best on test" (one that is not), of
    equal ones the first. The run needs the observer `EpochScores`.
    """
    found = predicted(run, run.split("test"), "test")
    answered = found.values["answered"]
    logits, target = found.values[PREDICTION][answered], found.target[answered]
    probes = probe_accuracy(run.model, run.data)
    return {
        "macro-F1": macro_f1(logits, target),
        "log loss": F.cross_entropy(logits, target).item(),
        "calibration error": calibration_error(logits, target),
        **{f"probe {m}": value for m, value in probes.items()},
        **by_epoch(run),
    }


def by_epoch(run: Run) -> dict[str, float]:
    """Test accuracy after the epoch that is best on the holdout, and on the test (`measured`)."""
    history = run.history.query("output == @PREDICTION and metric == 'accuracy'")
    scores = history.pivot(index="epoch", columns="split", values="value")
    return {
        "best on holdout": float(scores["test"][scores["holdout"].idxmax()]),
        "best on test": float(scores["test"].max()),
    }


def read_results(name: str) -> pd.DataFrame:
    """The table of data/results/NAME.csv; `attrs["command"]` is what made it.

    Raises FileNotFoundError where there is none, with those that there are.
    """
    import pandas as pd

    path = FOLDER / f"{name}.csv"
    if not path.is_file():
        there = ", ".join(sorted(one.stem for one in FOLDER.glob("*.csv"))) or "none"
        raise FileNotFoundError(
            f"there are no results called {name!r}; there are {there}. "
            "Make them with python -m mmlab.evidence NAME --csv FILE"
        )
    with path.open(encoding="utf-8") as file:
        command = file.readline().removeprefix("# ").strip()
    table = pd.read_csv(path, comment="#")
    table.attrs["command"] = command
    return table
