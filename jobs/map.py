"""Map: every usable image against the map, and the best-matching units into the catalogue."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from skysom.cluster.ledger import Shard
from skysom.cluster.shards import Runtime
from skysom.engine.geometry import Geometry
from skysom.engine.lattice import Lattice, lattice_from_dict, lattice_to_dict
from skysom.engine.search import BLOCK_IMAGES, Search
from skysom.jobs.config import Config
from skysom.jobs.errors import ConfigError, MissingStageError
from skysom.jobs.ingest import update_catalogue
from skysom.jobs.output import Output, hash_of, stage_values
from skysom.jobs.passes import staged_pass
from skysom.jobs.preprocess import PreparedReader, open_prepared
from skysom.jobs.train import geometry_to_dict, load_map
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
        return Survey(self.reader.survey, "r+")

    @cached_property
    def search(self) -> Search:
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
    weights, lattice, geometry, trained = _the_map(config, output)
    survey = Survey(output.survey, "r+")
    side, channels = survey.attrs["prepared_side"], len(survey.attrs["channels"])
    if weights.shape[1] != channels:
        raise ConfigError(f"the map has {weights.shape[1]} channels, the survey {channels}")
    key = f"map:{name}"
    values = stage_values(config, "map")
    if config.map.som is not None:
        values["map_sha256"] = hash_of(np.ascontiguousarray(weights).tobytes().hex())
    upstream = [trained, output.need("preprocess", "skysom run"), output.need("ingest", "skysom ingest")]
    digest = hash_of([output.claim(key, values), *upstream])
    group = f"mappings/{name}"
    _add_arrays(survey, group, len(weights))
    survey.group[group].attrs.update(
        {
            "som": config.map.som or name,
            "rotations": geometry.rotations,
            "lattice": lattice_to_dict(lattice),
            "geometry": geometry_to_dict(geometry),
        }
    )
    assert side == geometry.image_side
    worker = MapWorker(reader, weights, geometry, group)
    with staged_pass(output, key, runtime) as run:
        run(survey.shards(), worker, digest)
    update_catalogue(output, result_columns(survey, name, lattice, geometry))


def _the_map(config: Config, output: Output) -> tuple[np.ndarray, Lattice, Geometry, str]:
    """Weights, lattice, search geometry, and the hash of where the map came from."""
    side = Survey(output.survey).attrs["prepared_side"]
    som = config.som
    rotations = config.map.rotations
    if config.map.som is not None:
        weights, attrs = load_map(config.map.som, output, config.map.som_layout)
        known = attrs.get("geometry", {})
        if known and known["image_side"] != side:
            raise ConfigError(
                f"the map {config.map.som!r} was made for images of {known['image_side']} pixels, these have {side}; "
                "use the preprocessing it was made with"
            )
        region, region_side, flip = (
            known.get("region", som.region),
            som.region_side,
            known.get("flip", som.flip),
        )
        region_side = region_side or known.get("region_side")
        rotations = rotations or known.get("rotations", config.train.stages[-1].rotations)
        geometry = Geometry.derive(side, rotations, flip, region, weights.shape[3], region_side)
        lattice = lattice_from_dict(attrs["lattice"])
        if config.som.name in Survey(output.survey).som_names() and config.map.som != f"som:{som.name}":
            raise ConfigError(
                f"this survey has a map {som.name!r} of its own; name this mapping otherwise with --som-name"
            )
        return weights, lattice, geometry, "published"
    try:
        trained = output.need(f"train:{som.name}", "skysom train")
        weights, attrs = Survey(output.survey).load_som(som.name)
    except Exception as error:
        raise MissingStageError(
            f"{output.root} has no trained map {som.name!r}; run `skysom train` first or give --som"
        ) from error
    known = attrs["geometry"]
    geometry = Geometry(**(known | {"rotations": rotations or known["rotations"]}))
    return weights, lattice_from_dict(attrs["lattice"]), geometry, trained


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
        return np.asarray(survey[f"mappings/{name}/{array}"][:])

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
