"""Preprocess: from cut-outs to what the map sees, by the chain of steps of the configuration."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from skysom.cluster.ledger import Shard
from skysom.cluster.shards import Runtime
from skysom.engine.preprocess import output_side, preprocess
from skysom.jobs import cutouts
from skysom.jobs.config import Config
from skysom.jobs.cutouts import CutoutReader
from skysom.jobs.errors import ConfigError, MissingStageError
from skysom.jobs.ingest import ingest_hash
from skysom.jobs.output import Output, hash_of, missing_shards, stage_values
from skysom.jobs.passes import staged_pass
from skysom.jobs.progress import say
from skysom.jobs.results import check_whole, summary, update_catalogue
from skysom.storage.errors import SurveyError
from skysom.storage.place import Place
from skysom.storage.status import CODES
from skysom.storage.survey import (
    CHUNK_IMAGES,
    PREPARED_AXES,
    ArraySpec,
    Survey,
    add_images,
    read_images,
    status_attrs,
    write_images,
)

Chain = tuple[tuple[str, dict[str, Any]], ...]
LARGEST_PIXEL = 1e12
"""Squares of larger values, added over an image, come near the largest float32."""


@dataclass(frozen=True)
class Prepared:
    """What preprocessing makes of some rows.

    images (n, C, side, side) float32, zero where failed; codes (n,) uint8 status of preprocessing;
    sums (n, C) float32 of each channel.
    """

    images: np.ndarray
    codes: np.ndarray
    sums: np.ndarray


@dataclass(frozen=True)
class Raw:
    """Cut-outs (n, C, H, H) float32 with their status codes (n,) uint8 and redshifts (n,) float64 or None."""

    images: np.ndarray
    codes: np.ndarray
    redshift: np.ndarray | None


@dataclass(frozen=True)
class Preparer:
    """Cut-outs of rows, from the store (or cut on the fly where ``reader`` is given), preprocessed."""

    survey: Place
    chain: Chain
    reader: CutoutReader | None

    @cached_property
    def _store(self) -> Survey:
        return Survey(self.survey)

    def stored_codes(self, start: int, stop: int) -> np.ndarray:
        """Status codes (n,) uint8 that ingest has stored."""
        return self._store.read("status", start, stop)

    def read(self, start: int, stop: int) -> Raw:
        """What is known of rows [start, stop) before preprocessing."""
        if self.reader is None:
            codes = self.stored_codes(start, stop)
            images = read_images(self._store, "images", start, stop)
            lost = np.flatnonzero((codes == 0) & np.isnan(images).all(axis=(1, 2, 3)))
            if len(lost):  # ingest would have marked it
                raise SurveyError(
                    f"{self.survey}: the image of row {start + int(lost[0])}, marked usable, is empty; the store lost "
                    "data: restore it, or read the images again with `--redo ingest`"
                )
        else:
            images, codes, _ = self.reader.read(start, stop)
        redshift = self._store.read("redshift", start, stop) if "redshift" in self._store else None
        return Raw(images, codes, redshift)

    def prepare(self, raw: Raw) -> Prepared:
        """Apply the chain, to so many images at a time that its intermediate arrays stay small."""
        firsts = range(0, len(raw.images), CHUNK_IMAGES)
        parts = [self._chunk(raw, slice(first, first + CHUNK_IMAGES)) for first in firsts]
        return Prepared(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("images", "codes", "sums")))

    def _chunk(self, raw: Raw, rows: slice) -> Prepared:
        images, codes = raw.images[rows], raw.codes[rows]
        redshift = None if raw.redshift is None else raw.redshift[rows]
        scale = self._store.attrs["pixel_scale_arcsec"]
        batch = preprocess(images, list(self.chain), redshift=redshift, pixel_scale_arcsec=scale)
        found = np.array([CODES[str(name)] for name in batch.status], np.uint8)
        extreme = np.abs(batch.images).max(axis=(1, 2, 3)) > LARGEST_PIXEL
        found[extreme] = CODES["out_of_range"]
        found[codes != 0] = 0  # the cause found at ingest stands
        images = np.where(((codes == 0) & ~extreme)[:, None, None, None], batch.images, np.float32(0))
        return Prepared(images, found, images.sum(axis=(2, 3), dtype=np.float64).astype(np.float32))


@dataclass(frozen=True)
class PreprocessWorker:
    """Preprocesses a shard and writes it with its status."""

    preparer: Preparer
    keep: str

    @cached_property
    def survey(self) -> Survey:
        """The store, open for writing."""
        return Survey(self.preparer.survey, "r+")

    def read(self, shard: Shard) -> tuple[Raw, np.ndarray]:
        """Raw images, and the stored status codes of ingest (n,)."""
        return self.preparer.read(*shard), self.preparer.stored_codes(*shard)

    def compute(self, shard: Shard, data: tuple[Raw, np.ndarray]) -> tuple[Prepared, np.ndarray]:
        """Prepared images, and the status codes of ingest and preprocessing together (n,)."""
        raw, codes = data
        prepared = self.preparer.prepare(raw)
        return prepared, np.where(codes == 0, prepared.codes, codes)

    def write(self, shard: Shard, result: tuple[Prepared, np.ndarray]) -> dict[str, Any]:
        """Write them; counts each status."""
        start, (prepared, codes) = shard[0], result
        if self.keep != "none":
            write_images(self.survey, "prepared", start, prepared.images)
        self.survey.write_rows("channel_sum", start, prepared.sums)
        self.survey.write_rows("prepared_status", start, prepared.codes)
        self.survey.write_rows("ok", start, codes == 0)
        return {"status": cutouts.status_counts(codes)}


def preprocess_survey(config: Config, output: Output, runtime: Runtime) -> None:
    """Run the chain over every missing shard and set the channel weights."""
    output.need("ingest", "skysom ingest")
    survey = Survey(output.survey, "r+")
    chain = tuple(config.preprocess.chain())
    store = output.recorded()["ingest"]["ingest.store"]
    side = output_side(list(chain), survey.attrs["image_side"])
    weights = config.preprocess.channel_weights
    channels = len(survey.attrs["channels"])
    if isinstance(weights, tuple) and len(weights) != channels:
        raise ConfigError(f"preprocess.channel_weights has {len(weights)} numbers, the survey {channels} channels")
    output.claim("preprocess", stage_values(config, "preprocess"))
    if store != "none":
        spec = ArraySpec(store, PREPARED_AXES, (channels, side, side), 0, {"long_name": "cut-out for the map"})
        add_images(survey, "prepared", spec)
    survey.add_image_array("channel_sum", ArraySpec("float32", ("channel",), (channels,)))
    survey.add_image_array("prepared_status", ArraySpec("uint8", attrs=status_attrs()))
    survey.add_image_array("ok", ArraySpec("bool", attrs={"long_name": "usable image"}))
    _add_redshifts(output, survey)
    survey.group.attrs["prepared_side"] = side
    survey.group.attrs["chain"] = [[name, parameters] for name, parameters in chain]
    missing = missing_shards(output, "preprocess", preprocess_hash(output))
    reader = cutouts.open_reader(output.survey, output.catalogue) if store == "none" and missing else None
    worker = PreprocessWorker(Preparer(output.survey, chain, reader), store)
    with staged_pass(output, "preprocess", runtime) as run:
        run(survey.shards(), worker, preprocess_hash(output))
    if "channel_weights" not in survey.attrs:
        # Set once: rows appended later must not change what earlier ones were matched with.
        survey.group.attrs["channel_weights"] = _channel_weights(survey, weights)
    statuses = survey.statuses()
    update_catalogue(output.catalogue, {"status": statuses}, survey.shard_images)
    say(f"survey: {summary(statuses)}")


def preprocess_hash(output: Output) -> str:
    """Hash of the settings of preprocessing and of all before it."""
    return hash_of([output.need("preprocess", "skysom run"), output.need("ingest", "skysom ingest")])


def _channel_weights(survey: Survey, wanted: Any) -> list[float]:
    channels = len(survey.attrs["channels"])
    if wanted == "none":
        return [1.0] * channels
    if wanted != "median_sum":
        return [float(weight) for weight in wanted]
    from skysom.engine.preprocess import balanced_weights

    sums = survey.column("channel_sum")[survey.column("ok")]
    if not len(sums):
        return [1.0] * channels
    return [float(weight) for weight in balanced_weights(sums)]


def _add_redshifts(output: Output, survey: Survey) -> None:
    column = survey.attrs["redshift_column"]
    if column is None:
        return
    import pandas as pd

    from skysom.storage.catalogue import read_catalogue

    table = read_catalogue(output.catalogue)
    if column not in table.columns:
        raise ConfigError(f"ingest.redshift_column {column!r} is not in the catalogue; it has {list(table.columns)}")
    spec = ArraySpec("float64", fill=np.nan, attrs={"long_name": "redshift"})
    values = pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    survey.add_image_array("redshift", spec)[: len(values)] = values


@dataclass(frozen=True)
class PreparedReader:
    """Images as the map sees them, channel weights applied; picklable."""

    survey: Place
    preparer: Preparer | None
    weights: tuple[float, ...]

    @cached_property
    def _store(self) -> Survey:
        return Survey(self.survey)

    def fetch(self, start: int, stop: int) -> Any:
        """What `prepared` makes the images of rows [start, stop) of; reading alone."""
        if self.preparer is not None:
            return self.preparer.read(start, stop)
        return read_images(self._store, "prepared", start, stop)

    def prepared(self, fetched: Any) -> np.ndarray:
        """Images (n, C, side, side) float32 of what was fetched; computing alone."""
        images = fetched if self.preparer is None else self.preparer.prepare(fetched).images
        return images * np.asarray(self.weights, np.float32)[:, None, None]

    def usable(self, start: int, stop: int) -> np.ndarray:
        """Which rows of [start, stop) are usable, (n,) bool."""
        return self._store.read("ok", start, stop)

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Images (n, C, side, side) float32 of rows [start, stop) and whether each is usable, (n,) bool."""
        return self.prepared(self.fetch(start, stop)), self.usable(start, stop)

    def rows(self, rows: Any) -> np.ndarray:
        """Images of any usable rows (n,), in that order; chunks are read once each. SurveyError where one is empty."""
        rows = np.asarray(rows, np.int64)
        side = self._store.attrs["prepared_side"]
        out = np.empty((len(rows), len(self.weights), side, side), np.float32)
        order = np.argsort(rows, kind="stable")
        chunk = rows[order] // CHUNK_IMAGES
        for here in np.split(order, np.flatnonzero(np.diff(chunk)) + 1) if len(rows) else []:
            first = int(rows[here[0]]) // CHUNK_IMAGES * CHUNK_IMAGES
            images = self.prepared(self.fetch(first, min(first + CHUNK_IMAGES, len(self._store))))
            out[here] = images[rows[here] - first]
            if not out[here].any(axis=(1, 2, 3)).all():
                raise SurveyError(
                    f"{self.survey}: an image of rows {first}..{first + CHUNK_IMAGES}, marked usable, is empty; the "
                    "store lost data: restore it, or prepare the images again with `--redo preprocess`"
                )
        return out


def open_prepared(output: Output) -> PreparedReader:
    """Reader of the preprocessed images of an output; MissingStageError where there are none."""
    output.need("preprocess", "skysom run")
    attrs = Survey(output.survey).attrs
    check_whole(output.catalogue, Survey(output.survey).column("source_id"))
    if "imported" not in output.recorded()["preprocess"]:
        missing = missing_shards(output, "preprocess", preprocess_hash(output))
        missing += missing_shards(output, "ingest", ingest_hash(output))
        if missing or "channel_weights" not in attrs:
            raise MissingStageError(
                f"{output.root}: {len(missing)} shards are not ingested and preprocessed yet; run the same "
                "`skysom run` or `skysom ingest` again first"
            )
    preparer = None
    if output.recorded()["ingest"]["ingest.store"] == "none":
        chain = tuple((name, parameters) for name, parameters in attrs["chain"])
        preparer = Preparer(output.survey, chain, cutouts.open_reader(output.survey, output.catalogue))
    return PreparedReader(output.survey, preparer, tuple(attrs["channel_weights"]))
