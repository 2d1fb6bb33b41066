"""Speed of the feature map as ratios measured in one run: `python tests/benchmarks/bench_features.py`.

The image-quality case of the literature: 3,000,000 sources of five features on a map of 15x15. An epoch is the search
of all rows, their sums, and the new map. Times are CPU seconds of one core with BLAS at one thread, the least of
several interleaved rounds. Two floors: the useful operations, F multiply-adds and one comparison for each row and
neuron, at the rate of multiply-adds in one large float32 matrix product; and the bytes of the table, read once.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from skysom.engine import Cartesian, Neighbourhood
from skysom.engine.feature_tools import sample_rows
from skysom.engine.feature_training import FeatureSums, feature_memory, feature_sums, moved_map, train_features
from skysom.engine.features import PIECE_ROWS, FeatureSom, match_features

MOST_SECONDS = 0.5
CLUMPS = 20


@dataclass(frozen=True)
class Settings:
    """What is measured; tests use a tiny one."""

    rows: int = 3_000_000
    features: int = 5
    map_side: int = 15
    rounds: int = 5
    brute_rows: int = 20_000
    gemm_side: int = 2048

    @property
    def lattice(self) -> Cartesian:
        return Cartesian(self.map_side, self.map_side)

    @property
    def neurons(self) -> int:
        return self.lattice.size

    @property
    def operations(self) -> float:
        """Vector lanes of an epoch: multiply-adds and comparisons."""
        return float(self.rows) * self.neurons * (self.features + 1)


@dataclass
class Bench:
    """A table, a map trained on a part of it, and what is timed."""

    settings: Settings
    rows: np.ndarray = field(init=False)
    som: FeatureSom = field(init=False)
    neighbourhood: Neighbourhood = field(init=False)

    def __post_init__(self) -> None:
        s, rng = self.settings, np.random.default_rng(1)
        clumps = rng.standard_normal((CLUMPS, s.features), np.float32)
        self.rows = rng.standard_normal((s.rows, s.features), np.float32)
        self.rows *= np.float32(0.3)
        self.rows += clumps[rng.integers(CLUMPS, size=s.rows)]
        self.neighbourhood = Neighbourhood("unity_gaussian", 1.0, 1.0)
        start = FeatureSom(sample_rows(self.rows, s.neurons, 0), s.lattice)
        self.som = train_features(self.rows[: 40 * s.neurons], start, [self.neighbourhood] * 10).som
        self.operands = rng.random((2, s.gemm_side, s.gemm_side), np.float32)

    def epoch(self) -> None:
        moved_map(self.som, feature_sums(self.rows, self.som), self.neighbourhood)

    def search(self) -> None:
        match_features(self.rows, self.som)

    def plain(self) -> None:
        """The same epoch in array operations: a matrix product, argmin and sums, piece by piece."""
        weights = self.som.weights
        halves, sums = (weights * weights).sum(axis=1) / 2, np.zeros(weights.shape)
        counts = np.zeros(len(weights))
        for first in range(0, len(self.rows), PIECE_ROWS):
            piece = self.rows[first : first + PIECE_ROWS]
            bmu = (halves - piece @ weights.T).argmin(axis=1)
            counts += np.bincount(bmu, minlength=len(weights))
            for f in range(weights.shape[1]):
                sums[:, f] += np.bincount(bmu, piece[:, f], minlength=len(weights))
        factors = self.neighbourhood.factors(self.som.lattice).astype(float)
        factors @ sums / (factors @ counts)[:, None]

    def gemm(self) -> None:
        np.matmul(*self.operands)

    def read(self) -> None:
        flat = self.rows.reshape(-1)
        np.dot(flat, flat)


def measure(bench: Bench) -> dict[str, float]:
    """Least CPU seconds of each part; those of the floors of a whole epoch."""
    times: dict[str, list[float]] = {}
    with threadpool_limits(1):
        for _ in range(bench.settings.rounds):
            for name in ("epoch", "search", "plain", "gemm", "read"):
                work: Callable[[], None] = getattr(bench, name)
                start = time.process_time()
                work()
                times.setdefault(name, []).append(time.process_time() - start)
    seconds = {name: min(values) for name, values in times.items()}
    seconds["operations"] = seconds.pop("gemm") / bench.settings.gemm_side**3 * bench.settings.operations
    return seconds


def table_of(seconds: dict[str, float], settings: Settings) -> Table:
    names = {
        "operations": "floor: operations",
        "read": "floor: bytes",
        "epoch": "epoch",
        "search": "search alone, its results kept",
        "plain": "epoch, matrix product and argmin",
    }
    memory = feature_memory(settings.lattice, settings.features)
    table = Table(
        title=f"{settings.rows:,} rows of {settings.features} features, {settings.neurons} neurons, one core\n"
        f"arrays of a training beside the table: {memory / 2**20:.1f} MiB"
    )
    table.add_column("")
    for column in ("CPU s", "million rows/s", "floors (operations)", "floors (bytes)"):
        table.add_column(column, justify="right")
    for key, name in names.items():
        own = seconds[key]
        table.add_row(
            name,
            f"{own:.4f}",
            f"{settings.rows / own / 1e6:.1f}",
            f"{own / seconds['operations']:.2f}",
            f"{own / seconds['read']:.1f}",
        )
    return table


def checks(seconds: dict[str, float], bench: Bench) -> list[tuple[bool, str]]:
    s = bench.settings
    scaled = seconds["epoch"] * 3e6 / s.rows
    faster = seconds["plain"] / seconds["epoch"]
    difference, same = brute_difference(bench), chunks_agree(bench)
    return [
        (scaled <= MOST_SECONDS, f"an epoch: {scaled:.3f} CPU s for 3,000,000 rows (at most {MOST_SECONDS})"),
        (faster >= 1.5, f"an epoch: {faster:.2f} times less than by matrix product and argmin (at least 1.5)"),
        (difference <= 1e-6, f"a brute-force epoch in float64: {difference:.1e} away, relative (at most 1e-6)"),
        (same, "three ways to cut the table: the sums are the same bit for bit"),
    ]


def brute_difference(bench: Bench) -> float:
    """Largest difference of an epoch on some rows to a loop in float64, relative to the map's largest weight."""
    rows = bench.rows[: bench.settings.brute_rows]
    weights = bench.som.weights.astype(float)
    factors = bench.neighbourhood.factors(bench.som.lattice).astype(float)
    numerator, denominator = np.zeros(weights.shape), np.zeros(len(weights))
    for row in rows.astype(float):
        own = factors[((row - weights) ** 2).sum(axis=1).argmin()]
        numerator += own[:, None] * row
        denominator += own
    found = moved_map(bench.som, feature_sums(rows, bench.som), bench.neighbourhood).weights
    return float(np.abs(found - numerator / denominator[:, None]).max() / np.abs(weights).max())


def chunks_agree(bench: Bench) -> bool:
    rows, som = bench.rows[: 4 * bench.settings.brute_rows], bench.som
    third = len(rows) // 3
    backwards = [rows[2 * third :][::-1], rows[:third], rows[third : 2 * third]]
    apart: FeatureSums = feature_sums(rows[:third], som) + feature_sums(rows[third:], som)
    ways = [feature_sums(rows, som), feature_sums(backwards, som), apart]
    return len({way.limbs.tobytes() + way.distance_limbs.tobytes() + way.counts.tobytes() for way in ways}) == 1


def main(settings: Settings | None = None) -> list[tuple[bool, str]]:
    """Measure, print the table and the checks, and return them."""
    bench = Bench(settings or Settings())
    console = Console(width=None if Console().is_terminal else 150)
    seconds = measure(bench)
    console.print(table_of(seconds, bench.settings))
    found = checks(seconds, bench)
    for good, text in found:
        console.print(f"[green]PASS[/green]  {text}" if good else f"[red]FAIL[/red]  {text}", highlight=False)
    return found


if __name__ == "__main__":
    main()
