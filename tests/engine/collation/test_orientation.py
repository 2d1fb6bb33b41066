"""From the sky to the frame of a neuron and back: a companion at a known place is found where the projection says."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import skycoord_to_pixel

from skysom.engine import Cartesian, Geometry, Som, best_match
from skysom.engine.collation import (
    Frames,
    carried_bits,
    label_planes,
    mapping_frames,
    prepared_pixel_scale,
    project,
    wcs_orientation,
)
from skysom.engine.errors import CollationError
from skysom.engine.preprocess import preprocess
from skysom.engine.reading.frames import to_neuron_frame
from skysom.engine.reading.masks import pack
from skysom.storage.fits import read_cutout
from skysom.storage.tiles import TileIndex, cut_positions, gnomonic

SCALE = 2.0
"""Arcsec a pixel."""
CENTRE = SkyCoord(359.98, 62.0, unit="deg")
COMPANION = CENTRE.directional_offset_by(34 * u.deg, 19 * u.arcsec)
NO_MASKS = np.zeros((1, 1, 1), np.uint64)


def tile_wcs(kind, side, scale=SCALE):
    """A mosaic about 0.4 degrees from CENTRE, laid on the sky in some way."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.radesys = ["RA---SIN", "DEC--SIN"], "ICRS"
    middle = SkyCoord(0.8, 62.1, unit="deg")
    turn, mirror = {"up": (0, 1), "turned": (200, 1), "mirrored": (20, -1)}.get(kind, (0, 1))
    if kind == "galactic":
        wcs.wcs.ctype, middle = ["GLON-TAN", "GLAT-TAN"], middle.galactic
    a = np.radians(turn)
    matrix = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) @ np.diag([-mirror, 1])
    wcs.wcs.crval = [middle.spherical.lon.deg, middle.spherical.lat.deg]
    wcs.wcs.cd, wcs.wcs.crpix = matrix * scale / 3600, [1, 1]
    wcs.wcs.set()
    x, y = skycoord_to_pixel(CENTRE, wcs)
    wcs.wcs.crpix = [1 - np.rint(x) + side // 2, 1 - np.rint(y) + side // 2]  # CENTRE near the middle of the array
    wcs.wcs.set()
    return wcs


def picture(wcs, side, sky, width=1.6):
    """(side, side) float32 with a point source, convolved with a beam, at each position."""
    row, column = np.mgrid[:side, :side]
    image = np.zeros((side, side))
    for x, y in zip(*skycoord_to_pixel(sky, wcs), strict=True):
        image += np.exp(-((row - y) ** 2 + (column - x) ** 2) / (2 * width**2))
    return image.astype(np.float32)


def centroid(image):
    """Column and row of the light of an image, from its middle (side - 1) / 2."""
    row, column = np.mgrid[: len(image), : len(image)] - (len(image) - 1) / 2
    return np.array([(image * column).sum(), (image * row).sum()]) / image.sum()


def projected(frames, scale=SCALE):
    """Neuron offsets x, y of COMPANION from CENTRE in each of the frames."""
    rows = len(frames)
    zero, n = np.zeros(rows, np.int64), np.arange(rows)
    centres = np.full(rows, CENTRE.ra.deg), np.full(rows, CENTRE.dec.deg)
    steps = project(
        *centres, [COMPANION.ra.deg], [COMPANION.dec.deg], n, zero, frames, np.repeat(NO_MASKS, rows, axis=0), scale
    )
    return np.column_stack([steps.neuron_x, steps.neuron_y])


def cut_from_tile(folder, kind, side, resampled):
    """The companion's light in a cut-out about CENTRE from a mosaic, as ingest cuts it."""
    wcs = tile_wcs(kind, 161)
    path = folder / f"{kind}.fits"
    fits.PrimaryHDU(picture(wcs, 161, COMPANION[None]), wcs.to_header()).writeto(path)
    index = TileIndex.build([path])
    position = np.array([CENTRE.ra.deg]), np.array([CENTRE.dec.deg])
    scale = SCALE if resampled else None
    images, status, _ = cut_positions(index, index.tile_of(*position), *position, side, scale)
    assert status[0] == "ok"
    return images[0], index.tiles[0].wcs()


# --- turns onto the neuron ------------------------------------------------------------------------


@pytest.mark.parametrize(("image_side", "neuron_side"), [(41, 59), (40, 58), (41, 58), (40, 41), (41, 31)])
def test_every_turn_of_the_search_shows_the_companion_where_the_projection_says(image_side, neuron_side):
    geometry = Geometry(image_side, neuron_side, 9, rotations=20)
    image = picture(gnomonic((CENTRE.ra.deg, CENTRE.dec.deg), image_side, SCALE), image_side, COMPANION[None])
    t = np.arange(geometry.transforms)
    flip, k = np.divmod(t, geometry.rotations)
    found = np.array([centroid(plane) for plane in to_neuron_frame(np.repeat(image[None], len(t), 0), t, geometry)])
    expected = projected(mapping_frames(t, k, flip, geometry))
    # Quarter turns are copies: where the sides differ by an odd number they lie half a pixel off the centre.
    half = 0.5 if (neuron_side - image_side) % 2 else 0.0
    quarter = k % geometry.base_rotations == 0
    np.testing.assert_allclose(found[~quarter], expected[~quarter], atol=0.02)
    np.testing.assert_allclose(np.abs(found[quarter] - expected[quarter]), half, atol=0.02)


def test_rows_that_were_not_mapped_have_no_frame():
    geometry = Geometry.derive(20, 24)
    frames = mapping_frames([3, -1], [5, -1], [1, -1], geometry)
    assert frames.neuron.tolist() == [3, -1]
    assert frames.angle_rad[0] == geometry.angle(5)
    with pytest.raises(CollationError, match=r"rotations such as 24; .* 0 to 23"):
        mapping_frames([0], [24], [0], geometry)


# --- images on the sky ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["up", "turned", "mirrored", "galactic"])
@pytest.mark.parametrize("side", [40, 41])
def test_a_cut_out_that_was_resampled_has_north_up_and_the_source_in_the_middle(tmp_path, kind, side):
    image, _ = cut_from_tile(tmp_path, kind, side, resampled=True)
    np.testing.assert_allclose(centroid(image), projected(Frames([0], [0.0], [0]))[0], atol=0.02)


@pytest.mark.parametrize("kind", ["up", "turned", "mirrored", "galactic"])
@pytest.mark.parametrize("side", [40, 41])
def test_a_cut_out_on_the_grid_of_its_tile_is_turned_as_the_tile_is(tmp_path, kind, side):
    image, wcs = cut_from_tile(tmp_path, kind, side, resampled=False)
    seen = wcs_orientation(wcs, [CENTRE.ra.deg], [CENTRE.dec.deg])
    assert seen.mirrored[0] == (kind == "mirrored")
    np.testing.assert_allclose([*seen.scale_x_arcsec, *seen.scale_y_arcsec], SCALE, rtol=1e-3)
    frames = Frames([0], [0.0], [0]).seen_through(seen.rotation_rad, seen.mirrored)
    # Up to the fraction of a pixel by which the source lies off the middle.
    np.testing.assert_allclose(centroid(image), projected(frames)[0], atol=0.52)
    x, y = skycoord_to_pixel(SkyCoord([CENTRE, COMPANION]), wcs)
    in_tile = np.array([x[1] - x[0], y[1] - y[0]])
    np.testing.assert_allclose(in_tile, projected(frames)[0], atol=2e-3)
    if kind != "up":
        assert np.abs(in_tile - projected(Frames([0], [0.0], [0]))[0]).max() > 1


def test_a_tile_up_north_is_turned_by_the_convergence_of_meridians():
    wcs = gnomonic((10.0, 80.0), 101, SCALE)
    seen = wcs_orientation(wcs, [10.0, 13.0, np.nan, 7.0], [80.0, 80.0, 80.0, 80.0])
    np.testing.assert_allclose(
        seen.rotation_rad[[0, 1, 3]], np.radians([0, -3, 3]) * np.sin(np.radians(80)), 1e-3, 1e-9
    )
    assert np.isnan([seen.rotation_rad[2], seen.scale_x_arcsec[2]]).all()
    assert not seen.mirrored.any()


def test_a_file_is_taken_as_it_lies(tmp_path):
    up = gnomonic((CENTRE.ra.deg, CENTRE.dec.deg), 41, SCALE)
    image = picture(up, 41, COMPANION[None])
    header = up.to_header()
    fits.PrimaryHDU(image, header).writeto(tmp_path / "up.fits")
    header["CDELT2"] *= -1
    fits.PrimaryHDU(image[::-1], header).writeto(tmp_path / "down.fits")
    coarse = read_cutout(tmp_path / "up.fits", 21, 2 * SCALE).data
    expected = projected(Frames([0], [0.0], [0]))[0]
    np.testing.assert_allclose(centroid(read_cutout(tmp_path / "up.fits").data), expected, atol=0.02)
    np.testing.assert_allclose(centroid(coarse), expected / 2, atol=0.02)
    down = read_cutout(tmp_path / "down.fits").data
    np.testing.assert_allclose(centroid(down), expected * [1, -1], atol=0.02)
    seen = wcs_orientation(WCS(header), [CENTRE.ra.deg], [CENTRE.dec.deg])
    frames = Frames([0], [0.0], [0]).seen_through(seen.rotation_rad, seen.mirrored)
    np.testing.assert_allclose(centroid(down), projected(frames)[0], atol=0.02)


# --- preprocessing --------------------------------------------------------------------------------


def test_block_means_make_pixels_larger():
    image = picture(gnomonic((CENTRE.ra.deg, CENTRE.dec.deg), 82, SCALE / 2), 82, COMPANION[None], width=4.0)
    for most, factor, off in ((41, 2, 0.0), (40, 3, 0.17), (82, 1, 0.0)):
        chain = [["block_mean", {"max_side": most}], ["min_max", {}]]
        scale = prepared_pixel_scale(chain, 82, 2, SCALE / 2)
        assert scale == factor * SCALE / 2
        prepared = preprocess(image[None, None], [chain[0]]).images[0, 0]
        expected = projected(Frames([0], [0.0], [0]), scale)[0]
        np.testing.assert_allclose(centroid(prepared), expected, atol=0.03 + off)


def test_images_with_scales_of_their_own_are_refused():
    chain = [["block_mean", {"max_side": 20}], ["physical_scale", {"kpc_side": 300}]]
    with pytest.raises(CollationError, match=r"\['block_mean', 'physical_scale'\] give every image"):
        prepared_pixel_scale(chain, 40, 1, SCALE)


# --- all together ---------------------------------------------------------------------------------


SKIES = [("up", False), ("up", True), ("mirrored", True), ("galactic", False), ("galactic", True)]


@pytest.mark.parametrize(("kind", "flip"), SKIES)
@pytest.mark.parametrize("scale", [SCALE, None], ids=["resampled", "own grid"])
def test_a_companion_lies_under_the_mask_of_its_blob_after_the_search(tmp_path, kind, flip, scale):
    side, rng = 41, np.random.default_rng(5)
    geometry = Geometry.derive(side, 36, flip)
    # A neuron with three blobs that no turn or flip exchanges: the source, its companion, and a fainter mark.
    places, weights = np.array([[0.0, 0.0], [8.0, -5.0], [-2.0, 10.0]]), np.array([1.0, 0.8, 0.5])
    row, column = np.mgrid[: geometry.neuron_side, : geometry.neuron_side] - (geometry.neuron_side - 1) / 2
    blobs = np.stack([np.exp(-((row - y) ** 2 + (column - x) ** 2) / 8) for x, y in places])
    neuron = np.tensordot(weights, blobs, 1).astype(np.float32)
    som = Som(np.stack([rng.random(neuron.shape, np.float32), neuron])[:, None], Cartesian(2, 1))
    planes = label_planes(pack(np.stack([np.zeros_like(blobs, bool), blobs > 0.6], axis=1)[:, :, None]), 3)[:, 0]
    # The same on the sky, turned by some angle, and mirrored where flips are searched.
    turn = np.array([[np.cos(2.2), -np.sin(2.2)], [np.sin(2.2), np.cos(2.2)]])
    east, north = SCALE * turn @ (places * [1 if flip else -1, 1]).T
    sky = CENTRE.spherical_offsets_by(east * u.arcsec, north * u.arcsec)
    wcs = tile_wcs(kind, 161)
    image = sum(weight * picture(wcs, 161, sky[[b]], 2.0) for b, weight in enumerate(weights))
    fits.PrimaryHDU(image.astype(np.float32), wcs.to_header()).writeto(tmp_path / "tile.fits")

    index, position = TileIndex.build([tmp_path / "tile.fits"]), ([CENTRE.ra.deg], [CENTRE.dec.deg])
    cut, _, _ = cut_positions(index, index.tile_of(*position), *position, side, scale)
    match = best_match(cut[:, None], som, rotations=36, flip=flip)
    assert match.bmu.tolist() == [1]
    turned_over, k = np.divmod(match.transform[0, match.bmu], geometry.rotations)
    frames = mapping_frames(match.bmu, k, turned_over, geometry)
    if scale is None:
        seen = wcs_orientation(index.tiles[0].wcs(), *position)
        frames = frames.seen_through(seen.rotation_rad, seen.mirrored)
    bits = carried_bits(*position, sky.ra.deg, sky.dec.deg, np.zeros(3, int), np.arange(3), frames, planes, SCALE)
    assert bits.tolist() == [1, 2, 4]
