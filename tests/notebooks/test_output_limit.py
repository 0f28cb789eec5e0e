"""One cell shows so much and no more, with a note; it goes on, and its errors are told."""

from pathlib import Path

import nbformat
import pytest
from jupyter_client.session import Session
from nbformat import v4
from small import write_notebook

from mmlab.notebooks import run
from mmlab.notebooks.output_limit import FRAME, LIMIT, LONGEST, NOTE, WRAPPING, OutputLimit
from mmlab.notebooks.worker import joined

HUGE = "from IPython.display import HTML, display\ndisplay(HTML('<b>x</b>' * 10_000_000))\nprint(1)"
ENDLESS = "while True:\n    print('x' * 1000)"


class Wire:
    """What a limited session sends, message by message."""

    def __init__(self) -> None:
        self.session = Session()
        self.session.send = self.note  # where the limit hands on to
        self.sent: list[dict] = []
        self.limit = OutputLimit(self.session)

    def note(self, stream, message, **_):
        self.sent.append(message)

    def say(self, kind, content, cell="a", **more) -> list[dict]:
        """Send a message of a cell; what of it travels."""
        before = len(self.sent)
        parent = self.session.msg_header("execute_request") | {"msg_id": cell}
        self.limit.send(None, kind, content, parent, **more)
        return [message["content"] for message in self.sent[before:]]

    def print(self, text, cell="a") -> str:
        said = self.say("stream", {"name": "stdout", "text": text}, cell)
        return "".join(content["text"] for content in said)


def test_printed_text_is_cut_with_one_note():
    wire = Wire()
    assert wire.print("short") == "short"
    cut = wire.print("begin" + "x" * LIMIT)
    assert cut.startswith("begin") and cut.endswith("x" + NOTE)
    assert LIMIT - 2000 < len(cut) < LIMIT + len(NOTE)
    assert wire.print("more") == ""
    assert wire.print("of another cell", cell="b") == "of another cell"


def test_what_is_no_text_is_sent_as_its_escape():
    wire = Wire()
    assert wire.print("a\ud800\x00é") == "a\\ud800\x00é"
    error = {"ename": "E", "evalue": "\udcff", "traceback": ["\udcff"]}
    assert wire.say("error", error) == [
        {"ename": "E", "evalue": "\\udcff", "traceback": ["\\udcff"]}
    ]


def test_what_just_fits_is_shown_and_every_print_counts_its_wrapping(monkeypatch):
    monkeypatch.setattr("mmlab.notebooks.output_limit.LIMIT", 3 * (WRAPPING + 1))
    wire = Wire()
    assert [wire.print("x") for _ in range(5)] == ["x", "x", "x", NOTE, ""]
    fits = "x" * (2 * WRAPPING + 3)
    assert wire.print(fits, cell="b") == fits


def test_many_small_outputs_are_large_as_well():
    wire = Wire()
    said = [wire.say("display_data", {"data": {"text/plain": "1"}}) for _ in range(LIMIT // 1000)]
    assert sum("data" in content for contents in said for content in contents) < LIMIT / FRAME
    assert [contents for contents in said if contents and "text" in contents[0]] == [
        [{"name": "stderr", "text": NOTE}]
    ]


def test_a_huge_figure_or_result_is_replaced_by_the_note():
    for kind in ("display_data", "update_display_data", "execute_result"):
        said = Wire().say(kind, {"data": {"text/html": "x" * LIMIT}})
        assert said == [{"name": "stderr", "text": NOTE}]


def test_widgets_have_a_limit_of_their_own_and_no_note():
    wire = Wire()
    assert wire.say("comm_msg", {"data": {}}, buffers=[bytes(LIMIT)]) == []
    assert wire.say("comm_open", {"data": {}}) == []
    assert wire.print("text") == "text"


def test_an_error_is_told_past_the_limit_and_is_short_itself():
    wire = Wire()
    wire.print("x" * LIMIT)
    error = {"ename": "E", "evalue": "x" * LIMIT, "traceback": ["a line", "x" * LIMIT]}
    (told,) = wire.say("error", error)
    assert told == {
        "ename": "E",
        "evalue": "x" * LONGEST,
        "traceback": ["a line", "x" * LONGEST],
    }
    (reply,) = wire.say("execute_reply", {"status": "error", **error})
    assert len(reply["evalue"]) == LONGEST
    assert wire.say("status", {"execution_state": "idle"}) == [{"execution_state": "idle"}]


def test_printed_text_is_joined_where_it_came_in_pieces():
    def stream(name, text):
        return v4.new_output("stream", name=name, text=text)

    figure = v4.new_output("display_data", {"text/plain": "1"})
    outputs = [stream("stdout", "a"), stream("stdout", "b"), stream("stderr", "c")]
    outputs += [figure, stream("stderr", "d")]
    assert [output.get("text") for output in joined(outputs)] == ["ab", "c", None, "d"]


@pytest.mark.parametrize("way", ["plain", "warm"])
def test_a_cell_that_prints_200_mb_goes_on_with_a_note(
    tmp_path: Path, way: str, request: pytest.FixtureRequest
) -> None:
    warm = request.getfixturevalue("warm_parent") if way == "warm" else None
    loud = "for _ in range(200):\n    print('x' * 10**6)\nwent_on = True"
    write_notebook(tmp_path / "notebooks", "00-a", loud, HUGE, "print(f'went on: {went_on}')")
    (result,) = run(folder=tmp_path / "notebooks", out=tmp_path / "build", warm=warm, timeout=300)
    assert result.ok, f"{result}\n{result.detail}"
    notebook = nbformat.read(tmp_path / "build/notebooks/00-a.ipynb", as_version=4)
    text, huge, after = ("".join(o.text for o in c.outputs) for c in notebook.cells[2:])
    assert text.endswith("x" + NOTE) and len(text) <= LIMIT + len(NOTE)
    assert huge == NOTE
    assert after == "went on: True\n"
    page = (tmp_path / "build/site/00-a.html").read_text("utf-8")
    assert page.count(NOTE.strip()) == 2


def test_endless_printing_ends_with_the_deadline(tmp_path, warm_parent):
    write_notebook(tmp_path / "notebooks", "00-a", ENDLESS)
    (result,) = run(
        folder=tmp_path / "notebooks", out=tmp_path / "build", warm=warm_parent, timeout=8
    )
    assert "deadline of 8 s" in result.cause
