"""Samples of eight orbits at a time are those of one by one, to the bit, and touch nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysom.engine import kernels

SIDE = 9


def taps(rng, orbits, outside):
    """Random taps (O, 8) in a plane of 9 x 9, a share of them ``outside`` it."""
    row, column = rng.integers(0, SIDE - 1, (2, orbits, 8))
    index = np.where(rng.random((orbits, 8)) < outside, -1, row * SIDE + column).astype(np.int32)
    low, right = rng.random((2, orbits, 8), np.float32)
    low[rng.random(low.shape) < 0.2] = 0
    return index, low, right


def guarded(values):
    """A contiguous copy of ``values`` with NaN before and after it in memory, and all of that memory."""
    memory = np.full(values.size + 64, np.nan, np.float32)
    memory[32:-32] = values.reshape(-1)
    return memory[32:-32].reshape(values.shape), memory


@given(st.sampled_from([0, 1, 7, 8, 9, 16, 45]), st.sampled_from([0, 0.01, 0.5]), st.integers(0, 99))
def test_many_samples_are_those_of_one_by_one(orbits, outside, seed):
    rng = np.random.default_rng(seed)
    index, low, right = taps(rng, orbits, outside)
    plane, _ = guarded(rng.standard_normal(SIDE * SIDE).astype(np.float32))
    out, memory = guarded(np.zeros((8, orbits), np.float32))
    kernels._sample_orbits(plane, index, low, right, SIDE, out)
    single = [
        kernels._interpolate(plane, index[o, g], low[o, g], right[o, g], SIDE) for g in range(8) for o in range(orbits)
    ]
    np.testing.assert_array_equal(out.reshape(-1), np.array(single, np.float32))
    assert np.isnan(memory[:32]).all()
    assert np.isnan(memory[len(memory) - 32 :]).all()


def test_a_sample_is_the_mean_of_four_pixels():
    plane = np.arange(SIDE * SIDE, dtype=np.float32)
    index, low, right = (
        np.full((8, 8), 12, np.int32),
        np.full((8, 8), 0.25, np.float32),
        np.full((8, 8), 0.5, np.float32),
    )
    out = np.zeros((8, 8), np.float32)
    kernels._sample_orbits(plane, index, low, right, SIDE, out)
    np.testing.assert_allclose(out, 12 + 0.25 * SIDE + 0.5)
    index[3, 5] = -1
    kernels._sample_orbits(plane, index, low, right, SIDE, out)
    assert out[5, 3] == 0
    assert np.count_nonzero(out) == 63


@pytest.mark.parametrize("number", range(5))
def test_arrays_of_other_kinds_are_refused_and_not_misread(number):
    from numba.core.errors import TypingError

    rng = np.random.default_rng(0)
    arrays = [rng.random(SIDE * SIDE, np.float32), *taps(rng, 8, 0), np.zeros((8, 8), np.float32)]
    arrays[number] = arrays[number].astype(np.float64)
    plane, index, low, right, out = arrays
    with pytest.raises(TypingError):
        kernels._sample_orbits(plane, index, low, right, SIDE, out)
