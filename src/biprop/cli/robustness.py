"""biprop robustness: accuracy under common corruptions."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, abbreviated
from ..files import write_text_atomically
from . import robustness_model
from .common import load_engine, warn
from .parser import (
    DATA_AND_NETWORK,
    DEBUG,
    DECK_SUFFIX,
    TICKET_SUFFIX,
    add_command,
    add_options,
    check_folder,
    coerced,
    overrides,
)

if TYPE_CHECKING:
    import torch

    from ..console import Console
    from ..data import DataSet
    from ..deck import Deck
    from ..evaluation.subject import Subject
    from ..robustness.classifier import Classifier, Network
    from ..robustness.images import Corrupted
    from ..robustness.scores import Cell, Scores

Reference = Mapping[str, Mapping[int, float]]
"""Corruption -> severity -> error of the network that mCE is relative to."""

_SUFFIXES = (".csv", ".json", ".png")

_DESCRIPTION = """\
Measure the accuracy of a ticket, a deck or a checkpoint on clean test images, and under 15
corruptions at five severities (Hendrycks and Dietterich, 2019). The corrupted images are computed
from the test images, unless --corrupted names a published benchmark such as CIFAR-10-C. Of a deck,
every ticket is measured, and the whole: with equal weights, and with weights from its gate, per
batch and per image. Results are written to NAME.json, NAME.csv and, if matplotlib is installed
(pip install 'biprop[plots]'), NAME.png. The file records the network and the data set, but not
where the data are: pass --data, except for the embedded digits. Any other PyTorch model is
measured if --arch names its class, or a function that makes it: the file is imported, that is
executed. The other options of the network are for checkpoints that do not record them, such as the
oldest of the original research code."""
_EPILOG = """\
examples:
  biprop robustness digits.mpt
  biprop robustness AB.deck --data DIR --corruptions noise,fog --severities 1,5 --images 1000
  biprop robustness cifar.mpt --data DIR --corrupted CIFAR-10-C
  biprop robustness cifar.mpt --data DIR --reference other.robustness.json    adds mCE
  biprop robustness --arch net.py:Net --weights net.pth --on-pixels --set CIFAR10 --data DIR
                                           a PyTorch model of your own"""


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands,
        "robustness",
        run,
        help="measure the accuracy under common corruptions, such as noise and blur",
        usage="biprop robustness FILE [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help=f"ticket ({TICKET_SUFFIX}), deck ({DECK_SUFFIX}), run folder, or checkpoint of biprop"
        " or of the original research code",
    )
    _add_corruption_flags(parser)
    parser.add_argument(
        "--engine",
        action="store_true",
        help="run tickets with biprop's engine, on the CPU, instead of PyTorch",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="NAME",
        help="name of the files to write, without suffix [that of FILE, and .robustness]",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the files of an earlier measurement"
    )
    robustness_model.add_flags(parser)
    add_options(parser, DATA_AND_NETWORK)
    parser.add_argument("--debug", **DEBUG)


def _add_corruption_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--corruptions",
        metavar="NAME,NAME",
        help="names of corruptions or groups: noise, blur, weather and digital, 15 in all; extra,"
        " the 4 that do not count towards the mean; all, these 19 [the 15]",
    )
    parser.add_argument(
        "--severities", metavar="N,N", help="severities, from 1 (weakest) to 5 [all]"
    )
    parser.add_argument(
        "--corrupted",
        metavar="DIR",
        help="read the corrupted images from the folder of a published benchmark: NAME.npy and"
        " labels.npy as in CIFAR-10-C and CIFAR-100-C, or NAME/SEVERITY/CLASS/ as in ImageNet-C",
    )
    parser.add_argument(
        "--reference",
        metavar="FILE.json",
        help="also compute mCE, the mean corruption error relative to another network: the JSON"
        " file that this command wrote for it; or alexnet, for ImageNet-C",
    )
    parser.add_argument(
        "--images", type=int, metavar="N", help="number of test images to use, evenly spaced [all]"
    )
    parser.add_argument(
        "--seed",
        dest="corruption_seed",
        type=int,
        default=0,
        metavar="N",
        help="random seed of the corruptions [0]",
    )


@dataclass
class _Measurement:
    """What was measured.

    Attributes:
        title: of the table.
        scores: one per classifier.
        reference: what mCE is relative to; None: there is no mCE.
        about: how the results were obtained, for the JSON file.
    """

    title: str
    scores: Sequence[Scores]
    reference: Reference | None
    about: dict[str, Any]


def run(arguments: argparse.Namespace) -> int:
    """Measure, print and write the results; returns the exit code."""
    given = overrides(arguments)
    spec = robustness_model.taken_spec(arguments, given)
    flags = coerced(given)
    _check_numbers(arguments)
    output = _output(arguments, spec)
    check_folder(output)
    files = _files(output)
    _check_files(files, arguments)
    from ..console import Console
    from ..robustness.scores import choose_cells

    cells = choose_cells(arguments.corruptions, arguments.severities)
    console = Console(tolerant=True)
    measured = (
        _measure_model(arguments, spec, flags, cells, console)
        if spec
        else _measure_file(arguments, flags, cells, console)
    )
    _show_corruptions(console, measured.title, measured.scores)
    _show_means(console, measured.scores, measured.reference)
    _warn_of_other_images(measured)
    _warn_without_errors(measured)
    _write(console, files, measured)
    return 0


def _measure_file(
    arguments: argparse.Namespace,
    flags: Mapping[str, Any],
    cells: Sequence[Cell],
    console: Console,
) -> _Measurement:
    """Measure a ticket, a deck or a checkpoint."""
    from ..evaluation.device import choose_device
    from ..evaluation.subject import load_data
    from ..robustness import classifier as classifiers

    subjects, deck = _subjects(arguments.file, flags, arguments.engine)
    first = subjects[0]
    device = choose_device("cpu" if arguments.engine else flags.get("device", "auto"))
    reference = _reference(arguments, cells, first.task.num_classes, first.config.set)
    dataset = load_data(first, console)
    if not dataset.is_images:
        raise UserError(
            f"{arguments.file}: corruptions are of images, and the data have {first.task}: biprop"
            " evaluate measures the accuracy"
        )
    clean, corrupted = _images(arguments, cells, first, dataset, device)
    classifier = _classifier(subjects, deck, dataset, arguments.engine, device)
    scores = classifiers.count(classifier, clean, corrupted, cells, device, console.track)
    title = f"{Path(arguments.file)}: {corrupted.description}"
    return _Measurement(
        title, scores, reference, _provenance(arguments, first, corrupted.description, device)
    )


def _measure_model(
    arguments: argparse.Namespace,
    spec: str,
    flags: Mapping[str, Any],
    cells: Sequence[Cell],
    console: Console,
) -> _Measurement:
    """Measure a PyTorch model of the user's own."""
    from ..evaluation.device import choose_device
    from ..robustness import measure
    from ..robustness.model import DEFAULT_BATCH

    if arguments.engine:
        raise UserError("--engine: runs tickets and decks, not a model of your own")
    device = choose_device(flags.get("device", "auto"))
    robustness_model.check_spec(spec)
    flags = robustness_model.with_data_set(flags)
    model, images = robustness_model.load(spec, arguments.weights, flags, console, device)
    reference = _reference(arguments, cells, len(images.classes), flags["set"])
    scores = measure(
        model,
        images,
        **robustness_model.normalisation(arguments),
        corruptions=arguments.corruptions,
        severities=arguments.severities,
        corrupted=arguments.corrupted,
        images=arguments.images,
        seed=arguments.corruption_seed,
        name=spec.rpartition(":")[2],
        progress=console.track,
    )
    about = {
        "file": spec,
        "weights": arguments.weights,
        "set": flags["set"],
        "classes": len(images.classes),
        "images": scores.source,
        "normalised by": robustness_model.normalised_by(arguments),
        "computed by": f"PyTorch, {device}",
        "batch": DEFAULT_BATCH,
        "reference": arguments.reference,
    }
    return _Measurement(f"{spec}: {scores.source}", [scores], reference, about)


def _reference(
    arguments: argparse.Namespace, cells: Sequence[Cell], classes: int, data_set: str
) -> Reference | None:
    from ..robustness.scores import read_reference

    if not arguments.reference:
        return None
    return read_reference(arguments.reference, cells, classes, data_set)


def _check_numbers(arguments: argparse.Namespace) -> None:
    if arguments.images is not None and arguments.images < 1:
        raise UserError(f"--images {arguments.images}: must be 1 or more")
    if not 0 <= arguments.corruption_seed < 2**64:
        raise UserError(f"--seed {arguments.corruption_seed}: must be in 0 .. 2**64 - 1")


def _output(arguments: argparse.Namespace, spec: str | None) -> Path:
    """The name of the files to write, without suffix.

    Args:
        arguments: of the command line.
        spec: the model of the user's own, FILE.py:NAME; None: a file of biprop's.
    """
    if arguments.output:
        path = Path(arguments.output)
        return path.with_suffix("") if path.suffix in _SUFFIXES else path
    if spec:
        return Path(f"{spec.rpartition(':')[2]}.robustness")
    path = Path(arguments.file)
    return path / "robustness" if path.is_dir() else path.with_name(f"{path.stem}.robustness")


def _files(output: Path) -> list[Path]:
    """The files to write: CSV, JSON and plot."""
    return [output.with_name(output.name + suffix) for suffix in _SUFFIXES]


def _check_files(files: Sequence[Path], arguments: argparse.Namespace) -> None:
    """Raise UserError if a file would replace another measurement, before anything is measured."""
    there = [file for file in files if file.exists()]
    reference = Path(arguments.reference) if arguments.reference else None
    if reference and any(reference.exists() and reference.samefile(file) for file in there):
        raise UserError(
            f"--reference {reference}: would be overwritten by the result: pass another -o NAME"
        )
    if there and not arguments.overwrite:
        raise UserError(
            f"{there[0]}: exists: pass --overwrite to replace the earlier measurement, or another"
            " -o NAME"
        )


def _subjects(
    path: str, flags: Mapping[str, Any], by_engine: bool
) -> tuple[list[Subject], Deck | None]:
    """The networks in a file, and the deck if it is one."""
    from ..deck import Deck
    from ..evaluation.subject import of_checkpoint, of_ticket
    from ..runs import folder

    if path.endswith(DECK_SUFFIX):
        deck = Deck.load(path)
        cards = zip(deck.names, deck.cards, strict=True)
        return [of_ticket(name, flags, card) for name, card in cards], deck
    if path.endswith(TICKET_SUFFIX):
        return [of_ticket(path, flags)], None
    if by_engine:
        reason = f"{path} is neither; biprop pack writes a ticket"
        raise UserError(f"--engine: runs tickets and decks, and {reason}")
    subject = of_checkpoint(folder.find_checkpoint(path), flags, {})
    warn([*folder.notes_on(path), *subject.warnings])
    return [subject], None


def _images(
    arguments: argparse.Namespace,
    cells: Sequence[Cell],
    subject: Subject,
    dataset: DataSet,
    device: torch.device,
) -> tuple[Any, Corrupted]:
    """Batches of clean images, and the corrupted images, which are computed on `device`."""
    from ..data import spread
    from ..evaluation.device import evaluation_batch
    from ..robustness.images import Generated, published

    task = subject.task
    batch = evaluation_batch(task)
    limit = arguments.images or len(dataset.test)
    numbers = spread(len(dataset.test), limit)
    generated = Generated(dataset.test, numbers, batch, arguments.corruption_seed, device)
    if not arguments.corrupted:
        return generated.clean(), generated
    shape = (task.channels, task.input_size[0], task.input_size[1])
    folder = arguments.corrupted
    return generated.clean(), published(folder, cells, shape, dataset.classes, limit, batch)


def _classifier(
    subjects: Sequence[Subject],
    deck: Deck | None,
    dataset: DataSet,
    by_engine: bool,
    device: torch.device,
) -> Classifier:
    from ..robustness.classifier import Classifier
    from ..ticket import Ticket

    if by_engine:
        tickets = deck.cards if deck else [Ticket.load(subjects[0].name)]
        networks = [_engine_network(ticket, dataset) for ticket in tickets]
    else:
        networks = [_torch_network(subject, dataset, device) for subject in subjects]
    names = deck.names if deck else [Path(subjects[0].name).stem]
    return Classifier(networks, names, deck)


def _engine_network(ticket: Any, dataset: DataSet) -> Network:
    from ..engine import cores
    from ..evaluation.engine_model import Packed

    engine, warnings = load_engine(ticket, cores())
    warn(warnings)
    return Packed(engine, dataset)


def _torch_network(subject: Subject, dataset: DataSet, device: torch.device) -> Network:
    from ..ticket.torch import OnPixels

    mean, std = subject.mean or dataset.mean, subject.std or dataset.std
    return OnPixels(subject.model, mean, std).to(device)


def _provenance(
    arguments: argparse.Namespace, subject: Subject, source: str, device: torch.device
) -> dict[str, Any]:
    """How the results were obtained, for the JSON file."""
    from ..evaluation.device import evaluation_batch

    return {
        "file": arguments.file,
        "set": subject.config.set,
        "classes": subject.task.num_classes,
        "images": source,
        "computed by": "engine" if arguments.engine else f"PyTorch, {device}",
        "batch": evaluation_batch(subject.task),
        "reference": arguments.reference,
    }


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _show_corruptions(console: Console, title: str, scores: Sequence[Scores]) -> None:
    """Print a row per corruption: by severity for one classifier, else its mean for each."""
    from ..robustness.scores import display_name

    first = scores[0]
    if len(scores) > 1:
        heads = [classifier.name for classifier in scores]
        cells = {name: [classifier.of(name) for classifier in scores] for name in first.names}
    else:
        severities = sorted({severity for _, severity in first.cells})
        heads = [*(f"severity {severity}" for severity in severities), "mean"]
        cells = {
            name: [*(first.cells[name, severity].top1 for severity in severities), first.of(name)]
            for name in first.names
        }
    rows = [[display_name(name), *map(_percent, values)] for name, values in cells.items()]
    console.columns(title, ["accuracy, %", *heads], rows)


def _show_means(console: Console, scores: Sequence[Scores], reference: Reference | None) -> None:
    """Print a row per classifier: means over all corruptions and over each group, and mCE."""
    from ..robustness.severities import GROUPS

    first = scores[0]
    groups = [group for group, names in GROUPS.items() if first.mean(names) is not None]
    heads = ["accuracy, %", "clean", "corrupted", *groups]
    if reference:
        heads.append("mCE")
    rows = []
    for classifier in scores:
        of_groups = (classifier.mean(GROUPS[group]) for group in groups)
        row = [classifier.name, _percent(classifier.clean.top1), _percent(classifier.mean())]
        row += map(_percent, of_groups)
        if reference:
            mce = classifier.mce(reference)
            row.append("undefined" if mce is None else _percent(mce))
        rows.append(row)
    console.columns(f"means ({first.clean.images:,} clean images)", heads, rows)


def _warn_of_other_images(measured: _Measurement) -> None:
    """Warn where the reference was measured on other images or with another seed."""
    from ..robustness.scores import recorded_facts

    path = measured.about["reference"]
    there = recorded_facts(path).get("images") if path else None
    here = measured.about["images"]
    if there and there != here:
        warn([f"mCE: the reference was measured on {abbreviated(there)}, and here it is {here}"])


def _warn_without_errors(measured: _Measurement) -> None:
    """Warn where mCE does not exist."""
    from ..robustness.scores import display_name

    if not measured.reference:
        return
    if names := measured.scores[0].without_errors(measured.reference):
        under = ", ".join(map(display_name, names))
        warn(
            [
                f"mCE is undefined: the reference makes no error under {under}; measure both on"
                " more images or severities"
            ]
        )


def _write(console: Console, files: Sequence[Path], measured: _Measurement) -> None:
    """Write the results as CSV and JSON, and a bar chart if matplotlib is installed.

    Raises:
        UserError: a file cannot be written.
    """
    from ..robustness import plots
    from ..robustness.scores import as_json

    csv_file, json_file, png_file = files
    scores, about = measured.scores, measured.about
    content = json.dumps(as_json(scores, about, measured.reference), indent=1, allow_nan=False)
    try:
        write_text_atomically(csv_file, _csv(scores))
        write_text_atomically(json_file, content + "\n")
    except OSError as e:
        raise UserError(f"{json_file}: cannot be written: {e.strerror}") from None
    written = [json_file, csv_file]
    if plots.is_installed():
        plots.corruption_bars(scores, f"{about['file']}: {about['images']}", png_file)
        written.append(png_file)
    console.line("", f"written: {', '.join(map(str, written))}")
    if not plots.is_installed():
        console.line("for a bar chart as well: pip install 'biprop[plots]'")


def _csv(scores: Sequence[Scores]) -> str:
    from ..robustness.scores import as_rows
    from ..runs import results

    table = io.StringIO()
    rows = [[results.csv_cell(cell) for cell in row] for row in as_rows(scores)]
    csv.writer(table, lineterminator="\n").writerows(rows)
    return table.getvalue()
