"""biprop list: names that options take, with a description each."""

from __future__ import annotations

import argparse
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from .. import config as options
from .. import screen
from ..errors import TicketError, UserError
from .parser import TICKET_SUFFIX, add_command

DATA_SETS = {
    "digits": "handwritten digits, 8x8, contained in biprop; needs no --data",
    "CIFAR10": "parquet files, or cifar-10-batches-py",
    "CIFAR100": "parquet files, or cifar-100-python",
    "MNIST": "parquet files, or train-images-idx3-ubyte(.gz) and its companions",
    "TinyImageNet": "tiny-imagenet-200, or parquet files",
    "ImageNet": "train/CLASS/ and val/CLASS/, or parquet files; read during training",
    "folder": "images in one folder per class, or parquet files",
    "hub": "an image data set that the library datasets loads, by name",
    "arrays": "a .npz file with X and y: a table, series or images",
}
"""Values of --set, and what the folder --data contains for each."""

_EPILOG = """\
examples:
  biprop list networks
  biprop list recipes
  biprop list configs --names
  biprop list tickets pretrained           the tickets in a folder"""

Rows = dict[str, list[tuple[str, str]]]
"""Heading -> (name, description)."""


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands,
        "list",
        run,
        help="list networks, packaged configurations, data sets, corruptions or tickets",
        usage="biprop list WHAT [--names]",
        description="Print the names that --arch (networks), --config (configs), --recipe"
        " (recipes), --set (data) and robustness --corruptions (corruptions) take, with a"
        " description of each; tickets are those in a folder. An accuracy is given where it was"
        " measured (docs/results.md), or where the ticket records it.",
        epilog=_EPILOG,
    )
    lists = (*_LISTS, TICKETS)
    parser.add_argument("what", metavar="WHAT", choices=lists, help=", ".join(lists))
    parser.add_argument(
        "folder", nargs="?", metavar="DIR", help="with tickets: their folder [this one]"
    )
    parser.add_argument("--names", action="store_true", help="print only the names, one per line")


def run(arguments: argparse.Namespace) -> int:
    """Print the names; returns the exit code."""
    from ..console import Console

    rows_of = _LISTS.get(arguments.what)
    if rows_of is None:
        folder = Path(arguments.folder or ".")
        rows_of = partial(_tickets, folder)
    elif arguments.folder:
        raise UserError(f"biprop list {arguments.what}: takes no folder; biprop list tickets does")
    if arguments.names:
        names = _NAMES.get(arguments.what) or _names_of(rows_of)
        screen.print_text("\n".join(map(screen.printable, names())) + "\n")
        return 0
    console = Console()
    for heading, rows in rows_of().items():
        console.table(heading, rows)
    return 0


def _names_of(rows: Callable[[], Rows]) -> Callable[[], list[str]]:
    return lambda: [name for group in rows().values() for name, _ in group]


# ---- configurations ----


def configuration_names() -> dict[Path, str]:
    """The packaged configurations by name: without folder and suffix where that is unambiguous,
    else as a path below configs/.
    """
    root, files = Path(str(options.packaged())), options.packaged_files()
    count = Counter(file.stem for file in files)
    return {
        file: file.stem if count[file.stem] == 1 else str(file.relative_to(root)) for file in files
    }


def _configurations() -> Rows:
    root = Path(str(options.packaged()))
    rows: Rows = {}
    for file, name in configuration_names().items():
        heading = str(Path("configs") / file.parent.relative_to(root))
        rows.setdefault(heading, []).append((name, _described(file)))
    return rows


def _recipes() -> Rows:
    heading = "recipes: configurations for a given time or size"
    return {heading: [(file.stem, _described(file)) for file in options.recipe_files()]}


def _described(file: Path) -> str:
    """What a configuration is for, its main options and, where it was measured, its accuracy."""
    description, accuracy = options.comments(file)
    facts = _in_words(options.read_file(file), has_description=bool(description))
    texts = [description, facts, accuracy and f"measured {accuracy}"]
    return "; ".join(filter(None, texts))


def _in_words(values: Mapping[str, Any], has_description: bool) -> str:
    """A configuration in a few words.

    Args:
        values: its options.
        has_description: it has one of its own, and what it has in common with others is left out.
    """
    network = values["arch"]
    if values.get("width_mult", 1) != 1:
        network += f" x {values['width_mult']:g}"
    parts = [values["set"], network]
    if values.get("conv_type") == "DenseConv":
        parts.append("dense baseline")
    else:
        parts += ["MPT-1/1" if "BinAct" in network else "MPT-1/32", _kept(values)]
    if minutes := values.get("minutes"):
        parts.append(f"{minutes:g} minutes")
    if has_description:
        return ", ".join(parts)
    if values.get("conv_type") != "DenseConv":
        parts.append(values.get("init", options.Config().init))
    if values.get("bn_type") != "NonAffineBatchNorm":
        parts.append("affine batch norm")
    parts += [values["optimizer"], f"{values['epochs']} epochs"]
    return ", ".join(parts)


def _kept(values: Mapping[str, Any]) -> str:
    rate = values.get("prune_rate")
    where = " globally" if values.get("conv_type") == "GlobalSubnetConv" else ""
    return f"{100 * rate:g} % kept{where}" if rate else "needs --prune-rate"


# ---- networks, data sets, corruptions ----


def _networks() -> Rows:
    from ..models.plans import NETWORKS, RESIDUAL, in_words

    rows: Rows = {}
    measured = _measured()
    for name in NETWORKS:
        is_large = name in RESIDUAL and RESIDUAL[name].imagenet
        size, classes = (224, 1000) if is_large else (32, 10)
        heading = (
            f"networks, with their weights for {size}x{size} RGB images of {classes:,} classes"
        )
        texts = [f"{_weights(name, size, classes):,} weights", in_words(name), *measured[name]]
        rows.setdefault(heading, []).append((name, "; ".join(texts)))
    rows["networks whose size follows the data and --arch-args"] = [
        (name, "; ".join([description, *measured[name]]))
        for name, description in options.DEFAULT_NETWORKS.items()
    ]
    return rows


def _measured() -> dict[str, list[str]]:
    """What was measured of each network, in packaged configurations: one text each."""
    measured = defaultdict(list)
    for file, name in configuration_names().items():
        _, accuracy = options.comments(file)
        if accuracy:
            values = options.read_file(file)
            text = f"measured on {values['set']}, {name}: {accuracy}"
            measured[values["arch"]].append(text)
    return measured


def _network_names() -> list[str]:
    from ..models.plans import NETWORKS

    return [*NETWORKS, *options.DEFAULT_NETWORKS]


def _weights(name: str, size: int, classes: int) -> int:
    """Weights of the convolutions and linear layers that a search prunes, for RGB images."""
    from ..models.graph import graph_of

    nodes = graph_of(
        {
            "name": name,
            "bn_type": "NonAffineBatchNorm",
            "width_mult": 1.0,
            "channels": 3,
            "input_size": (size, size),
            "num_classes": classes,
            "ancestor": False,
        }
    )
    whitening = (2, 2)  # its weights are computed from images, and not pruned
    return sum(
        nodes[node.inputs[0]].shape[0] * node.shape[0] * math.prod(node.kernel)
        for node in nodes
        if node.op == "conv" and node.kernel != whitening
    )


def _data_sets() -> Rows:
    return {"values of --set, and what --data contains": list(DATA_SETS.items())}


def _corruptions() -> Rows:
    from ..robustness.severities import EXTRA, GROUPS

    rows = [(name, group) for group, names in GROUPS.items() for name in names]
    rows += [(name, "not part of the score") for name in EXTRA]
    return {"corruptions, and their groups": rows}


# ---- tickets ----

TICKETS = "tickets"


def _tickets(folder: Path) -> Rows:
    """The tickets in a folder, as each describes itself.

    Raises:
        UserError: there is no such folder, or it has none.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    files = sorted(folder.glob(f"*{TICKET_SUFFIX}"))
    if not files:
        raise UserError(f"{folder}: has no tickets ({TICKET_SUFFIX}); biprop pack writes one")
    return {f"tickets in {folder}": [(file.name, _ticket_in_words(file)) for file in files]}


def _ticket_in_words(file: Path) -> str:
    from ..ticket import Ticket
    from ..ticket.report import OWN_NETWORK, network_name

    try:
        ticket = Ticket.load(file)
    except TicketError as e:
        return str(e).removeprefix(f"{file}: ")
    network = network_name(ticket)
    if network == OWN_NETWORK:
        network = f"a network {OWN_NETWORK}"
    kept = f"{ticket.kept:,} of {ticket.weights:,} weights kept"
    size = f"{file.stat().st_size:,} bytes"
    return "; ".join(filter(None, [network, kept, size, _recorded_accuracy(ticket.found)]))


def _recorded_accuracy(found: Mapping[str, Any]) -> str:
    """The test accuracy in a ticket's record of its search; empty if there is none."""
    from ..ticket.report import right_and_images

    counts = right_and_images(dict(found), "test")
    if not counts or not counts[1]:
        return ""
    recorded = found.get("options")
    data_set = recorded.get("set", options.Config().set) if isinstance(recorded, dict) else None
    of = "" if data_set is None else f" of {data_set}"
    right, images = counts
    return f"{100 * right / images:.2f} %{of} ({right:,} of {images:,} images), as recorded"


_LISTS: dict[str, Callable[[], Rows]] = {
    "configs": _configurations,
    "recipes": _recipes,
    "networks": _networks,
    "data": _data_sets,
    "corruptions": _corruptions,
}
_NAMES: dict[str, Callable[[], list[str]]] = {
    "configs": lambda: list(configuration_names().values()),
    "networks": _network_names,
}
"""Where names are faster than descriptions: shell completion runs these."""
