"""Append-only JSON lines, on a file system or in an object store, that no kill leaves half-written.

A local file is appended to; a line is whole when its newline is there, and a torn last line is cut before
the next is written. An object store cannot append, so there ``name`` is a prefix of segments: objects
``name/NUMBER-WRITER.jsonl`` of at most `SEGMENT_LINES` lines, of which a writer rewrites its last one whole
by a single PUT. Each writer begins a segment of its own, so that one that was thought dead cannot take lines
from its successor. Replacing all lines is one PUT, too: a segment ``NUMBER-WRITER-all.jsonl`` stands for
everything numbered before it.
"""

import json
import os
import re
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from upath import UPath

from skysom.storage import place as places
from skysom.storage.place import Place, patiently

SEGMENT_LINES = 500
"""Lines of a segment: what is sent again with every line stays below some 100 kB."""
FLUSH_S = 2.0
"""Longest time between the sending of lines while lines come."""
SEGMENT = re.compile(r"(\d+)-[0-9a-f]+(-all)?\.jsonl$")


class JsonLines:
    """Lines of JSON under ``path``; one writer at a time is meant to append (see OutputLock).

    sync: a local line is on the disk, not only with the operating system, when `append` returns.
    """

    def __init__(self, path: Place, *, sync: bool = False) -> None:
        self.path = path
        self._lines: _Local | _Remote = _Local(path, sync) if isinstance(path, Path) else _Remote(path)

    def read(self, *, torn: bool = False) -> list[bytes]:
        """The lines in order, without their ends; a last one without its newline only where ``torn`` asks for it."""
        return self._lines.read(torn)

    def append(self, record: Mapping[str, Any], *, soon: bool = False) -> None:
        """Add one line. ``soon``: an object store may keep it back for up to FLUSH_S, for one PUT of many lines."""
        self._lines.append(_encode(record))
        if not soon:
            self._lines.flush()

    def flush(self) -> None:
        """Send what was kept back."""
        self._lines.flush()

    def replace(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Put ``records`` in the place of all lines, atomically."""
        self._lines.replace([_encode(record) for record in records])


def _encode(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"


class _Local:
    def __init__(self, path: Path, sync: bool) -> None:
        self.path, self.sync = path, sync
        self._whole = False

    def read(self, torn: bool) -> list[bytes]:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        return (data if torn else data[: data.rfind(b"\n") + 1]).splitlines()

    def append(self, line: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self._whole:
            self._cut_torn_line()
        new = not self.path.exists()
        self._whole = False  # until this line is there: a full disk may take a part of it
        with self.path.open("ab") as file:
            file.write(line)
            file.flush()
            if self.sync:
                os.fsync(file.fileno())
        self._whole = True
        if new and self.sync:
            places.sync_directory(self.path.parent)

    def flush(self) -> None:
        """Nothing is kept back."""

    def replace(self, lines: list[bytes]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        places.write_atomically(self.path, b"".join(lines))
        if self.sync:
            places.sync_directory(self.path.parent)

    def _cut_torn_line(self) -> None:
        # The next line must not continue a torn one.
        try:
            with self.path.open("r+b") as file:
                end = _end_of_last_line(file, self.path.stat().st_size)
                file.truncate(end)
        except FileNotFoundError:
            pass


def _end_of_last_line(file: Any, size: int) -> int:
    """Byte after the last newline, looking from the end."""
    stop = size
    while stop > 0:
        start = max(stop - 65536, 0)
        file.seek(start)
        found = file.read(stop - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        stop = start
    return 0


class _Remote:
    def __init__(self, path: UPath) -> None:
        self.path = path
        self._writer = uuid.uuid4().hex[:8]
        self._number: int | None = None
        self._sent: list[bytes] = []
        self._kept: list[bytes] = []
        self._flushed = time.monotonic()

    def read(self, torn: bool) -> list[bytes]:
        self.flush()
        segments = self._valid()
        if not segments:
            return []
        paths = [(self.path / name).path for _, name in segments]
        found = patiently(self.path.fs.cat, paths)  # many at a time
        return [line for path in paths for line in found[path].splitlines()]

    def append(self, line: bytes) -> None:
        if len(self._sent) + len(self._kept) >= SEGMENT_LINES:
            self.flush()
            self._number, self._sent = None, []
        self._kept.append(line)
        if time.monotonic() - self._flushed > FLUSH_S:
            self.flush()

    def flush(self) -> None:
        if not self._kept:
            return
        if self._number is None:
            self._number = self._next_number()
        # Only what was sent counts: lines whose sending failed are sent with the next.
        places.write_atomically(self._name(""), b"".join([*self._sent, *self._kept]))
        self._sent, self._kept, self._flushed = [*self._sent, *self._kept], [], time.monotonic()

    def replace(self, lines: list[bytes]) -> None:
        before = [name for _, name in self._numbered()]
        self._number, self._sent, self._kept = self._next_number(), [], []
        places.write_atomically(self._name("-all"), b"".join(lines))
        self._number = None
        for name in before:  # they count no more; a kill here leaves them without harm
            places.remove(self.path / name)

    def _name(self, kind: str) -> UPath:
        return self.path / f"{self._number:06d}-{self._writer}{kind}.jsonl"

    def _numbered(self) -> list[tuple[int, str]]:
        matches = [(SEGMENT.fullmatch(entry.name), entry.name) for entry in places.entries(self.path)]
        return sorted((int(match[1]), name) for match, name in matches if match)

    def _valid(self) -> list[tuple[int, str]]:
        """Segments in order, from the last one that stands for all before it."""
        segments = self._numbered()
        first = max((i for i, (_, name) in enumerate(segments) if name.endswith("-all.jsonl")), default=0)
        return segments[first:]

    def _next_number(self) -> int:
        segments = self._numbered()
        return segments[-1][0] + 1 if segments else 0
