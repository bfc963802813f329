"""Several processes: which one this is, and sums over all of them. For one process alone everything here does nothing.

Started by torchrun, srun, jsrun, mpirun or a PMI launcher: each says in its environment variables who a process is.

=========  =====================  =====================  ===========================  ======================================
launcher   rank                   number of processes    rank on its machine          address of rank 0, unless MASTER_ADDR
=========  =====================  =====================  ===========================  ======================================
torchrun   RANK                   WORLD_SIZE             LOCAL_RANK                   MASTER_ADDR
srun       SLURM_PROCID           SLURM_STEP_NUM_TASKS   SLURM_LOCALID                first of SLURM_STEP_NODELIST
jsrun      JSM_NAMESPACE_RANK     JSM_NAMESPACE_SIZE     JSM_NAMESPACE_LOCAL_RANK     second of LSB_MCPU_HOSTS
mpirun     OMPI_COMM_WORLD_RANK   OMPI_COMM_WORLD_SIZE   OMPI_COMM_WORLD_LOCAL_RANK   this machine, if all are on it
PMI        PMI_RANK               PMI_SIZE               MPI_LOCALRANKID              this machine, if all are on it
=========  =====================  =====================  ===========================  ======================================

SLURM_NTASKS would not do: it is set in a batch script too, whose python is one process alone.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from . import interrupts, screen
from .errors import UserError, one_line

T = TypeVar("T")

LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "jsrun": ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_LOCAL_RANK"),
    "mpirun": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    "PMI": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
}
"""Looked for in this order: mpirun below srun, say, sets both kinds."""


PATIENCE = 300.0
"""Seconds after which a process that does not answer (stopped, or its machine is) counts as lost.

Less than PyTorch's half hour, and more than one process needs longer than another to read its data,
or rank 0 to write a checkpoint.
"""
TELL_OF_WAITING = 10.0
"""Seconds after which a process tells that it waits for others to begin."""
_LOOPBACK = "127.0.0.1"
_PARENT = "BIPROP_PARENT"
"""Environment variable in which `launch` tells its processes its own number."""
_RESTARTS = "TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"
"""How often torchrun, or SLURM, has started this command again."""


@dataclass(frozen=True)
class Group:
    """This process among its like: `rank` of `size`, and `local_rank` on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    launcher: str = ""
    address: str = _LOOPBACK
    port: int = 29500

    @property
    def is_first(self) -> bool:
        """Whether this is the process that speaks and writes."""
        return self.rank == 0

    def share_of(self, count: int) -> slice:
        """Which of `count` images are this process's: shares differ by at most one, and together they are all."""
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
        waits = f"process {self.rank} of {self.size} ({self.launcher}) waits for the others at {where}"
        told = threading.Timer(TELL_OF_WAITING, screen.tell, [f"{waits}, at most {PATIENCE:.0f} s"])
        told.daemon = True
        if self.rank < 2:  # not hundreds of times
            told.start()
        try:
            # While the others are waited for, Python would not get to run its handlers.
            with interrupts.handled(interrupts.TO_STOP, signal.SIG_DFL):
                # torchrun keeps its store over restarts, and with it the addresses of processes that have died.
                store = dist.PrefixStore(f"start {os.environ.get(_RESTARTS[0], '0')}", self._store())  # type: ignore[attr-defined]
                timeout = timedelta(seconds=PATIENCE)
                dist.init_process_group(backend, None, timeout, self.size, self.rank, store)
        except (OSError, RuntimeError, ValueError) as e:
            raise UserError(
                f"process {self.rank} of {self.size} ({self.launcher}) cannot meet the others at {where}: {one_line(e)}"
            ) from None
        finally:
            told.cancel()
        try:
            yield
            dist.barrier()  # one that leaves early takes its end of the connections with it
        finally:
            if backend == "gloo":  # its threads must not outlive it; NCCL could wait here for those that have died
                dist.destroy_process_group()
                # They may still have to free the tensors of the last operation, and wait for the interpreter to do it. If that
                # ends meanwhile, they abort the process (seen where all raise a mistake that one has just told the others).
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
        if self.address != _LOOPBACK or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
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

        return isinstance(error, dist.DistError) or "/gloo/" in str(error)  # gloo has no type of its own

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
        """What `make` returns in the first process, in all of them; also its mistake, so that none waits for the others.

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
        """What `make` returns here. The first mistake that it makes in any process is raised in all, and told by one.

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
    """The mean of a bucket of gradients (torch.distributed.GradBucket) over all processes, sent as bfloat16; a future.

    PyTorch's bf16_compress_hook, which does the same, is for GPUs only.
    """
    import torch
    import torch.distributed as dist

    gradients = bucket.buffer()
    sent = gradients.to(torch.bfloat16).div_(dist.get_world_size())
    return dist.all_reduce(sent, async_op=True).get_future().then(lambda done: gradients.copy_(done.value()[0]))


def is_restart(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher has started this command again after it had stopped: torchrun's --max-restarts, or SLURM's requeue."""
    return any(environment.get(name, "0") not in ("", "0") for name in _RESTARTS)


def detect(environment: Mapping[str, str] = os.environ) -> Group:
    """Who this process is, from the environment variables of its launcher; `ALONE` without one.

    Raises:
        UserError: the variables contradict each other, or do not say where rank 0 is.
    """
    for launcher, (rank, size, local_rank) in LAUNCHERS.items():
        if rank not in environment or size not in environment:
            continue
        try:
            me, all_of_us = int(environment[rank]), int(environment[size])
            here = int(environment.get(local_rank, "0"))
        except ValueError:
            raise UserError(
                f"{launcher}: {rank} and {size} must be numbers: {environment[rank]!r}, {environment[size]!r}"
            ) from None
        if not 0 <= me < all_of_us:
            raise UserError(f"{launcher}: {rank} = {me} must be below {size} = {all_of_us}")
        if all_of_us == 1:
            return ALONE
        return Group(me, all_of_us, here, launcher, _address(launcher, environment), _port(environment))
    return ALONE


_HERE_AND_EVERYWHERE = {
    "mpirun": ("OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_SIZE"),
    "PMI": ("MPI_LOCALNRANKS", "PMI_SIZE"),
}
"""Variables with the number of processes on this machine, and of all."""


def _address(launcher: str, environment: Mapping[str, str]) -> str:
    if given := environment.get("MASTER_ADDR"):
        return given
    if launcher == "srun":
        return first_host(environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_NODELIST", "")))
    if launcher == "jsrun":
        hosts = environment.get("LSB_MCPU_HOSTS", "").split()[::2]  # "batch 1 node1 42 node2 42": the first only runs the script
        if len(hosts) > 1:
            return hosts[1]
    here, everywhere = _HERE_AND_EVERYWHERE.get(launcher, ("", ""))
    known = environment.get(here, None if launcher == "PMI" else "")  # not all PMI launchers say it
    if everywhere and known is not None and known != environment[everywhere]:
        raise UserError(f"{launcher} over several machines does not say where rank 0 is: set MASTER_ADDR to its name")
    return _LOOPBACK


def first_host(nodes: str) -> str:
    """The first of SLURM's list of nodes: "gpu[003-007,9],login" starts with gpu003."""
    match = re.match(r"([^,\[]+)(?:\[([^\],-]+))?", nodes)
    if not match:
        raise UserError(f"srun: cannot read the list of nodes {nodes!r}: set MASTER_ADDR to the name of the first")
    return match[1] + (match[2] or "")


def _port(environment: Mapping[str, str]) -> int:
    """MASTER_PORT, or one of the job's own, so that two jobs on a machine do not meet each other."""
    if given := environment.get("MASTER_PORT"):
        if not given.isdigit():
            raise UserError(f"MASTER_PORT must be a number: {given!r}")
        return int(given)
    job = environment.get("SLURM_JOB_ID") or environment.get("LSB_JOBID") or ""
    return 20000 + int(job) % 20000 if job.isdigit() else 29500


GRACE = 20.0
"""Seconds that processes have to end by themselves when another, or the launching one, has ended."""
_LOOK = 0.05


def launch(command: Sequence[str], count: int, environment: Mapping[str, str]) -> int:
    """Run a command in `count` processes on this machine that find each other as torchrun's do; signals are passed on to them.

    torchrun itself would hide their exit codes, and say a page where one of them has said a line.

    One that a signal ended could not say so itself: that is told here, on standard error. If this
    process is killed, those that it launched end.

    Returns:
        The exit code of the first that failed, or 0; for one that a signal ended, 128 + signal, or
        `STOPPED` where this process was asked to end and passed that on.
    """
    with socket.socket() as free:
        free.bind((_LOOPBACK, 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": _LOOPBACK, "MASTER_PORT": str(port)}
    shared |= {_PARENT: str(os.getpid())}
    processes: list[subprocess.Popen[bytes]] = []
    asked: list[int] = []

    def pass_on(number: int, _: object) -> None:
        asked.append(number)
        for process in processes:
            process.send_signal(number)
            if hasattr(signal, "SIGCONT"):
                # One that is stopped would not hear it, and the others would wait for that one.
                process.send_signal(signal.SIGCONT)

    try:
        with interrupts.handled(interrupts.TO_STOP, pass_on):
            for i in range(count):
                own = {**environment, **shared, "RANK": str(i), "LOCAL_RANK": str(i)}
                # Groups of their own: a terminal's Ctrl-C would reach them twice.
                processes.append(subprocess.Popen(command, env=own, process_group=0))
            if asked:  # while they were started
                pass_on(asked[0], None)
            code = _first_failure(processes, asked)
        if -code in asked and -code in interrupts.TO_END:
            return interrupts.STOPPED
        return code if code >= 0 else 128 - code
    finally:
        for process in processes:
            process.kill()


def _first_failure(processes: Sequence[subprocess.Popen[bytes]], asked: Sequence[int]) -> int:
    """Wait for all processes; returns the code of the first that failed, as Popen gives it.

    `asked`: the signals that were passed on.
    """
    code, since = 0, 0.0
    while any(process.poll() is None for process in processes):
        time.sleep(_LOOK)
        codes = [process.poll() for process in processes]
        if not code and any(codes):
            code, since = next(code for code in codes if code), time.monotonic()
            if code < 0 and not asked:
                killed = f"process {codes.index(code)} of {len(codes)} was killed"
                screen.tell(f"{killed} ({signal.Signals(-code).name})")
        if code and time.monotonic() - since > GRACE:
            for process in processes:
                process.kill()
    return code or next((process.returncode for process in processes if process.returncode), 0)


def _end_with_parent() -> None:
    """If `launch` started this process, have it stop when the launching one has died."""
    parent = os.environ.get(_PARENT, "")
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
