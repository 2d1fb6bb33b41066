"""Mapping by the certified search: the answers of exact, one margin a mapping, checks that fall back and are told."""

import json
import shutil
from functools import partial

import numpy as np
import pandas as pd
import pytest
import zarr
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from skysom.cluster.costs import search_memory
from skysom.engine.certified import Calibration
from skysom.engine.geometry import Geometry
from skysom.engine.memory import projected_memory
from skysom.jobs import map_calibration
from skysom.jobs.cli import main
from skysom.jobs.config import load_config
from skysom.jobs.map_calibration import candidate_cost, sample_rows
from skysom.jobs.map_method import Method, Tally, affordable
from skysom.jobs.map_worker import MapWorker
from skysom.jobs.report import write_report

IMAGES, SIDE = 180, 32
CERTIFIED = ("map.calibration_images=32", "map.check_share=0.5")
RUN = [
    "--set", "preprocess.steps=[{step='min_max'}]", "--set", "som.width=3", "--set", "som.height=2",
    "--set", "som.region='circular'", "--set", "ingest.shard_images=64",
    "--set", "train.stages=[{sigma=0.7, rotations=16}]", "--workers", "1",
]  # fmt: skip


def double_source(index):
    """Two wide Gaussians of their own angle and separation on faint noise, (32, 32) float32."""
    rng = np.random.default_rng(index)
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    angle, half = rng.uniform(0, np.pi), rng.uniform(0, SIDE / 5)
    image = rng.normal(0, 0.002, (SIDE, SIDE))
    for sign, peak in ((-1, 1.0), (1, rng.uniform(0.3, 1))):
        far = (x - sign * half * np.cos(angle)) ** 2 + (y - sign * half * np.sin(angle)) ** 2
        image += peak * np.exp(-far / 2 / 3**2)
    return image.astype(np.float32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An output with a trained map, and the exact mapping ``exact`` of 64 rotations."""
    root = tmp_path_factory.mktemp("certified")
    for index in range(IMAGES):
        fits.PrimaryHDU(double_source(index)).writeto(root / f"{index:03}.fits")
    table = pd.DataFrame({"name": [f"s{i}" for i in range(IMAGES)], "flux": np.arange(IMAGES, dtype=float)})
    table["filename"] = [f"{i:03}.fits" for i in range(IMAGES)]
    table.to_csv(root / "sources.csv", index=False)
    output = root / "out"
    ingest = ["ingest", "-i", str(root), "-c", str(root / "sources.csv"), "-o", str(output)]
    assert main([*ingest, *RUN]) == 0
    assert main(["train", "-o", str(output), *RUN]) == 0
    assert map_as(output, "exact", "map.method=exact") == 0
    return output


@pytest.fixture
def output(trained, tmp_path, monkeypatch):
    """A copy of it, for mappings that may be certified although so small a map gains little."""
    monkeypatch.setattr(map_calibration, "MOST_COST", 10.0)
    shutil.copytree(trained, tmp_path / "out")
    return tmp_path / "out"


def map_as(output, name, *settings, more=()):
    settings = ("map.rotations=64", *settings)
    flags = [part for setting in settings for part in ("--set", setting)]
    return main(["map", "-o", str(output), "--som", "som:main", "--som-name", name, *flags, *more])


def mapping(output, name):
    group = zarr.open_group(output / "survey.zarr", mode="r")[f"mappings/{name}"]
    return {array: group[array][:] for array in group.array_keys()}, dict(group.attrs)


def same(one, other):
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def assert_same_mapping(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert same(one[name], other[name]), name


def events(output, kind):
    lines = [json.loads(line) for line in (output / "history.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind and line["stage"] == "map"]


def narrow(*args):
    """A calibration that keeps no candidate but the best score."""
    return Calibration(1e-9, 0.0, 32, 0.09, 1.0), 0.0


def test_the_best_neurons_are_those_of_the_exact_mapping(output, capsys):
    assert map_as(output, "c", *CERTIFIED) == 0
    told = capsys.readouterr().err
    (found, attrs), (exact, others) = mapping(output, "c"), mapping(output, "exact")
    for name in ("bmu", "bmu_rotation", "bmu_flip"):
        assert same(found[name], exact[name]), name
    np.testing.assert_allclose(found["bmu_distance"], exact["bmu_distance"], rtol=5e-6)
    row = np.arange(IMAGES)
    assert found["exact"].dtype == bool
    assert found["exact"][row, found["bmu"]].all()
    assert not found["exact"].all(), "nothing was saved"
    close = np.isclose(found["distance"], exact["distance"], rtol=5e-6)
    assert close[found["exact"]].all()
    assert same(found["distance"].argmin(axis=1), found["bmu"])
    assert "exact" not in exact
    assert others["method"] == "exact"
    assert attrs["calibration"]["images"] == 32
    search = attrs["search"]
    assert (search["mapped"], search["missed"], search["fallback_shards"]) == (IMAGES, 0, 0)
    assert 0.3 * IMAGES < search["checked"] < 0.7 * IMAGES
    assert search["miss_limit"] == pytest.approx(1 - 0.05 ** (1 / search["checked"]))
    assert "certified search calibrated on 32 images" in told
    assert f"certified: {search['checked']} re-checked, none missed" in told
    ended = events(output, "search")[-1]
    assert (ended["key"], ended["checked"], ended["calibration"]) == ("map:c", search["checked"], attrs["calibration"])


def test_fewer_rows_than_four_samples_are_searched_exactly_and_it_is_told(output, capsys):
    assert map_as(output, "few", "map.calibration_images=46") == 0
    told = capsys.readouterr().err
    found, attrs = mapping(output, "few")
    assert_same_mapping(found, mapping(output, "exact")[0])
    assert attrs["method"] == "exact"
    assert "180 rows are fewer than 4 times map.calibration_images (184)" in attrs["method_reason"]
    assert f"searched exactly, as {attrs['method_reason']}" in told
    assert map_as(output, "few", "map.calibration_images=46") == 0
    assert "searched exactly" not in capsys.readouterr().err, "told once"
    assert main(["report", "-o", str(output), "--som-name", "few"]) == 0
    assert "exactly, because 180 rows are fewer" in (output / "report.html").read_text()


def test_a_margin_that_leaves_too_many_candidates_makes_the_mapping_exact(output, monkeypatch, capsys):
    monkeypatch.setattr(map_calibration, "calibration_of", partial(map_calibration.calibration_of, safety=1e4))
    assert map_as(output, "wide", *CERTIFIED) == 0
    found, attrs = mapping(output, "wide")
    assert_same_mapping(found, mapping(output, "exact")[0])
    assert attrs["method"] == "exact"
    assert "the candidates cost" in attrs["method_reason"]
    assert f"searched exactly, as {attrs['method_reason']}" in capsys.readouterr().err
    monkeypatch.setattr(map_calibration, "calibrated", narrow)
    assert map_as(output, "wide", *CERTIFIED) == 0, "decided once"
    assert mapping(output, "wide")[1]["method"] == "exact"


def test_a_resumed_mapping_keeps_its_margin(output, monkeypatch):
    class Killed(BaseException):
        pass

    compute, calibrated = MapWorker.compute, map_calibration.calibrated

    def killed(self, shard, data):
        if shard[0] == 128:
            raise Killed
        return compute(self, shard, data)

    def never(*args):
        raise AssertionError("calibrated a second time")

    with monkeypatch.context() as patch:
        patch.setattr(MapWorker, "compute", killed)
        with pytest.raises(Killed):
            map_as(output, "c", *CERTIFIED)
    before = mapping(output, "c")[1]
    assert "search" not in before
    write_report(output, mapping="c", som="main")
    assert "with the mapping unfinished" in (output / "report.html").read_text()
    monkeypatch.setattr(map_calibration, "calibrated", never)
    assert map_as(output, "c", *CERTIFIED) == 0
    found, after = mapping(output, "c")
    assert after["calibration"] == before["calibration"]
    assert after["search"]["mapped"] == IMAGES, "the shards of the killed run count"
    monkeypatch.setattr(map_calibration, "calibrated", calibrated)
    assert map_as(output, "whole", *CERTIFIED) == 0
    assert_same_mapping(found, mapping(output, "whole")[0])


def test_rows_that_come_later_are_searched_as_the_mapping_was_begun(output, monkeypatch):
    assert map_as(output, "c", *CERTIFIED) == 0
    root = output.parent / "more"
    root.mkdir()
    for index in range(20):
        fits.PrimaryHDU(double_source(IMAGES + index)).writeto(root / f"{index:03}.fits")
    table = pd.DataFrame({"name": [f"new {i}" for i in range(20)], "filename": [f"{i:03}.fits" for i in range(20)]})
    table["flux"] = 1.0
    table.to_csv(root / "more.csv", index=False)
    assert main(["ingest", "--append", "-i", str(root), "-c", str(root / "more.csv"), "-o", str(output)]) == 0
    monkeypatch.setattr(map_calibration, "calibrated", narrow)
    before = mapping(output, "c")[1]["calibration"]
    assert main(["map", "-o", str(output), "--som-name", "c"]) == 0
    found, attrs = mapping(output, "c")
    assert attrs["calibration"] == before
    assert attrs["search"]["mapped"] == IMAGES + 20
    assert (found["bmu"] >= 0).all()


def test_a_failed_check_makes_its_shard_exact_and_is_counted_and_reported(output, monkeypatch, capsys):
    monkeypatch.setattr(map_calibration, "calibrated", narrow)
    assert map_as(output, "c", *CERTIFIED) == 0
    told = capsys.readouterr().err
    (found, attrs), exact = mapping(output, "c"), mapping(output, "exact")[0]
    shards = events(output, "shard")[-3:]
    failed = [shard for shard in shards if shard["fallback_shards"]]
    assert failed
    assert all((shard["missed"] > 0) == bool(shard["fallback_shards"]) for shard in shards)
    for shard in failed:
        rows = slice(shard["start"], shard["stop"])
        assert found["exact"][rows].all()
        for name in exact:
            assert same(found[name][rows], exact[name][rows]), name
    search, missed = attrs["search"], sum(shard["missed"] for shard in shards)
    assert (search["missed"], search["fallback_shards"]) == (missed, len(failed))
    words = f"{missed} missed, {len(failed)} {'shard' if len(failed) == 1 else 'shards'} searched exactly"
    assert words in told
    assert main(["report", "-o", str(output), "--som-name", "c"]) == 0
    page = (output / "report.html").read_text()
    assert f"{missed} differed" in page
    assert "shards searched exactly because a check failed" in page


def test_two_workers_map_the_same_bit_for_bit(output):
    assert map_as(output, "one", *CERTIFIED, more=("--workers", "1")) == 0
    assert map_as(output, "two", *CERTIFIED, more=("--workers", "2", "--executor", "ray")) == 0
    (one, said), (two, say) = mapping(output, "one"), mapping(output, "two")
    assert_same_mapping(one, two)
    assert said["calibration"] == say["calibration"]
    assert said["search"] == say["search"]


def test_the_kept_neurons_are_the_nearest_and_exact(output):
    assert map_as(output, "best", *CERTIFIED, "map.keep=3") == 0
    (found, attrs), (exact, _) = mapping(output, "best"), mapping(output, "exact")
    assert attrs["exact_neurons"] == 3
    assert found["exact"].shape == (IMAGES, 3)
    assert found["exact"].mean() > 0.9
    assert same(found["neuron"][:, 0], found["bmu"])
    assert (np.diff(found["distance"], axis=1) >= 0).all()
    theirs = np.take_along_axis(exact["distance"], found["neuron"], axis=1)
    np.testing.assert_allclose(found["distance"][found["exact"]], theirs[found["exact"]], rtol=5e-6)
    assert same(found["bmu"], exact["bmu"])


def test_a_part_is_calibrated_on_itself_and_has_the_same_best_neurons(output):
    assert map_as(output, "part", *CERTIFIED, "map.where='flux > 40'") == 0
    (found, attrs), (exact, _) = mapping(output, "part"), mapping(output, "exact")
    rows = np.arange(IMAGES) > 40
    assert attrs["search"]["mapped"] == rows.sum()
    assert same(found["bmu"], np.where(rows, exact["bmu"], -1))
    assert not found["exact"][~rows].any()
    assert map_as(output, "small", *CERTIFIED, "map.where='flux > 60'") == 0
    assert mapping(output, "small")[1]["method"] == "exact", "119 rows are fewer than 4 samples of 32"


def test_the_polar_search_has_distances_of_its_own(output, capsys):
    assert map_as(output, "polar", more=("--method", "polar")) == 0
    (found, attrs), (exact, _) = mapping(output, "polar"), mapping(output, "exact")
    assert attrs["method"] == "polar"
    assert "exact" not in found
    assert np.mean(found["bmu"] == exact["bmu"]) > 0.8
    assert main(["report", "-o", str(output), "--som-name", "polar"]) == 0
    assert "polar search" in (output / "report.html").read_text()


def test_a_mapping_remembers_its_method_and_refuses_another(output, capsys):
    assert main(["map", "-o", str(output), "--som-name", "exact"]) == 0
    recorded = json.loads((output / ".skysom/config.json").read_text())["map:exact"]
    assert not {"map.method", "map.check_share", "map.calibration_images"} & set(recorded), (
        "as before there were others"
    )
    assert main(["map", "-o", str(output), "--som-name", "exact", "--method", "certified"]) == 1
    assert 'map.method: "exact" there, "certified" in this run' in capsys.readouterr().err
    assert map_as(output, "c", *CERTIFIED) == 0
    assert main(["map", "-o", str(output), "--som-name", "c", "--set", "map.check_share=0.1"]) == 1
    assert "map.check_share: 0.5 there, 0.1 in this run" in capsys.readouterr().err


def test_an_export_tells_that_distances_are_approximate(output, tmp_path, capsys):
    assert map_as(output, "c", *CERTIFIED) == 0
    export = ["export-pink", "-o", str(output), "--som-name", "c", "--mapping", str(tmp_path / "m.bin")]
    capsys.readouterr()
    assert main(export) == 0
    assert "distances but those of best-matching units of mapping 'c' are approximate" in capsys.readouterr().err


@given(
    st.integers(1, 2000), st.floats(0.05, 1.0), st.integers(1, 300), st.integers(0, 2**48 - 1)
)  # fmt: skip
def test_a_sample_is_of_the_wanted_rows_and_reads_few_chunks(rows, share, images, seed):
    wanted = np.random.default_rng(rows).random(rows) < share
    found = sample_rows(wanted, images, seed)
    assert len(found) == min(images, wanted.sum())
    assert wanted[found].all()
    assert (np.diff(found) > 0).all()
    assert same(found, sample_rows(wanted, images, seed))
    # Of a chunk with eight wanted rows or more, eight are taken; what is left over may begin another one.
    full = np.bincount(np.flatnonzero(wanted) // 64, minlength=1) >= 8
    taken = np.bincount(found // 64, minlength=len(full))
    assert np.count_nonzero((taken > 0) & (taken < 8) & full) <= 1


def test_every_wanted_row_is_as_likely_in_the_sample():
    wanted = np.ones(640, bool)
    wanted[:60] = False  # a chunk of four rows beside nine of 64
    times = sum(np.isin(np.arange(640), sample_rows(wanted, 64, seed)) for seed in range(600))
    expected = 600 * 64 / wanted.sum()
    assert abs(times[64:].mean() / expected - 1) < 0.02
    assert abs(times[60:64].mean() / expected - 1) < 0.5
    assert times[wanted].min() > 0.5 * expected


def test_a_row_is_checked_for_itself():
    method = Method("certified", check_share=0.1, seed=2**47 + 5)
    whole = method.checked(0, 100_000)
    assert abs(whole.mean() - 0.1) < 0.005
    assert same(method.checked(512, 700), whole[512:700])
    assert not same(Method("certified", check_share=0.1, seed=1).checked(0, 100_000), whole)
    assert not Method("certified", check_share=0.0).checked(0, 1000).any()


def test_what_candidates_cost_grows_with_them_and_shrinks_with_the_map():
    geometry = Geometry.derive(64, 360, True, "circular")
    one = candidate_cost(geometry, 100, 100.0, 0.0)
    assert 0.05 < one < 0.5
    assert candidate_cost(geometry, 100, 200.0, 0.0) == pytest.approx(2 * one)
    assert candidate_cost(geometry, 400, 100.0, 0.0) < one / 2
    assert candidate_cost(geometry, 100, 0.0, 0.4) > 1, "images searched one by one cost more than in blocks"


def test_limit_of_misses_is_that_of_clopper_and_pearson():
    assert Tally(checked=100).miss_limit == pytest.approx(1 - 0.05**0.01)
    assert Tally(checked=100, missed=2).miss_limit == pytest.approx(0.0616, abs=2e-4)
    assert Tally().miss_limit == 1.0


def test_without_interpolation_nothing_is_to_be_certified():
    wanted = load_config().map
    assert affordable(wanted, Geometry.derive(32, 4), 10**6).name == "exact"
    assert affordable(wanted, Geometry.derive(32, 8), 10**6).name == "certified"
    assert affordable(wanted, Geometry.derive(32, 8), 2047).name == "exact"
    assert affordable(load_config(flags={"map.keep": 5}).map, Geometry.derive(32, 8), 10**6).exact_neurons == 5


def test_memory_of_a_certified_mapping_holds_both_searches():
    geometry = Geometry.derive(64, 360, True, "circular")
    sizes = {"neurons": 100, "channels": 1}
    exact = search_memory(geometry, **sizes, method="exact")
    assert exact == projected_memory(geometry, **sizes)
    one = search_memory(geometry, **sizes, method="certified")
    assert exact < one < 3 * exact
    assert search_memory(geometry, **sizes, method="certified", workers=3) == 3 * one
