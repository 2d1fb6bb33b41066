"""What a survey will cost before it is started: shards, bytes, operations, memory and time, as pure functions.

Notation of ARCHITECTURE.md: C channels, H image side, D neuron side, N neurons, P pixels of the region,
R rotations. Bytes are those of the arrays before compression, times in seconds, everything else in words.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from skysom.cluster.pipeline import SHARDS_IN_FLIGHT
from skysom.engine.geometry import Geometry
from skysom.engine.memory import batch_memory, certified_memory, polar_memory, projected_memory, training_memory

PIXEL_BYTES = {"float32": 4, "float16": 2, "none": 0}
IMAGE_SCALE_BYTES = {"float32": 0, "float16": 4, "none": 0}
"""Of the scale that a float16 image carries, an image and array."""
INGEST_COLUMN_BYTES = 8 + 8 + 1 + 4
"""ra_deg, dec_deg, status, coverage."""
PREPARED_COLUMN_BYTES = 1 + 1
"""prepared_status, ok; channel_sum takes four more a channel."""
PAIR_BYTES = {"distance": 4, "rotation": 2, "flip": 1}
"""Kept for every image and neuron."""
BEST_BYTES = {"bmu": 4, "bmu_distance": 4, "bmu_rotation": 2, "bmu_flip": 1}
"""Kept for every image."""
EXACT_BYTES = 1
"""Says whether a distance is exact, where the search is certified."""
INDEX_BYTES = 4
"""Says which neuron it is, where only the best are kept."""
GPU_OPERATIONS_PER_S = 60e12
"""ASSUMED, not measured: what a search would sustain on one GPU of the H100 class, 5 microseconds for the
0.3 GFLOP of 150x150 images, 100 neurons and 360 rotations."""
GPU_BYTES_S = 3e12
"""ASSUMED, not measured: memory bandwidth of such a GPU, which the sums of a batch are limited by."""
GPU_HOST_BYTES_S = 25e9
"""ASSUMED, not measured: between such a GPU and its host."""
FIXED_POINT_BYTES = 8
"""Of a weighted sum as 64-bit fixed point, a pixel of a neuron."""


@dataclass(frozen=True)
class Workload:
    """A survey and its map.

    images; channels C; cutout_side and geometry.image_side in pixels before and after preprocessing;
    neurons N; geometry of the mapping; shard_images rows of a shard; store "float32", "float16" or
    "none"; keep, neurons kept an image (None: all); method of the mapping, "exact", "certified" or "polar".
    """

    images: int
    channels: int
    cutout_side: int
    neurons: int
    geometry: Geometry
    shard_images: int = 256
    store: str = "float32"
    keep: int | None = None
    method: str = "exact"

    @property
    def shards(self) -> int:
        """Shards of the survey; each is worked on once a stage."""
        return math.ceil(self.images / self.shard_images)

    @property
    def prepared_bytes(self) -> int:
        """Of one image as the map sees it, float32 in memory."""
        return 4 * self.channels * self.geometry.image_side**2

    @property
    def cutout_bytes(self) -> int:
        """Of one cut-out, float32 in memory."""
        return 4 * self.channels * self.cutout_side**2

    @property
    def weights_bytes(self) -> int:
        """Of the map as float32, what is broadcast after a batch."""
        return 4 * self.neurons * self.channels * self.geometry.neuron_side**2

    @property
    def sums_bytes(self) -> int:
        """Of the weighted sums one worker sends after a batch, 64-bit fixed point."""
        return FIXED_POINT_BYTES * self.neurons * self.channels * self.geometry.neuron_side**2


@dataclass(frozen=True)
class Traffic:
    """Bytes that a stage reads and writes, uncompressed; the written ones stay."""

    read: int
    written: int


def search_operations(geometry: Geometry, *, neurons: int, channels: int = 1) -> int:
    """Floating-point operations of the matrix products of the exact search of one image, 3 P C N R / 4.

    An orbit of 8 pixels takes 12 multiply-adds where 8 pixels and 8 symmetries have 64: with 150x150 images, 100
    neurons and 360 rotations 0.303e9 (quadratic) and 0.478e9 (circular). Sampling the image comes on top.
    """
    return 3 * int(np.count_nonzero(geometry.region_mask)) * channels * neurons * geometry.base_rotations


def ingest_traffic(work: Workload) -> Traffic:
    """Cut-outs read as float32, and the survey's arrays written."""
    row = _stored(work, work.cutout_side) + INGEST_COLUMN_BYTES
    return Traffic(work.images * work.cutout_bytes, work.images * row)


def preprocess_traffic(work: Workload) -> Traffic:
    """The cut-outs read again (from their files where none are stored), and the prepared images written."""
    row = _stored(work, work.geometry.image_side) + PREPARED_COLUMN_BYTES + 4 * work.channels
    read = _stored(work, work.cutout_side) or work.cutout_bytes
    return Traffic(work.images * (read + 1), work.images * row)


def map_traffic(work: Workload) -> Traffic:
    """The prepared images read (or made again from cut-outs), and the mapping written."""
    read = _stored(work, work.geometry.image_side) or work.cutout_bytes
    return Traffic(work.images * (read + 1), mapping_bytes(work))


def mapping_bytes(work: Workload) -> int:
    """Of the stored mapping: all neurons, or the best ``work.keep`` with their numbers."""
    pair = sum(PAIR_BYTES.values()) + EXACT_BYTES * (work.method == "certified")
    row = work.neurons * pair if work.keep is None else work.keep * (pair + INDEX_BYTES)
    return work.images * (row + sum(BEST_BYTES.values()))


def store_files(work: Workload) -> int:
    """Files (or objects) of the finished store: one a shard of every array, metadata apart."""
    images = 0 if work.store == "none" else 2 * (2 if work.store == "float16" else 1)
    pairs = len(PAIR_BYTES) + (work.keep is not None) + (work.method == "certified")
    columns = 5 + 3 + len(BEST_BYTES)  # source_id too; channel_sum, prepared_status, ok
    return work.shards * (images + pairs + columns)


def _stored(work: Workload, side: int) -> int:
    return PIXEL_BYTES[work.store] * work.channels * side**2 + IMAGE_SCALE_BYTES[work.store]


# --- memory -----------------------------------------------------------------------------------------


def map_memory(work: Workload) -> int:
    """Peak bytes of the arrays of one mapping worker: the search, and the shards in its pipeline."""
    found = (sum(PAIR_BYTES.values()) + EXACT_BYTES + INDEX_BYTES) * (work.keep or work.neurons)
    search = search_memory(work.geometry, neurons=work.neurons, channels=work.channels, method=work.method)
    return search + work.shard_images * in_flight(work.prepared_bytes, found)


def search_memory(geometry: Geometry, *, neurons: int, channels: int, method: str, workers: int = 1) -> int:
    """Peak bytes of the arrays of a mapping's search by ``method``, of all workers.

    What a certified mapping checks is searched exactly beside it, with the same map and spectra.
    """
    sizes = {"neurons": neurons, "channels": channels, "workers": workers}
    if method == "exact":
        return projected_memory(geometry, **sizes)
    if method == "polar":
        return polar_memory(geometry, **sizes) + workers * 4 * neurons * channels * geometry.neuron_side**2
    return certified_memory(geometry, **sizes, checked=True)


def pass_memory(work: Workload) -> int:
    """Peak bytes of the arrays of one worker of ingest or preprocessing: its pipeline, and one shard worked on."""
    return work.shard_images * (in_flight(work.cutout_bytes, work.prepared_bytes) + work.cutout_bytes)


def in_flight(read: int, computed: int) -> int:
    """Bytes a pipeline holds of an image that has ``read`` bytes and ``computed`` bytes: all its shards, and a copy."""
    return SHARDS_IN_FLIGHT * max(read, computed) + read


def train_memory(
    recipe: Sequence[tuple[Geometry, int]], *, neurons: int, channels: int, rows: int, window: int, workers: int
) -> int:
    """Peak bytes of a training on ``rows`` images, of all workers and the coordinator together.

    recipe : geometry and batch size of each stage; batches hold two windows of ``window`` images, online
    training (batch size 1) all of them on one worker.
    """
    need, sizes = 0, {"neurons": neurons, "channels": channels}
    for geometry, batch in recipe:
        image = 4 * channels * geometry.image_side**2
        if batch == 1:
            need = max(need, rows * image + training_memory(geometry, **sizes))
        else:
            held = min(rows, 2 * window) * image
            need = max(need, held + batch_memory(geometry, **sizes, batch=min(batch, rows), workers=workers))
    return need


# --- time -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """Seconds an image takes one worker: to read, to compute, to write."""

    read_s: float
    compute_s: float
    write_s: float

    def worker_s(self, overlapped: bool) -> float:
        """Seconds an image: on a GPU the three overlap; on one core they share it, so they add."""
        parts = (self.read_s, self.compute_s, self.write_s)
        return max(parts) if overlapped else sum(parts)


@dataclass(frozen=True)
class Limits:
    """What workers share: bytes a second of the store (None: no limit known), seconds of a ledger record."""

    store_bytes_s: float | None = None
    record_s: float = 0.0


@dataclass(frozen=True)
class Duration:
    """Seconds of a stage and what sets them: "workers", "store" or "ledger"."""

    seconds: float
    limit: str


def pass_duration(
    work: Workload, cost: Cost, traffic: Traffic, workers: int, limits: Limits, *, overlapped: bool = False
) -> Duration:
    """Seconds of a pass over the survey: the slowest of its workers, the shared store and the driver's ledger.

    The last round of shards is counted whole: with few shards some workers idle in it.
    """
    rounds = math.ceil(work.shards / workers)
    images = min(rounds * work.shard_images, work.images)
    times = {"workers": images * cost.worker_s(overlapped), "ledger": work.shards * limits.record_s}
    if limits.store_bytes_s is not None:
        times["store"] = (traffic.read + traffic.written) / limits.store_bytes_s
    limit = max(times, key=lambda name: times[name])
    return Duration(times[limit], limit)


@dataclass(frozen=True)
class BatchCost:
    """Seconds of the parts of a training batch (B images, N neurons, W workers).

    search_s : an image, one worker; update_s : adding one image to a worker's weighted sums.
    coefficient_s : an image of the whole batch: every worker, and then the coordinator, walks all B
        best-matching units.
    sums_s : a worker's sums, however few images: zeroed, and put into the object store.
    add_s : the coordinator fetches the sums of one worker of its own machine and adds them.
    form_s : the coordinator forms the new map and puts it; prepare_s : a worker fetches it and
        makes its spectra. call_s : one call of an actor, sent and answered.
    network_bytes_s : of each machine, for sums and maps that go to another one.
    block_images : searched together; a rest is padded.
    """

    search_s: float
    update_s: float
    coefficient_s: float
    sums_s: float
    add_s: float
    form_s: float
    prepare_s: float
    call_s: float
    network_bytes_s: float = 25e9 / 8
    block_images: int = 32


BATCH_PARTS = {
    "search": "images of the batch searched and added up by the workers",
    "coefficients": "what each image is multiplied with, found by every worker and then by the coordinator",
    "sums": "the coordinator takes and adds the workers' sums, one after another",
    "map": "the new map formed, sent to every machine, and its spectra made by every worker",
}


def batch_parts(
    batch: int, workers: int, nodes: int, cost: BatchCost, *, sums_bytes: int, weights_bytes: int
) -> dict[str, float]:
    """Seconds of the BATCH_PARTS of one training batch; they follow each other, so the batch takes their sum.

    The sums of other machines come through the network of the coordinator's; the new map reaches n machines in
    log2(n) rounds of copies.
    """
    blocks = math.ceil(batch / cost.block_images)
    active = min(workers, blocks)
    share = math.ceil(blocks / active) * cost.block_images
    remote = active - math.ceil(active / nodes)
    rounds = math.ceil(math.log2(nodes))
    return {
        "search": share * cost.search_s + min(share, batch) * cost.update_s + cost.sums_s + 2 * active * cost.call_s,
        "coefficients": 2 * batch * cost.coefficient_s,
        "sums": active * cost.add_s + remote * sums_bytes / cost.network_bytes_s,
        "map": cost.form_s + rounds * weights_bytes / cost.network_bytes_s + cost.prepare_s,
    }


def best_workers(batch: int, most: int, per_node: int, cost: BatchCost, *, sums_bytes: int, weights_bytes: int) -> int:
    """How many of at most ``most`` workers finish a batch soonest; more would only send more sums."""

    def seconds(workers: int) -> float:
        nodes = math.ceil(workers / per_node)
        return sum(
            batch_parts(batch, workers, nodes, cost, sums_bytes=sums_bytes, weights_bytes=weights_bytes).values()
        )

    return min(range(1, most + 1), key=seconds)


def on_gpu(cost: BatchCost, operations: int, *, sums_bytes: int, weights_bytes: int) -> BatchCost:
    """The cost with search and sums on a GPU, ASSUMED by its operations (of a search) and bytes.

    An image added is one pass over the sums, read and written; sums and map cross to the host and back.
    """
    return replace(
        cost,
        search_s=operations / GPU_OPERATIONS_PER_S,
        update_s=2 * sums_bytes / GPU_BYTES_S,
        sums_s=cost.sums_s + sums_bytes / GPU_HOST_BYTES_S,
        prepare_s=weights_bytes / GPU_HOST_BYTES_S,
    )
