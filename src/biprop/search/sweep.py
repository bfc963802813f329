"""A sweep: one search per cell of a grid over configurations and options, each run once, however
often the command is started.

The state of a cell is a small JSON file of its own, so that any number of processes can work on one
sweep, as a SLURM array does.
"""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import config as options
from .. import screen
from ..config import Config
from ..errors import UserError, did_you_mean
from ..files import write_text_atomically
from ..runs.folder import RESULT, newest_checkpoint, without_machine

if TYPE_CHECKING:
    from ..checkpoint import Content
    from ..console import Console
    from ..data import DataSet, Expect
    from .outcome import Result

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
    """One search of the grid.

    Attributes:
        number: from 0.
        values: the grid's values for this cell, by key, as texts.
        config: all options of the search.
        config_name: name of their file.
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
    """Parse "KEY=V1,V2" texts into values by key; without any, `CIFAR10_GRID`.

    Raises:
        UserError: an unknown option, a missing value, or a key or a value twice.
    """
    grid: dict[str, list[str]] = {}
    for item in items:
        key, values = _parse_item(item)
        if key in grid:
            raise UserError(f"--grid {item}: {key} is given twice")
        grid[key] = values
    return grid or CIFAR10_GRID


def _parse_item(item: str) -> tuple[str, list[str]]:
    key, separator, values = item.partition("=")
    key = key.replace("-", "_")
    key = options.ALIASES.get(key, key)
    if not separator or not all(values.split(",")):
        raise UserError(f"--grid {item}: must be KEY=VALUE,VALUE, e.g. prune_rate=0.5,0.2")
    keys = ["config", *(name for name in options.FIELDS if name not in _NOT_IN_GRIDS)]
    if key in _NOT_IN_GRIDS:
        raise UserError(f"--grid {item}: {key} cannot be in a grid; pass it as an option, for all")
    if key not in keys:
        raise UserError(f"--grid {item}: no such option{did_you_mean(key, keys)}")
    listed = values.split(",")
    if twice := [value for value in listed if listed.count(value) > 1]:
        raise UserError(f"--grid {item}: {twice[0]} is given twice")
    return key, listed


_NOT_IN_GRIDS = ("name", "layer_prune_rates", "arch_args")
"""Options that belong to the whole sweep, or whose values are no single text."""


def cells(
    grid: Mapping[str, Sequence[str]], config_file: str | None, common: Mapping[str, Any]
) -> list[Cell]:
    """All cells of a grid, the last key varying fastest. The options of all are checked before any
    search starts.

    Args:
        grid: values by option, or by "config".
        config_file: the configuration, where the grid has no "config".
        common: options of all cells.

    Raises:
        UserError: see `config.resolve`.
    """
    combinations = itertools.product(*grid.values())
    all_values = [dict(zip(grid, combination, strict=True)) for combination in combinations]
    return [_cell(number, values, config_file, common) for number, values in enumerate(all_values)]


def _cell(
    number: int, values: dict[str, str], config_file: str | None, common: Mapping[str, Any]
) -> Cell:
    own = {key: value for key, value in values.items() if key != "config"}
    config, name = options.resolve(values.get("config", config_file), {**common, **own})
    return Cell(number, values, config, name)


class Sweep:
    """The state of a sweep in <log_dir>/sweeps/<name>/.

    Args:
        folder: of the sweep.
        cells: all of them.
        make: make the folder where there is none.

    Raises:
        UserError: the folder holds cells of another grid, or cannot be written.
    """

    def __init__(self, folder: Path, cells: Sequence[Cell], make: bool = True) -> None:
        self.folder, self.cells = folder, cells
        try:
            if make:
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise UserError(f"{folder}: cannot be made: {e.strerror}") from None
        for cell in cells:
            if (state := self.state(cell)) and state["values"] != cell.values:
                raise UserError(f"{folder}: holds cells of another grid: choose another --name")

    def _path(self, cell: Cell) -> Path:
        return self.folder / f"{cell.number}.json"

    def state(self, cell: Cell) -> dict[str, Any]:
        """A cell's values, status, run folder and results; empty before it starts.

        Raises:
            UserError: its file is damaged.
        """
        path = self._path(cell)
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except (OSError, ValueError) as e:
            raise UserError(f"{path}: not the state of a cell: {e}") from None

    def record(self, cell: Cell, status: str, **facts: Any) -> None:
        """Write the state of a cell (an atomic write)."""
        settings = without_machine(options.as_dict(cell.config))
        state = {"values": cell.values, "options": settings, "status": status, **facts}
        write_text_atomically(self._path(cell), json.dumps(state, indent=1) + "\n")

    def unfinished(self, number: int | None = None) -> Iterator[Cell]:
        """The cells that are neither done nor diverged: all of them, or cell `number` if it is one.

        Raises:
            UserError: there is no cell `number`; or a cell was begun with other options.
        """
        if number is not None and not 0 <= number < len(self.cells):
            raise UserError(f"--cell {number}: must be between 0 and {len(self.cells) - 1}")
        for cell in self.cells if number is None else [self.cells[number]]:
            state = self.state(cell)
            self._check_options(cell, state.get("options"))
            if state.get("status") not in (DONE, DIVERGED):
                yield cell

    def check_options(self) -> None:
        """Check that all cells that were begun have the options of now.

        Raises:
            UserError: a cell was begun with other options.
        """
        for cell in self.cells:
            self._check_options(cell, self.state(cell).get("options"))

    def _check_options(self, cell: Cell, recorded: Mapping[str, Any] | None) -> None:
        """Raise UserError if a cell was begun with other options than it has now: its result would
        be shown as theirs.

        `recorded`: those that its file records, without those of the machine; None: it has none.
        """
        if recorded is None:
            return
        now = json.loads(json.dumps(without_machine(options.as_dict(cell.config))))
        before = {**options.as_dict(Config()), **recorded}
        if different := [name for name, value in now.items() if before[name] != value]:
            name = different[0]
            raise UserError(
                f"{self._path(cell)}: was searched with {name} = {before[name]}, not"
                f" {now[name]}: choose another --name"
            )

    def has_result(self, cell: Cell) -> bool:
        """Whether the search of a cell is done."""
        return self.state(cell).get("status") == DONE

    def rows(self) -> list[tuple[str, str]]:
        """The grid's values and the result or status of each cell."""
        return [(str(cell), _in_words(self.state(cell))) for cell in self.cells]


def _in_words(state: Mapping[str, Any]) -> str:
    status: str = state.get("status", WAITING)
    if status != DONE:
        return status
    return f"{state['test_top1']:.2f} %  (kept {100 * state['density']:.2f} %)"


def run(sweep: Sweep, console: Console, number: int | None = None) -> None:
    """Run the cells that are not done; one that has a checkpoint continues from it.

    `number`: only this cell.

    Raises:
        UserError: data or options do not work; the cells done so far stay.
    """
    loader = Loader(sweep.cells)
    for cell in sweep.unfinished(number):
        console.line("", f"cell {cell.number + 1} of {len(sweep.cells)}: {cell}")
        _run_cell(sweep, cell, loader.load(cell.config, console), console)


class Loader:
    """Loads the data of cells, once for consecutive cells of the same data options.

    Args:
        cells: of the sweep. The networks of all that share the data are tried before they are read.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._cells = cells
        self._options: list[Any] = []
        self._data: DataSet | None = None

    def load(self, config: Config, console: Console) -> DataSet:
        """The data of a cell.

        Raises:
            UserError: see `data.load`.
        """
        from .. import data

        values = _data_options(config)
        if self._data is None or values != self._options:
            sharing = [c.config for c in self._cells if _data_options(c.config) == values]
            self._data = data.load(config, console.track, expectation(*sharing))
            self._options = values
            _warn_about(self._data)
        return self._data


def _data_options(config: Config) -> list[Any]:
    return [getattr(config, name) for name in DATA_OPTIONS]


def expectation(*configs: Config) -> Expect:
    """Rehearses searches of these options as soon as the shape of the data is known, each network
    once.
    """
    from ..models.network import Task
    from .rehearsal import rehearse

    different = {(str(config.arch), str(config.arch_args)): config for config in configs}

    def expect(classes: int, shape: tuple[int, ...]) -> None:
        for config in different.values():
            rehearse(config, Task(classes, shape[0], shape[1:]))

    return expect


def _warn_about(data: DataSet) -> None:
    for note in (*data.notes, *data.search_notes):
        screen.report(f"warning: {note}")


def _run_cell(sweep: Sweep, cell: Cell, data: DataSet, console: Console) -> None:
    """Search, and record the state of the cell."""
    from .loop import Search
    from .outcome import SearchDiverged

    start = _checkpoint_of(sweep.state(cell), cell.config)
    search = Search(cell.config, cell.config_name, data, console, start, resume=bool(start))
    sweep.record(cell, RUNNING, folder=str(search.open_folder()))
    console.line(f"run folder {search.folder}{search.from_where()}")
    try:
        result = search.run()
    except SearchDiverged as e:
        console.line(f"diverged: {e}")
        sweep.record(cell, DIVERGED, folder=str(search.folder), why=str(e))
        return
    sweep.record(cell, DONE, **_facts(result))
    console.line(f"test accuracy {result.test.top1:.2f} %")


def _checkpoint_of(state: Mapping[str, Any], config: Config) -> Content | None:
    """The checkpoint from which a cell continues; None if there is none."""
    from .. import checkpoint

    folder = state.get("folder")
    path = newest_checkpoint(Path(folder)) if folder else None
    if path is None:
        return None
    start = checkpoint.read(path, {})
    if _is_trained(start, config):
        # The sweep was killed before it recorded the end of this search: the end is done again.
        (path.parents[1] / RESULT).unlink(missing_ok=True)
    return start


def _is_trained(start: Content, config: Config) -> bool:
    """Whether the search of a checkpoint has trained to its end."""
    if config.minutes is None:
        return start.epoch >= config.epochs
    return bool(start.ours and start.ours.get("progress", 0) >= 1)


def _facts(result: Result) -> dict[str, Any]:
    """What the state of a cell records of its result."""
    return {
        "folder": str(result.folder),
        "test": asdict(result.test),
        "test_top1": result.test.top1,
        "density": result.density,
        "epoch": result.epoch,
        "seconds": result.seconds,
    }


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
    """A SLURM batch script whose array has one task per cell.

    Args:
        command: of the sweep, without --slurm.
        name: of the sweep.
        count: cells.
    """
    return f"""\
#!/bin/bash
#SBATCH --job-name=biprop-{name}
#SBATCH --array=0-{count - 1}
#SBATCH --output=biprop-{name}-%a.log
# Add what your cluster wants (time, partition, GPU), then: sbatch THIS_FILE.
# Tasks that are done already end at once.
{shlex.join(command)} --cell "$SLURM_ARRAY_TASK_ID"
"""
