import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysom.engine import Geometry, polar_kernels
from skysom.engine.rings import rings
from skysom.engine.steering import base_angles, steer, steering, turned

geometries = st.builds(
    Geometry.derive, st.integers(4, 12), st.sampled_from([4, 8, 12, 60]), st.booleans(), st.just("circular")
)
bands = st.sampled_from([4, 8, 32])


def coefficients(flips, band, columns, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((flips, band, 2, columns)).astype(np.float32)


def read_only(*arrays):
    for array in arrays:
        array.flags.writeable = False
    return arrays


def plain(found, table):
    """Sum over m of Re(c_m exp(i m alpha)) at every transform, (T, columns) float64."""
    rotations = table.geometry.rotations
    wave = np.exp(1j * np.outer(2 * np.pi * np.arange(rotations) / rotations, table.orders))
    values = [(wave @ (part[:, 0] + 1j * part[:, 1].astype(float))).real for part in found]
    return np.concatenate(values)


@given(geometries, bands, st.integers(0, 40), st.integers(0, 2**31))
def test_values_at_every_transform(geometry, band, columns, seed):
    table = rings(geometry, band)
    found = coefficients(2 if geometry.flip else 1, band, columns, seed)
    values = turned(steer(found, table))
    assert values.shape == (geometry.transforms, columns)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, plain(found, table), atol=2e-5)


def test_base_angles_are_the_first_quarter():
    angles = base_angles(Geometry.derive(9, 12))
    np.testing.assert_allclose(np.degrees(angles), [0, 30, 60])


def test_any_array_namespace():
    xp, table = array_api_strict, rings(Geometry.derive(9, 8), 8)
    found = coefficients(2, 8, 5)
    strict = turned(steer(xp.asarray(found), table, xp=xp), xp=xp)
    np.testing.assert_allclose(np.asarray(strict), turned(steer(found, table)), atol=1e-5)


@given(geometries, st.integers(1, 5), st.sampled_from([1, 3, 32]), st.integers(0, 2**31))
def test_the_compiled_minimum_is_the_least_of_all_transforms(geometry, neurons, batch, seed):
    table, flips, bases = rings(geometry, 8), 2 if geometry.flip else 1, geometry.base_rotations
    steered = steer(coefficients(flips, 8, neurons * batch, seed), table)
    energies = np.random.default_rng(seed).random((8, bases, batch)).astype(np.float32) * 9
    best, transform = np.empty((neurons, batch), np.float32), np.empty((neurons, batch), np.int32)
    polar_kernels.best_turned(*read_only(steered, energies), 4 * bases, best, transform)
    norms = energies[: 4 * flips].reshape(-1, 1, batch)
    values = norms - 2 * turned(steered).reshape(4 * flips * bases, neurons, batch)
    np.testing.assert_allclose(best, values.min(axis=0), atol=2e-5)
    chosen = np.take_along_axis(values, transform[None].astype(int), axis=0)[0]
    np.testing.assert_allclose(chosen, best, atol=2e-5)


@given(geometries, st.integers(1, 5), st.integers(0, 2**31))
def test_every_few_base_rotations(geometry, step, seed):
    table, found = rings(geometry, 8), coefficients(2 if geometry.flip else 1, 8, 5, seed)
    np.testing.assert_allclose(steer(found, table, step), steer(found, table)[:, :, ::step], atol=2e-5)


@given(geometries, st.sampled_from([4, 8, 16]), st.integers(1, 40), st.integers(0, 2**31))
def test_the_scores_of_pairs_are_those_of_all_transforms(geometry, band, columns, seed):
    table, flips = rings(geometry, band), 2 if geometry.flip else 1
    rng = np.random.default_rng(seed)
    found = coefficients(flips, band, columns, seed)
    energies = rng.random((6, 8, geometry.base_rotations)).astype(np.float32) * 9
    images = rng.integers(0, 6, columns)
    values = turned(steer(found, table))
    out = np.full((columns, len(values)), np.nan, np.float32)
    own = np.ascontiguousarray(found.reshape(flips, 2 * band, columns).transpose(2, 0, 1))
    matrices = (np.ascontiguousarray(part.T) for part in steering(table))
    polar_kernels.scores_of_pairs(*read_only(own, *matrices, energies, images), out)
    norms = energies[images, : 4 * flips].reshape(columns, -1)
    np.testing.assert_allclose(out, norms - 2 * values.T, atol=4e-5)


@given(st.integers(1, 2), st.integers(1, 40), st.integers(0, 2**31))
def test_correlations_of_pairs_are_those_of_all(flips, rows, seed):
    rng, band, neurons, batch = np.random.default_rng(seed), 8, 3, 5
    own = rng.standard_normal((neurons, band, 2, rows), np.float32)
    images = rng.standard_normal((batch, band, 2, rows), np.float32)
    products = np.einsum("nmpj,bmqj->mpnqb", own, images)
    whole = np.empty((flips, band, 2, neurons * batch), np.float32)
    polar_kernels.correlate(np.ascontiguousarray(products), whole)
    unit, image = rng.integers(neurons, size=7), rng.integers(batch, size=7)
    out = np.empty((7, flips, 2 * band), np.float32)
    polar_kernels.correlate_pairs(*read_only(own, images), unit, image, out)
    wanted = whole[..., unit * batch + image].reshape(flips, 2 * band, 7).transpose(2, 0, 1)
    np.testing.assert_allclose(out, wanted, atol=1e-5 * rows)


@pytest.mark.parametrize("flips", [1, 2])
@pytest.mark.parametrize("columns", [1, 7, 64])
def test_correlations_are_products_with_conjugates(flips, columns):
    rng = np.random.default_rng(0)
    neuron, image = (rng.standard_normal((2, 8, columns)).astype(np.float32) for _ in range(2))
    # (order, part of the neuron, neuron, part of the image, image)
    products = np.einsum("imc,jmc->mjic", image, neuron).reshape(8, 2, 1, 2, columns)
    out = np.full((flips, 8, 2, columns), np.nan, np.float32)
    polar_kernels.correlate(*read_only(products), out)
    w, x = (part[0] + 1j * part[1] for part in (neuron, image))
    for found, wanted in zip(out, (w * x.conj(), (w * x).conj()), strict=False):
        np.testing.assert_allclose(found[:, 0], wanted.real, atol=2e-6)
        np.testing.assert_allclose(found[:, 1], wanted.imag, atol=2e-6)
