import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biprop.report.scales import LARGEST, Axis, Scale, byte_count, drawable, round_ticks

VALUES = st.floats(-LARGEST, LARGEST)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3.0),
        (-2.5, -2.5),
        (math.nan, None),
        (math.inf, None),
        (-math.inf, None),
        (1e308, None),
        (10**400, None),
        (True, None),
        ("3", None),
        (None, None),
        ([1], None),
    ],
)
def test_only_finite_numbers_are_drawn(value: object, expected: float | None) -> None:
    assert drawable(value) == expected


def test_known_coordinates() -> None:
    assert [Scale(0, 100, 40, 330)(value) for value in (0, 50, 100)] == [40, 185, 330]
    assert Scale(0, 10, 200, 20)(2.5) == 155  # y grows downwards
    assert Scale(1, 3, 0, 10, is_log=True)(100) == pytest.approx(5)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (0.31, 1.62, [0.5, 1.0, 1.5]),
        (-3, 3, [-2, 0, 2]),
        (94.8, 99.9, [95, 96, 97, 98, 99]),
        (97.2, 99.6, [97.5, 98, 98.5, 99, 99.5]),
        (0, 1e15, [0, 2e14, 4e14, 6e14, 8e14, 1e15]),
    ],
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert round_ticks(low, high) == pytest.approx(ticks)


def test_ticks_of_whole_numbers() -> None:
    axis = Axis("epoch", whole=True)
    assert axis.ticks(axis.scale([1, 3], 0, 100)) == [1, 2, 3]


def test_logarithmic_ticks() -> None:
    axis = Axis("bytes", is_log=True)
    ticks = axis.ticks(axis.scale([900, 1.1e6], 0, 100))
    assert ticks == pytest.approx([1e3, 1e4, 1e5, 1e6])
    assert axis.ticks(axis.scale([5, 60], 0, 100)) == pytest.approx([5, 7, 10, 20, 30, 50])


def test_the_margin_stays_within_the_limits() -> None:
    scale = Axis("accuracy, %", low=0, high=100).scale([50, 100], 0, 1)
    assert (scale.low, scale.high) == (48, 100)


def test_values_that_differ_by_less_than_the_least_span_look_equal() -> None:
    scale = Axis("kept, %", least_span=0.4).scale([20, 20.002], 0, 100)
    assert scale(20) == pytest.approx(scale(20.002), abs=1)
    assert 30 < scale(20) < 70


@given(st.lists(VALUES, min_size=1, max_size=5), st.booleans())
def test_every_value_is_between_the_ends(values: list[float], whole: bool) -> None:
    axis = Axis("", whole=whole)
    scale = axis.scale(values, 10, 300)
    assert all(9.9 <= scale(value) <= 300.1 for value in values)
    ticks = axis.ticks(scale)
    assert len(ticks) <= 7
    assert all(9 <= scale(tick) <= 301 for tick in ticks)


@given(st.lists(st.floats(1e-9, LARGEST), min_size=1, max_size=5))
def test_every_value_is_between_the_ends_of_a_logarithmic_axis(values: list[float]) -> None:
    axis = Axis("", is_log=True)
    scale = axis.scale(values, 10, 300)
    assert all(9.9 <= scale(value) <= 300.1 for value in values)
    assert len(axis.ticks(scale)) <= 7


def test_byte_counts() -> None:
    assert [byte_count(value) for value in (900, 11_152, 2_500_000)] == [
        "900 B",
        "11.2 kB",
        "2.5 MB",
    ]
