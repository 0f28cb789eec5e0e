"""A history in TensorBoard: all of it, each value once, each training in a folder of its own."""

import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from trained import DATA, same, trained, weights

from mmlab.balancers import OGM, Joint
from mmlab.evaluation import Curves
from mmlab.experiments import compare
from mmlab.training import Checkpoint, TensorBoard, fit_seeds

WRITTEN: dict[str, list] = {}


class Writer:
    """In the place of torch's: keeps what is written, by folder."""

    def __init__(self, log_dir, purge_step=None):
        self.log_dir, self.closed = log_dir, False
        Path(log_dir).mkdir(parents=True, exist_ok=True)
        Path(log_dir, f"events.out.tfevents.{len(WRITTEN)}").touch()
        found = WRITTEN.setdefault(Path(log_dir).name, [])
        if purge_step is not None:  # what TensorBoard does with it
            found[:] = [one for one in found if one[2] < purge_step]

    def add_scalar(self, tag, value, step):
        assert not self.closed
        WRITTEN[Path(self.log_dir).name].append((tag, value, step))

    def flush(self):
        pass

    def close(self):
        self.closed = True


@pytest.fixture
def writer(monkeypatch):
    fake = SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    WRITTEN.clear()


def as_written(run):
    return [
        ("/".join(filter(None, (metric, split, output))), value, epoch)
        for epoch, split, output, metric, value in run.rows
    ]


def test_the_history_is_written(writer, tmp_path):
    run = trained(observers=[TensorBoard(tmp_path / "one"), Curves()])  # Curves speaks after it
    assert WRITTEN["one"] == as_written(run)
    tags = {tag for tag, *_ in WRITTEN["one"]}
    assert {"loss/train/joint", "accuracy/holdout/a"} <= tags
    assert same(weights(run.model), weights(trained().model))


def test_it_is_written_as_it_grows(writer, tmp_path):
    seen = []
    observers = [TensorBoard(tmp_path / "one"), lambda run: seen.append(len(WRITTEN["one"]))]
    trained(epochs=3, observers=observers)
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize("at_once", [True, False])
def test_each_seed_has_its_own_folder(writer, tmp_path, at_once):
    options = {"seeds": [3, 4], "epochs": 1, "device": "cpu", "at_once": at_once}
    board = TensorBoard(tmp_path / "{method}-{seed}")
    runs = fit_seeds(DATA, OGM, observers=[board], **options)
    assert {f"OGM-{run.seed}": as_written(run) for run in runs} == WRITTEN
    with pytest.raises(ValueError, match=r"TensorBoard\('.*'\) is one path for 2 trainings; put"):
        fit_seeds(DATA, OGM, observers=[TensorBoard(tmp_path)], **options)


def test_methods_of_one_class_have_folders_of_their_own(writer, tmp_path):
    methods = {"OGM": lambda: OGM(enhance=False), "OGM-GE": OGM}
    board = TensorBoard(tmp_path / "{method}-{seed}-{run}")
    compare(methods, DATA, seeds=[0], epochs=1, device="cpu", observers=[board])
    assert len(WRITTEN) == 2


def test_a_training_that_goes_on_has_its_whole_history_there(writer, tmp_path):
    def breaks(run):
        if run.epoch == 2:
            raise KeyboardInterrupt

    def observers(*first):
        return [*first, TensorBoard(tmp_path / "one"), Checkpoint(tmp_path / "f")]

    with pytest.raises(KeyboardInterrupt):
        trained(epochs=3, observers=observers(breaks))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = trained(epochs=3, observers=observers())
    assert WRITTEN["one"] == as_written(run) and len(run.rows) == 3
    again = trained(epochs=3, observers=observers())  # it is over: there is nothing to train
    assert WRITTEN["one"] == as_written(again) == as_written(run)


def test_a_folder_with_curves_of_another_training_is_told(writer, tmp_path):
    trained(observers=[TensorBoard(tmp_path / "one")])
    with pytest.warns(UserWarning, match=r"one has curves of an earlier training already"):
        trained(Joint(), observers=[TensorBoard(tmp_path / "one")])


def test_without_the_package_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"the package tensorboard .*-e '\.\[tensorboard\]'"):
        TensorBoard(tmp_path)


def test_a_bad_folder_is_refused(writer):
    with pytest.raises(ValueError, match=r"between braces \{name\} is unknown"):
        TensorBoard("{name}")


def test_torch_writes_what_tensorboard_reads(tmp_path):
    pytest.importorskip("tensorboard", reason="needs: pip install -e .[tensorboard]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = trained(epochs=3, observers=[TensorBoard(tmp_path)])
    found = EventAccumulator(str(tmp_path)).Reload()
    points = found.Scalars("loss/train/joint")
    assert [point.step for point in points] == [1, 2, 3]
    assert [point.value for point in points] == pytest.approx(run.history.value.tolist())
