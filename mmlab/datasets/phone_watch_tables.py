"""phone-watch as it is published: one table per execution and device, checked line by line."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from mmlab.datasets import archives
from mmlab.datasets.dials import among

if TYPE_CHECKING:
    import pandas as pd

DEVICES = {"phone": "sp", "watch": "sw"}
CHANNELS = ("x_acc", "y_acc", "z_acc", "x_gyro", "y_gyro", "z_gyro")
COLUMNS = (*CHANNELS, "timestamp", "label")
LISTED = ("execution_id", "orientation")  # what we read of executions_info.csv
ACTIVITIES = ("SEATED", "STANDING_UP", "WALKING", "TURNING", "SITTING_DOWN")
POCKETS = ("back", "back_inv", "front", "front_inv")
TABLE = re.compile(r"(s(\d\d)_\d\d)_(s[pw])\.csv")
INFO = "executions_info.csv"
FILES = re.compile(rf"{TABLE.pattern}|{re.escape(INFO)}")
LONGEST = 3_600_000  # ms in one table: far above the minute that a walk takes


@dataclass(frozen=True)
class Track:
    """What one device recorded: time (T,) in ms, values (T, 6) in m/s² and rad/s, labels (T,)."""

    time: np.ndarray
    values: np.ndarray
    label: np.ndarray


@dataclass(frozen=True)
class Execution:
    """One walk of one person, with both devices; how the phone was turned in its pocket."""

    person: int
    pocket: str
    phone: Track
    watch: Track


def read(source: Path) -> dict[str, Execution]:
    """All executions in a folder or zip archive, by name (such as s01_06), in order.

    Raises FileNotFoundError where the tables or executions_info.csv are missing, ValueError for a
    table without its partner or its line in executions_info.csv, a table twice, a missing column,
    or a value that cannot be right; the message names file and line.
    """
    tables = _tables(source)
    info = tables.pop(INFO, None)
    if info is None or not tables:
        lacks = INFO if info is None else "a table such as s01_01_sp.csv"
        raise FileNotFoundError(
            f"there is no {lacks} in {source}; give the folder or zip archive that holds "
            f"DATA/{INFO} and DATA/s01/s01_01_sp.csv"
        )
    pockets = _pockets(info)
    tracks = {file: _track(file, table) for file, table in tables.items()}
    names = sorted({file.rpartition("_")[0] for file in tracks})
    return {name: _execution(name, pockets, tracks) for name in _matched(names, pockets)}


def content_sha256(executions: Mapping[str, Execution]) -> str:
    """A hash over the numbers, which holds however the files are packed or written."""
    digest = hashlib.sha256()
    for name, execution in sorted(executions.items()):
        digest.update(f"{name} {execution.pocket}\n".encode())
        for track in (execution.phone, execution.watch):
            digest.update(f"{len(track.time)}\n".encode())
            digest.update(track.time.astype("<i8").tobytes())
            digest.update(track.values.astype("<f4").tobytes())
            digest.update(track.label.astype("u1").tobytes())
    return digest.hexdigest()


# --- tables ---------------------------------------------------------------------------------------


def _tables(source: Path) -> dict[str, pd.DataFrame]:
    tables: dict[str, pd.DataFrame] = {}
    for name, content in archives.files(source, FILES, deep=True):
        if name in tables:
            raise ValueError(f"{source} holds {name} twice; leave one of them out")
        tables[name] = _table(name, content, LISTED if name == INFO else COLUMNS)
    return tables


def _table(name: str, content: bytes, columns: tuple[str, ...]) -> pd.DataFrame:
    """Some columns of a table."""
    import pandas as pd  # heavy, and only the first reading needs it

    try:
        table = pd.read_csv(
            io.BytesIO(content),
            index_col=False,
            skip_blank_lines=False,  # so that rows count lines
            low_memory=False,
        )
    except (ValueError, UnicodeDecodeError) as error:  # pandas' own errors are ValueErrors
        raise ValueError(f"{name} is not a readable table: {error}") from error
    if missing := [column for column in columns if column not in table]:
        raise ValueError(
            f"{name}, line 1, has no column {missing[0]!r}; needed are {', '.join(columns)}"
        )
    return table[list(columns)]


def _refuse(name: str, row: int, why: str) -> NoReturn:
    """Row 0 is line 2: the names of the columns come first."""
    raise ValueError(f"{name}, line {row + 2}: {why}")


def _track(file: str, table: pd.DataFrame) -> Track:
    """A device's table in the order of time."""
    if not len(table):
        raise ValueError(f"{file} has no line of data; fetch it again")
    time, *values = (_numbers(file, table, column) for column in ("timestamp", *CHANNELS))
    order = np.argsort(time, kind="stable")
    if time[order[-1]] - time[order[0]] > LONGEST:
        why = f"timestamp lies more than {LONGEST // 1000} s after another; correct it"
        _refuse(file, int(order[-1]), why)
    channels = np.stack(values, 1).astype(np.float32)
    return Track(time.astype(np.int64)[order], channels[order], _labels(file, table)[order])


def _numbers(file: str, table: pd.DataFrame, column: str) -> np.ndarray:
    import pandas as pd

    numbers = pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64)
    bad = np.flatnonzero(~(np.abs(numbers) < 1e15))  # far above a time in ms; and no NaN
    if len(bad):
        found = str(table[column].iloc[bad[0]])
        why = f"{column} is {found!r}; give a finite number, or fetch the file again"
        _refuse(file, int(bad[0]), why)
    return numbers


def _labels(file: str, table: pd.DataFrame) -> np.ndarray:
    numbers = table["label"].map({name: i for i, name in enumerate(ACTIVITIES)}).to_numpy(float)
    bad = np.flatnonzero(np.isnan(numbers))
    if len(bad):
        label = table["label"].iloc[bad[0]]
        _refuse(file, int(bad[0]), f"unknown label {label!r}{among(label, ACTIVITIES)}")
    return numbers.astype(int)


def _pockets(info: pd.DataFrame) -> dict[str, str]:
    """How the phone was turned in each execution."""
    pockets: dict[str, str] = {}
    for row, (name, pocket) in enumerate(info.itertuples(index=False)):
        if pocket not in POCKETS:
            _refuse(INFO, row, f"unknown orientation {pocket!r}{among(pocket, POCKETS)}")
        if name in pockets:
            _refuse(INFO, row, f"{name} is there twice; leave one of them out")
        pockets[name] = pocket
    return pockets


def _matched(names: list[str], pockets: Mapping[str, str]) -> list[str]:
    """The executions, where tables and list name the same ones."""
    if unlisted := [name for name in names if name not in pockets]:
        raise ValueError(
            f"{INFO} does not name {unlisted[0]}, which has tables; add its line, or leave its "
            "tables out"
        )
    if absent := [name for name in pockets if name not in names]:
        row = list(pockets).index(absent[0])
        _refuse(INFO, row, f"{absent[0]} has no tables; add them, or leave the line out")
    return names


def _execution(name: str, pockets: Mapping[str, str], tracks: Mapping[str, Track]) -> Execution:
    pair = {device: f"{name}_{end}.csv" for device, end in DEVICES.items()}
    for device, file in pair.items():
        if file not in tracks:
            raise ValueError(
                f"{name} lacks {file}, the table of the {device}; add it, or leave {name} out"
            )
    return Execution(
        person=int(name[1:3]),
        pocket=pockets[name],
        **{device: tracks[file] for device, file in pair.items()},
    )
