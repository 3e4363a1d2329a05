"""A Zarr store in a local folder that is patient with storage which refuses a file for a moment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from zarr.storage import LocalStore

from wbcpipe.system.storage import Patience, patiently

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype
    from zarr.core.common import AccessModeLiteral

__all__ = ["PatientStore"]

_Result = TypeVar("_Result")


class PatientStore(LocalStore):
    """zarr's `LocalStore`.

    Each operation is tried again while the storage refuses it, see `system.storage`. From version
    3.4 on, zarr reads and writes chunks by the methods that end in `_sync`.
    """

    async def _open(self, *, mode: AccessModeLiteral | None = None) -> None:
        create = super()._open
        await self._patiently("", lambda: create(mode=mode))

    async def _ensure_open(self) -> None:
        await self._patiently("", super()._ensure_open)

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Read a key."""
        read = super().get
        return await self._patiently(key, lambda: read(key, prototype, byte_range))

    async def set(self, key: str, value: Buffer) -> None:
        """Write a key: aside, then renamed."""
        write = super().set
        await self._patiently(key, lambda: write(key, value))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a key that is not there."""
        write = super().set_if_not_exists
        await self._patiently(key, lambda: write(key, value))

    async def delete(self, key: str) -> None:
        """Delete a key."""
        remove = super().delete
        await self._patiently(key, lambda: remove(key))

    async def delete_dir(self, prefix: str) -> None:
        """Delete all keys below a prefix."""
        remove = super().delete_dir
        await self._patiently(prefix, lambda: remove(prefix))

    if hasattr(LocalStore, "set_sync"):

        def get_sync(self, key: str, **options: Any) -> Buffer | None:
            """Read a key."""
            read: Callable[..., Buffer | None] = super().get_sync
            return patiently(self.root / key, lambda: read(key, **options))

        def set_sync(self, key: str, value: Buffer) -> None:
            """Write a key: aside, then renamed."""
            write: Callable[..., None] = super().set_sync
            patiently(self.root / key, lambda: write(key, value))

        def delete_sync(self, key: str) -> None:
            """Delete a key."""
            remove: Callable[..., None] = super().delete_sync
            patiently(self.root / key, lambda: remove(key))

    async def _patiently(self, key: str, action: Callable[[], Awaitable[_Result]]) -> _Result:
        patience = Patience(self.root / key)
        while True:
            try:
                return await action()
            except OSError as error:
                delay_s = patience.delay_s(error)
            await asyncio.sleep(delay_s)
