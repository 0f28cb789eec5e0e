"""Equal digests, equal results: what changes a result changes the digest, and nothing else does."""

import functools
import importlib
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn

from mmlab import identity
from mmlab.balancers import MLA, OGM, Joint
from mmlab.datasets.synthetic import synthetic
from mmlab.evaluation import Curves
from mmlab.identity import UnknownIdentityError, code_version, digest, patches


def of(value):
    return digest(value, "it")


def made(source, **names):
    """What a source text calls f, with these global names."""
    space = {"__name__": "__main__", **names}
    exec(source, space)
    return space["f"]


def nameless(source):
    """What a source text calls f that runs without the name of a module."""
    space = {}
    exec(source, space)
    return space["f"]


META = "class f(type):\n def __call__(c): return {}"
DEFS = ("def f()", "class f:\n def m(s)")


def closing(value):
    return lambda: value


class Kept:
    """A state that pickle sees."""

    def __init__(self, **state):
        self.__dict__ |= state


A = synthetic(n=(40, 10, 20), dims=3, seed=0)

ALIKE = {
    "numbers": lambda: 0.1,
    "a method": lambda: OGM(alpha=0.3),
    "data": lambda: synthetic(n=(40, 10, 20), dims=3, seed=0),
    "a module": lambda: nn.Linear(3, 2).requires_grad_(False) and nn.ReLU(),
    "a set": lambda: {"b", "a", "c"},
    "a closure": lambda: closing(3),
    "an observer": Curves,
    "device": lambda: torch.device("cpu"),
    "a recursion": lambda: (lambda x: (x.append(x), x)[1])([]),
}


@pytest.mark.parametrize("make", ALIKE.values(), ids=ALIKE)
def test_what_is_made_alike_is_alike(make):
    assert of(make()) == of(make())


def test_place_and_comments_of_a_function_do_not_matter():
    assert of(made("f = lambda x: x + 1")) == of(
        made("\n\n# more\nf = lambda x: x + 1  # and more")
    )


UNLIKE = {
    "kinds": (1, 1.0, True, "1", None, [1], (1,)),
    "parameters": (OGM(), OGM(alpha=0.3), OGM(on="update"), Joint(), MLA()),
    "values": (torch.zeros(2), torch.ones(2), torch.zeros(2, 1), torch.zeros(2).double()),
    "arrays": (np.zeros(2), np.ones(2), np.zeros(2, "float32")),
    "data": (A, synthetic(n=(40, 10, 20), dims=3, seed=1)),
    "orders": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "closures": (closing(1), closing(2)),
    "defaults": (lambda x=1: x, lambda x=2: x),
    "code on one line": (lambda x: x + 1, lambda x: x + 2, lambda x: x - 1),
    "globals": tuple(made("def f(): return k", k=k) for k in (1, 2)),
    "helpers": tuple(made("def f(): return g()", g=lambda k=k: k) for k in (1, 2)),
    "inner helpers": tuple(made("def f(): return [g() for _ in ()]", g=g) for g in (min, max)),
    "partials": (functools.partial(min, 1), functools.partial(min, 2)),
    "methods": (Kept(a=1).__init__, Kept(a=2).__init__),
    "states": (Kept(a=1), Kept(a=2), Kept(b=1)),
    "classes": tuple(made(f"class f:\n def m(self): return {k}") for k in (1, 2)),
    "attributes": tuple(made(f"class f:\n k = {k}") for k in (1, 2)),
    "bases": tuple(made("class f(g): pass", g=made(f"class f: k = {k}")) for k in (1, 2)),
    "properties": tuple(made(f"class f:\n k = property(lambda s: {k})") for k in (1, 2)),
    "functions of torch": (nn.functional.mse_loss, nn.functional.l1_loss, torch.add, torch.sub),
    "modules": (nn.Dropout(0.1), nn.Dropout(0.2), nn.ReLU()),
    "ends": ([[1], 2], [[1, 2]], [1, [2]]),
    "kept answers": tuple(made(f"f = cache(lambda: {k})", cache=functools.cache) for k in (1, 2)),
    "metaclasses": tuple(
        made("class f(metaclass=g): pass", g=made(META.format(k))) for k in (1, 2)
    ),
    "code without a module": tuple(nameless(f"{f}: return {k}") for f in DEFS for k in (1, 2)),
}


@pytest.mark.parametrize("values", UNLIKE.values(), ids=UNLIKE)
def test_what_changes_a_result_changes_the_digest(values):
    assert len({of(value) for value in values}) == len(values)


def test_a_module_of_ones_own_counts_by_its_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for number in (1, 2):
        (tmp_path / "helper_below.py").write_text(f"K = {number}\n")
        (tmp_path / "helper_above.py").write_text("import helper_below\n")
        for name in ("helper_above", "helper_below"):
            sys.modules.pop(name, None)
        above = importlib.import_module("helper_above")
        found.append(of(made("def f(): return above.helper_below.K", above=above)))
    assert found[0] != found[1]


def test_a_function_that_is_put_into_a_module_of_ones_own_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "helper_changed.py").write_text("def g(): return 0\n")
    module = importlib.import_module("helper_changed")
    found = [of(made("def f(): return helper.g()", helper=module))]
    for number in (1, 2):
        module.g = made(f"def f(): return {number}")
        found.append(of(made("def f(): return helper.g()", helper=module)))
    assert len({*found}) == 3


def test_what_is_put_into_mmlab_is_found(monkeypatch):
    assert patches() == {}
    step, build = made("def f(): return 1"), made("class f: pass")
    monkeypatch.setattr(Joint, "step", step)
    monkeypatch.setattr("mmlab.training.devices.find_device", build)
    assert patches() == {
        "mmlab.training.balancer Joint.step": step,
        "mmlab.training.devices mmlab.training.devices.find_device": build,
    }


def test_what_comes_from_a_package_that_was_unloaded_is_no_patch(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "tqdm"]:
        monkeypatch.delitem(sys.modules, name)
    identity._is_installed.cache_clear()
    assert patches() == {}


def test_the_version_of_the_code_is_that_of_what_is_loaded(tmp_path):
    shutil.copytree(identity.PACKAGE, tmp_path / "mmlab", ignore=lambda *_: ["__pycache__"])
    code = (
        "import mmlab.identity as i; path = i.PACKAGE / 'seeds.py'\n"
        "path.write_text(path.read_text() + '# changed'); print(i.code_version())"
    )
    said = [
        subprocess.run(
            [sys.executable, "-B", "-c", text], cwd=tmp_path, capture_output=True, text=True
        ).stdout
        for text in ("import mmlab.identity as i; print(i.code_version())", code, code)
    ]
    assert said[0] == said[1] != said[2] and all(said)


class Named:
    """What pickle would write by a name alone."""

    def __reduce__(self):
        return "Named"


@pytest.mark.parametrize(
    "make",
    [
        Named,
        lambda: open(os.devnull),  # noqa: SIM115
        threading.Lock,
        lambda: (x for x in ()),
        lambda: torch.eye(2).to_sparse(),
    ],
)
def test_what_may_be_another_the_next_time_is_refused(make):
    value = make()
    with pytest.raises(UnknownIdentityError, match=r"^loss: k is or holds a .*leave these out"):
        digest((lambda k: lambda: k)(value), "loss")
    getattr(value, "close", lambda: None)()


def test_another_process_finds_the_same():
    code = (
        "from mmlab.balancers import OGM; from mmlab.identity import digest\n"
        "def f(x): return x in {'a', 'b', 'c'} or OGM\n"
        "print(digest((OGM(alpha=0.3), {'b', 'a'}, f), 'it'))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    f = made(code.splitlines()[1], OGM=OGM)
    assert said.strip() == of((OGM(alpha=0.3), {"b", "a"}, f))


def test_the_version_of_the_code_is_that_of_what_runs_stand_on(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "PACKAGE", tmp_path)
    found = []
    for name in ("loop.py", "loop.py", "plotting.py", "teaching/play.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{len(found)}")
        code_version.cache_clear()
        found.append(code_version())
    code_version.cache_clear()
    assert found[0] != found[1] == found[2] == found[3]


def test_what_is_not_above_is_what_a_comparison_loads():
    """All of it, and nothing else: whoever adds a room says on which side it is."""
    code = "import sys, mmlab.experiments, mmlab.evaluation; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[1] for name in said.stdout.split() if name.startswith("mmlab.")}
    rooms = [path for path in identity.PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()]
    below = {path.stem for path in rooms if path.name not in identity.ABOVE}
    assert below - {"__init__", "__pycache__"} == loaded


def test_rooms_above_are_the_callers_own_code():
    assert identity._is_installed("mmlab.training.loop") and identity._is_installed("torch.nn")
    assert not identity._is_installed("mmlab.teaching.play")
    assert not identity._is_installed("mmlab.plotting") and not identity._is_installed("__main__")
