"""Values of options: converted to the type of their field, and checked against its rule."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any

from ..errors import UserError, did_you_mean, shown
from .schema import FIELDS, TYPES, rule

NO_RGCONV = "the original research code has no layer type RGConv either"
_UNUSED = "the unused layer types and trainers of the original research code are left out"
_PROCESSES = (
    "processes are started by --multigpu, torchrun, srun, jsrun or mpirun, which say that"
    " themselves"
)
LEFT_OUT_KEYS = {
    "random_subnet": "with its first scores frozen, nothing would be searched for",
    "world_size": _PROCESSES,
    "rank": _PROCESSES,
    "first_layer_type": (
        "pass --first-layer-dense for an ordinary first layer; else it is like the others"
    ),
    "score_init_constant": (
        "with equal scores nothing tells weights apart; scores are drawn at random, by --seed"
    ),
}
"""Options of the original research code that are left out, and why."""
ALIASES = {
    "learning_rate": "lr",
    "multistep_lr_adjust": "lr_adjust",
    "multistep_lr_gamma": "lr_gamma",
}
"""Other names of options, on the command line and in files: those of the original research code."""


def coerce(name: str, value: Any, where: str) -> Any:
    """`value`, checked against the type and the rule of option `name`.

    Args:
        name: a field of `Config`.
        value: from YAML, or a string from the command line.
        where: file or flag, for the message.

    Raises:
        UserError: one line with place, key, value and rule.
    """
    wanted = TYPES[name]
    optional = isinstance(wanted, types.UnionType) and type(None) in typing.get_args(wanted)
    if optional:
        wanted = next(t for t in typing.get_args(wanted) if t is not type(None))
    if value is None and optional:
        return None
    if not isinstance(value, str | int | float | Mapping | list | None):
        raise UserError(f"{_place(where, name, type(value).__name__)}: must be a plain value")
    if name == "prune_rate" and value in (-1, "-1"):
        return None  # the published configurations write -1 for "to be given on the command line"
    if typing.get_origin(wanted) is dict:
        return _coerce_rates(name, value, where)
    try:
        converted = _convert(wanted, value)
    except (TypeError, ValueError, OverflowError):
        kind = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[
            wanted
        ]
        raise UserError(f"{_place(where, name, value)}: must be {kind}") from None
    broken = rule(name).violation(converted)
    if broken:
        note = " (the fraction of weights KEPT)" if name == "prune_rate" else ""
        if converted == "RGConv":
            note = f" ({NO_RGCONV})"
        elif name in ("conv_type", "trainer"):
            note = f" ({_UNUSED})"
        raise UserError(f"{_place(where, name, value)}: {broken}{note}")
    return converted


def _place(where: str, name: str, value: Any) -> str:
    """ "--prune-rate 2" for a flag, "file.yml: prune_rate = 2" for a file."""
    return (
        f"{where} {shown(value)}" if where.startswith("--") else f"{where}: {name} = {shown(value)}"
    )


def _convert(wanted: type, value: Any) -> Any:
    if wanted is bool or isinstance(value, bool):
        if wanted is bool and isinstance(value, bool):
            return value
        raise TypeError
    if wanted is int:
        if isinstance(value, float) and not value.is_integer():
            raise TypeError
        return int(value)
    if wanted is float:
        return float(value)  # YAML 1.1 reads 1e-4 as a string
    if not isinstance(value, str | int | float):
        raise TypeError
    return str(value)


def _coerce_rates(name: str, value: Any, where: str) -> dict[str, float | str]:
    if not isinstance(value, Mapping):
        raise UserError(
            f"{_place(where, name, value)}: must be pairs of layer pattern and prune rate"
        )
    return {
        str(pattern): (
            "dense" if rate == "dense" else coerce("prune_rate", rate, f"{where} {pattern}=")
        )
        for pattern, rate in value.items()
    }


def reject_unknown(key: str, value: Any, where: str) -> None:
    if key in LEFT_OUT_KEYS:
        raise UserError(f"{where}: {key} is left out: {LEFT_OUT_KEYS[key]}")
    if key not in FIELDS:
        hint = did_you_mean(key, FIELDS) or "; see biprop find --help"
        raise UserError(f"{where}: unknown key {shown(repr(key))} = {shown(value)}{hint}")
