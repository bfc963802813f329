"""The command line."""

from .command_line import main as main
