"""The order of batched training: every image once, windows that fit, batches that anyone can share evenly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysom.engine.order import CHUNK_IMAGES, batches, windows


def presented(images, window_images, batch_images, epoch, shuffle=True, seed=1):
    """Images in training order."""
    found = []
    for window in windows(images, window_images, (seed, 4), epoch, shuffle=shuffle):
        for batch in batches(window, batch_images, (seed, 4), epoch, shuffle=shuffle):
            found += [window.block(int(j)) for j in batch]
    return np.concatenate(found) if found else np.zeros(0, int)


@given(st.integers(0, 3000), st.integers(1, 20), st.integers(1, 10), st.integers(0, 3), st.booleans())
def test_every_image_once_an_epoch_in_windows_that_fit(images, chunks, blocks, epoch, shuffle):
    order = presented(images, chunks * CHUNK_IMAGES, blocks * 32, epoch, shuffle)
    assert np.array_equal(np.sort(order), np.arange(images))
    for window in windows(images, chunks * CHUNK_IMAGES, (1, 4), epoch, shuffle=shuffle):
        assert 0 < len(window.places) <= chunks * CHUNK_IMAGES
    if not shuffle:
        assert np.array_equal(order, np.arange(images))


def test_what_fits_is_dealt_once_and_what_does_not_anew_each_epoch():
    one, same = (windows(1000, 1024, (1, 4), epoch) for epoch in (0, 1))
    assert one[0].name == same[0].name
    assert np.array_equal(one[0].places, same[0].places)
    one, other = (windows(1000, 512, (1, 4), epoch) for epoch in (0, 1))
    assert one[0].name != other[0].name
    assert not np.array_equal(one[0].places, other[0].places)


def test_epochs_and_seeds_differ():
    orders = [presented(1000, 1024, 96, epoch, seed=seed) for epoch, seed in ((0, 1), (1, 1), (0, 2))]
    assert np.array_equal(orders[0], presented(1000, 1024, 96, 0))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not np.array_equal(orders[one], orders[other])


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 8])
def test_every_batch_is_shared_evenly_by_any_number_of_workers(workers):
    window = windows(10_000, 65536, (1, 4), 0)[0]
    whole = [batch for batch in batches(window, 1024, (1, 4), 0) if len(batch) == 32 and np.ptp(batch) == 31]
    assert len(whole) >= 8
    for batch in whole:
        shares = np.bincount(batch % workers, minlength=workers)
        assert np.ptp(shares) <= 1


def test_the_images_of_a_block_are_from_everywhere():
    window = windows(10_000, 65536, (1, 4), 0)[0]
    spread = [np.ptp(window.block(j)) for j in range(window.blocks - 1)]
    assert min(spread) > 5000
