"""Tables of a collation's work folder: Arrow files in numbered parts, so that a box or a range of rows is read alone.

A file is there whole or not at all. It is written by one task and read by many, also on other hosts.
"""

import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skysom.jobs.errors import ConfigError
from skysom.storage.place import Place, make_directory, open_binary, write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

PARTS = b"skysom.parts"
"""Key of the schema's metadata under which the numbers of the parts are listed, in their order."""


def write_parts(path: Place, table: "pa.Table", number: np.ndarray | None = None) -> list[int]:
    """Write the rows of ``table`` so that `read_part` finds those of one number; returns the numbers there are.

    number : (n,) integers, ascending, the part of every row; default: one part, 0. The folder is made where needed.
    """
    import pyarrow as pa

    if number is None:
        number = np.zeros(len(table), np.int64)
    starts = np.flatnonzero(np.diff(number, prepend=-1)).tolist()
    parts = number[starts].tolist()
    schema = table.schema.with_metadata({PARTS: json.dumps(parts)})
    table = table.combine_chunks()
    make_directory(path.parent)
    with _whole(path) as stream, pa.ipc.new_file(stream, schema) as writer:
        for start, stop in pairwise([*starts, len(number)]):
            (batch,) = table.slice(start, stop - start).to_batches()
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))
    return parts


def read_part(path: Place, number: int = 0, columns: Iterable[str] | None = None) -> "pa.Table":
    """The rows of one part, none where the file has no such part.

    Raises
    ------
    ConfigError : the file is missing or damaged.
    """
    import pyarrow as pa

    with _opened(path, columns) as reader:
        parts = json.loads(reader.schema.metadata[PARTS])
        batches = [reader.get_batch(parts.index(number))] if number in parts else []
        return pa.Table.from_batches(batches, reader.schema.remove_metadata())


def stack(tables: Iterable["pa.Table"]) -> "pa.Table":
    """The rows of all tables (one at least, of one schema) below one another, in one piece a column."""
    import pyarrow as pa

    return pa.concat_tables(tables).combine_chunks()


def column(table: "pa.Table", name: str) -> np.ndarray:
    """A column without missing values as an array (n,)."""
    return np.asarray(table.column(name).to_numpy())


@contextmanager
def _opened(path: Place, columns: Iterable[str] | None) -> Iterator[Any]:
    import pyarrow as pa

    stream = None
    try:
        stream = pa.OSFile(str(path)) if isinstance(path, Path) else open_binary(path)
        options = pa.ipc.IpcReadOptions()
        if columns is not None:
            with pa.ipc.open_file(stream) as reader:
                options.included_fields = [reader.schema.get_field_index(name) for name in columns]
        with pa.ipc.open_file(stream, options=options) as reader:
            yield reader
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise ConfigError(
            f"{path} of an earlier run cannot be read ({type(error).__name__}: {error}); begin again with --redo"
        ) from error
    finally:
        if stream is not None:
            stream.close()


@contextmanager
def _whole(path: Place) -> Iterator[Any]:
    """A stream whose content becomes the file when the context ends well."""
    import pyarrow as pa

    if not isinstance(path, Path):
        memory = io.BytesIO()
        yield memory
        write_atomically(path, memory.getvalue())
        return
    beside = path.with_name(path.name + ".partial")
    try:
        with pa.OSFile(str(beside), "wb") as stream:
            yield stream
        beside.replace(path)
    except OSError:  # a full disk, say
        beside.unlink(missing_ok=True)
        raise
