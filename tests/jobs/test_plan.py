"""`skysom plan`: sizes against a real store, rates of a real history, refusals; measured on tiny images."""

import json

import pytest
import zarr

from skysom.cluster import costs
from skysom.jobs import plan_rates
from skysom.jobs.cli import main
from skysom.jobs.config import load_config
from skysom.jobs.errors import ConfigError
from skysom.jobs.output import Output
from skysom.jobs.plan import Machines, make_plan
from skysom.jobs.plan_subject import subject_of_config, subject_of_output
from skysom.storage.survey import Survey

SMALL = {
    "som.width": 3, "som.region": "circular", "train.stages": [{"rotations": 8}, {"rotations": 16}],
    "preprocess.steps": [{"step": "noise"}, {"step": "min_max"}], "train.batch_size": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def planned():
    subject = subject_of_config(load_config(flags=SMALL), 10_000, 24, 2)
    return make_plan(subject, Machines(workers=2, memory_gb=4.0))


@pytest.fixture
def finished(small_survey, tmp_path, tiny):
    folder, catalogue, _ = small_survey
    output = tmp_path / "out"
    command = ["run", "-i", str(folder), "-c", str(catalogue), "-o", str(output), "--workers", "1", *tiny]
    assert main([*command, "--batch-size", "1"]) == 0
    return output


def by_stage(plan):
    return {stage.stage: stage for stage in plan.stages}


def test_every_stage_has_sizes_times_and_a_source(planned):
    assert [stage.stage for stage in planned.stages] == ["ingest", "preprocess", "train", "map"]
    assert planned.shards == 40
    assert planned.neurons == 9
    for stage in planned.stages:
        assert stage.seconds > 0
        assert stage.read_bytes > 0
        assert stage.worker_memory_bytes > 0
        assert stage.rate_source.startswith("measured here on 1 core")
    assert by_stage(planned)["train"].workers == 1, "batch size 1 is serial"
    assert by_stage(planned)["train"].images == 20_000
    assert not planned.problems


def test_a_gpu_that_is_not_there_is_assumed_and_says_so():
    config = load_config(flags=SMALL | {"train.batch_size": 256})
    plan = make_plan(subject_of_config(config, 40_000, 24, 1), Machines(8, nodes=2, gpus=8, memory_gb=64))
    for name in ("train", "map"):
        assert "ASSUMED: no GPU measured" in by_stage(plan)[name].rate_source
    assert by_stage(plan)["ingest"].rate_source.startswith("measured here")
    assert any("GB/s for all workers together, ASSUMED" in note for note in plan.notes)


def test_given_rates_win_and_are_called_given():
    given = {"ingest": 10.0, "preprocess": 20.0, "train": 30.0, "map": 40.0}
    plan = make_plan(subject_of_config(load_config(flags=SMALL), 2560, 24, 1), Machines(2, memory_gb=4.0), given)
    for name, stage in by_stage(plan).items():
        assert stage.rate_source == f"given by --rate-{name}"
    assert by_stage(plan)["map"].seconds == pytest.approx(5 * 256 / 40)
    assert by_stage(plan)["train"].seconds == pytest.approx(2 * 2560 / 30)


def test_bytes_are_those_of_a_real_store(finished):
    output = Output(finished)
    subject = subject_of_output(load_config(remembered=output.remembered()), output)
    group = zarr.open_group(finished / "survey.zarr", mode="r")

    def size(*names):
        return sum(group[name].nbytes for name in names)

    ingest = size("images", "ra_deg", "dec_deg", "status", "coverage")
    assert costs.ingest_traffic(subject.work).written == ingest
    preprocess = size("prepared", "channel_sum", "prepared_status", "ok")
    assert costs.preprocess_traffic(subject.work).written == preprocess
    mapping = size(*(f"mappings/main/{name}" for name in group["mappings/main"].array_keys()))
    assert costs.mapping_bytes(subject.work) == mapping
    files = sum(path.stat().st_size for path in (finished / "survey.zarr").rglob("c/**/*") if path.is_file())
    share = plan_rates.stored_share(Survey(finished / "survey.zarr"))
    assert share == pytest.approx(files / (ingest + preprocess + mapping), rel=0.15)  # source ids and maps apart
    kept = [path for path in (finished / "survey.zarr").rglob("c/**/*") if path.is_file() and "soms" not in path.parts]
    most = costs.store_files(subject.work)
    assert 0.75 * most < len(kept) <= most, "shards of nothing but fill values are not written"


def test_a_finished_output_tells_its_own_rates(finished, capsys, monkeypatch):
    def never(*args, **named):
        raise AssertionError("measured although the history tells")

    monkeypatch.setattr(plan_rates, "measured_rates", never)
    monkeypatch.setattr(plan_rates, "online_s", never)
    capsys.readouterr()
    exact = ["--set", "map.method=exact"]  # as so small a survey was mapped
    assert main_plan("--output", str(finished), "--images", "100000", "--json", *exact) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["images"] == 100_000
    assert plan["shard_images"] == 64
    events = [json.loads(line) for line in (finished / "history.jsonl").read_text().splitlines()]
    for stage in plan["stages"]:
        assert f"from {finished}'s history" in stage["rate_source"]
    shards = [e for e in events if e["event"] == "shard" and e["stage"] == "map"]
    most = sum(shard["seconds"] for shard in shards) / 161
    found = next(stage for stage in plan["stages"] if stage["stage"] == "map")
    workers = found["workers"]
    assert 0 < found["seconds"] * workers / 100_000 <= most * 1.05
    assert "compressed as" in plan["stored_source"]


def test_a_map_of_other_rotations_is_measured(finished):
    output = Output(finished)
    config = load_config(flags={"map.rotations": 32}, remembered=output.remembered())
    subject = subject_of_output(config, output)
    assert "map" not in subject.rates
    assert "ingest" in subject.rates


def test_the_method_of_the_mapping_is_measured_and_named():
    subject = subject_of_config(load_config(flags=SMALL), 10_000, 24, 1)
    exact = subject_of_config(load_config(flags=SMALL | {"map.method": "exact"}), 10_000, 24, 1)
    assert (subject.work.method, exact.work.method) == ("certified", "exact")
    given = dict.fromkeys(("ingest", "preprocess", "train"), 10.0)
    plan, other = (make_plan(each, Machines(2, memory_gb=4.0), given) for each in (subject, exact))
    assert "certified" in by_stage(plan)["map"].rate_source
    assert by_stage(other)["map"].rate_source == plan_rates.MEASURED
    assert by_stage(plan)["map"].operations == 0, "not known"
    assert by_stage(plan)["map"].written_bytes == by_stage(other)["map"].written_bytes + 10_000 * 9
    assert subject_of_config(load_config(flags=SMALL), 1000, 24, 1).work.method == "exact"


def test_memory_that_would_not_suffice_is_refused_with_number_limit_and_option(capsys):
    words = ["--images", "1000", "--side", "64", "--memory-gb", "0.05", "--workers", "2"]
    assert main_plan(*words, *(f"--rate-{name}=10" for name in ("ingest", "preprocess", "train", "map"))) == 1
    printed = capsys.readouterr()
    assert "map needs" in printed.err
    assert "--memory-gb gives 0.05 GB" in printed.err
    assert "ingest.shard_images" in printed.err
    assert "1,000" in printed.out, "the plan is shown all the same"


def test_training_above_its_own_limit_is_refused():
    flags = SMALL | {"train.memory_gb": 0.01}
    given = dict.fromkeys(("ingest", "preprocess", "train", "map"), 10.0)
    plan = make_plan(subject_of_config(load_config(flags=flags), 100_000, 24, 1), Machines(2, memory_gb=64), given)
    assert any("train.memory_gb allows 0.01" in problem for problem in plan.problems)


def test_plain_text_says_where_every_rate_comes_from(capsys):
    words = ["--images", "5000", "--side", "24", "--neurons", "4", "--keep", "2", "--workers", "1", "--rate-train=5"]
    assert main_plan(*words, "--set", "train.stages=[{rotations=8}]", "--memory-gb", "8") == 0
    printed = capsys.readouterr().out
    assert "20 shards of 256" in printed
    assert "train: given by --rate-train" in printed
    assert "map: measured here on 1 core" in printed
    assert "with all neurons" in printed
    assert "with keep 2" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to plan: give --output DIR, or --images N and --side PIXELS"),
        (["--images", "10", "--side", "20", "--rate-map", "0"], "--rate-map is 0"),
        (["--images", "10", "--side", "20", "--memory-gb", "-1"], "--memory-gb is -1"),
        (["--images", "10", "--side", "20", "--memory-gb", "nan"], "--memory-gb is nan"),
        (["--images", "10", "--side", "20", "--store-gb-s", "inf"], "--store-gb-s is inf"),
        (["--images", "10", "--side", "20", "--rate-map", "nan"], "--rate-map is nan"),
        (["--images", "10", "--side", "20", "--rate-map", "1e-320"], "--rate-map is 9.9"),
        (["--images", "10", "--side", "20", "--nodes", "4", "--workers", "2"], "leave some idle"),
        (["--output", "nowhere"], "nowhere has no survey yet"),
        (["--output", "nowhere", "--side", "20"], "--side cannot go with --output"),
    ],
)
def test_what_makes_no_plan_is_refused(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main_plan(*words) == 1
    assert message in capsys.readouterr().err


def test_an_output_without_a_survey_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="has no survey yet"):
        subject_of_output(load_config(), Output(tmp_path))


def main_plan(*words):
    """The command as `skysom plan` mounts it, through the guard of the command line."""
    import typer

    from skysom.jobs.cli import _guarded
    from skysom.jobs.cli_plan import plan_command

    app = typer.Typer()
    app.command()(plan_command)
    return _guarded(lambda: app(list(words)))
