import gc
import tracemalloc

import numpy as np
import pytest

from skysom.engine import Cartesian, Geometry, Neighbourhood, Som, dihedral
from skysom.engine.memory import orbit_count, projected_memory, training_memory
from skysom.engine.search import Search, frame_taps
from skysom.engine.update import OnlineTrainer

CASES = [
    (Geometry.derive(64, 180, True, "circular"), 64, 1),
    (Geometry.derive(40, 8), 400, 3),
    (Geometry.derive(64, 360, False, "circular"), 9, 2),
    (Geometry.derive(64, 4), 100, 1),
    (Geometry.derive(64, 1, False), 25, 1),
    (Geometry.derive(20, 360), 400, 1),
]


def peak(work) -> int:
    """Peak bytes of arrays while ``work`` runs with empty caches; what it first loads is not counted."""
    for cache in (dihedral.orbits, dihedral.region_sources, frame_taps):
        cache.cache_clear()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def arrays(geometry, neurons, channels, images):
    rng = np.random.default_rng(0)
    side = geometry.neuron_side
    weights = rng.random((neurons, channels, side, side), np.float32)
    return rng.random((images, channels, geometry.image_side, geometry.image_side), np.float32), weights


def map_all(geometry, images, weights):
    search = Search(weights, geometry)
    # In a survey every rotation is the best of some image.
    for k in range(geometry.base_rotations):
        frame_taps(geometry, k)
    for first in range(0, len(images), 32):
        search(images[first : first + 32])


def train_all(geometry, images, weights):
    som, wide = Som(weights, Cartesian(len(weights))), Neighbourhood("unity_gaussian", 3.0)
    trainer = OnlineTrainer(som, wide, geometry)
    for k in range(geometry.base_rotations):
        frame_taps(geometry, k)
    trainer.train(images)


@pytest.fixture(scope="module", autouse=True)
def loaded():
    """Compiled kernels and libraries are in memory before anything is measured."""
    geometry = Geometry.derive(12, 8)
    images, weights = arrays(geometry, 4, 1, 3)
    map_all(geometry, images, weights)
    train_all(geometry, images, weights)


@pytest.mark.parametrize(("geometry", "neurons", "channels"), CASES)
def test_mapping_stays_within_its_projection(geometry, neurons, channels):
    images, weights = arrays(geometry, neurons, channels, 96)
    measured = peak(lambda: map_all(geometry, images, weights))
    projected = projected_memory(geometry, neurons=neurons, channels=channels)
    assert measured <= projected <= 1.6 * measured


@pytest.mark.parametrize(("geometry", "neurons", "channels"), CASES)
def test_training_stays_within_its_projection(geometry, neurons, channels):
    images, weights = arrays(geometry, neurons, channels, 17)
    measured = peak(lambda: train_all(geometry, images, weights))
    projected = training_memory(geometry, neurons=neurons, channels=channels)
    assert measured <= projected <= 1.6 * measured


def test_memory_of_mapping_does_not_grow_with_the_number_of_images():
    geometry = Geometry.derive(24, 8)
    images, weights = arrays(geometry, 16, 1, 512)
    few = peak(lambda: map_all(geometry, images[:64], weights))
    many = peak(lambda: map_all(geometry, images, weights))
    assert many <= few + 16384


def test_projection_grows_with_what_it_is_given():
    geometry = Geometry.derive(150)
    one = projected_memory(geometry, neurons=100, channels=1)
    assert projected_memory(geometry, neurons=100, channels=1, workers=3) == 3 * one
    assert projected_memory(geometry, neurons=100, channels=2) > one
    assert projected_memory(geometry, neurons=400, channels=1) > one
    assert projected_memory(geometry, neurons=100, channels=1, batch=16) == one
    assert projected_memory(geometry, neurons=100, channels=1, batch=128) > one
    assert 50e6 < one < 200e6


@pytest.mark.parametrize("region", ["quadratic", "circular"])
def test_orbits_are_counted_without_their_tables(region):
    for neuron_side in range(2, 14):
        for region_side in range(2, neuron_side + 1):
            geometry = Geometry(9, neuron_side, region_side, region, 4)
            assert orbit_count(geometry) == len(dihedral.orbits(geometry))
