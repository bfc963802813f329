"""biprop plot: a figure of a table of results, for a paper."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .common import plural, warn
from .parser import DEBUG, add_command, check_folder

_DESCRIPTION = """\
Plot a column of results.csv, or of another CSV file, against another one. Rows with the same
value on the x axis become one point, their mean; its bar is one sample standard deviation to
each side, over seeds for example. Columns may be written as prune_rate for "Prune Rate", and
config for "Base Config". Figures need matplotlib: pip install 'biprop[plots]'."""

_EPILOG = """\
examples:
  biprop plot runs/results.csv --x prune_rate --y "Test Top 1" --by config -o figure.pdf
  biprop plot runs/results.csv --x prune_rate --y "Test Top 1" --where Seed=0 -o figure.svg"""


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands,
        "plot",
        run,
        help="draw a figure of results.csv, with error bars over seeds",
        usage="biprop plot FILE.csv --x COLUMN --y COLUMN [--by COLUMN] -o FIGURE.pdf",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("file", metavar="FILE.csv", help="table with a row per run")
    parser.add_argument("--x", required=True, metavar="COLUMN", help="column of the x axis")
    parser.add_argument("--y", required=True, metavar="COLUMN", help="column of the y axis")
    parser.add_argument("--by", metavar="COLUMN", help="a curve for each value of this column")
    parser.add_argument(
        "--where",
        nargs="+",
        action="extend",
        default=[],
        metavar="COLUMN=VALUE",
        help="use only the rows with these values",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FIGURE",
        help="figure to write: its suffix is .pdf, .png or .svg",
    )
    parser.add_argument("--log-x", action="store_true", help="logarithmic x axis")
    parser.add_argument("--title", default="", help="title above the figure")
    parser.add_argument("--debug", **DEBUG)


_MIXED = "rows of one point differ in it: choose with --where or --by"
_BY_CLOCK = ", unless the searches had a budget of time (--minutes)"


def run(arguments: argparse.Namespace) -> int:
    """Draw the figure and report; returns the exit code."""
    from ..console import Console
    from ..report import figure
    from ..report.results_table import Table

    output = Path(arguments.output)
    figure.check(output)
    check_folder(output)
    whole = Table.read(Path(arguments.file))
    x, y = whole.column(arguments.x, "--x"), whole.column(arguments.y, "--y")
    by = whole.column(arguments.by, "--by") if arguments.by else None
    table = whole.where(arguments.where)
    curves, labels = table.curves(x, y, by)
    if mixed := table.mixed_options(x, y, by):
        warn([f"{column}: {_MIXED}{_BY_CLOCK * (column == 'Epochs')}" for column in mixed])
    figure.draw(curves, labels, (x, y), by or "", output, arguments.log_x, arguments.title)
    points = sum(len(curve.x) for curve in curves)
    rows = sum(sum(curve.counts) for curve in curves)
    summary = f"{plural(len(curves), 'curve')}, {plural(points, 'point')}, {plural(rows, 'row')}"
    Console().line(f"{output} written  ({summary})")
    return 0
