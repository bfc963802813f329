"""Checkpoint files: the original research code's fields under its names, ours in one more entry
"biprop".

Written to a temporary name and renamed, so that a file under its own name is always whole.
`archive` reads and writes the file; here is what its fields mean. They are anybody's: each is
checked before it is used, and none says where to read or write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import config as options
from ..config import Config
from ..errors import UserError, one_line, shown
from ..files import is_file, replacing
from ..models.network import Task
from ..runs.folder import CHECKPOINTS, SETTINGS
from . import archive, legacy

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
    return {"train_augmentation": kind} | {
        field: getattr(config, name) for field, name in _AUGMENTATION_OPTIONS.items()
    }


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write `checkpoint` (plain containers, numbers, texts and tensors) to `path`, replacing it in
    one step.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    with replacing(path) as file:
        archive.write(file, checkpoint)


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, of this program or of the original research code, to the CPU.

    Raises:
        UserError: no such file, damaged, or no checkpoint of a network.
    """
    return _load(path)[0]


def _load(path: str | Path) -> tuple[dict[str, Any], list[str]]:
    """The fields of a checkpoint, and what the user should know of the file."""
    path = Path(path)
    if not is_file(path):
        raise UserError(f"{path}: no such checkpoint")
    fields, notes = archive.read(path)
    if (
        not isinstance(fields, dict)
        or not isinstance(fields.get("state_dict"), dict)
        or "arch" not in fields
    ):
        raise UserError(f"{path}: not a checkpoint of a network: it has no 'arch' and 'state_dict'")
    for key, value in fields["state_dict"].items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(
                f"{path}: not a checkpoint of a network: {shown(repr(key))} in its 'state_dict' is"
                " no tensor with a name"
            )
    return fields, notes


_WRAPPERS = ("module.", "model.")
"""What wrappers put before every key: data-parallel and averaged models; training frameworks."""


def strip_prefixes(state: dict[str, Any]) -> dict[str, Any]:
    """The state dict with the names that the network itself gives, without what wrappers add to
    them.

    `torch.compile` adds `_orig_mod.`, also within a name. A prefix that not all keys have is part
    of the names.
    """
    names = {key: key.replace("_orig_mod.", "") for key in state}
    if "n_averaged" in names and all(
        name.startswith("module.") for name in names.values() if name != "n_averaged"
    ):
        names.pop("n_averaged")  # how many models torch.optim.swa_utils.AveragedModel has averaged
    while prefix := next(
        (p for p in _WRAPPERS if names and all(name.startswith(p) for name in names.values())), None
    ):
        names = {key: name.removeprefix(prefix) for key, name in names.items()}
    if len(set(names.values())) < len(names):
        return state  # two tensors of one name: it is left to the caller to say what differs
    return {name: state[key] for key, name in names.items()}


def load_state(model: nn.Module, state: dict[str, Tensor], where: object) -> None:
    """Load a state dict whose keys and shapes are exactly those of the model, and whose numbers are
    finite.

    Raises:
        UserError: they differ; one line with the first differences.
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
    """How the names and shapes of a state dict differ from those of a model, in words."""
    differences = [f"lacks {key}" for key in wanted if key not in given]
    differences += [f"has {shown(key)} too" for key in given if key not in wanted]
    for key in wanted:
        shape = tuple(wanted[key].shape)
        found = tuple(given[key].shape) if key in given else shape
        if found != shape:
            differences.append(f"{key} is {found}, not {shape}")
    return differences


def raise_differences(differences: list[str], where: object) -> None:
    if differences:
        more = f" and {len(differences) - 4} more" if len(differences) > 4 else ""
        raise UserError(
            f"{where}: a checkpoint of another network: {'; '.join(differences[:4])}{more}"
        )


@dataclass
class Content:
    """A checkpoint, read and looked at, before there is a network.

    Attributes:
        path: of the file.
        fields: all of it.
        state: the state dict without the prefixes of wrappers.
        ours: the entry "biprop", or None for a file of the original research code.
        epoch: epochs done.
        config, task: the options and the task that the network was made for. Places
            (`config.PLACES`) are those of the run folder that the file lies in, or the defaults.
        warnings: what the user should know, one line each.
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
        return bool(self.ours.get("of_ancestor")) if self.ours else True


def read(
    path: str | Path, flags: Mapping[str, Any], fallback: Mapping[str, Any] | None = None
) -> Content:
    """Load a checkpoint and find out what network it is of.

    Args:
        path: of this program's or the original research code's.
        flags: options that the user gave; those that the file answers too must be equal to its
            answer. Files of the first version of the original research code do not say `conv_type`
            and `prune_rate`: there the flags do.
        fallback: values from a configuration file, for what neither file nor flags say.

    Raises:
        UserError: see `load`, `ancestor.describe`; or a flag that contradicts the file.
    """
    fields, warned = _load(path)
    state = strip_prefixes(fields["state_dict"])
    ours = fields.get("biprop")
    epoch = fields.get("epoch", 0)
    if type(epoch) is not int or not 0 <= epoch < 2**31:
        raise UserError(f"{path}: a damaged checkpoint: epoch = {shown(epoch)}")
    if ours is None:
        lacking = [name for name in ("conv_type", "prune_rate") if name not in fields]
        said = {**(fallback or {}), **flags}
        if lacking and all(said.get(name) is not None for name in lacking):
            fields |= {name: said[name] for name in lacking}
            warned.append(f"{path}: does not say its {' and '.join(lacking)}; taken as given")
        config, task = legacy.describe(fields, state, path)
        found = {
            option: fields[field]
            for field, option in _AUGMENTATION_OPTIONS.items()
            if field in fields
        }
        config = replace(config, **_coerced(found, path))
    else:
        config, task = _our_config(ours, path)
    answers = {**options.as_dict(config), "num_classes": task.num_classes}
    same = {"LearnedBatchNorm": "AffineBatchNorm"}  # one module under two names
    for name in options.CHECKPOINT_FACTS:
        if flags.get(name) is not None and same.get(flags[name], flags[name]) != same.get(
            answers[name], answers[name]
        ):
            raise UserError(
                f"--{name.replace('_', '-')} {flags[name]}: but {path} says {answers[name]}"
            )
    return Content(Path(path), fields, state, ours, epoch, config, task, warned)


def _our_config(ours: Any, path: str | Path) -> tuple[Config, Task]:
    """Options and task of a checkpoint of this program, from its entry "biprop"."""
    if not isinstance(ours, dict):
        raise UserError(f"{path}: a damaged checkpoint: biprop = {shown(ours)}")
    try:
        form, version = ours["format"], ours["version"]
        if type(form) is not int or form > FORMAT:
            newer = f"format {shown(form)} of a newer biprop ({shown(version)})"
            raise UserError(f"{path}: {newer}; this one reads up to {FORMAT}")
        values = _coerced(
            {key: value for key, value in ours["config"].items() if key in options.FIELDS}, path
        )
        config = Config(
            **{key: value for key, value in values.items() if key not in options.PLACES}
        )
        options.check(config)
        height, width = (whole(side, 1, 1 << 14) for side in ours["input_size"])
        task = Task(
            whole(ours["num_classes"], 1, 1 << 20),
            whole(ours["channels"], 1, 1 << 12),
            (height, width),
        )
        return replace(config, **_places(Path(path))), task
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise UserError(
            f"{path}: a damaged checkpoint: {type(e).__name__}: {one_line(e)}"
        ) from None


def _coerced(values: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    return {
        name: options.coerce(name, value, str(path))
        for name, value in values.items()
        if name not in options.PLACES
    }


def whole(value: Any, low: int, high: int) -> int:
    """A value from a file, if it is a whole number in this range.

    Raises:
        ValueError: it is not.
    """
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{shown(value)}, not a whole number from {low} to {high}")
    return value


def _places(path: Path) -> dict[str, Any]:
    """Where data are and where results go, from the settings of the run folder that a checkpoint
    lies in.

    A checkpoint has these options too, as a record: it may be a stranger's, and does not choose
    what is read and written here.
    """
    folder = run_folder(path)
    if folder is None:
        return {}
    settings = options.read_file(folder / SETTINGS)
    return {name: value for name, value in settings.items() if name in options.PLACES}


def config_name(content: Content) -> str:
    """Of the configuration file that a run of this program began with: a part of its folder's name.

    Raises:
        UserError: no folder can have this name.
    """
    name = (content.ours or {}).get("config_name", content.config.arch)
    if not options.is_file_name(name):
        raise UserError(
            f"{content.path}: refused: config_name = {shown(repr(name))}: {options.FILE_NAME_RULE}"
        )
    return str(name)


def class_names(content: Content) -> list[str]:
    """Of the classes, in the order of the network's outputs; none where a checkpoint does not say.

    Raises:
        UserError: they are something else.
    """
    names = (content.ours or {}).get("classes", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{content.path}: a damaged checkpoint: classes = {shown(names)}")
    return list(names)


def run_folder(path: Path) -> Path | None:
    """The run folder that a checkpoint lies in; None where it lies somewhere else."""
    folder = path.parent.parent
    is_one = path.parent.name == CHECKPOINTS and (folder / SETTINGS).is_file()
    return folder if is_one else None
