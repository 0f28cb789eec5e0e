"""The site: it asks for nothing from elsewhere, and shows what the notebooks hold."""

import base64
import json
import re
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbformat import v4

from mmlab.notebooks import SiteError, run
from mmlab.notebooks.body import body
from mmlab.notebooks.site import build, copy_maths

PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
SVG = "<svg xmlns='http://www.w3.org/2000/svg'/>"
TEXT = r"""# 00 · Start here · 开始

Inline $\alpha_m$ and $$\sum_k w_k$$ [on](01-b.ipynb#end), [not run](02-c.ipynb#top),
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


def test_maths_that_a_full_disk_cut_short_is_copied_anew(site):
    copy = site / "mathjax/MathJax.js"
    whole = copy.read_bytes()
    copy.write_bytes(whole[:100])
    copy_maths(site.parent)
    assert copy.read_bytes() == whole


def test_links_lead_to_pages_where_there_are_pages_else_to_the_files(site):
    page = soup(site / "00-a.html")
    links = {a.get_text(): a["href"] for a in page.select("main a:not(.anchor-link)")}
    assert links["on"] == "01-b.html#end"
    assert links["paper"] == "https://example.org/paper.pdf"
    for name, file in (
        ("data", "README.md"),
        ("not run", "02-c.ipynb#top"),
        ("spaced", "my%20file.csv"),
    ):
        assert (site / unquote(links[name].partition("#")[0])).resolve().is_file()
        assert links[name].endswith(file)
    assert page.select_one("header a[rel=next]")["href"] == "01-b.html"
    assert soup(site / "01-b.html").select_one("header a[rel=next]") is None


def test_images_keep_their_words_and_come_with_the_page(site):
    images = soup(site / "00-a.html").select("img")
    assert [image["alt"] for image in images] == ["a cat", "a line", "a < b"]
    assert all(image["src"].startswith("data:image/") for image in images)


def test_the_words_of_a_vector_image_may_hold_quotation_marks():
    words = """say "no" if a < b & c > 'd'"""
    page, _ = page_of(shown({"image/svg+xml": SVG}, **{"image/svg+xml": {"alt": words}}))
    assert BeautifulSoup(page, "html.parser").img["alt"] == words


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


def test_what_a_record_says_is_text_and_no_markup(tmp_path):
    facts = ("title", "minutes", "profile", "device", "package", "version", "note", "line", "cause")
    said = {name: f"<b>{name}</b> &amp;" for name in facts}
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
    title = soup(tmp_path / "build/site/00-a.html").title
    assert title.get_text() == f"{said['title']} · mmlab"


def test_a_record_of_an_earlier_version_waits_for_its_next_run(tmp_path):
    add_result(tmp_path / "build", "00-a")
    (tmp_path / "build/notebooks/00-a.body.html").unlink()
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


def test_pages_serve_readers_who_do_not_see(site):
    for page in map(soup, site.glob("*.html")):
        assert page.html["lang"] == "en"
        assert page.select_one("a.skip")["href"] == "#content" and page.select_one("main#content")
        assert len(page.select("h1")) == 1


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


def page_of(*cells, folder: Path = Path("nowhere")) -> tuple[str, list[str]]:
    return body(v4.new_notebook(cells=list(cells)), folder)


def shown(data: dict, **metadata) -> nbformat.NotebookNode:
    """A cell with one output."""
    output = v4.new_output("display_data", data, metadata=metadata)
    return v4.new_code_cell("", outputs=[output])


@pytest.mark.parametrize("markup", ACTIVE)
def test_a_page_carries_nothing_active(markup):
    for cell in (
        v4.new_markdown_cell(markup),
        shown({"text/html": markup}),
        shown({"text/markdown": markup}),
        shown({"text/html": markup}, **{"text/html": {"isolated": True}}),
    ):
        page, _ = page_of(cell, v4.new_markdown_cell("The *end*."))
        inside = BeautifulSoup(page, "html.parser")
        assert not [
            (tag.name, name) for tag in inside.find_all() for name in tag.attrs if name[:2] == "on"
        ]
        for tag in inside.find_all():
            assert not DANGER.search(f"<{tag.name} {list(tag.attrs.values())}"), tag
        assert not DANGER.search("".join(style.get_text() for style in inside("style")))
        assert "<em>end</em>" in page  # what comes after is not swallowed


@pytest.mark.parametrize(
    "href", ["https://a.org/b", "HTTPS://a.org", "MailTo:a@b.org", "#c", "d.md"]
)
def test_a_link_that_only_leads_somewhere_stays(href):
    page, notes = page_of(shown({"text/html": f'<a href="{href}">go</a>'}))
    assert BeautifulSoup(page, "html.parser").a["href"] == href and notes == []


@pytest.mark.parametrize("opening", ["<style>p", "<script>", "<iframe>"])
def test_a_tag_left_open_does_not_swallow_the_rest_in_silence(opening):
    """Python's parser of HTML knows of more such tags in later versions, iframe among them."""
    rest = v4.new_markdown_cell("The *end*.")
    try:
        page, _ = page_of(v4.new_markdown_cell("a"), shown({"text/html": opening}), rest)
    except ValueError as error:
        assert re.search("the HTML of cell 2 leaves a tag open.*close it", str(error))
    else:
        assert "<em>end</em>" in page


def test_what_had_to_go_is_told():
    page, notes = page_of(shown({"text/html": "<b>a</b><iframe></iframe><i onclick=x>c</i>"}))
    assert notes == [
        "its page leaves out what could run or load something by itself: i onclick, iframe"
    ]
    assert "<b>a</b>" in page and "<i>c</i>" in page
    page, _ = page_of(shown({"text/html": "<script>let x</script><svg>in it</svg><b>a</b>"}))
    assert "<b>a</b>" in page and "let x" not in page and "in it" not in page
    assert page_of(v4.new_markdown_cell(TEXT.replace("![a cat](cat.png)", "")))[1] == []


def test_scripts_of_outputs_and_of_odd_metadata():
    page, _ = page_of(
        shown({"application/javascript": "alert(1)"}),
        shown({"image/svg+xml": "<svg onload='alert(1)'/>"}),
        shown({"image/png": PIXEL}, **{"image/png": {"width": "1 onerror=alert(1)"}}),
        v4.new_code_cell("", metadata={"tags": ['"><script>alert(1)</script>']}),
        v4.new_raw_cell("<script>alert(1)</script>", metadata={"raw_mimetype": "text/html"}),
    )
    inside = BeautifulSoup(page, "html.parser")
    assert not inside.select("script, svg, [onerror], [onload]")
    assert all(image["src"].startswith("data:image/") for image in inside("img"))


def test_tables_of_pandas_keep_their_looks():
    frame = pd.DataFrame({"a": [1.5, 2.5], "b": ["x < y", "&"]})
    styled = frame.style.background_gradient(cmap="Blues").bar(color="red").set_caption("Words")
    page, notes = page_of(
        shown({"text/html": frame._repr_html_()}), shown({"text/html": styled.to_html()})
    )
    assert notes == []
    inside = BeautifulSoup(page, "html.parser")
    plain, coloured = inside("table")
    assert plain["class"] == ["dataframe"] and plain["border"] == "1"
    assert [cell.get_text() for cell in plain("td")] == ["1.5", "x < y", "2.5", "&"]
    assert coloured.caption.get_text() == "Words"
    (style,) = inside("style")
    sheet = style.get_text()
    assert "vertical-align: middle" in sheet
    for cell in coloured("td"):
        if cell.get_text() == "2.500000":
            assert f"#{cell['id']} {{ " in sheet.replace(",", " {")
    assert "linear-gradient(" in sheet and "background-color: #" in sheet


def test_maths_sound_and_figures_stay():
    text = r"$a < b$ and $$\begin{aligned} x &= 1 \\ y &< 2 \end{aligned}$$"
    sound = "<audio controls='controls'><source src='data:audio/wav;base64,AA'/></audio>"
    picture = f"<img src='data:image/png;base64,{PIXEL}' alt='words' style='max-width: 900px'>"
    latex = shown({"text/latex": r"$\displaystyle x < 1 & y$"})
    cells = [v4.new_markdown_cell(text), shown({"text/html": sound}), shown({"text/html": picture})]
    page, notes = page_of(*cells, latex)
    assert notes == []
    inside = BeautifulSoup(page, "html.parser")
    words = inside.get_text()
    assert "$a < b$" in words and r"x &= 1 \\ y &< 2" in words and "x < 1 & y$" in words
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
        page, (note,) = page_of(cell, folder=folder)
        assert note.startswith("its page lacks the image ") and why in note
        (image,) = BeautifulSoup(page, "html.parser")("img")
        assert image["alt"] == "its words" and not image.has_attr("src")
        assert base64.b64encode(b"secret").decode() not in page


@pytest.mark.parametrize("src", ["my%20cat.png", "inner.png", "./my%20cat.png"])
def test_an_image_from_here_comes_with_the_page(folder, src):
    page, notes = page_of(v4.new_markdown_cell(f"![its words]({src})"), folder=folder)
    assert notes == []
    source = f"data:image/png;base64,{base64.b64encode(b'secret').decode()}"
    assert BeautifulSoup(page, "html.parser").img["src"] == source


def test_a_long_link_is_left_as_it_is(tmp_path):
    add_result(tmp_path / "build", "00-a")
    path = tmp_path / "build/notebooks/00-a.body.html"
    path.write_text(f'<a href="{"x" * 5000}">go</a>')
    page = soup(build(tmp_path / "build", tmp_path).with_name("00-a.html"))
    assert page.select_one("main a")["href"] == "x" * 5000


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
