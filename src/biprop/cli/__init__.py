"""The command line: one module per command, each with add(commands) and run(arguments)."""

from .command_line import main as main
