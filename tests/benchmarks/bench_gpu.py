"""Speed of the search on a GPU as ratios to what that GPU can do: `make bench-gpu`.

Distances are first checked against sums in float64. Then, in one run: the ceilings (a large float32 matrix product, a
large copy in the GPU's memory, a copy from pinned host memory), and for each case images a second with images streamed
from host memory, with images that lie on the GPU, and the share of the ceilings. Every figure is the least of several
rounds; making tables and compiling are excluded.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_search import sources

from skysom.engine import Geometry, cuda, dihedral
from skysom.engine.cuda.plan import Plan
from skysom.engine.direct import direct_distances
from skysom.engine.exact import double_transforms

RELATIVE = 5e-6
"""Most that a distance may be off."""


@dataclass(frozen=True)
class Case:
    """One search: its geometry and map, how many blocks are timed, and what others have published for how many images.

    published : {what it ran on: seconds} for ``whole`` images.
    """

    name: str
    geometry: Geometry
    neurons: int
    channels: int = 1
    blocks: int = 32
    whole: int = 0
    published: tuple[tuple[str, float], ...] = ()

    @property
    def plan(self) -> Plan:
        return Plan.of(self.geometry, self.neurons, self.channels)

    @property
    def flops(self) -> float:
        """Operations of the five matrix products, an image: 12 multiply-adds an orbit, neuron and base rotation."""
        return 24.0 * self.neurons * self.plan.rows * self.geometry.base_rotations

    @property
    def traffic(self) -> float:
        """Bytes of the GPU's memory written and read, an image: four times the image, twice spectra and products."""
        panel = 64 * (self.plan.rows + self.neurons) + 16 * self.plan.chunks + 128 * self.plan.edge_chunks
        return 16.0 * self.channels * self.geometry.image_side**2 + panel * self.geometry.base_rotations

    def arrays(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Images (count, C, H, H), and a map of means of several sources (N, C, D, D)."""
        rng, side, frame = np.random.default_rng(1), self.geometry.image_side, self.geometry.neuron_side
        images = sources(count * self.channels, side, rng).reshape(count, self.channels, side, side)
        prototypes = sources(min(4 * self.neurons, 400), frame, rng)
        chosen = rng.integers(len(prototypes), size=(4, self.neurons))
        weights = sum(prototypes[four] for four in chosen) / np.float32(4)
        return images, np.repeat(weights, self.channels, axis=1)


CASES = (
    Case("VLASS, quadratic: 150x150, 100 neurons", Geometry.derive(150), 100),
    Case("VLASS, circular: 150x150, 100 neurons", Geometry.derive(150, region="circular"), 100),
    Case(
        "RGZ: 124x124, 331 neurons of 64x64, region 64",
        Geometry.derive(124, neuron_side=64, region_side=64), 331, blocks=32, whole=176_750,
        published=(("RTX 2080, 8-bit", 673), ("RTX 2080, float32", 1867), ("two RTX 2080 Super, 8-bit", 477)),
    ),
    Case("large map: 150x150, 2 channels, 1,600 neurons", Geometry.derive(150), 1600, channels=2, blocks=4),
)  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """Of the ceilings; tests use tiny ones."""

    gemm_side: int = 8192
    copied_bytes: int = 1 << 30
    pinned_bytes: int = 1 << 28
    rounds: int = 5
    checked_images: int = 4


@dataclass(frozen=True)
class Ceilings:
    """What the GPU reaches a second: operations (float32 product), bytes written and read, bytes from the host."""

    flops: float
    traffic: float
    upload: float


def least_seconds(device: Any, work: Callable[[], Any], rounds: int) -> float:
    """Of ``work``, which starts kernels, until the GPU has done it; once before to warm up."""
    found = []
    for _ in range(rounds + 1):
        device.synchronize()
        start = time.perf_counter()
        work()
        device.synchronize()
        found.append(time.perf_counter() - start)
    return min(found[1:])


def ceilings(device: Any, sizes: Sizes) -> Ceilings:
    xp, rng = device.xp, np.random.default_rng(0)
    with device.scope():
        a, b = (xp.asarray(rng.random((1, sizes.gemm_side, sizes.gemm_side), np.float32)) for _ in range(2))
        gemm = least_seconds(device, partial(xp.matmul, a, b), sizes.rounds)
        del a, b
        source = xp.zeros((sizes.copied_bytes // 4,), dtype=xp.float32)
        copied = least_seconds(device, partial(xp.copyto, xp.empty_like(source), source), sizes.rounds)
        del source
        pinned = device.pinned((sizes.pinned_bytes // 4,), np.float32)
        pinned[:] = 0
        array, stream = xp.empty(pinned.shape, dtype=xp.float32), device.stream()
        uploaded = least_seconds(device, lambda: device.upload(pinned, array, stream), sizes.rounds)
    return Ceilings(2.0 * sizes.gemm_side**3 / gemm, 2.0 * sizes.copied_bytes / copied, sizes.pinned_bytes / uploaded)


@dataclass(frozen=True)
class Checked:
    """Against float64: the largest relative error of a distance, shares of equal BMUs and transforms."""

    error: float
    bmu: float
    transform: float
    place: bool

    @property
    def good(self) -> bool:
        return self.error <= RELATIVE and self.bmu == 1


def check(case: Case, search: cuda.StreamedSearch, images: np.ndarray, weights: np.ndarray) -> Checked:
    """Distances and transforms of ``images`` against products and sums in float64, and in another place of a block."""
    table, everything = dihedral.orbits(case.geometry), np.arange(case.neurons)
    best = np.stack([double_transforms(image, weights, everything, table) for image in images])
    rows, neurons = np.indices(best.shape).reshape(2, -1)
    wanted = np.sqrt(direct_distances(images, weights, case.geometry, rows, neurons, best.reshape(-1)))
    wanted, found = wanted.reshape(best.shape), search(images)
    moved = search(images[::-1])
    return Checked(
        float(np.max(np.abs(found.distance - wanted) / wanted)),
        float(np.mean(found.bmu == wanted.argmin(axis=1))),
        float(np.mean(found.transform == best)),
        bool(np.array_equal(moved.distance[::-1], found.distance)),
    )


@dataclass(frozen=True)
class Timed:
    """Seconds an image: streamed from host memory, lying on the GPU, and of these sampling and products."""

    streamed: float
    resident: float
    sampling: float
    products: float


def measure(case: Case, search: cuda.StreamedSearch, images: np.ndarray, rounds: int) -> Timed:
    device, inside, block = search.device, search.search, search.block_images

    def blocks() -> Iterator[np.ndarray]:
        for _ in range(case.blocks):
            yield images

    with device.scope():
        array = device.xp.asarray(images)
        inner = device.xp.zeros((case.channels * case.geometry.image_side**2, block), dtype=np.float32)
        norms = device.xp.empty((8, case.geometry.base_rotations, block), dtype=np.float64)

        def sample() -> None:
            for first, stop in case.plan.panels():
                inside.sample(inner, norms, first, stop - first)

        def multiply() -> None:
            for first, stop in case.plan.panels():
                inside.products(dihedral.Spectra(*inside.workspace((stop - first) * block)[:2]))

        resident = least_seconds(device, lambda: inside(array), rounds)
        sampling, products = (least_seconds(device, work, rounds) for work in (sample, multiply))
    streamed = least_seconds(device, lambda: sum(len(match.bmu) for match in search.stream(blocks())), 2)
    return Timed(streamed / (case.blocks * block), resident / block, sampling / block, products / block)


HEADS = (
    "", "images/s, streamed", "images/s, on the GPU", "us/image", "sampling", "products", "TFLOP/s", "of ceiling",
    "GB/s", "of ceiling", "upload GB/s", "of ceiling",
)  # fmt: skip


def row(case: Case, timed: Timed, top: Ceilings) -> list[str]:
    image = 4.0 * case.channels * case.geometry.image_side**2
    shares = [
        text
        for amount, ceiling, unit in (
            (case.flops, top.flops, 1e12), (case.traffic, top.traffic, 1e9), (image, top.upload, 1e9),
        )
        for text in (f"{amount / timed.streamed / unit:.3g}", f"{amount / timed.streamed / ceiling:.0%}")
    ]  # fmt: skip
    seconds = [f"{value * 1e6:.3g}" for value in (timed.streamed, timed.sampling, timed.products)]
    return [case.name, f"{1 / timed.streamed:,.0f}", f"{1 / timed.resident:,.0f}", *seconds, *shares]


def report(cases: tuple[Case, ...], device: Any, sizes: Sizes) -> tuple[list[str], bool]:
    """Lines of the report, in Markdown, and whether every distance was right."""
    top, good, rows, notes = ceilings(device, sizes), True, [], []
    for case in cases:
        images, weights = case.arrays(case.plan.block_images)
        search = cuda.StreamedSearch(weights, case.geometry, device)
        checked = check(case, search, images[: sizes.checked_images], weights)
        good &= checked.good
        notes.append(
            f"- {case.name}: {'PASS' if checked.good else 'FAIL'}, distances within {checked.error:.1e} of float64 "
            f"(at most {RELATIVE:.0e}), {checked.bmu:.0%} of the best-matching units and {checked.transform:.2%} of "
            f"the transforms equal; another place in a block changes {'nothing' if checked.place else 'rounding'}; "
            f"{search.search.double_pairs} pairs in float64"
        )
        timed = measure(case, search, images, sizes.rounds)
        rows.append(row(case, timed, top))
        for where, seconds in case.published:
            ours = case.whole * timed.streamed
            notes.append(
                f"- {case.name}: {case.whole:,} images would take {ours:.3g} s, from {case.blocks * len(images):,} "
                f"timed; the peer publishes {seconds:,.0f} s on {where}: {seconds / ours:.3g} times as long"
            )
        del search
    head = (
        f"{device.name}: float32 product {top.flops / 1e12:.3g} TFLOP/s, copy {top.traffic / 1e9:,.0f} GB/s written "
        f"and read, upload {top.upload / 1e9:.3g} GB/s"
    )
    lines = [[*HEADS], ["---", *["---:"] * (len(HEADS) - 1)], *rows]
    return [head, "", *(f"| {' | '.join(cells)} |" for cells in lines), "", *notes], good


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", type=Path, help="write the report to this file as well")
    options = parser.parse_args(arguments)
    reason = cuda.unavailable()
    if reason is not None:
        print(f"nothing measured: {reason}")
        return 0
    lines, good = report(CASES, cuda.Device(), Sizes())
    print("\n".join(lines))
    if options.markdown is not None:
        options.markdown.write_text("\n".join(lines) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
