"""Selections over Parquet by parts: the answer of the whole table, on every scheduler; schedulers come and go."""

import datetime
import socket

import dask
import dask.array
import distributed  # like dask.array, adds to the configuration when first imported
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dask.base import DaskMethodsMixin
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skysom.cluster import shards, tables
from skysom.cluster.errors import ClusterError, SchedulerError
from skysom.cluster.ray_executor import start_ray
from skysom.cluster.tables import compute_each, dask_scheduler, default_scheduler, rows_where
from skysom.storage.catalogue import read_catalogue
from skysom.storage.errors import CatalogueError
from skysom.storage.selection import column_names, select

EXPRESSIONS = [
    *("snr > 1", "not (snr > 1)", "snr != 1 and n < 3", "n in [1, 2]", "n not in [1, 2]", "1 <= n < 3 or good"),
    *("~good", "kind == 'FRI'", "not (kind in ['FRI', 'b'])", "snr / n > 0.5", "whole * whole > 0", "`bmu row` == n"),
    *("snr32 > 0.1", "flags * 9 > 20", "missing == 1", "label == 'FRI' or label != 'x'", "day == '2020'"),
]
SCHEMA = pa.schema(
    {
        "snr": pa.float64(),
        "snr32": pa.float32(),
        "whole": pa.float64(),
        "n": pa.int64(),
        "flags": pa.uint8(),
        "bmu row": pa.int32(),
        "good": pa.bool_(),
        "kind": pa.string(),
        "label": pa.dictionary(pa.int8(), pa.string()),
        "day": pa.date32(),
        "missing": pa.null(),
        "spectrum": pa.list_(pa.float32()),
    }
)
LOOPBACK = {"processes": False, "dashboard_address": "127.0.0.1:0", "host": "127.0.0.1", "protocol": "tcp://"}
_maybe = st.none() | st.sampled_from(["FRI", "FRII", "b"])
ROW = st.fixed_dictionaries(
    {
        "snr": st.none() | st.sampled_from([0.0, 1.0, 1.5, float("nan"), float("inf")]),
        "snr32": st.none() | st.sampled_from([0.1, 0.25]),
        # Squares that overflow as whole numbers: a part of whole values must not be typed as such.
        "whole": st.none() | st.sampled_from([5.0, 4e9, 1e10, 0.5]),
        "n": st.none() | st.integers(0, 4) | st.just(2**53 + 1),
        "flags": st.none() | st.integers(0, 7),
        "bmu row": st.integers(0, 4),
        "good": st.none() | st.booleans(),
        "kind": _maybe,
        "label": _maybe,
        "day": st.none() | st.just(datetime.date(2020, 1, 1)),
        "missing": st.none(),
        "spectrum": st.just([1.0]),
    }
)


def write(path, rows, group_rows):
    """A catalogue of rows; a group of none where a count in ``group_rows`` is 0."""
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    with pq.ParquetWriter(path, SCHEMA) as writer:
        first = 0
        for count in (*group_rows, len(rows)):
            writer.write_table(table.slice(first, count), row_group_size=max(count, 1))
            first = min(first + count, len(rows))
    return path


@pytest.fixture(scope="module")
def awkward(tmp_path_factory):
    """Three groups and an empty one: everything missing, whole numbers only, and mixed; with the table itself."""
    empty = dict.fromkeys(SCHEMA.names) | {"bmu row": 0}
    whole = {"snr": 2.0, "snr32": 0.1, "whole": 1e10, "n": 1, "flags": 4, "bmu row": 1, "good": True, "kind": "FRI"}
    mixed = {"snr": 0.5, "whole": 0.5, "n": 2**53 + 1, "flags": 3, "bmu row": 2, "kind": "b", "label": "FRI"}
    mixed |= {"day": datetime.date(2020, 1, 1)}
    rows = [empty, empty, whole, whole | {"label": "x"}, empty | mixed, empty, whole]
    path = write(tmp_path_factory.mktemp("tables") / "catalogue.parquet", rows, (2, 2, 0))
    assert [pq.read_metadata(path).row_group(g).num_rows for g in range(4)] == [2, 2, 0, 3]
    return path, read_catalogue(path)


@pytest.fixture(scope="module")
def dask_cluster():
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, **LOOPBACK) as cluster:
        yield cluster


@pytest.fixture(params=["threads", "ray", "tcp"])
def scheduler(request):
    if request.param == "ray":
        start_ray(2, None)
    return request.getfixturevalue("dask_cluster").scheduler_address if request.param == "tcp" else request.param


@pytest.fixture(autouse=True)
def _scheduler_state_is_restored():
    def state():
        return dict(dask.config.config), dask.persist, DaskMethodsMixin.persist

    with dask.config.set(scheduler="sync", num_workers=1):
        before = state()
        yield
        assert state() == before


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(ROW, min_size=1, max_size=12),
    group_rows=st.lists(st.integers(0, 4), max_size=4),
    expression=st.sampled_from(EXPRESSIONS),
    partition_rows=st.sampled_from([1, 5, 1000]),
)
def test_parts_answer_as_the_whole_table(tmp_path, rows, group_rows, expression, partition_rows):
    path = write(tmp_path / "catalogue.parquet", rows, group_rows)
    found = rows_where(path, expression, partition_rows=partition_rows)
    assert found.dtype == bool
    assert found.tolist() == select(read_catalogue(path), expression).tolist()


def test_ray_is_found_before_dask_needs_it(monkeypatch):
    calls = []
    monkeypatch.setattr(shards, "start_ray", lambda *arguments: calls.append(arguments))
    assert shards.Runtime(2, ray_address="host:1", dask="ray").dask_ready() == "ray"
    assert shards.Runtime(2).dask_ready() == "threads"
    assert calls == [(2, "host:1")]


def test_every_scheduler_answers_as_the_whole_table(awkward, scheduler):
    path, table = awkward
    for expression in EXPRESSIONS:
        found = rows_where(path, expression, scheduler=scheduler, partition_rows=1)
        assert found.tolist() == select(table, expression).tolist(), expression


def test_an_empty_catalogue_has_no_rows(tmp_path):
    pq.write_table(SCHEMA.empty_table(), tmp_path / "none.parquet")
    assert rows_where(tmp_path / "none.parquet", "snr > 1").shape == (0,)


def test_a_store_with_an_address_is_read(awkward):
    upath = pytest.importorskip("upath")
    path, table = awkward
    remote = upath.UPath("memory://tables/catalogue.parquet")
    remote.write_bytes(path.read_bytes())
    assert rows_where(remote, "snr > 1").tolist() == select(table, "snr > 1").tolist()


def test_row_groups_are_joined_to_partitions():
    assert tables._partitions([2, 2, 0, 3, 9, 1], 4) == [[0, 1], [2, 3, 4], [5]]
    assert tables._partitions([], 4) == []


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("flux > 1", "no column 'flux'.*it has snr, "),
        ("spectrum > 1", "no column 'spectrum'"),
        ("snr + 1", "no true/false"),
        ("label < 'x'", "cannot be evaluated"),
        ("snr >", "is no expression"),
        ("snr.sum() > 1", "uses Call"),
        ("flags * 300 > 600", "cannot be evaluated"),
        ("n in snr", "otherwise than"),
        ("1 in n", "otherwise than"),
        ("n in [snr, 1]", "otherwise than"),
        ("[1, 2, 3] < n", "otherwise than"),
        ("n in [1] in [2]", "otherwise than"),
    ],
)
def test_refusals_come_before_any_row_is_read(awkward, tmp_path, expression, message):
    path, table = awkward
    with pytest.raises(CatalogueError, match=message):
        select(table, expression)
    # The pages are overwritten: whoever read one would complain of that.
    data = path.read_bytes()
    footer = int.from_bytes(data[-8:-4], "little") + 8
    hollow = tmp_path / "hollow.parquet"
    hollow.write_bytes(b"PAR1" + b"\xff" * (len(data) - footer - 4) + data[-footer:])
    with pytest.raises(CatalogueError, match=message):
        rows_where(hollow, expression)
    with pytest.raises(CatalogueError, match=r"hollow.parquet cannot be read as Parquet"):
        rows_where(hollow, "snr > 1")


def test_refusals_that_only_values_show_read_the_same_everywhere(awkward, scheduler):
    path, table = awkward
    for expression in ("day > '2020-01-01'", "kind > 5"):
        with pytest.raises(CatalogueError) as whole:
            select(table, expression)
        with pytest.raises(CatalogueError) as parts:
            rows_where(path, expression, scheduler=scheduler, partition_rows=1)
        assert str(parts.value) == str(whole.value)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "text.parquet").write_text("snr,n\n1,2\n")
    for name in ("text.parquet", "absent.parquet"):
        with pytest.raises(CatalogueError, match=f"{name} cannot be read as Parquet"):
            rows_where(tmp_path / name, "snr > 1")
    twice = pa.table([pa.array([1]), pa.array([2])], names=["snr", "snr"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(CatalogueError, match="more than one column named 'snr'"):
        rows_where(tmp_path / "twice.parquet", "snr > 1")


def test_column_names():
    assert column_names("`peak flux` > 1 and snr > 2 or snr < n") == ["n", "peak flux", "snr"]
    with pytest.raises(CatalogueError, match="uses Attribute"):
        column_names("snr.values > 1")


def test_only_the_columns_named_are_read(awkward, tmp_path):
    """The pages of ``kind`` are overwritten; a selection on another column does not notice."""
    path, table = awkward
    data = bytearray(path.read_bytes())
    metadata = pq.read_metadata(path)
    for group in range(metadata.num_row_groups):
        chunk = metadata.row_group(group).column(SCHEMA.names.index("kind"))
        first = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
        data[first : first + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(data)
    assert rows_where(damaged, "snr > 1").tolist() == select(table, "snr > 1").tolist()
    with pytest.raises(CatalogueError, match="cannot be read"):
        rows_where(damaged, "kind == 'FRI'")


def test_collections_compute_and_persist_where_asked(scheduler):
    import os

    total = dask.delayed(sum)([dask.delayed(pow)(base, 2) for base in range(4)])
    with dask_scheduler(scheduler):
        assert total.compute() == 14
        assert total.persist().compute() == 14
        assert dask.persist(total)[0].compute() == 14
        assert (dask.delayed(os.getpid)().compute() == os.getpid()) == (scheduler != "ray")
    with pytest.raises(KeyError, match="inside"), dask_scheduler(scheduler):
        raise KeyError("inside")


def test_arrays_compute_where_asked(scheduler):
    with dask_scheduler(scheduler):
        assert dask.array.arange(100, chunks=10).sum().compute() == 4950


def squares(numbers):
    return [dask.delayed(pow, pure=False)(dask.delayed(int)(number), 2) for number in numbers]


def test_every_task_is_told_as_it_is_done(scheduler):
    found = {}
    with dask_scheduler(scheduler):
        compute_each(squares(range(9)), found.__setitem__)
        compute_each([], found.__setitem__)
    assert found == {number: number**2 for number in range(9)}


def test_what_a_task_or_its_teller_raises_ends_it(scheduler):
    def fail(number):
        raise CatalogueError(f"task {number} fails")

    def stop(index, result):
        raise KeyError(index)

    with dask_scheduler(scheduler):
        with pytest.raises(CatalogueError, match="task 3 fails"):
            compute_each([*squares(range(3)), dask.delayed(fail, pure=False)(3)], lambda index, result: None)
        with pytest.raises(KeyError):
            compute_each(squares(range(3)), stop)


@pytest.mark.parametrize("scheduler", ["ray"], indirect=True)
def test_short_tasks_are_left_to_end_where_another_fails_and_long_ones_cancelled(scheduler, monkeypatch):
    """Ray ends this process if one is cancelled as it is done."""
    import time

    import ray

    cancel, cancelled = ray.cancel, []
    monkeypatch.setattr(ray, "cancel", lambda reference: cancelled.append(reference) or cancel(reference))

    def stop(index, result):
        raise KeyError(index)

    with dask_scheduler(scheduler):
        with pytest.raises(KeyError):
            compute_each(squares(range(6)), stop)
        assert not cancelled
        monkeypatch.setattr(tables, "LEFT_TO_END_S", 0.5)
        with pytest.raises(KeyError):
            compute_each([*squares(range(1)), dask.delayed(time.sleep, pure=False)(20)], stop)
    assert len(cancelled) == 1


@pytest.mark.parametrize("scheduler", ["ray", "tcp"], indirect=True)
def test_a_cluster_that_does_nothing_is_given_up(scheduler):
    import time

    tasks = [dask.delayed(time.sleep, pure=False)(5)]
    with dask_scheduler(scheduler), pytest.raises(SchedulerError, match=r"none of its tasks for 0.3 s"):
        compute_each(tasks, lambda index, result: None, deadline_s=0.3)


@pytest.mark.parametrize("scheduler", ["ray"], indirect=True)
def test_the_default_is_a_client_of_this_process_before_ray(scheduler):
    assert default_scheduler() == "ray"
    with distributed.Client(**LOOPBACK) as client:
        assert default_scheduler() == "distributed"
        with dask_scheduler("distributed"):
            assert dask.delayed(sum)([1, 2]).compute() == 3
            assert dask.config.get("scheduler") is client
        assert client.status == "running"
    assert default_scheduler() == "ray"
    with pytest.raises(SchedulerError, match="needs a client in this process"), dask_scheduler("distributed"):
        pass


def test_threads_are_as_many_as_asked():
    import threading

    barrier = threading.Barrier(3, timeout=30)
    with dask_scheduler(threads=3):
        dask.compute(*[dask.delayed(barrier.wait, pure=False)() for _ in range(3)])
    with dask_scheduler(threads=1):
        names = dask.compute(*[dask.delayed(threading.get_ident, pure=False)() for _ in range(9)])
    assert len(set(names)) == 1


@pytest.mark.parametrize(
    ("name", "threads", "message"),
    [
        ("spark", None, "unknown Dask scheduler 'spark'; give 'threads', 'ray'"),
        ("threads", 0, "threads=0"),
        ("ray", 2, "threads=2 with the Dask scheduler 'ray'"),
        ("tcp://nowhere", None, "no Dask scheduler answers at tcp://nowhere"),
    ],
)
def test_wrong_schedulers_are_refused(name, threads, message):
    with pytest.raises(SchedulerError, match=message), dask_scheduler(name, threads=threads, deadline_s=1):
        pass
    assert issubclass(SchedulerError, ClusterError)


def test_an_address_where_nothing_answers_is_given_up():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # takes the connection and says nothing
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(SchedulerError, match="within 1 s"), dask_scheduler(address, deadline_s=1):
            pass
    with pytest.raises(SchedulerError, match="check the address"), dask_scheduler(address, deadline_s=1):
        pass


def test_a_dask_cluster_without_workers_is_given_up():
    with (
        distributed.LocalCluster(n_workers=0, **LOOPBACK) as cluster,
        pytest.raises(SchedulerError, match="has no worker within 1 s"),
        dask_scheduler(cluster.scheduler_address, deadline_s=1),
    ):
        pass


def test_a_ray_whose_cores_actors_hold_is_given_up():
    import ray

    ray.shutdown()  # one that another test left may have more cores
    start_ray(2, None)

    class Holder:
        def ping(self):
            pass

    holders = [ray.remote(num_cpus=1)(Holder).remote() for _ in range(2)]
    try:
        ray.get([holder.ping.remote() for holder in holders], timeout=60)
        with pytest.raises(SchedulerError, match="free a CPU"), dask_scheduler("ray", deadline_s=1):
            pass
    finally:
        for holder in holders:
            ray.kill(holder)


def test_ray_is_not_started_unasked():
    import ray

    ray.shutdown()
    with pytest.raises(SchedulerError, match="not running"), dask_scheduler("ray"):
        pass
    assert default_scheduler() == "threads"
    assert not ray.is_initialized()


def test_whole_floats_are_decided_as_floats():
    frame = pd.DataFrame({"x": [1e10, np.nan, 5.0]})
    assert select(frame, "x * x > 0").tolist() == [True, False, True]
