"""The commands about robustness: robustness, which measures, and deck build.

What they do is in `robustness` and `assemble`.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import replace_text
from .common import engine_of, warn
from .parser import (
    DEBUG,
    DECK_ENDING,
    OF_A_FILE,
    TICKET_ENDING,
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
    from ..robustness.measure import Classifier, Network
    from ..robustness.scores import Scores


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands, "robustness", run, help="accuracy under corruptions: noise, blur, weather, digital", usage="biprop robustness FILE [options]",
        description="Accuracy of a ticket, a deck or a checkpoint on test images as they are, and under 15 corruptions at five\n"
        "severities (Hendrycks and Dietterich, 2019). The corruptions are computed here unless --corrupted names published\n"
        "files. A deck is measured card by card, and together: mean, and gated by batch and by image.\n"
        "Writes NAME.json, NAME.csv and, with matplotlib (pip install 'biprop[plots]'), NAME.png.")  # fmt: skip
    parser.add_argument(
        "file",
        metavar="FILE",
        help=(
            "ticket (.mpt), deck (.deck), run folder, or checkpoint of this program or the original"
            " code"
        ),
    )
    parser.add_argument(
        "--corruptions",
        metavar="NAME,NAME",
        help=(
            "some of the 19, or groups: noise, blur, weather, digital; extra (the 4 others), all"
            " (19) [the 15 of the score]"
        ),
    )
    parser.add_argument("--severities", metavar="N,N", help="of 1 .. 5 [all]")
    parser.add_argument(
        "--corrupted", metavar="DIR",
        help="published images instead: NAME.npy and labels.npy as in CIFAR-10-C and CIFAR-100-C, or NAME/SEVERITY/CLASS/ as in "
        "ImageNet-C",
    )  # fmt: skip
    parser.add_argument(
        "--reference",
        metavar="FILE.json",
        help="for mCE: what this command wrote of another network; or alexnet, for ImageNet-C",
    )
    parser.add_argument(
        "--images", type=int, metavar="N", help="use only so many images, evenly spaced [all]"
    )
    parser.add_argument(
        "--seed",
        dest="corruption_seed",
        type=int,
        default=0,
        metavar="N",
        help="of the corruptions [0]",
    )
    parser.add_argument(
        "--engine", action="store_true", help="compute tickets with the engine, on the CPU"
    )
    parser.add_argument("-o", "--output", metavar="NAME", help="where results go [FILE.robustness]")
    add_options(parser, OF_A_FILE)
    parser.add_argument("--debug", **DEBUG)


def run(arguments: argparse.Namespace) -> int:
    flags = coerced(overrides(arguments))
    if arguments.images is not None and arguments.images < 1:
        raise UserError(f"--images {arguments.images}: must be 1 or more")
    if not 0 <= arguments.corruption_seed < 2**64:
        raise UserError(f"--seed {arguments.corruption_seed}: must be in 0 .. 2**64 - 1")
    path, output = Path(arguments.file), _output(arguments)
    check_folder(output)
    from ..console import Console
    from ..data import spread
    from ..evaluation.device import choose_device, evaluation_batch
    from ..evaluation.subject import load_data
    from ..robustness import measure
    from ..robustness.images import Corrupted, Generated, published
    from ..robustness.scores import choose_cells, read_reference

    cells = choose_cells(arguments.corruptions, arguments.severities)
    subjects, deck = _subjects(arguments.file, flags, arguments.engine)
    first = subjects[0]
    device = choose_device("cpu" if arguments.engine else flags.get("device", "auto"))
    batch, task = evaluation_batch(first.task), first.task
    reference = (
        read_reference(arguments.reference, cells, task.num_classes)
        if arguments.reference
        else None
    )
    console = Console(lasting=True)
    images = load_data(first, console)
    most = arguments.images or len(images.test)
    clean = Generated(images, spread(len(images.test), most), batch, arguments.corruption_seed)
    corrupted: Corrupted = clean
    if arguments.corrupted:
        shape = (task.channels, *task.input_size)
        corrupted = published(arguments.corrupted, cells, shape, images.classes, most, batch)
    classifier = _classifier(subjects, deck, images, arguments.engine, device)
    scores = measure.measure(classifier, clean.clean(), corrupted, cells, device, console.track)
    about = {
        "file": arguments.file, "set": first.config.set, "images": corrupted.told,
        "computed by": "engine" if arguments.engine else f"PyTorch, {device}", "batch": batch, "reference": arguments.reference,
    }  # fmt: skip
    _show(console, str(path), scores, corrupted.told, reference)
    _write(console, output, scores, about, reference)
    return 0


def _output(arguments: argparse.Namespace) -> Path:
    """Files are called so, with .json, .csv and .png."""
    if arguments.output:
        named = Path(arguments.output)
        return named.with_suffix("") if named.suffix in (".json", ".csv", ".png") else named
    path = Path(arguments.file)
    return path / "robustness" if path.is_dir() else path.with_name(f"{path.stem}.robustness")


def _subjects(
    path: str, flags: Mapping[str, Any], by_engine: bool
) -> tuple[list[Subject], Deck | None]:
    """The networks of a file, and the deck if it is one."""
    from ..deck import Deck
    from ..evaluation.subject import of_checkpoint, of_ticket
    from ..runs import folder

    if path.endswith(DECK_ENDING):
        deck = Deck.load(path)
        return [
            of_ticket(name, flags, card) for name, card in zip(deck.names, deck.cards, strict=True)
        ], deck
    if path.endswith(TICKET_ENDING):
        return [of_ticket(path, flags)], None
    if by_engine:
        raise UserError(
            f"--engine: runs tickets and decks, and {path} is none; biprop pack makes a ticket"
            " of it"
        )
    subject = of_checkpoint(folder.find_checkpoint(path), flags, {})
    warn(subject.warnings)
    return [subject], None


def _classifier(
    subjects: Sequence[Subject],
    deck: Deck | None,
    images: DataSet,
    by_engine: bool,
    device: torch.device,
) -> Classifier:
    from ..engine import cores
    from ..evaluation.engine_model import Packed
    from ..robustness.measure import Classifier
    from ..ticket import Ticket
    from ..ticket.torch import OnPixels

    names = deck.names if deck else [Path(subjects[0].name).stem]
    networks: list[Network] = []
    for number, subject in enumerate(subjects):
        if by_engine:
            engine, said = engine_of(
                deck.cards[number] if deck else Ticket.load(subject.name), cores()
            )
            warn(said)
            networks.append(Packed(engine, images))
        else:
            networks.append(
                OnPixels(subject.model, subject.mean or images.mean, subject.std or images.std).to(
                    device
                )
            )
    return Classifier(networks, names, deck)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _show(
    console: Console,
    title: str,
    scores: Sequence[Scores],
    source: str,
    reference: Mapping[str, Mapping[int, float]] | None,
) -> None:
    from ..robustness.scores import in_words
    from ..robustness.severities import GROUPS

    first = scores[0]
    if len(scores) == 1:
        severities = sorted({severity for _, severity in first.cells})
        heads = ["accuracy, %", *(f"severity {severity}" for severity in severities), "mean"]
        rows = [
            [
                in_words(name),
                *(_percent(first.cells[name, severity].top1) for severity in severities),
                _percent(first.of(name)),
            ]
            for name in first.names
        ]
    else:
        heads = ["accuracy, %", *(one.name for one in scores)]
        rows = [
            [in_words(name), *(_percent(one.of(name)) for one in scores)] for name in first.names
        ]
    console.columns(f"{title}: {source}", heads, rows)
    measured = [group for group, names in GROUPS.items() if first.mean(names) is not None]
    heads = ["accuracy, %", "clean", "corrupted", *measured, *(["mCE"] if reference else [])]
    rows = []
    for one in scores:
        row = [
            one.name,
            _percent(one.clean.top1),
            _percent(one.mean()),
            *(_percent(one.mean(GROUPS[group])) for group in measured),
        ]
        rows.append([*row, _percent(one.mce(reference))] if reference else row)
    console.columns(f"means ({first.clean.images:,} clean images)", heads, rows)


def _write(
    console: Console,
    output: Path,
    scores: Sequence[Scores],
    about: Mapping[str, Any],
    reference: Mapping[str, Mapping[int, float]] | None,
) -> None:
    from ..robustness import plots
    from ..robustness.scores import as_json, as_rows
    from ..runs import results

    table = io.StringIO()
    rows = [[results.csv_cell(cell) for cell in row] for row in as_rows(scores)]
    csv.writer(table, lineterminator="\n").writerows(rows)
    endings = [".json", ".csv"]
    try:
        replace_text(output.with_name(output.name + ".csv"), table.getvalue())
        content = json.dumps(as_json(scores, about, reference), indent=1, allow_nan=False)
        replace_text(output.with_name(output.name + ".json"), content + "\n")
    except OSError as e:
        raise UserError(f"{output}.json: cannot be written: {e.strerror}") from None
    if plots.is_installed():
        plots.corruption_bars(
            scores, f"{about['file']}: {about['images']}", output.with_name(output.name + ".png")
        )
        endings.append(".png")
    console.line("", f"written: {', '.join(str(output) + ending for ending in endings)}")
    if ".png" not in endings:
        console.line("for a picture too: pip install 'biprop[plots]'")
