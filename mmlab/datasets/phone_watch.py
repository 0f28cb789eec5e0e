"""phone-watch: one walk felt by a phone in the pocket and a watch on the wrist. Real, downloaded.

The two are paired by nature: worn together by one person. data/README.md has the card.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from mmlab.datasets import dials, embedded
from mmlab.datasets.base import MultimodalData
from mmlab.datasets.phone_watch_tables import ACTIVITIES, DEVICES
from mmlab.datasets.phone_watch_windows import read_windows
from mmlab.seeds import generator

MODALITIES = tuple(DEVICES)
SPLITS = ("person", "pocket")
FRONT_PEOPLE = (5, 7, 12, 16, 18, 21)  # they never turned the phone's screen to the body
MOST_TRAINING, MOST_OTHERS = 450, 200  # windows per class
CARD = """\
Recordings: Matey-Sanz, Casteleyn and Granell, Data in Brief 2023, doi:10.5281/zenodo.8398688
(CC BY 4.0). 23 people stand up, walk, turn and sit down; 223 executions. Phone in the pocket and
watch on the wrist, worn together: paired by nature. Windows of 1 s at 50 Hz, one every .5 s.
split="pocket": the phone is turned back in training and front in the test, six people. The holdout
has the training pockets and cannot warn of it. The test people are the same at every seed: an
interval over seeds is over training draws, not over people. Windows of one execution overlap; no
person is in two splits. The settings were chosen after looking at these tests."""


def load_phone_watch(
    *,
    seed: int = 0,
    root: str | os.PathLike[str] | None = None,
    split: str = "person",
    front_people: int = 0,
    noise: Mapping[str, float] | None = None,
    keep: Mapping[str, float] | None = None,
    missing: float | Mapping[str, float] | None = None,
) -> MultimodalData:
    """Phone and watch (B, 6, 50): acceleration and rotation, x y z, 1 s at 50 Hz. Target: activity.

    The classes 0 to 4 are sitting, standing up, walking, turning, sitting down.

    seed:         who is in which split, which windows are drawn, and every random dial.
    root:         None fetches the published archive once (pooch, into its cache). Else a folder or
                  a .zip of it; or a .npz of windows as this loader keeps them, of any length T:
                  phone, watch (N, 6, T), activity, subject, pocket, each (N,).
    split:        "person": unseen people, mixed pockets; 60 / 15 / 25 % of the windows, before the
                  caps. "pocket": train and hold out people whose phone is turned back (80 / 20 %),
                  test the six whose phone is turned front.
    front_people: how many of these six, drawn by the seed, train instead; 0 to 5. A larger number
                  keeps those of a smaller one. Only for split="pocket".
    noise:        s.d. of Gaussian noise in all splits, in s.d. of each channel in training.
    keep:         share of the *training* samples that have the modality.
    missing:      rate of missing modalities in all splits, one number or one per modality.

    At most 450 windows per class train, 200 per class are in holdout and test. Noise comes first,
    then each channel is standardised with statistics of the training split, then keep and missing
    hide. Windows are kept in the cache, so that the second load is quick.
    Raises ConnectionError where nothing can be fetched, FileNotFoundError where `root` lacks the
    files, ValueError for a wrong file (it names the line) or setting, TypeError for a setting of
    another type.
    """
    dials.check_seed(seed)
    front_people = _check_split(split, front_people)
    settings = dials.check_dials(MODALITIES, noise, keep, missing)
    arrays = read_windows(root)
    return embedded.from_rows(
        {m: (arrays[m], (0, 2)) for m in MODALITIES},
        choose(arrays, seed, split, front_people),
        arrays["activity"],
        settings,
        seed,
        n_classes=len(ACTIVITIES),
        name="phone-watch",
        units=dict.fromkeys(
            MODALITIES, "s.d. of each channel (3 of acceleration, 3 of rotation; x, y, z)"
        ),
        card=CARD,
    )


def _check_split(split: object, front_people: object) -> int:
    dials.check_split(split, SPLITS)
    whole = isinstance(front_people, Integral) and not isinstance(front_people, bool)
    if not (whole and 0 <= front_people < len(FRONT_PEOPLE)):  # type: ignore[operator]
        raise ValueError(
            f"front_people is {front_people!r}; give a whole number from 0 to "
            f"{len(FRONT_PEOPLE) - 1}: one of the {len(FRONT_PEOPLE)} people is left to test"
        )
    if front_people and split != "pocket":
        raise ValueError(
            f"front_people={front_people!r} moves people from the test to the training of "
            "split='pocket'; say split='pocket', or leave it out"
        )
    return int(front_people)  # type: ignore[call-overload]


# --- splits ---------------------------------------------------------------------------------------


def choose(
    arrays: Mapping[str, np.ndarray], seed: int, split: str, front_people: int = 0
) -> dict[str, Tensor]:
    """Row numbers of train, holdout and test; no person is in two of them.

    Raises ValueError where a split stays empty, as with the files of a few people.
    """
    if split == "person":
        rows = embedded.whole_groups(arrays["subject"], (0.6, 0.15, 0.25), seed, "phone-watch")
    else:
        rows = _by_pocket(arrays["subject"], arrays["pocket"], seed, front_people)
    capped = {part: _cap(row, arrays["activity"], part, seed) for part, row in rows.items()}
    if empty := [part for part, row in capped.items() if not len(row)]:
        people = ", ".join(f"s{number:02d}" for number in np.unique(arrays["subject"]))
        raise ValueError(
            f"split={split!r} leaves no window for {empty[0]}; here are the people {people}: give "
            "the files of more of them"
        )
    return capped


def _by_pocket(
    subject: np.ndarray, pocket: np.ndarray, seed: int, front_people: int
) -> dict[str, Tensor]:
    """Back in training and holdout, front in the test; some of the latter may join the training."""
    source_of_order = generator(seed, "phone-watch", "front people")
    order = torch.randperm(len(FRONT_PEOPLE), generator=source_of_order)
    joining = np.array(FRONT_PEOPLE)[order[:front_people].numpy()]
    front, joins = np.isin(subject, FRONT_PEOPLE), np.isin(subject, joining)
    back = np.flatnonzero(~front & np.isin(pocket, ("back", "back_inv")))
    rows = embedded.whole_groups(subject[back], (0.8, 0.2, 0.0), seed, "phone-watch")
    return {
        "train": torch.from_numpy(np.union1d(back[rows["train"]], np.flatnonzero(joins))),
        "holdout": torch.from_numpy(back[rows["holdout"]]),
        "test": torch.from_numpy(np.flatnonzero(front & ~joins)),
    }


def _cap(rows: Tensor, activity: np.ndarray, part: str, seed: int) -> Tensor:
    """No more than so many windows per class, drawn by the seed; in their first order."""
    most = MOST_TRAINING if part == "train" else MOST_OTHERS
    stream = generator(seed, "phone-watch", "windows", part)
    rows = rows[torch.randperm(len(rows), generator=stream)]
    found = torch.from_numpy(activity.astype(np.int64))[rows]
    classes = [rows[found == number][:most] for number in range(len(ACTIVITIES))]
    return torch.cat(classes).sort().values
