"""Arrays in .npz files: samples X and labels y, by their names.

The arrays are X and y, or X_train, y_train, X_val, y_val, X_test, y_test; see `_NAMES`. Nothing in
the file is ever unpickled, and sizes are checked before memory is taken for them. No PyTorch.
"""

from __future__ import annotations

import lzma
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .errors import UserError, abbreviated, one_line
from .names import TEST, TRAIN, VALIDATION, part_of
from .native import memory_size

SUFFIX = ".npz"
MOST_AXES = 7
"""Of an array of samples; as many as a ticket's graph takes."""
MOST_CLASSES = 1 << 16
INPUTS, LABELS = "X", "y"
_NAMES = {"x": INPUTS, "images": INPUTS, "y": LABELS, "labels": LABELS}
"""Name of an array, in lower case, without that of its part -> what it holds."""
_EXPECTED = "X and y, or X_train, y_train, X_test, y_test and perhaps X_val, y_val"
_KINDS = {INPUTS: "buif", LABELS: "buifUS"}
"""The kinds of numpy's types that are read: booleans, whole numbers, floats; labels: texts too."""
_DAMAGE = (
    ValueError,
    SyntaxError,
    OSError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""What zipfile, its decompressors and numpy raise at bytes that are damaged."""


@dataclass(frozen=True)
class Header:
    """What an array in the file is, before it is read."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def bytes(self) -> int:
        """Of the array as it is in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def sample_shape(file: Path) -> tuple[int, ...]:
    """The shape of a sample, from the head of the file.

    Raises:
        UserError: no such file, a damaged one, or one without X and y.
    """
    with Npz(file) as npz:
        return npz.view(npz.parts()).shape


def inputs_of(file: Path) -> NDArray[Any]:
    """The samples to classify in a .npz file: X_test where there is one, else X; as `arrays` reads
    them.

    Raises:
        UserError: no such array, or as `arrays`.
    """
    with Npz(file) as npz:
        parts = npz.known()
        part = next((p for p in (TEST, TRAIN, VALIDATION) if INPUTS in parts.get(p, {})), None)
        if part is None:
            raise npz.error(f"has no samples: needs X or X_test, has {npz.listed()}")
        header = parts[part][INPUTS]
        npz.check_header(header, INPUTS)
        npz.check_memory([header])
        return npz.samples(header, View.of(header))


Part = dict[str, Header]


class Npz:
    """An open .npz file.

    Attributes:
        notes: for the user, a line each.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.notes: list[str] = []
        try:
            self._zip = zipfile.ZipFile(file)
        except FileNotFoundError:
            raise UserError(f"--data {file}: no such file") from None
        except _DAMAGE as e:
            raise self.error(
                f"is no {SUFFIX} file: {one_line(e)}; numpy.savez writes one"
            ) from None

    def __enter__(self) -> Npz:
        return self

    def __exit__(self, *error: object) -> None:
        self._zip.close()

    def error(self, text: str) -> UserError:
        """The error with this text on the file."""
        return UserError(f"{self.file}: {text}")

    def listed(self) -> str:
        """The arrays of the file, in words."""
        return abbreviated(", ".join(map(_without_suffix, self._zip.namelist())) or "nothing", 200)

    def known(self) -> dict[str, Part]:
        """The arrays whose names mean something: part -> what -> header."""
        parts: dict[str, Part] = {}
        unknown = []
        for member in self._zip.namelist():
            name = _without_suffix(member)
            meaning = _meaning(name)
            if meaning is None:
                unknown.append(name)
                continue
            part, what = meaning
            if what in parts.setdefault(part, {}):
                raise self.error(f"{parts[part][what].name} and {name} are the same: keep one")
            parts[part][what] = self._header(member)
        if unknown:
            names = abbreviated(", ".join(unknown), 200)
            self.notes.append(f"{self.file}: not used: {names}")
        return parts

    def parts(self) -> dict[str, Part]:
        """The parts that have samples and labels; there is a training part.

        Raises:
            UserError: an array is missing.
        """
        parts = self.known()
        if TRAIN not in parts:
            raise self.error(f"has {self.listed()}: needs {_EXPECTED}")
        for part, arrays in parts.items():
            for what in (INPUTS, LABELS):
                if what not in arrays:
                    (present,) = (header.name for header in arrays.values())
                    raise self.error(
                        f"has {present}, and no {what} of that part ({part}): needs {_EXPECTED}"
                    )
        return parts

    def _header(self, member: str) -> Header:
        """The head of an array, from the first bytes of its .npy file."""
        name = _without_suffix(member)
        try:
            with self._zip.open(member) as stream:
                shape, dtype = _read_header(stream)
        except _DAMAGE as e:
            raise self.error(f"{name} is no array: {one_line(e)}") from None
        header = Header(name, shape, dtype)
        if not dtype.hasobject and header.bytes > self._zip.getinfo(member).file_size:
            raise self.error(f"{name} is damaged: shorter than its head says")
        return header

    def view(self, parts: Mapping[str, Part]) -> View:
        """Check types, shapes and sizes of all arrays; returns how their rows become samples.

        Raises:
            UserError: they do not fit, or are too large.
        """
        for arrays in parts.values():
            for what, header in arrays.items():
                self.check_header(header, what)
            samples, labels = arrays[INPUTS], arrays[LABELS]
            if samples.shape[0] != labels.shape[0]:
                raise self.error(
                    f"{samples.name} has {samples.shape[0]:,} rows and {labels.name}"
                    f" {labels.shape[0]:,}: must have a label for each"
                )
        first = parts[TRAIN][INPUTS]
        for header in (arrays[INPUTS] for arrays in parts.values()):
            is_alike = header.shape[1:] == first.shape[1:]
            if not is_alike or (header.dtype == np.uint8) != (first.dtype == np.uint8):
                raise self.error(
                    f"{header.name} has rows {list(header.shape[1:])} of {header.dtype}, and"
                    f" {first.name} {list(first.shape[1:])} of {first.dtype}: must be alike"
                )
        self.check_memory(header for arrays in parts.values() for header in arrays.values())
        return View.of(first)

    def check_header(self, header: Header, what: str) -> None:
        """Check the type and the axes of one array."""
        name, shape, kind = header.name, header.shape, header.dtype.kind
        if header.dtype.hasobject:
            raise self.error(
                f"{name} holds Python objects, which are never unpickled: save an array of numbers"
            )
        if kind not in _KINDS[what]:
            wanted = "numbers" if what == INPUTS else "whole numbers or texts"
            raise self.error(f"{name} is of type {header.dtype}: must be {wanted}")
        if what == LABELS and (len(shape) not in (1, 2) or math.prod(shape[1:]) != 1):
            hint = "; of one-hot rows pass y.argmax(1)" if len(shape) == 2 else ""
            raise self.error(f"{name} has the shape {list(shape)}: must be one label a row{hint}")
        if what == INPUTS and not 2 <= len(shape) <= MOST_AXES:
            raise self.error(
                f"{name} has the shape {list(shape)}: must be [rows, features], [rows, channels,"
                " length] or [rows, channels, height, width]"
            )
        if min(shape) < 1:
            raise self.error(f"{name} is empty: its shape is {list(shape)}")

    def check_memory(self, headers: Iterable[Header]) -> None:
        """Raise UserError if arrays take more than half of the memory, as read or in float32."""
        required = 0
        for header in headers:
            as_float32 = 0 if header.dtype == np.uint8 else 4 * math.prod(header.shape)
            required += max(header.bytes, as_float32)
        available = memory_size() // 2
        if required > available:
            raise self.error(
                f"its arrays take {required / 2**30:.1f} GiB, more than half of this machine's"
                f" memory ({available / 2**29:.0f} GiB): save fewer rows, or images as files"
            )

    def read(self, header: Header) -> NDArray[Any]:
        """An array as it is in the file.

        Raises:
            UserError: it is damaged, or memory is too small.
        """
        member = f"{header.name}.npy" if f"{header.name}.npy" in self._zip.namelist() else None
        try:
            with self._zip.open(member or header.name) as stream:
                array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
        except _DAMAGE as e:
            raise self.error(f"{header.name} is damaged: {one_line(e)}") from None
        except MemoryError:
            raise self.error(
                f"{header.name}: not enough memory for its {header.bytes:,} bytes"
            ) from None
        return array

    def samples(self, header: Header, view: View) -> NDArray[Any]:
        """Samples as a network takes them: uint8 pixels, or float32.

        Raises:
            UserError: a number is not finite.
        """
        array = self.read(header)
        if array.dtype != np.uint8:
            with np.errstate(over="ignore"):
                array = np.ascontiguousarray(array, dtype=np.float32)
            self._check_finite(header, array)
        return np.ascontiguousarray(view.applied(array))

    def _check_finite(self, header: Header, array: NDArray[np.float32]) -> None:
        rows = np.asarray(np.isfinite(array.reshape(len(array), -1)).all(axis=1))
        if not rows.all():
            row = int(np.flatnonzero(~rows)[0])
            bad = int(np.count_nonzero(~rows))
            raise self.error(
                f"{header.name}: row {row} has a number that is NaN, infinite or too large for"
                f" float32 ({bad:,} of {len(array):,} rows do): remove or fill them"
            )

    def described(self, parts: Mapping[str, Part]) -> str:
        """Number and shape of the samples, in words."""
        sizes = [f"{part} {arrays[INPUTS].shape[0]:,}" for part, arrays in parts.items()]
        first = parts[TRAIN][INPUTS]
        shape = " x ".join(map(str, first.shape[1:]))
        return f"rows of {shape} {first.dtype} numbers ({', '.join(sizes)})"


@dataclass(frozen=True)
class View:
    """How rows become samples: pixels without an axis of channels get one, those with the channels
    last have them first.

    Attributes:
        axes: order of the axes of the array; None adds one.
        shape: of a sample.
        about: what is done, for the user.
    """

    axes: tuple[int | None, ...]
    shape: tuple[int, ...]
    about: str = ""

    @staticmethod
    def of(header: Header) -> View:
        """The view of the rows of an array."""
        shape = header.shape[1:]
        if header.dtype == np.uint8 and len(shape) == 2:
            return View((0, None, 1, 2), (1, *shape), ": grey images")
        has_channels_last = len(shape) == 3 and shape[2] in (1, 3) and shape[0] not in (1, 3)
        if header.dtype == np.uint8 and has_channels_last:
            return View((0, 3, 1, 2), (shape[2], *shape[:2]), ": images with the channels last")
        return View(tuple(range(len(shape) + 1)), shape)

    def applied(self, array: NDArray[Any]) -> NDArray[Any]:
        """The rows as samples."""
        if None in self.axes:
            return array[:, None]
        return array.transpose([axis for axis in self.axes if axis is not None])


def _without_suffix(member: str) -> str:
    return member.removesuffix(".npy")


def _meaning(name: str) -> tuple[str, str] | None:
    """Part and content of an array by its name; None: it has no meaning here."""
    words = re.split(r"[_\-. ]+", name.lower())
    what = [_NAMES[word] for word in words if word in _NAMES]
    parts = [part for word in words if word not in _NAMES and (part := part_of(word))]
    if len(what) != 1 or len(what) + len(parts) != len(words) or len(parts) > 1:
        return None
    return (parts[0] if parts else TRAIN), what[0]


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of a .npy file.

    Raises:
        ValueError: it is none.
    """
    version = np.lib.format.read_magic(stream)
    readers: dict[Any, Callable[..., Any]] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"version {version} of the format")
    shape, _, dtype = readers[version](stream)
    return shape, dtype


def classes_of(
    npz: Npz, parts: Mapping[str, Part]
) -> tuple[list[str], dict[str, NDArray[np.int64]]]:
    """The names of the classes, and the labels of each part as their numbers.

    Raises:
        UserError: y is no label of classes.
    """
    values = {part: _label_values(npz, arrays[LABELS]) for part, arrays in parts.items()}
    classes = np.unique(values[TRAIN])
    name = parts[TRAIN][LABELS].name
    if len(classes) < 2:
        raise npz.error(f"{name} has one class only, {abbreviated(classes[0])}: needs two or more")
    if len(classes) > max(2, min(MOST_CLASSES, len(values[TRAIN]) // 2)):
        raise npz.error(
            f"{name} has {len(classes):,} different values in {len(values[TRAIN]):,} rows: must be"
            " classes; regression is not supported"
        )
    labels = {}
    for part, own in values.items():
        place = np.searchsorted(classes, own).clip(max=len(classes) - 1)
        if (strange := classes[place] != own).any():
            value = own[strange][0]
            raise npz.error(
                f"{parts[part][LABELS].name} has the class {abbreviated(value)}, which {name} does"
                " not have"
            )
        labels[part] = place.astype(np.int64)
    return [str(value) for value in classes.tolist()], labels


def _label_values(npz: Npz, header: Header) -> NDArray[Any]:
    """Labels [N] as whole numbers or texts.

    Raises:
        UserError: they are something else.
    """
    values = npz.read(header).reshape(-1)
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8", "replace")
    if values.dtype.kind != "f":
        return values
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise npz.error(f"{header.name}: the label of row {row} is missing ({values[row]})")
    fractions = values != np.floor(values)
    if fractions.any():
        row = int(np.flatnonzero(fractions)[0])
        raise npz.error(
            f"{header.name}: the label of row {row} is {values[row]:g}: must be classes;"
            " regression is not supported"
        )
    if np.abs(values).max() >= 2**53:
        raise npz.error(f"{header.name}: a label is {np.abs(values).max():g}: must be classes")
    return values.astype(np.int64)
