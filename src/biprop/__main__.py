"""The command line as `python -m biprop`."""

import sys

from .cli.command_line import main

sys.exit(main())
