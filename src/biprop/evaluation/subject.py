"""Evaluation of a checkpoint or a ticket: its network, the data that it was made for, counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import nn

from .. import checkpoint, data
from .. import config as options
from ..config import Config
from ..console import Console
from ..data import DataSet, Split
from ..data.listings import recognise
from ..errors import UserError
from ..models.network import Task
from ..names import TICKET_SUFFIX
from ..runs.folder import find_checkpoint
from ..subnetwork import LayerReport
from ..ticket import Ticket, TicketError
from ..ticket.report import OWN_NETWORK, network_name
from .counts import Counts, evaluate
from .device import choose_device, evaluation_batch
from .engine_model import Packed
from .memory_format import is_in_channels_last

_RECORDED_OPTIONS = options.with_roles(
    options.Role.DATA_SET, options.Role.SELECTION, options.Role.NETWORK
)
"""Options of its search that a ticket records and that are read from it.

Paths are not read from it: a file does not choose which other files are opened.
"""


@dataclass
class Subject:
    """A network to evaluate.

    Attributes:
        name: the path that the user gave.
        model: pixels or normalised images -> logits.
        config, task: the options and the task that it was made for; the place of the data is the
            user's.
        mean, std: the normalisation that it was trained with; empty if unknown.
        epoch: of its search, from 1; 0 if unknown.
        layers: its masked layers.
        warnings: for the user, one line each.
        classes: names in the order of the logits; empty if unknown.
    """

    name: str
    model: nn.Module
    config: Config
    task: Task
    mean: tuple[float, ...]
    std: tuple[float, ...]
    epoch: int
    layers: list[LayerReport]
    warnings: list[str]
    classes: list[str] = field(default_factory=list)


def of_checkpoint(
    path: str | Path, flags: Mapping[str, Any], fallback: Mapping[str, Any]
) -> Subject:
    """The network of a checkpoint.

    Its own record comes first, then `flags`, then `fallback`, the values of a configuration file.

    Raises:
        UserError: see `checkpoint.restore`.
    """
    restored = checkpoint.restore(path, flags, fallback)
    content, subnetwork = restored.content, restored.network.subnetwork
    places = _places(flags)
    if content.ours is None:  # the original research code does not record its data
        places = {name: fallback[name] for name in ("set", "workers") if name in fallback} | places
    return Subject(
        name=str(path),
        model=restored.network.model,
        config=_here(content.config, places),
        task=content.task,
        mean=restored.mean or (),
        std=restored.std or (),
        epoch=content.epoch,
        layers=subnetwork.report() if subnetwork else [],
        warnings=content.warnings,
        classes=checkpoint.class_names(content),
    )


def of_ticket(path: str | Path, flags: Mapping[str, Any], ticket: Ticket | None = None) -> Subject:
    """The network of a ticket file, or of `ticket` under that name.

    Raises:
        TicketError: see `Ticket.load` and `Ticket.to_model`.
        UserError: a flag that contradicts the ticket.
    """
    ticket = ticket or Ticket.load(path)
    model = _model(ticket, path)
    task = _task(ticket, path)
    config = _recorded_config(ticket, path)
    if "options" not in ticket.found and "set" not in flags:
        flags = {**flags, "set": _set_in_data(flags, path)}
    mean, std = _normalisation(ticket, task.channels)
    arch = network_name(ticket)
    _check_flags(flags, config, {"arch": arch, "num_classes": task.num_classes}, path)
    config = dataclasses.replace(config, arch=arch)
    return Subject(
        name=str(path),
        model=model,
        config=_here(config, _places(flags)),
        task=task,
        mean=mean,
        std=std,
        epoch=_recorded_epoch(ticket),
        layers=_layers(ticket),
        warnings=[],
        classes=ticket.classes,
    )


def of_file(
    path: str | Path, flags: Mapping[str, Any], fallback: Mapping[str, Any] | None = None
) -> Subject:
    """The network of a ticket (.mpt), or of a run folder or a checkpoint.

    Raises:
        TicketError, UserError: see `of_ticket` and `of_checkpoint`.
    """
    if str(path).endswith(TICKET_SUFFIX):
        return of_ticket(path, flags)
    return of_checkpoint(find_checkpoint(path), flags, fallback or {})


def _set_in_data(flags: Mapping[str, Any], path: str | Path) -> str:
    """The data set that the folder --data holds, for a ticket that records none.

    Raises:
        UserError: no --data, or no folder.
    """
    if "data" not in flags:
        raise UserError(f"{path}: does not tell its data: pass --data DIR, or --set digits")
    return recognise(Path(flags["data"]))


def _normalisation(ticket: Ticket, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation; empty if unknown.

    A ticket of a user's own network that has none takes pixels in [0, 1], as in the engine.
    """
    if ticket.graph and not ticket.mean:
        return (0.0,) * channels, (1.0,) * channels
    return ticket.mean, ticket.std


def _task(ticket: Ticket, path: str | Path) -> Task:
    """Classes and samples of a ticket's network.

    Raises:
        UserError: it gives no classes, or takes whole numbers.
    """
    shape, outputs = ticket.input_shape, ticket.output_shape
    if shape is None or not shape or outputs is None or len(outputs) != 1:
        raise UserError(
            f"{path}: its network is from {_described(shape)} to {_described(outputs)}: must be"
            " from images [channels, height, width], or other samples, to [classes]"
        )
    if ticket.graph and ticket.graph.indices:
        raise UserError(f"{path}: its network takes whole numbers: biprop.Engine runs it in Python")
    return Task(outputs[0], shape[0], shape[1:])


def _described(shape: tuple[int, ...] | None) -> str:
    return "unknown shapes" if shape is None else str(list(shape))


def _model(ticket: Ticket, path: str | Path) -> nn.Module:
    try:
        return ticket.to_model()
    except TicketError as e:
        raise TicketError(f"{path}: {e}") from None


def _layers(ticket: Ticket) -> list[LayerReport]:
    return [
        LayerReport(layer.name, layer.shape, layer.weights, layer.kept, layer.gain)
        for layer in ticket.layers
    ]


def _recorded_config(ticket: Ticket, path: str | Path) -> Config:
    """The options in a ticket's record of its search, the others at their defaults."""
    recorded = ticket.found.get("options")
    if not isinstance(recorded, dict):
        return Config()
    values = {name: value for name, value in recorded.items() if name in _RECORDED_OPTIONS}
    return Config(**{name: options.coerce(name, values[name], str(path)) for name in values})


def _recorded_epoch(ticket: Ticket) -> int:
    epoch = ticket.found.get("epoch")
    return epoch if type(epoch) is int and 0 <= epoch < 2**31 else 0


def _check_flags(
    flags: Mapping[str, Any], config: Config, network: Mapping[str, Any], path: str | Path
) -> None:
    """Raise UserError if a flag contradicts the ticket, whose `network` are two of these facts."""
    facts = {**options.as_dict(config), **network}
    for name in options.NETWORK_OPTIONS:
        is_code = name == "arch" and facts[name] == OWN_NETWORK
        if is_code or name == "arch_args":
            continue  # the ticket has the network's operations, and needs no code
        if flags.get(name) is not None and flags[name] != facts[name]:
            flag = f"--{name.replace('_', '-')} {flags[name]}"
            raise UserError(f"{flag}: but {path} says {facts[name]}")


def _places(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that say where the data are."""
    return {name: flags[name] for name in options.DATA_SOURCE_OPTIONS if name in flags}


def _here(config: Config, places: Mapping[str, Any]) -> Config:
    """The options for the whole data in these places."""
    here = dataclasses.replace(config, **places, low_data=1.0, one_batch=False, num_classes=None)
    options.check_data_path(here, places)
    return here


def load_data(subject: Subject, console: Console) -> DataSet:
    """The data that the subject was made for, with the subject's normalisation.

    Raises:
        UserError: see `data.load`; or the data are of another task.
    """
    config = subject.config
    options.check_data_source(config)
    if config.set in ("folder", "hub") and not config.stream:
        # The network decides, not what the images happen to be.
        config = dataclasses.replace(config, channels=subject.task.channels)
    images = data.load(config, console.track)
    check_task(subject, images)
    if subject.mean and subject.std:
        images.mean, images.std = subject.mean, subject.std
    return images


def check_task(subject: Subject, images: DataSet) -> None:
    """Raise UserError if the data are of another task than the subject."""
    task = Task(len(images.classes), images.channels, images.input_size)
    if task != subject.task:
        raise UserError(f"{subject.name}: made for {subject.task}, but the data have {task}")
    if difference := data.other_classes(subject.classes, images.classes):
        raise UserError(f"{subject.name}: made for other classes than the data have: {difference}")


def calibration_images(subject: Subject, images: DataSet, count: int = 256) -> NDArray[Any]:
    """Training images for `Engine(calibration=...)`, the same share of each class: [count, C, H,
    W], uint8; normalised float32 where the ticket has no mean and standard deviation.
    """
    is_normalised = not subject.mean
    some = data.sample(images.train, count)
    pixels, _ = next(images.evaluation_batches(some, count, normalised=is_normalised))
    return pixels.numpy()


def measure(
    subject: Subject,
    images: DataSet,
    split: Split,
    device: str,
    console: Console,
    what: str,
    packed: Packed | None = None,
) -> Counts:
    """Counts over all images of a split.

    Args:
        split: one of `images`.
        device: see `choose_device`.
        what: title of the progress bar.
        packed: the engine, which evaluates instead of the model, on the CPU.
    """
    chosen = choose_device("cpu" if packed else device)
    size = evaluation_batch(subject.task)
    model = packed or subject.model
    model.to(chosen)
    batches = images.evaluation_batches(split.to(chosen), size, normalised=packed is None)
    count = -(-len(split) // size)
    in_channels_last = packed is None and is_in_channels_last(
        subject.config, model, subject.task, chosen
    )
    return evaluate(model, console.track(batches, f"{what}, batches", count), in_channels_last)
