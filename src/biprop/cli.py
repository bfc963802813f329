"""The command line: parse, build, call. Torch is loaded by the commands that need it, not by --help.

Exit codes: 0 done, 1 the search diverged, 2 a mistake in the command or its input, 75 stopped by
SIGTERM or SIGHUP, or because another process died (the same command with --resume auto goes on),
130 interrupted, 141 what reads the output has gone (`| head`).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__, cli_engine, cli_robustness, interrupts, screen
from . import config as options
from .cli_engine import warn as _warn
from .errors import UserError, did_you_mean
from .flags import DEBUG, DECK_ENDING, OF_A_FILE, TICKET_ENDING, Help, Parser, add_options, check_folder, coerced, overrides

if TYPE_CHECKING:
    from .config import Config
    from .data import DataSet
    from .network import Network
    from .subnetwork import LayerReport
    from .train import Result, Search

DIVERGED, MISTAKE, INTERRUPTED, PIPE = 1, 2, 130, 141
"""The last two are what a shell gives for SIGINT and SIGPIPE."""

_DESCRIPTION = """\
Find Multi-Prize Tickets: subnetworks of networks with random, never-trained weights that are binary, and as accurate as
trained ones. Start with:

  biprop find                                        a ticket in the embedded digits, in less than a minute
  biprop find --config conv4_kn_unsigned --set CIFAR10 --data DIR --prune-rate 0.2
  biprop find --resume runs/digits/prune-rate=0.2/find
  biprop status runs/digits/prune-rate=0.2/find      how a run is doing, or how it ended
  biprop pack runs/digits/prune-rate=0.2/find -o digits.mpt
  biprop inspect digits.mpt
  biprop evaluate digits.mpt
  biprop predict digits.mpt pictures/                which classes they show, without PyTorch
  biprop bench digits.mpt
  biprop robustness digits.mpt                       accuracy under corruptions
  biprop deck build A.mpt B.mpt -o AB.deck --data DIR   several tickets that answer together
  biprop sweep --grid config=conv2_kn_unsigned,conv4_kn_unsigned prune_rate=0.5,0.2 seed=0,1 --set CIFAR10 --data DIR
  biprop list networks
"""


def _parser() -> Parser:
    parser = Parser(prog="biprop", description=_DESCRIPTION, formatter_class=Help, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"biprop {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", required=True, parser_class=Parser)

    find = commands.add_parser(
        "find",
        help="search for a ticket",
        usage="biprop find [--config FILE] [options]",
        description="Search for a ticket: train one score per random weight, keep the top fraction, and replace what is\n"
        "kept by +-gain. Options come from a configuration file, and the flags below change it. Values in\n"
        "[brackets] hold where neither says anything.",
        epilog="Exit codes: 0 done, 1 the search diverged, 2 a mistake in the command or its input, 75 stopped\n"
        "by SIGTERM or SIGHUP, or because another process died (--resume auto goes on), 130 interrupted.",
        formatter_class=Help,
        allow_abbrev=False,
    )
    find.add_argument(
        "--config",
        metavar="FILE",
        help=f"YAML file, or the name of a packaged one (biprop list configs) [{options.DEFAULT_CONFIG}]",
    )
    find.add_argument(
        "--print-config", "--print_config", action="store_true", help="print the configuration in full, as YAML, and stop"
    )
    starts = find.add_argument_group("where to start from")
    starts.add_argument(
        "--resume", metavar="RUN",
        help="go on where the run that left this folder or checkpoint stopped; no --config is needed. auto: with the last run of "
        "exactly these options, or begin if there is none; restarts by torchrun and requeues by SLURM do so without being asked",
    )  # fmt: skip
    starts.add_argument("--pretrained", metavar="FILE", help="start with the weights and scores of this checkpoint")
    starts.add_argument("-e", "--evaluate", action="store_true", help="only evaluate --pretrained, as biprop evaluate does")
    add_options(find)
    machine = find.add_argument_group("machine")
    machine.add_argument(
        "--multigpu", metavar="IDS", help="GPUs to use, one process each: 0,1 (or torchrun, srun, mpirun, jsrun)"
    )
    machine.add_argument("--debug", **DEBUG)
    find.set_defaults(run=_find)

    evaluate = commands.add_parser(
        "evaluate",
        help="accuracy of a ticket or a checkpoint",
        usage="biprop evaluate FILE [options]",
        description="Accuracy of a ticket or a checkpoint on validation and test data. What the file says of its network and\n"
        "data needs no flag; where the data are, --data says.",
        formatter_class=Help,
        allow_abbrev=False,
    )
    evaluate.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="ticket (.mpt), run folder, or checkpoint of this program or the original research code",
    )
    evaluate.add_argument("--pretrained", metavar="FILE", help="the same, as the original research code spells it")
    evaluate.add_argument(
        "--engine", action="store_true", help="compute a ticket with the engine, on the CPU, instead of PyTorch"
    )
    evaluate.add_argument(
        "--compare", action="store_true", help="with --engine: count the images to which PyTorch gives another class"
    )
    evaluate.add_argument(
        "--activations", choices=("float", "u8"), default="float", help="with --engine; " + cli_engine.ACTIVATIONS_HELP
    )
    add_options(evaluate, OF_A_FILE)
    evaluate.add_argument("--debug", **DEBUG)
    evaluate.set_defaults(run=_evaluate)

    pack = commands.add_parser(
        "pack",
        help="write the ticket file of a search: under one bit per weight",
        usage="biprop pack RUN -o NAME.mpt [options]",
        description="Write what a search found as a ticket: a seed, coded masks, one gain a layer, and batch norm. Before it is\n"
        "written, every weight is rebuilt from it and compared.",
        formatter_class=Help,
        allow_abbrev=False,
    )
    pack.add_argument("source", metavar="RUN", help="run folder, or checkpoint of this program or of the original research code")
    pack.add_argument("-o", "--output", required=True, metavar="NAME.mpt", help="the ticket")
    pack.add_argument(
        "--compact", action="store_true",
        help="batch norm and dense layers in 16 bits a number instead of 32; measures what that changes on the test set",
    )  # fmt: skip
    add_options(pack, OF_A_FILE)
    pack.add_argument("--debug", **DEBUG)
    pack.set_defaults(run=_pack)

    inspect = commands.add_parser(
        "inspect", help="what is in a ticket or a deck", usage="biprop inspect NAME.mpt",
        description="A row per layer, and where the bytes of the file go; of a deck (.deck), a row per card.",
        formatter_class=Help, allow_abbrev=False,
    )  # fmt: skip
    inspect.add_argument("file", metavar="NAME.mpt")
    inspect.add_argument("--debug", **DEBUG)
    inspect.set_defaults(run=_inspect)

    cli_engine.add_commands(commands)
    cli_robustness.add_commands(commands)

    sweep = commands.add_parser(
        "sweep",
        help="search over a grid of configurations, options and seeds",
        usage="biprop sweep [--grid KEY=V1,V2 ...] [options of biprop find]",
        description="Run one search per cell of a grid. Started again, the same command skips what is done and goes on with\n"
        "what was interrupted. Without --grid: Conv2/4/6/8, MPT-1/32 and MPT-1/1, on CIFAR-10, at prune rates 0.8, 0.6, 0.5,\n"
        "0.4, 0.2 and 0.1 (48 cells). The state is in <log-dir>/sweeps/<name>/, results are in results.csv.",
        formatter_class=Help,
        allow_abbrev=False,
    )
    sweep.add_argument("--config", metavar="FILE", help="as of biprop find, where the grid does not name one")
    sweep.add_argument(
        "--grid", nargs="+", action="extend", default=[], metavar="KEY=V1,V2",
        help="values of an option, or of config: config=conv2_kn_unsigned,conv4_kn_unsigned prune_rate=0.5,0.2 seed=0,1,2",
    )  # fmt: skip
    sweep.add_argument("--cell", type=int, metavar="N", help="run this cell only, counted from 0")
    sweep.add_argument("--slurm", action="store_true", help="print a SLURM array script, a task per cell, and stop")
    sweep.add_argument("--list", action="store_true", help="print the cells and their results so far, and stop")
    add_options(sweep)
    sweep.set_defaults(run=_sweep)

    status = commands.add_parser(
        "status", help="how a run is doing, or how it ended", usage="biprop status RUN",
        description="Where a run is, how fast, how long it still takes and whether it lives, from the files in its folder.",
        formatter_class=Help, allow_abbrev=False,
    )  # fmt: skip
    status.add_argument("folder", metavar="RUN", help="run folder")
    status.set_defaults(run=_status)

    listing = commands.add_parser("list", help="names of networks or configurations", formatter_class=Help, allow_abbrev=False)
    listing.add_argument("what", choices=("networks", "configs"))
    listing.set_defaults(run=_list)
    return parser


def _find(arguments: argparse.Namespace) -> int:
    given = overrides(arguments)
    if arguments.evaluate:
        if not arguments.pretrained:
            raise UserError("--evaluate needs the checkpoint: pass --pretrained FILE")
        return _show_accuracy(arguments.pretrained, given, arguments.config)
    if arguments.resume in (None, "auto"):
        given = _with_set(given, arguments.config)
    if arguments.resume and arguments.pretrained:
        raise UserError("--resume and --pretrained: one of them, to go on with a run or to start a new one")
    if arguments.multigpu is not None and not arguments.print_config:
        if arguments.config or arguments.resume in (None, "auto"):
            # A mistake is said here once, not by every process.
            device = options.resolve(arguments.config, given)[0].device
        else:
            device = given.get("device") or _device_of_run(arguments.resume)
        gpus = _gpus(arguments.multigpu, device)
        if len(gpus) > 1:
            return _start_processes(gpus, arguments.argv)
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[0]
    from . import distributed, runs

    resume, start = arguments.resume, None
    if resume is None and distributed.is_restart() and not arguments.pretrained:
        resume = "auto"
    is_automatic = resume == "auto"
    config, name = (
        (None, "") if resume not in (None, "auto") and not arguments.config else options.resolve(arguments.config, given)
    )
    if resume == "auto":
        assert config
        folder = runs.newest(config, name)
        if folder and (folder / runs.RESULT).is_file():
            if distributed.detect().is_first:
                screen.show(f"{screen.printable(str(folder))}: complete already; another --name begins a new run\n")
            return 0
        resume = folder and str(folder)
    if path := resume or arguments.pretrained:
        from . import checkpoint

        path = _checkpoint_of(path)
        start = checkpoint.read(path, coerced(given), options.as_dict(config) if config else None)
        if config is None:
            if start.ours is None:
                raise UserError(f"--resume {path}: does not hold the options of its run: pass --config too")
            config, name = options.override(start.config, given), checkpoint.config_name(start)
    assert config
    if arguments.print_config:
        screen.show(options.as_yaml(config))
        return 0
    from . import data, log
    from .train import Search, SearchDiverged, SearchStopped, choose_device

    group = distributed.detect()
    nowhere = None if group.is_first else Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    console = log.Console(nowhere, lasting=True)
    search: Search | None = None
    try:
        with group.together(choose_device(config.device, group).type):
            images = group.by_all(lambda: data.load(config, console.track))
            if start and resume:
                _check_classes(checkpoint.class_names(start), images.classes, start.path)
            search = Search(config, name, images, console, start, bool(resume) or is_automatic, group)
            if group.is_first:
                of_checkpoint = start.warnings if start else []
                _warn([*of_checkpoint, *options.warnings(config), *images.notes, *images.search_notes])
            console.line(_headline(config, search.network, images, search.device, group.size))
            if images.about:
                console.line(f"data {config.data}: {config.set}, {images.about}")
            console.line(f"run folder {search.folder}{search.from_where()}")
            _show_result(console, config, search.network, search.run(), images)
            return 0
    except (SearchDiverged, SearchStopped, KeyboardInterrupt) as e:
        if search is None:
            raise
        code, said = _how_it_ended(search, e)
        if group.is_first or (isinstance(e, SearchStopped) and e.is_by_accident):
            screen.tell(said)
        return code


def _with_set(given: dict[str, Any], config_file: str | None) -> dict[str, Any]:
    """The options given; where --data stands alone and the configuration searches the digits, --set as the folder has it.

    Raises:
        UserError: the folder is no known data set.
    """
    if "data" not in given or "set" in given:
        return given
    values = options.read_file(options.find_file(config_file or options.DEFAULT_CONFIG))
    if values.get("set") != "digits":
        return given
    from .data import sources

    return {**given, "set": sources.recognise(Path(given["data"]))}


def _how_it_ended(search: Search, error: BaseException) -> tuple[int, str]:
    """Exit code and message."""
    from .train import SearchDiverged, SearchStopped

    how_to_go_on = f"Go on with: biprop find --resume {search.folder}"
    if isinstance(error, SearchDiverged):
        return DIVERGED, f"the search diverged: {error}. Checkpoints so far are in {search.folder}/checkpoints"
    if isinstance(error, SearchStopped):
        return interrupts.STOPPED, f"stopped: {error}. {how_to_go_on}"
    best = f"; best so far: epoch {search.best.epoch}, {search.best.validation.top1:.1f} %" if search.best.epoch else ""
    return INTERRUPTED, f"interrupted{best}. {how_to_go_on}"


def _checkpoint_of(path: str) -> str:
    """The checkpoint that --resume or --pretrained means: itself, or the newest of a run folder."""
    from . import runs

    if not Path(path).is_dir():
        return path
    if newest := runs.newest_checkpoint(Path(path)):
        return str(newest)
    raise UserError(f"{path}: no run folder with a checkpoint")


def _device_of_run(resume: str) -> str:
    """The option `device` of the run that --resume means."""
    from . import runs

    path = Path(resume)
    settings = (path if path.is_dir() else path.parent.parent) / runs.SETTINGS
    values = options.read_file(settings) if settings.is_file() else {}
    return str(values.get("device", options.Config().device))


def _gpus(numbers: str, device: str) -> list[str]:
    """The GPUs that --multigpu means, as CUDA_VISIBLE_DEVICES names them.

    With a device that is none, the numbers only say how many processes there are to be.

    Raises:
        UserError: they are no numbers, or there are no such GPUs.
    """
    ids = [number.strip() for number in numbers.split(",")]
    are_numbers = all(number.isascii() and number.isdigit() for number in ids)
    if not are_numbers or len(set(map(int, ids))) < len(ids):
        raise UserError(f"--multigpu {numbers}: must be numbers of GPUs, e.g. 0,1")
    if device not in ("auto", "cuda"):
        if device.startswith("cuda") and len(ids) > 1:
            raise UserError(f"--multigpu {numbers}: gives each process its own GPU: leave out --device {device}")
        return ids
    import torch

    count = torch.cuda.device_count()
    if max(map(int, ids)) >= count:
        there = "no GPU" if not count else f"GPU 0 .. {count - 1}" if count > 1 else "GPU 0 only"
        instead = "--device cpu searches in as many processes on the CPU"
        raise UserError(f"--multigpu {numbers}: PyTorch finds {there} here; {instead}")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else [str(number) for number in range(count)]
    return [names[int(number)] for number in ids]


def _start_processes(gpus: Sequence[str], argv: Sequence[str]) -> int:
    """One process per GPU; returns the exit code."""
    from . import distributed

    place = argv.index("--multigpu") if "--multigpu" in argv else None
    rest = [a for a in argv if not a.startswith("--multigpu=")] if place is None else [*argv[:place], *argv[place + 2 :]]
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(gpus), "OMP_NUM_THREADS": threads}
    return distributed.launch([sys.executable, "-m", "biprop", *rest], len(gpus), environment)


def _headline(config: Config, network: Network, images: DataSet, device: object, processes: int) -> str:
    counts = f"{len(images.train):,} training, {len(images.validation):,} validation, {len(images.test):,} test images"
    where = f"{device}" if processes == 1 else f"{processes} processes, {device}"
    if network.subnetwork is None:
        return f"training {config.arch}, dense, on {config.set} ({counts}), {where}"
    return (
        f"searching {config.arch} for a ticket that keeps {100 * (config.prune_rate or 0):.3g} % of its "
        f"{network.subnetwork.weights:,} random weights, on {config.set} ({counts}), {where}"
    )


def _check_classes(made_for: Sequence[str], found: Sequence[str], path: Path) -> None:
    """Raise UserError if a run would go on with data of other classes."""
    from . import data

    if difference := data.other_classes(made_for, found):
        raise UserError(f"--resume {path}: searched other classes than the data have: {difference}")


FEW_TEST_IMAGES = 300
"""Below this the accuracy is shown with its confidence interval: with 300, that is about ten points wide."""


def _show_result(console: Any, config: Config, network: Network, result: Result, images: DataSet) -> None:
    from .evaluate import confidence_interval
    from .train import sample_in_words

    test = result.test
    chosen = f"epoch {result.epoch}, {_how_chosen(config, result, images)}"
    accuracy = f"{test.top1:.2f} %  ({test.right:,} of {test.images:,} images; {chosen})"
    rows = [("network", f"{config.arch}, dense"), ("test accuracy", accuracy)]
    title = "Dense baseline trained"
    if result.weights:
        rows = [
            ("network", f"{config.arch}, random weights, never trained"),
            ("weights in all", f"{result.weights:,}"),
            ("weights kept", f"{result.kept:,}  ({100 * result.density:.2f} %), each +gain or -gain, one gain a layer"),
            *_layer_rows(config, result.layers),
            ("test accuracy", accuracy),
        ]
        title = "Multi-Prize Ticket found"
    if test.images < FEW_TEST_IMAGES:
        low, high = confidence_interval(test)
        rows.append(("confidence interval", f"{low:.0f} to {high:.0f} %  (95 %; there are only {test.images:,} test images)"))
    if result.random_scores and result.weights:
        part = sample_in_words(result.random_scores, test.images)
        about = f"the same network, no search{f'; {part}' if part else ''}"
        rows.append(("with random scores", f"{result.random_scores.top1:.2f} %  ({about})"))
    if why := _why_in_vain(result, images):
        title = f"Search done, but {why}: no Multi-Prize Ticket" if result.weights else f"Trained, but {why}"
    if result.weights:
        kind = "MPT-1/1: binary weights and activations" if network.binary_activations else "MPT-1/32: binary weights"
        title += f" ({kind})"
    rows += [
        ("time", f"{result.seconds:.0f} s"),
        ("files", f"{result.folder}/  (checkpoints/model_best.pth, logs/, settings.txt)"),
    ]
    console.table(title, rows)


def _how_chosen(config: Config, result: Result, images: DataSet) -> str:
    """By what the epoch of the result was chosen."""
    if config.select_on == "test":
        return "best on the test data themselves, as in the papers"
    validation = f"{result.validation.images:,} validation images: {result.validation.top1:.1f} %"
    return f"best on {validation}" if images.validation_chooses else f"the last; {validation}"


def _why_in_vain(result: Result, images: DataSet) -> str | None:
    """What the network is not better than, if it is not: the same one with random scores, or always the most frequent class."""
    from .evaluate import Counts, is_better

    test, labels = result.test, images.test.labels
    rivals = {"always predicting the most frequent class": Counts(len(labels), int(labels.bincount().max()))}
    if result.random_scores:
        rivals = {"random scores": result.random_scores, **rivals}
    for what, rival in rivals.items():
        if not is_better(test, rival):
            how = "no better" if test.top1 <= rival.top1 else "not clearly better"
            return f"{how} than {what} ({test.top1:.1f} and {rival.top1:.1f} %)"
    return None


def _layer_rows(config: Config, layers: Sequence[LayerReport]) -> list[tuple[str, str]]:
    """Under global pruning, a row per layer."""
    if config.scope != "global":
        return []
    return [(f"  {layer.name}", f"{layer.kept:,} of {layer.weights:,}  ({100 * layer.density:.2f} %)") for layer in layers]


def _evaluate(arguments: argparse.Namespace) -> int:
    if bool(arguments.file) == bool(arguments.pretrained):
        raise UserError("name one file to evaluate: biprop evaluate FILE")
    path = arguments.file or arguments.pretrained
    if arguments.compare and not arguments.engine:
        raise UserError("--compare: compares the engine with PyTorch: pass --engine too")
    if arguments.activations != "float" and not arguments.engine:
        raise UserError(f"--activations {arguments.activations}: is for the engine: pass --engine too")
    if arguments.engine and not path.endswith(TICKET_ENDING):
        raise UserError(f"--engine: runs tickets ({TICKET_ENDING}), and {path} is none; biprop pack makes one of it")
    return _show_accuracy(path, overrides(arguments), None, arguments.engine, arguments.compare, arguments.activations == "u8")


def _show_accuracy(
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
    from . import accuracy, export, log
    from .engine import cores

    is_ticket = path.endswith(TICKET_ENDING)
    subject = (
        accuracy.of_ticket(path, flags) if is_ticket else accuracy.of_checkpoint(export.find_checkpoint(path), flags, fallback)
    )
    _warn(subject.warnings)
    console = log.Console()
    images = accuracy.load_data(subject, console)
    _warn(images.notes)
    rows = [("network", subject.config.arch), ("epoch", str(subject.epoch))]
    if subject.layers:
        kept, weights = sum(layer.kept for layer in subject.layers), sum(layer.weights for layer in subject.layers)
        rows.append(("weights kept", f"{kept:,} of {weights:,}  ({100 * kept / weights:.2f} %)"))
        rows += _layer_rows(subject.config, subject.layers)
    parts = {"test accuracy": images.test}
    if subject.config.select_on != "test":
        parts["validation accuracy"] = images.validation
    packed = None
    if by_engine:
        calibration = accuracy.calibration(subject, images) if levels else None
        engine, said = cli_engine.engine_of(path, cores(), calibration=calibration)
        _warn(said)
        packed = accuracy.Packed(engine, images, subject.model.double() if compare else None)
        rows.append(("computed by", "numpy" if said else f"the engine ({engine.explain()[0]}, {engine.threads} threads)"))
    for what, split in parts.items():
        counts = accuracy.measure(subject, images, split, flags.get("device", "auto"), console, what, packed)
        rows.append((what, f"{counts.top1:.2f} %  (top 5: {counts.top5:.2f} %; {counts.right:,} of {counts.images:,} images)"))
    if packed and compare:
        disagreements = f"{packed.differing:,} of {packed.compared:,} predictions  (with PyTorch in float64)"
        rows.append(("disagreements", disagreements))
    console.table(path, rows)
    return 0


def _pack(arguments: argparse.Namespace) -> int:
    flags = coerced(overrides(arguments))
    from . import accuracy, export, log
    from .ticket import Ticket

    if not arguments.output.endswith(TICKET_ENDING):
        raise UserError(f"--output {arguments.output}: the name of a ticket ends with {TICKET_ENDING}")
    check_folder(arguments.output)
    console = log.Console(lasting=True)
    ticket = export.pack(arguments.source, flags, arguments.compact, _warn)
    if arguments.compact:
        # What 16 bits cost is told, always: a user who gives up precision wants to know what for.
        exact = dataclasses.replace(ticket, compact=False)
        subjects = [accuracy.of_ticket(arguments.output, flags, one) for one in (exact, Ticket.from_bytes(ticket.to_bytes()))]
        images = accuracy.load_data(subjects[0], console)
        before, after = (
            accuracy.measure(subject, images, images.test, flags.get("device", "auto"), console, "test accuracy")
            for subject in subjects
        )
        ticket.found["test"] = dataclasses.asdict(after)
    size = ticket.save(arguments.output)
    rows = [
        ("weights kept", f"{ticket.kept:,} of {ticket.weights:,}  ({100 * ticket.kept / ticket.weights:.2f} %)"),
        ("bytes", f"{size:,}  ({8 * size / ticket.weights:.3f} bits per weight, all told; biprop inspect shows where they go)"),
        ("checked", "every weight, rebuilt from the file, equals the network's"),
    ]
    if arguments.compact:
        rows.append(("in float32", f"{len(exact.to_bytes()):,} bytes"))
        rows.append(("test accuracy", f"{after.top1:.2f} %  (in float32 {before.top1:.2f} %: {after.top1 - before.top1:+.2f})"))
    console.table(f"{arguments.output} written", rows)
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from . import inspection, log
    from .deck import Deck
    from .ticket import Ticket

    found = Deck.load(arguments.file) if arguments.file.endswith(DECK_ENDING) else Ticket.load(arguments.file)
    size = Path(arguments.file).stat().st_size or len(found.to_bytes())
    content = inspection.deck_report(found, size) if isinstance(found, Deck) else inspection.report(found, size)
    console = log.Console()
    console.columns(arguments.file, content.heads, content.layers)
    console.table("the file", content.totals)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from . import log, runs

    log.Console().table(arguments.folder, runs.status(Path(arguments.folder)))
    return 0


def _sweep(arguments: argparse.Namespace) -> int:
    from . import log, sweep

    grid = sweep.parse_grid(arguments.grid)
    common = overrides(arguments)
    if "config" not in grid and "set" not in grid:
        common = _with_set(common, arguments.config)
    found = sweep.cells(grid, arguments.config, {"name": "sweep", **common})
    name = found[0].config.name
    if arguments.slurm:
        command = ["biprop", *(part for part in arguments.argv if part != "--slurm")]
        screen.show(sweep.slurm_script(command, name, len(found)))
        return 0
    console = log.Console(lasting=not arguments.list)
    state = sweep.Sweep(Path(found[0].config.log_dir) / "sweeps" / name, found)
    if not arguments.list:
        from . import train

        _warn(list(dict.fromkeys(line for cell in found for line in options.warnings(cell.config))))
        console.line(f"{len(found)} cells, {len(list(state.unfinished(arguments.cell)))} to run; state in {state.folder}/")
        try:
            sweep.run(state, console, arguments.cell)
        except train.SearchStopped as e:
            screen.tell(f"stopped: {e}; the same command goes on from here")
            return interrupts.STOPPED
        except KeyboardInterrupt:
            screen.tell("interrupted; the same command goes on from here", start="\n")
            return INTERRUPTED
    console.table(f"sweep {name}", state.rows())
    return 0


def _list(arguments: argparse.Namespace) -> int:
    if arguments.what == "configs":
        root = Path(str(options.packaged()))
        names = [f"configs/{p.relative_to(root)}" for p in options.packaged_files()]
    else:
        from .plans import NETWORKS

        names = list(NETWORKS)
    screen.show("\n".join(names) + "\n")
    return 0


def _reject_extras(command: str, extras: Sequence[str], parser: Parser) -> None:
    if not extras:
        return
    subparsers = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    known = [s for s in subparsers.choices[command]._option_string_actions if s.startswith("--")]
    flag = extras[0].partition("=")[0]
    if flag.strip("-").replace("-", "_") in options.LEFT_OUT_KEYS:
        raise UserError(f"{flag} is left out: {options.LEFT_OUT_KEYS[flag.strip('-').replace('-', '_')]}")
    raise UserError(f"unknown argument {flag}{did_you_mean(flag, known) or f'; see biprop {command} --help'}")


def _run(argv: Sequence[str] | None) -> int:
    try:
        parser = _parser()
        arguments, extras = parser.parse_known_args(argv)
        arguments.argv = list(sys.argv[1:] if argv is None else argv)
        _reject_extras(arguments.command, extras, parser)
        return arguments.run(arguments)  # type: ignore[no-any-return]
    finally:
        screen.finish()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (see the module's docstring)."""
    # GNU OpenMP's threads wait actively after an operation, for milliseconds: two programs on one machine hold each other up (64
    # seconds instead of 17 for two searches on two cores). With a thirtieth of that wait they do not, and one alone is as fast.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    screen.prepare()
    code = _guarded(argv)
    if argv is None:
        interrupts.settle()
    return code


def _guarded(argv: Sequence[str] | None) -> int:
    """The exit code, whatever happens."""
    try:
        with interrupts.raised():
            return _run(argv)
    except BrokenPipeError:  # what reads our output has gone: `| head`
        return PIPE
    except UserError as e:
        if "--debug" in (sys.argv if argv is None else argv):
            for line in traceback.format_exc().splitlines():
                screen.tell(line)
        if not e.told:
            screen.tell(str(e))
        return MISTAKE
    except KeyboardInterrupt:
        screen.tell("interrupted", start="\n")
        return INTERRUPTED
    except interrupts.Terminated as e:
        screen.tell(f"stopped: {e}; run the same command again")
        return interrupts.STOPPED
