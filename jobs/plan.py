"""Plan: what a run will take on a given cluster, before it is started, and where each figure comes from.

A figure is measured here (seconds of the real code on random images), taken from an output's history, given by
the user, or assumed; the plan says which, line by line.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from skysom.cluster import costs
from skysom.cluster.costs import Cost, Duration, Limits, Traffic, Workload
from skysom.jobs import plan_rates
from skysom.jobs.plan_rates import Rate
from skysom.jobs.plan_subject import Machines, StagePlan, Subject
from skysom.jobs.plan_training import GPU_ASSUMED, train_stage, training_bytes

SHARED_BYTES_S = 10e9
"""ASSUMED of a store that several machines share, bytes a second."""
USABLE_MEMORY = 0.9
"""Share of a machine's memory that workers may fill."""
KEEP_SHOWN = 10
"""Neurons kept an image in the comparison, where no number is given."""


@dataclass(frozen=True)
class Plan:
    """What `make_plan` finds; problems are reasons not to start, notes are assumptions and advice."""

    images: int
    shards: int
    shard_images: int
    channels: int
    cutout_side: int
    image_side: int
    neurons: int
    neuron_side: int
    rotations: int
    region: str
    store_files: int
    stored_bytes: int
    stored_source: str
    mapping_bytes: dict[str, int]
    stages: tuple[StagePlan, ...]
    seconds: float
    machines: Machines
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The plan as JSON."""
        return json.dumps(asdict(self), indent=1)


def make_plan(
    subject: Subject, machines: Machines, given: Mapping[str, float] | None = None, measure_in: Path | None = None
) -> Plan:
    """The plan of ``subject`` on ``machines``. Rates that no history tells are measured here, for some seconds.

    given : images a second of one worker by stage ("ingest", "preprocess", "train", "map"); they win.
    measure_in : a folder on the file system that will hold the survey; default that of temporary files.
    """
    work, given = subject.work, given or {}
    base = plan_rates.resident_bytes()
    rates = _rates(subject, given, measure_in, machines.gpus)
    limits, notes = _limits(machines, measure_in)
    if machines.gpus:
        rates["map"] = _on_gpu(work, rates["map"], "map" in given)
    stages = [
        _pass_stage(subject, machines, limits, "ingest", rates, costs.ingest_traffic(work), base),
        _pass_stage(subject, machines, limits, "preprocess", rates, costs.preprocess_traffic(work), base),
    ]
    train, more = train_stage(subject, machines, given.get("train"), base)
    stages += [train, _pass_stage(subject, machines, limits, "map", rates, costs.map_traffic(work), base)]
    raw = sum(stage.written_bytes for stage in stages if stage.stage != "train")
    share = subject.stored_share
    keep = min(work.keep or KEEP_SHOWN, work.neurons)
    by_keep = {"all": costs.mapping_bytes(replace(work, keep=None))}
    by_keep[f"keep {keep}"] = costs.mapping_bytes(replace(work, keep=keep))
    g = work.geometry
    return Plan(
        work.images, work.shards, work.shard_images, work.channels, work.cutout_side, g.image_side, work.neurons,
        g.neuron_side, g.rotations, g.region, costs.store_files(work), round(raw * (share or 1.0)),
        subject.stored_source, by_keep, tuple(stages), sum(stage.seconds for stage in stages), machines,
        (*notes, *more), _problems(subject, machines, stages),
    )  # fmt: skip


def _rates(subject: Subject, given: Mapping[str, float], measure_in: Path | None, gpus: int) -> dict[str, Rate]:
    """Rates of the passes: given, of the history, or measured here."""
    rates = dict(subject.rates)
    for stage in ("ingest", "preprocess", "map"):
        if stage in given:
            rates[stage] = Rate(Cost(0.0, 1 / given[stage], 0.0), f"given by --rate-{stage}")
    missing = {"ingest", "preprocess", "map"} - rates.keys()
    if missing:
        share = subject.config.map.check_share
        measured = plan_rates.measured_rates(
            subject.work, subject.chain, missing, measure_in, search=not gpus, check_share=share
        )
        rates |= {stage: measured[stage] for stage in missing}
    return rates


def _limits(machines: Machines, measure_in: Path | None) -> tuple[Limits, list[str]]:
    """What workers share, and in words where that comes from."""
    record_s = plan_rates.record_s(measure_in)
    notes = [f"ledger: {record_s * 1e3:.1f} ms a shard, one after another, {plan_rates.MEASURED}"]
    if machines.store_gb_s is not None:
        notes.append(f"store: {machines.store_gb_s:g} GB/s for all workers together, given by --store-gb-s")
        return Limits(machines.store_gb_s * 1e9, record_s), notes
    if machines.nodes == 1 and not machines.gpus:
        return Limits(None, record_s), notes
    notes.append(
        f"store: {SHARED_BYTES_S / 1e9:g} GB/s for all workers together, ASSUMED; give yours with --store-gb-s"
    )
    return Limits(SHARED_BYTES_S, record_s), notes


def _on_gpu(work: Workload, rate: Rate, given: bool) -> Rate:
    """The rate with the search on a GPU; what a user gave or a GPU's history tells stays."""
    if given or "cuda" in rate.source or "gpu" in rate.source.lower():
        return rate
    seconds = search_operations(work) / costs.GPU_OPERATIONS_PER_S
    return Rate(replace(rate.cost, compute_s=seconds), f"search {GPU_ASSUMED}; reading and writing {rate.source}")


def search_operations(work: Workload) -> int:
    """Operations of the search of one image of ``work``."""
    return costs.search_operations(work.geometry, neurons=work.neurons, channels=work.channels)


_LIMITS = {"workers": "the workers", "store": "the store's bandwidth", "ledger": "the ledger, one shard at a time"}


def _pass_stage(
    subject: Subject,
    machines: Machines,
    limits: Limits,
    stage: str,
    rates: Mapping[str, Rate],
    traffic: Traffic,
    base: int,
) -> StagePlan:
    work, rate = subject.work, rates[stage]
    workers, on_gpu = (machines.searchers, bool(machines.gpus)) if stage == "map" else (machines.workers, False)
    duration = costs.pass_duration(work, rate.cost, traffic, workers, limits, overlapped=on_gpu)
    memory = costs.map_memory(work) if stage == "map" else costs.pass_memory(work)
    counted = stage == "map" and (work.method == "exact" or on_gpu)  # of other searches no number is known
    return StagePlan(
        stage, work.images, workers, traffic.read, traffic.written,
        work.images * search_operations(work) if counted else 0, base + memory, duration.seconds,
        work.images / duration.seconds, _limit(duration, rate.cost, on_gpu), rate.source,
    )  # fmt: skip


def _limit(duration: Duration, cost: Cost, on_gpu: bool) -> str:
    if duration.limit != "workers" or not on_gpu:
        return _LIMITS[duration.limit]
    parts = {"reading and decoding": cost.read_s, "the search": cost.compute_s, "writing": cost.write_s}
    return max(parts, key=lambda name: parts[name])


def _problems(subject: Subject, machines: Machines, stages: list[StagePlan]) -> tuple[str, ...]:
    """Why it should not be started: memory that would not suffice, with the number, the limit and the option."""
    found, memory, train = [], USABLE_MEMORY * machines.memory_gb * 1e9, subject.config.train
    for stage in stages:
        here = machines.per_node(stage.workers)
        need = here * stage.worker_memory_bytes
        if need > memory:
            fit = int(memory // stage.worker_memory_bytes)
            remedy = f"at most {fit} fit there (--workers {fit * machines.nodes})" if fit else "not one fits there"
            found.append(
                f"{stage.stage} needs {need / 1e9:.1f} GB on a machine with {here} workers of "
                f"{stage.worker_memory_bytes / 1e9:.2f} GB, --memory-gb gives {machines.memory_gb:g} GB "
                f"({USABLE_MEMORY:.0%} of it usable): {remedy}; or lower "
                f"{'train.shuffle_images or train.sample' if stage.stage == 'train' else 'ingest.shard_images'}, "
                "or use fewer or smaller neurons"
            )
    need = training_bytes(subject, machines)
    if need > train.memory_gb * 1e9:
        found.append(
            f"training on {subject.rows:,} images needs {need / 1e9:.1f} GB in all, train.memory_gb allows "
            f"{train.memory_gb:g}; lower train.sample or train.shuffle_images, or raise train.memory_gb"
        )
    return tuple(found)
