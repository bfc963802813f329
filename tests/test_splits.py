"""What is held out has a share of every class."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biprop import UserError
from biprop.data.splits import TEST_LAYER, VALIDATION_LAYER, stratified, validation_size


@given(st.lists(st.integers(2, 60), min_size=2, max_size=12), st.floats(0.01, 0.5))
def test_every_class_is_on_both_sides_in_proportion(counts: list[int], share: float) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = np.random.default_rng(0).permutation(labels)
    size = round(share * len(labels))
    chosen = stratified(labels, size, 0, [str(i) for i in range(len(counts))])
    held = np.bincount(labels[chosen], minlength=len(counts))
    assert (held >= 1).all()
    assert (held < counts).all()
    ideal = size * np.array(counts) / len(labels)
    assert (np.abs(held - np.clip(ideal, 1, np.array(counts) - 1)) <= 1).all()
    assert chosen.sum() == max(size, len(counts)) or (ideal < 1).any()
    assert np.array_equal(chosen, stratified(labels, size, 0, [str(i) for i in range(len(counts))]))


def test_a_class_with_one_image_cannot_be_split() -> None:
    with pytest.raises(UserError, match="class 'eel' has too few images"):
        stratified(np.array([0, 0, 1, 1, 2]), 2, 0, ["cat", "dog", "eel"])
    assert (
        stratified(np.array([0, 0, 2, 2]), 2, 0, ["cat", "dog", "eel"]).sum() == 2
    )  # a class without any is left alone


def test_each_split_has_a_draw_of_its_own() -> None:
    labels = np.repeat(np.arange(2), 50)
    test, validation = (
        stratified(labels, 10, layer, ["cat", "dog"]) for layer in (TEST_LAYER, VALIDATION_LAYER)
    )
    assert not np.array_equal(test, validation)


def test_a_tenth_is_held_out() -> None:
    assert [validation_size(n) for n in (5, 60, 50_000, 1_281_167)] == [1, 6, 5000, 10_000]
