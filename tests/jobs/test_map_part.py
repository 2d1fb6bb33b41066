"""Mapping a part of a survey, and keeping the best neurons only: the same numbers as the whole mapping."""

import json

import numpy as np
import pandas as pd
import pytest
import zarr

from skysom.jobs import map as map_module
from skysom.jobs.cli import main
from skysom.jobs.errors import ConfigError
from skysom.jobs.map_worker import MapWorker


@pytest.fixture
def finished(small_survey, tmp_path, tiny, capsys):
    """Output of a finished run, with the mapping main."""
    folder, catalogue, _ = small_survey
    output = tmp_path / "out"
    assert main(["run", "-i", str(folder), "-c", str(catalogue), "-o", str(output), *tiny, "--workers", "1"]) == 0
    capsys.readouterr()
    return output


def map_again(output, name, *settings):
    flags = [part for setting in settings for part in ("--set", setting)]
    return main(["map", "-o", str(output), "--som", f"{output}:main", "--som-name", name, *flags])


def mapping(output, name):
    group = zarr.open_group(output / "survey.zarr", mode="r")[f"mappings/{name}"]
    return {array: group[array][:] for array in group.array_keys()}, dict(group.attrs)


def same(one, other):
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def test_the_best_neurons_are_those_of_the_whole_mapping(finished):
    whole, _ = mapping(finished, "main")
    assert map_again(finished, "best", "map.keep=3") == 0
    best, attrs = mapping(finished, "best")
    assert attrs["keep"] == 3
    mapped = whole["bmu"] >= 0
    order = np.argsort(whole["distance"], axis=1, kind="stable")[:, :3]
    assert best["neuron"].dtype == np.int32
    assert same(best["neuron"][mapped], order[mapped])
    assert (best["neuron"][~mapped] == -1).all()
    for name in ("distance", "rotation", "flip"):
        assert best[name].dtype == whole[name].dtype
        assert same(best[name][mapped], np.take_along_axis(whole[name], order, axis=1)[mapped]), name
    assert np.isnan(best["distance"][~mapped]).all()
    for name in ("bmu", "bmu_distance", "bmu_rotation", "bmu_flip"):
        assert same(best[name], whole[name]), name
    assert same(best["neuron"][:, 0], whole["bmu"])


def test_all_neurons_kept_by_rank_hold_the_whole_mapping(finished):
    whole, _ = mapping(finished, "main")
    assert map_again(finished, "ranked", "map.keep=6") == 0
    ranked, _ = mapping(finished, "ranked")
    mapped = whole["bmu"] >= 0
    back = np.empty_like(whole["distance"][mapped])
    np.put_along_axis(back, ranked["neuron"][mapped], ranked["distance"][mapped], axis=1)
    assert same(back, whole["distance"][mapped])


def test_more_neurons_than_there_are_is_refused_and_claims_nothing(finished, capsys):
    assert map_again(finished, "best", "map.keep=7") == 1
    assert "map.keep is 7, the map 'best' has 6 neurons" in capsys.readouterr().err
    assert map_again(finished, "best", "map.keep=2") == 0


def test_a_part_has_the_numbers_of_the_whole_mapping_and_nothing_else(finished):
    whole, _ = mapping(finished, "main")
    before = pd.read_parquet(finished / "catalogue.parquet")
    neuron = int(before["bmu"].mode()[0])
    rows = (before["bmu"] == neuron).fillna(False).to_numpy(bool)
    assert map_again(finished, "sub", f"map.where='bmu == {neuron}'") == 0
    part, attrs = mapping(finished, "sub")
    assert attrs["where"] == f"bmu == {neuron}"
    assert same(part.pop("selected"), rows)
    for name, values in part.items():
        assert same(values[rows], whole[name][rows]), name
    assert (part["bmu"][~rows] == -1).all()
    assert np.isnan(part["distance"][~rows]).all()
    after = pd.read_parquet(finished / "catalogue.parquet")
    assert after["bmu"].notna().to_numpy().tolist() == rows.tolist()
    assert after["angle_deg"].notna().to_numpy().tolist() == rows.tolist()


def test_a_resumed_part_is_of_the_same_rows_although_the_catalogue_has_changed(finished, monkeypatch):
    class Killed(BaseException):
        pass

    compute = MapWorker.compute
    rows = (pd.read_parquet(finished / "catalogue.parquet")["bmu"] <= 2).fillna(False).to_numpy(bool)

    def killed(self, shard, data):
        if shard[0] == 64:
            raise Killed
        return compute(self, shard, data)

    with monkeypatch.context() as patch:
        patch.setattr(MapWorker, "compute", killed)
        with pytest.raises(Killed):
            map_again(finished, "sub", "map.where='bmu <= 2'")
    # Another mapping takes the columns of results meanwhile: bmu is 0 everywhere.
    table = pd.read_parquet(finished / "catalogue.parquet")
    table["bmu"] = table["bmu"] * 0
    table.to_parquet(finished / "catalogue.parquet")
    assert map_again(finished, "sub", "map.where='bmu <= 2'") == 0
    whole, part = mapping(finished, "main")[0], mapping(finished, "sub")[0]
    assert 0 < rows.sum() < len(rows)
    assert same(part["selected"], rows)
    assert same(part["bmu"], np.where(rows, whole["bmu"], -1))
    lines = [json.loads(line) for line in (finished / "history.jsonl").read_text().splitlines()]
    shards = [line["start"] for line in lines if line["event"] == "shard" and line["stage"] == "map"]
    assert sorted(shards[3:]) == [0, 64, 128], "a shard was mapped twice"


def test_shards_without_selected_rows_are_not_read(finished, monkeypatch):
    from skysom.jobs.preprocess import PreparedReader

    read, fetch = [], PreparedReader.fetch

    def noted(self, start, stop):
        read.append((start, stop))
        return fetch(self, start, stop)

    monkeypatch.setattr(PreparedReader, "fetch", noted)
    assert map_again(finished, "few", "map.where='name == \"source0100\"'") == 0
    assert read == [(64, 128)]
    assert (mapping(finished, "few")[0]["bmu"] >= 0).sum() == 1


def test_rows_appended_later_are_selected_by_the_same_expression(finished, small_survey):
    import sys

    assert map_again(finished, "faint", "map.where='flux < 20 or flux > 145'") == 0
    folder = small_survey[0]
    sys.modules["survey_files"].write_cutouts(folder, 40, first=150).to_csv(folder / "more.csv", index=False)
    more = ["-i", str(folder), "-c", str(folder / "more.csv"), "-o", str(finished)]
    assert main(["ingest", "--append", *more]) == 0
    assert main(["map", "-o", str(finished), "--som-name", "faint"]) == 0
    table = pd.read_parquet(finished / "catalogue.parquet")
    wanted = ((table["flux"] < 20) | (table["flux"] > 145)) & (table["status"] == "ok")
    assert wanted.iloc[161:].all()
    assert table["bmu"].notna().tolist() == wanted.tolist()


def test_appended_rows_bring_no_values_into_columns_that_commands_made(finished, small_survey, capsys):
    import sys

    assert main(["choose", str(finished), "--sample", "10"]) == 0
    before = (finished / "catalogue.parquet").read_bytes()
    folder = small_survey[0]
    rows = sys.modules["survey_files"].write_cutouts(folder, 5, first=150).assign(chosen=True)
    rows.to_csv(folder / "chosen.csv", index=False)
    more = ["-i", str(folder), "-c", str(folder / "chosen.csv"), "-o", str(finished)]
    assert main(["ingest", "--append", *more]) == 1
    assert "columns chosen, which commands of skysom have made" in capsys.readouterr().err
    assert (finished / "catalogue.parquet").read_bytes() == before
    rows.rename(columns={"chosen": "theirs"}).to_csv(folder / "chosen.csv", index=False)
    assert main(["ingest", "--append", *more]) == 0
    assert pd.read_parquet(finished / "catalogue.parquet")["chosen"].isna().sum() == 5


@pytest.mark.parametrize(
    ("where", "words"),
    [("flux > 1e9", "--where 'flux > 1e9' selects no usable row"), ("nope > 3", "nope"), ("f(3)", "uses Call")],
)
def test_an_impossible_selection_is_refused_and_claims_nothing(finished, capsys, where, words):
    assert map_again(finished, "sub", f"map.where='{where}'") == 1
    assert words in capsys.readouterr().err
    assert map_again(finished, "sub", "map.where='flux > 100'") == 0


def test_report_and_export_of_partial_mappings(finished, tmp_path, capsys):
    assert map_again(finished, "part", "map.where='flux > 100'", "map.keep=2") == 0
    assert main(["report", "-o", str(finished), "--som-name", "part"]) == 0
    assert "report.html" in capsys.readouterr().out
    assert map_again(finished, "some", "map.where='flux > 100'") == 0
    for name, words in (("part", "keeps the best 2 neurons"), ("some", "is of the rows where flux > 100")):
        export = ["export-pink", "-o", str(finished), "--som-name", name, "--mapping", str(tmp_path / "m.bin")]
        assert main(export) == 1
        assert words in capsys.readouterr().err
        assert not (tmp_path / "m.bin").exists()


@pytest.mark.parametrize("store", [pytest.param("float32", marks=pytest.mark.slow), "none"])
def test_two_workers_on_ray_map_the_same(small_survey, tmp_path, tiny, store):
    folder, catalogue, _ = small_survey
    settings = [*tiny, "--set", f"ingest.store='{store}'", "--set", "map.keep=2", "--set", "map.where='flux > 30'"]
    for name, flags in (("one", ["--workers", "1"]), ("two", ["--workers", "2", "--executor", "ray"])):
        run = ["run", "-i", str(folder), "-c", str(catalogue), "-o", str(tmp_path / name), *settings, *flags]
        assert main(run) == 0
    one, two = mapping(tmp_path / "one", "main")[0], mapping(tmp_path / "two", "main")[0]
    assert one.keys() == two.keys()
    for name in one:
        assert same(one[name], two[name]), name


def test_the_history_says_what_each_worker_did(finished):
    lines = [json.loads(line) for line in (finished / "history.jsonl").read_text().splitlines()]
    shards = [line for line in lines if line["event"] == "shard" and line["stage"] == "map"]
    ended = next(line for line in lines if line["event"] == "stage_end" and line["stage"] == "map")
    assert list(ended["workers"]) == ["0"]
    worker = ended["workers"]["0"]
    assert (worker["shards"], worker["images"], worker["device"]) == (3, 161, "cpu")
    for step in ("read_s", "compute_s", "write_s"):
        assert worker[step] == pytest.approx(sum(line[step] for line in shards), abs=1e-3)
    assert worker["memory_bytes"] == max(line["memory_bytes"] for line in shards) > 0
    assert {line["host"] for line in shards} == {worker["host"]}


def test_memory_counts_shards_in_flight_of_all_workers_here(monkeypatch):
    import psutil

    from skysom.engine.geometry import Geometry
    from skysom.engine.memory import projected_memory

    geometry, weights = Geometry.derive(64, 36), np.zeros((100, 1, 91, 91), np.float32)
    search = projected_memory(geometry, neurons=100, channels=1, workers=4)
    flight = 4 * 4 * 512 * 4 * 64 * 64

    class Memory:
        total = (search + flight) / 0.9 * 1.001

    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory)
    map_module.check_memory(geometry, weights, 4, shard_rows=512)
    Memory.total /= 1.01
    words = rf"4 workers .* {search / 1e9:.1f} GB for the search and {flight / 1e9:.1f} GB for 3 shards of 512 rows"
    with pytest.raises(ConfigError, match=words + r".*lower --workers.*ingest\.shard_images"):
        map_module.check_memory(geometry, weights, 4, shard_rows=512)
