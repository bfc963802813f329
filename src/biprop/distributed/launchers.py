"""Rank and world size, from the environment variables of torchrun, srun, mpirun, jsrun and PMI."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from ..errors import UserError
from .group import ALONE, LOOPBACK, RESTARTS, Group

LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "jsrun": ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_LOCAL_RANK"),
    "mpirun": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    "PMI": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
}
"""Looked for in this order: mpirun below srun, say, sets both kinds."""


def is_restart(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher has started this command again after it had stopped: torchrun's
    --max-restarts, or SLURM's requeue.
    """
    return any(environment.get(name, "0") not in ("", "0") for name in RESTARTS)


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
                f"{launcher}: {rank} and {size} must be numbers: {environment[rank]!r},"
                f" {environment[size]!r}"
            ) from None
        if not 0 <= me < all_of_us:
            raise UserError(f"{launcher}: {rank} = {me} must be below {size} = {all_of_us}")
        if all_of_us == 1:
            return ALONE
        return Group(
            me, all_of_us, here, launcher, _address(launcher, environment), _port(environment)
        )
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
        return first_host(
            environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_NODELIST", ""))
        )
    if launcher == "jsrun":
        hosts = environment.get("LSB_MCPU_HOSTS", "").split()[
            ::2
        ]  # "batch 1 node1 42 node2 42": the first only runs the script
        if len(hosts) > 1:
            return hosts[1]
    here, everywhere = _HERE_AND_EVERYWHERE.get(launcher, ("", ""))
    known = environment.get(here, None if launcher == "PMI" else "")  # not all PMI launchers say it
    if everywhere and known is not None and known != environment[everywhere]:
        raise UserError(
            f"{launcher} over several machines does not say where rank 0 is: set MASTER_ADDR to its"
            " name"
        )
    return LOOPBACK


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
    """MASTER_PORT, or one of the job's own, so that two jobs on a machine do not meet each other."""
    if given := environment.get("MASTER_PORT"):
        if not given.isdigit():
            raise UserError(f"MASTER_PORT must be a number: {given!r}")
        return int(given)
    job = environment.get("SLURM_JOB_ID") or environment.get("LSB_JOBID") or ""
    return 20000 + int(job) % 20000 if job.isdigit() else 29500
