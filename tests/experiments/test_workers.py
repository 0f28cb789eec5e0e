"""Tasks in worker processes: all results, each under its number, whoever is killed meanwhile."""

import os
import signal
import sys
import warnings
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path

import cloudpickle
import joblib
import pandas as pd
import psutil
import pytest
import torch
from torch import nn

from mmlab.balancers import Joint, Uniform
from mmlab.datasets.synthetic import synthetic
from mmlab.evaluation import Curves
from mmlab.experiments import compare
from mmlab.experiments.workers import Pool, WorkerDiedError, _run, pool_of
from mmlab.identity import code_version

cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(autouse=True)
def files_as_they_are_now():
    """Who changes mmlab while the tests run gets no other version in the workers."""
    code_version.cache_clear()


# --- who gets what, without a process -------------------------------------------------------------


class Lane:
    """Does at once what a worker would do later; dies where it is told to."""

    deaths, tries = (BrokenExecutor,), 3

    def __init__(self, deadly=(), seconds=1e-5):
        self.deadly, self.seconds, self.given, self.renewed = {*deadly}, seconds, [], 0

    def submit(self, places):
        self.given.append(places)
        future = Future()
        if self.deadly & {*places}:
            future.set_exception(BrokenExecutor("killed"))
        else:
            future.set_result((self.seconds * len(places), [f"{place}" for place in places]))
        return future

    def renew(self):
        self.renewed += 1


def test_ten_thousand_short_tasks_go_in_batches():
    lanes = [Lane(), Lane()]
    found = [*_run(10_000, lanes)]
    assert dict(found) == {i: f"{i}" for i in range(10_000)} and len(found) == 10_000
    batches = [len(places) for lane in lanes for places in lane.given]
    assert len(batches) < 200 and max(batches) <= 5_000
    assert all(len(lane.given) > 2 for lane in lanes)


def test_long_tasks_go_one_by_one():
    lanes = [Lane(seconds=0.15), Lane(seconds=0.15)]
    assert len([*_run(9, lanes)]) == 9
    assert all(len(places) == 1 for lane in lanes for places in lane.given)


def test_workers_are_busy_while_results_are_taken():
    lanes = [Lane(seconds=1), Lane(seconds=1)]
    results = _run(9, lanes)
    next(results)
    assert [len(lane.given) for lane in lanes] == [2, 2]


def test_a_task_that_costs_three_workers_is_given_up_and_the_others_are_not():
    lane = Lane(deadly={70})
    found = dict(_run(100, [lane]))
    assert {*found} == {*range(100)}
    error = found.pop(70)
    assert isinstance(error, WorkerDiedError) and "every worker that tried this died" in str(error)
    assert found == {i: f"{i}" for i in range(100) if i != 70}
    alone = [places for places in lane.given if places == [70]]
    assert 2 <= len(alone) <= 3 and lane.renewed == 3


def test_what_was_lost_with_a_worker_goes_alone():
    class Once(Lane):
        def submit(self, places):
            future = super().submit(places)
            self.deadly -= {*places}
            return future

    lane = Once(deadly={70})
    assert dict(_run(100, [lane])) == {i: f"{i}" for i in range(100)}
    lost = next(places for places in lane.given if 70 in places)
    assert len(lost) > 1 and lane.renewed == 1
    assert [places for places in lane.given if {*places} & {*lost}][1:] == [[i] for i in lost]


def test_what_parallel_may_be():
    assert pool_of(None).here and pool_of(1).here and not pool_of(2).here
    assert pool_of(3) == Pool(3) and pool_of("config").here
    with joblib.parallel_config("loky", n_jobs=3):
        assert pool_of("config") == Pool(3) and pool_of(2) == Pool(2)
    for value in (0, -1, "dask", ""):
        with pytest.raises(ValueError, match=f"parallel is {value!r}; give None"):
            pool_of(value)
    for value in (True, 2.0, [2]):
        with pytest.raises(TypeError, match="give None"):
            pool_of(value)
    with (
        joblib.parallel_config("threading", n_jobs=2),
        pytest.raises(ValueError, match="says ThreadingBackend; a training needs a process of its"),
    ):
        pool_of("config")


def test_in_this_process_tasks_run_one_after_the_other():
    assert [*Pool().run([lambda: 3, lambda: 4])] == [(0, 3), (1, 4)]


# --- processes ------------------------------------------------------------------------------------


def noting(folder, number, deadly=False):
    """A task that leaves a file each time it is begun, and kills its first worker."""

    def task():
        begun = len(list(Path(folder).glob(f"{number}-*")))
        Path(folder, f"{number}-{begun}").touch()
        if deadly and not begun:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 1:
            warnings.warn("look here", DeprecationWarning, stacklevel=1)
        return number, os.getpid(), torch.get_num_threads()

    return task


def test_a_killed_worker_costs_what_it_was_at(tmp_path):
    tasks = [noting(tmp_path, i, deadly=i == 2) for i in range(5)]
    with pytest.warns(DeprecationWarning, match="^in a worker: look here$") as said:
        found = dict(Pool(2).run(tasks))
    assert {place: result[0] for place, result in found.items()} == {i: i for i in range(5)}
    assert len(said) == 1
    begun = [len(list(tmp_path.glob(f"{i}-*"))) for i in range(5)]
    assert begun == [1, 1, 2, 1, 1]
    pids, threads = ({result[k] for result in found.values()} for k in (1, 2))
    assert os.getpid() not in pids and max(threads) <= max(1, joblib.cpu_count() // 2)


def test_the_keyboard_leaves_no_worker():
    def stop():
        raise KeyboardInterrupt

    before = {*psutil.Process().children()}
    with pytest.raises(KeyboardInterrupt):
        list(Pool(2).run([stop, stop]))
    left = {*psutil.Process().children()} - before
    assert not [p for p in left if "LokyProcess" in " ".join(p.cmdline())]


# --- a comparison ---------------------------------------------------------------------------------


class Failing(Joint):
    """Fails at its first step."""

    def step(self, s):
        raise ValueError("not for these data")
        yield


class Unsendable(Exception):
    """Cannot be pickled back."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


def data(seed):
    found = synthetic(n=(80, 20, 40), dims=5, seed=seed)
    if seed == 1:
        found.train.inputs["a"].mul_(1e30)
    return found


def measure(run):
    if run.seed == 2 and type(run.balancer) is Uniform:
        raise Unsendable("no", "number")
    return {"rows": len(run.history), "curves": len(run.observers), "of": torch.tensor(run.seed)}


def compared(**options):
    """Failures of all kinds, makers that are lambdas, observers and a measure."""
    methods = {"joint": lambda: Joint(), "fails": Failing, "uniform": Uniform}
    return compare(
        methods, data, seeds=range(4), epochs=2, batch_size=20, device="cpu", at_once=False,
        measure=measure, observers=[Curves], loss=nn.CrossEntropyLoss(), **options,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:method .* failed at")
def test_workers_leave_the_table_that_one_process_leaves(tmp_path, capfd):
    here, there = compared(), compared(parallel=2, cache=tmp_path)
    pd.testing.assert_frame_equal(here, there, check_exact=True)
    assert here.attrs == there.attrs
    assert here.error.notna().sum() == 4 + 2 + 1
    pd.testing.assert_frame_equal(here, compared(cache=tmp_path), check_exact=True)
    assert len([*tmp_path.iterdir()]) == 7 - 2 + 2  # results, and two that diverged
    assert "runs" not in capfd.readouterr().err


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as made,
        distributed.Client(made),
        joblib.parallel_config("dask"),
    ):
        yield made


def test_a_killed_worker_of_a_cluster_costs_what_it_was_at(cluster, tmp_path):
    flag, options = tmp_path / "killed", {"seeds": range(2), "epochs": 1, "device": "cpu"}
    one = synthetic(n=(80, 20, 40), dims=5)

    class Deadly(Joint):
        def start(self, run):
            if run.seed == 1 and not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)

    methods = {"joint": Joint, "deadly": Deadly, "uniform": Uniform}
    there = compare(methods, one, **options, at_once=False, parallel="config")
    assert flag.exists()
    here = compare(methods, one, **options, at_once=False)
    pd.testing.assert_frame_equal(here, there, check_exact=True)
    assert here.attrs == there.attrs
