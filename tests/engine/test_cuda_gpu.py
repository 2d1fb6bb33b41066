"""The CUDA backend on a GPU, against NumPy and against its own kernels compiled for the CPU."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from skysom.engine import Cartesian, Geometry, Som, best_match, cuda, dihedral
from skysom.engine.cuda.plan import Plan, pool_limit
from skysom.engine.cuda.search import DeviceSearch
from skysom.engine.exact import Search
from skysom.engine.transforms import transform

_reason = cuda.unavailable()
pytestmark = pytest.mark.skipif(_reason is not None, reason=str(_reason))

if "cuda_on_cpu" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("cuda_on_cpu", Path(__file__).with_name("cuda_on_cpu.py"))
    sys.modules["cuda_on_cpu"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["cuda_on_cpu"])
cuda_on_cpu = sys.modules["cuda_on_cpu"]

FIELDS = ("distance", "transform", "bmu", "bmu_distance")
GEOMETRIES = [
    Geometry.derive(24, 40, True, "quadratic"),
    Geometry.derive(25, 360, True, "circular"),
    Geometry.derive(20, 12, False, "circular"),
    Geometry.derive(16, 1, True, "quadratic"),
    Geometry(30, 16, 15, "quadratic", 60),
]


@pytest.fixture(scope="module")
def device():
    return cuda.Device()


def case(geometry, channels, neurons, count, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.random((count, channels, geometry.image_side, geometry.image_side), np.float32)
    weights = rng.random((neurons, channels, geometry.neuron_side, geometry.neuron_side), np.float32)
    weights[1] = transform(images[0], geometry.transforms - 1, geometry)
    return images, weights


def numpy_match(images, weights, geometry):
    som = Som(weights, Cartesian(len(weights)))
    return best_match(images, som, geometry.rotations, geometry.flip, geometry.region, geometry.region_side, "exact")


def assert_same(found, wanted, weights, geometry):
    size = np.sqrt((weights[..., geometry.region_mask].astype(float) ** 2).sum(axis=(1, 2)))
    tolerance = 5e-6 * wanted.distance + 3e-7 * size
    np.testing.assert_array_less(np.abs(found.distance - wanted.distance), tolerance)
    np.testing.assert_array_equal(found.bmu, wanted.bmu)
    assert (found.transform == wanted.transform).mean() > 0.99


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_streamed_images_match_as_on_numpy(geometry, channels):
    images, weights = case(geometry, channels, 21, 300)
    assert_same(
        cuda.StreamedSearch(weights, geometry)(images), numpy_match(images, weights, geometry), weights, geometry
    )


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_cupy_arrays_match_as_on_numpy(geometry):
    import cupy

    images, weights = case(geometry, 2, 21, 300)
    som = Som(cupy.asarray(weights), Cartesian(21))
    found = best_match(
        cupy.asarray(images), som, geometry.rotations, geometry.flip, geometry.region, geometry.region_side, "exact"
    )
    assert all(cuda.is_on_device(getattr(found, name)) for name in FIELDS)
    plain = type(found)(**{name: cupy.asnumpy(value) for name, value in vars(found).items()})
    assert_same(plain, numpy_match(images, weights, geometry), weights, geometry)


@pytest.mark.skipif(cuda_on_cpu.COMPILER is None, reason=cuda_on_cpu.NO_COMPILER)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_kernels_give_the_bits_of_the_same_source_on_the_cpu(device, geometry):
    images, weights = case(geometry, 2, 9, 40)
    rng, found = np.random.default_rng(1), []
    plan, base = Plan.of(geometry, 9, 2), geometry.base_rotations
    block, pixels = plan.block_images, 2 * geometry.image_side**2
    common = rng.random((2, plan.orbits), np.float32)
    columns = base * block
    scalars = rng.standard_normal((4, 9, columns), np.float32)
    matrices = rng.standard_normal((18, 2 * columns), np.float32)
    triples = rng.integers(40, size=500), rng.integers(9, size=500), rng.integers(geometry.transforms, size=500)
    for own in (device, cuda_on_cpu.HostDevice()):
        xp, host = own.xp, np.asarray if own is not device else own.host
        with own.scope():
            search = DeviceSearch(Search(xp.asarray(weights), geometry, xp=xp), own)
            search.common, ours = xp.asarray(common), xp.asarray(images)
            inner, finite = xp.empty((pixels, block), dtype=xp.float32), xp.ones((block,), dtype=xp.int32)
            own.launch("image_innermost", (pixels, block // 32), (32, 1), ours, 40, block, pixels, inner, finite)
            norms = xp.empty((8, base, block), dtype=xp.float64)
            spectra = search.sample(inner, norms, 0, min(plan.panel, base))
            best = xp.full((9, block), xp.inf, dtype=xp.float32)
            best_t, product = xp.zeros((9, block), dtype=xp.int32), xp.zeros((9, block), dtype=xp.float32)
            own.launch(
                "fold_minimum", (block // 32, 2), (32, 8), xp.asarray(scalars), xp.asarray(matrices), norms, block, 9,
                0, base, base, geometry.rotations, 4 if geometry.rotations > 1 else 1, 2 if geometry.flip else 1,
                best, best_t, product,
            )  # fmt: skip
            direct = search.direct_distances(ours, *(xp.asarray(part) for part in triples))
            found.append([host(part) for part in (inner, *spectra, norms, best, best_t, product, direct)])
    for one, other in zip(*found, strict=True):
        if one.ndim > 1:
            np.testing.assert_array_equal(one, other)
        else:  # lanes of direct sums, added by each library in its order
            np.testing.assert_allclose(one, other, rtol=1e-14)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_company_changes_nothing_and_place_no_more_than_rounding(geometry):
    images, weights = case(geometry, 1, 37, 300)
    search = cuda.StreamedSearch(weights, geometry)
    together = search(images)
    for rows in ([0], list(range(33)), list(range(257))):  # in the places they have together
        part = search(images[rows])
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(part, name), getattr(together, name)[rows])
    for rows in ([4], list(range(299, -1, -1)), [299, 7, 130]):
        part = search(images[rows])
        for name in ("transform", "bmu"):
            np.testing.assert_array_equal(getattr(part, name), getattr(together, name)[rows])
        for name in ("distance", "bmu_distance"):
            np.testing.assert_allclose(getattr(part, name), getattr(together, name)[rows], rtol=3e-7)


def test_what_is_not_finite_harms_no_other():
    geometry = GEOMETRIES[0]
    images, weights = case(geometry, 1, 5, 10)
    search = cuda.StreamedSearch(weights, geometry)
    wanted = search(images)
    images[3], images[7, 0, 0, 0] = np.nan, np.inf
    found, good = search(images), [0, 1, 2, 4, 5, 6, 8, 9]
    assert np.isnan(found.distance[[3, 7]]).all()
    assert not found.bmu[[3, 7]].any()
    assert not found.transform[[3, 7]].any()
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(found, name)[good], getattr(wanted, name)[good])


def test_the_pool_stays_within_the_projection():
    geometry = Geometry.derive(64, 360)
    images, weights = case(geometry, 1, 100, 600)
    dihedral.orbits(geometry)
    search = cuda.StreamedSearch(weights, geometry)
    search(images)
    search.renew(weights + 1)
    search(images)
    assert search.device.pool_bytes() <= pool_limit(cuda.device_memory(geometry, 100, 1))
