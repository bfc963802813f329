"""Tables of severities: complete, as published, and chosen by size."""

import pytest

from biprop.robustness import severities
from biprop.robustness.severities import (
    CIFAR,
    EXTRA,
    GROUPS,
    IMAGENET,
    NAMES,
    SEVERITIES,
    TINY_IMAGENET,
)


def test_fifteen_make_up_a_score_and_four_are_extra() -> None:
    assert (len(NAMES), len(EXTRA)) == (15, 4)
    assert sum(GROUPS.values(), ()) == NAMES
    assert len(set(NAMES + EXTRA)) == 19


@pytest.mark.parametrize("table", [CIFAR, TINY_IMAGENET, IMAGENET], ids=["32", "64", "224"])
def test_every_table_has_five_severities_of_every_corruption(
    table: dict[str, tuple[object, ...]],
) -> None:
    assert set(table) == set(NAMES + EXTRA)
    assert {len(row) for row in table.values()} == {len(SEVERITIES)}


# The numbers once more, written down from the authors' programs (hendrycks/robustness,
# ImageNet-C/create_c/make_*_c.py), not from the tables: severities 1 to 5 between bars. zoom_blur:
# end and step of np.arange(1, end, step).
MAKE_CIFAR_C = """
gaussian_noise     0.04 | 0.06 | 0.08 | 0.09 | 0.10
shot_noise         500 | 250 | 100 | 75 | 50
impulse_noise      0.01 | 0.02 | 0.03 | 0.05 | 0.07
defocus_blur       0.3 0.4 | 0.4 0.5 | 0.5 0.6 | 1 0.2 | 1.5 0.1
glass_blur         0.05 1 1 | 0.25 1 1 | 0.4 1 1 | 0.25 1 2 | 0.4 1 2
motion_blur        6 1 | 6 1.5 | 6 2 | 8 2 | 9 2.5
zoom_blur          1.06 0.01 | 1.11 0.01 | 1.16 0.01 | 1.21 0.01 | 1.26 0.01
snow               0.1 0.2 1 0.6 8 3 0.95 | 0.1 0.2 1 0.5 10 4 0.9 | 0.15 0.3 1.75 0.55 10 4 0.9
                   | 0.25 0.3 2.25 0.6 12 6 0.85 | 0.3 0.3 1.25 0.65 14 12 0.8
frost              1 0.2 | 1 0.3 | 0.9 0.4 | 0.85 0.4 | 0.75 0.45
fog                0.2 3 | 0.5 3 | 0.75 2.5 | 1 2 | 1.5 1.75
brightness         0.05 | 0.1 | 0.15 | 0.2 | 0.3
contrast           0.75 | 0.5 | 0.4 | 0.3 | 0.15
elastic_transform  0 0 0.08 | 0.05 0.2 0.07 | 0.08 0.06 0.06 | 0.1 0.04 0.05 | 0.1 0.03 0.03
pixelate           0.95 | 0.9 | 0.85 | 0.75 | 0.65
jpeg_compression   80 | 65 | 58 | 50 | 40
speckle_noise      0.06 | 0.1 | 0.12 | 0.16 | 0.2
gaussian_blur      0.4 | 0.6 | 0.7 | 0.8 | 1
spatter            0.62 0.1 0.7 0.7 0.5 0 | 0.65 0.1 0.8 0.7 0.5 0 | 0.65 0.3 1 0.69 0.5 0
                   | 0.65 0.1 0.7 0.69 0.6 1 | 0.65 0.1 0.5 0.68 0.6 1
saturate           0.3 0 | 0.1 0 | 1.5 0 | 2 0.1 | 2.5 0.2
"""
MAKE_TINYIMAGENET_C = """
gaussian_noise     0.04 | 0.08 | 0.12 | 0.15 | 0.18
shot_noise         250 | 100 | 50 | 30 | 15
impulse_noise      0.01 | 0.02 | 0.05 | 0.08 | 0.14
defocus_blur       0.5 0.6 | 1 0.1 | 1.5 0.1 | 2.5 0.01 | 3 0.1
glass_blur         0.1 1 1 | 0.5 1 1 | 0.6 1 2 | 0.7 2 1 | 0.9 2 2
motion_blur        10 1 | 10 1.5 | 10 2 | 10 2.5 | 12 3
zoom_blur          1.06 0.01 | 1.11 0.01 | 1.16 0.01 | 1.21 0.01 | 1.26 0.01
snow               0.1 0.2 1 0.6 8 3 0.8 | 0.1 0.2 1 0.5 10 4 0.8 | 0.15 0.3 1.75 0.55 10 4 0.7
                   | 0.25 0.3 2.25 0.6 12 6 0.65 | 0.3 0.3 1.25 0.65 14 12 0.6
frost              1 0.3 | 0.9 0.4 | 0.8 0.45 | 0.75 0.5 | 0.7 0.55
fog                0.4 3 | 0.7 3 | 1 2.5 | 1.5 2 | 2 1.75
brightness         0.1 | 0.2 | 0.3 | 0.4 | 0.5
contrast           0.4 | 0.3 | 0.2 | 0.1 | 0.05
elastic_transform  0 0 0.08 | 0.05 0.3 0.06 | 0.1 0.08 0.06 | 0.1 0.03 0.03 | 0.16 0.03 0.02
pixelate           0.9 | 0.8 | 0.7 | 0.6 | 0.5
jpeg_compression   65 | 58 | 50 | 40 | 25
speckle_noise      0.15 | 0.2 | 0.25 | 0.3 | 0.35
gaussian_blur      0.5 | 0.75 | 1 | 1.25 | 1.5
spatter            0.62 0.1 0.7 0.7 0.6 0 | 0.65 0.1 0.8 0.7 0.6 0 | 0.65 0.3 1 0.69 0.6 0
                   | 0.65 0.1 0.7 0.68 0.6 1 | 0.65 0.1 0.5 0.67 0.6 1
saturate           0.3 0 | 0.1 0 | 2 0 | 5 0.1 | 30 0.2
"""
MAKE_IMAGENET_C = """
gaussian_noise     0.08 | 0.12 | 0.18 | 0.26 | 0.38
shot_noise         60 | 25 | 12 | 5 | 3
impulse_noise      0.03 | 0.06 | 0.09 | 0.17 | 0.27
defocus_blur       3 0.1 | 4 0.5 | 6 0.5 | 8 0.5 | 10 0.5
glass_blur         0.7 1 2 | 0.9 2 1 | 1 2 3 | 1.1 3 2 | 1.5 4 2
motion_blur        10 3 | 15 5 | 15 8 | 15 12 | 20 15
zoom_blur          1.11 0.01 | 1.16 0.01 | 1.21 0.02 | 1.26 0.02 | 1.31 0.03
snow               0.1 0.3 3 0.5 10 4 0.8 | 0.2 0.3 2 0.5 12 4 0.7 | 0.55 0.3 4 0.9 12 8 0.7
                   | 0.55 0.3 4.5 0.85 12 8 0.65 | 0.55 0.3 2.5 0.85 12 12 0.55
frost              1 0.4 | 0.8 0.6 | 0.7 0.7 | 0.65 0.7 | 0.6 0.75
fog                1.5 2 | 2 2 | 2.5 1.7 | 2.5 1.5 | 3 1.4
brightness         0.1 | 0.2 | 0.3 | 0.4 | 0.5
contrast           0.4 | 0.3 | 0.2 | 0.1 | 0.05
elastic_transform  2 0.7 0.1 | 2 0.08 0.2 | 0.05 0.01 0.02 | 0.07 0.01 0.02 | 0.12 0.01 0.02
pixelate           0.6 | 0.5 | 0.4 | 0.3 | 0.25
jpeg_compression   25 | 18 | 15 | 10 | 7
speckle_noise      0.15 | 0.2 | 0.35 | 0.45 | 0.6
gaussian_blur      1 | 2 | 3 | 4 | 6
spatter            0.65 0.3 4 0.69 0.6 0 | 0.65 0.3 3 0.68 0.6 0 | 0.65 0.3 2 0.68 0.5 0
                   | 0.65 0.3 1 0.65 1.5 1 | 0.67 0.4 1 0.65 1.5 1
saturate           0.3 0 | 0.1 0 | 2 0 | 5 0.1 | 20 0.2
"""


def rows(published: str) -> dict[str, list[list[float]]]:
    """Corruption -> severity -> numbers."""
    named = (
        line.split(maxsplit=1) for line in published.replace("\n    ", " ").strip().splitlines()
    )
    return {
        name: [[float(number) for number in part.split()] for part in numbers.split("|")]
        for name, numbers in named
    }


@pytest.mark.parametrize(
    ("table", "published"),
    [(CIFAR, MAKE_CIFAR_C), (TINY_IMAGENET, MAKE_TINYIMAGENET_C), (IMAGENET, MAKE_IMAGENET_C)],
    ids=["32", "64", "224"],
)
def test_every_number_is_the_published_one(
    table: dict[str, tuple[object, ...]], published: str
) -> None:
    expected = rows(published)
    if table is IMAGENET:  # its elastic_transform multiplies by 244 pixels on images of 224
        expected["elastic_transform"] = [
            [number * 244 / 224 for number in part] for part in expected["elastic_transform"]
        ]
    assert list(table) == list(expected)
    for name, severities_of in table.items():
        numbers = [list(entry) if isinstance(entry, tuple) else [entry] for entry in severities_of]
        assert numbers == [pytest.approx(part) for part in expected[name]], name


@pytest.mark.parametrize(
    ("side", "table"),
    [(28, CIFAR), (32, CIFAR), (64, TINY_IMAGENET), (96, TINY_IMAGENET), (224, IMAGENET)],
)
def test_the_nearest_published_size_counts(side: int, table: dict[str, tuple[object, ...]]) -> None:
    for severity in SEVERITIES:
        assert severities.parameters("fog", severity, side) == table["fog"][severity - 1]
