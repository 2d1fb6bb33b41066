"""Train: a map from a selection of the preprocessed images, in the stages of the recipe, with checkpoints."""

import hashlib
import io
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skysom.engine.geometry import Geometry
from skysom.engine.initial import initial_weights
from skysom.engine.lattice import Cartesian, Hexagonal, Lattice, lattice_to_dict
from skysom.engine.neighbourhood import Neighbourhood
from skysom.engine.som import Som
from skysom.engine.update import AHEAD_IMAGES, OnlineTrainer
from skysom.jobs.config import Config, TrainingStage
from skysom.jobs.errors import ConfigError
from skysom.jobs.output import Output, Timer, hash_of, stage_values, write_atomically
from skysom.jobs.preprocess import PreparedReader, open_prepared, preprocess_hash
from skysom.jobs.progress import Progress, say
from skysom.jobs.results import summary
from skysom.storage.errors import SurveyError
from skysom.storage.survey import Survey

CHECKPOINT_EVERY_S = 30.0
KEYWORDS = ("zero", "random", "random_with_preferred_direction")


@dataclass
class Position:
    """How far training has come: stage, iteration, and images of that iteration."""

    stage: int = 0
    iteration: int = 0
    image: int = 0


def train(config: Config, output: Output) -> None:
    """Train the map ``som.name`` unless it is finished; continue at the last checkpoint.

    Raises ConfigError where nothing can be selected, the memory would not suffice or the initial map
    does not fit; MissingStageError before preprocessing.
    """
    reader = open_prepared(output)
    name, survey = config.som.name, Survey(output.survey)
    key = f"train:{name}"
    if key in output.recorded():
        output.claim(key, stage_values(config, "train"))
        if is_trained(output, name):
            return
    lattice = lattice_of(config)
    geometries = [geometry_of(config, survey, stage) for stage in config.train.stages]
    rows = select_rows(config, output, survey)
    check_memory(config, geometries, lattice, survey, len(rows))
    weights = starting_weights(config, output, reader, rows, geometries[0], lattice)
    output.claim(key, stage_values(config, "train"))
    timer = Timer()
    output.log("stage_start", stage="train", key=key, images=len(rows))
    run = _Run(config, output, reader, rows, geometries, lattice, weights)
    weights = run(weights)
    attrs = describe(lattice, geometries[-1], survey) | {"training": run.training(len(config.train.stages))}
    Survey(output.survey, "r+").save_som(name, weights, attrs | {"config_hash": training_hash(output, name)})
    output.checkpoint(name).unlink(missing_ok=True)
    say(f"train: {name!r}, {lattice.size} neurons, from {len(rows):,} images in {timer.seconds:.0f} s")
    output.log(
        "stage_end", stage="train", key=key, seconds=timer.seconds, images=len(rows), presentations=run.presented
    )


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


def geometry_of(config: Config, survey: Survey, stage: TrainingStage) -> Geometry:
    """Geometry of a training stage; neurons keep the size they have with rotations."""
    som, side = config.som, survey.attrs["prepared_side"]
    neuron_side = som.neuron_side
    if neuron_side is None and any(s.rotations > 1 for s in config.train.stages):
        neuron_side = Geometry.derive(side, 4).neuron_side
    return Geometry.derive(side, stage.rotations, som.flip, som.region, neuron_side, som.region_side)


def select_rows(config: Config, output: Output, survey: Survey) -> np.ndarray:
    """Rows to train on, ascending: usable, selected by ``train.where``, at most ``train.sample``.

    The sample depends on the seed and the row alone, not on shards or on rows added later beyond it.
    """
    chosen = survey.column("ok")
    check_usable(output)
    if config.train.where is not None:
        from skysom.storage.catalogue import read_catalogue
        from skysom.storage.selection import select

        chosen &= select(read_catalogue(output.catalogue), config.train.where)
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


def check_memory(config: Config, geometries: list[Geometry], lattice: Lattice, survey: Survey, images: int) -> None:
    """ConfigError where training would need more memory than ``train.memory_gb``."""
    from skysom.engine.memory import training_memory

    channels = len(survey.attrs["channels"])
    need = max(training_memory(g, neurons=lattice.size, channels=channels) for g in geometries)
    need += 4 * images * channels * geometries[0].image_side ** 2
    if need > config.train.memory_gb * 1e9:
        raise ConfigError(
            f"training on {images:,} images with {lattice.size} neurons needs {need / 1e9:.1f} GB, "
            f"train.memory_gb allows {config.train.memory_gb}; lower --train-sample or raise train.memory_gb"
        )


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
    weights, _ = load_map(kind, output, lattice.kind)
    expected = (lattice.size, channels, side, side)
    if weights.shape != expected:
        raise ConfigError(
            f"som.init {kind!r} has (neurons, channels, side, side) {weights.shape}, this map needs {expected}; "
            "set som.width, som.height and som.neuron_side to match"
        )
    return weights


def load_map(source: str, output: Output, layout: str = "auto") -> tuple[np.ndarray, dict[str, Any]]:
    """Weights (N, C, D, D) and attributes (with ``lattice``) of ``som:NAME``, ``OUTPUT:NAME`` or a PINK file."""
    if source.startswith("som:"):
        return Survey(output.survey).load_som(source[4:])
    path, _, name = source.rpartition(":")
    if path and Path(path).is_dir():
        return Survey(Path(path) / "survey.zarr").load_som(name)
    if Path(source).is_dir():
        return Survey(Path(source) / "survey.zarr").load_som("main")
    if not Path(source).exists():
        raise SurveyError(f"there is no map {source!r}; give som:NAME, OUTPUT:NAME or a PINK file")
    from skysom.jobs.pink_convert import read_som

    weights, lattice = read_som(Path(source), layout)  # type: ignore[arg-type]
    return weights, {"lattice": lattice_to_dict(lattice)}


class _Run:
    """The loop over stages, iterations and images, with checkpoints and events."""

    def __init__(
        self, config: Config, output: Output, reader: PreparedReader, rows: np.ndarray,
        geometries: list[Geometry], lattice: Lattice, weights: np.ndarray,
    ) -> None:  # fmt: skip
        self.config, self.output, self.rows = config, output, rows
        self.geometries, self.lattice, self.presented = geometries, lattice, 0
        # Another selection or another start must not continue this one.
        start = hashlib.sha256(rows.tobytes() + weights.tobytes()).hexdigest()
        self.digest = hash_of([training_hash(output, config.som.name), start])
        self.images = reader.rows(rows)
        self.total = sum(stage.iterations for stage in config.train.stages) * len(rows)
        self.saved = time.monotonic()

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        from threadpoolctl import threadpool_limits

        position, weights = self._resume(weights)
        with Progress("train") as progress, threadpool_limits(1):
            for number in range(position.stage, len(self.config.train.stages)):
                weights = self._stage(number, weights, position if number == position.stage else None, progress)
                if self.config.train.keep_stages and number + 1 < len(self.config.train.stages):
                    self._keep(number, weights)
        return weights

    def _stage(self, number: int, weights: np.ndarray, start: Position | None, progress: Progress) -> np.ndarray:
        stage, geometry = self.config.train.stages[number], self.geometries[number]
        neighbourhood = Neighbourhood(stage.neighbourhood, stage.sigma, stage.rate, stage.max_update_distance)
        trainer = OnlineTrainer(Som(weights, self.lattice), neighbourhood, geometry)
        earlier = sum(s.iterations for s in self.config.train.stages[:number]) * len(self.rows)
        mean = _Mean()
        every = max(AHEAD_IMAGES, self.total // 40)
        for iteration in range(start.iteration if start else 0, stage.iterations):
            order = self._order(number, iteration)
            begin = start.image if start and iteration == start.iteration else 0
            for first in range(begin, len(order), AHEAD_IMAGES):
                block = order[first : first + AHEAD_IMAGES]
                _, distance = trainer.train(self.images[block])
                self._check_finite(distance, number, iteration)
                self.presented += len(block)
                seen = earlier + iteration * len(self.rows) + first + len(block)
                mean.add(distance)
                progress(seen, self.total)
                last = iteration + 1 == stage.iterations and first + len(block) == len(order)
                # A short rest at the end of a stage would be a noisy point.
                if mean.count >= (every // 2 if last else every):
                    self._event(number, iteration, seen, mean.take(), stage)
                self._checkpoint(Position(number, iteration, first + len(block)), trainer)
        return trainer.weights

    def _check_finite(self, distance: np.ndarray, number: int, iteration: int) -> None:
        if not np.isfinite(distance).all():
            stage = self.config.train.stages[number]
            raise ConfigError(
                f"training diverged in stage {number + 1}, iteration {iteration + 1}: distances are no longer finite "
                f"with {stage.neighbourhood}, rate {stage.rate}; lower the rate and run with `--redo train`"
            )

    def _order(self, stage: int, iteration: int) -> np.ndarray:
        if not self.config.train.shuffle:
            return np.arange(len(self.rows))
        return np.random.default_rng([self.config.som.seed, 3, stage, iteration]).permutation(len(self.rows))

    def _event(self, number: int, iteration: int, seen: int, mean: float, stage: TrainingStage) -> None:
        self.output.log(
            "training", stage="train", som=self.config.som.name, training_stage=number, iteration=iteration,
            images_seen=seen, mean_bmu_distance=mean, update_factor=stage.rate, sigma=stage.sigma,
        )  # fmt: skip

    def training(self, stages: int) -> dict[str, Any]:
        """What a stored map says about its training."""
        return {
            "images": len(self.rows),
            "seed": self.config.som.seed,
            "init": self.config.som.init,
            "stages": [stage.model_dump(mode="json") for stage in self.config.train.stages[:stages]],
        }

    def _keep(self, number: int, weights: np.ndarray) -> None:
        survey = Survey(self.output.survey, "r+")
        attrs = describe(self.lattice, self.geometries[number], survey)
        name = f"{self.config.som.name}-stage{number + 1}"
        survey.save_som(name, weights, attrs | {"training": self.training(number + 1)})

    def _checkpoint(self, position: Position, trainer: OnlineTrainer) -> None:
        if time.monotonic() - self.saved < CHECKPOINT_EVERY_S:
            return
        memory = io.BytesIO()
        where = np.array([position.stage, position.iteration, position.image])
        np.savez(memory, weights=trainer.weights, position=where, digest=np.array(self.digest))
        write_atomically(self.output.checkpoint(self.config.som.name), memory.getvalue())
        self.saved = time.monotonic()

    def _resume(self, weights: np.ndarray) -> tuple[Position, np.ndarray]:
        path = self.output.checkpoint(self.config.som.name)
        if not path.exists():
            return Position(), weights
        try:
            with np.load(path, allow_pickle=False) as saved:
                if str(saved["digest"]) == self.digest:
                    return Position(*(int(value) for value in saved["position"])), saved["weights"]
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            say(f"train: the checkpoint {path} cannot be read ({error}); training begins again")
        return Position(), weights


class _Mean:
    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, values: np.ndarray) -> None:
        self.total, self.count = self.total + float(values.sum(dtype=np.float64)), self.count + len(values)

    def take(self) -> float:
        mean = self.total / max(self.count, 1)
        self.total, self.count = 0.0, 0
        return round(mean, 6)
