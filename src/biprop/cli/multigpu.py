"""--multigpu: one process a GPU, started by this one."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ..errors import UserError


def choose(numbers: str, device: str) -> list[str]:
    """The GPUs that --multigpu means, as CUDA_VISIBLE_DEVICES names them.

    Args:
        numbers: "0,1".
        device: the option; where it names no GPU, the numbers only say how many processes there are
            to be.

    Raises:
        UserError: they are no numbers, or there are no such GPUs.
    """
    ids = [number.strip() for number in numbers.split(",")]
    are_numbers = all(number.isascii() and number.isdigit() for number in ids)
    if not are_numbers or len(set(map(int, ids))) < len(ids):
        raise UserError(f"--multigpu {numbers}: must be numbers of GPUs, e.g. 0,1")
    if device not in ("auto", "cuda"):
        if device.startswith("cuda") and len(ids) > 1:
            raise UserError(
                f"--multigpu {numbers}: gives each process its own GPU: leave out --device {device}"
            )
        return ids
    import torch

    count = torch.cuda.device_count()
    if max(map(int, ids)) >= count:
        available = (
            "no GPU" if not count else f"GPU 0 .. {count - 1}" if count > 1 else "GPU 0 only"
        )
        instead = "--device cpu searches in as many processes on the CPU"
        raise UserError(f"--multigpu {numbers}: PyTorch finds {available} here; {instead}")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else [str(number) for number in range(count)]
    return [names[int(number)] for number in ids]


def start_processes(gpus: Sequence[str], argv: Sequence[str]) -> int:
    """Run the command `argv` once a GPU; returns the exit code."""
    from .. import distributed

    if "--multigpu" in argv:
        place = argv.index("--multigpu")
        rest = [*argv[:place], *argv[place + 2 :]]
    else:
        rest = [argument for argument in argv if not argument.startswith("--multigpu=")]
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": ",".join(gpus),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    return distributed.launch([sys.executable, "-m", "biprop", *rest], len(gpus), environment)
