"""Checkpoint files: the original research code's fields under its names, ours in one more entry "biprop".

Written to a temporary name and renamed, so that a file under its own name is always whole. Read with PyTorch's safe loader,
which refuses a pickle that could run code.
"""

from __future__ import annotations

import os
import pickle
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import ancestor
from .config import Config
from .errors import UserError, one_line
from .network import Network, Task, build_network

FORMAT = 1

AUGMENTATION_FIELDS: dict[str, Any] = {
    "train_augmentation": "Default",
    "use_augmix": False,
    "jsd": False,
    "augmix_mixture_width": 3,
    "augmix_mixture_depth": -1,
    "augmix_severity": 3,
    "use_gaussian_aug": False,
    "p_clean": 1.0,
    "std_gauss": 0.1,
}
"""What the checkpoint's fields on augmentation say of a run with random crops and flips only."""


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write `checkpoint` (plain containers, numbers, texts and tensors) to `path`, replacing it in one step."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, of this program or of the original research code, to the CPU.

    Raises:
        UserError: no such file, damaged, or no checkpoint of a network.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a file that torch did not write is refused below, in one line
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        # torch's message is a page long; the line that names what the file asked for is the one that helps.
        reason = next((line.strip() for line in str(e).splitlines() if "GLOBAL" in line or "unsupported" in line.lower()), "")
        raise UserError(f"{path}: refused: not a plain checkpoint, it may carry code. {reason}".rstrip()) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as e:
        raise UserError(f"{path}: cannot be read as a checkpoint; damaged or truncated? {one_line(e)}") from None
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict) or "arch" not in checkpoint:
        raise UserError(f"{path}: not a checkpoint of a network: it has no 'arch' and 'state_dict'")
    return checkpoint


def strip_module_prefix(state: dict[str, Any]) -> dict[str, Any]:
    """The state dict without the `module.` that data-parallel runs put before every key."""
    if all(key.startswith("module.") for key in state):
        return {key.removeprefix("module."): value for key, value in state.items()}
    return state


def load_state(model: nn.Module, state: dict[str, Any], where: object) -> None:
    """Load a state dict whose keys and shapes are exactly those of the model.

    Raises:
        UserError: they differ; one line with the first differences.
    """
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    given = {key: tuple(value.shape) if isinstance(value, torch.Tensor) else () for key, value in state.items()}
    differences = [f"lacks {key}" for key in wanted if key not in given]
    differences += [f"has {key} too" for key in given if key not in wanted]
    differences += [f"{key} is {given[key]}, not {wanted[key]}" for key in wanted if given.get(key, wanted[key]) != wanted[key]]
    if differences:
        more = f" and {len(differences) - 4} more" if len(differences) > 4 else ""
        raise UserError(f"{where}: a checkpoint of another network: {'; '.join(differences[:4])}{more}")
    model.load_state_dict(state)


@dataclass
class Restored:
    """A network as a checkpoint has it, with the options and the task that it was made for.

    Attributes:
        mean, std: the normalisation that it was trained with; None where the file does not say.
    """

    network: Network
    config: Config
    task: Task
    epoch: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def restore(path: str | Path, flags: Mapping[str, Any]) -> Restored:
    """Load a checkpoint and rebuild its network, masks included.

    Args:
        path: of this program's or the original research code's.
        flags: `conv_type` and `prune_rate` where the user gave them: needed for files that lack them, and else equal.

    Raises:
        UserError: see `load`, `load_state`, `ancestor.describe`; or a flag that contradicts the file.
    """
    content = load(path)
    for name in ("conv_type", "prune_rate"):
        if name in flags and content.setdefault(name, flags[name]) != flags[name]:
            raise UserError(f"--{name.replace('_', '-')} {flags[name]}: but {path} says {content[name]}")
    state = strip_module_prefix(content["state_dict"])
    ours = content.get("biprop")
    if ours is None:
        config, task = ancestor.describe(content, state, path)
        network = build_network(config, task, ancestor=True)
        load_state(network.model, state, path)
        return Restored(network, config, task, int(content.get("epoch", 0)))
    try:
        if ours["format"] > FORMAT:
            raise UserError(
                f"{path}: format {ours['format']} of a newer biprop ({ours['version']}); this one reads up to {FORMAT}"
            )
        known = {field.name for field in fields(Config)}
        config = Config(**{key: value for key, value in ours["config"].items() if key in known})
        task = Task(ours["num_classes"], ours["channels"], tuple(ours["input_size"]))
        network = build_network(config, task)
        load_state(network.model, state, path)
        if network.subnetwork:
            network.subnetwork.set_densities(ours["densities"])
        return Restored(network, config, task, int(content["epoch"]), tuple(ours["mean"]), tuple(ours["std"]))
    except (KeyError, TypeError, ValueError) as e:
        if isinstance(e, UserError):
            raise
        raise UserError(f"{path}: a damaged checkpoint: {type(e).__name__}: {e}") from None
