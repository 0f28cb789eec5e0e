"""The figure that grows: who sees it, what it shows, and that it is one."""

from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from mmlab import Uniform, fit_seeds, load, plotting
from mmlab.teaching import Live, live
from mmlab.training import progress


@pytest.fixture
def shown(monkeypatch):
    """A reader's notebook: what is displayed, and what takes its place."""
    found = []

    def display(picture, *, raw, display_id):
        assert raw and display_id
        found.append(("new", picture))
        return SimpleNamespace(update=lambda picture, raw: found.append(("again", picture)))

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(progress, "in_read_notebook", lambda: True)
    monkeypatch.setitem(plotting.plt.rcParams, "savefig.dpi", 30)  # quick
    return found


def train(observer, seeds=(0,)):
    data = load("synthetic", seed=0)
    with progress.no_progress():
        return fit_seeds(data, Uniform, seeds=seeds, epochs=3, observers=[observer])


def test_one_figure_is_drawn_anew_in_its_place(shown):
    train(Live(pause=0))
    assert [kind for kind, _ in shown] == ["new", "again", "again", "again"]
    assert ["epoch 1" in shown[0][1]["text/plain"], "epoch 3" in shown[-1][1]["text/plain"]]
    assert shown[0][1]["image/png"] != shown[1][1]["image/png"]
    assert plotting.plt.get_fignums() == []


def test_it_draws_no_more_often_than_asked_and_once_in_the_end(shown, monkeypatch):
    now = iter([100, 101, 101, 101.6, 102.2, 102.2, 102.2])  # before the first epoch, too
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: next(now)))
    train(Live(pause=1.0))
    epochs = [picture["text/plain"].split()[-1] for _, picture in shown]
    assert epochs == ["1.", "3.", "3."]


def test_it_shows_each_loss_that_the_method_reads(shown, monkeypatch):
    curves = Mock(wraps=plotting.curves)
    monkeypatch.setattr(plotting, "curves", curves)
    train(Live(pause=0))
    rows = curves.call_args.args[0]
    assert set(rows.output) == {"joint", "a", "b"}
    assert sorted(set(rows.epoch)) == [1, 2, 3]


def test_several_networks_at_once_have_none(shown):
    assert train(Live(pause=0), seeds=(0, 1))[0].together == 2
    assert shown == []


def test_without_a_reader_there_is_none_and_the_training_is_the_same(shown, monkeypatch):
    (read,) = train(Live(pause=0))
    count = len(shown)
    monkeypatch.setattr(progress, "in_read_notebook", lambda: False)
    (alone,) = train(Live(pause=0))
    assert len(shown) == count
    assert read.history.equals(alone.history)


@pytest.mark.parametrize("pause", [-1, "often", float("nan")])
def test_a_pause_that_is_no_time_is_refused(pause):
    with pytest.raises((TypeError, ValueError), match="pause"):
        Live(pause=pause)
