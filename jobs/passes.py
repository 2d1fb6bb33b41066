"""A pass as a stage of a job: progress for the user, events for history.jsonl."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from skysom.cluster.executors import Worker
from skysom.cluster.ledger import Shard
from skysom.cluster.shards import PassEvent, Runtime, run_pass
from skysom.jobs.output import Output, Timer
from skysom.jobs.progress import Progress

RunPass = Callable[[Sequence[Shard], Worker, str], list[dict]]


@dataclass(frozen=True)
class _Ready:
    """Hands a ready worker to an executor; a class because closures cannot travel to other processes."""

    worker: Worker

    def __call__(self) -> Worker:
        return self.worker


@contextmanager
def staged_pass(output: Output, stage: str, runtime: Runtime) -> Iterator[RunPass]:
    """Yield run(shards, worker, config_hash): a pass that reports and records itself."""
    timer = Timer()
    name = stage.partition(":")[0]
    touched = images = 0
    output.log("stage_start", stage=name, key=stage)

    def run(shards: Sequence[Shard], worker: Worker, config: str) -> list[dict]:
        with Progress(name) as progress:

            def on_event(event: PassEvent) -> None:
                nonlocal touched, images
                images = event.images
                progress(event.images, event.total)
                if event.result is not None:
                    touched += 1
                    output.log(
                        "shard",
                        stage=name,
                        start=event.result.shard[0],
                        stop=event.result.shard[1],
                        seconds=round(event.result.seconds, 4),
                        attempts=event.result.attempts,
                        worker=event.result.worker,
                        **event.result.counts,
                    )

            return run_pass(
                stage,
                shards,
                _Ready(worker),
                ledger=output.ledger(),
                config=config,
                runtime=runtime,
                on_event=on_event,
            )

    yield run
    output.log("stage_end", stage=name, key=stage, seconds=timer.seconds, images=images, shards=touched)
