"""Start and order of a training: the peer's own numbers for a seed."""

import numpy as np
import pytest

from skysom.engine.errors import EngineError
from skysom.engine.initial import initial_weights
from skysom.engine.shuffle import peer_order


def test_order_published_for_seed_1234():
    assert peer_order(10, 1234).tolist() == [2, 6, 3, 1, 9, 8, 7, 4, 0, 5]


@pytest.mark.parametrize("n", [0, 1, 2, 3, 16, 65535, 65536, 70001])
def test_order_is_a_permutation_that_depends_on_the_seed(n):
    order = peer_order(n, 7)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    if n > 3:
        assert (order != peer_order(n, 8)).any()


def test_seeds_of_the_first_generator_are_taken_modulo_its_prime():
    np.testing.assert_array_equal(peer_order(50, 0), peer_order(50, 1))
    np.testing.assert_array_equal(peer_order(50, 2**31 - 1 + 5), peer_order(50, 5))


def test_order_is_uniform():
    # Where each of 5 elements lands over 2,000 seeds: 400 times in each place, within 5 standard deviations.
    places = np.zeros((5, 5))
    for seed in range(1, 2001):
        places[peer_order(5, seed), np.arange(5)] += 1
    assert np.abs(places - 400).max() < 5 * np.sqrt(400 * 0.8)


def test_random_weights_are_the_generator_in_storage_order():
    weights = initial_weights("random", 3, 2, 4, seed=5489)
    assert (weights.shape, weights.dtype) == ((3, 2, 4, 4), np.float32)
    # The first output of mt19937 with its default seed 5489 is 3499211612, the 10,000th 4123659995.
    assert weights.ravel()[0] == np.float32(3499211612) / np.float32(2**32)
    assert initial_weights("random", 10000, 1, 1, seed=5489).ravel()[-1] == np.float32(4123659995) / np.float32(2**32)


def test_random_weights_stay_below_one():
    weights = initial_weights("random", 400, 1, 300)
    assert 0 <= weights.min() < 1e-6
    assert 1 - 1e-6 < weights.max() < 1


def test_preferred_direction_marks_the_first_planes():
    marked = initial_weights("random_with_preferred_direction", 3, 2, 4)
    plain = initial_weights("random", 3, 2, 4)
    planes, before = marked.reshape(6, 4, 4), plain.reshape(6, 4, 4)
    for plane in range(3):
        np.testing.assert_array_equal(np.diag(planes[plane]), 1)
    np.testing.assert_array_equal(planes[3:], before[3:])
    off = ~np.eye(4, dtype=bool)
    np.testing.assert_array_equal(planes[:, off], before[:, off])


def test_zero_weights_and_unknown_kinds():
    assert not initial_weights("zero", 2, 1, 3).any()
    with pytest.raises(EngineError, match="'ones' are unknown; use one of zero, random"):
        initial_weights("ones", 2, 1, 3)
