"""Checkpoint files: the original research code's fields under its names, ours in one more entry "biprop".

Written to a temporary name and renamed, so that a file under its own name is always whole. Read with PyTorch's safe loader,
which refuses a pickle that could run code.
"""

from __future__ import annotations

import errno
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import ancestor
from . import config as options
from .config import Config
from .errors import UserError, one_line
from .files import replacing
from .network import Network, Task, build_network

FORMAT = 1

_AUGMENTATION_OPTIONS = {
    "use_augmix": "augmix",
    "jsd": "jsd",
    "augmix_mixture_width": "mixture_width",
    "augmix_mixture_depth": "mixture_depth",
    "augmix_severity": "aug_severity",
    "use_gaussian_aug": "gaussian_aug",
    "p_clean": "p_clean",
    "std_gauss": "std_gauss",
}
"""Field of a checkpoint -> our option."""


def augmentation_fields(config: Config) -> dict[str, Any]:
    """What a checkpoint says of the augmentation of training images."""
    kind = "Augmix" if config.augmix else "Gaussian" if config.gaussian_aug else "Default"
    return {"train_augmentation": kind} | {field: getattr(config, name) for field, name in _AUGMENTATION_OPTIONS.items()}


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write `checkpoint` (plain containers, numbers, texts and tensors) to `path`, replacing it in one step.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    with replacing(path) as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as e:  # what PyTorch's writer makes of a full disk
            cause = e.__context__
            raise (cause if isinstance(cause, OSError) else OSError(errno.EIO, one_line(e), str(path))) from None


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
        raise UserError(f"{path}: cannot be read as a checkpoint; damaged or truncated? {one_line(e).split('. ')[0]}") from None
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
class Content:
    """A checkpoint, read and looked at, before there is a network.

    Attributes:
        path: of the file.
        fields: all of it.
        state: the state dict without `module.` prefixes.
        ours: the entry "biprop", or None for a file of the original research code.
        config, task: the options and the task that the network was made for.
        warnings: what the user should know, one line each.
    """

    path: Path
    fields: dict[str, Any]
    state: dict[str, torch.Tensor]
    ours: dict[str, Any] | None
    config: Config
    task: Task
    warnings: list[str]

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return int(self.fields.get("epoch", 0))

    @property
    def of_ancestor(self) -> bool:
        return bool(self.ours.get("of_ancestor")) if self.ours else True


def read(path: str | Path, flags: Mapping[str, Any], fallback: Mapping[str, Any] | None = None) -> Content:
    """Load a checkpoint and find out what network it is of.

    Args:
        path: of this program's or the original research code's.
        flags: options that the user gave; those that the file answers too must be equal to its answer. Files of the first version
            of the original research code do not say `conv_type` and `prune_rate`: there the flags do.
        fallback: values from a configuration file, for what neither file nor flags say.

    Raises:
        UserError: see `load`, `ancestor.describe`; or a flag that contradicts the file.
    """
    fields = load(path)
    state = strip_module_prefix(fields["state_dict"])
    ours = fields.get("biprop")
    warned: list[str] = []
    if ours is None:
        lacking = [name for name in ("conv_type", "prune_rate") if name not in fields]
        said = {**(fallback or {}), **flags}
        if lacking and all(said.get(name) is not None for name in lacking):
            fields |= {name: said[name] for name in lacking}
            warned.append(f"{path}: does not say its {' and '.join(lacking)}; taken as given")
        config, task = ancestor.describe(fields, state, path)
        found = {option: fields[field] for field, option in _AUGMENTATION_OPTIONS.items() if field in fields}
        config = replace(config, **found)
    else:
        config, task = _our_config(ours, path)
    answers = {**options.as_dict(config), "num_classes": task.num_classes}
    same = {"LearnedBatchNorm": "AffineBatchNorm"}  # one module under two names
    for name in options.CHECKPOINT_FACTS:
        if flags.get(name) is not None and same.get(flags[name], flags[name]) != same.get(answers[name], answers[name]):
            raise UserError(f"--{name.replace('_', '-')} {flags[name]}: but {path} says {answers[name]}")
    return Content(Path(path), fields, state, ours, config, task, warned)


def _our_config(ours: dict[str, Any], path: str | Path) -> tuple[Config, Task]:
    try:
        if ours["format"] > FORMAT:
            raise UserError(
                f"{path}: format {ours['format']} of a newer biprop ({ours['version']}); this one reads up to {FORMAT}"
            )
        config = Config(**{key: value for key, value in ours["config"].items() if key in options.FIELDS})
        return config, Task(ours["num_classes"], ours["channels"], tuple(ours["input_size"]))
    except (KeyError, TypeError) as e:
        raise UserError(f"{path}: a damaged checkpoint: {type(e).__name__}: {e}") from None


@dataclass
class Restored:
    """A network as a checkpoint has it.

    Attributes:
        mean, std: the normalisation that it was trained with; None where the file does not say.
    """

    network: Network
    content: Content
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def restore(path: str | Path, flags: Mapping[str, Any], fallback: Mapping[str, Any] | None = None) -> Restored:
    """Load a checkpoint and rebuild its network, masks included; arguments and errors as of `read` and `load_state`."""
    content = read(path, flags, fallback)
    network = build_network(content.config, content.task, ancestor=content.of_ancestor)
    load_state(network.model, content.state, path)
    ours = content.ours
    if ours is None:
        return Restored(network, content)
    try:
        if network.subnetwork:
            network.subnetwork.set_densities(ours["densities"])
        return Restored(network, content, tuple(ours["mean"]), tuple(ours["std"]))
    except (KeyError, TypeError, ValueError) as e:
        raise UserError(f"{path}: a damaged checkpoint: {type(e).__name__}: {e}") from None
