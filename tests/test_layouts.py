"""Folders and files become parts or classes, or are refused; never parts as classes."""

from pathlib import Path

import numpy as np
import pytest
from conftest import png

from biprop import UserError
from biprop.data import layouts, listings
from biprop.names import TEST, TRAIN, VALIDATION

PICTURE = png(np.zeros((4, 4), dtype=np.uint8))


def make(root: Path, *files: str, count: int = 1) -> Path:
    """Images of 4x4 pixels, `count` in each of the folders (a name with a dot is a file of its
    own).
    """
    root.mkdir(exist_ok=True)
    for name in files:
        path = root / name
        paths = [path] if path.suffix else [path / f"{i}.png" for i in range(count)]
        for one in paths:
            one.parent.mkdir(parents=True, exist_ok=True)
            one.write_bytes(PICTURE)
    return root


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["train", "test"], {TRAIN: "train", TEST: "test"}),
        (["TRAIN", "Testing", "Dev"], {TRAIN: "TRAIN", TEST: "Testing", VALIDATION: "Dev"}),
        (["training", "validation"], {TRAIN: "training", VALIDATION: "validation"}),
        (["seg_train", "seg_test", "seg_pred"], {TRAIN: "seg_train", TEST: "seg_test"}),
        (["Train-images", "Valid-images"], {TRAIN: "Train-images", VALIDATION: "Valid-images"}),
        (["train", "test_old"], {TRAIN: "train"}),
        (["test_tube", "train_station"], {}),
        (["cat", "dog", "latest", "trainer"], {}),
        ([], {}),
    ],
)
def test_parts_by_their_names(names: list[str], parts: dict[str, str]) -> None:
    assert layouts.parts_among(names, "here") == parts


def test_two_names_of_one_part_are_refused() -> None:
    with pytest.raises(UserError, match="here: val and valid are one part, validation"):
        layouts.parts_among(["train", "val", "valid"], "here")


@pytest.mark.parametrize(
    ("folders", "found"),
    [
        (["Train/a", "Train/b", "Test/a", "Test/b"], {TRAIN: "Train", TEST: "Test"}),
        (
            ["x_train/x_train/a", "x_train/x_train/b", "x_test/a"],
            {TRAIN: "x_train/x_train", TEST: "x_test"},
        ),
        (["photos/cat", "photos/dog"], {"": "photos"}),
        (["photos/train/cat", "photos/train/dog"], {TRAIN: "photos/train"}),
        (["photos/Train/cat", "photos/Train/dog"], {TRAIN: "photos/Train"}),
        (["cat", "dog"], {"": "."}),
        (["cat/images", "dog/images"], {"": "."}),
        (["car", "ship", "train"], {"": "."}),
        (["a", "b", "test"], {"": "."}),
        (["a", "b", ".ipynb_checkpoints", "__MACOSX/a", "@eaDir"], {"": "."}),
    ],
)
def test_layouts_of_images(folders: list[str], found: dict[str, str], tmp_path: Path) -> None:
    root = make(tmp_path / "d", *folders)
    assert layouts.of_images(root) == {part: root / place for part, place in found.items()}


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            ["val/a", "val/b", "test/a", "test/b"],
            "no known layout: found test/, val/; no training part; known are train/CLASS/",
        ),
        (["cifar/train/a", "mnist/train/a"], "cifar/ is no class: it has train/"),
        (
            ["cat/train", "cat/test", "dog/train", "dog/test"],
            "cat/ is no class: it has test/, train/",
        ),
        (["one/a", "one/b", "two/a", "two/b"], "they all have a/, b/: are they parts"),
        (
            ["train/a", "train/b", "holdout/a", "holdout/b"],
            "holdout/ has folders of classes, but its name means no part",
        ),
        (
            ["train", "masks"],
            "needs one folder of images for each of two classes or more, found none",
        ),
        (
            ["train/a", "train/b", "Valid/a", "Valid/b", "val/a", "val/b"],
            "Valid and val are one part",
        ),
    ],
)
def test_what_is_no_known_layout_is_refused(
    folders: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as error:
        listings.find_listings(make(tmp_path / "d", *folders))
    assert "\n" not in str(error.value)


def test_two_parts_in_one_folder_are_refused(tmp_path: Path) -> None:
    root = make(tmp_path / "d", "train/a", "train/b")
    (root / "val").symlink_to("train")
    with pytest.raises(UserError, match="train and val are the same folder"):
        layouts.of_images(root)


def test_hidden_files_are_no_data_and_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    elsewhere = make(tmp_path / "elsewhere", "more", count=2)
    root = make(
        tmp_path / "d",
        "a",
        "b",
        "a/.x/y.png",
        "a/._0.png",
        "a/__MACOSX/z.png",
        "b/deep/er",
        count=3,
    )
    (root / "a" / "link").symlink_to(elsewhere / "more")
    (root / "a" / "again").symlink_to(elsewhere / "more")
    (root / "b" / "circle").symlink_to(root / "b")
    parts = listings.find_listings(root)
    assert sorted(
        np.bincount(np.concatenate([parts.train.labels, parts.test.labels])).tolist()
    ) == [5, 6]


def test_parts_of_images_are_used_as_they_are_labelled(tmp_path: Path) -> None:
    both = make(
        tmp_path / "both", "train/a", "train/b", "val/a", "val/b", "test/a", "test/b", count=2
    )
    parts = listings.find_listings(both)
    assert parts.validation is not None
    assert parts.validation.tolist() == [False] * 4 + [True] * 4
    assert [parts.train.items.name(i).split("/")[-3] for i in (3, 4)] == ["train", "val"]
    assert len(parts.test.labels) == 4
    bare = make(tmp_path / "bare", "train/a", "train/b", "val/a", "val/b", "test/images", count=2)
    parts = listings.find_listings(bare)
    assert (parts.validation, len(parts.test.labels)) == (None, 4)
    assert parts.notes == [f"{bare}: the test part (test/) has no labels, and is left out"]
    assert parts.about == "2 classes (a, b), 8 images: train train/, test val/"


def test_images_that_are_left_out_are_named(tmp_path: Path) -> None:
    root = make(tmp_path / "d", "a", "b", "loose.png", "a/x.HEIC", "a/y.jfif", count=3)
    notes = listings.find_listings(root).notes
    assert notes == [
        f"{root}: 1 files are left out (.heic): save them as PNG or JPEG to use them",
        f"{root}: 1 images that are in no class are left out",
    ]


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        (
            ["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"],
            {TRAIN: 2, TEST: 1},
        ),
        (["data/train-0", "data/validation-0"], {TRAIN: 1, VALIDATION: 1}),
        (["default/train/0000", "default/test/0000"], {TRAIN: 1, TEST: 1}),
        (["default/partial-train/0000", "default/partial-test/0000"], {TRAIN: 1, TEST: 1}),
        (["Train/part-00000-c1.snappy", "Test/part-00000-c1.snappy"], {TRAIN: 1, TEST: 1}),
        (["train", "valid", "test"], {TRAIN: 1, VALIDATION: 1, TEST: 1}),
        (["mnist_train", "mnist_test"], {TRAIN: 1, TEST: 1}),
        (["part-00000", "part-00001"], {TRAIN: 2}),
        ([".hidden/train-0"], {}),
        (["data/train-0", "assets/figure.png", "logo.png"], {TRAIN: 1}),
    ],
)
def test_parquet_files_by_their_names(
    files: list[str], parts: dict[str, int], tmp_path: Path
) -> None:
    for name in files:
        path = tmp_path / (name if name.endswith(".png") else f"{name}.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert {part: len(found) for part, found in layouts.of_parquet(tmp_path).items()} == parts


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["a/train-0", "b/train-0"],
            (
                "several data sets, pass --data with the folder of one: found a/train-0.parquet,"
                " b/train-0"
            ),
        ),
        (["train-0", "extra-0"], "extra-0.parquet: the name means no part of the data set"),
        (["test-0"], "no training part: found test-0.parquet"),
    ],
)
def test_parquet_files_of_no_known_layout(files: list[str], message: str, tmp_path: Path) -> None:
    for name in files:
        path = tmp_path / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with pytest.raises(UserError, match=message):
        layouts.of_parquet(tmp_path)


def test_sets_lie_beside_others_in_folders_of_their_names(tmp_path: Path) -> None:
    make(
        tmp_path / "d",
        "imagenet/train/n1",
        "imagenet/train/n2",
        "imagenet/val/n1",
        "imagenet/val/n2",
        "cifar10/x",
    )
    assert len(listings.imagenet(tmp_path / "d").test.labels) == 2
    with pytest.raises(UserError, match=r"imagenet/ is no class: it has train/, val/"):
        listings.find_listings(tmp_path / "d")


def test_an_archive_is_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"photos.zip: is a file: unpack it"):
        listings.find_listings(tmp_path / "photos.zip")
