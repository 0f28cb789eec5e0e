"""Which drop is it: scale, competition or shift? One call that tells them apart.

Three things make joint training lose, and each has a tell-tale that the others lack:

    scale        One input is louder. Multiplied by a constant, which the holdout chooses, it no
                 longer costs anything.
    competition  An encoder learns less beside the others than alone. No constant mends it, and the
                 ensemble of networks trained alone, which knows no competition, is better.
    shift        A modality that works in the training world fails in the test. Networks trained
                 alone fall as well: their ensemble is below the best of them, and on the holdout it
                 was not.

Scale and competition are read from the test; where a shift is seen, from the holdout, which is
still of the training world. What is explained is a drop below the best modality: where there is
none, no cause is named, though the ensemble may still be better than joint training.

Source: ours.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mmlab.balancers.controls import Ensemble, ScaledInputs
from mmlab.checks import check_number
from mmlab.datasets.base import MultimodalData
from mmlab.evaluation import own_head_accuracy, probe_accuracy
from mmlab.experiments.arguments import check_source, dataset_of, whole_numbers
from mmlab.experiments.comparison import compare
from mmlab.experiments.reports import spell, verdict
from mmlab.experiments.statistics import of_method, per_unit
from mmlab.experiments.tables import failed
from mmlab.training import Balancer, Joint, Run

if TYPE_CHECKING:
    import pandas as pd

    Scores = Mapping[str, pd.Series]

SCALES = (0.5, 0.25, 0.125, 0.0625)
"""Factors that are tried on each input, beside 1."""

CAUSES = ("scale", "competition", "shift")
SPLITS = ("test", "holdout")
ANSWERS = {
    "ensemble": "ensemble",
    "joint": "joint training",
    "ensemble, scaled": "ensemble, best scale",
    "joint, scaled": "joint, best scale",
}
"""What tables and figures call the answers that are not of one modality alone."""


@dataclass(frozen=True)
class Finding:
    """One question and its answer.

    values:   one share per unit of repetition, above 0 where it speaks for the cause.
    verdict:  "seen", "not seen" or "cannot tell here".
    sentence: the answer in words, with its interval.
    """

    values: pd.Series
    verdict: str
    sentence: str


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found.

    findings: "drop" and each of CAUSES.
    scores:   split -> one share per unit of repetition, of each modality alone and of ANSWERS.
    runs:     what `compare` measured: one row per training and seed.
    margin:   the smallest difference that counts.
    chosen:   the scale that the holdout chose: (modality, factor), or None for the inputs as they
              are.
    """

    name: str
    findings: Mapping[str, Finding]
    scores: Mapping[str, Scores]
    runs: pd.DataFrame
    margin: float
    chosen: tuple[str, float] | None

    @property
    def causes(self) -> tuple[str, ...]:
        """The causes that were seen; none where nothing is lost."""
        return tuple(c for c in CAUSES if self.findings[c].verdict == "seen")

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
        seen = " and ".join(self.causes) or "nothing"
        return "\n".join([f"{self.name}: {seen}", self.table.to_string(), *self.sentences])

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.sentences)
        return f"{self.table.to_html()}<ul>{items}</ul>"


def name_of(who: str) -> str:
    """What tables and figures call an answer of `Diagnosis.scores`."""
    return ANSWERS.get(who, f"{who} alone")


def diagnose(
    data: MultimodalData | Callable[[int], MultimodalData],
    *,
    seeds: Iterable[int] = range(5),
    scales: Iterable[float] = SCALES,
    margin: float = 0.01,
    by: str = "seed",
    folds: int | None = None,
    **training: Any,
) -> Diagnosis:
    """Train each modality alone, jointly, and jointly with scaled inputs; say which drop it is.

    Args:
        data: one data set of classes, or a callable seed -> data set.
        seeds: at least five.
        scales: factors above 0 that are tried on each input; the holdout chooses.
        margin: the smallest difference that counts, a share: 0.01 is one point.
        by, folds: the unit of repetition, as in `mmlab.experiments.per_unit`.
        training: arguments for `compare` (epochs, lr, build, network, device, parallel, cache ...).

    Raises:
        ValueError: real-valued targets, one modality, fewer than five seeds, a value out of range.
        TypeError: what is no data set, no seeds, no argument of `compare`.
        RuntimeError: a training failed.

    Source: the three tell-tales are ours; the ensemble is that of Du et al., ICML 2023.
    """
    import pandas as pd

    numbers = whole_numbers(seeds)
    if len(numbers) < 5:
        raise ValueError(f"seeds are {numbers}; give at least five: fewer have no useful interval")
    check_number("margin", margin, above=0)
    check_source(data)
    first = dataset_of(data, numbers[0])
    _check_task(first)
    trials = {f"{m} × {k:g}": (m, k) for m in first.modalities for k in _factors(scales)}
    methods: dict[str, Callable[[], Balancer]] = {"joint": Joint, "ensemble": Ensemble}
    methods |= {name: partial(ScaledInputs, **{m: k}) for name, (m, k) in trials.items()}
    runs = compare(methods, data, seeds=numbers, measure=measure_encoders, **training)
    _check_whole(runs)
    scaled = _chosen(runs, ("joint", *trials))
    chosen = trials.get(scaled)
    names = {"ensemble": "ensemble", "joint": "joint", "ensemble, scaled": "ensemble"}
    if chosen:
        more = _ensemble_at(chosen, data, numbers, training)
        runs = pd.concat([runs, more], ignore_index=True)
        names["ensemble, scaled"] = "ensemble, scaled"
    names["joint, scaled"] = scaled
    scores = {
        split: {
            who: per_unit(values, by, folds)
            for who, values in _scores(runs, first.modalities, names, split).items()
        }
        for split in SPLITS
    }
    findings = _findings(scores, _probes(runs, first.modalities, by, folds), chosen, margin)
    return Diagnosis(first.name, findings, scores, runs, margin, chosen)


def measure_encoders(run: Run) -> dict[str, float]:
    """What each encoder can do: by its own head where it was trained alone, and by a probe."""
    if type(run.balancer) not in (Joint, Ensemble):
        return {}
    found = {f"probe {m}": x for m, x in probe_accuracy(run.model, run.data).items()}
    if isinstance(run.balancer, Ensemble):
        for split, start in (("test", "alone "), ("holdout", "holdout alone ")):
            own = own_head_accuracy(run.model, run.split(split))
            found |= {start + m: x for m, x in own.items()}
    return found


def _factors(scales: Iterable[float]) -> list[float]:
    factors = [*scales]
    for factor in factors:
        check_number("a factor in scales", factor, above=0)
    if not factors or 1 in factors or len({*factors}) < len(factors):
        raise ValueError(
            f"scales are {factors}; give at least one factor, each once; 1 is tried in any case"
        )
    return factors


def _chosen(runs: pd.DataFrame, tried: Iterable[str]) -> str:
    """The training that is best on the holdout; of equals the first."""
    return max(tried, key=lambda name: of_method(runs, name, "holdout accuracy").mean())


def _ensemble_at(
    chosen: tuple[str, float],
    data: MultimodalData | Callable[[int], MultimodalData],
    seeds: Sequence[int],
    training: Mapping[str, Any],
) -> pd.DataFrame:
    """The ensemble of networks that see what the chosen joint training sees."""
    build = {**(training.get("build") or {}), "scale": dict([chosen])}
    methods = {"ensemble, scaled": Ensemble}
    return compare(methods, data, seeds=seeds, **{**training, "build": build})


def _check_whole(runs: pd.DataFrame) -> None:
    """Raises RuntimeError where a training failed."""
    for method in runs["method"].unique():
        if why := failed(runs, method, "accuracy"):
            raise RuntimeError(f"the training {method!r} {why}; nothing can be said without it")


def _check_task(data: MultimodalData) -> None:
    taken = [m for m in data.modalities if m in ANSWERS]
    if taken:
        raise ValueError(f"a modality is called {taken[0]!r}, a name that diagnose uses; rename it")
    if data.task != "classification":
        raise ValueError(f"the task is {data.task!r}; diagnose compares accuracies of classes")
    if len(data.modalities) < 2:
        raise ValueError(
            f"the data have the modality {data.modalities[0]!r} alone; nothing can be lost by "
            "joint training of one: give at least two"
        )


def _scores(
    runs: pd.DataFrame, modalities: Iterable[str], names: Mapping[str, str], split: str
) -> dict[str, pd.Series]:
    """By seed: each modality alone, and what ANSWERS names.

    names: the answer's name -> that of its method in `runs`.
    """
    start = "" if split == "test" else "holdout "
    found = {m: of_method(runs, "ensemble", f"{start}alone {m}") for m in modalities}
    return found | {who: of_method(runs, name, f"{start}accuracy") for who, name in names.items()}


def _probes(
    runs: pd.DataFrame, modalities: Iterable[str], by: str, folds: int | None
) -> dict[str, pd.Series]:
    """What a probe of each encoder loses by joint training."""
    return {
        m: per_unit(
            of_method(runs, "ensemble", f"probe {m}") - of_method(runs, "joint", f"probe {m}"),
            by,
            folds,
        )
        for m in modalities
    }


# --- the questions --------------------------------------------------------------------------------


def _findings(
    scores: Mapping[str, Scores],
    probes: Mapping[str, pd.Series],
    chosen: tuple[str, float] | None,
    margin: float,
) -> dict[str, Finding]:
    test = scores["test"]
    best = max(probes, key=lambda m: test[m].mean())
    drop = test[best] - test["joint"]
    shift = _shift(scores, best, list(probes), margin)
    world = "holdout" if shift.verdict == "seen" else "test"
    found = {
        "scale": _scale(scores[world], chosen, world, margin),
        "competition": _competition(scores[world], probes, world, margin),
        "shift": shift,
    }
    if (word := _answer(drop, margin)) != "seen":  # there is nothing to explain
        found = {cause: replace(finding, verdict=word) for cause, finding in found.items()}
    return {"drop": _drop(drop, best, margin)} | found


def _answer(values: pd.Series, margin: float) -> str:
    """The verdict on values that must be above 0, and by the margin on average, to count."""
    word = verdict(values, margin)
    return "cannot tell here" if word == "seen" and values.mean() < margin else word


def _drop(values: pd.Series, best: str, margin: float) -> Finding:
    sentence = f"joint training against {best} alone, the best modality: {spell(-values)} points."
    return Finding(values, _answer(values, margin), sentence)


def _scale(scores: Scores, chosen: tuple[str, float] | None, world: str, margin: float) -> Finding:
    """A loud input: a constant, chosen on the holdout, wins."""
    values = scores["joint, scaled"] - scores["joint"]
    if chosen is None:
        sentence = "the holdout chooses the inputs as they are, so none is too loud."
        return Finding(values, "not seen", sentence)
    m, factor = chosen
    sentence = (
        f"with {m} × {factor:g}, which the holdout chooses, joint training changes by "
        f"{spell(values)} points on the {world}."
    )
    return Finding(values, _answer(values, margin), sentence)


def _competition(
    scores: Scores, probes: Mapping[str, pd.Series], world: str, margin: float
) -> Finding:
    """What no scale mends, and the networks that never met do not lose."""
    values = scores["ensemble, scaled"] - scores["joint, scaled"]
    m = max(probes, key=lambda name: probes[name].mean())
    sentence = (
        "networks trained alone, averaged, against joint training, both at the best scale: "
        f"{spell(values)} points on the {world}. By a linear probe on the test, the encoder of {m} "
        f"loses most by joint training: it changes by {spell(-probes[m])} points."
    )
    return Finding(values, _answer(values, margin), sentence)


def _shift(
    scores: Mapping[str, Scores], best: str, modalities: Sequence[str], margin: float
) -> Finding:
    """A modality that fails in the test alone, and takes the ensemble down with it.

    A modality that is weak and too sure of itself takes the ensemble down on the holdout as well;
    this part is subtracted.
    """
    gap = {split: scores[split][best] - scores[split]["ensemble"] for split in SPLITS}
    values = gap["test"] - gap["holdout"].clip(lower=0)
    falls = {m: scores["holdout"][m] - scores["test"][m] for m in modalities}
    m = max(falls, key=lambda name: falls[name].mean())
    words = {_answer(values, margin), _answer(falls[m], margin)}
    word = next(w for w in ("not seen", "cannot tell here", "seen") if w in words)
    sentence = (
        f"{m} alone changes by {spell(-falls[m])} points from the holdout to the test; on the test "
        f"networks trained alone, averaged, against {best} alone: {spell(-gap['test'])} points."
    )
    return Finding(values, word, sentence)
