"""The coordinator of batched training: hands out batches, forms the new map, and sends it round.

For each batch every worker searches the images it holds; the best-matching units, in the batch's order, fix
all coefficients; every worker adds its images up; the coordinator adds the sums and moves the map. Results
do not depend on how many workers there are, which images each holds, or which were lost on the way.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from skysom.cluster.errors import PassError
from skysom.cluster.training_crew import Crew
from skysom.cluster.training_worker import Piece, Step, positions_of
from skysom.engine.batch import coefficients, empty_sums, fixed_point_scale, moved_weights
from skysom.engine.order import Window, batches, windows


@dataclass(frozen=True)
class Schedule:
    """One training stage: its step, batch size, epochs, and the name its order is keyed by."""

    step: Step
    batch_size: int
    epochs: int
    name: tuple[int, ...]
    window_images: int
    shuffle: bool = True


@dataclass
class SeatTimes:
    """What a worker did: images, seconds it read and computed, and the peak of its resident bytes so far."""

    images: int = 0
    read_s: float = 0.0
    compute_s: float = 0.0
    memory_bytes: int = 0

    def add(self, images: int, read_s: float, compute_s: float, memory_bytes: int = 0) -> None:
        """Count a piece, or a half of one."""
        self.images += images
        self.read_s += read_s
        self.compute_s += compute_s
        self.memory_bytes = max(self.memory_bytes, memory_bytes)


@dataclass(frozen=True)
class BatchDone:
    """A batch has moved the map.

    epoch and seen : images of that epoch that are done; weights (N, C, D, D) the new map, not to be changed;
    bmu_distance (B,) in batch order; strongest : the largest sum of f of a neuron; seconds of the whole batch,
    of which reduce_s were spent adding sums and moving the map; seats : times by seat.
    """

    epoch: int
    seen: int
    weights: np.ndarray
    bmu_distance: np.ndarray
    strongest: float
    seconds: float
    reduce_s: float
    seats: dict[int, SeatTimes] = field(default_factory=dict)


class Coordinator:
    """Trains a map on ``images`` images that the workers of ``crew`` can read."""

    def __init__(self, crew: Crew, images: int) -> None:
        self.crew, self.images = crew, images
        self._number = 0
        self._seats: list[int] = []

    def train(self, weights: np.ndarray, schedule: Schedule, *, epoch: int = 0, seen: int = 0) -> Iterator[BatchDone]:
        """Yield after every batch of a stage, from image ``seen`` of ``epoch`` on (where a batch ended)."""
        step = self.crew.share(schedule.step)
        for number in range(epoch, schedule.epochs):
            begin = seen if number == epoch else 0
            done = 0
            parts = windows(self.images, schedule.window_images, schedule.name, number, shuffle=schedule.shuffle)
            for i, window in enumerate(parts):
                if done + len(window.places) <= begin:
                    done += len(window.places)
                    continue
                shared = self._expect(parts[i : i + 2])
                for blocks in batches(window, schedule.batch_size, schedule.name, number, shuffle=schedule.shuffle):
                    batch = _Batch(self._number, window, blocks)
                    done += batch.size
                    if done > begin:
                        self._number += 1
                        if self.crew.seats() != self._seats:  # dealt out anew, to be read in one sweep
                            shared = self._expect(parts[i : i + 2])
                        found = self._move(weights, batch, shared, schedule.step, step)
                        weights = found.weights
                        yield replace(found, epoch=number, seen=done)

    def _expect(self, parts: Sequence[Window]) -> Any:
        """Have each worker read its blocks of the first window, then those of the next; returns the first, shared."""
        self._seats, shared = self.crew.seats(), [self.crew.share(window) for window in parts]
        shares: dict[int, tuple] = dict.fromkeys(self._seats, ())
        for window, reference in zip(parts, shared, strict=True):
            for i, seat in enumerate(self._seats):
                shares[seat] += (reference, np.arange(window.blocks)[i :: len(self._seats)])
        self.crew.tell("expect", shares)
        return shared[0]

    def _move(self, weights: np.ndarray, batch: "_Batch", window: Any, step: Step, shared: Any) -> BatchDone:
        """One batch: search, add, move."""
        started = time.perf_counter()
        pieces = batch.pieces(self._seats)
        current, seats, peak = self.crew.share(weights), dict[int, SeatTimes](), 0.0
        bmu, distance = np.empty(batch.size, np.int32), np.empty(batch.size, np.float32)
        calls: dict[int, tuple] = {key: (piece, window, current, shared) for key, piece in pieces.items()}
        for key, seat, found in self.crew.ask("search", calls):
            positions = positions_of(pieces[key], batch.window)
            bmu[positions], distance[positions] = found.bmu, found.bmu_distance
            peak = max(peak, found.peak)
            seats.setdefault(seat, SeatTimes()).add(len(positions), found.read_s, found.compute_s)
        if not np.isfinite(distance).all():
            raise PassError(
                f"{np.count_nonzero(~np.isfinite(distance))} of the {batch.size} images of a batch have no finite "
                "distance: they, or the map, hold values that are NaN, infinite or too large; see preprocess.steps and "
                "som.init, and run with `--redo train`"
            )
        scale, units = fixed_point_scale(peak, step.factors), self.crew.share(bmu)
        sums, reduce_s = empty_sums(weights.shape), 0.0
        for _, seat, part in self.crew.ask("add", {key: (*call, units, scale) for key, call in calls.items()}):
            before = time.perf_counter()
            sums += part.sums
            reduce_s += time.perf_counter() - before
            seats.setdefault(seat, SeatTimes()).add(0, part.read_s, part.compute_s, part.memory_bytes)
        before = time.perf_counter()
        rule = coefficients(bmu, step.factors, step.mode, rate=step.rate, positions=np.zeros(0, np.int64))
        weights = moved_weights(weights, rule.keep, sums, scale)
        now = time.perf_counter()
        strongest = float(rule.total.max())
        return BatchDone(0, 0, weights, distance, strongest, now - started, reduce_s + now - before, seats)


@dataclass(frozen=True)
class _Batch:
    """Consecutive blocks of a window."""

    number: int
    window: Window
    blocks: np.ndarray

    @property
    def size(self) -> int:
        """Images of the batch."""
        return sum(len(self.window.block(int(block))) for block in self.blocks)

    def pieces(self, seats: Sequence[int]) -> dict[int, Piece]:
        """The blocks by the seat that holds them: those of a window are dealt out in turn."""
        found: dict[int, list[tuple[int, int]]] = {}
        position = 0
        for block in map(int, self.blocks):
            found.setdefault(seats[block % len(seats)], []).append((block, position))
            position += len(self.window.block(block))
        return {seat: Piece(self.number, *zip(*own, strict=True)) for seat, own in found.items()}
