"""What grows with modalities, parameters and batch is drawn."""

from mmlab.bench import figure
from mmlab.bench import tables as timed


def test_scaling_is_drawn(tables, monkeypatch, tmp_path):
    monkeypatch.setenv("MMLAB_FIGURES", str(tmp_path))
    for module in (timed, figure):
        monkeypatch.setattr(module, "SCALED", ("OGM", "MMPareto"))
    monkeypatch.setattr(figure, "MODALITIES", timed.MODALITIES)
    result = tables("scaling")
    assert [title.rpartition(" ")[2] for title in result] == ["modalities", "parameters", "batch"]
    assert all(len(table) == 2 * len(timed.SCALED) for table in result.values())
    figure.draw_scaling(result)
    assert (tmp_path / "cost.png").stat().st_size > 10_000
