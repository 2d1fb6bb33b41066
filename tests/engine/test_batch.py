"""Batched training: the rule of search.md section 5, its fixed-point sums, and what they do not depend on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysom.engine import Cartesian, Geometry, Hexagonal, Neighbourhood, Som, train_batched, train_online
from skysom.engine.batch import (
    add_batch,
    check_batch,
    coefficients,
    empty_sums,
    fixed_point_scale,
    moved_weights,
    search_blocks,
)
from skysom.engine.errors import EngineError, ShapeError
from skysom.engine.exact import Search
from skysom.engine.transforms import transform

GENTLE = Neighbourhood("unity_gaussian", 1.5, 0.2)


def random_case(geometry, images, neurons, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    shape = (images, channels, geometry.image_side, geometry.image_side)
    weights = rng.random((neurons, channels, geometry.neuron_side, geometry.neuron_side), np.float32)
    # Sparse, as sources are, so that best transforms are well separated.
    return rng.random(shape, np.float32) ** 4, weights


def options(geometry):
    return {
        "rotations": geometry.rotations, "flip": geometry.flip,
        "region": geometry.region, "region_side": geometry.region_side,
    }  # fmt: skip


geometries = st.builds(
    lambda side, neuron_side, region, rotations, flip: Geometry.derive(
        side, rotations, flip, region, neuron_side, None if neuron_side is None else 3
    ),
    st.integers(3, 10),
    st.one_of(st.none(), st.integers(3, 16)),
    st.sampled_from(["quadratic", "circular"]),
    st.sampled_from([1, 4, 8, 12]),
    st.booleans(),
)


@given(
    geometries,
    st.integers(1, 3),
    st.sampled_from(["gaussian", "unity_gaussian"]),
    st.sampled_from([Cartesian(3, 2), Cartesian(2, 2, 2), Hexagonal(3), Cartesian(4, periodic=True)]),
    st.sampled_from(["affine", "kohonen"]),
    st.integers(1, 50),
)
def test_exact_equals_reference(geometry, channels, kind, lattice, mode, batch_size):
    images, weights = random_case(geometry, 40, lattice.size, channels)
    arguments = images, Som(weights, lattice), Neighbourhood(kind, 1.2, 0.2)
    both = [
        train_batched(*arguments, batch_size=batch_size, mode=mode, method=method, **options(geometry))
        for method in ("exact", "reference")
    ]
    np.testing.assert_array_equal(both[0].bmu, both[1].bmu)
    np.testing.assert_allclose(both[0].bmu_distance, both[1].bmu_distance, rtol=2e-6)
    np.testing.assert_allclose(both[0].som.weights, both[1].som.weights, rtol=0, atol=1e-6)


@given(geometries, st.sampled_from(["gaussian", "unity_gaussian", "mexican_hat"]))
def test_batches_of_one_are_online_training(geometry, kind):
    lattice = Cartesian(3, 2)
    images, weights = random_case(geometry, 20, lattice.size)
    neighbourhood, som = Neighbourhood(kind, 1.2, 0.2), Som(weights, lattice)
    batched = train_batched(images, som, neighbourhood, batch_size=1, **options(geometry))
    online = train_online(images, som, neighbourhood, **options(geometry))
    np.testing.assert_array_equal(batched.bmu, online.bmu)
    np.testing.assert_allclose(batched.som.weights, online.som.weights, rtol=0, atol=1e-6)


def test_an_affine_batch_is_its_updates_one_after_another():
    rng = np.random.default_rng(1)
    factors, bmu = GENTLE.factors(Cartesian(3, 2)).astype(float), rng.integers(0, 6, 25)
    images, weights = rng.normal(size=(25, 7)), rng.normal(size=(6, 7))
    found = coefficients(bmu, factors)
    moved = weights.copy()
    for image, unit in zip(images, bmu, strict=True):
        moved += factors[unit][:, None] * (image - moved)
    np.testing.assert_allclose(found.keep[:, None] * weights + found.move.T @ images, moved, rtol=1e-12)
    np.testing.assert_allclose(found.keep + found.move.sum(axis=0), 1, rtol=1e-12)


def test_a_kohonen_batch_is_a_step_to_the_weighted_mean():
    lattice = Cartesian(3, 2)
    neighbourhood = Neighbourhood("unity_gaussian", 0.5, 0.3, max_update_distance=1.0)
    factors, bmu = neighbourhood.factors(lattice), np.array([0, 0, 4])
    images = np.random.default_rng(2).normal(size=(3, 5))
    found = coefficients(bmu, factors, "kohonen", rate=0.25)
    f = factors[bmu].astype(float)
    for n in range(6):
        if f[:, n].sum() == 0:
            assert found.keep[n] == 1
            assert not found.move[:, n].any()
        else:
            assert found.keep[n] == 0.75
            np.testing.assert_allclose(found.move[:, n] @ images, 0.25 * (f[:, n] @ images) / f[:, n].sum())
    assert (found.keep == 1).any(), "no neuron is out of reach: the case tests nothing"


def test_the_classical_batch_map_takes_the_full_step():
    geometry, lattice = Geometry.derive(8, 8), Cartesian(3, 2)
    images, weights = random_case(geometry, 30, 6)
    neighbourhood = Neighbourhood("unity_gaussian", 0.9, 0.01)
    found = train_batched(
        images, Som(weights, lattice), neighbourhood, batch_size=30, mode="kohonen", **options(geometry)
    )
    match = search_blocks(Search(weights, geometry), images)
    f = neighbourhood.factors(lattice)[match.bmu].astype(float)
    for n in range(6):
        turned = np.stack([transform(x, int(t), geometry) for x, t in zip(images, match.transform[:, n], strict=True)])
        mean = np.tensordot(f[:, n], turned, 1) / f[:, n].sum()
        np.testing.assert_allclose(found.som.weights[n], mean, rtol=0, atol=2e-6)


@given(st.integers(0, 1000), st.lists(st.integers(0, 3), min_size=3, max_size=3))
def test_whoever_holds_a_block_the_map_is_the_same_bit_for_bit(seed, owners):
    geometry, lattice = Geometry.derive(7, 8, region="circular"), Cartesian(3, 2)
    images, weights = random_case(geometry, 80, 6, 2, seed)
    search, factors = Search(weights, geometry), GENTLE.factors(lattice)
    scale = fixed_point_scale(float(np.abs(images).max()), factors)
    whole = search_blocks(search, images)
    rule = coefficients(whole.bmu, factors)
    alone, sums = empty_sums(weights.shape), empty_sums(weights.shape)
    add_batch(alone, images, whole.transform, rule.move, geometry, scale)
    for owner in sorted(set(owners), reverse=True):
        mine = [block for block in range(3) if owners[block] == owner]
        part = empty_sums(weights.shape)
        for block in reversed(mine):
            rows = np.arange(32 * block, min(32 * block + 32, 80))
            found = Search(weights, geometry)(images[rows])
            own = coefficients(whole.bmu, factors, positions=rows)
            assert np.array_equal(own.move, rule.move[rows])
            add_batch(part, images[rows], found.transform, own.move, geometry, scale)
        sums += part
    assert np.array_equal(sums, alone)
    assert moved_weights(weights, rule.keep, sums, scale).any()


@pytest.mark.parametrize("peak", [0.0, 1e-30, 1.0, 3.0, 1e12])
def test_fixed_point_sums_neither_overflow_nor_lose_faint_pixels(peak):
    geometry = Geometry.derive(4, 1)
    images = np.full((3000, 1, 4, 4), peak, np.float32)
    images[:, :, 0, 0] *= np.float32(1e-6)
    factors = np.full((1, 1), 0.2, np.float32)
    rule = coefficients(np.zeros(3000, int), factors)
    sums, scale = empty_sums((1, 1, 4, 4)), fixed_point_scale(peak, factors)
    add_batch(sums, images, np.zeros((3000, 1), int), rule.move, geometry, scale)
    found = moved_weights(np.zeros((1, 1, 4, 4), np.float32), rule.keep, sums, scale)
    np.testing.assert_allclose(found[0], images[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "rate", "size", "mode", "words"),
    [
        ("mexican_hat", 0.2, 2, "affine", "mexican_hat .* affine batches need update factors between 0 and 1"),
        ("mexican_hat", 0.2, 2, "kohonen", "kohonen batches need factors and the rate between 0 and 1"),
        ("unity_gaussian", 1.5, 2, "affine", "factors from .* to 1.5"),
        ("unity_gaussian", 1.5, 2, "kohonen", "or a batch size of 1"),
        ("unity_gaussian", 0.2, 0, "affine", "the batch size is 0"),
        ("unity_gaussian", 0.2, 2, "mean", "the batch mode is 'mean'"),
    ],
)
def test_updates_that_cannot_be_composed_are_refused(kind, rate, size, mode, words):
    neighbourhood = Neighbourhood(kind, 1.0, rate)
    with pytest.raises(EngineError, match=words):
        check_batch(neighbourhood, neighbourhood.factors(Cartesian(3, 3)), size, mode)


def test_any_factor_may_be_used_online():
    neighbourhood = Neighbourhood("mexican_hat", 1.0, 3.0)
    check_batch(neighbourhood, neighbourhood.factors(Cartesian(3, 3)), 1, "affine")


def test_other_arrays_are_refused():
    with pytest.raises(ShapeError, match="NumPy"):
        train_batched([[1.0]], Som(np.zeros((1, 1, 4, 4)), Cartesian(1, 1)), GENTLE, batch_size=2)
