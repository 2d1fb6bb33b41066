"""The folder of a collation: what it publishes, its private work folder, and what an interrupted run left there.

DIR/sources.parquet, components.parquet, edges.parquet, evidence.parquet, collation.json
DIR/.skysom/   lock, ledger.jsonl, collation-config.json, boxes.json, dealt/, sky/, parts/, merged/, published.json
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

from skysom.cluster.fence import Guard
from skysom.cluster.ledger import Ledger
from skysom.cluster.lock import OutputLock
from skysom.jobs.config import flatten
from skysom.jobs.errors import ConfigError
from skysom.jobs.output import hash_of
from skysom.jobs.progress import say
from skysom.storage import place as places
from skysom.storage.place import Place, write_atomically

TABLES = ("sources", "components", "edges", "evidence")
SUMMARY = "collation.json"
WORK = ("dealt", "sky", "parts", "merged")
"""Folders of intermediate tables: boxes' rows, boxes' carried pairs, tables of a box, tables about to be published."""


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
    def locked(self) -> Iterator[None]:
        """Nobody else writes here meanwhile; what an interrupted run left half-way is put right first.

        Raises
        ------
        LockedError : another run does. ConfigError : a file, the output of another job, or no permission.
        """
        if places.exists(self.root) and not places.is_dir(self.root):
            raise ConfigError(f"{self.root} is a file; give a directory for the collation")
        if places.exists(self.private / "config.json"):
            raise ConfigError(f"{self.root} holds a survey; give the collation a directory of its own")
        try:
            places.make_directory(self.private)
        except OSError as error:
            raise ConfigError(f"cannot write to {self.root}: {error.strerror}") from None
        with OutputLock(self.private / "lock", on_wait=say) as lock:
            if lock.taken_over:
                say(lock.taken_over)
            self.guard = lock.guard()
            self._sweep()
            self._finish_publishing()
            try:
                yield
            finally:
                self.guard = None

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
        ConfigError : the folder holds another configuration; says which keys differ, and what to do.
        """
        path = self.private / "collation-config.json"
        flat = json.loads(json.dumps(flatten(values)))
        there = None if redo else self._read(path)
        if there is None:
            # Without a configuration the rest counts for nothing, so a kill in here is a fresh start, too.
            places.remove(path)
            self.clear(*WORK, "ledger.jsonl", "published.json", "boxes.json")
            write_atomically(path, json.dumps(flat, indent=1).encode())
        elif there != flat:
            raise ConfigError(_difference(self.root, there, flat))
        return hash_of(flat)

    def clear(self, *folders: str) -> None:
        """Remove work folders, or files of the work folder."""
        for name in folders:
            places.remove_tree(self.private / name)

    def forget_groups(self) -> None:
        """Discard the tables of boxes and, before these, the records of them."""
        self.ledger().drop("group")
        self.clear("parts", "merged")

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
        except ValueError:
            pass
        raise ConfigError(f"{path} is damaged; begin again with --redo")

    # --- publishing -------------------------------------------------------------------------------

    def published(self) -> dict[str, Any] | None:
        """What was published last (`publish`); None where nothing was, or a table is missing since."""
        found = self._read(self.private / "published.json")
        whole = found is not None and all(places.is_file(self.root / name) for name in found["files"])
        return found if whole else None

    def publish(self, record: Mapping[str, Any]) -> None:
        """Put the merged tables in their place, all of them or, after a kill, with the next `locked`.

        record : plain values kept as `published`; those of "summary" are written to collation.json, too.
        """
        files = [f"{name}.parquet" for name in TABLES] + [SUMMARY]
        write_atomically(self.merged(SUMMARY), json.dumps(record["summary"], indent=1).encode())
        self.check()
        write_atomically(self._pending, json.dumps({**record, "files": files}).encode())
        self._finish_publishing()

    @property
    def _pending(self) -> Place:
        return self.private / "publishing.json"

    def _finish_publishing(self) -> None:
        record = self._read(self._pending)
        if record is None:
            return
        for name in record["files"]:
            if places.is_file(self.merged(name)):
                places.move(self.merged(name), self.root / name)
        write_atomically(self.private / "published.json", json.dumps(record).encode())
        places.remove(self._pending)


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
