"""Train: a map from a selection of the preprocessed images, in the stages of the recipe, with checkpoints."""

from dataclasses import replace
from typing import Any

import numpy as np

from skysom.cluster.costs import train_memory
from skysom.cluster.shards import Runtime
from skysom.cluster.tables import rows_where
from skysom.engine.batch import check_batch
from skysom.engine.blocks import BLOCK_IMAGES
from skysom.engine.errors import EngineError
from skysom.engine.geometry import Geometry
from skysom.engine.initial import initial_weights
from skysom.engine.lattice import Cartesian, Hexagonal, Lattice, lattice_to_dict
from skysom.jobs.config import Config
from skysom.jobs.errors import ConfigError
from skysom.jobs.output import Output, Timer, hash_of, stage_values
from skysom.jobs.preprocess import PreparedReader, open_prepared, preprocess_hash
from skysom.jobs.progress import say
from skysom.jobs.results import summary
from skysom.jobs.training_judge import JUDGED_IMAGES
from skysom.jobs.training_run import Plan, TrainingRun, default_batch_size, digest_of, neighbourhood_of
from skysom.storage import place as places
from skysom.storage.errors import SurveyError
from skysom.storage.place import place
from skysom.storage.survey import Survey

KEYWORDS = ("zero", "random", "random_with_preferred_direction")


def train(config: Config, output: Output, runtime: Runtime) -> None:
    """Train the map ``som.name`` unless it is finished; continue at the last checkpoint.

    Raises ConfigError where nothing can be selected, the memory would not suffice, the initial map does not
    fit or updates cannot be made in batches; MissingStageError before preprocessing.
    """
    reader = weighted_reader(config, output)
    name, survey = config.som.name, Survey(output.survey)
    key = f"train:{name}"
    if key in output.recorded():
        output.claim(key, stage_values(config, "train"))
        if is_trained(output, name):
            return
    lattice = lattice_of(config)
    side = survey.attrs["prepared_side"]
    geometries = [geometry_of(config, side, stage.rotations) for stage in config.train.stages]
    rows = select_rows(config, output, survey, runtime.dask_ready())
    recipe = with_batches(config, lattice, len(rows))
    runtime = within_memory(runtime, recipe, geometries, lattice, survey, len(rows))
    weights = starting_weights(config, output, reader, rows, geometries[0], lattice)
    output.claim(key, stage_values(config, "train"))
    timer = Timer()
    output.log("stage_start", stage="train", key=key, images=len(rows))

    def keep(number: int, weights: np.ndarray) -> None:
        output.check()
        if f"train:{name}-stage{number + 1}" in output.recorded():  # a map of the user that happens to have the name
            say(f"train: the map after stage {number + 1} is not kept: {name}-stage{number + 1} is a map of its own")
            return
        Survey(output.survey, "r+").save_som(f"{name}-stage{number + 1}", weights, attrs_after(number))

    def attrs_after(number: int) -> dict[str, Any]:
        told = {"channel_weights": list(reader.weights), "training": _training(recipe, len(rows), number + 1)}
        return describe(lattice, geometries[number], survey) | told

    digest = digest_of(training_hash(output, name), rows, weights)
    run = TrainingRun(recipe, output, runtime, Plan(reader, rows, geometries, lattice, digest, keep))
    weights = run(weights)
    output.check()
    attrs = attrs_after(len(geometries) - 1) | {"config_hash": training_hash(output, name)}
    Survey(output.survey, "r+").save_som(name, weights, attrs)
    places.remove(output.checkpoint(name))
    say(f"train: {name!r}, {lattice.size} neurons, from {len(rows):,} images in {timer.seconds:.0f} s")
    output.log(
        "stage_end", stage="train", key=key, seconds=timer.seconds, images=len(rows), presentations=run.presented
    )


def _training(config: Config, images: int, stages: int) -> dict[str, Any]:
    """What a stored map says about its training."""
    return {
        "images": images,
        "seed": config.som.seed,
        "init": config.som.init,
        "batch_mode": config.train.batch_mode,
        "stop_change": config.train.stop_change,
        "stages": [stage.model_dump(mode="json") for stage in config.train.stages[:stages]],
    }


def with_batches(config: Config, lattice: Lattice, images: int) -> Config:
    """``config`` with the batch size of every stage set, for a training on ``images`` images.

    A stage's own batch size counts, else train.batch_size, else `default_batch_size`, or the whole epoch for kohonen;
    where updates cannot be made in batches and none were asked for, 1. Raises ConfigError where they cannot and
    batches were asked for.
    """
    whole = max(-(-images // BLOCK_IMAGES), 1) * BLOCK_IMAGES
    default = whole if config.train.batch_mode == "kohonen" else default_batch_size(images)
    stages = []
    for number, stage in enumerate(config.train.stages, start=1):
        asked = stage.batch_size or config.train.batch_size
        size = asked or default
        neighbourhood = neighbourhood_of(stage)
        try:
            check_batch(neighbourhood, neighbourhood.factors(lattice), size, config.train.batch_mode)
        except EngineError as error:
            if asked:
                raise ConfigError(f"training stage {number}: {error}") from None
            size = 1
        if asked and size > config.train.shuffle_images:
            raise ConfigError(
                f"training stage {number} has batches of {size:,} images, of which train.shuffle_images="
                f"{config.train.shuffle_images} are in memory together; make batches smaller or raise that number"
            )
        stages.append(stage.model_copy(update={"batch_size": min(size, config.train.shuffle_images)}))
    return config.model_copy(update={"train": config.train.model_copy(update={"stages": tuple(stages)})})


def further(output: Output, init: str) -> dict[str, Any]:
    """Dotted settings for training the map ``init`` ("som:NAME") further: its lattice, and its last stage."""
    attrs = Survey(output.survey).load_som(init.removeprefix("som:"))[1]
    lattice, training = attrs["lattice"], attrs.get("training", {})
    settings: dict[str, Any] = {"som.lattice": lattice["kind"]}
    settings |= {f"som.{key}": lattice[key] for key in ("width", "height", "depth", "periodic")}
    settings |= {f"som.{key}": attrs["geometry"][key] for key in ("neuron_side", "region", "region_side", "flip")}
    if "stages" in training:
        settings["train.stages"] = training["stages"][-1:]
    return settings


def weighted_reader(config: Config, output: Output) -> PreparedReader:
    """Reader of the prepared images with the channel weights of ``train``, where it has its own.

    Raises ConfigError where they are not one a channel; MissingStageError before preprocessing.
    """
    reader, weights = open_prepared(output), config.train.channel_weights
    if weights is None:
        return reader
    if len(weights) != len(reader.weights):
        raise ConfigError(
            f"train.channel_weights has {len(weights)} numbers, the survey {len(reader.weights)} channels"
        )
    return replace(reader, weights=weights)


def training_hash(output: Output, name: str) -> str:
    """Hash of the settings of training ``name`` and of all before it."""
    return hash_of([output.need(f"train:{name}", "skysom train"), preprocess_hash(output)])


def is_trained(output: Output, name: str) -> bool:
    """Whether the map ``name`` was trained to the end (or imported) with the settings recorded for it."""
    survey = Survey(output.survey)
    if name not in survey.som_names() or f"train:{name}" not in output.recorded():
        return False
    found = survey.load_som_attrs(name).get("config_hash")
    return found is None or found == training_hash(output, name)


def describe(lattice: Lattice, geometry: Geometry, survey: Survey) -> dict[str, Any]:
    """Attributes of a stored map: what it is, and how the images it learned from were prepared."""
    attrs = survey.attrs
    prepared = ("channels", "chain", "channel_weights", "pixel_scale_arcsec")
    return {
        "lattice": lattice_to_dict(lattice),
        "geometry": geometry_to_dict(geometry),
        "cutout_side": attrs["image_side"],
        **{key: attrs[key] for key in prepared},
    }


def geometry_to_dict(geometry: Geometry) -> dict[str, Any]:
    """Plain values of a geometry."""
    names = ("image_side", "neuron_side", "region_side", "region", "rotations", "flip")
    return {name: getattr(geometry, name) for name in names}


def lattice_of(config: Config) -> Lattice:
    """The lattice a configuration asks for."""
    som = config.som
    if som.lattice == "hexagonal":
        return Hexagonal(som.width, periodic=som.periodic)
    return Cartesian(som.width, som.height or som.width, som.depth, periodic=som.periodic)


def geometry_of(config: Config, side: int, rotations: int) -> Geometry:
    """Geometry of images of ``side`` pixels with ``rotations``; neurons keep the size they have if a stage rotates."""
    som, neuron_side = config.som, config.som.neuron_side
    if neuron_side is None and any(stage.rotations > 1 for stage in config.train.stages):
        neuron_side = Geometry.derive(side, 4).neuron_side
    return Geometry.derive(side, rotations, som.flip, som.region, neuron_side, som.region_side)


def select_rows(config: Config, output: Output, survey: Survey, scheduler: str = "threads") -> np.ndarray:
    """Rows to train on, ascending: usable, selected by ``train.where``, at most ``train.sample``.

    The sample depends on the seed and the row alone, not on shards or on rows added later beyond it.
    """
    chosen = survey.column("ok")
    check_usable(output)
    if config.train.where is not None:
        chosen &= rows_where(output.catalogue, config.train.where, scheduler=scheduler)
        if not chosen.any():
            raise ConfigError(f"--train-where {config.train.where!r} selects no usable row")
    rows = np.flatnonzero(chosen)
    if config.train.sample is not None and len(rows) > config.train.sample:
        keys = np.random.default_rng([config.som.seed, 1]).random(len(survey))
        rows = np.sort(rows[np.argsort(keys[rows], kind="stable")[: config.train.sample]])
    return rows


def check_usable(output: Output) -> None:
    """ConfigError, with the causes, where no image is usable."""
    survey = Survey(output.survey)
    if not survey.column("ok").any():
        causes = summary(survey.statuses())
        raise ConfigError(f"{causes}; see the column status of {output.catalogue}, mend the cause and `--redo ingest`")


def within_memory(
    runtime: Runtime, config: Config, geometries: list[Geometry], lattice: Lattice, survey: Survey, images: int
) -> Runtime:
    """``runtime`` with as many workers as train.memory_gb allows, unless their number was asked for.

    ConfigError where one worker, or the number asked for, would need more.
    """
    wanted, limit = runtime.workers_here, config.train.memory_gb * 1e9

    recipe = [
        (geometry, stage.batch_size or 1) for geometry, stage in zip(geometries, config.train.stages, strict=True)
    ]
    sizes = {"neurons": lattice.size, "channels": len(survey.attrs["channels"]), "rows": images}
    judged = 0 if config.train.stop_change is None else min(images, JUDGED_IMAGES)
    sample = 4 * judged * sizes["channels"] * geometries[0].image_side ** 2

    def need(workers: int) -> int:
        return sample + train_memory(recipe, **sizes, window=config.train.shuffle_images, workers=workers)

    workers = wanted
    while runtime.workers is None and runtime.address is None and workers > 1 and need(workers) > limit:
        workers -= 1
    if need(workers) > limit:
        batched = any(stage.batch_size != 1 for stage in config.train.stages)
        with_workers = f" and {workers} worker{'s' * (workers > 1)}" if batched else ""
        raise ConfigError(
            f"training on {images:,} images with {lattice.size} neurons{with_workers} needs {need(workers) / 1e9:.3g} "
            f"GB, train.memory_gb allows {config.train.memory_gb}; lower --train-sample"
            f"{', train.shuffle_images or --workers' if batched else ''}, or raise train.memory_gb"
        )
    if workers < wanted:
        say(f"train: {workers} of {wanted} workers, for train.memory_gb={config.train.memory_gb:g}; raise it for more")
        return replace(runtime, workers=workers)
    return runtime


def starting_weights(
    config: Config,
    output: Output,
    reader: PreparedReader,
    rows: np.ndarray,
    geometry: Geometry,
    lattice: Lattice,
) -> np.ndarray:
    """Initial neurons (N, C, D, D) float32 as ``som.init`` asks."""
    kind, side, channels = config.som.init, geometry.neuron_side, len(reader.weights)
    if kind in KEYWORDS:
        return initial_weights(kind, lattice.size, channels, side, config.som.seed)
    if kind == "samples":
        from skysom.engine.transforms import transform

        draw = np.random.default_rng([config.som.seed, 2])
        chosen = draw.choice(rows, lattice.size, replace=len(rows) < lattice.size)
        return np.stack([transform(image, 0, geometry) for image in reader.rows(chosen)]).astype(np.float32)
    weights, attrs = load_map(kind, output, lattice.kind)
    expected = (lattice.size, channels, side, side)
    if weights.shape != expected:
        raise ConfigError(
            f"som.init {kind!r} has (neurons, channels, side, side) {weights.shape}, this map needs {expected}; "
            "set som.width, som.height and som.neuron_side to match"
        )
    before = attrs.get("channel_weights")
    if before is not None and tuple(before) != tuple(reader.weights):  # neurons are of weighted images
        return weights * (np.array(reader.weights) / before).astype(np.float32)[:, None, None]
    return weights


def load_map(source: str, output: Output, layout: str = "auto") -> tuple[np.ndarray, dict[str, Any]]:
    """Weights (N, C, D, D) and attributes (with ``lattice``) of ``som:NAME``, ``OUTPUT:NAME`` or a PINK file."""
    if source.startswith("som:"):
        return Survey(output.survey).load_som(source[4:])
    path, _, name = source.rpartition(":")
    if path and not name.startswith("//") and places.is_dir(place(path)):
        return Survey(place(path) / "survey.zarr").load_som(name)
    whole = place(source)
    if places.is_dir(whole):
        return Survey(whole / "survey.zarr").load_som("main")
    if not places.exists(whole):
        raise SurveyError(f"there is no map {source!r}; give som:NAME, OUTPUT:NAME or a PINK file")
    from skysom.jobs.pink_convert import read_som

    with places.local_file(whole) as file:
        weights, lattice = read_som(file, layout)  # type: ignore[arg-type]
    return weights, {"lattice": lattice_to_dict(lattice)}
