"""A simulated sky with hosts: radio components, infrared sources, images of both, and which belongs to which.

Sources lie at random, so their components have unrelated neighbours, and most infrared sources have nothing to do with
the radio sky. Hosts lie at the position of a source, which for doubles is between the lobes and for bent tails at
their head; some are too faint for the infrared catalogue.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skysom.jobs.simulation import (
    FWHM,
    Beam,
    Source,
    bent,
    compact,
    correlated_noise,
    double,
    element_covariances,
    fr1,
    gaussian_stamp,
    triple,
)

PIXEL_ARCSEC = 2.5
CENTRE_DEG = (187.7, 26.4)
EDGE_ARCSEC = 130.0
"""No source lies nearer to the edge of the images, so that every cut-out is whole."""
RMS_MJY = 0.15
DETECTED = 5.0
"""Peak of the faintest component of the catalogue in units of the noise."""
BEAM = Beam(5.6, 5.6, 0.0)
RESOLVED = 1.4
"""A component nearer than so many beams to a brighter one is not told from it."""
INFRARED_BEAM_ARCSEC = 6.1
INFRARED_RMS = 1.0


@dataclass(frozen=True)
class SimulatedSky:
    """Where the survey lies: two folders of FITS images, two CSV catalogues, and the truth.

    radio_catalogue : ``source_id``, ``ra``, ``dec`` (degrees), ``peak_mjy_per_beam``, ``total_mjy``: a row a component.
    infrared_catalogue : ``name``, ``ra``, ``dec``, ``flux`` (any unit).
    truth : a row a component, in the order of the radio catalogue: ``source`` (number of its source), ``kind`` and
        ``components`` (of the source), ``host`` (row of the infrared catalogue, -1 where it is too faint).
    """

    radio: Path
    infrared: Path
    radio_catalogue: Path
    infrared_catalogue: Path
    truth: Path


def simulate_sky(
    folder: Path,
    components: int = 4000,
    seed: int = 7,
    *,
    components_deg2: float = 1000.0,
    infrared_deg2: float = 40_000.0,
    hosts_seen: float = 0.9,
) -> SimulatedSky:
    """Write a field of about ``components`` radio components and its infrared sky into ``folder``.

    The defaults are the densities of a deep 1 GHz survey (EMU) and of CatWISE; pixels are 2.5 arcsec, beams 5.6 and
    6.1 arcsec. The same arguments give the same sky.

    Parameters
    ----------
    components_deg2, infrared_deg2 : catalogue rows a square degree.
    hosts_seen : share of the hosts that the infrared catalogue has.
    """
    if components < 20:
        raise ValueError(f"components={components}: at least 20 are needed")
    folder, rng = Path(folder), np.random.default_rng(seed)
    sources = _draw_sources(components, rng)
    side = int(np.ceil(np.sqrt(components / components_deg2) * 3600 / PIXEL_ARCSEC))
    wcs = _field(side)
    edge = min(EDGE_ARCSEC / PIXEL_ARCSEC, 0.4 * side)
    position = _sky(wcs, rng.uniform(edge, side - 1 - edge, (len(sources), 2)))
    radio = _radio_image(sources, position, wcs, side, rng)
    table, truth = _components(sources, position, rng)
    infrared, host = _infrared_catalogue(position, wcs, side, infrared_deg2, hosts_seen, rng)
    truth["host"] = host[truth["source"]]
    paths = SimulatedSky(*(folder / name for name in ("radio", "infrared", "radio.csv", "infrared.csv", "truth.csv")))
    _write(paths.radio, radio * 1e-3, wcs, BEAM.major, "Jy/beam")
    _write(paths.infrared, _infrared_image(infrared, wcs, side, rng), wcs, INFRARED_BEAM_ARCSEC, "count")
    table.to_csv(paths.radio_catalogue, index=False, float_format="%.7f")
    infrared.to_csv(paths.infrared_catalogue, index=False, float_format="%.7f")
    truth.to_csv(paths.truth, index=False)
    return paths


# --- what there is --------------------------------------------------------------------------------


def complex_source(flux: float, rng: np.random.Generator) -> Source:
    """A large FR II of five components: a core, and in each lobe a hot spot and a knot halfway."""
    found = double(flux, rng, "triple")
    ends, core = found.components[:2], np.zeros((1, 2))
    if len(found.components) < 3:  # a short one is not resolved
        return Source("complex", found.elements, found.components)
    halfway = ends * rng.uniform(0.45, 0.62, (2, 1))
    share = rng.uniform(0.08, 0.16, 2) * flux
    knots = np.column_stack([halfway, share, np.full((2, 3), [2.0, 2.0, 0.0])])
    return Source("complex", np.concatenate([found.elements, knots]), np.concatenate([ends, core, halfway]))


def with_jets(flux: float, rng: np.random.Generator) -> Source:
    """An FR I whose jets are components of their own: a core and one a side."""
    found = fr1(flux, rng)
    knots = found.elements[1:].reshape(2, -1, 6)[:, 3, :2]
    return Source("fr1", found.elements, np.concatenate([np.zeros((1, 2)), knots]))


KINDS = {
    "compact": (compact, 0.70, 1.2),
    "double": (double, 0.14, 12.0),
    "triple": (triple, 0.06, 12.0),
    "fr1": (with_jets, 0.04, 20.0),
    "bent": (bent, 0.04, 20.0),
    "complex": (complex_source, 0.02, 25.0),
}
"""Class, its maker, its share of the sources, and the flux of its faintest (mJy)."""


def _draw_sources(components: int, rng: np.random.Generator) -> list[Source]:
    """Sources of random class until they have ``components`` components."""
    names, shares = list(KINDS), [share for _, share, _ in KINDS.values()]
    found: list[Source] = []
    count = 0
    while count < components:
        maker, _, faintest = KINDS[str(rng.choice(names, p=shares))]
        source = maker(min(faintest * rng.uniform(1e-6, 1.0) ** (-1 / 0.9), 400.0), rng)
        found.append(_resolved(source))
        count += len(found[-1].components)
    return found


def _resolved(source: Source) -> Source:
    """The source without components that blend with a brighter one, within `RESOLVED` beams of it."""
    kept: list[np.ndarray] = []
    for place, _, _ in sorted(_measured(source), key=lambda component: -component[1]):
        if all(np.hypot(*(place - other)) >= RESOLVED * BEAM.major for other in kept):
            kept.append(place)
    return Source(source.kind, source.elements, np.array(kept))


# --- where it lies --------------------------------------------------------------------------------


def _field(side: int) -> Any:
    """SIN coordinates of a square field of ``side`` pixels."""
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.crval = CENTRE_DEG
    wcs.wcs.crpix = [(side + 1) / 2] * 2
    wcs.wcs.cdelt = [-PIXEL_ARCSEC / 3600, PIXEL_ARCSEC / 3600]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.set()
    return wcs


def _sky(wcs: Any, pixel: np.ndarray) -> np.ndarray:
    """Right ascension and declination (n, 2) in degrees of pixels (n, 2) x, y."""
    return np.stack(wcs.pixel_to_world_values(pixel[:, 0], pixel[:, 1]), axis=1)


def _moved(position: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Positions (n, 2) in degrees moved by offsets (n, 2) east, north in arcsec, on the sphere."""
    from astropy import units
    from astropy.coordinates import SkyCoord

    centre = SkyCoord(position[:, 0], position[:, 1], unit="deg")
    moved = centre.spherical_offsets_by(offsets[:, 0] * units.arcsec, offsets[:, 1] * units.arcsec)
    return np.stack([moved.ra.deg, moved.dec.deg], axis=1)


# --- radio ----------------------------------------------------------------------------------------


def _radio_image(
    sources: list[Source], position: np.ndarray, wcs: Any, side: int, rng: np.random.Generator
) -> np.ndarray:
    """Image (side, side) in mJy/beam of all sources, with noise that is correlated over the beam."""
    image = correlated_noise((side, side), PIXEL_ARCSEC, BEAM, RMS_MJY, rng)
    elements = np.concatenate([source.elements for source in sources])
    owner = np.repeat(np.arange(len(sources)), [len(source.elements) for source in sources])
    centre = np.stack(wcs.world_to_pixel_values(*_moved(position[owner], elements[:, :2]).T), axis=1)
    reach = np.ceil((20 + 1.6 * elements[:, 3]) / PIXEL_ARCSEC).astype(int)
    for where, radius, flux, covariance in zip(
        centre, reach, elements[:, 2], element_covariances(elements), strict=True
    ):
        low = np.clip(np.floor(where).astype(int) - radius, 0, side)
        high = np.clip(np.floor(where).astype(int) + radius + 1, 0, side)
        east = -(np.arange(low[0], high[0]) - where[0])[None, :] * PIXEL_ARCSEC
        north = (np.arange(low[1], high[1]) - where[1])[:, None] * PIXEL_ARCSEC
        image[low[1] : high[1], low[0] : high[0]] += gaussian_stamp(east, north, flux, covariance, BEAM)
    return image


def _components(sources: list[Source], position: np.ndarray, rng: np.random.Generator) -> tuple[Any, Any]:
    """The component catalogue in the order of right ascension, and the truth of its rows."""
    import pandas as pd

    rows = []
    for number, source in enumerate(sources):
        for place, peak, total in _measured(source):
            peak = peak + rng.normal(0, RMS_MJY)
            if peak >= DETECTED * RMS_MJY:
                error = rng.normal(0, 0.2 + 0.5 * BEAM.major * RMS_MJY / peak, 2)
                rows.append((*(place + error), peak, max(total, peak), number))
    offsets = np.array(rows)
    owner = offsets[:, 4].astype(int)
    sky = _moved(position[owner], offsets[:, :2])
    order = np.argsort(sky[:, 0], kind="stable")
    columns = {"ra": sky[:, 0], "dec": sky[:, 1], "peak_mjy_per_beam": offsets[:, 2], "total_mjy": offsets[:, 3]}
    table = pd.DataFrame(columns).iloc[order].reset_index(drop=True)
    table.insert(0, "source_id", [f"SIM-{row:06d}" for row in range(len(table))])
    owner = owner[order]
    kinds = np.array([source.kind for source in sources])[owner]
    return table, pd.DataFrame({"source": owner, "kind": kinds, "components": np.bincount(owner)[owner]})


def _measured(source: Source) -> list[tuple[np.ndarray, float, float]]:
    """Place (arcsec east, north), peak (mJy/beam) and total flux (mJy) of each component, without noise."""
    covariances = element_covariances(source.elements)
    owner = np.argmin(np.linalg.norm(source.elements[:, None, :2] - source.components[None], axis=2), axis=1)
    found = []
    for index, place in enumerate(source.components):
        offset = place - source.elements[:, :2]
        peaks = (
            gaussian_stamp(offset[i, 0], offset[i, 1], source.elements[i, 2], covariances[i], BEAM)
            for i in range(len(offset))
        )
        found.append((place, float(sum(peaks)), float(source.elements[owner == index, 2].sum())))
    return found


# --- infrared -------------------------------------------------------------------------------------


def _infrared_catalogue(
    position: np.ndarray, wcs: Any, side: int, density_deg2: float, seen: float, rng: np.random.Generator
) -> tuple[Any, np.ndarray]:
    """Infrared sources in random order, and the row of the host of every radio source (-1: not in the catalogue)."""
    import pandas as pd

    area_deg2 = (side * PIXEL_ARCSEC / 3600) ** 2
    field = _sky(wcs, rng.uniform(-0.5, side - 0.5, (rng.poisson(density_deg2 * area_deg2), 2)))
    flux = np.minimum(5 * rng.uniform(1e-6, 1, len(field)) ** -1.0, 3000)
    there = np.flatnonzero(rng.random(len(position)) < seen)
    hosts = _moved(position[there], rng.normal(0, 0.3, (len(there), 2)))
    bright = rng.lognormal(np.log(30.0), 0.7, len(there)).clip(6)
    sky, order = np.concatenate([hosts, field]), rng.permutation(len(there) + len(field))
    table = pd.DataFrame({"ra": sky[:, 0], "dec": sky[:, 1], "flux": np.concatenate([bright, flux])})
    table = table.iloc[order].reset_index(drop=True)
    table.insert(0, "name", [f"IR-{row:07d}" for row in range(len(table))])
    host = np.full(len(position), -1)
    host[there] = np.argsort(order)[: len(there)]
    return table, host


def _infrared_image(table: Any, wcs: Any, side: int, rng: np.random.Generator) -> np.ndarray:
    """Image (side, side): points shared among the four nearest pixels, spread over the beam, and white noise."""
    from scipy.ndimage import gaussian_filter

    x, y = wcs.world_to_pixel_values(table["ra"].to_numpy(), table["dec"].to_numpy())
    left, low = np.floor(x).astype(int), np.floor(y).astype(int)
    image = np.zeros((side + 2, side + 2))
    for down in (0, 1):
        for right in (0, 1):
            share = np.abs(1 - right - (x - left)) * np.abs(1 - down - (y - low))
            inside = (left >= -1) & (left < side) & (low >= -1) & (low < side)
            np.add.at(
                image, (low[inside] + 1 + down, left[inside] + 1 + right), (share * table["flux"].to_numpy())[inside]
            )
    sigma = INFRARED_BEAM_ARCSEC / FWHM / PIXEL_ARCSEC
    return gaussian_filter(image, sigma)[1:-1, 1:-1] * 2 * np.pi * sigma**2 + rng.normal(0, INFRARED_RMS, (side, side))


def _write(folder: Path, image: np.ndarray, wcs: Any, beam_arcsec: float, unit: str) -> None:
    from astropy.io import fits

    folder.mkdir(parents=True, exist_ok=True)
    header = wcs.to_header()
    header["BUNIT"] = unit
    header["BMAJ"] = header["BMIN"] = beam_arcsec / 3600
    header["BPA"] = 0.0
    fits.PrimaryHDU(image.astype(np.float32), header).writeto(folder / "field.fits", overwrite=True)
