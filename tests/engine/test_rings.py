import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysom.engine import Geometry, polar_kernels
from skysom.engine.errors import GeometryError
from skysom.engine.rings import (
    BAND_LOSS,
    BAND_NEURONS,
    BANDS,
    COARSE_STEP,
    FINE_STEP,
    band_limit,
    basis,
    folded,
    neuron_spectra,
    ring_areas,
    rings,
    sampled_spectra,
    transformed,
)
from skysom.engine.transforms import transform


def geometry_or_none(image_side, neuron_side, region_side, region, rotations, flip, inner_side):
    try:
        inner = inner_side if region == "annular" else 0
        geometry = Geometry(image_side, neuron_side, region_side, region, rotations, flip, inner)
        _ = geometry.region_mask
    except GeometryError:
        return None
    return geometry


geometries = st.builds(
    geometry_or_none,
    st.integers(2, 24),
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from(["quadratic", "circular", "annular"]),
    st.sampled_from([4, 8, 12]),
    st.booleans(),
    st.integers(1, 12),
).filter(lambda g: g is not None)
bands = st.sampled_from([4, 8, 32])


def pictures(*shape, seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32) - np.float32(0.3)


def innermost(images):
    return np.ascontiguousarray(images.reshape(*images.shape[:2], -1).transpose(1, 2, 0))


def bilinear(image, row, column):
    """The image (H, H) between its pixels, 0 outside, float64; row and column of any shape."""
    last = len(image) - 1
    inside = (row >= 0) & (row <= last) & (column >= 0) & (column <= last)
    i, j = (np.clip(np.floor(part), 0, last - 1).astype(int) for part in (row, column))
    y, x = row - i, column - j
    image = image.astype(float)
    value = (1 - y) * ((1 - x) * image[i, j] + x * image[i, j + 1])
    value += y * ((1 - x) * image[i + 1, j] + x * image[i + 1, j + 1])
    return np.where(inside, value, 0)


def unfolded(images, table):
    """Samples (B, C, J, A) of every ring, float64."""
    angle = 2 * np.pi * np.arange(4 * table.band) / (4 * table.band)
    half = (images.shape[-1] - 1) / 2
    # A hair inside, so that a ring that touches the edge of the image is not cut by rounding of pi.
    row = half + np.round(table.radii[:, None] * np.sin(angle), 12)
    column = half + np.round(table.radii[:, None] * np.cos(angle), 12)
    return np.array([[bilinear(plane, row, column) for plane in image] for image in images])


@given(geometries, bands)
def test_rings_reach_from_the_centre_to_beyond_the_region(geometry, band):
    table = rings(geometry, band)
    y, x = np.nonzero(geometry.region_mask)
    radius = np.hypot(y - (geometry.neuron_side - 1) / 2, x - (geometry.neuron_side - 1) / 2)
    assert len(table) == len(table.radii)
    assert table.radii[-1] >= radius.max()
    assert np.all(np.diff(table.radii) >= FINE_STEP)
    assert np.all(np.diff(table.radii) <= COARSE_STEP)
    assert sorted(table.orders) == list(range(band))
    one, two, odd = table.groups
    assert not (table.orders[one] % 4).any()
    assert (table.orders[two] % 4 == 2).all()
    assert (table.orders[odd] % 2 == 1).all()
    # Every pixel of the region once, in the cell between the rings around it.
    assert sorted(table.pixels) == np.flatnonzero(geometry.region_mask).tolist()
    assert (table.cells[0], table.cells[-1]) == (0, len(table.pixels))
    rows, columns = np.divmod(table.pixels, geometry.neuron_side)
    radius = np.hypot(rows - (geometry.neuron_side - 1) / 2, columns - (geometry.neuron_side - 1) / 2)
    cell = np.repeat(np.arange(len(table)), np.diff(table.cells))
    assert np.all((radius >= table.radii[cell]) | (cell == 0))
    assert np.all(radius <= table.radii[np.minimum(cell + 1, len(table) - 1)] + 1e-12)


@given(geometries, bands)
def test_the_blend_is_exact_for_cubics(geometry, band):
    table = rings(geometry, band)
    cell = np.repeat(np.arange(len(table)), np.diff(table.cells))
    rows, columns = np.divmod(table.pixels, geometry.neuron_side)
    radius = np.hypot(rows - (geometry.neuron_side - 1) / 2, columns - (geometry.neuron_side - 1) / 2)
    kept = cell + 2 < len(table)  # the last ones would need rings that are not there
    nodes = np.concatenate([[-table.radii[0]], table.radii])[cell[kept, None] + np.arange(4)]
    for power in range(4):
        np.testing.assert_allclose((table.blend[kept] * nodes**power).sum(axis=1), radius[kept] ** power, atol=1e-7)


@given(geometries, bands, st.booleans(), st.sampled_from([1, 3, 32]), st.integers(1, 3))
def test_compiled_samples_equal_the_portable_form(geometry, band, power, batch, channels):
    table = rings(geometry, band)
    images = pictures(batch, channels, geometry.image_side, geometry.image_side)
    inner = innermost(images)
    inner.flags.writeable = False  # as shards from an object store are
    out = np.full((4, band, channels * len(table), batch), np.nan, np.float32)
    polar_kernels.sample_rings(inner, *table.taps, geometry.image_side, power, out)
    np.testing.assert_allclose(out, folded(images, table, power=power), atol=2e-6)


@given(geometries, bands)
def test_coefficients_are_those_of_the_samples(geometry, band):
    table = rings(geometry, band)
    images = pictures(2, 2, geometry.image_side, geometry.image_side)
    found = transformed(folded(images, table), table)
    wanted = np.fft.rfft(unfolded(images, table), axis=3)[..., table.orders] / (4 * band)  # (B, C, J, M)
    wanted = wanted.reshape(2, -1, band).transpose(2, 1, 0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], wanted.real, atol=2e-6)
    np.testing.assert_allclose(found[:, 1], wanted.imag, atol=2e-6)


@given(geometries, bands, st.integers(1, 3))
def test_neuron_spectra_are_the_adjoint_of_the_interpolation_between_rings(geometry, band, channels):
    """Sum over m of products of coefficients = sum over the region of f w, with f cubic between the rings."""
    table = rings(geometry, band)
    images = pictures(2, channels, geometry.image_side, geometry.image_side)
    weights = pictures(3, channels, geometry.neuron_side, geometry.neuron_side, seed=1)
    coefficients = transformed(folded(images, table), table).astype(float)
    products = np.einsum("mpnk,mpkb->nb", neuron_spectra(weights, table).astype(float), coefficients)
    # The rings as Fourier series below the band, at the angle of each pixel; before the first its own other side,
    # beyond the last nothing.
    series = (coefficients[:, 0] + 1j * coefficients[:, 1]).transpose(2, 1, 0)  # (B, C*J, M)
    series = series.reshape(2, channels, len(table), band) * np.where(table.orders == 0, 1, 2)
    f = np.zeros((2, channels, len(table.pixels)))
    cell = np.repeat(np.arange(len(table)), np.diff(table.cells))
    for p, (j, angle) in enumerate(zip(cell, table.angle, strict=True)):
        for a, ring in enumerate(range(j - 1, j + 3)):
            if ring < len(table):
                wave = np.exp(1j * table.orders * (angle + np.pi * (ring < 0)))
                f[..., p] += table.blend[p, a] * (series[:, :, max(ring, 0)] * wave).real.sum(axis=-1)
    inside = weights.reshape(3, channels, -1)[..., table.pixels].astype(float)
    wanted = np.einsum("bcp,ncp->nb", f, inside)
    size = np.sqrt((inside**2).sum() * (f**2).sum()) + 1e-6
    np.testing.assert_allclose(products, wanted, atol=2e-6 * size)


@given(geometries, bands)
def test_ring_areas_add_up_to_the_disc_they_cover(geometry, band):
    table = rings(geometry, band)
    areas = ring_areas(table)
    assert areas.shape == table.radii.shape
    assert (areas > 0).all()
    last = (table.radii[-1] - table.radii[-2]) / 2 if len(table) > 1 else table.radii[0] / 2
    assert areas.sum() == pytest.approx(np.pi * (table.radii[-1] + last) ** 2)


@given(geometries.filter(lambda g: g.neuron_side > 1), bands, st.integers(1, 3))
def test_sampled_spectra_are_integrals_over_rings(geometry, band, channels):
    """Sum over m of products = sum over rings, by area, of the mean over angles of image and neuron below the band."""
    table = rings(geometry, band)
    images = pictures(2, channels, geometry.image_side, geometry.image_side)
    weights = pictures(3, channels, geometry.neuron_side, geometry.neuron_side, seed=1)
    coefficients = transformed(folded(images, table), table).astype(float)
    own = sampled_spectra(weights, table)
    assert own.shape == (band, 2, 3, channels * len(table))
    products = np.einsum("mpnk,mpkb->nb", own.astype(float), coefficients)

    def below_the_band(pictures):
        waves = np.fft.rfft(unfolded(pictures, table), axis=3)
        waves[..., band:] = 0
        return np.fft.irfft(waves, n=4 * band, axis=3)

    both = np.einsum("ncja,bcja->nbj", below_the_band(weights * geometry.region_mask), below_the_band(images))
    wanted = both @ ring_areas(table) / (4 * band)
    size = ring_areas(table).sum() * channels
    np.testing.assert_allclose(products, wanted, atol=2e-6 * size)


@pytest.mark.parametrize("region", ["quadratic", "circular", "annular"])
def test_products_on_rings_are_nearly_those_of_pixels(region):
    geometry = Geometry.derive(40, 8, region=region, inner_side=10 if region == "annular" else 0)
    y, x = np.mgrid[:40, :40] - 19.5
    image = np.exp(-((x - 4) ** 2) / 60 - (y + 2) ** 2 / 18).astype(np.float32)[None]
    turned = transform(image, 1, geometry)
    table = rings(geometry, 32)
    coefficients = transformed(folded(image[None], table), table)
    own = neuron_spectra(turned[None], table)
    product = np.einsum("mpnk,mpkb->nbm", own.astype(float), coefficients.astype(float))[0, 0]
    other = np.einsum("mnk,mkb->m", own[:, 1].astype(float), coefficients[:, 0].astype(float))
    other -= np.einsum("mnk,mkb->m", own[:, 0].astype(float), coefficients[:, 1].astype(float))
    turn = 2 * np.pi / 8 * table.orders
    found = (product * np.cos(turn)).sum() - (other * np.sin(turn)).sum()
    wanted = (turned[:, geometry.region_mask].astype(float) ** 2).sum()
    assert found == pytest.approx(wanted, rel=3e-3)


def test_any_array_namespace():
    xp, geometry = array_api_strict, Geometry.derive(9, 8, region="circular")
    table, images = rings(geometry, 8), pictures(2, 2, 9, 9)
    strict = transformed(folded(xp.asarray(images), table, xp=xp), table, xp=xp)
    np.testing.assert_allclose(np.asarray(strict), transformed(folded(images, table), table), atol=1e-6)


def test_no_images():
    table = rings(Geometry.derive(9, 8), 8)
    assert transformed(folded(np.zeros((0, 2, 9, 9), np.float32), table), table).shape == (8, 2, 2 * len(table), 0)


@pytest.mark.parametrize("band", [0, -4, 3, 6, 33])
def test_bands_that_cannot_be(band):
    with pytest.raises(GeometryError, match=rf"{band}.*multiple of 4"):
        rings(Geometry.derive(9, 8), band)


def test_fourier_matrices_have_orthogonal_rows():
    for part in basis(16):
        rows = part[np.abs(part).sum(axis=1) > 1e-6].astype(float)
        product = rows @ rows.T
        np.testing.assert_allclose(product, np.diag(np.diag(product)), atol=1e-7)


def waves(order, side, count=1):
    """Neurons whose energy lies at one order."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    radius = np.hypot(y, x) / side
    plane = np.cos(order * np.arctan2(y, x)) * np.exp(-((radius - 0.35) ** 2) / 0.005)
    return np.tile(plane.astype(np.float32), (count, 1, 1, 1))


def test_the_band_grows_with_the_detail_of_the_neurons_and_says_what_it_loses():
    geometry = Geometry.derive(100, 8, neuron_side=141)
    found = [band_limit(waves(order, 141), geometry) for order in (0, 20, 40, 60, 90)]
    assert [band for band, _ in found] == sorted(band for band, _ in found)
    assert [band for band, _ in found] == [min(b for b in BANDS if b > order) for order in (0, 20, 40, 60, 90)]
    assert all(0 <= lost <= BAND_LOSS for _, lost in found)
    # One part in ten of the energy at order 60, some ten pixels a wave: interpolation damps little of it.
    geometry = Geometry.derive(200, 8, neuron_side=281)
    mixed = waves(3, 281) + np.float32(np.sqrt(0.1 / 0.9)) * waves(60, 281)
    loose, lost = band_limit(mixed, geometry, loss=0.2)
    assert loose == BANDS[0]
    assert lost == pytest.approx(0.1, rel=0.1)
    strict, lost = band_limit(mixed, geometry)
    assert strict == 64
    assert lost <= BAND_LOSS
    bands = [band_limit(mixed, geometry, loss=loss)[0] for loss in (0.5, 0.2, 0.05, 1e-3, 1e-6)]
    assert bands == sorted(bands)


@pytest.mark.parametrize("neuron_side", [1, 2, 5])
def test_the_band_of_tiny_and_of_empty_neurons(neuron_side):
    geometry = Geometry(6, neuron_side, 1, rotations=8)
    for weights in (np.zeros((2, 1, neuron_side, neuron_side), np.float32), pictures(2, 1, neuron_side, neuron_side)):
        band, lost = band_limit(weights, geometry)
        assert band in BANDS
        assert 0 <= lost <= BAND_LOSS


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_neuron_that_is_not_finite_does_not_count_in_the_band(bad):
    geometry = Geometry.derive(30, 8)
    weights = waves(3, geometry.neuron_side, 3)
    wanted = band_limit(weights[:2], geometry)
    weights[2, 0, 4, 4] = bad
    found = band_limit(weights, geometry)
    assert found == (wanted[0], pytest.approx(wanted[1], rel=1e-5))


def test_the_band_of_a_large_map_is_taken_from_some_of_its_neurons():
    geometry = Geometry.derive(30, 8)
    weights = np.concatenate([waves(3, 43, 1), waves(60, 43, 1)] * BAND_NEURONS)
    assert band_limit(weights, geometry) == band_limit(weights[:: len(weights) // BAND_NEURONS], geometry)
