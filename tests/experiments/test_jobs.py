"""A job is one method on seeds that may train as one program."""

import pytest

from mmlab.balancers import Joint
from mmlab.datasets.synthetic import synthetic
from mmlab.experiments.jobs import Job, Outcome, jobs_of, parts
from mmlab.training import stacked

DATA = synthetic(n=(40, 10, 20), dims=3)


@pytest.mark.parametrize(
    ("count", "workers", "sizes"),
    [(5, 1, [5]), (5, 2, [2, 3]), (3, 8, [1, 1, 1]), (64, 1, [32, 32]), (65, 2, [21, 22, 22])],
)
def test_every_worker_has_seeds_and_no_program_too_many(count, workers, sizes):
    found = parts(range(count), workers, None)
    assert [len(part) for part in found] == sizes
    assert [seed for part in found for seed in part] == [*range(count)]
    assert max(sizes) <= stacked.AT_ONCE


def test_seeds_that_never_train_together_are_jobs_of_their_own():
    assert [len(part) for part in parts(range(3), 1, False)] == [1, 1, 1]


def test_a_part_of_the_seeds_keeps_its_rates():
    jobs = jobs_of("a", Joint, DATA, (7, 5, 3), {"lr": [0.7, 0.5, 0.3], "epochs": 0}, None, 2)
    assert [(job.seeds, job.options["lr"]) for job in jobs] == [((7,), [0.7]), ((5, 3), [0.5, 0.3])]
    assert jobs[1].only([3]).options == {"lr": [0.3], "epochs": 0}


def test_a_job_leaves_a_row_per_seed_and_no_network():
    options = {"epochs": 1, "device": "cpu"}
    found = Job("a", Joint, DATA, (4, 2), options, lambda run: {"of": run.seed})()
    assert all(type(one) is Outcome for one in found)
    assert [one.row["of"] for one in found] == [4, 2]
    assert [one.together for one in found] == [2, 2]


def test_data_that_cannot_be_made_are_an_error_of_their_runs():
    found = Job("a", Joint, {}.__getitem__, (4, 2), {"epochs": 1})()
    assert [one.row for one in found] == [{"error": "KeyError: 4"}] * 2


def test_columns_have_texts_for_names():
    (found,) = Job("a", Joint, DATA, (4,), {"epochs": 0}, lambda run: {1: 2})()
    assert found.row["error"] == "TypeError: measure names a column 1; give names that are texts"
    assert "accuracy" in found.row
