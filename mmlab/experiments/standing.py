"""The standing rows: what every comparison of methods carries, tuned alike on the holdout.

`standing_rows` says which rows there are and which one number of each is tuned. What the holdout
chose on a data set is kept in standing.json, which ``python -m mmlab.evidence NAME --keep`` writes;
`standing` hands it to `compare`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmlab.balancers import (
    AGM,
    ATF,
    CML,
    DGL,
    LFM,
    MLA,
    OGM,
    OPM,
    PMR,
    SMV,
    UMT,
    Balancer,
    Blend,
    EncoderRates,
    Ensemble,
    GradientBlending,
    InfoReg,
    MMCosine,
    MMPareto,
    ReconBoost,
    RefittedHead,
    Relearning,
    ScaledInputs,
    Uniform,
    Unimodal,
)
from mmlab.balancers.registry import METHODS
from mmlab.checks import check_choice
from mmlab.datasets import MultimodalData, load
from mmlab.files import write_atomically
from mmlab.training import Joint

Rows = dict[str, tuple[Callable[..., Balancer], Mapping[str, Sequence[float]]]]

RATES = {"lr": (0.005, 0.01, 0.02, 0.04, 0.08)}
FACTORS = (1.0, 0.5, 0.25, 0.125, 0.0625)

CONTROL_ROWS = ("joint", "ensemble", "joint, head refitted", "DGL", "uniform")
"""What stands beside the methods in every table, with one modality alone and a constant."""

FILE = Path(__file__).with_name("standing.json")


EncoderNames = str | Mapping[str, str]
"""Encoders by a name of `MultimodalNet.build`: one for all modalities, or one for each."""


def standing_rows(modalities: Sequence[str], encoders: EncoderNames = "mlp") -> Rows:
    """Name -> maker, and the one number that is tuned with its five values.

    The constant is one on an input of an "mlp", and one on the rate of an encoder of any other
    name of `MultimodalNet.build`: these undo the scale of their inputs.
    """
    return {
        "joint": (Joint, RATES),
        **{f"{m} alone": (partial(Unimodal, m), RATES) for m in modalities},
        "ensemble": (Ensemble, RATES),
        **{
            _constant(m, encoders): (partial(_factor, _kind(m, encoders), m), {"factor": FACTORS})
            for m in modalities
        },
        "joint, head refitted": (RefittedHead, RATES),
        "DGL": (DGL, RATES),
        "uniform": (Uniform, {"encoder_scale": (0.1, 0.25, 0.5, 1.0, 2.0)}),
        "G-Blend": (GradientBlending, {"floor": (0.0, 0.05, 0.1, 0.2, 0.5)}),
        "ACE": (partial(ATF, "ace"), {"rate": (0.05, 0.1, 0.2, 0.4, 0.8)}),
        "BDO": (partial(ATF, "bdo"), {"rate": (0.05, 0.1, 0.2, 0.4, 0.8)}),
        "OGM": (partial(OGM, enhance=False), {"alpha": (0.1, 0.3, 0.5, 1.0, 2.0)}),
        "OGM-GE": (OGM, {"alpha": (0.1, 0.3, 0.5, 1.0, 2.0)}),
        "MMPareto": (MMPareto, {"gamma": (0.25, 0.5, 1.0, 1.5, 3.0)}),
        "MLA": (MLA, RATES),
        "AGM": (AGM, {"alpha": (0.25, 0.5, 1.0, 2.0, 4.0)}),
        "PMR": (PMR, {"alpha": (0.25, 0.5, 1.0, 2.0, 4.0)}),
        "OPM": (OPM, {"q_base": (0.1, 0.25, 0.5, 0.75, 1.0)}),
        "MMCosine": (MMCosine, {"scale": (2.5, 5.0, 10.0, 20.0, 40.0)}),
        "UMT": (UMT, {"weight": (0.1, 1.0, 3.0, 10.0, 30.0)}),
        "D&R": (Relearning, {"strength": (0.75, 1.5, 3.0, 6.0, 12.0)}),
        "LFM": (LFM, {"decay": (0.03, 0.1, 0.3, 1.0, 3.0)}),
        "CML": (CML, {"lam": (0.3, 1.0, 3.0, 10.0, 30.0)}),
        "ReconBoost": (ReconBoost, {"alpha": (0.0, 0.25, 0.5, 1.0, 2.0)}),
        "SMV": (SMV, RATES),
        "InfoReg": (InfoReg, {"beta": (0.1, 0.3, 0.95, 3.0, 10.0)}),
        "PCGrad": (partial(Blend, "pcgrad"), RATES),
        "CAGrad": (partial(Blend, "cagrad"), {"c": (0.1, 0.25, 0.5, 0.75, 0.9)}),
        "IMTL-G": (partial(Blend, "imtl-g"), RATES),
        "Nash-MTL": (partial(Blend, "nash-mtl"), RATES),
        "Aligned-MTL": (partial(Blend, "aligned-mtl"), RATES),
    }


def standing(
    name: str, *methods: str, encoders: EncoderNames = "mlp", **settings: object
) -> dict[str, Any]:
    """Arguments for `compare`: the standing controls and some methods, as the holdout chose them.

    The rows are joint, the modality that is best alone, the ensemble, joint training with the best
    factor on an input (on an encoder's rate, where the encoders normalise), with its head refitted,
    DGL, uniform, and the methods. "Best" is by the holdout, never by the test.

    Args:
        name: the name of a data set that was tuned, as `load` takes it.
        methods: keys of METHODS.
        encoders: a name that `MultimodalNet.build` takes, or one per modality.
        settings: options of the data set, as `load` takes them; they must have been tuned too.

    Returns:
        A dict with methods, data, settings, epochs, lr, build and tuned. Give the seeds yourself.

    Raises:
        ValueError: an unknown method, or a setting or a method that was not tuned; `tune` does it.
    """
    kept = _read()
    key = key_of(name, encoders, settings)
    if key not in kept:
        raise ValueError(
            f"{key!r} was not tuned; tuned are {', '.join(map(repr, kept))}. Use tune, or run "
            "python -m mmlab.evidence NAME --keep"
        )
    for method in methods:
        check_choice("a method", method, METHODS)
    found = kept[key]
    modalities, chosen = found["modalities"], found["rows"]
    rows = standing_rows(modalities, encoders)
    alone = _best([f"{m} alone" for m in modalities], chosen)
    constant = _best([_constant(m, encoders) for m in modalities], chosen)
    joint, ensemble, *others = CONTROL_ROWS
    controls = [joint, alone, ensemble, constant, *others]
    made: dict[str, Callable[[], Balancer]] = {}
    own: dict[str, dict[str, float]] = {}
    for row in dict.fromkeys([*controls, *methods]):
        if row not in chosen:
            raise ValueError(
                f"{row!r} was not tuned on {key!r}; tuned are {', '.join(map(repr, chosen))}. Use "
                "tune, or run python -m mmlab.evidence NAME --keep"
            )
        numbers = dict(chosen[row]["chosen"])
        own[row] = {"lr": numbers.pop("lr")} if "lr" in numbers else {}
        make = rows[row][0]
        made[row] = partial(make, **numbers) if numbers else make
    return {
        "methods": made,
        "data": drawn(name, settings),
        "settings": own,
        "epochs": found["epochs"],
        "lr": found["lr"],
        "build": {"encoders": encoders},
        "tuned": "one number per row for all seeds, the best of 5 values on the holdout split of "
        f"{found['seeds']}",
    }


def keep(
    name: str,
    encoders: EncoderNames,
    settings: Mapping[str, object],
    *,
    modalities: Sequence[str],
    epochs: int,
    lr: float,
    seeds: str,
    rows: Mapping[str, Mapping[str, Any]],
) -> None:
    """Enter what the holdout chose.

    rows: name of a method -> {"score": its mean, "chosen": {name of a parameter: number}}.
    """
    found = {
        "modalities": [*modalities],
        "epochs": epochs,
        "lr": lr,
        "seeds": seeds,
        "rows": dict(rows),
    }
    everything = {**_read(), key_of(name, encoders, settings): found}
    write_atomically(FILE, json.dumps(everything, indent=1, sort_keys=True) + "\n")


def key_of(name: str, encoders: EncoderNames, settings: Mapping[str, object]) -> str:
    """Such as "watch split='arm', mlp"."""
    dials = "".join(f" {key}={value!r}" for key, value in sorted(settings.items()))
    if isinstance(encoders, Mapping):
        encoders = " ".join(f"{m}={encoder}" for m, encoder in sorted(encoders.items()))
    return f"{name}{dials}, {encoders}"


def drawn(name: str, settings: Mapping[str, object]) -> Callable[[int], MultimodalData]:
    """seed -> the data set with that seed."""
    return partial(_drawn, name, settings)


def _drawn(name: str, settings: Mapping[str, object], seed: int) -> MultimodalData:
    return load(name, seed=seed, **settings)


def _read() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))


def _best(rows: Sequence[str], chosen: Mapping[str, Mapping[str, Any]]) -> str:
    return max(rows, key=lambda row: chosen[row]["score"])


def _kind(m: str, encoders: EncoderNames) -> type[ScaledInputs] | type[EncoderRates]:
    own = encoders if isinstance(encoders, str) else encoders.get(m)
    return ScaledInputs if own == "mlp" else EncoderRates


def _constant(m: str, encoders: EncoderNames) -> str:
    return f"joint, {'input' if _kind(m, encoders) is ScaledInputs else 'rate'} of {m}"


def _factor(kind: Callable[..., Balancer], m: str, factor: float) -> Balancer:
    return kind(**{m: factor})
