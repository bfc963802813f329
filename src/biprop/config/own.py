"""Names of networks in the user's own code, and the rule that no file chooses which code runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from ..errors import UserError, abbreviated

TIMM = "timm"
"""The part before the colon that names the library timm."""
DEFAULT_NETWORKS = {
    "MLP": "multilayer perceptron, for tables",
    "SeriesCNN": "convolutional network, for series",
    "ViT": "small vision transformer, for images",
}
"""Networks of `models.defaults`, whose operations tickets hold: name -> description."""


class OwnNetwork(str):
    """The name of a network in the user's own code, given by the command line or by Python.

    FILE.py:NAME, MODULE:NAME or timm:NAME. Files (configurations, settings, checkpoints, tickets)
    give plain strings, and a plain string never makes any code run: `models.own` imports names of
    this type only.
    """

    __slots__ = ()


def is_own(arch: str) -> bool:
    """Whether a value of the option `arch` names a network outside this package."""
    return ":" in arch


def has_graph(arch: str) -> bool:
    """Whether a ticket holds the operations of this network, instead of a name of the registry."""
    return is_own(arch) or arch in DEFAULT_NETWORKS


def label(arch: str) -> str:
    """A network's name, for folders and tables: "MyNet" for networks/my.py:MyNet."""
    name = arch.rpartition(":")[2]
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name).strip(".") or "network"


def without_folder(arch: str) -> str:
    """The name as files that are passed on record it: "my.py:MyNet" for networks/my.py:MyNet."""
    source, colon, name = arch.rpartition(":")
    return f"{PurePath(source).name if colon else ''}{colon}{name}"


def is_same(arch: str, other: str) -> bool:
    """Whether two values of `arch` name one network, wherever its file lies."""
    return without_folder(arch) == without_folder(other)


def as_given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the command line, or of a Python caller: the network that they name may be run."""
    arch = values.get("arch")
    is_code = isinstance(arch, str) and is_own(arch)
    return {**values, "arch": OwnNetwork(arch)} if is_code else dict(values)


def check_given(recorded: Mapping[str, Any], given: Mapping[str, Any], where: object) -> None:
    """Check that the command line names the code that a file asks for.

    Args:
        recorded: options of a file.
        given: options of the command line.
        where: the file, for the message.

    Raises:
        UserError: the network is code that only the file names, or the file has arguments for it
            that the command line does not repeat.
    """
    arch = given.get("arch") or recorded.get("arch") or ""
    if not is_own(arch):
        return
    arguments = in_words(recorded.get("arch_args") or {})
    if not given.get("arch"):
        again = f"--arch {abbreviated(arch)}" + (f" --arch-args {arguments}" if arguments else "")
        raise UserError(
            f"{where}: its network is code, and files never choose which code runs: pass {again}"
        )
    if arguments and "arch_args" not in given:
        raise UserError(
            f"{where}: says arch_args = {arguments}, and files give no arguments to your code: pass"
            f" --arch-args {arguments}"
        )


def in_words(arguments: Mapping[str, Any]) -> str:
    """Arguments of a network as --arch-args takes them: "depth=3 width=64"."""
    return abbreviated(" ".join(f"{name}={value}" for name, value in arguments.items()), 200)
