"""Tables of severities: complete, and chosen by size."""

import pytest

from biprop import severities
from biprop.severities import CIFAR, EXTRA, GROUPS, IMAGENET, NAMES, SEVERITIES, TINY_IMAGENET


def test_fifteen_make_up_a_score_and_four_are_extra() -> None:
    assert (len(NAMES), len(EXTRA)) == (15, 4)
    assert sum(GROUPS.values(), ()) == NAMES
    assert len(set(NAMES + EXTRA)) == 19


@pytest.mark.parametrize("table", [CIFAR, TINY_IMAGENET, IMAGENET], ids=["32", "64", "224"])
def test_every_table_has_five_severities_of_every_corruption(table: dict[str, tuple[object, ...]]) -> None:
    assert set(table) == set(NAMES + EXTRA)
    assert {len(row) for row in table.values()} == {len(SEVERITIES)}


@pytest.mark.parametrize(("side", "table"), [(28, CIFAR), (32, CIFAR), (64, TINY_IMAGENET), (96, TINY_IMAGENET), (224, IMAGENET)])
def test_the_nearest_published_size_counts(side: int, table: dict[str, tuple[object, ...]]) -> None:
    for severity in SEVERITIES:
        assert severities.parameters("fog", severity, side) == table["fog"][severity - 1]
