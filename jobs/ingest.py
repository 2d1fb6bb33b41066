"""Ingest: from a catalogue and images to a survey store with one cut-out a row."""

import hashlib
import os
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from skysom.cluster.ledger import Shard
from skysom.cluster.shards import Runtime
from skysom.jobs import cutouts, results
from skysom.jobs.config import Config, flatten
from skysom.jobs.cutouts import CutoutReader, Part
from skysom.jobs.derived import makers
from skysom.jobs.errors import ConfigError
from skysom.jobs.output import Output, hash_of, missing_shards, stage_values
from skysom.jobs.passes import staged_pass
from skysom.jobs.progress import say
from skysom.jobs.sweep import READINGS
from skysom.storage import catalogue as tables
from skysom.storage import place as places
from skysom.storage.place import Place, place, remove_tree
from skysom.storage.publish import publish
from skysom.storage.status import CODES
from skysom.storage.survey import ArraySpec, Survey, add_images, status_attrs, write_images


@dataclass(frozen=True)
class IngestWorker:
    """Reads the cut-outs of a shard and writes them with their status."""

    reader: CutoutReader
    keep: str

    @cached_property
    def survey(self) -> Survey:
        """The store, open for writing."""
        return Survey(self.reader.survey, "r+")

    def read(self, shard: Shard) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cut-outs, status codes and coverage; see CutoutReader.read."""
        return self.reader.read(*shard)

    def compute(self, shard: Shard, data: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple:
        """Nothing: they are stored as they were read."""
        return data

    def write(self, shard: Shard, result: tuple[np.ndarray, np.ndarray, np.ndarray]) -> dict[str, Any]:
        """Write them; counts each status."""
        images, codes, coverage = result
        if self.keep != "none":
            write_images(self.survey, "images", shard[0], images)
        self.survey.write_rows("coverage", shard[0], coverage)
        self.survey.write_rows("status", shard[0], codes)
        return {"status": cutouts.status_counts(codes)}


def ingest(config: Config, output: Output, runtime: Runtime, *, append: bool = False) -> None:
    """Make (or with ``append`` grow) the survey store, then read every missing shard.

    Raises ConfigError, CatalogueError or ImageInputError before anything is written where the input as
    a whole cannot be used; one bad image or row becomes its status.
    """
    config = config.model_copy(
        update={"images": tuple(absolute(p) for p in config.images), "catalogue": absolute(config.catalogue)}
    )
    check_input(config, output)
    digest = file_sha256(place(config.catalogue))
    if append and Survey.is_at(output.survey):
        _append(config, output, digest)
    else:
        values = {**stage_values(config, "ingest"), "catalogue_sha256": digest}
        first = "ingest" not in output.recorded()
        output.claim("ingest", values)
        if not Survey.is_at(output.survey):
            # Records of a store that is gone say nothing about the one to come.
            output.forget(*(key for key in output.recorded() if key != "ingest"))
            output.ledger().drop("ingest")
            try:
                _create(config, output, digest)
            except BaseException:
                if first:  # nothing was made: a corrected command must not be refused
                    output.forget("ingest")
                raise
    survey = Survey(output.survey, "r+")
    results.check_whole(output.catalogue, survey.column("source_id"))
    key = ingest_hash(output)
    if missing_shards(output, "ingest", key):
        worker = IngestWorker(cutouts.open_reader(output.survey, output.catalogue), config.ingest.store)
        with staged_pass(output, "ingest", runtime) as run:
            run(survey.shards(), worker, key)
    columns = {"status": survey.statuses(), "coverage": survey.column("coverage")}
    results.update_catalogue(output.catalogue, columns, survey.shard_images)


def check_input(config: Config, output: Output) -> None:
    """ConfigError unless the images and the catalogue are there."""
    cutouts.check_images(config)
    if not config.catalogue:
        raise ConfigError("no catalogue: give --catalogue FILE (CSV, FITS table, VOTable or Parquet)")
    path = place(config.catalogue)
    if not places.exists(path):
        raise ConfigError(f"cannot read --catalogue {path}: there is no such file")
    if not places.is_file(path):
        raise ConfigError(f"--catalogue {path} is not a file")
    if absolute(str(path)) == absolute(str(output.catalogue)) or _same_file(path, output.catalogue):
        raise ConfigError(f"--catalogue {path} is the result of this --output; give a copy of it")


def ingest_hash(output: Output) -> str:
    """Hash of the settings of ingest; parts that were appended share it."""
    recorded = output.recorded()["ingest"]
    return hash_of({key: value for key, value in recorded.items() if key.startswith("ingest.")})


def absolute(path: str) -> str:
    """The path or glob from the root of the file system; a URL of a remote store as it is."""
    found = place(path)
    return os.path.abspath(found.expanduser()) if isinstance(found, Path) else str(found)  # noqa: PTH100 - links stay, .. goes


def _same_file(one: Place, other: Place) -> bool:
    return isinstance(one, Path) and isinstance(other, Path) and one.resolve() == other.resolve()


def file_sha256(path: Place) -> str:
    """Hash of a file's content; ConfigError where it cannot be read."""
    try:
        with places.open_binary(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"cannot read --catalogue {path}: {error.strerror}") from None


@dataclass(frozen=True)
class _Rows:
    """A catalogue read: its table, ids, positions, file names (or None) and statuses known beforehand."""

    table: Any
    ids: np.ndarray
    id_column: str
    ra: np.ndarray
    dec: np.ndarray
    names: Any
    status: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def _read_rows(config: Config, first_row: int = 0) -> _Rows:
    settings = config.ingest
    table = tables.read_catalogue(config.catalogue)
    if table.attrs.get("dropped_columns"):
        say(f"ingest: columns that hold arrays are left out: {', '.join(table.attrs['dropped_columns'])}")
    ids, id_column = tables.source_ids(table, settings.id_column, first_row)
    names = tables.file_names(table, settings.filename_column)
    has_positions = settings.ra_column in table.columns and settings.dec_column in table.columns
    if names is None and not has_positions:
        raise ConfigError(
            f"{config.catalogue} has neither a column {settings.filename_column!r} with file names nor "
            f"{settings.ra_column!r} and {settings.dec_column!r} with positions; name them with "
            "--set ingest.filename_column=..., ingest.ra_column=..., ingest.dec_column=..."
        )
    ra = dec = np.full(len(table), np.nan)
    if has_positions:
        ra, dec = tables.coordinates(table, settings.ra_column, settings.dec_column)
    status = np.full(len(table), "ok", dtype=object)
    if names is None:
        status[~(np.isfinite(ra) & np.isfinite(dec))] = "bad_position"
    else:
        status[[name is None or name == "" for name in names]] = "no_file_name"
    status[tables.duplicate_rows(ids)] = "duplicate_id"
    return _Rows(table, ids, id_column, ra, dec, names, status)


def _create(config: Config, output: Output, digest: str) -> None:
    rows = _read_rows(config)
    part = Part(0, len(rows), config.images, rows.names is not None, digest)
    resample = config.ingest.pixel_scale_arcsec
    if rows.names is not None:
        side, scale = cutouts.probe_files(config, rows.names)
    else:
        side, scale, resample = cutouts.probe_tiles(config, cutouts.index_tiles(config.images))
    channels = list(config.ingest.channels) or [f"channel{i}" for i in range(len(config.images))]
    if len(channels) != len(config.images):
        raise ConfigError(f"ingest.channels names {len(channels)} channels, there are {len(config.images)} --images")
    beside = output.survey.with_name("survey.zarr.partial")
    remove_tree(beside)
    survey = Survey.create(
        beside,
        images=len(rows),
        shard_images=config.ingest.shard_images,
        attrs={
            "channels": channels,
            "image_unit": config.ingest.image_unit,
            "image_side": side,
            "pixel_scale_arcsec": scale,
            "resample_arcsec": resample,
            "filename_column": config.ingest.filename_column,
            "redshift_column": config.ingest.redshift_column,
            "id_column": rows.id_column,
            "parts": [asdict(part)],
        },
    )
    if config.ingest.store != "none":
        unit = {"units": config.ingest.image_unit, "long_name": "cut-out as ingested"}
        spec = ArraySpec(config.ingest.store, ("channel", "y", "x"), (len(channels), side, side), np.nan, unit)
        add_images(survey, "images", spec)
    for name, spec in _COLUMNS.items():
        survey.add_image_array(name, spec)
    _write_positions(survey, 0, rows)
    tables.write_catalogue(_extended(rows), output.catalogue, config.ingest.shard_images)
    publish(beside, output.survey)


_COLUMNS = {
    "source_id": ArraySpec("str", fill=""),
    "ra_deg": ArraySpec("float64", fill=np.nan, attrs={"units": "degree", "long_name": "right ascension (ICRS)"}),
    "dec_deg": ArraySpec("float64", fill=np.nan, attrs={"units": "degree", "long_name": "declination (ICRS)"}),
    "status": ArraySpec("uint8", fill=CODES["ok"], attrs=status_attrs()),
    "coverage": ArraySpec("float32", attrs={"units": "1", "long_name": "share of pixels with data"}),
}


def _append(config: Config, output: Output, digest: str) -> None:
    """Add the rows of another catalogue; the same catalogue again only continues what was begun."""
    survey = Survey(output.survey, "r+")
    parts = [Part.from_dict(values) for values in survey.attrs["parts"]]
    _check_append(config, output, parts)
    known = next((part for part in parts if part.catalogue_sha256 == digest), None)
    start = known.start if known else len(survey)
    rows = _read_rows(config, start)
    if results.catalogue_rows(output.catalogue) != start:
        return
    taken = [name for name in makers(output.private) if name in rows.table.columns]
    if taken:  # they would become what a command is said to have found
        raise ConfigError(
            f"{config.catalogue} has columns {', '.join(taken)}, which commands of skysom have made in "
            f"{output.catalogue}; rename them in the catalogue that is appended"
        )
    earlier = set(survey.column("source_id")[:start].tolist())
    again = np.array([source in earlier for source in rows.ids])
    rows = replace(rows, status=np.where(again, "duplicate_id", rows.status))
    # What can be refused is refused before the store grows.
    table = results.write_appended(output.catalogue, _extended(rows), survey.shard_images)
    if known is None:
        parts.append(Part(start, start + len(rows), config.images, rows.names is not None, digest))
        survey.resize(start + len(rows), parts=[asdict(part) for part in parts])
    _write_positions(survey, start, rows)
    places.move(table, output.catalogue)
    for file in READINGS:  # they are of the rows before
        places.remove(output.root / file)


def _check_append(config: Config, output: Output, parts: list[Part]) -> None:
    if not parts:
        raise ConfigError(f"{output.root} was imported and has no catalogue of its own; ingest into a new --output")
    old = {k: v for k, v in output.recorded()["ingest"].items() if k.startswith("ingest.")}
    new = {f"ingest.{k}": v for k, v in flatten(stage_values(config, "ingest")["ingest"]).items()}
    if old != new:
        different = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        raise ConfigError(f"--append needs the settings the survey was made with; different: {', '.join(different)}")
    if len(config.images) != len(parts[0].images):
        raise ConfigError(f"the survey has {len(parts[0].images)} channels, --images names {len(config.images)}")


def _write_positions(survey: Survey, start: int, rows: _Rows) -> None:
    stop = start + len(rows)
    survey["source_id"][start:stop] = np.array([str(value) for value in rows.ids], dtype=object)
    survey["ra_deg"][start:stop] = rows.ra
    survey["dec_deg"][start:stop] = rows.dec


def _extended(rows: _Rows) -> Any:
    columns = {"status": rows.status, "coverage": np.zeros(len(rows), np.float32)}
    return results.extended(rows.table, rows.ids, rows.id_column, columns)
