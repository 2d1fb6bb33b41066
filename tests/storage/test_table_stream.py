"""Catalogues in parts: the same values as read whole, the same types whatever a part holds, clear refusals."""

import gzip

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from hypothesis import given, settings
from hypothesis import strategies as st

from skysom.storage.catalogue import read_catalogue
from skysom.storage.errors import CatalogueError
from skysom.storage.table_stream import open_table


@pytest.fixture
def table():
    result = Table()
    result["Name"] = ["a", "b", "c é", "", "e"]
    result["ra"] = MaskedColumn([10.5, 20.25, 0.0, 1.0, 2.0], mask=[False, False, True, False, False], unit="deg")
    result["dec"] = np.array([-5.0, 60.0, 0.0, np.nan, 1], dtype=">f8")
    result["object"] = MaskedColumn([2**60 + 1, 2**60 + 2, 0, 4, 5], mask=[False, False, True, False, False])
    result["flag"] = np.array([1, 2, 3, 4, 5], dtype=np.int16)
    result["good"] = [True, False, True, True, False]
    return result


def write(table, path):
    if ".csv" in path.name:
        data = table.to_pandas().to_csv(index=False).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    elif ".fits" in path.name:
        table = table.copy()
        table["Name"] = [name.encode("ascii", "replace") for name in table["Name"]]
        table.write(path, format="fits")
    elif path.suffix == ".parquet":
        table.to_pandas().to_parquet(path, row_group_size=2)
    else:
        table.write(path, format="votable")
    return path


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "fits", "fits.gz", "vot", "parquet"])
def test_parts_are_the_whole(tmp_path, table, suffix):
    path = write(table, tmp_path / f"cat.{suffix}")
    stream, whole = open_table(path), read_catalogue(path)
    assert stream.schema.names == list(whole.columns)
    assert stream.rows == 5
    assert stream.size_bytes > 0
    assert stream.schema.field("object").type == pa.int64()
    assert stream.schema.field("good").type == pa.bool_()
    assert stream.schema.field("Name").type == pa.string()
    for rows in (1, 2, 3, 100):
        parts = list(stream.parts(rows=rows))
        assert [first for first, _ in parts] == list(np.cumsum([0, *(len(part) for _, part in parts)])[:-1])
        assert max(len(part) for _, part in parts) <= rows
        found = pa.concat_tables(part for _, part in parts)
        assert found.schema == stream.schema
        pd.testing.assert_frame_equal(
            found.to_pandas(), pa.Table.from_pandas(whole, preserve_index=False).to_pandas(), check_dtype=False
        )
    assert stream.table(["flag", "ra"]).column_names == ["flag", "ra"]


def test_units_and_columns_of_arrays_are_told(tmp_path, table):
    table["pair"] = np.arange(10).reshape(5, 2)
    for suffix in ("fits", "vot"):
        stream = open_table(write(table, tmp_path / f"cat.{suffix}"))
        assert stream.dropped == ("pair",)
        assert "are left out: pair; of lists, only those in Parquet are kept" in stream.dropped_note
        assert stream.units == {"ra": "deg"}
        assert next(stream.parts())[1].schema.field("ra").metadata == {b"unit": b"deg"}


def test_what_parquet_tells_of_a_column_stays_with_it(tmp_path):
    told = {"unit": "mJy", "description": "peak flux", "ucd": "phot.flux"}
    schema = pa.schema([pa.field("flux", pa.float32(), metadata=told), pa.field("name", pa.large_string())])
    pq.write_table(pa.table({"flux": [1.0, 2.0], "name": ["a", "b"]}, schema=schema), tmp_path / "cat.parquet")
    stream = open_table(tmp_path / "cat.parquet")
    assert stream.units == {"flux": "mJy"}
    assert stream.dropped_note == ""
    expected = {key.encode(): text.encode() for key, text in told.items()}
    for schema in (stream.schema, stream.table().schema, next(stream.parts(["flux"]))[1].schema):
        assert schema.field("flux").metadata == expected


def test_complex_columns_of_a_fits_table_are_dropped(tmp_path):
    columns = [
        fits.Column("a", "J", array=[1, 2]),
        fits.Column("b", "C", array=[1j, 2]),
        fits.Column("c", "M", array=[1j, 2]),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "cat.fits")
    stream = open_table(tmp_path / "cat.fits")
    assert stream.dropped == ("b", "c")
    assert stream.table().to_pydict() == {"a": [1, 2]}


def test_the_size_in_memory_is_not_that_of_the_file(tmp_path):
    table = pa.table(
        {
            "note": ["long text " * 50] * 20_000,
            "kind": pa.array(["x" * 90] * 20_000).dictionary_encode(),
            "n": range(20_000),
        }
    )
    pq.write_table(table, tmp_path / "cat.parquet")
    assert (tmp_path / "cat.parquet").stat().st_size < 500_000
    stream = open_table(tmp_path / "cat.parquet")
    assert stream.size_bytes == pytest.approx(stream.table().nbytes, rel=0.05)


def test_columns_in_the_heap_of_a_fits_table_are_dropped(tmp_path):
    lists = fits.Column("lists", "PJ()", array=np.array([np.arange(3), np.arange(1)], dtype=object))
    hdu = fits.BinTableHDU.from_columns(
        [fits.Column("a", "J", array=[1, 2]), lists, fits.Column("b", "D", array=[3, 4])]
    )
    hdu.writeto(tmp_path / "heap.fits")
    stream = open_table(tmp_path / "heap.fits")
    assert stream.dropped == ("lists",)
    assert [part.to_pydict() for _, part in stream.parts(rows=1)] == [{"a": [1], "b": [3.0]}, {"a": [2], "b": [4.0]}]


def test_text_tables_and_scaled_columns_of_fits(tmp_path):
    scaled = Table({"a": MaskedColumn([1, 2], mask=[False, True]), "b": np.array([2**63 + 1, 5], np.uint64)})
    scaled.write(tmp_path / "scaled.fits")
    text = fits.TableHDU.from_columns([fits.Column("a", "I4", array=[1, 2]), fits.Column("b", "A3", array=["x", "yz"])])
    text.writeto(tmp_path / "text.fits")
    for name in ("scaled.fits", "text.fits"):
        found, whole = open_table(tmp_path / name).table(), read_catalogue(tmp_path / name)
        assert found.to_pandas().to_dict("list").keys() == whole.to_dict("list").keys()
        for column in found.column_names:
            assert found[column].to_pandas().dropna().tolist() == whole[column].dropna().tolist()


def test_types_come_from_all_values_of_a_csv_file(tmp_path, monkeypatch):
    from skysom.storage import csv_stream

    monkeypatch.setattr(csv_stream, "BLOCK_BYTES", 64)
    rows = ["a,b,c,d,e,f,g,h,i"] + ["1,1,,1,01,true,5,+3,1"] * 20 + ["2,1.5,,x,1,false,9223372036854775808,-4,-2"] * 20
    path = tmp_path / "cat.csv"
    path.write_text("\n".join(rows))
    stream = open_table(path)
    kinds = dict(zip(stream.schema.names, map(str, stream.schema.types), strict=True))
    assert kinds == {
        "a": "int64", "b": "double", "c": "string", "d": "string", "e": "string", "f": "bool", "g": "uint64",
        "h": "int64", "i": "int64",
    }  # fmt: skip
    found = stream.table()
    assert found["d"].to_pylist() == ["1"] * 20 + ["x"] * 20
    assert found["e"].to_pylist()[0] == "01"
    assert found["h"].to_pylist() == [3] * 20 + [-4] * 20
    assert found["g"].to_pylist()[-1] == 2**63
    assert found["c"].null_count == 40


NUMBERS = st.one_of(
    st.integers(-(2**63), 2**63 - 1).map(str),
    st.integers(0, 99).map(lambda n: f"{n:03d}"),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["", "NA", "nan", "x", "+5", " 7 ", "1e5", "true", "-0", "0x1F", "1_000"]),
)


@given(st.lists(NUMBERS, min_size=1, max_size=8))
@settings(deadline=None, max_examples=80)
def test_values_of_a_csv_column_are_those_of_pandas(tmp_path_factory, values):
    """But where numbers and texts are mixed, which is text here."""
    path = tmp_path_factory.mktemp("csv") / "cat.csv"
    path.write_text("row,value\n" + "".join(f"{row},{value}\n" for row, value in enumerate(values)))
    found, whole = open_table(path).table()["value"], read_catalogue(path)["value"]
    if pa.types.is_string(found.type):
        texts = [value.as_py() for value in found]
        assert [text for text in texts if text is not None] == [v for v in values if v not in ("", "NA", "nan")]
    else:
        assert found.null_count == int(whole.isna().sum())
        mine, theirs = found.drop_null().to_pylist(), whole.dropna().tolist()
        assert mine == pytest.approx(theirs, rel=1e-15)


def test_quoted_lines_blank_lines_and_a_mark_at_the_beginning(tmp_path):
    path = tmp_path / "cat.csv"
    path.write_bytes('\ufeff\n\nname,note,\n"a","two\nlines, ""quoted""",1\n\nb,,2\n'.encode())
    found = open_table(path).table()
    assert found.column_names == ["name", "note", "Unnamed: 2"]
    assert found.to_pydict() == {"name": ["a", "b"], "note": ['two\nlines, "quoted"', None], "Unnamed: 2": [1, 2]}


@pytest.mark.parametrize("zipped", [False, True])
def test_threads_of_arrow_never_hold_a_python_stream(tmp_path, monkeypatch, zipped):
    """One that is let go of as the interpreter ends aborts the process, whatever it had to say."""
    given, open_reader = [], pa.csv.open_csv

    def opened(stream, **options):
        given.append(stream)
        return open_reader(stream, **options)

    monkeypatch.setattr("pyarrow.csv.open_csv", opened)
    data = b"a,b\n1,x\n2,y\n"
    (tmp_path / "a.csv").write_bytes(gzip.compress(data[:8]) + gzip.compress(data[8:]) if zipped else data)
    assert open_table(tmp_path / "a.csv").table().to_pydict() == {"a": [1, 2], "b": ["x", "y"]}
    assert len(given) == 2
    assert all(isinstance(stream, pa.NativeFile) and not isinstance(stream, pa.PythonFile) for stream in given)
    assert all(stream.closed for stream in given)


def test_headers_of_any_length_and_with_breaks_in_names(tmp_path):
    names = [f"a rather long name of column number {number}" for number in range(5000)]
    path = tmp_path / "long.csv"
    path.write_text(",".join(names) + "\n" + ",".join(map(str, range(5000))) + "\n")
    assert open_table(path).schema.names == names
    for end in ("\n", "\r\n"):
        path = tmp_path / "broken.csv"
        path.write_bytes(end.join([f'"flux{end}(mJy)",b', "1,2", "3,4", ""]).encode())
        assert open_table(path).table().to_pydict() == {f"flux{end}(mJy)": [1, 3], "b": [2, 4]}
    path.write_text("#name,b\nx,2\n")
    assert open_table(path).schema.names == ["#name", "b"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("cat.csv", b"", "empty"),
        ("cat.csv", b"a,b\n", "0 rows"),
        ("cat.csv", b"a;b\n1;2\n", "not separated by commas"),
        ("cat.csv", b"a,a\n1,2\n", "more than one column named 'a'"),
        ("cat.csv", b"a,b\n1,2,3\n", "cannot be read"),
        ("cat.csv", b"# made by hand\na,b\n1,2\n", "begins with a comment .*'# made by hand'"),
        ("cat.csv", b"# one\n# two\na,b\n1,2\n", "begins with a comment"),
        ("cat.csv", b'"a,b\n1,2\n' + b"3,4\n" * 50_000, "check its quotes"),
        ("cat.csv", b"\x89PNG\0\0", "binary"),
        ("cat.parquet", b"PAR1", "cannot be read"),
        ("cat.fits", b"SIMPLE  =", "cannot be read"),
        ("cat.txt", b"a", "unknown catalogue format"),
        ("missing.csv", None, "no catalogue"),
    ],
)
def test_what_is_no_catalogue_is_refused(tmp_path, name, content, told):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CatalogueError, match=told):
        open_table(path)


def test_a_fits_table_cut_short_is_refused(tmp_path, table):
    path = write(table, tmp_path / "cat.fits")
    path.write_bytes(path.read_bytes()[: -2880 * 1])
    with pytest.raises(CatalogueError, match="cannot be read"):
        open_table(path).table()


def test_lists_are_kept_only_if_asked_for(tmp_path):
    pq.write_table(pa.table({"a": [1, 2], "members": [[1], [2, 3]]}), tmp_path / "cat.parquet")
    assert open_table(tmp_path / "cat.parquet").schema.names == ["a"]
    assert open_table(tmp_path / "cat.parquet").dropped == ("members",)
    found = open_table(tmp_path / "cat.parquet", lists=True).table()
    assert found["members"].to_pylist() == [[1], [2, 3]]
    other = pa.table({"pair": pa.array([[1, 2], None], pa.list_(pa.int8(), 2))})
    other = other.append_column("long", pa.array([["a"], []], pa.large_list(pa.large_string())))
    pq.write_table(other.append_column("both", pa.array([{"x": 1}, None])), tmp_path / "other.parquet")
    stream = open_table(tmp_path / "other.parquet", lists=True)
    assert stream.schema.types == [pa.list_(pa.int8()), pa.list_(pa.string())]
    assert stream.dropped == ("both",)
    assert stream.table().to_pydict() == {"pair": [[1, 2], None], "long": [["a"], []]}


def test_categories_become_their_values(tmp_path):
    frame = pd.DataFrame({"kind": pd.Categorical(["x", None, "y"]), "n": [1, 2, 3]})
    frame.to_parquet(tmp_path / "cat.parquet")
    assert open_table(tmp_path / "cat.parquet").table()["kind"].to_pylist() == ["x", None, "y"]


def test_an_unknown_column_is_told(tmp_path, table):
    stream = open_table(write(table, tmp_path / "cat.parquet"))
    with pytest.raises(CatalogueError, match="no column 'flux'"):
        next(stream.parts(["flux"]))


@pytest.mark.parametrize("suffix", ["csv", "parquet", "fits", "vot"])
def test_a_column_asked_for_twice_is_there_once(tmp_path, table, suffix):
    stream = open_table(write(table, tmp_path / f"cat.{suffix}"))
    name = stream.schema.names[0]
    assert stream.table([name, name]).column_names == [name]
    assert [part.column_names for _, part in stream.parts([name, name])] == [[name]]


@pytest.mark.realdata
def test_real_catalogues_are_read_as_a_whole_is(shared):
    folder = shared("realdata/catalogues")
    count = 0
    for path in sorted([*folder.glob("*.csv"), *folder.glob("*.fits.gz")]):
        stream, whole = open_table(path), read_catalogue(path)
        found = stream.table()
        assert len(found) == len(whole)
        for name in whole.columns:
            mine, theirs = found[name].to_pandas(), whole[name]
            assert mine.isna().tolist() == theirs.isna().tolist()
            if pd.api.types.is_float_dtype(theirs):
                np.testing.assert_allclose(mine.dropna(), theirs.dropna(), rtol=1e-15)
            else:
                assert mine.dropna().tolist() == theirs.dropna().tolist()
        count += len(found)
    assert count > 200_000
