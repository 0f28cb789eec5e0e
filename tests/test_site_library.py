"""The docs and the reference of the library, as pages of the site."""

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pytest
from bs4 import BeautifulSoup
from docutils import nodes
from nbformat import v4
from paging import add_result, article, soup
from sphinx import addnodes

from mmlab.balancers import OGM
from mmlab.datasets import Stream
from mmlab.models import Concat, MultimodalNet
from mmlab.notebooks.catalogue import NOTEBOOKS, ROOT
from mmlab.notebooks.pages.reference import (
    ROOMS,
    drop_borrowed,
    keep_marks,
    keep_sentence,
    leave_out,
    list_arguments,
    name_defaults,
    shorten_values,
)
from mmlab.notebooks.site import build
from mmlab.training import Balancer, Step
from mmlab.training.optimizers import SGD


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("library") / "build"
    text = "Train with `fit(net, data, epochs=5)`, not `fitting`: [a map](../docs/methods-map.md)."
    add_result(out, "00-a", cells=[v4.new_markdown_cell(text)])
    return build(out, NOTEBOOKS, library=True).parent


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, BeautifulSoup]:
    return {page: soup(page) for page in site.rglob("*.html")}


def test_every_link_inside_the_site_leads_somewhere(site, pages):
    lost = []
    for page, content in pages.items():
        for link in content("a", href=True):
            href, _, anchor = link["href"].partition("#")
            if re.match(r"\w+:", href):
                continue
            target = (page.parent / unquote(href)).resolve() if href else page
            there = target.is_file() and target.is_relative_to(site)
            if there and anchor and target in pages:
                there = pages[target].find(id=unquote(anchor)) is not None
            if not there:
                lost.append((page.name, link["href"]))
    assert lost == []


def test_pages_name_no_machine(site):
    for file in (*site.rglob("*.html"), *site.rglob("*.js")):
        text = file.read_text("utf-8")
        assert str(ROOT) not in text and str(Path.home()) not in text, file


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_its_names_and_reads_without_fault(site, room):
    page = article(site / f"reference/mmlab.{room}.html")
    assert page.select("dt.sig")
    assert not page.select(".system-message, .problematic")


def test_what_a_function_takes_is_a_list(site):
    page = article(site / "reference/mmlab.training.html")
    fit = page.find("dt", id="mmlab.training.loop.fit").find_next_sibling("dd")
    assert {"balancer", "schedule", "clip"} <= {name.get_text() for name in fit.select("li strong")}
    assert "lr: float | None = None" in page.find("dt", id="mmlab.training.loop.fit").get_text()


def test_a_bare_list_of_a_docstring_is_one_too(site):
    page = article(site / "reference/mmlab.datasets.html")
    stream = page.find("dt", id="mmlab.datasets.stream.Stream").find_next_sibling("dd")
    assert {"dataset", "workers", "collate"} <= {
        name.get_text() for name in stream.select("li strong")
    }


def arguments(*lines: str, thing: object = Stream) -> list[str]:
    found = list(lines)
    list_arguments(None, "class", "", thing, None, found)
    return found


def test_which_lines_of_a_docstring_are_a_list():
    assert arguments("One.", "", "dataset: a", "  of it", "workers: 2", "", "End.") == [
        *("One.", "", "Args:", "    dataset: a", "      of it", "    workers: 2", "", "End."),
    ]
    assert arguments("dataset, workers: both") == ["Args:", "    dataset, workers: both"]
    for line in ("words: none of the names", "Args:", "a line", "dataset:", "dataset, words: one"):
        assert arguments(line) == [line]
    assert arguments("A sentence about the", "dataset: it goes on") == [
        *("A sentence about the", "dataset: it goes on"),
    ]
    assert arguments("workers: 2", thing=3) == ["workers: 2"]
    assert arguments("workers: 2. A", "Not so: it", "Raises OSError: no", "file") == [
        *("Args:", "    workers: 2. A", "        Not so: it", "", "Raises OSError: no", "file"),
    ]


def test_every_argument_of_the_reference_is_one_of_its_signature(site):
    for file in (site / "reference").glob("*.html"):
        for title in article(file).select("dl.field-list > dt"):
            assert " -- " not in title.find_next_sibling("dd").get_text()
            if not title.get_text().startswith("Parameters"):
                continue
            of = title.find_parent("dl", class_="py").find("dt", class_="sig")
            taken = {name.get_text().lstrip("*").split(":")[0] for name in of.select(".sig-param")}
            taken = {name.split("=")[0] for name in taken}
            for name in title.find_next_sibling("dd").select("strong"):
                assert {*name.get_text().replace("*", "").split(", ")} <= taken, of["id"]


def test_what_is_no_code_is_read_as_it_is_written():
    lines = ["|S| of `a|b*` and clip_ with *args, *one word* only::", "", "    |x| * y", ""]
    lines += ["again |x|", ">>> 2 ** 3 | 4"]
    keep_marks(None, "class", "", Stream, None, lines)
    assert lines[0] == r"\|S\| of `a|b*` and clip\_ with \*args, *one word* only::"
    assert lines[2] == "    |x| * y" and lines[4:] == [r"again \|x\|", ">>> 2 ** 3 | 4"]


def skipped(thing: object, name: str, what: str = "class") -> bool | None:
    return leave_out(None, what, name, thing, False, None)


class Pair(NamedTuple):
    first: int


def test_a_field_of_a_tuple_is_listed_by_its_class_alone(site):
    assert skipped(Pair.first, "first") is True
    assert skipped(Step.out, "out") is None
    for page in (site / "reference").glob("*.html"):
        assert "Alias for field number" not in page.read_text("utf-8")


def test_words_of_torch_are_not_ours(site):
    assert skipped(SGD.step, "step") is True
    assert skipped(Stream.collate, "collate") is True
    assert skipped(Stream.collate, "collate", "module") is None
    assert skipped(OGM.step, "step") is None  # Balancer says what it does
    assert skipped(MultimodalNet.forward, "forward") is None
    for method, words in ((Concat.forward, []), (OGM.step, ["a"]), (Balancer.step, ["a"])):
        lines = ["a"]
        drop_borrowed(None, "method", "", method, None, lines)
        assert lines == words
    page = article(site / "reference/mmlab.models.html")
    net = page.find("dt", id="mmlab.models.network.MultimodalNet.forward")
    said = net.find_next_sibling("dd").get_text()
    assert "Output" in net.get_text() and "joint and unimodal logits" in said
    fusion = page.find("dt", id="mmlab.models.fusion.Concat.forward")
    assert "Tensor" in fusion.get_text()
    assert fusion.find_next_sibling("dd").get_text(strip=True) == ""
    for file in (site / "reference").glob("*.html"):
        assert "Should be overridden by all subclasses" not in file.read_text("utf-8")


def test_what_is_computed_once_keeps_its_words(site):
    page = article(site / "reference/mmlab.training.html")
    out = page.find("dt", id="mmlab.training.step.Step.out").find_next_sibling("dd")
    assert "The forward pass." in out.get_text()


def constant(value: str) -> str:
    """A constant of this value, as a page shows it."""
    equals = addnodes.desc_sig_punctuation("", "=")
    typed = addnodes.desc_annotation("", "", addnodes.desc_sig_punctuation("", ":"))
    shown = addnodes.desc_annotation("", "", equals, nodes.Text(value))
    head, content = addnodes.desc_signature("", "A", typed, shown), addnodes.desc_content()
    addnodes.desc("", head, content)
    shorten_values(None, "py", "data", content)
    return head.astext()


def test_the_value_of_a_constant_is_short_and_has_names(site):
    assert constant("15") == "A:=15"
    assert constant("'<a> in mmlab.b and b.C'") == "A:='<a> in mmlab.b and b.C'"
    assert constant("(<class 'zlib.error'>, <function f>, <function <lambda>>, <enum 'E'>)") == (
        "A:=(error, f, lambda, E)"
    )
    assert constant("collections.abc.Callable[[torch.optim.sgd.SGD], mmlab.a.B]") == (
        "A:=Callable[[SGD], B]"
    )
    assert constant("'" + 200 * "a" + "'") == "A:"
    page = article(site / "reference/mmlab.plotting.html")
    assert "=" not in page.find("dt", id="mmlab.plotting.LOOKS").get_text()


def test_the_signature_of_a_dataclass_is_read_as_python(pages):
    default = "(a: ~b.C = <function f>, d: dict = <factory>)"
    assert name_defaults(None, "class", "", Stream, None, default, None) == (
        "(a: ~b.C = f, d: dict = ...)",
        None,
    )
    assert name_defaults(None, "data", "", 3, None, None, None) is None
    for page in pages.values():
        for parameter in page.select("dt.sig-object .sig-param"):
            assert not re.search("[~<]", parameter.get_text())


def test_a_long_signature_has_a_line_per_parameter(site):
    page = article(site / "reference/mmlab.training.html")
    fit = page.find("dt", id="mmlab.training.loop.fit")
    assert [line.get_text().strip() for line in fit.select("dl dd")][:2] == [
        "model: MultimodalNet,",
        "data: MultimodalData,",
    ]


def test_public_names_in_a_text_lead_to_the_reference(site):
    page = article(site / "00-a.html")
    (link,) = [a for a in page("a") if "fit" in a.get_text()]
    assert link["href"] == "reference/mmlab.training.html#mmlab.training.loop.fit"
    assert link.get_text() == "fit(net, data, epochs=5)"


def test_a_sentence_with_a_colon_stays_whole():
    lines = ["the one for the targets.", "", ":type: The loss; None"]
    keep_sentence(None, "property", "", None, None, lines)
    assert lines == ["The loss; None: the one for the targets.", ""]


def test_the_library_s_pages_learn_of_new_notebooks_at_the_end(tmp_path, monkeypatch):
    """Meanwhile those of the notebooks list all, and the others are not written."""
    monkeypatch.setattr("mmlab.notebooks.pages.reference.ROOMS", ())
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/words.md").write_text("# Words\n\n[it](../notebooks/00-a.ipynb)")
    out, folder = tmp_path / "build", tmp_path / "notebooks"
    folder.mkdir()
    (folder / "00-a.ipynb").write_text("{}")

    def listed(page: str) -> set[str]:
        links = soup(out / f"site/{page}.html")("a", href=True)
        return {
            name for name in ("00-a", "01-b") if any(f"{name}.html" in a["href"] for a in links)
        }

    add_result(out, "00-a")
    build(out, folder, library=True)
    assert listed("docs/words") == {"00-a"}
    add_result(out, "01-b")
    build(out, folder, library=True, whole=False)
    assert listed("00-a") == {"01-b"} and listed("index") == {"00-a", "01-b"}
    assert listed("docs/words") == {"00-a"}
    build(out, folder, library=True)
    assert listed("docs/words") == {"00-a", "01-b"}


def test_the_papers_are_there_with_links(site):
    links = [a["href"] for a in article(site / "docs/references.html")("a", href=True)]
    assert sum(link.startswith("https://arxiv.org/abs/") for link in links) > 10


def test_there_is_a_chinese_page(site):
    page = article(site / "README.zh.html")
    assert page.h1.find_parent("section")["lang"] == "zh"
    links = {a["href"] for a in page("a", href=True)}
    assert {"README.html", "docs/library.html", "docs/references.html"} <= links
    assert all(image["src"].startswith("data:image/") for image in page("img")) and page("img")
    first = soup(site / "index.html")
    for part in (first.select_one("article.bd-article"), first.select_one("nav.bd-links")):
        (link,) = part.find_all("a", href="README.zh.html")
        assert link.select_one('[lang="zh"]')
    assert article(site / "README.html").h1.find_parent("section").get("lang") is None
