import doctest
import math

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysom.engine import Cartesian, Hexagonal, feature_kernels, features
from skysom.engine.errors import EngineError, LatticeError, ShapeError
from skysom.engine.feature_training import as_float
from skysom.engine.features import PIECE_ROWS, FeatureSearch, FeatureSom, match_features, pieces

KINDS = ("normal", "ties", "constant", "offset", "near", "copies", "zero", "tiny", "large", "outliers")


def table(kind, rows, neurons, width, rng):
    """Vectors (B, F) and weights (N, F) float32 of one kind."""
    vectors, weights = (rng.standard_normal((n, width)) for n in (rows, neurons))
    if kind == "ties":
        vectors, weights = np.round(vectors), np.round(weights)
    if kind == "constant":
        vectors[:, 0] = weights[:, 0] = 12345.678
    if kind == "offset":
        vectors, weights = 1e6 + vectors, 1e6 + weights
    if kind == "near":
        weights = weights[:1] + 10.0 ** rng.uniform(-8, -3, (neurons, 1)) * weights
        vectors = weights[rng.integers(neurons, size=rows)] + 1e-5 * vectors
    if kind == "copies":
        weights = weights[rng.integers(neurons, size=neurons)]
        vectors = weights[rng.integers(neurons, size=rows)]
    if kind == "zero":
        vectors, weights = 0 * vectors, 0 * weights
    if kind in ("tiny", "large"):
        scale = 10.0 ** (rng.uniform(-44, -18) if kind == "tiny" else rng.uniform(10, 18))
        vectors, weights = scale * vectors, scale * weights
    if kind == "outliers":
        vectors[: rows // 8 + 1] *= 1e5
        weights[0] *= 1e6
    return vectors.astype(np.float32), weights.astype(np.float32)


@st.composite
def searches(draw, kinds=KINDS):
    """Vectors, some of which are not finite, and a map."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.integers(1, 9)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    lattice = draw(st.sampled_from([Cartesian(*size), Hexagonal(size[0] | 1)]))
    rows, width = draw(st.integers(0, 600)), draw(st.integers(1, 40))
    vectors, weights = table(draw(st.sampled_from(kinds)), rows, lattice.size, width, rng)
    bad = rng.random(rows) < draw(st.sampled_from([0, 0, 0.1, 1]))
    vectors[bad, rng.integers(width)] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    return vectors, FeatureSom(weights, lattice)


def plain_match(vectors, weights):
    """One row and one neuron after another, in Python."""
    bmu, distance = [], []
    for x in vectors.astype(float):
        if not np.isfinite(x).all():
            bmu, distance = [*bmu, -1], [*distance, np.nan]
            continue
        squares = [sum((a - b) * (a - b) for a, b in zip(x, w, strict=True)) for w in weights.astype(float)]
        bmu.append(int(np.argmin(squares)))
        distance.append(math.sqrt(squares[bmu[-1]]))
    return np.array(bmu, np.int64), np.array(distance, np.float32)


@given(searches())
def test_the_compiled_search_is_the_reference(case):
    vectors, som = case
    found, wanted = match_features(vectors, som), match_features(vectors, som, "reference")
    assert found.bmu.dtype == wanted.bmu.dtype == np.int64
    assert found.distance.dtype == wanted.distance.dtype == np.float32
    np.testing.assert_array_equal(found.bmu, wanted.bmu)
    np.testing.assert_array_equal(found.distance, wanted.distance)
    some = slice(0, 40)
    bmu, distance = plain_match(vectors[some], som.weights)
    np.testing.assert_array_equal(wanted.bmu[some], bmu)
    np.testing.assert_array_equal(wanted.distance[some], distance)


@given(searches())
def test_any_namespace_finds_the_same(case):
    vectors, som = case
    xp = array_api_strict
    strict = FeatureSom(xp.asarray(som.weights), som.lattice)
    found, wanted = match_features(xp.asarray(vectors), strict), match_features(vectors, som)
    assert isinstance(found.bmu, type(xp.asarray(0)))
    assert found.bmu.dtype == xp.int64
    assert found.distance.dtype == xp.float32
    np.testing.assert_array_equal(np.asarray(found.bmu), wanted.bmu)
    np.testing.assert_array_equal(np.asarray(found.distance), wanted.distance)


@given(searches(kinds=("normal", "offset", "outliers")), st.integers(0, 2**32 - 1))
def test_a_row_does_not_depend_on_the_others(case, seed):
    vectors, som = case
    order = np.random.default_rng(seed).permutation(len(vectors))
    found, shuffled = match_features(vectors, som), match_features(vectors[order], som)
    np.testing.assert_array_equal(shuffled.bmu, found.bmu[order])
    np.testing.assert_array_equal(shuffled.distance, found.distance[order])


@pytest.mark.parametrize("scale", [1e19, 1e30, 3e37])
def test_squares_that_overflow_are_found_by_direct_sums(scale):
    vectors, weights = table("normal", 300, 7, 4, np.random.default_rng(0))
    small = match_features(vectors, FeatureSom(weights, Cartesian(7)))
    scale = np.float32(2.0 ** round(math.log2(scale)))
    found = match_features(vectors * scale, FeatureSom(weights * scale, Cartesian(7)))
    np.testing.assert_array_equal(found.bmu, small.bmu)
    np.testing.assert_array_equal(found.distance, small.distance * scale)


def test_few_rows_need_direct_sums():
    rng = np.random.default_rng(0)
    vectors, weights = rng.standard_normal((5000, 5), np.float32), rng.standard_normal((225, 5), np.float32)
    for offset in (0, 1000):
        search = FeatureSearch((weights + offset).astype(np.float32))
        scores, norms = search.scores(vectors + np.float32(offset))
        best, second = np.partition(scores, 1, axis=1)[:, :2].T
        margin = search.rounding * (norms + 4 * search.halves[scores.argmin(axis=1)]) + search.smallest
        assert np.mean(second - best <= margin) < 2e-3


@given(searches(kinds=("normal", "ties", "constant", "offset", "near", "tiny", "large", "outliers")))
def test_scores_are_within_their_bound(case):
    """What decides that the best neuron is certain: the error of a score, with float64 as the truth."""
    vectors, som = case
    vectors = vectors[np.isfinite(vectors).all(axis=1)]
    search, unit = FeatureSearch(som.weights), (som.features + 8) * 2.0**-24
    center = search.center.astype(float)
    x, w = vectors.astype(float) - center, som.weights.astype(float) - center
    halves = (w**2).sum(axis=1) / 2
    found = search.scores(vectors)[0] + 2 * unit * halves
    bound = unit * (2 * halves + (x**2).sum(axis=1, keepdims=True) / 2) + search.smallest
    assert (np.abs(found - (halves - x @ w.T)) <= bound).all()


def test_pieces_of_anything_that_holds_rows():
    rows = np.arange(3 * (2 * PIECE_ROWS + 5)).reshape(-1, 3)
    sizes = [PIECE_ROWS, PIECE_ROWS, 5]
    for source in (rows, [rows], lambda: iter([rows])):
        found = list(pieces(source))
        assert [len(piece) for piece in found] == sizes
        assert all(piece.dtype == np.float32 and piece.flags.c_contiguous for piece in found)
        np.testing.assert_array_equal(np.concatenate(found), rows)
    assert list(pieces([])) == []
    assert np.isinf(next(pieces(np.full((1, 1), 1e300))))
    assert np.shares_memory(next(pieces(rows.astype(np.float32)[:10])), rows) is False
    with pytest.raises(ShapeError, match=r"chunk has shape \(3,\)"):
        list(pieces([rows[0]]))


@given(st.data())
def test_sums_are_exact(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    rows, neurons, width = (data.draw(st.integers(0, 200)), data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4)))
    words = rng.integers(0, 1 << 32, (rows, width), dtype=np.uint32).view(np.float32)
    values = np.where(np.isfinite(words), words, np.float32(0))
    if data.draw(st.booleans()):
        values = (1e6 + rng.standard_normal((rows, width))).astype(np.float32)
    places = rng.integers(-1, neurons, rows)
    limbs = np.zeros((32, neurons, width), np.int64)
    feature_kernels.add_exactly(limbs, places, values.view(np.int32))
    for n in range(neurons):
        for f in range(width):
            own = [float(value) for value in values[places == n, f]]
            exact = sum(int(limb) << 8 * k for k, limb in enumerate(limbs[:, n, f]))
            assert exact == sum(int(math.ldexp(value, 149)) for value in own)
            error = abs(as_float(limbs)[n, f] - math.fsum(own))
            assert error <= 2.0**-47 * math.fsum(map(abs, own))


def test_what_is_refused():
    lattice = Cartesian(2, 2)
    with pytest.raises(ShapeError, match=r"weights have shape \(4, 3, 1\)"):
        FeatureSom(np.zeros((4, 3, 1), np.float32), lattice)
    with pytest.raises(ShapeError, match=r"weights have shape \(4, 0\)"):
        FeatureSom(np.zeros((4, 0), np.float32), lattice)
    with pytest.raises(LatticeError, match="5 neurons"):
        FeatureSom(np.zeros((5, 3), np.float32), lattice)
    with pytest.raises(EngineError, match="not finite"):
        FeatureSom(np.full((4, 3), np.nan, np.float32), lattice)
    som = FeatureSom(np.zeros((4, 3), np.float32), lattice)
    assert som.features == 3
    for shape in ((5,), (5, 2), (5, 3, 1)):
        with pytest.raises(ShapeError, match="the map has 3 features"):
            match_features(np.zeros(shape, np.float32), som)
    with pytest.raises(EngineError, match="method is 'fast'"):
        match_features(np.zeros((5, 3), np.float32), som, "fast")


def test_the_example_of_the_module_works():
    found = doctest.testmod(features)
    assert found.attempted > 10
    assert found.failed == 0
