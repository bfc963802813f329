"""How a search ends: its result, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..evaluation.counts import Counts
from ..subnetwork import LayerReport


def sample_in_words(counts: Counts, everything: int) -> str:
    """ "on 2,000 of 50,000 test images" where the counts are of a sample, else nothing."""
    return (
        f"on {counts.images:,} of {everything:,} test images" if counts.images < everything else ""
    )


class SearchDiverged(RuntimeError):
    """The loss or a score is infinite or not a number; the message names layer and step.

    Checkpoints so far are kept.
    """


class SearchStopped(RuntimeError):
    """The search ended before its time and can go on from its last checkpoint; the message says
    why.

    Attributes:
        is_by_accident: the first process, which otherwise speaks for all, does not know of it: it
            may be the one that died.
    """

    is_by_accident = False


@dataclass
class Best:
    """The best epoch so far (from 1; 0 while there is none) among those at the final density,
    chosen on validation data.
    """

    epoch: int = 0
    validation: Counts = field(default_factory=Counts)


@dataclass
class Result:
    """What a search found. Accuracies in percent.

    Attributes:
        folder: of the run.
        epoch: the best one, from 1.
        validation, test: counts of the network saved at that epoch.
        random_scores: counts of the same network before the search, batch norm calibrated, on the
            test data or a sample of them; None where the search began with a checkpoint, or where
            it is not asked for.
        weights, kept: of the saved network's masked layers (0 for a dense baseline).
        layers: the same layer by layer.
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
        return self.kept / self.weights if self.weights else 1.0
