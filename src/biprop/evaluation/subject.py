"""Accuracy of a checkpoint or a ticket on the data that it was made for: who is measured, on what,
and the counts.
"""

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
from ..errors import UserError
from ..models.network import Task
from ..subnetwork import LayerReport
from ..ticket import Ticket, TicketError
from .counts import Counts, evaluate
from .device import choose_device, evaluation_batch
from .engine_model import Packed

_TOLD = options.with_roles(options.Role.DATA_SET, options.Role.SELECTION, options.Role.NETWORK)
"""Options of its search that a ticket records and that are read from it.

Paths are not read from it: a file does not choose which other files are opened.
"""


@dataclass
class Subject:
    """A network to measure.

    Attributes:
        name: what the user called it.
        config, task: the options and the task that it was made for, and where the user says that
            data are.
        mean, std: the normalisation that it was trained with; empty where nothing says.
        epoch: of its search; 0 where nothing says.
        layers: its masked layers.
        warnings: what the user should know, one line each.
        classes: names, in the order of its outputs; empty where nothing says.
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
    """What a checkpoint says itself holds, then flags, then the values of a configuration file.

    Raises:
        UserError: see `checkpoint.restore`.
    """
    restored = checkpoint.restore(path, flags, fallback)
    content, subnetwork = restored.content, restored.network.subnetwork
    places = _places(flags)
    if content.ours is None:  # the original research code's files say nothing of data
        places = {name: fallback[name] for name in ("set", "workers") if name in fallback} | places
    return Subject(
        str(path), restored.network.model, _here(content.config, places), content.task, restored.mean or (), restored.std or (),
        content.epoch, subnetwork.report() if subnetwork else [], content.warnings, checkpoint.class_names(content),
    )  # fmt: skip


def of_ticket(path: str | Path, flags: Mapping[str, Any], ticket: Ticket | None = None) -> Subject:
    """A ticket file, or `ticket` under that name.

    Raises:
        TicketError: see `Ticket.load` and `Ticket.to_model`.
        UserError: a flag that contradicts the ticket.
    """
    ticket = ticket or Ticket.load(path)
    try:
        model = ticket.to_model()
    except TicketError as e:
        raise TicketError(f"{path}: {e}") from None
    assert ticket.network
    told = ticket.found.get("options")
    known = (
        {name: value for name, value in told.items() if name in _TOLD}
        if isinstance(told, dict)
        else {}
    )
    config = Config(
        **{name: options.coerce(name, value, str(path)) for name, value in known.items()}
    )
    if "options" not in ticket.found and "set" not in flags:
        raise UserError(f"{path}: does not tell its data: pass --set (and --data)")
    network = ticket.network
    answers = {
        **options.as_dict(config),
        "arch": network["name"],
        "num_classes": network["num_classes"],
    }
    for name in options.CHECKPOINT_FACTS:
        if flags.get(name) is not None and flags[name] != answers[name]:
            raise UserError(
                f"--{name.replace('_', '-')} {flags[name]}: but {path} says {answers[name]}"
            )
    layers = [LayerReport(la.name, la.shape, la.weights, la.kept, la.gain) for la in ticket.layers]
    epoch = ticket.found.get("epoch")
    epoch = epoch if type(epoch) is int and 0 <= epoch < 2**31 else 0
    task = Task(network["num_classes"], network["channels"], tuple(network["input_size"]))
    config = _here(dataclasses.replace(config, arch=str(network["name"])), _places(flags))
    return Subject(
        str(path), model, config, task, ticket.mean, ticket.std, epoch, layers, [], ticket.classes
    )


def _places(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {name: flags[name] for name in options.DATA_PLACES if name in flags}


def _here(config: Config, places: Mapping[str, Any]) -> Config:
    here = dataclasses.replace(config, **places, low_data=1.0, one_batch=False, num_classes=None)
    options.check_place(here, places)
    return here


def load_data(subject: Subject, console: Console) -> DataSet:
    """The data that the subject was made for, normalised as it wants them.

    Raises:
        UserError: see `data.load`; or data of another task.
    """
    config = subject.config
    options.check_source(config)
    if (
        config.set in ("folder", "hub") and not config.stream
    ):  # the network decides, not what the images happen to be
        config = dataclasses.replace(config, channels=subject.task.channels)
    images = data.load(config, console.track)
    found = Task(len(images.classes), images.channels, images.input_size)
    if found != subject.task:
        raise UserError(f"{subject.name}: made for {subject.task}, but the data have {found}")
    if difference := data.other_classes(subject.classes, images.classes):
        raise UserError(f"{subject.name}: made for other classes than the data have: {difference}")
    if subject.mean and subject.std:
        images.mean, images.std = subject.mean, subject.std
    return images


def calibration_images(subject: Subject, images: DataSet, count: int = 256) -> NDArray[Any]:
    """Training images for `Engine(calibration=...)`: [count, C, H, W], uint8, or normalised where
    the ticket tells nothing.
    """
    pixels, _ = next(images.evaluation_batches(images.train, count, normalised=not subject.mean))
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
    """Counts over all images of a split; with `packed`, by the engine, on the CPU."""
    where, size = choose_device("cpu" if packed else device), evaluation_batch(subject.task)
    model = packed or subject.model
    model.to(where)
    batches = images.evaluation_batches(split.to(where), size, normalised=packed is None)
    return evaluate(model, console.track(batches, f"{what}, batches", -(-len(split) // size)))
