"""The cost model against known numbers and against the engine's own formulas."""

import math
from dataclasses import replace

import pytest

from skysom.cluster import costs
from skysom.cluster.costs import BatchCost, Cost, Limits, Traffic, Workload
from skysom.engine import Geometry
from skysom.engine.memory import projected_memory

SURVEY = Workload(40_000_000, 1, 150, 100, Geometry.derive(150, 360, True, "quadratic"))
BATCH = BatchCost(5e-3, 4e-3, 5e-6, 0.02, 0.01, 0.01, 0.03, 1e-3)
SIZES = {"sums_bytes": SURVEY.sums_bytes, "weights_bytes": SURVEY.weights_bytes}


@pytest.mark.parametrize(("region", "operations"), [("quadratic", 0.303e9), ("circular", 0.478e9)])
def test_operations_of_the_survey_case(region, operations):
    geometry = Geometry.derive(150, 360, True, region)
    assert costs.search_operations(geometry, neurons=100) == pytest.approx(operations, rel=2e-3)
    assert costs.search_operations(geometry, neurons=50, channels=2) == costs.search_operations(geometry, neurons=100)


def test_shards_are_counted_with_the_last_partial_one():
    assert SURVEY.shards == 156_250
    assert replace(SURVEY, images=40_000_001).shards == 156_251


def test_bytes_of_the_survey_case():
    assert costs.ingest_traffic(SURVEY).read == 40_000_000 * 150 * 150 * 4
    assert costs.ingest_traffic(replace(SURVEY, store="none")).written == 40_000_000 * costs.INGEST_COLUMN_BYTES
    assert costs.mapping_bytes(SURVEY) == 40_000_000 * (100 * 7 + 11)
    assert costs.mapping_bytes(replace(SURVEY, keep=5)) == 40_000_000 * (5 * 11 + 11)
    half = costs.preprocess_traffic(replace(SURVEY, store="float16"))
    assert half.written == pytest.approx(costs.preprocess_traffic(SURVEY).written / 2, rel=1e-3)


def test_memory_of_a_worker_is_the_search_and_its_shards():
    search = projected_memory(SURVEY.geometry, neurons=100, channels=1)
    assert costs.map_memory(SURVEY) - search == 256 * (3 * 90_000 + 90_000)
    more = replace(SURVEY, shard_images=512)
    assert costs.map_memory(more) - search == 2 * (costs.map_memory(SURVEY) - search)


def test_one_core_adds_its_steps_and_a_gpu_overlaps_them():
    cost, traffic = Cost(1e-3, 4e-3, 2e-3), Traffic(0, 0)
    work = replace(SURVEY, images=2560)
    assert costs.pass_duration(work, cost, traffic, 1, Limits()).seconds == pytest.approx(2560 * 7e-3)
    alone = costs.pass_duration(work, cost, traffic, 1, Limits(), overlapped=True)
    assert alone.seconds == pytest.approx(2560 * 4e-3)
    # Ten shards among four workers are three rounds.
    assert costs.pass_duration(work, cost, traffic, 4, Limits()).seconds == pytest.approx(3 * 256 * 7e-3)


@pytest.mark.parametrize(
    ("limits", "name", "seconds"),
    [(Limits(None, 0.0), "workers", 4.0), (Limits(1e6, 0.0), "store", 30.0), (Limits(1e6, 10.0), "ledger", 100.0)],
)
def test_the_slowest_of_workers_store_and_ledger_is_named(limits, name, seconds):
    work = replace(SURVEY, images=2560)
    found = costs.pass_duration(work, Cost(0, 1 / 64, 0), Traffic(10_000_000, 20_000_000), 10, limits)
    assert (found.limit, found.seconds) == (name, pytest.approx(seconds))


def test_parts_of_a_batch_by_hand():
    parts = costs.batch_parts(1000, 1, 1, BATCH, **SIZES)
    assert parts["search"] == pytest.approx(1024 * 5e-3 + 1000 * 4e-3 + 0.02 + 2e-3)
    assert parts["coefficients"] == pytest.approx(2 * 1000 * 5e-6)
    assert parts["sums"] == pytest.approx(0.01)
    assert parts["map"] == pytest.approx(0.04)
    many = costs.batch_parts(1024, 64, 4, BATCH, **SIZES)
    network = BATCH.network_bytes_s
    assert many["sums"] == pytest.approx(32 * 0.01 + 24 * SURVEY.sums_bytes / network)  # 32 blocks, 8 on this machine
    assert many["map"] == pytest.approx(0.04 + 2 * SURVEY.weights_bytes / network)


def test_the_best_number_of_workers_grows_with_the_batch():
    best = [costs.best_workers(batch, 64, 16, BATCH, **SIZES) for batch in (64, 1024, 16384)]
    assert best[0] <= 2 < best[1] < best[2] <= 64
    assert costs.best_workers(16384, 4, 4, BATCH, **SIZES) == 4


def test_training_memory_counts_what_is_held():
    recipe = [(SURVEY.geometry, 1024)]
    sizes = {"neurons": SURVEY.neurons, "channels": SURVEY.channels, "window": 1024}
    small, large = (costs.train_memory(recipe, **sizes, rows=rows, workers=2) for rows in (1024, 2048))
    assert large - small == 1024 * 90_000
    assert costs.train_memory(recipe, **sizes, rows=10**6, workers=2) == large, "two windows, however many images"
    online = costs.train_memory([(SURVEY.geometry, 1)], **sizes, rows=10**6, workers=1)
    assert online > 10**6 * 90_000, "online training holds all of its images"


def test_a_gpu_follows_from_operations_and_bytes():
    operations = costs.search_operations(SURVEY.geometry, neurons=100)
    gpu = costs.on_gpu(BATCH, operations, **SIZES)
    assert gpu.search_s == pytest.approx(5e-6, rel=0.02)
    assert gpu.update_s == pytest.approx(2 * 8 * 100 * 213**2 / 3e12)
    assert gpu.coefficient_s == BATCH.coefficient_s, "what the host does stays"
    assert math.isclose(gpu.add_s, BATCH.add_s)
