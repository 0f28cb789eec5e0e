"""How far each running notebook is, for a person to follow."""

import asyncio
import time
from typing import TextIO

from mmlab.notebooks.result import Result


class Progress:
    """Tells a person how far each running notebook is: live lines on a terminal or plain ones."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.live = stream.isatty()
        self.pause = 1.0 if self.live else 10.0  # seconds between two looks
        self.running: dict[str, tuple[Result, float]] = {}
        self._drawn = 0

    def draw(self) -> None:
        """Show a line for each notebook that runs, over those drawn before."""
        self._erase()
        for result, start in self.running.values():
            seconds = time.monotonic() - start
            place = f"cell {result.cell or 0}/{result.cells}"
            number, title = result.notebook[:2], result.title[:40]  # no line may wrap
            print(f"{number} {title}  {place}  {seconds:.0f} s", file=self.stream, flush=True)
        self._drawn = len(self.running)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._erase()
        self._drawn = 0
        print(text, file=self.stream, flush=True)

    def _erase(self) -> None:
        if self.live and self._drawn:
            self.stream.write(f"\x1b[{self._drawn}F\x1b[J")

    async def keep_drawing(self) -> None:
        while True:
            await asyncio.sleep(self.pause)
            self.draw()
