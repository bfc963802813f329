"""Makes the ticket of a run or a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__, checkpoint
from .. import config as options
from ..errors import UserError, abbreviated, one_line
from ..evaluation.counts import Counts
from ..models.network import Network, Task
from ..models.plans import takes_width
from ..runs.folder import BEST, RESULT, find_checkpoint, notes_on
from ..ticket import Ticket


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
        warn: takes warnings about the checkpoint, one line each.

    Raises:
        UserError: see `checkpoint.restore`; or a dense baseline.
        TicketError: see `Ticket.from_model`.
    """
    file = find_checkpoint(path)
    restored = checkpoint.restore(file, flags)
    warn([*notes_on(path), *restored.content.warnings])
    network, content = restored.network, restored.content
    if network.subnetwork is None:
        raise UserError(
            f"{file}: a dense baseline: its weights are trained, so there is no ticket in it"
        )
    return Ticket.from_model(
        network.model,
        network.subnetwork,
        **_description(content, network),
        classes=checkpoint.class_names(content),
        mean=restored.mean or (),
        std=restored.std or (),
        found=_provenance(content, file),
        compact=compact,
    )


def _description(content: checkpoint.Content, network: Network) -> dict[str, Any]:
    """What tells the ticket its network: an entry of the registry, or a batch to trace it with."""
    shape = content.task.shape
    image = {"input_size": shape} if len(shape) == 3 else {}
    if options.has_graph(content.config.arch):
        return {"example": example_batch(content.task), **image}
    return {"network": _architecture(content, network), **image}


def example_batch(task: Task) -> Tensor:
    """Two samples of normalised random numbers, always the same: float32 [2, ...]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, *task.shape, generator=generator)


def _architecture(content: checkpoint.Content, network: Network) -> dict[str, Any]:
    """The ticket's record of the network from which `Ticket.to_model` rebuilds it."""
    config, task = content.config, content.task
    return {
        "name": config.arch,
        "num_classes": task.num_classes,
        "channels": task.channels,
        "input_size": list(task.input_size),
        "bn_type": config.bn_type,
        "width_mult": float(config.width_mult) if takes_width(config.arch) else 1.0,
        "head_bias": config.last_layer_dense,
        "ancestor": network.of_ancestor,
    }


def _provenance(content: checkpoint.Content, file: Path) -> dict[str, Any]:
    """The ticket's record of its search: options that differ from the default, accuracies, epoch,
    versions, date of packing.

    Raises:
        UserError: checkpoint or result.json are damaged.
    """
    ours = content.ours
    record: dict[str, Any] = {
        "options": _changed_options(content),
        "epoch": content.epoch,
        "packed": date.today().isoformat(),
        "by": f"biprop {__version__}, torch {torch.__version__}",
    }
    if ours is None:
        return record | {"origin": "the original research code"}
    record |= {
        "config": _text(ours.get("config_name")),
        "searched_by": f"biprop {_text(ours.get('version'))}",
        "selected_on": content.config.select_on,
    }
    if content.config.holds_out:  # elsewhere these counts are of test images
        record["validation"] = _counts(ours.get("best_validation"), file)
    if content.config.teacher:
        record["teacher"] = _teacher_name(content.config.teacher)
    return record | _test_counts(content, file)


def _teacher_name(path: str) -> str:
    """What a ticket records of its teacher, without the place: the file's name, or of a run folder
    the end of its path that begins with the configuration: "cifar10-dense/prune-rate=none/find".
    """
    parts = Path(path).parts
    places = [place for place, part in enumerate(parts) if part.startswith("prune-rate=")]
    if not places or places[-1] == 0:
        return parts[-1]
    start = places[-1] - 1
    if parts[start].startswith("width_mult="):
        start = max(0, start - 1)
    return "/".join(parts[start:])


def _changed_options(content: checkpoint.Content) -> dict[str, Any]:
    default = options.as_dict(options.Config())
    recorded = {
        name: value
        for name, value in options.as_dict(content.config).items()
        if name not in options.UNRECORDED_OPTIONS
    }
    recorded["arch"] = options.without_folder(recorded["arch"])  # tickets tell no paths
    return {name: value for name, value in recorded.items() if value != default[name]}


def _test_counts(content: checkpoint.Content, file: Path) -> dict[str, Any]:
    """The test counts in a run's result.json, if it is about this checkpoint.

    Raises:
        UserError: the file is damaged.
    """
    path = file.parent.parent / RESULT
    if file.name != BEST or not path.is_file():
        return {}
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["epoch"] != content.epoch:  # the run was resumed, and is not complete
            return {}
        return {"test": result["test"]}
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(
            f"{path}: damaged: {one_line(e)}; remove it to pack without the test accuracy"
        ) from None


def _text(value: Any) -> str | None:
    return abbreviated(value) if isinstance(value, str) else None


def _counts(record: Any, file: Path) -> dict[str, Any] | None:
    try:
        return None if record is None else asdict(Counts.of(record))
    except ValueError as e:
        raise UserError(f"{file}: a damaged checkpoint: {one_line(e)}") from None
