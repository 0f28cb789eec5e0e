"""What the loop and the methods cost; ``python -m mmlab.bench`` prints it."""

from mmlab.bench.tables import METHODS, TABLES, run

__all__ = ["METHODS", "TABLES", "run"]
