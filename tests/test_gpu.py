"""benchmarks/gpu.py at toy size on the CPU: what fifteen minutes on a GPU would do."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import ROOT, write_cifar_parquet

from biprop import Ticket


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program, as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    specification = importlib.util.find_spec("gpu")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "gpu", module)
    specification.loader.exec_module(module)
    return module


def started(folder: Path, limit: int) -> subprocess.Popen[str]:
    """The program at toy size, in a process group of its own."""
    command = ["bash", "benchmarks/gpu.sh", str(folder / "data"), str(folder / "out")]
    environment = {**os.environ, "TOY": "1", "LIMIT": str(limit), "PYTHON": sys.executable}
    return subprocess.Popen(
        [*command, str(folder / "work")],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def killed_after(text: str, process: subprocess.Popen[str]) -> None:
    """Kill the program and its children as soon as it prints a line with this text."""
    assert process.stdout
    with process:
        for line in process.stdout:
            if text in line:
                os.killpg(process.pid, signal.SIGKILL)
                return
    raise AssertionError(f"it never printed {text}")


@pytest.mark.slow
def test_at_toy_size_it_goes_on_until_all_is_done(tmp_path: Path) -> None:
    write_cifar_parquet(tmp_path / "data", 60, 20)
    killed_after("epoch 2/3", started(tmp_path, 500))
    record = json.loads((tmp_path / "work" / "results.json").read_text())
    assert record["checks"] and record["epochs of fast-80-160-320"] == 3
    assert "fast-80-160-320" not in record
    texts = []
    for _ in range(20):
        process = started(tmp_path, 45)
        texts.append(process.communicate()[0])
        assert process.returncode == 0, texts[-1]
        if "all done" in texts[-1]:
            break
        assert "start me again" in texts[-1]
    assert "fast-80-160-320, from epoch" in texts[0].replace("\n", " ")
    assert "check " not in texts[0]  # once is enough
    _check_results(tmp_path / "out")


def _check_results(out: Path) -> None:
    names = {"fast-80-160-320", "fast-96-192-384", "vgg-small", "cresnet18"}
    files = sorted(path for path in out.iterdir())
    assert len(files) == 7 and all(path.stat().st_size < 2**24 for path in files)
    assert {path.stem for path in files if path.suffix == ".mpt"} == names
    record = json.loads((out / "results.json").read_text())
    for name in names:
        ticket = Ticket.load(out / f"{name}.mpt")
        assert ticket.found["test"]["images"] == 20
        assert record[name]["epochs"] == len(record[name]["curve"]) in (2, 3)
        assert record[name]["weights"] == ticket.weights
    text = (out / "summary.md").read_text()
    assert all(f"| {name} |" in text for name in names)
    assert text.count("| Muon") == 3
    assert (out / "log.txt").read_text().count("== vgg-small:") >= 1


def test_a_fault_is_one_line_and_names_the_check(gpu: ModuleType) -> None:
    def failing(device: torch.device) -> str:
        raise ValueError("first line\nsecond line")

    never: dict[str, Any] = {"first": lambda device: "fine", "second": failing, "third": failing}
    with pytest.raises(gpu.Fault, match=r"^second: ValueError: first line$"):
        gpu.gpu_checks.run_checks(torch.device("cpu"), never)


def test_the_quick_checks_pass_on_the_cpu(gpu: ModuleType) -> None:
    """The others, which search, are in the slow test."""
    checks = gpu.gpu_checks.CHECKS
    quick = ("top-k selection", "masked weights", "augmented batches", "AugMix", "update rules")
    gpu.gpu_checks.run_checks(torch.device("cpu"), {name: checks[name] for name in quick})


def test_the_budget_fits_into_two_starts(gpu: ModuleType) -> None:
    """Fifteen minutes in all, of which a machine takes two to start: 780 seconds are left."""
    searches = sum(plan.seconds for plan in gpu.PLANS)
    checks, ratios, two_starts = 60, 30, 40
    assert checks + ratios + gpu.GPU.rule_seconds + searches + two_starts <= 780


def test_a_search_that_would_be_too_short_waits_for_the_next_start(
    gpu: ModuleType, tmp_path: Path
) -> None:
    record = gpu.Record(tmp_path / "results.json")
    clock = gpu.Clock(540)
    clock._end = time.monotonic() + 0.7 * gpu.PLANS[0].seconds
    session = gpu.Session(gpu.GPU, tmp_path, tmp_path, clock, record, None)
    with pytest.raises(gpu.OutOfTime, match=gpu.PLANS[0].name):
        session.plan(gpu.PLANS[0])


def test_the_best_rule_goes_on(gpu: ModuleType, tmp_path: Path) -> None:
    record = gpu.Record(tmp_path / "results.json")
    for name in gpu.RULES:
        record[f"rule {name}"] = None
    record["rule Muon 0.1"] = {"validation": 60.0, "seconds": 1.0}
    record["rule Muon 0.2"] = {"validation": 61.0, "seconds": 1.0}
    again = gpu.Record(tmp_path / "results.json")
    session = gpu.Session(gpu.TOY, tmp_path, tmp_path, gpu.Clock(1), again, None)
    assert session.best_rule() == {"lr": 0.2}
    assert "| Muon 0.2 | 61.00 | 1.0 |" in gpu.summary(again, gpu.TOY)
