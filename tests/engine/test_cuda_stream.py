"""Streams, memory and shapes of the CUDA backend without a GPU."""

import importlib.util
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from skysom.engine import Geometry, dihedral
from skysom.engine.cuda.device import GEOMETRIES_KEPT, device_tables
from skysom.engine.cuda.plan import device_memory
from skysom.engine.cuda.stream import StreamedSearch
from skysom.engine.errors import EngineError, ShapeError
from skysom.engine.transforms import transform

if "cuda_on_cpu" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("cuda_on_cpu", Path(__file__).with_name("cuda_on_cpu.py"))
    sys.modules["cuda_on_cpu"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["cuda_on_cpu"])
cuda_on_cpu = sys.modules["cuda_on_cpu"]
case, on_device = cuda_on_cpu.case, cuda_on_cpu.on_device

needs_compiler = pytest.mark.skipif(cuda_on_cpu.COMPILER is None, reason=cuda_on_cpu.NO_COMPILER)


@pytest.fixture(scope="module")
def device():
    return cuda_on_cpu.HostDevice()


@needs_compiler
def test_a_stream_gives_what_single_blocks_give_however_it_is_cut(device):
    geometry = Geometry.derive(7, 12, True, "circular")
    count = 2 * 256 + 30
    images, weights = case(geometry, 2, 6, count)
    weights[4] = transform(images[300], 7, geometry)
    search, streamed = on_device(weights, geometry, device), StreamedSearch(weights, geometry, device)
    assert search.block_images == streamed.block_images == 256
    whole = streamed(images)
    for first in range(0, count, 256):
        alone = search(images[first : first + 256])
        for name in ("distance", "transform", "bmu", "bmu_distance"):
            np.testing.assert_array_equal(getattr(whole, name)[first : first + 256], getattr(alone, name))
    # An image alone in the place it has among others.
    for cut in (1, 17, 256):
        part = streamed(images[:cut])
        for name in ("distance", "transform", "bmu", "bmu_distance"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[:cut])
    assert streamed(images.astype(np.float64)).distance.dtype == np.float32


@needs_compiler
def test_a_stream_left_before_its_end_leaves_the_next_alone(device):
    geometry = Geometry.derive(6, 8)
    images, weights = case(geometry, 1, 3, 700)
    streamed = StreamedSearch(weights, geometry, device)
    wanted = streamed(images[500:])
    left = streamed.stream([images[:256], images[256:512], images[512:]])
    next(left)
    left.close()
    np.testing.assert_array_equal(streamed(images[500:]).distance, wanted.distance)


@needs_compiler
def test_no_stream_touches_what_another_may_still_be_at(monkeypatch):
    geometry = Geometry.derive(6, 8)
    images, weights = case(geometry, 1, 3, 5 * 256)
    weights[1] = transform(images[7], 3, geometry)

    def searched():
        streamed = StreamedSearch(weights, geometry, cuda_on_cpu.HostDevice(ordered=True))
        streamed(images)
        next(streamed.stream([images[:9], images[9:20], images[20:30]]))
        streamed.renew(weights + 1)
        streamed(images[:300])

    searched()
    for forgotten in (cuda_on_cpu.Stream.wait_event, cuda_on_cpu.Stream.synchronize):
        with monkeypatch.context() as forgetful:
            forgetful.setattr(cuda_on_cpu.Stream, forgotten.__name__, lambda *_: None)
            with pytest.raises(AssertionError, match="may still be at"):
                searched()


@needs_compiler
def test_a_search_goes_on_with_another_state_of_the_map(device):
    geometry = Geometry.derive(6, 8)
    images, weights = case(geometry, 1, 3, 9)
    streamed = StreamedSearch(weights, geometry, device)
    streamed(images)
    streamed.renew(weights + 1)
    wanted = StreamedSearch(weights + 1, geometry, device)(images)
    np.testing.assert_array_equal(streamed(images).distance, wanted.distance)
    with pytest.raises(ShapeError, match=r"2, 1, 9, 9.*3, 1, 9, 9"):
        streamed.renew(weights[:2])


@needs_compiler
def test_a_device_keeps_the_tables_of_a_few_geometries():
    device, geometries = cuda_on_cpu.HostDevice(), [Geometry.derive(side, 4) for side in range(4, 12)]
    kept = [device_tables(device, geometry) for geometry in geometries]
    assert len(device.tables) == GEOMETRIES_KEPT
    assert device_tables(device, geometries[-1]) is kept[-1]


@needs_compiler
def test_streams_of_nothing_and_of_the_wrong_shape(device):
    geometry = Geometry.derive(6, 8)
    images, weights = case(geometry, 1, 3, 2)
    streamed = StreamedSearch(weights, geometry, device)
    empty = streamed(images[:0])
    assert empty.distance.shape == empty.transform.shape == (0, 3)
    assert empty.bmu.shape == empty.bmu_distance.shape == (0,)
    with pytest.raises(ShapeError, match="7, 7"):
        streamed(np.zeros((1, 1, 7, 7), np.float32))
    with pytest.raises(ShapeError, match="257"):
        list(streamed.stream([np.zeros((257, 1, 6, 6), np.float32)]))
    with pytest.raises(ShapeError, match="257"):
        on_device(weights, geometry, device)(np.zeros((257, 1, 6, 6), np.float32))


@needs_compiler
def test_a_map_that_does_not_fit_is_refused_by_name():
    geometry = Geometry.derive(6, 8)
    with pytest.raises(EngineError, match=r"3 neurons.*0\.00 GiB are free"):
        StreamedSearch(case(geometry, 1, 3, 1)[1], geometry, cuda_on_cpu.HostDevice(memory=1000))


@needs_compiler
@pytest.mark.parametrize(
    ("geometry", "neurons", "channels"),
    [
        (Geometry.derive(32, 40, True, "circular"), 49, 1),
        (Geometry.derive(24, 8), 200, 3),
        (Geometry.derive(40, 60, False, "circular"), 9, 2),
        (Geometry.derive(20, 360), 100, 1),
        (Geometry.derive(32, 1, False), 25, 1),
    ],
)
def test_memory_stays_within_its_projection(geometry, neurons, channels, monkeypatch):
    monkeypatch.setattr("skysom.engine.cuda.plan.PANEL_BYTES", 1 << 25)
    device = cuda_on_cpu.HostDevice()
    images, weights = case(geometry, channels, neurons, 300)
    weights[:3] = np.stack([transform(images[n], n % geometry.transforms, geometry) for n in range(3)])
    dihedral.orbits(geometry)
    tracemalloc.start()
    try:
        streamed = StreamedSearch(weights, geometry, device)
        streamed(images)
        measured = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # On NumPy the pinned memory and the results are counted, too.
    measured -= sum(slot.pinned.nbytes for slot in streamed._slots)
    measured -= sum(host.nbytes for slot in streamed._slots for host in slot.results)
    projected = device_memory(geometry, neurons, channels)
    assert measured <= projected <= 2 * measured, measured / projected


def test_device_memory_grows_with_what_it_is_given():
    geometry = Geometry.derive(150)
    one = device_memory(geometry, 100, 1)
    assert device_memory(geometry, 100, 2) > one
    assert device_memory(geometry, 400, 1) > one
    assert device_memory(geometry, 100, 1, images=1000) == one + 1000 * 4 * 150**2
    assert 0.5e9 < one < 1e9
    assert device_memory(geometry, 1600, 2) < 6e9
