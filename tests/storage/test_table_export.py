"""Tables out of Parquet: read again by astropy and regions, value for value."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.io.votable import parse
from astropy.table import Table
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st
from regions import PixCoord, Regions

from skysom.storage import table_export, table_export_fits, table_export_regions
from skysom.storage.errors import CatalogueError
from skysom.storage.fits_export import ExportError
from skysom.storage.place import exists, place, read_bytes
from skysom.storage.table_export import described, export_sources

LONG = "a description that is longer than the sixty-eight letters that one card of a FITS header holds, and goes on"
SCHEMA = pa.schema(
    [
        described("whole", pa.int64(), LONG, ucd="meta.number"),
        described("small", pa.int8(), "a small one"),
        described("unsigned", pa.uint16(), "without a sign"),
        described("truth", pa.bool_(), "yes or no"),
        described("ra_deg", pa.float64(), "right ascension", "deg", "pos.eq.ra;meta.main"),
        described("flux", pa.float32(), "flux & < density", "mJy", "phot.flux"),
        described("name", pa.string(), "what it is called", ucd="meta.id"),
        described("rows", pa.list_(pa.int64()), "rows of members"),
        described("far", pa.list_(pa.float32()), "distances", "arcsec"),
        described("ids", pa.list_(pa.string()), "ids of members"),
    ]
)
ROWS: list[dict[str, Any]] = [
    {
        "whole": 2**60,
        "small": -100,
        "unsigned": 65535,
        "truth": True,
        "ra_deg": 123.456789012345678,
        "flux": 1.5,
        "name": "J1 & <b> \"c\" 'd'",
        "rows": [1, 2, 3],
        "far": [0.5, 1.25, 2.0],
        "ids": ["VLASS J1", "a;b", "c%3Bd"],
    },
    {"whole": None, "small": None, "unsigned": 0, "truth": False, "ra_deg": None, "flux": None, "name": None}
    | {"rows": [], "far": None, "ids": None},
    {"whole": -5, "small": 127, "unsigned": None, "truth": False, "ra_deg": 0.1, "flux": -2.5, "name": "last"}
    | {"rows": [9], "far": [7.0], "ids": ["only"]},
]
JOINED = ["VLASS J1;a%3Bb;c%3Bd", "", "only"]


def written(path: Path, rows: list[dict[str, Any]], schema: pa.Schema = SCHEMA, group_rows: int = 2) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=group_rows)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return written(tmp_path / "sources.parquet", ROWS)


def texts(column: Any) -> list[str]:
    return ["" if text is np.ma.masked else str(text) for text in column]


def check(found: Table, rows: list[dict[str, Any]]) -> None:
    """Every value, missing ones masked."""
    assert found.colnames == SCHEMA.names
    for name in ("whole", "small", "unsigned", "ra_deg", "flux"):
        values = np.ma.MaskedArray(found[name]).tolist()
        assert values == [row[name] for row in rows], name
    assert list(found["truth"]) == [row["truth"] for row in rows]
    assert texts(found["name"]) == [row["name"] or "" for row in rows]
    for name in ("rows", "far"):
        assert [np.asarray(values).tolist() for values in found[name]] == [row[name] or [] for row in rows]


def test_fits_is_read_again(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "sources.fits"
    assert export_sources(source, target) == 3
    with fits.open(target) as hdus:
        hdus.verify("exception")
        header = hdus[1].header
        assert [header[f"TTYPE{n}"] for n in range(1, 11)] == SCHEMA.names
        assert (header["TUNIT5"], header["TUCD5"], header["TUNIT9"]) == ("deg", "pos.eq.ra;meta.main", "arcsec")
        assert (header["TCOMM1"], header["TFORM8"], header["TFORM10"]) == (LONG, "1PK(3)", "20A")
        assert hdus[1].columns["far"].unit == "arcsec"
    found = Table.read(target)
    check(found, ROWS)
    assert found["rows"][0].dtype.kind == "i"
    assert texts(found["ids"]) == JOINED
    assert target.stat().st_size % 2880 == 0
    assert {path.name for path in tmp_path.iterdir()} == {"sources.fits", "sources.parquet"}


def test_votable_is_read_again(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "sources.vot"
    assert export_sources(source, target) == 3
    votable = parse(target, verify="exception")
    fields = votable.get_first_table().fields
    assert [field.name for field in fields] == SCHEMA.names
    assert (fields[4].unit, fields[4].ucd, fields[4].ref) == (u.deg, "pos.eq.ra;meta.main", "ICRS")
    assert (fields[0].description, fields[5].description) == (LONG, "flux & < density")
    assert [(field.datatype, field.arraysize) for field in fields[6:]] == [
        ("unicodeChar", "*"),
        ("long", "*"),
        ("float", "*"),
        ("unicodeChar", "*"),
    ]
    found = votable.get_first_table().to_table()
    check(found, ROWS)
    assert list(found["ids"]) == JOINED


def test_missing_truths_stay_missing(tmp_path: Path) -> None:
    schema = pa.schema([("flag", pa.bool_())])
    source = written(tmp_path / "flags.parquet", [{"flag": True}, {"flag": None}, {"flag": False}], schema)
    for name, wanted in (("flags.fits", [1, None, 0]), ("flags.vot", [True, None, False])):
        export_sources(source, tmp_path / name)
        assert np.ma.MaskedArray(Table.read(tmp_path / name)["flag"]).tolist() == wanted
    export_sources(source, tmp_path / "known.fits", where="flag or not flag")
    assert Table.read(tmp_path / "known.fits")["flag"].tolist() == [True, False]


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    values = [float("inf"), -float("inf"), float("nan"), 1e-300]
    schema = pa.schema([("x", pa.float64()), ("xs", pa.list_(pa.float64()))])
    source = written(tmp_path / "x.parquet", [{"x": x, "xs": [x, 1.0]} for x in values], schema)
    for name in ("x.fits", "x.vot"):
        export_sources(source, tmp_path / name)
        found = Table.read(tmp_path / name)
        np.testing.assert_array_equal(np.ma.filled(np.ma.MaskedArray(found["x"]), np.nan), values)
        lists = [np.ma.filled(np.ma.MaskedArray(some), np.nan) for some in found["xs"]]
        np.testing.assert_array_equal(lists, [[x, 1.0] for x in values])


def test_numbers_that_are_missing_within_lists(tmp_path: Path) -> None:
    schema = pa.schema([("far", pa.list_(pa.float64())), ("near", pa.list_(pa.float32()))])
    rows = [{"far": [1.0, None, 3.0], "near": [None]}, {"far": None, "near": [2.0, None]}]
    source = written(tmp_path / "lists.parquet", rows, schema)
    for name in ("lists.fits", "lists.vot"):
        export_sources(source, tmp_path / name)
        found = Table.read(tmp_path / name)
        for column, wanted in (("far", [[1, np.nan, 3], []]), ("near", [[np.nan], [2, np.nan]])):
            for values, others in zip(found[column], wanted, strict=True):
                np.testing.assert_array_equal(np.ma.filled(np.ma.MaskedArray(values, dtype=float), np.nan), others)
    whole = pa.schema([("rows", pa.list_(pa.int64()))])
    source = written(tmp_path / "rows.parquet", [{"rows": [1, None, 3]}, {"rows": None}], whole)
    for name in ("rows.fits", "rows.vot"):
        with pytest.raises(ExportError, match="'rows' has lists of whole numbers of which 1 are missing"):
            export_sources(source, tmp_path / name)


def test_the_least_number_is_not_missing(tmp_path: Path) -> None:
    kinds = {"short": (pa.int16(), -(2**15)), "int": (pa.int32(), -(2**31)), "long": (pa.int64(), -(2**63))}
    for name, (kind, least) in kinds.items():
        schema = pa.schema([("k", kind), ("other", kind)])
        source = written(tmp_path / f"{name}.parquet", [{"k": least, "other": 1}, {"k": 5}, {"k": 0}], schema)
        export_sources(source, tmp_path / f"{name}.fits")
        header = fits.getheader(tmp_path / f"{name}.fits", 1)
        assert ("TNULL1" in header, header["TNULL2"]) == (False, least)
        found = Table.read(tmp_path / f"{name}.fits")
        assert np.ma.MaskedArray(found["k"]).tolist() == [least, 5, 0]
        assert np.ma.MaskedArray(found["other"]).tolist() == [1, None, None]
        both = written(tmp_path / f"both-{name}.parquet", [{"k": least}, {"k": 5}, {"k": None}], schema)
        with pytest.raises(ExportError, match=f"'k' has missing numbers, for which {least} stands in FITS"):
            export_sources(both, tmp_path / f"both-{name}.fits")


def test_unsigned_numbers_of_64_bits(tmp_path: Path) -> None:
    schema = pa.schema([("big", pa.uint64()), ("bigs", pa.list_(pa.uint64()))])
    source = written(tmp_path / "fit.parquet", [{"big": 2**63 - 1, "bigs": [1, 2**63 - 1]}, {"bigs": []}], schema)
    for row, column in (({"big": 2**63}, "big"), ({"big": 1, "bigs": [2**63]}, "bigs")):
        beyond = written(tmp_path / "beyond.parquet", [row], schema)
        for name in ("big.fits", "big.vot"):
            export_sources(source, tmp_path / name, overwrite=True)
            found = Table.read(tmp_path / name)
            assert np.ma.MaskedArray(found["big"]).tolist() == [2**63 - 1, None]
            assert np.asarray(found["bigs"][0]).tolist() == [1, 2**63 - 1]
            with pytest.raises(ExportError, match=f"column '{column}' holds numbers beyond"):
                export_sources(beyond, tmp_path / name, overwrite=True)


def test_long_texts_and_large_heaps(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_export_fits, "FIXED_BYTES", 30)
    monkeypatch.setattr(table_export_fits, "LARGEST_OFFSET", 30)
    export_sources(source, tmp_path / "sources.fits")
    with fits.open(tmp_path / "sources.fits") as hdus:
        assert (hdus[1].header["TFORM10"], hdus[1].header["TFORM8"]) == ("1QA(20)", "1QK(3)")
        data = hdus[1].data
        assert ["".join(letter or " " for letter in text) for text in data["ids"]] == JOINED
        assert [values.tolist() for values in data["rows"]] == [row["rows"] for row in ROWS]


def test_text_beyond_ascii(tmp_path: Path) -> None:
    schema = pa.schema([("name", pa.string()), ("ids", pa.list_(pa.string()))])
    rows = [{"name": "Größe\x01", "ids": ["α", "b"]}, {"name": "plain", "ids": ["c", None]}]
    source = written(tmp_path / "texts.parquet", rows, schema)
    export_sources(source, tmp_path / "texts.fits")
    found = Table.read(tmp_path / "texts.fits")
    assert list(found["name"]) == ["Gr\\xf6\\xdfe\x01", "plain"]
    assert list(found["ids"]) == ["\\u03b1;b", "c;"]
    export_sources(source, tmp_path / "texts.vot")
    assert list(Table.read(tmp_path / "texts.vot")["name"]) == ["Größe?", "plain"]


@pytest.mark.parametrize("name", ["s.fits", "s.vot"])
def test_an_expression_chooses_and_no_row_is_a_table_too(source: Path, tmp_path: Path, name: str) -> None:
    assert export_sources(source, tmp_path / name, where="whole < 0 or flux > 1") == 2
    check(Table.read(tmp_path / name), [ROWS[0], ROWS[2]])
    assert export_sources(source, tmp_path / name, where="flux > 100", overwrite=True) == 0
    assert Table.read(tmp_path / name).colnames == SCHEMA.names
    with pytest.raises(CatalogueError, match="no column 'brightness'"):
        export_sources(source, tmp_path / name, where="brightness > 1", overwrite=True)
    assert len(Table.read(tmp_path / name)) == 0


def test_many_batches_are_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_export, "BATCH_ROWS", 7)
    random = np.random.default_rng(1)
    rows = [
        {"k": k, "name": "n" * int(random.integers(0, 9)), "rows": list(range(int(random.integers(0, 6))))}
        for k in range(100)
    ]
    schema = pa.schema([("k", pa.int32()), ("name", pa.string()), ("rows", pa.list_(pa.int64()))])
    source = written(tmp_path / "many.parquet", rows, schema, group_rows=30)
    for name in ("many.fits", "many.vot"):
        export_sources(source, tmp_path / name, where="k >= 3 and k != 50")
        found = Table.read(tmp_path / name)
        kept = [row for row in rows if row["k"] >= 3 and row["k"] != 50]
        assert found["k"].tolist() == [row["k"] for row in kept]
        assert texts(found["name"]) == [row["name"] for row in kept]
        assert [np.asarray(some).tolist() for some in found["rows"]] == [row["rows"] for row in kept]


def test_files_are_whole_or_not_there(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "s.fits"
    export_sources(source, target)
    before = target.read_bytes()
    with pytest.raises(ExportError, match="is there already"):
        export_sources(source, target)
    schema = pa.schema([("big", pa.uint64())])
    bad = written(tmp_path / "bad.parquet", [{"big": 1}, {"big": 1}, {"big": 2**64 - 1}], schema, group_rows=1)
    with pytest.raises(ExportError, match="column 'big' holds numbers beyond"):
        export_sources(bad, target, overwrite=True)
    assert target.read_bytes() == before
    times = written(tmp_path / "t.parquet", [{"when": 0}], pa.schema([("when", pa.timestamp("s"))]))
    with pytest.raises(ExportError, match="'when' holds timestamp"):
        export_sources(times, tmp_path / "t.vot")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".fits", ".parquet", ".parquet", ".parquet"]


def test_remote_places(source: Path) -> None:
    remote = place("memory://skysom-table-export/sources.parquet")
    remote.write_bytes(source.read_bytes())
    for name in ("s.fits", "s.vot"):
        target = remote.with_name(name)
        assert export_sources(remote, target, overwrite=True) == 3
        assert len(read_bytes(target)) > 1000
        with pytest.raises(ExportError, match="is there already"):
            export_sources(remote, target)
    with pytest.raises(CatalogueError, match="cannot be read"):
        export_sources(remote.with_name("none.parquet"), remote.with_name("none.fits"))
    assert not exists(remote.with_name("none.fits"))


def test_what_cannot_be_exported(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="unknown suffix 'txt'"):
        export_sources(source, tmp_path / "s.txt")
    assert export_sources(source, tmp_path / "s.txt", "votable") == 3
    with pytest.raises(CatalogueError, match="cannot be read as Parquet"):
        export_sources(tmp_path / "none.parquet", tmp_path / "s.fits")
    with pytest.raises(ExportError, match="no column 'dec_deg'"):
        export_sources(source, tmp_path / "s.reg")


# --- regions --------------------------------------------------------------------------------------

SOURCES = pa.schema(
    [
        ("name", pa.string()),
        ("ra_deg", pa.float64()),
        ("dec_deg", pa.float64()),
        ("components", pa.int32()),
        ("members", pa.list_(pa.int64())),
        ("ir_host_ra_deg", pa.list_(pa.float64())),
        ("ir_host_dec_deg", pa.list_(pa.float64())),
    ]
)
COMPONENTS = pa.schema([("row", pa.int64()), ("ra_deg", pa.float64()), ("dec_deg", pa.float64())])


def collation(folder: Path, groups: list[SkyCoord | None]) -> Path:
    """Files of sources whose members are at these positions."""
    sources, components, row = [], [], 0
    for number, sky in enumerate(groups):
        count = 1 if sky is None else len(sky)
        record: dict[str, Any] = {"name": f"S{number}", "components": count, "members": list(range(row, row + count))}
        for k in range(count):
            place_of = {} if sky is None else {"ra_deg": sky[k].ra.deg, "dec_deg": sky[k].dec.deg}
            components.append({"row": row + k, **place_of})
        if sky is not None:
            mean = SkyCoord(sky.cartesian.mean(), frame="icrs")
            record |= {"ra_deg": mean.ra.deg, "dec_deg": mean.dec.deg}
            record |= {"ir_host_ra_deg": [mean.ra.deg], "ir_host_dec_deg": [mean.dec.deg]}
        sources.append(record)
        row += count
    written(folder / "components.parquet", components[::-1], COMPONENTS)
    return written(folder / "sources.parquet", sources, SOURCES)


def around(ra: float, dec: float, offsets: list[tuple[float, float]]) -> SkyCoord:
    """Positions at offsets (position angle in degrees, arcsec)."""
    centre = SkyCoord(ra, dec, unit="deg")
    turns, far = np.array(offsets, float).T
    return centre.directional_offset_by(turns * u.deg, far * u.arcsec)


def frame(ra: float, dec: float) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [ra, dec], [1, 1]
    wcs.wcs.cdelt = [-0.1 / 3600, 0.1 / 3600]
    return wcs


@settings(deadline=None, max_examples=15)
@given(
    centre=st.sampled_from([(0.0, 0.0), (359.9999, -45.0), (10.0, 89.999), (200.0, -89.99)]),
    offsets=st.lists(st.tuples(st.floats(0, 360), st.floats(0.5, 60)), min_size=1, max_size=6),
)
def test_regions_hold_their_members(
    tmp_path_factory: pytest.TempPathFactory, centre: tuple[float, float], offsets: list[tuple[float, float]]
) -> None:
    folder = tmp_path_factory.mktemp("regions")
    sky = around(*centre, offsets)
    assert export_sources(collation(folder, [sky]), folder / "s.reg") == 1
    shape, *others = Regions.read(folder / "s.reg", format="ds9")
    wcs = frame(*centre)
    x, y = wcs.world_to_pixel(sky)
    assert shape.to_pixel(wcs).contains(PixCoord(x, y)).all()
    assert shape.meta["text"] == "S0"
    count = len(sky) if len(sky) > 1 else 0
    assert [type(region).__name__ for region in others] == ["LineSkyRegion"] * count + ["PointSkyRegion"]
    for line, member in zip(others[:count], sky, strict=False):
        assert line.end.separation(member).arcsec < 1e-3
    if len(sky) > 1:
        far = sky[:, None].separation(sky[None, :]).max()
        margin = 2 * table_export_regions.MARGIN_ARCSEC * u.arcsec
        assert far / 1.5 <= max(shape.width, shape.height) <= 1.5 * (far + margin)
    else:
        assert shape.radius.to_value("arcsec") == pytest.approx(table_export_regions.MARGIN_ARCSEC, abs=0.01)


def test_the_long_axis_lies_along_the_source(tmp_path: Path) -> None:
    sky = around(30.0, 40.0, [(20.0, 30.0), (200.0, 30.0)])
    export_sources(collation(tmp_path, [sky]), tmp_path / "s.reg")
    shape = Regions.read(tmp_path / "s.reg", format="ds9")[0].to_pixel(frame(30.0, 40.0))
    north_of_axis = (shape.angle.deg - 90) % 180  # east, the left, of north
    assert north_of_axis == pytest.approx(20, abs=0.1)
    assert shape.width > 3 * shape.height


def test_regions_of_many_sources_are_those_of_several_components(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, single = around(5.0, 5.0, [(0.0, 5.0), (180.0, 5.0)]), around(6.0, 5.0, [(0.0, 0.0)])
    source = collation(tmp_path, [single, None, pair, single])
    assert export_sources(source, tmp_path / "all.reg") == 3
    assert len(Regions.read(tmp_path / "all.reg", format="ds9")) == 2 + (1 + 2) + 3
    monkeypatch.setattr(table_export_regions, "MOST_REGIONS", 3)
    assert export_sources(source, tmp_path / "several.reg") == 1
    assert "of 4 sources those of several components" in (tmp_path / "several.reg").read_text()
    assert export_sources(source, tmp_path / "chosen.reg", where="ra_deg > 5.5") == 2
    assert export_sources(source, tmp_path / "none.reg", where="ra_deg > 100") == 0
    assert len(Regions.read(tmp_path / "none.reg", format="ds9")) == 0


def test_regions_need_the_components(tmp_path: Path) -> None:
    source = collation(tmp_path, [around(5.0, 5.0, [(0.0, 5.0), (180.0, 5.0)])])
    components = tmp_path / "components.parquet"
    written(components, [{"row": 0, "ra_deg": 5.0, "dec_deg": 5.0}], COMPONENTS)
    with pytest.raises(ExportError, match="take both of one collation"):
        export_sources(source, tmp_path / "s.reg")
    written(components, [{"row": 0}], pa.schema([("row", pa.int64())]))
    with pytest.raises(ExportError, match="no columns row, ra_deg, dec_deg"):
        export_sources(source, tmp_path / "s.reg")
    components.unlink()
    with pytest.raises(ExportError, match=r"components\.parquet is needed"):
        export_sources(source, tmp_path / "s.reg")
    assert not (tmp_path / "s.reg").exists()
