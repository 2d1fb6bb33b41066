"""FITS images out: what is written is what was given, and sky positions hold in both frames."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from skysom.engine import Geometry, Hexagonal
from skysom.engine.reading.frames import image_to_neuron, pixel_map, to_neuron_frame, transform_pixel_map
from skysom.storage import place as places
from skysom.storage.fits import read_image
from skysom.storage.fits_export import ExportError, moved_wcs, provenance, source_wcs, write_image, write_neurons
from skysom.storage.place import place


@pytest.fixture(params=["local", "s3"])
def root(request, tmp_path):
    """A folder on disk, or a prefix in an object store."""
    return place(tmp_path) if request.param == "local" else place(request.getfixturevalue("s3") + "/out")


def noise(*shape):
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def header_of(where):
    with places.open_binary(place(where)) as stream, fits.open(stream) as hdus:
        return hdus[0].header


# --- files ----------------------------------------------------------------------------------------


def test_an_image_comes_back_with_its_coordinates_and_origin(root):
    image, where = noise(1, 30, 30), root / "new" / "source.fits"
    image[0, 2, 3] = np.nan
    words = provenance(
        source_id="J1", ra_deg=150.0, frame="image", angle_deg=np.float32(45), flip=np.int8(1), neuron=np.int64(7),
        bmu_distance=float("nan"), som="final", som_sha256="ab" * 32,
    )  # fmt: skip
    wcs = source_wcs(150, 2, 30, 1.8)
    assert write_image(where, image, wcs=wcs, unit="Jy/beam", keywords=words, history=["cut", "exported"]) == where
    found = read_image(where)
    assert np.array_equal(found.data, image[0], equal_nan=True)
    assert found.unit == "Jy/beam"
    assert found.pixel_scale_arcsec == pytest.approx(1.8)
    sky = found.wcs.pixel_to_world(14.5, 14.5)
    assert (sky.ra.deg, sky.dec.deg) == pytest.approx((150, 2), abs=1e-12)
    header = header_of(where)
    assert (header["OBJECT"], header["NEURON"], header["FLIPPED"], header["ROTANGLE"]) == ("J1", 7, True, 45.0)
    assert header["SOMSHA"] == "ab" * 32
    assert "BMU_DIST" not in header
    assert list(header["HISTORY"]) == ["cut", "exported"]
    assert [entry.name for entry in places.entries(where.parent)] == ["source.fits"]


def test_checksums_hold(tmp_path):
    where = write_image(tmp_path / "a.fits", noise(5, 5))
    with fits.open(where, checksum=True) as hdus:
        assert hdus[0].verify_checksum() == 1
        assert hdus[0].verify_datasum() == 1


def test_several_channels_are_a_cube_with_celestial_axes(root):
    cube = noise(3, 8, 8)
    where = write_image(root / "c.fits", cube, wcs=source_wcs(10, -30, 8, 2.0), channels=["radio", "W1", "W2"])
    with places.open_binary(where) as stream, fits.open(stream) as hdus:
        header = hdus[0].header
        assert np.array_equal(hdus[0].data, cube)
    assert [header[f"CHAN{i}"] for i in (1, 2, 3)] == ["radio", "W1", "W2"]
    wcs = WCS(header)
    assert wcs.naxis == 3
    assert wcs.pixel_to_world_values(3.5, 3.5, 2) == pytest.approx((10, -30, 3))
    corner = source_wcs(10, -30, 8, 2.0).pixel_to_world(0, 0)
    assert wcs.celestial.pixel_to_world(0, 0).separation(corner).arcsec < 1e-6


@pytest.mark.parametrize("channels", [1, 2])
def test_neurons_and_their_places(root, channels):
    lattice = Hexagonal(3)
    weights = noise(7, channels, 6, 6)
    names = np.array(["a", "", "b", "c", "", "", "d"])
    where = write_neurons(root / "som.fits", weights, lattice.positions(), table={"label": names})
    with places.open_binary(where) as stream, fits.open(stream) as hdus:
        assert np.array_equal(hdus[0].data.reshape(weights.shape), weights)
        assert hdus[0].data.ndim == (3 if channels == 1 else 4)
        table = hdus["NEURONS"].data
        assert table["neuron"].tolist() == list(range(7))
        assert np.array_equal(np.stack([table["bmu_row"], table["bmu_col"]]), lattice.positions()[:, :2].T)
        assert table["label"].tolist() == names.tolist()


def test_a_file_that_is_there_is_kept(root):
    where = write_image(root / "a.fits", noise(4, 4))
    with pytest.raises(ExportError, match="there already"):
        write_image(where, noise(5, 5))
    assert read_image(where).data.shape == (4, 4)
    write_image(where, noise(5, 5), overwrite=True)
    assert read_image(where).data.shape == (5, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: write_image(p, noise(4)), r"\(4,\)"),
        (lambda p: write_image(p, noise(2, 4, 4), channels=["one"]), "1 channel names for 2"),
        (lambda p: write_image(p, noise(4, 4), keywords={"TOOLONGKEY": 1}), "TOOLONGKEY"),
        (lambda p: write_image(p, noise(4, 4), keywords={"NAME": "Ø"}), "ASCII"),
        (lambda p: write_image(p, noise(4, 4), keywords={"VALUE": float("inf")}), "finite"),
        (lambda p: write_neurons(p, noise(4, 1, 3, 3), np.zeros((3, 3), int)), r"\(3, 3\)"),
        (lambda p: write_neurons(p, noise(1, 1, 3, 3), np.zeros((1, 3), int), table={"x": np.zeros(2)}), "column x"),
        (lambda p: source_wcs(np.nan, 0, 4, 1), "not on the sky"),
        (lambda p: source_wcs(0, 91, 4, 1), "not on the sky"),
        (lambda p: source_wcs(0, 0, 4, 0), "pixel scale"),
    ],
)
def test_what_fits_cannot_hold_is_refused_and_leaves_nothing(tmp_path, call, message):
    with pytest.raises(ExportError, match=message):
        call(tmp_path / "a.fits")
    assert list(tmp_path.iterdir()) == []


# --- coordinates of both frames -------------------------------------------------------------------


def rotated_wcs():
    """Coordinates with a position angle, unequal pixels and a reference point off the image, as tiles have them."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.crval, wcs.wcs.crpix = [210.0, 54.0], [-300.0, 480.5]
    angle = np.deg2rad(17)
    wcs.wcs.pc = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    wcs.wcs.cdelt = [-4e-4, 5e-4]
    wcs.wcs.set()
    return wcs


def declination_first():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["DEC--TAN", "RA---TAN"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [2.0, 150.0], [8, 9], [5e-4, -5e-4]
    wcs.wcs.set()
    return wcs


@pytest.mark.parametrize("wcs", [source_wcs(150, 2, 15, 1.8), rotated_wcs(), declination_first()])
@given(t=st.integers(0, 119), sides=st.sampled_from([(15, 21), (15, 22), (16, 23), (15, 11)]))
@settings(max_examples=40, deadline=None)
def test_a_position_on_the_sky_is_the_same_in_both_frames(wcs, t, sides):
    geometry = Geometry(*sides, 3, rotations=60)
    frame = transform_pixel_map(t, geometry)
    moved = moved_wcs(wcs, frame.affine(), sides[1])
    here = np.array([[0.0, 0], [3, 9], [10, 2.5], [7, 7]])
    there = frame(here)
    found = moved.pixel_to_world(here[:, 1], here[:, 0])
    expected = wcs.pixel_to_world(there[:, 1], there[:, 0])
    assert np.max(found.separation(expected).arcsec) < 1e-6
    assert moved.wcs.has_cd()


def test_a_source_lies_on_its_pixels_in_the_written_neuron_frame(tmp_path):
    """An off-centre source is found by its sky position in the turned and flipped file."""
    geometry, t = Geometry(41, 58, 3, rotations=60), 60 + 13
    y, x = np.mgrid[:41, :41]
    image = np.exp(-((y - 12) ** 2 + (x - 29) ** 2) / 8).astype(np.float32)
    wcs = source_wcs(150, 40, 41, 1.8)
    sky = wcs.pixel_to_world(29, 12)
    turned = to_neuron_frame(image[None], t, geometry)
    moved = moved_wcs(wcs, transform_pixel_map(t, geometry).affine())
    found = read_image(write_image(tmp_path / "n.fits", turned, wcs=moved))
    column, row = found.wcs.world_to_pixel(sky)
    brightest = np.unravel_index(np.argmax(found.data), found.data.shape)
    assert np.hypot(row - brightest[0], column - brightest[1]) < 0.8
    assert np.linalg.det(found.wcs.pixel_scale_matrix) > 0  # mirrored: east to the right of north
    angle = 0.3
    there = moved_wcs(wcs, pixel_map(angle, 0, (41, 41), (41, 41)).affine())
    write_image(tmp_path / "m.fits", image_to_neuron(image, angle, 0, order=3), wcs=there)
    found = read_image(tmp_path / "m.fits")
    column, row = found.wcs.world_to_pixel(sky)
    brightest = np.unravel_index(np.argmax(found.data), found.data.shape)
    assert np.hypot(row - brightest[0], column - brightest[1]) < 0.8


@pytest.mark.realdata
def test_an_observed_source_keeps_its_position_in_the_neuron_frame(shared, tmp_path):
    name = "120.256+013.831"
    source = next(shared("realdata/radio_first_mirabest/cutouts").glob(f"*{name}*"))
    image = read_image(source)
    geometry, t = Geometry.derive(150, 360, True), 360 + 111
    moved = moved_wcs(image.wcs, transform_pixel_map(t, geometry).affine(), 213)
    turned = to_neuron_frame(np.nan_to_num(image.data)[None], t, geometry)
    found = read_image(write_image(tmp_path / "n.fits", turned, wcs=moved, unit=image.unit))
    assert found.pixel_scale_arcsec == pytest.approx(image.pixel_scale_arcsec)
    row, column = np.unravel_index(np.nanargmax(found.data), found.data.shape)
    before = np.unravel_index(np.nanargmax(image.data), image.data.shape)
    separation = found.wcs.pixel_to_world(column, row).separation(image.wcs.pixel_to_world(before[1], before[0]))
    assert separation.arcsec < 1.5 * image.pixel_scale_arcsec


def test_coordinates_with_distortions_are_kept_and_not_turned(tmp_path):
    header = source_wcs(150, 2, 15, 1.8).to_header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    header.update({"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1e-4, "B_0_2": 1e-4})
    wcs = WCS(header)
    with pytest.raises(ExportError, match="distortions"):
        moved_wcs(wcs, np.eye(2, 3))
    write_image(tmp_path / "d.fits", noise(15, 15), wcs=wcs)
    found = WCS(fits.getheader(tmp_path / "d.fits"))
    assert found.pixel_to_world(2, 3).separation(wcs.pixel_to_world(2, 3)).arcsec < 1e-6
