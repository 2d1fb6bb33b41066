"""Map: every usable image against the map, and the best-matching units into the catalogue."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from skysom.cluster.ledger import Shard
from skysom.cluster.shards import Runtime
from skysom.engine.geometry import Geometry
from skysom.engine.lattice import Lattice, lattice_from_dict, lattice_to_dict
from skysom.engine.memory import projected_memory
from skysom.engine.search import BLOCK_IMAGES, Search
from skysom.jobs.config import Config
from skysom.jobs.errors import ConfigError, MissingStageError
from skysom.jobs.output import Output, hash_of, missing_shards, stage_values
from skysom.jobs.passes import staged_pass
from skysom.jobs.preprocess import PreparedReader, open_prepared, preprocess_hash
from skysom.jobs.progress import say
from skysom.jobs.results import MAPPING_COLUMNS, update_catalogue
from skysom.jobs.train import check_usable, geometry_to_dict, is_trained, load_map
from skysom.storage.errors import SurveyError
from skysom.storage.survey import ArraySpec, Survey


@dataclass(frozen=True)
class MapWorker:
    """Searches a shard in blocks of fixed shape and writes distances and transforms."""

    reader: PreparedReader
    weights: np.ndarray
    geometry: Geometry
    group: str

    @cached_property
    def survey(self) -> Survey:
        """The store, open for writing."""
        return Survey(self.reader.survey, "r+")

    @cached_property
    def search(self) -> Search:
        """Tables and neuron spectra, made once a worker."""
        return Search(self.weights, self.geometry)

    def __call__(self, shard: Shard) -> dict[str, Any]:
        start, stop = shard
        count, neurons = stop - start, len(self.weights)
        distance = np.full((count, neurons), np.nan, np.float32)
        transform = np.zeros((count, neurons), np.int64)
        bmu, bmu_distance = np.full(count, -1, np.int32), np.full(count, np.nan, np.float32)
        images, ok = self.reader.read(start, stop)
        for first in range(0, count, BLOCK_IMAGES):
            block = slice(first, min(first + BLOCK_IMAGES, count))
            usable = ok[block]
            if not usable.any():
                continue
            if not images[block][usable].any(axis=(1, 2, 3)).all():
                raise SurveyError(f"{self.reader.survey}: an image marked usable is empty; the store lost data")
            match = self.search(images[block])
            distance[block][usable] = match.distance[usable]
            transform[block][usable] = match.transform[usable]
            bmu[block][usable] = match.bmu[usable]
            bmu_distance[block][usable] = match.bmu_distance[usable]
        self._write(start, distance, transform, bmu, bmu_distance)
        return {"mapped": int(ok.sum())}

    def _write(
        self,
        start: int,
        distance: np.ndarray,
        transform: np.ndarray,
        bmu: np.ndarray,
        bmu_distance: np.ndarray,
    ) -> None:
        flip, rotation = np.divmod(transform, self.geometry.rotations)
        best = np.arange(len(bmu)), np.maximum(bmu, 0)
        for name, values in {
            "distance": distance,
            "rotation": rotation.astype(np.uint16),
            "flip": flip.astype(bool),
            "bmu_rotation": rotation[best].astype(np.uint16),
            "bmu_flip": flip[best].astype(bool),
            "bmu_distance": bmu_distance,
            "bmu": bmu,
        }.items():
            self.survey.write_rows(f"{self.group}/{name}", start, values)


def map_survey(config: Config, output: Output, runtime: Runtime) -> None:
    """Map every missing shard onto the trained (or published) map and extend the catalogue.

    Raises ConfigError where a published map does not fit the images; MissingStageError without a map.
    """
    reader = open_prepared(output)
    name = config.som.name
    check_usable(output)
    if config.map.som is not None:
        adopt_published(config, output)
    weights, attrs = _the_map(output, name)
    lattice, geometry = lattice_from_dict(attrs["lattice"]), Geometry(**attrs["geometry"])
    if config.map.rotations is not None:
        geometry = replace(geometry, rotations=config.map.rotations)
    check_fits(attrs, geometry, weights, Survey(output.survey).attrs)
    check_memory(geometry, weights, runtime.workers)
    key = f"map:{name}"
    content = hashlib.sha256(weights.tobytes()).hexdigest()
    channel_weights = attrs.get("channel_weights", list(reader.weights))
    claimed = output.claim(key, stage_values(config, "map"))
    digest = hash_of([claimed, content, channel_weights, geometry_to_dict(geometry), preprocess_hash(output)])
    survey = Survey(output.survey, "r+")
    group = f"mappings/{name}"
    _add_arrays(survey, group, len(weights))
    survey.group[group].attrs.update(
        {
            "som": config.map.som or name,
            "rotations": geometry.rotations,
            "lattice": lattice_to_dict(lattice),
            "geometry": geometry_to_dict(geometry),
            "som_sha256": content,
            "config_hash": digest,
        }
    )
    worker = MapWorker(replace(reader, weights=tuple(channel_weights)), weights, geometry, group)
    with staged_pass(output, key, runtime) as run:
        run(survey.shards(), worker, digest)
    columns = result_columns(survey, name, lattice, geometry)
    update_catalogue(output.catalogue, columns, survey.shard_images, drop=MAPPING_COLUMNS)
    say(f"map: {int((~columns['bmu'].isna()).sum()):,} of {len(survey):,} sources have a neuron of {name!r}")


def require_mapped(output: Output, name: str) -> None:
    """MissingStageError unless every image was mapped onto ``name`` (or the mapping was imported)."""
    key = f"map:{name}"
    output.need(key, f"skysom map --som-name {name}")
    if "imported" in output.recorded()[key]:
        return
    found = dict(Survey(output.survey).group[f"mappings/{name}"].attrs)
    missing = missing_shards(output, key, str(found["config_hash"]))
    if missing:
        raise MissingStageError(f"mapping {name!r} lacks {len(missing)} shards; run `skysom map --som-name {name}`")


def adopt_published(config: Config, output: Output) -> None:
    """Copy the published map ``map.som`` into the store under ``som.name``, with where it came from.

    Raises ConfigError where that name is a map of this survey's own.
    """
    source, name = str(config.map.som), config.som.name
    if source == f"som:{name}":
        return
    survey = Survey(output.survey, "r+")
    weights, attrs = load_map(source, output, config.map.som_layout)
    if name in survey.som_names():
        old, found = survey.load_som(name)
        if "published" not in found or not np.array_equal(old, weights):
            raise ConfigError(
                f"this survey has a map {name!r} that is not {source!r}; name this mapping otherwise with --som-name"
            )
        return
    if "geometry" not in attrs:
        som, side = config.som, survey.attrs["prepared_side"]
        rotations = config.map.rotations or config.train.stages[-1].rotations
        geometry = Geometry.derive(side, rotations, som.flip, som.region, weights.shape[3], som.region_side)
        attrs = attrs | {"geometry": geometry_to_dict(geometry)}
    survey.save_som(name, weights, attrs | {"published": source})


def check_fits(attrs: dict[str, Any], geometry: Geometry, weights: np.ndarray, survey: dict[str, Any]) -> None:
    """ConfigError where the images are not of the kind the map was made for; a note where scales differ."""
    if weights.shape[1] != len(survey["channels"]):
        raise ConfigError(f"the map has {weights.shape[1]} channels, the survey {len(survey['channels'])}")
    if geometry.image_side != survey["prepared_side"]:
        raise ConfigError(
            f"the map was made for images of {geometry.image_side} pixels, these have {survey['prepared_side']}; "
            f"give {_as_for(attrs)} and begin again with `--redo ingest`"
        )
    if "chain" in attrs and attrs["chain"] != survey["chain"]:
        raise ConfigError(
            f"the map learned from images prepared otherwise:\n  map: {attrs['chain']}\n  survey: {survey['chain']}\n"
            "set preprocess.steps as for the map and preprocess again with `--redo preprocess`"
        )
    scales = attrs.get("pixel_scale_arcsec"), survey["pixel_scale_arcsec"]
    if all(scales) and abs(scales[0] / scales[1] - 1) > 0.01:
        say(f"map: a pixel of the map is {scales[0]} arcsec, of the images {scales[1]}: sizes are compared in pixels")


def _as_for(attrs: dict[str, Any]) -> str:
    """The settings that make images like those a map was made for."""
    settings = {"side_pixels": attrs.get("cutout_side"), "pixel_scale_arcsec": attrs.get("pixel_scale_arcsec")}
    known = [f"--set ingest.{key}={value}" for key, value in settings.items() if value is not None]
    return " ".join([*known, "the preprocessing of the map"] if known else ["the sides and preprocessing of the map"])


def check_memory(geometry: Geometry, weights: np.ndarray, workers: int) -> None:
    """ConfigError where the search would need more than the memory of this machine."""
    import psutil

    neurons, channels = weights.shape[:2]
    need = projected_memory(geometry, neurons=neurons, channels=channels, workers=workers)
    total = psutil.virtual_memory().total
    if need > 0.9 * total:
        raise ConfigError(
            f"mapping onto {neurons} neurons needs {need / 1e9:.1f} GB with {workers} workers, this machine has "
            f"{total / 1e9:.1f} GB; lower --workers, or use fewer or smaller neurons"
        )


def _the_map(output: Output, name: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Weights and attributes of a finished map; MissingStageError where there is none."""
    survey = Survey(output.survey)
    published = name in survey.som_names() and "published" in survey.load_som_attrs(name)
    if not (published or is_trained(output, name)):
        raise MissingStageError(
            f"{output.root} has no finished map {name!r}; run `skysom train --som-name {name}` first or give --som"
        )
    weights, attrs = survey.load_som(name)
    if not np.isfinite(weights).all():
        raise ConfigError(f"the map {name!r} holds weights that are not finite; train or import it again")
    return weights, attrs


def _add_arrays(survey: Survey, group: str, neurons: int) -> None:
    dims, shape = ("neuron",), (neurons,)
    distance = {"units": "1", "long_name": "distance at the best transform"}
    turn = {"units": "1", "long_name": "rotation k: k * 360 / rotations degrees clockwise, row 0 on top"}
    flip = {"long_name": "rows reversed after the rotation"}
    specs = {
        "distance": ArraySpec("float32", dims, shape, np.nan, distance),
        "rotation": ArraySpec("uint16", dims, shape, attrs=turn),
        "flip": ArraySpec("bool", dims, shape, attrs=flip),
        "bmu": ArraySpec("int32", fill=-1, attrs={"long_name": "best-matching unit, -1 where not mapped"}),
        "bmu_distance": ArraySpec("float32", fill=np.nan, attrs=distance),
        "bmu_rotation": ArraySpec("uint16", attrs=turn),
        "bmu_flip": ArraySpec("bool", attrs=flip),
    }
    for name, spec in specs.items():
        survey.add_image_array(f"{group}/{name}", spec)


def result_columns(survey: Survey, name: str, lattice: Lattice, geometry: Geometry) -> dict[str, Any]:
    """Columns of the catalogue from mapping ``name``: missing where a row was not mapped."""
    import pandas as pd

    def read(array: str) -> np.ndarray:
        return survey.column(f"mappings/{name}/{array}")

    bmu = read("bmu")
    unmapped = bmu < 0
    positions = lattice.positions()[np.maximum(bmu, 0)]

    def nullable(values: np.ndarray, dtype: str) -> Any:
        array = pd.array(values, dtype=dtype)  # type: ignore[call-overload]
        array[unmapped] = pd.NA
        return array

    columns: dict[str, Any] = {"bmu": nullable(bmu, "Int32")}
    columns["bmu_row"] = nullable(positions[:, 0], "Int32")
    columns["bmu_col"] = nullable(positions[:, 1], "Int32")
    if lattice.depth > 1:
        columns["bmu_depth"] = nullable(positions[:, 2], "Int32")
    columns["bmu_distance"] = read("bmu_distance")
    if f"mappings/{name}/bmu_rotation" in survey:  # an imported mapping may have none
        angle = read("bmu_rotation") * (360.0 / geometry.rotations)
        columns["angle_deg"] = np.where(unmapped, np.nan, angle)
        columns["flip"] = nullable(read("bmu_flip"), "boolean")
    return columns
