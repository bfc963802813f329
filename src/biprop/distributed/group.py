"""A process group: rank, world size, and collective operations over all processes.

In a single process, everything here does nothing.
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
"""Environment variables in which torchrun and SLURM count the restarts of this command."""
PARENT = "BIPROP_PARENT"
"""Environment variable in which `launch` gives its processes its own process id."""
GRACE = 20.0
"""Seconds in which processes must end by themselves after another one, or their launcher, ended."""
PATIENCE = 300.0
"""Timeout of collective operations in seconds, after which a process (or its machine) that does not
answer counts as lost.

Less than PyTorch's half hour, and more than the differences between processes in reading data, or
rank 0's writing of a checkpoint.
"""
NOTICE_AFTER = 10.0
"""Seconds after which a process reports that it is waiting for the others to start."""


@dataclass(frozen=True)
class Group:
    """This process in its group.

    Attributes:
        rank: 0 .. size - 1.
        size: number of processes (world size).
        local_rank: rank among the processes on the same machine.
        launcher: what started the processes, for messages.
        address, port: where rank 0 is reached.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    launcher: str = ""
    address: str = LOOPBACK
    port: int = 29500

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which prints and writes files."""
        return self.rank == 0

    def share_of(self, count: int) -> slice:
        """This process's share of `count` images: the shares of all processes are a partition, and
        their sizes differ by at most one.
        """
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    @contextmanager
    def together(self, device_type: str) -> Iterator[None]:
        """Connect the processes while the block runs.

        Args:
            device_type: "cuda" (NCCL), or another one (Gloo).

        Raises:
            UserError: they cannot be reached.
        """
        if self.size == 1:
            yield
            return
        import torch.distributed as dist

        _end_with_parent()
        backend = "nccl" if device_type == "cuda" else "gloo"
        self._connect(backend)
        try:
            yield
            dist.barrier()  # a process that leaves early closes its end of the connections
        finally:
            # Gloo's threads must not outlive it; NCCL could wait here for processes that died.
            if backend == "gloo":
                dist.destroy_process_group()
                # Its threads may still have to free the tensors of the last operation, and wait for
                # the interpreter to do it. If the interpreter ends meanwhile, they abort the
                # process (seen where all raise an error that one process has just sent).
                time.sleep(0.05)

    def _connect(self, backend: str) -> None:
        """Meet the other processes.

        Raises:
            UserError: they cannot be reached.
        """
        import torch.distributed as dist

        me = f"process {self.rank} of {self.size} ({self.launcher})"
        where = f"{self.address}:{self.port}"
        notice = f"{me} waits for the others at {where}, at most {PATIENCE:.0f} s"
        timer = threading.Timer(NOTICE_AFTER, screen.report, [notice])
        timer.daemon = True
        if self.rank < 2:  # not hundreds of times
            timer.start()
        try:
            # While this waits for the others, Python's own signal handlers would not run.
            with interrupts.handling(interrupts.STOP_SIGNALS, signal.SIG_DFL):
                timeout = timedelta(seconds=PATIENCE)
                dist.init_process_group(
                    backend, None, timeout, self.size, self.rank, self._store_of_this_start()
                )
        except (OSError, RuntimeError, ValueError) as e:
            raise UserError(f"{me} cannot meet the others at {where}: {one_line(e)}") from None
        finally:
            timer.cancel()

    def _store_of_this_start(self) -> Any:
        """The store under a prefix that differs between restarts.

        torchrun keeps its store over restarts, and with it the addresses of processes that died.
        """
        import torch.distributed as dist

        restarts = os.environ.get(RESTARTS[0], "0")
        return dist.PrefixStore(f"start {restarts}", self._store())  # type: ignore[attr-defined]

    def _store(self) -> Any:
        """The key-value store in which the processes find each other's addresses.

        It answers everybody who can connect to it, and its content is trusted: where all processes
        are on this machine, only this machine can connect.
        """
        import torch.distributed as dist
        from torch._C._distributed_c10d import TCPStore

        os.environ.update(MASTER_ADDR=self.address, MASTER_PORT=str(self.port))
        timeout = timedelta(seconds=PATIENCE)
        if self.address != LOOPBACK or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            handshake = dist.rendezvous("env://", self.rank, self.size, timeout=timeout)  # type: ignore[attr-defined]
            store, *_ = next(handshake)
            return store
        if sys.platform != "win32":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
        place = (self.address, self.port)
        if not self.is_first:
            return TCPStore(*place, self.size, False, timeout)
        listening = socket.create_server(place).detach()
        return TCPStore(*place, self.size, True, timeout, master_listen_fd=listening)

    def is_broken_by(self, error: BaseException) -> bool:
        """Whether an error means that another process does not answer any more: see `PATIENCE`."""
        if self.size == 1 or not isinstance(error, RuntimeError):
            return False
        import torch.distributed as dist

        # Gloo has no type of its own.
        return isinstance(error, dist.DistError) or "/gloo/" in str(error)

    def sum(self, values: list[float], device: Any) -> list[float]:
        """The sums of `values` over all processes, in double precision: counts are exact to 2^53.

        Args:
            values: the same number of them in all processes.
            device: that the backend works on.
        """
        if self.size == 1:
            return values
        import torch
        import torch.distributed as dist

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
        """Run `make` on rank 0 only, and return its result in all processes.

        Its error is raised in all processes too, so that none waits for the others.

        Raises:
            UserError: as `make` does.
        """
        if self.size == 1:
            return make()
        import torch.distributed as dist

        broadcast: list[Any] = [None]
        if self.is_first:
            broadcast = [_outcome_of(make)]
        dist.broadcast_object_list(broadcast)
        value, error = broadcast[0]
        if error:
            raise self._shared_error(error, 0)
        return value  # type: ignore[no-any-return]

    def _shared_error(self, message: str, rank: int) -> UserError:
        """An error that all processes raise; only `rank` prints it."""
        error = UserError(message)
        error.is_reported = self.rank != rank
        return error

    def by_all(self, make: Callable[[], T]) -> T:
        """Run `make` in each process, and return its result there.

        The error of the lowest rank that fails is raised in all processes, and printed by that one.

        Raises:
            UserError: as `make` does, in this process or another one.
        """
        if self.size == 1:
            return make()
        import torch.distributed as dist

        value, error = _outcome_of(make)
        errors = [""] * self.size
        dist.all_gather_object(errors, error)
        if any(errors):
            failed = next(rank for rank, message in enumerate(errors) if message)
            raise self._shared_error(errors[failed], failed)
        return value  # type: ignore[return-value]


def _outcome_of(make: Callable[[], T]) -> tuple[T | None, str]:
    """The result of `make` and no message, or None and the message of its UserError."""
    try:
        return make(), ""
    except UserError as e:
        return None, str(e)


ALONE = Group()
"""The group of a single process."""


def average_as_bfloat16(bucket: Any) -> Any:
    """Average a bucket of gradients over all processes, sent as bfloat16.

    PyTorch's bf16_compress_hook, which does the same, is for GPUs only.

    Args:
        bucket: `torch.distributed.GradBucket`.

    Returns:
        A future of the bucket's gradients, replaced by their mean.
    """
    import torch
    import torch.distributed as dist

    gradients = bucket.buffer()
    sent = gradients.to(torch.bfloat16).div_(dist.get_world_size())
    future = dist.all_reduce(sent, async_op=True).get_future()
    return future.then(lambda done: gradients.copy_(done.value()[0]))


def _end_with_parent() -> None:
    """If `launch` started this process, watch its launcher, and stop when that one has died."""
    parent = os.environ.get(PARENT, "")
    if not parent.isdigit():
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(1)
        screen.report("the process that started this one has died")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
