"""Images in host memory searched on a GPU, with copies and kernels at the same time: `StreamedSearch`."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from skysom.engine.cuda.device import Device
from skysom.engine.cuda.plan import SLOTS, Plan, device_memory, pool_limit
from skysom.engine.cuda.search import Begun, DeviceSearch
from skysom.engine.errors import EngineError, ShapeError
from skysom.engine.exact import Search
from skysom.engine.geometry import Geometry
from skysom.engine.match import Match, check_shapes, empty_match, joined

Array = Any


@dataclass
class _Slot:
    """Memory of a block under way: pinned host memory and its copy on the device, the pinned results, and marks."""

    pinned: np.ndarray
    images: Array
    results: tuple[np.ndarray, ...]
    copied: Any
    searched: Any


class StreamedSearch:
    """The exact search of images in host memory against one map, on a GPU.

    weights (N, C, D, D) float32, NumPy. Three streams: images are copied in on one, searched on another, decided and
    copied out on a third; a thread fills the pinned memory meanwhile. device : default the first GPU, with a memory
    pool bounded by what `device_memory` says.

    Raises
    ------
    EngineError : there is no GPU, or too little of its memory is free.
    ShapeError : weights that do not fit the geometry.
    """

    def __init__(self, weights: np.ndarray, geometry: Geometry, device: Any = None) -> None:
        neurons, channels = weights.shape[:2]
        needed = device_memory(geometry, neurons, channels)
        self.device = device = Device(limit_bytes=pool_limit(needed)) if device is None else device
        free, self.geometry, self.shape = device.free_bytes() + device.pool_bytes(), geometry, weights.shape
        if needed > free:
            raise EngineError(
                f"a search of {neurons} neurons of {geometry.neuron_side} pixels needs {needed / 2**30:.2f} GiB of the "
                f"GPU's memory and {free / 2**30:.2f} GiB are free; use a smaller map, fewer rotations, or search on "
                "the CPU"
            )
        xp, plan = device.xp, Plan.of(geometry, neurons, channels)
        self.block_images = plan.block_images
        self.search = self._prepared(weights)
        with device.scope():
            block = (plan.block_images, channels, geometry.image_side, geometry.image_side)
            results = (((neurons,), np.float32), ((neurons,), np.int64), ((), np.int64), ((), np.float32))
            self._slots = [
                _Slot(
                    device.pinned(block, np.float32),
                    xp.empty(block, dtype=xp.float32),
                    tuple(device.pinned((plan.block_images, *shape), dtype) for shape, dtype in results),
                    device.event(),
                    device.event(),
                )
                for _ in range(SLOTS)
            ]
            self._in, self._main, self._out = device.stream(), device.stream(), device.stream(urgent=True)
            device.synchronize()

    def renew(self, weights: np.ndarray) -> None:
        """Search against ``weights`` of the same shape from now on: another state of the map in training."""
        if weights.shape != self.shape:
            raise ShapeError(f"weights have shape {weights.shape}; this search is of {self.shape}, make another")
        del self.search  # its memory is what the new one is made in
        self.search = self._prepared(weights)

    def __call__(self, images: np.ndarray) -> Match:
        """Match, in NumPy, of any number of ``images`` (B, C, H, H), searched in blocks counted from the first."""
        starts = range(0, len(images), self.block_images)
        found = list(self.stream(images[first : first + self.block_images] for first in starts))
        return joined(found, xp=np) if found else empty_match(self.shape[0], xp=np)

    def stream(self, blocks: Iterable[np.ndarray]) -> Iterator[Match]:
        """Match, in NumPy, of each of ``blocks``: images (B, C, H, H), B at most ``block_images``.

        While one block is searched, the next is copied and the caller has the one before. One stream at a time.
        """
        iterator, before = iter(blocks), None
        self.device.synchronize()  # an earlier stream may have been left before its end
        with ThreadPoolExecutor(1, "skysom-pinned") as thread:
            ahead, number = self._fill_next(thread, iterator, 0), 0
            while ahead is not None:
                count, slot = ahead.result(), self._slots[number % SLOTS]
                number += 1
                ahead = self._fill_next(thread, iterator, number)
                begun = self._begin(slot, count)
                if before is not None:
                    yield self._finish(*before)
                before = slot, begun
        if before is not None:
            yield self._finish(*before)

    def _fill_next(
        self, thread: ThreadPoolExecutor, iterator: Iterator[np.ndarray], number: int
    ) -> "Future[int] | None":
        images = next(iterator, None)
        if images is None:
            return None
        check_shapes(images.shape, self.shape, self.geometry)
        if len(images) > self.block_images:
            raise ShapeError(f"a block holds {len(images)} images; stream at most {self.block_images} at a time")
        return thread.submit(_fill, self._slots[number % SLOTS], images)

    def _prepared(self, weights: np.ndarray) -> DeviceSearch:
        with self.device.scope():
            array = self.device.xp.asarray(np.ascontiguousarray(weights, np.float32))
            search = DeviceSearch(Search(array, self.geometry, xp=self.device.xp), self.device)
            self.device.synchronize()  # other streams read it
        return search

    def _begin(self, slot: _Slot, count: int) -> Begun:
        """Copy in and start the search of the ``count`` images that lie in the slot's pinned memory."""
        with self.device.scope():
            # What reads the slot's images has been waited for: `_finish` of the block before the last.
            self.device.upload(slot.pinned[:count], slot.images[:count], self._in)
            slot.copied.record(self._in)
            with self._main:
                self._main.wait_event(slot.copied)
                begun = self.search.begin(slot.images, count)
                slot.searched.record(self._main)
        return begun

    def _finish(self, slot: _Slot, begun: Begun) -> Match:
        """Decide, copy out and wait."""
        with self.device.scope(), self._out:
            self._out.wait_event(slot.searched)
            match = self.search.finish(begun)
            results = [host[: begun.count] for host in slot.results]
            found = match.distance, match.transform, match.bmu, match.bmu_distance
            for array, host in zip(found, results, strict=True):
                self.device.download(array, host, self._out)
            self._out.synchronize()
        distance, transform, bmu, bmu_distance = (host.copy() for host in results)
        return Match(distance, transform, bmu, bmu_distance, np.isfinite(distance))


def _fill(slot: _Slot, images: np.ndarray) -> int:
    """Copy ``images`` to pinned memory, once what lay there is on the device; returns how many they are."""
    slot.copied.synchronize()
    np.copyto(slot.pinned[: len(images)], images, casting="unsafe")
    return len(images)
