"""Scores by corruption: counted right, from images that are corrupted here or published."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import png
from torch import Tensor

from biprop.data import DataSet, digits, spread
from biprop.errors import UserError
from biprop.evaluation.counts import Counts
from biprop.robustness import classifier, scores
from biprop.robustness.classifier import Classifier
from biprop.robustness.corruptions import corrupt
from biprop.robustness.images import Generated, PublishedArrays, PublishedFolders, published
from biprop.robustness.scores import Scores, choose_cells
from biprop.robustness.severities import EXTRA, GROUPS, NAMES

DIGITS = DataSet(digits.digits())


def scores_of(accuracies: dict[tuple[str, int], int], clean: int = 100) -> Scores:
    """Of 100 images each."""
    return Scores(
        "a", Counts(100, clean), {cell: Counts(100, right) for cell, right in accuracies.items()}
    )


def test_means_are_of_corruptions_and_not_of_cells() -> None:
    measured = scores_of({("fog", 1): 80, ("fog", 5): 20, ("snow", 1): 90, ("spatter", 1): 0})
    assert measured.of("fog") == 50
    assert measured.mean() == 70  # the extra ones are none of the 15
    assert measured.mean(GROUPS["weather"]) == 70
    assert measured.mean(EXTRA) == 0
    assert measured.mean(GROUPS["noise"]) is None


def test_mce_is_the_mean_of_ratios_of_summed_errors() -> None:
    measured = scores_of({("fog", 1): 80, ("fog", 5): 20, ("snow", 1): 90})
    reference = {"fog": {1: 0.1, 5: 0.3}, "snow": {1: 0.2}}
    assert measured.mce(reference) == pytest.approx(100 * ((0.2 + 0.8) / 0.4 + 0.1 / 0.2) / 2)
    assert scores_of({("spatter", 1): 3}).mce(reference) is None


def test_mce_is_undefined_where_the_reference_makes_no_error() -> None:
    measured = scores_of({("fog", 1): 80, ("fog", 5): 20, ("snow", 1): 90, ("snow", 2): 100})
    reference = {"fog": {1: 0.0, 5: 0.3}, "snow": {1: 0.0, 2: 0.0}}
    assert measured.mce(reference) is None
    assert measured.without_errors(reference) == ["snow"]
    reference["snow"][2] = 0.0001  # one error in ten thousand images
    assert measured.mce(reference) == pytest.approx(100 * (1 / 0.3 + 0.1 / 0.0001) / 2)
    assert measured.without_errors(reference) == []


def test_a_network_is_its_own_reference(tmp_path: Path) -> None:
    cells = choose_cells("fog,noise", "2,3")
    measured = scores_of({cell: 10 + 7 * i for i, cell in enumerate(cells)})
    content = scores.as_json([measured], {"file": "x"}, None)
    (tmp_path / "x.json").write_text(json.dumps(content))
    reference = scores.read_reference(str(tmp_path / "x.json"), cells, 10)
    assert measured.mce(reference) == pytest.approx(100)
    assert content["results"][0]["corruptions"]["fog"]["2"] == {
        "right": 10,
        "images": 100,
        "accuracy": 10.0,
    }
    assert content["results"][0]["groups"]["blur"] is None


def test_alexnets_errors_are_the_published_ones() -> None:
    """Means as in google-research/augmix, imagenet.py, ALEXNET_ERR; three of them severity by
    severity.
    """
    cells = choose_cells(None, None)
    reference = scores.read_reference("alexnet", cells, 1000)
    means = {
        "gaussian_noise": 0.886428,
        "shot_noise": 0.894468,
        "impulse_noise": 0.92264,
        "defocus_blur": 0.81988,
        "glass_blur": 0.826268,
        "motion_blur": 0.785948,
        "zoom_blur": 0.79836,
        "snow": 0.866816,
        "frost": 0.826572,
        "fog": 0.819324,
        "brightness": 0.564592,
        "contrast": 0.853204,
        "elastic_transform": 0.646056,
        "pixelate": 0.71784,
        "jpeg_compression": 0.6065,
    }
    assert reference == {name: dict.fromkeys((1, 2, 3, 4, 5), mean) for name, mean in means.items()}
    by_severity = {
        "gaussian_noise": (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
        "brightness": (0.4514, 0.48502, 0.54048, 0.62166, 0.7244),
        "jpeg_compression": (0.51002, 0.54718, 0.57294, 0.65458, 0.74778),
    }
    for name, errors in by_severity.items():
        assert sum(reference[name].values()) == pytest.approx(sum(errors))
    with pytest.raises(UserError, match="there are 10 classes here"):
        scores.read_reference("alexnet", cells, 10)
    with pytest.raises(UserError, match="leave out --severities"):
        scores.read_reference("alexnet", cells[:3], 1000)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        ("{", "not a file that biprop robustness wrote"),
        ("[]", "not a file that"),
        ('{"results": []}', "not a file that"),
        (
            '{"results": [{"corruptions": {"fog": {"1": {"accuracy": 3}}}}]}',
            r"has no '2': measure it with the same",
        ),
        (
            (
                '{"results": [{"corruptions": {"fog": {"1": {"accuracy": 3}, "2": {"accuracy":'
                " NaN}}}}]}"
            ),
            "not a file that",
        ),
        ('{"results": [{"corruptions": {"fog": 3}}]}', "not a file that"),
    ],
)
def test_references_that_are_none(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "r.json").write_text(content)
    with pytest.raises(UserError, match=message):
        scores.read_reference(str(tmp_path / "r.json"), [("fog", 1), ("fog", 2)], 10)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"set": "folder", "classes": 10}, "was measured on other data: set = folder, and here"),
        ({"set": "digits", "classes": 3}, "was measured on other data: classes = 3, and here"),
        ({}, None),  # of an older version
    ],
)
def test_a_reference_is_of_the_same_data(
    facts: dict[str, Any], message: str | None, tmp_path: Path
) -> None:
    measured = scores_of({("fog", 1): 10})
    path = tmp_path / "r.json"
    path.write_text(json.dumps(scores.as_json([measured], facts, None)))
    if message is None:
        assert scores.read_reference(str(path), [("fog", 1)], 10, "digits")
        return
    with pytest.raises(UserError, match=message):
        scores.read_reference(str(path), [("fog", 1)], 10, "digits")


def test_what_a_user_may_name() -> None:
    assert choose_cells(None, None) == [(name, s) for name in NAMES for s in (1, 2, 3, 4, 5)]
    assert choose_cells("fog, noise,fog", "5,1,5") == [
        (name, s) for name in ("fog", *GROUPS["noise"]) for s in (1, 5)
    ]
    assert len(choose_cells("all", "3")) == 19
    for names, severities, message in [
        ("frog", None, "--corruptions frog: no such corruption or group; did you mean 'fog'"),
        ("fog", "0", "--severities 0: must be 1, 2, 3, 4 or 5"),
        ("fog", "6", "--severities 6: must be"),
        ("fog", "1-5", "--severities 1-5: must be"),
        ("fog,,", None, "--corruptions : no such"),
    ]:
        with pytest.raises(UserError, match=message):
            choose_cells(names, severities)


def brightness_of(pixels: Tensor) -> Tensor:
    """A network whose class is how bright the image is, of ten."""
    tenths = (pixels.float().mean((1, 2, 3)) / 25.6).long().clamp(0, 9)
    return torch.nn.functional.one_hot(tenths, 10).float()


def test_counts_are_those_of_the_images_one_by_one() -> None:
    numbers = spread(len(DIGITS.test), 50)
    source = Generated(DIGITS.test, numbers, 16, seed=3)
    cells = [("brightness", 5), ("shot_noise", 1)]
    (measured,) = classifier.count(
        Classifier([brightness_of], ["b"]),
        source.clean(),
        source,
        cells,
        torch.device("cpu"),
        lambda items, what, length: items,
    )
    pixels, labels = DIGITS.test.images[numbers], DIGITS.test.labels[numbers]  # type: ignore[attr-defined]
    assert (measured.clean.right, measured.clean.images) == (
        int((brightness_of(pixels).argmax(1) == labels).sum()),
        50,
    )
    for name, severity in cells:
        singly = [
            corrupt(p[None], name, severity, 3, [int(n)])
            for p, n in zip(pixels, numbers, strict=True)
        ]
        expected = int((brightness_of(torch.cat(singly)).argmax(1) == labels).sum())
        assert (measured.cells[name, severity].right, measured.cells[name, severity].images) == (
            expected,
            50,
        )
    rows = scores.as_rows([measured])
    assert rows[1][:5] == ["b", "none", "0", str(measured.clean.right), "50"]
    assert [row[1:3] for row in rows[2:]] == [["brightness", "5"], ["shot_noise", "1"]]


def test_images_are_spread_over_sets_that_lie_sorted_by_class() -> None:
    assert spread(10, 5).tolist() == [0, 2, 4, 6, 8]
    assert spread(3, 5).tolist() == [0, 1, 2]
    assert spread(0, 5).tolist() == []


def write_published(folder: Path, count: int = 4, labels: int | None = None, **arrays: Any) -> Path:
    folder.mkdir(exist_ok=True)
    images = np.arange(5 * count, dtype=np.uint8)[:, None, None, None] * np.ones(
        (1, 8, 8, 3), dtype=np.uint8
    )
    for name, array in {"fog": images, "snow": images + 1, **arrays}.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "labels.npy", np.arange(5 * count if labels is None else labels) % 4)
    return folder


@pytest.mark.parametrize("labels", [20, 4])
def test_published_arrays_are_read_by_severity(tmp_path: Path, labels: int) -> None:
    source = PublishedArrays(
        write_published(tmp_path / "c", labels=labels),
        ["fog", "snow"],
        (3, 8, 8),
        4,
        most=9,
        batch=3,
    )
    batches = list(source.batches("snow", 2))
    assert [pixels.shape for pixels, _ in batches] == [(3, 3, 8, 8), (1, 3, 8, 8)]
    assert torch.cat([pixels[:, 0, 0, 0] for pixels, _ in batches]).tolist() == [5, 6, 7, 8]
    assert torch.cat([of for _, of in batches]).tolist() == [0, 1, 2, 3]
    assert len(source.description) > 10
    fewer = PublishedArrays(tmp_path / "c", ["fog"], (3, 8, 8), 4, most=2, batch=3)
    assert [pixels[:, 0, 0, 0].tolist() for pixels, _ in fewer.batches("fog", 5)] == [[16, 18]]


@pytest.mark.parametrize(
    ("arrays", "labels", "message"),
    [
        (
            {"fog": np.zeros((19, 8, 8, 3), np.uint8)},
            20,
            r"fog.npy: 19 images, and 20 labels in labels.npy: must be five times N",
        ),
        ({"fog": np.zeros((25, 8, 8, 3), np.uint8)}, 20, "fog.npy: 25 images, and 20 labels"),
        ({"fog": np.zeros((0, 8, 8, 3), np.uint8)}, 20, "fog.npy: 0 images"),
        (
            {"fog": np.zeros((20, 9, 8, 3), np.uint8)},
            20,
            r"fog.npy: uint8 \[20, 9, 8, 3\]: must be uint8 \[5 N, 8, 8, 3\]",
        ),
        ({"fog": np.zeros((20, 8, 8, 3))}, 20, "fog.npy: float64"),
        ({"fog": np.array([{}])}, 20, "fog.npy: not a numpy file"),
    ],
)
def test_arrays_that_do_not_fit(
    arrays: dict[str, Any], labels: int, message: str, tmp_path: Path
) -> None:
    folder = write_published(tmp_path / "c", labels=labels, **arrays)
    with pytest.raises(UserError, match=message):
        PublishedArrays(folder, ["fog"], (3, 8, 8), 4, 100, 3)


def test_arrays_that_are_missing_or_of_other_classes(tmp_path: Path) -> None:
    folder = write_published(tmp_path / "c")
    with pytest.raises(UserError, match=r"frost.npy: cannot be read: No such file"):
        published(folder, [("frost", 1)], (3, 8, 8), ["a"] * 4, 9, 3)
    with pytest.raises(UserError, match=r"labels.npy: class 3: the network knows 0 \.\. 2"):
        published(folder, [("fog", 1)], (3, 8, 8), ["a"] * 3, 9, 3)
    with pytest.raises(UserError, match="no such folder"):
        published(tmp_path / "none", [("fog", 1)], (3, 8, 8), ["a"] * 3, 9, 3)
    for labels, message in [
        (np.arange(20) % 4 - 1, r"labels.npy: class -1: the network knows 0 \.\. 3"),
        (
            np.arange(20) // 5,
            "labels.npy: the severities have different labels: must be the same images five times",
        ),
    ]:
        np.save(folder / "labels.npy", labels)
        with pytest.raises(UserError, match=message):
            published(folder, [("fog", 1)], (3, 8, 8), ["a"] * 4, 9, 3)
    write_published(folder)
    (tmp_path / "d").mkdir()
    np.save(tmp_path / "d" / "labels.npy", np.zeros((3, 3)))
    with pytest.raises(
        UserError, match=r"labels.npy: float64 \[3, 3\]: must be a list of class numbers"
    ):
        published(tmp_path / "d", [("fog", 1)], (3, 8, 8), ["a"] * 3, 9, 3)
    (folder / "fog.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match=r"fog.npy: not a numpy file"):
        published(folder, [("fog", 1)], (3, 8, 8), ["a"] * 4, 9, 3)


@pytest.mark.parametrize("group", ["", "weather"])
def test_published_folders_are_read_as_they_are(tmp_path: Path, group: str) -> None:
    for severity in (1, 2):
        for label, name in enumerate(("cat", "dog")):
            place = tmp_path / group / "fog" / str(severity) / name
            place.mkdir(parents=True)
            for i in range(3):
                (place / f"{i}.png").write_bytes(
                    png(np.full((8, 8, 3), 100 * label + 10 * severity + i, dtype=np.uint8))
                )
    cells = [("fog", 1), ("fog", 2)]
    source = published(tmp_path, cells, (3, 8, 8), ["cat", "dog"], 100, 4)
    assert isinstance(source, PublishedFolders)
    batches = list(source.batches("fog", 2))
    assert torch.cat([pixels[:, 1, 3, 3] for pixels, _ in batches]).tolist() == [
        20,
        21,
        22,
        120,
        121,
        122,
    ]
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(UserError, match=r"other classes than the network's: cow, dog"):
        published(tmp_path, cells, (3, 8, 8), ["cat", "cow"], 100, 4)
    with pytest.raises(
        UserError,
        match=r"no such folder; --corrupted wants NAME.npy and labels.npy, or NAME/SEVERITY/CLASS/",
    ):
        published(tmp_path, [("fog", 3)], (3, 8, 8), ["cat", "dog"], 100, 4)
