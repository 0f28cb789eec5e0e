"""A training that ends when it no longer gets better, and leaves its best network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from mmlab.checks import check_whole
from mmlab.training.losses import as_arguments, default_loss
from mmlab.training.run import Run
from mmlab.training.state import State, put_back, snapshot, state_of

Metric = Callable[[Tensor, Tensor], float | Tensor]
"""(prediction, target) -> one number; more is better."""


class EarlyStopping:
    """Observer: end the training when the prediction no longer gets better; keep the best network.

    After each epoch the method's own prediction for a split is measured. The training ends when
    `patience` epochs in a row brought nothing better. At the end, also where all epochs were
    trained, network and method are again what they were after the best epoch: `best_epoch`, counted
    from 1, with the value `best`. The history has all values: output "prediction".

    Args:
        patience: epochs.
        split: "holdout", or "train". The test split must not choose.
        metric: metric(prediction, target) -> one number, **more is better**, such as
            `mmlab.evaluation.accuracy`. None: the loss of the training, where less is better.

    Samples that the method has no answer for do not count.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range.
        FloatingPointError: a value that is NaN.
    """

    only_looks = False

    def __init__(
        self, patience: int, *, split: str = "holdout", metric: Metric | None = None
    ) -> None:
        check_whole("patience", patience, least=1)
        if split not in ("holdout", "train"):
            fix = "; to choose by the test split would spoil its scores" if split == "test" else ""
            raise ValueError(f"split is {split!r}; allowed are 'holdout', 'train'{fix}")
        if metric is not None and not callable(metric):
            raise TypeError(
                f"metric is {metric!r}; give a function metric(prediction, target) -> number, of "
                "which more is better, such as mmlab.evaluation.accuracy"
            )
        self.patience, self.split, self.metric = patience, split, metric
        self.best, self.best_epoch = math.nan, 0

    def on_start(self, run: Run) -> None:
        self.best, self.best_epoch = math.nan, 0
        self._states: dict[str, State] = {}
        self._before = {name: snapshot(one) for name, one in _predicting(run).items()}

    def __call__(self, run: Run) -> None:
        if run.epoch == 0:
            return
        value = self._measure(run)
        more = self.metric is not None
        if not self.best_epoch or (value > self.best if more else value < self.best):
            self.best, self.best_epoch = value, run.epoch
            states = {
                name: state_of(one, self._before[name], name)
                for name, one in _predicting(run).items()
            }
            self._states = copy.deepcopy(states)
        elif run.epoch - self.best_epoch >= self.patience:
            run.stop()

    def on_end(self, run: Run) -> None:
        for name, one in _predicting(run).items():
            if name in self._states:
                put_back(one, self._states[name])

    def state_dict(self) -> State:
        return {"best": self.best, "best_epoch": self.best_epoch, "states": self._states}

    def load_state_dict(self, state: State) -> None:
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self._states = state["states"]

    def _measure(self, run: Run) -> float:
        found = run.answers(run.split(self.split))
        mask = found.values["answered"]
        prediction, target = found.values["prediction"][mask], found.target[mask]
        if self.metric is None:
            name, loss = "loss", run.loss or default_loss(target)
            value = float(loss(*as_arguments(prediction, target)))
        else:
            name = getattr(self.metric, "__name__", type(self.metric).__name__)
            value = float(self.metric(prediction, target))
        if math.isnan(value):
            raise FloatingPointError(
                f"the {name} of the prediction for {self.split} is NaN after epoch {run.epoch} "
                f"under {run.balancer.name}; lower lr, or look at the metric and the inputs"
            )
        run.record(self.split, "prediction", name, value)
        return value


def _predicting(run: Run) -> dict[str, Any]:
    """Name -> object, of all that a prediction depends on."""
    parts = {"network": run.model, "method": run.balancer}
    return parts if run.modules is None else {**parts, "modules": run.modules}
