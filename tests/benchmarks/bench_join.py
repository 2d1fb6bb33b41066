"""Cross-match of catalogues larger than memory: `python tests/benchmarks/bench_join.py [--folder DIR] [--quick]`.

Two catalogues are simulated as Parquet files: 5,000,000 radio components and 20,000,000 infrared rows on the whole sky,
of which every second component has one within an arcsecond. Both are written as HATS, matched (the nearest within 5"),
matched one to one, and neighbours are counted. The imports and the first match together are to take 10 minutes and 4 GB
above the imported process; the answers about the north pole are compared with astropy's, that of one-to-one with what
the backend in memory makes of the same rows.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
MOST_SECONDS, MOST_GB = 600.0, 4.0
RADIUS_ARCSEC = 5.0
COUNTED_ARCSEC = 5.0, 30.0
POLE_DEG = 88.0
GROUP = 500_000


@dataclass(frozen=True)
class Settings:
    """What is measured; tests use a tiny one."""

    left: int = 5_000_000
    right: int = 20_000_000
    threads: int = 2


def simulate(folder: Path, settings: Settings) -> None:
    """The two catalogues: id, ra, dec, two magnitudes and a name a row, in no order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def table(rows: int, rng: np.random.Generator, first: int, ra: np.ndarray, dec: np.ndarray) -> "pa.Table":
        flux = {name: rng.lognormal(size=rows).astype(np.float32) for name in ("flux", "error")}
        names = pa.array([f"J{number:011d}" for number in range(first, first + rows)])
        return pa.table({"id": np.arange(first, first + rows), "ra": ra, "dec": dec, **flux, "designation": names})

    def places(rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return rng.uniform(0, 360, rows), np.degrees(np.arcsin(rng.uniform(-1, 1, rows)))

    rng, writers = np.random.default_rng(0), {}
    done = {"left": 0, "right": 0}
    while done["right"] < settings.right:
        rows = min(GROUP, settings.right - done["right"])
        ra, dec = places(rows, rng)
        lefts = min(rows, (settings.left * (done["right"] + rows)) // settings.right - done["left"])
        near_ra, near_dec = places(lefts, rng)
        near_ra[::2] = (ra[:lefts:2] + rng.normal(0, 0.2, len(near_ra[::2])) / 3600) % 360
        near_dec[::2] = np.clip(dec[:lefts:2] + rng.normal(0, 0.3, len(near_dec[::2])) / 3600, -90, 90)
        for side, tables in {
            "left": table(lefts, rng, done["left"], near_ra, near_dec),
            "right": table(rows, rng, done["right"], ra, dec),
        }.items():
            if side not in writers:
                writers[side] = pq.ParquetWriter(folder / f"{side}.parquet", tables.schema)
            writers[side].write_table(tables)
            done[side] += len(tables)
    for writer in writers.values():
        writer.close()


def measured(folder: Path, threads: int, answer: "multiprocessing.connection.Connection") -> None:
    """In a process of its own: seconds and the peak in GB after each phase, GB before, and what was found."""
    import dask

    from skysom.jobs.joins.counts import join_counts
    from skysom.jobs.joins.hats import HatsOptions, import_hats
    from skysom.jobs.joins.sky import SkyJoin, join_sky
    from skysom.jobs.joins.with_lsdb import open_backend

    open_backend()
    before, phases = psutil.Process().memory_info().rss, []
    sides = folder / "left_hats", folder / "right_hats"
    nearest, paired = SkyJoin(RADIUS_ARCSEC), SkyJoin(RADIUS_ARCSEC, "one-to-one", right_columns=("designation",))
    steps = {
        "left to HATS": lambda: import_hats(folder / "left.parquet", sides[0], HatsOptions(margin_arcsec=0)),
        "right to HATS": lambda: import_hats(folder / "right.parquet", sides[1], HatsOptions(margin_arcsec=40)),
        "nearest": lambda: join_sky(*sides, nearest, folder / "nearest", backend="lsdb"),
        "one to one": lambda: join_sky(*sides, paired, folder / "pairs.parquet", backend="lsdb"),
        "counts": lambda: join_counts(*sides, COUNTED_ARCSEC, folder / "counts.parquet", backend="lsdb"),
    }
    with dask.config.set(num_workers=threads):
        for name, step in steps.items():
            started = time.perf_counter()
            found = step()
            seconds = time.perf_counter() - started
            # Not ru_maxrss: a new process begins with that of its parent.
            status = Path("/proc/self/status").read_text()
            peak = 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
            phases.append((name, seconds, (peak - before) / 1e9, str(found)))
    answer.send((before / 1e9, phases))


def apart(folder: Path, threads: int) -> tuple[float, list[tuple[str, float, float, str]]]:
    """`measured` in a new process."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=measured, args=(folder, threads, there))
    process.start()
    there.close()
    found = here.recv()
    process.join()
    return found


def compare(folder: Path) -> list[tuple[str, int, bool]]:
    """Of each answer about the north pole: its name, how many pairs, and whether they are those of astropy."""
    import astropy.units as u
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    from astropy.coordinates import SkyCoord, match_coordinates_sky, search_around_sky

    from skysom.jobs.joins.sky import SkyJoin, join_sky
    from skysom.storage.table_stream import open_table

    def polar(path: Path) -> "pq.Table":
        return pq.read_table(path, filters=pc.field("dec") > POLE_DEG).sort_by("id")

    left, right = (polar(folder / f"{side}.parquet") for side in ("left", "right"))
    sky = [SkyCoord(table["ra"].to_numpy(), table["dec"].to_numpy(), unit="deg") for table in (left, right)]
    inner = sky[0].dec.deg > POLE_DEG + 0.1  # the others may have matches beyond the cap
    place, separation, _ = match_coordinates_sky(sky[0][inner], sky[1])
    close = separation <= RADIUS_ARCSEC * u.arcsec
    expected = dict(zip(left["id"].to_numpy()[inner][close], right["id"].to_numpy()[place[close]], strict=True))

    def told(path: Path, columns: tuple[str, ...], matched: str | None = None) -> "list[tuple[Any, ...]]":
        """The rows about the pole, those with a match only if its column is named."""
        rows = []
        for _, part in open_table(path).parts([*columns, "dec"]):
            part = part.filter(pc.field("dec") > POLE_DEG + 0.1)
            part = part if matched is None else part.filter(pc.field(matched).is_valid())
            rows += list(zip(*(part[name].to_pylist() for name in columns), strict=True))
        return sorted(rows)

    found = told(folder / "nearest", ("id", "id_right"), "id_right")
    answers = [("nearest", len(expected), found == sorted(expected.items()))]
    caps = [folder / f"{side}_cap.parquet" for side in ("left", "right")]
    for cap, table in zip(caps, (left, right), strict=True):
        pq.write_table(table, cap)
    paired = SkyJoin(RADIUS_ARCSEC, "one-to-one", right_columns=("designation",))
    join_sky(*caps, paired, folder / "cap_pairs.parquet", backend="astropy")
    columns = "id", "designation_right", "separation_arcsec", "rank"
    pairs, same = (told(folder / name, columns, "rank") for name in ("pairs.parquet", "cap_pairs.parquet"))
    answers.append(("one to one", len(same), pairs == same))
    counts = [left["id"].to_numpy()[inner]]
    for radius in COUNTED_ARCSEC:
        i, _, _, _ = search_around_sky(sky[0][inner], sky[1], radius * u.arcsec)
        counts.append(np.bincount(i, minlength=inner.sum()))
    found = told(folder / "counts.parquet", ("id", *(f"count_{radius:g}arcsec" for radius in COUNTED_ARCSEC)))
    answers.append(
        ("counts", int(counts[-1].sum()), found == sorted(zip(*(one.tolist() for one in counts), strict=True)))
    )
    return answers


def main(settings: Settings, folder: Path | None = None) -> list[tuple[bool, str]]:
    """Measure, print, and return whether each aim was reached."""
    console, results = Console(), []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        simulate(Path(scratch), settings)
        before, phases = apart(Path(scratch), settings.threads)
        answers = compare(Path(scratch))
    table = Table("phase", "seconds", "peak GB so far", title=f"{settings.left:,} x {settings.right:,}")
    for name, seconds, peak, found in phases:
        table.add_row(name, f"{seconds:.1f}", f"{peak:.2f}")
        console.print(f"{name}: {found}", soft_wrap=True)
    console.print(table)
    seconds = sum(phase[1] for phase in phases[:3])
    peak = max(phase[2] for phase in phases)
    results.append((seconds <= MOST_SECONDS, f"time: imports and match {seconds:.0f} s (at most {MOST_SECONDS:g})"))
    memory = f"memory: {peak:.2f} GB above {before:.2f} GB imported, all phases (at most {MOST_GB:g})"
    results.append((peak <= MOST_GB, f"{memory}; {before + peak:.2f} GB in total"))
    for name, pairs, same in answers:
        told = f"answer of {name}: {pairs:,} pairs about the pole, {'as' if same else 'NOT'} astropy's"
        results.append((same and pairs > 0, told))
    for good, text in results:
        console.print(f"{'ok  ' if good else 'MISS'} {text}", soft_wrap=True)
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, help="where the catalogues are simulated; 10 GB")
    parser.add_argument("--quick", action="store_true", help="a twenty-fifth of the rows")
    options = parser.parse_args()
    chosen = Settings(200_000, 800_000) if options.quick else Settings()
    sys.exit(not all(good for good, _ in main(chosen, options.folder)))
