"""What the loop and the methods cost: ``python -m mmlab.bench [--json] [--rounds 25] [TABLE ...]``.

Every figure is a ratio, the median with quartiles over rounds. What is compared runs in turns
within every round, so that a machine that slows down slows both sides; CPU time leaves out what
other programs take. One thread on a CPU; on a GPU the wall clock, and the device is named.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence

import torch

from mmlab.bench.figure import draw_scaling
from mmlab.bench.tables import TABLES, run
from mmlab.bench.timing import Table
from mmlab.training import find_device


def main(arguments: Sequence[str] | None = None) -> None:
    """Time what is asked for; print it, table by table as it is ready, or as one JSON object."""
    options = parse(arguments)
    device = find_device(options.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "one CPU thread"
    results: Iterable[tuple[str, Table]] = run(
        options.tables or tuple(TABLES), options.rounds, options.device
    )
    if options.figure:
        results = list(run(["scaling"], options.rounds, options.device))
        draw_scaling(dict(results))
    if options.json:
        print(json.dumps({"where": where, "rounds": options.rounds, **dict(results)}, indent=2))
        return
    print(f"{where}, {options.rounds} rounds: median [quartiles]")
    for title, table in results:
        print(f"\n{title}", flush=True)
        for name, row in table.items():
            print(line(name, row))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; what cannot be done ends the program with a message."""
    parser = argparse.ArgumentParser(prog="python -m mmlab.bench", description=__doc__)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=25, help="timed rounds, at least 2")
    parser.add_argument("--device", default="cpu", help="where the steps run (cpu)")
    parser.add_argument("--figure", action="store_true", help="draw `scaling`: figures/cost.png")
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error(f"--rounds is {options.rounds}; quartiles need at least 2")
    if unknown := set(options.tables) - set(TABLES):
        parser.error(f"unknown table {', '.join(unknown)}; allowed: {', '.join(TABLES)}")
    if options.figure and options.tables not in ([], ["scaling"]):
        parser.error(f"--figure draws scaling, not {', '.join(options.tables)}; leave them out")
    return options


def line(name: str, row: Mapping[str, float]) -> str:
    """A row of a table in words: median, quartiles, and the floor where there is one."""
    low, middle, high = row["lower quartile"], row["median"], row["upper quartile"]
    floor = f"  floor {row['floor']:.2f}" if "floor" in row else ""
    return f"  {name:26s} {middle:7.3f} [{low:.3f}, {high:.3f}]{floor}"


if __name__ == "__main__":
    main()
