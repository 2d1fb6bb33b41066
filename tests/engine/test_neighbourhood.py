import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysom.engine import Cartesian, Neighbourhood
from skysom.engine.errors import NeighbourhoodError


def formula(kind, d, sigma, rate):
    """The functions of the peer, in plain Python floats."""
    falling = math.exp(-0.5 * (d / sigma) ** 2)
    if kind == "gaussian":
        return rate / (sigma * math.sqrt(2 * math.pi)) * falling
    if kind == "unity_gaussian":
        return rate * falling
    return 2 * rate / (math.sqrt(3 * sigma) * math.pi**0.25) * (1 - d**2 / sigma**2) * falling


@given(
    st.sampled_from(["gaussian", "unity_gaussian", "mexican_hat"]),
    st.floats(0.3, 8),
    st.floats(0.01, 1),
    st.lists(st.floats(0, 12, width=32), min_size=1, max_size=8),
)
def test_values_follow_the_formulas(kind, sigma, rate, distances):
    factors = Neighbourhood(kind, sigma, rate)(np.array(distances, np.float32))
    assert factors.dtype == np.float32
    expected = [formula(kind, d, sigma, rate) for d in distances]
    # Far out, the rounding of the exponent is what remains.
    np.testing.assert_allclose(factors, expected, rtol=1e-6, atol=3e-6 * rate / min(sigma, 1))


def test_peaks():
    assert Neighbourhood()(np.zeros(1))[0] == pytest.approx(0.072535, abs=1e-6)
    assert Neighbourhood("unity_gaussian", rate=0.1)(np.zeros(1))[0] == np.float32(0.1)
    hat = Neighbourhood("mexican_hat", sigma=2.0)
    assert hat(np.array([2.0]))[0] == pytest.approx(0, abs=1e-7)
    assert hat(np.array([3.0]))[0] < 0


def test_neurons_at_the_limit_are_left_alone():
    factors = Neighbourhood("unity_gaussian", 1.5, 0.2, max_update_distance=2).factors(Cartesian(5))
    assert (factors[0] > 0).tolist() == [True, True, False, False, False]
    assert np.array_equal(factors, factors.T)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"kind": "bubble"}, ["bubble", "mexican_hat"]),
        ({"sigma": 0.0}, ["0.0", "positive"]),
        ({"sigma": -1.5}, ["-1.5"]),
        ({"sigma": math.nan}, ["nan"]),
        ({"rate": math.inf}, ["inf"]),
        ({"max_update_distance": -2.0}, ["-2.0", "positive"]),
        ({"max_update_distance": 0.0}, ["0.0"]),
    ],
)
def test_errors_name_the_values(arguments, named):
    with pytest.raises(NeighbourhoodError) as caught:
        Neighbourhood(**arguments)
    for text in named:
        assert text in str(caught.value)
