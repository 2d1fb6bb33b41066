import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysom.engine import Geometry, dihedral, polar_kernels
from skysom.engine.certified import ENERGY_ERROR
from skysom.engine.energies import energies, lag_products
from skysom.engine.errors import GeometryError
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
    st.integers(2, 16),
    st.one_of(st.integers(1, 24), st.sampled_from([40, 51])),
    st.integers(1, 30),
    st.sampled_from(["quadratic", "circular", "annular"]),
    st.sampled_from([8, 12, 24]),
    st.booleans(),
    st.integers(1, 12),
).filter(lambda g: g is not None)


def pictures(kind, *shape, seed=0):
    images = np.random.default_rng(seed).random(shape).astype(np.float32)
    return images * 2 - 1 if kind == "signed" else images


def innermost(images):
    return np.ascontiguousarray(images.reshape(*images.shape[:2], -1).transpose(1, 2, 0))


def turned_energies(images, geometry):
    """(8, R/4 - 1, B) as the certified search adds them up; inputs read-only, as shards of an object store are."""
    table, orbits, inner = energies(geometry), dihedral.orbits(geometry), innermost(images)
    inner.flags.writeable = False
    norms = np.zeros((8, geometry.base_rotations - 1, len(images))) + table.norms(*lag_products(images, table))
    patterns, pattern = orbits.partial
    polar_kernels.partial_norms(
        inner, *(part[1:] for part in orbits.taps), orbits.weight, orbits.complete, pattern, patterns,
        dihedral.PRODUCT, geometry.image_side, norms,
    )  # fmt: skip
    return norms


def assert_norms_of_the_turned_images(geometry, images):
    found = turned_energies(images, geometry)
    _, wanted = dihedral.image_spectra(images, dihedral.orbits(geometry), 1, geometry.base_rotations)
    # Rounding is relative to the squares that are added, some of which cancel where the image has both signs.
    size = (images.astype(float) ** 2).sum(axis=(1, 2, 3))
    cancels = 0 if images.min() >= 0 else 1e-6 * size
    np.testing.assert_array_less(np.abs(found - wanted), 1e-5 * wanted + cancels + 1e-12)


@given(geometries, st.sampled_from(["positive", "signed"]), st.integers(1, 3), st.sampled_from([1, 3]))
def test_energies_are_the_norms_of_the_turned_images(geometry, kind, channels, batch):
    side = geometry.image_side
    assert_norms_of_the_turned_images(geometry, pictures(kind, batch, channels, side, side))


@pytest.mark.parametrize("kind", ["positive", "signed"])
@pytest.mark.parametrize(
    "geometry",
    [
        Geometry.derive(40, 60),
        Geometry.derive(33, 24, region="circular"),
        Geometry.derive(32, 24, region="annular", inner_side=9),
        Geometry(40, 7, 5, "quadratic", 12),  # far fewer neuron pixels than image pixels
        Geometry(6, 60, 50, "circular", 12),  # most of the region lies outside the image
        Geometry(9, 12, 1, "quadratic", 16),  # one pixel beside the centre: no orbit is complete
        Geometry(9, 13, 1, "quadratic", 16),  # the centre
        Geometry(2, 2, 2, "quadratic", 8),
    ],
)
def test_energies_of_special_geometries(geometry, kind):
    assert_norms_of_the_turned_images(geometry, pictures(kind, 2, 2, geometry.image_side, geometry.image_side))


@pytest.mark.parametrize("kind", ["a pixel", "a pixel in a corner", "very uneven"])
@pytest.mark.parametrize("geometry", [Geometry.derive(64), Geometry.derive(150, region="circular")])
def test_the_error_allowed_for_is_more_than_that_of_sharp_images(geometry, kind):
    rng, side = np.random.default_rng(0), geometry.image_side
    images = rng.normal(0, 0.01, (4, 1, side, side)).astype(np.float32)
    near = (side // 3, 2 * side // 3) if kind == "a pixel" else (int(0.13 * side), int(0.13 * side) + 6)
    images[np.arange(4), 0, *rng.integers(*near, (2, 4))] = 1e3
    if kind == "very uneven":
        images = np.exp(4 * rng.standard_normal(images.shape)).astype(np.float32)
    found = turned_energies(images, geometry)
    _, wanted = dihedral.image_spectra(images, dihedral.orbits(geometry), 1, geometry.base_rotations)
    error = np.abs(found - wanted).max(axis=(0, 1)) / wanted.max(axis=(0, 1))
    assert error.max() < ENERGY_ERROR / 2  # of either of two candidates


def test_a_region_without_a_complete_orbit_needs_no_product():
    geometry = Geometry(9, 12, 1, "quadratic", 16)
    assert dihedral.orbits(geometry).complete == 0
    assert energies(geometry).first.shape == (0, 8)
    for products in lag_products(pictures("signed", 3, 1, 9, 9), energies(geometry)):
        assert products.shape == (0, 3)


def test_interpolation_damps_noise_less_near_the_quarter_turns():
    """|T x|^2 of white noise over |x|^2 falls from 1 (f = 0) to 4/9, the mean of ((1 - f)^2 + f^2)^2 over all f."""
    # Even sides: the pixels of image and neuron coincide at angle 0.
    geometry = Geometry.derive(64, 360, neuron_side=92, region_side=44)
    noise = np.random.default_rng(0).standard_normal((8, 1, 64, 64)).astype(np.float32)
    found = turned_energies(noise, geometry)[0].mean(axis=1) / geometry.region_side**2
    moved = 22 * np.sin(np.radians(1))  # pixels at most, by one degree
    np.testing.assert_allclose(found[[0, -1]], (1 - moved + 2 / 3 * moved**2) ** 2, rtol=0.02)
    assert found[20:70].mean() == pytest.approx(4 / 9, abs=0.02)
    wanted = [(transform(image, 7, geometry)[:, geometry.region_mask] ** 2).sum() for image in noise]
    assert found[6] == pytest.approx(np.mean(wanted) / geometry.region_side**2, rel=1e-5)


@given(geometries)
def test_every_product_is_of_neighbours_with_its_quarter_turns_and_mirror_images(geometry):
    table, side = energies(geometry), geometry.image_side
    for q in range(8):
        rows = np.abs(table.first[:, q] // side - table.second[:, q] // side)
        columns = np.abs(table.first[:, q] % side - table.second[:, q] % side)
        assert max(rows.max(initial=0), columns.max(initial=0)) <= 1
    assert np.isfinite(table.even).all()
    assert (np.abs(table.odd) <= table.even).all()
    # A turned image has the same products.
    image = pictures("signed", 1, 2, side, side)
    turned = np.ascontiguousarray(np.rot90(image, axes=(2, 3)))
    np.testing.assert_allclose(lag_products(image, table), lag_products(turned, table), atol=4e-6)
    # A mirrored image changes the sign of the differences.
    sums, differences = lag_products(image, table)
    mirrored, opposite = lag_products(np.ascontiguousarray(image[:, :, ::-1]), table)
    np.testing.assert_allclose(mirrored, sums, atol=4e-6)
    np.testing.assert_allclose(opposite, -differences, atol=4e-6)


@given(geometries, st.sampled_from([1, 3, 32]), st.integers(1, 3))
def test_compiled_products_equal_the_portable_form(geometry, batch, channels):
    images, table = pictures("signed", batch, channels, geometry.image_side, geometry.image_side), energies(geometry)
    inner = innermost(images)
    inner.flags.writeable = False
    sums, differences = np.full((2, len(table.first), batch), np.nan, np.float32)
    polar_kernels.lag_sums(inner, table.first, table.second, sums, differences)
    np.testing.assert_allclose((sums, differences), lag_products(images, table), atol=4e-6)


def test_any_array_namespace():
    xp, table = array_api_strict, energies(Geometry.derive(9, 12, region="circular"))
    images = pictures("signed", 2, 2, 9, 9)
    strict = lag_products(xp.asarray(images), table, xp=xp)
    for found, wanted in zip(strict, lag_products(images, table), strict=True):
        np.testing.assert_allclose(np.asarray(found), wanted, atol=2e-6)
    norms = table.norms(*strict, xp=xp)
    np.testing.assert_allclose(np.asarray(norms), table.norms(*lag_products(images, table)), rtol=1e-5, atol=2e-6)
