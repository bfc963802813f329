"""The file of a checkpoint: any damage is noticed, nothing in it runs, and it is no larger in
memory than on the disk.
"""

import argparse
import collections
import io
import random
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from biprop import UserError
from biprop.checkpoint import archive
from biprop.checkpoint.foreign import Foreign

CONTENT = {
    "arch": "x",
    "state_dict": {"w": torch.arange(600.0), "n": torch.tensor(3)},
    "text": "a" * 100,
}


def written(path: Path, content: Any = CONTENT) -> bytes:
    with path.open("wb") as file:
        archive.write(file, content)
    return path.read_bytes()


def rewritten(content: bytes, path: Path, change: Any) -> None:
    """The same archive with `change(name, bytes)` -> (bytes, compression) for each record."""
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data, compression = change(name, old.read(name))
            new.writestr(zipfile.ZipInfo(name), data, compression)


@pytest.mark.parametrize(
    "options",
    [{}, {"weights_only": True}, {"mmap": True, "weights_only": True}, {"weights_only": False}],
)
def test_pytorch_reads_it_as_its_own(tmp_path: Path, options: dict[str, Any]) -> None:
    written(tmp_path / "a.pth")
    read = torch.load(tmp_path / "a.pth", **options)
    assert torch.equal(read["state_dict"]["w"], CONTENT["state_dict"]["w"])  # type: ignore[index]
    assert zipfile.ZipFile(tmp_path / "a.pth").testzip() is None


def test_what_is_written_is_read_without_a_word(tmp_path: Path) -> None:
    written(tmp_path / "a.pth")
    content, notes = archive.read(tmp_path / "a.pth")
    assert (content["arch"], content["text"], notes) == ("x", "a" * 100, [])
    assert torch.equal(content["state_dict"]["w"], torch.arange(600.0))


def test_every_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    whole = written(path)
    draw = random.Random(0)
    ends = range(len(whole) - 120, len(whole))  # directory's end, mark and digest
    for at in [*draw.sample(range(len(whole)), 150), *ends]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            content, notes = archive.read(path)
        except UserError as e:
            assert "\n" not in str(e)
        else:  # the mark of the checksum itself
            assert notes
            assert torch.equal(content["state_dict"]["w"], torch.arange(600.0))


def test_every_truncation_and_extension_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    whole = written(path)
    lengths = (0, 1, 3, 4, 13, 100, len(whole) // 2, len(whole) - 64, len(whole) - 1)
    for content in (*(whole[:length] for length in lengths), whole + b"\0", whole + bytes(999)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"damaged|refused"):
            archive.read(path)


def test_files_of_others_have_sums_of_their_records(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(CONTENT, path)
    content, (note,) = archive.read(path)
    assert content["arch"] == "x"
    assert "no checksum of the whole, as old and foreign files; those of its records fit" in note
    raw = bytearray(path.read_bytes())
    raw[raw.index(torch.arange(600.0).numpy().tobytes()) + 5] ^= 1
    path.write_bytes(raw)
    with pytest.raises(UserError, match="damaged: the checksum of its record 'a/data/0'"):
        archive.read(path)
    torch.save(CONTENT, path, _use_new_zipfile_serialization=False)
    content, (note,) = archive.read(path)
    assert torch.equal(content["state_dict"]["w"], torch.arange(600.0))
    assert "before 1.6, without a checksum" in note


def test_sums_that_were_never_computed_are_said(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    before = torch.serialization.get_crc32_options()
    try:
        torch.serialization.set_crc32_options(False)
        torch.save(CONTENT, path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert "damage to its numbers is not noticed" in archive.read(path)[1][0]


def test_compressed_and_overlapping_records_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    whole = written(tmp_path / "b.pth")
    deflated = zipfile.ZIP_DEFLATED
    rewritten(
        whole,
        path,
        lambda name, data: (data, deflated if name.endswith("data/0") else zipfile.ZIP_STORED),
    )
    with pytest.raises(UserError, match=r"data/0' is compressed"):
        archive.read(path)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "w") as new:
        for _ in range(2):
            new.writestr("archive/data.pkl", b"x")
    with pytest.raises(UserError, match="overlaps another one"):
        archive.read(path)
    with zipfile.ZipFile(path, "w") as new:
        for name in ("archive/data.pkl", "archive/data/0"):
            new.writestr(name, b"x")
    raw = bytearray(path.read_bytes())
    second = (
        raw.rindex(b"PK\1\2") + 42
    )  # where the directory's last entry says that its record begins
    raw[second : second + 4] = bytes(4)
    path.write_bytes(raw)
    with pytest.raises(UserError, match="overlaps another one"):
        archive.read(path)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(1 << 20, 1 << 20),
        torch.zeros(4).as_strided((1 << 20, 4), (0, 1)),
        torch.zeros(3).to_sparse(),
        torch.zeros(3, device="meta"),
    ],
)
def test_tensors_larger_than_their_file_are_refused(tmp_path: Path, tensor: torch.Tensor) -> None:
    torch.save({"arch": "x", "state_dict": {"w": [tensor]}}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="refused: a tensor"):
        archive.read(tmp_path / "a.pth")


def test_many_views_of_a_tensor_are_no_more_than_their_file(tmp_path: Path) -> None:
    numbers = torch.ones(1000)
    torch.save([numbers.view(1000) for _ in range(100)], tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a tensor of \(1000,\), larger than what the file has"):
        archive.read(tmp_path / "a.pth")


def test_one_tensor_under_many_names_counts_once(tmp_path: Path) -> None:
    tensor = torch.ones(100)
    written(tmp_path / "a.pth", {str(i): tensor for i in range(100)})
    assert len(archive.read(tmp_path / "a.pth")[0]) == 100


FOREIGN: list[tuple[Any, Any]] = [
    (np.float64(77.1), 77.1),
    (np.float32(0.5), 0.5),
    (np.float16(1.5), 1.5),
    (np.int64(-3), -3),
    (np.uint8(200), 200),
    (np.bool_(True), True),
    (np.dtype(">f4").type(2.5), 2.5),
    (Path("a/b"), "a/b"),
    (collections.defaultdict(list, {1: [2]}), {1: [2]}),
    (collections.defaultdict(int), {}),
]


@pytest.mark.parametrize(("value", "read"), FOREIGN, ids=str)
def test_plain_values_in_foreign_form_are_read(tmp_path: Path, value: Any, read: Any) -> None:
    torch.save({"x": value}, tmp_path / "a.pth")
    found = archive.read(tmp_path / "a.pth")[0]["x"]
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize(
    "value",
    [
        argparse.Namespace(a=1, p=Path("x")),
        types.SimpleNamespace(a=1),
        np.arange(3),
        np.array(["a"]),
    ],
    ids=str,
)
def test_objects_that_many_save_are_passed_over(tmp_path: Path, value: Any) -> None:
    torch.save({"x": value, "y": 1}, tmp_path / "a.pth")
    found = archive.read(tmp_path / "a.pth")[0]
    assert isinstance(found["x"], Foreign)
    assert found["y"] == 1


class Forged:
    """Pickled as numpy's scalar whose type has flags, a size and fields of the file's choice."""

    def __init__(self, code: str, data: bytes, order: str = "|") -> None:
        self.kind, self.data = ForgedType(code, order), data

    def __reduce__(self) -> Any:
        return np._core.multiarray.scalar, (self.kind, self.data)  # type: ignore[attr-defined]


class ForgedType:
    def __init__(self, code: str, order: str) -> None:
        self.code, self.order = code, order

    def __reduce__(self) -> Any:
        return (
            np.dtype,
            (self.code, False, True),
            (3, self.order, None, None, None, 1 << 40, 1 << 40, 63),
        )


@pytest.mark.parametrize(("code", "data"), [("f8", b"short"), ("i4", b""), ("f8", bytes(1000))])
def test_a_forged_type_of_numbers_builds_nothing(tmp_path: Path, code: str, data: bytes) -> None:
    torch.save({"x": Forged(code, data)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"cannot be read as a checkpoint|an object of bytes"):
        archive.read(tmp_path / "a.pth")


@pytest.mark.parametrize("order", [">", "<"])
def test_numbers_in_the_other_byte_order_are_read(tmp_path: Path, order: str) -> None:
    torch.save(
        {"x": Forged("i4", np.array(258, f"{order}i4").tobytes(), order)}, tmp_path / "a.pth"
    )
    assert archive.read(tmp_path / "a.pth")[0]["x"] == 258


@pytest.mark.parametrize("code", ["O", "V8", "M8", "S5"])
def test_other_types_are_not_built(tmp_path: Path, code: str) -> None:
    torch.save({"x": Forged(code, bytes(8))}, tmp_path / "a.pth")
    assert isinstance(archive.read(tmp_path / "a.pth")[0]["x"], Foreign)


def test_what_else_a_file_asks_for_is_refused_with_what_to_do(tmp_path: Path) -> None:
    allowed = torch.serialization.get_safe_globals()
    torch.save({"x": collections.deque([1])}, tmp_path / "a.pth")
    with pytest.raises(
        UserError,
        match=(
            r"holds an object of collections\.deque, .* save it anew without that: c = torch\.load"
        ),
    ):
        archive.read(tmp_path / "a.pth")
    assert set(torch.serialization.get_safe_globals()) == set(
        allowed
    )  # what stands in for names does so only while a checkpoint is read


def test_a_full_disk_is_an_os_error() -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        archive.write(Full(), CONTENT)
