import gc
import tracemalloc
from functools import partial

import numpy as np
import pytest

from skysom.engine import Cartesian, Geometry, Neighbourhood, Som, dihedral, energies, rings, steering
from skysom.engine.certified import CertifiedSearch
from skysom.engine.direct import frame_taps
from skysom.engine.exact import Search
from skysom.engine.memory import certified_memory, orbit_count, polar_memory, projected_memory, training_memory
from skysom.engine.polar import PolarSearch
from skysom.engine.update import OnlineTrainer

CASES = [
    (Geometry.derive(64, 180, True, "circular"), 64, 1),
    (Geometry.derive(40, 8), 400, 3),
    (Geometry.derive(64, 360, False, "circular"), 9, 2),
    (Geometry.derive(64, 4), 100, 1),
    (Geometry.derive(128, 1, False), 100, 1),
    (Geometry.derive(20, 360), 400, 1),
    (Geometry.derive(64, 360), 100, 1),
    (Geometry.derive(100, 360, True, "annular", inner_side=30), 16, 1),
    (Geometry.derive(150), 100, 1),
    pytest.param(Geometry.derive(100, 180, True, "circular"), 40, 2, marks=pytest.mark.slow),
    pytest.param(Geometry.derive(150), 400, 2, marks=pytest.mark.slow),
]
CACHES = [
    dihedral.orbits, frame_taps,
    energies.energies, rings.rings, rings.basis, steering.steering,
]  # fmt: skip
LARGEST_RATIO = 1.2
"""Of projected to measured bytes."""


def peak(work) -> int:
    """Peak bytes of arrays while ``work`` runs with empty caches; what it first loads is not counted."""
    for cache in CACHES:
        cache.cache_clear()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def sources(count, channels, side, rng):
    """Images of one to three round sources in noise: what survives a certified search depends on what is shown."""
    offset, found = np.arange(side) - (side - 1) / 2, np.zeros((count, channels, side, side), np.float32)
    for image in found.reshape(-1, side, side):
        for _ in range(rng.integers(1, 4)):
            (y, x), width = rng.normal(0, side / 12, 2), rng.uniform(1, side / 12)
            profiles = (np.exp(-(((offset - centre) / width) ** 2) / 2) for centre in (y, x))
            image += rng.uniform(0.2, 1) * np.outer(*profiles)
    return found + rng.normal(0, 0.02, found.shape).astype(np.float32)


def arrays(geometry, neurons, channels, images):
    """Images and a map whose neighbours are alike, as on a trained one."""
    rng = np.random.default_rng(0)
    shown = sources(images, channels, geometry.image_side, rng)
    weights = sources(neurons, channels, geometry.neuron_side, rng)
    weights[1::2] = weights[: neurons // 2 * 2 : 2] * np.float32(1.001)
    return shown, weights


def blocks(geometry, images, weights):
    """The images, and some that nearly are neurons: their distances cancel, to the two that are alike."""
    for first in range(0, len(images), 32):
        yield images[first : first + 32]
    low = (geometry.neuron_side - geometry.image_side) // 2
    yield weights[:64:2, :, low : low + geometry.image_side, low : low + geometry.image_side]


def map_all(geometry, images, weights):
    search = Search(weights, geometry)
    for block in blocks(geometry, images, weights):
        search(block)


def map_certified(geometry, images, weights):
    search = CertifiedSearch(weights, geometry)
    for block in blocks(geometry, images, weights):
        search(block)
    # Too faint for float32 squares: the exact search decides.
    search(images[:1] * np.float32(1e-20))


def map_checked(geometry, images, weights):
    search = CertifiedSearch(weights, geometry)
    for block in blocks(geometry, images, weights):
        search(block)
        search.exact(block)


def map_polar(geometry, images, weights):
    search = PolarSearch(weights, geometry)
    for block in blocks(geometry, images, weights):
        search(block)


def train_all(geometry, images, weights):
    weights[:] = 0  # a blank map: at first all neurons are equally near
    som, wide = Som(weights, Cartesian(len(weights))), Neighbourhood("unity_gaussian", 3.0)
    trainer = OnlineTrainer(som, wide, geometry)
    # In a survey every rotation is the best of some image.
    for k in range(geometry.base_rotations):
        frame_taps(geometry, k)
    trainer.train(images[:17])


METHODS = {
    "exact": (map_all, projected_memory),
    "certified": (map_certified, certified_memory),
    "checked": (map_checked, partial(certified_memory, checked=True)),
    "polar": (map_polar, polar_memory),
    "training": (train_all, training_memory),
}


@pytest.fixture(scope="module", autouse=True)
def loaded():
    """Compiled kernels and libraries are in memory before anything is measured."""
    geometry = Geometry.derive(12, 8)
    images, weights = arrays(geometry, 4, 1, 3)
    for work, _ in METHODS.values():
        work(geometry, images, weights)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("geometry", "neurons", "channels"), CASES)
def test_arrays_stay_within_their_projection(geometry, neurons, channels, method):
    images, weights = arrays(geometry, neurons, channels, 80)
    work, project = METHODS[method]
    measured = peak(lambda: work(geometry, images, weights))
    projected = project(geometry, neurons=neurons, channels=channels)
    assert measured <= projected <= LARGEST_RATIO * measured


@pytest.mark.parametrize("method", ["exact", "polar"])
def test_memory_of_mapping_does_not_grow_with_the_number_of_images(method):
    geometry = Geometry.derive(24, 8)
    images, weights = arrays(geometry, 16, 1, 512)
    work, _ = METHODS[method]
    few = peak(lambda: work(geometry, images[:64], weights))
    many = peak(lambda: work(geometry, images, weights))
    assert many <= few + 16384


@pytest.mark.parametrize("project", [projected_memory, certified_memory, polar_memory])
def test_projection_grows_with_what_it_is_given(project):
    geometry = Geometry.derive(150)
    one = project(geometry, neurons=100, channels=1)
    assert project(geometry, neurons=100, channels=1, workers=3) == 3 * one
    assert project(geometry, neurons=100, channels=2) > one
    assert project(geometry, neurons=400, channels=1) > one
    assert project(geometry, neurons=100, channels=1, batch=16) == one
    assert project(geometry, neurons=100, channels=1, batch=128) > one
    assert 20e6 < one < 200e6


def test_without_interpolation_the_certified_search_is_the_exact_one():
    geometry = Geometry.derive(64, 4)
    assert certified_memory(geometry, neurons=100, channels=1) == projected_memory(geometry, neurons=100, channels=1)


@pytest.mark.parametrize("region", ["quadratic", "circular"])
def test_orbits_are_counted_without_their_tables(region):
    for neuron_side in range(2, 14):
        for region_side in range(2, neuron_side + 1):
            geometry = Geometry(9, neuron_side, region_side, region, 4)
            assert orbit_count(geometry) == len(dihedral.orbits(geometry))
