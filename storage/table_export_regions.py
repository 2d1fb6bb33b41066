"""Sources as DS9 regions: an ellipse or a circle each, lines to its members, a cross on every host.

The text is made here: the `regions` library takes 1 ms a region, an hour for 3 million sources, and keeps all of them.
It reads what is written.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skysom.storage import place as places
from skysom.storage.fits_export import ExportError
from skysom.storage.table_export import Rows, is_list, list_lengths

COMPONENTS = "components.parquet"
"""The table of components beside that of sources: row, ra_deg, dec_deg."""
NEEDED = ("name", "ra_deg", "dec_deg", "components", "members")
MOST_REGIONS = 100_000
"""Sources up to which all are drawn; of more, those of several components, unless an expression chooses."""
MARGIN_ARCSEC = 3.0
"""By which a region goes beyond the positions of its members: about the beam of the surveys this is made for."""
HOST_COLOURS = ("red", "magenta", "yellow", "orange")
HEADER = """# Region file format: DS9
# sources and their components, written by skysom{said}
global color=green width=1 select=1
icrs
"""
CHOSEN = "; of {count:,} sources those of several components (give an expression for others)"


@dataclass(frozen=True)
class Members:
    """Members of S sources in CSR form: starts (S + 1,), ra_deg, dec_deg (k,), group (k,) their source."""

    starts: np.ndarray
    ra_deg: np.ndarray
    dec_deg: np.ndarray
    group: np.ndarray


def write_regions(rows: Rows, stream: BinaryIO) -> int:
    """Write the sources that have a position; returns how many.

    Raises
    ------
    ExportError : columns, or the table of components, are missing, or the two are not of one collation.
    """
    schema = rows.schema
    missing = [name for name in NEEDED if name not in schema.names]
    if missing:
        raise ExportError(f"{rows.path} has no column {missing[0]!r}; give the sources.parquet of a collation")
    hosts = [
        name.removesuffix("_ra_deg")
        for name in schema.names
        if name.endswith("_ra_deg") and is_list(schema.field(name).type)
    ]
    said = ""
    if rows.where is None and rows.count > MOST_REGIONS:
        said, rows = CHOSEN.format(count=rows.count), Rows(rows.path, "components > 1")
    stream.write(HEADER.format(said=said).encode())
    ra, dec = _positions(rows)
    names = [*NEEDED, *(f"{host}{end}" for host in hosts for end in ("_ra_deg", "_dec_deg"))]
    count = 0
    for batch in rows.batches(names):
        batch = batch.filter(pc.is_valid(batch["ra_deg"]))
        if not len(batch):
            continue
        members = _members(rows, batch, ra, dec)
        count += len(batch)
        lines = [*_outlines(batch, members), *_spokes(batch, members)]
        for number, host in enumerate(hosts):
            lines += _crosses(batch, host, HOST_COLOURS[number % len(HOST_COLOURS)])
        stream.write("".join(lines).encode())
    return count


@dataclass(frozen=True)
class Ellipses:
    """Ellipses (S,): centres and half axes; angle_deg of the long axis, east of the north at the centre."""

    ra_deg: np.ndarray
    dec_deg: np.ndarray
    long_arcsec: np.ndarray
    short_arcsec: np.ndarray
    angle_deg: np.ndarray


def ellipses(ra_deg: np.ndarray, dec_deg: np.ndarray, members: Members) -> Ellipses:
    """Ellipses about sources at (S,) positions that hold all members and `MARGIN_ARCSEC` more.

    The centre is the middle of the members' extents, the long axis their principal axis (second moments).
    """
    group, starts = members.group, members.starts[:-1]
    offsets = _offsets(ra_deg[group], dec_deg[group], members.ra_deg, members.dec_deg)
    middle = [(np.minimum.reduceat(values, starts) + np.maximum.reduceat(values, starts)) / 2 for values in offsets]
    ra, dec = _moved(ra_deg, dec_deg, *middle)
    east, north = _offsets(ra[group], dec[group], members.ra_deg, members.dec_deg)
    ee, nn, en = (np.add.reduceat(values, starts) for values in (east * east, north * north, east * north))
    angle = np.arctan2(2 * en, nn - ee) / 2
    sine, cosine = np.sin(angle)[group], np.cos(angle)[group]
    along, across = np.abs(east * sine + north * cosine), np.abs(east * cosine - north * sine)
    long, short = (np.maximum.reduceat(values, starts) + MARGIN_ARCSEC for values in (along, across))
    reach = np.maximum.reduceat(np.hypot(along / long[group], across / short[group]), starts)
    grow = np.maximum(reach * 1.001, 1.0)
    return Ellipses(ra, dec, long * grow, short * grow, np.degrees(angle))


def _positions(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """RA and Dec of every base row, NaN for rows the table of components lacks."""
    path = rows.path.with_name(COMPONENTS)
    if not places.is_file(path):
        raise ExportError(f"{path} is needed to draw the members of sources; put it beside {rows.path.name}")
    table = Rows(path)
    if not {"row", "ra_deg", "dec_deg"} <= set(table.schema.names):
        raise ExportError(f"{path} has no columns row, ra_deg, dec_deg; give the table of the same collation")
    last = max((int(batch["row"].to_numpy().max(initial=-1)) for batch in table.batches(["row"])), default=-1)
    ra, dec = np.full(last + 1, np.nan), np.full(last + 1, np.nan)
    for batch in table.batches(["row", "ra_deg", "dec_deg"]):
        row = batch["row"].to_numpy()
        ra[row], dec[row] = (_numbers(batch, name) for name in ("ra_deg", "dec_deg"))
    return ra, dec


def _members(rows: Rows, batch: pa.RecordBatch, ra: np.ndarray, dec: np.ndarray) -> Members:
    """The members of the sources of a batch; one without a position lies at its source's."""
    lengths, row = list_lengths(batch["members"]), batch["members"].flatten().to_numpy(zero_copy_only=False)
    if len(row) and (row.min() < 0 or row.max() >= len(ra)):
        raise ExportError(f"{rows.path} has members that {COMPONENTS} beside it lacks; take both of one collation")
    group = np.repeat(np.arange(len(batch)), lengths)
    own_ra, own_dec = _numbers(batch, "ra_deg")[group], _numbers(batch, "dec_deg")[group]
    found_ra, found_dec = np.where(np.isnan(ra[row]), own_ra, ra[row]), np.where(np.isnan(ra[row]), own_dec, dec[row])
    return Members(np.concatenate([[0], np.cumsum(lengths)]), found_ra, found_dec, group)


def _outlines(batch: pa.RecordBatch, members: Members) -> Iterator[str]:
    """A line of text a source."""
    found = ellipses(_numbers(batch, "ra_deg"), _numbers(batch, "dec_deg"), members)
    numbers = zip(*(getattr(found, field.name).tolist() for field in fields(found)), strict=True)
    entries = zip(batch["name"].to_pylist(), batch["components"].to_pylist(), numbers, strict=True)
    for name, count, (ra, dec, long, short, angle) in entries:
        if count == 1:
            yield f'circle({ra:.7f},{dec:.7f},{long:.2f}") # text={{{name}}}\n'
        else:  # DS9 counts from the first axis, which points west, by north to east
            yield f'ellipse({ra:.7f},{dec:.7f},{long:.2f}",{short:.2f}",{angle + 90:.2f}) # text={{{name}}}\n'


def _spokes(batch: pa.RecordBatch, members: Members) -> Iterator[str]:
    """Lines from the positions of sources of several members to each of them."""
    several = np.diff(members.starts)[members.group] > 1
    group = members.group[several]
    ends = (_numbers(batch, "ra_deg")[group], _numbers(batch, "dec_deg")[group])
    columns = (*ends, members.ra_deg[several], members.dec_deg[several])
    for ra, dec, to_ra, to_dec in zip(*(column.tolist() for column in columns), strict=True):
        yield f"line({ra:.7f},{dec:.7f},{to_ra:.7f},{to_dec:.7f}) # line=0 0 color=cyan\n"


def _crosses(batch: pa.RecordBatch, host: str, colour: str) -> Iterator[str]:
    columns = (batch[f"{host}{end}"].flatten().to_pylist() for end in ("_ra_deg", "_dec_deg"))
    for ra, dec in zip(*columns, strict=True):
        if ra is not None and dec is not None:
            yield f"point({ra:.7f},{dec:.7f}) # point=x color={colour}\n"


def _numbers(batch: pa.RecordBatch, name: str) -> np.ndarray:
    return batch[name].to_numpy(zero_copy_only=False).astype(np.float64)


def _offsets(ra_0: np.ndarray, dec_0: np.ndarray, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Separation in arcsec along east and north at (ra_0, dec_0): length and direction are those on the sphere."""
    ra_0, dec_0, ra, dec = (np.radians(values) for values in (ra_0, dec_0, ra, dec))
    half = np.sin((ra - ra_0) / 2)
    east = 2 * half * np.cos((ra - ra_0) / 2) * np.cos(dec)
    north = np.sin(dec - dec_0) + 2 * np.cos(dec) * np.sin(dec_0) * half**2
    radial = np.cos(dec - dec_0) - 2 * np.cos(dec_0) * np.cos(dec) * half**2
    sine = np.hypot(east, north)
    arcsec = np.degrees(np.arctan2(sine, radial)) * 3600 / np.where(sine > 0, sine, 1.0)
    return east * arcsec, north * arcsec


def _moved(
    ra_deg: np.ndarray, dec_deg: np.ndarray, east: np.ndarray, north: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Positions in degrees at offsets in arcsec: the inverse of `_offsets`."""
    ra, dec, far = np.radians(ra_deg), np.radians(dec_deg), np.radians(np.hypot(east, north) / 3600)
    angle = np.arctan2(east, north)
    new_dec = np.arcsin(np.clip(np.sin(dec) * np.cos(far) + np.cos(dec) * np.sin(far) * np.cos(angle), -1, 1))
    turn = np.arctan2(
        np.sin(far) * np.sin(angle), np.cos(dec) * np.cos(far) - np.sin(dec) * np.sin(far) * np.cos(angle)
    )
    return np.degrees(ra + turn) % 360, np.degrees(new_dec)
