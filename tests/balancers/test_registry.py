"""One line states a method: exports, looks, tables and tests follow; balancers know their room."""

import ast
import importlib
import itertools
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import by_hand
import pytest
import torch

import mmlab
from mmlab import balancers, fit
from mmlab.balancers import registry
from mmlab.balancers.registry import CONTROLS, METHODS, TOOLS, homes, markdown

ROOT = Path(mmlab.__file__).resolve().parent.parent
every_method = pytest.mark.parametrize("name", METHODS)

NEEDS = {"labels", "shared head", "SGD", "trials", "own order"}


@every_method
def test_a_method_is_what_its_line_says(name):
    method = METHODS[name]
    balancer = method.make()
    assert type(balancer).__module__ == method.home
    assert type(balancer).__name__ == method.kind
    assert isinstance(balancer, mmlab.Balancer)
    assert method.make() is not balancer
    for option, value in method.options.items():
        assert getattr(balancer, option) == value
    assert set(method.needs) <= NEEDS
    assert method.floor >= 1
    assert method.floor_linear is None or 1 <= method.floor_linear < method.floor
    assert method.sentence and not method.sentence.endswith(".") and "|" not in method.sentence


@pytest.mark.parametrize("kind", homes())
def test_every_class_is_exported_under_its_name(kind):
    own = getattr(importlib.import_module(homes()[kind]), kind)
    for package in (mmlab, balancers):
        assert getattr(package, kind) is own
        assert kind in package.__all__
        assert kind in dir(package)


def test_every_balancer_in_the_room_is_registered():
    found = set()
    for path in sorted(Path(balancers.__file__).parent.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(b) for b in node.bases} & {"Balancer", "Joint"}
                found |= {node.name} if bases and not node.name.startswith("_") else set()
    assert found | {"Joint"} == set(homes())
    assert not set(TOOLS) & {method.kind for method in METHODS.values()}


def test_type_checkers_are_told_of_every_class():
    tree = ast.parse(Path(registry.__file__).read_text(encoding="utf-8"))
    told = {
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }
    assert {method.kind for method in METHODS.values()} | {*CONTROLS} <= told


def test_reading_the_registry_loads_nothing_heavy():
    code = (
        "import sys; from mmlab.balancers.registry import METHODS, homes, markdown; markdown(); "
        "print({'torch', 'numpy', 'matplotlib'} & {*sys.modules})"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "set()"


def test_looks_come_from_the_registry_and_no_two_share_line_and_marker():
    from mmlab import plotting

    for name, method in METHODS.items():
        assert plotting.LOOKS[name] == plotting.Look(*method.look)
        assert plotting.looks([name])[name] == plotting.Look(*method.look)
    for a, b in itertools.combinations(plotting.LOOKS.values(), 2):
        assert a.linestyle != b.linestyle and a.marker != b.marker
    for a, b in itertools.combinations(METHODS.values(), 2):
        if a.paper == b.paper != "–":
            assert a.look[0] != b.look[0]


def test_the_benchmark_goes_by_the_registry(monkeypatch):
    from mmlab.bench import networks, tables

    tiny = networks.Network(networks.mlp(4, 4), {"a": (3,), "v": (2,)}, 4, 1, size=6)
    linear = networks.Network(networks.mlp(4, 4), {"a": (3,), "v": (2,)}, 4, 1, size=6, linear=True)
    monkeypatch.setattr(tables, "NETWORKS", {"tiny": tiny, "linear": linear})
    two = dict(tables.methods_over_joint(2, torch.device("cpu")))
    plain, factored = two.values()
    assert set(plain) == set(factored) == set(METHODS) - {"joint"}
    for name in plain:
        assert plain[name]["floor"] == METHODS[name].floor
        assert factored[name]["floor"] == (METHODS[name].floor_linear or METHODS[name].floor)


def test_the_readme_shows_the_table():
    header, *_ = markdown().splitlines()
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(rf"^{re.escape(header)}\n(?:\|.*\n)+", text, flags=re.M)
    table = "" if shown is None else shown.group().rstrip("\n")
    assert table == markdown(), f"README.md must hold this table:\n\n{markdown()}\n"


def test_the_table_has_a_row_for_every_method_with_the_call_that_makes_it():
    rows = markdown().splitlines()[2:]
    assert len(rows) == len(METHODS)
    for row, (name, method) in zip(rows, METHODS.items(), strict=True):
        _, shown, sentence, call, paper, _ = (cell.strip() for cell in row.split("|"))
        assert (shown, sentence, paper) == (name, method.sentence, method.paper)
        made = eval(call.strip("`"), {method.kind: getattr(mmlab, method.kind)})
        assert vars(made).keys() == vars(method.make()).keys()
        assert type(made) is type(method.make())


def rows(page, title):
    """The rows of the table under a title, by the name in the first column."""
    _, _, below = (ROOT / page).read_text(encoding="utf-8").partition(f"\n## {title}\n")
    lines = [line for line in below.split("\n## ")[0].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]
    return {name: rest for name, *rest in cells}


def test_the_map_has_a_row_for_every_method_with_its_paper():
    here, absent = (rows("docs/methods-map.md", title) for title in ("Here", "Not here"))
    assert [*here] == [*METHODS]
    assert absent and not {*here} & {*absent}
    for name, cells in here.items():
        assert cells[4] in (METHODS[name].paper, "the same"), name
    for table, width in ((here, 6), (absent, 4)):
        for name, cells in table.items():
            assert len(cells) == width and all(cells), name


# --- what a method needs --------------------------------------------------------------------------


def regression(size=24):
    splits = [by_hand.batch(size=size, seed=seed, regression=True) for seed in range(3)]
    return mmlab.MultimodalData(*splits, task="regression")


@every_method
def test_a_method_trains_on_regression_unless_it_needs_labels(name):
    balancer = METHODS[name].make()
    net = by_hand.network(outputs=1, **balancer.network)
    before = by_hand.parameters(net)
    options = {"epochs": 2, "batch_size": 8, "device": "cpu"}
    if "labels" in METHODS[name].needs:
        with pytest.raises(ValueError, match=r"class labels.*For regression use"):
            fit(net, regression(), balancer, **options)
        return
    run = fit(net, regression(), balancer, **options)
    after = by_hand.parameters(net)
    assert all(value.isfinite().all() for value in after.values())
    for m in "av":
        assert not torch.equal(after[f"encoders.{m}.weight"], before[f"encoders.{m}.weight"])
    assert run.predict(run.data.test).isfinite().all()


@every_method
def test_a_method_asks_for_a_shared_head_where_it_needs_one(name):
    shared = METHODS[name].make().network["heads"] == "shared"
    assert shared == ("shared head" in METHODS[name].needs)


@every_method
def test_trials_are_copies_that_are_trained(name, monkeypatch):
    branched = []
    original = mmlab.Run.branch

    def noted(run, *args, **options):
        branched.append(run)
        return original(run, *args, **options)

    monkeypatch.setattr(mmlab.Run, "branch", noted)
    balancer = METHODS[name].make()
    net = by_hand.network(**balancer.network)
    fit(net, by_hand.data(), balancer, epochs=1, batch_size=8, device="cpu")
    assert bool(branched) == ("trials" in METHODS[name].needs)


# --- a method more --------------------------------------------------------------------------------

TOY = '''
"""A toy: the joint loss, at half the rate in all encoders."""

from mmlab.training.balancer import Balancer


class Toy(Balancer):
    def __init__(self, k=0.5):
        self.k = k

    def step(self, s):
        s.backward(s.losses["joint"], scale=self.k)
        s.log(rate=self.k)
        yield
'''

USE = """
import json, sys
from mmlab.balancers import registry

registry.METHODS["toy"] = registry.Method(
    "toy_method", "Toy", "half the rate", "nobody, 2026", floor=1, look=("#123456", ":", "H"),
    options={"k": 0.25},
)

import mmlab, torch
from mmlab import balancers, plotting
from mmlab.bench import networks, tables

found = {"home": mmlab.Toy.__module__, "same": mmlab.Toy is balancers.Toy}
found["named"] = [
    "Toy" in names for names in (mmlab.__all__, dir(mmlab), balancers.__all__, dir(balancers))
]
found["look"] = plotting.looks(["toy"])["toy"], plotting.looks(["Toy"])["Toy"]
found["row"] = registry.markdown().splitlines()[-1]

tiny = networks.Network(networks.mlp(4, 4), {"a": (3,), "v": (2,)}, 4, 1, size=6)
tables.NETWORKS = {"tiny": tiny}
torch.set_num_threads(1)
(title, table), = tables.methods_over_joint(2, torch.device("cpu"))
found["timed"] = table["toy"]
found["scaled"] = "toy" in tables.SCALED

data = mmlab.load("av-digits", seed=0)
makers = {name: registry.METHODS[name].make for name in ("joint", "toy")}
rows = mmlab.compare(makers, data, seeds=[0, 1], epochs=1, device="cpu")
found["compared"] = rows.groupby("method").accuracy.mean().to_dict()
found["k"] = registry.METHODS["toy"].make().k
json.dump(found, sys.stdout)
"""


def test_one_file_and_one_line_are_all_that_a_method_takes(tmp_path):
    """Exported, drawn, listed, timed and trained, with nothing else touched."""
    (tmp_path / "toy_method.py").write_text(textwrap.dedent(TOY), encoding="utf-8")
    program = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n{USE}"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    assert found["home"] == "toy_method" and found["same"] and all(found["named"])
    assert found["look"] == [["#123456", ":", "H"]] * 2
    assert found["row"] == "| toy | half the rate | `Toy(k=0.25)` | nobody, 2026 |"
    assert found["timed"]["median"] > 0 and found["timed"]["floor"] == 1
    assert found["scaled"]
    assert set(found["compared"]) == {"joint", "toy"}
    assert found["compared"]["toy"] > 0.2
    assert found["k"] == 0.25


# --- the room -------------------------------------------------------------------------------------

ALLOWED = {
    "mmlab.checks",
    "mmlab.gradients",
    "mmlab.models.fusion",
    "mmlab.models.linear",
    "mmlab.models.network",
    "mmlab.training.balancer",
    "mmlab.training.step",
}
BELOW = re.compile(r"\b(?:replica|stack of|tape|hook|(?<!pre-)process(?:es)?\b)", re.IGNORECASE)
FILES = sorted(Path(balancers.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_method_knows_losses_and_gradients_and_nothing_below_them(path):
    text = path.read_text(encoding="utf-8")
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            imported.add(node.module)
    inside = {name for name in imported if name.split(".")[0] == "mmlab"}
    beyond = {name for name in inside if not name.startswith("mmlab.balancers")}
    if path.name == "registry.py":
        assert beyond <= ALLOWED | {"mmlab.files"}
    else:
        assert beyond <= ALLOWED
        assert BELOW.findall(text) == []


def test_what_a_method_may_not_know_would_be_seen():
    for text in ("in a stack of networks", "one per replica", "a Tape", "hooks", "two processes"):
        assert BELOW.search(text)
    for text in (
        "losses.stack(*s.modalities)",
        "IEEE Signal Processing Letters",
        "Neural Information Processing Systems",
        "preprocess the inputs",
        "pre-process",
    ):
        assert not BELOW.search(text)
