import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysom.engine import Cartesian, Hexagonal
from skysom.engine.errors import EngineError, ShapeError
from skysom.engine.feature_tools import (
    Scaling,
    cluster_neurons,
    pca_plane,
    row_labels,
    sample_rows,
    standardisation,
    topographic_error,
)
from skysom.engine.features import PIECE_ROWS, FeatureSom


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 299), max_size=4))
def test_standardised_rows_have_mean_0_and_deviation_1(seed, cuts):
    rng = np.random.default_rng(seed)
    offset, scale = 10.0 ** rng.uniform(-3, 6, (2, 4))
    rows = offset + scale * rng.standard_normal((300, 4))
    rows[:, 3] = 0.1
    rows[rng.random(300) < 0.1, 1] = np.nan
    good = rows[np.isfinite(rows).all(axis=1)]
    found = standardisation(rows)
    np.testing.assert_allclose(found.center, good.mean(axis=0), rtol=1e-13, atol=1e-13 * scale.max())
    np.testing.assert_allclose(found.scale[:3], good.std(axis=0)[:3], rtol=1e-7)
    assert found.scale[3] == 1
    scaled = found(good)
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled[:, 3], 0)
    np.testing.assert_allclose(found.restore(scaled), good, rtol=1e-6, atol=1e-6 * scale.max())
    chunks = np.split(rows[rng.permutation(300)], sorted(cuts))
    again = standardisation(lambda: iter(chunks))
    np.testing.assert_array_equal(again.center, found.center)
    np.testing.assert_array_equal(again.scale, found.scale)
    np.testing.assert_array_equal(np.concatenate(list(found.over(chunks)())), found(np.concatenate(chunks)))


@pytest.mark.parametrize("size", [1e-30, 1e-10, 1e15, 1e37])
def test_units_do_not_matter(size):
    rows = np.random.default_rng(0).standard_normal((500, 3))
    found = standardisation(rows * size)
    np.testing.assert_allclose(found.scale / size, rows.std(axis=0), rtol=1e-7)


def test_small_differences_on_a_large_offset_survive():
    """Days since 1858: float32 holds no seconds of them, float64 does."""
    days = 60_000 + np.random.default_rng(0).uniform(0, 1e-3, (1000, 1))
    found = standardisation(days)
    np.testing.assert_allclose(found.scale, days.std(), rtol=1e-6)
    np.testing.assert_allclose(next(found.over(days)()), (days - days.mean()) / days.std(), atol=1e-6)


def test_a_table_without_finite_rows_has_no_scale():
    for rows in (np.full((5, 2), np.nan), np.full((5, 2), 1e300), np.zeros((0, 2)), []):
        with pytest.raises(EngineError, match="no row is finite"):
            standardisation(rows)


def test_rows_that_can_be_read_once_have_no_scale():
    for work in (standardisation, Scaling(np.zeros(2), np.ones(2)).over):
        with pytest.raises(EngineError, match="can be read once"):
            work(iter([np.zeros((5, 2))]))


def test_a_feature_of_half_the_scale_counts_twice():
    np.testing.assert_array_equal(Scaling(np.zeros(2), np.array([1, 0.5]))(np.ones((1, 2))), [[1, 2]])


@given(st.integers(0, 200), st.lists(st.integers(0, 1000), max_size=4), st.integers(0, 99))
def test_a_sample_does_not_depend_on_chunks(count, cuts, seed):
    rows = np.arange(2000, dtype=np.float32).reshape(1000, 2)
    rows[::7] = np.nan
    found = sample_rows(rows, count, seed)
    assert found.shape == (count, 2)
    assert np.isfinite(found).all()
    assert len(np.unique(found[:, 0])) == count
    chunks = np.split(rows, sorted(cuts))
    np.testing.assert_array_equal(sample_rows(lambda: iter(chunks), count, seed), found)


def test_all_rows_are_as_likely_to_be_sampled():
    rows = np.arange(2 * PIECE_ROWS + 100, dtype=np.float32)[:, None]
    means = [sample_rows(rows, 500, seed).mean() / len(rows) for seed in range(20)]
    assert abs(np.mean(means) - 0.5) < 4 * np.sqrt(1 / 12 / 500 / 20)
    assert len(set(means)) == 20
    with pytest.raises(EngineError, match="3 rows are finite, 4 are wanted"):
        sample_rows(rows[:3], 4, 0)


@pytest.mark.parametrize(
    "lattice", [Cartesian(9, 4), Cartesian(4, 9), Cartesian(7), Cartesian(3, 4, 5), Hexagonal(7), Cartesian(1)]
)
@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_plane_follows_the_principal_components(lattice, width):
    rng = np.random.default_rng(0)
    spread = np.array([5, 3, 1, 0.5, 0.1])[:width]
    turn = np.linalg.qr(rng.standard_normal((width, width)))[0]
    sample = (1e5 + spread * rng.standard_normal((4000, width)) @ turn).astype(np.float32)
    weights = pca_plane(sample, lattice)
    assert weights.shape == (lattice.size, width)
    assert weights.dtype == np.float32
    mean = sample.mean(axis=0, dtype=float)
    np.testing.assert_allclose(weights.mean(axis=0, dtype=float), mean, rtol=1e-6)
    # On the components, in units of their deviations, the neurons fill -2..2 along as many as the lattice has sides.
    variances, components = np.linalg.eigh(np.cov(sample.T.astype(float)).reshape(width, width))
    places = (weights - mean) @ components[:, ::-1] / np.sqrt(variances[::-1])
    rank = 0 if lattice.size == 1 else lattice.rank
    used = min(width, rank)
    np.testing.assert_allclose(np.abs(places[:, :used]).max(axis=0), 2, atol=0.02)
    np.testing.assert_allclose(places[:, used:], 0, atol=0.05)
    if isinstance(lattice, Cartesian) and width >= 2 and lattice.rank == 2:
        longest = np.argmax(lattice.shape)
        assert len(np.unique(places[:, 0].round(2))) == lattice.shape[longest]


def test_a_plane_of_one_row_is_that_row():
    np.testing.assert_array_equal(pca_plane(np.array([[3, 4]], np.float32), Cartesian(2, 2)), [[3, 4]] * 4)
    for shape in ((0, 2), (4,)):
        with pytest.raises(ShapeError, match="sample has shape"):
            pca_plane(np.zeros(shape), Cartesian(2, 2))


def test_clusters_of_neurons_and_rows():
    weights = np.array([[5, 5], [0, 0], [0, 1], [5, 6], [0, 0], [-9, 0]], np.float32)
    som = FeatureSom(weights, Cartesian(3, 2))
    found = cluster_neurons(som, 3, seed=4)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, [0, 1, 1, 0, 1, 2])
    np.testing.assert_array_equal(cluster_neurons(som, 3, seed=4), found)
    np.testing.assert_array_equal(row_labels(found, np.array([5, -1, 0, 2])), [2, -1, 0, 1])
    # A neuron without rows moves no centre, and joins the nearest.
    np.testing.assert_array_equal(cluster_neurons(som, 2, counts=[1, 1, 1, 1, 1, 0]), [0, 1, 1, 0, 1, 1])
    for clusters, counts in ((0, None), (6, None), (3, [0, 1, 0, 1, 0, 0])):
        with pytest.raises(EngineError, match=f"{clusters} clusters are wanted"):
            cluster_neurons(som, clusters, counts=counts)


def test_as_many_clusters_as_neurons():
    weights = np.random.default_rng(0).standard_normal((25, 3)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(cluster_neurons(FeatureSom(weights, Cartesian(5, 5)), 25), np.arange(25))


@pytest.mark.parametrize("lattice", [Cartesian(4, 5), Hexagonal(5)])
def test_topographic_error_is_that_of_a_loop(lattice):
    rng = np.random.default_rng(1)
    rows, weights = rng.standard_normal((500, 3)), rng.standard_normal((lattice.size, 3))
    rows, weights = rows.astype(np.float32), weights.astype(np.float32)
    near = np.argsort(((rows[:, None].astype(float) - weights) ** 2).sum(axis=2), axis=1)[:, :2]
    wanted = np.mean([lattice.distances()[a, b] > 1.5 for a, b in near])
    assert 0.1 < wanted < 0.99
    rows = np.concatenate([rows, np.full((3, 3), np.nan, np.float32)])
    assert topographic_error(rows, FeatureSom(weights, lattice)) == pytest.approx(wanted)
    assert np.isnan(topographic_error(rows[500:], FeatureSom(weights, lattice)))


def test_an_unfolded_map_has_no_topographic_error():
    line = FeatureSom(np.arange(10, dtype=np.float32)[:, None], Cartesian(10))
    assert topographic_error(np.linspace(-1, 11, 50)[:, None], line) == 0
