"""Tables too large to hold: Dask over a Parquet catalogue, on threads, on Ray, or on a Dask cluster.

Code that computes with Dask names no scheduler; it runs under ``dask_scheduler``, which chooses one.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from skysom.cluster.errors import SchedulerError
from skysom.storage.errors import CatalogueError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from skysom.storage.place import Place

PARTITION_ROWS = 500_000
"""Rows of a catalogue evaluated at once: a few MB a column, and some hundred tasks for 40 million rows."""


@contextmanager
def dask_scheduler(name: str = "threads", *, threads: int | None = None, deadline_s: float = 30.0) -> Iterator[None]:
    """Where Dask collections compute inside the ``with``; leaving it restores what was set before.

    Dask keeps its scheduler for the whole process: other threads that compute with Dask meanwhile use it too.

    Parameters
    ----------
    name : "threads" (of this process), "ray" (the Ray cluster this process is attached to, a CPU a task),
        or "tcp://host:port", the scheduler of a Dask cluster.
    threads : how many, with "threads"; None: one a core.
    deadline_s : longest time until Ray or the Dask cluster takes a task.

    Raises
    ------
    SchedulerError : unknown name, ``threads`` that do not fit, or nothing that computes within the deadline.
    """
    if threads is not None and (name != "threads" or threads < 1):
        raise SchedulerError(
            f"threads={threads} with the Dask scheduler {name!r}; give it 1 or more, with 'threads' only"
        )
    if name == "threads":
        import dask

        with dask.config.set(scheduler="threads", num_workers=threads, pool=None):
            yield
    elif name == "ray":
        with _on_ray(deadline_s):
            yield
    elif name.startswith("tcp://"):
        with _on_dask_cluster(name, deadline_s):
            yield
    else:
        raise SchedulerError(
            f"unknown Dask scheduler {name!r}; give 'threads', 'ray', or the address of one as 'tcp://host:port'"
        )


def rows_where(
    path: "Place", expression: str, *, scheduler: str = "threads", partition_rows: int = PARTITION_ROWS
) -> np.ndarray:
    """Rows (n,) bool of a Parquet catalogue for which an expression is true, as ``selection.select`` gives.

    Only the columns it names are read, in parts of whole row groups of about ``partition_rows`` rows, of
    which each core of the scheduler holds one. On Ray or a Dask cluster ``path`` is opened on the workers.

    Raises
    ------
    CatalogueError : as ``select``, where the types of the columns allow before any row is read; or a file
        that cannot be read.
    SchedulerError : see ``dask_scheduler``.
    """
    from skysom.storage.selection import column_names, select

    names = column_names(expression)
    path = path.absolute()
    with _parquet(path) as file:
        schema, metadata = file.schema_arrow, file.metadata
        select(_typed(_flat(schema, path).empty_table()), expression)
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    import dask

    evaluate = dask.delayed(_evaluate, pure=False)
    parts = [evaluate(path, groups, names, expression) for groups in _partitions(rows, partition_rows)]
    with dask_scheduler(scheduler):
        try:
            found = dask.compute(*parts)
        except CatalogueError as error:
            # Ray adds its own traceback to the message and keeps the error itself as the cause.
            raise getattr(error, "cause", error) from None
    return np.concatenate([np.zeros(0, dtype=bool), *found])


def _evaluate(path: "Place", groups: list[int], names: list[str], expression: str) -> np.ndarray:
    """Rows of some row groups (their rows,) bool; runs wherever the scheduler has it run."""
    from skysom.storage.selection import select

    with _parquet(path) as file:
        table = file.read_row_groups(groups, columns=names, use_threads=False)
    return select(_typed(table.select(names)), expression)


def _partitions(rows: list[int], partition_rows: int) -> list[list[int]]:
    """Consecutive row groups, joined until they have ``partition_rows`` rows."""
    parts: list[list[int]] = []
    held = partition_rows
    for group, count in enumerate(rows):
        if held >= partition_rows:
            parts.append([])
            held = 0
        parts[-1].append(group)
        held += count
    return parts


@contextmanager
def _parquet(path: "Place") -> Iterator[Any]:
    """An open pyarrow ParquetFile; CatalogueError for whatever goes wrong in reading it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from skysom.storage.place import open_binary

    try:
        with open_binary(path) as stream, pq.ParquetFile(stream) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        what = f"{path} cannot be read as Parquet ({type(error).__name__}: {error})"
        raise CatalogueError(f"{what}; check that it is whole and that every worker reaches it by this path") from error


def _flat(schema: "pa.Schema", path: "Place") -> "pa.Schema":
    """The columns of one value a row, as ``read_catalogue`` keeps them; no two of one name."""
    import pyarrow as pa

    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise CatalogueError(f"{path} has more than one column named {', '.join(map(repr, twice))}; rename one of each")
    return pa.schema([field for field in schema if not pa.types.is_nested(field.type)])


def _typed(table: "pa.Table") -> "pd.DataFrame":
    """A DataFrame whose types follow from the schema, whatever values are missing in this part.

    Categories become their values: each row group may list others.
    """
    import pandas as pd
    import pyarrow as pa

    from skysom.storage.catalogue import NULLABLE

    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if len(table) and pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        columns[name] = column.to_pandas(types_mapper=NULLABLE.get)
    return pd.DataFrame(columns)


@contextmanager
def _on_ray(deadline_s: float) -> Iterator[None]:
    """Dask on the running Ray cluster. Importing ray.util.dask replaces dask.persist, hence the care."""
    import dask
    import ray
    from dask.base import DaskMethodsMixin

    if not ray.is_initialized():
        raise SchedulerError(
            "the Dask scheduler 'ray' needs Ray, which is not running here; start it, or use 'threads'"
        )
    try:
        # A task of a CPU, as Dask's will be: where actors hold all CPUs, computing would wait for ever.
        ray.get(ray.remote(num_cpus=1)(_probe).remote(), timeout=deadline_s)
    except Exception as error:  # GetTimeoutError, or whatever keeps a worker from starting
        raise SchedulerError(
            f"Ray did no task of one CPU within {deadline_s:g} s ({type(error).__name__}); "
            "free a CPU of the cluster, or use the Dask scheduler 'threads'"
        ) from error
    before: tuple[Callable, Callable] = dask.persist, DaskMethodsMixin.persist
    try:
        from ray.util.dask import patch_dask, ray_dask_get, ray_dask_persist, ray_dask_persist_mixin

        patch_dask(ray_dask_persist, ray_dask_persist_mixin)
        # Shuffles as tasks: the default way needs a disk that all nodes share.
        with dask.config.set({"scheduler": ray_dask_get, "dataframe.shuffle.method": "tasks"}):
            yield
    finally:
        dask.persist, DaskMethodsMixin.persist = before  # type: ignore[method-assign]


def _probe() -> None:
    """Done where this module can be imported."""


@contextmanager
def _on_dask_cluster(address: str, deadline_s: float) -> Iterator[None]:
    """Dask on the workers of the scheduler at an address; the connection is closed on leaving."""
    import dask

    try:
        from distributed import Client
        from distributed.comm import connect
        from distributed.utils import LoopRunner
    except ImportError as error:
        raise SchedulerError(f"{address} needs the package distributed; pip install 'skysom[dask]'") from error

    async def greet() -> None:
        # Client waits without end for the greeting of one that takes the connection and is no Dask scheduler.
        comm = await asyncio.wait_for(connect(address, timeout=deadline_s), deadline_s)
        await comm.close()

    try:
        LoopRunner().run_sync(greet)
        client = Client(address, timeout=deadline_s, set_as_default=False)
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        raise SchedulerError(
            f"no Dask scheduler answers at {address} within {deadline_s:g} s ({error}); "
            "check the address, or use the Dask scheduler 'threads'"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=deadline_s)
        except TimeoutError as error:
            raise SchedulerError(
                f"the Dask scheduler at {address} has no worker within {deadline_s:g} s; "
                f"start one: dask worker {address}"
            ) from error
        with dask.config.set(scheduler=client):
            yield
