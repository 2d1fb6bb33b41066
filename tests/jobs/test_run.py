"""The main job on small real files: results, bad input, resume, kills, refusals, both executors."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

from skysom.engine import best_match
from skysom.engine.lattice import lattice_from_dict
from skysom.engine.som import Som
from skysom.jobs.cli import main
from skysom.storage.survey import Survey, pack_half, read_images, unpack_half

ARRAYS = [
    "images", "prepared", "status", "prepared_status", "coverage", "channel_sum", "ok", "soms/main/weights",
    "mappings/main/distance", "mappings/main/rotation", "mappings/main/flip", "mappings/main/bmu",
    "mappings/main/bmu_distance", "mappings/main/bmu_rotation", "mappings/main/bmu_flip",
]  # fmt: skip


def command(survey, output, *more):
    folder, catalogue, _ = survey
    return ["run", "--images", str(folder), "--catalogue", str(catalogue), "--output", str(output), *more]


def assert_same_store(one, other):
    one, other = (zarr.open_group(path / "survey.zarr", mode="r") for path in (one, other))
    for name in ARRAYS:
        assert np.array_equal(one[name][:], other[name][:], equal_nan=one[name].dtype.kind == "f"), name


def shards_in(history, stage):
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    return [(line["start"], line["stop"]) for line in lines if line["event"] == "shard" and line["stage"] == stage]


@pytest.fixture
def finished(small_survey, tmp_path, tiny):
    assert main(command(small_survey, tmp_path / "out", *tiny, "--workers", "1")) == 0
    return small_survey, tmp_path / "out"


def test_every_row_is_kept_in_order_with_its_cause(finished):
    (_, _, table), output = finished
    result = pd.read_parquet(output / "catalogue.parquet")
    assert list(result.columns[:4]) == ["name", "flux", "filename", "expected"]
    assert list(result.columns[4:]) == [
        "source_id", "status", "coverage", "bmu", "bmu_row", "bmu_col", "bmu_distance", "angle_deg", "flip",
    ]  # fmt: skip
    assert list(result["name"]) == list(table["name"])
    assert list(result["status"]) == list(table["expected"])
    good = result["status"] == "ok"
    assert result["bmu"].notna().equals(good)
    assert result["bmu_distance"].notna().equals(good)
    assert (result.loc[good, "bmu_row"] * 2 + result.loc[good, "bmu_col"]).equals(result.loc[good, "bmu"])
    assert result.loc[good, "angle_deg"].between(0, 360, inclusive="left").all()
    assert set(np.unique(result.loc[good, "angle_deg"] % 22.5)) == {0.0}


def test_the_stored_mapping_is_what_the_engine_finds(finished):
    _, output = finished
    store = zarr.open_group(output / "survey.zarr", mode="r")
    attrs = store["soms/main"].attrs
    som = Som(store["soms/main/weights"][:], lattice_from_dict(attrs["lattice"]))
    ok = store["ok"][:]
    images = store["prepared"][:][ok]
    reference = best_match(images[:40], som, 16, True, "circular", attrs["geometry"]["region_side"], "reference")
    np.testing.assert_allclose(store["mappings/main/distance"][:][ok][:40], reference.distance, rtol=5e-6)
    assert np.array_equal(store["mappings/main/bmu"][:][ok][:40], reference.bmu)
    assert np.isnan(store["mappings/main/distance"][:][~ok]).all()
    assert (store["mappings/main/bmu"][:][~ok] == -1).all()


def test_the_store_opens_in_xarray_with_names_and_units(finished):
    _, output = finished
    root = xr.open_zarr(output / "survey.zarr", consolidated=False)
    assert root["images"].dims == ("image", "channel", "y", "x")
    assert root["images"].attrs["units"] == "Jy/beam"
    assert root["ra_deg"].attrs["units"] == "degree"
    mapping = xr.open_zarr(output / "survey.zarr", group="mappings/main", consolidated=False)
    assert mapping["distance"].dims == ("image", "neuron")
    assert mapping.sizes["neuron"] == 6
    som = xr.open_zarr(output / "survey.zarr", group="soms/main", consolidated=False)
    assert som["weights"].dims == ("neuron", "channel", "neuron_y", "neuron_x")
    assert "skysom_version" in som.attrs


def test_a_second_run_does_nothing_again(finished, tiny):
    survey, output = finished
    before = {stage: shards_in(output / "history.jsonl", stage) for stage in ("ingest", "preprocess", "map")}
    weights = (output / "survey.zarr/soms/main/weights/zarr.json").stat().st_mtime_ns
    assert main(command(survey, output, *tiny)) == 0
    assert {stage: shards_in(output / "history.jsonl", stage) for stage in before} == before
    assert (output / "survey.zarr/soms/main/weights/zarr.json").stat().st_mtime_ns == weights


def test_another_configuration_is_refused_by_key_and_redo_obeys(finished, tiny, capsys):
    survey, output = finished
    assert main(command(survey, output, *tiny, "--set", "som.seed=7")) == 1
    message = capsys.readouterr().err
    assert "som.seed: 1234 there, 7 in this run" in message
    assert "--redo train" in message
    assert main(command(survey, output, *tiny, "--set", "som.seed=7", "--redo", "train")) == 0
    assert len(shards_in(output / "history.jsonl", "ingest")) == 3
    assert len(shards_in(output / "history.jsonl", "map")) == 6


def test_a_changed_catalogue_is_refused(finished, tiny, capsys):
    survey, output = finished
    survey[2].iloc[:50].to_csv(survey[1], index=False)
    assert main(command(survey, output, *tiny)) == 1
    assert "catalogue_sha256" in capsys.readouterr().err


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(["--workers", "3", "--executor", "ray"], marks=SLOW),
        ["--set", "ingest.shard_images=128"],
    ],
)
def test_results_do_not_depend_on_workers_or_shards(finished, tiny, tmp_path, settings):
    survey, output = finished
    assert main(command(survey, tmp_path / "other", *tiny, *settings)) == 0
    assert_same_store(output, tmp_path / "other")


def test_stages_by_their_own_commands_give_the_same(finished, tiny, tmp_path):
    (folder, catalogue, _), output = finished
    other = str(tmp_path / "other")
    assert main(["ingest", "-i", str(folder), "-c", str(catalogue), "-o", other, *tiny]) == 0
    assert main(["train", "-o", other, *tiny]) == 0
    assert main(["map", "-o", other]) == 0
    assert main(["report", "-o", other]) == 0
    assert_same_store(output, tmp_path / "other")
    assert (tmp_path / "other/report.html").exists()


@pytest.mark.slow
def test_cutting_on_the_fly_gives_the_same_mapping(finished, tiny, tmp_path):
    survey, output = finished
    assert main(command(survey, tmp_path / "other", *tiny, "--set", "ingest.store='none'")) == 0
    one, other = (zarr.open_group(path / "survey.zarr", mode="r") for path in (output, tmp_path / "other"))
    assert "images" not in other
    assert "prepared" not in other
    for name in ("soms/main/weights", "mappings/main/distance", "mappings/main/bmu", "ok"):
        assert np.array_equal(one[name][:], other[name][:], equal_nan=True), name


@pytest.mark.slow
def test_half_precision_is_close(finished, tiny, tmp_path):
    survey, output = finished
    assert main(command(survey, tmp_path / "half", *tiny, "--set", "ingest.store='float16'")) == 0
    one, half = (zarr.open_group(path / "survey.zarr", mode="r") for path in (output, tmp_path / "half"))
    assert half["images"].dtype == np.float16
    prepared = [read_images(Survey(path / "survey.zarr"), "prepared", 0, 161) for path in (output, tmp_path / "half")]
    # Rounding moves a few pixels across the threshold, and with them the scale of their image.
    assert np.mean(np.abs(prepared[0] - prepared[1]) > 2e-3) < 1e-3
    assert np.mean(one["mappings/main/bmu"][:] == half["mappings/main/bmu"][:]) > 0.97


@pytest.mark.parametrize("factor", [1e-30, 1e-6, 1.0, 1e9, 1e30])
def test_half_precision_holds_any_unit(factor):
    images = np.random.default_rng(0).normal(0, 1, (5, 1, 8, 8)).astype(np.float32) * np.float32(factor)
    images[0, 0, 0, 0], images[1], images[2] = np.nan, 0, np.nan
    half, scale = pack_half(images)
    np.testing.assert_allclose(unpack_half(half, scale), images, rtol=1e-3, atol=1e-6 * factor)


def test_appended_rows_are_mapped_and_the_old_ones_not_touched(finished, tmp_path):
    (folder, _, table), output = finished
    sys.modules["survey_files"].write_cutouts(folder, 40, first=150).to_csv(folder / "more.csv", index=False)
    append = ["ingest", "--append", "-i", str(folder), "-c", str(folder / "more.csv"), "-o", str(output)]
    old = pd.read_parquet(output / "catalogue.parquet")
    assert main(append) == 0
    assert main(append) == 0  # the same again only looks whether anything is missing
    assert main(["map", "-o", str(output)]) == 0
    result = pd.read_parquet(output / "catalogue.parquet")
    assert len(result) == len(table) + 40
    assert result["bmu"].iloc[len(table) :].notna().all()
    pd.testing.assert_frame_equal(result.iloc[: len(table)], old)
    # 161 rows were 3 shards of 64, the last of them partial: that one and a new one are done again.
    assert shards_in(output / "history.jsonl", "map") == [(0, 64), (64, 128), (128, 161), (128, 192), (192, 201)]
    assert (result["status"].iloc[len(table) :] == "ok").all()


def test_training_selection_and_further_training(finished, tiny):
    _, output = finished
    selection = ["--train-sample", "20", "--train-where", "flux > 30 and flux < 60", "--som-name", "some"]
    assert main(["train", "-o", str(output), *selection]) == 0
    store = zarr.open_group(output / "survey.zarr", mode="r")
    assert store["soms/some"].attrs["training"]["images"] == 20
    assert main(["train", "-o", str(output), "--init", "som:main", "--som-name", "finer"]) == 0
    store = zarr.open_group(output / "survey.zarr", mode="r")
    change = np.abs(store["soms/finer/weights"][:] - store["soms/main/weights"][:]).max()
    assert 0 < change < 1
    stages = [store[f"soms/{name}"].attrs["training"]["stages"] for name in ("main", "finer")]
    assert stages[1] == stages[0][-1:], "further training repeats the last stage"
    assert main(["map", "-o", str(output), "--som-name", "finer"]) == 0
    published = ["map", "-o", str(output), "--som", f"{output}:some", "--som-name", "published"]
    assert main(published) == 0
    shards = shards_in(output / "history.jsonl", "map")
    assert main(["map", "-o", str(output)]) == 0, "without a name it is the main map"
    assert shards_in(output / "history.jsonl", "map") == shards
    assert "distance" in zarr.open_group(output / "survey.zarr", mode="r")["mappings/finer"]


def test_a_published_map_is_used_as_it_is(finished, small_survey, tiny, tmp_path):
    _, output = finished
    other = tmp_path / "other"
    assert main(command(small_survey, other, *tiny, "--som", f"{output}:main")) == 0
    one, two = (zarr.open_group(path / "survey.zarr", mode="r") for path in (output, other))
    assert two["soms/main"].attrs["published"] == f"{output}:main"
    assert np.array_equal(one["mappings/main/distance"][:], two["mappings/main/distance"][:], equal_nan=True)


@pytest.mark.parametrize("trial", [0, 1, pytest.param(2, marks=SLOW)])
def test_kill_9_and_the_same_command_again(finished, tiny, tmp_path, trial):
    survey, output = finished
    other = tmp_path / "other"
    arguments = command(survey, other, *tiny, "--workers", "2", "--executor", "ray" if trial else "local")
    code = "import sys; from skysom.jobs.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.DEVNULL)
    wanted = {0: '"key": "preprocess"', 1: '"stage": "ingest", "start"', 2: '"key": "map:main"'}[trial]
    deadline = time.monotonic() + 120
    history = other / "history.jsonl"
    while not (history.exists() and wanted in history.read_text()):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = shards_in(history, "ingest")
    assert main(arguments) == 0
    assert_same_store(output, other)
    after = shards_in(history, "ingest")
    done = [json.loads(line) for line in (other / ".skysom/ledger.jsonl").read_text().splitlines()]
    ingested = sorted((r["start"], r["stop"]) for r in done if r["stage"] == "ingest")
    assert ingested == [(0, 64), (64, 128), (128, 161)], "a shard was recorded twice or is missing"
    assert len(after) >= len(before)


def test_a_second_run_at_the_same_time_is_refused(finished, tiny, capsys):
    from skysom.jobs.output import Output

    survey, output = finished
    with Output(output).lock():
        assert main(command(survey, output, *tiny)) == 1
    assert "is in use by process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--catalogue", "nowhere.csv"], "cannot read --catalogue"),
        (["--images", "/nowhere/*.fits"], "there is no directory /nowhere"),
        (["--train-where", "__import__('os').system('x')"], "the selection .* uses Call, which is not evaluated"),
        (["--train-where", "flux > 1e9"], "selects no usable row"),
        (["--preset", "fast"], "presets are quick, vlass"),
        (["--set", "train.memory_gb=0.0001"], "needs .* GB, train.memory_gb allows"),
        (["--som", "nowhere.bin"], "there is no map 'nowhere.bin'"),
    ],
)
def test_bad_configuration_never_starts(small_survey, tiny, tmp_path, capsys, change, words):
    import re

    arguments = command(small_survey, tmp_path / "out", *tiny)
    for flag, value in zip(change[::2], change[1::2], strict=True):
        if flag in arguments:
            arguments[arguments.index(flag) + 1] = value
        else:
            arguments += [flag, value]
    assert main(arguments) == 1
    assert re.search(words, capsys.readouterr().err)
    assert not (tmp_path / "out/report.html").exists()


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("before the data is gone", marks=SLOW),
        "before the records are gone",
        pytest.param("at the end", marks=SLOW),
    ],
)
def test_an_interrupted_redo_is_completed_by_the_next_run(finished, tiny, tmp_path, monkeypatch, point):
    from skysom.jobs import output as module

    class Killed(BaseException):
        pass

    def killed(*args):
        raise Killed

    survey, output = finished
    whole = tmp_path / "whole"
    redo = [*tiny, "--set", "som.seed=7"]
    assert main(command(survey, whole, *redo)) == 0
    target = {"before the data is gone": "remove_tree", "before the records are gone": "Ledger"}.get(point)
    with monkeypatch.context() as patch:
        if target == "remove_tree":
            patch.setattr(module, "remove_tree", killed)
        else:
            patch.setattr(module.Output, "forget" if target else "claim", killed)
        with pytest.raises(Killed):
            main(command(survey, output, *redo, "--redo", "train"))
    assert main(command(survey, output, *redo)) == 0
    assert_same_store(output, whole)


def test_redo_discards_nothing_when_the_command_is_wrong_and_spares_other_maps(finished, tiny):
    survey, output = finished
    assert main(["train", "-o", str(output), "--som-name", "other"]) == 0
    assert main(command(survey, output, *tiny, "--redo", "train", "--train-where", "nope > 3")) == 1
    assert main(["run", "-i", "/nowhere", "-c", str(survey[1]), "-o", str(output), "--redo", "ingest"]) == 1
    assert main(command(survey, output, *tiny, "--redo", "train")) == 0
    assert Survey(output / "survey.zarr").som_names() == ["main", "main-stage1", "other", "other-stage1"]


@pytest.mark.parametrize("kill_at", ["resize", "_write_positions", "preprocess_survey"])
def test_an_interrupted_append_is_completed_by_the_same_command(finished, tmp_path, monkeypatch, kill_at):
    from skysom.jobs import ingest, preprocess

    class Killed(BaseException):
        pass

    def killed(*args, **kwargs):
        raise Killed

    (folder, _, table), output = finished
    more = sys.modules["survey_files"].write_cutouts(folder, 40, first=150)
    more["new"] = 1.5
    more.to_csv(folder / "more.csv", index=False)
    append = ["ingest", "--append", "-i", str(folder), "-c", str(folder / "more.csv"), "-o", str(output)]
    where = {"resize": ingest.Survey, "_write_positions": ingest, "preprocess_survey": preprocess}[kill_at]
    with monkeypatch.context() as patch:
        patch.setattr(where, kill_at, killed)
        with pytest.raises(Killed):
            main(append)
    assert main(["map", "-o", str(output)]) == (0 if kill_at == "resize" else 1), "a half survey must not be mapped"
    assert main(append) == 0
    assert main(["map", "-o", str(output)]) == 0
    result = pd.read_parquet(output / "catalogue.parquet")
    assert len(result) == len(table) + 40
    assert result["bmu"].notna().equals(result["status"] == "ok")
    assert result["new"].notna().sum() == 40
    assert list(result.columns[:6]) == ["name", "flux", "filename", "expected", "new", "source_id"]


def test_print_config_changes_nothing(small_survey, tiny, tmp_path, capsys):
    assert main(command(small_survey, tmp_path / "out", *tiny, "--print-config")) == 0
    assert "width = 3" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("blocks", [3, 10, 14])
def test_interrupted_online_training_continues_at_its_checkpoint(small_survey, tiny, tmp_path, monkeypatch, blocks):
    from skysom.jobs import training_run as module

    class Killed(BaseException):
        pass

    survey, output, other = small_survey, tmp_path / "whole", tmp_path / "other"
    online = [*tiny, "--batch-size", "1"]
    assert main(command(survey, output, *online)) == 0
    shown = []
    train_block = module.OnlineTrainer.train

    def train_until(self, images, *args):
        if len(shown) == blocks:
            raise Killed
        shown.append(len(images))
        return train_block(self, images, *args)

    monkeypatch.setattr(module, "CHECKPOINT_EVERY_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(module.OnlineTrainer, "train", train_until)
        with pytest.raises(Killed):
            main(command(survey, other, *online))
    assert main(command(survey, other, *online)) == 0
    assert_same_store(output, other)
    lines = [json.loads(line) for line in (other / "history.jsonl").read_text().splitlines()]
    ended = next(line for line in lines if line["event"] == "stage_end" and line["stage"] == "train")
    assert ended["presentations"] == 2 * ended["images"] - sum(shown), "images were shown again"


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(12))
def test_kill_9_at_a_random_moment(small_survey, tiny, tmp_path, trial):
    """The driver is killed at a random moment, three times in a row, and the store is still the undisturbed one."""
    whole, other = tmp_path / "whole", tmp_path / "other"
    assert main(command(small_survey, whole, *tiny, "--workers", "1")) == 0
    rng = np.random.default_rng(trial)
    arguments = command(small_survey, other, *tiny, "--workers", "2", "--executor", ["local", "ray"][trial % 2])
    code = "import sys; from skysom.jobs.cli import main; sys.exit(main(sys.argv[1:]))"
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=rng.uniform(0.5, 3 + 10 * (trial % 2)))
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    assert main(arguments) == 0
    assert_same_store(whole, other)
