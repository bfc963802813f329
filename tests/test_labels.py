"""Labels of columns: of any sensible type, checked, and matched by the names of the classes."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from biprop import UserError
from biprop.data.labels import Classes, Labels, common_classes, matched, of_column


def column(values: Any, kind: Any = None) -> Any:
    return pa.chunked_array([pa.array(values, kind)])


@pytest.mark.parametrize(
    ("values", "numbers", "names"),
    [
        (column([1, 0, 2], pa.uint8()), [1, 0, 2], []),
        (column([1.0, 0.0]), [1, 0], []),
        (column([True, False]), [1, 0], ["false", "true"]),
        (column(["dog", "cat", "dog"]), [1, 0, 1], ["cat", "dog"]),
        (column(["dog", "cat"], pa.large_string()), [1, 0], ["cat", "dog"]),
        (
            pa.chunked_array([pa.array(["dog", "cat", "dog"]).dictionary_encode()]),
            [1, 0, 1],
            ["cat", "dog"],
        ),
        (pa.chunked_array([pa.array([1, 0]).dictionary_encode()]), [1, 0], []),
        (column([], pa.int64()), [], []),
    ],
)
def test_columns_of_labels(values: Any, numbers: list[int], names: list[str]) -> None:
    labels = of_column(values, [], "x")
    assert (labels.numbers.tolist(), labels.classes.names) == (numbers, names)
    assert labels.numbers.dtype == np.int64
    assert not labels.are_missing


@pytest.mark.parametrize("values", [[-1, -1], [None, None], [-1.0, -1.0]])
def test_a_part_without_labels(values: list[Any]) -> None:
    assert of_column(column(values, pa.float64()), ["a", "b"], "x").are_missing


@pytest.mark.parametrize(
    ("values", "declared", "message"),
    [
        (column([0, None, 1]), [], r"x: the label of row 1 is missing \(null\)"),
        (column(["a", None]), [], r"the label of row 1 is missing"),
        (column([0, -1, 1]), [], r"the label of row 1 is -1: must be 0 \.\. classes - 1"),
        (column([0.0, 0.5]), [], r"the label of row 1 is 0\.5: must be a whole number"),
        (column([0.0, float("nan")]), [], "the label of row 1 is nan: must be a whole number"),
        (column([0.0, float("inf")]), [], "the label of row 1 is inf"),
        (column([float("-inf"), 0.0]), [], "a label is infinite"),
        (
            column([0, 2_000_000_000]),
            [],
            r"the label of row 1 is 2000000000: must be 0 \.\. classes - 1",
        ),
        (column([2**64 - 1, 0], pa.uint64()), [], "the label of row 0 is 18446744073709551615"),
        (column([0, 2]), ["a", "b"], r"the label of row 1 is 2: must be 0 \.\. 1"),
        (column([[0], [1]]), [], "labels of type list.*: must be whole numbers or texts"),
        (column([b"a"]), [], "labels of type binary"),
    ],
)
def test_labels_that_are_none(values: Any, declared: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        of_column(values, declared, "x")
    assert "\n" not in str(error.value)


def declared(numbers: list[int], names: list[str]) -> Labels:
    return Labels(np.array(numbers), Classes(names, "declared"))


def test_labels_are_matched_by_name() -> None:
    train = declared([0, 1, 2], ["cat", "dog", "eel"])
    classes = common_classes([train, declared([0], ["eel", "dog", "cat"])], "x")
    assert classes.names == ["cat", "dog", "eel"]
    assert matched(declared([0, 1, 2], ["eel", "dog", "cat"]), classes, "x").tolist() == [2, 1, 0]
    texts = of_column(column(["eel", "cat"]), [], "x")
    assert matched(texts, classes, "x").tolist() == [2, 0]
    assert matched(of_column(column([2, 0]), [], "x"), classes, "x").tolist() == [2, 0]
    with pytest.raises(UserError, match="has other classes than the training images: 'fox'"):
        matched(declared([1], ["cat", "fox"]), classes, "x")
    assert common_classes([texts, of_column(column(["dog"]), [], "x")], "x").names == [
        "cat",
        "dog",
        "eel",
    ]
    with pytest.raises(UserError, match="other classes than the training images: '0'"):
        matched(of_column(column([0]), [], "x"), common_classes([texts], "x"), "x")


def test_numbers_without_names_have_no_gaps() -> None:
    assert common_classes([of_column(column([0, 2, 1]), [], "x")], "x").names == ["0", "1", "2"]
    with pytest.raises(UserError, match="labels run to 3, but no training image has label 0"):
        common_classes([of_column(column([1, 2, 3]), [], "x")], "x")


def test_two_classes_of_one_name_are_matched_only_where_nothing_moves() -> None:
    twice = declared([0, 1, 2], ["crane", "owl", "crane"])
    classes = common_classes([twice], "x")
    assert matched(twice, classes, "x").tolist() == [0, 1, 2]
    with pytest.raises(UserError, match="other classes"):
        matched(declared([0], ["owl", "crane"]), classes, "x")
