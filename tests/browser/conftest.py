"""JupyterLab and a browser, both without anything of their user's, and both killed in the end."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from mmlab.notebooks.catalogue import ROOT
from mmlab.notebooks.worker import kill_family

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

START = 120
"""Seconds that JupyterLab may take to start; a few are the rule."""

# what would put a dialog or a notice between the reader and the notebook, or take cells out of
# the page that are scrolled out of sight
SETTINGS = {
    "apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "notebook-extension/tracker": {"autoStartDefaultKernel": True, "windowingMode": "none"},
}
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1300,1000",
]


class Lab(NamedTuple):
    """A running JupyterLab: the folder it serves, where it answers, and its token."""

    folder: Path
    url: str
    token: str


@pytest.fixture(scope="session")
def programs() -> list[str]:
    """Where Chromium and its driver are; where they are not, the test is skipped."""
    found = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(found):
        pytest.skip("no chromium and chromedriver on the path (Debian: chromium-driver)")
    return found


@pytest.fixture
def lab(programs: list[str], tmp_path: Path) -> Iterator[Lab]:
    """JupyterLab on this machine's own address, with its defaults."""
    folder, token = tmp_path / "work", secrets.token_hex(16)
    folder.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "MMLAB_STRICT"}  # a person is there
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment |= {"JUPYTER_TOKEN": token, "PYTHONPATH": path, "JUPYTER_PREFER_ENV_PATH": "1"}
    for kind in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR"):
        environment[f"JUPYTER_{kind}"] = str(tmp_path / kind.lower())
    for kind in ("SETTINGS_DIR", "WORKSPACES_DIR"):
        environment[f"JUPYTERLAB_{kind}"] = str(tmp_path / kind.lower())
    environment["IPYTHONDIR"] = str(tmp_path / "ipython")
    for name, values in SETTINGS.items():
        file = tmp_path / f"settings_dir/@jupyterlab/{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values))
    options = ["--no-browser", "--allow-root", "--expose-app-in-browser"]
    options += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={folder}"]
    with (tmp_path / "lab.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield Lab(folder, _address(server, tmp_path), token)
        finally:
            kill_family(server.pid)
            server.wait()


def _address(server: subprocess.Popen, tmp_path: Path) -> str:
    """Where the server answers, as it notes itself once it listens."""
    note, end = tmp_path / f"runtime_dir/jpserver-{server.pid}.json", time.monotonic() + START
    while server.poll() is None and time.monotonic() < end:
        with suppress(FileNotFoundError, json.JSONDecodeError):  # not yet, or not yet whole
            return json.loads(note.read_text())["url"]
        time.sleep(0.1)
    raise AssertionError(f"JupyterLab does not start: {(tmp_path / 'lab.log').read_text()[-2000:]}")


@pytest.fixture(scope="session")
def chromium(programs: list[str]) -> Callable[[Path], AbstractContextManager["Chrome"]]:
    """Starts a headless Chromium with a new profile in a folder, driven by Selenium."""
    from selenium import webdriver

    @contextmanager
    def start(profile: Path) -> Iterator["Chrome"]:
        options = webdriver.ChromeOptions()
        options.binary_location = programs[0]
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL"})  # what it asks for
        service = webdriver.ChromeService(executable_path=programs[1])
        try:
            driver = webdriver.Chrome(options=options, service=service)
            yield driver
            driver.quit()
        finally:
            if service.process and service.process.poll() is None:
                kill_family(service.process.pid)

    return start


@pytest.fixture
def browser(
    lab: Lab, chromium: Callable[[Path], AbstractContextManager["Chrome"]], tmp_path: Path
) -> Iterator["Chrome"]:
    """A browser for JupyterLab, which ends before the server."""
    with chromium(tmp_path / "profile") as driver:
        yield driver
        (ROOT / "build/browser").mkdir(parents=True, exist_ok=True)
        driver.save_screenshot(str(ROOT / "build/browser/jupyterlab.png"))  # also of a failure
