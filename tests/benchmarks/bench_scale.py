"""The pass at scale: memory and time per image as a survey grows, the engine's own cost, and two workers against one.

    python tests/benchmarks/bench_scale.py [--images 200000] [--small 20000] [--folder DIR]

Images of 64x64 pixels are simulated shard by shard into a survey store, and mapped onto 10x10 neurons with 360
rotations and flips by the exact search, on two Ray workers, as `skysom map` maps them. Start-up (the first shard of
each worker) is excluded. "Search alone" is what two processes reach at the same moment that do nothing else.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
SIDE, NEURONS, SHARD = 64, 100, 512
SEARCH_S = 8.0


@dataclass(frozen=True)
class Generator:
    """Simulates the images of a shard: two Gaussians at a random separation and angle each, and writes them."""

    path: Path

    def read(self, shard):  # type: ignore[no-untyped-def]
        return None

    def compute(self, shard, data):  # type: ignore[no-untyped-def]
        return simulated(shard[1] - shard[0], shard[0])

    def write(self, shard, images):  # type: ignore[no-untyped-def]
        from skysom.storage.survey import Survey

        survey = Survey(self.path, "r+")
        survey.write_rows("prepared", shard[0], images)
        survey.write_rows("ok", shard[0], np.ones(len(images), bool))
        return {"images": len(images)}


def simulated(count: int, seed: int) -> np.ndarray:
    """Images (n, 1, 64, 64) float32 of double sources on noise."""
    rng = np.random.default_rng([7, seed])
    grid = np.arange(SIDE) - (SIDE - 1) / 2
    angle, half = rng.uniform(0, np.pi, count), rng.uniform(0, SIDE / 5, count)
    images = rng.normal(0, 0.02, (count, SIDE, SIDE)).astype(np.float32)
    for sign, peak in ((-1, np.ones(count)), (1, rng.uniform(0.3, 1, count))):
        y = np.exp(-((grid - sign * half[:, None] * np.sin(angle)[:, None]) ** 2) / 8).astype(np.float32)
        x = np.exp(-((grid - sign * half[:, None] * np.cos(angle)[:, None]) ** 2) / 8).astype(np.float32)
        images += peak[:, None, None].astype(np.float32) * y[:, :, None] * x[:, None, :]
    return images[:, None]


def neurons() -> np.ndarray:
    """A map (100, 1, 91, 91) float32 of such sources."""
    from skysom.engine.geometry import Geometry
    from skysom.engine.transforms import transform

    geometry = Geometry.derive(SIDE, 360, True, "circular")
    return np.stack([transform(image, 0, geometry) for image in simulated(NEURONS, 2**31)])


def geometry_of_bench():  # type: ignore[no-untyped-def]
    from skysom.engine.geometry import Geometry

    return Geometry.derive(SIDE, 360, True, "circular")


def make_survey(output, images: int) -> None:  # type: ignore[no-untyped-def]
    from skysom.cluster.shards import Runtime
    from skysom.jobs.map_worker import mapping_arrays
    from skysom.jobs.passes import staged_pass
    from skysom.storage.survey import PREPARED_AXES, ArraySpec, Survey

    attrs = {"prepared_side": SIDE, "channels": ["x"]}
    survey = Survey.create(output.survey, images=images, shard_images=SHARD, attrs=attrs)
    survey.add_image_array("prepared", ArraySpec("float32", PREPARED_AXES, (1, SIDE, SIDE)))
    survey.add_image_array("ok", ArraySpec("bool"))
    for name, spec in mapping_arrays(NEURONS, None).items():
        survey.add_image_array(f"mappings/main/{name}", spec)
    with staged_pass(output, "preprocess", Runtime(2, "ray")) as run:
        run(survey.shards(), Generator(output.survey), "bench")


@dataclass(frozen=True)
class Mapped:
    """A mapping pass: images after the first shard of each worker and the seconds they took; peak bytes."""

    images: int
    seconds: float
    worker_bytes: int
    driver_bytes: int

    @property
    def milliseconds(self) -> float:
        return 1e3 * self.seconds / self.images


def map_survey(output, workers: int, key: str = "map:main") -> Mapped:  # type: ignore[no-untyped-def]
    from skysom.cluster.pipeline import peak_memory
    from skysom.cluster.shards import Runtime
    from skysom.jobs import passes
    from skysom.jobs.map_worker import MapWorker
    from skysom.jobs.preprocess import PreparedReader
    from skysom.storage.survey import Survey

    arrived: list[tuple[float, int, int]] = []
    log = output.log

    def listen(event: str, **values):  # type: ignore[no-untyped-def]
        if event == "shard":
            arrived.append((time.perf_counter(), values["stop"] - values["start"], values["memory_bytes"]))
        log(event, **values)

    output.log = listen
    try:
        worker = MapWorker(PreparedReader(output.survey, None, (1.0,)), neurons(), geometry_of_bench(), "mappings/main")
        with passes.staged_pass(output, key, Runtime(workers, "ray")) as run:
            run(Survey(output.survey).shards(), worker, "bench")
    finally:
        output.log = log
    first = 2 * workers  # a worker's first shard waits for its start, its second was read meanwhile
    images = sum(n for _, n, _ in arrived[first:])
    return Mapped(images, arrived[-1][0] - arrived[first - 1][0], max(m for *_, m in arrived), peak_memory())


def search_for(seconds: float) -> float:
    """Images a second of the search alone, in this process."""
    from threadpoolctl import threadpool_limits

    from skysom.engine.exact import Search

    with threadpool_limits(1):
        search, images = Search(neurons(), geometry_of_bench()), simulated(1024, 3)
        search(images[:32])
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            search(images[count % 1024 : count % 1024 + 32])
            count += 32
        return count / (time.perf_counter() - started)


def search_alone(processes: int) -> float:
    """Images a second of ``processes`` that search at the same time."""
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        list(pool.map(search_for, [0.1] * processes))  # imports and compiled code
        return sum(pool.map(search_for, [SEARCH_S] * processes))


def train_rate(folder: Path, workers: int, images: int, batch: int) -> float:
    """Images a second of batched training, after its first batch."""
    from functools import partial

    from skysom.cluster.coordinator import Coordinator, Schedule
    from skysom.cluster.ray_executor import start_ray
    from skysom.cluster.training_crew import RayCrew
    from skysom.cluster.training_worker import Step, TrainingWorker
    from skysom.engine import Cartesian, Neighbourhood

    start_ray(workers, None)
    neighbourhood = Neighbourhood("unity_gaussian", 1.5, 0.05)
    step = Step(geometry_of_bench(), neighbourhood.factors(Cartesian(10, 10)), "affine", 0.05)
    source = partial(np.take, np.load(folder / "training.npy", mmap_mode="r"), axis=0)
    crew = RayCrew(partial(TrainingWorker, source), workers)
    try:
        done = [
            (time.perf_counter(), b.seen)
            for b in Coordinator(crew, images).train(neurons(), Schedule(step, batch, 1, (1, 4, 0), 65536))
        ]
    finally:
        crew.close()
    return (done[-1][1] - done[0][1]) / (done[-1][0] - done[0][0])


@contextmanager
def scratch(folder: Path | None) -> Iterator[Path]:
    """A folder for the surveys, removed afterwards."""
    made = Path(tempfile.mkdtemp(dir=folder))
    try:
        yield made
    finally:
        shutil.rmtree(made)


def survey_of(folder: Path, images: int):  # type: ignore[no-untyped-def]
    from skysom.jobs.output import Output

    output = Output(folder / str(images))
    output.private.mkdir(parents=True)
    make_survey(output, images)
    return output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--small", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--folder", type=Path, help="where the surveys are made, 5 GB; default: the temporary folder")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sys.modules["bench_scale"] = sys.modules["__main__"]
    with scratch(options.folder) as folder:
        found = measure(folder, options.images, options.small, options.batch)
    print(report(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def measure(folder: Path, images: int, small: int, batch: int) -> dict[str, float]:
    """All figures, in one run."""
    few, many = survey_of(folder, small), survey_of(folder, images)
    alone = search_alone(2)
    one = map_survey(few, 1, "map:one")
    little, much = map_survey(few, 2), map_survey(many, 2)
    again = search_alone(2)
    count = 16 * batch
    np.save(folder / "training.npy", simulated(count, 5))
    trained = [train_rate(folder, workers, count, batch) for workers in (1, 2)]
    search_ms = 2e3 / (alone + again)
    return {
        "images": images, "small": small, "batch": batch,
        "milliseconds": much.milliseconds, "small_milliseconds": little.milliseconds, "search_milliseconds": search_ms,
        "growth": much.milliseconds / little.milliseconds, "engine_share": 1 - search_ms / much.milliseconds,
        "worker_bytes": much.worker_bytes, "small_worker_bytes": little.worker_bytes,
        "driver_bytes": much.driver_bytes, "small_driver_bytes": little.driver_bytes,
        "map_speed_up": one.milliseconds / little.milliseconds, "train_speed_up": trained[1] / trained[0],
        "train_milliseconds": 1e3 / trained[1],
    }  # fmt: skip


def report(f: dict[str, float]) -> str:
    mib = 2**20
    return "\n".join(
        [
            f"map {f['images']:,.0f} images of 64x64, 100 neurons, 360 rotations and flips, two workers:",
            f"  {f['milliseconds']:.3f} ms an image, {f['growth']:.3f} times that of {f['small']:,.0f} images",
            f"  search alone {f['search_milliseconds']:.3f} ms: engine {100 * f['engine_share']:.1f} % of the total",
            f"  peak memory of a worker {f['worker_bytes'] / mib:,.0f} MiB, with {f['small']:,.0f} images "
            f"{f['small_worker_bytes'] / mib:,.0f} MiB; of the driver {f['driver_bytes'] / mib:,.0f} and "
            f"{f['small_driver_bytes'] / mib:,.0f} MiB",
            f"  two workers map {f['map_speed_up']:.2f} times as fast as one",
            f"  two workers train {f['train_speed_up']:.2f} times as fast as one, batches of {f['batch']:.0f} "
            f"({f['train_milliseconds']:.3f} ms an image)",
        ]
    )


if __name__ == "__main__":
    main()
