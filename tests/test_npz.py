"""Arrays of .npz files: what is recognised; each mistake in one line, before memory is taken."""

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biprop import UserError, native, npz

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
Y = np.arange(60) % 3


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(**arrays: Any) -> tuple[list[str], dict[str, Any], dict[str, Any], npz.View]:
    """Classes, labels and samples by part, and the view, of a file with these arrays."""
    np.savez("x.npz", **arrays)
    with npz.Npz(Path("x.npz")) as content:
        parts = content.parts()
        view = content.view(parts)
        classes, labels = npz.classes_of(content, parts)
        samples = {part: content.samples(own[npz.INPUTS], view) for part, own in parts.items()}
    return classes, labels, samples, view


def fails(**arrays: Any) -> str:
    with pytest.raises(UserError) as info:
        read(**arrays)
    message = str(info.value)
    assert "\n" not in message
    assert message.startswith("x.npz: ")
    return message


def test_names_of_arrays() -> None:
    classes, labels, samples, _ = read(X=X, y=Y)
    assert classes == ["0", "1", "2"]
    assert labels["train"].tolist() == Y.tolist()
    np.testing.assert_array_equal(samples["train"], X)
    parts = {"X_train": X, "y_train": Y, "X_val": X, "y_val": Y, "x_test": X, "test_labels": Y}
    assert list(read(**parts)[1]) == ["train", "validation", "test"]
    parts = {"train_images": X, "train_labels": Y[:, None], "valid_images": X, "valid_y": Y}
    assert list(read(**parts)[1]) == ["train", "validation"]
    np.savez("x.npz", X=X, y=Y, feature_names=np.array(["a"]), Xtra=X)
    with npz.Npz(Path("x.npz")) as content:
        content.parts()
        assert content.notes == ["x.npz: not used: feature_names, Xtra"]


def test_labels_are_classes_whatever_their_type() -> None:
    names = np.array(["no", "yes", "maybe"])[Y]
    for labels, expected in (
        (names, ["maybe", "no", "yes"]),
        (names.astype("S"), ["maybe", "no", "yes"]),
        (Y.astype(float) - 1, ["-1", "0", "1"]),
        (Y * 10, ["0", "10", "20"]),
        (Y == 1, ["False", "True"]),
    ):
        classes, numbers, _, _ = read(X=X, y=labels)
        assert classes == expected
        assert numbers["train"].dtype == np.int64
        assert sorted(set(numbers["train"].tolist())) == list(range(len(expected)))


def test_bytes_are_pixels_and_all_else_is_float32() -> None:
    for kind in (np.float64, np.int16, np.float16, bool):
        assert read(X=(10 * X).astype(kind), y=Y)[2]["train"].dtype == np.float32
    grey = np.random.default_rng(0).integers(0, 256, (60, 5, 6), dtype=np.uint8)
    _, _, samples, view = read(X=grey, y=Y)
    assert view.shape == samples["train"].shape[1:] == (1, 5, 6)
    assert samples["train"].dtype == np.uint8
    colour = np.random.default_rng(0).integers(0, 256, (60, 5, 6, 3), dtype=np.uint8)
    _, _, samples, view = read(X=colour, y=Y)
    assert view.shape == (3, 5, 6)
    np.testing.assert_array_equal(samples["train"][:, 2], colour[..., 2])
    assert read(X=colour.astype(float), y=Y)[3].shape == (5, 6, 3)  # numbers stay as they are
    assert read(X=colour.transpose(0, 3, 1, 2), y=Y)[3].shape == (3, 5, 6)
    assert read(X=grey[:, 0], y=Y)[3].shape == (6,)


def with_value(value: float) -> Any:
    changed = X.copy()
    changed[7, 1] = value
    return changed


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"X": X, "y": Y + 0.5}, "the label of row 0 is 0.5: must be classes; regression is not"),
    ({"X": X, "y": np.arange(60)}, "y has 60 different values in 60 rows: .*regression is not"),
    ({"X": X, "y": np.full(60, np.nan)}, r"the label of row 0 is missing \(nan\)"),
    ({"X": X, "y": np.full(60, 1e300)}, "a label is 1e[+]300"),
    ({"X": X.astype(object), "y": Y}, "X holds Python objects, which are never unpickled"),
    ({"X": X, "y": Y.astype(object)}, "y holds Python objects"),
    ({"X": with_value(np.nan), "y": Y}, r"X: row 7 has a number .*\(1 of 60 rows do\)"),
    ({"X": with_value(np.inf), "y": Y}, "X: row 7 has a number that is NaN, infinite"),
    ({"X": with_value(3).astype(float) * 1e300, "y": Y}, "too large for float32"),
    ({"X": X, "y": Y[1:]}, "X has 60 rows and y 59: must have a label for each"),
    ({"X": X}, "has X, and no y"),
    ({"y": Y}, "has y, and no X"),
    ({"Q": X}, "has Q: needs X and y, or X_train, y_train"),
    ({"X_test": X, "y_test": Y}, "needs X and y"),
    ({"X": X, "y": Y, "X_test": X}, "has X_test, and no y"),
    ({"X": X, "y": 0 * Y}, "y has one class only, 0"),
    ({"X": X[:, 0], "y": Y}, r"X has the shape \[60\]: must be \[rows, features\]"),
    ({"X": X[:0], "y": Y[:0]}, "X is empty"),
    ({"X": X, "y": np.eye(3)[Y]}, r"one label a row; of one-hot rows pass y.argmax\(1\)"),
    ({"X": X.astype(complex), "y": Y}, "X is of type complex64|X is of type complex128"),
    ({"X": X.astype("U3"), "y": Y}, "X is of type <U3: must be numbers"),
    ({"X": X, "x": X, "y": Y}, "X and x are the same"),
    ({"X": X, "y": Y, "X_test": X, "y_test": Y + 1}, "y_test has the class 3, which y does not"),
    ({"X": X, "y": Y, "X_test": X[:, :2], "y_test": Y}, "X_test has rows .*must be alike"),
    ({"X": X.reshape(60, 4, *[1] * 6), "y": Y}, "X has the shape"),
    (
        {"X": X, "y": Y, "X_test": X.astype(np.uint8), "y_test": Y},
        "of uint8, and X .* of float32: must be alike",
    ),
]


@pytest.mark.parametrize(("arrays", "message"), WRONG, ids=range(len(WRONG)))
def test_a_mistake_is_one_line(arrays: dict[str, Any], message: str) -> None:
    import re

    assert re.search(message, fails(**arrays))


def test_files_that_are_no_npz() -> None:
    Path("text.npz").write_text("hello")
    np.save("one.npy", X)
    for name, message in (
        ("text.npz", "is no .npz file"),
        ("one.npy", "is no .npz file"),
        ("none.npz", "no such file"),
        (".", "is no .npz file|Is a directory"),
    ):
        with pytest.raises(UserError, match=message):
            npz.sample_shape(Path(name))


def head(shape: tuple[int, ...], kind: str = "<f8") -> bytes:
    text = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode()
    text += b" " * (117 - len(text)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def test_sizes_are_checked_before_memory_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile("x.npz", "w") as file:
        file.writestr("X.npy", head((10**11, 100)))
        file.writestr("y.npy", head((10**11,)))
    with pytest.raises(UserError, match="X is damaged: shorter than its head says"):
        npz.sample_shape(Path("x.npz"))
    with zipfile.ZipFile("x.npz", "w") as file:
        file.writestr("X.npy", b"\x93NUMPY\x09\x00" + bytes(100))
    with pytest.raises(UserError, match="X is no array"):
        npz.sample_shape(Path("x.npz"))
    monkeypatch.setattr(npz, "memory_size", lambda: 1000)
    assert "more than half of this machine's memory" in fails(X=X, y=Y)
    with pytest.raises(UserError, match="more than half"):
        npz.inputs_of(Path("x.npz"))
    assert native.memory_size() > 1 << 20


def test_samples_to_classify_are_those_of_the_test_part() -> None:
    np.savez("x.npz", X=X, X_test=2 * X)
    np.testing.assert_array_equal(npz.inputs_of(Path("x.npz")), 2 * X)
    np.savez("x.npz", X=X)
    np.testing.assert_array_equal(npz.inputs_of(Path("x.npz")), X)
    np.savez("x.npz", y=Y)
    with pytest.raises(UserError, match="has no samples: needs X or X_test, has y"):
        npz.inputs_of(Path("x.npz"))


DIRECTORY = b"PK\x01\x02"


@pytest.mark.parametrize(
    ("record", "offset", "message"),
    [
        pytest.param(DIRECTORY, 6, "is no .npz file: zip file version", id="version"),
        pytest.param(DIRECTORY, 8, "X is no array: compressed patched data", id="flags"),
        pytest.param(b"X.npy", len(b"X.npy"), "X is no array: Error -3", id="compressed bytes"),
    ],
)
def test_what_the_zip_library_raises_is_one_line(record: bytes, offset: int, message: str) -> None:
    with zipfile.ZipFile("x.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("X.npy", head((4, 2)) + bytes(4 * 2 * 4))
    content = bytearray(Path("x.npz").read_bytes())
    content[content.index(record) + offset] = 0xFF
    Path("x.npz").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        npz.inputs_of(Path("x.npz"))
    assert "\n" not in str(error.value)


@given(st.data())
def test_damaged_files_are_one_line(data: st.DataObject) -> None:
    np.savez_compressed("x.npz", X=X, y=Y)
    content = bytearray(Path("x.npz").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    Path("x.npz").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        npz.inputs_of(Path("x.npz"))
    except UserError as e:
        assert "\n" not in str(e)
