"""What the README and the docs show runs as it stands, and what they link to exists."""

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.image import imsave

import mmlab
from mmlab import Step, originals
from mmlab.__main__ import AT_ONCE, COMMANDS
from mmlab.training import Run

ROOT = Path(__file__).parents[1]
TOP = ["README.md", "README.zh.md", "CONTRIBUTING.md", "CHANGELOG.md"]
PAGES = [*(ROOT / name for name in TOP), *sorted((ROOT / "docs").rglob("*.md"))]
README, CHINESE = (page.read_text(encoding="utf-8") for page in PAGES[:2])
GUIDE = [
    "README.md",
    *(f"docs/{name}.md" for name in ("library", "diagnose", "own-data", "first-method")),
]
"""The pages whose blocks stand alone."""
HOST = re.compile(r"\.\./\.\./(actions|deployments)\b")
"""What the host of the repository shows beside its files."""
# set in the constructor of a step
HELD = ["model", "batch", "optimizer", "epoch", "progress", "logged"]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)


def all_blocks() -> list[str]:
    """Each block of the guide, once: what two pages show is the same on both."""
    found = [block for page in GUIDE for block in blocks((ROOT / page).read_text("utf-8"))]
    return [*dict.fromkeys(found)]


def trained(block: str) -> tuple[Run, dict]:
    """The run that a block leaves, and all its names."""
    names: dict = {}
    exec(block, names)
    assert names["run"].epoch == names["run"].epochs
    assert names["run"].history.value.notna().all()
    return names["run"], names


def block_with(text: str) -> str:
    (found,) = [block for block in all_blocks() if text in block]
    return found


def defined(block: str) -> str:
    """A block, after the one with the class that it uses."""
    own = "class FollowTheLoss"
    return block_with(own) + block if "FollowTheLoss" in block and own not in block else block


def test_library_block_prints_paired_differences(capsys: pytest.CaptureFixture[str]) -> None:
    trained(block_with("run.history.tail()"))
    assert "minus joint" in capsys.readouterr().out


def test_many_seeds_block_gives_each_seed_a_run_of_its_own() -> None:
    _, names = trained(block_with("fit_seeds"))
    assert [run.seed for run in names["runs"]] == list(range(8))
    assert all(run.together == 8 for run in names["runs"])
    assert [run.balancer.alpha for run in names["grid"]] == names["alphas"]
    losses = {run.history.query("metric == 'loss'").value.iloc[-1] for run in names["grid"]}
    assert len(losses) == 5


def test_own_data_go_from_files_to_intervals(tmp_path, monkeypatch, capsys) -> None:
    block = block_with("posts/posts.csv")
    code = [line for line in block.splitlines() if line and "import" not in line]
    assert len(code) <= 25
    posts(tmp_path / "posts")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(block, names)
    table, said = names["table"], capsys.readouterr().out
    assert table.groupby("method").size().to_dict() == {"joint": 5, "OGM-GE": 5}
    assert table.accuracy.mean() > 0.7
    assert re.search(r"OGM-GE.*\[", said)


def posts(folder: Path) -> None:
    """Pictures that are light or dark, and texts that say so."""
    folder.mkdir()
    rows = []
    for i, split in enumerate(["train"] * 40 + ["holdout"] * 12 + ["test"] * 12):
        label, name = i % 2, f"{i}.png"
        imsave(folder / name, np.full((8, 8, 3), 0.2 + 0.6 * label))
        text = ["it is", "a very"][i % 3 > 1] + [" dark one", " light"][label]
        rows.append({"image": name, "text": text, "label": label, "split": split})
    pd.DataFrame(rows).to_csv(folder / "posts.csv")


def test_diagnose_block_prints_a_table_and_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    exec(block_with("diagnose(data"), {})
    said = capsys.readouterr().out
    assert "sensor alone" in said and "joint training minus" in said


def test_own_balancer_block_logs_its_shares() -> None:
    run, _ = trained(block_with("class FollowTheLoss"))
    shares = run.history.query("metric == 'share'").groupby("epoch").value.sum()
    assert shares.tolist() == pytest.approx([2, 2])


def test_own_rule_block_makes_both_gradients_equally_long() -> None:
    run, names = trained(block_with("equal_lengths"))
    assert set(run.history.query("metric == 'cosine'").output) == {"audio", "image"}
    gram = names["run"].model.fusion.linear.weight.new_tensor([[4.0, 1.0], [1.0, 9.0]])
    w = names["equal_lengths"](gram)
    assert (w[0] * 2).item() == pytest.approx((w[1] * 3).item())


def test_own_balancer_is_compared_with_the_baselines(capsys: pytest.CaptureFixture[str]) -> None:
    _, names = trained(defined(block_with('"mine"')))
    assert names["table"].groupby("method").size().to_dict() == dict.fromkeys(names["methods"], 3)
    assert names["table"].attrs["at once"]["mine"] == 3
    said = capsys.readouterr().out
    assert "mine" in said and "minus joint" in said


def test_own_balancer_takes_8_to_15_lines() -> None:
    body = block_with("class FollowTheLoss").split("class ")[1].split("\n\n\n")[0]
    assert 8 <= len(body.splitlines()) <= 15


def test_every_hook_has_an_example_of_ten_lines_or_so_that_runs(capsys) -> None:
    page = (ROOT / "docs" / "own-method.md").read_text(encoding="utf-8")
    names: dict = {}
    for block in blocks(page):
        exec(block, names)
    said = capsys.readouterr().out
    classes = re.findall(r"class (\w+)\(Balancer\):\n(.*?)(?=\n\n\n|```)", page, re.DOTALL)
    for name, body in classes:
        assert len(body.splitlines()) <= 16, name
        assert re.search(rf"^{name} \d", said, re.MULTILINE), name
    assert "[3, 3, 3]" in said


def test_a_step_has_what_the_table_says() -> None:
    named = {name for page in PAGES for name in re.findall(r"`s\.(\w+)", page.read_text("utf-8"))}
    assert len(named) > 20
    assert [name for name in sorted(named - {*HELD}) if not hasattr(Step, name)] == []
    step = inspect.signature(Step).parameters
    assert [name for name in HELD if name not in {*step, "logged"}] == []


def test_a_step_has_fewer_public_names_than_it_once_had_and_none_about_stacks() -> None:
    s = [name for name in dir(Step) if not name.startswith("_")]
    assert len({*s, *HELD}) < 28
    assert not [name for name in s if re.search("stack|replica|lead", name)]


def test_the_examples_of_the_readme_have_types(tmp_path: Path) -> None:
    """A type checker resolves the public names, though they load on first use."""
    for number, block in enumerate(all_blocks()):
        (tmp_path / f"block_{number}.py").write_text(defined(block), encoding="utf-8")
    (tmp_path / "wrong.py").write_text("import mmlab\n\nmmlab.OGM(alfa=1)\nmmlab.fitt\n")
    words = [sys.executable, "-m", "mypy", str(tmp_path)]
    said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    errors = [line for line in said.splitlines() if "error:" in line]
    assert all("wrong.py" in line for line in errors), said
    assert len(errors) == 2, said


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    known = {*AT_ONCE, *COMMANDS, "--help", "--version", "COMMAND"}
    for command in re.findall(r"python3? -m mmlab +([\w-]+)", page.read_text(encoding="utf-8")):
        assert command in known, command


def test_the_chinese_page_is_up_to_date() -> None:
    """Commands, code, pictures, notebooks, methods and data sets are those of the English one."""
    ours, theirs = (
        [*re.findall(r"```.*?```", page, re.DOTALL), *re.findall(r"\]\((notebooks/[^)]+)", page)]
        for page in (README, CHINESE)
    )
    assert [one for one in theirs if one not in ours] == []
    assert {one for one in ours if "notebooks/" in one} <= {*theirs}
    assert pictures(CHINESE) == pictures(README)
    for cell in (r"`\w+\(.*?\)`", r'`"[\w-]+"`'):  # the class of a method, the name of a data set
        assert re.findall(rf"\| ({cell}) \|", CHINESE) == re.findall(rf"\| ({cell}) \|", README)


def test_the_readme_and_the_list_ask_the_same_questions() -> None:
    """The list takes them from the map in notebook 00."""
    row = re.compile(r"^\| (\d\d) \| \[[^|]+\]\(notebooks/[^|]+\) \| (.+) \|$", re.MULTILINE)
    listed = originals.table().splitlines()[1:]
    asked = row.findall(README)
    assert [number for number, _ in asked] == [line[:2] for line in listed]
    for line, (_, question) in zip(listed, asked, strict=True):
        assert line.endswith(f" - {question}")


def pictures(page: str) -> list[str]:
    """The files of a page's pictures, each of which has an alt text."""
    found = re.findall(r"!\[([^]]*)\]\((figures/[^)]+)\)", page)
    assert all(alt for alt, _ in found)
    return [file for _, file in found]


def test_pictures_of_the_readme_are_small_and_all_are_shown() -> None:
    files = [*(ROOT / "figures/gallery").glob("*.png")]
    assert {str(file.relative_to(ROOT)) for file in files} == {*pictures(README)}
    assert len(files) == 7
    assert max(file.stat().st_size for file in files) <= 80_000


def test_who_cites_it_cites_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= {*cited}
    assert (cited["version"], cited["license"]) == (mmlab.__version__, "MIT")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(mmlab.__version__)}\b", changes, re.MULTILINE)


def test_commits_are_checked_with_the_same_ruff_as_the_tests() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert {*re.findall(r"ruff==[\d.]+", hooks)} <= {*pins}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_is_python(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8")):
        ast.parse(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    local = [link for link in links if not (link.startswith("http") or HOST.match(link))]
    assert [link for link in local if not (page.parent / link).exists()] == []


def sections(notebook: Path) -> set[str]:
    """The headings of a notebook, as links name them."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_into_notebooks_lead_to_a_section(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+\.ipynb)#([^)]+)", page.read_text(encoding="utf-8"))
    assert [to for to in links if to[1] not in sections(page.parent / to[0])] == []


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("docs/diagnose.md", "\n## Which drop do my data have?\n"),
        ("docs/diagnose.md", "\n## Which method should I use?\n"),
        ("docs/several-processes.md", "`--nproc-per-node 4`"),
        ("docs/audit/04-ogm-ge.md", r"k_m g_m + \xi_m"),
        ("docs/audit/05-mmpareto.md", "**The formula of the method**"),
    ],
)
def test_what_readers_come_for_stands_early(name: str, place: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert len(text.partition(place)[0].split()) < 350 and place in text


def test_the_references_say_how_to_cite_the_collection() -> None:
    title = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["title"]
    said = (ROOT / "docs/references.md").read_text(encoding="utf-8")
    assert f'"{title}"' in " ".join(said.split())
