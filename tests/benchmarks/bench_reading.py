"""Analysis of a mapping against reading it: `python tests/benchmarks/bench_reading.py [--folder DIR] [--quick]`.

Two mappings are simulated in the layout of the survey store: 3,000,000 sources on 100 neurons (1.2 GB), whose analysis
(counts, coherence, worst matches, medians, labels to neurons and back to sources) is timed against reading it once,
with its blocks in the cache of the operating system for both; and 3,000,000 on 1,600 neurons (19 GB), whose analysis
is to stay within 1 GB above the imported process. A few shards are made and copied; every copy is read and decoded.
"""

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
MOST_TIMES, MOST_GB = 3.0, 1.0
SHARD = 256
DISTINCT = 64
"""Shards that differ; the others are copies of these."""


@dataclass(frozen=True)
class Settings:
    """What is measured; tests use a tiny one."""

    rows: int = 3_000_000
    side: int = 10
    large_side: int = 40
    rounds: int = 2


def simulate(folder: Path, rows: int, side: int) -> None:
    """An output at ``folder`` with a mapping of ``rows`` random distances onto side x side neurons."""
    from skysom.engine.geometry import Geometry
    from skysom.engine.lattice import Cartesian, lattice_to_dict
    from skysom.jobs.map_worker import mapping_arrays
    from skysom.jobs.output import Output
    from skysom.storage.survey import ArraySpec, Survey

    output, lattice = Output(folder), Cartesian(side, side)
    output.private.mkdir(parents=True)
    survey = Survey.create(output.survey, images=rows, shard_images=SHARD, attrs={"prepared_side": 64})
    survey.add_image_array("source_id", ArraySpec("str", fill=""))
    array = survey.add_image_array("mappings/main/distance", mapping_arrays(lattice.size, None)["distance"])
    geometry = Geometry.derive(64, 360, True, "circular")
    survey.group["mappings/main"].attrs.update({"lattice": lattice_to_dict(lattice), "geometry": asdict(geometry)})
    near, rng = lattice.distances(), np.random.default_rng(0)
    distinct = min(DISTINCT, rows // SHARD)
    for shard in range(distinct):
        noise = rng.random((SHARD, lattice.size), np.float32)
        survey.write_rows(
            "mappings/main/distance", shard * SHARD, 1 + near[rng.integers(0, lattice.size, SHARD)] + noise
        )
    # Which neuron a row has is not asked: that it has one must be there beside its distances.
    for name, values in (("bmu", np.zeros(rows)), ("bmu_distance", np.ones(rows))):
        survey.add_image_array(f"mappings/main/{name}", mapping_arrays(lattice.size, None)[name])
        survey.write_rows(f"mappings/main/{name}", 0, values)
    chunks = Path(output.survey) / array.path / "c"
    for shard in range(distinct, -(-rows // SHARD)):
        (chunks / str(shard)).mkdir()
        shutil.copyfile(chunks / str(shard % distinct) / "0", chunks / str(shard) / "0")
    for stage in ("ingest", "preprocess", "train:main", "map:main"):
        output.claim(stage, {"imported": True})


def read_plainly(folder: Path) -> None:
    """Every row once, through the store alone."""
    from skysom.jobs.mapping_reader import MappingReader
    from skysom.jobs.output import Output

    reader = MappingReader(Output(folder))
    step = reader.block_rows()
    for start in range(0, len(reader), step):
        reader.survey.read("mappings/main/distance", start, min(start + step, len(reader)))


def read_in_blocks(folder: Path) -> None:
    """Every row once, as the analysis has them."""
    from skysom.jobs.mapping_reader import MappingReader
    from skysom.jobs.output import Output

    for _ in MappingReader(Output(folder)).blocks():
        pass


def analyse(folder: Path) -> None:
    """Counts, coherence, worst matches, medians; labels of four in five sources to neurons, and theirs to all."""
    from skysom.engine.reading.labels import majority_labels, transfer
    from skysom.jobs.analysis import read_through
    from skysom.jobs.mapping_reader import MappingReader
    from skysom.jobs.output import Output

    reader = MappingReader(Output(folder))
    codes = np.random.default_rng(1).integers(-1, 4, len(reader)).astype(np.int32)
    found = read_through(reader, labels=(codes, ["a", "b", "c", "d"]), worst=1000)
    given = transfer(found.bmu, majority_labels(found.labels).label)
    assert len(given) == len(reader)
    assert found.agreement.mapped == len(reader)


def least_seconds(calls: dict[str, Callable[[Path], None]], folder: Path, rounds: int) -> dict[str, float]:
    """Least wall time of each call over interleaved rounds, after one that fills the cache and compiles."""
    found = dict.fromkeys(calls, float("inf"))
    for turn in range(rounds + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call(folder)
            if turn:
                found[name] = min(found[name], time.perf_counter() - started)
    return found


def peak_of(folder: Path, answer: "multiprocessing.connection.Connection") -> None:
    """In a process of its own: GB before and at the peak of an analysis, and its seconds."""
    import skysom.engine.reading.unit_kernels
    import skysom.jobs.analysis
    from skysom.jobs.mapping_reader import MappingReader
    from skysom.jobs.output import Output

    assert skysom.engine.reading.unit_kernels
    MappingReader(Output(folder))
    before = psutil.Process().memory_info().rss
    started = time.perf_counter()
    analyse(folder)
    seconds = time.perf_counter() - started
    # Not ru_maxrss: a new process begins with that of its parent.
    status = Path("/proc/self/status").read_text()
    peak = 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    answer.send((before / 1e9, peak / 1e9, seconds))


def measured_apart(folder: Path) -> tuple[float, float, float]:
    """`peak_of` in a new process."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=peak_of, args=(folder, there))
    process.start()
    found = here.recv()
    process.join()
    return found


def main(settings: Settings, folder: Path | None = None) -> list[tuple[bool, str]]:
    """Measure, print, and return whether each aim was reached."""
    console, results = Console(), []
    large = settings.large_side**2
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        small_output, large_output = Path(scratch) / "small", Path(scratch) / "large"
        simulate(small_output, settings.rows, settings.side)
        calls = {"plain reading": read_plainly, "reading in blocks": read_in_blocks, "analysis": analyse}
        seconds = least_seconds(calls, small_output, settings.rounds)
        shutil.rmtree(small_output)
        rows = rows_that_fit(settings.rows, large, Path(scratch))
        simulate(large_output, rows, settings.large_side)
        before, peak, large_seconds = measured_apart(large_output)
    read = min(seconds["plain reading"], seconds["reading in blocks"])
    table = Table("what", "seconds", "GB/s", title=f"{settings.rows:,} x {settings.side**2}")
    size = 4e-9 * settings.rows * settings.side**2
    for name, value in seconds.items():
        table.add_row(name, f"{value:.2f}", f"{size / value:.3f}")
    console.print(table)
    times = seconds["analysis"] / read
    results.append((times <= MOST_TIMES, f"analysis: {times:.2f} times reading once (at most {MOST_TIMES:g})"))
    extra = peak - before
    size = 4e-9 * rows * large
    note = "" if rows == settings.rows else f" (the disk holds no more; {settings.rows:,} were asked for)"
    results.append(
        (
            extra <= MOST_GB,
            f"memory: {rows:,} x {large:,} ({size:.1f} GB){note} in {extra:.2f} GB above {before:.2f} GB imported "
            f"(at most {MOST_GB:g}), {large_seconds:.0f} s, {size / large_seconds:.2f} GB/s",
        )
    )
    for good, text in results:
        console.print(f"{'ok  ' if good else 'MISS'} {text}", soft_wrap=True)
    return results


def rows_that_fit(rows: int, neurons: int, folder: Path) -> int:
    """Rows, or as many as leave 5 GB of the disk free."""
    free = shutil.disk_usage(folder).free - 5e9
    return int(min(rows, max(free, 0) / (4 * neurons)) // SHARD * SHARD) if free < 4 * rows * neurons else rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, help="where the mappings are simulated; 20 GB")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    options = parser.parse_args()
    chosen = Settings(rows=300_000) if options.quick else Settings()
    sys.exit(not all(good for good, _ in main(chosen, options.folder)))
