"""Where scaling ends: the mapping of 40 million images and batched training on 1 to 64 machines, simulated.

    python tests/benchmarks/simulate_scaling.py [--quick] [--plot cluster/scaling.png]

Task times and reduce sizes are those of rates.json (`measure_rates.py`); what could not be measured is in
`Assumed`, and said so in what is printed. The simulation is one of discrete events (simpy), seeded.
"""

import argparse
import heapq
import json
import random
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import simpy
from measure_rates import RATES, case

from skysom.cluster import costs
from skysom.cluster.costs import BatchCost, Workload
from skysom.storage.jsonlines import FLUSH_S

NODES = (1, 2, 4, 8, 16, 32, 64)
BATCHES = (256, 1024, 4096, 16384)
IN_FLIGHT = 3
"""Shards of a worker: read ahead, searched, written (cluster/pipeline.py)."""


@dataclass(frozen=True)
class Assumed:
    """What is not measured: bandwidths in bytes a second, times in seconds."""

    file_system_bytes_s: float = 10e9
    network_bytes_s: float = 25e9 / 8
    stream_bytes_s: float = 100e6
    streams: int = 4
    """Parts of a shard an object store is asked for at a time: its chunks."""
    put_s: float = 0.03
    """One PUT of a small object."""
    scatter: float = 0.1
    """Of task times, as a share."""


@dataclass(frozen=True)
class Machine:
    """A kind of node: workers on it, cores of a worker (3: one to read, to search, to write), search of an image."""

    name: str
    workers: int
    cores: int
    search_s: float


@dataclass(frozen=True)
class Pass:
    """A mapping to simulate: seconds an image of reading (decoding) and writing (encoding), bytes an image, seconds a
    shard of the driver, and the links: the store's for all, one stream, and a node's network."""

    machine: Machine
    decode_s: float
    encode_s: float
    read_bytes: int
    write_bytes: int
    driver_s: float
    driver_name: str
    store_bytes_s: float
    stream_bytes_s: float
    network_bytes_s: float
    shard_images: int
    scatter: float


class Link:
    """Bandwidth that transfers share equally, each at most ``stream_s``; a transfer is an event of its end."""

    def __init__(self, env: simpy.Environment, bytes_s: float, stream_s: float = float("inf")) -> None:
        self.env, self.bytes_s, self.stream_s = env, bytes_s, stream_s
        self.active: list[tuple[float, int, simpy.Event]] = []
        self.each = self.at = 0.0  # bytes every transfer has got since the beginning, and until when
        self.started = self.alarm = 0

    def transfer(self, size: float) -> simpy.Event:
        """Event of the end of a transfer of ``size`` bytes that begins now."""
        self._advance()
        done = self.env.event()
        self.started += 1
        heapq.heappush(self.active, (self.each + size, self.started, done))
        self._wake()
        return done

    def _rate(self) -> float:
        return min(self.stream_s, self.bytes_s / len(self.active)) if self.active else 0.0

    def _advance(self) -> None:
        self.each += self._rate() * (self.env.now - self.at)
        self.at = self.env.now

    def _wake(self) -> None:
        self.alarm += 1
        if self.active:
            number, left = self.alarm, max(self.active[0][0] - self.each, 0.0)
            alarm = self.env.timeout(left / self._rate())
            alarm.callbacks.append(lambda _: self._ring(number))

    def _ring(self, number: int) -> None:
        if number != self.alarm:  # another transfer has begun or ended meanwhile
            return
        self.each, self.at = max(self.each, self.active[0][0]), self.env.now
        while self.active and self.active[0][0] <= self.each * (1 + 1e-12):
            heapq.heappop(self.active)[2].succeed()
        self._wake()


class PassRun:
    """One simulated mapping: workers with their pipelines, links, and the driver that records shard after shard."""

    def __init__(self, setting: Pass, nodes: int, rounds: int, seed: int = 0) -> None:
        self.setting, self.nodes, self.rounds = setting, nodes, rounds
        self.random = random.Random(seed)
        self.env = simpy.Environment()
        self.store = Link(self.env, setting.store_bytes_s, setting.stream_bytes_s)
        self.networks = [Link(self.env, setting.network_bytes_s) for _ in range(nodes)]
        self.driver = simpy.Resource(self.env, 1)
        self.driver_busy = 0.0
        self.finished: list[float] = []

    def images_s(self) -> float:
        """Images a second once all pipelines are filled and before any is empty."""
        for node in range(self.nodes):
            for _ in range(self.setting.machine.workers):
                self._worker(node)
        self.env.run()
        # Whole rounds of all workers, while shards are still being read ahead.
        workers = self.nodes * self.setting.machine.workers
        first, last = 2 * workers, (self.rounds - IN_FLIGHT - 1) * workers
        shards = last - first
        return shards * self.setting.shard_images / (self.finished[last] - self.finished[first])

    def limit(self, images_s: float) -> tuple[str, float]:
        """What is busiest at this rate, and the share of its time."""
        s = self.setting
        per_worker = images_s / (self.nodes * s.machine.workers)
        steps = (s.decode_s, s.machine.search_s, s.encode_s)
        cores = sum(steps) if s.machine.cores == 1 else max(steps)
        names = {"reading": s.decode_s, "search": s.machine.search_s, "writing": s.encode_s}
        most = max(names, key=lambda name: names[name])
        size = s.read_bytes + s.write_bytes
        shares = {
            f"workers ({most})": per_worker * cores,
            "store": images_s * size / s.store_bytes_s,
            "network of a node": images_s * size / self.nodes / s.network_bytes_s,
            s.driver_name: images_s / s.shard_images * s.driver_s,
            "streams of the store": per_worker * max(s.read_bytes, s.write_bytes) / s.stream_bytes_s,
        }
        busiest = max(shares, key=lambda name: shares[name])
        return busiest, shares[busiest]

    def _time(self, seconds: float) -> simpy.Event:
        return self.env.timeout(seconds * self.setting.shard_images * self._scatter())

    def _scatter(self) -> float:
        return max(0.2, self.random.gauss(1.0, self.setting.scatter))

    def _worker(self, node: int) -> None:
        cores = [simpy.Resource(self.env, 1) for _ in range(self.setting.machine.cores)]
        flights = simpy.Resource(self.env, IN_FLIGHT)
        for _ in range(self.rounds):
            self.env.process(self._shard(node, cores, flights))

    def _shard(self, node: int, cores: list, flights: simpy.Resource) -> Generator:
        s = self.setting
        with flights.request() as place:
            yield place
            if s.machine.cores == 1:
                yield self._move(node, s.read_bytes)
                with cores[0].request() as core:
                    yield core
                    yield self._time(s.decode_s + s.machine.search_s + s.encode_s)
                yield self._move(node, s.write_bytes)
            else:  # as in the pipeline, each step has one thread
                with cores[0].request() as thread:
                    yield thread
                    yield self._move(node, s.read_bytes)
                    yield self._time(s.decode_s)
                with cores[1].request() as thread:
                    yield thread
                    yield self._time(s.machine.search_s)
                with cores[2].request() as thread:
                    yield thread
                    yield self._time(s.encode_s)
                    yield self._move(node, s.write_bytes)
            with self.driver.request() as driver:
                yield driver
                yield self.env.timeout(s.driver_s)
            self.finished.append(self.env.now)

    def _move(self, node: int, size: int) -> simpy.Event:
        size *= self.setting.shard_images
        return simpy.AllOf(self.env, [self.store.transfer(size), self.networks[node].transfer(size)])


class BatchRun:
    """One simulated training batch: search, sums of every worker to the coordinator, the new map to every machine.

    by_node: sums are added up on each machine first and then in pairs of machines (a tree; not how it is built).
    """

    def __init__(self, work: Workload, cost: BatchCost, nodes: int, workers: int, *, by_node: bool = False) -> None:
        self.work, self.cost, self.nodes, self.workers, self.by_node = work, cost, nodes, workers, by_node
        self.env = simpy.Environment()
        self.network = Link(self.env, cost.network_bytes_s)
        self.adder = simpy.Resource(self.env, 1)

    def seconds(self, batch: int) -> dict[str, float]:
        """Seconds of the parts of one batch (see costs.BATCH_PARTS)."""
        cost = self.cost
        blocks = -(-batch // cost.block_images)
        active = min(self.workers, blocks)
        shares = [cost.block_images * (blocks // active + (i < blocks % active)) for i in range(active)]
        marks: list[float] = []
        workers = [self.env.process(self._search(share, batch)) for share in shares]
        self.env.process(self._coordinate(workers, batch, active, marks))
        self.env.run()
        searched, found, summed, spread = marks
        return {"search": searched, "coefficients": found - searched, "sums": summed - found, "map": spread - summed}

    def _search(self, share: int, batch: int) -> Generator:
        cost = self.cost
        yield self.env.timeout(share * cost.search_s)
        yield self.env.timeout(min(share, batch) * cost.update_s + cost.sums_s)

    def _coordinate(self, workers: list, batch: int, active: int, marks: list[float]) -> Generator:
        cost = self.cost
        yield simpy.AllOf(self.env, workers)
        yield self.env.timeout(2 * active * cost.call_s)
        marks.append(self.env.now)
        # Found by all workers at once, and then again by the coordinator: here one after the other.
        yield self.env.timeout(2 * batch * cost.coefficient_s)
        marks.append(self.env.now)
        local = -(-active // self.nodes)
        if self.by_node:
            yield self.env.timeout(local * cost.add_s)
            for _ in range(_rounds(min(self.nodes, active))):
                yield self.env.timeout(self.work.sums_bytes / cost.network_bytes_s + cost.add_s)
        else:
            yield simpy.AllOf(self.env, [self.env.process(self._sum(i >= local)) for i in range(active)])
        marks.append(self.env.now)
        yield self.env.timeout(cost.form_s)
        for _ in range(_rounds(self.nodes)):
            yield self.env.timeout(self.work.weights_bytes / cost.network_bytes_s)
        yield self.env.timeout(cost.prepare_s)
        marks.append(self.env.now)

    def _sum(self, remote: bool) -> Generator:
        if remote:
            yield self.network.transfer(self.work.sums_bytes)
        with self.adder.request() as turn:
            yield turn
            yield self.env.timeout(self.cost.add_s)


def _rounds(nodes: int) -> int:
    return (nodes - 1).bit_length()


# --- scenarios --------------------------------------------------------------------------------------


def machines(rates: dict[str, Any], work: Workload) -> dict[str, Machine]:
    """A node of 32 cores, measured; and one of 4 GPUs, assumed."""
    operations = costs.search_operations(work.geometry, neurons=work.neurons, channels=work.channels)
    gpu_s = operations / costs.GPU_OPERATIONS_PER_S
    return {
        "cpu": Machine("CPU nodes, 32 cores", 32, 1, rates["pass"]["search_s"]),
        "gpu": Machine("GPU nodes, 4 GPUs (search assumed)", 4, 3, gpu_s),
    }


def passes(rates: dict[str, Any], work: Workload, assumed: Assumed) -> dict[str, Pass]:
    """The mappings that are simulated, by name."""
    measured, kinds = rates["pass"], machines(rates, work)
    traffic = costs.map_traffic(work)
    driver_s = measured["record_s"] + measured["event_s"] + rates["ray"]["call_s"]
    shared = Pass(
        kinds["cpu"], measured["decode_s"], measured["encode_mapping_s"], traffic.read // work.images,
        traffic.written // work.images, driver_s, "driver and ledger", assumed.file_system_bytes_s,
        assumed.file_system_bytes_s, assumed.network_bytes_s, work.shard_images, assumed.scatter,
    )  # fmt: skip
    store = replace(
        shared,
        # Records are kept back for FLUSH_S: two PUTs, one for the ledger and one for the history, in that time.
        driver_s=rates["ray"]["call_s"] / (1 - 2 * assumed.put_s / FLUSH_S),
        driver_name="driver",
        store_bytes_s=1e15,
        stream_bytes_s=assumed.streams * assumed.stream_bytes_s,
    )
    return {
        "CPU nodes, shared file system": shared,
        "GPU nodes, shared file system": replace(shared, machine=kinds["gpu"]),
        "CPU nodes, object store": store,
        "GPU nodes, object store": replace(store, machine=kinds["gpu"]),
        "GPU nodes, object store, if each record were a PUT": replace(
            store,
            machine=kinds["gpu"],
            driver_s=2 * assumed.put_s + rates["ray"]["call_s"],
            driver_name="ledger (a PUT a shard)",
        ),
    }


def batch_costs(rates: dict[str, Any], work: Workload, assumed: Assumed) -> dict[str, BatchCost]:
    """Costs of training batches on the two kinds of node."""
    t, ray = rates["training"], rates["ray"]
    cpu = BatchCost(
        t["search_s"], t["update_s"], t["coefficient_s"], t["sums_s"] + ray["sums_put_s"], ray["sums_add_s"],
        t["form_s"] + ray["map_put_s"], ray["map_take_s"] + t["prepare_s"], ray["call_s"], assumed.network_bytes_s,
    )  # fmt: skip
    operations = costs.search_operations(work.geometry, neurons=work.neurons, channels=work.channels)
    sizes = {"sums_bytes": work.sums_bytes, "weights_bytes": work.weights_bytes}
    return {"cpu": cpu, "gpu": costs.on_gpu(cpu, operations, **sizes)}


@dataclass(frozen=True)
class Point:
    """Images a second on so many nodes, and what limits them."""

    nodes: int
    images_s: float
    limit: str


def simulate_pass(setting: Pass, nodes: Iterable[int] = NODES) -> list[Point]:
    """Images a second of a mapping by number of nodes."""
    found = []
    for count in nodes:
        rounds = min(max(2000 // (count * setting.machine.workers), 9), 60)
        run = PassRun(setting, count, rounds, seed=count)
        rate = run.images_s()
        limit, share = run.limit(rate)
        # A short simulation begins with reads made ahead; nothing is busy for more than all of its time.
        found.append(Point(count, rate / max(share, 1.0), limit))
    return found


def simulate_training(
    work: Workload, cost: BatchCost, per_node: int, batch: int, nodes: Iterable[int] = NODES, *, by_node: bool = False
) -> list[Point]:
    """Presentations a second by number of nodes; every node uses ``per_node`` workers."""
    found = []
    for count in nodes:
        parts = BatchRun(work, cost, count, count * per_node, by_node=by_node).seconds(batch)
        most = max(parts, key=lambda name: parts[name])
        idle = most == "search" and count * per_node > batch / cost.block_images
        found.append(Point(count, batch / sum(parts.values()), "batch too small" if idle else most))
    return found


# --- what is printed --------------------------------------------------------------------------------


Mapped = dict[str, list[Point]]
Trained = dict[tuple[str, int, bool], list[Point]]


def simulate(rates: dict[str, Any], assumed: Assumed, nodes: tuple[int, ...] = NODES) -> tuple[Mapped, Trained]:
    """All mappings by name, and all trainings by (kind of node, batch size, by_node)."""
    work = case()
    mapped = {name: simulate_pass(setting, nodes) for name, setting in passes(rates, work, assumed).items()}
    trained = {}
    kinds, of_batch = machines(rates, work), batch_costs(rates, work, assumed)
    for kind, machine in kinds.items():
        for batch in BATCHES:
            for by_node in (False, True):
                found = simulate_training(work, of_batch[kind], machine.workers, batch, nodes, by_node=by_node)
                trained[kind, batch, by_node] = found
    return mapped, trained


def main() -> None:
    """Simulate with rates.json, print the tables, and draw the plot where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", type=Path, default=RATES)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--quick", action="store_true", help="up to 16 nodes, in seconds")
    arguments = parser.parse_args()
    rates, assumed = json.loads(arguments.rates.read_text()), Assumed()
    from scaling_tables import said, tables

    mapped, trained = simulate(rates, assumed, NODES[:5] if arguments.quick else NODES)
    print(said(rates, assumed) + "\n\n" + tables(mapped, trained, case().images))
    if arguments.plot is not None:
        from plot_scaling import plot

        plot(mapped, trained, arguments.plot)


if __name__ == "__main__":
    main()
