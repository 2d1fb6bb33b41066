"""FITS images out: cut-outs and neurons, with the world coordinates of either frame, written whole or not at all."""

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from skysom.storage import place as places
from skysom.storage.errors import StorageError
from skysom.storage.place import Place, place

Keywords = Mapping[str, Any]
"""Header keywords (8 characters at most) to a value, or to (value, comment)."""


class ExportError(StorageError):
    """Data or coordinates that a FITS file cannot hold, or a file that is there already."""


# --- coordinates ----------------------------------------------------------------------------------


def source_wcs(ra_deg: float, dec_deg: float, side: int, pixel_scale_arcsec: float) -> WCS:
    """Gnomonic coordinates of a cut-out with its source exactly at the centre (side - 1) / 2.

    North towards higher rows, east towards lower columns, ICRS: the grid of cut-outs that ingest resampled. One cut
    on a mosaic's own grid holds its source within half a pixel of the centre, so its positions are good to that.

    Raises
    ------
    ExportError : a position or pixel scale that is not on the sky.
    """
    if not (math.isfinite(ra_deg) and -90 <= dec_deg <= 90):
        raise ExportError(f"position ({ra_deg}, {dec_deg}) degrees is not on the sky; leave the coordinates out")
    if not 0 < pixel_scale_arcsec < 360 * 3600:
        raise ExportError(f"a pixel scale of {pixel_scale_arcsec} arcsec; give one above 0")
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.crval = [float(ra_deg), float(dec_deg)]
    wcs.wcs.crpix = [(side + 1) / 2] * 2
    wcs.wcs.cd = np.diag([-1.0, 1.0]) * pixel_scale_arcsec / 3600
    wcs.wcs.set()
    wcs.pixel_shape = (side, side)
    return wcs


def moved_wcs(wcs: WCS, affine: np.ndarray, side: int | None = None) -> WCS:
    """Coordinates of a frame whose pixel (x, y) shows the image at ``affine[:, :2] @ (x, y) + affine[:, 2]``.

    Turned, flipped, cropped or padded images: the projection and its centre on the sky stay, the CD matrix and the
    reference pixel follow (FITS standard 4.0, section 8.1). ``affine`` is (2, 3), in pixels counted from 0, in the
    order x = column, y = row (`skysom.engine.reading.frames.PixelMap.affine`).

    Raises
    ------
    ExportError : coordinates with distortions, whose polynomials hold in the image's own pixels only.
    """
    if wcs.has_distortion:
        raise ExportError(
            "the coordinates have distortions (SIP or tables), which do not survive a turn; export the image in its "
            "own frame, or resample it first"
        )
    linear, shift = np.asarray(affine, np.float64)[:, :2], np.asarray(affine, np.float64)[:, 2]
    sky = wcs.celestial
    header = _header_with_cd(sky, sky.pixel_scale_matrix @ linear)
    header["CRPIX1"], header["CRPIX2"] = np.linalg.solve(linear, sky.wcs.crpix - 1 - shift) + 1
    moved = WCS(header)
    if side is not None:
        moved.pixel_shape = (side, side)
    return moved


# --- files ----------------------------------------------------------------------------------------


def write_image(
    where: str | Place,
    data: np.ndarray,
    *,
    wcs: WCS | None = None,
    unit: str = "",
    channels: Sequence[str] = (),
    keywords: Keywords | None = None,
    history: Sequence[str] = (),
    overwrite: bool = False,
) -> Place:
    """Write an image, or a cube of its channels, as a FITS file with checksums; atomic.

    Parameters
    ----------
    where : path or URL of the file; its directory is made.
    data : (H, W), (1, H, W): an image; (C, H, W): a cube, third axis CHANNEL. Stored as float32, NaN = no data.
    wcs : celestial coordinates of these pixels, written as a CD matrix.
    unit : of the pixels, for BUNIT; "" where they have none (prepared images).
    channels : C names, for CHAN1, CHAN2, ...
    keywords : what else the header tells (source, map, neuron, transform), see `provenance`.
    history : lines for HISTORY.
    overwrite : replace a file that is there.

    Returns
    -------
    Where it was written.

    Raises
    ------
    ExportError : another shape, names that do not fit, a keyword FITS cannot hold, or a file that is there.
    """
    planes = np.asarray(data)
    if planes.ndim not in (2, 3) or not planes.size:
        raise ExportError(f"{where}: data of shape {planes.shape}; give (H, W) or (C, H, W)")
    planes = planes[0] if planes.ndim == 3 and len(planes) == 1 else planes
    count = len(planes) if planes.ndim == 3 else 1
    _check_channels(where, channels, count)
    hdu = fits.PrimaryHDU(planes.astype(np.float32))
    _describe(where, hdu.header, wcs, unit, channels, keywords, history)
    return _write(where, fits.HDUList([hdu]), overwrite)


def write_neurons(
    where: str | Place,
    weights: np.ndarray,
    positions: np.ndarray,
    *,
    channels: Sequence[str] = (),
    table: Mapping[str, np.ndarray] | None = None,
    keywords: Keywords | None = None,
    history: Sequence[str] = (),
    overwrite: bool = False,
) -> Place:
    """Write neurons as a FITS cube with a table of their places on the lattice; atomic.

    Parameters
    ----------
    weights : (N, C, D, D); the image is (N, D, D) where C is 1, else (N, C, D, D).
    positions : (N, 3) int, `lattice.positions()`: first (bmu_row), second (bmu_col) and third index.
    table : more columns (N,) of the table NEURONS (counts, labels, ...), besides neuron, bmu_row, bmu_col, bmu_depth.
    channels, keywords, history, overwrite : as `write_image`.

    Raises
    ------
    ExportError : shapes that do not fit together, and as `write_image`.
    """
    neurons, places_of = np.asarray(weights), np.asarray(positions)
    columns = {name: np.asarray(values) for name, values in (table or {}).items()}
    wrong = [name for name, values in columns.items() if values.shape != (len(neurons),)]
    if neurons.ndim != 4 or places_of.shape != (len(neurons), 3) or wrong:
        raise ExportError(
            f"{where}: weights {neurons.shape}, positions {places_of.shape}"
            + "".join(f", column {name} {columns[name].shape}" for name in wrong)
            + "; give (N, C, D, D), (N, 3) and (N,)"
        )
    _check_channels(where, channels, neurons.shape[1])
    planes = neurons[:, 0] if neurons.shape[1] == 1 else neurons
    hdu = fits.PrimaryHDU(planes.astype(np.float32))
    hdu.header[f"CTYPE{planes.ndim}"] = ("NEURON", "row of the table NEURONS, from 1")
    _describe(where, hdu.header, None, "", channels, keywords, history)
    from astropy.table import Table

    own = {"neuron": np.arange(len(neurons)), "bmu_row": places_of[:, 0], "bmu_col": places_of[:, 1]}
    rows = fits.table_to_hdu(Table(own | {"bmu_depth": places_of[:, 2]} | columns))
    rows.header["EXTNAME"] = "NEURONS"
    return _write(where, fits.HDUList([hdu, rows]), overwrite)


def provenance(
    *,
    source_id: str | None = None,
    ra_deg: float | None = None,
    dec_deg: float | None = None,
    frame: str | None = None,
    angle_deg: float | None = None,
    flip: int | bool | None = None,
    neuron: int | None = None,
    bmu_row: int | None = None,
    bmu_col: int | None = None,
    bmu_distance: float | None = None,
    som: str | None = None,
    som_sha256: str | None = None,
    config_hash: str | None = None,
) -> dict[str, tuple[Any, str]]:
    """Keywords of `write_image` under fixed names, for what is known; NaN and None are left out.

    ``frame`` is "image" or "neuron"; angle and flip are those that take the image onto the neuron (clockwise with
    row 0 on top, then rows reversed).
    """
    known = {
        "OBJECT": (source_id, "source"),
        "RA_SRC": (ra_deg, "[deg] position of the source, ICRS"),
        "DEC_SRC": (dec_deg, "[deg] position of the source, ICRS"),
        "FRAME": (frame, "frame of the pixels: image or neuron"),
        "ROTANGLE": (angle_deg, "[deg] image to neuron, clockwise, row 0 on top"),
        "FLIPPED": (None if flip is None else bool(flip), "rows reversed after the rotation"),
        "NEURON": (neuron, "number in the order of the lattice, from 0"),
        "BMU_ROW": (bmu_row, "first lattice index"),
        "BMU_COL": (bmu_col, "second lattice index"),
        "BMU_DIST": (bmu_distance, "Euclidean distance to the neuron"),
        "SOM": (som, "name of the map"),
        "SOMSHA": (som_sha256, ""),
        "CFGHASH": (config_hash, ""),
    }
    return {key: entry for key, entry in known.items() if not (entry[0] is None or entry[0] != entry[0])}


# --- parts ----------------------------------------------------------------------------------------


def _check_channels(where: str | Place, channels: Sequence[str], count: int) -> None:
    if len(channels) not in (0, count):
        raise ExportError(f"{where}: {len(channels)} channel names for {count} channels; name each one, or none")


def _describe(
    where: str | Place,
    header: fits.Header,
    wcs: WCS | None,
    unit: str,
    channels: Sequence[str],
    keywords: Keywords | None,
    history: Sequence[str],
) -> None:
    """Coordinates, unit, channels and provenance into ``header``."""
    if wcs is not None:
        _set_wcs(header, wcs)
    entries: dict[str, Any] = {"BUNIT": (unit, "unit of the pixels")} if unit else {}
    entries["CREATOR"] = ("skysom", "software that wrote this file")
    entries |= {f"CHAN{i + 1}": (name, f"channel {i + 1}") for i, name in enumerate(channels)}
    for key, value in {**entries, **(keywords or {})}.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                header[key] = _plain(value)
        except Exception as error:  # parsers and formatters of headers raise anything
            raise ExportError(
                f"{where}: FITS cannot hold keyword {key!r} = {value!r} ({error}); use 8 letters or digits, ASCII text "
                "and finite numbers"
            ) from error
    for line in history:
        header.add_history(line.encode("ascii", "replace").decode())


def _set_wcs(header: fits.Header, wcs: WCS) -> None:
    """Coordinates of the first two axes; further axes get linear ones, so that readers find the celestial pair."""
    if wcs.has_distortion:
        values = wcs.to_header(relax=True)
    else:
        values = _header_with_cd(wcs.celestial, wcs.celestial.pixel_scale_matrix)
    values.pop("WCSAXES", None)
    header.update(values)
    if header["NAXIS"] == 3:
        header["CTYPE3"], header["CRPIX3"], header["CRVAL3"] = "CHANNEL", 1.0, 1.0
        header["CD3_3" if "CD1_1" in header else "CDELT3"] = 1.0


def _header_with_cd(wcs: WCS, matrix: np.ndarray) -> fits.Header:
    """Cards of celestial coordinates with ``matrix`` (2, 2), degrees a pixel, as CD instead of PC and CDELT."""
    header = wcs.to_header()
    for key in [key for key in header if key.startswith(("PC", "CDELT", "CD"))]:
        del header[key]
    for i in (0, 1):
        for j in (0, 1):
            header[f"CD{i + 1}_{j + 1}"] = matrix[i, j]
    return header


def _plain(value: Any) -> Any:
    """NumPy scalars as Python's, alone or with a comment."""
    if isinstance(value, tuple):
        return (_plain(value[0]), *value[1:])
    return value.item() if isinstance(value, np.generic) else value


def _write(where: str | Place, hdus: fits.HDUList, overwrite: bool) -> Place:
    target = place(where)
    if not overwrite and places.exists(target):
        raise ExportError(f"{target} is there already; write elsewhere, or give --overwrite (in Python overwrite=True)")
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hdus.writeto(buffer, checksum=True, output_verify="exception")
    places.make_directory(target.parent)
    places.write_atomically(target, buffer.getvalue())
    return target
