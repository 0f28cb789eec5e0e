"""CMU-MOSI and CMU-MOSEI in the three forms in which people have them: words, voice and face.

MMSA's pickles (`aligned_50.pkl`), those of MulT and MultiBench (`mosi_data.pkl`), and the .csd
files of the CMU Multimodal SDK. docs/papers-data.md has the layouts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmlab.checks import check_choice, check_flag
from mmlab.datasets.disk.arrays import steps
from mmlab.datasets.disk.csd import read_segments
from mmlab.datasets.disk.files import DamagedError
from mmlab.datasets.disk.found import NAMED, Found, Sample
from mmlab.datasets.disk.lists import find
from mmlab.datasets.disk.pickles import read_pickle

PARTS = {"train": "train", "valid": "holdout", "test": "test"}
MODALITIES = ("text", "audio", "vision")
CLASSES = ("negative", "neutral", "positive")
TASKS = ("regression", "classification")
UNITS = dict.fromkeys(MODALITIES, "features of the file, as they are")
SEPARATOR = "$_$"


class Form(NamedTuple):
    """Samples of one part: values (N, T, d) and masks (N, T) or None, numbers, names, videos."""

    values: Mapping[str, np.ndarray]
    masks: Mapping[str, np.ndarray | None]
    labels: np.ndarray
    names: list[str]
    videos: list[str]


def find_sentiment(
    root: Path, corpus: str, stem: str, card: str, *, aligned: bool, task: str
) -> Found:
    """What is there of a corpus: the first of MMSA's, MulT's and the SDK's files.

    root: the folder that is searched.
    corpus: "MOSI" or "MOSEI".
    stem: how the names of MulT's files begin.
    card: the text of the data card.
    aligned: of MMSA's and MulT's files, whether to read those in which the modalities are aligned
        word by word.
    task: one of TASKS.
    """
    check_flag("aligned", aligned)
    check_choice("task", task, TASKS)
    file = _file(root, corpus, stem, aligned)
    notes = [f"read: {file}"]
    forms = {"": _of_csd(file, corpus, notes)} if file.suffix == ".csd" else _of_pickle(file, notes)
    values = {m: np.concatenate([form.values[m] for form in forms.values()]) for m in MODALITIES}
    masks = {m: _joined([form.masks[m] for form in forms.values()]) for m in MODALITIES}
    return Found(
        list(_samples(forms, task)),
        CLASSES if task == "classification" else (),
        {m: steps(_finite(m, values[m], notes), masks[m]) for m in MODALITIES},
        UNITS,
        card,
        "videos",
        notes=notes,
        arrays=True,
    )


def _file(root: Path, corpus: str, stem: str, aligned: bool) -> Path:
    mmsa = f"{'' if aligned else 'un'}aligned_50.pkl"
    mult = [f"{stem}_data{'' if aligned else '_noalign'}.pkl", f"{corpus.lower()}_raw.pkl"]
    sdk = [f"CMU_{corpus}_{name}.csd" for name in ("Labels", "Opinion_Labels")]
    places = [f"{corpus}/Processed/{mmsa}", f"Processed/{mmsa}", mmsa]
    return find(root, *places, *mult, *sdk)


def _samples(forms: Mapping[str, Form], task: str) -> Iterator[Sample]:
    row = 0
    for part, form in forms.items():
        for number, name, video in zip(form.labels, form.names, form.videos, strict=True):
            label = int(np.sign(number)) + 1 if task == "classification" else float(number)
            yield Sample(name, label, part, video, dict.fromkeys(MODALITIES, row))
            row += 1


def _joined(masks: list[np.ndarray | None]) -> np.ndarray | None:
    there = [mask for mask in masks if mask is not None]
    return np.concatenate(there) if there else None


def _finite(m: str, values: np.ndarray, notes: list[str]) -> np.ndarray:
    """Values in float32; what is infinite or no number becomes 0, and is counted."""
    values = values.astype(np.float32)
    bad = ~np.isfinite(values)
    if bad.any():
        notes.append(f"{m}: {int(bad.sum())} numbers were infinite or none, and are 0 now")
        values[bad] = 0
    return values


# --- pickles --------------------------------------------------------------------------------------


def _of_pickle(file: Path, notes: list[str]) -> dict[str, Form]:
    content = read_pickle(file)
    _check(file, content, PARTS)
    return {part: _of_part(file, content[name], name, notes) for name, part in PARTS.items()}


def _of_part(file: Path, content: Any, name: str, notes: list[str]) -> Form:
    mmsa = isinstance(content, dict) and "regression_labels" in content
    labels = "regression_labels" if mmsa else "labels"
    _check(file, content, (*MODALITIES, labels, "id"), f" of {name}")
    values = {m: content[m] for m in MODALITIES}
    numbers = np.asarray(content[labels], np.float32).reshape(len(content["id"]), -1)[:, 0]
    for m, array in values.items():
        if not isinstance(array, np.ndarray) or array.ndim != 3 or len(array) != len(numbers):
            raise DamagedError(
                f"{file}: {m} of {name} is no array ({len(numbers)}, steps, features); it may be "
                "another file of that name: compare its checksum with that of its source"
            )
    names = [_name(one) for one in content["id"]]
    form = Form(values, _masks(content, values), numbers, names, [_video(one) for one in names])
    return form if mmsa else _with_text(form, name, notes)


def _check(file: Path, content: Any, wanted: Any, where: str = "") -> None:
    lacking = [key for key in wanted if not isinstance(content, dict) or key not in content]
    if lacking:
        held = list(content) if isinstance(content, dict) else type(content).__name__
        raise DamagedError(
            f"{file} has no {lacking[0]!r}{where}; it holds {held}. It may be another file of that "
            "name: compare its checksum with that of its source"
        )


def _name(one: Any) -> str:
    """ "video$_$clip", or an array of (video, …), perhaps as bytes."""
    parts = [one] if isinstance(one, str | bytes) else np.ravel(one).tolist()
    return SEPARATOR.join(x.decode() if isinstance(x, bytes) else str(x) for x in parts)


def _video(name: str) -> str:
    """The video of "video$_$clip" or of the SDK's "video[clip]"."""
    return name.split(SEPARATOR)[0].split("[")[0]


def _masks(content: Mapping[str, Any], values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """BERT's mask of the text, and the lengths that unaligned voices and faces have."""
    masks: dict[str, Any] = dict.fromkeys(MODALITIES)
    if "text_bert" in content:
        masks["text"] = np.asarray(content["text_bert"])[:, 1] > 0
    for m in ("audio", "vision"):
        if f"{m}_lengths" in content:
            lengths = np.asarray(content[f"{m}_lengths"]).reshape(-1, 1)
            masks[m] = np.arange(values[m].shape[1]) < lengths
    return masks


def _with_text(form: Form, name: str, notes: list[str]) -> Form:
    """The samples that have words, as MultiBench's loader keeps them; the others are counted."""
    rows = np.flatnonzero((form.values["text"] != 0).any((1, 2)))
    if len(rows) < len(form.names):
        notes.append(f"{name}: {len(form.names) - len(rows)} samples without words are left out")
    return Form(
        {m: array[rows] for m, array in form.values.items()},
        form.masks,  # none: zeros stand before the first step
        form.labels[rows],
        [form.names[i] for i in rows],
        [form.videos[i] for i in rows],
    )


# --- the SDK's files ------------------------------------------------------------------------------


def _of_csd(file: Path, corpus: str, notes: list[str]) -> Form:
    names = {
        "text": ["TimestampedWordVectors"],
        "audio": ["COVAREP"],
        "vision": ["VisualFacet42", "Visual_Facet_42", "Visual_Facet_41", "VisualOpenFace2"],
    }
    files = {
        m: find(file.parent, *(f"CMU_{corpus}_{name}.csd" for name in ends))
        for m, ends in names.items()
    }
    segments = read_segments(file, files["text"], {m: files[m] for m in ("audio", "vision")})
    if segments.left_out:
        notes.append(
            f"{len(segments.left_out)} labelled segments lack words, or their video in a "
            f"file, and are left out: {', '.join(segments.left_out[:NAMED])}"
        )
    return Form(
        {m: segments.values[m] for m in MODALITIES},
        dict.fromkeys(MODALITIES, segments.mask),
        segments.labels,
        segments.names,
        [_video(name) for name in segments.names],
    )
