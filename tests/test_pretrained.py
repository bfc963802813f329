"""The tickets of pretrained/ are what its README says."""

import re

import pytest
from conftest import ROOT, shared

from biprop import Ticket, config, data
from biprop.console import Console
from biprop.deck import Deck
from biprop.engine import Engine
from biprop.evaluation import subject
from biprop.evaluation.engine_model import Packed

FOLDER = ROOT / "pretrained"
ROWS = {
    name: (int(size.replace(",", "")), float(accuracy))
    for name, size, accuracy in re.findall(
        r"^\| `(\S+)` \| ([\d,]+) \|.*?\| ([\d.]+) % of",
        (FOLDER / "README.md").read_text(),
        re.M,
    )
}
TICKETS = [name for name in ROWS if name.endswith(".mpt")]


def accuracy(name: str, folder: str) -> float:
    """Test accuracy in percent, by the engine."""
    path = FOLDER / name
    evaluated = subject.of_ticket(path, {"data": folder} if folder else {})
    images = subject.load_data(evaluated, Console())
    engine = Packed(Engine(path), images)
    return subject.measure(evaluated, images, images.test, "cpu", Console(), "", engine).top1


def test_the_table_has_every_file_and_its_bytes() -> None:
    files = [*FOLDER.glob("*.mpt"), *FOLDER.glob("*.deck")]
    assert {path.name: path.stat().st_size for path in files} == {
        name: size for name, (size, _) in ROWS.items()
    }
    assert all(size < 300_000 for size, _ in ROWS.values())
    for name in TICKETS:
        ticket = Ticket.load(FOLDER / name)
        assert ticket.classes
        assert not set(ticket.found["options"]) & set(config.PATH_OPTIONS)


def test_the_digits() -> None:
    assert accuracy("digits.mpt", "") == pytest.approx(ROWS["digits.mpt"][1], abs=0.3)


def test_the_deck_of_the_digits() -> None:
    images = data.load(config.resolve("digits", {})[0])
    deck = Deck.load(FOLDER / "digits.deck")
    probabilities = deck.predict(images.test.images.numpy(), gating="image")
    right = (probabilities.argmax(1) == images.test.labels.numpy()).mean()
    assert 100 * right == pytest.approx(ROWS["digits.deck"][1], abs=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TICKETS if name.startswith("cifar10")])
def test_cifar10(name: str) -> None:
    assert accuracy(name, str(shared("data"))) == pytest.approx(ROWS[name][1], abs=0.05)
