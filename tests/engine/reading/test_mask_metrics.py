"""Measures of masks against plain Python, and every number of the peer's."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist

from skysom.engine.errors import ReadingError
from skysom.engine.reading.mask_metrics import area_ratio, largest_distance, valid_region
from skysom.engine.reading.masks import labels_in, pack, planes_from_products

PRIMES, NAMES = (2, 3, 5), ("Related Radio", "IR Host", "Sidelobe")


@settings(deadline=None, max_examples=60)
@given(mask=st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(lambda shape: arrays(bool, shape)))
def test_the_largest_distance_is_that_of_all_pairs(mask):
    points = np.argwhere(mask)
    distance, pair = largest_distance(mask)
    if len(points) < 2:
        assert (distance, pair) == ((-1.0, (-1, -1)) if not len(points) else (0.0, (0, 0)))
        return
    all_of_them = cdist(points, points)
    assert distance == all_of_them.max()
    assert pair == tuple(np.unravel_index(np.argmax(all_of_them), all_of_them.shape))


def test_a_region_is_by_labels_and_never_of_unlabelled_pixels():
    planes = pack(np.array([[1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 1, 0]], bool))
    assert valid_region(planes).tolist() == [True, True, True, True, False]
    assert valid_region(planes, includes=[0, 1]).tolist() == [True, True, True, False, False]
    assert valid_region(planes, includes=[1], excludes=[2]).tolist() == [False, True, False, False, False]
    assert valid_region(planes, excludes=iter([0])).tolist() == [False, False, True, True, False]
    assert not valid_region(planes, includes=[]).any()


def test_ratios_of_areas():
    one, two = pack(np.array([[1, 1, 1, 0]], bool)), pack(np.array([[1, 0, 1, 0]], bool))
    none = np.zeros_like(one)
    assert area_ratio(one, two) == 1.5
    assert area_ratio(one, none) == 1.0
    assert area_ratio(none, one) == 0.0
    assert math.isnan(area_ratio(none, none))
    assert area_ratio(one, two, includes=iter([0]), excludes=iter(())) == 1.5
    with pytest.raises(ReadingError, match="words"):
        area_ratio(one, np.zeros((4, 2), np.uint8))


def peers_region(values, includes=None, excludes=()):
    """The peer's rule with its defect: an unlabelled pixel (0) is divisible by every prime."""
    region = values != 0 if includes is None else np.any([values % p == 0 for p in includes], axis=0)
    for p in excludes:
        region = region & (values % p != 0)
    return region


@pytest.fixture(params=["goldens/pyink", "goldens/pyink/single_channel"])
def golden(request, shared):
    metrics = json.loads(shared(f"{request.param}/neuron_metrics.json").read_text())
    masks = np.load(shared(f"{request.param}/annotation_masks.npz"))
    assert set(masks.files) == set(metrics)
    return [(metrics[name], masks[name], planes_from_products(masks[name], PRIMES)) for name in metrics]


def test_the_peers_numbers_without_a_defect(golden):
    for expected, values, planes in golden:
        distance, pair = largest_distance(valid_region(planes[0]))
        assert distance == pytest.approx(expected["max_dist_c0"], rel=1e-14)
        assert pair == tuple(expected["max_dist_pair_c0"])
        assert valid_region(planes[0]).sum() == expected["nonzero_npix"]
        assert valid_region(planes[0], includes=[0], excludes=[2]).sum() == expected["valid_region_inc2_exc5_npix"]
        assert valid_region(planes[0], excludes=[2]).sum() == expected["valid_region_exc5_npix"]
        assert area_ratio(planes[0], planes[-1]) == pytest.approx(expected["area_ratio"], rel=1e-15)
        # The peer lists the labels of every distinct value, so a name may come twice.
        listed = [NAMES[p] for v in np.unique(values[0]) if v for p in range(3) if v % PRIMES[p] == 0]
        assert listed == expected["filter_contains_c0"]
        assert [NAMES[p] for p in labels_in(planes[0])] == [name for name in NAMES if name in listed]


def test_the_peers_numbers_with_its_defect_and_what_is_meant(golden):
    """``includes`` without ``excludes``: the peer counts unlabelled pixels, here only labelled ones."""
    for expected, values, planes in golden:
        assert peers_region(values[0], includes=[2]).sum() == expected["valid_region_inc2_npix"]
        meant = valid_region(planes[0], includes=[0])
        assert np.array_equal(meant, peers_region(values[0], includes=[2]) & (values[0] != 0))
        assert meant.sum() < expected["valid_region_inc2_npix"]
        peers = [peers_region(values[c], includes=[2, 3]).sum() for c in (0, -1)]
        assert peers[0] / peers[1] == pytest.approx(expected["area_ratio_inc2_3"], rel=1e-15)
        counts = [((values[c] != 0) & ((values[c] % 2 == 0) | (values[c] % 3 == 0))).sum() for c in (0, -1)]
        assert area_ratio(planes[0], planes[-1], includes=[0, 1]) == counts[0] / counts[1]
