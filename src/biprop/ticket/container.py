"""The container of tickets and decks: a safetensors file whose header holds a description and a
checksum. numpy only.

It is written here and not by the safetensors library, because that writes metadata in random
order. A damaged or hostile file raises `TicketError` before memory of its size is allocated.
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
from ..files import atomic_write

T = TypeVar("T")
MOST_HEADER, MOST_FILE = 1 << 24, 1 << 33
"""Limits in bytes, of the header and of the whole file."""
_START = 10
"""Bytes that show whether a file begins like a ticket or a deck."""
_MADE_BY = {
    "ticket": "biprop pack makes one of a run folder or a checkpoint",
    "deck": "biprop deck build makes one of tickets",
}
_NO_SUM = "0" * 64
_TYPES = {"F32": "<f4", "BF16": "<u2", "U8": "u1"}


def load(path: str | Path, what: str, parse: Callable[[bytes], T]) -> T:
    """Read and parse a file; one of another kind is refused after its first bytes.

    Args:
        path: of the file.
        what: "ticket" or "deck".
        parse: takes the whole content.

    Returns:
        What `parse` returns.

    Raises:
        TicketError: the file cannot be read, or what `parse` raises, with the file's name.
    """
    try:
        with Path(path).open("rb") as file:
            return parse(_content(file, what))
    except IsADirectoryError:
        raise TicketError(f"{path}: a folder, not a {what}; {_MADE_BY[what]}") from None
    except OSError as e:
        raise TicketError(f"{path}: cannot be read: {e.strerror}") from None
    except MemoryError:
        raise TicketError(f"{path}: does not fit into memory") from None
    except TicketError as e:
        raise TicketError(f"{path}: {e}") from None


def _content(file: IO[bytes], what: str) -> bytes:
    """All bytes of a file that begins like a ticket or a deck.

    Of a file that does not, only the header is read.
    """
    start = file.read(_START)
    header = file.read(max(0, _header_length(what, start) + 8 - len(start)))
    _metadata(what, (start + header)[8:])
    size = os.fstat(file.fileno()).st_size  # of a pipe: 0
    check(size <= MOST_FILE, f"{size} bytes: no {what} has more than {MOST_FILE}")
    return start + header + file.read()


def save(path: str | Path, content: bytes) -> int:
    """Write a file, by an atomic write.

    Returns:
        Its size in bytes.

    Raises:
        UserError: it cannot be written.
    """
    try:
        with atomic_write(Path(path)) as file:
            file.write(content)
    except OSError as e:
        raise UserError(f"{path}: cannot be written: {e.strerror}") from None
    return len(content)


@contextmanager
def errors_as_damage() -> Iterator[None]:
    """Raise TicketError for whatever fails in the block because of a file's content."""
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
    metadata = {
        "format": f"biprop {what}",
        "version": str(version),
        "sha256": _NO_SUM,
        what: _json(description),
    }
    header = _json({"__metadata__": metadata, **_entries(tensors)}).encode()
    header += b" " * (-len(header) % 8)
    data = b"".join(array.tobytes() for _, array in tensors.values())
    whole = struct.pack("<Q", len(header)) + header + data
    digest = hashlib.sha256(whole).hexdigest()
    return whole.replace(_NO_SUM.encode(), digest.encode(), 1)


def _entries(tensors: Mapping[str, tuple[str, NDArray[Any]]]) -> dict[str, dict[str, Any]]:
    """The tensors' entries in the header, in the order of their data."""
    entries, at = {}, 0
    for name, (kind, array) in tensors.items():
        offsets = [at, at + array.nbytes]
        entries[name] = {"dtype": kind, "shape": [array.size], "data_offsets": offsets}
        at += array.nbytes
    return entries


def unpack(what: str, version: int, content: bytes) -> tuple[Any, dict[str, NDArray[Any]]]:
    """Description and tensors of a file; see `unpack_versioned`."""
    _, description, tensors = unpack_versioned(what, version, content)
    return description, tensors


def unpack_versioned(
    what: str, version: int, content: bytes
) -> tuple[int, Any, dict[str, NDArray[Any]]]:
    """The inverse of `pack`; the checksum is verified.

    Args:
        what: "ticket" or "deck".
        version: the newest that the caller reads.
        content: of a file.

    Returns:
        The version, the description, and the tensors by name as views of `content`.

    Raises:
        TicketError: it is no such file, damaged, or of a newer version. ValueError or KeyError
            where the damage is in the detail.
    """
    length = _header_length(what, content[:_START])
    check(length <= len(content) - 8, f"a header of {length} bytes in a file of {len(content)}")
    header, metadata = _metadata(what, content[8 : 8 + length])
    declared = _declared_version(what, metadata.get("version", ""), version)
    _check_sum(content, length, metadata.get("sha256", "").encode())
    tensors = dict(_tensors(header, memoryview(content)[8 + length :]))
    return declared, _parse(metadata[what]), tensors


def _declared_version(what: str, given: str, newest: int) -> int:
    check(re.fullmatch("[1-9][0-9]{0,8}", given) is not None, f"version {given!r:.40}")
    if int(given) > newest:
        raise TicketError(
            f"version {given} of the {what} format; this biprop reads up to {newest}: install a"
            " newer one"
        )
    return int(given)


def _check_sum(content: bytes, header_length: int, declared: bytes) -> None:
    """Compare the checksum with that of the content, in which zeros take the checksum's place."""
    is_there = len(declared) == 64 and content.count(declared, 8, 8 + header_length) == 1
    check(is_there, "the checksum is missing")
    place = content.index(declared, 8)
    digest = hashlib.sha256(content[:place])
    digest.update(_NO_SUM.encode())
    digest.update(memoryview(content)[place + 64 :])
    if digest.hexdigest().encode() != declared:
        raise TicketError("damaged: the checksum does not fit the content; transfer it again")


def _header_length(what: str, start: bytes) -> int:
    """The length of the header in bytes, from the first bytes of a file.

    Raises:
        TicketError: no file of this kind begins like that.
    """
    if len(start) < _START or start[8:9] != b"{":
        raise TicketError(f"not a {what}: the file does not begin like one; {_MADE_BY[what]}")
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
    kind = metadata.get("format") if isinstance(metadata, dict) else None
    if kind in ("biprop ticket", "biprop deck") and kind != f"biprop {what}":
        raise TicketError(f"a {kind.removeprefix('biprop ')}, not a {what}")
    if not isinstance(metadata, dict) or kind != f"biprop {what}":
        raise TicketError(f"not a {what}: a safetensors file without a {what}'s metadata")
    are_texts = all(isinstance(value, str) for value in metadata.values())
    check(are_texts, "metadata that is not text")
    return header, metadata


def check(condition: bool, what: str) -> None:
    """Raise TicketError, saying that `what` is damaged, unless the condition is met."""
    if not condition:
        raise TicketError(f"damaged: {what}")


def whole_numbers(values: Any, limit: int) -> bool:
    """Whether a value is a list of whole numbers from 0 to `limit`."""
    return isinstance(values, list) and all(type(v) is int and 0 <= v <= limit for v in values)


def _json(value: Any) -> str:
    """Compact JSON; `operator.index` takes numpy's integers."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False, default=operator.index)


def _parse(text: str | bytes) -> Any:
    """The value of JSON as the specification has it: UTF-8, finite numbers, no key twice.

    Python's own reader also takes UTF-16, NaN and 1e999, and the last of two equal keys: other
    readers would see another file.
    """
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8")
        return json.loads(
            decoded,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_with_unique_keys,
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


def _with_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    check(len(entries) == len(pairs), "a key that comes twice in the header")
    return entries


def _tensors(header: Mapping[str, Any], data: memoryview) -> Iterator[tuple[str, NDArray[Any]]]:
    """(name, view of its data) of each tensor, in the order of the data, which has no gaps."""
    at = 0
    for name, entry in header.items():
        kind, size = _parse_entry(name, entry)
        end = at + size
        is_next = entry["data_offsets"] == [at, end] and end <= len(data)
        check(is_next, f"the place of tensor {name!r:.40}")
        yield name, np.frombuffer(data[at:end], dtype=_TYPES[kind])
        at = end
    check(at == len(data), f"{len(data) - at} bytes after the last tensor")


def _parse_entry(name: str, entry: Any) -> tuple[str, int]:
    """The type of a tensor, and its size in bytes."""
    keys = {"dtype", "shape", "data_offsets"}
    check(isinstance(entry, dict) and set(entry) == keys, f"the entry of tensor {name!r:.40}")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    check(kind in _TYPES, f"tensor {name!r:.40} of type {kind!r:.40}")
    are_numbers = whole_numbers(shape, 1 << 62) and whole_numbers(offsets, 1 << 62)
    check(are_numbers and len(shape) == 1, f"the size of {name!r:.40}")
    return kind, shape[0] * np.dtype(_TYPES[kind]).itemsize
