"""biprop sweep: searches over a grid of options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import config as options
from .. import interrupts, screen
from ..errors import UserError
from . import dry_run, next_step
from .common import EXIT_INTERRUPTED, warn
from .find import add_recipe, config_of, refuse_empty, with_data_set
from .parser import add_command, add_options, overrides

if TYPE_CHECKING:
    from ..console import Console
    from ..search.sweep import Cell, Sweep


_DESCRIPTION = """\
Run one search for each cell of a grid, that is for each combination of the values that --grid
lists. If the same command is started again, it skips the cells that are done and continues those
that were interrupted. Without --grid, it is the grid of the first paper: Conv2, Conv4, Conv6 and
Conv8, MPT-1/32 and MPT-1/1, on CIFAR-10, with a fraction of 0.8, 0.6, 0.5, 0.4, 0.2 and 0.1 of
the weights kept (48 cells). The state of the sweep is in LOG_DIR/sweeps/NAME/, its results are in
results.csv."""
_EPILOG = """\
examples:
  biprop sweep --grid prune_rate=0.5,0.2 seed=0,1,2
                                           six searches on the embedded digits
  biprop sweep --grid config=conv2_kn_unsigned,conv4_kn_unsigned prune_rate=0.5,0.2 \\
      --set CIFAR10 --data DIR
  biprop sweep --set CIFAR10 --data DIR --list
  biprop sweep --set CIFAR10 --data DIR --slurm > sweep.sh && sbatch sweep.sh"""


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands,
        "sweep",
        run,
        help="search over a grid of configurations, options and seeds",
        usage="biprop sweep [--grid KEY=V1,V2 ...] [options of biprop find]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--config", metavar="FILE", help="as for biprop find, unless --grid lists configurations"
    )
    add_recipe(parser)
    parser.add_argument(
        "--grid",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=V1,V2",
        help="values of an option of biprop find (not of name, layer_prune_rates and arch_args), or"
        " of config, the configuration:"
        " config=conv2_kn_unsigned,conv4_kn_unsigned prune_rate=0.5,0.2 seed=0,1,2",
    )
    parser.add_argument(
        "--cell", type=int, metavar="N", help="run only cell N, where 0 is the first of --list"
    )
    parser.add_argument(
        "--slurm",
        action="store_true",
        help="print a SLURM script that runs each cell as one task of an array job, and exit",
    )
    parser.add_argument(
        "--list", action="store_true", help="print the cells and their results so far, and exit"
    )
    parser.add_argument("--dry-run", action="store_true", help=dry_run.HELP)
    add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run, list or schedule the cells; returns the exit code."""
    from ..console import Console
    from ..search import sweep
    from ..search.sweep import Sweep

    cells = _cells(arguments)
    config = cells[0].config
    if arguments.slurm:
        command = ["biprop", *(part for part in arguments.argv if part != "--slurm")]
        screen.print_text(sweep.slurm_script(command, config.name, len(cells)))
        return 0
    console = Console(tolerant=not arguments.list)
    writes = not (arguments.dry_run or arguments.list)
    state = Sweep(Path(config.log_dir) / "sweeps" / config.name, cells, make=writes)
    if arguments.dry_run:
        return dry_run.show_sweep(list(state.unfinished(arguments.cell)), console)
    code = 0
    if arguments.list:
        state.check_options()
    else:
        code = _run_cells(state, console, arguments.cell)
    if code == 0:
        console.table(f"sweep {config.name}", state.rows())
        if any(state.has_result(cell) for cell in cells):
            console.line("", *next_step.after_sweep(state.folder))
    return code


def _cells(arguments: argparse.Namespace) -> list[Cell]:
    """The cells of the grid; there is at least one."""
    from ..search import sweep

    refuse_empty(arguments, "config", "recipe")
    config = config_of(arguments)
    grid = sweep.parse_grid(arguments.grid)
    if config and "config" in grid:
        raise UserError("--grid config=... and --config or --recipe: pass one of them")
    common = overrides(arguments)
    if twice := sorted(grid.keys() & common.keys()):
        raise UserError(
            f"--grid {twice[0]}=... and --{twice[0].replace('_', '-')}: pass one of them"
        )
    if "config" not in grid and "set" not in grid:
        common = with_data_set(common, config)
    return sweep.cells(grid, config, {"name": "sweep", **common})


def _run_cells(state: Sweep, console: Console, number: int | None) -> int:
    """Run the unfinished cells, or only cell `number`; returns the exit code."""
    from ..search import sweep
    from ..search.outcome import SearchStopped

    warnings = [line for cell in state.cells for line in options.warnings(cell.config)]
    warn(list(dict.fromkeys(warnings)))
    unfinished = len(list(state.unfinished(number)))
    console.line(f"{len(state.cells)} cells, {unfinished} to run; state in {state.folder}/")
    try:
        sweep.run(state, console, number)
    except SearchStopped as e:
        screen.report(f"stopped: {e}; the same command continues from here")
        return interrupts.EXIT_STOPPED
    except KeyboardInterrupt:
        screen.report("interrupted; the same command continues from here", start="\n")
        return EXIT_INTERRUPTED
    return 0
