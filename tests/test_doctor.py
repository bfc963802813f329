"""biprop doctor: the facts are right, each trap is found, and nothing else is a problem."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from biprop import __version__, native
from biprop.cli import command_line, doctor_checks
from biprop.cli.doctor_checks import (
    Problem,
    Section,
    forced_below,
    little_shared_memory,
    not_writable,
    other_torchvision,
    too_many_threads,
    too_old,
    two_versions,
    unused_gpu,
    without_core,
)


def facts(section: Section) -> dict[str, str]:
    return dict(section.facts)


def test_facts_are_those_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BIPROP_ISA", raising=False)
    versions = facts(doctor_checks.versions(torch))
    assert versions["biprop"].startswith(f"{__version__}, in ")
    assert versions["numpy"] == np.__version__
    assert versions["PyTorch"].partition("+")[0] == torch.__version__.partition("+")[0]
    core = facts(doctor_checks.core())
    if native.library():
        assert core["available"].endswith("scalar")
        assert core["instruction set"] == core["available"].partition(",")[0]
    processors = facts(doctor_checks.processors(torch))
    assert processors["threads of PyTorch"] == str(torch.get_num_threads())
    assert processors["cores"] == (
        f"{os.cpu_count()}, of which this process may use {native.cores()}"
    )


@pytest.mark.parametrize("problem", [None, Problem("the disk is full", "free some space")])
def test_exit_code_and_remedies(
    problem: Problem | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    section = Section("files", [("runs", "here")], [problem] if problem else [])
    monkeypatch.setattr(doctor_checks, "report", lambda runs: [section])
    assert command_line.main(["doctor"]) == (1 if problem else 0)
    end = capsys.readouterr().out.partition("files\n  runs  here\n\n")[2]
    if problem:
        assert end == "1 problem\n  1. the disk is full\n     To do: free some space.\n"
    else:
        assert end == "nothing needs attention\n"


def test_only_pytorch_is_loaded(tmp_path: Path) -> None:
    """And what it loads itself: the rest of the report takes no time beside it."""
    code = (
        "import sys, biprop.cli\n"
        "code = biprop.cli.main(['doctor'])\n"
        "ours = {'torch', 'numpy', 'biprop'}\n"
        "heavy = {'torchvision', 'matplotlib', 'datasets', 'pyarrow', 'PIL', 'tensorboard'}\n"
        "heavy |= {'biprop.data', 'biprop.search', 'biprop.models', 'shtab'}\n"
        "sys.exit(f'loaded {heavy & set(sys.modules)}' if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"runs            {tmp_path / 'runs'}, " in done.stdout


def test_broken_pytorch_and_another_core_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = ImportError("libtorch_cpu.so: cannot open\nshared object file")
    section = doctor_checks.versions(broken)
    assert [p.what for p in section.problems if "imported" in p.what] == [
        "PyTorch cannot be imported: libtorch_cpu.so: cannot open shared object file"
    ]
    assert "threads of PyTorch" not in facts(doctor_checks.processors(broken))
    assert not doctor_checks.gpus(broken).problems

    (tmp_path / "core.so").write_bytes(b"not a library")
    monkeypatch.setenv("BIPROP_CORE", str(tmp_path / "core.so"))
    (problem,) = doctor_checks.core().problems
    assert problem.what.startswith("no compiled core (cannot be loaded: ")
    assert "unset it" in problem.remedy
    monkeypatch.setenv("BIPROP_CORE", str(tmp_path / "none.so"))
    (problem,) = doctor_checks.core().problems
    assert problem.what.startswith("no compiled core (no such file): searches on the CPU are")
    monkeypatch.delenv("BIPROP_CORE")
    assert "compiler" in without_core("no such file").remedy


def test_an_instruction_set_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    if not native.library():
        pytest.skip("no compiled core")
    native.library.cache_clear()
    try:
        monkeypatch.setenv("BIPROP_ISA", "mmx")
        (problem,) = doctor_checks.core().problems
    finally:
        native.library.cache_clear()
    assert problem.what.startswith("BIPROP_ISA=mmx: must be one of ")
    assert forced_below("", ["avx2", "scalar"]) is forced_below("avx2", ["avx2"]) is None
    slower = forced_below("scalar", ["avx2", "scalar"])
    assert slower and "uses scalar, and this machine has avx2" in slower.what


@pytest.mark.parametrize(
    "torch_version, torchvision_version, pinned, is_problem",
    [
        ("2.13.0+cpu", "0.28.0", "2.13.0", True),  # a build with CUDA beside one for the CPU
        ("2.13.0+cpu", "0.28.0+cpu", "2.13.0", False),
        ("2.13.0", "0.28.0", "2.13.0", False),  # both from PyPI
        ("2.13.0", "0.27.0", "2.12.0", True),
        ("2.13.0", "0.27.0", None, False),
        ("2.13.0+cpu", None, None, False),
        (None, "0.28.0", "2.13.0", False),
    ],
)
def test_torchvision_of_another_pytorch(
    torch_version: str | None, torchvision_version: str | None, pinned: str | None, is_problem: bool
) -> None:
    problem = other_torchvision(torch_version, torchvision_version, pinned)
    assert (problem is not None) == is_problem
    assert not problem or "biprop does not use it" in problem.remedy


def test_an_installed_torchvision_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "torchvision-0.1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1.0\n"
        "Requires-Dist: numpy\nRequires-Dist: torch (==1.0.0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    problems = [problem.what for problem in doctor_checks.versions(torch).problems]
    assert sum("torchvision 0.1.0 (built for PyTorch 1.0.0)" in what for what in problems) == 1


def test_versions_are_compared_as_numbers() -> None:
    assert too_old("torch>=2.10", "2.9.1+cpu")
    assert too_old("torch>=2.10", "2.10.0+cu130") is None
    missing = too_old("rich>=13", None)
    assert missing and missing.what == "rich is not installed: biprop requires 13 or later"
    assert two_versions(None) is two_versions(__version__) is None
    assert two_versions("0.0.1")


@pytest.mark.parametrize(
    "asked, usable, limit, phrase",
    [
        ("", 4, None, None),
        ("4", 4, None, None),
        ("8", 4, None, "OMP_NUM_THREADS=8: this process may use 4 cores"),
        ("8,2", 4, None, "this process may use 4 cores"),
        ("many", 4, None, None),  # PyTorch ignores it, too
        ("", 64, 2.0, "64 threads run by default, and the control group (a container, a job)"),
        ("2", 64, 2.0, None),
        ("", 2, 64.0, None),
        ("1", 2, 0.5, None),
    ],
)
def test_more_threads_than_cores(
    asked: str, usable: int, limit: float | None, phrase: str | None
) -> None:
    problem = too_many_threads({"OMP_NUM_THREADS": asked} if asked else {}, usable, limit)
    assert (problem is not None) == (phrase is not None)
    assert not (problem and phrase) or phrase in problem.what


def test_the_limit_of_a_control_group(tmp_path: Path) -> None:
    file = tmp_path / "cpu.max"
    assert doctor_checks._cpu_limit(file) is None
    file.write_text("max 100000\n")
    assert doctor_checks._cpu_limit(file) is None
    file.write_text("150000 100000\n")
    assert doctor_checks._cpu_limit(file) == 1.5


def test_a_gpu_that_pytorch_does_not_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert unused_gpu("CPU", False, "") is None
    of_cpu = unused_gpu("CPU", True, "")
    assert of_cpu and "PyTorch is a build for the CPU" in of_cpu.what
    old = unused_gpu("CUDA 13.0", True, "the driver is too old")
    assert old and old.what.endswith("PyTorch (CUDA 13.0) finds no GPU: the driver is too old")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    hidden = unused_gpu("CUDA 13.0", True, "")
    assert hidden and "hides all GPUs" in hidden.what


def test_places_that_are_full_or_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "results" / "runs"
    assert not_writable(runs, tmp_path, True, 1 << 40) is None
    forbidden = not_writable(runs, tmp_path, False, 1 << 40)
    assert forbidden and forbidden.what == f"{tmp_path}: this user cannot write there"
    full = not_writable(runs, tmp_path, True, 5_000_000)
    assert full and full.what.startswith(f"{runs}: 5 MB free: a search ends")
    assert doctor_checks.other_encoding("utf-8") is None
    assert "LC_ALL" in doctor_checks.other_encoding("ascii").remedy  # type: ignore[union-attr]
    assert little_shared_memory(64 << 20) and little_shared_memory(8 << 30) is None

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=7))
    monkeypatch.setattr(doctor_checks, "_SHARED_MEMORY", tmp_path / "none")
    section = doctor_checks.files(runs)
    assert facts(section)["runs"] == f"{runs}, 0 MB free"
    assert [p.what.partition(": ")[0] for p in section.problems] == [str(runs)]


def test_the_packages_files_are_found() -> None:
    configurations = facts(doctor_checks.files(Path("runs")))["configurations"]
    count, folder = re.fullmatch(r"(\d+) in (.*)", configurations).groups()  # type: ignore[union-attr]
    assert int(count) >= 165
    assert (Path(folder) / "digits.yml").is_file()
