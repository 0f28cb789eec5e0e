"""A worker process that one sweep leaves does for the next, where a new one would be the same."""

import importlib
import os
import signal
import sys
import time

import cloudpickle
import psutil
import pytest
import torch

from mmlab.experiments import local
from mmlab.experiments.worker import Sent
from mmlab.experiments.workers import Pool
from mmlab.identity import code_version

cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(autouse=True)
def nothing_left():
    """No process of an earlier test, and none for a later one; mmlab's files as they are now."""
    end_all()
    code_version.cache_clear()
    yield
    end_all()


def end_all():
    for spare in [*local._spares]:
        local._end_unwanted(spare)


def who():
    return os.getpid()


def done_by(*tasks, threads=1):
    """A process that has done some tasks, and what they gave."""
    process = local.Process(Sent(cloudpickle.dumps([*tasks]), code_version(), threads))
    _, results = process.submit([*range(len(tasks))]).result()
    return process, [cloudpickle.loads(result)[0] for result in results]


def pid_of_one_left(**options):
    process, (pid,) = done_by(who, **options)
    process.leave()
    return pid


def test_the_next_sweep_takes_the_processes_of_the_last():
    first, second = ({*dict(Pool(2).run([who] * 6)).values()} for _ in range(2))
    assert len(first) == 2 and second <= first


def test_a_process_in_use_is_nobody_elses():
    pid = pid_of_one_left()
    (one, (first,)), (other, (second,)) = done_by(who), done_by(who)
    assert first == pid != second
    one.close(), other.close()


def test_the_next_sweep_has_its_own_tasks_alone():
    pid_of_one_left()
    process, (pid, number) = done_by(who, lambda: 7)
    assert number == 7
    process.leave()
    assert pid_of_one_left() == pid


@pytest.mark.parametrize("change", ["environment", "folder", "path", "threads"])
def test_where_a_new_process_would_be_another_it_is_new(monkeypatch, tmp_path, change):
    first = pid_of_one_left()
    if change == "environment":
        monkeypatch.setenv("MMLAB_OF_A_TEST", "1")
    if change == "folder":
        monkeypatch.chdir(tmp_path)
    if change == "path":
        monkeypatch.syspath_prepend(tmp_path)
    assert pid_of_one_left(threads=2 if change == "threads" else 1) != first


def test_a_module_that_was_changed_is_imported_anew(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # such a file is not renewed within a second
    module, name = tmp_path / "own_method.py", "own_method"
    for number in (1, 2):
        module.write_text(f"number = {number}\n")
        importlib.invalidate_caches()
        process, (found,) = done_by(lambda: importlib.import_module(name).number)
        assert found == number
        process.leave()


def test_a_module_that_is_gone_is_no_longer_there(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "gone_method.py").write_text("number = 1\n")
    process, (found, pid) = done_by(lambda: importlib.import_module("gone_method").number, who)
    process.leave()
    (tmp_path / "gone_method.py").unlink()
    assert found == 1 and pid_of_one_left() != pid


def test_a_setting_of_torch_that_a_task_leaves_is_not_found_by_the_next_sweep():
    process, _ = done_by(lambda: torch.set_default_dtype(torch.float64))
    process.leave()
    process, (found,) = done_by(torch.get_default_dtype)
    assert found is torch.float32
    process.close()


def test_a_process_that_died_meanwhile_is_not_taken():
    pid = pid_of_one_left()
    os.kill(pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=30)
    assert pid_of_one_left() != pid


def test_a_process_that_nobody_wants_ends(monkeypatch):
    monkeypatch.setattr(local, "IDLE_SECONDS", 0.05)
    pid = pid_of_one_left()
    until = time.monotonic() + 60
    while psutil.pid_exists(pid) and time.monotonic() < until:
        time.sleep(0.02)
    assert not psutil.pid_exists(pid) and local._spares == []


def test_what_a_sweep_sent_is_forgotten():
    pid_of_one_left()
    (spare,) = local._spares
    assert spare.executor.submit(lambda: len(local._received)).result() == 0


def test_the_number_of_threads_is_that_of_the_sweep():
    process, (threads,) = done_by(torch.get_num_threads)
    assert threads == 1
    process.close()
