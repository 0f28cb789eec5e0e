"""Write the table of methods into README.md: ``python -m mmlab.balancers``."""

from pathlib import Path

from mmlab.balancers.registry import write_table

if __name__ == "__main__":
    write_table(Path(__file__).resolve().parents[2] / "README.md")
