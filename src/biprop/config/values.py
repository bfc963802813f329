"""Values of options: conversion to the type of their field, and checks of their rule."""

from __future__ import annotations

import contextlib
import types
import typing
from collections.abc import Mapping
from typing import Any

from ..errors import UserError, abbreviated, did_you_mean
from .schema import FIELDS, TYPES, rule

NO_RGCONV = "the original research code has no layer type RGConv either"
_UNUSED = "the unused layer types and trainers of the original research code are left out"
_PROCESSES = (
    "processes are started by --multigpu, torchrun, srun, jsrun or mpirun, which set the number of"
    " processes and their ranks"
)
UNSUPPORTED_OPTIONS = {
    "random_subnet": "it freezes the initial scores, so that nothing would be searched for",
    "world_size": _PROCESSES,
    "rank": _PROCESSES,
    "first_layer_type": (
        "pass --first-layer-dense for a first layer that is not pruned; otherwise it is like the"
        " other layers"
    ),
    "score_init_constant": (
        "equal scores do not rank the weights; scores are drawn at random, from --seed"
    ),
}
"""Options of the original research code that this program does not have -> reason."""
ALIASES = {
    "learning_rate": "lr",
    "multistep_lr_adjust": "lr_adjust",
    "multistep_lr_gamma": "lr_gamma",
}
"""Names of options in the original research code -> names here. Files and flags take both."""


def coerce(name: str, value: Any, where: str) -> Any:
    """`value`, converted to the type of option `name` and checked against its rule.

    Args:
        name: a field of `Config`.
        value: from YAML, or a text from the command line.
        where: the file or the flag, for the message.

    Raises:
        UserError: one line with place, option, value and rule.
    """
    type_, is_optional = _type_of(name)
    if value is None and is_optional:
        return None
    if not isinstance(value, str | int | float | Mapping | list | None):
        raise UserError(f"{_place(where, name, type(value).__name__)}: must be a plain value")
    if name == "prune_rate" and value in (-1, "-1"):
        return None  # published configurations write -1 for "to be given on the command line"
    if name == "arch_args":
        return _coerce_arguments(name, value, where)
    if typing.get_origin(type_) is dict:
        return _coerce_rates(name, value, where)
    try:
        converted = _convert(type_, value)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{_place(where, name, value)}: must be {_TYPE_NAMES[type_]}") from None
    violation = rule(name).violation(converted)
    if violation:
        raise UserError(f"{_place(where, name, value)}: {violation}{_note(name, converted)}")
    return converted


_TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _type_of(name: str) -> tuple[Any, bool]:
    """The type of option `name` without None, and whether None is a valid value."""
    declared = TYPES[name]
    if not isinstance(declared, types.UnionType):
        return declared, False
    return next(t for t in typing.get_args(declared) if t is not type(None)), True


def _note(name: str, value: Any) -> str:
    """What an error message about option `name` adds to the violated rule."""
    if value == "RGConv":
        return f" ({NO_RGCONV})"
    if name in ("conv_type", "trainer"):
        return f" ({_UNUSED})"
    return " (the fraction of weights KEPT)" if name == "prune_rate" else ""


def _place(where: str, name: str, value: Any) -> str:
    """ "--prune-rate 2" for a flag, "file.yml: prune_rate = 2" for a file."""
    text = abbreviated(value)
    if not where.startswith("--"):
        return f"{where}: {name} = {text}"
    return f"{where}{text}" if where.endswith("=") else f"{where} {text}"


def _convert(type_: type, value: Any) -> Any:
    """`value` as `type_`: bool, int, float or str.

    Raises:
        TypeError, ValueError, OverflowError: it cannot be converted without loss.
    """
    if type_ is bool or isinstance(value, bool):
        if type_ is bool and isinstance(value, bool):
            return value
        raise TypeError
    if type_ is int:
        if isinstance(value, float) and not value.is_integer():
            raise TypeError
        return int(value)
    if type_ is float:
        return float(value)  # YAML 1.1 reads 1e-4 as a text
    if not isinstance(value, str | int | float):
        raise TypeError
    return str(value)


def _coerce_rates(name: str, value: Any, where: str) -> dict[str, float | str]:
    """Layer pattern -> fraction of weights kept, or "dense"."""
    if not isinstance(value, Mapping):
        raise UserError(
            f"{_place(where, name, value)}: must be pairs of layer pattern and prune rate"
        )
    place, end = (f"{where} ", "=") if where.startswith("--") else (f"{where}: {name} of ", "")
    rates = {}
    for pattern, rate in value.items():
        is_dense = rate == "dense"
        rates[str(pattern)] = (
            rate if is_dense else coerce("prune_rate", rate, f"{place}{pattern}{end}")
        )
    return rates


def _coerce_arguments(name: str, value: Any, where: str) -> dict[str, bool | int | float | str]:
    """Keyword -> plain value; texts of the command line are read as YAML reads plain values."""
    are_pairs = isinstance(value, Mapping) and all(
        isinstance(key, str) and key.isidentifier() and isinstance(item, bool | int | float | str)
        for key, item in value.items()
    )
    if not are_pairs:
        raise UserError(
            f"{_place(where, name, value)}: must be pairs of a keyword and a number, a text, true"
            " or false"
        )
    return {key: _plain_value(item) for key, item in value.items()}


def _plain_value(value: Any) -> bool | int | float | str:
    """A number or a boolean where a text is one, else the text."""
    if not isinstance(value, str):
        return value  # type: ignore[no-any-return]
    words = {"true": True, "false": False}
    if value.lower() in words:
        return words[value.lower()]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value)
    return value


def reject_unknown(key: str, value: Any, where: str) -> None:
    """Raise UserError if `key` is no option; `where`: the file or the flag, for the message."""
    if key in UNSUPPORTED_OPTIONS:
        raise UserError(f"{where}: {key} is left out: {UNSUPPORTED_OPTIONS[key]}")
    if key not in FIELDS:
        hint = did_you_mean(key, FIELDS) or "; see biprop find --help"
        raise UserError(
            f"{where}: unknown key {abbreviated(repr(key))} = {abbreviated(value)}{hint}"
        )
