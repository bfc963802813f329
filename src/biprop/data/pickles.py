"""Unpickling of plain containers and arrays of numbers, without calling anything that the file
names.

The unpickler knows a few names of numpy, and replaces each with a stand-in of this module: numpy's
own functions would follow pointers in a forged file. An array is made here, from its bytes, its
shape and one of a few number types.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError, one_line

_NUMBERS = re.compile(r"(b1|[iu][1248]|f[248])\Z")
_BYTE_ORDERS = ("<", ">", "=", "|")


class _Type:
    """Stands in for `numpy.dtype`: the name of a number type, and a byte order."""

    def __init__(self, name: str, align: object = False, copy: object = False) -> None:
        plain = name.lstrip("<>=|") if isinstance(name, str) else ""
        if not _NUMBERS.match(plain):
            raise pickle.UnpicklingError(
                f"an array of {str(name)[:40]!r}, which is no type of numbers"
            )
        self.name, self.order = plain, name[0] if name[0] in _BYTE_ORDERS else "="

    def __setstate__(self, state: Any) -> None:
        order, structure = state[1], state[2:5]
        if order not in _BYTE_ORDERS or any(part is not None for part in structure):
            raise pickle.UnpicklingError("an array of structures")
        self.order = order

    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.name)


class _Array:
    """Stands in for `numpy.ndarray`; `values` is the array once its state is set."""

    values: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, is_fortran, content = state
        self.values = _array(content, kind, shape, "F" if is_fortran else "C")


def _array(content: Any, kind: Any, shape: Any, order: Any = "C") -> NDArray[Any]:
    """An array of these bytes.

    Args:
        content: the bytes.
        kind: `_Type`.
        shape: of the array.
        order: "C" or "F".

    Raises:
        pickle.UnpicklingError: they do not fit together, or are of other types.
    """
    if isinstance(content, str):  # of Python 2, read as Latin-1
        content = content.encode("latin1")
    is_content = isinstance(content, bytes | bytearray) and isinstance(kind, _Type)
    if not is_content or not _is_shape(shape) or order not in ("C", "F"):
        raise pickle.UnpicklingError("an array that is not made of bytes, a type and a shape")
    dtype = kind.dtype()
    if math.prod(shape) * dtype.itemsize != len(content):
        raise pickle.UnpicklingError(f"an array {list(shape)} of {len(content)} bytes")
    return np.frombuffer(content, dtype).reshape(shape, order=order).copy()


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)


def _reconstruct(kind: object, shape: object, code: object) -> _Array:
    """Stands in for numpy's function of that name: what it returns gets its state next."""
    return _Array()


def _from_buffer(content: Any, kind: Any, shape: Any, order: Any = "C") -> _Array:
    """Stands in for numpy's `_frombuffer`, of pickles of protocol 5."""
    array = _Array()
    array.values = _array(content, kind, shape, order)
    return array


def _scalar(kind: Any, content: Any = b"") -> Any:
    """Stands in for numpy's function of that name: a plain number of Python's."""
    return _array(content, kind, ()).item()


def _encode(text: Any, encoding: Any = "latin1", errors: Any = "strict") -> bytes:
    """Stands in for `_codecs.encode`, by which Python 3 writes bytes in pickles of protocol 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"text in {str(encoding)[:40]!r}")
    return text.encode("latin1")


def _empty() -> bytes:
    """Stands in for `bytes`, with which pickles of protocol 2 and below write no bytes at all."""
    return b""


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _empty,
}
for _core in ("numpy.core", "numpy._core"):
    _KNOWN[_core + ".multiarray", "_reconstruct"] = _reconstruct
    _KNOWN[_core + ".multiarray", "scalar"] = _scalar
    _KNOWN[_core + ".numeric", "_frombuffer"] = _from_buffer


class _Name:
    """What a known name becomes: it can be called, and a pickle that sets its state changes nothing
    of this module.
    """

    __slots__ = ("_stand_in",)

    def __init__(self, stand_in: Callable[..., Any]) -> None:
        self._stand_in = stand_in

    def __call__(self, *arguments: Any) -> Any:
        return self._stand_in(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function")


class _Unpickler(pickle.Unpickler):
    """Builds plain containers and stand-ins, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array")
        return _Name(_KNOWN[module, name])


def load(path: Path) -> dict[str, Any]:
    """The dictionary in a pickle, of plain containers, numbers, strings, bytes and arrays.

    Raises:
        UserError: the file cannot be read, is no pickle of a dictionary, or holds anything else.
    """
    try:
        with path.open("rb") as file:
            content = _Unpickler(file, encoding="latin1").load()
    except Exception as e:  # a damaged pickle may raise anything
        raise UserError(f"{path}: not a readable CIFAR batch: {one_line(e)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a readable CIFAR batch: no dictionary")
    return {
        _text(key): value.values if isinstance(value, _Array) else value
        for key, value in content.items()
    }


def _text(key: Any) -> str:
    """A key; files saved anew by Python 3 may have bytes."""
    return key.decode("latin1") if isinstance(key, bytes) else str(key)
