"""The island of one component, made again from the inputs of a collation: who touches whom, and the groups it becomes.

An island is all that decides about its rows, so its groups are those of the whole collation, and neither the other
islands nor the tables of a finished run are needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skysom.engine.collation.carried import Carried
from skysom.engine.collation.groups import Groups
from skysom.engine.collation.projection import Frames, carried_of_channel
from skysom.jobs.collation.inputs import CatalogueFile, CollationInputs
from skysom.jobs.collation.inputs_masks import reach_arcsec
from skysom.storage.catalogue import ROW_NUMBER

if TYPE_CHECKING:
    import pandas as pd

FIRST_LIMITS = 8.0
"""Rows so many separation limits around are read first; more where the island goes on."""


@dataclass(frozen=True, eq=False)
class Place:
    """Rows of a catalogue around a component: row (k,) int64, ra_deg, dec_deg (k,) and ids (k,) object of text.

    whole_row : (k,) int64, of a catalogue that is cut from a larger one the rows of that; else ``row``.
    """

    row: np.ndarray
    ra_deg: np.ndarray
    dec_deg: np.ndarray
    ids: np.ndarray
    whole_row: np.ndarray

    def at(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        """Positions in these arrays of ``rows``, all of which are among them."""
        return np.searchsorted(self.row, np.asarray(rows, np.int64))

    def name(self, row: int) -> str:
        """The id of a row."""
        return str(self.ids[self.at([row])[0]])

    def called(self, row: int) -> str:
        """The id of a row and, of a larger catalogue where this is a part of one, its number."""
        name, number = self.name(row), int(self.whole_row[self.at([row])[0]])
        return f"row {number}" if name in (str(number), f"row-{number}") else f"{name} (row {number})"


@dataclass(frozen=True, eq=False)
class Island:
    """An island and its surroundings.

    groups : of the rows of the island. carried : what the masks of these rows carry, in all channels, whether they were
    used or not. base : the components around, members of the island among them. others : by channel the rows of
    catalogues that are not the base. frames : of the rows of ``base``.
    """

    groups: Groups
    carried: Carried
    base: Place
    others: dict[int, Place]
    frames: Frames

    def frame(self, row: int) -> tuple[int, float, int]:
        """Neuron, angle in radians and flip of a row."""
        at = int(self.base.at([row])[0])
        return int(self.frames.neuron[at]), float(self.frames.angle_rad[at]), int(self.frames.flip[at])


def find_island(inputs: CollationInputs, row: int) -> Island:
    """The island of a base row.

    Reads positions and ids of all catalogues, and keeps those around the row.
    """
    from skysom.engine.collation.grouping import group

    reach = [reach_arcsec(inputs.planes[:, channel], inputs.pixel_scale_arcsec) for channel in range(_channels(inputs))]
    reach = [min(one, inputs.limit_arcsec) for one in reach]
    around, centres = FIRST_LIMITS * max(inputs.limit_arcsec, 1.0), np.array([row])
    while True:
        base = _around(inputs, centres, around)
        frames = _frames(inputs, base.row)
        rows, beyond = _closure(inputs, row, base, frames, reach, centres, around)
        if not len(beyond):
            break
        around, centres = 2 * around, np.union1d(centres, beyond)
    others = {
        channel: _near(inputs, inputs.catalogues[channel], base, rows, inputs.limit_arcsec)
        for channel in range(_channels(inputs))
        if not inputs.base_channels[channel]
    }
    carried = _carried(inputs, base, frames, rows, reach, others)
    groups = group(carried, rows, inputs.rank[rows], inputs.actions, inputs.base_channels, inputs.corrections)
    return Island(groups, carried, base, others, frames)


def _channels(inputs: CollationInputs) -> int:
    return len(inputs.catalogues)


def _closure(
    inputs: CollationInputs,
    row: int,
    base: Place,
    frames: Frames,
    reach: list[float],
    centres: np.ndarray,
    around: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the island of ``row``, and rows of it whose surroundings are not at hand: none where all of it is."""
    from skysom.engine.collation.islands import touching

    known = new = np.array([row])
    farthest = max(reach)
    by_hand = np.empty((0, 2), np.int64) if inputs.corrections is None else inputs.corrections.pairs()
    while len(new):
        beyond = new[_separations(base, centres, new) > around - 2 * farthest]
        if len(beyond):
            return known, beyond
        # both who lies under their masks and whose masks they lie under
        near = _within(base, new, farthest)
        pairs = touching(_carried(inputs, base, frames, near, reach, {}), inputs.actions, inputs.base_channels)
        tied = np.concatenate([np.stack(pairs, axis=1), by_hand])
        new = np.setdiff1d(tied[np.isin(tied, new).any(axis=1)], known)
        known = np.union1d(known, new)
    return known, np.empty(0, np.int64)


def _carried(
    inputs: CollationInputs,
    base: Place,
    frames: Frames,
    rows: np.ndarray,
    reach: list[float],
    others: dict[int, Place],
) -> Carried:
    """What the masks of ``rows`` carry, in the base's channels and those of ``others``."""
    at = base.at(rows)
    at = at[frames.neuron[at] >= 0]
    matchable = inputs.matchable()[base.row]
    targets = Place(*(column[matchable] for column in vars(base).values()))
    parts = []
    for channel, of_base in enumerate(inputs.base_channels):
        if not of_base and channel not in others:
            continue
        other = targets if of_base else others[channel]
        parts.append(
            carried_of_channel(
                channel,
                base.row[at],
                base.ra_deg[at],
                base.dec_deg[at],
                frames.take(at),
                other.row,
                other.ra_deg,
                other.dec_deg,
                np.ascontiguousarray(inputs.planes[:, channel]),
                inputs.pixel_scale_arcsec,
                reach[channel],
                float32_angles=inputs.float32_angles,
            )
        )
    return Carried.concatenate(parts)


def _frames(inputs: CollationInputs, rows: np.ndarray) -> Frames:
    """Frames (k,) of base rows, neuron -1 for those that use no mask."""
    mapped = inputs.mapped
    at = np.minimum(np.searchsorted(mapped.row, rows), max(len(mapped) - 1, 0))
    used = (mapped.row[at] == rows) & (inputs.rank[rows] >= 0)
    neuron, angle = np.where(used, mapped.neuron[at], -1), np.where(used, mapped.angle_rad[at], 0)
    return Frames(neuron, angle, np.where(used, mapped.flip[at], 0))


# --- reading --------------------------------------------------------------------------------------


def _around(inputs: CollationInputs, centres: np.ndarray, radius_arcsec: float) -> Place:
    """The rows of the base within an angle of any of ``centres`` (k,), these, and all that corrections name."""
    named = centres if inputs.corrections is None else np.union1d(centres, inputs.corrections.rows())
    table = _rows_of(inputs.base, centres)
    ra, dec = inputs.base.positions(table)
    known = np.isfinite(ra)
    return _read(inputs.base, np.stack([ra[known], dec[known]], axis=1), radius_arcsec, named)


def _near(inputs: CollationInputs, file: CatalogueFile, base: Place, rows: np.ndarray, radius_arcsec: float) -> Place:
    """The rows of a catalogue within an angle of any of the base rows."""
    at = base.at(rows)
    known = np.isfinite(base.ra_deg[at])
    centres = np.stack([base.ra_deg[at][known], base.dec_deg[at][known]], axis=1)
    return _read(file, centres, radius_arcsec, np.empty(0, np.int64))


def _rows_of(file: CatalogueFile, rows: np.ndarray) -> "pd.DataFrame":
    """Single rows (k,), ascending, of a catalogue."""
    import pandas as pd

    parts = []
    for first, block in file.blocks(file.needed):
        own = rows[(rows >= first) & (rows < first + len(block))] - first
        if len(own):
            parts.append(block.iloc[own])
    found = pd.concat(parts)
    found.attrs = parts[0].attrs
    return found


def _read(file: CatalogueFile, centres: np.ndarray, radius_arcsec: float, named: np.ndarray) -> Place:
    """Rows within an angle of any of ``centres`` (k, 2) degrees, and those of ``named``; block by block."""
    from skysom.engine.collation.neighbours import neighbour_pairs, unit_vectors

    middle, parts = unit_vectors(*centres.T), []
    numbered = [file.row_column] if file.row_column else []
    for first, block in file.blocks(list(dict.fromkeys([*file.needed, *numbered]))):
        ra, dec = file.positions(block)
        near = neighbour_pairs(middle, unit_vectors(ra, dec), min(radius_arcsec, 648_000))[1]
        own = named[(named >= first) & (named < first + len(block))] - first
        found = np.union1d(near, own)
        rows, chosen = first + found, block.iloc[found]
        whole = chosen[numbered[0]].to_numpy(np.int64) if numbered else rows
        parts.append((rows, ra[found], dec[found], _ids(file, chosen, rows), whole))
    return Place(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _ids(file: CatalogueFile, table: "pd.DataFrame", rows: np.ndarray) -> np.ndarray:
    """Ids (k,) object of text of single rows of a catalogue, as those of the whole have them."""
    if file.id_column == ROW_NUMBER:
        return rows.astype(str).astype(object)
    found = file.ids(table, 0)
    missing = table[file.id_column].isna().to_numpy()
    found[missing] = [f"row-{row}" for row in rows[missing]]
    return found


def _within(base: Place, rows: np.ndarray, radius_arcsec: float) -> np.ndarray:
    """Rows of ``base`` within an angle of any of ``rows``, and these."""
    from skysom.engine.collation.neighbours import neighbour_pairs, unit_vectors

    vectors = unit_vectors(base.ra_deg, base.dec_deg)
    found = neighbour_pairs(vectors[base.at(rows)], vectors, radius_arcsec)[1]
    return np.union1d(rows, base.row[found])


def _separations(base: Place, centres: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Arcsec (k,) from the nearest of ``centres``; 0 for rows without a position, which have no surroundings."""
    from skysom.engine.collation.neighbours import angle_of_chord_arcsec, unit_vectors

    vectors = unit_vectors(base.ra_deg, base.dec_deg)
    own, middle = vectors[base.at(rows)], vectors[base.at(centres)]
    middle = middle[np.isfinite(middle).all(axis=1)]
    chord = np.full(len(own), 2.0)
    for one in middle:
        chord = np.minimum(chord, np.sqrt(((own - one) ** 2).sum(axis=1)))
    away = angle_of_chord_arcsec(chord)
    return np.where(np.isfinite(own).all(axis=1), away, 0.0)
