"""Why is joint training worse than one modality alone: scale, competition or shift?

Three things make joint training lose. One call tells them apart:

- scale: one input has larger numbers than the others. Multiplied by a constant factor, which the
  holdout chooses, it costs less or nothing.
- competition: an encoder learns less beside the others than alone. No factor on an input helps, and
  the average of networks trained alone is better. (A factor on an encoder's learning rate may help:
  that is what balancing methods are about.)
- shift: a modality fails in the test. Networks trained alone fall as well: on the test their
  average is worse than the best of them, and on the holdout it was not.

Scale and competition are read from the test; where a shift is seen, from the holdout, which comes
from the same conditions as the training data, whether or not there is a drop on it. One half of the
holdout chooses the factor, the other half answers. All accuracies are those of the samples that
have every modality. "Seen" means that the 95 % interval lies above the margin, "not seen" that it
lies below the margin.

Source: ours.
"""

from __future__ import annotations

import html
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmlab.balancers.controls import Ensemble, ScaledInputs
from mmlab.checks import check_number
from mmlab.datasets.base import Batch, MultimodalData, in_memory
from mmlab.evaluation import accuracy, forward, probe_accuracy
from mmlab.experiments.arguments import check_source, dataset_of, distinct_seeds
from mmlab.experiments.comparison import compare
from mmlab.experiments.findings import (
    ANSWERS,
    CAUSES,
    SPLITS,
    Finding,
    findings_of,
    product,
)
from mmlab.experiments.reports import spell
from mmlab.experiments.statistics import of_method, per_unit
from mmlab.experiments.tables import failed
from mmlab.nested import is_real
from mmlab.training import Balancer, Joint, Run

if TYPE_CHECKING:
    import pandas as pd

    Scores = Mapping[str, pd.Series]
    Methods = Mapping[str, Callable[[], Balancer]]

SCALES = (0.5, 0.25, 0.125, 0.0625)
"""Factors that are tried on each input, beside 1."""

LIMITS = (
    "limits: all of this is about these trainings; at another learning rate, chosen by `tune`, a "
    "cause may come or go. A shift that the holdout shares is not seen: take the holdout from the "
    "conditions of the training data."
)
"""What a diagnosis cannot say; printed with it."""

CHOICE = "choice"  # the half of the holdout split that chooses the scale
CHOICE_COLUMN = f"{CHOICE} answer"


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What `diagnose` found.

    findings: "drop" and each of CAUSES.
    scores:   split -> one share per unit of repetition, of each modality alone and of ANSWERS.
    runs:     what `compare` measured: one row per training and seed.
    margin:   the smallest difference that counts.
    chosen:   the scale that the holdout chose, modality -> factor; empty for the inputs as they
              are.
    """

    name: str
    findings: Mapping[str, Finding]
    scores: Mapping[str, Scores]
    runs: pd.DataFrame
    margin: float
    chosen: Mapping[str, float]

    @property
    def causes(self) -> tuple[str, ...]:
        """The causes of the drop that were seen; none where no drop was seen."""
        if self.findings["drop"].verdict != "seen":
            return ()
        return tuple(c for c in CAUSES if self.findings[c].verdict == "seen")

    @property
    def headline(self) -> str:
        """The result in a line."""
        drop = self.findings["drop"].verdict
        if drop != "seen":
            return {"not seen": "no drop"}.get(drop, "cannot tell whether there is a drop")
        return f"a drop by {' and '.join(self.causes) or 'no cause that was found'}"

    @property
    def table(self) -> pd.DataFrame:
        """Accuracy in %, with 95 % intervals: one row per answer, one column per split."""
        import pandas as pd

        rows = {
            f"{split}, %": {name_of(who): spell(v, "%") for who, v in self.scores[split].items()}
            for split in SPLITS
        }
        return pd.DataFrame(rows).rename_axis("answer of")

    @property
    def sentences(self) -> list[str]:
        return [f"{name} ({one.verdict}): {one.sentence}" for name, one in self.findings.items()]

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.headline}", self.table.to_string(), *self.sentences, LIMITS]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        sentences = [*self.sentences, LIMITS]
        items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
        heading = html.escape(f"{self.name}: {self.headline}")
        return f"<p><b>{heading}</b></p>{self.table.to_html()}<ul>{items}</ul>"


def name_of(who: str) -> str:
    """What tables and figures call an answer of `Diagnosis.scores`."""
    return ANSWERS.get(who, f"{who} alone")


def diagnose(
    data: MultimodalData | Callable[[int], MultimodalData],
    *,
    seeds: Iterable[int] = range(5),
    scales: Sequence[float] = SCALES,
    margin: float = 0.01,
    by: str = "seed",
    folds: int | None = None,
    **training: Any,
) -> Diagnosis:
    """Train each modality alone, jointly, and jointly with scaled inputs; say which drop it is.

    Args:
        data: one data set of classes, or a callable seed -> data set.
        seeds: whole numbers, each once; at least five.
        scales: factors above 0 that are tried on one input at a time; the holdout chooses.
            Token ids, or several tensors of a modality, have no factor.
        margin: the smallest difference that counts, a share: 0.01 is one point.
        by: "seed" or "fold", the unit of repetition: what counts as one observation, as in
            `mmlab.experiments.per_unit`.
        folds: number of folds of the people, if `by` is "fold".
        training: arguments for `compare` (epochs, lr, build, network, device, parallel, cache ...).

    Raises:
        ValueError: real-valued targets, one modality, no sample of a split that has all of them,
            fewer than five seeds, a value out of range.
        TypeError: what is no data set, no seeds, no argument of a training.
        RuntimeError: a training failed.

    Source: the three questions are ours; the average of networks trained alone is the control of
    Du et al., ICML 2023.
    """
    import pandas as pd

    numbers = distinct_seeds(seeds)
    if len(numbers) < 5:
        raise ValueError(f"seeds are {numbers}; give at least five: fewer have no useful interval")
    _check(scales, margin, training)
    unit = partial(per_unit, by=by, folds=folds)
    unit(pd.Series(0.0, index=numbers))  # a wrong unit is said before anything is trained
    check_source(data)
    first = dataset_of(data, numbers[0])
    _check_task(first)

    def train(methods: Methods, **more: Any) -> pd.DataFrame:
        options = {**training, **more}
        return compare(methods, data, seeds=numbers, measure=measure_answers, **options)

    runs = train({"joint": Joint, "ensemble": Ensemble})
    _check_whole(runs)
    real = [m for m, value in first.train.head(1).inputs.items() if is_real(value)]
    most = min(len(real), len(first.modalities) - 1)
    runs, scaled, chosen = _best_scale(runs, train, real, scales, most)
    names = {"ensemble": "ensemble", "joint": "joint", "ensemble, scaled": "ensemble"}
    if chosen:
        more = _ensemble_at(chosen, train, training.get("build"))
        _check_whole(more)
        runs = pd.concat([runs, more], ignore_index=True)
        names["ensemble, scaled"] = "ensemble, scaled"
    names["joint, scaled"] = scaled
    scores = {
        split: {
            who: unit(values)
            for who, values in _scores(runs, first.modalities, names, split).items()
        }
        for split in SPLITS
    }
    probes = {m: unit(_lost(runs, m)) for m in first.modalities}
    findings = findings_of(scores, probes, chosen, margin)
    if min(scales) in chosen.values():
        warnings.warn(
            f"the smallest factor that was tried is the best on the holdout ({product(chosen)}); "
            "a smaller one may be better: give more scales",
            stacklevel=2,
        )
    name = "your data" if first.name == "unnamed" else first.name
    return Diagnosis(name, findings, scores, runs, margin, chosen)


def measure_answers(run: Run) -> dict[str, float]:
    """Accuracies of the samples that have every modality, and of a linear probe of each encoder.

    Of `Ensemble` also what each modality says alone, by its own head.
    """
    found = {}
    for split, batch, whole in _parts(run):
        found[f"{split} answer"] = accuracy(run.predict(batch), batch.target, whole)
        if isinstance(run.balancer, Ensemble):
            for m, logits in forward(run.model, batch).unimodal.items():
                found[f"{split} alone {m}"] = accuracy(logits, batch.target, whole)
    if type(run.balancer) in (Joint, Ensemble):
        probes = probe_accuracy(run.model, run.data)
        found |= {f"probe {m}": value for m, value in probes.items()}
    return found


def _parts(run: Run) -> Iterator[tuple[str, Batch, Tensor]]:
    """Each part of the data that answers are scored on, and which samples of its split count.

    Every second sample of the holdout split chooses the scale, the others answer with the test.
    """
    for split in ("test", "holdout"):
        batch = in_memory(run.split(split), "diagnose")
        whole = _whole(batch)
        if split == "test":
            yield split, batch, whole
            continue
        odd = torch.arange(len(batch), device=whole.device) % 2 == 1
        yield split, batch, whole & odd
        yield CHOICE, batch, whole & ~odd


def _whole(batch: Batch) -> Tensor:
    """Which samples have every modality, booleans (B,)."""
    masks = (batch.present or {}).values()
    everywhere = torch.ones(len(batch), dtype=torch.bool, device=batch.target.device)
    return torch.stack([everywhere, *masks]).all(0)


def _check(scales: Sequence[float], margin: float, training: Mapping[str, Any]) -> None:
    """Raises TypeError or ValueError for settings that mean nothing."""
    if not isinstance(scales, Sequence):
        raise TypeError(f"scales is {scales!r}; give a list of factors, such as [0.5, 0.25]")
    for factor in scales:
        check_number("a factor in scales", factor, above=0)
    if not scales or 1 in scales or len({*scales}) < len(scales):
        raise ValueError(
            f"scales are {[*scales]}; give at least one factor, each once; 1 is tried in any case"
        )
    check_number("margin", margin, above=0)
    if margin >= 1:
        raise ValueError(f"margin is {margin!r}; it is a share below 1: 0.01 is one point")
    if isinstance(build := training.get("build"), Mapping) and build.get("scale"):
        raise ValueError(
            f"build scales the inputs by {build['scale']}; diagnose tries scales itself: multiply "
            "the data instead"
        )
    refused = [name for name in ("settings", "measure", "units", "tuned") if name in training]
    if refused:
        raise TypeError(
            f"diagnose takes no {refused[0]!r}: all its trainings are alike, and it measures what "
            "it needs; allowed are the other arguments of compare"
        )


def _check_whole(runs: pd.DataFrame) -> None:
    """Raises RuntimeError where a training failed."""
    for method in runs["method"].unique():
        if why := failed(runs, method, "test answer"):
            raise RuntimeError(f"the training {method!r} {why}; nothing can be said without it")


def _check_task(data: MultimodalData) -> None:
    taken = [m for m in data.modalities if m in ANSWERS]
    if taken:
        raise ValueError(f"a modality is called {taken[0]!r}, a name that diagnose uses; rename it")
    if data.task != "classification":
        raise ValueError(f"the task is {data.task!r}; diagnose compares accuracies of classes")
    if data.frames:
        raise ValueError(
            "each frame has a label, and diagnose compares samples; make each frame a sample "
            "(targets (B,)), or use compare with the controls Ensemble, ScaledInputs and DGL"
        )
    if len(data.modalities) < 2:
        raise ValueError(
            f"the data have the modality {data.modalities[0]!r} alone; nothing can be lost by "
            "joint training of one: give at least two"
        )
    for split in SPLITS:
        count = int(_whole(in_memory(data.splits[split], "diagnose")).sum())
        if count < 4:
            raise ValueError(
                f"{count} samples of {split} have every modality, and answers are compared on "
                "these; give at least 4, or leave out the modality that is always missing"
            )


# --- trainings ------------------------------------------------------------------------------------


def _best_scale(
    runs: pd.DataFrame,
    train: Callable[..., pd.DataFrame],
    modalities: Sequence[str],
    scales: Sequence[float],
    most: int,
) -> tuple[pd.DataFrame, str, dict[str, float]]:
    """All runs, the joint training that is best on the holdout, and its factors.

    One of these inputs after the other is scaled, as long as this is better, and at most so many:
    one factor less than the data have modalities, for one on all of them changes no input beside
    the others. A training that fails is not chosen.
    """
    import pandas as pd

    best, chosen = "joint", dict[str, float]()
    for _ in range(most):
        tried = [{**chosen, m: k} for m in modalities if m not in chosen for k in scales]
        trials = {product(scale): scale for scale in tried}
        methods = {name: partial(ScaledInputs, **scale) for name, scale in trials.items()}
        runs = pd.concat([runs, train(methods)], ignore_index=True)
        level = {name: of_method(runs, name, CHOICE_COLUMN) for name in (best, *trials)}
        whole = {name: values.mean() for name, values in level.items() if values.notna().all()}
        winner = max(whole, key=lambda name: whole[name])  # of equals the first
        if winner == best:
            break
        best, chosen = winner, trials[winner]
    return runs, best, chosen


def _ensemble_at(
    chosen: Mapping[str, float], train: Callable[..., pd.DataFrame], build: Mapping | None
) -> pd.DataFrame:
    """The ensemble of networks that see what the chosen joint training sees."""
    return train({"ensemble, scaled": Ensemble}, build={**(build or {}), "scale": {**chosen}})


def _scores(
    runs: pd.DataFrame, modalities: Iterable[str], names: Mapping[str, str], split: str
) -> dict[str, pd.Series]:
    """By seed: each modality alone, and what ANSWERS names.

    names: the answer's name -> that of its method in `runs`.
    """
    found = {m: of_method(runs, "ensemble", f"{split} alone {m}") for m in modalities}
    return found | {who: of_method(runs, name, f"{split} answer") for who, name in names.items()}


def _lost(runs: pd.DataFrame, m: str) -> pd.Series:
    """What a probe of an encoder loses by joint training."""
    column = f"probe {m}"
    return of_method(runs, "ensemble", column) - of_method(runs, "joint", column)
