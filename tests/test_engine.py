"""The engine's arguments, and whole networks; its kernels are tested in test_kernels.py."""

import warnings

import numpy as np
import pytest
from conftest import make_narrow, network_of, random_ticket

from biprop import Engine, Ticket, TicketError, UserError, native, plans
from biprop.engine import cores
from biprop.engine.reference import Reference


@pytest.fixture(scope="module")
def ticket() -> Ticket:
    ticket = random_ticket(network_of("Wide_VGG_Small_132", channels=1))
    ticket.mean, ticket.std = (0.5,), (0.25,)
    return ticket


def test_mistakes_in_the_arguments(ticket: Ticket) -> None:
    for threads in (0, -1, cores() + 1, 1.0, True):
        with pytest.raises(UserError, match=r"threads = .*: must be 1 \.\. "):
            Engine(ticket, threads)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="instruction set 'mmx': this machine has"):
        Engine(ticket, instruction_set="mmx")
    with pytest.raises(TicketError, match=r"none\.mpt: cannot be read"):
        Engine("none.mpt")
    with pytest.raises(TicketError, match="a network that biprop does not know"):
        Engine(Ticket(None, None, [], {}))


@pytest.mark.parametrize("compiled", [True, False])
def test_mistakes_in_the_images(ticket: Ticket, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(native, "library", lambda: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = Engine(ticket)
    assert not engine.compiled or compiled
    pixels = np.zeros((2, 1, 32, 32), np.float32)
    assert engine.run(pixels).shape == (2, 10)
    assert engine.run(pixels[:0]).shape == (0, 10)
    for images, message in (
        (pixels[:, :, :31], "images of shape"),
        (pixels[..., None], "images of shape"),
        (pixels.astype(np.int64), "images of type int64: must be uint8"),
        (pixels + 2, "images from 2 to 2: floats must be in 0"),
        (np.full_like(pixels, np.nan), "every pixel must be a number"),
    ):
        with pytest.raises(UserError, match=message):
            engine.run(images)
    with pytest.raises(UserError, match="must be NCHW or NHWC"):
        engine.run(pixels, "CHWN")  # type: ignore[arg-type]


ANCESTORS = ("Conv4Wide_BinAct", "VGG_Small_BinAct", "cResNet20", "cResNet18_BinAct")


@pytest.mark.parametrize("name,ancestor", [*((name, False) for name in plans.NETWORKS), *((name, True) for name in ANCESTORS)])
def test_every_network_of_the_registry(name: str, ancestor: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    make_narrow(monkeypatch, name)
    imagenet = name in plans.RESIDUAL and plans.RESIDUAL[name].imagenet
    size = (64, 64) if imagenet else (32, 32)
    ticket = random_ticket(network_of(name, size, ancestor=ancestor))
    engine = Engine(ticket)
    count = 65 if "BinAct" in name else 17  # a group of 64 or 16, and one
    images = np.random.default_rng(0).standard_normal((count, 3, *size)).astype(np.float32)
    expected = Reference(ticket).run(images)
    for batch in (1, len(images)):
        logits = engine.run(images[:batch])
        assert np.abs(logits - expected[:batch]).max() < 1e-4 * np.abs(expected).max()


def test_two_layouts_and_two_types_of_pixels(ticket: Ticket) -> None:
    engine, pixels = Engine(ticket), np.random.default_rng(0).integers(0, 256, (5, 1, 32, 32), dtype=np.uint8)
    logits = engine.run(pixels)
    assert np.array_equal(engine.run(pixels.transpose(0, 2, 3, 1)), logits)
    assert np.array_equal(engine.run(pixels[3]), logits[3:4]) and np.array_equal(engine.run(pixels[3, 0]), logits[3:4])
    assert np.allclose(engine.run(pixels.astype(np.float64) / 255), logits, atol=1e-5)


def test_layouts_of_colour_images_that_are_not_square() -> None:
    engine = Engine(random_ticket(network_of("Wide_VGG_Small_132", (16, 24), width_mult=0.25)))
    pixels = np.random.default_rng(0).random((5, 3, 16, 24), np.float32)
    logits = engine.run(pixels)
    assert np.abs(logits - Reference(engine.ticket).run(pixels)).max() < 1e-4 * np.abs(logits).max()
    assert np.array_equal(engine.run(pixels.transpose(0, 2, 3, 1)), logits)
    assert np.array_equal(engine.run(pixels[3].transpose(1, 2, 0)), logits[3:4])


def test_floats_become_the_nearest_bytes(ticket: Ticket) -> None:
    levels = np.arange(1024).reshape(1, 1, 32, 32) % 256
    floats = (levels + 0.4 * (-1) ** levels).clip(0, 255) / 255
    assert np.array_equal(Engine(ticket).as_bytes(floats), levels.astype(np.uint8))


@pytest.mark.parametrize("name", ["Conv4_BinAct", "Wide_VGG_Small", "VGG_Small_bn_BinAct", "cResNet20_BinAct"])
def test_batch_norms_that_turn_the_order(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the factors are negative: the pool before such a sign is "all" of the bits, not "any"."""
    make_narrow(monkeypatch, name)
    ticket = random_ticket(network_of(name, bn_type="AffineBatchNorm"))
    images = np.random.default_rng(0).standard_normal((65, 3, 32, 32)).astype(np.float32)
    logits, expected = Engine(ticket).run(images), Reference(ticket).run(images)
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


def test_calibration_needs_images(ticket: Ticket) -> None:
    with pytest.raises(UserError, match="calibration: no images"):
        Engine(ticket, calibration=np.zeros((0, 1, 32, 32), np.float32))
    with pytest.raises(UserError, match="images of shape"):
        Engine(ticket, calibration=np.zeros((4, 1, 31, 32), np.float32))
