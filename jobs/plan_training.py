"""The training of a plan: stage by stage of the recipe, in batches on all workers or online on one."""

import math
from dataclasses import dataclass, replace

from skysom.cluster import costs
from skysom.engine.geometry import Geometry
from skysom.jobs import plan_rates
from skysom.jobs.plan_subject import Machines, StagePlan, Subject
from skysom.jobs.train import geometry_of, lattice_of, with_batches

NETWORK_BYTES_S = 25e9 / 8
"""ASSUMED of one machine's network, bytes a second: 25 Gb/s."""
CALL_S = 1e-3
"""ASSUMED of one call of a worker on another machine, sent and answered."""
TERA = 1e12
GPU_ASSUMED = (
    f"ASSUMED: no GPU measured, {costs.GPU_OPERATIONS_PER_S / TERA:.0f} TFLOP/s and "
    f"{costs.GPU_BYTES_S / TERA:.0f} TB/s sustained by one of the H100 class"
)
SERIAL = "train: batch size 1 is online training, one image after another on one worker; see train.batch_size"
LIMITS = {
    "search": "the workers",
    "coefficients": "the coefficients",
    "sums": "the coordinator's sum",
    "map": "spreading the new map",
}
MOST_SEARCHED = 4096
"""Numbers of workers tried for the advice."""


@dataclass(frozen=True)
class Stage:
    """A training stage: its geometry, batch size, and how often an image is presented."""

    geometry: Geometry
    batch: int
    epochs: int


@dataclass(frozen=True)
class Found:
    """Seconds of a training, what limits it, and where that comes from."""

    seconds: float
    limit: str
    source: str
    notes: tuple[str, ...] = ()


def train_stage(
    subject: Subject, machines: Machines, given: float | None, base: int
) -> tuple[StagePlan, tuple[str, ...]]:
    """The plan of training, and its notes. given: presentations a second of one worker; base: bytes of a process."""
    work, train = subject.work, subject.config.train
    recipe = recipe_of(subject)
    workers = workers_of(recipe, machines)
    presented = sum(stage.epochs for stage in recipe) * subject.rows
    found = _time(subject, machines, recipe, workers, given)
    memory = training_bytes(subject, machines)
    # A selection larger than what is held is read again every epoch, in its new order.
    again = workers > 1 and subject.rows > 2 * train.shuffle_images
    reads = sum(stage.epochs for stage in recipe) if again else 1
    operations = sum(stage.epochs * subject.rows * _operations(subject, stage.geometry) for stage in recipe)
    return (
        StagePlan(
            "train", presented, workers, reads * subject.rows * (work.prepared_bytes + 1),
            work.weights_bytes * (1 + (len(recipe) - 1) * train.keep_stages), operations,
            base + math.ceil(memory / workers), found.seconds, presented / found.seconds, found.limit, found.source,
        ),
        found.notes,
    )  # fmt: skip


def recipe_of(subject: Subject) -> list[Stage]:
    """The training stages."""
    config, side = subject.config, subject.work.geometry.image_side
    return [
        Stage(geometry_of(config, side, stage.rotations), min(stage.batch_size or 1, subject.rows), stage.iterations)
        for stage in with_batches(config, lattice_of(config), subject.rows).train.stages
    ]


def workers_of(recipe: list[Stage], machines: Machines) -> int:
    """Workers of a training: one where all of it is online."""
    return 1 if all(stage.batch == 1 for stage in recipe) else machines.searchers


def training_bytes(subject: Subject, machines: Machines) -> int:
    """Peak bytes of the arrays of training, of all workers and the coordinator; what train.memory_gb limits."""
    recipe = recipe_of(subject)
    pairs = [(stage.geometry, stage.batch) for stage in recipe]
    window = subject.config.train.shuffle_images
    work, workers = subject.work, workers_of(recipe, machines)
    sizes = {"neurons": work.neurons, "channels": work.channels, "rows": subject.rows}
    return costs.train_memory(pairs, **sizes, window=window, workers=workers)


def _operations(subject: Subject, geometry: Geometry) -> int:
    return costs.search_operations(geometry, neurons=subject.work.neurons, channels=subject.work.channels)


def _time(subject: Subject, machines: Machines, recipe: list[Stage], workers: int, given: float | None) -> Found:
    presented = sum(stage.epochs for stage in recipe) * subject.rows
    notes: tuple[str, ...] = (SERIAL,) if any(stage.batch == 1 for stage in recipe) else ()
    if given is not None:
        return Found(presented / (given * workers), "the workers", "given by --rate-train", notes)
    if workers == 1 and all(stage.batch == 1 for stage in recipe) and subject.online_s is not None:
        return Found(presented * subject.online_s, "one worker", f"from {subject.place}'s history", notes)
    seconds = sum(_online_s(subject, stage, recipe) for stage in recipe if stage.batch == 1)
    batched = [stage for stage in recipe if stage.batch > 1]
    if not batched:
        return Found(seconds, "one worker", plan_rates.MEASURED, notes)
    parts = _batches(subject, machines, batched, workers)
    best = _best(subject, machines, batched)
    if best < workers:
        fewer = seconds + sum(_batches(subject, machines, batched, best).values())
        notes += (
            f"train: {best} of the {workers} workers would do it in {fewer:,.0f} s instead of "
            f"{seconds + sum(parts.values()):,.0f} s, as every worker sends its own sums; give fewer, or larger "
            f"batches than {max(stage.batch for stage in batched):,} (train.batch_size)",
        )
    source = plan_rates.MEASURED
    if machines.gpus:
        source = f"search and sums {GPU_ASSUMED}; coordinator {source}"
    source += f"; network of {NETWORK_BYTES_S * 8 / 1e9:.0f} Gb/s and {CALL_S * 1e3:.0f} ms a call ASSUMED"
    return Found(seconds + sum(parts.values()), LIMITS[max(parts, key=lambda name: parts[name])], source, notes)


def _finest(recipe: list[Stage]) -> Geometry:
    """Geometry of the most rotations: it is measured, and the others follow by their number."""
    return max((stage.geometry for stage in recipe), key=lambda geometry: geometry.rotations)


def _online_s(subject: Subject, stage: Stage, recipe: list[Stage]) -> float:
    work, finest = subject.work, _finest(recipe)
    one = plan_rates.online_s(finest, work.neurons, work.channels)
    return stage.epochs * subject.rows * one * stage.geometry.base_rotations / finest.base_rotations


def _batches(subject: Subject, machines: Machines, stages: list[Stage], workers: int) -> dict[str, float]:
    """Seconds of the parts of all batches of ``stages`` by ``workers``."""
    parts, per_node = dict.fromkeys(costs.BATCH_PARTS, 0.0), machines.per_node(machines.searchers)
    for stage in stages:
        cost, tell = _cost(subject, machines, stages, stage), _sizes(subject)
        batches = stage.epochs * math.ceil(subject.rows / stage.batch)
        of_one = costs.batch_parts(stage.batch, workers, math.ceil(workers / per_node), cost, **tell)
        parts = {name: parts[name] + batches * value for name, value in of_one.items()}
    return parts


def _best(subject: Subject, machines: Machines, stages: list[Stage]) -> int:
    """Workers that finish the stage of most presentations soonest."""
    stage = max(stages, key=lambda stage: stage.epochs)
    cost, per_node = _cost(subject, machines, stages, stage), machines.per_node(machines.searchers)
    most = min(machines.searchers, MOST_SEARCHED)
    return costs.best_workers(stage.batch, most, per_node, cost, **_sizes(subject))


def _sizes(subject: Subject) -> dict[str, int]:
    return {"sums_bytes": subject.work.sums_bytes, "weights_bytes": subject.work.weights_bytes}


def _cost(subject: Subject, machines: Machines, stages: list[Stage], stage: Stage) -> costs.BatchCost:
    work, finest = subject.work, _finest(stages)
    times = plan_rates.training_times(finest, work.neurons, work.channels)
    cost = costs.BatchCost(
        times.search_s, times.update_s, times.coefficient_s, times.sums_s, times.add_s, times.form_s,
        times.prepare_s, CALL_S, NETWORK_BYTES_S,
    )  # fmt: skip
    cost = replace(cost, search_s=cost.search_s * stage.geometry.base_rotations / finest.base_rotations)
    return costs.on_gpu(cost, _operations(subject, stage.geometry), **_sizes(subject)) if machines.gpus else cost
