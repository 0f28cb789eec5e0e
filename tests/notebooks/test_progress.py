"""The lines that say how far a run is: on a terminal they are drawn over, in a log they stay."""

import io
import re
import unicodedata

import pytest

from mmlab.notebooks.progress import Progress
from mmlab.notebooks.result import Result


class Terminal(io.StringIO):
    def isatty(self):
        return True


def drawn(stream, title, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    progress = Progress(stream)
    result = Result("00-start", title, None, {}, cells=60, cell=7)
    progress.running["00-start"] = result, 0.0
    progress.draw()
    progress.draw()
    return stream.getvalue()


def columns_of(line):
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


@pytest.mark.parametrize("title", ["从这里开始学习 · Start here", "A long title " * 9])
@pytest.mark.parametrize("columns", [20, 40, 80])
def test_no_line_is_wider_than_the_terminal(monkeypatch, title, columns):
    """Else what is drawn over it would miss the part that was wrapped."""
    text = drawn(Terminal(), title, monkeypatch, columns)
    lines = re.sub(r"\x1b\[\d*[A-Z]", "", text).splitlines()
    assert len(lines) == 2 and lines[0].startswith("00  cell 7/60")
    assert all(columns_of(line) < columns for line in lines)
    assert columns < 80 or title[:10] in lines[0]


def test_on_a_terminal_a_line_takes_the_place_of_the_one_before(monkeypatch):
    text = drawn(Terminal(), "Start", monkeypatch, 80)
    assert text.count("\x1b[1F\x1b[J") == 1


def test_a_log_has_whole_lines_and_nothing_that_steers_a_terminal(monkeypatch):
    text = drawn(io.StringIO(), "A long title " * 9, monkeypatch, 40)
    assert "\x1b" not in text and "\r" not in text
    assert text.count("A long title") == 18
