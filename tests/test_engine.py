"""The engine's arguments; what it computes is tested in test_kernels.py."""

import warnings

import numpy as np
import pytest
from conftest import network_of, random_ticket

from biprop import Engine, Ticket, TicketError, UserError, native
from biprop.engine import cores


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
