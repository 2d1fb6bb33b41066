"""Offsets on the sky, in images and in neurons, against astropy and against the pictures themselves."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import rotate

from skysom.engine.collation.offsets import (
    mask_pixel,
    neuron_offsets,
    pixel_offsets,
    pixel_offsets_of_wcs,
    sky_offsets_arcsec,
)
from skysom.engine.errors import CollationError

PLACES = [(0.0, 0.0), (359.9999, -45.0), (180.0, 90.0), (77.0, -90.0), (10.0, 89.99), (123.4, 56.7)]
seeds = st.integers(0, 2**32 - 1)


def about(place, seed, spread_arcsec, rows=30):
    rng = np.random.default_rng(seed)
    centre = SkyCoord(*place, unit="deg")
    return centre, centre.directional_offset_by(
        rng.uniform(0, 360, rows) * u.deg, spread_arcsec * rng.random(rows) * u.arcsec
    )


@pytest.mark.parametrize("place", PLACES)
@given(seed=seeds, spread=st.sampled_from([1.0, 60.0, 3600.0, 36_000.0, 200_000.0]))
def test_sky_offsets_are_those_of_astropy(place, seed, spread):
    centre, sky = about(place, seed, spread)
    east, north = sky_offsets_arcsec(np.full(30, centre.ra.deg), np.full(30, centre.dec.deg), sky.ra.deg, sky.dec.deg)
    for found, expected in zip((east, north), centre.spherical_offsets_to(sky), strict=True):
        np.testing.assert_allclose(found, expected.to_value("arcsec"), rtol=1e-14, atol=1e-9)


def test_a_position_is_at_its_own_centre_exactly():
    rng = np.random.default_rng(1)
    ra, dec = rng.uniform(0, 360, 1000), np.append(rng.uniform(-90, 90, 998), [90, -90])
    for offset in sky_offsets_arcsec(ra, dec, ra, dec):
        assert not offset.any()


def test_the_other_half_of_the_sky():
    centre = SkyCoord(20, 10, unit="deg")
    sky = SkyCoord([150, 199, 260, 21], [5, -11, -40, -85], unit="deg")
    found = sky_offsets_arcsec(np.full(4, 20.0), np.full(4, 10.0), sky.ra.deg, sky.dec.deg)
    for offset, expected in zip(found, centre.spherical_offsets_to(sky), strict=True):
        np.testing.assert_allclose(offset, expected.to_value("arcsec"), rtol=1e-13)


def test_positions_that_are_none_have_no_offsets():
    east, north = sky_offsets_arcsec([1.0, np.nan, 1.0], [1.0, 1.0, 1.0], [np.nan, 1.0, 1.0], [1.0, 1.0, 1.0])
    np.testing.assert_array_equal(np.isnan(east), [True, True, False])
    np.testing.assert_array_equal(np.isnan(north), [True, True, False])


def test_columns_grow_to_the_west_and_rows_to_the_north():
    x, y = pixel_offsets(np.array([3.0]), np.array([4.0]), 0.5)
    assert (x[0], y[0]) == (-6.0, 8.0)
    x, y = pixel_offsets(np.array([3.0]), np.array([4.0]), (1.5, 0.25))
    assert (x[0], y[0]) == (-2.0, 16.0)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, (1.0, 0.0), (1.0, 1.0, 1.0)])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(CollationError, match="the pixel scale is"):
        pixel_offsets(np.zeros(1), np.zeros(1), scale)


@pytest.mark.parametrize("place", [(0.0, 0.0), (359.9999, 60.0), (10.0, 89.9)])
def test_a_gnomonic_image_differs_by_the_cube_of_the_angle(place):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = place, [31.5, 40]
    wcs.wcs.cdelt = [-1.5 / 3600, 1.5 / 3600]
    centre, sky = about(place, 3, 600.0)
    found = pixel_offsets_of_wcs(wcs, centre, sky)
    of_sky = pixel_offsets(
        *sky_offsets_arcsec(np.full(30, place[0]), np.full(30, place[1]), sky.ra.deg, sky.dec.deg), 1.5
    )
    largest = max(np.abs(one - other).max() for one, other in zip(found, of_sky, strict=True))
    assert 1e-6 < largest < 2e-3 / 1.5
    with_tail = SkyCoord([place[0], (place[0] + 180) % 360], [place[1], -place[1]], unit="deg")
    x, _ = pixel_offsets_of_wcs(wcs, centre, with_tail)
    assert abs(x[0]) < 1e-7
    assert np.isnan(x[1])  # behind the tangent plane


@pytest.mark.parametrize("flip", [0, 1])
@pytest.mark.parametrize("angle", [0.0, 0.7, np.pi / 2, 4.0])
def test_neuron_offsets_follow_the_picture(angle, flip):
    side, x, y = 61, 11.0, -6.0
    row, column = np.mgrid[:side, :side] - (side - 1) / 2
    image = np.exp(-((row - y) ** 2 + (column - x) ** 2) / 8)
    turned = rotate(image, -np.degrees(angle), reshape=False)
    turned = turned[::-1] if flip else turned
    found_x, found_y = neuron_offsets([x], [y], angle, flip)
    assert abs((turned * column).sum() / turned.sum() - found_x[0]) < 0.01
    assert abs((turned * row).sum() / turned.sum() - found_y[0]) < 0.01


def test_float32_angles_move_little():
    rng = np.random.default_rng(4)
    x, y, angle = rng.uniform(-40, 40, (3, 500))
    exact = neuron_offsets(x, y, angle, 0)
    coarse = neuron_offsets(x, y, angle, 0, float32_angles=True)
    assert 0 < np.abs(np.subtract(exact, coarse)).max() < 1e-5


@pytest.mark.parametrize("side", [68, 57])
def test_pixels_are_the_nearest_about_the_centre_and_none_outside(side):
    x = np.linspace(-side, side, 4001)
    row, column, inside = mask_pixel(x, np.zeros_like(x), side)
    assert inside[(np.abs(x) < side / 2 - 1e-9)].all()
    assert not inside[(x <= -side / 2 - 1) | (x >= side / 2)].any()
    nearest = np.floor(x + (side - 1) / 2 + 0.5)
    within = inside & (nearest >= 0)
    np.testing.assert_array_equal(column[within], nearest[within])
    assert (column[~inside] == 0).all()
    np.testing.assert_array_equal(row[inside], np.full(inside.sum(), side // 2))


def test_the_pixel_before_the_first_is_the_first_as_in_the_peer():
    half = 5.0
    column = mask_pixel(np.array([-0.5, -0.999, -1.0, np.nan]) - half, np.zeros(4), 10)
    assert column[2].tolist() == [True, True, False, False]
    assert column[1].tolist() == [0, 0, 0, 0]
