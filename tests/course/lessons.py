"""Students' files for the tests: notebooks of the given code cells."""

from pathlib import Path

import nbformat
from nbformat import v4

TEMPLATE = "from mmlab.teaching import exercise\nfrom mmlab.teaching.exercises import nb10"
RANKS = """
@exercise(**nb10.mean_ranks)
def mean_ranks(scores):
    n = len(scores)
    return [sum(rank(s, j) for s in scores) / n for j in range(len(scores[0]))]


def rank(s, j):
    return sum(o > s[j] for o in s) + (sum(o == s[j] for o in s) + 1) / 2
"""
ERROR = """
@exercise(**nb10.overlap_error)
def overlap_error(values, train, test):
    return torch.tensor(values).std() * (1 / len(values) + test / train) ** 0.5
"""
"""Both right, once torch is imported."""


def hand_in(folder: Path, *cells: str, name: str = "10.ipynb") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    code = [v4.new_code_cell(source.strip("\n")) for source in (TEMPLATE, *cells)]
    nbformat.write(v4.new_notebook(cells=code), folder / name)
    return folder / name
