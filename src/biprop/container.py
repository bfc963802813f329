"""The container of tickets and decks: a safetensors file whose header holds a description and a checksum. numpy only.

Written here and not by the safetensors library, because that gives metadata in random order; a damaged or hostile file is a
`TicketError`, before anything of its size is allocated. docs/ticket-format.md is the specification.
"""

from __future__ import annotations

import hashlib
import json
import operator
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .errors import UserError
from .files import replacing

T = TypeVar("T")
MOST_HEADER = 1 << 24
_NO_SUM = "0" * 64
_KINDS = {"F32": 4, "BF16": 2, "U8": 1}


class TicketError(UserError):
    """The file is no ticket or deck that this program can read: damaged, truncated, hostile, or of a newer version."""


def load(path: str | Path, parse: Callable[[bytes], T]) -> T:
    """What `parse` makes of a file's content.

    Raises:
        TicketError: the file cannot be read, or what `parse` raises, with the file's name.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as e:
        raise TicketError(f"{path}: cannot be read: {e.strerror}") from None
    try:
        return parse(content)
    except TicketError as e:
        raise TicketError(f"{path}: {e}") from None


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
        raise TicketError(f"damaged: {type(e).__name__}: {e}") from None


def pack(what: str, version: int, description: Any, tensors: Mapping[str, tuple[str, NDArray[Any]]]) -> bytes:
    """The content of a file.

    Args:
        what: "ticket" or "deck".
        version: of that format.
        description: plain containers, numbers and texts.
        tensors: name -> (type, array of one dimension); types are F32, BF16 (as uint16) and U8.
    """
    entries, at = {}, 0
    for name, (kind, array) in tensors.items():
        entries[name] = {"dtype": kind, "shape": [array.size], "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    metadata = {"format": f"biprop {what}", "version": str(version), "sha256": _NO_SUM, what: _json(description)}
    header = _json({"__metadata__": metadata, **entries}).encode()
    header += b" " * (-len(header) % 8)
    whole = struct.pack("<Q", len(header)) + header + b"".join(array.tobytes() for _, array in tensors.values())
    return whole.replace(_NO_SUM.encode(), hashlib.sha256(whole).hexdigest().encode(), 1)


def unpack(what: str, version: int, content: bytes) -> tuple[Any, dict[str, NDArray[Any]]]:
    """Description and tensors (as views) of a file's content, its checksum verified; arguments as of `pack`.

    Raises:
        TicketError: it is no such file, damaged, or of a newer version. ValueError or KeyError where the damage is in the detail.
    """
    if len(content) < 10 or content[8:9] != b"{":
        raise TicketError(f"not a {what}: the file does not begin like one")
    (length,) = struct.unpack("<Q", content[:8])
    check(length <= min(MOST_HEADER, len(content) - 8), f"a header of {length} bytes in a file of {len(content)}")
    header = _parse(content[8 : 8 + length])
    metadata = header.pop("__metadata__", None) if isinstance(header, dict) else None
    form = metadata.get("format") if isinstance(metadata, dict) else None
    if form in ("biprop ticket", "biprop deck") and form != f"biprop {what}":
        raise TicketError(f"a {form.removeprefix('biprop ')}, not a {what}")
    if not isinstance(metadata, dict) or form != f"biprop {what}":
        raise TicketError(f"not a {what}: a safetensors file without a {what}'s metadata")
    check(all(isinstance(value, str) for value in metadata.values()), "metadata that is not text")
    given = metadata.get("version", "")
    check(re.fullmatch("[1-9][0-9]{0,8}", given) is not None, f"version {given!r:.40}")
    if int(given) > version:
        raise TicketError(f"version {given} of the {what} format; this biprop reads up to {version}: install a newer one")
    declared = metadata.get("sha256", "").encode()
    check(len(declared) == 64 and content.count(declared, 8, 8 + length) == 1, "the checksum is missing")
    place = content.index(declared, 8)
    digest = hashlib.sha256(content[:place])
    digest.update(_NO_SUM.encode())
    digest.update(memoryview(content)[place + 64 :])
    if digest.hexdigest().encode() != declared:
        raise TicketError("damaged: the checksum does not fit the content; transfer it again")
    return _parse(metadata[what]), dict(_tensors(header, memoryview(content)[8 + length :]))


def check(holds: bool, what: str) -> None:
    """Raise TicketError unless it holds; `what` is damaged."""
    if not holds:
        raise TicketError(f"damaged: {what}")


def whole_numbers(values: Any, limit: int) -> bool:
    """Whether it is a list of whole numbers from 0 to `limit`."""
    return isinstance(values, list) and all(type(v) is int and 0 <= v <= limit for v in values)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False, default=operator.index)  # numpy's integers


def _parse(text: str | bytes) -> Any:
    def refuse(constant: str) -> None:
        raise TicketError(f"damaged: {constant} in the header")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as e:
        if isinstance(e, TicketError):
            raise
        raise TicketError("damaged: the header is not valid JSON") from None


def _tensors(header: Mapping[str, Any], data: memoryview) -> Iterator[tuple[str, NDArray[Any]]]:
    at = 0
    for name, entry in header.items():
        check(isinstance(entry, dict) and set(entry) == {"dtype", "shape", "data_offsets"}, f"the entry of tensor {name!r:.40}")
        kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        check(kind in _KINDS, f"tensor {name!r:.40} of type {kind!r:.40}")
        check(whole_numbers(shape, 1 << 62) and len(shape) == 1 and whole_numbers(offsets, 1 << 62), f"the size of {name!r:.40}")
        size = shape[0] * _KINDS[kind]
        check(offsets == [at, at + size] and at + size <= len(data), f"the place of tensor {name!r:.40}")
        yield name, np.frombuffer(data[at : at + size], dtype={"F32": "<f4", "BF16": "<u2", "U8": "u1"}[kind])
        at += size
    check(at == len(data), f"{len(data) - at} bytes after the last tensor")
