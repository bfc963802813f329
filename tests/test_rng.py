import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biprop import rng

# Known answers of philox4x32-10 from the Random123 distribution (Salmon et al., 2011): counter,
# key, output.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_philox_known_answers(
    counter: tuple[int, ...], key: tuple[int, int], answer: tuple[int, ...]
) -> None:
    assert tuple(rng.philox4x32(np.array([counter], dtype=np.uint32), key)[0]) == answer


def test_sign_bits_are_pinned() -> None:
    """These bits are the signs of every ticket ever written: they may never change."""
    assert "".join(map(str, rng.sign_bits(seed=0, layer=0, count=40))) == PINNED_SEED_0_LAYER_0
    assert rng.words(2**64 - 1, 7, 3).tolist() == PINNED_WORDS


PINNED_SEED_0_LAYER_0 = "".join(str(0x6627E8D5 >> i & 1) for i in range(32)) + "".join(
    str(0xE169C58D >> i & 1) for i in range(8)
)
PINNED_WORDS = [
    0xDA207BB2,
    0xF2F9310E,
    0x36608B17,
]  # confirmed with the Philox of the package randomgen


@given(
    st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(1, 300)
)
def test_a_longer_draw_begins_with_the_shorter(seed: int, layer: int, a: int, b: int) -> None:
    short, long = sorted((a, b))
    assert np.array_equal(
        rng.sign_bits(seed, layer, short), rng.sign_bits(seed, layer, long)[:short]
    )


def test_signs_are_fair_and_layers_differ() -> None:
    n = 100_000
    a, b = rng.sign_bits(1, 0, n), rng.sign_bits(1, 1, n)
    for bits in (a, b, a ^ b, rng.sign_bits(2, 0, n) ^ a):
        assert abs(int(bits.sum()) - n / 2) < 5 * np.sqrt(n) / 2


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="seed"):
        rng.words(seed, 0, 1)


def test_derived_seeds_differ() -> None:
    seeds = {
        rng.derive(3, stream, a, b) for stream in rng.Stream for a in range(5) for b in range(5)
    }
    assert len(seeds) == 25 * len(rng.Stream)


def test_streams_keep_their_numbers() -> None:
    """A part of the generator's version: signs of tickets, and order and augmentation of searches
    that are resumed.
    """
    names = ["SIGNS", "MAGNITUDES", "SCORES", "DENSE", "SPLIT", "SHUFFLE", "AUGMENT", "CUT"]
    names.append("DROPOUT")
    assert {stream.name: stream.value for stream in rng.Stream} == {
        name: number for number, name in enumerate(names)
    }
