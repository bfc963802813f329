"""Decks as ONNX models: ONNX Runtime answers as the deck does."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_deck import CLASSES, card, gate, own_card
from test_export import needs_onnx, session_of

from biprop import Deck
from biprop.cli import command_line
from biprop.deck.export import save_onnx
from biprop.deck.gate import Gate

pytestmark = needs_onnx
RANDOM = np.random.default_rng(1)
START = RANDOM.bit_generator.state


@pytest.fixture(autouse=True)
def the_same_numbers_whatever_ran_before() -> None:
    RANDOM.bit_generator.state = START


def images(shape: tuple[int, ...], count: int = 6) -> NDArray[np.uint8]:
    """Half of them darker, as those of another kind."""
    pixels = RANDOM.integers(0, 256, (count, *shape), dtype=np.uint8)
    pixels[count // 2 :] //= 4
    return pixels


def answers(path: Path, pixels: NDArray[np.uint8]) -> NDArray[Any]:
    taken = pixels.astype(np.float32) / np.float32(255)
    (probabilities,) = session_of(path).run(["probabilities"], {"images": taken})
    return np.asarray(probabilities)


def gate_of(channels: int, size: tuple[int, int]) -> Gate:
    kinds = [images((channels, *size), 20)[:10], images((channels, *size), 20)[10:]]
    return Gate.fit(["loud", "quiet"], kinds, [RANDOM.random((2, 10)) for _ in kinds])


@pytest.mark.parametrize("gating", ["batch", "image", "none"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_exported_deck_answers_as_the_deck(tmp_path: Path, gating: Any, channels: int) -> None:
    cards = [card(0, channels=channels), card(1, channels=channels)]
    for each in cards:
        each.mean, each.std = each.mean[:channels], each.std[:channels]
    deck = Deck(cards, ["a", "ü"], gate_of(channels, (8, 8)))
    exported = save_onnx(deck, tmp_path / "a.onnx", gating)
    assert exported.size == (tmp_path / "a.onnx").stat().st_size
    assert exported.difference is not None and exported.difference < 1e-5
    for count in (1, 6):
        pixels = images((channels, 8, 8), 6)[-count:]
        expected = deck.predict(pixels, gating, "NCHW")
        np.testing.assert_allclose(answers(tmp_path / "a.onnx", pixels), expected, atol=2e-6)
    metadata = session_of(tmp_path / "a.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(metadata["cards"]) == ["a", "ü"]
    assert json.loads(metadata["classes"]) == CLASSES
    assert metadata["gating"] == gating


def test_each_gating_gives_other_answers(tmp_path: Path) -> None:
    deck = Deck([card(0), card(1)], ["a", "b"], gate_of(3, (8, 8)))
    pixels = images((3, 8, 8))
    results = []
    for gating in ("batch", "image", "none"):
        save_onnx(deck, tmp_path / "a.onnx", gating)  # type: ignore[arg-type]
        results.append(answers(tmp_path / "a.onnx", pixels))
    assert all(np.abs(a - b).max() > 1e-3 for a, b in itertools.pairwise(results))


def test_decks_of_users_own_networks_without_a_gate(tmp_path: Path) -> None:
    deck = Deck([own_card("depthwise"), own_card("depthwise", 1)], ["a", "b"])
    save_onnx(deck, tmp_path / "a.onnx")
    metadata = session_of(tmp_path / "a.onnx").get_modelmeta().custom_metadata_map
    assert metadata["gating"] == "none"


def test_the_command_exports_a_deck(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "two.deck", tmp_path / "two.onnx"
    Deck([card(0), card(1)], ["a", "b"], gate()).save(file)
    assert command_line.main(["export", str(file), "--to", "onnx", "-o", str(out)]) == 0
    assert "probabilities" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--to", "pt2", "-o", "a.pt2"], "a deck can be written as onnx only"),
        (["--to", "onnx", "-o", "a.onnx", "--normalised"], "the cards of a deck normalise"),
    ],
)
def test_what_a_deck_cannot_be_exported_as(
    tmp_path: Path, flags: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Deck([card(0)], ["a"]).save(tmp_path / "one.deck")
    flags[3] = str(tmp_path / flags[3])
    assert command_line.main(["export", str(tmp_path / "one.deck"), *flags]) == 2
    assert reason in capsys.readouterr().err


def test_gating_is_for_decks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card().save(tmp_path / "a.mpt")
    flags = ["--to", "onnx", "-o", str(tmp_path / "a.onnx"), "--gating", "image"]
    assert command_line.main(["export", str(tmp_path / "a.mpt"), *flags]) == 2
    assert "--gating image" in capsys.readouterr().err
