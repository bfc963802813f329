"""The scripts in examples/ run, and print what they promise."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SHORT: dict[str, dict[str, Any]] = {
    "01_find_and_pack": {"OPTIONS": {"epochs": 1, "low_data": 0.1, "name": "example"}},
    "02_own_network": {"DENSITIES": (0.2,), "EPOCHS": 1},
    "03_sweep_and_plot": {
        "SWEEP": "sweep --name density --grid prune_rate=0.1 --epochs 1 --low-data 0.1",
    },
    "04_robustness": {"CORRUPTIONS": ("gaussian_noise",), "SEVERITIES": (1,)},
}
"""Constants of the scripts that make them short."""
PROMISED = {
    "01_find_and_pack": r"the ticket +9[0-9.]+ %",
    "02_own_network": r"mine.mpt computes the same logits: True",
    "03_sweep_and_plot": r"\n +2% .*\n +10% .*\n +50% ",
    "04_robustness": r"pixelate, severity 5 +9[0-9.]+ +9[0-9.]+",
}
"""A line that each prints, where it is not shortened."""


def example(name: str) -> ModuleType:
    """A script as a module: its main() has not run."""
    spec = importlib.util.spec_from_file_location(
        f"example_{name}", ROOT / "examples" / f"{name}.py"
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", SHORT)
def test_it_runs(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = example(name)
    for constant, value in SHORT[name].items():
        assert hasattr(module, constant)
        monkeypatch.setattr(module, constant, value)
    module.main()
    assert capsys.readouterr().out.count("\n") >= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", PROMISED)
def test_it_prints_what_it_promises(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    example(name).main()
    assert re.search(PROMISED[name], capsys.readouterr().out)


def test_a_ticket_runs_where_there_is_no_torch() -> None:
    code = (
        "import runpy, sys; sys.modules['torch'] = None; sys.argv = ['example'];"
        f"runpy.run_path({str(ROOT / 'examples' / '05_numpy_only.py')!r}, run_name='__main__')"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^accuracy +99\.44 %", done.stdout, re.M)


def test_every_example_is_tested_and_linked() -> None:
    assert [path.stem for path in EXAMPLES] == [*SHORT, "05_numpy_only"]
    assert [*PROMISED] == [*SHORT]
    pages = [ROOT / "README.md", *(ROOT / "docs" / "guides").glob("*.md")]
    text = "".join(page.read_text() for page in pages)
    for path in EXAMPLES:
        assert f"examples/{path.name})" in text, path.name
