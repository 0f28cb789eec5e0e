"""The command line of the course kit: ``python -m mmlab student|grade|slides``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmlab.course import grading, student
from mmlab.files import UnwritableError, write_atomically
from mmlab.notebooks.catalogue import ROOT, NotebookError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 if it was done, 2 if it cannot be done as asked."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (NotebookError, UnwritableError, grading.GradeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mmlab", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    help = "write the notebooks without solutions and answers"
    command = commands.add_parser("student", help=help, description=student.__doc__)
    add = command.add_argument
    add("folder", type=Path, metavar="DIR", help="where to; nothing is overwritten")
    add("numbers", nargs="*", default=[], metavar="NN", help="which; all if none is given")
    command.set_defaults(run=_student)

    help = "grade students' notebooks on hidden cases"
    command = commands.add_parser("grade", help=help)
    add = command.add_argument
    add("files", type=Path, nargs="+", metavar="FILE", help="notebooks of the student edition")
    add("--seed", type=int, default=0, help="of the hidden cases; choose one and tell nobody (0)")
    add("--seconds", type=float, default=60, help="that one exercise may take (60)")
    add("--csv", type=Path, default=ROOT / "build/grades.csv", help="(build/grades.csv)")
    command.set_defaults(run=_grade)

    help = "make slides of executed notebooks"
    command = commands.add_parser("slides", help=help)
    add = command.add_argument
    add("numbers", nargs="*", metavar="NN", help="which; all that were executed if none is given")
    add("--source", type=Path, default=ROOT / "build/notebooks", help="(build/notebooks/)")
    add("--out", type=Path, default=ROOT / "build/slides", help="(build/slides/)")
    add("--pdf", action="store_true", help="print them, too, where Chromium is installed")
    command.set_defaults(run=_slides)
    return parser


def _student(options: argparse.Namespace) -> None:
    paths = student.write(options.folder, options.numbers)
    print(f"{len(paths)} notebooks for students: {options.folder.resolve()}")


def _grade(options: argparse.Namespace) -> None:
    if missing := [str(file) for file in options.files if not file.is_file()]:
        raise NotebookError(f"there is no file {', '.join(missing)}; name notebooks")
    marks = []
    for file in options.files:
        found = grading.grade(file, seed=options.seed, seconds=options.seconds)
        print(grading.table(found), flush=True)
        marks += found
    write_atomically(options.csv, grading.as_csv(marks))
    print(f"The same as a table: {options.csv}")


def _slides(options: argparse.Namespace) -> None:
    from mmlab.course import slides  # its formulas need a package that nothing else here needs

    for path in slides.write(options.source, options.out, options.numbers):
        print(slides.print_pdf(path) if options.pdf else path)


if __name__ == "__main__":
    sys.exit(main())
