"""Weights of a user's own model, read from a file without executing anything in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..checkpoint import archive, strip_prefixes
from ..checkpoint.format import differences, raise_differences
from ..errors import UserError, one_line

SAFETENSORS_SUFFIX = ".safetensors"
_FIELDS = ("state_dict", "model_state_dict", "model")
"""Fields of training programs' checkpoints that hold the state dict."""


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Fill a model with the weights of a file.

    Args:
        model: its state dict must have the file's names and shapes, all of them and no others.
        path: a state dict by `torch.save`, alone or in a checkpoint's field state_dict,
            model_state_dict or model; or a safetensors file. Names may begin with what
            DataParallel, `torch.compile` and averaged models put before them.

    Raises:
        UserError: the file cannot be read, has other content than tensors, or does not fit.
    """
    state = _state_dict(_read(Path(path)), path)
    own = model.state_dict()
    if differences(own, state) and not differences(own, stripped := strip_prefixes(state)):
        state = stripped
    raise_differences(differences(own, state), path)
    model.load_state_dict(state)


def _read(path: Path) -> Any:
    if path.suffix == SAFETENSORS_SUFFIX:
        return _read_safetensors(path)
    content, _ = archive.read(path)
    return content


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(
            f"{path}: the package safetensors is missing: pip install safetensors"
        ) from None
    try:
        return load_file(path)
    except OSError as e:
        raise UserError(f"{path}: cannot be read: {e.strerror or one_line(e)}") from None
    except SafetensorError as e:
        raise UserError(f"{path}: damaged: {one_line(e)}") from None


def _state_dict(content: Any, path: str | Path) -> dict[str, Tensor]:
    """The tensors by name, in the content of a file."""
    fields = [content]
    if isinstance(content, Mapping):
        fields += [content[field] for field in _FIELDS if field in content]
    for state in fields:
        if isinstance(state, Mapping) and state and all(map(_is_entry, state.items())):
            return dict(state)
    raise UserError(
        f"{path}: has no state dict: must be tensors by name, alone or in a field"
        f" {', '.join(_FIELDS)}"
    )


def _is_entry(item: tuple[Any, Any]) -> bool:
    name, value = item
    return isinstance(name, str) and isinstance(value, Tensor)
