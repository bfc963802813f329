"""Rank and world size, from the environment variables of torchrun, srun, mpirun, jsrun and PMI.

The address of rank 0 is MASTER_ADDR, or else

    srun         the first host of SLURM_STEP_NODELIST
    jsrun        the second host of LSB_MCPU_HOSTS
    mpirun, PMI  this machine, if all processes are on it

SLURM_NTASKS does not tell the world size: it is set in a batch script too, whose python is a single
process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace

from ..errors import UserError
from .group import ALONE, LOOPBACK, RESTARTS, Group

LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "jsrun": ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_LOCAL_RANK"),
    "mpirun": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    "PMI": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
}
"""Launcher -> variables of rank, world size and local rank.

Looked for in this order: mpirun below srun, for example, sets both kinds.
"""


def is_restart(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher restarted this command: torchrun --max-restarts, or SLURM's requeue."""
    return any(environment.get(name, "0") not in ("", "0") for name in RESTARTS)


def detect(environment: Mapping[str, str] = os.environ) -> Group:
    """This process's group, from the environment variables of its launcher; `ALONE` without one.

    Raises:
        UserError: the variables contradict each other, or do not say where rank 0 is.
    """
    for launcher, (rank_name, size_name, local_rank_name) in LAUNCHERS.items():
        if rank_name not in environment or size_name not in environment:
            continue
        rank, size = environment[rank_name], environment[size_name]
        try:
            group = Group(
                int(rank), int(size), int(environment.get(local_rank_name, "0")), launcher
            )
        except ValueError:
            raise UserError(
                f"{launcher}: {rank_name} and {size_name} must be numbers: {rank!r}, {size!r}"
            ) from None
        if not 0 <= group.rank < group.size:
            raise UserError(
                f"{launcher}: {rank_name} = {group.rank} must be below {size_name} = {group.size}"
            )
        if group.size == 1:
            return ALONE
        return replace(group, address=_address(launcher, environment), port=_port(environment))
    return ALONE


_LOCAL_AND_GLOBAL_SIZE = {
    "mpirun": ("OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_SIZE"),
    "PMI": ("MPI_LOCALNRANKS", "PMI_SIZE"),
}
"""Launcher -> variables with the number of processes on this machine, and in all."""


def _address(launcher: str, environment: Mapping[str, str]) -> str:
    """Name or number of the machine of rank 0.

    Raises:
        UserError: the variables do not say it.
    """
    if given := environment.get("MASTER_ADDR"):
        return given
    if launcher == "srun":
        nodes = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_NODELIST", ""))
        return first_host(nodes)
    if launcher == "jsrun":
        # "batch 1 node1 42 node2 42": the first host only runs the batch script.
        hosts = environment.get("LSB_MCPU_HOSTS", "").split()[::2]
        if len(hosts) > 1:
            return hosts[1]
    if launcher in _LOCAL_AND_GLOBAL_SIZE and not _is_one_machine(launcher, environment):
        raise UserError(
            f"{launcher} over several machines does not say where rank 0 is: set MASTER_ADDR to its"
            " name"
        )
    return LOOPBACK


def _is_one_machine(launcher: str, environment: Mapping[str, str]) -> bool:
    """Whether all processes are on this machine; true of a PMI launcher that does not say it."""
    local_name, global_name = _LOCAL_AND_GLOBAL_SIZE[launcher]
    if launcher == "PMI" and local_name not in environment:
        return True
    return environment.get(local_name, "") == environment[global_name]


def first_host(nodes: str) -> str:
    """The first of SLURM's list of nodes: "gpu[003-007,9],login" starts with gpu003."""
    match = re.match(r"([^,\[]+)(?:\[([^\],-]+))?", nodes)
    if not match:
        raise UserError(
            f"srun: cannot read the list of nodes {nodes!r}: set MASTER_ADDR to the name of the"
            " first"
        )
    return match[1] + (match[2] or "")


def _port(environment: Mapping[str, str]) -> int:
    """MASTER_PORT, or a port derived from the job's number, which two jobs on a machine rarely
    share.
    """
    if given := environment.get("MASTER_PORT"):
        if not given.isdigit():
            raise UserError(f"MASTER_PORT must be a number: {given!r}")
        return int(given)
    job = environment.get("SLURM_JOB_ID") or environment.get("LSB_JOBID") or ""
    return 20000 + int(job) % 20000 if job.isdigit() else 29500
