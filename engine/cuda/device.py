"""One GPU through CuPy: compiled kernels, streams, pinned memory, a bounded pool. CuPy is imported where it is used."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from skysom.engine import dihedral
from skysom.engine.cuda.plan import OPTIONS
from skysom.engine.errors import EngineError
from skysom.engine.geometry import Geometry

Array = Any
SOURCE = Path(__file__).with_name("kernels.cu")
GEOMETRIES_KEPT = 4
"""Geometries whose tables stay on a device."""


def unavailable() -> str | None:
    """Why no GPU can be used, None where one can.

    CuPy imports on machines without a GPU and fails at its first array, so it is asked.
    """
    try:
        import cupy
    except ImportError as error:
        return f"no CUDA device: CuPy cannot be imported ({error})"
    if not cupy.cuda.is_available():
        return "no CUDA device"
    if os.environ.get("CUPY_TF32", "0") not in ("", "0"):
        return "CUPY_TF32 is set: products would keep 10 bits of their factors and change results; unset it"
    return None


def is_on_device(array: Array) -> bool:
    """Whether ``array`` is CuPy's, without importing CuPy."""
    return type(array).__module__.split(".")[0] == "cupy"


class Tables(NamedTuple):
    """What kernels need of a geometry, on the device; `device_tables`.

    taps (R/4, O, 8, 4) int32, `Tap` of kernels.cu; weight (O,) float32; places (O, 8) int32, neuron pixel, -1 outside
    the region; seen (O, 8) uint8, bit g of column h: the sample of place g lies in the region after symmetry h;
    product (8, 8) int32.
    """

    taps: Array
    weight: Array
    places: Array
    seen: Array
    product: Array


class Device:
    """GPU ``number``, with a memory pool of its own of at most ``limit_bytes`` (0: no limit).

    Raises
    ------
    EngineError : no GPU can be used.
    """

    def __init__(self, number: int = 0, limit_bytes: int = 0) -> None:
        reason = unavailable()
        if reason is not None:
            raise EngineError(f"the search was asked to run on GPU {number}, and there is none to use: {reason}")
        import cupy
        from array_api_compat import cupy as xp

        if number >= cupy.cuda.runtime.getDeviceCount():
            raise EngineError(
                f"the search was asked to run on GPU {number} and there are {cupy.cuda.runtime.getDeviceCount()}; "
                "GPUs are counted from 0"
            )
        self.number, self.xp, self._cupy = number, xp, cupy
        self.tables: dict[Geometry, Tables] = {}
        self._pool = cupy.cuda.MemoryPool()
        with cupy.cuda.Device(number):  # limits are kept by device
            self._pool.set_limit(size=limit_bytes)

    @cached_property
    def name(self) -> str:
        """As the driver calls it."""
        return self._cupy.cuda.runtime.getDeviceProperties(self.number)["name"].decode()

    @cached_property
    def _kernels(self) -> dict[str, Any]:
        module = self._cupy.RawModule(code=SOURCE.read_text(), options=OPTIONS)
        return {name: module.get_function(name) for name in KERNELS}

    def launch(self, name: str, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any) -> None:
        """Start kernel ``name`` on the current stream; integers become C's int."""
        typed = tuple(np.int32(value) if isinstance(value, int) else value for value in arguments)
        self._kernels[name](grid, block, typed)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Arrays are made on this GPU and in its pool."""
        with self._cupy.cuda.Device(self.number), self._cupy.cuda.using_allocator(self._allocate):
            yield

    def _allocate(self, size: int) -> Any:
        """Memory of the pool. What one stream has freed the pool gives to no other, so at its limit all is returned."""
        try:
            return self._pool.malloc(size)
        except self._cupy.cuda.memory.OutOfMemoryError:
            self._pool.free_all_blocks()
            return self._pool.malloc(size)

    def free_bytes(self) -> int:
        """Bytes of the GPU's memory that nobody holds."""
        with self._cupy.cuda.Device(self.number):
            return int(self._cupy.cuda.runtime.memGetInfo()[0])

    def pool_bytes(self) -> int:
        """Bytes the pool has taken from the GPU."""
        with self._cupy.cuda.Device(self.number):
            return int(self._pool.total_bytes())

    def stream(self, urgent: bool = False) -> Any:
        """A stream that waits for no other; its kernels go first where it is urgent."""
        with self._cupy.cuda.Device(self.number):
            return self._cupy.cuda.Stream(non_blocking=True, priority=-1 if urgent else 0)

    def event(self) -> Any:
        """A mark in a stream that others can wait for."""
        with self._cupy.cuda.Device(self.number):
            return self._cupy.cuda.Event(block=True, disable_timing=True)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Host memory that the GPU copies from and to by itself."""
        import cupyx

        return cupyx.empty_pinned(shape, dtype)

    def upload(self, host: np.ndarray, array: Array, stream: Any) -> None:
        """Copy ``host``, pinned, to ``array`` on ``stream``."""
        array.set(host, stream=stream)

    def download(self, array: Array, host: np.ndarray, stream: Any) -> None:
        """Copy ``array`` to ``host``, pinned, on ``stream``."""
        array.get(stream=stream, out=host, blocking=False)

    def host(self, array: Array) -> np.ndarray:
        """A copy of ``array`` in host memory, after waiting for it."""
        return self._cupy.asnumpy(array)

    def synchronize(self) -> None:
        """Wait for everything on this GPU."""
        self._cupy.cuda.Device(self.number).synchronize()


KERNELS = (
    "image_innermost", "sample_orbits", "square_edges", "add_norms", "fold_minimum", "squared_distances",
    "direct_sums", "sample_double",
)  # fmt: skip


@lru_cache(maxsize=4)
def own_device(number: int) -> Device:
    """GPU ``number`` for arrays of callers, whose allocator and stream are used."""
    return Device(number)


def device_tables(device: Any, geometry: Geometry) -> Tables:
    """Tables of ``geometry`` on ``device``, sent there once; the device keeps those of a few geometries."""
    if geometry not in device.tables:
        while len(device.tables) >= GEOMETRIES_KEPT:
            del device.tables[next(iter(device.tables))]
        device.tables[geometry] = _sent_tables(device, geometry)
    return device.tables[geometry]


def _sent_tables(device: Any, geometry: Geometry) -> Tables:
    xp, table = device.xp, dihedral.orbits(geometry)
    taps = np.zeros((*table.taps.index.shape, 4), np.int32)
    taps[..., 0] = table.taps.index
    taps[..., 1], taps[..., 2] = (part.view(np.int32) for part in table.taps[1:])
    # Place g shows the sample of place g h after symmetry h.
    seen = np.zeros((len(table), 8), np.uint8)
    for h in range(8):
        shown = np.zeros((len(table), 8), bool)
        shown[:, dihedral.PRODUCT[:, h]] = table.inside
        seen[:, h] = np.packbits(shown, axis=1, bitorder="little")[:, 0]
    places = np.where(table.inside, table.pixels, np.int32(-1))
    made = (taps, table.weight, places, seen, dihedral.PRODUCT.astype(np.int32))
    tables = Tables(*(xp.asarray(np.ascontiguousarray(array)) for array in made))
    device.synchronize()  # other streams read them
    return tables
