"""What is damaged, extreme or changed behind our back is refused or marked; it never passes as a result."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
import zarr
from astropy.io import fits

from skysom.jobs.cli import main
from skysom.storage.survey import Survey


@pytest.fixture
def run(small_survey, tmp_path, tiny):
    """Call run(*flags) for the main job on a small survey; run.output is its output, run.survey its input."""
    folder, catalogue, _ = small_survey
    base = ["run", "-i", str(folder), "-c", str(catalogue), "-o", str(tmp_path / "out"), *tiny, "--workers", "1"]

    def call(*flags):
        return main([*base, *flags])

    call.output, call.survey = tmp_path / "out", folder
    return call


def refused(call, capsys, words, *flags):
    capsys.readouterr()
    assert call(*flags) == 1
    message = capsys.readouterr().err
    assert re.search(words, message), message


def flip_bytes(path, at=0.5, count=1):
    data = bytearray(path.read_bytes())
    for i in range(count):
        data[int(len(data) * at) + i] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("array", ["prepared", "soms/main/weights", "mappings/main/bmu_distance"])
def test_flipped_bytes_are_found(run, capsys, array):
    assert run() == 0
    chunks = sorted(p for p in (run.output / "survey.zarr" / array / "c").rglob("*") if p.is_file())
    flip_bytes(chunks[0])
    if array == "mappings/main/bmu_distance":
        assert main(["map", "-o", str(run.output)]) == 1
    else:
        refused(run, capsys, "checksum|crc|damaged|Crc32c", "--redo", "map")


@pytest.mark.parametrize("stage", ["train", "map"])
def test_lost_chunks_of_images_are_found(run, capsys, stage):
    assert run() == 0
    shutil.rmtree(run.output / "survey.zarr/prepared/c")
    refused(run, capsys, "marked usable,? is empty; the store lost data", "--redo", stage)


def test_a_lost_store_is_made_again(run):
    assert run() == 0
    before = zarr.open_group(run.output / "survey.zarr", mode="r")["mappings/main/distance"][:]
    shutil.rmtree(run.output / "survey.zarr")
    assert run() == 0
    after = zarr.open_group(run.output / "survey.zarr", mode="r")["mappings/main/distance"][:]
    assert np.array_equal(before, after, equal_nan=True)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"ingest": 3}'])
def test_a_damaged_configuration_record_is_refused(run, capsys, text):
    assert run() == 0
    (run.output / ".skysom/config.json").write_text(text)
    refused(run, capsys, "config.json is damaged")


def test_a_damaged_or_sorted_catalogue_is_refused(run, capsys):
    assert run() == 0
    path = run.output / "catalogue.parquet"
    table = pd.read_parquet(path)
    table.sort_values("bmu_distance").to_parquet(path)
    refused(run, capsys, "was changed: its source_id")
    path.write_bytes(b"not parquet")
    refused(run, capsys, "cannot read .*catalogue.parquet")


def test_a_damaged_checkpoint_is_ignored_with_a_word(run, capsys):
    assert run("--redo", "ingest") == 0
    (run.output / ".skysom/training-other.npz").write_bytes(b"garbage")
    capsys.readouterr()
    assert main(["train", "-o", str(run.output), "--som-name", "other"]) == 0
    assert "cannot be read" in capsys.readouterr().err


def test_training_that_diverges_is_no_map(run, capsys):
    stages = "train.stages=[{neighbourhood='mexican_hat', sigma=1.0, rate=1e30, rotations=8}]"
    refused(run, capsys, "training diverged in stage 1", "--set", stages)
    assert not (run.output / "report.html").exists()


def test_extreme_images_are_marked_and_spoil_no_other(run):
    with fits.open(run.survey / "cutouts/source0003.fits") as file:
        data, header = file[0].data * np.float32(1e25), file[0].header
    fits.PrimaryHDU(data, header).writeto(run.survey / "cutouts/source0003.fits", overwrite=True)
    assert run("--set", "preprocess.steps=[]") == 0
    result = pd.read_parquet(run.output / "catalogue.parquet").set_index("name")
    assert result.loc["source0003", "status"].iloc[0] == "out_of_range"
    assert result["bmu"].notna().equals(result["status"] == "ok")
    assert result["bmu_distance"].max() < 100


def test_discarded_results_are_not_shown(run, capsys):
    assert run() == 0
    refused(run, capsys, "train.memory_gb allows", "--redo", "train", "--set", "train.memory_gb=1e-9")
    assert "bmu" not in pd.read_parquet(run.output / "catalogue.parquet").columns
    assert not (run.output / "report.html").exists()


def test_an_unfinished_mapping_is_not_reported(run, monkeypatch):
    from skysom.jobs.map import MapWorker

    class Killed(BaseException):
        pass

    def killed(self, shard, data):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(MapWorker, "compute", killed)
        with pytest.raises(Killed):
            run()
    assert Survey(run.output / "survey.zarr").mapping_names() == ["main"]
    assert main(["report", "-o", str(run.output)]) == 1
    assert main(["export-pink", "-o", str(run.output), "--mapping", str(run.output / "m.bin")]) == 1
    assert not (run.output / "m.bin").exists()
    assert run() == 0


def test_a_map_is_not_used_on_images_prepared_otherwise(run, tmp_path, tiny, capsys):
    assert run() == 0
    folder, catalogue = str(run.survey), str(run.survey / "sources.csv")
    other = ["run", "-i", folder, "-c", catalogue, "-o", str(tmp_path / "o"), *tiny, "--som", f"{run.output}:main"]
    capsys.readouterr()
    assert main([*other, "--set", "preprocess.steps=[{step='noise'}, {step='min_max'}]"]) == 1
    assert "prepared otherwise" in capsys.readouterr().err


def test_leading_zeros_and_negative_right_ascensions(tmp_path):
    from skysom.storage.catalogue import coordinates, read_catalogue, source_ids

    (tmp_path / "c.csv").write_text("name,ra,dec,n\n007,-10,1,1\n0007,350,1,2\n")
    table = read_catalogue(tmp_path / "c.csv")
    assert source_ids(table)[0].tolist() == ["007", "0007"]
    assert table["n"].tolist() == [1, 2]
    assert coordinates(table, "ra", "dec")[0].tolist() == [350.0, 350.0]


def test_a_report_on_a_cut_chunk_is_refused_with_its_rows(run, capsys):
    assert run() == 0
    for chunk in (run.output / "survey.zarr/mappings/main/bmu/c").iterdir():
        chunk.write_bytes(chunk.read_bytes()[:10])
    capsys.readouterr()
    assert main(["report", "-o", str(run.output)]) == 1
    assert re.search(r"rows 0\.\.\d+ of mappings/main/bmu .* are damaged .*--redo", capsys.readouterr().err)
