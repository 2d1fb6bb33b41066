"""Every method on every case, as ratios measured in one run: `make bench`.

    python tests/benchmarks/bench_methods.py [--cases vlass ...] [--maps FOLDER] [--save-baseline]

Cases: the VLASS sidelobe study (150x150, 10x10) with a map trained on FIRST cut-outs, small cut-outs (64x64), the
Radio Galaxy Zoo benchmark (124x124, 331 hexagonal neurons of 64x64), 1,600 neurons trained on FIRST cut-outs, and
1,600 distinct neurons of two channels. Where the real cut-outs are not at hand simulated ones are taken, which is
said. Figures are the least of interleaved rounds on processes pinned to one core with BLAS at one thread. Times are
divided by the floor of the exact search, its multiply-adds in one large float32 product; the ratios are compared with
a stored baseline of the same kind of machine.
"""

import argparse
import json
import platform
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from bench_search import GEMM_SIDE, Workers, available_cores, sources
from rich.console import Console
from rich.table import Table
from surveys import cutouts, distinct_map, prepared, trained_map
from threadpoolctl import threadpool_info, threadpool_limits

from skysom.engine import Cartesian, Geometry, Hexagonal, Neighbourhood, Som
from skysom.engine.batch import add_batch, coefficients, empty_sums, fixed_point_scale, moved_weights, search_blocks
from skysom.engine.blocks import BLOCK_IMAGES
from skysom.engine.calibration import calibrate
from skysom.engine.certified import CertifiedSearch
from skysom.engine.exact import Search
from skysom.engine.polar import PolarSearch
from skysom.engine.update import OnlineTrainer

BASELINES = Path(__file__).with_name("baselines")
METHODS = ("exact", "polar", "certified")
REGRESSION = 1.15
"""A ratio that has grown by more than this is printed as a regression."""


@dataclass(frozen=True)
class Case:
    """One row of the benchmark. ``least`` is how many times faster than exact the certified search shall be."""

    name: str
    image_side: int
    neurons: int
    channels: int = 1
    neuron_side: int | None = None
    regions: tuple[str, ...] = ("quadratic",)
    form: str = "simulated"
    least: float | None = None
    rounds: int = 8
    training: bool = False
    rotations: int = 360

    def geometry(self, region: str) -> Geometry:
        side = self.neuron_side
        fits = Geometry.derive(self.image_side, self.rotations, True, region).region_side
        smaller = side if side is not None and side < fits else None
        return Geometry.derive(self.image_side, self.rotations, True, region, side, smaller)

    def lattice(self):  # type: ignore[no-untyped-def]
        side = int(self.neurons**0.5)
        return Cartesian(side, side) if side**2 == self.neurons else Hexagonal(21)

    def flops(self, region: str) -> float:
        """Useful operations of the exact search of an image, see `bench_search.Settings.flops`."""
        geometry = self.geometry(region)
        pixels = self.channels * int(geometry.region_mask.sum())
        return 2 * geometry.transforms * self.neurons * pixels * 12 / 64


BOTH = ("quadratic", "circular")
CASES = (
    Case("vlass", 150, 100, regions=BOTH, form="trained", least=5, rounds=16, training=True),
    Case("small", 64, 100),
    Case("rgz", 124, 331, neuron_side=64, rounds=4),
    Case("large trained", 150, 1600, form="trained", least=8, rounds=2),
    Case("large 2 channels", 150, 1600, channels=2, form="distinct", least=15, rounds=2),
)


@dataclass
class MethodBench:
    """What a worker holds: images, a map and the searches against it."""

    settings: tuple[Case, str, str, float]
    searches: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.case, self.region, folder, self.margin = self.settings
        self.images = np.load(Path(folder) / "images.npy")
        self.weights = np.load(Path(folder) / "weights.npy")
        self.geometry = self.case.geometry(self.region)

    def search(self, method: str) -> Any:
        if method not in self.searches:
            kinds = {"exact": Search, "polar": PolarSearch}
            self.searches[method] = (
                CertifiedSearch(self.weights, self.geometry, self.margin)
                if method == "certified"
                else kinds[method](self.weights, self.geometry)
            )
        return self.searches[method]

    def seconds(self, method: str) -> float:
        """Seconds an image, tables made before."""
        search, block = self.search(method), self.images[:BLOCK_IMAGES]
        start = time.perf_counter()
        search(block)
        return (time.perf_counter() - start) / len(block)

    def online(self, count: int) -> float:
        som = Som(self.weights, self.case.lattice())
        trainer = OnlineTrainer(som, Neighbourhood("unity_gaussian", 1.5, 0.1), self.geometry)
        start = time.perf_counter()
        trainer.train(self.images[:count])
        return (time.perf_counter() - start) / count

    def batched(self, count: int) -> tuple[float, float]:
        """Seconds an image of a batch: its exact search, and all of the training."""
        rows = np.arange(count) % len(self.images)
        batch, factors = self.images[rows], Neighbourhood("unity_gaussian", 1.5, 0.1).factors(self.case.lattice())
        start = time.perf_counter()
        match = search_blocks(Search(self.weights, self.geometry), batch)
        searched = time.perf_counter() - start
        found = coefficients(match.bmu, factors, "affine")
        sums = empty_sums(self.weights.shape)
        scale = fixed_point_scale(float(np.abs(batch).max()), factors)
        add_batch(sums, batch, match.transform, found.move, self.geometry, scale)
        moved_weights(self.weights, found.keep, sums, scale)
        return searched / count, (time.perf_counter() - start) / count

    def gemm(self) -> float:
        """Operations a second of a large float32 product."""
        operands = np.random.default_rng(0).random((2, GEMM_SIDE, GEMM_SIDE), np.float32)
        start = time.perf_counter()
        np.matmul(*operands)
        return 2 * GEMM_SIDE**3 / (time.perf_counter() - start)


def material(case: Case, images: int, maps: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """Images, weights and where they come from; trained maps are kept in ``maps``."""
    side = case.geometry("quadratic").neuron_side
    if case.form != "simulated":
        try:
            found, origin = prepared(cutouts("mirabest" if case.channels == 1 else "first+nvss")), "real"
        except (FileNotFoundError, ModuleNotFoundError):
            found, origin = prepared(simulated_channels(600, case)), "simulated"
        place = maps / f"{case.name}-{origin}-{len(found)}.npy"
        if not place.exists():
            grid = int(case.neurons**0.5)
            weights = trained_map(found, grid) if case.form == "trained" else distinct_map(found, case.neurons)
            np.save(place, weights)
        order = np.random.default_rng(2).permutation(len(found))[:images]
        return found[order], np.load(place), origin
    rng = np.random.default_rng(1)
    prototypes = sources(4 * case.neurons, side, rng).reshape(case.neurons, 4, side, side)
    return sources(images, case.image_side, rng), prototypes.mean(axis=1, keepdims=True), "simulated"


def simulated_channels(count: int, case: Case) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.concatenate([sources(count, case.image_side, rng) for _ in range(case.channels)], axis=1)


def measure(case: Case, region: str, cores: Sequence[int], maps: Path, calibrated: int) -> dict[str, float]:
    """Least figures of a case: "gemm" (s an operation), each method on one and on all cores, training (s an image)."""
    images, weights, origin = material(case, max(calibrated, 128), maps)
    with threadpool_limits(1):
        found = calibrate(Som(weights, case.lattice()), images[:calibrated], case.rotations, True, region,
                          case.geometry(region).region_side)  # fmt: skip
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "images.npy", images[-128:])
        np.save(Path(folder) / "weights.npy", weights)
        with Workers(list(cores), (case, region, folder, found.margin), MethodBench) as workers:
            for method in METHODS:
                workers.ask("seconds", method)
            for _ in range(case.rounds):
                times.setdefault("gemm", []).append(1 / max(workers.ask("gemm", workers=1)))
                for method in METHODS:
                    times.setdefault(method, []).append(workers.ask("seconds", method, workers=1)[0])
                    times.setdefault(f"{method} all", []).append(max(workers.ask("seconds", method)) / len(cores))
                if case.training:
                    times.setdefault("online", []).append(workers.ask("online", 16, workers=1)[0])
            if case.training:
                for _ in range(2):
                    searched, trained = workers.ask("batched", 1000, workers=1)[0]
                    times.setdefault("batch search", []).append(searched)
                    times.setdefault("batched", []).append(trained)
    least = {key: min(values) for key, values in times.items()}
    return {**least, "floor": case.flops(region) * least["gemm"], "margin": found.margin, "real": origin == "real"}


def machine_kind() -> str:
    """A name for machines that can be compared: processor, BLAS and its kernels."""
    cpu, listed = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if listed.exists():
        lines = listed.read_text().splitlines()
        cpu = next((line.split(":")[1] for line in lines if line.startswith("model name")), cpu)
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    blas = {f"{pool['internal_api']}-{pool.get('architecture')}" for pool in pools}
    return re.sub(r"[^a-z0-9]+", "-", f"{cpu} {' '.join(sorted(blas))}".lower()).strip("-")


def own_kernels() -> bool:
    """Whether BLAS runs wider kernels than AVX2."""
    wide = ("skylakex", "cooperlake", "sapphirerapids", "zen4")
    return any(str(pool.get("architecture", "")).lower() in wide for pool in threadpool_info())


def checks(case: Case, region: str, times: dict[str, float]) -> list[tuple[bool, str]]:
    name, found = f"{case.name}, {region}", []
    if case.least is not None:
        gain = times["exact"] / times["certified"]
        found.append(
            (gain >= case.least, f"{name}: certified {gain:.1f} times as fast as exact (at least {case.least:g})")
        )
    if case.training:
        bound, ratio = (2.1 if own_kernels() else 1.7), times["exact"] / times["floor"]
        found.append((ratio <= bound, f"{name}: exact costs {ratio:.2f} floors (at most {bound})"))
        ratio = times["online"] / times["exact"]
        found.append((ratio <= 6, f"{name}: online training costs {ratio:.2f} exact searches (at most 6)"))
        ratio = times["batched"] / times["batch search"]
        found.append((ratio <= 2, f"{name}: training in batches of 1,000 costs {ratio:.2f} exact searches (at most 2)"))
    return found


def table_row(case: Case, region: str, times: dict[str, float]) -> list[list[str]]:
    rows = []
    for method in METHODS:
        one, every = times[method], times[f"{method} all"]
        label = f"{case.name}, {region}{'' if times['real'] or case.form == 'simulated' else ' (simulated)'}"
        rows.append([
            label if method == "exact" else "", method, f"{one * 1e3:.2f}", f"{one / times['floor']:.3f}",
            f"{times['exact'] / one:.1f}", f"{every * 1e3:.2f}", f"{one / every:.2f}",
            f"{times['margin']:.2%}" if method == "certified" else "",
        ])  # fmt: skip
    return rows


def compare(name: str, ratios: dict[str, float], stored: dict[str, dict[str, float]]) -> list[str]:
    """Ratios that have grown since the baseline of this kind of machine."""
    before = stored.get(name, {})
    return [
        f"{name}: {key} costs {now:.3f} floors, {now / before[key]:.2f} times its baseline"
        for key, now in ratios.items()
        if key in before and now > REGRESSION * before[key]
    ]


def main(arguments: Sequence[str] | None = None, cases: Sequence[Case] = CASES, calibrated: int = 256):  # type: ignore[no-untyped-def]
    """Measure, print the table, the checks and what became slower; returns the checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=[case.name for case in cases], help="default: all")
    parser.add_argument("--maps", type=Path, help="keep trained maps in this folder (making them takes minutes)")
    parser.add_argument("--save-baseline", action="store_true", help="store the ratios as this machine's baseline")
    options = parser.parse_args(arguments)
    console, cores = Console(width=None if Console().is_terminal else 150), available_cores()
    place = BASELINES / f"{machine_kind()}.json"
    stored = json.loads(place.read_text()) if place.exists() else {}
    table = Table(title=f"{machine_kind()}, {len(cores)} cores")
    heads = ("case", "method", "ms/image", "floors", "x exact", f"ms, {len(cores)} cores", "speed-up", "margin")
    for head in heads:
        table.add_column(head, justify="left" if head in ("case", "method") else "right")
    found, slower, saved = [], [], dict(stored)
    with tempfile.TemporaryDirectory() as temporary:
        maps = options.maps or Path(temporary)
        maps.mkdir(parents=True, exist_ok=True)
        for case in cases:
            if options.cases and case.name not in options.cases:
                continue
            for region in case.regions:
                times = measure(case, region, cores, maps, calibrated)
                for row in table_row(case, region, times):
                    table.add_row(*row)
                found += checks(case, region, times)
                keys = [key for key in (*METHODS, "online", "batched") if key in times]
                ratios = {key: round(times[key] / times["floor"], 4) for key in keys}
                slower += compare(f"{case.name}, {region}", ratios, stored)
                saved[f"{case.name}, {region}"] = ratios
    console.print(table)
    for good, text in found:
        console.print(f"[green]PASS[/green]  {text}" if good else f"[red]FAIL[/red]  {text}", highlight=False)
    for text in slower:
        console.print(f"[yellow]SLOWER[/yellow]  {text}", highlight=False)
    if not stored:
        console.print(f"no baseline for {machine_kind()}; --save-baseline stores one", highlight=False)
    if options.save_baseline:
        BASELINES.mkdir(exist_ok=True)
        place.write_text(json.dumps(saved, indent=1, sort_keys=True) + "\n")
    return found


if __name__ == "__main__":
    main()
