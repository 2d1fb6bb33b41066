"""Small skies with everything in them, grouped: what tables of sources are made of, for tests."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from skysom.engine.collation.actions import Action, actions_for
from skysom.engine.collation.carried import Carried
from skysom.engine.collation.grouping import group
from skysom.engine.collation.groups import Corrections, Groups
from skysom.jobs.collation.source_table import SourceColumns

LABELS = ("Related radio", "IR host", "Artefact", "Sidelobe", "Good", "Nearby", "Lone")
CHOSEN = {
    "Related radio": "LINK",
    "IR host": "DATA_ATTACH",
    "Artefact": "FLAG",
    "Sidelobe": "FALSE_ATTACH",
    "Good": "TRUE_ATTACH",
    "Nearby": "DATA_ATTACH",
    "Lone": "ISOLATE",
}
CHANNELS = ((0,), (1,), (0,), (0,), (0, 1), (0, 1), (0,))
NEURONS = 5
STATUSES = ("ok", "not_mapped", "no_position", "duplicate_id", "empty_mask")


@dataclass(frozen=True)
class Sky:
    """base, infrared : tables indexed by row. carried, groups, columns : what was made of them."""

    base: pd.DataFrame
    infrared: pd.DataFrame
    carried: Carried
    groups: Groups
    columns: SourceColumns


def columns(**more: object) -> SourceColumns:
    """Columns of these skies."""
    actions: tuple[Action, ...] = actions_for(LABELS, CHOSEN)
    neuron_labels = tuple((f"shape {k}", "FR II")[: k % 3] for k in range(NEURONS))
    given = {"flux": ("Total", "Peak"), "flux_units": {"Total": "mJy"}, "redshift": "z"} | more
    return SourceColumns(LABELS, actions, CHANNELS, (True, False), neuron_labels, **given)  # type: ignore[arg-type]


def sky(seed: int, rows: int = 40, centre: tuple[float, float] = (0.0, -30.0), **more: object) -> Sky:
    """A random sky: rows that link others or stay alone, with hosts in two catalogues, gaps in every column."""
    random = np.random.default_rng(seed)
    places = _positions(random, rows, centre)
    base = pd.DataFrame(
        {
            "id": [f"C{row:04d}; {row % 7}" for row in range(rows)],
            **places,
            "status": random.choice(STATUSES, rows, p=[0.7, 0.1, 0.1, 0.05, 0.05]),
            "neuron": random.integers(0, NEURONS, rows).astype(np.int32),
            "distance": random.random(rows).astype(np.float32),
            "Total": np.where(random.random(rows) < 0.1, np.nan, random.normal(5, 3, rows)),
            "Peak": np.where(random.random(rows) < 0.5, np.nan, np.round(random.normal(1, 1, rows))),
            "z": np.where(random.random(rows) < 0.3, np.nan, random.normal(0.5, 0.4, rows)),
        }
    )
    lost = base["status"] == "no_position"
    base.loc[lost, ["ra_deg", "dec_deg"]] = np.nan
    infrared = pd.DataFrame({"id": np.arange(2 * rows) + 5000, **_positions(random, 2 * rows, centre)})
    infrared["z"] = random.random(2 * rows)
    carried = _carried(random, np.flatnonzero(~lost), len(infrared))
    rank = np.full(rows, -1, np.int64)
    sources = np.flatnonzero(base["status"] == "ok")
    rank[sources] = random.permutation(len(sources))
    made = columns(**more)
    together = ((0, 1, rows - 1),) if seed % 3 == 0 else ()
    groups = group(carried, np.arange(rows), rank, made.actions, [True, False], Corrections(together))
    return Sky(base, infrared, carried, groups, made)


def _positions(random: np.random.Generator, count: int, centre: tuple[float, float]) -> dict[str, np.ndarray]:
    from astropy import units as u
    from astropy.coordinates import SkyCoord

    turn, far = random.uniform(0, 360, count), 200 * np.sqrt(random.random(count))
    found = SkyCoord(*centre, unit="deg").directional_offset_by(turn * u.deg, far * u.arcsec)
    return {"ra_deg": found.ra.deg, "dec_deg": found.dec.deg}


def _carried(random: np.random.Generator, sources: np.ndarray, infrared: int) -> Carried:
    """Pairs with random labels; most sources carry LINK at their own place."""
    pairs = {}
    for source in sources.tolist():
        if random.random() < 0.9:
            pairs[source, 0, source] = 1
        for row in random.choice(sources, random.integers(0, 3)).tolist():
            bits = random.choice(
                [1, 1 << 2, 1 << 3, 1 << 4, 1 << 5, 1 << 6, 1 | 1 << 5], p=[0.3, *[0.1] * 3, 0.2, 0.1, 0.1]
            )
            pairs[source, 0, row] = pairs.get((source, 0, row), 0) | int(bits)
        for row in random.integers(0, infrared, random.integers(0, 5)).tolist():
            pairs[source, 1, row] = int(random.choice([1 << 1, 1 << 5, 1 << 1 | 1 << 5, 1 << 4]))
    keys = np.array(sorted(pairs), np.int64).reshape(-1, 3)
    bits = np.array([pairs[tuple(key)] for key in keys.tolist()], np.uint64)
    return Carried(*keys.T, bits, random.random(len(keys)))
