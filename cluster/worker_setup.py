"""Prepare a worker process of this machine; dask loads this module by its name."""

from __future__ import annotations

from wbcpipe.system.signals import ignore_stop_signals

__all__ = ["dask_setup"]


def dask_setup(_worker: object) -> None:
    """Ignore Ctrl-C, which a terminal sends to all processes: the command ends its workers."""
    ignore_stop_signals(but_sigterm=True)
