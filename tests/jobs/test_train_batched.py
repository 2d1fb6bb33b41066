"""Batched training as a stage of a job: the same map however it is run, resumed or sharded; limits and history."""

import io
import json
import re

import numpy as np
import pytest
import zarr

from skysom.jobs.cli import main
from skysom.jobs.output import Output

STAGES = "train.stages=[{sigma=1.0, rotations=8, rate=0.1}, {sigma=0.5, rotations=16, rate=0.05, iterations=2}]"
SOM = ["--set", "som.width=3", "--set", "som.height=2", "--set", "som.region='circular'"]
BATCHED = [*SOM, "--set", STAGES, "--batch-size", "32", "--set", "train.checkpoint_batches=2"]


class Killed(BaseException):
    pass


@pytest.fixture
def ingested(small_survey, tmp_path, tiny):
    """Call ingested(name, *flags) for an output whose images are ingested and preprocessed."""
    folder, catalogue, _ = small_survey

    def make(name, *flags):
        output = tmp_path / name
        arguments = ["ingest", "-i", str(folder), "-c", str(catalogue), "-o", str(output), *tiny, *flags]
        assert main([*arguments, "--workers", "1"]) == 0
        return output

    return make


def train(output, *flags, workers=1):
    return main(["train", "-o", str(output), *BATCHED, *flags, "--workers", str(workers)])


def weights(output, name="main"):
    return zarr.open_group(output / "survey.zarr", mode="r")[f"soms/{name}/weights"][:]


def events(output, kind):
    return [e for e in map(json.loads, (output / "history.jsonl").read_text().splitlines()) if e["event"] == kind]


@pytest.mark.parametrize(
    "flags",
    [
        ["--set", "train.shuffle_images=64"],
        pytest.param([], marks=pytest.mark.slow),
        pytest.param(["--set", "train.batch_mode='kohonen'"], marks=pytest.mark.slow),
    ],
)
def test_workers_and_shards_change_nothing(ingested, flags):
    one = ingested("one")
    assert train(one, *flags) == 0
    other = ingested("other", "--set", "ingest.shard_images=128")
    assert train(other, *flags, workers=3) == 0
    assert np.array_equal(weights(one), weights(other))
    assert np.array_equal(weights(one, "main-stage1"), weights(other, "main-stage1"))
    attrs = zarr.open_group(one / "survey.zarr", mode="r")["soms/main"].attrs["training"]
    assert [stage["batch_size"] for stage in attrs["stages"]] == [32, 32]


@pytest.mark.parametrize("batches", [1, 4, 7, 14])
def test_interrupted_training_continues_at_its_checkpoint(ingested, monkeypatch, batches):
    from skysom.cluster import coordinator as module

    whole, output = ingested("whole"), ingested("output")
    assert train(whole) == 0
    move, done = module.Coordinator._move, []

    def move_until(self, *args):
        if len(done) == batches:
            raise Killed
        done.append(1)
        return move(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(module.Coordinator, "_move", move_until)
        with pytest.raises(Killed):
            train(output)
    assert train(output) == 0
    assert np.array_equal(weights(output), weights(whole))
    images = events(whole, "stage_end")[-1]["presentations"]
    again = events(output, "stage_end")[-1]["presentations"]
    # What was done since the last of the checkpoints (every two batches) is done again, and no more.
    assert images - 32 * (batches - batches % 2) <= again <= images - 25 * (batches - batches % 2)


def test_batches_of_one_are_online_training(ingested):
    """The map of `--batch-size 1` is what the engine makes online of the same images in the same order."""
    from skysom.engine import Cartesian, Neighbourhood, Som, train_online
    from skysom.engine.initial import initial_weights

    output = ingested("one")
    stages = "train.stages=[{sigma=1.0, rotations=8, rate=0.1}]"
    assert train(output, "--batch-size", "1", "--set", stages) == 0
    store = zarr.open_group(output / "survey.zarr", mode="r")
    images = store["prepared"][:][store["ok"][:]]
    found = weights(output)
    som = Som(initial_weights("random", 6, 1, found.shape[2], 1234), Cartesian(3, 2))
    order = np.random.default_rng([1234, 3, 0, 0]).permutation(len(images))
    one = train_online(
        images, som, Neighbourhood("unity_gaussian", 1.0, 0.1), rotations=8, region="circular", order=order
    )
    assert np.array_equal(found, one.som.weights)


def test_the_default_is_a_twentieth_of_the_images_and_online_where_batches_cannot_be(ingested):
    output = ingested("one")
    assert main(["train", "-o", str(output), *SOM, "--set", STAGES]) == 0
    hat = "train.stages=[{neighbourhood='mexican_hat', rate=0.01, rotations=4}]"
    assert main(["train", "-o", str(output), *SOM, "--set", hat, "--som-name", "hat"]) == 0
    store = zarr.open_group(output / "survey.zarr", mode="r")
    sizes = [[s["batch_size"] for s in store[f"soms/{name}"].attrs["training"]["stages"]] for name in ("main", "hat")]
    assert sizes == [[32, 32], [1]]


def test_stages_have_batch_sizes_of_their_own(ingested):
    output = ingested("one")
    assert train(output, "--set", STAGES.replace("rate=0.1}", "rate=0.1, batch_size=1}")) == 0
    sizes = [event.get("batch_size", 1) for event in events(output, "training")]
    assert set(sizes) == {1, 32}
    assert sizes == sorted(sizes)


def test_the_history_tells_where_the_time_went(ingested, capsys):
    output = ingested("one")
    assert train(output, "--set", "train.batch_size=128", workers=2) == 0
    found = events(output, "training")
    assert found[-1]["images_seen"] == 3 * events(output, "stage_end")[-1]["images"]
    for event in found:
        assert {"batch_size", "strongest_sum", "seconds", "reduce_s", "workers"} <= event.keys()
    assert {seat for event in found for seat in event["workers"]} == {"0", "1"}
    assert sum(w["images"] for event in found for w in event["workers"].values()) == found[-1]["images_seen"]
    assert "moves a neuron with a sum of factors of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--set", "train.batch_size=33"], "batch_size is 33; use 1 .* or a multiple of 32"),
        (["--set", "train.stages=[{neighbourhood='mexican_hat'}]"], "mexican_hat .* affine batches need .* between"),
        (["--set", "train.stages=[{rate=1.5}]"], "training stage 1: .* factors from .* to 1.5"),
        (["--set", "train.shuffle_images=64", "--batch-size", "128"], "batches of 128 images, .*shuffle_images=64"),
        (["--set", "train.memory_gb=0.001"], "with 6 neurons and 1 worker needs .* GB, .* train.shuffle_images"),
        (["--set", "train.batch_mode='mean'"], "affine.*kohonen"),
    ],
)
def test_what_cannot_be_trained_in_batches_never_starts(ingested, capsys, flags, words):
    output = ingested("one")
    assert train(output, *flags) == 1
    assert re.search(words, capsys.readouterr().err, re.DOTALL)
    assert not (output / "survey.zarr/soms").exists()


def test_other_batches_are_another_map(ingested, capsys):
    output = ingested("one")
    assert train(output) == 0
    assert train(output, "--batch-size", "64") == 1
    assert "train.batch_size: 32 there, 64 in this run" in capsys.readouterr().err
    assert train(output, "--set", "train.memory_gb=4", "--set", "train.checkpoint_batches=5") == 0


DAMAGE = {
    "empty": b"",
    "text": b"no archive",
    "cut": None,
    "header": (b"{'descr'", b"({'desc'"),
    "packed": 8,
    "locked": 6,
}
"""What a damaged checkpoint holds: bytes, bytes replaced, or the offset in zip's directory of what is changed."""


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_begins_again(ingested, capsys, damage):
    output = ingested("output")
    memory = io.BytesIO()
    np.savez(memory, weights=np.zeros((6, 1, 9, 9), np.float32), position=np.zeros(3, int), digest=np.array("x"))
    content, change = memory.getvalue(), DAMAGE[damage]
    if isinstance(change, bytes):
        content = change
    elif isinstance(change, tuple):
        content = content.replace(*change)
    elif change is None:
        content = content[: len(content) // 2]
    else:  # method 97, or the bit of encryption, of the member that is read first
        at = content.rindex(b"PK\x01\x02") + 2 + change
        content = content[:at] + bytes([97]) + content[at + 1 :]
    (output / ".skysom" / "training-main.npz").write_bytes(content)
    assert train(output) == 0
    told = capsys.readouterr()
    assert "cannot be read" in told.out + told.err


def test_redo_leaves_maps_whose_names_are_like_those_of_stages(ingested, capsys):
    output = ingested("output")
    for name in ("main-stage1", "main-stagecoach", "main"):
        assert train(output, "--som-name", name) == 0
    own = {name: weights(output, name) for name in ("main-stage1", "main-stagecoach", "main-stage1-stage1")}
    told = capsys.readouterr()
    assert "main-stage1 is a map of its own" in told.out + told.err
    Output(output).discard("train", "main")
    for name, there in own.items():
        assert np.array_equal(weights(output, name), there)
    assert not (output / "survey.zarr/soms/main").exists()
    assert train(output, "--init", "som:", "--som-name", "other") == 1
    assert "has no map ''" in capsys.readouterr().err
