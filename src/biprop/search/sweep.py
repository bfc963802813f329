"""Many searches: the cells of a grid over configurations and options, each once, however often the
command is started.

A cell's state is a small JSON file of its own, so that any number of processes can work on one
sweep (a SLURM array does).
"""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import config as options
from .. import screen
from ..config import Config
from ..errors import UserError, did_you_mean
from ..files import replace_text

CIFAR10_GRID: dict[str, list[str]] = {
    "config": [
        f"configs/smallscale/conv{depth}/conv{depth}{kind}_kn_unsigned.yml"
        for kind in ("", "_BinAct")
        for depth in (2, 4, 6, 8)
    ],
    "prune_rate": ["0.8", "0.6", "0.5", "0.4", "0.2", "0.1"],
}
"""The grid of the first paper's figures: Conv2/4/6/8, MPT-1/32 and MPT-1/1."""

WAITING, RUNNING, DONE, DIVERGED = "waiting", "running", "done", "diverged"


@dataclass(frozen=True)
class Cell:
    """One search of the grid: its number, what it has instead of the common options, and all its
    options.
    """

    number: int
    values: dict[str, str]
    config: Config
    config_name: str

    def __str__(self) -> str:
        return "  ".join(
            f"{key}={Path(value).stem if key == 'config' else value}"
            for key, value in self.values.items()
        )


def parse_grid(items: Sequence[str]) -> dict[str, list[str]]:
    """KEY=V1,V2 texts as key -> values; without any, `CIFAR10_GRID`.

    Raises:
        UserError: no such option, no value, or a key twice.
    """
    grid: dict[str, list[str]] = {}
    known = [
        "config",
        *(name for name in options.FIELDS if name not in ("name", "layer_prune_rates")),
    ]
    for item in items:
        key, separator, values = item.partition("=")
        key = key.replace("-", "_")
        key = options.ALIASES.get(key, key)
        if not separator or not all(values.split(",")):
            raise UserError(f"--grid {item}: must be KEY=VALUE,VALUE, e.g. prune_rate=0.5,0.2")
        if key not in known:
            raise UserError(f"--grid {item}: no such option{did_you_mean(key, known)}")
        if key in grid:
            raise UserError(f"--grid {item}: {key} is given twice")
        grid[key] = values.split(",")
    return grid or CIFAR10_GRID


def cells(
    grid: Mapping[str, Sequence[str]], config_file: str | None, common: Mapping[str, Any]
) -> list[Cell]:
    """All cells, the last key running fastest; every one's options are checked before any runs.

    Raises:
        UserError: see `config.resolve`.
    """
    found = []
    for number, values in enumerate(
        dict(zip(grid, choice, strict=True)) for choice in itertools.product(*grid.values())
    ):
        own = {key: value for key, value in values.items() if key != "config"}
        config, name = options.resolve(values.get("config", config_file), {**common, **own})
        found.append(Cell(number, values, config, name))
    return found


class Sweep:
    """The state of a sweep in <log_dir>/sweeps/<name>/.

    Raises:
        UserError: the folder holds cells of another grid, or cannot be written.
    """

    def __init__(self, folder: Path, cells: Sequence[Cell]) -> None:
        self.folder, self.cells = folder, cells
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise UserError(f"{folder}: cannot be made: {e.strerror}") from None
        for cell in cells:
            if (state := self.state(cell)) and state["values"] != cell.values:
                raise UserError(f"{folder}: holds cells of another grid: choose another --name")

    def _path(self, cell: Cell) -> Path:
        return self.folder / f"{cell.number}.json"

    def state(self, cell: Cell) -> dict[str, Any]:
        """What is known of a cell: values, status, folder, results; empty before it starts."""
        path = self._path(cell)
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except (OSError, ValueError) as e:
            raise UserError(f"{path}: not the state of a cell: {e}") from None

    def record(self, cell: Cell, status: str, **facts: Any) -> None:
        state = {"values": cell.values, "status": status, **facts}
        replace_text(self._path(cell), json.dumps(state, indent=1) + "\n")

    def unfinished(self, number: int | None = None) -> Iterator[Cell]:
        """The cells to run: all that are neither done nor diverged, or cell `number` if it is one
        of them.

        Raises:
            UserError: there is no cell `number`.
        """
        if number is not None and not 0 <= number < len(self.cells):
            raise UserError(f"--cell {number}: must be between 0 and {len(self.cells) - 1}")
        for cell in self.cells if number is None else [self.cells[number]]:
            if self.state(cell).get("status") not in (DONE, DIVERGED):
                yield cell

    def rows(self) -> list[tuple[str, str]]:
        """A line per cell: what it is, and its result or status."""
        lines = []
        for cell in self.cells:
            state = self.state(cell)
            status = state.get("status", WAITING)
            accuracy = (
                f"{state['test_top1']:.2f} %  (kept {100 * state['density']:.2f} %)"
                if status == DONE
                else status
            )
            lines.append((str(cell), accuracy))
        return lines


def run(sweep: Sweep, console: Any, number: int | None = None) -> None:
    """Run what is unfinished, going on in the middle of a cell where it left a checkpoint.

    Raises:
        UserError: data or options do not work; what was done stays.
    """
    from .. import checkpoint, data
    from ..runs.folder import RESULT, newest_checkpoint
    from .loop import Search
    from .outcome import SearchDiverged

    loaded: tuple[Any, data.DataSet] | None = None
    for cell in sweep.unfinished(number):
        config = cell.config
        console.line("", f"cell {cell.number + 1} of {len(sweep.cells)}: {cell}")
        data_options = [getattr(config, name) for name in DATA_OPTIONS]
        if loaded is None or loaded[0] != data_options:
            loaded = data_options, data.load(config, console.track)
            for note in (*loaded[1].notes, *loaded[1].search_notes):
                screen.tell(f"warning: {note}")
        folder = sweep.state(cell).get("folder")
        last = newest_checkpoint(Path(folder)) if folder else None
        start = checkpoint.read(last, {}) if last else None
        if last and start and start.epoch >= config.epochs:
            # It was killed before its end was recorded here: that is done again.
            (last.parents[1] / RESULT).unlink(missing_ok=True)
        search = Search(config, cell.config_name, loaded[1], console, start, resume=bool(start))
        sweep.record(cell, RUNNING, folder=str(search.folder))
        console.line(f"run folder {search.folder}{search.from_where()}")
        try:
            result = search.run()
        except SearchDiverged as e:
            console.line(f"diverged: {e}")
            sweep.record(cell, DIVERGED, folder=str(search.folder), why=str(e))
            continue
        facts = {
            "test_top1": result.test.top1,
            "density": result.density,
            "epoch": result.epoch,
            "seconds": result.seconds,
        }
        sweep.record(cell, DONE, folder=str(result.folder), test=asdict(result.test), **facts)
        console.line(f"test accuracy {result.test.top1:.2f} %")


DATA_OPTIONS = options.with_roles(
    options.Role.DATA_SET,
    options.Role.DATA_PATH,
    options.Role.DATA_WORKERS,
    options.Role.CHANNELS,
    options.Role.CLASSES,
    options.Role.BATCHES,
    options.Role.AUGMENTATION,
    options.Role.VIEWS,
    options.Role.SELECTION,
)
"""Options that decide what is loaded: cells that agree in them share the images."""


def slurm_script(command: Sequence[str], name: str, count: int) -> str:
    """A batch script whose array has one task per cell; `command` is this sweep's, without --slurm."""
    return f"""\
#!/bin/bash
#SBATCH --job-name=biprop-{name}
#SBATCH --array=0-{count - 1}
#SBATCH --output=biprop-{name}-%a.log
# Add what your cluster wants (time, partition, GPU), then: sbatch THIS_FILE. Tasks that are done already end at once.
{shlex.join(command)} --cell "$SLURM_ARRAY_TASK_ID"
"""
