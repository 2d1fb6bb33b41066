"""Kill -9 of workers, drivers, whole nodes and writers in the middle of a shard: the store is the undisturbed one.

Every trial is seeded: which stage, after how many of its shards or batches, how much later, which victim. To
save time a trial begins with the stages before that one done by an undisturbed run.
"""

import sys
import time

import disturbed
import numpy as np
import pandas as pd
import psutil
import pytest
import survey_files
from disturbed import Reference, Run, Snapshot, events, is_actor, kill_process, lives, recorded, stop_process, until

from skysom.cluster.pipeline import SHARDS_IN_FLIGHT
from skysom.storage.survey import Survey

STAGES = ("ingest", "preprocess", "train", "map")
KEYS = {"ingest": "ingest", "preprocess": "preprocess", "map": "map:main"}
BATCHED = ["--batch-size", "32", "--set", "train.checkpoint_batches=1"]
ON_RAY = ["--workers", "2", "--executor", "ray"]
TRIES = 4
"""Of a trial whose run was through before it could be killed."""


def trials(kind, quick):
    """Seven seeds, of which ``quick`` is one of the quick tests, where it is not None."""
    return [
        pytest.param(seed, id=f"{kind}{seed}", marks=() if seed == quick else pytest.mark.slow) for seed in range(7)
    ]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """An undisturbed run over 300 good cut-outs and bad ones, in 5 shards a stage, with training in two stages."""
    folder = tmp_path_factory.mktemp("kills")
    good, bad = survey_files.write_cutouts(folder, 300), survey_files.write_bad_cutouts(folder)
    pd.concat([good.iloc[:70], bad, good.iloc[70:]]).to_csv(folder / "sources.csv", index=False)
    flags = [*survey_files.TINY, *BATCHED]
    made = Reference(folder, folder / "whole", flags, len(good))
    run = Run(made.command(made.output, "--workers", "1"), folder / "whole.log")
    assert run.wait() == 0, run.said
    assert len(made.shards) == 5
    return made


@pytest.fixture
def start(reference, tmp_path):
    """Call start(output, *flags) for a run that is ended with the test."""
    runs = []

    def start(output, *flags):
        runs.append(Run(reference.command(output, *flags), tmp_path / f"{len(runs)}.log"))
        return runs[-1]

    yield start
    for run in runs:
        run.close()


def moment(rng, run, output, stage, before):
    """Wait until a random moment of ``stage``; False where the run ended first.

    before: events of the history when the run was started.
    """
    steps = 20 if stage == "train" else 5
    wanted, delay_s = int(rng.integers(-2, steps)), float(rng.uniform(0, 1))

    def progress():
        new = [event for event in events(output)[before:] if event.get("stage") == stage]
        begun = any(event["event"] == "stage_start" for event in new)
        return begun and sum(event["event"] in ("shard", "training") for event in new) >= max(wanted, 0)

    run.descendants()
    until(lambda: run.ended or progress(), f"{stage} makes no progress: {run.said}")
    # From the start of a stage it is seconds until its workers are there; between two shards milliseconds.
    time.sleep(delay_s * (3 if wanted < 0 else 0.05))
    return not run.ended


def again(trial, tmp_path, reference, attempt):
    """Repeat ``attempt(rng, output, stage)`` with further numbers of the seed until it has killed something."""
    rng = np.random.default_rng(trial)
    for number in range(TRIES):
        output, stage = tmp_path / f"out{number}", STAGES[rng.integers(len(STAGES))]
        reference.begin(output, stage)
        if (said := attempt(rng, output, stage)) is not None:
            reference.assert_equal(output)
            sys.stdout.write(f"\n{tmp_path.name}: {stage}, {said}\n")
            return
    pytest.fail(f"in {TRIES} tries the run was always through before the kill")


def extra_attempts(new):
    """Further tries of shards in ``new`` events."""
    return sum(event["attempts"] - 1 for event in new if event["event"] == "shard")


@pytest.mark.parametrize("trial", trials("worker", quick=5))
def test_killed_workers(reference, start, tmp_path, trial):
    """One or two workers of a pass or a training die; the run itself goes on and ends well."""

    def attempt(rng, output, stage):
        before = Snapshot.of(output, 64)
        run, kills = start(output, *ON_RAY), 0
        for _ in range(1 + trial % 2):
            if moment(rng, run, output, stage, before.events):
                found = until(lambda: run.actors() or run.ended, f"no worker came: {run.said}")
                if found is not True and (victims := [actor for actor in found if lives(actor)]):
                    kill_process(victims[rng.integers(len(victims))])
                    kills += 1
        assert run.wait() == 0, run.said
        counts = reference.assert_only_missing(output, before)
        extra = extra_attempts(events(output)[before.events :])
        assert extra <= kills * SHARDS_IN_FLIGHT
        return f"killed {kills} workers; {counts}, {extra} shards tried again" if kills else None

    again([1, trial], tmp_path, reference, attempt)


# None is quick: test_run.py kills a driver too.
@pytest.mark.parametrize("trial", trials("driver", quick=None))
def test_a_killed_driver(reference, start, tmp_path, trial):
    """The driver dies; the same command again does what was missing and no more, when its workers are gone."""

    def attempt(rng, output, stage):
        run = start(output, *ON_RAY)
        if not moment(rng, run, output, stage, len(events(output))):
            return None
        run.kill()
        before = Snapshot.of(output, 64)
        resumed = start(output, *ON_RAY)
        assert resumed.wait() == 0, resumed.said
        assert not [process for process in run.descendants() if is_actor(process)], "workers outlived the takeover"
        assert not list(output.rglob("*.partial")), "what the kill left was not swept"
        return f"killed the driver; {reference.assert_only_missing(output, before)} were left and done"

    again([2, trial], tmp_path, reference, attempt)


@pytest.mark.parametrize("trial", trials("writer", quick=0))
def test_a_writer_killed_in_the_middle_of_a_shard(reference, start, tmp_path, trial):
    """The process that writes a shard dies when the first array of it is there and the last is not.

    Of even seeds it is the driver (no Ray), of odd ones a Ray worker.
    """
    local = trial % 2 == 0
    flags = ["--executor", "local"] if local else ON_RAY

    def attempt(rng, output, stage):
        first = stage if stage != "train" else "map"
        stages = [KEYS[name] for name in STAGES[STAGES.index(first) :] if name in KEYS]
        skip = int(rng.integers(3))  # so many shards are left alone
        before = Snapshot.of(output, 64)
        run = start(output, *flags)
        caught = catch_writer(rng, run, output, stages, skip, len(reference.shards), local)
        if caught is None:
            assert run.wait() == 0, run.said
            return None
        key, number, start_row = *caught, caught[1] * 64
        if local:
            before = Snapshot.of(output, 64)
            assert not any(record[:2] == (key, start_row) for record in before.shards)
            assert disturbed.half_written(output, [key], number + 1)[-1] == (key, number)
            run.wait()
            run = start(output, *flags)
        assert run.wait() == 0, run.said
        counts = reference.assert_only_missing(output, before)
        if not local:
            new = [event for event in events(output)[before.events :] if event["event"] == "shard"]
            tries = [event["attempts"] for event in new if (KEYS[event["stage"]], event["start"]) == (key, start_row)]
            assert tries == [2], f"another process wrote shard {number} of {key}"
        return f"killed the writer of shard {number} of {key}; {counts}"

    again([3, trial], tmp_path, reference, attempt)


def catch_writer(rng, run, output, stages, skip, shards, local):
    """Kill the process that has half-written a shard, after ``skip`` whole ones; (stage, number), or None.

    A candidate is stopped first: the shard that stays half-written while the others run is its own.
    """
    whole = recorded(output).total()
    deadline = time.monotonic() + disturbed.DEADLINE_S
    while not run.ended:
        assert time.monotonic() < deadline, run.said
        found = disturbed.half_written(output, stages, shards)
        if not found or recorded(output).total() < whole + skip:
            time.sleep(0.0005)
            continue
        candidates = [run.process] if local else run.actors()
        if not candidates or not stop_process(victim := candidates[rng.integers(len(candidates))]):
            continue
        if not local:
            time.sleep(0.5)
        left = [shard for shard in found if shard in disturbed.half_written(output, stages, shards)]
        if left:
            kill_process(victim) if not local else run.kill()
            return left[0]
        victim.resume()
    return None


# --- nodes ----------------------------------------------------------------------------------------


class Nodes:
    """A Ray cluster on this machine: a head without room for workers, and nodes with room for one each."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 100 * 1024**2}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = []

    def add(self):
        self.nodes.append(self.cluster.add_node(num_cpus=1, object_store_memory=100 * 1024**2))

    def kill(self, node, orphans):
        """SIGKILL the node's raylet; its workers too, unless they are to be orphans."""
        processes = [psutil.Process(info.process.pid) for infos in node.all_processes.values() for info in infos]
        below = [child for process in processes for child in process.children(recursive=True)]
        workers = [child for child in below if is_actor(child)]
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)
        for process in [] if orphans else below:
            if lives(process):
                kill_process(process)
        return workers

    def actors(self, node):
        processes = [psutil.Process(info.process.pid) for infos in node.all_processes.values() for info in infos]
        return [child for process in processes for child in process.children(recursive=True) if is_actor(child)]


@pytest.fixture(scope="module")
def nodes():
    from skysom.cluster.ray_executor import start_ray

    start_ray(1, None)  # before ray is imported: it reads its settings for quiet then
    import ray

    ray.shutdown()
    made = Nodes()
    yield made
    made.cluster.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(6))
def test_a_killed_node(reference, nodes, start, tmp_path, trial):
    """One of two nodes dies while it works, with its workers or without them; in half of the trials another joins."""

    def attempt(rng, output, stage):
        while len(nodes.nodes) < 2:
            nodes.add()
        nodes.cluster.wait_for_nodes()
        before = Snapshot.of(output, 64)
        run = start(output, "--ray-address", nodes.cluster.address)
        if not moment(rng, run, output, stage, before.events):
            assert run.wait() == 0, run.said
            return None
        victim = nodes.nodes[rng.integers(2)]
        until(lambda: nodes.actors(victim) or run.ended, f"the node got no worker: {run.said}")
        if run.ended:
            return None
        workers = nodes.kill(victim, orphans=bool(rng.integers(2)))
        if trial % 2:
            nodes.add()
        assert run.wait() == 0, run.said
        until(lambda: not any(map(lives, workers)), "workers of the lost node live on")
        counts = reference.assert_only_missing(output, before)
        extra = extra_attempts(events(output)[before.events :])
        assert extra <= SHARDS_IN_FLIGHT
        return f"killed a node of {len(workers)} workers; {counts}, {extra} shards tried again"

    again([4, trial], tmp_path, reference, attempt)


def test_the_checks_see_what_they_are_for(reference, tmp_path):
    """A shard recorded twice, one done twice, a value that differs: each fails the comparison."""
    reference.begin(tmp_path / "out", "report")
    before = Snapshot.of(tmp_path / "out", 64)
    ledger = tmp_path / "out/.skysom/ledger.jsonl"
    ledger.write_text(ledger.read_text() + ledger.read_text().splitlines()[0] + "\n")
    with pytest.raises(AssertionError):
        reference.assert_equal(tmp_path / "out")
    survey = Survey(tmp_path / "out/survey.zarr", "r+")
    survey.write_rows("prepared", 64, survey.read("prepared", 64, 128))
    assert len(before.touched()) == 1
    survey.write_rows("ok", 64, ~survey.read("ok", 64, 128))
    with pytest.raises(AssertionError, match="ok"):
        reference.assert_equal(tmp_path / "out")
