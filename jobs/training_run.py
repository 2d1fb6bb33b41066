"""The loop of a training over stages, epochs and images or batches, with checkpoints and events."""

import hashlib
import io
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from skysom.cluster.coordinator import BatchDone, Coordinator, Schedule, SeatTimes
from skysom.cluster.shards import Runtime
from skysom.cluster.training_crew import Crew, open_crew
from skysom.cluster.training_worker import Step, TrainingWorker
from skysom.engine.batch import STRONG_SUM
from skysom.engine.blocks import BLOCK_IMAGES
from skysom.engine.geometry import Geometry
from skysom.engine.lattice import Lattice
from skysom.engine.neighbourhood import Neighbourhood
from skysom.engine.som import Som
from skysom.engine.update import AHEAD_IMAGES, OnlineTrainer
from skysom.jobs.config import Config, TrainingStage
from skysom.jobs.errors import ConfigError
from skysom.jobs.output import STAGES, Output, hash_of
from skysom.jobs.preprocess import PreparedReader
from skysom.jobs.progress import Progress, say
from skysom.jobs.training_judge import Judge
from skysom.storage import place as places
from skysom.storage.errors import StorageError
from skysom.storage.place import write_atomically

CHECKPOINT_EVERY_S = 30.0
"""Seconds between checkpoints of online training; batched training counts batches."""
BATCHES_AN_EPOCH, LARGEST_BATCH = 20, 1024
"""What batches are by default (figures in the README)."""
POINTS = 40
"""Points of the training curve."""


@dataclass(frozen=True)
class Position:
    """How far training has come: stage, iteration, and images of that iteration."""

    stage: int = 0
    iteration: int = 0
    image: int = 0


@dataclass(frozen=True)
class Plan:
    """What a training needs beside the configuration: images, their rows, a geometry a stage, the lattice.

    digest : what a checkpoint must carry to be continued; keep : stores the map after a stage (number, weights).
    """

    reader: PreparedReader
    rows: np.ndarray
    geometries: list[Geometry]
    lattice: Lattice
    digest: str
    keep: Callable[[int, np.ndarray], None]


@dataclass(frozen=True)
class Selection:
    """Images of places in a selection of rows; picklable, for workers."""

    reader: PreparedReader
    rows: np.ndarray

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """Images (n, C, H, H) float32 of ``places`` (n,)."""
        return self.reader.rows(self.rows[places])


@dataclass(frozen=True)
class MakeWorker:
    """Makes a worker of batched training where it is to live."""

    selection: Selection

    def __call__(self) -> TrainingWorker:
        return TrainingWorker(self.selection)


@dataclass
class _Tally:
    """What has happened since the last point of the training curve."""

    distance: float = 0.0
    images: int = 0
    seconds: float = 0.0
    reduce_s: float = 0.0
    strongest: float = 0.0
    seats: dict[int, SeatTimes] = field(default_factory=dict)

    def clear(self) -> None:
        self.distance = self.seconds = self.reduce_s = self.strongest = 0.0
        self.images, self.seats = 0, {}

    def add(self, distance: np.ndarray) -> None:
        self.distance, self.images = self.distance + float(distance.sum(dtype=np.float64)), self.images + len(distance)

    def add_batch(self, batch: BatchDone) -> None:
        self.add(batch.bmu_distance)
        self.seconds, self.reduce_s = self.seconds + batch.seconds, self.reduce_s + batch.reduce_s
        self.strongest = max(self.strongest, batch.strongest)
        for seat, times in batch.seats.items():
            self.seats.setdefault(seat, SeatTimes()).add(**asdict(times))


def digest_of(training_hash: str, rows: np.ndarray, weights: np.ndarray) -> str:
    """What a checkpoint carries: another configuration, selection or start must not continue it."""
    return hash_of([training_hash, hashlib.sha256(rows.tobytes() + weights.tobytes()).hexdigest()])


def default_batch_size(images: int) -> int:
    """A twentieth of the images in whole blocks, 32 to 1024: as good as online training on all sets that were tried."""
    return min(max(images // BATCHES_AN_EPOCH // BLOCK_IMAGES, 1) * BLOCK_IMAGES, LARGEST_BATCH)


def neighbourhood_of(stage: TrainingStage) -> Neighbourhood:
    """The neighbourhood function of ``stage``."""
    return Neighbourhood(stage.neighbourhood, stage.sigma, stage.rate, stage.max_update_distance)


class TrainingRun:
    """One training, of stages with batch sizes; call it with the starting weights (N, C, D, D) for the trained ones."""

    def __init__(self, config: Config, output: Output, runtime: Runtime, plan: Plan) -> None:
        self.config, self.output, self.runtime, self.plan = config, output, runtime, plan
        self.presented = 0
        self.total = sum(stage.iterations for stage in config.train.stages) * len(plan.rows)
        self._saved, self._batches = time.monotonic(), 0
        self._images: np.ndarray | None = None
        self._crew: Crew | None = None
        self._judge = Judge(plan.reader, plan.rows, config.som.seed)
        self._judged: float | None = None  # after the last iteration of this stage

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        start, weights = self._resume(weights)
        try:
            with Progress("train", stage=(STAGES.index("train") + 1, len(STAGES))) as progress:
                for number in range(start.stage, len(self.config.train.stages)):
                    begin = start if number == start.stage else Position(number)
                    self._judged = self._judged if number == start.stage else None
                    online = self.config.train.stages[number].batch_size == 1
                    weights = (self._online if online else self._batched)(begin, weights, progress)
                    if self.config.train.keep_stages and number + 1 < len(self.config.train.stages):
                        self.plan.keep(number, weights)
        finally:
            if self._crew is not None:
                self._crew.close()
        return weights

    def _online(self, start: Position, weights: np.ndarray, progress: Progress) -> np.ndarray:
        from threadpoolctl import threadpool_limits

        stage = self.config.train.stages[start.stage]
        trainer = OnlineTrainer(
            Som(weights, self.plan.lattice), neighbourhood_of(stage), self.plan.geometries[start.stage]
        )
        if self._crew is not None:  # the images are held here or there
            self._crew.close()
            self._crew = None
        if self._images is None:
            self._images = self.plan.reader.rows(self.plan.rows)
        tally = _Tally()
        with threadpool_limits(1):
            for iteration in range(start.iteration, stage.iterations):
                order = self._order(start.stage, iteration)
                begin = start.image if iteration == start.iteration else 0
                for first in range(begin, len(order), AHEAD_IMAGES):
                    block = order[first : first + AHEAD_IMAGES]
                    _, distance = trainer.train(self._images[block])
                    tally.add(distance)
                    position = Position(start.stage, iteration, first + len(block))
                    self._done(position, distance, tally, progress)
                    if time.monotonic() - self._saved >= CHECKPOINT_EVERY_S:
                        self._checkpoint(position, trainer.weights)
                if self._ends(start.stage, iteration, trainer.weights):
                    break
        return trainer.weights

    def _order(self, stage: int, iteration: int) -> np.ndarray:
        if not self.config.train.shuffle:
            return np.arange(len(self.plan.rows))
        return np.random.default_rng([self.config.som.seed, 3, stage, iteration]).permutation(len(self.plan.rows))

    def _batched(self, start: Position, weights: np.ndarray, progress: Progress) -> np.ndarray:
        self._images = None
        if self._crew is None:
            make = MakeWorker(Selection(self.plan.reader, self.plan.rows))
            # The map twice, the sums (64 bits) of every worker and one more, and the rows of the selection.
            shared_bytes = (2 + 2 * (self.runtime.workers_here + 1)) * weights.nbytes + self.plan.rows.nbytes
            self._crew = open_crew(make, self.runtime, shared_bytes)
        schedule, tally = self._schedule(start.stage), _Tally()
        coordinator = Coordinator(self._crew, len(self.plan.rows))
        warned = False
        # A checkpoint of the end of an iteration is from before it was judged.
        if start.image == len(self.plan.rows) and self._ends(start.stage, start.iteration, weights):
            return weights
        for batch in coordinator.train(weights, schedule, epoch=start.iteration, seen=start.image):
            weights = batch.weights
            tally.add_batch(batch)
            self._batches += 1
            strong = batch.strongest > STRONG_SUM and schedule.batch_size > default_batch_size(len(self.plan.rows))
            if strong and schedule.step.mode == "affine" and not warned:
                warned = True
                say(_strong(start.stage, schedule.batch_size, batch.strongest))
            position = Position(start.stage, batch.epoch, batch.seen)
            self._done(position, batch.bmu_distance, tally, progress)
            if self._batches % self.config.train.checkpoint_batches == 0:
                self._checkpoint(position, weights)
            if batch.seen == len(self.plan.rows) and self._ends(start.stage, batch.epoch, weights):
                break
        return weights

    def _ends(self, number: int, iteration: int, weights: np.ndarray) -> bool:
        """Judge the map after an iteration of stage ``number``, where asked to: whether the stage ends with it.

        It depends on the maps after this iteration and the one before alone, and what was found of the latter is in
        every checkpoint: an interrupted training ends where it would have.
        """
        limit = self.config.train.stop_change
        if limit is None:
            return False
        before, after = self._judged, self._judge(weights, self.plan.geometries[number])
        self._judged = after
        change = None if before is None else abs(after - before) / before if before > 0 else 0.0
        ends = change is not None and change < limit and iteration + 1 < self.config.train.stages[number].iterations
        self.output.log(
            "judged", stage="train", som=self.config.som.name, training_stage=number, iteration=iteration,
            images=len(self._judge.rows), mean_distance=after, change=change, ended=ends,
        )  # fmt: skip
        if ends:
            say(
                f"train: stage {number + 1} ends after {iteration + 1} of its "
                f"{self.config.train.stages[number].iterations} iterations: the last one changed the mean distance by "
                f"{change:.2g} of it, less than train.stop_change={limit:g}"
            )
        return ends

    def _schedule(self, number: int) -> Schedule:
        train, stage = self.config.train, self.config.train.stages[number]
        neighbourhood, size = neighbourhood_of(stage), stage.batch_size or 1
        # The classical batch map, whose batch is the whole epoch, takes the full step to the mean.
        rate = stage.rate if size < len(self.plan.rows) else 1.0
        step = Step(self.plan.geometries[number], neighbourhood.factors(self.plan.lattice), train.batch_mode, rate)
        name = (self.config.som.seed, 4, number)
        return Schedule(step, size, stage.iterations, name, train.shuffle_images, train.shuffle)

    def _done(self, position: Position, distance: np.ndarray, tally: _Tally, progress: Progress) -> None:
        """Account for a block or batch that has moved the map, ``position`` being where it ended."""
        stages, images = self.config.train.stages, len(self.plan.rows)
        stage = stages[position.stage]
        if not np.isfinite(distance).all():
            raise ConfigError(
                f"training diverged in stage {position.stage + 1}, iteration {position.iteration + 1}: distances are "
                f"no longer finite with {stage.neighbourhood}, rate {stage.rate}; lower the rate and run with "
                "`--redo train`"
            )
        self.presented += len(distance)
        seen = sum(s.iterations for s in stages[: position.stage]) * images + position.iteration * images
        seen += position.image
        progress(seen, self.total)
        every = max(AHEAD_IMAGES, self.total // POINTS)
        last = position.iteration + 1 == stage.iterations and position.image == images
        # A short rest at the end of a stage would be a noisy point.
        if tally.images >= (every // 2 if last else every):
            self._event(position, seen, tally, stage)
            tally.clear()

    def _event(self, position: Position, seen: int, tally: _Tally, stage: TrainingStage) -> None:
        batched: dict[str, Any] = {}
        if tally.seats and self._crew is not None:
            known = self._crew.describe()
            workers = {
                str(seat): {**known.get(seat, {}), **{k: round(v, 4) for k, v in asdict(times).items()}}
                for seat, times in sorted(tally.seats.items())
            }
            batched = {
                "batch_size": stage.batch_size, "strongest_sum": round(tally.strongest, 3),
                "seconds": round(tally.seconds, 3), "reduce_s": round(tally.reduce_s, 3), "workers": workers,
            }  # fmt: skip
        self.output.log(
            "training", stage="train", som=self.config.som.name, training_stage=position.stage,
            iteration=position.iteration, images_seen=seen, mean_bmu_distance=round(tally.distance / tally.images, 6),
            update_factor=stage.rate, sigma=stage.sigma, **batched,
        )  # fmt: skip

    def _checkpoint(self, position: Position, weights: np.ndarray) -> None:
        self.output.check()
        memory = io.BytesIO()
        where = np.array([position.stage, position.iteration, position.image])
        judged = np.array(np.nan if self._judged is None else self._judged)
        np.savez(memory, weights=weights, position=where, digest=np.array(self.plan.digest), judged=judged)
        write_atomically(self.output.checkpoint(self.config.som.name), memory.getvalue())
        self._saved = time.monotonic()

    def _resume(self, weights: np.ndarray) -> tuple[Position, np.ndarray]:
        path = self.output.checkpoint(self.config.som.name)
        if not places.exists(path):
            return Position(), weights
        try:
            with np.load(io.BytesIO(places.read_bytes(path)), allow_pickle=False) as saved:
                if str(saved["digest"]) == self.plan.digest:
                    judged = float(saved["judged"]) if "judged" in saved else np.nan
                    self._judged = None if np.isnan(judged) else judged
                    return Position(*(int(value) for value in saved["position"])), saved["weights"]
        except StorageError:  # the store does not answer; the checkpoint may be good
            raise
        except Exception as error:  # whatever zipfile and NumPy make of damaged bytes
            say(f"train: the checkpoint {path} cannot be read ({error}); training begins again")
        return Position(), weights


def _strong(stage: int, size: int, strongest: float) -> str:
    return (
        f"train: in stage {stage + 1} a batch of {size} images moves a neuron with a sum of factors of {strongest:.1f} "
        f"(above {STRONG_SUM:g} its last images count most): lower train.batch_size or the rate, or use "
        "train.batch_mode = 'kohonen'"
    )
