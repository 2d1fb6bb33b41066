import gc
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from skysom.engine import Cartesian, Hexagonal, Neighbourhood
from skysom.engine.errors import EngineError, NeighbourhoodError, ShapeError
from skysom.engine.feature_tools import cluster_neurons, row_labels, sample_rows, standardisation
from skysom.engine.feature_training import (
    FeatureSums,
    feature_memory,
    feature_sums,
    moved_map,
    sigma_schedule,
    train_features,
)
from skysom.engine.features import FeatureSom, match_features


def brute_force(rows, weights, factors):
    """One epoch of the batch map in float64, row by row."""
    numerator, denominator = np.zeros(weights.shape), np.zeros(len(weights))
    for x in rows.astype(float):
        if np.isfinite(x).all():
            own = factors[((x - weights) ** 2).sum(axis=1).argmin()].astype(float)
            numerator += own[:, None] * x
            denominator += own
    moved = numerator / np.where(denominator > 0, denominator, 1)[:, None]
    return np.where(denominator[:, None] > 0, moved, weights)


@st.composite
def trainings(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    periodic = draw(st.booleans())
    lattice = draw(
        st.sampled_from([Cartesian(4, 3, 2, periodic), Cartesian(5, 5, 1, periodic), Hexagonal(5, periodic)])
    )
    rows, width = draw(st.integers(0, 300)), draw(st.integers(1, 12))
    offset, scale = 10.0 ** draw(st.integers(0, 6)), 10.0 ** rng.uniform(-2, 4, width)
    vectors = (offset + scale * rng.standard_normal((rows, width))).astype(np.float32)
    weights = (offset + scale * rng.standard_normal((lattice.size, width))).astype(np.float32)
    vectors[rng.random(rows) < 0.05, 0] = np.nan
    limit = draw(st.sampled_from([None, 1.5]))
    kind = draw(st.sampled_from(["gaussian", "unity_gaussian"]))
    return vectors, FeatureSom(weights, lattice), Neighbourhood(kind, draw(st.floats(0.3, 4)), 0.7, limit)


@given(trainings())
def test_an_epoch_is_the_brute_force_one(case):
    vectors, som, neighbourhood = case
    sums = feature_sums(vectors, som)
    found = moved_map(som, sums, neighbourhood)
    wanted = brute_force(vectors, som.weights.astype(float), neighbourhood.factors(som.lattice))
    assert found.weights.dtype == np.float32
    np.testing.assert_allclose(found.weights, wanted, rtol=1e-6, atol=0)
    bad = int((~np.isfinite(vectors).all(axis=1)).sum())
    assert sums.invalid == bad
    assert sums.counts.sum() == len(vectors) - bad


@given(trainings(), st.data())
def test_no_bit_depends_on_order_chunks_or_workers(case, data):
    vectors, som, neighbourhood = case
    schedule = [neighbourhood, Neighbourhood("gaussian", 0.5)]
    order = np.random.default_rng(data.draw(st.integers(0, 99))).permutation(len(vectors))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(vectors)), max_size=5)))
    chunks = np.split(vectors[order], cuts)
    found, wanted = train_features(lambda: iter(chunks), som, schedule), train_features(vectors, som, schedule)
    assert found.som.weights.tobytes() == wanted.som.weights.tobytes()
    np.testing.assert_array_equal(found.quantisation_error, wanted.quantisation_error)
    np.testing.assert_array_equal(found.counts, wanted.counts)
    assert found.invalid == wanted.invalid
    whole, parts = feature_sums(vectors, som), [feature_sums(chunk, som) for chunk in chunks]
    together = sum(parts[1:], start=parts[0])
    for name in ("limbs", "distance_limbs", "counts", "invalid"):
        np.testing.assert_array_equal(getattr(together, name), getattr(whole, name))


def test_the_quantisation_error_is_the_mean_distance():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1000, 4), np.float32)
    vectors[7] = np.nan
    som = FeatureSom(vectors[100:106], Cartesian(3, 2))
    wanted = np.nanmean(match_features(vectors, som).distance.astype(float))
    assert feature_sums(vectors, som).quantisation_error == pytest.approx(wanted, rel=1e-14)
    assert np.isnan(feature_sums(vectors[7:8], som).quantisation_error)


def test_a_neuron_that_no_row_reaches_stays():
    som = FeatureSom(np.array([[0], [1], [10]], np.float32), Cartesian(3))
    near = Neighbourhood("unity_gaussian", 1.0, 1.0, max_update_distance=0.5)
    found = train_features(np.array([[-1], [3], [np.nan]], np.float32), som, [near])
    np.testing.assert_array_equal(found.som.weights[:, 0], [-1, 3, 10])
    np.testing.assert_array_equal(found.counts, [1, 1, 0])
    assert found.invalid == 1
    empty = train_features(np.zeros((0, 1), np.float32), som, [near, near])
    np.testing.assert_array_equal(empty.som.weights, som.weights)


def test_five_clumps_are_found():
    rng = np.random.default_rng(3)
    truth = np.repeat(np.arange(5), [4000, 2000, 1000, 500, 250])
    rows = (8 * rng.standard_normal((5, 5))[truth] + rng.standard_normal((len(truth), 5))).astype(np.float32)
    rows = standardisation(rows)(rows)
    start = FeatureSom(sample_rows(rows, 64, seed=1), Cartesian(8, 8))
    seen = []
    trained = train_features(
        rows, start, sigma_schedule(3.0, 0.3, 20), callback=lambda epoch, sums: seen.append((epoch, sums.counts.sum()))
    )
    assert seen == [(epoch, len(rows)) for epoch in range(20)]
    errors = trained.quantisation_error
    assert all(later < 1.05 * earlier for earlier, later in pairwise(errors[2:]))
    match = match_features(rows, trained.som)
    labels = row_labels(cluster_neurons(trained.som, 5, counts=trained.counts), match.bmu)
    assert adjusted_rand_score(truth, labels) > 0.95


def test_sigma_falls_linearly():
    assert [n.sigma for n in sigma_schedule(5, 1, 5)] == [5, 4, 3, 2, 1]
    assert sigma_schedule(2, 1, 2, "gaussian")[0] == Neighbourhood("gaussian", 2.0, 1.0)
    assert sigma_schedule(2, 1, 0) == []


def test_what_is_refused():
    som = FeatureSom(np.zeros((4, 3), np.float32), Cartesian(2, 2))
    rows, two = np.ones((5, 3), np.float32), sigma_schedule(2, 1, 2)
    with pytest.raises(EngineError, match="can be read once"):
        train_features(iter([rows]), som, two)
    assert feature_sums(iter([rows]), som).counts.sum() == 5
    once = iter([rows])
    with pytest.raises(EngineError, match="epoch 1 met 0 finite rows, the one before 5"):
        train_features(lambda: once, som, two)
    with pytest.raises(ShapeError, match="the map has 3 features"):
        train_features(rows[:, :2], som, two)
    with pytest.raises(NeighbourhoodError, match="mexican_hat has factors down to -"):
        train_features(rows, som, [Neighbourhood("mexican_hat", 1.0)])
    many = FeatureSums(np.zeros((32, 1, 1), np.int64), np.zeros((32, 1, 1), np.int64), np.array([2**32 + 1]))
    with pytest.raises(EngineError, match="4294967297 rows"):
        many.sums()


@pytest.mark.parametrize(
    ("lattice", "features", "rows"),
    [
        (Cartesian(15, 15), 5, 100_000),
        (Cartesian(4, 4), 3, 20_000),
        (Cartesian(8, 8), 40, 20_000),
        (Cartesian(20, 20, periodic=True), 2, 20_000),
        (Cartesian(6, 6, 6), 200, 20_000),
        (Hexagonal(15), 5, 20_000),
        (Hexagonal(15, periodic=True), 5, 20_000),
    ],
)
def test_training_stays_within_its_projection(lattice, features, rows):
    table = np.random.default_rng(0).standard_normal((rows, features))
    som, schedule = FeatureSom(table[: lattice.size].astype(np.float32), lattice), sigma_schedule(2, 1, 3)
    train_features(table[:100], som, schedule)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        train_features(table, som, schedule)
        measured = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert measured <= feature_memory(lattice, features) <= 1.2 * measured
