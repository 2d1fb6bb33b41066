"""A dry run: one square degree of a collation in a folder of its own, drawn, to judge masks and actions by."""

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skysom.engine.collation.neighbours import positions_of_vectors, unit_vectors
from skysom.engine.collation.projection import sky_offsets_arcsec
from skysom.jobs.collation.collate import CollateSettings, collate
from skysom.jobs.collation.dry_run_picture import draw_field
from skysom.jobs.collation.inputs import STATUSES, CatalogueFile, CollationInputs
from skysom.jobs.collation.part import origin_of_part, part_of
from skysom.jobs.collation.source_table import SourceColumns
from skysom.jobs.pictures import style
from skysom.jobs.progress import say
from skysom.storage.catalogue import ROW_NUMBER, parquet_source, write_catalogue
from skysom.storage.errors import CatalogueError
from skysom.storage.place import Place, make_directory, place, write_atomically

if TYPE_CHECKING:
    import pandas as pd

SIDE_DEG = 1.0
CELLS = 64
"""Sides of the HEALPix cells whose densities are compared: 0.84 square degrees each."""
MARGINS = 3
"""How many separation limits beyond the square are collated, too, so that sources at its edge are whole."""
ROW = "catalogue_row"
"""Column of the catalogues of a dry run: the row of the whole catalogue."""


@dataclass(frozen=True)
class Square:
    """A square degree about a position.

    crowded : share of the components that use a mask that lie in denser cells. whole : whether all of them lie in it.
    """

    ra_deg: float
    dec_deg: float
    crowded: float
    whole: bool = False

    def offsets(self, ra_deg: np.ndarray, dec_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """East and north (n,) in arcsec from the centre, in its sky-offset frame."""
        ra, dec = (np.full(len(ra_deg), value) for value in (self.ra_deg, self.dec_deg))
        return sky_offsets_arcsec(ra, dec, ra_deg, dec_deg)

    def inside(self, ra_deg: np.ndarray, dec_deg: np.ndarray, margin_arcsec: float = 0.0) -> np.ndarray:
        """Positions (k,) of the rows in the square, widened by a margin; rows without a position are not."""
        half = SIDE_DEG * 1800 + margin_arcsec
        near = np.flatnonzero(np.abs(dec_deg - self.dec_deg) * 3600 <= half * np.sqrt(2))
        east, north = self.offsets(ra_deg[near], dec_deg[near])
        return near[(np.abs(east) <= half) & (np.abs(north) <= half)]


@dataclass(frozen=True)
class DryRun:
    """Where a dry run lies, its picture, what it is of, and its figures in words."""

    folder: Place
    picture: Place
    square: Square
    summary: dict[str, Any]
    words: str


def dry_run(
    inputs: CollationInputs,
    directory: str | Place,
    settings: CollateSettings | None = None,
    *,
    scheduler: str | None = None,
) -> DryRun:
    """Collate one square degree of ``inputs`` into ``directory``/dry_run, with sources.png; nothing else is touched.

    It lies where components that use a mask are as dense as about the median one of them has it. Rows in its tables
    are those of the catalogues that lie beside them, whose column catalogue_row has the rows of the whole ones; ids
    are as they always are. Others as `collate`.
    """
    started = time.perf_counter()
    folder = place(directory) / "dry_run"
    base = inputs.base.read([inputs.base.ra_column, inputs.base.dec_column])
    ra, dec = inputs.base.positions(base)
    square = typical_square(ra, dec, inputs.rank >= 0)
    reduced = reduced_inputs(inputs, square, ra, dec, folder)
    settings = replace(settings or CollateSettings(), redo=True)
    summary = collate(reduced, folder, settings, scheduler=scheduler)
    found = _Found.of(reduced, folder, square)
    picture = folder / "sources.png"
    stream = io.BytesIO()
    figure = draw_field(found.components, found.sources, found.links, found.hosts, title=_where(square))
    with style.any_letters():
        figure.savefig(stream, dpi=140)
    write_atomically(picture, stream.getvalue())
    words = found.words(square, inputs.base.rows, time.perf_counter() - started)
    say(words)
    return DryRun(folder, picture, square, summary, words)


def typical_square(ra_deg: np.ndarray, dec_deg: np.ndarray, usable: np.ndarray) -> Square:
    """A square degree as dense as the median usable component has it; CatalogueError where none has a position.

    Usable components are counted in HEALPix cells, and the cell is taken whose number is nearest to the median over
    components (so that sparse edges count little); of equal ones the first. The square is centred on the mean of the
    components in it; where a square holds all of them, on the middle between the outermost.
    """
    from astropy import units
    from astropy_healpix import lonlat_to_healpix

    rows = np.flatnonzero(usable & np.isfinite(ra_deg))
    if not len(rows):
        raise CatalogueError("no component that uses a mask has a position; nothing can be tried")
    whole = _square_of_all(ra_deg[rows], dec_deg[rows])
    if whole is not None:
        return whole
    cell = lonlat_to_healpix(ra_deg[rows] * units.deg, dec_deg[rows] * units.deg, CELLS)
    _, own, counts = np.unique(cell, return_inverse=True, return_counts=True)
    median = np.median(counts[own])
    chosen = int(np.argmin(np.abs(counts - median)))
    vectors = unit_vectors(ra_deg[rows[own == chosen]], dec_deg[rows[own == chosen]])
    ra, dec = positions_of_vectors(vectors.mean(axis=0)[None])
    return Square(float(ra[0]), float(dec[0]), float((counts[own] > counts[chosen]).mean()))


def _square_of_all(ra_deg: np.ndarray, dec_deg: np.ndarray) -> Square | None:
    """The square about the middle between the outermost of these positions, if it holds all of them."""
    centre = unit_vectors(ra_deg, dec_deg).mean(axis=0)
    for _ in range(3):  # the middle of offsets from one centre is nearly, but not quite, that of offsets from another
        ra, dec = positions_of_vectors(centre[None])
        square = Square(float(ra[0]), float(dec[0]), 0.0, whole=True)
        east, north = square.offsets(ra_deg, dec_deg)
        if max(np.ptp(east), np.ptp(north)) > 2 * SIDE_DEG * 3600:  # far from a square degree: no more is to be found
            return None
        middle = [(offset.min() + offset.max()) / 2 / 3600 for offset in (east, north)]
        cosine = max(np.cos(np.radians(square.dec_deg)), 1e-6)
        moved = square.ra_deg + middle[0] / cosine, float(np.clip(square.dec_deg + middle[1], -90, 90))
        centre = unit_vectors(np.array([moved[0]]), np.array([moved[1]]))[0]
    ra, dec = positions_of_vectors(centre[None])
    square = Square(float(ra[0]), float(dec[0]), 0.0, whole=True)
    return square if len(square.inside(ra_deg, dec_deg)) == len(ra_deg) else None


def reduced_inputs(
    inputs: CollationInputs, square: Square, ra_deg: np.ndarray, dec_deg: np.ndarray, folder: Place
) -> CollationInputs:
    """The inputs of the rows in a square and a margin about it, with catalogues of their own in ``folder``.

    ra_deg, dec_deg : of all rows of the base.
    """
    margin = MARGINS * inputs.limit_arcsec
    rows = square.inside(ra_deg, dec_deg, margin)
    extra = [*inputs.flux_columns, *([inputs.redshift_column] if inputs.redshift_column else [])]
    base = _written(inputs.base, _inside(inputs.base, [*inputs.base.needed, *extra], square, margin), folder, 0)
    files = [base]
    for channel, file in enumerate(inputs.catalogues[1:], 1):
        if inputs.base_channels[channel]:
            files.append(base)
            continue
        files.append(_written(file, _inside(file, file.needed, square, margin), folder, channel))
    origin = {"square": [square.ra_deg, square.dec_deg, SIDE_DEG], **origin_of_part(inputs, files)}
    return replace(part_of(inputs, files, rows), origin={**inputs.origin, **origin})


def _inside(file: CatalogueFile, columns: Sequence[str], square: Square, margin: float) -> "pd.DataFrame":
    return file.selected(list(dict.fromkeys(columns)), lambda ra, dec: square.inside(ra, dec, margin))


def _written(file: CatalogueFile, table: "pd.DataFrame", folder: Place, channel: int) -> CatalogueFile:
    """The catalogue of these rows of ``file``, written beside the dry run."""
    where = folder / "catalogues" / f"channel{channel}.parquet"
    where = where.absolute() if isinstance(where, Path) else where  # `skysom why` may run in another folder
    make_directory(where.parent)
    name = ROW if ROW not in table.columns else f"{ROW}_"
    write_catalogue(table.assign(**{name: table.index.to_numpy()}).reset_index(drop=True), where, max(len(table), 1))
    ids = name if file.id_column == ROW_NUMBER else file.id_column
    return CatalogueFile(where, file.ra_column, file.dec_column, ids, len(table), name)


# --- what was found -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """Offsets of components and hosts (k, 2) arcmin, sources (``inside``: in the square), links between components."""

    components: np.ndarray
    sources: "pd.DataFrame"
    links: np.ndarray
    hosts: dict[str, np.ndarray]
    statuses: dict[str, int]

    @classmethod
    def of(cls, inputs: CollationInputs, folder: Place, square: Square) -> "_Found":
        import pandas as pd

        def read(name: str) -> "pd.DataFrame":
            return pd.read_parquet(parquet_source(folder / f"{name}.parquet"))

        def arcmin(ra: Any, dec: Any) -> np.ndarray:
            return np.column_stack(square.offsets(np.asarray(ra, float), np.asarray(dec, float))) / 60

        components, sources, edges = read("components"), read("sources"), read("edges")
        place_of = arcmin(components["ra_deg"], components["dec_deg"])
        half = SIDE_DEG * 30
        sources["inside"] = (np.abs(arcmin(sources["ra_deg"], sources["dec_deg"])) <= half).all(axis=1)
        inside = np.zeros(len(components), bool)
        inside[np.concatenate([np.empty(0, np.int64), *sources.loc[sources["inside"], "members"]]).astype(int)] = True
        links = edges.loc[edges["u"] < edges["v"], ["u", "v"]].drop_duplicates().to_numpy()
        columns, hosts = SourceColumns.of(inputs), {}
        for label in columns.data_labels:
            slug, own = columns.slugs[label], sources[sources["inside"]]
            first = own[own[f"{slug}_count"] > 0]
            where = arcmin(first[f"{slug}_ra_deg"].str[0], first[f"{slug}_dec_deg"].str[0])
            hosts[columns.labels[label]] = where
        counts = components.loc[inside, "status"].value_counts()
        return cls(place_of, sources, links, hosts, {name: int(counts.get(name, 0)) for name in STATUSES})

    def words(self, square: Square, rows: int, seconds: float) -> str:
        """The figures, in lines."""
        own = self.sources[self.sources["inside"]].sort_values(["components", "source"], ascending=[False, True])
        sizes, names = own["components"].to_numpy(), own["name"].tolist()
        hosts = [f"; {len(where):,} with {label!r}" for label, where in self.hosts.items()]
        biggest = f", the largest of {sizes[0]} ({names[0]})" if sizes.max(initial=0) > 1 else ""
        kept = [f"{count:,} {name}" for name, count in self.statuses.items() if count and name != "ok"]
        lines = [
            f"collate: dry run of {_where(square)}, {sizes.sum():,} of {rows:,} components, in {seconds:.1f} s; "
            + (
                "the whole field lies in it"
                if square.whole
                else f"{100 * square.crowded:.0f} % of the survey's components are in more crowded places"
            ),
            f"  {len(own):,} sources: {(sizes > 1).sum():,} of several components{biggest}{''.join(hosts)}",
        ]
        return "\n".join(lines + [f"  components without a mask: {', '.join(kept)}"] * bool(kept))


def _where(square: Square) -> str:
    return f"one square degree about {square.ra_deg:.4f} {square.dec_deg:+.4f}"
