import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biprop import native
from biprop.subnetwork import schedule
from biprop.subnetwork.masks import (
    Ranking,
    _keep_top_global_traced,
    floor_count,
    keep_top,
    keep_top_global,
    keep_top_of_all,
    keep_top_of_each,
    kept_count,
)

SCORES = st.lists(
    st.one_of(
        st.floats(width=32, allow_nan=False, allow_infinity=False),
        st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0**-149, 2.0**127]),
    ),
    min_size=1,
    max_size=200,
)


def ascending(scores: torch.Tensor) -> np.ndarray:  # type: ignore[type-arg]
    """Indices of the flattened scores in the stable ascending order of their magnitudes."""
    return np.argsort(scores.abs().flatten().numpy(), kind="stable")


def by_sorting(scores: torch.Tensor, kept: int, order: np.ndarray | None = None) -> torch.Tensor:  # type: ignore[type-arg]
    """The definition: the first in ascending order are pruned."""
    order = ascending(scores) if order is None else order
    mask = torch.ones(scores.numel(), dtype=torch.bool)
    mask[torch.from_numpy(order[: scores.numel() - kept])] = False
    return mask.view(scores.shape)


@given(SCORES, st.integers(0, 200))
def test_keep_top_is_the_sort(values: list[float], kept: int) -> None:
    scores = torch.tensor(values)
    kept = min(kept, len(values))
    mask = keep_top(scores, kept)
    assert mask.sum() == kept
    assert torch.equal(mask, by_sorting(scores, kept))


GRAIN = native.WEIGHTS
"""Scores that a thread of the compiled core takes at a time."""


def many(kind: str, count: int) -> torch.Tensor:
    """Scores of an adversarial kind."""
    uniform = torch.rand(count) - 0.5
    return {
        "uniform": uniform,
        "normal": torch.randn(count),
        "all equal": torch.full((count,), -0.25),
        "two values": torch.where(uniform > 0.2, 1.0, -0.5),
        "sorted": uniform.sort().values,
        "denormal": uniform * 2.0**-126,
        "huge": uniform * 2.0**127,
        "zeros": torch.zeros(count).where(uniform > 0.4, uniform),
    }[kind]


@pytest.mark.parametrize(
    "kind", ["uniform", "normal", "all equal", "two values", "sorted", "denormal", "huge", "zeros"]
)
@pytest.mark.parametrize("compiled", [True, False])
def test_keep_top_of_many_is_the_sort(
    kind: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(native, "library", lambda: None)
    count = 2 * GRAIN + 70_001 if compiled else 60_000
    scores = many(kind, count)
    order = ascending(scores)
    for kept in (1, count // 5, count - 1, count):
        together = by_sorting(scores, kept, order)
        assert torch.equal(keep_top(scores, kept), together)
        first = count // 2 - 1  # above the grain: its parts end inside a layer
        parts = keep_top_of_all(scores.split([first, 0, 1, count - first - 1]), kept)
        assert torch.equal(torch.cat(parts), together)


@given(
    st.integers(0, 2**32 - 1),
    st.lists(
        st.tuples(st.sampled_from([0.0, 1e-6, 1e-3, 0.1, 1e3]), st.floats(0.01, 1)), max_size=6
    ),
)
def test_a_ranking_that_remembers_chooses_as_the_sort_does(
    seed: int, steps: list[tuple[float, float]]
) -> None:
    generator, ranking = torch.Generator().manual_seed(seed), Ranking()
    scores = torch.randn(3000, generator=generator).round(decimals=2)  # many ties
    for change, density in steps:
        scores += change * torch.randn(3000, generator=generator)
        kept = kept_count(3000, density)
        parts = keep_top_of_all(scores.split([1000, 0, 2000]), kept, ranking)
        assert torch.equal(torch.cat(parts), by_sorting(scores, kept))


def test_a_remembered_window_with_too_many_in_it_is_given_up() -> None:
    ranking, uniform = Ranking(), torch.rand(native.WEIGHTS)
    for scores in (uniform, 1 + 1e-6 * uniform, torch.full_like(uniform, 0.5)):
        (mask,) = keep_top_of_each([scores], [1000], [ranking])
        assert torch.equal(mask, by_sorting(scores, 1000))


@pytest.mark.parametrize("kept", [1, 40, 60, 99])
def test_other_devices_way_is_the_sort(kept: int) -> None:
    scores = torch.randint(
        -9, 9, (100,)
    ).half()  # on the CPU, half precision goes the way of other devices
    assert torch.equal(keep_top(scores, kept), by_sorting(scores, kept))


@given(st.lists(SCORES, min_size=1, max_size=5), st.floats(0.01, 1), st.floats(0, 0.3))
def test_keep_top_global_keeps_exactly_k_and_every_floor(
    layers: list[list[float]], density: float, floor: float
) -> None:
    scores = [torch.tensor(values) for values in layers]
    floors = [floor_count(s.numel(), floor) for s in scores]
    kept = max(kept_count(sum(s.numel() for s in scores), density), sum(floors))
    masks = keep_top_global(scores, kept, floors)
    without_the_core = _keep_top_global_traced(scores, kept, floors)
    assert all(map(torch.equal, masks, without_the_core))
    assert sum(int(m.sum()) for m in masks) == kept
    assert all(m.sum() >= f for m, f in zip(masks, floors, strict=True))
    # Within a layer the kept ones are its top; and the same set follows from pinning the floors
    # first and ranking the rest.
    for mask, s in zip(masks, scores, strict=True):
        assert torch.equal(mask, by_sorting(s, int(mask.sum())))
    # The same set follows from pinning every layer's floor first and ranking the rest.
    pinned = torch.cat([by_sorting(s, f) for s, f in zip(scores, floors, strict=True)])
    rest = torch.where(pinned, -1.0, torch.cat(scores).abs())
    order = np.argsort(rest.numpy(), kind="stable")
    pinned[torch.from_numpy(order[len(order) - (kept - sum(floors)) :].copy())] = True
    assert torch.equal(torch.cat(masks), pinned)


def test_global_without_a_poor_layer_is_one_ranking() -> None:
    scores = [torch.randn(50), torch.randn(4, 5)]
    masks = keep_top_global(scores, 30, [1, 1])
    flat = by_sorting(torch.cat([s.flatten() for s in scores]), 30)
    assert torch.equal(torch.cat([m.flatten() for m in masks]), flat)


def test_a_layer_of_tiny_scores_keeps_its_floor() -> None:
    masks = keep_top_global([torch.randn(1000), torch.randn(1000) * 1e-9], 200, [1, 7])
    assert [int(m.sum()) for m in masks] == [193, 7]


def test_a_floor_is_a_fraction_and_at_least_one_weight() -> None:
    assert [floor_count(n, 0.001) for n in (1, 999, 1999, 5000)] == [1, 1, 1, 5]
    assert floor_count(70, 0.0) == 1


def test_floors_above_the_total_are_refused() -> None:
    with pytest.raises(ValueError, match="lower the floor"):
        keep_top_global([torch.randn(10)] * 2, 3, [2, 2])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(FloatingPointError):
        keep_top(torch.tensor([1.0, bad, 2.0]), 1)


@given(st.integers(1, 10**7), st.floats(1e-6, 1))
def test_kept_count_is_the_papers(n: int, density: float) -> None:
    assert kept_count(n, density) == max(1, n - int((1 - density) * n))


def test_kept_count_uses_double_arithmetic() -> None:
    assert kept_count(10, 0.8) == 9  # (1 - 0.8) * 10 is a little below 2


@settings(max_examples=50)
@given(st.floats(0.01, 0.5), st.integers(1, 30))
def test_the_schedule_falls_from_one_half_to_the_density(density: float, ramp: int) -> None:
    course = [schedule.scheduled_density(density, epoch, ramp) for epoch in range(ramp + 2)]
    assert course[0] == pytest.approx(0.5)
    assert course[ramp] == course[-1] == density
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(course))


def test_schedule_formula_and_its_exceptions() -> None:
    assert 1 - schedule.scheduled_density(0.2, 5, 10) == pytest.approx(0.8 + (0.5 - 0.8) * 0.125)
    assert schedule.scheduled_density(0.7, 0, 10) == 0.7
    assert schedule.ramp_epochs(10, 100) == 10
    assert schedule.ramp_epochs(10, 6) == 2
    assert schedule.ramp_epochs(10, 2) == 0
