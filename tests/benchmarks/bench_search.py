"""Speed of the search as ratios measured in one run: `make bench`.

The VLASS case of the literature: images of 150x150, a 10x10 map of 213x213, 360 rotations, flips.
Every figure is the least of several interleaved rounds, on processes pinned to one core each with BLAS
at one thread; start-up is excluded. The floor is the time of the useful multiply-adds in one large
float32 matrix product.
"""

import multiprocessing
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_info, threadpool_limits

from skysom.engine import Cartesian, Geometry, Neighbourhood, Som
from skysom.engine.memory import orbit_count
from skysom.engine.search import BLOCK_IMAGES, Search
from skysom.engine.transforms import squared_distances, transform_stack
from skysom.engine.update import OnlineTrainer

REGIONS = ("quadratic", "circular")
GEMM_SIDE = 2048


@dataclass(frozen=True)
class Settings:
    """What is measured; tests use a tiny one."""

    image_side: int = 150
    rotations: int = 360
    map_side: int = 10
    blocks: int = 4
    rounds: int = 7
    loop_rounds: int = 2
    training_images: int = 32
    reference_neurons: int = 5
    stream: tuple[int, int] = (320, 3200)

    def geometry(self, region: str) -> Geometry:
        return Geometry.derive(self.image_side, self.rotations, True, region)

    @property
    def neurons(self) -> int:
        return self.map_side**2

    def flops(self, region: str) -> float:
        """Useful operations an image: 12 multiply-adds an orbit, base rotation and neuron."""
        geometry = self.geometry(region)
        return 2 * 12 * orbit_count(geometry) * geometry.base_rotations * self.neurons


@dataclass
class Bench:
    """What a worker holds: images, one map and its search for each region."""

    settings: Settings
    images: np.ndarray = field(init=False)
    weights: np.ndarray = field(init=False)
    searches: dict[str, Search] = field(init=False)

    def __post_init__(self) -> None:
        s, rng = self.settings, np.random.default_rng(1)
        self.images = sources(BLOCK_IMAGES * s.blocks, s.image_side, rng)
        side = s.geometry("quadratic").neuron_side
        # Neurons of a trained map are means of several images, larger than these.
        prototypes = sources(4 * s.neurons, side, rng).reshape(s.neurons, 4, side, side)
        self.weights = prototypes.mean(axis=1, keepdims=True)
        self.searches = {region: Search(self.weights, s.geometry(region)) for region in REGIONS}

    def exact(self, region: str) -> int:
        for first in range(0, len(self.images), BLOCK_IMAGES):
            self.searches[region](self.images[first : first + BLOCK_IMAGES])
        return len(self.images)

    def trainer(self, region: str) -> OnlineTrainer:
        som = Som(self.weights, Cartesian(self.settings.map_side, self.settings.map_side))
        return OnlineTrainer(som, Neighbourhood("unity_gaussian", 1.5, 0.1), self.settings.geometry(region))

    def training(self, region: str) -> int:
        if not hasattr(self, "trainers"):
            self.trainers = {name: self.trainer(name) for name in REGIONS}
        self.trainers[region].train(self.images[: self.settings.training_images])
        return self.settings.training_images

    def loop(self, region: str) -> int:
        from peer_loop import peer_match

        peer_match(self.images[0, 0], self.weights[:, 0], self.settings.geometry(region))
        return 1

    def reference(self, region: str) -> float:
        """Seconds an image: some neurons timed, the rest in proportion."""
        geometry, some = self.settings.geometry(region), self.settings.reference_neurons
        start = time.perf_counter()
        transform_stack(self.images[0], geometry)
        stacked = time.perf_counter()
        squared_distances(self.images[0], self.weights[:some], geometry)
        sums = (time.perf_counter() - stacked) - (stacked - start)
        return (stacked - start) + sums * self.settings.neurons / some

    def gemm(self) -> float:
        """Operations a second of a large float32 product."""
        if not hasattr(self, "operands"):
            self.operands = np.random.default_rng(0).random((2, GEMM_SIDE, GEMM_SIDE), np.float32)
        start = time.perf_counter()
        np.matmul(*self.operands)
        return 2 * GEMM_SIDE**3 / (time.perf_counter() - start)

    def stream(self, count: int) -> int:
        """Bytes of the largest resident size while ``count`` images are mapped, block by block."""
        for first in range(0, count, BLOCK_IMAGES):
            rows = (np.arange(first, min(first + BLOCK_IMAGES, count)) * 7) % len(self.images)
            self.searches["quadratic"](self.images[rows])
        return peak_rss()

    def timed(self, what: str, region: str) -> float:
        """Seconds an image."""
        start = time.perf_counter()
        count = getattr(self, what)(region)
        return (time.perf_counter() - start) / count


def sources(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """Images (count, 1, side, side) float32 in [0, 1]: one to three blobs around the centre, and noise."""
    y = np.arange(side) - (side - 1) / 2
    images = 0.03 * rng.random((count, side, side), np.float32)
    for image in images:
        for _ in range(rng.integers(1, 4)):
            row, column = rng.normal(0, side / 12, 2)
            width, length = rng.uniform(side / 50, side / 15, 2)
            angle = rng.uniform(0, np.pi)
            u = (y[:, None] - row) * np.cos(angle) + (y - column) * np.sin(angle)
            v = (y - column) * np.cos(angle) - (y[:, None] - row) * np.sin(angle)
            image += rng.uniform(0.2, 1) * np.exp(-0.5 * ((u / width) ** 2 + (v / length) ** 2)).astype(np.float32)
        image /= image.max()
    return images[:, None]


def peak_rss() -> int:
    """Largest resident size of this process in bytes."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return psutil.Process().memory_info().rss


def serve(connection: Any, core: int, settings: Settings) -> None:
    """A worker: pinned to ``core``, answers (method, arguments) until told None."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    with threadpool_limits(1):
        bench = Bench(settings)
        connection.send("ready")
        while (request := connection.recv()) is not None:
            connection.send(getattr(bench, request[0])(*request[1:]))


class Workers:
    """One process a core; `one` asks the first, `all` every one at the same time."""

    def __init__(self, cores: list[int], settings: Settings) -> None:
        context = multiprocessing.get_context("spawn")
        self.processes, self.pipes = [], []
        for core in cores:
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(there, core, settings), daemon=True)
            process.start()
            self.processes.append(process)
            self.pipes.append(here)
        for pipe in self.pipes:
            pipe.recv()

    def one(self, *request: Any) -> Any:
        self.pipes[0].send(request)
        return self.pipes[0].recv()

    def all(self, *request: Any) -> float:
        """Seconds an image when every worker does ``request``."""
        start = time.perf_counter()
        for pipe in self.pipes:
            pipe.send(request)
        each = [pipe.recv() for pipe in self.pipes]
        # Every worker handles as many images as it would alone.
        images = sum(round(seconds_of(request, self)) for _ in each)
        return (time.perf_counter() - start) / images

    def close(self) -> None:
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.send(None)
            process.join()
