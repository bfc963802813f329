"""The container of tickets and decks: a safetensors file whose header holds a description and a
checksum. numpy only.

Written here and not by the safetensors library, because that gives metadata in random order; a
damaged or hostile file is a `TicketError`, before anything of its size is allocated.
docs/ticket-format.md is the specification.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import TicketError, UserError, one_line
from ..files import replacing

T = TypeVar("T")
MOST_HEADER, MOST_FILE = 1 << 24, 1 << 33
"""Bytes of the header, and of the whole file."""
_START = 10
"""Bytes that tell whether a file begins like one of these."""
_NO_SUM = "0" * 64
_KINDS = {"F32": 4, "BF16": 2, "U8": 1}


def load(path: str | Path, what: str, parse: Callable[[bytes], T]) -> T:
    """What `parse` makes of a file's content.

    A file of another kind is refused after its first bytes, whatever its size.

    Args:
        path: of the file.
        what: "ticket" or "deck".
        parse: takes the whole content.

    Raises:
        TicketError: the file cannot be read, or what `parse` raises, with the file's name.
    """
    try:
        with Path(path).open("rb") as file:
            return parse(_content(file, what))
    except OSError as e:
        raise TicketError(f"{path}: cannot be read: {e.strerror}") from None
    except MemoryError:
        raise TicketError(f"{path}: does not fit into memory") from None
    except TicketError as e:
        raise TicketError(f"{path}: {e}") from None


def _content(file: IO[bytes], what: str) -> bytes:
    """All bytes of a file that begins like a ticket or a deck; of another one only the header is
    read.
    """
    start = file.read(_START)
    header = file.read(max(0, _header_length(what, start) + 8 - len(start)))
    _metadata(what, (start + header)[8:])
    size = os.fstat(file.fileno()).st_size  # of a pipe: 0
    check(size <= MOST_FILE, f"{size} bytes: no {what} has more than {MOST_FILE}")
    return start + header + file.read()


def save(path: str | Path, content: bytes) -> int:
    """Write a file, replacing it in one step; returns its bytes.

    Raises:
        UserError: it cannot be written.
    """
    try:
        with replacing(Path(path)) as file:
            file.write(content)
    except OSError as e:
        raise UserError(f"{path}: cannot be written: {e.strerror}") from None
    return len(content)


@contextmanager
def damage_told() -> Iterator[None]:
    """Whatever a file's content makes fail in the block is a TicketError."""
    try:
        yield
    except TicketError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, MemoryError) as e:
        raise TicketError(f"damaged: {type(e).__name__}: {one_line(e)}") from None


def pack(
    what: str, version: int, description: Any, tensors: Mapping[str, tuple[str, NDArray[Any]]]
) -> bytes:
    """The content of a file.

    Args:
        what: "ticket" or "deck".
        version: of that format.
        description: plain containers, numbers and texts.
        tensors: name -> (type, array of one dimension); types are F32, BF16 (as uint16) and U8.
    """
    entries, at = {}, 0
    for name, (kind, array) in tensors.items():
        entries[name] = {
            "dtype": kind,
            "shape": [array.size],
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    metadata = {
        "format": f"biprop {what}",
        "version": str(version),
        "sha256": _NO_SUM,
        what: _json(description),
    }
    header = _json({"__metadata__": metadata, **entries}).encode()
    header += b" " * (-len(header) % 8)
    whole = (
        struct.pack("<Q", len(header))
        + header
        + b"".join(array.tobytes() for _, array in tensors.values())
    )
    return whole.replace(_NO_SUM.encode(), hashlib.sha256(whole).hexdigest().encode(), 1)


def unpack(what: str, version: int, content: bytes) -> tuple[Any, dict[str, NDArray[Any]]]:
    """Description and tensors (as views) of a file's content, its checksum verified; arguments as
    of `pack`.

    Raises:
        TicketError: it is no such file, damaged, or of a newer version. ValueError or KeyError
            where the damage is in the detail.
    """
    length = _header_length(what, content[:_START])
    check(length <= len(content) - 8, f"a header of {length} bytes in a file of {len(content)}")
    header, metadata = _metadata(what, content[8 : 8 + length])
    given = metadata.get("version", "")
    check(re.fullmatch("[1-9][0-9]{0,8}", given) is not None, f"version {given!r:.40}")
    if int(given) > version:
        raise TicketError(
            f"version {given} of the {what} format; this biprop reads up to {version}: install a"
            " newer one"
        )
    declared = metadata.get("sha256", "").encode()
    check(
        len(declared) == 64 and content.count(declared, 8, 8 + length) == 1,
        "the checksum is missing",
    )
    place = content.index(declared, 8)
    digest = hashlib.sha256(content[:place])
    digest.update(_NO_SUM.encode())
    digest.update(memoryview(content)[place + 64 :])
    if digest.hexdigest().encode() != declared:
        raise TicketError("damaged: the checksum does not fit the content; transfer it again")
    return _parse(metadata[what]), dict(_tensors(header, memoryview(content)[8 + length :]))


def _header_length(what: str, start: bytes) -> int:
    """Of the header in bytes, from the first bytes of a file.

    Raises:
        TicketError: no file of this kind begins like that.
    """
    if len(start) < _START or start[8:9] != b"{":
        raise TicketError(f"not a {what}: the file does not begin like one")
    (length,) = struct.unpack("<Q", start[:8])
    check(length <= MOST_HEADER, f"a header of {length} bytes")
    return int(length)


def _metadata(what: str, text: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    """The entries of the tensors and the metadata, of a header's text.

    Raises:
        TicketError: the header is not of a file of this kind.
    """
    header = _parse(text)
    metadata = header.pop("__metadata__", None) if isinstance(header, dict) else None
    form = metadata.get("format") if isinstance(metadata, dict) else None
    if form in ("biprop ticket", "biprop deck") and form != f"biprop {what}":
        raise TicketError(f"a {form.removeprefix('biprop ')}, not a {what}")
    if not isinstance(metadata, dict) or form != f"biprop {what}":
        raise TicketError(f"not a {what}: a safetensors file without a {what}'s metadata")
    check(all(isinstance(value, str) for value in metadata.values()), "metadata that is not text")
    return header, metadata


def check(holds: bool, what: str) -> None:
    """Raise TicketError unless it holds; `what` is damaged."""
    if not holds:
        raise TicketError(f"damaged: {what}")


def whole_numbers(values: Any, limit: int) -> bool:
    """Whether it is a list of whole numbers from 0 to `limit`."""
    return isinstance(values, list) and all(type(v) is int and 0 <= v <= limit for v in values)


def _json(value: Any) -> str:
    return json.dumps(
        value, separators=(",", ":"), allow_nan=False, default=operator.index
    )  # numpy's integers


def _parse(text: str | bytes) -> Any:
    """The value of JSON as the specification has it: UTF-8, finite numbers, no key twice.

    Python's own reader takes UTF-16, NaN and 1e999 too, and the last of two equal keys: other
    readers would see another file.
    """
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8")
        return json.loads(
            decoded,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_without_twins,
        )
    except TicketError:
        raise
    except (ValueError, RecursionError):
        raise TicketError("damaged: the header is not valid JSON") from None


def _refuse_constant(constant: str) -> None:
    raise TicketError(f"damaged: {constant} in the header")


def _finite(text: str) -> float:
    number = float(text)
    check(math.isfinite(number), f"the number {text:.40} in the header")
    return number


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    check(len(found) == len(pairs), "a key that comes twice in the header")
    return found


def _tensors(header: Mapping[str, Any], data: memoryview) -> Iterator[tuple[str, NDArray[Any]]]:
    at = 0
    for name, entry in header.items():
        check(
            isinstance(entry, dict) and set(entry) == {"dtype", "shape", "data_offsets"},
            f"the entry of tensor {name!r:.40}",
        )
        kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        check(kind in _KINDS, f"tensor {name!r:.40} of type {kind!r:.40}")
        check(
            whole_numbers(shape, 1 << 62) and len(shape) == 1 and whole_numbers(offsets, 1 << 62),
            f"the size of {name!r:.40}",
        )
        size = shape[0] * _KINDS[kind]
        check(
            offsets == [at, at + size] and at + size <= len(data),
            f"the place of tensor {name!r:.40}",
        )
        yield (
            name,
            np.frombuffer(
                data[at : at + size], dtype={"F32": "<f4", "BF16": "<u2", "U8": "u1"}[kind]
            ),
        )
        at += size
    check(at == len(data), f"{len(data) - at} bytes after the last tensor")
