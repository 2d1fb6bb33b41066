"""The columns of what masks carry."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysom.engine.collation import Carried
from skysom.engine.errors import CollationError

keys = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 2), st.integers(0, 9)), unique=True, min_size=0, max_size=40
)


def carried(found):
    source, channel, row = (list(column) for column in zip(*found, strict=True)) if found else ([], [], [])
    bits = np.arange(1, len(found) + 1)
    return Carried(source, channel, row, bits, bits / 7)


def rows_of(pairs):
    columns = (pairs.source, pairs.channel, pairs.row, pairs.bits, pairs.separation_arcsec)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@given(keys, st.integers(1, 5))
def test_parts_in_any_order_are_the_whole_sorted(found, parts):
    whole = carried(found)
    pieces = [whole.take(slice(part, None, parts)) for part in range(parts)]
    expected = sorted(rows_of(whole))
    assert rows_of(whole.sorted()) == expected
    for order in (pieces, pieces[::-1]):
        assert rows_of(Carried.concatenate(order)) == expected


@given(keys, st.lists(st.integers(0, 9)))
def test_pairs_of_some_sources(found, sources):
    pairs = carried(found).sorted()
    assert rows_of(pairs.of_sources(sources)) == [row for row in rows_of(pairs) if row[0] in sources]


def test_types_are_those_of_the_columns():
    for pairs in (Carried.empty(), Carried.concatenate([]), carried([(1, 0, 2)])):
        types = [pairs.source.dtype, pairs.channel.dtype, pairs.row.dtype, pairs.bits.dtype]
        assert types == [np.int64, np.int8, np.int64, np.uint64]
        assert pairs.separation_arcsec.dtype == np.float32
    assert len(Carried.empty()) == 0


def test_the_last_bit_is_kept():
    pairs = Carried([0], [0], [0], np.array([2**63 + 1], np.uint64), [0.0])
    assert int(pairs.take([0]).bits[0]) == 2**63 + 1


def test_a_pair_that_is_there_twice_is_refused():
    part = carried([(4, 1, 2), (5, 0, 1)])
    with pytest.raises(CollationError, match="row 2 of channel 1 is carried by source 4 twice"):
        Carried.concatenate([part, part.take([0])])


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(CollationError, match="give columns of one length"):
        Carried([1, 2], [0], [1, 2], [1, 1], [0.0, 0.0])
