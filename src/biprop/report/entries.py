"""What a report reads: run folders, sweeps, tickets and decks, and the files beside them.

The content of these files may be anybody's. They are read as data; none decides which other files
are opened, except that a sweep names run folders, which are looked for inside its own folder of
runs only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .. import config as options
from ..config import Config
from ..deck import Deck
from ..errors import UserError, abbreviated, one_line
from ..names import DECK_SUFFIX, TICKET_SUFFIX
from ..runs.folder import (
    LAYERS,
    LOGS,
    METRICS,
    PROGRESS,
    RESULT,
    ROW,
    SETTINGS,
    find_checkpoint,
    read_metrics,
    read_object,
)
from ..ticket import Ticket
from ..ticket.report import right_and_images
from .measurements import Measured, beside
from .scales import drawable

Kind = Literal["run", "ticket", "deck"]
Pack = Callable[[Path], Ticket]


@dataclass(frozen=True)
class Density:
    """The fraction kept of a layer, in [0, 1], and its number of weights."""

    layer: str
    weights: int
    kept: int

    @property
    def percent(self) -> float:
        """Percentage of the weights that is kept."""
        return 100 * self.kept / max(1, self.weights)


@dataclass
class Entry:
    """One network of a report, or one deck.

    Attributes:
        name: unique on the page.
        kind: what it was read from.
        path: of its folder or file, as the user passed it.
        config_name: name of its configuration; empty if unknown.
        settings: all options of its search; empty if unknown.
        values: the values of a sweep's grid; empty if it is not of a sweep.
        versions: what made it, in words.
        epochs: lines of metrics.jsonl.
        best_epoch: from 1; 0 if unknown.
        counts: (images classified correctly, images) by split: "test", "validation".
        layers: the masked layers.
        ticket: its ticket, packed in memory for a run; None if there is none.
        size: bytes of the ticket or deck as a file; None if there is none.
        deck: None if it is none.
        scores: its robustness measurement; None if there is none.
        missing: what the report leaves out, and what would add it, one line each.
    """

    name: str
    kind: Kind
    path: Path
    config_name: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    versions: str = ""
    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    layers: list[Density] = field(default_factory=list)
    ticket: Ticket | None = None
    size: int | None = None
    deck: Deck | None = None
    scores: Measured | None = None
    missing: list[str] = field(default_factory=list)

    @property
    def accuracy(self) -> float | None:
        """Test accuracy in percent; None if unknown."""
        right, images = self.counts.get("test", (0, 0))
        return 100 * right / images if images else None

    @property
    def measured_on(self) -> str:
        """The images on which each epoch was measured: "test" where none were held out."""
        return Config(select_on=self.settings.get("select_on", Config.select_on)).measured_on

    @property
    def density(self) -> float | None:
        """Percentage of the masked weights, in all cards, that is kept; None if unknown."""
        layers = self.layers
        if self.deck:
            layers = [layer for card in self.deck.cards for layer in _densities(card)]
        weights = sum(layer.weights for layer in layers)
        return 100 * sum(layer.kept for layer in layers) / weights if weights else None

    @property
    def network(self) -> str:
        """Name of the architecture; empty if unknown."""
        if self.ticket:
            return str(self.ticket.network["name"]) if self.ticket.network else "your own network"
        return str(self.settings.get("arch", ""))


def read(
    paths: Sequence[str], pack: Pack, track: Callable[[list[Path], str, int], Iterable[Path]]
) -> list[Entry]:
    """The entries of all paths; a sweep has one for each of its runs.

    Args:
        paths: run folders, folders of sweeps, tickets and decks.
        pack: makes the ticket of a run folder.
        track: shows the progress, see `Console.track`.

    Raises:
        UserError: a path is none of these, or its file is damaged.
    """
    cells: dict[Path, dict[str, str]] = {}
    for path in map(Path, paths):
        cells |= _cells(path) if _is_sweep(path) else {path: {}}
    entries = [_read(path, pack) for path in track(list(cells), "reading", len(cells))]
    for entry, values in zip(entries, cells.values(), strict=True):
        entry.values = values
    _give_names(entries)
    return entries


def _read(path: Path, pack: Pack) -> Entry:
    if (path / SETTINGS).is_file():
        return _run(path, pack)
    if path.suffix == TICKET_SUFFIX:
        return _of_ticket(path)
    if path.suffix == DECK_SUFFIX:
        return _of_deck(path)
    reason = "it is neither a run folder, a sweep, a ticket (.mpt) nor a deck (.deck)"
    raise UserError(f"{path}: {'no such file or folder' if not path.exists() else reason}")


# Sweeps


def _is_sweep(path: Path) -> bool:
    return path.is_dir() and not (path / SETTINGS).is_file() and bool(_cell_files(path))


def _cell_files(folder: Path) -> list[Path]:
    files = [file for file in folder.glob("*.json") if file.stem.isdecimal()]
    return sorted(files, key=lambda file: int(file.stem))


def _cells(folder: Path) -> dict[Path, dict[str, str]]:
    """The run folders of a sweep that have begun, and their values of the grid.

    Raises:
        UserError: none has begun.
    """
    cells = {}
    for file in _cell_files(folder):
        state = read_object(file)
        run = _run_of_cell(folder, state.get("folder"))
        if run:
            cells[run] = _texts(state.get("values"))
    if not cells:
        raise UserError(
            f"{folder}: a sweep of which no run was found in {folder.absolute().parent.parent}"
        )
    return cells


def _run_of_cell(sweep: Path, recorded: object) -> Path | None:
    """The run folder that the state of a cell names: inside the folder of runs that the sweep is
    in, or None.

    Where that folder was moved as a whole, the end of the recorded path still fits.
    """
    if not isinstance(recorded, str) or "\0" in recorded:
        return None
    root = sweep.absolute().parent.parent
    parts = Path(recorded).parts
    for start in range(len(parts)):
        folder = root.joinpath(*parts[start:]) if start else root / recorded
        is_inside = folder.resolve().is_relative_to(root.resolve())
        if is_inside and (folder / SETTINGS).is_file():
            return folder
    return None


def _texts(values: object) -> dict[str, str]:
    if not isinstance(values, dict):
        return {}
    return {str(name): str(value) for name, value in values.items()}


# Runs


def _run(folder: Path, pack: Pack) -> Entry:
    result = read_object(folder / RESULT)
    entry = Entry(str(folder), "run", folder, config_name=_config_name(folder))
    entry.versions = _first_comment(folder / SETTINGS)
    _read_settings(entry)
    entry.epochs = read_metrics(folder / LOGS / METRICS)
    if not entry.epochs:
        entry.missing.append(f"no curves: {LOGS}/{METRICS} has no complete epoch")
    best = result.get("epoch") or read_object(folder / PROGRESS).get("best_epoch")
    entry.best_epoch = best if type(best) is int else 0
    entry.counts = _counts(result)
    if entry.measured_on == "test":
        entry.counts.pop("validation", None)  # they are of test images
    if not result:
        entry.missing.append(
            f"no test accuracy: the run is not complete; see biprop status {folder}"
        )
    entry.layers = _layers_of(folder / LAYERS)
    _pack(entry, pack)
    _add_scores(entry, folder / "robustness.json")
    return entry


def _config_name(folder: Path) -> str:
    """From the run's row of results, or from its path: <config>/prune-rate=<k>/<name>."""
    recorded = read_object(folder / ROW).get("Base Config")
    if isinstance(recorded, str):
        return recorded
    parts = folder.absolute().parts
    rates = [i for i, part in enumerate(parts) if part.startswith("prune-rate=")]
    named = (
        [part for part in parts[: rates[-1]] if not part.startswith("width_mult=")] if rates else []
    )
    return named[-1] if named else ""


def _first_comment(path: Path) -> str:
    """What wrote the settings, and when: the comment in their first line."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            line = file.readline(500)
    except OSError:
        return ""
    return line.removeprefix("#").strip() if line.startswith("#") else ""


def _read_settings(entry: Entry) -> None:
    path = entry.path / SETTINGS
    try:
        entry.settings = {**options.as_dict(Config()), **options.read_file(path)}
    except UserError as e:  # of another version of this program, or damaged
        entry.missing.append(f"no configuration: {one_line(e)}")


def _counts(record: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    counts = {split: right_and_images(dict(record), split) for split in ("test", "validation")}
    return {split: pair for split, pair in counts.items() if pair}


def _layers_of(path: Path) -> list[Density]:
    """The layers in a run's layers.json; none if it is missing or damaged."""
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        layers = [Density(str(r["name"]), int(r["weights"]), int(r["kept"])) for r in records]
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return []
    are_possible = all(0 <= layer.kept <= layer.weights < 2**62 for layer in layers)
    return layers if are_possible else []


def _pack(entry: Entry, pack: Pack) -> None:
    """Give a run its ticket, as `biprop pack` would write it."""
    try:
        packed = pack(find_checkpoint(entry.path))
    except (UserError, ImportError) as e:
        entry.missing.append(f"no ticket, so no bytes and no filters: {one_line(e)}")
        return
    content = packed.to_bytes()
    # Read back, a ticket knows how each mask is coded; else that would be chosen at every question.
    entry.ticket, entry.size = Ticket.from_bytes(content, packed.weights), len(content)
    entry.layers = _densities(entry.ticket)


def _densities(ticket: Ticket) -> list[Density]:
    return [Density(layer.name, layer.weights, layer.kept) for layer in ticket.layers]


# Tickets and decks


def _of_ticket(path: Path) -> Entry:
    entry = Entry(str(path), "ticket", path)
    _describe_ticket(entry, Ticket.load(path))
    assert entry.ticket
    entry.size = _size(path) or len(entry.ticket.to_bytes())
    _add_scores(entry, path.with_name(f"{path.stem}.robustness.json"))
    entry.missing.append("no curves: they are in the folder of the run: pass that as well")
    return entry


def _describe_ticket(entry: Entry, ticket: Ticket) -> None:
    """Fill in what a ticket records."""
    entry.ticket, entry.layers = ticket, _densities(ticket)
    entry.counts = _counts(ticket.found)
    config_name, epoch = ticket.found.get("config"), ticket.found.get("epoch")
    entry.config_name = config_name if isinstance(config_name, str) else ""
    entry.best_epoch = epoch if type(epoch) is int else 0
    entry.settings = _recorded_settings(ticket)
    texts = [ticket.found.get(name) for name in ("searched_by", "packed", "by")]
    entry.versions = ", ".join(abbreviated(text) for text in texts if isinstance(text, str))


def _recorded_settings(ticket: Ticket) -> dict[str, Any]:
    """The options in a ticket's record of its search; empty if there are none, or invalid ones."""
    recorded = ticket.found.get("options")
    if not isinstance(recorded, dict):
        return {}
    try:
        values = {
            name: options.coerce(name, value, "ticket")
            for name, value in recorded.items()
            if name in options.FIELDS and name not in options.UNRECORDED_OPTIONS
        }
    except UserError:
        return {}
    teacher = ticket.found.get("teacher")  # the name of its file or run, without the place
    if isinstance(teacher, str):
        is_within = not Path(teacher).is_absolute() and ".." not in Path(teacher).parts
        values["teacher"] = abbreviated(teacher if is_within else Path(teacher).name)
    return {**options.as_dict(Config()), **values}


def _of_deck(path: Path) -> Entry:
    deck = Deck.load(path)
    entry = Entry(str(path), "deck", path, deck=deck)
    entry.size = _size(path) or len(deck.to_bytes())
    _add_scores(entry, path.with_name(f"{path.stem}.robustness.json"))
    return entry


def cards(entry: Entry) -> list[Entry]:
    """The cards of a deck as entries of their own."""
    assert entry.deck
    entries = []
    for name, ticket in zip(entry.deck.names, entry.deck.cards, strict=True):
        card = Entry(f"{entry.name}: {name}", "ticket", entry.path)
        _describe_ticket(card, ticket)
        card.size = len(ticket.to_bytes())
        entries.append(card)
    return entries


def _size(path: Path) -> int:
    """Bytes of a file; 0 for a pipe."""
    return path.stat().st_size


def _add_scores(entry: Entry, path: Path) -> None:
    """Add the robustness measurement in the file beside an entry."""
    try:
        entry.scores = beside(path)
    except UserError as e:
        entry.missing.append(f"no corruptions: {one_line(e)}")


# Names


def _give_names(entries: Sequence[Entry]) -> None:
    """Give each entry the shortest end of its path that no other has, or its values of a grid."""
    for entry in entries:
        if entry.values:
            entry.name = "  ".join(f"{key}={_stem(key, v)}" for key, v in entry.values.items())
    by_path = [entry for entry in entries if not entry.values]
    paths = [entry.path.absolute() for entry in by_path]
    for entry, path in zip(by_path, paths, strict=True):
        least = 3 if entry.kind == "run" else 1
        entry.name = _shortest_end(path, [p for p in paths if p != path], least)
    _number_equal_names(entries)


def _stem(key: str, value: str) -> str:
    return Path(value).stem if key == "config" else value


def _shortest_end(path: Path, rest: Sequence[Path], least: int) -> str:
    """The last `least` parts of a path, or as many more as tell it from the rest."""
    for count in range(least, len(path.parts)):
        end = path.parts[-count:]
        if all(other.parts[-count:] != end for other in rest):
            return "/".join(end)
    return str(path)


def _number_equal_names(entries: Sequence[Entry]) -> None:
    """Two sweeps can have cells of the same values."""
    seen: dict[str, int] = {}
    for entry in entries:
        seen[entry.name] = seen.get(entry.name, 0) + 1
        if seen[entry.name] > 1:
            entry.name = f"{entry.name} ({seen[entry.name]})"


def number(record: Mapping[str, Any], name: str) -> float | None:
    """A number of a line of metrics.jsonl; None if it is missing, or cannot be drawn."""
    return drawable(record.get(name))
