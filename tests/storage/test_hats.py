"""Partitions of the sky and their margins, and HATS catalogues as they are read."""

import os
import warnings
from pathlib import Path

import astropy.units as u
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import SkyCoord
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skysom.storage.errors import CatalogueError
from skysom.storage.hats import INDEX_COLUMN, ROW_COLUMN, has_row_numbers, margin_of, open_hats, read_structure
from skysom.storage.hats_partitions import (
    DEEPEST,
    MARGIN_ORDER,
    PixelCounts,
    SkyPartitions,
    margin_order,
    spatial_index,
)
from skysom.storage.hats_write import finish_catalogue, finish_collection, sorted_by_place, write_partition
from skysom.storage.table_stream import is_hats

PLACES = [(0, 0), (359.99, 5), (10, 90), (200, -90), (45, 41.8103), (90, 41.8103), (0, 89.7), (225, -41.8103)]


def sky(count, seed, centre=None, width_deg=1.0):
    rng = np.random.default_rng(seed)
    if centre is None:
        return rng.uniform(0, 360, count), np.degrees(np.arcsin(rng.uniform(-1, 1, count)))
    angle, away = rng.uniform(0, 360, count) * u.deg, rng.uniform(0, width_deg, count) * u.deg
    found = SkyCoord(*centre, unit="deg").directional_offset_by(angle, away)
    return found.ra.deg, found.dec.deg


def test_the_index_is_healpix_of_order_29_and_minus_one_without_a_position():
    index = spatial_index(np.array([45.0, np.nan, 360.0, 0.0]), np.array([0.5, 1.0, 0.0, 0.0]))
    assert index[1] == -1
    assert index[2] == index[3]
    assert (index >> 2 * DEEPEST)[[0, 2]].tolist() == [0, 4]  # base pixels: first of the north, first of the equator


@given(st.integers(0, 1000), st.integers(1, 200), st.sampled_from([None, *PLACES]))
@settings(deadline=None, max_examples=40)
def test_partitions_hold_every_row_once_and_not_too_many(seed, rows, centre):
    index = spatial_index(*sky(500, seed, centre, 20))
    counts = PixelCounts().plus(index[:100]).plus(index[100:])
    assert counts.total == 500
    assert counts.chart().sum() == 500
    partitions = SkyPartitions.of_counts(counts, rows)
    number = partitions.of(index)
    assert number.min() >= 0
    held = np.bincount(number, minlength=len(partitions))
    assert held.min() > 0
    assert held[partitions.order < 10].max(initial=0) <= rows
    assert (np.diff(partitions.starts) > 0).all()
    assert (partitions.starts[1:] >= partitions.stops[:-1]).all()


def test_the_rest_of_the_sky_is_filled_with_the_fewest_pixels():
    partitions = SkyPartitions(np.array([1, 0]), np.array([5, 7]))
    whole = partitions.whole_sky()
    assert whole.starts[0] == 0
    assert (whole.starts[1:] == whole.stops[:-1]).all()
    assert whole.stops[-1] == 12 << 2 * DEEPEST
    assert len(whole) == 2 + 3 + 10
    outside = partitions.of(np.array([0, whole.stops[-1] - 1]))
    assert outside.tolist() == [-1, -1]


@given(
    st.integers(0, 10_000),
    st.sampled_from([None, *PLACES]),
    st.sampled_from([0.01, 1.0, 30.0, 600.0, 20_000.0]),
    st.integers(1, 40),
)
@example(3, (10, 90), 20_000.0, 1)
@settings(deadline=None, max_examples=60)
def test_a_margin_holds_every_row_within_it_of_a_partition(seed, centre, margin, rows):
    """Seen from any place: the rows of its partition and of that one's margin are all rows near the place."""
    ra, dec = sky(300, seed, centre, min(margin / 3600 * 5, 30))
    index = spatial_index(ra, dec)
    partitions = SkyPartitions.of_counts(PixelCounts().plus(index), rows).whole_sky()
    own = partitions.of(index)
    row, near = partitions.near(index, margin)
    assert (np.diff(row) >= 0).all()
    assert (near != own[row]).all()
    held = set(zip(row.tolist(), near.tolist(), strict=True))
    assert len(held) == len(row)
    rng = np.random.default_rng(seed)
    away = SkyCoord(ra, dec, unit="deg").directional_offset_by(
        rng.uniform(0, 360, len(ra)) * u.deg, margin * np.sqrt(rng.uniform(0, 1, len(ra))) * u.arcsec
    )
    there = partitions.of(spatial_index(away.ra.deg, away.dec.deg))
    missed = [n for n in range(len(ra)) if there[n] != own[n] and (n, int(there[n])) not in held]
    assert missed == []


def test_the_margin_of_a_narrow_radius_is_narrow():
    index = spatial_index(*sky(20_000, 1))
    partitions = SkyPartitions.of_counts(PixelCounts().plus(index), 1000).whole_sky()
    row, _ = partitions.near(index, 10.0)
    assert len(row) < 100
    assert margin_order(1e-9) == MARGIN_ORDER
    assert margin_order(72_000) == 0
    for margin in (0, -1, 72_001, np.nan):
        with pytest.raises(CatalogueError, match="margin"):
            margin_order(margin)


def written(folder, margin=True):
    """A small catalogue of two partitions."""
    ra, dec = sky(100, 5)
    index = spatial_index(ra, dec)
    table = pa.table({INDEX_COLUMN: index, "ra": ra, "dec": dec, "n": np.arange(100), ROW_COLUMN: np.arange(100)})
    counts = PixelCounts().plus(index)
    partitions = SkyPartitions.of_counts(counts, 60)
    done = []
    for number, (order, pixel) in enumerate(zip(partitions.order, partitions.pixel, strict=True)):
        part = sorted_by_place(table.filter(pa.array(partitions.of(index) == number)))
        done.append(write_partition(folder / "main", int(order), int(pixel), part))
    finish_catalogue(folder / "main", "main", done, table.schema, ("ra", "dec"), counts=counts)
    if margin:
        finish_catalogue(folder / "m", "m", [], table.schema, ("ra", "dec"), margin=(7.5, "main"))
    finish_collection(folder, "main", ["m"] if margin else [], {"rows": 100})
    return table


def test_a_written_catalogue_opens_with_lsdb_and_reads_back(tmp_path):
    table = written(tmp_path)
    assert is_hats(tmp_path)
    assert is_hats(tmp_path / "main")
    assert not is_hats(tmp_path.parent)
    assert margin_of(tmp_path) == 7.5
    assert margin_of(tmp_path / "main") == 0
    stream = open_hats(tmp_path)
    assert stream.rows == 100
    assert stream.schema.names == ["ra", "dec", "n", ROW_COLUMN]
    found = stream.table().sort_by(ROW_COLUMN)
    assert found.equals(table.drop_columns([INDEX_COLUMN]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what LSDB asks of pandas
        import lsdb
        from hats.io.validation import is_valid_catalog, is_valid_collection

        opened = lsdb.open_catalog(tmp_path)
        assert list(opened.columns) == ["ra", "dec", "n"]  # the row numbers are no default column
        assert opened.margin is not None
        frame = opened.compute(progress_bar=False)
        assert is_valid_catalog(tmp_path / "main", strict=True)
        assert is_valid_collection(tmp_path)
    assert sorted(frame["n"].tolist()) == list(range(100))
    assert frame.index.is_monotonic_increasing


def test_a_catalogue_is_none_before_its_properties_are_there(tmp_path):
    written(tmp_path)
    (tmp_path / "main" / "hats.properties").unlink()
    (tmp_path / "main" / "properties").unlink()
    with pytest.raises(CatalogueError, match="no whole HATS"):
        read_structure(tmp_path)


def test_row_numbers_count_only_in_what_skysom_wrote(tmp_path):
    written(tmp_path)
    assert has_row_numbers(tmp_path)
    assert open_hats(tmp_path).numbered
    (tmp_path / "skysom.json").unlink()  # as LSDB writes what it made of such a catalogue
    assert not has_row_numbers(tmp_path)
    assert not open_hats(tmp_path).numbered


def test_the_size_in_memory_and_units_are_told(tmp_path):
    index = np.sort(spatial_index(*sky(2000, 5)))
    schema = pa.schema([(INDEX_COLUMN, pa.int64()), pa.field("note", pa.string(), metadata={"unit": "mJy"})])
    table = pa.table({INDEX_COLUMN: index, "note": ["text " * 60] * 2000}, schema=schema)
    counts = PixelCounts().plus(index)
    partitions = SkyPartitions.of_counts(counts, 300)
    done = []
    for number, (order, pixel) in enumerate(zip(partitions.order, partitions.pixel, strict=True)):
        part = table.filter(pa.array(partitions.of(index) == number))
        done.append(write_partition(tmp_path, int(order), int(pixel), part))
    finish_catalogue(tmp_path, "main", done, table.schema, ("ra", "dec"), counts=counts)
    stream = open_hats(tmp_path)
    assert stream.units == {"note": "mJy"}
    assert stream.size_bytes == pytest.approx(stream.table().nbytes, rel=0.05)


def test_whole_numbers_beyond_those_with_a_sign_are_written(tmp_path):
    index = spatial_index(*sky(2, 5))
    table = pa.table({INDEX_COLUMN: index, "id": pa.array([2**63 + 1, 5], pa.uint64()), ROW_COLUMN: [0, 1]})
    done = [write_partition(tmp_path, 0, n, table.slice(n, 1)) for n in range(2)]
    finish_catalogue(tmp_path, "main", done, table.schema, ("ra", "dec"))
    assert open_hats(tmp_path).table()["id"].to_pylist() == [2**63 + 1, 5]


def test_a_damaged_partition_is_told(tmp_path):
    from skysom.storage.table_stream import open_table

    written(tmp_path)
    stream = open_table(tmp_path)
    next((tmp_path / "main").rglob("Npix*.parquet")).write_bytes(b"PAR1")
    with pytest.raises(CatalogueError, match="cannot be read"):
        stream.table()


def test_a_killed_partition_leaves_nothing_under_its_name(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    table = pa.table({INDEX_COLUMN: [1], ROW_COLUMN: [0]})
    with pytest.raises(OSError, match="no space"):
        write_partition(tmp_path, 0, 0, table)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_partition_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    seen, fsync = [], os.fsync

    def watched(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        seen.append((path.name, (path.parent / "Npix=0.parquet").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    write_partition(tmp_path, 0, 0, pa.table({INDEX_COLUMN: [1], ROW_COLUMN: [0]}))
    assert seen == [("Npix=0.parquet.partial", False), ("Dir=0", False)]
