"""Windows Job Objects: a group of processes that the system ends with the last handle to it.

Nothing elsewhere.
"""

from __future__ import annotations

import os
import secrets
import sys
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    for _name in ("CreateJobObjectW", "OpenJobObjectW", "GetCurrentProcess"):
        getattr(_kernel32, _name).restype = wintypes.HANDLE

    class _BasicLimits(ctypes.Structure):
        _fields_ = (
            ("PerProcessUserTimeLimit", wintypes.LARGE_INTEGER),
            ("PerJobUserTimeLimit", wintypes.LARGE_INTEGER),
            ("LimitFlags", wintypes.DWORD),
            ("MinimumWorkingSetSize", ctypes.c_size_t),
            ("MaximumWorkingSetSize", ctypes.c_size_t),
            ("ActiveProcessLimit", wintypes.DWORD),
            ("Affinity", ctypes.c_size_t),
            ("PriorityClass", wintypes.DWORD),
            ("SchedulingClass", wintypes.DWORD),
        )

    class _ExtendedLimits(ctypes.Structure):
        _fields_ = (
            ("BasicLimitInformation", _BasicLimits),
            ("IoInfo", ctypes.c_ulonglong * 6),
            ("ProcessMemoryLimit", ctypes.c_size_t),
            ("JobMemoryLimit", ctypes.c_size_t),
            ("PeakProcessMemoryUsed", ctypes.c_size_t),
            ("PeakJobMemoryUsed", ctypes.c_size_t),
        )


__all__ = ["ProcessJob", "hold_job", "hold_jobs_in", "join_job"]

_KILL_ON_JOB_CLOSE: Final = 0x2000
_JOB_MEMORY: Final = 0x200
_EXTENDED_LIMIT_INFORMATION: Final = 9
_ASSIGN_PROCESS: Final = 0x0001
_QUERY: Final = 0x0004
_SAME_ACCESS: Final = 0x0002
_KILLED_EXIT_CODE: Final = 1


class ProcessJob:
    """A Job Object, from the side of the process that creates it.

    Use it as a context manager, or call `close`.

    Windows ends every process of the job, and what those have started, when the last handle to it
    is closed: also when the process that held it was killed. Elsewhere, and where Windows refuses a
    job, ``name`` is empty and nothing is
    done: the processes then depend on `parent_watch` alone.

    Args:
        memory_limit_bytes: committed memory of all its processes together; an allocation beyond it
            fails.
    """

    def __init__(self, memory_limit_bytes: int | None = None) -> None:
        self.name = ""
        self._handle: int | None = None
        if sys.platform == "win32":
            name = f"Local\\wbcpipe-{os.getpid()}-{secrets.token_hex(8)}"
            self._handle = _kernel32.CreateJobObjectW(None, name)
            limits = _ExtendedLimits()
            limits.BasicLimitInformation.LimitFlags = _KILL_ON_JOB_CLOSE
            if memory_limit_bytes is not None:
                limits.BasicLimitInformation.LimitFlags |= _JOB_MEMORY
                limits.JobMemoryLimit = memory_limit_bytes
            if self._handle and _kernel32.SetInformationJobObject(
                wintypes.HANDLE(self._handle),
                _EXTENDED_LIMIT_INFORMATION,
                ctypes.byref(limits),
                ctypes.sizeof(limits),
            ):
                self.name = name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, process_handle: int) -> None:
        """Put a process that is no `ChildProcess` into the job, by its handle (`Popen._handle`)."""
        if sys.platform == "win32" and self.name:
            _kernel32.AssignProcessToJobObject(
                wintypes.HANDLE(self._handle), wintypes.HANDLE(process_handle)
            )

    def kill(self) -> None:
        """End all processes of the job."""
        if sys.platform == "win32" and self._handle:
            _kernel32.TerminateJobObject(wintypes.HANDLE(self._handle), _KILLED_EXIT_CODE)

    def close(self) -> None:
        """Close this process's handle.

        Processes that another process's handle does not hold are ended.
        """
        if sys.platform == "win32" and self._handle:
            _kernel32.CloseHandle(wintypes.HANDLE(self._handle))
        self._handle, self.name = None, ""


def join_job(name: str) -> None:
    """Put this process into a job; its later children are in it too.

    It may be in other jobs (since Windows 8).
    """
    if sys.platform == "win32":
        handle = _kernel32.OpenJobObjectW(_ASSIGN_PROCESS, False, name)
        if handle:
            _kernel32.AssignProcessToJobObject(
                wintypes.HANDLE(handle), wintypes.HANDLE(_kernel32.GetCurrentProcess())
            )
            _kernel32.CloseHandle(wintypes.HANDLE(handle))


def hold_job(name: str) -> None:
    """Keep a handle to a job until this process ends: its creator's death then ends neither the job
    nor this process.

    For a process that must still bring devices into a safe state, and bounds its own time to do so.
    """
    if sys.platform == "win32":
        _kernel32.OpenJobObjectW(
            _QUERY, False, name
        )  # not closed: the system does it when this process ends


def hold_jobs_in(process_handle: int, names: Sequence[str]) -> None:
    """Have another process hold jobs as `hold_job` does, from now on and without its help.

    For a process that is started in the last moment of its parent: it has not run an instruction
    yet when the parent's handles are closed.

    Args:
        process_handle: of a process that this one has started (`multiprocessing.Process.sentinel`).
        names: of the jobs; those that no longer exist are left out.
    """
    if sys.platform == "win32":
        current = wintypes.HANDLE(_kernel32.GetCurrentProcess())
        for name in names:
            # A job that the process is not in yet is joined by its name, which lasts as long as a
            # handle does.
            handle = _kernel32.OpenJobObjectW(_QUERY, False, name)
            if handle:
                process, copy = wintypes.HANDLE(process_handle), wintypes.HANDLE()
                _kernel32.DuplicateHandle(
                    current,
                    wintypes.HANDLE(handle),
                    process,
                    ctypes.byref(copy),
                    0,
                    False,
                    _SAME_ACCESS,
                )
                _kernel32.CloseHandle(wintypes.HANDLE(handle))
