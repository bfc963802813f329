"""`python -m biprop`."""

import sys

from .cli import main

sys.exit(main())
