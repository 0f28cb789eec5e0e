"""The questions of a diagnosis, and their answers by intervals (`mmlab.experiments.diagnosis`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmlab.experiments.reports import spell, verdict

if TYPE_CHECKING:
    import pandas as pd

    Scores = Mapping[str, pd.Series]

CAUSES = ("scale", "competition", "shift")
SPLITS = ("test", "holdout")
ANSWERS = {
    "ensemble": "networks alone, averaged",
    "joint": "joint training",
    "ensemble, scaled": "averaged, best scale",
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


def findings_of(
    scores: Mapping[str, Scores],
    probes: Mapping[str, pd.Series],
    chosen: Mapping[str, float],
    margin: float,
) -> dict[str, Finding]:
    """The drop and its causes.

    Args:
        scores: split -> one share per unit of repetition, of each modality alone and of ANSWERS.
        probes: what a linear probe of each encoder loses by joint training.
        chosen: the scale that the holdout chose, modality -> factor.
        margin: the smallest difference that counts, a share.
    """
    test = scores["test"]
    best = max(probes, key=lambda m: test[m].mean())
    shift = _shift(scores, best, list(probes), margin)
    world = "holdout" if shift.verdict == "seen" else "test"
    return {
        "drop": _drop(test[best] - test["joint"], best, margin),
        "scale": _scale(scores, chosen, best, world, margin),
        "competition": _competition(scores[world], probes, world, margin),
        "shift": shift,
    }


def _answer(values: pd.Series, margin: float) -> str:
    """Whether the values are above the margin: by their interval, so that noise is no answer."""
    return verdict(values - margin)


def _drop(values: pd.Series, best: str, margin: float) -> Finding:
    sentence = f"joint training minus {best} alone, the best modality: {spell(-values)} points."
    return Finding(values, _answer(values, margin), sentence)


def _scale(
    scores: Mapping[str, Scores],
    chosen: Mapping[str, float],
    best: str,
    world: str,
    margin: float,
) -> Finding:
    """A loud input: a constant factor, chosen on the holdout, wins."""
    values = scores[world]["joint, scaled"] - scores[world]["joint"]
    if not chosen:
        sentence = "on the holdout no factor on an input is better than the inputs as they are."
        return Finding(values, "not seen", sentence)
    left = scores["test"]["joint, scaled"] - scores["test"][best]
    sentence = (
        f"with {product(chosen)}, which the holdout chooses, joint training changes by "
        f"{spell(values)} points on the {world}. Minus {best} alone it then has {spell(left)} "
        "points on the test."
    )
    return Finding(values, _answer(values, margin), sentence)


def _competition(
    scores: Scores, probes: Mapping[str, pd.Series], world: str, margin: float
) -> Finding:
    """What joint training loses at the best scale, and separate networks keep.

    It is competition between encoders where one of them is seen to learn less; else the loss may
    be one of the joint head, or what averaging wins.
    """
    values = scores["ensemble, scaled"] - scores["joint, scaled"]
    m = max(probes, key=lambda name: probes[name].mean())
    word = _answer(values, margin)
    if word == "seen" and verdict(probes[m]) != "seen":
        word = "cannot tell here"
    sentence = (
        "the average of networks trained alone minus joint training, both at the best scale: "
        f"{spell(values)} points on the {world}. Joint training changes the encoder of {m} by "
        f"{spell(-probes[m])} points, by a linear probe on the test; no other loses more."
    )
    return Finding(values, word, sentence)


def _shift(
    scores: Mapping[str, Scores], best: str, modalities: Sequence[str], margin: float
) -> Finding:
    """A modality that fails in the test alone, and makes the average of networks worse with it.

    It falls more than the best modality does: a test that is harder for all is no shift of one. A
    weak, overconfident modality makes the average worse on the holdout too. We subtract that part.
    """
    gap = {split: scores[split][best] - scores[split]["ensemble"] for split in SPLITS}
    values = gap["test"] - gap["holdout"].clip(lower=0)
    falls = {m: scores["holdout"][m] - scores["test"][m] for m in modalities}
    m = max((m for m in modalities if m != best), key=lambda name: falls[name].mean())
    words = {_answer(values, margin), _answer(falls[m] - falls[best], margin)}
    word = next(w for w in ("not seen", "cannot tell here", "seen") if w in words)
    sentence = (
        f"from the holdout to the test {m} alone changes by {spell(-falls[m])} points, {best} "
        f"alone by {spell(-falls[best])}. On the test, the average of networks trained alone minus "
        f"{best} alone: {spell(-gap['test'])} points."
    )
    return Finding(values, word, sentence)


def product(scale: Mapping[str, float]) -> str:
    """Such as 'audio × 0.25, image × 0.5'."""
    return ", ".join(f"{m} × {factor!r}" for m, factor in scale.items())
