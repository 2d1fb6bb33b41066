"""Speed of the search as ratios measured in one run: `make bench`.

The VLASS case of the literature: images of 150x150, a 10x10 map of 213x213, 360 rotations, flips.
Every figure is the least of several interleaved rounds, on processes pinned to one core each with BLAS
at one thread; start-up is excluded. The floor is the time of the useful multiply-adds in one large
float32 matrix product.
"""

import multiprocessing
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from peer_loop import peer_match
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_info, threadpool_limits

from skysom.engine import Cartesian, Geometry, Neighbourhood, Som
from skysom.engine.blocks import BLOCK_IMAGES
from skysom.engine.exact import Search
from skysom.engine.transforms import squared_distances
from skysom.engine.update import OnlineTrainer

REGIONS = ("quadratic", "circular")
GEMM_SIDE = 2048


@dataclass(frozen=True)
class Settings:
    """What is measured; tests use a tiny one."""

    image_side: int = 150
    rotations: int = 360
    map_side: int = 10
    blocks: int = 2
    rounds: int = 20
    loop_rounds: int = 2
    training_images: int = 16
    reference_rotations: int = 40
    stream: tuple[int, int] = (320, 3200)

    def geometry(self, region: str) -> Geometry:
        return Geometry.derive(self.image_side, self.rotations, True, region)

    @property
    def neurons(self) -> int:
        return self.map_side**2

    def flops(self, region: str) -> float:
        """Useful operations an image: 12 multiply-adds where a plain loop over 8 pixels and 8 symmetries has 64."""
        geometry = self.geometry(region)
        return 2 * geometry.transforms * self.neurons * int(geometry.region_mask.sum()) * 12 / 64


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
        peer_match(self.images[0, 0], self.weights[:, 0], self.settings.geometry(region))
        return 1

    def reference(self, region: str) -> float:
        """Seconds an image: with some of the rotations, as the time is proportional to their number."""
        whole, some = self.settings.geometry(region), self.settings.reference_rotations
        start = time.perf_counter()
        squared_distances(self.images[0], self.weights, replace(whole, rotations=some))
        return (time.perf_counter() - start) * whole.rotations / some

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


def serve(connection: Any, core: int, settings: Any, make: Callable[[Any], Any]) -> None:
    """A worker: pinned to ``core``, answers (method, arguments) by what ``make`` makes, until told None."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    with threadpool_limits(1):
        bench = make(settings)
        connection.send("ready")
        while (request := connection.recv()) is not None:
            connection.send(getattr(bench, request[0])(*request[1:]))


class Workers:
    """One process a core, all of which answer the same request at the same time."""

    def __init__(self, cores: list[int], settings: Any, make: Callable[[Any], Any] = Bench) -> None:
        context = multiprocessing.get_context("spawn")
        self.processes, self.pipes = [], []
        for core in cores:
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(there, core, settings, make), daemon=True)
            process.start()
            self.processes.append(process)
            self.pipes.append(here)
        for pipe in self.pipes:
            pipe.recv()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.send(None)
            process.join()

    def ask(self, *request: Any, workers: int | None = None) -> list:
        """Answers of the first ``workers``, default all."""
        pipes = self.pipes[:workers]
        for pipe in pipes:
            pipe.send(request)
        return [pipe.recv() for pipe in pipes]

    def seconds_an_image(self, what: str, region: str, workers: int | None = None) -> float:
        start = time.perf_counter()
        images = sum(self.ask(what, region, workers=workers))
        return (time.perf_counter() - start) / images


def measure(cores: list[int], settings: Settings) -> dict[tuple[str, str, str], float]:
    """Least seconds an image of each (what, region, "one" | "all"), and of ("gemm", "", "one") an operation."""
    times: dict[tuple[str, str, str], list[float]] = {}
    with Workers(cores, settings) as workers:
        for what in ("exact", "training", "loop"):  # compile, fill tables
            for region in REGIONS:
                workers.ask(what, region)
        for region in REGIONS:
            times["reference", region, "one"] = workers.ask("reference", region, workers=1)
        for turn in range(settings.rounds):
            times.setdefault(("gemm", "", "one"), []).append(1 / max(workers.ask("gemm", workers=1)))
            for region in REGIONS:
                plan = [("exact", 1), ("exact", None), ("training", 1), ("training", None)]
                plan += [("loop", 1)] if turn < settings.loop_rounds else []
                for what, count in plan:
                    key = (what, region, "all" if count is None else "one")
                    times.setdefault(key, []).append(workers.seconds_an_image(what, region, count))
    return {key: min(values) for key, values in times.items()}


def table_of(seconds: dict[tuple[str, str, str], float], cores: int, settings: Settings) -> Table:
    names = {
        "exact": f"exact search, blocks of {BLOCK_IMAGES}",
        "training": "online training",
        "loop": "compiled loop, as the peer's",
        "reference": f"reference ({settings.reference_rotations} rotations timed)",
    }
    table = Table(title=title(seconds, settings))
    table.add_column("")
    heads = ("ms/image", "images/s", "floors", "x faster than loop", f"images/s, {cores} cores", "speed-up")
    for column in heads:
        table.add_column(column, justify="right")
    for region in REGIONS:
        floor = settings.flops(region) * seconds["gemm", "", "one"]
        table.add_row(f"[bold]{region}[/bold]: floor", f"{floor * 1e3:.2f}", f"{1 / floor:.0f}", "1.00", "", "", "")
        for what, name in names.items():
            one, every = seconds[what, region, "one"], seconds.get((what, region, "all"))
            table.add_row(
                f"  {name}",
                f"{one * 1e3:.2f}",
                f"{1 / one:.3g}",
                f"{one / floor:.2f}",
                f"{seconds['loop', region, 'one'] / one:.3g}",
                f"{1 / every:.3g}" if every else "",
                f"{one / every:.2f}" if every else "",
            )
    return table


def title(seconds: dict[tuple[str, str, str], float], settings: Settings) -> str:
    blas = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    kernels = ", ".join(f"{pool['internal_api']} {pool['version']} ({pool.get('architecture')})" for pool in blas)
    work = ", ".join(f"{settings.flops(region) / 1e9:.3f} GFLOP {region}" for region in REGIONS)
    return (
        f"{settings.image_side}x{settings.image_side} images, {settings.neurons} neurons, "
        f"{settings.rotations} rotations, flips; useful work an image: {work}\n"
        f"floor: float32 GEMM at {1e-9 / seconds['gemm', '', 'one']:.0f} GFLOP/s a core, {kernels}"
    )


def checks(seconds: dict[tuple[str, str, str], float], cores: int, settings: Settings) -> list[tuple[bool, str]]:
    found = []
    for region in REGIONS:
        one, loop = seconds["exact", region, "one"], seconds["loop", region, "one"]
        floors = one / (settings.flops(region) * seconds["gemm", "", "one"])
        found.append((floors <= 2.5, f"{region}: exact mapping costs {floors:.2f} floors (at most 2.5)"))
        found.append((loop / one >= 25, f"{region}: {loop / one:.0f} times less than the compiled loop (at least 25)"))
        speed_up, least = one / seconds["exact", region, "all"], 0.9 * cores
        text = f"{region}: {cores} cores map {speed_up:.2f} times as fast as one (at least {least:.1f})"
        found.append((speed_up >= least, text))
    return found


def memory_check(core: int, settings: Settings) -> tuple[bool, str]:
    """Fresh processes map few and many images; their largest sizes must agree."""
    peaks = []
    for count in settings.stream:
        with Workers([core], settings) as workers:
            peaks.append(workers.ask("stream", count)[0])
    growth = (peaks[1] - peaks[0]) / 2**20
    few, many = settings.stream
    text = (
        f"peak memory: {peaks[0] / 2**20:.0f} MiB mapping {few} images, {growth:+.1f} MiB mapping {many} (at most 16)"
    )
    return growth <= 16, text


def available_cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(psutil.cpu_count(logical=False) or 1))


def main(settings: Settings | None = None) -> list[tuple[bool, str]]:
    """Measure, print the table and the checks, and return them."""
    settings, cores = settings or Settings(), available_cores()
    console = Console(width=None if Console().is_terminal else 150)
    seconds = measure(cores, settings)
    console.print(table_of(seconds, len(cores), settings))
    found = [*checks(seconds, len(cores), settings), memory_check(cores[0], settings)]
    for good, text in found:
        console.print(f"[green]PASS[/green]  {text}" if good else f"[red]FAIL[/red]  {text}", highlight=False)
    return found


if __name__ == "__main__":
    main()
