"""Exit codes, warnings, checks and engines that several commands share."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .. import screen
from ..errors import UserError

if TYPE_CHECKING:
    from ..config import Config
    from ..data import DataSet
    from ..engine import Engine
    from ..subnetwork import LayerReport
    from ..ticket import Ticket

# Exit codes, beside 0 (success) and `interrupts.EXIT_STOPPED`.
EXIT_DIVERGED = 1
EXIT_NEEDS_ATTENTION = 1
"""Of biprop doctor."""
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
"""What a shell reports for SIGINT: 128 + 2."""
EXIT_BROKEN_PIPE = 141
"""What a shell reports for SIGPIPE: 128 + 13."""

ACTIVATIONS_HELP = (
    "u8: quantise float activations to 8 bits (binary ones stay bits), which is faster and slightly"
    " less accurate [float]"
)
MAX_CALIBRATION_IMAGES = 256
MAX_BATCH = 1 << 16


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


def split_sizes(config: Config, images: DataSet) -> str:
    """ "45,000 training, 5,000 validation, 10,000 test"; without validation where a search holds no
    images out.
    """
    sizes = {"training": images.train, "validation": images.validation, "test": images.test}
    if not config.holds_out:
        del sizes["validation"]
    return ", ".join(f"{len(split):,} {name}" for name, split in sizes.items())


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

    with engines_without_warnings():
        engine = Engine(ticket, threads, instruction_set, calibration)
    return engine, fallbacks([engine])


@contextmanager
def engines_without_warnings() -> Iterator[None]:
    """While the block runs, an engine's fallback to numpy is no warning: see `fallbacks`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def fallbacks(engines: Iterable[Engine]) -> list[str]:
    """Why numpy computes instead of the compiled core, each reason once."""
    return list(dict.fromkeys(engine.fallback for engine in engines if engine.fallback))


def layer_rows(config: Config, layers: Sequence[LayerReport]) -> list[tuple[str, str]]:
    """A row per layer under global pruning, where layers keep different fractions; else none."""
    if config.scope != "global":
        return []
    return [
        (f"  {layer.name}", f"{layer.kept:,} of {layer.weights:,}  ({100 * layer.density:.2f} %)")
        for layer in layers
    ]
