"""Cutting by position: the right tile, the right pixels, and a status for everything that cannot be cut."""

import gzip
import pickle

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from scipy.ndimage import map_coordinates

from skysom.storage.catalogue import read_catalogue
from skysom.storage.errors import ImageInputError
from skysom.storage.fits import read_image
from skysom.storage.tiles import TileIndex, cut_positions, gnomonic, to_pixels

SIZE = 120
SCALE = 2.0


def sky(crval=(150.0, 2.0), projection="TAN", shape=(SIZE, SIZE), scale=SCALE, rotation=0.0, names=("RA", "DEC")):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = [f"{names[0]:-<4}-{projection}", f"{names[1]:-<4}-{projection}"]
    wcs.wcs.crval = crval
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
    angle = np.radians(rotation)
    wcs.wcs.pc = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    wcs.wcs.set()
    return wcs


def write(path, wcs, sources=(), shape=(SIZE, SIZE), noise=0.01, fwhm=12.0, **cards):
    """A tile with Gaussian sources (ra, dec, peak) of ``fwhm`` arcseconds on noise."""
    data = np.random.default_rng(0).normal(scale=noise, size=shape)
    y, x = np.indices(shape)
    for ra, dec, peak in sources:
        px, py = to_pixels(wcs, np.array([ra]), np.array([dec]))
        data += peak * np.exp(-4 * np.log(2) * ((x - px) ** 2 + (y - py) ** 2) / (fwhm / SCALE) ** 2)
    fits.writeto(path, data.astype(np.float32), wcs.to_header() + fits.Header(cards), overwrite=True)
    return path


def offset(ra, dec, east_arcsec, north_arcsec):
    place = SkyCoord(ra, dec, unit="deg").spherical_offsets_by(
        np.asarray(east_arcsec) * units.arcsec, np.asarray(north_arcsec) * units.arcsec
    )
    return place.ra.deg, place.dec.deg


def cut_one(index, ra, dec, side, scale=None):
    ra, dec = np.array([ra]), np.array([dec])
    images, status, coverage = cut_positions(index, index.tile_of(ra, dec), ra, dec, side, scale)
    return images[0], status[0], coverage[0]


# --- which tile -----------------------------------------------------------------------------------


def test_best_of_overlapping_tiles(tmp_path):
    # Two tiles side by side that share 40 pixels in RA.
    east = offset(150.0, 2.0, 80 * SCALE, 0)
    index = TileIndex.build(
        [write(tmp_path / "west.fits", sky()), write(tmp_path / "east.fits", sky((float(east[0]), float(east[1]))))]
    )
    shift = np.array([-200.0, 0, 30, 70, 90, 150, 270, 300]) * SCALE / 2  # arcseconds east of the western centre
    ra, dec = offset(150.0, 2.0, shift, 0 * shift)
    np.testing.assert_array_equal(index.tile_of(ra, dec), [-1, 0, 0, 0, 1, 1, 1, -1])


def test_data_decide_before_the_edge(tmp_path):
    near = write(tmp_path / "a.fits", sky())
    data, header = fits.getdata(near, header=True)
    data[:, :] = np.nan
    data[:5] = 1.0
    fits.writeto(near, data, header, overwrite=True)
    other = write(tmp_path / "b.fits", sky((150.02, 2.0)))
    index = TileIndex.build([near, other])
    assert index.tile_of(np.array([150.0]), np.array([2.0])) == 1
    assert TileIndex.build([near]).tile_of(np.array([150.0]), np.array([2.0])) == 0


def test_bad_positions_have_no_tile(tmp_path):
    index = TileIndex.build([write(tmp_path / "a.fits", sky())])
    ra = np.array([150.0, np.nan, 150.0, 400.0, 150.0, 330.0, np.inf])
    dec = np.array([2.0, 2.0, np.nan, 2.0, 95.0, -2.0, 2.0])
    tiles = index.tile_of(ra, dec)
    np.testing.assert_array_equal(tiles, [0, -1, -1, -1, -1, -1, -1])
    images, status, coverage = cut_positions(index, tiles, ra, dec, 9)
    assert status.tolist() == ["ok", *["bad_position"] * 4, "no_coverage", "bad_position"]
    assert coverage.tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert np.isnan(images[1:]).all()
    assert index.tile_of(ra[1:2], dec[1:2]).tolist() == [-1]
    assert index.tile_of(ra[:0], dec[:0]).shape == (0,)


def test_many_sources_and_tiles(tmp_path):
    # A strip of tiles, compared with a plain look at every tile for every source.
    centres = [(10.0 + 0.05 * k, -30.0) for k in range(20)]
    index = TileIndex.build([write(tmp_path / f"{k}.fits.gz", sky(c)) for k, c in enumerate(centres)])
    rng = np.random.default_rng(3)
    ra, dec = rng.uniform(9.9, 11.1, 2000), rng.uniform(-30.05, -29.95, 2000)
    best, margin = np.full(2000, -1), np.full(2000, -1.0)
    for k, centre in enumerate(centres):
        x, y = to_pixels(sky(centre), ra, dec)
        here = np.minimum.reduce([x + 0.5, SIZE - 0.5 - x, y + 0.5, SIZE - 0.5 - y])
        better = (here >= 0) & (here > margin)
        best[better], margin[better] = k, here[better]
    np.testing.assert_array_equal(index.tile_of(ra, dec), best)
    assert (best >= 0).mean() > 0.3


def test_index_pickles_and_is_small(tmp_path):
    index = TileIndex.build([write(tmp_path / "a.fits", sky(), HISTORY="long story " * 6)])
    content = pickle.dumps(index)
    again = pickle.loads(content)
    assert again == index
    assert len(content) < 10_000
    assert again.tile_of(np.array([150.0]), np.array([2.0])) == 0
    assert again.pixel_scale_arcsec == pytest.approx(SCALE)


def test_unusable_tiles_are_recorded(tmp_path):
    good = write(tmp_path / "good.fits", sky(), BUNIT="Jy/beam")
    fits.writeto(tmp_path / "nowcs.fits", np.ones((5, 5)))
    fits.writeto(tmp_path / "cube.fits", np.ones((3, 5, 5)), sky().to_header())
    (tmp_path / "text.fits").write_text("hello")
    (tmp_path / "short.fits").write_bytes(good.read_bytes()[:20000])
    names = ["nowcs", "cube", "text", "short", "absent", "good"]
    index = TileIndex.build([tmp_path / f"{name}.fits" for name in names])
    assert [status for _, status, _ in index.problems] == [
        "no_wcs",
        "wrong_dimensions",
        "unreadable_file",
        "unreadable_file",
        "missing_file",
    ]
    assert len(index.tiles) == 1
    assert index.unit == "Jy/beam"
    assert cut_one(index, 150.0, 2.0, 9)[1] == "ok"
    assert cut_one(index, 10.0, 2.0, 9)[1] == "no_coverage"
    only_bad = TileIndex.build([tmp_path / "nowcs.fits"])
    assert cut_one(only_bad, 150.0, 2.0, 9)[1] == "no_wcs"
    with pytest.raises(ImageInputError, match="--images"):
        TileIndex.build([])


# --- what is cut ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["fits", "fits.gz", "fits.fz"])
@pytest.mark.parametrize("side", [8, 9])
def test_native_cut_is_a_slice_centred_on_the_source(tmp_path, suffix, side):
    path = write(tmp_path / "tile.fits", sky())
    data = np.round(fits.getdata(path) * 1000).astype(np.int32)
    if suffix == "fits.fz":
        path = tmp_path / "tile.fits.fz"
        fits.CompImageHDU(data, sky().to_header()).writeto(path)
    else:
        path = tmp_path / f"again.{suffix}"
        fits.writeto(path, data, sky().to_header())
    index = TileIndex.build([path])
    rng = np.random.default_rng(5)
    x, y = rng.uniform(20, 100, (2, 30))
    place = sky().pixel_to_world(x, y).icrs
    images, status, coverage = cut_positions(index, np.zeros(30, int), place.ra.deg, place.dec.deg, side)
    assert (status == "ok").all()
    assert (coverage == 1).all()
    for k in range(30):
        rows, columns = (int(np.ceil(v - side / 2)) for v in (y[k], x[k]))
        np.testing.assert_array_equal(images[k], data[rows : rows + side, columns : columns + side])
        assert abs(y[k] - rows - (side - 1) / 2) <= 0.5 + 1e-6
        assert abs(x[k] - columns - (side - 1) / 2) <= 0.5 + 1e-6


def test_edges_are_padded_with_nan(tmp_path):
    path = write(tmp_path / "a.fits", sky())
    data = fits.getdata(path)
    corner = sky().pixel_to_world(0, SIZE - 1).icrs
    image, status, coverage = cut_one(TileIndex.build([path]), corner.ra.deg, corner.dec.deg, 11)
    assert status == "ok"
    assert coverage == pytest.approx(36 / 121)
    np.testing.assert_array_equal(image[:6, 5:], data[SIZE - 6 :, :6])
    assert np.isnan(image[6:]).all()
    assert np.isnan(image[:, :5]).all()


@pytest.mark.parametrize("scale", [None, 2.0])
def test_empty_and_constant_parts(tmp_path, scale):
    path = write(tmp_path / "a.fits", sky())
    data, header = fits.getdata(path, header=True)
    data[:60] = np.nan
    data[60:, :60] = 7.0
    fits.writeto(path, data, header, overwrite=True)
    index = TileIndex.build([path])
    found = []
    for x, y in ((60, 20), (20, 90), (90, 90)):
        place = sky().pixel_to_world(x, y).icrs
        found.append(cut_one(index, place.ra.deg, place.dec.deg, 9, scale)[1:])
    assert found == [("all_nan", 0), ("constant", 1), ("ok", 1)]


def test_tile_lost_after_indexing(tmp_path):
    a, b = write(tmp_path / "a.fits", sky()), write(tmp_path / "b.fits.gz", sky((160.0, 2.0)))
    index = TileIndex.build([a, b])
    ra, dec = np.array([150.0, 160.0]), np.array([2.0, 2.0])
    tiles = index.tile_of(ra, dec)
    a.unlink()
    b.write_bytes(gzip.compress(gzip.decompress(b.read_bytes())[:20000]))
    assert cut_positions(index, tiles, ra, dec, 9)[1].tolist() == ["missing_file", "unreadable_file"]


@pytest.mark.parametrize("projection", ["TAN", "SIN", "CAR", "AIT"])
@pytest.mark.parametrize("rotation", [0.0, 70.0])
def test_reprojected_source_is_central_and_north_is_up(tmp_path, projection, rotation):
    source = offset(150.0, 2.0, 31.0, -25.0)
    companion = offset(*source, 16.0, 8.0)  # north-east
    sources = [(*source, 2.0), (*companion, 1.0)]
    wcs = sky(projection=projection, rotation=rotation)
    index = TileIndex.build([write(tmp_path / "a.fits", wcs, sources, noise=1e-4)])
    image, status, coverage = cut_one(index, *source, 31, 1.0)
    assert (status, coverage) == ("ok", 1)
    y, x = np.indices(image.shape) - 15
    expected = sum(
        peak * np.exp(-4 * np.log(2) * ((x + east) ** 2 + (y - north) ** 2) / 12.0**2)
        for peak, east, north in ((2.0, 0, 0), (1.0, 16, 8))
    )
    # Bilinear interpolation rounds a peak off by its curvature / 8 an axis: 2 * 2 * 8 ln 2 / 6^2 / 8 = 0.077.
    np.testing.assert_allclose(image, expected, atol=0.08)


def test_channels_of_different_tiles_share_a_grid(tmp_path):
    source = offset(150.0, 2.0, 20.0, 10.0)
    frame = SkyCoord(*source, unit="deg").galactic
    galactic = sky((frame.l.deg, frame.b.deg), "TAN", names=("GLON", "GLAT"))
    radio = TileIndex.build([write(tmp_path / "a.fits", sky(rotation=30.0), [(*source, 1.0)], noise=1e-5)])
    infrared = TileIndex.build([write(tmp_path / "b.fits", galactic, [(*source, 1.0)], noise=1e-5)])
    first, second = (cut_one(index, *source, 24, 2.5)[0] for index in (radio, infrared))
    np.testing.assert_allclose(first, second, atol=0.03)
    np.testing.assert_allclose(first, first[::-1, ::-1], atol=0.03)  # even side: centred between pixels


def test_reprojection_at_an_edge_is_padded(tmp_path):
    index = TileIndex.build([write(tmp_path / "a.fits", sky())])
    edge = sky().pixel_to_world(0, 60).icrs
    image, status, coverage = cut_one(index, edge.ra.deg, edge.dec.deg, 20, 2.0)
    assert status == "ok"
    assert coverage == pytest.approx(0.5, abs=0.06)
    assert np.isnan(image[:, :9]).all()  # east is left, as in the tile


@pytest.mark.parametrize("longitude", [0.0, 10.0, 179.9, 200.0, 359.999])
def test_galactic_plate_carree_far_from_its_reference(tmp_path, longitude):
    """Longitude counts from the reference, which may lie beyond 180 degrees or across zero."""
    wcs = sky((0.0, 0.0), "CAR", names=("GLON", "GLAT"))
    wcs.wcs.crpix = [SIZE / 2 + longitude * 3600 / SCALE, SIZE / 2]
    wcs.wcs.set()
    fits.writeto(tmp_path / "a.fits", np.arange(SIZE * SIZE, dtype="f4").reshape(SIZE, SIZE), wcs.to_header())
    index = TileIndex.build([tmp_path / "a.fits"])
    place = SkyCoord(longitude, 0.0, unit="deg", frame="galactic").icrs
    image, status, coverage = cut_one(index, place.ra.deg, place.dec.deg, 3)
    assert (status, coverage) == ("ok", 1)
    assert image[1, 1] == pytest.approx((SIZE / 2 - 1) * (SIZE + 1), abs=1)


def test_whole_sky_map(tmp_path):
    wcs = sky((0.0, 0.0), "AIT", (180, 360), 3600.0, names=("GLON", "GLAT"))
    data = np.random.default_rng(0).normal(size=(180, 360)).astype(np.float32)
    fits.writeto(tmp_path / "a.fits", data, wcs.to_header())
    index = TileIndex.build([tmp_path / "a.fits"])
    place = SkyCoord([10.0, -100.0], [20.0, -70.0], unit="deg", frame="galactic").icrs
    assert index.tile_of(place.ra.deg, place.dec.deg).tolist() == [0, 0]


def test_gnomonic_centre():
    wcs = gnomonic((33.0, -5.0), 10, 2.0)
    assert np.allclose(wcs.pixel_to_world_values(4.5, 4.5), (33.0, -5.0))


# --- real mosaics ---------------------------------------------------------------------------------


@pytest.mark.realdata
@pytest.mark.parametrize("scale", [None, 240.0])
def test_component_list_of_a_real_mosaic(shared, scale):
    """The components that Aegean found in the Parkes field lie at the centres of their cut-outs."""
    folder = shared("realdata/radio_mosaics")
    components = read_catalogue(folder / "1904_comp.fits")
    ra, dec = components["ra"].to_numpy(float), components["dec"].to_numpy(float)
    index = TileIndex.build([folder / "1904-66_SIN.fits", folder / "1904_comp.fits"])
    assert [status for _, status, _ in index.problems] == ["wrong_dimensions"]
    tiles = index.tile_of(ra, dec)
    assert (tiles == 0).all()
    images, status, coverage = cut_positions(index, tiles, ra, dec, 15, scale)
    assert (status == "ok").all()
    assert coverage.min() < 1  # some lie at the edge of the field
    ratio = np.nanmax(images[:, 6:9, 6:9], axis=(1, 2)) / components["peak_flux"].to_numpy(float)
    assert 0.85 < np.nanmedian(ratio) < 1.1
    # Bright components without a brighter one in the middle of their cut-out are brightest at its centre.
    peak = components["peak_flux"].to_numpy(float)
    places = SkyCoord(ra, dec, unit="deg")
    lonely = [
        not ((places.separation(place).deg < 0.5) & (peak > flux)).any()
        for place, flux in zip(places, peak, strict=True)
    ]
    chosen = np.array(lonely) & (peak > 1)
    assert chosen.sum() >= 8
    for image in images[chosen]:
        brightest = np.unravel_index(np.nanargmax(image[4:11, 4:11]), (7, 7))
        assert np.abs(np.array(brightest) - 3).max() <= 1


@pytest.mark.realdata
@pytest.mark.parametrize(
    "name", ["radio_mosaics/gc_bolocam_gps.fits.gz", "infrared/galactic_centre/gc_2mass_k.fits.gz"]
)
def test_galactic_centre_by_icrs_position(shared, name):
    """Cut-outs about Sgr A* (GLON-CAR and TAN mosaics) hold what the mosaics have at the same places on the sky."""
    path = shared(f"realdata/{name}")
    mosaic = read_image(path)
    ra, dec = np.array([266.41683]), np.array([-29.00781])
    index = TileIndex.build([path])
    tiles = index.tile_of(ra, dec)
    native, status, _ = cut_positions(index, tiles, ra, dec, 21)
    x, y = to_pixels(mosaic.wcs, ra, dec)
    assert status.tolist() == ["ok"]
    assert native[0, 10, 10] == mosaic.data[round(y[0]), round(x[0])]
    scale = mosaic.pixel_scale_arcsec
    grid, status, coverage = cut_positions(index, tiles, ra, dec, 33, scale)
    assert (status[0], coverage[0]) == ("ok", 1)
    rows, columns = np.indices((33, 33))
    east, north = (16 - columns) * scale, (rows - 16) * scale
    x, y = to_pixels(mosaic.wcs, *offset(ra[0], dec[0], east, north))
    expected = map_coordinates(mosaic.data.astype(float), [y, x], order=1)
    np.testing.assert_allclose(grid[0], expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
