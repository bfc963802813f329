"""The command line: parse, build, call. Torch is loaded by the commands that need it, not by --help.

Exit codes: 0 done, 1 the search diverged, 2 a mistake in the command or its input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__
from . import config as options
from .errors import UserError, did_you_mean

if TYPE_CHECKING:
    from .config import Config
    from .data import DataSet
    from .network import Network
    from .train import Result

DIVERGED, MISTAKE, INTERRUPTED = 1, 2, 130

_DESCRIPTION = """\
Find Multi-Prize Tickets: subnetworks of networks with random, never-trained weights that are binary, and as accurate as
trained ones. Start with:

  biprop find                                        a ticket in the embedded digits, in less than a minute
  biprop find --config conv4_kn_unsigned --set CIFAR10 --data DIR --prune-rate 0.2
  biprop evaluate --pretrained runs/.../checkpoints/model_best.pth
  biprop list networks
"""


class _Parser(argparse.ArgumentParser):
    """Errors become a `UserError`, and so one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Shows --prune-rate and not its twin --prune_rate."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        shown = [s for s in action.option_strings if "_" not in s]
        if not shown:
            return super()._format_action_invocation(action)
        value = "" if action.nargs == 0 else " " + self._format_args(action, self._get_default_metavar_for_optional(action))
        return ", ".join(shown) + value


def _add_options(parser: argparse.ArgumentParser, names: Sequence[str] | None = None) -> None:
    """One flag per option of the schema (or per one of `names`), in both spellings, without a default: files come first."""
    defaults = options.Config()
    for group, members in options.groups():
        section = parser.add_argument_group(group)
        for name in members:
            if names is not None and name not in names:
                continue
            rule = options.rule(name)
            strings = [*rule.short, f"--{name.replace('_', '-')}"]
            if "_" in name:
                strings.append(f"--{name}")
            default = getattr(defaults, name)
            choices = f": {', '.join(rule.choices)}" if rule.choices else ""
            shown = "" if default is None or default is False or names else f" [{default}]"
            keywords: dict[str, Any] = {
                "dest": name,
                "default": argparse.SUPPRESS,
                "help": (rule.help + choices + shown).replace("%", "%%"),
            }
            if name.startswith("no_"):
                keywords["action"] = "store_true"
            elif options.is_flag(name):
                keywords["action"] = argparse.BooleanOptionalAction
            elif name == "layer_prune_rates":
                keywords |= {"nargs": "+", "metavar": "PATTERN=RATE"}
            else:
                keywords["metavar"] = options.metavar(name)
            section.add_argument(*strings, **keywords)


def _parser() -> _Parser:
    parser = _Parser(prog="biprop", description=_DESCRIPTION, formatter_class=_Help, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"biprop {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", required=True, parser_class=_Parser)

    find = commands.add_parser(
        "find",
        help="search for a ticket",
        usage="biprop find [--config FILE] [options]",
        description="Search for a ticket: train one score per random weight, keep the top fraction, and replace what is\n"
        "kept by +-gain. Options come from a configuration file, and the flags below change it. Values in\n"
        "[brackets] hold where neither says anything.",
        epilog="Exit codes: 0 done, 1 the search diverged, 2 a mistake in the command or its input, 130 interrupted.",
        formatter_class=_Help,
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
    _add_options(find)
    find.set_defaults(run=_find)

    evaluate = commands.add_parser(
        "evaluate",
        help="accuracy of a checkpoint",
        usage="biprop evaluate --pretrained FILE [options]",
        description="Accuracy of a checkpoint on validation and test data. What it says of its network and data needs no flag.",
        formatter_class=_Help,
        allow_abbrev=False,
    )
    evaluate.add_argument(
        "--pretrained", required=True, metavar="FILE", help="checkpoint of this program or of the original research code"
    )
    _add_options(evaluate, ("set", "data", "image_size", "device", "conv_type", "prune_rate"))
    evaluate.set_defaults(run=_evaluate)

    listing = commands.add_parser("list", help="names of networks or configurations", formatter_class=_Help, allow_abbrev=False)
    listing.add_argument("what", choices=("networks", "configs"))
    listing.set_defaults(run=_list)
    return parser


def _overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of the schema that the command line gives."""
    given = {name: value for name, value in vars(arguments).items() if name in options.FIELDS}
    if "layer_prune_rates" in given:
        pairs = {}
        for item in given["layer_prune_rates"]:
            pattern, separator, rate = item.partition("=")
            if not separator:
                raise UserError(f"--layer-prune-rates {item}: must be PATTERN=RATE, e.g. fc=0.5 or conv1=dense")
            pairs[pattern] = rate
        given["layer_prune_rates"] = pairs
    return given


def _find(arguments: argparse.Namespace) -> int:
    config, name = options.resolve(arguments.config, _overrides(arguments))
    if arguments.print_config:
        sys.stdout.write(options.as_yaml(config))
        return 0
    from . import data, log
    from .train import Search, SearchDiverged

    console = log.Console()
    images = data.load(
        config.set, config.data,
        select_on=config.select_on, augment=config.augment, image_size=config.image_size, progress=console.track,
    )  # fmt: skip
    search = Search(config, name, images, console)
    console.line(_headline(config, search.network, images, search.device))
    console.line(f"run folder {search.folder}")
    console.line(f"before the search, with random scores: test accuracy {search.random_scores.top1:.1f} %")
    try:
        result = search.run()
    except SearchDiverged as e:
        print(f"biprop: the search diverged: {e}. Checkpoints so far are in {search.folder}/checkpoints", file=sys.stderr)
        return DIVERGED
    except KeyboardInterrupt:
        best = f"; best so far: epoch {search.best.epoch}, {search.best.validation.top1:.1f} %" if search.best.epoch else ""
        print(f"\nbiprop: interrupted. Checkpoints so far are in {search.folder}/checkpoints{best}", file=sys.stderr)
        return INTERRUPTED
    _show_result(console, config, search.network, result)
    return 0


def _headline(config: Config, network: Network, images: DataSet, device: object) -> str:
    counts = f"{len(images.train):,} training, {len(images.validation):,} validation, {len(images.test):,} test images"
    if network.subnetwork is None:
        return f"training {config.arch}, dense, on {config.set} ({counts}), {device}"
    return (
        f"searching {config.arch} for a ticket that keeps {100 * (config.prune_rate or 0):.3g} % of its "
        f"{network.subnetwork.weights:,} random weights, on {config.set} ({counts}), {device}"
    )


def _show_result(console: Any, config: Config, network: Network, result: Result) -> None:
    test = result.test
    chosen = (
        "the test data themselves, as in the papers"
        if config.select_on == "test"
        else f"validation data: {result.validation.top1:.1f} %"
    )
    accuracy = f"{test.top1:.2f} %  ({test.right:,} of {test.images:,} images; epoch {result.epoch}, best on {chosen})"
    if result.weights:
        kind = "MPT-1/1: binary weights and activations" if network.binary_activations else "MPT-1/32: binary weights"
        rows = [
            ("network", f"{config.arch}, random weights, never trained"),
            ("weights in all", f"{result.weights:,}"),
            ("weights kept", f"{result.kept:,}  ({100 * result.density:.2f} %), each +gain or -gain, one gain a layer"),
            ("test accuracy", accuracy),
            ("with random scores", f"{result.random_scores.top1:.2f} %  (the same network, no search)"),
        ]
        title = f"Multi-Prize Ticket found ({kind})"
    else:
        rows = [("network", f"{config.arch}, dense"), ("test accuracy", accuracy)]
        title = "Dense baseline trained"
    rows += [
        ("time", f"{result.seconds:.0f} s"),
        ("files", f"{result.folder}/  (checkpoints/model_best.pth, logs/, settings.txt)"),
    ]
    console.table(title, rows)


def _evaluate(arguments: argparse.Namespace) -> int:
    flags = {name: options.coerce(name, value, f"--{name.replace('_', '-')}") for name, value in _overrides(arguments).items()}
    from . import checkpoint, data, log
    from .evaluate import evaluate
    from .network import Task
    from .train import EVALUATION_BATCH, choose_device

    restored = checkpoint.restore(arguments.pretrained, flags)
    network, config, task = restored.network, restored.config, restored.task
    device = choose_device(flags.get("device", "auto"))
    console = log.Console()
    images = data.load(
        flags.get("set", config.set), flags.get("data", config.data),
        select_on=config.select_on, image_size=flags.get("image_size", config.image_size), progress=console.track,
    )  # fmt: skip
    if (found := Task(len(images.classes), images.channels, images.input_size)) != task:
        raise UserError(f"{arguments.pretrained}: made for {task}, but the data have {found}")
    if restored.mean and restored.std:
        images.mean, images.std = restored.mean, restored.std
    images.to(device)
    network.model.to(device)
    rows = [("network", config.arch), ("epoch", str(restored.epoch))]
    if network.subnetwork:
        rows.append(
            ("weights kept", f"{network.subnetwork.kept:,} of {network.subnetwork.weights:,}  ({100 * network.density:.2f} %)")
        )
    parts = {"test accuracy": images.test} | ({} if config.select_on == "test" else {"validation accuracy": images.validation})
    for what, split in parts.items():
        counts = evaluate(network.model, images.evaluation_batches(split, EVALUATION_BATCH))
        rows.append((what, f"{counts.top1:.2f} %  (top 5: {counts.top5:.2f} %; {counts.right:,} of {counts.images:,} images)"))
    console.table(str(arguments.pretrained), rows)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    if arguments.what == "configs":
        root = Path(str(options.packaged()))
        names = [f"configs/{p.relative_to(root)}" for p in sorted(root.rglob("*.y*ml"))]
    else:
        from .models import NETWORKS

        names = list(NETWORKS)
    print("\n".join(names))
    return 0


def _reject_extras(command: str, extras: Sequence[str], parser: _Parser) -> None:
    if not extras:
        return
    subparsers = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    known = [s for s in subparsers.choices[command]._option_string_actions if s.startswith("--")]
    flag = extras[0].partition("=")[0]
    raise UserError(f"unknown argument {flag}{did_you_mean(flag, known) or f'; see biprop {command} --help'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (see the module's docstring)."""
    try:
        parser = _parser()
        arguments, extras = parser.parse_known_args(argv)
        _reject_extras(arguments.command, extras, parser)
        return arguments.run(arguments)  # type: ignore[no-any-return]
    except UserError as e:
        print(f"biprop: {e}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("\nbiprop: interrupted", file=sys.stderr)
        return INTERRUPTED
