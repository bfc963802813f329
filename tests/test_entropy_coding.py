"""The entropy coder: what goes in comes out, in the bits that it should take, by numpy and by the
compiled core alike.
"""

import hashlib
import math
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from biprop import native, rng
from biprop.ticket import entropy_coding
from biprop.ticket.entropy_coding import MOST_LANES, PIECE, CodingError, Model

SHAPES = st.lists(st.integers(0, 7), min_size=0, max_size=4).map(tuple)
MODELS = st.one_of(st.just(Model()), st.builds(Model, st.sampled_from("io"), st.integers(0, 20)))


def decoded(
    stream: NDArray[np.uint8], masks: Sequence[NDArray[np.bool_]], models: Sequence[Model]
) -> list[NDArray[np.bool_]]:
    planes = entropy_coding.decode(
        stream, [m.shape for m in masks], [int(m.sum()) for m in masks], models
    )
    return [
        np.unpackbits(plane, count=m.size, bitorder="little").view(np.bool_).reshape(m.shape)
        for plane, m in zip(planes, masks, strict=True)
    ]


@st.composite
def coded_masks(draw: st.DrawFn) -> tuple[list[NDArray[np.bool_]], list[Model] | None]:
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    shapes = draw(st.lists(SHAPES, max_size=5))
    masks = [
        np.asarray(generator.random(shape) < draw(st.sampled_from([0, 0.01, 0.2, 0.5, 0.97, 1])))
        for shape in shapes
    ]
    return masks, draw(st.one_of(st.none(), st.tuples(*(MODELS for _ in masks)).map(list)))


@given(coded_masks())
def test_what_goes_in_comes_out(case: tuple[list[NDArray[np.bool_]], list[Model] | None]) -> None:
    masks, wanted = case
    models = [entropy_coding.best_model(mask) for mask in masks] if wanted is None else wanted
    stream = entropy_coding.encode(masks, models)
    assert all(
        np.array_equal(a, b) for a, b in zip(decoded(stream, masks, models), masks, strict=True)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "library", lambda: None)
        assert np.array_equal(entropy_coding.encode(masks, models), stream)
        assert all(
            np.array_equal(a, b) for a, b in zip(decoded(stream, masks, models), masks, strict=True)
        )


def large_masks() -> list[NDArray[np.bool_]]:
    """400,000 weights: uniform; by input channel; by output channel."""
    generator = np.random.default_rng(1)
    by_input = np.exp(generator.normal(-2, 0.8, (1, 128, 1)))
    by_output = np.exp(generator.normal(-2, 0.8, (128, 1, 1)))
    shape = (128, 128, 9)
    return [generator.random(shape) < p for p in (0.05, by_input, by_output)]


@pytest.mark.parametrize("compiled", [True, False])
def test_a_large_stream_takes_what_its_models_cost(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(native, "library", lambda: None)
    masks = large_masks()
    models = [entropy_coding.best_model(mask) for mask in masks]
    stream = entropy_coding.encode(masks, models)
    assert [m.order for m in models] == ["", "o", "i"]
    assert all(
        np.array_equal(a, b) for a, b in zip(decoded(stream, masks, models), masks, strict=True)
    )
    cost = sum(entropy_coding.cost(mask, model) for mask, model in zip(masks, models, strict=True))
    lanes = entropy_coding.lanes_for(sum(m.size for m in masks))
    assert lanes == 8
    assert cost < 8 * len(stream) < 1.0005 * cost + 64 * lanes
    ideal = [entropy_coding.entropy(int(m.sum()), m.size) for m in masks]
    assert entropy_coding.cost(masks[0], models[0]) == pytest.approx(ideal[0], rel=1e-6)
    assert all(
        entropy_coding.cost(m, model) < 0.95 * bits
        for m, model, bits in zip(masks[1:], models[1:], ideal[1:], strict=True)
    )


def test_the_stream_never_changes_its_meaning() -> None:
    small, large = (
        rng.sign_bits(seed, 0, 4 * 6 * 9).reshape(4, 6, 9).view(np.bool_) for seed in (3, 4)
    )
    bits = small & large
    stream = entropy_coding.encode([bits, bits, bits], [Model(), Model("o", 3), Model("i", 6)])
    assert hashlib.sha256(stream.tobytes()).hexdigest() == PINNED


PINNED = "480cbc36881df8d96a814d0f5e2a7b2f4a27e7fc127ed3a98231d7269c0b9aa0"


def test_entropy() -> None:
    assert entropy_coding.entropy(1, 2) == 2
    assert (
        entropy_coding.entropy(0, 5)
        == entropy_coding.entropy(5, 5)
        == entropy_coding.entropy(0, 0)
        == 0
    )
    assert entropy_coding.entropy(20, 100) == pytest.approx(
        100 * -(0.2 * math.log2(0.2) + 0.8 * math.log2(0.8))
    )


def test_a_damaged_stream_is_refused_and_never_crashes() -> None:
    generator = np.random.default_rng(2)
    masks = [generator.random((16, 8, 9)) < 0.2, generator.random((10, 30)) < 0.4]
    models = [entropy_coding.best_model(mask) for mask in masks]
    stream = entropy_coding.encode(masks, models)
    refused = 0
    for _ in range(500):
        damaged = stream.copy()
        damaged[generator.integers(len(damaged))] ^= generator.integers(1, 256)
        try:
            masks_read = decoded(damaged, masks, models)
        except CodingError:
            refused += 1
        else:
            assert [int(m.sum()) for m in masks_read] == [int(m.sum()) for m in masks]
    assert refused == 500
    for cut in (0, 3, 4, 8, len(stream) - 4):
        with pytest.raises(CodingError):
            decoded(stream[:cut], masks, models)
    with pytest.raises(CodingError, match="does not end"):
        decoded(np.concatenate([stream, np.zeros(4, np.uint8)]), masks, models)
    with pytest.raises(CodingError, match="impossible state"):
        decoded(np.zeros_like(stream), masks, models)


@pytest.mark.parametrize("text", ["x", "o", "o21", "i-1", "o1 ", "5"])
def test_an_unknown_model_is_refused(text: str) -> None:
    with pytest.raises(CodingError, match="unknown model"):
        Model.of(text)


@given(MODELS)
def test_a_model_is_its_text(model: Model) -> None:
    assert Model.of(str(model)) == model


@pytest.mark.parametrize("compiled", [True, False])
def test_pieces_are_coded_as_the_whole(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(native, "library", lambda: None)
    mask = np.random.default_rng(0).random((3, 1501)) < 0.1
    models = [Model(), Model("o", 3), Model("i", 6)]
    whole = entropy_coding.encode([mask] * 3, models)
    monkeypatch.setattr(entropy_coding, "PIECE", 512)
    assert np.array_equal(entropy_coding.encode([mask] * 3, models), whole)
    assert all(np.array_equal(mask, read) for read in decoded(whole, [mask] * 3, models))


def test_a_small_stream_of_a_large_mask_takes_the_memory_of_its_plane() -> None:
    size = 1 << 24
    plane = np.zeros(size // 8, dtype=np.uint8)
    plane[-1] = 128
    tracemalloc.start()
    stream = entropy_coding.encode_planes([plane], [(size,)], [1], [Model()])
    (read,) = entropy_coding.decode(stream, [(size,)], [1], [Model()])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(read, plane)
    assert peak < size // 8 + 8 * PIECE < size
    assert entropy_coding.cost_of_constant(1, size) == pytest.approx(
        8 * len(stream), abs=8 * 8 * MOST_LANES
    )


def test_large_masks_are_coded_row_by_row_only_where_the_stream_pays_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mask = large_masks()[1][:64, :64]
    assert entropy_coding.best_model(mask) != Model()
    monkeypatch.setattr(entropy_coding, "MOST_UNPACKED", 1000)
    assert entropy_coding.may_be_unpacked(1000, 0)
    assert entropy_coding.best_model(mask) != Model()  # its cost bounds its size
    monkeypatch.setattr(entropy_coding, "WEIGHTS_A_BIT", 1)
    assert entropy_coding.best_model(mask) == Model()
