"""A pass as a stage of a job: progress for the user, events for history.jsonl."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from skysom.cluster.executors import ShardResult
from skysom.cluster.ledger import Shard
from skysom.cluster.pipeline import ShardWorker
from skysom.cluster.shards import PassEvent, Runtime, run_pass
from skysom.jobs.output import STAGES, Output, Timer
from skysom.jobs.progress import Progress

RunPass = Callable[[Sequence[Shard], ShardWorker, str], list[dict]]


@dataclass(frozen=True)
class _Ready:
    """Hands a ready worker to an executor; a class because closures cannot travel to other processes."""

    worker: ShardWorker

    def __call__(self) -> ShardWorker:
        return self.worker


@dataclass
class WorkerSummary:
    """What a worker did in a stage: seconds of its steps, and the largest peak of resident bytes of its processes.

    host and device are those of its last shard: a worker that was lost is replaced, elsewhere perhaps.
    """

    host: str = ""
    device: str = ""
    shards: int = 0
    images: int = 0
    read_s: float = 0.0
    compute_s: float = 0.0
    write_s: float = 0.0
    memory_bytes: int = 0

    def add(self, result: ShardResult) -> None:
        """Count one shard."""
        self.host, self.device = result.host, result.device
        self.shards += 1
        self.images += result.shard[1] - result.shard[0]
        for step in ("read_s", "compute_s", "write_s"):
            setattr(self, step, round(getattr(self, step) + getattr(result, step), 4))
        self.memory_bytes = max(self.memory_bytes, result.memory_bytes)


@contextmanager
def staged_pass(output: Output, stage: str, runtime: Runtime) -> Iterator[RunPass]:
    """Yield run(shards, worker, config_hash): a pass that reports and records itself."""
    timer = Timer()
    name = stage.partition(":")[0]
    images, workers = 0, dict[int, WorkerSummary]()
    output.log("stage_start", stage=name, key=stage)

    def run(shards: Sequence[Shard], worker: ShardWorker, config: str) -> list[dict]:
        with Progress(name, stage=(STAGES.index(name) + 1, len(STAGES))) as progress:

            def on_event(event: PassEvent) -> None:
                nonlocal images
                images = event.images
                progress(event.images, event.total, workers=event.result.workers if event.result else None)
                if event.result is not None:
                    workers.setdefault(event.result.worker, WorkerSummary()).add(event.result)
                    output.log("shard", stage=name, **_shard_event(event.result))

            return run_pass(
                stage,
                shards,
                _Ready(worker),
                ledger=output.ledger(),
                config=config,
                runtime=runtime,
                guard=output.guard,
                on_event=on_event,
            )

    yield run
    output.log(
        "stage_end",
        stage=name,
        key=stage,
        seconds=timer.seconds,
        images=images,
        shards=sum(summary.shards for summary in workers.values()),
        workers={str(number): asdict(workers[number]) for number in sorted(workers)},
    )


def _shard_event(result: ShardResult) -> dict[str, Any]:
    steps = {step: round(getattr(result, step), 4) for step in ("seconds", "read_s", "compute_s", "write_s")}
    where = {key: getattr(result, key) for key in ("attempts", "worker", "host", "device", "memory_bytes")}
    return {"start": result.shard[0], "stop": result.shard[1], **steps, **where, **result.counts}
