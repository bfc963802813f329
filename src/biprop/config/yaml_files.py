"""Configuration files: those of the package and the user's own, with `base:`."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import UserError, did_you_mean, one_line, shown
from ..files import is_file
from .values import ALIASES, NO_RGCONV, coerce, reject_unknown

DEFAULT_CONFIG = "digits"
MOST_YAML = 1 << 20
"""Bytes of a configuration file."""


LEFT_OUT = (
    "conv4wide_05_baseline",
    "conv4wide_hlrrg_wide",
    "conv4wide_rg_wide",
    "conv6wide_hlrrg_wide",
    "conv6wide_rg_wide",
)
"""Published configurations of a layer type, RGConv, that the original research code does not have
either.
"""


def packaged() -> Any:
    """The folder of configurations inside the package."""
    return resources.files("biprop") / "configs"


def packaged_files() -> list[Path]:
    """The configurations inside the package, sorted; files whose name starts with _ are bases of
    others and no runs.
    """
    return sorted(
        path for path in Path(str(packaged())).rglob("*.y*ml") if not path.name.startswith("_")
    )


def find_file(name: str) -> Path:
    """The configuration file that `name` means: a path, a path below configs/, or a bare name.

    Raises:
        UserError: no such file (the nearest name is offered), or several of that bare name.
    """
    path = Path(name)
    if is_file(path):
        return path
    root = Path(str(packaged()))
    relative = path.relative_to("configs") if path.parts[:1] == ("configs",) else path
    if is_file(root / relative):
        return root / relative
    files = packaged_files()
    same = [p for p in files if p.stem == name]
    if len(same) == 1:
        return same[0]
    if same:
        raise UserError(
            f"--config {name}: several files have that name: "
            + ", ".join(f"configs/{p.relative_to(root)}" for p in same)
        )
    if path.stem in LEFT_OUT:
        raise UserError(f"--config {name}: left out: it asks for RGConv, and {NO_RGCONV}")
    raise UserError(
        f"--config {name}: no such file{did_you_mean(path.stem, [p.stem for p in files])}"
    )


def read_file(path: Path) -> dict[str, Any]:
    """The checked values of one YAML file, on top of those of the file that its key `base` names,
    if any.

    Raises:
        UserError: unreadable, not a mapping, an unknown key or a value that breaks its rule.
    """
    return _read_file(path, ())


def _read_file(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """See `read_file`; `above`: the files whose base this one is, resolved."""
    raw = _plain_yaml(path)
    values: dict[str, Any] = {}
    if (base := raw.pop("base", None)) is not None:
        base_path, own = path.parent / str(base), path.resolve()
        if not is_file(base_path):
            raise UserError(f"{path}: base = {shown(repr(base))}: no such file")
        if base_path.resolve() in (*above, own):
            raise UserError(
                f"{path}: base = {shown(repr(base))}: a circle: that file is built on this one"
            )
        values = _read_file(base_path, (*above, own))
    for given, value in raw.items():
        key = ALIASES.get(str(given), str(given))
        if key != given and key in raw:
            raise UserError(f"{path}: {given} and {key} are one option: give one of them")
        reject_unknown(key, value, str(path))
        if (
            key == "prune_rate"
            and value == 0
            and raw.get("conv_type", values.get("conv_type")) == "DenseConv"
        ):
            value = None  # a published baseline writes 0 for "nothing is pruned"
        values[key] = coerce(key, value, str(path))
    return values


def _plain_yaml(path: Path) -> dict[Any, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: see `read_file`.
    """
    import yaml

    from .yaml_loader import PlainLoader

    try:
        if path.stat().st_size > MOST_YAML:
            raise UserError(
                f"{path}: {path.stat().st_size:,} bytes: no configuration has more than"
                f" {MOST_YAML:,}"
            )
        raw = yaml.load(path.read_text(encoding="utf-8"), PlainLoader)
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: cannot be read: {one_line(e)}") from None
    except UserError:
        raise
    except (
        yaml.YAMLError,
        ValueError,
    ) as e:  # ValueError: a day that no month has, a number of too many digits
        raise UserError(f"{path}: not valid YAML: {one_line(e)}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise UserError(f"{path}: must hold one 'key: value' a line")
    return raw
