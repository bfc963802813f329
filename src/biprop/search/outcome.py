"""How a search ends: its result, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..evaluation.counts import Counts
from ..subnetwork import LayerReport


def sample_in_words(counts: Counts, test_images: int) -> str:
    """ "on 2,000 of 50,000 test images" where the counts are of a sample of them, else empty."""
    if counts.images >= test_images:
        return ""
    return f"on {counts.images:,} of {test_images:,} test images"


class SearchDiverged(RuntimeError):
    """The loss or a score is not finite; the message names layer and step.

    The checkpoints so far stay.
    """


class SearchStopped(RuntimeError):
    """The search ended before its time and can continue from its last checkpoint; the message says
    why.

    Attributes:
        is_by_accident: rank 0, which otherwise reports for all processes, has not recorded this
            end: it may be the process that died.
    """

    is_by_accident = False


@dataclass
class Best:
    """The best epoch so far, by its validation counts, among those at the final density.

    Attributes:
        epoch: from 1; 0 while there is none.
        validation: its counts.
    """

    epoch: int = 0
    validation: Counts = field(default_factory=Counts)


@dataclass
class Result:
    """The result of a search.

    Attributes:
        folder: the run folder.
        epoch: the best epoch, from 1.
        validation, test: counts of the network saved at that epoch.
        random_scores: counts of the same network before the search, batch norm calibrated, on the
            test images or a sample of them; None where the search started from a checkpoint, or
            without `--baseline`.
        weights, kept: numbers of weights of the saved network's masked layers (0 for a dense
            baseline).
        layers: the same layer by layer.
        seconds: duration of the search up to its last epoch, without interruptions.
    """

    folder: Path
    epoch: int
    validation: Counts
    test: Counts
    random_scores: Counts | None
    weights: int
    kept: int
    layers: list[LayerReport]
    seconds: float

    @property
    def density(self) -> float:
        """Fraction of the masked layers' weights that is kept; 1 for a dense baseline."""
        return self.kept / self.weights if self.weights else 1.0
