"""biprop find: search for a ticket, or continue a search."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import config as options
from .. import interrupts, screen
from ..errors import UserError
from . import dry_run, find_report, multigpu
from .common import EXIT_DIVERGED, EXIT_INTERRUPTED, warn
from .evaluate import show_accuracy
from .parser import DEBUG, add_command, add_options, coerced, overrides

if TYPE_CHECKING:
    from ..checkpoint import Content
    from ..config import Config
    from ..distributed import Group
    from ..search.loop import Search


_DESCRIPTION = """\
Search for a ticket: train one score per random weight, keep the weights whose scores have the
largest magnitude, and replace each of them by its sign times one gain per layer. Options come
from a configuration file, and flags override it. Without --config, the configuration is digits, a
short search on images that are embedded in the program. A value in [brackets] is the default of
an option that neither the configuration nor a flag sets."""
_EPILOG = """\
examples:
  biprop find                              the embedded digits, in less than a minute
  biprop find --data photos --minutes 10   your own images, in photos/train/CLASS/ for example
  biprop find --data photos --arch my_networks.py:MyNet    a network of your own
  biprop find --data measurements.npz      a table or series: the arrays X and y
  biprop find --recipe cifar10-1h --data DIR
                                           CIFAR-10, one hour on two cores
  biprop find --data photos --arch cResNet20 --prune-rate 0.1 --epochs 50 --augmix --jsd
                                           another network, with augmentation against corruptions
  biprop find --config conv4_kn_unsigned --set CIFAR10 --data DIR --prune-rate 0.2 --print-config
                                           the options of a search, without running it
  biprop find --resume runs/digits/prune-rate=0.2/find

exit codes: 0 success, 1 the search diverged, 2 invalid command or input, 75 stopped by SIGTERM
or SIGHUP, or because another process of the search failed (continue with --resume auto), 130
interrupted with Ctrl-C, 141 the reader of standard output has ended (a broken pipe)"""


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands,
        "find",
        run,
        help="search for a ticket",
        usage="biprop find [--config FILE] [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="YAML file, or the name of a packaged configuration (biprop list configs)"
        f" [{options.DEFAULT_CONFIG}; with --minutes {options.FAST_CONFIG}]",
    )
    add_recipe(parser)
    parser.add_argument(
        "--print-config",
        "--print_config",
        action="store_true",
        help="print the resulting values of all options as YAML, and exit",
    )
    parser.add_argument("--dry-run", "--dry_run", action="store_true", help=dry_run.HELP)
    _add_start_flags(parser.add_argument_group("start"))
    add_options(parser)
    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--multigpu",
        metavar="IDS",
        help="GPUs of this machine to use, e.g. 0,1: starts one process per GPU, instead of"
        " torchrun, srun, mpirun or jsrun",
    )
    machine.add_argument("--debug", **DEBUG)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add the flag --recipe."""
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help="packaged configuration for a search of a given time or size: cifar10-10min,"
        " cifar10-small, ... (biprop list recipes)",
    )


def _add_start_flags(group: Any) -> None:
    group.add_argument(
        "--resume",
        metavar="RUN",
        help="continue an interrupted run: its folder, or one of its checkpoints; its options are"
        " known and need not be repeated, but for --arch of a network of your own. auto: continue"
        " the newest run that was started with the same options, or start one if there is none;"
        " this is the default when torchrun or SLURM restarts a job",
    )
    group.add_argument(
        "--pretrained",
        metavar="FILE",
        help="start a new run from the weights and scores of this checkpoint",
    )
    group.add_argument(
        "-e",
        "--evaluate",
        action="store_true",
        help="only measure the accuracy of the checkpoint --pretrained, like biprop evaluate",
    )


def run(arguments: argparse.Namespace) -> int:
    """Search, or only evaluate or print the configuration; returns the exit code."""
    given = overrides(arguments)
    refuse_empty(arguments, "config", "recipe", "resume", "pretrained")
    arguments.config = config_of(arguments)
    if arguments.evaluate:
        if not arguments.pretrained:
            raise UserError("--evaluate needs a checkpoint: pass --pretrained FILE")
        return show_accuracy(arguments.pretrained, given, arguments.config)
    if arguments.resume in (None, "auto"):
        given = with_data_set(given, arguments.config)
    if arguments.resume and arguments.pretrained:
        raise UserError(
            "--resume and --pretrained: pass one of them, to continue a run or to start a new one"
        )
    is_search = not (arguments.print_config or arguments.dry_run)
    if arguments.multigpu is not None and is_search:
        gpus = multigpu.choose(arguments.multigpu, _device(arguments, given))
        if len(gpus) > 1:
            return multigpu.start_processes(gpus, arguments.argv)
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[0]
    beginning = _beginning(arguments, given)
    if beginning is None:
        return 0
    if arguments.print_config:
        screen.print_text(options.as_yaml(beginning.config))
        return 0
    if arguments.dry_run:
        return dry_run.show_search(
            beginning.config, beginning.name, beginning.checkpoint, beginning.resumes
        )
    return _search(beginning)


def refuse_empty(arguments: argparse.Namespace, *names: str) -> None:
    """Raise UserError for a flag whose value is empty, such as an unset variable of the shell."""
    for name in names:
        if getattr(arguments, name) == "":
            raise UserError(f"--{name} '': must not be empty; leave out --{name}, or pass a value")


def config_of(arguments: argparse.Namespace) -> str | None:
    """The configuration file that --config or --recipe names; None: neither is given.

    Raises:
        UserError: both are given, or there is no such recipe.
    """
    if not arguments.recipe:
        return arguments.config  # type: ignore[no-any-return]
    if arguments.config:
        raise UserError(
            f"--recipe {arguments.recipe} and --config {arguments.config}: pass one of them"
        )
    return str(options.find_recipe(arguments.recipe))


def with_data_set(given: dict[str, Any], config_file: str | None) -> dict[str, Any]:
    """The options given, with the data set that is found in --data if it is not specified, and the
    network for arrays.

    The data set is specified by --set, or by a configuration file for other data than the digits.

    Raises:
        UserError: the folder contains no known data set.
    """
    if "data" not in given:
        return given
    if "set" not in given:
        default = options.default_config(given)
        values = options.read_file(options.find_file(config_file or default))
        if values.get("set") != "digits":
            return given
        from ..data import listings

        given = {**given, "set": listings.recognise(Path(given["data"]))}
    is_open = given["set"] == "arrays" and config_file is None and "arch" not in given
    return {**given, **_network_for_arrays(Path(given["data"]))} if is_open else given


def _network_for_arrays(file: Path) -> dict[str, Any]:
    """The default network for the samples of a .npz file, as options.

    Raises:
        UserError: the file cannot be read, or there is no default network for such samples.
    """
    from .. import npz
    from ..models import defaults

    shape = npz.sample_shape(file)
    name = defaults.name_for(shape)
    if name is None:
        raise UserError(
            f"{file}: samples of the shape {list(shape)}: there is no default network for them:"
            " pass --arch FILE.py:NAME"
        )
    return {"arch": name}


def _device(arguments: argparse.Namespace, given: dict[str, Any]) -> str:
    """The option `device`, before processes are started.

    Errors in other options are reported here once, instead of by every process.
    """
    if arguments.config or arguments.resume in (None, "auto"):
        return options.resolve(arguments.config, given)[0].device
    return given.get("device") or _device_of_run(arguments.resume)


def _device_of_run(resume: str) -> str:
    """The option `device` of the run that --resume names."""
    from ..runs.folder import SETTINGS

    path = Path(resume)
    settings = (path if path.is_dir() else path.parent.parent) / SETTINGS
    values = options.read_file(settings) if settings.is_file() else {}
    return str(values.get("device", options.Config().device))


@dataclass
class _Beginning:
    """How a search begins.

    Attributes:
        config: the options.
        name: of their configuration file.
        checkpoint: what the search starts from; None: from random scores.
        resumes: the search continues the run of `checkpoint`, in its folder.
        takes_over: the search may use the folder of a run that was killed before its first
            checkpoint.
    """

    config: Config
    name: str
    checkpoint: Content | None
    resumes: bool
    takes_over: bool


def _beginning(arguments: argparse.Namespace, given: dict[str, Any]) -> _Beginning | None:
    """How the search begins; None if --resume auto finds that the run is complete."""
    from .. import distributed
    from ..runs.folder import RESULT, newest

    resume = arguments.resume
    if resume is None and distributed.is_restart() and not arguments.pretrained:
        resume = "auto"
    is_automatic = resume == "auto"
    if is_automatic:
        config, name = options.resolve(arguments.config, given)
        folder = newest(config, name)
        if folder and (folder / RESULT).is_file():
            if distributed.detect().is_first:
                path = screen.printable(str(folder))
                screen.print_text(f"{path}: complete already; another --name begins a new run\n")
            return None
        resume = folder and str(folder)
    path = resume or arguments.pretrained
    if not path:
        return _Beginning(*options.resolve(arguments.config, given), None, False, is_automatic)
    content, config, name = _read_checkpoint(arguments, given, path, not resume or is_automatic)
    return _Beginning(config, name, content, bool(resume), bool(resume))


def _read_checkpoint(
    arguments: argparse.Namespace, given: dict[str, Any], path: str, has_options: bool
) -> tuple[Content, Config, str]:
    """A checkpoint, and the options and configuration name of the search that starts from it.

    Args:
        arguments: of the command line.
        given: options of the command line.
        path: a checkpoint or a run folder.
        has_options: the options come from the default configuration and the flags, even if there
            is no --config; otherwise from the checkpoint and the flags.

    Raises:
        UserError: the checkpoint cannot be read, or the options do not fit it.
    """
    from .. import checkpoint

    path = _checkpoint_of(path)
    if has_options or arguments.config:
        config, name = options.resolve(arguments.config, given)
        content = checkpoint.read(path, coerced(given), options.as_dict(config))
        options.check_given(options.as_dict(content.config), given, path)
        return content, config, name
    content = checkpoint.read(path, coerced(given), None)
    options.check_given(options.as_dict(content.config), given, path)
    if content.ours is None:
        raise UserError(
            f"--resume {path}: does not record the options of its run: pass --config too"
        )
    return content, options.override(content.config, given), checkpoint.config_name(content)


def _checkpoint_of(path: str) -> str:
    """The checkpoint that --resume or --pretrained names: a file, or the newest of a run folder."""
    from ..runs.folder import newest_checkpoint

    if not Path(path).is_dir():
        return path
    if newest := newest_checkpoint(Path(path)):
        return str(newest)
    raise UserError(f"{path}: not a run folder with a checkpoint")


def _search(beginning: _Beginning) -> int:
    """Load the data, search, and show the result; returns the exit code."""
    from .. import distributed
    from ..evaluation.device import choose_device
    from ..search.outcome import SearchDiverged, SearchStopped

    group = distributed.detect()
    searches: list[Search] = []
    try:
        with group.together(choose_device(beginning.config.device, group).type):
            _search_in(group, beginning, searches)
            return 0
    except (SearchDiverged, SearchStopped, KeyboardInterrupt) as e:
        if not searches:
            raise
        code, message = _how_it_ended(searches[0], e)
        if group.is_first or (isinstance(e, SearchStopped) and e.is_by_accident):
            screen.report(message)
        return code


def _search_in(group: Group, beginning: _Beginning, searches: list[Search]) -> None:
    """Search as one process of `group`.

    The search is appended to `searches` as soon as it exists: how it ended is reported even if this
    function raises.
    """
    from .. import checkpoint, data
    from ..console import Console
    from ..search.loop import Search
    from ..search.sweep import expectation

    config, start = beginning.config, beginning.checkpoint
    nowhere = None if group.is_first else Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    console = Console(nowhere, tolerant=True)
    images = group.by_all(lambda: data.load(config, console.track, expectation(config)))
    if start and beginning.resumes:
        _check_classes(checkpoint.class_names(start), images.classes, start.path)
    search = Search(config, beginning.name, images, console, start, beginning.takes_over, group)
    search.open_folder()
    searches.append(search)
    if group.is_first:
        of_checkpoint = start.warnings if start else []
        warn([*of_checkpoint, *options.warnings(config), *images.notes, *images.search_notes])
    console.line(find_report.headline(config, search.network, images, search.device, group.size))
    if images.about:
        console.line(f"data {config.data}: {config.set}, {images.about}")
    if search.teacher:
        console.line(find_report.teacher_line(config, search.teacher))
    console.line(f"run folder {search.folder}{search.from_where()}")
    find_report.show(console, config, search.network, search.run(), images)


def _check_classes(expected: Sequence[str], actual: Sequence[str], path: Path) -> None:
    """Raise UserError if a run would continue with data of other classes."""
    from .. import data

    if difference := data.other_classes(expected, actual):
        raise UserError(f"--resume {path}: searched other classes than the data have: {difference}")


def _how_it_ended(search: Search, error: BaseException) -> tuple[int, str]:
    """The exit code and the message of a search that `error` ended."""
    from ..search.outcome import SearchDiverged, SearchStopped

    how_to_go_on = f"Continue with: biprop find --resume {search.folder}"
    if isinstance(error, SearchDiverged):
        where = f"Checkpoints so far are in {search.folder}/checkpoints"
        return EXIT_DIVERGED, f"the search diverged: {error}. {where}"
    if isinstance(error, SearchStopped):
        return interrupts.EXIT_STOPPED, f"stopped: {error}. {how_to_go_on}"
    best = search.state.best
    so_far = (
        f"; best so far: epoch {best.epoch}, {best.validation.top1:.1f} %" if best.epoch else ""
    )
    return EXIT_INTERRUPTED, f"interrupted{so_far}. {how_to_go_on}"
