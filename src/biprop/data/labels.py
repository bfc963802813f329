"""Labels of images in columns of tables: checked, and matched between files and parts by the names
of the classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

MOST_CLASSES = 1 << 20
"""The limit of tickets."""
Origin = Literal["numbers", "declared", "texts"]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Classes:
    """Names of classes, in the order of the labels, and where they come from.

    Attributes:
        names: one per class.
        origin: "numbers", nothing names the classes; "declared", the file lists them and its labels
            are indices into that list; or "texts", the labels are the names themselves.
    """

    names: list[str]
    origin: Origin


@dataclass(frozen=True)
class Labels:
    """The labels of one file.

    Attributes:
        numbers: [N] int64, indices into `classes.names`, or just numbers where nothing names the
            classes. A part without labels has -1 everywhere, as the test part of ImageNet in the
            Hub's files.
        classes: that the file names.
    """

    numbers: Integers
    classes: Classes

    @property
    def are_missing(self) -> bool:
        """Whether the file has no labels."""
        return bool(len(self.numbers)) and bool((self.numbers == -1).all())


def missing(count: int) -> Labels:
    """The labels of a part of `count` images that has none."""
    return Labels(np.full(count, -1, dtype=np.int64), Classes([], "numbers"))


def of_column(column: Any, declared: Sequence[str], where: str) -> Labels:
    """The labels in a column of pyarrow, of integers (also as floats), booleans or strings.

    Args:
        column: `pyarrow.ChunkedArray`.
        declared: names of the classes, if the file lists them.
        where: the file, for messages.

    Raises:
        UserError: a label is missing, negative, fractional, too large, or of another type.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if len(column) and column.null_count == len(column):
        return missing(len(column))
    if column.null_count:
        row = next(i for i, value in enumerate(column) if not value.is_valid)
        raise UserError(f"{where}: the label of row {row} is missing (null)")
    if _is_string(column.type):
        return _of_texts(column.to_pylist(), where)
    if pa.types.is_boolean(column.type):
        declared = declared or ("false", "true")
        column = column.cast(pa.int64())
    return _of_numbers(column, declared, where)


def _is_string(kind: Any) -> bool:
    """Whether a type of pyarrow is one of strings."""
    import pyarrow as pa

    is_string = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return is_string or str(kind) == "string_view"


def _of_numbers(column: Any, declared: Sequence[str], where: str) -> Labels:
    """`of_column` of integers or floats."""
    import pyarrow as pa

    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise UserError(
            f"{where}: labels of type {kind}: must be whole numbers or texts, one an image"
        )
    numbers = _whole(column.to_numpy(), where)
    _check_range(numbers, len(declared), where)
    classes = Classes(list(declared), "declared") if declared else Classes([], "numbers")
    return Labels(numbers, classes)


def _of_texts(texts: Sequence[str], where: str) -> Labels:
    """`of_column` of strings: the classes are the different ones, sorted."""
    names = sorted(set(texts))
    if len(names) > MOST_CLASSES:
        raise UserError(f"{where}: {len(names):,} different labels: more than {MOST_CLASSES:,}")
    number = {name: i for i, name in enumerate(names)}
    labels = np.array([number[text] for text in texts], dtype=np.int64)
    return Labels(labels, Classes(names, "texts"))


def _whole(values: NDArray[Any], where: str) -> Integers:
    """Labels as int64.

    Raises:
        UserError: one is fractional, too large or not finite.
    """
    is_float = values.dtype.kind == "f"
    if is_float:
        fractional = np.flatnonzero(~(np.floor(values) == values))  # NaN too
        if len(fractional):
            row = fractional[0]
            raise UserError(
                f"{where}: the label of row {row} is {values[row]:g}: must be a whole number"
            )
    large = np.flatnonzero(values >= MOST_CLASSES)
    if len(large):
        row = large[0]
        value = int(values[row]) if np.isfinite(values[row]) else values[row]
        raise UserError(f"{where}: the label of row {row} is {value}: must be 0 .. classes - 1")
    if is_float and len(values) and not np.isfinite(values).all():
        raise UserError(f"{where}: a label is infinite: must be 0 .. classes - 1")
    return values.astype(np.int64)


def _check_range(numbers: Integers, classes: int, where: str) -> None:
    """Raise UserError unless labels are 0 .. classes - 1 (0 classes: any number), or all -1."""
    if len(numbers) and (numbers == -1).all():
        return
    outside = np.flatnonzero((numbers < 0) | ((numbers >= classes) & (classes > 0)))
    if len(outside):
        row = outside[0]
        rule = f"0 .. {classes - 1}" if classes else "0 .. classes - 1"
        raise UserError(f"{where}: the label of row {row} is {numbers[row]}: must be {rule}")


def common_classes(files: Sequence[Labels], where: str) -> Classes:
    """The classes of a training part, from the labels of its files.

    Raises:
        UserError: nothing names the classes and the numbers have gaps.
    """
    declared = [labels.classes for labels in files if labels.classes.origin == "declared"]
    if declared:
        return declared[0]
    texts = [labels.classes.names for labels in files if labels.classes.origin == "texts"]
    if texts:
        return Classes(sorted({name for names in texts for name in names}), "texts")
    counts = np.bincount(np.concatenate([labels.numbers for labels in files]))
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        raise UserError(
            f"{where}: labels run to {len(counts) - 1}, but no training image has label {empty[0]}:"
            " must be 0 .. classes - 1, with images of each"
        )
    return Classes([str(number) for number in range(len(counts))], "numbers")


def matched(labels: Labels, classes: Classes, where: str) -> Integers:
    """The labels as indices into `classes`, [N] int64: by name, or as they are where one side has
    numbers only.

    Raises:
        UserError: a class that `classes` lacks.
    """
    known = classes.names
    if labels.classes.origin == "numbers" and classes.origin != "texts":
        _check_range(labels.numbers, len(known), where)
        return labels.numbers
    names = _names_of(labels)
    if names == known:
        return labels.numbers
    used = {names[number] for number in np.unique(labels.numbers)}
    unknown = sorted(used - set(known))
    if unknown or len(set(known)) < len(known):
        raise UserError(
            f"{where}: has other classes than the training images:"
            f" {', '.join(map(repr, (unknown or names)[:5]))}"
        )
    number_of = {name: number for number, name in enumerate(known)}
    table = np.array([number_of.get(name, -1) for name in names], dtype=np.int64)
    return table[labels.numbers]


def _names_of(labels: Labels) -> list[str]:
    """Names of the classes that labels are indices of: numbers, where nothing names them."""
    if labels.classes.origin != "numbers":
        return labels.classes.names
    return [str(number) for number in range(int(labels.numbers.max(initial=-1)) + 1)]
