"""Orders: total, stable, missing values last, independent of what else is there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysom.engine.collation import orders
from skysom.engine.errors import CollationError
from skysom.engine.reading.mask_metrics import area_ratio, largest_distance
from skysom.engine.reading.masks import pack

values = st.lists(st.sampled_from([0.0, -0.0, 1.0, 2.0, -3.0, np.inf, -np.inf, np.nan]), max_size=12)


@given(given_values=values, descending=st.booleans(), data=st.data())
def test_by_values_equal_ones_by_row_and_missing_ones_last(given_values, descending, data):
    sources = np.array(data.draw(st.lists(st.booleans(), min_size=len(given_values), max_size=len(given_values))), bool)
    rank = orders.by_values(np.array(given_values, np.float64), descending=descending, sources=sources)
    sign = -1 if descending else 1
    rows = [row for row in range(len(given_values)) if sources[row]]
    expected = sorted(rows, key=lambda row: (np.isnan(given_values[row]), sign * np.nan_to_num(given_values[row]), row))
    assert rank.dtype == np.int64
    assert [row for _, row in sorted((r, row) for row, r in enumerate(rank) if r >= 0)] == expected
    assert sorted(rank[sources]) == list(range(len(rows)))
    assert (rank[~sources] == -1).all()


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        (np.uint64, 0, 2**64 - 1),
        (np.int64, -(2**63), 2**63 - 1),
        (np.int8, -128, 127),
        (np.float32, -np.inf, np.inf),
        (bool, False, True),
    ],
)
def test_values_of_any_kind_descend_without_overflow(kind, low, high):
    middle = np.array([low, high, high, low], kind)
    assert orders.by_values(middle).tolist() == [0, 2, 3, 1]
    assert orders.by_values(middle, descending=True).tolist() == [2, 0, 1, 3]


def test_words_are_no_order():
    with pytest.raises(CollationError, match="an order needs numbers"):
        orders.by_values(np.array(["a", "b"]))


def test_best_matching_first():
    distance = np.array([3, 1, np.nan, 1, 2, 0], np.float32)
    assert orders.best_matching_first(distance).tolist() == [4, 1, 5, 2, 3, 0]
    assert orders.best_matching_first(distance, np.array([0, 0, 0, 0, 0, -1])).tolist() == [3, 0, 4, 1, 2, -1]


@given(
    seed=st.integers(0, 2**32 - 1),
    within=st.booleans(),
    kind=st.sampled_from([orders.largest_first, orders.area_ratio]),
)
def test_neurons_descend_and_their_sources_stay_together(seed, within, kind):
    rng = np.random.default_rng(seed)
    of_neuron = rng.choice([-1.0, 0.0, 2.5, 7.0, np.nan], 6)
    neuron, distance = rng.integers(-1, 6, 30), rng.integers(0, 4, 30).astype(np.float32)
    rank = kind(of_neuron, neuron, distance if within else None)
    place = {
        n: i
        for i, n in enumerate(sorted(range(6), key=lambda n: (np.isnan(of_neuron[n]), -np.nan_to_num(of_neuron[n]), n)))
    }
    rows = [row for row in range(30) if neuron[row] >= 0]
    expected = sorted(rows, key=lambda row: (place[neuron[row]], distance[row] if within else 0, row))
    assert np.argsort(np.where(rank < 0, 99, rank), kind="stable")[: len(rows)].tolist() == expected
    assert (rank >= 0).tolist() == (neuron >= 0).tolist()


def test_random_order_is_of_the_seed_and_the_row():
    few, many = orders.random(50, 3), orders.random(200, 3)
    assert np.array_equal(np.argsort(few), np.argsort(many)[np.argsort(many) < 50])
    assert not np.array_equal(few, orders.random(50, 4))
    sources = np.arange(200) % 3 > 0
    some = orders.random(200, 3, sources=sources)
    assert (some[~sources] == -1).all()
    assert np.array_equal(np.argsort(some[sources]), np.argsort(many[sources]))
    assert sorted(orders.random(0, 1)) == []


def test_extents_and_area_ratios_of_neurons():
    rng = np.random.default_rng(0)
    masks = rng.random((70, 4, 2, 9, 9)) < rng.choice([0, 0.01, 0.1, 0.3], (70, 4, 2, 1, 1))
    masks[[0, 33, 64]] &= False
    planes = pack(masks[:64])
    words = np.ascontiguousarray(planes).view("<u8")[..., 0].astype(np.uint64)
    assert words.shape == (4, 2, 9, 9)
    for channel in range(2):
        expected = [largest_distance(planes[n, channel].any(axis=-1))[0] for n in range(4)]
        assert orders.neuron_extents(words, channel).tolist() == expected
    assert orders.neuron_extents(np.zeros((1, 1, 4, 4), np.uint64)).tolist() == [-1]
    for includes, excludes in [(None, None), ([1, 63], None), (iter([2, 40]), iter([5]))]:
        kept = [None if labels is None else list(labels) for labels in (includes, excludes)]
        found = orders.neuron_area_ratios(words, 1, 0, *(None if x is None else iter(x) for x in kept))
        assert np.array_equal(found, [area_ratio(planes[n, 1], planes[n, 0], *kept) for n in range(4)], equal_nan=True)


def test_what_does_not_fit_is_refused():
    with pytest.raises(CollationError, match=r"3 rows, its neurons of \(2,\)"):
        orders.best_matching_first(np.zeros(3), np.zeros(2, int))
    with pytest.raises(CollationError, match=r"3 rows, its sources of \(4,\)"):
        orders.random(3, 0, sources=np.ones(4, bool))
    with pytest.raises(CollationError, match="3 rows with seed -1 cannot be drawn"):
        orders.random(3, -1)
    with pytest.raises(CollationError, match="-3 rows with seed 1 cannot be drawn"):
        orders.random(-3, 1)
    with pytest.raises(CollationError, match="a row has neuron 5, there are values of 2"):
        orders.largest_first(np.zeros(2), np.array([0, 5]))
    with pytest.raises(CollationError, match=r"\(1,\) distances and \(2,\) neurons"):
        orders.largest_first(np.zeros(2), np.array([0, 1]), np.zeros(1))
    with pytest.raises(CollationError, match="channel 2"):
        orders.neuron_extents(np.zeros((1, 2, 3, 3), np.uint64), 2)
    assert orders.largest_first(np.zeros(0), np.array([-1, -1])).tolist() == [-1, -1]
