"""What the README shows runs as it stands, and what it links to exists."""

import re
from pathlib import Path

import pytest

from mmlab import Step
from mmlab.training import Run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_library_block_prints_paired_differences(capsys: pytest.CaptureFixture[str]) -> None:
    assert_trains(BLOCKS[0])
    assert "minus joint" in capsys.readouterr().out


def test_many_seeds_block_gives_each_seed_its_own_history() -> None:
    run, names = trained(BLOCKS[1])
    assert list(run.history.seed.unique()) == list(range(8))
    assert run.replicas[3].history.value.notna().all()
    assert len({one.balancer.alpha.item() for one in names["grid"].replicas}) == 8


def test_own_balancer_block_logs_its_shares() -> None:
    run = assert_trains(BLOCKS[2])
    shares = run.history.query("metric == 'share'").groupby("epoch").value.sum()
    assert shares.tolist() == pytest.approx([2, 2])


def assert_trains(block: str) -> Run:
    return trained(block)[0]


def trained(block: str) -> tuple[Run, dict]:
    """The run that a block leaves, and all its names."""
    names: dict = {}
    exec(block, names)
    assert names["run"].epoch == names["run"].epochs
    assert names["run"].history.value.notna().all()
    return names["run"], names


def test_own_balancer_takes_8_to_15_lines() -> None:
    body = BLOCKS[2].split("class ")[1].split("\n\n\n")[0]
    assert 8 <= len(body.splitlines()) <= 15


def test_a_step_has_what_the_table_says() -> None:
    named = re.findall(r"`s\.(\w+)", README)
    assert len(named) > 10
    assert [name for name in named if not hasattr(Step, name)] == []


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", README)
    local = [link for link in links if not link.startswith("http")]
    assert local
    missing = [link for link in local if not (ROOT / link).exists()]
    assert missing == []
