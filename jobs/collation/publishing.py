"""What a collation says of the files it has published, and whether they are still as they were written."""

import io
from collections.abc import Mapping
from typing import Any

from skysom.jobs.errors import ConfigError
from skysom.storage import place as places
from skysom.storage.place import Place

MAGIC = b"PAR1"
"""Both ends of a Parquet file."""
TOLD = ("sources", "rows", "sources_of_several", "largest_source")
"""Counts of a summary that every reader of a record relies on."""


def checked_record(values: Mapping[str, Any], names: tuple[str, ...], path: Place) -> dict[str, Any]:
    """A record of what was published, of plain values read from ``path``; names : of the files it has to tell of.

    Its keys are "corrections" (`run.plain`), "summary" and "bytes", the length of each file.

    Raises
    ------
    ConfigError : a key is missing, or holds something else.
    """
    corrections, summary, sizes = (values.get(key) for key in ("corrections", "summary", "bytes"))
    whole = (
        isinstance(corrections, dict)
        and _rows(corrections.get("apart"))
        and isinstance(corrections.get("together"), list)
        and all(map(_rows, corrections["together"]))
        and isinstance(summary, dict)
        and all(_count(summary.get(key)) for key in TOLD)
        and isinstance(sizes, dict)
        and sizes.keys() == set(names)
        and all(map(_count, sizes.values()))
    )
    if not whole:
        raise damaged(path)
    return dict(values)


def damaged(path: Place) -> ConfigError:
    """The error for a file of a work folder that does not hold what skysom writes."""
    return ConfigError(f"{path} is damaged; begin again with --redo")


def fault(path: Place, size: int) -> str:
    """What is wrong with a file of which ``size`` bytes were written; "" where nothing is.

    A Parquet file must have both its ends and readable metadata; its pages are not read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with places.open_binary(path) as stream:
            found = stream.seek(0, io.SEEK_END)
            if found != size:
                return f"{path} has {found:,} bytes, {size:,} were written"
            stream.seek(0)
            if path.suffix == ".parquet":
                if stream.read(len(MAGIC)) != MAGIC:
                    return f"{path} is no Parquet file any more"
                pq.read_metadata(stream)
    except FileNotFoundError:
        return f"{path} is missing"
    except (OSError, pa.ArrowException) as error:
        return f"{path} cannot be read ({error})"
    return ""


def _rows(values: Any) -> bool:
    return isinstance(values, list) and all(map(_count, values))


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
