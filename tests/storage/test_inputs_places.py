"""Cut-outs, tiles and catalogues in an object store: what is read is what is read from disk."""

import gzip
import threading

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from skysom.storage import place as places
from skysom.storage.catalogue import read_catalogue, write_catalogue
from skysom.storage.errors import CatalogueError
from skysom.storage.fits import read_cutout
from skysom.storage.place import place
from skysom.storage.tiles import TileIndex, cut_positions


def header(side):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [10.0, 20.0]
    wcs.wcs.crpix = [(side + 1) / 2] * 2
    wcs.wcs.cdelt = [-1.8 / 3600, 1.8 / 3600]
    return wcs.to_header()


@pytest.fixture
def both(tmp_path, s3):
    """Upload a folder: (place on disk, place in the store) once the files are written."""

    def upload():
        there = place(s3) / "in"
        for path in places.files_below(tmp_path):
            places.write_atomically(there / str(path.relative_to(tmp_path)), path.read_bytes())
        return tmp_path, there

    return upload


def test_cutouts_good_and_bad(tmp_path, both):
    image = np.random.default_rng(1).normal(size=(30, 30)).astype(np.float32)
    fits.PrimaryHDU(image, header(30)).writeto(tmp_path / "plain.fits")
    (tmp_path / "zipped.fits.gz").write_bytes(gzip.compress((tmp_path / "plain.fits").read_bytes()))
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(image, header(30))]).writeto(tmp_path / "tiled.fits.fz")
    (tmp_path / "short.fits").write_bytes((tmp_path / "plain.fits").read_bytes()[:4000])
    (tmp_path / "empty.fits").write_bytes(b"")
    (tmp_path / "text.fits").write_text("no FITS")
    here, there = both()
    names = [path.name for path in here.iterdir()]
    for name in [*names, "missing.fits", "x" * 2000]:
        one, other = read_cutout(here / name), read_cutout(there / name)
        assert (one.status, one.coverage) == (other.status, other.coverage), name
        assert (one.data is None) == (other.data is None)
        if one.data is not None:
            assert np.array_equal(one.data, other.data, equal_nan=True), name
    assert read_cutout(there / "plain.fits").status == "ok"
    assert read_cutout(there).status == "missing_file"


@pytest.mark.parametrize("scale", [None, 3.0])
@pytest.mark.parametrize("width", [400, 9000])  # wider ones are read row by row
def test_tiles(tmp_path, both, scale, width):
    image = np.random.default_rng(2).normal(size=(120, width)).astype(np.float32)
    fits.PrimaryHDU(image, header(120)).writeto(tmp_path / "tile.fits")
    here, there = both()
    ra, dec = np.array([10.0, 10.02, 10.5, 9.99]), np.array([20.0, 20.01, 20.0, 20.02])
    found = []
    for root in (here, there):
        index = TileIndex.build([root / "tile.fits", str(root / "missing.fits")])
        assert [status for _, status, _ in index.problems] == ["missing_file"]
        found.append(cut_positions(index, index.tile_of(ra, dec), ra, dec, 20, scale))
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    assert list(found[1][1]) == ["ok", "ok", "no_coverage", "ok"]


def test_a_part_of_a_tile_is_read_and_not_all_of_it(tmp_path, both, monkeypatch):
    fits.PrimaryHDU(np.zeros((4000, 2000), np.float32), header(4000)).writeto(tmp_path / "tile.fits")
    _, there = both()
    fetched = []
    fetch = places._RemoteFile._fetch

    def counted(self, count):
        data = fetch(self, count)
        fetched.append(len(self._ahead))
        return data

    monkeypatch.setattr(places._RemoteFile, "_fetch", counted)
    from skysom.storage.fits import OpenImage

    with OpenImage(there / "tile.fits") as image:
        assert image.read(slice(2000, 2020), slice(1000, 1020)).shape == (20, 20)
    assert max(fetched) < 3 * 2**20  # of 32 MB


def test_a_silent_store_says_nothing_about_an_image(tmp_path, stoppable_s3):
    server, url = stoppable_s3
    fits.PrimaryHDU(np.eye(30, dtype=np.float32), header(30)).writeto(tmp_path / "a.fits")
    where = place(url) / "a.fits"
    places.write_atomically(where, (tmp_path / "a.fits").read_bytes())
    server.stop()
    later = threading.Timer(1.0, server.start)
    later.start()
    assert read_cutout(where).status == "ok"
    later.join()


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "fits", "fits.gz", "vot", "parquet"])
def test_catalogues_of_every_format(tmp_path, both, suffix):
    table = pd.DataFrame({"name": [f"a{i}" for i in range(50)], "flux": np.arange(50.0), "flag": np.arange(50)})
    name = f"t.{suffix}"
    if suffix == "parquet":
        table.to_parquet(tmp_path / name)
    elif suffix.startswith("csv"):
        table.to_csv(tmp_path / name, index=False)
    else:
        Table.from_pandas(table).write(tmp_path / name, format={"vot": "votable"}.get(suffix, "fits"))
    here, there = both()
    pd.testing.assert_frame_equal(read_catalogue(here / name), read_catalogue(str(there / name)))


def test_what_is_no_catalogue_is_one_sentence(s3):
    there = place(s3)
    with pytest.raises(CatalogueError, match="no catalogue file at s3://"):
        read_catalogue(there / "none.csv")
    places.write_atomically(there / "torn.parquet", b"PAR1 torn")
    with pytest.raises(CatalogueError, match="cannot be read as parquet"):
        read_catalogue(there / "torn.parquet")


def test_a_catalogue_is_written_whole(s3):
    table = pd.DataFrame({"a": np.arange(1000)})
    write_catalogue(table, place(s3) / "c.parquet", 100)
    write_catalogue(table + 1, f"{s3}/c.parquet", 100)
    assert read_catalogue(f"{s3}/c.parquet")["a"].tolist() == list(range(1, 1001))
    with pytest.raises(CatalogueError, match="one type"):
        write_catalogue(pd.DataFrame({"a": [1, "x"]}), place(s3) / "c.parquet", 100)
    assert len(read_catalogue(f"{s3}/c.parquet")) == 1000
