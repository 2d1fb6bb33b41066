"""Balanced classes, by rows that are there and rows that are made."""

import sys

import numpy as np
import pytest

from skysom.engine.errors import ReadingError
from skysom.engine.reading.balancing import resampled

RNG = np.random.default_rng(4)
FEATURES = RNG.normal(size=(60, 3))
LABELS = np.array(["FRI"] * 10 + ["FRII"] * 30 + ["compact"] * 20)


@pytest.mark.parametrize(("method", "size"), [("over", 30), ("under", 10), ("smote", 30)])
def test_classes_become_equal_and_rows_tell_where_they_come_from(method, size):
    found = resampled(FEATURES, LABELS, method, seed=2)
    assert [np.count_nonzero(found.labels == name) for name in np.unique(LABELS)] == [size] * 3
    there = found.row >= 0
    assert np.array_equal(found.features[there], FEATURES[found.row[there]])
    assert np.array_equal(found.labels[there], LABELS[found.row[there]])
    assert there.all() == (method != "smote")
    again = resampled(FEATURES, LABELS, method, seed=2)
    assert np.array_equal(found.features, again.features)
    assert not np.array_equal(found.features, resampled(FEATURES, LABELS, method, seed=3).features)


def test_oversampling_loses_no_row_and_undersampling_takes_none_twice():
    assert set(resampled(FEATURES, LABELS, "over").row) == set(range(60))
    assert len(set(resampled(FEATURES, LABELS, "under").row)) == 30


def test_made_rows_lie_between_rows_of_their_class():
    found = resampled(FEATURES, LABELS, "smote", neighbours=3)
    own = FEATURES[LABELS == "FRI"]
    for made in found.features[(found.row < 0) & (found.labels == "FRI")]:
        # On the line from a to b: |a - made| + |made - b| = |a - b|.
        to = np.linalg.norm(own - made, axis=1)
        detour = to[:, None] + to[None, :] - np.linalg.norm(own[:, None] - own[None, :], axis=2)
        assert detour[~np.eye(len(own), dtype=bool)].min() < 1e-9


@pytest.mark.parametrize(
    ("features", "labels", "method", "words"),
    [
        (FEATURES, LABELS[:5], "over", r"\(60, 3\) and labels \(5,\)"),
        (np.where(np.arange(60)[:, None] == 3, np.nan, FEATURES), LABELS, "over", "1 of 60 rows hold features"),
        (FEATURES[:10], LABELS[:10], "over", "of 1 class; balancing needs two"),
        (FEATURES[5:], LABELS[5:], "smote", "class FRI has 5 rows, SMOTE with 5 neighbours needs 6"),
        (FEATURES, LABELS, "more", "the method is 'more'"),
    ],
)
def test_what_cannot_be_balanced_is_refused(features, labels, method, words):
    with pytest.raises(ReadingError, match=words):
        resampled(features, labels, method)


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "imblearn.over_sampling", None)
    with pytest.raises(ReadingError, match=r"pip install 'skysom\[learning\]'"):
        resampled(FEATURES, LABELS)
