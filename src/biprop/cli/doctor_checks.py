"""What biprop doctor looks at: versions, the compiled core, processors, GPUs, files.

Each function returns a `Section`: facts, and problems with what to do about them.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__, native
from .. import config as options
from ..errors import UserError, one_line

LEAST_FREE = 1 << 30
"""Bytes that should be free where runs are written: a run of a large network keeps several
checkpoints of its weights, scores and optimizer state.
"""
LEAST_SHARED = 1 << 30
"""Bytes of shared memory that should be free: worker processes send batches through it."""
EXTRAS = {
    "matplotlib": "plots",
    "datasets": "hub",
    "huggingface_hub": "hub",
    "shtab": "completion",
    "onnx": "onnx",
}
"""Optional packages, and the extra of pyproject.toml that installs each."""

_SHARED_MEMORY = Path("/dev/shm")
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")


@dataclass
class Problem:
    """Something that needs attention: what it is, and what to do about it."""

    what: str
    remedy: str


@dataclass
class Section:
    """One part of the report.

    Attributes:
        title: above its facts.
        facts: (name, value).
        problems: those found here.
    """

    title: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def add(self, problem: Problem | None) -> None:
        """Append a problem, if there is one."""
        if problem:
            self.problems.append(problem)


def report(runs: Path) -> list[Section]:
    """All sections, in their order; `runs` is where runs are written."""
    torch = _torch()
    return [versions(torch), core(), processors(torch), gpus(torch), files(runs)]


def _torch() -> Any:
    """PyTorch, or the exception that its import raised."""
    try:
        import torch
    except Exception as e:  # a damaged installation can raise anything
        return e
    return torch


# ---- versions ----


def versions(torch: Any) -> Section:
    """Versions of biprop, of Python and of the packages that biprop uses.

    Args:
        torch: the module, or the exception that its import raised.
    """
    section = Section("versions")
    package = Path(__file__).parents[1]
    section.facts += [
        ("biprop", f"{__version__}, in {package}"),
        ("Python", f"{platform.python_version()}, {sys.executable}"),
        ("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        ("PyTorch", _version("torch") or "not installed"),
        ("numpy", _version("numpy") or "not installed"),
    ]
    for name, extra in EXTRAS.items():
        missing = f"not installed; optional: pip install 'biprop[{extra}]'"
        section.facts.append((name, _version(name) or missing))
    if isinstance(torch, Exception):
        remedy = "install PyTorch anew: pip install --force-reinstall torch"
        section.add(Problem(f"PyTorch cannot be imported: {one_line(torch)}", remedy))
    section.add(two_versions(_version("biprop")))
    for requirement in _requirements():
        section.add(too_old(requirement, _version(requirement.partition(">=")[0])))
    section.add(other_torchvision(_version("torch"), _version("torchvision"), _pinned_torch()))
    return section


def _version(name: str) -> str | None:
    """The version of an installed package, from its metadata; None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _requirements() -> list[str]:
    """What biprop requires, e.g. "torch>=2.10"; nothing where it is not installed by pip."""
    try:
        required = metadata.requires("biprop") or []
    except metadata.PackageNotFoundError:
        return []
    return [item for item in required if re.fullmatch(r"[\w.-]+>=[\d.]+", item)]  # no extras


def _pinned_torch() -> str | None:
    """The version of PyTorch that the installed torchvision was built for."""
    try:
        required = metadata.requires("torchvision") or []
    except metadata.PackageNotFoundError:
        return None
    pins = (re.fullmatch(r"torch\s*\(?==([\w.]+)\)?", item) for item in required)
    return next((pin.group(1) for pin in pins if pin), None)


def two_versions(installed: str | None) -> Problem | None:
    """Another version of biprop is installed than the one that runs.

    Args:
        installed: the version that pip installed; None: biprop runs from a checkout.
    """
    if installed in (None, __version__):
        return None
    return Problem(
        f"biprop {__version__} is running, and pip has installed biprop {installed}",
        "pip install . in the checkout, or remove the checkout from PYTHONPATH",
    )


def too_old(requirement: str, installed: str | None) -> Problem | None:
    """A package is missing, or older than biprop requires.

    Args:
        requirement: "name>=version".
        installed: the version that is installed, if any.
    """
    name, _, least = requirement.partition(">=")
    if installed and _numbers(installed) >= _numbers(least):
        return None
    state = f"{name} {installed} is too old" if installed else f"{name} is not installed"
    return Problem(
        f"{state}: biprop requires {least} or later", f"pip install --upgrade '{requirement}'"
    )


def _numbers(version: str) -> list[int]:
    """ "2.13.0+cpu" -> [2, 13, 0]."""
    return [int(number) for number in re.findall(r"\d+", version.partition("+")[0])]


def other_torchvision(
    torch: str | None, torchvision: str | None, pinned: str | None
) -> Problem | None:
    """The installed torchvision does not belong to the installed PyTorch.

    biprop does not import it, but packages such as transformers do, and then fail.

    Args:
        torch, torchvision: installed versions, if any.
        pinned: the version of PyTorch that torchvision requires, if it is known.
    """
    if torch is None or torchvision is None:
        return None
    is_other_build = torch.endswith("+cpu") and not torchvision.endswith("+cpu")
    is_other_version = pinned is not None and _numbers(pinned) != _numbers(torch)
    if not (is_other_build or is_other_version):
        return None
    built_for = f" (built for PyTorch {pinned})" if pinned else ""
    return Problem(
        f"torchvision {torchvision}{built_for} does not belong to PyTorch {torch}: packages that"
        " import torchvision fail",
        "pip uninstall torchvision (biprop does not use it), or install it from the same index as"
        " PyTorch",
    )


# ---- the compiled core ----


def core() -> Section:
    """The compiled core: whether there is one, and the instruction sets that it uses."""
    section = Section("compiled core")
    section.facts.append(("file", str(native.path())))
    if why := native.why_missing():
        section.facts.append(("state", f"not used: {why}"))
        section.add(without_core(why))
        return section
    section.facts.append(("state", f"in use, version {native.VERSION}"))
    try:
        library = native.library()
    except UserError as e:
        section.add(Problem(str(e), "unset BIPROP_ISA"))
        return section
    assert library
    available = native.instruction_sets(library)
    forced = os.environ.get("BIPROP_ISA", "")
    section.facts += [
        ("instruction set", forced or available[0]),
        ("available", ", ".join(available)),
    ]
    section.add(forced_below(forced, available))
    return section


def without_core(why: str) -> Problem:
    """There is no compiled core that can be used; `why` says so."""
    lost = "searches on the CPU are slower, and numpy runs tickets, slowly"
    if os.environ.get("BIPROP_CORE"):
        remedy = "BIPROP_CORE names this file: unset it, or let it name a core of this biprop"
    else:
        remedy = (
            "install a C++ compiler and then biprop anew (pip install --force-reinstall --no-deps"
            " biprop); in a checkout: cmake -B build && cmake --build build && cmake --install"
            " build"
        )
    return Problem(f"no compiled core ({why}): {lost}", remedy)


def forced_below(forced: str, available: list[str]) -> Problem | None:
    """BIPROP_ISA asks for a slower instruction set than the best one of this machine."""
    if forced in ("", available[0]):
        return None
    return Problem(
        f"BIPROP_ISA={forced}: the compiled core uses {forced}, and this machine has"
        f" {available[0]}, which is faster",
        "unset BIPROP_ISA",
    )


# ---- processors ----


def processors(torch: Any) -> Section:
    """Cores, and how many threads use them.

    Args:
        torch: the module, or the exception that its import raised.
    """
    usable, limit = native.cores(), _cpu_limit()
    section = Section("processors")
    section.facts.append(("cores", f"{os.cpu_count()}, of which this process may use {usable}"))
    if limit is not None:
        section.facts.append(("CPU limit", f"{limit:g} cores (control group)"))
    if not isinstance(torch, Exception):
        section.facts.append(("threads of PyTorch", str(torch.get_num_threads())))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        if name in os.environ:
            section.facts.append((name, os.environ[name]))
    section.add(too_many_threads(os.environ, usable, limit))
    return section


def _cpu_limit(file: Path = _CPU_LIMIT) -> float | None:
    """The CPU time that this process's control group may use, in cores; None where unlimited."""
    try:
        quota, period = file.read_text(encoding="ascii").split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no such file; "max"
        return None


def too_many_threads(
    environment: Mapping[str, str], usable: int, limit: float | None
) -> Problem | None:
    """More threads will run than there are cores for them.

    Args:
        environment: may contain OMP_NUM_THREADS.
        usable: cores that this process may use.
        limit: CPU time in cores that it may use, if that is limited.
    """
    asked = environment.get("OMP_NUM_THREADS", "").partition(",")[0]
    threads = int(asked) if asked.isdecimal() else usable
    most = usable if limit is None else min(usable, max(1, round(limit)))
    if threads <= most:
        return None
    if threads > usable:
        return Problem(
            f"OMP_NUM_THREADS={asked}: this process may use {usable} cores, and more threads wait"
            " for each other",
            f"set OMP_NUM_THREADS={most}",
        )
    return Problem(
        f"{threads} threads run by default, and the control group (a container, a job) limits CPU"
        f" time to {limit:g} cores: threads wait for each other",
        f"set OMP_NUM_THREADS={most}, and pass --threads {most} to predict and bench",
    )


# ---- GPUs ----


def gpus(torch: Any) -> Section:
    """GPUs that PyTorch can use.

    Args:
        torch: the module, or the exception that its import raised.
    """
    section = Section("GPU")
    if isinstance(torch, Exception):
        section.facts.append(("available", "unknown, without PyTorch"))
        return section
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        names = _gpu_names(torch)
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    if getattr(torch.version, "hip", None):
        build = f"ROCm {torch.version.hip}"
    section.facts.append(("build of PyTorch", build))
    section.facts += [(f"GPU {i}", name) for i, name in enumerate(names)]
    if not names:
        section.facts.append(("available", "none: searches run on the CPU"))
        why = one_line(caught[0].message) if caught else ""  # type: ignore[arg-type]
        section.add(unused_gpu(build, _NVIDIA_DRIVER.exists(), why))
    return section


def _gpu_names(torch: Any) -> list[str]:
    """Name and memory of each GPU that PyTorch can use."""
    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return [f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in found]
    return ["Apple GPU (--device mps)"] if torch.backends.mps.is_available() else []


def unused_gpu(build: str, has_driver: bool, why: str) -> Problem | None:
    """There is an NVIDIA driver, but PyTorch finds no GPU.

    Args:
        build: of PyTorch: "CPU", "CUDA 12.8".
        has_driver: whether the driver is loaded.
        why: what PyTorch warned about, if it did.
    """
    if not has_driver:
        return None
    if build == "CPU":
        return Problem(
            "this machine has an NVIDIA driver, and PyTorch is a build for the CPU: searches do not"
            " use the GPU",
            "install a build of PyTorch with CUDA",
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1"):
        return Problem(f"CUDA_VISIBLE_DEVICES={visible!r} hides all GPUs", "unset it")
    return Problem(
        f"this machine has an NVIDIA driver, and PyTorch ({build}) finds no GPU"
        + (f": {why}" if why else ""),
        "update the driver, or install a build of PyTorch for its CUDA version (nvidia-smi shows"
        " it)",
    )


# ---- files ----


def files(runs: Path) -> Section:
    """Where data, configurations and runs are, and whether runs can be written.

    Args:
        runs: the folder that runs are written to; need not exist.
    """
    section = Section("files")
    configurations, digits = Path(str(options.packaged())), Path(__file__).parents[1] / "data"
    packaged = options.packaged_files()
    section.facts += [
        ("configurations", f"{len(packaged)} in {configurations}"),
        ("digits", str(digits / "digits.npz")),
        ("other data", "where --data points"),
    ]
    if not packaged or not (digits / "digits.npz").is_file():
        remedy = "install biprop anew: pip install --force-reinstall --no-deps biprop"
        section.add(Problem("the package's own files are missing", remedy))
    place = _existing(runs)
    free = shutil.disk_usage(place).free
    section.facts.append(("runs", f"{runs.absolute()}, {_bytes(free)} free"))
    section.add(not_writable(runs, place, os.access(place, os.W_OK), free))
    encoding = sys.getfilesystemencoding()
    section.facts.append(("names of files", encoding))
    section.add(other_encoding(encoding))
    if _SHARED_MEMORY.is_dir():
        shared = shutil.disk_usage(_SHARED_MEMORY).free
        section.facts.append(("shared memory", f"{_bytes(shared)} free"))
        section.add(little_shared_memory(shared))
    return section


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.is_dir())


def not_writable(runs: Path, place: Path, is_allowed: bool, free: int) -> Problem | None:
    """Runs cannot be written, or the disk is nearly full.

    Args:
        runs: the folder for runs.
        place: the same, or the folder above it that exists.
        is_allowed: whether this user may write there.
        free: bytes on that disk.
    """
    if not is_allowed:
        return Problem(f"{place}: this user cannot write there", "pass --log-dir to find and sweep")
    if free >= LEAST_FREE:
        return None
    return Problem(
        f"{runs.absolute()}: {_bytes(free)} free: a search ends when it cannot write checkpoints",
        "free some space, or pass --log-dir to find and sweep",
    )


def other_encoding(encoding: str) -> Problem | None:
    """Names with other letters than those of English are not read; `encoding` is Python's for names
    of files.
    """
    if encoding.lower() in ("utf-8", "utf8", "mbcs"):
        return None
    return Problem(
        f"names of files are read as {encoding}: those with other letters are shown with escapes,"
        " and --name does not accept them",
        "set LC_ALL=C.UTF-8, or PYTHONUTF8=1",
    )


def little_shared_memory(free: int) -> Problem | None:
    """Worker processes will be killed for want of shared memory; `free` is in bytes."""
    if free >= LEAST_SHARED:
        return None
    return Problem(
        f"{_SHARED_MEMORY}: {_bytes(free)} free: processes that read images (--set ImageNet,"
        " --stream) can be killed (bus error)",
        "give the container more (docker run --shm-size 8g), or pass --workers 0",
    )


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
