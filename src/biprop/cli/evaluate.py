"""biprop evaluate: accuracy of a run, a checkpoint or a ticket."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import config as options
from ..errors import UserError
from .common import ACTIVATIONS_HELP, layer_rows, load_engine, plural, warn
from .parser import (
    DATA_AND_NETWORK,
    DEBUG,
    DECK_SUFFIX,
    TICKET_SUFFIX,
    add_command,
    add_options,
    coerced,
    overrides,
)

if TYPE_CHECKING:
    from ..data import DataSet, Split
    from ..evaluation.counts import Counts
    from ..evaluation.engine_model import Packed
    from ..evaluation.subject import Subject

Rows = list[tuple[str, str]]

_DESCRIPTION = """\
Measure the accuracy of a ticket or a checkpoint on validation and test images. The file records
the network and the data set, but not where the data are: pass --data, except for the embedded
digits. The options of the network are for checkpoints that do not record them, such as the oldest
of the original research code. biprop robustness measures decks."""
_EPILOG = """\
examples:
  biprop evaluate digits.mpt
  biprop evaluate runs/cifar10-small/width_mult=0.5/prune-rate=0.3/find --data DIR
  biprop evaluate digits.mpt --engine --compare    by the engine, checked against PyTorch"""


@dataclass(frozen=True)
class EngineChoice:
    """Evaluate with the engine instead of PyTorch.

    Attributes:
        compares: PyTorch classifies the images as well, and differences are counted.
        quantises: activations are quantised to 8 bits.
    """

    compares: bool
    quantises: bool


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands,
        "evaluate",
        run,
        help="measure the accuracy of a ticket or a checkpoint",
        usage="biprop evaluate FILE [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="ticket (.mpt), run folder, or checkpoint of biprop or of the original research code",
    )
    parser.add_argument(
        "--pretrained",
        metavar="FILE",
        help="the same as FILE, as in the original research code",
    )
    parser.add_argument(
        "--engine",
        action="store_true",
        help="run the ticket with biprop's engine, on the CPU, instead of PyTorch",
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="with --engine: run PyTorch as well, and count the images to which it assigns another"
        " class",
    )
    parser.add_argument(
        "--activations",
        choices=("float", "u8"),
        default="float",
        help=f"with --engine; {ACTIVATIONS_HELP}",
    )
    add_options(parser, DATA_AND_NETWORK)
    parser.add_argument("--debug", **DEBUG)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate the file that the arguments name; returns the exit code."""
    if bool(arguments.file) == bool(arguments.pretrained):
        raise UserError("name one file to evaluate: biprop evaluate FILE")
    path = arguments.file or arguments.pretrained
    if path.endswith(DECK_SUFFIX):
        raise UserError(f"{path}: a deck: biprop robustness measures decks, on clean images too")
    return show_accuracy(path, overrides(arguments), engine=_engine_choice(arguments, path))


def _engine_choice(arguments: argparse.Namespace, path: str) -> EngineChoice | None:
    quantises = arguments.activations != "float"
    if arguments.engine:
        if not path.endswith(TICKET_SUFFIX):
            reason = f"{path} is not a ticket ({TICKET_SUFFIX}); biprop pack writes one"
            raise UserError(f"--engine: runs tickets, and {reason}")
        return EngineChoice(arguments.compare, quantises)
    if arguments.compare:
        raise UserError("--compare: compares the engine with PyTorch: pass --engine too")
    if quantises:
        flag = f"--activations {arguments.activations}"
        raise UserError(f"{flag}: is for the engine: pass --engine too")
    return None


def show_accuracy(
    path: str,
    given: Mapping[str, Any],
    config_file: str | None = None,
    engine: EngineChoice | None = None,
) -> int:
    """Evaluate a ticket or a checkpoint, and print a table; returns the exit code.

    Args:
        path: ticket, run folder or checkpoint.
        given: options of the command line, see `parser.overrides`.
        config_file: answers what neither a checkpoint nor the command line does.
        engine: for a ticket; None: evaluate with PyTorch.

    Raises:
        UserError: the file or the data cannot be read, or do not fit each other.
    """
    flags = coerced(given)
    fallback = options.read_file(options.find_file(config_file)) if config_file else {}
    from ..console import Console
    from ..evaluation import subject as evaluation

    subject = _subject(path, flags, fallback)
    warn(subject.warnings)
    console = Console()
    images = evaluation.load_data(subject, console)
    warn(images.notes)

    rows = _network_rows(subject)
    packed = None
    if engine:
        packed, computed_by = _engine_model(path, subject, images, engine)
        rows.append(("computed by", computed_by))
    device = flags.get("device", "auto")
    for name, split in _splits(subject, images).items():
        counts = evaluation.measure(subject, images, split, device, console, name, packed)
        rows.append((name, _accuracy(counts, images)))
    if packed and engine and engine.compares:
        differing = f"{packed.differing:,} of {packed.compared:,} predictions"
        rows.append(("disagreements", f"{differing}  (with PyTorch in float64)"))
    console.table(path, rows)
    return 0


def _subject(path: str, flags: Mapping[str, Any], fallback: Mapping[str, Any]) -> Subject:
    from ..evaluation.subject import of_file
    from ..runs import folder

    if not path.endswith(TICKET_SUFFIX):
        warn(folder.notes_on(path))
    return of_file(path, flags, fallback)


def _splits(subject: Subject, images: DataSet) -> dict[str, Split]:
    """The images to measure; without a validation set if the search held no images out."""
    if not subject.config.holds_out:
        return {"test accuracy": images.test}
    return {"test accuracy": images.test, "validation accuracy": images.validation}


def _network_rows(subject: Subject) -> Rows:
    rows = [("network", subject.config.arch)]
    if subject.epoch:
        rows.append(("epoch", str(subject.epoch)))
    if not subject.layers:
        return rows
    kept = sum(layer.kept for layer in subject.layers)
    weights = sum(layer.weights for layer in subject.layers)
    rows.append(("weights kept", f"{kept:,} of {weights:,}  ({100 * kept / weights:.2f} %)"))
    return [*rows, *layer_rows(subject.config, subject.layers)]


def _engine_model(
    path: str, subject: Subject, images: DataSet, choice: EngineChoice
) -> tuple[Packed, str]:
    """The engine as a model, and what computes it: instruction set and threads, or numpy."""
    from ..engine import cores
    from ..evaluation.engine_model import Packed
    from ..evaluation.subject import calibration_images

    calibration = calibration_images(subject, images) if choice.quantises else None
    engine, warnings = load_engine(path, cores(), calibration=calibration)
    warn(warnings)
    packed = Packed(engine, images, subject.model.double() if choice.compares else None)
    if warnings:
        return packed, "numpy"
    return packed, f"the engine ({engine.explain()[0]}, {plural(engine.threads, 'thread')})"


def _accuracy(counts: Counts, images: DataSet) -> str:
    right = f"{counts.right:,} of {counts.images:,} {images.noun}"
    top5 = f"top 5: {counts.top5:.2f} %; " if len(images.classes) > 5 else ""
    return f"{counts.top1:.2f} %  ({top5}{right})"
