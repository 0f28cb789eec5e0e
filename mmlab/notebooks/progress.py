"""How far each running notebook is, for a person to follow."""

import asyncio
import os
import re
import shutil
import time
from contextlib import suppress
from typing import TextIO

from tqdm.utils import disp_trim

from mmlab.notebooks.result import Result

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What would steer a terminal, in text that came from a notebook."""


def show(text: str, stream: TextIO | None) -> None:
    """Print a line, whatever the stream: a run does not end because nobody can read along.

    What the stream cannot encode is replaced. A stream that takes nothing more (a closed pipe, a
    full disk) is from then on a hole, so that Python does not stumble over it at its end either.
    """
    if stream is None:  # as sys.stdout is, where the caller closed it
        return
    encoding = stream.encoding or "utf-8"
    plain = CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
    try:
        stream.write(plain.encode(encoding, "replace").decode(encoding) + "\n")
        stream.flush()
    except (OSError, ValueError):  # ValueError: the stream was closed
        _make_a_hole(stream)


def _make_a_hole(stream: TextIO) -> None:
    """Let what was written to a stream, and what will be, go nowhere."""
    try:
        hole = os.open(os.devnull, os.O_WRONLY)
        os.dup2(hole, stream.fileno())
        os.close(hole)
    except (OSError, ValueError):
        return  # a stream without a file, and so without anything that waits to be written


def _unwrapped(line: str) -> str:
    """As much of a line as the terminal has columns for; a wide character takes two."""
    return disp_trim(line, shutil.get_terminal_size().columns - 1)


class Progress:
    """Tells a person how far each running notebook is: live lines on a terminal or plain ones."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream
        self.live = stream is not None and not stream.closed and stream.isatty()
        self.pause = 1.0 if self.live else 10.0  # seconds between two looks
        self.running: dict[str, tuple[Result, float]] = {}
        self._drawn = 0

    def draw(self) -> None:
        """Show a line for each notebook that runs, over those drawn before."""
        self._erase()
        for result, start in self.running.values():
            seconds = time.monotonic() - start
            place = f"cell {result.cell or 0}/{result.cells}"
            line = f"{result.notebook[:2]}  {place:12}  {seconds:5.0f} s  {result.title}"
            show(_unwrapped(line) if self.live else line, self.stream)
        self._drawn = len(self.running)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._erase()
        self._drawn = 0
        show(text, self.stream)

    def _erase(self) -> None:
        if self.live and self.stream and self._drawn:
            with suppress(OSError):  # the terminal is gone
                self.stream.write(f"\x1b[{self._drawn}F\x1b[J")

    async def keep_drawing(self) -> None:
        while True:
            await asyncio.sleep(self.pause)
            self.draw()
