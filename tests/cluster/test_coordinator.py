"""Batched training on crews: the same bits for any number of workers, and with lost ones."""

import importlib.util
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from skysom.cluster.coordinator import Coordinator, Schedule
from skysom.cluster.errors import PassError
from skysom.cluster.ray_executor import start_ray
from skysom.cluster.training_crew import LocalCrew, RayCrew
from skysom.cluster.training_worker import Piece, Step, TrainingWorker
from skysom.engine import Cartesian, Geometry, Neighbourhood, Som, train_batched
from skysom.engine.order import batches, windows

_spec = importlib.util.spec_from_file_location("training_sources", Path(__file__).with_name("training_sources.py"))
sources = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sources)

GEOMETRY, LATTICE = Geometry.derive(8, 8, region="circular"), Cartesian(3, 2)
GENTLE = Neighbourhood("unity_gaussian", 1.0, 0.1)
RNG = np.random.default_rng(0)
IMAGES = (RNG.random((300, 1, 8, 8)) ** 4).astype(np.float32)
WEIGHTS = RNG.random((6, 1, GEOMETRY.neuron_side, GEOMETRY.neuron_side)).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def _sources_travel():
    """Ray pickles the sources by value: their module is not importable in another process."""
    start_ray(8, None)
    from ray import cloudpickle

    sys.modules["training_sources"] = sources
    cloudpickle.register_pickle_by_value(sources)
    yield
    cloudpickle.unregister_pickle_by_value(sources)
    del sys.modules["training_sources"]


def schedule(mode="affine", batch_size=64, window_images=65536, epochs=2):
    step = Step(GEOMETRY, GENTLE.factors(LATTICE), mode, GENTLE.rate)
    return Schedule(step, batch_size, epochs, (5, 4, 0), window_images)


def trained(crew, plan, **start):
    """All the coordinator yields."""
    try:
        return list(Coordinator(crew, len(IMAGES)).train(start.pop("weights", WEIGHTS), plan, **start))
    finally:
        crew.close()


def local():
    return LocalCrew(partial(TrainingWorker, partial(np.take, IMAGES, axis=0)))


def on_ray(workers, source=None, **limits):
    source = source or partial(np.take, IMAGES, axis=0)
    return RayCrew(partial(TrainingWorker, source), workers, deadline_s=60, start_deadline_s=60, **limits)


@pytest.mark.parametrize("mode", ["affine", "kohonen"])
@pytest.mark.parametrize("window_images", [65536, 128])
def test_it_computes_what_the_engine_computes_in_one_process(mode, window_images):
    plan = schedule(mode, window_images=window_images)
    found = trained(local(), plan)
    order = []
    for epoch in range(2):
        for window in windows(300, window_images, plan.name, epoch):
            for batch in batches(window, 64, plan.name, epoch):
                order.append(np.concatenate([window.block(int(j)) for j in batch]))
    assert [len(batch.bmu_distance) for batch in found] == [len(part) for part in order]
    som = Som(WEIGHTS, LATTICE)
    for part, batch in zip(order, found, strict=True):
        one = train_batched(
            IMAGES, som, GENTLE, batch_size=64, mode=mode, rotations=8, region="circular", order=[*part, *part]
        )  # twice, so that no batch is the whole epoch; the first one is compared
        assert np.array_equal(one.bmu_distance[: len(part)], batch.bmu_distance) or len(part) < 64
        som = Som(batch.weights, LATTICE)
    assert found[-1].epoch == 1
    assert found[-1].seen == 300


@pytest.mark.parametrize(("workers", "window_images"), [(1, 65536), (2, 65536), (3, 128), (8, 65536)])
def test_any_number_of_workers_gives_the_same_bits(workers, window_images):
    plan = schedule(window_images=window_images)
    expected = trained(local(), plan)
    found = trained(on_ray(workers), plan)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.weights, other.weights)
        assert np.array_equal(one.bmu_distance, other.bmu_distance)
        assert (one.epoch, one.seen) == (other.epoch, other.seen)
    used = set().union(*(batch.seats for batch in found))
    assert used == set(range(workers)), "some workers had nothing to do: the case tests less than it says"


@pytest.mark.parametrize("batch", [0, 3, 7])
def test_training_continues_after_any_batch(batch):
    plan = schedule(window_images=128)
    expected = trained(local(), plan)
    at = expected[batch]
    rest = trained(local(), plan, weights=at.weights, epoch=at.epoch, seen=at.seen)
    assert len(rest) == len(expected) - batch - 1
    assert np.array_equal(rest[-1].weights, expected[-1].weights)


class Wandering(LocalCrew):
    """Workers in this process whose seats change from batch to batch; ``told`` is what each was to hold."""

    def __init__(self, seats):
        self.workers = {seat: TrainingWorker(partial(np.take, IMAGES, axis=0)) for seat in range(4)}
        self.plan, self.told = iter(seats), []
        self.now = [0, 1]

    def seats(self):
        return self.now

    def tell(self, method, arguments):
        self.told.append(sorted(arguments))
        for seat, values in arguments.items():
            getattr(self.workers[seat], method)(*values)

    def ask(self, method, arguments):
        for key, values in arguments.items():
            yield key, key, getattr(self.workers[key], method)(*values)
        if method == "add":
            self.now = next(self.plan, self.now)

    def close(self):
        for worker in self.workers.values():
            worker.close()


def test_workers_that_come_and_go_are_told_what_to_hold_and_change_nothing():
    plan = schedule(epochs=1)
    crew = Wandering([[0, 1], [1], [1, 2, 3], [1, 2, 3]])
    found = trained(crew, plan)
    assert crew.told == [[0, 1], [1], [1, 2, 3]]
    assert set(found[3].seats) <= {1, 2, 3}
    assert np.array_equal(found[-1].weights, trained(local(), plan)[-1].weights)


def test_the_death_of_a_worker_is_not_charged_to_the_one_that_replaced_it():
    crew = object.__new__(RayCrew)
    crew._actors, crew._live, crew._hire = {0: "new"}, {0}, None
    crew._lose(0, "old")
    assert crew._live == {0}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_that_are_not_finite_stop_it(value):
    images = IMAGES.copy()
    images[7, 0, 3, 3] = value
    crew = LocalCrew(partial(TrainingWorker, partial(np.take, images, axis=0)))
    with pytest.raises(PassError, match="1 of the 64 images of a batch have no finite distance"):
        trained(crew, schedule())


def test_what_is_no_longer_expected_is_not_read():
    reads = []

    def read(places):
        reads.append(places)
        time.sleep(0.2)
        return IMAGES[places]

    worker, (one, other) = TrainingWorker(read), windows(300, 192, (5, 4, 0), 0)
    worker.expect(one, np.arange(2), other, np.arange(2))
    worker.expect(one, np.arange(2))
    step = Step(GEOMETRY, GENTLE.factors(LATTICE), "affine", 0.1)
    worker.search(Piece(0, (0, 1), (0, 32)), one, WEIGHTS, step)
    worker.close()
    assert len(reads) == 1


@pytest.mark.parametrize("after", [0, 3, 5])
def test_a_killed_worker_changes_nothing(tmp_path, after):
    plan = schedule(window_images=128)
    expected = trained(local(), plan)
    found = trained(on_ray(2, sources.Deadly(IMAGES, tmp_path / "killed", after)), plan)
    assert (tmp_path / "killed").exists(), "nobody was killed"
    assert np.array_equal(found[-1].weights, expected[-1].weights)


def test_workers_that_die_again_and_again_end_it_with_a_reason(tmp_path):
    crew = on_ray(1, sources.Deadly(IMAGES, tmp_path / "killed", 0, always=True))
    with pytest.raises(PassError, match=r"failed 3 times .*the death of its worker process"):
        trained(crew, schedule())


def test_a_store_that_is_away_for_a_while_is_tried_again(tmp_path):
    plan = schedule()
    for crew in (
        on_ray(2, sources.Flaky(IMAGES, tmp_path / "a", 2)),
        LocalCrew(partial(TrainingWorker, sources.Flaky(IMAGES, tmp_path / "b", 2))),
    ):
        assert np.array_equal(trained(crew, plan)[-1].weights, trained(local(), plan)[-1].weights)
    with pytest.raises(PassError, match=r"failed 3 times .*OSError: the store is away.*last checkpoint"):
        trained(on_ray(2, sources.Flaky(IMAGES, tmp_path / "c", 99)), plan)


def test_no_room_for_any_worker_is_said_in_time():
    import ray

    crew = RayCrew(partial(TrainingWorker, partial(np.take, IMAGES, axis=0)), 1, gpus_per_worker=1, start_deadline_s=1)
    assert ray.cluster_resources().get("GPU", 0) == 0
    with pytest.raises(PassError, match=r"no training worker started in 1 s: .* 0 free GPUs, 1 workers are wanted"):
        trained(crew, schedule())
