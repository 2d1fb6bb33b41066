"""Collation at survey scale: `python tests/benchmarks/bench_collate.py [--rows N] [--quick] [--folder DIR]`.

Two skies are simulated: VLASS-like, 90 components a square degree and masks that reach 1', and EMU-like, 1,300 a square
degree and masks that reach 3'. Each has 3,000,000 components, 10,000,000 infrared rows of which three or more lie
within 1' of every component, 100 neurons with masks drawn by script, and a patch of 48,000 components a square degree
(a square degree of it; of smaller skies as much less). What is bound: seconds and memory of the largest sky, on two
threads, and how time grows from a hundredth of it.

Memory is the peak of resident bytes (VmHWM) of a new process above what it held when its modules were imported; reading
the mapping is part of it. The simulation and a first tiny collation, for compiled loops, are not counted.
"""

import argparse
import json
import math
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))
import collate_skies
from collate_skies import EMU, LABELS, NEURONS, VLASS, SkyKind

if TYPE_CHECKING:
    from skysom.jobs.collation.inputs import CollationInputs

MOST_SECONDS, MOST_GB, MOST_EXPONENT = 180.0, 2.0, 1.1
THREADS = 2
WARM_ROWS = 2000


@dataclass(frozen=True)
class Settings:
    """What is measured; tests use a tiny one. steps : shares of the rows, ascending, the last is all of them."""

    rows: int = 3_000_000
    infrared: int = 10_000_000
    steps: tuple[float, ...] = (0.01, 0.1, 1.0)
    patch_deg2: float = 1.0

    def of(self, share: float) -> "Settings":
        """A smaller sky of the same densities."""
        return Settings(int(self.rows * share), int(self.infrared * share), (1.0,), self.patch_deg2 * share)


@dataclass(frozen=True)
class Measured:
    """What one collation took: seconds of the clock and of the processors, GB of memory above the imported process."""

    rows: int
    seconds: float
    cpu_seconds: float
    imported_gb: float
    extra_gb: float
    disk_gb: float
    summary: dict[str, Any]


def make_sky(kind: SkyKind, settings: Settings, folder: Path) -> None:
    """Simulate a sky in a process of its own, so that its memory is not that of what is measured."""
    sky = collate_skies.simulate(kind, settings.rows, settings.infrared, settings.patch_deg2)
    collate_skies.write(sky, folder)


def inputs_of(kind: SkyKind, folder: Path) -> "CollationInputs":
    """The inputs of a collation of a simulated sky."""
    import pyarrow.parquet as pq

    from skysom.engine.collation.actions import actions_for
    from skysom.engine.collation.orders import best_matching_first
    from skysom.jobs.collation.inputs import CatalogueFile, CollationInputs, Mapped

    with np.load(folder / "mapping.npz") as saved:
        columns = {name: saved[name] for name in ("neuron", "angle_rad", "flip", "distance")}
    rows = len(columns["neuron"])
    paths = [folder / f"{name}.parquet" for name in ("components", "infrared")]
    files = [CatalogueFile(p, "ra_deg", "dec_deg", "source_id", pq.read_metadata(p).num_rows) for p in paths]
    return CollationInputs(
        mapped=Mapped(np.arange(rows), **columns),
        catalogues=tuple(files),
        base_channels=np.array([True, False]),
        labels=LABELS,
        planes=collate_skies.masks(kind),
        actions=actions_for(LABELS, dict(zip(LABELS, ("LINK", "FLAG", "DATA_ATTACH"), strict=True))),
        rank=best_matching_first(columns["distance"]),
        status=np.zeros(rows, np.uint8),
        neuron_labels=(("type",),) * NEURONS,
        pixel_scale_arcsec=(kind.pixel_scale_arcsec, kind.pixel_scale_arcsec),
        limit_arcsec=kind.limit_arcsec,
        flux_columns=("Total_flux",),
    )


def _status_gb(name: str) -> float:
    """A line of this process's status: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024e-9 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def measure(kind: SkyKind, folder: Path, tiny: Path) -> Measured:
    """Collate a sky; runs in a process of its own."""
    from skysom.engine.collation import group_kernels, projection_kernels, shapes_kernels
    from skysom.jobs.collation.collate import CollateSettings, collate

    assert all((group_kernels, projection_kernels, shapes_kernels))
    imported = _status_gb("VmRSS")
    settings = CollateSettings(threads=THREADS)
    collate(inputs_of(VLASS, tiny), folder / "tiny", settings, scheduler="threads")
    began, cpu = time.perf_counter(), time.process_time()
    summary = collate(inputs_of(kind, folder), folder / "out", settings, scheduler="threads")
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    disk = sum(path.stat().st_size for path in (folder / "out").rglob("*") if path.is_file())
    return Measured(summary["rows"], seconds, cpu, imported, _status_gb("VmHWM") - imported, disk / 1e9, summary)


def apart(call: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(call, arguments)


def main(
    settings: Settings, kinds: tuple[SkyKind, ...] = (VLASS, EMU), folder: Path | None = None
) -> list[tuple[bool, str]]:
    """Measure, print, and return whether each aim was reached."""
    console, results = Console(width=150), list[tuple[bool, str]]()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        tiny = Path(scratch) / "tiny"
        apart(make_sky, VLASS, Settings(WARM_ROWS, 3 * WARM_ROWS, patch_deg2=0.0), tiny)
        for kind in kinds:
            found = []
            for share in settings.steps:
                sky = Path(scratch) / f"{kind.name}-{share:g}"
                apart(make_sky, kind, settings.of(share), sky)
                found.append(apart(measure, kind, sky, tiny))
                shutil.rmtree(sky)
            _show(console, kind, found)
            results += _judged(kind, found)
    for good, text in results:
        console.print(f"{'ok  ' if good else 'MISS'} {text}", soft_wrap=True)
    return results


def _show(console: Console, kind: SkyKind, found: list[Measured]) -> None:
    phases = list(found[-1].summary["seconds"])
    table = Table(
        "components", "seconds", "CPU s", "GB", "GB disk", *phases, title=f"{kind.name}: {kind.density:g} deg-2"
    )
    for one in found:
        seconds = [f"{one.summary['seconds'].get(phase, 0):.1f}" for phase in phases]
        values = (f"{one.seconds:.1f}", f"{one.cpu_seconds:.1f}", f"{one.extra_gb:.2f}", f"{one.disk_gb:.2f}")
        table.add_row(f"{one.rows:,}", *values, *seconds)
    console.print(table)
    keys = ("carried_pairs", "islands", "largest_island", "sources", "largest_source", "edges", "boxes")
    console.print(json.dumps({key: found[-1].summary[key] for key in keys}), soft_wrap=True)


def _judged(kind: SkyKind, found: list[Measured]) -> list[tuple[bool, str]]:
    first, last = found[0], found[-1]
    what = f"{kind.name}, {last.rows:,} components"
    exponent = math.log(last.seconds / first.seconds) / math.log(last.rows / first.rows) if len(found) > 1 else 0.0
    return [
        (last.seconds <= MOST_SECONDS, f"{what}: {last.seconds:.0f} s (at most {MOST_SECONDS:g})"),
        (
            last.extra_gb <= MOST_GB,
            f"{what}: {last.extra_gb:.2f} GB above {last.imported_gb:.2f} GB imported (at most {MOST_GB:g})",
        ),
        (exponent <= MOST_EXPONENT, f"{what}: time grows with a power of {exponent:.2f} (at most {MOST_EXPONENT:g})"),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=Settings.rows, help="components of the largest sky")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument("--folder", type=Path, help="where the skies are simulated; 5 GB")
    options = parser.parse_args()
    asked = Settings().of((0.1 if options.quick else 1.0) * options.rows / Settings.rows)
    chosen = Settings(asked.rows, asked.infrared, Settings.steps, asked.patch_deg2)
    sys.exit(not all(good for good, _ in main(chosen, folder=options.folder)))
