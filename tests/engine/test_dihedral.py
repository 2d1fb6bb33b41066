import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysom.engine import Geometry, dihedral, kernels
from skysom.engine.blocks import BLOCK_IMAGES, image_innermost
from skysom.engine.dihedral import CHARACTERS, MATRICES, PRODUCT
from skysom.engine.errors import GeometryError
from skysom.engine.exact import sample, sample_one
from skysom.engine.transforms import transform_stack


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
    st.integers(2, 9),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from(["quadratic", "circular", "annular"]),
    st.sampled_from([1, 4, 8, 12]),
    st.booleans(),
    st.integers(1, 8),
).filter(lambda g: g is not None)


def pictures(*shape, seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def test_group_table_and_representations_agree():
    for g in range(8):
        assert sorted(PRODUCT[g]) == list(range(8))
        for h in range(8):
            assert np.array_equal(MATRICES[g] @ MATRICES[h], MATRICES[PRODUCT[g, h]])
            assert np.array_equal(CHARACTERS[:, g] * CHARACTERS[:, h], CHARACTERS[:, PRODUCT[g, h]])


def test_representations_are_orthogonal():
    rows = np.concatenate([CHARACTERS, np.sqrt(2) * MATRICES.reshape(8, 4).T])
    np.testing.assert_allclose(rows @ rows.T, 8 * np.eye(8), atol=1e-12)


@given(geometries)
def test_orbits_hold_every_pixel_of_the_region_once(geometry):
    table = dihedral.orbits(geometry)
    share = np.zeros(geometry.neuron_side**2)
    np.add.at(share, table.pixels, table.weight[:, None] * np.ones(8))
    mask = geometry.region_mask.reshape(-1)
    np.testing.assert_allclose(share[mask], 1)
    assert np.array_equal(table.inside, mask[table.pixels])
    assert table.inside[: table.complete].all()
    assert not table.inside[table.complete :].all(axis=1).any()


def test_orbits_of_the_survey_case():
    table = dihedral.orbits(Geometry.derive(150, 4))
    assert table.complete == 1431
    assert len(table) == 1485


@given(geometries, st.integers(1, 3))
def test_products_and_norms_are_those_of_the_transforms(geometry, channels):
    image = pictures(2, channels, geometry.image_side, geometry.image_side)
    weights = pictures(3, channels, geometry.neuron_side, geometry.neuron_side, seed=1)
    table, base = dihedral.orbits(geometry), geometry.base_rotations
    spectra, norms = dihedral.image_spectra(image, table, 0, base)
    values = dihedral.inverse(*dihedral.products(dihedral.neuron_spectra(weights, table), spectra))
    values = values.reshape(8, 3, base, 2)
    region = weights[..., geometry.region_mask].astype(float)
    for b in range(2):
        stack = transform_stack(image[b], geometry)[..., geometry.region_mask].astype(float)
        for h in geometry.elements:
            for k in range(base):
                turned = stack[geometry.transform_index(h, k)]
                assert norms[h, k, b] == pytest.approx((turned**2).sum(), rel=1e-6)
                expected = -2 * (region * turned).sum(axis=(1, 2))
                np.testing.assert_allclose(values[h, :, k, b], expected, rtol=1e-5, atol=1e-6)


@given(geometries, st.integers(1, 2), st.booleans())
def test_compiled_sampling_equals_the_portable_form(geometry, channels, subtracted):
    images = pictures(BLOCK_IMAGES, channels, geometry.image_side, geometry.image_side)
    table, base = dihedral.orbits(geometry), geometry.base_rotations
    common = pictures(1, channels, len(table), 1)[0, ..., 0] if subtracted else None
    fast, fast_norms = sample(image_innermost(images), table, slice(base // 2, base), common)
    plain, plain_norms = dihedral.image_spectra(images, table, base // 2, base, common)
    for one, other in zip(fast, plain, strict=True):
        np.testing.assert_allclose(one, other, atol=4e-6)
    np.testing.assert_allclose(fast_norms, plain_norms, rtol=1e-6, atol=1e-6 if subtracted else 0)


@given(geometries, st.integers(1, 2))
def test_sampling_one_image_equals_the_portable_form(geometry, channels):
    images = pictures(1, channels, geometry.image_side, geometry.image_side)
    table, base = dihedral.orbits(geometry), geometry.base_rotations
    common = pictures(1, channels, len(table), 1)[0, ..., 0]
    plain, plain_norms = dihedral.image_spectra(images, table, 0, base, common)
    fast, norms = sample_one(images[0], table, common)
    for one, other in zip(fast, plain, strict=True):
        np.testing.assert_allclose(one, other, atol=4e-6)
    np.testing.assert_allclose(norms, plain_norms, rtol=1e-6, atol=1e-6)  # small differences of numbers near 1


@given(geometries)
def test_compiled_neuron_spectrum_equals_the_portable_form(geometry):
    weights = pictures(2, 2, geometry.neuron_side, geometry.neuron_side)
    table = dihedral.orbits(geometry)
    plain = dihedral.neuron_spectra(weights, table)
    scale = table.inside * table.weight[:, None] * np.float32(-0.25)
    scalars, matrices = np.empty_like(plain.scalars), np.empty((2, 2, 2 * len(table), 2), np.float32)
    for n in range(2):
        kernels.neuron_spectrum(weights[n].reshape(2, -1), table.pixels, scale, scalars, matrices, n)
    np.testing.assert_allclose(scalars, plain.scalars, atol=2e-6)
    np.testing.assert_allclose(matrices.reshape(4, -1), plain.matrices, atol=2e-6)


def test_array_api_strict_gives_the_same_spectra():
    xp, geometry = array_api_strict, Geometry.derive(7, 8, region="circular")
    table = dihedral.orbits(geometry)
    images, weights = pictures(2, 2, 7, 7), pictures(3, 2, 10, 10)
    strict = dihedral.products(
        dihedral.neuron_spectra(xp.asarray(weights), table, xp=xp),
        dihedral.image_spectra(xp.asarray(images), table, 0, 2, xp=xp)[0],
        xp=xp,
    )
    plain = dihedral.products(dihedral.neuron_spectra(weights, table), dihedral.image_spectra(images, table, 0, 2)[0])
    for one, other in zip(strict, plain, strict=True):
        np.testing.assert_allclose(np.asarray(one), other, rtol=1e-5, atol=1e-6)
