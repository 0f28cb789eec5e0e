"""The site: it asks for nothing from elsewhere, and shows what the notebooks hold."""

import base64
import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from bs4 import BeautifulSoup
from nbformat import v4

from mmlab.notebooks.body import body
from mmlab.notebooks.site import build

PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
SVG = "<svg xmlns='http://www.w3.org/2000/svg'/>"
TEXT = r"""# 00 · Start here · 开始

Inline $\alpha_m$ and $$\sum_k w_k$$ [on](01-b.ipynb#end), [not run](02-c.ipynb),
[data](../data/README.md), [spaced](my%20file.csv),
[paper](https://example.org/paper.pdf). ![a cat](cat.png)

<details><summary>Solution</summary>

`x = 1`
</details>
"""
OUTPUTS = [
    v4.new_output("display_data", {"image/png": PIXEL}, metadata={"image/png": {"alt": "a line"}}),
    v4.new_output(
        "display_data", {"image/svg+xml": SVG}, metadata={"image/svg+xml": {"alt": "a < b"}}
    ),
    v4.new_output(
        "display_data", {"text/html": "<script src='https://cdn.example/x.js'></script>"}
    ),
    v4.new_output("display_data", {"application/javascript": "alert(1)"}),
    v4.new_output("display_data", {"text/html": "<table><tr><td>a cell</td></tr></table>"}),
]


def add_result(out: Path, name: str, *, ok: bool = True, cause: str = "") -> None:
    """A record, and the body of a page if all went well, as the runner leaves them."""
    (out / "notebooks").mkdir(parents=True, exist_ok=True)
    record = {
        "notebook": name,
        "title": f"Title of {name}",
        "minutes": "5",
        "parameters": {"profile": "smoke"},
        "ok": ok,
        "cell": None if ok else 7,
        "line": "" if ok else "line 1: x",
        "cause": cause,
        "seconds": 12.3,
        "finished": "2026-01-02T03:04:05+00:00",
        "device": "cpu",
        "versions": {"torch": "2.6"},
    }
    (out / f"notebooks/{name}.json").write_text(json.dumps(record))
    if ok:
        code = v4.new_code_cell("x = 1", outputs=OUTPUTS, execution_count=1)
        hidden = v4.new_code_cell("y = 2", metadata={"jupyter": {"source_hidden": True}})
        folded = v4.new_markdown_cell("Folded, yet shown.", metadata=hidden.metadata)
        notebook = v4.new_notebook(cells=[v4.new_markdown_cell(TEXT), code, hidden, folded])
        page, _ = body(notebook, out.parent / "notebooks")
        (out / f"notebooks/{name}.body.html").write_text(page, "utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("project")
    folder = root / "notebooks"
    folder.mkdir()
    (root / "data").mkdir()
    (root / "data/README.md").write_text("data")
    (folder / "cat.png").write_bytes(b"\x89PNG")
    (folder / "my file.csv").write_text("x")
    for name in ("00-a", "01-b", "02-c"):
        (folder / f"{name}.ipynb").write_text("{}")
    add_result(root / "build", "00-a")
    add_result(root / "build", "01-b")
    add_result(root / "build", "02-c", ok=False, cause="ValueError: 1 < 2")
    return build(root / "build", folder).parent


def soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text("utf-8"), "html.parser")


def test_nothing_is_asked_for_from_elsewhere(site):
    pages = sorted(site.glob("*.html"))
    assert [page.name for page in pages] == ["00-a.html", "01-b.html", "index.html"]
    for page in pages:
        for tag in soup(page).select("script, img, iframe, audio, video, source, link, object"):
            assert not re.match(r"(https?:)?//", tag.get("src") or tag.get("href") or "")
        text = page.read_text("utf-8")
        assert not re.search(r"@import|url\(\s*['\"]?https?:|import .* from ['\"]https?:", text)
        for word in ("cdn.", "unpkg", "require.js", "mermaid", "jquery"):
            assert word not in text.lower()


def test_maths_is_left_for_the_copied_mathjax(site):
    page = soup(site / "00-a.html")
    (script,) = page.select("script[src]")
    assert (site / script["src"].partition("?")[0]).is_file()
    assert r"$\alpha_m$" in page.get_text()
    fonts = site / "mathjax/fonts/HTML-CSS/STIX-Web/woff"
    assert any(fonts.glob("*.woff"))


def test_links_lead_to_pages_where_there_are_pages_else_to_the_files(site):
    page = soup(site / "00-a.html")
    links = {a.get_text(): a["href"] for a in page.select("main a:not(.anchor-link)")}
    assert links["on"] == "01-b.html#end"
    assert links["paper"] == "https://example.org/paper.pdf"
    for name, file in (
        ("data", "README.md"),
        ("not run", "02-c.ipynb"),
        ("spaced", "my%20file.csv"),
    ):
        assert (site / unquote(links[name])).resolve().is_file()
        assert links[name].endswith(file)
    assert page.select_one("header a[rel=next]")["href"] == "01-b.html"
    assert soup(site / "01-b.html").select_one("header a[rel=next]") is None


def test_images_keep_their_words_and_come_with_the_page(site):
    images = soup(site / "00-a.html").select("img")
    assert [image["alt"] for image in images] == ["a cat", "a line", "a < b"]
    assert all(image["src"].startswith("data:image/") for image in images)


def test_folds_stay_folded(site):
    fold = soup(site / "00-a.html").select_one("details")
    assert "x = 1" in fold.get_text()


def test_code_that_the_notebook_hides_is_folded(site):
    page = soup(site / "00-a.html")
    folds = page.select(".code_cell details")
    assert [fold.select_one(".input").get_text().strip().splitlines()[-1] for fold in folds] == [
        "y = 2"
    ]
    assert folds[0].summary.get_text() == "Code"
    assert "Folded, yet shown." in page.get_text()  # what is hidden of a text cell is no code


def test_index_says_what_ran_and_what_failed(site):
    page = soup(site / "index.html")
    good, _, bad = (row.get_text(" ") for row in page.select("tbody tr"))
    for fact in ("00", "Title of 00-a", "5", "smoke", "12 s", "cpu", "torch 2.6", "ok", "03:04"):
        assert fact in good
    assert "failed" in bad and "cell 7, line 1: x: ValueError: 1 < 2" in bad
    assert [a["href"] for a in page.select("tbody a")] == ["00-a.html", "01-b.html"]


def test_a_record_of_an_earlier_version_waits_for_its_next_run(tmp_path):
    add_result(tmp_path / "build", "00-a")
    (tmp_path / "build/notebooks/00-a.body.html").unlink()
    add_result(tmp_path / "build", "01-b")
    page = soup(build(tmp_path / "build", tmp_path / "notebooks"))
    assert [a["href"] for a in page.select("tbody a")] == ["01-b.html"]
    assert len(page.select("tbody tr")) == 1


def test_pages_serve_readers_who_do_not_see(site):
    for page in map(soup, site.glob("*.html")):
        assert page.html["lang"] == "en"
        assert page.select_one("a.skip")["href"] == "#content" and page.select_one("main#content")
        assert len(page.select("h1")) == 1
