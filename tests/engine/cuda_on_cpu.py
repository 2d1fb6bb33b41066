"""The CUDA kernels compiled by the C compiler, and a device that launches them on NumPy arrays.

One thread of the grid runs after another, so a test covers the index arithmetic, the numbers and the memory that is
touched; what the order of threads changes shows when they are run backwards.
"""

import ctypes
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from skysom.engine import Geometry
from skysom.engine.cuda.device import KERNELS, SOURCE
from skysom.engine.cuda.plan import OPTIONS
from skysom.engine.cuda.search import DeviceSearch
from skysom.engine.errors import GeometryError
from skysom.engine.exact import Search

COMPILER = shutil.which("gcc") or shutil.which("cc")
NO_COMPILER = "no C compiler to build the kernels for the CPU with"
FLAGS = ["-O2", "-ffp-contract=off", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]

SHIM = """
#include <math.h>
#include <stddef.h>
typedef struct { unsigned x, y, z; } Index;
static Index blockDim, blockIdx, threadIdx;
#define KERNEL static
#define INSIDE static inline
#define ALIGNED __attribute__((aligned(16)))
#include "%s"
"""
LAUNCHER = """
void launch_%(name)s(const unsigned *grid, const unsigned *block, int backwards, %(parameters)s)
{
    const size_t threads = (size_t)block[0] * block[1] * block[2];
    const size_t all = threads * grid[0] * grid[1] * grid[2];
    blockDim.x = block[0]; blockDim.y = block[1]; blockDim.z = block[2];
    for (size_t i = 0; i < all; i++) {
        const size_t at = backwards ? all - 1 - i : i, b = at / threads, t = at %% threads;
        blockIdx.x = b %% grid[0]; blockIdx.y = b / grid[0] %% grid[1]; blockIdx.z = b / grid[0] / grid[1];
        threadIdx.x = t %% block[0]; threadIdx.y = t / block[0] %% block[1]; threadIdx.z = t / block[0] / block[1];
        %(name)s(%(names)s);
    }
}
"""
KINDS = {"float": np.float32, "double": np.float64, "int": np.int32, "unsigned char": np.uint8, "Tap": np.int32}


def signatures():
    """{kernel: [(NumPy type or None for C's int, whether it may be written, name)]}, read from the source."""
    found = {}
    for name, parameters in re.findall(r"KERNEL void (\w+)\(([^)]*)\)", SOURCE.read_text()):
        found[name] = []
        for parameter in parameters.split(","):
            const, kind, pointer, own = re.fullmatch(
                r"\s*(const )?([\w ]+?) (\*__restrict__ )?(\w+)\s*", parameter
            ).groups()
            assert pointer or kind == "int"
            found[name].append((KINDS[kind] if pointer else None, pointer and not const, own))
    return found


@lru_cache(maxsize=2)
def library(sanitize=False):
    """The kernels as a shared library, with the address sanitizer if asked."""
    source = SHIM % SOURCE
    for name, parameters in re.findall(r"KERNEL void (\w+)\(([^)]*)\)", SOURCE.read_text()):
        names = ", ".join(own for _, _, own in signatures()[name])
        source += LAUNCHER % {"name": name, "parameters": parameters, "names": names}
    folder = Path(tempfile.mkdtemp(prefix="skysom-kernels-"))
    try:
        (folder / "kernels.c").write_text(source)
        defines = [option for option in OPTIONS if option.startswith("-D")]
        flags = [*FLAGS, *(["-fsanitize=address,undefined", "-g"] if sanitize else [])]
        command = [COMPILER, *flags, *defines, "-o", folder / "kernels.so", folder / "kernels.c", "-lm"]
        subprocess.run(command, check=True)
        return ctypes.CDLL(folder / "kernels.so")
    finally:
        shutil.rmtree(folder)


class Clocks:
    """What is known to be done: for the host and each stream, how many steps of every stream lie before it."""

    def __init__(self):
        self.known = {"host": Counter(), "default": Counter()}
        self.current, self.steps, self.kept = ["default"], [], []

    def learn(self, who, other):
        self.known[who] |= other

    def step(self, arrays, stream=None):
        """A step on a stream, and whether all that it touches is its own by then: ``arrays`` are (array, written)."""
        own = stream.name if stream else self.current[-1]
        self.learn(own, self.known["host"])
        self.known[own][own] += 1
        for array, written in arrays:
            first = array.ctypes.data
            last = first + array.nbytes
            for begin, end, wrote, by, number in self.steps:
                if begin < last and first < end and (wrote or written) and self.known[own][by] < number:
                    raise AssertionError(f"stream {own} touches what stream {by} may still be at")
            self.steps.append((first, last, written, own, self.known[own][own]))
            self.kept.append(array)  # its address is not given to another


class Stream:
    """Everything is done at once; `Clocks` knows what may not be on a GPU."""

    def __init__(self, clocks):
        self.clocks, self.name = clocks, len(clocks.known)
        clocks.known[self.name] = Counter()

    def __enter__(self):
        self.clocks.current.append(self.name)
        return self

    def __exit__(self, *_):
        self.clocks.current.pop()

    def wait_event(self, event):
        self.clocks.learn(self.name, event.known)

    def synchronize(self):
        self.clocks.learn("host", self.clocks.known[self.name])


class Event:
    def __init__(self, clocks):
        self.clocks, self.known = clocks, Counter()

    def record(self, stream):
        self.known = self.clocks.known[stream.name].copy()

    def synchronize(self):
        self.clocks.learn("host", self.known)


class HostDevice:
    """What `skysom.engine.cuda.Device` is on a GPU, on NumPy arrays."""

    xp = np

    def __init__(self, backwards=False, sanitize=False, memory=1 << 40, ordered=False):
        self.library, self.backwards, self.memory = library(sanitize), backwards, memory
        self.signatures, self.launched, self.tables = signatures(), [], {}
        self.clocks, self.ordered = Clocks(), ordered
        assert set(self.signatures) == set(KERNELS)

    def launch(self, name, grid, block, *arguments):
        grid, block = ((*shape, 1, 1)[:3] for shape in (grid, block))
        assert all(0 < size < limit for size, limit in zip(grid, (1 << 31, 1 << 16, 1 << 16), strict=True))
        assert np.prod(block) <= 1024
        self.launched.append(name)
        passed, touched = [], []
        for value, (kind, written, own) in zip(arguments, self.signatures[name], strict=True):
            if kind is None:
                assert isinstance(value, int | np.int32), own
                assert 0 <= value < 1 << 31
                passed.append(ctypes.c_int(value))
            else:
                assert value.dtype == kind, own
                assert value.flags.c_contiguous, own
                assert value.flags.writeable or not written, own
                passed.append(ctypes.c_void_p(value.ctypes.data))
                touched.append((value, written))
        if self.ordered:
            self.clocks.step(touched)
        shapes = ((ctypes.c_uint * 3)(*shape) for shape in (grid, block))
        getattr(self.library, f"launch_{name}")(*shapes, int(self.backwards), *passed)

    def scope(self):
        return nullcontext()

    def free_bytes(self):
        return self.memory

    def pool_bytes(self):
        return 0

    def stream(self, urgent=False):
        return Stream(self.clocks)

    def event(self):
        return Event(self.clocks)

    def pinned(self, shape, dtype):
        return np.empty(shape, dtype)

    def upload(self, host, array, stream):
        assert (host.shape, host.dtype) == (array.shape, array.dtype)
        assert host.flags.c_contiguous
        assert array.flags.c_contiguous
        array[...] = host
        if self.ordered:
            self.clocks.step([(host, False), (array, True)], stream)

    def download(self, array, host, stream):
        self.upload(array, host, stream)

    def host(self, array):
        return array.copy()

    def synchronize(self):
        for known in list(self.clocks.known.values()):
            self.clocks.learn("host", known)


def geometry_or_none(image, frame, side, region, rotations, flip, inner):
    try:
        geometry = Geometry(image, frame, side, region, rotations, flip, inner if region == "annular" else 0)
        _ = geometry.region_mask
    except GeometryError:
        return None
    return geometry


geometries = st.builds(
    geometry_or_none,
    st.integers(2, 11),
    st.integers(1, 14),
    st.integers(1, 14),
    st.sampled_from(["quadratic", "circular", "annular"]),
    st.sampled_from([1, 4, 8, 12]),
    st.booleans(),
    st.integers(1, 6),
).filter(lambda g: g is not None)


def case(geometry, channels, neurons, count, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.random((count, channels, geometry.image_side, geometry.image_side), np.float32)
    return images, rng.random((neurons, channels, geometry.neuron_side, geometry.neuron_side), np.float32)


def on_device(weights, geometry, device):
    return DeviceSearch(Search(weights, geometry), device)
