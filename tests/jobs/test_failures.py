"""What fails around a run: a full disk, a silent store, damaged data, two runs at once, workers that hang or die.

Each ends with a sentence, leaves nothing that passes as done, and the same command (or the remedy that the
sentence names) ends with the undisturbed result.
"""

import json
import re
import signal
import subprocess
import threading
import time
from collections import Counter

import disturbed
import numpy as np
import pandas as pd
import pytest
import survey_files
from disturbed import ARRAYS, MAIN, Reference, Run, events, kill_process, lives, recorded, stop_process, until

from skysom.jobs.cli import main
from skysom.storage import patience
from skysom.storage.place import place, read_bytes
from skysom.storage.survey import Survey

ON_RAY = ["--workers", "2", "--executor", "ray"]
HERE = ["--workers", "1", "--executor", "local"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """An undisturbed run over 150 good cut-outs and bad ones, in 3 shards a stage, trained in batches."""
    folder = tmp_path_factory.mktemp("failures")
    good, bad = survey_files.write_cutouts(folder, 150), survey_files.write_bad_cutouts(folder)
    pd.concat([good.iloc[:70], bad, good.iloc[70:]]).to_csv(folder / "sources.csv", index=False)
    flags = [*survey_files.TINY, "--batch-size", "32", "--set", "train.checkpoint_batches=1"]
    made = Reference(folder, folder / "whole", flags, len(good))
    assert main(made.command(made.output, *HERE)) == 0
    return made


@pytest.fixture
def start(reference, tmp_path):
    """Call start(output, *flags, code=...) for a run in a process of its own, ended with the test."""
    runs = []

    def start(output, *flags, code=MAIN):
        runs.append(Run(reference.command(output, *flags), tmp_path / f"{len(runs)}.log", code))
        return runs[-1]

    yield start
    for run in runs:
        run.close()


def refused(capfd, words, arguments):
    """The command ends with one sentence, which has the words; returns it."""
    capfd.readouterr()
    assert main(arguments) == 1
    sentence = capfd.readouterr().err.splitlines()[-1]
    assert sentence.startswith("skysom: ")
    assert re.search(words, sentence), sentence
    return sentence


def assert_done_is_done(reference, output):
    """What the ledger calls done is in the store as an undisturbed run has it."""
    whole = Survey(reference.output / "survey.zarr")
    for stage, first, last in recorded(output):
        survey = Survey(output / "survey.zarr")
        for array in ARRAYS[stage]:
            one, other = (np.asarray(s.read(array, first, last)) for s in (whole, survey))
            assert np.array_equal(one, other, equal_nan=one.dtype.kind == "f"), (array, first)


# --- disks and stores -----------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path):
    """Call disk(bytes) for a small file system of that size, or to change the size; its folder is tmp_path/disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def disk(size):
        remount = ["remount,"] if mounted else [""]
        options = f"{remount[0]}size={size}"
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True
        )
        if made.returncode:
            pytest.skip(f"no small file system can be mounted here: {made.stderr.strip()}")
        mounted.append(size)
        return folder

    yield disk
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_at_many_points_is_a_sentence_and_more_room_is_the_remedy(reference, disk, capfd):
    """The disk grows after every failure, so that the run is stopped by it in all its stages."""
    size, stopped_in = 16_384, []
    output = disk(size) / "out"
    for _ in range(60):
        capfd.readouterr()
        if main(reference.command(output, *HERE)) == 0:
            break
        said = capfd.readouterr().err.splitlines()
        assert "Traceback" not in " ".join(said)
        assert re.match("skysom: .*(No space left on device|disk full)", said[-1]), said
        assert "run the same command again" in said[-1] or "may be read and written" in said[-1], said
        if output.exists():
            assert_done_is_done(reference, output)
            stopped_in += [event["stage"] for event in events(output, "stage_start")][-1:]
        size = int(size * 1.12) + 8192
        disk(size)
    else:
        pytest.fail(f"it never had enough room: {said}")
    assert {"ingest", "preprocess"} <= set(stopped_in)
    reference.assert_equal(output)


@pytest.fixture
def impatient(monkeypatch):
    """A silent store is given up after two seconds, whatever deadline is asked for."""
    pauses = patience._pauses
    monkeypatch.setattr(patience, "_pauses", lambda deadline_s: pauses(min(deadline_s, 2.0)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage", ["preprocess", pytest.param("train", marks=pytest.mark.slow), pytest.param("map", marks=pytest.mark.slow)]
)
def test_a_store_that_stays_away_ends_the_run_with_a_sentence(reference, stoppable_s3, impatient, capfd, stage):
    server, url = stoppable_s3
    output = f"{url}/out"

    def outage():
        until(lambda: any(event["stage"] == stage for event in events(output, "stage_start")), "no such stage", 120)
        server.stop()

    thread = threading.Thread(target=outage)
    thread.start()
    words = "(did not answer for|cannot be read|could not be renewed).*run the same command again"
    refused(capfd, words, reference.command(output, *HERE))
    thread.join()
    server.start()
    assert main(reference.command(output, *HERE)) == 0
    shards = Counter((event["stage"], event["start"]) for event in events(output, "shard"))
    assert max(shards.values()) == 1, "a shard that was recorded was done again"
    reference.assert_equal(output)


# --- damage ---------------------------------------------------------------------------------------


def damage(output, array, number, rng):
    """Flip one bit of a shard, anywhere in its file."""
    folder = output / "survey.zarr" / array / "c" / str(number)
    path = folder if folder.is_file() else next(p for p in sorted(folder.rglob("*")) if p.is_file())
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    path.write_bytes(data)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize(
    ("array", "stage", "remedy"),
    [
        ("images", "preprocess", "ingest"),
        ("status", "preprocess", "ingest"),
        ("prepared", "train", "preprocess"),
        ("ok", "train", "preprocess"),
        ("prepared", "map", "preprocess"),
        ("ok", "map", "preprocess"),
    ],
)
def test_a_flipped_bit_names_the_rows_and_the_remedy(reference, tmp_path, capfd, array, stage, remedy, seed):
    output = tmp_path / "out"
    reference.begin(output, stage)
    damage(output, array, 1, np.random.default_rng(seed))
    sentence = refused(capfd, rf"rows \d+\.\.\d+ of {array} in .* damaged", reference.command(output, *HERE))
    first, last = map(int, re.search(rf"rows (\d+)\.\.(\d+) of {array}", sentence).groups())
    assert first < 128
    assert last > 64
    assert "--redo" in sentence
    assert main(reference.command(output, *HERE, "--redo", remedy)) == 0
    reference.assert_equal(output)


@pytest.mark.slow
@pytest.mark.parametrize(("array", "stage"), [("images", "preprocess"), ("prepared", "train"), ("prepared", "map")])
def test_a_flipped_bit_is_told_by_ray_workers_too(reference, start, tmp_path, array, stage):
    output = tmp_path / "out"
    reference.begin(output, stage)
    damage(output, array, 1, np.random.default_rng(9))
    run = start(output, *ON_RAY)
    assert run.wait() == 1
    sentence = run.said.splitlines()[-1]
    assert re.search(rf"skysom: .*rows 64\.\.128 of {array} in .* damaged .*--redo", sentence), run.said


@pytest.mark.parametrize("array", ["images", "prepared"])
def test_a_lost_chunk_is_no_empty_image(reference, tmp_path, capfd, array):
    output = tmp_path / "out"
    reference.begin(output, "preprocess" if array == "images" else "train")
    (output / "survey.zarr" / array / "c/1/0/0/0").unlink()
    refused(capfd, "lost data", reference.command(output, *HERE))
    redo = "ingest" if array == "images" else "preprocess"
    assert main(reference.command(output, *HERE, "--redo", redo)) == 0
    reference.assert_equal(output)


@pytest.mark.parametrize("stage", list(ARRAYS))
def test_a_ledger_of_another_configuration_is_refused(reference, tmp_path, capfd, stage):
    output, name = tmp_path / "out", stage.partition(":")[0]
    reference.begin(output, "report")
    ledger = output / ".skysom/ledger.jsonl"
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    for line in lines:
        line["config"] = "0123456789abcdef" if line["stage"] == stage else line["config"]
    ledger.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = f"stage {stage} was run with configuration 0123456789abcdef, this run has .*--redo"
    refused(capfd, words, reference.command(output, *HERE))
    assert main(reference.command(output, *HERE, "--redo", name)) == 0
    reference.assert_equal(output)


# --- two runs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["local", pytest.param("s3", marks=pytest.mark.slow)])
def test_of_two_runs_at_the_same_moment_one_works_and_its_successor_waits_for_nothing(
    reference, start, tmp_path, request, where
):
    output = str(tmp_path / "out") if where == "local" else f"{request.getfixturevalue('s3')}/out"
    runs = {run.process.pid: run for run in (start(output, *HERE), start(output, *HERE))}

    def owner():
        try:
            found = json.loads(read_bytes(place(output) / ".skysom/lock") or b"{}")
        except FileNotFoundError:
            return None
        return runs.get(found.get("pid"))

    winner = until(lambda: owner() or all(run.ended for run in runs.values()), "nobody owns it")
    assert winner is not True, [run.said for run in runs.values()]
    assert stop_process(winner.process), winner.said  # so that it cannot be through before the other looks
    other = next(run for run in runs.values() if run is not winner)
    assert other.wait() == 1, other.said
    assert f"{output} is in use by process {winner.process.pid} on " in other.said
    assert lives(winner.process)
    kill_process(winner.process)
    successor = start(output, *HERE)
    assert successor.wait() == 0, successor.said
    assert "which is dead; this run has taken it over" in successor.said
    assert "waiting up to" not in successor.said
    reference.assert_equal(output)


# --- workers --------------------------------------------------------------------------------------

DEADLINE = (
    "import sys; from skysom.jobs import cli, cli_options; from dataclasses import replace;"
    "plain = cli_options.runtime_of; cli.runtime_of = lambda *a: replace(plain(*a), deadline_s=15);"
    "sys.exit(cli.main(sys.argv[1:]))"
)
"""`skysom`, but no shard may take longer than 15 s."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "words"), [("ingest", "no shard finished in 15 s"), ("train", "no worker finished its part of a batch")]
)
def test_workers_that_hang_end_the_run_in_time(reference, start, tmp_path, stage, words):
    for number in range(5):
        output = tmp_path / f"out{number}"
        reference.begin(output, stage)
        before = len(events(output))
        run = start(output, *ON_RAY, code=DEADLINE)
        until(lambda n=before, o=output, r=run: r.ended or working(o, n, stage), "no work is done")
        stopped = [actor for actor in run.actors() if stop_process(actor)]
        status = run.wait(120)
        if status == 0:  # it was through before it could be stopped
            continue
        assert stopped
        assert status == 1, run.said
        assert words in run.said, run.said
        assert "run the same command again" in run.said.splitlines()[-1]
        resumed = start(output, *ON_RAY)
        assert resumed.wait() == 0, resumed.said
        reference.assert_equal(output)
        return
    pytest.fail("the run was always through before its workers stood still")


def working(output, before, stage):
    new = [event for event in events(output)[before:] if event.get("stage") == stage]
    return any(event["event"] in ("shard", "training") for event in new)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "title", "words"),
    [
        ("ingest", "ray::_Actor.run", r"rows \d+\.\.\d+ failed 3 times, last with the death of its worker process"),
        ("train", "ray::_Actor.call", r"failed 3 times \(to \w+\), last with the death of its worker process"),
    ],
)
def test_workers_that_die_again_and_again_end_the_run(reference, start, tmp_path, stage, title, words):
    """Every worker is killed as soon as it works."""
    output = tmp_path / "out"
    reference.begin(output, stage)
    run = start(output, *ON_RAY)
    deadline = time.monotonic() + disturbed.DEADLINE_S
    while not run.ended:
        assert time.monotonic() < deadline, run.said
        for actor in run.actors():
            try:
                if actor.cmdline()[0].startswith(title):
                    actor.send_signal(signal.SIGKILL)
            except (disturbed.psutil.NoSuchProcess, IndexError):
                continue
        time.sleep(0.02)
    assert run.wait() == 1, run.said
    assert re.search(words, run.said), run.said
    assert_done_is_done(reference, output)
    resumed = start(output, *ON_RAY)
    assert resumed.wait() == 0, resumed.said
    reference.assert_equal(output)
