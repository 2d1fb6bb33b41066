"""The search of the CUDA backend without a GPU: its kernels compiled for the CPU, the rest on NumPy arrays."""

import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from skysom.engine import Geometry, dihedral
from skysom.engine import cuda as cuda_module
from skysom.engine.cuda.plan import IMAGES_A_THREAD, PANEL_BYTES, Plan
from skysom.engine.errors import EngineError
from skysom.engine.exact import NEAR_TIE, Search
from skysom.engine.transforms import transform

if "cuda_on_cpu" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("cuda_on_cpu", Path(__file__).with_name("cuda_on_cpu.py"))
    sys.modules["cuda_on_cpu"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["cuda_on_cpu"])
cuda_on_cpu = sys.modules["cuda_on_cpu"]
case, on_device, geometries = cuda_on_cpu.case, cuda_on_cpu.on_device, cuda_on_cpu.geometries

needs_compiler = pytest.mark.skipif(cuda_on_cpu.COMPILER is None, reason=cuda_on_cpu.NO_COMPILER)
EXAMPLES = settings(max_examples=40)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def device():
    return cuda_on_cpu.HostDevice()


def assert_same(found, wanted, images, weights, geometry):
    """The BMU equal and distances to 5e-6, but for what rounding of the samples leaves of near-perfect matches."""
    size = np.sqrt((weights[..., geometry.region_mask].astype(float) ** 2).sum(axis=(1, 2)))
    tolerance = 5e-6 * wanted.distance + 3e-7 * size + 1e-30
    np.testing.assert_array_less(np.abs(found.distance - wanted.distance), tolerance)
    rows = np.arange(len(images))
    np.testing.assert_array_equal(found.bmu_distance, found.distance[rows, found.bmu])
    for b in np.flatnonzero(found.bmu != wanted.bmu):
        assert wanted.distance[b, found.bmu[b]] <= wanted.bmu_distance[b] + tolerance[b, wanted.bmu[b]]
    for b, n in np.argwhere(found.transform != wanted.transform):
        turned = transform(images[b], int(found.transform[b, n]), geometry)
        chosen = ((turned - weights[n]).astype(float)[:, geometry.region_mask] ** 2).sum()
        assert chosen <= wanted.distance[b, n].astype(float) ** 2 * (1 + 1e-5) + NEAR_TIE * size[n] ** 2
    assert found.distance.dtype == found.bmu_distance.dtype == np.float32
    assert found.transform.dtype == found.bmu.dtype == np.int64
    assert found.exact.all()


@needs_compiler
@EXAMPLES
@given(geometries, st.integers(1, 3), st.sampled_from(["noise", "near", "smooth", "zero"]), st.integers(1, 9), seeds)
def test_the_whole_search_equals_the_one_on_numpy(device, geometry, channels, kind, neurons, seed):
    images, weights = case(geometry, channels, neurons, 4, seed)
    if kind in ("smooth", "near"):
        images = gaussian_filter(images, (0, 0, 2, 2))
    if kind == "zero":
        images[:] = 0
    if kind == "near":
        for n in range(neurons):
            weights[n] = transform(images[n % 4], n % geometry.transforms, geometry) + 1e-3 * weights[n]
    found = on_device(weights, geometry, device)(images)
    assert_same(found, Search(weights, geometry)(images), images, weights, geometry)


@needs_compiler
@pytest.mark.parametrize("region", ["quadratic", "circular"])
@pytest.mark.parametrize("rotations", [1, 20, 360])
def test_panels_of_rotations_and_smaller_blocks_change_no_more_than_rounding(device, region, rotations, monkeypatch):
    geometry = Geometry.derive(13, rotations, True, region)
    images, weights = case(geometry, 2, 11, 30)
    wanted = Search(weights, geometry)(images)
    for panel_bytes in (1 << 20, 1 << 24):
        monkeypatch.setattr("skysom.engine.cuda.plan.PANEL_BYTES", panel_bytes)
        search = on_device(weights, geometry, device)
        assert search.block_images in (64, 128, 256)
        assert search.plan.panel < geometry.base_rotations or rotations < 360
        assert_same(search(images), wanted, images, weights, geometry)


@needs_compiler
def test_arrays_in_any_order_are_searched_as_they_are(device):
    geometry = Geometry.derive(8, 12)
    images, weights = case(geometry, 2, 6, 9)
    wanted = on_device(weights, geometry, device)(images)
    found = on_device(np.asfortranarray(weights), geometry, device)(np.asfortranarray(images))
    for name in ("distance", "transform", "bmu", "bmu_distance"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


@needs_compiler
def test_near_perfect_pairs_are_counted(device):
    geometry = Geometry.derive(8, 12)
    images, weights = case(geometry, 1, 6, 3)
    weights[[1, 4]] = transform(images[1], 5, geometry)
    search = on_device(weights, geometry, device)
    found = search(images)
    assert found.transform[1, [1, 4]].tolist() == [5, 5]
    assert found.bmu[1] == 1
    assert search.double_pairs == 2
    np.testing.assert_allclose(found.distance[1, [1, 4]], 0, atol=1e-6)


@needs_compiler
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_harms_no_other(device, bad):
    geometry = Geometry.derive(8, 8, True, "circular")
    images, weights = case(geometry, 1, 5, 6)
    wanted = on_device(weights, geometry, device)(images)
    images[1], images[3, 0, 0, 0] = bad, bad
    with np.errstate(invalid="ignore"):  # a GPU does not warn
        found = on_device(weights, geometry, device)(images)
    assert np.isnan(found.distance[[1, 3]]).all()
    assert np.isnan(found.bmu_distance[[1, 3]]).all()
    assert not found.transform[[1, 3]].any()
    assert not found.bmu[[1, 3]].any()
    good = [0, 2, 4, 5]
    for name in ("distance", "transform", "bmu", "bmu_distance"):
        np.testing.assert_array_equal(getattr(found, name)[good], getattr(wanted, name)[good])
    weights[2, 0, 5, 5] = bad
    with np.errstate(invalid="ignore"):
        found = on_device(weights, geometry, device)(images)
        plain = Search(weights, geometry)(images)
    np.testing.assert_allclose(found.distance[:, [0, 1, 3, 4]], plain.distance[:, [0, 1, 3, 4]], rtol=5e-6)
    assert np.array_equal(found.bmu, plain.bmu)


def test_the_plan_depends_on_geometry_and_map_alone():
    survey = Plan.of(Geometry.derive(150), 100, 1)
    assert (survey.orbits, survey.complete, survey.block_images) == (1485, 1431, 256)
    assert [stop - first for first, stop in survey.panels()] == [45, 45]
    for neurons, channels, side in ((1600, 2, 150), (331, 1, 124), (4, 3, 900), (100, 1, 20)):
        plan = Plan.of(Geometry.derive(side), neurons, channels)
        assert plan.block_images % (32 * IMAGES_A_THREAD) == 0
        panels = list(plan.panels())
        assert panels[0][0] == 0
        assert panels[-1][1] == 90
        assert all(stop == first for (_, stop), (first, _) in itertools.pairwise(panels))
        assert 32 * (plan.rows + neurons) * plan.block_images * plan.panel <= PANEL_BYTES


@EXAMPLES
@given(geometries)
def test_orbits_are_counted_without_their_tables(geometry):
    table, plan = dihedral.orbits(geometry), Plan.of(geometry, 3, 1)
    assert (plan.orbits, plan.complete) == (len(table), table.complete)


def test_nothing_imports_cupy():
    code = "import sys; import skysom.engine.cuda as cuda; assert 'cupy' not in sys.modules; cuda.is_on_device(1)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_a_gpu_the_reason_is_a_sentence():
    reason = cuda_module.unavailable()
    if reason is None:
        pytest.skip("there is a CUDA device")
    assert reason.startswith("no CUDA device")
    with pytest.raises(EngineError, match=r"GPU 0.*none to use"):
        cuda_module.Device()
