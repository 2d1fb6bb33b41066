"""Small random skies to collate, and what a plain collation without boxes, workers or files makes of them."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from skysom.engine.collation.actions import ACTIONS, actions_for
from skysom.engine.collation.carried import Carried
from skysom.engine.collation.groups import Corrections
from skysom.engine.collation.projection import Frames, carried_of_channel
from skysom.engine.collation.reference import group_sequentially
from skysom.jobs.collation.evidence import evidence_table
from skysom.jobs.collation.folder import TABLES
from skysom.jobs.collation.inputs import STATUSES, CatalogueFile, CollationInputs, Mapped
from skysom.jobs.collation.source_table import SourceColumns, component_table, source_table

SIDE, NEURONS, SCALE_ARCSEC = 21, 5, 6.0
CENTRES = ((0.0, 0.0), (359.999, -30.0), (180.0, 89.99), (40.0, -90.0), (123.4, 56.7))
"""Fields lie at RA 0, at both poles, and elsewhere."""


@dataclass(frozen=True)
class SkyKind:
    """What a random sky is like. spread_arcsec : of a field. base_channels : one a channel."""

    rows: int = 40
    other_rows: int = 30
    spread_arcsec: float = 120.0
    labels: int = 4
    base_channels: tuple[bool, ...] = (True, False)
    centres: tuple[tuple[float, float], ...] = CENTRES
    spoiled: bool = True
    corrected: bool = False
    actions: tuple[str, ...] = ()


def positions(rng, kind, count):
    """(ra, dec) degrees in fields about the centres."""
    centre = np.array(kind.centres)[rng.integers(0, len(kind.centres), count)]
    east, north = rng.normal(0, kind.spread_arcsec / 3600, (2, count))
    dec = centre[:, 1] + north
    over = np.abs(dec) > 90
    dec = np.where(over, np.sign(dec) * 180 - dec, dec)
    ra = centre[:, 0] + east / np.maximum(np.cos(np.radians(dec)), 1e-4) + np.where(over, 180, 0)
    return ra % 360, dec


def masks(rng, labels, channels):
    """Planes (NEURONS, channels, SIDE, SIDE) uint64 with blobs of labels, often at the centre; one mask is empty."""
    planes = np.zeros((NEURONS, channels, SIDE, SIDE), np.uint64)
    row, col = np.mgrid[:SIDE, :SIDE]
    for neuron in range(NEURONS - 1):
        for channel in range(channels):
            for label in range(labels):
                for _ in range(rng.integers(0, 3)):
                    at = (SIDE // 2, SIDE // 2) if rng.random() < 0.4 else rng.integers(0, SIDE, 2)
                    blob = np.hypot(row - at[0], col - at[1]) < rng.uniform(1, 7)
                    planes[neuron, channel][blob] |= np.uint64(1 << label)
    return planes


def spoil(rng, ra, neuron):
    """Codes of statuses: every sixth row or so has something wrong with it; positions and neurons are taken away."""
    status = np.zeros(len(ra), np.uint8)
    bad = rng.random(len(ra)) < 0.17
    status[bad] = rng.integers(1, len(STATUSES), bad.sum())
    ra[status == STATUSES.index("no_position")] = np.nan
    neuron[status == STATUSES.index("not_mapped")] = -1
    return status


def write_catalogue(path, table):
    """In the format of the suffix; Parquet in small row groups."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False), path, row_group_size=7)
    elif path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        from astropy.table import Table

        Table.from_pandas(table).write(path, format="votable" if path.suffix == ".vot" else "fits")
    return CatalogueFile(path, "RA", "DEC", "name", len(table))


def make(folder: Path, seed, kind=SkyKind(), suffix="parquet"):
    """Inputs of a collation, their catalogues written into a folder."""
    rng = np.random.default_rng(seed)
    ra, dec = positions(rng, kind, kind.rows)
    neuron = rng.integers(0, NEURONS, kind.rows).astype(np.int32)
    status = spoil(rng, ra, neuron) if kind.spoiled else np.zeros(kind.rows, np.uint8)
    usable = np.isin(status, [STATUSES.index("ok"), STATUSES.index("empty_mask")])
    rank = np.full(kind.rows, -1)
    rank[usable] = rng.permutation(usable.sum())
    mapped = np.flatnonzero(neuron >= 0)
    files = []
    for channel, of_base in enumerate(kind.base_channels):
        if channel and of_base:
            files.append(files[0])
            continue
        if channel:
            ra, dec = positions(rng, kind, kind.other_rows)
            ra[rng.random(len(ra)) < 0.05] = np.nan
        names = [f"{'ABC'[channel]}{row}" for row in range(len(ra))]
        table = pd.DataFrame({"name": pd.Series(names, dtype="str"), "RA": ra, "DEC": dec})
        table["flux"], table["z"] = rng.lognormal(0, 1, len(ra)), rng.uniform(0, 2, len(ra))
        files.append(write_catalogue(folder / f"catalogue{channel}.{suffix}", table))
    labels = tuple(f"label {number}" for number in range(kind.labels))
    chosen = kind.actions or rng.choice(["LINK", "LINK", *sorted(ACTIONS)], kind.labels)
    return CollationInputs(
        mapped=Mapped(
            mapped,
            neuron[mapped],
            rng.uniform(0, 6.2, len(mapped)).astype(np.float32),
            rng.integers(0, 2, len(mapped)).astype(np.int8),
            rng.gamma(3, 1, len(mapped)).astype(np.float32),
        ),
        catalogues=tuple(files),
        base_channels=np.array(kind.base_channels),
        labels=labels,
        planes=masks(rng, kind.labels, len(kind.base_channels)),
        actions=actions_for(labels, dict(zip(labels, chosen, strict=True))),
        rank=rank,
        status=status,
        neuron_labels=tuple((f"type {number}",) for number in range(NEURONS)),
        pixel_scale_arcsec=(SCALE_ARCSEC, SCALE_ARCSEC),
        limit_arcsec=float(rng.choice([30.0, 60.0, 200.0])),
        float32_angles=bool(rng.integers(0, 2)),
        flux_columns=("flux",),
        redshift_column="z",
        origin={"seed": seed},
        corrections=random_corrections(rng, kind.rows) if kind.corrected else None,
    )


def random_corrections(rng, rows):
    """Some rows together, some apart."""
    together = tuple(
        tuple(map(int, rng.choice(rows, int(rng.integers(2, 4)), replace=False))) for _ in range(rng.integers(0, 4))
    )
    return Corrections(together, tuple(map(int, rng.choice(rows, int(rng.integers(0, 4)), replace=False))))


# --- the plain collation --------------------------------------------------------------------------


def frame(file, inputs=None):
    """All rows of a catalogue as the source table wants them."""
    table = file.read()
    ra, dec = file.positions(table)
    found = pd.DataFrame({"id": table["name"].astype("str"), "ra_deg": ra, "dec_deg": dec, "flux": table["flux"]})
    found["z"] = table["z"]
    if inputs is not None:
        found["status"] = inputs.status_names().astype(str)
        found["neuron"], found["distance"] = -1, np.nan
        found.loc[inputs.mapped.row, "neuron"] = inputs.mapped.neuron
        found.loc[inputs.mapped.row, "distance"] = inputs.mapped.distance
    return found


def carried_pairs(inputs, base, others):
    """What all masks carry, projected at once and as far as the limit."""
    rows = np.arange(len(base))
    neuron, angle, flip = np.full(len(base), -1), np.zeros(len(base)), np.zeros(len(base))
    neuron[inputs.mapped.row], angle[inputs.mapped.row] = inputs.mapped.neuron, inputs.mapped.angle_rad
    flip[inputs.mapped.row] = inputs.mapped.flip
    frames = Frames(np.where(inputs.rank >= 0, neuron, -1), angle.astype(np.float32), flip)
    parts = []
    for channel in range(len(inputs.base_channels)):
        table = base if inputs.base_channels[channel] else others[channel]
        seen = np.flatnonzero(inputs.matchable()) if inputs.base_channels[channel] else np.arange(len(table))
        where = table["ra_deg"].to_numpy()[seen], table["dec_deg"].to_numpy()[seen]
        parts.append(
            carried_of_channel(
                channel,
                rows,
                base["ra_deg"].to_numpy(),
                base["dec_deg"].to_numpy(),
                frames,
                seen,
                *where,
                np.ascontiguousarray(inputs.planes[:, channel]),
                inputs.pixel_scale_arcsec,
                inputs.limit_arcsec,
                float32_angles=inputs.float32_angles,
            )
        )
    return Carried.concatenate(parts)


def expected(inputs, columns=None):
    """The tables, by name: everything in memory at once, grouped sequentially."""
    columns = columns or SourceColumns.of(inputs)
    base = frame(inputs.base, inputs)
    others = {c: frame(file) for c, file in enumerate(inputs.catalogues) if not inputs.base_channels[c]}
    carried = carried_pairs(inputs, base, others)
    rows = np.arange(len(base))
    groups = group_sequentially(carried, rows, inputs.rank, inputs.actions, inputs.base_channels, inputs.corrections)
    sources = source_table(groups, base, carried, others, columns)
    components = component_table(groups, base, sources, columns)
    first = pa.array(np.arange(len(groups)))
    of_row = components.set_column(2, columns.component_schema.field("source"), pa.array(groups.group_of))
    u, v, count, source = groups.edges()
    return {
        "sources": sources.set_column(0, columns.schema.field("source"), first),
        "components": of_row,
        "edges": pa.table({"u": u, "v": v, "count": count, "source": source}),
        "evidence": evidence_table(groups, carried, base["neuron"].to_numpy(np.int32), inputs.actions, columns.slugs),
    }


def published(folder):
    """The tables of a collation, by name."""
    return {name: pq.read_table(Path(folder) / f"{name}.parquet") for name in TABLES}


def differences(found, wanted):
    """Names of tables, and of their columns, that differ; nulls are equal to nulls."""
    wrong = []
    for name, table in wanted.items():
        other = found[name].cast(table.schema)
        if len(other) != len(table):
            wrong.append((name, len(other), len(table)))
            continue
        wrong += [
            (name, column) for column in table.column_names if other[column].to_pylist() != table[column].to_pylist()
        ]
    return wrong


def with_corrections(inputs, together=(), apart=()):
    """The same inputs, corrected by hand."""
    return replace(inputs, corrections=Corrections(tuple(together), tuple(apart)))
