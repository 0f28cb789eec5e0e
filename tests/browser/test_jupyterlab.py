"""A notebook in the hands of a reader: JupyterLab in a real browser, a slider under the arrow keys.

The notebook is a copy of number 05, in the folder that `python3 -m mmlab lab` makes for it.
"""

import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest

from mmlab import originals
from mmlab.__main__ import WORK
from mmlab.notebooks.catalogue import ROOT
from mmlab.teaching.play import HINT

pytest.importorskip("selenium")

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

DEADLINE = 180
"""Seconds that the notebook may take; every other wait is far shorter."""

# the page calls a kernel idle before it is connected to it, and what is run by then is lost
READY = """
    const kernel = window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel;
    return kernel?.connectionStatus === "connected" && kernel.status === "idle";
"""
BOX = ".jp-NotebookPanel .widget-vbox:has(.noUi-handle)"
RUN_ALL = '[data-command="runmenu:run-all"]'
PROMPTS = "return [...document.querySelectorAll('.jp-CodeCell .jp-InputArea-prompt')].map({})"
TEXT = "e => e.textContent.trim()"
ERRORS = """
    const failed = '.jp-NotebookPanel [data-mime-type="application/vnd.jupyter.error"]';
    return [...document.querySelectorAll(failed)].map(e => e.textContent);
"""
SAVED = "return !window.jupyterapp.shell.currentWidget.context.model.dirty;"
RESTART = "return window.jupyterapp.shell.currentWidget.sessionContext.restartKernel();"
# in one go: between two questions a redraw may have put another picture in the place of this one
PICTURE = """
    const images = arguments[0].querySelectorAll("img");
    if (images.length > 1) throw new Error(`${images.length} pictures under the sliders`);
    const [image] = images;
    return image?.complete && image.naturalWidth ? image.src : null;
"""


def place_notebook(checkout: Path) -> str:
    """A checkout with copies to work in; gives the name of one whose profile is smoke."""
    for name in ("notebooks", ".gitignore"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, checkout / name)
    git(checkout, "init", "-q")
    git(checkout, "add", ".")
    git(checkout, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "as it comes")
    copies = {path.name[:2]: path for path in originals.copy(checkout / WORK).new}
    notebook = nbformat.read(copies["05"], as_version=4)
    (cell,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    cell.source, found = re.subn(
        r"^profile = .*$", 'profile = "smoke"', cell.source, flags=re.MULTILINE
    )
    assert found == 1
    nbformat.write(notebook, copies["05"])
    return f"{WORK}/{copies['05'].name}"


def git(checkout: Path, *words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=checkout, capture_output=True, text=True, check=True
    ).stdout


def wait(browser: WebDriver, condition, seconds: float = 60):
    return WebDriverWait(browser, seconds, poll_frequency=0.2).until(condition)


def one(browser: WebDriver, selector: str) -> WebElement | None:
    """The first element of this kind that can be seen."""
    found = browser.find_elements(By.CSS_SELECTOR, selector)
    return next((element for element in found if element.is_displayed()), None)


def run_all(browser: WebDriver) -> None:
    """Run > Run All Cells, by mouse, and wait until each cell has its number or one has failed."""
    (menu,) = (
        item
        for item in browser.find_elements(By.CSS_SELECTOR, ".lm-MenuBar-item")
        if item.text == "Run"
    )
    menu.click()
    wait(browser, lambda b: one(b, RUN_ALL)).click()

    def ended(browser: WebDriver) -> bool:
        prompts = browser.execute_script(PROMPTS.format(TEXT))
        numbered = all(re.fullmatch(r"\[\d+\]:", prompt) for prompt in prompts)
        return bool((prompts and numbered) or browser.execute_script(ERRORS))

    wait(browser, ended, DEADLINE)
    wait(browser, lambda b: b.execute_script(READY))


def picture(box: WebElement) -> str | None:
    """The source of the one picture under the sliders, once it has been loaded."""
    return box.parent.execute_script(PICTURE, box)


def save(browser: WebDriver) -> None:
    """Ctrl+S, and wait until the file is written."""
    ActionChains(browser).key_down(Keys.CONTROL).send_keys("s").key_up(Keys.CONTROL).perform()
    wait(browser, lambda b: b.execute_script(SAVED))


def test_a_slider_under_the_keyboard_redraws_the_picture(lab, browser) -> None:
    """And after all of it the checkout is as it was."""
    name = place_notebook(lab.folder)
    browser.get(f"{lab.url}lab/tree/{name}?token={lab.token}")
    wait(browser, lambda b: b.execute_script(READY))
    run_all(browser)
    assert browser.execute_script(ERRORS) == []

    box = wait(browser, lambda b: one(b, BOX))
    before = wait(browser, lambda _: picture(box))
    handle = box.find_element(By.CSS_SELECTOR, ".noUi-handle")
    value = float(handle.get_attribute("aria-valuenow"))
    at_end = value == float(handle.get_attribute("aria-valuemax"))
    handle.send_keys(Keys.ARROW_LEFT if at_end else Keys.ARROW_RIGHT)
    after = wait(browser, lambda _: (now := picture(box)) != before and now)
    assert after.startswith("data:image/png;base64,")
    assert float(handle.get_attribute("aria-valuenow")) != value
    number = box.find_element(By.CSS_SELECTOR, "input[type=number]")
    assert (number.accessible_name, number.aria_role) == ("angle, degrees", "spinbutton")
    assert float(number.get_attribute("value")) == float(handle.get_attribute("aria-valuenow"))
    browser.execute_script("arguments[0].scrollIntoView()", box)  # for the screenshot

    assert browser.execute_script(ERRORS) == []
    assert one(browser, ".jp-Dialog") is None

    save(browser)
    saved = nbformat.read(lab.folder / name, as_version=4)
    assert any(cell.get("outputs") for cell in saved.cells)
    assert git(lab.folder, "status", "--porcelain") == ""

    browser.execute_script(RESTART)
    wait(browser, lambda b: b.execute_script(READY))
    assert HINT in browser.execute_script("return document.body.innerText")
