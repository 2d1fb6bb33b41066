"""A small simulated radio survey on disk: FITS tiles and a component catalogue, to try skysom on.

The tiles look like those of a 1.4 GHz survey at 5 arcsec resolution: slightly overlapping SIN projections
in Jy/beam with beam cards, noise of 0.15 mJy/beam that is correlated over the beam, blank survey corners, and
artefacts around the brightest sources. The catalogue has one row a component and, on purpose, a few rows that
cannot be used.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skysom.jobs.simulation import (
    Beam,
    Source,
    compact,
    correlated_noise,
    draw_source,
    element_covariances,
    gaussian_stamp,
    sidelobes,
)

PIXEL_ARCSEC = 1.8
CENTRE_DEG = (187.7, 26.4)
RMS_MJY = 0.15
CELL_PIXELS = 96
"""Sources keep about this distance from each other, so that most cut-outs hold one source."""
OVERLAP_PIXELS = 80
CLASS_SIDELOBE, CLASS_NOISE = "sidelobe", "noise"


@dataclass(frozen=True)
class SimulatedSurvey:
    """Where the survey lies: a directory of FITS tiles and a CSV catalogue."""

    images: Path
    catalogue: Path


@dataclass(frozen=True)
class _Sky:
    """Sources with their positions in degrees, bright ones first; ``side`` of the field in pixels."""

    sources: list[Source]
    positions: np.ndarray
    bright: int
    side: tuple[int, int]
    phases: np.ndarray


def simulate_survey(
    folder: Path, components: int = 1500, seed: int = 7, tiles: int = 4, beam: Beam | None = None
) -> SimulatedSurvey:
    """Write ``folder/tiles/*.fits`` and ``folder/components.csv``; the same arguments give the same survey.

    Parameters
    ----------
    components : rows of the catalogue, at least 20, a few of them unusable on purpose.
    seed : of every random number.
    tiles : FITS files, laid out in a nearly square grid with an overlap of 80 pixels.
    beam : restoring beam, 5.6 x 5.2 arcsec at 20 degrees unless given.

    Catalogue columns: ``source_id``, ``ra`` and ``dec`` (degrees), ``peak_mjy_per_beam``, ``total_mjy``,
    ``major_arcsec`` (fitted, with the beam) and ``true_class``, which a real catalogue would not have.
    """
    if components < 20 or tiles < 1:
        raise ValueError(f"components={components}, tiles={tiles}: at least 20 components and 1 tile are needed")
    beam = beam or Beam()
    rng = np.random.default_rng(seed)
    images = Path(folder) / "tiles"
    images.mkdir(parents=True, exist_ok=True)
    sky = _draw_sky(components, rng)
    columns, rows = _layout(tiles)
    noise_rows = []
    for index in range(tiles):
        pixels = _write_tile(images / f"tile_{index:02d}.fits", sky, index, (columns, rows), beam, seed)
        noise_rows.append(pixels)
    table = _catalogue(sky, np.concatenate(noise_rows), components, beam, rng)
    catalogue = Path(folder) / "components.csv"
    table.to_csv(catalogue, index=False, float_format="%.6f")
    return SimulatedSurvey(images, catalogue)


def _draw_sky(components: int, rng: np.random.Generator) -> _Sky:
    """Draw sources until they make 87 % of the rows; the rest are artefacts, noise peaks and bad rows."""
    bright = max(1, round(components / 400))
    sources = [compact(float(rng.uniform(700, 1500)), rng) for _ in range(bright)]
    while sum(len(source.components) for source in sources) < 0.87 * components:
        sources.append(draw_source(rng))
    cells = len(sources) + 9 * bright
    nx = int(np.ceil(np.sqrt(cells)))
    ny = int(np.ceil(cells / nx)) + 1
    centres = np.stack(np.meshgrid(np.arange(nx), np.arange(ny)), axis=-1).reshape(-1, 2)
    inside = np.flatnonzero(((centres > 0) & (centres < (nx - 1, ny - 1))).all(axis=1))
    chosen = rng.permutation(inside)[:bright]
    # a bright source and its sidelobes need the eight cells around it
    distance = np.abs(centres[:, None, :] - centres[None, chosen, :]).max(axis=2).min(axis=1)
    free = rng.permutation(np.flatnonzero(distance > 1))[: len(sources) - bright]
    cell = centres[np.concatenate([chosen, free])]
    sources = sources[: len(cell)]
    jitter = rng.uniform(-0.3, 0.3, size=cell.shape)
    side = (nx * CELL_PIXELS, ny * CELL_PIXELS)
    offsets = ((cell + 0.5 + jitter) * CELL_PIXELS - np.array(side) / 2) * PIXEL_ARCSEC / 3600
    dec = CENTRE_DEG[1] + offsets[:, 1]
    ra = CENTRE_DEG[0] - offsets[:, 0] / np.cos(np.deg2rad(dec))
    return _Sky(sources, np.stack([ra, dec], axis=1), bright, side, rng.uniform(0, np.pi / 3, bright))


def _layout(tiles: int) -> tuple[int, int]:
    columns = int(np.ceil(np.sqrt(tiles)))
    return columns, int(np.ceil(tiles / columns))


def _write_tile(path: Path, sky: _Sky, index: int, layout: tuple[int, int], beam: Beam, seed: int) -> np.ndarray:
    """Write one tile; returns its pure noise peaks (n, 3): ra, dec (degrees) and peak (mJy/beam)."""
    from astropy.io import fits

    rng = np.random.default_rng([seed, index])
    shape, wcs = _tile_wcs(sky, index, layout)
    y, x = np.indices(shape)
    unevenness = 1 + 0.12 * np.sin(x / 310 + index) * np.sin(y / 260 + 2 * index)
    noise = correlated_noise(shape, PIXEL_ARCSEC, beam, RMS_MJY, rng) * unevenness
    model = _render(sky, wcs, shape, beam)
    _add_faint_background(model, beam, rng)
    image = noise + model
    ra, dec = wcs.pixel_to_world_values(x, y)
    image[_outside(sky, ra, dec)] = np.nan
    header = wcs.to_header()
    header["BUNIT"] = ("Jy/beam", "surface brightness")
    header["BMAJ"] = (beam.major / 3600, "beam major axis (deg)")
    header["BMIN"] = (beam.minor / 3600, "beam minor axis (deg)")
    header["BPA"] = (beam.angle, "beam position angle (deg)")
    header["OBJECT"] = (path.stem, "simulated by skysom demo")
    fits.PrimaryHDU((image * 1e-3).astype(np.float32), header).writeto(path, overwrite=True)
    return _noise_peaks(image, noise, model, wcs)


def _tile_wcs(sky: _Sky, index: int, layout: tuple[int, int]) -> tuple[tuple[int, int], Any]:
    """Shape (y, x) and SIN WCS of a tile, with its own tangent point."""
    from astropy.wcs import WCS

    size = [-(-side // count) + OVERLAP_PIXELS for side, count in zip(sky.side, layout, strict=True)]
    place = (index % layout[0], index // layout[0])
    offset = [(p + 0.5) * side / count - side / 2 for p, side, count in zip(place, sky.side, layout, strict=True)]
    dec = CENTRE_DEG[1] + offset[1] * PIXEL_ARCSEC / 3600
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.crval = [CENTRE_DEG[0] - offset[0] * PIXEL_ARCSEC / 3600 / np.cos(np.deg2rad(dec)), dec]
    wcs.wcs.crpix = [(size[0] + 1) / 2, (size[1] + 1) / 2]
    wcs.wcs.cdelt = [-PIXEL_ARCSEC / 3600, PIXEL_ARCSEC / 3600]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.set()
    return (size[1], size[0]), wcs


def _render(sky: _Sky, wcs: Any, shape: tuple[int, int], beam: Beam) -> np.ndarray:
    """Noiseless (y, x) image in mJy/beam of all sources and the artefacts of the bright ones."""
    model = np.zeros(shape)
    for source, position in zip(sky.sources, sky.positions, strict=True):
        ra, dec = _shift(position, source.elements[:, :2])
        centres = np.stack(wcs.world_to_pixel_values(ra, dec), axis=1)
        reaches = (30 + 1.8 * source.elements[:, 3]) / PIXEL_ARCSEC
        covariances = element_covariances(source.elements)
        for centre, reach, flux, covariance in zip(centres, reaches, source.elements[:, 2], covariances, strict=True):
            where, east, north = _stamp(shape, centre, reach)
            model[where] += gaussian_stamp(east, north, flux, covariance, beam)
    for source, position, phase in zip(sky.sources, sky.positions, sky.phases, strict=False):
        centre = np.array(wcs.world_to_pixel_values(*position))
        where, east, north = _stamp(shape, centre, 1.4 * CELL_PIXELS)
        pattern = sidelobes(np.hypot(east, north), np.arctan2(east, north), phase)
        model[where] += source.elements[:, 2].sum() * pattern
    return model


def _add_faint_background(model: np.ndarray, beam: Beam, rng: np.random.Generator) -> None:
    """Uncatalogued sources near the noise, one per 10,000 pixels: real fields are never empty."""
    for _ in range(rng.poisson(model.size / 10_000)):
        centre = rng.uniform(0, model.shape[::-1])
        where, east, north = _stamp(model.shape, centre, 25 / PIXEL_ARCSEC)
        flux = min(0.25 * rng.uniform(0.05, 1) ** -1.0, 1.0)
        model[where] += gaussian_stamp(east, north, flux, np.zeros((2, 2)), beam)


def _stamp(
    shape: tuple[int, ...], centre: np.ndarray, reach: float
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """Slices of the pixels within ``reach`` of ``centre`` (x, y) and their offsets east, north in arcsec."""
    low = np.maximum(np.floor(centre - reach), 0).astype(int)
    high = np.maximum(np.minimum(np.ceil(centre + reach) + 1, shape[::-1]).astype(int), low)
    east = -(np.arange(low[0], high[0]) - centre[0])[None, :] * PIXEL_ARCSEC
    north = (np.arange(low[1], high[1]) - centre[1])[:, None] * PIXEL_ARCSEC
    return (slice(low[1], high[1]), slice(low[0], high[0])), east, north


def _shift(position: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right ascension and declination (degrees) of offsets (n, 2) east, north in arcsec."""
    dec = position[1] + offsets[:, 1] / 3600
    return position[0] + offsets[:, 0] / 3600 / np.cos(np.deg2rad(position[1])), dec


def _field_coordinates(sky: _Sky, ra: Any, dec: Any) -> tuple[Any, Any]:
    """Position in the field, -1 to 1 along each side."""
    half = np.array(sky.side) / 2 * PIXEL_ARCSEC / 3600
    return (CENTRE_DEG[0] - ra) * np.cos(np.deg2rad(dec)) / half[0], (dec - CENTRE_DEG[1]) / half[1]


def _outside(sky: _Sky, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Pixels without data: beyond the field and its rounded corners."""
    u, v = _field_coordinates(sky, ra, dec)
    return np.abs(u) ** 16 + np.abs(v) ** 16 > 1


def _noise_peaks(image: np.ndarray, noise: np.ndarray, model: np.ndarray, wcs: Any) -> np.ndarray:
    """Ra, dec (degrees) and peak (mJy/beam) of maxima above 3.5 sigma where there is no source; (n, 3)."""
    from scipy.ndimage import maximum_filter

    empty = maximum_filter(np.abs(model), 21) < 0.3 * RMS_MJY
    peaks = (image == maximum_filter(image, 9)) & empty & (noise > 3.5 * RMS_MJY)
    y, x = np.nonzero(peaks)
    ra, dec = wcs.pixel_to_world_values(x, y)
    return np.stack([ra, dec, image[y, x]], axis=1)


def _sidelobe_peaks(sky: _Sky) -> np.ndarray:
    """Ra, dec and peak of the artefacts a source finder would take for sources; (n, 3), strongest first."""
    from scipy.ndimage import maximum_filter

    found = []
    reach = int(1.3 * CELL_PIXELS)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    east, north = -x * PIXEL_ARCSEC, y * PIXEL_ARCSEC
    radius = np.hypot(east, north)
    for source, position, phase in zip(sky.sources, sky.positions, sky.phases, strict=False):
        pattern = source.elements[:, 2].sum() * sidelobes(radius, np.arctan2(east, north), phase)
        peak = (pattern == maximum_filter(pattern, 9)) & (pattern > 4 * RMS_MJY) & (radius < 200)
        offsets = np.stack([east[peak], north[peak]], axis=1)
        found.append(np.stack([*_shift(position, offsets), pattern[peak]], axis=1))
    peaks = np.concatenate(found)
    return peaks[np.argsort(-peaks[:, 2])]


def _catalogue(sky: _Sky, noise: np.ndarray, rows: int, beam: Beam, rng: np.random.Generator) -> Any:
    """The component table: sources, then artefacts, noise peaks and bad rows; sorted by right ascension."""
    import pandas as pd

    bad = max(4, rows // 250)
    measured = _measure(sky, beam, rng)
    artefacts = _detections(_sidelobe_peaks(sky)[: round(0.08 * rows)], CLASS_SIDELOBE, beam, rng)
    strongest = noise[np.argsort(-noise[:, 2])]
    peaks = _detections(strongest[: round(0.05 * rows)], CLASS_NOISE, beam, rng)
    # artefacts and noise peaks come in full, source components make up the number
    wanted = rows - bad - len(artefacts) - len(peaks)
    if len(measured) < wanted:
        peaks = _detections(strongest[: len(peaks) + wanted - len(measured)], CLASS_NOISE, beam, rng)
    table = pd.concat([measured[:wanted], artefacts, peaks], ignore_index=True).sort_values("ra", ignore_index=True)
    table.insert(0, "source_id", [_name(ra, dec) for ra, dec in zip(table["ra"], table["dec"], strict=True)])
    table["source_id"] = _unique(list(table["source_id"]))
    return _with_bad_rows(table, sky, bad, rng)


def _measure(sky: _Sky, beam: Beam, rng: np.random.Generator) -> Any:
    """What a source finder would list of the sources: position, peak, flux and size with their errors."""
    import pandas as pd

    records = []
    for source, position in zip(sky.sources, sky.positions, strict=True):
        covariances = element_covariances(source.elements)
        owner = np.argmin(np.linalg.norm(source.elements[:, None, :2] - source.components[None], axis=2), axis=1)
        for index, place in enumerate(source.components):
            own = np.flatnonzero(owner == index)
            if not len(own):
                continue
            offset = place - source.elements[:, :2]
            peak = sum(
                float(gaussian_stamp(offset[i, 0], offset[i, 1], source.elements[i, 2], covariances[i], beam))
                for i in range(len(offset))
            )
            total = float(source.elements[own, 2].sum())
            peak = max(peak + rng.normal(0, RMS_MJY), 4 * RMS_MJY)
            size = np.sqrt(beam.major * beam.minor * max(total / peak, 1.0)) * rng.uniform(0.97, 1.06)
            error = rng.normal(0, 0.5 * beam.major * RMS_MJY / peak, 2)
            ra, dec = _shift(position, (place + error)[None])
            records.append((ra[0], dec[0], peak, max(total, peak), max(size, beam.major), source.kind))
    names = ["ra", "dec", "peak_mjy_per_beam", "total_mjy", "major_arcsec", "true_class"]
    return pd.DataFrame(records, columns=names)


def _detections(peaks: np.ndarray, kind: str, beam: Beam, rng: np.random.Generator) -> Any:
    """Rows of ``kind`` at peaks (n, 3)."""
    import pandas as pd

    size = beam.major * rng.uniform(1.0, 1.5, len(peaks))
    total = peaks[:, 2] * (size / beam.major) ** 2
    columns = {"ra": peaks[:, 0], "dec": peaks[:, 1], "peak_mjy_per_beam": peaks[:, 2], "total_mjy": total}
    return pd.DataFrame({**columns, "major_arcsec": size, "true_class": kind})


def _with_bad_rows(table: Any, sky: _Sky, bad: int, rng: np.random.Generator) -> Any:
    """Insert rows that cannot be used: no coordinates, off the tiles, in a blank corner, a used id."""
    import pandas as pd

    rows = table.iloc[rng.integers(0, len(table), bad)].reset_index(drop=True)
    half = np.array(sky.side) / 2 * PIXEL_ARCSEC / 3600
    ids = list(rows["source_id"])
    for i in range(bad):
        cause = i % 4
        if cause == 0:
            rows.loc[i, ["ra", "dec"]] = np.nan
        elif cause == 1:
            rows.loc[i, "dec"] = CENTRE_DEG[1] - 2.0 - 0.1 * i
        elif cause == 2:
            dec = CENTRE_DEG[1] + 0.99 * half[1]
            rows.loc[i, "dec"] = dec
            rows.loc[i, "ra"] = CENTRE_DEG[0] + 0.99 * half[0] / np.cos(np.deg2rad(dec))
        if cause != 3:
            ids[i] = f"SIM bad-row-{i + 1}"
    rows["source_id"] = ids
    where = np.sort(rng.integers(len(table) // 4, len(table), bad))
    # a repeated id must come after its first use
    where = np.where(np.arange(bad) % 4 == 3, len(table), where)
    order = np.argsort(np.concatenate([np.arange(len(table)), where - 0.5]), kind="stable")
    return pd.concat([table, rows], ignore_index=True).iloc[order].reset_index(drop=True)


def _name(ra: float, dec: float) -> str:
    """An IAU-style name, SIM JHHMMSS.s+DDMMSS, truncated as the convention asks."""
    seconds, arcsec = ra / 15 * 3600, abs(dec) * 3600
    hms = f"{int(seconds // 3600):02d}{int(seconds % 3600 // 60):02d}{int(seconds % 60 * 10) / 10:04.1f}"
    dms = f"{int(arcsec // 3600):02d}{int(arcsec % 3600 // 60):02d}{int(arcsec % 60):02d}"
    return f"SIM J{hms}{'-' if dec < 0 else '+'}{dms}"


def _unique(names: list[str]) -> list[str]:
    """Components of one source can share a name: add b, c, ... as the convention asks."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}{chr(96 + seen[name])}")
    return result
