"""Several processes: which one this is, and sums over all of them.

For one process alone everything here does nothing.

Started by torchrun, srun, jsrun, mpirun or a PMI launcher: each says in its environment variables
who a process is.

=========  =====================  =====================  ===========================
======================================
launcher   rank                   number of processes    rank on its machine          address of rank 0, unless MASTER_ADDR
=========  =====================  =====================  ===========================
======================================
torchrun   RANK                   WORLD_SIZE             LOCAL_RANK                   MASTER_ADDR
srun       SLURM_PROCID           SLURM_STEP_NUM_TASKS   SLURM_LOCALID                first of SLURM_STEP_NODELIST
jsrun      JSM_NAMESPACE_RANK     JSM_NAMESPACE_SIZE     JSM_NAMESPACE_LOCAL_RANK     second of LSB_MCPU_HOSTS
mpirun     OMPI_COMM_WORLD_RANK   OMPI_COMM_WORLD_SIZE   OMPI_COMM_WORLD_LOCAL_RANK   this machine, if all are on it
PMI        PMI_RANK               PMI_SIZE               MPI_LOCALRANKID              this machine, if all are on it
=========  =====================  =====================  ===========================
======================================

SLURM_NTASKS would not do: it is set in a batch script too, whose python is one process alone.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from .. import interrupts, screen
from ..errors import UserError, one_line

T = TypeVar("T")

LOOPBACK = "127.0.0.1"
RESTARTS = "TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"
"""How often torchrun, or SLURM, has started this command again."""
PARENT = "BIPROP_PARENT"
"""Environment variable in which `launch` tells its processes its own number."""
GRACE = 20.0
"""Seconds that processes have to end by themselves when another, or the launching one, has ended.
"""
PATIENCE = 300.0
"""Seconds after which a process that does not answer (stopped, or its machine is) counts as lost.

Less than PyTorch's half hour, and more than one process needs longer than another to read its data,
or rank 0 to write a checkpoint.
"""
TELL_OF_WAITING = 10.0
"""Seconds after which a process tells that it waits for others to begin."""


@dataclass(frozen=True)
class Group:
    """This process among its like: `rank` of `size`, and `local_rank` on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    launcher: str = ""
    address: str = LOOPBACK
    port: int = 29500

    @property
    def is_first(self) -> bool:
        """Whether this is the process that speaks and writes."""
        return self.rank == 0

    def share_of(self, count: int) -> slice:
        """Which of `count` images are this process's: shares differ by at most one, and together
        they are all.
        """
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    @contextmanager
    def together(self, device_type: str) -> Iterator[None]:
        """While the block runs, the processes are connected.

        Raises:
            UserError: they cannot be reached.
        """
        if self.size == 1:
            yield
            return
        import torch.distributed as dist

        _end_with_parent()
        backend = "nccl" if device_type == "cuda" else "gloo"
        where = f"{self.address}:{self.port}"
        waits = (
            f"process {self.rank} of {self.size} ({self.launcher}) waits for the others at {where}"
        )
        told = threading.Timer(TELL_OF_WAITING, screen.tell, [f"{waits}, at most {PATIENCE:.0f} s"])
        told.daemon = True
        if self.rank < 2:  # not hundreds of times
            told.start()
        try:
            # While the others are waited for, Python would not get to run its handlers.
            with interrupts.handled(interrupts.TO_STOP, signal.SIG_DFL):
                # torchrun keeps its store over restarts, and with it the addresses of processes
                # that have died.
                store = dist.PrefixStore(f"start {os.environ.get(RESTARTS[0], '0')}", self._store())  # type: ignore[attr-defined]
                timeout = timedelta(seconds=PATIENCE)
                dist.init_process_group(backend, None, timeout, self.size, self.rank, store)
        except (OSError, RuntimeError, ValueError) as e:
            raise UserError(
                f"process {self.rank} of {self.size} ({self.launcher}) cannot meet the others at"
                f" {where}: {one_line(e)}"
            ) from None
        finally:
            told.cancel()
        try:
            yield
            dist.barrier()  # one that leaves early takes its end of the connections with it
        finally:
            if (
                backend == "gloo"
            ):  # its threads must not outlive it; NCCL could wait here for those that have died
                dist.destroy_process_group()
                # They may still have to free the tensors of the last operation, and wait for the
                # interpreter to do it. If that ends meanwhile, they abort the process (seen where
                # all raise a mistake that one has just told the others).
                time.sleep(0.05)

    def _store(self) -> Any:
        """Where the processes find each other's addresses.

        It answers everybody who can connect to it, and what it says is trusted: where all are on
        this machine, only this machine can.
        """
        import torch.distributed as dist
        from torch._C._distributed_c10d import TCPStore

        os.environ.update(MASTER_ADDR=self.address, MASTER_PORT=str(self.port))
        timeout = timedelta(seconds=PATIENCE)
        if self.address != LOOPBACK or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            return next(dist.rendezvous("env://", self.rank, self.size, timeout=timeout))[0]  # type: ignore[attr-defined]
        if sys.platform != "win32":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
        if not self.is_first:
            return TCPStore(self.address, self.port, self.size, False, timeout)
        listening = socket.create_server((self.address, self.port)).detach()
        return TCPStore(
            self.address, self.port, self.size, True, timeout, master_listen_fd=listening,
        )  # fmt: skip

    def is_broken_by(self, error: BaseException) -> bool:
        """Whether an error says that another process does not answer any more: see `PATIENCE`."""
        if self.size == 1 or not isinstance(error, RuntimeError):
            return False
        import torch.distributed as dist

        return isinstance(error, dist.DistError) or "/gloo/" in str(
            error
        )  # gloo has no type of its own

    def sum(self, values: list[float], device: Any) -> list[float]:
        """The sums of `values` over all processes."""
        if self.size == 1:
            return values
        import torch
        import torch.distributed as dist

        # Counts are exact in double precision, up to 2^53.
        total = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return total.tolist()

    def average(self, tensors: list[Any]) -> None:
        """Replace each tensor by its mean over all processes."""
        if self.size == 1:
            return
        import torch.distributed as dist

        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= self.size

    def by_first(self, make: Callable[[], T]) -> T:
        """What `make` returns in the first process, in all of them; also its mistake, so that none
        waits for the others.

        Raises:
            UserError: as `make` does.
        """
        if self.size == 1:
            return make()
        import torch.distributed as dist

        answer: list[Any] = [None]
        if self.is_first:
            try:
                answer = [("made", make())]
            except UserError as e:
                answer = [("mistake", str(e))]
        dist.broadcast_object_list(answer)
        kind, value = answer[0]
        if kind == "mistake":
            mistake = UserError(value)
            mistake.told = not self.is_first
            raise mistake
        return value  # type: ignore[no-any-return]

    def by_all(self, make: Callable[[], T]) -> T:
        """What `make` returns here.

        The first mistake that it makes in any process is raised in all, and told by one.

        Raises:
            UserError: as `make` does, in this process or another one.
        """
        if self.size == 1:
            return make()
        import torch.distributed as dist

        mistake, value = "", None
        try:
            value = make()
        except UserError as e:
            mistake = str(e)
        mistakes = [""] * self.size
        dist.all_gather_object(mistakes, mistake)
        if any(mistakes):
            teller = next(rank for rank, said in enumerate(mistakes) if said)
            error = UserError(mistakes[teller])
            error.told = self.rank != teller
            raise error
        return value  # type: ignore[return-value]


ALONE = Group()


def average_as_bfloat16(bucket: Any) -> Any:
    """The mean of a bucket of gradients (torch.distributed.GradBucket) over all processes, sent as
    bfloat16; a future.

    PyTorch's bf16_compress_hook, which does the same, is for GPUs only.
    """
    import torch
    import torch.distributed as dist

    gradients = bucket.buffer()
    sent = gradients.to(torch.bfloat16).div_(dist.get_world_size())
    return (
        dist.all_reduce(sent, async_op=True)
        .get_future()
        .then(lambda done: gradients.copy_(done.value()[0]))
    )


def _end_with_parent() -> None:
    """If `launch` started this process, have it stop when the launching one has died."""
    parent = os.environ.get(PARENT, "")
    if not parent.isdigit():
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(1)
        screen.tell("the process that started this one has died")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
