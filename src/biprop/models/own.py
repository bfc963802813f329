"""Networks of the user's own: a class or function in a Python file or module, and those of timm.

The code runs in this process, as an import does. It runs only if the command line or a Python
caller names it (`config.OwnNetwork`): no file that is loaded can.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from ..config import TIMM, OwnNetwork, own
from ..errors import UserError, did_you_mean, one_line

Shape = tuple[int, ...]

KEYWORDS: dict[str, tuple[str, ...]] = {
    "classes": ("num_classes", "n_classes"),
    "channels": ("in_channels", "in_chans"),
    "features": ("in_features", "n_features"),
    "size": ("image_size", "img_size", "input_size", "seq_len"),
    "shape": ("input_shape",),
}
"""What the data decide -> the names of arguments that take it: the number of classes; the channels
of images or series, or features of a table; the numbers of a sample in all; the side of square
images or the length of series (else the tuple of sides); the whole shape of a sample.
"""


def build(arch: str, arguments: Mapping[str, Any] | None, num_classes: int, shape: Shape) -> Any:
    """A network of the user's own, with the weights that its code gives it.

    Args:
        arch: an `OwnNetwork`: FILE.py:NAME, MODULE:NAME or timm:NAME.
        arguments: keyword arguments that the user gives; they come before those of the data.
        num_classes: of the data.
        shape: of a sample: (channels, height, width) of images, (channels, length) of series,
            (features,) of tables.

    Returns:
        A `torch.nn.Module`.

    Raises:
        UserError: no such file or name, code that raises, arguments that it does not take, or a
            result that is no module; or the name does not come from the command line.
    """
    given = dict(arguments or {})
    if not isinstance(arch, OwnNetwork):
        own.check_given({"arch": arch, "arch_args": given}, {}, "a file")
    facts = of_data(num_classes, shape)
    source, _, name = arch.rpartition(":")
    if source == TIMM:
        return _of_timm(arch, name, given, facts)
    make = _look_up(arch, source, name)
    keywords = _accepted(make, facts) | given
    _check_arguments(arch, make, keywords, given, shape)
    return _module(arch, make, keywords)


def of_data(num_classes: int, shape: Shape) -> dict[str, Any]:
    """The arguments that the data decide, by every name of `KEYWORDS`."""
    sides = shape[1:]
    is_square = len(set(sides)) == 1
    numbers = 1
    for size in shape:
        numbers *= size
    values: dict[str, Any] = {
        "classes": num_classes,
        "channels": shape[0],
        "features": numbers,
        "size": sides[0] if is_square else sides,
        "shape": shape,
    }
    if not sides:
        del values["size"]
    return {name: value for kind, value in values.items() for name in KEYWORDS[kind]}


def _accepted(make: Callable[..., Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the data's arguments that a callable takes by name."""
    return {name: facts[name] for name in _parameters(make) if name in facts}


def _parameters(make: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a callable, by name; none where Python cannot say."""
    try:
        return dict(inspect.signature(make).parameters)
    except (TypeError, ValueError):
        return {}


def _check_arguments(
    arch: str,
    make: Callable[..., Any],
    keywords: dict[str, Any],
    given: Mapping[str, Any],
    shape: Shape,
) -> None:
    """Raise UserError unless the callable can be called with these keywords."""
    parameters = _parameters(make)
    if not parameters:
        return
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    unknown = [name for name in given if name not in parameters]
    if unknown and not takes_any:
        raise UserError(
            f"--arch-args {unknown[0]}: {arch} takes {_listed(parameters)}"
            f"{did_you_mean(unknown[0], parameters)}"
        )
    lacking = [
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name not in keywords
    ]
    impossible = [name for name in lacking if any(name in names for names in KEYWORDS.values())]
    if impossible:
        raise UserError(
            f"--arch {arch}: needs {impossible[0]}, which samples of the shape {list(shape)} do not"
            f" have: pass --arch-args {impossible[0]}=..., or another network"
        )
    if lacking:
        wanted = " ".join(f"{name}=..." for name in lacking)
        raise UserError(
            f"--arch {arch}: needs arguments that the data do not decide: pass --arch-args {wanted}"
        )


def _listed(parameters: Mapping[str, inspect.Parameter]) -> str:
    return ", ".join(parameters) or "no arguments"


def _module(arch: str, make: Callable[..., Any], keywords: Mapping[str, Any]) -> nn.Module:
    """The module that a callable makes.

    Raises:
        UserError: it raises, or makes something else.
    """
    with errors_of(arch, f"({own.in_words(keywords)})"):
        model = make(**keywords)
    if not isinstance(model, nn.Module):
        raise UserError(
            f"--arch {arch}: gives a {type(model).__name__}: must give a torch.nn.Module"
        )
    return model


@contextmanager
def errors_of(arch: str, doing: str) -> Iterator[None]:
    """Turn what the user's code raises in the block into one line.

    Args:
        arch: the network.
        doing: what it does, as a continuation of its name: "(width=8)".
    """
    try:
        yield
    except UserError as e:
        raise UserError(f"--arch {arch}: {e}") from None
    except SyntaxError as e:
        place = f"({Path(e.filename or '').name}, line {e.lineno})"
        raise UserError(f"--arch {arch}{doing} raises SyntaxError: {e.msg} {place}") from None
    except (Exception, SystemExit) as e:  # whatever the user's code raises
        raise UserError(
            f"--arch {arch}{doing} raises {type(e).__name__}: {one_line(e)}{_place(arch, e)}"
        ) from None


def _place(arch: str, error: BaseException) -> str:
    """ " (my.py, line 12)": the last line of the user's file that an error passed through."""
    file = Path(arch.rpartition(":")[0]).name
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).name == file]
    return f" ({file}, line {lines[-1]})" if lines else ""


def _look_up(arch: str, source: str, name: str) -> Callable[..., Any]:
    """The class or function that makes the network.

    Raises:
        UserError: there is none.
    """
    module = _file(arch, Path(source)) if source.endswith(".py") else _named(arch, source)
    names = [key for key, value in vars(module).items() if _is_own_callable(value, module)]
    make = getattr(module, name, None)
    if make is None:
        hint = did_you_mean(name, names) or f"; it has {', '.join(names[:8]) or 'nothing to call'}"
        raise UserError(f"--arch {arch}: {source} has no class or function {name!r}{hint}")
    if not callable(make) or isinstance(make, nn.Module):
        raise UserError(
            f"--arch {arch}: {name} is a {type(make).__name__}: must be a class or a function that"
            " makes the network"
        )
    return make  # type: ignore[no-any-return]


def _is_own_callable(value: Any, module: ModuleType) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module.__name__


def _file(arch: str, path: Path) -> ModuleType:
    """The module of a Python file, which is run at the first call only.

    Raises:
        UserError: no such file, or its code raises.
    """
    if not path.is_file():
        raise UserError(f"--arch {arch}: no such file {path}")
    place = path.resolve()
    name = f"biprop_own_{sha256(str(place).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    specification = importlib.util.spec_from_file_location(name, place)
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses and pickles look their module up
    try:
        with errors_of(arch, f": {path.name}"), _importable(place.parent):
            specification.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _named(arch: str, name: str) -> ModuleType:
    """A module that is installed, or lies in the current folder.

    Raises:
        UserError: there is none, or it raises.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(
            f"--arch {arch}: {name!r} is neither a Python file (FILE.py) nor a module"
            " (PACKAGE.MODULE)"
        )
    with errors_of(arch, f": import {name}"), _importable(Path.cwd()):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as e:
            if e.name and name.startswith(e.name):
                raise UserError(
                    f"no module {e.name}: install it, or pass the file: FILE.py:NAME"
                ) from None
            raise


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """While the block runs, modules in this folder can be imported, after all installed ones."""
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _of_timm(arch: str, name: str, given: Mapping[str, Any], facts: Mapping[str, Any]) -> nn.Module:
    """A network of timm, without trained weights.

    Raises:
        UserError: timm is not installed, or has no such network.
    """
    try:
        timm = importlib.import_module(TIMM)
    except ImportError:
        raise UserError(
            f"--arch {arch}: timm is not installed: pip install timm (it brings torchvision)"
        ) from None
    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models())
        raise UserError(f"--arch {arch}: timm has no such network{hint}")
    size = facts.get("image_size")
    keywords = {
        "pretrained": False,
        "num_classes": facts["num_classes"],
        "in_chans": facts["in_chans"],
        **({"img_size": size} if _takes_size(timm, name) else {}),
        **given,
    }
    return _module(arch, lambda **options: timm.create_model(name, **options), keywords)


def _takes_size(timm: Any, name: str) -> bool:
    """Whether a network of timm is for one size of images, which is an argument of its class."""
    makes = timm.get_pretrained_cfg(name)
    return bool(getattr(makes, "fixed_input_size", False))


def check_logits(arch: str, logits: object, count: int, num_classes: int) -> None:
    """Check what a network gives for a batch.

    Args:
        arch: the network.
        logits: its output.
        count: samples of the batch.
        num_classes: of the data.

    Raises:
        UserError: no tensor of floats [count, num_classes].
    """
    if not isinstance(logits, Tensor):
        many = isinstance(logits, tuple | list)
        what = f"{len(logits)} outputs" if many else f"a {type(logits).__name__}"  # type: ignore[arg-type]
        raise UserError(f"--arch {arch}: gives {what}: must give one tensor, the logits; wrap it")
    if tuple(logits.shape) != (count, num_classes):
        raise UserError(
            f"--arch {arch}: gives a tensor {list(logits.shape)} for {count} samples of"
            f" {num_classes} classes: must be [{count}, {num_classes}]; let it take num_classes, or"
            " pass --arch-args"
        )
    if not logits.is_floating_point():
        raise UserError(f"--arch {arch}: gives {logits.dtype}: must give floats, the logits")
