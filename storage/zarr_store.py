"""Zarr on places: local paths as they are, remote ones through fsspec with patience."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from zarr.storage import FsspecStore

from skysom.storage.patience import patiently_async
from skysom.storage.place import Place


def zarr_store(where: Place) -> Any:
    """What `zarr` opens for a place: the path itself, or a store (picklable) whose requests are patient."""
    if isinstance(where, Path):
        return where
    return PatientStore.from_url(str(where), storage_options=dict(where.storage_options))


class PatientStore(FsspecStore):
    """A remote store that waits for a silent server (see `patience`), request by request."""

    async def get(self, *args: Any, **named: Any) -> Any:
        return await _again(super().get, *args, **named)

    async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:
        return await _again(super().get_partial_values, prototype, list(key_ranges))

    async def set(self, *args: Any, **named: Any) -> None:
        await _again(super().set, *args, **named)

    async def exists(self, key: str) -> bool:
        return await _again(super().exists, key)

    async def getsize(self, key: str) -> int:
        return await _again(super().getsize, key)

    async def delete(self, key: str) -> None:
        await _again(super().delete, key)

    async def delete_dir(self, prefix: str) -> None:
        await _again(super().delete_dir, prefix)

    async def list(self) -> AsyncIterator[str]:
        for key in await _again(_all, super().list):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for key in await _again(_all, super().list_prefix, prefix):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        for key in await _again(_all, super().list_dir, prefix):
            yield key


async def _again(call: Callable[..., Any], *args: Any, **named: Any) -> Any:
    return await patiently_async(lambda: call(*args, **named))


async def _all(listing: Callable[..., AsyncIterator[str]], *args: str) -> list[str]:
    return [key async for key in listing(*args)]
