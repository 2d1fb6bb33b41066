"""Map: every usable image against the map, and the best-matching units into the catalogue."""

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np

from skysom.cluster.costs import search_memory
from skysom.cluster.pipeline import SHARDS_IN_FLIGHT
from skysom.cluster.shards import Runtime
from skysom.engine.geometry import Geometry
from skysom.engine.lattice import Lattice, lattice_from_dict, lattice_to_dict
from skysom.jobs.config import Config, MapMethod
from skysom.jobs.derived import Maker, add_derived, check_names
from skysom.jobs.errors import ConfigError, MissingStageError
from skysom.jobs.map_calibration import prepared_method
from skysom.jobs.map_method import SEARCH, Method, Tally, affordable, method_of
from skysom.jobs.map_rows import keep_part, selected_part
from skysom.jobs.map_worker import PAIR_BYTES, MapWorker, mapping_arrays
from skysom.jobs.output import Output, hash_of, missing_shards, stage_values
from skysom.jobs.passes import staged_pass
from skysom.jobs.preprocess import open_prepared, preprocess_hash
from skysom.jobs.progress import say
from skysom.jobs.results import MAPPING_COLUMNS, update_catalogue
from skysom.jobs.train import check_usable, geometry_to_dict, is_trained, load_map
from skysom.storage.survey import Survey


def map_survey(config: Config, output: Output, runtime: Runtime) -> None:
    """Map every missing shard onto the trained (or published) map and extend the catalogue.

    With ``map.where`` only the rows it selects are searched; the others have no neuron. With ``map.keep``
    distances and transforms are kept of so many neurons an image, by rank, and which neurons they are.

    Raises ConfigError where a published map does not fit the images, the selection is empty, or more neurons
    are to be kept than there are; MissingStageError without a map.
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
    keep, where, survey, group = config.map.keep, config.map.where, Survey(output.survey, "r+"), f"mappings/{name}"
    if keep is not None and keep > len(weights):
        raise ConfigError(f"map.keep is {keep}, the map {name!r} has {len(weights)} neurons; lower it or leave it out")
    chosen = None if where is None else selected_part(output, survey, group, where, runtime.dask_ready())
    wanted = survey.column("ok") if chosen is None else survey.column("ok") & chosen
    method = affordable(config.map, geometry, int(np.count_nonzero(wanted)))
    check_memory(geometry, weights, runtime.workers_here, shard_rows=survey.shard_images, keep=keep, method=method.name)
    key = f"map:{name}"
    _check_columns(output, name, config.map.column_suffix)
    content = hashlib.sha256(weights.tobytes()).hexdigest()
    channel_weights = attrs.get("channel_weights", list(reader.weights))
    claimed = output.claim(key, stage_values(config, "map"))
    digest = hash_of([claimed, content, channel_weights, geometry_to_dict(geometry), preprocess_hash(output)])
    reader = replace(reader, weights=tuple(channel_weights))
    if chosen is not None:
        keep_part(survey, group, str(where), chosen)
    method = method_of(_attrs_of(survey, group), digest) or prepared_method(
        method, reader, wanted, weights, geometry, config.map.calibration_images, seed=int(content[:12], 16)
    )
    for array, spec in mapping_arrays(len(weights), keep, method.certified).items():
        survey.add_image_array(f"{group}/{array}", spec)
    survey.group[group].attrs.update(
        {
            "som": config.map.som or name,
            "rotations": geometry.rotations,
            "lattice": lattice_to_dict(lattice),
            "geometry": geometry_to_dict(geometry),
            "som_sha256": content,
            "config_hash": digest,
            **{name: value for name, value in (("keep", keep), ("where", where)) if value is not None},
            **method.attrs(),
        }
    )
    worker = MapWorker(reader, weights, geometry, group, keep, where is not None, method)
    tally = Tally()
    with staged_pass(output, key, runtime) as run:
        for counts in run(survey.shards(), worker, digest):
            tally.add(counts)
    _finish(config, output, survey, method, tally)


def _finish(config: Config, output: Output, survey: Survey, method: Method, tally: Tally) -> None:
    """The end of a mapping: what its search found goes into its attributes, and its columns into the catalogue."""
    name, where = config.som.name, config.map.where
    group = f"mappings/{name}"
    output.check()
    if method.certified:
        found = tally.summary()
        survey.group[group].attrs[SEARCH] = found
        output.log("search", stage="map", key=f"map:{name}", **method.attrs(), **found)
    columns = write_columns(output, survey, name, config.map.column_suffix)
    part = "" if where is None else f"; only rows where {where} were mapped"
    say(
        f"map: {int((~columns['bmu'].isna()).sum()):,} of {len(survey):,} sources have a neuron of {name!r}{part}"
        + (tally.words() if method.certified else "")
    )


def _maker(name: str) -> Maker:
    """Who makes the columns with a suffix of mapping ``name``."""
    return Maker(f"map --som-name {name}", name)


def _check_columns(output: Output, name: str, suffix: str | None) -> None:
    """ConfigError, before any work, where columns with ``suffix`` are not those of mapping ``name``."""
    if suffix is not None:
        check_names(output, [f"{column}_{suffix}" for column in MAPPING_COLUMNS], _maker(name).job)


def write_columns(output: Output, survey: Survey, name: str, suffix: str | None = None) -> dict[str, Any]:
    """Put the columns of mapping ``name`` into the catalogue: in the place of the latest mapping's, or beside them as
    bmu_SUFFIX and so on. Returns them by their names without it."""
    attrs = _attrs_of(survey, f"mappings/{name}")
    columns = result_columns(survey, name, lattice_from_dict(attrs["lattice"]), Geometry(**attrs["geometry"]))
    if suffix is None:
        update_catalogue(output.catalogue, columns, survey.shard_images, drop=MAPPING_COLUMNS)
    else:
        named = {f"{column}_{suffix}": values for column, values in columns.items()}
        add_derived(output, named, _maker(name))
    return columns


def _attrs_of(survey: Survey, group: str) -> dict[str, Any]:
    """Attributes of a mapping; empty where it was not begun."""
    return dict(survey.group[group].attrs) if group in survey else {}


def require_mapped(output: Output, name: str) -> None:
    """MissingStageError unless every image was mapped onto ``name`` (or the mapping was imported)."""
    key = f"map:{name}"
    output.need(key, f"skysom map --som-name {name}")
    if "imported" in output.recorded()[key]:
        return
    found = Survey(output.survey).attrs_of(f"mappings/{name}")
    missing = missing_shards(output, key, str(found.get("config_hash")))
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


def check_memory(
    geometry: Geometry,
    weights: np.ndarray,
    workers: int,
    *,
    shard_rows: int,
    keep: int | None = None,
    method: MapMethod = "exact",
) -> None:
    """ConfigError where the searches of this machine's workers, and their shards in flight, exceed its memory."""
    import psutil

    neurons, channels = weights.shape[:2]
    search = search_memory(geometry, neurons=neurons, channels=channels, method=method, workers=workers)
    image = 4 * channels * geometry.image_side**2
    # One shard of images more: they are read and weighted into a copy.
    shard = shard_rows * max(image, PAIR_BYTES * (keep or neurons))
    flight = workers * (SHARDS_IN_FLIGHT * shard + shard_rows * image)
    total = psutil.virtual_memory().total
    if search + flight > 0.9 * total:
        raise ConfigError(
            f"mapping onto {neurons} neurons with {workers} workers on this machine needs {search / 1e9:.1f} GB for "
            f"the search and {flight / 1e9:.1f} GB for {SHARDS_IN_FLIGHT} shards of {shard_rows} rows each, and it has "
            f"{total / 1e9:.1f} GB; lower --workers, keep fewer neurons (map.keep), use fewer or smaller neurons, or "
            "ingest with a smaller ingest.shard_images"
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
