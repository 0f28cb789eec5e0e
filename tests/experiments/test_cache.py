"""A sweep that was stopped goes on where it was, and its table is the one of an unbroken one."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import killed_sweep
import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

from mmlab.balancers import OGM, Joint
from mmlab.datasets.synthetic import synthetic
from mmlab.experiments import cache as caches
from mmlab.experiments import compare
from mmlab.identity import UnknownIdentityError
from mmlab.training import Balancer

DATA = synthetic(n=(40, 10, 20), dims=3)
TRAINED = []


class Counted(Balancer):
    """Joint, noting each network that it trains."""

    def __init__(self, alpha=0.1):
        self.alpha = alpha

    def start(self, run):
        TRAINED.append(getattr(run, "seeds", None) or [run.seed])

    def step(self, s):
        s.backward(s.losses["joint"])
        yield


def measure(run):
    return {"tenth": 0.1 * run.seed}


def swept(folder, data=DATA, make=Counted, **options):
    """A table, and the seeds that were trained for it."""
    TRAINED.clear()
    given = {"seeds": range(2), "epochs": 1, "device": "cpu", "at_once": False} | options
    table = compare({"counted": make}, data, cache=folder, **given)
    return table, [*dict.fromkeys(seed for seeds in TRAINED for seed in seeds)]


@pytest.fixture
def known(tmp_path):
    """A folder with the two runs."""
    swept(tmp_path, measure=measure)
    return tmp_path


def test_what_is_known_is_not_trained_again(known):
    table, trained = swept(known, measure=measure)
    assert trained == []
    fresh, trained = swept(None, measure=measure)
    assert trained == [0, 1]
    pd.testing.assert_frame_equal(table, fresh)
    assert table.attrs == fresh.attrs
    assert len([*known.iterdir()]) == 2


OTHER = {
    "a setting of the method": {"make": lambda: Counted(alpha=0.2)},
    "epochs": {"epochs": 2},
    "rate": {"lr": 0.02},
    "a rate per seed": {"lr": [0.02, 0.03]},
    "build": {"build": {"width": 8}},
    "loss": {"loss": lambda z, y: functional.cross_entropy(z, y) * 2},
    "measure": {"measure": lambda run: {"tenth": 0.2 * run.seed}},
    "observers": {"observers": [lambda run: None]},
    "data": {"data": synthetic(n=(40, 10, 20), dims=3, seed=1)},
    "data per seed": {"data": lambda seed: synthetic(n=(40, 10, 20), dims=3, seed=seed + 5)},
    "seeds": {"seeds": (7, 8)},
    "code of the method": {"make": type("Counted", (Counted,), {"more": 1})},
    "own settings": {"settings": {"counted": {"batch_size": 8}}},
}


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER)
def test_another_run_is_trained(known, change):
    options = {"measure": measure, **change}
    table, trained = swept(known, **options)
    assert trained == [*options.get("seeds", range(2))]
    pd.testing.assert_frame_equal(table, swept(None, **options)[0])
    assert swept(known, **options)[1] == []


def test_another_version_of_the_code_trains_again(known, monkeypatch):
    monkeypatch.setattr(caches, "code_version", "another".lower)  # of Python: no patch of mmlab
    assert swept(known, measure=measure)[1] == [0, 1]


def test_another_device_precision_or_step_trains_again(known, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(caches, "find_device", {"auto": torch.device("meta")}.get)
        assert swept(known, measure=measure, device="auto")[1] == [0, 1]
    with monkeypatch.context() as patched:
        patched.setattr(torch, "get_default_dtype", lambda: torch.float64)
        assert swept(known, measure=measure)[1] == [0, 1]
    with monkeypatch.context() as patched:
        patched.setattr(Balancer, "step", lambda self, s: None)
        assert swept(known, measure=measure)[1] == [0, 1]
    assert swept(known, measure=measure)[1] == []


def test_what_auto_finds_is_the_device(known, monkeypatch):
    monkeypatch.setattr(caches, "find_device", {"auto": torch.device("cpu")}.get)
    assert swept(known, measure=measure, device="auto")[1] == []


def test_data_of_a_seed_may_come_from_a_callable_or_not(known):
    assert swept(known, data=lambda seed: DATA, measure=measure)[1] == []


def test_other_seeds_are_added(known):
    table, trained = swept(known, measure=measure, seeds=(2, 1, 3, 0))
    assert trained == [2, 3] and table.seed.tolist() == [2, 1, 3, 0]
    assert table.tenth.tolist() == [0.2, 0.1, 0.1 * 3, 0.0]


def test_each_rate_is_that_of_its_seed(tmp_path):
    swept(tmp_path, seeds=(0, 1), lr=[0.01, 0.02])
    assert swept(tmp_path, seeds=(1, 0), lr=[0.02, 0.01])[1] == []
    assert swept(tmp_path, seeds=(1, 0), lr=[0.01, 0.02])[1] == [1, 0]


def test_the_name_of_a_method_does_not_matter(known):
    TRAINED.clear()  # its content is something that Counted reads
    table = compare(
        {"renamed": Counted}, DATA, seeds=range(2), epochs=1, device="cpu", at_once=False,
        measure=measure, cache=known,
    )  # fmt: skip
    assert table.method.tolist() == ["renamed"] * 2 and len([*known.iterdir()]) == 2


# --- one program ----------------------------------------------------------------------------------


def test_a_program_is_known_whole_or_not_at_all(tmp_path):
    first, trained = swept(tmp_path, at_once=None, seeds=range(3))
    assert trained == [0, 1, 2] and first.attrs["at once"] == {"counted": 3}
    next(tmp_path.glob("*.json")).unlink()
    again, trained = swept(tmp_path, at_once=None, seeds=range(3))
    assert trained == [0, 1, 2] and again.attrs == first.attrs
    pd.testing.assert_frame_equal(again, first)
    more, trained = swept(tmp_path, at_once=None, seeds=range(5))
    assert trained == [3, 4]
    pd.testing.assert_frame_equal(more[:3], first)


@pytest.mark.parametrize("at_once", [None, True])
def test_a_run_that_diverged_is_a_result(tmp_path, at_once):
    def data(seed):
        found = synthetic(n=(40, 10, 20), dims=3, seed=seed)
        found.train.inputs["a"].mul_(1e30 if seed == 1 else 1)
        return found

    tables = []
    for expected in ([0, 1, 2], []):
        with pytest.warns(UserWarning, match=r"failed at 1 of 3 seeds \(1\): FloatingPointError"):
            table, trained = swept(tmp_path, data, at_once=at_once, seeds=range(3), epochs=2)
        assert trained == expected
        tables.append(table)
    pd.testing.assert_frame_equal(*tables)
    with pytest.warns(UserWarning), pytest.raises(FloatingPointError, match="loss is nan"):
        swept(tmp_path, data, at_once=at_once, seeds=[1], epochs=2)


@pytest.mark.parametrize(("at_once", "again"), [(False, [1]), (None, [0, 1])])
def test_a_run_that_failed_otherwise_is_tried_again(tmp_path, at_once, again):
    broken = tmp_path / "broken"
    broken.touch()

    def measure(run):
        if run.seed == 1 and Path(broken).exists():
            raise OSError("not now")
        return {}

    with pytest.warns(UserWarning, match=r"failed at 1 of 2 seeds \(1\): OSError: not now"):
        table, _ = swept(tmp_path / "cache", at_once=at_once, measure=measure)
    assert table.error.notna().tolist() == [False, True] and table.accuracy.notna().all()
    broken.unlink()
    table, trained = swept(tmp_path / "cache", at_once=at_once, measure=measure)
    assert trained == again and "error" not in table


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"accuracy": 0.', '"accuracy": 1.'),
        lambda text: "[]",
        lambda text: "",
    ],
)
def test_a_damaged_file_is_told_and_its_run_trained_again(known, spoil):
    whole, _ = swept(known, measure=measure)
    path = next(p for p in known.iterdir() if json.loads(p.read_text())["run"]["seed"] == 1)
    text = path.read_text()
    path.write_text(spoil(text))
    with pytest.warns(UserWarning, match=rf"{path.name} is damaged .*train again"):
        table, trained = swept(known, measure=measure)
    assert trained == [1] and path.read_text() == text
    pd.testing.assert_frame_equal(table, whole)


def test_numbers_are_kept_to_the_last_bit(tmp_path):
    values = {
        "sum": 0.1 + 0.2,
        "nan": math.nan,
        "infinite": -math.inf,
        "zero": -0.0,
        "single": np.float32(0.1),
        "whole": np.int64(2**60 + 1),
        "tensor": torch.tensor(1 / 3),
        "true": True,
        "none": None,
        "text": "“é”",
        "list": (1, [2.5, "a"]),
    }

    def measure(run):
        return values

    first, _ = swept(tmp_path, measure=measure)
    again, trained = swept(tmp_path, measure=measure)
    assert trained == []
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    pd.testing.assert_series_equal(first.dtypes, again.dtypes)
    assert math.copysign(1, again.zero[0]) == -1 and again.whole[0] == 2**60 + 1
    assert again.single[0] == float(np.float32(0.1)) and again["list"][0] == [1, [2.5, "a"]]


def test_what_no_file_can_hold_is_an_error_of_its_run(tmp_path):
    def measure(run):
        return {"figure": object()} if run.seed else {}

    with pytest.warns(UserWarning, match="TypeError: measure .*cache"):
        table, _ = swept(tmp_path, measure=measure)
    assert table.accuracy.notna().all() and len([*tmp_path.iterdir()]) == 1


def test_bad_folders_are_refused_before_anything_trains(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NotADirectoryError, match="lies in a file; give a folder"):
            swept(path)
    for value in (True, 3, ""):
        with pytest.raises(TypeError, match=f"cache is {value!r}; give the path of a folder"):
            swept(value)
    assert TRAINED == []


def test_a_run_that_cannot_be_told_apart_is_refused_before_anything_trains(tmp_path):
    lock = threading.Lock()

    class Waiting(Counted):
        def __init__(self):
            self.lock = lock

    def loss(z, y):
        with lock:
            return functional.cross_entropy(z, y)

    with pytest.raises(UnknownIdentityError, match=r"^method 'counted': .* lock is or holds a l"):
        swept(tmp_path, make=Waiting)
    with pytest.raises(UnknownIdentityError, match=r"^loss of method 'counted': lock is or holds"):
        swept(tmp_path, loss=loss)
    assert TRAINED == []
    assert swept(None, make=Waiting, loss=loss)[1] == [0, 1]


def test_a_killed_sweep_goes_on_and_equals_an_unbroken_one(tmp_path):
    here = Path(killed_sweep.__file__)
    died = subprocess.run(
        [sys.executable, here.name, tmp_path / "cache"],
        cwd=here.parent,
        env={**os.environ, "KILL_AT": "deadly", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert len(kept) == 3
    resumed, unbroken = killed_sweep.swept(tmp_path / "cache"), killed_sweep.swept()
    pd.testing.assert_frame_equal(resumed, unbroken, check_exact=True)
    assert resumed.attrs == unbroken.attrs and len([*(tmp_path / "cache").iterdir()]) == 9
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())


def test_nothing_is_shown_where_nobody_looks(tmp_path, capfd):
    swept(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_setting_is_seen_in_the_made_method_not_in_its_maker(tmp_path):
    """Two makers of one text."""
    compare({f"{a}": lambda a=a: OGM(alpha=a) for a in (0.1, 0.3)}, DATA, seeds=[0], epochs=1,
            device="cpu", cache=tmp_path)  # fmt: skip
    assert len([*tmp_path.iterdir()]) == 2
    compare({"again": lambda: OGM(alpha=0.3), "joint": Joint}, DATA, seeds=[0], epochs=1,
            device="cpu", cache=tmp_path)  # fmt: skip
    assert len([*tmp_path.iterdir()]) == 3
