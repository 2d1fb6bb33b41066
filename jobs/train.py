"""Train: a map from a selection of the preprocessed images, in the stages of the recipe, with checkpoints."""

import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skysom.engine.geometry import Geometry
from skysom.engine.initial import initial_weights
from skysom.engine.lattice import Cartesian, Hexagonal, Lattice, lattice_from_dict, lattice_to_dict
from skysom.engine.neighbourhood import Neighbourhood
from skysom.engine.som import Som
from skysom.engine.update import AHEAD_IMAGES, OnlineTrainer
from skysom.jobs.config import Config, TrainingStage
from skysom.jobs.errors import ConfigError
from skysom.jobs.output import Output, Timer, hash_of, stage_values, write_atomically
from skysom.jobs.preprocess import PreparedReader, open_prepared
from skysom.jobs.progress import Progress
from skysom.storage.errors import SurveyError
from skysom.storage.survey import Survey

CHECKPOINT_EVERY_S = 30.0
PRESENT_IMAGES = 256
"""Images read together for training."""
KEYWORDS = ("zero", "random", "random_with_preferred_direction")


@dataclass
class Position:
    """How far training has come: stage, iteration, images of that iteration; and running means."""

    stage: int = 0
    iteration: int = 0
    image: int = 0


def train(config: Config, output: Output) -> None:
    """Train the map ``som.name`` unless it is finished; continue at the last checkpoint.

    Raises ConfigError where nothing can be selected, the memory would not suffice or the initial map
    does not fit; MissingStageError before preprocessing.
    """
    reader = open_prepared(output)
    name = config.som.name
    key = f"train:{name}"
    prepared = hash_of([output.need("preprocess", "skysom run"), output.need("ingest", "skysom ingest")])
    if key in output.recorded() and name in Survey(output.survey).som_names():
        output.claim(key, stage_values(config, "train"))
        return
    lattice = lattice_of(config)
    survey = Survey(output.survey)
    geometries = [geometry_of(config, survey, stage) for stage in config.train.stages]
    rows = select_rows(config, output, survey)
    check_memory(config, geometries, lattice, survey, len(rows))
    weights = starting_weights(config, output, reader, rows, geometries[0], lattice)
    digest = hash_of([output.claim(key, stage_values(config, "train")), prepared])
    timer = Timer()
    output.log("stage_start", stage="train", key=key, images=len(rows))
    run = _Run(config, output, reader, rows, geometries, lattice, digest)
    weights = run(weights)
    som_attrs = describe(lattice, geometries[-1], survey, digest) | {"training": run.training(len(config.train.stages))}
    Survey(output.survey, "r+").save_som(name, weights, som_attrs)
    output.checkpoint.unlink(missing_ok=True)
    output.log("stage_end", stage="train", key=key, seconds=timer.seconds, images=len(rows))


def describe(lattice: Lattice, geometry: Geometry, survey: Survey, digest: str) -> dict[str, Any]:
    """Attributes of a stored map."""
    return {
        "lattice": lattice_to_dict(lattice),
        "geometry": geometry_to_dict(geometry),
        "channels": survey.attrs["channels"],
        "config_hash": digest,
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
    chosen = np.asarray(survey["ok"][:])
    if not chosen.any():
        raise ConfigError(f"no image of {output.root} is usable; see the status column of {output.catalogue}")
    if config.train.where is not None:
        from skysom.storage.catalogue import read_catalogue, select

        chosen &= select(read_catalogue(output.catalogue), config.train.where)
        if not chosen.any():
            raise ConfigError(f"--train-where {config.train.where!r} selects no usable row")
    rows = np.flatnonzero(chosen)
    if config.train.sample is not None and len(rows) > config.train.sample:
        keys = np.random.default_rng([config.som.seed, 1]).random(len(survey))
        rows = np.sort(rows[np.argsort(keys[rows], kind="stable")[: config.train.sample]])
    return rows


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
        geometries: list[Geometry], lattice: Lattice, digest: str,
    ) -> None:  # fmt: skip
        self.config, self.output, self.rows = config, output, rows
        self.geometries, self.lattice, self.digest = geometries, lattice, digest
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
                seen = earlier + iteration * len(self.rows) + first + len(block)
                mean.add(distance)
                progress(seen, self.total)
                if mean.count >= (every if seen < self.total else every // 2):
                    self._event(number, iteration, seen, mean.take(), stage)
                self._checkpoint(Position(number, iteration, first + len(block)), trainer)
        return trainer.weights

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
        attrs = describe(self.lattice, self.geometries[number], survey, self.digest)
        name = f"{self.config.som.name}-stage{number + 1}"
        survey.save_som(name, weights, attrs | {"training": self.training(number + 1)})

    def _checkpoint(self, position: Position, trainer: OnlineTrainer) -> None:
        if time.monotonic() - self.saved < CHECKPOINT_EVERY_S:
            return
        memory = io.BytesIO()
        where = np.array([position.stage, position.iteration, position.image])
        np.savez(memory, weights=trainer.weights, position=where, digest=np.array(self.digest))
        write_atomically(self.output.checkpoint, memory.getvalue())
        self.saved = time.monotonic()

    def _resume(self, weights: np.ndarray) -> tuple[Position, np.ndarray]:
        if not self.output.checkpoint.exists():
            return Position(), weights
        with np.load(self.output.checkpoint, allow_pickle=False) as saved:
            if str(saved["digest"]) != self.digest:
                return Position(), weights
            return Position(*(int(value) for value in saved["position"])), saved["weights"]


class _Mean:
    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, values: np.ndarray) -> None:
        self.total, self.count = self.total + float(values.sum(dtype=np.float64)), self.count + len(values)

    def take(self) -> float:
        mean = self.total / max(self.count, 1)
        self.total, self.count = 0.0, 0
        return round(mean, 6)


__all__ = ["describe", "geometry_to_dict", "lattice_from_dict", "lattice_of", "load_map", "train"]
