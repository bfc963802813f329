"""The memory that a step frees stays with the process, and goes back to the system in the end."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from biprop import config, data
from biprop.console import Console
from biprop.search import heap
from biprop.search.loop import Search

has_glibc = pytest.mark.skipif(heap._glibc() is None, reason="without glibc nothing is kept")

FAULTS = """
import resource
import torch
from biprop.search.heap import freed_memory_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(1 << 22)  # 16 MiB, freed at once
        torch.ones(1 << 23)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

torch.ones(1)
with freed_memory_kept():
    with freed_memory_kept():
        faults()
    inside, kept = faults(), resident()
returned = kept - resident()
print(inside, faults(), returned)
"""
"""Prints the page faults while memory is kept and afterwards, and the bytes returned in between."""


@has_glibc
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="counts pages by /proc")
def test_blocks_are_used_again_without_page_faults_and_returned_in_the_end() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True
    )
    inside, afterwards, returned = map(int, done.stdout.split())
    assert inside < afterwards / 4, done.stdout
    assert returned > 32 << 20, done.stdout


def test_without_glibc_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_glibc", lambda: None)
    with heap.freed_memory_kept():
        assert heap._depth == 0


class _EnoughError(Exception):
    """Ends a search in its first step."""


@has_glibc
@pytest.mark.parametrize("how", ["a search", "an estimate"])
def test_searches_and_their_estimates_keep_memory(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    depths: list[int] = []

    def step(model: nn.Module, *arguments: Any) -> None:
        depths.append(heap._depth)
        raise _EnoughError

    monkeypatch.setattr(Search, "_train_step", step)
    options = {"width_mult": 0.25, "device": "cpu", "baseline": False, "log_dir": str(tmp_path)}
    resolved, name = config.resolve(None, options)
    search = Search(resolved, name, data.load(resolved), Console())
    with pytest.raises(_EnoughError):
        search.run() if how == "a search" else next(search.training_steps())
    assert depths == [1]
    assert heap._depth == 0
    assert torch.ones(3).sum() == 3  # memory can be allocated as before
