"""``skysom pink``: train and map with the peer's command line and binary files, in one process.

Files are read and written in blocks, so memory does not grow with the number of images. Where this
departs from the peer stands in pink.md beside this module.
"""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from skysom.engine.errors import GeometryError
from skysom.engine.exact import Search
from skysom.engine.geometry import Geometry
from skysom.engine.initial import initial_weights
from skysom.engine.lattice import Cartesian, Hexagonal, Lattice
from skysom.engine.match import Match
from skysom.engine.memory import projected_memory, training_memory
from skysom.engine.neighbourhood import Neighbourhood
from skysom.engine.shuffle import peer_order
from skysom.engine.som import Som
from skysom.engine.update import OnlineTrainer
from skysom.jobs.errors import ConfigError, JobError, SkysomErrors
from skysom.jobs.pink_options import PinkOptions, parse
from skysom.storage.pinkfile import (
    PinkData,
    map_writer,
    open_data,
    open_som,
    transform_entries,
    transform_writer,
    write_som,
)

READ_IMAGES = 32
"""Images read, and searched, together."""
MEMORY_SHARE = 0.9
"""Share of the machine's memory that arrays may take."""


def main(argv: list[str]) -> int:
    """Run one command line (without the program's name); returns the exit status, 1 for what is refused."""
    try:
        options = parse(argv)
        if options is None:
            from importlib.metadata import version

            sys.stdout.write(f"skysom {version('skysom')}\n")
            return 0
        _check_outputs(options)
        if options.som is None:
            train(options)
        else:
            map_images(options)
    except (*SkysomErrors, OSError, MemoryError) as error:
        sys.stderr.write(f"skysom pink: {str(error) or 'not enough memory; use a smaller map'}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("skysom pink: interrupted; the result was not written\n")
        return 130
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def train(options: PinkOptions) -> None:
    """Train a map on options.data and write it to options.result; raises SkysomErrors."""
    data = open_data(options.data)
    geometry, lattice = _geometry(options, data), _lattice(options)
    total = options.iterations * data.count
    marks = _marks(total, options.progress)
    _check_on_the_way(options, len(marks))
    _check_memory(options, data, geometry, lattice)
    weights, comment = _initial(options, data, geometry)
    neighbourhood = Neighbourhood(options.kind, options.sigma, options.rate, options.max_update_distance)  # type: ignore[arg-type]
    dims = (*data.dims[:-2], geometry.neuron_side, geometry.neuron_side)
    progress = _Progress(options, geometry, total)

    def after(step: int, present: np.ndarray) -> None:
        if step in marks:
            progress(step + 1)
            if options.store != "off":
                _refuse_diverged(present, step + 1, options)
                path = _on_the_way(options, marks.index(step))
                write_som(path, present, lattice.shape, dims, comment)

    # The products of a single image are too small to share: more threads are slower.
    with threadpool_limits(1, user_api="blas"), np.errstate(over="ignore", invalid="ignore"):
        trainer = OnlineTrainer(Som(weights, lattice), neighbourhood, geometry)
        done = 0
        for rows in _training_order(options, data.count):
            images = data.take(rows)
            _refuse_not_finite(images, rows, data)
            trainer.train(images, after, done)
            done += len(rows)
            _refuse_diverged(trainer.weights, done, options)
    write_som(options.result, trainer.weights, lattice.shape, dims, comment)
    progress(total)


def map_images(options: PinkOptions) -> None:
    """Map options.data onto options.som, writing distances and, if asked, transforms; raises SkysomErrors."""
    data = open_data(options.data)
    geometry = _geometry(options, data)
    assert options.som is not None
    weights, _ = _read_som(options.som, options, data, geometry)
    lattice = _lattice(options)
    _check_memory(options, data, geometry, lattice)
    search = Search(weights, geometry)
    progress, unusable = _Progress(options, geometry, data.count), 0

    def match(start: int) -> Match:
        # Set here because the threads that call this do not inherit it.
        with np.errstate(over="ignore", invalid="ignore"):
            return search(data.read(start, start + READ_IMAGES))

    with ExitStack() as stack:
        stack.enter_context(threadpool_limits(1, user_api="blas"))
        distances = stack.enter_context(map_writer(options.result, data.count, lattice.shape, lattice.kind))
        entries = options.transforms and stack.enter_context(
            transform_writer(options.transforms, data.count, lattice.shape, lattice.kind)
        )
        blocks = range(0, data.count, READ_IMAGES)
        for start, found in zip(blocks, _in_order(match, blocks, _threads(options)), strict=True):
            distances.write(found.distance)
            if entries:
                entries.write(_entries(found.transform, geometry))
            unusable += int((~np.isfinite(found.distance)).any(axis=1).sum())
            progress.now_and_then(start + len(found.distance))
    progress(data.count)
    if unusable:
        sys.stderr.write(
            f"{unusable} of {data.count} images have not finite distances: pixels that are NaN or infinite, or values "
            "(of the image or the map) whose squares overflow\n"
        )


def _in_order(function: Callable[[int], Match], values: range, threads: int) -> Iterator[Match]:
    """Results of ``function`` in the order of ``values``, computed by threads that run a little ahead.

    The kernels and the matrix products release the interpreter, each on one core.
    """
    pending: deque[Future] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for value in values:
                pending.append(pool.submit(function, value))
                if len(pending) > 2 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _entries(transform: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Transform-file entries (n, neurons) of transform indices t."""
    flip, k = np.divmod(transform, geometry.rotations)
    step = np.float32(2 * np.pi) / np.float32(geometry.rotations)
    return transform_entries(flip, k.astype(np.float32) * step)


def _lattice(options: PinkOptions) -> Lattice:
    if options.layout == "hexagonal":
        return Hexagonal(options.width, periodic=options.periodic)
    return Cartesian(options.width, options.height, options.depth, periodic=options.periodic)


def _geometry(options: PinkOptions, data: PinkData) -> Geometry:
    try:
        return Geometry.derive(
            data.shape[2],
            options.rotations,
            options.flip,
            options.region,
            options.neuron_side,
            options.region_side,
        )
    except GeometryError as error:
        raise ConfigError(f"{error} (--neuron-dimension, --euclidean-distance-dimension)") from error


def _initial(options: PinkOptions, data: PinkData, geometry: Geometry) -> tuple[np.ndarray, bytes]:
    """Weights (N, C, D, D) before training, and the comment block that goes before every map."""
    if options.initial_file is not None:
        return _read_som(options.initial_file, options, data, geometry)
    assert options.initial is not None
    neurons, channels = _lattice(options).size, data.shape[0]
    return initial_weights(options.initial, neurons, channels, geometry.neuron_side, options.seed), b""


def _read_som(path: Path, options: PinkOptions, data: PinkData, geometry: Geometry) -> tuple[np.ndarray, bytes]:
    """Weights and comment block of a SOM file that must be what the options and images say."""
    som = open_som(path)
    found = (som.layout, som.som_dims, som.shape)
    side = geometry.neuron_side
    expected = (options.layout, _lattice(options).shape, (data.shape[0], side, side))
    if found != expected:
        raise ConfigError(
            f"{path} holds a {found[0]} map of {_times(found[1])} neurons, each (channels, side, side) "
            f"{found[2]}; the options and images ask for {expected[0]}, {_times(expected[1])}, "
            f"{expected[2]}; give the --som-width, --som-height, --som-depth, --layout, --neuron-dimension "
            "and --numrot it was made with"
        )
    return som.read_finite(), som.comment


def _times(dims: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in dims)


def _training_order(options: PinkOptions, count: int) -> Iterator[np.ndarray]:
    """Rows of the images of all passes, in blocks."""
    for iteration in range(options.iterations):
        order = peer_order(count, options.seed + iteration) if options.shuffle else np.arange(count)
        yield from (order[start : start + READ_IMAGES] for start in range(0, count, READ_IMAGES))


def _marks(total: int, steps: int) -> range:
    """Steps (0-based images) after which progress is told and maps on the way are kept (specs/pink.md 6)."""
    if min(steps, total) > 70:
        raise ConfigError(f"--progress is {steps} for {total} images; use at most 70")
    steps = min(steps, total)
    section = total // steps
    return range(section + (total % steps > 0), total, section)


def _on_the_way(options: PinkOptions, index: int) -> Path:
    if options.store == "overwrite":
        return options.result
    return options.result.with_name(f"{options.result.stem}_{index}{options.result.suffix}")


def _refuse_not_finite(images: np.ndarray, rows: np.ndarray, data: PinkData) -> None:
    bad = np.flatnonzero(~np.isfinite(images).all(axis=(1, 2, 3)))
    if bad.size:
        raise JobError(
            f"image {rows[bad[0]]} of {data.path} has pixels that are not finite and would spoil the map; "
            "replace them, or leave the image out"
        )


def _refuse_diverged(weights: np.ndarray, done: int, options: PinkOptions) -> None:
    if not np.isfinite(weights).all():
        raise JobError(
            f"the map is no longer finite after {done} images; --dist-func {options.kind} with sigma "
            f"{options.sigma} and damping {options.rate} diverges: use a smaller damping"
        )


def _check_outputs(options: PinkOptions) -> None:
    """Refuse, before any work, outputs that cannot be written or would replace an input."""
    outputs = [path for path in (options.result, options.transforms) if path is not None]
    for output in outputs:
        _check_output(output, (options.data, options.som), "give the output another name")
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise ConfigError(f"RESULT and --store-rot-flip are both {options.result}; give them different names")


def _check_on_the_way(options: PinkOptions, count: int) -> None:
    """Refuse names of the ``count`` maps on the way as `_check_outputs` does; --init is read before, but kept."""
    for index in range(count if options.store == "keep" else 0):
        path = _on_the_way(options, index)
        _check_output(path, (options.data, options.initial_file), "--inter-store keep writes it: rename RESULT")


def _check_output(output: Path, inputs: tuple[Path | None, ...], remedy: str) -> None:
    if not output.parent.is_dir() or output.is_dir():
        raise ConfigError(f"{output} cannot be written; give a file in an existing directory")
    if output.resolve() in [path.resolve() for path in inputs if path is not None]:
        raise ConfigError(f"{output} is an input and an output; {remedy}")


def _check_memory(options: PinkOptions, data: PinkData, geometry: Geometry, lattice: Lattice) -> None:
    """ConfigError where the arrays would need more than this machine has, before any is made."""
    import psutil

    neurons, channels, pixels = lattice.size, data.shape[0], geometry.neuron_side**2
    total = psutil.virtual_memory().total
    # Tables and map alone; the projection itself makes arrays of a neuron's size.
    need = pixels * max(200, 4 * neurons * channels)
    if need <= MEMORY_SHARE * total:
        project = training_memory if options.som is None else projected_memory
        need = project(geometry, neurons=neurons, channels=channels)
        need += 4 * neurons * channels * pixels if options.som is None else 0  # the start, beside the copy trained
    if need > MEMORY_SHARE * total:
        raise ConfigError(
            f"{neurons} neurons of side {geometry.neuron_side} and {geometry.transforms} transforms need at least "
            f"{need / 1e9:.3g} GB of memory, this machine has {total / 1e9:.3g} GB; use a smaller --som-width, "
            "--som-height, --som-depth, --neuron-dimension or --numrot"
        )


def _threads(options: PinkOptions) -> int:
    return options.threads or len(os.sched_getaffinity(0))


class _Progress:
    """Plain lines on standard error: images done, rate and remaining time."""

    def __init__(self, options: PinkOptions, geometry: Geometry, total: int) -> None:
        self.total, self.began = total, time.monotonic()
        self.marks = list(_marks(total, options.progress))
        if options.verbose:
            sys.stderr.write(
                f"{total} images of side {geometry.image_side}, neurons of side {geometry.neuron_side}, "
                f"{geometry.region} region of side {geometry.region_side}, {geometry.transforms} transforms\n"
            )

    def now_and_then(self, done: int) -> None:
        """Tell, if another step of the progress has been passed."""
        passed = [mark for mark in self.marks if mark < done]
        self.marks = self.marks[len(passed) :]
        if passed and done < self.total:  # the last line comes when the files are whole
            self(done)

    def __call__(self, done: int) -> None:
        rate = done / max(time.monotonic() - self.began, 1e-9)
        left = (self.total - done) / rate
        sys.stderr.write(f"{done} of {self.total} images, {rate:.1f} images/s, {left:.0f} s left\n")
        sys.stderr.flush()
