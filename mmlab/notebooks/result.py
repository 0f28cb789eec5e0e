"""How a run of one notebook ended."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Result:
    """How one notebook ran; this is also what its JSON record holds."""

    notebook: str
    title: str
    minutes: str | None
    parameters: dict[str, Any]
    ok: bool = False
    cells: int = 0
    cell: int | None = None  # 1-based, where it failed
    line: str = ""
    cause: str = ""
    detail: str = ""
    notes: list[str] = field(default_factory=list)  # what to know though it ran
    seconds: float = 0.0
    finished: str = ""
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.ok:
            ran = f"{self.notebook}: ok, {self.cells} cells in {self.seconds:.0f} s"
            return "\n  note: ".join([ran, *self.notes])
        where = f", cell {self.cell}" if self.cell else ""
        line = f", {self.line}" if self.line else ""
        return f"{self.notebook}{where}{line}: {self.cause}"
