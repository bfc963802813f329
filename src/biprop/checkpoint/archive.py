"""The file that checkpoints are in: a zip archive of torch.save, with a checksum; read without
running anything in it.

The checksum is the archive's comment, at its very end: torch.load, in every mode, and tools for zip
files read on as ever. It is BLAKE2b of all bytes before it. Against damage any good hash would do;
BLAKE2b is in the standard library and fast on every processor, where SHA-256 needs special
instructions to be; a CRC-32 of the whole would be weaker, and the ones that torch.save leaves per
record do not notice a record that is missing or in another one's place.
"""

from __future__ import annotations

import errno
import hashlib
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ..errors import UserError, one_line, shown
from .foreign import STAND_INS

_MARK = b"biprop blake2b "
_DIGITS = 64
_COMMENT = len(_MARK) + _DIGITS
_ZIP, _BEFORE_ZIP = b"PK\3\4", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of files that torch.save writes, and wrote before its version 1.6."""
_LONGEST_END = 1 << 16
"""Bytes at the end of a file in which readers of zip archives look for the directory's end and the
comment behind it.
"""
_CHUNK = 1 << 20
_LOCAL_HEADER = 30
"""Bytes before a record of a zip archive, at least."""


class _Digest:
    """Takes what torch.save writes, passes it on, and keeps its hash.

    The last two bytes of an archive are the length of its comment: they are held back, until there
    is one.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash, self._last = file, hashlib.blake2b(digest_size=_DIGITS // 2), b""

    def write(self, data: bytes) -> int:
        count = len(data)
        if count < 2:
            data = self._last + bytes(data)
        else:
            self._pass_on(self._last)
        rest = memoryview(data)
        self._pass_on(rest[:-2])
        self._last = bytes(rest[-2:])
        return count

    def flush(self) -> None:
        self._file.flush()

    def finish(self) -> None:
        """Write the comment."""
        self._pass_on(struct.pack("<H", _COMMENT) + _MARK)
        self._file.write(self._hash.hexdigest().encode())

    def _pass_on(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        self._file.write(data)


def write(file: IO[bytes], content: dict[str, Any]) -> None:
    """Write a checkpoint: plain containers, numbers, texts and tensors.

    Raises:
        OSError: it cannot be written.
    """
    digest = _Digest(file)
    try:
        torch.save(content, digest)  # type: ignore[arg-type]  # it needs no more than write and flush
    except RuntimeError as e:  # what PyTorch's writer makes of a full disk
        cause = e.__context__
        raise (cause if isinstance(cause, OSError) else OSError(errno.EIO, one_line(e))) from None
    digest.finish()


def read(path: Path) -> tuple[Any, list[str]]:
    """What a file of torch.save holds, on the CPU, and what the user should know of it, one line
    each.

    Args:
        path: of an archive with or without checksum, or of a file that an older PyTorch wrote.

    Raises:
        UserError: it is no such file, damaged, larger in memory than on the disk, or holds more
            than plain values and tensors.
    """
    try:
        with path.open("rb") as file:
            notes = list(_check(file, path))
            content = _load(file, path)
            _check_tensors(content, path.stat().st_size, path)
            return content, notes
    except OSError as e:
        raise UserError(f"{path}: cannot be read: {e.strerror or one_line(e)}") from None


def _check(file: IO[bytes], path: Path) -> Iterator[str]:
    """Look at the file's bytes before PyTorch does; yields what the user should know."""
    start = file.read(len(_BEFORE_ZIP))
    if start == _BEFORE_ZIP:
        yield (
            f"{path}: written by a PyTorch before 1.6, without a checksum: damage to its numbers is"
            " not noticed"
        )
    elif start[8:9] == b"{":
        raise UserError(
            f"{path}: a ticket or a deck, not a checkpoint: pass the run folder, or a file of its"
            " checkpoints/"
        )
    elif not start.startswith(_ZIP):
        raise UserError(
            f"{path}: refused: not a plain checkpoint: it does not begin like a file of torch.save"
        )
    else:
        is_sealed = _has_right_digest(file, path)
        records = _records(file, path)
        if not is_sealed:
            yield from _check_sums(records, path)
    file.seek(0)


def _has_right_digest(file: IO[bytes], path: Path) -> bool:
    """Whether the archive ends with its checksum; False where there is none.

    Raises:
        UserError: the checksum is another file's.
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - _LONGEST_END))
    end = file.read()
    at = end.rfind(_MARK)
    if at < 0:
        return False
    comment = end[at:]
    file.seek(0)
    digest, left = hashlib.blake2b(digest_size=_DIGITS // 2), size - _DIGITS
    while left > 0 and (chunk := file.read(min(_CHUNK, left))):
        digest.update(chunk)
        left -= len(chunk)
    if comment != _MARK + digest.hexdigest().encode():
        raise UserError(
            f"{path}: damaged: the checksum does not fit the content; take another checkpoint, or"
            " copy it again"
        )
    return True


def _records(file: IO[bytes], path: Path) -> zipfile.ZipFile:
    """The archive, whose records are as torch.save writes them: stored one after the other, none
    compressed or within another.

    A deflated record of a few bytes can be gigabytes in memory.
    """
    try:
        archive = zipfile.ZipFile(file)
    except Exception as e:  # whatever a damaged directory makes the reader raise
        raise UserError(
            f"{path}: cannot be read as a checkpoint; damaged or truncated? {one_line(e)}"
        ) from None
    at, names = 0, set()
    for entry in sorted(archive.infolist(), key=lambda entry: entry.header_offset):
        is_stored = (
            entry.compress_type == zipfile.ZIP_STORED and entry.compress_size == entry.file_size
        )
        if not is_stored or entry.header_offset < at or entry.filename in names:
            raise UserError(
                f"{path}: refused: record {shown(repr(entry.filename))} is compressed or overlaps"
                " another one"
            )
        at = entry.header_offset + _LOCAL_HEADER + entry.file_size
        names.add(entry.filename)
    return archive


def _check_sums(archive: zipfile.ZipFile, path: Path) -> Iterator[str]:
    """Verify the CRC-32 that torch.save leaves of every record, and that torch.load does not look
    at.
    """
    entries = archive.infolist()
    if not any(
        entry.CRC for entry in entries if entry.file_size
    ):  # torch.serialization.set_crc32_options(False)
        yield f"{path}: has no checksum: damage to its numbers is not noticed"
        return
    try:
        damaged = archive.testzip()
    except Exception as e:
        raise UserError(
            f"{path}: cannot be read as a checkpoint; damaged or truncated? {one_line(e)}"
        ) from None
    if damaged is not None:
        raise UserError(
            f"{path}: damaged: the checksum of its record {shown(repr(damaged))} does not fit the"
            " content"
        )
    yield (
        f"{path}: has no checksum of the whole, as old and foreign files; those of its records fit"
    )


def _load(file: IO[bytes], path: Path) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(STAND_INS)):
            warnings.simplefilter(
                "ignore"
            )  # a file that torch did not write is refused below, in one line
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise UserError(f"{path}: refused: not a plain checkpoint: {_why(e)}") from None
    except Exception as e:  # whatever a damaged or hostile file makes PyTorch's reader raise
        reason = one_line(e).split(". ")[0]
        raise UserError(
            f"{path}: cannot be read as a checkpoint; damaged or truncated? {reason}"
        ) from None


def _why(error: pickle.UnpicklingError) -> str:
    """What the file asked for, and what to do; PyTorch's own message is a page long, and for
    programmers.
    """
    name = re.search(r"GLOBAL (\S+)", str(error))
    if not name:
        return "it holds more than plain values and tensors, and may carry code"
    return (
        f"it holds an object of {shown(name[1])}, and may carry code. If you trust it, save it anew"
        " without that: c = torch.load(FILE, weights_only=False); torch.save({k: c[k] for k in"
        " ('arch', 'state_dict', 'epoch', 'conv_type', 'prune_rate') if k in c}, NEW)"
    )


def _check_tensors(content: Any, size: int, path: Path) -> None:
    """Raise UserError where a tensor is no array of numbers, or larger than what the file has for
    it.

    A tensor of stride 0 repeats a number as often as it likes: nothing is wrong until it is copied.
    """
    total = 0
    for tensor in _tensors(content):
        is_own = type(tensor) in (Tensor, torch.nn.Parameter)
        if not (
            is_own
            and tensor.layout == torch.strided
            and tensor.device.type == "cpu"
            and not tensor.is_quantized
        ):
            raise UserError(
                f"{path}: refused: a tensor that is sparse, quantised, without numbers or of a type"
                " of its own"
            )
        in_file = tensor.untyped_storage().nbytes()
        total += tensor.numel() * tensor.element_size()
        if tensor.numel() * tensor.element_size() > in_file or total > size:
            raise UserError(
                f"{path}: refused: a tensor of {tuple(tensor.shape)}, larger than what the file has"
                " for it"
            )


def _tensors(content: Any) -> Iterator[Tensor]:
    """All tensors in nested containers, each once."""
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
