"""Decks: several tickets that answer as one classifier."""

from .deck import Deck as Deck
from .deck import softmax as softmax
from .deck import together as together
