"""Measure what `simulate_scaling.py` simulates with: task times and reduce sizes on this machine, into rates.json.

    python tests/benchmarks/measure_rates.py

One thread, short, repeated, the least of the repeats (of serial waits the median): run it on a quiet machine.
The case is that of the literature: images of 150x150, 100 neurons, 360 rotations, flips. No GPU is measured.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from skysom.cluster.costs import Workload
from skysom.engine import Geometry
from skysom.jobs import plan_rates

RATES = Path(__file__).with_name("rates.json")


def case(side: int = 150, neurons: int = 100, rotations: int = 360) -> Workload:
    """The mapping of 40 million images that is simulated."""
    return Workload(40_000_000, 1, side, neurons, Geometry.derive(side, rotations, True, "quadratic"))


def measure(work: Workload, repeats: int = 5) -> dict[str, Any]:
    """Seconds, bytes and what they are of, as rates.json holds them."""
    g = work.geometry
    plan_rates.training_times.cache_clear()
    times = plan_rates.training_times(g, work.neurons, work.channels, repeats)
    write_s, read_s = plan_rates.store_s(work.channels, g.image_side, work.store, repeats=repeats)
    _, decode_s = plan_rates.store_s(work.channels, g.image_side, work.store, repeats=repeats, disk=False)
    return {
        "machine": machine(),
        "case": {
            "image_side": g.image_side,
            "neurons": work.neurons,
            "rotations": g.rotations,
            "region": g.region,
            "shard_images": work.shard_images,
        },
        "pass": {
            "search_s": plan_rates.search_s(g, work.neurons, work.channels, repeats),
            "decode_s": decode_s,
            "read_s": read_s,
            "write_images_s": write_s,
            "encode_mapping_s": plan_rates.mapping_write_s(work.neurons, work.keep, repeats=repeats, disk=False),
            "write_mapping_s": plan_rates.mapping_write_s(work.neurons, work.keep, repeats=repeats),
            "record_s": plan_rates.record_s(records=100),
            "event_s": event_s(),
        },
        "training": {name: getattr(times, name) for name in type(times).__dataclass_fields__},
        "ray": through_ray(work.sums_bytes, work.weights_bytes, repeats),
    }


def machine() -> dict[str, Any]:
    """What was measured on, and when."""
    import psutil

    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def event_s(events: int = 200) -> float:
    """Seconds of one line of history.jsonl: what the driver writes beside the ledger for every shard."""
    from skysom.jobs.output import Output

    with tempfile.TemporaryDirectory() as folder:
        output = Output(Path(folder))
        return plan_rates.least_s(lambda: [output.log("shard", start=0, stop=256) for _ in range(events)]) / events


class Sums:
    """An actor that makes a worker's sums."""

    def __init__(self, size: int) -> None:
        self.values = np.arange(size, dtype=np.int64)

    def ping(self) -> None:
        """An empty call."""

    def make(self) -> np.ndarray:
        """The sums, copied into the object store as they are returned."""
        return self.values

    def take(self, weights: np.ndarray) -> float:
        """Copy a map out of the object store, as a worker does; its seconds."""
        started = time.perf_counter()
        np.array(weights)
        return time.perf_counter() - started


def through_ray(sums_bytes: int, weights_bytes: int, repeats: int) -> dict[str, float]:
    """Seconds through Ray's object store of one machine: an empty call, sums there and added, a map there and taken."""
    import ray

    from skysom.cluster.ray_executor import start_ray

    start_ray(2, None)
    try:
        actor: Any = ray.remote(num_cpus=1)(Sums).remote(sums_bytes // 8)
        ray.get(actor.ping.remote(), timeout=120)
        latency = calls_s(actor, 1, 200)
        moved, added, shared, taken = [], [], [], []
        total = np.zeros(sums_bytes // 8, np.int64)
        weights = np.ones(weights_bytes // 4, np.float32)
        for _ in range(2 * repeats):
            started = time.perf_counter()
            part = ray.get(actor.make.remote(), timeout=60)
            there = time.perf_counter()
            total += part
            moved.append(there - started)
            added.append(time.perf_counter() - there)
            started = time.perf_counter()
            reference = ray.put(weights)
            shared.append(time.perf_counter() - started)
            taken.append(ray.get(actor.take.remote(reference), timeout=60))
            del part, reference
        return {
            "call_s": calls_s(actor, 100, 2 * repeats) / 100,
            "latency_s": latency,
            "sums_put_s": min(moved) - latency,
            "sums_add_s": min(added),
            "map_put_s": min(shared),
            "map_take_s": min(taken),
            "sums_bytes": sums_bytes,
            "weights_bytes": weights_bytes,
        }
    finally:
        ray.shutdown()


def calls_s(actor: Any, count: int, repeats: int) -> float:
    """Seconds of ``count`` empty calls made at once and collected one by one, as a crew does: the median."""
    import ray

    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        pending = [actor.ping.remote() for _ in range(count)]
        while pending:
            done, pending = ray.wait(pending, num_returns=1, timeout=60)
            ray.get(done[0], timeout=60)
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def main() -> None:
    """Measure, write rates.json and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, default=RATES)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    rates = measure(case(), arguments.repeats)
    text = json.dumps(rates, indent=1, default=float)
    arguments.to.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
