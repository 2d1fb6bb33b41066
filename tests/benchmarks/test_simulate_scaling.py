"""The simulation against the closed formulas, and what it says of bottlenecks."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from skysom.cluster import costs
from skysom.cluster.costs import BatchCost, Cost, Limits


@pytest.fixture
def simulation(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import simulate_scaling

    return simulate_scaling


@pytest.fixture
def setting(simulation):
    machine = simulation.Machine("node", 4, 1, 4e-3)
    return simulation.Pass(
        machine, 1e-3, 5e-4, 90_000, 700, 1e-3, "ledger", 1e15, 1e15, 1e15, 256, scatter=0.0
    )  # fmt: skip


BATCH = BatchCost(5e-3, 4e-3, 5e-6, 0.02, 0.01, 0.01, 0.03, 1e-3)


def test_one_node_is_the_closed_formula(simulation, setting):
    work = replace(simulation.case(), images=256 * 4 * 100)
    formula = costs.pass_duration(work, Cost(1e-3, 4e-3, 5e-4), costs.map_traffic(work), 4, Limits())
    found = simulation.simulate_pass(setting, [1])[0]
    assert found.images_s == pytest.approx(work.images / formula.seconds, rel=0.02)
    assert found.limit == "workers (search)"


def test_steps_of_a_gpu_worker_overlap(simulation, setting):
    gpu = replace(setting, machine=simulation.Machine("gpu", 4, 3, 1e-5))
    assert simulation.simulate_pass(gpu, [1])[0].images_s == pytest.approx(4 / 1e-3, rel=0.02)


@pytest.mark.parametrize(
    ("change", "rate", "name"),
    [
        ({"store_bytes_s": 4 * 870 * 90_700.0}, 4 * 870, "store"),
        ({"driver_s": 0.1}, 2560, "ledger"),
    ],
)
def test_rates_grow_until_the_bottleneck_which_is_named(simulation, setting, change, rate, name):
    points = simulation.simulate_pass(replace(setting, **change), [1, 2, 4, 8, 16])
    rates = [point.images_s for point in points]
    assert rates[1] > 1.8 * rates[0]
    assert all(later > 0.95 * earlier for earlier, later in pairwise(rates))
    assert rates[-1] == pytest.approx(rate, rel=0.05)
    assert points[-1].limit == name


def test_the_same_seed_gives_the_same(simulation, setting):
    scattered = replace(setting, scatter=0.1)
    one, two = (simulation.simulate_pass(scattered, [2])[0] for _ in range(2))
    assert one == two


@pytest.mark.parametrize("batch", [256, 1000, 4096])
def test_a_batch_on_one_node_is_the_closed_formula(simulation, batch):
    work = simulation.case()
    sizes = {"sums_bytes": work.sums_bytes, "weights_bytes": work.weights_bytes}
    for workers in (1, 3, 8):
        formula = costs.batch_parts(batch, workers, 1, BATCH, **sizes)
        assert simulation.BatchRun(work, BATCH, 1, workers).seconds(batch) == pytest.approx(formula)


def test_more_nodes_of_training_end_at_the_sums(simulation):
    points = simulation.simulate_training(simulation.case(), BATCH, 8, 4096, [1, 2, 4, 8, 16, 32])
    rates = [point.images_s for point in points]
    top = rates.index(max(rates))
    assert 0 < top < 5
    assert points[top + 1].limit in ("sums", "batch too small")
    tree = simulation.simulate_training(simulation.case(), BATCH, 8, 4096, [32], by_node=True)[0]
    assert tree.images_s > rates[-1], "sums that are added up on the way scale further"


def test_transfers_share_a_link(simulation):
    env = simulation.simpy.Environment()
    link = simulation.Link(env, 100.0, 60.0)
    ends = {}

    def send(name, size, start):
        yield env.timeout(start)
        yield link.transfer(size)
        ends[name] = env.now

    env.process(send("one", 120, 0))
    env.process(send("two", 100, 1))
    env.run()
    # One alone for 1 s at 60 a second, then both at 50, then the rest of the second at 60.
    assert ends == {"one": pytest.approx(2.2), "two": pytest.approx(2.2 + 40 / 60)}
