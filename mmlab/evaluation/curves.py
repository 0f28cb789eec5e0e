"""Loss and accuracy from epoch to epoch on whole splits, and what they say of overfitting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmlab.checks import check_choice
from mmlab.evaluation.metrics import accuracy, average_precision, check_finite
from mmlab.evaluation.passes import read_output
from mmlab.training import Run
from mmlab.training.losses import default_loss, read_losses

if TYPE_CHECKING:
    import pandas as pd


class Curves:
    """Observer: loss and score of every output on whole splits after each epoch.

    The score is "accuracy" for a class, "mAP" for several labels; real numbers have none.

    splits: which ones. Epoch 0 is the untrained network. Reading the test split here is looking,
    not choosing: choose by "holdout".

    Raises TypeError for one name in place of several, ValueError for the name of no split; while it
    observes, FloatingPointError for logits that are not finite.
    """

    only_looks = True

    def __init__(self, splits: Sequence[str] = ("train", "holdout")) -> None:
        if isinstance(splits, str):
            raise TypeError(f"splits is {splits!r}; give a tuple of names, such as ({splits!r},)")
        for split in splits:
            check_choice("split", split, ("train", "holdout", "test"))
        self.splits = tuple(splits)

    def __call__(self, run: Run) -> None:
        for split in self.splits:
            found = read_output(
                run.model,
                run.data.splits[split],
                lambda out: {"joint": out.joint, **out.unimodal},  # it may lack a head
            )
            losses = read_losses(found, run.loss or default_loss(found.target))
            for output, logits in found.values.items():
                mask = None if output == "joint" else found.has(output)
                seen = mask is None or bool(mask.any())
                loss = losses[output].item() if seen else float("nan")
                run.record(split, output, "mean loss", loss)
                check_finite(f"the {output!r} logits of {split}", logits, mask)
                if run.data.task == "classification":
                    run.record(split, output, "accuracy", accuracy(logits, found.target, mask))
                elif run.data.task == "multilabel":
                    counted = slice(None) if mask is None else mask
                    score = average_precision(logits[counted], found.target[counted])
                    run.record(split, output, "mAP", score)


def overfitting(history: pd.DataFrame, start: int = 0) -> pd.DataFrame:
    """Overfitting and generalisation between epoch `start` and every later one, by output.

    history: of a run observed by `Curves` (splits train and holdout).

    The table has the columns epoch, output, gain (the fall of the held-out loss: positive is good),
    overfit (the growth of held-out minus training loss), and ogr = |overfit / gain|. See
    Gradient-Blending (Wang et al. 2020), section 3.1.

    Raises ValueError where a curve, or epoch `start`, is missing.
    """
    curves = history[history.metric == "mean loss"].pivot_table(
        index=["output", "epoch"], columns="split", values="value"
    )
    missing = {"train", "holdout"} - set(curves.columns)
    if missing:
        raise ValueError(
            f"the history has no curves for {sorted(missing)}; "
            "train with fit(..., observers=[Curves()])"
        )
    epochs = curves.index.unique("epoch")
    if start not in epochs:
        raise ValueError(
            f"the history has no epoch {start!r} to start from; it has {epochs.min()} to "
            f"{epochs.max()}"
        )
    first = curves.xs(start, level="epoch")
    later = curves[curves.index.get_level_values("epoch") > start]
    gain = first.holdout - later.holdout
    overfit = (later.holdout - later.train) - (first.holdout - first.train)
    table = later[[]].assign(gain=gain, overfit=overfit, ogr=(overfit / gain).abs())
    return table.reset_index()
