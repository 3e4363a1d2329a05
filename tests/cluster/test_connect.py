"""A scheduler that is given by its address, with and without TLS."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import dask
import pytest
from distributed import LocalCluster
from distributed.comm import CommClosedError
from distributed.security import Security

from wbcpipe.cluster.connect import Workers, connect
from wbcpipe.cluster.engine import process_samples
from wbcpipe.errors import ClusterError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.cluster.records import SampleTask
    from wbcpipe.samples.sample import Sample

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def scheduler(protocol: str, security: Security | None = None) -> LocalCluster:
    """A scheduler that listens on the loopback address, and one worker, in this process."""
    return LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        host="127.0.0.1",
        protocol=protocol,
        security=security,
        dashboard_address=None,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        silence_logs=50,
    )


@pytest.mark.usefixtures("fake_classify")
def test_a_scheduler_given_by_its_address_processes_samples(
    tmp_path: Path,
    plant: Callable[[Path, str], Sample],
    fake_task: Callable[..., SampleTask],
) -> None:
    task = fake_task(plant(tmp_path, "S1"))
    with scheduler("tcp") as cluster:
        workers = Workers(cluster.scheduler_address, needed_bytes=0)
        with connect(workers) as client:
            assert [one.state for one in process_samples(client, [task])] == ["done"]


def test_a_scheduler_that_is_lost_at_any_moment_is_one_error() -> None:
    """Also while a result is on its way, which dask reports as a closed connection."""
    with scheduler("tcp") as cluster:
        workers = Workers(cluster.scheduler_address, needed_bytes=0)
        with pytest.raises(ClusterError, match="run the same command"), connect(workers):
            raise CommClosedError("Stream is closed")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """Makes an authority's certificate; returns dask's settings with it."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificates")
    folder = tmp_path_factory.mktemp("tls")

    def make(name: str) -> dict[str, str]:
        cert, key = str(folder / f"{name}.pem"), str(folder / f"{name}.key")
        words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj"]
        words += [f"/CN={name}", "-keyout", key, "-out", cert]
        subprocess.run(words, check=True, capture_output=True, timeout=60)
        tls = "distributed.comm.tls"
        settings = {f"{tls}.ca-file": cert}
        for role in ("scheduler", "worker", "client"):
            settings |= {f"{tls}.{role}.cert": cert, f"{tls}.{role}.key": key}
        return settings

    return make


@pytest.mark.usefixtures("fake_classify")
def test_with_tls_only_holders_of_a_certificate_are_admitted(
    tmp_path: Path,
    plant: Callable[[Path, str], Sample],
    fake_task: Callable[..., SampleTask],
    certificates: Callable[[str], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("wbcpipe.cluster.connect._CONNECT_S", 2.0)
    task = fake_task(plant(tmp_path, "S1"))
    laboratory, stranger = certificates("laboratory"), certificates("stranger")
    with dask.config.set(laboratory):
        cluster = scheduler("tls", Security(require_encryption=True))
    with cluster:
        workers = Workers(cluster.scheduler_address, needed_bytes=0, tls=True)
        with dask.config.set(laboratory), connect(workers) as client:
            assert [one.state for one in process_samples(client, [task])] == ["done"]
        with (
            dask.config.set(stranger),
            pytest.raises(ClusterError, match="no dask scheduler answers"),
            connect(workers),
        ):
            pass
        with pytest.raises(ConfigError, match="needs the certificates"), connect(workers):
            pass
