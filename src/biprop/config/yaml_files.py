"""Configuration files in YAML: those of the package and the user's own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import UserError, abbreviated, did_you_mean, one_line
from ..files import is_file
from .values import ALIASES, NO_RGCONV, coerce, reject_unknown

DEFAULT_CONFIG = "digits"
FAST_CONFIG = "fast"
ARRAYS_CONFIG = "arrays"
RECIPES = "recipes"
"""Folder of the packaged configurations for searches of a given time or size."""
MAX_BYTES = 1 << 20
"""Largest configuration file that is read."""

UNSUPPORTED_CONFIGS = (
    "conv4wide_05_baseline",
    "conv4wide_hlrrg_wide",
    "conv4wide_rg_wide",
    "conv6wide_hlrrg_wide",
    "conv6wide_rg_wide",
)
"""Published configurations that are not packaged. They use a layer type, RGConv, that the original
research code does not contain.
"""


def packaged() -> Any:
    """The folder of the packaged configurations."""
    return resources.files("biprop") / "configs"


def packaged_files() -> list[Path]:
    """Paths of the packaged configurations, folder by folder, without those whose names start with
    _, which are only bases of other configurations.
    """
    files = Path(str(packaged())).rglob("*.y*ml")
    visible = [path for path in files if not path.name.startswith("_")]
    return sorted(visible, key=lambda path: (path.parent, path.name))


def find_file(name: str) -> Path:
    """The configuration file `name`: a path, a path below configs/, or a name without suffix.

    Raises:
        UserError: there is no such file (the most similar name is suggested), or several files have
            that name.
    """
    path = Path(name)
    if is_file(path):
        return path
    root = Path(str(packaged()))
    relative = path.relative_to("configs") if path.parts[:1] == ("configs",) else path
    if is_file(root / relative):
        return root / relative
    files = packaged_files()
    matches = [file for file in files if file.stem == name]
    if len(matches) == 1:
        return matches[0]
    raise UserError(f"--config {name}: {_why_not_found(path.stem, matches, files)}")


def recipe_files() -> list[Path]:
    """Paths of the packaged recipes, sorted: configurations for a given time, size or kind."""
    return [path for path in packaged_files() if path.parent.name == RECIPES]


def find_recipe(name: str) -> Path:
    """The packaged recipe `name`.

    Raises:
        UserError: there is no such recipe; the message names them all.
    """
    files = {path.stem: path for path in recipe_files()}
    if name in files:
        return files[name]
    raise UserError(
        f"--recipe {abbreviated(name)}: must be one of {', '.join(files)}"
        f"{did_you_mean(name, files)}"
    )


def _why_not_found(stem: str, matches: Sequence[Path], files: Sequence[Path]) -> str:
    if matches:
        root = Path(str(packaged()))
        paths = ", ".join(f"configs/{match.relative_to(root)}" for match in matches)
        return f"several files have that name: {paths}"
    if stem in UNSUPPORTED_CONFIGS:
        return f"left out: it asks for RGConv, and {NO_RGCONV}"
    hint = did_you_mean(stem, [file.stem for file in files])
    return f"no such file{hint or '; biprop list configs shows the packaged ones'}"


def comments(path: Path) -> tuple[str, str]:
    """What the comment at the head of a configuration file says: a description, and an accuracy.

    The description ends at the first colon or full stop. Behind "Measured:", on a line of its own,
    stands the test accuracy with these options, and which others were set. Each may be empty.
    """
    description, accuracy = [], ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        text = line.removeprefix("#").strip()
        if text.startswith("Measured:"):
            accuracy = text.removeprefix("Measured:").strip()
        else:
            description.append(text)
    return re.split(r"[.:](?=\s|$)", " ".join(description))[0], accuracy


def read_file(path: Path) -> dict[str, Any]:
    """The checked options of one YAML file, including those of its base.

    The key `base` names another file, relative to this one; the values of this file override it.

    Raises:
        UserError: the file cannot be read or is not a mapping; an option is unknown, or its value
            is invalid; the bases form a circle.
    """
    return _read_file(path, ())


def _read_file(path: Path, derived: tuple[Path, ...]) -> dict[str, Any]:
    """See `read_file`; `derived`: resolved paths of the files that have this one as a base."""
    raw = _plain_yaml(path)
    base = raw.pop("base", None)
    values = {} if base is None else _read_base(path, str(base), derived)
    for raw_key, value in raw.items():
        key = ALIASES.get(str(raw_key), str(raw_key))
        if key != raw_key and key in raw:
            raise UserError(f"{path}: {raw_key} and {key} are one option: give one of them")
        reject_unknown(key, value, str(path))
        conv_type = raw.get("conv_type", values.get("conv_type"))
        if key == "prune_rate" and value == 0 and conv_type == "DenseConv":
            value = None  # a published baseline writes 0 for "nothing is pruned"
        values[key] = coerce(key, value, str(path))
    return values


def _read_base(path: Path, base: str, derived: tuple[Path, ...]) -> dict[str, Any]:
    """The options of the file `base`, named by the file `path`."""
    base_path = path.parent / base
    derived = (*derived, path.resolve())
    if not is_file(base_path):
        raise UserError(f"{path}: base = {abbreviated(repr(base))}: no such file")
    if base_path.resolve() in derived:
        raise UserError(
            f"{path}: base = {abbreviated(repr(base))}: a circle: that file is based on this one"
        )
    return _read_file(base_path, derived)


def _plain_yaml(path: Path) -> dict[Any, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Raises:
        UserError: see `read_file`.
    """
    import yaml

    from .yaml_loader import PlainLoader

    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UserError(f"{path}: {size:,} bytes: a configuration has at most {MAX_BYTES:,}")
        raw = yaml.load(path.read_text(encoding="utf-8"), PlainLoader)
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: cannot be read: {one_line(e)}") from None
    except UserError:
        raise
    except (yaml.YAMLError, ValueError) as e:
        # ValueError: a date that does not exist, or an integer with too many digits.
        raise UserError(f"{path}: not valid YAML: {one_line(e)}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise UserError(f"{path}: must contain one 'key: value' per line")
    return raw
