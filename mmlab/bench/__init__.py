"""What the loop and the methods cost; ``python -m mmlab.bench`` prints it."""

from mmlab.bench.tables import TABLES, run

__all__ = ["TABLES", "run"]
