"""The fields of checkpoints: those of the original research code under its names, and ours in one
more entry, "biprop".

Writes are atomic: a file under its own name is always complete. `archive` reads and writes the
container; this module gives its fields their meaning. They are not trusted: each is checked before
it is used, and none determines where to read or write.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import config as options
from ..config import Config
from ..errors import UserError, abbreviated, one_line
from ..files import atomic_write, is_file
from ..models.network import Task
from ..runs.folder import CHECKPOINTS, SETTINGS
from . import archive, legacy

FORMAT = 1
MOST_SIDES = 5
"""Axes of a sample, beside that of the channels."""

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
_SAME_MODULE = {"LearnedBatchNorm": "AffineBatchNorm"}
"""Batch-norm types that are one module under two names."""
_FIRST_VERSION_LACKS = ("conv_type", "prune_rate")
"""Fields that the first version of the original research code did not store."""


def augmentation_fields(config: Config) -> dict[str, Any]:
    """The fields of a checkpoint that describe the augmentation of training images."""
    kind = "Augmix" if config.augmix else "Gaussian" if config.gaussian_aug else "Default"
    return {"train_augmentation": kind} | {
        field: getattr(config, name) for field, name in _AUGMENTATION_OPTIONS.items()
    }


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write `checkpoint` (plain containers, numbers, strings and tensors) to `path`, atomically.

    Raises:
        OSError: it cannot be written; an existing file is then unchanged.
    """
    with atomic_write(path) as file:
        archive.write(file, checkpoint)


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, of this program or of the original research code, to the CPU.

    Raises:
        UserError: no such file, damaged, or no checkpoint of a network.
    """
    return _load(path)[0]


def _load(path: str | Path) -> tuple[dict[str, Any], list[str]]:
    """The fields of a checkpoint, and warnings for the user, one line each."""
    path = Path(path)
    if not is_file(path):
        raise UserError(f"{path}: no such checkpoint")
    fields, warnings = archive.read(path)
    has_state = isinstance(fields, dict) and isinstance(fields.get("state_dict"), dict)
    if not has_state or "arch" not in fields:
        raise UserError(f"{path}: not a checkpoint of a network: it has no 'arch' and 'state_dict'")
    for key, value in fields["state_dict"].items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(
                f"{path}: not a checkpoint of a network: {abbreviated(repr(key))} in its"
                " 'state_dict' is no tensor with a name"
            )
    return fields, warnings


_WRAPPERS = ("module.", "model.")
"""Prefixes that wrappers add to every key: data-parallel and averaged models; training frameworks.
"""


def strip_prefixes(state: dict[str, Any]) -> dict[str, Any]:
    """The state dict under the network's own names, without what wrappers add to them.

    `torch.compile` adds `_orig_mod.`, also within a name. A prefix that not all keys have is part
    of the names.
    """
    names = {key: key.replace("_orig_mod.", "") for key in state}
    if _is_averaged(names):
        del names["n_averaged"]
    while prefix := _common_prefix(names.values()):
        names = {key: name.removeprefix(prefix) for key, name in names.items()}
    if len(set(names.values())) < len(names):
        return state  # two tensors of one name: the caller reports what differs
    return {name: state[key] for key, name in names.items()}


def _is_averaged(names: Mapping[str, str]) -> bool:
    """Whether these are the names of torch.optim.swa_utils.AveragedModel, which counts the models
    that it has averaged.
    """
    weights = [name for name in names.values() if name != "n_averaged"]
    return "n_averaged" in names and all(name.startswith("module.") for name in weights)


def _common_prefix(names: Collection[str]) -> str | None:
    """The prefix of a wrapper that all names have, or None."""
    if not names:
        return None
    shared = (prefix for prefix in _WRAPPERS if all(name.startswith(prefix) for name in names))
    return next(shared, None)


def load_state(model: nn.Module, state: dict[str, Tensor], where: object) -> None:
    """Load a state dict whose keys and shapes are exactly those of the model, and whose values are
    finite.

    Args:
        model: to load it into, in place.
        state: the state dict.
        where: the file, for messages.

    Raises:
        UserError: they differ (one line with the first differences), or a value is not finite.
    """
    own = model.state_dict()
    raise_differences(differences(own, state), where)
    for key, value in state.items():
        if not torch.can_cast(value.dtype, own[key].dtype) or value.dtype == torch.float64:
            raise UserError(f"{where}: {key} is {value.dtype}, not {own[key].dtype}")
        if not bool(torch.isfinite(value).all()):
            raise UserError(
                f"{where}: {key} holds a number that is infinite or none: this network computes"
                " nothing"
            )
    model.load_state_dict(state)


def differences(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """The differences in names and shapes between a model's state dict and another, one phrase
    each.
    """
    lacking = [f"lacks {key}" for key in wanted if key not in given]
    extra = [f"has {abbreviated(key)} too" for key in given if key not in wanted]
    reshaped = [
        f"{key} is {tuple(given[key].shape)}, not {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in given and given[key].shape != tensor.shape
    ]
    return [*lacking, *extra, *reshaped]


def raise_differences(differences: list[str], where: object) -> None:
    """Raise UserError with the first of the differences, if there are any."""
    if differences:
        more = f" and {len(differences) - 4} more" if len(differences) > 4 else ""
        raise UserError(
            f"{where}: a checkpoint of another network: {'; '.join(differences[:4])}{more}"
        )


@dataclass
class Content:
    """A checkpoint, read and checked, before its network is built.

    Attributes:
        path: of the file.
        fields: all of its fields.
        state: the state dict without the prefixes of wrappers.
        ours: the entry "biprop", or None for a file of the original research code.
        epoch: number of completed epochs.
        config, task: the options and the task that the network was made for. Paths
            (`config.PATH_OPTIONS`) are those of the run folder that contains the file, or the
            defaults.
        warnings: for the user, one line each.
    """

    path: Path
    fields: dict[str, Any]
    state: dict[str, torch.Tensor]
    ours: dict[str, Any] | None
    epoch: int
    config: Config
    task: Task
    warnings: list[str]

    @property
    def of_ancestor(self) -> bool:
        """Whether the network has the oddities of the original research code (`models.build`)."""
        return bool(self.ours.get("of_ancestor")) if self.ours else True


def read(
    path: str | Path, flags: Mapping[str, Any], fallback: Mapping[str, Any] | None = None
) -> Content:
    """Load a checkpoint and determine its network's options and task.

    Args:
        path: of this program's or the original research code's.
        flags: options that the user gave; they must not contradict the file. Files of the first
            version of the original research code do not store `conv_type` and `prune_rate`: there
            the flags count.
        fallback: values from a configuration file, for what neither file nor flags say.

    Raises:
        UserError: see `load`, `legacy.describe`; or a flag that contradicts the file.
    """
    fields, warnings = _load(path)
    state = strip_prefixes(fields["state_dict"])
    ours = fields.get("biprop")
    epoch = fields.get("epoch", 0)
    if type(epoch) is not int or not 0 <= epoch < 2**31:
        raise UserError(f"{path}: a damaged checkpoint: epoch = {abbreviated(epoch)}")
    if ours is None:
        warnings += _fill_first_version(fields, {**(fallback or {}), **flags}, path)
        config, task = legacy.describe(fields, state, path)
        config = replace(config, **_augmentation_options(fields, path))
    else:
        config, task = _our_config(ours, path)
    _check_flags(flags, config, task, path)
    if isinstance(flags.get("arch"), options.OwnNetwork):  # that of the file is never run
        config = replace(config, arch=flags["arch"])
    return Content(Path(path), fields, state, ours, epoch, config, task, warnings)


def _fill_first_version(
    fields: dict[str, Any], given: Mapping[str, Any], path: str | Path
) -> list[str]:
    """Add the fields that a file of the first version lacks, in place, from options that were
    given; returns warnings for the user.
    """
    lacking = [name for name in _FIRST_VERSION_LACKS if name not in fields]
    if not lacking or any(given.get(name) is None for name in lacking):
        return []
    fields |= {name: given[name] for name in lacking}
    return [f"{path}: does not say its {' and '.join(lacking)}; taken as given"]


def _augmentation_options(fields: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """The inverse of `augmentation_fields`, for those fields that a checkpoint has."""
    values = {
        option: fields[field] for field, option in _AUGMENTATION_OPTIONS.items() if field in fields
    }
    return _coerced(values, path)


def _check_flags(flags: Mapping[str, Any], config: Config, task: Task, path: str | Path) -> None:
    """Raise UserError if a flag contradicts a checkpoint."""
    stored = {**options.as_dict(config), "num_classes": task.num_classes}
    for name in options.NETWORK_OPTIONS:
        flag, value = flags.get(name), stored[name]
        if flag is not None and not _are_same(name, flag, value):
            raise UserError(f"--{name.replace('_', '-')} {flag}: but {path} says {value}")


def _are_same(name: str, flag: Any, value: Any) -> bool:
    """Whether a flag says what a checkpoint says."""
    if name == "arch":
        return options.is_same(flag, value)
    if isinstance(flag, str) and isinstance(value, str):
        return _SAME_MODULE.get(flag, flag) == _SAME_MODULE.get(value, value)
    return bool(flag == value)


def _our_config(ours: Any, path: str | Path) -> tuple[Config, Task]:
    """Options and task of a checkpoint of this program, from its entry "biprop"."""
    if not isinstance(ours, dict):
        raise UserError(f"{path}: a damaged checkpoint: biprop = {abbreviated(ours)}")
    try:
        _check_format(ours, path)
        config = _stored_config(ours["config"], path)
        task = _stored_task(ours)
        return replace(config, **_places(Path(path))), task
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise UserError(
            f"{path}: a damaged checkpoint: {type(e).__name__}: {one_line(e)}"
        ) from None


def _check_format(ours: Mapping[str, Any], path: str | Path) -> None:
    """Raise UserError if a newer version of this program wrote the checkpoint."""
    number, version = ours["format"], ours["version"]
    if type(number) is not int or number > FORMAT:
        newer = f"format {abbreviated(number)} of a newer biprop ({abbreviated(version)})"
        raise UserError(f"{path}: {newer}; this one reads up to {FORMAT}")


def _stored_config(stored: Mapping[str, Any], path: str | Path) -> Config:
    """The options in a checkpoint, without those that are paths; unknown ones are ignored."""
    known = {key: value for key, value in stored.items() if key in options.FIELDS}
    known.setdefault("channels_last", False)  # as before there was this option
    config = Config(**_coerced(known, path))
    options.check(config)
    return config


def _stored_task(ours: Mapping[str, Any]) -> Task:
    sides = tuple(whole(side, 1, 1 << 20) for side in ours["input_size"])
    if len(sides) > MOST_SIDES:
        raise ValueError(f"input_size of {len(sides)} sides")
    num_classes = whole(ours["num_classes"], 1, 1 << 20)
    channels = whole(ours["channels"], 1, 1 << 20)
    return Task(num_classes, channels, sides)


def _coerced(values: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """Options from a file in the types of their fields, without those that are paths."""
    return {
        name: options.coerce(name, value, str(path))
        for name, value in values.items()
        if name not in options.PATH_OPTIONS
    }


def whole(value: Any, low: int, high: int) -> int:
    """A value from a file, which must be an integer from `low` to `high`.

    Raises:
        ValueError: it is not.
    """
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{abbreviated(value)}, not a whole number from {low} to {high}")
    return value


def _places(path: Path) -> dict[str, Any]:
    """The options that are paths, from the settings of the run folder that contains a checkpoint.

    A checkpoint has these options too, as a record: it may come from anywhere, and does not
    determine what is read and written here.
    """
    folder = run_folder(path)
    if folder is None:
        return {}
    settings = options.read_file(folder / SETTINGS)
    return {name: value for name, value in settings.items() if name in options.PATH_OPTIONS}


def config_name(content: Content) -> str:
    """Name of the configuration file that a run was started with, part of its folder's name.

    Raises:
        UserError: no folder can have this name.
    """
    name = (content.ours or {}).get("config_name", content.config.arch)
    if not options.is_file_name(name):
        raise UserError(
            f"{content.path}: refused: config_name = {abbreviated(repr(name))}:"
            f" {options.FILE_NAME_RULE}"
        )
    return str(name)


def class_names(content: Content) -> list[str]:
    """Names of the classes, in the order of the network's outputs; empty where a checkpoint does
    not say.

    Raises:
        UserError: they are no list of strings.
    """
    names = (content.ours or {}).get("classes", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{content.path}: a damaged checkpoint: classes = {abbreviated(names)}")
    return list(names)


def run_folder(path: Path) -> Path | None:
    """The run folder that contains a checkpoint; None where it is somewhere else."""
    folder = path.parent.parent
    is_in_run = path.parent.name == CHECKPOINTS and (folder / SETTINGS).is_file()
    return folder if is_in_run else None
