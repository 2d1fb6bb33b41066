"""The CUDA kernels compiled for the CPU, against the loops that NumPy takes."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysom.engine import Geometry, dihedral, kernels
from skysom.engine.cuda.device import SOURCE
from skysom.engine.cuda.plan import DIRECT_TRIPLES, OPTIONS
from skysom.engine.direct import direct_distances
from skysom.engine.exact import double_transforms
from skysom.engine.transforms import squared_distances, transform

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


@needs_compiler
@EXAMPLES
@given(geometries, st.integers(1, 3), seeds)
def test_sampling_equals_the_portable_form(device, geometry, channels, seed):
    images, weights = case(geometry, channels, 3, 5, seed)
    search, base = on_device(weights, geometry, device), geometry.base_rotations
    block, pixels = search.block_images, channels * geometry.image_side**2
    inner, finite = np.empty((pixels, block), np.float32), np.ones(block, np.int32)
    device.launch("image_innermost", (pixels, block // 32), (32, 1), images, 5, block, pixels, inner, finite)
    assert np.array_equal(inner[:, :5], images.reshape(5, -1).T)
    assert not inner[:, 5:].any()
    assert finite.all()
    first, norms = base // 2, np.full((8, base, block), -1.0)
    found = search.sample(inner, norms, first, base - first)
    padded = np.concatenate([images, np.zeros((block - 5, *images.shape[1:]), np.float32)])
    wanted, wanted_norms = dihedral.image_spectra(padded, search.table, first, base, search.common)
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, atol=3e-6)
    np.testing.assert_allclose(norms[:, first:], wanted_norms, rtol=1e-6, atol=1e-12)
    assert (norms[:, :first] == -1).all()


@needs_compiler
@EXAMPLES
@given(geometries, st.integers(1, 40), st.sampled_from([32, 64]), st.booleans(), seeds)
def test_the_minimum_is_the_one_of_the_compiled_loop(device, geometry, neurons, block, coarse, seed):
    rng, base = np.random.default_rng(seed), geometry.base_rotations
    found = np.full((neurons, block), np.inf, np.float32), np.zeros((neurons, block), np.int32)
    found += (np.full((neurons, block), np.nan, np.float32),)
    wanted = tuple(part.copy() for part in found)
    norms = rng.random((8, base, block))
    for first, stop in ((0, base // 2), (base // 2, base)):
        if first == stop:
            continue
        scalars = rng.standard_normal((4, neurons, (stop - first) * block), np.float32)
        matrices = rng.standard_normal((neurons, 2, 2, (stop - first) * block), np.float32)
        if coarse:  # many equal values
            scalars, matrices, norms = np.round(scalars), np.round(matrices), np.round(norms)
        device.launch(
            "fold_minimum", (block // 32, -(-neurons // 8)), (32, 8), scalars, matrices, norms, block, neurons,
            first, stop - first, base, geometry.rotations, 4 if geometry.rotations > 1 else 1,
            2 if geometry.flip else 1, *found,
        )  # fmt: skip
        kernels.minimum_block(
            scalars, matrices, norms[:, first:stop].astype(np.float32), first, base, geometry.rotations,
            np.array(geometry.elements), *wanted,
        )  # fmt: skip
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@needs_compiler
@EXAMPLES
@given(geometries, st.integers(1, 3), seeds)
def test_direct_sums_are_those_of_the_compiled_loop(device, geometry, channels, seed):
    images, weights = case(geometry, channels, 4, 3, seed)
    rng = np.random.default_rng(seed)
    rows, neurons = rng.integers(3, size=50), rng.integers(4, size=50)
    t = rng.integers(geometry.transforms, size=50)
    found = on_device(weights, geometry, device).direct_distances(images, rows, neurons, t)
    wanted = direct_distances(images, weights, geometry, rows, neurons, t)
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=1e-12)
    assert found.dtype == np.float64


@needs_compiler
def test_more_direct_sums_than_one_launch_takes(device):
    geometry = Geometry.derive(4, 4)
    images, weights = case(geometry, 1, 4, 3)
    count = DIRECT_TRIPLES + 7
    rng = np.random.default_rng(0)
    triples = rng.integers(3, size=count), rng.integers(4, size=count), rng.integers(8, size=count)
    found = on_device(weights, geometry, device).direct_distances(images, *triples)
    np.testing.assert_allclose(found, direct_distances(images, weights, geometry, *triples), rtol=2e-6)


@needs_compiler
@EXAMPLES
@given(geometries, st.integers(1, 2), seeds)
def test_products_in_float64_choose_the_best_transform(device, geometry, channels, seed):
    images, weights = case(geometry, channels, 40, 1, seed)
    for n in range(0, 40, 3):
        weights[n] = transform(images[0], n % geometry.transforms, geometry)
    search, near = on_device(weights, geometry, device), np.arange(0, 40, 1 + seed % 2)
    found = search.double_transforms(images[0], near)
    wanted = double_transforms(images[0], weights, near, search.table)
    # Both find minima; where these differ in place they are equal to rounding of the samples.
    for n, t, other in zip(near, found, wanted, strict=True):
        if t != other:
            all_of_them = squared_distances(images[0], weights[n : n + 1], geometry)[0].astype(float)
            size = float((weights[n] ** 2).sum()) + 1e-6
            assert abs(all_of_them[t] - all_of_them[other]) <= 1e-6 * size


@needs_compiler
def test_no_thread_depends_on_the_order_of_threads():
    geometry = Geometry.derive(9, 8, True, "circular")
    images, weights = case(geometry, 2, 6, 40)
    weights[2] = transform(images[3], 3, geometry)
    found = [on_device(weights, geometry, cuda_on_cpu.HostDevice(backwards))(images) for backwards in (False, True)]
    for name in ("distance", "transform", "bmu", "bmu_distance"):
        np.testing.assert_array_equal(*(getattr(match, name) for match in found))


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc to compile the kernels with")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_the_kernels_compile_for_a_gpu_without_spilling(tmp_path, architecture):
    command = ["nvcc", "--cubin", f"-arch={architecture}", "-Xptxas", "-v,-warn-spills", "-Werror", "all-warnings"]
    command += [*OPTIONS, "-o", str(tmp_path / "kernels.cubin"), str(SOURCE)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "kernels.cubin").stat().st_size > 0
    subprocess.run(["nvcc", "--ptx", *OPTIONS, "-o", str(tmp_path / "kernels.ptx"), str(SOURCE)], check=True)
    text = (tmp_path / "kernels.ptx").read_text()
    for name in cuda_on_cpu.KERNELS:
        assert f".entry {name}(" in text


SANITIZED = """
import sys
import numpy as np
sys.path.insert(0, {folder!r})
import cuda_on_cpu
from skysom.engine import Geometry
from skysom.engine.cuda.search import DeviceSearch
from skysom.engine.exact import Search
from skysom.engine.transforms import transform

device, rng = cuda_on_cpu.HostDevice(sanitize=True), np.random.default_rng(0)
cases = (
    (5, 8, 3, "quadratic", 8, 2), (6, 9, 6, "circular", 4, 1), (9, 5, 5, "quadratic", 12, 1),
    (4, 4, 4, "quadratic", 1, 3),
)
for side, frame, region_side, region, rotations, channels in cases:
    geometry = Geometry(side, frame, region_side, region, rotations)
    images = rng.random((7, channels, side, side), np.float32)
    weights = rng.random((11, channels, frame, frame), np.float32)
    weights[1] = transform(images[2], 0, geometry)
    DeviceSearch(Search(weights, geometry, xp=np), device)(images)
assert set(device.launched) == set(cuda_on_cpu.KERNELS)
print("clean")
"""


@needs_compiler
def test_no_kernel_touches_memory_that_is_not_its_own():
    """The address sanitizer is preloaded, so that NumPy's arrays have guarded ends."""
    named = subprocess.run(
        [cuda_on_cpu.COMPILER, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(named).is_absolute():
        pytest.skip("the C compiler has no address sanitizer")
    environment = {**os.environ, "LD_PRELOAD": str(Path(named).resolve()), "ASAN_OPTIONS": "detect_leaks=0"}
    code = SANITIZED.format(folder=str(Path(__file__).parent))
    made = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert made.returncode == 0, made.stderr[-4000:]
    assert "clean" in made.stdout
    assert "runtime error" not in made.stderr
