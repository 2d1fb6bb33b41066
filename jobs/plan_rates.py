"""How fast this machine is: the real code paths on random images, for a few seconds, and the history of an output.

Every measurement holds numerical libraries to one thread, as a worker does, and takes the least of its repeats:
the others were disturbed. Nothing is kept.
"""

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from skysom.cluster.costs import Cost, Workload
from skysom.cluster.executors import one_thread
from skysom.engine.blocks import BLOCK_IMAGES
from skysom.engine.geometry import Geometry
from skysom.jobs.report_words import as_float

MEASURED = "measured here on 1 core"
CALIBRATION_IMAGES = 64
"""Read, preprocessed and written; a search takes one block of 32."""


@dataclass(frozen=True)
class Rate:
    """Cost of an image for one worker, and where it comes from, in words."""

    cost: Cost
    source: str


@dataclass(frozen=True)
class TrainingTimes:
    """Seconds measured on one core, as `cluster.costs.BatchCost` takes them."""

    search_s: float
    update_s: float
    coefficient_s: float
    sums_s: float
    add_s: float
    form_s: float
    prepare_s: float


def random_images(count: int, channels: int, side: int, seed: int = 0) -> np.ndarray:
    """Images (count, channels, side, side) float32: noise, and two bright blobs of random place and width each."""
    rng = np.random.default_rng(seed)
    images = rng.normal(0, 0.01, (count, channels, side, side)).astype(np.float32)
    pixel = np.arange(side, dtype=np.float32)
    for _ in range(2):
        row, column = rng.normal((side - 1) / 2, side / 10, (2, count, 1)).astype(np.float32)
        width = rng.uniform(max(side / 50, 0.7), max(side / 15, 1), (2, count, 1)).astype(np.float32)
        along, across = np.exp(-(((pixel - row) / width[0]) ** 2)), np.exp(-(((pixel - column) / width[1]) ** 2))
        images += (along[:, :, None] * across[:, None, :])[:, None]
    return images


def least_s(call: Callable[[], Any], repeats: int = 3, *, waits: bool = False) -> float:
    """Least seconds of ``call()``, on one thread, after one call that is not counted.

    Seconds of the processor, as on a core of its own however busy this machine is; or, where the call ``waits``
    for a disk, those of the clock.
    """
    clock = time.perf_counter if waits else time.process_time
    one_thread(call)
    times = []
    for _ in range(repeats):
        start = clock()
        one_thread(call)
        times.append(clock() - start)
    return min(times)


def search_s(geometry: Geometry, neurons: int, channels: int, repeats: int = 3) -> float:
    """Seconds of the exact search of one image (in a block of 32) by one core."""
    from skysom.engine.exact import Search

    images = random_images(BLOCK_IMAGES, channels, geometry.image_side)
    search = Search(random_map(geometry, neurons, channels), geometry)
    return least_s(lambda: search(images), repeats) / BLOCK_IMAGES


@lru_cache(maxsize=8)
def online_s(geometry: Geometry, neurons: int, channels: int, repeats: int = 2) -> float:
    """Seconds of online training an image, by one core."""
    from skysom.engine.lattice import Cartesian
    from skysom.engine.neighbourhood import Neighbourhood
    from skysom.engine.som import Som
    from skysom.engine.update import AHEAD_IMAGES, OnlineTrainer

    images = random_images(AHEAD_IMAGES, channels, geometry.image_side)
    som = Som(random_map(geometry, neurons, channels), Cartesian(neurons))
    trainer = OnlineTrainer(som, Neighbourhood("unity_gaussian", 1.5, 0.1), geometry)
    return least_s(lambda: trainer.train(images), repeats) / AHEAD_IMAGES


@lru_cache(maxsize=8)
def training_times(geometry: Geometry, neurons: int, channels: int, repeats: int = 2) -> TrainingTimes:
    """Seconds of the parts of batched training, by one core; sums go through memory, not yet through Ray."""
    from skysom.engine import batch
    from skysom.engine.exact import Search

    weights = random_map(geometry, neurons, channels)
    images = random_images(BLOCK_IMAGES, channels, geometry.image_side)
    search = Search(weights, geometry)
    transform = batch.search_blocks(search, images).transform
    # Every neuron moves: the most that an image can cost.
    move, factors = np.full((len(images), neurons), 0.01), np.full((neurons, neurons), 0.01, np.float32)
    units = np.random.default_rng(2).integers(0, neurons, 1024)
    sums, other = batch.empty_sums(weights.shape), batch.empty_sums(weights.shape) + 1
    scale = batch.fixed_point_scale(2.0, factors)
    return TrainingTimes(
        search_s=least_s(lambda: search(images), repeats) / BLOCK_IMAGES,
        update_s=least_s(lambda: batch.add_batch(sums, images, transform, move, geometry, scale), repeats)
        / len(images),
        coefficient_s=least_s(lambda: batch.coefficients(units, factors), repeats) / len(units),
        # + 0 touches the pages, which zeros alone does not.
        sums_s=least_s(lambda: batch.empty_sums(weights.shape) + 0, repeats),
        add_s=least_s(lambda: np.add(sums, other, out=sums), repeats),
        form_s=least_s(lambda: batch.moved_weights(weights, np.full(neurons, 0.5), sums, scale), repeats),
        prepare_s=least_s(lambda: Search(weights, geometry), repeats),
    )


def preprocess_s(chain: list[tuple[str, dict[str, Any]]], channels: int, side: int, repeats: int = 2) -> float:
    """Seconds of the preprocessing of one cut-out by one core."""
    from skysom.engine.preprocess import preprocess

    images = random_images(CALIBRATION_IMAGES, channels, side)
    redshift = np.full(len(images), 0.1)
    return least_s(lambda: preprocess(images, chain, redshift=redshift, pixel_scale_arcsec=1.0), repeats) / len(images)


def fits_s(channels: int, side: int, repeats: int = 2) -> float:
    """Seconds to read and judge one cut-out from FITS files on this machine's temporary disk."""
    from astropy.io import fits

    from skysom.storage.fits import read_cutout

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.fits" for number in range(CALIBRATION_IMAGES // 2)]
        for path, image in zip(paths, random_images(len(paths), 1, side)[:, 0], strict=True):
            fits.PrimaryHDU(image).writeto(path)
        return channels * least_s(lambda: [read_cutout(path, side) for path in paths], repeats) / len(paths)


def store_s(
    channels: int, side: int, store: str, where: Path | None = None, repeats: int = 3, *, disk: bool = True
) -> tuple[float, float]:
    """Seconds to write and to read one stored image, compressed, (write, read).

    ``where`` is a folder of the disk in question (default: of temporary files). What was written is flushed
    and dropped from the page cache before it is read, so the disk is in both; without ``disk`` it is in neither.
    """
    if store == "none":
        return 0.0, 0.0
    from skysom.storage.survey import ArraySpec, Survey, add_images, read_images, write_images

    images = random_images(4 * CALIBRATION_IMAGES, channels, side)
    with tempfile.TemporaryDirectory(dir=where) as folder:
        survey = Survey.create(Path(folder) / "s.zarr", images=len(images), shard_images=len(images), attrs={})
        add_images(survey, "images", ArraySpec(store, ("channel", "y", "x"), images.shape[1:]))
        write, read, clock = [], [], time.perf_counter if disk else time.process_time
        for _ in range(repeats + 1):
            start = clock()
            one_thread(write_images, survey, "images", 0, images)
            if disk:
                _flush(Path(folder).rglob("*"), drop=False)
            write.append(clock() - start)
            if disk:
                _flush(Path(folder).rglob("*"), drop=True)
            start = clock()
            one_thread(read_images, survey, "images", 0, len(images))
            read.append(clock() - start)
    return min(write[1:]) / len(images), min(read[1:]) / len(images)


def mapping_write_s(
    neurons: int, keep: int | None, where: Path | None = None, repeats: int = 2, *, disk: bool = True
) -> float:
    """Seconds to write the mapping of one image, to the disk or (not ``disk``) as far as the page cache."""
    from skysom.storage.survey import ArraySpec, Survey

    rows, columns = 4 * CALIBRATION_IMAGES, keep or neurons
    rng = np.random.default_rng(3)
    values: dict[str, np.ndarray] = {
        "distance": rng.random((rows, columns), np.float32),
        "rotation": rng.integers(0, 360, (rows, columns)).astype(np.uint16),
        "flip": rng.integers(0, 2, (rows, columns)).astype(bool),
    }
    if keep is not None:
        values["neuron"] = rng.integers(0, neurons, (rows, columns)).astype(np.int32)
    with tempfile.TemporaryDirectory(dir=where) as folder:
        survey = Survey.create(Path(folder) / "s.zarr", images=rows, shard_images=rows, attrs={})
        for name, array in values.items():
            survey.add_image_array(name, ArraySpec(str(array.dtype), ("neuron",), (columns,)))

        def write() -> None:
            for name, array in values.items():
                survey.write_rows(name, 0, array)
            if disk:
                _flush(Path(folder).rglob("*"), drop=False)

        return least_s(write, repeats, waits=disk) / rows


def record_s(where: Path | None = None, records: int = 20) -> float:
    """Seconds of one record of the ledger, which is on the disk when it returns; the median of ``records``."""
    from skysom.cluster.ledger import Ledger

    with tempfile.TemporaryDirectory(dir=where) as folder:
        ledger = Ledger(Path(folder) / "ledger.jsonl")
        times = []
        for number in range(records):
            start = time.perf_counter()
            ledger.record("map", "0" * 16, (256 * number, 256 * number + 256), {"mapped": 256})
            times.append(time.perf_counter() - start)
    return float(np.median(times))


def resident_bytes() -> int:
    """Resident size of this process: an interpreter with the libraries of a worker."""
    import psutil

    import skysom.engine.kernels
    import skysom.storage.survey  # noqa: F401 - what a worker has loaded

    return int(psutil.Process().memory_info().rss)


def _flush(paths: Iterable[Path], *, drop: bool) -> None:
    for path in paths:
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                if drop and hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def random_map(geometry: Geometry, neurons: int, channels: int) -> np.ndarray:
    """Weights (N, C, D, D) float32 that are like `random_images`."""
    # Neurons are means of several images, so no image is one of them.
    return (
        random_images(4 * neurons, channels, geometry.neuron_side, seed=4)
        .reshape(neurons, 4, channels, geometry.neuron_side, geometry.neuron_side)
        .mean(axis=1)
    )


# --- the passes of a survey -------------------------------------------------------------------------


def measured_rates(
    work: Workload,
    chain: list[tuple[str, dict[str, Any]]],
    stages: Iterable[str],
    where: Path | None = None,
    *,
    search: bool = True,
    check_share: float = 0.0,
) -> dict[str, Rate]:
    """Rates of ``stages`` (of ingest, preprocess, map) by one worker of this machine; some seconds.

    where : a folder on the file system that will hold the survey; default that of temporary files.
    search : whether the search is measured (else its time is 0). check_share : of the images, searched exactly as well.
    """
    from skysom.jobs.plan_search import mapping_search

    stages, side = set(stages), work.geometry.image_side
    on_the_fly = work.store == "none"
    found, fits, prepare = {}, 0.0, 0.0
    if "ingest" in stages or on_the_fly:
        fits = fits_s(work.channels, work.cutout_side)
    if "preprocess" in stages or (on_the_fly and "map" in stages):
        prepare = preprocess_s(chain, work.channels, work.cutout_side)
    cut_write, cut_read = store_s(work.channels, work.cutout_side, work.store, where)
    write, read = (cut_write, cut_read) if side == work.cutout_side else store_s(work.channels, side, work.store, where)
    if "ingest" in stages:
        source = f"{MEASURED}, cut-outs read from FITS files of the local disk"
        found["ingest"] = Rate(Cost(fits, 0.0, cut_write), source)
    if "preprocess" in stages:
        found["preprocess"] = Rate(Cost(fits if on_the_fly else cut_read, prepare, write), MEASURED)
    if "map" in stages:
        seconds, source = mapping_search(work, check_share) if search else (0.0, MEASURED)
        reading = fits + prepare if on_the_fly else read
        found["map"] = Rate(Cost(reading, seconds, mapping_write_s(work.neurons, work.keep, where)), source)
    return found


def history_rates(events: Iterable[dict[str, Any]], place: str) -> dict[str, Rate]:
    """Rates of ingest, preprocess and map by one worker, from the latest run of each that a history tells of."""
    runs: dict[str, _StageRun] = {}
    open_runs: dict[str, _StageRun] = {}
    for event in events:
        stage = str(event.get("stage"))
        if event.get("event") == "stage_start":
            open_runs[stage] = _StageRun()
        elif event.get("event") == "shard" and stage in open_runs:
            open_runs[stage].shards.append(event)
            runs[stage] = open_runs[stage]
        elif event.get("event") == "stage_end" and stage in open_runs:
            seconds = as_float(event.get("seconds"))
            open_runs[stage].seconds = seconds if math.isfinite(seconds) else None
    return {stage: Rate(run.cost(), run.source(place)) for stage, run in runs.items() if run.images}


@dataclass
class _StageRun:
    """One run of a stage: its shards, and how long it took where it came to an end."""

    shards: list[dict[str, Any]] = field(default_factory=list)
    seconds: float | None = None

    @property
    def images(self) -> int:
        return sum(shard["stop"] - shard["start"] for shard in self.shards)

    def cost(self) -> Cost:
        """Seconds an image of one worker.

        Steps that ran at the same time on one core share it, so their sum is too long; the whole run counts the
        start of its workers. Both are upper bounds: the smaller one holds.
        """
        names = ("read_s", "compute_s", "write_s")
        if all(name in shard for shard in self.shards for name in names):
            parts = [sum(float(shard[name]) for shard in self.shards) for name in names]
        else:
            parts = [0.0, sum(float(shard["seconds"]) for shard in self.shards), 0.0]
        share = 1.0
        if self.seconds is not None:
            workers = len({(shard.get("host"), shard.get("worker")) for shard in self.shards})
            share = min(1.0, self.seconds * workers / sum(parts))
        return Cost(*(part * share / self.images for part in parts))

    def source(self, place: str) -> str:
        devices = sorted({str(shard["device"]) for shard in self.shards if shard.get("device")})
        return f"from {place}'s history, {self.images:,} images" + (f" on {', '.join(devices)}" if devices else "")


def online_history_s(events: Iterable[dict[str, Any]], som: str) -> float | None:
    """Seconds an image of the last finished training of map ``som``; None where there is none."""
    found = None
    for event in events:
        if event.get("event") == "stage_end" and event.get("key") == f"train:{som}" and event.get("presentations"):
            seconds, images = as_float(event.get("seconds")), as_float(event["presentations"])
            found = seconds / images if images > 0 and math.isfinite(seconds) else None
    return found


def stored_share(survey: Any, sample: int = 8) -> float | None:
    """Bytes on the disk over bytes in memory, from at most ``sample`` files of every array with a row an image.

    survey : a `Survey`. None where nothing is stored yet.
    """
    stored = raw = 0.0
    for name, array in survey.group.members(max_depth=None):
        if getattr(array, "ndim", 0) == 0 or (array.metadata.dimension_names or ("",))[0] != "image":
            continue
        if array.dtype.kind not in "biuf":
            continue
        rows = (array.shards or array.chunks)[0]
        files = -(-len(survey) // rows)
        chosen = np.unique(np.linspace(0, files - 1, min(sample, files)).astype(int))
        inside = sum(min((i + 1) * rows, len(survey)) - i * rows for i in chosen.tolist())
        row = array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))
        tail = (0,) * (array.ndim - 1)
        size = sum(_size(survey.path / name / array.metadata.encode_chunk_key((i, *tail))) for i in chosen.tolist())
        stored, raw = stored + size * len(survey) / max(inside, 1), raw + row * len(survey)
    return stored / raw if stored else None


def _size(where: Any) -> int:
    try:
        return int(where.stat().st_size)
    except FileNotFoundError:  # a chunk of nothing but fill values is not written
        return 0
