"""The pages as a reader meets them: in a browser, from files, light and dark, narrow, on paper."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from nbformat import v4
from paging import add_result

from mmlab.notebooks.catalogue import NOTEBOOKS
from mmlab.notebooks.site import build

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

ROOMS = ("evaluation",)
"""Of the reference, one page."""

PAGES = (
    "index",
    "00-a",
    "docs/own-method",
    "docs/references",
    "reference/mmlab.evaluation",
    "search",
)

PAPER = 718
"""Width of A4 less margins of 1 cm, in CSS pixels."""

TEXT = r"""## What is trained · 训练

Inline $\alpha_m$ of `fit`, one that is wider than a phone,
$\sum_{k l m n o p q r s} w_k w_l w_m w_n w_o w_p w_q w_r w_s\, w_k w_l w_m w_n w_o w_p w_q$,
and a long formula:

$$\nabla_\theta L = \sum_{m=1}^{M} \left( p_m - y_m \right) h_m^\top W_m
+ \sum_{m=1}^{M} \left( p_m - y_m \right) h_m^\top W_m + \sum_{m=1}^{M} h_m^\top W_m
+ \lambda \lVert \theta \rVert^2$$

| symbol | meaning | shape | | | | | |
|---|---|---|---|---|---|---|---|
| $h_m = \varphi_m(x_m)$ | features of a modality, a sentence | $D$ per sample | a | b | c | d | e |

<details><summary>Solution</summary>

`x = 1` and more

```python
y = 2
```
</details>

1. A list
   - in a list, with a [link](https://example.org)
"""
WIDE = "<table><thead><tr>" + "".join(f"<th>a column {i}</th>" for i in range(14)) + "</tr></thead>"
WIDE += "<tbody><tr>" + "<td>3.14159265</td>" * 14 + "</tr></tbody></table>"
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)
CODE = f"""def long(a):  # a comment
    return {" + ".join(f"value_{i}" for i in range(40))} if a else None, 'text', 0x1F
"""
TRACEBACK = ["\x1b[0;31mValueError\x1b[0m: no"]


def cells() -> list:
    """Every kind of thing that a page holds."""
    figure = {"image/png": {"alt": "a line that rises"}}
    outputs = [
        v4.new_output("stream", name="stdout", text=f"{'a long line ' * 30}\n"),
        v4.new_output("stream", name="stderr", text="a warning\n"),
        v4.new_output("display_data", {"text/html": WIDE}),
        v4.new_output("display_data", {"image/png": PIXEL}, metadata=figure),
        v4.new_output("execute_result", {"text/plain": "Output(1)"}, execution_count=1),
        v4.new_output("error", ename="ValueError", evalue="no", traceback=TRACEBACK),
    ]
    hidden = {"jupyter": {"source_hidden": True}}
    return [
        v4.new_markdown_cell(TEXT),
        v4.new_code_cell(CODE, outputs=outputs, execution_count=1),
        v4.new_code_cell("z = 3", metadata=hidden, execution_count=2),
        v4.new_markdown_cell("### Further down · 后面\n\n> A word."),
    ]


@pytest.fixture(scope="module")
def site(programs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with all kinds of pages."""
    out = tmp_path_factory.mktemp("out") / "build"
    add_result(out, "00-a", cells=cells())
    add_result(out, "01-b", ok=False, cause="ValueError: 1 < 2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmlab.notebooks.pages.reference.ROOMS", ROOMS)
        return build(out, NOTEBOOKS, library=True).parent


@pytest.fixture(scope="module")
def browser(
    chromium: Callable[[Path], AbstractContextManager["Chrome"]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator["Chrome"]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(autouse=True)
def as_it_was(browser: "Chrome") -> Iterator[None]:
    """Each test begins with a wide screen, in light colours."""
    yield
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


SET = "(window.MathJax?.startup?.promise ?? Promise.resolve()).then(arguments[0])"


def show(
    browser: "Chrome", page: Path, *, width: int = 1280, dark: bool = False, media: str = ""
) -> set[str]:
    """Open a page, and wait until its formulas are set; gives the addresses that it asks for.

    Colours that still change from those of the light theme to the dark ones have changed then.
    """
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    colours = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": colours})
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get(page.as_uri())
    browser.execute_async_script(SET)
    browser.execute_script("document.getAnimations().forEach(each => each.finish())")
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return {
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_nobody_is_kept_out(browser: "Chrome", site: Path, name: str, dark: bool) -> None:
    """axe finds no fault; contrast is among what it looks at."""
    from axe_core_python.selenium import Axe

    show(browser, site / f"{name}.html", dark=dark)
    assert browser.execute_script("return document.documentElement.dataset.theme") == (
        "dark" if dark else "light"
    )
    found = Axe().run(browser)["violations"]
    assert [(fault["id"], [node["html"] for node in fault["nodes"]]) for fault in found] == []


@pytest.mark.parametrize("width", [390, 320])
@pytest.mark.parametrize("name", (*PAGES, "docs/papers-data"))
def test_a_phone_shows_all_of_its_width(
    browser: "Chrome", site: Path, name: str, width: int
) -> None:
    """320 is what a wide screen has left where a reader makes all four times as large."""
    show(browser, site / f"{name}.html", width=width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_a_phone_scrolls_a_formula_that_is_too_wide(browser: "Chrome", site: Path) -> None:
    show(browser, site / "00-a.html", width=390)
    found = browser.execute_script("""
        return [...document.querySelectorAll("span.math")]
            .filter((box) => box.scrollWidth > box.clientWidth)
            .map((box) => [box.textContent.includes("∑"), getComputedStyle(box).overflowX])
    """)
    assert found == [[True, "auto"]]


CUT = """
const cut = new Set();
for (const block of document.querySelectorAll("article pre, article table, article .output")) {
  for (let box = block; box.tagName != "ARTICLE"; box = box.parentElement)
    if (getComputedStyle(box).overflowX != "visible" && box.scrollWidth > box.clientWidth + 1)
      cut.add(block.outerHTML.slice(0, 200));
  if (block.getBoundingClientRect().right > arguments[0] + 1)
    cut.add(block.outerHTML.slice(0, 200));
}
return [...cut];
"""


@pytest.mark.parametrize("name", PAGES[:-1])
def test_paper_shows_every_line_and_column(browser: "Chrome", site: Path, name: str) -> None:
    show(browser, site / f"{name}.html", width=PAPER, media="print")
    assert browser.execute_script(CUT, PAPER) == []


SHADES = """
const shown = e => getComputedStyle(e);
const bright = colour => colour.match(/[0-9.]+/g).slice(0, 3).every(part => part > 180);
const words = [...document.querySelectorAll("article :is(h1, h2, p, pre, td)")];
return [shown(document.body).backgroundColor, words.filter(e => bright(shown(e).color)).length];
"""


@pytest.mark.parametrize("name", PAGES[:-1])
def test_paper_is_white_whatever_the_screen_is(browser: "Chrome", site: Path, name: str) -> None:
    show(browser, site / f"{name}.html", width=PAPER, media="print", dark=True)
    assert browser.execute_script(SHADES) == ["rgb(255, 255, 255)", 0]


def test_formulas_are_set_and_nothing_comes_from_elsewhere(browser: "Chrome", site: Path) -> None:
    asked = show(browser, site / "00-a.html")
    count = "return document.querySelectorAll(arguments[0]).length"
    assert browser.execute_script(count, "article .math") == 5
    assert browser.execute_script(count, "article mjx-container") == 5
    assert browser.execute_script(count, "article mjx-assistive-mml") == 5
    assert browser.execute_script(count, "article mjx-merror") == 0
    assert len(asked) > 10 and all(address.startswith(("file:", "data:")) for address in asked)
    assert browser.execute_script(count, "article button.copybtn") >= 2


def test_a_page_loads_at_most_two_megabytes(browser: "Chrome", site: Path) -> None:
    asked = show(browser, site / "00-a.html")
    files = {Path(address.partition("?")[0][7:]) for address in asked if address[:5] == "file:"}
    sizes = {file.name: file.stat().st_size for file in files}
    assert "core.js" in sizes and sum(sizes.values()) < 2e6, sizes


def test_words_are_found_without_a_server(browser: "Chrome", site: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    for word, page in (("sentence", "00-a.html"), ("Innocent", "docs/references.html")):
        browser.get(f"{(site / 'search.html').as_uri()}?q={word}")
        WebDriverWait(browser, 60).until(
            lambda b, page=page: b.find_elements(
                By.CSS_SELECTOR, f"#search-results a[href*='{page}']"
            )
        )


@pytest.mark.parametrize(
    ("asked", "page"),
    [
        ("own data folder", "docs/own-data"),
        ("MMPareto formula", "docs/audit/05-mmpareto"),
        ("which drop do my data have", "docs/diagnose"),
        ("assignment", "docs/course/assignment"),
    ],
)
def test_the_search_shows_first_what_has_the_words_in_a_heading(
    browser: "Chrome", site: Path, asked: str, page: str
) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get(f"{(site / 'search.html').as_uri()}?q={asked}")
    links = "return [...document.querySelectorAll('#search-results li > a')].map(a => a.href)"
    # the list grows result by result
    found = WebDriverWait(browser, 60).until(
        lambda b: len(shown := b.execute_script(links)) >= 3 and shown
    )
    assert any(f"{page}.html" in address for address in found[:3]), found[:5]
