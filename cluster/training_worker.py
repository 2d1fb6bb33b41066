"""A worker of batched training: it holds images, searches its part of a batch, and adds it up.

It keeps nothing that cannot be made again: images come from the source, and what a search found is
searched again where it is asked of a worker that did not make it. So a worker can be lost at any moment.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from skysom.cluster.pipeline import peak_memory
from skysom.engine.batch import BatchMode, add_batch, coefficients, empty_sums
from skysom.engine.exact import Search
from skysom.engine.geometry import Geometry
from skysom.engine.order import Window

Source = Callable[[np.ndarray], np.ndarray]
"""Images (n, C, H, H) float32 of places (n,) int64 in the selection; picklable."""

Block = tuple[tuple[int, ...], int]
"""Name of a window, and the number of a block in it."""


@dataclass(frozen=True)
class Step:
    """What all batches of a training stage share: geometry, F (N, N), mode and rate."""

    geometry: Geometry
    factors: np.ndarray
    mode: BatchMode
    rate: float


@dataclass(frozen=True)
class Piece:
    """The blocks of a batch that one worker holds.

    batch : number of the batch, unique in a training stage; blocks : their numbers, and positions : where in the batch
    the images of each begin.
    """

    batch: int
    blocks: tuple[int, ...]
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Searched:
    """First half of a batch, of one piece.

    bmu (n,) int32 and bmu_distance (n,) float32, block after block; peak : largest |pixel|; times in seconds.
    """

    bmu: np.ndarray
    bmu_distance: np.ndarray
    peak: float
    read_s: float
    compute_s: float


@dataclass(frozen=True)
class Added:
    """Second half, of one piece: fixed-point sums (N, C, D*D) int64, times in seconds, and peak memory."""

    sums: np.ndarray
    read_s: float
    compute_s: float
    memory_bytes: int


@dataclass(frozen=True)
class _Found:
    """What the search of a piece found, until it is added: images and best transforms (n, N), block after block."""

    piece: Piece
    window: tuple[int, ...]
    images: np.ndarray
    transform: np.ndarray


@dataclass
class TrainingWorker:
    """One worker; its state is a cache.

    source : where images come from. Blocks are read when first asked for, or ahead of it (`expect`), and kept until
    an expectation leaves them out.
    """

    source: Source
    _held: dict[Block, tuple["Future[np.ndarray]", slice]] = field(default_factory=dict)
    _found: _Found | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _reader: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "skysom-read"))

    def expect(
        self, window: Window, blocks: np.ndarray, ahead: Window | None = None, later: np.ndarray | None = None
    ) -> None:
        """Hold exactly ``blocks`` of a window and ``later`` of the one ahead; what is missing is read meanwhile."""
        shares = [(window, blocks)] + ([(ahead, later)] if ahead is not None and later is not None else [])
        wanted = {(own.name, int(block)) for own, numbers in shares for block in numbers}
        with self._lock:
            dropped = {self._held.pop(block)[0] for block in self._held.keys() - wanted}
            for read in dropped - {future for future, _ in self._held.values()}:
                read.cancel()  # if it has not begun
        for own, numbers in shares:
            self._request(own, numbers)

    def search(self, piece: Piece, window: Window, weights: np.ndarray, step: Step) -> Searched:
        """Best-matching units of the piece's images on ``weights`` (N, C, D, D)."""
        started = time.perf_counter()
        blocks = self._images(window, piece.blocks)
        read = time.perf_counter()
        # The copy is writable: arrays from the object store are not, and would be another type to numba.
        search = Search(np.array(weights), step.geometry)
        matches = [search(images) for images in blocks]
        images = np.concatenate(blocks)
        transform = np.concatenate([match.transform.astype(np.int32) for match in matches])
        self._found = _Found(piece, window.name, images, transform)
        bmu, distance = (np.concatenate([getattr(m, name) for m in matches]) for name in ("bmu", "bmu_distance"))
        peak = float(np.abs(images).max(initial=0))
        return Searched(bmu.astype(np.int32), distance, peak, read - started, time.perf_counter() - read)

    def add(
        self, piece: Piece, window: Window, weights: np.ndarray, step: Step, bmu: np.ndarray, scale: float
    ) -> Added:
        """Sums of the piece, given the best-matching units of the whole batch in its order, ``bmu`` (B,)."""
        read_s = compute_s = 0.0
        if self._found is None or (self._found.piece, self._found.window) != (piece, window.name):
            again = self.search(piece, window, weights, step)
            read_s, compute_s = again.read_s, again.compute_s
        found = self._found
        assert found is not None
        started = time.perf_counter()
        move = coefficients(bmu, step.factors, step.mode, rate=step.rate, positions=positions_of(piece, window)).move
        sums = empty_sums(weights.shape)
        add_batch(sums, found.images, found.transform, move, step.geometry, scale)
        self._found = None
        return Added(sums, read_s, compute_s + time.perf_counter() - started, peak_memory())

    def close(self) -> None:
        """Begin no further read: the process need not wait for them at its end."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    def _images(self, window: Window, blocks: tuple[int, ...]) -> list[np.ndarray]:
        for attempt in (1, 2):
            held = self._request(window, np.array(blocks))
            try:
                return [future.result()[rows] for future, rows in held]
            except Exception:
                # A read ahead that failed is tried once more: the store may be back.
                if attempt == 2:
                    raise
                with self._lock:
                    for block in blocks:
                        self._held.pop((window.name, block), None)
        raise AssertionError

    def _request(self, window: Window, blocks: np.ndarray) -> list[tuple["Future[np.ndarray]", slice]]:
        """Where the images of ``blocks`` are, or will be: what is missing is read in one sweep of the store."""
        with self._lock:
            missing = [int(block) for block in blocks if (window.name, int(block)) not in self._held]
            if missing:
                places = [window.block(block) for block in missing]
                ends = np.cumsum([len(p) for p in places])
                future = self._reader.submit(self.source, np.concatenate(places))
                for block, own, end in zip(missing, places, ends, strict=True):
                    self._held[(window.name, block)] = future, slice(int(end) - len(own), int(end))
            return [self._held[(window.name, int(block))] for block in blocks]


def positions_of(piece: Piece, window: Window) -> np.ndarray:
    """Positions in the batch (n,) of the piece's images, block after block; ascending."""
    sizes = [len(window.block(block)) for block in piece.blocks]
    return np.concatenate([np.arange(start, start + n) for start, n in zip(piece.positions, sizes, strict=True)])
