"""Doctor: what this machine offers, what slows skysom here, and what to do about it; one finding a line."""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from skysom.storage.place import is_remote, place

GIGA = 1e9
GEMM_SIDE, GEMM_S = 768, 0.5
"""Side of the measured matrix product, and seconds it is repeated for."""
LEAST_GFLOPS = 20.0
"""A core with AVX2 makes several times as many of float32, undisturbed."""
LEAST_FREE_GB = 5.0
LIBRARIES = ("numpy", "scipy", "numba", "zarr", "xarray", "astropy", "pandas", "ray", "threadpoolctl")

FORCING = {
    "openblas": ("OPENBLAS_CORETYPE",),
    "mkl": ("MKL_DEBUG_CPU_TYPE", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR"),
    "blis": ("BLIS_ARCH_TYPE",),
}
"""Environment variables that choose the kernels of a BLAS, whatever the processor has."""
INSTRUCTIONS = ("none beyond SSE", "AVX", "AVX2", "AVX-512")
KERNELS = {
    "prescott core2 penryn dunnington nehalem atom athlon opteron opteron_sse3 barcelona bobcat nano": 0,
    "sandybridge bulldozer piledriver steamroller excavator": 1,
    "haswell zen zen2 zen3": 2,
    "skylakex cooperlake sapphirerapids zen4 zen5 skx knl": 3,
}
"""Instructions, as in INSTRUCTIONS, that the kernels of OpenBLAS and BLIS use, by the names they report."""


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, in words, and a remedy where it is not ok.

    fatal: skysom cannot work until it is mended.
    """

    topic: str
    state: Literal["ok", "slow", "missing"]
    words: str
    remedy: str = ""
    fatal: bool = False

    def line(self) -> str:
        return f"{self.topic:<10} {self.state:<8} {self.words}" + (f": {self.remedy}" if self.remedy else "")


def findings(output: str | None = None) -> Iterator[Finding]:
    """Everything that is looked at, as it is found; ``output`` (a path or URL) is where results would go."""
    checks: tuple[Callable[[], Finding], ...] = (
        libraries, cores, memory, blas_kernel, blas_threads, matrix_product, gpu, lambda: disk(output), compiled_loops,
    )  # fmt: skip
    for check in checks:
        finding = check()
        yield finding
        if finding.topic == "python" and finding.fatal:  # the others would need what is missing
            return


def libraries() -> Finding:
    """Versions of Python and of the libraries; a missing one is fatal."""
    found, absent = {}, []
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            absent.append(name)
    versions = ", ".join(f"{name} {version}" for name, version in found.items())
    words = f"{sys.version.split()[0]}; {versions}"
    if absent:
        return Finding("python", "missing", f"{words}; no {', '.join(absent)}", "pip install skysom", fatal=True)
    return Finding("python", "ok", words)


def cores() -> Finding:
    """Cores this process may use."""
    usable, there = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    load = os.getloadavg()[0]
    words = f"{usable} of {there} usable, load {load:.1f}"
    if load > 1.5 * there:
        return Finding("cores", "slow", words, "other programs are using them; wait, or take fewer --workers")
    return Finding("cores", "ok", words)


def memory() -> Finding:
    """Memory of the machine, and of the container where that allows less."""
    import psutil

    there = psutil.virtual_memory()
    words = f"{there.available / GIGA:.1f} of {there.total / GIGA:.1f} GB free"
    limit = _container_limit()
    if limit is not None and limit < there.total:
        words += f", {limit / GIGA:.1f} GB allowed to this container"
        remedy = f"skysom plans with {there.total / GIGA:.1f} GB: choose --workers so that they fit the limit"
        return Finding("memory", "slow", words, remedy)
    if there.available < GIGA:
        return Finding("memory", "slow", words, "close other programs, or take fewer --workers")
    return Finding("memory", "ok", words)


def _container_limit() -> int | None:
    """Bytes the control group of this process may use; None where it is not limited or does not say."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() else None
    return None


def blas_kernel() -> Finding:
    """Which BLAS NumPy uses and with which kernels; slow where the processor has better instructions."""
    library = _blas()
    if library is None:
        return Finding("blas", "slow", "none that is known", "install NumPy from a wheel (pip install numpy)")
    name, kernel = str(library["internal_api"]), str(library.get("architecture") or "unknown kernels")
    words = f"{name} {library.get('version') or ''}, {kernel} kernels"
    forced = {key: os.environ[key] for key in FORCING.get(name, ()) if os.environ.get(key)}
    has, uses = processor_level(), kernel_level(kernel)
    setting = ", ".join(f"{key}={value}" for key, value in forced.items())
    if has is None or uses is None:
        told = f"{words} (the processor has {INSTRUCTIONS[has]})" if has is not None else words
        if forced:
            return Finding("blas", "slow", f"{told}, chosen by {setting}", f"unset {', '.join(forced)}")
        return Finding("blas", "ok", told)
    words += f" ({INSTRUCTIONS[uses]}; the processor has {INSTRUCTIONS[has]})"
    if uses >= has:
        return Finding("blas", "ok", words)
    if forced:
        words += f"; {setting} forces slower kernels than the processor has"
        return Finding("blas", "slow", words, f"unset {', '.join(forced)}")
    return Finding("blas", "slow", words, "install a newer NumPy, whose BLAS knows this processor")


def _blas() -> Mapping[str, Any] | None:
    """What threadpoolctl says about the BLAS of NumPy; None where it knows none."""
    import numpy
    from threadpoolctl import threadpool_info

    found = [library for library in threadpool_info() if library["user_api"] == "blas"]
    root = str(Path(numpy.__file__).parent.parent)
    own = [library for library in found if str(library["filepath"]).startswith(f"{root}{os.sep}numpy")]
    return next(iter([*own, *found]), None)


def kernel_level(kernel: str) -> int | None:
    """Index into INSTRUCTIONS of kernels of this name; None for a name that is not known."""
    return next((level for names, level in KERNELS.items() if kernel.lower() in names.split()), None)


def processor_level() -> int | None:
    """Index into INSTRUCTIONS of what the processor (and the system) can run; None where it is no x86."""
    from numpy._core._multiarray_umath import __cpu_features__ as features  # type: ignore[attr-defined]

    if not features.get("SSE2"):
        return None
    if features.get("AVX512_SKX") or features.get("X86_V4"):
        return 3
    if features.get("AVX2") and features.get("FMA3"):
        return 2
    return 1 if features.get("AVX") else 0


def blas_threads() -> Finding:
    """Threads of BLAS in this process; workers hold it to one, whatever it is."""
    library, usable = _blas(), len(os.sched_getaffinity(0))
    threads = int(library["num_threads"]) if library is not None else 1
    words = f"{threads} of BLAS here, 1 in every worker"
    if threads > usable:
        return Finding("threads", "slow", words, f"more than the {usable} usable cores: set OMP_NUM_THREADS={usable}")
    return Finding("threads", "ok", words)


def matrix_product() -> Finding:
    """Speed of the float32 matrix product, which the search consists of, on one core."""
    rate = gemm_gflops()
    words = f"{rate:.0f} GFLOP/s in float32 matrix products on one core"
    if rate < LEAST_GFLOPS and processor_level() in (2, 3):
        remedy = "a processor like this one makes several times as many: see blas above, or the core is shared"
        return Finding("speed", "slow", words, remedy)
    return Finding("speed", "ok", words)


def gemm_gflops(seconds: float = GEMM_S) -> float:
    """Best rate of a float32 matrix product on one core, 1e9 operations a second, repeated for ``seconds``."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    left, right = np.random.default_rng(0).random((2, GEMM_SIDE, GEMM_SIDE), np.float32)
    out, best = np.empty_like(left), np.inf
    with threadpool_limits(1):
        np.matmul(left, right, out=out)
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            np.matmul(left, right, out=out)
            best = min(best, time.perf_counter() - began)
    return 2 * GEMM_SIDE**3 / best / GIGA


def gpu() -> Finding:
    """Whether CuPy can be imported and finds a device; skysom runs without."""
    driver = _driver()
    if importlib.util.find_spec("cupy") is None:
        if driver:
            return Finding("gpu", "missing", f"{driver}, but no CuPy", f"pip install {_cupy_for(driver)}")
        return Finding("gpu", "missing", "no NVIDIA driver and no CuPy", "not needed: searches run on the cores")
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
        names = []
        for number in range(count):
            properties = cupy.cuda.runtime.getDeviceProperties(number)
            names.append(f"{properties['name'].decode()} with {properties['totalGlobalMem'] / GIGA:.0f} GB")
        version = cupy.cuda.runtime.driverGetVersion()
    except Exception as error:  # CuPy raises its own errors, and those of libraries it loads
        text = str(error).strip().splitlines()
        words = f"{driver or 'no NVIDIA driver'}; CuPy finds no device ({text[0] if text else type(error).__name__})"
        remedy = "install the CuPy of the driver's CUDA version" if driver else "not needed: searches run on the cores"
        return Finding("gpu", "missing", words, remedy)
    cuda = f"CUDA {version // 1000}.{version % 1000 // 10}"
    return Finding("gpu", "ok", f"{', '.join(names)}; {driver or 'driver'} of {cuda}, CuPy {cupy.__version__}")


def _driver() -> str:
    """Devices and version of the NVIDIA driver, in words; empty where there is none."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    rows = [row.split(", ") for row in done.stdout.strip().splitlines()]
    rows = [row for row in rows if len(row) == 3]
    return f"{', '.join(f'{row[0]} ({row[1]})' for row in rows)}, driver {rows[0][2]}" if rows else ""


def _cupy_for(driver: str) -> str:
    """The package of CuPy for the driver whose version ends ``driver``: 580 and later know CUDA 13."""
    major = driver.rpartition(" ")[2].partition(".")[0]
    return "cupy-cuda13x" if major.isdigit() and int(major) >= 580 else "cupy-cuda12x"


def disk(output: str | None) -> Finding:
    """Free disk where the output is, or would be (here where none is named); fatal where it cannot be written."""
    if output is not None and is_remote(place(output)):
        return Finding("disk", "ok", f"{output} is an object store, which has no end that could be asked for")
    target = Path(output or ".").absolute()
    there = next(folder for folder in (target, *target.parents) if folder.exists())
    free = shutil.disk_usage(there).free / GIGA
    words = f"{free:.1f} GB free for {target}"
    if not there.is_dir() or not os.access(there, os.W_OK):
        return Finding("disk", "missing", f"{there} cannot be written", "give another --output", fatal=True)
    if free < LEAST_FREE_GB:
        return Finding("disk", "missing", words, "free some, or give another --output; `skysom plan` says how much")
    return Finding("disk", "ok", words)


def compiled_loops() -> Finding:
    """Whether what numba compiles can be kept: else every process compiles for half a minute when it starts."""
    from skysom.engine import kernels

    try:
        folder = kernels.sample_one.stats.cache_path
    except (AttributeError, RuntimeError):
        folder = None
    if folder is None or not _writable(Path(folder)):
        words = f"compiled loops cannot be kept in {folder or 'any folder'}, so that every worker compiles them anew"
        return Finding("numba", "slow", words, "set NUMBA_CACHE_DIR to a folder that can be written")
    return Finding("numba", "ok", f"compiled loops are kept in {folder}")


def _writable(folder: Path) -> bool:
    """Whether files can be made in ``folder``, or it could be made."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return there.is_dir() and os.access(there, os.W_OK)
