"""Tickets: the file format, the mask codec, and the way from and to PyTorch."""

from ..errors import TicketError as TicketError
from .layer import Layer as Layer
from .ticket import Ticket as Ticket
