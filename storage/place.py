"""Places: where files are, on a file system or in an object store; every path skysom takes may be a URL.

A `Place` is a local `pathlib.Path` or, for a URL such as ``s3://bucket/run1``, a `UPath`; both are joined
with ``/`` and pickle. The functions here do to either what a path method does to a local path; those of
remote places are patient (see `patience`). Endpoint and credentials come from the environment of the
protocol's library (for S3 AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE, ...).
"""

import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from upath import UPath

from skysom.storage.errors import PlaceError, StoreUnreachableError
from skysom.storage.patience import patiently as patiently

Place = Path | UPath
"""A local path, or a universal path for a URL of another protocol than ``file``."""

LOCAL = ("file", "local")
EXTRAS = {"s3": "skysom[s3]", "s3a": "skysom[s3]"}
"""What to install for a protocol, where it is not simply the library that fsspec names."""
OPTIONS: dict[str, dict[str, Any]] = {key: {"max_concurrency": 1} for key in ("s3", "s3a")}
"""Options of file systems. s3fs would ask for the size before each GET, and read an object in several; all are
told to keep no listings (``use_listings_cache``), because other processes write there, too."""
READ_AHEAD_BYTES = 2**20
"""What reading a remote file fetches at a time, unless more is asked for."""


def place(text: str | Path | UPath) -> Place:
    """The place a path or URL names: plain paths and ``file://`` are local, other protocols fsspec's.

    Raises
    ------
    PlaceError : an unknown protocol, one whose library is not installed, or a URL without a bucket.
    """
    if not isinstance(text, str):
        return text
    if not text.strip():
        raise PlaceError("a path or URL is empty; write . for the directory you are in")
    protocol, separator, rest = text.partition("://")
    if not separator:
        _check_slashes(text)
        return Path(text)
    if protocol.lower() in LOCAL:
        path = Path(rest.removeprefix("localhost"))
        if not path.is_absolute():
            raise PlaceError(f"{text}: a file:// URL begins at the root; give file:///folder, or a plain path")
        return path
    _check_protocol(text, protocol)
    if not rest.strip("/"):
        raise PlaceError(f"{text} names no bucket; give {protocol}://BUCKET/PREFIX")
    options: Any = OPTIONS.get(protocol, {}) | {"use_listings_cache": False}
    return UPath(f"{protocol}://{rest.rstrip('/')}", **options)


def _check_slashes(text: str) -> None:
    """PlaceError for a URL that lacks a slash: as a path it would be a new directory here."""
    from fsspec import available_protocols

    protocol, separator, rest = text.partition(":/")
    if separator and protocol.lower() in available_protocols():
        slashes = "///" if protocol.lower() in LOCAL else "//"
        raise PlaceError(
            f"{text} lacks a slash; give {protocol}:{slashes}{rest.lstrip('/')}, or ./{text} for a directory"
        )


def _check_protocol(text: str, protocol: str) -> None:
    from fsspec.registry import get_filesystem_class

    try:
        get_filesystem_class(protocol)
    except ValueError:
        raise PlaceError(
            f"{text}: unknown protocol {protocol!r}; give a path, file:///..., s3://bucket/prefix or another "
            "protocol of fsspec"
        ) from None
    except ImportError as error:
        remedy = f"`pip install '{EXTRAS[protocol]}'`" if protocol in EXTRAS else "what it names"
        raise PlaceError(
            f"{text}: the library for {protocol}:// is not installed ({error}); install {remedy}"
        ) from None


def is_remote(where: Place) -> bool:
    """Whether ``where`` is in an object store (or elsewhere behind fsspec)."""
    return not isinstance(where, Path)


# --- asking ---------------------------------------------------------------------------------------


def exists(where: Place) -> bool:
    """Whether there is a file, a directory, or an object whose key begins with ``where/``."""
    return where.exists() if isinstance(where, Path) else _info(where) is not None


def is_file(where: Place) -> bool:
    """Whether ``where`` is a file or an object."""
    return where.is_file() if isinstance(where, Path) else (_info(where) or {}).get("type") == "file"


def is_dir(where: Place) -> bool:
    """Whether ``where`` is a directory, or there are objects below it."""
    return where.is_dir() if isinstance(where, Path) else (_info(where) or {}).get("type") == "directory"


def _info(where: UPath) -> dict[str, Any] | None:
    try:
        return patiently(where.fs.info, where.path)
    except FileNotFoundError:
        return None


def files_below(where: Place, pattern: str | None = None) -> list[Place]:
    """Files below ``where`` at any depth, or those a glob ``pattern`` (relative to it) matches, sorted."""
    if isinstance(where, Path):
        return sorted(path for path in where.glob(pattern or "**/*") if path.is_file())
    if pattern is None:
        found = patiently(where.fs.find, where.path)
    else:
        found = patiently(where.fs.glob, f"{where.path}/{pattern}", detail=True)
        found = [name for name, info in found.items() if info["type"] == "file"]
    return [_sibling(where, name) for name in sorted(found)]


def entries(where: Place) -> list[Place]:
    """Files and directories directly in ``where``, sorted; empty where it is not there."""
    if isinstance(where, Path):
        return sorted(where.iterdir()) if where.is_dir() else []
    try:
        found = patiently(where.fs.ls, where.path, detail=False)
    except FileNotFoundError:
        return []
    return [_sibling(where, name.rstrip("/")) for name in sorted(found) if name.rstrip("/") != where.path]


def _sibling(where: UPath, name: str) -> UPath:
    """The place of ``name`` (with its bucket) in the store of ``where``."""
    return UPath(f"{where.protocol}://{name}", **where.storage_options)


# --- reading --------------------------------------------------------------------------------------


def read_bytes(where: Place) -> bytes:
    """The content of a file; FileNotFoundError where it is not there."""
    return where.read_bytes() if isinstance(where, Path) else patiently(where.fs.cat_file, where.path)


def open_binary(where: Place) -> io.BufferedReader:
    """Open a file to read it in parts; of a remote one what is asked for is fetched, 1 MiB at a time or more.

    Raises
    ------
    FileNotFoundError : it is not there.
    """
    if isinstance(where, Path):
        return where.open("rb")
    return io.BufferedReader(_RemoteFile(where))


class _RemoteFile(io.RawIOBase):
    """A remote file as a raw stream, read by patient requests for ranges of bytes."""

    def __init__(self, where: UPath) -> None:
        self.where, self.position = where, 0
        self._ahead, self._ahead_start = b"", 0
        try:  # a small file is whole after this one request
            self._ahead = patiently(where.fs.cat_file, where.path, start=0, end=READ_AHEAD_BYTES)
        except PlaceError as error:
            if isinstance(error, StoreUnreachableError) or (_info(where) or {}).get("size") != 0:
                raise  # of an empty file S3 has no range to give
        self.size = len(self._ahead)
        if self.size == READ_AHEAD_BYTES:
            self.size = int(patiently(where.fs.info, where.path)["size"])

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise OSError(22, f"seek to {base + offset} before the beginning of {self.where}")
        self.position = base + offset
        return self.position

    def readinto(self, target: Any) -> int:
        view = memoryview(target).cast("B")
        data = self._fetch(len(view))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        # That of RawIOBase would ask for 8 KiB at a time.
        return self._fetch(self.size)

    def _fetch(self, count: int) -> bytes:
        """The next ``count`` bytes; what was fetched last is kept, so that a small file is one request."""
        count = min(count, self.size - self.position)
        if count <= 0:
            return b""
        offset = self.position - self._ahead_start
        if offset < 0 or offset + count > len(self._ahead):
            stop = min(self.position + max(count, READ_AHEAD_BYTES), self.size)
            self._ahead = patiently(self.where.fs.cat_file, self.where.path, start=self.position, end=stop)
            self._ahead_start, offset = self.position, 0
        data = self._ahead[offset : offset + count]
        self.position += len(data)
        return data


@contextmanager
def local_file(where: Place) -> Iterator[Path]:
    """A local file with the content of ``where``: itself, or a copy that lives as long as the context."""
    if isinstance(where, Path):
        yield where
        return
    with tempfile.TemporaryDirectory(prefix="skysom-") as folder:
        copy = Path(folder) / where.name
        with open_binary(where) as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, 2**24)
        yield copy


# --- writing --------------------------------------------------------------------------------------


def make_directory(where: Place) -> None:
    """Make a directory and its parents; an object store needs none."""
    if isinstance(where, Path):
        where.mkdir(parents=True, exist_ok=True)


def write_atomically(where: Place, data: bytes) -> None:
    """The file is the old one or the new one, never half: local by a file beside and a rename, remote by one PUT."""
    if not isinstance(where, Path):
        patiently(where.fs.pipe_file, where.path, data)
        return
    beside = where.with_name(where.name + ".partial")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(where)
    except OSError:  # a full disk, say
        beside.unlink(missing_ok=True)
        raise


def move(source: Place, target: Place) -> None:
    """Put the file ``source`` in the place of ``target``, in the same store: whole, or not at all."""
    if isinstance(source, Path):
        source.replace(str(target))
    else:
        patiently(source.fs.copy, source.path, str(target))
        remove(source)


def remove(where: Place) -> None:
    """Remove a file if it is there."""
    if isinstance(where, Path):
        where.unlink(missing_ok=True)
        return
    try:
        patiently(where.fs.rm_file, where.path)
    except FileNotFoundError:
        return


def remove_tree(where: Place) -> None:
    """Remove a directory tree or a file if it is there."""
    if isinstance(where, Path):
        if where.is_dir():
            shutil.rmtree(where)
        else:
            where.unlink(missing_ok=True)
        return
    try:
        patiently(where.fs.rm, where.path, recursive=True)
    except FileNotFoundError:
        return


def abort_uploads(where: Place) -> int:
    """Abort the unfinished multipart uploads below ``where``, where its store has such; returns how many."""
    if isinstance(where, Path) or not hasattr(where.fs, "abort_mpu"):
        return 0
    bucket, _, prefix = where.path.partition("/")
    try:
        found = patiently(where.fs.call_s3, "list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/".lstrip("/"))
        for upload in found.get("Uploads", []):
            patiently(where.fs.abort_mpu, bucket, upload["Key"], upload["UploadId"])
    except StoreUnreachableError:
        raise
    except (PlaceError, FileNotFoundError):  # not allowed to list them, or ended meanwhile
        return 0
    return len(found.get("Uploads", []))


def sync_directory(where: Path) -> None:
    """Put the names in a local directory on the disk: a file made or renamed there outlasts a loss of power."""
    descriptor = os.open(where, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
