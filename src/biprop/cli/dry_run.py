"""What --dry-run of find and sweep shows: data, network, steps, estimated time and memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import config as options
from .common import plural, split_sizes, warn

if TYPE_CHECKING:
    from ..checkpoint import Content
    from ..config import Config
    from ..console import Console
    from ..data import DataSet
    from ..models.network import Network
    from ..search.estimate import Estimate
    from ..search.loop import Search
    from ..search.sweep import Cell

HELP = (
    "show data, network, steps, and time and memory as estimated from a few steps, and exit; no"
    " file is written"
)
Rows = list[tuple[str, str]]


def show_search(config: Config, name: str, start: Content | None, resumes: bool) -> int:
    """Estimate one search, and print it; returns the exit code.

    Args:
        config, name: the options, and the name of their file.
        start, resumes: as of `Search`.

    Raises:
        UserError: options, data or checkpoint do not work, as in the search itself.
    """
    from .. import data
    from ..console import Console
    from ..search.estimate import check_alone, estimate
    from ..search.loop import Search
    from ..search.sweep import expectation

    check_alone()
    console = Console()
    images = data.load(config, console.track, expectation(config))
    warn([*options.warnings(config), *images.notes, *images.search_notes])
    search = Search(config, name, images, console, start, resumes)
    rows = [*_data_rows(config, images), *_network_rows(config, search.network)]
    console.table("dry run: nothing is written", rows)
    console.table("the search", _rows(search, estimate(search)))
    return 0


def show_sweep(cells: Sequence[Cell], console: Console) -> int:
    """Estimate the cells of a sweep, and print them; returns the exit code."""
    from ..search.estimate import check_alone, estimate_cells

    check_alone()
    rows, total, most = [], 0.0, 0
    for cell, of_cell in console.track(estimate_cells(cells, console), "cells", len(cells)):
        epochs = f"{plural(of_cell.epochs, 'epoch')} of {plural(of_cell.batches, 'step')}"
        rows.append((str(cell), f"{duration(of_cell.seconds)}  ({epochs})"))
        total += of_cell.seconds
        most = max(most, of_cell.memory or 0)
    rows.append(("all, one after the other", duration(total)))
    if most:
        rows.append(("memory", f"{_size(most)}, the peak of this process"))
    title = f"dry run: {plural(len(cells), 'cell')} to search; nothing is written"
    console.table(title, rows)
    return 0


def _data_rows(config: Config, images: DataSet) -> Rows:
    of_selection = {
        "validation": "",
        "test": "; the test images choose the epoch",
        "last": "; the last epoch is kept",
    }
    chosen = of_selection[config.select_on]
    counts = split_sizes(config, images)
    shape = " x ".join(map(str, (images.channels, *images.input_size)))
    first = ", ".join(images.classes[:10])
    more = ", ..." if len(images.classes) > 10 else ""
    source = "" if config.set == "digits" else f", {config.data}"
    about = f" ({images.about})" if images.about else ""
    return [
        ("data", f"{config.set}{source}{about}"),
        ("images", f"{counts}, of {shape} pixels{chosen}"),
        ("classes", f"{len(images.classes):,}: {first}{more}"),
    ]


def _network_rows(config: Config, network: Network) -> Rows:
    subnetwork = network.subnetwork
    if subnetwork is None:
        weights = sum(parameter.numel() for parameter in network.model.parameters())
        return [("network", f"{config.arch}, dense: {weights:,} parameters")]
    kind = "MPT-1/1: binary activations" if network.binary_activations else "MPT-1/32"
    kept = f"{subnetwork.kept:,}  ({100 * subnetwork.density:.4g} % of each layer)"
    if config.scope == "global":  # the masks keep more before the density schedule ends
        share = 100 * (config.prune_rate or 0)
        kept = f"{share:.4g} % in the end, all layers ranked together"
    return [
        ("network", f"{config.arch} ({kind})"),
        ("layers", f"{len(subnetwork.layers)} with a mask"),
        ("weights", f"{subnetwork.weights:,} random ones"),
        ("kept", kept),
    ]


def _rows(search: Search, estimated: Estimate) -> Rows:
    config, epochs = search.config, plural(estimated.epochs, "epoch")
    if config.minutes is not None:
        epochs = f"about {epochs} in {config.minutes:g} minutes"
    steps = f"{plural(estimated.batches, 'step')} of {config.batch_size:,} images"
    of_step = f"median of {plural(estimated.timed, 'step')}, after a warm-up, on {search.device}"
    of_each_epoch = "validation" if config.holds_out else "test images after each epoch"
    parts = {
        **({"teacher": estimated.teaching} if estimated.teaching else {}),
        "training": estimated.training,
        of_each_epoch: estimated.validation,
        "test": estimated.testing,
    }
    each = ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts.items())
    return [
        ("epochs", f"{epochs}, {steps} each: {plural(estimated.steps, 'step')}"),
        ("a step", f"{duration(estimated.step)}  ({of_step})"),
        ("estimated time", f"{duration(estimated.seconds)}  ({each})"),
        ("memory", _memory(estimated)),
    ]


def _memory(estimated: Estimate) -> str:
    if estimated.memory is None:
        texts = ["not known on this system"]
    else:
        texts = [f"{_size(estimated.memory)}, the peak of this process, data included"]
    if estimated.device_memory is not None:
        texts.append(f"{_size(estimated.device_memory)} on the GPU")
    return "; ".join(texts)


def _size(count: int) -> str:
    """Bytes in MB, or in GB from 10 GB on."""
    return f"{count / 1e6:,.0f} MB" if count < 1e10 else f"{count / 1e9:,.1f} GB"


def duration(seconds: float) -> str:
    """A time in the unit that suits it, with two or three digits: "35 ms", "17 s", "2.5 h"."""
    units = ((86400, "days"), (3600, "h"), (60, "min"), (1, "s"))
    for length, unit in units:
        if seconds >= 2 * length:
            return f"{seconds / length:.{1 if seconds < 10 * length else 0}f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
