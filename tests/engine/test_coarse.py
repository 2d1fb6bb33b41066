import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from skysom.engine import Geometry, polar_kernels
from skysom.engine.certified import CertifiedSearch
from skysom.engine.coarse import GROUPS, LOWEST_ORDERS, CoarseScores
from skysom.engine.errors import EngineError, GeometryError


def pictures(count, channels, side, seed, width):
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((count, channels, side, side), np.float32)
    return gaussian_filter(images, (0, 0, width, width)) if width else images


def every_score(search, images):
    """Scores (N, T, B) of all neurons at all transforms, base rotation 0 set to infinity, and coarse scores."""
    asked = np.ones((len(search.scores.norms), len(images)), bool)
    scored = search.score(images, np.ones(len(images), bool), asked)
    values = search.values(scored).reshape(*asked.shape, -1).transpose(0, 2, 1)
    values[:, :: search.geometry.base_rotations] = np.inf
    inner = np.ascontiguousarray(images.reshape(*images.shape[:2], -1).transpose(1, 2, 0))
    spectra = search.scores.spectra(inner)
    return values, search.coarse(spectra, scored.energies)


@given(
    st.integers(8, 24),
    st.sampled_from([8, 12, 20, 180, 360, 364, 720]),
    st.booleans(),
    st.sampled_from(["quadratic", "circular", "annular"]),
    st.integers(1, 2),
    st.sampled_from([0, 1, 3]),
    st.integers(0, 2**31),
)
def test_no_score_is_below_the_bound(side, rotations, flip, region, channels, width, seed):
    try:
        geometry = Geometry.derive(side, rotations, flip, region, inner_side=side // 3 if region == "annular" else 0)
        _ = geometry.region_mask
    except GeometryError:
        assume(False)
    images = pictures(32, channels, side, seed, width)
    weights = pictures(3, channels, geometry.neuron_side, seed + 1, width)
    search = CertifiedSearch(weights, geometry)
    values, coarse = every_score(search, images)
    rounding = 1e-5 * np.sqrt(search.scores.norms[:, None] * (images.astype(float) ** 2).sum(axis=(1, 2, 3)))
    assert (values.min(axis=1) >= coarse.squared - coarse.bound - rounding).all()
    assert coarse.squared.shape == coarse.transform.shape == coarse.bound.shape == (3, 32)
    assert ((coarse.transform >= 0) & (coarse.transform < geometry.transforms)).all()


def test_the_bound_says_something_of_sources():
    """Wide sources have little beyond the lowest orders: the bound is a few hundredths of |T x| |w|."""
    geometry = Geometry.derive(64, 360, region="circular")
    images, weights = pictures(32, 1, 64, 0, 6), pictures(4, 1, geometry.neuron_side, 1, 6)
    search = CertifiedSearch(weights, geometry)
    values, coarse = every_score(search, images)
    offset = np.arange(64) - 31.5
    disc = images[..., np.hypot(offset[:, None], offset) < 32].astype(float)
    size = np.sqrt(np.outer(search.scores.norms, (disc**2).sum(axis=(1, 2))))
    assert (coarse.bound < 0.05 * size).all()
    # What is named as the best transform is near the best one.
    chosen = np.take_along_axis(values, coarse.transform[:, None], axis=1)[:, 0]
    turned = coarse.transform % geometry.base_rotations > 0
    assert turned.mean() > 0.8
    assert (np.abs(chosen - coarse.squared)[turned] < 0.02 * size[turned]).all()


def test_all_orders_at_all_angles_leave_nothing_to_bound():
    geometry = Geometry.derive(12, 8)
    weights = pictures(2, 1, geometry.neuron_side, 1, 1)
    search = CertifiedSearch(weights, geometry, band=8)
    assert LOWEST_ORDERS > 8
    values, coarse = every_score(search, pictures(32, 1, 12, 0, 1))
    assert not coarse.bound.any()
    np.testing.assert_allclose(coarse.squared, values.min(axis=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_groups_of_rings_do_not_mix_channels(channels):
    geometry = Geometry.derive(40, 8)
    search = CertifiedSearch(pictures(2, channels, geometry.neuron_side, 1, 1), geometry)
    coarse = CoarseScores(search.scores)
    count = len(search.scores.table)
    assert len(coarse.groups) <= GROUPS * channels
    assert set(range(0, channels * count, count)) <= set(coarse.groups.tolist())


@pytest.mark.parametrize("rotations", [8, 180, 184, 360, 364, 720])
def test_the_least_energies_are_those_of_all_rotations_nearer_than_a_step(rotations):
    geometry = Geometry.derive(9, rotations)
    rng = np.random.default_rng(0)
    coarse = CertifiedSearch(
        rng.random((1, 1, geometry.neuron_side, geometry.neuron_side), np.float32), geometry
    ).coarse
    bases, step = geometry.base_rotations, coarse.step
    energies = rng.random((8, bases, 2), np.float32)
    found = coarse._least(energies)
    for flip in range(2):
        line = energies[4 * flip : 4 * flip + 4].reshape(4 * bases, 2).copy()
        line[::bases] = np.inf  # base rotation 0 is not bounded
        for quarter in range(4):
            for place in range(found.shape[1]):
                at = quarter * bases + place * step
                near = np.arange(at - step + 1, at + step)
                near = near[near < (quarter + 1) * bases] % len(line)
                assert (found[4 * flip + quarter, place] <= line[near].min(axis=0)).all()


@pytest.mark.parametrize("rotations", [8, 360, 364, 720])
@pytest.mark.parametrize("order", [1, 2, 4, 15, 16, 47])
def test_one_wave_on_one_ring_reaches_the_bound(rotations, order):
    geometry, rng = Geometry.derive(20, rotations, flip=False), np.random.default_rng(order)
    search = CertifiedSearch(
        rng.random((1, 1, geometry.neuron_side, geometry.neuron_side), np.float32), geometry, band=48
    )
    scores, place = search.scores, np.flatnonzero(search.scores.table.orders == order)[0]
    scores.coefficients[:] = 0
    scores.coefficients[0, place, 0, 5] = 1
    apart = np.zeros((32, *scores.coefficients.shape[1:]), np.float32)
    phase = np.linspace(0, 2 * np.pi, 32)
    apart[:, place, 0, 5], apart[:, place, 1, 5] = np.cos(phase), np.sin(phase)
    energies = np.zeros((8, geometry.base_rotations, 32), np.float32)
    energies[1:] = 10  # one quarter only: in another the angles lie otherwise between the peaks
    coarse = CoarseScores(scores)(np.ascontiguousarray(apart.transpose(1, 2, 3, 0)), energies)
    coefficients = search._correlate(apart, np.zeros(32, int), np.arange(32))
    values = np.empty((32, geometry.transforms), np.float32)
    polar_kernels.scores_of_pairs(
        coefficients, *search.steering, energies.transpose(2, 0, 1).copy(), np.arange(32), values
    )
    values[:, :: geometry.base_rotations] = np.inf
    missing = coarse.squared[0] - scores.norms[0] - values.min(axis=1)
    assert (missing <= coarse.bound[0] + 1e-5).all()
    if order < 16 and rotations > 8:
        assert missing.max() > 0.55 * coarse.bound.max()
    if order >= 16:
        assert missing.max() > 0.45 * coarse.bound.max()


def test_the_lowest_orders_do_not_sample_images():
    geometry = Geometry.derive(20, 8)
    search = CertifiedSearch(pictures(2, 1, geometry.neuron_side, 1, 1), geometry)
    with pytest.raises(EngineError, match="lowest 16 orders"):
        search.coarse.low.spectra(np.zeros((1, 400, 32), np.float32))


def test_squares_beyond_float32_discard_nothing():
    geometry = Geometry.derive(20, 8)
    weights = pictures(3, 1, geometry.neuron_side, 1, 1)
    weights[2, 0, geometry.neuron_side // 2, geometry.neuron_side // 2] = 1e20
    images = pictures(4, 1, 20, 0, 1)
    search = CertifiedSearch(weights, geometry)
    np.testing.assert_array_equal(search(images).bmu, search.exact(images, alone=True).bmu)
