"""biprop evaluate: the accuracy of a run, a checkpoint or a ticket."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .. import config as options
from ..errors import UserError
from .common import ACTIVATIONS_HELP, engine_of, layer_rows, warn
from .parser import DEBUG, OF_A_FILE, TICKET_ENDING, add_command, add_options, coerced, overrides

if TYPE_CHECKING:
    pass


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands,
        "evaluate",
        run,
        help="accuracy of a ticket or a checkpoint",
        usage="biprop evaluate FILE [options]",
        description=(
            "Accuracy of a ticket or a checkpoint on validation and test data. What the file says"
            " of its network and\ndata needs no flag; where the data are, --data says."
        ),
    )
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help=(
            "ticket (.mpt), run folder, or checkpoint of this program or the original research code"
        ),
    )
    parser.add_argument(
        "--pretrained", metavar="FILE", help="the same, as the original research code spells it"
    )
    parser.add_argument(
        "--engine",
        action="store_true",
        help="compute a ticket with the engine, on the CPU, instead of PyTorch",
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="with --engine: count the images to which PyTorch gives another class",
    )
    parser.add_argument(
        "--activations",
        choices=("float", "u8"),
        default="float",
        help="with --engine; " + ACTIVATIONS_HELP,
    )
    add_options(parser, OF_A_FILE)
    parser.add_argument("--debug", **DEBUG)


def run(arguments: argparse.Namespace) -> int:
    if bool(arguments.file) == bool(arguments.pretrained):
        raise UserError("name one file to evaluate: biprop evaluate FILE")
    path = arguments.file or arguments.pretrained
    if arguments.compare and not arguments.engine:
        raise UserError("--compare: compares the engine with PyTorch: pass --engine too")
    if arguments.activations != "float" and not arguments.engine:
        raise UserError(
            f"--activations {arguments.activations}: is for the engine: pass --engine too"
        )
    if arguments.engine and not path.endswith(TICKET_ENDING):
        raise UserError(
            f"--engine: runs tickets ({TICKET_ENDING}), and {path} is none; biprop pack makes one"
            " of it"
        )
    return show_accuracy(
        path,
        overrides(arguments),
        None,
        arguments.engine,
        arguments.compare,
        arguments.activations == "u8",
    )


def show_accuracy(
    path: str,
    given: Mapping[str, Any],
    config_file: str | None,
    by_engine: bool = False,
    compare: bool = False,
    levels: bool = False,
) -> int:
    """Evaluate a ticket or a checkpoint."""
    flags = coerced(given)
    fallback = options.read_file(options.find_file(config_file)) if config_file else {}
    from ..console import Console
    from ..engine import cores
    from ..evaluation.engine_model import Packed
    from ..evaluation.subject import (
        calibration_images,
        load_data,
        measure,
        of_checkpoint,
        of_ticket,
    )
    from ..runs import folder

    is_ticket = path.endswith(TICKET_ENDING)
    subject = (
        of_ticket(path, flags)
        if is_ticket
        else of_checkpoint(folder.find_checkpoint(path), flags, fallback)
    )
    warn(subject.warnings)
    console = Console()
    images = load_data(subject, console)
    warn(images.notes)
    rows = [("network", subject.config.arch), ("epoch", str(subject.epoch))]
    if subject.layers:
        kept, weights = (
            sum(layer.kept for layer in subject.layers),
            sum(layer.weights for layer in subject.layers),
        )
        rows.append(("weights kept", f"{kept:,} of {weights:,}  ({100 * kept / weights:.2f} %)"))
        rows += layer_rows(subject.config, subject.layers)
    parts = {"test accuracy": images.test}
    if subject.config.select_on != "test":
        parts["validation accuracy"] = images.validation
    packed = None
    if by_engine:
        calibration = calibration_images(subject, images) if levels else None
        engine, said = engine_of(path, cores(), calibration=calibration)
        warn(said)
        packed = Packed(engine, images, subject.model.double() if compare else None)
        rows.append(
            (
                "computed by",
                (
                    "numpy"
                    if said
                    else f"the engine ({engine.explain()[0]}, {engine.threads} threads)"
                ),
            )
        )
    for what, split in parts.items():
        counts = measure(subject, images, split, flags.get("device", "auto"), console, what, packed)
        rows.append(
            (
                what,
                (
                    f"{counts.top1:.2f} %  (top 5: {counts.top5:.2f} %; {counts.right:,} of"
                    f" {counts.images:,} images)"
                ),
            )
        )
    if packed and compare:
        disagreements = (
            f"{packed.differing:,} of {packed.compared:,} predictions  (with PyTorch in float64)"
        )
        rows.append(("disagreements", disagreements))
    console.table(path, rows)
    return 0
