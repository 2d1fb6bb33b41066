"""Judging maps, and ending a training stage that no longer changes its map: the same end however it was interrupted."""

import json
import re
import shutil
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import survey_files
import zarr
from rich.console import Console

from skysom.engine import Som, best_match
from skysom.engine.lattice import lattice_from_dict
from skysom.jobs import training_run
from skysom.jobs.cli import main
from skysom.jobs.cli_judge import judge_command
from skysom.jobs.errors import ConfigError, MissingStageError
from skysom.jobs.judge import judge
from skysom.jobs.output import Output
from skysom.storage.errors import SurveyError

LONG = "train.stages=[{sigma=1.0, rotations=8, rate=0.1, iterations=9}, {sigma=0.5, rotations=16, rate=0.05}]"
STOP = 0.02


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def ingested(tmp_path_factory):
    """Output of 100 prepared images, with no map."""
    folder = tmp_path_factory.mktemp("survey")
    survey_files.write_cutouts(folder, 100).to_csv(folder / "sources.csv", index=False)
    output = folder / "out"
    flags = ["-i", str(folder), "-c", str(folder / "sources.csv"), "-o", str(output), *survey_files.TINY]
    assert main(["ingest", *flags, "--workers", "1"]) == 0
    return output


@pytest.fixture
def copied(ingested, tmp_path):
    """Call copied(name) for an output of its own."""
    return lambda name: shutil.copytree(ingested, tmp_path / name)


@pytest.fixture(scope="module")
def trained(ingested, tmp_path_factory):
    """Output with a map in two stages, another of other weights, and one of a part of the images."""
    output = shutil.copytree(ingested, tmp_path_factory.mktemp("trained") / "out")
    assert train(output, "--set", f"train.stop_change={STOP}") == 0
    short = ["--set", "train.stages=[{rotations=4}]"]
    assert train(output, "--som-name", "brighter", "--set", "train.channel_weights=[3.0]", *short) == 0
    assert train(output, "--som-name", "part", "--train-where", "flux < 40", *short) == 0
    return output


def train(output, *flags, stages=LONG, workers=1):
    som = ["--set", "som.width=3", "--set", "som.height=2", "--set", "som.region='circular'"]
    batches = ["--set", "train.checkpoint_batches=1", "--set", stages]
    return main(["train", "-o", str(output), *som, *batches, *flags, "--workers", str(workers)])


def weights(output, name="main"):
    return zarr.open_group(output / "survey.zarr", mode="r")[f"soms/{name}/weights"][:]


def judged(output):
    lines = map(json.loads, (output / "history.jsonl").read_text().splitlines())
    return [event for event in lines if event["event"] == "judged"]


@pytest.fixture(scope="module")
def stopped(ingested, tmp_path_factory):
    """Call stopped(batch_size) for the output of a training in batches of that size whose first stage ends early."""

    @cache
    def make(batch_size):
        output = shutil.copytree(ingested, tmp_path_factory.mktemp("stopped") / "out")
        assert train(output, "--batch-size", str(batch_size), "--set", f"train.stop_change={STOP}") == 0
        return output

    return make


@pytest.mark.parametrize("batch_size", [1, 32])
def test_a_stage_ends_when_its_map_no_longer_changes(copied, stopped, batch_size):
    output, plain = stopped(batch_size), copied("plain")
    flags = ["--batch-size", str(batch_size)]
    first = [event for event in judged(output) if event["training_stage"] == 0]
    assert [event["iteration"] for event in first] == list(range(len(first)))
    assert 2 <= len(first) < 9
    means = [event["mean_distance"] for event in first]
    changes = [abs(after / before - 1) for before, after in pairwise(means)]
    np.testing.assert_allclose([event["change"] for event in first[1:]], changes)
    assert all(change >= STOP for change in changes[:-1])
    assert changes[-1] < STOP
    assert [event["ended"] for event in first] == [False] * (len(first) - 1) + [True]
    last = judged(output)[len(first) :]
    assert [(e["training_stage"], e["iteration"], e["change"], e["ended"]) for e in last] == [(1, 0, None, False)]
    # What was left out is all that differs.
    assert train(plain, *flags, stages=LONG.replace("iterations=9", f"iterations={len(first)}")) == 0
    assert np.array_equal(weights(output), weights(plain))
    assert not judged(plain)


@pytest.mark.parametrize("at", [5, 8, 12])
def test_an_interrupted_stage_ends_where_it_would_have(copied, stopped, monkeypatch, capsys, at):
    from skysom.cluster import coordinator as module

    whole, output = stopped(32), copied("output")
    flags = ["--batch-size", "32", "--set", f"train.stop_change={STOP}"]
    move, done = module.Coordinator._move, []

    def move_until(self, *args):
        if len(done) == at:
            raise Killed
        done.append(1)
        return move(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(module.Coordinator, "_move", move_until)
        with pytest.raises(Killed):
            train(output, *flags)
    assert train(output, *flags) == 0
    assert re.search(r"stage 1 ends after \d of its 9 iterations", capsys.readouterr().err)
    assert np.array_equal(weights(output), weights(whole))
    last = {(e["training_stage"], e["iteration"]): e["mean_distance"] for e in judged(output)}
    assert last == {(e["training_stage"], e["iteration"]): e["mean_distance"] for e in judged(whole)}


@pytest.mark.parametrize(("batch_size", "at"), [(1, 0), (1, 2), (32, 1)])
def test_a_training_killed_while_it_is_judged_goes_on_with_that(copied, stopped, monkeypatch, batch_size, at):
    whole, output = stopped(batch_size), copied("output")
    flags = ["--batch-size", str(batch_size), "--set", f"train.stop_change={STOP}"]
    call, done = training_run.Judge.__call__, []

    def call_until(self, *args):
        if len(done) == at:
            raise Killed
        done.append(1)
        return call(self, *args)

    monkeypatch.setattr(training_run, "CHECKPOINT_EVERY_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(training_run.Judge, "__call__", call_until)
        with pytest.raises(Killed):
            train(output, *flags)
    assert train(output, *flags) == 0
    assert np.array_equal(weights(output), weights(whole))


@pytest.mark.slow
def test_a_stage_ends_alike_with_more_workers(copied, stopped):
    one, two = stopped(32), copied("two")
    flags = ["--batch-size", "32", "--set", f"train.stop_change={STOP}"]
    assert train(two, *flags, workers=2) == 0
    assert np.array_equal(weights(one), weights(two))
    assert [e["mean_distance"] for e in judged(one)] == [e["mean_distance"] for e in judged(two)]


@pytest.mark.parametrize("change", ["0", "1.0", "-0.1", "'little'"])
def test_other_limits_are_refused(ingested, capsys, change):
    assert train(ingested, "--set", f"train.stop_change={change}") == 1
    assert "train.stop_change" in capsys.readouterr().err


# --- judging ----------------------------------------------------------------------------------------


def test_every_map_is_judged_by_the_same_images(trained):
    with Output(trained).lock():
        found = judge(Output(trained), images=30, seed=3)
    assert json.loads((trained / "judge.json").read_text()) == found
    assert [m["name"] for m in found["maps"]] == ["brighter", "main-stage1", "main", "part"]
    assert len(found["rows"]) == len(set(found["rows"])) == found["images"] == 30
    assert found["rotations"] == 16
    store = zarr.open_group(trained / "survey.zarr", mode="r")
    images = store["prepared"][:][found["rows"]]
    for verdict in found["maps"]:
        attrs = store[f"soms/{verdict['name']}"].attrs
        scaled = images * np.float32(attrs["channel_weights"][0])
        som = Som(weights(trained, verdict["name"]), lattice_from_dict(attrs["lattice"]))
        side = attrs["geometry"]["region_side"]
        distance = best_match(scaled, som, 16, True, "circular", side, "reference").bmu_distance.astype(float)
        assert verdict["total"] == pytest.approx(distance.sum(), rel=1e-5)
        assert verdict["mean"] == pytest.approx(distance.mean(), rel=1e-5)
        assert verdict["median"] == pytest.approx(np.median(distance), rel=1e-5)
    first, last = found["maps"][1], found["maps"][2]
    assert last["change"] == pytest.approx(last["mean"] / first["mean"] - 1)
    assert [m["change"] is None for m in found["maps"]] == [True, True, False, True]
    assert len({m["comparable"] for m in found["maps"]}) == 2


def test_the_curves_are_those_of_the_trainings(trained):
    with Output(trained).lock():
        curves = judge(Output(trained), ["main"], images=20)["curves"]
    assert set(curves) == {"main"}
    points = curves["main"]["training"]
    seen = [point["images_seen"] for point in points]
    assert seen == sorted(seen)
    assert {point["training_stage"] for point in points} == {0, 1}
    events = judged(trained)
    own = [event for event in events if event["som"] == "main"]
    assert [p["mean_distance"] for p in curves["main"]["judged"]] == [e["mean_distance"] for e in own]
    assert own[-2]["ended"]


def test_the_sample_depends_on_the_seed_and_the_rows_alone(trained):
    output = Output(trained)
    with output.lock():
        one, again, other = (judge(output, ["part"], images=10, seed=seed)["rows"] for seed in (1, 1, 2))
        part = judge(output, ["part"], images=100, seed=1, where="flux >= 50")["rows"]
    assert one == again != other
    assert part == list(range(50, 100))


def test_the_command_prints_a_table(trained, capsys, monkeypatch):
    import rich.console

    monkeypatch.setattr(rich.console, "Console", lambda: Console(width=150))
    judge_command(str(trained), ["main", "brighter"], 20, None, 1)
    told = capsys.readouterr().out
    assert "20 images, 16 rotations" in told
    assert all(name in told for name in ("main-stage1", "brighter", "total distance", "judge.json"))
    assert "not all of these distances can be compared" in told
    assert "part" not in told


def test_what_cannot_be_judged_is_refused(trained, ingested, capsys):
    with Output(trained).lock():
        with pytest.raises(SurveyError, match="has no map 'other'"):
            judge(Output(trained), ["other"])
        with pytest.raises(ConfigError, match="selects no usable row"):
            judge(Output(trained), where="flux > 1000")
    with pytest.raises(MissingStageError, match="no map to judge"):
        judge(Output(ingested))


def test_maps_of_images_prepared_otherwise_are_left_out(trained, tmp_path, capsys):
    output = shutil.copytree(trained, tmp_path / "out")
    group = zarr.open_group(output / "survey.zarr")["soms/part"]
    group.attrs["chain"] = [["min_max", {}]]
    with Output(output).lock():
        found = judge(Output(output), images=5)
    assert "part left out" in capsys.readouterr().err
    assert [m["name"] for m in found["maps"]] == ["brighter", "main-stage1", "main"]
