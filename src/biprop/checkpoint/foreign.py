"""Stand-ins for the foreign objects that checkpoints of other programs hold: none of their code
runs.
"""

from __future__ import annotations

import re
import struct
from typing import Any

# Other programs' checkpoints often hold objects of a few types that are no plain values. These are
# not built: a stand-in takes the content that the file has for them, and can do nothing.


class Foreign:
    """Stands in for an object of another program, whose content is not used."""

    def __new__(cls, *_: Any) -> Foreign:
        """A stand-in, whatever the file passes to the constructor."""
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __repr__(self) -> str:
        return "an object of another program"


class _NumberType(Foreign):
    """Stands in for numpy.dtype.

    Its state in a file, flags included, is not trusted: only the byte order is taken from it.
    """

    def __init__(self, code: Any = None, *_: Any) -> None:
        is_known = isinstance(code, str) and re.fullmatch("b1|[iu][1248]|f[248]", code) is not None
        self.code, self.order = (_CODES[code] if is_known else ""), "<"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] == ">":
            self.order = ">"


_CODES = {
    "b1": "?",
    "f2": "e",
    "f4": "f",
    "f8": "d",
    "i1": "b",
    "i2": "h",
    "i4": "i",
    "i8": "q",
    "u1": "B",
    "u2": "H",
    "u4": "I",
    "u8": "Q",
}
"""numpy's code of a number type -> that of `struct`."""


def _number(kind: Any, data: Any = b"", *_: Any) -> Any:
    """Stands in for numpy's scalars: a plain number of these bytes."""
    if not isinstance(kind, _NumberType) or not kind.code or not isinstance(data, bytes):
        return Foreign()
    return struct.unpack(kind.order + kind.code, data)[0]


def _dictionary(*_: Any) -> dict[Any, Any]:
    """Stands in for collections.defaultdict: an empty one, without a factory."""
    return {}


def _path(*parts: Any) -> str:
    return "/".join(part for part in parts if isinstance(part, str))


STAND_INS: tuple[tuple[Any, str], ...] = (
    *((Foreign, name) for name in ("argparse.Namespace", "types.SimpleNamespace", "numpy.ndarray")),
    (_NumberType, "numpy.dtype"),
    *((_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((Foreign, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    (_dictionary, "collections.defaultdict"),
    *(
        (Foreign, f"builtins.{name}")
        for name in ("bool", "dict", "float", "int", "list", "set", "str", "tuple")
    ),
    *(
        (_path, f"{module}.{kind}{name}")
        for module in ("pathlib", "pathlib._local")
        for kind in ("", "Pure")
        for name in ("Path", "PosixPath", "WindowsPath")
    ),
)
"""What stands in for a name in a file."""
