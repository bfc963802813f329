"""Exit codes, warnings, checks and engines that several commands share."""

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

# Exit codes, beside 0 (success) and `interrupts.EXIT_STOPPED`.
EXIT_DIVERGED = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
"""What a shell reports for SIGINT: 128 + 2."""
EXIT_BROKEN_PIPE = 141
"""What a shell reports for SIGPIPE: 128 + 13."""

ACTIVATIONS_HELP = (
    "u8: quantise activations that are not binary to 8 bits, which is faster and slightly less"
    " accurate [float]"
)
MAX_CALIBRATION_IMAGES = 256
MAX_BATCH = 1 << 16

_Result = TypeVar("_Result")


def warn(messages: Sequence[str]) -> None:
    """Print warnings to standard error, one line each."""
    for message in messages:
        screen.report(f"warning: {message}")


def check_count(value: int, flag: str) -> int:
    """`value`, if it is in 1 .. `MAX_BATCH`.

    Raises:
        UserError: it is not; the message names `flag`.
    """
    if not 1 <= value <= MAX_BATCH:
        raise UserError(f"{flag} {value}: must be 1 .. {MAX_BATCH:,}")
    return value


def plural(count: int, noun: str) -> str:
    """ "1 thread", "2 threads"."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


@contextmanager
def memory_error_names_batch() -> Iterator[None]:
    """Turn a MemoryError of the block into a UserError that suggests a smaller --batch."""
    try:
        yield
    except MemoryError:
        raise UserError("not enough memory: pass a smaller --batch") from None


def load_engine(
    ticket: Ticket | str, threads: int, instruction_set: str | None = None, calibration: Any = None
) -> tuple[Engine, list[str]]:
    """An engine and its warnings: where numpy computes instead of the compiled core, why.

    Arguments as for `Engine`.

    Raises:
        UserError: see `Engine`.
    """
    from ..engine import Engine

    return with_warnings(lambda: Engine(ticket, threads, instruction_set, calibration))


def with_warnings(function: Callable[[], _Result]) -> tuple[_Result, list[str]]:
    """The result of `function`, and the texts of the RuntimeWarnings that it issued."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function()
    texts = [str(warning.message) for warning in caught if warning.category is RuntimeWarning]
    return result, texts


def layer_rows(config: Config, layers: Sequence[LayerReport]) -> list[tuple[str, str]]:
    """A row per layer under global pruning, where layers keep different fractions; else none."""
    if config.scope != "global":
        return []
    return [
        (f"  {layer.name}", f"{layer.kept:,} of {layer.weights:,}  ({100 * layer.density:.2f} %)")
        for layer in layers
    ]
