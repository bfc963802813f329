"""biprop sweep: a grid of searches."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .. import config as options
from .. import interrupts, screen
from .common import INTERRUPTED, warn
from .find import with_set
from .parser import add_command, add_options, overrides


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands,
        "sweep",
        run,
        help="search over a grid of configurations, options and seeds",
        usage="biprop sweep [--grid KEY=V1,V2 ...] [options of biprop find]",
        description=(
            "Run one search per cell of a grid. Started again, the same command skips what is done"
            " and goes on with\nwhat was interrupted. Without --grid: Conv2/4/6/8, MPT-1/32 and"
            " MPT-1/1, on CIFAR-10, at prune rates 0.8, 0.6, 0.5,\n0.4, 0.2 and 0.1 (48 cells). The"
            " state is in <log-dir>/sweeps/<name>/, results are in results.csv."
        ),
    )
    parser.add_argument(
        "--config", metavar="FILE", help="as of biprop find, where the grid does not name one"
    )
    parser.add_argument(
        "--grid", nargs="+", action="extend", default=[], metavar="KEY=V1,V2",
        help="values of an option, or of config: config=conv2_kn_unsigned,conv4_kn_unsigned prune_rate=0.5,0.2 seed=0,1,2",
    )  # fmt: skip
    parser.add_argument("--cell", type=int, metavar="N", help="run this cell only, counted from 0")
    parser.add_argument(
        "--slurm", action="store_true", help="print a SLURM array script, a task per cell, and stop"
    )
    parser.add_argument(
        "--list", action="store_true", help="print the cells and their results so far, and stop"
    )
    add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    from ..console import Console
    from ..search import sweep
    from ..search.sweep import Sweep

    grid = sweep.parse_grid(arguments.grid)
    common = overrides(arguments)
    if "config" not in grid and "set" not in grid:
        common = with_set(common, arguments.config)
    found = sweep.cells(grid, arguments.config, {"name": "sweep", **common})
    name = found[0].config.name
    if arguments.slurm:
        command = ["biprop", *(part for part in arguments.argv if part != "--slurm")]
        screen.show(sweep.slurm_script(command, name, len(found)))
        return 0
    console = Console(lasting=not arguments.list)
    state = Sweep(Path(found[0].config.log_dir) / "sweeps" / name, found)
    if not arguments.list:
        from ..search.outcome import SearchStopped

        warn(list(dict.fromkeys(line for cell in found for line in options.warnings(cell.config))))
        console.line(
            f"{len(found)} cells, {len(list(state.unfinished(arguments.cell)))} to run; state in"
            f" {state.folder}/"
        )
        try:
            sweep.run(state, console, arguments.cell)
        except SearchStopped as e:
            screen.tell(f"stopped: {e}; the same command goes on from here")
            return interrupts.STOPPED
        except KeyboardInterrupt:
            screen.tell("interrupted; the same command goes on from here", start="\n")
            return INTERRUPTED
    console.table(f"sweep {name}", state.rows())
    return 0
