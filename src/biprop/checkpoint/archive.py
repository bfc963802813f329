"""The container of checkpoints: a zip archive of torch.save, with a checksum; reading it runs no
code of the file.

The checksum is the archive's comment, at its very end, so torch.load, in every mode, and zip tools
read the file as before. It is BLAKE2b of all bytes before it. Against damage any good hash would
do; BLAKE2b is in the standard library and fast on every processor, while SHA-256 needs special
instructions for that; a CRC-32 of the whole would be weaker, and the ones that torch.save writes
for each record do not detect a record that is missing or in the place of another.
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

from ..errors import UserError, abbreviated, one_line
from .foreign import STAND_INS

_MARK = b"biprop blake2b "
_DIGITS = 64
_COMMENT = len(_MARK) + _DIGITS
_ZIP, _BEFORE_ZIP = b"PK\3\4", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of files that torch.save writes, and wrote before PyTorch 1.6."""
_LONGEST_END = 1 << 16
"""Bytes at the end of a file in which readers of zip archives look for the end of the directory and
the comment after it.
"""
_CHUNK = 1 << 20
_LOCAL_HEADER = 30
"""Least number of bytes before a record of a zip archive."""


class _Digest:
    """A file for torch.save that passes on what is written, and hashes it.

    The last two bytes of an archive are the length of its comment: they are held back until there
    is one.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.blake2b(digest_size=_DIGITS // 2)
        self._held_back = b""

    def write(self, data: bytes) -> int:
        count = len(data)
        if count < 2:
            data = self._held_back + bytes(data)
        else:
            self._pass_on(self._held_back)
        view = memoryview(data)
        self._pass_on(view[:-2])
        self._held_back = bytes(view[-2:])
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
    """Write a checkpoint: plain containers, numbers, strings and tensors.

    Raises:
        OSError: it cannot be written.
    """
    digest = _Digest(file)
    try:
        torch.save(content, digest)  # type: ignore[arg-type]  # it only needs write and flush
    except RuntimeError as e:  # PyTorch's writer raises it when the disk is full
        cause = e.__context__
        raise (cause if isinstance(cause, OSError) else OSError(errno.EIO, one_line(e))) from None
    digest.finish()


def read(path: Path) -> tuple[Any, list[str]]:
    """The content of a file of torch.save, on the CPU, and warnings for the user, one line each.

    Args:
        path: of an archive with or without checksum, or of a file that an older PyTorch wrote.

    Raises:
        UserError: it is no such file, damaged, larger in memory than on the disk, or holds more
            than plain values and tensors.
    """
    try:
        with path.open("rb") as file:
            warnings_ = list(_check(file, path))
            content = _load(file, path)
            _check_tensors(content, path.stat().st_size, path)
            return content, warnings_
    except OSError as e:
        raise UserError(f"{path}: cannot be read: {e.strerror or one_line(e)}") from None


def _check(file: IO[bytes], path: Path) -> Iterator[str]:
    """Check the file's bytes before PyTorch reads them; yields warnings for the user."""
    start = file.read(len(_BEFORE_ZIP))
    if start == _BEFORE_ZIP:
        yield (
            f"{path}: written by a PyTorch before 1.6, without a checksum: damage to its numbers is"
            " not noticed"
        )
    elif start[8:9] == b"{":
        raise UserError(
            f"{path}: a ticket or a deck, not a checkpoint: pass the run folder, or a file in its"
            " checkpoints/"
        )
    elif not start.startswith(_ZIP):
        raise UserError(
            f"{path}: refused: not a plain checkpoint: it does not begin like a file of torch.save"
        )
    else:
        yield from _check_archive(file, path)
    file.seek(0)


def _check_archive(file: IO[bytes], path: Path) -> Iterator[str]:
    """Check the checksum and the records of an archive; yields warnings for the user."""
    is_sealed = _has_right_digest(file, path)
    records = _records(file, path)
    if not is_sealed:
        yield from _check_sums(records, path)


def _has_right_digest(file: IO[bytes], path: Path) -> bool:
    """Whether the archive ends with its checksum; False where there is none.

    Raises:
        UserError: the checksum does not fit the content.
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - _LONGEST_END))
    end = file.read()
    start = end.rfind(_MARK)
    if start < 0:
        return False
    comment = end[start:]
    if comment != _MARK + _digest_of(file, size - _DIGITS).encode():
        raise UserError(
            f"{path}: damaged: the checksum does not fit the content; take another checkpoint, or"
            " copy it again"
        )
    return True


def _digest_of(file: IO[bytes], count: int) -> str:
    """The digest of the first `count` bytes of a file, in hexadecimal."""
    file.seek(0)
    digest = hashlib.blake2b(digest_size=_DIGITS // 2)
    while count > 0 and (chunk := file.read(min(_CHUNK, count))):
        digest.update(chunk)
        count -= len(chunk)
    return digest.hexdigest()


def _records(file: IO[bytes], path: Path) -> zipfile.ZipFile:
    """The archive, whose records are as torch.save writes them: stored one after the other, none
    compressed or within another.

    A compressed record of a few bytes can be gigabytes in memory.
    """
    archive = _opened(file, path)
    if any(name.endswith(".npy") for name in archive.namelist()):
        raise UserError(f"{path}: arrays of NumPy (.npz), not a checkpoint")
    end = 0
    names: set[str] = set()
    for entry in sorted(archive.infolist(), key=lambda entry: entry.header_offset):
        is_compressed = (
            entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size
        )
        if is_compressed or entry.header_offset < end or entry.filename in names:
            raise UserError(
                f"{path}: refused: record {abbreviated(repr(entry.filename))} is compressed or"
                " overlaps"
                " another one"
            )
        end = entry.header_offset + _LOCAL_HEADER + entry.file_size
        names.add(entry.filename)
    return archive


def _opened(file: IO[bytes], path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except Exception as e:  # a damaged directory may raise anything
        raise _unreadable(path, one_line(e)) from None


def _unreadable(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: cannot be read as a checkpoint; damaged or truncated? {reason}")


def _check_sums(archive: zipfile.ZipFile, path: Path) -> Iterator[str]:
    """Verify the CRC-32 of each record, which torch.save writes and torch.load does not check;
    yields warnings for the user.
    """
    # All are 0 after torch.serialization.set_crc32_options(False).
    if not any(entry.CRC for entry in archive.infolist() if entry.file_size):
        yield f"{path}: has no checksum: damage to its numbers is not noticed"
        return
    try:
        damaged = archive.testzip()
    except Exception as e:
        raise _unreadable(path, one_line(e)) from None
    if damaged is not None:
        raise UserError(
            f"{path}: damaged: the checksum of its record {abbreviated(repr(damaged))} does not fit"
            " the"
            " content"
        )
    yield (
        f"{path}: has no checksum of the whole, as old and foreign files; those of its records fit"
    )


def _load(file: IO[bytes], path: Path) -> Any:
    """What torch.load reads, without running code of the file."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(STAND_INS)):
            # A file that torch.save did not write is refused below, in one line.
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise UserError(f"{path}: refused: not a plain checkpoint: {_why(e)}") from None
    except Exception as e:  # a damaged or hostile file may make PyTorch's reader raise anything
        raise _unreadable(path, one_line(e).split(". ")[0]) from None


def _why(error: pickle.UnpicklingError) -> str:
    """What the file asked for, and what to do; PyTorch's own message is a page long, and for
    programmers.
    """
    name = re.search(r"GLOBAL (\S+)", str(error))
    if not name:
        return "it holds more than plain values and tensors, and may carry code"
    return (
        f"it holds an object of {abbreviated(name[1])}, and may carry code. If you trust it, save"
        " it anew without that: c = torch.load(FILE, weights_only=False); torch.save({k: c[k]"
        " for k in ('arch', 'state_dict', 'epoch', 'conv_type', 'prune_rate') if k in c}, NEW)"
    )


def _check_tensors(content: Any, size: int, path: Path) -> None:
    """Raise UserError where a tensor is no array of numbers, or larger than its part of the file.

    A tensor of stride 0 repeats a number as often as it likes, which takes memory when it is
    copied.

    Args:
        content: nested containers.
        size: bytes of the file.
        path: of the file, for messages.
    """
    total = 0
    for tensor in _tensors(content):
        if not _is_array(tensor):
            raise UserError(
                f"{path}: refused: a tensor that is sparse, quantised, without numbers or of a type"
                " of its own"
            )
        in_memory = tensor.numel() * tensor.element_size()
        total += in_memory
        if in_memory > tensor.untyped_storage().nbytes() or total > size:
            raise UserError(
                f"{path}: refused: a tensor of {tuple(tensor.shape)}, larger than what the file has"
                " for it"
            )


def _is_array(tensor: Tensor) -> bool:
    """Whether a tensor is a plain array of numbers on the CPU."""
    is_plain = type(tensor) in (Tensor, torch.nn.Parameter) and not tensor.is_quantized
    return is_plain and tensor.layout == torch.strided and tensor.device.type == "cpu"


def _tensors(content: Any) -> Iterator[Tensor]:
    """All tensors in nested containers, each once."""
    stack, visited = [content], set()
    while stack:
        value = stack.pop()
        if id(value) in visited:
            continue
        visited.add(id(value))
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict):
            stack += value.values()
        elif isinstance(value, list | tuple):
            stack += value
