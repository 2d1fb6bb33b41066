"""The folder of a collation: what it publishes, its private work folder, and what an interrupted run left there.

DIR/sources.parquet, components.parquet, edges.parquet, evidence.parquet, collation.json
DIR/.skysom/   lock, ledger.jsonl, collation-config.json, boxes.json, dealt/, sky/, parts/, merged/, published.json, and
               publishing.json while files are put in their place
"""

import errno
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

from skysom.cluster.errors import LockedError
from skysom.cluster.fence import Guard
from skysom.cluster.ledger import Ledger
from skysom.cluster.lock import OutputLock
from skysom.jobs.collation.publishing import checked_record, damaged, fault
from skysom.jobs.config import flatten
from skysom.jobs.errors import ConfigError
from skysom.jobs.output import hash_of
from skysom.jobs.progress import say
from skysom.storage import place as places
from skysom.storage.place import Place, write_atomically

TABLES = ("sources", "components", "edges", "evidence")
SUMMARY = "collation.json"
PUBLISHED = (*(f"{name}.parquet" for name in TABLES), SUMMARY)
"""Files of a collation; their names in ``DIR``."""
WORK = ("dealt", "sky", "parts", "merged")
"""Folders of intermediate tables: boxes' rows, boxes' carried pairs, tables of a box, tables about to be published."""
CONFIGURATION = "collation-config.json"
FULL = "free some space there"
REMEDIES = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EFBIG: "let files there be larger",
    errno.EROFS: "make it writable, or choose another --output",
    errno.EISDIR: "move that directory away",
}
"""What to do where a file cannot be written; all that was done before is kept."""


class CollationFolder:
    """``DIR``, a path or URL; write to it only while it is `locked`. guard: what tasks ask before they write."""

    def __init__(self, root: str | Place) -> None:
        self.root = places.place(root)
        if isinstance(self.root, Path):
            self.root = self.root.absolute()  # tasks may run in other folders
        self.private = self.root / ".skysom"
        self.guard: Guard | None = None

    # --- paths ------------------------------------------------------------------------------------

    def dealt(self, channel: int, piece: int, number: int) -> Place:
        """Rows of a piece of a catalogue, in parts by box; a piece may take several files."""
        return self.private / "dealt" / str(channel) / f"{piece:05d}-{number:03d}.arrow"

    def sky(self, box: int, kind: str) -> Place:
        """What projecting a box leaves: "base", "carried", "ties" or "catalogue-CHANNEL"."""
        return self.private / "sky" / f"{box:06d}" / f"{kind}.arrow"

    def part(self, box: int, table: str) -> Place:
        """A box's rows of a table, in parts by range of rows."""
        return self.private / "parts" / f"{box:06d}" / f"{table}.arrow"

    def table(self, name: str) -> Place:
        """A published table."""
        return self.root / f"{name}.parquet"

    def merged(self, name: str) -> Place:
        """A file that is about to be published under ``name``."""
        return self.private / "merged" / name

    # --- one writer -------------------------------------------------------------------------------

    @contextmanager
    def locked(self, *, redo: bool = False) -> Iterator[None]:
        """Nobody else writes here meanwhile; what an interrupted run left half-way is put right first.

        redo : a damaged record of what was about to be published is discarded, as all will be.

        Raises
        ------
        LockedError : another run does. ConfigError : a file, the output of another job, no permission, no space, or a
        damaged record.
        """
        if places.exists(self.root) and not places.is_dir(self.root):
            raise ConfigError(f"{self.root} is a file; give a directory for the collation")
        if places.exists(self.private / "config.json"):
            raise ConfigError(f"{self.root} holds a survey; give the collation a directory of its own")
        for name in PUBLISHED:
            if places.is_dir(self.root / name):
                raise ConfigError(
                    f"{self.root / name} is a directory, a collation puts a file there; move it away, or choose "
                    "another --output"
                )
        with self._told():
            self._make_private()
            with OutputLock(self.private / "lock", on_wait=say) as lock:
                if lock.taken_over:
                    say(lock.taken_over)
                self.guard = lock.guard()
                try:
                    self._sweep()
                    if redo:
                        self._forget_damaged()
                    self._finish_publishing()
                    yield
                finally:
                    self.guard = None

    def _make_private(self) -> None:
        try:
            places.make_directory(self.private)
        except OSError as error:
            if error.errno in REMEDIES:
                raise
            raise ConfigError(f"cannot write to {self.root}: {error.strerror}") from None

    @contextmanager
    def _told(self) -> Iterator[None]:
        """ConfigError with a remedy for files that cannot be written."""
        try:
            yield
        except (OSError, LockedError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError) or cause.errno not in REMEDIES:
                raise
            raise ConfigError(
                f"cannot write {cause.filename or f'to {self.root}'}: {os.strerror(cause.errno)}; "
                f"{REMEDIES[cause.errno]}, and run the same command again: what is done is kept"
            ) from error

    def of_this_run(self) -> "CollationFolder":
        """For tasks: its guard stays that of this run, also when the run has ended before them."""
        return copy(self)

    def check(self) -> None:
        """FencedError where another run has taken the folder over since it was locked."""
        if self.guard is not None:
            self.guard()

    def _sweep(self) -> None:
        """Remove what killed writers left half-written; an object store shows whole objects only."""
        if isinstance(self.private, Path):
            for path in self.private.rglob("*.partial"):
                if path.name != "lock.partial":  # being renewed
                    path.unlink(missing_ok=True)

    # --- configuration ----------------------------------------------------------------------------

    def claim(self, values: Mapping[str, Any], *, redo: bool) -> str:
        """Begin, or go on with, a collation of this configuration (plain values); returns its hash.

        redo : what is there is discarded, but for published tables, which stay until new ones take their place.

        Raises
        ------
        ConfigError : the folder holds another configuration; says which keys differ, and what to do. Or it holds files
        of the names of a collation's, and no collation.
        """
        path = self.private / CONFIGURATION
        flat = json.loads(json.dumps(flatten(values)))
        there = None if redo else self._read(path)
        if there is None:
            if not places.exists(path):
                self._check_free()
            # Records go before what they are of, and the configuration changes last: a kill in here loses work only.
            self.clear("published.json", "ledger.jsonl", "boxes.json", *WORK)
            if places.is_dir(path):
                self.clear(CONFIGURATION)
            write_atomically(path, json.dumps(flat, indent=1).encode())
        elif there != flat:
            raise ConfigError(_difference(self.root, there, flat))
        return hash_of(flat)

    def _check_free(self) -> None:
        """ConfigError where publishing would overwrite what is not a collation's."""
        there = [name for name in PUBLISHED if places.exists(self.root / name)]
        if there:
            raise ConfigError(
                f"{self.root} has {', '.join(there)}, and no record of a collation (.skysom/{CONFIGURATION}): it would "
                "be overwritten; move it away, or choose another --output"
            )

    def clear(self, *folders: str) -> None:
        """Remove work folders, or files of the work folder."""
        for name in folders:
            places.remove_tree(self.private / name)

    def forget_groups(self) -> None:
        """Discard the tables of boxes and, before these, the records of them."""
        self.ledger().drop("group")
        self.clear("parts", "merged")

    def forget_leftovers(self) -> None:
        """Discard what an interrupted run has left of tables that are not needed any more."""
        if any(places.exists(self.private / name) for name in ("parts", "merged")):
            self.forget_groups()

    def ledger(self) -> Ledger:
        """The completion records, read anew."""
        return Ledger(self.private / "ledger.jsonl")

    def _read(self, path: Place) -> dict[str, Any] | None:
        try:
            found = json.loads(places.read_bytes(path))
            if isinstance(found, dict):
                return found
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError, IsADirectoryError):
            pass
        raise damaged(path)

    def _record(self, path: Place) -> dict[str, Any] | None:
        """A record of files to be, or that were, published; ConfigError for one that is damaged."""
        found = self._read(path)
        return None if found is None else checked_record(found, PUBLISHED, path)

    # --- publishing -------------------------------------------------------------------------------

    def published(self) -> dict[str, Any] | None:
        """What was published last (`publish`); None where nothing was, or a file is not whole since, which is said.

        Raises
        ------
        ConfigError : its record is damaged.
        """
        found = self._record(self.private / "published.json")
        if found is None:
            return None
        wrong = next(filter(None, (fault(self.root / name, size) for name, size in found["bytes"].items())), "")
        if wrong:
            say(f"collate: {wrong}: the tables have to be merged again")
        return None if wrong else found

    def corrections(self) -> dict[str, Any]:
        """The corrections of what was published last; none where nothing was, or its record is damaged."""
        try:
            found = self._record(self.private / "published.json")
        except ConfigError:
            found = None
        return {"together": [], "apart": []} if found is None else dict(found["corrections"])

    def publish(self, record: Mapping[str, Any]) -> None:
        """Put the merged tables in their place, all of them or, after a kill, with the next `locked`.

        record : plain values kept as `published`; those of "summary" are written to collation.json, too.
        """
        write_atomically(self.merged(SUMMARY), json.dumps(record["summary"], indent=1).encode())
        sizes = {name: _length(self.merged(name)) for name in PUBLISHED}
        self.check()
        write_atomically(self._pending, json.dumps({**record, "bytes": sizes}).encode())
        self._finish_publishing()

    def unfinished(self) -> bool:
        """Whether publishing was interrupted: the tables may be of two collations until the next `locked`."""
        return places.exists(self._pending)

    @property
    def _pending(self) -> Place:
        return self.private / "publishing.json"

    def _finish_publishing(self) -> None:
        record = self._record(self._pending)
        if record is None:
            return
        left = {name: size for name, size in record["bytes"].items() if places.is_file(self.merged(name))}
        wrong = [fault(self.merged(name), size) for name, size in left.items()]
        wrong += [fault(self.root / name, size) for name, size in record["bytes"].items() if name not in left]
        if any(wrong):
            say(f"collate: {next(filter(None, wrong))}: what was about to be published is merged again")
            self._forget_records()
            return
        for name in left:
            places.move(self.merged(name), self.root / name)
        write_atomically(self.private / "published.json", json.dumps(record).encode())
        places.remove(self._pending)

    def _forget_damaged(self) -> None:
        try:
            self._record(self._pending)
        except ConfigError:
            self._forget_records()

    def _forget_records(self) -> None:
        """Tables of two collations must count for none, so the record of the last goes first."""
        self.clear("published.json", self._pending.name)


def _length(path: Place) -> int:
    with places.open_binary(path) as stream:
        return stream.seek(0, io.SEEK_END)


def _difference(root: Place, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """A sentence with the keys that differ and both values."""
    lines = []
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            shown = [_shown(values.get(key)) for values in (old, new)]
            lines.append(f"  {key}: {shown[0]} there, {shown[1]} in this run")
    return (
        f"{root} holds a collation of another configuration:\n" + "\n".join(lines) + "\n"
        "choose another --output, give the values that are there, or discard that collation with --redo"
    )


def _shown(value: Any) -> str:
    text = "not set" if value is None else json.dumps(value)
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text)} characters)"
