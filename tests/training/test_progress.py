"""How far a training is: who is shown what, and where nothing is."""

import io
import sys
from contextlib import redirect_stderr
from types import SimpleNamespace

import pytest
from trained import DATA, same, trained, weights

from mmlab.balancers import ATF, Joint
from mmlab.experiments import compare
from mmlab.training import Checkpoint, Progress, fit_seeds, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def a_reader(monkeypatch):
    """For whom no training is too short, and who reads what pytest's are shown."""
    monkeypatch.setattr(progress, "_silent", lambda: False)
    monkeypatch.setattr(progress, "SECONDS", 0.0)


def shown(train, *arguments, where=Terminal, **options):
    """What a training writes to stderr."""
    with redirect_stderr(where()) as said:
        train(*arguments, **options)
    return said.getvalue()


def test_a_terminal_shows_one_line_that_moves():
    said = shown(trained, ATF(), seed=3, epochs=5)
    assert "ATF, seed 3: 100%" in said and "5/5" in said and ", loss 0." in said
    assert said.count("\n") == 1


def test_a_short_training_shows_nothing_that_was_not_asked_for(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 3.0)
    assert "Joint" not in shown(trained)
    assert "Joint, seed 0: 100%" in shown(trained, observers=[Progress()])


def test_a_line_that_was_asked_for_is_the_only_one():
    assert shown(trained, observers=[Progress()]).count("\n") == 1
    options = {"seeds": [1], "epochs": 1, "device": "cpu"}
    assert shown(fit_seeds, DATA, Joint, observers=[Progress], **options).count("\n") == 1


def test_a_log_gets_a_line_per_epoch():
    assert shown(trained, where=io.StringIO) == ""  # nobody watches
    runs = []
    observers = [Progress(), runs.append]
    lines = shown(trained, epochs=3, observers=observers, where=io.StringIO).splitlines()
    assert [line[:29] for line in lines] == [f"Joint, seed 0: epoch {i} of 3, " for i in (1, 2, 3)]
    history = runs[0].history.query("epoch == 3 and output == 'joint' and metric == 'loss'")
    assert lines[-1].endswith(f" s, loss {history.value.item():.3g}")


def test_a_training_that_goes_on_begins_where_it_was(tmp_path):
    def breaks(run):
        if run.epoch == 3:
            raise KeyboardInterrupt

    line, saving, begins = Progress(), Checkpoint(tmp_path / "f"), []
    with pytest.raises(KeyboardInterrupt):
        trained(epochs=4, observers=[breaks, saving])
    looks = [line, lambda run: begins.append(line._bar.initial), saving]
    said = shown(trained, epochs=4, observers=looks)
    assert begins == [2, 2]
    assert "4/4" in said and "1/4" not in said


def test_seeds_have_a_line_each_and_a_stack_has_one():
    options = {"seeds": range(3), "epochs": 2, "device": "cpu"}
    said = shown(fit_seeds, DATA, Joint, at_once=True, **options)
    assert "Joint, 3 seeds at once: 100%" in said and "2/2" in said and said.count("\n") == 1
    assert shown(fit_seeds, DATA, Joint, at_once=False, **options).count("\n") == 3


def test_a_comparison_shows_no_line_per_run():
    assert shown(compare, {"joint": Joint}, DATA, seeds=[0], epochs=1) == ""


@pytest.mark.parametrize("where", [Terminal, io.StringIO])
@pytest.mark.parametrize("name", ["MMLAB_STRICT", "PYTEST_CURRENT_TEST"])
def test_nothing_is_shown_without_a_reader(monkeypatch, where, name):
    monkeypatch.undo()
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.setenv(name, "1")
    assert shown(trained, observers=[Progress()], where=where) == ""


def test_it_changes_nothing():
    runs = []
    shown(trained, ATF(), observers=[Progress(), runs.append])
    plain = trained(ATF(), observers=[lambda run: None])
    assert same(weights(runs[0].model), weights(plain.model))
    assert runs[0].history.equals(plain.history)


def test_an_early_end_closes_the_line():
    said = shown(trained, epochs=5, observers=[lambda run: run.epoch == 2 and run.stop()])
    assert "2/5" in said and said.endswith("\n")


def test_a_delay_is_a_number_of_seconds():
    with pytest.raises(ValueError, match=r"delay is -1; allowed is a number ≥ 0"):
        Progress(delay=-1)


@pytest.mark.parametrize("shell", ["ZMQInteractiveShell", "TerminalInteractiveShell"])
def test_a_notebook_is_told_from_a_terminal(monkeypatch, shell):
    module = SimpleNamespace(get_ipython=type(shell, (), {}))
    monkeypatch.setitem(sys.modules, "IPython", module)
    assert progress.in_read_notebook() == (shell == "ZMQInteractiveShell")
    monkeypatch.setattr(progress, "_silent", lambda: True)
    assert not progress.in_read_notebook()
