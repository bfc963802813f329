"""A function or class of the user's own, from a file or a package that the user names.

Importing executes the file. It is therefore done only for what the user typed, never for a name
that a ticket or a checkpoint contains.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import UserError, did_you_mean, one_line
from ..files import is_file

_FORMS = "must be FILE.py:NAME or PACKAGE.MODULE:NAME"


def is_callable_name(text: str) -> bool:
    """Whether a text has the form that `load_callable` takes; names of networks have no colon."""
    return ":" in text


def load_callable(spec: str, where: str = "--arch") -> Callable[..., Any]:
    """Import a class or a function: "file.py:Name", or "package.module:name".

    A file is executed once a process: loading it again gives the same objects. Its folder is on the
    path while it is executed, so that it can import its neighbours.

    Args:
        spec: the file or the module, a colon, and the name in it; `Outer.inner` is possible.
        where: the flag or argument that `spec` comes from, for messages.

    Raises:
        UserError: no such file, module or name; the import fails, with the error of the user's
            code; or the name is nothing that can be called.
    """
    source, separator, name = spec.rpartition(":")
    if not separator or not source or not all(map(str.isidentifier, name.split("."))):
        raise UserError(f"{where} {spec}: {_FORMS}")
    module = _from_file(source, where) if source.endswith(".py") else _from_path(source, where)
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            hint = did_you_mean(part, _public_names(value))
            raise UserError(f"{where} {spec}: {source} has no {part}{hint}")
        value = getattr(value, part)
    if not callable(value):
        kind = type(value).__name__
        raise UserError(f"{where} {spec}: is a value of type {kind}: must be a class or a function")
    return value  # type: ignore[no-any-return]


def _public_names(value: Any) -> list[str]:
    return [name for name in vars(value) if not name.startswith("_")]


def _from_file(source: str, where: str) -> ModuleType:
    """The module of a Python file.

    It is registered under a name of its own: pickle, dataclasses and type hints look modules up.
    """
    path = Path(source).resolve()
    if not is_file(path):
        raise UserError(f"{where} {source}: no such file; {_FORMS}")
    name = f"biprop_user_module.{path}"
    if name in sys.modules:
        return sys.modules[name]
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        specification.loader.exec_module(module)
    except Exception as e:
        del sys.modules[name]
        raise _import_error(source, where, e) from e
    finally:
        sys.path.remove(str(path.parent))
    return module


def _from_path(source: str, where: str) -> ModuleType:
    """A module that Python finds, also in the current folder."""
    if not all(map(str.isidentifier, source.split("."))):
        raise UserError(f"{where} {source}: {_FORMS}")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(source)
    except Exception as e:
        raise _import_error(source, where, e) from e
    finally:
        if here in sys.path:
            sys.path.remove(here)


def _import_error(source: str, where: str, error: Exception) -> UserError:
    return UserError(
        f"{where} {source}: cannot be imported: {type(error).__name__}: {one_line(error)}"
    )
