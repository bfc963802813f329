import gzip
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import png, write_cifar_parquet, write_image_folder

from biprop import UserError
from biprop.data import cifar, decoding, digits, listings, mnist, tiny_imagenet
from biprop.data.cifar import CIFAR10_CLASSES


def write_official_cifar10(folder: Path) -> Path:
    """cifar-10-batches-py as the official archive has it: pickles of protocol 2."""
    place = folder / "cifar-10-batches-py"
    place.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        batch = {
            "data": rng.integers(0, 256, (4, 3072), dtype=np.uint8),
            "labels": [0, 1, 2, 9],
            "batch_label": name,
        }
        (place / name).write_bytes(pickle.dumps(batch, protocol=2))
    (place / "batches.meta").write_bytes(pickle.dumps({"label_names": CIFAR10_CLASSES}, protocol=2))
    return folder


def test_digits_are_the_embedded_ones() -> None:
    source = digits.digits()
    assert source.train.images.shape == (1437, 1, 32, 32)
    assert len(source.test) == 360
    assert int(source.train.images.max()) == 255
    assert source.train.labels.bincount().min() > 100
    assert source.held_out is not None
    assert source.held_out.tolist() == [i % 10 == 1 for i in range(1797) if i % 5]


def test_official_cifar10(tmp_path: Path) -> None:
    write_official_cifar10(tmp_path)
    source = cifar.cifar(tmp_path, "CIFAR10")
    assert source.train.images.shape == (20, 3, 32, 32)
    raw = pickle.loads((tmp_path / "cifar-10-batches-py" / "test_batch").read_bytes())
    assert torch.equal(source.test.images, torch.from_numpy(raw["data"]).view(4, 3, 32, 32))
    assert source.test.labels.tolist() == [0, 1, 2, 9]
    assert cifar.cifar(tmp_path / "cifar-10-batches-py", "CIFAR10").classes == CIFAR10_CLASSES


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("was-here"),))


def test_a_pickle_that_carries_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_official_cifar10(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps({"data": Evil()}))
    with pytest.raises(UserError, match="data_batch_3: not a readable CIFAR batch"):
        cifar.cifar(tmp_path, "CIFAR10")
    assert not (tmp_path / "was-here").exists()


def test_cifar100_parquet_has_fine_labels(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = tmp_path / "cifar100" / "cifar100"
    place.mkdir(parents=True)
    images = [{"bytes": png(np.zeros((32, 32, 3), dtype=np.uint8)), "path": None}] * 3
    for part in ("train", "test"):
        pq.write_table(
            pa.table({"img": images, "fine_label": [0, 50, 99], "coarse_label": [0, 1, 2]}),
            place / f"{part}-00000.parquet",
        )
    source = cifar.cifar(tmp_path, "CIFAR100")
    assert source.train.labels.tolist() == [0, 50, 99]
    assert len(source.classes) == 100


def test_parquet_pixels_are_the_images(tmp_path: Path) -> None:
    write_cifar_parquet(tmp_path, train=12, test=3)
    source = cifar.cifar(tmp_path, "CIFAR10")
    expected = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert torch.equal(source.train.images[0], torch.from_numpy(expected).permute(2, 0, 1))


def test_image_folder_with_parts_and_with_another_size(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "train", count=6)
    write_image_folder(tmp_path / "val", count=3, side=20)
    with pytest.raises(UserError, match="--image-size"):
        decoding.in_memory(listings.find_listings(tmp_path), None)
    source = decoding.in_memory(listings.find_listings(tmp_path), 24)
    assert source.train.images.shape == (12, 1, 24, 24)
    assert source.test.images.shape == (6, 1, 24, 24)


def write_mnist(folder: Path, packed: bool) -> Path:
    folder.mkdir(parents=True)
    for part, count in (("train", 20), ("t10k", 10)):
        images = np.arange(count * 784, dtype=np.uint64).astype(np.uint8)
        files = {
            f"{part}-images-idx3-ubyte": struct.pack(">IIII", 0x803, count, 28, 28)
            + images.tobytes(),
            f"{part}-labels-idx1-ubyte": struct.pack(">II", 0x801, count)
            + bytes(i % 10 for i in range(count)),
        }
        for name, data in files.items():
            (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(data) if packed else data)
    return folder


@pytest.mark.parametrize("packed", [True, False])
def test_official_mnist(packed: bool, tmp_path: Path) -> None:
    source = mnist.mnist(write_mnist(tmp_path / "MNIST" / "raw", packed).parents[1])
    assert (source.train.shape, len(source.train), len(source.test)) == ((1, 28, 28), 20, 10)
    assert source.test.images.flatten()[:300].tolist() == [i % 256 for i in range(300)]
    assert source.train.labels.tolist() == [i % 10 for i in range(20)]
    assert (source.mean, source.std, source.augment) == ((0.1307,), (0.3081,), "none")


def test_official_tiny_imagenet(tmp_path: Path) -> None:
    root = tmp_path / "tiny-imagenet-200"
    for name in ("n01", "n02"):
        (root / "train" / name / "images").mkdir(parents=True)
        for i in range(3):
            (root / "train" / name / "images" / f"{i}.png").write_bytes(
                png(np.full((64, 64), i, dtype=np.uint8))
            )
    (root / "val" / "images").mkdir(parents=True)
    for i in range(2):
        (root / "val" / "images" / f"val_{i}.png").write_bytes(
            png(np.full((64, 64, 3), 9 + i, dtype=np.uint8))
        )
    (root / "val" / "val_annotations.txt").write_text(
        "val_1.png\tn02\t0\t0\t9\t9\nval_0.png\tn01\t0\t0\t9\t9\n"
    )
    source = tiny_imagenet.tiny_imagenet(tmp_path)
    assert source.train.shape == (3, 64, 64)
    assert source.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert (source.test.labels.tolist(), source.test.images[:, 0, 0, 0].tolist()) == (
        [1, 0],
        [10, 9],
    )
    (root / "val" / "val_annotations.txt").write_text("val_1.png\tn07\t0\t0\t9\t9\n")
    with pytest.raises(UserError, match="names class 'n07'"):
        tiny_imagenet.tiny_imagenet(tmp_path)


def no_class(folder: Path) -> Path:
    folder.mkdir()
    return folder


def truncated_parquet(folder: Path) -> Path:
    path = write_cifar_parquet(folder) / "cifar10" / "plain_text" / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-500])
    return folder


def corrupt_image(folder: Path) -> Path:
    (write_image_folder(folder) / "dog" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\nnot an image")
    return folder


def truncated_image(folder: Path) -> Path:
    path = write_image_folder(folder) / "dog" / "3.png"
    path.write_bytes(path.read_bytes()[:200])
    return folder


def empty_class(folder: Path) -> Path:
    (write_image_folder(folder) / "eel").mkdir()
    return folder


def other_test_classes(folder: Path) -> Path:
    write_image_folder(folder / "train")
    write_image_folder(folder / "test", ("cat", "eel"))
    return folder


def odd_size(folder: Path) -> Path:
    (write_image_folder(folder) / "dog" / "3.png").write_bytes(
        png(np.zeros((5, 7), dtype=np.uint8))
    )
    return folder


def bad_label(folder: Path) -> Path:
    import pyarrow.parquet as pq

    path = write_cifar_parquet(folder) / "cifar10" / "plain_text" / "test-00000-of-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "label", [[12] * len(table)]), path)
    return folder


def short_mnist(folder: Path) -> Path:
    path = write_mnist(folder, False) / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-5])
    return folder


def missing_test_part(folder: Path) -> Path:
    (
        write_cifar_parquet(folder) / "cifar10" / "plain_text" / "test-00000-of-00001.parquet"
    ).unlink()
    return folder


def other_columns(folder: Path) -> Path:
    import pyarrow.parquet as pq

    path = write_cifar_parquet(folder) / "cifar10" / "plain_text" / "train-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path).rename_columns(["picture", "label"]), path)
    return folder


@pytest.mark.parametrize(
    ("make", "read", "message"),
    [
        (lambda folder: folder, "folder", "no such folder"),
        (lambda folder: folder, "CIFAR10", "no such folder"),
        (
            no_class,
            "CIFAR10",
            "no CIFAR10 there: expected cifar10/plain_text/train-.* or cifar-10-batches-py/;"
            " for other images pass --set folder",
        ),
        (no_class, "folder", "two classes or more, found none"),
        (lambda folder: write_image_folder(folder, ("cat",)), "folder", "found only 'cat'"),
        (empty_class, "folder", "eel: a class without images"),
        (other_test_classes, "folder", "its classes are not those of the training part: dog, eel"),
        (corrupt_image, "folder", "dog/3.png: not a readable image"),
        (truncated_image, "folder", "dog/3.png: not a readable image"),
        (
            odd_size,
            "folder",
            "3.png: 7x5 pixels where the first image has 32x32: pass --image-size",
        ),
        (truncated_parquet, "CIFAR10", "not a readable parquet file"),
        (
            other_columns,
            "CIFAR10",
            "the columns picture, label; images are read from image or img, labels from label",
        ),
        (bad_label, "CIFAR10", "the label of row 0 is 12: must be 0 .. 9"),
        (missing_test_part, "CIFAR10", "no test-"),
        (no_class, "MNIST", "no MNIST there: expected train-.* or train-images-idx3-ubyte"),
        (short_mnist, "MNIST", "t10k-images-idx3-ubyte: not a readable MNIST file"),
    ],
)
def test_damaged_or_missing_data_is_one_clear_line(
    make: Any, read: str, message: str, tmp_path: Path
) -> None:
    folder = make(tmp_path / "data")
    with pytest.raises(UserError, match=message) as error:
        if read == "folder":
            decoding.in_memory(listings.find_listings(folder), None)
        elif read == "MNIST":
            mnist.mnist(folder)
        else:
            cifar.cifar(folder, read)
    assert "\n" not in str(error.value)


def change_batch(folder: Path, **values: Any) -> Path:
    path = write_official_cifar10(folder) / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(pickle.dumps({**pickle.loads(path.read_bytes()), **values}, protocol=2))
    return folder


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": np.zeros((4, 3072))}, r"data is float64 \[4, 3072\], must be uint8 \[N, 3072\]"),
        ({"data": np.zeros((4, 3072), np.int64)}, "data is int64"),
        ({"data": np.zeros((4, 32, 32, 3), np.uint8)}, r"data is uint8 \[4, 32, 32, 3\], must be"),
        ({"data": np.zeros((3072, 4), np.uint8)}, "must be uint8"),
        ({"data": [[0] * 3072] * 4}, "data is list"),
        ({"data": np.zeros((3, 3072), np.uint8)}, "3 images and 4 labels"),
        ({"labels": [0, 1, 2, 10]}, "labels run from 0 to 10, but there are 10 classes"),
        ({"labels": [0, 1, 2, -1]}, "labels must be a list of class numbers"),
        ({"labels": [0, 1, 2, 0.5]}, "labels must be a list of class numbers"),
        ({"labels": None}, "labels must be a list of class numbers"),
    ],
)
def test_arrays_of_cifar_batches_are_checked(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        cifar.cifar(change_batch(tmp_path, **values), "CIFAR10")


def test_arrays_of_other_numpys_are_the_same(tmp_path: Path) -> None:
    labels = [np.int64(1), np.uint8(2), 3, 4]
    assert cifar.cifar(change_batch(tmp_path, labels=labels), "CIFAR10").train.labels[
        4:8
    ].tolist() == [1, 2, 3, 4]


def test_the_original_research_codes_folders(tmp_path: Path) -> None:
    write_official_cifar10(tmp_path / "cifar10")
    write_mnist(tmp_path / "mnist" / "MNIST" / "raw", True)
    assert len(cifar.cifar(tmp_path, "CIFAR10").train) == 20
    assert len(mnist.mnist(tmp_path).train) == 20
    with pytest.raises(UserError, match="holds CIFAR10 and MNIST: pass --set with one of them"):
        listings.recognise(tmp_path)
    assert listings.recognise(tmp_path / "cifar10") == "CIFAR10"
    assert listings.recognise(tmp_path / "mnist") == "MNIST"


def other_magic(data: bytes) -> bytes:
    return b"\0\0\x0d\x03" + data[4:]


def many_images(data: bytes) -> bytes:
    return data[:4] + struct.pack(">I", 2**31 - 1) + data[8:]


def longer(data: bytes) -> bytes:
    return data + b"\0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_magic, "its head"),
        (many_images, "its head"),
        (longer, "more than 7,840 bytes"),
        (lambda data: b"", "its head"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_mnist_files_are_what_their_heads_say(
    packed: bool, change: Any, message: str, tmp_path: Path
) -> None:
    folder = write_mnist(tmp_path / "mnist", packed)
    path = folder / f"t10k-images-idx3-ubyte{'.gz' if packed else ''}"
    data = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    path.write_bytes(gzip.compress(change(data)) if packed else change(data))
    with pytest.raises(
        UserError, match=r"t10k-images-idx3-ubyte.*not a readable MNIST file"
    ) as error:
        mnist.mnist(folder)
    assert message in str(error.value)
