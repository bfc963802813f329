"""Weights of a user's own model, read from a file without executing anything in it."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError, abbreviated, one_line

SAFETENSORS_SUFFIX = ".safetensors"
_FIELDS = ("state_dict", "model_state_dict", "model")
"""Fields of training programs' checkpoints that hold the state dict."""
_WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before the names."""


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Fill a model with the weights of a file.

    Args:
        model: its state dict must have the file's names and shapes, all of them and no others.
        path: a state dict by `torch.save`, alone or in a checkpoint's field state_dict,
            model_state_dict or model; or a safetensors file. Names may begin with "module." or
            "_orig_mod.", as of DataParallel and torch.compile.

    Raises:
        UserError: the file cannot be read, has other content than tensors, or does not fit.
    """
    state = _without_wrapper(_state_dict(_read(Path(path)), path))
    _check_names(set(model.state_dict()), set(state), path)
    try:
        model.load_state_dict(state)
    except RuntimeError as e:
        reason = one_line(e).partition("size mismatch")[2] or one_line(e)
        raise UserError(f"--weights {path}: does not fit the model: {reason.lstrip()}") from None


def _read(path: Path) -> Any:
    try:
        if path.suffix == SAFETENSORS_SUFFIX:
            return _read_safetensors(path)
        with warnings.catch_warnings():  # about formats of PyTorch's own older versions
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as e:
        raise UserError(f"--weights {path}: cannot be read: {e.strerror or one_line(e)}") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"--weights {path}: contains more than tensors, or is no file of torch.save: nothing"
            " but a state dict is read; write it by torch.save(model.state_dict(), FILE)"
        ) from None
    except (RuntimeError, ValueError, EOFError, KeyError, TypeError) as e:
        raise UserError(f"--weights {path}: is damaged: {one_line(e)}") from None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(
            f"--weights {path}: the package safetensors is missing: pip install safetensors"
        ) from None
    try:
        return load_file(path)
    except SafetensorError as e:
        raise ValueError(str(e)) from None


def _state_dict(content: Any, path: str | Path) -> dict[str, Tensor]:
    """The tensors by name, in the content of a file."""
    fields = [content]
    if isinstance(content, Mapping):
        fields += [content[field] for field in _FIELDS if field in content]
    for state in fields:
        if isinstance(state, Mapping) and state and all(map(_is_entry, state.items())):
            return dict(state)
    raise UserError(
        f"--weights {path}: has no state dict: must be tensors by name, alone or in a field"
        f" {', '.join(_FIELDS)}"
    )


def _is_entry(item: tuple[Any, Any]) -> bool:
    name, value = item
    return isinstance(name, str) and isinstance(value, Tensor)


def _without_wrapper(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without what wrappers put before every name."""
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in state):
            return _without_wrapper({name.removeprefix(prefix): state[name] for name in state})
    return state


def _check_names(wanted: set[str], given: set[str], path: str | Path) -> None:
    differences = (("lacks", wanted - given), ("has in addition", given - wanted))
    parts = [f"{verb} {_some(names)}" for verb, names in differences if names]
    if parts:
        raise UserError(f"--weights {path}: does not fit the model: {'; '.join(parts)}")


def _some(names: set[str]) -> str:
    """At most three of the names, and how many more there are."""
    first = sorted(names)[:3]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(abbreviated(name) for name in first) + more
