"""The CPU engine for tickets, in numpy and in the compiled core."""

from ..native import cores as cores
from .engine import Engine as Engine
from .engine import Layout as Layout
from .engine import Step as Step
from .engine import instruction_sets as instruction_sets
from .engine import normalised as normalised
