"""The flag --multigpu: one process per GPU, started by this one."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ..errors import UserError


def choose(numbers: str, device: str) -> list[str]:
    """The GPUs of --multigpu, named as in CUDA_VISIBLE_DEVICES.

    Args:
        numbers: the value of the flag, such as "0,1", counted among the visible GPUs.
        device: the option; if it is not a GPU, `numbers` only determines how many processes there
            are.

    Raises:
        UserError: `numbers` are not distinct numbers of visible GPUs.
    """
    ids = _parse(numbers)
    if device in ("auto", "cuda"):
        visible = _visible_gpus(numbers, max(map(int, ids)))
        return [visible[int(number)] for number in ids]
    if device.startswith("cuda") and len(ids) > 1:
        raise UserError(
            f"--multigpu {numbers}: gives each process its own GPU: leave out --device {device}"
        )
    return ids


def _parse(numbers: str) -> list[str]:
    ids = [number.strip() for number in numbers.split(",")]
    are_numbers = all(number.isascii() and number.isdigit() for number in ids)
    if not are_numbers or len(set(map(int, ids))) < len(ids):
        raise UserError(f"--multigpu {numbers}: must be distinct numbers of GPUs, e.g. 0,1")
    return ids


def _visible_gpus(numbers: str, highest: int) -> list[str]:
    """The names of all visible GPUs.

    Raises:
        UserError: there is no GPU with the number `highest`; the message quotes `numbers`.
    """
    import torch

    count = torch.cuda.device_count()
    if highest >= count:
        available = (
            "no GPU" if not count else f"GPU 0 .. {count - 1}" if count > 1 else "GPU 0 only"
        )
        instead = "--device cpu searches in as many processes on the CPU"
        raise UserError(f"--multigpu {numbers}: PyTorch finds {available} here; {instead}")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible.split(",") if visible else [str(number) for number in range(count)]


def start_processes(gpus: Sequence[str], argv: Sequence[str]) -> int:
    """Run the command `argv` in one process per GPU; returns the exit code."""
    from .. import distributed

    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": ",".join(gpus),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    command = [sys.executable, "-m", "biprop", *_without_flag(argv)]
    return distributed.launch(command, len(gpus), environment)


def _without_flag(argv: Sequence[str]) -> list[str]:
    """The command without --multigpu and its value."""
    if "--multigpu" in argv:
        place = argv.index("--multigpu")
        return [*argv[:place], *argv[place + 2 :]]
    return [argument for argument in argv if not argument.startswith("--multigpu=")]
