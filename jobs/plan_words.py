"""A plan in words: its heading, the rows of its table, and the sentences below it."""

from skysom.jobs.plan import Plan
from skysom.jobs.report_words import duration, number, rate

HEAD = ("stage", "images", "workers", "read", "written", "operations", "memory a worker", "time", "images/s", "limit")


def heading(plan: Plan) -> str:
    """What is planned, and on what."""
    m = plan.machines
    searched = f"{m.gpus} GPUs, " if m.gpus else ""
    prepared = f", prepared to {plan.image_side}x{plan.image_side}" if plan.image_side != plan.cutout_side else ""
    return (
        f"{number(plan.images)} images of {plan.cutout_side}x{plan.cutout_side} pixels{prepared}, {plan.channels} "
        f"channel{'s' if plan.channels > 1 else ''}: {number(plan.shards)} shards of {plan.shard_images}\n"
        f"{number(plan.neurons)} neurons of {plan.neuron_side}x{plan.neuron_side}, {plan.rotations} rotations, "
        f"{plan.region} region\n"
        f"{searched}{m.workers} workers on {m.nodes} machine{'s' if m.nodes > 1 else ''} of {m.memory_gb:g} GB"
    )


def rows(plan: Plan) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Column names, and a row a stage with the whole at the end."""
    body = [
        (
            stage.stage, number(stage.images), number(stage.workers), quantity(stage.read_bytes, "B"),
            quantity(stage.written_bytes, "B"), quantity(stage.operations, "FLOP") if stage.operations else "",
            quantity(stage.worker_memory_bytes, "B"), duration(stage.seconds),
            rate(stage.images_s, 1), stage.limit,
        )
        for stage in plan.stages
    ]  # fmt: skip
    read, written = (sum(getattr(stage, name) for stage in plan.stages) for name in ("read_bytes", "written_bytes"))
    operations = sum(stage.operations for stage in plan.stages)
    whole = ("all", "", "", quantity(read, "B"), quantity(written, "B"), quantity(operations, "FLOP"), "")
    return HEAD, [*body, (*whole, duration(plan.seconds), "", "")]


def sentences(plan: Plan) -> list[str]:
    """Storage, the source of every rate, and what is assumed."""
    mapping = ", ".join(
        f"{quantity(size, 'B')} with {'all neurons' if kept == 'all' else kept}"
        for kept, size in plan.mapping_bytes.items()
    )
    return [
        f"stored: {quantity(plan.stored_bytes, 'B')} ({plan.stored_source}) in {number(plan.store_files)} files",
        f"mapping: {mapping} (map.keep), before compression",
        "where the rates come from:",
        *(f"  {stage.stage}: {stage.rate_source}" for stage in plan.stages),
        *(f"  {note}" for note in plan.notes),
    ]


def quantity(value: float, unit: str) -> str:
    """``value`` to three digits with a decimal prefix: 28.4 GB, 1.2 EFLOP."""
    prefixes = ("", "k", "M", "G", "T", "P", "E")
    step = 0
    while value >= 999.5 and step + 1 < len(prefixes):
        value, step = value / 1000, step + 1
    return f"{value:.3g} {prefixes[step]}{unit}"
