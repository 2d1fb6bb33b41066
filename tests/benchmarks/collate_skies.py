"""Simulated skies for `bench_collate.py`: components of sources, infrared rows about them, masks drawn by script."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

SIDE = 150
"""Pixels of a mask's side."""
LABELS = ("Related Radio", "Sidelobe", "IR Host")
NEURONS = 100
PATCH_DENSITY = 48_000
PER_COMPONENT = 3
"""Infrared rows within 1' of each component."""


@dataclass(frozen=True)
class SkyKind:
    """A survey. density : components a square degree. limit_arcsec : masks reach as far, and no further."""

    name: str
    density: float
    limit_arcsec: float

    @property
    def pixel_scale_arcsec(self) -> float:
        """So that the masks fill their images."""
        return 2 * self.limit_arcsec / SIDE


VLASS = SkyKind("VLASS-like", 90.0, 60.0)
EMU = SkyKind("EMU-like", 1300.0, 180.0)


def partner_arcsec(kind: SkyKind) -> np.ndarray:
    """(NEURONS,) how far from its own centre a neuron's mask looks for a partner; 0 for neurons of single ones."""
    return np.where(np.arange(NEURONS) < 40, 0.0, np.linspace(0.1, 0.9, NEURONS) * kind.limit_arcsec)


def masks(kind: SkyKind) -> np.ndarray:
    """Planes (NEURONS, 2, SIDE, SIDE) uint64: the centre and a partner along +x (further neurons: on both sides), a
    sidelobe label on the rim of some, and the infrared host between the two."""
    row, col = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    planes, scale = np.zeros((NEURONS, 2, SIDE, SIDE), np.uint64), kind.pixel_scale_arcsec
    for neuron, distance in enumerate(partner_arcsec(kind) / scale):
        radius = 3 + 0.15 * distance
        related = np.hypot(row, col) < radius
        middle = 0.0
        if distance:
            related |= np.hypot(row, col - distance) < radius
            middle = distance / 2
            if neuron % 3 == 0:  # a core and two lobes
                related |= np.hypot(row, col + distance) < radius
                middle = 0.0
        planes[neuron, 0][related] |= np.uint64(1)
        if neuron % 10 == 9:
            planes[neuron, 0][np.hypot(row, col) > 0.45 * SIDE] |= np.uint64(2)
        planes[neuron, 1][np.hypot(row, col - middle) < 4] |= np.uint64(4)
    return planes


@dataclass(frozen=True)
class SimulatedSky:
    """Components in random order: positions (n,) degrees, neuron, angle_rad, flip and distance of their images; rows of
    infrared positions."""

    ra_deg: np.ndarray
    dec_deg: np.ndarray
    neuron: np.ndarray
    angle_rad: np.ndarray
    flip: np.ndarray
    distance: np.ndarray
    infrared_ra_deg: np.ndarray
    infrared_dec_deg: np.ndarray


def simulate(kind: SkyKind, components: int, infrared: int, patch_deg2: float, seed: int = 0) -> SimulatedSky:
    """Sources of one to three components at the density of ``kind``, and a square patch of crowded ones.

    infrared : rows in all, of which `PER_COMPONENT` a component are within 1' of it; those left are anywhere.
    """
    rng = np.random.default_rng(seed)
    crowd = int(patch_deg2 * PATCH_DENSITY)
    area = max((components - crowd) / kind.density, 0.01)
    ra, dec, neuron, turn = _sources(kind, rng, components - crowd, area)
    side = np.sqrt(patch_deg2)
    crowd_ra, crowd_dec = 150 + rng.uniform(0, side, crowd) / np.cos(np.radians(1)), 1 + rng.uniform(0, side, crowd)
    ra, dec = np.concatenate([ra, crowd_ra]), np.concatenate([dec, crowd_dec])
    neuron = np.concatenate([neuron, rng.integers(0, NEURONS, crowd)])
    turn = np.concatenate([turn, rng.uniform(0, 2 * np.pi, crowd)])
    order = rng.permutation(components)
    ra, dec, neuron, turn = ra[order], dec[order], neuron[order], turn[order]
    about = np.repeat(np.arange(components), PER_COMPONENT)
    reach, to = 60 / 3600 * np.sqrt(rng.uniform(0, 1, len(about))), rng.uniform(0, 2 * np.pi, len(about))
    near_ra, near_dec = _offset(ra[about], dec[about], reach, to)
    free = max(infrared - len(about), 0)
    field_ra, field_dec = _anywhere(rng, free, area)
    infrared_order = rng.permutation(len(about) + free)
    return SimulatedSky(
        ra,
        dec,
        neuron.astype(np.int32),
        turn.astype(np.float32),
        np.zeros(components, np.int8),
        rng.gamma(4, 2, components).astype(np.float32),
        np.concatenate([near_ra, field_ra])[infrared_order],
        np.concatenate([near_dec, field_dec])[infrared_order],
    )


def _sources(
    kind: SkyKind, rng: np.random.Generator, components: int, area_deg2: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Positions, neurons and turns of components: seven in ten sources are single, two double, one triple."""
    sizes = rng.choice([1, 1, 1, 1, 1, 1, 1, 2, 2, 3], components)
    sizes = sizes[: np.searchsorted(np.cumsum(sizes), components) + 1]
    ra, dec = _anywhere(rng, len(sizes), area_deg2)
    partner = partner_arcsec(kind)
    angle = rng.uniform(0, 2 * np.pi, len(sizes))  # position angle of the axis
    of_double = rng.integers(42, NEURONS - 2, len(sizes)) // 3 * 3 + 1
    of_triple = of_double - 1
    parts = []
    for size in (1, 2, 3):
        chosen = np.flatnonzero(sizes == size)
        for number in range(size):
            neuron = rng.integers(0, 40, len(chosen)) if size == 1 else (of_double, of_triple)[size - 2][chosen]
            side = (0.0, 1.0, -1.0)[number] if size == 3 else (-0.5, 0.5)[number] if size == 2 else 0.0
            part_ra, part_dec = _offset(ra[chosen], dec[chosen], side * partner[neuron] / 3600, angle[chosen])
            # x = -east, y = north: the axis lies at 90 degrees + position angle from +x, and is turned onto it.
            turn = -(angle[chosen] + np.pi / 2) + (np.pi if side > 0 else 0)
            parts.append((part_ra, part_dec, neuron, turn % (2 * np.pi)))
    columns = [np.concatenate(column)[:components] for column in zip(*parts, strict=True)]
    return columns[0], columns[1], columns[2], columns[3]


def _anywhere(rng: np.random.Generator, count: int, area_deg2: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions evenly on a cap or band of the sky of an area; north of -40 degrees where that is large enough."""
    south = np.sin(np.radians(-40.0))
    width = min(360.0, np.sqrt(area_deg2) * 2 if area_deg2 < 20_000 else 360.0)
    north = min(south + area_deg2 / width * np.pi / 180, 1.0)
    ra = rng.uniform(0, width, count)
    return ra, np.degrees(np.arcsin(rng.uniform(south, north, count)))


def _offset(
    ra_deg: np.ndarray, dec_deg: np.ndarray, by_deg: np.ndarray, towards_rad: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Positions a small angle from others, at a position angle east of north."""
    dec = np.clip(dec_deg + by_deg * np.cos(towards_rad), -90, 90)
    return (ra_deg + by_deg * np.sin(towards_rad) / np.maximum(np.cos(np.radians(dec_deg)), 1e-3)) % 360, dec


def write(sky: SimulatedSky, folder: Path) -> None:
    """components.parquet and infrared.parquet in row groups of 500,000, mapping.npz."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    for name, ra, dec in (
        ("components", sky.ra_deg, sky.dec_deg),
        ("infrared", sky.infrared_ra_deg, sky.infrared_dec_deg),
    ):
        numbers = pa.array(np.arange(len(ra)) + 10**9).cast(pa.string())
        ids = pc.binary_join_element_wise(name[:2].upper(), numbers, "J")
        table = pa.table({"source_id": ids, "ra_deg": ra, "dec_deg": dec})
        if name == "components":
            table = table.append_column("Total_flux", [rng.lognormal(0, 1, len(ra))])
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=500_000)
    np.savez(folder / "mapping.npz", neuron=sky.neuron, angle_rad=sky.angle_rad, flip=sky.flip, distance=sky.distance)
