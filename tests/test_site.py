"""The site: it asks for nothing from elsewhere, and shows what the notebooks hold."""

import base64
import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbformat import v4
from paging import add_result, article, soup

from mmlab.notebooks import SiteError, run
from mmlab.notebooks.catalogue import ROOT
from mmlab.notebooks.pages.prepare import prepare
from mmlab.notebooks.site import build

PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
SVG = "<svg xmlns='http://www.w3.org/2000/svg'/>"
TEXT = r"""## Start here · 开始

Inline $\alpha_m$, and $\beta$；$$\sum_k w_k$$ [on](01-b.ipynb#end), [not run](02-c.ipynb#top),
[data](../data/README.md), [spaced](my%20file.csv),
[paper · one](https://example.org/paper.pdf). ![a cat](cat.png)

| word | meaning |
|---|---|
| 开始 | one modality learns, and the other one is left behind |
| a word or three | late fusion |

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
    v4.new_output("display_data", {"text/html": "<table><tr><td>8 [5, 9.1]</td></tr></table>"}),
]


def start_here() -> list[nbformat.NotebookNode]:
    code = v4.new_code_cell("x = 1", outputs=OUTPUTS, execution_count=1)
    hidden = v4.new_code_cell("y = 2", metadata={"jupyter": {"source_hidden": True}})
    folded = v4.new_markdown_cell("Folded, yet shown.", metadata=hidden.metadata)
    return [v4.new_markdown_cell(TEXT), code, hidden, folded]


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
    add_result(root / "build", "00-a", cells=start_here())
    add_result(root / "build", "01-b")
    add_result(root / "build", "02-c", ok=False, cause="ValueError: 1 < 2")
    return build(root / "build", folder).parent


def test_nothing_is_asked_for_from_elsewhere(site):
    pages = sorted(site.glob("*.html"))
    assert [page.name for page in pages] == ["00-a.html", "01-b.html", "index.html", "search.html"]
    for page in pages:
        for tag in soup(page).select("script, img, iframe, audio, video, source, link, object"):
            assert not re.match(r"(https?:)?//", tag.get("src") or tag.get("href") or ""), tag
        text = page.read_text("utf-8")
        assert not re.search(r"@import|url\(\s*['\"]?https?:|import .* from ['\"]https?:", text)
        for word in ("cdn.", "unpkg", "require.js", "mermaid", "jquery"):
            assert word not in text.lower()
    for sheet in site.rglob("*.css"):
        assert not re.search(
            r"(@import|url\()\s*['\"]?(url\(['\"]?)?(https?:)?//", sheet.read_text("utf-8")
        )


def test_all_that_a_page_asks_for_is_there(site):
    for page in site.glob("*.html"):
        for tag in soup(page).select("script[src], link[href], img[src]"):
            asked = (tag.get("src") or tag["href"]).partition("?")[0]
            assert re.match("data:|#", asked) or (page.parent / unquote(asked)).is_file(), asked


def test_no_line_breaks_within_an_interval(site):
    (cell,) = soup(site / "00-a.html").select(".output td")
    assert cell.get_text() == "8 [5,\N{NO-BREAK SPACE}9.1]"


def test_a_dot_stays_with_the_word_before_it(site):
    page = article(site / "00-a.html")
    assert page.select_one('a[href$="paper.pdf"]').get_text() == "paper\N{NO-BREAK SPACE}· one"
    assert page.h2.get_text().startswith("Start here\N{NO-BREAK SPACE}· 开始")


def test_maths_is_left_for_the_copied_mathjax(site):
    page = soup(site / "00-a.html")
    (script,) = [
        tag["src"] for tag in page.select("script[src]") if "mathjax" in tag["src"].lower()
    ]
    assert (site / script.partition("?")[0]).is_file()
    assert [tag.get_text() for tag in page.select("span.math")] == [r"\(\alpha_m\)", r"\(\beta\)"]
    kept = [tag.get_text() for tag in page.select(".together")]
    assert kept == [r"\(\alpha_m\),", r"\(\beta\)；"]
    assert " and" in page.select_one(".together").next_sibling
    assert r"\sum_k w_k" in page.select_one("div.math").get_text()
    assert any(site.rglob("MathJax*.woff"))


def test_a_file_that_a_full_disk_cut_short_is_copied_anew(site):
    copy = site / "_static/mmlab.css"
    whole = copy.read_bytes()
    copy.write_bytes(whole[:100])
    build(site.parent, site.parent.parent / "notebooks")
    assert copy.read_bytes() == whole


def test_links_lead_to_pages_where_there_are_pages_else_to_the_files(site):
    links = {a.get_text(): a["href"] for a in article(site / "00-a.html")("a")}
    assert links["on"] == "01-b.html#end"
    assert links["paper\N{NO-BREAK SPACE}· one"] == "https://example.org/paper.pdf"
    for name, file in (
        ("data", "README.md"),
        ("not run", "02-c.ipynb#top"),
        ("spaced", "my%20file.csv"),
    ):
        path = (site / unquote(links[name].partition("#")[0])).resolve()
        assert path.is_file() and path.is_relative_to(site)  # the site can be moved
        assert links[name].endswith(file)


def test_a_page_knows_its_neighbours(site):
    assert soup(site / "00-a.html").select_one("a.right-next")["href"] == "01-b.html"
    assert soup(site / "01-b.html").select_one("a.right-next") is None
    for page in site.glob("*.html"):
        listed = [a["href"] for a in soup(page).select("nav.bd-links a")]
        assert [name for name in listed if name[0] == "0"] == [
            name for name in ("00-a.html", "01-b.html") if name != page.name
        ]


def test_cells_say_whether_they_are_short_or_long(site):
    cells = article(site / "00-a.html").select("div.pst-scrollable-table-container td")
    assert [
        [name for name in ("short", "long") if name in cell.get("class", [])] for cell in cells
    ] == [
        *(["short"], ["long"]),
        *([], ["short"]),
    ]


def test_images_keep_their_words_and_come_with_the_page(site):
    images = article(site / "00-a.html").select("img")
    assert [image["alt"] for image in images] == ["a cat", "a line", "a < b"]
    assert all(image["src"].startswith("data:image/") for image in images)


def test_the_words_of_a_vector_image_may_hold_quotation_marks():
    words = """say "no" if a < b & c > 'd'"""
    (markup,), _ = outputs_of({"image/svg+xml": SVG}, **{"image/svg+xml": {"alt": words}})
    assert BeautifulSoup(markup, "html.parser").img["alt"] == words


def test_folds_stay_folded(site):
    fold = article(site / "00-a.html").select_one("details")
    assert "x = 1" in fold.get_text() and fold.summary.get_text() == "Solution"


def test_code_that_the_notebook_hides_is_folded(site):
    page = article(site / "00-a.html")
    (fold,) = page.select(".cell details")
    assert fold.select_one("pre").get_text().strip() == "y = 2"
    assert not fold.has_attr("open")
    assert "Folded, yet shown." in page.get_text()  # what is hidden of a text cell is no code


def test_index_says_what_ran_and_what_failed(site):
    page = soup(site / "index.html")
    good, _, bad = (row.get_text(" ") for row in page.select("tbody tr"))
    for fact in ("00", "Title of 00-a", "5", "smoke", "12 s", "cpu", "torch 2.6", "ok", "03:04"):
        assert fact in good
    assert "failed" in bad and "cell 7, line 1: x: ValueError: 1 < 2" in bad
    assert [a["href"] for a in page.select("tbody a")] == ["00-a.html", "01-b.html"]


def test_what_a_record_says_is_text_and_no_markup(tmp_path):
    facts = ("title", "minutes", "profile", "device", "package", "version", "note", "line", "cause")
    said = {name: f"<b>{name}</b> &amp; {{{{ 1 }}}} `*" for name in facts}
    for name, ok in (("00-a", True), ("01-b", False)):
        add_result(tmp_path / "build", name, ok=ok)
        path = tmp_path / f"build/notebooks/{name}.json"
        record = json.loads(path.read_text()) | said
        record["parameters"] = {"profile": said["profile"]}
        record["versions"] = {said["package"]: said["version"]}
        record["notes"] = [said["note"]]
        path.write_text(json.dumps(record))
    page = soup(build(tmp_path / "build", tmp_path / "notebooks"))
    assert page.select("tbody b") == []
    good, bad = (row.get_text() for row in page.select("tbody tr"))
    shown = {name for name in facts if said[name] in good}
    assert shown == set(facts) - {"line", "cause"}  # which are of a failure
    assert all(text in bad for text in said.values())
    footer = soup(tmp_path / "build/site/00-a.html").select_one(".mmlab-footer")
    assert f"profile {said['profile']}" in footer.get_text() and not footer.select("b")


def test_a_record_of_an_earlier_version_waits_for_its_next_run(tmp_path):
    add_result(tmp_path / "build", "00-a")
    (tmp_path / "build/notebooks/00-a.page").unlink()
    add_result(tmp_path / "build", "01-b")
    page = soup(build(tmp_path / "build", tmp_path / "notebooks"))
    assert [a["href"] for a in page.select("tbody a")] == ["01-b.html"]
    assert len(page.select("tbody tr")) == 1


def test_a_record_that_is_another_s_is_named(tmp_path):
    """As where somebody copied or renamed a file by hand."""
    add_result(tmp_path / "build", "00-a")
    records = tmp_path / "build/notebooks"
    (records / "01-b.json").write_text((records / "00-a.json").read_text())
    with pytest.raises(SiteError, match=r"01-b\.json is damaged \(.*it is the record of 00-a\)"):
        build(tmp_path / "build", tmp_path / "notebooks")
    page = soup(tmp_path / "build/site/index.html")
    assert [a["href"] for a in page.select("tbody a")] == ["00-a.html"]


def test_pages_come_and_go_with_the_notebooks_that_ran(tmp_path):
    """Each page lists the others; what is not run any more is on none, nor are its words found."""
    out = tmp_path / "build"
    for name in ("00-a", "01-b"):
        add_result(out, name, cells=[v4.new_markdown_cell(f"The word is xylophone{name[0:2]}.")])
        build(out, tmp_path / "notebooks")
    assert "xylophone00" in (out / "site/searchindex.js").read_text("utf-8")
    assert "01-b.html" in [a["href"] for a in soup(out / "site/00-a.html")("a", href=True)]
    for file in (*out.glob("notebooks/00-a.*"), out / "site/00-a.html"):  # as the runner does
        file.unlink()
    build(out, tmp_path / "notebooks")
    assert not (out / "site/00-a.html").exists()
    index = (out / "site/searchindex.js").read_text("utf-8")
    assert '"xylophone00":[]' in index or "xylophone00" not in index
    for page in (out / "site").glob("*.html"):
        assert not [a for a in soup(page)("a", href=True) if a["href"].startswith("00-a")]


def test_what_sphinx_remembers_may_be_damaged(tmp_path):
    """As after a run that was killed."""
    add_result(tmp_path / "build", "00-a")
    build(tmp_path / "build", tmp_path / "notebooks")
    for file in (tmp_path / "build/pages/memory").iterdir():
        file.write_bytes(b"x")
    shutil.rmtree(tmp_path / "build/site")
    build(tmp_path / "build", tmp_path / "notebooks")
    assert (tmp_path / "build/site/00-a.html").exists()


def test_pages_serve_readers_who_do_not_see(site):
    for page in map(soup, site.glob("*.html")):
        assert page.html["lang"] == "en"
        assert page.select_one("#pst-skip-link a, a#pst-skip-link")["href"] == "#main-content"
        assert page.select_one("main#main-content")
        assert len([h1 for h1 in page("h1") if not h1.find_parent(id="jb-print-docs-body")]) == 1


def test_chinese_is_marked_as_chinese(site):
    """In the text, and in the list of contents."""
    page = soup(site / "00-a.html")
    marked = page.select('span[lang="zh"]')
    assert {span.get_text() for span in marked} == {"开始"}
    assert any(span.find_parent("nav") for span in marked)
    assert any(span.find_parent("h2") for span in marked)
    for text in page.find_all(string=re.compile("开始")):
        assert text.parent.get("lang") == "zh"


def test_pages_say_what_they_are_about(site):
    (meta,) = soup(site / "00-a.html").select('meta[name="description"]')
    assert meta["content"].startswith("Inline") and len(meta["content"]) <= 162
    footer = soup(site / "00-a.html").select_one(".mmlab-footer").get_text()
    assert "mmlab 0." in footer and "2026-01-02 03:04 UTC" in footer and "profile smoke" in footer


# ---------------------------------------------------------------- nothing active, nothing foreign

ACTIVE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<IMG SRC='data:image/png;base64,AA' OnError='alert(1)'>",
    "<a href='javascript:alert(1)'>go</a>",
    "<a href='java\nscript:alert(1)'>go</a>",
    "<a href='&#106;avascript:alert(1)'>go</a>",
    "<a href='data:text/html,<script>alert(1)</script>'>go</a>",
    "<a href='vbscript:alert(1)'>go</a>",
    "<iframe src='https://example.org'></iframe>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<object data='x.swf'></object><embed src='x.swf'>",
    "<meta http-equiv='refresh' content='0; url=https://example.org'>",
    "<base href='https://example.org/'>",
    "<link rel='stylesheet' href='https://example.org/x.css'>",
    "<form action='https://example.org'><input name='q'><button formaction='javascript:x'>b</form>",
    "<svg onload='alert(1)'><script>alert(1)</script></svg>",
    "<svg><style><img src=x onerror=alert(1)></style></svg>",
    "<math><mtext><style><img src=x onerror=alert(1)></style></mtext></math>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'></noscript>",
    "<!--><img src=x onerror=alert(1)>-->",
    "<style>@import 'https://example.org/x.css';</style>",
    "<style>p { background: url(https://example.org/x) }</style>",
    "<style>p { color: red }</style ><script>alert(1)</script>",
    "<style>p[title='\\3c/style>\\3cimg src=x onerror=alert(1)>'] { color: red }</style>",
    "<p style='background: URL(\"https://example.org/x\")'>text</p>",
    "<p style='position: fixed; top: 0'>text</p>",
    "<p style='background: u\\72l(https://example.org/x); position: fixed'>text</p>",
    "<img src='https://example.org/pixel.png'>",
    "<video poster='https://example.org/x.png' src='https://example.org/x.mp4' autoplay></video>",
    "<audio src='//example.org/x.mp3' controls></audio>",
    "<details open ontoggle=alert(1)><summary>s</summary></details>",
]
DANGER = re.compile(
    r"alert|javascript|vbscript|example\.org|position|<(script|iframe|object|embed|meta|base|link|form"
    r"|input|button|svg|math|noscript)\b",
    re.IGNORECASE,
)


def shown(data: dict, **metadata) -> nbformat.NotebookNode:
    """A cell with one output."""
    output = v4.new_output("display_data", data, metadata=metadata)
    return v4.new_code_cell("show", outputs=[output])


def prepared(*cells, folder: Path = Path("nowhere")) -> tuple[nbformat.NotebookNode, list[str]]:
    """The source of the page of these cells, and its notes."""
    page, notes = prepare(v4.new_notebook(cells=list(cells)), folder)
    return nbformat.reads(page, as_version=4), notes


def test_a_warning_names_its_file_from_the_checkout_on():
    said = v4.new_output("stream", name="stderr", text=f"{ROOT}/mmlab/seeds.py:3: UserWarning: no")
    page, _ = prepared(v4.new_code_cell("warn", outputs=[said]))
    assert page.cells[0].outputs[0].text == "mmlab/seeds.py:3: UserWarning: no"


def outputs_of(data: dict, **metadata) -> tuple[list[str], list[str]]:
    """What the page of such an output holds as HTML, and its notes."""
    page, notes = prepared(shown(data, **metadata))
    outputs = [output.data["text/html"] for output in page.cells[0].outputs]
    return outputs, notes


def kinds_of(markup: str) -> list[nbformat.NotebookNode]:
    """Cells that hold HTML in each way, and one below them."""
    return [
        v4.new_markdown_cell(markup),
        v4.new_markdown_cell(f"- in a list {markup}"),
        shown({"text/html": markup}),
        shown({"text/markdown": markup}),
        shown({"text/html": markup}, **{"text/html": {"isolated": True}}),
        v4.new_markdown_cell(f"```{{raw}} html\n{markup}\n```"),
        v4.new_markdown_cell(f"{{raw-html}}`{markup}` and ````{{eval-rst}}`"),
        v4.new_markdown_cell(f"> ~~~{{eval-rst}}\n> .. raw:: html\n>\n>    {markup}\n> ~~~"),
        v4.new_markdown_cell("The *end*."),
    ]


@pytest.fixture(scope="module")
def active(tmp_path_factory) -> Path:
    """A site whose pages hold what is active, page by page."""
    out = tmp_path_factory.mktemp("active") / "build"
    for number, markup in enumerate(ACTIVE):
        add_result(out, f"{number:02d}-a", cells=kinds_of(markup))
    return build(out, out.parent / "notebooks").parent


@pytest.mark.parametrize("number", range(len(ACTIVE)), ids=ACTIVE)
def test_a_page_carries_nothing_active(active, number):
    inside = article(active / f"{number:02d}-a.html")
    for tag in inside.find_all():
        if tag.find_parent("button") or tag.name == "button":
            continue
        assert not [name for name in tag.attrs if name[:2] == "on"], tag
        assert not DANGER.search(f"<{tag.name} {list(tag.attrs.values())}"), tag
    assert not DANGER.search("".join(style.get_text() for style in inside("style")))
    assert [tag.get_text() for tag in inside("em")].count("end") == 1  # it is not swallowed


@pytest.mark.parametrize(
    "href", ["https://a.org/b", "HTTPS://a.org", "MailTo:a@b.org", "#c", "d.md"]
)
def test_a_link_that_only_leads_somewhere_stays(href):
    (page,), notes = outputs_of({"text/html": f'<a href="{href}">go</a>'})
    assert BeautifulSoup(page, "html.parser").a["href"] == href and notes == []


@pytest.mark.parametrize("opening", ["<style>p", "<script>", "<iframe>", "<details>", "<b", "<!--"])
def test_a_tag_left_open_swallows_nothing(tmp_path, opening):
    cells = [shown({"text/html": opening}), v4.new_markdown_cell(opening)]
    add_result(tmp_path / "build", "00-a", cells=[*cells, v4.new_markdown_cell("The *end*.")])
    build(tmp_path / "build", tmp_path / "notebooks")
    assert "<em>end</em>" in str(article(tmp_path / "build/site/00-a.html"))


def test_what_had_to_go_is_told():
    (page,), notes = outputs_of({"text/html": "<b>a</b><iframe></iframe><i onclick=x>c</i>"})
    assert notes == [
        "its page leaves out what could run or load something by itself: i onclick, iframe"
    ]
    assert "<b>a</b>" in page and "<i>c</i>" in page
    (page,), _ = outputs_of({"text/html": "<script>let x</script><svg>in it</svg><b>a</b>"})
    assert "<b>a</b>" in page and "let x" not in page and "in it" not in page
    assert prepared(v4.new_markdown_cell(TEXT.replace("![a cat](cat.png)", "")))[1] == []
    (note,) = prepared(v4.new_markdown_cell("x <video src=y> `<form>`\n\n<Script>"))[1]
    assert note.endswith(": script, video")


def test_scripts_of_outputs_and_of_odd_metadata(tmp_path):
    cells = [
        shown({"application/javascript": "alert(1)"}),
        shown({"image/svg+xml": "<svg onload='alert(1)'/>"}),
        shown({"image/png": PIXEL}, **{"image/png": {"width": "1 onerror=alert(1)"}}),
        shown({"image/png": '"><script>alert(1)</script>'}),
        v4.new_code_cell("", metadata={"tags": ['"><script>alert(1)</script>']}),
        v4.new_raw_cell("<script>alert(1)</script>", metadata={"raw_mimetype": "text/html"}),
    ]
    add_result(tmp_path / "build", "00-a", cells=cells)
    build(tmp_path / "build", tmp_path / "notebooks")
    inside = article(tmp_path / "build/site/00-a.html")
    assert not inside.select("script, svg, [onerror], [onload]")
    assert all(image["src"].startswith("data:image/") for image in inside("img"))


def test_tables_of_pandas_keep_their_looks():
    frame = pd.DataFrame({"a": [1.5, 2.5], "b": ["x < y", "&"]})
    styled = frame.style.background_gradient(cmap="Blues").bar(color="red").set_caption("Words")
    page, notes = prepared(
        shown({"text/html": frame._repr_html_()}), shown({"text/html": styled.to_html()})
    )
    assert notes == []
    markup = "".join(cell.outputs[0].data["text/html"] for cell in page.cells)
    inside = BeautifulSoup(markup, "html.parser")
    plain, coloured = inside("table")
    assert plain["class"] == ["dataframe"] and plain["border"] == "1"
    assert [cell.get_text() for cell in plain("td")] == ["1.5", "x < y", "2.5", "&"]
    assert coloured.caption.get_text() == "Words"
    sheet = "".join(style.get_text() for style in inside("style"))
    assert "vertical-align: middle" in sheet
    for cell in coloured("td"):
        if cell.get_text() == "2.500000":
            assert f"#{cell['id']} {{ " in sheet.replace(",", " {")
    assert "linear-gradient(" in sheet and "background-color: #" in sheet


def test_maths_sound_and_figures_stay(tmp_path):
    text = r"$a < b$ and $$\begin{aligned} x &= 1 \\ y &< 2 \end{aligned}$$"
    sound = "<audio controls='controls'><source src='data:audio/wav;base64,AA'/></audio>"
    picture = f"<img src='data:image/png;base64,{PIXEL}' alt='words' style='max-width: 900px'>"
    cells = [
        v4.new_markdown_cell(text),
        shown({"text/html": sound}),
        shown({"text/html": picture}),
        shown({"text/latex": r"$\displaystyle x < 1 & y$"}),
    ]
    assert add_result(tmp_path / "build", "00-a", cells=cells) == []
    build(tmp_path / "build", tmp_path / "notebooks")
    inside = article(tmp_path / "build/site/00-a.html")
    words = " ".join(tag.get_text() for tag in inside.select(".math"))
    assert "a < b" in words and r"x &= 1 \\ y &< 2" in words and "x < 1 & y" in words
    assert inside.source["src"] == "data:audio/wav;base64,AA" and inside.audio.has_attr("controls")
    assert inside.img["alt"] == "words" and "max-width: 900px" in inside.img["style"]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of notebooks with what lies around it."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for path in (tmp_path / "secret.png", folder / "my cat.png", folder / "words.txt"):
        path.write_bytes(b"secret")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "inner.png").symlink_to(folder / "my cat.png")
    return folder


@pytest.mark.parametrize(
    ("src", "why"),
    [
        ("../secret.png", "it lies outside"),
        ("%2e%2e/secret.png", "it lies outside"),
        ("link.png", "it lies outside"),
        ("../../../../../../../../etc/passwd", "it lies outside"),
        ("file:///etc/passwd", "loads nothing from elsewhere"),
        ("https://example.org/x.png", "loads nothing from elsewhere"),
        ("missing.png", "there is no such file"),
        ("x" * 5000, "there is no such file"),
        ("a%00b.png", "there is no such file"),
        ("words.txt", "its name is not that of an image"),
        (".", "there is no such file"),
    ],
)
def test_an_image_from_elsewhere_leaves_its_words_and_a_note(folder, src, why):
    for cell in (
        v4.new_markdown_cell(f"![its words]({src})"),
        shown({"text/html": f'<img src="{src}" alt="its words">'}),
    ):
        page, notes = prepared(cell, folder=folder)
        if not src.startswith("file:") or cell.cell_type == "code":  # to Markdown that is no image
            (note,) = notes
            assert note.startswith("its page lacks the image ") and why in note
        assert base64.b64encode(b"secret").decode() not in str(page)
    (image,) = BeautifulSoup(page.cells[0].outputs[0].data["text/html"], "html.parser")("img")
    assert image["alt"] == "its words" and not image.has_attr("src")


@pytest.mark.parametrize(
    "src", ["../secret.png", "missing.png", "/etc/passwd", "a.svg", "file:///x.png"]
)
def test_a_page_shows_the_words_of_an_image_that_it_lacks(tmp_path, src):
    (tmp_path / "secret.png").write_bytes(b"secret")
    text = v4.new_markdown_cell(f"![its words]({src}) ![more words][1]\n\n[1]: {src}")
    add_result(tmp_path / "build", "00-a", cells=[text])
    build(tmp_path / "build", tmp_path / "notebooks")
    inside = article(tmp_path / "build/site/00-a.html")
    assert not inside("img") and not (tmp_path / "build/site/_images").exists()
    assert "its words" in inside.get_text() and "more words" in inside.get_text()


PICTURES = r"""![1](my%20cat.png) ![2](inner.png) ![3](./my%20cat.png) ![4](<my cat.png>)
![5]( kätzchen.png ) ![6][there] ![7](inner.png "a title") [![8](inner.png)](inner.png)

`![no](inner.png)`

```markdown
![no](inner.png)
```

[there]: inner.png
"""


def test_an_image_from_here_comes_with_the_page_however_it_is_written(tmp_path, folder):
    (folder / "kätzchen.png").write_bytes(b"secret")
    cells = [v4.new_markdown_cell(PICTURES), shown({"text/markdown": "![9](inner.png)"})]
    assert add_result(tmp_path / "build", "00-a", cells=cells) == []
    build(tmp_path / "build", folder)
    inside = article(tmp_path / "build/site/00-a.html")
    assert [image["alt"] for image in inside("img")] == [*"123456789"]
    source = f"data:image/png;base64,{base64.b64encode(b'secret').decode()}"
    assert {image["src"] for image in inside("img")} == {source}
    assert inside.get_text().count("![no](inner.png)") == 2
    assert inside.find("a", href=lambda href: href.endswith("files/notebooks/my%20cat.png"))


def test_a_picture_that_changes_is_shown_as_it_is_now(tmp_path, folder):
    cell = v4.new_markdown_cell("![a cat](inner.png)")
    for content in (b"one", b"other"):
        (folder / "my cat.png").write_bytes(content)
        add_result(tmp_path / "build", "00-a", cells=[cell])
        build(tmp_path / "build", folder)
        (image,) = article(tmp_path / "build/site/00-a.html")("img")
        assert image["src"].endswith(base64.b64encode(content).decode())


def test_copies_are_renewed_and_pages_that_are_gone_go(tmp_path, folder):
    site, link = tmp_path / "build/site", v4.new_markdown_cell("[words](words.txt)")
    for name in ("00-a", "01-b"):
        add_result(tmp_path / "build", name, cells=[link])
    build(tmp_path / "build", folder)
    assert (site / "01-b.html").exists()
    (folder / "words.txt").write_text("new")
    for file in (tmp_path / "build/notebooks").glob("01-b*"):
        file.unlink()
    build(tmp_path / "build", folder)
    assert (site / "files/notebooks/words.txt").read_text() == "new"
    assert (site / "00-a.html").exists() and not (site / "01-b.html").exists()
    (folder / "words.txt").unlink()
    build(tmp_path / "build", folder)  # a link to what is gone is no reason to fail


def test_a_linked_file_that_cannot_be_read_is_said_and_all_else_is_there(
    tmp_path, folder, monkeypatch
):
    link = v4.new_markdown_cell("[words](words.txt)")
    add_result(tmp_path / "build", "00-a", cells=[link])
    read = Path.read_bytes

    def refusing(path):
        if path.name == "words.txt" and path.parent == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refusing)
    with pytest.raises(SiteError, match=r"Permission denied: .*words\.txt"):
        build(tmp_path / "build", folder)
    assert (tmp_path / "build/site/00-a.html").exists()


def test_a_long_link_is_left_as_it_is(tmp_path):
    add_result(tmp_path / "build", "00-a", cells=[v4.new_markdown_cell(f"[go]({'x' * 5000})")])
    page = build(tmp_path / "build", tmp_path).with_name("00-a.html")
    assert "x" * 5000 in [a["href"] for a in article(page)("a")]


def test_a_notebook_says_what_its_page_lacks(tmp_path):
    """From the kernel to the index: the note travels all the way."""
    show = "from IPython.display import HTML\nHTML('<iframe></iframe><b>stays</b>')"
    cells = [v4.new_markdown_cell("# 00 · T\n\n![q](../../../etc/passwd)"), v4.new_code_cell(show)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (tmp_path / "notebooks").mkdir()
    path = tmp_path / "notebooks/00-a.ipynb"
    nbformat.write(v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    (result,) = run(folder=path.parent, out=tmp_path / "build")
    assert result.ok, result
    assert [("iframe" in note, "passwd" in note) for note in sorted(result.notes)] == [
        (False, True),
        (True, False),
    ]
    assert "<b>stays</b>" in (tmp_path / "build/site/00-a.html").read_text("utf-8")
    assert "iframe" in soup(tmp_path / "build/site/index.html").select_one("tbody").get_text()
