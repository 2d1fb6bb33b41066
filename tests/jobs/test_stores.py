"""The main job with images, catalogue, configuration and output in an object store (a real S3 server on loopback)."""

import json
import threading
import time

import numpy as np
import pandas as pd
import pytest
import survey_files
import xarray as xr
import zarr
from s3fs import S3FileSystem

from skysom.jobs.cli import main
from skysom.jobs.output import Output
from skysom.jobs.report_history import read_history
from skysom.storage import place as places
from skysom.storage.catalogue import read_catalogue
from skysom.storage.jsonlines import JsonLines
from skysom.storage.place import place
from skysom.storage.survey import Survey


def run(source, output, *more):
    """`skysom run` with what is in ``source``."""
    inputs = ["--images", f"{source}/survey", "--catalogue", f"{source}/survey/sources.csv"]
    return main(["run", *inputs, "--output", str(output), "--config", f"{source}/tiny.toml", *more])


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A survey of 60 cut-outs and bad ones on disk, and a run over it."""
    folder = tmp_path_factory.mktemp("local")
    good, bad = survey_files.write_cutouts(folder / "survey", 60), survey_files.write_bad_cutouts(folder / "survey")
    pd.concat([good.iloc[:40], bad, good.iloc[40:]]).to_csv(folder / "survey" / "sources.csv", index=False)
    (folder / "tiny.toml").write_text(
        "som = {width = 3, height = 2, region = 'circular'}\n"
        "ingest = {shard_images = 64}\n"
        "train = {stages = [{sigma = 1.0, rotations = 8}]}\n"
        "preprocess = {steps = [{step = 'noise'}, {step = 'signal_to_noise_mask', threshold = 5.0}, "
        "{step = 'min_max'}]}\n"
    )
    assert run(folder, folder / "out", "--workers", "1") == 0
    return folder


@pytest.fixture
def source(local, s3):
    """The same input in an object store."""
    S3FileSystem(use_listings_cache=False).put(str(local / "survey"), f"{s3[5:]}/in/survey", recursive=True)
    places.write_atomically(place(s3) / "in" / "tiny.toml", (local / "tiny.toml").read_bytes())
    return f"{s3}/in"


def assert_same(local, output):
    one, other = Survey(local / "out" / "survey.zarr"), Survey(f"{output}/survey.zarr")
    arrays = [name for name, member in one.group.members(max_depth=None) if isinstance(member, zarr.Array)]
    assert len(arrays) > 15
    for name in arrays:
        assert np.array_equal(one[name][:], other[name][:], equal_nan=one[name].dtype.kind == "f"), name
    catalogues = [read_catalogue(place(root) / "catalogue.parquet") for root in (local / "out", output)]
    pd.testing.assert_frame_equal(*catalogues)


def events(output, kind):
    return [e for e in map(json.loads, JsonLines(Output(output).history).read()) if e["event"] == kind]


def test_a_run_in_an_object_store_is_that_on_disk(local, source, s3, capfd):
    output = f"{s3}/out"
    assert run(source, output, "--workers", "1") == 0
    assert_same(local, output)
    assert b"</html>" in places.read_bytes(place(output) / "report.html")
    assert set(read_history(Output(output).history, "main", "main").stages) >= {"ingest", "train", "map"}
    with xr.open_zarr(f"{output}/survey.zarr", consolidated=False) as opened:
        assert opened["prepared"].shape[0] == 70
    shards = len(events(output, "shard"))
    assert shards == 6
    # The same command again does nothing; another configuration is refused; --redo does what it says.
    assert run(source, output, "--workers", "1") == 0
    assert len(events(output, "shard")) == shards
    assert run(source, output, "--set", "som.width=4") == 1
    assert "som.width: 3 there, 4 in this run" in capfd.readouterr().err
    assert run(source, output, "--workers", "1", "--redo", "map") == 0
    assert len(events(output, "shard")) == shards + 2
    assert_same(local, output)
    # A published map is taken from another output there, or from a file.
    more = ["--som-name", "again", "--workers", "1"]
    assert main(["map", "--output", output, "--som", f"{output}:main", *more]) == 0
    again = Survey(f"{output}/survey.zarr")
    assert np.array_equal(again.column("mappings/again/bmu"), again.column("mappings/main/bmu"))


@pytest.mark.slow
def test_ray_workers_write_the_same_to_an_object_store(local, source, s3):
    import ray

    ray.shutdown()  # its processes keep the environment they were started with
    assert run(source, f"{s3}/out", "--workers", "2", "--executor", "ray") == 0
    ray.shutdown()
    assert_same(local, f"{s3}/out")


@pytest.mark.slow
def test_a_store_that_is_away_for_a_while_delays_a_run(local, stoppable_s3, caplog):
    server, url = stoppable_s3
    S3FileSystem(use_listings_cache=False).put(str(local / "survey"), f"{url[5:]}/in/survey", recursive=True)
    places.write_atomically(place(url) / "in" / "tiny.toml", (local / "tiny.toml").read_bytes())
    output, stopped = f"{url}/out", []

    def outage():
        while not any(event["stage"] == "preprocess" for event in events(output, "stage_start")):
            time.sleep(0.05)
        server.stop()
        stopped.append(True)
        time.sleep(2)
        server.start()

    thread = threading.Thread(target=outage)
    thread.start()
    assert run(f"{url}/in", output, "--workers", "1") == 0
    thread.join()
    assert stopped
    said = [record.message for record in caplog.records if record.name == "skysom.storage"]
    assert ["waiting for it" in line for line in said] == [True, False]
    assert_same(local, output)


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("s3://there-is-no-such-bucket/out", "cannot lock s3://there-is-no-such-bucket/out: The specified bucket"),
        ("foo://bucket/out", "unknown protocol 'foo'"),
        ("s3://", "names no bucket"),
    ],
)
def test_an_output_that_cannot_be_is_one_sentence(local, s3, capfd, output, sentence):
    assert run(local, output) == 1
    error = capfd.readouterr().err.splitlines()
    assert len(error) == 1
    assert sentence in error[0]


def test_inputs_that_are_not_there_are_one_sentence(source, s3, capfd):
    for option, value in (
        ("--images", f"{s3}/none"),
        ("--images", "s3://no-such-bucket/x"),
        ("--catalogue", f"{s3}/x"),
    ):
        assert run(source, f"{s3}/out", option, value) == 1
        error = capfd.readouterr().err.splitlines()
        assert len(error) == 1
        assert value in error[0]
    assert not places.exists(place(s3) / "out")


@pytest.fixture
def unfinished(local, tmp_path):
    """A copy of the local run in which the second shard of the map is missing."""
    import shutil

    shutil.copytree(local / "out", tmp_path / "out")
    ledger = tmp_path / "out" / ".skysom" / "ledger.jsonl"
    lines = [line for line in ledger.read_text().splitlines() if '"map:main"' not in line or '"start": 0' in line]
    ledger.write_text("\n".join(lines) + "\n")
    return tmp_path / "out"


def test_what_a_killed_writer_left_is_swept(local, unfinished, capfd):
    mapping = unfinished / "survey.zarr" / "mappings" / "main"
    strays = [
        mapping / "distance" / "c" / "1" / "0.0123456789abcdef.partial",
        mapping / "bmu" / "c" / "1.0123456789abcdef.partial",
        mapping / "bmu" / "zarr.0123456789abcdef.partial",
        unfinished / ".catalogue.parquet.partial",
        unfinished / "survey.zarr" / "soms" / ".main.partial",
    ]
    for stray in strays:
        assert stray.parent.is_dir()
        stray.write_bytes(b"torn")
    finished = unfinished / "survey.zarr" / "images" / "c" / "0" / "0" / "0" / "0.0123456789abcdef.partial"
    finished.write_bytes(b"not looked for: the stage is finished")
    foreign = unfinished / "download.partial"
    foreign.write_bytes(b"of somebody else")
    assert run(local, unfinished, "--workers", "1") == 0
    assert "swept 5 partial files of an interrupted run" in capfd.readouterr().err
    assert not any(stray.exists() for stray in strays)
    assert finished.exists()
    assert foreign.exists()
    assert_same(local, unfinished)
    assert run(local, unfinished, "--workers", "1") == 0
    assert "swept" not in capfd.readouterr().err


def test_unfinished_uploads_are_swept_and_those_of_others_left(s3):
    output = Output(f"{s3}/out")
    store = S3FileSystem(use_listings_cache=False)
    bucket = s3[5:]
    for key in ("out/survey.zarr/images/c/0", "other/x"):
        store.call_s3("create_multipart_upload", Bucket=bucket, Key=key)
    places.write_atomically(output.root / "survey.zarr.partial" / "zarr.json", b"{}")
    with output.lock(create=True):
        assert output.epoch == 1
    assert [upload["Key"] for upload in store.list_multipart_uploads(bucket)] == ["other/x"]
    assert not places.exists(output.root / "survey.zarr.partial")
    with output.lock():
        assert output.epoch == 2
