"""Images by number, from files, parquet files and data sets of the package `datasets`."""

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import png, write_image_folder
from PIL import Image

from biprop import UserError
from biprop.data import decoding, items, listings


def shade(i: int) -> bytes:
    return png(np.full((6, 8, 3), i, dtype=np.uint8))


def write_parquet(
    path: Path, first: int, count: int, group: int, names: list[str] | None = None
) -> Path:
    """Images first, first + 1, ...: image i is of grey level i and class i mod 3."""
    numbers = range(first, first + count)
    table = pa.table(
        {
            "image": [{"bytes": shade(i), "path": f"{i}.png"} for i in numbers],
            "label": [i % 3 for i in numbers],
        }
    )
    if names:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)
    return path


def level(data: bytes | Path) -> int:
    assert isinstance(data, bytes)
    return int(np.asarray(Image.open(io.BytesIO(data)))[0, 0, 0])


def test_parquet_rows_by_number_in_any_order(tmp_path: Path) -> None:
    paths = [
        write_parquet(tmp_path / "a.parquet", 0, 25, 10, ["x", "y", "z"]),
        write_parquet(tmp_path / "b.parquet", 25, 12, 5),
    ]
    listing = items.list_parquet(paths)
    assert listing
    assert listing.classes == ["x", "y", "z"]
    assert listing.labels.tolist() == [i % 3 for i in range(37)]
    assert (
        listing.items.groups.tolist() == [0] * 10 + [1] * 10 + [2] * 5 + [3] * 5 + [4] * 5 + [5] * 2
    )
    rows = listing.items
    order = np.random.default_rng(0).permutation(37)
    assert [level(rows.read(int(i))) for i in order] == order.tolist()
    sent = pickle.loads(pickle.dumps(rows))  # to a worker process: without what was kept
    assert sent._kept == {}
    assert level(sent.read(30)) == 30
    assert sent.name(30) == f"{paths[1]}, image 5"


def test_only_a_few_row_groups_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "IMAGES_KEPT", 10)
    listing = items.list_parquet([write_parquet(tmp_path / "a.parquet", 0, 50, 5)])
    assert listing
    rows = listing.items
    assert isinstance(rows, items.Parquet)
    for i in range(50):
        rows.read(i)
        assert len(rows._kept) <= 2 == rows.pool


def test_a_parquet_file_without_images_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": ["a.png"], "label": [0]}), path)
    with pytest.raises(UserError, match="not a readable parquet file of images and labels"):
        items.list_parquet([path])
    pq.write_table(pa.table({"text": ["a"], "label": [0]}), path)
    with pytest.raises(UserError, match="it has the columns text, label"):
        items.list_parquet([path])
    pq.write_table(pa.table({"image": [{"bytes": b"", "path": "gone.png"}], "label": [0]}), path)
    listing = items.list_parquet([path])
    assert listing
    with pytest.raises(UserError, match=r"image 0: holds no image \(null, or only a path\)"):
        listing.items.read(0)


def test_a_folder_of_parquet_files_is_found_wherever_the_hub_puts_them(tmp_path: Path) -> None:
    for place in ("direct", "nested/plain_text", "nested2/x/data"):
        write_parquet(tmp_path / place / "train-00000-of-00001.parquet", 0, 20, 10)
    write_parquet(tmp_path / "nested/plain_text/test-0.parquet", 20, 4, 10)
    for folder in ("direct", "nested2"):
        parts = listings.find_listings(tmp_path / folder)
        train, test = parts.train, parts.test
        assert (len(train.items), len(test.items)) == (16, 4)
        assert sorted(
            level(part.items.read(i)) for part in (train, test) for i in range(len(part.items))
        ) == list(range(20))
    parts = listings.find_listings(tmp_path / "nested")
    assert (len(parts.train.items), len(parts.test.items)) == (20, 4)


def test_a_test_part_without_labels_is_passed_over(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", 0, 20, 10)
    write_parquet(tmp_path / "validation-0.parquet", 0, 6, 10)
    path = write_parquet(tmp_path / "test-0.parquet", 0, 9, 10)
    pq.write_table(pq.read_table(path).set_column(1, "label", [[-1] * 9]), path)
    parts = listings.find_listings(tmp_path)
    assert len(parts.test.items) == 6
    assert parts.notes == [
        f"{tmp_path}: the test part (1 parquet file) has no labels, and is left out"
    ]


def test_data_sets_of_the_package_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    write_image_folder(tmp_path / "pets" / "train")
    write_image_folder(tmp_path / "pets" / "test", count=3)
    parts = listings.hub(str(tmp_path / "pets"))
    train, test = parts.train, parts.test
    assert (len(train.items), len(test.items)) == (20, 6)
    assert train.classes == test.classes == ["cat", "dog"]
    source = decoding.in_memory(parts, None)
    assert source.train.shape == (1, 32, 32)
    direct = decoding.in_memory(listings.find_listings(tmp_path / "pets"), None)
    assert source.test.labels.tolist() == direct.test.labels.tolist()
    with pytest.raises(UserError, match="cannot be loaded as a data set"):
        listings.hub(str(tmp_path / "nowhere"))


def write_table(path: Path, image: object, label: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": image, "label": label}), path)
    return path


def test_columns_of_bytes_and_of_texts(tmp_path: Path) -> None:
    names = ["eel", "cat", "dog"] * 4
    write_table(tmp_path / "train.parquet", [shade(i) for i in range(12)], names)
    write_table(
        tmp_path / "test.parquet",
        [shade(i) for i in range(3)],
        pa.array(["dog", "eel", "dog"]).dictionary_encode(),
    )
    parts = listings.find_listings(tmp_path)
    assert parts.train.classes == ["cat", "dog", "eel"]
    assert parts.test.labels.tolist() == [1, 2, 1]
    assert [level(parts.train.items.read(i)) for i in (0, 11)] == [0, 11]
    assert (
        parts.about
        == "3 classes (cat, dog, eel), 15 images: train 1 parquet file, test 1 parquet file"
    )
    write_table(tmp_path / "test.parquet", [shade(0)], ["fox"])
    with pytest.raises(UserError, match="has other classes than the training images: 'fox'"):
        listings.find_listings(tmp_path)


def test_files_that_name_their_classes_in_another_order(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", 0, 6, 6, ["a", "b", "c"])
    write_parquet(tmp_path / "train-1.parquet", 0, 6, 6, ["c", "b", "a"])
    write_parquet(tmp_path / "test-0.parquet", 0, 3, 3, ["b", "c", "a"])
    parts = listings.find_listings(tmp_path)
    assert parts.train.labels.tolist() == [0, 1, 2] * 2 + [2, 1, 0] * 2
    assert parts.test.labels.tolist() == [1, 2, 0]


def test_one_class_or_no_image_is_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "train.parquet", [shade(0)] * 4, ["cat"] * 4)
    with pytest.raises(UserError, match="needs images of two classes or more, found cat"):
        listings.find_listings(tmp_path)
    write_table(tmp_path / "train.parquet", pa.array([], pa.binary()), pa.array([], pa.int64()))
    with pytest.raises(UserError, match=r"train\.parquet: no images in it"):
        listings.find_listings(tmp_path)


def test_configurations_and_parts_of_hub_data_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict(
        {"image": [shade(i) for i in range(6)], "label": ["b", "a"] * 3}
    )
    rows = rows.cast_column("image", datasets.Image())
    asked = []

    def load(name: str, configuration: str | None) -> object:
        asked.append((name, configuration))
        return {"fold1": rows, "fold2": rows.select(range(3)), "extra": rows}

    monkeypatch.setattr(datasets, "load_dataset", load)
    parts = listings.hub("x/y", "small", "fold1", "fold2")
    assert asked == [("x/y", "small")]
    assert (parts.train.classes, parts.train.labels.tolist(), len(parts.test.labels)) == (
        ["a", "b"],
        [1, 0] * 3,
        3,
    )
    assert len(listings.hub("x/y", train="fold1").test.labels) == 2
    for arguments, message in [
        ((), "no training part: has fold1, fold2, extra; pass --train-split"),
        ((None, "fold9"), "no fold9"),
    ]:
        with pytest.raises(UserError, match=message):
            listings.hub("x/y", *arguments)
