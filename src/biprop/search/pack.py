"""The ticket of a run or a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch

from .. import __version__, checkpoint
from .. import config as options
from ..errors import UserError, one_line, shown
from ..evaluation.counts import Counts
from ..models.plans import takes_width
from ..runs.folder import BEST, RESULT, find_checkpoint
from ..ticket import Ticket

_NOT_TOLD = options.with_roles(
    options.Role.DATA_PATH,
    options.Role.DATA_WORKERS,
    options.Role.RUN_NAME,
    options.Role.OUTPUT_PATH,
    options.Role.MACHINE,
    options.Role.COMPATIBILITY,
)
"""Options that a ticket does not record: they name paths, or they do not change what is found."""


def pack(
    path: str | Path,
    flags: Mapping[str, Any],
    compact: bool = False,
    warn: Callable[[list[str]], None] = lambda lines: None,
) -> Ticket:
    """The ticket of a run folder or a checkpoint, of this program or of the original research code.

    Args:
        path: see `find_checkpoint`.
        flags: options for what the file does not say, as of `checkpoint.read`.
        compact: store batch norm and other numbers in 16 bits.
        warn: takes what the user should know of the checkpoint, one line each.

    Raises:
        UserError: see `checkpoint.restore`; or a dense baseline.
        TicketError: see `Ticket.from_model`.
    """
    file = find_checkpoint(path)
    restored = checkpoint.restore(file, flags)
    warn(restored.content.warnings)
    network, content = restored.network, restored.content
    if network.subnetwork is None:
        raise UserError(
            f"{file}: a dense baseline: its weights are trained, so there is no ticket in it"
        )
    config, task = content.config, content.task
    return Ticket.from_model(
        network.model,
        network.subnetwork,
        network={
            "name": config.arch, "num_classes": task.num_classes, "channels": task.channels, "input_size": list(task.input_size),
            "bn_type": config.bn_type, "width_mult": float(config.width_mult) if takes_width(config.arch) else 1.0,
            "head_bias": config.last_layer_dense, "ancestor": network.of_ancestor,
        },
        input_size=(task.channels, *task.input_size),
        classes=checkpoint.class_names(content),
        mean=restored.mean or (),
        std=restored.std or (),
        found=_found(content, file),
        compact=compact,
    )  # fmt: skip


def _text(value: Any) -> str | None:
    return shown(value) if isinstance(value, str) else None


def _counts(record: Any, file: Path) -> dict[str, Any] | None:
    try:
        return None if record is None else asdict(Counts.of(record))
    except ValueError as e:
        raise UserError(f"{file}: a damaged checkpoint: {one_line(e)}") from None


def _found(content: checkpoint.Content, file: Path) -> dict[str, Any]:
    """How the network was found: options that differ from the default, accuracies, epoch, versions,
    date of packing.
    """
    default, ours = options.as_dict(options.Config()), content.ours
    found: dict[str, Any] = {
        "options": {
            k: v
            for k, v in options.as_dict(content.config).items()
            if k not in _NOT_TOLD and v != default[k]
        },
        "epoch": content.epoch,
        "packed": date.today().isoformat(),
        "by": f"biprop {__version__}, torch {torch.__version__}",
    }
    if ours is None:
        return found | {"origin": "the original research code"}
    found |= {
        "config": _text(ours.get("config_name")),
        "searched_by": f"biprop {_text(ours.get('version'))}",
    }
    found |= {
        "selected_on": content.config.select_on,
        "validation": _counts(ours.get("best_validation"), file),
    }
    result = file.parent.parent / RESULT
    if file.name == BEST and result.is_file():
        try:
            told = json.loads(result.read_text(encoding="utf-8"))
            if told["epoch"] == content.epoch:  # else the run went on, and is not finished
                found["test"] = told["test"]
        except (ValueError, KeyError, TypeError) as e:
            raise UserError(
                f"{result}: damaged: {one_line(e)}; remove it to pack without the test accuracy"
            ) from None
    return found
