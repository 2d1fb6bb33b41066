"""Catalogues: four formats in with the same content, clear refusals, safe selections, Parquet out."""

import gzip

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table

from skysom.storage.catalogue import (
    ROW_NUMBER,
    add_columns,
    coordinates,
    duplicate_rows,
    file_names,
    read_catalogue,
    source_ids,
    write_catalogue,
)
from skysom.storage.errors import CatalogueError
from skysom.storage.selection import select

BIG = 2**60 + 1  # lost if it passes through a float


@pytest.fixture
def table():
    result = Table()
    result["Name"] = ["a", "b", "c é"]
    result["ra"] = MaskedColumn([10.5, 20.25, 0.0], mask=[False, False, True])
    result["dec"] = np.array([-5.0, 60.0, 0.0], dtype=">f8")
    result["object"] = MaskedColumn([BIG, BIG + 1, 0], mask=[False, False, True])
    result["flag"] = np.array([1, 2, 3], dtype=np.int16)
    return result


FORMATS = ["csv", "csv.gz", "fits", "fits.gz", "fit", "vot", "xml", "votable", "parquet"]


def write(table, path):
    name = path.name
    if ".csv" in name:
        content = "\n".join(",".join(str(v) for v in row).replace("--", "") for row in [table.colnames, *table])
        data = (content + "\n").encode()
        path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    elif ".fit" in name:
        table = table.copy()
        if "Name" in table.colnames:
            table["Name"] = [name.encode("ascii", "replace") for name in table["Name"]]
        table.write(path, format="fits")
    elif "parquet" in name:
        table.to_pandas().to_parquet(path)
    else:
        table.write(path, format="votable")
    return path


@pytest.mark.parametrize("suffix", FORMATS)
def test_formats_give_the_same_table(tmp_path, table, suffix):
    found = read_catalogue(write(table, tmp_path / f"cat.{suffix}"))
    assert list(found.columns) == table.colnames
    assert found["Name"].tolist()[:2] == ["a", "b"]
    assert isinstance(found["Name"][2], str)
    assert found["dec"].tolist() == [-5, 60, 0]
    assert found["object"].tolist()[:2] == [BIG, BIG + 1]
    assert found.isna().to_numpy().sum() == 2
    assert found.isna().loc[2, ["ra", "object"]].all()
    assert str(found["object"].dtype) == "Int64"
    assert found["flag"].dtype.kind == "i"
    assert all(dtype.byteorder in "=|" for dtype in found.dtypes if isinstance(dtype, np.dtype))
    assert found.attrs["dropped_columns"] == []


def test_array_columns_are_dropped_with_a_record(tmp_path, table):
    table["pair"] = np.arange(6).reshape(3, 2)
    for suffix in ("fits", "vot"):
        found = read_catalogue(write(table, tmp_path / f"cat.{suffix}"))
        assert "pair" not in found.columns
        assert found.attrs["dropped_columns"] == ["pair"]
    pd.DataFrame({"a": [1, 2], "pair": [[1], [2, 3]]}).to_parquet(tmp_path / "cat.parquet")
    found = read_catalogue(tmp_path / "cat.parquet")
    assert (list(found.columns), found.attrs["dropped_columns"]) == (["a"], ["pair"])


def test_variable_length_votable_column(tmp_path):
    table = Table({"a": [1, 2]})
    table["list"] = np.array([np.arange(2), np.arange(3)], dtype=object)
    table.write(tmp_path / "cat.vot", format="votable")
    assert list(read_catalogue(tmp_path / "cat.vot").columns) == ["a"]


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.csv", None, "no catalogue file"),
        ("cat.txt", b"a,b\n1,2\n", "unknown catalogue format"),
        ("cat", b"a,b\n1,2\n", "unknown catalogue format"),
        ("cat.pkl", b"", "unknown catalogue format"),
        ("cat.csv", b"", "empty"),
        ("cat.csv", b"\n \n", "empty"),
        ("cat.csv", b"ra,dec\n", "0 rows"),
        ("cat.csv", b"ra,dec,ra\n1,2,3\n", "more than one column named 'ra'"),
        ("cat.csv", b"ra;dec\n1;2\n", "not separated by commas"),
        ("cat.csv", b"ra,dec\n1,2\n1,2,3\n", "cannot be read"),
        ("cat.csv", b"ra,dec\n1,2,3\n1,2,3\n", "cannot be read"),
        ("cat.csv", b"ra,name\n1,caf\xe9\n", "cannot be read"),
        ("cat.csv", b"SIMPLE  = T\0\0\0", "binary"),
        ("cat.csv.gz", b"\x1f\x8b\x08garbage", "cannot be read"),
        ("cat.fits", b"", "cannot be read"),
        ("cat.fits", b"ra,dec\n1,2\n", "cannot be read"),
        ("cat.vot", b"", "cannot be read"),
        ("cat.xml", b"<html><body>moved</body></html>", "cannot be read"),
        ("cat.parquet", b"PAR1", "cannot be read"),
        ("cat.parquet", b"", "cannot be read"),
    ],
)
def test_unreadable(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CatalogueError, match=message):
        read_catalogue(tmp_path / name)


@pytest.mark.parametrize("suffix", ["csv.gz", "fits", "fits.gz", "vot", "parquet"])
def test_truncated(tmp_path, table, suffix):
    many = Table([np.random.default_rng(0).normal(size=2000)], names=["x"])
    path = write(many, tmp_path / f"cat.{suffix}")
    content = path.read_bytes()
    for share in (0.3, 0.7):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(CatalogueError, match="cannot be read"):
            read_catalogue(path)


def test_no_rows_and_no_table(tmp_path, table):
    for suffix in ("fits", "vot", "parquet"):
        with pytest.raises(CatalogueError, match="0 rows"):
            read_catalogue(write(table[:0], tmp_path / f"cat.{suffix}"))
    fits.writeto(tmp_path / "image.fits", np.zeros((5, 5)))
    with pytest.raises(CatalogueError, match="image or table"):
        read_catalogue(tmp_path / "image.fits")


def test_duplicate_columns_in_fits(tmp_path, table):
    path = write(table, tmp_path / "cat.fits")
    path.write_bytes(path.read_bytes().replace(b"'dec     '", b"'ra      '"))
    with pytest.raises(CatalogueError, match="'ra'"):
        read_catalogue(path)


@pytest.mark.parametrize(
    "insert", [b'<!DOCTYPE x [<!ENTITY a "b">]>', b'<!-- --><STREAM encoding="base64" href="file:///etc/passwd"/>']
)
def test_votable_that_points_outside(tmp_path, table, insert):
    path = write(table, tmp_path / "cat.vot")
    head, _, rest = path.read_bytes().partition(b"\n")
    path.write_bytes(head + b"\n" + insert + rest)
    with pytest.raises(CatalogueError, match="outside itself"):
        read_catalogue(path)


# --- columns --------------------------------------------------------------------------------------


def test_source_ids():
    frame = pd.DataFrame({"NAME": ["x", "y"], "id": pd.array([BIG, None], dtype="Int64"), "f": [7.0, np.nan]})
    assert source_ids(frame) == (pytest.approx(np.array(["x", "y"], dtype=object)), "NAME")
    ids, column = source_ids(frame, "id")
    assert (ids.tolist(), column) == ([str(BIG), "row-1"], "id")
    assert source_ids(frame, "f")[0].tolist() == ["7", "row-1"]
    ids, column = source_ids(frame.assign(Source_ID=[" 5 ", "6"]))
    assert (ids.tolist(), ids.dtype, column) == (["5", "6"], object, "Source_ID")
    ids, column = source_ids(frame[["f"]])
    assert (ids.tolist(), column) == (["0", "1"], ROW_NUMBER)
    with pytest.raises(CatalogueError, match=r"'nope'.*NAME, id, f"):
        source_ids(frame, "nope")


def test_duplicate_rows():
    assert duplicate_rows(np.array(["a", "b", "a", "a", "c"], dtype=object)).tolist() == [0, 0, 1, 1, 0]


def test_coordinates():
    frame = pd.DataFrame(
        {
            "ra": [0.0, 360.0, -1.0, 400.0, np.nan, 5.0, np.inf],
            "dec": [90.0, -90.0, 0.0, 0.0, 0.0, 91.0, 0.0],
            "text": ["1", "2.5", " 3 ", "n/a", None, "1e1", "nan"],
            "whole": pd.array([1, None, 3, 4, 5, 6, 7], dtype="Int64"),
        }
    )
    ra, dec = coordinates(frame, "ra", "dec")
    assert ra.dtype == dec.dtype == np.float64
    np.testing.assert_array_equal(ra, [0, 360, 359, *[np.nan] * 4])
    np.testing.assert_array_equal(dec, [90, -90, 0, *[np.nan] * 4])
    ra, dec = coordinates(frame, "text", "whole")
    np.testing.assert_array_equal(ra, [1, np.nan, 3, np.nan, np.nan, 10, np.nan])
    np.testing.assert_array_equal(dec, [1, np.nan, 3, np.nan, np.nan, 6, np.nan])


@pytest.mark.parametrize("value", ["12:34:56.7", "-12 34 56", "12h34m56s", "+12d34m"])
def test_sexagesimal_coordinates(value):
    with pytest.raises(CatalogueError, match=r"sexagesimal.*decimal degrees"):
        coordinates(pd.DataFrame({"ra": ["1.5", value], "dec": [1, 2]}), "ra", "dec")


def test_coordinates_refused(tmp_path):
    with pytest.raises(CatalogueError, match="not numeric"):
        coordinates(pd.DataFrame({"ra": ["north"], "dec": [1]}), "ra", "dec")
    with pytest.raises(CatalogueError, match=r"no column 'RA'.*ra, dec"):
        coordinates(pd.DataFrame({"ra": [1.0], "dec": [1]}), "RA", "dec")
    for unit, ok in (("deg", True), ("rad", False), ("arcsec", False)):
        table = Table({"ra": [1.0], "dec": [2.0]})
        table["ra"].unit, table["dec"].unit = unit, "deg"
        table.write(tmp_path / "cat.vot", format="votable", overwrite=True)
        frame = read_catalogue(tmp_path / "cat.vot")
        if ok:
            assert [v.tolist() for v in coordinates(frame, "ra", "dec")] == [[1], [2]]
        else:
            with pytest.raises(CatalogueError, match=f"'{unit}', degrees are needed"):
                coordinates(frame, "ra", "dec")


def test_file_names():
    frame = pd.DataFrame({"filename": [" a.fits ", None, "", "/b/c.fits"]})
    names = file_names(frame, "filename")
    assert names.dtype == object
    assert names.tolist() == ["a.fits", None, None, "/b/c.fits"]
    assert file_names(frame, "other") is None
    assert file_names(pd.DataFrame({"filename": [None, None]}), "filename").tolist() == [None, None]


# --- writing --------------------------------------------------------------------------------------


def test_add_columns_renames_and_keeps_places():
    frame = pd.DataFrame({"bmu": [1, 2], "ra": [0.0, 1.0], "input_bmu": [5, 6]}, index=[7, 3])
    result, renames = add_columns(frame, {"status": np.array(["ok", "bad"], dtype=object), "bmu": [8, 9]})
    assert list(result.columns) == ["input_input_bmu", "ra", "input_bmu", "status", "bmu"]
    assert renames == {"bmu": "input_input_bmu"}
    assert result["bmu"].tolist() == [8, 9]
    assert list(frame.columns) == ["bmu", "ra", "input_bmu"]
    assert add_columns(frame[["ra"]], {"x": [1, 2]})[1] == {}


def test_parquet_round_trip(tmp_path, table):
    frame = read_catalogue(write(table, tmp_path / "cat.fits"))
    frame, _ = add_columns(
        frame,
        {
            "bmu": pd.array([4, None, 6], dtype="Int32"),
            "bmu_row": pd.array([1, 2, 3], dtype="Int32"),
            "flip": pd.array([True, None, False], dtype="boolean"),
            "bmu_distance": np.array([1.5, np.nan, 2.5], dtype=np.float32),
            "status": np.array(["ok", "all_nan", "ok"], dtype=object),
        },
    )
    path = tmp_path / "out.parquet"
    write_catalogue(frame, path, 2)
    again = read_catalogue(path)
    assert (again["bmu"].dtype, again["bmu_row"].dtype) == ("Int32", "Int32")
    pd.testing.assert_frame_equal(again, frame, check_dtype=False)
    assert again["flip"].dtype == "boolean"
    assert again["bmu_distance"].dtype == np.float32
    pd.testing.assert_frame_equal(pd.read_parquet(path)[["bmu", "bmu_row"]], frame[["bmu", "bmu_row"]])
    assert [pq.ParquetFile(path).metadata.row_group(i).num_rows for i in range(2)] == [2, 1]
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "out.parquet"
    write_catalogue(pd.DataFrame({"a": [1]}), path, 10)
    before = path.read_bytes()
    with pytest.raises(CatalogueError, match="Parquet"):
        write_catalogue(pd.DataFrame({"a": [1, "x", [2]]}), path, 10)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# --- selection ------------------------------------------------------------------------------------


@pytest.fixture
def frame():
    return pd.DataFrame(
        {
            "snr": [1.0, 5.0, np.nan, 20.0],
            "n": pd.array([1, 2, None, 4], dtype="Int64"),
            "kind": ["FRI", "FRII", "FRI", None],
            "peak flux": [0.1, 0.2, 0.3, 0.4],
            "good": [True, False, True, True],
        }
    )


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("snr > 4", [0, 1, 0, 1]),
        ("snr != 5", [1, 0, 0, 1]),
        ("not (snr > 4)", [1, 0, 0, 0]),
        ("n >= 2 and snr < 10", [0, 1, 0, 0]),
        ("(n >= 2) & (snr < 10) | (n == 1)", [1, 1, 0, 0]),
        ("1 < n < 4", [0, 1, 0, 0]),
        ("kind == 'FRI'", [1, 0, 1, 0]),
        ("kind in ['FRI', 'FRII'] and good", [1, 0, 1, 0]),
        ("`peak flux` * 10 - 1 > 0.5 * n", [0, 0, 0, 1]),
        ("~good", [0, 1, 0, 0]),
        ("good", [1, 0, 1, 1]),
        ("snr / n > -1", [1, 1, 0, 1]),
    ],
)
def test_select(frame, expression, expected):
    found = select(frame, expression)
    assert found.dtype == bool
    assert found.tolist() == [bool(v) for v in expected]


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "snr.sum() > 1",
        "snr.__class__",
        "@pd.io > 1",
        "snr > @x",
        "snr[0] > 1",
        "[x for x in snr]",
        "(lambda: 1)()",
        "snr if n else n",
        "snr := 5",
        "snr = 5",
        "import os",
        "f'{snr}' == 'x'",
        "snr ** 99999999999 > 1",
        "n << 99999999 > 1",
        "kind == 'a' * 9999999999",
        "n in [1] * 9999999999",
        "n in ([1] + [2])",
        "kind == ('a' and 'b') * 9",
        "sin(snr) > 1",
        "n == None",
        "n == 1j",
        "n == b'x'",
        "1 < 2",
        "",
        "snr >",
        "snr > 1; n > 1",
        "((((" * 500,
        "~" * 1900 + "good",
        "snr > 1 or " * 300 + "good",
    ],
)
def test_select_refuses(frame, expression):
    with pytest.raises(CatalogueError, match="selection"):
        select(frame, expression)


def test_select_names_what_is_wrong(frame):
    with pytest.raises(CatalogueError, match=r"no column 'flux'.*it has snr, n, kind"):
        select(frame, "flux > 1")
    with pytest.raises(CatalogueError, match="no column 'a b'"):
        select(frame, "`a b` > 1")
    with pytest.raises(CatalogueError, match="no true/false"):
        select(frame, "snr + 1")
    with pytest.raises(CatalogueError, match="cannot be evaluated"):
        select(frame, "kind > 5")
    with pytest.raises(CatalogueError, match="no column 'index'"):
        select(frame, "index > 1")


# --- real files -----------------------------------------------------------------------------------


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "rows", "ids"),
    [
        ("catalogues/SB38959.RACS_1357-18.noselfcal.linmos_comp.fits.gz", 7225, ROW_NUMBER),
        ("catalogues/CoNFIG_II_full_Table.csv", 858, "Name"),
        ("radio_first_mirabest/mirabest_catalogue.csv", 800, "name"),
        ("radio_vlass_ql/vlass_catalogue.csv", 131, "name"),
        ("infrared/wise-tiles.fits.gz", 18240, ROW_NUMBER),
    ],
)
def test_real_catalogues(shared, tmp_path, name, rows, ids):
    frame = read_catalogue(shared(f"realdata/{name}"))
    assert len(frame) == rows
    found, column = source_ids(frame)
    assert column == ids
    assert not duplicate_rows(found).any()
    if {"ra", "dec"} <= set(frame.columns):
        assert np.isfinite(coordinates(frame, "ra", "dec")).all()
    if "ra_str" in frame:
        with pytest.raises(CatalogueError, match="sexagesimal"):
            coordinates(frame, "ra_str", "dec_str")
    write_catalogue(frame, tmp_path / "out.parquet", 1000)
    pd.testing.assert_frame_equal(read_catalogue(tmp_path / "out.parquet"), frame)
