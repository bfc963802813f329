"""What several commands share: exit codes, warnings, and engines."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from .. import screen
from ..errors import UserError

if TYPE_CHECKING:
    from ..config import Config
    from ..engine import Engine
    from ..subnetwork import LayerReport
    from ..ticket import Ticket

DIVERGED, MISTAKE, INTERRUPTED, PIPE = 1, 2, 130, 141
"""Exit codes; the last two are what a shell gives for SIGINT and SIGPIPE."""
ACTIVATIONS_HELP = (
    "u8: activations that are not bits are 8-bit numbers: faster, a little less exact [float]"
)
MOST_CALIBRATION = 256
"""Pictures that a calibration looks at."""
MOST_IMAGES = 1 << 16  # of a batch

_Made = TypeVar("_Made")


def warn(lines: Sequence[str]) -> None:
    """Say what does not stop a command."""
    for line in lines:
        screen.tell(f"warning: {line}")


def positive(value: int, flag: str) -> int:
    if not 1 <= value <= MOST_IMAGES:
        raise UserError(f"{flag} {value}: must be 1 .. {MOST_IMAGES:,}")
    return value


@contextmanager
def memory_for_batches() -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise UserError("not enough memory: pass a smaller --batch") from None


def engine_of(
    ticket: Ticket | str, threads: int, instruction_set: str | None = None, calibration: Any = None
) -> tuple[Engine, list[str]]:
    """An engine, and what is to be said of it: where numpy computes instead, why.

    Arguments as for `Engine`.

    Raises:
        UserError: see `Engine`.
    """
    from ..engine import Engine

    return with_warnings(lambda: Engine(ticket, threads, instruction_set, calibration))


def with_warnings(make: Callable[[], _Made]) -> tuple[_Made, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = make()
    return made, [str(warning.message) for warning in caught if warning.category is RuntimeWarning]


def layer_rows(config: Config, layers: Sequence[LayerReport]) -> list[tuple[str, str]]:
    """Under global pruning, a row per layer."""
    if config.scope != "global":
        return []
    return [
        (f"  {layer.name}", f"{layer.kept:,} of {layer.weights:,}  ({100 * layer.density:.2f} %)")
        for layer in layers
    ]
