"""The commands about robustness: robustness, which measures, and deck build. What they do is in `robustness` and `assemble`."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import config as options
from .cli_engine import engine_of, warn
from .errors import UserError
from .files import replace_text
from .flags import DEBUG, DECK_ENDING, OF_A_FILE, TICKET_ENDING, Help, add_options, check_folder, coerced, overrides

if TYPE_CHECKING:
    import torch

    from .accuracy import Subject
    from .data import DataSet
    from .deck import Deck
    from .log import Console
    from .robustness import Classifier, Network, Scores


def add_commands(commands: Any) -> None:
    """Put the commands into the parser of the command line: `commands` is what `add_subparsers` returned."""
    common: dict[str, Any] = {"formatter_class": Help, "allow_abbrev": False}
    robustness = commands.add_parser(
        "robustness", help="accuracy under corruptions: noise, blur, weather, digital", usage="biprop robustness FILE [options]",
        description="Accuracy of a ticket, a deck or a checkpoint on test images as they are, and under 15 corruptions at five\n"
        "severities (Hendrycks and Dietterich, 2019). The corruptions are computed here unless --corrupted names published\n"
        "files. A deck is measured card by card, and together: mean, and gated by batch and by image.\n"
        "Writes NAME.json, NAME.csv and, with matplotlib (pip install 'biprop[plots]'), NAME.png.",
        **common,
    )  # fmt: skip
    robustness.add_argument(
        "file", metavar="FILE", help="ticket (.mpt), deck (.deck), run folder, or checkpoint of this program or the original code"
    )
    robustness.add_argument(
        "--corruptions",
        metavar="NAME,NAME",
        help="some of the 19, or groups: noise, blur, weather, digital; extra (the 4 others), all (19) [the 15 of the score]",
    )
    robustness.add_argument("--severities", metavar="N,N", help="of 1 .. 5 [all]")
    robustness.add_argument(
        "--corrupted", metavar="DIR",
        help="published images instead: NAME.npy and labels.npy as in CIFAR-10-C and CIFAR-100-C, or NAME/SEVERITY/CLASS/ as in "
        "ImageNet-C",
    )  # fmt: skip
    robustness.add_argument(
        "--reference", metavar="FILE.json", help="for mCE: what this command wrote of another network; or alexnet, for ImageNet-C"
    )
    robustness.add_argument("--images", type=int, metavar="N", help="use only so many images, evenly spaced [all]")
    robustness.add_argument("--seed", dest="corruption_seed", type=int, default=0, metavar="N", help="of the corruptions [0]")
    robustness.add_argument("--engine", action="store_true", help="compute tickets with the engine, on the CPU")
    robustness.add_argument("-o", "--output", metavar="NAME", help="where results go [FILE.robustness]")
    add_options(robustness, OF_A_FILE)
    robustness.add_argument("--debug", **DEBUG)
    robustness.set_defaults(run=_robustness)

    deck = commands.add_parser("deck", help="several tickets in one file, that answer together", **common)
    actions = deck.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=type(robustness))
    build = actions.add_parser(
        "build", help="make one", usage="biprop deck build A.mpt B.mpt ... -o NAME.deck [options]",
        description="Put tickets into one file, a deck. Its gate weights them by the spectrum of the images that it sees: it is\n"
        "fitted on held-out training images, plain and augmented as each ticket's were. Where they are, --data says.\n"
        "In Python: biprop.Deck.load(NAME).predict(images).", **common,
    )  # fmt: skip
    build.add_argument("tickets", nargs="+", metavar="NAME.mpt")
    build.add_argument("-o", "--output", required=True, metavar="NAME.deck", help="the deck")
    build.add_argument("--no-gate", action="store_true", help="the mean of the tickets' answers, always; needs no data")
    add_options(build, options.DATA_PLACES)
    build.add_argument("--debug", **DEBUG)
    build.set_defaults(run=_build)


def _build(arguments: argparse.Namespace) -> int:
    flags = coerced(overrides(arguments))
    if not arguments.output.endswith(DECK_ENDING):
        raise UserError(f"--output {arguments.output}: the name of a deck ends with {DECK_ENDING}")
    check_folder(arguments.output)
    from . import inspection, log
    from .deck import Deck
    from .engine import cores
    from .ticket import Ticket

    cards, names = [Ticket.load(path) for path in arguments.tickets], _names(arguments.tickets)
    console = log.Console(lasting=True)
    if arguments.no_gate:
        deck = Deck(cards, names)
    else:
        from . import assemble

        deck = assemble.build(cards, names, flags, console, cores())
    size = deck.save(arguments.output)
    content = inspection.deck_report(deck, size)
    console.columns(f"{arguments.output} written", content.heads, content.layers)
    console.table("the deck", content.totals)
    return 0


def _names(paths: Sequence[str]) -> list[str]:
    """The files' names without ending; their paths where two are the same."""
    stems = [Path(path).stem for path in paths]
    return stems if len(set(stems)) == len(stems) else list(paths)


def _robustness(arguments: argparse.Namespace) -> int:
    flags = coerced(overrides(arguments))
    if arguments.images is not None and arguments.images < 1:
        raise UserError(f"--images {arguments.images}: must be 1 or more")
    if not 0 <= arguments.corruption_seed < 2**64:
        raise UserError(f"--seed {arguments.corruption_seed}: must be in 0 .. 2**64 - 1")
    path, output = Path(arguments.file), _output(arguments)
    check_folder(output)
    from . import accuracy, log, robustness
    from .data import spread
    from .train import choose_device, evaluation_batch

    cells = robustness.choose_cells(arguments.corruptions, arguments.severities)
    subjects, deck = _subjects(arguments.file, flags, arguments.engine)
    first = subjects[0]
    device = choose_device("cpu" if arguments.engine else flags.get("device", "auto"))
    batch, task = evaluation_batch(first.task), first.task
    reference = robustness.read_reference(arguments.reference, cells, task.num_classes) if arguments.reference else None
    console = log.Console(lasting=True)
    images = accuracy.load_data(first, console)
    most = arguments.images or len(images.test)
    clean = robustness.Generated(images, spread(len(images.test), most), batch, arguments.corruption_seed)
    corrupted: robustness.Corrupted = clean
    if arguments.corrupted:
        shape = (task.channels, *task.input_size)
        corrupted = robustness.published(arguments.corrupted, cells, shape, images.classes, most, batch)
    classifier = _classifier(subjects, deck, images, arguments.engine, device)
    scores = robustness.measure(classifier, clean.clean(), corrupted, cells, device, console.track)
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


def _subjects(path: str, flags: Mapping[str, Any], by_engine: bool) -> tuple[list[Subject], Deck | None]:
    """The networks of a file, and the deck if it is one."""
    from . import accuracy, export
    from .deck import Deck

    if path.endswith(DECK_ENDING):
        deck = Deck.load(path)
        return [accuracy.of_ticket(name, flags, card) for name, card in zip(deck.names, deck.cards, strict=True)], deck
    if path.endswith(TICKET_ENDING):
        return [accuracy.of_ticket(path, flags)], None
    if by_engine:
        raise UserError(f"--engine: runs tickets and decks, and {path} is none; biprop pack makes a ticket of it")
    subject = accuracy.of_checkpoint(export.find_checkpoint(path), flags, {})
    warn(subject.warnings)
    return [subject], None


def _classifier(
    subjects: Sequence[Subject], deck: Deck | None, images: DataSet, by_engine: bool, device: torch.device
) -> Classifier:
    from . import accuracy, export
    from .engine import cores
    from .robustness import Classifier
    from .ticket import Ticket

    names = deck.names if deck else [Path(subjects[0].name).stem]
    networks: list[Network] = []
    for number, subject in enumerate(subjects):
        if by_engine:
            engine, said = engine_of(deck.cards[number] if deck else Ticket.load(subject.name), cores())
            warn(said)
            networks.append(accuracy.Packed(engine, images))
        else:
            networks.append(export.OnPixels(subject.model, subject.mean or images.mean, subject.std or images.std).to(device))
    return Classifier(networks, names, deck)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _show(
    console: Console, title: str, scores: Sequence[Scores], source: str, reference: Mapping[str, Mapping[int, float]] | None
) -> None:
    from .robustness import in_words
    from .severities import GROUPS

    first = scores[0]
    if len(scores) == 1:
        severities = sorted({severity for _, severity in first.cells})
        heads = ["accuracy, %", *(f"severity {severity}" for severity in severities), "mean"]
        rows = [
            [in_words(name), *(_percent(first.cells[name, severity].top1) for severity in severities), _percent(first.of(name))]
            for name in first.names
        ]
    else:
        heads = ["accuracy, %", *(one.name for one in scores)]
        rows = [[in_words(name), *(_percent(one.of(name)) for one in scores)] for name in first.names]
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
    from . import log, plots, robustness

    table = io.StringIO()
    rows = [[log.csv_cell(cell) for cell in row] for row in robustness.as_rows(scores)]
    csv.writer(table, lineterminator="\n").writerows(rows)
    endings = [".json", ".csv"]
    try:
        replace_text(output.with_name(output.name + ".csv"), table.getvalue())
        content = json.dumps(robustness.as_json(scores, about, reference), indent=1, allow_nan=False)
        replace_text(output.with_name(output.name + ".json"), content + "\n")
    except OSError as e:
        raise UserError(f"{output}.json: cannot be written: {e.strerror}") from None
    if plots.is_installed():
        plots.corruption_bars(scores, f"{about['file']}: {about['images']}", output.with_name(output.name + ".png"))
        endings.append(".png")
    console.line("", f"written: {', '.join(str(output) + ending for ending in endings)}")
    if ".png" not in endings:
        console.line("for a picture too: pip install 'biprop[plots]'")
