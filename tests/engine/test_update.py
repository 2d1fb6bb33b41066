import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysom.engine import Cartesian, Geometry, Hexagonal, Neighbourhood, Som, train_online
from skysom.engine.errors import EngineError, LatticeError, ShapeError
from skysom.engine.transforms import transform_stack
from skysom.engine.update import OnlineTrainer

GENTLE = Neighbourhood("unity_gaussian", 1.5, 0.2)


def random_case(geometry, images, neurons, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    side = geometry.neuron_side
    pictures = rng.random((images, channels, geometry.image_side, geometry.image_side), np.float32)
    # Sparse, as sources are, so that best transforms are well separated.
    pictures = pictures**4
    return pictures, rng.random((neurons, channels, side, side), np.float32)


def train(geometry, images, som, neighbourhood=GENTLE, **options):
    return train_online(
        images, som, neighbourhood, rotations=geometry.rotations, flip=geometry.flip,
        region=geometry.region, region_side=geometry.region_side, **options,
    )  # fmt: skip


@given(
    st.integers(3, 10),
    st.one_of(st.none(), st.integers(3, 16)),
    st.sampled_from(["quadratic", "circular"]),
    st.sampled_from([1, 4, 8, 12]),
    st.booleans(),
    st.integers(1, 3),
    st.sampled_from(["gaussian", "unity_gaussian", "mexican_hat"]),
    st.sampled_from([Cartesian(3, 2), Cartesian(2, 2, 2), Hexagonal(3), Cartesian(4, periodic=True)]),
)
def test_exact_equals_reference(side, neuron_side, region, rotations, flip, channels, kind, lattice):
    region_side = 3 if neuron_side is not None else None
    geometry = Geometry.derive(side, rotations, flip, region, neuron_side, region_side)
    images, weights = random_case(geometry, 5, lattice.size, channels)
    neighbourhood, som = Neighbourhood(kind, 1.2, 0.2), Som(weights, lattice)
    exact = train(geometry, images, som, neighbourhood)
    plain = train(geometry, images, som, neighbourhood, method="reference")
    np.testing.assert_array_equal(exact.bmu, plain.bmu)
    np.testing.assert_allclose(exact.bmu_distance, plain.bmu_distance, rtol=2e-6)
    np.testing.assert_allclose(exact.som.weights, plain.som.weights, rtol=0, atol=1e-6)


def test_exact_equals_reference_for_360_rotations():
    geometry = Geometry.derive(9, 360, True, "circular")
    images, weights = random_case(geometry, 12, 9)
    exact = train(geometry, images, Som(weights, Cartesian(3, 3)))
    plain = train(geometry, images, Som(weights, Cartesian(3, 3)), method="reference")
    np.testing.assert_allclose(exact.som.weights, plain.som.weights, rtol=0, atol=1e-6)
    assert np.array_equal(exact.bmu, plain.bmu)


def test_one_step_is_the_rule_of_the_specification():
    geometry = Geometry.derive(6, 8)
    images, weights = random_case(geometry, 1, 4, 2)
    lattice, hat = Cartesian(2, 2), Neighbourhood("mexican_hat", 0.8, 0.3)
    found = train(geometry, images, Som(weights, lattice), hat)
    stack, mask = transform_stack(images[0], geometry), geometry.region_mask
    squared = np.array([[((s - w)[:, mask].astype(float) ** 2).sum() for s in stack] for w in weights])
    bmu = squared.min(axis=1).argmin()
    factors = hat.factors(lattice)[bmu]
    assert (factors < 0).any(), "neighbours are pushed away"
    for n in range(4):
        moved = weights[n] - (weights[n] - stack[squared[n].argmin()]) * factors[n]
        np.testing.assert_allclose(found.som.weights[n], moved, rtol=0, atol=1e-6)
    assert found.bmu.tolist() == [bmu]
    assert found.bmu_distance[0] == pytest.approx(np.sqrt(squared.min()), rel=1e-6)


@pytest.mark.parametrize("method", ["exact", "reference"])
def test_blocks_of_images_do_not_matter(method):
    geometry = Geometry.derive(8, 12, region="circular")
    images, weights = random_case(geometry, 33, 6)
    som = Som(weights, Cartesian(3, 2))
    whole = OnlineTrainer(som, GENTLE, geometry, method=method)
    bmu, distance = whole.train(images)
    parts = OnlineTrainer(som, GENTLE, geometry, method=method)
    found = [parts.train(images[a:b]) for a, b in ((0, 1), (1, 15), (15, 32), (32, 33))]
    assert np.array_equal(parts.weights, whole.weights)
    assert np.array_equal(np.concatenate([f[0] for f in found]), bmu)
    assert np.array_equal(np.concatenate([f[1] for f in found]), distance)
    assert np.array_equal(train(geometry, images, som, method=method).som.weights, whole.som.weights)


def test_training_goes_on_where_it_stopped():
    geometry = Geometry.derive(8, 8)
    images, weights = random_case(geometry, 20, 4)
    som = Som(weights, Cartesian(4))
    first = train(geometry, images[:7], som)
    second = train(geometry, images[7:], first.som)
    assert np.array_equal(second.som.weights, train(geometry, images, som).som.weights)


def test_neurons_beyond_the_limit_stay_as_they_are():
    geometry = Geometry.derive(8, 8)
    images, weights = random_case(geometry, 1, 9)
    near = Neighbourhood("unity_gaussian", 2.0, 0.2, max_update_distance=1.5)
    found = train(geometry, images, Som(weights, Cartesian(9)), near)
    distances = Cartesian(9).distances()[found.bmu[0]]
    moved = (found.som.weights != weights).any(axis=(1, 2, 3))
    assert np.array_equal(moved, distances < 1.5)


def test_order_with_repeats():
    geometry = Geometry.derive(8, 8)
    images, weights = random_case(geometry, 5, 4)
    order, som = [4, 0, 0, 3, 4], Som(weights, Cartesian(2, 2))
    found = train(geometry, images, som, order=order)
    assert np.array_equal(found.som.weights, train(geometry, images[order], som).som.weights)
    assert len(found.bmu) == len(found.bmu_distance) == 5
    with pytest.raises(IndexError):
        train(geometry, images, som, order=[5])


@pytest.mark.parametrize("method", ["exact", "reference"])
def test_callback_sees_the_map_after_every_image(method):
    geometry = Geometry.derive(8, 4)
    images, weights = random_case(geometry, 18, 3)
    seen = []

    def callback(step, present):
        seen.append((step, present.copy()))

    found = train(geometry, images, Som(weights, Cartesian(3)), callback=callback, method=method)
    assert [step for step, _ in seen] == list(range(18))
    assert np.array_equal(seen[-1][1], found.som.weights)
    head = train(geometry, images[:4], Som(weights, Cartesian(3)), method=method)
    assert np.array_equal(seen[3][1], head.som.weights)


@pytest.mark.parametrize("method", ["exact", "reference"])
def test_inputs_are_left_alone(method):
    geometry = Geometry.derive(8, 8)
    images, weights = random_case(geometry, 3, 4)
    copies = images.copy(), weights.copy()
    images.flags.writeable = weights.flags.writeable = False
    found = train(geometry, images, Som(weights, Cartesian(4)), method=method)
    assert np.array_equal(images, copies[0])
    assert np.array_equal(weights, copies[1])
    assert not np.shares_memory(found.som.weights, weights)


def test_a_map_of_zeros_and_a_blank_image():
    geometry = Geometry.derive(8, 8)
    images, _ = random_case(geometry, 3, 4)
    images[1] = 0
    zeros = np.zeros((4, 1, geometry.neuron_side, geometry.neuron_side), np.float32)
    exact = train(geometry, images, Som(zeros, Cartesian(4)))
    assert np.isfinite(exact.som.weights).all()
    assert exact.bmu[0] == 0, "equal neurons: the first"


def test_training_draws_the_map_to_the_images():
    geometry = Geometry.derive(10, 12)
    images, weights = random_case(geometry, 4, 4)
    strong = Neighbourhood("unity_gaussian", 0.5, 0.3)
    found = train(geometry, images, Som(weights, Cartesian(4)), strong, order=[0, 1, 2, 3] * 15)
    assert (found.bmu_distance[-4:] < 0.6 * found.bmu_distance[:4]).all()


def test_no_images():
    geometry = Geometry.derive(8, 4)
    images, weights = random_case(geometry, 2, 3)
    found = train(geometry, images[:0], Som(weights, Cartesian(3)))
    assert np.array_equal(found.som.weights, weights)
    assert found.bmu.shape == found.bmu_distance.shape == (0,)


def test_errors():
    geometry = Geometry.derive(8, 4)
    images, weights = random_case(geometry, 2, 3)
    som = Som(weights, Cartesian(3))
    with pytest.raises(EngineError, match="fast"):
        train(geometry, images, som, method="fast")
    with pytest.raises(ShapeError, match="list"):
        train_online([[0.0]], som, GENTLE)
    with pytest.raises(ShapeError, match="2 channels, the map has 1"):
        train(geometry, images.repeat(2, axis=1), som)
    with pytest.raises(LatticeError, match="3 neurons"):
        Som(weights, Cartesian(2))
    with pytest.raises(ShapeError, match=r"9, 9"):
        OnlineTrainer(som, GENTLE, geometry).train(np.zeros((1, 1, 9, 9), np.float32))


@pytest.mark.parametrize("seed", range(4))
def test_rounding_of_the_products_decides_nothing(seed, monkeypatch):
    # On neurons with every symmetry of the grid an image's eight turns and flips are equally good.
    geometry = Geometry(8, 12, 6, rotations=4)
    images, _ = random_case(geometry, 1, 1, seed=seed)
    levels = 0.1 * np.arange(1, 4, dtype=np.float32)
    som = Som(np.ones((3, 1, 12, 12), np.float32) * levels[:, None, None, None], Cartesian(3))
    plain = OnlineTrainer._values
    noise = np.random.default_rng(seed).uniform(-5e-7, 5e-7, (3, 8))

    def rounded(self, *arguments):
        values, scale = plain(self, *arguments)
        return values + noise * scale, scale

    monkeypatch.setattr(OnlineTrainer, "_values", rounded)
    found = train(geometry, images, som)
    factors = GENTLE.factors(som.lattice)[found.bmu[0]]
    first = transform_stack(images[0], geometry)[0]
    for n in range(3):
        moved = som.weights[n] - (som.weights[n] - first) * factors[n]
        np.testing.assert_allclose(found.som.weights[n], moved, rtol=0, atol=1e-6)


def test_the_order_of_memory_does_not_matter():
    geometry = Geometry.derive(12, 8)
    images, weights = random_case(geometry, 6, 4, channels=3)
    som = Som(weights, Cartesian(2, 2))
    last = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert not last.flags.c_contiguous
    np.testing.assert_array_equal(train(geometry, last, som).som.weights, train(geometry, images, som).som.weights)
