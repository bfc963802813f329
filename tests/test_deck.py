"""The deck file: what goes in comes out, and nothing else is read.

Answers: cards alone, their mean, their gated mean.
"""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import network_of, random_ticket
from hypothesis import given
from hypothesis import strategies as st
from own_networks import packed

from biprop import Deck, Engine, Ticket, TicketError, UserError
from biprop.deck import deck as module
from biprop.deck import softmax
from biprop.deck.gate import Gate
from biprop.deck.report import deck_report
from biprop.ticket import container

RANDOM = np.random.default_rng(0)
START = RANDOM.bit_generator.state


@pytest.fixture(autouse=True)
def the_same_numbers_whatever_ran_before() -> None:
    RANDOM.bit_generator.state = START


CLASSES = [f"class {i}" for i in range(10)]


def card(seed: int = 0, **options: Any) -> Ticket:
    ticket = random_ticket(network_of("Conv2Wide", (8, 8), width_mult=0.0625, **options), seed=seed)
    ticket.mean, ticket.std, ticket.classes = (0.4 + seed / 10,) * 3, (0.3,) * 3, CLASSES
    return ticket


def images(count: int) -> np.ndarray:  # type: ignore[type-arg]
    return RANDOM.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)


def gate(cards: int = 2) -> Gate:
    kinds = [images(20), images(20) // 4]
    return Gate.fit(["loud", "quiet"], kinds, [RANDOM.random((cards, 20)) for _ in kinds])


@pytest.fixture(scope="module")
def deck() -> Deck:
    return Deck([card(0), card(1)], ["a", "ü"], gate())


def test_a_deck_is_what_was_saved(deck: Deck, tmp_path: Path) -> None:
    size = deck.save(tmp_path / "two.deck")
    assert size == (tmp_path / "two.deck").stat().st_size
    read = Deck.load(tmp_path / "two.deck")
    assert read.names == deck.names
    assert [c.to_bytes() for c in read.cards] == [c.to_bytes() for c in deck.cards]
    assert read.gate and deck.gate
    assert read.gate.kinds == deck.gate.kinds
    for part in ("templates", "precision", "worth"):
        assert np.array_equal(getattr(read.gate, part), getattr(deck.gate, part))
    assert read.to_bytes() == deck.to_bytes()
    assert Deck.from_bytes(Deck(deck.cards, deck.names).to_bytes()).gate is None


def test_answers_are_the_cards_weighted_means(deck: Deck) -> None:
    pixels = images(6)
    answers = [softmax(Engine(c).run(pixels, "NCHW")) for c in deck.cards]
    assert np.allclose(deck.predict(pixels, "none", "NCHW"), sum(answers) / 2, atol=1e-6)
    assert np.allclose(
        Deck(deck.cards, deck.names).predict(pixels, "batch", "NCHW"), sum(answers) / 2, atol=1e-6
    )
    for gating in ("batch", "image"):
        weights = deck.card_weights(pixels, gating)  # type: ignore[arg-type]
        expected = weights[:, :1] * answers[0] + weights[:, 1:] * answers[1]
        probabilities = deck.predict(pixels, gating, "NCHW")  # type: ignore[arg-type]
        assert np.allclose(probabilities, expected, atol=1e-6)
        assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
    assert deck.predict(pixels[:0], layout="NCHW").shape == (0, 10)


def test_images_come_as_bytes_or_floats_and_in_both_layouts(deck: Deck) -> None:
    pixels = images(5)
    expected = deck.predict(pixels, "image", "NCHW")
    assert np.array_equal(deck.predict(pixels.transpose(0, 2, 3, 1), "image"), expected)
    assert np.allclose(
        deck.predict(pixels.astype(np.float32) / 255, "image", "NCHW"), expected, atol=1e-5
    )
    with pytest.raises(UserError, match="the network takes"):
        deck.predict(pixels[:, :, :5])


@pytest.mark.parametrize("gating", ["none", "batch", "image"])
def test_the_module_gives_logarithms_of_the_same_probabilities(deck: Deck, gating: Any) -> None:
    pixels = images(6)
    model = deck.to_model(gating)
    taken = torch.from_numpy(pixels).float().div(255).requires_grad_()
    logarithms = model(taken)
    assert np.allclose(
        logarithms.detach().exp().numpy(), deck.predict(pixels, gating, "NCHW"), atol=1e-5
    )
    logarithms.max(1).values.sum().backward()
    assert taken.grad is not None
    assert bool(taken.grad.abs().sum() > 0)
    assert torch.allclose(model(torch.from_numpy(pixels)), logarithms, atol=1e-5)


def own_card(network: str, seed: int = 0) -> Ticket:
    """A card of a user's own network, which holds its operations."""
    torch.manual_seed(seed)
    ticket = Ticket.from_bytes(packed(network)[1].to_bytes())
    channels = (ticket.input_shape or ())[0]
    ticket.mean, ticket.std = (0.4 + seed / 10,) * channels, (0.3,) * channels
    return ticket


def test_users_own_networks_are_cards() -> None:
    cards = [own_card("resnet"), own_card("resnet", 1)]
    deck = Deck(cards, ["a", "b"])
    shape = cards[0].input_shape or ()
    pixels = RANDOM.integers(0, 256, (4, *shape), dtype=np.uint8)
    read = Deck.from_bytes(deck.to_bytes())
    answers = [softmax(Engine(c).run(pixels, "NCHW")) for c in cards]
    assert np.allclose(read.predict(pixels, layout="NCHW"), sum(answers) / 2, atol=1e-6)
    module = read.to_model()(torch.from_numpy(pixels)).detach().exp().numpy()
    assert np.allclose(module, sum(answers) / 2, atol=1e-5)
    assert "of the user's own" in str(deck_report(read, 0))


def test_networks_that_do_not_classify_images_are_no_cards() -> None:
    for network in ("series", "unet"):
        with pytest.raises(TicketError, match="a: does not classify images"):
            Deck([own_card(network)], ["a"])


def test_cards_that_do_not_fit_together() -> None:
    other = card()
    other.classes = [*CLASSES[1:], "zebra"]
    with pytest.raises(
        TicketError, match=r"b has other classes than a: they cannot be in one deck"
    ):
        Deck([card(), other], ["a", "b"])
    with pytest.raises(TicketError, match=r"b takes 1 x 8 x 8 images, and a 3 x 8 x 8"):
        Deck([card(), card(channels=1)], ["a", "b"])
    other = card()
    other.mean = other.std = ()
    with pytest.raises(
        TicketError, match="b: does not tell its normalisation, so it cannot be a card"
    ):
        Deck([card(), other], ["a", "b"])
    other = card()
    other.network = None
    with pytest.raises(TicketError, match="b: does not tell its network"):
        Deck([card(), other], ["a", "b"])
    with pytest.raises(TicketError, match="the gate is of other cards"):
        Deck([card(), card(1)], ["a", "b"], gate(3))
    with pytest.raises(TicketError, match=r"a deck of 0 cards: must be 1 \.\. 256"):
        Deck([], [])


def test_files_that_are_none(deck: Deck, tmp_path: Path) -> None:
    with pytest.raises(TicketError, match=r"no.deck: cannot be read: No such file"):
        Deck.load(tmp_path / "no.deck")
    card().save(tmp_path / "a.deck")
    with pytest.raises(TicketError, match="a ticket, not a deck"):
        Deck.load(tmp_path / "a.deck")
    (tmp_path / "b.deck").write_bytes(deck.to_bytes()[:-1])
    with pytest.raises(TicketError, match=r"b.deck: damaged"):
        Deck.load(tmp_path / "b.deck")
    with pytest.raises(TicketError, match=r"card ü: .* weights"):
        Deck.from_bytes(deck.to_bytes(), deck.cards[0].weights + 1)
    with pytest.raises(UserError, match="cannot be written"):
        deck.save(tmp_path / "none" / "c.deck")


def changed(deck: Deck, description: dict[str, Any] | None = None, **tensors: Any) -> bytes:
    """The deck's file with other parts and a right checksum."""
    original, parts = container.unpack("deck", 1, deck.to_bytes())
    kinds = {"tickets": "U8", "gate": "F32"}
    return container.pack(
        "deck",
        1,
        {**original, **(description or {})},
        {name: (kinds[name], tensors.get(name, parts[name])) for name in kinds},
    )


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"cards": []}, "the list of cards"),
        ({"cards": [["a", 5]]}, "cards of another size"),
        ({"cards": [["a", -1], ["b", 1]]}, "the size of a card"),
        ({"cards": [["a\nb", 5]]}, "the name of a card"),
        ({"cards": [["a", 1 << 62]]}, "the size of a card"),
        ({"cards": 3}, "the list of cards"),
        ({"features": 7}, "the number of features"),
        ({"features": 0}, "the list of kinds"),
        ({"kinds": ["a", "b", "c"]}, "the numbers of the gate"),
        ({"kinds": [3, "b"]}, "the name of a kind"),
    ],
)
def test_contradictions_are_refused(deck: Deck, description: dict[str, Any], message: str) -> None:
    with pytest.raises(TicketError, match=message):
        Deck.from_bytes(changed(deck, description))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_numbers_that_would_spread_are_refused(deck: Deck, value: float) -> None:
    _, parts = container.unpack("deck", 1, deck.to_bytes())
    for at in (0, 60, -1):
        numbers = parts["gate"].copy()
        numbers[at] = value
        with pytest.raises(TicketError, match="gate is too large, or none"):
            Deck.from_bytes(changed(deck, gate=numbers))
    numbers = parts["gate"].copy()
    numbers[-1] += 0.1
    with pytest.raises(TicketError, match="do not sum to 1"):
        Deck.from_bytes(changed(deck, gate=numbers))


@given(st.data())
def test_hostile_files_with_a_right_checksum(deck: Deck, data: st.DataObject) -> None:
    told, parts = container.unpack("deck", 1, deck.to_bytes())
    value = data.draw(
        st.sampled_from(
            [None, True, -1, 0, 2, 1 << 70, 0.5, "x", [], {}, [[]], [["a", 3]], [["a", 3, 4]]]
        )
    )
    description = {data.draw(st.sampled_from(sorted(told))): value}
    tickets = parts["tickets"].copy()
    tickets[data.draw(st.integers(0, len(tickets) - 1))] ^= data.draw(st.integers(0, 255))
    numbers = parts["gate"][: data.draw(st.integers(0, len(parts["gate"])))]
    try:
        Deck.from_bytes(changed(deck, description, tickets=tickets, gate=numbers))
    except TicketError as e:
        assert len(str(e)) < 400
        assert "\n" not in str(e)


def test_a_ticket_with_a_changed_bit_is_noticed_in_the_deck(deck: Deck) -> None:
    _, parts = container.unpack("deck", 1, deck.to_bytes())
    tickets = parts["tickets"].copy()
    tickets[-1] ^= 1
    with pytest.raises(TicketError, match="card ü: damaged: the checksum"):
        Deck.from_bytes(changed(deck, tickets=tickets))


def test_the_report_has_a_row_a_card_and_the_gate_in_percent(deck: Deck) -> None:
    report = deck_report(deck, 1000)
    assert [row[0] for row in report.layers] == deck.names
    assert deck.gate
    a, b = (100 * weight for weight in deck.gate.worth[0])
    assert dict(report.totals)["images with loud"] == f"a {a:.0f} %, ü {b:.0f} %"
    assert a + b == pytest.approx(100)


def test_the_header_is_plain_json(deck: Deck) -> None:
    content = deck.to_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["__metadata__"]["format"] == "biprop deck"
    assert json.loads(header["__metadata__"]["deck"])["kinds"] == ["loud", "quiet"]


def test_the_names_of_all_cards_are_limited_together(
    deck: Deck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_NAMES", 2 * len(deck.cards[0].state))
    content = deck.to_bytes()
    assert Deck.from_bytes(content)
    monkeypatch.setattr(module, "MOST_NAMES", 2 * len(deck.cards[0].state) - 1)
    with pytest.raises(TicketError, match="names of tensors"):
        Deck.from_bytes(content)


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))]
)
def test_copies_of_decks_and_of_their_modules_answer_the_same(deck: Deck, again: Any) -> None:
    pixels = images(5)
    answers = deck.predict(pixels, threads=np.int64(1))  # type: ignore[arg-type]
    assert np.array_equal(again(deck).predict(pixels), answers)
    model, seen = deck.to_model(), torch.from_numpy(pixels)
    assert torch.equal(again(model)(seen), model(seen))
