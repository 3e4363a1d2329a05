"""Start workers on this machine, or connect to a scheduler; check who works there."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import dask
import psutil
from distributed import Client, LocalCluster
from distributed.comm import CommClosedError
from distributed.security import Security

from wbcpipe.errors import ClusterError, ConfigError
from wbcpipe.segment.parallel import available_cores
from wbcpipe.system.signals import ignore_stop_signals_in_children
from wbcpipe.system.version import SOFTWARE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "MIB",
    "SCHEDULER_LOST",
    "WorkerFacts",
    "Workers",
    "check_workers",
    "connect",
    "needed_bytes",
    "number_of_workers",
    "threads_of_each",
    "worker_facts",
]

MIB: Final = 2**20
SCHEDULER_LOST: Final = (
    "the connection to the scheduler was lost; what is complete stays. Start the scheduler and its "
    "workers again, and run the same command to go on."
)
#: A worker that has classified and reported a sample held 1,045 MiB, and 1,077 at its peak: torch
#: and OpenVINO with a compiled network, and pages of libraries that workers share.
_BASE_BYTES: Final = 1200 * MIB
#: Arrays of a frame's size in float32 that a field needs. A worker that segments frames of 1024 px,
#: 4 MiB each, peaked at 182 MiB with its libraries: they are fewer.
_FLOAT_FRAMES: Final = 40
#: dask pauses a worker at 80 % of its limit and ends it at 95 %.
_USED_FRACTION: Final = 0.75
_CONNECT_S: Final = 10.0
#: Of dask.
_SETTINGS: Final = {
    # Workers keep a staged sample for its next stage: idle ones must not take that away.
    "distributed.scheduler.work-stealing": False,
    # With it the C library gives the memory of each large array back, and a field of 4 x 2048 x
    # 2048 pixels takes twice the processor time.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
    # No command shows it.
    "distributed.worker.profile.enabled": False,
}


@dataclass(frozen=True)
class Workers:
    """Where the stages run.

    Attributes:
        scheduler: address of a scheduler; empty for workers on this machine.
        number: of workers on this machine; 0 for one per core, as far as the memory goes.
        needed_bytes: memory that a worker needs for the largest sample, see `needed_bytes`.
        tls: encrypt, and let only those in who hold a certificate.
        scratch: folder of the workers on this machine for copies; ``None`` for the system's.
    """

    scheduler: str = ""
    number: int = 0
    needed_bytes: int = _BASE_BYTES
    tls: bool = False
    scratch: Path | None = None


@dataclass(frozen=True)
class WorkerFacts:
    """What a worker says of itself.

    Attributes:
        software: name and version of wbcpipe.
        host: name of its machine.
        memory_limit: of dask, in bytes; 0 without one.
    """

    software: str
    host: str
    memory_limit: int


def needed_bytes(frame_px: int) -> int:
    """Return the memory limit for a worker.

    It does not depend on the number of fields or cells: a worker holds one field, or a batch of
    cells.

    Args:
        frame_px: pixels of the largest frame.
    """
    return int((_BASE_BYTES + _FLOAT_FRAMES * 4 * frame_px) / _USED_FRACTION)


def number_of_workers(wanted: int, needed: int) -> int:
    """Return the number of workers for this machine.

    Args:
        wanted: 0 for one per core, as far as the free memory goes.
        needed: bytes for each of them.

    Raises:
        ConfigError: the memory does not suffice.
    """
    fit = psutil.virtual_memory().available // needed
    number = wanted or max(1, min(available_cores(), fit))
    if number > fit and (wanted or not fit):
        raise ConfigError(
            f"{number} worker{'s' * (number != 1)} of {needed / 2**30:.1f} GiB each do not fit in "
            f"the {psutil.virtual_memory().available / 2**30:.1f} GiB of memory that are free; "
            f"give a smaller --workers, or close other programs."
        )
    return int(number)


def threads_of_each(workers: int) -> int:
    """Return the share of this machine's cores that each worker has for BLAS and the network."""
    return max(1, available_cores() // workers)


@contextlib.contextmanager
def connect(workers: Workers) -> Iterator[Client]:
    """Provide a client of the workers, and end what was started for it.

    Raises:
        ClusterError: no scheduler answers at the address, a worker has another version, or the
            connection was lost.
        ConfigError: the memory does not suffice, or TLS is not configured.
    """
    with contextlib.ExitStack() as resources:
        resources.enter_context(dask.config.set(_SETTINGS))
        address: Any = workers.scheduler
        security = _security(workers)
        if not address:
            # A terminal sends Ctrl-C to all processes, also to workers that still start.
            with ignore_stop_signals_in_children():
                address = resources.enter_context(_local_cluster(workers, security))
        try:
            client = resources.enter_context(
                Client(address, security=security, timeout=_CONNECT_S, set_as_default=False)
            )
        except (OSError, ValueError) as error:  # also a time-out, and a scheme that is unknown
            raise ClusterError(
                f"no dask scheduler answers at {workers.scheduler or 'this machine'} "
                f"({_one_line(error)}); start one with `dask scheduler`, and give its address."
            ) from error
        try:
            check_workers(client, workers.needed_bytes)
            yield client
        except (CommClosedError, CancelledError) as error:
            raise ClusterError(SCHEDULER_LOST) from error


def _local_cluster(workers: Workers, security: Security | None) -> LocalCluster:
    number = number_of_workers(workers.number, workers.needed_bytes)
    threads = str(threads_of_each(number))
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return LocalCluster(
        n_workers=number,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        # No dashboard, and what answers on HTTP instead at any free port of the loopback address.
        dashboard_address=None,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        memory_limit=workers.needed_bytes,
        local_directory=str(workers.scratch) if workers.scratch else None,
        security=security,
        preload=["wbcpipe.cluster.worker_setup"],
        # What matters is in the records; dask's own lines would be drawn over the bars.
        silence_logs=logging.CRITICAL,
        # Before the workers load numpy and torch: a pool of threads keeps its first size. OpenVINO
        # reports its use over the network unless it runs in CI.
        env={
            **dict.fromkeys(names, threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "CI": os.environ.get("CI", "true"),
            "DASK_LOGGING__DISTRIBUTED": "critical",
        },
    )


def _security(workers: Workers) -> Security | None:
    """Return dask's settings for TLS; ``None`` without it.

    Raises:
        ConfigError: TLS is asked for, and cannot be used.
    """
    if not workers.tls:
        if workers.scheduler.startswith("tls://"):
            raise ConfigError(
                f"{workers.scheduler}: this scheduler speaks TLS; add --tls, and name the "
                f"certificates in dask's configuration (docs/how-to/cluster.md)."
            )
        return None
    if not workers.scheduler:
        try:
            return Security.temporary()
        except ImportError as error:
            raise ConfigError(
                "--tls on this machine makes certificates with the package cryptography; "
                "`pip install cryptography`."
            ) from error
    security = Security(require_encryption=True)
    if not (security.tls_ca_file and security.tls_client_cert):
        raise ConfigError(
            "--tls needs the certificates of the cluster: set distributed.comm.tls.ca-file and "
            "distributed.comm.tls.client.cert in dask's configuration (docs/how-to/cluster.md)."
        )
    return security


def worker_facts(dask_worker: Any) -> WorkerFacts:
    """Return what a worker says of itself.

    Args:
        dask_worker: the worker; dask passes it by this name.
    """
    limit = getattr(dask_worker.memory_manager, "memory_limit", None)
    return WorkerFacts(SOFTWARE, platform.node(), int(limit or 0))


def check_workers(client: Client, needed: int = 0) -> dict[str, WorkerFacts]:
    """Refuse workers that cannot do the work; return the others by address.

    Args:
        client: of the scheduler.
        needed: bytes of memory that a sample needs.

    Raises:
        ClusterError: there is no worker; one has another version of wbcpipe, or none, or too
            little memory.
    """
    answers: dict[str, WorkerFacts] = client.run(worker_facts, on_error="return")
    if not answers:
        raise ClusterError(
            f"no worker is connected to {client.scheduler.address}; start one with `dask worker "
            f"{client.scheduler.address} --nthreads 1`."
        )
    for address, facts in answers.items():
        if not isinstance(facts, WorkerFacts):  # an exception, as where wbcpipe is not installed
            raise ClusterError(
                f"worker {address} cannot run wbcpipe ({_one_line(facts)}); install {SOFTWARE} "
                f"with the extra `cluster` there."
            )
        if facts.software != SOFTWARE:
            raise ClusterError(
                f"worker {address} on {facts.host} runs {facts.software}, and this command is of "
                f"{SOFTWARE}; install the same version on both."
            )
        if facts.memory_limit and facts.memory_limit < needed:
            raise ClusterError(
                f"worker {address} on {facts.host} may use {facts.memory_limit / 2**30:.1f} GiB, "
                f"and the largest sample needs {needed / 2**30:.1f} GiB; start it with "
                f"--memory-limit {needed // MIB}MiB."
            )
    return answers


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
