"""Tables too large to hold: Dask over a Parquet catalogue, on threads, on Ray, or on a Dask cluster.

Code that computes with Dask names no scheduler; it runs under ``dask_scheduler``, which chooses one.
"""

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from skysom.cluster.errors import SchedulerError
from skysom.storage.errors import CatalogueError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from dask.delayed import Delayed

    from skysom.storage.place import Place

PARTITION_ROWS = 500_000
"""Rows of a catalogue evaluated at once: a few MB a column, and some hundred tasks for 40 million rows."""
LEFT_TO_END_S = 5.0
"""How long tasks on Ray are left to end by themselves, before they are cancelled, where one of them has failed."""


@contextmanager
def dask_scheduler(name: str = "threads", *, threads: int | None = None, deadline_s: float = 30.0) -> Iterator[None]:
    """Where Dask collections compute inside the ``with``; leaving it restores what was set before.

    Dask keeps its scheduler for the whole process: other threads that compute with Dask meanwhile use it too.

    Parameters
    ----------
    name : "threads" (of this process), "ray" (the Ray cluster this process is attached to, a CPU a task),
        "tcp://host:port", the scheduler of a Dask cluster, or "distributed", that of this process's Dask client.
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
    elif name == "distributed":
        with _on_own_client(deadline_s):
            yield
    elif name.startswith("tcp://"):
        with _on_dask_cluster(name, deadline_s):
            yield
    else:
        raise SchedulerError(
            f"unknown Dask scheduler {name!r}; give 'threads', 'ray', 'distributed' (the Dask client of this process), "
            "or the address of one as 'tcp://host:port'"
        )


def default_scheduler() -> str:
    """Where Dask computes if nothing else is asked for; a name for `dask_scheduler`.

    "distributed" where this process has a Dask client, "ray" where it is attached to a Ray cluster, else "threads".
    """
    if _own_client() is not None:
        return "distributed"
    ray = sys.modules.get("ray")  # imported by whoever has started it
    return "ray" if ray is not None and ray.is_initialized() else "threads"


def compute_each(
    tasks: Sequence["Delayed"], on_done: Callable[[int, Any], None], *, deadline_s: float = 3600.0
) -> None:
    """Compute every task under the scheduler in force and tell ``on_done(index, result)`` as each one is done.

    For tasks that leave their data in a store and return little: results come in any order, one at a time, in the
    calling thread, and are not kept. What a task or ``on_done`` raises ends it all; so does a cluster on which no task
    is done for ``deadline_s``.

    Raises
    ------
    SchedulerError : see ``deadline_s``.
    """
    import dask
    from dask.base import get_scheduler

    if not tasks:
        return
    silent = SchedulerError(
        f"the Dask cluster has done none of its tasks for {deadline_s:g} s; see whether its workers live and are free, "
        "and run the same command again"
    )
    client, get = _client_in_force(), get_scheduler()
    if client is not None:
        _each_on_cluster(client, tasks, on_done, deadline_s, silent)
    elif getattr(get, "__module__", "").startswith("ray."):
        _each_on_ray(tasks, on_done, deadline_s, silent)
    else:
        from dask.callbacks import Callback

        numbers = {task.key: index for index, task in enumerate(tasks)}

        def done(key: Any, result: Any, *_: Any) -> None:
            if key in numbers:
                on_done(numbers[key], result)

        with Callback(posttask=done):
            dask.compute(*tasks)


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
        _await_worker(client, f"the Dask scheduler at {address}", address, deadline_s)
        with dask.config.set(scheduler=client):
            yield


@contextmanager
def _on_own_client(deadline_s: float) -> Iterator[None]:
    """Dask on the workers of this process's client, which stays open."""
    import dask

    client = _own_client()
    if client is None:
        raise SchedulerError(
            "the Dask scheduler 'distributed' needs a client in this process; make one (distributed.Client(...)), "
            "give the scheduler's address as 'tcp://host:port', or use 'threads'"
        )
    _await_worker(client, "the Dask client of this process", client.scheduler.address, deadline_s)
    with dask.config.set(scheduler=client):
        yield


def _await_worker(client: Any, who: str, address: str, deadline_s: float) -> None:
    """Wait until a client has a worker; SchedulerError, which names ``who`` has none, at the deadline."""
    try:
        client.wait_for_workers(1, timeout=deadline_s)
    except TimeoutError as error:
        raise SchedulerError(
            f"{who} has no worker within {deadline_s:g} s; start one: dask worker {address}"
        ) from error


def _own_client() -> Any:
    """The Dask client that is this process's default, or None."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        return distributed.default_client()
    except ValueError:
        return None


def _client_in_force() -> Any:
    """The Dask client that computes now, or None."""
    import dask

    distributed, scheduler = sys.modules.get("distributed"), dask.config.get("scheduler", None)
    if distributed is not None and scheduler in ("distributed", "dask.distributed"):
        return distributed.default_client()
    return scheduler if distributed is not None and isinstance(scheduler, distributed.Client) else None


def _each_on_cluster(
    client: Any, tasks: Sequence["Delayed"], on_done: Callable[[int, Any], None], deadline_s: float, silent: Exception
) -> None:
    """`compute_each` on a Dask cluster."""
    from distributed import wait

    futures = client.compute(list(tasks))
    waiting = dict(zip(futures, range(len(tasks)), strict=True))
    try:
        while waiting:
            try:
                with client.as_current():  # it need not be the default one
                    done = wait(list(waiting), timeout=deadline_s, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                raise silent from None
            for future in done:
                on_done(waiting.pop(future), future.result())
    finally:
        client.cancel(list(waiting))


def _each_on_ray(
    tasks: Sequence["Delayed"], on_done: Callable[[int, Any], None], deadline_s: float, silent: Exception
) -> None:
    """`compute_each` on Ray: persisted tasks are references to what they will return."""
    import dask
    import ray

    kept = dask.persist(*tasks)
    waiting = {dict(task.dask)[task.key]: index for index, task in enumerate(kept)}
    try:
        while waiting:
            done, _ = ray.wait(list(waiting), timeout=deadline_s)
            if not done:
                raise silent
            try:
                result = ray.get(done[0])
            except ray.exceptions.RayTaskError as error:
                raise getattr(error, "cause", error) from None  # without Ray's own traceback in the message
            on_done(waiting.pop(done[0]), result)
    finally:
        # Ray aborts this process where it cancels a task that is done at that moment ("Tried to complete task that was
        # not pending", seen with 2.60): short tasks are left to end, and few long ones end just then.
        left = list(waiting)
        running = ray.wait(left, num_returns=len(left), timeout=LEFT_TO_END_S)[1] if left else []
        for reference in running:
            ray.cancel(reference)
