"""The sky of the demo: radio sources made of Gaussians, and the noise and artefacts of an interferometer.

A source is a set of Gaussian elements (lobes, hot spots, jets, core) with offsets in arcsec east and north
of its position, before convolution with the beam. All are pure functions of their arguments and generator.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))
"""Full width at half maximum of a Gaussian in units of its standard deviation."""


@dataclass(frozen=True)
class Beam:
    """Restoring beam: full widths at half maximum in arcsec, position angle in degrees north through east."""

    major: float = 5.6
    minor: float = 5.2
    angle: float = 20.0

    def covariance(self) -> np.ndarray:
        """(2, 2) covariance in arcsec squared, axes east and north."""
        return _covariance(np.array([self.major]), np.array([self.minor]), np.array([self.angle]))[0]


@dataclass(frozen=True)
class Source:
    """A source: its class, its elements (n, 6) and which of them a component catalogue lists.

    Columns of ``elements``: east and north offset (arcsec), flux (mJy), major and minor FWHM (arcsec),
    position angle (degrees). ``components``: (m, 2) east and north offsets (arcsec) of what is catalogued.
    """

    kind: str
    elements: np.ndarray
    components: np.ndarray


def gaussian_stamp(
    offset_x: np.ndarray, offset_y: np.ndarray, flux: float, covariance: np.ndarray, beam: Beam
) -> np.ndarray:
    """Surface brightness in mJy/beam of one element; offsets in arcsec, ``covariance`` before the beam."""
    beam_cov = beam.covariance()
    total = covariance + beam_cov
    inverse = np.linalg.inv(total)
    peak = flux * np.sqrt(np.linalg.det(beam_cov) / np.linalg.det(total))
    q = inverse[0, 0] * offset_x**2 + 2 * inverse[0, 1] * offset_x * offset_y + inverse[1, 1] * offset_y**2
    return peak * np.exp(-0.5 * q)


def element_covariances(elements: np.ndarray) -> np.ndarray:
    """(n, 2, 2) covariances in arcsec squared (east, north) of elements (n, 6)."""
    return _covariance(elements[:, 3], elements[:, 4], elements[:, 5])


def correlated_noise(
    shape: tuple[int, int], pixel: float, beam: Beam, rms: float, rng: np.random.Generator
) -> np.ndarray:
    """White noise convolved with the beam, (y, x) float64 of standard deviation ``rms``; ``pixel`` in arcsec.

    The convolution is a product in Fourier space, so the noise wraps around the tile, which nobody can see.
    """
    white = np.fft.rfft2(rng.standard_normal(shape))
    north = np.fft.fftfreq(shape[0], pixel)[:, None]
    east = -np.fft.rfftfreq(shape[1], pixel)[None, :]
    c = beam.covariance()
    exponent = c[0, 0] * east**2 + 2 * c[0, 1] * east * north + c[1, 1] * north**2
    noise = np.fft.irfft2(white * np.exp(-2 * np.pi**2 * exponent), s=shape)
    return noise * (rms / noise.std())


def sidelobes(radius: np.ndarray, angle: np.ndarray, phase: float) -> np.ndarray:
    """Residual dirty beam of a snapshot around a bright source, relative to its peak.

    Rings 17 arcsec apart and the six spokes of a three-armed array, fading with ``radius`` (arcsec);
    ``angle`` in radians. Below 1 % of the peak, as where phase errors were left after cleaning.
    """
    rings = np.cos(2 * np.pi * radius / 17.0) * np.exp(-radius / 50.0)
    spokes = np.abs(np.cos(3 * (angle + phase))) ** 14 * np.exp(-radius / 75.0)
    ripple = 0.6 + 0.4 * np.cos(2 * np.pi * radius / 34.0 + 5 * angle)
    inner = 1.0 - np.exp(-((radius / 14.0) ** 4))
    return 0.006 * inner * (0.2 * rings + spokes * ripple * np.cos(2 * np.pi * radius / 23.0))


def compact(flux: float, rng: np.random.Generator) -> Source:
    """An unresolved or barely resolved source."""
    size = rng.choice([0.0, rng.uniform(1.0, 4.5)], p=[0.6, 0.4])
    return Source("compact", _rows([(0, 0, flux, size, size * rng.uniform(0.4, 1), _angle(rng))]), np.zeros((1, 2)))


def double(flux: float, rng: np.random.Generator, kind: str = "double") -> Source:
    """An FR II: a hot spot at each end, lobes that point back to the middle, now and then a faint core."""
    length, axis = _length(rng, 30.0), _angle(rng)
    asymmetry, arm_ratio = rng.uniform(0.3, 0.7), rng.uniform(0.42, 0.58)
    core = rng.uniform(0.25, 0.45) if kind == "triple" else rng.choice([0.0, rng.uniform(0.01, 0.06)])
    rows = [(0.0, 0.0, core * flux, 0, 0, 0)]
    ends = []
    for side, share, arm in ((1, asymmetry, arm_ratio), (-1, 1 - asymmetry, 1 - arm_ratio)):
        lobe_flux, arm_length, bend = share * flux * (1 - core), side * arm * length, axis + rng.normal(0, 5)
        ends.append(_polar(arm_length, bend))
        rows.append((*ends[-1], 0.5 * lobe_flux, 1, 1, 0))
        for step, part in ((0.82, 0.3), (0.55, 0.2)):
            middle = _polar(step * arm_length, bend + rng.normal(0, 4))
            rows.append((*middle, part * lobe_flux, 0.3 * length, rng.uniform(0.1, 0.2) * length, bend))
    centre = [(0.0, 0.0)] if kind == "triple" else []
    return Source(kind, _rows(rows), _components([*ends, *centre], length))


def triple(flux: float, rng: np.random.Generator) -> Source:
    """Two lobes and a core that is as bright as they are."""
    return double(flux, rng, "triple")


def fr1(flux: float, rng: np.random.Generator) -> Source:
    """An FR I: bright in the middle, two jets that widen, fade and meander."""
    length, axis = _length(rng, 42.0), _angle(rng)
    rows = [(0.0, 0.0, 0.22 * flux, 0, 0, 0)]
    for side in (0.0, 180.0):
        wiggle, share = rng.normal(0, 12), rng.uniform(0.8, 1.2)
        rows += _jet(length / 2, axis + side, wiggle, share * 0.39 * flux, fade=1.4, flare=0.22)
    return Source("fr1", _rows(rows), np.zeros((1, 2)))


def bent(flux: float, rng: np.random.Generator) -> Source:
    """A bent tail: two jets swept the same way by the gas the galaxy moves through."""
    length, axis = _length(rng, 44.0), _angle(rng)
    opening, sweep = rng.uniform(50, 85), rng.uniform(20, 60)
    rows = [(0.0, 0.0, 0.15 * flux, 0, 0, 0)]
    tips = []
    for side in (1, -1):
        jet = _jet(0.6 * length, axis + side * opening, -side * sweep, 0.425 * flux, fade=0.5, flare=0.16)
        tips.append((jet[len(jet) // 2][0], jet[len(jet) // 2][1]))
        rows += jet
    return Source("bent", _rows(rows), _components([(0.0, 0.0), *tips], 0.75 * length))


MORPHOLOGIES: dict[str, tuple[Callable[[float, np.random.Generator], Source], float]] = {
    "compact": (compact, 0.60),
    "double": (double, 0.20),
    "triple": (triple, 0.06),
    "fr1": (fr1, 0.09),
    "bent": (bent, 0.05),
}
"""Class, its maker and its share of the sources (not of the components)."""


def draw_source(rng: np.random.Generator) -> Source:
    """One source of random class, with fluxes (mJy) of slope -0.9 in N(>S); extended ones are brighter."""
    names = list(MORPHOLOGIES)
    kind = str(rng.choice(names, p=[MORPHOLOGIES[name][1] for name in names]))
    faintest = 1.2 if kind == "compact" else 12.0
    flux = min(faintest * rng.uniform(1e-6, 1.0) ** (-1 / 0.9), 400.0)
    return MORPHOLOGIES[kind][0](flux, rng)


def _jet(length: float, angle: float, turn: float, flux: float, *, fade: float, flare: float) -> list[tuple]:
    """Knots along an arc of ``length`` arcsec that leaves at ``angle`` and turns by ``turn`` degrees."""
    knots = 7
    along = (np.arange(knots) + 0.6) / knots
    weight = np.exp(-fade * along)
    heading = angle + turn * along
    step = np.stack(_polar(length / knots, heading), axis=1)
    position = np.cumsum(step, axis=0) - 0.4 * step
    width = flare * length * along + 0.5
    return [
        (
            *position[i],
            flux * weight[i] / weight.sum(),
            1.4 * length / knots + width[i] / 2,
            width[i],
            heading[i],
        )
        for i in range(knots)
    ]


def _components(offsets: list[tuple[float, float]], length: float) -> np.ndarray:
    """A short source is one catalogue component at its middle, a long one several."""
    points = np.asarray(offsets, float)
    return points if length > 15.0 else points.mean(axis=0, keepdims=True)


def _length(rng: np.random.Generator, median: float) -> float:
    return float(np.clip(rng.lognormal(np.log(median), 0.5), 9.0, 80.0))


def _angle(rng: np.random.Generator) -> float:
    return float(rng.uniform(0.0, 360.0))


def _polar(radius, angle):
    """East and north offsets of a point at ``radius``, ``angle`` degrees north through east."""
    radians = np.deg2rad(angle)
    return radius * np.sin(radians), radius * np.cos(radians)


def _rows(rows: list[tuple]) -> np.ndarray:
    table = np.asarray(rows, float)
    return table[table[:, 2] > 0]


def _covariance(major: np.ndarray, minor: np.ndarray, angle: np.ndarray) -> np.ndarray:
    radians = np.deg2rad(angle)
    along = np.stack([np.sin(radians), np.cos(radians)], axis=1)
    across = np.stack([np.cos(radians), -np.sin(radians)], axis=1)
    return (
        (major**2)[:, None, None] * along[:, :, None] * along[:, None, :]
        + (minor**2)[:, None, None] * across[:, :, None] * across[:, None, :]
    ) / FWHM**2
