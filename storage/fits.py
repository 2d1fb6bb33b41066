"""FITS images in: one reader for cut-outs and mosaics that never zero-fills and never crashes on a bad file.

Lengths are checked against the header before astropy reads anything, because a short file is otherwise
padded or mapped without notice; whatever is wrong with one file becomes a name of ``status.STATUSES``.
"""

import gzip
import io
import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_area

from skysom.storage.errors import PlaceError, StorageError
from skysom.storage.place import Place, open_binary, place

BLOCK = 2880
MAX_PIXELS = 2**33
"""Larger images are refused before memory is asked for."""
MAX_DEFLATE_RATIO = 1100
"""Deflate cannot exceed 1032:1, so a larger claim is false."""
MAX_TILE_RATIO = 10_000
"""Most pixels a byte of a tile-compressed (.fz) file may stand for."""
MAX_AXES = 999
MAX_KEY_BYTES = 1024
"""Longest name of an object in S3."""


class ImageProblem(StorageError):
    """One unusable image; ``status`` is the name of the cause in ``status.STATUSES``."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(status, message)  # both in args, so that it pickles
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class FitsImage:
    """An image: data (H, W) float32 (NaN = no data), celestial WCS, unit, pixel scale, beam in degrees."""

    data: np.ndarray
    wcs: WCS | None
    unit: str
    pixel_scale_arcsec: float | None
    beam: tuple[float, float, float] | None


@dataclass(frozen=True)
class CutoutResult:
    """A cut-out: data (side, side) float32 or None if unreadable, status, and share of finite pixels."""

    data: np.ndarray | None
    status: str
    coverage: float


@dataclass(frozen=True)
class DataUnit:
    """Where an HDU lies in its file: number, header, and the byte after its data (before padding)."""

    number: int
    header: fits.Header = field(repr=False)
    end: int

    @property
    def is_compressed(self) -> bool:
        return self.header.get("ZIMAGE", False) is True

    @property
    def is_table(self) -> bool:
        return self.header.get("XTENSION", "").strip() in ("BINTABLE", "TABLE") and not self.is_compressed

    @property
    def axes(self) -> tuple[int, ...]:
        """Axis lengths of the image in array order; empty if it has none or is a table."""
        return () if self.is_table else _axes(self.header, "Z" if self.is_compressed else "")[::-1]


class OpenImage:
    """An image file that is open for reading parts of it; a context manager.

    Attributes: ``shape`` (H, W), ``header``, ``unit``, ``wcs`` (celestial) or None, ``pixel_scale_arcsec``
    or None, ``beam`` (degrees) or None, ``zipped``.
    With ``header_only`` a gzipped file is not unpacked beyond its header, and ``read`` is refused.

    Raises
    ------
    ImageProblem : missing_file, unreadable_file (truncated, not FITS, absurd) or wrong_dimensions.
    """

    def __init__(self, path: str | Place, *, header_only: bool = False) -> None:
        self.path = place(path)
        self._stack = ExitStack()
        self._hdu: Any = None
        with problems(self.path), self._stack:
            stream, unit = open_data_unit(self.path, self._stack, lambda u: len(u.axes) >= 2, header_only)
            self.header = unit.header
            self.zipped = not isinstance(stream, io.BufferedReader)
            axes = unit.axes
            if max(axes[:-2], default=1) != 1:
                raise ImageProblem(
                    "wrong_dimensions",
                    f"{path} has axes {axes}; beyond the last two every axis must have length 1",
                )
            self.shape = (axes[-2], axes[-1])
            self._leading = (0,) * (len(axes) - 2)
            if not header_only:
                hdus = self._stack.enter_context(fits.open(stream, memmap=False, lazy_load_hdus=True))
                self._hdu = hdus[unit.number]
            self._stack = self._stack.pop_all()

    def __enter__(self) -> "OpenImage":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def read(self, rows: slice = slice(None), columns: slice = slice(None)) -> np.ndarray:
        """Pixels (h, w) float32 in physical units; BLANK and infinite pixels are NaN."""
        if self._hdu is None:
            raise ImageProblem("unreadable_file", f"{self.path} was opened for its header only")
        with problems(self.path):
            # Non-contiguous reads go through Python row by row: whole rows are faster unless very wide.
            wide = self.shape[1] > 8192
            part = self._hdu.section[(*self._leading, rows, columns if wide else slice(None))]
            part = part if wide else part[:, columns]
            with np.errstate(over="ignore", invalid="ignore"):
                data = np.array(part, dtype=np.float32)
            data[~np.isfinite(data)] = np.nan
            return data

    @property
    def unit(self) -> str:
        return str(self.header.get("BUNIT", "")).strip()

    @cached_property
    def wcs(self) -> WCS | None:
        return celestial_wcs(self.header, self.shape)

    @property
    def pixel_scale_arcsec(self) -> float | None:
        return None if self.wcs is None else pixel_scale(self.wcs)

    @property
    def beam(self) -> tuple[float, float, float] | None:
        values = [self.header.get(key, 0.0 if key == "BPA" else None) for key in ("BMAJ", "BMIN", "BPA")]
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
            return None
        return float(values[0]), float(values[1]), float(values[2])


def read_image(path: str | Place) -> FitsImage:
    """Read the first image of a FITS file (``.fits``, ``.fits.gz``, ``.fits.fz``; degenerate axes dropped).

    Raises
    ------
    ImageProblem : missing_file, unreadable_file or wrong_dimensions.
    """
    with OpenImage(path) as image:
        return FitsImage(image.read(), image.wcs, image.unit, image.pixel_scale_arcsec, image.beam)


def read_cutout(path: str | Place, side: int | None = None, pixel_scale_arcsec: float | None = None) -> CutoutResult:
    """Read a square cut-out; a problem becomes its status, never an exception.

    Parameters
    ----------
    path : the file.
    side : side the survey needs, in pixels; a file of another side is ``wrong_size`` (never cropped).
    pixel_scale_arcsec : resample to this scale first; then files of any side are taken, and ``side``
        is that of the result. ``no_wcs`` where the file does not tell its own scale.

    Returns
    -------
    CutoutResult : data is kept for ``all_nan`` and ``constant`` and None for the other causes.
    """
    try:
        with OpenImage(path) as image:
            height, width = image.shape
            wanted = width if side is None or pixel_scale_arcsec is not None else side
            if height != width or width != wanted:
                return CutoutResult(None, "wrong_size", 0.0)
            data = image.read()
            if pixel_scale_arcsec is not None:
                data = resample_image(data, image.pixel_scale_arcsec, pixel_scale_arcsec, side or width)
    except ImageProblem as problem:
        return CutoutResult(None, problem.status, 0.0)
    return CutoutResult(data, *judge(data))


def judge(data: np.ndarray) -> tuple[str, float]:
    """Status (ok, all_nan or constant: all finite pixels equal) and share of finite pixels of an image."""
    finite = data[np.isfinite(data)]
    coverage = finite.size / max(data.size, 1)
    if not finite.size:
        return "all_nan", 0.0
    return ("constant" if finite.min() == finite.max() else "ok"), coverage


def resample_image(data: np.ndarray, scale_in_arcsec: float | None, scale_out_arcsec: float, side: int) -> np.ndarray:
    """Resample (H, W) to (side, side) float32 at another pixel scale, about the image centre.

    Bilinear, after a Gaussian of sigma (ratio - 1) / 2 input pixels where pixels grow (against aliasing).
    NaN pixels have no weight; an output pixel with less than half its weight, or outside, is NaN.
    Brightness (per beam, per steradian) is kept; values per pixel are not rescaled.

    Raises
    ------
    ImageProblem : no_wcs, where ``scale_in_arcsec`` is None or not positive.
    """
    from scipy.ndimage import affine_transform

    if scale_in_arcsec is None or not (math.isfinite(scale_in_arcsec) and scale_in_arcsec > 0):
        raise ImageProblem("no_wcs", f"resampling needs the pixel scale of the image: {scale_in_arcsec}")
    ratio = scale_out_arcsec / scale_in_arcsec
    if ratio == 1 and data.shape == (side, side):
        return np.asarray(data, dtype=np.float32)
    weighted, weight = _smooth_weights(data, ratio)
    offset = [(n - 1) / 2 - ratio * (side - 1) / 2 for n in data.shape]
    options: dict[str, Any] = {"offset": offset, "output_shape": (side, side), "order": 1, "mode": "nearest"}
    weighted, weight = (affine_transform(array, [ratio, ratio], **options) for array in (weighted, weight))
    for axis, length in enumerate(data.shape):
        position = offset[axis] + ratio * np.arange(side)
        outside = (position < -0.5) | (position > length - 0.5)
        weight[(outside, slice(None)) if axis == 0 else (slice(None), outside)] = 0
    return _normalise(weighted, weight)


def antialias(data: np.ndarray, ratio: float) -> np.ndarray:
    """Smooth (H, W) for pixels that grow by ``ratio``, NaN aware; unchanged where they do not grow."""
    return data if ratio <= 1 else _normalise(*_smooth_weights(data, ratio))


def _smooth_weights(data: np.ndarray, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """Image with NaN as 0, and its weights (1 = data); both smoothed where pixels grow by ``ratio`` > 1."""
    from scipy.ndimage import gaussian_filter

    weight = np.isfinite(data).astype(np.float64)
    weighted = np.where(weight > 0, data, 0).astype(np.float64)
    if ratio <= 1:
        return weighted, weight
    sigma = (ratio - 1) / 2
    return gaussian_filter(weighted, sigma, mode="nearest"), gaussian_filter(weight, sigma, mode="nearest")


def _normalise(weighted: np.ndarray, weight: np.ndarray) -> np.ndarray:
    enough = weight >= 0.5
    return np.where(enough, weighted / np.where(enough, weight, 1), np.nan).astype(np.float32)


# --- world coordinates ----------------------------------------------------------------------------


def celestial_wcs(header: fits.Header, shape: tuple[int, int]) -> WCS | None:
    """The celestial WCS of the first two axes, or None if there is none that leads to the sky (ICRS)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            wcs = WCS(header)
            if not wcs.has_celestial or {wcs.wcs.lng, wcs.wcs.lat} != {0, 1}:
                return None
            wcs = wcs.celestial
            wcs.pixel_shape = (shape[1], shape[0])
            # Frames without a way to ICRS and singular matrices fail here rather than at the first source.
            wcs.pixel_to_world(0, 0).transform_to("icrs")
            if not 0 < pixel_scale(wcs) < 360 * 3600:
                return None
        except Exception:  # a hostile header raises anything
            return None
    return wcs


def pixel_scale(wcs: WCS) -> float:
    """Side of a pixel in arcseconds: the root of its area."""
    return float(np.sqrt(proj_plane_pixel_area(wcs))) * 3600


# --- files ----------------------------------------------------------------------------------------


@contextmanager
def problems(path: Place) -> Iterator[None]:
    """Turn whatever reading raises, but errors of a store, into an ImageProblem; keep warnings of astropy inside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (ImageProblem, PlaceError):
            raise
        except FileNotFoundError as error:
            raise ImageProblem("missing_file", f"{path} is not there") from error
        except Exception as error:  # parsers of hostile bytes raise anything
            raise ImageProblem("unreadable_file", f"{path}: {type(error).__name__}: {error}") from error


def open_data_unit(
    path: Place, stack: ExitStack, wanted: Callable[[DataUnit], bool], header_only: bool = False
) -> tuple[IO[bytes], DataUnit]:
    """Open a FITS file and find its first HDU that is ``wanted``, whose data are known to be whole.

    The stream stays open as long as ``stack``. A gzipped file is unpacked in memory up to the end of
    that HDU, and the rest read through, so that its checksum is verified.

    Raises
    ------
    ImageProblem : see OpenImage.
    """
    try:
        # A pipe would block, a folder is no file; a remote file is asked for when it is opened.
        found = path.is_file() if isinstance(path, Path) else len(path.path.encode()) <= MAX_KEY_BYTES
    except (OSError, ValueError):  # a name too long, or with a null byte
        found = False
    if not found:
        raise ImageProblem("missing_file", f"{path} is not there, or not a file")
    raw = stack.enter_context(open_binary(path))
    stream: Any = raw
    size = raw.seek(0, os.SEEK_END)
    raw.seek(0)
    zipped = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    if zipped:
        stream = stack.enter_context(gzip.GzipFile(fileobj=raw))
    unit = _find(path, stream, wanted, size * MAX_DEFLATE_RATIO if zipped else size)
    if zipped and not header_only:
        stream.seek(0)
        content = stream.read(-(-unit.end // BLOCK) * BLOCK)
        if len(content) < unit.end:
            raise ImageProblem("unreadable_file", f"{path} unpacks to {len(content)} of {unit.end} bytes")
        while stream.read(2**20):
            pass
        stream = io.BytesIO(content)
    stream.seek(0)
    return stream, unit


def _find(path: Place, stream: IO[bytes], wanted: Callable[[DataUnit], bool], limit: int) -> DataUnit:
    """First wanted HDU whose data end within ``limit`` bytes."""
    if stream.read(9) != b"SIMPLE  =":
        raise ImageProblem("unreadable_file", f"{path} is not a FITS file (it does not begin with SIMPLE)")
    stream.seek(0)
    number = 0
    while stream.read(1):
        stream.seek(-1, os.SEEK_CUR)
        header = fits.Header.fromfile(stream, endcard=True)
        start = stream.tell()
        unit = DataUnit(number, header, start + _data_bytes(header))
        if unit.end > limit:
            raise ImageProblem(
                "unreadable_file",
                f"{path} needs {unit.end} bytes up to HDU {number}, at most {limit} are there",
            )
        if wanted(unit):
            _check_pixels(path, unit, limit)
            return unit
        stream.seek(start + -(-(unit.end - start) // BLOCK) * BLOCK)
        number += 1
    raise ImageProblem(
        "wrong_dimensions", f"{path} holds {number} HDUs and none with the image or table that is needed"
    )


def _check_pixels(path: Place, unit: DataUnit, limit: int) -> None:
    pixels = math.prod(unit.axes)
    if pixels > MAX_PIXELS or (unit.is_compressed and pixels > limit * MAX_TILE_RATIO):
        raise ImageProblem("unreadable_file", f"{path} claims {unit.axes} pixels, more than it can hold")


def _axes(header: fits.Header, prefix: str = "") -> tuple[int, ...]:
    """NAXISn (n = 1, 2, ...); empty if one is zero."""
    count = int(header[f"{prefix}NAXIS"])
    if not 0 <= count <= MAX_AXES:
        raise ValueError(f"{prefix}NAXIS is {count}")
    axes = tuple(int(header[f"{prefix}NAXIS{n}"]) for n in range(1, count + 1))
    if min(axes, default=1) < 0:
        raise ValueError(f"axes {axes}")
    return axes if all(axes) else ()


def _data_bytes(header: fits.Header) -> int:
    """Bytes of the data unit without padding (FITS standard 4.0, equation 2)."""
    axes = _axes(header)
    count = math.prod(axes) if axes else 0
    bits, extra, groups = int(header["BITPIX"]), int(header.get("PCOUNT", 0)), int(header.get("GCOUNT", 1))
    if bits not in (8, 16, 32, 64, -32, -64) or extra < 0 or groups < 0:
        raise ValueError(f"BITPIX {bits}, PCOUNT {extra}, GCOUNT {groups}")
    return abs(bits) // 8 * groups * (extra + count)
