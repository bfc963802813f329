"""Tickets that do not fit their network are refused; what a program computes is tested in
test_kernels.py.
"""

import dataclasses

import numpy as np
import pytest
from conftest import network_of, random_ticket

from biprop import Ticket, TicketError
from biprop.engine.lower import MAGIC, lower
from biprop.engine.reference import Reference


def test_a_program_is_the_same_each_time() -> None:
    ticket = random_ticket(network_of("Wide_VGG_Small_132", channels=1))
    program = lower(ticket)
    assert program.startswith(MAGIC)
    assert program == lower(Ticket.from_bytes(ticket.to_bytes()))


def test_a_ticket_that_does_not_fit_its_network_names_what() -> None:
    ticket = random_ticket(network_of("Wide_VGG_Small_132", channels=1))
    with pytest.raises(TicketError, match="a network that biprop does not know"):
        lower(dataclasses.replace(ticket, network=None))
    name = next(name for name in ticket.state if name.endswith("running_var"))
    for value, shape in ((None, "absent"), (np.ones(3, np.float32), r"\(3,\)")):
        state = {k: v for k, v in {**ticket.state, name: value}.items() if v is not None}
        with pytest.raises(TicketError, match=rf"does not fit its network: {name} is {shape}, not"):
            lower(dataclasses.replace(ticket, state=state))
    with pytest.raises(TicketError, match=r"does not fit its network: convs\.0\.weight is absent"):
        lower(dataclasses.replace(ticket, layers=ticket.layers[1:]))
    with pytest.raises(TicketError, match="does not fit its network: convs"):
        lower(dataclasses.replace(ticket, network=network_of("Wide_VGG_Small_132", channels=3)))


def test_numbers_that_no_batch_norm_has_are_one_line() -> None:
    ticket = random_ticket(network_of("Wide_VGG_Small_132", channels=1))
    name = next(name for name in ticket.state if name.endswith("running_var"))
    for variance in (-1.0, np.nan, np.inf):
        state = {**ticket.state, name: np.full_like(ticket.state[name], variance)}
        for run in (lower, Reference):
            with pytest.raises(
                TicketError, match=rf"^{name}: a variance is negative or not finite.*$"
            ):
                run(dataclasses.replace(ticket, state=state))
    layers = [dataclasses.replace(layer, gain=3e38) for layer in ticket.layers]
    with pytest.raises(
        TicketError, match=r"^a gain or batch norm beside convs\.\d+ is not a finite 32-bit number$"
    ):
        lower(dataclasses.replace(ticket, layers=layers))
