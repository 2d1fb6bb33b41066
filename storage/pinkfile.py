"""The peer's binary files, format version 2: images, maps (SOM), mappings and transforms, in blocks.

A file is an optional comment block, 32-bit integers and a payload, all little endian (specs/pink.md
section 1). Reading checks every integer and the length before any value is used, and keeps no more than
the rows asked for in memory. Writing goes to a name beside, renamed when complete. In the integers a
hexagonal map looks like a square one: the length of the payload, or the caller, tells which it is.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from skysom.storage.errors import PinkFormatError
from skysom.storage.pinkheader import Header, Layout, neuron_count, refuse

TRANSFORM = np.dtype([("flip", "i1"), ("angle", "<f4")])
"""One entry of a transform file, 5 bytes: flip 0 or 1, angle in radians."""

_FLOAT = np.dtype("<f4")


@dataclass(frozen=True)
class PinkFile:
    """What the header of a checked file says.

    path : the file. comment : the comment block as it stands in the file.
    count : rows of the payload (images; neurons of a SOM). offset : first byte of the payload.
    """

    path: Path
    comment: bytes
    count: int
    offset: int

    def _rows(self, start: int, stop: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        start, stop = max(start, 0), min(stop, self.count)
        width = math.prod(shape)
        offset = self.offset + start * width * dtype.itemsize
        values = np.fromfile(self.path, dtype, max(stop - start, 0) * width, offset=offset)
        if len(values) != max(stop - start, 0) * width:
            raise PinkFormatError(f"{self.path} became shorter while it was read; restore it and run again")
        return values.reshape(-1, *shape)


@dataclass(frozen=True)
class PinkData(PinkFile):
    """Images; ``dims`` is (H, W) or (C, H, W) as the header has it."""

    dims: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return _planes(self.dims)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Images start..stop-1, (n, C, H, W) float32."""
        return self._rows(start, stop, _FLOAT, self.shape)

    def take(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The images ``rows`` in that order, (n, C, H, W) float32."""
        images = np.empty((len(rows), *self.shape), np.float32)
        with self.path.open("rb", buffering=0) as file:
            for image, row in zip(images, rows, strict=True):
                file.seek(self.offset + int(row) * image.nbytes)
                if not 0 <= row < self.count or file.readinto(image.data) != image.nbytes:
                    raise PinkFormatError(f"{self.path} has no image {row}; it declared {self.count}")
        return images


@dataclass(frozen=True)
class PinkSom(PinkFile):
    """A map; ``som_dims`` (width, height, depth as written), ``dims`` of a neuron, and the layout found."""

    som_dims: tuple[int, ...]
    layout: str
    dims: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, D, D)."""
        return _planes(self.dims)

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Neurons start..stop-1 (default all), (n, C, D, D) float32."""
        return self._rows(start, self.count if stop is None else stop, _FLOAT, self.shape)

    def read_finite(self) -> np.ndarray:
        """All neurons, (n, C, D, D) float32; PinkFormatError where a weight is NaN or infinite."""
        weights = self.read()
        finite = np.isfinite(weights)
        if not finite.all():
            first = int(np.argmin(finite))
            neuron, channel, row, column = np.unravel_index(first, weights.shape)
            what = f"the weight of neuron {neuron}, channel {channel}, row {row}, column {column}"
            byte = self.offset + first * _FLOAT.itemsize
            refuse(self.path, byte, what, weights.flat[first], "a finite number", "train the map again")
        return weights


@dataclass(frozen=True)
class PinkMap(PinkFile):
    """Distances of every image to every neuron."""

    som_dims: tuple[int, ...]
    layout: str

    @property
    def neurons(self) -> int:
        return neuron_count(self.som_dims, self.layout)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start..stop-1, (n, neurons) float32."""
        return self._rows(start, stop, _FLOAT, (self.neurons,))


@dataclass(frozen=True)
class PinkTransforms(PinkFile):
    """Best transform of every image for every neuron."""

    som_dims: tuple[int, ...]
    layout: str

    @property
    def neurons(self) -> int:
        return neuron_count(self.som_dims, self.layout)

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows start..stop-1: flip (n, neurons) bool and angle (n, neurons) float32 in radians."""
        entries = self._rows(start, stop, TRANSFORM, (self.neurons,))
        strange = np.flatnonzero((entries["flip"] != 0) & (entries["flip"] != 1))
        if strange.size:
            first = int(strange[0])
            byte = self.offset + (max(start, 0) * self.neurons + first) * TRANSFORM.itemsize
            refuse(self.path, byte, "flip", entries["flip"].ravel()[first], "0 or 1")
        return entries["flip"].astype(bool), entries["angle"].copy()


def open_data(path: str | Path) -> PinkData:
    """Check the header and length of an image file.

    Raises PinkFormatError, naming the file, the byte, what was found and what was expected.
    """
    with Header(path, 0) as header:
        header.integer("data type", (0,), "only float32 is supported")
        count = header.count()
        header.integer("data layout", (0,), "images are Cartesian")
        dims = header.image_dims("image")
        header.payload(4 * count * math.prod(dims))
        return PinkData(header.path, header.comment, count, header.position, dims)


def open_som(path: str | Path, layout: Layout = "auto") -> PinkSom:
    """Check the header and length of a SOM file, whose map is ``layout``; raises as `open_data`."""
    with Header(path, 1) as header:
        header.integer("data type", (0,), "only float32 is supported")
        code, som_dims = header.som_dims()
        header.integer("neuron layout", (0,), "neurons are Cartesian")
        dims = header.image_dims("neuron")
        found = header.map_payload(code, som_dims, layout, 4 * math.prod(dims))
        count = neuron_count(som_dims, found)
        return PinkSom(header.path, header.comment, count, header.position, som_dims, found, dims)


def open_map(path: str | Path, layout: Layout = "auto") -> PinkMap:
    """Check the header and length of a map file; raises as `open_data`."""
    with Header(path, 2) as header:
        header.integer("data type", (0,), "only float32 is supported")
        count = header.count()
        code, som_dims = header.som_dims()
        found = header.map_payload(code, som_dims, layout, 4 * count)
        return PinkMap(header.path, header.comment, count, header.position, som_dims, found)


def open_transforms(path: str | Path, layout: Layout = "auto") -> PinkTransforms:
    """Check the header and length of a transform file; raises as `open_data`."""
    with Header(path, 3) as header:
        count = header.count()
        code, som_dims = header.som_dims()
        found = header.map_payload(code, som_dims, layout, TRANSFORM.itemsize * count)
        return PinkTransforms(header.path, header.comment, count, header.position, som_dims, found)


class PinkWriter:
    """Writes one file in blocks of rows; a context manager.

    The file takes its name when the block ends without an error and all ``count`` rows are there;
    otherwise nothing is left. Raises PinkFormatError for rows of another shape or a wrong number of them.
    """

    def __init__(
        self,
        path: str | Path,
        header: Sequence[int],
        count: int,
        dtype: np.dtype,
        shape: tuple[int, ...],
        comment: bytes = b"",
    ) -> None:
        if not 0 < count < 1 << 31:
            raise PinkFormatError(f"{path}: {count} rows cannot be written; the format holds 1 to 2^31 - 1")
        self.path = Path(path).resolve()
        self.count, self.written = count, 0
        self._dtype, self._shape = dtype, shape
        # A device or a pipe cannot be renamed onto.
        special = self.path.exists() and not self.path.is_file()
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        self._beside = self.path if special else beside
        self._file = self._beside.open("wb")
        self._file.write(comment + np.asarray(header, "<i4").tobytes())

    def write(self, values: np.ndarray) -> None:
        """Append rows (n, ...)."""
        if values.shape[1:] != self._shape:
            raise PinkFormatError(f"{self.path}: rows have shape {values.shape[1:]}, expected {self._shape}")
        self._file.write(np.ascontiguousarray(values, self._dtype).data)
        self.written += len(values)

    def __enter__(self) -> "PinkWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self.written == self.count:
                self._file.flush()
                if self._beside != self.path:
                    os.fsync(self._file.fileno())
                    self._beside.replace(self.path)
        finally:
            self._file.close()
            if self._beside != self.path:
                self._beside.unlink(missing_ok=True)
        if kind is None and self.written != self.count:
            found = f"{self.written} rows were written, the header says {self.count}"
            raise PinkFormatError(f"{self.path}: {found}; nothing was kept")


def data_writer(path: str | Path, count: int, dims: Sequence[int]) -> PinkWriter:
    """Writer of ``count`` images, dims (H, W) or (C, H, W); rows are (n, C, H, W)."""
    return PinkWriter(path, (2, 0, 0, count, 0, len(dims), *dims), count, _FLOAT, _planes(dims))


def map_writer(path: str | Path, count: int, som_dims: Sequence[int], layout: str) -> PinkWriter:
    """Writer of the distances of ``count`` images; rows are (n, neurons)."""
    header = (2, 2, 0, count, 0, len(som_dims), *som_dims)
    return PinkWriter(path, header, count, _FLOAT, (neuron_count(som_dims, layout),))


def transform_writer(path: str | Path, count: int, som_dims: Sequence[int], layout: str) -> PinkWriter:
    """Writer of the best transforms of ``count`` images; rows are `transform_entries` (n, neurons)."""
    header = (2, 3, count, 0, len(som_dims), *som_dims)
    return PinkWriter(path, header, count, TRANSFORM, (neuron_count(som_dims, layout),))


def transform_entries(flip: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Entries of a transform file from flip and angle (radians) of one shape."""
    entries = np.empty(flip.shape, TRANSFORM)
    entries["flip"], entries["angle"] = flip, angle
    return entries


def write_som(
    path: str | Path, weights: np.ndarray, som_dims: Sequence[int], dims: Sequence[int], comment: bytes = b""
) -> None:
    """Write a map: weights (N, C, D, D), header dimensions of the map and of a neuron, comment block."""
    header = (2, 1, 0, 0, len(som_dims), *som_dims, 0, len(dims), *dims)
    with PinkWriter(path, header, len(weights), _FLOAT, _planes(dims), comment) as writer:
        writer.write(weights)


def _planes(dims: Sequence[int]) -> tuple[int, int, int]:
    return (1, dims[0], dims[1]) if len(dims) == 2 else (dims[0], dims[1], dims[2])
